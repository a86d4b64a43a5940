/**
 * Connections and listeners, for the parts `net` and `tls` of `patch()`.
 *
 * Each class of the runtime is patched by itself, although `TlsConn` and `TcpConn` inherit
 * from the same class. So either part can be left out.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { isObject } from "../_base/checks.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { isInterrupt, isRecipient } from "../_hub/interrupts.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint, takenWait, type Wait } from "../_hub/suspension.ts";
import {
  Accepter,
  BytesOf,
  ConnBytes,
  Connections,
  connectionsOf,
  hold,
  OperationsOf,
  readableBy,
  readableOf,
  unreffed,
  WritesOf,
} from "../_hub/conns.ts";
import { getOriginal } from "../_base/properties.ts";
import { cooperateLoosely } from "./cooperate.ts";
import { type SocketOps, socketOpsFor } from "../_hub/socket_ops.ts";
import type { Patches } from "./patch_set.ts";
import {
  type Hold,
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

/** The memory that the bytes of running writes are copied to. */
const scratch = new Scratch();

/** An object that can be closed, and that has `ref` and `unref`. */
export interface Socket {
  close(): void;
  ref(): void;
  unref(): void;
}

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
  readonly #inboxes: Inboxes;
  readonly #seen: Prototypes;
  /** The runtime's operations for each class of connections. */
  readonly #operations = new Map<object, SocketOps | null>();

  /** Makes it with the inboxes of the part, and the prototypes that the part has seen. */
  constructor(patches: Patches, inboxes: Inboxes, seen: Prototypes) {
    this.#patches = patches;
    this.#inboxes = inboxes;
    this.#seen = seen;
    seen.sockets = this;
    patches.beforeRestore(() => {
      inboxes.stayPatched();
      seen.sockets = null;
    });
    for (const prototype of seen.conns) this.#onConn(Object.create(prototype));
    for (const prototype of seen.listeners) {
      this.#onListener(Object.create(prototype));
    }
  }

  /** Patches the class of a new connection. Must be called before the program gets it. */
  readonly onConn = <C extends Deno.Conn>(conn: C): C => {
    // The connection may have been requested under an earlier patch().
    (this.#seen.sockets ?? this).#onConn(conn);
    return conn;
  };

  /** Patches the class of a new listener. Must be called before the program gets it. */
  readonly onListener = <L extends Deno.Listener>(listener: L): L => {
    (this.#seen.sockets ?? this).#onListener(listener);
    return listener;
  };

  #onConn(conn: Deno.Conn): void {
    // Patches the class of the connection itself. A class that it inherits from may have
    // subclasses of another part.
    const prototype = this.#patches.onFirstInstance(
      conn,
      "constructor",
      (prototype) => {
        const { read, write } = patchConn(
          this.#patches,
          prototype as Deno.Conn,
          this.#inboxes,
          (conn) => OperationsOf.get(conn, this),
        );
        this.#operations.set(prototype, socketOpsFor([read, write]));
      },
    );
    if (prototype === null) return;
    this.#seen.conns.add(prototype);
    const operations = this.#operations.get(prototype);
    if (operations?.suit(conn)) OperationsOf.set(conn, operations, this);
  }

  #onListener(listener: Deno.Listener): void {
    const prototype = this.#patches.onFirstInstance(
      listener,
      "constructor",
      (prototype) => {
        patchListener(
          this.#patches,
          prototype as Deno.Listener,
          this.#inboxes,
          this.onConn,
        );
      },
    );
    if (prototype !== null) this.#seen.listeners.add(prototype);
  }
}

/** @returns The original methods that read and write. */
function patchConn(
  patches: Patches,
  prototype: Deno.Conn,
  inboxes: Inboxes,
  operationsOf: (conn: unknown) => SocketOps | null,
): { read: Read; write: Write } {
  patchHold(patches, prototype, BytesOf);
  const read: Read = getOriginal(prototype, "read");
  const write: Write = getOriginal(prototype, "write");
  const takeBytes = (conn: Deno.Conn): ConnBytes => {
    let bytes = BytesOf.get(conn);
    if (bytes === undefined) {
      const operations = operationsOf(conn);
      bytes = new ConnBytes(inboxes, conn, read, hold, operations);
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
  inboxes: Inboxes,
  onConn: (conn: Deno.Conn) => Deno.Conn,
): void {
  patchHold(patches, prototype, connectionsOf);
  patches.replace<Accept>(prototype, "accept", (original) => {
    const accept: Accept = function () {
      return then(original.call(this), onConn);
    };
    return cooperativeAccept(accept, inboxes, hold);
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
 * Listeners that were closed because an interrupt ended the loop over them. The program may not
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
  inboxes: Inboxes,
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
      connections = new Connections(inboxes, this, original, hold);
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
  if (operations.isOver(written)) {
    return takenWait(written, OperationsOf.isFirst(conn));
  }
  if (isShort) scratch.leave();
  const id = operations.idOf(written);
  return takeWrites(conn).other(written, scope, () => operations.leave(id));
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
      readable = native.locked
        ? native
        : readableBy(conn, () => takeBytes(conn));
      readableOf.set(conn, readable);
      takeBytes(conn);
    }
    return readable;
  };
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
  inboxes: InboxOf<{ close(): void }>,
): void {
  ["close", Symbol.dispose].forEach((name) => {
    if (!(name in prototype)) return;
    patches.replace<Close>(
      prototype,
      name,
      (original) =>
        function (this: object) {
          const inbox = inboxes.get(this);
          if (closedByLoop.delete(this)) return;
          // Removed first: later calls find a closed socket, not a cancelled operation.
          inboxes.delete(this);
          inbox?.close();
          return original.call(this);
        },
    );
  });
}

/**
 * Makes `ref` and `unref` note the program's choice.
 */
export function patchHold(
  patches: Patches,
  prototype: Socket,
  inboxes: InboxOf<Keeper>,
): void {
  const ref = getOriginal(prototype, "ref");
  const unref = getOriginal(prototype, "unref");
  patches.replace(prototype, "ref", () =>
    function (this: Socket) {
      unreffed.delete(this);
      if (inboxes.get(this)?.ref() ?? true) ref.call(this);
    });
  patches.replace(prototype, "unref", () =>
    function (this: Socket) {
      unref.call(this);
      unreffed.add(this);
      inboxes.get(this)?.unref();
    });
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
