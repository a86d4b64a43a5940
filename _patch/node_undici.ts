/**
 * Requests of the package `undici`, for the part `node` of `patch()`.
 *
 * A request belongs to the greenlet that makes it, until its response has arrived in full. One that
 * asks for an upgrade belongs to no greenlet, as in `node:http`.
 *
 * @module
 */

import { AsyncResource } from "node:async_hooks";
import type { Disposals } from "../_base/disposals.ts";
import { findSymbol } from "../_base/runtime.ts";
import { listen } from "./channels.ts";
import { type Ending, ForeignOperation, owningScope } from "./foreign.ts";

/** The part of a request of undici that is used here. */
interface Request {
  readonly method: string;
  readonly origin: unknown;
  readonly path: string;
  /** The protocol that it asks for, such as that of a WebSocket. */
  readonly upgrade?: string | null;
  /** Ends the request and closes its connection; missing before it has a connection. */
  abort?: ((error: unknown) => void) | null;
  /** Marks the request as failed: its client does not send it then. */
  onError(error: unknown): void;
}

/** Lets each new request belong to the greenlet that makes it, until the patch is undone. */
export function watchUndici(disposals: Disposals): void {
  const operations = new WeakMap<Request, ForeignOperation>();
  listen<{ request: Request }>(
    disposals,
    "undici:request:create",
    ({ request }) => {
      if (request.upgrade) return;
      inContextOf(request, () => {
        const scope = owningScope();
        if (scope === null) return;
        const ending = new RequestEnding(request);
        operations.set(request, new ForeignOperation(scope, ending));
      });
    },
  );
  const over = ({ request }: { request: Request }) =>
    operations.get(request)?.over();
  // `trailers` is published at the end of each response, even without trailers.
  listen(disposals, "undici:request:trailers", over);
  listen(disposals, "undici:request:error", over);
}

/**
 * Calls a function in the context of the call that a request is for. A pool that had no connection
 * for it makes the request later, when another one has ended.
 */
function inContextOf(request: Request, call: () => void): void {
  const name = findSymbol(request, "handler");
  const handler = name === undefined ? null : Reflect.get(request, name);
  // Functions such as `request()` have one that restores the context; `fetch()` has none.
  if (handler instanceof AsyncResource) handler.runInAsyncScope(call);
  else call();
}

class RequestEnding implements Ending {
  readonly #request: Request;

  constructor(request: Request) {
    this.#request = request;
  }

  describe(): string {
    const { method, origin, path } = this.#request;
    return `${method} ${origin}${path}`;
  }

  end(error: unknown): boolean {
    const request = this.#request;
    if (request.abort) request.abort(error);
    else request.onError(error);
    return true;
  }

  silence(): void {
    // The client skips a failed request, and does not call its handler.
    Object.assign(this.#request, { aborted: true });
  }
}
