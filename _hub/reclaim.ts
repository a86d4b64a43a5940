/**
 * How a condition gives its lock away for a wait, and gets it back.
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
 * Reclaimers that have their lock and are to be told so; `null` when none is being told.
 * One list for all locks, as one that is told may give another lock to the next.
 */
let toTell: Reclaimer[] | null = null;

/** The place in line of a condition's wait that gets its lock back. */
export class Reclaimer extends Acquirer<unknown> {
  readonly #reclaimed: () => void;

  constructor(greenlet: Greenlet, depth: number, reclaimed: () => void) {
    super(greenlet, depth);
    this.#reclaimed = reclaimed;
  }

  /** Tells the wait for the condition, in which the greenlet is suspended and not here. */
  override switch(): void {
    if (toTell !== null) return void toTell.push(this);
    // Each may give the lock to the next one: thousands would be too deep a stack.
    toTell = [this];
    try {
      for (const reclaimer of toTell) reclaimer.#reclaimed();
    } finally {
      toTell = null;
    }
  }
}

/**
 * The releases that greenlets still owe which have left the wait for a condition without
 * its lock: as they do not hold it, these releases do nothing.
 */
export class Forfeits {
  readonly #left = new WeakMap<Greenlet, number>();

  add(greenlet: Greenlet, releases: number): void {
    this.#left.set(greenlet, (this.#left.get(greenlet) ?? 0) + releases);
  }

  /** Whether a release of the current greenlet is one of them. */
  take(): boolean {
    const me = getCurrent();
    const left = this.#left.get(me) ?? 0;
    if (left > 0) this.#left.set(me, left - 1);
    return left > 0;
  }
}

/** The key of the method that gives the lock away, and returns how often it was held. */
export const GIVE_AWAY: unique symbol = Symbol("give away");
/** The key of the method that gives the lock to a reclaimer, or puts it in line. */
export const RECLAIM: unique symbol = Symbol("reclaim");
/** The key of the method that has releases of a greenlet do nothing. */
export const FORFEIT: unique symbol = Symbol("forfeit");

/** A lock, as a condition uses it. */
export interface ReclaimableLock {
  [GIVE_AWAY](most: number): number;
  [RECLAIM](reclaimer: Reclaimer): void;
  [FORFEIT](greenlet: Greenlet, releases: number): void;
}
