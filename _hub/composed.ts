/**
 * Functions that wait several times, as one wait.
 *
 * @module
 */

import type { Wait } from "./suspension.ts";
import { withTimeout } from "../timeout.ts";

/**
 * Runs a function that waits several times as one wait of the current greenlet. An
 * interrupt reaches what it waits for, and it is waited for while it cleans up.
 */
export function composed<T>(run: () => Promise<T>): Wait<T> {
  return withTimeout(Infinity, run) as Wait<unknown> as Wait<T>;
}
