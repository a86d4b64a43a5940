/**
 * The part `fetch` of `patch()`: `fetch`, and the bodies of requests, responses and blobs.
 *
 * The runtime collects a body by functions of its own, which can be ended only by the
 * signal of the `fetch` that the body comes by: so we keep that with the response. Where
 * there is none, as with a clone or with what a server receives, the runtime collects what
 * we pass on to it, chunk by chunk.
 *
 * @module
 */

import {
  argumentAt,
  bare,
  canIterateArrays,
  markHandled,
  noOptions,
  then,
} from "../_base/language.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { getOriginal } from "../_base/properties.ts";
import { operate } from "../_hub/operation.ts";
import { eitherOf } from "../_hub/cancelling.ts";
import { cooperate } from "./cooperate.ts";
import { patchAll } from "./patch_set.ts";
import { Stamp } from "../_base/stamp.ts";
import { findSource, leftAlone, passOn } from "./streams_rest.ts";
import { areStreamsKnown } from "./streams_slots.ts";

type Fetch = (this: unknown, ...args: unknown[]) => Promise<Response>;
type Read = (this: Request | Response) => Promise<unknown>;
type Clone = (this: Request | Response) => Request | Response;
type ReadBlob = (this: Blob) => Promise<unknown>;

/** What reads a body to its end. */
const READERS = [
  "arrayBuffer",
  "blob",
  "bytes",
  "formData",
  "json",
  "text",
] as const;

/** What a response came by that was fetched in a greenlet. */
interface Connection {
  /** Of the request, and then of the body. */
  readonly abort: AbortController;
  /** The body as it came: a response that was cloned has another one. */
  readonly body: ReadableStream;
}

/**
 * Where that is kept: in a private field of the response, as the entries of a `WeakMap`
 * are work for the garbage collector.
 */
class ConnectionOf extends Stamp {
  #connection: Connection | undefined;

  static get(response: object): Connection | undefined {
    return #connection in response ? response.#connection : undefined;
  }

  static set(response: object, connection: Connection): void {
    // A `fetch` of somebody else's may give one response twice.
    if (!(#connection in response)) new ConnectionOf(response);
    (response as ConnectionOf).#connection = connection;
  }
}

/** Patches `fetch` and bodies; disposing of what it returns restores the originals. */
export function patchFetch(): Disposable {
  return patchAll((patches) => {
    patches.replace<Fetch>(globalThis, "fetch", cooperativeFetch);
    const inner = innerOf(new Request("http://a/"), "request");
    for (const name of READERS) {
      const package_: Read = getOriginal(Response.prototype, name);
      for (const { prototype } of [Request, Response]) {
        patches.replace<Read>(
          prototype,
          name,
          (read) => cooperativeRead(read, prototype, package_, inner),
        );
      }
    }
    for (
      const [{ prototype }, symbol] of [
        [Request, inner],
        [Response, innerOf(new Response(), "response")],
      ] as const
    ) {
      patches.replace<Clone>(
        prototype,
        "clone",
        (clone) => symbol === undefined ? clone : passingOn(clone, symbol),
      );
    }
    // They are in memory, and yet a loop of nothing else must not be deaf to a kill.
    for (const name of ["arrayBuffer", "bytes", "text"]) {
      patches.replace<ReadBlob>(
        Blob.prototype,
        name,
        (read) => cooperate(read),
      );
    }
  });
}

/** Under which symbol the runtime keeps what a request or a response is. */
function innerOf(it: object, name: string): symbol | undefined {
  return Object.getOwnPropertySymbols(it).find(({ description }) =>
    description === name
  );
}

/** Tells of the two bodies of a clone that they pass on what was one body before. */
function passingOn(original: Clone, inner: symbol): Clone {
  return function () {
    const before = streamIn(this, inner);
    if (before !== undefined) findSource(before);
    const clone = original.call(this);
    const branches = [streamIn(this, inner), streamIn(clone, inner)];
    if (before !== undefined && !branches.includes(undefined)) {
      passOn(before, branches as ReadableStream[]);
    }
    return clone;
  };
}

/** The body of a request or a response, if it is a stream, where streams are patched. */
function streamIn(
  of: Request | Response,
  inner: symbol,
): ReadableStream | undefined {
  const body = areStreamsKnown() ? bodyIn(of, inner) : undefined;
  return body instanceof ReadableStream ? body : undefined;
}

function cooperativeFetch(original: Fetch): Fetch {
  return function (...args) {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, args);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const abort = new AbortController();
    // Where no signal can be given, it goes on when its caller is interrupted.
    const promise = Reflect.apply(
      original,
      this,
      canIterateArrays() ? withSignal(args, abort.signal) : args,
    );
    then(promise, (response) => {
      const body = bodyOf(response);
      if (body !== null) ConnectionOf.set(response, { abort, body });
    }, ignore);
    return operate(
      scope,
      promise,
      (error) => runDetached(() => abort.abort(error)),
      (response) => {
        const body = bodyOf(response);
        if (body !== null) cancel(body, undefined);
      },
    );
  };
}

/** What a `fetch` of somebody else's gives need not be a response. */
function bodyOf(response: unknown): ReadableStream | null {
  return response instanceof Response ? response.body : null;
}

/** The arguments of `fetch`, with a signal that aborts as well as the caller's own. */
function withSignal(args: unknown[], ours: AbortSignal): unknown[] {
  const input = argumentAt(args, 0);
  const init = argumentAt(args, 1);
  const options = init ?? noOptions();
  const isOdd = typeof options !== "object" && typeof options !== "function";
  // For the runtime to complain of.
  if (args.length === 0 || isOdd) return args;
  if (init === undefined && typeof input === "string") {
    return [input, bare({ signal: ours })];
  }
  // The options may be of any class, another request among them: they are read by the
  // runtime, one by one, and what they throw then is its business.
  const get = (_: unknown, name: PropertyKey): unknown => {
    const value = Reflect.get(options, name);
    return name === "signal" ? either(value, input, ours) : value;
  };
  return [input, new Proxy(noOptions(), bare({ get }))];
}

function either(theirs: unknown, input: unknown, ours: AbortSignal): unknown {
  if (theirs === undefined && input instanceof Request) theirs = input.signal;
  if (theirs === undefined || theirs === null) return ours;
  // What is no signal the runtime complains of.
  return theirs instanceof AbortSignal ? eitherOf(theirs, ours) : theirs;
}

function cooperativeRead(
  original: Read,
  prototype: Request | Response,
  packageBody: Read,
  inner: symbol | undefined,
): Read {
  return function () {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, []);
    const due = checkpoint(scope);
    const body = unreadBody(prototype, this, inner);
    if (due !== null) {
      // Whoever is killed before it can read leaves no connection behind either.
      if (body !== null) {
        then(due, undefined, (error) => cancel(body, error));
      }
      return due;
    }
    if (body === null) return Reflect.apply(original, this, []);
    if (ConnectionOf.get(this)?.body === body) {
      // The response has to stay alive: the runtime keeps the request's own signal by it.
      return operate(
        scope,
        original.call(this),
        (error) =>
          runDetached(() => ConnectionOf.get(this)!.abort.abort(error)),
      );
    }
    const headers = Reflect.get(prototype, "headers", this) as Headers;
    const type = headers.get("content-type");
    const relay = new Relay(body);
    const passedOn = new Response(
      // It takes nothing before it is asked.
      new ReadableStream(
        relay as unknown as UnderlyingDefaultSource,
        bare({ highWaterMark: 0 }),
      ),
      type === null ? undefined : bare({ headers: { "content-type": type } }),
    );
    return operate(
      scope,
      packageBody.call(passedOn),
      (error) => relay.end(error),
    );
  };
}

/** A body that has to be waited for; `null` if there is none, or none to be had. */
function unreadBody(
  prototype: object,
  of: Request | Response,
  inner: symbol | undefined,
): ReadableStream | null {
  try {
    if (isWhole(of, inner)) return null;
    const body: ReadableStream | null = Reflect.get(prototype, "body", of);
    const isGone = body === null || body.locked ||
      Reflect.get(prototype, "bodyUsed", of);
    return isGone ? null : body;
  } catch {
    // For the runtime to complain of.
    return null;
  }
}

/** What a request keeps under a symbol of the runtime's. */
interface Inner {
  readonly body: { readonly streamOrStatic: unknown } | null;
}

/**
 * Whether the body of a request is no stream yet, as nearly every one that a server gets:
 * then the runtime needs 1 µs for it, and we would need 15. Where the symbol has changed,
 * all of them are streams to us.
 */
function isWhole(of: object, inner: symbol | undefined): boolean {
  const whole = inner === undefined ? undefined : bodyIn(of, inner);
  return whole !== undefined && !(whole instanceof ReadableStream);
}

/** The body as the runtime keeps it. */
function bodyIn(of: object, inner: symbol): unknown {
  return (of as Record<symbol, Inner | undefined>)[inner]?.body?.streamOrStatic;
}

/** Passes on what a body brings, as the source of a stream that we can end. */
class Relay {
  // What it does not have is not looked for in the prototype.
  readonly type = undefined;
  readonly cancel = undefined;
  readonly autoAllocateChunkSize = undefined;
  readonly #body: ReadableStream;
  readonly #reader: ReadableStreamDefaultReader;
  readonly #read: ReadableStreamDefaultReader["read"];
  #controller!: ReadableStreamDefaultController;

  constructor(body: ReadableStream) {
    this.#body = body;
    this.#reader = new ReadableStreamDefaultReader(body);
    this.#read = getOriginal(this.#reader, "read");
  }

  start(controller: ReadableStreamDefaultController): void {
    this.#controller = controller;
  }

  async pull(controller: ReadableStreamDefaultController): Promise<void> {
    const { done, value } = await this.#read.call(this.#reader);
    if (done) controller.close();
    else controller.enqueue(value);
  }

  end(error: unknown): void {
    this.#controller.error(error);
    cancel(this.#reader, error);
    // That of a clone ends when all of them have, which nobody may read.
    leftAlone(this.#body);
  }
}

function cancel(
  body: ReadableStream | ReadableStreamDefaultReader,
  error: unknown,
): void {
  // What a stream of the user's does then is nobody's part, and is not interrupted.
  markHandled(runDetached(() => getOriginal(body, "cancel").call(body, error)));
}

function ignore(): void {}
