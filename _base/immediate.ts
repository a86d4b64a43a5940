/**
 * Calls at the next turn of the event loop.
 *
 * @module
 */

import { ignore } from "./language.ts";

/** A handle for {@linkcode clearImmediate}. */
export interface Immediate {
  /** Keeps the process alive until the call; nothing to keep in a browser. */
  ref?(): unknown;
  /** Does not keep the process alive until the call. */
  unref?(): unknown;
}

interface Runtime {
  setImmediate(callback: () => void): Immediate;
  clearImmediate(immediate: Immediate | undefined): void;
}

/** The runtime's functions, as they were when this module was loaded. */
const runtime: Runtime = typeof globalThis.setImmediate === "function"
  ? {
    setImmediate: globalThis.setImmediate,
    clearImmediate: globalThis.clearImmediate as Runtime["clearImmediate"],
  }
  : byMessages();

/** Calls by messages, in a browser: its timers take 4 ms when they are set in sequence. */
function byMessages(): Runtime {
  const { port1, port2 } = new MessageChannel();
  const calls: { callback: () => void }[] = [];
  port1.onmessage = () => calls.shift()!.callback();
  return {
    setImmediate(callback) {
      const call = { callback };
      calls.push(call);
      port2.postMessage(null);
      return call as Immediate;
    },
    clearImmediate(immediate) {
      if (immediate !== undefined) {
        Object.assign(immediate, { callback: ignore });
      }
    },
  };
}

/** As that of `node:timers`. */
export const { clearImmediate } = runtime;

const { setImmediate: original } = runtime;

/** `setImmediate` of `node:timers`, for a function without arguments. */
export function setImmediate(callback: () => void): Immediate {
  const immediate = original(callback);
  // Otherwise the runtime would spread an empty array, which fails if a program has changed the
  // iterator of arrays.
  (immediate as { _argv?: undefined })._argv = undefined;
  return immediate;
}
