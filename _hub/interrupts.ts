/**
 * Interrupts, and the greenlets that they were meant for.
 *
 * An exit or a timeout belongs to its target. Where promises are shared, others get the
 * error as well, and must not look as if they had been interrupted themselves.
 *
 * @module
 */

import { type Greenlet, GreenletError, GreenletExit } from "../greenlet.ts";
import { isObject } from "../_base/checks.ts";
import { consistsOf, eachWrapped, findWrapped } from "./wrapped.ts";

/** What is interrupted: a scope, of which no more has to be known here. */
interface Interruptible {
  readonly greenlet: Greenlet;
  /** What it was killed by last, if it was. */
  readonly killed: { readonly error: unknown } | null;
  /** The timeout that limits it, if there is one that has been thrown. */
  readonly limit: Error | null;
  /** Whether an error has interrupted the body, be it long ago. */
  wasInterruptedBy(error: unknown): boolean;
}

/** Errors that have interrupted somebody. Others may be thrown by whoever has them. */
const interruptErrors = new WeakSet<object>();

/** Notes that an error interrupts a greenlet. */
export function noteInterruptOf(error: object, greenlet: Greenlet): void {
  interruptErrors.add(error);
  markRecipientOf(error, greenlet);
}

/** Whether it is an error that has interrupted somebody. */
export function isInterrupt(error: unknown): boolean {
  return isObject(error) && interruptErrors.has(error);
}

/** The scopes that were handed an interrupt openly, as the result of a call. */
const handed = new WeakMap<object, WeakSet<Interruptible>>();

export function hand(error: object, scope: Interruptible): void {
  const scopes = handed.get(error);
  if (scopes === undefined) {
    handed.set(error, new WeakSet<Interruptible>().add(scope));
  } else scopes.add(scope);
}

/**
 * Whether promises of a scope may fail like that and nobody look.
 *
 * What a body has begun and not come to await is interrupted with the rest: a kill must not
 * end the process by that, and the greenlet's own end tells of the error. It is otherwise
 * with an interrupt that a call has for its result, such as the `Timeout` of `withTimeout`:
 * in the scope of the call that is an error like any other, and in that of its function it
 * is none. Elsewhere it may be the runtime's or a package's promise, and counts as none.
 */
export function isExpected(error: unknown, scope: Interruptible): boolean {
  return consistsOf(error, (one) => {
    const interrupt = original(one);
    return scope.wasInterruptedBy(interrupt) ||
      isInterrupt(interrupt) && !handed.get(interrupt as object)?.has(scope);
  });
}

/** Whom one error was addressed to, when they are several. */
class Recipients {
  readonly #first: WeakRef<Greenlet>;
  readonly all: WeakSet<Greenlet>;

  constructor(first: Greenlet, second: Greenlet) {
    // It may be dead, where the error is thrown again and again.
    this.#first = new WeakRef(first);
    this.all = new WeakSet<Greenlet>().add(first).add(second);
  }

  /** How the first is called in messages. */
  toString(): string {
    return String(this.#first.deref() ?? "a greenlet");
  }
}

/** Whom errors were addressed to. Kept here, as a greenlet may outlive many errors. */
const recipients = new WeakMap<object, Greenlet | Recipients>();

export function markRecipientOf(error: object, greenlet: Greenlet): void {
  const before = recipients.get(error);
  if (before === undefined) recipients.set(error, greenlet);
  else if (before instanceof Recipients) before.all.add(greenlet);
  else if (before !== greenlet) {
    recipients.set(error, new Recipients(before, greenlet));
  }
}

/** Whether an error was meant for a greenlet, or handed to it openly. */
export function isRecipient(error: unknown, greenlet: Greenlet): boolean {
  const addressee = isObject(error) ? recipients.get(error) : undefined;
  return addressee === greenlet ||
    addressee instanceof Recipients && addressee.all.has(greenlet);
}

/** What stands for another error; see {@linkcode standIn}. */
const standIns = new WeakMap<object, unknown>();

/**
 * What a scope has to fail with that got `error` by a promise which it shares. An exit
 * or a timeout of another greenlet must not look as if it were this one's.
 */
export function errorFor(error: unknown, scope: Interruptible | null): unknown {
  const taken = original(error);
  if (!isObject(taken) || !isInterrupt(taken)) return taken;
  if (scope !== null && isRecipient(taken, scope.greenlet)) return taken;
  const addressee = recipients.get(taken);
  if (addressee === undefined) return taken;
  return new GreenletError(
    `A promise shared with ${addressee} failed as that one was interrupted by ${
      (taken as Error).name ?? "an error"
    }`,
    { cause: taken },
  );
}

/** What a scope fails with whose body has thrown `error`. */
export function failureFor(error: unknown, scope: Interruptible): unknown {
  return errorFor(unwrapped(error, scope), scope);
}

/**
 * What an error is to be taken for that a body has thrown: the kill or the timeout that has
 * interrupted it, if the error is made of that, else the error itself.
 */
export function unwrapped(error: unknown, scope: Interruptible): unknown {
  const { killed, limit } = scope;
  const isKill = (wrapped: unknown) => {
    const one = original(wrapped);
    return killed !== null && one === killed.error ||
      one instanceof GreenletExit && scope.wasInterruptedBy(one);
  };
  const found = findWrapped(error, isKill) ??
    (limit !== null && isLimit(error, limit) ? [limit] : null);
  return found === null ? error : original(found[0]);
}

/** Whether an error is made of a timeout, and not of several, as an account of them is. */
function isLimit(error: unknown, limit: Error): boolean {
  let isOnly = true;
  eachWrapped(error, (wrapped) => {
    const one = original(wrapped);
    if (one !== limit && isInterrupt(one)) isOnly = false;
  });
  const isIt = (one: unknown) => original(one) === limit;
  return isOnly && findWrapped(error, isIt) !== null;
}

/** Registers `substitute` to be taken for `error` where a body ends with it. */
export function standIn(substitute: object, error: unknown): void {
  standIns.set(substitute, error);
}

/** The error itself, when given a stand-in. */
function original(error: unknown): unknown {
  return isObject(error) && standIns.has(error) ? standIns.get(error) : error;
}
