/**
 * Flags and results that greenlets wait for.
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

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import { currentScope } from "./_hub/current.ts";
import { checkpoint, failedWait, readyWait } from "./_hub/suspension.ts";
import { type Link, LinkedWait, Links } from "./_hub/links.ts";
import { type Outcome, OutcomeWait } from "./_hub/outcome.ts";
import { instanceOf, isObject, isRevoked, show } from "./_base/checks.ts";
import { takeError } from "./_hub/reports.ts";
import { timeoutOf } from "./_hub/timers.ts";
import { callOf } from "./_hub/waits.ts";
import type { Wait } from "./hub.ts";
import { Timeout } from "./timeout.ts";
import { errorIn } from "./_hub/stacks.ts";
import type { GetOptions, JoinOptions, Waitable } from "./gevent.ts";

export type { Outcome };

class EventWait extends LinkedWait<Event, boolean> {
  override describe(subject = this.subject): string {
    return callOf(subject, "wait()");
  }

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
  // The type should be `Links<this>`, which the waits can't name.
  // deno-lint-ignore no-explicit-any
  readonly #links: Links<any> = new Links(this);

  static {
    showAs(this, (event) => ({
      isSet: event.#isSet,
      waiting: event.#links.length,
    }));
  }

  /** Whether the flag is set. gevent's `is_set`. */
  isSet(): boolean {
    return this.#isSet;
  }

  /** The same as {@linkcode Event.isSet}. gevent's `ready`. */
  ready(): boolean {
    return this.#isSet;
  }

  /**
   * Sets the flag and wakes all greenlets that wait, in the order in which they began to
   * wait. They are woken even if the flag is cleared at once. Not a switch point. gevent's
   * `set`.
   */
  set(): void {
    if (this.#isSet) return;
    this.#isSet = true;
    this.#links.schedule();
  }

  /** Clears the flag: from now on `wait` waits. Not a switch point. gevent's `clear`. */
  clear(): void {
    this.#isSet = false;
  }

  /**
   * Waits until the flag is set. A switch point. gevent's `wait`.
   *
   * @param options How long to wait.
   * @returns `true` if the flag was set, `false` at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<boolean> {
    const timeout = timeoutOf(options, "wait for event");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#isSet) return readyWait(true);
    return new EventWait(this.#links).limit(timeout).suspend(scope);
  }

  /**
   * Calls a function once when the flag is set, or soon if it is set now. The hub calls it,
   * so it must be quick and must not wait. Not a switch point. gevent's `rawlink`.
   *
   * @param link A function, called with this event; or an object with a method `linked`.
   */
  rawlink(link: Link<this>): void {
    this.#links.link(link);
    if (this.#isSet) this.#links.schedule();
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
    return this.#links.length;
  }
}

class ReadyWait<T> extends LinkedWait<AsyncResult<T>, T | undefined> {
  override describe(subject = this.subject): string {
    return callOf(subject, "wait()");
  }

  override linked(source: AsyncResult<T>): void {
    this.switch(source.value);
  }
}

/**
 * A value or an error that is set later, for any number of greenlets to wait for. gevent's
 * `AsyncResult`.
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
  // The type should be `Links<this>`, which the waits can't name.
  // deno-lint-ignore no-explicit-any
  readonly #links: Links<any> = new Links(this);

  static {
    showAs(this, (result) => ({
      state: result.#state,
      ...(result.#state === "pending" ? {} : {
        [result.#state === "failed" ? "exception" : "value"]: result.#outcome,
      }),
      waiting: result.#links.length,
    }));
  }

  /**
   * Sets the value and wakes all greenlets that wait. Not a switch point. gevent's `set`.
   *
   * @param value The value.
   */
  set(value: T): void {
    this.#settle("succeeded", value);
  }

  /**
   * Sets an error, which {@linkcode AsyncResult.get} throws, and wakes all greenlets that
   * wait. Not a switch point. gevent's `set_exception`.
   *
   * @param error The error, or a class of errors of which this makes one.
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
   * Copies the result of a greenlet, or of another source that this was linked to. Called by
   * the source. Not a switch point.
   *
   * @param source The source, which is ready.
   * @throws {TypeError} If it is not such a source.
   */
  linked(source: Outcome<T>): void {
    if (
      !isObject(source) || isRevoked(source) ||
      typeof source.successful !== "function"
    ) {
      throw new TypeError(
        `Cannot copy result as 'source' must have successful(), value and exception: received ${
          show(source)
        }`,
      );
    }
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

  /** The value; `undefined` if none is set. gevent's `value`. */
  get value(): T | undefined {
    return this.#state === "succeeded" ? this.#outcome as T : undefined;
  }

  /** The error; `undefined` if none is set. gevent's `exception`. */
  get exception(): unknown {
    return this.#state === "failed" ? this.#outcome : undefined;
  }

  /** Returns `false`: a result can't be cancelled. gevent's `cancel`. */
  cancel(): boolean {
    return false;
  }

  /** Returns `false`: a result can't be cancelled. gevent's `cancelled`. */
  cancelled(): boolean {
    return false;
  }

  /**
   * Waits until a value or an error is set, and returns the value. A switch point. gevent's
   * `get`.
   *
   * @param options Whether to wait, and how long.
   * @returns The value.
   * @throws {unknown} The error that was set.
   * @throws {Timeout} At the timeout; or if nothing is set and `block` is `false`.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  get(options: GetOptions = NO_OPTIONS): Wait<T> {
    const timeout = timeoutOf(options, "get result");
    const { block = true } = options;
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#state === "succeeded") return readyWait(this.#outcome as T);
    if (this.#state === "failed") {
      scope.markRecipient(this.#outcome);
      return failedWait(this.#outcome);
    }
    if (!block) {
      return failedWait(errorIn(AsyncResult.prototype.get, Timeout, 0));
    }
    return new OutcomeWait<T>(this.#links, scope, timeout).suspend(scope);
  }

  /**
   * Returns the value without waiting. Not a switch point. gevent's `get_nowait`.
   *
   * @returns The value.
   * @throws {unknown} The error that was set.
   * @throws {Timeout} If nothing is set.
   */
  getNowait(): T {
    if (this.#state === "pending") {
      throw errorIn(AsyncResult.prototype.getNowait, Timeout, 0);
    }
    if (this.#state === "failed") {
      currentScope().markRecipient(this.#outcome);
      throw this.#outcome;
    }
    return this.#outcome as T;
  }

  /**
   * Does the same as {@linkcode AsyncResult.get}, as in `concurrent.futures`. A switch point.
   *
   * @param options How long to wait.
   * @returns The value.
   */
  result(options: JoinOptions = NO_OPTIONS): Wait<T> {
    return this.get(options);
  }

  /**
   * Waits until a value or an error is set, and does not throw the error. A switch point.
   * gevent's `wait`.
   *
   * @param options How long to wait.
   * @returns The value; `undefined` if an error is set, or at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  wait(options: JoinOptions = NO_OPTIONS): Wait<T | undefined> {
    const timeout = timeoutOf(options, "wait for result");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.ready()) return readyWait(this.value);
    return new ReadyWait<T>(this.#links).limit(timeout).suspend(scope);
  }

  /**
   * Calls a function once when a value or an error is set, or soon if it is set now. The hub
   * calls it, so it must be quick and must not wait. Not a switch point. gevent's `rawlink`.
   *
   * @param link A function, called with this result; or an object with a method `linked`.
   */
  rawlink(link: Link<this>): void {
    this.#links.link(link);
    if (this.ready()) this.#links.schedule();
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
    return this.#links.length;
  }
}

nameClasses({ Event, AsyncResult });
