/**
 * Makes waits of the runtime's operations. All parts of `patch()` use this.
 *
 * @module
 */

import {
  argumentAt,
  ignore,
  markHandled,
  noOptions,
  ownThen,
  then,
} from "../_base/language.ts";
import {
  current,
  currentScope,
  interruptibleScope,
  runDetached,
} from "../_hub/current.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint, LazyPromise } from "../_hub/suspension.ts";
import type { Wait } from "../_hub/suspension.ts";
import { operate, operateLoosely } from "../_hub/operation.ts";
import { addSignal } from "../_hub/cancelling.ts";
import { callOf } from "../_hub/waits.ts";
import { isResolver } from "./resolver.ts";

/** A function of the runtime that returns a promise. */
// deno-lint-ignore no-explicit-any -- whatever it takes
type Asking<T> = (this: any, ...args: any[]) => Promise<T>;

/**
 * Makes a function cooperative that can't be cancelled. An interrupt of its caller leaves the
 * operation running.
 *
 * @param original The function.
 * @param discard Called with the result if the caller was interrupted.
 */
export function cooperate<T, F extends Asking<T>>(
  original: F & Asking<T>,
  discard: ((value: T) => void) | null = null,
): F {
  const text = `${original.name}()`;
  return function (this: unknown) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const promise = Reflect.apply(original, this, arguments as never);
    return operate(scope, promise, text, undefined, discard);
  } as F;
}

/**
 * Does the same as {@linkcode cooperate}, for a function that may wait for ever, such as one
 * that opens a pipe. After an interrupt the operation does not keep the process alive.
 */
export function cooperateLoosely<T, F extends Asking<T>>(
  original: F & Asking<T>,
  discard: ((value: T) => void) | null = null,
): F {
  const text = `${original.name}()`;
  return function (this: unknown) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const due = checkpoint(scope);
    if (due !== null) return due;
    return operateLoosely(
      scope,
      () => Reflect.apply(original, this, arguments as never),
      text,
      discard,
    );
  } as F;
}

/**
 * Makes a function cooperative that has a `signal` among its options. An interrupt of its
 * caller aborts the signal.
 *
 * @param original The function.
 * @param at The index of the options among its arguments.
 * @param discard Called with the result if the caller was interrupted.
 */
export function cooperateBySignal<T, F extends Asking<T>>(
  original: F & Asking<T>,
  at: number,
  discard: ((value: T) => void) | null = null,
): F {
  const text = `${original.name}()`;
  return function (this: unknown, ...args: unknown[]) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, args);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const abort = new AbortController();
    while (args.length < at) args[args.length] = undefined;
    const given = argumentAt(args, at);
    args[at] = addSignal(
      given === undefined ? noOptions() : given,
      abort.signal,
    );
    const promise = Reflect.apply(original, this, args as never);
    // Listeners of the signal run outside greenlets, not in the one that interrupts.
    const cancel = (error: unknown) => runDetached(() => abort.abort(error));
    return operate(scope, promise, text, cancel, discard);
  } as F;
}

/**
 * Makes a function cooperative that releases something and waits until it is released. It
 * releases it even if an interrupt is due.
 *
 * @param original The function.
 */
export function cooperateRelease<F extends Asking<unknown>>(original: F): F {
  const text = `${original.name}()`;
  return function (this: unknown) {
    const promise = Reflect.apply(original, this, arguments as never);
    const scope = interruptibleScope();
    if (scope === null) return promise;
    markHandled(promise);
    return checkpoint(scope) ?? operate(scope, promise, text);
  } as F;
}

/**
 * A promise that an object keeps, such as `writer.closed`. A wait begins when the promise is
 * awaited, not when the property is read.
 */
class ObservedPromise<T> extends LazyPromise<T> {
  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  readonly #promise: Promise<T>;
  readonly #text: string;
  readonly #cancel: (error: unknown) => void;
  /** The number of waits. */
  #waits = 0;

  constructor(
    promise: Promise<T>,
    text: string,
    cancel: (error: unknown) => void,
  ) {
    // The runtime itself does not call `then` of this object. Outside greenlets, as the
    // promise may live longer than the current one.
    super((resolve, reject) =>
      current.clear(() => void then(promise, resolve, reject))
    );
    current.clear(() => void ownThen(this, undefined, ignore));
    this.#promise = promise;
    this.#text = text;
    this.#cancel = cancel;
  }

  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    const scope = interruptibleScope();
    // Only an `await` calls this with a promise's own functions.
    if (scope === null || !isResolver(onFulfilled)) {
      return then(this.#promise, onFulfilled, onRejected);
    }
    return then(this.waitIn(scope), onFulfilled, onRejected);
  }

  override finally(onFinally?: (() => void) | null): Promise<T> {
    // The language would call our `then` with functions that look like those of an `await`,
    // and an interrupt would call them.
    return this.#promise.finally(onFinally);
  }

  [Symbol.iterator](): Iterator<unknown, T, unknown> {
    return this.waitIn(currentScope())[Symbol.iterator]();
  }

  override waitIn(scope: Scope): Wait<T> {
    const due = checkpoint(scope);
    if (due !== null) return due;
    this.#waits++;
    return operate(scope, this.#promise, this.#text, (error) => {
      if (--this.#waits === 0) this.#cancel(error);
    });
  }
}

const kept = new WeakMap<Promise<unknown>, ObservedPromise<unknown>>();

/**
 * Makes the getter of a kept promise return a cooperative promise.
 *
 * @param original The getter.
 * @param cancel Called with the object when the last greenlet that waits is interrupted.
 * @param name The name of the property; that of a getter begins with `get`.
 */
export function cooperateObserved<T>(
  original: (this: unknown) => Promise<T>,
  cancel: (object: unknown, error: unknown) => void = ignore,
  name: string = original.name.replace(/^get /, ""),
): (this: unknown) => Promise<T> {
  return function () {
    const promise = original.call(this);
    if (interruptibleScope() === null) return promise;
    const known = kept.get(promise) ??
      new ObservedPromise(
        promise,
        callOf(this as object, name),
        (error) => cancel(this, error),
      );
    kept.set(promise, known);
    return known as Promise<T>;
  };
}
