/**
 * Measures for how long a block of code holds up the event loop.
 *
 * @module
 */

import { setInterval } from "node:timers";
import { noteIdleTimer } from "../_base/pending.ts";
import { Disposals } from "../_base/disposals.ts";
import { clearImmediate, setImmediate } from "../_base/immediate.ts";
import type { Greenlet } from "../greenlet.ts";
import { getCurrent, runDetached } from "./current.ts";
import { observe, type Observer } from "./observer.ts";

/** The shortest and the longest time between two beats, in ms. */
const SHORTEST = 10;
const LONGEST = 100;
/** How late a timer may be, in ms, when nothing holds up the loop. */
const SLACK = 5;

/** A time in which no other code could run. */
export interface Stretch {
  /** How long it was, in ms. */
  readonly ms: number;
  /** The greenlet that ran; `null` if it is not known. */
  readonly greenlet: Greenlet | null;
}

/**
 * Measures for how long code runs without a switch, until it is disposed of.
 *
 * A stretch begins with the block, and when a greenlet begins or goes on. It ends with the next
 * stretch, or when the event loop turns. Code that a foreign promise resumes is not noticed. So
 * a timer beats as well: if it is late, the loop was held up for that time at least.
 */
export class BlockingWatch implements Observer, Disposable {
  readonly #clock = performance;
  readonly #beat: number;
  readonly #disposals = new Disposals();
  /** The time at which the stretch has begun; `null` if it has ended with a turn of the loop. */
  #began: number | null;
  #runner: Greenlet | null = getCurrent();
  #immediate: ReturnType<typeof setImmediate> | null = null;
  /** The time at which the next beat is due. */
  #due: number;
  #longest: Stretch = { ms: 0, greenlet: this.#runner };
  #hasSwitched = false;

  /** @param limit How long a stretch may be, in ms. Sets how often the timer beats. */
  constructor(limit: number) {
    this.#beat = Math.trunc(
      Math.max(SHORTEST, Math.min(limit / 4, LONGEST)),
    );
    const disposals = this.#disposals;
    disposals.use(observe(this));
    runDetached(() => {
      const timer = setInterval(() => this.#beats(), this.#beat);
      timer.unref();
      disposals.defer(() => clearInterval(timer as never));
      disposals.use(noteIdleTimer(timer, this.#beat));
      queueMicrotask(() => this.#hasSwitched = true);
    });
    this.#began = this.#clock.now();
    this.#due = this.#began + this.#beat;
    this.#awaitTurn();
  }

  /** Whether the block has let other code run. */
  get hasSwitched(): boolean {
    return this.#hasSwitched;
  }

  begins(greenlet: Greenlet): void {
    this.#switched(greenlet);
  }

  resumes(greenlet: Greenlet): void {
    this.#switched(greenlet);
  }

  #switched(greenlet: Greenlet): void {
    const now = this.#clock.now();
    this.#endStretch(now);
    this.#began = now;
    this.#runner = greenlet;
    this.#hasSwitched = true;
    this.#awaitTurn();
  }

  /** Ends the stretch at the next turn of the event loop, as the loop may be idle after it. */
  #awaitTurn(): void {
    this.#immediate ??= runDetached(() =>
      setImmediate(() => {
        this.#immediate = null;
        this.#endStretch(this.#clock.now());
      })
    );
  }

  #endStretch(now: number): void {
    if (this.#began === null) return;
    this.#note(now - this.#began, this.#runner);
    this.#began = null;
    this.#runner = null;
  }

  #beats(): void {
    const now = this.#clock.now();
    this.#note(now - this.#due - SLACK, this.#runner);
    this.#due = now + this.#beat;
  }

  #note(ms: number, greenlet: Greenlet | null): void {
    if (ms > this.#longest.ms) this.#longest = { ms, greenlet };
  }

  /** The longest stretch until now. Called at the end of the block. */
  longest(): Stretch {
    const now = this.#clock.now();
    if (this.#began !== null) this.#endStretch(now);
    else this.#note(now - this.#due - SLACK, getCurrent());
    return this.#longest;
  }

  [Symbol.dispose](): void {
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
    this.#disposals[Symbol.dispose]();
  }
}
