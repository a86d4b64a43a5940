/**
 * Requests of `node:http2`, for the part `node` of `patch()`.
 *
 * A request belongs to the greenlet that makes it, until its stream has ended. If no code reads
 * its response, it belongs to the greenlet that reads it later. An interrupt does not end its
 * session, as other greenlets may use it.
 *
 * @module
 */

import type { Disposals } from "../_base/disposals.ts";
import type { Scope } from "../_hub/scope.ts";
import { listen } from "./channels.ts";
import {
  type Ending,
  ForeignOperation,
  mute,
  override,
  owningScope,
  tolerateErrors,
} from "./foreign.ts";
import { type Readable, restUnlessRead } from "./node_http.ts";

/** The part of `http2.ClientHttp2Stream` that is used here. */
interface Stream extends Readable {
  close(code: number): void;
  destroy(error?: unknown): unknown;
}

/** The error code with which a client tells the server that it does not want the response. */
const CANCEL = 8;

/** Lets each new request belong to the greenlet that makes it, until the patch is undone. */
export function watchStreams(disposals: Disposals): void {
  listen<{ stream: Stream; headers: Record<string, unknown> }>(
    disposals,
    "http2.client.stream.created",
    ({ stream, headers }) => {
      const scope = owningScope();
      if (scope !== null) new OwnedStream(stream, headers, scope);
    },
  );
}

class OwnedStream implements Ending {
  readonly #stream: Stream;
  readonly #headers: Record<string, unknown>;

  constructor(stream: Stream, headers: Record<string, unknown>, scope: Scope) {
    this.#stream = stream;
    this.#headers = headers;
    const operation = new ForeignOperation(scope, this);
    override(stream, "emit", (emit) => (...args: unknown[]) => {
      const [event] = args;
      if (event === "end" || event === "close" || event === "error") {
        operation.over();
      }
      const isHeard = operation.tell(() => Reflect.apply(emit, stream, args));
      if (event === "response") restUnlessRead(stream, operation);
      return isHeard;
    });
  }

  describe(): string {
    const { ":method": method = "GET", ":scheme": scheme = "http" } =
      this.#headers;
    const { ":authority": host, ":path": path = "/" } = this.#headers;
    return `${method} ${scheme}://${host}${path}`;
  }

  end(error: unknown): boolean {
    const stream = this.#stream;
    const isTold = stream.listenerCount("error") > 0;
    tolerateErrors(stream);
    stream.close(CANCEL);
    stream.destroy(error);
    return isTold;
  }

  silence(): void {
    mute(this.#stream);
    this.#stream.close(CANCEL);
    this.#stream.destroy();
  }
}
