/**
 * What errors are wrapped in: by `Promise.any`, by `using`, or by whatever sets a `cause`.
 *
 * @module
 */

import { isObject } from "../_base/checks.ts";
import { GreenletError } from "../greenlet.ts";

/** Tells whether an error is one that is looked for. */
type Is = (error: unknown) => boolean;

/**
 * - `any`: of an `AggregateError`, as each of its errors has ended it
 * - `all`: of a `SuppressedError`, as the later error was thrown in spite of the earlier
 * - `cause`
 */
type Kind = "any" | "all" | "cause";

/** What an error wraps. */
interface Wrapping {
  readonly kind: Kind;
  readonly errors: unknown[];
}

/**
 * Looks into an error, for one that it is to be taken for: any of an `AggregateError`, the
 * `cause` of any other, or a `SuppressedError`'s, if both of its errors are such.
 *
 * @param is Whether it is one that is looked for.
 * @returns What was found, in an array of one; `null` if nothing was.
 */
export function findWrapped(error: unknown, is: Is): [unknown] | null {
  // Nearly all are what they are.
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
    else return findAmong(wrapping, is, seen);
  }
}

function findAmong(
  { kind, errors }: Wrapping,
  is: Is,
  seen: Set<unknown>,
): [unknown] | null {
  let found: [unknown] | null = null;
  for (const inner of errors) {
    const one = find(inner, is, seen);
    if (kind === "all" && one === null) return null;
    if (kind === "any" && one !== null) return one;
    found ??= one;
  }
  return found;
}

/** Calls `visit` with an error and with all that it wraps, each once. */
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
 * Whether an error consists of nothing but such as are looked for: it is one of them, or
 * wraps some and nothing else.
 *
 * @param is Whether it is one that is looked for.
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

/** Whether an error wraps others: by its properties, as its class may be missing. */
function wraps(error: unknown): error is Partial<AllWrapping> {
  if (!isObject(error)) return false;
  try {
    // What explains an interrupt of another greenlet is an error of its own.
    return ("cause" in error || "errors" in error || "suppressed" in error) &&
      !(error instanceof GreenletError);
  } catch {
    // Where that can't be read, it is none that was made to wrap.
    return false;
  }
}

type AllWrapping = SuppressedError & AggregateError;

/** What an error wraps; `null` if it wraps nothing, or was seen: it may be its own cause. */
function wrappingOf(error: unknown, seen: Set<unknown>): Wrapping | null {
  if (!isObject(error) || seen.has(error)) return null;
  seen.add(error);
  if (!wraps(error)) return null;
  try {
    return read(error, seen);
  } catch {
    // A property that can't be read wraps nothing.
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
      kind: "any",
      errors: "cause" in error ? [...errors, cause] : [...errors],
    };
  }
  return "cause" in error ? { kind: "cause", errors: [cause] } : null;
}

/** All that was thrown on the way out of nested blocks, which may be very many. */
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
  return { kind: "all", errors };
}

function isSuppressed(error: object): error is SuppressedError {
  return "suppressed" in error && "error" in error;
}
