/**
 * The part `net` of `patch()`: TCP and Unix sockets.
 *
 * @module
 */

import { cooperativeFlow } from "./_flow.ts";
import { operate, withSignal } from "./_operate.ts";
import { patchNode } from "./_patch_node.ts";
import { patchAll, type Patches } from "./_patches.ts";
import { Bytes, Reader, Source, Sources, Taker, Writes } from "./_source.ts";

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

const sources = new Sources();

class Accepter extends Taker<Accepter, Deno.Conn> {}

/** The connections of a listener, in order, whoever accepts them. */
class Connections extends Source<Deno.Conn, Accepter, Deno.Conn> {
  readonly #listener: Deno.Listener;
  readonly #accept: Accept;
  #conns: Deno.Conn[] = [];

  constructor(listener: Deno.Listener, accept: Accept) {
    super(sources);
    this.#listener = listener;
    this.#accept = accept;
  }

  protected override get stocked(): boolean {
    return this.#conns.length > 0;
  }

  protected override get owner(): object {
    return this.#listener;
  }

  protected override get doors(): readonly PropertyKey[] {
    return ["accept", "close", Symbol.dispose];
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

const bytesOf = new WeakMap<object, Bytes>();
const writesOf = new WeakMap<object, Writes>();
const connectionsOf = new WeakMap<object, Connections>();

/** Patches sockets; disposing of what it returns restores them. */
export function patchNet(): Disposable {
  return patchAll((patches) => {
    patches.put<Connect>(
      Deno,
      "connect",
      (connect) => cooperativeConnect(connect, (it) => meetConn(patches, it)),
    );
    patches.put<Listen>(Deno, "listen", (listen) =>
      function (this: unknown) {
        const listener = Reflect.apply(listen, this, arguments as never);
        meetListener(patches, listener);
        return listener;
      });
    patches.beforehand(() => sources.stayPatched());
    patchNode(patches);
  });
}

function meetConn(patches: Patches, conn: Deno.Conn): void {
  patches.meet(conn, "read", (prototype) => {
    patches.put(prototype, "read", cooperativeRead);
    patches.put(prototype, "write", cooperativeWrite);
    for (const name of ["close", Symbol.dispose]) {
      patches.put(prototype, name, (close: Close) => closing(close, bytesOf));
    }
  });
}

function meetListener(patches: Patches, listener: Deno.Listener): void {
  patches.meet(listener, "accept", (prototype) => {
    patches.put<Accept>(
      prototype,
      "accept",
      (accept) => cooperativeAccept(accept, (it) => meetConn(patches, it)),
    );
    for (const name of ["close", Symbol.dispose]) {
      patches.put(
        prototype,
        name,
        (close: Close) => closing(close, connectionsOf),
      );
    }
  });
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
    const promise = original.call(
      this,
      withSignal(options, abort.signal) as typeof options,
    );
    promise.then(meet, () => {});
    return operate(
      flow,
      promise,
      (error) => abort.abort(error),
      (conn) => conn.close(),
    );
  };
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
      bytesOf.set(this, bytes = new Bytes(sources, this, original));
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
