/**
 * Many timers on one runtime timer.
 *
 * Deno's `setTimeout` costs 2–4 µs; a timer here costs a map look-up and two links.
 * Deadlines are rounded up to whole milliseconds, so that timers which are due together share
 * a bucket, and a heap orders the buckets. Without timers the runtime's timer is not set.
 *
 * @module
 */

import { clearImmediate, setImmediate } from "../_base/immediate.ts";
import { checkOptions, show } from "../_base/checks.ts";
import { NO_OPTIONS } from "../_base/language.ts";
import { Heap } from "../_base/heap.ts";
import { List, type Member } from "../_base/linked_list.ts";
import { noteCleared } from "../_base/pending.ts";
import type { CallInContext } from "./async_context.ts";
import { report } from "./main.ts";
import {
  isTurnDue,
  noteLoopTurn,
  noteTime,
  runMicrotasks,
  settlesNow,
  wakeups,
} from "./run_queue.ts";

// Taken at import, so that neither patch() nor a fake clock that comes later replaces them.
const { setTimeout, clearTimeout } = globalThis;
const clock = performance;
const realNow = clock.now.bind(clock);

/** A clock that moves the library's time by hand. */
export interface Clock {
  /** The time in milliseconds. */
  now(): number;
  /** Calls `callback` at a time, in place of the callback that was set before. */
  callAt(time: number, callback: () => void): void;
  /** Removes the callback. */
  cancel(): void;
}

/** The clock that moves time by hand; `null` for the runtime's clock. */
let hand: Clock | null = null;
/** The ms by which the library's time is ahead of the runtime's, after a test clock moved it. */
let ahead = 0;

/** The library's time, in milliseconds, which all its deadlines are in. */
export function now(): number {
  if (hand !== null) return hand.now();
  const real = realNow();
  noteTime(real);
  return real + ahead;
}

const endless = () => Infinity;

/** Returns a function that tells how many ms are left of a time limit that begins now. */
export function countDown(ms: number): () => number {
  if (ms === Infinity) return endless;
  const end = now() + ms;
  return () => Math.max(0, end - now());
}

/** Whether a test clock moves time, and not the runtime. */
export function isMovedByHand(): boolean {
  return hand !== null;
}

/**
 * Lets a clock move time from now on, or the runtime again. Time goes on from its current
 * value: timers that run keep their remaining time.
 */
export function useClock(next: Clock | null): void {
  const isArmed = armed !== Infinity && armed !== TICKING;
  const deadline = armed;
  if (isArmed) disarmRuntime();
  ahead = now() - realNow();
  hand = next;
  if (isArmed) arm(deadline);
}

/** The longest delay that `setTimeout` can take. */
const LONGEST = 2 ** 31 - 1;

/** The most empty buckets that are kept. */
const MOST_HOLLOW = 1000;

/** The steps of bodies that a timer has woken, which come before the next timer. */
type Owed = "nothing" | "a step" | "steps" | "a turn";

/** An object that is called when its timer is due. */
export interface TimerTarget {
  /**
   * Called once, from the event loop. Must be quick and must not throw.
   *
   * @returns What must happen before the next timer is called; by default one step, in which
   * the woken body goes on.
   */
  expired(): Owed | void;
}

/**
 * A timer that was started; {@linkcode stopTimer} stops it. It is in the list of timers with
 * the same deadline, and in none when it has fired or was stopped.
 */
export interface Timer extends TimerTarget, Member<Timer> {}

/** A timer that calls another object. */
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

/** The place of one of the runtime's own timers among ours. */
export interface QueuedWait {
  /** Must be called by the runtime's timer. Calls `run`, now or in its turn. */
  proceed(run: () => void): void;
  /** Must be called when the runtime's timer was cleared. */
  drop(): void;
}

/**
 * Takes a place for one of the runtime's timers, which is started now.
 *
 * @param ms The time until it is due, in milliseconds.
 * @param capture Gives the context for what is called later.
 */
export function takePlace(
  ms: number,
  capture: () => CallInContext,
): QueuedWait {
  return new RuntimePlace(ms, capture);
}

/**
 * - `empty`: the runtime's timer has not fired
 * - `awaited`: the same, and the later timers have waited a turn for it
 * - `taken`: the runtime's timer has fired, and waits for its turn
 */
type PlaceState = "empty" | "awaited" | "taken";

/** Needs no timer of ours before it is taken, as the runtime's own one fires by itself. */
class RuntimePlace implements QueuedWait, Timer {
  list: List<Timer> | null = null;
  previous: Timer | null = null;
  next: Timer | null = null;
  readonly #deadline: number;
  readonly #capture: () => CallInContext;
  #state: PlaceState = "empty";
  #run: (() => void) | null = null;
  #immediate: ReturnType<typeof setImmediate> | undefined;

  constructor(ms: number, capture: () => CallInContext) {
    this.#capture = capture;
    this.#deadline = deadlineIn(ms);
    enterBucket(this.#deadline, this);
    places++;
  }

  get isTaken(): boolean {
    return this.#state === "taken";
  }

  proceed(run: () => void): void {
    // An interval that fires again before its turn skips a call, as a late one does anyway.
    if (this.isTaken) return;
    // A fake clock may call it long before.
    if (this.list === null || now() < this.#deadline - 1 || !this.#isPreceded) {
      this.drop();
      return run();
    }
    this.#state = "taken";
    const inContext = this.#capture();
    this.#run = () => inContext(run);
    count++;
    if (this.#deadline < armed && immediate === undefined) arm(this.#deadline);
  }

  /** Whether a timer of ours must be called before it, or has woken a body that has not gone on. */
  get #isPreceded(): boolean {
    // The timers behind have waited for it, so nothing is before it.
    if (this.#state === "awaited") return false;
    if (immediate !== undefined) return true;
    for (let timer = this as Timer; timer !== this.list!.first;) {
      timer = timer.previous!;
      if (isToBeTold(timer)) return true;
    }
    return deadlines.someBefore(this.#deadline, isToTell);
  }

  /** Lets the later timers wait for the runtime's timer, once. */
  awaits(): boolean {
    if (this.#state !== "empty") return false;
    this.#state = "awaited";
    return true;
  }

  expired(): "a turn" {
    places--;
    // Called by the runtime, which handles what it throws.
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

/** Whether a timer is one of ours, or a place whose timer has fired. */
function isToBeTold(timer: Timer): boolean {
  return !(timer instanceof RuntimePlace) || timer.isTaken;
}

/** Whether a timer has to be called at a deadline. */
function isToTell(deadline: number): boolean {
  const { first } = buckets.get(deadline)!;
  for (let timer = first; timer !== null; timer = timer.next) {
    if (isToBeTold(timer)) return true;
  }
  return false;
}

const buckets = new Map<number, List<Timer>>();
/** The keys of `buckets`. */
const deadlines = new Heap<number>((a, b) => a - b);
/** The number of timers that are started and have not fired. */
let count = 0;
/** The number of places for the runtime's timers. */
let places = 0;
/** The time of the runtime's timer; `Infinity` if it is not set, `TICKING` in its callback. */
let armed = Infinity;
const TICKING = -Infinity;
/** The delay with which the runtime's timer was set, in ms. */
let armedFor = 0;
let runtimeTimer: ReturnType<typeof setTimeout> | undefined;
/** Set while timers that are due wait for the event loop to turn. */
let immediate: ReturnType<typeof setImmediate> | undefined;

/**
 * Starts a timer.
 *
 * @param ms The delay in milliseconds; `Infinity` starts no timer.
 * @param target The object to call.
 */
export function startTimer(ms: number, target: TimerTarget): Timer | null {
  if (ms === Infinity) return null;
  const timer = new TimerFor(target);
  enterTimer(ms, timer);
  return timer;
}

/**
 * Starts a timer that is its own target.
 *
 * @param ms The delay in milliseconds; `Infinity` does not start it.
 */
export function enterTimer(ms: number, timer: Timer): void {
  if (ms === Infinity) return;
  const deadline = deadlineIn(ms);
  enterBucket(deadline, timer);
  count++;
  if (deadline < armed && immediate === undefined) arm(deadline);
}

/**
 * Returns the deadline in `ms`, rounded up. It is never now, so a timer that a timer starts is
 * called in a later turn. Real time has moved on since it was read, so a whole millisecond is
 * added. A test clock has not moved.
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

/** The number of timers that are started and have not fired. */
export function countTimers(): number {
  return count;
}

/** Whether timers that are due wait for the event loop to turn. */
export function isTelling(): boolean {
  return immediate !== undefined;
}

/** The deadlines of the buckets, by the bucket, until the next microtask. */
let deadlinesOf: Map<unknown, number> | null = null;

/** The ms that are left of a running timer. Only for debugging, as it reads all deadlines. */
export function timeLeft(timer: Timer): number {
  if (deadlinesOf === null) {
    deadlinesOf = new Map();
    for (const [deadline, bucket] of buckets) deadlinesOf.set(bucket, deadline);
    queueMicrotask(() => deadlinesOf = null);
  }
  return (deadlinesOf.get(timer.list) ?? now()) - now();
}

/** Stops a timer. Does nothing when it has fired. */
export function stopTimer(timer: Timer | null): void {
  if (timer === null || timer.list === null) return;
  timer.list.remove(timer);
  if (--count === 0) disarm();
  else if (deadlines.length > 2 * (count + places) + MOST_HOLLOW) sweep();
}

/** Removes the empty buckets, when most are empty. */
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
  armedFor = ms;
  runtimeTimer = setInternally(() => setTimeout(tick, ms));
}

/**
 * Whether the timer that is being set now must not be patched. A variable, as other code may
 * have wrapped the runtime's function and would not pass on an argument of ours.
 */
let setsInternally = false;

/** Returns whether the timer that is being set now must not be patched. */
export function isSetInternally(): boolean {
  return setsInternally;
}

/**
 * Sets a timer that `patch()` must not change. The callback can't mark it, as other code may
 * have wrapped the runtime's function and pass on its own callback.
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
  if (hand !== null) return hand.cancel();
  clearTimeout(runtimeTimer);
  // This takes 15 ns. Setting and clearing the timer takes 2 µs.
  noteCleared(armedFor);
}

/** Clears everything, so that no timer of the runtime keeps the process alive. */
function disarm(): void {
  if (armed !== TICKING && armed !== Infinity) disarmRuntime();
  if (immediate !== undefined) clearImmediate(immediate);
  immediate = undefined;
  if (places > 0) return sweep();
  buckets.clear();
  deadlines.clear();
}

/** Callbacks of timers that `patch()` must not change. */
export const internalCallbacks = new WeakSet<(...args: never[]) => unknown>([
  tick,
]);

/**
 * Calls the timers that are due, in the order of their deadlines and then of their starts. If
 * the loop is late, several deadlines are due at once. Then a timer is called when the bodies
 * woken by the timer before it wait again, which may take many steps. Bodies of one deadline
 * are woken together, a step each, which saves 150 of 600 ns for each.
 */
function tick(): void {
  armed = TICKING;
  immediate = undefined;
  noteLoopTurn();
  const time = now();
  // Bodies that are always ready must not hold up the timers for ever.
  const wasBusy = isTurnDue();
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
        if (!canSettle || isTurnDue() && (!wasBusy || owed === "steps")) {
          return pause(owed === "steps" ? MOST_TURNS : 0);
        }
        owed = "nothing";
        // The bodies may have stopped the timer.
        continue;
      }
      if (place !== null && !place.isTaken) {
        // The runtime calls its timer as soon as we return.
        if (place.awaits()) return pause(0);
        place.drop();
        continue;
      }
      last = deadline;
      const before = wakeups();
      count--;
      const told = tell(bucket.shift()!);
      if (told === "steps" || told === "a turn") owed = told;
      else if (told !== "nothing" && wakeups() !== before) owed = "a step";
    }
    // All may have been stopped, and others started meanwhile.
    if (deadlines.first === deadline) buckets.delete(deadlines.shift());
  }
  armed = Infinity;
  if (count === 0) disarm();
  else arm(deadlines.first!);
}

/** Tells a timer. One that throws must not keep the others from being told. */
function tell(timer: Timer): Owed | void {
  try {
    return timer.expired();
  } catch (error) {
    report("a timer", error);
  }
}

/** Goes on with {@linkcode tick} when the event loop has turned. */
function pause(turns: number): void {
  turnsLeft = turns;
  armed = Infinity;
  immediate = setImmediate(tick);
}

/** The number of turns for which woken bodies are still waited for; see {@linkcode tick}. */
let turnsLeft = 0;
/** A body that is stuck in a foreign promise is not waited for after two turns. */
const MOST_TURNS = 3;

/**
 * Checks a duration.
 *
 * @param ms Milliseconds: a number or `Infinity`. A negative number counts as 0.
 * @param what For the message: the action that failed, such as `wait`.
 * @param name For the message: what the duration is, where there are several.
 * @throws {TypeError} If it is not a number.
 * @throws {RangeError} If it is `NaN`.
 */
export function checkDuration(
  ms: unknown,
  what: string,
  name = "the time",
): asserts ms is number {
  if (typeof ms === "number" && !Number.isNaN(ms)) return;
  const message =
    `Cannot ${what} as ${name} must be a number of milliseconds: received ${
      show(ms)
    }`;
  throw typeof ms === "number"
    ? new RangeError(message)
    : new TypeError(message);
}

/**
 * Checks the options of a call that waits, and returns its timeout: `Infinity` if there is
 * none.
 *
 * @param what For the message: the action that failed, such as `wait`.
 * @param advice For the message: what to write in place of wrong options.
 * @throws {TypeError} If the options are not an object, or the timeout is not a number.
 * @throws {RangeError} If the timeout is `NaN`.
 */
export function timeoutOf(
  options: { readonly timeout?: number },
  what: string,
  advice?: string,
): number {
  // Nearly always. Spares 4 % of a hand-off.
  if (options === NO_OPTIONS) return Infinity;
  checkOptions(options, what, advice);
  const { timeout = Infinity } = options;
  checkDuration(timeout, what);
  return timeout;
}
