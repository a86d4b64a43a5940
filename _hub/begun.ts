/**
 * Operations of the runtime that a call has begun.
 *
 * An operation that is not over keeps the process alive, unless the runtime is told that it
 * need not. For that its promise is needed, which most functions keep to themselves. But the
 * runtime notes the number of an operation with its promise, under a symbol that we know: so
 * as long as a call is watched, a setter tells us of the promises. Where the runtime does it
 * in another way, none is seen, and operations keep the process alive as they would.
 *
 * @module
 */

import { property, then } from "../_base/language.ts";
import { findInternals } from "../_base/runtime.ts";

const { promiseIdSymbol, refOpPromise, unrefOpPromise } = findInternals();

/** What is watched now. */
let watching: Begun | null = null;

/** Stands for the number of each promise while something is watched. */
const accessor: PropertyDescriptor = property({
  configurable: true,
  get: () => undefined,
  set(value) {
    // As it would be without us.
    Object.defineProperty(
      this,
      promiseIdSymbol!,
      property({ value, writable: true, enumerable: true, configurable: true }),
    );
    watching?.note(this);
  },
});

/** The operations that were begun in the call that was watched last. */
export class Begun {
  #operations: object[] = [];
  #isHeld = true;

  /**
   * Watches a call. To do so takes 2 µs, so it is for what takes longer than that, or may
   * take for ever.
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
   * Watches a call and the microtask that it queues, as an async function does that first
   * awaits what is there already.
   */
  watchOn<R>(call: () => R): R {
    let before: Begun | null | undefined;
    // Those before ours in line are over by then, and those behind it have not begun.
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

  /** One was begun, and not over at once. */
  note(operation: object): void {
    this.#operations.push(operation);
    if (!this.#isHeld) tell(unrefOpPromise, operation);
  }

  /** Has them, and those that are begun from now on, not keep the process alive. */
  unref(): void {
    this.#isHeld = false;
    this.#operations.forEach((it) => tell(unrefOpPromise, it));
  }

  /**
   * Has those do so that are begun from now on.
   *
   * @param now Whether those as well that were begun.
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
    // A runtime that has changed it: the process is kept alive then.
  }
}

function install(): boolean {
  return promiseIdSymbol !== undefined &&
    Reflect.defineProperty(Promise.prototype, promiseIdSymbol, accessor);
}

function uninstall(): void {
  Reflect.deleteProperty(Promise.prototype, promiseIdSymbol!);
}
