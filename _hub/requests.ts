/**
 * Requests of the runtime's HTTP server: their names, and whether their clients have gone.
 *
 * @module
 */

import { mimic } from "../_base/properties.ts";

/**
 * How many microtasks a handler may take before its client is watched. To ask for
 * `request.signal` doubles what a small request costs, and by then most handlers have
 * ended that wait for nothing. But not until the event loop has turned: over HTTP/2 one that
 * asks after the client has gone is not told.
 */
export const MICROTASKS = 10;

/** The method and the path, without the query. */
export function requestName({ method, url }: Request): string {
  const host = url.indexOf("://") + 3;
  // There is none in that of CONNECT.
  const start = Math.max(url.indexOf("/", host), host);
  const end = url.indexOf("?", start);
  return `${method} ${url.slice(start, end < 0 ? undefined : end)}`;
}

/** The answer in place of a handler that was killed. */
export function unavailable(): Response {
  return new Response("Service Unavailable", { status: 503 });
}

/** Calls back when the client of a request goes away, until it is disposed of. */
export class ClientWatch implements Disposable {
  readonly #signal: AbortSignal;
  readonly #gone: () => void;

  /** @param gone Called once, at once if the client has gone. */
  constructor(request: Request, gone: () => void) {
    silence.begin();
    this.#signal = request.signal;
    this.#gone = gone;
    this.#signal.addEventListener("abort", gone);
    if (this.#signal.aborted) gone();
  }

  [Symbol.dispose](): void {
    // Unless told otherwise, the runtime aborts it after a response as well.
    this.#signal.removeEventListener("abort", this.#gone);
  }
}

const WARNING = "Deno.serve: request.signal aborts on successful responses";

/**
 * Stops the runtime's warning of what a request's signal does, which it prints once when a
 * signal was asked for: as it is we who do, it is not for the user.
 */
export class Silence {
  /** The `console.warn` of the program, while ours is in its place. */
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

/** The one that stands between the runtime and its warning. */
export const silence: Silence = new Silence();
