/**
 * Nurseries: blocks that end when all greenlets that were spawned in them have ended.
 *
 * ```ts
 * import { nursery, sleep } from "@gevent/gevent";
 *
 * await nursery(async (n) => {
 *   n.spawn(sleep, 2);
 *   await sleep(1);
 * });
 * console.log("all have ended");
 * ```
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { checkFunction } from "./_base/checks.ts";
import { currentScope, getCurrent, runIn, scopeOf } from "./_hub/current.ts";
import { unwrapped } from "./_hub/interrupts.ts";
import { killOnce } from "./_hub/kill.ts";
import { report } from "./_hub/main.ts";
import { PatientWait } from "./_hub/patient_wait.ts";
import { reportSuppressed } from "./_hub/reports.ts";
import { GRACE, Scope } from "./_hub/scope.ts";
import { checkpoint, type Settled, Suspension } from "./_hub/suspension.ts";
import {
  BLOCKERS,
  blockersFor,
  blockersOf,
  CALL,
  callOf,
  describeInner,
  several,
} from "./_hub/waits.ts";
import { Event } from "./event.ts";
import { type BodyResult, Greenlet } from "./gevent.ts";
import {
  type Greenlet as CoreGreenlet,
  GreenletError,
  GreenletExit,
} from "./greenlet.ts";
import type { Wait } from "./hub.ts";
import type { AnyGreenlet } from "./pool.ts";
import { withTimeout } from "./timeout.ts";

/** An event that is set while a nursery has no greenlets. */
class Drained extends Event {
  readonly #nursery: Nursery;

  constructor(nursery: Nursery) {
    super();
    this.#nursery = nursery;
  }

  [CALL](): string {
    return `nursery(), for ${several(this.#nursery.greenlets)}`;
  }

  [BLOCKERS](): readonly CoreGreenlet[] {
    return [...this.#nursery.greenlets];
  }
}

/** Runs a nursery. Set in the class, as it uses private fields. */
let runNursery: (run: (nursery: Nursery) => unknown) => Promise<unknown>;

/**
 * Spawns the greenlets of a {@linkcode nursery}. The nursery's function gets it as its
 * argument. gevent has none.
 *
 * @example Usage
 * ```ts
 * import { type Nursery, nursery, sleep } from "@gevent/gevent";
 *
 * function plant(nursery: Nursery, ms: number) {
 *   nursery.spawn(sleep, ms);
 * }
 * await nursery((n) => plant(n, 1));
 * ```
 */
export class Nursery {
  /** The greenlets of the nursery that have not ended. */
  readonly greenlets: Set<AnyGreenlet> = new Set();
  readonly #drained = new Drained(this);
  /** The errors of the function and of greenlets that failed without a kill. */
  readonly #errors: unknown[] = [];
  /** The error with which the others are killed. */
  readonly #exit = new GreenletExit("The nursery is closed");
  #state: "open" | "closing" | "closed" = "open";
  #body: Scope | null = null;

  /**
   * Makes a greenlet and starts it soon. The nursery ends after it. Not a switch point.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The body.
   * @param args Its arguments.
   * @returns The greenlet.
   * @throws {TypeError} If `run` is not a function.
   * @throws {GreenletError} If the nursery is closed, or being closed.
   */
  spawn<A extends unknown[], R>(
    run: (...args: A) => R,
    ...args: A
  ): Greenlet<BodyResult<R>> {
    if (this.#state !== "open") {
      throw new GreenletError(
        `Cannot spawn as the nursery is ${this.#state}: spawn before its function and its greenlets have ended`,
      );
    }
    checkFunction(run, "spawn", "run");
    const greenlet = new Greenlet(run, ...args) as Greenlet<BodyResult<R>>;
    scopeOf(greenlet).errorIsHandled = true;
    const link = () => this.#ended(greenlet);
    greenlet.rawlink(link);
    this.greenlets.add(greenlet);
    try {
      // This calls spawn callbacks, which may close the nursery.
      greenlet.start();
    } catch (error) {
      greenlet.unlink(link);
      this.#leave(greenlet);
      throw error;
    }
    return greenlet;
  }

  #ended(greenlet: AnyGreenlet): void {
    if (!greenlet.successful()) this.#fail(greenlet.exception);
    this.#leave(greenlet);
  }

  #leave(greenlet: AnyGreenlet): void {
    this.greenlets.delete(greenlet);
    if (this.greenlets.size === 0) this.#drained.set();
  }

  #fail(error: unknown): void {
    // If the function called get() of a child, both fail with the same error.
    if (!this.#errors.includes(error)) this.#errors.push(error);
    this.#close();
  }

  /** Closes the nursery to new greenlets, and kills its greenlets and its function. */
  #close(): void {
    if (this.#state !== "open") return;
    this.#state = "closing";
    this.#killBody();
    killOnce(this.greenlets, this.#exit);
  }

  /** Kills the function, unless it is cleaning up after a kill of its greenlet. */
  #killBody(): void {
    const body = this.#body;
    if (body === null) return;
    const own = scopeOf(body.greenlet);
    const { killed, grace } = own;
    const cleansUp = killed !== null && grace !== Infinity &&
      body.wasInterruptedBy(killed.error);
    if (!cleansUp) body.kill(this.#exit, GRACE);
  }

  /** Ends the clean-up of the greenlets: the grace of the caller is over. */
  #end(): void {
    killOnce(this.greenlets, this.#exit, 0);
  }

  static {
    showAs(this, (nursery) => ({
      state: nursery.#state,
      greenlets: [...nursery.greenlets],
    }));
    runNursery = async (run) => {
      currentScope().shielded = true;
      const nursery = new Nursery();
      let result: unknown;
      let interrupt: { readonly error: unknown } | null = null;
      const scope = currentScope();
      try {
        result = await withTimeout(Infinity, () => {
          const body = nursery.#body = currentScope();
          // A function that has swallowed too many errors may never end: stops the wait for it.
          body.abandoned = () => scope.interrupt(nursery.#exit);
          return run(nursery);
        });
      } catch (error) {
        const isOurs = error === nursery.#exit;
        const own = unwrapped(error, scope);
        if (!isOurs && scope.wasInterruptedBy(own)) {
          if (own !== error) reportSuppressed(scope.greenlet, error);
          interrupt = { error: own };
          nursery.#close();
        } else if (!isOurs) nursery.#fail(error);
      }
      nursery.#body = null;
      while (nursery.greenlets.size > 0) {
        nursery.#drained.clear();
        if (interrupt !== null) {
          // The greenlets were killed. This call must not return before they have ended.
          const wait = new ChildrenWait(
            scope,
            nursery.#drained,
            () => nursery.#end(),
          );
          if (scope.isEscalated) nursery.#end();
          await wait.suspend(scope);
          continue;
        }
        try {
          await nursery.#drained.wait();
        } catch (error) {
          interrupt = { error };
          nursery.#close();
        }
      }
      nursery.#state = "closed";
      const errors = nursery.#errors;
      if (interrupt !== null) {
        for (const error of errors) report(getCurrent(), error);
        throw interrupt.error;
      }
      // Even an error that has killed a greenlet is now an error of the caller.
      for (const error of errors) scope.markRecipient(error);
      if (errors.length === 1) throw errors[0];
      if (errors.length > 1) {
        throw new AggregateError(
          errors,
          `${errors.length} greenlets of the nursery failed`,
        );
      }
      return result;
    };
  }
}

/** The wait for greenlets that were killed. No interrupt ends it. */
class ChildrenWait extends PatientWait<void> {
  readonly #drained: Event;
  readonly #end: () => void;

  /** @param end Ends the clean-up of the greenlets. */
  constructor(scope: Scope, drained: Event, end: () => void) {
    super(scope);
    this.#drained = drained;
    drained.rawlink(() => this.switch());
    this.#end = end;
  }

  protected override hasten(): void {
    this.#end();
  }

  protected override leaveAtLast(): void {}

  override describe(): string {
    return callOf(this.#drained, "wait()");
  }

  override get blockers(): readonly CoreGreenlet[] {
    return blockersFor(this.#drained);
  }
}

/**
 * The wait for a nursery. It passes an interrupt on to the waits inside the nursery. Unlike the
 * wait for a `withTimeout`, it ends only when the nursery's greenlets have ended.
 */
class Nursing extends Suspension<unknown> {
  readonly #outer: Scope;
  readonly #inner: Scope;
  /** How the error of an escalated kill arrives: thrown, or by `return()` of a generator body. */
  #lastThrow: Settled = "thrown";

  constructor(outer: Scope) {
    super();
    this.#outer = outer;
    this.#inner = new Scope(outer.greenlet);
  }

  start(run: (nursery: Nursery) => unknown): Wait<unknown> {
    const wait = this.suspend(this.#outer);
    runIn(this.#inner, () => this.#follow(run));
    return wait;
  }

  async #follow(run: (nursery: Nursery) => unknown): Promise<void> {
    try {
      const result = await runNursery(run);
      this.#close();
      this.switch(result);
    } catch (error) {
      this.#close();
      const isLast = this.#outer.isEscalation(error);
      this.#outer.receiveInterrupts(error);
      this.settle(isLast ? this.#lastThrow : "thrown", error);
    }
  }

  /** Closes the inner scope. Interrupts that it holds are thrown later, by the outer scope. */
  #close(): void {
    for (const error of this.#inner.interrupts?.held ?? []) {
      this.#outer.hold(error);
    }
    this.#inner.close(this.#outer);
  }

  override interrupt(error: unknown, final: boolean): void {
    // If this wait is not awaited, the interrupt must not be an unhandled rejection.
    this.markInterrupted(error, final);
    if (final) {
      this.#lastThrow = this.#outer.lastThrow;
      this.#inner.escalate(error, this.#lastThrow === "thrown");
    } else this.#inner.interrupt(error);
  }

  override unhold(error: unknown): void {
    this.#inner.unhold(error);
  }

  override describe(): string {
    return describeInner(this.#inner);
  }

  override get blockers(): readonly CoreGreenlet[] {
    return blockersOf(this.#inner);
  }

  protected override get caller(): Scope {
    return this.#outer;
  }
}

/**
 * Calls a function that spawns greenlets, and waits until the function and these greenlets
 * have ended. A switch point. gevent has none; the name and the rules are Trio's.
 *
 * When the function or a greenlet fails, the rest is killed. An interrupt of the calling
 * greenlet kills all. When this returns or throws, all have ended.
 *
 * @typeParam R What the function returns.
 * @param run The function, called with a {@linkcode Nursery}. It runs in the current greenlet.
 * @returns The function's result.
 * @throws {unknown} The error of the function or of the greenlet that has failed.
 * @throws {AggregateError} If several have failed without a kill.
 * @throws {TypeError} If `run` is not a function.
 *
 * @example Usage
 * ```ts
 * import { nursery, sleep } from "@gevent/gevent";
 *
 * await nursery(async (n) => {
 *   n.spawn(async () => {
 *     await sleep(2);
 *     console.log("child");
 *   });
 *   await sleep(1);
 *   console.log("function");
 * });
 * console.log("all have ended");
 * ```
 */
export function nursery<R>(run: (nursery: Nursery) => R): Wait<BodyResult<R>> {
  checkFunction(run, "open nursery", "run");
  const scope = currentScope();
  const wait = checkpoint(scope) ?? new Nursing(scope).start(run);
  return wait as Wait<BodyResult<R>>;
}

nameClasses({ Nursery });
