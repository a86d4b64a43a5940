/**
 * Waits that interrupts do not end.
 *
 * @module
 */

import { markHandled } from "../_base/language.ts";
import type { Scope } from "./scope.ts";
import { type Settled, Suspension } from "./suspension.ts";
import { inTurns } from "./run_queue.ts";

/**
 * For how many turns of the event loop one waits that may wait no longer: so many that what
 * is waited for can be thrown each error that it may swallow, each in a turn of its own.
 */
const TURNS_AT_LAST = 25;

/**
 * A wait for what has to be over before its greenlet goes on. What interrupts it meanwhile
 * is thrown by the next wait. One that may wait no longer ends in some turns of the event
 * loop.
 */
export abstract class PatientWait<T> extends Suspension<T> {
  /** Whose wait it is, also when it is over. */
  readonly waiter: Scope;
  /** What has interrupted it, and was not thrown. */
  #later: unknown[] | null = null;
  /** What it throws, however it ends: it may wait no longer. */
  #last: { readonly how: Settled; readonly error: unknown } | null = null;

  constructor(scope: Scope) {
    super();
    this.waiter = scope;
  }

  /** Whether it throws what has interrupted it, however it ends. */
  protected get isCutShort(): boolean {
    return this.#last !== null;
  }

  /** Has what is waited for end sooner. */
  protected abstract hasten(): void;

  override interrupt(error: unknown, final: boolean): void {
    if (this.state !== "waiting") return;
    // Where nothing awaits it, it is no unhandled rejection.
    markHandled(this.promise!);
    if (!final) return void (this.#later ??= []).push(error);
    this.#later = null;
    this.hasten();
    this.leaveAtLast(error);
  }

  /** Ends the wait, although what is waited for has not ended. */
  protected leaveAtLast(error: unknown): void {
    this.#last = { how: this.waiter.lastThrow, error };
    inTurns(TURNS_AT_LAST, () => {
      if (this.state !== "waiting") return;
      this.undo(error);
      this.throw(error);
    });
  }

  protected override get caller(): Scope {
    return this.waiter;
  }

  override unhold(error: unknown): void {
    const i = this.#later?.indexOf(error) ?? -1;
    if (i >= 0) this.#later!.splice(i, 1);
  }

  override settle(state: Settled, value: unknown): void {
    const last = this.#last;
    if (last === null) super.settle(state, value);
    else super.settle(last.how, last.error);
    const later = this.#later;
    if (later === null) return;
    this.#later = null;
    for (const error of later) this.waiter.hold(error);
  }
}
