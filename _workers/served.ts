/**
 * The runtime's HTTP server, and when to shut it down.
 *
 * @module
 */

import { markHandled, then } from "../_base/language.ts";
import { denoFunction } from "../_base/properties.ts";
import { Begun } from "../_hub/begun.ts";
import { runDetached } from "../_hub/current.ts";
import { killOnce } from "../_hub/kill.ts";
import { startTimer, stopTimer } from "../_hub/timers.ts";
import { type Greenlet, spawn } from "../gevent.ts";
import { until } from "../hub.ts";
import { type Quiet, waitForQuiet } from "./quiet.ts";

/** The second argument that the runtime passes to a handler. */
export type Info = Deno.ServeHandlerInfo<Deno.Addr>;

type Serve = (
  options: Record<string, unknown>,
  handler: (request: Request, info: Info) => Response | Promise<Response>,
) => Deno.HttpServer<Deno.Addr>;

/**
 * How many milliseconds a server that stops under a load waits for a quiet moment at most, while
 * new clients keep coming. Until then each response tells its client to close the connection.
 */
export const LINGER = 200;
/**
 * The number of answers within `LOAD_TIME` ms that counts as a load: by then clients keep their
 * connections, and one may have sent its next request.
 */
const LOAD = 4;
const LOAD_TIME = 500;

/**
 * - `serving`
 * - `waiting`: waits for the moment to shut down, and goes on to serve
 * - `shut down`: closes each connection after the response that it waits for
 * - `finished`: all connections are closed
 */
type ServedState = "serving" | "waiting" | "shut down" | "finished";

/** One of the runtime's own servers. */
export class Served {
  readonly #server: Deno.HttpServer<Deno.Addr>;
  readonly #begun = new Begun();
  readonly #finished: Promise<void>;
  #state: ServedState = "serving";
  /** Waits for the moment to shut down. */
  #waiting: Greenlet | null = null;

  constructor(
    options: Record<string, unknown>,
    handler: (request: Request, info: Info) => Response | Promise<Response>,
    gaveUp: (error: unknown) => void,
  ) {
    const serve = denoFunction("serve") as unknown as Serve;
    this.#server = serve({
      ...options,
      onListen() {},
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
   * Stops accepting, and closes idle connections, in a moment in which that loses nothing. The
   * runtime's `shutdown()` does both at once, and fails the reads of bodies that are arriving
   * over HTTP/1. It can't only stop accepting, so the server goes on to serve until then.
   *
   * @param quiet When to do it, at the latest `LINGER` milliseconds after the last body.
   * @param count The number of requests so far; `null` while the body of one is arriving.
   * @param isNow Whether to do it at once.
   */
  shutDown(quiet: Quiet, count: () => number | null, isNow: boolean): void {
    if (this.#state !== "serving") return;
    this.#state = "waiting";
    if (isNow) return this.shutDownAtOnce();
    const waits = () => this.#state === "waiting";
    const waiting = this.#waiting = runDetached(() =>
      spawn(async () => {
        try {
          do {
            await waitForQuiet(quiet, LINGER, waits, count);
          } while (waits() && count() === null);
        } finally {
          this.#waiting = null;
          this.shutDownAtOnce();
        }
      })
    );
    waiting.name = "shutdown of HttpServer";
  }

  /** Stops accepting, and closes idle connections. */
  shutDownAtOnce(): void {
    if (this.#state !== "waiting") return;
    this.#state = "shut down";
    if (this.#waiting !== null) killOnce([this.#waiting]);
    markHandled(this.#begun.watch(() => this.#server.shutdown()));
  }

  /** Waits until all connections are closed, for `ms` milliseconds at most. */
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
   * Leaves behind the connections whose clients don't read their responses. The runtime can't
   * close them any more. They don't keep the process alive.
   */
  leave(): void {
    if (this.#state === "finished") return;
    this.#server.unref();
    this.#begun.unref();
  }
}

/** Counts requests, and tells whether many are answered. */
export class Load {
  #count = 0;
  #answers = 0;
  /** The times at which the answers last were a multiple of `LOAD`, and the multiple before. */
  #last = -Infinity;
  #before = -Infinity;

  /** Must be called for each request. */
  noteRequest(): void {
    this.#count++;
  }

  /** Must be called for each request that is over. */
  noteAnswer(): void {
    if (++this.#answers % LOAD !== 0) return;
    this.#before = this.#last;
    this.#last = performance.now();
  }

  get count(): number {
    return this.#count;
  }

  get isHigh(): boolean {
    return performance.now() - this.#before < 2 * LOAD_TIME;
  }
}
