/**
 * Reports of errors that greenlets have ended by.
 *
 * `get()`, or another call that asks for the result, takes the error when the greenlet dies or
 * in the same turn of the event loop, so nothing is reported before the turn is over. Then the
 * hub is told of an error that was not taken, once, and at the latest when the process ends.
 * A greenlet that succeeds costs nothing here.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { getProcess } from "../_base/builtin.ts";
import { setImmediate } from "../_base/immediate.ts";
import { current, runDetached } from "./current.ts";
import { report } from "./main.ts";
import { isIdle, runSoon } from "./run_queue.ts";

/** For how many turns more wake-ups that were due in that turn are waited for. */
const MOST_TURNS = 3;

/** A function for each failure that reports it, in the order in which they came. */
const untaken = new Map<object, () => void>();
/** The failures of this turn, of which the links have been called. */
let latest: object[] | null = null;

/**
 * Reports a greenlet's error at the end of this turn of the event loop, unless it is taken
 * before. The handler is called in no greenlet, and otherwise in the `AsyncLocalStorage`
 * context of the greenlet.
 */
export function reportUnlessTaken(greenlet: object, error: unknown): void {
  reportLater(greenlet, greenlet, error);
}

/** Reports an error that can't be taken, such as that of a link, in its turn. */
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

/** Lets calls take an error until the turn is over, when all its links have been called. */
function expectTakers(key: object): void {
  if (!untaken.has(key) || kept.has(key)) return;
  if (latest === null) lookAtTheEnd(latest = [], 0);
  latest.push(key);
}

/** Takes the error of a greenlet, if it has failed: it is not reported. */
export function takeError(greenlet: object): void {
  if (untaken.size > 0) untaken.delete(greenlet);
}

/** The number of calls that may still take the error of a greenlet, by greenlet. */
const kept = new Map<object, number>();

/** Puts off the report of a greenlet's error, if it has failed, as it may be taken later. */
export function keepError(greenlet: object): void {
  if (untaken.has(greenlet)) kept.set(greenlet, (kept.get(greenlet) ?? 0) + 1);
}

/** Ends {@linkcode keepError} of a call that has not taken the error. */
export function giveBackError(greenlet: object): void {
  const count = kept.get(greenlet);
  if (count === undefined) return;
  if (count > 1) return void kept.set(greenlet, count - 1);
  kept.delete(greenlet);
  expectTakers(greenlet);
}

/** Reports all errors that were not taken, and whose report was not put off. */
export function reportUntaken(): void {
  untaken.forEach((_, key) => tellOf(key));
}

/** Reports all errors, as the process ends and none can be taken any more. */
function reportAll(): void {
  kept.clear();
  reportUntaken();
}

function tellOf(key: object): void {
  if (kept.has(key)) return;
  const tell = untaken.get(key);
  untaken.delete(key);
  tell?.();
}

/** Looks when the greenlets that are ready have run: a tick comes after the microtasks. */
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
  // The turn is not over for greenlets whose wake-ups were put off to the next one.
  if (isIdle()) reportUntaken();
  else if (turns === MOST_TURNS) failed.forEach(tellOf);
  else setImmediate(() => lookAtTheEnd(failed, turns + 1));
}

// So that no error is lost when the process ends within the turn.
for (const type of ["unload", "error", "unhandledrejection"]) {
  globalThis.addEventListener?.(type, reportAll);
}
