/**
 * Waits: the promises that blocking calls return, and the suspensions beneath them.
 *
 * A {@linkcode Suspension} is one wait of one scope, and says beside it how it is undone.
 * Every blocking call of the library is built on it.
 *
 * @module
 */

import { markHandled, then } from "../_base/language.ts";
import {
  getCurrent as getRunning,
  Greenlet,
  GreenletError,
} from "../greenlet.ts";
import { abandon, current, currentScope, scopeOf } from "./current.ts";
import { errorFor } from "./interrupts.ts";
import { main, report } from "./main.ts";
import { react, type Reaction, type Reactions } from "./reactions.ts";
import { serveTasks, type Sleeper, spendBudget, wake } from "./run_queue.ts";
import {
  addPending,
  type Pending,
  removePending,
  type Scope,
} from "./scope.ts";
import {
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./timers.ts";

/**
 * What every blocking call returns: a native promise, for `await` in an async body,
 * that a generator body can delegate to by `yield*`.
 *
 * The operation has begun when the call returns, whether it is waited on or not. A
 * wait that is interrupted rejects with the error; when nobody waits on it, that is no
 * unhandled rejection.
 *
 * @typeParam T What the wait gives.
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
  /** Suspends the generator body until the wait is over. */
  [Symbol.iterator](): Iterator<unknown, T, unknown>;
}

serveTasks();

const WAITING = Symbol("waiting");

/** Where the iterator of a wait comes from. */
interface Delegable {
  delegate(wait: OwnWait): Iterator<unknown, unknown, unknown>;
}

export type OwnWait = Wait<unknown> & { [WAITING]: Delegable };

function iterateWait(this: OwnWait): Iterator<unknown, unknown, unknown> {
  return this[WAITING].delegate(this);
}

let resolveLast: (value: unknown) => void;

function keepResolver(resolve: (value: unknown) => void): void {
  resolveLast = resolve;
}

/**
 * What a promise rejects with the error of, at once, when it is resolved with it: to keep
 * the other function of the promise as well, for each wait, would be 70 bytes.
 */
const thrower = {
  error: undefined as unknown,
  get then(): never {
    throw this.error;
  },
};

function rejectWith(resolve: (value: unknown) => void, error: unknown): void {
  thrower.error = error;
  resolve(thrower);
  thrower.error = undefined;
}

/**
 * A native promise with own properties: `await` takes it as it is, where it would
 * wrap an instance of a subclass. Its resolver is the last one kept.
 */
function newWait(waiting: Delegable): OwnWait {
  const wait = new Promise(keepResolver) as OwnWait;
  wait[WAITING] = waiting;
  wait[Symbol.iterator] = iterateWait;
  return wait;
}

/**
 * A promise of a class of ours that says it is none, for `await` to take it as it is: 32
 * bytes less than {@linkcode newWait} makes, for 25 ns more in each `await`.
 */
export class LeanWait extends Promise<unknown> {
  static {
    Object.defineProperty(this.prototype, "constructor", { value: Promise });
  }

  readonly [WAITING]: Delegable;

  constructor(waiting: Delegable) {
    super(keepResolver);
    this[WAITING] = waiting;
  }

  [Symbol.iterator](): Iterator<unknown, unknown, unknown> {
    return iterateWait.call(this);
  }
}

/** What the last checkpoint has thrown: for the undo of what it has prevented. */
let dueError: unknown;

/**
 * Has to be called before anything cooperative is done.
 *
 * @returns `null` to go ahead, else the wait to return in the operation's place.
 */
export function checkpoint(scope: Scope | null): Wait<never> | null {
  const interrupts = scope?.interrupts ?? null;
  if (interrupts === null) return null;
  const due = checkpointAtLast(scope!);
  if (due === null) interrupts.thrown = undefined;
  return due;
}

/** As {@linkcode checkpoint}, for what is a part of the body's end. */
export function checkpointAtLast(scope: Scope): Wait<never> | null {
  const due = scope.takeDue();
  if (due === null) return null;
  const { error, how } = due;
  dueError = error;
  if (how === "once") return failedWait(error);
  const wait = new Suspension<never>();
  if (how === "abandoned") abandon(scope, error);
  if (how === "thrown" || how === "returned") wait.settle(how, error);
  // In no scope, so that past all patience nothing ends it any more.
  return wait.suspend(null);
}

/** Whether the generator body of a scope is suspended in a wait. */
export function isAwaiting(scope: Scope): boolean {
  return scope.awaited !== null && scope.awaited !== DRIVEN;
}

/** What was over from the start: nothing had to be waited for. */
class Over implements Delegable {
  readonly #value: unknown;
  readonly #failed: boolean;

  constructor(value: unknown, failed: boolean) {
    this.#value = value;
    this.#failed = failed;
  }

  delegate(): Iterator<unknown, unknown, unknown> {
    return this;
  }

  next(): IteratorReturnResult<unknown> {
    if (this.#failed) throw this.#value;
    return { done: true, value: this.#value };
  }
}

/** A wait that is over. */
export function readyWait<T>(value: T): Wait<T> {
  const wait = newWait(new Over(value, false));
  resolveLast(value);
  return wait as Wait<T>;
}

/** The wait that is over without a value; shared, as there is nothing to tell apart. */
export const DONE: Wait<void> = readyWait(undefined);

/** A wait that is over with an error, which is no unhandled rejection. */
export function failedWait(error: unknown): Wait<never> {
  const wait = newWait(new Over(error, true));
  markHandled(wait);
  rejectWith(resolveLast, error);
  return wait as Wait<unknown> as Wait<never>;
}

/**
 * How a suspension is over: with a value or with an error; where it is `returned`, a
 * generator body is not thrown the error, but ended.
 */
export type Settled = "given" | "thrown" | "returned";

/**
 * - `idle`: nothing waits yet
 * - `waiting`
 * - what it is over with
 */
type SuspensionState = "idle" | "waiting" | Settled;

/**
 * One wait of one scope: the primitive that every blocking call is built on. A
 * subclass says in `undo` how to take back what it has registered.
 */
export class Suspension<T> implements Pending, Sleeper, TimerTarget {
  scope: Scope | null = null;
  state: SuspensionState = "idle";
  /** The result or the error, when it is over. */
  value: unknown = undefined;
  /** What limits it. */
  timer: Timer | null = null;
  promise: OwnWait | null = null;
  /** `null` once the promise is resolved. */
  #resolve: ((value: unknown) => void) | null = null;

  /** Waits, unless an error is due. */
  get(): Wait<T> {
    return this.getIn(currentScope());
  }

  /** As {@linkcode Suspension.get}, in the current scope, for those that know it. */
  protected getIn(scope: Scope): Wait<T> {
    // What was handed over already is received, and an error that is held comes with
    // the next wait.
    const isReady = this.state !== "idle" && !scope.isEscalated;
    const due = isReady ? null : checkpoint(scope);
    if (due === null) return this.suspend(scope);
    if (this.state === "idle") {
      this.settle("thrown", undefined);
      this.undo(dueError);
    }
    return due;
  }

  /** Makes what is given to who waits. */
  protected makeWait(): OwnWait {
    return newWait(this);
  }

  /** Waits, whatever is due; in no scope, it can't be interrupted. */
  suspend(scope: Scope | null): Wait<T> {
    const wait = this.promise = this.makeWait();
    this.#resolve = resolveLast;
    if (this.state === "idle") {
      this.state = "waiting";
      if (scope !== null) addPending(scope, this);
    } else {
      wake(this);
    }
    return wait as Wait<unknown> as Wait<T>;
  }

  /** Ends the wait after `ms`, as `timedOut` says. */
  limit(ms: number): this {
    this.timer = startTimer(ms, this);
    return this;
  }

  expired(): "steps" | void {
    this.timer = null;
    this.undo(undefined);
    this.timedOut();
  }

  /** Called at the limit. */
  protected timedOut(): void {
    this.settle("given", undefined);
  }

  /** Takes back what was registered. The error is that of the interrupt, if any. */
  protected undo(_error: unknown): void {}

  /** Ends the wait with a value. Does nothing when it is over. */
  switch(value: T): void {
    this.settle("given", value);
  }

  /** Ends the wait with an error. Does nothing when it is over. */
  throw(error: unknown): void {
    this.settle("thrown", error);
  }

  interrupt(error: unknown, final: boolean): void {
    if (this.state !== "waiting") return;
    const how = final ? this.scope!.lastThrow : "thrown";
    // Where nothing awaits it, it is no unhandled rejection.
    markHandled(this.promise!);
    // Over before the undo, which may interrupt the same scope.
    this.settle(how, error);
    this.undo(error);
  }

  unhold(_error: unknown): void {}

  /** Ends the wait. Does nothing when it is over. */
  settle(state: Settled, value: unknown): void {
    const before = this.state;
    if (before !== "idle" && before !== "waiting") return;
    this.state = state;
    this.value = value;
    if (this.timer !== null) stopTimer(this.timer);
    if (before === "waiting") {
      removePending(this);
      wake(this);
    }
  }

  wake(): void {
    if (this.state === "given") {
      this.#resolve!(this.value);
    } else {
      if (this.state === "returned") markHandled(this.promise!);
      this.#reject();
    }
    this.#resolve = null;
  }

  /** In the scope of the call: where nobody awaits it, that is where it is an error. */
  #reject(): void {
    const { caller } = this;
    if (caller === null || current.get() === caller) {
      rejectWith(this.#resolve!, this.value);
    } else {
      current.run(caller, rejectWith, this.#resolve!, this.value);
    }
  }

  /** The scope of the call, where the error may be a result and not an interrupt. */
  protected get caller(): Scope | null {
    return null;
  }

  delegate(wait: OwnWait): Iterator<unknown, unknown, unknown> {
    const running = getRunning();
    if (
      this.scope === null || running === main || this.scope === scopeOf(running)
    ) {
      return new Delegation(this as Suspension<unknown>);
    }
    // Begun by somebody else, whose interrupts it takes: this body's reach its own wait.
    return new Followed(scopeOf(running)).follow(wait).get()[Symbol.iterator]();
  }
}

/** The wait for a promise, which others may wait for as well, and which may last. */
export class PromiseWait<T> extends Suspension<T> implements Reaction {
  reactions: Reactions | null = null;

  /** Has it end as a promise does. */
  follow(promise: unknown): this {
    react(promise, this);
    return this;
  }

  fulfilled(value: unknown): void {
    this.switch(value as T);
  }

  rejected(error: unknown): void {
    this.throw(error);
  }

  protected override undo(_error: unknown): void {
    this.reactions?.remove(this);
  }
}

/** The wait for what another one gives, which may be that of another greenlet. */
class Followed extends PromiseWait<unknown> {
  readonly #scope: Scope | null;

  constructor(scope: Scope | null) {
    super();
    this.#scope = scope;
  }

  override rejected(error: unknown): void {
    this.throw(errorFor(error, this.#scope));
  }
}

/** The wait of those whose promise tells its value soon enough by itself. */
const TAKEN: Delegable = {
  delegate(wait) {
    return new Followed(null).follow(wait).suspend(null)[Symbol.iterator]();
  },
};

/** What was taken, to be told when the event loop has turned: its promise tells it now. */
class Taken<T> extends Suspension<T> {
  constructor(promise: Promise<T>) {
    super();
    this.state = "given";
    then(
      promise,
      (value) => {
        this.value = value;
      },
      (error) => {
        this.state = "thrown";
        this.value = error;
      },
    );
  }
}

/**
 * The wait for a promise of the runtime that is settled already: nothing interrupts it, as
 * what it gives would be lost.
 */
export function takenWait<T>(promise: Promise<T>): Wait<T> {
  if (!spendBudget()) return new Taken(promise).suspend(null);
  const wait = promise as Promise<unknown> as OwnWait;
  wait[WAITING] = TAKEN;
  wait[Symbol.iterator] = iterateWait;
  return wait as Wait<unknown> as Wait<T>;
}

/** A promise that begins a wait each time that it is asked. */
export abstract class LazyPromise<T> extends Promise<T> {
  /** Begins a wait, unless an error is due. */
  abstract waitIn(scope: Scope): Wait<T>;
}

/** Whether it is a wait of this scope, or one that is over with a value. */
export function isWaitIn<T>(
  scope: Scope,
  promise: PromiseLike<T> | T,
): promise is Wait<T> & PromiseLike<T> {
  const waiting = promise instanceof Promise
    ? (promise as Partial<OwnWait>)[WAITING]
    : undefined;
  return waiting === TAKEN || waiting instanceof Suspension &&
      (waiting.scope === scope || waiting.state === "given");
}

/**
 * The wait for one's turn: an `await` is that anyway, and a generator body leaves, to come
 * back behind those who are ready. Over from the start, and shared.
 */
export const TURN: Wait<void> = (() => {
  const turn = new Suspension<void>();
  turn.switch();
  return turn.suspend(null);
})();

/** Stands for no wait, of a generator body that is driven. */
const DRIVEN = new Suspension<unknown>();

/** What `yield*` goes through: to the hub, and back by the hub's leave only. */
class Delegation implements Iterator<unknown, unknown, unknown> {
  readonly #wait: Suspension<unknown>;
  #scope: Scope | null = null;

  constructor(wait: Suspension<unknown>) {
    this.#wait = wait;
  }

  next(value: unknown): IteratorResult<unknown, unknown> {
    if (this.#scope === null) return this.#leave();
    if (this.#orphaned) {
      throw this.#abandonWait(
        new GreenletError(
          `Cannot switch to ${this.#scope.greenlet} as it waits: received ${value}; end the wait, or use kill()`,
        ),
      );
    }
    return { done: true, value: this.#wait.value };
  }

  throw(error: unknown): never {
    throw this.#orphaned ? this.#abandonWait(error) : error;
  }

  return(value: unknown): IteratorResult<unknown, unknown> {
    if (this.#orphaned) this.#abandonWait(value);
    return { done: true, value };
  }

  #leave(): IteratorResult<unknown, unknown> {
    const running = getRunning();
    const request = main.switch()[Symbol.iterator]();
    const result = request.next();
    if (result.done) {
      throw new GreenletError(
        "Cannot `yield*` a Wait as no generator body of a greenlet runs here: use `await`, or spawn the generator",
      );
    }
    const scope = this.#scope = scopeOf(running);
    const isDriven = scope.awaited !== null;
    scope.awaited = this.#wait;
    if (!isDriven) {
      if (current.get() === scope) drive(running, scope);
      else current.run(scope, drive, running, scope);
    }
    return result;
  }

  /** Whether the body goes on although the wait is not over. */
  get #orphaned(): boolean {
    return this.#scope!.awaited === this.#wait;
  }

  #abandonWait(error: unknown): unknown {
    this.#scope!.awaited = DRIVEN;
    this.#wait.interrupt(error, false);
    return error;
  }
}

/**
 * Resumes a generator body after each of its waits. Being an async function it has
 * the body's context again after each `await`, and its wake-ups are in line with
 * those of the async bodies.
 */
async function drive(running: Greenlet, scope: Scope): Promise<void> {
  while (isAwaiting(scope)) {
    const wait = scope.awaited as Suspension<unknown>;
    try {
      await wait.promise;
    } catch {
      // Thrown below, in the body.
    }
    if (scope.awaited !== wait) continue;
    scope.awaited = DRIVEN;
    try {
      if (wait.state === "given") core.switch.call(running, wait.value);
      else if (wait.state === "returned") core.return.call(running, wait.value);
      else core.throw.call(running, wait.value);
    } catch (error) {
      // It has nobody else to take it.
      report(running, error);
    }
  }
  scope.awaited = null;
}

/** The core's own methods, whatever a subclass makes of them. */
const core = Greenlet.prototype;
