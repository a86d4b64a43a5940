/**
 * Waits for tests: for turns of the event loop, for a condition, for interrupts. None of it
 * depends on how fast the machine is.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import timers from "node:timers";

// Taken at import, so that neither `patch()` changes it, nor a clock that is imported later.
const { setImmediate } = timers;
const { setTimeout } = globalThis;
const now = performance.now.bind(performance);
/** Calls a function where no greenlet is current, so that no interrupt reaches its timer. */
const outside = AsyncLocalStorage.snapshot();

/** Waits for `count` turns of the event loop. */
export async function turns(count = 1): Promise<void> {
  for (let i = 0; i < count; i++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

/** The number of turns after which {@linkcode when} looks less often. */
const EAGER_TURNS = 20;

/** The limit of a wait that may never end, in ms: longer than any machine takes. */
export const PATIENCE = 120_000;

/** Waits a little, so that other processes get the core. */
function pause(ms = 1): Promise<void> {
  return outside(() => new Promise((resolve) => setTimeout(resolve, ms)));
}

/** Waits until a condition holds, which it checks in each turn of the event loop. */
export async function when(condition: () => unknown): Promise<void> {
  const end = now() + PATIENCE;
  for (let i = 0; !condition(); i++) {
    if (now() > end) throw new Error(`Not in time: ${condition}`);
    await (i < EAGER_TURNS ? turns() : pause());
  }
}

/** The longest pause of {@linkcode whenSeen}, in ms. */
const LONGEST_PAUSE = 32;

/**
 * Waits until a condition holds that runs a program, such as `ps`: checks it less and less often,
 * as each check takes 30 ms of processor time.
 */
export async function whenSeen(condition: () => unknown): Promise<void> {
  const end = now() + PATIENCE;
  for (let ms = 1; !condition(); ms = Math.min(2 * ms, LONGEST_PAUSE)) {
    if (now() > end) throw new Error(`Not in time: ${condition}`);
    await pause(ms);
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

/** Counts interrupts. A peer waits for some of them before it answers. */
export class Interrupts {
  count = 0;
  #patient = 0;
  readonly #waiting = new Set<{ enough: number; resolve: () => void }>();

  /** Counts one interrupt. */
  note(): void {
    this.count++;
    this.#wake();
  }

  /**
   * Waits for `count` more interrupts. While {@linkcode Interrupts.patiently} runs, waits only a
   * moment.
   */
  async more(count: number): Promise<void> {
    if (count <= 0) return;
    if (this.#patient > 0) {
      await turns();
      return await pause();
    }
    const enough = this.count + count;
    await new Promise<void>((resolve) =>
      this.#waiting.add({ enough, resolve })
    );
  }

  /** Runs a function that is not interrupted. */
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

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Method = (this: any, ...args: any[]) => any;

/**
 * Watches operations of the runtime that go on when their caller is interrupted. Must be made
 * before `patch()`, which takes its functions for the runtime's own, and disposed of after it.
 */
export class Operations implements Disposable {
  readonly #restored = new DisposableStack();
  #pending = 0;

  /** Watches methods of an object, or of a prototype. */
  constructor(object: object, ...names: PropertyKey[]) {
    for (const name of names) this.#watch(object, name);
  }

  #watch(object: object, name: PropertyKey): void {
    const before = Object.getOwnPropertyDescriptor(object, name);
    this.#restored.defer(() => {
      if (before === undefined) Reflect.deleteProperty(object, name);
      else Object.defineProperty(object, name, before);
    });
    const original: Method = Reflect.get(object, name);
    const begin = (result: unknown) => {
      if (!(result instanceof Promise)) return;
      this.#pending++;
      const end = () => this.#pending--;
      result.then(end, end);
    };
    const value: Method = function () {
      const result = Reflect.apply(original, this, arguments);
      begin(result);
      return result;
    };
    Object.defineProperty(object, name, {
      configurable: true,
      enumerable: true,
      writable: true,
      ...before,
      value,
    });
  }

  /**
   * Waits until all operations that were begun have ended, and their callbacks have run.
   */
  async over(): Promise<void> {
    // A callback of one operation may begin another.
    do {
      await when(() => this.#pending === 0);
      await turns(2);
    } while (this.#pending > 0);
  }

  [Symbol.dispose](): void {
    this.#restored.dispose();
  }
}

/** The limit of {@linkcode atOnce}, in ms: it separates "at once" from "never". */
const AT_ONCE = 15_000;

/**
 * Waits for what comes at once, and fails if it does not come. It counts turns of the event loop
 * and sets no timer, so it can be used with a clock that is moved by hand.
 */
export async function atOnce<T>(
  awaited: PromiseLike<T> | (() => boolean),
  what = "It",
): Promise<T> {
  let isOver = false;
  const over = () => void (isOver = true);
  if (typeof awaited !== "function") awaited.then(over, over);
  const end = now() + AT_ONCE;
  while (!isOver) {
    if (typeof awaited === "function") isOver = awaited();
    if (now() > end) throw new Error(`${what} does not come`);
    await turns();
  }
  return await (awaited as PromiseLike<T>);
}
