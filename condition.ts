/**
 * Conditions: to wait until something has changed that a lock protects.
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

import { markHandled, NO_OPTIONS } from "./_base/language.ts";
import { checkCallback, checkOptions, numberError } from "./_base/checks.ts";
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
import { checkDuration } from "./_hub/timers.ts";
import { QueuedWait } from "./_hub/wait_queue.ts";
import { getCurrent, type Wait } from "./hub.ts";
import type { JoinOptions } from "./gevent.ts";
import { type AcquireOptions, Lock, RLock } from "./lock.ts";

/** The wait for a condition: first to be notified, then to hold the lock again. */
class Notified extends QueuedWait<Notified, boolean> {
  readonly #line: List<Notified>;
  readonly #lock: ReclaimableLock;
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
      // All of it at first, and of what the greenlet acquires meanwhile nothing.
      this.#depth = this.#lock[GIVE_AWAY](this.#depth);
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
