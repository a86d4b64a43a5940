/**
 * Waits for the moment in which a server may close its listener or its connections.
 *
 * @module
 */

import { now } from "../_hub/timers.ts";
import { sleep } from "../gevent.ts";

/** How many turns of the event loop and milliseconds nothing must come. */
export interface Quiet {
  readonly turns: number;
  readonly ms: number;
}

/** The queue of connections was empty. A longer time might never come, as more connections do. */
export const EMPTY: Quiet = { turns: 3, ms: 0 };
/**
 * New connections go elsewhere, and nothing is on its way here any more: no connection whose
 * handshake is in progress, and no first request of a connection that was accepted.
 */
export const DIVERTED: Quiet = { turns: 10, ms: 250 };
/**
 * An HTTP server under a load may close its connections: no request is on its way by one that is
 * kept. Its client could not know whether the request was handled.
 */
export const LOADED: Quiet = { turns: 20, ms: 30 };
/** The longest time to wait, in milliseconds. */
const LONGEST = 10_000;

/**
 * Waits until nothing has come for a while.
 *
 * @param timeout How many milliseconds to wait at most, and as many turns as `quiet` has: a process
 * that gets no processor has not looked yet.
 * @param goesOn Tells whether to go on waiting.
 * @param count Tells how many have come; `null` while it can't be quiet, as some may still wait for
 * room.
 * @returns Whether it has become quiet.
 */
export async function waitForQuiet(
  quiet: Quiet,
  timeout: number,
  goesOn: () => boolean,
  count: () => number | null,
): Promise<boolean> {
  const end = now() + Math.min(timeout, LONGEST);
  let before = count();
  let turns = 0;
  let total = 0;
  let since = now();
  const isQuiet = () => turns >= quiet.turns && now() - since >= quiet.ms;
  const isLate = () => total >= quiet.turns && now() >= end;
  while (goesOn() && !isQuiet() && !isLate()) {
    await sleep(1);
    // The runtime takes in what has come before the next turn.
    await sleep(0);
    const current = count();
    turns++;
    total++;
    if (current !== null && current === before) continue;
    before = current;
    turns = 0;
    since = now();
  }
  return isQuiet();
}
