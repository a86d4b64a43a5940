/**
 * Makes listeners of events run outside greenlets. All parts of `patch()` use this.
 *
 * The source of an event, such as a socket, often outlives the greenlet that created it. If
 * listeners ran in the scope of that greenlet, all their waits would throw once the greenlet
 * was killed. The runtime calls them in different scopes: of the greenlet that made the source,
 * that added the first listener, or that caused the event. So the function that emits the
 * events, or the one that starts the source, is called outside greenlets. Other
 * `AsyncLocalStorage` contexts stay as they were.
 *
 * @module
 */

import { EventEmitter } from "node:events";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import type { Patches } from "./patch_set.ts";

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Method = (this: any, ...args: any[]) => any;
type OnEmitter = (emitter: object) => void;

/** Makes a function run outside greenlets. For `Patches.replace`. */
export function detached<F extends Method>(original: F): F {
  const replacement: Method = function () {
    // Makes no closure if there is nothing to do: saves 20 of the 60 ns of an `emit()`.
    return interruptibleScope() === null
      ? Reflect.apply(original, this, arguments)
      : runDetached(() => Reflect.apply(original, this, arguments));
  };
  return replacement as F;
}

/** The callbacks of `onEmitter`. They share one patch, as it takes one for the property. */
const callbacks = new Set<OnEmitter>();

/**
 * Calls `callback` with each new emitter of `node:events`. So a module of the runtime is patched
 * when it is first used: loading all modules in `patch()` would take too long.
 */
export function onEmitter(patches: Patches, callback: OnEmitter): void {
  callbacks.add(callback);
  patches.beforeRestore(() => callbacks.delete(callback));
  patches.replace<Method>(EventEmitter, "init", (init) =>
    function () {
      callbacks.forEach((callback) => callback(this));
      return Reflect.apply(init, this, arguments);
    });
}

/**
 * Calls `patch` with the prototype of each of the named emitter classes of the runtime, when
 * the first instance of the class is made. Each part may call this once.
 *
 * @param patches The patches of the part.
 * @param names The names of the classes.
 * @param mark A property that the prototypes of these classes have, and few others.
 * @param patch Patches a prototype.
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
      // A class of a package may have the same name.
      const isTheRuntimes = names.includes(name) &&
        String(new Error().stack).includes(`new ${name} (ext:deno_node/`);
      if (isTheRuntimes) patch(prototype);
    });
  });
}
