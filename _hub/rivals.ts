/**
 * Waits of one `select` that could end each other: the `put` and the `get` of one queue. They
 * must not, as a `select` takes only one of them.
 *
 * The function of an alternative may also put an item before it begins its wait, and that item is
 * for any wait. Only when the function has returned is it known which wait is the alternative. So
 * a hand-over to a rival, or from one, is delayed until then.
 *
 * @module
 */

import type { List } from "../_base/linked_list.ts";
import { Suspension } from "./suspension.ts";
import type { QueuedWait } from "./wait_queue.ts";

/** The selects that call the function of an alternative now, the outermost first. */
const beginning: Suspension<unknown>[] = [];
/** The queues with delayed hand-overs, each with the function that makes them. */
let putOff: Map<object, (queue: never) => void> | null = null;

/** Must be called before a `select` begins an alternative. */
export function beginsAlternative(select: Suspension<unknown>): void {
  beginning.push(select);
}

/** Must be called when the alternative has begun, or has failed to. */
export function hasBegunAlternative(): void {
  beginning.pop();
  if (beginning.length > 0 || putOff === null) return;
  const all = putOff;
  putOff = null;
  for (const [queue, match] of all) match(queue as never);
}

/**
 * Returns the first wait in a list that may end now. Skips alternatives of a `select` that is
 * beginning another alternative.
 *
 * @param list The list, which a queue owns.
 * @param match Called later with the queue, if a wait was skipped.
 */
// deno-lint-ignore no-explicit-any -- waits of all kinds
export function firstToMatch<M extends QueuedWait<M, any>>(
  list: List<M>,
  match: (queue: never) => void,
): M | null {
  let one = list.first;
  if (beginning.length === 0) return one;
  for (; one !== null; one = one.next) {
    if (!hasRace(one, beginning)) break;
    (putOff ??= new Map()).set(list.owner!, match);
  }
  return one;
}

/** Whether two waits are alternatives of one `select`. */
export function areRivals(
  one: Suspension<unknown>,
  other: Suspension<unknown>,
): boolean {
  return hasRace(one, [...racesOf(other)]);
}

function hasRace(
  one: Suspension<unknown>,
  races: readonly Suspension<unknown>[],
): boolean {
  for (const race of racesOf(one)) if (races.includes(race)) return true;
  return false;
}

/** The races that a wait is part of, the innermost first. */
function* racesOf(one: Suspension<unknown>): Generator<Suspension<unknown>> {
  while (one.state === "racing") {
    const race: unknown = one.scope!.cold!.race;
    if (!(race instanceof Suspension)) return;
    yield one = race;
  }
}
