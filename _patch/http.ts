/**
 * The part `http` of `patch()`: `Deno.serve`.
 *
 * Each request is handled in a greenlet of its own, that is named after it. It begins at
 * once, as the runtime's handlers do, and what it gives or throws is the server's. It is
 * nobody's child: to kill who has called `Deno.serve` does not stop the server. When its
 * client goes away it goes on, as without `patch()`, unless it is asked to end.
 *
 * @module
 */

import { property } from "../_base/language.ts";
import { runDetached, scopeOf } from "../_hub/current.ts";
import { mimic, patchProperty } from "../_base/properties.ts";
import { killOnce } from "../_hub/kill.ts";
import { cooperateObserved, cooperateRelease } from "./cooperate.ts";
import { OptionsInForce, patchAll } from "./patch_set.ts";
import { Greenlet } from "../gevent.ts";
import { GreenletExit } from "../greenlet.ts";

/** Options of the part `http` of `patch()`. */
export interface HttpOptions {
  /**
   * Whether a handler of `Deno.serve` is killed when its client goes away, by a
   * `GreenletExit`. It holds for the servers that are made while it is in force.
   *
   * @default {false}
   */
  killOnDisconnect?: boolean;
}

/** What was asked for, and is in force. */
export const httpOptions: OptionsInForce<HttpOptions> = new OptionsInForce();

type Handler = (
  request: Request,
  info: Deno.ServeHandlerInfo,
) => Response | Promise<Response>;
type Serve = (
  this: unknown,
  options: unknown,
  handler?: unknown,
) => Deno.HttpServer;
type Upgrade = (this: unknown, request: Request, options?: unknown) => unknown;

/**
 * How many microtasks a handler may take before its client is watched. To ask for
 * `request.signal` doubles what a small request costs, and by then most handlers have
 * ended that wait for nothing. But not until the event loop has turned: over HTTP/2 who
 * asks after the client has gone is not told.
 */
const MICROTASKS = 10;

/** Requests that became websockets: their signals tell nothing of the client. */
const upgraded = new WeakSet<Request>();

/** Patches `Deno.serve`; disposing of what it returns restores the originals. */
export function patchHttp(): Disposable {
  return patchAll((patches) => {
    patches.replace<Serve>(
      Deno,
      "serve",
      (serve) =>
        function (options, handler) {
          const args = withGreenlets(options, handler) ?? arguments;
          return cooperativeServer(Reflect.apply(serve, this, args));
        },
    );
    patches.replace<Upgrade>(
      Deno,
      "upgradeWebSocket",
      (upgrade) =>
        function (request) {
          // Beforehand, as the signal is aborted meanwhile.
          if (request instanceof Request) upgraded.add(request);
          try {
            // The socket outlives the request, and so do the calls of its listeners.
            return runDetached(() => Reflect.apply(upgrade, this, arguments));
          } catch (error) {
            upgraded.delete(request);
            throw error;
          }
        },
    );
    patches.beforeRestore(() => silence.end());
    const exit = patchProperty(GreenletExit.prototype, "getResponse", {
      value: unavailable,
      writable: true,
      enumerable: false,
    });
    patches.beforeRestore(() => exit[Symbol.dispose]());
  });
}

/**
 * What a handler that was killed is answered with. Hono asks an error for its response,
 * where it has one, and prints it else.
 */
function unavailable(): Response {
  return new Response(null, { status: 503 });
}

/** The arguments of `Deno.serve` with a handler of ours, if there is a handler. */
function withGreenlets(
  options: unknown,
  handler: unknown,
): [unknown, Handler?] | null {
  const kills = httpOptions.get("killOnDisconnect", false);
  if (typeof options === "function") {
    return [inGreenlets(options as Handler, kills)];
  }
  const given = typeof handler === "function"
    ? handler
    : (options as { handler?: unknown } | null | undefined)?.handler;
  return typeof given === "function"
    ? [options, inGreenlets(given as Handler, kills)]
    : null;
}

/**
 * The handler that runs a handler in greenlets. It takes the request even where that does
 * not, as the greenlet is named after it, and its client may be watched: to the runtime
 * that is a microsecond.
 *
 * @param kills Whether a handler is killed when its client goes away.
 */
function inGreenlets(handler: Handler, kills: boolean): Handler {
  return (request, info) => {
    const greenlet = new Greenlet<Response>(handler, request, info);
    greenlet.name = nameOf(request);
    // It is the server that tells of its error.
    scopeOf(greenlet).errorIsHandled = true;
    greenlet.switch(request, info);
    return greenlet.dead
      ? responseOf(greenlet)
      : responseInTheEnd(greenlet, kills ? request : null);
  };
}

/** The method and the path, without what is asked for. */
function nameOf({ method, url }: Request): string {
  const host = url.indexOf("://") + 3;
  // There is none in that of CONNECT.
  const start = Math.max(url.indexOf("/", host), host);
  const end = url.indexOf("?", start);
  return `${method} ${url.slice(start, end < 0 ? undefined : end)}`;
}

/** What a handler has come to that has ended. */
function responseOf(greenlet: Greenlet<Response>): Response {
  if (!greenlet.successful()) throw greenlet.exception;
  const { value } = greenlet;
  // It was killed. To throw would have the server print that, for each that a run()
  // leaves at its end.
  return value as unknown instanceof GreenletExit ? unavailable() : value!;
}

/** @param request The request, if its client is to be watched. */
async function responseInTheEnd(
  greenlet: Greenlet<Response>,
  request: Request | null,
): Promise<Response> {
  for (let i = 0; i < MICROTASKS; i++) {
    await null;
    if (greenlet.dead) return responseOf(greenlet);
  }
  using _watch = request && new Watch(greenlet, request);
  await new Promise<void>((resolve) => greenlet.rawlink(() => resolve()));
  return responseOf(greenlet);
}

/** Kills the greenlet of a request when the client goes away. */
class Watch implements Disposable {
  readonly #greenlet: Greenlet<Response>;
  readonly #request: Request;
  readonly #gone = () => this.#kill();

  constructor(greenlet: Greenlet<Response>, request: Request) {
    this.#greenlet = greenlet;
    this.#request = request;
    silence.begin();
    request.signal.addEventListener("abort", this.#gone);
    if (request.signal.aborted) this.#kill();
  }

  #kill(): void {
    if (upgraded.has(this.#request)) return;
    killOnce([this.#greenlet], new GreenletExit("The client has gone away"));
  }

  [Symbol.dispose](): void {
    // Unless told otherwise, the runtime aborts it after a response as well.
    this.#request.signal.removeEventListener("abort", this.#gone);
  }
}

const WARNING = "Deno.serve: request.signal aborts on successful responses";

/**
 * Stops the runtime's warning of what a request's signal does, which it prints once when
 * somebody has asked for one: as it is we who do, it is not for the user.
 */
class Silence {
  /** What prints warnings, while we are in between. */
  #warn: typeof console.warn | null = null;
  #isOver = false;
  readonly #filter = (...args: unknown[]): void => {
    const first = args[0];
    const isIt = !this.#isOver && typeof first === "string" &&
      first.startsWith(WARNING);
    if (!isIt) return this.#warn!.apply(console, args);
    this.#isOver = true;
    this.end();
  };

  begin(): void {
    if (this.#isOver || this.#warn !== null) return;
    this.#warn = console.warn;
    console.warn = mimic(this.#filter, this.#warn);
  }

  end(): void {
    // Somebody else may be in between by now, and calls us.
    if (console.warn !== this.#filter) return;
    console.warn = this.#warn!;
    this.#warn = null;
  }
}

const silence = new Silence();

/** A server whose methods are cooperative: they are its own, and no prototype's. */
function cooperativeServer(server: Deno.HttpServer): Deno.HttpServer {
  const { finished, shutdown } = server;
  const get = cooperateObserved(() => finished);
  Object.defineProperty(
    server,
    "finished",
    property({ get, enumerable: true, configurable: true }),
  );
  server.shutdown = mimic(cooperateRelease(shutdown), shutdown);
  return server;
}
