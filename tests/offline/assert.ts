/**
 * Stands in for `@std/assert` where JSR can't be reached: the assertions that
 * the tests use, with the same names, signatures and verdicts. A test that
 * passes with one of the two must pass with the other; only the wording of the
 * messages differs.
 *
 * @module
 */

import { AssertionError as NodeAssertionError } from "node:assert";
import {
  inspect,
  isDeepStrictEqual,
  stripVTControlCharacters,
} from "node:util";

// deno-lint-ignore no-explicit-any
type AbstractConstructor<T> = abstract new (...args: any[]) => T;

/** The error of every assertion here. */
export class AssertionError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "AssertionError";
  }
}

/** A value that counts as false. */
export type Falsy = false | 0 | 0n | "" | null | undefined;

/** An array-like object that is not a string. */
export type ArrayLikeArg<T> = ArrayLike<T> & object;

/** Asserts that `expr` is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

/** Asserts that `expr` is falsy. */
export function assertFalse(expr: unknown, msg = ""): asserts expr is Falsy {
  if (expr) throw new AssertionError(msg);
}

/** Asserts that two values are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  throw new AssertionError(
    `Values are not equal${suffix(msg)}\n${difference(actual, expected)}`,
  );
}

/** Asserts that two values are not deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!equal(actual, expected)) return;
  throw new AssertionError(
    `Expected actual: ${show(actual)} not to be: ${show(expected)}${
      suffix(msg)
    }`,
  );
}

/** Asserts that two values are the same, as `Object.is` sees it. */
export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  msg?: string,
): asserts actual is T {
  if (Object.is(actual, expected)) return;
  throw new AssertionError(
    `Values are not strictly equal${suffix(msg)}\n${
      difference(actual, expected)
    }`,
  );
}

/** Asserts that two values are not the same, as `Object.is` sees it. */
export function assertNotStrictEquals<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (!Object.is(actual, expected)) return;
  throw new AssertionError(
    `Expected "actual" to not be strictly equal to: ${show(actual)}${
      suffix(msg)
    }`,
  );
}

/** Asserts that two numbers differ by no more than `tolerance`. */
export function assertAlmostEquals(
  actual: number,
  expected: number,
  tolerance: number = Number.isFinite(expected)
    ? Math.abs(expected * 1e-7)
    : 1e-7,
  msg?: string,
): void {
  if (Object.is(actual, expected)) return;
  const delta = Math.abs(expected - actual);
  if (delta <= tolerance) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to be close to "${expected}": delta "${delta}" is greater than "${tolerance}"${
      suffix(msg)
    }`,
  );
}

/** Asserts that `actual > expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (actual > expected) return;
  throw new AssertionError(msg ?? `Expect ${show(actual)} > ${show(expected)}`);
}

/** Asserts that `actual >= expected`. */
export function assertGreaterOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual >= expected) return;
  throw new AssertionError(
    msg ?? `Expect ${show(actual)} >= ${show(expected)}`,
  );
}

/** Asserts that `actual < expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (actual < expected) return;
  throw new AssertionError(msg ?? `Expect ${show(actual)} < ${show(expected)}`);
}

/** Asserts that `actual <= expected`. */
export function assertLessOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual <= expected) return;
  throw new AssertionError(
    msg ?? `Expect ${show(actual)} <= ${show(expected)}`,
  );
}

/** Asserts that `actual` is neither `null` nor `undefined`. */
export function assertExists<T>(
  actual: T,
  msg?: string,
): asserts actual is NonNullable<T> {
  if (actual !== undefined && actual !== null) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not be null or undefined${suffix(msg)}`,
  );
}

/** Asserts that `actual` is an instance of `expectedType`. */
export function assertInstanceOf<
  // deno-lint-ignore no-explicit-any
  T extends abstract new (...args: any[]) => any,
>(
  actual: unknown,
  expectedType: T,
  msg = "",
): asserts actual is InstanceType<T> {
  if (actual instanceof expectedType) return;
  throw new AssertionError(
    `Expected object to be an instance of "${expectedType.name}" but was ${
      show(actual)
    }${suffix(msg)}`,
  );
}

/** Asserts that `actual` is not an instance of `unexpectedType`. */
export function assertNotInstanceOf<A, T>(
  actual: A,
  unexpectedType: AbstractConstructor<T>,
  msg?: string,
): asserts actual is Exclude<A, T> {
  if (!(actual instanceof unexpectedType)) return;
  throw new AssertionError(
    `Expected object to not be an instance of "${unexpectedType.name}"${
      suffix(msg)
    }`,
  );
}

/** Asserts that `error` is an error of the class and with the message given. */
export function assertIsError<E extends Error = Error>(
  error: unknown,
  ErrorClass?: AbstractConstructor<E>,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) {
    throw new AssertionError(
      `Expected "error" to be an Error object${suffix(msg)}`,
    );
  }
  if (ErrorClass && !(error instanceof ErrorClass)) {
    throw new AssertionError(
      `Expected error to be instance of "${ErrorClass.name}", but was "${error.constructor.name}"${
        suffix(msg)
      }`,
      { cause: error },
    );
  }
  if (!msgMatches) return;
  const message = stripVTControlCharacters(error.message);
  const matches = msgMatches instanceof RegExp
    ? msgMatches.test(message)
    : message.includes(stripVTControlCharacters(msgMatches));
  if (matches) return;
  throw new AssertionError(
    `Expected error message to include ${show(msgMatches)}, but got ${
      show(error.message)
    }${suffix(msg)}`,
    { cause: error },
  );
}

/** Asserts that `actual` matches the pattern `expected`. */
export function assertMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  if (expected.test(actual)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to match: "${expected}"${suffix(msg)}`,
  );
}

/** Asserts that `actual` does not match the pattern `expected`. */
export function assertNotMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  if (!expected.test(actual)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not match: "${expected}"${suffix(msg)}`,
  );
}

/** Asserts that `actual` contains `expected`. */
export function assertStringIncludes(
  actual: string,
  expected: string,
  msg?: string,
): void {
  if (actual.includes(expected)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to contain: "${expected}"${suffix(msg)}`,
  );
}

/** Asserts that each item of `expected` is deeply equal to one of `actual`. */
export function assertArrayIncludes<T>(
  actual: ArrayLikeArg<T>,
  expected: ArrayLikeArg<T>,
  msg?: string,
): void {
  const items = Array.from(actual);
  const missing = Array.from(expected).filter((wanted) =>
    !items.some((item) => equal(wanted, item))
  );
  if (missing.length === 0) return;
  throw new AssertionError(
    `Expected actual: "${show(actual)}" to include: "${show(expected)}"${
      suffix(msg)
    }\nmissing: ${show(missing)}`,
  );
}

/** Asserts that `actual` has everything that `expected` has, at any depth. */
export function assertObjectMatch(
  // deno-lint-ignore no-explicit-any
  actual: Record<PropertyKey, any>,
  expected: Record<PropertyKey, unknown>,
  msg?: string,
): void {
  assertEquals<unknown>(
    onlyWhatIsIn(expected, actual),
    onlyWhatIsIn(expected, expected),
    msg,
  );
}

/** Asserts that `fn` throws, and returns what it threw. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Asserts that `fn` throws an error of the class and with the message given. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: AbstractConstructor<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows(
  fn: () => unknown,
  ...expectation: Expectation
): unknown {
  const [ErrorClass, msgIncludes, msg] = inOrder(expectation);
  try {
    fn();
  } catch (error) {
    if (ErrorClass) assertIsError(error, ErrorClass, msgIncludes, msg);
    return error;
  }
  throw new AssertionError(`Expected function to throw${suffix(msg)}`);
}

/** Asserts that the promise of `fn` rejects, and resolves to its reason. */
export function assertRejects(
  fn: () => PromiseLike<unknown>,
  msg?: string,
): Promise<unknown>;
/** Asserts that it rejects with an error of the class and message given. */
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: AbstractConstructor<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects(
  fn: () => PromiseLike<unknown>,
  ...expectation: Expectation
): Promise<unknown> {
  const [ErrorClass, msgIncludes, msg] = inOrder(expectation);
  let promise: unknown;
  try {
    promise = fn();
  } catch (error) {
    throw new AssertionError(
      `Function throws when expected to reject${suffix(msg)}`,
      { cause: error },
    );
  }
  if (!isThenable(promise)) {
    throw new AssertionError(
      `Function returns no promise when expected to reject${suffix(msg)}`,
    );
  }
  try {
    await promise;
  } catch (error) {
    if (ErrorClass) assertIsError(error, ErrorClass, msgIncludes, msg);
    return error;
  }
  throw new AssertionError(`Expected function to reject${suffix(msg)}`);
}

/** Fails. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${suffix(msg)}`);
}

/** Fails, where the program should never come to. */
export function unreachable(msg?: string): never {
  throw new AssertionError(`Unreachable${suffix(msg)}`);
}

/** Fails, where the program is not written yet. */
export function unimplemented(msg?: string): never {
  throw new AssertionError(`Unimplemented${suffix(msg)}`);
}

/**
 * Says whether two values are deeply equal.
 *
 * `isDeepStrictEqual` alone would not do: to `@std/assert`, at any depth, `-0`
 * equals `0`, an object without a prototype equals a plain one, and what a
 * class shows through its getters counts.
 */
export function equal(a: unknown, b: unknown): boolean {
  return equalWithin(a, b, []);
}

/** Compares, taking the pairs in `open`, which a cycle has led back to, as equal. */
function equalWithin(a: unknown, b: unknown, open: Pair[]): boolean {
  if (a === b || Object.is(a, b)) return true;
  if (!isObject(a) || !isObject(b)) return false;
  if (prototypeOf(a) !== prototypeOf(b)) return false;
  if (a instanceof WeakMap || a instanceof WeakSet) {
    throw new TypeError(`Cannot compare ${a.constructor.name} instances`);
  }
  if (WRITTEN_OUT.some((type) => a instanceof type)) {
    return String(a) === String(b);
  }
  if (ArrayBuffer.isView(a) && "length" in a) {
    return equalWithin(Array.from(a as Uint8Array), [...b as Uint8Array], open);
  }
  if (COMPARED_BY_NODE.some((type) => a instanceof type)) {
    return isDeepStrictEqual(a, b);
  }
  if (open.some(([x, y]) => x === a && y === b)) return true;
  open.push([a, b]);
  try {
    if (a instanceof WeakRef && b instanceof WeakRef) {
      return equalWithin(a.deref(), b.deref(), open);
    }
    if (Object.keys(a).length !== Object.keys(b).length) return false;
    if (a instanceof Set && b instanceof Set) {
      return equalUnordered([...a], [...b], open);
    }
    if (a instanceof Map && b instanceof Map) {
      return equalUnordered([...a], [...b], open);
    }
    const keys = new Set([...visibleKeys(a), ...visibleKeys(b)]);
    return [...keys].every((key) =>
      key in a && key in b &&
      equalWithin(Reflect.get(a, key), Reflect.get(b, key), open)
    );
  } finally {
    open.pop();
  }
}

type Pair = [object, object];

/** Types whose whole content is in their string. */
const WRITTEN_OUT = [Intl.Locale, RegExp, URL, URLSearchParams];

/** Types whose content no property shows. */
const COMPARED_BY_NODE = [Date, ArrayBuffer, SharedArrayBuffer];

/** Says whether each item has an equal one of its own on the other side. */
function equalUnordered(a: unknown[], b: unknown[], open: Pair[]): boolean {
  if (a.length !== b.length) return false;
  const left = new Set(b);
  return a.every((item) => {
    for (const other of left) {
      if (equalWithin(item, other, open)) return left.delete(other);
    }
    return false;
  });
}

/** A null prototype counts as that of a plain object. */
function prototypeOf(value: object): object {
  return Object.getPrototypeOf(value) ?? Object.prototype;
}

/** The keys to compare: own ones, and those a class adds below `Object`. */
function visibleKeys(value: object): PropertyKey[] {
  const keys: PropertyKey[] = [];
  for (
    let level: object | null = value;
    level && level !== Object.prototype && level !== Array.prototype;
    level = Object.getPrototypeOf(level)
  ) {
    keys.push(...Reflect.ownKeys(level));
  }
  return keys;
}

/** Copies, at any depth, the part of `value` that `pattern` speaks of. */
function onlyWhatIsIn(
  pattern: unknown,
  value: unknown,
  copied: Copied[] = [],
): unknown {
  if (!isObject(pattern) || !isObject(value)) return value;
  if (value instanceof RegExp || value instanceof Date) return value;
  if (pattern instanceof Set && value instanceof Set) {
    return value.intersection(pattern);
  }
  const known = copied.find((it) => it.value === value && it.by === pattern);
  if (known) return known.copy;
  const part = (by: unknown, of: unknown) => onlyWhatIsIn(by, of, copied);
  if (Array.isArray(pattern) && Array.isArray(value)) {
    const copy: unknown[] = [];
    copied.push({ by: pattern, value, copy });
    const length = Math.min(pattern.length, value.length);
    for (let i = 0; i < length; i++) copy.push(part(pattern[i], value[i]));
    return copy;
  }
  if (pattern instanceof Map && value instanceof Map) {
    const copy = new Map<unknown, unknown>();
    copied.push({ by: pattern, value, copy });
    for (const [key, wanted] of pattern) {
      if (value.has(key)) copy.set(key, part(wanted, value.get(key)));
    }
    return copy;
  }
  const copy: Record<PropertyKey, unknown> = {};
  copied.push({ by: pattern, value, copy });
  for (const key of Reflect.ownKeys(pattern)) {
    if (!Object.hasOwn(value, key)) continue;
    copy[key] = part(Reflect.get(pattern, key), Reflect.get(value, key));
  }
  return copy;
}

/** A copy made by a pattern: what a cycle that comes back to both leads to. */
type Copied = { by: object; value: object; copy: object };

type Expectation = [
  errorClassOrMsg?: AbstractConstructor<Error> | string,
  msgIncludes?: string,
  msg?: string,
];

/** Brings the two forms of the last arguments of `assertThrows` into one. */
function inOrder([errorClassOrMsg, msgIncludes, msg]: Expectation) {
  return typeof errorClassOrMsg === "string"
    ? [undefined, undefined, errorClassOrMsg] as const
    : [errorClassOrMsg, msgIncludes, msg] as const;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return isObject(value) && "then" in value && typeof value.then === "function";
}

function show(value: unknown): string {
  return inspect(value, { depth: 8, sorted: true });
}

function suffix(msg: string | undefined): string {
  return msg ? `: ${msg}` : ".";
}

/** Node's account of a difference, below its first line. */
function difference(actual: unknown, expected: unknown): string {
  const { message } = new NodeAssertionError({
    actual,
    expected,
    operator: "deepStrictEqual",
  });
  return message.slice(message.indexOf("\n"));
}
