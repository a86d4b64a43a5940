/**
 * The user's iterators: takes items, and closes them as the language does.
 *
 * A `for` loop calls `return()` once when it is left early, and never when the iterator has
 * ended or thrown. So does this. It can be interrupted while it waits for an item.
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
 * - `asked`: was asked for an item, and has not given it
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
  /** Whether each step has to be awaited. */
  readonly isAsync: boolean;
  #state: IterationState = "idle";

  /**
   * Opens an iterable. {@linkcode Iteration.close} has to be called in the end.
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
    // Looked up once, as the language does.
    this.#next = this.#iterator.next;
  }

  /** Whether it was asked for an item, and has not given it. */
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
   * greenlet interrupts what the iterator waits for, and the clean-up of that is awaited.
   */
  stepAsync(): Wait<Step<T>> {
    return composed(async () => {
      this.#state = "asked";
      try {
        const answer = this.#next.call(this.#iterator);
        return this.#stepOf(isThenable(answer) ? await answer : answer);
      } catch (error) {
        // An interrupt may not have ended the iterator, so it is closed all the same.
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
    // The iterator may have been closed meanwhile.
    if (this.#state !== "over") this.#state = state;
  }

  /**
   * Closes the iterator, unless it is over, and waits for that. A switch point.
   *
   * An iterator that was asked for an item and has not given it is closed as well, but not
   * waited for: it may never come to close.
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

  /** Closes the iterator, unless it is over. Waits for nothing and throws nothing. */
  closeSoon(): void {
    try {
      const closing = this.#end();
      if (isThenable(closing)) closing.then(undefined, ignore);
    } catch {
      // It is closed because of another error, which is the one to throw.
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
