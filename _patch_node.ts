/**
 * The part `net` of `patch()`, for `node:net` and `node:dgram`: their sockets have no
 * waits, but events.
 *
 * A listener is called in the context of whoever has opened the socket, or in none: that
 * is with the runtime, and differs from event to event. The socket of a client is shared,
 * and outlives the greenlet that happened to open it; in whose flow every wait of a
 * listener would throw, once that one was killed, and the client be lost for all. So what
 * opens a socket is called in no flow, and all its events are told outside greenlets. The
 * contexts of other storages are as before.
 *
 * @module
 */

import { EventEmitter } from "node:events";
import { callApart } from "./_flow.ts";
import type { Patches } from "./_patches.ts";

type Method = (this: unknown, ...args: unknown[]) => unknown;

/** Whether a socket was made under `patch()`, so that the modules are loaded. */
let met = false;

/**
 * Patches the sockets, when the first is made: to load their modules for all who patch
 * would cost 30 ms.
 */
export function patchNode(patches: Patches): void {
  if (met) return patchSockets(patches);
  let isOver = false;
  patches.beforehand(() => isOver = true);
  patches.put<Method>(EventEmitter, "init", (init) =>
    function (this: unknown) {
      // It may also be anybody's own emitter, and the modules are then loaded in vain.
      const isSocket = "connect" in (this as object) ||
        "listen" in (this as object);
      if (isSocket && !met && !isOver) {
        met = true;
        patchSockets(patches);
      }
      return Reflect.apply(init, this, arguments);
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

function outside(original: Method): Method {
  return function (this: unknown, ...args) {
    return callApart(() => original.apply(this, args));
  };
}
