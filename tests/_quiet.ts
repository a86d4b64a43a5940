/**
 * Waits until nothing happens any more, unless time passes or something comes from outside the
 * process. Tests wait for that, and not for some milliseconds.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import { wakeups } from "../_hub/run_queue.ts";

/**
 * After this number of turns of the event loop without a wake-up, all greenlets wait for time or
 * for something outside. Within a chain of wake-ups, two or three turns have none.
 */
export const QUIET_TURNS = 8;

/** The number of turns after which to give up on a program that never comes to rest. */
const MOST_TURNS = 10_000;

let settling = 0;

/** Whether {@linkcode settle} runs. Then the clock does not jump. */
export function isSettling(): boolean {
  return settling > 0;
}

/**
 * Waits until everything that is ready has run: links, greenlets that were spawned, and all that
 * follows from them. No interrupt ends the wait, as it is not one of the library.
 */
export async function settle(): Promise<void> {
  settling++;
  try {
    let before = -1;
    let quiet = 0;
    for (let turns = 0; quiet < QUIET_TURNS && turns < MOST_TURNS; turns++) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      quiet = wakeups() === before ? quiet + 1 : 0;
      before = wakeups();
    }
  } finally {
    settling--;
  }
}
