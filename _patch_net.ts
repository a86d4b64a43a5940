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
import { Place } from "./_line.ts";
import { List } from "./_list.ts";
import { looped } from "./_wakeups.ts";
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
/** The most for which a connection keeps memory to write from. */
const MOST_KEPT = 64 * 1024;
/** The most that is written by one operation: `write` may always write less. */
const MOST_WRITTEN = 1024 * 1024;

/** Somebody who waits for what a {@linkcode Source} brings. */
abstract class Taker<K extends Taker<K, T>, T> extends Place<K, T> {}

/** Sockets whose methods were called: those that are not idle must stay cooperative. */
const sources = new Set<WeakRef<{ stayPatched(): void }>>();

/**
 * An operation that is repeated on one socket: who waits for it, and what it has brought
 * that nobody has taken.
 */
abstract class Source<T, K extends Taker<K, T>, R> {
  readonly #line = new List<K>();
  readonly #reference = new WeakRef(this);

  constructor() {
    sources.add(this.#reference);
  }

  #busy = false;
  /** The error of an operation that nobody waited for any more. */
  #failure: { readonly error: unknown } | null = null;
  protected closed = false;

  /** Whether the original method would do as well. */
  get idle(): boolean {
    return !this.#busy && this.#line.first === null && !this.stocked &&
      this.#failure === null;
  }

  /** Whether something was brought that nobody has taken. */
  protected abstract get stocked(): boolean;
  protected abstract get socket(): object;
  /** Begins the operation for whoever is first in the line. */
  protected abstract begin(taker: K): Promise<R>;
  /** Keeps what the operation has brought. */
  protected abstract keep(result: R): void;
  /** Gives what there is. */
  protected abstract give(taker: K): void;
  /** Gets rid of what nobody has taken. */
  protected abstract discard(): void;

  /** The socket is about to be closed. */
  close(): void {
    this.closed = true;
    this.#failure = null;
    this.discard();
    sources.delete(this.#reference);
  }

  /** Waits in the line; outside greenlets (`flow` is `null`) nothing interrupts it. */
  take(taker: K, flow: Flow | null): Wait<T> {
    this.#line.add(taker);
    const wait = taker.suspend(flow);
    this.#serve();
    return wait;
  }

  #serve(): void {
    for (let taker = this.#line.first; taker; taker = this.#line.first) {
      const failure = this.#failure;
      if (!this.stocked && failure === null) return this.#operate(taker);
      this.#line.remove(taker);
      if (failure === null) {
        this.give(taker);
      } else {
        this.#failure = null;
        taker.throw(failure.error);
      }
    }
  }

  /** Keeps the methods of this one socket, when the prototype's are restored. */
  stayPatched(): void {
    if (this.idle) return;
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

  #operate(taker: K): void {
    if (this.#busy) return;
    this.#busy = true;
    this.begin(taker).then(this.#kept, this.#failed);
  }

  // Made once, and not for every operation.
  readonly #kept = (result: R): void => {
    looped();
    this.keep(result);
    this.#busy = false;
    this.#serve();
  };

  readonly #failed = (error: unknown): void => {
    // Kept as well, as some come once only: after the reset of a connection there is
    // nothing but its end.
    if (!this.closed) this.#failure = { error };
    else this.#failAll(error);
    this.#busy = false;
    this.#serve();
  };

  #failAll(error: unknown): void {
    for (let taker = this.#line.shift(); taker; taker = this.#line.shift()) {
      taker.throw(error);
    }
  }
}

class Reader extends Taker<Reader, number | null> {
  readonly buffer: Uint8Array;

  constructor(buffer: Uint8Array) {
    super();
    this.buffer = buffer;
  }
}

/** The bytes of a connection, in order, whoever asks for them. */
class Bytes extends Source<number | null, Reader, number | null> {
  readonly #conn: Deno.Conn;
  readonly #read: Read;
  /** What is read into. */
  #buffer = new Uint8Array(0);
  /** What was read and not taken lies from here to there. */
  #start = 0;
  #end = 0;
  /** Whether the stream is at its end, and nobody was told. */
  #ended = false;

  constructor(conn: Deno.Conn, read: Read) {
    super();
    this.#conn = conn;
    this.#read = read;
  }

  protected override get stocked(): boolean {
    return this.#start < this.#end || this.#ended;
  }

  protected override get socket(): object {
    return this.#conn;
  }

  protected override discard(): void {
    this.#start = this.#end;
    this.#ended = false;
  }

  protected override begin(reader: Reader): Promise<number | null> {
    // Somewhere to read to there must be, even if its buffer was transferred meanwhile.
    const most = Math.min(reader.buffer.length, MOST_READ) || 1;
    if (this.#buffer.length !== most) this.#buffer = view(this.#buffer, most);
    return this.#read.call(this.#conn, this.#buffer);
  }

  protected override keep(count: number | null): void {
    if (this.closed) return;
    this.#start = 0;
    this.#end = count ?? 0;
    this.#ended = count === null;
  }

  protected override give(reader: Reader): void {
    if (this.#ended) {
      this.#ended = false;
      return reader.switch(null);
    }
    const start = this.#start;
    const end = Math.min(start + reader.buffer.length, this.#end);
    copy(this.#buffer, start, end, reader.buffer);
    this.#start = end;
    reader.switch(end - start);
  }
}

/** Copies a few bytes one by one: a view for `set` costs 100 ns. */
function copy(
  from: Uint8Array,
  start: number,
  end: number,
  to: Uint8Array,
): void {
  if (end - start > 64) return to.set(from.subarray(start, end));
  for (let i = start; i < end; i++) to[i - start] = from[i]!;
}

class Accepter extends Taker<Accepter, Deno.Conn> {}

/** The connections of a listener, in order, whoever accepts them. */
class Connections extends Source<Deno.Conn, Accepter, Deno.Conn> {
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

  protected override begin(): Promise<Deno.Conn> {
    return this.#accept.call(this.#listener);
  }

  protected override keep(conn: Deno.Conn): void {
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

/**
 * What is written to a connection: copies, as a write that is interrupted goes on, in its
 * place in the order, when its caller may already use the bytes for something else.
 */
class Writes {
  readonly #conn: Deno.Conn;
  readonly #write: Write;
  /** What is written from, if nothing else is on its way. */
  #buffer = new Uint8Array(0);
  /** Who waits for what is written from the buffer. */
  #writer: Suspension<number> | null = null;

  constructor(conn: Deno.Conn, write: Write) {
    this.#conn = conn;
    this.#write = write;
  }

  write(data: Uint8Array, flow: Flow): Wait<number> {
    const most = Math.min(data.length, MOST_WRITTEN);
    if (this.#writer !== null || most > MOST_KEPT) {
      const copy = Uint8Array.prototype.slice.call(data, 0, most);
      return operate(flow, this.#write.call(this.#conn, copy));
    }
    if (this.#buffer.length !== most) {
      this.#buffer = view(this.#buffer, most);
    }
    copy(data, 0, most, this.#buffer);
    const writer = this.#writer = new Suspension<number>();
    this.#write.call(this.#conn, this.#buffer).then(
      this.#written,
      this.#failed,
    );
    return writer.suspend(flow);
  }

  readonly #written = (count: number): void => {
    const writer = this.#writer!;
    this.#writer = null;
    looped();
    writer.switch(count);
  };

  readonly #failed = (error: unknown): void => {
    const writer = this.#writer!;
    this.#writer = null;
    writer.throw(error);
  };
}

/** The memory of `buffer` at that length, or new memory if it is too small. */
function view(buffer: Uint8Array<ArrayBuffer>, length: number) {
  return buffer.buffer.byteLength < length
    ? new Uint8Array(length)
    : new Uint8Array(buffer.buffer, 0, length);
}

const bytesOf = new WeakMap<object, Bytes>();
const writesOf = new WeakMap<object, Writes>();
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
      for (const source of sources) source.deref()?.stayPatched();
      sources.clear();
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
    const isOurs = data instanceof Uint8Array && isObject(this);
    if (flow === null || !isOurs) return original.call(this, data);
    const due = flow.checkpoint();
    if (due !== null) return due;
    let writes = writesOf.get(this);
    if (writes === undefined) {
      writesOf.set(this, writes = new Writes(this, original));
    }
    return writes.write(data, flow);
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
