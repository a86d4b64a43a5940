/**
 * Delays without a timer of the runtime.
 *
 * @module
 */

import { then } from "./language.ts";

/**
 * A cell that never changes: `Atomics.waitAsync` on it is a pure timer. Made at the first call,
 * as most web pages have no shared memory.
 */
let cell: Int32Array<SharedArrayBuffer> | null = null;

/**
 * Calls a function after a time, without a timer of the runtime: it does not keep the process
 * alive, and a test sanitizer sees no timer that is left behind.
 */
export function after(ms: number, callback: () => void): void {
  cell ??= new Int32Array(new SharedArrayBuffer(4));
  const { value } = Atomics.waitAsync(cell, 0, 0, ms);
  if (typeof value === "string") callback();
  // The result is dropped: returning a promise here would call a `then` of the program.
  else then(value, () => void callback());
}
