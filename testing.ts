/**
 * A clock for tests of code with greenlets: time goes by when the test says so.
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

import { AsyncResource } from "node:async_hooks";
import { setImmediate } from "./_base/immediate.ts";
import { numberError } from "./_base/checks.ts";
import { restOfHub } from "./_hub/quiet.ts";
import {
  checkDuration,
  type Clock,
  countTimers,
  isMovedByHand,
  now,
  useClock,
} from "./_hub/timers.ts";

/** How many deadlines {@linkcode TestClock.runAll} goes to, if it isn't told. */
const MOST_DEADLINES = 10_000;

/**
 * - `ready`: moves when it is told to
 * - `moving`: goes from deadline to deadline
 * - `disposed`: moves no more
 */
type State = "ready" | "moving" | "disposed";

/**
 * A clock that moves the library's time by hand. While it is in use, these move by it and by
 * nothing else: `sleep()`, `spawnLater()`, every timeout and limit, and the grace of a kill;
 * under `patch()` also `setTimeout()` and `setInterval()`, in greenlets and outside, if they
 * are set while the clock is in use. Timers that run already when it is made keep what
 * remains of them, and so do those that are left when it is disposed of.
 *
 * Not moved: timers that aren't patched, `Date`, `performance.now()`, `AbortSignal.timeout()`
 * and all that comes from outside the process.
 *
 * gevent and greenlet have nothing like it.
 *
 * @example A limit
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
  /** The library's time when the clock was made: whole, as deadlines are. */
  readonly #base = Math.ceil(now());
  #time = 0;
  #state: State = "ready";
  /** What the library has to be called for next. */
  #due: { time: number; callback: () => void } | null = null;

  /**
   * Makes a clock and puts it in use.
   *
   * @throws {Error} If another one is in use.
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
        // The runtime calls its timers in the context in which they were set.
        this.#due = { time, callback: AsyncResource.bind(callback) };
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

  /** How many timers run: sleeps, limits, and what else waits for time. */
  get pending(): number {
    return countTimers();
  }

  /**
   * Moves time on, from deadline to deadline in their order. At each one it waits until all
   * greenlets wait again, so that a sleep that one of them begins within the span is over
   * within it, too. Not a switch point: an interrupt of the greenlet that calls it does not
   * stop the clock.
   *
   * @param ms How many milliseconds, at least 0. `Infinity` is refused: see
   * {@linkcode TestClock.runAll}.
   * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds.
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
    await this.#move(async () => {
      while (await this.#step(end));
      if (this.#isInUse) this.#time = end;
    });
  }

  /**
   * Moves time on to the next deadline, if there is one. Not a switch point.
   *
   * @returns Whether there was one.
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
      moved = await this.#step(Infinity);
      await restOfHub();
    });
    return moved;
  }

  /**
   * Moves time on until no timer is left. Not a switch point.
   *
   * @param limit To how many deadlines at most.
   * @throws {TypeError | RangeError} If `limit` is not a positive integer.
   * @throws {Error} If there is another deadline after the last, as with an interval; or if
   * the clock is moving already, or was disposed of.
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
      for (let left = limit; await this.#step(Infinity); left--) {
        if (left > 1) continue;
        await restOfHub();
        if (this.#due === null) break;
        throw new Error(
          `Cannot run all timers as there are more after ${limit} deadlines`,
        );
      }
    });
  }

  /**
   * Gives time back to the runtime. Timers that are left go on in real time, with what
   * remains of them. Does nothing when it was called before.
   */
  [Symbol.dispose](): void {
    if (this.#state === "disposed") return;
    this.#state = "disposed";
    useClock(null);
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

  /** Waits for rest, and goes to the next deadline if it comes by `end`. */
  async #step(end: number): Promise<boolean> {
    await restOfHub();
    const due = this.#due;
    if (due === null || due.time - this.#base > end) return false;
    this.#due = null;
    this.#time = Math.max(this.#time, due.time - this.#base);
    // From the event loop, as the runtime calls its timers.
    await new Promise<void>((resolve) =>
      setImmediate(() => {
        // It may have been taken back, or given to the runtime, before the loop has turned.
        if (this.#isInUse) due.callback();
        resolve();
      })
    );
    return true;
  }
}
