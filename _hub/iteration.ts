/**
 * Iterators of the user's: taken from, and closed as the language closes them.
 *
 * A `for` loop calls `return()` once when it is left early, and never when the iterator has
 * ended or thrown. So does this, and it can be interrupted while it waits for an item.
 *
 * @module
 */

import { isObjectOrFunction } from "../_base/checks.ts";
import { ignore } from "../_base/language.ts";
import { composed } from "./composed.ts";
import { isThenable } from "../_base/thenable.ts";
import { getCurrent } from "./current.ts";
import { isInterrupt, isRecipient } from "./interrupts.ts";
import type { Wait } from "./suspension.ts";
import { inTurns } from "./run_queue.ts";

type Step<T> = IteratorResult<T, unknown>;

/**
 * - `idle`: can be asked for an item
 * - `asked`: was asked, and has not answered
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
  /** Whether an answer has to be waited for. */
  readonly isAsync: boolean;
  #state: IterationState = "idle";

  /**
   * Opens an iterable. Whoever does so calls {@linkcode Iteration.close} in the end.
   *
   * @throws {TypeError} If it is not iterable.
   */
  constructor(items: Iterable<T> | AsyncIterable<T>, what: string) {
    const openAsync = (items as AsyncIterable<T>)?.[Symbol.asyncIterator];
    const open = openAsync ?? (items as Iterable<T>)?.[Symbol.iterator];
    if (typeof open !== "function") {
      throw new TypeError(
        `Cannot ${what} as the items must be iterable: received ${items}`,
      );
    }
    this.isAsync = openAsync !== undefined && openAsync !== null;
    this.#iterator = open.call(items);
    // As the language does, which looks for it once.
    this.#next = this.#iterator.next;
  }

  /** Whether it was asked for an item and has not answered. */
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
   * Takes the next step of an async iterator. A switch point: what the iterator waits for
   * is interrupted with the current greenlet, and is waited for while it cleans up.
   */
  stepAsync(): Wait<Step<T>> {
    return composed(async () => {
      this.#state = "asked";
      try {
        const answer = this.#next.call(this.#iterator);
        return this.#stepOf(isThenable(answer) ? await answer : answer);
      } catch (error) {
        // One that an interrupt has ended is closed all the same: it may not know.
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
          String(step)
        }`,
      );
    }
    this.#answered(step.done ? "over" : "idle");
    return step;
  }

  #answered(state: "idle" | "over"): void {
    // It may have been closed meanwhile.
    if (this.#state !== "over") this.#state = state;
  }

  /**
   * Tells the iterator that no more is wanted, unless it is over. A switch point.
   *
   * It may take its time. One that was asked for an item and does not answer is told all
   * the same, but not waited for: it may never answer to this either.
   */
  close(): Wait<void> {
    return composed(async () => {
      const isStuck = this.#state === "asked";
      const closing = this.#end();
      if (!isThenable(closing)) return;
      if (!isStuck) return void await closing;
      closing.then(undefined, ignore);
      await Promise.race([
        closing,
        new Promise<void>((resolve) => inTurns(2, resolve)),
      ]);
    });
  }

  /** As {@linkcode Iteration.close}, but waits for nothing and throws nothing. */
  closeSoon(): void {
    try {
      const closing = this.#end();
      if (isThenable(closing)) closing.then(undefined, ignore);
    } catch {
      // There is an error already for which it is closed.
    }
  }

  #end(): unknown {
    if (this.#state === "over") return undefined;
    this.#state = "over";
    const iterator = this.#iterator as Iterator<T>;
    const end = iterator.return;
    return end === undefined || end === null ? undefined : end.call(iterator);
  }
}
