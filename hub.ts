/**
 * The hub, which runs the event loop, and the calls with which a greenlet waits.
 *
 * The {@linkcode Hub} is the core's main greenlet. It has control whenever no other greenlet
 * runs. A greenlet waits with a {@linkcode Waiter}, which gives control to the hub.
 * {@linkcode until} waits for any promise; a kill or a timeout ends that wait.
 *
 * ```ts
 * import { spawn, until } from "@gevent/gevent";
 *
 * const g = spawn(async () => {
 *   try {
 *     await until(new Promise(() => {})); // Never settles
 *   } finally {
 *     console.log("ends all the same");
 *   }
 * });
 * setTimeout(() => g.kill(), 1);
 * await g.join();
 * ```
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import { Greenlet } from "./greenlet.ts";
import { currentScope } from "./_hub/current.ts";
import { errorFor } from "./_hub/interrupts.ts";
import { main, report, reportRejection } from "./_hub/main.ts";
import type { Scope } from "./_hub/scope.ts";
import {
  checkpoint,
  isWaitIn,
  LazyPromise,
  PromiseWait,
  Suspension,
} from "./_hub/suspension.ts";
import type { Wait } from "./_hub/suspension.ts";
import { checkCallback, instanceOf } from "./_base/checks.ts";
import { timeoutOf } from "./_hub/timers.ts";
import { whenAllEnded } from "./_hub/live.ts";
import { printError } from "./_hub/print.ts";

export { getCurrent } from "./_hub/current.ts";
export { LoopExit } from "./_hub/deadlock.ts";
export { type Wait } from "./_hub/suspension.ts";

/** Options of {@linkcode Hub.join}. */
export interface HubJoinOptions {
  /** How many milliseconds to wait at most. @default {Infinity} */
  timeout?: number;
}

/**
 * The greenlet that runs the event loop while no other greenlet runs. It is the core's main
 * greenlet. Each realm (main thread or Worker) has one, and {@linkcode getHub} returns it.
 * gevent's `Hub`.
 *
 * @example Write errors to your own log
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
   * Waits until all greenlets except the calling one have ended. A switch point. gevent's
   * `Hub.join`; that waits for timers and watchers as well, which belong to the runtime here.
   *
   * @param options How long to wait.
   * @returns `true` if all have ended, `false` at the timeout.
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
    const timeout = timeoutOf(options, "join the hub");
    return whenAllEnded(timeout);
  }

  /**
   * Reports an error that no other code receives: of a greenlet, of a link, or of a callback
   * that undoes a wait. Writes it to stderr, and the process goes on. You can replace this
   * method. gevent's `Hub.handle_error`.
   *
   * It is called once for each error. The error of a greenlet is not reported if one of these
   * receives it when the greenlet dies, or later in the same turn of the event loop: `get()`,
   * `joinAll()` with `raiseError`, a `nursery`, `apply()`, `map()`, `linkException()`, a linked
   * `AsyncResult`. Otherwise it is reported at the end of that turn, or when the process ends.
   * Two errors are never reported: a `GreenletExit`, and the `ShutDown` of a queue.
   *
   * The call runs outside greenlets, in the `AsyncLocalStorage` context of the greenlet that
   * has failed. If your method throws, or returns a promise that rejects, both errors are
   * written to stderr, and the process goes on.
   *
   * @param context The greenlet or the callback that has failed.
   * @param error The error that it has thrown.
   */
  handleError(context: unknown, error: unknown): void {
    printError(context, error);
  }
}

// The main greenlet of the core exists already, and there can be only one: it becomes the hub.
const hub = Object.setPrototypeOf(main, Hub.prototype) as Hub;

/**
 * Returns the hub of this realm. gevent's `get_hub`. Not a switch point.
 *
 * @returns The hub. `getCurrent` also returns it, outside greenlets.
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

/** Calls the user's callback that undoes a wait. If it throws, reports the error. */
function callUndo(
  undo: ((error: unknown) => void) | undefined,
  error: unknown,
): void {
  try {
    reportRejection(undo, undo?.(error));
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

  override get callsBack(): boolean {
    return this.#undo !== undefined;
  }

  protected override undo(error: unknown): void {
    callUndo(this.#undo, error);
  }

  override describe(): string {
    return "Waiter.get()";
  }
}

/**
 * One wait of one greenlet. Use it to write your own calls that wait. gevent's `Waiter`.
 *
 * A greenlet waits in {@linkcode Waiter.get} until {@linkcode Waiter.switch} or
 * {@linkcode Waiter.throw} is called. If the wait is interrupted, `undo` is called: remove the
 * listener there, for example.
 *
 * @typeParam T The type of the wait's result.
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

  static {
    showAs(this, (waiter) => {
      const { state, value, isPending } = waiter.#suspension;
      if (state === "idle" || isPending) return { state };
      return { state, [state === "given" ? "value" : "error"]: value };
    });
  }

  /**
   * Makes a waiter.
   *
   * @param undo Called with the error, from the hub, when the wait is interrupted.
   * @throws {TypeError} If it is not a function.
   */
  constructor(undo?: (error: unknown) => void) {
    if (undo !== undefined) checkCallback(undo, "create waiter", "undo");
    this.#suspension = new WaiterSuspension(undo);
  }

  /**
   * Waits until {@linkcode Waiter.switch} or {@linkcode Waiter.throw} is called. Does not wait
   * if that has happened already. A switch point. gevent's `get`.
   *
   * @returns The value that {@linkcode Waiter.switch} was called with.
   * @throws {unknown} The error that {@linkcode Waiter.throw} was called with.
   * @throws {TypeError} If this was called before.
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
   * Ends the wait with a value. Does nothing if the wait is over. The waiting greenlet goes
   * on after this has returned. Not a switch point. gevent's `switch`.
   *
   * @param value The value that {@linkcode Waiter.get} returns.
   */
  switch(value: T): void {
    this.#suspension.switch(value);
  }

  /**
   * Ends the wait with an error. Does nothing if the wait is over. Not a switch point.
   * gevent's `throw`.
   *
   * @param error The error that {@linkcode Waiter.get} throws; or a class of errors, of which
   * a new one is thrown.
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

  override get callsBack(): boolean {
    return this.#onInterrupt !== undefined;
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    callUndo(this.#onInterrupt, error);
  }
}

/**
 * Waits until any promise settles, or the wait is interrupted. A kill or a timeout can't end
 * `await promise`; it ends `await until(promise)` at once. A switch point. gevent has no such
 * call.
 *
 * An interrupt ends the wait only. The operation behind the promise runs on, unless
 * `onInterrupt` cancels it. If the promise rejects later, this is not an unhandled rejection.
 *
 * @typeParam T The type of the promise's value.
 * @param promise The promise.
 * @param onInterrupt Called with the error when the wait is interrupted. Cancel the operation
 * there.
 * @returns The value of the promise.
 * @throws {unknown} The error with which the promise rejects.
 * @throws {TypeError} If `onInterrupt` is not a function.
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
  // A wait of this library is returned as it is: an interrupt reaches it, and it has then taken
  // nothing. A second wait around it could be interrupted after the first has taken an item.
  if (promise instanceof LazyPromise) {
    const wait: Wait<T> = promise.waitIn(scope);
    if (onInterrupt === undefined) return wait;
    promise = wait;
  }
  if (onInterrupt === undefined && isWaitIn(scope, promise)) return promise;
  return new Until<T>(scope, onInterrupt).follow(promise).begin();
}

/**
 * Calls a function with an `AbortSignal` that any interrupt aborts, and waits for its result.
 * Use it for functions that take a signal, such as those of a client that `patch()` does not
 * reach. A switch point. gevent has no such call.
 *
 * An interrupt (a kill, a `Timeout`, `throw`) ends the wait at once, and aborts the signal. The
 * `reason` of the signal is the error of the interrupt. If the function's promise settles
 * later, its value is dropped, and its rejection is not an unhandled one. If the call ends
 * without an interrupt, the signal is never aborted.
 *
 * For the other direction, a signal that kills a greenlet, see `abortedBy`.
 *
 * @typeParam T The type of the result.
 * @param call The function. It is called at once, in the current greenlet; not if an interrupt
 * is due.
 * @returns The result of the call.
 * @throws {unknown} The error that the call throws or rejects with.
 * @throws {TypeError} If `call` is not a function.
 *
 * @example Usage
 * ```ts
 * import { Timeout, withSignal, withTimeout } from "@gevent/gevent";
 *
 * // Stands for a client that takes a signal
 * function request(signal: AbortSignal): Promise<never> {
 *   return new Promise((_, reject) => {
 *     signal.onabort = () => {
 *       console.log("cancelled"); // cancelled
 *       reject(signal.reason);
 *     };
 *   });
 * }
 *
 * try {
 *   await withTimeout(1, () => withSignal(request));
 * } catch (error) {
 *   console.log(error instanceof Timeout); // true
 * }
 * ```
 */
export function withSignal<T>(
  call: (signal: AbortSignal) => PromiseLike<T> | T,
): Wait<T> {
  checkCallback(call, "call with a signal", "call");
  const scope = currentScope();
  const due = checkpoint(scope);
  if (due !== null) return due;
  const controller = new AbortController();
  let result: PromiseLike<T> | T;
  try {
    result = call(controller.signal);
  } catch (error) {
    result = Promise.reject(error);
  }
  const abort = (error: unknown) => controller.abort(error);
  return new Until<T>(scope, abort).follow(result).begin();
}

nameClasses({ Hub, Waiter });
