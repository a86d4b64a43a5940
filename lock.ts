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

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import { currentScope } from "./_hub/current.ts";
import { checkpoint, readyWait } from "./_hub/suspension.ts";
import { type Link, LinkedWait, Links } from "./_hub/links.ts";
import {
  Acquirer,
  FORFEIT,
  Forfeits,
  GIVE_AWAY,
  RECLAIM,
  type Reclaimer,
} from "./_hub/reclaim.ts";
import { List } from "./_base/linked_list.ts";
import { numberError } from "./_base/checks.ts";
import { timeoutOf } from "./_hub/timers.ts";
import { BLOCKERS, callOf, NO_BLOCKERS } from "./_hub/waits.ts";
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

/** What is shown of a lock: the greenlet that holds it. */
let showLock: (lock: Lock) => object;
/** The greenlet that holds a lock; `null` if it is free. */
let holderOf: (lock: Lock) => CoreGreenlet | null;

/** Makes a function that does something once. */
function once(call: () => void): () => void {
  let isDone = false;
  return () => {
    if (isDone) return;
    isDone = true;
    call();
  };
}

class Available extends LinkedWait<Semaphore, number> {
  override describe(subject = this.subject): string {
    return callOf(subject, "wait()");
  }

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
  readonly #line: List<Acquirer<this>> = new List(this);
  /** The greenlet that has taken the last permit. */
  #taker: CoreGreenlet | null = null;

  // The type should be `Links<this>`, which the waits can't name.
  // deno-lint-ignore no-explicit-any
  readonly #links: Links<any> = new Links(this);

  static {
    showAs(this, (semaphore) => ({
      counter: semaphore.#counter,
      waiting: semaphore.#line.length,
    }));
    holderOf = (lock) => #taker in lock ? lock.#taker : null;
    showLock = (lock) => ({
      holder: (lock as Semaphore).#taker,
      waiting: (lock as Semaphore).#line.length,
    });
  }

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
    const timeout = timeoutOf(options, "acquire");
    const { blocking = true } = options;
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#counter > 0) {
      if (--this.#counter === 0) this.#taker = scope.greenlet;
      return readyWait(this);
    }
    if (!blocking) return readyWait(null);
    const acquirer = new Acquirer<this>(scope.greenlet);
    this.#line.add(acquirer);
    return acquirer.limit(timeout).suspend(scope);
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
      this.#taker = acquirer.greenlet;
      acquirer.switch(this);
    } else {
      this.#counter++;
      this.#taker = null;
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
    const timeout = timeoutOf(options, "wait for semaphore");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#counter > 0) return readyWait(this.#counter);
    return new Available(this.#links).limit(timeout).suspend(scope);
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

  /**
   * Gets a permit back after the wait of a condition.
   *
   * @ignore
   */
  [RECLAIM](reclaimer: Reclaimer): void {
    if (this.#counter > 0) {
      if (--this.#counter === 0) this.#taker = reclaimer.greenlet;
      reclaimer.switch();
    } else {
      this.#line.add(reclaimer as Acquirer<unknown> as Acquirer<this>);
    }
  }

  /**
   * Returns the greenlet that a waiting call of `acquire` waits for.
   *
   * @ignore
   */
  [BLOCKERS](): readonly CoreGreenlet[] {
    // A semaphore of several permits may be released by any greenlet that has taken one.
    return this instanceof Lock && this.#taker !== null
      ? [this.#taker]
      : NO_BLOCKERS;
  }

  /**
   * Releases a permit, at the end of a `using` block. Each block releases once. A `Lock` and a
   * `BoundedSemaphore` release only what is still held: nothing, if the block has called
   * `release()` before its end.
   */
  get [Symbol.dispose](): () => void {
    return once(() => this.release());
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

  /** See {@linkcode Semaphore}. */
  override get [Symbol.dispose](): () => void {
    return once(() => {
      if (this.counter < this.#most) this.release();
    });
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
  /** The greenlet whose hold was disposed of last. */
  #disposer: CoreGreenlet | null = null;

  static {
    showAs(this, showLock);
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

  /**
   * Releases the lock at the end of a `using` block, in any greenlet. Does nothing if the
   * greenlet that held it when the block began does not hold it any more.
   */
  override get [Symbol.dispose](): () => void {
    const holder = holderOf(this);
    const me = getCurrent();
    let isDone = false;
    return () => {
      if (isDone) return;
      isDone = true;
      if (this.#forfeits?.take() || holder === null) return;
      if (holder !== holderOf(this)) return;
      // This greenlet has disposed of it before, and now another one holds it.
      if (holder !== me && this.#disposer === me) return;
      this.#disposer = holder;
      this.release();
    };
  }

  /**
   * Gives the lock away for the wait of a condition.
   *
   * @ignore
   */
  [GIVE_AWAY](_most: number): number {
    this.release();
    return 1;
  }

  /**
   * Ignores releases of a greenlet that does not have the lock back.
   *
   * @ignore
   */
  [FORFEIT](greenlet: CoreGreenlet, releases: number): void {
    (this.#forfeits ??= new Forfeits()).add(greenlet, releases);
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
   * @param options Checked, and otherwise ignored.
   * @returns The semaphore.
   */
  acquire(options: AcquireOptions = NO_OPTIONS): Wait<this> {
    timeoutOf(options, "acquire");
    return checkpoint(currentScope()) ?? readyWait(this);
  }

  /** Does nothing. */
  release(): void {}

  /**
   * Returns at once. A switch point, so that an interrupt that is due is thrown.
   *
   * @param options Checked, and otherwise ignored.
   * @returns 1
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<number> {
    timeoutOf(options, "wait");
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
  readonly #line = new OwnersLine(this);
  #forfeits: Forfeits | null = null;
  /** The greenlet whose hold was disposed of last. */
  #disposer: CoreGreenlet | null = null;

  static {
    showAs(this, (lock) => ({
      holder: lock.#owner,
      depth: lock.#depth,
      waiting: lock.#line.length,
    }));
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
    const timeout = timeoutOf(options, "acquire");
    const { blocking = true } = options;
    const scope = currentScope();
    const due = checkpoint(scope);
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
    return acquirer.limit(timeout).suspend(scope) as Wait<unknown> as Wait<
      this | null
    >;
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
    this.#releaseOnce();
  }

  #releaseOnce(): void {
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

  /**
   * Releases the lock once, at the end of a `using` block, in any greenlet. Does nothing if the
   * greenlet that held it when the block began does not hold it any more.
   */
  get [Symbol.dispose](): () => void {
    const owner = #owner in this ? this.#owner : null;
    const me = getCurrent();
    let isDone = false;
    return () => {
      if (isDone) return;
      isDone = true;
      if (this.#forfeits?.take() || owner === null) return;
      if (owner !== this.#owner) return;
      // This greenlet has disposed of it before, and now another one holds it.
      if (owner !== me && this.#disposer === me) return;
      this.#disposer = owner;
      if (this.owned) this.release();
      else this.#releaseOnce();
    };
  }

  /**
   * Returns the greenlet that a waiting call of `acquire` waits for.
   *
   * @ignore
   */
  [BLOCKERS](): readonly CoreGreenlet[] {
    return this.#owner === null ? NO_BLOCKERS : [this.#owner];
  }

  /**
   * Gives the lock away for the wait of a condition, `most` times at most.
   *
   * @ignore
   */
  [GIVE_AWAY](most: number): number {
    const depth = Math.min(most, this.#depth);
    this.#depth -= depth;
    if (this.#depth === 0) this.#handOver();
    return depth;
  }

  /**
   * Gets the lock back after the wait of a condition.
   *
   * @ignore
   */
  [RECLAIM](reclaimer: Reclaimer): void {
    if (this.#owner === null) {
      this.#owner = reclaimer.greenlet;
      this.#depth = reclaimer.depth;
      reclaimer.switch();
    } else {
      this.#line.add(reclaimer as Acquirer<unknown> as Acquirer<RLock>);
    }
  }

  /**
   * Ignores releases of a greenlet that does not have the lock back.
   *
   * @ignore
   */
  [FORFEIT](greenlet: CoreGreenlet, releases: number): void {
    (this.#forfeits ??= new Forfeits()).add(greenlet, releases);
  }
}

nameClasses({ Semaphore, BoundedSemaphore, Lock, DummySemaphore, RLock });
