/**
 * A clock for tests: time that does not depend on how fast the machine is.
 *
 * It replaces `performance.now()`, `setTimeout()` and `setInterval()`, and moves in one of three
 * ways:
 *
 * - {@linkcode Clock.inEachTest}: time stands still as long as anything can happen without
 *   it, and then jumps to the next timer. A sleep of 1 ms always ends before one of 2 ms, an
 *   hour takes no time, and a test that waits for nothing fails at once.
 * - {@linkcode Clock.stop}: time stands still until {@linkcode Clock.pass} or
 *   {@linkcode Clock.advance} moves it.
 * - otherwise: real time, for tests of processes and of real I/O. In a file that uses
 *   `inEachTest`, a test asks for it by {@linkcode Clock.useRealTime}.
 *
 * Must be imported before the library, which takes its timers at import.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { clearImmediate, setImmediate } from "node:timers";
import { spendBudget, wakeups } from "../_hub/run_queue.ts";
import { isSettling, QUIET_TURNS, settle } from "./_quiet.ts";
import { random } from "./_seeded.ts";

const real = {
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  setInterval: globalThis.setInterval,
  clearInterval: globalThis.clearInterval,
  now: performance.now.bind(performance),
};

/** How long wake-ups may keep the event loop from turning, in ms. */
const SLICE = 0.1;

/**
 * By how much each reading moves a clock that jumps, in ms. After ten readings the time slice of
 * the hub is over, so that wake-ups are deferred as in real time.
 */
const LOOK = SLICE / 10;

/**
 * `CLOCK_SEED=1 deno task test` ends time slices sooner or later than usual, at other places with
 * each seed. A test that depends on how fast the machine is fails with some seeds.
 */
const SEED = Number(Deno.env.get("CLOCK_SEED") ?? 0);

const next = random(SEED);

interface Timer {
  readonly number: number;
  readonly callback: () => void;
  /** The interval at which it is called again, in ms; `null` for once. */
  readonly interval: number | null;
  due: number;
}

/** The clock: that of the runtime, except in tests that use another time. */
class Clock {
  /**
   * - `real`: the runtime's
   * - `stopped`: moved by hand
   * - `jumping`: moved to the next timer when nothing else can happen
   */
  #mode: "real" | "stopped" | "jumping" = "real";
  #time = 0;
  /** Is added to real time, so that the clock never goes back. */
  #offset = 0;
  #timers: Timer[] = [];
  #number = 1e9;
  #immediate: ReturnType<typeof setImmediate> | null = null;
  /** The number of starts and stops of timers so far. */
  #changes = 0;
  /** The wake-ups and starts and stops until the last turn, and the turns without a new one. */
  #activity = 0;
  #quietTurns = 0;

  constructor() {
    performance.now = () => this.now();
    globalThis.setTimeout = ((
      callback: (...args: unknown[]) => void,
      ms?: number,
      ...args: unknown[]
    ) =>
      this.#mode === "real"
        ? real.setTimeout(callback, ms, ...args)
        : this.start(ms, () => callback(...args))) as typeof setTimeout;
    globalThis.setInterval = ((
      callback: (...args: unknown[]) => void,
      ms?: number,
      ...args: unknown[]
    ) =>
      this.#mode === "real"
        ? real.setInterval(callback, ms, ...args)
        : this.start(ms, () => callback(...args), true)) as typeof setInterval;
    globalThis.clearTimeout = globalThis.clearInterval = (number) => {
      const index = this.#timers.findIndex((t) => t.number === number);
      if (index < 0) return real.clearTimeout(number);
      this.#timers.splice(index, 1);
      this.#changes++;
    };
  }

  /** The time, as `performance.now()` gives it. */
  now(): number {
    if (this.#mode === "real") return real.now() + this.#offset;
    if (this.#mode === "jumping") {
      this.#time += SEED === 0 ? LOOK : 2 * SLICE * next();
    }
    return this.#time;
  }

  /**
   * From now on only {@linkcode Clock.advance} and {@linkcode Clock.pass} move the time.
   *
   * @example
   * ```ts ignore
   * using _ = clock.stop();
   * const g = spawn(sleep, 5);
   * await clock.pass(5);
   * assertFalse(g.dead); // Never too early
   * await clock.pass(1);
   * assert(g.dead);
   * ```
   */
  stop(): Disposable {
    return this.#enter("stopped");
  }

  /**
   * Runs each test of this file with a clock that jumps to the next timer whenever nothing else
   * can happen. A test that leaves a timer behind fails, as the sanitizers don't see these
   * timers. Must be called once, at the head of the file.
   */
  inEachTest(): void {
    let used: Disposable | null = null;
    let before = 0;
    Deno.test.beforeEach(() => {
      before = this.armed;
      used = this.#enter("jumping");
    });
    Deno.test.afterEach(() => {
      used?.[Symbol.dispose]();
      const left = this.armed - before;
      if (left > 0) throw new Error(`${left} timers are left behind`);
    });
  }

  /** The rest of this test runs in real time. Must be called in its first line. */
  useRealTime(): void {
    if (this.armed > 0) throw new Error("Cannot leave timers behind");
    this.#leave();
  }

  /** Starts a timer. */
  start(ms: number | undefined, callback: () => void, again = false): number {
    const number = this.#number++;
    this.#changes++;
    const after = Math.max(Number(ms) || 0, this.#mode === "stopped" ? 0 : 1);
    this.#timers.push({
      number,
      callback: AsyncLocalStorage.bind(callback),
      interval: again ? after : null,
      // The part of a millisecond that readings have added does not delay the timer.
      due: Math.floor(this.#time) + after,
    });
    if (this.#mode === "jumping") this.#watch();
    return number;
  }

  /** The number of timers that run. */
  get armed(): number {
    return this.#timers.length;
  }

  /** Moves the time on to the next timer, and calls it. */
  advance(): void {
    const next = this.#next();
    this.#time = Math.max(this.#time, next.due);
    this.#fire(next);
  }

  /**
   * Moves a stopped clock on. Calls the timers that are due, one by one, and waits before and
   * after each until nothing happens any more.
   *
   * @param ms By how many milliseconds.
   */
  async pass(ms: number): Promise<void> {
    const end = this.#time + ms;
    for (;;) {
      await settle();
      if (this.armed === 0 || this.#next().due > end) break;
      this.advance();
    }
    this.#time = end;
  }

  #enter(mode: "stopped" | "jumping"): Disposable {
    const before = this.#mode;
    this.#time = Math.ceil(this.now());
    this.#mode = mode;
    if (SEED !== 0) {
      // The hub looks at the clock at every 16th wake-up only.
      for (let i = 16 * next(); i >= 0; i--) spendBudget();
    }
    return {
      [Symbol.dispose]: () => {
        if (before === "real") this.#leave();
        else this.#mode = before;
        if (before === "jumping" && this.armed > 0) this.#watch();
        if (mode === "stopped" && before === "real") this.#timers = [];
      },
    };
  }

  #leave(): void {
    this.#mode = "real";
    this.#offset += Math.max(0, this.#time - this.now());
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
  }

  #next(): Timer {
    let next = this.#timers[0]!;
    for (const timer of this.#timers) if (timer.due < next.due) next = timer;
    return next;
  }

  #fire(timer: Timer): void {
    this.#timers.splice(this.#timers.indexOf(timer), 1);
    if (timer.interval !== null) {
      timer.due += timer.interval;
      this.#timers.push(timer);
    }
    timer.callback();
  }

  /** Watches each turn of the event loop, and moves the time on when nothing else happens. */
  #watch(): void {
    this.#immediate ??= setImmediate(() => {
      this.#immediate = null;
      if (this.#mode !== "jumping" || this.armed === 0) return;
      this.#watch();
      const activity = wakeups() + this.#changes;
      if (isSettling() || activity !== this.#activity) this.#quietTurns = 0;
      this.#activity = activity;
      // In a program that never rests, the readings of the clock move the time.
      const isDue = this.#next().due <= this.#time;
      if (isDue || ++this.#quietTurns === QUIET_TURNS) {
        this.#quietTurns = 0;
        this.advance();
      }
    });
  }
}

/** The clock of the library. */
export const clock: Clock = new Clock();

/** Restores the global timer functions. The library has taken those of the clock at import. */
export function giveBack(): void {
  globalThis.setTimeout = real.setTimeout;
  globalThis.clearTimeout = real.clearTimeout;
  globalThis.setInterval = real.setInterval;
  globalThis.clearInterval = real.clearInterval;
}
