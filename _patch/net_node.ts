/**
 * The part `net` of `patch()`, for what has no waits, but events: the sockets of `node:net`
 * and `node:dgram`, and the streams of `node:stream`.
 *
 * In whose scope a listener is called differs from event to event, and so does that of a
 * stream's own functions, such as `_read` and `_write`, which are called when the stream sees
 * fit. What opens a socket and what sets a stream going is called in none, and so all events
 * are told outside greenlets; see `_events.ts`.
 *
 * @module
 */

import { EventEmitter } from "node:events";
import { detached, onEmitter } from "./detached.ts";
import type { Patches } from "./patch_set.ts";

/** Whether a socket was made under `patch()`, so that the modules are loaded. */
let met = false;

/**
 * Patches the sockets and the streams, when the first is made: to load their modules for all
 * who patch would cost 30 ms.
 */
export function patchNode(patches: Patches): void {
  if (met) patchSockets(patches);
  // Packages have streams of their own, which look like the runtime's.
  const bases = new Set<StreamClass>();
  onEmitter(patches, (emitter) => {
    const base = "pipe" in emitter ? baseOf(emitter) : null;
    if (base !== null && !bases.has(base)) {
      bases.add(base);
      patchStreams(patches, base);
    }
    // It may also be anybody's own emitter, and the modules are then loaded in vain.
    const isSocket = "connect" in emitter || "listen" in emitter;
    if (met || !isSocket) return;
    met = true;
    patchSockets(patches);
  });
}

/** Patches the methods that keep the context for the events of their sockets. */
function patchSockets(patches: Patches): void {
  const { getBuiltinModule } = globalThis.process;
  const { Socket, Server } = getBuiltinModule("node:net");
  const { Socket: Datagrams } = getBuiltinModule("node:dgram");
  patches.replace(Socket.prototype, "connect", detached);
  patches.replace(Socket.prototype, "setTimeout", detached);
  patches.replace(Server.prototype, "listen", detached);
  patches.replace(Datagrams.prototype, "bind", detached);
}

/** The class of all streams, which has those of each kind as its properties. */
interface StreamClass {
  readonly prototype: object;
  readonly Readable?: StreamClass;
  readonly Writable?: StreamClass;
  readonly Duplex?: StreamClass;
}

/** The class `Stream` that an emitter is of; `null` if it is of somebody else's. */
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

/** What sets a stream going, or tells it something. */
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
