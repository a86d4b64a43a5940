/**
 * Many timers on one runtime timer.
 *
 * Deno's `setTimeout` costs 2–4 µs; a timer here costs a map look-up and two links.
 * Deadlines are whole milliseconds, the next that is later, so that timers that are
 * due together share a bucket, and a heap orders the buckets. Nothing is armed as long
 * as no timer is.
 *
 * @module
 */

import { show } from "./_checks.ts";
import { List, type Member } from "./_list.ts";

// Taken at import, so that neither patch() nor a fake clock set up later is seen.
const { setTimeout, clearTimeout } = globalThis;
const clock = performance;
const now = clock.now.bind(clock);

/** The longest delay that `setTimeout` takes for what it is. */
const LONGEST = 2 ** 31 - 1;

/** How many buckets may be kept that have lost all their timers. */
const MOST_HOLLOW = 1000;

/** What a timer tells when it is due. */
export interface TimerTarget {
  /** Called once, from the event loop; has to be quick and not to throw. */
  expired(): void;
}

/**
 * A timer that was started; {@linkcode stopTimer} takes it back. It is in the list of those
 * with the same deadline, and in none once it has fired or was stopped.
 */
export interface Timer extends TimerTarget, Member<Timer> {}

/** A timer for somebody who has others as well. */
class TimerFor implements Timer {
  readonly #target: TimerTarget;
  list: List<Timer> | null = null;
  previous: Timer | null = null;
  next: Timer | null = null;

  constructor(target: TimerTarget) {
    this.#target = target;
  }

  expired(): void {
    this.#target.expired();
  }
}

const buckets = new Map<number, List<Timer>>();
/** A binary heap of the keys of `buckets`, each once. */
const deadlines: number[] = [];
/** How many timers are started and have not fired. */
let count = 0;
/** What the runtime timer is set to; `Infinity` when it is not. */
let armed = Infinity;
let runtimeTimer: ReturnType<typeof setTimeout> | undefined;

/**
 * Starts a timer.
 *
 * @param ms In how many milliseconds; `Infinity` starts none.
 * @param target Whom to tell.
 */
export function startTimer(ms: number, target: TimerTarget): Timer | null {
  if (ms === Infinity) return null;
  const timer = new TimerFor(target);
  enterTimer(ms, timer);
  return timer;
}

/**
 * Starts a timer that tells itself.
 *
 * @param ms In how many milliseconds; `Infinity` doesn't start it.
 */
export function enterTimer(ms: number, timer: Timer): void {
  if (ms === Infinity) return;
  // Never now, so that what a timer starts is told in a later turn.
  const deadline = Math.floor(now() + (ms > 0 ? ms : 0)) + 1;
  let bucket = buckets.get(deadline);
  if (bucket === undefined) {
    buckets.set(deadline, bucket = new List());
    pushDeadline(deadline);
  }
  bucket.add(timer);
  count++;
  if (deadline < armed) arm(deadline);
}

/** Whether a timer is started and has not fired. */
export function hasTimers(): boolean {
  return count > 0;
}

/** Stops a timer, if it has not fired yet. */
export function stopTimer(timer: Timer | null): void {
  if (timer === null || timer.list === null) return;
  timer.list.remove(timer);
  if (--count === 0) disarm();
  else if (deadlines.length > 2 * count + MOST_HOLLOW) sweep();
}

/** Forgets the deadlines of which every timer was stopped: most of them, then. */
function sweep(): void {
  deadlines.length = 0;
  for (const [deadline, bucket] of buckets) {
    if (bucket.first === null) buckets.delete(deadline);
    else pushDeadline(deadline);
  }
}

function arm(deadline: number): void {
  if (armed !== Infinity) clearTimeout(runtimeTimer);
  armed = deadline;
  runtimeTimer = setTimeout(
    tick,
    Math.min(Math.max(Math.ceil(deadline - now()), 0), LONGEST),
  );
}

/** Leaves nothing behind: no runtime timer that would hold the process up. */
function disarm(): void {
  if (armed !== Infinity) clearTimeout(runtimeTimer);
  armed = Infinity;
  buckets.clear();
  deadlines.length = 0;
}

/** Callbacks of timers that `patch()` is to leave as they are. */
export const untouched = new WeakSet<(...args: never[]) => unknown>([tick]);

function tick(): void {
  armed = Infinity;
  const time = now();
  while (deadlines.length > 0 && deadlines[0]! <= time) {
    const deadline = popDeadline();
    const bucket = buckets.get(deadline)!;
    buckets.delete(deadline);
    // One by one, as each may stop those after it.
    for (let timer = bucket.shift(); timer !== null; timer = bucket.shift()) {
      count--;
      timer.expired();
    }
  }
  if (count === 0) disarm();
  else if (deadlines[0]! < armed) arm(deadlines[0]!);
}

function pushDeadline(deadline: number): void {
  let i = deadlines.length;
  while (i > 0) {
    const parent = (i - 1) >> 1;
    if (deadlines[parent]! <= deadline) break;
    deadlines[i] = deadlines[parent]!;
    i = parent;
  }
  deadlines[i] = deadline;
}

function popDeadline(): number {
  const least = deadlines[0]!;
  const last = deadlines.pop()!;
  const length = deadlines.length;
  if (length === 0) return least;
  let i = 0;
  for (;;) {
    let child = 2 * i + 1;
    if (child >= length) break;
    if (child + 1 < length && deadlines[child + 1]! < deadlines[child]!) {
      child++;
    }
    if (deadlines[child]! >= last) break;
    deadlines[i] = deadlines[child]!;
    i = child;
  }
  deadlines[i] = last;
  return least;
}

/**
 * Checks a duration.
 *
 * @param ms Milliseconds: a number, `Infinity` included. What is below 0 is 0.
 * @param what For the message: what can't be done.
 * @throws {TypeError} If it is not a number.
 * @throws {RangeError} If it is `NaN`.
 */
export function checkDuration(ms: unknown, what: string): asserts ms is number {
  if (typeof ms !== "number") {
    throw new TypeError(
      `Cannot ${what} as the time must be a number of milliseconds: received ${
        show(ms)
      }`,
    );
  }
  if (Number.isNaN(ms)) {
    throw new RangeError(
      `Cannot ${what} as the time must be a number of milliseconds: received NaN`,
    );
  }
}
