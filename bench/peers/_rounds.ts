/**
 * Code of all peers in TypeScript: the protocol with `bench/run.ts`, and all that makes the
 * works the same for each.
 *
 * @module
 */

import process from "node:process";

/** How many tasks take turns in a `sleep(0)`: few, or many. */
export const FEW = 10;
export const MANY = 1_000;

/** How many tasks a pool has room for, and how many share a semaphore or a timeout. */
export const WORKERS = 100;

/** How many of the workers may hold the semaphore at once. */
export const PERMITS = 10;

/** How many greenlets hand a number on. */
export const CHAIN = 1_000;

/** How many greenlets wait for each event. */
export const WAITERS = 10_000;

/** How many timeouts run at any time. */
export const TIMEOUTS = 1_000;

/** In how many milliseconds a sleeper wakes up that has not to: a day. */
export const LONG = 86_400_000;

/** The longest of the sleeps that are slept to their end, in milliseconds. */
export const LONGEST_SLEEP = 1_000;

/** The measurements of a round. */
export interface Measured {
  /** Milliseconds by the clock. */
  ms?: number;
  /** Milliseconds of all processors, as the system counts them for the process. */
  cpu?: number;
  /** By how much the memory of the process has grown, as the system sees it. */
  bytes?: number;
  /** How much of it is used by objects. */
  heap?: number;
}

/** Takes the time of a round, from its beginning to its end unless told otherwise. */
export class Clock {
  #start = 0;
  #cpuStart = 0;
  #ms: number | null = null;
  #cpu = 0;

  /** Starts again: what was before is not measured. */
  start(): void {
    this.#cpuStart = cpuTime();
    this.#start = performance.now();
  }

  /** Ends the measurement: what follows is not measured. */
  stop(): void {
    if (this.#ms !== null) return;
    this.#ms = performance.now() - this.#start;
    this.#cpu = cpuTime() - this.#cpuStart;
  }

  /** The result of a measurement. */
  get measured(): Measured {
    this.stop();
    return { ms: this.#ms!, cpu: this.#cpu };
  }
}

/** How many milliseconds all threads of this process have run so far. */
export function cpuTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/**
 * Does its work so many times; what it returns is waited for, and added to what is
 * measured. Throws if the result is wrong. `size` is how many there are
 * at once, in a work that may be done in pieces.
 */
export type Work = (
  count: number,
  clock: Clock,
  size: number,
) => void | Measured | Promise<void | Measured>;

/**
 * Throws if a result is not what it has to be.
 *
 * @param found The result.
 * @param expected What it has to be.
 * @param what What it is, for the message.
 */
export function check(found: unknown, expected: unknown, what: string): void {
  if (found === expected) return;
  throw new Error(`wrong result: ${what}: ${found} instead of ${expected}`);
}

/** The sum of all whole numbers from 0 that are less than `count`. */
export function sumBelow(count: number): number {
  return count * (count - 1) / 2;
}

/** How many milliseconds each sleeper sleeps: as if by chance, and the same everywhere. */
export function sleepTimes(count: number): number[] {
  return Array.from(
    { length: count },
    (_, i) => 1 + (Math.imul(i, 2654435761) >>> 0) % LONGEST_SLEEP,
  );
}

/** Measures by how much the memory grows. */
export class Scales {
  readonly #before = memory();

  /** The memory that was added since this was made. */
  get measured(): Measured {
    const { rss, heapUsed } = memory();
    return {
      bytes: rss - this.#before.rss,
      heap: heapUsed - this.#before.heapUsed,
    };
  }
}

/** The memory of the process, without garbage. */
function memory(): Deno.MemoryUsage {
  const { gc } = globalThis as { gc?: () => void };
  if (gc === undefined) {
    throw new Error("Cannot measure memory without --v8-flags=--expose-gc");
  }
  gc();
  return Deno.memoryUsage();
}

/**
 * Does the work that the arguments name, `<work> <count> [size]`, for every line on standard
 * input, and prints what it has taken, or what went wrong.
 *
 * @param works The works by their names.
 */
export async function serveRounds(works: Record<string, Work>): Promise<void> {
  const [name = "", count, size] = Deno.args;
  const work = works[name];
  if (work === undefined) throw new Error(`No such work: ${name}`);
  await answerLines(async () => {
    const clock = new Clock();
    clock.start();
    const measured = await work(Number(count), clock, Number(size));
    return { ...clock.measured, ...measured };
  });
}

/**
 * Prints an answer to every line on standard input.
 *
 * @param answer Gives what to print.
 */
export async function answerLines(
  answer: () => Measured | Promise<Measured>,
): Promise<void> {
  const buffer = new Uint8Array(1);
  while (await Deno.stdin.read(buffer) !== null) {
    try {
      console.log(JSON.stringify(await answer()));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error) }));
    }
  }
}
