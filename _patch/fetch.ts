/**
 * The part `fetch` of `patch()`: `fetch`, and the bodies of requests, responses and blobs.
 *
 * The runtime reads a body with functions of its own. Only the signal of the `fetch` can end
 * them, so we keep that signal with the response. A clone, or a request that a server
 * receives, has no such signal: there the runtime reads a stream of ours, to which we pass on
 * the chunks of the body.
 *
 * @module
 */

import {
  argumentAt,
  bare,
  canIterateArrays,
  ignore,
  markHandled,
  noOptions,
  then,
} from "../_base/language.ts";
import { findSymbol } from "../_base/runtime.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { getOriginal } from "../_base/properties.ts";
import { operate } from "../_hub/operation.ts";
import { classOf } from "../_hub/waits.ts";
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

/** The methods that read a body to its end. */
const READERS = [
  "arrayBuffer",
  "blob",
  "bytes",
  "formData",
  "json",
  "text",
] as const;

/** The request of a response that was fetched in a greenlet. */
interface Connection {
  /** Aborts the request, and later the body. */
  readonly abort: AbortController;
  /** The body that was fetched: a response that was cloned has another one. */
  readonly body: ReadableStream;
}

/**
 * Keeps the connection in a private field of the response, as the entries of a `WeakMap` are
 * work for the garbage collector.
 */
class ConnectionOf extends Stamp {
  #connection: Connection | undefined;

  static get(response: object): Connection | undefined {
    return #connection in response ? response.#connection : undefined;
  }

  static set(response: object, connection: Connection): void {
    // A package's `fetch` may return the same response twice.
    if (!(#connection in response)) new ConnectionOf(response);
    (response as ConnectionOf).#connection = connection;
  }
}

/** Patches `fetch` and bodies; disposing of the result restores the originals. */
export function patchFetch(): Disposable {
  return patchAll((patches) => {
    patches.replace<Fetch>(globalThis, "fetch", cooperativeFetch);
    const inner = findSymbol(new Request("http://a/"), "request");
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
        [Response, findSymbol(new Response(), "response")],
      ] as const
    ) {
      patches.replace<Clone>(
        prototype,
        "clone",
        (clone) => symbol === undefined ? clone : passingOn(clone, symbol),
      );
    }
    // A blob is in memory, but a kill must end a loop that only reads blobs.
    for (const name of ["arrayBuffer", "bytes", "text"]) {
      patches.replace<ReadBlob>(
        Blob.prototype,
        name,
        (read) => cooperate(read),
      );
    }
  });
}

/** Notes that the two bodies after a `clone()` pass on the chunks of the original body. */
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

/** Returns the body of a request or a response, if it is a stream and streams are patched. */
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
    // If no signal can be passed, the request goes on after an interrupt.
    const promise = Reflect.apply(
      original,
      this,
      canIterateArrays() ? addSignalToArgs(args, abort.signal) : args,
    );
    then(promise, (response) => {
      const body = bodyOf(response);
      if (body !== null) ConnectionOf.set(response, { abort, body });
    }, ignore);
    return operate(
      scope,
      promise,
      () => `fetch(${addressOf(args[0])})`,
      (error) => runDetached(() => abort.abort(error)),
      (response) => {
        const body = bodyOf(response);
        if (body !== null) cancel(body, undefined);
      },
    );
  };
}

/** The URL of a request, as `fetch` is given it. */
function addressOf(input: unknown): string {
  return input instanceof Request ? input.url : String(input);
}

/** Returns the body of a response. A package's `fetch` may return something else. */
function bodyOf(response: unknown): ReadableStream | null {
  return response instanceof Response ? response.body : null;
}

/** Returns the arguments of `fetch` with a signal that `ours` and the caller's own abort. */
function addSignalToArgs(args: unknown[], ours: AbortSignal): unknown[] {
  const input = argumentAt(args, 0);
  const init = argumentAt(args, 1);
  const options = init ?? noOptions();
  const isOdd = typeof options !== "object" && typeof options !== "function";
  // The runtime throws its own error for these.
  if (args.length === 0 || isOdd) return args;
  if (init === undefined && typeof input === "string") {
    return [input, bare({ signal: ours })];
  }
  // The options may be of any class, for example a request. A proxy lets the runtime read each
  // property itself, and throw what a getter throws.
  const get = (_: unknown, name: PropertyKey): unknown => {
    const value = Reflect.get(options, name);
    return name === "signal" ? either(value, input, ours) : value;
  };
  return [input, new Proxy(noOptions(), bare({ get }))];
}

function either(theirs: unknown, input: unknown, ours: AbortSignal): unknown {
  if (theirs === undefined && input instanceof Request) theirs = input.signal;
  if (theirs === undefined || theirs === null) return ours;
  // The runtime throws its own error if this is not a signal.
  return theirs instanceof AbortSignal ? eitherOf(theirs, ours) : theirs;
}

function cooperativeRead(
  original: Read,
  prototype: Request | Response,
  packageBody: Read,
  inner: symbol | undefined,
): Read {
  const text = `${classOf(prototype)}.${original.name}()`;
  return function () {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, []);
    const due = checkpoint(scope);
    const body = unreadBody(prototype, this, inner);
    if (due !== null) {
      // An interrupt before the read closes the connection as well.
      if (body !== null) {
        then(due, undefined, (error) => cancel(body, error));
      }
      return due;
    }
    if (body === null) return Reflect.apply(original, this, []);
    if (ConnectionOf.get(this)?.body === body) {
      // Refers to the response, as the runtime drops the request's signal with it.
      return operate(
        scope,
        original.call(this),
        text,
        (error) =>
          runDetached(() => ConnectionOf.get(this)!.abort.abort(error)),
      );
    }
    const headers = Reflect.get(prototype, "headers", this) as Headers;
    const type = headers.get("content-type");
    const relay = new Relay(body);
    const passedOn = new Response(
      // With a high-water mark of 0 it reads nothing before it is read itself.
      new ReadableStream(
        relay as unknown as UnderlyingDefaultSource,
        bare({ highWaterMark: 0 }),
      ),
      type === null ? undefined : bare({ headers: { "content-type": type } }),
    );
    return operate(
      scope,
      packageBody.call(passedOn),
      text,
      (error) => relay.end(error),
    );
  };
}

/** Returns the body to read; `null` if there is none, or if it can't be read. */
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
    // The runtime throws its own error for this.
    return null;
  }
}

/** The runtime's data of a request. */
interface Inner {
  readonly body: { readonly streamOrStatic: unknown } | null;
}

/**
 * Whether the body of a request is not a stream yet, as with nearly all requests that a server
 * gets. The runtime then reads it in 1 µs; we would need 15. If the symbol has changed, every
 * body counts as a stream.
 */
function isWhole(of: object, inner: symbol | undefined): boolean {
  const whole = inner === undefined ? undefined : bodyIn(of, inner);
  return whole !== undefined && !(whole instanceof ReadableStream);
}

/** Returns the body as the runtime keeps it. */
function bodyIn(of: object, inner: symbol): unknown {
  return (of as Record<symbol, Inner | undefined>)[inner]?.body?.streamOrStatic;
}

/** The source of a stream that passes on the chunks of a body, and that we can end. */
class Relay {
  // Set, so that they are not looked up in a prototype that a program has changed.
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
    // The body of a clone ends only with all other clones, which may never be read.
    leftAlone(this.#body);
  }
}

function cancel(
  body: ReadableStream | ReadableStreamDefaultReader,
  error: unknown,
): void {
  // Functions of a user's stream run outside greenlets, and are not interrupted.
  markHandled(runDetached(() => getOriginal(body, "cancel").call(body, error)));
}
