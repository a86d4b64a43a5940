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

import { AsyncResource } from "node:async_hooks";
import { clearImmediate, setImmediate } from "../_base/immediate.ts";
import { show } from "../_base/checks.ts";
import { Heap } from "../_base/heap.ts";
import { List, type Member } from "../_base/linked_list.ts";
import {
  isBusy,
  noteLoopTurn,
  runMicrotasks,
  settlesNow,
  wakeups,
} from "./run_queue.ts";

// Taken at import, so that neither patch() nor a fake clock set up later is seen.
const { setTimeout, clearTimeout } = globalThis;
const clock = performance;
const realNow = clock.now.bind(clock);

/** A clock that moves the library's time by hand. */
export interface Clock {
  /** The time in milliseconds. */
  now(): number;
  /** Has `callback` called at a time, in the place of what was to be called before. */
  callAt(time: number, callback: () => void): void;
  /** Has nothing called any more. */
  cancel(): void;
}

/** The clock that moves time; `null` for the runtime's. */
let hand: Clock | null = null;
/** How far the library's time is ahead of the runtime's, as deadlines outlive a clock. */
let ahead = 0;

/** The time that all deadlines of the library are in, in milliseconds. */
export function now(): number {
  return hand === null ? realNow() + ahead : hand.now();
}

/** Whether a clock moves time, and not the runtime. */
export function isMovedByHand(): boolean {
  return hand !== null;
}

/**
 * Has a clock move time from now on, or the runtime again. Time goes on from where it is:
 * timers that run keep what remains of them.
 */
export function useClock(next: Clock | null): void {
  const isArmed = armed !== Infinity && armed !== TICKING;
  const deadline = armed;
  if (isArmed) disarmRuntime();
  ahead = now() - realNow();
  hand = next;
  if (isArmed) arm(deadline);
}

/** The longest delay that `setTimeout` takes for what it is. */
const LONGEST = 2 ** 31 - 1;

/** How many buckets may be kept that have lost all their timers. */
const MOST_HOLLOW = 1000;

/** What those who were told have not done yet. */
type Owed = "nothing" | "a step" | "steps" | "a turn";

/** What a timer tells when it is due. */
export interface TimerTarget {
  /**
   * Called once, from the event loop; has to be quick and not to throw.
   *
   * @returns What it leaves to be done before the next is told, if it is not the one step
   * in which a body that was woken goes on.
   */
  expired(): Owed | void;
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

  expired(): Owed | void {
    return this.#target.expired();
  }
}

/** The place among our timers of one of the runtime's own. */
export interface QueuedWait {
  /** Has to be called by the runtime's timer: calls `run`, now or in its turn. */
  proceed(run: () => void): void;
  /** Gives it up: the runtime's timer was cleared. */
  drop(): void;
}

/**
 * Takes a place for one of the runtime's timers, which is started now.
 *
 * @param ms In how many milliseconds it is due.
 */
export function takePlace(ms: number): QueuedWait {
  return new RuntimePlace(ms);
}

/**
 * - `empty`: the runtime's timer has not called, and nothing is to be told
 * - `awaited`: likewise, and those behind have waited for it
 * - `taken`: it has called before its turn, and is told in it
 */
type PlaceState = "empty" | "awaited" | "taken";

/** Nothing is armed for it before it is taken, as the runtime calls its timer by itself. */
class RuntimePlace implements QueuedWait, Timer {
  list: List<Timer> | null = null;
  previous: Timer | null = null;
  next: Timer | null = null;
  readonly #deadline: number;
  #state: PlaceState = "empty";
  #run: (() => void) | null = null;
  #immediate: ReturnType<typeof setImmediate> | undefined;

  constructor(ms: number) {
    this.#deadline = deadlineIn(ms);
    enterBucket(this.#deadline, this);
    places++;
  }

  get isTaken(): boolean {
    return this.#state === "taken";
  }

  proceed(run: () => void): void {
    // An interval that is so late skips a call, as it does in the runtime.
    if (this.isTaken) return;
    // A clock made for tests may call it long before.
    if (this.list === null || now() < this.#deadline - 1 || !this.#isPreceded) {
      this.drop();
      return run();
    }
    this.#state = "taken";
    this.#run = AsyncResource.bind(run);
    count++;
    if (this.#deadline < armed && immediate === undefined) arm(this.#deadline);
  }

  /** Whether one is to be told before it, or has been and has not gone on. */
  get #isPreceded(): boolean {
    // Those behind wait for it and for nothing else.
    if (this.#state === "awaited") return false;
    if (immediate !== undefined) return true;
    for (let timer = this as Timer; timer !== this.list!.first;) {
      timer = timer.previous!;
      if (isToBeTold(timer)) return true;
    }
    return deadlines.someBefore(this.#deadline, isToTell);
  }

  /** Whether those behind have to wait for the runtime's timer, which they do once. */
  awaits(): boolean {
    if (this.#state !== "empty") return false;
    this.#state = "awaited";
    return true;
  }

  expired(): "a turn" {
    places--;
    // What it throws is the runtime's business.
    this.#immediate = setImmediate(this.#run!);
    return "a turn";
  }

  drop(): void {
    if (this.list === null) return clearImmediate(this.#immediate);
    places--;
    if (this.isTaken) stopTimer(this);
    else this.list.remove(this);
  }
}

/** Whether it is more than a place for one of the runtime's that has not called. */
function isToBeTold(timer: Timer): boolean {
  return !(timer instanceof RuntimePlace) || timer.isTaken;
}

/** Whether one is to be told at a deadline. */
function isToTell(deadline: number): boolean {
  const { first } = buckets.get(deadline)!;
  for (let timer = first; timer !== null; timer = timer.next) {
    if (isToBeTold(timer)) return true;
  }
  return false;
}

const buckets = new Map<number, List<Timer>>();
/** The keys of `buckets`, each once. */
const deadlines = new Heap<number>((a, b) => a - b);
/** How many timers are started and have not fired. */
let count = 0;
/** How many places for the runtime's timers there are. */
let places = 0;
/** What the runtime timer is set to; `Infinity` when it is not, `TICKING` in its callback. */
let armed = Infinity;
const TICKING = -Infinity;
let runtimeTimer: ReturnType<typeof setTimeout> | undefined;
/** Set while the event loop turns and there are more that are due. */
let immediate: ReturnType<typeof setImmediate> | undefined;

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
  const deadline = deadlineIn(ms);
  enterBucket(deadline, timer);
  count++;
  if (deadline < armed && immediate === undefined) arm(deadline);
}

/**
 * Never now, so that what a timer starts is told in a later turn. Real time has moved on
 * since it was read, and time that is moved by hand has not: 5 ms are over there after 5.
 */
function deadlineIn(ms: number): number {
  const time = now();
  const least = Math.floor(time) + 1;
  if (hand !== null) return Math.max(Math.ceil(time + ms), least);
  return ms > 0 ? Math.floor(time + ms) + 1 : least;
}

function enterBucket(deadline: number, timer: Timer): void {
  let bucket = buckets.get(deadline);
  if (bucket === undefined) {
    buckets.set(deadline, bucket = new List());
    deadlines.push(deadline);
  }
  bucket.add(timer);
}

/** Whether a timer is started and has not fired. */
export function hasTimers(): boolean {
  return count > 0;
}

/** How many timers are started and have not fired. */
export function countTimers(): number {
  return count;
}

/** Whether the event loop has to turn before the next timers that are due are told. */
export function isTelling(): boolean {
  return immediate !== undefined;
}

/** Stops a timer, if it has not fired yet. */
export function stopTimer(timer: Timer | null): void {
  if (timer === null || timer.list === null) return;
  timer.list.remove(timer);
  if (--count === 0) disarm();
  else if (deadlines.length > 2 * (count + places) + MOST_HOLLOW) sweep();
}

/** Forgets the deadlines of which every timer was stopped: most of them, then. */
function sweep(): void {
  deadlines.clear();
  for (const [deadline, bucket] of buckets) {
    if (bucket.first === null) buckets.delete(deadline);
    else deadlines.push(deadline);
  }
}

function arm(deadline: number): void {
  if (armed !== Infinity) disarmRuntime();
  armed = deadline;
  if (hand !== null) return hand.callAt(deadline, tick);
  const ms = Math.min(Math.max(Math.ceil(deadline - now()), 0), LONGEST);
  runtimeTimer = setInternally(() => setTimeout(tick, ms));
}

/** Whether a timer is being set that `patch()` is to leave as it is. */
let setsInternally = false;

/** Whether what is being set now is to be left as it is, whatever it is to call. */
export function isSetInternally(): boolean {
  return setsInternally;
}

/**
 * Sets a timer that `patch()` is to leave as it is. What it is to call does not tell: others
 * may have wrapped the runtime's function, and have it call something of theirs.
 */
export function setInternally<T>(set: () => T): T {
  const before = setsInternally;
  setsInternally = true;
  try {
    return set();
  } finally {
    setsInternally = before;
  }
}

function disarmRuntime(): void {
  armed = Infinity;
  if (hand !== null) hand.cancel();
  else clearTimeout(runtimeTimer);
}

/** Leaves nothing behind: no runtime timer that would hold the process up. */
function disarm(): void {
  if (armed !== TICKING && armed !== Infinity) disarmRuntime();
  if (immediate !== undefined) clearImmediate(immediate);
  immediate = undefined;
  if (places > 0) return sweep();
  buckets.clear();
  deadlines.clear();
}

/** Callbacks of timers that `patch()` is to leave as they are. */
export const internalCallbacks = new WeakSet<(...args: never[]) => unknown>([
  tick,
]);

/**
 * Tells those that are due, in the order of their deadlines and then of their starts. When
 * the loop is late, several deadlines are due at once: one is told when the bodies have gone
 * on that the one before it has woken, who may need many steps for what they do then. Those
 * with one deadline are woken together, a step each, which spares 150 ns of 600 for each.
 */
function tick(): void {
  armed = TICKING;
  immediate = undefined;
  noteLoopTurn();
  const time = now();
  // Those who are always ready must not keep the others from being told.
  const wasBusy = isBusy();
  if (wasBusy && turnsLeft > 0) return pause(turnsLeft - 1);
  let owed: Owed = "nothing";
  let last = NaN;
  let canSettle: boolean | null = null;
  for (let deadline; (deadline = deadlines.first!) <= time;) {
    const bucket = buckets.get(deadline)!;
    while (bucket.first !== null) {
      if (owed === "a turn") return pause(0);
      const place = places > 0 && bucket.first instanceof RuntimePlace
        ? bucket.first
        : null;
      const isTogether = deadline === last && place === null;
      if (owed === "steps" || owed === "a step" && !isTogether) {
        if (canSettle) runMicrotasks();
        else canSettle ??= settlesNow();
        if (!canSettle || isBusy() && (!wasBusy || owed === "steps")) {
          return pause(owed === "steps" ? MOST_TURNS : 0);
        }
        owed = "nothing";
        // They may have stopped it.
        continue;
      }
      if (place !== null && !place.isTaken) {
        // The runtime is about to call it, as soon as we return.
        if (place.awaits()) return pause(0);
        place.drop();
        continue;
      }
      last = deadline;
      const before = wakeups();
      count--;
      const told = bucket.shift()!.expired();
      if (told === "steps" || told === "a turn") owed = told;
      else if (told !== "nothing" && wakeups() !== before) owed = "a step";
    }
    // All may have been stopped, and others started.
    if (deadlines.first === deadline) buckets.delete(deadlines.shift());
  }
  armed = Infinity;
  if (count === 0) disarm();
  else arm(deadlines.first!);
}

/** Goes on when the event loop has turned. */
function pause(turns: number): void {
  turnsLeft = turns;
  armed = Infinity;
  immediate = setImmediate(tick);
}

/** For how many turns more those who were told may be waited for; see {@linkcode tick}. */
let turnsLeft = 0;
/** A call that is stuck in a foreign promise is left after two turns. */
const MOST_TURNS = 3;

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
