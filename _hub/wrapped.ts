/**
 * Errors that wrap other errors: of `Promise.any`, of `using`, or with a `cause`. And events that
 * tell of an error: `socket.onerror = reject` passes one on.
 *
 * @module
 */

import { isObject } from "../_base/checks.ts";
import { GreenletError } from "../greenlet.ts";

/** Tells whether an error is of the kind that is searched for. */
type Is = (error: unknown) => boolean;

/**
 * - `several`: an `AggregateError`
 * - `suppressed`: a `SuppressedError`
 * - `cause`: an error with a `cause`, or the event `error`
 */
type Kind = "several" | "suppressed" | "cause";

/** The errors that an error wraps. */
interface Wrapping {
  readonly kind: Kind;
  readonly errors: unknown[];
}

/**
 * Searches an error for a wrapped error that it stands for: any of an `AggregateError` or of a
 * `SuppressedError`, or the `cause` of another error.
 *
 * @param is Tells whether an error is one that is looked for.
 * @returns The error that was found, in an array of one; `null` if none was.
 */
export function findWrapped(error: unknown, is: Is): [unknown] | null {
  // Nearly all errors wrap nothing.
  if (is(error)) return [error];
  return wraps(error) ? find(error, is, new Set()) : null;
}

function find(
  error: unknown,
  is: Is,
  seen: Set<unknown>,
): [unknown] | null {
  for (;;) {
    if (is(error)) return [error];
    const wrapping = wrappingOf(error, seen);
    if (wrapping === null) return null;
    // A chain of causes may be longer than the stack is deep.
    if (wrapping.kind === "cause") error = wrapping.errors[0];
    else return findAmong(wrapping.errors, is, seen);
  }
}

function findAmong(
  errors: unknown[],
  is: Is,
  seen: Set<unknown>,
): [unknown] | null {
  for (const inner of errors) {
    const one = find(inner, is, seen);
    if (one !== null) return one;
  }
  return null;
}

/**
 * Calls `visit` with the errors that an error wraps beside those of the kind that is searched for,
 * in order: the other errors of an `AggregateError` or a `SuppressedError`. An error whose `cause`
 * is of the kind stands for it, and is not visited.
 *
 * @param is Tells whether an error is one that is looked for.
 */
export function eachBeside(
  error: unknown,
  is: Is,
  visit: (error: unknown) => void,
): void {
  const seen = new Set<unknown>();
  const rest = [error];
  while (rest.length > 0) {
    const one = rest.pop();
    const errors = errorsAtEnd(one, is, seen);
    if (errors === null) continue;
    if (findAmong(errors, is, new Set()) === null) visit(one);
    else for (let i = errors.length - 1; i >= 0; i--) rest.push(errors[i]);
  }
}

/**
 * Follows a chain of causes, and returns the errors that its last error wraps; `null` if the chain
 * leads to an error of the kind, or to one that was seen.
 */
function errorsAtEnd(
  error: unknown,
  is: Is,
  seen: Set<unknown>,
): unknown[] | null {
  for (;;) {
    if (is(error) || seen.has(error)) return null;
    const wrapping = wrappingOf(error, seen);
    if (wrapping === null) return [];
    if (wrapping.kind !== "cause") return wrapping.errors;
    error = wrapping.errors[0];
  }
}

/** Calls `visit` with an error and with each error that it wraps, once. */
export function eachWrapped(
  error: unknown,
  visit: (error: unknown) => void,
): void {
  visit(error);
  if (!wraps(error)) return;
  const seen = new Set<unknown>();
  const rest = [...wrappingOf(error, seen)?.errors ?? []];
  while (rest.length > 0) {
    const one = rest.pop();
    if (seen.has(one)) continue;
    visit(one);
    for (const inner of wrappingOf(one, seen)?.errors ?? []) rest.push(inner);
  }
}

/**
 * Whether an error is of the kind that is searched for, or wraps such errors and no others.
 *
 * @param is Tells whether an error is one that is looked for.
 */
export function consistsOf(error: unknown, is: Is): boolean {
  const seen = new Set<unknown>();
  const rest = [error];
  let found = false;
  while (rest.length > 0) {
    const one = rest.pop();
    if (is(one)) {
      found = true;
      continue;
    }
    const known = seen.has(one);
    const wrapping = wrappingOf(one, seen);
    if (wrapping === null && !known) return false;
    for (const inner of wrapping?.errors ?? []) rest.push(inner);
  }
  return found;
}

/** Whether an error wraps others. Decided by its properties, as its class may differ. */
function wraps(error: unknown): error is Partial<AllWrapping> {
  if (!isObject(error)) return false;
  try {
    // A `GreenletError` with a `cause` reports on another greenlet, and does not stand for the
    // cause.
    return ("cause" in error || "errors" in error || "error" in error) &&
      !(error instanceof GreenletError);
  } catch {
    // A proxy whose traps throw wraps nothing.
    return false;
  }
}

type AllWrapping = SuppressedError & AggregateError & ErrorEvent;

/** The errors that an error wraps; `null` if there are none, or if it was seen before. */
function wrappingOf(error: unknown, seen: Set<unknown>): Wrapping | null {
  if (!isObject(error) || seen.has(error)) return null;
  seen.add(error);
  if (!wraps(error)) return null;
  try {
    return read(error, seen);
  } catch {
    // A getter that throws wraps nothing.
    return null;
  }
}

function read(
  error: Partial<AllWrapping>,
  seen: Set<unknown>,
): Wrapping | null {
  if (isSuppressed(error)) return readSuppressed(error, seen);
  const { errors, cause } = error;
  if (Array.isArray(errors) && errors.length > 0) {
    return {
      kind: "several",
      errors: "cause" in error ? [...errors, cause] : [...errors],
    };
  }
  if ("cause" in error) return { kind: "cause", errors: [cause] };
  return isErrorEvent(error) ? { kind: "cause", errors: [error.error] } : null;
}

/** Reads the errors of nested `SuppressedError`s in a loop, as they may be very many. */
function readSuppressed(error: SuppressedError, seen: Set<unknown>): Wrapping {
  const errors: unknown[] = [error.error];
  let { suppressed } = error;
  while (isObject(suppressed) && isSuppressed(suppressed)) {
    if (seen.has(suppressed)) break;
    seen.add(suppressed);
    errors.push(suppressed.error);
    suppressed = suppressed.suppressed;
  }
  errors.push(suppressed);
  return { kind: "suppressed", errors };
}

/** Whether it is an event that tells of an error, of the web's class or of a package's. */
function isErrorEvent(error: object): error is ErrorEvent {
  return "error" in error && Reflect.get(error, "type") === "error";
}

function isSuppressed(error: object): error is SuppressedError {
  return "suppressed" in error && "error" in error;
}
