/**
 * Operations of the runtime that a call has begun.
 *
 * An operation that is not over keeps the process alive, unless the runtime is told that it
 * need not. For that its promise is needed, which most functions keep to themselves. But the
 * runtime notes the number of an operation with its promise, under a symbol that we know: so
 * as long as a call is watched, a setter tells us of the numbers. Where the runtime does it
 * in another way, nothing is seen, and operations keep the process alive as they would.
 *
 * @module
 */

import { findInternals } from "./_runtime.ts";

const { promiseIdSymbol, refOpPromise, unrefOpPromise } = findInternals();

/** Whether the runtime has what is needed. */
const isAble = promiseIdSymbol !== undefined && refOpPromise !== undefined &&
  unrefOpPromise !== undefined;

/** What is watched now. */
let watching: Begun | null = null;

/** Stands for the number of each promise while something is watched. */
const accessor: PropertyDescriptor = {
  configurable: true,
  get: () => undefined,
  set(value) {
    // As it would be without us.
    Object.defineProperty(this, promiseIdSymbol!, {
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    });
    watching?.note(value);
  },
};

/** The operations that were begun in the call that was watched last. */
export class Begun {
  #ids: number[] = [];
  #isHeld = true;

  /**
   * Watches a call. To do so takes 2 µs, so it is for what takes longer than that, or may
   * take for ever.
   */
  watch<R>(call: () => R): R {
    this.#ids = [];
    const before = watching;
    if (!isAble || before === null && !begin()) return call();
    watching = this;
    try {
      return call();
    } finally {
      watching = before;
      if (before === null) {
        Reflect.deleteProperty(Promise.prototype, promiseIdSymbol!);
      }
    }
  }

  /** One was begun, and not over at once. */
  note(id: unknown): void {
    if (typeof id !== "number") return;
    this.#ids.push(id);
    if (!this.#isHeld) unrefOpPromise!({ [promiseIdSymbol!]: id });
  }

  /** Has them, and those that are begun from now on, not keep the process alive. */
  unref(): void {
    this.#isHeld = false;
    for (const id of this.#ids) unrefOpPromise!({ [promiseIdSymbol!]: id });
  }

  /** Has them do so. */
  ref(): void {
    this.#isHeld = true;
    for (const id of this.#ids) refOpPromise!({ [promiseIdSymbol!]: id });
  }
}

/** Whether the setter is in its place. */
function begin(): boolean {
  return Reflect.defineProperty(Promise.prototype, promiseIdSymbol!, accessor);
}
