/**
 * Error stacks that show the user's frames: the place where a failed wait was begun.
 *
 * @module
 */

import { waitInWords } from "../_base/checks.ts";
import { then } from "../_base/language.ts";
import { isNested } from "./run_queue.ts";

/** Any function. */
type Callee = (...args: never[]) => unknown;

/** Gives an error the frames below the innermost call of `callee`. Only V8 can do that. */
function capture(error: Error, callee: Callee): void {
  try {
    Error.captureStackTrace?.(error, callee);
  } catch {
    // A frozen error keeps its stack.
  }
}

/**
 * Makes an error that `callee` throws, or with which a wait fails that `callee` returns. `callee` is
 * a method that the user has called, so it is on the stack.
 */
export function errorIn<E extends Error, A extends unknown[]>(
  callee: Callee,
  type: new (...args: A) => E,
  ...args: A
): E {
  const error = new type(...args);
  capture(error, callee);
  return error;
}

/** Removes the frames of an error that was made where only the library is on the stack. */
export function withoutFrames<E extends Error>(error: E): E {
  const limit = Error.stackTraceLimit;
  try {
    Error.stackTraceLimit = 0;
    capture(error, withoutFrames);
  } finally {
    Error.stackTraceLimit = limit;
  }
  return error;
}

/** Errors that were made where no code of the user was on the stack. */
const unplaced = new WeakSet<object>();

/** Marks an error. It will get the frames of the wait that throws it. */
export function placeLater<E extends Error>(error: E): E {
  unplaced.add(error);
  return error;
}

/** Whether an error will get the frames of the wait that throws it. */
export function isUnplaced(error: unknown): error is Error {
  return unplaced.has(error as Error);
}

/** Gives a marked error the frames of a generator body, which is on the stack. */
export function placeBelow(error: unknown, callee: Callee): void {
  if (!unplaced.delete(error as Error)) return;
  capture(error as Error, callee);
}

/**
 * Whether errors get the frames of async functions, too. The greenlets that fail then go on a
 * microtask later, so that one which is woken after them may go on first.
 */
export let followsAwaits = false;

/** Sets {@linkcode followsAwaits}. */
export function followAwaits(follows: boolean): void {
  followsAwaits = follows;
}

/**
 * Rejects a wait in the next microtask. The error gets the frames of the async functions that
 * await it.
 *
 * V8 finds these functions by the promise that the current microtask resolves. So this makes a
 * microtask whose promise resolves the wait, but never settles. Nothing has to be stored when a
 * wait begins.
 */
export function rejectPlaced(
  resolve: (value: unknown) => void,
  error: Error,
  reject: () => void,
): void {
  const placing = then(resolved, function place() {
    captureAsync(error, place);
    reject();
    // A generator body goes on before this, and has taken its own frames.
    then(resolved, () => unplaced.delete(error));
    return new Promise(() => {});
  });
  then(placing, resolve);
}

/** Gives an error the frames of the async functions that the current microtask resumes. */
function captureAsync(error: Error, callee: Callee): void {
  if (!isNested) return capture(error, callee);
  const limit = Error.stackTraceLimit;
  try {
    Error.stackTraceLimit = limit + NESTED_FRAMES;
    capture(error, callee);
    // Made now, which takes 10 µs, to remove the frames of the event loop from the stack.
    error.stack = (error.stack ?? "").replace(SYNC_FRAMES, "");
  } finally {
    Error.stackTraceLimit = limit;
  }
}

/** The number of extra frames when a timer runs the microtasks. */
const NESTED_FRAMES = 10;
const SYNC_FRAMES = /^ {4}at (?!async ).*\n?/gm;

const resolved = Promise.resolve();

/** A wait that describes itself, also when it is over. */
interface Described {
  describe(subject: unknown): string;
}

/** The wait that has thrown an error, or its description. */
const waits = new WeakMap<object, Described | string>();
/** The subjects of those waits. In a second map, as that spares an object for each error. */
const subjects = new WeakMap<object, unknown>();

/** Notes the wait that has thrown an error of this library. Nothing is described yet. */
export function noteWait(
  error: unknown,
  wait: Described,
  subject: unknown,
): void {
  if (!isUnplaced(error)) return;
  waits.set(error, wait);
  subjects.set(error, subject);
}

/**
 * What the wait was in that has thrown an error; `undefined` where that is not known. From now
 * on only the text is kept, so that an error which is kept keeps no queue or connection.
 */
export function waitThatThrew(error: unknown): string | undefined {
  const wait = waits.get(error as object);
  if (wait === undefined || typeof wait === "string") return wait;
  const text = describe(wait, subjects.get(error as object));
  subjects.delete(error as object);
  waits.set(error as object, text);
  return text;
}

function describe(wait: Described, subject: unknown): string {
  return waitInWords(() => wait.describe(subject));
}
