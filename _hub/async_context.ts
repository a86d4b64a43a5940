/**
 * The async context: values that stay in force through every `await`.
 *
 * @module
 */

import type { AsyncLocalStorage } from "node:async_hooks";
import { findBuiltin } from "../_base/builtin.ts";
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
  /** Makes a callback for a promise, which is called with the value that is in force now. */
  keep<A, R>(callback: (arg: A) => R): (arg: A) => R;
  /** Makes a function that calls another one with all values in force that are so now. */
  capture(): CallInContext;
  /** An object that is the same as long as the same values are in force, all code included. */
  snapshot(): unknown;
  /**
   * For a runtime that carries nothing through `await`: calls `run` with `value` in force, also
   * for the code that goes on because of the call. `null` where the runtime carries it.
   */
  readonly carry: Carry<T> | null;
}

/** Calls a function with certain values in force. */
export type CallInContext = <R>(run: () => R) => R;

/** Calls a function with a value in force; see {@linkcode Context.carry}. */
export type Carry<T> = <R>(value: T, run: () => R) => R;

/** The key of our value among all values that are in force. */
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
  readonly carry = null;
  readonly keep = same;
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

  capture(): CallInContext {
    const values = this.#get();
    return (run) => {
      const before = this.#get();
      this.#set(values);
      try {
        return run();
      } finally {
        this.#set(before);
      }
    };
  }

  snapshot(): unknown {
    return this.#get();
  }
}

/** What a callback has to become where the runtime calls it with the values in force. */
function same<T>(callback: T): T {
  return callback;
}

/** Whether no other code has a value in force. */
function isEmpty(mapping: Mapping): boolean {
  return mapping === undefined || mapping === null || mapping[KEY] === mapping;
}

/** The context by `AsyncLocalStorage`, for runtimes whose own functions can't be reached. */
class Stored<T extends Mapped> implements Context<T> {
  readonly carry = null;
  readonly keep = same;
  readonly #storage: AsyncLocalStorage<T | undefined>;
  readonly #capture: () => CallInContext;

  constructor(Storage: typeof AsyncLocalStorage) {
    this.#storage = new Storage();
    this.#capture = () => Storage.snapshot();
  }

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

  capture(): CallInContext {
    return this.#capture();
  }

  snapshot(): unknown {
    // Values of other code can't be seen, so two contexts are never known to be the same.
    return Symbol();
  }
}

/** The language's own context, which is a proposal for now. */
interface AsyncContext {
  readonly Variable: new <T>() => {
    run<A extends unknown[], R>(
      value: T,
      run: (...args: A) => R,
      ...args: A
    ): R;
    get(): T | undefined;
  };
  readonly Snapshot: new () => { run: CallInContext };
}

/** The context by `AsyncContext`, where the language has it. */
class Standard<T extends Mapped> implements Context<T> {
  readonly carry = null;
  readonly keep = same;
  readonly #variable: InstanceType<AsyncContext["Variable"]>;
  readonly #Snapshot: AsyncContext["Snapshot"];

  constructor({ Variable, Snapshot }: AsyncContext) {
    this.#variable = new Variable();
    this.#Snapshot = Snapshot;
  }

  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R {
    return this.#variable.run(value, run, ...args);
  }

  clear<A extends unknown[], R>(run: (...args: A) => R, ...args: A): R {
    return this.#variable.run(undefined, run, ...args);
  }

  get(): T | undefined {
    return this.#variable.get() as T | undefined;
  }

  capture(): CallInContext {
    const snapshot = new this.#Snapshot();
    return (run) => snapshot.run(run);
  }

  snapshot(): unknown {
    return Symbol();
  }
}

/**
 * The context where the runtime has none, as in browsers. A value is in force during a call, and
 * in code that goes on after an `await` of a wait of the library; see {@linkcode Context.carry}.
 */
class ByHand<T extends Mapped> implements Context<T> {
  #value: T | undefined;

  run<A extends unknown[], R>(
    value: T | undefined,
    run: (...args: A) => R,
    ...args: A
  ): R {
    const before = this.#value;
    this.#value = value;
    try {
      return Reflect.apply(run, undefined, args);
    } finally {
      this.#value = before;
    }
  }

  clear<A extends unknown[], R>(run: (...args: A) => R, ...args: A): R {
    return this.run(undefined, run, ...args);
  }

  get(): T | undefined {
    return this.#value;
  }

  keep<A, R>(callback: (arg: A) => R): (arg: A) => R {
    const value = this.#value;
    return (arg) => this.run(value, callback, arg);
  }

  capture(): CallInContext {
    const value = this.#value;
    return (run) => this.run(value, run);
  }

  readonly carry: Carry<T> = (value, run) => {
    // The code that goes on is in a microtask that the call queues, so it is between these two.
    queueMicrotask(() => this.#value = value);
    try {
      return this.run(value, run);
    } finally {
      queueMicrotask(() => this.#value = undefined);
    }
  };

  snapshot(): unknown {
    return this.#value;
  }
}

/** A value to try the runtime's functions with. */
class Trial implements Mapped {
  readonly [KEY] = this;
}

/** Finds the runtime's own functions, if they work as expected. */
function findCarrier(): Carrier | undefined {
  const { getAsyncContext, setAsyncContext, AsyncVariable } = findInternals();
  if (!getAsyncContext || !setAsyncContext || !AsyncVariable) return undefined;
  const before = getAsyncContext();
  try {
    // `AsyncLocalStorage` is built on it. To load that takes 12 ms.
    const variable = new AsyncVariable();
    const mapping = new Trial();
    setAsyncContext(mapping as unknown as Mapping);
    const outer = variable.enter(2);
    const works = outer as unknown === mapping && variable.get() === 2 &&
      getAsyncContext()?.[KEY] === mapping;
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
  if (carrier !== undefined) return new Direct(carrier);
  const hooks = findBuiltin("node:async_hooks");
  if (hooks !== undefined) return new Stored(hooks.AsyncLocalStorage);
  const standard: AsyncContext | undefined = Reflect.get(
    globalThis,
    "AsyncContext",
  );
  return standard === undefined ? new ByHand() : new Standard(standard);
}
