/**
 * The event loop's side: what waits, and for whom.
 *
 * The {@linkcode Hub} is the core's main greenlet with the event loop beneath it: what
 * runs whenever no greenlet does. A greenlet that waits gives control to the hub, and
 * what it waits in is a {@linkcode Waiter}. {@linkcode until} makes any promise
 * cooperative.
 *
 * ```ts
 * import { spawn, until } from "@gevent/gevent";
 *
 * const g = spawn(async () => {
 *   try {
 *     await until(new Promise(() => {})); // Never settles
 *   } finally {
 *     console.log("and yet it ends");
 *   }
 * });
 * setTimeout(() => g.kill(), 1);
 * await g.join();
 * ```
 *
 * @module
 */

import { NO_OPTIONS } from "./_base/language.ts";
import { Greenlet } from "./greenlet.ts";
import { currentScope } from "./_hub/current.ts";
import { errorFor } from "./_hub/interrupts.ts";
import { main, report } from "./_hub/main.ts";
import type { Scope } from "./_hub/scope.ts";
import {
  isWaitIn,
  LazyPromise,
  PromiseWait,
  Suspension,
} from "./_hub/suspension.ts";
import type { Wait } from "./_hub/suspension.ts";
import { checkCallback, checkOptions, instanceOf } from "./_base/checks.ts";
import { checkDuration } from "./_hub/timers.ts";
import { whenAllEnded } from "./_hub/live.ts";
import { printError } from "./_hub/print.ts";

export { getCurrent } from "./_hub/current.ts";
export { type Wait } from "./_hub/suspension.ts";

/** Options of {@linkcode Hub.join}. */
export interface HubJoinOptions {
  /** After how many milliseconds to wait no longer. @default {Infinity} */
  timeout?: number;
}

/**
 * What runs whenever no greenlet does: the core's main greenlet, with the event loop
 * beneath it. There is one in each realm, and {@linkcode getHub} gives it. gevent's
 * `Hub`.
 *
 * @example Errors to a log of one's own
 * ```ts
 * import { getHub, spawn } from "@gevent/gevent";
 *
 * const hub = getHub();
 * const { handleError } = hub;
 * hub.handleError = (context, error) => console.log(`${context}: ${error}`);
 * await spawn(() => {
 *   throw new Error("no");
 * }).join();
 * hub.handleError = handleError;
 * ```
 */
export class Hub extends Greenlet {
  /**
   * Waits until all greenlets have ended, but for the one that waits. A switch point.
   * gevent's `Hub.join`, which waits for timers and watchers as well; here those are the
   * runtime's.
   *
   * @param options How long to wait.
   * @returns Whether all have ended; `false` at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   *
   * @example Usage
   * ```ts
   * import { getHub, sleep, spawn } from "@gevent/gevent";
   *
   * spawn(sleep, 5);
   * console.log(await getHub().join({ timeout: 1 })); // false
   * console.log(await getHub().join()); // true
   * ```
   */
  join(options: HubJoinOptions = NO_OPTIONS): Wait<boolean> {
    checkOptions(options, "join the hub");
    const { timeout = Infinity } = options;
    checkDuration(timeout, "join the hub");
    return whenAllEnded(timeout);
  }

  /**
   * Called once for each error that nobody takes: that of a greenlet, of a link, of an
   * undo. Writes it to stderr, and the process goes on. May be replaced. gevent's
   * `Hub.handle_error`.
   *
   * The error of a greenlet is taken by what waits for its result when it dies, or asks for
   * it in the same turn of the event loop: `get()`, `joinAll()` with `raiseError`, a
   * `nursery`, `apply()`, `map()`, a `linkException()`, an `AsyncResult` that is linked to
   * it. It is reported at the end of that turn, and at the latest when the process ends, in
   * the `AsyncLocalStorage` context that the greenlet has had, and in no greenlet. A
   * `GreenletExit` never is, nor the `ShutDown` of a queue that a greenlet ends by.
   *
   * What a handler of your own throws, or a promise that it returns rejects with, is written
   * to stderr together with the error that it was told of, and the process goes on.
   *
   * @param context What has failed: a greenlet, or a callback.
   * @param error What it has thrown.
   */
  handleError(context: unknown, error: unknown): void {
    printError(context, error);
  }
}

// The core made main before there was a hub, and main it must remain.
const hub = Object.setPrototypeOf(main, Hub.prototype) as Hub;

/**
 * The hub of this realm. gevent's `get_hub`.
 *
 * @returns The hub, which is also what `getCurrent` gives outside greenlets.
 *
 * @example Usage
 * ```ts
 * import { getHub, Greenlet } from "@gevent/gevent";
 *
 * console.log(new Greenlet(() => {}).parent === getHub()); // true
 * ```
 */
export function getHub(): Hub {
  return hub;
}

/** Calls what the user gave to take a wait back. */
function callUndo(
  undo: ((error: unknown) => void) | undefined,
  error: unknown,
): void {
  try {
    undo?.(error);
  } catch (thrown) {
    report(undo, thrown);
  }
}

class WaiterSuspension<T> extends Suspension<T> {
  readonly #undo: ((error: unknown) => void) | undefined;

  constructor(undo: ((error: unknown) => void) | undefined) {
    super();
    this.#undo = undo;
  }

  protected override undo(error: unknown): void {
    callUndo(this.#undo, error);
  }
}

/**
 * One wait of one greenlet: what every blocking call is built on. gevent's `Waiter`.
 *
 * One greenlet waits in {@linkcode Waiter.get}, until somebody calls
 * {@linkcode Waiter.switch} or {@linkcode Waiter.throw}. When it is interrupted, `undo`
 * is called first, to take back what was registered.
 *
 * @typeParam T What the wait gives.
 *
 * @example Usage
 * ```ts
 * import { type Wait, Waiter } from "@gevent/gevent";
 *
 * function event(target: EventTarget, type: string): Wait<Event> {
 *   const listener = (event: Event) => waiter.switch(event);
 *   const waiter = new Waiter<Event>(() =>
 *     target.removeEventListener(type, listener)
 *   );
 *   target.addEventListener(type, listener, { once: true });
 *   return waiter.get();
 * }
 *
 * const button = new EventTarget();
 * setTimeout(() => button.dispatchEvent(new Event("press")), 1);
 * console.log((await event(button, "press")).type); // press
 * ```
 */
export class Waiter<T> {
  readonly #suspension: WaiterSuspension<T>;
  #asked = false;

  /**
   * Makes a waiter that nobody waits in yet.
   *
   * @param undo Called with the error, from the hub, when the wait is interrupted.
   * @throws {TypeError} If it is not a function.
   */
  constructor(undo?: (error: unknown) => void) {
    if (undo !== undefined) checkCallback(undo, "create waiter", "undo");
    this.#suspension = new WaiterSuspension(undo);
  }

  /**
   * Waits. A switch point. When the value is there already, it is given at once.
   *
   * @returns What {@linkcode Waiter.switch} is given.
   * @throws {TypeError} If the waiter was waited in before.
   */
  get(): Wait<T> {
    if (this.#asked) {
      throw new TypeError(
        "Cannot wait twice in one Waiter: make a new one for each wait",
      );
    }
    this.#asked = true;
    return this.#suspension.get();
  }

  /**
   * Ends the wait with a value; does nothing when it is over. The waiting greenlet goes
   * on soon, not before this returns.
   *
   * @param value What {@linkcode Waiter.get} gives.
   */
  switch(value: T): void {
    this.#suspension.switch(value);
  }

  /**
   * Ends the wait with an error; does nothing when it is over.
   *
   * @param error What {@linkcode Waiter.get} throws, or the class of error of which it
   * throws a new one.
   */
  throw(error: unknown): void {
    this.#suspension.throw(instanceOf(error));
  }
}

class Until<T> extends PromiseWait<T> {
  readonly #owner: Scope;
  readonly #onInterrupt: ((error: unknown) => void) | undefined;

  constructor(
    scope: Scope,
    onInterrupt: ((error: unknown) => void) | undefined,
  ) {
    super();
    this.#owner = scope;
    this.#onInterrupt = onInterrupt;
  }

  begin(): Wait<T> {
    return this.getIn(this.#owner);
  }

  override rejected(error: unknown): void {
    this.throw(errorFor(error, this.#owner));
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    callUndo(this.#onInterrupt, error);
  }
}

/**
 * Waits for any promise, cooperatively: where `await promise` can't be stopped,
 * `await until(promise)` can be killed and timed out. A switch point.
 *
 * What the promise stands for goes on, unless `onInterrupt` ends it. When it fails after
 * an interrupt, that is no unhandled rejection.
 *
 * @typeParam T What the promise gives.
 * @param promise The promise.
 * @param onInterrupt Called with the error when the wait is interrupted: the place to
 * cancel the operation.
 * @returns What the promise gives.
 *
 * @example Usage
 * ```ts
 * import { Timeout, until, withTimeout } from "@gevent/gevent";
 *
 * const controller = new AbortController();
 * const never = new Promise<string>((_, reject) => {
 *   controller.signal.onabort = () => reject(controller.signal.reason);
 * });
 * try {
 *   await withTimeout(1, () => until(never, (e) => controller.abort(e)));
 * } catch (error) {
 *   console.log(error instanceof Timeout); // true
 * }
 * ```
 */
export function until<T>(
  promise: PromiseLike<T> | T,
  onInterrupt?: (error: unknown) => void,
): Wait<T> {
  if (onInterrupt !== undefined) {
    checkCallback(onInterrupt, "wait", "onInterrupt");
  }
  const scope = currentScope();
  // A wait of ours is told of an interrupt itself, and then has taken nothing; another one
  // around it would not hear in time that it has.
  if (promise instanceof LazyPromise) {
    const wait: Wait<T> = promise.waitIn(scope);
    if (onInterrupt === undefined) return wait;
    promise = wait;
  }
  if (onInterrupt === undefined && isWaitIn(scope, promise)) return promise;
  return new Until<T>(scope, onInterrupt).follow(promise).begin();
}
