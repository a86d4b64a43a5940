/**
 * Operations of packages and of `node:` modules that belong to a greenlet.
 *
 * The greenlet awaits a promise of the package, which this library can't reach. But it can
 * reach the underlying operation, such as a request. An interrupt of the greenlet ends the
 * operation with its error, and the package rejects its promise with that error or with one
 * that has it as its `cause`. So the interrupt counts as delivered, as if it had ended a wait
 * of this library.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { ignore, membersOf, then } from "../_base/language.ts";
import { mimic } from "../_base/properties.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import { report } from "../_hub/main.ts";
import { addPending, type Pending, removePending } from "../_hub/scope.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint, interruptedWait } from "../_hub/suspension.ts";
import type { Wait } from "../_hub/suspension.ts";
import { NO_BLOCKERS } from "../_hub/waits.ts";

/** Describes an operation, and ends it. */
export interface Ending {
  /** Says what the operation is, such as `GET http://localhost/`. */
  describe(): string;

  /**
   * Whether an interrupt other than a kill spares the operation while the greenlet waits in a
   * call of this library.
   */
  readonly isLeftAlone?: boolean;

  /** Whether it is no more than a wait for an event of something else. */
  readonly listens?: boolean;

  /** The emitter that it ends, or whose event it waits for. */
  readonly emitter?: object;

  /**
   * Ends it with the error of an interrupt. Called outside greenlets.
   *
   * @returns Whether code is told of the error.
   */
  end(error: unknown): boolean;

  /**
   * Ends it so that the package's promise never settles: the body has swallowed its kill again
   * and again. Called outside greenlets.
   */
  silence(): void;
}

/**
 * - `waiting`: an interrupt of the scope ends it
 * - `resting`: no code waits for it now, and an interrupt does not reach it
 * - `over`
 */
type State = "waiting" | "resting" | "over";

/** An operation that belongs to a scope. */
export class ForeignOperation implements Pending {
  scope: Scope | null = null;
  #state: State = "resting";
  /** The scope that the operation belongs to. */
  #owner: Scope;
  readonly #ending: Ending;
  /** What the listeners of the operation begin comes from it. */
  readonly #source: Source = { scope: null, killedBy: null, isTimer: false };
  /** The interrupt that has ended it. */
  #interrupt: { readonly error: unknown } | null = null;

  constructor(owner: Scope, ending: Ending) {
    this.#owner = owner;
    this.#ending = ending;
    this.wait(owner);
  }

  get isResting(): boolean {
    return this.#state === "resting";
  }

  /**
   * Notes that code waits for it, in `scope` or else in the scope that it belongs to. An
   * interrupt that is due there ends the operation.
   */
  wait(scope: Scope | null = null): void {
    if (this.#state !== "resting") return;
    if (scope !== null) this.#owner = scope;
    this.#state = "waiting";
    this.#source.scope = this.#owner;
    const due = checkpoint(this.#owner) ?? retried(this.#owner);
    if (due === null) return addPending(this.#owner, this);
    this.#state = "over";
    // Later, as the constructor of the operation may be running.
    then(due, undefined, (error) => {
      if (!this.#end(error)) this.#owner.hold(error);
    });
    // The use of `due` may have abandoned the body. Then it never rejects.
    if (this.#owner.interrupts?.stage === "abandoned") {
      this.#call(() => this.#ending.silence());
    }
  }

  /** Notes that no code waits for it. */
  rest(): void {
    if (this.#state !== "waiting") return;
    this.#state = "resting";
    removePending(this);
  }

  /** Notes that it has ended by itself: it no longer belongs to the greenlet. */
  over(): void {
    if (this.#state === "over") return;
    this.#state = "over";
    removePending(this);
  }

  /**
   * Calls the listeners of the operation. Operations that they begin belong to the same scope.
   *
   * A listener may pass the error of an interrupt on to an emitter that has no listener for it any
   * more, as the body has left its loop. That would end the process, so it is ignored.
   */
  tell<R>(call: () => R): R | undefined {
    try {
      return source.run(this.#source, call);
    } catch (error) {
      if (this.#interrupt?.error !== error) throw error;
      return undefined;
    }
  }

  describe(): string {
    return this.#ending.describe();
  }

  get isAside(): boolean {
    return this.#ending.isLeftAlone ?? false;
  }

  get listens(): boolean {
    return this.#ending.listens ?? false;
  }

  get emitter(): object | null {
    return this.#ending.emitter ?? null;
  }

  get blockers(): typeof NO_BLOCKERS {
    return NO_BLOCKERS;
  }

  interrupt(error: unknown, final: boolean): void {
    if (this.#state !== "waiting") return;
    const owner = this.#owner;
    const isAlone = owner.pending === this;
    const isKill = final || owner.killed?.error === error;
    if (this.#ending.isLeftAlone && !isKill && isOtherAwaited(this)) return;
    this.over();
    const isTold = this.#end(error);
    // Else the interrupt would be lost.
    if (isAlone && !isTold && !final) owner.hold(error);
  }

  unhold(_error: unknown): void {}

  /** Returns whether code is told of the error. */
  #end(error: unknown): boolean {
    let isTold = false;
    this.#interrupt = { error };
    if (this.#owner.killed?.error === error) {
      this.#source.killedBy = this.#interrupt;
    }
    this.#call(() => isTold = this.#ending.end(error));
    return isTold;
  }

  #call(end: () => unknown): void {
    try {
      // A package may begin to try again in this call.
      source.run(this.#source, () => runDetached(end));
    } catch (error) {
      report(this.#owner.greenlet, error);
    }
  }
}

/**
 * Whether the scope of an operation waits in something that does not wait for it. A timer beside
 * a wait for the operation is its time limit, such as the `timeout` of execa.
 */
function isOtherAwaited(operation: ForeignOperation): boolean {
  const { pending } = operation.scope!;
  if (!(pending instanceof Set)) return false;
  const { emitter } = operation;
  const waits = membersOf(pending).filter((one) => one !== operation);
  const isAwaited = emitter !== null &&
    waits.some((one) => one.listens && one.emitter === emitter);
  return waits.some((one) =>
    !one.listens && !one.isAside && !(one.isTimer && isAwaited)
  );
}

/** Where an operation comes from, if code outside greenlets begins it for a greenlet. */
interface Source {
  /** The scope that the operation belongs to. */
  scope: Scope | null;
  /** The kill that has ended the operation from which this one comes. */
  killedBy: { readonly error: unknown } | null;
  /** Whether it comes from a timer of a greenlet that is being killed. */
  readonly isTimer: boolean;
}

/**
 * The source of operations, while the listeners of another one run: `patch()` calls listeners
 * outside greenlets, but a redirect, for example, makes the next request in one.
 */
const source = new AsyncLocalStorage<Source>();

/** Returns the scope that a new operation belongs to; `null` if there is none. */
export function owningScope(): Scope | null {
  const from = source.getStore();
  if (from?.isTimer && isDying(from.scope!)) return from.scope;
  return interruptibleScope() ?? from?.scope ?? null;
}

/**
 * The error of an operation with which a package tries again what a kill has ended. Clean-up of
 * the body makes its operations itself, and they have the grace.
 */
function retried(owner: Scope): Wait<never> | null {
  const from = source.getStore();
  const { killedBy = null } = from ?? {};
  const isRetry = killedBy !== null && from!.scope === owner &&
    interruptibleScope() === null && isDying(owner);
  return isRetry ? interruptedWait(killedBy.error) : null;
}

/** Whether a scope was killed, and its body has not ended. */
function isDying({ killed, interrupts }: Scope): boolean {
  return killed !== null && interrupts?.stage !== "ended";
}

/**
 * Makes operations that the callback of a timer begins belong to the scope that sets the timer, if
 * that is being killed: else a package would try again for ever what the kill has ended.
 */
export function keepIfDying<F extends (...args: never[]) => unknown>(
  scope: Scope,
  callback: F,
): F {
  if (scope.interrupts === null || !isDying(scope)) return callback;
  const from = { scope, killedBy: null, isTimer: true };
  const keeping = function (this: unknown, ...args: never[]) {
    return source.run(from, () => Reflect.apply(callback, this, args));
  };
  return mimic(keeping as F, callback);
}

/** An emitter of `node:events`, as far as it is used here. */
export interface Emitter {
  emit(event: string | symbol, ...args: unknown[]): boolean;
  on(event: string, listener: (...args: never[]) => void): unknown;
  listenerCount(event: string): number;
}

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Method = (this: any, ...args: any[]) => any;

/** Wraps a method of one instance. */
export function override(
  instance: object,
  name: string,
  wrap: (original: Method) => Method,
): void {
  const original: Method = Reflect.get(instance, name);
  Object.defineProperty(instance, name, {
    value: wrap(original),
    writable: true,
    enumerable: false,
    configurable: true,
  });
}

/** Stops an emitter from emitting events. */
export function mute(emitter: Emitter): void {
  override(emitter, "emit", () => () => false);
}

/** Keeps an `error` event from ending the process where the program has no listener. */
export function tolerateErrors(emitter: Emitter): void {
  emitter.on("error", ignore);
}

/** The error by which modules of Node tell that a signal was aborted. */
export function abortError(cause: unknown): Error {
  const error = new Error("The operation was aborted", { cause });
  error.name = "AbortError";
  return Object.assign(error, { code: "ABORT_ERR" });
}
