/**
 * Outcomes (a value or an error), and the wait for one.
 *
 * @module
 */

import { show } from "../_base/checks.ts";
import type { Scope } from "./scope.ts";
import { LinkedWait, type Links } from "./links.ts";
import { ScopedGreenlet } from "./current.ts";
import { takeError } from "./reports.ts";
import { Timeout } from "./timeout.ts";
import { placeLater } from "./stacks.ts";
import { callOf } from "./waits.ts";

/**
 * A greenlet or another object that has ended with a value or an error.
 *
 * @typeParam T The type of the value.
 */
export interface Outcome<T> {
  /** Whether there is no error. */
  successful(): boolean;
  /** The value. */
  readonly value: T | undefined;
  /** The error. */
  readonly exception: unknown;
}

/** The wait for an outcome. Returns the value, or throws the error. */
export class OutcomeWait<T> extends LinkedWait<Outcome<T>, T> {
  readonly #scope: Scope;
  readonly #ms: number;

  constructor(links: Links<Outcome<T>>, scope: Scope, ms: number) {
    super(links);
    this.#scope = scope;
    this.#ms = ms;
    this.limit(ms);
  }

  override linked(source: Outcome<T>): void {
    if (source.successful()) return this.switch(source.value as T);
    // The caller has asked for the result, so this is now an error of the caller.
    takeError(source);
    this.#scope.markRecipient(source.exception);
    this.throw(source.exception);
  }

  override describe(subject = this.subject): string {
    return subject instanceof ScopedGreenlet
      ? `get of ${show(subject)}`
      : callOf(subject, "get()");
  }

  protected override get caller(): Scope {
    return this.#scope;
  }

  protected override timedOut(): void {
    this.throw(placeLater(new Timeout(this.#ms)));
  }
}
