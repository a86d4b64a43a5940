/**
 * Locks and semaphores, which limit how many greenlets use something at a time.
 *
 * ```ts
 * import { joinAll, Semaphore, sleep, spawn } from "@gevent/gevent";
 *
 * const two = new Semaphore(2);
 * async function visit(name: string) {
 *   using _ = await two.acquire();
 *   console.log(`${name} is in`);
 *   await sleep(1);
 * }
 * await joinAll(["rose", "jack", "mary"].map((name) => spawn(visit, name)));
 * ```
 *
 * Waiting calls of `acquire` get a lock in the order in which they began. A greenlet that
 * releases a lock and acquires it again does not overtake a waiting one. If `acquire` is
 * interrupted while it waits, the greenlet does not hold the lock. Once the lock was handed to
 * it, `acquire` returns the lock, and the next wait throws the interrupt: release it with
 * `using` or `finally`.
 *
 * @module
 */

import { markHandled, NO_OPTIONS } from "./_base/language.ts";
import { currentScope, runIn } from "./_hub/current.ts";
import type { Scope } from "./_hub/scope.ts";
import { checkpoint, readyWait, type Settled } from "./_hub/suspension.ts";
import { QueuedWait } from "./_hub/wait_queue.ts";
import { type Link, LinkedWait, Links } from "./_hub/links.ts";
import { List } from "./_base/linked_list.ts";
import { checkCallback, checkOptions, numberError } from "./_base/checks.ts";
import { checkDuration } from "./_hub/timers.ts";
import { getCurrent, type Wait } from "./hub.ts";
import type { JoinOptions, Waitable } from "./gevent.ts";
import type { Greenlet as CoreGreenlet } from "./greenlet.ts";

/** Options of the locks' `acquire`. */
export interface AcquireOptions {
  /** Whether to wait until it is free. @default {true} */
  blocking?: boolean;
  /** How many milliseconds to wait at most. @default {Infinity} */
  timeout?: number;
}

/** A wait for a lock. */
class Acquirer<L> extends QueuedWait<Acquirer<L>, L | null> {
  /** The greenlet that will hold the lock; `null` for a semaphore. */
  readonly greenlet: CoreGreenlet | null;
  /** How often the greenlet will have to release it. */
  readonly depth: number;

  constructor(greenlet: CoreGreenlet | null = null, depth = 1) {
    super();
    this.greenlet = greenlet;
    this.depth = depth;
  }

  protected override timedOut(): void {
    this.switch(null);
  }
}

/** Those who have the lock back and are to be told; `null` when nobody is being told. */
let told: Reclaimer[] | null = null;

/** The place of one who gets back the lock that a condition has taken. */
class Reclaimer extends Acquirer<unknown> {
  readonly #reclaimed: () => void;

  constructor(greenlet: CoreGreenlet, depth: number, reclaimed: () => void) {
    super(greenlet, depth);
    this.#reclaimed = reclaimed;
  }

  /** Nobody is suspended here, but in the wait for the condition. */
  override switch(): void {
    if (told !== null) return void told.push(this);
    // Each may give the lock to the next one: thousands would be too deep a stack.
    told = [this];
    try {
      for (const reclaimer of told) reclaimer.#reclaimed();
    } finally {
      told = null;
    }
  }
}

// What a condition may do with its lock, and nobody else.
let standInSemaphoreLine: (lock: Semaphore, reclaimer: Reclaimer) => void;
let standInLine: (lock: RLock, reclaimer: Reclaimer) => void;
let giveAway: (lock: RLock, most: number) => number;

/**
 * Releases that are still to come of those who wait for a condition no longer, and don't
 * have its lock back: they have it no more.
 */
class Forfeits {
  readonly #left = new WeakMap<CoreGreenlet, number>();

  add(greenlet: CoreGreenlet, releases: number): void {
    this.#left.set(greenlet, (this.#left.get(greenlet) ?? 0) + releases);
  }

  /** Whether a release of the current greenlet is one of them. */
  take(): boolean {
    const me = getCurrent();
    const left = this.#left.get(me) ?? 0;
    if (left > 0) this.#left.set(me, left - 1);
    return left > 0;
  }
}

let forfeitsOfRLock: (lock: RLock) => Forfeits;
let forfeitsOf: (lock: Lock | RLock) => Forfeits;

class Available extends LinkedWait<Semaphore, number> {
  override linked(source: Semaphore): void {
    this.switch(source.counter);
  }

  protected override timedOut(): void {
    this.switch(0);
  }
}

/**
 * A number of permits, which greenlets acquire and release. gevent's `Semaphore`.
 *
 * @example Usage
 * ```ts
 * import { Semaphore } from "@gevent/gevent";
 *
 * const semaphore = new Semaphore(2);
 * {
 *   using _one = await semaphore.acquire();
 *   using _two = await semaphore.acquire();
 *   console.log(semaphore.locked()); // true
 *   console.log(await semaphore.acquire({ timeout: 1 })); // null
 * }
 * console.log(semaphore.counter); // 2
 * ```
 */
export class Semaphore implements Waitable, Disposable {
  #counter: number;
  readonly #line: List<Acquirer<this>> = new List();

  static {
    standInSemaphoreLine = (semaphore, reclaimer) => {
      if (semaphore.#counter > 0) {
        semaphore.#counter--;
        reclaimer.switch();
      } else {
        semaphore.#line.add(
          reclaimer as Acquirer<unknown> as Acquirer<Semaphore>,
        );
      }
    };
  }

  // `Links<this>` is what is meant, but the waits can't name that type.
  // deno-lint-ignore no-explicit-any
  readonly #links: Links<any> = new Links(this);

  /**
   * Makes a semaphore.
   *
   * @param value The number of permits, at least 0.
   * @throws {TypeError | RangeError} If it is not a non-negative integer.
   */
  constructor(value = 1) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw numberError(
        "create semaphore",
        "value",
        "a non-negative integer",
        value,
      );
    }
    this.#counter = value;
  }

  /** The number of free permits. gevent's `counter`. */
  get counter(): number {
    return this.#counter;
  }

  /** Whether no permit is free. gevent's `locked`. */
  locked(): boolean {
    return this.#counter === 0;
  }

  /** Whether a permit is free. gevent's `ready`. */
  ready(): boolean {
    return this.#counter > 0;
  }

  /**
   * Waits until a permit is free, and takes it. A switch point. gevent's `acquire`, which
   * returns a boolean. An interrupt takes no permit.
   *
   * @param options Whether to wait, and how long.
   * @returns The semaphore, which a `using` block releases at its end; `null` if no permit
   * was free in time.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  acquire(options: AcquireOptions = NO_OPTIONS): Wait<this | null> {
    checkOptions(options, "acquire");
    const { blocking = true, timeout = Infinity } = options;
    checkDuration(timeout, "acquire");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    if (this.#counter > 0) {
      this.#counter--;
      return readyWait(this);
    }
    if (!blocking) return readyWait(null);
    const acquirer = new Acquirer<this>();
    this.#line.add(acquirer);
    return acquirer.limit(timeout).get();
  }

  /**
   * Adds a permit, or hands it to the wait that is first in line. Not a switch point.
   * gevent's `release`.
   *
   * @returns The number of free permits.
   */
  release(): number {
    const acquirer = this.#line.shift();
    if (acquirer !== null) {
      acquirer.switch(this);
    } else {
      this.#counter++;
      this.#links.schedule();
    }
    return this.#counter;
  }

  /**
   * Waits until a permit is free, and takes none. A switch point. gevent's `wait`.
   *
   * @param options How long to wait.
   * @returns The number of free permits. 0 at the timeout, or if other greenlets have taken
   * the permits before this one goes on.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<number> {
    checkOptions(options, "wait for semaphore");
    const { timeout = Infinity } = options;
    checkDuration(timeout, "wait for semaphore");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    if (this.#counter > 0) return readyWait(this.#counter);
    return new Available(this.#links).limit(timeout).get();
  }

  /**
   * Calls a function once when a permit is free, or soon if one is free now. The hub calls it,
   * so it must be quick and must not wait. Not a switch point. gevent's `rawlink`.
   *
   * @param link A function, called with this semaphore; or an object with a method `linked`.
   */
  rawlink(link: Link<this>): void {
    this.#links.link(link);
    if (this.#counter > 0) this.#links.schedule();
  }

  /**
   * Removes a link that was not called yet. Not a switch point. gevent's `unlink`.
   *
   * @param link The link.
   */
  unlink(link: Link<this>): void {
    this.#links.unlink(link);
  }

  /** The number of waits and links. gevent's `linkcount`. */
  linkCount(): number {
    return this.#line.length + this.#links.length;
  }

  /** Releases a permit, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.release();
  }
}

/**
 * A semaphore that throws if it is released more often than it was acquired. gevent's
 * `BoundedSemaphore`.
 *
 * @example Usage
 * ```ts
 * import { BoundedSemaphore } from "@gevent/gevent";
 *
 * const semaphore = new BoundedSemaphore(1);
 * try {
 *   semaphore.release();
 * } catch (error) {
 *   console.log(error instanceof RangeError); // true
 * }
 * ```
 */
export class BoundedSemaphore extends Semaphore {
  readonly #most: number;

  /**
   * Makes a semaphore.
   *
   * @param value The number of permits, at least 0.
   * @throws {TypeError | RangeError} If it is not a non-negative integer.
   */
  constructor(value = 1) {
    super(value);
    this.#most = value;
  }

  /**
   * Releases a permit; see {@linkcode Semaphore.release}. Not a switch point.
   *
   * @returns The number of free permits.
   * @throws {RangeError} If no permit is taken.
   */
  override release(): number {
    if (this.counter >= this.#most) {
      throw new RangeError(
        `Cannot release as no permit is taken: ${this.#most} of ${this.#most} are free`,
      );
    }
    return super.release();
  }
}

/**
 * A lock that is held once at a time: a {@linkcode BoundedSemaphore} with one permit. Any
 * greenlet may release it. Python's `threading.Lock`, as gevent patches it.
 *
 * @example Usage
 * ```ts
 * import { Lock } from "@gevent/gevent";
 *
 * const lock = new Lock();
 * {
 *   using _ = await lock.acquire();
 *   console.log(lock.locked()); // true
 * }
 * console.log(lock.locked()); // false
 * ```
 */
export class Lock extends BoundedSemaphore {
  #forfeits: Forfeits | null = null;

  static {
    forfeitsOf = (lock) =>
      lock instanceof Lock
        ? lock.#forfeits ??= new Forfeits()
        : forfeitsOfRLock(lock);
  }

  /** Makes a lock that is free. */
  constructor() {
    super(1);
  }

  /**
   * Releases the lock; see {@linkcode Semaphore.release}. Not a switch point.
   *
   * @returns 1 if the lock is free now, 0 if another greenlet holds it now.
   * @throws {RangeError} If the lock is not held.
   */
  override release(): number {
    return this.#forfeits?.take() ? this.counter : super.release();
  }
}

/**
 * A stand-in for a semaphore: it never makes a greenlet wait. gevent's `DummySemaphore`.
 *
 * @example Usage
 * ```ts
 * import { DummySemaphore } from "@gevent/gevent";
 *
 * using _ = await new DummySemaphore().acquire();
 * ```
 */
export class DummySemaphore implements Disposable {
  /** Returns `false`. */
  locked(): boolean {
    return false;
  }

  /** Returns `true`. */
  ready(): boolean {
    return true;
  }

  /**
   * Returns at once. A switch point, so that an interrupt that is due is thrown.
   *
   * @param _options Ignored.
   * @returns The semaphore.
   */
  acquire(_options?: AcquireOptions): Wait<this> {
    return checkpoint(currentScope()) ?? readyWait(this);
  }

  /** Does nothing. */
  release(): void {}

  /**
   * Returns at once. A switch point, so that an interrupt that is due is thrown.
   *
   * @param _options Ignored.
   * @returns 1
   */
  wait(_options?: JoinOptions): Wait<number> {
    return checkpoint(currentScope()) ?? readyWait(1);
  }

  /** Does nothing. */
  [Symbol.dispose](): void {}
}

/** The waits for an {@linkcode RLock}. A greenlet may have several of them. */
class OwnersLine extends List<Acquirer<RLock>> {
  readonly #counts = new Map<CoreGreenlet | null, number>();

  override add(acquirer: Acquirer<RLock>): void {
    super.add(acquirer);
    this.#count(acquirer.greenlet, 1);
  }

  override remove(acquirer: Acquirer<RLock>): void {
    super.remove(acquirer);
    this.#count(acquirer.greenlet, -1);
  }

  #count(greenlet: CoreGreenlet | null, change: number): void {
    const count = (this.#counts.get(greenlet) ?? 0) + change;
    if (count > 0) this.#counts.set(greenlet, count);
    else this.#counts.delete(greenlet);
  }

  /** Returns the first wait of a greenlet. */
  firstOf(greenlet: CoreGreenlet | null): Acquirer<RLock> | null {
    if (!this.#counts.has(greenlet)) return null;
    let acquirer = this.first;
    while (acquirer!.greenlet !== greenlet) acquirer = acquirer!.next;
    return acquirer;
  }
}

/**
 * A lock that the greenlet which holds it can acquire again. It is free when it was released
 * as often as it was acquired. gevent's `RLock`.
 *
 * The owner is a greenlet. Two async functions that run at the same time in one greenlet
 * don't keep each other out.
 *
 * @example Usage
 * ```ts
 * import { RLock } from "@gevent/gevent";
 *
 * const lock = new RLock();
 * {
 *   using _outer = await lock.acquire();
 *   using _inner = await lock.acquire();
 * }
 * console.log(lock.locked()); // false
 * ```
 */
export class RLock implements Disposable {
  #owner: CoreGreenlet | null = null;
  #depth = 0;
  readonly #line = new OwnersLine();
  #forfeits: Forfeits | null = null;

  static {
    forfeitsOfRLock = (lock) => lock.#forfeits ??= new Forfeits();
    giveAway = (lock, most) => {
      const depth = Math.min(most, lock.#depth);
      lock.#depth -= depth;
      if (lock.#depth === 0) lock.#handOver();
      return depth;
    };
    standInLine = (lock, reclaimer) => {
      if (lock.#owner === null) {
        lock.#owner = reclaimer.greenlet;
        lock.#depth = reclaimer.depth;
        reclaimer.switch();
      } else {
        lock.#line.add(reclaimer as Acquirer<unknown> as Acquirer<RLock>);
      }
    };
  }

  /** Whether the lock is held. */
  locked(): boolean {
    return this.#owner !== null;
  }

  /** Whether the current greenlet holds the lock. */
  get owned(): boolean {
    return this.#owner === getCurrent();
  }

  /**
   * Waits until the lock is free or held by the current greenlet, and acquires it. A switch
   * point. gevent's `acquire`, which returns a boolean. An interrupt acquires nothing.
   *
   * @param options Whether to wait, and how long.
   * @returns The lock, which a `using` block releases at its end; `null` if it was not free
   * in time.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  acquire(options: AcquireOptions = NO_OPTIONS): Wait<this | null> {
    checkOptions(options, "acquire");
    const { blocking = true, timeout = Infinity } = options;
    checkDuration(timeout, "acquire");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    const me = getCurrent();
    if (this.#owner === null) this.#owner = me;
    if (this.#owner === me) {
      this.#depth++;
      return readyWait(this);
    }
    if (!blocking) return readyWait(null);
    const acquirer = new Acquirer<RLock>(me);
    this.#line.add(acquirer);
    return acquirer.limit(timeout).get() as Wait<unknown> as Wait<this | null>;
  }

  /**
   * Releases the lock once. Not a switch point. gevent's `release`.
   *
   * @throws {RangeError} If the current greenlet doesn't hold it.
   */
  release(): void {
    if (this.#forfeits?.take()) return;
    if (!this.owned) {
      throw new RangeError(
        `Cannot release as ${getCurrent()} does not hold the lock: ${
          this.#owner === null ? "it is free" : `${this.#owner} does`
        }`,
      );
    }
    if (--this.#depth === 0) this.#handOver();
  }

  #handOver(): void {
    let next = this.#line.first;
    this.#owner = next === null ? null : next.greenlet;
    // Ends all waits of the new owner: it may await the second one before it releases the
    // first. The end of a wait may hand the lock on to another greenlet at once.
    for (; next !== null; next = this.#line.firstOf(this.#owner)) {
      this.#line.remove(next);
      this.#depth += next.depth;
      next.switch(this);
    }
  }

  /** Releases the lock once, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.release();
  }
}

/** The wait for a condition: first to be notified, then to hold the lock again. */
class Notified extends QueuedWait<Notified, boolean> {
  readonly #line: List<Notified>;
  readonly #lock: Lock | RLock;
  readonly #scope: Scope;
  readonly #predicate: (() => unknown) | null;
  /** How often the lock is to be released when it is there again. */
  #depth = Infinity;
  /** Whether the time is over. */
  #late = false;
  /** What comes of the wait when the lock is there; `null` until it is asked for. */
  #outcome: { state: Settled; value: unknown } | null = null;
  /** Gets the lock back; kept until it is known whether to give it away once more. */
  #reclaimer: Reclaimer | null = null;

  constructor(
    line: List<Notified>,
    lock: Lock | RLock,
    scope: Scope,
    predicate: (() => unknown) | null,
  ) {
    super();
    this.#line = line;
    this.#lock = lock;
    this.#scope = scope;
    this.#predicate = predicate;
    this.#giveAway();
  }

  #giveAway(): void {
    this.#reclaimer = null;
    this.#line.add(this);
    try {
      // All of it at first, and of what the greenlet acquires meanwhile nothing.
      if (this.#lock instanceof RLock) {
        this.#depth = giveAway(this.#lock, this.#depth);
      } else {
        this.#depth = 1;
        this.#lock.release();
      }
    } catch (error) {
      this.list?.remove(this);
      throw error;
    }
  }

  /** Somebody says that things have changed. */
  notify(): void {
    this.undo(undefined);
    this.#reclaim("given", true);
  }

  protected override timedOut(): void {
    this.#late = true;
    this.#reclaim("given", false);
  }

  /** The body may think that it holds the lock: so it gets it back before the error. */
  override interrupt(error: unknown, final: boolean): void {
    this.undo(error);
    markHandled(this.promise!);
    const how = final ? this.#scope.lastThrow : "thrown";
    const before = this.#outcome?.state ?? "given";
    if (!final && before !== "given") {
      // One after the other: the next wait throws this one.
      if (!this.#scope.holds(error)) this.#scope.hold(error);
      return;
    }
    if (this.#reclaimer === null) {
      this.#reclaim(how, error);
    } else {
      const { state, value } = this.#outcome!;
      this.#outcome = { state: how, value: error };
      // It has taken nothing: the notification is for the next one.
      if (state === "given" && value === true) this.#line.first?.notify();
    }
    const line = this.#reclaimer?.list ?? null;
    if (final && line !== null) {
      // It can't be waited for any more, and what the body releases is not its own.
      line.remove(this.#reclaimer!);
      forfeitsOf(this.#lock).add(this.#scope.greenlet, this.#depth);
      this.settle(how, error);
    }
  }

  #reclaim(state: Settled, value: unknown): void {
    if (this.#reclaimer !== null) return;
    this.#outcome = { state, value };
    const reclaimer = new Reclaimer(
      this.#scope.greenlet,
      this.#depth,
      () => this.#reclaimed(),
    );
    this.#reclaimer = reclaimer;
    if (this.#lock instanceof RLock) standInLine(this.#lock, reclaimer);
    else standInSemaphoreLine(this.#lock, reclaimer);
  }

  #reclaimed(): void {
    const { state, value } = this.#outcome!;
    if (state !== "given" || this.#predicate === null) {
      return this.settle(state, value);
    }
    let holds: boolean;
    try {
      holds = Boolean(runIn(this.#scope, this.#predicate));
    } catch (error) {
      return this.#failed(error);
    }
    // The predicate may have interrupted its own greenlet.
    const { state: now, value: interrupt } = this.#outcome!;
    if (now !== "given") this.settle(now, interrupt);
    else if (holds || this.#late) this.settle("given", holds);
    else this.#giveAway();
  }

  /** The predicate has thrown an error. */
  #failed(error: unknown): void {
    const { state, value } = this.#outcome!;
    if (state !== "given") {
      // Nothing comes after a wait that may be no longer: it ends the body itself.
      if (this.#scope.isEscalated) return this.settle(state, value);
      if (!this.#scope.holds(value)) this.#scope.hold(value);
    }
    this.settle("thrown", error);
  }
}

/**
 * A lock, and a line of those who wait for something that it protects to change. Python's
 * `threading.Condition`, as gevent patches it.
 *
 * Who waits gives the lock away meanwhile, and holds it again when the wait is over, even
 * when it is over by an interrupt.
 *
 * @example Usage
 * ```ts
 * import { Condition, spawn } from "@gevent/gevent";
 *
 * const condition = new Condition();
 * const items: string[] = [];
 * const consumer = spawn(async () => {
 *   using _ = await condition.acquire();
 *   await condition.waitFor(() => items.length > 0);
 *   return items.shift();
 * });
 * spawn(async () => {
 *   using _ = await condition.acquire();
 *   items.push("apple");
 *   condition.notify();
 * });
 * console.log(await consumer.get()); // apple
 * ```
 */
export class Condition implements Disposable {
  readonly #lock: Lock | RLock;
  readonly #line: List<Notified> = new List();

  /**
   * Makes a condition.
   *
   * @param lock The lock; by default a new {@linkcode RLock}.
   * @throws {TypeError} If it is neither a `Lock` nor an `RLock`.
   */
  constructor(lock: Lock | RLock = new RLock()) {
    if (!(lock instanceof RLock) && !(lock instanceof Lock)) {
      throw new TypeError(
        `Cannot create condition as 'lock' must be a Lock or an RLock: received ${
          String(lock)
        }`,
      );
    }
    this.#lock = lock;
  }

  /**
   * Acquires the lock. A switch point.
   *
   * @param options Whether and how long to wait.
   * @returns The condition, whose lock is released at the end of a `using` block; `null`,
   * if it was not to be had.
   */
  acquire(options: AcquireOptions = NO_OPTIONS): Wait<Disposable | null> {
    return this.#lock.acquire(options);
  }

  /** Releases the lock. Not a switch point. */
  release(): void {
    this.#lock.release();
  }

  /**
   * Waits to be notified. A switch point.
   *
   * When it is over, by an interrupt as well, the lock is held again: it is waited for.
   * Only one who may wait no longer goes on without, at the end of a `withTimeout` or of
   * the grace after a kill; to release the lock then does nothing.
   *
   * @param options How long to wait.
   * @returns `true`; at the timeout, `false`.
   * @throws {RangeError} If the lock is not held.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<boolean> {
    return this.#wait(null, options);
  }

  /**
   * Waits until something holds, which is looked at now and whenever one is notified. A
   * switch point.
   *
   * @param predicate Tells whether it holds. Must not wait.
   * @param options How long to wait.
   * @returns What the predicate has said last, as a boolean.
   * @throws {RangeError} If the lock is not held.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  waitFor(
    predicate: () => unknown,
    options: JoinOptions = NO_OPTIONS,
  ): Wait<boolean> {
    checkCallback(predicate, "wait", "predicate");
    return this.#wait(predicate, options);
  }

  #wait(
    predicate: (() => unknown) | null,
    options: JoinOptions,
  ): Wait<boolean> {
    checkOptions(options, "wait for condition");
    const { timeout = Infinity } = options;
    checkDuration(timeout, "wait for condition");
    this.#checkHeld("wait");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (predicate !== null) {
      if (predicate()) return readyWait(true);
      // It may have interrupted its own greenlet, which did not wait yet.
      const due = checkpoint(scope);
      if (due !== null) return due;
    }
    return new Notified(this.#line, this.#lock, scope, predicate)
      .limit(timeout).suspend(scope);
  }

  /**
   * Wakes the first who wait. Not a switch point: they go on when the lock is free. One
   * who is interrupted before leaves its place to the next.
   *
   * @param count How many.
   * @throws {RangeError} If the lock is not held, or `count` is not a non-negative integer.
   */
  notify(count = 1): void {
    if (count !== Infinity && (!Number.isInteger(count) || count < 0)) {
      throw numberError("notify", "count", "a non-negative integer", count);
    }
    this.#checkHeld("notify");
    for (let i = 0; i < count; i++) {
      const { first } = this.#line;
      if (first === null) return;
      first.notify();
    }
  }

  /** Wakes all who wait. See {@linkcode Condition.notify}. */
  notifyAll(): void {
    this.notify(Infinity);
  }

  #checkHeld(what: string): void {
    const lock = this.#lock;
    if (lock instanceof RLock ? lock.owned : lock.locked()) return;
    throw new RangeError(
      `Cannot ${what} as ${getCurrent()} does not hold the condition's lock: acquire it first`,
    );
  }

  /** Releases the lock, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.release();
  }
}
