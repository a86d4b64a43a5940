/**
 * When a process of a server may close its listener.
 *
 * @module
 */

import { now } from "../_hub/timers.ts";
import { sleep } from "../gevent.ts";

/** In how many turns of the event loop, and milliseconds, nothing has come. */
export interface Quiet {
  readonly turns: number;
  readonly ms: number;
}

/** Nothing was there to be accepted: for longer it may never be so, as more comes. */
export const EMPTY: Quiet = { turns: 3, ms: 0 };
/**
 * Nothing is on its way, where no new connection comes: neither one whose handshake is not
 * over, nor the first request of one that was accepted.
 */
export const DIVERTED: Quiet = { turns: 10, ms: 250 };
/** For how many milliseconds a process that leaves accepts what comes, at most. */
const LONGEST = 10_000;

/**
 * Waits until nothing has come for a while.
 *
 * @param timeout For how many milliseconds, at most.
 * @param goesOn Whether it is to be waited on.
 * @param count How much has come; `null` if more may wait for room.
 * @returns Whether nothing has.
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
  let since = now();
  const isQuiet = () => turns >= quiet.turns && now() - since >= quiet.ms;
  while (goesOn() && !isQuiet() && now() < end) {
    await sleep(1);
    const current = count();
    turns++;
    if (current !== null && current === before) continue;
    before = current;
    turns = 0;
    since = now();
  }
  return isQuiet();
}
