/**
 * Requests of `node:http` and `node:https`, for the part `node` of `patch()`.
 *
 * A request belongs to the greenlet that makes it, until its response has been read to the
 * end. A response that no code reads is let go of; it belongs to the greenlet that reads it
 * later. A request whose connection is handed to the program (`upgrade`, `connect`) is over.
 *
 * @module
 */

import type { Disposals } from "../_base/disposals.ts";
import { setImmediate } from "../_base/immediate.ts";
import { listen } from "./channels.ts";
import {
  type Emitter,
  type Ending,
  ForeignOperation,
  mute,
  override,
  owningScope,
  tolerateErrors,
} from "./foreign.ts";
import { interruptibleScope } from "../_hub/current.ts";
import type { Scope } from "../_hub/scope.ts";

/** `http.ClientRequest`, as far as it is used here. */
interface Request extends Emitter {
  /** `null` before a connection is assigned to it. */
  readonly socket: object | null;
  readonly method: string;
  readonly protocol: string;
  readonly host: string;
  readonly path: string;
  agent: unknown;
  getHeader(name: string): unknown;
  destroy(error?: unknown): unknown;
}

/** `stream.Readable`, as far as it is used here. */
export interface Readable extends Emitter {
  readonly destroyed: boolean;
  readonly readableFlowing: boolean | null;
}

/** `http.IncomingMessage`, as far as it is used here. */
interface Response extends Readable {
  readonly readableEnded: boolean;
  destroy(error?: unknown): unknown;
}

/** Makes each request belong to the greenlet that makes it, until the stack is disposed of. */
export function watchRequests(disposals: Disposals): void {
  listen<{ request: Request }>(
    disposals,
    "http.client.request.created",
    ({ request }) => {
      const scope = owningScope();
      if (scope !== null) new OwnedRequest(request, scope);
    },
  );
}

/** The events after which a request waits for nothing any more. */
const LAST_EVENTS: ReadonlySet<unknown> = new Set([
  "close",
  "connect",
  "error",
  "upgrade",
]);

/** The events after which a response has nothing more to be waited for. */
const LAST_EVENTS_OF_RESPONSE: ReadonlySet<unknown> = new Set([
  "close",
  "end",
  "error",
]);

class OwnedRequest implements Ending {
  readonly #request: Request;
  #response: Response | null = null;
  readonly #operation: ForeignOperation;

  constructor(request: Request, scope: Scope) {
    this.#request = request;
    this.#operation = new ForeignOperation(scope, this);
    const operation = this.#operation;
    override(request, "emit", (emit) => (...args: unknown[]) => {
      const [event] = args;
      if (LAST_EVENTS.has(event)) operation.over();
      if (event === "response") this.#adopt(args[1] as Response);
      const isHeard = operation.tell(() => Reflect.apply(emit, request, args));
      if (event === "response") restUnlessRead(this.#response!, operation);
      return isHeard;
    });
  }

  describe(): string {
    const { method, protocol, host, path } = this.#request;
    const name = this.#request.getHeader("host") ?? host;
    return `${method} ${protocol}//${name}${path}`;
  }

  end(error: unknown): boolean {
    const request = this.#request;
    const response = this.#response;
    const isTold = request.listenerCount("error") > 0 ||
      (response?.listenerCount("error") ?? 0) > 0;
    tolerateErrors(request);
    this.#destroy(error);
    if (response === null) return isTold;
    // The runtime would have it fail with "aborted".
    override(
      response,
      "destroy",
      (destroy) => () => destroy.call(response, error),
    );
    // The request tells first, as packages expect it. If the whole response has arrived, the
    // runtime does not end it.
    setImmediate(() => {
      if (!response.readableEnded) response.destroy();
    });
    return isTold;
  }

  silence(): void {
    mute(this.#request);
    this.#destroy();
  }

  #destroy(error?: unknown): void {
    const request = this.#request;
    request.destroy(error);
    // The connection that its agent opens for it is closed then. It would go to the pool, and
    // the runtime leaves listeners on it.
    if (!request.socket) request.agent = undefined;
  }

  #adopt(response: Response): void {
    this.#response = response;
    const operation = this.#operation;
    override(response, "emit", (emit) => (...args: unknown[]) => {
      if (LAST_EVENTS_OF_RESPONSE.has(args[0])) operation.over();
      return operation.tell(() => Reflect.apply(emit, response, args));
    });
  }
}

/**
 * Lets go of a response that no code reads. The operation belongs to the greenlet that reads
 * it later.
 */
export function restUnlessRead(
  response: Readable,
  operation: ForeignOperation,
): void {
  const isRead = response.readableFlowing !== null ||
    response.listenerCount("readable") > 0;
  if (isRead || response.destroyed) return;
  operation.rest();
  for (const name of ["read", "resume"]) {
    override(response, name, (original) =>
      function (this: unknown) {
        if (this === response) operation.wait(interruptibleScope());
        return Reflect.apply(original, this, arguments);
      });
  }
}
