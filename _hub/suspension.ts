/**
 * Waits: the promises that blocking calls return, and the suspensions beneath them.
 *
 * A {@linkcode Suspension} is one wait of one scope. Its class says how the wait is undone.
 * Every blocking call of the library is built on it.
 *
 * @module
 */

// Loaded for its effect: it throws `LoopExit` into waits.
import "./deadlock.ts";
import { isObjectOrFunction, show } from "../_base/checks.ts";
import { showAs } from "../_base/inspecting.ts";
import { ignore, markHandled, ownThen, then } from "../_base/language.ts";
import {
  getCurrent as getRunning,
  Greenlet,
  GreenletError,
} from "../greenlet.ts";
import { abandon, current, currentScope, runIn, scopeOf } from "./current.ts";
import { errorFor } from "./interrupts.ts";
import { main, report } from "./main.ts";
import { observers } from "./observer.ts";
import { areWatched } from "./rejections.ts";
import { react, type Reaction, type Reactions } from "./reactions.ts";
import {
  asWait,
  carry,
  type Delegable,
  iterateWait,
  newWait,
  type OwnWait,
  rejectWith,
  resolveLast,
  thenIn,
  type Wait,
} from "./own_wait.ts";
import {
  deferToNextTurn,
  lastLook,
  serveTasks,
  sinceLook,
  type Sleeper,
  spendBudget,
  spendOnceInTurn,
  spendReady,
  wake,
} from "./run_queue.ts";
import {
  addPending,
  type Driver,
  type Due,
  mainScope,
  type Pending,
  removePending,
  type Scope,
  type Waited,
} from "./scope.ts";
import {
  followsAwaits,
  isUnplaced,
  noteWait,
  placeBelow,
  rejectPlaced,
} from "./stacks.ts";
import {
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./timers.ts";
import { WAITING } from "./unheard.ts";
import { FOREIGN, NO_BLOCKERS } from "./waits.ts";

export type { Wait } from "./own_wait.ts";

serveTasks();

/**
 * The wait that is returned inside a `select`. Nearly always nothing awaits it, as the suspension
 * calls the race directly. So its promise is made only when it is used, and a losing wait rejects
 * no promise. This reduced a `select` of two queues from 1,100 ns to 600 ns.
 */
class RaceWait {
  static {
    Object.setPrototypeOf(this.prototype, Promise.prototype);
  }

  static get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  declare readonly [WAITING]: Suspension<unknown>;

  constructor(waiting: Suspension<unknown>) {
    this[WAITING] = waiting;
  }

  then<A, B>(
    onFulfilled?: ((value: unknown) => A) | null,
    onRejected?: ((error: unknown) => B) | null,
  ): Promise<Awaited<A> | Awaited<B>> {
    const promise: Promise<unknown> = this[WAITING].makePromise();
    return then(promise, onFulfilled, onRejected) as Promise<
      Awaited<A> | Awaited<B>
    >;
  }

  [Symbol.iterator](): Iterator<unknown, unknown, unknown> {
    return iterateWait.call(this as unknown as OwnWait);
  }
}

/**
 * Must be called at the beginning of every cooperative call.
 *
 * @returns `null` to go ahead, or a wait to return in place of the operation's.
 */
export function checkpoint(scope: Scope | null): Wait<never> | null {
  // Nearly all scopes have no interrupts.
  if (scope === null || scope.interrupts === null) return null;
  const due = dueIn(scope);
  return due === null ? null : new DueWait(scope, due.error);
}

/** The {@linkcode checkpoint} of calls that are part of the body's clean-up. */
export function checkpointAtLast(scope: Scope): Wait<never> | null {
  const { due } = scope;
  return due === null ? null : new DueWait(scope, due.error);
}

/** Returns the error that is due; `null` if the cooperative call may begin. */
function dueIn(scope: Scope): { readonly error: unknown } | null {
  const { interrupts, due } = scope;
  if (due === null && interrupts !== null) interrupts.thrown = undefined;
  return due;
}

/** A promise that begins a new wait each time that it is awaited. */
export abstract class LazyPromise<T> extends Promise<T> {
  /** Begins a wait, unless an error is due. */
  abstract waitIn(scope: Scope): Wait<T>;
}

/**
 * A wait that begins when it is used, and not at the call. For calls whose result programs often
 * do not await, such as `other.kill()`: a wait that the body does not await must not be the one
 * that an interrupt of the body ends.
 */
abstract class LateWait<T> extends LazyPromise<T> {
  static {
    Object.defineProperties(this.prototype, {
      // A getter, as `await` gets the `then` in the scope that awaits it.
      then: {
        get(this: LateWait<unknown>): PromiseLike<unknown>["then"] {
          const scope = carry === null ? mainScope : currentScope();
          return scope === mainScope
            ? (onFulfilled, onRejected) =>
              then(this.waitIn(), onFulfilled, onRejected)
            : (...reactions) => {
              const wait = this.waitIn() as OwnWait;
              return thenIn.apply(
                wait,
                [scope, ...reactions] as never,
              ) as never;
            };
        },
      },
    });
  }

  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  #wait: Wait<T> | null = null;

  /** Begins the wait. */
  protected abstract begin(): Wait<T>;

  override waitIn(): Wait<T> {
    return this.#wait ??= this.begin();
  }

  [Symbol.iterator](): Iterator<unknown, T, unknown> {
    return this.waitIn()[Symbol.iterator]();
  }
}

/** A wait that a function begins in the scope of the call, when the wait is used. */
export class LateCall<T> extends LateWait<T> {
  readonly #scope: Scope;
  readonly #call: () => Wait<T>;

  constructor(scope: Scope, call: () => Wait<T>) {
    super(ignore);
    this.#scope = scope;
    this.#call = call;
  }

  protected override begin(): Wait<T> {
    return currentScope() === this.#scope
      ? this.#call()
      : runIn(this.#scope, this.#call);
  }
}

/**
 * The wait of a call that throws an error that was due. The error is taken when the wait is used:
 * a call that the program does not await must not swallow it. Then the next call throws it.
 */
class DueWait extends LateWait<never> {
  readonly #scope: Scope;
  readonly #error: unknown;

  constructor(scope: Scope, error: unknown) {
    super((_, reject) => reject(error));
    ownThen(this, undefined, ignore);
    this.#scope = scope;
    this.#error = error;
  }

  /** Takes the error. */
  take(): Due {
    return this.#scope.takeDue(this.#error);
  }

  protected override begin(): Wait<never> {
    const { error, how } = this.take();
    if (how === "once") return interruptedWait(error);
    const wait = new Suspension<never>();
    if (how === "abandoned") abandon(this.#scope, error);
    if (how === "thrown" || how === "returned") wait.settle(how, error);
    // A wait in no scope: when the body was abandoned, nothing ends it.
    return wait.suspend(null);
  }
}

/** Whether the generator body of a scope is suspended in a wait. */
export function isAwaiting(scope: Scope): boolean {
  return scope.driver !== null && scope.driver.awaited !== null;
}

/** A wait whose outcome is known from the start. */
class Over implements Delegable {
  readonly state: Settled;
  readonly value: unknown;

  constructor(value: unknown, failed: boolean) {
    this.state = failed ? "thrown" : "given";
    this.value = value;
  }

  delegate(_wait: OwnWait): Iterator<unknown, unknown, unknown> {
    return this;
  }

  next(): IteratorReturnResult<unknown> {
    if (this.state === "thrown") throw this.value;
    return { done: true, value: this.value };
  }
}

function overWith<T>(value: T): Wait<T> {
  const over = new Over(value, false);
  // Without a resolver, a hand-off takes 6 % less. A value that is a promise would be returned as
  // it is.
  if (!isObjectOrFunction(value)) {
    return asWait(
      Promise.resolve(value) as Promise<unknown> as OwnWait,
      over,
    ) as Wait<T>;
  }
  const wait = newWait(over);
  resolveLast(value);
  return wait as Wait<T>;
}

/** The wait that has ended with `undefined`. All calls share it. */
export const DONE: Wait<void> = overWith(undefined);

/**
 * The wait of a call that was ready: it ends at once. When the time slice is over, its promise is
 * fulfilled after a turn of the event loop, as async bodies whose calls are always ready would
 * starve timers. A generator body goes on at once: such a call is no switch point.
 */
export function readyWait<T>(value: T): Wait<T> {
  return spendReady() ? overWith(value) : readyLater(value);
}

/** As {@linkcode readyWait}, without a value. */
export function doneWait(): Wait<void> {
  return spendReady() ? DONE : readyLater(undefined);
}

function readyLater<T>(value: T): Wait<T> {
  const wait = newWait(new Over(value, false));
  const resolve = resolveLast;
  deferToNextTurn({ wake: () => resolve(value) });
  return wait as Wait<T>;
}

/** Takes the error of a wait that {@linkcode checkpoint} has returned. */
export function errorOf(due: Wait<never>): unknown {
  return (due as unknown as DueWait).take().error;
}

/** Makes a wait that has failed. If it is late, its promise is rejected after a turn of the loop. */
function failing(over: Over, isHandled: boolean, isLate = false): Wait<never> {
  const wait = newWait(over);
  const resolve = resolveLast;
  if (isHandled) markHandled(wait);
  const reject = () => rejectWith(resolve, over.value);
  if (isLate) deferToNextTurn({ wake: reject });
  else reject();
  return wait as Wait<unknown> as Wait<never>;
}

/**
 * The wait of a call that has failed at once, as {@linkcode readyWait}. It does not count as an
 * unhandled rejection.
 */
export function failedWait(error: unknown): Wait<never> {
  // Each looks at the time, as an error costs more than that.
  return failing(new Over(error, true), true, !spendBudget());
}

/** As {@linkcode failedWait}, but at once whatever the time: for an error that was thrown in. */
export function interruptedWait(error: unknown): Wait<never> {
  return failing(new Over(error, true), true);
}

/** The error of a call that throws an interrupt, unless nothing awaits the call. */
class Interrupting extends Over {
  override delegate(wait: OwnWait): Iterator<unknown, unknown, unknown> {
    markHandled(wait);
    return this;
  }
}

/** The wait of a call that throws an interrupt which other waits of its scope throw as well. */
export function interruptingWait(scope: Scope, error: unknown): Wait<never> {
  const tells = areWatched && scope.countOneMore(error);
  return failing(new Interrupting(error, true), !tells);
}

/**
 * How a suspension has ended: with a value, or with an error. `returned`: a generator body is
 * ended by `return()`, and the error is not thrown into it.
 */
export type Settled = "given" | "thrown" | "returned";

/**
 * - `idle`: nothing waits yet
 * - `waiting`: its scope waits in it
 * - `racing`: its scope waits in it and in others, of which one may take a value
 * - otherwise: how it has ended
 */
type SuspensionState = "idle" | "waiting" | "racing" | Settled;

/** Whether the runtime will tell if nothing awaits a wait that an error interrupts. */
function tellsUnheard(scope: Scope, error: unknown): boolean {
  return areWatched && scope.isCounting(error);
}

/** Waits that are no unhandled rejections once they are rejected. */
const toMark = new WeakSet<object>();

/**
 * One wait of one scope: the primitive that every blocking call is built on. A
 * subclass says in `undo` how to take back what it has registered.
 */
export class Suspension<T> implements Pending, Sleeper, TimerTarget {
  // Private methods are static here and in `Delegation`: others would make each instance 8 bytes
  // larger.
  scope: Scope | null = null;
  state: SuspensionState = "idle";
  /** The result or the error, once it has ended. */
  value: unknown = undefined;
  /** The timer of its time limit. */
  timer: Timer | null = null;
  /** The promise of the wait; `null` until it is used; see {@linkcode RaceWait}. */
  promise: OwnWait | null = null;
  /** `null` once the promise is resolved, or if there is none. */
  #resolve: ((value: unknown) => void) | null = null;

  static {
    showAs(this, (wait) => wait.isPending ? wait.describe() : wait.state);
  }

  /** Waits, unless an error is due. */
  get(): Wait<T> {
    return this.getIn(currentScope());
  }

  /** As {@linkcode Suspension.get}, for callers that know the current scope. */
  protected getIn(scope: Scope): Wait<T> {
    // A value that was handed over before is returned, and the held error is thrown by the next
    // wait.
    const isReady = this.state !== "idle" && !scope.isEscalated;
    const due = isReady ? null : dueIn(scope);
    if (due === null) return this.suspend(scope);
    const wait = new DueWait(scope, due.error);
    if (this.state === "idle") {
      this.settle("thrown", undefined);
      this.undo(due.error);
    }
    return wait;
  }

  /** Makes the promise. */
  protected makeWait(): OwnWait {
    return newWait(this);
  }

  /** Waits, even if an error is due. If `scope` is `null`, nothing interrupts the wait. */
  suspend(scope: Scope | null): Wait<T> {
    let wait: OwnWait;
    if (
      scope !== null && scope.cold !== null && scope.cold.race !== null &&
      carry === null
    ) {
      wait = new RaceWait(this as Suspension<unknown>) as unknown as OwnWait;
    } else {
      wait = this.promise = this.makeWait();
      this.#resolve = resolveLast;
    }
    if (this.state === "idle") {
      this.state = "waiting";
      // `waited` needs it. The field holds the result only when the wait is over.
      if (this.value === undefined) this.value = lastLook;
      if (scope !== null) addPending(scope, this);
    } else {
      wake(this, scope);
    }
    return wait as Wait<unknown> as Wait<T>;
  }

  /** Makes the promise of the wait, if a race did not need it before. */
  makePromise(): OwnWait {
    if (this.promise === null) {
      this.promise = newWait(this);
      this.#resolve = resolveLast;
      if (!this.isPending) this.wake();
    }
    return this.promise;
  }

  /** Marks its error as handled: if nothing awaits the wait, that is not an unhandled rejection. */
  protected markOwnHandled(): void {
    if (this.promise !== null) markHandled(this.promise);
  }

  /**
   * As {@linkcode Suspension.markOwnHandled}, for the error of an interrupt, unless the runtime is
   * to tell whether anything awaits the wait.
   */
  protected markInterrupted(error: unknown, final: boolean): void {
    if (final || !tellsUnheard(this.scope!, error)) this.markOwnHandled();
  }

  /** Ends the wait after `ms`, by `timedOut`. */
  limit(ms: number): this {
    this.timer = startTimer(ms, this);
    return this;
  }

  expired(): "steps" | void {
    this.timer = null;
    const { subject } = this;
    this.undo(undefined);
    this.timedOut();
    if (this.state === "thrown") noteWait(this.value, this, subject);
  }

  /** Ends the wait at its limit. */
  protected timedOut(): void {
    this.settle("given", undefined);
  }

  /** Whether `undo` calls a function of the program, which may do anything. */
  get callsBack(): boolean {
    return false;
  }

  /**
   * Undoes the registration of the wait, such as its place in a queue. Gets the error of the
   * interrupt.
   */
  protected undo(_error: unknown): void {}

  /** Ends the wait with a value. Does nothing if it has ended. */
  switch(value: T): void {
    this.settle("given", value);
  }

  /** Ends the wait with an error. Does nothing if it has ended. */
  throw(error: unknown): void {
    this.settle("thrown", error);
  }

  /** Whether it has begun and not ended. */
  get isPending(): boolean {
    return this.state === "waiting" || this.state === "racing";
  }

  /** Makes the wait part of a race. The race of its scope is called when the wait ends. */
  enterRace(): void {
    if (this.state === "waiting") this.state = "racing";
  }

  /** Tells the race that the wait has taken a value, before the wait ends. */
  protected claim(): void {
    if (this.state !== "racing") return;
    const scope = this.scope!;
    scope.cold!.race!.claimed(this, scope);
  }

  interrupt(error: unknown, final: boolean): void {
    if (!this.isPending) return;
    const scope = this.scope!;
    const how = final ? scope.lastThrow : "thrown";
    const isOurs = isUnplaced(error);
    if (isOurs) noteWait(error, this, this.subject);
    const isCounted = !final && tellsUnheard(scope, error);
    // Not yet: of a promise with two reactions V8 does not find the awaiters.
    if (!isCounted && isOurs && followsAwaits) toMark.add(this);
    else if (!isCounted) this.markOwnHandled();
    // Settles before the undo, which may interrupt the same scope.
    this.settle(how, error);
    this.undo(error);
    if (isCounted) this.scope = scope;
  }

  /** Ends the wait because it has lost a race. Does not call the race. */
  lose(error: unknown): void {
    this.state = "thrown";
    this.value = error;
    this.scope = null;
    if (this.timer !== null) stopTimer(this.timer);
    this.markOwnHandled();
    this.undo(error);
    this.wake();
  }

  unhold(_error: unknown): void {}

  /** The object that the wait is for, such as the queue of a `get()`. `undo` forgets it. */
  get subject(): unknown {
    return undefined;
  }

  /** Describes the wait. When the wait is over, its former subject is passed. */
  describe(_subject?: unknown): string {
    return "a wait";
  }

  get waited(): Waited {
    return { ms: sinceLook(this.value as number), isExact: false };
  }

  get blockers(): readonly Greenlet[] {
    return NO_BLOCKERS;
  }

  /** Ends the wait. Does nothing if it has ended. */
  settle(state: Settled, value: unknown): void {
    const before = this.state;
    if (before !== "idle" && before !== "waiting" && before !== "racing") {
      return;
    }
    this.state = state;
    this.value = value;
    if (this.timer !== null) stopTimer(this.timer);
    if (before === "waiting") {
      const { scope } = this;
      removePending(this);
      wake(this, scope);
    } else if (before === "racing") Suspension.#endRace(this);
  }

  /** Tells the race before anything else can happen, as another wait may end in the same turn. */
  static #endRace(wait: Suspension<unknown>): void {
    const scope = wait.scope!;
    const { pending } = scope;
    // The race may have interrupted it, and then it is not among the pending waits.
    if (pending === wait || pending instanceof Set) removePending(wait);
    else wait.scope = null;
    wait.wake();
    scope.cold!.race!.ended(wait, scope);
  }

  wake(): void {
    if (this.#resolve === null) return;
    if (observers !== null) observers.resolves(this);
    if (this.state === "given") {
      this.#resolve(this.value);
    } else {
      if (this.state === "returned") this.markOwnHandled();
      Suspension.#reject(this);
    }
    this.#resolve = null;
  }

  /** Rejects in the scope of the caller: if nothing awaits the promise, it is unhandled there. */
  static #reject(wait: Suspension<unknown>): void {
    const { caller, value } = wait;
    if (followsAwaits && isUnplaced(value)) {
      Suspension.#rejectPlaced(wait, value);
    } else if (caller === null || current.get() === caller) {
      rejectWith(wait.#resolve!, value);
    } else {
      current.run(caller, rejectWith, wait.#resolve!, value);
    }
  }

  /** Rejects with an error that gets the frames of the functions that await the wait. */
  static #rejectPlaced(wait: Suspension<unknown>, error: Error): void {
    const { caller } = wait;
    const resolve = wait.#resolve!;
    const reject = () =>
      rejectPlaced(resolve, error, () => {
        if (toMark.delete(wait)) wait.markOwnHandled();
        rejectWith(resolve, error);
      });
    if (caller === null) reject();
    else current.run(caller, reject);
  }

  /** The scope of the caller, if the error may be a result and not an interrupt. */
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
    // Another greenlet has begun this wait, so only interrupts of that greenlet end it. This
    // body gets a wait of its own, which interrupts of this body end.
    return new Followed(scopeOf(running)).follow(wait).get()[Symbol.iterator]();
  }
}

/** The wait for a promise. Other waits may be for the same promise, and it may never settle. */
export class PromiseWait<T> extends Suspension<T> implements Reaction {
  reactions: Reactions | null = null;

  /** Ends the wait when a promise settles. */
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

  /** The promise. */
  override get subject(): unknown {
    return this.reactions?.promise;
  }

  override describe(subject: unknown = this.subject): string {
    return followedBy(subject)?.describe() ?? FOREIGN;
  }

  override get blockers(): readonly Greenlet[] {
    return followedBy(this.subject)?.blockers ?? NO_BLOCKERS;
  }
}

/** The wait of the library that is behind a promise, if there is one. */
function followedBy(promise: unknown): Suspension<unknown> | null {
  const waiting = (promise as Partial<OwnWait> | undefined)?.[WAITING];
  return waiting instanceof Suspension ? waiting : null;
}

/** The wait for another wait, possibly of another greenlet. */
export class Followed extends PromiseWait<unknown> {
  readonly #scope: Scope | null;

  constructor(scope: Scope | null) {
    super();
    this.#scope = scope;
  }

  override rejected(error: unknown): void {
    this.throw(errorFor(error, this.#scope));
  }
}

/** Makes the iterator of a promise of the runtime that is settled. */
const TAKEN: Delegable = {
  delegate(wait) {
    return new Followed(null).follow(wait).suspend(null)[Symbol.iterator]();
  },
};

/** The value of a settled promise, which is returned after a turn of the event loop. */
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
 * The wait for a promise of the runtime that is settled already. No interrupt ends it, as the
 * value would be lost.
 *
 * @param isOnce Whether no other call of the same kind can come before the event loop turns.
 */
export function takenWait<T>(promise: Promise<T>, isOnce = false): Wait<T> {
  const isNow = isOnce ? spendOnceInTurn() : spendBudget();
  if (!isNow) return new Taken(promise).suspend(null);
  const wait = promise as Promise<unknown> as OwnWait;
  wait[WAITING] = TAKEN;
  wait[Symbol.iterator] = iterateWait;
  return wait as Wait<unknown> as Wait<T>;
}

/**
 * The suspension behind a wait of ours; `null` for foreign promises, and if only the promise
 * shows the end.
 */
export function beneath(promise: unknown): Over | Suspension<unknown> | null {
  if (!(promise instanceof Promise)) return null;
  const waiting = (promise as Partial<OwnWait>)[WAITING];
  if (waiting instanceof Suspension) {
    return waiting instanceof Taken ? null : waiting;
  }
  return waiting instanceof Over ? waiting : null;
}

/** Whether it is a wait whose value was taken already and is only in its promise. */
export function isTaken(promise: unknown): boolean {
  const waiting = promise instanceof Promise
    ? (promise as Partial<OwnWait>)[WAITING]
    : undefined;
  return waiting === TAKEN || waiting instanceof Taken;
}

/** Whether a promise is a wait of this scope, or a wait that has ended with a value. */
export function isWaitIn<T>(
  scope: Scope,
  promise: PromiseLike<T> | T,
): promise is Wait<T> & PromiseLike<T> {
  const waiting = promise instanceof Promise
    ? (promise as Partial<OwnWait>)[WAITING]
    : undefined;
  return waiting === TAKEN ||
    waiting instanceof Over && waiting.state === "given" ||
    waiting instanceof Suspension &&
      (waiting.scope === scope || waiting.state === "given");
}

/**
 * The wait that lets ready greenlets run first. It has ended from the start, as an `await`
 * alone does that. A generator body switches to the hub, and comes back behind them. All calls
 * share it.
 */
export const TURN: Wait<void> = (() => {
  const turn = new Suspension<void>();
  turn.switch();
  return turn.suspend(null);
})();

/** The iterator of a wait: switches to the hub, and comes back when the wait has ended. */
class Delegation implements Iterator<unknown, unknown, unknown> {
  readonly #wait: Suspension<unknown>;
  #scope: Scope | null = null;

  constructor(wait: Suspension<unknown>) {
    this.#wait = wait;
  }

  next(value: unknown): IteratorResult<unknown, unknown> {
    if (this.#scope === null) return Delegation.#leave(this);
    if (Delegation.#isOrphaned(this)) {
      throw Delegation.#abandonWait(
        this,
        new GreenletError(
          `Cannot switch to ${
            show(this.#scope.greenlet)
          } as it waits: received ${show(value)}; end the wait, or use kill()`,
        ),
      );
    }
    return { done: true, value: this.#wait.value };
  }

  throw(error: unknown): never {
    placeBelow(error, this.throw);
    if (Delegation.#isOrphaned(this)) Delegation.#abandonWait(this, error);
    throw error;
  }

  return(value: unknown): IteratorResult<unknown, unknown> {
    if (Delegation.#isOrphaned(this)) Delegation.#abandonWait(this, value);
    return { done: true, value };
  }

  static #leave(one: Delegation): IteratorResult<unknown, unknown> {
    const running = getRunning();
    const request = main.switch()[Symbol.iterator]();
    const result = request.next();
    if (result.done) {
      throw new GreenletError(
        "Cannot `yield*` a Wait as no generator body of a greenlet runs here: use `await`, or spawn the generator",
      );
    }
    const scope = one.#scope = scopeOf(running);
    if (scope.driver !== null) scope.driver.awaited = one.#wait;
    else BodyDriver.start(running, scope, one.#wait);
    return result;
  }

  /** Whether something other than the wait has resumed the body before the wait ended. */
  static #isOrphaned(one: Delegation): boolean {
    return one.#scope!.driver?.awaited === one.#wait;
  }

  static #abandonWait(one: Delegation, error: unknown): unknown {
    one.#scope!.driver!.awaited = null;
    one.#wait.interrupt(error, false);
    return error;
  }
}

/**
 * Resumes a generator body after each of its waits. A reaction to the promise of the wait does it:
 * so the body has its async context, and its wake-ups are in one queue with those of async bodies.
 * An async function would do the same, and take 300 bytes more.
 */
class BodyDriver implements Driver {
  readonly #running: Greenlet;
  awaited: Suspension<unknown> | null;
  /** The wait whose promise has the reaction. Something else may have resumed the body. */
  #followed: Suspension<unknown>;

  constructor(running: Greenlet, wait: Suspension<unknown>) {
    this.#running = running;
    this.awaited = this.#followed = wait;
  }

  /** Drives a body from its first wait on. */
  static start(
    running: Greenlet,
    scope: Scope,
    wait: Suspension<unknown>,
  ): void {
    scope.driver = new BodyDriver(running, wait);
    if (current.get() === scope) BodyDriver.#react(wait);
    else current.run(scope, BodyDriver.#react, wait);
  }

  /** Needs no closure, as the async context tells the scope. */
  static #react(this: void, wait: Suspension<unknown>): void {
    const resume = current.keep(BodyDriver.#resume);
    then(wait.makePromise(), resume, resume);
  }

  static #resume(this: void): void {
    const scope = current.get()!;
    const driver = scope.driver as BodyDriver;
    const wait = driver.#followed;
    if (driver.awaited === wait) {
      driver.awaited = null;
      BodyDriver.#switch(driver.#running, wait);
    }
    if (driver.awaited === null) scope.driver = null;
    else BodyDriver.#react(driver.#followed = driver.awaited);
  }

  static #switch(running: Greenlet, wait: Suspension<unknown>): void {
    try {
      if (wait.state === "given") core.switch.call(running, wait.value);
      else if (wait.state === "returned") core.return.call(running, wait.value);
      else core.throw.call(running, wait.value);
    } catch (error) {
      // Nothing else takes it.
      report(running, error);
    }
  }
}

/** The core's own methods, which a subclass may have overridden. */
const core = Greenlet.prototype;
