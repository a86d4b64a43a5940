/**
 * The one place that orders wake-ups.
 *
 * To wake a body is to resolve the promise that it waits on, and JavaScript's own microtask
 * queue is a run queue, first in, first out. But it is not fair: the event loop waits until
 * the last microtask is done. So after a time slice the wake-ups are deferred, in order, until
 * the event loop has turned.
 *
 * @module
 */

import { ignore, then } from "../_base/language.ts";
import { setImmediate } from "../_base/immediate.ts";
import { getCurrent } from "../greenlet.ts";
import { findInternals } from "../_base/runtime.ts";

/** Something that can be woken. */
export interface Sleeper {
  /** Called once, in its turn. */
  wake(): void;
}

/**
 * The time slice: how long wake-ups may keep the event loop from turning, in ms. A turn costs 2
 * µs. While every turn has work, the runtime polls its sockets only every 61st turn: with
 * gevent's 5 ms that would be three times a second.
 */
const SLICE = 0.1;
/** The number of wake-ups between two readings of the clock, each of which costs 100 ns. */
const LOOK_EVERY = 16;

let untilLook = LOOK_EVERY;
/** The last known time at which the event loop turned. */
let turned = 0;
/** Whether it has turned since the last reading of the clock. */
let hasTurned = false;
/** The wake-ups that are deferred until the event loop turns. */
let deferred: Sleeper[] = [];
/** The scopes that these wake-ups resume. */
let deferredScopes: object[] = [];
const clock = performance;

/**
 * The time at the last look at the clock, in whole ms: about when what begins now begins, and
 * never later. To look at the clock for each wait would take as long as the wait.
 */
export let lastLook = Math.floor(clock.now());

/** Notes the time, as the clock was looked at for something else. */
export function noteTime(ms: number): void {
  // A small integer, which V8 stores without an object.
  lastLook = ms | 0;
}

/** For how many ms something has gone on at most that has begun at a `lastLook`. */
export function sinceLook(look: number): number {
  return ((clock.now() | 0) - look) | 0;
}

/** The number of wake-ups and turns so far. */
let count = 0;

/** The count of wake-ups and turns: it has changed if there were any. */
export function wakeups(): number {
  return count;
}

/**
 * Wakes `sleeper` now, or behind the wake-ups that are deferred.
 *
 * @param scope The scope that the wake-up resumes.
 */
export function wake(sleeper: Sleeper, scope: object | null = null): void {
  if (spendBudget()) {
    sleeper.wake();
    if (woken !== null && scope !== null) noteScope(scope, woken);
    return;
  }
  if (scope !== null) deferredScopes.push(scope);
  deferToNextTurn(sleeper);
}

/** The scopes that were woken and have not gone on; `null` while no one asks. */
let woken: Set<object> | null = null;
/** For how many wake-ups more they are noted, unless something asks again. */
let untilUnasked = 0;
/** To note one takes 100 ns, so it is done only in programs that ask, and for a while. */
const NOTED = 10_000;

/**
 * Has the scopes that are woken be noted: otherwise nothing tells a body that is about to go
 * on from one that waits in a foreign promise.
 */
export function noteWakeUps(): void {
  woken ??= new Set();
  untilUnasked = NOTED;
}

function noteScope(scope: object, scopes: Set<object>): void {
  if (--untilUnasked <= 0) {
    woken = null;
    return;
  }
  scopes.add(scope);
  // Its body goes on in a microtask that is before this one.
  queueMicrotask(() => scopes.delete(scope));
}

/** Whether a scope was woken and its body has not gone on. */
export function isAboutToGoOn(scope: object): boolean {
  return woken !== null && woken.has(scope) || deferredScopes.includes(scope);
}

/**
 * Spends one wake-up of the time slice. Must be called before each wake-up, and before each
 * turn that is taken at once.
 *
 * @returns Whether there was time left; if not, the wake-up must wait for a turn of the loop.
 */
export function spendBudget(): boolean {
  count++;
  if (deferred.length > 0) return false;
  if (--untilLook > 0) return true;
  const now = clock.now();
  noteTime(now);
  if (hasTurned) {
    hasTurned = false;
    turned = now;
  }
  // From now on each call finds no time left, until the loop has turned.
  if (now - turned >= SLICE) return false;
  untilLook = LOOK_EVERY;
  return true;
}

/** Whether no wake-up is deferred, and the hub has no task. */
export function isIdle(): boolean {
  return deferred.length === 0 && tasks.length === 0;
}

/** Notes that the event loop has turned. Must be called by functions that the event loop calls. */
export function noteLoopTurn(): void {
  hasTurned = true;
}

/** Wakes `sleeper` when the event loop has turned. */
export function deferToNextTurn(sleeper: Sleeper): void {
  if (deferred.push(sleeper) === 1) setImmediate(wakeDeferred);
}

/** Whether wake-ups are deferred until the event loop turns. */
export function isTurnDue(): boolean {
  return deferred.length > 0;
}

/** The function to call after the deferred wake-ups. */
let following: (() => void) | null = null;

/** Calls a function once, after the wake-ups that are deferred. */
export function afterTurn(callback: () => void): void {
  following = callback;
}

function wakeDeferred(): void {
  turned = clock.now();
  noteTime(turned);
  untilLook = LOOK_EVERY;
  const sleepers = deferred;
  const scopes = deferredScopes;
  deferred = [];
  deferredScopes = [];
  for (let i = 0; i < sleepers.length; i++) sleepers[i]!.wake();
  for (let i = 0; woken !== null && i < scopes.length; i++) {
    noteScope(scopes[i]!, woken);
  }
  if (following === null) return;
  const callback = following;
  following = null;
  callback();
}

/** Calls `perform` when the event loop has turned `turns` times. */
export function inTurns(turns: number, perform: () => void): void {
  deferToNextTurn({
    wake: () => turns > 1 ? inTurns(turns - 1, perform) : perform(),
  });
}

/**
 * Runs bodies that were woken, until each waits again. Only for functions that the event loop
 * calls, and only if {@linkcode settlesNow} has returned `true`.
 */
export function runMicrotasks(): void {
  const before = isNested;
  isNested = true;
  try {
    performMicrotasks();
  } finally {
    isNested = before;
  }
}

const performMicrotasks: () => void = findInternals().runMicrotasks ?? ignore;

/** Whether microtasks run that a function of ours has asked for, which is on their stack. */
export let isNested = false;

/** Runs bodies that were woken. Returns whether that works: not while a body runs. */
export function settlesNow(): boolean {
  if (getCurrent().parent !== null) return false;
  let haveGone = false;
  then(resolved, () => haveGone = true);
  runMicrotasks();
  return haveGone;
}

const resolved = Promise.resolve();

/** One deferred wake-up for all turns that are asked for in a row. */
class Turn implements Sleeper {
  wake!: () => void;
  readonly promise = new Promise<void>((resolve) => this.wake = resolve);
}

/** Makes a promise that is resolved after the wake-ups that are due. */
export function turn(): Promise<void> {
  if (spendBudget()) return resolved;
  let last = deferred.at(-1);
  if (!(last instanceof Turn)) deferToNextTurn(last = new Turn());
  return (last as Turn).promise;
}

/** A task for `target`. Returns `true` to be called again in its turn. */
type Task<T> = (target: T) => true | void;

/** The tasks of the hub: each a {@linkcode Task}, and after it its target. */
let tasks: unknown[] = [];
/** Whether a task has woken a body that has not gone on yet; see {@linkcode noteWoken}. */
let isBehind = false;
let ring: () => void = ignore;
/** Whether the tasks wait for greenlets that begin, and whose turn is before theirs. */
let isHeld = false;

/**
 * Adds a task of the hub, which is performed soon, in no greenlet.
 *
 * @param perform Called with `target`. Must not throw.
 * @param target The argument, which spares a closure.
 */
export function runSoon<T>(perform: Task<T>, target: T): void {
  if (tasks.push(perform, target) === 2 && !isHeld) ring();
}

/** Holds the tasks of the hub back, until {@linkcode releaseTasks}. */
export function holdTasks(): void {
  isHeld = true;
}

/** Lets the hub go on with its tasks. */
export function releaseTasks(): void {
  if (!isHeld) return;
  isHeld = false;
  if (tasks.length > 0) ring();
}

/** Must be called by a task that has woken a body which goes on before the next tasks. */
export function noteWoken(): void {
  isBehind = true;
}

/** Whether the hub has tasks that go before a greenlet that begins to wait for its turn now. */
export function hasTasks(): boolean {
  return isBehind || tasks.length > 0 && !isHeld;
}

/** Makes a promise that resolves after the greenlets that the hub has tasks for. */
export function taskTurn(): Promise<void> {
  return new Promise((resolve) => runSoon(endTaskTurn, resolve));
}

function endTaskTurn(resolve: () => void): void {
  resolve();
}

/** Whether a task must return `true`, as a body that was woken goes on before it. */
export function mustWait(): boolean {
  return isBehind;
}

/**
 * Performs the tasks of the hub. Must be called where no greenlet is current: it queues
 * microtasks, which run in the async context in which they were queued.
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
    // Emptied, as `batch` refers to the array until the next batch.
    batch.length = 0;
  }
}
