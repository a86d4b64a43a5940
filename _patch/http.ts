/**
 * The part `http` of `patch()`: `Deno.serve`.
 *
 * Each request is handled in a greenlet of its own, which is named after the request. It starts
 * at once, as the runtime's handlers do, and the server gets its result or its error. It does
 * not belong to the greenlet that called `Deno.serve`: a kill of that one does not stop the
 * server. When the client leaves, the handler goes on, as without `patch()`, unless
 * `killOnDisconnect` is set.
 *
 * @module
 */

import { property } from "../_base/language.ts";
import { runDetached, scopeOf } from "../_hub/current.ts";
import { mimic, patchProperty } from "../_base/properties.ts";
import { killOnce } from "../_hub/kill.ts";
import { cooperateObserved, cooperateRelease } from "./cooperate.ts";
import {
  ClientWatch,
  MICROTASKS,
  requestName,
  silence,
} from "../_hub/requests.ts";
import { OptionsInForce, patchAll } from "./patch_set.ts";
import { Greenlet } from "../gevent.ts";
import { GreenletExit } from "../greenlet.ts";

/** Options of the part `http` of `patch()`. */
export interface HttpOptions {
  /**
   * Whether a handler of `Deno.serve` is killed with a `GreenletExit` when its client leaves.
   * This applies to servers that are made while this `patch()` lasts.
   *
   * @default {false}
   */
  killOnDisconnect?: boolean;
}

/** The current options. */
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

/** Requests that became websockets. Their signals abort although the client is connected. */
const upgraded = new WeakSet<Request>();

/** Patches `Deno.serve`; disposing of the result restores the originals. */
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
          // Added before the upgrade, which aborts the signal.
          if (request instanceof Request) upgraded.add(request);
          try {
            // Outside greenlets, as the socket and its listeners outlive the request.
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
 * Makes the response of a handler that was killed. Hono calls `getResponse()` of an error if it
 * has one, and prints the error otherwise.
 */
function unavailable(): Response {
  return new Response(null, { status: 503 });
}

/** Returns the arguments of `Deno.serve` with the handler replaced; `null` without a handler. */
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
 * Makes a handler that runs each call in a greenlet. It always takes the request, for the
 * greenlet's name and to watch the client; this costs the runtime a microsecond.
 *
 * @param kills Whether the greenlet is killed when the client leaves.
 */
function inGreenlets(handler: Handler, kills: boolean): Handler {
  return (request, info) => {
    const greenlet = new Greenlet<Response>(handler, request, info);
    greenlet.name = requestName(request.method, request.url);
    // The server reports the error.
    scopeOf(greenlet).errorIsHandled = true;
    greenlet.switch(request, info);
    return greenlet.dead
      ? responseOf(greenlet)
      : responseInTheEnd(greenlet, kills ? request : null);
  };
}

/** Returns the response of a handler that has ended, or throws its error. */
function responseOf(greenlet: Greenlet<Response>): Response {
  if (!greenlet.successful()) throw greenlet.exception;
  const { value } = greenlet;
  // A killed handler answers 503. If it threw, the server would print an error for each handler
  // that the end of run() kills.
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
  const watched = request && watch(greenlet, request);
  try {
    await new Promise<void>((resolve) => greenlet.rawlink(() => resolve()));
    return responseOf(greenlet);
  } finally {
    watched?.[Symbol.dispose]();
  }
}

/** Kills the greenlet of a request when its client leaves. */
function watch(greenlet: Greenlet<Response>, request: Request): Disposable {
  return new ClientWatch(request, () => {
    if (upgraded.has(request)) return;
    killOnce([greenlet], new GreenletExit("The client has gone away"));
  });
}

/** Makes the methods of a server cooperative. They are own properties of each server. */
function cooperativeServer(server: Deno.HttpServer): Deno.HttpServer {
  const { finished, shutdown } = server;
  const get = cooperateObserved(() => finished, undefined, "finished");
  Object.defineProperty(
    server,
    "finished",
    property({ get, enumerable: true, configurable: true }),
  );
  server.shutdown = mimic(cooperateRelease(shutdown), shutdown);
  return server;
}
