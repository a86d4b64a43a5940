/**
 * What `await` carries along: the context of a line of execution.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import {
  findInternals,
  type Internals,
  type Mapping,
} from "../_base/runtime.ts";

/** A value that is in force in a call and in all that it begins, through every `await`. */
export interface Context<T extends Mapped> {
  /** Calls `run` with `value` in force; `undefined` puts none in force. */
  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R;
  /**
   * Calls `run` with nothing in force, others' values included: what `run` begins would
   * keep them alive for as long as it lasts. Where the runtime's own functions can't be
   * reached, others' values stay in force.
   */
  clear<A extends unknown[], R>(run: (...args: A) => R, ...args: A): R;
  /** The value in force. */
  get(): T | undefined;
  /** Tells, by its identity, whether what is in force is the same, others' values too. */
  snapshot(): unknown;
}

/** Under which a value is among all that are in force. */
export const KEY = Symbol("gevent");

/**
 * A value that is also the mapping in which it is in force alone. So it can have no other
 * properties that are enumerable: they would get into the mappings of others' values.
 */
export interface Mapped {
  readonly [KEY]: this;
}

/** The runtime's own two functions for it, on which `AsyncLocalStorage` is built. */
type Carrier = Pick<Internals, "getAsyncContext" | "setAsyncContext">;

/**
 * The runtime's own `AsyncLocalStorage` makes a dictionary and an entry in a `WeakMap` of
 * each value in force: 350 bytes, and with 200,000 greenlets alive the garbage collector's
 * work on them took three times the time of everything else in a bare `async` function. An
 * entry among the others under a key of ours costs 8 bytes, and nothing to collect.
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

/** Whether nobody else has put anything in force. */
function isEmpty(mapping: Mapping): boolean {
  return mapping === undefined || mapping === null || mapping[KEY] === mapping;
}

/** Where the runtime's own functions can't be reached. */
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
    // Others' values can't be seen.
    return Symbol();
  }
}

/** A value to try them with. */
class Trial implements Mapped {
  readonly [KEY] = this;
}

/** The runtime's own functions, if they do what they did when this was written. */
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

/** Makes the context of this module's user: there can be one, as all share a key. */
export function makeContext<T extends Mapped>(): Context<T> {
  const carrier = findCarrier();
  return carrier === undefined ? new Stored() : new Direct(carrier);
}
