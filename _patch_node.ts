/**
 * The part `net` of `patch()`, for `node:net` and `node:dgram`: their sockets have no
 * waits, but events.
 *
 * In whose flow a listener is called differs from event to event. What opens a socket is
 * called in none, and so all events are told outside greenlets; see `_events.ts`.
 *
 * @module
 */

import { meetEmitters, outside } from "./_events.ts";
import type { Patches } from "./_patches.ts";

/** Whether a socket was made under `patch()`, so that the modules are loaded. */
let met = false;

/**
 * Patches the sockets, when the first is made: to load their modules for all who patch
 * would cost 30 ms.
 */
export function patchNode(patches: Patches): void {
  if (met) return patchSockets(patches);
  meetEmitters(patches, (emitter) => {
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
  patches.put(Socket.prototype, "connect", outside);
  patches.put(Socket.prototype, "setTimeout", outside);
  patches.put(Server.prototype, "listen", outside);
  patches.put(Datagrams.prototype, "bind", outside);
}
