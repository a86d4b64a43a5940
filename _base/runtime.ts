/**
 * The one module that uses the runtime's internals: internal functions, and properties that are
 * hidden under symbols.
 *
 * Nothing here throws. Each user tests an internal before it relies on it, and has a fallback
 * if it is missing.
 *
 * @module
 */

import { isObject } from "./checks.ts";

/** The values of all `AsyncLocalStorage`s in one context. */
export type Mapping =
  | { readonly [key: PropertyKey]: unknown }
  | null
  | undefined;

/** The runtime's own functions that the library uses. */
export interface Internals {
  /** Get and set the context that `AsyncLocalStorage` is built on. */
  getAsyncContext(): Mapping;
  setAsyncContext(mapping: Mapping): void;
  /** A value in that context. */
  readonly AsyncVariable: new () => {
    /** Puts a value in force, and returns the context before. */
    enter(value: unknown): Mapping;
    get(): unknown;
  };

  /** Runs the microtasks, unless a microtask calls it. */
  runMicrotasks(): void;

  /** The key of the number by which operations know a connection. */
  readonly internalRidSymbol: symbol;
  read(rid: number, buffer: Uint8Array): Promise<number>;
  write(rid: number, data: Uint8Array): Promise<number>;

  /** The key of the number that the promise of an operation has until it is over. */
  readonly promiseIdSymbol: symbol;
  refOpPromise(operation: object): void;
  unrefOpPromise(operation: object): void;
  /** The state of a promise, 0 for pending, and its value or error. */
  getPromiseDetails(promise: Promise<unknown>): readonly [number, unknown];
  /** Whether an operation has begun and not ended, by the number of its promise. */
  hasPromise(id: number): boolean;

  /** Starts a timer that is in the runtime's lists; `isSystem` hides it from sanitizers. */
  createTimer(
    callback: () => void,
    ms: number,
    args: undefined,
    isRepeat: boolean,
    isReffed: boolean,
    isSystem: boolean,
  ): ListedTimer;
  cancelTimer(timer: ListedTimer): void;
  /** Whether anything keeps the process alive, including a module that waits at its top level. */
  eventLoopHasMoreWork(): boolean;
}

/** A timer of the runtime, in the ring of timers with the same duration. */
export interface ListedTimer {
  /** The next one, or the list itself, which has a place in the heap of lists. */
  readonly _idleNext: { readonly priorityQueuePosition?: number | null };
  readonly _idlePrev: object;
}

/** Finds the runtime's own functions; there are none in a runtime other than Deno. */
export function findInternals(): Partial<Internals> {
  return findShared().core ?? {};
}

/** Finds the object that the runtime's modules share; it is empty in another runtime. */
export function findShared(): Record<string, unknown> & {
  core?: Partial<Internals>;
} {
  const runtime: Record<PropertyKey, unknown> | undefined = Reflect.get(
    globalThis,
    "Deno",
  );
  return (runtime?.[runtime.internal as symbol] ?? {}) as Record<
    string,
    unknown
  >;
}

/** Whether the runtime is Deno, and `Deno` has a property. */
export function isInDeno(name: string): boolean {
  return globalThis.Deno !== undefined && name in Deno;
}

const { getPromiseDetails } = findInternals();

/** Whether a promise has settled; `false` if the runtime has no function to ask. */
export function isSettled(promise: unknown): boolean {
  try {
    return promise instanceof Promise && getPromiseDetails !== undefined &&
      getPromiseDetails(promise)[0] !== 0;
  } catch {
    // This version of the runtime has changed the function.
    return false;
  }
}

/** The symbols of an object's own properties; none if the value is not an object. */
export function symbolsOf(object: unknown): symbol[] {
  return isObject(object) ? Object.getOwnPropertySymbols(object) : [];
}

/**
 * The symbol with a given name under which the runtime keeps a property of an object;
 * `undefined` if there is none.
 */
export function findSymbol(object: unknown, name: string): symbol | undefined {
  return symbolsOf(object).find(({ description }) => description === name);
}

/** The lists of listeners that event targets may keep, by the type of the event. */
export function listenerListsOf(target: object, type: string): unknown[][] {
  return symbolsOf(target).map((symbol) =>
    (Reflect.get(target, symbol) as Listening | null | undefined)?.listeners
      ?.[type]
  ).filter((list) => Array.isArray(list));
}

/** The record that the runtime keeps of an event target. */
interface Listening {
  listeners?: Record<string, unknown>;
}

/**
 * Whether the program's main module has failed with this error. A second import of the module
 * runs nothing, and fails in the same way.
 */
export async function hasMainModuleFailed(error: unknown): Promise<boolean> {
  const { Deno, location, WorkerGlobalScope } = globalThis as
    & typeof globalThis
    & { WorkerGlobalScope?: unknown };
  const main = Deno?.mainModule ??
    (WorkerGlobalScope === undefined ? undefined : location?.href);
  if (main === undefined) return false;
  try {
    await import(main);
    return false;
  } catch (failure) {
    return failure === error;
  }
}

/**
 * The line of the stack for a caller: with 1, the caller of the function that calls this; with 2,
 * its caller. An empty string if there is no such line. JavaScript has no other way to find out.
 */
export function callerOf(above: number): string {
  const limit = Error.stackTraceLimit;
  try {
    // A program may have set a limit so low that the caller is cut off.
    Error.stackTraceLimit = above + 2;
    // The first line is the message, and the second is this function.
    return String(new Error().stack).split("\n")[above + 2] ?? "";
  } catch {
    return "";
  } finally {
    try {
      Error.stackTraceLimit = limit;
    } catch {
      // The program has frozen the limit.
    }
  }
}

/**
 * Finds the function that sets whether a `Worker` keeps the process alive. If the runtime has
 * none, returns `undefined`: each worker then keeps it alive until it is terminated.
 */
export function findWorkerRef():
  | ((worker: object, holds: boolean) => void)
  | undefined {
  const prototype: object | undefined = globalThis.Worker?.prototype;
  if (prototype === undefined) return undefined;
  const names = Object.getOwnPropertySymbols(prototype)
    .filter((symbol) => !symbol.description);
  const ref = names.length === 1
    ? Reflect.get(prototype, names[0]!)
    : undefined;
  if (typeof ref !== "function" || ref.length !== 1) return undefined;
  return (worker, holds) => {
    try {
      Reflect.apply(ref, worker, [holds]);
    } catch {
      // This version of the runtime has changed it. The worker then keeps the process alive.
    }
  };
}
