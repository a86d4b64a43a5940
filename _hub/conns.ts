/**
 * Connections and listeners. Shared by `patch()` and `socket.ts`.
 *
 * Each connection has one inbox for its bytes, and each listener one for its connections. A
 * `Socket` and the patched methods of the runtime's connection use the same inbox, so each byte
 * is read once.
 *
 * @module
 */

import { isObject, show } from "../_base/checks.ts";
import { noteOneLeft, noteOneTaken } from "../_base/left.ts";
import { getOriginal } from "../_base/properties.ts";
import { Stamp } from "../_base/stamp.ts";
import { byteStreamOf } from "./byte_streams.ts";
import { Begun } from "./begun.ts";
import {
  Bytes,
  type BytesTaker,
  type Hold,
  Inbox,
  type Inboxes,
  type Writes,
} from "./inbox.ts";
import {
  isMethodOfRuntime,
  NONE,
  type SocketOps,
  socketOpsFor,
} from "./socket_ops.ts";
import { loopCalls } from "./run_queue.ts";
import { QueuedWait } from "./wait_queue.ts";

type Read = (this: Deno.Conn, buffer: Uint8Array) => Promise<number | null>;
type Write = (this: Deno.Conn, data: Uint8Array) => Promise<number>;
type Accept = (this: Deno.Listener) => Promise<Deno.Conn>;
type Readable = ReadableStream<Uint8Array<ArrayBuffer>>;

/**
 * The methods of the runtime's connections and listeners that others may lack, such as those of
 * tests.
 */
interface Closable extends Partial<Disposable> {
  close(): void;
  ref?(): void;
  unref?(): void;
}

/** Returns the original method of the runtime's object, even under `patch()`. */
export function originalOf<T extends object, K extends keyof T>(
  object: T,
  name: K,
): T[K] {
  // A method of the object itself may be one that `patch()` has put there.
  return getOriginal(Object.getPrototypeOf(object) as T, name) ?? object[name];
}

/** The sockets on which the program has called `unref()`. */
export const unreffed = new WeakSet<object>();

/** The runtime's operations of each class of connections; `null` where they can't be used. */
const operationsOf = new WeakMap<object, SocketOps | null>();

/** Returns the operations to read and write a connection with; `null` to use its methods. */
export function operationsFor(conn: Deno.Conn): SocketOps | null {
  const prototype = Object.getPrototypeOf(conn);
  let operations = operationsOf.get(prototype);
  if (operations === undefined) {
    const read: Read = originalOf(conn, "read");
    const write: Write = originalOf(conn, "write");
    operations = socketOpsFor([read, write]);
    operationsOf.set(prototype, operations);
  }
  return operations?.suit(conn) ? operations : null;
}

/** Sets whether a socket keeps the process alive; it never does after the program's `unref()`. */
export const hold: Hold = {
  take(socket) {
    if (!unreffed.has(socket)) refSocket(socket as Closable, "ref");
  },
  release(socket) {
    refSocket(socket as Closable, "unref");
  },
};

/** Calls `ref()` or `unref()` of a connection or a listener, if it has the method. */
export function refSocket(socket: Closable, name: "ref" | "unref"): void {
  originalOf(socket, name)?.call(socket);
}

/** Closes a connection or a listener, if it is open. */
export function closeSocket(socket: Closable): void {
  const dispose = originalOf(socket, Symbol.dispose);
  if (dispose !== undefined) return dispose.call(socket);
  try {
    originalOf(socket, "close").call(socket);
  } catch {
    // It is closed already.
  }
}

/** Whether an error of a connection says that the peer is gone. */
export function isGone(error: unknown): boolean {
  const { errors } = Deno;
  return error instanceof errors.ConnectionReset ||
    error instanceof errors.UnexpectedEof ||
    error instanceof errors.BrokenPipe ||
    error instanceof errors.ConnectionAborted;
}

/** Whether a value is meant as a listener of the runtime, or of `listen()`. */
export function isListener(value: unknown): value is Deno.Listener {
  return typeof (value as Partial<Deno.Listener> | null)?.accept === "function";
}

/**
 * Checks that a listener has what a server needs.
 *
 * @throws {TypeError} If it has not.
 */
export function checkListener(listener: Deno.Listener, what: string): void {
  const { addr, close } = listener as Partial<Deno.Listener>;
  if (isObject(addr) && typeof close === "function") return;
  throw new TypeError(
    `Cannot ${what} as the listener must have 'addr' and 'close()': received ${
      show(listener)
    }`,
  );
}

/** The wait of one `accept`. */
export class Accepter extends QueuedWait<Accepter, Deno.Conn> {
  protected override get call(): string {
    return "accept";
  }

  /** Takes a connection. */
  accepted(conn: Deno.Conn): void {
    this.switch(conn);
  }
}

/** The connections of a listener, in order, and the waits for them. */
export class Connections extends Inbox<Deno.Conn, Accepter, Deno.Conn> {
  readonly #listener: Deno.Listener;
  readonly #accept: Accept;
  /**
   * The operation in progress; `null` if an `accept` is exactly one operation of the runtime, and
   * the listener's own `ref` and `unref` affect it. To watch each `accept` would change the
   * prototype of promises twice, and V8 would drop all optimized code that uses promises: the
   * first 40 messages of each of 500 new clients took a quarter more processor time.
   */
  readonly #begun: Begun | null;
  /** Whether the listener's own `ref` and `unref` affect the operation. */
  readonly #isHeld: boolean;
  #conns: Deno.Conn[] = [];

  constructor(
    sources: Inboxes | null,
    listener: Deno.Listener,
    accept: Accept,
    hold: Hold,
  ) {
    super(sources, hold);
    this.#listener = listener;
    this.#accept = accept;
    // `ref` and `unref` of a TLS listener don't affect its `accept`.
    this.#isHeld = listener.constructor.name !== "TlsListener";
    const isOne = this.#isHeld &&
      isMethodOfRuntime(originalOf(listener, "accept"));
    this.#begun = isOne ? null : new Begun();
  }

  protected override get hasResult(): boolean {
    return this.#conns.length > 0;
  }

  protected override get owner(): object {
    return this.#listener;
  }

  protected override get patchedNames(): readonly PropertyKey[] {
    return ["accept", "close", Symbol.dispose, "ref", "unref"];
  }

  protected override begin(): Promise<Deno.Conn> {
    const accept = () => this.#accept.call(this.#listener);
    return this.#begun === null ? accept() : this.#begun.watch(accept);
  }

  protected override release(): void {
    if (!this.#isHeld) return this.#begun!.unref();
    super.release();
    if (this.#begun === null) noteOneLeft();
    else this.#begun.leave();
  }

  protected override retain(): void {
    if (!this.#isHeld) return this.#begun!.ref();
    super.retain();
    if (this.#begun === null) noteOneTaken();
    else this.#begun.take();
  }

  protected override keep(conn: Deno.Conn): void {
    this.#conns.push(conn);
  }

  protected override give(accepter: Accepter): void {
    accepter.accepted(this.#conns.shift()!);
  }

  protected override discard(): void {
    this.#conns.splice(0).forEach((conn) => conn.close());
  }
}

/** The bytes of a connection. `read` and the stream `readable` both take them. */
export class ConnBytes extends Bytes {
  /** The runtime's operations to read with; `null` to use the connection's own method. */
  readonly #operations: SocketOps | null;
  /** The id of our read operation. The connection's `ref` and `unref` don't affect it. */
  #reading = NONE;
  /** Whether reads keep the process alive, as set by the user with `ref` and `unref`. */
  #keepsAlive: boolean;

  constructor(
    sources: Inboxes | null,
    conn: Deno.Conn,
    read: Read,
    hold: Hold,
    operations: SocketOps | null,
  ) {
    super(sources, conn, read, hold);
    this.#operations = operations;
    this.#keepsAlive = !unreffed.has(conn);
  }

  protected override get patchedNames(): readonly PropertyKey[] {
    return ["read", "readable", "close", Symbol.dispose, "ref", "unref"];
  }

  override ref(): boolean {
    const operations = this.#operations;
    if (operations === null) return super.ref();
    this.#keepsAlive = true;
    if (this.state === "busy") operations.ref(this.#reading);
    return true;
  }

  override unref(): void {
    this.#keepsAlive = false;
    if (this.state !== "idle") this.#operations?.unref(this.#reading);
  }

  protected override release(): void {
    if (this.#operations === null) super.release();
    else this.#operations.leave(this.#reading);
  }

  protected override retain(): void {
    if (this.#operations === null) super.retain();
    else this.#operations.take(this.#reading, this.#keepsAlive);
  }

  protected override forget(): void {
    if (BytesOf.get(this.owner) === this) BytesOf.delete(this.owner);
  }

  protected override begin(taker: BytesTaker<unknown>): Promise<number | null> {
    const reading = super.begin(taker);
    this.#reading = this.#idOf(reading);
    return reading;
  }

  protected override readOn(buffer: Uint8Array): Promise<number | null> {
    return this.#operations === null
      ? super.readOn(buffer)
      : this.#operations.read(this.owner, buffer);
  }

  /** Returns the id of a read, if it is an operation that we have begun. */
  #idOf(reading: Promise<unknown>): number {
    const operations = this.#operations;
    if (operations === null) return NONE;
    const id = operations.idOf(reading);
    if (!this.#keepsAlive) operations.unref(id);
    return id;
  }

  protected override keep(count: number | null): void {
    // At the end the method returns `null`, and the operation returns 0.
    super.keep(count || null);
  }

  protected override get mustStayPatched(): boolean {
    return readableOf.has(this.owner) || super.mustStayPatched;
  }
}

/**
 * Keeps the bytes of a connection in a private field of the connection. This takes a fifth of
 * the time of a `WeakMap` with hundreds of connections.
 */
export class BytesOf extends Stamp {
  #bytes: ConnBytes | undefined;

  static get(conn: unknown): ConnBytes | undefined {
    return isObject(conn) && #bytes in conn ? conn.#bytes : undefined;
  }

  static set(conn: object, bytes: ConnBytes): void {
    if (!(#bytes in conn)) new BytesOf(conn);
    (conn as BytesOf).#bytes = bytes;
  }

  static delete(conn: unknown): void {
    if (isObject(conn) && #bytes in conn) conn.#bytes = undefined;
  }
}

/**
 * Keeps the operations with which a connection is read and written, if these are not its own
 * methods. Set on a new connection before the program gets it, so that every `ref` and `unref`
 * is seen.
 */
export class OperationsOf extends Stamp {
  #operations: SocketOps | null = null;
  #by: object | undefined;
  #lastCall = -1;

  static get(conn: unknown, sockets: object): SocketOps | null {
    return isObject(conn) && #by in conn && conn.#by === sockets
      ? conn.#operations
      : null;
  }

  static set(conn: object, operations: SocketOps, sockets: object): void {
    if (!(#by in conn)) new OperationsOf(conn);
    (conn as OperationsOf).#operations = operations;
    (conn as OperationsOf).#by = sockets;
  }

  /** Whether this is the first such call since the event loop has called the library. */
  static isFirst(conn: object): boolean {
    const isFirst = (conn as OperationsOf).#lastCall !== loopCalls;
    (conn as OperationsOf).#lastCall = loopCalls;
    return isFirst;
  }
}

/** Keeps the writes of a connection. */
export class WritesOf extends Stamp {
  #writes: Writes | undefined;

  static get(conn: unknown): Writes | undefined {
    return isObject(conn) && #writes in conn ? conn.#writes : undefined;
  }

  static set(conn: object, writes: Writes): void {
    if (!(#writes in conn)) new WritesOf(conn);
    (conn as WritesOf).#writes = writes;
  }
}

export const readableOf = new WeakMap<object, Readable>();
export const connectionsOf = new WeakMap<object, Connections>();

/** Makes a stream of a connection. It behaves as the runtime's stream, and reads from the inbox. */
export function readableBy(
  conn: Disposable,
  takeBytes: () => ConnBytes,
): Readable {
  return byteStreamOf(takeBytes, () => conn[Symbol.dispose](), streamError);
}

/** Returns an error with the runtime's words. */
function streamError(error: unknown): unknown {
  if (
    error instanceof Deno.errors.BadResource &&
    error.message === "Bad resource ID"
  ) {
    error.message = "The stream's underlying resource was closed or consumed";
  }
  return error;
}
