/**
 * Operations of the runtime as waits: what the parts of `patch()` share.
 *
 * @module
 */

import {
  argumentAt,
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
import { withSignal } from "../_hub/cancelling.ts";
import { isResolver } from "./resolver.ts";

function ignore(): void {}

/** A function of the runtime that gives a promise. */
// deno-lint-ignore no-explicit-any -- whatever it takes
type Asking<T> = (this: any, ...args: any[]) => Promise<T>;

/**
 * The cooperative form of a function that can't be cancelled: it goes on when its caller
 * is interrupted.
 *
 * @param original The function.
 * @param discard Called with a result that nobody waits for any more.
 */
export function cooperate<T, F extends Asking<T>>(
  original: F & Asking<T>,
  discard: ((value: T) => void) | null = null,
): F {
  return function (this: unknown) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const promise = Reflect.apply(original, this, arguments as never);
    return operate(scope, promise, undefined, discard);
  } as F;
}

/**
 * As {@linkcode cooperate}, for a function that may wait for somebody else for ever, as the
 * opening of a pipe does: when its caller is interrupted, it does not keep the process alive.
 */
export function cooperateLoosely<T, F extends Asking<T>>(
  original: F & Asking<T>,
  discard: ((value: T) => void) | null = null,
): F {
  return function (this: unknown) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const due = checkpoint(scope);
    if (due !== null) return due;
    return operateLoosely(
      scope,
      () => Reflect.apply(original, this, arguments as never),
      discard,
    );
  } as F;
}

/**
 * The cooperative form of a function that takes a signal among its options, by which an
 * interrupt cancels it.
 *
 * @param original The function.
 * @param at Which of its arguments the options are.
 * @param discard Called with a result that nobody waits for any more.
 */
export function cooperateBySignal<T, F extends Asking<T>>(
  original: F & Asking<T>,
  at: number,
  discard: ((value: T) => void) | null = null,
): F {
  return function (this: unknown, ...args: unknown[]) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, args);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const abort = new AbortController();
    while (args.length < at) args[args.length] = undefined;
    args[at] = withSignal(argumentAt(args, at) ?? noOptions(), abort.signal);
    const promise = Reflect.apply(original, this, args as never);
    // What listens to the signal is no part of whoever interrupts.
    const cancel = (error: unknown) => runDetached(() => abort.abort(error));
    return operate(scope, promise, cancel, discard);
  } as F;
}

/**
 * The cooperative form of a function that gives something back, and then waits until it is
 * gone: it is given back whatever is due.
 *
 * @param original The function.
 */
export function cooperateRelease<F extends Asking<unknown>>(original: F): F {
  return function (this: unknown) {
    const promise = Reflect.apply(original, this, arguments as never);
    const scope = interruptibleScope();
    if (scope === null) return promise;
    markHandled(promise);
    return checkpoint(scope) ?? operate(scope, promise);
  } as F;
}

/**
 * A promise that an object keeps, such as `writer.closed`: a wait begins when somebody
 * awaits it, and not when it is looked at.
 */
class ObservedPromise<T> extends LazyPromise<T> {
  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  readonly #promise: Promise<T>;
  readonly #cancel: (error: unknown) => void;
  /** How many wait. */
  #waits = 0;

  constructor(promise: Promise<T>, cancel: (error: unknown) => void) {
    // What the runtime itself does with it passes `then` by. In no context, as the
    // promise may last.
    super((resolve, reject) =>
      current.clear(() => void then(promise, resolve, reject))
    );
    current.clear(() => void ownThen(this, undefined, ignore));
    this.#promise = promise;
    this.#cancel = cancel;
  }

  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    const scope = interruptibleScope();
    // As the language calls it for an `await`.
    if (scope === null || !isResolver(onFulfilled)) {
      return then(this.#promise, onFulfilled, onRejected);
    }
    return then(this.waitIn(scope), onFulfilled, onRejected);
  }

  override finally(onFinally?: (() => void) | null): Promise<T> {
    // What the language would give to our `then` looks as if it were for an `await`, and
    // would be called at an interrupt.
    return this.#promise.finally(onFinally);
  }

  [Symbol.iterator](): Iterator<unknown, T, unknown> {
    return this.waitIn(currentScope())[Symbol.iterator]();
  }

  override waitIn(scope: Scope): Wait<T> {
    const due = checkpoint(scope);
    if (due !== null) return due;
    this.#waits++;
    return operate(scope, this.#promise, (error) => {
      if (--this.#waits === 0) this.#cancel(error);
    });
  }
}

const kept = new WeakMap<Promise<unknown>, ObservedPromise<unknown>>();

/**
 * The getter of a promise that an object keeps, such that the promise is cooperative.
 *
 * @param original The getter.
 * @param cancel Called with the object when the last greenlet that waits is interrupted.
 */
export function cooperateObserved<T>(
  original: (this: unknown) => Promise<T>,
  cancel: (object: unknown, error: unknown) => void = ignore,
): (this: unknown) => Promise<T> {
  return function () {
    const promise = original.call(this);
    if (interruptibleScope() === null) return promise;
    const known = kept.get(promise) ??
      new ObservedPromise(promise, (error) => cancel(this, error));
    kept.set(promise, known);
    return known as Promise<T>;
  };
}
