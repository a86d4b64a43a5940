/**
 * The operations by which the runtime reads and writes connections.
 *
 * Its methods are async functions, so that whoever calls them learns that an operation is
 * over by a microtask at the earliest. Nearly every write is over when the operation
 * returns: then it needs no wait that could be interrupted, and no memory of its own. In an
 * echo server with 500 clients that spares 0.4 µs of the 9 that a message takes, and that a
 * read has no method of its own, with a set of promises, 0.3.
 *
 * @module
 */

import { findInternals, type Internals } from "./_runtime.ts";

/** What has to be there, or nothing is used. */
const NAMES = [
  "internalRidSymbol",
  "read",
  "write",
  "promiseIdSymbol",
  "refOpPromise",
  "unrefOpPromise",
  "getPromiseDetails",
] as const;

/** What is used of the runtime's own. */
type Used = Pick<Internals, typeof NAMES[number]>;

/** What the runtime says of a promise that is not settled. */
const PENDING = 0;

/** Stands for no operation. */
export const NONE = -1;

type Identified = { readonly [id: symbol]: number | undefined };

/** Reads and writes as the runtime's own methods do. */
export class Operations {
  readonly #internals: Used;
  readonly #rid: symbol;
  readonly #id: symbol;
  /** Whether operations that are not over are known to have an id. */
  #haveIds = false;

  constructor(internals: Used) {
    this.#internals = internals;
    this.#rid = internals.internalRidSymbol;
    this.#id = internals.promiseIdSymbol;
  }

  /** Whether a connection can be read and written so. */
  suit(conn: object): boolean {
    return typeof Reflect.get(conn, this.#rid) === "number";
  }

  /** Reads into a buffer that is not empty: 0 bytes at the end. */
  read(conn: object, buffer: Uint8Array): Promise<number> {
    const operation = this.#internals.read(this.#ridOf(conn), buffer);
    if (!this.#haveIds) this.isOver(operation);
    return operation;
  }

  /** Writes as much as there is room for, but something. */
  write(conn: object, data: Uint8Array): Promise<number> {
    return this.#internals.write(this.#ridOf(conn), data);
  }

  /** Whether an operation was over when it returned. */
  isOver(operation: Promise<unknown>): boolean {
    if (this.#haveIds) return !(this.#id in operation);
    // To ask the runtime takes 160 ns, so it is done until we know better.
    const [state] = this.#internals.getPromiseDetails(operation);
    if (state !== PENDING) return true;
    this.#haveIds = this.#id in operation;
    return false;
  }

  /**
   * What an operation is known by, as long as it is not over: to note its promise in what
   * is older would cost the garbage collector 50 ns.
   */
  idOf(operation: Promise<unknown>): number {
    return (operation as unknown as Identified)[this.#id] ?? NONE;
  }

  /** Has an operation keep the process alive, as it does from the start. */
  ref(id: number): void {
    this.#internals.refOpPromise({ [this.#id]: id });
  }

  /** Has it not do so. */
  unref(id: number): void {
    this.#internals.unrefOpPromise({ [this.#id]: id });
  }

  #ridOf(conn: object): number {
    return (conn as Record<symbol, number>)[this.#rid]!;
  }
}

/** The runtime's operations, if it has all that is used. */
const operations = (() => {
  const found = findInternals();
  return NAMES.every((name) => found[name] !== undefined)
    ? new Operations(found as Used)
    : null;
})();

/**
 * What stands for the methods `read` and `write` of a class; `null` where they are not the
 * runtime's own, as somebody else has replaced them.
 */
export function operationsFor(
  methods: readonly ((...args: never[]) => unknown)[],
): Operations | null {
  // Nobody else's function can look into the private field of a connection.
  const isOwn = (method: unknown) =>
    /\bthis\.#rid\b/.test(Function.prototype.toString.call(method));
  return methods.every(isOwn) ? operations : null;
}
