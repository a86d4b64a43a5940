/**
 * Calls at the next turn of the event loop.
 *
 * @module
 */

import { clearImmediate, setImmediate as original } from "node:timers";

export { clearImmediate };

/** What is to be called, for {@linkcode clearImmediate}. */
export type Immediate = ReturnType<typeof original>;

/** As that of `node:timers`, for a function without arguments. */
export function setImmediate(callback: () => void): Immediate {
  const immediate = original(callback);
  // Else the runtime spreads an array, though it is empty, and fails where a program has
  // changed the iterator of arrays.
  (immediate as unknown as { _argv: undefined })._argv = undefined;
  return immediate;
}
