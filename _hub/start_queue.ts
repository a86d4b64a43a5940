/**
 * The one place that starts bodies: soon, and in the order of their `start()` calls.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { current } from "./current.ts";
import {
  events,
  FULL,
  holdTasks,
  lastTurn,
  releaseTasks,
  turn,
  wakeups,
} from "./run_queue.ts";

/**
 * The number of bodies that begin without a break. Bodies that end at once are then garbage
 * before the collector copies them. With 200,000 greenlets this saves a sixth of the time.
 */
const CHUNK = 64;

/** The function that begins the body of a starter. */
type Begin<S> = (starter: S) => void;

/**
 * Starters that were added in a row, in one async context. An entry in an array takes less
 * memory than a reaction to a promise, which takes 140 bytes.
 */
class Batch<S> {
  readonly #begin: Begin<S>;
  #starters: S[] = [];
  /** Full arrays of starters, which come before `#starters`. */
  #full: S[][] | null = null;
  readonly #context: unknown = current.snapshot();
  #wakeups = 0;
  #events = 0;
  /** The number of bodies in the first array that have begun. */
  #begun = 0;

  constructor(begin: Begin<S>) {
    this.#begin = begin;
  }

  /** Whether a starter can be added: nothing came meanwhile that has to go first. */
  isOpen<O>(begin: Begin<O>): this is Batch<O> {
    return this.#begin === begin as unknown && events() === this.#events &&
      current.snapshot() === this.#context;
  }

  add(starter: S): void {
    if (this.#starters.length === FULL) {
      (this.#full ??= []).push(this.#starters);
      this.#starters = [];
    }
    this.#starters.push(starter);
  }

  /** The starters that have not begun. */
  get rest(): S[] {
    return (this.#full ?? []).concat([this.#starters]).flat()
      .slice(this.#begun);
  }

  /** Begins after a turn, in the caller's async context: the promise reaction keeps that. */
  beginAfter(turn: Promise<void>): void {
    unfinished.add(this);
    then(turn, () => this.#run());
    this.#wakeups = wakeups();
    this.#events = events();
  }

  #run(): void {
    if (last === this) last = null;
    try {
      this.#beginSome();
    } finally {
      // Only a tracer can have thrown. The other bodies begin all the same.
      if (this.#full !== null || this.#begun < this.#starters.length) {
        holdTasks();
        this.beginAfter(turn());
      } else {
        unfinished.delete(this);
        releaseTasks();
      }
    }
  }

  /** Begins a chunk; or all, if a greenlet was woken meanwhile, which must not go before them. */
  #beginSome(): void {
    const begin = this.#begin;
    let left = CHUNK;
    for (;;) {
      const starters = this.#full?.[0] ?? this.#starters;
      for (; this.#begun < starters.length; left--) {
        if (left <= 0 && wakeups() === this.#wakeups) return;
        begin(starters[this.#begun++]!);
      }
      if (this.#full === null) return;
      this.#full.shift();
      if (this.#full.length === 0) this.#full = null;
      this.#begun = 0;
    }
  }
}

const unfinished = new Set<{ readonly rest: unknown[] }>();

/** All starters that have not begun, the newest first. */
export function starters(): unknown[] {
  return [...unfinished].flatMap((batch) => batch.rest).reverse();
}

let last: Batch<unknown> | null = null;

/**
 * Calls `begin` with `starter` soon, in the caller's async context: after this has returned, and
 * after the starters and wake-ups that came before.
 */
export function startSoon<S>(begin: Begin<S>, starter: S): void {
  if (last !== null && last.isOpen(begin)) return last.add(starter);
  const batch = new Batch(begin);
  batch.add(starter);
  batch.beginAfter(lastTurn());
  last = batch as Batch<unknown>;
}
