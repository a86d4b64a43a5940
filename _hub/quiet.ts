/**
 * Waits until the hub is at rest: nothing more happens until time passes or an event arrives
 * from outside the process.
 *
 * @module
 */

import { setImmediate } from "../_base/immediate.ts";
import { isTelling } from "./timers.ts";
import { wakeups } from "./run_queue.ts";

/**
 * The hub counts as at rest after this many turns of the event loop without a wake-up. The
 * library's own steps take two or three turns without one.
 */
const QUIET_TURNS = 8;

/** After this many turns the wait is given up: the program never comes to rest. */
const MOST_TURNS = 10_000;

/** Waits for that rest. Not cooperative. */
export async function restOfHub(): Promise<void> {
  let before = -1;
  let quiet = 0;
  for (let turns = 0; quiet < QUIET_TURNS && turns < MOST_TURNS; turns++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    quiet = wakeups() === before && !isTelling() ? quiet + 1 : 0;
    before = wakeups();
  }
}
