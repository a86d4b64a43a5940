/**
 * Timeouts, and calls under a time limit.
 *
 * @module
 */

import { markHandled, NO_OPTIONS } from "../_base/language.ts";
import { Greenlet } from "../greenlet.ts";
import { current, currentScope, runIn, setScope } from "./current.ts";
import { unwrapped } from "./interrupts.ts";
import { main } from "./main.ts";
import { Scope, ScopeOwned } from "./scope.ts";
import { checkpoint, type Settled, Suspension } from "./suspension.ts";
import type { Wait } from "./suspension.ts";
import { checkFunction, checkOptions, instanceOf } from "../_base/checks.ts";
import {
  checkDuration,
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./timers.ts";
import { react, type Reaction, type Reactions } from "./reactions.ts";
import { deferToNextTurn, turn } from "./run_queue.ts";
import { type BodyResult, isThenable } from "../_base/thenable.ts";

/** Options of a {@linkcode Timeout}. */
export interface TimeoutOptions {
  /**
   * What is thrown in the timeout's place, or the class of error of which a new one is.
   *
   * @default {this}
   */
  error?: unknown;
}

/**
 * An error that is thrown into the greenlet that has started it, after a time. gevent's
 * `Timeout`.
 *
 * It is thrown once: by what the greenlet waits on then, or else by its next wait. One
 * that was closed is never thrown. Nested timeouts are told apart by identity.
 *
 * Outside greenlets all code shares the main greenlet, so that a timeout there is thrown
 * into whatever main waits on: in code that runs many times at once, use
 * {@linkcode withTimeout}, or spawn a greenlet. One that is started there in a function of
 * `withTimeout` ends with the function.
 *
 * @example Usage
 * ```ts
 * import { sleep, Timeout } from "@gevent/gevent";
 *
 * using timeout = Timeout.start(5);
 * try {
 *   await sleep(1000);
 * } catch (error) {
 *   if (error !== timeout) throw error;
 *   console.log("too slow");
 * }
 * ```
 */
export class Timeout extends Error {
  static {
    this.prototype.name = "Timeout";
  }

  /** After how many milliseconds it is thrown; `Infinity` for never. */
  readonly ms: number;
  readonly #error: unknown;
  #countdown: Countdown | null = null;

  /**
   * Makes a timeout that is not started.
   *
   * @param ms After how many milliseconds it is to be thrown; never, if left out.
   * @param options What to throw.
   * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds.
   */
  constructor(ms?: number | null, options: TimeoutOptions = NO_OPTIONS) {
    const after = ms ?? Infinity;
    checkOptions(options, "create timeout");
    checkDuration(after, "create timeout");
    super(after === Infinity ? "Timed out" : `Timed out after ${after} ms`);
    this.ms = after;
    this.#error = "error" in options ? options.error : this;
  }

  /**
   * Makes a timeout and starts it. gevent's `Timeout.start_new`.
   *
   * @param ms After how many milliseconds it is thrown; never, if left out.
   * @param options What to throw.
   * @returns The timeout: `using` closes it at the end of the block.
   * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds.
   *
   * @example Usage
   * ```ts
   * import { sleep, Timeout } from "@gevent/gevent";
   *
   * {
   *   using _timeout = Timeout.start(1000, { error: new Error("Too slow") });
   *   await sleep(1);
   * }
   * await sleep(1); // Nothing is thrown any more
   * ```
   */
  static start(ms?: number | null, options?: TimeoutOptions): Timeout {
    const timeout = new Timeout(ms, options);
    timeout.start();
    return timeout;
  }

  /**
   * Starts the time for the current greenlet; anew, if it was started. gevent's
   * `Timeout.start`. Not a switch point.
   */
  start(): void {
    this.close();
    if (this.ms === Infinity) return;
    this.#countdown = new Countdown(currentScope(), this.#error, this.ms);
  }

  /** Whether the time runs. gevent's `Timeout.pending`. */
  get pending(): boolean {
    return this.#countdown?.runs ?? false;
  }

  /**
   * Stops the time. What has not been thrown yet never is, even if the time is over.
   * gevent's `Timeout.close`.
   */
  close(): void {
    this.#countdown?.stop();
    this.#countdown = null;
  }

  /** The same as {@linkcode Timeout.close}. gevent's `Timeout.cancel`. */
  cancel(): void {
    this.close();
  }

  /** Closes the timeout, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * The time of a timeout that was started. It ends with its greenlet, which nothing can be
 * thrown into any more: it would only hold up the process.
 */
class Countdown extends ScopeOwned implements TimerTarget {
  #scope: Scope;
  #error: unknown;
  #timer: Timer | null;

  constructor(scope: Scope, error: unknown, ms: number) {
    super();
    this.#scope = scope;
    this.#error = error;
    this.#timer = startTimer(ms, this);
    scope.owned.add(this);
  }

  get runs(): boolean {
    return this.#timer !== null;
  }

  expired(): void {
    this.#timer = null;
    this.list?.remove(this);
    const error = this.#error = instanceOf(this.#error);
    if (error instanceof Timeout) this.#scope.timeOut(error);
    else this.#scope.interrupt(error);
  }

  /** What has not been thrown yet never is. */
  stop(): void {
    this.list?.remove(this);
    this.drop();
    this.#scope.unhold(this.#error);
  }

  override moveTo(scope: Scope): void {
    this.#scope = scope;
    scope.owned.add(this);
  }

  override drop(): void {
    stopTimer(this.#timer);
    this.#timer = null;
  }
}

/** Options of {@linkcode withTimeout}. */
export interface WithTimeoutOptions<V> {
  /** What is returned at the timeout, where else it is thrown. */
  value?: V;
}

/**
 * Calls a function and waits for its result, for so long. A switch point. gevent's
 * `with_timeout`.
 *
 * At the limit a {@linkcode Timeout} is thrown into what the function waits on, and its
 * result is taken if it ends at once. Else the call returns or throws all the same, as it
 * always does in time, even when the function waits for a foreign promise or swallows the
 * error. What is left of it gets the `Timeout` from every wait that it begins, and after
 * ten of them is left suspended for good.
 *
 * The function runs in the current greenlet: whatever interrupts that interrupts it. What
 * it makes of the `Timeout`, such as the `AggregateError` of `Promise.any` or an error with
 * it as its `cause`, is taken for the `Timeout`.
 *
 * A call that nothing awaits and that throws its `Timeout` is an unhandled rejection, as any
 * that fails. What the function has begun, and has not come to await, is not.
 *
 * @typeParam R What the function returns.
 * @typeParam V The type of `value`.
 * @param ms After how many milliseconds; `Infinity` for no limit.
 * @param run The function: async, generator or plain.
 * @param options What to return at the timeout.
 * @returns The function's result, or `value`.
 * @throws {Timeout} At the limit, if no `value` is given.
 * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds or `run` not a
 * function.
 *
 * @example Usage
 * ```ts
 * import { sleep, withTimeout } from "@gevent/gevent";
 *
 * async function slow() {
 *   try {
 *     await sleep(1000);
 *     return "slow";
 *   } finally {
 *     console.log("cleaned up");
 *   }
 * }
 * console.log(await withTimeout(5, slow, { value: "late" })); // cleaned up, late
 * ```
 */
export function withTimeout<R, V = never>(
  ms: number,
  run: () => R,
  options: WithTimeoutOptions<V> = NO_OPTIONS,
): Wait<BodyResult<R> | V> {
  checkDuration(ms, "call with a timeout");
  checkOptions(options, "call with a timeout");
  checkFunction(run, "call with a timeout", "run");
  const scope = currentScope();
  const wait = checkpoint(scope) ?? new Limited(scope, ms, options).start(run);
  return wait as Wait<BodyResult<R> | V>;
}

/** The wait for a function that runs in a scope of its own, in the same greenlet. */
class Limited extends Suspension<unknown> implements Reaction {
  reactions: Reactions | null = null;
  readonly #outer: Scope;
  readonly #inner: Scope;
  readonly #ms: number;
  readonly #options: WithTimeoutOptions<unknown>;
  #timeout: Timeout | null = null;
  /** What interrupted the greenlet while it waited for nothing but the function. */
  #passed: unknown[] | null = null;
  /** How it ends by the error after which its greenlet may wait no longer. */
  #lastThrow: Settled = "thrown";

  constructor(outer: Scope, ms: number, options: WithTimeoutOptions<unknown>) {
    super();
    this.#outer = outer;
    this.#inner = new Scope(outer.greenlet);
    this.#ms = ms;
    this.#options = options;
  }

  start(run: () => unknown): Wait<unknown> {
    this.limit(this.#ms);
    const wait = this.suspend(this.#outer);
    try {
      this.#follow(runIn(this.#inner, run));
    } catch (error) {
      this.#end(error, true);
    }
    return wait;
  }

  #follow(result: unknown): void {
    if (isThenable(result)) react(result, this);
    else this.#drive(result);
  }

  fulfilled(value: unknown): void {
    this.#end(value, false);
  }

  rejected(error: unknown): void {
    this.#end(error, true);
  }

  /** Ends with a plain result; or first runs the generator that it is. */
  async #drive(result: unknown): Promise<void> {
    const body = new LimitedBody(
      () => result,
      (outcome, failed) =>
        this.#end(outcome, failed || this.#inner.isEscalation(outcome)),
    );
    setScope(body, this.#inner);
    // Only from the event loop can control be given away to come back there.
    await turn();
    current.run(this.#inner, () => body.switch());
  }

  #end(outcome: unknown, failed: boolean): void {
    if (failed) outcome = unwrapped(outcome, this.#inner);
    this.#handBack();
    this.#inner.close(this.state === "waiting" ? this.#outer : null);
    if (failed && outcome === this.#timeout) this.#giveUp(outcome);
    else if (failed) this.#fail(outcome);
    else this.settle("given", outcome);
  }

  #fail(error: unknown): void {
    const isLast = this.#outer.isEscalation(error);
    this.#outer.receiveInterrupts(error);
    this.settle(isLast ? this.#lastThrow : "thrown", error);
  }

  protected override get caller(): Scope {
    return this.#outer;
  }

  /** At the limit. */
  override expired(): "steps" {
    const timeout = this.#timeout = new Timeout(this.#ms);
    this.#inner.timeOut(timeout);
    this.#leaveSoon(timeout);
    return "steps";
  }

  /** The function gets what its greenlet gets, and we wait for its clean-up. */
  override interrupt(error: unknown, final: boolean): void {
    if (this.#outer.isPlain) {
      (this.#passed ??= []).push(error);
    }
    if (final) {
      this.#lastThrow = this.#outer.lastThrow;
      this.#inner.escalate(error, this.#lastThrow === "thrown");
    } else this.#inner.interrupt(error);
    // Where nobody awaits us, an interrupt is no unhandled rejection.
    markHandled(this.promise!);
    const isStuck = final || this.#inner.holds(error);
    if (isStuck) this.#leaveSoon(error);
  }

  override unhold(error: unknown): void {
    this.#inner.unhold(error);
  }

  /**
   * Waits no longer for a function that doesn't end within a turn of the event loop.
   */
  #leaveSoon(error: unknown): void {
    // The second turn is for the function: a wait of it that is over may be set aside
    // until the first, and its result is not to be lost.
    deferToNextTurn({
      wake: () => deferToNextTurn({ wake: () => this.#leave(error) }),
    });
  }

  #leave(error: unknown): void {
    if (this.state !== "waiting" || this.#inner.shielded) return;
    if (error !== this.#timeout && !this.#isHeld(error)) return;
    this.#inner.unhold(error);
    this.#handBack();
    this.#inner.escalate(error);
    // It may be somebody's promise, which lasts, and then nothing of ours ends with it.
    const { reactions } = this;
    if (!this.#inner.hasRests && reactions !== null) {
      reactions.remove(this);
      reactions.add(new LateEnd(this.#inner));
    }
    if (error === this.#timeout) this.#giveUp(error);
    else this.#fail(error);
  }

  /** What the function has not thrown, its greenlet throws later. */
  #handBack(): void {
    for (const error of this.#passed ?? []) {
      if (this.#inner.holds(error)) this.#outer.hold(error);
    }
  }

  #isHeld(error: unknown): boolean {
    return this.#inner.interrupts?.insists || this.#inner.holds(error);
  }

  #giveUp(timeout: unknown): void {
    if ("value" in this.#options) {
      this.settle("given", this.#options.value);
    } else {
      this.#fail(timeout);
    }
  }
}

/**
 * Closes the scope of a function that ends after `withTimeout` has let go of it. What goes on
 * there then waits as anywhere: a queue that greenlets share may start all its tasks from
 * there. When nothing can go on there, the scope is collected, and this is removed.
 */
class LateEnd implements Reaction {
  static readonly #collected = new FinalizationRegistry<LateEnd>((end) =>
    end.reactions?.remove(end)
  );

  reactions: Reactions | null = null;
  readonly #scope: WeakRef<Scope>;

  constructor(scope: Scope) {
    this.#scope = new WeakRef(scope);
    LateEnd.#collected.register(scope, this);
  }

  fulfilled(): void {
    this.#scope.deref()?.close();
  }

  rejected(): void {
    this.#scope.deref()?.close();
  }
}

/** The generator body of a limited function. */
class LimitedBody extends Greenlet {
  readonly #end: (outcome: unknown, failed: boolean) => void;

  constructor(
    run: () => unknown,
    end: (outcome: unknown, failed: boolean) => void,
  ) {
    super(run, main);
    this.#end = end;
  }

  protected override ended(outcome: unknown, failed: boolean): undefined {
    this.#end(outcome, failed);
  }
}
