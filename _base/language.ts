/**
 * The language as it was when this module was loaded.
 *
 * If a program changes `Promise.prototype.then` or the iterator of arrays, the runtime's own
 * functions go on working. The functions that replace them must do so as well. So they use this
 * module, and neither spread nor destructure an array.
 *
 * @module
 */

const { then: original } = Promise.prototype;
const { apply } = Reflect;

/** Does nothing. */
export function ignore(): void {}

/**
 * Calls back when a promise settles, where `await` would go on. Uses the original `then`,
 * unless the promise is of a subclass.
 */
export function then<T, A = T, B = never>(
  promise: PromiseLike<T>,
  onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
  onRejected?: ((error: unknown) => B | PromiseLike<B>) | null,
): Promise<A | B> {
  return promise instanceof Promise && promise.constructor === Promise
    ? apply(original as () => never, promise, [onFulfilled, onRejected])
    : promise.then(onFulfilled, onRejected) as Promise<A | B>;
}

/** Uses the original `then` of a promise of any class. */
export function ownThen<T>(
  promise: Promise<T>,
  onFulfilled: ((value: T) => unknown) | undefined,
  onRejected: ((error: unknown) => unknown) | undefined,
): Promise<unknown> {
  return apply(original as () => never, promise, [onFulfilled, onRejected]);
}

/** Marks a promise as handled: if it fails, that is no unhandled rejection. */
export function markHandled(promise: PromiseLike<unknown>): void {
  then(promise, undefined, ignore);
}

/** Resolves to the values of several promises, or rejects with the first failure. */
export function allOf(
  promises: readonly (PromiseLike<unknown> | undefined)[],
): Promise<unknown[]> {
  return new Promise((resolve, reject) => {
    const results: unknown[] = [];
    let left = promises.length;
    promises.forEach((promise, i) => {
      then(Promise.resolve(promise), (result) => {
        results[i] = result;
        if (--left === 0) resolve(results);
      }, reject);
    });
  });
}

const { [Symbol.iterator]: values } = Array.prototype;
const iterators = Object.getPrototypeOf([][Symbol.iterator]());
const { next } = iterators;

/**
 * Whether the iterator of arrays is the original one. If it was changed, the runtime itself fails
 * when it combines signals.
 */
export function canIterateArrays(): boolean {
  return Array.prototype[Symbol.iterator] === values && iterators.next === next;
}

/** Makes a set of two. */
export function pairOf<T>(one: T, other: T): Set<T> {
  return new Set<T>().add(one).add(other);
}

/** The members of a set, in an array. */
export function membersOf<T>(set: ReadonlySet<T>): T[] {
  const members: T[] = [];
  set.forEach((member) => {
    members[members.length] = member;
  });
  return members;
}

/** Makes an iterable of two that does not depend on the iterator of arrays. */
export function iterableOf<T>(one: T, other: T): Iterable<T> {
  return {
    *[Symbol.iterator]() {
      yield one;
      yield other;
    },
  };
}

/** The argument at an index. A missing argument is not looked up in the prototype. */
export function argumentAt(args: ArrayLike<unknown>, at: number): unknown {
  return at < args.length ? args[at] : undefined;
}

/** Makes a descriptor of a property that inherits nothing from `Object.prototype`. */
export function property(descriptor: PropertyDescriptor): PropertyDescriptor {
  return bare({ ...descriptor });
}

/** Returns the same object without a prototype, so that it inherits nothing. */
export function bare<O extends object>(options: O): O {
  return Object.setPrototypeOf(options, null);
}

/** Makes empty options, to be filled in. */
export function noOptions<O extends object>(): O {
  return Object.create(null);
}

/**
 * A class that does not inherit from `Object.prototype`, where a program may have put something.
 * The engine reads its instances as fast as literals. It stores an object without a prototype as
 * a dictionary: with that, a hand-off through a `Queue` took 12 % longer.
 */
class NoOptions {
  static {
    Object.setPrototypeOf(this.prototype, null);
  }
}

/** The options of a call without options. */
export const NO_OPTIONS: Readonly<Record<never, never>> = Object.freeze(
  new NoOptions(),
);

/** Makes options with some of them replaced. The others are inherited. */
export function withOptions<O extends object>(
  options: O | null | undefined,
  replaced: Partial<Record<PropertyKey, unknown>>,
): O {
  const result = Object.create(options ?? null);
  Reflect.ownKeys(replaced).forEach((name) => {
    const value = replaced[name];
    Object.defineProperty(
      result,
      name,
      property({ value, writable: true, enumerable: true, configurable: true }),
    );
  });
  return result;
}
