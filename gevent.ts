/**
 * Greenlets on the event loop: spawn, join, kill.
 *
 * ```ts
 * import { joinAll, sleep, spawn } from "@gevent/gevent";
 *
 * async function task(name: string, ms: number) {
 *   await sleep(ms);
 *   return `${name} is done`;
 * }
 *
 * const tasks = [spawn(task, "one", 2), spawn(task, "two", 1)];
 * await joinAll(tasks);
 * console.log(tasks.map((task) => task.value)); // ["one is done", "two is done"]
 * ```
 *
 * A body may be an async function, a generator function or a plain function, and every
 * blocking call serves the first two alike: `await sleep(1)`, `yield* sleep(1)`. Time is
 * in milliseconds.
 *
 * @module
 */

import type * as core from "./greenlet.ts";
import { checkFunction } from "./_base/checks.ts";
import type { List } from "./_base/linked_list.ts";
import type { BodyResult } from "./_base/thenable.ts";
import { current, currentScope, originOf, scopeOf } from "./_hub/current.ts";
import { joinAll } from "./_hub/gather.ts";
import {
  Greenlet,
  leftSuspended,
  RawGreenlet,
  spawnQuietly,
} from "./_hub/greenlet.ts";
import { killOnce } from "./_hub/kill.ts";
import { aliveScopes, enlist, expectLife } from "./_hub/live.ts";
import { reportUntaken } from "./_hub/reports.ts";
import { mustWait, runSoon, spendBudget } from "./_hub/run_queue.ts";
import { GRACE } from "./_hub/scope.ts";
import {
  type EndingSignal,
  setExitCode,
  SignalListener,
} from "./_hub/signals.ts";
import { starters, startSoon } from "./_hub/start_queue.ts";
import {
  checkpoint,
  LeanWait,
  type OwnWait,
  Suspension,
  TURN,
  type Wait,
} from "./_hub/suspension.ts";
import {
  checkDuration,
  enterTimer,
  stopTimer,
  type Timer,
} from "./_hub/timers.ts";
import { GreenletError, GreenletExit } from "./greenlet.ts";
import { getCurrent, getHub } from "./hub.ts";
import { clearImmediate, setImmediate } from "./_base/immediate.ts";

export { getCurrent, getHub } from "./hub.ts";
export type { Link } from "./_hub/links.ts";
export type { BodyResult } from "./_base/thenable.ts";
export type { Wait } from "./_hub/suspension.ts";
export {
  type GetOptions,
  Greenlet,
  type JoinOptions,
  kill,
  type KillOptions,
  type Waitable,
} from "./_hub/greenlet.ts";
export {
  iwait,
  joinAll,
  type JoinAllOptions,
  killAll,
  type KillAllOptions,
  type ReadyIterator,
  wait,
  type WaitOptions,
} from "./_hub/gather.ts";

/**
 * Makes a greenlet and starts it. gevent's `spawn`.
 *
 * The body starts soon: after those that were spawned before, and never before this
 * returns. It inherits the `AsyncLocalStorage` context of the caller. Not a switch point.
 *
 * @typeParam A The types of the arguments.
 * @typeParam R What the function returns.
 * @param run The body: an async function, a generator function or a plain function.
 * @param args Its arguments.
 * @returns The greenlet.
 * @throws {TypeError} If `run` is not a function.
 *
 * @example Usage
 * ```ts
 * import { sleep, spawn } from "@gevent/gevent";
 *
 * const one = spawn(async (ms: number) => {
 *   await sleep(ms);
 *   return 1;
 * }, 1);
 * const two = spawn(function* () {
 *   yield* sleep(1);
 *   return 2;
 * });
 * console.log(await one.get() + await two.get()); // 3
 * ```
 */
export function spawn<A extends unknown[], R>(
  run: (...args: A) => R,
  ...args: A
): Greenlet<BodyResult<R>> {
  checkFunction(run, "spawn", "run");
  return Greenlet.spawn(run, ...args);
}

/**
 * Makes a greenlet that starts after a time. gevent's `spawn_later`. Not a switch point.
 *
 * @typeParam A The types of the arguments.
 * @typeParam R What the function returns.
 * @param ms In how many milliseconds.
 * @param run The body.
 * @param args Its arguments.
 * @returns The greenlet.
 * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds, or `run` not
 * a function.
 *
 * @example Usage
 * ```ts
 * import { spawnLater } from "@gevent/gevent";
 *
 * const later = spawnLater(1, (name: string) => `hello ${name}`, "rose");
 * console.log(await later.get()); // hello rose
 * ```
 */
export function spawnLater<A extends unknown[], R>(
  ms: number,
  run: (...args: A) => R,
  ...args: A
): Greenlet<BodyResult<R>> {
  checkFunction(run, "spawn later", "run");
  return Greenlet.spawnLater(ms, run, ...args);
}

/**
 * Starts a function in one of the core's greenlets, with the hub as its parent: cheaper
 * than {@linkcode spawn}, as it can't be joined, linked or asked for a result. gevent's
 * `spawn_raw`. Not a switch point.
 *
 * @typeParam A The types of the arguments.
 * @param run The body.
 * @param args Its arguments.
 * @returns The greenlet; {@linkcode kill} takes it, too.
 * @throws {TypeError} If `run` is not a function.
 *
 * @example Usage
 * ```ts
 * import { sleep, spawnRaw } from "@gevent/gevent";
 *
 * const raw = spawnRaw((name: string) => console.log(`hello ${name}`), "rose");
 * await sleep(1); // hello rose
 * console.log(raw.dead); // true
 * ```
 */
export function spawnRaw<A extends unknown[]>(
  run: (...args: A) => unknown,
  ...args: A
): core.Greenlet {
  checkFunction(run, "spawn raw", "run");
  const raw = new RawGreenlet(run, getHub());
  const scope = scopeOf(raw);
  scope.root = originOf(currentScope()).root;
  scope.abandoned = (_, error) => raw.fail(leftSuspended(raw, error));
  expectLife();
  enlist(scope);
  startSoon(() => {
    if (raw.dead) return;
    const { killed } = scope;
    if (killed === null) current.run(scope, () => raw.switch(...args));
    else raw.throw(killed.error);
  }, raw);
  return raw;
}

/**
 * Lets the others run for a time. A switch point. gevent's `sleep`, in milliseconds.
 *
 * @param ms How long; 0 or less to let only those go first who are ready now; `Infinity`
 * to wait for an interrupt.
 * @returns Nothing.
 * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds.
 *
 * @example Usage
 * ```ts
 * import { sleep } from "@gevent/gevent";
 *
 * const start = performance.now();
 * await sleep(5);
 * console.log(performance.now() - start >= 5); // true
 * ```
 */
export function sleep(ms = 0): Wait<void> {
  checkDuration(ms, "sleep");
  const scope = currentScope();
  const due = checkpoint(scope);
  if (due !== null) return due;
  if (ms > 0) return new Sleep(ms).suspend(scope);
  if (mustWait()) {
    const turn = new Suspension<void>();
    // The hub has tasks that were there first, and that may still interrupt us.
    runSoon(endTurn, turn);
    return turn.suspend(scope);
  }
  if (spendBudget()) return TURN;
  const turn = new Suspension<void>();
  turn.switch();
  return turn.suspend(scope);
}

function endTurn(turn: Suspension<void>): void {
  turn.switch();
}

/** The wait for nothing but the time, and its timer: 50 bytes less than two objects. */
class Sleep extends Suspension<void> implements Timer {
  list: List<Timer> | null = null;
  previous: Timer | null = null;
  next: Timer | null = null;

  constructor(ms: number) {
    super();
    enterTimer(ms, this);
  }

  override expired(): void {
    this.switch();
  }

  protected override makeWait(): OwnWait {
    return new LeanWait(this);
  }

  protected override undo(): void {
    stopTimer(this);
  }
}

/** The wait for the event loop to have nothing to do. */
class Idling extends Suspension<void> {
  #immediate = setImmediate(() => this.#look());
  #turns = 0;

  #look(): void {
    // Those who are ready at the first turn of the loop have run at the second.
    if (++this.#turns === 2) this.switch();
    else this.#immediate = setImmediate(() => this.#look());
  }

  protected override undo(): void {
    clearImmediate(this.#immediate);
  }
}

/**
 * Waits until the greenlets that are ready have run, and the event loop has looked after
 * its timers and its I/O. A switch point. gevent's `idle`.
 *
 * @returns Nothing.
 *
 * @example Usage
 * ```ts
 * import { idle, sleep, spawn } from "@gevent/gevent";
 *
 * const busy = spawn(async () => {
 *   for (let i = 0; i < 10; i++) await sleep(0);
 * });
 * await idle();
 * console.log(busy.dead); // true
 * ```
 */
export function idle(): Wait<void> {
  return checkpoint(currentScope()) ?? new Idling().get();
}

let isRunning = false;

/** How long whoever waits may need to end, when its grace is over, in ms. */
const LEEWAY = GRACE / 4;

/**
 * Runs a function as the program's main greenlet. When it ends, the other greenlets are
 * killed, as they die with the main greenlet in gevent; when their `finally` blocks have
 * run, its result is returned. One that cleans up already is left to that.
 *
 * SIGINT (Ctrl-C) and SIGTERM kill it, and so unwind everything. When all is unwound the
 * exit code of the process is set, to 130 and 143. A second signal ends the process at
 * once. A greenlet that is stuck in a foreign promise, the main one included, is left there
 * after its grace. Where its operation keeps the process alive when this has returned, a
 * second signal or `Deno.exit()` ends that.
 *
 * Nothing of this keeps a process alive that has nothing left to do: there it ends as it
 * does without `run`. Deno says that the promise of a top-level `await` was never resolved,
 * some seconds after the last thing has happened.
 *
 * The type of the result speaks of the function's result alone, as most programs end when
 * they are killed. To look whether this one was, take the result for `unknown`, or say in
 * full what is called: `run<[], Promise<string>, GreenletExit>(main)`.
 *
 * @typeParam A The types of the arguments.
 * @typeParam R What the function returns.
 * @typeParam K `GreenletExit`, for the type to say that the main greenlet may be killed.
 * @param main The function.
 * @param args Its arguments.
 * @returns What the function gives; the `GreenletExit`, if it was killed.
 * @throws {unknown} What the function throws.
 * @throws {GreenletError} If another `run` is in progress.
 *
 * @example Usage
 * ```ts
 * import { run, sleep, spawn } from "@gevent/gevent";
 *
 * const result = await run(async () => {
 *   spawn(async () => {
 *     try {
 *       await sleep(100_000);
 *     } finally {
 *       console.log("cut short");
 *     }
 *   });
 *   await sleep(1);
 *   return "done";
 * });
 * console.log(result); // cut short, done
 * ```
 */
export async function run<
  A extends unknown[],
  R,
  K extends GreenletExit = never,
>(
  main: (...args: A) => R,
  ...args: A
): Promise<BodyResult<R> | NoInfer<K>> {
  checkFunction(main, "run", "main");
  if (isRunning) {
    throw new GreenletError(
      "Cannot run as another run() is in progress: spawn() what belongs to it",
    );
  }
  const greenlet = spawnQuietly(() => main(...args));
  // Not before, as the start may have thrown.
  isRunning = true;
  const ending = new Ending(greenlet);
  let signal: EndingSignal | null = null;
  const exit = new GreenletExit();
  const listener = new SignalListener((received) => {
    signal = received;
    greenlet.kill(exit, { block: false });
    // It may be stuck in a foreign promise.
    if (ending.state === "waiting") ending.limit(GRACE + LEEWAY);
  });
  try {
    try {
      await ending.get();
    } finally {
      // Where it is stuck, it was killed before.
      await killTheRest(signal === null ? undefined : greenlet);
    }
    if (greenlet.dead) return await greenlet.get() as BodyResult<R>;
    // What it may fail with by and by, nobody throws any more.
    scopeOf(greenlet).errorIsHandled = false;
    return exit as BodyResult<R>;
  } finally {
    listener[Symbol.dispose]();
    reportUntaken();
    isRunning = false;
    if (signal !== null) setExitCode(signal);
  }
}

/** The wait for the main greenlet to end. */
class Ending extends Suspension<void> {
  readonly #main: Greenlet;
  readonly #link = () => this.switch();

  constructor(main: Greenlet) {
    super();
    this.#main = main;
    main.rawlink(this.#link);
  }

  protected override undo(): void {
    this.#main.unlink(this.#link);
  }
}

/** All that were started and are not dead, the youngest first. */
function alive(): core.Greenlet[] {
  const rest = starters() as core.Greenlet[];
  for (const { greenlet } of aliveScopes()) rest.push(greenlet);
  return [...new Set(rest.filter((greenlet) => !greenlet.dead))];
}

/** @param stuck One that was waited for in vain. */
/** How often those are killed that others have started while they cleaned up. */
const MOST_ROUNDS = 10;

/** A spawn callback that has nothing start any more. */
const refuseToStart = (greenlet: Greenlet) => killOnce([greenlet]);

async function killTheRest(stuck?: core.Greenlet): Promise<void> {
  const spared = new Set([stuck]);
  let caller: core.Greenlet | undefined = getCurrent();
  while (caller instanceof Greenlet) {
    spared.add(caller);
    caller = caller.spawningGreenlet;
  }
  try {
    for (let round = 1; round < 2 * MOST_ROUNDS; round++) {
      const rest = alive().filter((greenlet) => !spared.has(greenlet));
      if (rest.length === 0) return;
      // Else one that starts another whenever it is killed would go on for ever.
      if (round === MOST_ROUNDS) Greenlet.addSpawnCallback(refuseToStart);
      for (const greenlet of rest) spared.add(greenlet);
      killOnce(rest);
      let grace = GRACE;
      for (const greenlet of rest) {
        grace = Math.max(grace, scopeOf(greenlet).graceLeft);
      }
      const joined = rest.filter((greenlet) => greenlet instanceof Greenlet);
      // What waits has ended soon after its grace; the others can't be ended.
      await joinAll(joined, { timeout: grace + LEEWAY });
    }
  } finally {
    Greenlet.removeSpawnCallback(refuseToStart);
  }
}
