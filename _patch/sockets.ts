/**
 * Connections and listeners: what the parts `net` and `tls` of `patch()` share.
 *
 * Each class of the runtime is patched for itself, although `TlsConn` inherits from the
 * same class as `TcpConn`: so either part can be left out.
 *
 * @module
 */

import { bare, then } from "../_base/language.ts";
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

/** What can be closed, and told whether it keeps the process alive. */
export interface Socket {
  close(): void;
  ref(): void;
  unref(): void;
}

/** The sockets that their user has told not to keep the process alive, under `patch()`. */
const unreffed = new WeakSet<object>();

class Accepter extends QueuedWait<Accepter, Deno.Conn> {}

/** The connections of a listener, in order, whoever accepts them. */
class Connections extends Inbox<Deno.Conn, Accepter, Deno.Conn> {
  readonly #listener: Deno.Listener;
  readonly #accept: Accept;
  /** What is under way, where the listener's own `ref` and `unref` do not reach it. */
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
    // The runtime does not tell the `accept` of TLS.
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

/** The bytes of a connection, which may be read by its stream as well. */
class ConnBytes extends Bytes {
  /** How they are read, if not by the connection's own method. */
  readonly #operations: SocketOps | null;
  /** The operation by which we read, of which the connection then knows nothing. */
  #reading = NONE;
  /** That by which the stream reads by itself. */
  #streaming = NONE;
  /** Whether its user wants them to keep the process alive. */
  #keepsAlive: boolean;
  /** Whether the stream reads by itself. */
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

  /** What an operation that has begun is known by, if we have begun it. */
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
    // The method has no zero, as the buffer is not empty; the operation has no `null`.
    super.keep(count || null);
  }

  protected override get mustStayPatched(): boolean {
    return readableOf.has(this.owner) || super.mustStayPatched;
  }

  /** Reads for the stream, whom nothing interrupts: without a copy if it may. */
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
      // For what is read next.
      if (this.streamRests && this.#operations === null) super.retain();
      this.left();
    }
  }

  override left(): void {
    // By the connection's own methods, it would not be kept alive by the stream either.
    const isOne = this.#operations === null && this.#pulling;
    if (!isOne || this.streamRests) super.left();
  }
}

/**
 * What reads a connection: kept in a private field of it, which nobody sees, and which
 * takes a fifth of the time of a `WeakMap` with hundreds of them.
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
 * By which operations a connection is read and written, if not by its methods: one that has
 * come to us before anybody else got it, so that we know of each `ref` and `unref`.
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

/** What writes to a connection. */
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

/** What is written by operations is copied to, while it is on its way. */
const scratch = new Scratch();

/** Prototypes that a part of `patch()` has met, for the next time. */
export class Prototypes {
  readonly conns = new Set<object>();
  readonly listeners = new Set<object>();
  /** What patches them now. */
  sockets: Sockets | null = null;
}

/** Patches connections and listeners: each class when the first of it is met. */
export class Sockets {
  readonly #patches: Patches;
  readonly #sources: Inboxes;
  readonly #met: Prototypes;
  /** What stands for the methods of each class of connections. */
  readonly #operations = new Map<object, SocketOps | null>();

  /** Makes it with the sources of the part, and what it has met before. */
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

  /** Has to be given each connection, before anybody else gets it. */
  readonly meetConn = <C extends Deno.Conn>(conn: C): C => {
    // It may have been asked for under another patch().
    (this.#met.sockets ?? this).#meetConn(conn);
    return conn;
  };

  /** Has to be given each listener, before anybody else gets it. */
  readonly meetListener = <L extends Deno.Listener>(listener: L): L => {
    (this.#met.sockets ?? this).#meetListener(listener);
    return listener;
  };

  #meetConn(conn: Deno.Conn): void {
    // The class of the connection itself: the one in which a method is found may have
    // heirs that are of another part.
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

/** @returns The methods by which its bytes went. */
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
 * Listeners that were closed as an interrupt has left the loop over them. Their user does
 * not know, and may close them once more.
 */
const closedByLoop = new WeakSet<object>();

/**
 * What a `for await` loop over a listener asks, in its place: where an interrupt ends the
 * loop in its `next`, the listener is closed, as it is where the loop is left anywhere else.
 * Whatever asks under a `withTimeout` of its own is no loop, and may ask again.
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
      // It was closed before.
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

/** Writes by the operation itself, and waits only if it is not over at once. */
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
 * The stream of a connection. It is ours whenever it is asked for, as it may be kept: the
 * runtime's own would miss the bytes that a `read` brings which is interrupted later.
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
      // One that somebody reads since before patch() has to go on.
      readable = native.locked ? native : readableBy(conn, takeBytes);
      readableOf.set(conn, readable);
      takeBytes(conn);
    }
    return readable;
  };
}

/** What the runtime's own stream of a connection is, but for how it reads. */
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

/** As the runtime words it. */
function streamError(error: unknown): unknown {
  if (
    error instanceof Deno.errors.BadResource &&
    error.message === "Bad resource ID"
  ) {
    error.message = "The stream's underlying resource was closed or consumed";
  }
  return error;
}

/** What is kept for a socket whose operation goes on when its caller is interrupted. */
interface Keeper {
  ref(): boolean;
  unref(): void;
}

/** Where each socket has something of ours. */
interface ObservedPromise<T> {
  get(socket: object): T | undefined;
  delete(socket: object): unknown;
}

/** Patches `close` such that what was kept is closed, too. */
export function patchClosing(
  patches: Patches,
  prototype: object,
  sources: ObservedPromise<{ close(): void }>,
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
          // Whoever comes later finds a closed socket, and not an operation that was
          // cancelled.
          sources.delete(this);
          source?.close();
          return original.call(this);
        },
    );
  });
}

/**
 * Patches `ref` and `unref` such that we know what their user wants.
 *
 * @returns How to hold up the end of the process as long as somebody waits.
 */
export function patchHold(
  patches: Patches,
  prototype: Socket,
  sources: ObservedPromise<Keeper>,
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

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** What a connection that is about to be handed on is still used for, if anything. */
export function obstacle(conn: Deno.Conn): Error | null {
  const bytes = BytesOf.get(conn);
  if (bytes?.length) {
    return new Deno.errors.InvalidData(
      `Cannot start TLS as plain text has come that nobody has read: read the ${bytes.length} bytes first, or close the connection`,
    );
  }
  // The runtime would find this out only after it has taken the connection away.
  return bytes?.busy || WritesOf.get(conn)?.busy
    ? new Deno.errors.Busy("TCP stream is currently in use")
    : null;
}
