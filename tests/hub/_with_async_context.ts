/**
 * Preloaded, it gives the program the language's `AsyncContext`, and hides what the runtime has
 * in its place.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import "./_without_context.ts";

class Variable {
  readonly #storage = new AsyncLocalStorage();

  run<A extends unknown[], R>(
    value: unknown,
    run: (...args: A) => R,
    ...args: A
  ): R {
    return this.#storage.run(value, run, ...args);
  }

  get(): unknown {
    return this.#storage.getStore();
  }
}

class Snapshot {
  readonly run = AsyncLocalStorage.snapshot();
}

Reflect.set(globalThis, "AsyncContext", { Variable, Snapshot });
