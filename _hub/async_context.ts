/**
 * The context of a line of execution, which `await` carries along.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import {
  findInternals,
  type Internals,
  type Mapping,
} from "../_base/runtime.ts";

/** A value in force in a call and in everything that it begins, through every `await`. */
export interface Context<T extends Mapped> {
  /** Calls `run` with `value` in force; with none, if it is `undefined`. */
  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R;
  /**
   * Calls `run` with nothing in force, values of other code included: what `run` begins would
   * keep them alive until it is over. Where the runtime's own functions can't be reached, the
   * values of other code stay in force.
   */
  clear<A extends unknown[], R>(run: (...args: A) => R, ...args: A): R;
  /** The value in force. */
  get(): T | undefined;
  /** An object that is the same as long as the same values are in force, all code included. */
  snapshot(): unknown;
}

/** The key of our value among all values that are in force. */
export const KEY = Symbol("gevent");

/**
 * A value that is also the mapping in which it alone is in force. It can have no other
 * enumerable property, as that would get into the mappings with values of other code.
 */
export interface Mapped {
  readonly [KEY]: this;
}

/** The runtime's own two functions for it, on which `AsyncLocalStorage` is built. */
type Carrier = Pick<Internals, "getAsyncContext" | "setAsyncContext">;

/**
 * The context by the runtime's own functions. Its `AsyncLocalStorage` makes a dictionary and an
 * entry in a `WeakMap` for each value in force: 350 bytes. With 200,000 greenlets alive, the
 * garbage collector spends three times the time of a bare `async` function on them. An entry
 * among the other values under a key of ours takes 8 bytes, and nothing to collect.
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

/** Whether no other code has a value in force. */
function isEmpty(mapping: Mapping): boolean {
  return mapping === undefined || mapping === null || mapping[KEY] === mapping;
}

/** The context by `AsyncLocalStorage`, where the runtime's own functions can't be reached. */
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
    // The values of other code can't be seen, so it is never the same.
    return Symbol();
  }
}

/** A value to try the runtime's functions with. */
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

/** Makes the context. There can be one only, as there is one key. */
export function makeContext<T extends Mapped>(): Context<T> {
  const carrier = findCarrier();
  return carrier === undefined ? new Stored() : new Direct(carrier);
}
