/**
 * A clock for tests: time that does not depend on how fast the machine is.
 *
 * It stands in for `performance.now()`, `setTimeout()` and `setInterval()`, and goes by in
 * one of three ways:
 *
 * - {@linkcode Clock.inEachTest}: time stands still as long as anything can happen without
 *   it, and then jumps to the next timer. What sleeps 1 ms is always done before what sleeps
 *   2 ms, an hour takes no time, and a test that waits in vain fails at once.
 * - {@linkcode Clock.stop}: time stands still until {@linkcode Clock.pass} or
 *   {@linkcode Clock.advance} moves it.
 * - otherwise: real time, for what runs in a process of its own or does real I/O. A test of
 *   a file that uses `inEachTest` asks for it by {@linkcode Clock.useRealTime}.
 *
 * Has to be imported before the library, which takes its timers at import.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { clearImmediate, setImmediate } from "node:timers";
import { spendBudget, wakeups } from "../_hub/run_queue.ts";
import { isSettling, QUIET_TURNS, settle } from "./_quiet.ts";

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
 * How long one look at the clock takes while time goes by itself, in ms: after ten of them
 * a slice of the hub's is spent, so that wake-ups are deferred as they are in real time.
 */
const LOOK = SLICE / 10;

/**
 * `CLOCK_SEED=1 deno task test` ends slices sooner or later than usual, at other places with
 * each seed: a test that depends on how fast the machine is fails with some of them.
 */
const SEED = Number(Deno.env.get("CLOCK_SEED") ?? 0);

let seed = SEED;

/** A number from 0 to 1, the same for the same seed (mulberry32). */
function random(): number {
  seed = seed + 0x6D2B79F5 | 0;
  let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
  t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
  return ((t ^ t >>> 14) >>> 0) / 4294967296;
}

interface Timer {
  readonly number: number;
  readonly callback: () => void;
  /** The interval at which it is called again, in ms; `null` for once. */
  readonly interval: number | null;
  due: number;
}

/** The one clock: the runtime's, except in tests that use another time. */
class Clock {
  /**
   * - `real`: the runtime's
   * - `stopped`: moved by hand
   * - `jumping`: goes on to the next timer when nothing else can happen
   */
  #mode: "real" | "stopped" | "jumping" = "real";
  #time = 0;
  /** How far real time is behind, as time must never go back. */
  #offset = 0;
  #timers: Timer[] = [];
  #number = 1e9;
  #immediate: ReturnType<typeof setImmediate> | null = null;
  /** How many timers were started and stopped. */
  #changes = 0;
  /** The amount of activity at the last turn, and for how many turns it has not changed. */
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
      this.#time += SEED === 0 ? LOOK : 2 * SLICE * random();
    }
    return this.#time;
  }

  /**
   * From now on time goes by in {@linkcode Clock.advance} and {@linkcode Clock.pass} only.
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
   * Runs each test of this file in a time that jumps to the next timer whenever nothing else
   * can happen. A test that leaves a timer behind fails: the sanitizers do not see these
   * timers. To be called once, at the head of the file.
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

  /** The rest of this test runs in real time. To be called in its first line. */
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
      // The part of a millisecond that looks have taken does not delay it.
      due: Math.floor(this.#time) + after,
    });
    if (this.#mode === "jumping") this.#watch();
    return number;
  }

  /** How many timers are started. */
  get armed(): number {
    return this.#timers.length;
  }

  /** Goes on to the next timer that is due, and calls it. */
  advance(): void {
    const next = this.#next();
    this.#time = Math.max(this.#time, next.due);
    this.#fire(next);
  }

  /**
   * Lets time go by, of a clock that is stopped: calls what is due, one by one, and before
   * and after each waits until nothing happens any more.
   *
   * @param ms How long.
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
      for (let i = 16 * random(); i >= 0; i--) spendBudget();
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

  /** Looks at each turn of the event loop whether there is anything but time to wait for. */
  #watch(): void {
    this.#immediate ??= setImmediate(() => {
      this.#immediate = null;
      if (this.#mode !== "jumping" || this.armed === 0) return;
      this.#watch();
      const activity = wakeups() + this.#changes;
      if (isSettling() || activity !== this.#activity) this.#quietTurns = 0;
      this.#activity = activity;
      // A program that never rests takes time as well, with every look at the clock.
      const isDue = this.#next().due <= this.#time;
      if (isDue || ++this.#quietTurns === QUIET_TURNS) {
        this.#quietTurns = 0;
        this.advance();
      }
    });
  }
}

/** The clock that the library goes by. */
export const clock: Clock = new Clock();

/** Gives the others their timers back; the library has taken ours. */
export function giveBack(): void {
  globalThis.setTimeout = real.setTimeout;
  globalThis.clearTimeout = real.clearTimeout;
  globalThis.setInterval = real.setInterval;
  globalThis.clearInterval = real.clearInterval;
}
