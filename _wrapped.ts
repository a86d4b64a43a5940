/**
 * What errors are wrapped in: by `Promise.any`, by `using`, or by whatever sets a `cause`.
 *
 * @module
 */

import { GreenletError } from "./greenlet.ts";

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
  return find(error, is, new Set());
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
  const seen = new Set<unknown>();
  const rest = [error];
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

/**
 * What an error wraps; `null` if it wraps nothing, or was seen before, as it may be its own
 * cause. By its properties and not by its class, which may be missing, or another realm's.
 */
function wrappingOf(error: unknown, seen: Set<unknown>): Wrapping | null {
  if (!isObject(error) || seen.has(error)) return null;
  seen.add(error);
  try {
    // What explains an interrupt of another greenlet is an error of its own.
    return error instanceof GreenletError ? null : read(error);
  } catch {
    // A property that can't be read wraps nothing.
    return null;
  }
}

function read(
  error: Partial<SuppressedError & AggregateError>,
): Wrapping | null {
  if ("suppressed" in error && "error" in error) {
    return { kind: "all", errors: [error.error, error.suppressed] };
  }
  const { errors, cause } = error;
  if (Array.isArray(errors) && errors.length > 0) {
    return {
      kind: "any",
      errors: "cause" in error ? [...errors, cause] : [...errors],
    };
  }
  return "cause" in error ? { kind: "cause", errors: [cause] } : null;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}
