/**
 * Events that are told outside greenlets: what the parts of `patch()` share.
 *
 * What tells of events is shared, and outlives the greenlet that happened to set it up. In
 * whose scope every wait of a listener would throw, once that one was killed, and the source
 * be lost for all. In whose scope an event is told is with the runtime, and differs: it may
 * be that of who has made the source, has added its first listener, has caused the event, or
 * none. So a source is made to tell in none, where it tells, or else where it begins. The
 * contexts of other storages are as before.
 *
 * @module
 */

import { EventEmitter } from "node:events";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import type { Patches } from "./patch_set.ts";

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Method = (this: any, ...args: any[]) => any;
type Meet = (emitter: object) => void;

/** What a function does, as nobody's part: for `Patches.put`. */
export function detached<F extends Method>(original: F): F {
  const apart: Method = function () {
    // To make no closure where nothing is to be done: 20 ns of the 60 of an `emit()`.
    return interruptibleScope() === null
      ? Reflect.apply(original, this, arguments)
      : runDetached(() => Reflect.apply(original, this, arguments));
  };
  return apart as F;
}

/** Who wants to know of emitters: they share a patch, as there is one for a property. */
const meets = new Set<Meet>();

/**
 * Calls `meet` with each emitter of `node:events` that is made. So modules of the runtime
 * are patched when they are used: to load them for all who patch would take too long.
 */
export function onEmitter(patches: Patches, meet: Meet): void {
  meets.add(meet);
  patches.beforeRestore(() => meets.delete(meet));
  patches.replace<Method>(EventEmitter, "init", (init) =>
    function () {
      meets.forEach((meet) => meet(this));
      return Reflect.apply(init, this, arguments);
    });
}

/**
 * Calls `patch` with the prototype of each of some classes of the runtime's own emitters,
 * when the first of it is made. A part may do so once.
 *
 * @param patches What replaces.
 * @param names The names of the classes.
 * @param mark What their prototypes have, and those of few others.
 * @param patch Patches one.
 */
export function onFirstInstanceOf(
  patches: Patches,
  names: readonly string[],
  mark: string,
  patch: (prototype: object) => void,
): void {
  onEmitter(patches, (emitter) => {
    if (!(mark in emitter)) return;
    patches.onFirstInstance(emitter, mark, (prototype) => {
      const { name } = prototype.constructor;
      // Anybody's own class may have the name as well.
      const isTheRuntimes = names.includes(name) &&
        String(new Error().stack).includes(`new ${name} (ext:deno_node/`);
      if (isTheRuntimes) patch(prototype);
    });
  });
}
