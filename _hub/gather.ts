/**
 * Several greenlets at once: wait for all or for some of them, and kill them.
 *
 * @module
 */

import { nameClasses, showAs } from "../_base/inspecting.ts";
import { NO_OPTIONS } from "../_base/language.ts";
import type * as core from "../greenlet.ts";
import {
  ADVICE_ERROR,
  checkIterable,
  instanceOf,
  isInstance,
  isRevoked,
  numberError,
  show,
} from "../_base/checks.ts";
import { GreenletExit } from "../greenlet.ts";
import { Timeout } from "./timeout.ts";
import { placeLater } from "./stacks.ts";
import { currentScope } from "./current.ts";
import { Greenlet, kill, type KillOptions, type Waitable } from "./greenlet.ts";
import { checkKillable } from "./interrupts.ts";
import { forEachOf } from "./kill.ts";
import { linkAll, unlinkAll, waking } from "./links.ts";
import { whenAllEnded } from "./live.ts";
import { takeError } from "./reports.ts";
import { runSoon } from "./run_queue.ts";
import { GRACE, type Scope } from "./scope.ts";
import {
  checkpoint,
  DONE,
  doneWait,
  LateCall,
  readyWait,
  Suspension,
  type Wait,
} from "./suspension.ts";
import { checkDuration, countDown, now, timeoutOf } from "./timers.ts";
import { classOf, NO_BLOCKERS, several } from "./waits.ts";

/** Options of {@linkcode killAll}. */
export interface KillAllOptions extends KillOptions {
  /** The error that is thrown in each body. @default {new GreenletExit()} */
  error?: unknown;
}

/** Options of {@linkcode wait} and {@linkcode iwait}. */
export interface WaitOptions {
  /** The time limit in milliseconds. @default {Infinity} */
  timeout?: number;
  /** The number of objects to wait for. @default {all of them} */
  count?: number;
}

/** Options of {@linkcode joinAll}. */
export interface JoinAllOptions extends WaitOptions {
  /** Whether to throw the first error of a greenlet. @default {false} */
  raiseError?: boolean;
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
    // An object of the program may have told it at once, and then others were linked after that.
    if (this.isOver) this.undo();
  }

  /** Whether it has ended, possibly before it has begun to wait. */
  get isOver(): boolean {
    return this.state !== "idle" && !this.isPending;
  }

  #arrived(source: S): void {
    if (this.isOver) return;
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

  override describe(): string {
    const left = this.#left;
    const few = this.#count < this.#objects.length
      ? `${this.#count - this.#done.length} of `
      : "";
    return left.every((object) => object instanceof Greenlet)
      ? `join of ${few}${several(left)}`
      : `wait for ${few}${several(left.map(titleOf))}`;
  }

  override get blockers(): readonly core.Greenlet[] {
    // If a few are enough, it is not known which ones.
    if (this.#count < this.#objects.length) return NO_BLOCKERS;
    return this.#left.filter((object) => object instanceof Greenlet);
  }

  get #left(): S[] {
    const done = new Set(this.#done);
    return this.#objects.filter((object) => !done.has(object));
  }

  protected override get caller(): Scope {
    return this.#scope;
  }

  protected override undo(): void {
    if (this.#done.length === this.#objects.length) return;
    unlinkAll(this.#objects, this.#link);
  }

  /** Ends the wait in its turn: objects that are ready already call their links first. */
  override expired(): "steps" {
    runSoon(endInTime, this);
    return "steps";
  }

  end(): void {
    if (this.isPending) super.expired();
  }

  protected override timedOut(): void {
    this.switch(this.#done);
  }
}

/** A short name of the objects that are waited for. */
function titleOf(object: unknown): string {
  return isInstance(object, Greenlet)
    ? show(object)
    : classOf(object as object);
}

function endInTime(wait: { end(): void }): void {
  wait.end();
}

function waitFor<S extends Waitable>(
  objects: Iterable<S>,
  options: JoinAllOptions,
  what: string,
): Wait<S[]> {
  const timeout = timeoutOf(options, what);
  const { count, raiseError = false } = options;
  const all = checkWaitables(objects, what);
  const enough = checkCount(count, all.length, what);
  const scope = currentScope();
  const due = checkpoint(scope);
  if (due !== null) return due;
  if (enough === 0) return readyWait([]);
  // get(), as rawlink() of an object may be the user's, and may have interrupted us.
  const waiting = new Waiting(all, enough, scope, raiseError);
  if (!waiting.isOver) waiting.limit(timeout);
  return waiting.get();
}

function checkWaitables<S extends Waitable>(
  objects: Iterable<S>,
  what: string,
): S[] {
  const all = toArray(objects, what);
  for (const object of all) {
    if (isRevoked(object) || typeof object?.rawlink !== "function") {
      throw new TypeError(
        `Cannot ${what} as each object must be a greenlet, or have rawlink(): received ${
          show(object)
        }`,
      );
    }
  }
  return all;
}

export function toArray<O>(objects: Iterable<O>, what: string): O[] {
  checkIterable(objects, what, "objects");
  return [...objects];
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
 * @param greenlets The greenlets, or other objects that have links.
 * @param options The time limit, the number of greenlets, and whether to throw.
 * @returns The greenlets that have ended, in the order in which they ended.
 * @throws {unknown} With `raiseError`, the error of the first greenlet that failed.
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
  options: JoinAllOptions = NO_OPTIONS,
): Wait<G[]> {
  return waitFor(greenlets, options, "join all");
}

/**
 * Waits until objects are ready; without objects, until all greenlets but the current one have
 * ended. A switch point. gevent's `wait`, which also waits for what else is on its event loop, such
 * as calls of a `ThreadPool`.
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
 * @param options The time limit, and the number of objects.
 * @returns The objects that are ready, in the order in which they became ready.
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
  options: WaitOptions = NO_OPTIONS,
): Wait<S[]> | Wait<boolean> {
  if (objects !== undefined && objects !== null) {
    return waitFor(objects, options, "wait");
  }
  const timeout = timeoutOf(options, "wait");
  return whenAllEnded(timeout);
}

/**
 * The iterator of {@linkcode iwait}, for `for await` and for `using`. A generator body calls
 * `yield* ready.next()`.
 *
 * @typeParam S The type of the objects.
 */
export interface ReadyIterator<S> extends AsyncIterableIterator<S> {
  /** Waits for the next object. A switch point. */
  next(): Wait<IteratorResult<S, undefined>>;
  /** Gives up the objects that are not ready. */
  return(): Wait<IteratorResult<S, undefined>>;
  /** Returns the iterator itself. */
  [Symbol.asyncIterator](): ReadyIterator<S>;
  /** Gives up the objects that are not ready. */
  [Symbol.dispose](): void;
}

/** The wait of an {@linkcode Arrivals} for the next object. */
class Arriving<S extends Waitable>
  extends Suspension<IteratorResult<S, undefined>> {
  readonly #arrivals: Arrivals<S>;
  readonly #isLoop: boolean;

  /** @param isLoop Whether a `for await` loop asks, which an interrupt ends. */
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

  override describe(): string {
    return "the next of iwait()";
  }

  /** Ends the wait in its turn: objects that are ready already call their links first. */
  override expired(): "steps" {
    runSoon(endInTime, this);
    return "steps";
  }

  end(): void {
    if (this.isPending) super.expired();
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
  /** No timer, which would keep the process alive when nothing waits. */
  readonly #deadline: number;
  /** Whether objects that were ready from the start may still be about to tell it. */
  #begins = true;
  /** The scope in which a `for await` loop was begun. In others, `next` is called by hand. */
  #loop: Scope | null = null;
  readonly #link = waking((source: S) => this.#arrived(source));

  static {
    showAs(this, (arrivals) => ({
      left: arrivals.#left,
      ready: arrivals.#ready.slice(arrivals.#taken),
      waiting: arrivals.#waiting.length,
    }));
  }

  constructor(objects: S[], count: number, timeout: number) {
    this.#objects = objects;
    this.#left = count;
    this.#deadline = now() + timeout;
    linkAll(objects, this.#link);
    runSoon(() => {
      this.#begins = false;
    }, undefined);
  }

  /** Whether the time limit has passed, and no object that was ready in time is left to return. */
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

  /** The milliseconds that are left. */
  get #remaining(): number {
    return this.#deadline - now();
  }

  #close(): void {
    this.#left = 0;
    unlinkAll(this.#objects.splice(0), this.#link);
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

  /** Ends the iterator, and removes its links. */
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
 * Iterates over objects in the order in which they become ready. gevent's `iwait`.
 *
 * Leaving a `for await` loop in any way, also by an interrupt, removes its links from the
 * objects. Code that calls `next` by hand can go on after an interrupt, and closes the iterator
 * by `using`.
 *
 * @typeParam S The type of the objects.
 * @param objects Greenlets, events, semaphores.
 * @param options The time limit, which runs from this call, and the number of objects.
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
  options: WaitOptions = NO_OPTIONS,
): ReadyIterator<S> {
  const timeout = timeoutOf(options, "wait");
  const { count } = options;
  const all = checkWaitables(objects, "wait");
  return new Arrivals(all, checkCount(count, all.length, "wait"), timeout);
}

/**
 * Kills greenlets, all at once, and waits until they have ended. A switch point, unless
 * `block` is false. gevent's `killall`.
 *
 * A greenlet that is passed twice is killed once. If one of them is not a greenlet, none is
 * killed.
 *
 * @param greenlets The greenlets.
 * @param options The error to throw, whether to wait, the time limit, and the grace; see
 * {@linkcode Greenlet.kill}.
 * @returns Nothing.
 * @throws {Timeout} If some are alive at the timeout.
 * @throws {TypeError | RangeError} If a time is not a number of milliseconds, or one of
 * `greenlets` is not a greenlet.
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
  options: KillAllOptions = NO_OPTIONS,
): Wait<void> {
  const timeout = timeoutOf(options, "kill all", ADVICE_ERROR);
  const { error = new GreenletExit(), block = true, grace = GRACE } = options;
  checkDuration(grace, "kill all");
  const all = new Set(toArray(greenlets, "kill all"));
  for (const greenlet of all) checkKillable(greenlet, "kill all");
  const thrown = instanceOf(error);
  forEachOf(all, (one) => kill(one, thrown, { block: false, grace }));
  const scope = currentScope();
  const alive = () =>
    [...all].filter((g): g is Greenlet => g instanceof Greenlet && !g.dead);
  if (!block || alive().length === 0) return doneWait();
  const left = countDown(timeout);
  return checkpoint(scope) ?? new LateCall(scope, () => {
    const rest = alive();
    if (rest.length === 0) return checkpoint(scope) ?? DONE;
    return new KillingAll(rest, timeout).limit(left()).get();
  });
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
    unlinkAll(this.#greenlets, this.#link);
  }

  override describe(): string {
    const alive = this.blockers;
    return `killAll() of ${
      several(alive.length > 0 ? alive : this.#greenlets)
    }`;
  }

  override get blockers(): readonly core.Greenlet[] {
    return this.#greenlets.filter((greenlet) => !greenlet.dead);
  }

  protected override timedOut(): void {
    this.throw(placeLater(new Timeout(this.#ms)));
  }
}

nameClasses({ Arrivals });
