/**
 * Servers: a greenlet for each connection, or for each datagram.
 *
 * ```ts
 * import { connect, StreamServer } from "@gevent/gevent";
 *
 * await using server = new StreamServer(
 *   { hostname: "127.0.0.1", port: 0 },
 *   async (socket) => {
 *     await socket.sendAll("hello\n"); // Then the server closes the socket
 *   },
 * );
 * server.start();
 *
 * using socket = await connect(server.address);
 * console.log(new TextDecoder().decode(await socket.recv())); // hello
 * ```
 *
 * Time is in milliseconds. A handler may be an async function, a generator function or a
 * plain function.
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import type { RemoteInfo, Socket as UdpSocket } from "node:dgram";
import { getBuiltin } from "./_base/builtin.ts";
import { markHandled, NO_OPTIONS, then } from "./_base/language.ts";
import type {
  AnyAddress,
  EndAddress,
  ListensOn,
  OwnAddress,
  ServerProcessOptions,
  TcpAddress,
  UdpAddress,
} from "./_base/server_types.ts";
import {
  addressName,
  checkAddress,
  numericHost,
  runtimeError,
} from "./_base/addresses.ts";
import {
  checkFunction,
  checkOptions,
  numberError,
  show,
} from "./_base/checks.ts";
import { currentScope, getCurrent, runDetached } from "./_hub/current.ts";
import { endAll, killOnce, STUCK_AFTER } from "./_hub/kill.ts";
import { report } from "./_hub/main.ts";
import { composed } from "./_hub/composed.ts";
import { checkListener, isGone, isListener } from "./_hub/conns.ts";
import {
  checkTls,
  type ServerTlsConn,
  TlsIdentity,
  type TlsOptions,
} from "./_hub/tls_conn.ts";
import { denoFunction } from "./_base/properties.ts";
import { isGenerator, isGeneratorFunction } from "./_base/thenable.ts";
import { checkpoint } from "./_hub/suspension.ts";
import { type EndingSignal, setExitCode } from "./_hub/signals.ts";
import { checkDuration, now } from "./_hub/timers.ts";
import { checkProcesses, Fleet } from "./_workers/fleet.ts";
import { assignedPort, serveAsMember } from "./_workers/member.ts";
import { checkPermissions } from "./_workers/permissions.ts";
import { DIVERTED, EMPTY, type Quiet, waitForQuiet } from "./_workers/quiet.ts";
import { Event } from "./event.ts";
import { Greenlet, joinAll, sleep, spawn } from "./gevent.ts";
import { GreenletError } from "./greenlet.ts";
import { until, type Wait } from "./hub.ts";

import { type AnyGreenlet, Group, Pool } from "./pool.ts";
import { listen, Socket, SocketListener } from "./socket.ts";
import { withTimeout } from "./timeout.ts";

export type { TlsOptions };
export type * from "./_base/server_types.ts";

/** Options of every server. */
export interface ServerOptions {
  /**
   * How many handlers may run at once; or a pool to run them in, which several servers may
   * share. The server accepts only while there is room.
   *
   * @default {Infinity}
   */
  pool?: number | Pool;
  /**
   * How many milliseconds to wait after accepting has failed, for example because file
   * descriptors have run out.
   *
   * @default {10}
   */
  minDelay?: number;
  /**
   * The longest of these waits, in milliseconds: each is twice as long as the one before.
   *
   * @default {1000}
   */
  maxDelay?: number;
  /** How many milliseconds `stop()` waits for handlers before it kills them. @default {1000} */
  stopTimeout?: number;
}

/** Options of {@linkcode BaseServer.stop}. */
export interface StopOptions {
  /** After how many milliseconds to kill the handlers. @default {the server's `stopTimeout`} */
  timeout?: number;
}

/**
 * - `idle`: not started yet
 * - `started`
 * - `closed`: does not listen any more
 */
type State = "idle" | "started" | "closed";

/**
 * The base class of all servers: starts, stops, and keeps the greenlets that serve. gevent's
 * `BaseServer`.
 *
 * A subclass listens in `open`, stops listening in `shut`, and runs its handlers with `serve`.
 *
 * @typeParam A The type of its address.
 */
export abstract class BaseServer<A extends AnyAddress = AnyAddress>
  implements AsyncDisposable {
  /** The pool in which the handlers run; `null` without a limit. */
  readonly pool: Pool | null;
  readonly #minDelay: number;
  readonly #maxDelay: number;
  /** How long the next {@linkcode BaseServer.delayRetry} waits, in ms. */
  #delay: number;
  readonly #connections = new Group();
  readonly #stopTimeout: number;
  readonly #asked: AnyAddress;
  /** The processes that serve; `null` if this process serves. */
  readonly #fleet: Fleet | null;
  /** The port, if this process is one of several that serve it; else `null`. */
  readonly #assigned: number | null;
  /** The number of accepted connections. */
  #accepted = 0;
  #bound: Deno.Addr | null = null;
  #state: State = "idle";
  /** The greenlets that are killed when it closes. */
  readonly #workers = new Set<Greenlet>();
  readonly #ended = new Event();
  /** The greenlets of `stop()` that have not ended, and their callers. */
  readonly #stopping = new Map<Greenlet, AnyGreenlet>();

  static {
    showAs(this, (server) => ({
      address: addressName(server.address),
      state: server.#state,
      connections: server.#connections.size,
      pool: server.pool,
    }));
  }

  /**
   * Makes a server that does not listen yet.
   *
   * @param address The address to listen on.
   * @param options How many handlers may run at once, and other limits.
   * @throws {TypeError | RangeError} If the address or an option is invalid.
   */
  protected constructor(
    address: AnyAddress,
    options: ServerOptions & ServerProcessOptions = NO_OPTIONS,
  ) {
    checkOptions(options, "create server");
    const { pool, minDelay = 10, maxDelay = 1000, stopTimeout = 1000 } =
      options;
    const { processes } = options;
    const permissions = checkPermissions(options.permissions, "create server");
    checkDuration(minDelay, "create server", "'minDelay'");
    checkDuration(maxDelay, "create server", "'maxDelay'");
    checkDuration(stopTimeout, "create server", "'stopTimeout'");
    this.#asked = address;
    this.pool = poolOf(pool);
    this.#delay = this.#minDelay = minDelay;
    this.#maxDelay = Math.max(minDelay, maxDelay);
    this.#stopTimeout = stopTimeout;
    this.#assigned = processes === undefined ? null : assignedPort();
    this.#fleet = processes === undefined || this.#assigned !== null
      ? null
      : new Fleet(this, {
        size: processes,
        permissions,
        minDelay,
        maxDelay: this.#maxDelay,
        stopTimeout,
      });
  }

  /** The greenlets that serve a connection, a request or a datagram. */
  get connections(): Group {
    return this.#connections;
  }

  /** Whether the server was started and is not closed. gevent's `started`. */
  get started(): boolean {
    return this.#state === "started";
  }

  /** Whether the server is closed: it never listens again. gevent's `closed`. */
  get closed(): boolean {
    return this.#state === "closed";
  }

  /**
   * The address of the server. After the start it has the port that the system has chosen.
   * gevent's `address`.
   */
  get address(): A {
    return (this.#bound ?? this.#asked) as A;
  }

  /**
   * Begins to listen.
   *
   * @param address The requested address.
   * @returns The address on which it listens.
   * @throws {Error} The error of the runtime, if it can't listen.
   */
  protected abstract open(address: AnyAddress): Deno.Addr;

  /**
   * Stops listening, and closes connections that were not accepted.
   *
   * @param isEmpty Whether no connection has come for some turns of the event loop.
   */
  protected abstract shut(isEmpty: boolean): void;

  /** Closes a listener that was passed to the constructor, if the server was never started. */
  protected closeUnstarted(): void {}

  /** Called for a greenlet that was killed and has not ended in time. */
  protected abandon(_greenlet: AnyGreenlet): void {}

  /**
   * Begins to listen and to serve. Does nothing if the server is started already. gevent's
   * `start`. Not a switch point: the first connection is accepted after this has returned.
   *
   * A started server keeps the process alive.
   *
   * @throws {Error} The error of the runtime, if it can't listen: `Deno.errors.AddrInUse` if the
   * address is taken.
   * @throws {GreenletError} If the server is closed.
   */
  start(): void {
    if (this.#state === "started") return;
    if (this.#state === "closed") {
      throw new GreenletError(
        `Cannot start ${show(this)} as it is closed: make a new server`,
      );
    }
    // The greenlet that calls this does not own the server: its interrupts don't reach it.
    runDetached(() => {
      this.#bound = this.#fleet === null
        ? this.open(this.#toListen())
        : this.#fleet.start(
          this.#asked as TcpAddress,
          (signal) => this.#endBy(signal),
        );
      this.#state = "started";
      if (this.#assigned !== null) this.#serveAsMember(this.#assigned);
      // It ends with the greenlets, as at the end of `run`.
      const life = spawn(() => this.#ended.wait());
      life.name = show(this);
      life.rawlink(() => this.close());
    });
  }

  #toListen(): AnyAddress {
    if (this.#assigned === null) return this.#asked;
    return {
      ...this.#asked as TcpAddress,
      port: this.#assigned,
      reusePort: true,
    };
  }

  #serveAsMember(port: number): void {
    const isolated = <T>(act: () => T) => runDetached(act);
    serveAsMember(port, {
      stopTimeout: this.#stopTimeout,
      close: () =>
        isolated(() => void this.#closeEmpty(this.#stopTimeout, EMPTY)),
      stop: (timeout = this.#stopTimeout, isDiverted) =>
        isolated(async () => {
          const deadline = now() + timeout;
          await this.#closeEmpty(timeout, isDiverted ? DIVERTED : EMPTY);
          await this.stop({ timeout: Math.max(deadline - now(), 0) });
        }),
      ended: setExitCode,
    });
  }

  #endBy(signal: EndingSignal): void {
    setExitCode(signal);
    markHandled(runDetached(() => this.stop()));
  }

  /**
   * Closes it when nothing has come for a while, or its time is over: half of a stop's, as what
   * has come needs the other half. A connection that waits in the system is lost with the
   * listener, and other processes can't take it; so it goes on to accept until then.
   */
  async #closeEmpty(timeout: number, quiet: Quiet): Promise<void> {
    this.prepareToClose();
    const isQuiet = await waitForQuiet(
      quiet,
      timeout / 2,
      () => this.started,
      () => this.pool?.full() === true ? null : this.accepted,
    );
    this.#close(isQuiet);
  }

  /** Asks the clients to close their connections: other processes will serve them. */
  protected prepareToClose(): void {}

  /** The number of connections, or requests, that were accepted. */
  protected get accepted(): number {
    return this.#accepted;
  }

  /**
   * Starts the server if it is not started, and waits until it is closed and has stopped. A
   * switch point. gevent's `serve_forever`.
   *
   * An interrupt of the wait stops the server. Its error is thrown when the server has stopped,
   * or when the grace of the kill is over.
   *
   * @returns Nothing.
   * @throws {Error} See {@linkcode BaseServer.start}.
   */
  serveForever(): Wait<void> {
    this.start();
    return composed(async () => {
      try {
        await this.#ended.wait();
      } finally {
        this.close();
        const before = [...this.#stopping.keys()];
        if (before.length > 0) await joinAll(before);
        // A `stop()` has not waited for the handlers that have called it.
        if (before.length === 0 || this.connections.size > 0) await this.stop();
      }
    });
  }

  /**
   * Stops listening. Handlers go on; connections that were not accepted are closed. gevent's
   * `close`. Not a switch point.
   */
  close(): void {
    this.#close(false);
  }

  #close(isEmpty: boolean): void {
    const before = this.#state;
    this.#state = "closed";
    if (before === "closed") return;
    try {
      if (before === "started") {
        this.#fleet?.close();
        this.shut(isEmpty);
      } else this.closeUnstarted();
    } finally {
      this.#ended.set();
      // These greenlets may wait for room, or for the next attempt to accept.
      const caller = getCurrent();
      killOnce([...this.#workers].filter((worker) => worker !== caller));
    }
  }

  /**
   * Closes the server, waits for the handlers, and kills those that still run at the timeout. A
   * switch point. gevent's `stop`.
   *
   * It always returns in time: a handler that is stuck in a foreign promise is left behind after
   * its grace, and its connection is closed. A handler that calls `stop` waits neither for itself
   * nor for others that have called it. An interrupt of the caller is thrown at once, and the
   * handlers are killed.
   *
   * @param options How long to wait.
   * @returns Nothing.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  stop(options: StopOptions = NO_OPTIONS): Wait<void> {
    checkOptions(options, "stop the server");
    const { timeout = this.#stopTimeout } = options;
    checkDuration(timeout, "stop the server");
    const caller = getCurrent() as AnyGreenlet;
    this.close();
    let deadline = now() + timeout;
    // In a new greenlet, as the stop goes on when the caller is interrupted.
    const end = () => this.#end(deadline, caller);
    const stopping = runDetached(() => spawn(end));
    stopping.name = `stop of ${show(this)}`;
    this.#stopping.set(stopping, caller);
    const ended = new Promise<void>((resolve) => {
      stopping.rawlink(() => {
        this.#stopping.delete(stopping);
        resolve();
      });
    });
    return until(ended, () => {
      // To kill it before it begins would leave the handlers: it begins without any time.
      deadline = -Infinity;
      const grace = 2 * STUCK_AFTER;
      if (stopping.waitsIn !== null) killOnce([stopping], undefined, grace);
    });
  }

  /** Stops the server, at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #end(deadline: number, caller: AnyGreenlet): Promise<void> {
    try {
      // The processes come first: they get all the time that is left.
      await this.#fleet?.stop(Math.max(deadline - now(), 0));
      await this.drain(deadline, caller);
    } finally {
      try {
        await this.#killTheRest(caller);
      } finally {
        await this.finish(caller);
      }
    }
  }

  /** Called when all handlers have ended or were killed. */
  protected async finish(_caller: AnyGreenlet): Promise<void> {}

  /**
   * Waits until all handlers have ended, or until the deadline.
   *
   * @param deadline The end of the wait, by the clock of the library.
   * @param caller The greenlet that calls `stop`. It is not waited for.
   */
  protected async drain(deadline: number, caller: AnyGreenlet): Promise<void> {
    for (;;) {
      const rest = this.#others(caller);
      const timeout = deadline - now();
      if (rest.length === 0 || timeout <= 0) return;
      await joinAll(rest, { timeout });
    }
  }

  async #killTheRest(caller: AnyGreenlet): Promise<void> {
    const rest = this.#others(caller);
    for (const greenlet of rest) this.kill(greenlet);
    try {
      await endAll(rest);
    } finally {
      for (const greenlet of rest) {
        if (greenlet.dead) continue;
        this.abandon(greenlet);
        this.connections.discard(greenlet);
        this.pool?.discard(greenlet);
      }
    }
  }

  /** Kills a handler that still runs at the timeout of `stop`. */
  protected kill(greenlet: AnyGreenlet): void {
    killOnce([greenlet]);
  }

  /**
   * Accepts connections while the server is started and there is room, and serves each in a
   * greenlet.
   *
   * @param accept Accepts one connection.
   * @param make Makes the greenlet for a connection.
   */
  protected accept<C extends Disposable>(
    accept: () => Promise<C>,
    make: (connection: C) => AnyGreenlet,
  ): void {
    const acceptor = this.runUntilClosed(
      "accept",
      () => this.#acceptAll(accept, make),
    );
    acceptor.rawlink(() => this.close());
  }

  /**
   * Runs a function in a greenlet of the server, which serves no connection. The greenlet is
   * killed when the server closes. It does not belong to the greenlet that calls this.
   *
   * @param what Says in the greenlet's name what it does.
   * @param run The function.
   * @returns The greenlet.
   */
  protected runUntilClosed(what: string, run: () => unknown): Greenlet {
    const worker = runDetached(() => spawn(run)) as Greenlet;
    worker.name = `${what} of ${this.constructor.name}`;
    this.#workers.add(worker);
    worker.rawlink(() => this.#workers.delete(worker));
    return worker;
  }

  /**
   * Waits before the next attempt to accept: for `minDelay` ms at first, then twice as long each
   * time, for `maxDelay` ms at most. A switch point.
   *
   * @returns Nothing.
   */
  protected delayRetry(): Wait<void> {
    const delay = this.#delay;
    this.#delay = Math.min(2 * delay, this.#maxDelay);
    return sleep(delay);
  }

  /** Resets the next delay to `minDelay`, as accepting has succeeded. */
  protected resetDelay(): void {
    this.#delay = this.#minDelay;
  }

  async #acceptAll<C extends Disposable>(
    accept: () => Promise<C>,
    make: (connection: C) => AnyGreenlet,
  ): Promise<void> {
    while (this.started) {
      if (this.pool?.full()) await this.pool.waitAvailable();
      const accepted = await acceptOne(accept);
      if (!this.started) {
        if ("connection" in accepted) accepted.connection[Symbol.dispose]();
        return;
      }
      if ("connection" in accepted) {
        const { connection } = accepted;
        this.#accepted++;
        try {
          await this.serve(make(connection));
          this.resetDelay();
          continue;
        } catch (error) {
          connection[Symbol.dispose]();
          if (!this.started) throw error;
          report(this, error);
        }
      } else {
        report(this, accepted.error);
        // Other code has closed the listener.
        if (accepted.error instanceof Deno.errors.BadResource) return;
      }
      await this.delayRetry();
    }
  }

  /** Starts a greenlet that serves: now, or when there is room in the pool. */
  protected async serve(greenlet: AnyGreenlet): Promise<void> {
    this.connections.add(greenlet);
    try {
      if (this.pool === null) greenlet.start();
      else await this.pool.start(greenlet);
    } catch (error) {
      this.connections.discard(greenlet);
      throw error;
    }
  }

  /** The handlers to wait for, or to kill, in a `stop()` by a greenlet. */
  #others(caller: AnyGreenlet): AnyGreenlet[] {
    const { connections } = this;
    if (!connections.has(caller)) return [...connections];
    // Two handlers that stop their server must not wait for each other.
    const callers = new Set(this.#stopping.values()).add(caller);
    return [...connections].filter((greenlet) => !callers.has(greenlet));
  }

  /** Returns the name of the class and the address. */
  toString(): string {
    return `<${this.constructor.name} ${addressName(this.address)}>`;
  }
}

/** The result of an accept: a connection, or the error. */
type Accepted<C> = { readonly connection: C } | { readonly error: unknown };

/** Accepts once. If it is interrupted, a connection that comes later is closed. */
function acceptOne<C extends Disposable>(
  accept: () => Promise<C>,
): Wait<Accepted<C>> {
  let isLeft = false;
  const accepting = then(
    accept(),
    (connection): Accepted<C> => {
      if (isLeft) connection[Symbol.dispose]();
      return { connection };
    },
    (error): Accepted<C> => ({ error }),
  );
  return until(accepting, () => {
    isLeft = true;
  });
}

function poolOf(pool: unknown): Pool | null {
  if (pool === undefined || pool === Infinity) return null;
  if (pool instanceof Pool) return pool;
  if (Number.isInteger(pool) && pool as number > 0) {
    return new Pool(pool as number);
  }
  throw numberError(
    "create server",
    "pool",
    "a positive integer or a Pool",
    pool,
  );
}

/**
 * The function that {@linkcode StreamServer} calls for each connection.
 *
 * @typeParam P The type of the addresses of both ends.
 */
export type ConnectionHandler<P extends Deno.Addr = Deno.Addr> = (
  socket: Socket<P>,
  address: P,
) => unknown;

/** Options of {@linkcode StreamServer}. */
export interface StreamServerOptions
  extends ServerOptions, ServerProcessOptions {
  /**
   * The certificate and the key, in PEM format, and other options of `node:tls`. The connections
   * then use TLS. The handshake is made in the greenlet of the connection, before the handler is
   * called.
   */
  tls?: TlsOptions;
  /**
   * How many milliseconds the handshake may take. After that, the connection is closed.
   *
   * @default {10000}
   */
  handshakeTimeout?: number;
}

/** The greenlet of a connection. It closes the connection when it has ended. */
class ConnectionGreenlet extends Greenlet {
  static {
    // Printed under the name of the public class.
    Object.defineProperty(this, "name", { value: "Greenlet" });
  }

  /** Closed when the greenlet has ended or is left behind. */
  readonly connection: Disposable;
  readonly #handle: ConnectionHandler;

  constructor(
    connection: Disposable,
    handle: ConnectionHandler,
    run: (...args: never[]) => unknown,
    ...args: unknown[]
  ) {
    super(run as (...args: unknown[]) => unknown, ...args);
    this.connection = connection;
    this.#handle = handle;
    this.rawlink(closeConnection);
  }

  protected override get label(): string {
    return this.#handle.name;
  }
}

function closeConnection(greenlet: unknown): void {
  (greenlet as ConnectionGreenlet).connection[Symbol.dispose]();
}

/**
 * A server for TCP, Unix sockets and TLS. It runs the handler of each connection in a greenlet,
 * which is named after the peer. gevent's `StreamServer`.
 *
 * The socket is closed when the greenlet has ended: the handler has returned, failed or was
 * killed, even before its start. The error of a handler is reported to the hub, and does not
 * affect other connections.
 *
 * With a `pool`, the server accepts only while there is room; further connections wait in the
 * system. If accepting fails, for example because file descriptors have run out, the server
 * reports the error to the hub and tries again, after the delays of {@linkcode ServerOptions}.
 *
 * A client that sends nothing keeps its place until its handler gives up. Set `socket.timeout`
 * to limit each wait.
 *
 * @typeParam L What it listens on.
 *
 * @example An echo server
 * ```ts
 * import { connect, StreamServer } from "@gevent/gevent";
 *
 * await using server = new StreamServer(
 *   { hostname: "127.0.0.1", port: 0 },
 *   async (socket) => {
 *     for await (const line of socket.lines()) await socket.sendAll(`${line}\n`);
 *   },
 *   { pool: 1000 },
 * );
 * server.start();
 *
 * using socket = await connect(server.address);
 * await socket.sendAll("hello\n");
 * console.log(new TextDecoder().decode(await socket.recvUntil("\n"))); // hello
 * ```
 */
export class StreamServer<L extends ListensOn = ListensOn>
  extends BaseServer<OwnAddress<L>> {
  readonly #handle: ConnectionHandler;
  readonly #given: ListensOn;
  readonly #tls: TlsIdentity | null;
  readonly #handshakeTimeout: number;
  #listener: Disposable | null = null;

  /**
   * Makes a server that does not listen yet.
   *
   * @param address The address to listen on; or a listener of the runtime or of `listen()`. Don't
   * use that listener any more: the server closes it.
   * @param handle Called for each connection, in a new greenlet, with the socket and the address
   * of the peer.
   * @param options How many connections may be served at once, TLS, and other limits.
   * @throws {TypeError | RangeError} If the address or an option is invalid, or `handle` is not a
   * function.
   * @throws {Error} The error of `node:tls`, if the certificate is invalid.
   */
  constructor(
    address: L,
    handle: ConnectionHandler<EndAddress<L>>,
    options: StreamServerOptions = NO_OPTIONS,
  ) {
    const isOpen = isListener(address);
    if (isOpen) checkListener(address, "create stream server");
    else checkAddress(address, "create stream server");
    checkProcesses(options, isOpen ? null : address, "create stream server");
    checkFunction(handle, "create stream server", "handle");
    super(isOpen ? address.addr : { ...address }, options);
    const { tls, handshakeTimeout = 10_000 } = options;
    checkDuration(
      handshakeTimeout,
      "create stream server",
      "'handshakeTimeout'",
    );
    if (tls !== undefined) checkTls(tls, "create stream server");
    const isPlain = !isOpen || address.constructor.name === "Listener";
    if (tls !== undefined && !isPlain) {
      throw new TypeError(
        "Cannot create stream server as 'tls' needs an address, or a listener of Deno.listen()",
      );
    }
    this.#given = address;
    this.#handle = handle as ConnectionHandler;
    this.#tls = tls === undefined ? null : new TlsIdentity(tls);
    this.#handshakeTimeout = handshakeTimeout;
  }

  /** Begins to listen. */
  protected override open(address: AnyAddress): Deno.Addr {
    const given = isListener(this.#given) ? this.#given : address as ListensOn;
    return this.#tls === null
      ? this.#openPlain(given)
      : this.#openTls(this.#tls, given);
  }

  #openPlain(given: ListensOn): Deno.Addr {
    const listener = given instanceof SocketListener
      ? given
      : isListener(given)
      ? new SocketListener(given)
      : listen(given as TcpAddress);
    this.#listener = listener;
    this.accept(
      () => listener.accept() as Wait<Socket>,
      (socket) => {
        const address = socket.remoteAddr;
        const handle = this.#handle;
        return this.#name(
          new ConnectionGreenlet(socket, handle, handle, socket, address),
          address,
        );
      },
    );
    return listener.addr;
  }

  #openTls(
    identity: TlsIdentity,
    given: ListensOn,
  ): Deno.Addr {
    const original = denoFunction("listen");
    const listener = isListener(given)
      ? given as Deno.Listener
      : original(given as TcpAddress);
    this.#listener = listener;
    const isGenerator = isGeneratorFunction(this.#handle);
    this.accept(
      () => runDetached(() => listener.accept()) as Promise<Deno.Conn>,
      (raw) => {
        const conn = identity.wrap(raw);
        const run = isGenerator ? this.#delegate : this.#serveTls;
        return this.#name(
          new ConnectionGreenlet(conn, this.#handle, run, this, conn),
          conn.remoteAddr,
        );
      },
    );
    return listener.addr;
  }

  #name(greenlet: ConnectionGreenlet, peer: Deno.Addr): ConnectionGreenlet {
    // The address of a Unix socket's peer has no path.
    const isKnown = "hostname" in peer || "path" in peer && peer.path !== null;
    greenlet.name = addressName(isKnown ? peer : this.address);
    return greenlet;
  }

  // The same body twice, as an async function and as a generator: a handshake, then the handler.

  async #serveTls(server: StreamServer, conn: ServerTlsConn): Promise<void> {
    if (!await server.#shakeHands(conn)) return;
    const socket = new Socket(conn);
    const result = server.#handle(socket, conn.remoteAddr);
    if (isGenerator(result)) await withTimeout(Infinity, () => result);
    else await result;
  }

  *#delegate(server: StreamServer, conn: ServerTlsConn): Generator {
    if (!(yield* server.#shakeHands(conn))) return;
    const socket = new Socket(conn);
    yield* server.#handle(socket, conn.remoteAddr) as Generator;
  }

  /** @returns Whether the handshake is done; `false` if the peer has left. */
  #shakeHands(conn: ServerTlsConn): Wait<boolean> {
    return composed(async () => {
      try {
        await withTimeout(
          this.#handshakeTimeout,
          () => until(conn.handshake(), () => conn.abort()),
        );
        return true;
      } catch (error) {
        conn.abort();
        // A peer that leaves during the handshake is no error. The checks of some load balancers
        // reset their connections.
        if (isGone(error)) return false;
        throw error;
      }
    });
  }

  /** Stops listening. */
  protected override shut(): void {
    this.#listener?.[Symbol.dispose]();
  }

  /** Closes a listener that was passed to the constructor. */
  protected override closeUnstarted(): void {
    if (isListener(this.#given)) this.#given[Symbol.dispose]();
  }

  /** Closes the connection of a handler that is left behind. */
  protected override abandon(greenlet: AnyGreenlet): void {
    if (greenlet instanceof ConnectionGreenlet) closeConnection(greenlet);
  }
}

/** A datagram and the address of its sender. */
type Datagram = Parameters<DatagramHandler>;

/** How many bytes of datagrams may wait for room: as many as Linux keeps for a socket. */
const MOST_WAITING = 212_992;
/** The bytes that each datagram counts more than it has, as an empty one takes memory, too. */
const DATAGRAM_COST = 128;

/** The function that {@linkcode DatagramServer} calls for each datagram. */
export type DatagramHandler = (
  data: Uint8Array,
  address: Deno.NetAddr,
) => unknown;

/**
 * A server for UDP. It handles each datagram in a greenlet. gevent's `DatagramServer`.
 *
 * Datagrams that come while the pool is full wait. Up to 208 KiB may wait, where each datagram
 * counts 128 bytes more than it has. Further datagrams are dropped, as the system would do.
 *
 * It uses `node:dgram`, and needs no flag of Deno.
 *
 * @example Usage
 * ```ts
 * import { DatagramServer, Queue } from "@gevent/gevent";
 *
 * const heard = new Queue<string>();
 * const options = { hostname: "127.0.0.1", port: 0 };
 * await using server = new DatagramServer(options, (data) => {
 *   heard.put(new TextDecoder().decode(data));
 * });
 * server.start();
 * await server.sendTo("hello", server.address); // To itself
 * console.log(await heard.get()); // hello
 * ```
 */
export class DatagramServer extends BaseServer<UdpAddress | Deno.NetAddr> {
  readonly #handle: DatagramHandler;
  readonly #hostname: string;
  readonly #port: number;
  #socket: UdpSocket | null = null;
  #waiting: Datagram[] = [];
  #waitingBytes = 0;
  /** Whether a greenlet is starting handlers for the waiting datagrams. */
  #isFed = false;

  /**
   * Makes a server that does not listen yet.
   *
   * @param address The address to listen on.
   * @param handle Called for each datagram, with its bytes and the address of its sender, in a
   * new greenlet that is named after the sender.
   * @param options How many handlers may run at once, and other limits.
   * @throws {TypeError | RangeError} If the address or an option is invalid, or `handle` is not a
   * function.
   */
  constructor(
    address: UdpAddress,
    handle: DatagramHandler,
    options: ServerOptions = NO_OPTIONS,
  ) {
    checkAddress(address, "create datagram server", ["udp"]);
    checkProcesses(
      options as ServerProcessOptions,
      { transport: "udp" },
      "create datagram server",
    );
    checkFunction(handle, "create datagram server", "handle");
    const hostname = numericHost(
      address.hostname ?? "0.0.0.0",
      "create datagram server",
    );
    super({ ...address }, options);
    this.#handle = handle;
    this.#hostname = hostname;
    this.#port = address.port;
  }

  /** Begins to listen. */
  protected override open(): Deno.Addr {
    const dgram = getBuiltin("node:dgram");
    const family = this.#family;
    let failure: Error | null = null;
    const socket = dgram.createSocket({
      type: `udp${family}`,
      // Calls back at once: when bind() returns, the socket is bound or has failed.
      lookup: (host, _options, found) => found(null, host, family),
    });
    const note = (error: Error) => {
      failure = error;
    };
    socket.on("error", note);
    socket.bind({ port: this.#port, address: this.#hostname, exclusive: true });
    if (failure !== null) {
      socket.close();
      throw runtimeError(failure);
    }
    socket.off("error", note);
    socket.on("error", (error) => report(this, error));
    socket.on("message", (data, from) => this.#received(data, from));
    this.#socket = socket;
    const { address, port } = socket.address();
    return { transport: "udp", hostname: address, port };
  }

  get #family(): 4 | 6 {
    return this.#hostname.includes(":") ? 6 : 4;
  }

  /** Stops listening. */
  protected override shut(): void {
    this.#socket?.close();
    this.#socket = null;
    this.#waiting = [];
    this.#waitingBytes = 0;
  }

  /**
   * Sends a datagram. A switch point. gevent's `sendto`.
   *
   * An interrupt does not take the datagram back: the system has it by then.
   *
   * @param data The bytes, of which a copy is sent; or a text, which is sent as UTF-8.
   * @param address The receiver: an IP address of the version that the server uses, or
   * `localhost`, which is the default. Other host names are not looked up.
   * @returns The number of bytes that were sent.
   * @throws {TypeError | RangeError} If the data or the address is invalid.
   * @throws {GreenletError} If the server is not started.
   * @throws {Error} The error of the runtime, for example if the datagram is too long.
   */
  sendTo(
    data: string | Uint8Array,
    address: Deno.NetAddr | UdpAddress,
  ): Wait<number> {
    checkAddress(address, "send datagram", ["udp"]);
    if (typeof data !== "string" && !(data instanceof Uint8Array)) {
      throw new TypeError(
        `Cannot send datagram as 'data' must be a string or a Uint8Array: received ${
          show(data)
        }`,
      );
    }
    const socket = this.#socket;
    if (socket === null) {
      throw new GreenletError(
        `Cannot send datagram as ${show(this)} is not started`,
      );
    }
    const { port } = address;
    const hostname = numericHost(
      address.hostname ?? "localhost",
      "send datagram",
      this.#family,
    );
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    const copy = typeof data === "string"
      ? new TextEncoder().encode(data)
      : new Uint8Array(data);
    const sent = Promise.withResolvers<number>();
    socket.send(copy, port, hostname, (error: Error | null, count: number) => {
      if (error === null) sent.resolve(count);
      else sent.reject(runtimeError(error));
    });
    return until(sent.promise);
  }

  #received(bytes: Uint8Array, from: RemoteInfo): void {
    const address: Deno.NetAddr = {
      transport: "udp",
      hostname: from.address,
      port: from.port,
    };
    const datagram: Datagram = [new Uint8Array(bytes), address];
    if (this.pool === null) return this.#begin(datagram);
    const cost = bytes.length + DATAGRAM_COST;
    if (this.#waitingBytes + cost > MOST_WAITING) return;
    this.#waitingBytes += cost;
    this.#waiting.push(datagram);
    if (this.#isFed) return;
    this.#isFed = true;
    this.runUntilClosed("feed", () => this.#feed());
  }

  #begin(datagram: Datagram): void {
    then(this.#serve(datagram), undefined, (error) => report(this, error));
  }

  #serve([data, address]: Datagram): Promise<void> {
    const greenlet = runDetached(() =>
      new Greenlet(this.#handle, data, address)
    );
    greenlet.name = addressName(address);
    return this.serve(greenlet);
  }

  /** Starts a handler for each waiting datagram, when there is room. */
  async #feed(): Promise<void> {
    try {
      for (;;) {
        const datagram = this.#waiting.shift();
        if (datagram === undefined) return;
        this.#waitingBytes -= datagram[0].length + DATAGRAM_COST;
        await this.#serve(datagram);
      }
    } finally {
      this.#isFed = false;
    }
  }
}

nameClasses({ BaseServer, StreamServer, DatagramServer });
