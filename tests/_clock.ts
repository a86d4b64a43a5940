/**
 * A clock that a test moves by hand, so that a program with sleeps in it takes no time and
 * happens in the same order whenever it is run.
 *
 * Has to be imported before the library, which takes its timers at import.
 *
 * @module
 */

const real = {
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  now: performance.now.bind(performance),
};

interface Timer {
  readonly number: number;
  readonly due: number;
  readonly callback: () => void;
}

/** The one clock: the runtime's, except while it is stopped. */
class Clock {
  #time: number | null = null;
  #timers: Timer[] = [];
  #number = 1e9;

  constructor() {
    performance.now = () => this.now();
    globalThis.setTimeout =
      ((callback: () => void, ms = 0) =>
        this.#time === null
          ? real.setTimeout(callback, ms)
          : this.start(ms, callback)) as typeof setTimeout;
    globalThis.clearTimeout = (number) => {
      const before = this.#timers.length;
      this.#timers = this.#timers.filter((t) => t.number !== number);
      if (before === this.#timers.length) real.clearTimeout(number);
    };
  }

  /** What time it is, as `performance.now()` tells it. */
  now(): number {
    return this.#time ?? real.now();
  }

  /** From now on time goes by in {@linkcode Clock.advance} only. */
  stop(): Disposable {
    this.#time = Math.ceil(real.now());
    return {
      [Symbol.dispose]: () => {
        this.#time = null;
        this.#timers = [];
      },
    };
  }

  /** Starts a timer. */
  start(ms: number, callback: () => void): number {
    const number = this.#number++;
    this.#timers.push({ number, due: this.now() + ms, callback });
    return number;
  }

  /** How many timers are started. */
  get armed(): number {
    return this.#timers.length;
  }

  /** Goes on to the next timer that is due, and calls it. */
  advance(): void {
    let next = this.#timers[0]!;
    for (const timer of this.#timers) if (timer.due < next.due) next = timer;
    this.#timers.splice(this.#timers.indexOf(next), 1);
    this.#time = Math.max(this.#time!, next.due);
    next.callback();
  }
}

/** The clock that the library goes by. */
export const clock: Clock = new Clock();

/** Gives the others their timers back; the library has taken ours. */
export function giveBack(): void {
  globalThis.setTimeout = real.setTimeout;
  globalThis.clearTimeout = real.clearTimeout;
}
