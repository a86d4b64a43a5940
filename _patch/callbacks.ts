/**
 * Callbacks that a greenlet registers and that the runtime calls later. The runtime calls them
 * in the context of the code that registered them or that caused the call. `patch()` makes them
 * run outside greenlets; see `detached.ts`.
 *
 * @module
 */

import { isInDeno } from "../_base/runtime.ts";
import { detached } from "./detached.ts";
import { interruptibleScope, runDetached, tellApart } from "../_hub/current.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { operate } from "../_hub/operation.ts";
import type { Patches } from "./patch_set.ts";

/** The events of the global object that the runtime dispatches. */
const GLOBAL_EVENTS: ReadonlySet<string> = new Set([
  "beforeunload",
  "error",
  "load",
  "rejectionhandled",
  "unhandledrejection",
  "unload",
]);

type Dispatch = (this: unknown, event: Event) => boolean;

/** Detaches the events of the global object, which the runtime dispatches in any context. */
export function patchGlobalEvents(patches: Patches): void {
  if (!("dispatchEvent" in globalThis)) return;
  patches.replace<Dispatch>(globalThis, "dispatchEvent", (dispatch) => {
    return function (event) {
      const tell = () => Reflect.apply(dispatch, this, arguments as never);
      return GLOBAL_EVENTS.has(event?.type) ? tellApart(tell) : tell();
    };
  });
}

/** Detaches the reads of a `FileReader`: after a kill, it would read for ever. */
export function patchFileReader(patches: Patches): void {
  if (!("FileReader" in globalThis)) return;
  for (
    const name of [
      "abort",
      "readAsArrayBuffer",
      "readAsBinaryString",
      "readAsDataURL",
      "readAsText",
    ]
  ) {
    patches.replace(FileReader.prototype, name, detached);
  }
}

/** Detaches observers, which are called in the context of the code that they observe. */
export function patchObservers(patches: Patches): void {
  if (!("PerformanceObserver" in globalThis)) return;
  for (const name of ["mark", "measure"]) {
    patches.replace(Performance.prototype, name, detached);
  }
  patches.replace(PerformanceObserver.prototype, "observe", detached);
}

// deno-lint-ignore no-explicit-any -- whatever it takes
type Serve = (this: any, ...args: any[]) => Promise<void>;

/**
 * Patches a function that calls handlers until it is closed: the handlers run outside
 * greenlets, and an interrupt ends the wait for the close.
 */
function serving(original: Serve): Serve {
  const text = `${original.name}()`;
  return function () {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const due = checkpoint(scope);
    if (due !== null) return due;
    return operate(
      scope,
      runDetached(() => Reflect.apply(original, this, arguments as never)),
      text,
    );
  };
}

/** Patches `listenQueue` of `Deno.Kv`, with `--unstable-kv`. */
export function patchKv(patches: Patches): void {
  if (isInDeno("Kv")) {
    patches.replace(Deno.Kv.prototype, "listenQueue", serving);
  }
}

/** Patches `Deno.cron`, with `--unstable-cron`. */
export function patchCron(patches: Patches): void {
  if (isInDeno("cron")) {
    patches.replace(Deno, "cron", serving);
  }
}
