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

import { markHandled } from "../_base/language.ts";
import { findInternals, type Internals } from "../_base/runtime.ts";

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

/** What the runtime says of a promise that is not settled, and of one that has failed. */
const PENDING = 0;
const FULFILLED = 1;
const FAILED = 2;

/** A number that no connection has. */
const NOBODY = 2 ** 31 - 1;

/** Stands for no operation. */
export const NONE = -1;

/** Reads and writes as the runtime's own methods do. */
export class SocketOps {
  readonly #internals: Used;
  readonly #rid: symbol;
  readonly #id: symbol;
  /**
   * Whether operations that are not over have an id, by which they can be told to keep the
   * process alive or not: `unseen` until one is not over.
   */
  #ids: "unseen" | "seen" | "missing" = "unseen";

  constructor(internals: Used) {
    this.#internals = internals;
    this.#rid = internals.internalRidSymbol;
    this.#id = internals.promiseIdSymbol;
  }

  /** Whether they do with nobody's connection what they did when this was written. */
  get work(): boolean {
    const { read, write, getPromiseDetails } = this.#internals;
    try {
      return [read, write].every((begin) => {
        const operation = begin(NOBODY, new Uint8Array(1));
        markHandled(operation);
        const details = getPromiseDetails(operation);
        return details[0] === FAILED &&
          details[1] instanceof Deno.errors.BadResource;
      });
    } catch {
      return false;
    }
  }

  /** Whether a connection can be read and written so. */
  suit(conn: object): boolean {
    return this.#ids !== "missing" &&
      typeof Reflect.get(conn, this.#rid) === "number";
  }

  /** Reads into a buffer that is not empty: 0 bytes at the end. */
  read(conn: object, buffer: Uint8Array): Promise<number> {
    const operation = this.#internals.read(this.#ridOf(conn), buffer);
    if (this.#ids === "unseen") this.isOver(operation);
    return operation;
  }

  /** Writes as much as there is room for, but something. */
  write(conn: object, data: Uint8Array): Promise<number> {
    return this.#internals.write(this.#ridOf(conn), data);
  }

  /** Whether an operation was over when it returned. */
  isOver(operation: Promise<unknown>): boolean {
    if (this.#ids === "seen") return !(this.#id in operation);
    // To ask the runtime takes 160 ns, so it is done until we know better.
    const details = this.#internals.getPromiseDetails(operation);
    if (details[0] !== PENDING) return true;
    this.#ids = this.#isKnownById(operation) ? "seen" : "missing";
    return false;
  }

  /** What an operation gives that was over when it returned; else `NONE`. */
  resultOf(operation: Promise<number>): number {
    if (this.#ids === "seen" && this.#id in operation) return NONE;
    const details = this.#internals.getPromiseDetails(operation);
    if (details[0] === PENDING) this.isOver(operation);
    return details[0] === FULFILLED ? details[1] as number : NONE;
  }

  /**
   * What an operation is known by, as long as it is not over: to note its promise in what
   * is older would cost the garbage collector 50 ns.
   */
  idOf(operation: Promise<unknown>): number {
    if (this.#ids === "unseen") this.isOver(operation);
    return this.#ids === "seen"
      ? Reflect.get(operation, this.#id) ?? NONE
      : NONE;
  }

  /** Has an operation keep the process alive, as it does from the start. */
  ref(id: number): void {
    if (id !== NONE) this.#internals.refOpPromise({ [this.#id]: id });
  }

  /** Has it not do so. */
  unref(id: number): void {
    if (id !== NONE) this.#internals.unrefOpPromise({ [this.#id]: id });
  }

  #isKnownById(operation: Promise<unknown>): boolean {
    const id = Reflect.get(operation, this.#id);
    if (typeof id !== "number") return false;
    try {
      this.unref(id);
      this.ref(id);
      return true;
    } catch {
      return false;
    }
  }

  #ridOf(conn: object): number {
    return (conn as Record<symbol, number>)[this.#rid]!;
  }
}

/** The runtime's operations, when they were found. */
let operations: SocketOps | null = null;

/** Whether the runtime reads and writes connections as it did when this was written. */
export function areSocketOpsKnown(): boolean {
  return findSocketOps() !== null;
}

function findSocketOps(): SocketOps | null {
  const found = findInternals();
  if (NAMES.some((name) => found[name] === undefined)) return null;
  const operations = new SocketOps(found as Used);
  return operations.work ? operations : null;
}

/**
 * What stands for the methods `read` and `write` of a class; `null` where they are not the
 * runtime's own, as somebody else has replaced them.
 */
export function socketOpsFor(
  methods: readonly ((...args: never[]) => unknown)[],
): SocketOps | null {
  // What has replaced them has no private field of a connection to look into.
  const isOwn = (method: unknown) =>
    /\bthis\.#rid\b/.test(Function.prototype.toString.call(method));
  return methods.every(isOwn) ? operations ??= findSocketOps() : null;
}
