/**
 * The one module that looks into the runtime: for functions that it keeps for itself, and
 * for properties that it hides under symbols.
 *
 * Nothing here throws. Each use tries what was found before it relies on it, and has another
 * way where something is missing.
 *
 * @module
 */

import { isObject } from "./checks.ts";

/** All values that are in force by `AsyncLocalStorage`. */
export type Mapping =
  | { readonly [key: PropertyKey]: unknown }
  | null
  | undefined;

/** Those that are used. */
export interface Internals {
  /** What `AsyncLocalStorage` is built on. */
  getAsyncContext(): Mapping;
  setAsyncContext(mapping: Mapping): void;

  /** Runs the microtasks, unless it is one of them that asks. */
  runMicrotasks(): void;

  /** Where the number of a connection is, by which its operations know it. */
  readonly internalRidSymbol: symbol;
  read(rid: number, buffer: Uint8Array): Promise<number>;
  write(rid: number, data: Uint8Array): Promise<number>;

  /** What the promise of an operation has that was not over when it returned. */
  readonly promiseIdSymbol: symbol;
  refOpPromise(operation: object): void;
  unrefOpPromise(operation: object): void;
  /** What a promise is, 0 for pending, and with what. */
  getPromiseDetails(promise: Promise<unknown>): readonly [number, unknown];
}

/** The runtime's own functions: none, in a runtime that has no such thing. */
export function findInternals(): Partial<Internals> {
  return findShared().core ?? {};
}

/** What the modules of the runtime share: nothing, in one that has no such thing. */
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

/** The symbols under which an object itself has properties; none, if it is no object. */
export function symbolsOf(object: unknown): symbol[] {
  return isObject(object) ? Object.getOwnPropertySymbols(object) : [];
}

/**
 * The symbol under which the runtime keeps a property of an object; `undefined` if there is
 * none of that name.
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

/** What the runtime keeps of an event target. */
interface Listening {
  listeners?: Record<string, unknown>;
}

/**
 * Whether the module with which the program has begun has failed, and with this error. To
 * import it again gives what has become of it, and runs nothing.
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
