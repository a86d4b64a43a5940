/**
 * Stacks that show the user's frames: where a wait was begun that has failed.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { isNested } from "./run_queue.ts";

/** Any function. */
type Door = (...args: never[]) => unknown;

/** Gives an error the frames below the innermost call of `door`. Only V8 can. */
function capture(error: Error, door: Door): void {
  try {
    Error.captureStackTrace?.(error, door);
  } catch {
    // A frozen error keeps its stack.
  }
}

/**
 * Makes an error that `door` throws, or is about to return a failed wait of. `door` is a method
 * that the user has called, and is on the stack.
 */
export function errorIn<E extends Error, A extends unknown[]>(
  door: Door,
  type: new (...args: A) => E,
  ...args: A
): E {
  const error = new type(...args);
  capture(error, door);
  return error;
}

/** Errors that were made where no code of the user was on the stack. */
const unplaced = new WeakSet<object>();

/** Marks an error: it gets the frames of the wait that it is thrown by. */
export function placeLater<E extends Error>(error: E): E {
  unplaced.add(error);
  return error;
}

/** Whether an error is to get the frames of the wait that it is thrown by. */
export function isUnplaced(error: unknown): error is Error {
  return unplaced.has(error as Error);
}

/** Gives an error the frames of a generator body, which is on the stack. */
export function placeBelow(error: unknown, door: Door): void {
  if (!unplaced.delete(error as Error)) return;
  capture(error as Error, door);
}

/**
 * Whether errors get the frames of async functions, too. Their greenlets then go on a microtask
 * later, so that a greenlet which is woken after them may go on before them.
 */
export let followsAwaits = false;

/** Sets {@linkcode followsAwaits}. */
export function followAwaits(follows: boolean): void {
  followsAwaits = follows;
}

/**
 * Rejects a wait, in the next microtask, with an error that has the frames of the async
 * functions which await it.
 *
 * V8 finds these by the promise to which the result of the current microtask belongs, so that
 * is one which seems to resolve the wait, and never settles. Nothing has to be kept when a wait
 * begins.
 */
export function rejectPlaced(
  resolve: (value: unknown) => void,
  error: Error,
  reject: () => void,
): void {
  const placing = then(resolved, function place() {
    captureAsync(error, place);
    reject();
    // A generator body, which goes on before that, has frames of its own.
    then(resolved, () => unplaced.delete(error));
    return new Promise(() => {});
  });
  then(placing, resolve);
}

/** Gives an error the frames of the async functions that lie before the current microtask. */
function captureAsync(error: Error, door: Door): void {
  if (!isNested) return capture(error, door);
  const limit = Error.stackTraceLimit;
  try {
    Error.stackTraceLimit = limit + NESTED_FRAMES;
    capture(error, door);
    // Made now, and not when it is read, which takes 10 µs: the event loop is on this stack.
    error.stack = (error.stack ?? "").replace(SYNC_FRAMES, "");
  } finally {
    Error.stackTraceLimit = limit;
  }
}

/** How many frames there are where microtasks are run by a timer. */
const NESTED_FRAMES = 10;
const SYNC_FRAMES = /^ {4}at (?!async ).*\n?/gm;

const resolved = Promise.resolve();

/** A wait that can tell, when it is over, what it was in. */
interface Described {
  describe(subject: unknown): string;
}

/** The waits that errors were thrown by, or what these were in. */
const waits = new WeakMap<object, Described | string>();
/** What those waits waited for. In a map of its own, as a record would have to be made for each. */
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
  try {
    return wait.describe(subject);
  } catch {
    // The name of a greenlet or of a class may be a getter that throws.
    return "a wait that can't be described";
  }
}
