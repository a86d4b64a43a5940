/**
 * Requests of `node:http2`, for the part `node` of `patch()`.
 *
 * A request belongs to the greenlet that makes it, until its stream has ended. If no code reads
 * its response, it belongs to the greenlet that reads it later. An interrupt does not end its
 * session, as other greenlets may use it.
 *
 * @module
 */

import { EventEmitter } from "node:events";
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
  destroy(error?: unknown): unknown;
}

/** A function to which a stream passes an error. */
type Callback = (error?: unknown) => void;

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
  /** The error that has ended the stream, if an interrupt has. */
  #error: unknown = undefined;

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
    // The runtime fails a write in progress with an error of its own, `ECANCELED`.
    for (const name of ["_write", "_writev"]) {
      override(stream, name, (write) => (...args: unknown[]) => {
        const done = args.pop() as Callback;
        args.push((error?: unknown) => done(error && (this.#error ?? error)));
        return Reflect.apply(write, stream, args);
      });
    }
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
    this.#error = error;
    this.#destroy(error);
    return isTold;
  }

  silence(): void {
    mute(this.#stream);
    this.#destroy();
  }

  /**
   * Destroys the stream, and tells the server at once that the client does not want the response.
   * `close(code)` would first send what was written, and the server may not read it.
   */
  #destroy(error?: unknown): void {
    const stream = this.#stream;
    override(stream, "_destroy", (destroy) => (_error, done: Callback) => {
      Reflect.apply(destroy, stream, [ownAbortError(), () => done(error)]);
    });
    stream.destroy(error);
  }
}

/** The error by which the runtime itself aborts streams. It tells that one from others by its class. */
function ownAbortError(): unknown {
  try {
    return EventEmitter.on(new EventEmitter(), "", {
      signal: AbortSignal.abort(),
    });
  } catch (error) {
    return error;
  }
}
