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
import {
  checkCallback,
  checkFunction,
  isObject,
  nameFrom,
  show,
} from "./_base/checks.ts";
import { markHandled, NO_OPTIONS, then } from "./_base/language.ts";
import { AT_ONCE, BodyStream, Pieces, told } from "./_base/body_stream.ts";
import { stateOf, uploadOf } from "./_base/request_body.ts";
import { bodyOf, STREAM } from "./_base/response_body.ts";
import { isGenerator, isThenable } from "./_base/thenable.ts";
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
import { checkProcesses } from "./_workers/fleet.ts";
import { EMPTY, LOADED } from "./_workers/quiet.ts";
import { type Info, LINGER, Load, Served } from "./_workers/served.ts";
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
 * A function that answers a request: async, generator or plain. It gets the arguments that
 * `Deno.serve` passes, so you can use `app.fetch` of Hono and similar frameworks.
 */
export type HttpHandler = (
  request: Request,
  // `any`, as frameworks declare their own type for it.
  // deno-lint-ignore no-explicit-any
  info: any,
) =>
  | Response
  | PromiseLike<Response>
  // deno-lint-ignore no-explicit-any
  | Generator<unknown, Response, any>;

/** The log entry of a request, made when the request is over. */
export interface LogEntry {
  /** The method. */
  readonly method: string;
  /** The whole URL. */
  readonly url: string;
  /** The status of the response. */
  readonly status: number;
  /** The number of bytes of the body that were sent. */
  readonly bytes: number;
  /** The time until the response was sent, in milliseconds. */
  readonly ms: number;
  /** The address of the client. */
  readonly remoteAddr: Deno.Addr;
  /** The error with which the handler failed or was killed; `undefined` if there was none. */
  readonly error: unknown;
}

/** Options of {@linkcode HttpServer}. */
export interface HttpServerOptions extends ServerOptions, ServerProcessOptions {
  /**
   * What happens to a request when the pool is full: it waits for room, or the server answers
   * it with 503 and `Retry-After`.
   *
   * @default {"wait"}
   */
  overload?: "wait" | "reject";
  /**
   * How many milliseconds a request may take, from its arrival until its response is sent. After
   * that, the server kills the handler and answers with 503. A response that is being sent is
   * cut off.
   *
   * @default {Infinity}
   */
  requestTimeout?: number;
  /**
   * Called with an entry when a request is over. `"common"` prints a line in the Common Log
   * Format to stdout; the line always says HTTP/1.1, as the runtime does not pass on the version.
   */
  log?: ((entry: LogEntry) => unknown) | "common";
  /** The certificate and the key, in PEM format. The server then speaks HTTPS, with HTTP/2. */
  tls?: { cert: string; key: string };
}

/** The `Retry-After` of a rejected request, in seconds. */
const RETRY_AFTER = "1";

/**
 * An HTTP server. It runs the handler of each request in a greenlet, named `GET /path`, and uses
 * the runtime's own HTTP server beneath. gevent's `pywsgi.WSGIServer`, for `Request` and
 * `Response`.
 *
 * A request lasts until the body of its response has been sent. Until then it holds its place in
 * the pool, and its greenlet is in {@linkcode BaseServer.connections}. When the client goes away,
 * the greenlet is killed and the stream of the body is cancelled; only the client of a WebSocket
 * request is not watched. If the server kills a handler, it answers with 503. If a handler fails,
 * or returns something other than a `Response`, the server answers with 500 and reports the error
 * to the hub, once.
 *
 * `stop()` drains: the server accepts no more connections, closes each one after the response
 * that it waits for, and kills the handlers that have not answered at the timeout. It also closes
 * WebSockets. An upgraded WebSocket no longer counts as a request.
 *
 * While the body of a request is still arriving, a server that `stop()` or `close()` has closed
 * goes on to accept connections, and serves them: over HTTP/1, the runtime can't stop accepting
 * without failing the read of that body. It stops in the first moment without such a body. `stop()`
 * makes that moment at its timeout; after a `close()` alone it may take as long as the uploads.
 *
 * A client that goes away in the middle of its upload is noticed when the handler reads the body:
 * the read throws the runtime's `Deno.errors.BadResource`, or `Deno.errors.Http` over TLS. A
 * handler that lets this error through counts as killed, so it is not reported, and the log has
 * the same entry as for any client that goes away. The runtime does not tell about a client that
 * leaves while the body is not read, or after it has come in pieces.
 *
 * The runtime accepts connections by itself. If that fails, for example because file descriptors
 * have run out, the runtime closes all connections. The server then reports the error to the hub
 * and listens again, after the delays of {@linkcode ServerOptions}.
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
  /** The number of requests before it began to listen. */
  #countBefore = 0;

  /**
   * Makes a server that does not listen yet.
   *
   * @param address The address to listen on.
   * @param handler Answers a request.
   * @param options How many requests may be handled at once, and other limits.
   * @throws {TypeError | RangeError} If the address or an option is invalid, or `handler` is not
   * a function.
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
    checkLog(log);
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
      phase: "serving",
    };
  }

  /** The greenlets of the requests in progress. */
  override get connections(): Group {
    listNew();
    return super.connections;
  }

  /**
   * The URL of the server, such as `http://127.0.0.1:8080/`.
   *
   * @throws {TypeError} If the server listens on a Unix socket, which has no URL.
   */
  get url(): string {
    if ("path" in this.address) {
      throw new TypeError(
        `Cannot get the URL of ${show(this)} as a Unix socket has none`,
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

  /** The number of requests so far. */
  protected override get accepted(): number {
    return this.#service.load.count;
  }

  #serve(address: ServerAddress): Served {
    this.#countBefore = this.#service.load.count;
    const options = { ...address, ...this.#tls, onError };
    const served: Served = new Served(
      options,
      (request, info) => new Exchange(this.#service, request, info).begin(),
      (error) => this.#gaveUp(error),
    );
    this.#served = served;
    return served;
  }

  /** Called when the runtime's server has failed. It has closed all its connections. */
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

  /** The requested address, with the port that the system has chosen. */
  #boundAddress(): ServerAddress {
    const asked = this.#requested;
    if (asked.transport === "unix") return asked;
    return { ...asked, port: (this.address as TcpAddress).port };
  }

  /** Stops listening. */
  protected override shut(isEmpty: boolean): void {
    this.prepareToClose();
    const { load } = this.#service;
    const isLoaded = load.isHigh && !isEmpty;
    this.#served?.shutDown(
      isLoaded ? LOADED : EMPTY,
      () => this.#isReceiving ? null : load.count,
      !isLoaded && !this.#isReceiving,
    );
  }

  /** Whether the body of a request is arriving. */
  get #isReceiving(): boolean {
    for (const greenlet of this.connections) {
      if (
        greenlet instanceof RequestGreenlet && greenlet.exchange.isReceiving
      ) {
        return true;
      }
    }
    return false;
  }

  /** From now on each response tells its client to close the connection. */
  protected override prepareToClose(): void {
    if (this.#service.phase === "serving") this.#service.phase = "draining";
  }

  /** Closes the connections, and waits until all requests are answered. */
  protected override async drain(
    deadline: number,
    caller: AnyGreenlet,
  ): Promise<void> {
    try {
      // If a handler stops its own server, its request can't be answered yet.
      if (!this.#handles(caller)) {
        await this.#served?.whenFinished(deadline - now());
      }
      await super.drain(deadline, caller);
    } finally {
      this.#service.phase = "over";
    }
  }

  /** Waits until the responses to killed requests are sent. */
  protected override async finish(caller: AnyGreenlet): Promise<void> {
    if (this.#handles(caller)) return;
    this.#served?.shutDownAtOnce();
    await this.#served?.whenFinished(LINGER);
    this.#served?.leave();
  }

  /** Whether a greenlet handles a request to this server. */
  #handles(greenlet: AnyGreenlet): boolean {
    return greenlet instanceof RequestGreenlet &&
      greenlet.exchange.isOf(this.#service);
  }

  /** Kills a handler, and answers its request. */
  protected override kill(greenlet: AnyGreenlet): void {
    if (!(greenlet instanceof RequestGreenlet)) killOnce([greenlet]);
    else greenlet.exchange.kill(new GreenletExit("The server stops"));
  }
}

function checkLog(log: unknown): void {
  if (log === undefined || log === "common") return;
  if (typeof log === "function") {
    return checkCallback(log, "create HTTP server", "log");
  }
  throw new TypeError(
    `Cannot create HTTP server as 'log' must be a function or "common": received ${
      show(log)
    }`,
  );
}

/** The part of a server that its requests share. */
interface Service {
  readonly handler: HttpHandler;
  readonly pool: Pool | null;
  readonly connections: Group;
  readonly rejects: boolean;
  readonly requestTimeout: number;
  readonly log: ((entry: LogEntry) => unknown) | null;
  readonly load: Load;
  phase: Phase;
}

/**
 * - `serving`
 * - `draining`: each response tells its client to close the connection
 * - `over`: the time to drain is over, so new requests are rejected
 */
type Phase = "serving" | "draining" | "over";

/** Gives `GreenletExit` a response for Hono, which prints an error that has none. */
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

/**
 * - `waiting`: waits for room in the pool
 * - `handling`: the handler runs
 * - `sending`: the body of the response is being sent
 * - `over`
 */
type Stage = "waiting" | "handling" | "sending" | "over";

/**
 * The greenlet of a request, with a field for the exchange. With a `WeakMap` from greenlets to
 * exchanges, the garbage collector would take half of the time of a small request.
 */
class RequestGreenlet extends Greenlet {
  static {
    // Printed under the name of the public class.
    Object.defineProperty(this, "name", { value: "Greenlet" });
  }

  readonly exchange: Exchange;
  /**
   * `undefined` until it is read or set. To make it takes a fifth of the time that the server
   * adds to the runtime's for a small request.
   */
  #name: string | undefined;

  constructor(exchange: Exchange) {
    super(run, exchange);
    this.exchange = exchange;
  }

  protected override get label(): string {
    return this.exchange.label;
  }

  override get name(): string {
    return this.#name ??= this.exchange.title;
  }

  override set name(name: string) {
    this.#name = nameFrom(name);
  }
}

// One function for all requests: a closure for each would take memory.
function run(exchange: Exchange): unknown {
  return exchange.handle();
}

function endExchange(greenlet: unknown): void {
  (greenlet as RequestGreenlet).exchange.ended();
}

/**
 * The exchanges that have begun in the present microtasks. Most are over soon. Listing them and
 * watching their clients would take a third of the time of a small request.
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

/** Lists the exchanges that have just begun. */
function listNew(): void {
  for (const exchange of young) exchange.list();
}

/** A request and its response. */
class Exchange implements TimerTarget {
  readonly #service: Service;
  readonly #request: Request;
  readonly #info: Info;
  readonly #greenlet: Greenlet;
  /** Read at once: a request that is answered no longer tells them. */
  readonly #method: string;
  readonly #url: string;
  readonly #start: number;
  /** The address of the client; `null` without a log. */
  readonly #remoteAddr: Deno.Addr | null;
  #stage: Stage = "handling";
  /** Whether its greenlet is in the server's group and calls {@linkcode endExchange}. */
  #isListed = false;
  #answer: Response | null = null;
  /** Resolves the promise with which the runtime waits for the response. */
  #resolve: ((answer: Response) => void) | null = null;
  #body: BodyStream | null = null;
  /** The stream by which the body of the request arrives; `null` if that is not known. */
  #upload: ReadableStream | null = null;
  /** The length of a body that is no stream, for the log. */
  #bytes = 0;
  #waiter: Greenlet | null = null;
  #watch: ClientWatch | null = null;
  #timer: Timer | null = null;
  /** The error with which the handler was killed. */
  #killedBy: unknown = undefined;

  constructor(service: Service, request: Request, info: Info) {
    this.#service = service;
    this.#request = request;
    this.#info = info;
    this.#start = service.log === null ? 0 : now();
    this.#remoteAddr = service.log === null ? null : info.remoteAddr;
    this.#method = request.method;
    this.#url = request.url;
    this.#greenlet = new RequestGreenlet(this);
    service.load.noteRequest();
  }

  begin(): Response | Promise<Response> {
    const { pool, rejects } = this.#service;
    const greenlet = this.#greenlet;
    const isFull = pool !== null && pool.full();
    if (isFull && rejects || this.#service.phase === "over") {
      this.#give(overloaded());
      this.#over();
      return this.#answer!;
    }
    if (isFull) {
      this.#waitIn(pool);
    } else {
      greenlet.switch(this);
      if (greenlet.dead) {
        // Gives the place back now. The hub would call the links later.
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

  /** The name of its greenlet: the method and the path. */
  get title(): string {
    return requestName(this.#method, this.#url);
  }

  /** Whether this is a request to the server of `service`. */
  isOf(service: Service): boolean {
    return this.#service === service;
  }

  /** Whether nothing is left to do. */
  get isOver(): boolean {
    return this.#stage === "over" || this.#greenlet.dead;
  }

  /**
   * Whether the body of the request is arriving, for a handler or for the response. It counts as
   * arriving until its end was read.
   */
  get isReceiving(): boolean {
    if (this.isOver) return false;
    if (this.#answer === null) this.#findUpload();
    else if (this.#stage !== "sending") return false;
    return stateOf(this.#upload) === "arriving";
  }

  #findUpload(): ReadableStream | null {
    return this.#upload ??= uploadOf(this.#request);
  }

  /** Adds its greenlet to `connections` of the server. */
  list(): void {
    if (this.#isListed || this.isOver) return;
    this.#isListed = true;
    this.#service.connections.add(this.#greenlet);
    this.#greenlet.rawlink(endExchange);
  }

  /** Ends the exchange if its greenlet is dead; otherwise lists it and watches its client. */
  look(): void {
    this.list();
    if (this.#isListed) this.#watchClient();
    else this.ended();
  }

  /** Waits for room in the pool, in a second greenlet. */
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

  /** The name of the handler. */
  get label(): string {
    return this.#service.handler.name;
  }

  /** Runs the handler: the body of the greenlet. */
  handle(): unknown {
    const { pool } = this.#service;
    // There is room. Added here, in the greenlet: in begin(), the runtime's call may come from a
    // greenlet for which an interrupt is due, and add() would throw that.
    if (!pool?.has(this.#greenlet)) void pool?.add(this.#greenlet);
    const result: unknown = this.#service.handler(this.#request, this.#info);
    if (result instanceof Response) return this.#respond(result);
    if (isThenable(result)) return this.#follow(result);
    if (isGenerator(result)) return this.#delegate(result);
    throw notAResponse(result);
  }

  async #follow(result: PromiseLike<unknown>): Promise<void> {
    let response: unknown;
    try {
      response = await result;
    } catch (error) {
      throw this.#reason(error);
    }
    const sent = this.#respond(response);
    if (sent !== undefined) await sent;
  }

  *#delegate(result: Generator<unknown, unknown, unknown>): Generator {
    let response: unknown;
    try {
      response = yield* result;
    } catch (error) {
      throw this.#reason(error);
    }
    const sent = this.#respond(response);
    if (sent !== undefined) yield* sent;
  }

  /**
   * Why the handler has ended. If the client goes away, or when the request is answered for a
   * killed handler, the runtime closes the body of the request. A handler that reads it then
   * ends by an error of the body, and not by the kill.
   */
  #reason(error: unknown): unknown {
    if (!mayBeOfLostBody(error)) return error;
    if (this.#killedBy === undefined) {
      if (stateOf(this.#findUpload()) !== "lost") return error;
      this.#killedBy = clientGone();
      if (this.#answer === null) this.#give(unavailable());
    }
    return this.#killedBy;
  }

  /** Answers, and waits until the body is sent, unless that is done at once. */
  #respond(response: unknown): Wait<void> | undefined {
    if (!(response instanceof Response)) throw notAResponse(response);
    if (this.#answer !== null) {
      // The handler was killed, and the request is answered already.
      markHandled(Promise.resolve(response.body?.cancel()));
      return;
    }
    if (response.bodyUsed || response.type === "error") {
      throw new TypeError(
        `Cannot answer ${this.#greenlet.name} with a response ${
          response.bodyUsed
            ? "whose body was used before"
            : "that is an error: return one with a status"
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
    if (this.#method === "HEAD") {
      if (body !== STREAM) return this.#give(response);
      markHandled(response.body!.getReader().cancel());
      // A body of `null` would get `content-length: 0`, which GET does not answer.
      const none = ReadableStream.from<Uint8Array>([]);
      return this.#give(new Response(none, { status, statusText, headers }));
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
    // Over HTTP/2 the runtime tells this before it cancels the stream.
    if (completed !== undefined) {
      then(completed, stream.sent, () => this.#gone());
    }
    // The stream may pass on the body of the request.
    if (bytes === STREAM) this.#findUpload();
    this.#unwatch();
    this.#stage = "sending";
    this.#give(
      new Response(new ReadableStream(stream, { highWaterMark: 0 }), {
        status,
        statusText,
        headers,
      }),
    );
    const over = then(stream.over, undefined, (error) => {
      throw this.#reason(error);
    });
    return until(over, (error) => stream.cut(error));
  }

  /** Gives the response to the runtime. */
  #give(response: Response): undefined {
    // Measured before the runtime takes the body.
    if (this.#service.log !== null && this.#method !== "HEAD") {
      this.#bytes = lengthOf(bodyOf(response));
    }
    const answer = this.#service.phase !== "serving"
      ? last(response)
      : response;
    this.#answer = answer;
    // The runtime ends the request now, which looks as if the client had gone.
    this.#unwatch();
    this.#resolve?.(answer);
  }

  #watchClient(): void {
    if (this.#answer !== null) return;
    // An upgrade ends the request, which looks as if the client had gone.
    if (isUpgrade(this.#request)) return;
    this.#watch = new ClientWatch(this.#request, () => this.#gone());
  }

  #unwatch(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = null;
  }

  #gone(): void {
    this.kill(clientGone());
  }

  /** Called when `requestTimeout` is over. */
  expired(): void {
    this.#timer = null;
    const { requestTimeout } = this.#service;
    this.kill(
      new GreenletExit(
        `The request has taken longer than ${requestTimeout} ms`,
      ),
    );
  }

  /** Kills the handler, and answers the request unless it is answered. */
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
    // A handler may be stuck in a foreign promise. Its place in the pool is then given back.
    this.#timer = startTimer(STUCK_AFTER, {
      expired: () => {
        pool?.discard(greenlet);
        connections.discard(greenlet);
        this.#over();
      },
    });
  }

  /** Called when the greenlet has ended. */
  ended(): void {
    if (this.#answer === null) {
      this.#give(this.#greenlet.successful() ? unavailable() : failed());
    }
    this.#over();
  }

  #over(): void {
    if (this.#stage === "over") return;
    this.#stage = "over";
    this.#service.load.noteAnswer();
    stopTimer(this.#timer);
    this.#unwatch();
    if (this.#service.log !== null) this.#tell(this.#service.log);
  }

  #tell(log: (entry: LogEntry) => unknown): void {
    const greenlet = this.#greenlet;
    const ended = greenlet.value instanceof GreenletExit
      ? greenlet.value
      : undefined;
    const entry: LogEntry = {
      method: this.#method,
      url: this.#url,
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

function clientGone(): GreenletExit {
  return new GreenletExit("The client has gone away");
}

/**
 * Whether an error, or one that has caused it, may be that of a read of a body whose connection
 * is lost. Over TLS and HTTP/2 the runtime throws `Http`.
 */
function mayBeOfLostBody(error: unknown): boolean {
  const { BadResource, Http } = Deno.errors;
  const seen = new Set<unknown>();
  for (let it = error; it instanceof Error && !seen.has(it); it = it.cause) {
    if (it instanceof BadResource || it instanceof Http) return true;
    seen.add(it);
  }
  return false;
}

function isUpgrade(request: Request): boolean {
  try {
    return request.headers.has("upgrade");
  } catch {
    // The request was upgraded and is closed.
    return true;
  }
}

/** The length of a body in bytes; 0 for a stream. */
function lengthOf(body: string | Uint8Array | typeof STREAM | null): number {
  if (typeof body === "string") return new TextEncoder().encode(body).length;
  return body === null || body === STREAM ? 0 : body.length;
}

function notAResponse(value: unknown): TypeError {
  return new TypeError(
    `Cannot answer the request as the handler must return a Response: received ${
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

/** Returns a response that tells the client to close the connection. */
function last(response: Response): Response {
  // The runtime recognizes the response to an upgrade by its identity.
  if (response.status === 101) return response;
  try {
    response.headers.set("connection", "close");
    return response;
  } catch {
    // The headers can't be changed: those of a response of fetch(), for example.
    const { status, statusText } = response;
    const headers = new Headers(response.headers);
    headers.set("connection", "close");
    return new Response(response.body, { status, statusText, headers });
  }
}

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

/** Prints an entry as a line of the Common Log Format. */
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

/** Formats a date: `27/Nov/2026:23:10:00 +0000`. */
function clfDate(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${two(date.getUTCDate())}/${MONTHS[date.getUTCMonth()]}`;
  const time = [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
  return `${day}/${date.getUTCFullYear()}:${time.map(two).join(":")} +0000`;
}

nameClasses({ HttpServer });
