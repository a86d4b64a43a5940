/**
 * Operations of the runtime as waits.
 *
 * @module
 */

import { ignore } from "../_base/language.ts";
import { Begun } from "./begun.ts";
import type { Scope } from "./scope.ts";
import { PromiseWait, type Wait } from "./suspension.ts";
import { type Text, textOf } from "./waits.ts";

/** The wait for an operation whose result no other caller can use. */
export class Operation<T> extends PromiseWait<T> {
  readonly #text: Text;
  readonly #cancel: (error: unknown) => void;
  readonly #discard: ((value: T) => void) | null;

  constructor(
    text: Text,
    cancel: (error: unknown) => void,
    discard: ((value: T) => void) | null = null,
  ) {
    super();
    this.#text = text;
    this.#cancel = cancel;
    this.#discard = discard;
  }

  override fulfilled(value: unknown): void {
    if (this.isPending) super.fulfilled(value);
    else this.#discard?.(value as T);
  }

  override get callsBack(): boolean {
    return true;
  }

  override describe(): string {
    return textOf(this.#text);
  }

  protected override undo(error: unknown): void {
    // A result that is to be discarded is still waited for.
    if (this.#discard === null) super.undo(error);
    this.#cancel(error);
  }
}

/**
 * Waits for an operation that has begun. The caller must have made the checkpoint of the scope.
 *
 * @param text Describes the operation, such as `readFile()`.
 * @param cancel Called when the wait is interrupted.
 * @param discard Called with a result that arrives after the interrupt.
 */
export function operate<T>(
  scope: Scope,
  promise: Promise<T>,
  text: Text,
  cancel: (error: unknown) => void = ignore,
  discard: ((value: T) => void) | null = null,
): Wait<T> {
  return new Operation(text, cancel, discard).follow(promise).suspend(scope);
}

/**
 * As {@linkcode operate}, for an operation that may wait for the peer for ever, such as a
 * handshake. When its caller is interrupted, it goes on, but does not keep the process alive.
 *
 * @param begin Begins the operation.
 */
export function operateLoosely<T>(
  scope: Scope,
  begin: () => Promise<T>,
  text: Text,
  discard: ((value: T) => void) | null = null,
): Wait<T> {
  const begun = new Begun();
  const promise = begun.watch(begin);
  return operate(scope, promise, text, () => begun.unref(), discard);
}
