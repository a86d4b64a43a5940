/**
 * What the language has made, as it was when this was loaded.
 *
 * A program may change `Promise.prototype.then`, or the iterator of arrays, and the runtime's
 * own functions go on working. So do those that stand for them: they use what is here, and
 * neither spread nor destructure an array.
 *
 * @module
 */

const { then: original } = Promise.prototype;
const { apply } = Reflect;

/** Does nothing. */
export function ignore(): void {}

/**
 * Calls back when a promise settles, as `await` would go on: by the original `then`, unless
 * the promise is of a class of its own.
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

/** As {@linkcode then}, of a promise of whatever class. */
export function ownThen<T>(
  promise: Promise<T>,
  onFulfilled: ((value: T) => unknown) | undefined,
  onRejected: (error: unknown) => unknown,
): void {
  apply(original as () => never, promise, [onFulfilled, onRejected]);
}

/** That a promise fails is no unhandled rejection. */
export function markHandled(promise: PromiseLike<unknown>): void {
  then(promise, undefined, ignore);
}

/** What several promises give, when all have; the first failure, if there is one. */
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
 * Whether arrays are iterated over as ever. The runtime itself does so where it combines
 * signals, and fails where they are not.
 */
export function canIterateArrays(): boolean {
  return Array.prototype[Symbol.iterator] === values && iterators.next === next;
}

/** A set of two. */
export function pairOf<T>(one: T, other: T): Set<T> {
  return new Set<T>().add(one).add(other);
}

/** What is in a set now. */
export function membersOf<T>(set: ReadonlySet<T>): T[] {
  const members: T[] = [];
  set.forEach((member) => {
    members[members.length] = member;
  });
  return members;
}

/** Two of a kind, to be iterated over by whatever the runtime does that by. */
export function iterableOf<T>(one: T, other: T): Iterable<T> {
  return {
    *[Symbol.iterator]() {
      yield one;
      yield other;
    },
  };
}

/** An argument; one that was not given is not looked for in the prototype of arrays. */
export function argumentAt(args: ArrayLike<unknown>, at: number): unknown {
  return at < args.length ? args[at] : undefined;
}

/** What a property is defined by, whatever is in `Object.prototype`. */
export function property(descriptor: PropertyDescriptor): PropertyDescriptor {
  return bare({ ...descriptor });
}

/** The same object, which inherits nothing that somebody can have put into a prototype. */
export function bare<O extends object>(options: O): O {
  return Object.setPrototypeOf(options, null);
}

/** Options that nobody has given, to be filled in. */
export function noOptions<O extends object>(): O {
  return Object.create(null);
}

/** The options of a call that was given none. */
export const NO_OPTIONS: Readonly<Record<never, never>> = Object.freeze(
  noOptions(),
);

/** Options with some of them replaced; the others are looked for where they were. */
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
