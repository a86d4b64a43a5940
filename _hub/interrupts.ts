/**
 * Interrupts, and the greenlets that they were meant for.
 *
 * A kill or a timeout is meant for one greenlet. If several greenlets await one promise, the
 * others get the error as well, but must not count as interrupted themselves.
 *
 * @module
 */

import { Greenlet, GreenletError, GreenletExit } from "../greenlet.ts";
import { isInstance, isObject, show } from "../_base/checks.ts";
import { consistsOf, eachWrapped, findWrapped } from "./wrapped.ts";

/** The members of a scope that are used here. */
interface Interruptible {
  readonly greenlet: Greenlet;
  /** The error of its last kill, if it was killed. */
  readonly killed: { readonly error: unknown } | null;
  /** The timeout that was thrown into the body last, if there is one. */
  readonly limit: Error | null;
  /** Whether an error has ever interrupted the body. */
  wasInterruptedBy(error: unknown): boolean;
}

/** Errors that have interrupted a greenlet. Other errors belong to no greenlet. */
const interruptErrors = new WeakSet<object>();

/** The error that a wait throws when it has lost in a `select`. */
export class Lost extends GreenletExit {
  constructor() {
    super("Another alternative of select() was first");
  }
}

/**
 * One instance for all waits that lose at once. Programs rarely see it, and making an error takes
 * longer than the rest of a `select`.
 */
export const LOST: Lost = new Lost();
interruptErrors.add(LOST);

/** Notes that an error interrupts a greenlet. */
export function noteInterruptOf(error: object, greenlet: Greenlet): void {
  interruptErrors.add(error);
  markRecipientOf(error, greenlet);
}

/** Whether an error has interrupted a greenlet. */
export function isInterrupt(error: unknown): boolean {
  return isObject(error) && interruptErrors.has(error);
}

/** Whether an error has interrupted a greenlet, or stands for such an error. */
export function standsForInterrupt(error: unknown): boolean {
  return isInterrupt(original(error));
}

/** The scopes in which a call has thrown an interrupt as its result. */
const handed = new WeakMap<object, WeakSet<Interruptible>>();

/**
 * Notes that a call in a scope throws an interrupt as its result: if nothing awaits the call, that
 * is an unhandled rejection there.
 */
export function hand(error: object, scope: Interruptible): void {
  const scopes = handed.get(error);
  if (scopes === undefined) {
    handed.set(error, new WeakSet<Interruptible>().add(scope));
  } else scopes.add(scope);
}

/**
 * Whether a promise of a scope may reject with an error without being reported as unhandled.
 *
 * A kill also interrupts waits that the body has begun and does not await. Their rejections
 * must not end the process; the greenlet's own end reports the error. But an interrupt can be
 * the result of a call, such as the `Timeout` of `withTimeout`: in the caller's scope it is an
 * error like any other, in the function's scope it is expected. In other scopes the promise may
 * be the runtime's or a package's, and the interrupt is expected.
 */
export function isExpected(error: unknown, scope: Interruptible): boolean {
  return consistsOf(error, (one) => {
    const interrupt = original(one);
    return scope.wasInterruptedBy(interrupt) ||
      isInterrupt(interrupt) && !handed.get(interrupt as object)?.has(scope);
  });
}

/** The greenlets that one error was meant for, if there are several. */
class Recipients {
  readonly #first: WeakRef<Greenlet>;
  readonly all: WeakSet<Greenlet>;

  constructor(first: Greenlet, second: Greenlet) {
    // Weak, as an error that is thrown again and again outlives its greenlets.
    this.#first = new WeakRef(first);
    this.all = new WeakSet<Greenlet>().add(first).add(second);
  }

  /** The name of the first, for messages. */
  toString(): string {
    return String(this.#first.deref() ?? "a greenlet");
  }
}

/** The greenlets that errors were meant for. By error, as a greenlet outlives many. */
const recipients = new WeakMap<object, Greenlet | Recipients>();

export function markRecipientOf(error: object, greenlet: Greenlet): void {
  const before = recipients.get(error);
  if (before === undefined) recipients.set(error, greenlet);
  else if (before instanceof Recipients) before.all.add(greenlet);
  else if (before !== greenlet) {
    recipients.set(error, new Recipients(before, greenlet));
  }
}

/** Whether an error was meant for a greenlet, or thrown in it as the result of a call. */
export function isRecipient(error: unknown, greenlet: Greenlet): boolean {
  const recipient = isObject(error) ? recipients.get(error) : undefined;
  return recipient === greenlet ||
    recipient instanceof Recipients && recipient.all.has(greenlet);
}

/** The errors that others stand for; see {@linkcode standIn}. */
const standIns = new WeakMap<object, unknown>();

/**
 * The error that a scope fails with when a promise that it shares has failed with `error`. A kill
 * or a timeout of another greenlet must not count as one of this greenlet.
 */
export function errorFor(error: unknown, scope: Interruptible | null): unknown {
  const taken = original(error);
  if (!isObject(taken) || !isInterrupt(taken)) return taken;
  if (scope !== null && isRecipient(taken, scope.greenlet)) return taken;
  const recipient = recipients.get(taken);
  if (recipient === undefined) return taken;
  return new GreenletError(
    `A promise shared with ${recipient} failed as that greenlet was interrupted by ${
      (taken as Error).name ?? "an error"
    }`,
    { cause: taken },
  );
}

/** The error that a scope fails with when its body has thrown `error`. */
export function failureFor(error: unknown, scope: Interruptible): unknown {
  return errorFor(unwrapped(error, scope), scope);
}

/**
 * Unwraps an error that a body has thrown: returns the kill or the timeout that has interrupted
 * the body, if the error wraps that, else the error itself.
 */
export function unwrapped(error: unknown, scope: Interruptible): unknown {
  const { killed, limit } = scope;
  const isKill = (wrapped: unknown) => {
    const one = original(wrapped);
    return killed !== null && one === killed.error ||
      isInstance(one, GreenletExit) && scope.wasInterruptedBy(one);
  };
  const found = findWrapped(error, isKill) ??
    (limit !== null && isLimit(error, limit) ? [limit] : null);
  return found === null ? error : original(found[0]);
}

/** Whether an error wraps a timeout, and no other interrupt. */
function isLimit(error: unknown, limit: Error): boolean {
  let isOnly = true;
  eachWrapped(error, (wrapped) => {
    const one = original(wrapped);
    if (one !== limit && isInterrupt(one)) isOnly = false;
  });
  const isIt = (one: unknown) => original(one) === limit;
  return isOnly && findWrapped(error, isIt) !== null;
}

/** Lets `substitute` stand for `error`: if a body ends with the first, it fails with the second. */
export function standIn(substitute: object, error: unknown): void {
  standIns.set(substitute, error);
}

/** Returns the error that `error` stands for, or `error` itself. */
function original(error: unknown): unknown {
  return isObject(error) && standIns.has(error) ? standIns.get(error) : error;
}

/** Checks that a value is a greenlet that can be killed. */
export function checkKillable(greenlet: Greenlet, what: string): void {
  if (isInstance(greenlet, Greenlet) && greenlet.parent !== null) return;
  throw new TypeError(
    `Cannot ${what} as it must be a greenlet, and not the main one: received ${
      show(greenlet)
    }`,
  );
}
