/**
 * Time that goes by without a timer.
 *
 * @module
 */

import { then } from "./language.ts";

/** A cell that never changes: `Atomics.waitAsync` on it is a pure timer. */
const cell = new Int32Array(new SharedArrayBuffer(4));

/**
 * Calls back after a time, without a timer of the runtime's: the process does not wait for
 * it, and those who look for timers that were left behind see none.
 */
export function after(ms: number, callback: () => void): void {
  const { value } = Atomics.waitAsync(cell, 0, 0, ms);
  if (typeof value === "string") callback();
  // What an async callback returns is not followed: that would call the program's `then`.
  else then(value, () => void callback());
}
