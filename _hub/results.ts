/**
 * The iterator of `imap`.
 *
 * @module
 */

import { isInstance } from "../_base/checks.ts";
import { nameClasses, showAs } from "../_base/inspecting.ts";
import { currentScope, scopeOf } from "./current.ts";
import { Lost } from "./interrupts.ts";
import { mainScope, type Scope, ScopeOwned } from "./scope.ts";
import {
  checkpoint,
  DONE,
  errorOf,
  failedWait,
  readyWait,
  Suspension,
  type Wait,
} from "./suspension.ts";
import { Deque } from "../_base/deque.ts";
import type { Iteration } from "./iteration.ts";
import { List, type Member } from "../_base/linked_list.ts";
import {
  Mapping,
  type MappingSink,
  type Room,
  settleError,
} from "./mapping.ts";
import { PatientWait } from "./patient_wait.ts";
import { Greenlet } from "./greenlet.ts";

type Result<R> = IteratorResult<R, undefined>;

/** The wait of the greenlet that makes results, until one of them is taken. */
class Ahead extends Suspension<void> {
  override describe(): string {
    return "imap(), for a result to be taken";
  }
}

/** Why a taker waits for the end. */
type Leave = { readonly error: unknown } | "by return()";

/** The wait for a result. When its loop is left, it waits for the end of all calls. */
class Taker<R> extends PatientWait<Result<R>> implements Member<Taker<R>> {
  readonly #results: Results<R>;
  list: List<Taker<R>> | null = null;
  previous: Taker<R> | null = null;
  next: Taker<R> | null = null;
  /** `null` while it waits for a result. */
  leave: Leave | null = null;
  /** The call whose error it throws at the end. */
  #call: Greenlet<R> | null = null;

  constructor(results: Results<R>, scope: Scope) {
    super(scope);
    this.#results = results;
  }

  /**
   * The first interrupt ends the loop, as JavaScript does not call `return()` when `next()`
   * throws.
   */
  override interrupt(error: unknown, final: boolean): void {
    if (isInstance(error, Lost) && this.leave === null) {
      // The loop goes on and calls `next()` again.
      this.undo();
      return this.throw(error);
    }
    if (this.isPending && this.leave === null) {
      this.markInterrupted(error, final);
      this.#results.leave(this, { error });
      if (!final) return;
    }
    super.interrupt(error, final);
  }

  override describe(): string {
    return this.leave === null ? "the next of imap()" : "the end of imap()";
  }

  /** Throws the error of a call, when everything has ended. */
  fail(call: Greenlet<R>): void {
    const error = call.exception;
    this.#call = call;
    this.waiter.markRecipient(error);
    this.#results.leave(this, { error });
  }

  #settleError(isThrown: boolean): void {
    if (this.#call !== null) settleError(this.#call, isThrown);
    this.#call = null;
  }

  /** Ends the wait, as all calls have ended. */
  left(closing: { readonly error: unknown } | null): void {
    const { leave } = this;
    this.#settleError(!this.isCutShort);
    // An error of the clean-up does not replace the error that ends the loop.
    const failure = leave === "by return()" ? closing : leave;
    if (failure === null) this.switch({ done: true, value: undefined });
    else this.throw(failure.error);
  }

  protected override hasten(): void {
    this.#results.hasten();
  }

  protected override undo(): void {
    this.list?.remove(this);
    this.#settleError(false);
  }
}

/** Does something with results when the body of a scope is dead. */
class WhenDead extends ScopeOwned {
  readonly #perform: () => void;

  constructor(perform: () => void) {
    super();
    this.#perform = perform;
  }

  override drop(): void {
    this.#perform();
  }

  override moveTo(scope: Scope): void {
    this.list?.remove(this);
    scope.owned.add(this);
  }
}

/**
 * The results of calls, made as the program asks for them.
 *
 * @typeParam R The type of the results.
 */
export class Results<R> implements MappingSink<R> {
  // deno-lint-ignore no-explicit-any -- items of any type
  readonly #mapping: Mapping<any, R>;
  /** Calls that have ended, in the order in which their results are given. */
  readonly #ready = new Deque<Greenlet<R>>();
  /** Calls that have ended before their turn, by the index of the item. */
  readonly #early: Map<number, Greenlet<R>> | null;
  /** The index of the next result that is ready. */
  #index = 0;
  /** The number of results that may still be made before one is taken. */
  #ahead: number;
  /** The wait of the greenlet that takes the items, until a result is taken. */
  #waiting: Ahead | null = null;
  /** Waits for a result. */
  readonly #takers = new List<Taker<R>>();
  /** Waits for the end. */
  readonly #leaving = new List<Taker<R>>();
  /**
   * - `open`: returns results
   * - `closed`: returns no more results, and ends the running calls
   */
  #state: "open" | "closed" = "open";
  /** Whether all calls have ended. */
  #isOver = false;
  /** Whether a `for await` loop takes the results, which an error ends. */
  #isLoop = false;
  /** Closes the iterator at the end of a greenlet that called `next` by hand and got an error. */
  #closer: WhenDead | null = null;

  /** The scope of the greenlet that has made the iterator; `null` after the first `next()`. */
  #maker: Scope | null = scopeOf(currentScope().greenlet);
  /** Reports errors to the hub at the end of that greenlet. */
  #untaken: WhenDead | null = null;

  readonly beforeItem?: () => Wait<unknown>;

  static {
    showAs(this, (results) => ({
      state: results.#isOver ? "over" : results.#state,
      ready: results.#ready.length,
      waiting: results.#takers.length,
    }));
  }

  /** Begins at once. */
  constructor(
    room: Room,
    // deno-lint-ignore no-explicit-any
    run: (item: any) => unknown,
    items: Iteration<unknown>,
    maxsize: number,
    ordered: boolean,
  ) {
    this.#ahead = maxsize;
    if (maxsize !== Infinity) this.beforeItem = () => this.#mayMake();
    this.#early = ordered ? new Map() : null;
    const mapping = this.#mapping = new Mapping(room, run, items, this);
    const feeder = new Greenlet(() => mapping.run(true));
    // Its error is thrown by `next()`.
    scopeOf(feeder).errorIsHandled = true;
    feeder.rawlink(() => {
      mapping.abandon(feeder.value);
      this.#ended();
    });
    try {
      feeder.start();
    } catch (error) {
      mapping.abandon(error);
      throw error;
    }
  }

  /** Waits for the next result. */
  next(): Wait<Result<R>> {
    this.#noteAsked();
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return this.#leaveFor(due, scope);
    if (this.#ready.length > 0) {
      const call = this.#shift();
      if (call.successful()) {
        return readyWait({ done: false, value: call.value as R });
      }
      const taker = new Taker(this, scope);
      const wait = taker.suspend(scope);
      this.#fail(taker, call);
      return wait;
    }
    if (this.#isOver) return this.#end(scope);
    const taker = new Taker(this, scope);
    this.#takers.add(taker);
    return taker.suspend(scope);
  }

  /** Closes the iterator, and waits until all calls have ended. */
  return(): Wait<Result<R>> {
    this.#close();
    if (this.#isOver) return readyWait({ done: true, value: undefined });
    // An error that is due is thrown by the next wait, as a `finally` block calls this.
    const scope = currentScope();
    const taker = new Taker(this, scope);
    const wait = taker.suspend(scope);
    this.leave(taker, "by return()");
    const escalated = scope.escalateIfOverdue();
    if (escalated !== null) taker.interrupt(escalated.error, true);
    return wait;
  }

  [Symbol.asyncIterator](): this {
    this.#noteAsked();
    this.#isLoop = true;
    return this;
  }

  #noteAsked(): void {
    if (this.#maker === null) return;
    this.#maker = null;
    this.#untaken?.list?.remove(this.#untaken);
  }

  /** Called when a call has failed. If `next()` was not called yet, it may never be. */
  #noteFailed(): void {
    const maker = this.#maker;
    if (maker === null || this.#untaken !== null) return;
    const giveBack = () => this.#mapping.giveBackErrors();
    if (maker.greenlet.dead) return giveBack();
    // Main ends only with the process, when all errors are reported.
    if (maker === mainScope) return;
    this.#untaken = new WhenDead(giveBack);
    maker.owned.add(this.#untaken);
  }

  /** Notes a call that has ended, unless `imap` itself has killed it. */
  ended(index: number, call: Greenlet<R>): void {
    if (this.#state !== "open") return this.#mapping.giveBackErrors();
    if (!call.successful()) this.#noteFailed();
    const early = this.#early;
    if (early === null) {
      this.#ready.push(call);
    } else {
      early.set(index, call);
      for (let next; (next = early.get(this.#index)) !== undefined;) {
        early.delete(this.#index++);
        this.#ready.push(next);
      }
    }
    // The error ends the loop, so no later result is returned.
    if (!call.successful() && this.#isLoop) {
      this.#mapping.stop(early === null ? -1 : index);
    }
    while (this.#takers.first !== null && this.#ready.length > 0) {
      const taker = this.#takers.shift()!;
      const next = this.#shift();
      if (next.successful()) {
        taker.switch({ done: false, value: next.value as R });
      } else {
        this.#fail(taker, next);
      }
    }
  }

  /**
   * Throws the error of a call. A `for await` loop ends by that, and does not call `return()`.
   * Code that calls `next` by hand may call it again, until its greenlet is dead.
   */
  #fail(taker: Taker<R>, call: Greenlet<R>): void {
    this.#mapping.claimError(call);
    if (this.#isLoop) return taker.fail(call);
    const error = call.exception;
    settleError(call, true);
    const { waiter } = taker;
    waiter.markRecipient(error);
    taker.throw(error);
    this.#closer ??= new WhenDead(() => this.#close());
    this.#closer.moveTo(waiter);
  }

  /** Makes a taker wait for the end of all calls. */
  leave(taker: Taker<R>, leave: Leave): void {
    taker.list?.remove(taker);
    taker.leave = leave;
    this.#close();
    if (this.#isOver) taker.left(this.#mapping.closing);
    else this.#leaving.add(taker);
  }

  /** Gives the calls no more time. */
  hasten(): void {
    this.#mapping.hasten();
  }

  /** Waits until one more result may be made. */
  #mayMake(): Wait<void> {
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#ahead <= 0) {
      return (this.#waiting = new Ahead()).suspend(scope);
    }
    this.#ahead--;
    return DONE;
  }

  #shift(): Greenlet<R> {
    if (this.#waiting?.isPending) this.#waiting.switch();
    else this.#ahead++;
    return this.#ready.shift();
  }

  #close(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#closer?.list?.remove(this.#closer);
    while (this.#ready.length > 0) this.#ready.shift();
    this.#early?.clear();
    this.#mapping.giveBackErrors();
    this.#mapping.stop();
  }

  /** Ends the loop by an error that is due. */
  #leaveFor(due: Wait<never>, scope: Scope): Wait<Result<R>> {
    this.#close();
    if (scope.isEscalated) this.hasten();
    if (this.#isOver || scope.isEscalated) return due;
    const taker = new Taker(this, scope);
    const wait = taker.suspend(scope);
    this.leave(taker, { error: errorOf(due) });
    return wait;
  }

  /**
   * Ends the iterator after the last result: throws the error once, if there is one, then
   * returns `done`.
   */
  #end(scope: Scope): Wait<Result<R>> {
    const failure = this.#state === "open" ? this.#mapping.failure : null;
    this.#close();
    if (failure === null) return readyWait({ done: true, value: undefined });
    scope.markRecipient(failure.error);
    return failedWait(failure.error);
  }

  /** Called when the feeder has ended: all calls have ended. */
  #ended(): void {
    this.#isOver = true;
    const { failure, closing } = this.#mapping;
    for (let one; (one = this.#leaving.shift()) !== null;) one.left(closing);
    if (this.#takers.first === null) return;
    // Takers wait, so no earlier result is left to return before the error.
    if (this.#state === "open" && failure !== null) {
      const taker = this.#takers.shift()!;
      taker.waiter.markRecipient(failure.error);
      taker.throw(failure.error);
    }
    this.#close();
    for (let one; (one = this.#takers.shift()) !== null;) {
      one.switch({ done: true, value: undefined });
    }
  }
}

nameClasses({ Results });
