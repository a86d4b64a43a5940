/**
 * Operations of the runtime that a call has begun.
 *
 * An operation that is not over keeps the process alive, unless the runtime is told otherwise.
 * That takes the promise of the operation, which most functions do not return. But the runtime
 * stores the number of an operation in its promise, under a symbol that we know: while a call
 * is watched, a setter on the prototype tells us of the promises. Where the runtime does it in
 * another way, none is seen, and operations keep the process alive as ever.
 *
 * @module
 */

import { property, then } from "../_base/language.ts";
import { findInternals } from "../_base/runtime.ts";

const { promiseIdSymbol, refOpPromise, unrefOpPromise } = findInternals();

/** Where the setter notes operations. A variable, as nothing can be passed to it. */
let watching: Begun | null = null;

/** The property of promises that stands for the number, while a call is watched. */
const accessor: PropertyDescriptor = property({
  configurable: true,
  get: () => undefined,
  set(value) {
    // The promise gets its number as it would without us.
    Object.defineProperty(
      this,
      promiseIdSymbol!,
      property({ value, writable: true, enumerable: true, configurable: true }),
    );
    watching?.note(this);
  },
});

/** The operations that the call has begun which was watched last. */
export class Begun {
  #operations: object[] = [];
  #isHeld = true;

  /**
   * Watches a call. That takes 2 µs, so it is for calls that take longer, or may never end.
   */
  watch<R>(call: () => R): R {
    this.#operations = [];
    const before = watching;
    if (before === null && !install()) return call();
    watching = this;
    try {
      return call();
    } finally {
      watching = before;
      if (before === null) uninstall();
    }
  }

  /**
   * Watches a call and the microtask that it queues, as an async function does which first
   * awaits a promise that is settled.
   */
  watchOn<R>(call: () => R): R {
    let before: Begun | null | undefined;
    // The microtasks before this one are over then, and those behind it have not begun.
    then(resolved, () => {
      if (watching === null && !install()) return;
      before = watching;
      watching = this;
    });
    const result = this.watch(call);
    then(resolved, () => {
      if (before === undefined) return;
      watching = before;
      if (before === null) uninstall();
    });
    return result;
  }

  /** Notes an operation that was begun, and was not over at once. */
  note(operation: object): void {
    this.#operations.push(operation);
    if (!this.#isHeld) tell(unrefOpPromise, operation);
  }

  /** Has the operations, and later ones of the call, not keep the process alive. */
  unref(): void {
    this.#isHeld = false;
    this.#operations.forEach((it) => tell(unrefOpPromise, it));
  }

  /**
   * Has later operations of the call keep the process alive.
   *
   * @param now Whether the present ones do so as well.
   */
  ref(now = true): void {
    this.#isHeld = true;
    if (!now) return;
    this.#operations.forEach((it) => tell(refOpPromise, it));
  }
}

const resolved = Promise.resolve();

function tell(
  what: ((operation: object) => void) | undefined,
  operation: object,
): void {
  try {
    what?.(operation);
  } catch {
    // The runtime has changed. The process is kept alive then.
  }
}

function install(): boolean {
  return promiseIdSymbol !== undefined &&
    Reflect.defineProperty(Promise.prototype, promiseIdSymbol, accessor);
}

function uninstall(): void {
  Reflect.deleteProperty(Promise.prototype, promiseIdSymbol!);
}
