/**
 * An HTTP server: a greenlet for each request.
 *
 * ```ts
 * import { HttpServer, sleep } from "@gevent/gevent";
 *
 * await using server = new HttpServer(
 *   { hostname: "127.0.0.1", port: 0 },
 *   async (request) => {
 *     await sleep(1);
 *     return new Response(`hello from ${new URL(request.url).pathname}`);
 *   },
 * );
 * server.start();
 * const answer = await fetch(`${server.url}greeting`);
 * console.log(await answer.text()); // hello from /greeting
 * ```
 *
 * @module
 */

import { nameClasses } from "./_base/inspecting.ts";
import { checkAddress } from "./_base/addresses.ts";
import { checkFunction, isObject, show } from "./_base/checks.ts";
import { markHandled, NO_OPTIONS, then } from "./_base/language.ts";
import { AT_ONCE, BodyStream, Pieces, told } from "./_base/body_stream.ts";
import { bodyOf, STREAM } from "./_base/response_body.ts";
import { isGenerator, isThenable } from "./_base/thenable.ts";
import { Begun } from "./_hub/begun.ts";
import { runDetached } from "./_hub/current.ts";
import { killOnce, STUCK_AFTER } from "./_hub/kill.ts";
import { report } from "./_hub/main.ts";
import {
  ClientWatch,
  MICROTASKS,
  requestName,
  unavailable,
} from "./_hub/requests.ts";
import {
  checkDuration,
  now,
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./_hub/timers.ts";
import { checkTls } from "./_hub/tls_conn.ts";
import { denoFunction } from "./_base/properties.ts";
import { setImmediate } from "./_base/immediate.ts";
import { checkProcesses } from "./_workers/fleet.ts";
import { Greenlet, spawn } from "./gevent.ts";
import { GreenletExit } from "./greenlet.ts";
import { until, type Wait } from "./hub.ts";
import type { AnyGreenlet, Group, Pool } from "./pool.ts";
import {
  type AnyAddress,
  BaseServer,
  type ServerAddress,
  type ServerOptions,
  type ServerProcessOptions,
  type TcpAddress,
} from "./server.ts";

/**
 * What answers a request: an async function, a generator function or a plain function. It is
 * called with the runtime's own arguments, as `app.fetch` of Hono and the like expect.
 */
export type HttpHandler = (
  request: Request,
  // As the handlers of frameworks name what they take by types of their own.
  // deno-lint-ignore no-explicit-any
  info: any,
) =>
  | Response
  | PromiseLike<Response>
  // deno-lint-ignore no-explicit-any
  | Generator<unknown, Response, any>;

/** What is told of each request when it is over. */
export interface LogEntry {
  /** The method. */
  readonly method: string;
  /** The whole URL. */
  readonly url: string;
  /** What it was answered with. */
  readonly status: number;
  /** How many bytes the body of the answer had, as far as it was sent. */
  readonly bytes: number;
  /** How many milliseconds it took, until the answer was sent. */
  readonly ms: number;
  /** Where the client is. */
  readonly remoteAddr: Deno.Addr;
  /** What the handler has failed with, or was killed by; `undefined` if it was not. */
  readonly error: unknown;
}

/** Options of {@linkcode HttpServer}. */
export interface HttpServerOptions extends ServerOptions, ServerProcessOptions {
  /**
   * What becomes of a request that there is no room for in the pool: it waits, or is answered
   * 503 with `Retry-After`.
   *
   * @default {"wait"}
   */
  overload?: "wait" | "reject";
  /**
   * How many milliseconds a request may take, from when it comes until its answer is sent. A
   * handler that is late is killed, and answered for with 503; an answer that has begun is
   * cut off.
   *
   * @default {Infinity}
   */
  requestTimeout?: number;
  /**
   * Called with an entry for each request when it is over; `"common"` prints a line in the
   * Common Log Format to stdout, in which every request is of HTTP/1.1, as the runtime does
   * not tell.
   */
  log?: ((entry: LogEntry) => unknown) | "common";
  /** The certificate and the key, in PEM format: HTTPS, and HTTP/2 for who asks for it. */
  tls?: { cert: string; key: string };
}

/** What the runtime passes to a handler, beside the request. */
type Info = Deno.ServeHandlerInfo<Deno.Addr>;

type Serve = (
  options: Record<string, unknown>,
  handler: (request: Request, info: Info) => Response | Promise<Response>,
) => Deno.HttpServer<Deno.Addr>;

/** For how many seconds one comes back at the earliest that was rejected. */
const RETRY_AFTER = "1";

/**
 * A server that stops under a load ends its connections when no request has come for so many
 * milliseconds and turns of the event loop: until then each answer tells its client that it
 * is the last. With a request that is under way when its connection is ended, the client can't
 * know what has become of it.
 */
const QUIET = 30;
const QUIET_TURNS = 20;
/** For how many milliseconds it waits for that, where other clients come and come. */
const LINGER = 200;
/** How many requests within that time, in ms, are a load. */
const LOAD = 16;
const LOAD_TIME = 50;

/**
 * An HTTP server, over the runtime's own: a greenlet for each request, which is named after
 * it, `GET /path`. gevent's `pywsgi.WSGIServer`, for `Request` and `Response`.
 *
 * A request lasts until the body of its answer has been sent: so long it holds its place in
 * the pool and is in {@linkcode BaseServer.connections}. When its client goes away it is
 * killed, and the stream of its body is cancelled. (The client of a request for a WebSocket
 * is not watched.) One that the server kills is answered 503. A handler that fails, or gives
 * what is no `Response`, is answered for with 500, and the hub is told once.
 *
 * `stop()` drains: nothing is accepted any more, connections are ended after the answer that
 * they wait for, and what has not been answered at the timeout is killed. A WebSocket is
 * closed by it, and is otherwise no request any more.
 *
 * The runtime accepts connections by itself, and ends all of them when it can't, as for want
 * of file descriptors: then the hub is told, and the server listens again after the delays
 * of {@linkcode ServerOptions}.
 *
 * @example A streaming answer
 * ```ts
 * import { HttpServer, sleep } from "@gevent/gevent";
 *
 * async function* ticks() {
 *   for (let i = 0; i < 3; i++) {
 *     yield new TextEncoder().encode(`data: ${i}\n\n`);
 *     await sleep(1);
 *   }
 * }
 *
 * await using server = new HttpServer(
 *   { hostname: "127.0.0.1", port: 0 },
 *   () => new Response(ReadableStream.from(ticks())),
 *   { pool: 100, overload: "reject", requestTimeout: 30_000 },
 * );
 * server.start();
 * console.log(await (await fetch(server.url)).text());
 * ```
 */
export class HttpServer extends BaseServer {
  #requested: ServerAddress;
  readonly #tls: { cert: string; key: string } | null;
  readonly #service: Service;
  #served: Served | null = null;
  /** How many requests had come when it began to listen. */
  #countBefore = 0;

  /**
   * Makes a server that does not listen yet.
   *
   * @param address Where it is to listen.
   * @param handler Answers a request.
   * @param options How many requests may be handled at once, and other limits.
   * @throws {TypeError | RangeError} If the address or an option is none, or `handler` not a
   * function.
   */
  constructor(
    address: ServerAddress,
    handler: HttpHandler,
    options: HttpServerOptions = NO_OPTIONS,
  ) {
    checkAddress(address, "create HTTP server");
    checkFunction(handler, "create HTTP server", "handler");
    checkProcesses(options, address, "create HTTP server");
    super({ ...address }, options);
    const { overload = "wait", requestTimeout = Infinity, log, tls } = options;
    if (overload !== "wait" && overload !== "reject") {
      throw new TypeError(
        `Cannot create HTTP server as 'overload' must be "wait" or "reject": received ${
          show(overload)
        }`,
      );
    }
    checkDuration(requestTimeout, "create HTTP server", "'requestTimeout'");
    if (log !== undefined && log !== "common") {
      checkFunction(log, "create HTTP server", "log");
    }
    if (tls !== undefined) checkTls(tls, "create HTTP server");
    this.#requested = { ...address };
    this.#tls = tls ?? null;
    this.#service = {
      handler,
      pool: this.pool,
      connections: this.connections,
      rejects: overload === "reject",
      requestTimeout,
      log: log === "common" ? printCommon : log ?? null,
      load: new Load(),
      isDraining: false,
    };
  }

  /** The greenlets of the requests that are not over. */
  override get connections(): Group {
    listNew();
    return super.connections;
  }

  /**
   * Where it answers: `http://127.0.0.1:8080/`.
   *
   * @throws {TypeError} If it listens on a Unix socket, which has none.
   */
  get url(): string {
    if ("path" in this.address) {
      throw new TypeError(
        `Cannot give the URL of ${this} as a Unix socket has none`,
      );
    }
    const { hostname = "0.0.0.0", port } = this.address as TcpAddress;
    const host = hostname.includes(":") ? `[${hostname}]` : hostname;
    return `${this.#tls === null ? "http" : "https"}://${host}:${port}/`;
  }

  /** Begins to listen. */
  protected override open(address: AnyAddress): Deno.Addr {
    giveExitsResponses();
    this.#requested = address as ServerAddress;
    return this.#serve(this.#requested).address;
  }

  /** How many requests have come. */
  protected override get accepted(): number {
    return this.#service.load.count;
  }

  #serve(address: ServerAddress): Served {
    this.#countBefore = this.#service.load.count;
    const options = { ...address, ...this.#tls };
    const served: Served = new Served(
      options,
      (request, info) => new Exchange(this.#service, request, info).begin(),
      (error) => this.#gaveUp(error),
    );
    this.#served = served;
    return served;
  }

  /** The runtime serves no longer: what it has accepted is closed. */
  #gaveUp(error: unknown): void {
    report(this, error);
    if (!this.started) return;
    this.runUntilClosed("listen", () => this.#serveAgain());
  }

  async #serveAgain(): Promise<void> {
    if (this.#service.load.count > this.#countBefore) this.resetDelay();
    for (;;) {
      await this.delayRetry();
      try {
        return void this.#serve(this.#boundAddress());
      } catch (error) {
        report(this, error);
      }
    }
  }

  /** What was asked for, with the port that it has got. */
  #boundAddress(): ServerAddress {
    const asked = this.#requested;
    if (asked.transport === "unix") return asked;
    return { ...asked, port: (this.address as TcpAddress).port };
  }

  /** Listens no more. */
  protected override shut(isEmpty: boolean): void {
    this.prepareToClose();
    this.#served?.shutDown(this.#service.load, isEmpty);
  }

  /** Has each answer tell its client that it is the last of the connection. */
  protected override prepareToClose(): void {
    this.#service.isDraining = true;
  }

  /** Ends the connections, and waits until all is answered. */
  protected override async drain(
    deadline: number,
    caller: AnyGreenlet,
  ): Promise<void> {
    // A handler that stops its server has not been answered for.
    if (!this.#handles(caller)) {
      await this.#served?.whenFinished(deadline - now());
    }
    await super.drain(deadline, caller);
  }

  /** Waits until what was killed is answered for. */
  protected override async finish(caller: AnyGreenlet): Promise<void> {
    if (this.#handles(caller)) return;
    // For the answers to what was killed.
    await this.#served?.whenFinished(LINGER);
    this.#served?.leave();
  }

  /** Whether a greenlet is that of a request to this server. */
  #handles(greenlet: AnyGreenlet): boolean {
    return greenlet instanceof RequestGreenlet &&
      greenlet.exchange.isOf(this.#service);
  }

  /** Kills a handler, and answers for it. */
  protected override kill(greenlet: AnyGreenlet): void {
    if (!(greenlet instanceof RequestGreenlet)) killOnce([greenlet]);
    else greenlet.exchange.kill(new GreenletExit("The server stops"));
  }
}

/** What the requests of a server have in common. */
interface Service {
  readonly handler: HttpHandler;
  readonly pool: Pool | null;
  readonly connections: Group;
  readonly rejects: boolean;
  readonly requestTimeout: number;
  readonly log: ((entry: LogEntry) => unknown) | null;
  readonly load: Load;
  /** Whether connections are to be ended after the next answer. */
  isDraining: boolean;
}

/** One of the runtime's own servers. */
class Served {
  readonly #server: Deno.HttpServer<Deno.Addr>;
  readonly #begun = new Begun();
  readonly #finished: Promise<void>;
  #state: "serving" | "shutting down" | "finished" = "serving";

  constructor(
    options: Record<string, unknown>,
    handler: (request: Request, info: Info) => Response | Promise<Response>,
    gaveUp: (error: unknown) => void,
  ) {
    const serve = denoFunction("serve") as unknown as Serve;
    this.#server = serve({
      ...options,
      onListen() {},
      onError,
    }, handler);
    this.#finished = then(
      this.#server.finished,
      () => {
        this.#state = "finished";
      },
      (error) => {
        const before = this.#state;
        this.#state = "finished";
        if (before === "serving") gaveUp(error);
      },
    );
  }

  get address(): Deno.Addr {
    return this.#server.addr;
  }

  /**
   * Accepts no more, and ends connections that wait for no answer. Under a load, not before
   * what the clients have sent meanwhile has come: it would be lost with the connection.
   */
  shutDown(load: Load, isQuiet: boolean): void {
    if (this.#state !== "serving") return;
    this.#state = "shutting down";
    if (load.isHigh && !isQuiet) load.whenQuiet(() => this.#shutDown());
    else this.#shutDown();
  }

  #shutDown(): void {
    if (this.#state === "finished") return;
    markHandled(this.#begun.watch(() => this.#server.shutdown()));
  }

  /** Waits until all connections have ended, or for so many milliseconds. */
  async whenFinished(ms: number): Promise<void> {
    if (this.#state === "finished") return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = startTimer(Math.max(ms, 0), {
      expired() {
        resolve();
      },
    });
    then(this.#finished, resolve);
    try {
      await until(promise);
    } finally {
      stopTimer(timer);
    }
  }

  /**
   * Leaves connections to themselves whose clients don't read what was written: the runtime
   * can't end them any more, but they hold up no process.
   */
  leave(): void {
    if (this.#state === "finished") return;
    this.#server.unref();
    this.#begun.unref();
  }
}

/** Hono asks an error for its response, and prints one that has none. */
function giveExitsResponses(): void {
  if ("getResponse" in GreenletExit.prototype) return;
  Object.defineProperty(GreenletExit.prototype, "getResponse", {
    value: unavailable,
    writable: true,
    enumerable: false,
    configurable: true,
  });
}

function onError(error: unknown): Response {
  if (!isObject(error) || !told.has(error)) report("HttpServer", error);
  return failed();
}

/** How many requests come. */
class Load {
  #count = 0;
  /** When the last so many had come, and when those before. */
  #last = -Infinity;
  #before = -Infinity;

  note(): void {
    if (++this.#count % LOAD !== 0) return;
    this.#before = this.#last;
    this.#last = performance.now();
  }

  get count(): number {
    return this.#count;
  }

  get isHigh(): boolean {
    return performance.now() - this.#before < 2 * LOAD_TIME;
  }

  /** Calls back when none has come for a while, or has for too long. */
  whenQuiet(callback: () => void): void {
    const end = performance.now() + LINGER;
    let count = this.#count;
    let turns = 0;
    let since = performance.now();
    const look = () => {
      const time = performance.now();
      if (count !== this.#count) {
        count = this.#count;
        turns = 0;
        since = time;
      }
      const isQuiet = ++turns > QUIET_TURNS && time - since > QUIET;
      if (isQuiet || time > end) callback();
      else setTimer(look);
    };
    setTimer(look);
  }
}

/** Calls back in one of the next turns of the event loop, when a millisecond is over. */
function setTimer(callback: () => void): void {
  startTimer(1, {
    expired() {
      setImmediate(callback);
      return "nothing";
    },
  });
}

/**
 * - `waiting`: for room in the pool
 * - `handling`: until there is an answer
 * - `sending`: its body is sent
 * - `over`
 */
type Stage = "waiting" | "handling" | "sending" | "over";

/**
 * The greenlet of a request. It knows of that by fields of its own: to find it in a `WeakMap`
 * would have the garbage collector take half of the time of a small request.
 */
class RequestGreenlet extends Greenlet {
  static {
    // To be seen as what it is to its user.
    Object.defineProperty(this, "name", { value: "Greenlet" });
  }

  readonly exchange: Exchange;
  #name: string;

  constructor(exchange: Exchange, name: string) {
    super(run, exchange);
    this.exchange = exchange;
    this.#name = name;
  }

  protected override get label(): string {
    return this.exchange.label;
  }

  override get name(): string {
    return this.#name;
  }

  override set name(name: string) {
    this.#name = String(name);
  }
}

// Shared by all, so that no request needs functions of its own.
function run(exchange: Exchange): unknown {
  return exchange.handle();
}

function endExchange(greenlet: unknown): void {
  (greenlet as RequestGreenlet).exchange.ended();
}

/**
 * Those that have begun in these microtasks. Most are over at the end of them: to list those,
 * and to watch their clients, would take a third of the time of a small request.
 */
let young: Exchange[] = [];
const isOver = (exchange: Exchange) => exchange.isOver;

function lookSoon(exchange: Exchange): void {
  if (young.push(exchange) === 1) lookAfterMicrotasks();
}

async function lookAfterMicrotasks(): Promise<void> {
  for (let i = 0; i < MICROTASKS; i++) {
    await null;
    if (young.every(isOver)) break;
  }
  const exchanges = young;
  young = [];
  for (const exchange of exchanges) exchange.look();
}

/** Lists those as well that have just begun. */
function listNew(): void {
  for (const exchange of young) exchange.list();
}

/** A request and its answer. */
class Exchange implements TimerTarget {
  readonly #service: Service;
  readonly #request: Request;
  readonly #info: Info;
  readonly #greenlet: Greenlet;
  readonly #start: number;
  /** Where the client is, if that is to be told. */
  readonly #remoteAddr: Deno.Addr | null;
  #stage: Stage = "handling";
  /** Whether it is in the group of the server, and told when its greenlet has ended. */
  #isListed = false;
  #answer: Response | null = null;
  /** Gives the answer to the runtime, which waits for it. */
  #resolve: ((answer: Response) => void) | null = null;
  #body: BodyStream | null = null;
  /** How many bytes an answer has that is there as a whole, if that is to be told. */
  #bytes = 0;
  #waiter: Greenlet | null = null;
  #watch: ClientWatch | null = null;
  #timer: Timer | null = null;
  /** What it was killed by. */
  #killedBy: unknown = undefined;

  constructor(service: Service, request: Request, info: Info) {
    this.#service = service;
    this.#request = request;
    this.#info = info;
    this.#start = service.log === null ? 0 : now();
    this.#remoteAddr = service.log === null ? null : info.remoteAddr;
    this.#greenlet = new RequestGreenlet(this, requestName(request));
    service.load.note();
  }

  begin(): Response | Promise<Response> {
    const { pool, rejects } = this.#service;
    const greenlet = this.#greenlet;
    if (pool !== null && pool.full()) {
      if (rejects) {
        this.#give(overloaded());
        this.#over();
        return this.#answer!;
      }
      this.#waitIn(pool);
    } else {
      greenlet.switch(this);
      if (greenlet.dead) {
        // At once, and not when the hub comes to the links.
        pool?.discard(greenlet);
        this.ended();
        return this.#answer!;
      }
    }
    this.#timer = startTimer(this.#service.requestTimeout, this);
    lookSoon(this);
    return this.#answer ?? new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Whether it is of the server that has this service. */
  isOf(service: Service): boolean {
    return this.#service === service;
  }

  /** Whether nothing is left to be done. */
  get isOver(): boolean {
    return this.#stage === "over" || this.#greenlet.dead;
  }

  /** Has it be seen from outside. */
  list(): void {
    if (this.#isListed || this.isOver) return;
    this.#isListed = true;
    this.#service.connections.add(this.#greenlet);
    this.#greenlet.rawlink(endExchange);
  }

  /** Looks for what it has come to, and for its client. */
  look(): void {
    this.list();
    if (this.#isListed) this.#watchClient();
    else this.ended();
  }

  /** Waits for room in a greenlet of its own, which takes its place in the line. */
  #waitIn(pool: Pool): void {
    const greenlet = this.#greenlet;
    this.#stage = "waiting";
    this.#waiter = spawn(async () => {
      await pool.add(greenlet);
      this.#waiter = null;
      this.#stage = "handling";
      greenlet.start();
    });
    this.#waiter.name = `${greenlet.name}, waiting`;
  }

  /** What the handler is called. */
  get label(): string {
    return this.#service.handler.name;
  }

  /** Runs the handler: the body of the greenlet. */
  handle(): unknown {
    const { pool } = this.#service;
    // There is room. Here, as an error that is due where the runtime calls is not for us.
    if (!pool?.has(this.#greenlet)) void pool?.add(this.#greenlet);
    const result: unknown = this.#service.handler(this.#request, this.#info);
    if (result instanceof Response) return this.#respond(result);
    if (isThenable(result)) return this.#follow(result);
    if (isGenerator(result)) return this.#delegate(result);
    throw notAResponse(result);
  }

  async #follow(result: PromiseLike<unknown>): Promise<void> {
    await this.#respond(await result);
  }

  *#delegate(result: Generator<unknown, unknown, unknown>): Generator {
    const sent = this.#respond(yield* result);
    if (sent !== undefined) yield* sent;
  }

  /** Answers, and waits until the body is sent if that takes time. */
  #respond(response: unknown): Wait<void> | undefined {
    if (!(response instanceof Response)) throw notAResponse(response);
    if (this.#answer !== null) {
      // It was killed and is answered for.
      markHandled(Promise.resolve(response.body?.cancel()));
      return;
    }
    if (response.bodyUsed || response.type === "error") {
      throw new TypeError(
        `Cannot answer ${this.#greenlet.name} with a response ${
          response.bodyUsed
            ? "whose body was used before"
            : "that is an error: give one with a status"
        }`,
      );
    }
    const body = bodyOf(response);
    if (body === null || body !== STREAM && body.length <= AT_ONCE) {
      return this.#give(response);
    }
    return this.#send(response, body);
  }

  #send(
    response: Response,
    body: string | Uint8Array | typeof STREAM,
  ): Wait<void> | undefined {
    const { status, statusText } = response;
    const headers = new Headers(response.headers);
    if (this.#request.method === "HEAD") {
      if (body !== STREAM) return this.#give(response);
      markHandled(response.body!.cancel());
      return this.#give(new Response(null, { status, statusText, headers }));
    }
    const bytes = typeof body === "string"
      ? new TextEncoder().encode(body)
      : body;
    if (bytes !== STREAM) headers.set("content-length", `${bytes.length}`);
    const stream = this.#body = new BodyStream(
      bytes === STREAM ? response.body!.getReader() : new Pieces(bytes),
      () => this.#gone(),
    );
    const { completed } = this.#info;
    if (completed !== undefined) then(completed, stream.sent, stream.sent);
    this.#unwatch();
    this.#stage = "sending";
    this.#give(
      new Response(new ReadableStream(stream, { highWaterMark: 0 }), {
        status,
        statusText,
        headers,
      }),
    );
    return until(stream.over, (error) => stream.cut(error));
  }

  /** Gives the runtime the answer. */
  #give(response: Response): undefined {
    // Before the runtime takes it.
    if (this.#service.log !== null) this.#bytes = lengthOf(bodyOf(response));
    const answer = this.#service.isDraining ? last(response) : response;
    this.#answer = answer;
    // The runtime ends the request, which looks as if the client had gone.
    this.#unwatch();
    this.#resolve?.(answer);
  }

  #watchClient(): void {
    if (this.#answer !== null) return;
    // By an upgrade the runtime ends the request, as if the client had gone.
    if (isUpgrade(this.#request)) return;
    this.#watch = new ClientWatch(this.#request, () => this.#gone());
  }

  #unwatch(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = null;
  }

  #gone(): void {
    this.kill(new GreenletExit("The client has gone away"));
  }

  /** The time of the request is over. */
  expired(): void {
    this.#timer = null;
    const { requestTimeout } = this.#service;
    this.kill(
      new GreenletExit(
        `The request has taken longer than ${requestTimeout} ms`,
      ),
    );
  }

  /** Kills the handler, and answers for it unless it has. */
  kill(error: GreenletExit): void {
    if (this.#stage === "over") return;
    this.#killedBy ??= error;
    if (this.#answer === null) this.#give(unavailable());
    const { pool, connections } = this.#service;
    const greenlet = this.#greenlet;
    killOnce(
      this.#waiter === null ? [greenlet] : [this.#waiter, greenlet],
      error,
    );
    stopTimer(this.#timer);
    // One that is stuck in a promise that nothing settles gives its place back.
    this.#timer = startTimer(STUCK_AFTER, {
      expired: () => {
        pool?.discard(greenlet);
        connections.discard(greenlet);
        this.#over();
      },
    });
  }

  /** The greenlet has ended. */
  ended(): void {
    if (this.#answer === null) {
      this.#give(this.#greenlet.successful() ? unavailable() : failed());
    }
    this.#over();
  }

  #over(): void {
    if (this.#stage === "over") return;
    this.#stage = "over";
    stopTimer(this.#timer);
    this.#unwatch();
    if (this.#service.log !== null) this.#tell(this.#service.log);
  }

  #tell(log: (entry: LogEntry) => unknown): void {
    const { method, url } = this.#request;
    const greenlet = this.#greenlet;
    const ended = greenlet.value instanceof GreenletExit
      ? greenlet.value
      : undefined;
    const entry: LogEntry = {
      method,
      url,
      status: this.#answer!.status,
      bytes: this.#body?.bytes ?? this.#bytes,
      ms: now() - this.#start,
      remoteAddr: this.#remoteAddr!,
      error: this.#killedBy ?? greenlet.exception ?? ended,
    };
    try {
      const result = runDetached(() => log(entry));
      if (isThenable(result)) {
        then(result, undefined, (error) => report(log, error));
      }
    } catch (error) {
      report(log, error);
    }
  }
}

function isUpgrade(request: Request): boolean {
  try {
    return request.headers.has("upgrade");
  } catch {
    // It has been upgraded, and is closed.
    return true;
  }
}

/** How many bytes a body has that is there as a whole. */
function lengthOf(body: string | Uint8Array | typeof STREAM | null): number {
  if (typeof body === "string") return new TextEncoder().encode(body).length;
  return body === null || body === STREAM ? 0 : body.length;
}

function notAResponse(value: unknown): TypeError {
  return new TypeError(
    `Cannot answer the request as the handler must give a Response: received ${
      show(value)
    }`,
  );
}

function failed(): Response {
  return new Response("Internal Server Error", { status: 500 });
}

function overloaded(): Response {
  const headers = { "retry-after": RETRY_AFTER };
  return new Response("Service Unavailable", { status: 503, headers });
}

/** A response after which the client is to end the connection. */
function last(response: Response): Response {
  // That of an upgrade is known by its identity.
  if (response.status === 101) return response;
  try {
    response.headers.set("connection", "close");
    return response;
  } catch {
    // Its headers can't be changed, as those of what fetch() has given.
    const { status, statusText } = response;
    const headers = new Headers(response.headers);
    headers.set("connection", "close");
    return new Response(response.body, { status, statusText, headers });
  }
}

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

/** Prints an entry in the Common Log Format. */
function printCommon(
  { remoteAddr, method, url, status, bytes }: LogEntry,
): void {
  const host = "hostname" in remoteAddr ? remoteAddr.hostname : "-";
  const { pathname, search } = new URL(url);
  const size = bytes === 0 ? "-" : bytes;
  const request = `${method} ${pathname}${search} HTTP/1.1`;
  console.log(
    `${host} - - [${clfDate(new Date())}] "${request}" ${status} ${size}`,
  );
}

/** `27/Nov/2026:23:10:00 +0000`. */
function clfDate(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${two(date.getUTCDate())}/${MONTHS[date.getUTCMonth()]}`;
  const time = [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
  return `${day}/${date.getUTCFullYear()}:${time.map(two).join(":")} +0000`;
}

nameClasses({ HttpServer, RequestGreenlet });
