/**
 * A clock for tests of code with greenlets. The test moves time by hand.
 *
 * ```ts
 * import { sleep, spawn } from "@gevent/gevent";
 * import { TestClock } from "@gevent/gevent/testing";
 *
 * using clock = new TestClock();
 * const g = spawn(sleep, 60_000);
 * await clock.advance(59_999);
 * console.log(g.dead); // false
 * await clock.advance(1);
 * console.log(g.dead); // true
 * ```
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { setImmediate } from "./_base/immediate.ts";
import { numberError } from "./_base/checks.ts";
import { current } from "./_hub/current.ts";
import { restOfHub } from "./_hub/quiet.ts";
import {
  checkDuration,
  type Clock,
  countTimers,
  isMovedByHand,
  now,
  useClock,
} from "./_hub/timers.ts";

/** The default limit of {@linkcode TestClock.runAll}. */
const MOST_DEADLINES = 10_000;

/**
 * The latest time that a clock can reach, by the library's time in ms. Much later, a number can't
 * tell one millisecond from the next, and no timer would ever be due.
 */
const LATEST = 2 ** 52;

/**
 * - `ready`: in use, and not moving
 * - `moving`: going from deadline to deadline
 * - `disposed`: no longer in use
 */
type State = "ready" | "moving" | "disposed";

/**
 * A clock that a test moves by hand, in place of real time. gevent has none.
 *
 * While it is in use, it alone moves `sleep()`, `spawnLater()`, every timeout, and the grace
 * of a kill. Under `patch()` it also moves each `setTimeout()` and `setInterval()` that is set
 * while the clock is in use, in greenlets and outside. Timers that run when the clock is made
 * keep their remaining time, and so do timers that are left when it is disposed of.
 *
 * It does not move unpatched timers, `Date`, `performance.now()`, `AbortSignal.timeout()`, or
 * anything from outside the process.
 *
 * @example A time limit
 * ```ts
 * import { spawn, Timeout, until, withTimeout } from "@gevent/gevent";
 * import { TestClock } from "@gevent/gevent/testing";
 *
 * using clock = new TestClock();
 * const g = spawn(async () => {
 *   const limited = withTimeout(5000, () => until(new Promise(() => {})));
 *   await limited.catch((error) => console.log(error instanceof Timeout)); // true
 * });
 * await clock.advance(5000);
 * console.log(g.dead); // true
 * ```
 */
export class TestClock implements Disposable {
  /** The library's time when the clock was made, as a whole number, as deadlines are. */
  readonly #base = Math.ceil(now());
  #time = 0;
  #state: State = "ready";
  /** The next deadline, and the callback to call then. */
  #due: { time: number; callback: () => void } | null = null;

  static {
    showAs(this, (clock) => ({
      state: clock.#state,
      now: clock.now,
      pending: clock.pending,
    }));
  }

  /**
   * Makes a clock and starts to use it.
   *
   * @throws {Error} If another clock is in use.
   */
  constructor() {
    if (isMovedByHand()) {
      throw new Error(
        "Cannot create a test clock as another one is in use: dispose of it first",
      );
    }
    const clock: Clock = {
      now: () => this.#base + this.#time,
      callAt: (time, callback) => {
        // Calls it in the context in which the timer was set, as the runtime does.
        const inContext = current.capture();
        this.#due = { time, callback: () => inContext(callback) };
      },
      cancel: () => {
        this.#due = null;
      },
    };
    useClock(clock);
  }

  /** How many milliseconds the clock has moved since it was made. */
  get now(): number {
    return this.#time;
  }

  /** The number of running timers: sleeps, time limits and all others. */
  get pending(): number {
    return countTimers();
  }

  /**
   * Moves time on by a number of milliseconds. It stops at each deadline on the way until all
   * greenlets wait again, so a sleep that begins and ends within the span ends in this call.
   * Not a switch point: an interrupt of the calling greenlet does not stop the clock.
   *
   * @param ms How many milliseconds: at least 0, and so few that the time stays below 2 ** 52 ms
   * (142,000 years). To reach all deadlines, use {@linkcode TestClock.runAll}.
   * @throws {TypeError | RangeError} If `ms` is not such a number.
   * @throws {Error} If the clock is moving already, or was disposed of.
   *
   * @example Two sleeps
   * ```ts
   * import { sleep, spawn } from "@gevent/gevent";
   * import { TestClock } from "@gevent/gevent/testing";
   *
   * using clock = new TestClock();
   * spawn(async () => {
   *   await sleep(10);
   *   await sleep(10);
   *   console.log(clock.now); // 20
   * });
   * await clock.advance(100);
   * ```
   */
  async advance(ms: number): Promise<void> {
    checkDuration(ms, "advance the clock");
    if (ms < 0 || ms === Infinity) {
      throw numberError(
        "advance the clock",
        "ms",
        "a finite number of at least 0",
        ms,
      );
    }
    const end = this.#time + ms;
    if (end > this.#latest) {
      throw numberError(
        "advance the clock",
        "ms",
        `at most ${
          this.#latest - this.#time
        }, as its time must stay below 2 ** 52 ms`,
        ms,
      );
    }
    await this.#move(async () => {
      while (await this.#step(end));
      if (this.#isInUse) this.#time = end;
    });
  }

  /**
   * Moves time on to the next deadline, if there is one before 2 ** 52 ms. Not a switch point.
   *
   * @returns `true` if there was one.
   * @throws {Error} If the clock is moving already, or was disposed of.
   *
   * @example Usage
   * ```ts
   * import { sleep, spawn } from "@gevent/gevent";
   * import { TestClock } from "@gevent/gevent/testing";
   *
   * using clock = new TestClock();
   * spawn(sleep, 250);
   * console.log(await clock.next(), clock.now); // true 250
   * console.log(await clock.next()); // false
   * ```
   */
  async next(): Promise<boolean> {
    let moved = false;
    await this.#move(async () => {
      moved = await this.#step(this.#latest);
      await restOfHub();
    });
    return moved;
  }

  /**
   * Moves time on until no timer is left that is due before 2 ** 52 ms. So
   * `sleep(Number.MAX_SAFE_INTEGER)` goes on, as `sleep(Infinity)` does. Not a switch point.
   *
   * @param limit The greatest number of deadlines to reach.
   * @throws {TypeError | RangeError} If `limit` is not a positive integer.
   * @throws {Error} If timers are left after `limit` deadlines, as with an interval; or if the
   * clock is moving already, or was disposed of.
   *
   * @example Usage
   * ```ts
   * import { sleep, spawn } from "@gevent/gevent";
   * import { TestClock } from "@gevent/gevent/testing";
   *
   * using clock = new TestClock();
   * const g = spawn(sleep, 24 * 60 * 60 * 1000);
   * await clock.runAll();
   * console.log(g.dead, clock.pending); // true 0
   * ```
   */
  async runAll(limit: number = MOST_DEADLINES): Promise<void> {
    if (!Number.isInteger(limit) || limit < 1) {
      throw numberError("run all timers", "limit", "a positive integer", limit);
    }
    await this.#move(async () => {
      for (let left = limit; await this.#step(this.#latest); left--) {
        if (left > 1) continue;
        await restOfHub();
        if (!this.#isDueBy(this.#latest)) break;
        throw new Error(
          `Cannot run all timers as some are left after ${limit} deadlines`,
        );
      }
    });
  }

  /**
   * Stops using the clock. Timers that are left go on in real time, with their remaining time.
   * Does nothing if it was called before.
   */
  [Symbol.dispose](): void {
    if (this.#state === "disposed") return;
    this.#state = "disposed";
    useClock(null);
  }

  /** The latest time that this clock can reach, in ms since it was made. */
  get #latest(): number {
    return LATEST - this.#base;
  }

  #isDueBy(end: number): boolean {
    return this.#due !== null && this.#due.time - this.#base <= end;
  }

  get #isInUse(): boolean {
    return this.#state !== "disposed";
  }

  async #move(move: () => Promise<void>): Promise<void> {
    if (this.#state === "moving") {
      throw new Error("Cannot move the clock as it is moving already");
    }
    if (this.#state === "disposed") {
      throw new Error("Cannot move the clock as it was disposed of");
    }
    this.#state = "moving";
    try {
      await move();
    } finally {
      if (this.#isInUse) this.#state = "ready";
    }
    if (!this.#isInUse) {
      throw new Error("Cannot move the clock further as it was disposed of");
    }
  }

  /** Waits until all greenlets wait, and goes to the next deadline if it is at most `end`. */
  async #step(end: number): Promise<boolean> {
    await restOfHub();
    if (!this.#isDueBy(end)) return false;
    const due = this.#due!;
    this.#due = null;
    this.#time = Math.max(this.#time, due.time - this.#base);
    // Calls the callback from the event loop, as the runtime calls its timers.
    await new Promise<void>((resolve) =>
      setImmediate(() => {
        // Before the loop turned, the clock may have been disposed of.
        if (this.#isInUse) due.callback();
        resolve();
      })
    );
    return true;
  }
}

nameClasses({ TestClock });
