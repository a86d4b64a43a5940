/**
 * Requests of the runtime's HTTP server: their names, and whether their clients have gone.
 *
 * @module
 */

import { mimic } from "../_base/properties.ts";

/**
 * The client of a request is watched after this many microtasks. Reading `request.signal`
 * doubles the cost of a small request, and most handlers that wait for nothing have ended by
 * then. It can't wait for a turn of the event loop: over HTTP/2, a signal that is first read
 * after the client has gone is never aborted.
 */
export const MICROTASKS = 10;

/** The method and the path, without the query. */
export function requestName(method: string, url: string): string {
  const host = url.indexOf("://") + 3;
  // The URL of a CONNECT request has no path.
  const start = Math.max(url.indexOf("/", host), host);
  const end = url.indexOf("?", start);
  return `${method} ${url.slice(start, end < 0 ? undefined : end)}`;
}

/** The response in place of that of a killed handler. */
export function unavailable(): Response {
  return new Response("Service Unavailable", { status: 503 });
}

/** Calls a function when the client of a request goes away, until it is disposed of. */
export class ClientWatch implements Disposable {
  readonly #signal: AbortSignal;
  readonly #gone: () => void;

  /** @param gone Called once; at once if the client has gone already. */
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
 * Suppresses the warning that the runtime prints when `request.signal` is first read: the
 * library has read it, not the program.
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
    // Another function may have replaced ours by now, and may call it.
    if (console.warn !== this.#filter) return;
    console.warn = this.#warn!;
    this.#warn = null;
  }
}

/** The object that suppresses the warning. */
export const silence: Silence = new Silence();
