/**
 * What `await` carries along: the context of a line of execution.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";

/** A value that is in force in a call and in all that it begins, through every `await`. */
export interface Context<T extends object> {
  /** Calls `run` with `value` in force; `undefined` puts none in force. */
  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R;
  /** The value in force. */
  get(): T | undefined;
  /** Tells, by its identity, whether what is in force is the same, others' values too. */
  snapshot(): unknown;
}

const KEY = Symbol("gevent");

/** What the runtime keeps for each `await`: all values in force. */
type Mapping =
  | { readonly [key: PropertyKey]: unknown }
  | Alone
  | null
  | undefined;

/** The runtime's own two functions for it, on which `AsyncLocalStorage` is built. */
interface Carrier {
  getAsyncContext(): Mapping;
  setAsyncContext(mapping: Mapping): void;
}

/** The mapping when nobody else has put anything in force. */
class Alone {
  readonly [KEY]: unknown;

  constructor(value: unknown) {
    this[KEY] = value;
  }
}

/**
 * The runtime's own `AsyncLocalStorage` makes a dictionary and an entry in a `WeakMap` of
 * each value in force: 350 bytes, and with 200,000 greenlets alive the garbage collector's
 * work on them took three times the time of everything else in a bare `async` function. An
 * entry among the others under a key of ours costs 24 bytes, and nothing to collect.
 */
class Direct<T extends object> implements Context<T> {
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
    const isAlone = before === undefined || before === null ||
      before instanceof Alone;
    this.#set(
      isAlone ? new Alone(value) : { __proto__: null, ...before, [KEY]: value },
    );
    try {
      return run(...args);
    } finally {
      this.#set(before);
    }
  }

  get(): T | undefined {
    return (this.#get() as Alone | undefined)?.[KEY] as T | undefined;
  }

  snapshot(): unknown {
    return this.#get();
  }
}

/** Where the runtime's own functions can't be reached. */
class Stored<T extends object> implements Context<T> {
  readonly #storage: AsyncLocalStorage<T | undefined> = new AsyncLocalStorage();

  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R {
    return this.#storage.run(value, run, ...args);
  }

  get(): T | undefined {
    return this.#storage.getStore();
  }

  snapshot(): unknown {
    // Others' values can't be seen.
    return Symbol();
  }
}

/** The runtime's own functions, if they do what they did when this was written. */
function findCarrier(): Carrier | undefined {
  const runtime: Record<PropertyKey, unknown> | undefined = Reflect.get(
    globalThis,
    "Deno",
  );
  const internal = runtime?.[runtime.internal as symbol] as
    | { core?: Partial<Carrier> }
    | undefined;
  const carrier = internal?.core;
  const { getAsyncContext, setAsyncContext } = carrier ?? {};
  if (!getAsyncContext || !setAsyncContext) return undefined;
  const before = getAsyncContext();
  try {
    const storage = new AsyncLocalStorage<number>();
    setAsyncContext(new Alone(1));
    const seen = storage.run(2, () => [
      (getAsyncContext() as Alone)[KEY],
      storage.getStore(),
    ]);
    const works = seen[0] === 1 && seen[1] === 2 &&
      getAsyncContext() instanceof Alone;
    return works ? { getAsyncContext, setAsyncContext } : undefined;
  } catch {
    return undefined;
  } finally {
    setAsyncContext(before);
  }
}

/** Makes the context of this module's user: there can be one, as all share a key. */
export function makeContext<T extends object>(): Context<T> {
  const carrier = findCarrier();
  return carrier === undefined ? new Stored() : new Direct(carrier);
}
