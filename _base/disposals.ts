/**
 * What is disposed of together, the last first: what `DisposableStack` of the language is,
 * which not all runtimes have.
 *
 * @module
 */

import { showAs } from "./inspecting.ts";

/** One that was added, and those before it. */
interface Added {
  readonly one: Disposable;
  readonly before: Added | null;
}

/**
 * Disposables that were collected, until they are disposed of. In no array, as a program may
 * have changed what to add to one does.
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

  /** Adds one, and returns it. */
  use<D extends Disposable>(one: D): D {
    this.#last = { one, before: this.#last };
    return one;
  }

  /** Adds a call that is made then. */
  defer(call: () => void): void {
    this.use({ [Symbol.dispose]: call });
  }

  /** Disposes of all, whatever some of them throw; then throws what the first of those has. */
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
