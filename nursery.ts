/**
 * Nurseries: a block that no greenlet outlives which was spawned in it.
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

import { markHandled } from "./_base/language.ts";
import { checkFunction } from "./_base/checks.ts";
import { currentScope, getCurrent, runIn, scopeOf } from "./_hub/current.ts";
import { unwrapped } from "./_hub/interrupts.ts";
import { killOnce } from "./_hub/kill.ts";
import { report } from "./_hub/main.ts";
import { PatientWait } from "./_hub/patient_wait.ts";
import { GRACE, Scope } from "./_hub/scope.ts";
import { checkpoint, type Settled, Suspension } from "./_hub/suspension.ts";
import { Event } from "./event.ts";
import { type BodyResult, Greenlet } from "./gevent.ts";
import { GreenletError, GreenletExit } from "./greenlet.ts";
import type { Wait } from "./hub.ts";
import type { AnyGreenlet } from "./pool.ts";
import { withTimeout } from "./timeout.ts";

/** What {@linkcode nursery} does, in a nursery's own secrets. */
let runNursery: (run: (nursery: Nursery) => unknown) => Promise<unknown>;

/**
 * Where a {@linkcode nursery}'s function spawns its greenlets.
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
  /** The children that have not ended. */
  readonly greenlets: Set<AnyGreenlet> = new Set();
  readonly #quiet = new Event();
  /** What children, and the function, have failed with on their own. */
  readonly #errors: unknown[] = [];
  /** What the others are killed with. */
  readonly #exit = new GreenletExit("The nursery is closed");
  #state: "open" | "closing" | "closed" = "open";
  #body: Scope | null = null;

  /**
   * Spawns a greenlet that does not outlive the nursery. Not a switch point.
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
      // What this calls may close the nursery.
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
    if (this.greenlets.size === 0) this.#quiet.set();
  }

  #fail(error: unknown): void {
    // That of a child whose result the function has asked for is the same.
    if (!this.#errors.includes(error)) this.#errors.push(error);
    this.#close();
  }

  /** Kills what runs here. */
  #close(): void {
    if (this.#state !== "open") return;
    this.#state = "closing";
    this.#killBody();
    killOnce(this.greenlets, this.#exit);
  }

  /** Kills the function, unless it cleans up as its greenlet was killed. */
  #killBody(): void {
    const body = this.#body;
    if (body === null) return;
    const own = scopeOf(body.greenlet);
    const { killed, grace } = own;
    const cleansUp = killed !== null && grace !== Infinity &&
      body.wasInterruptedBy(killed.error);
    if (!cleansUp) body.kill(this.#exit, GRACE);
  }

  /** Kills what cleans up: our greenlet is past its own grace. */
  #end(): void {
    killOnce(this.greenlets, this.#exit, 0);
  }

  static {
    runNursery = async (run) => {
      currentScope().shielded = true;
      const nursery = new Nursery();
      let result: unknown;
      let interrupt: { readonly error: unknown } | null = null;
      const scope = currentScope();
      try {
        result = await withTimeout(Infinity, () => {
          const body = nursery.#body = currentScope();
          // Past all patience it is left where it is, and waited for no longer.
          body.abandoned = () => scope.interrupt(nursery.#exit);
          return run(nursery);
        });
      } catch (error) {
        const isOurs = error === nursery.#exit;
        const own = unwrapped(error, scope);
        if (!isOurs && scope.wasInterruptedBy(own)) {
          interrupt = { error: own };
          nursery.#close();
        } else if (!isOurs) nursery.#fail(error);
      }
      nursery.#body = null;
      while (nursery.greenlets.size > 0) {
        nursery.#quiet.clear();
        if (interrupt !== null) {
          // They have been killed, and end; nothing may outlive us meanwhile.
          const wait = new ChildrenWait(
            scope,
            nursery.#quiet,
            () => nursery.#end(),
          );
          if (scope.isEscalated) nursery.#end();
          await wait.suspend(scope);
          continue;
        }
        try {
          await nursery.#quiet.wait();
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
      // That one of them was killed by it makes it no less ours.
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

/** A wait for children that were killed, which even the last interrupt does not end. */
class ChildrenWait extends PatientWait<void> {
  readonly #end: () => void;

  /** @param end Has the children end at once. */
  constructor(scope: Scope, quiet: Event, end: () => void) {
    super(scope);
    quiet.rawlink(() => this.switch());
    this.#end = end;
  }

  protected override hasten(): void {
    this.#end();
  }

  protected override leaveAtLast(): void {}
}

/**
 * The wait for a nursery. An interrupt is passed on to what is waited for there, and even
 * the last one does not end the wait before the children, as it would a limited call.
 */
class Nursing extends Suspension<unknown> {
  readonly #outer: Scope;
  readonly #inner: Scope;
  /** How it ends by the error after which its greenlet may wait no longer. */
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

  /** What was not thrown in the nursery, its greenlet throws later. */
  #close(): void {
    for (const error of this.#inner.interrupts?.held ?? []) {
      this.#outer.hold(error);
    }
    this.#inner.close(this.#outer);
  }

  override interrupt(error: unknown, final: boolean): void {
    // Where nobody awaits us, an interrupt is no unhandled rejection.
    markHandled(this.promise!);
    if (final) {
      this.#lastThrow = this.#outer.lastThrow;
      this.#inner.escalate(error, this.#lastThrow === "thrown");
    } else this.#inner.interrupt(error);
  }

  override unhold(error: unknown): void {
    this.#inner.unhold(error);
  }

  protected override get caller(): Scope {
    return this.#outer;
  }
}

/**
 * Calls a function that spawns greenlets, and waits until it and all of them have ended. A
 * switch point. gevent has none; Trio calls it a nursery.
 *
 * The first of them that fails has the others killed. Whoever kills the current greenlet
 * kills them, too. Nothing outlives the call.
 *
 * @typeParam R What the function returns.
 * @param run The function. It runs in the current greenlet.
 * @returns The function's result.
 * @throws {unknown} The error of the one that has failed.
 * @throws {AggregateError} If several have failed on their own.
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
