/**
 * Waits until the hub comes to rest: nothing happens any more, unless time goes by or
 * something comes from outside the process.
 *
 * @module
 */

import { setImmediate } from "../_base/immediate.ts";
import { isTelling } from "./timers.ts";
import { wakeups } from "./run_queue.ts";

/**
 * How many turns of the event loop go by without a wake-up before the hub is taken to be at
 * rest. A chain of the library's steps takes two or three turns without one.
 */
const QUIET_TURNS = 8;

/** How many turns a program gets that never comes to rest. */
const MOST_TURNS = 10_000;

/** Lets run what is ready, and what comes of it. Not cooperative. */
export async function restOfHub(): Promise<void> {
  let before = -1;
  let quiet = 0;
  for (let turns = 0; quiet < QUIET_TURNS && turns < MOST_TURNS; turns++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    quiet = wakeups() === before && !isTelling() ? quiet + 1 : 0;
    before = wakeups();
  }
}
