/**
 * Greenlets on the event loop: how they start, end, and are killed.
 *
 * @module
 */

import { NO_OPTIONS, then } from "../_base/language.ts";
import * as core from "../greenlet.ts";
import {
  checkCallback,
  checkOptions,
  instanceOf,
  isBody,
} from "../_base/checks.ts";
import { type BodyResult, isThenable } from "../_base/thenable.ts";
import { GreenletError, GreenletExit } from "../greenlet.ts";
import { Timeout } from "./timeout.ts";
import {
  current,
  currentScope,
  forgetScopeOf,
  knownScopeOf,
  ownScopeOf,
  runDetached,
  ScopedGreenlet,
  scopeOf,
  spawnerOf,
} from "./current.ts";
import { failureFor } from "./interrupts.ts";
import {
  callLink,
  checkLink,
  isTooEarly,
  type Link,
  LinkedWait,
  Links,
} from "./links.ts";
import { delist, enlist, expectLife } from "./live.ts";
import { main, report } from "./main.ts";
import { OutcomeWait } from "./outcome.ts";
import { reportInTurn, reportUnlessTaken, takeError } from "./reports.ts";
import { runSoon, turn, wake } from "./run_queue.ts";
import { GRACE } from "./scope.ts";
import { startSoon } from "./start_queue.ts";
import {
  checkpoint,
  DONE,
  failedWait,
  isAwaiting,
  readyWait,
  Suspension,
  type Wait,
} from "./suspension.ts";
import { checkDuration, startTimer, stopTimer, type Timer } from "./timers.ts";

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
export let begin: (greenlet: Greenlet) => void;
/** Calls the one link of a greenlet that has ended, if it was not taken back. */
let callLone: (greenlet: Greenlet) => true | void;
/** Whether the body has given control away by a switch, and not by a wait. */
let hasSwitched: (greenlet: Greenlet) => boolean;
/** Spawns a greenlet whose error is not printed, as somebody else will throw it. */
export let spawnQuietly: (run: () => unknown) => Greenlet;

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
export class Greenlet<T = unknown> extends ScopedGreenlet
  implements Waitable, AsyncDisposable {
  // What is private and no field is static: with private methods each instance would be
  // larger by 8 bytes, of which 200,000 that are alive at once are copied twice.
  #state: State = "pending";
  #outcome: unknown = undefined;
  // A single one is kept as it is, and `joinAll` needs no more than that: 140 bytes less.
  // Of `this`, which a type argument of the class can't say.
  // deno-lint-ignore no-explicit-any
  #links: Links<any> | Link<any> | null = null;

  /** The arguments of the body; none when it is dead. gevent's `args`. */
  readonly args: readonly unknown[];

  static {
    spawnQuietly = (run) => {
      const greenlet = new Greenlet(run);
      ownScopeOf(greenlet).errorIsHandled = true;
      greenlet.start();
      return greenlet;
    };
    const own = () => current.get()!.greenlet as Greenlet;
    succeed = (value) => Greenlet.#finish(own(), value, false);
    fail = (error) => Greenlet.#fail(own(), error);
    begin = (greenlet) => Greenlet.#begin(greenlet);
    hasSwitched = (greenlet) =>
      greenlet.#state === "running" && !isAwaiting(ownScopeOf(greenlet)) &&
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
    super(run, main);
    this.args = args.length === 0 ? NONE : args;
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
    const greenlet: Greenlet = Reflect.construct(this, args);
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
    const greenlet: Greenlet = Reflect.construct(this, args);
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

  /**
   * What the body has given; the `GreenletExit`, if it was killed by that, of which the type
   * does not speak: see {@linkcode Greenlet.get}.
   */
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
    return spawnerOf(this);
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
    return ownScopeOf(this).treeLocals;
  }

  /** See the getter. */
  set spawnTreeLocals(locals: Record<PropertyKey, unknown>) {
    ownScopeOf(this).treeLocals = locals;
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
      const killed = knownScopeOf(this)?.killed ?? null;
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
    enlist(ownScopeOf(this));
    // In the order of the timers, to which it is one of those who wake.
    const due = new Promise<void>((resolve) => {
      const delay = { wake: resolve, expired: () => wake(delay) };
      delays.set(this, startTimer(ms, delay));
    });
    then(due, () => begin(this));
  }

  static #begin(greenlet: Greenlet): void {
    if (greenlet.#state !== "scheduled") return;
    const scope = ownScopeOf(greenlet);
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
      spawnCallbacks.forEach((callback) => callback(greenlet));
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
    if (this.dead) {
      return Reflect.apply(
        this.parent!.switch,
        this.parent,
        args,
      ) as core.Switch<
        S
      >;
    }
    if (this.#state === "pending") Greenlet.#schedule(this);
    if (this.#state === "scheduled") {
      this.#state = "running";
      if (current.get() !== knownScopeOf(this)) enlist(ownScopeOf(this));
    }
    return Reflect.apply(super.switch, this, args) as core.Switch<S>;
  }

  /** Takes the body away, to begin in its own context wherever it is switched to. */
  protected override takeRun(): (...args: never[]) => unknown {
    const run = super.takeRun();
    const scope = knownScopeOf(this);
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
      ownScopeOf(this).interrupt(thrown);
    }
    return PERFORMED as core.Switch<unknown> as core.Switch<S>;
  }

  /** What has become of the body, in the core's eyes. */
  protected override ended(outcome: unknown, failed: boolean): void {
    const scope = ownScopeOf(this);
    if (failed || scope.isEscalation(outcome)) {
      return Greenlet.#fail(this, outcome);
    }
    if (!isThenable(outcome)) return Greenlet.#finish(this, outcome, false);
    this.#state = "following";
    const promise = Promise.resolve(outcome);
    if (current.get() === scope) then(promise, succeed, fail);
    else current.run(scope, () => then(promise, succeed, fail));
  }

  /** The body has thrown. */
  static #fail(greenlet: Greenlet, error: unknown): void {
    Greenlet.#finish(greenlet, failureFor(error, ownScopeOf(greenlet)), true);
  }

  static #finish(greenlet: Greenlet, outcome: unknown, failed: boolean): void {
    if (greenlet.dead) return;
    const fails = failed && !(outcome instanceof GreenletExit);
    const scope = knownScopeOf(greenlet);
    if (greenlet.#state !== "pending") delist(scope);
    greenlet.#state = fails ? "failed" : "succeeded";
    greenlet.#outcome = outcome;
    // It may be kept for its result, and they may be large.
    (greenlet as { args: readonly unknown[] }).args = NONE;
    if (scope !== null) {
      scope.close();
      if (!scope.isKept) forgetScopeOf(greenlet);
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
  join(options: JoinOptions = NO_OPTIONS): Wait<void> {
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
   * The result of a greenlet that was killed is the {@linkcode GreenletExit}. Nearly always
   * the code that asks for a result is the only one that could kill, so the type speaks of
   * the body's result alone, unless it is asked for the other: `get<GreenletExit>()`.
   *
   * @typeParam K `GreenletExit`, for the type to say that the greenlet may be killed.
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
   *
   * @example Of a greenlet that others may kill
   * ```ts
   * import { GreenletExit, sleep, spawn } from "@gevent/gevent";
   *
   * const session = spawn(async () => {
   *   await sleep(1000);
   *   return 42;
   * });
   * session.kill();
   * const result = await session.get<GreenletExit>(); // number | GreenletExit
   * console.log(result instanceof GreenletExit ? "killed" : result + 1); // killed
   * ```
   */
  get<K extends GreenletExit = never>(
    options: GetOptions = NO_OPTIONS,
  ): Wait<T | NoInfer<K>> {
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
   * An error that the body makes of it, such as the `AggregateError` of `Promise.any` or one
   * with it as its `cause`, is still the kill. Calls that the body has begun, and has not
   * come to await, fail without being unhandled rejections.
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
    options: KillOptions = NO_OPTIONS,
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
   * As {@linkcode Greenlet.link}, if it ends by an error, which the link takes: the hub is
   * not told of it. gevent's `link_exception`.
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
  else Reflect.apply(greenlet.switch, greenlet, args as unknown[]);
}

/** A switch for which nothing is left to do. */
const PERFORMED: core.Switch<undefined> = {
  value: undefined,
  // deno-lint-ignore require-yield
  *[Symbol.iterator](): Generator<never, undefined> {
    return undefined;
  },
};

/** The wait for a greenlet's end. */
class Joining extends LinkedWait<Greenlet, void> {
  override linked(): void {
    this.switch();
  }
}

/**
 * - `core`: not ended, as far as the core knows
 * - `following`: the body is an async function, which the event loop resumes
 * - `ended`
 */
type RawState = "core" | "following" | "ended";

/** One of the core's greenlets, with what there is to know of its scope. */
export class RawGreenlet extends ScopedGreenlet {
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
    return spawnerOf(this);
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
      then(outcome, () => this.#end(), (error) => this.fail(error));
    } else {
      this.#end();
    }
  }

  fail(error: unknown): void {
    if (this.dead) return;
    this.#end();
    const own = failureFor(error, scopeOf(this));
    if (!(own instanceof GreenletExit)) reportInTurn(this, own);
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
  options: KillOptions = NO_OPTIONS,
): Wait<void> {
  if (greenlet instanceof Greenlet) return greenlet.kill(error, options);
  checkKillable(greenlet, "kill");
  checkOptions(options, "kill");
  const { grace = GRACE } = options;
  checkDuration(grace, "kill");
  if (!greenlet.dead) killOrRetry(greenlet, instanceOf(error), grace);
  return DONE;
}

export function checkKillable(greenlet: core.Greenlet, what: string): void {
  if (greenlet instanceof core.Greenlet && greenlet.parent !== null) return;
  throw new TypeError(
    `Cannot ${what} as the greenlet must be one, and not the main one: received ${
      String(greenlet)
    }`,
  );
}

/** Kills one that was started; or one of the core's. */
export function killOrRetry(
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
    (wait.state === "returned" ? end : fail).call(greenlet, error);
  } catch (thrown) {
    report(greenlet, thrown);
  }
}
