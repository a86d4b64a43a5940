/**
 * Reports the errors of greenlets that have failed.
 *
 * `get()`, or another call that asks for the result, may take the error when the greenlet dies
 * or later in the same turn of the event loop. At the end of the turn, or when the process
 * ends, the hub reports each error that was not taken. A greenlet that succeeds costs nothing
 * here.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { getProcess } from "../_base/builtin.ts";
import { setImmediate } from "../_base/immediate.ts";
import { current, runDetached } from "./current.ts";
import { standsForInterrupt } from "./interrupts.ts";
import { report } from "./main.ts";
import { isIdle, runSoon } from "./run_queue.ts";
import { eachBeside } from "./wrapped.ts";

/** How many more turns to wait for wake-ups that were due in the turn of the failure. */
const MOST_TURNS = 3;

/** The failures, in order, each with a function that reports it. */
const untaken = new Map<object, () => void>();
/** The failures of this turn whose links have been called. */
let latest: object[] | null = null;

/**
 * Reports a greenlet's error at the end of this turn of the event loop, unless it is taken
 * before. The hub's handler is called outside greenlets, in the `AsyncLocalStorage` context of
 * the greenlet.
 */
export function reportUnlessTaken(greenlet: object, error: unknown): void {
  reportLater(greenlet, greenlet, error);
}

/**
 * Reports what has failed beside the interrupt that a body has ended by: the other errors of a
 * `SuppressedError`, such as that of a disposer, or of an `AggregateError`, such as those of
 * `Promise.any`. The interrupt is what the body has ended by.
 *
 * @param error The error that the body has thrown, which wraps the interrupt.
 */
export function reportSuppressed(context: object, error: unknown): void {
  eachBeside(error, standsForInterrupt, (one) => reportInTurn(context, one));
}

/** Reports an error that can't be taken, such as that of a link, in order with the others. */
export function reportInTurn(context: unknown, error: unknown): void {
  reportLater({}, context, error);
}

function reportLater(key: object, context: unknown, error: unknown): void {
  const inContext = current.capture();
  const tell = () => runDetached(() => report(context, error));
  untaken.set(key, () => inContext(tell));
  // A task of the hub, as the links that may take it are tasks before it.
  runSoon(expectTakers, key);
}

/** Called after all links: other calls can take the error until the turn is over. */
function expectTakers(key: object): void {
  if (!untaken.has(key) || kept.has(key)) return;
  if (latest === null) lookAtTheEnd(latest = [], 0);
  latest.push(key);
}

/** Takes the error of a greenlet that has failed, so that it is not reported. */
export function takeError(greenlet: object): void {
  if (untaken.size > 0) untaken.delete(greenlet);
}

/** The number of calls that may still take the error of a greenlet, by greenlet. */
const kept = new Map<object, number>();

/** Delays the report of a failed greenlet's error, as a call may take it later. */
export function keepError(greenlet: object): void {
  if (untaken.has(greenlet)) kept.set(greenlet, (kept.get(greenlet) ?? 0) + 1);
}

/** Ends the delay of {@linkcode keepError}: the call has not taken the error. */
export function giveBackError(greenlet: object): void {
  const count = kept.get(greenlet);
  if (count === undefined) return;
  if (count > 1) return void kept.set(greenlet, count - 1);
  kept.delete(greenlet);
  expectTakers(greenlet);
}

/** Reports all errors that were not taken and are not delayed. */
export function reportUntaken(): void {
  untaken.forEach((_, key) => reportOne(key));
}

/** Reports all errors: the process ends, so that none can be taken any more. */
function reportAll(): void {
  kept.clear();
  reportUntaken();
}

function reportOne(key: object): void {
  if (kept.has(key)) return;
  const reportNow = untaken.get(key);
  untaken.delete(key);
  reportNow?.();
}

/** Looks after the microtasks, in which the ready greenlets run: a tick comes after them. */
function lookAtTheEnd(failed: object[], turns: number): void {
  const lookNow = () => look(failed, turns);
  then(Promise.resolve(), () => {
    const process: Partial<ReturnType<typeof getProcess>> = getProcess() ?? {};
    (process.nextTick ?? setImmediate)(lookNow);
  });
}

function look(failed: object[], turns: number): void {
  if (latest === failed) latest = null;
  if (untaken.size === 0) return;
  // Wake-ups that were due in this turn may have been deferred to the next.
  if (isIdle()) reportUntaken();
  else if (turns === MOST_TURNS) failed.forEach(reportOne);
  else setImmediate(() => lookAtTheEnd(failed, turns + 1));
}

// The process may end within the turn. No error must be lost then.
for (const type of ["unload", "error", "unhandledrejection"]) {
  globalThis.addEventListener?.(type, reportAll);
}
