/**
 * Scopes: what waits, what is interrupted, and who is current across `await`.
 *
 * A scope is one greenlet's line of execution as the event loop sees it: the waits
 * that are pending, and the errors that are due. It is what the context
 * carries through every `await`, foreign ones included. A greenlet has one scope, and
 * another for each `withTimeout` that it is in.
 *
 * @module
 */

import {
  getCurrent as getRunning,
  Greenlet,
  GreenletError,
  GreenletExit,
} from "../greenlet.ts";
import {
  startTimer,
  stopTimer,
  type Timer,
  type TimerTarget,
} from "./timers.ts";
import { watchRejections } from "./rejections.ts";
import { serveTasks, type Sleeper, spendBudget, wake } from "./run_queue.ts";
import { current, KEY, type Mapped } from "./async_context.ts";
import { List, type Member } from "../_base/linked_list.ts";
import { react, type Reaction, type Reactions } from "./reactions.ts";
import { show } from "../_base/checks.ts";
import { consistsOf, eachWrapped, findWrapped } from "./wrapped.ts";
import { isThenable } from "../_base/thenable.ts";
import { isEnding, printError } from "./print.ts";
import type { Hub } from "../hub.ts";

export { current };

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

/** How long a killed body may take to clean up, unless told otherwise, in ms. */
export const GRACE = 1000;

/** How often a escalated body may swallow the error before it is left for good. */
const MAX_SWALLOWED = 10;

/** A kill that a body has not obeyed yet. */
interface Kill {
  readonly error: unknown;
  readonly grace: number;
  /**
   * When clean-up has taken long enough, as `performance.now()` tells time; `Infinity`
   * until the error is thrown.
   */
  deadline: number;
}

/**
 * - `alive`: it goes on, or may go on
 * - `abandoned`: it has swallowed its kill again and again, and is left suspended for good
 * - `ended`: what it has left behind is not interrupted by what has ended it
 */
type BodyState = "alive" | "abandoned" | "ended";

/** What is the matter with a scope: nearly always nothing, so it is kept apart. */
class InterruptState implements TimerTarget {
  readonly scope: Scope;
  /** Errors that arrived between waits: each is thrown by one cooperative call. */
  held: unknown[] = [];
  /** What was thrown last, until something cooperative is begun. */
  thrown: unknown = undefined;
  /** What has interrupted the body last, and what has before. */
  last: unknown = undefined;
  earlier: WeakSet<object> | null = null;
  /** The `Timeout` that has interrupted the body last. */
  limit: Error | null = null;
  kill: Kill | null = null;
  /** A kill that will be delivered from the hub. */
  coming: { readonly error: unknown } | null = null;
  /** Whether a kill was thrown into the body. */
  isKillThrown = false;
  /** Runs while a killed body waits again, until its grace is over. */
  graceTimer: Timer | null = null;
  /** Thrown by every wait from now on. */
  escalated: { readonly error: unknown } | null = null;
  /** Whether the sentence is to be thrown once, before it ends a generator body. */
  isFresh = false;
  swallowed = 0;
  body: BodyState = "alive";
  /** What the body was killed by that has ended. */
  endedBy: { readonly error: unknown } | null = null;

  constructor(scope: Scope) {
    this.scope = scope;
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
  else scope.pending = new Set([pending, one]);
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

/** What the last checkpoint has thrown: for the undo of what it has prevented. */
let dueError: unknown;

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

/** Called when a body is given up, being past all patience. */
type Abandon = (greenlet: Greenlet, error: unknown) => void;

/** What few scopes have. */
class ColdFields {
  origin: Origin | null = null;
  /** Of main only, of whose tree the greenlets are not that it spawns. */
  treeLocals: Record<PropertyKey, unknown> | null = null;
  locals: WeakMap<object, object> | null = null;
  shielded = false;
  abandoned: Abandon | null = null;
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
  #awaited: Suspension<unknown> | null = null;
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
  get awaited(): Suspension<unknown> | null {
    return this.#awaited;
  }

  set awaited(awaited: Suspension<unknown> | null) {
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

  /** Whether the generator body is suspended in a wait. */
  get isAwaiting(): boolean {
    return this.awaited !== null && this.awaited !== DRIVEN;
  }

  /** Where those come from who are spawned here. */
  get origin(): Origin {
    // The greenlet's own scope knows, also of a part of it.
    const scope = scopeOf(this.greenlet);
    return coldFieldsOf(scope).origin ??= {
      spawner: new WeakRef(scope.greenlet),
      root: scope === mainScope ? scope.root : treeOf(scope),
    };
  }

  /** What the tree of greenlets shares that this one is in. */
  get treeLocals(): Record<PropertyKey, unknown> {
    return this === mainScope && this.root === null
      ? coldFieldsOf(this).treeLocals ??= {}
      : treeOf(this).shared;
  }

  /** For this greenlet and those that it spawns from now on. */
  set treeLocals(shared: Record<PropertyKey, unknown>) {
    if (typeof shared !== "object" || shared === null) {
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

  /** What is called instead of what ends the greenlet, when the body is given up. */
  set abandoned(abandoned: Abandon) {
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
      const isFirst = this.escalated === null &&
        (interrupts.kill?.error !== error || this.holds(error));
      return this.escalate(error, isFirst);
    }
    const { kill } = interrupts;
    const deadline = this.pending === null
      ? Infinity
      : performance.now() + grace;
    if (
      kill === null || deadline < kill.deadline ||
      deadline === kill.deadline && grace <= kill.grace
    ) {
      interrupts.kill = { error, grace, deadline };
      stopTimer(interrupts.graceTimer);
      interrupts.graceTimer = null;
    }
    this.interrupt(error);
  }

  /** What it was killed by last, if it was. */
  get killed(): { readonly error: unknown } | null {
    const { interrupts } = this;
    if (interrupts === null) return null;
    return interrupts.endedBy ?? interrupts.escalated ?? interrupts.kill ??
      interrupts.coming;
  }

  /** Notes a kill that will be delivered from the hub. */
  expectKill(error: unknown): void {
    interruptStateOf(this).coming = { error };
  }

  /** Whether a kill was thrown into the body, and not only held for its next wait. */
  get isKillThrown(): boolean {
    return this.interrupts?.isKillThrown ?? false;
  }

  /** How long a body that was killed may clean up; `null` if it was not, or is past it. */
  get grace(): number | null {
    return this.escalated === null
      ? this.interrupts?.kill?.grace ?? null
      : null;
  }

  /** For how many ms a body may clean up that was thrown its kill; 0 if there is none. */
  get graceLeft(): number {
    const deadline = this.grace === null ? 0 : this.interrupts!.kill!.deadline;
    return deadline < Infinity ? deadline - performance.now() : 0;
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
    const deadline = isHeld ? Infinity : performance.now() + grace;
    if (deadline > kill.deadline || isHeld && grace >= kill.grace) return;
    interrupts.kill = { error: kill.error, grace, deadline };
    this.restGrace();
    this.workGrace();
  }

  /**
   * Throws an error by what the body waits on, and by every wait it begins.
   *
   * @param isFirst Whether the error is new to the body.
   */
  escalate(error: unknown, isFirst = false): void {
    noteInterrupt(this, error);
    const interrupts = interruptStateOf(this);
    noteLast(interrupts, error);
    interrupts.held.length = 0;
    interrupts.escalated = { error };
    if (isFirst) interrupts.isFresh = true;
    this.restGrace();
    if (this.pending === null) return;
    interrupts.swallowed++;
    interrupts.isKillThrown = true;
    interruptPending(this, error, true);
    interrupts.isFresh = false;
  }

  /** Whether a generator body is not thrown the sentence any more, but ended. */
  get endsBody(): boolean {
    return !this.interrupts!.isFresh;
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
    if (interrupts.body === "abandoned") {
      interrupts.escalated ??= interrupts.kill;
    } else {
      interrupts.endedBy = this.killed;
      interrupts.body = "ended";
      interrupts.escalated = null;
    }
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
    for (const one of pending) one.unhold(error);
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
        !this.wasInterruptedBy(one)
      ) hand(one, this);
    });
  }

  /** Whether an error has interrupted the body, be it long ago. */
  wasInterruptedBy(error: unknown): boolean {
    const { interrupts } = this;
    if (interrupts === null || error === undefined) return false;
    return error === interrupts.last || error === interrupts.escalated?.error ||
      error === interrupts.endedBy?.error ||
      isObject(error) && interrupts.earlier !== null &&
        interrupts.earlier.has(error);
  }

  /** What every wait throws from now on, if the body is past its grace. */
  get escalated(): { readonly error: unknown } | null {
    const interrupts = this.interrupts;
    if (
      interrupts !== null && interrupts.escalated === null &&
      interrupts.kill !== null &&
      performance.now() >= interrupts.kill.deadline
    ) {
      interrupts.escalated = interrupts.kill;
      interrupts.held.length = 0;
    }
    return interrupts?.escalated ?? null;
  }

  /**
   * The interrupt by which the body seems to be ending; `undefined` if it does not seem so.
   * What a `for await` calls then is what it calls for a `break`.
   */
  get unwinding(): unknown {
    const { interrupts } = this;
    if (interrupts === null) return undefined;
    const { kill, escalated, thrown } = interrupts;
    if (escalated !== null) return escalated.error;
    // Who is given no end may have caught it long ago.
    return kill !== null && kill.grace < Infinity ? kill.error : thrown;
  }

  /** Whether a generator body has ended by being ended, which is to fail. */
  isEscalation(outcome: unknown): boolean {
    const sentence = this.interrupts?.escalated ?? null;
    return sentence !== null && sentence.error === outcome;
  }

  /**
   * Has to be called before anything cooperative is done.
   *
   * @returns `null` to go ahead, else the wait to return in the operation's place.
   */
  checkpoint(): Wait<never> | null {
    const interrupts = this.interrupts;
    if (interrupts === null) return null;
    const due = this.checkpointAtLast();
    if (due === null) interrupts.thrown = undefined;
    return due;
  }

  /** As {@linkcode Scope.checkpoint}, for what is a part of the body's end. */
  checkpointAtLast(): Wait<never> | null {
    const interrupts = this.interrupts;
    if (interrupts === null) return null;
    const { escalated } = this;
    if (escalated !== null) {
      const error = dueError = escalated.error;
      const wait = new Suspension<never>();
      interrupts.isKillThrown = true;
      if (++interrupts.swallowed > MAX_SWALLOWED) {
        if (interrupts.body !== "abandoned") {
          interrupts.body = "abandoned";
          abandon(this, error);
        }
      } else {
        wait.endsBody = this.endsBody;
        interrupts.isFresh = false;
        wait.throw(error);
      }
      // In no scope, so that past all patience nothing ends it any more.
      return wait.suspend(null);
    }
    if (interrupts.held.length === 0) return null;
    const error = dueError = interrupts.held.shift();
    const { kill } = interrupts;
    if (kill !== null && kill.error === error) {
      kill.deadline = performance.now() + kill.grace;
      interrupts.isKillThrown = true;
    }
    return failedWait(error);
  }

  /** A killed body waits again: for its grace to be over, the clock must run. */
  workGrace(): void {
    const { interrupts } = this;
    if (
      interrupts === null || interrupts.kill === null ||
      interrupts.escalated !== null ||
      interrupts.graceTimer !== null || this.pending === null
    ) return;
    interrupts.graceTimer = startTimer(
      interrupts.kill.deadline - performance.now(),
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

function coldFieldsOf(scope: Scope): ColdFields {
  return scope.cold ??= new ColdFields();
}

/** The tree of a scope, which is begun if it is in none. */
function treeOf(scope: Scope): Tree {
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
  for (const one of [...pending]) {
    if (one.scope === scope) one.interrupt(error, final);
  }
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

function abandon(scope: Scope, error: unknown): void {
  const { greenlet, cold } = scope;
  if (cold !== null && cold.abandoned !== null) {
    cold.abandoned(greenlet, error);
  } else if (scopeOf(greenlet) === scope) {
    giveUp(greenlet, error);
  }
}

/** Notes that an error interrupts a scope. */
function noteInterrupt(scope: Scope, error: unknown): void {
  if (!isObject(error)) return;
  tryKill.add(error);
  markRecipientOf(error, scope.greenlet);
  // Main has no end that would tell of it: there, it is an error like any other.
  if (scope === mainScope) hand(error, scope);
}

/** Errors that have interrupted somebody. Others may be thrown by whoever has them. */
const tryKill = new WeakSet<object>();

/** Whether it is an error that has interrupted somebody. */
export function isInterrupt(error: unknown): boolean {
  return isObject(error) && tryKill.has(error);
}

/** The scopes that were handed an interrupt openly, as the result of a call. */
const handed = new WeakMap<object, WeakSet<Scope>>();

function hand(error: object, scope: Scope): void {
  const scopes = handed.get(error);
  if (scopes === undefined) handed.set(error, new WeakSet([scope]));
  else scopes.add(scope);
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
function isExpected(error: unknown, scope: Scope): boolean {
  return consistsOf(error, (one) => {
    const interrupt = original(one);
    return scope.wasInterruptedBy(interrupt) ||
      isInterrupt(interrupt) && !handed.get(interrupt as object)?.has(scope);
  });
}

/** The scope of the rejection that is being told of outside greenlets. */
let rejectedIn: Scope | null = null;

/** Calls `tell`, which tells of a rejection of the current scope, outside greenlets. */
export function tellApart<R>(tell: () => R): R {
  const before = rejectedIn;
  rejectedIn = currentScope();
  try {
    return runDetached(tell);
  } finally {
    rejectedIn = before;
  }
}

// The runtime tells of a rejection in the context in which it has happened.
watchRejections(
  (reason) => isExpected(reason, current.get() ?? mainScope),
  runDetached,
  (judge) => rejectedIn === null ? judge() : current.run(rejectedIn, judge),
);

/** Whom one error was addressed to, when they are several. */
class Recipients {
  readonly #first: WeakRef<Greenlet>;
  readonly all: WeakSet<Greenlet>;

  constructor(first: Greenlet, second: Greenlet) {
    // It may be dead, where the error is thrown again and again.
    this.#first = new WeakRef(first);
    this.all = new WeakSet([first, second]);
  }

  /** How the first is called in messages. */
  toString(): string {
    return String(this.#first.deref() ?? "a greenlet");
  }
}

/** Whom errors were addressed to. Kept here, as a greenlet may outlive many errors. */
const recipients = new WeakMap<object, Greenlet | Recipients>();

function markRecipientOf(error: object, greenlet: Greenlet): void {
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

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/**
 * What a scope has to fail with that got `error` by a promise which it shares. An exit
 * or a timeout of another greenlet must not look as if it were this one's.
 */
export function errorFor(error: unknown, scope: Scope | null): unknown {
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
export function failureFor(error: unknown, scope: Scope): unknown {
  return errorFor(unwrapped(error, scope), scope);
}

/**
 * What an error is to be taken for that a body has thrown: the kill or the timeout that has
 * interrupted it, if the error is made of that, else the error itself.
 */
export function unwrapped(error: unknown, scope: Scope): unknown {
  const { interrupts } = scope;
  if (interrupts === null) return error;
  const { killed } = scope;
  const isKill = (wrapped: unknown) => {
    const one = original(wrapped);
    return killed !== null && one === killed.error ||
      one instanceof GreenletExit && scope.wasInterruptedBy(one);
  };
  const { limit } = interrupts;
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

/** What runs whenever no greenlet does: the core's main greenlet. */
export const main: Greenlet = (() => {
  let ancestor = getRunning();
  while (ancestor.parent !== null) ancestor = ancestor.parent;
  return ancestor;
})();

const mainScope = new Scope(main);
/** The scopes of greenlets that are not ours: the core's own, which wait now and then. */
const rawScopes = new WeakMap<Greenlet, Scope>();

/** Gives a greenlet class a say in where the scope of its instances is. */
let ownScope: (greenlet: Greenlet) => Scope | undefined = () => undefined;

/** Ends a greenlet of that class whose body is past all patience. */
let giveUp: Abandon = () => {};

/** Called once by the class that keeps its scopes itself. */
export function setOwnScope(
  find: (greenlet: Greenlet) => Scope | undefined,
  end: Abandon,
): void {
  ownScope = find;
  giveUp = end;
}

/** The scope of a greenlet. */
export function scopeOf(greenlet: Greenlet): Scope {
  if (greenlet === main) return mainScope;
  let scope = ownScope(greenlet) ?? rawScopes.get(greenlet);
  if (scope === undefined) rawScopes.set(greenlet, scope = new Scope(greenlet));
  return scope;
}

/** Makes `scope` the one in which the body of a core greenlet runs. */
export function setScope(greenlet: Greenlet, scope: Scope): void {
  rawScopes.set(greenlet, scope);
}

/** The scope to be cooperative in; `null` outside greenlets and limited calls. */
export function interruptibleScope(): Scope | null {
  const scope = currentScope();
  return scope === mainScope ? null : scope;
}

/** The scope of a function that a body has called, in no greenlet of its own. */
let called: Scope | null = null;
/** Who runs that function: the greenlets to which it may switch have their own scopes. */
let caller: Greenlet;

/** Calls `run` as nobody's part: no interrupt reaches what it and its `await`s wait for. */
export function runDetached<R>(run: () => R): R {
  return currentScope() === mainScope ? run() : runIn(mainScope, run);
}

/** Calls `run` as a part of `scope`, which is not that of whoever runs. */
export function runIn<R>(scope: Scope, run: () => R): R {
  const before = called;
  const callerBefore = caller;
  called = scope;
  caller = getRunning();
  try {
    return current.run(scope, run);
  } finally {
    called = before;
    caller = callerBefore;
  }
}

/** The scope that the running code belongs to. */
export function currentScope(): Scope {
  const running = getRunning();
  if (called !== null && running === caller) return called;
  // Outside generator bodies the event loop runs us, which is main's business; whose
  // code it is, the context tells.
  return running === main ? current.get() ?? mainScope : scopeOf(running);
}

/**
 * The greenlet that the running code belongs to: in a generator body the running
 * greenlet; in an async body the one that the call belongs to, through every `await`;
 * else main, which is the hub. gevent's `getcurrent`.
 *
 * @returns The current greenlet.
 *
 * @example Usage
 * ```ts
 * import { getCurrent, getHub, spawn } from "@gevent/gevent";
 *
 * const g = spawn(async () => {
 *   await import("node:fs"); // Anybody's promise
 *   return getCurrent();
 * });
 * console.log(await g.get() === g); // true
 * console.log(getCurrent() === getHub()); // true
 * ```
 */
export function getCurrent(): Greenlet {
  return currentScope().greenlet;
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
  wait.catch(ignore);
  rejectWith(resolveLast, error);
  return wait as Wait<unknown> as Wait<never>;
}

function ignore(): void {}

/**
 * - `idle`: nobody waits yet
 * - `waiting`
 * - `given`, `thrown`: over, with a value or with an error
 */
type SuspensionState = "idle" | "waiting" | "given" | "thrown";

/**
 * One wait of one scope: the primitive that every blocking call is built on. A
 * subclass says in `undo` how to take back what it has registered.
 */
export class Suspension<T> implements Pending, Sleeper, TimerTarget {
  scope: Scope | null = null;
  state: SuspensionState = "idle";
  /** The result or the error, once there is one; until then the timer that limits it. */
  value: unknown = undefined;
  /** Whether a generator body is not to be thrown the error, but ended. */
  endsBody = false;
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
    const isReady = this.state !== "idle" && scope.escalated === null;
    const due = isReady ? null : scope.checkpoint();
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
    this.value = startTimer(ms, this) ?? undefined;
    return this;
  }

  expired(): "steps" | void {
    this.value = undefined;
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
    this.endsBody = final && this.scope!.endsBody;
    // Where nobody awaits it, it is no unhandled rejection.
    this.promise!.catch(ignore);
    // Over before the undo, which may interrupt the same scope.
    this.settle("thrown", error);
    this.undo(error);
  }

  unhold(_error: unknown): void {}

  protected settle(state: "given" | "thrown", value: unknown): void {
    const before = this.state;
    if (before !== "idle" && before !== "waiting") return;
    const timer = this.value as Timer | undefined;
    this.state = state;
    this.value = value;
    if (timer !== undefined) stopTimer(timer);
    if (before === "waiting") {
      removePending(this);
      wake(this);
    }
  }

  wake(): void {
    if (this.state === "given") {
      this.#resolve!(this.value);
    } else {
      if (this.endsBody) this.promise!.catch(ignore);
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
    promise.then(
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
  while (scope.isAwaiting) {
    const wait = scope.awaited!;
    try {
      await wait.promise;
    } catch {
      // Thrown below, in the body.
    }
    if (scope.awaited !== wait) continue;
    scope.awaited = DRIVEN;
    try {
      if (wait.state === "given") core.switch.call(running, wait.value);
      else if (wait.endsBody) core.return.call(running, wait.value);
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

/**
 * Tells the hub of an error that no greenlet takes. A handler of the user's own that fails
 * is reported with what it was told of, and nobody who happens to report fails by it.
 */
export function report(context: unknown, error: unknown): void {
  if (isEnding(error)) return;
  const failed = (thrown: unknown) => {
    printError(context, error);
    printError("hub.handleError()", thrown);
  };
  try {
    const result: unknown = (main as Hub).handleError(context, error);
    if (isThenable(result)) result.then(undefined, failed);
  } catch (thrown) {
    failed(thrown);
  }
}
