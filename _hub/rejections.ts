/**
 * Unhandled rejections, as a program sees them that knows nothing of us.
 *
 * The runtime looks for rejected promises without a handler when no microtask is left. It
 * so looks, too, in a turn of the event loop that our fairness has put between two steps of
 * a greenlet, where a program without us would only have gone on: its `await` of the promise
 * may be the very next step. So as long as greenlets wait for such a turn, the rejections
 * that the runtime tells of are postponed. Those that are handled meanwhile have never been
 * unhandled; the others are raised once the greenlets have run out of steps.
 *
 * One listener for `unhandledrejection` does all of it, and is called before those of the
 * application. Where there are no such events, as in Node, it is `process.emit` that is
 * listened to; where neither is as expected, rejections are told of when the runtime finds
 * them.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { setImmediate } from "../_base/immediate.ts";
import {
  findShared,
  hasMainModuleFailed,
  listenerListsOf,
} from "../_base/runtime.ts";
import { afterTurn, isTurnDue } from "./run_queue.ts";

/**
 * How long a rejection is postponed at most, while greenlets keep each other going for ever.
 * A program without us would have blocked its event loop for as long. Both have to be over:
 * a process that was stopped for a while has not taken its turns.
 */
const LONGEST = 1000;
const MOST_TURNS = 100;

/** A rejection that is not told of yet. */
interface Postponed {
  readonly promise: Promise<unknown>;
  readonly reason: unknown;
  /** Calls a function in the context in which the promise was rejected. */
  readonly inContext: <R>(run: () => R) => R;
  readonly since: number;
  turns: number;
}

const postponed = new Map<Promise<unknown>, Postponed>();
/** Promises that are rejected in another's place, to have the runtime tell of that. */
const standIns = new WeakMap<Promise<unknown>, Promise<unknown>>();
/** Those for which there is a stand-in that the runtime has not told of. */
const raising = new WeakSet<Promise<unknown>>();

/** What is made of an error; all is asked in the context of the rejection. */
export interface Judgement {
  /** Whether promises may fail like that and nothing look. */
  isExpected(reason: unknown): boolean;
  /** What the program fails with whose main module has failed with an expected error. */
  failureOfMain(reason: unknown): unknown;
}
type CallApart = <R>(run: () => R) => R;

/**
 * - a promise: the runtime is to tell of the rejection, and of this promise
 * - `null`: nobody is told
 */
type Verdict = Promise<unknown> | null;

/** What is to be done about a rejection that the runtime has found. */
function judge(
  found: Promise<unknown>,
  reason: unknown,
  judgement: Judgement,
): Verdict {
  const promise = standIns.get(found) ?? found;
  const isRaised = promise !== found;
  // Unless it was handled since it was raised.
  if (isRaised) return raising.delete(promise) ? promise : null;
  if (judgement.isExpected(reason)) {
    raiseIfMainFailed(promise, reason, judgement.failureOfMain(reason));
    return null;
  }
  if (!isTurnDue()) return promise;
  postponed.set(promise, {
    promise,
    reason,
    inContext: AsyncLocalStorage.snapshot() as Postponed["inContext"],
    since: performance.now(),
    turns: 0,
  });
  if (postponed.size === 1) afterTurn(lookSoon);
  return null;
}

/** Errors of the main module that were told of. */
const failuresOfMain = new WeakSet<object>();

/**
 * Has the runtime tell of an expected error all the same if the main module has failed with
 * it, by an `await` at its top level: nothing else tells that the program has ended there.
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

/** Whether a promise that is handled now was never told of. */
function wasUntold(promise: Promise<unknown>): boolean {
  return postponed.delete(promise) || raising.delete(promise);
}

/** Greenlets have had their turn: looks at what they have left when they go no further. */
function lookSoon(): void {
  // What was handled meanwhile, the runtime tells in between.
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
 * Has the runtime tell of a rejection as if it had just found it: listeners are told of this
 * promise, and the process ends if none of them prevents it. In the current context.
 */
export function raise(promise: Promise<unknown>, reason: unknown): void {
  raising.add(promise);
  standIns.set(Promise.reject(reason), promise);
}

/**
 * Watches the rejections of this realm. To be called once.
 *
 * @param judgement What is made of their errors.
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
  } else if (typeof globalThis.process?.emit === "function") {
    watchProcess(globalThis.process, judgement);
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
  // The runtime calls it whatever the listeners have done.
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

/** Listens before those who have begun before us, where the runtime's list can be found. */
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

/** What the runtime calls after the listeners, to have `process` tell of a rejection. */
type Tell = (event: PromiseRejectionEvent) => void;

/**
 * Looks after what the runtime calls to have `process` tell of a rejection: `by` makes what
 * it is to call in its place.
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

/** What the runtimes have that tell of rejections by `process`. */
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
      // Deno gives the reason as well, and first.
      if (wasUntold(args.at(-1) as Promise<unknown>)) return true;
    }
    return Reflect.apply(emit, this, [name, ...args]);
  };
}
