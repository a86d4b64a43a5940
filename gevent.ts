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
 * A greenlet's body may be an async function, a generator function or a plain function.
 * Every call that waits can be used in the first two: `await sleep(1)`, `yield* sleep(1)`.
 * Times are in milliseconds.
 *
 * @module
 */

import type * as core from "./greenlet.ts";
import { checkFunction, isInstance, show } from "./_base/checks.ts";
import type { List } from "./_base/linked_list.ts";
import type { BodyResult } from "./_base/thenable.ts";
import { current, currentScope, runDetached, scopeOf } from "./_hub/current.ts";
import { newLoopExit } from "./_hub/deadlock.ts";
import { joinAll } from "./_hub/gather.ts";
import { Greenlet, RawGreenlet, spawnUnreported } from "./_hub/greenlet.ts";
import { killOnce } from "./_hub/kill.ts";
import { aliveGreenlets, enlist, expectLife } from "./_hub/live.ts";
import { startSoon } from "./_hub/start_queue.ts";
import { observers } from "./_hub/observer.ts";
import { reportUntaken } from "./_hub/reports.ts";
import { hasTasks, noteWoken, runSoon, spendBudget } from "./_hub/run_queue.ts";
import { LeanWait, type OwnWait } from "./_hub/own_wait.ts";
import { RunWatch, type TopWait } from "./_hub/loop_end.ts";
import { GRACE, type Scope, type Waited } from "./_hub/scope.ts";
import {
  type EndingSignal,
  setExitCode,
  SignalListener,
} from "./_hub/signals.ts";
import { checkpoint, Suspension, TURN, type Wait } from "./_hub/suspension.ts";
import {
  checkDuration,
  enterTimer,
  stopTimer,
  timeLeft,
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
 * Makes a greenlet and starts it soon. gevent's `spawn`. Not a switch point.
 *
 * The body starts after this call has returned, and after the bodies that were spawned
 * earlier. It inherits the `AsyncLocalStorage` context of the caller.
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
  const greenlet = new Greenlet(run, ...args);
  greenlet.start();
  return greenlet as Greenlet<BodyResult<R>>;
}

/**
 * Makes a greenlet and starts it after a delay. gevent's `spawn_later`. Not a switch point.
 *
 * A kill during the delay keeps it from starting.
 *
 * @typeParam A The types of the arguments.
 * @typeParam R What the function returns.
 * @param ms The delay, in milliseconds.
 * @param run The body.
 * @param args Its arguments.
 * @returns The greenlet.
 * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds, or `run` is not
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
 * Starts a function in one of the core's greenlets, with the hub as its parent. gevent's
 * `spawn_raw`. Not a switch point.
 *
 * It is cheaper than {@linkcode spawn}: such a greenlet can't be joined or linked, and has
 * no result.
 *
 * @typeParam A The types of the arguments.
 * @param run The body.
 * @param args Its arguments.
 * @returns The greenlet. {@linkcode kill} accepts it.
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
  expectLife();
  enlist(scope);
  if (observers !== null) observers.spawned(raw);
  startSoon(() => {
    if (raw.dead) return;
    const { killed } = scope;
    if (killed === null) current.run(scope, () => raw.switch(...args));
    else raw.throw(killed.error);
  }, raw);
  return raw;
}

/**
 * Kills a greenlet when a signal aborts; at once, if the signal is aborted already. Not a
 * switch point. gevent has no such call.
 *
 * The greenlet is killed with a `GreenletExit` whose `cause` is the `reason` of the signal. If
 * the reason is itself a `GreenletExit`, it is used. So the greenlet counts as killed, and
 * nothing is printed. When the greenlet has ended, the listener is removed from the signal.
 *
 * For the other direction, an interrupt that aborts a signal, see `withSignal`.
 *
 * @typeParam G The class of the greenlet.
 * @param signal The signal, such as that of a `Request`.
 * @param greenlet The greenlet.
 * @returns The greenlet.
 * @throws {TypeError} If `signal` is not an `AbortSignal`, or `greenlet` is not a `Greenlet`.
 *
 * @example Usage
 * ```ts
 * import { abortedBy, GreenletExit, sleep, spawn } from "@gevent/gevent";
 *
 * const controller = new AbortController();
 * const work = abortedBy(controller.signal, spawn(sleep, 60_000));
 * controller.abort("not needed any more");
 * console.log(await work.get<GreenletExit>() instanceof GreenletExit); // true
 * ```
 */
export function abortedBy<G extends Greenlet>(
  signal: AbortSignal,
  greenlet: G,
): G {
  if (!isInstance(signal as unknown, AbortSignal)) {
    throw new TypeError(
      `Cannot kill by a signal as 'signal' must be an AbortSignal: received ${
        show(signal)
      }`,
    );
  }
  if (!isInstance(greenlet, Greenlet)) {
    throw new TypeError(
      `Cannot kill by a signal as 'greenlet' must be a Greenlet: received ${
        show(greenlet)
      }`,
    );
  }
  const abort = () => {
    const { reason } = signal;
    const error = reason instanceof GreenletExit
      ? reason
      : new GreenletExit(undefined, { cause: reason });
    greenlet.kill(error, { block: false });
  };
  if (greenlet.dead) return greenlet;
  if (signal.aborted) {
    abort();
    return greenlet;
  }
  signal.addEventListener("abort", abort, { once: true });
  greenlet.rawlink(() => signal.removeEventListener("abort", abort));
  return greenlet;
}

/**
 * Waits for a number of milliseconds, while other greenlets run. A switch point. gevent's
 * `sleep`. An interrupt ends the sleep at once.
 *
 * @param ms How long to sleep. With 0 or less, the greenlets that are ready now run first;
 * with `Infinity`, only an interrupt ends the sleep.
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
  if (hasTasks()) {
    const turn = new Turn();
    // The hub has tasks that come first, and may interrupt this greenlet.
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
  noteWoken();
}

/** A `sleep(0)`. */
class Turn extends Suspension<void> {
  override describe(): string {
    return "sleep(0)";
  }
}

/** The wait of a sleep, and its timer: one object for both saves 50 bytes. */
class Sleep extends Suspension<void> implements Timer {
  list: List<Timer> | null = null;
  previous: Timer | null = null;
  next: Timer | null = null;

  constructor(ms: number) {
    super();
    // `describe()` needs it. The field holds the result only when the sleep is over.
    this.value = ms;
    enterTimer(ms, this);
  }

  /** How many milliseconds it takes; something else when it is over. */
  override get subject(): unknown {
    return this.value;
  }

  override describe(subject = this.subject): string {
    return `sleep(${subject})`;
  }

  override get waited(): Waited {
    const ms = this.value as number;
    // An endless sleep has no timer, so its time is not known.
    return { ms: ms < Infinity ? ms - timeLeft(this) : NaN, isExact: true };
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

/** The wait of `idle()`. */
class Idling extends Suspension<void> {
  #immediate = setImmediate(() => this.#look());
  #turns = 0;

  #look(): void {
    // The greenlets that were ready in the first turn of the loop have run in the second.
    if (++this.#turns === 2) this.switch();
    else this.#immediate = setImmediate(() => this.#look());
  }

  protected override undo(): void {
    clearImmediate(this.#immediate);
  }

  override describe(): string {
    return "idle()";
  }
}

/**
 * Waits until the greenlets that are ready have run and the event loop has handled the
 * timers and I/O that are due. A switch point. gevent's `idle`.
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
  const scope = currentScope();
  return checkpoint(scope) ?? new Idling().suspend(scope);
}

let isRunning = false;

/** The time that a greenlet has to end after its grace is over, in ms. */
const LEEWAY = GRACE / 4;

/**
 * Runs a function as the program's main greenlet. A switch point.
 *
 * When the function ends, this kills all other greenlets, waits until their `finally` blocks
 * have run, and returns the function's result. In gevent, too, greenlets die with the main
 * greenlet. A greenlet that was killed before is not killed again: it finishes its clean-up.
 *
 * SIGINT (Ctrl-C) and SIGTERM kill the function, and then the other greenlets. Then the exit
 * code of the process is set: 130 for SIGINT, 143 for SIGTERM. A second signal ends the process
 * at once. A greenlet, or the function, that still awaits a foreign promise when its grace is
 * over is left behind, and `run` returns. If the operation behind that promise keeps the
 * process alive, a second signal or `Deno.exit()` ends it.
 *
 * `run` does not keep the process alive. If nothing is left that could end the wait of the
 * function, this wait throws a {@linkcode LoopExit}, whose message lists all greenlets. If the
 * function awaits a foreign promise, which nothing can interrupt, `run` itself throws it.
 *
 * The type of the result leaves out a kill, as most programs end when they are killed. If
 * yours goes on, assign the result to a variable of type `unknown`, or write all type
 * arguments: `run<[], Promise<string>, GreenletExit>(main)`.
 *
 * @typeParam A The types of the arguments.
 * @typeParam R What the function returns.
 * @typeParam K `GreenletExit`, to include a kill in the type of the result.
 * @param main The function.
 * @param args Its arguments.
 * @returns The function's result; the `GreenletExit`, if it was killed.
 * @throws {unknown} The error that the function throws.
 * @throws {GreenletError} If another `run` is in progress.
 * @throws {LoopExit} If nothing can end what the function waits in.
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
      "Cannot run as another run() is in progress: spawn() the function instead",
    );
  }
  const body = () => main(...args);
  Object.defineProperty(body, "name", { value: main.name });
  const greenlet = spawnUnreported(body);
  // Set after the start, which may throw.
  isRunning = true;
  const ending = new Ending(greenlet);
  let signal: EndingSignal | null = null;
  const exit = new GreenletExit();
  const listener = new SignalListener((received) => {
    signal = received;
    greenlet.kill(exit, { block: false });
    // The function may await a foreign promise, which can't be ended.
    if (ending.isPending) ending.limit(GRACE + LEEWAY);
  });
  const watch = new RunWatch(ending, listener);
  try {
    try {
      await ending.get();
    } finally {
      // A function that is not dead now awaits a foreign promise. It can't be ended.
      const isStuck = signal !== null || ending.isStuck;
      await killTheRest(isStuck ? greenlet : undefined);
    }
    if (greenlet.dead) return await greenlet.get() as BodyResult<R>;
    // If the function fails later, `run` can't throw its error any more: the hub reports it.
    scopeOf(greenlet).errorIsHandled = false;
    return exit as BodyResult<R>;
  } finally {
    watch[Symbol.dispose]();
    listener[Symbol.dispose]();
    reportUntaken();
    isRunning = false;
    if (signal !== null) setExitCode(signal);
  }
}

/** The wait for the main greenlet to end. */
class Ending extends Suspension<void> implements TopWait {
  readonly #main: Greenlet;
  readonly #link = () => this.switch();
  /** The wait of the main greenlet into which a {@linkcode LoopExit} was thrown. */
  #thrownInto: Scope["pending"] = null;
  /** Whether the main greenlet can't be ended. */
  isStuck = false;

  constructor(main: Greenlet) {
    super();
    this.#main = main;
    main.rawlink(this.#link);
  }

  get waits(): boolean {
    return this.isPending;
  }

  loopEnds(): void {
    const { pending } = scopeOf(this.#main);
    const error = newLoopExit();
    if (pending !== null && pending !== this.#thrownInto) {
      this.#thrownInto = pending;
      runDetached(() => this.#main.throw(error));
      return;
    }
    // It awaits a foreign promise.
    this.isStuck = true;
    this.throw(error);
  }

  protected override undo(): void {
    this.#main.unlink(this.#link);
  }

  override describe(): string {
    return `run(), of ${show(this.#main)}`;
  }

  override get blockers(): readonly core.Greenlet[] {
    return [this.#main];
  }
}

/** The most rounds of kills: a clean-up may start greenlets, which the next round kills. */
const MOST_ROUNDS = 10;

/** A spawn callback that kills each greenlet before it starts. */
const refuseToStart = (greenlet: Greenlet) => killOnce([greenlet]);

/**
 * Kills all greenlets but the caller and its spawners, and waits until they have ended.
 *
 * @param stuck A greenlet that did not end in time, and is left out.
 */
async function killTheRest(stuck?: core.Greenlet): Promise<void> {
  const spared = new Set([stuck]);
  let caller: core.Greenlet | undefined = getCurrent();
  while (caller instanceof Greenlet) {
    spared.add(caller);
    caller = caller.spawningGreenlet;
  }
  try {
    for (let round = 1; round < 2 * MOST_ROUNDS; round++) {
      const rest = aliveGreenlets().filter((greenlet) => !spared.has(greenlet));
      if (rest.length === 0) return;
      // Otherwise a greenlet that starts another one in its clean-up would keep this busy.
      if (round === MOST_ROUNDS) Greenlet.addSpawnCallback(refuseToStart);
      for (const greenlet of rest) spared.add(greenlet);
      killOnce(rest);
      let grace = GRACE;
      for (const greenlet of rest) {
        grace = Math.max(grace, scopeOf(greenlet).graceLeft);
      }
      const joined = rest.filter((greenlet) => greenlet instanceof Greenlet);
      // Cooperative waits end soon after the grace. A wait in a foreign promise may not.
      await joinAll(joined, { timeout: grace + LEEWAY });
    }
  } finally {
    Greenlet.removeSpawnCallback(refuseToStart);
  }
}
