/**
 * `for await` loops whose `next()` is interrupted.
 *
 * JavaScript does not call `return()` if `next()` fails. So the object that the loop iterates
 * over is closed here, and the interrupt is thrown once it is closed, as with a `break`.
 *
 * @module
 */

import { markHandled, property } from "../_base/language.ts";
import { mimic } from "../_base/properties.ts";
import { isSettled } from "../_base/runtime.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { Operation } from "../_hub/operation.ts";
import { PatientWait } from "../_hub/patient_wait.ts";
import { removePending, type Scope } from "../_hub/scope.ts";
import {
  checkpoint,
  errorOf,
  type Settled,
  type Suspension,
  type Wait,
} from "../_hub/suspension.ts";
import type { Text } from "../_hub/waits.ts";

/**
 * Begins to close the object that a loop iterates over. Gets the promise of the `next()` that
 * is interrupted, if there is one. Returns a promise of the end, which does not reject.
 */
export type Closing = (
  error: unknown,
  // deno-lint-ignore no-explicit-any -- the items may be of any type
  next?: Promise<any>,
) => PromiseLike<unknown>;

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
  readonly listens: boolean;

  constructor(text: Text, close: Closing, listens: boolean) {
    super(text, (error) => void close(error));
    this.#close = close;
    this.listens = listens;
  }

  override interrupt(error: unknown, final: boolean): void {
    // A loop that is being left already waits for the close.
    if (this.state !== "waiting" || this.scope === null) return;
    if (final) return super.interrupt(error, final);
    const next = this.reactions?.promise;
    // The item has come, and the body is about to get it.
    if (this.scope.pending === this && isSettled(next)) {
      return this.scope.hold(error);
    }
    this.reactions?.remove(this);
    leaveWhenClosed(this, error, this.#close(error, next));
  }
}

/** `operate()` for a `next()`: an interrupt closes the object of the loop. */
export function operateStep<T>(
  scope: Scope,
  promise: Promise<T>,
  text: Text,
  close: Closing,
  listens = false,
): Wait<T> {
  return new Step<T>(text, close, listens).follow(promise).suspend(scope);
}

/** The properties of a loop. */
export interface Loop {
  /** Describes a `next()`. */
  text: Text;
  /** Closes the iterator, by its `return()` unless given. */
  close?: Closing;
  /** Whether it waits for events of another object. */
  listens?: boolean;
}

/** Makes `next()` of an iterator cooperative: an interrupt closes the iterator. */
export function leavable<I extends AsyncIterator<unknown>>(
  iterator: I,
  { text, close = () => leave(iterator), listens }: Loop,
): I {
  const { next } = iterator;
  const cooperative = mimic(function (this: unknown, ...args: [unknown]) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(next, this, args);
    const due = checkpoint(scope);
    if (due !== null) return leaveBy(due, scope, close);
    const promise = Reflect.apply(next, this, args);
    return operateStep(scope, promise, text, close, listens);
  }, next);
  const own = Object.getOwnPropertyDescriptor(iterator, "next");
  Object.defineProperty(
    iterator,
    "next",
    property({
      value: cooperative,
      writable: true,
      enumerable: own?.enumerable ?? false,
      configurable: true,
    }),
  );
  return iterator;
}

/** Calls `return()` of an iterator. */
export function leave(
  iterator: AsyncIterator<unknown>,
): PromiseLike<unknown> {
  const closing = iterator.return!();
  markHandled(closing);
  return closing;
}
