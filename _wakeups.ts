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

import { setImmediate } from "node:timers";

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
  if (mayGoOn()) sleeper.wake();
  else setAside(sleeper);
}

/**
 * Whether there is time left before the event loop has to turn. Has to be asked by whoever
 * wakes somebody or takes a turn.
 */
export function mayGoOn(): boolean {
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
export function looped(): void {
  hasTurned = true;
}

/** Wakes `sleeper` when the event loop has turned. */
export function setAside(sleeper: Sleeper): void {
  if (aside.push(sleeper) === 1) setImmediate(wakeThoseAside);
}

function wakeThoseAside(): void {
  turned = clock.now();
  untilLook = LOOK_EVERY;
  const sleepers = aside;
  aside = [];
  for (const sleeper of sleepers) sleeper.wake();
}

const resolved = Promise.resolve();

/** One place among those set aside, for all who come one after the other. */
class Turn implements Sleeper {
  wake!: () => void;
  readonly promise = new Promise<void>((resolve) => this.wake = resolve);
}

/** A promise that lets those go first who are to be woken before us. */
export function turn(): Promise<void> {
  if (mayGoOn()) return resolved;
  let last = aside.at(-1);
  if (!(last instanceof Turn)) setAside(last = new Turn());
  return (last as Turn).promise;
}

/** What the hub does: each time a function, and what it is called with. */
let tasks: unknown[] = [];
let ring: () => void = () => {};
/** Whether those go first who begin, as they are before the hub's tasks in line. */
let isHeld = false;

/**
 * Has the hub do something soon, in nobody's context.
 *
 * @param perform Called once, where no greenlet is current. Must not throw.
 * @param target What it is called with: to be spared a closure.
 */
export function runSoon<T>(perform: (target: T) => void, target: T): void {
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
    for (let i = 0; i < batch.length; i += 2) {
      (batch[i] as (target: unknown) => void)(batch[i + 1]);
    }
  }
}
