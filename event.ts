/**
 * Things that happen, and those who wait for them.
 *
 * ```ts
 * import { Event, spawn } from "@gevent/gevent";
 *
 * const ready = new Event();
 * const waiting = spawn(async () => {
 *   await ready.wait();
 *   return "on my way";
 * });
 * ready.set();
 * console.log(await waiting.get()); // on my way
 * ```
 *
 * @module
 */

import { NO_OPTIONS } from "./_base/language.ts";
import { currentScope } from "./_hub/current.ts";
import { checkpoint, failedWait, readyWait } from "./_hub/suspension.ts";
import { type Link, LinkedWait, Links } from "./_hub/links.ts";
import { type Outcome, OutcomeWait } from "./_hub/outcome.ts";
import { checkOptions, instanceOf } from "./_base/checks.ts";
import { takeError } from "./_hub/reports.ts";
import { checkDuration } from "./_hub/timers.ts";
import type { Wait } from "./hub.ts";
import { Timeout } from "./timeout.ts";
import type { GetOptions, JoinOptions, Waitable } from "./gevent.ts";

export type { Outcome };

class EventWait extends LinkedWait<Event, boolean> {
  override linked(): void {
    this.switch(true);
  }

  protected override timedOut(): void {
    this.switch(false);
  }
}

/**
 * A flag that greenlets wait for. gevent's `Event`.
 *
 * @example Usage
 * ```ts
 * import { Event, spawn } from "@gevent/gevent";
 *
 * const event = new Event();
 * spawn(() => event.set());
 * console.log(await event.wait()); // true
 * event.clear();
 * console.log(await event.wait({ timeout: 1 })); // false
 * ```
 */
export class Event implements Waitable {
  #isSet = false;
  // Of `this`, which the waits can't say.
  // deno-lint-ignore no-explicit-any
  readonly #links: Links<any> = new Links(this);

  /** Whether the flag is set. gevent's `is_set`. */
  isSet(): boolean {
    return this.#isSet;
  }

  /** The same as {@linkcode Event.isSet}. gevent's `ready`. */
  ready(): boolean {
    return this.#isSet;
  }

  /**
   * Sets the flag. All who wait are woken, in the order in which they came, even if it is
   * cleared at once. Not a switch point. gevent's `set`.
   */
  set(): void {
    if (this.#isSet) return;
    this.#isSet = true;
    this.#links.schedule();
  }

  /** Clears the flag: who comes from now on has to wait. gevent's `clear`. */
  clear(): void {
    this.#isSet = false;
  }

  /**
   * Waits until the flag is set. A switch point. gevent's `wait`.
   *
   * @param options How long to wait.
   * @returns `true`; at the timeout, `false`.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<boolean> {
    checkOptions(options, "wait for event");
    const { timeout = Infinity } = options;
    checkDuration(timeout, "wait for event");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    if (this.#isSet) return readyWait(true);
    return new EventWait(this.#links).limit(timeout).get();
  }

  /**
   * Has a function called once when the flag is set; soon, if it is. It is called from
   * the hub: it must be quick, and must not wait. gevent's `rawlink`.
   *
   * @param link Gets this event; or an object that is linkable.
   */
  rawlink(link: Link<this>): void {
    this.#links.link(link);
    if (this.#isSet) this.#links.schedule();
  }

  /**
   * Takes a link back that was not called yet. gevent's `unlink`.
   *
   * @param link What was linked.
   */
  unlink(link: Link<this>): void {
    this.#links.unlink(link);
  }

  /** How many wait, or have linked. gevent's `linkcount`. */
  linkCount(): number {
    return this.#links.length;
  }
}

class ReadyWait<T> extends LinkedWait<AsyncResult<T>, T | undefined> {
  override linked(source: AsyncResult<T>): void {
    this.switch(source.value);
  }
}

/**
 * A result that is not there yet: a value or an error, for any number of greenlets.
 * gevent's `AsyncResult`.
 *
 * @typeParam T The type of the value.
 *
 * @example Usage
 * ```ts
 * import { AsyncResult, spawn } from "@gevent/gevent";
 *
 * const result = new AsyncResult<number>();
 * spawn(() => 6 * 7).link(result);
 * console.log(await result.get()); // 42
 * ```
 */
export class AsyncResult<T = unknown> implements Waitable, Outcome<T> {
  #state: "pending" | "succeeded" | "failed" = "pending";
  #outcome: unknown = undefined;
  // Of `this`, which the waits can't say.
  // deno-lint-ignore no-explicit-any
  readonly #links: Links<any> = new Links(this);

  /**
   * Sets the value. All who wait are woken. Not a switch point. gevent's `set`.
   *
   * @param value The value.
   */
  set(value: T): void {
    this.#settle("succeeded", value);
  }

  /**
   * Sets an error, to be thrown by {@linkcode AsyncResult.get}. Not a switch point.
   * gevent's `set_exception`.
   *
   * @param error The error, or the class of error of which a new one is.
   */
  setException(error: unknown): void {
    this.#settle("failed", instanceOf(error));
  }

  #settle(state: "succeeded" | "failed", outcome: unknown): void {
    this.#state = state;
    this.#outcome = outcome;
    this.#links.schedule();
  }

  /**
   * Takes over the result of a greenlet, or of whatever this was linked to.
   *
   * @param source What has become ready.
   */
  linked(source: Outcome<T>): void {
    if (source.successful()) return this.set(source.value as T);
    takeError(source);
    this.#settle("failed", source.exception);
  }

  /** Whether there is a value or an error. gevent's `ready`. */
  ready(): boolean {
    return this.#state !== "pending";
  }

  /** The same as {@linkcode AsyncResult.ready}, as in `concurrent.futures`. */
  done(): boolean {
    return this.ready();
  }

  /** Whether there is a value. gevent's `successful`. */
  successful(): boolean {
    return this.#state === "succeeded";
  }

  /** The value, once there is one. */
  get value(): T | undefined {
    return this.#state === "succeeded" ? this.#outcome as T : undefined;
  }

  /** The error, once there is one. */
  get exception(): unknown {
    return this.#state === "failed" ? this.#outcome : undefined;
  }

  /** A result can't be cancelled: `false`, as in gevent. */
  cancel(): boolean {
    return false;
  }

  /** A result can't be cancelled: `false`, as in gevent. */
  cancelled(): boolean {
    return false;
  }

  /**
   * Waits for the value. A switch point. gevent's `get`.
   *
   * @param options Whether and how long to wait.
   * @returns The value.
   * @throws {unknown} The error that was set.
   * @throws {Timeout} At the timeout; or if it is not ready and `block` is false.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  get(options: GetOptions = NO_OPTIONS): Wait<T> {
    checkOptions(options, "get result");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "get result");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#state === "succeeded") return readyWait(this.#outcome as T);
    if (this.#state === "failed") {
      scope.markRecipient(this.#outcome);
      return failedWait(this.#outcome);
    }
    if (!block) return failedWait(new Timeout(0));
    return new OutcomeWait<T>(this.#links, scope, timeout).get();
  }

  /**
   * The value, if it is there. gevent's `get_nowait`. Not a switch point.
   *
   * @returns The value.
   * @throws {unknown} The error that was set.
   * @throws {Timeout} If there is nothing yet.
   */
  getNowait(): T {
    if (this.#state === "pending") throw new Timeout(0);
    if (this.#state === "failed") {
      currentScope().markRecipient(this.#outcome);
      throw this.#outcome;
    }
    return this.#outcome as T;
  }

  /** The same as {@linkcode AsyncResult.get}, as in `concurrent.futures`. */
  result(options: JoinOptions = NO_OPTIONS): Wait<T> {
    return this.get(options);
  }

  /**
   * Waits for the value or the error, and throws neither. A switch point. gevent's
   * `wait`.
   *
   * @param options How long to wait.
   * @returns The value; `undefined` after an error, or at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<T | undefined> {
    checkOptions(options, "wait for result");
    const { timeout = Infinity } = options;
    checkDuration(timeout, "wait for result");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    if (this.ready()) return readyWait(this.value);
    return new ReadyWait<T>(this.#links).limit(timeout).get();
  }

  /**
   * Has a function called once when the result is there; soon, if it is. It is called
   * from the hub: it must be quick, and must not wait. gevent's `rawlink`.
   *
   * @param link Gets this result; or an object that is linkable.
   */
  rawlink(link: Link<this>): void {
    this.#links.link(link);
    if (this.ready()) this.#links.schedule();
  }

  /**
   * Takes a link back that was not called yet. gevent's `unlink`.
   *
   * @param link What was linked.
   */
  unlink(link: Link<this>): void {
    this.#links.unlink(link);
  }

  /** How many wait, or have linked. gevent's `linkcount`. */
  linkCount(): number {
    return this.#links.length;
  }
}
