/**
 * One wait that is made of several.
 *
 * @module
 */

import type { Wait } from "./suspension.ts";
import { withTimeout } from "./timeout.ts";

/**
 * Runs a function that waits several times, as one wait of the current greenlet. An interrupt
 * ends the inner wait. The outer wait ends when the function has cleaned up.
 */
export function composed<T>(run: () => Promise<T>): Wait<T> {
  return withTimeout(Infinity, run) as Wait<unknown> as Wait<T>;
}
