/**
 * Operations of the runtime that a call has begun.
 *
 * A running operation keeps the process alive, unless the runtime is told otherwise. That needs
 * the promise of the operation, which most functions do not return. But the runtime stores the
 * number of an operation in its promise, under a known symbol. So while a call is watched, a
 * setter on the prototype notes these promises. If the runtime changes that, none is noted, and
 * operations keep the process alive as usual.
 *
 * @module
 */

import { property, then } from "../_base/language.ts";
import { noteLeft, noteTaken } from "../_base/left.ts";
import { findInternals } from "../_base/runtime.ts";

const { promiseIdSymbol, refOpPromise, unrefOpPromise } = findInternals();

/** The call that is watched. A variable, as nothing can be passed to a setter. */
let watching: Begun | null = null;

/** The property of promises that stands for the number, while a call is watched. */
const accessor: PropertyDescriptor = property({
  configurable: true,
  get: () => undefined,
  set(value) {
    // Sets the number as the runtime would without the setter.
    Object.defineProperty(
      this,
      promiseIdSymbol!,
      property({ value, writable: true, enumerable: true, configurable: true }),
    );
    watching?.note(this);
  },
});

/** The operations that the last watched call has begun. */
export class Begun {
  #operations: object[] = [];
  #isHeld = true;

  /**
   * Watches a call. That takes 2 µs, so use it only for calls that take longer or may never
   * end.
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
   * Watches a call and the microtask that it queues: an async function queues one if it first
   * awaits a settled promise.
   */
  watchOn<R>(call: () => R): R {
    let before: Begun | null | undefined;
    // By then the microtasks queued before have run, and later ones have not.
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

  /** Notes an operation that was begun and did not end at once. */
  note(operation: object): void {
    this.#operations.push(operation);
    if (!this.#isHeld) leave(operation);
  }

  /**
   * Leaves the operations of the call behind, and later ones: nothing waits for them, so they
   * keep neither the process alive nor main from a `LoopExit`.
   */
  unref(): void {
    this.#isHeld = false;
    this.#operations.forEach(leave);
  }

  /** As {@linkcode Begun.unref}, where the owner itself lets the process end. */
  leave(): void {
    this.#operations.forEach(noteLeft);
  }

  /** Ends {@linkcode Begun.leave}. */
  take(): void {
    this.#operations.forEach(noteTaken);
  }

  /**
   * Lets later operations of the call keep the process alive.
   *
   * @param now Whether the current operations do so as well.
   */
  ref(now = true): void {
    this.#isHeld = true;
    this.take();
    if (!now) return;
    this.#operations.forEach((it) => tell(refOpPromise, it));
  }
}

const resolved = Promise.resolve();

/** Has an operation keep neither the process alive nor main from a `LoopExit`. */
function leave(operation: object): void {
  tell(unrefOpPromise, operation);
  noteLeft(operation);
}

function tell(
  what: ((operation: object) => void) | undefined,
  operation: object,
): void {
  try {
    what?.(operation);
  } catch {
    // The runtime has changed: the operations keep the process alive.
  }
}

function install(): boolean {
  return promiseIdSymbol !== undefined &&
    Reflect.defineProperty(Promise.prototype, promiseIdSymbol, accessor);
}

function uninstall(): void {
  Reflect.deleteProperty(Promise.prototype, promiseIdSymbol!);
}
