/**
 * How tests wait for what they must not race with: for turns of the event loop, for a
 * condition, for interrupts. None of it depends on how fast the machine is.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import timers from "node:timers";

// Taken at import, so that `patch()` does not change it.
const { setImmediate } = timers;
/** Calls a function where no greenlet is current, so that no interrupt reaches its timer. */
const outside = AsyncLocalStorage.snapshot();

/** Lets the event loop turn, so many times. */
export async function turns(count = 1): Promise<void> {
  for (let i = 0; i < count; i++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

/** How many turns go by before {@linkcode when} looks less often. */
const EAGER_TURNS = 200;

/** How long to wait for what never comes, in ms: longer than any machine takes. */
export const PATIENCE = 120_000;

/** Waits until a condition holds, at which it looks in each turn of the event loop. */
export async function when(condition: () => unknown): Promise<void> {
  const end = performance.now() + PATIENCE;
  for (let i = 0; !condition(); i++) {
    if (performance.now() > end) throw new Error(`Not in time: ${condition}`);
    if (i < EAGER_TURNS) await turns();
    // What takes longer is done by another thread or process, which needs the core.
    else await outside(() => new Promise((resolve) => setTimeout(resolve, 1)));
  }
}

/** A promise that a test settles, or waits for. */
export class Gate {
  readonly #gate = Promise.withResolvers<void>();
  isOpen = false;

  get opened(): Promise<void> {
    return this.#gate.promise;
  }

  open(): void {
    this.isOpen = true;
    this.#gate.resolve();
  }
}

/** Counts interrupts, for a peer that has to be slower than they are. */
export class Interrupts {
  count = 0;
  #patient = 0;
  readonly #waiting = new Set<{ enough: number; resolve: () => void }>();

  /** Something was interrupted. */
  note(): void {
    this.count++;
    this.#wake();
  }

  /** Waits for so many more, but not while something runs that nothing interrupts. */
  async more(count: number): Promise<void> {
    const enough = this.count + count;
    if (this.#patient > 0 || count <= 0) return;
    await new Promise<void>((resolve) =>
      this.#waiting.add({ enough, resolve })
    );
  }

  /** Runs what nothing interrupts. */
  async patiently<T>(run: () => Promise<T>): Promise<T> {
    this.#patient++;
    this.#wake();
    try {
      return await run();
    } finally {
      this.#patient--;
    }
  }

  #wake(): void {
    for (const one of this.#waiting) {
      if (this.#patient === 0 && this.count < one.enough) continue;
      this.#waiting.delete(one);
      one.resolve();
    }
  }
}
