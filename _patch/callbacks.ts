/**
 * Callbacks that a greenlet registers and that the runtime calls later, in the context of
 * whoever has registered them or has caused the call: parts of `patch()` have them called
 * outside greenlets. See `_events.ts`.
 *
 * @module
 */

import { detached } from "./detached.ts";
import { interruptibleScope, runDetached, tellApart } from "../_hub/current.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { operate } from "./cooperate.ts";
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

/** The runtime dispatches them in the context of what has failed. */
export function patchGlobalEvents(patches: Patches): void {
  if (!("dispatchEvent" in globalThis)) return;
  patches.replace<Dispatch>(globalThis, "dispatchEvent", (dispatch) => {
    return function (event) {
      const tell = () => Reflect.apply(dispatch, this, arguments as never);
      return GLOBAL_EVENTS.has(event?.type) ? tellApart(tell) : tell();
    };
  });
}

/** What a `FileReader` reads is its own business: a kill would leave it reading for ever. */
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

/** Observers are called in the context in which an entry is made that they observe. */
export function patchObservers(patches: Patches): void {
  if (!("PerformanceObserver" in globalThis)) return;
  for (const name of ["mark", "measure"]) {
    patches.replace(Performance.prototype, name, detached);
  }
  patches.replace(PerformanceObserver.prototype, "observe", detached);
}

// deno-lint-ignore no-explicit-any -- whatever it takes
type Serve = (this: any, ...args: any[]) => Promise<void>;

/** What calls handlers until it is closed: whoever waits for that can be interrupted. */
function serving(original: Serve): Serve {
  return function () {
    const scope = interruptibleScope();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const due = checkpoint(scope);
    if (due !== null) return due;
    return operate(
      scope,
      runDetached(() => Reflect.apply(original, this, arguments as never)),
    );
  };
}

/** Patches what calls handlers of messages of a database, with `--unstable-kv`. */
export function patchKv(patches: Patches): void {
  if ("Kv" in Deno) patches.replace(Deno.Kv.prototype, "listenQueue", serving);
}

/** Patches what calls handlers at certain times, with `--unstable-cron`. */
export function patchCron(patches: Patches): void {
  if ("cron" in Deno) patches.replace(Deno, "cron", serving);
}
