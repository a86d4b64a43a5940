/**
 * Waits that interrupts do not end.
 *
 * @module
 */

import type { Scope } from "./scope.ts";
import { type Settled, Suspension } from "./suspension.ts";
import { inTurns } from "./run_queue.ts";

/**
 * A last interrupt ends the wait after this many turns of the event loop. The body that is
 * waited for may swallow ten errors, and each takes a turn or two.
 */
const TURNS_AT_LAST = 25;

/**
 * A wait for something that must end before the greenlet goes on. An interrupt does not end it,
 * and is thrown by the next wait. When the scope is escalated, the wait ends after some turns
 * of the event loop.
 */
export abstract class PatientWait<T> extends Suspension<T> {
  /** The scope that waits. Unlike `scope`, it is kept after the end of the wait. */
  readonly waiter: Scope;
  /** The errors that have interrupted it, for the next waits. */
  #later: unknown[] | null = null;
  /** The error that it throws, however it ends, as the scope is escalated. */
  #last: { readonly how: Settled; readonly error: unknown } | null = null;

  constructor(scope: Scope) {
    super();
    this.waiter = scope;
  }

  /** Whether it throws the interrupt in place of its result. */
  protected get isCutShort(): boolean {
    return this.#last !== null;
  }

  /** Makes the things that are waited for end sooner. */
  protected abstract hasten(): void;

  override interrupt(error: unknown, final: boolean): void {
    if (!this.isPending) return;
    // If nothing awaits the wait, its rejection must not count as unhandled.
    this.markOwnHandled();
    if (!final) return void (this.#later ??= []).push(error);
    this.#later = null;
    this.hasten();
    this.leaveAtLast(error);
  }

  /** Ends the wait soon, whether or not the things that are waited for have ended. */
  protected leaveAtLast(error: unknown): void {
    this.#last = { how: this.waiter.lastThrow, error };
    inTurns(TURNS_AT_LAST, () => {
      if (!this.isPending) return;
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
