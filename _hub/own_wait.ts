/**
 * The promises of waits: native ones that `yield*` can delegate to, and that carry the scope through
 * `await` where nothing else does.
 *
 * @module
 */

import { ownThen } from "../_base/language.ts";
import { current, currentScope } from "./current.ts";
import { mainScope, type Scope } from "./scope.ts";
import { WAITING } from "./unheard.ts";

/**
 * The result of every blocking call: a native promise, for `await` in an async body, that a
 * generator body can delegate to by `yield*`.
 *
 * The operation has begun when the call returns, whether it is awaited or not. An interrupted
 * wait rejects with the error of the interrupt. If nothing awaits it, that does not count as an
 * unhandled rejection, and the next wait of the greenlet throws the error.
 *
 * @typeParam T The type of the result.
 *
 * @example Usage
 * ```ts
 * import { sleep, spawn, type Wait } from "@gevent/gevent";
 *
 * const wait: Wait<void> = sleep(1);
 * await wait;
 *
 * const g = spawn(function* () {
 *   yield* sleep(1);
 *   return "slept";
 * });
 * console.log(await g.get()); // slept
 * ```
 */
export interface Wait<T> extends Promise<T> {
  /** Suspends the generator body until the wait ends. */
  [Symbol.iterator](): Iterator<unknown, T, unknown>;
}

/** An object that makes the iterator of a wait. */
export interface Delegable {
  delegate(wait: OwnWait): Iterator<unknown, unknown, unknown>;
}

export type OwnWait = Wait<unknown> & { [WAITING]: Delegable };

/** The iterator method of a wait. */
export function iterateWait(
  this: OwnWait,
): Iterator<unknown, unknown, unknown> {
  return this[WAITING].delegate(this);
}

/** Runs code in a scope, where nothing carries it through `await`; else `null`. */
export const { carry } = current;
const { then: plainThen } = Promise.prototype;

/** The class of waits where nothing carries the scope through `await`: the waits do it. */
class CarryingWait extends Promise<unknown> {
  static {
    Object.defineProperties(this.prototype, {
      // `await` gets the `then` of a promise of another class, in the scope that awaits it.
      then: {
        get(this: OwnWait) {
          const scope = currentScope();
          return scope === mainScope ? plainThen : thenIn.bind(this, scope);
        },
      },
      [Symbol.iterator]: { value: iterateWait },
    });
  }

  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }
}

/** As `then`: calls back in a scope, and the code that goes on belongs to it. */
export function thenIn(
  this: OwnWait,
  scope: Scope,
  onFulfilled: unknown,
  onRejected: unknown,
): Promise<unknown> {
  const inScope = (callback: unknown) =>
    typeof callback === "function"
      ? (value: unknown) => carry!(scope, () => callback(value))
      : undefined;
  const next = ownThen(this, inScope(onFulfilled), inScope(onRejected));
  return carrying(next as OwnWait);
}

/** Makes the wait one that carries the scope, if nothing else does. */
function carrying(wait: OwnWait): OwnWait {
  return carry === null
    ? wait
    : Object.setPrototypeOf(wait, CarryingWait.prototype);
}

/** The resolver of the promise that was made last. */
export let resolveLast: (value: unknown) => void;

function keepResolver(resolve: (value: unknown) => void): void {
  resolveLast = resolve;
}

/**
 * A promise that is resolved with this rejects at once, with the error. So a wait need not keep
 * the promise's reject function, which would take 70 bytes.
 */
const thrower = {
  error: undefined as unknown,
  get then(): never {
    throw this.error;
  },
};

/** Rejects a promise by its resolver. */
export function rejectWith(
  resolve: (value: unknown) => void,
  error: unknown,
): void {
  thrower.error = error;
  resolve(thrower);
  thrower.error = undefined;
}

/**
 * Makes a native promise with own properties: `await` uses it directly, while it would wrap an
 * instance of a subclass. Its resolver is in `resolveLast`.
 */
export function newWait(waiting: Delegable): OwnWait {
  return asWait(new Promise(keepResolver) as OwnWait, waiting);
}

/** Makes a wait of a native promise. */
export function asWait(wait: OwnWait, waiting: Delegable): OwnWait {
  wait[WAITING] = waiting;
  wait[Symbol.iterator] = iterateWait;
  return carrying(wait);
}

/**
 * A promise of a subclass whose `constructor` is `Promise`, so that `await` uses it directly.
 * It takes 32 bytes less than {@linkcode newWait}, and 25 ns more in each `await`.
 */
export class LeanWait extends Promise<unknown> {
  static {
    Object.defineProperty(this.prototype, "constructor", { value: Promise });
  }

  readonly [WAITING]: Delegable;

  constructor(waiting: Delegable) {
    super(keepResolver);
    this[WAITING] = waiting;
    carrying(this);
  }

  [Symbol.iterator](): Iterator<unknown, unknown, unknown> {
    return iterateWait.call(this);
  }
}
