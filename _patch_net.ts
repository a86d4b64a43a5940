/**
 * The part `net` of `patch()`: TCP and Unix sockets.
 *
 * Deno can't cancel one `read` or `accept` and tell whether it has taken something. So an
 * operation goes on when its caller is interrupted, and what it brings is for the next
 * caller: bytes are read into a buffer of ours, connections are kept.
 *
 * @module
 */

import { cooperativeFlow, type Flow, Suspension } from "./_flow.ts";
import type { Wait } from "./_flow.ts";
import { disguise, getOriginal, patchItem } from "./_items.ts";

type Read = (this: Deno.Conn, buffer: Uint8Array) => Promise<number | null>;
type Write = (this: Deno.Conn, data: Uint8Array) => Promise<number>;
type Accept = (this: Deno.Listener) => Promise<Deno.Conn>;
type Close = (this: Closer) => void;
type Connect = (
  this: unknown,
  options: Deno.ConnectOptions,
) => Promise<Deno.Conn>;
type Listen = (options: Deno.ListenOptions) => Deno.Listener;

type Closer = { close(): void };

/** The most that is read by one operation, and kept for it. */
const MOST_READ = 64 * 1024;
/** The most that is written by one operation: `write` may always write less. */
const MOST_WRITTEN = 1024 * 1024;

/** Somebody who waits for what a {@linkcode Source} brings. */
abstract class Taker<T> extends Suspension<T> {
  /** Goes out of the line. */
  leaveLine: (() => void) | null = null;

  protected override undo(): void {
    this.leaveLine?.();
  }
}

/** Sources that are not idle. */
const unsettled = new Set<{ stayPatched(): void }>();

/**
 * An operation that is repeated on one socket: who waits for it, and what it has brought
 * that nobody has taken.
 */
abstract class Source<T, K extends Taker<T>> {
  readonly #line = new Set<K>();
  #busy = false;
  /** The error of an operation that nobody waited for any more. */
  #failure: { readonly error: unknown } | null = null;
  protected closed = false;

  /** Whether the original method would do as well. */
  get idle(): boolean {
    return !this.#busy && this.#line.size === 0 && !this.stocked &&
      this.#failure === null;
  }

  /** Whether something was brought that nobody has taken. */
  protected abstract get stocked(): boolean;
  protected abstract get socket(): object;
  /** Begins the operation for whoever is first in the line. */
  protected abstract begin(taker: K): Promise<void>;
  /** Gives what there is. */
  protected abstract give(taker: K): void;
  /** Gets rid of what nobody has taken. */
  protected abstract discard(): void;

  /** The socket is about to be closed. */
  close(): void {
    this.closed = true;
    this.#failure = null;
    this.discard();
    if (this.idle) unsettled.delete(this);
  }

  /** Waits in the line; outside greenlets (`flow` is `null`) nothing interrupts it. */
  take(taker: K, flow: Flow | null): Wait<T> {
    unsettled.add(this);
    this.#line.add(taker);
    taker.leaveLine = () => this.#line.delete(taker);
    const wait = taker.suspend(flow);
    this.#serve();
    return wait;
  }

  #serve(): void {
    for (const taker of this.#line) {
      const failure = this.#failure;
      if (!this.stocked && failure === null) return void this.#operate(taker);
      this.#line.delete(taker);
      if (failure === null) {
        this.give(taker);
      } else {
        this.#failure = null;
        taker.throw(failure.error);
      }
    }
    if (this.idle) unsettled.delete(this);
  }

  /** Keeps the methods of this one socket, when the prototype's are restored. */
  stayPatched(): void {
    const socket = this.socket as Record<PropertyKey, unknown>;
    for (const name of ["read", "accept", "close", Symbol.dispose]) {
      if (socket[name] === undefined) continue;
      Object.defineProperty(socket, name, {
        value: socket[name],
        writable: true,
        configurable: true,
      });
    }
  }

  async #operate(taker: K): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      await this.begin(taker);
    } catch (error) {
      // Kept as well, as some come once only: after the reset of a connection there is
      // nothing but its end.
      if (!this.closed) this.#failure = { error };
      else this.#failAll(error);
    }
    this.#busy = false;
    this.#serve();
  }

  #failAll(error: unknown): void {
    for (const taker of this.#line) taker.throw(error);
    this.#line.clear();
  }
}

class Reader extends Taker<number | null> {
  readonly buffer: Uint8Array;

  constructor(buffer: Uint8Array) {
    super();
    this.buffer = buffer;
  }
}

/** The bytes of a connection, in order, whoever asks for them. */
class Bytes extends Source<number | null, Reader> {
  readonly #conn: Deno.Conn;
  readonly #read: Read;
  #buffer = new Uint8Array(0);
  /** What was read and not taken: `null` is the end of the stream. */
  #rest: Uint8Array | null | undefined = undefined;

  constructor(conn: Deno.Conn, read: Read) {
    super();
    this.#conn = conn;
    this.#read = read;
  }

  protected override get stocked(): boolean {
    return this.#rest !== undefined;
  }

  protected override get socket(): object {
    return this.#conn;
  }

  protected override discard(): void {
    this.#rest = undefined;
  }

  protected override async begin(reader: Reader): Promise<void> {
    const most = Math.min(reader.buffer.length, MOST_READ);
    if (this.#buffer.length < most) this.#buffer = new Uint8Array(most);
    const buffer = this.#buffer.subarray(0, most);
    const count = await this.#read.call(this.#conn, buffer);
    if (this.closed) return;
    this.#rest = count === null ? null : buffer.subarray(0, count);
  }

  protected override give(reader: Reader): void {
    const rest = this.#rest!;
    this.#rest = undefined;
    if (rest === null) return reader.switch(null);
    const taken = rest.subarray(0, reader.buffer.length);
    reader.buffer.set(taken);
    if (taken.length < rest.length) this.#rest = rest.subarray(taken.length);
    reader.switch(taken.length);
  }
}

class Accepter extends Taker<Deno.Conn> {}

/** The connections of a listener, in order, whoever accepts them. */
class Connections extends Source<Deno.Conn, Accepter> {
  readonly #listener: Deno.Listener;
  readonly #accept: Accept;
  #conns: Deno.Conn[] = [];

  constructor(listener: Deno.Listener, accept: Accept) {
    super();
    this.#listener = listener;
    this.#accept = accept;
  }

  protected override get stocked(): boolean {
    return this.#conns.length > 0;
  }

  protected override get socket(): object {
    return this.#listener;
  }

  protected override async begin(): Promise<void> {
    const conn = await this.#accept.call(this.#listener);
    if (this.closed) conn.close();
    else this.#conns.push(conn);
  }

  protected override give(accepter: Accepter): void {
    accepter.switch(this.#conns.shift()!);
  }

  protected override discard(): void {
    for (const conn of this.#conns.splice(0)) conn.close();
  }
}

/** The wait for an operation that brings nothing to anybody else. */
class Operation<T> extends Suspension<T> {
  readonly #cancel: (error: unknown) => void;

  constructor(cancel: (error: unknown) => void) {
    super();
    this.#cancel = cancel;
  }

  protected override undo(error: unknown): void {
    this.#cancel(error);
  }
}

/**
 * Waits for an operation.
 *
 * @param cancel Called when the wait is interrupted.
 * @param discard Called with the result when it comes after that.
 */
function operate<T>(
  flow: Flow,
  promise: Promise<T>,
  cancel: (error: unknown) => void = () => {},
  discard: (value: T) => void = () => {},
): Wait<T> {
  const operation = new Operation<T>(cancel);
  promise.then(
    (value) => {
      if (operation.state === "waiting") operation.switch(value);
      else discard(value);
    },
    (error) => operation.throw(error),
  );
  return operation.suspend(flow);
}

const bytesOf = new WeakMap<object, Bytes>();
const connectionsOf = new WeakMap<object, Connections>();

/** Patches sockets; disposing of what it returns restores them. */
export function patchNet(): Disposable {
  const patched = new DisposableStack();
  /** The prototypes that were patched: they are met with the first socket of a kind. */
  const met = new Set<object>();

  function put<K extends PropertyKey, F extends (...args: never[]) => unknown>(
    object: object,
    name: K,
    wrap: (original: F) => F,
  ): void {
    const original = getOriginal(object as Record<K, F>, name);
    const replacement = disguise(wrap(original), original);
    patched.use(patchItem(object, name as PropertyKey, replacement));
  }

  /** Patches the prototype that has the method, if it is new to us. */
  function meet(socket: object, method: string, patch: (it: object) => void) {
    let prototype = Object.getPrototypeOf(socket);
    while (prototype !== null && !Object.hasOwn(prototype, method)) {
      prototype = Object.getPrototypeOf(prototype);
    }
    if (prototype === null || met.has(prototype) || patched.disposed) return;
    met.add(prototype);
    patch(prototype);
  }

  function meetConn(conn: Deno.Conn): void {
    meet(conn, "read", (prototype) => {
      put(prototype, "read", cooperativeRead);
      put(prototype, "write", cooperativeWrite);
      put(prototype, "close", (close) => closing(close, bytesOf));
      put(prototype, Symbol.dispose, (close) => closing(close, bytesOf));
    });
  }

  function meetListener(listener: Deno.Listener): void {
    meet(listener, "accept", (prototype) => {
      put(
        prototype,
        "accept",
        (accept: Accept) => cooperativeAccept(accept, meetConn),
      );
      put(prototype, "close", (close) => closing(close, connectionsOf));
      put(prototype, Symbol.dispose, (close) => closing(close, connectionsOf));
    });
  }

  try {
    put(
      Deno,
      "connect",
      (connect: Connect) => cooperativeConnect(connect, meetConn),
    );
    put(Deno, "listen", (original: Listen) =>
      function (this: unknown) {
        const listener = Reflect.apply(original, this, arguments);
        meetListener(listener);
        return listener;
      });
  } catch (error) {
    patched.dispose();
    throw error;
  }
  return {
    [Symbol.dispose]() {
      for (const source of unsettled) source.stayPatched();
      patched.dispose();
    },
  };
}

function cooperativeConnect(
  original: Connect,
  meet: (conn: Deno.Conn) => void,
): Connect {
  return function (this: unknown, options) {
    const flow = cooperativeFlow();
    if (flow === null) {
      const promise: Promise<Deno.Conn> = Reflect.apply(
        original,
        this,
        arguments,
      );
      promise.then(meet, () => {});
      return promise;
    }
    const due = flow.checkpoint();
    if (due !== null) return due;
    const abort = new AbortController();
    const promise = original.call(this, withSignal(options, abort.signal));
    promise.then(meet, () => {});
    return operate(
      flow,
      promise,
      (error) => abort.abort(error),
      (conn) => conn.close(),
    );
  };
}

/** The options, with a signal that cancels the connect as well as the caller's own. */
function withSignal(
  options: Deno.ConnectOptions,
  ours: AbortSignal,
): Deno.ConnectOptions {
  const theirs = options?.signal ?? undefined;
  const isOdd = options == null ||
    theirs !== undefined && !(theirs instanceof AbortSignal);
  // For Deno to complain of.
  if (isOdd) return options;
  const signal = theirs === undefined ? ours : AbortSignal.any([theirs, ours]);
  // Deno asks once more when the connection is there, and to throw would lose it.
  signal.throwIfAborted = () => theirs?.throwIfAborted();
  return { ...options, signal };
}

function cooperativeAccept(
  original: Accept,
  meet: (conn: Deno.Conn) => void,
): Accept {
  return function () {
    const flow = cooperativeFlow();
    let connections = connectionsOf.get(this);
    const asBefore = flow === null &&
      (connections === undefined || connections.idle);
    if (asBefore || !isObject(this)) {
      const promise = original.call(this);
      promise.then(meet, () => {});
      return promise;
    }
    const due = flow?.checkpoint() ?? null;
    if (due !== null) return due;
    if (connections === undefined) {
      connections = new Connections(this, async () => {
        const conn = await original.call(this);
        meet(conn);
        return conn;
      });
      connectionsOf.set(this, connections);
    }
    return connections.take(new Accepter(), flow);
  };
}

function cooperativeRead(original: Read): Read {
  return function (buffer) {
    const flow = cooperativeFlow();
    let bytes = bytesOf.get(this);
    const asBefore = flow === null && (bytes === undefined || bytes.idle);
    const isOdd = !isObject(this) || !(buffer instanceof Uint8Array) ||
      buffer.length === 0;
    if (asBefore || isOdd) {
      return original.call(this, buffer);
    }
    const due = flow?.checkpoint() ?? null;
    if (due !== null) return due;
    if (bytes === undefined) {
      bytesOf.set(this, bytes = new Bytes(this, original));
    }
    return bytes.take(new Reader(buffer), flow);
  };
}

function cooperativeWrite(original: Write): Write {
  return function (data) {
    const flow = cooperativeFlow();
    if (flow === null || !(data instanceof Uint8Array) || data.length === 0) {
      return original.call(this, data);
    }
    const due = flow.checkpoint();
    if (due !== null) return due;
    // A copy, as a write that is interrupted goes on, in its place in the order, when its
    // caller may already use the bytes for something else.
    const copy = Uint8Array.prototype.slice.call(data, 0, MOST_WRITTEN);
    return operate(flow, original.call(this, copy));
  };
}

/** Closes what was kept, too. */
function closing(
  original: Close,
  sources: WeakMap<object, { close(): void }>,
): Close {
  return function () {
    const source = sources.get(this);
    // Whoever comes later finds a closed socket, and not an operation that was cancelled.
    sources.delete(this);
    source?.close();
    return original.call(this);
  };
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null;
}
