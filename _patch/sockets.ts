/**
 * Connections and listeners, for the parts `net` and `tls` of `patch()`.
 *
 * Each class of the runtime is patched by itself, although `TlsConn` and `TcpConn` inherit
 * from the same class. So either part can be left out.
 *
 * @module
 */

import { bare, then } from "../_base/language.ts";
import { isObject } from "../_base/checks.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { isInterrupt, isRecipient } from "../_hub/interrupts.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint, takenWait, type Wait } from "../_hub/suspension.ts";
import { Begun } from "../_hub/begun.ts";
import { getOriginal } from "./properties.ts";
import { QueuedWait } from "../_hub/wait_queue.ts";
import { cooperateLoosely } from "./cooperate.ts";
import { NONE, type SocketOps, socketOpsFor } from "../_hub/socket_ops.ts";
import type { Patches } from "./patch_set.ts";
import { Stamp } from "../_base/stamp.ts";
import { setSource } from "./streams_rest.ts";
import {
  Bytes,
  type Hold,
  Inbox,
  type Inboxes,
  lengthOf,
  MOST_KEPT,
  MOST_WRITTEN,
  Reader,
  Scratch,
  Writes,
} from "../_hub/inbox.ts";

type Read = (this: Deno.Conn, buffer: Uint8Array) => Promise<number | null>;
type Write = (this: Deno.Conn, data: Uint8Array) => Promise<number>;
type Ask = () => Promise<unknown>;
type Accept = (this: Deno.Listener) => Promise<Deno.Conn>;
type Close = () => void;
type Accepting = AsyncIterableIterator<Deno.Conn>;
type Iterate = (this: Deno.Listener) => Accepting;
type Readable = ReadableStream<Uint8Array<ArrayBuffer>>;

/** An object that can be closed, and that has `ref` and `unref`. */
export interface Socket {
  close(): void;
  ref(): void;
  unref(): void;
}

/** The sockets whose user has called `unref` under `patch()`. */
const unreffed = new WeakSet<object>();

class Accepter extends QueuedWait<Accepter, Deno.Conn> {}

/** The connections of a listener, in order, and the waits for them. */
class Connections extends Inbox<Deno.Conn, Accepter, Deno.Conn> {
  readonly #listener: Deno.Listener;
  readonly #accept: Accept;
  /** The operation in progress, if the listener's own `ref` and `unref` don't affect it. */
  readonly #begun: Begun | null;
  #conns: Deno.Conn[] = [];

  constructor(
    sources: Inboxes,
    listener: Deno.Listener,
    accept: Accept,
    hold: Hold,
  ) {
    super(sources, hold);
    this.#listener = listener;
    this.#accept = accept;
    // `ref` and `unref` of a TLS listener don't affect its `accept`.
    this.#begun = listener.constructor.name === "TlsListener"
      ? new Begun()
      : null;
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
    if (this.#begun === null) super.release();
    else this.#begun.unref();
  }

  protected override retain(): void {
    if (this.#begun === null) super.retain();
    else this.#begun.ref();
  }

  protected override keep(conn: Deno.Conn): void {
    this.#conns.push(conn);
  }

  protected override give(accepter: Accepter): void {
    accepter.switch(this.#conns.shift()!);
  }

  protected override discard(): void {
    this.#conns.splice(0).forEach((conn) => conn.close());
  }
}

/** The bytes of a connection. `read` and the stream `readable` both take them. */
class ConnBytes extends Bytes {
  /** The runtime's operations to read with; `null` to use the connection's own method. */
  readonly #operations: SocketOps | null;
  /** The id of our read operation. The connection's `ref` and `unref` don't affect it. */
  #reading = NONE;
  /** The id of the stream's own read operation. */
  #streaming = NONE;
  /** Whether reads keep the process alive, as set by the user with `ref` and `unref`. */
  #keepsAlive: boolean;
  /** Whether the stream reads by itself, without a `read` of the connection. */
  #pulling = false;

  constructor(
    sources: Inboxes,
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

  override get busy(): boolean {
    return this.#pulling || super.busy;
  }

  override ref(): boolean {
    const operations = this.#operations;
    if (operations === null) return super.ref();
    this.#keepsAlive = true;
    if (this.state === "busy") operations.ref(this.#reading);
    if (this.#pulling && !this.streamRests) operations.ref(this.#streaming);
    return true;
  }

  override unref(): void {
    this.#keepsAlive = false;
    if (this.state !== "idle") this.#operations?.unref(this.#reading);
    if (this.#pulling) this.#operations?.unref(this.#streaming);
  }

  protected override release(): void {
    if (this.#operations === null) super.release();
    else this.#operations.unref(this.#reading);
  }

  protected override retain(): void {
    if (this.#operations === null) super.retain();
    else if (this.#keepsAlive) this.#operations.ref(this.#reading);
  }

  protected override forget(): void {
    if (BytesOf.get(this.owner) === this) BytesOf.delete(this.owner);
  }

  protected override begin(reader: Reader): Promise<number | null> {
    const reading = super.begin(reader);
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

  override restStream(): void {
    super.restStream();
    if (!this.#pulling) return;
    if (this.#operations === null) super.release();
    else this.#operations.unref(this.#streaming);
  }

  override resumeStream(): void {
    super.resumeStream();
    if (!this.#pulling) return;
    if (this.#operations === null) super.retain();
    else if (this.#keepsAlive) this.#operations.ref(this.#streaming);
  }

  protected override keep(count: number | null): void {
    // At the end the method returns `null`, and the operation returns 0.
    super.keep(count || null);
  }

  protected override get mustStayPatched(): boolean {
    return readableOf.has(this.owner) || super.mustStayPatched;
  }

  /** Reads for the stream. No interrupt reaches this read, so it needs no copy if it is alone. */
  async pull(view: Uint8Array): Promise<number | null> {
    if (!this.isEmpty) return await this.readForStream(view);
    this.#pulling = true;
    try {
      const reading = this.readOn(view);
      this.#streaming = this.#idOf(reading);
      if (this.streamRests) this.restStream();
      return await reading || null;
    } finally {
      this.#pulling = false;
      // Keeps the process alive for the next read.
      if (this.streamRests && this.#operations === null) super.retain();
      this.left();
    }
  }

  override left(): void {
    // The connection's own `unref` would affect the stream's read as well.
    const isOne = this.#operations === null && this.#pulling;
    if (!isOne || this.streamRests) super.left();
  }
}

/**
 * Keeps the bytes of a connection in a private field of the connection. This takes a fifth of
 * the time of a `WeakMap` with hundreds of connections.
 */
class BytesOf extends Stamp {
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
 * methods. It is set on a new connection before the program gets it, so that we see each `ref`
 * and `unref`.
 */
class OperationsOf extends Stamp {
  #operations: SocketOps | null = null;
  #by: Sockets | undefined;

  static get(conn: unknown, sockets: Sockets): SocketOps | null {
    return isObject(conn) && #by in conn && conn.#by === sockets
      ? conn.#operations
      : null;
  }

  static set(conn: object, operations: SocketOps, sockets: Sockets): void {
    if (!(#by in conn)) new OperationsOf(conn);
    (conn as OperationsOf).#operations = operations;
    (conn as OperationsOf).#by = sockets;
  }
}

/** Keeps the writes of a connection. */
class WritesOf extends Stamp {
  #writes: Writes | undefined;

  static get(conn: unknown): Writes | undefined {
    return isObject(conn) && #writes in conn ? conn.#writes : undefined;
  }

  static set(conn: object, writes: Writes): void {
    if (!(#writes in conn)) new WritesOf(conn);
    (conn as WritesOf).#writes = writes;
  }
}

const readableOf = new WeakMap<object, Readable>();
const connectionsOf = new WeakMap<object, Connections>();

/** Memory for copies of the data that operations are writing. */
const scratch = new Scratch();

/** The prototypes of sockets that a part of `patch()` has seen, for the next `patch()`. */
export class Prototypes {
  readonly conns = new Set<object>();
  readonly listeners = new Set<object>();
  /** The `Sockets` that patch them now. */
  sockets: Sockets | null = null;
}

/** Patches connections and listeners: each class when its first instance is made. */
export class Sockets {
  readonly #patches: Patches;
  readonly #sources: Inboxes;
  readonly #met: Prototypes;
  /** The runtime's operations for each class of connections. */
  readonly #operations = new Map<object, SocketOps | null>();

  /** Makes it with the inboxes of the part, and the prototypes that the part has seen. */
  constructor(patches: Patches, sources: Inboxes, met: Prototypes) {
    this.#patches = patches;
    this.#sources = sources;
    this.#met = met;
    met.sockets = this;
    patches.beforeRestore(() => {
      sources.stayPatched();
      met.sockets = null;
    });
    for (const prototype of met.conns) this.#meetConn(Object.create(prototype));
    for (const prototype of met.listeners) {
      this.#meetListener(Object.create(prototype));
    }
  }

  /** Patches the class of a new connection. Has to be called before the program gets it. */
  readonly meetConn = <C extends Deno.Conn>(conn: C): C => {
    // The connection may have been requested under an earlier patch().
    (this.#met.sockets ?? this).#meetConn(conn);
    return conn;
  };

  /** Patches the class of a new listener. Has to be called before the program gets it. */
  readonly meetListener = <L extends Deno.Listener>(listener: L): L => {
    (this.#met.sockets ?? this).#meetListener(listener);
    return listener;
  };

  #meetConn(conn: Deno.Conn): void {
    // Patches the class of the connection itself. A class that it inherits from may have
    // subclasses of another part.
    const met = this.#patches.onFirstInstance(
      conn,
      "constructor",
      (prototype) => {
        const { read, write } = patchConn(
          this.#patches,
          prototype as Deno.Conn,
          this.#sources,
          (conn) => OperationsOf.get(conn, this),
        );
        this.#operations.set(prototype, socketOpsFor([read, write]));
      },
    );
    if (met === null) return;
    this.#met.conns.add(met);
    const operations = this.#operations.get(met);
    if (operations?.suit(conn)) OperationsOf.set(conn, operations, this);
  }

  #meetListener(listener: Deno.Listener): void {
    const met = this.#patches.onFirstInstance(
      listener,
      "constructor",
      (prototype) => {
        patchListener(
          this.#patches,
          prototype as Deno.Listener,
          this.#sources,
          this.meetConn,
        );
      },
    );
    if (met !== null) this.#met.listeners.add(met);
  }
}

/** @returns The original methods that read and write. */
function patchConn(
  patches: Patches,
  prototype: Deno.Conn,
  sources: Inboxes,
  operationsOf: (conn: unknown) => SocketOps | null,
): { read: Read; write: Write } {
  const hold = patchHold(patches, prototype, BytesOf);
  const read: Read = getOriginal(prototype, "read");
  const write: Write = getOriginal(prototype, "write");
  const takeBytes = (conn: Deno.Conn): ConnBytes => {
    let bytes = BytesOf.get(conn);
    if (bytes === undefined) {
      const operations = operationsOf(conn);
      bytes = new ConnBytes(sources, conn, read, hold, operations);
      BytesOf.set(conn, bytes);
    }
    return bytes;
  };
  patches.replace<Read>(
    prototype,
    "read",
    () => cooperativeRead(read, takeBytes),
  );
  patches.replace<Write>(
    prototype,
    "write",
    () => cooperativeWrite(write, operationsOf),
  );
  ["closeWrite", "handshake"].forEach((name) => {
    if (name in prototype) {
      patches.replace<Ask>(
        prototype,
        name,
        (original) => cooperateLoosely(original),
      );
    }
  });
  patches.replaceGetter<Readable>(
    prototype,
    "readable",
    (readable) => cooperativeReadable(readable, takeBytes),
  );
  patchClosing(patches, prototype, BytesOf);
  return { read, write };
}

function patchListener(
  patches: Patches,
  prototype: Deno.Listener,
  sources: Inboxes,
  meet: (conn: Deno.Conn) => Deno.Conn,
): void {
  const hold = patchHold(patches, prototype, connectionsOf);
  patches.replace<Accept>(prototype, "accept", (original) => {
    const accept: Accept = function () {
      return then(original.call(this), meet);
    };
    return cooperativeAccept(accept, sources, hold);
  });
  patches.replace<Iterate>(
    prototype,
    Symbol.asyncIterator,
    (iterate) =>
      function () {
        const scope = interruptibleScope();
        const iterator = iterate.call(this);
        return scope === null ? iterator : acceptLoop(this, iterator, scope);
      },
  );
  patchClosing(patches, prototype, connectionsOf);
}

/**
 * Listeners that were closed because an interrupt ended the loop over them. Their user may not
 * know that, and may close them again.
 */
const closedByLoop = new WeakSet<object>();

/**
 * Makes the iterator of a `for await` loop over a listener. An interrupt in its `next` closes
 * the listener, as leaving the loop elsewhere does. A call of `next` in a `withTimeout` of its
 * own does not come from a loop, and may be repeated.
 */
function acceptLoop(
  listener: Deno.Listener,
  iterator: Accepting,
  scope: Scope,
): Accepting {
  const closeAfter = (error: unknown) => {
    if (!isInterrupt(error) || !isRecipient(error, scope.greenlet)) return;
    try {
      listener.close();
      closedByLoop.add(listener);
    } catch {
      // The listener was closed before.
    }
  };
  return {
    next() {
      const accepting = iterator.next();
      if (interruptibleScope() === scope) {
        then(accepting, undefined, closeAfter);
      }
      return accepting;
    },
    return: (value?: unknown) => iterator.return!(value),
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

function cooperativeAccept(
  original: Accept,
  sources: Inboxes,
  hold: Hold,
): Accept {
  return function () {
    const scope = interruptibleScope();
    let connections = connectionsOf.get(this);
    const asBefore = scope === null &&
      (connections === undefined || connections.isEmpty);
    if (asBefore || !isObject(this)) return original.call(this);
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (connections === undefined) {
      connections = new Connections(sources, this, original, hold);
      connectionsOf.set(this, connections);
    }
    return connections.take(new Accepter(), scope);
  };
}

function cooperativeRead(
  original: Read,
  takeBytes: (conn: Deno.Conn) => ConnBytes,
): Read {
  return function (buffer) {
    const scope = interruptibleScope();
    const isOdd = !isObject(this) || !(buffer instanceof Uint8Array) ||
      buffer.length === 0;
    if (isOdd || scope === null && (BytesOf.get(this)?.isEmpty ?? true)) {
      return original.call(this, buffer);
    }
    const due = checkpoint(scope);
    if (due !== null) return due;
    return takeBytes(this).take(new Reader(buffer), scope);
  };
}

function cooperativeWrite(
  original: Write,
  operationsOf: (conn: unknown) => SocketOps | null,
): Write {
  const takeWrites = (conn: Deno.Conn): Writes => {
    let writes = WritesOf.get(conn);
    if (writes === undefined) {
      WritesOf.set(conn, writes = new Writes(conn, original, true));
    }
    return writes;
  };
  return function (data) {
    const scope = interruptibleScope();
    const isOurs = data instanceof Uint8Array && isObject(this);
    if (scope === null || !isOurs) return original.call(this, data);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const operations = operationsOf(this);
    return operations === null
      ? takeWrites(this).write(data, scope)
      : writeBy(operations, this, data, scope, takeWrites);
  };
}

/** Writes with the runtime's operation, and waits only if it does not complete at once. */
function writeBy(
  operations: SocketOps,
  conn: Deno.Conn,
  data: Uint8Array,
  scope: Scope,
  takeWrites: (conn: Deno.Conn) => Writes,
): Wait<number> {
  const isShort = lengthOf(data) <= MOST_KEPT;
  const copy = isShort
    ? scratch.copy(data)
    : Uint8Array.prototype.slice.call(data, 0, MOST_WRITTEN);
  const written = operations.write(conn, copy);
  if (operations.isOver(written)) return takenWait(written);
  if (isShort) scratch.leave();
  const id = operations.idOf(written);
  return takeWrites(conn).other(written, scope, () => operations.unref(id));
}

/**
 * Makes the getter of a connection's stream. It always returns a stream of ours, as a program
 * may keep the stream: the runtime's own stream would miss the bytes of a `read` that is
 * interrupted later.
 */
function cooperativeReadable(
  original: (this: unknown) => Readable,
  takeBytes: (conn: Deno.Conn) => ConnBytes,
): (this: unknown) => Readable {
  return function () {
    const conn = this as Deno.Conn;
    let readable = readableOf.get(conn);
    if (readable === undefined) {
      const native = original.call(conn);
      // A stream that is being read since before patch() stays the runtime's own.
      readable = native.locked ? native : readableBy(conn, takeBytes);
      readableOf.set(conn, readable);
      takeBytes(conn);
    }
    return readable;
  };
}

/** Makes a stream of a connection. It does what the runtime's stream does, and reads our bytes. */
function readableBy(
  conn: Deno.Conn,
  takeBytes: (conn: Deno.Conn) => ConnBytes,
): Readable {
  const source: UnderlyingByteSource = bare({
    type: "bytes",
    autoAllocateChunkSize: 64 * 1024,
    async pull(controller) {
      try {
        const { view } = controller.byobRequest!;
        const count = await takeBytes(conn).pull(view as Uint8Array);
        if (count === null) {
          conn[Symbol.dispose]();
          controller.close();
        }
        controller.byobRequest!.respond(count ?? 0);
      } catch (error) {
        controller.error(streamError(error));
        conn[Symbol.dispose]();
      }
    },
    cancel() {
      conn[Symbol.dispose]();
    },
  });
  const readable = new ReadableStream(source);
  setSource(readable, {
    rest: () => takeBytes(conn).restStream(),
    resume: () => takeBytes(conn).resumeStream(),
  });
  return readable;
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

/** An operation of a socket that goes on after an interrupt. */
interface Keeper {
  ref(): boolean;
  unref(): void;
}

/** A map from sockets to objects of ours. */
interface InboxOf<T> {
  get(socket: object): T | undefined;
  delete(socket: object): unknown;
}

/** Makes `close` close our inbox of the socket, too. */
export function patchClosing(
  patches: Patches,
  prototype: object,
  sources: InboxOf<{ close(): void }>,
): void {
  ["close", Symbol.dispose].forEach((name) => {
    if (!(name in prototype)) return;
    patches.replace<Close>(
      prototype,
      name,
      (original) =>
        function (this: object) {
          const source = sources.get(this);
          if (closedByLoop.delete(this)) return;
          // Removed first: later calls find a closed socket, not a cancelled operation.
          sources.delete(this);
          source?.close();
          return original.call(this);
        },
    );
  });
}

/**
 * Makes `ref` and `unref` note what the user wants.
 *
 * @returns A function that keeps the process alive while a call waits.
 */
export function patchHold(
  patches: Patches,
  prototype: Socket,
  sources: InboxOf<Keeper>,
): Hold {
  const ref = getOriginal(prototype, "ref");
  const unref = getOriginal(prototype, "unref");
  patches.replace(prototype, "ref", () =>
    function (this: Socket) {
      unreffed.delete(this);
      if (sources.get(this)?.ref() ?? true) ref.call(this);
    });
  patches.replace(prototype, "unref", () =>
    function (this: Socket) {
      unref.call(this);
      unreffed.add(this);
      sources.get(this)?.unref();
    });
  return {
    take(socket: Socket) {
      if (!unreffed.has(socket)) ref.call(socket);
    },
    release(socket: Socket) {
      unref.call(socket);
    },
  };
}

/** Returns the error if a connection is in use, and so can't be turned into a TLS connection. */
export function obstacle(conn: Deno.Conn): Error | null {
  const bytes = BytesOf.get(conn);
  if (bytes?.length) {
    return new Deno.errors.InvalidData(
      `Cannot start TLS as ${bytes.length} bytes of plain text were received and not read: read them first, or close the connection`,
    );
  }
  // The runtime checks this only after it has taken the connection away.
  return bytes?.busy || WritesOf.get(conn)?.busy
    ? new Deno.errors.Busy("TCP stream is currently in use")
    : null;
}
