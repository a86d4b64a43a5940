/**
 * A condition releases its lock for a wait, and acquires it again afterwards.
 *
 * @module
 */

import type { Greenlet } from "../greenlet.ts";
import { getCurrent } from "./current.ts";
import { QueuedWait } from "./wait_queue.ts";
import { blockersFor, callOf, nameOf } from "./waits.ts";

/** A wait for a lock. */
export class Acquirer<L> extends QueuedWait<Acquirer<L>, L | null> {
  /** The greenlet that will hold the lock; `null` if that does not matter. */
  readonly greenlet: Greenlet | null;
  /** The number of times that the greenlet will have to release it. */
  readonly depth: number;

  constructor(greenlet: Greenlet | null = null, depth = 1) {
    super();
    this.greenlet = greenlet;
    this.depth = depth;
  }

  protected override timedOut(): void {
    this.switch(null);
  }

  override describe(subject = this.subject): string {
    const call = callOf(subject, "acquire()");
    const [holder] = blockersFor(subject);
    if (holder === undefined) return call;
    return `${call}, held by ${nameOf(holder)}${
      holder.dead ? ", which is dead" : ""
    }`;
  }
}

/**
 * The reclaimers that have got their lock, and whose callbacks have not been called yet; `null`
 * while no callback runs. One list for all locks, as a callback may release another lock.
 */
let toTell: Reclaimer[] | null = null;

/** The place of a condition's wait in the queue for the lock. */
export class Reclaimer extends Acquirer<unknown> {
  readonly #reclaimed: () => void;

  constructor(greenlet: Greenlet, depth: number, reclaimed: () => void) {
    super(greenlet, depth);
    this.#reclaimed = reclaimed;
  }

  /** Calls back the condition's wait: the greenlet is suspended there, and not here. */
  override switch(): void {
    if (toTell !== null) return void toTell.push(this);
    // A loop, as each callback may give a lock to the next: calls for thousands of them would
    // overflow the stack.
    toTell = [this];
    try {
      for (const reclaimer of toTell) reclaimer.#reclaimed();
    } finally {
      toTell = null;
    }
  }
}

/**
 * Releases that do nothing. A greenlet that has left the wait for a condition without the lock
 * does not hold it, but its code will still release it.
 */
export class Forfeits {
  readonly #left = new WeakMap<Greenlet, number>();

  add(greenlet: Greenlet, releases: number): void {
    this.#left.set(greenlet, (this.#left.get(greenlet) ?? 0) + releases);
  }

  /** Whether this release of the current greenlet does nothing. Counts it. */
  take(): boolean {
    const me = getCurrent();
    const left = this.#left.get(me) ?? 0;
    if (left > 0) this.#left.set(me, left - 1);
    return left > 0;
  }
}

/** The key of the method that releases the lock, and returns how many times it was held. */
export const GIVE_AWAY: unique symbol = Symbol("give away");
/** The key of the method that gives the lock to a reclaimer, or puts it into the queue. */
export const RECLAIM: unique symbol = Symbol("reclaim");
/** The key of the method that makes the next releases of a greenlet do nothing. */
export const FORFEIT: unique symbol = Symbol("forfeit");

/** The part of a lock that a condition uses. */
export interface ReclaimableLock {
  [GIVE_AWAY](most: number): number;
  [RECLAIM](reclaimer: Reclaimer): void;
  [FORFEIT](greenlet: Greenlet, releases: number): void;
}
