/**
 * The hub's own quiet: nothing happens any more, unless time goes by or something comes from
 * outside the process. Tests wait for it where others would wait some milliseconds.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import { wakeups } from "../_hub/run_queue.ts";

/**
 * How many turns of the event loop have to go by without a wake-up, before every greenlet
 * that is left can only wait for time. A chain of wake-ups takes two or three turns without
 * one.
 */
export const QUIET_TURNS = 8;

/** How many turns a program gets that never comes to rest. */
const MOST_TURNS = 10_000;

let settling = 0;

/** True while a test waits for quiet, and the clock has to wait for the test. */
export function isSettling(): boolean {
  return settling > 0;
}

/**
 * Lets everything run that is ready: links, what was spawned, and what comes of them. Not
 * cooperative, so that a test can wait for it whatever it interrupts.
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
