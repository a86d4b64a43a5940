/**
 * Greenlets on the event loop: how they start, end, and are killed.
 *
 * @module
 */

import { nameClasses, showAs } from "../_base/inspecting.ts";
import { NO_OPTIONS, then } from "../_base/language.ts";
import * as core from "../greenlet.ts";
import {
  checkCallback,
  checkOptions,
  instanceOf,
  inWords,
  isBody,
  isInstance,
  isObject,
  killErrorOf,
  nameFrom,
  oneLine,
  show,
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
import { checkKillable, failureFor } from "./interrupts.ts";
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
import { observers } from "./observer.ts";
import { OutcomeWait } from "./outcome.ts";
import {
  reportInTurn,
  reportSuppressed,
  reportUnlessTaken,
  takeError,
} from "./reports.ts";
import { runSoon, turn, wake } from "./run_queue.ts";
import { GRACE, type Waited } from "./scope.ts";
import { errorIn, waitThatThrew } from "./stacks.ts";
import { startSoon } from "./start_queue.ts";
import {
  checkpoint,
  DONE,
  doneWait,
  failedWait,
  interruptingWait,
  isAwaiting,
  LateCall,
  readyWait,
  Suspension,
  type Wait,
} from "./suspension.ts";
import {
  checkDuration,
  countDown,
  startTimer,
  stopTimer,
  timeoutOf,
  type Timer,
} from "./timers.ts";
import {
  classOf,
  describeGreenlet,
  describeWaits,
  durationText,
  waitedOf,
} from "./waits.ts";

/** Options of {@linkcode Greenlet.join}. */
export interface JoinOptions {
  /** The time limit in milliseconds. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode Greenlet.get}. */
export interface GetOptions {
  /** Whether to wait for a greenlet that is not ready. @default {true} */
  block?: boolean;
  /** The time limit in milliseconds, after which a `Timeout` is thrown. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode Greenlet.kill}. */
export interface KillOptions {
  /** Whether to wait until the body has ended. @default {true} */
  block?: boolean;
  /** The time limit in milliseconds. @default {Infinity} */
  timeout?: number;
  /**
   * The milliseconds that the body may take to clean up, before each of its waits throws. 0
   * gives it no time. `Infinity` is gevent's rule: a body that swallows the error lives on.
   *
   * @default {1000}
   */
  grace?: number;
}

/** An object that {@linkcode wait} can wait for: a greenlet, an event, a semaphore. */
export interface Waitable {
  /** Calls `link` from the hub once the object is ready. */
  // deno-lint-ignore no-explicit-any
  rawlink(link: (source: any) => unknown): void;
  /** Removes the link. */
  // deno-lint-ignore no-explicit-any
  unlink(link: (source: any) => unknown): void;
}

/**
 * - `pending`: made, not started
 * - `scheduled`: will start soon, or after a delay
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

/** The arguments of all greenlets without arguments: one shared array, as they are many. */
const NONE: readonly unknown[] = Object.freeze([]);

const spawnCallbacks = new Set<(greenlet: Greenlet) => void>();
/** The names of greenlets. Only the few whose name was read or set have one. */
const names = new WeakMap<core.Greenlet, string>();
let named = 0;

/** The name of a greenlet, if it was set or read. Making one takes 500 ns. */
export function knownNameOf(greenlet: core.Greenlet): string | undefined {
  return names.get(greenlet);
}

/** The timers of greenlets that start later. */
const delays = new WeakMap<core.Greenlet, Timer | null>();
/** The controllers that a kill aborts, for greenlets whose `signal` was read. */
const aborts = new WeakMap<core.Greenlet, AbortController>();

/**
 * Reactions to the promise of a body. They find the greenlet by the async context in which they
 * were added, so no closures are made for each greenlet: that spares 200 bytes and 300 ns.
 */
let succeed: (value: unknown) => void;
let fail: (error: unknown) => void;

/** As `Promise.resolve()`, which throws for a promise that has a getter that throws. */
function promiseOf<T>(result: T | PromiseLike<T>): Promise<T> {
  try {
    return Promise.resolve(result);
  } catch (error) {
    return Promise.reject(error);
  }
}

/** Ends the current greenlet when the promise of its body settles. */
function follow(promise: Promise<unknown>): void {
  then(promise, current.keep(succeed), current.keep(fail));
}

/** Begins a greenlet that was started. */
export let begin: (greenlet: Greenlet) => void;
/** Calls the only link of a greenlet that has ended, unless it was removed. */
let callLone: (greenlet: Greenlet) => true | void;
/** Whether the body has switched to another greenlet, and does not wait. */
let hasSwitched: (greenlet: Greenlet) => boolean;
/** Spawns a greenlet whose error is not reported, as its caller throws it. */
export let spawnUnreported: (run: () => unknown) => Greenlet;

/**
 * A greenlet on the event loop. gevent's `Greenlet`.
 *
 * It runs a function as a task with a handle: it can be joined, asked for its result,
 * linked to, and killed. A subclass may define `run`. A greenlet is deliberately not
 * thenable: an async function may return one without waiting for it.
 *
 * @typeParam T The type of the result of the body.
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
  // Private methods are static: others would make each instance 8 bytes larger, and of 200,000
  // greenlets that are alive at once, each is copied twice by the garbage collector.
  #state: State = "pending";
  #outcome: unknown = undefined;
  // A single link is kept without a list, which saves 140 bytes. `joinAll` needs only one.
  // `any` stands for `this`, which can't be a type argument here.
  // deno-lint-ignore no-explicit-any
  #links: Links<any> | Link<any> | null = null;

  /** The arguments of the body; empty once the greenlet is dead. gevent's `args`. */
  readonly args: readonly unknown[];

  static {
    showAs<Greenlet>(
      this,
      (one) => `${show(one)} ${stateOf(one)}${durationText(waitedBy(one))}`,
    );
    spawnUnreported = (run) => {
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
      if (link === null) return;
      // There is a second link by now. They are called together.
      if (link instanceof Links) return link.tell();
      if (isTooEarly(link)) return true;
      greenlet.#links = null;
      callLink(link, null, greenlet);
    };
  }

  /**
   * Makes a greenlet without starting it; {@linkcode spawn} also starts it.
   *
   * @param run The body. Leave it out if a subclass defines `run`.
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
   * @param ms The delay, in milliseconds.
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
   * @param ms The delay, in milliseconds.
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
   * Adds a function that is called for each greenlet when it is started. gevent's
   * `add_spawn_callback`.
   *
   * @param callback The function. Adding it a second time does nothing.
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
        `Cannot add spawn callback as it must be a function: received ${
          show(callback)
        }`,
      );
    }
    checkCallback(callback, "add spawn callback", "callback");
    spawnCallbacks.add(callback);
  }

  /**
   * Removes a function; see {@linkcode Greenlet.addSpawnCallback}. gevent's
   * `remove_spawn_callback`.
   *
   * @param callback The function. Does nothing if it was not added.
   */
  static removeSpawnCallback(callback: (greenlet: Greenlet) => void): void {
    spawnCallbacks.delete(callback);
  }

  /** The name in messages; by default `Greenlet-` and a number. */
  get name(): string {
    let name = names.get(this);
    if (name === undefined) names.set(this, name = `Greenlet-${++named}`);
    return name;
  }

  /** See the getter. */
  set name(name: string) {
    names.set(this, nameFrom(name));
  }

  /** Whether the greenlet was started, and has not ended. gevent's `bool(g)`. */
  get started(): boolean {
    return this.#state === "scheduled" || this.active;
  }

  /** Whether it has ended, or was killed before it started. A dead greenlet never runs again. */
  override get dead(): boolean {
    return this.#state === "succeeded" || this.#state === "failed";
  }

  /** Whether the body has started and not ended. */
  override get active(): boolean {
    return this.#state === "running" || this.#state === "following";
  }

  /** Whether it has ended, with a result or an error. gevent's `ready`. */
  ready(): boolean {
    return this.dead;
  }

  /**
   * Whether it has ended without an error. A greenlet that was killed by a {@linkcode
   * GreenletExit} is successful. gevent's `successful`.
   */
  successful(): boolean {
    return this.#state === "succeeded";
  }

  /**
   * The result of the body; `undefined` if there is none. If it was killed, the
   * `GreenletExit`, which the type leaves out: see {@linkcode Greenlet.get}.
   */
  get value(): T | undefined {
    return this.#state === "succeeded" ? this.#outcome as T : undefined;
  }

  /** The error that the body has thrown; `undefined` if there is none. */
  get exception(): unknown {
    return this.#state === "failed" ? this.#outcome : undefined;
  }

  /**
   * The greenlet that was current when this one was made; `undefined` if it was collected.
   * gevent's `spawning_greenlet`.
   */
  get spawningGreenlet(): core.Greenlet | undefined {
    return spawnerOf(this);
  }

  /**
   * A description of the greenlet's wait: `Queue.get()`, `sleep(10000)`, `RLock.acquire(), held
   * by <Greenlet "Greenlet-1">`. `null` for a greenlet that has not begun, that runs or is
   * about to go on, or that has ended. gevent has no such property.
   *
   * `a foreign promise` is a promise that is not a wait of this library: an interrupt can't end
   * that wait. The text is for people and may change in any version. It is made when the
   * property is read.
   *
   * @example Usage
   * ```ts
   * import { sleep, spawn } from "@gevent/gevent";
   *
   * const greenlet = spawn(sleep, 100_000);
   * console.log(greenlet.waitsIn); // null
   * await sleep(1);
   * console.log(greenlet.waitsIn); // sleep(100000)
   * greenlet.kill();
   * ```
   */
  get waitsIn(): string | null {
    if (!this.active || currentScope().greenlet === this) return null;
    return describeGreenlet(
      this,
      knownScopeOf(this),
      this.#state === "following",
    );
  }

  /**
   * An object that this greenlet shares with all greenlets that it spawns, and their
   * descendants. Each greenlet that main spawns begins a new tree. Setting another object
   * affects this greenlet and the greenlets that it spawns from then on. gevent's
   * `spawn_tree_locals`.
   *
   * @throws {TypeError} If it is set to something that is not an object.
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
   * A signal that is aborted when this greenlet is killed, with the error as its reason: for
   * functions that take an `AbortSignal`.
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
      // If it was killed before it started, it is not dead to the core.
      else if (this.dead && !super.dead) abort.abort(this.#outcome);
    }
    return abort.signal;
  }

  /**
   * Starts the body soon: after the greenlets that were started before, and never before this
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
   * @param ms The delay, in milliseconds.
   * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds.
   * @throws {TypeError} If there is no body.
   */
  startLater(ms: number): void {
    checkDuration(ms, "start later");
    if (!Greenlet.#schedule(this)) return;
    enlist(ownScopeOf(this));
    // A wake-up, so that it begins in order with the other timers.
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
    try {
      current.run(scope, enter, greenlet);
    } catch (error) {
      // The body has not begun, as a subclass has arguments that can't be read.
      if (greenlet.#state !== "scheduled") throw error;
      Greenlet.#fail(greenlet, error);
    }
  }

  /**
   * Notes that the greenlet will start. Returns `false` if it was started or killed before.
   */
  static #schedule(greenlet: Greenlet): boolean {
    if (greenlet.#state !== "pending") return false;
    const { run } = greenlet;
    if (!isBody(run)) throw notStartable(greenlet, run);
    // Set before anything else, as a callback may throw or kill the greenlet.
    if (spawnCallbacks.size > 0) {
      spawnCallbacks.forEach((callback) => callback(greenlet));
      if (greenlet.#state as State !== "pending") return false;
    }
    greenlet.#state = "scheduled";
    expectLife();
    if (observers !== null) observers.spawned(greenlet);
    return true;
  }

  /**
   * Switches to a generator body, as the core does, or starts a body at once. Only for code
   * that switches by hand: a body that waits is resumed by its wait.
   *
   * @typeParam S The type of the values that are sent back.
   * @param args The values to send to the body.
   * @returns The switch, as of the core.
   * @throws {GreenletError} If the body is an async function, which only the event loop
   * resumes.
   */
  override switch<S = unknown>(...args: unknown[]): core.Switch<S> {
    if (this.#state === "following") {
      throw new GreenletError(
        `Cannot switch to ${
          show(this)
        } as its body is an async function, which only its waits resume: use kill(), or a generator body`,
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
      if (observers !== null) observers.begins(this);
      if (current.get() !== knownScopeOf(this)) enlist(ownScopeOf(this));
    }
    return Reflect.apply(super.switch, this, args) as core.Switch<S>;
  }

  /**
   * Returns the body and forgets it. The body begins in its own async context, wherever the
   * switch comes from.
   */
  protected override takeRun(): (...args: never[]) => unknown {
    const run = super.takeRun();
    const scope = knownScopeOf(this);
    if (scope === null || current.get() === scope) return run;
    return (...args) => current.run(scope, () => run.apply(this, args));
  }

  /**
   * Throws an error into the body, and does not wait for its end. The body's current wait
   * throws the error; if it has none, its next wait does. A greenlet that has not started never
   * starts. A generator body or a plain one that throws into itself throws at once. gevent's
   * `throw`. Not a switch point.
   *
   * @typeParam S The type that the switch would give.
   * @param error The error, or a class of errors, of which a new one is made; by default a new
   * {@linkcode GreenletExit}.
   * @returns A finished switch, whose value is `undefined`.
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

  /** Called by the core when the body has returned or thrown. */
  protected override ended(outcome: unknown, failed: boolean): void {
    const scope = ownScopeOf(this);
    if (failed || scope.isEscalation(outcome)) {
      return Greenlet.#fail(this, outcome);
    }
    if (!isThenable(outcome)) return Greenlet.#finish(this, outcome, false);
    this.#state = "following";
    const promise = promiseOf(outcome);
    if (current.get() === scope) follow(promise);
    else current.run(scope, follow, promise);
  }

  /** Ends the greenlet with an error of the body. */
  static #fail(greenlet: Greenlet, error: unknown): void {
    const own = failureFor(error, ownScopeOf(greenlet));
    if (own !== error) reportSuppressed(greenlet, error);
    Greenlet.#finish(greenlet, own, true);
  }

  static #finish(greenlet: Greenlet, outcome: unknown, failed: boolean): void {
    if (greenlet.dead) return;
    const fails = failed && !isInstance(outcome, GreenletExit);
    const scope = knownScopeOf(greenlet);
    if (greenlet.#state !== "pending") delist(scope);
    greenlet.#state = fails ? "failed" : "succeeded";
    greenlet.#outcome = outcome;
    if (observers !== null) observers.ended(greenlet);
    // A dead greenlet may be kept for its result, and the arguments may be large.
    (greenlet as { args: readonly unknown[] }).args = NONE;
    if (scope !== null) {
      scope.close();
      if (!scope.isKept) forgetScopeOf(greenlet);
    }
    if (greenlet.#links instanceof Links) greenlet.#links.schedule();
    else if (greenlet.#links !== null) runSoon(callLone, greenlet);
    // The error may be kept as the result, and must not keep what was waited for.
    if (fails) waitThatThrew(outcome);
    // Called after the links, as one of them may receive the error.
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
   * @param options The time limit.
   * @returns Nothing, also at the timeout: check {@linkcode
   * Greenlet.ready}.
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
    const timeout = timeoutOf(options, "join");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.dead) return doneWait();
    return new Joining(Greenlet.#linksOf(this)).limit(timeout).suspend(scope);
  }

  /**
   * Waits for the result. A switch point. gevent's `get`.
   *
   * The result of a killed greenlet is its {@linkcode GreenletExit}. The type leaves that out,
   * as usually only the code that calls `get` could kill the greenlet. `get<GreenletExit>()`
   * adds it.
   *
   * @typeParam K `GreenletExit`, to have it in the type of the result.
   * @param options Whether to wait, and the time limit.
   * @returns The result of the body; the `GreenletExit`, if it was killed by that.
   * @throws {unknown} The error that the body has thrown.
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
    const timeout = timeoutOf(options, "get");
    const { block = true } = options;
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#state === "succeeded") return readyWait(this.#outcome as T);
    if (this.#state === "failed") {
      takeError(this);
      scope.markRecipient(this.#outcome);
      return failedWait(this.#outcome);
    }
    if (!block) return failedWait(errorIn(Greenlet.prototype.get, Timeout, 0));
    return new OutcomeWait<T>(Greenlet.#linksOf(this), scope, timeout)
      .suspend(scope);
  }

  /**
   * Ends the greenlet: throws an error into its body, which may clean up, and waits until
   * it has ended. A switch point, unless `block` is false. gevent's `kill`.
   *
   * The body's current wait throws the error; if it has none, its next wait does. A greenlet
   * that has not started never starts. Killing a dead greenlet does nothing. The error is thrown
   * at the call. The wait begins when the call is awaited, and a call that is not awaited does
   * not wait: an interrupt of the caller is then thrown by the caller's next wait.
   *
   * If the body throws an error that wraps it, such as the `AggregateError` of `Promise.any` or
   * an error with it as its `cause`, the greenlet still counts as killed. A call that the body
   * has begun and does not await rejects, without an unhandled rejection.
   *
   * A kill insists. If the body is still alive after `grace`, its current wait and every later
   * wait throw the error again. A generator body is ended, which runs its `finally` blocks and
   * no `catch` block. A body that swallows the error ten times is left suspended for good, and
   * this is reported to `hub.handleError`.
   *
   * @param error The error, or a class of errors, of which a new one is made; by default a new
   * {@linkcode GreenletExit}.
   * @param options Whether and how long to wait, and how long the body may take.
   * @returns Nothing, also at the timeout.
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
   *       await sleep(1); // Swallows any error
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
    const thrown = killErrorOf(error);
    const timeout = timeoutOf(options, "kill");
    const { block = true, grace = GRACE } = options;
    checkDuration(grace, "kill");
    if (this.dead) return doneWait();
    aborts.get(this)?.abort(thrown);
    if (!Greenlet.#dieBeforeStart(this, thrown)) {
      killOrRetry(this, thrown, grace);
    }
    if (!block) return DONE;
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    // The greenlet kills itself: the call throws, even if the greenlet also waits in another
    // call.
    if (this.dead) return DONE;
    if (scope.greenlet === this) return interruptingWait(scope, thrown);
    const left = countDown(timeout);
    return new LateCall(scope, () => this.join({ timeout: left() }));
  }

  /**
   * Calls a function in a new greenlet when this one has ended. gevent's `link`.
   *
   * Each link is called once, in the order in which they were added; soon, if the greenlet has
   * ended already.
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
   * As {@linkcode Greenlet.link}, but only if the greenlet ends without an error. gevent's
   * `link_value`.
   *
   * @param link Gets this greenlet; or an object that is linkable.
   */
  linkValue(link: Link<this>): void {
    Greenlet.#link(this, link, () => this.successful());
  }

  /**
   * As {@linkcode Greenlet.link}, but only if the greenlet fails. The link counts as receiving
   * the error, so the hub does not report it. gevent's `link_exception`.
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
      // Called at once, as this is the hub: the body can remove the links after this one.
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
   * Removes a link that was not called yet. gevent's `unlink`.
   *
   * @param link The link, added by any of the methods.
   */
  unlink(link: Link<this>): void {
    if (this.#links instanceof Links) this.#links.unlink(link);
    else if (this.#links === link) this.#links = null;
  }

  /** Removes all links. gevent's `unlink_all`. */
  unlinkAll(): void {
    if (this.#links instanceof Links) this.#links.clear();
    else this.#links = null;
  }

  /** Returns the list of links. A single link is moved into a list first. */
  // deno-lint-ignore no-explicit-any
  static #linksOf(greenlet: Greenlet): Links<any> {
    const lone = greenlet.#links;
    if (lone instanceof Links) return lone;
    const links = greenlet.#links = new Links(greenlet);
    if (lone !== null) links.link(lone);
    return links;
  }

  /** Joins the greenlet at the end of an `await using` block, also if the block has thrown. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.join();
  }

  /** The class, the name and the function. */
  override toString(): string {
    const { label } = this;
    const title = label === "" || label === "run" ? "" : `: ${label}`;
    return oneLine(
      `<${this.constructor.name} ${JSON.stringify(this.name)}${title}>`,
    );
  }
}

function notStartable(greenlet: Greenlet, run: unknown): TypeError {
  return new TypeError(
    `Cannot start ${show(greenlet)} as ${
      typeof run === "function"
        ? "its 'run' is an async generator function, and a call of it would run no line"
        : "it has no 'run': pass a function to its constructor or define run() in its class, not _run()"
    }`,
  );
}

function enter(greenlet: Greenlet): void {
  const { args } = greenlet;
  // Spreading a frozen array would take a twentieth of the time of a spawn.
  if (args === NONE) greenlet.switch();
  else Reflect.apply(greenlet.switch, greenlet, args as unknown[]);
}

/** A finished switch, whose value is `undefined`. */
const PERFORMED: core.Switch<undefined> = {
  value: undefined,
  // deno-lint-ignore require-yield
  *[Symbol.iterator](): Generator<never, undefined> {
    return undefined;
  },
};

/** The wait for a greenlet's end. */
class Joining extends LinkedWait<Greenlet, void> {
  override describe(subject = this.subject): string {
    return `join of ${show(subject)}`;
  }

  override linked(): void {
    this.switch();
  }
}

/**
 * - `core`: the core knows the state
 * - `following`: the body is an async function, which the event loop resumes
 * - `ended`
 */
type RawState = "core" | "following" | "ended";

/** A greenlet of `spawnRaw`: one of the core's, with a scope. */
export class RawGreenlet extends ScopedGreenlet {
  #state: RawState = "core";

  static {
    // The text of the core says whether it has begun, or is dead.
    showAs<RawGreenlet>(
      this,
      (greenlet) =>
        greenlet.active
          ? `${show(greenlet)} ${stateOf(greenlet)}${
            durationText(waitedBy(greenlet))
          }`
          : show(greenlet),
    );
  }

  override get dead(): boolean {
    return this.#state === "ended";
  }

  override get active(): boolean {
    return this.#state === "core" ? super.active : !this.dead;
  }

  /** Shows a running async body as suspended. The core would show it as dead. */
  override toString(): string {
    if (this.#state !== "following") return super.toString();
    const label = this.label === "" ? "" : ` ${JSON.stringify(this.label)}`;
    return `<${this.constructor.name}${label} suspended active started>`;
  }

  /**
   * Whether an interrupt of its scope reaches it: it waits, and has not switched to another
   * greenlet.
   */
  get waits(): boolean {
    return this.#state === "following" || !super.active ||
      isAwaiting(scopeOf(this));
  }

  /** See {@linkcode Greenlet.waitsIn}. */
  get waitsIn(): string | null {
    if (!this.active || currentScope().greenlet === this) return null;
    return describeGreenlet(
      this,
      knownScopeOf(this),
      this.#state === "following",
    );
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
      const promise = promiseOf(outcome);
      then(promise, () => this.#end(), (error) => this.fail(error));
    } else {
      this.#end();
    }
  }

  fail(error: unknown): void {
    if (this.dead) return;
    this.#end();
    const own = failureFor(error, scopeOf(this));
    if (own !== error) reportSuppressed(this, error);
    if (!isInstance(own, GreenletExit)) reportInTurn(this, own);
  }

  #end(): void {
    if (this.dead) return;
    this.#state = "ended";
    if (observers !== null) observers.ended(this);
    const scope = scopeOf(this);
    delist(scope);
    scope.close();
  }
}

/** Describes what a greenlet does, or how it has ended. Never throws, whatever a subclass does. */
export function stateOf(greenlet: core.Greenlet): string {
  return inWords(() => stateText(greenlet), "is in an unknown state");
}

function stateText(greenlet: core.Greenlet): string {
  if (greenlet === currentScope().greenlet) return "runs";
  if (greenlet === main) {
    const waits = describeWaits(scopeOf(main));
    return waits === null ? "does not wait" : `waits in ${waits}`;
  }
  const isOwn = greenlet instanceof Greenlet;
  if (greenlet.dead) return isOwn ? outcomeOf(greenlet) : "has ended";
  if (!greenlet.active) {
    return isOwn && !greenlet.started ? "is not started" : "has not begun";
  }
  const waits = isOwn || greenlet instanceof RawGreenlet
    ? greenlet.waitsIn
    : describeWaits(scopeOf(greenlet));
  return waits === null ? "is about to go on" : `waits in ${waits}`;
}

/** The time that a greenlet has waited; `null` if it does not wait, or the time is not known. */
export function waitedBy(greenlet: core.Greenlet): Waited | null {
  if (greenlet.dead) return null;
  const scope = greenlet instanceof ScopedGreenlet
    ? knownScopeOf(greenlet)
    : scopeOf(greenlet);
  return scope === null || scope === currentScope() ? null : waitedOf(scope);
}

function outcomeOf(greenlet: Greenlet): string {
  const { value, exception } = greenlet;
  if (!greenlet.successful()) return `has failed: ${show(exception)}`;
  if (isInstance(value, GreenletExit)) return "was killed";
  if (value === undefined) return "has ended";
  return `has ended with ${isObject(value) ? classOf(value) : show(value)}`;
}

/**
 * Ends a greenlet of any kind. A switch point, unless `block` is false. gevent's `kill`.
 *
 * For a greenlet of the core the call does not wait, as such a greenlet can't be joined.
 *
 * @param greenlet The greenlet.
 * @param error The error, or a class of errors, of which a new one is made; by default a new
 * {@linkcode GreenletExit}.
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
  if (isInstance(greenlet, Greenlet)) return greenlet.kill(error, options);
  checkKillable(greenlet, "kill");
  checkOptions(options, "kill");
  const { grace = GRACE } = options;
  checkDuration(grace, "kill");
  if (!greenlet.dead) killOrRetry(greenlet, killErrorOf(error), grace);
  return DONE;
}

/** Kills a started greenlet, or a greenlet of the core: at once if possible, else from the hub. */
export function killOrRetry(
  greenlet: core.Greenlet,
  error: unknown,
  grace: number,
): void {
  if (tryKill(greenlet, error, grace)) return;
  scopeOf(greenlet).expectKill(error);
  runDetached(() => void throwSoon(greenlet, error, grace));
}

/** Kills a greenlet that waits, or will wait before something can switch to it. */
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

/**
 * Kills a greenlet that has switched to another or is not started. Runs in the hub, where
 * nothing switches.
 */
async function throwSoon(
  greenlet: core.Greenlet,
  error: unknown,
  grace: number,
): Promise<void> {
  await turn();
  if (greenlet.dead || tryKill(greenlet, error, grace)) return;
  // Waits first, so that an interrupt reaches it as it does any waiting greenlet. Then throws.
  const scope = scopeOf(greenlet);
  const wait = new Suspension<never>();
  wait.suspend(scope);
  scope.kill(error, grace);
  scope.noteHeard(error);
  const { throw: fail, return: end } = core.Greenlet.prototype;
  try {
    (wait.state === "returned" ? end : fail).call(greenlet, error);
  } catch (thrown) {
    report(greenlet, thrown);
  }
}

nameClasses({ Greenlet, RawGreenlet });
