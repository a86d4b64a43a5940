/**
 * Disposes of several objects together, the last first: a stand-in for `DisposableStack`, which
 * not all runtimes have.
 *
 * @module
 */

import { showAs } from "./inspecting.ts";

/** An object that was added, with the objects before it. */
interface Added {
  readonly one: Disposable;
  readonly before: Added | null;
}

/**
 * A collection of disposables. Not kept in an array, as a program may have changed the methods
 * of arrays.
 */
export class Disposals implements Disposable {
  #last: Added | null = null;
  #isDisposed = false;

  static {
    showAs(this, ({ isDisposed }) => ({ isDisposed }));
  }

  /** Whether they were disposed of. */
  get isDisposed(): boolean {
    return this.#isDisposed;
  }

  /** Adds an object, and returns it. */
  use<D extends Disposable>(one: D): D {
    this.#last = { one, before: this.#last };
    return one;
  }

  /** Adds a function, which is called at the disposal. */
  defer(call: () => void): void {
    this.use({ [Symbol.dispose]: call });
  }

  /** Disposes of all, even if some throw; then throws the first error. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    let failure: { readonly error: unknown } | null = null;
    while (this.#last !== null) {
      const { one, before } = this.#last;
      this.#last = before;
      try {
        one[Symbol.dispose]();
      } catch (error) {
        failure ??= { error };
      }
    }
    if (failure !== null) throw failure.error;
  }
}
