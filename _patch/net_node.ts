/**
 * The part `net` of `patch()`, for modules that have events instead of waits: `node:net`,
 * `node:dgram` and `node:stream`.
 *
 * The runtime calls a listener in different scopes, depending on the event. The same is true of
 * the functions of a stream itself, such as `_read` and `_write`. The methods that open a
 * socket or start a stream are called outside greenlets here, so all listeners and functions
 * run outside greenlets; see `detached.ts`.
 *
 * @module
 */

import { EventEmitter } from "node:events";
import { detached, onEmitter } from "./detached.ts";
import type { Patches } from "./patch_set.ts";

/** Whether a socket was made under `patch()`, so that the modules are loaded. */
let isLoaded = false;

/**
 * Patches the sockets and the streams when the first one is made: loading their modules in every
 * `patch()` would cost 30 ms.
 */
export function patchNodeNet(patches: Patches): void {
  if (isLoaded) patchSockets(patches);
  onStreamClass(patches, (base) => patchStreams(patches, base));
  onEmitter(patches, (emitter) => {
    // Loads the modules, even if the emitter is one of a package.
    const isSocket = "connect" in emitter || "listen" in emitter;
    if (isLoaded || !isSocket) return;
    isLoaded = true;
    patchSockets(patches);
  });
}

/**
 * Calls `patch` with each class of streams when its first stream is made. Packages have copies
 * of the runtime's classes.
 */
export function onStreamClass(
  patches: Patches,
  patch: (base: StreamClass) => void,
): void {
  const bases = new Set<StreamClass>();
  onEmitter(patches, (emitter) => {
    const base = "pipe" in emitter ? baseOf(emitter) : null;
    if (base === null || bases.has(base)) return;
    bases.add(base);
    patch(base);
  });
}

/** Patches the methods whose context the runtime keeps for the events of a socket. */
function patchSockets(patches: Patches): void {
  const { getBuiltinModule } = globalThis.process;
  const { Socket, Server } = getBuiltinModule("node:net");
  const { Socket: Datagrams } = getBuiltinModule("node:dgram");
  patches.replace(Socket.prototype, "connect", detached);
  patches.replace(Socket.prototype, "setTimeout", detached);
  patches.replace(Server.prototype, "listen", detached);
  patches.replace(Datagrams.prototype, "bind", detached);
}

/** The class `Stream`, which has the classes of each kind of stream as properties. */
export interface StreamClass {
  readonly prototype: object;
  readonly Readable?: StreamClass;
  readonly Writable?: StreamClass;
  readonly Duplex?: StreamClass;
}

/** Returns the class `Stream` from which an emitter inherits; `null` if there is none. */
function baseOf(emitter: object): StreamClass | null {
  let prototype: object | null = emitter;
  while (prototype !== null) {
    const next: object | null = Object.getPrototypeOf(prototype);
    if (next === EventEmitter.prototype) break;
    prototype = next;
  }
  const base = prototype?.constructor as StreamClass | undefined;
  const isBase = base?.prototype === prototype && base?.Readable !== undefined;
  return isBase ? base : null;
}

/** The methods that start a stream or pass something to it. */
const METHODS = ["read", "resume", "write", "end", "destroy"];

function patchStreams(patches: Patches, base: StreamClass): void {
  patches.replace(base.prototype, "emit", detached);
  const { Readable, Writable, Duplex } = base;
  [Readable, Writable, Duplex].forEach((kind) => {
    if (kind === undefined) return;
    METHODS.forEach((name) => {
      if (Object.hasOwn(kind.prototype, name)) {
        patches.replace(kind.prototype, name, detached);
      }
    });
  });
}
