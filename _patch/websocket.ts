/**
 * The part `websocket` of `patch()`: `WebSocketStream`, and classes that have events for their
 * messages. Their listeners run outside greenlets; see `detached.ts`.
 *
 * @module
 */

import { argumentAt, bare, markHandled, noOptions } from "../_base/language.ts";
import { detached, onFirstInstanceOf } from "./detached.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import { getOriginal } from "../_base/properties.ts";
import { addSignal } from "../_hub/cancelling.ts";
import { cooperateObserved } from "./cooperate.ts";
import { patchFileReader, patchGlobalEvents, patchKv } from "./callbacks.ts";
import { patchAll, type Patches } from "./patch_set.ts";

/** A class of sockets. Deno has `WebSocketStream` only with `--unstable-net`. */
interface SocketClass {
  (...args: unknown[]): unknown;
  readonly prototype: { readonly closed: Promise<unknown> };
}

/** The controllers that end attempts to connect, for sockets that greenlets have made. */
const attempts = new WeakMap<object, AbortController>();

/** Patches the classes; disposing of the result restores the originals. */
export function patchWebsocket(): Disposable {
  return patchAll((patches) => {
    if ("WebSocketStream" in globalThis) patchWebSocketStream(patches);
    for (const name of ["WebSocket", "EventSource"]) {
      // These classes have no method for their events that could be patched.
      if (name in globalThis) {
        patches.replaceClass(globalThis, name, runDetached);
      }
    }
    // Node has no `Worker`.
    const { Worker, MessagePort, BroadcastChannel }: Partial<
      typeof globalThis
    > = globalThis;
    for (const one of [Worker, MessagePort, BroadcastChannel]) {
      if (one === undefined) continue;
      patches.replace(one.prototype, "dispatchEvent", detached);
    }
    patchGlobalEvents(patches);
    patchFileReader(patches);
    patchKv(patches);
    // The `Worker` of `node:worker_threads`
    onFirstInstanceOf(patches, ["NodeWorker"], "threadName", (prototype) => {
      patches.replace(prototype, "emit", detached);
    });
  });
}

function patchWebSocketStream(patches: Patches): void {
  const original = getOriginal(
    globalThis as unknown as { WebSocketStream: SocketClass },
    "WebSocketStream",
  );
  const { prototype } = original;
  const replacement = abortable(original);
  patches.replace(globalThis, "WebSocketStream", () => replacement);
  patches.replace(prototype, "constructor", () => replacement);
  patches.replaceGetter<Promise<unknown>>(
    prototype,
    "closed",
    cooperateObserved,
  );
  patches.replaceGetter<Promise<unknown>>(
    prototype,
    "opened",
    cooperativeOpened,
  );
}

/** Makes a class whose instances get a signal of ours, which can end an attempt to connect. */
function abortable(original: SocketClass): SocketClass {
  const handler: ProxyHandler<SocketClass> = bare({
    construct(_target, args, newTarget): object {
      if (interruptibleScope() === null || args.length === 0) {
        return Reflect.construct(original, args, newTarget);
      }
      const abort = new AbortController();
      args[1] = addSignal(argumentAt(args, 1) ?? noOptions(), abort.signal);
      const stream = Reflect.construct(original, args, newTarget);
      attempts.set(stream, abort);
      return stream;
    },
  });
  return new Proxy(original, handler);
}

function cooperativeOpened(
  original: (this: unknown) => Promise<unknown>,
): (this: unknown) => Promise<unknown> {
  const cooperative = cooperateObserved(original, (stream, error) => {
    const abort = attempts.get(stream as object);
    if (abort === undefined) return;
    runDetached(() => {
      // `closed` rejects with the same error, and the program may not look at it.
      markHandled((stream as { closed: Promise<unknown> }).closed);
      abort.abort(error);
    });
  });
  return function () {
    // If code outside greenlets waits as well, an interrupt must not end the attempt.
    if (interruptibleScope() === null && typeof this === "object") {
      attempts.delete(this!);
    }
    return cooperative.call(this);
  };
}
