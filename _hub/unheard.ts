/**
 * Interrupts that the body has not got, as nothing awaits the waits that they have ended.
 *
 * An async body may have begun waits that it does not await, and be in a foreign promise when it
 * is interrupted. When a wait is interrupted, nothing shows whether it is awaited. But the runtime
 * tells later which rejected promises have no handler.
 *
 * @module
 */

import type { Scope } from "./scope.ts";

/** The key of the suspension of a wait. */
export const WAITING: unique symbol = Symbol("waiting");

/** The suspension of a wait. */
interface Waiting {
  /** The scope of the wait; when it has ended, only if an interrupt has ended it. */
  readonly scope?: Scope | null;
  /** The error that has ended it. */
  readonly value?: unknown;
}

/**
 * Notes a promise that an error has rejected and that has no handler. If the error is an interrupt
 * and the body has not got it otherwise, the next wait of the body throws it, unless the body
 * awaits the promise before.
 *
 * @param scope The scope in which the promise was rejected.
 * @returns Whether it is the promise of an interrupted wait.
 */
export function noteUnheard(
  promise: Promise<unknown>,
  error: unknown,
  scope: Scope,
): boolean {
  const waiting = (promise as { [WAITING]?: Waiting })[WAITING];
  const ended = waiting?.value === error ? waiting?.scope ?? null : null;
  const waiter = ended ?? scope;
  if (waiter.unheard(error)) onceUsed(promise, () => waiter.takeHeld(error));
  return ended !== null;
}

/** Calls a function when a promise is awaited, or one of its methods is called. */
function onceUsed(promise: Promise<unknown>, call: () => void): void {
  // All of these get the constructor.
  Reflect.defineProperty(promise, "constructor", {
    configurable: true,
    get() {
      Reflect.deleteProperty(promise, "constructor");
      call();
      return promise.constructor;
    },
  });
}
