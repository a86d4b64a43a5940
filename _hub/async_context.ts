/**
 * The async context: values that stay in force through every `await`.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import {
  findInternals,
  type Internals,
  type Mapping,
} from "../_base/runtime.ts";

/** A value that is in force during a call and everything that the call begins. */
export interface Context<T extends Mapped> {
  /** Calls `run` with `value` in force; without one, if it is `undefined`. */
  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R;
  /**
   * Calls `run` with no value in force, not even one of other code: the operations that `run`
   * begins would keep the values alive. Without access to the runtime's own functions, the
   * values of other code stay in force.
   */
  clear<A extends unknown[], R>(run: (...args: A) => R, ...args: A): R;
  /** The value in force. */
  get(): T | undefined;
  /** Returns the same object while the same values are in force, those of other code included. */
  snapshot(): unknown;
}

/** The key of this library's value in the runtime's mapping of all values. */
export const KEY = Symbol("gevent");

/**
 * A value that is also a mapping, with itself as the only value. It must have no other
 * enumerable property: that would be copied into the mappings with values of other code.
 */
export interface Mapped {
  readonly [KEY]: this;
}

/** The two functions of the runtime on which `AsyncLocalStorage` is built. */
type Carrier = Pick<Internals, "getAsyncContext" | "setAsyncContext">;

/**
 * The context by the runtime's own functions. `AsyncLocalStorage` makes a dictionary and an
 * entry in a `WeakMap` for each value: 350 bytes. With 200,000 greenlets alive, the garbage
 * collector then takes three times as long as with bare `async` functions. An entry under a key
 * of this library takes 8 bytes, and leaves nothing to collect.
 */
class Direct<T extends Mapped> implements Context<T> {
  readonly #get: Carrier["getAsyncContext"];
  readonly #set: Carrier["setAsyncContext"];

  constructor(carrier: Carrier) {
    this.#get = carrier.getAsyncContext;
    this.#set = carrier.setAsyncContext;
  }

  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R {
    const before = this.#get();
    this.#set(
      isEmpty(before)
        ? value as Mapping
        : { __proto__: null, ...before, [KEY]: value },
    );
    try {
      return Reflect.apply(run, undefined, args);
    } finally {
      this.#set(before);
    }
  }

  clear<A extends unknown[], R>(run: (...args: A) => R, ...args: A): R {
    const before = this.#get();
    this.#set(undefined);
    try {
      return Reflect.apply(run, undefined, args);
    } finally {
      this.#set(before);
    }
  }

  get(): T | undefined {
    return this.#get()?.[KEY] as T | undefined;
  }

  snapshot(): unknown {
    return this.#get();
  }
}

/** Whether other code has no value in force. */
function isEmpty(mapping: Mapping): boolean {
  return mapping === undefined || mapping === null || mapping[KEY] === mapping;
}

/** The context by `AsyncLocalStorage`, for runtimes whose own functions can't be reached. */
class Stored<T extends Mapped> implements Context<T> {
  readonly #storage: AsyncLocalStorage<T | undefined> = new AsyncLocalStorage();

  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R {
    return this.#storage.run(value, run, ...args);
  }

  clear<A extends unknown[], R>(run: (...args: A) => R, ...args: A): R {
    return this.#storage.run(undefined, run, ...args);
  }

  get(): T | undefined {
    return this.#storage.getStore();
  }

  snapshot(): unknown {
    // Values of other code can't be seen, so two contexts are never known to be the same.
    return Symbol();
  }
}

/** A value with which the runtime's functions are tried. */
class Trial implements Mapped {
  readonly [KEY] = this;
}

/** Finds the runtime's own functions, if they work as expected. */
function findCarrier(): Carrier | undefined {
  const { getAsyncContext, setAsyncContext } = findInternals();
  if (!getAsyncContext || !setAsyncContext) return undefined;
  const before = getAsyncContext();
  try {
    const storage = new AsyncLocalStorage<number>();
    const mapping = new Trial();
    setAsyncContext(mapping as unknown as Mapping);
    const seen = storage.run(2, () => [
      getAsyncContext()?.[KEY],
      storage.getStore(),
    ]);
    const works = seen[0] === mapping && seen[1] === 2 &&
      getAsyncContext() as unknown === mapping;
    return works ? { getAsyncContext, setAsyncContext } : undefined;
  } catch {
    return undefined;
  } finally {
    setAsyncContext(before);
  }
}

/** Makes the context. There is one key, so this must be called once only. */
export function makeContext<T extends Mapped>(): Context<T> {
  const carrier = findCarrier();
  return carrier === undefined ? new Stored() : new Direct(carrier);
}
