/**
 * Timeouts, and calls under a time limit.
 *
 * @module
 */

import { nameClasses, showAs } from "../_base/inspecting.ts";
import { NO_OPTIONS } from "../_base/language.ts";
import { isSettled } from "../_base/runtime.ts";
import { Greenlet } from "../greenlet.ts";
import { current, currentScope, runIn, setScope } from "./current.ts";
import { unwrapped } from "./interrupts.ts";
import { main } from "./main.ts";
import { type Race, Scope, ScopeOwned } from "./scope.ts";
import { beneath, checkpoint, type Settled, Suspension } from "./suspension.ts";
import type { Wait } from "./suspension.ts";
import {
  ADVICE_ERROR,
  checkFunction,
  checkOptions,
  instanceOf,
  isInstance,
} from "../_base/checks.ts";
import {
  checkDuration,
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./timers.ts";
import { placeLater } from "./stacks.ts";
import { react, type Reaction, type Reactions } from "./reactions.ts";
import { reportSuppressed } from "./reports.ts";
import { deferToNextTurn, turn } from "./run_queue.ts";
import { type BodyResult, isThenable } from "../_base/thenable.ts";
import { blockersOf, describeInner } from "./waits.ts";

/** Options of a {@linkcode Timeout}. */
export interface TimeoutOptions {
  /**
   * The error that is thrown in place of the timeout, or its class.
   *
   * @default {this}
   */
  error?: unknown;
}

/**
 * An error that is thrown into the greenlet that has started it, after a time. gevent's
 * `Timeout`.
 *
 * It is thrown once: by the greenlet's current wait, or else by its next wait. A timeout that
 * was closed is never thrown. Tell nested timeouts apart by identity: `error === timeout`.
 *
 * Outside greenlets all code shares the main greenlet, and a timeout that is started there ends
 * all waits of main. In code that runs many times at once, use {@linkcode withTimeout}, or
 * spawn a greenlet. A timeout that is started in a function of `withTimeout` ends with the
 * function.
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
    // A running timeout is shown with its limit. One that was thrown is shown like any error.
    showAs(
      this,
      (timeout) =>
        timeout.pending ? { ms: timeout.ms, pending: true } : timeout,
    );
    this.prototype.name = "Timeout";
  }

  /** The time limit in milliseconds; `Infinity` for none. */
  readonly ms: number;
  readonly #error: unknown;
  #countdown: Countdown | null = null;

  /**
   * Makes a timeout that is not started.
   *
   * @param ms The time from its start to the throw, in milliseconds; never, if left out.
   * @param options The error to throw in its place.
   * @throws {TypeError | RangeError} If `ms` is not a number of milliseconds.
   */
  constructor(ms?: number | null, options: TimeoutOptions = NO_OPTIONS) {
    const after = ms ?? Infinity;
    checkOptions(options, "create timeout", ADVICE_ERROR);
    checkDuration(after, "create timeout");
    super(after === Infinity ? "Timed out" : `Timed out after ${after} ms`);
    this.ms = after;
    this.#error = options.error === undefined ? this : options.error;
  }

  /**
   * Makes a timeout and starts it. gevent's `Timeout.start_new`.
   *
   * @param ms The time until it is thrown, in milliseconds; never, if left out.
   * @param options The error to throw in its place.
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
   * await sleep(1); // The timeout is closed, and not thrown
   * ```
   */
  static start(ms?: number | null, options?: TimeoutOptions): Timeout {
    const timeout = new Timeout(ms, options);
    timeout.start();
    return timeout;
  }

  /**
   * Starts the timeout for the current greenlet; restarts it if it was started before. gevent's
   * `Timeout.start`. Not a switch point.
   */
  start(): void {
    this.close();
    if (this.ms === Infinity) return;
    this.#countdown = new Countdown(currentScope(), this.#error, this.ms);
  }

  /** Whether the timeout runs. gevent's `Timeout.pending`. */
  get pending(): boolean {
    return this.#countdown?.runs ?? false;
  }

  /**
   * Stops the timeout. If it was not thrown yet, it never is, even if its time has passed.
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
 * The timer of a started timeout. It ends with its greenlet: nothing can be thrown into a dead
 * greenlet, and the timer would only keep the process alive.
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
    const error = this.#error = madeBy(this.#error);
    if (isInstance(error, Timeout)) this.#scope.timeOut(placeLater(error));
    else this.#scope.interrupt(error);
  }

  /** Stops the timer, and removes an error that was not thrown yet. */
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

/** Makes the error to throw: what its constructor throws, if it does. */
function madeBy(error: unknown): unknown {
  try {
    return instanceOf(error);
  } catch (thrown) {
    return thrown;
  }
}

/** Options of {@linkcode withTimeout}. */
export interface WithTimeoutOptions<V> {
  /** The value to return at the timeout. Without it, the timeout is thrown. */
  value?: V;
}

/**
 * Calls a function and waits for its result, for a limited time. A switch point. gevent's
 * `with_timeout`.
 *
 * At the limit, the function's current wait throws a {@linkcode Timeout}. If the function then
 * ends at once, the call returns its result. Otherwise the call returns or throws without it:
 * it always ends in time, even if the function waits for a foreign promise or swallows the
 * error. In the rest of the function every wait throws the `Timeout`, and after ten of them it
 * is left suspended for good.
 *
 * The function runs in the current greenlet, and an interrupt of the greenlet interrupts it. An
 * error of the function that wraps the `Timeout`, such as the `AggregateError` of `Promise.any`
 * or an error with it as its `cause`, counts as the `Timeout`.
 *
 * If nothing awaits a call that throws its `Timeout`, that is an unhandled rejection, as with
 * any call that fails. An interrupted wait that the function has begun and does not await is
 * not.
 *
 * @typeParam R What the function returns.
 * @typeParam V The type of `value`.
 * @param ms The time limit in milliseconds; `Infinity` for none.
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
  checkOptions(
    options,
    "call with a timeout",
    "() => run(...args) to pass arguments",
  );
  checkFunction(run, "call with a timeout", "run");
  const scope = currentScope();
  const wait = checkpoint(scope) ?? new Limited(scope, ms, options).start(run);
  return wait as Wait<BodyResult<R> | V>;
}

/** The wait for a function that runs in a scope of its own, in the same greenlet. */
class Limited extends Suspension<unknown> implements Reaction, Race {
  reactions: Reactions | null = null;
  readonly #outer: Scope;
  readonly #inner: Scope;
  readonly #ms: number;
  readonly #options: WithTimeoutOptions<unknown>;
  #timeout: Timeout | null = null;
  /** The suspension beneath the wait that the function has returned, if it is the library's. */
  #returned: ReturnType<typeof beneath> = null;
  /** Errors that have interrupted the greenlet while it waited only for the function. */
  #passed: unknown[] | null = null;
  /** Whether the last error of an escalated greenlet is thrown, or ends its body by `return()`. */
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
    if (!isThenable(result)) return void this.#drive(result);
    react(result, this);
    this.#returned = beneath(result);
  }

  /** If the wait that the function has returned takes a value, this wait has taken it. */
  override enterRace(): void {
    super.enterRace();
    const one = this.#returned;
    if (one instanceof Suspension && one.isPending) {
      if (one.scope !== this.#inner) return;
      this.#inner.race = this;
      one.enterRace();
    } else if (one !== null) this.claim();
  }

  ended(): void {
    this.claim();
  }

  claimed(): void {
    this.claim();
  }

  fulfilled(value: unknown): void {
    this.#end(value, false);
  }

  rejected(error: unknown): void {
    this.#end(error, true);
  }

  /** Ends with a plain result. If that is a generator, runs it first. */
  async #drive(result: unknown): Promise<void> {
    const body = new LimitedBody(
      () => result,
      (outcome, failed) =>
        this.#end(outcome, failed || this.#inner.isEscalation(outcome)),
    );
    setScope(body, this.#inner);
    // Runs from the event loop, as the generator returns control to the place that switched to
    // it.
    await turn();
    current.run(this.#inner, () => body.switch());
  }

  #end(outcome: unknown, failed: boolean): void {
    if (failed) {
      const own = unwrapped(outcome, this.#inner);
      if (own !== outcome) reportSuppressed(this.#inner.greenlet, outcome);
      outcome = own;
    }
    this.#handBack();
    this.#inner.close(this.isPending ? this.#outer : null);
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

  override describe(): string {
    const inner = describeInner(this.#inner);
    return this.#ms < Infinity
      ? `${inner}, within withTimeout(${this.#ms})`
      : inner;
  }

  override get blockers(): readonly Greenlet[] {
    return blockersOf(this.#inner);
  }

  /** Throws the timeout into the function, and leaves it soon. */
  override expired(): "steps" {
    const timeout = this.#timeout = placeLater(new Timeout(this.#ms));
    this.#inner.timeOut(timeout);
    this.#leaveSoon(timeout);
    return "steps";
  }

  /** Passes an interrupt of the greenlet on to the function, and waits for its clean-up. */
  override interrupt(error: unknown, final: boolean): void {
    if (this.#outer.isPlain) {
      (this.#passed ??= []).push(error);
    }
    if (final) {
      this.#lastThrow = this.#outer.lastThrow;
      this.#inner.escalate(error, this.#lastThrow === "thrown");
    } else this.#inner.interrupt(error);
    // If nothing awaits the call, an interrupt must not count as an unhandled rejection.
    this.markInterrupted(error, final);
    // The function may turn out not to await what it throws from.
    const isStuck = final || this.#inner.holds(error) ||
      this.#inner.isCounting(error);
    if (isStuck) this.#leaveSoon(error);
  }

  override unhold(error: unknown): void {
    this.#inner.unhold(error);
  }

  /**
   * Leaves a function that does not end within a turn of the event loop.
   */
  #leaveSoon(error: unknown): void {
    // Waits a second turn: a finished wait of the function may be deferred to the first, and
    // its result must not be lost.
    deferToNextTurn({
      wake: () => deferToNextTurn({ wake: () => this.#leave(error) }),
    });
  }

  #leave(error: unknown): void {
    if (!this.isPending || this.#inner.shielded) return;
    if (error !== this.#timeout && !this.#isHeld(error)) return;
    this.#inner.unhold(error);
    this.#handBack();
    this.#inner.escalate(error);
    // The promise may be foreign and never settle. It must not keep this wait in memory.
    const { reactions } = this;
    if (reactions !== null) {
      const { promise } = reactions;
      this.#inner.hasEnded = () => isSettled(promise);
    }
    if (!this.#inner.ownsSomething && reactions !== null) {
      reactions.remove(this);
      reactions.add(new LateEnd(this.#inner));
    }
    if (error === this.#timeout) this.#giveUp(error);
    else this.#fail(error);
  }

  /** Holds the errors that were not thrown into the function for the next waits of the greenlet. */
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
 * Closes the scope of a function that ends after `withTimeout` has left it. Code that still
 * runs there is no longer interrupted: a queue of a package that greenlets share may start all
 * its tasks from there. When nothing can run there, the scope is collected, and this is
 * removed.
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

nameClasses({ Timeout });
