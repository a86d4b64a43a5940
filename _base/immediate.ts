/**
 * Calls at the next turn of the event loop.
 *
 * @module
 */

import { clearImmediate, setImmediate as original } from "node:timers";

export { clearImmediate };

/** A handle for {@linkcode clearImmediate}. */
export type Immediate = ReturnType<typeof original>;

/** `setImmediate` of `node:timers`, for a function without arguments. */
export function setImmediate(callback: () => void): Immediate {
  const immediate = original(callback);
  // Otherwise the runtime would spread an empty array, which fails if a program has changed the
  // iterator of arrays.
  (immediate as unknown as { _argv: undefined })._argv = undefined;
  return immediate;
}
