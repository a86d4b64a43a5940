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

import { clearImmediate, setImmediate } from "node:timers";
import * as core from "./greenlet.ts";
import { GreenletError, GreenletExit } from "./greenlet.ts";
import {
  current,
  currentScope,
  originOf,
  runDetached,
  scopeOf,
  setOwnScope,
} from "./_hub/current.ts";
import { failureFor } from "./_hub/interrupts.ts";
import { report } from "./_hub/main.ts";
import { GRACE, type Origin, Scope } from "./_hub/scope.ts";
import {
  checkpoint,
  DONE,
  failedWait,
  isAwaiting,
  LeanWait,
  type OwnWait,
  readyWait,
  Suspension,
  TURN,
  type Wait,
} from "./_hub/suspension.ts";
import { getCurrent, getHub } from "./hub.ts";
import {
  callLink,
  checkLink,
  isTooEarly,
  type Link,
  linkAll,
  LinkedWait,
  Links,
  waking,
} from "./_hub/links.ts";
import { OutcomeWait } from "./_hub/outcome.ts";
import {
  aliveScopes,
  delist,
  enlist,
  expectLife,
  whenAllEnded,
} from "./_hub/live.ts";
import type { List } from "./_base/linked_list.ts";
import {
  checkCallback,
  checkFunction,
  checkOptions,
  instanceOf,
  isBody,
  numberError,
} from "./_base/checks.ts";
import {
  checkDuration,
  enterTimer,
  startTimer,
  stopTimer,
  type Timer,
} from "./_hub/timers.ts";
import { starters, startSoon } from "./_hub/start_queue.ts";
import {
  mustWait,
  runSoon,
  spendBudget,
  turn,
  wake,
} from "./_hub/run_queue.ts";
import { type BodyResult, isThenable } from "./_base/thenable.ts";
import { killOnce } from "./_hub/kill.ts";
import {
  type EndingSignal,
  setExitCode,
  SignalListener,
} from "./_hub/signals.ts";
import { reportUnlessTaken, reportUntaken, takeError } from "./_hub/reports.ts";
import { Timeout } from "./timeout.ts";

export { type BodyResult, getCurrent, getHub, type Link, type Wait };

/** Options of {@linkcode Greenlet.join}. */
export interface JoinOptions {
  /** After how many milliseconds to wait no longer. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode Greenlet.get}. */
export interface GetOptions {
  /** Whether to wait for a greenlet that is not ready. @default {true} */
  block?: boolean;
  /** After how many milliseconds to throw a `Timeout`. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode Greenlet.kill}. */
export interface KillOptions {
  /** Whether to wait until the body has ended. @default {true} */
  block?: boolean;
  /** After how many milliseconds to wait no longer. @default {Infinity} */
  timeout?: number;
  /**
   * How many milliseconds the body may take to clean up, before every wait of it throws:
   * 0 for none, `Infinity` for gevent's rule, by which a body that swallows the error
   * lives on.
   *
   * @default {1000}
   */
  grace?: number;
}

/** Options of {@linkcode killAll}. */
export interface KillAllOptions extends KillOptions {
  /** What is thrown in each body. @default {new GreenletExit()} */
  error?: unknown;
}

/** Options of {@linkcode wait} and {@linkcode iwait}. */
export interface WaitOptions {
  /** After how many milliseconds to wait no longer. @default {Infinity} */
  timeout?: number;
  /** For how many of the objects to wait. @default {all of them} */
  count?: number;
}

/** Options of {@linkcode joinAll}. */
export interface JoinAllOptions extends WaitOptions {
  /** Whether to throw the first error of a greenlet. @default {false} */
  raiseError?: boolean;
}

/** What {@linkcode wait} can wait for: greenlets, events, semaphores. */
export interface Waitable {
  /** Calls `link` from the hub once the object is ready. */
  // deno-lint-ignore no-explicit-any
  rawlink(link: (source: any) => unknown): void;
  /** Takes the link back. */
  // deno-lint-ignore no-explicit-any
  unlink(link: (source: any) => unknown): void;
}

/**
 * - `pending`: made, not started
 * - `scheduled`: to be started soon or later
 * - `running`: started and not ended
 * - `following`: running, and an async function, which the event loop resumes
 * - `succeeded`: has returned, or was killed by a `GreenletExit`
 * - `failed`: has thrown, or was killed by another error
 */
type State =
  | "pending"
  | "scheduled"
  | "running"
  | "following"
  | "succeeded"
  | "failed";

/** Shared by all greenlets without arguments, as there are many. */
const NONE: readonly unknown[] = Object.freeze([]);

const spawnCallbacks = new Set<(greenlet: Greenlet) => void>();
/** Few are ever asked for their name. */
const names = new WeakMap<core.Greenlet, string>();
let named = 0;

/** The timers of those who are to start later. */
const delays = new WeakMap<core.Greenlet, Timer | null>();
/** What is aborted by a kill, of those who were asked for their signal. */
const aborts = new WeakMap<core.Greenlet, AbortController>();

/**
 * Reactions to promises. They know whose they are by the context in which they were
 * added, so that no greenlet needs closures of its own: 200 bytes and 300 ns for each.
 */
let succeed: (value: unknown) => void;
let fail: (error: unknown) => void;
/** Begins a greenlet that was started. */
let begin: (greenlet: Greenlet) => void;
/** Calls the one link of a greenlet that has ended, if it was not taken back. */
let callLone: (greenlet: Greenlet) => true | void;
/** Whether the body has given control away by a switch, and not by a wait. */
let hasSwitched: (greenlet: Greenlet) => boolean;
/** Spawns a greenlet whose error is not printed, as somebody else will throw it. */
let spawnQuietly: (run: () => unknown) => Greenlet;

/**
 * A greenlet on the event loop. gevent's `Greenlet`.
 *
 * It runs a function as a task with a handle: it can be joined, asked for its result,
 * linked to, and killed. A subclass may define `run`. A greenlet is deliberately not
 * thenable: an async function may return one without waiting for it.
 *
 * @typeParam T What the body gives in the end.
 *
 * @example Usage
 * ```ts
 * import { Greenlet, sleep } from "@gevent/gevent";
 *
 * const greenlet = new Greenlet(async (ms: number) => {
 *   try {
 *     await sleep(ms);
 *   } finally {
 *     console.log("cleaned up");
 *   }
 * }, 100_000);
 * greenlet.start();
 * await sleep(1);
 * await greenlet.kill(); // cleaned up
 * console.log(greenlet.dead); // true
 * ```
 */
export class Greenlet<T = unknown> extends core.Greenlet
  implements Waitable, AsyncDisposable {
  // What is private and no field is static: with private methods each instance would be
  // larger by 8 bytes, of which 200,000 that are alive at once are copied twice.
  #state: State = "pending";
  /** `null` before the body begins, and when it has ended, if nobody may ask for it. */
  #scope: Scope | null = null;
  readonly #origin: Origin;
  #outcome: unknown = undefined;
  // A single one is kept as it is, and `joinAll` needs no more than that: 140 bytes less.
  // Of `this`, which a type argument of the class can't say.
  // deno-lint-ignore no-explicit-any
  #links: Links<any> | Link<any> | null = null;

  /** The arguments of the body; none when it is dead. gevent's `args`. */
  readonly args: readonly unknown[];

  static {
    setOwnScope(
      (greenlet) => #scope in greenlet ? Greenlet.#flowOf(greenlet) : undefined,
      (greenlet, error) => {
        const own = greenlet as Greenlet;
        Greenlet.#finish(own, leftSuspended(own, error), true);
      },
    );
    spawnQuietly = (run) => {
      const greenlet = new Greenlet(run);
      Greenlet.#flowOf(greenlet).errorIsHandled = true;
      greenlet.start();
      return greenlet;
    };
    const own = () => current.get()!.greenlet as Greenlet;
    succeed = (value) => Greenlet.#finish(own(), value, false);
    fail = (error) => Greenlet.#fail(own(), error);
    begin = (greenlet) => Greenlet.#begin(greenlet);
    hasSwitched = (greenlet) =>
      greenlet.#state === "running" && !isAwaiting(greenlet.#scope!) &&
      core.getCurrent() !== greenlet;
    callLone = (greenlet) => {
      const link = greenlet.#links;
      // Where another one has joined it meanwhile, they are called together.
      if (link === null || link instanceof Links) return;
      if (isTooEarly(link)) return true;
      greenlet.#links = null;
      callLink(link, null, greenlet);
    };
  }

  /**
   * Makes a greenlet that is not started yet; {@linkcode spawn} starts it, too.
   *
   * @param run The body; may be left out where a subclass defines `run`.
   * @param args The body's arguments.
   * @throws {TypeError} If `run` is not a function.
   */
  constructor(
    // deno-lint-ignore no-explicit-any
    run?: (...args: any[]) => Generator<unknown, T, any> | PromiseLike<T> | T,
    ...args: unknown[]
  ) {
    super(run, getHub());
    this.args = args.length === 0 ? NONE : args;
    this.#origin = originOf(currentScope());
  }

  /**
   * Makes a greenlet and starts it. gevent's `Greenlet.spawn`.
   *
   * @param run The body.
   * @param args Its arguments.
   * @returns The greenlet. It starts soon, not before this returns.
   * @throws {TypeError} If `run` is not a function.
   *
   * @example Usage
   * ```ts
   * import { Greenlet } from "@gevent/gevent";
   *
   * const greenlet = Greenlet.spawn((a: number, b: number) => a + b, 1, 2);
   * console.log(await greenlet.get()); // 3
   * ```
   */
  static spawn<A extends unknown[], R>(
    run: (...args: A) => R,
    ...args: A
  ): Greenlet<BodyResult<R>>;
  /**
   * Makes an instance of a subclass that defines `run`, and starts it.
   *
   * @param args The arguments of its constructor.
   * @returns The greenlet.
   */
  static spawn<A extends unknown[], G extends Greenlet>(
    this: new (...args: A) => G,
    ...args: A
  ): G;
  static spawn(
    this: new (...args: unknown[]) => Greenlet,
    ...args: unknown[]
  ): Greenlet {
    const greenlet = new this(...args);
    greenlet.start();
    return greenlet;
  }

  /**
   * Makes a greenlet that starts after a time. gevent's `Greenlet.spawn_later`.
   *
   * @param ms In how many milliseconds.
   * @param run The body.
   * @param args Its arguments.
   * @returns The greenlet.
   * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds, or `run` not
   * a function.
   *
   * @example Usage
   * ```ts
   * import { Greenlet } from "@gevent/gevent";
   *
   * const greenlet = Greenlet.spawnLater(1, () => "here I am");
   * console.log(await greenlet.get()); // here I am
   * ```
   */
  static spawnLater<A extends unknown[], R>(
    ms: number,
    run: (...args: A) => R,
    ...args: A
  ): Greenlet<BodyResult<R>>;
  /**
   * Makes an instance of a subclass that defines `run`, and starts it after a time.
   *
   * @param ms In how many milliseconds.
   * @param args The arguments of its constructor.
   * @returns The greenlet.
   */
  static spawnLater<A extends unknown[], G extends Greenlet>(
    this: new (...args: A) => G,
    ms: number,
    ...args: A
  ): G;
  static spawnLater(
    this: new (...args: unknown[]) => Greenlet,
    ms: number,
    ...args: unknown[]
  ): Greenlet {
    const greenlet = new this(...args);
    greenlet.startLater(ms);
    return greenlet;
  }

  /**
   * Has a function called for every greenlet when it is started. gevent's
   * `add_spawn_callback`.
   *
   * @param callback The function; to add it twice is to add it once.
   *
   * @example Usage
   * ```ts
   * import { Greenlet, spawn } from "@gevent/gevent";
   *
   * const callback = (greenlet: Greenlet) => console.log(`new: ${greenlet.name}`);
   * Greenlet.addSpawnCallback(callback);
   * await spawn(() => {}).join();
   * Greenlet.removeSpawnCallback(callback);
   * ```
   */
  static addSpawnCallback(callback: (greenlet: Greenlet) => void): void {
    if (typeof callback !== "function") {
      throw new TypeError(
        `Cannot add spawn callback as it must be a function: received ${callback}`,
      );
    }
    checkCallback(callback, "add spawn callback", "callback");
    spawnCallbacks.add(callback);
  }

  /**
   * Has a function called no more; see {@linkcode Greenlet.addSpawnCallback}. gevent's
   * `remove_spawn_callback`.
   *
   * @param callback The function; need not have been added.
   */
  static removeSpawnCallback(callback: (greenlet: Greenlet) => void): void {
    spawnCallbacks.delete(callback);
  }

  /** The name that messages show; unless set, `Greenlet-` and a number. */
  get name(): string {
    let name = names.get(this);
    if (name === undefined) names.set(this, name = `Greenlet-${++named}`);
    return name;
  }

  /** See the getter. */
  set name(name: string) {
    names.set(this, String(name));
  }

  /** Whether the body was to be started, and has not ended. gevent's `bool(g)`. */
  get started(): boolean {
    return this.#state === "scheduled" || this.active;
  }

  /** Whether it has ended, or was killed before it started, and never runs again. */
  override get dead(): boolean {
    return this.#state === "succeeded" || this.#state === "failed";
  }

  /** Whether the body has started and not ended. */
  override get active(): boolean {
    return this.#state === "running" || this.#state === "following";
  }

  /** Whether it has ended, one way or the other. gevent's `ready`. */
  ready(): boolean {
    return this.dead;
  }

  /**
   * Whether it has ended, and not by an error. One that was killed by a
   * {@linkcode GreenletExit} is successful. gevent's `successful`.
   */
  successful(): boolean {
    return this.#state === "succeeded";
  }

  /** What the body has given; the `GreenletExit`, if it was killed by that. */
  get value(): T | undefined {
    return this.#state === "succeeded" ? this.#outcome as T : undefined;
  }

  /** What the body has thrown. */
  get exception(): unknown {
    return this.#state === "failed" ? this.#outcome : undefined;
  }

  /**
   * The greenlet that was current when this one was made, as long as it is somewhere else
   * referred to. gevent's `spawning_greenlet`.
   */
  get spawningGreenlet(): core.Greenlet | undefined {
    return this.#origin.spawner.deref();
  }

  /**
   * What this greenlet shares with all that it spawns, and they spawn. Each greenlet that
   * is spawned by main begins a tree of its own. Another object can be set: it is that of
   * this greenlet and of those that it spawns from then on. gevent's `spawn_tree_locals`.
   *
   * @throws {TypeError} If set to what is not an object.
   *
   * @example Usage
   * ```ts
   * import { getCurrent, Greenlet, spawn } from "@gevent/gevent";
   *
   * const request = spawn(async () => {
   *   (getCurrent() as Greenlet).spawnTreeLocals = { id: 7 };
   *   await spawn(() => {
   *     console.log((getCurrent() as Greenlet).spawnTreeLocals.id); // 7
   *   }).join();
   * });
   * await request.join();
   * ```
   */
  get spawnTreeLocals(): Record<PropertyKey, unknown> {
    return Greenlet.#flowOf(this).treeLocals;
  }

  /** See the getter. */
  set spawnTreeLocals(locals: Record<PropertyKey, unknown>) {
    Greenlet.#flowOf(this).treeLocals = locals;
  }

  /**
   * A signal that is aborted when this greenlet is killed, with the error as its reason:
   * for what takes an `AbortSignal`.
   *
   * @example Usage
   * ```ts
   * import { getCurrent, Greenlet, sleep, spawn } from "@gevent/gevent";
   *
   * const g = spawn(async () => {
   *   const { signal } = getCurrent() as Greenlet;
   *   signal.onabort = () => console.log("aborted");
   *   await sleep(1000);
   * });
   * await sleep(1);
   * await g.kill(); // aborted
   * ```
   */
  get signal(): AbortSignal {
    let abort = aborts.get(this);
    if (abort === undefined) {
      aborts.set(this, abort = new AbortController());
      const killed = this.#scope?.killed ?? null;
      if (killed !== null) abort.abort(killed.error);
      // To the core, one that was killed before it started has not even started.
      else if (this.dead && !super.dead) abort.abort(this.#outcome);
    }
    return abort.signal;
  }

  /**
   * Starts the body soon: after those that were started before, and never before this
   * returns. Does nothing when it was started or killed before. gevent's `start`.
   *
   * @throws {TypeError} If there is no body.
   */
  start(): void {
    if (Greenlet.#schedule(this)) startSoon(begin, this);
  }

  /**
   * Starts the body after a time. Does nothing when it was started or killed before.
   * gevent's `start_later`.
   *
   * @param ms In how many milliseconds.
   * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds.
   * @throws {TypeError} If there is no body.
   */
  startLater(ms: number): void {
    checkDuration(ms, "start later");
    if (!Greenlet.#schedule(this)) return;
    enlist(Greenlet.#flowOf(this));
    // In the order of the timers, to which it is one of those who wake.
    new Promise<void>((resolve) => {
      const delay = { wake: resolve, expired: () => wake(delay) };
      delays.set(this, startTimer(ms, delay));
    }).then(() => begin(this));
  }

  /** The scope, from the time on when something is to be known of it. */
  static #flowOf(greenlet: Greenlet): Scope {
    if (greenlet.#scope !== null) return greenlet.#scope;
    const scope = greenlet.#scope = new Scope(greenlet);
    scope.root = greenlet.#origin.root;
    return scope;
  }

  static #begin(greenlet: Greenlet): void {
    if (greenlet.#state !== "scheduled") return;
    const scope = Greenlet.#flowOf(greenlet);
    enlist(scope);
    current.run(scope, enter, greenlet);
  }

  /** Whether it is to be started, which it can be once. */
  static #schedule(greenlet: Greenlet): boolean {
    if (greenlet.#state !== "pending") return false;
    const { run } = greenlet;
    if (!isBody(run)) throw notStartable(greenlet, run);
    // First of all: one may throw, or kill it.
    if (spawnCallbacks.size > 0) {
      for (const callback of spawnCallbacks) callback(greenlet);
      if (greenlet.#state as State !== "pending") return false;
    }
    greenlet.#state = "scheduled";
    expectLife();
    return true;
  }

  /**
   * Hands control to a generator body, as the core does, or starts a body at once. For
   * those who switch themselves: one that waits is resumed by its wait.
   *
   * @typeParam S What comes back when somebody switches to us.
   * @param args What is sent.
   * @returns As the core's `switch` does.
   * @throws {GreenletError} If the body is an async function, which the event loop
   * resumes and nobody else.
   */
  override switch<S = unknown>(...args: unknown[]): core.Switch<S> {
    if (this.#state === "following") {
      throw new GreenletError(
        `Cannot switch to ${this} as its body is an async function, which only its waits resume: use kill(), or a generator body`,
      );
    }
    if (this.dead) return this.parent!.switch(...args);
    if (this.#state === "pending") Greenlet.#schedule(this);
    if (this.#state === "scheduled") {
      this.#state = "running";
      if (current.get() !== this.#scope) enlist(Greenlet.#flowOf(this));
    }
    return super.switch(...args);
  }

  /** Takes the body away, to begin in its own context wherever it is switched to. */
  protected override takeRun(): (...args: never[]) => unknown {
    const run = super.takeRun();
    const scope = this.#scope;
    if (scope === null || current.get() === scope) return run;
    return (...args) => current.run(scope, () => run.apply(this, args));
  }

  /**
   * Throws an error into the body, without waiting for what comes of it: by what it waits
   * on, or else by its next wait. One that has not started never does. A generator body or
   * a plain one that throws into itself does so there and then. gevent's `throw`. Not a
   * switch point.
   *
   * @typeParam S What the switch would give.
   * @param error What is thrown, or the class of error of which a new one is; by default a
   * new {@linkcode GreenletExit}.
   * @returns A switch that is over: it gives `undefined`.
   */
  override throw<S = unknown>(
    error: unknown = new GreenletExit(),
  ): core.Switch<S> {
    const thrown = instanceOf(error);
    if (!Greenlet.#dieBeforeStart(this, thrown) && !this.dead) {
      if (core.getCurrent() === this) throw thrown;
      this.#scope!.interrupt(thrown);
    }
    return PERFORMED as core.Switch<unknown> as core.Switch<S>;
  }

  /** What has become of the body, in the core's eyes. */
  protected override ended(outcome: unknown, failed: boolean): void {
    const scope = Greenlet.#flowOf(this);
    if (failed || scope.isEscalation(outcome)) {
      return Greenlet.#fail(this, outcome);
    }
    if (!isThenable(outcome)) return Greenlet.#finish(this, outcome, false);
    this.#state = "following";
    const promise = Promise.resolve(outcome);
    if (current.get() === scope) promise.then(succeed, fail);
    else current.run(scope, () => promise.then(succeed, fail));
  }

  /** The body has thrown. */
  static #fail(greenlet: Greenlet, error: unknown): void {
    Greenlet.#finish(greenlet, failureFor(error, greenlet.#scope!), true);
  }

  static #finish(greenlet: Greenlet, outcome: unknown, failed: boolean): void {
    if (greenlet.dead) return;
    const fails = failed && !(outcome instanceof GreenletExit);
    const scope = greenlet.#scope;
    if (greenlet.#state !== "pending") delist(scope);
    greenlet.#state = fails ? "failed" : "succeeded";
    greenlet.#outcome = outcome;
    // It may be kept for its result, and they may be large.
    (greenlet as { args: readonly unknown[] }).args = NONE;
    if (scope !== null) {
      scope.close();
      if (!scope.isKept) greenlet.#scope = null;
    }
    if (greenlet.#links instanceof Links) greenlet.#links.schedule();
    else if (greenlet.#links !== null) runSoon(callLone, greenlet);
    // After the links, as they may take it.
    if (fails && !scope?.errorIsHandled) reportUnlessTaken(greenlet, outcome);
  }

  static #dieBeforeStart(greenlet: Greenlet, error: unknown): boolean {
    if (greenlet.#state !== "pending" && greenlet.#state !== "scheduled") {
      return false;
    }
    stopTimer(delays.get(greenlet) ?? null);
    if (greenlet.run !== undefined) greenlet.takeRun();
    Greenlet.#finish(greenlet, error, true);
    return true;
  }

  /**
   * Waits until the greenlet has ended. A switch point. gevent's `join`.
   *
   * @param options How long to wait.
   * @returns Nothing, at the timeout as well: see {@linkcode Greenlet.ready}.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   *
   * @example Usage
   * ```ts
   * import { sleep, spawn } from "@gevent/gevent";
   *
   * const greenlet = spawn(sleep, 5);
   * await greenlet.join({ timeout: 1 });
   * console.log(greenlet.ready()); // false
   * await greenlet.join();
   * console.log(greenlet.ready()); // true
   * ```
   */
  join(options: JoinOptions = {}): Wait<void> {
    checkOptions(options, "join");
    const { timeout = Infinity } = options;
    checkDuration(timeout, "join");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    if (this.dead) return DONE;
    return new Joining(Greenlet.#linksOf(this)).limit(timeout).get();
  }

  /**
   * Waits for the result. A switch point. gevent's `get`.
   *
   * @param options Whether and how long to wait.
   * @returns What the body gives; the `GreenletExit`, if it was killed by that.
   * @throws {unknown} What the body has thrown.
   * @throws {Timeout} At the timeout; or if it is not ready and `block` is false.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   *
   * @example Usage
   * ```ts
   * import { spawn } from "@gevent/gevent";
   *
   * console.log(await spawn(() => 42).get()); // 42
   * ```
   */
  get(options: GetOptions = {}): Wait<T> {
    checkOptions(options, "get");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "get");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#state === "succeeded") return readyWait(this.#outcome as T);
    if (this.#state === "failed") {
      takeError(this);
      scope.markRecipient(this.#outcome);
      return failedWait(this.#outcome);
    }
    if (!block) return failedWait(new Timeout(0));
    return new OutcomeWait<T>(Greenlet.#linksOf(this), scope, timeout).get();
  }

  /**
   * Ends the greenlet: throws an error into its body, which may clean up, and waits until
   * it has ended. A switch point, unless `block` is false. gevent's `kill`.
   *
   * The error is thrown by whatever the body waits on, or else by its next wait. One that
   * has not started never starts; one that is dead is left alone.
   *
   * A kill insists. A body that is still alive after `grace` gets the error again, from
   * what it waits on and from every wait that it begins; a generator body is ended past
   * its `catch` blocks. One that swallows it ten times is left suspended for good, and
   * `hub.handleError` is told.
   *
   * @param error What is thrown, or the class of error of which a new one is; by default a
   * new {@linkcode GreenletExit}.
   * @param options Whether and how long to wait, and how long the body may take.
   * @returns Nothing, at the timeout as well.
   * @throws {TypeError | RangeError} If a time is not a number of milliseconds.
   *
   * @example Usage
   * ```ts
   * import { sleep, spawn } from "@gevent/gevent";
   *
   * const session = spawn(async () => {
   *   for (;;) {
   *     try {
   *       await sleep(100_000);
   *     } catch {
   *       await sleep(1); // Swallows whatever it is
   *     }
   *   }
   * });
   * await sleep(1);
   * await session.kill(undefined, { grace: 5 });
   * console.log(session.dead); // true
   * ```
   */
  kill(
    error: unknown = new GreenletExit(),
    options: KillOptions = {},
  ): Wait<void> {
    checkOptions(options, "kill");
    const { block = true, timeout = Infinity, grace = GRACE } = options;
    checkDuration(timeout, "kill");
    checkDuration(grace, "kill");
    if (this.dead) return DONE;
    const thrown = instanceOf(error);
    aborts.get(this)?.abort(thrown);
    if (!Greenlet.#dieBeforeStart(this, thrown)) {
      killOrRetry(this, thrown, grace);
    }
    if (!block) return DONE;
    const scope = currentScope();
    if (this.dead || scope.greenlet !== this) return this.join({ timeout });
    // It kills itself: whatever else of it waits, it does not go on from here.
    return checkpoint(scope) ?? failedWait(thrown);
  }

  /**
   * Has a function called in a new greenlet when this one has ended. gevent's `link`.
   *
   * Links are called in the order in which they were made, once each; on a greenlet that
   * has ended, soon.
   *
   * @param link Gets this greenlet; or an object that is linkable.
   * @throws {TypeError} If it is neither.
   *
   * @example Usage
   * ```ts
   * import { sleep, spawn } from "@gevent/gevent";
   *
   * spawn(() => 42).link((greenlet) => console.log(greenlet.value)); // 42
   * await sleep(1);
   * ```
   */
  link(link: Link<this>): void {
    Greenlet.#link(this, link, () => true);
  }

  /**
   * As {@linkcode Greenlet.link}, if it ends without an error. gevent's `link_value`.
   *
   * @param link Gets this greenlet; or an object that is linkable.
   */
  linkValue(link: Link<this>): void {
    Greenlet.#link(this, link, () => this.successful());
  }

  /**
   * As {@linkcode Greenlet.link}, if it ends by an error. gevent's `link_exception`.
   *
   * @param link Gets this greenlet; or an object that is linkable.
   */
  linkException(link: Link<this>): void {
    Greenlet.#link(this, link, () => {
      takeError(this);
      return !this.successful();
    });
  }

  static #link<G extends Greenlet>(
    greenlet: G,
    link: Link<G>,
    applies: () => boolean,
  ): void {
    const links = Greenlet.#linksOf(greenlet);
    links.link(link, (source) => {
      if (!applies()) return;
      if (typeof link !== "function") return link.linked(source);
      // At once, as this is the hub: one may still take back those after it.
      const linked = new Greenlet(link, source);
      if (Greenlet.#schedule(linked)) Greenlet.#begin(linked);
    });
    if (greenlet.dead) links.schedule();
  }

  /**
   * As {@linkcode Greenlet.link}, but the function is called from the hub: it must be
   * quick, and must not wait. gevent's `rawlink`.
   *
   * @param link Gets this greenlet; or an object that is linkable.
   */
  rawlink(link: Link<this>): void {
    if (this.#links === null && !this.dead) {
      this.#links = checkLink(link, true);
      return;
    }
    const links = Greenlet.#linksOf(this);
    links.link(link);
    if (this.dead) links.schedule();
  }

  /**
   * Takes a link back that was not called yet. gevent's `unlink`.
   *
   * @param link What was linked, by whichever method.
   */
  unlink(link: Link<this>): void {
    if (this.#links instanceof Links) this.#links.unlink(link);
    else if (this.#links === link) this.#links = null;
  }

  /** Takes all links back. gevent's `unlink_all`. */
  unlinkAll(): void {
    if (this.#links instanceof Links) this.#links.clear();
    else this.#links = null;
  }

  /** The links in a list, where there are to be several, or one that knows its place. */
  // deno-lint-ignore no-explicit-any
  static #linksOf(greenlet: Greenlet): Links<any> {
    const lone = greenlet.#links;
    if (lone instanceof Links) return lone;
    const links = greenlet.#links = new Links(greenlet);
    if (lone !== null) links.link(lone);
    return links;
  }

  /** Joins the greenlet, at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.join();
  }

  /** The class, the name and the function. */
  override toString(): string {
    const { label } = this;
    const title = label === "" || label === "run" ? "" : `: ${label}`;
    return `<${this.constructor.name} ${JSON.stringify(this.name)}${title}>`;
  }
}

function notStartable(greenlet: Greenlet, run: unknown): TypeError {
  return new TypeError(
    `Cannot start ${greenlet} as ${
      typeof run === "function"
        ? "its 'run' is an async generator function, of which nothing would run a line"
        : "it has no 'run': pass a function to its constructor or define run() in its class"
    }`,
  );
}

function enter(greenlet: Greenlet): void {
  const { args } = greenlet;
  // To spread an array that is frozen takes as long as a twentieth of all the rest.
  if (args === NONE) greenlet.switch();
  else greenlet.switch(...args);
}

/** A switch for which nothing is left to do. */
const PERFORMED: core.Switch<undefined> = {
  value: undefined,
  // deno-lint-ignore require-yield
  *[Symbol.iterator](): Generator<never, undefined> {
    return undefined;
  },
};

/** What comes of a body that is past all patience. */
function leftSuspended(greenlet: core.Greenlet, error: unknown): GreenletError {
  return new GreenletError(
    `${greenlet} was left suspended for good as it has swallowed its kill again and again`,
    { cause: error },
  );
}

/** The wait for a greenlet's end. */
class Joining extends LinkedWait<Greenlet, void> {
  override linked(): void {
    this.switch();
  }
}

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
 * - `core`: not ended, as far as the core knows
 * - `following`: the body is an async function, which the event loop resumes
 * - `ended`
 */
type RawState = "core" | "following" | "ended";

/** One of the core's greenlets, with what there is to know of its scope. */
class RawGreenlet extends core.Greenlet {
  readonly #origin = originOf(currentScope());
  #state: RawState = "core";

  override get dead(): boolean {
    return this.#state === "ended";
  }

  override get active(): boolean {
    return this.#state === "core" ? super.active : !this.dead;
  }

  /** Whether its scope is what interrupts it, and not a switch. */
  get waits(): boolean {
    return this.#state === "following" || !super.active ||
      isAwaiting(scopeOf(this));
  }

  get spawningGreenlet(): core.Greenlet | undefined {
    return this.#origin.spawner.deref();
  }

  get spawnTreeLocals(): Record<PropertyKey, unknown> {
    return scopeOf(this).treeLocals;
  }

  set spawnTreeLocals(locals: Record<PropertyKey, unknown>) {
    scopeOf(this).treeLocals = locals;
  }

  protected override ended(outcome: unknown, failed: boolean): undefined {
    if (failed || scopeOf(this).isEscalation(outcome)) {
      this.fail(outcome);
    } else if (isThenable(outcome)) {
      this.#state = "following";
      outcome.then(() => this.#end(), (error) => this.fail(error));
    } else {
      this.#end();
    }
  }

  fail(error: unknown): void {
    if (this.dead) return;
    this.#end();
    const own = failureFor(error, scopeOf(this));
    if (!(own instanceof GreenletExit)) report(this, own);
  }

  #end(): void {
    if (this.dead) return;
    this.#state = "ended";
    const scope = scopeOf(this);
    delist(scope);
    scope.close();
  }
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

/** The wait for several objects. */
class Waiting<S extends Waitable> extends Suspension<S[]> {
  readonly #objects: S[];
  readonly #done: S[] = [];
  readonly #count: number;
  readonly #scope: Scope;
  readonly #raise: boolean;
  readonly #link = waking((source: S) => this.#arrived(source));

  constructor(objects: S[], count: number, scope: Scope, raise: boolean) {
    super();
    this.#objects = objects;
    this.#count = count;
    this.#scope = scope;
    this.#raise = raise;
    linkAll(objects, this.#link);
  }

  #arrived(source: S): void {
    if (this.state !== "waiting") return;
    this.#done.push(source);
    if (this.#raise && source instanceof Greenlet && !source.successful()) {
      this.undo();
      takeError(source);
      this.#scope.markRecipient(source.exception);
      this.throw(source.exception);
    } else if (this.#done.length >= this.#count) {
      this.undo();
      this.switch(this.#done);
    }
  }

  protected override get caller(): Scope {
    return this.#scope;
  }

  protected override undo(): void {
    if (this.#done.length === this.#objects.length) return;
    for (const object of this.#objects) object.unlink(this.#link);
  }

  /** At the limit: behind what is ready, and will tell so in line. */
  override expired(): "steps" {
    runSoon(endInTime, this);
    return "steps";
  }

  end(): void {
    if (this.state === "waiting") super.expired();
  }

  protected override timedOut(): void {
    this.switch(this.#done);
  }
}

function endInTime(wait: { end(): void }): void {
  wait.end();
}

function waitFor<S extends Waitable>(
  objects: Iterable<S>,
  options: JoinAllOptions,
  what: string,
): Wait<S[]> {
  checkOptions(options, what);
  const { timeout = Infinity, count, raiseError = false } = options;
  checkDuration(timeout, what);
  const all = checkWaitables(objects, what);
  const enough = checkCount(count, all.length, what);
  const scope = currentScope();
  const due = checkpoint(scope);
  if (due !== null) return due;
  if (enough === 0) return readyWait([]);
  return new Waiting(all, enough, scope, raiseError).limit(timeout).get();
}

function checkWaitables<S extends Waitable>(
  objects: Iterable<S>,
  what: string,
): S[] {
  const all = toArray(objects, what);
  for (const object of all) {
    if (typeof object?.rawlink !== "function") {
      throw new TypeError(
        `Cannot ${what} as each object must be a greenlet, or have rawlink(): received ${object}`,
      );
    }
  }
  return all;
}

function toArray<O>(objects: Iterable<O>, what: string): O[] {
  if (typeof objects?.[Symbol.iterator] === "function") return [...objects];
  throw new TypeError(
    `Cannot ${what} as the objects must be iterable: received ${objects}`,
  );
}

function checkCount(
  count: number | undefined,
  length: number,
  what: string,
): number {
  if (count === undefined) return length;
  if (!Number.isInteger(count) || count < 0) {
    throw numberError(what, "count", "a non-negative integer", count);
  }
  return Math.min(count, length);
}

/**
 * Waits until greenlets have ended. A switch point. gevent's `joinall`.
 *
 * @typeParam G The type of the greenlets.
 * @param greenlets The greenlets, or whatever has links.
 * @param options How long, for how many, and whether to throw.
 * @returns Those that have ended, in that order.
 * @throws {unknown} With `raiseError`, the error of the first that has failed.
 * @throws {TypeError | RangeError} If an option or an object is not what it must be.
 *
 * @example Usage
 * ```ts
 * import { joinAll, spawn } from "@gevent/gevent";
 *
 * const squares = await joinAll([1, 2, 3].map((n) => spawn(() => n * n)));
 * console.log(squares.map((g) => g.value)); // [1, 4, 9]
 * ```
 */
export function joinAll<G extends Waitable>(
  greenlets: Iterable<G>,
  options: JoinAllOptions = {},
): Wait<G[]> {
  return waitFor(greenlets, options, "join all");
}

/**
 * Waits until objects are ready; without any, until all greenlets but the current one
 * have ended. A switch point. gevent's `wait`.
 *
 * @returns Whether all have ended; `false` at the timeout.
 *
 * @example Usage
 * ```ts
 * import { sleep, spawn, wait } from "@gevent/gevent";
 *
 * spawn(sleep, 1);
 * console.log(await wait()); // true
 * ```
 */
export function wait(objects?: null, options?: WaitOptions): Wait<boolean>;
/**
 * Waits until objects are ready.
 *
 * @typeParam S The type of the objects.
 * @param objects Greenlets, events, semaphores.
 * @param options How long, and for how many.
 * @returns Those that are ready, in that order.
 * @throws {TypeError | RangeError} If an option or an object is not what it must be.
 *
 * @example Usage
 * ```ts
 * import { spawnLater, wait } from "@gevent/gevent";
 *
 * const slow = spawnLater(100, () => "slow");
 * const quick = spawnLater(1, () => "quick");
 * const [first] = await wait([slow, quick], { count: 1 });
 * console.log(first?.value); // quick
 * await slow.kill();
 * ```
 */
export function wait<S extends Waitable>(
  objects: Iterable<S>,
  options?: WaitOptions,
): Wait<S[]>;
export function wait<S extends Waitable>(
  objects?: Iterable<S> | null,
  options: WaitOptions = {},
): Wait<S[]> | Wait<boolean> {
  if (objects !== undefined && objects !== null) {
    return waitFor(objects, options, "wait");
  }
  checkOptions(options, "wait");
  const { timeout = Infinity } = options;
  checkDuration(timeout, "wait");
  return whenAllEnded(timeout);
}

/**
 * What {@linkcode iwait} returns: for `for await`, and for `using`. A generator body calls
 * `yield* ready.next()`.
 *
 * @typeParam S The type of the objects.
 */
export interface ReadyIterator<S> extends AsyncIterableIterator<S> {
  /** Waits for the next object. A switch point. */
  next(): Wait<IteratorResult<S, undefined>>;
  /** Gives up the objects that are not ready. */
  return(): Wait<IteratorResult<S, undefined>>;
  /** Itself. */
  [Symbol.asyncIterator](): ReadyIterator<S>;
  /** Gives up the objects that are not ready. */
  [Symbol.dispose](): void;
}

/** The wait of an {@linkcode Arrivals} for the next object. */
class Arriving<S extends Waitable>
  extends Suspension<IteratorResult<S, undefined>> {
  readonly #arrivals: Arrivals<S>;
  readonly #isLoop: boolean;

  /** @param isLoop Whether a loop of the language asks, which an interrupt ends. */
  constructor(arrivals: Arrivals<S>, isLoop: boolean) {
    super();
    this.#arrivals = arrivals;
    this.#isLoop = isLoop;
  }

  protected override undo(error: unknown): void {
    this.#arrivals.forget(this);
    // The language does not call return() then.
    if (error !== undefined && this.#isLoop) this.#arrivals.leave();
  }

  /** At the limit: behind what is ready, and will tell so in line. */
  override expired(): "steps" {
    runSoon(endInTime, this);
    return "steps";
  }

  end(): void {
    if (this.state === "waiting") super.expired();
  }

  protected override timedOut(): void {
    this.switch({ done: true, value: undefined });
    // The language does not call return() then.
    this.#arrivals.leave();
  }
}

class Arrivals<S extends Waitable> implements ReadyIterator<S> {
  readonly #objects: S[];
  #left: number;
  readonly #ready: S[] = [];
  #taken = 0;
  readonly #waiting: Arriving<S>[] = [];
  /** No timer, which would hold up the process when nobody waits. */
  readonly #deadline: number;
  /** Whether those may still tell so that were ready from the start. */
  #begins = true;
  /** Where a loop of the language was begun; elsewhere it is asked by hand. */
  #loop: Scope | null = null;
  readonly #link = waking((source: S) => this.#arrived(source));

  constructor(objects: S[], count: number, timeout: number) {
    this.#objects = objects;
    this.#left = count;
    this.#deadline = performance.now() + timeout;
    linkAll(objects, this.#link);
    runSoon(() => {
      this.#begins = false;
    }, undefined);
  }

  /** Whether the time is over, and nobody waits for who was in time. */
  get #isLate(): boolean {
    return this.#remaining <= 0 && !this.#begins && this.#waiting.length === 0;
  }

  #arrived(source: S): void {
    if (this.#isLate) this.#close();
    if (this.#left === 0) return;
    this.#left--;
    const next = this.#waiting.shift();
    if (next === undefined) this.#ready.push(source);
    else next.switch({ done: false, value: source });
    if (this.#left === 0) this.#close();
  }

  /** For how many milliseconds there may be arrivals. */
  get #remaining(): number {
    return this.#deadline - performance.now();
  }

  #close(): void {
    this.#left = 0;
    for (const object of this.#objects.splice(0)) object.unlink(this.#link);
    for (const next of this.#waiting.splice(0)) {
      next.switch({ done: true, value: undefined });
    }
  }

  forget(arriving: Arriving<S>): void {
    const i = this.#waiting.indexOf(arriving);
    if (i >= 0) this.#waiting.splice(i, 1);
  }

  next(): Wait<IteratorResult<S, undefined>> {
    const scope = currentScope();
    const isLoop = scope === this.#loop;
    const due = checkpoint(scope);
    if (due !== null) {
      if (isLoop) this.leave();
      return due;
    }
    if (this.#taken < this.#ready.length) {
      return readyWait({ done: false, value: this.#ready[this.#taken++]! });
    }
    if (this.#isLate) this.#close();
    if (this.#left === 0) return readyWait({ done: true, value: undefined });
    const arriving = new Arriving(this, isLoop).limit(this.#remaining);
    this.#waiting.push(arriving);
    return arriving.suspend(scope);
  }

  /** Gives nothing more, and takes back the links. */
  leave(): void {
    this.#taken = this.#ready.length;
    this.#close();
  }

  return(): Wait<IteratorResult<S, undefined>> {
    this.leave();
    return readyWait({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    this.#loop = currentScope();
    return this;
  }

  [Symbol.dispose](): void {
    this.leave();
  }
}

/**
 * Gives objects as they become ready. gevent's `iwait`.
 *
 * A `for await` loop that is left in any way, by an interrupt as well, takes its links back.
 * One that asks by hand may go on after an interrupt, and closes it by `using`.
 *
 * @typeParam S The type of the objects.
 * @param objects Greenlets, events, semaphores.
 * @param options How long, and for how many. The time runs from this call.
 * @returns An iterator; it ends at the timeout.
 * @throws {TypeError | RangeError} If an option or an object is not what it must be.
 *
 * @example Usage
 * ```ts
 * import { iwait, spawnLater } from "@gevent/gevent";
 *
 * const greenlets = [2, 1].map((ms) => spawnLater(ms, () => ms));
 * for await (const greenlet of iwait(greenlets)) {
 *   console.log(greenlet.value); // 1, then 2
 * }
 * ```
 */
export function iwait<S extends Waitable>(
  objects: Iterable<S>,
  options: WaitOptions = {},
): ReadyIterator<S> {
  checkOptions(options, "wait");
  const { timeout = Infinity, count } = options;
  checkDuration(timeout, "wait");
  const all = checkWaitables(objects, "wait");
  return new Arrivals(all, checkCount(count, all.length, "wait"), timeout);
}

/**
 * Ends a greenlet of whatever kind. A switch point, unless `block` is false. gevent's
 * `kill`.
 *
 * One of the core's own, which can't be joined, is not waited for.
 *
 * @param greenlet The greenlet.
 * @param error What is thrown, or the class of error of which a new one is; by default a
 * new {@linkcode GreenletExit}.
 * @param options See {@linkcode Greenlet.kill}.
 * @returns Nothing.
 *
 * @example Usage
 * ```ts
 * import { kill, sleep, spawn } from "@gevent/gevent";
 *
 * const greenlet = spawn(sleep, 100_000);
 * await kill(greenlet);
 * console.log(greenlet.dead); // true
 * ```
 */
export function kill(
  greenlet: core.Greenlet,
  error: unknown = new GreenletExit(),
  options: KillOptions = {},
): Wait<void> {
  if (greenlet instanceof Greenlet) return greenlet.kill(error, options);
  checkKillable(greenlet, "kill");
  checkOptions(options, "kill");
  const { grace = GRACE } = options;
  checkDuration(grace, "kill");
  if (!greenlet.dead) killOrRetry(greenlet, instanceOf(error), grace);
  return DONE;
}

function checkKillable(greenlet: core.Greenlet, what: string): void {
  if (greenlet instanceof core.Greenlet && greenlet.parent !== null) return;
  throw new TypeError(
    `Cannot ${what} as the greenlet must be one, and not the main one: received ${
      String(greenlet)
    }`,
  );
}

/** Kills one that was started; or one of the core's. */
function killOrRetry(
  greenlet: core.Greenlet,
  error: unknown,
  grace: number,
): void {
  if (tryKill(greenlet, error, grace)) return;
  scopeOf(greenlet).expectKill(error);
  runDetached(() => void throwSoon(greenlet, error, grace));
}

/** Kills one that waits, or will wait before anybody can switch to it. */
function tryKill(
  greenlet: core.Greenlet,
  error: unknown,
  grace: number,
): boolean {
  const scope = scopeOf(greenlet);
  const waits = greenlet instanceof Greenlet
    ? !hasSwitched(greenlet)
    : greenlet instanceof RawGreenlet
    ? greenlet.waits
    : isAwaiting(scope);
  if (waits) scope.kill(error, grace);
  return waits;
}

/** Kills what is to start, or has switched: from the hub, so that nobody switches here. */
async function throwSoon(
  greenlet: core.Greenlet,
  error: unknown,
  grace: number,
): Promise<void> {
  await turn();
  if (greenlet.dead || tryKill(greenlet, error, grace)) return;
  // As if it waited, so that it is interrupted as one that does, and told at once.
  const scope = scopeOf(greenlet);
  const wait = new Suspension<never>();
  wait.suspend(scope);
  scope.kill(error, grace);
  const { throw: fail, return: end } = core.Greenlet.prototype;
  try {
    (wait.endsBody ? end : fail).call(greenlet, error);
  } catch (thrown) {
    report(greenlet, thrown);
  }
}

/**
 * Kills greenlets, all at once, and waits until they have ended. A switch point, unless
 * `block` is false. gevent's `killall`.
 *
 * Each is killed once, however often it is given. None is when one of them is no greenlet.
 *
 * @param greenlets The greenlets.
 * @param options What to throw, whether and how long to wait, and how long the bodies may
 * take to clean up; see {@linkcode Greenlet.kill}.
 * @returns Nothing.
 * @throws {Timeout} If some are alive at the timeout.
 * @throws {TypeError | RangeError} If a time is not a number of milliseconds, or one of them
 * no greenlet.
 *
 * @example Usage
 * ```ts
 * import { killAll, sleep, spawn } from "@gevent/gevent";
 *
 * const sleepers = [1, 2, 3].map(() => spawn(sleep, 100_000));
 * await killAll(sleepers);
 * console.log(sleepers.every((g) => g.dead)); // true
 * ```
 */
export function killAll(
  greenlets: Iterable<core.Greenlet>,
  options: KillAllOptions = {},
): Wait<void> {
  checkOptions(options, "kill all");
  const { error = new GreenletExit(), block = true, timeout = Infinity } =
    options;
  checkDuration(timeout, "kill all");
  const { grace = GRACE } = options;
  checkDuration(grace, "kill all");
  const all = new Set(toArray(greenlets, "kill all"));
  for (const greenlet of all) checkKillable(greenlet, "kill all");
  const thrown = instanceOf(error);
  killEach(all, thrown, grace);
  const alive = [...all].filter((g): g is Greenlet =>
    g instanceof Greenlet && !g.dead
  );
  if (!block || alive.length === 0) return DONE;
  return new KillingAll(alive, timeout).limit(timeout).get();
}

/** Kills all, although a class of the user's may refuse for some. */
function killEach(
  greenlets: Iterable<core.Greenlet>,
  error: unknown,
  grace: number,
): void {
  let refused: { readonly error: unknown } | null = null;
  for (const greenlet of greenlets) {
    try {
      kill(greenlet, error, { block: false, grace });
    } catch (error) {
      refused ??= { error };
    }
  }
  if (refused !== null) throw refused.error;
}

/** The wait for killed greenlets to end. */
class KillingAll extends Suspension<void> {
  readonly #greenlets: Greenlet[];
  #left: number;
  readonly #ms: number;
  readonly #link = waking(() => {
    if (--this.#left === 0) this.switch();
  });

  constructor(greenlets: Greenlet[], ms: number) {
    super();
    this.#greenlets = greenlets;
    this.#left = greenlets.length;
    this.#ms = ms;
    linkAll(greenlets, this.#link);
  }

  protected override undo(): void {
    for (const greenlet of this.#greenlets) greenlet.unlink(this.#link);
  }

  protected override timedOut(): void {
    this.throw(new Timeout(this.#ms));
  }
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
 * after its grace.
 *
 * Nothing of this keeps a process alive that has nothing left to do: there it ends as it
 * does without `run`. Deno says that the promise of a top-level `await` was never resolved,
 * some seconds after the last thing has happened.
 *
 * @typeParam A The types of the arguments.
 * @typeParam R What the function returns.
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
export async function run<A extends unknown[], R>(
  main: (...args: A) => R,
  ...args: A
): Promise<BodyResult<R>> {
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
      if (round === MOST_ROUNDS) spawnCallbacks.add(refuseToStart);
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
    spawnCallbacks.delete(refuseToStart);
  }
}
