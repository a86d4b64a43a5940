/**
 * Requests of `node:http` and `node:https`, for the part `node` of `patch()`.
 *
 * A request belongs to the greenlet that makes it, until its response has been read to the
 * end. While no code reads a response, it belongs to no greenlet; then to the one that reads it.
 * A request is over when its connection is handed to the program (`connect`). One that asks for an
 * upgrade, such as that of a WebSocket, belongs to no greenlet: several may share the connection,
 * and a package connects again when it fails.
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

/** The part of `http.ClientRequest` that is used here. */
interface Request extends Emitter {
  /** `null` until a connection is assigned to the request. */
  readonly socket: object | null;
  /** Whether it gets a connection that another request has used. */
  reusedSocket?: boolean;
  readonly method: string;
  readonly protocol: string;
  readonly host: string;
  readonly path: string;
  agent: Agent | undefined;
  getHeader(name: string): unknown;
  destroy(error?: unknown): unknown;
  /** Called with the connection, or with the error if there is none. */
  onSocket?(socket: null, error: unknown): void;
}

/** The part of `http.Agent` that is used here. An agent of a package may lack it. */
interface Agent {
  /** The requests that wait for a connection, by host. */
  readonly requests?: Record<string, Request[] | undefined>;
  /** The connections in use, by host. */
  readonly sockets?: Record<string, Socket[] | undefined>;
}

/** The part of `net.Socket` that is used here. */
interface Socket {
  /** The request that uses the connection. */
  readonly _httpMessage?: unknown;
  // deno-lint-ignore ban-types -- whatever it takes
  listeners(event: string): Function[];
  // deno-lint-ignore ban-types -- whatever it takes
  removeListener(event: string, listener: Function): unknown;
}

/** The part of `stream.Readable` that is used here. */
export interface Readable extends Emitter {
  readonly destroyed: boolean;
  readonly readableFlowing: boolean | null;
}

/** The part of `http.IncomingMessage` that is used here. */
interface Response extends Readable {
  readonly readableEnded: boolean;
  destroy(error?: unknown): unknown;
}

/** Lets each new request belong to the greenlet that makes it, until the patch is undone. */
export function watchRequests(disposals: Disposals): void {
  const seen = new WeakSet<Request>();
  // Node 20 has only the second one: it tells when the program has ended the request.
  for (const event of ["created", "start"]) {
    listen<{ request: Request }>(
      disposals,
      `http.client.request.${event}`,
      ({ request }) => {
        if (seen.has(request)) return;
        seen.add(request);
        if (request.getHeader("upgrade") !== undefined) return;
        const scope = owningScope();
        if (scope !== null) new OwnedRequest(request, scope);
      },
    );
  }
}

/**
 * Takes a request out of the queue for a connection of its agent that another request uses.
 * Returns whether it was in one.
 */
function leaveQueue(request: Request): boolean {
  const queues = request.agent?.requests ?? {};
  for (const [name, queue] of Object.entries(queues)) {
    const at = queue?.indexOf(request) ?? -1;
    if (at < 0) continue;
    queue!.splice(at, 1);
    // As the agent does. It takes an entry for a request that waits.
    if (queue!.length === 0) delete queues[name];
    return true;
  }
  return false;
}

/**
 * Removes the listener that the runtime leaves on a used connection if the request is destroyed
 * before it uses it (2.9.6).
 */
function dropListener(request: Request): void {
  const socket = Object.values(request.agent?.sockets ?? {}).flat()
    .find((socket) => socket?._httpMessage === request);
  if (socket === undefined) return;
  request.on("close", () => {
    const listener = socket.listeners("error")
      .find(({ name }) => name === ERROR_LISTENER);
    if (listener !== undefined) socket.removeListener("error", listener);
  });
}

/** The name of the runtime's listener for errors of the connection of a request. */
const ERROR_LISTENER = "socketErrorListener";

/** After one of these events, a request is over. */
const LAST_EVENTS: ReadonlySet<unknown> = new Set([
  "close",
  "connect",
  "error",
  "upgrade",
]);

/** After one of these events, a response is over. */
const LAST_EVENTS_OF_RESPONSE: ReadonlySet<unknown> = new Set([
  "close",
  "end",
  "error",
]);

class OwnedRequest implements Ending {
  readonly #request: Request;
  #response: Response | null = null;
  readonly #operation: ForeignOperation;
  /**
   * The last events that it has emitted after it was ended without a connection: the runtime emits
   * them again when there is one. Before, `null`.
   */
  #lastEvents: Set<unknown> | null = null;

  constructor(request: Request, scope: Scope) {
    this.#request = request;
    this.#operation = new ForeignOperation(scope, this);
    const operation = this.#operation;
    override(request, "emit", (emit) => (...args: unknown[]) => {
      const [event] = args;
      if (LAST_EVENTS.has(event)) operation.over();
      if (this.#isRepeated(event)) return false;
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
    // The runtime would destroy the response with the error "aborted".
    override(
      response,
      "destroy",
      (destroy) => () => destroy.call(response, error),
    );
    // Later, as packages expect the error of the request first. Needed if the whole response has
    // arrived: the runtime does not end it then.
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
    if (request.socket) {
      // Else the runtime sends the request again by a new connection (2.9.6): it takes the used one
      // for one that the server has closed.
      request.reusedSocket = false;
      request.destroy(error);
      return;
    }
    const isPassedOn = request.reusedSocket || leaveQueue(request);
    if (request.reusedSocket) dropListener(request);
    request.destroy(error);
    // The connection that its agent opens for it is closed then. It would go to the pool, and
    // the runtime leaves listeners on it. One that other requests have used is passed on.
    if (!isPassedOn) request.agent = undefined;
    // The runtime tells of the error only when there is a connection. The agent may open it for
    // long, or have no place for it. An agent that can't open one calls the same method.
    this.#lastEvents = new Set();
    request.onSocket?.(null, error);
  }

  /** Whether a request that was ended without a connection emits one of its last events again. */
  #isRepeated(event: unknown): boolean {
    if (this.#lastEvents === null || !LAST_EVENTS.has(event)) return false;
    if (this.#lastEvents.has(event)) return true;
    this.#lastEvents.add(event);
    return false;
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
 * Releases a response that no code reads from its greenlet. The operation then belongs to the
 * greenlet that reads the response later.
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
