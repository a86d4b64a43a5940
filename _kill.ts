/**
 * How the library kills on its own account: each greenlet once.
 *
 * Whoever calls `kill()` on a greenlet twice throws into it twice. What the library kills
 * because a loop is left, a nursery closes or a program ends may have been killed before,
 * and clean up: a second error would cut that short.
 *
 * @module
 */

import { instanceOf } from "./_checks.ts";
import { flowOf } from "./_flow.ts";
import { kill } from "./gevent.ts";
import { type Greenlet, GreenletExit } from "./greenlet.ts";

/** How long a killed body may take to clean up, unless told otherwise, in ms. */
export const GRACE = 1000;

/**
 * Kills greenlets, and waits for nothing. One that was killed before, by whatever call,
 * gets no second error: it cleans up for as long as it was given.
 *
 * Where that is for ever, or where `grace` says so, it gets `grace` ms from now on, if that
 * is less. Past its grace it needs no kill: every wait of it throws.
 *
 * @param greenlets What is killed: of any kind.
 * @param error What is thrown, or the class of error of which a new one is.
 * @param grace For how many milliseconds the bodies may clean up; the usual time, if left
 * out.
 */
export function killOnce(
  greenlets: Iterable<Greenlet>,
  error: unknown = new GreenletExit(),
  grace?: number,
): void {
  const thrown = instanceOf(error);
  for (const greenlet of [...greenlets]) {
    if (greenlet.dead) continue;
    const flow = flowOf(greenlet);
    if (flow.killed === null) {
      kill(greenlet, thrown, { block: false, grace: grace ?? GRACE });
    } else if (grace !== undefined || flow.grace === Infinity) {
      flow.shortenGrace(grace ?? GRACE);
    }
  }
}
