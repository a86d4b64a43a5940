/**
 * Sockets with the calls that protocols need: read exactly n bytes, up to a delimiter, or
 * lines.
 *
 * They wait cooperatively by themselves, with or without `patch()`. An interrupt loses no
 * bytes: bytes that have arrived stay for the next call.
 *
 * ```ts
 * import { connect, listen, spawn } from "@gevent/gevent";
 *
 * using listener = listen({ hostname: "127.0.0.1", port: 0 });
 * const server = spawn(async () => {
 *   using socket = await listener.accept();
 *   for await (const line of socket.lines()) {
 *     await socket.sendAll(`${line.toUpperCase()}\n`);
 *   }
 * });
 *
 * using socket = await connect(listener.addr);
 * await socket.sendAll("hello\n");
 * console.log(new TextDecoder().decode(await socket.recvUntil("\n"))); // HELLO
 * socket.close();
 * await server.join();
 * ```
 *
 * @module
 */

import { addressName, checkSocketOptions } from "./_base/addresses.ts";
import { nameClasses, showAs } from "./_base/inspecting.ts";
import { checkOptions, isObject, numberError, show } from "./_base/checks.ts";
import { bare, NO_OPTIONS, then } from "./_base/language.ts";
import { denoFunction } from "./_base/properties.ts";
import { Begun } from "./_hub/begun.ts";
import { connectIn } from "./_hub/cancelling.ts";
import {
  Accepter,
  BytesOf,
  closeSocket,
  ConnBytes,
  Connections,
  connectionsOf,
  hold,
  operationsFor,
  originalOf,
  readableBy,
  readableOf,
  refSocket,
  unreffed,
} from "./_hub/conns.ts";
import { currentScope } from "./_hub/current.ts";
import { type Bytes, BytesTaker, lengthOf, Reader } from "./_hub/inbox.ts";
import { operateLoosely } from "./_hub/operation.ts";
import { connectingTo } from "./_hub/waits.ts";
import { Outbox } from "./_hub/outbox.ts";
import type { Scope } from "./_hub/scope.ts";
import type { SocketOps } from "./_hub/socket_ops.ts";
import {
  checkpoint,
  PromiseWait,
  readyWait,
  type Wait,
} from "./_hub/suspension.ts";
import { checkDuration } from "./_hub/timers.ts";
import { Timeout } from "./timeout.ts";
import { placeLater } from "./_hub/stacks.ts";

/** The default limit of one call, in bytes. */
const MOST = 65536;

const CR = 13;
const NEWLINE: Uint8Array = Uint8Array.of(10);

const encoder = new TextEncoder();
/** Keeps a byte order mark: a line may begin with one. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Options of {@linkcode Socket.recvUntil} and {@linkcode Socket.lines}. */
export interface RecvOptions {
  /**
   * The limit in bytes. The delimiter of `recvUntil` counts, the end of a line does not.
   *
   * @default {65536}
   */
  max?: number;
}

/** The iterator that {@linkcode Socket.lines} returns. */
export interface SocketLines extends AsyncIterableIterator<string, undefined> {
  /** Waits for the next line. A switch point, for `await` and `yield*`. */
  next(): Wait<IteratorResult<string, undefined>>;
  /** Ends the iteration. The socket stays open and keeps the bytes that were not returned. */
  return(): Wait<IteratorResult<string, undefined>>;
  /** Returns the iterator itself. */
  [Symbol.asyncIterator](): SocketLines;
}

/** The wait of `recv`. */
class Receiver extends BytesTaker<Uint8Array<ArrayBuffer>> {
  readonly #max: number;

  constructor(max: number, ms: number) {
    super(ms);
    this.#max = max;
  }

  override room(): number {
    return this.#max;
  }

  override takeFrom(kept: Bytes): Uint8Array<ArrayBuffer> {
    if (kept.length > 0) {
      return kept.takeBytes(Math.min(this.#max, kept.length));
    }
    kept.takeEnd();
    return new Uint8Array(0);
  }
}

/** The wait of `recvExactly`. */
class ExactReceiver extends BytesTaker<Uint8Array<ArrayBuffer>> {
  readonly #count: number;

  constructor(count: number, ms: number) {
    super(ms);
    this.#count = count;
  }

  override room(kept: Bytes): number {
    return this.#count - kept.length;
  }

  override isServedBy(kept: Bytes): boolean {
    return kept.length >= this.#count || kept.ended;
  }

  override takeFrom(kept: Bytes): Uint8Array<ArrayBuffer> {
    if (kept.length >= this.#count) return kept.takeBytes(this.#count);
    throw new Deno.errors.UnexpectedEof(
      `Cannot receive ${this.#count} bytes as the connection has ended after ${kept.length}`,
    );
  }
}

/** The wait of `recvUntil`. */
class UntilReceiver extends BytesTaker<Uint8Array<ArrayBuffer>> {
  readonly #delimiter: Uint8Array;
  readonly #max: number;
  /** The number of bytes that were searched and contain no delimiter. */
  #searched = 0;
  /** The offset behind the delimiter, if it was found. */
  #end = 0;

  constructor(delimiter: Uint8Array, max: number, ms: number) {
    super(ms);
    this.#delimiter = delimiter;
    this.#max = max;
  }

  override room(kept: Bytes): number {
    return this.#max - kept.length;
  }

  override isServedBy(kept: Bytes): boolean {
    const { length } = this.#delimiter;
    // The delimiter may begin in bytes that were already searched.
    const from = Math.max(0, this.#searched - length + 1);
    const at = kept.indexOf(this.#delimiter, from);
    if (at >= 0) this.#end = at + length;
    this.#searched = kept.length;
    return at >= 0 || kept.length >= this.#max || kept.ended;
  }

  override takeFrom(kept: Bytes): Uint8Array<ArrayBuffer> {
    const isFound = this.#end > 0;
    if (isFound && this.#end <= this.#max) return kept.takeBytes(this.#end);
    const what = "Cannot receive until the delimiter as";
    if (isFound || kept.length >= this.#max) {
      throw new RangeError(
        `${what} it does not end within 'max': ${this.#max} bytes`,
      );
    }
    throw new Deno.errors.UnexpectedEof(
      `${what} the connection has ended after ${kept.length} bytes without it`,
    );
  }
}

/** The wait of one step of `lines`. */
class LineReceiver extends BytesTaker<IteratorResult<string, undefined>> {
  readonly #max: number;
  /** The number of bytes that were searched and contain no end of a line. */
  #searched = 0;
  /** The offset of the end of the line, or -1. */
  #at = -1;

  constructor(max: number, ms: number) {
    super(ms);
    this.#max = max;
  }

  override room(kept: Bytes): number {
    return this.#max + 2 - kept.length;
  }

  override isServedBy(kept: Bytes): boolean {
    this.#at = kept.indexOf(NEWLINE, this.#searched);
    this.#searched = kept.length;
    return this.#at >= 0 || kept.ended || this.#isTooLong(kept);
  }

  /** Whether the line exceeds `max`, even if its end comes next. */
  #isTooLong(kept: Bytes): boolean {
    const more = kept.length - this.#max;
    return more > 1 || more === 1 && kept.at(this.#max) !== CR;
  }

  override takeFrom(kept: Bytes): IteratorResult<string, undefined> {
    const at = this.#at;
    const length = at < 0 ? kept.length : kept.at(at - 1) === CR ? at - 1 : at;
    if (length > this.#max) {
      throw new RangeError(
        `Cannot receive the line as it is longer than 'max': ${this.#max} bytes`,
      );
    }
    if (at < 0 && length === 0) return { done: true, value: undefined };
    const value = decoder.decode(kept.peek(length));
    kept.drop(at < 0 ? length : at + 1);
    return { done: false, value };
  }
}

/** The iterator over the lines of a socket. */
class Lines implements SocketLines {
  readonly #next: () => Wait<IteratorResult<string, undefined>>;
  #isOver = false;

  constructor(next: () => Wait<IteratorResult<string, undefined>>) {
    this.#next = next;
  }

  next(): Wait<IteratorResult<string, undefined>> {
    return this.#isOver ? this.return() : this.#next();
  }

  return(): Wait<IteratorResult<string, undefined>> {
    this.#isOver = true;
    return readyWait({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

/** The wait for a TLS handshake. The handshake goes on when the wait is interrupted. */
class HandshakeWait extends PromiseWait<Deno.TlsHandshakeInfo> {
  readonly #begun = new Begun();
  readonly #ms: number;

  constructor(ms: number) {
    super();
    this.#ms = ms;
  }

  begin(
    handshake: () => Promise<Deno.TlsHandshakeInfo>,
    scope: Scope,
  ): Wait<Deno.TlsHandshakeInfo> {
    this.follow(this.#begun.watch(handshake));
    return this.limit(this.#ms).suspend(scope);
  }

  override describe(): string {
    return "TlsConn.handshake()";
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    this.#begun.unref();
  }

  protected override timedOut(): void {
    this.throw(placeLater(new Timeout(this.#ms)));
  }
}

/** Connections that this library made: only their socket calls their `ref` and `unref`. */
const own = new WeakSet<Deno.Conn>();

/** Makes the socket of a connection that this library made. */
function socketOf<A extends Deno.Addr>(conn: Deno.Conn): Socket<A> {
  own.add(conn);
  return new Socket(conn as Deno.Conn<A>);
}

/**
 * One end of a connection: a `Deno.Conn` whose calls are waits, with more calls for protocols.
 * gevent's `socket.socket`.
 *
 * All calls that wait are switch points, and take `yield*` as well as `await`. An interrupted
 * read loses no bytes: they stay for the next call that reads, of any kind. Reads of several
 * greenlets take turns in the order of the calls, and each is finished before the next begins.
 * Writes take turns as well. A write that has begun goes on when it is interrupted, so that its
 * bytes are sent before later ones. A write that is interrupted while it waits for its turn
 * writes nothing.
 *
 * When the socket is closed, its waits throw the runtime's error: `Deno.errors.BadResource` or
 * `Deno.errors.Interrupted`.
 *
 * @typeParam A The type of its addresses.
 *
 * @example Usage
 * ```ts
 * import { connect, listen } from "@gevent/gevent";
 *
 * using listener = listen({ hostname: "127.0.0.1", port: 0 });
 * using client = await connect({ hostname: "127.0.0.1", port: listener.addr.port });
 * using server = await listener.accept();
 * await client.sendAll("two\nlines\n");
 * for await (const line of server.lines()) {
 *   console.log(line); // two
 *   break;
 * }
 * console.log(await server.recv()); // [108, 105, 110, 101, 115, 10]
 * ```
 */
export class Socket<A extends Deno.Addr = Deno.Addr> implements Deno.Conn<A> {
  readonly #conn: Deno.Conn<A>;
  /** `null` after `close()`, until the next call. */
  #inbox: ConnBytes | null;
  readonly #outbox: Outbox;
  #timeout = Infinity;
  #state: "open" | "closed" = "open";
  #writable: WritableStream<Uint8Array<ArrayBufferLike>> | null = null;

  static {
    showAs(this, (socket) => ({
      localAddr: addressName(socket.localAddr),
      remoteAddr: addressName(socket.remoteAddr),
      state: socket.#state,
      timeout: socket.#timeout,
    }));
  }

  /**
   * Makes a socket of a connection. From then on, use the connection only through the socket.
   *
   * @param conn A connection of the runtime, or an object with the same methods: `read`, `write`
   * and `close` at least.
   * @throws {TypeError} If `conn` is not a connection, or is a `Socket` already.
   */
  constructor(conn: Deno.Conn<A>) {
    checkConn(conn);
    const operations = operationsFor(conn);
    this.#conn = conn;
    this.#inbox = takeBytes(conn, own.has(conn) ? operations : null);
    this.#outbox = new Outbox(
      conn,
      (data) => originalOf(conn, "write").call(conn, data),
      () => originalOf(conn, "closeWrite").call(conn),
      operations,
    );
  }

  /**
   * The time limit, in milliseconds, of each single wait of this socket: until bytes arrive, or
   * until bytes could be written. After that the wait throws a {@linkcode Timeout}. A call may
   * wait several times, as `recvExactly` does for bytes that arrive one by one: limit the whole
   * call by `withTimeout`. Applies to calls that begin later, but not to the streams. gevent's
   * `settimeout`, in milliseconds.
   *
   * @default {Infinity}
   */
  get timeout(): number {
    return this.#timeout;
  }

  /** Sets the time limit of each single wait, in milliseconds. */
  set timeout(ms: number) {
    checkDuration(ms, "set the timeout of the socket");
    this.#timeout = ms;
  }

  /** The address of this end. gevent's `getsockname`. */
  get localAddr(): A {
    return this.#conn.localAddr;
  }

  /** The address of the other end. gevent's `getpeername`. */
  get remoteAddr(): A {
    return this.#conn.remoteAddr;
  }

  /**
   * Receives the bytes that have arrived, or waits for some. A switch point. gevent's `recv`.
   *
   * @param max How many bytes to receive at most.
   * @returns The bytes, in a new array; an empty array at the end of the connection.
   * @throws {TypeError | RangeError} If `max` is not a positive integer.
   */
  recv(max: number = MOST): Wait<Uint8Array<ArrayBuffer>> {
    checkMax(max, "receive");
    return this.#take((ms) => new Receiver(max, ms));
  }

  /**
   * Receives exactly `count` bytes. A switch point. gevent has no such call; `asyncio` has
   * `readexactly`.
   *
   * @param count The number of bytes.
   * @returns The bytes, in a new array.
   * @throws {Deno.errors.UnexpectedEof} If the connection ends before that. The bytes that
   * have arrived stay for the next call, such as `recv`.
   * @throws {TypeError | RangeError} If `count` is not a non-negative integer.
   */
  recvExactly(count: number): Wait<Uint8Array<ArrayBuffer>> {
    if (!Number.isSafeInteger(count) || count < 0) {
      throw numberError(
        "receive exactly",
        "count",
        "a non-negative integer",
        count,
      );
    }
    return this.#take((ms) => new ExactReceiver(count, ms));
  }

  /**
   * Receives up to a delimiter, and the delimiter itself. A switch point. gevent has no such
   * call; `asyncio` has `readuntil`.
   *
   * @param delimiter Bytes, or a string, which is encoded as UTF-8. Not empty.
   * @param options The limit of the number of bytes.
   * @returns The bytes, in a new array.
   * @throws {RangeError} If there is no delimiter within `max` bytes. The bytes stay for the
   * next call.
   * @throws {Deno.errors.UnexpectedEof} If the connection ends before that. The bytes that
   * have arrived stay for the next call, such as `recv`.
   * @throws {TypeError | RangeError} If `delimiter` is empty or neither a string nor bytes, or
   * if `max` is not a positive integer or is less than the delimiter's length.
   */
  recvUntil(
    delimiter: string | Uint8Array,
    options: RecvOptions = NO_OPTIONS,
  ): Wait<Uint8Array<ArrayBuffer>> {
    const what = "receive until the delimiter";
    const sought = bytesOf(delimiter, what, "delimiter").slice();
    const max = maxOf(options, what);
    if (sought.length === 0 || sought.length > max) {
      throw new RangeError(
        sought.length === 0
          ? `Cannot ${what} as 'delimiter' must not be empty`
          : `Cannot ${what} as 'max' must be the length of the delimiter, ${sought.length}, or more: received ${max}`,
      );
    }
    return this.#take((ms) => new UntilReceiver(sought, max, ms));
  }

  /**
   * Returns the received lines as text, without their ends `\n` or `\r\n`. gevent's `makefile`.
   *
   * Each step is a switch point. A last line without an end is returned as well. Bytes that are
   * not valid UTF-8 become U+FFFD; a protocol that must refuse them uses {@linkcode
   * Socket.recvUntil}. Leaving the loop leaves the socket open, and the bytes that were not
   * returned stay for the next call that reads.
   *
   * @param options The limit of bytes in a line, without its end.
   * @returns An async iterator, whose `next()` can be waited on by `yield*`. It throws a
   * `RangeError` at a line of more than `max` bytes, which stay for the next call.
   * @throws {TypeError | RangeError} If `max` is not a positive integer.
   */
  lines(options: RecvOptions = NO_OPTIONS): SocketLines {
    const max = maxOf(options, "receive lines");
    return new Lines(() => this.#take((ms) => new LineReceiver(max, ms)));
  }

  /**
   * Reads the bytes that have arrived into a buffer, or waits for some. A switch point.
   * `Deno.Conn`'s `read`, and gevent's `recv_into`.
   *
   * @param buffer The buffer to fill. It is not changed when the call is interrupted.
   * @returns The number of bytes read; `null` at the end of the connection.
   * @throws
   * {TypeError} If `buffer` is not a `Uint8Array`.
   */
  read(buffer: Uint8Array): Wait<number | null> {
    if (!(buffer instanceof Uint8Array)) {
      throw new TypeError(
        `Cannot read as the buffer must be a Uint8Array: received ${
          show(buffer)
        }`,
      );
    }
    if (lengthOf(buffer) === 0) {
      return checkpoint(currentScope()) ?? readyWait<number | null>(0);
    }
    return this.#take((ms) => new Reader(buffer, ms));
  }

  /**
   * Writes as many bytes as there is room for, at least one. A switch point. `Deno.Conn`'s
   * `write`, and gevent's `send`.
   *
   * @param data The bytes.
   * @returns The number of bytes written.
   * @throws {TypeError} If `data` is not a `Uint8Array`.
   */
  write(data: Uint8Array): Wait<number> {
    if (!(data instanceof Uint8Array)) {
      throw new TypeError(
        `Cannot write as the data must be a Uint8Array: received ${
          show(data)
        }; sendAll() takes strings`,
      );
    }
    const bytes = bytesOf(data, "write", "data");
    const scope = currentScope();
    return checkpoint(scope) ??
      this.#outbox.write(bytes, this.#timeout, scope);
  }

  /**
   * Sends all bytes. A switch point. gevent's `sendall`.
   *
   * If the call is interrupted after it has begun to write, the rest is still sent, before
   * later writes, but does not keep the process alive. If it is interrupted while it waits for
   * its turn, nothing is sent.
   *
   * @param data Bytes, which must not be changed until the call ends, or a string, which is
   * encoded as UTF-8.
   * @returns A wait that ends when the operating system has taken all bytes; it may still have
   * to send them.
   * @throws {TypeError} If `data` is neither bytes nor a string.
   */
  sendAll(data: string | Uint8Array): Wait<void> {
    const bytes = bytesOf(data, "send", "data");
    const scope = currentScope();
    return checkpoint(scope) ??
      this.#outbox.writeAll(
        bytes,
        typeof data === "string",
        this.#timeout,
        scope,
      );
  }

  /**
   * Closes the writing side after all earlier writes. The peer reads to the end, and this
   * socket can still read. A switch point. gevent's `shutdown(SHUT_WR)`.
   *
   * @returns A wait that ends when the writing side is closed.
   * @throws {TypeError} If the connection is not the runtime's and has no `closeWrite()`.
   */
  closeWrite(): Wait<void> {
    this.#method(this.#conn, "closeWrite", "one that can close one side");
    const scope = currentScope();
    return checkpoint(scope) ?? this.#outbox.closeWrite(this.#timeout, scope);
  }

  /**
   * Makes the TLS handshake. Without this call, the first read or write makes it. A switch
   * point; an interrupted handshake goes on. gevent's `do_handshake`.
   *
   * @returns The result of the handshake, such as the agreed protocol.
   * @throws {TypeError} If the connection does not use TLS.
   */
  handshake(): Wait<Deno.TlsHandshakeInfo> {
    const conn = this.#conn as Deno.Conn as Deno.TlsConn;
    const handshake = this.#method(conn, "handshake", "one of TLS");
    const scope = currentScope();
    return checkpoint(scope) ??
      new HandshakeWait(this.#timeout).begin(() => handshake.call(conn), scope);
  }

  /**
   * Sends each write at once, or lets the system collect small writes first. gevent's
   * `setsockopt(TCP_NODELAY)`.
   *
   * @param noDelay Whether to send at once.
   * @throws {TypeError} If the connection does not use TCP.
   */
  setNoDelay(noDelay = true): void {
    const conn = this.#conn as Deno.Conn as Deno.TcpConn;
    this.#method(conn, "setNoDelay", "one of TCP").call(conn, noDelay);
  }

  /**
   * Lets the system check now and then that the peer is still there. gevent's
   * `setsockopt(SO_KEEPALIVE)`.
   *
   * @param keepAlive Whether to check.
   * @throws {TypeError} If the connection does not use TCP.
   */
  setKeepAlive(keepAlive = true): void {
    const conn = this.#conn as Deno.Conn as Deno.TcpConn;
    this.#method(conn, "setKeepAlive", "one of TCP").call(conn, keepAlive);
  }

  /**
   * The bytes that are received, as a stream; always the same object. Its reads take turns with
   * the other calls. As with a `Deno.Conn`, the socket is closed when the stream ends or is
   * cancelled.
   */
  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    let readable = readableOf.get(this.#conn);
    if (readable === undefined) {
      readable = readableBy(this, () => this.#bytes);
      readableOf.set(this.#conn, readable);
    }
    return readable;
  }

  /**
   * A stream that writes to the socket; always the same object. Its writes take turns with the
   * other calls. As with a `Deno.Conn`, the socket is closed when the stream is closed or
   * aborted.
   */
  get writable(): WritableStream<Uint8Array<ArrayBufferLike>> {
    return this.#writable ??= writableBy(this, this.#outbox);
  }

  /** Lets waits on this socket keep the process alive. This is the default. */
  ref(): void {
    unreffed.delete(this.#conn);
    if (this.#bytes.ref()) refSocket(this.#conn, "ref");
  }

  /** Lets the process end while they wait. */
  unref(): void {
    refSocket(this.#conn, "unref");
    unreffed.add(this.#conn);
    this.#bytes.unref();
  }

  /** Closes the socket. Its waits and all later calls throw the runtime's error.
   *
   * @throws {Deno.errors.BadResource} If it is closed already.
   */
  close(): void {
    this.#closing();
    originalOf(this.#conn, "close").call(this.#conn);
  }

  /** Closes the socket, if it is open. */
  [Symbol.dispose](): void {
    this.#closing();
    closeSocket(this.#conn);
  }

  #closing(): void {
    BytesOf.delete(this.#conn);
    this.#state = "closed";
    this.#inbox?.close();
    // So a later call throws the error of a closed socket, not of a cancelled operation.
    this.#inbox = null;
  }

  get #bytes(): ConnBytes {
    return this.#inbox ??= takeBytes(this.#conn, null);
  }

  #take<T>(make: (ms: number) => BytesTaker<T>): Wait<T> {
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    // Where no bytes are wanted, only a call that wants some gets the error of a closed socket.
    const taker = this.#state === "open"
      ? make(this.#timeout).startTime()
      : new Receiver(MOST, Infinity) as BytesTaker<unknown> as BytesTaker<T>;
    return this.#bytes.take(taker, scope);
  }

  #method<C extends Deno.Conn, K extends keyof C & string>(
    conn: C,
    name: K,
    wanted: string,
  ): C[K] {
    const method = originalOf(conn, name);
    if (typeof method === "function") return method;
    throw new TypeError(
      `Cannot call ${name}() as the socket must be ${wanted}: received one of ${this.localAddr?.transport}`,
    );
  }
}

/** Returns the byte streams of a connection, shared with `patch()` if it has seen its class. */
function takeBytes(conn: Deno.Conn, operations: SocketOps | null): ConnBytes {
  let bytes = BytesOf.get(conn);
  if (bytes === undefined) {
    const read = originalOf(conn, "read");
    bytes = new ConnBytes(null, conn, read, hold, operations);
    BytesOf.set(conn, bytes);
  }
  return bytes;
}

/** Returns the inbox of a listener, shared with `patch()` if it has seen its class. */
function takeConnections(listener: Deno.Listener): Connections {
  let connections = connectionsOf.get(listener);
  if (connections === undefined) {
    const accept = originalOf(listener, "accept");
    connections = new Connections(null, listener, accept, hold);
    connectionsOf.set(listener, connections);
  }
  return connections;
}

function writableBy(
  socket: Socket,
  outbox: Outbox,
): WritableStream<Uint8Array<ArrayBufferLike>> {
  const close = () => socket[Symbol.dispose]();
  const sink: UnderlyingSink<Uint8Array<ArrayBufferLike>> = bare({
    async write(chunk) {
      try {
        const bytes = bytesOf(chunk, "write", "chunk");
        await outbox.writeAll(bytes, false, Infinity, null);
      } catch (error) {
        close();
        throw error;
      }
    },
    close,
    abort: close,
  });
  return new WritableStream(sink);
}

/** The wait of `SocketListener.accept`. */
class SocketAccepter extends Accepter {
  override accepted(conn: Deno.Conn): void {
    this.switch(socketOf(conn) as unknown as Deno.Conn);
  }
}

/** The wait of one step of a loop over a listener. */
class LoopAccepter extends Accepter {
  readonly #leave: () => void;

  /** @param leave Called when an interrupt has ended the loop. */
  constructor(leave: () => void) {
    super();
    this.#leave = leave;
  }

  override accepted(conn: Deno.Conn): void {
    this.#answer({ done: false, value: socketOf(conn) });
  }

  override throw(error: unknown): void {
    const isClosed = error instanceof Deno.errors.BadResource ||
      error instanceof Deno.errors.Interrupted;
    if (isClosed) this.#answer({ done: true, value: undefined });
    else super.throw(error);
  }

  #answer(result: IteratorResult<Socket, undefined>): void {
    this.switch(result as unknown as Deno.Conn);
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    this.#leave();
  }
}

/**
 * A `Deno.Listener` that accepts sockets, as returned by {@linkcode listen} and {@linkcode
 * listenTls}.
 *
 * A connection that arrives after an `accept()` was interrupted is kept for the next
 * `accept()`. Leaving a loop over the listener closes it, as with a `Deno.Listener`, also when
 * an interrupt ends the loop.
 *
 * @typeParam A The type of its address.
 *
 * @example Usage
 * ```ts
 * import { connect, listen, spawn } from "@gevent/gevent";
 *
 * using listener = listen({ hostname: "127.0.0.1", port: 0 });
 * const server = spawn(async () => {
 *   for await (const socket of listener) {
 *     spawn(async () => {
 *       using _ = socket;
 *       await socket.sendAll("bye\n");
 *     });
 *   }
 * });
 * using client = await connect({ hostname: "127.0.0.1", port: listener.addr.port });
 * for await (const line of client.lines()) console.log(line); // bye
 * await server.kill();
 * ```
 */
export class SocketListener<A extends Deno.Addr = Deno.Addr>
  implements Deno.Listener<Socket<A>, A> {
  readonly #listener: Deno.Listener<Deno.Conn, A>;
  /** `null` before the first call and after `close()`. */
  #inbox: Connections | null = null;
  #state: "open" | "closed" = "open";
  /** Whether an interrupted loop has closed the listener. `close()` then does not throw, once. */
  #isClosedByLoop = false;

  static {
    showAs(this, (listener) => ({
      addr: addressName(listener.addr),
      state: listener.#state,
    }));
  }

  /**
   * Makes a listener of sockets of a `Deno.Listener`. From then on, use that only through this
   * one.
   *
   * @param listener A listener of the runtime, or an object with the same methods: `accept` and
   * `close` at least.
   * @throws {TypeError} If `listener` is not a listener.
   */
  constructor(listener: Deno.Listener<Deno.Conn, A>) {
    const isListener = isObject(listener) &&
      typeof listener.accept === "function" &&
      typeof listener.close === "function" &&
      !(listener instanceof SocketListener);
    if (!isListener) {
      throw new TypeError(
        `Cannot create a listener of sockets as 'listener' must be a Deno.Listener: received ${
          show(listener)
        }`,
      );
    }
    this.#listener = listener;
  }

  /** The address that it listens on. */
  get addr(): A {
    return this.#listener.addr;
  }

  /**
   * Waits for a connection. A switch point. gevent's `accept`.
   *
   * @returns The socket of the connection; its `remoteAddr` is the peer's address.
   */
  accept(): Wait<Socket<A>> {
    const scope = currentScope();
    const wait = checkpoint(scope) ??
      this.#connections.take(new SocketAccepter(), scope);
    return wait as Wait<unknown> as Wait<Socket<A>>;
  }

  /** Lets waits for a connection keep the process alive. This is the default. */
  ref(): void {
    unreffed.delete(this.#listener);
    if (this.#connections.ref()) refSocket(this.#listener, "ref");
  }

  /** Lets the process end while they wait. */
  unref(): void {
    refSocket(this.#listener, "unref");
    unreffed.add(this.#listener);
    this.#connections.unref();
  }

  /**
   * Closes the listener. Its waits throw the runtime's error; a loop over it ends.
   *
   * @throws {Deno.errors.BadResource} If it is closed already.
   */
  close(): void {
    if (this.#isClosedByLoop) {
      this.#isClosedByLoop = false;
      return;
    }
    this.#closing();
    originalOf(this.#listener, "close").call(this.#listener);
  }

  /** Closes the listener, if it is open. */
  [Symbol.dispose](): void {
    this.#closing();
    closeSocket(this.#listener);
  }

  #closing(): void {
    const listener: object = this.#listener;
    this.#state = "closed";
    (this.#inbox ?? connectionsOf.get(listener))?.close();
    connectionsOf.delete(listener);
    this.#inbox = null;
  }

  get #connections(): Connections {
    return this.#inbox ??= takeConnections(this.#listener);
  }

  /** Iterates over the sockets of all connections until the listener is closed. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Socket<A>> {
    const loop = currentScope();
    const end: IteratorResult<never, undefined> = {
      done: true,
      value: undefined,
    };
    return {
      next: (): Wait<IteratorResult<Socket<A>>> => {
        const scope = currentScope();
        // A `next()` that is called by hand under its own `withTimeout` can be called again: it
        // is not a loop.
        const leave = scope === loop ? () => this.#leaveLoop() : () => {};
        const due = checkpoint(scope);
        if (due !== null) leave();
        const wait = due ??
          this.#connections.take(new LoopAccepter(leave), scope);
        return wait as Wait<unknown> as Wait<IteratorResult<Socket<A>>>;
      },
      return: () => {
        this.close();
        return readyWait(end);
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  #leaveLoop(): void {
    try {
      this.close();
      this.#isClosedByLoop = true;
    } catch {
      // The listener is closed already.
    }
  }
}

/**
 * Connects. A switch point: an interrupt cancels it. gevent's `create_connection`.
 *
 * @param options The options of `Deno.connect`, or the address of a listener.
 * @returns The socket.
 * @throws {TypeError} If `options` is not an object.
 *
 * @example Usage
 * ```ts
 * import { connect, listen } from "@gevent/gevent";
 *
 * using listener = listen({ hostname: "127.0.0.1", port: 0 });
 * using socket = await connect({ hostname: "127.0.0.1", port: listener.addr.port });
 * console.log(socket.remoteAddr.port === listener.addr.port); // true
 * ```
 */
export function connect(
  options: Deno.ConnectOptions | Deno.NetAddr,
): Wait<Socket<Deno.NetAddr>>;
/** Connects to a Unix socket. */
export function connect(
  options: Deno.UnixConnectOptions,
): Wait<Socket<Deno.UnixAddr>>;
/** Connects to a VM socket (vsock). */
export function connect(
  options: Deno.VsockConnectOptions,
): Wait<Socket<Deno.VsockAddr>>;
/** Connects to an address of any kind. */
export function connect(options: ConnectOptions): Wait<Socket>;
export function connect(options: ConnectOptions): Wait<Socket> {
  checkSocketOptions(options, "connect");
  const scope = currentScope();
  const original = denoFunction("connect");
  return checkpoint(scope) ??
    connectIn(
      scope,
      original as (options: Deno.ConnectOptions) => Promise<Deno.Conn>,
      options,
      socketOf,
    );
}

/** The target of {@linkcode connect}: options of `Deno.connect`, or the address of a listener. */
export type ConnectOptions =
  | Deno.ConnectOptions
  | Deno.NetAddr
  | Deno.UnixConnectOptions
  | Deno.VsockConnectOptions;

/** Where to listen: what `Deno.listen` takes. */
export type ListenOptions =
  | Deno.TcpListenOptions & { transport?: "tcp" }
  | Deno.UnixListenOptions & { transport: "unix" }
  | Deno.VsockListenOptions & { transport: "vsock" };

/**
 * Connects by TLS. A switch point; a connection that is made after an interrupt is closed. The
 * first read or write makes the handshake, or `handshake()` does. gevent's `ssl.wrap_socket` of
 * a connected socket.
 *
 * @param options The options of `Deno.connectTls`.
 * @returns The socket.
 * @throws {TypeError} If `options` is not an object.
 *
 * @example Usage
 * ```ts ignore
 * import { connectTls } from "@gevent/gevent";
 *
 * using socket = await connectTls({ hostname: "example.com", port: 443 });
 * await socket.handshake();
 * ```
 */
export function connectTls(
  options: Deno.ConnectTlsOptions | ConnectTlsWithCertOptions,
): Wait<Socket<Deno.NetAddr>> {
  checkSocketOptions(options, "connect by TLS");
  const scope = currentScope();
  const original = denoFunction("connectTls");
  return checkpoint(scope) ??
    operateLoosely(
      scope,
      () => then(original(options), socketOf<Deno.NetAddr>),
      () => connectingTo(options),
      (socket) => socket.close(),
    );
}

/** Options of {@linkcode connectTls} with a client certificate. */
export type ConnectTlsWithCertOptions =
  & Deno.ConnectTlsOptions
  & Deno.TlsCertifiedKeyPem;

/**
 * Listens. Not a switch point. gevent's `create_server`, and `bind` with `listen`.
 *
 * @param options The options of `Deno.listen`.
 * @returns The listener.
 * @throws {TypeError} If `options` is not an object.
 * @throws {Deno.errors.AddrInUse} If the address is in use already.
 *
 * @example Usage
 * ```ts
 * import { listen } from "@gevent/gevent";
 *
 * using listener = listen({ hostname: "127.0.0.1", port: 0 });
 * console.log(listener.addr.port > 0); // true
 * ```
 */
export function listen(
  options: Deno.TcpListenOptions & { transport?: "tcp" },
): SocketListener<Deno.NetAddr>;
/** Listens on a Unix socket. */
export function listen(
  options: Deno.UnixListenOptions & { transport: "unix" },
): SocketListener<Deno.UnixAddr>;
/** Listens on a VM socket (vsock). */
export function listen(
  options: Deno.VsockListenOptions & { transport: "vsock" },
): SocketListener<Deno.VsockAddr>;
/** Listens on an address of any kind. */
export function listen(options: ListenOptions): SocketListener;
export function listen(options: ListenOptions): SocketListener {
  checkSocketOptions(options, "listen");
  const original = denoFunction("listen") as (
    options: ListenOptions,
  ) => Deno.Listener;
  return new SocketListener(original(options));
}

/**
 * Listens for TLS connections. Not a switch point. gevent's `ssl.wrap_socket` of a listening
 * socket.
 *
 * @param options The options of `Deno.listenTls`.
 * @returns The listener.
 * @throws {TypeError} If `options` is not an object.
 * @throws {Deno.errors.AddrInUse} If the address is in use already.
 *
 * @example Usage
 * ```ts ignore
 * import { listenTls } from "@gevent/gevent";
 *
 * using listener = listenTls({
 *   port: 443,
 *   cert: Deno.readTextFileSync("cert.pem"),
 *   key: Deno.readTextFileSync("key.pem"),
 * });
 * ```
 */
export function listenTls(
  options: Deno.ListenTlsOptions & Deno.TlsCertifiedKeyPem,
): SocketListener<Deno.NetAddr> {
  checkSocketOptions(options, "listen for TLS");
  return new SocketListener(denoFunction("listenTls")(options));
}

function checkConn(conn: unknown): void {
  const isConn = isObject(conn) &&
    ["read", "write", "close"].every((name) =>
      typeof (conn as Record<string, unknown>)[name] === "function"
    );
  if (isConn && !(conn instanceof Socket)) return;
  throw new TypeError(
    isConn
      ? "Cannot create a socket as its connection must not be a Socket already"
      : `Cannot create a socket as 'conn' must be a Deno.Conn: received ${
        show(conn)
      }`,
  );
}

function maxOf(options: RecvOptions, what: string): number {
  checkOptions(options, what);
  const { max = MOST } = options;
  checkMax(max, what);
  return max;
}

function checkMax(max: number, what: string): void {
  if (max === Infinity || Number.isSafeInteger(max) && max > 0) return;
  throw numberError(what, "max", "a positive integer", max);
}

/** Returns the bytes as a plain `Uint8Array`, or a string as UTF-8. */
function bytesOf(data: unknown, what: string, name: string): Uint8Array {
  if (typeof data === "string") return encoder.encode(data);
  if (data instanceof Uint8Array) {
    return data.constructor === Uint8Array
      ? data
      : new Uint8Array(data.buffer, data.byteOffset, lengthOf(data));
  }
  throw new TypeError(
    `Cannot ${what} as '${name}' must be a string or a Uint8Array: received ${
      show(data)
    }`,
  );
}

nameClasses({ Socket, SocketListener });
