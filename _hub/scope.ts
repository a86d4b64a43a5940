/**
 * Scopes: the pending waits, the errors that are due, and the stages of a kill.
 *
 * A scope holds the pending waits of a greenlet, and the errors that are due. The async context
 * carries the current scope through every `await`, also of foreign promises. A greenlet has one
 * scope, and another one for each `withTimeout` and nursery that it is in. A scope makes no
 * promises: `suspension.ts` does that.
 *
 * @module
 */

import { membersOf, pairOf } from "../_base/language.ts";
import { isObject, show } from "../_base/checks.ts";
import { List, type Member } from "../_base/linked_list.ts";
import type { Greenlet } from "../greenlet.ts";
import { KEY, type Mapped } from "./async_context.ts";
import {
  hand,
  isInterrupt,
  isRecipient,
  markRecipientOf,
  noteInterruptOf,
} from "./interrupts.ts";
import { noteMainWaits } from "./loop_end.ts";
import { main } from "./main.ts";
import { observers } from "./observer.ts";
import {
  now,
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./timers.ts";
import { eachWrapped } from "./wrapped.ts";

/** The default time that a killed body has to clean up, in ms. */
export const GRACE = 1000;

/** The number of times that an escalated body may swallow its error before it is abandoned. */
const MAX_SWALLOWED = 10;

/** A kill that a body has not obeyed yet. */
interface Kill {
  readonly error: unknown;
  readonly grace: number;
  /** The end of the grace, in the time of `now()`; `Infinity` until the error is thrown. */
  deadline: number;
}

/**
 * How far the interrupts of a scope have gone:
 *
 * - `interrupted`: each error is thrown once
 * - `graced`: killed, and the body may clean up until the deadline
 * - `escalating`: every wait throws from now on; the error is new to the body, so it is first
 *   thrown once
 * - `escalated`: every wait throws, and a generator body is ended
 * - `abandoned`: the body has swallowed its kill again and again, and is left suspended for
 *   good
 * - `ended`: the body has ended; calls that it has left behind are not interrupted
 */
type InterruptStage =
  | "interrupted"
  | "graced"
  | "escalating"
  | "escalated"
  | "abandoned"
  | "ended";

/** The interrupts of a scope. Nearly all scopes have none, so they are kept apart. */
class InterruptState implements TimerTarget {
  readonly scope: Scope;
  stage: InterruptStage = "interrupted";
  /**
   * The error that has killed the body, or is about to; from `escalating` on, the error that
   * every wait throws.
   */
  cause: { readonly error: unknown } | null = null;
  /** The kill that has set the deadline. */
  kill: Kill | null = null;
  /** Errors that arrived between waits: each is thrown by one cooperative call. */
  held: unknown[] = [];
  /** The error that was thrown last, until the body begins something cooperative. */
  thrown: unknown = undefined;
  /** The error that has interrupted the body last; `earlier` has those before. */
  last: unknown = undefined;
  earlier: WeakSet<object> | null = null;
  /** How many waits `last` has ended whose errors the body may have got. */
  reached = 0;
  /** The `Timeout` that has interrupted the body last. */
  limit: Error | null = null;
  /** Whether a kill was thrown into the body. Not a stage, as it is also needed after the end. */
  isKillThrown = false;
  /** Runs while a killed body waits again, until its grace is over. */
  graceTimer: Timer | null = null;
  /** The number of times that an escalated body was thrown its error. */
  swallowed = 0;

  constructor(scope: Scope) {
    this.scope = scope;
  }

  /** Whether every wait throws. */
  get insists(): boolean {
    const { stage } = this;
    return stage === "escalating" || stage === "escalated" ||
      stage === "abandoned";
  }

  expired(): "nothing" {
    this.graceTimer = null;
    this.scope.escalate(this.kill!.error);
    // Greenlets that were killed together get it together.
    return "nothing";
  }
}

/** The time that a wait has taken so far. */
export interface Waited {
  readonly ms: number;
  /** Whether the time is exact. Otherwise it is an upper bound, as the clock was not read. */
  readonly isExact: boolean;
}

/**
 * A wait of a scope, which an interrupt ends. An interface and no class: one more class in
 * the chain of constructors costs each wait as much as all of its fields.
 */
export interface Pending {
  /** `null` when it is not pending. */
  scope: Scope | null;

  /**
   * Ends the wait with an error.
   *
   * @param final Whether the scope may not wait any longer.
   */
  interrupt(error: unknown, final: boolean): void;

  /** Removes an error that has interrupted it and was not thrown yet. */
  unhold(error: unknown): void;

  /** Describes the wait, such as `Queue.get()`. Called only for `waitsIn` and debugging. */
  describe(): string;

  /** The time that the wait has taken so far, if known. */
  readonly waited?: Waited;

  /** Whether this wait may run beside the body, so that another wait describes the body better. */
  readonly isAside?: boolean;

  /** Whether it waits for an event of an object that may be pending itself, such as a child. */
  readonly listens?: boolean;

  /** The emitter whose event or whose end it waits for, if known. */
  readonly emitter?: object | null;

  /** Whether it is a timer of the program: it may be the time limit of another wait. */
  readonly isTimer?: boolean;

  /** The greenlets that must all go on before the wait can end, if known. */
  readonly blockers: readonly Greenlet[];
}

/** What resumes a generator body after each of its waits. */
export interface Driver {
  /** The wait in which the body is suspended; `null` while the body runs. */
  awaited: Pending | null;
}

/** Adds a wait to the waits that an interrupt of the scope ends. */
export function addPending(scope: Scope, one: Pending): void {
  one.scope = scope;
  const { pending } = scope;
  if (pending === null) {
    scope.pending = one;
    if (scope === mainScope) noteMainWaits();
  } else if (pending instanceof Set) pending.add(one);
  else scope.pending = pairOf(pending, one);
  if (scope.interrupts !== null) scope.startGraceTimer();
  if (observers !== null) observers.waits(scope.greenlet);
}

/** Removes a wait that has ended. */
export function removePending(one: Pending): void {
  const { scope } = one;
  if (scope === null) return;
  one.scope = null;
  if (observers !== null) observers.woken(scope.greenlet, one);
  const pending = scope.pending!;
  if (pending instanceof Set) {
    pending.delete(one);
    if (pending.size > 0) return;
  }
  scope.pending = null;
  if (scope.interrupts !== null) scope.stopGraceTimer();
}

/** Something that is dropped when the body of its scope is dead, such as a timeout. */
export abstract class ScopeOwned implements Member<ScopeOwned> {
  list: List<ScopeOwned> | null = null;
  previous: ScopeOwned | null = null;
  next: ScopeOwned | null = null;

  /** Called when the body is dead. */
  abstract drop(): void;

  /** Called when the body is dead and was part of another body: moves to that body's scope. */
  abstract moveTo(scope: Scope): void;
}

/**
 * How a due error is thrown:
 *
 * - `once`: it was held for the next wait
 * - `thrown`, `returned`: by every wait, into a generator body by its `throw` or `return`
 * - `abandoned`: not thrown; the body has swallowed it too often and is abandoned now
 * - `never`: not thrown; the body was abandoned before
 */
type Way = "once" | "thrown" | "returned" | "abandoned" | "never";

/** An error that the next cooperative call must throw. */
export interface Due {
  readonly error: unknown;
  readonly how: Way;
}

/** The origin of greenlets. All greenlets that were made in the same scope share one object. */
export interface Origin {
  /** The greenlet that has spawned them. */
  readonly spawner: WeakRef<Greenlet>;
  /** The tree that they are in; `null` if each begins a new tree. */
  readonly root: Tree | null;
}

/** A tree of greenlets. It does not keep a reference to its first greenlet, which may be dead. */
class Tree {
  /** The object that all greenlets of the tree share. */
  readonly shared: Record<PropertyKey, unknown>;

  constructor(shared: Record<PropertyKey, unknown>) {
    this.shared = shared;
  }
}

/** Several waits of one scope, of which one may take a value. */
export interface Race {
  /**
   * Called as soon as one of them has ended, before another can receive a value.
   *
   * @param scope The scope in which it has waited.
   */
  ended(one: Pending, scope: Scope): void;
  /** Called when one of them has taken a value, and is about to end. */
  claimed(one: Pending, scope: Scope): void;
}

/** Fields that few scopes need. */
class ColdFields {
  origin: Origin | null = null;
  /** For main only: greenlets that main spawns are not in main's tree. */
  treeLocals: Record<PropertyKey, unknown> | null = null;
  locals: WeakMap<object, object> | null = null;
  shielded = false;
  abandoned: (() => void) | null = null;
  hasEnded: (() => boolean) | null = null;
  owned: List<ScopeOwned> | null = null;
  race: Race | null = null;
}

/**
 * The pending waits and the due errors of a greenlet, or of a part of it; see the module's text.
 * Each greenlet that has begun has a scope, so some private methods are functions below: private methods make each instance 8 bytes larger.
 */
export class Scope implements Mapped {
  readonly [KEY] = this;
  readonly #greenlet: Greenlet;
  #pending: Pending | Set<Pending> | null = null;
  #interrupts: InterruptState | null = null;
  #driver: Driver | null = null;
  #errorIsHandled = false;
  #root: Tree | null = null;
  #cold: ColdFields | null = null;
  #previousAlive: Scope | null = null;
  #nextAlive: Scope | null = null;

  constructor(greenlet: Greenlet) {
    this.#greenlet = greenlet;
  }

  /** The greenlet that `getCurrent` returns. */
  get greenlet(): Greenlet {
    return this.#greenlet;
  }

  /** The waits that an interrupt ends, in order: nearly always one at most. */
  get pending(): Pending | Set<Pending> | null {
    return this.#pending;
  }

  set pending(pending: Pending | Set<Pending> | null) {
    this.#pending = pending;
  }

  get interrupts(): InterruptState | null {
    return this.#interrupts;
  }

  set interrupts(interrupts: InterruptState) {
    this.#interrupts = interrupts;
  }

  /** What resumes the generator body; `null` if the body has not waited yet, or has ended. */
  get driver(): Driver | null {
    return this.#driver;
  }

  set driver(driver: Driver | null) {
    this.#driver = driver;
  }

  /** Whether the greenlet's error is thrown elsewhere, so that it is not reported. */
  get errorIsHandled(): boolean {
    return this.#errorIsHandled;
  }

  set errorIsHandled(isHandled: boolean) {
    this.#errorIsHandled = isHandled;
  }

  /**
   * The tree that this greenlet is in; `null` if it is the first greenlet of a tree that was
   * not needed yet. Main is in no tree, unless its `treeLocals` were set.
   */
  get root(): Tree | null {
    return this.#root;
  }

  set root(root: Tree | null) {
    this.#root = root;
  }

  get cold(): ColdFields | null {
    return this.#cold;
  }

  set cold(cold: ColdFields) {
    this.#cold = cold;
  }

  /**
   * The neighbours in the list of live scopes; see `live.ts`. Not a `Member` of a `List`, whose
   * third field would make each scope 8 bytes larger.
   */
  get previousAlive(): Scope | null {
    return this.#previousAlive;
  }

  set previousAlive(scope: Scope | null) {
    this.#previousAlive = scope;
  }

  get nextAlive(): Scope | null {
    return this.#nextAlive;
  }

  set nextAlive(scope: Scope | null) {
    this.#nextAlive = scope;
  }

  /** The object that all greenlets of its tree share. */
  get treeLocals(): Record<PropertyKey, unknown> {
    return this === mainScope && this.root === null
      ? coldFieldsOf(this).treeLocals ??= {}
      : treeOf(this).shared;
  }

  /** Sets the object for this greenlet and the greenlets that it spawns from now on. */
  set treeLocals(shared: Record<PropertyKey, unknown>) {
    if (!isObject(shared)) {
      throw new TypeError(
        `Cannot set spawn tree locals as they must be an object: received ${
          show(shared)
        }`,
      );
    }
    this.root = new Tree(shared);
    coldFieldsOf(this).origin = null;
  }

  /** The greenlet's object in each `local`, until its body is dead. */
  get locals(): WeakMap<object, object> {
    return coldFieldsOf(this).locals ??= new WeakMap();
  }

  /** Whether the call waits until the function has ended, as nothing may outlive it. */
  get shielded(): boolean {
    return this.cold?.shielded ?? false;
  }

  set shielded(isShielded: boolean) {
    coldFieldsOf(this).shielded = isShielded;
  }

  /** Called when the body of this scope is abandoned, if that is not the body of a greenlet. */
  set abandoned(abandoned: () => void) {
    coldFieldsOf(this).abandoned = abandoned;
  }

  /**
   * Tells whether the function of this scope has ended, before that is noted: code that goes on in
   * the same step may begin the next task of a queue.
   */
  set hasEnded(hasEnded: () => boolean) {
    coldFieldsOf(this).hasEnded = hasEnded;
  }

  /** The race of the waits of the scope, of which one is taken. */
  set race(race: Race) {
    coldFieldsOf(this).race = race;
  }

  /** Things to drop when the body is dead, unless calls that it has left behind still wait. */
  get owned(): List<ScopeOwned> {
    return coldFieldsOf(this).owned ??= new List();
  }

  /** Whether there is something to drop, or to move, when the body is dead. */
  get ownsSomething(): boolean {
    return (this.cold?.owned?.length ?? 0) > 0;
  }

  /** Whether something may ask for the scope when the body is dead. */
  get isKept(): boolean {
    return this.interrupts !== null || this.cold !== null;
  }

  /** Whether an interrupt ends one wait at most. */
  get isPlain(): boolean {
    return !(this.pending instanceof Set) || this.pending.size === 1;
  }

  /**
   * Throws an error into the body: all its pending waits throw it; if there are none, its next
   * wait does.
   */
  interrupt(error: unknown): void {
    noteInterrupt(this, error);
    noteThrown(this, error);
    if (this.pending === null) this.hold(error);
    else {
      const { interrupts, pending } = this;
      if (interrupts !== null) {
        if (interrupts.kill?.error === error) interrupts.isKillThrown = true;
        interrupts.reached = pending instanceof Set ? pending.size : 1;
      }
      visitPending(interruptEach, this, error, false);
    }
    this.startGraceTimer();
  }

  /** Whether the waits that an error ends now are counted, for {@linkcode Scope.unheard}. */
  isCounting(error: unknown): boolean {
    const { interrupts } = this;
    return interrupts !== null && interrupts.reached > 0 &&
      interrupts.last === error && this !== mainScope && isInterrupt(error);
  }

  /**
   * Notes that no code awaits a promise of this scope which an interrupt has rejected. If that is
   * so for all waits that the interrupt has ended, the body has not got it: it was in a foreign
   * promise. Then its next wait throws it.
   *
   * @returns Whether the next wait will throw it.
   */
  unheard(error: unknown): boolean {
    if (!this.isCounting(error)) return false;
    const interrupts = this.interrupts!;
    const { kill, stage } = interrupts;
    if (stage !== "interrupted" && stage !== "graced") return false;
    if (--interrupts.reached > 0) return false;
    if (kill !== null && kill.error === error) {
      kill.deadline = this.pending === null ? Infinity : now() + kill.grace;
      interrupts.isKillThrown = false;
      this.stopGraceTimer();
    }
    this.interrupt(error);
    return true;
  }

  /** Counts one more promise that throws an error. Returns whether they are counted. */
  countOneMore(error: unknown): boolean {
    const isCounting = this.isCounting(error);
    if (isCounting) this.interrupts!.reached++;
    return isCounting;
  }

  /** Notes that the body gets the error by itself, and not only by its waits. */
  noteHeard(error: unknown): void {
    const { interrupts } = this;
    if (interrupts !== null && interrupts.last === error) {
      interrupts.reached = 0;
    }
  }

  /** Notes that the body awaits a promise after all that an error has rejected. */
  takeHeld(error: unknown): void {
    if (this.holds(error)) this.takeDue(error);
  }

  /** Throws a timeout into the body. An error of the body that wraps it counts as the timeout. */
  timeOut(timeout: Error): void {
    if (this !== mainScope) interruptStateOf(this).limit = timeout;
    this.interrupt(timeout);
  }

  /** Throws an error into the body, and escalates the scope after `grace` ms. */
  kill(error: unknown, grace: number): void {
    const interrupts = interruptStateOf(this);
    if (grace <= 0) {
      const isNew = !this.isEscalated &&
        (interrupts.kill?.error !== error || this.holds(error));
      return this.escalate(error, isNew);
    }
    const { kill } = interrupts;
    const deadline = this.pending === null ? Infinity : now() + grace;
    if (
      kill === null || deadline < kill.deadline ||
      deadline === kill.deadline && grace <= kill.grace
    ) {
      interrupts.kill = { error, grace, deadline };
      if (!interrupts.insists) {
        interrupts.stage = "graced";
        interrupts.cause = interrupts.kill;
      }
      stopTimer(interrupts.graceTimer);
      interrupts.graceTimer = null;
    }
    this.interrupt(error);
  }

  /** The error of its last kill; `null` if it was not killed. */
  get killed(): { readonly error: unknown } | null {
    return this.interrupts?.cause ?? null;
  }

  /** Notes a kill that the hub is going to deliver. */
  expectKill(error: unknown): void {
    const interrupts = interruptStateOf(this);
    if (interrupts.stage === "interrupted") interrupts.cause = { error };
  }

  /** Whether a kill was thrown into the body, and is not only held for its next wait. */
  get isKillThrown(): boolean {
    return this.interrupts?.isKillThrown ?? false;
  }

  /** The grace of a body that was killed, in ms; `null` if it was not, or is past its grace. */
  get grace(): number | null {
    const { interrupts } = this;
    return interrupts !== null && interrupts.stage === "graced" &&
        !this.isEscalated
      ? interrupts.kill!.grace
      : null;
  }

  /** The ms of the grace that are left; 0 if no kill was thrown into the body. */
  get graceLeft(): number {
    const deadline = this.grace === null ? 0 : this.interrupts!.kill!.deadline;
    return deadline < Infinity ? deadline - now() : 0;
  }

  /**
   * Ends the grace of a killed body in `grace` ms, and throws nothing until then. A grace that
   * ends sooner stays as it is.
   */
  shortenGrace(grace: number): void {
    if (this.grace === null) return;
    const interrupts = this.interrupts!;
    const kill = interrupts.kill!;
    const isHeld = this.holds(kill.error);
    if (grace <= 0) return this.escalate(kill.error, isHeld);
    const deadline = isHeld ? Infinity : now() + grace;
    if (deadline > kill.deadline || isHeld && grace >= kill.grace) return;
    interrupts.kill = { error: kill.error, grace, deadline };
    this.stopGraceTimer();
    this.startGraceTimer();
  }

  /**
   * Throws an error from the body's pending waits and from every later wait.
   *
   * @param isNew Whether the error is new to the body: then it is thrown once, before it
   * ends a generator body.
   */
  escalate(error: unknown, isNew = false): void {
    noteInterrupt(this, error);
    const interrupts = interruptStateOf(this);
    noteLast(interrupts, error);
    interrupts.held.length = 0;
    interrupts.cause = { error };
    if (interrupts.stage !== "abandoned") {
      const isStillNew = isNew || interrupts.stage === "escalating";
      interrupts.stage = isStillNew ? "escalating" : "escalated";
    }
    this.stopGraceTimer();
    if (this.pending === null) return;
    interrupts.swallowed++;
    interrupts.isKillThrown = true;
    visitPending(interruptEach, this, error, true);
  }

  /** Whether the error that every wait throws is thrown, or ends the body by `return()`. */
  get lastThrow(): "thrown" | "returned" {
    return this.interrupts!.stage === "escalating" ? "thrown" : "returned";
  }

  /**
   * Must be called when the body has ended, or was abandoned.
   *
   * Calls that a body leaves running in its scope no longer belong to a greenlet, and are not
   * interrupted. They may serve other greenlets: a queue in a package may start each task from
   * the task before it.
   *
   * @param heir The scope that waits for this one, as part of the same greenlet.
   */
  close(heir: Scope | null = null): void {
    const { cold, interrupts } = this;
    if (cold !== null) {
      cold.locals = null;
      if (cold.owned !== null && this.pending === null) {
        // Main never ends, so nothing that moved there would ever be dropped.
        if (this.greenlet === main || this.greenlet.dead) heir = null;
        for (let one; (one = cold.owned.shift()) !== null;) {
          if (heir === null) one.drop();
          else one.moveTo(heir);
        }
      }
    }
    if (interrupts === null) return;
    this.stopGraceTimer();
    interrupts.thrown = undefined;
    // A dead greenlet keeps only the error that it was killed by.
    if (interrupts.last !== this.killed?.error) noteLast(interrupts, undefined);
    interrupts.last = undefined;
    interrupts.limit = null;
    interrupts.reached = 0;
    interrupts.held.length = 0;
    if (interrupts.stage !== "abandoned") interrupts.stage = "ended";
    interrupts.kill = null;
  }

  /** Keeps an error for the next wait, which throws it. */
  hold(error: unknown): void {
    interruptStateOf(this).held.push(error);
  }

  /** Removes an error that was not thrown yet. */
  unhold(error: unknown): void {
    const { interrupts } = this;
    const i = interrupts === null ? -1 : interrupts.held.indexOf(error);
    if (i >= 0) {
      interrupts!.held.splice(i, 1);
      interrupts!.thrown = undefined;
    }
    this.noteHeard(error);
    if (this.pending !== null) visitPending(unholdEach, this, error, false);
  }

  /** Whether an error waits to be thrown. */
  holds(error: unknown): boolean {
    return this.interrupts?.held.includes(error) ?? false;
  }

  /**
   * Notes that a call has thrown an error to this scope as its result. From now on the error
   * counts as the greenlet's own, not as an interrupt of another greenlet.
   */
  markRecipient(error: unknown): void {
    if (isObject(error)) markRecipientOf(error, this.greenlet);
    this.receiveInterrupts(error);
  }

  /**
   * Notes that a call of this scope has failed with an error. If the error is or wraps an
   * interrupt of another call of the greenlet, it counts as a result here.
   */
  receiveInterrupts(error: unknown): void {
    eachWrapped(error, (one) => {
      if (
        isObject(one) && isInterrupt(one) && isRecipient(one, this.greenlet) &&
        !this.wasInterruptedBy(one) && !endedSeveral.has(one)
      ) hand(one, this);
    });
  }

  /** Whether an error has ever interrupted the body. */
  wasInterruptedBy(error: unknown): boolean {
    const { interrupts } = this;
    if (interrupts === null || error === undefined) return false;
    if (error === interrupts.last) return true;
    const { cause, stage } = interrupts;
    const isThrown = interrupts.insists || stage === "ended";
    return isThrown && cause !== null && error === cause.error ||
      isObject(error) && interrupts.earlier !== null &&
        interrupts.earlier.has(error);
  }

  /** Whether the body is past its grace, so that every wait throws. */
  get isEscalated(): boolean {
    const { interrupts } = this;
    if (interrupts === null) return false;
    return interrupts.insists ||
      interrupts.stage === "graced" && now() >= interrupts.kill!.deadline;
  }

  /**
   * Escalates a body that is past its grace, if the timer has not done so: the event loop may
   * be late, and no timer runs while the body does not wait.
   *
   * @returns The error that every wait throws; `null` if the body has time left.
   */
  escalateIfOverdue(): { readonly error: unknown } | null {
    const { interrupts } = this;
    if (interrupts === null || !this.isEscalated) return null;
    if (!interrupts.insists) {
      interrupts.stage = "escalated";
      interrupts.held.length = 0;
    }
    return interrupts.cause;
  }

  /**
   * The interrupt that is probably ending the body; `undefined` if none is. It is a guess: a
   * `for await` loop calls `return()` for an error as for a `break`.
   */
  get unwinding(): unknown {
    const { interrupts } = this;
    if (interrupts === null) return undefined;
    const { kill, cause, thrown } = interrupts;
    if (interrupts.insists) return cause!.error;
    // A kill without a deadline may have been caught long ago.
    return kill !== null && kill.grace < Infinity ? kill.error : thrown;
  }

  /** Whether a generator body was ended by `return()` with the error: then it has failed. */
  isEscalation(outcome: unknown): boolean {
    const { interrupts } = this;
    return interrupts !== null && interrupts.insists &&
      interrupts.cause!.error === outcome;
  }

  /** The timeout that was thrown into the body last, if there is one. */
  get limit(): Error | null {
    return this.interrupts?.limit ?? null;
  }

  /** The error that a cooperative call must throw in place of its operation, if there is one. */
  get due(): { readonly error: unknown } | null {
    const { interrupts } = this;
    if (interrupts === null) return null;
    const escalated = this.escalateIfOverdue();
    if (escalated !== null) {
      if (!(this.cold?.hasEnded?.() ?? false)) return escalated;
      this.close();
    }
    return interrupts.held.length === 0 ? null : { error: interrupts.held[0] };
  }

  /** Notes that a call throws an error that was {@linkcode Scope.due}, as its caller awaits it. */
  takeDue(error: unknown): Due {
    const escalated = this.escalateIfOverdue();
    const interrupts = this.interrupts!;
    if (escalated !== null) {
      const { error } = escalated;
      interrupts.isKillThrown = true;
      if (++interrupts.swallowed > MAX_SWALLOWED) {
        if (interrupts.stage === "abandoned") return { error, how: "never" };
        interrupts.stage = "abandoned";
        return { error, how: "abandoned" };
      }
      const how = this.lastThrow;
      noteThrownOnce(interrupts);
      return { error, how };
    }
    const i = interrupts.held.indexOf(error);
    const { kill } = interrupts;
    if (i >= 0) {
      interrupts.held.splice(i, 1);
      if (kill !== null && kill.error === error) {
        kill.deadline = now() + kill.grace;
        interrupts.isKillThrown = true;
      }
    }
    return { error, how: "once" };
  }

  /** Starts the timer of the grace, as a killed body waits again. */
  startGraceTimer(): void {
    const { interrupts } = this;
    if (
      interrupts === null || interrupts.stage !== "graced" ||
      interrupts.graceTimer !== null || this.pending === null
    ) return;
    interrupts.graceTimer = startTimer(
      interrupts.kill!.deadline - now(),
      interrupts,
    );
  }

  /**
   * Stops the timer, as the body no longer waits in the library. It may be stuck in a foreign
   * promise for ever, and the timer would keep the process alive.
   */
  stopGraceTimer(): void {
    const { interrupts } = this;
    if (interrupts === null || interrupts.graceTimer === null) return;
    stopTimer(interrupts.graceTimer);
    interrupts.graceTimer = null;
  }
}

export function coldFieldsOf(scope: Scope): ColdFields {
  return scope.cold ??= new ColdFields();
}

/** Returns the tree of a scope. A scope without a tree begins one. */
export function treeOf(scope: Scope): Tree {
  if (scope.root === null) {
    // Keeps the scope when the body is dead, as the scope knows the tree.
    coldFieldsOf(scope);
    scope.root = new Tree({});
  }
  return scope.root;
}

function interruptStateOf(scope: Scope): InterruptState {
  return scope.interrupts ??= new InterruptState(scope);
}

function noteThrown(scope: Scope, error: unknown): void {
  // Main does not end, and without an interrupt state its checkpoints stay fast.
  if (scope === mainScope) return;
  const interrupts = interruptStateOf(scope);
  interrupts.thrown = error;
  noteLast(interrupts, error);
}

/** Notes that the error which every wait throws is no longer new to the body. */
function noteThrownOnce(interrupts: InterruptState): void {
  if (interrupts.stage === "escalating") interrupts.stage = "escalated";
}

/** Notes the error that has interrupted a body, beside those that have before. */
function noteLast(interrupts: InterruptState, error: unknown): void {
  const { last } = interrupts;
  if (error === last) return;
  if (isObject(last)) (interrupts.earlier ??= new WeakSet()).add(last);
  interrupts.last = error;
}

type Visit = (scope: Scope, error: unknown, final: boolean) => void;

/**
 * The most scopes within each other that an interrupt reaches by nested calls. More would
 * overflow the stack: those within are visited after the calls have returned.
 */
const MOST_NESTED = 200;
let nesting = 0;
/** The scopes that are too deep for nested calls. */
const deeper: [visit: Visit, scope: Scope, error: unknown, final: boolean][] =
  [];

/** Calls a function for the pending waits of a scope, which may be those of scopes within it. */
function visitPending(
  visit: Visit,
  scope: Scope,
  error: unknown,
  final: boolean,
): void {
  if (nesting === MOST_NESTED) {
    return void deeper.push([visit, scope, error, final]);
  }
  nesting++;
  try {
    visit(scope, error, final);
  } finally {
    nesting--;
  }
  while (nesting === 0 && deeper.length > 0) {
    const next = deeper.shift()!;
    visitPending(next[0], next[1], next[2], next[3]);
  }
}

function unholdEach(scope: Scope, error: unknown): void {
  const { pending } = scope;
  if (!(pending instanceof Set)) return pending?.unhold(error);
  pending.forEach((one) => one.unhold(error));
}

function interruptEach(scope: Scope, error: unknown, final: boolean): void {
  const { pending } = scope;
  if (!(pending instanceof Set)) pending?.interrupt(error, final);
  else {
    // Undoing a wait may remove others. It begins no waits, as bodies go on later.
    membersOf(pending).forEach((one) => {
      if (one.scope === scope) one.interrupt(error, final);
    });
  }
  if (final) noteThrownOnce(scope.interrupts!);
}

/**
 * Throws an error into code that runs in the scope of no greenlet: an interrupt of a greenlet
 * has made its work useless.
 */
export function endWith(scope: Scope, error: unknown): void {
  noteThrown(scope, error);
  if (scope.pending === null) scope.hold(error);
  else visitPending(interruptEach, scope, error, false);
}

/** Notes that an error interrupts a scope. */
function noteInterrupt(scope: Scope, error: unknown): void {
  if (!isObject(error)) return;
  noteInterruptOf(error, scope.greenlet);
  if (scope !== mainScope) return;
  // Main has no end that could report the error, so in main it is an error like any other. But
  // if it ends several waits, it is meant for only one of them.
  if (scope.isPlain) hand(error, scope);
  else endedSeveral.add(error);
}

/** Errors that have interrupted main while it waited in several calls. */
const endedSeveral = new WeakSet<object>();

/** The scope of all code that is in no other scope. */
export const mainScope: Scope = new Scope(main);
