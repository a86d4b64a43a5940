/**
 * Unhandled rejections, reported as in a program that does not use this library.
 *
 * The runtime looks for rejected promises without a handler when no microtask is left. This may
 * be a turn of the event loop that the library has put between two steps of a greenlet for
 * fairness. Without the library the greenlet would have gone on, and its next step may `await`
 * the promise. As long as greenlets wait for such a turn, the rejections that the runtime
 * reports are postponed. A promise that is handled meanwhile was never unhandled. The others
 * are reported when the greenlets have no more steps to take.
 *
 * One listener for `unhandledrejection` does all of it, and is called before those of the
 * application. Where there are no such events, as in Node, `process.emit` is wrapped. Where
 * neither is as expected, rejections are reported when the runtime finds them.
 *
 * @module
 */

import { setImmediate } from "../_base/immediate.ts";
import {
  findShared,
  hasMainModuleFailed,
  listenerListsOf,
} from "../_base/runtime.ts";
import type { CallInContext } from "./async_context.ts";
import { afterTurn, isTurnDue } from "./run_queue.ts";

/**
 * The limits, in milliseconds and in turns, of postponing a rejection while greenlets always
 * have another step. Without the library the event loop would be blocked that long. Both limits
 * must pass, as a process that was stopped for a while has taken no turns.
 */
const LONGEST = 1000;
const MOST_TURNS = 100;

/** A rejection that is not reported yet. */
interface Postponed {
  readonly promise: Promise<unknown>;
  readonly reason: unknown;
  /** Calls a function in the context in which the promise was rejected. */
  readonly inContext: CallInContext;
  readonly since: number;
  turns: number;
}

const postponed = new Map<Promise<unknown>, Postponed>();
/** The promises that stand-ins were rejected for, so that the runtime reports them. */
const standIns = new WeakMap<Promise<unknown>, Promise<unknown>>();
/** The promises with a stand-in that the runtime has not reported yet. */
const raising = new WeakSet<Promise<unknown>>();

/** Judges errors. Everything is called in the context of the rejection. */
export interface Judgement {
  /** Whether a promise may fail with the error and not be reported. */
  isExpected(reason: unknown): boolean;
  /** The error to report, where the main module has failed with an expected one. */
  failureOfMain(reason: unknown): unknown;
  /**
   * Notes a rejection that is not handled. Returns whether it is that of an interrupted wait,
   * which is expected.
   */
  noteUnheard(promise: Promise<unknown>, reason: unknown): boolean;
  /** Makes a function that calls another one in the current context. */
  capture(): CallInContext;
}
type CallApart = <R>(run: () => R) => R;

/**
 * - a promise: the runtime is to report the rejection of this promise
 * - `null`: the rejection is not reported
 */
type Verdict = Promise<unknown> | null;

/** Decides what to do about a rejection that the runtime has found. */
function judge(
  found: Promise<unknown>,
  reason: unknown,
  judgement: Judgement,
): Verdict {
  const promise = standIns.get(found) ?? found;
  const isRaised = promise !== found;
  // Skips it if it was handled since it was raised.
  if (isRaised) return raising.delete(promise) ? promise : null;
  if (judgement.noteUnheard(promise, reason)) return null;
  if (judgement.isExpected(reason)) {
    raiseIfMainFailed(promise, reason, judgement.failureOfMain(reason));
    return null;
  }
  if (!isTurnDue()) return promise;
  postponed.set(promise, {
    promise,
    reason,
    inContext: judgement.capture(),
    since: performance.now(),
    turns: 0,
  });
  if (postponed.size === 1) afterTurn(lookSoon);
  return null;
}

/** Errors of the main module that were reported. */
const failuresOfMain = new WeakSet<object>();

/**
 * Lets the runtime report an expected error if the main module has failed with it by an `await`
 * at its top level: nothing else would show that the program has ended there.
 */
async function raiseIfMainFailed(
  promise: Promise<unknown>,
  reason: unknown,
  failure: unknown,
): Promise<void> {
  if (!await hasMainModuleFailed(reason)) return;
  // The promises of calls may have failed with it as well.
  if (failuresOfMain.has(reason as object)) return;
  failuresOfMain.add(reason as object);
  raise(promise, failure);
}

/** Whether a promise that is handled now was not reported before. */
function wasUntold(promise: Promise<unknown>): boolean {
  return postponed.delete(promise) || raising.delete(promise);
}

/** Checks the postponed rejections when the greenlets have had their turn. */
function lookSoon(): void {
  // Before that the runtime tells which promises were handled meanwhile.
  if (postponed.size > 0) setImmediate(look);
}

function look(): void {
  const isOver = !isTurnDue();
  for (const one of postponed.values()) {
    if (!isOver && !isOverdue(one)) continue;
    postponed.delete(one.promise);
    one.inContext(() => raise(one.promise, one.reason));
  }
  if (postponed.size > 0) afterTurn(lookSoon);
}

function isOverdue(one: Postponed): boolean {
  return ++one.turns >= MOST_TURNS && performance.now() - one.since >= LONGEST;
}

/**
 * Lets the runtime report a rejection as if it had just found it: listeners get this promise,
 * and the process ends if none of them prevents it. They are called in the current context.
 */
export function raise(promise: Promise<unknown>, reason: unknown): void {
  raising.add(promise);
  standIns.set(Promise.reject(reason), promise);
}

/** Whether the runtime tells which rejected promises have no handlers. */
export let areWatched = false;

/**
 * Watches the rejections of this realm. To be called once.
 *
 * @param judgement Judges their errors.
 * @param callApart Calls a function outside greenlets.
 * @param callWhereRejected Calls a function in the context of the rejection, where listeners
 * are called in another one.
 */
export function watchRejections(
  judgement: Judgement,
  callApart: CallApart,
  callWhereRejected: CallApart,
): void {
  if (typeof globalThis.addEventListener === "function") {
    watchEvents(judgement, callApart, callWhereRejected);
    // Bun has no such events.
    areWatched = typeof PromiseRejectionEvent === "function";
  } else if (typeof globalThis.process?.emit === "function") {
    watchProcess(globalThis.process, judgement);
    areWatched = true;
  }
}

function watchEvents(
  judgement: Judgement,
  callApart: CallApart,
  callWhereRejected: CallApart,
): void {
  listenFirst("unhandledrejection", (event) => {
    const promise = callWhereRejected(() =>
      judge(event.promise, event.reason, judgement)
    );
    if (promise === null) {
      event.preventDefault();
      event.stopImmediatePropagation();
    } else if (promise !== event.promise) {
      Object.defineProperty(event, "promise", { value: promise });
    }
  });
  // The runtime calls this function even if a listener has stopped the event.
  let isUntold = false;
  listenFirst("rejectionhandled", (event) => {
    isUntold = wasUntold(event.promise);
    if (isUntold) event.stopImmediatePropagation();
  });
  replaceTell(
    "nodeProcessRejectionHandledCallback",
    (tell) => isUntold ? undefined : (event) => callApart(() => tell(event)),
  );
  replaceTell(
    "nodeProcessUnhandledRejectionCallback",
    (tell) => (event) => callApart(() => tell(event)),
  );
}

/** Adds a listener before all others, where the runtime's list of them can be found. */
function listenFirst(
  type: "unhandledrejection" | "rejectionhandled",
  listener: (event: PromiseRejectionEvent) => void,
): void {
  globalThis.addEventListener(type, listener as (event: Event) => void);
  for (const list of listenerListsOf(globalThis, type)) {
    const i = list.findIndex((entry) =>
      (entry as { callback?: unknown } | null)?.callback === listener
    );
    if (i > 0) list.unshift(...list.splice(i, 1));
  }
}

/** The function that the runtime calls after the listeners, for `process` to report it. */
type Tell = (event: PromiseRejectionEvent) => void;

/**
 * Replaces the function that the runtime calls for `process` to report a rejection. `by` makes
 * the one that it calls in its place.
 */
function replaceTell(name: string, by: (tell: Tell) => Tell | undefined): void {
  const shared = findShared();
  let tell = shared[name] as Tell | undefined;
  Object.defineProperty(shared, name, {
    get: () => tell === undefined ? undefined : by(tell),
    set: (it) => tell = it,
    enumerable: true,
    configurable: true,
  });
}

/** The `process` of runtimes that report rejections by it. */
interface Process {
  emit(name: string, ...args: unknown[]): boolean;
}

function watchProcess(process: Process, judgement: Judgement): void {
  const { emit } = process;
  process.emit = function (name, ...args) {
    if (name === "unhandledRejection") {
      const [reason, found] = args as [unknown, Promise<unknown>];
      const promise = judge(found, reason, judgement);
      if (promise === null) return true;
      args[1] = promise;
    } else if (name === "rejectionHandled") {
      // Deno gives the reason as well, before the promise.
      if (wasUntold(args.at(-1) as Promise<unknown>)) return true;
    }
    return Reflect.apply(emit, this, [name, ...args]);
  };
}
