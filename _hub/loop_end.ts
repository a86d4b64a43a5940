/**
 * Notices that the event loop is empty while main waits: then nothing can end the wait.
 *
 * Node fires `beforeExit` then, and Deno `beforeunload`; but not if the program waits at its top
 * level: Deno then ends it without an event. So the library looks for work itself when nothing
 * has happened for a while; see `_base/pending.ts`.
 *
 * @module
 */

import { after } from "../_base/after.ts";
import { setImmediate } from "../_base/immediate.ts";
import { PendingWork } from "../_base/pending.ts";
import { isIdle, wakeups } from "./run_queue.ts";
import { countTimers, hasTimers } from "./timers.ts";

/** The wait of main: of the function of `run`, or at the top level of the program. */
export interface TopWait {
  /** Whether main waits. */
  readonly waits: boolean;
  /** Throws a `LoopExit` into the wait: nothing else can end it. */
  loopEnds(): void;
}

/** Operations of this library that look like work, and that can be paused. */
export interface Pausable {
  /** How many operations there are at most while it is not paused. */
  readonly operations: number;
  pause(): void | Promise<void>;
  goOn(): void;
}

/** What is paused while it is looked whether anything else is left. */
const pausables = new Set<Pausable>();

/** Adds something to be paused, until the result is disposed of. */
export function pauseAtEnd(one: Pausable): Disposable {
  pausables.add(one);
  return { [Symbol.dispose]: () => void pausables.delete(one) };
}

/** For how many milliseconds nothing has to happen until the first look; then twice as long. */
const IDLE = 100;
const LONGEST_IDLE = 5000;
/**
 * How many milliseconds a pause takes. The runtime notices in it that its loop is empty. A
 * signal in that time ends the process at once, and no `finally` block runs.
 */
const PAUSE = 1;

/** The `run` in progress. */
let running: TopWait | null = null;
/** Main itself, which waits at the top level of a program. */
let main: TopWait | null = null;

/** `undefined` at first; `null` if the runtime has an event for it, or hides its work. */
let work: PendingWork | null | undefined;
let isWatching = false;
let idle = IDLE;
/** The count at the last look. A greenlet or a timer has run since if it has changed. */
let last = -1;

/** Sets the wait of a program at its top level. */
export function setMain(wait: TopWait): void {
  main = wait;
}

/** Must be called when main begins to wait. */
export function noteMainWaits(): void {
  if (!isWatching) watch();
}

/** Watches for a `run`, until this is disposed of. */
export class RunWatch implements Disposable {
  readonly #pausing: Disposable;

  /**
   * @param wait The wait of `run`.
   * @param listener The signal listener, which hears nothing while it is paused.
   */
  constructor(wait: TopWait, listener: Pausable) {
    running = wait;
    this.#pausing = pauseAtEnd(listener);
    if (globalThis.Deno !== undefined) {
      globalThis.addEventListener?.("beforeunload", unloads);
    }
    watch();
  }

  [Symbol.dispose](): void {
    running = null;
    this.#pausing[Symbol.dispose]();
    globalThis.removeEventListener?.("beforeunload", unloads);
  }
}

/** Called when Deno is about to end a program that does not wait at its top level. */
function unloads(event: Event): void {
  if (!running?.waits || !isAtRest()) return;
  event.preventDefault();
  running.loopEnds();
}

/** Whether the library has no timer, no wake-up and no task. */
function isAtRest(): boolean {
  return !hasTimers() && isIdle();
}

function watch(): void {
  if (isWatching) return;
  isWatching = true;
  if (globalThis.Deno === undefined) return listenToProcess();
  work ??= PendingWork.find();
  work?.hold();
  last = -1;
  idle = IDLE;
  after(IDLE, look);
}

/** A number that changes with every wake-up and every timer of the library. */
function count(): number {
  return wakeups() + countTimers();
}

async function look(): Promise<void> {
  if (!running?.waits && !(work && main?.waits)) return stop();
  const isQuiet = count() === last && isAtRest();
  last = count();
  if (!isQuiet) idle = IDLE;
  else if (work === null) await pause(null);
  else if (await isOver(work!)) tell();
  after(idle, look);
  // Looks less often, the longer a program is idle.
  if (isQuiet) idle = Math.min(2 * idle, LONGEST_IDLE);
}

function stop(): void {
  isWatching = false;
  work?.release();
}

function tell(): void {
  if (running?.waits) running.loopEnds();
  else if (main!.waits) main!.loopEnds();
}

/** Whether the event loop is empty, and a module waits at its top level. */
async function isOver(work: PendingWork): Promise<boolean> {
  const before = count();
  let own = 0;
  for (const { operations } of pausables) own += operations;
  let pending = work.look(own);
  while (pending === "unsure") {
    await inMs(PAUSE);
    pending = work.look(own);
  }
  if (pending === "busy") return false;
  await work.modulesLoaded();
  do {
    work.note();
    await inMs(IDLE);
    if (count() !== before || !isAtRest()) return false;
  } while (work.isComputing);
  await pause(() => pending = work.look(0));
  return pending === "empty" && count() === before && work.isModuleWaiting;
}

/** Pauses what is the library's own, as its operations look like work. */
async function pause(meanwhile: (() => void) | null): Promise<void> {
  const paused = [...pausables];
  await Promise.all(paused.map((one) => one.pause()));
  await inMs(PAUSE);
  meanwhile?.();
  for (const one of paused) if (pausables.has(one)) one.goOn();
}

function inMs(ms: number): Promise<void> {
  return new Promise((resolve) => after(ms, resolve));
}

/** As much of `process` as is needed. */
interface Process {
  exitCode?: number | string | null | undefined;
  on(name: string, listener: (code: number) => void): unknown;
  listeners?(name: string): { readonly name: string }[];
}

/**
 * Listens to `beforeExit` of Node. Not in Bun: it fires no event, and runs for ever when its
 * loop is empty and a module waits at its top level.
 */
function listenToProcess(): void {
  const process = globalThis.process as Process | undefined;
  if (typeof process?.on !== "function" || "Bun" in globalThis) return;
  process.on("beforeExit", () => {
    const isMain = process.listeners?.("exit")
      .some(({ name }) => name === "handleProcessExit");
    const wait = running?.waits ? running : isMain && main?.waits ? main : null;
    if (wait === null || !isAtRest()) return;
    // Makes the loop turn once more.
    setImmediate(() => {});
    wait.loopEnds();
  });
}
