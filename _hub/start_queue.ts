/**
 * The one place from which bodies begin: soon, in the order in which they were started.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { current } from "./current.ts";
import {
  hasTasks,
  holdTasks,
  releaseTasks,
  taskTurn,
  turn,
  wakeups,
} from "./run_queue.ts";

/**
 * How many begin without a break. What a body leaves behind that ends at once is then
 * garbage before it is ever copied: with 200,000 spawned, a sixth of the time.
 */
const CHUNK = 64;

/** How something begins. */
type Begin<S> = (starter: S) => void;

/**
 * Those who are started one right after the other, in one context: a reaction to a promise
 * for each would be 140 bytes, where this is a place in an array.
 */
class Batch<S> {
  readonly #begin: Begin<S>;
  readonly #starters: S[] = [];
  readonly #context: unknown = current.snapshot();
  #wakeups = 0;
  #begun = 0;

  constructor(begin: Begin<S>) {
    this.#begin = begin;
  }

  /** Whether nobody else has come in between who is to go first. */
  isOpen<O>(begin: Begin<O>): this is Batch<O> {
    return this.#begin === begin as unknown && wakeups() === this.#wakeups &&
      current.snapshot() === this.#context;
  }

  add(starter: S): void {
    this.#starters.push(starter);
  }

  /** Those who have not begun. */
  get rest(): S[] {
    return this.#starters.slice(this.#begun);
  }

  /** Begins when it is its turn. The reaction remembers the context of whoever calls. */
  schedule(): void {
    unfinished.add(this);
    then(hasTasks() ? taskTurn() : turn(), () => this.#run());
    this.#wakeups = wakeups();
  }

  #run(): void {
    if (last === this) last = null;
    try {
      this.#beginSome();
    } finally {
      // After an error, which is nobody's but a tracer's, the others begin all the same.
      if (this.#begun < this.#starters.length) {
        holdTasks();
        this.schedule();
      } else {
        unfinished.delete(this);
        releaseTasks();
      }
    }
  }

  /** Without a break, if there is anybody behind us in line who would then go first. */
  #beginSome(): void {
    const begin = this.#begin;
    const starters = this.#starters;
    for (let left = CHUNK; this.#begun < starters.length; left--) {
      if (left <= 0 && wakeups() === this.#wakeups) return;
      begin(starters[this.#begun++]!);
    }
  }
}

const unfinished = new Set<{ readonly rest: unknown[] }>();

/** Those who were started and have not begun, the last first. */
export function starters(): unknown[] {
  return [...unfinished].flatMap((batch) => batch.rest).reverse();
}

let last: Batch<unknown> | null = null;

/**
 * Calls `begin` with `starter`, in the caller's context: after those who were to begin, or
 * to be woken, before, and never before this returns.
 */
export function startSoon<S>(begin: Begin<S>, starter: S): void {
  if (last !== null && last.isOpen(begin)) return last.add(starter);
  const batch = new Batch(begin);
  batch.add(starter);
  batch.schedule();
  last = batch as Batch<unknown>;
}
