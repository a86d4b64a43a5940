/**
 * Iterators of the program: takes their items, and closes them as a `for` loop does.
 *
 * Like a `for` loop, this calls `return()` once if it is left early, and never if the iterator
 * has ended or thrown. It can be interrupted while it waits for an item.
 *
 * @module
 */

import { isObjectOrFunction, isRevoked, show } from "../_base/checks.ts";
import { ignore } from "../_base/language.ts";
import { composed } from "./composed.ts";
import { isThenable } from "../_base/thenable.ts";
import { getCurrent } from "./current.ts";
import { isInterrupt, isRecipient } from "./interrupts.ts";
import type { Wait } from "./suspension.ts";
import { inTurns } from "./run_queue.ts";

type Step<T> = IteratorResult<T, unknown>;

/**
 * - `idle`: `next()` can be called
 * - `asked`: `next()` was called and has not settled
 * - `over`: has ended, has thrown, or was closed
 */
type IterationState = "idle" | "asked" | "over";

/**
 * One pass over an iterable.
 *
 * @typeParam T The type of the items.
 */
export class Iteration<T> {
  readonly #iterator: Iterator<T> | AsyncIterator<T>;
  readonly #next: () => Step<T> | PromiseLike<Step<T>>;
  /** Whether each step must be awaited. */
  readonly isAsync: boolean;
  #state: IterationState = "idle";

  /**
   * Opens an iterable. {@linkcode Iteration.close} must be called at the end.
   *
   * @throws {TypeError} If it is not iterable.
   */
  constructor(items: Iterable<T> | AsyncIterable<T>, what: string) {
    if (isRevoked(items)) throw notIterable(items, what);
    const openAsync = (items as AsyncIterable<T>)?.[Symbol.asyncIterator];
    const open = openAsync ?? (items as Iterable<T>)?.[Symbol.iterator];
    if (typeof open !== "function") {
      throw notIterable(items, what);
    }
    this.isAsync = openAsync !== undefined && openAsync !== null;
    const iterator: Iterator<T> | AsyncIterator<T> | undefined = open.call(
      items,
    );
    // Looked up once, as a `for` loop does.
    const next = isObjectOrFunction(iterator) ? iterator.next : undefined;
    if (typeof next !== "function") {
      throw new TypeError(
        `Cannot ${what} as the iterator must be an object with next(): received ${
          show(iterator)
        }`,
      );
    }
    this.#iterator = iterator as Iterator<T> | AsyncIterator<T>;
    this.#next = next;
  }

  /** Whether `next()` was called and has not settled. */
  get isAsked(): boolean {
    return this.#state === "asked";
  }

  /** Whether there is nothing to close. */
  get isOver(): boolean {
    return this.#state === "over";
  }

  /** Takes the next step of an iterator that is not async. */
  step(): Step<T> {
    try {
      return this.#stepOf(this.#next.call(this.#iterator) as Step<T>);
    } catch (error) {
      this.#state = "over";
      throw error;
    }
  }

  /**
   * Takes the next step of an async iterator. A switch point. An interrupt of the current
   * greenlet interrupts the wait of the iterator, and this waits for the clean-up of the
   * iterator.
   */
  stepAsync(): Wait<Step<T>> {
    return composed(async () => {
      this.#state = "asked";
      try {
        const answer = this.#next.call(this.#iterator);
        return this.#stepOf(isThenable(answer) ? await answer : answer);
      } catch (error) {
        // The iterator may have survived the interrupt, so it is closed anyway.
        const isOurs = isInterrupt(error) && isRecipient(error, getCurrent());
        this.#answered(isOurs ? "idle" : "over");
        throw error;
      }
    });
  }

  #stepOf(step: Step<T>): Step<T> {
    if (!isObjectOrFunction(step)) {
      throw new TypeError(
        `Cannot take from the iterator as a result must be an object: received ${
          show(step)
        }`,
      );
    }
    // Both are read here, as a getter may throw, and then the iterator is over.
    const answer: Step<T> = step.done
      ? { done: true, value: undefined }
      : { done: false, value: step.value };
    this.#answered(answer.done ? "over" : "idle");
    return answer;
  }

  #answered(state: "idle" | "over"): void {
    // The iterator may have been closed meanwhile.
    if (this.#state !== "over") this.#state = state;
  }

  /**
   * Closes the iterator, unless it is over, and waits for that. A switch point.
   *
   * An iterator whose `next()` has not settled is closed as well, but the call does not wait
   * for it: it may never finish.
   */
  close(): Wait<void> {
    return composed(async () => {
      const isStuck = this.#state === "asked";
      const closing = this.#end();
      if (!isThenable(closing)) return checkClosing(closing);
      if (!isStuck) return checkClosing(await closing);
      closing.then(undefined, ignore);
      await Promise.race([
        closing,
        new Promise<void>((resolve) => inTurns(2, resolve)),
      ]);
    });
  }

  /** Closes the iterator, unless it is over. Does not wait and does not throw. */
  closeSoon(): void {
    try {
      const closing = this.#end();
      if (isThenable(closing)) closing.then(undefined, ignore);
    } catch {
      // The iterator is closed because of another error: that error is thrown instead.
    }
  }

  #end(): unknown {
    if (this.#state === "over") return CLOSED;
    this.#state = "over";
    const iterator = this.#iterator as Iterator<T>;
    const end = iterator.return;
    return end === undefined || end === null ? CLOSED : end.call(iterator);
  }
}

/** Stands for the result of \`return()\`, where there is nothing to call. */
const CLOSED = {};

/** Throws if \`return()\` has not given an object, as a loop does. */
function checkClosing(closing: unknown): void {
  if (isObjectOrFunction(closing)) return;
  throw new TypeError(
    `Cannot close the iterator as the result of return() must be an object: received ${
      show(closing)
    }`,
  );
}

function notIterable(items: unknown, what: string): TypeError {
  return new TypeError(
    `Cannot ${what} as the items must be iterable: received ${show(items)}`,
  );
}
