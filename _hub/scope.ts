/**
 * Scopes: what is pending, what is due, and the states of a kill.
 *
 * A scope is one greenlet's line of execution as the event loop sees it: the waits that
 * are pending, and the errors that are due. It is what the context carries through every
 * `await`, foreign ones included. A greenlet has one scope, and another for each
 * `withTimeout` that it is in. A scope makes no promises: `suspension.ts` does.
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
import { main } from "./main.ts";
import {
  now,
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./timers.ts";
import { eachWrapped } from "./wrapped.ts";

/** How long a killed body may take to clean up, unless told otherwise, in ms. */
export const GRACE = 1000;

/** How often a escalated body may swallow the error before it is left for good. */
const MAX_SWALLOWED = 10;

/** A kill that a body has not obeyed yet. */
interface Kill {
  readonly error: unknown;
  readonly grace: number;
  /**
   * When clean-up has taken long enough, as the timers of the library tell it; `Infinity`
   * until the error is thrown.
   */
  deadline: number;
}

/**
 * How far the interrupts of a scope have gone:
 *
 * - `interrupted`: each error is thrown once
 * - `graced`: killed, and the body may clean up until the deadline
 * - `escalating`: every wait throws from now on, and the first throws an error that is new
 *   to the body
 * - `escalated`: every wait throws, and a generator body is ended
 * - `abandoned`: the body has swallowed its kill again and again, and is left suspended for
 *   good
 * - `ended`: what has ended the body does not interrupt what the body has left behind
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
   * The error that has killed the body, or is about to; from `escalating` on, the one that
   * every wait throws.
   */
  cause: { readonly error: unknown } | null = null;
  /** The kill that has set the deadline. */
  kill: Kill | null = null;
  /** Errors that arrived between waits: each is thrown by one cooperative call. */
  held: unknown[] = [];
  /** What was thrown last, until something cooperative is begun. */
  thrown: unknown = undefined;
  /** What has interrupted the body last, and what has before. */
  last: unknown = undefined;
  earlier: WeakSet<object> | null = null;
  /** The `Timeout` that has interrupted the body last. */
  limit: Error | null = null;
  /** Whether a kill was thrown into the body. No stage, as it is asked of ended ones too. */
  isKillThrown = false;
  /** Runs while a killed body waits again, until its grace is over. */
  graceTimer: Timer | null = null;
  /** How often an escalated body was thrown its error. */
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
    // Those who were killed together get it together.
    return "nothing";
  }
}

/**
 * Something of a scope that an interrupt undoes. No class to inherit from, as one more for
 * each wait to be made by costs as much as all of its fields.
 */
export interface Pending {
  /** `null` when it is not pending. */
  scope: Scope | null;

  /**
   * Ends what is pending, with an error.
   *
   * @param final Whether the scope may not wait any longer.
   */
  interrupt(error: unknown, final: boolean): void;

  /** Takes back an error that it was interrupted by, and that was not thrown yet. */
  unhold(error: unknown): void;
}

/** Has an interrupt of the scope undo something. */
export function addPending(scope: Scope, one: Pending): void {
  one.scope = scope;
  const { pending } = scope;
  if (pending === null) scope.pending = one;
  else if (pending instanceof Set) pending.add(one);
  else scope.pending = pairOf(pending, one);
  if (scope.interrupts !== null) scope.workGrace();
}

/** There is nothing more to undo. */
export function removePending(one: Pending): void {
  const { scope } = one;
  if (scope === null) return;
  one.scope = null;
  const pending = scope.pending!;
  if (pending instanceof Set) {
    pending.delete(one);
    if (pending.size > 0) return;
  }
  scope.pending = null;
  if (scope.interrupts !== null) scope.restGrace();
}

/** Something that is of no use any more when the body of its scope is dead. */
export abstract class ScopeOwned implements Member<ScopeOwned> {
  list: List<ScopeOwned> | null = null;
  previous: ScopeOwned | null = null;
  next: ScopeOwned | null = null;

  /** The body is dead. */
  abstract drop(): void;

  /** The body is dead, and was a part of another, of whose scope it is from now on. */
  abstract moveTo(scope: Scope): void;
}

/**
 * How an error is thrown that is due:
 *
 * - `once`: it was held for the next wait
 * - `thrown`, `returned`: by every wait, into a generator body by its `throw` or `return`
 * - `abandoned`: the body has swallowed it too often, and is given up now
 * - `never`: the body was given up before
 */
type Way = "once" | "thrown" | "returned" | "abandoned" | "never";

/** An error that is due. */
export interface Due {
  readonly error: unknown;
  readonly how: Way;
}

/** Where greenlets come from: one for all who were spawned in the same place. */
export interface Origin {
  /** Who has spawned them. */
  readonly spawner: WeakRef<Greenlet>;
  /** The tree that they are in; `null` if each begins one of its own. */
  readonly root: Tree | null;
}

/** A tree of greenlets. It does not keep the first of them, which may be dead. */
class Tree {
  /** What the tree shares. */
  readonly shared: Record<PropertyKey, unknown>;

  constructor(shared: Record<PropertyKey, unknown>) {
    this.shared = shared;
  }
}

/** What few scopes have. */
class ColdFields {
  origin: Origin | null = null;
  /** Of main only, of whose tree the greenlets are not that it spawns. */
  treeLocals: Record<PropertyKey, unknown> | null = null;
  locals: WeakMap<object, object> | null = null;
  shielded = false;
  abandoned: (() => void) | null = null;
  owned: List<ScopeOwned> | null = null;
}

/**
 * A line of execution; see the module's text. There is one for each greenlet that has
 * begun, so there are functions below where there could be private methods, which make each
 * instance larger by 8 bytes.
 */
export class Scope implements Mapped {
  readonly [KEY] = this;
  readonly #greenlet: Greenlet;
  #pending: Pending | Set<Pending> | null = null;
  #interrupts: InterruptState | null = null;
  #awaited: Pending | null = null;
  #quiet = false;
  #root: Tree | null = null;
  #extras: ColdFields | null = null;
  #previousAlive: Scope | null = null;
  #nextAlive: Scope | null = null;

  constructor(greenlet: Greenlet) {
    this.#greenlet = greenlet;
  }

  /** Whom `getCurrent` gives. */
  get greenlet(): Greenlet {
    return this.#greenlet;
  }

  /** What an interrupt undoes, and in which order: nearly always one thing at most. */
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

  /**
   * The wait in which the generator body is suspended; `DRIVEN`, if it is in none and yet
   * some `drive` looks after it.
   */
  get awaited(): Pending | null {
    return this.#awaited;
  }

  set awaited(awaited: Pending | null) {
    this.#awaited = awaited;
  }

  /** Whether somebody else tells of its greenlet's error. */
  get errorIsHandled(): boolean {
    return this.#quiet;
  }

  set errorIsHandled(quiet: boolean) {
    this.#quiet = quiet;
  }

  /**
   * The tree of greenlets that this one is in; `null` if it is the first, and nobody has
   * asked for the tree. Main is in none, unless it was assigned.
   */
  get root(): Tree | null {
    return this.#root;
  }

  set root(root: Tree | null) {
    this.#root = root;
  }

  get cold(): ColdFields | null {
    return this.#extras;
  }

  set cold(extras: ColdFields) {
    this.#extras = extras;
  }

  /** A neighbour among those that are alive; see `_alive.ts`. */
  get previousAlive(): Scope | null {
    return this.#previousAlive;
  }

  set previousAlive(scope: Scope | null) {
    this.#previousAlive = scope;
  }

  /** The other neighbour. */
  get nextAlive(): Scope | null {
    return this.#nextAlive;
  }

  set nextAlive(scope: Scope | null) {
    this.#nextAlive = scope;
  }

  /** What the tree of greenlets shares that this one is in. */
  get treeLocals(): Record<PropertyKey, unknown> {
    return this === mainScope && this.root === null
      ? coldFieldsOf(this).treeLocals ??= {}
      : treeOf(this).shared;
  }

  /** For this greenlet and those that it spawns from now on. */
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

  /** What this greenlet has in each `local`, until its body is dead. */
  get locals(): WeakMap<object, object> {
    return coldFieldsOf(this).locals ??= new WeakMap();
  }

  /** Whether the call that waits for it does so to the end, as nothing may outlive it. */
  get shielded(): boolean {
    return this.cold?.shielded ?? false;
  }

  set shielded(lasts: boolean) {
    coldFieldsOf(this).shielded = lasts;
  }

  /** Called when the body is abandoned that runs here, and is not that of a greenlet. */
  set abandoned(abandoned: () => void) {
    coldFieldsOf(this).abandoned = abandoned;
  }

  /** What is dropped with the body, unless something that it has left behind waits. */
  get owned(): List<ScopeOwned> {
    return coldFieldsOf(this).owned ??= new List();
  }

  /** Whether there is something to drop or to hand on when the body is dead. */
  get hasRests(): boolean {
    return (this.cold?.owned?.length ?? 0) > 0;
  }

  /** Whether there is somebody who may ask for it when the body is dead. */
  get isKept(): boolean {
    return this.interrupts !== null || this.cold !== null;
  }

  /** Whether there is no more than one thing that an interrupt undoes. */
  get isPlain(): boolean {
    return !(this.pending instanceof Set) || this.pending.size === 1;
  }

  /**
   * Throws an error into the body: by everything that it waits on, or else by the
   * next wait that it begins.
   */
  interrupt(error: unknown): void {
    noteInterrupt(this, error);
    noteThrown(this, error);
    if (this.pending === null) this.hold(error);
    else {
      const { interrupts } = this;
      if (interrupts?.kill?.error === error) interrupts!.isKillThrown = true;
      interruptPending(this, error, false);
    }
    this.workGrace();
  }

  /** As {@linkcode Scope.interrupt}: what wraps the timeout is taken for it. */
  timeOut(timeout: Error): void {
    if (this !== mainScope) interruptStateOf(this).limit = timeout;
    this.interrupt(timeout);
  }

  /** As {@linkcode Scope.interrupt}, and after `grace` ms the scope is escalated. */
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

  /** What it was killed by last, if it was. */
  get killed(): { readonly error: unknown } | null {
    return this.interrupts?.cause ?? null;
  }

  /** Notes a kill that will be delivered from the hub. */
  expectKill(error: unknown): void {
    const interrupts = interruptStateOf(this);
    if (interrupts.stage === "interrupted") interrupts.cause = { error };
  }

  /** Whether a kill was thrown into the body, and not only held for its next wait. */
  get isKillThrown(): boolean {
    return this.interrupts?.isKillThrown ?? false;
  }

  /** How long a body that was killed may clean up; `null` if it was not, or is past it. */
  get grace(): number | null {
    const { interrupts } = this;
    return interrupts !== null && interrupts.stage === "graced" &&
        !this.isEscalated
      ? interrupts.kill!.grace
      : null;
  }

  /** For how many ms a body may clean up that was thrown its kill; 0 if there is none. */
  get graceLeft(): number {
    const deadline = this.grace === null ? 0 : this.interrupts!.kill!.deadline;
    return deadline < Infinity ? deadline - now() : 0;
  }

  /**
   * Gives a body that was killed no more than `grace` ms from now on, and does not throw
   * anything meanwhile. A grace that is over sooner stays as it is.
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
    this.restGrace();
    this.workGrace();
  }

  /**
   * Throws an error by what the body waits on, and by every wait it begins.
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
      const isUntold = isNew || interrupts.stage === "escalating";
      interrupts.stage = isUntold ? "escalating" : "escalated";
    }
    this.restGrace();
    if (this.pending === null) return;
    interrupts.swallowed++;
    interrupts.isKillThrown = true;
    interruptPending(this, error, true);
    noteTold(interrupts);
  }

  /** How a wait ends by the error that every wait throws. */
  get lastThrow(): "thrown" | "returned" {
    return this.interrupts!.stage === "escalating" ? "thrown" : "returned";
  }

  /**
   * The body has ended, or was abandoned.
   *
   * What goes on in the scope of one that has ended belongs to no greenlet: it waits as if
   * nothing had happened. Others' code may be among it, as a queue that greenlets share
   * starts the next task from the one before it.
   *
   * @param heir Who waits for it, as a part of the same greenlet.
   */
  close(heir: Scope | null = null): void {
    const { cold, interrupts } = this;
    if (cold !== null) {
      cold.locals = null;
      if (cold.owned !== null && this.pending === null) {
        // Main lives for ever, and others wait there.
        if (this.greenlet === main || this.greenlet.dead) heir = null;
        for (let one; (one = cold.owned.shift()) !== null;) {
          if (heir === null) one.drop();
          else one.moveTo(heir);
        }
      }
    }
    if (interrupts === null) return;
    this.restGrace();
    interrupts.thrown = undefined;
    // What it was killed by is known as such; other errors are not to live on with the dead.
    if (interrupts.last !== this.killed?.error) noteLast(interrupts, undefined);
    interrupts.last = undefined;
    interrupts.limit = null;
    interrupts.held.length = 0;
    if (interrupts.stage !== "abandoned") interrupts.stage = "ended";
    interrupts.kill = null;
  }

  /** Has the next wait throw an error. */
  hold(error: unknown): void {
    interruptStateOf(this).held.push(error);
  }

  /** Takes back an error that was not thrown yet. */
  unhold(error: unknown): void {
    const { interrupts } = this;
    const i = interrupts === null ? -1 : interrupts.held.indexOf(error);
    if (i >= 0) {
      interrupts!.held.splice(i, 1);
      interrupts!.thrown = undefined;
    }
    const { pending } = this;
    if (!(pending instanceof Set)) return pending?.unhold(error);
    pending.forEach((one) => one.unhold(error));
  }

  /** Whether an error waits to be thrown. */
  holds(error: unknown): boolean {
    return this.interrupts?.held.includes(error) ?? false;
  }

  /**
   * Notes that an error was handed to this scope openly, as the result of a call: it is the
   * greenlet's own from now on, and nobody else tells of it.
   */
  markRecipient(error: unknown): void {
    if (isObject(error)) markRecipientOf(error, this.greenlet);
    this.receiveInterrupts(error);
  }

  /**
   * Notes that a call of this scope has failed with an error: where that is, or wraps, an
   * interrupt of something else that the greenlet has begun, it is the call's result here.
   */
  receiveInterrupts(error: unknown): void {
    eachWrapped(error, (one) => {
      if (
        isObject(one) && isInterrupt(one) && isRecipient(one, this.greenlet) &&
        !this.wasInterruptedBy(one) && !endedSeveral.has(one)
      ) hand(one, this);
    });
  }

  /** Whether an error has interrupted the body, be it long ago. */
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

  /** Whether every wait throws from now on, as the body is past its grace. */
  get isEscalated(): boolean {
    const { interrupts } = this;
    if (interrupts === null) return false;
    return interrupts.insists ||
      interrupts.stage === "graced" && now() >= interrupts.kill!.deadline;
  }

  /**
   * Escalates a body that is past its grace, and whose timer has not told it yet: the event
   * loop may be late, and no timer runs while the body does not wait.
   *
   * @returns What every wait throws from now on; `null` if the body has time left.
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
   * The interrupt by which the body seems to be ending; `undefined` if it does not seem so.
   * What a `for await` calls then is what it calls for a `break`.
   */
  get unwinding(): unknown {
    const { interrupts } = this;
    if (interrupts === null) return undefined;
    const { kill, cause, thrown } = interrupts;
    if (interrupts.insists) return cause!.error;
    // A kill without a deadline may have been caught long ago.
    return kill !== null && kill.grace < Infinity ? kill.error : thrown;
  }

  /** Whether a generator body has ended by being ended, which is to fail. */
  isEscalation(outcome: unknown): boolean {
    const { interrupts } = this;
    return interrupts !== null && interrupts.insists &&
      interrupts.cause!.error === outcome;
  }

  /** The timeout that limits it, if there is one that has been thrown. */
  get limit(): Error | null {
    return this.interrupts?.limit ?? null;
  }

  /**
   * Takes the error that is due: what a cooperative call has to throw in the operation's
   * place. `null` if there is none.
   */
  takeDue(): Due | null {
    const { interrupts } = this;
    if (interrupts === null) return null;
    const escalated = this.escalateIfOverdue();
    if (escalated !== null) {
      const { error } = escalated;
      interrupts.isKillThrown = true;
      if (++interrupts.swallowed > MAX_SWALLOWED) {
        if (interrupts.stage === "abandoned") return { error, how: "never" };
        interrupts.stage = "abandoned";
        return { error, how: "abandoned" };
      }
      const how = this.lastThrow;
      noteTold(interrupts);
      return { error, how };
    }
    if (interrupts.held.length === 0) return null;
    const error = interrupts.held.shift();
    const { kill } = interrupts;
    if (kill !== null && kill.error === error) {
      kill.deadline = now() + kill.grace;
      interrupts.isKillThrown = true;
    }
    return { error, how: "once" };
  }

  /** A killed body waits again: for its grace to be over, the clock must run. */
  workGrace(): void {
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

  /** It does not wait: it may be stuck elsewhere for ever, and holds up no process. */
  restGrace(): void {
    const { interrupts } = this;
    if (interrupts === null || interrupts.graceTimer === null) return;
    stopTimer(interrupts.graceTimer);
    interrupts.graceTimer = null;
  }
}

export function coldFieldsOf(scope: Scope): ColdFields {
  return scope.cold ??= new ColdFields();
}

/** The tree of a scope, which is begun if it is in none. */
export function treeOf(scope: Scope): Tree {
  if (scope.root === null) {
    // For the scope to be kept when the body is dead, as it knows of the tree.
    coldFieldsOf(scope);
    scope.root = new Tree({});
  }
  return scope.root;
}

function interruptStateOf(scope: Scope): InterruptState {
  return scope.interrupts ??= new InterruptState(scope);
}

function noteThrown(scope: Scope, error: unknown): void {
  // It does not end, and never to be in interrupts keeps it fast.
  if (scope === mainScope) return;
  const interrupts = interruptStateOf(scope);
  interrupts.thrown = error;
  noteLast(interrupts, error);
}

/** Notes that a body was thrown the error that every wait throws. */
function noteTold(interrupts: InterruptState): void {
  if (interrupts.stage === "escalating") interrupts.stage = "escalated";
}

/** Notes what has interrupted a body, beside what has before. */
function noteLast(interrupts: InterruptState, error: unknown): void {
  const { last } = interrupts;
  if (error === last) return;
  if (isObject(last)) (interrupts.earlier ??= new WeakSet()).add(last);
  interrupts.last = error;
}

function interruptPending(scope: Scope, error: unknown, final: boolean): void {
  const pending = scope.pending!;
  if (!(pending instanceof Set)) return pending.interrupt(error, final);
  // Each may take others away by its undo, and begin nothing: bodies go on later.
  membersOf(pending).forEach((one) => {
    if (one.scope === scope) one.interrupt(error, final);
  });
}

/**
 * Throws an error into what runs in a scope that is no greenlet's, as it is of no use any
 * more by an interrupt of another.
 */
export function endWith(scope: Scope, error: unknown): void {
  noteThrown(scope, error);
  if (scope.pending === null) scope.hold(error);
  else interruptPending(scope, error, false);
}

/** Notes that an error interrupts a scope. */
function noteInterrupt(scope: Scope, error: unknown): void {
  if (!isObject(error)) return;
  noteInterruptOf(error, scope.greenlet);
  if (scope !== mainScope) return;
  // Main has no end that would tell of it: there, it is an error like any other. But of
  // several waits that it ends, one is that of the code which it is meant for.
  if (scope.isPlain) hand(error, scope);
  else endedSeveral.add(error);
}

/** What has interrupted main while that waited in several calls. */
const endedSeveral = new WeakSet<object>();

/** The scope of all code that is in no other. */
export const mainScope: Scope = new Scope(main);
