/**
 * `for await` loops whose `next()` is interrupted.
 *
 * JavaScript does not call `return()` if `next()` fails. So the object that the loop iterates
 * over is closed here, and the interrupt is thrown once it is closed, as with a `break`.
 *
 * @module
 */

import { markHandled } from "../_base/language.ts";
import { Operation } from "../_hub/operation.ts";
import { PatientWait } from "../_hub/patient_wait.ts";
import { removePending, type Scope } from "../_hub/scope.ts";
import {
  errorOf,
  type Settled,
  type Suspension,
  type Wait,
} from "../_hub/suspension.ts";

/**
 * Begins to close the object that a loop iterates over. Returns a promise of the end of that,
 * which does not reject.
 */
export type Closing = (error: unknown) => PromiseLike<unknown>;

/** The wait for the loop's object to be closed. The loop is left by its error. */
class Leaving extends PatientWait<never> {
  /** The `next()` that ends with this wait. */
  readonly #next: Suspension<unknown> | null;

  constructor(
    scope: Scope,
    error: unknown,
    closing: PromiseLike<unknown>,
    next: Suspension<unknown> | null = null,
  ) {
    super(scope);
    this.#next = next;
    const leave = () => this.throw(error);
    closing.then(leave, leave);
  }

  override settle(state: Settled, value: unknown): void {
    super.settle(state, value);
    this.#next?.settle(this.state as Settled, this.value);
  }

  protected override hasten(): void {}
}

/** Ends a wait by an interrupt, once the loop's object is closed. */
export function leaveWhenClosed(
  wait: Suspension<unknown>,
  error: unknown,
  closing: PromiseLike<unknown>,
): void {
  const scope = wait.scope!;
  markHandled(wait.promise!);
  removePending(wait);
  markHandled(new Leaving(scope, error, closing, wait).suspend(scope));
}

/** Leaves a loop by an error that is due, once its object is closed. */
export function leaveBy(
  due: Wait<never>,
  scope: Scope,
  close: Closing,
): Wait<never> {
  const last = scope.escalateIfOverdue();
  const error = last === null ? errorOf(due) : last.error;
  const closing = close(error);
  return last !== null
    ? due
    : new Leaving(scope, error, closing).suspend(scope);
}

/** A `next()` of a loop that waits for an operation of the runtime. */
class Step<T> extends Operation<T> {
  readonly #close: Closing;

  constructor(text: string, close: Closing) {
    super(text, (error) => void close(error));
    this.#close = close;
  }

  override interrupt(error: unknown, final: boolean): void {
    // A loop that is being left already waits for the close.
    if (this.state !== "waiting" || this.scope === null) return;
    if (final) return super.interrupt(error, final);
    this.reactions?.remove(this);
    leaveWhenClosed(this, error, this.#close(error));
  }
}

/** As `operate()`, for a `next()`: an interrupt closes the object of the loop. */
export function operateStep<T>(
  scope: Scope,
  promise: Promise<T>,
  text: string,
  close: Closing,
): Wait<T> {
  return new Step<T>(text, close).follow(promise).suspend(scope);
}
