/**
 * The one place that orders wake-ups.
 *
 * A wake-up resolves the promise that a body awaits. JavaScript's microtask queue then runs the
 * bodies, first in, first out. But it is not fair: the event loop has to wait until the last
 * microtask is done. So after a time slice, wake-ups are deferred, in order, until the event loop
 * has turned.
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
 * The time slice: how long wake-ups may keep the event loop from turning, in ms. A turn costs
 * 2 µs. While every turn has work, the runtime polls its sockets only in every 61st turn. With
 * gevent's slice of 5 ms that would be three times a second.
 */
const SLICE = 0.1;
/** The number of wake-ups between two readings of the clock. A reading costs 100 ns. */
const LOOK_EVERY = 16;

let untilLook = LOOK_EVERY;
/** The last known time at which the event loop turned. */
let turned = 0;
/** Whether the event loop has turned since the last reading of the clock. */
let hasTurned = false;
/** The wake-ups that are deferred until the event loop turns. */
let deferred: Sleeper[] = [];
/** The scopes that these wake-ups resume. */
let deferredScopes: object[] = [];
const clock = performance;

/**
 * The time of the last reading of the clock, in whole ms: a little before now. Reading the clock
 * for each wait would take as long as the wait.
 */
export let lastLook = Math.floor(clock.now());

/** Sets {@linkcode lastLook}, after a reading of the clock. */
export function noteTime(ms: number): void {
  // A small integer, which V8 stores without an object.
  lastLook = ms | 0;
}

/** The time since `look`, a former `lastLook`, in ms. What began after it is younger. */
export function sinceLook(look: number): number {
  return ((clock.now() | 0) - look) | 0;
}

/** The number of wake-ups and turns so far. */
let count = 0;

/** The number of wake-ups and turns so far. Compare two values to see whether there were any. */
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

/** The scopes that were woken and have not gone on; `null` if they are not recorded. */
let woken: Set<object> | null = null;
/** The number of further wake-ups that are recorded. */
let untilUnasked = 0;
/** The wake-ups that one request records. Each takes 100 ns, so recording is not always on. */
const NOTED = 10_000;

/**
 * Records the scopes that are woken, for a while. Without that, a body that is about to go on
 * looks like one that awaits a foreign promise.
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
  // The body goes on in an earlier microtask than this.
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
  // `untilLook` stays at 0 or less: each call finds no time left until the loop has turned. A fake
  // clock that has ended may leave a time that is yet to come.
  if (now - turned >= SLICE || now < turned) return false;
  untilLook = LOOK_EVERY;
  return true;
}

/** How many calls that are ready go on before one looks at the time. */
const READY_EVERY = 64;

let untilReadyLook = READY_EVERY;

/**
 * As {@linkcode spendBudget}, for a call that is ready and needs no wake-up: only an endless run of
 * them must let the event loop turn.
 */
export function spendReady(): boolean {
  if (--untilReadyLook > 0) return true;
  untilReadyLook = READY_EVERY;
  return spendBudget();
}

/**
 * As {@linkcode spendBudget}, for a wake-up that can't follow another one of its kind before the
 * event loop has turned. So it needs no time of the slice.
 */
export function spendOnceInTurn(): boolean {
  count++;
  return deferred.length === 0;
}

/** Whether no wake-up is deferred, and the hub has no task. */
export function isIdle(): boolean {
  return deferred.length === 0 && tasks.length === 0;
}

/** How often the event loop has called the library, modulo 2 ** 30: a small integer. */
export let loopCalls = 0;

/** Notes that the event loop has turned. Must be called by functions that the event loop calls. */
export function noteLoopTurn(): void {
  hasTurned = true;
  loopCalls = (loopCalls + 1) & 0x3fffffff;
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
  haveTasksDeferred = false;
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

/** Whether {@linkcode runMicrotasks} is running microtasks now, and so is on their stack. */
export let isNested = false;

/** Runs bodies that were woken, if that is possible now: not while a body runs. */
export function settlesNow(): boolean {
  if (getCurrent().parent !== null) return false;
  let haveGone = false;
  then(resolved, () => haveGone = true);
  runMicrotasks();
  return haveGone;
}

const resolved = Promise.resolve();

/** One deferred wake-up, shared by all turns that are asked for in a row. */
class Turn implements Sleeper {
  wake!: () => void;
  readonly promise = new Promise<void>((resolve) => this.wake = resolve);
}

/** Returns a promise that resolves after the wake-ups that are due. */
export function turn(): Promise<void> {
  if (spendBudget()) return resolved;
  let last = deferred.at(-1);
  if (!(last instanceof Turn)) deferToNextTurn(last = new Turn());
  return (last as Turn).promise;
}

/** A task for `target`. If it returns `true`, it is called again after a turn. */
type Task<T> = (target: T) => true | void;

/**
 * The length of a full array, in place of which another one is begun. V8 moves a longer array that
 * grows again and again, to new pages of memory. That would take a fifth of the time of spawning
 * 200,000 greenlets.
 */
export const FULL = 1024;

/** The tasks of the hub: {@linkcode Task} and target in turn, as one flat array. */
let tasks: unknown[] = [];
/** Full arrays of tasks, which come before `tasks`. */
let fullTasks: unknown[][] = [];
/** Whether a task has woken a body that has not gone on yet; see {@linkcode noteWoken}. */
let isBehind = false;
/** Whether wake-ups of tasks are deferred. What was to begin after the tasks waits for them. */
let haveTasksDeferred = false;
let ring: () => void = ignore;
/** Whether the tasks wait until greenlets that come before them have begun. */
let isHeld = false;
/** The number of tasks so far. */
let taskCount = 0;

/**
 * Adds a task of the hub. It is performed soon, outside greenlets.
 *
 * @param perform Called with `target`. Must not throw.
 * @param target The argument, which makes a closure unnecessary.
 */
export function runSoon<T>(perform: Task<T>, target: T): void {
  taskCount++;
  if (tasks.length === FULL) {
    fullTasks.push(tasks);
    tasks = [];
  }
  if (tasks.push(perform, target) === 2 && !isHeld) ring();
}

/** Holds the tasks of the hub back, until {@linkcode releaseTasks}. */
export function holdTasks(): void {
  isHeld = true;
}

/** Ends {@linkcode holdTasks}. */
export function releaseTasks(): void {
  if (!isHeld) return;
  isHeld = false;
  if (tasks.length > 0) ring();
}

/** Called by a task that has woken a body. The body goes on before the next tasks. */
export function noteWoken(): void {
  isBehind = true;
}

/** Whether the hub has tasks that come before a greenlet which waits for its turn from now. */
export function hasTasks(): boolean {
  return isBehind || tasks.length > 0 && !isHeld;
}

/** The number of wake-ups, turns and tasks so far. */
export function events(): number {
  return count + taskCount;
}

/** Returns a promise that resolves after the wake-ups that are due, and after the hub's tasks. */
export function lastTurn(): Promise<void> {
  if (!hasTasks()) return turn();
  return new Promise((resolve) => runSoon(endLastTurn, resolve));
}

function endLastTurn(resolve: () => void): true | void {
  if (haveTasksDeferred) return true;
  resolve();
  noteWoken();
}

/** Whether a task must return `true`, as a woken body goes on before it. */
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
    const last = tasks;
    tasks = [];
    const full = fullTasks;
    const count = full.length;
    if (count > 0) fullTasks = [];
    isBehind = false;
    for (let j = 0; j <= count; j++) {
      const batch = j < count ? full[j]! : last;
      for (let i = 0; i < batch.length; i += 2) {
        const before = deferred.length;
        while ((batch[i] as Task<unknown>)(batch[i + 1])) {
          await turn();
          isBehind = false;
        }
        if (deferred.length > before) haveTasksDeferred = true;
      }
      // The variable keeps the array alive until the next batch.
      batch.length = 0;
    }
    isBehind = false;
  }
}
