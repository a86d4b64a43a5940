/**
 * Errors that greenlets have ended by, until it is known whether somebody takes them.
 *
 * An error is taken by who asks for the result, as `get()` does, when the greenlet dies or
 * in the same turn of the event loop: until then nothing is reported. What nobody has taken
 * by the end of that turn the hub is told, once, and at the latest when the process ends.
 * A greenlet that succeeds has nothing to do with this.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { AsyncLocalStorage } from "node:async_hooks";
import { nextTick } from "node:process";
import { setImmediate } from "../_base/immediate.ts";
import { runDetached } from "./current.ts";
import { report } from "./main.ts";
import { isIdle, runSoon } from "./run_queue.ts";

/** How many turns of the loop those may take that were to be woken in that turn. */
const MOST_TURNS = 3;

/** What has failed, and what tells the hub of each: in the order in which they failed. */
const untaken = new Map<object, () => void>();
/** What nobody has taken yet of whom the hub has told in this turn. */
let latest: object[] | null = null;

/**
 * Tells the hub of a greenlet's error at the end of this turn of the event loop, unless
 * somebody takes it before. The handler is called in the greenlet's context of other
 * storages, and as nobody's part.
 */
export function reportUnlessTaken(greenlet: object, error: unknown): void {
  reportLater(greenlet, greenlet, error);
}

/** Tells the hub, in its turn, of an error that nobody can take, such as that of a link. */
export function reportInTurn(context: unknown, error: unknown): void {
  reportLater({}, context, error);
}

function reportLater(key: object, context: unknown, error: unknown): void {
  const inContext = AsyncLocalStorage.snapshot();
  const tell = () => runDetached(() => report(context, error));
  untaken.set(key, () => inContext(tell));
  // What waits for it is told by the hub before, and may be told late.
  runSoon(expectTakers, key);
}

/** All that have waited for it are told: others may ask for it until the turn is over. */
function expectTakers(key: object): void {
  if (!untaken.has(key) || kept.has(key)) return;
  if (latest === null) lookAtTheEnd(latest = [], 0);
  latest.push(key);
}

/** Somebody has taken the error of a greenlet, if it has failed: it is not reported. */
export function takeError(greenlet: object): void {
  if (untaken.size > 0) untaken.delete(greenlet);
}

/** How many wait that may throw the error of a greenlet when others have ended, too. */
const kept = new Map<object, number>();

/** The error of a greenlet, if it has failed, may be taken later: it is not told until then. */
export function keepError(greenlet: object): void {
  if (untaken.has(greenlet)) kept.set(greenlet, (kept.get(greenlet) ?? 0) + 1);
}

/** An error that was kept is not taken here. */
export function giveBackError(greenlet: object): void {
  const count = kept.get(greenlet);
  if (count === undefined) return;
  if (count > 1) return void kept.set(greenlet, count - 1);
  kept.delete(greenlet);
  expectTakers(greenlet);
}

/** Tells the hub of all errors that nobody has taken, or may take later. */
export function reportUntaken(): void {
  untaken.forEach((_, key) => tellOf(key));
}

/** Tells the hub of all errors, as nobody will take them any more. */
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

/** Looks when all have gone on that are ready now: a tick comes after the microtasks. */
function lookAtTheEnd(failed: object[], turns: number): void {
  then(Promise.resolve(), () => nextTick(look, failed, turns));
}

function look(failed: object[], turns: number): void {
  if (latest === failed) latest = null;
  if (untaken.size === 0) return;
  // Where wake-ups are set aside, the turn is not over for those.
  if (isIdle()) reportUntaken();
  else if (turns === MOST_TURNS) failed.forEach(tellOf);
  else setImmediate(() => lookAtTheEnd(failed, turns + 1));
}

// Nothing is lost when the process ends within the turn.
for (const type of ["unload", "error", "unhandledrejection"]) {
  globalThis.addEventListener?.(type, reportAll);
}
