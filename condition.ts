/**
 * Conditions: wait until data that a lock protects has changed.
 *
 * ```ts
 * import { Condition, spawn } from "@gevent/gevent";
 *
 * const condition = new Condition();
 * let open = false;
 * const waiting = spawn(async () => {
 *   using _ = await condition.acquire();
 *   await condition.waitFor(() => open);
 *   return "in";
 * });
 * {
 *   using _ = await condition.acquire();
 *   open = true;
 *   condition.notifyAll();
 * }
 * console.log(await waiting.get()); // in
 * ```
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import {
  checkCallback,
  isInstance,
  numberError,
  show,
} from "./_base/checks.ts";
import { List } from "./_base/linked_list.ts";
import { currentScope, runIn } from "./_hub/current.ts";
import {
  FORFEIT,
  GIVE_AWAY,
  RECLAIM,
  type ReclaimableLock,
  Reclaimer,
} from "./_hub/reclaim.ts";
import type { Scope } from "./_hub/scope.ts";
import { checkpoint, readyWait, type Settled } from "./_hub/suspension.ts";
import { timeoutOf } from "./_hub/timers.ts";
import { callOf, NO_BLOCKERS } from "./_hub/waits.ts";
import { QueuedWait } from "./_hub/wait_queue.ts";
import type { Greenlet as CoreGreenlet } from "./greenlet.ts";
import { getCurrent, type Wait } from "./hub.ts";
import type { JoinOptions } from "./gevent.ts";
import { type AcquireOptions, Lock, RLock } from "./lock.ts";

/** The wait for a condition. It waits for a notification, and then for the lock. */
class Notified extends QueuedWait<Notified, boolean> {
  readonly #line: List<Notified>;
  readonly #lock: ReclaimableLock;
  readonly #scope: Scope;
  readonly #predicate: (() => unknown) | null;
  /** How many times the greenlet has to release the lock when it holds it again. */
  #depth = Infinity;
  /** Whether the timeout has passed. */
  #late = false;
  /** The outcome of the wait, once it has the lock; `null` while it waits for a notification. */
  #outcome: { state: Settled; value: unknown } | null = null;
  /** The wait for the lock; `null` while it waits for a notification. */
  #reclaimer: Reclaimer | null = null;

  constructor(
    line: List<Notified>,
    lock: ReclaimableLock,
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
      // Releases all of an RLock at first, and later no more than that: the greenlet may acquire
      // the lock in another function meanwhile.
      this.#depth = this.#lock[GIVE_AWAY](this.#depth);
    } catch (error) {
      this.list?.remove(this);
      throw error;
    }
  }

  /** Ends the wait for a notification, and waits for the lock. */
  notify(): void {
    this.undo(undefined);
    this.#reclaim("given", true);
  }

  override describe(): string {
    return this.#reclaimer === null
      ? callOf(this.#line.owner, "wait()")
      : `${callOf(this.#line.owner, "wait()")}: ${this.#reclaimer.describe()}`;
  }

  override get blockers(): readonly CoreGreenlet[] {
    return this.#reclaimer?.blockers ?? NO_BLOCKERS;
  }

  protected override timedOut(): void {
    this.#late = true;
    this.#reclaim("given", false);
  }

  /** Gets the lock back before it throws, as the body will release it. */
  override interrupt(error: unknown, final: boolean): void {
    this.undo(error);
    this.markOwnHandled();
    const how = final ? this.#scope.lastThrow : "thrown";
    const before = this.#outcome?.state ?? "given";
    if (!final && before !== "given") {
      // This wait already throws an interrupt. The next wait throws the second one.
      if (!this.#scope.holds(error)) this.#scope.hold(error);
      return;
    }
    if (this.#reclaimer === null) {
      this.#reclaim(how, error);
    } else {
      const { state, value } = this.#outcome!;
      this.#outcome = { state: how, value: error };
      // An interrupted wait uses up no notification: the next waiter gets it.
      if (state === "given" && value === true) this.#line.first?.notify();
    }
    const line = this.#reclaimer?.list ?? null;
    if (final && line !== null) {
      // The greenlet may not wait for the lock any longer. Its releases must do nothing now.
      line.remove(this.#reclaimer!);
      this.#lock[FORFEIT](this.#scope.greenlet, this.#depth);
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
    this.#lock[RECLAIM](reclaimer);
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

  /** Settles the wait with an error of the predicate. */
  #failed(error: unknown): void {
    const { state, value } = this.#outcome!;
    if (state !== "given") {
      // An escalated interrupt ends the body itself, so no later wait could throw it.
      if (this.#scope.isEscalated) return this.settle(state, value);
      if (!this.#scope.holds(value)) this.#scope.hold(value);
    }
    this.settle("thrown", error);
  }
}

/**
 * A lock, with calls that wait until the data that it protects has changed. Python's
 * `threading.Condition`, as gevent patches it.
 *
 * A waiting call releases the lock, and holds it again when it returns or throws, even after
 * an interrupt.
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
  readonly #line: List<Notified> = new List(this);

  static {
    showAs(this, (condition) => ({
      lock: condition.#lock,
      waiting: condition.#line.length,
    }));
  }

  /**
   * Makes a condition.
   *
   * @param lock The lock; by default a new {@linkcode RLock}.
   * @throws {TypeError} If it is neither a `Lock` nor an `RLock`.
   */
  constructor(lock: Lock | RLock = new RLock()) {
    if (!isInstance(lock, RLock) && !isInstance(lock, Lock)) {
      throw new TypeError(
        `Cannot create condition as 'lock' must be a Lock or an RLock: received ${
          show(lock)
        }`,
      );
    }
    this.#lock = lock;
  }

  /**
   * Waits until the lock is free, and acquires it. A switch point. Python's `acquire`, which
   * returns a boolean.
   *
   * @param options Whether to wait, and how long.
   * @returns The lock, which a `using` block releases at its end; `null` if it was not free
   * in time.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  acquire(options: AcquireOptions = NO_OPTIONS): Wait<Disposable | null> {
    return this.#lock.acquire(options);
  }

  /**
   * Releases the lock. Not a switch point. Python's `release`.
   *
   * @throws {RangeError} If the lock is not held.
   */
  release(): void {
    this.#lock.release();
  }

  /**
   * Releases the lock, waits until it is notified, and acquires the lock again. A switch point.
   * Python's `wait`.
   *
   * It acquires the lock again even after an interrupt or the timeout. There is one exception:
   * when a `withTimeout` or the grace of a kill is over, the greenlet may not wait any longer,
   * and goes on without the lock. Its call of `release` then does nothing.
   *
   * @param options How long to wait for a notification.
   * @returns `true` if it was notified, `false` at the timeout.
   * @throws {RangeError} If the lock is not held.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<boolean> {
    return this.#wait(null, options);
  }

  /**
   * Waits until a predicate is true. It is called now and after each notification, while the
   * lock is held. A switch point, unless it is true now. Python's `wait_for`.
   *
   * An interrupt leaves the lock as {@linkcode Condition.wait} does.
   *
   * @param predicate Returns a value that counts as true or false. It must not wait.
   * @param options How long to wait.
   * @returns The last result of the predicate, as a boolean: `false` only at the timeout.
   * @throws {unknown} The error that the predicate throws.
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
    const timeout = timeoutOf(options, "wait for condition");
    this.#checkHeld("wait");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (predicate !== null) {
      if (predicate()) return readyWait(true);
      // The predicate may have interrupted its own greenlet.
      const due = checkpoint(scope);
      if (due !== null) return due;
    }
    return new Notified(this.#line, this.#lock, scope, predicate)
      .limit(timeout).suspend(scope);
  }

  /**
   * Wakes the oldest waiters, which go on when the lock is free. Not a switch point. Python's
   * `notify`. If a waiter is interrupted before it has the lock, the next waiter is woken
   * instead.
   *
   * @param count How many waiters to wake; `Infinity` for all.
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

  /**
   * Wakes all waiters; see {@linkcode Condition.notify}. Not a switch point. Python's
   * `notify_all`.
   *
   * @throws {RangeError} If the lock is not held.
   */
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

  /** Releases the lock, at the end of a `using` block, as the lock itself does. */
  get [Symbol.dispose](): () => void {
    return this.#lock[Symbol.dispose];
  }
}

nameClasses({ Condition });
