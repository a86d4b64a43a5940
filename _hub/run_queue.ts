/**
 * The one place that orders wake-ups.
 *
 * To wake a body is to resolve the promise it waits on, and JavaScript's own
 * microtask queue is a first-in-first-out run queue: nothing of ours stands between.
 * What microtasks lack is fairness, as the event loop waits until the last of them
 * is done. So after a time slice the wake-ups are set aside, in order, until the
 * event loop has turned.
 *
 * @module
 */

import { ignore, then } from "../_base/language.ts";
import { setImmediate } from "../_base/immediate.ts";
import { getCurrent } from "../greenlet.ts";
import { findInternals } from "../_base/runtime.ts";

/** Something that can be woken. */
export interface Sleeper {
  /** Called once, when it is its turn. */
  wake(): void;
}

/**
 * How long wake-ups may keep the event loop from turning, in ms. A turn costs 2 µs, and
 * the runtime looks at its sockets at every 61st only, as long as each finds something to
 * do: with gevent's 5 ms a socket came to its turn three times a second.
 */
const SLICE = 0.1;
/** How many wake-ups go by between looks at the clock, which costs 100 ns. */
const LOOK_EVERY = 16;

let untilLook = LOOK_EVERY;
/** When the event loop has last turned, as far as we know. */
let turned = 0;
/** Whether it has turned since we have last looked at the clock. */
let hasTurned = false;
let aside: Sleeper[] = [];
const clock = performance;

/** How many wake-ups and turns there have been. */
let count = 0;

/** Tells, by a number, whether anybody was woken or given a turn meanwhile. */
export function wakeups(): number {
  return count;
}

/** Wakes `sleeper` now, or behind those that wait for the event loop to turn. */
export function wake(sleeper: Sleeper): void {
  if (spendBudget()) sleeper.wake();
  else deferToNextTurn(sleeper);
}

/**
 * Whether there is time left before the event loop has to turn. Has to be asked by whoever
 * wakes somebody or takes a turn.
 */
export function spendBudget(): boolean {
  count++;
  if (aside.length > 0) return false;
  if (--untilLook > 0) return true;
  const now = clock.now();
  if (hasTurned) {
    hasTurned = false;
    turned = now;
  }
  // Once there is none left, whoever asks is told so, until the loop has turned.
  if (now - turned >= SLICE) return false;
  untilLook = LOOK_EVERY;
  return true;
}

/** Whether nobody is set aside, and the hub has nothing to do. */
export function isIdle(): boolean {
  return aside.length === 0 && tasks.length === 0;
}

/** Has to be called by what the event loop calls: it has turned. */
export function noteLoopTurn(): void {
  hasTurned = true;
}

/** Wakes `sleeper` when the event loop has turned. */
export function deferToNextTurn(sleeper: Sleeper): void {
  if (aside.push(sleeper) === 1) setImmediate(wakeThoseAside);
}

/** Whether there are some who wait for the event loop to turn. */
export function isTurnDue(): boolean {
  return aside.length > 0;
}

let following: (() => void) | null = null;

/** Has a function called once, when those have been woken who wait for the turn. */
export function afterTurn(callback: () => void): void {
  following = callback;
}

function wakeThoseAside(): void {
  turned = clock.now();
  untilLook = LOOK_EVERY;
  const sleepers = aside;
  aside = [];
  for (let i = 0; i < sleepers.length; i++) sleepers[i]!.wake();
  if (following === null) return;
  const callback = following;
  following = null;
  callback();
}

/** Calls `perform` when the event loop has turned so many times. */
export function inTurns(turns: number, perform: () => void): void {
  deferToNextTurn({
    wake: () => turns > 1 ? inTurns(turns - 1, perform) : perform(),
  });
}

/** Whether some wait for the event loop to turn. */
export function isBusy(): boolean {
  return aside.length > 0;
}

/**
 * Has bodies that were woken go on, until each waits again; to be called by what the event
 * loop calls, where {@linkcode settlesNow} has said that it works.
 */
export const runMicrotasks: () => void = findInternals().runMicrotasks ??
  ignore;

/** Has them go on, and tells whether they have: not where a body runs. */
export function settlesNow(): boolean {
  if (getCurrent().parent !== null) return false;
  let haveGone = false;
  then(resolved, () => haveGone = true);
  runMicrotasks();
  return haveGone;
}

const resolved = Promise.resolve();

/** One place among those set aside, for all who come one after the other. */
class Turn implements Sleeper {
  wake!: () => void;
  readonly promise = new Promise<void>((resolve) => this.wake = resolve);
}

/** A promise that lets those go first who are to be woken before us. */
export function turn(): Promise<void> {
  if (spendBudget()) return resolved;
  let last = aside.at(-1);
  if (!(last instanceof Turn)) deferToNextTurn(last = new Turn());
  return (last as Turn).promise;
}

/** Does something for `target`; `true` to be called again when its turn has come. */
type Task<T> = (target: T) => true | void;

/** What the hub does: each time a {@linkcode Task}, and what it is called with. */
let tasks: unknown[] = [];
/** Whether a task has woken a body that has not gone on yet; see {@linkcode noteWoken}. */
let isBehind = false;
let ring: () => void = ignore;
/** Whether those go first who begin, as they are before the hub's tasks in line. */
let isHeld = false;

/**
 * Has the hub do something soon, in nobody's context.
 *
 * @param perform Called where no greenlet is current. Must not throw.
 * @param target What it is called with: to be spared a closure.
 */
export function runSoon<T>(perform: Task<T>, target: T): void {
  if (tasks.push(perform, target) === 2 && !isHeld) ring();
}

/** Has the hub wait with its tasks, until {@linkcode releaseTasks}. */
export function holdTasks(): void {
  isHeld = true;
}

/** Lets the hub go on. */
export function releaseTasks(): void {
  if (!isHeld) return;
  isHeld = false;
  if (tasks.length > 0) ring();
}

/** Called by a task that has woken a body which is to go on before the tasks behind it. */
export function noteWoken(): void {
  isBehind = true;
}

/** Whether a task has to ask to be called again, as a body is to go on before it. */
export function mustWait(): boolean {
  return isBehind;
}

/**
 * Serves {@linkcode runSoon}. Has to be called where no greenlet is current: a microtask
 * runs in the context in which it was queued, and this loop queues its own.
 */
export async function serveTasks(): Promise<never> {
  for (;;) {
    while (tasks.length === 0 || isHeld) {
      await new Promise<void>((resolve) => ring = resolve);
    }
    await turn();
    if (isHeld) continue;
    const batch = tasks;
    tasks = [];
    isBehind = false;
    for (let i = 0; i < batch.length; i += 2) {
      while ((batch[i] as Task<unknown>)(batch[i + 1])) {
        await turn();
        isBehind = false;
      }
    }
    isBehind = false;
    // This function keeps the array until there is another.
    batch.length = 0;
  }
}
