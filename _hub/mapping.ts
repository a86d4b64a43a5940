/**
 * The mechanism of `map` and `imap`: calls a function for each item, each call in a greenlet.
 * When it is over, all these greenlets have ended.
 *
 * @module
 */

import { currentScope, runIn, scopeOf } from "./current.ts";
import { isInterrupt } from "./interrupts.ts";
import { giveBackError, keepError, takeError } from "./reports.ts";
import { GRACE, Scope } from "./scope.ts";
import { type Site, siteHere, spawnedAt } from "./spawn_sites.ts";
import { composed } from "./composed.ts";
import type { Iteration } from "./iteration.ts";
import { endAll, killOnce } from "./kill.ts";
import { PatientWait } from "./patient_wait.ts";
import { startTimer, stopTimer, type Timer } from "./timers.ts";
import { lastTurn } from "./run_queue.ts";
import { Greenlet } from "./greenlet.ts";
import { type Greenlet as CoreGreenlet, GreenletExit } from "../greenlet.ts";
import { checkpoint, Suspension, type Wait } from "./suspension.ts";
import { blockersOf, describeInner, several } from "./waits.ts";

/**
 * The number of calls that start in a row, if there is room: no other greenlet goes on between
 * them, as in gevent. Then ready greenlets go on, and the event loop turns if that is due: a source
 * may be endless.
 */
const IN_A_ROW = 64;

/** A group or a pool. Each call takes a place in it. */
export interface Room {
  /** Waits for a place, and takes it. */
  enter(): Wait<unknown>;
  /** Takes a place if one is free now. Returns whether it has taken one. */
  tryEnter(): boolean;
  /** Gives a place back. */
  leave(): void;
  /** Starts a greenlet in a place that was taken. If it throws, it gives the place back. */
  start(greenlet: Greenlet): void;
  /** The mappings in progress. */
  readonly mappings: Set<{ cut(error: unknown): void }>;
}

/** Receives the results. */
export interface MappingSink<R> {
  /** Waits until one more result is wanted. If it is left out, there is no limit. */
  beforeItem?(): Wait<unknown>;
  /** Called when a call has ended. Not called if this mapping has killed the call. */
  ended(index: number, call: Greenlet<R>): void;
}

/** The reason why a mapping ends before its last item. */
interface Failure {
  readonly error: unknown;
  /** The index of the item whose call has failed; `null` if something else has. */
  readonly index: number | null;
  /** The call, if a call has failed. */
  readonly call?: object;
}

/**
 * Calls of a function for the items of an iterable. {@linkcode Mapping.run} takes the items and
 * makes the calls. When it returns, all calls have ended and the iterable is closed.
 */
export class Mapping<T, R> {
  readonly #room: Room;
  readonly #run: (item: T) => unknown;
  readonly #items: Iteration<T>;
  readonly #sink: MappingSink<R>;
  /** The calls that run, and the indices of their items. */
  readonly #running = new Map<Greenlet<R>, number>();
  readonly #ended = (call: Greenlet<R>) => this.#callEnded(call);
  /** The wait until no call runs, or until all were killed. */
  #drained: Draining | null = null;
  /** The error with which calls, and the loop over the items, are killed. */
  readonly #exit = new GreenletExit("The results are not wanted any more");
  /** The scope of the loop over the items, while it runs. */
  #feeding: Scope | null = null;
  #isFed = false;
  /** The place in the user's code that began the mapping; `null` if places are not recorded. */
  readonly #site: Site | null = siteHere();
  /** Calls for items with a higher index are killed. */
  #lastWanted = Infinity;
  #failure: Failure | null = null;
  /** The error of the `kill` of the group that has killed all calls. */
  #cut: Failure | null = null;
  #closing: { readonly error: unknown } | null = null;
  /** Failed calls whose errors may still be thrown. */
  readonly #failed = new Set<Greenlet<R>>();
  /** Set when a call has failed while calls for earlier items run: limits their time. */
  #patience: Timer | null = null;

  constructor(
    room: Room,
    run: (item: T) => unknown,
    items: Iteration<T>,
    sink: MappingSink<R>,
  ) {
    this.#room = room;
    this.#run = run;
    this.#items = items;
    this.#sink = sink;
    room.mappings.add(this);
  }

  /** The failure of the mapping, when it is over; `null` if there is none. */
  get failure(): Failure | null {
    return this.#failure;
  }

  /** The error that closing the iterable has thrown. */
  get closing(): { readonly error: unknown } | null {
    return this.#closing;
  }

  /**
   * Takes items and calls the function, until the last item or a failure. Then waits until all
   * calls have ended.
   *
   * @param keepsCalls Whether the calls run on when the iterable has failed.
   */
  async run(keepsCalls: boolean): Promise<void> {
    const scope = currentScope();
    const attempt = async (wait: () => Promise<unknown>) => {
      try {
        await wait();
      } catch (error) {
        if (error === this.#exit) return;
        this.#failure ??= { error, index: null };
        if (!keepsCalls || scope.killed !== null) this.stop();
      }
    };
    if (!this.#isFed) await attempt(() => composed(() => this.#feed()));
    this.#feeding = null;
    this.#isFed = true;
    if (!this.#items.isOver) this.#failure ??= this.#cut;
    while (!this.#items.isOver) {
      if (scope.isEscalated) this.#items.closeSoon();
      else await attempt(() => this.#close());
    }
    while (this.#running.size > 0 && !this.#isStopped) {
      this.#drained = new Draining(this.#running);
      await attempt(() => this.#drained!.get());
    }
    stopTimer(this.#patience);
    const left = [...this.#running.keys()];
    if (left.length > 0) await endAll(left, this.#exit);
    this.#room.mappings.delete(this);
  }

  /** Closes a mapping that has not run. Does nothing if it has run. */
  abandon(error: unknown): void {
    if (!this.#items.isOver) this.#failure ??= { error, index: null };
    this.#items.closeSoon();
    this.#room.mappings.delete(this);
  }

  /** Whether all calls were killed. */
  get #isStopped(): boolean {
    return this.#lastWanted < 0;
  }

  async #feed(): Promise<void> {
    const room = this.#room;
    const items = this.#items;
    const sink = this.#sink;
    const scope = this.#feeding = currentScope();
    for (let index = 0;; index++) {
      if (sink.beforeItem !== undefined) await sink.beforeItem();
      if (index % IN_A_ROW === 0) await (checkpoint(scope) ?? lastTurn());
      // If an interrupt is due, enter() throws it.
      if (scope.interrupts !== null || !room.tryEnter()) await room.enter();
      let step: IteratorResult<T, unknown>;
      if (items.isAsync) {
        // The code that makes the items may need a place in the pool for itself.
        room.leave();
        if (this.#cut !== null) return;
        step = await items.stepAsync();
        if (step.done) return;
        await room.enter();
      } else {
        try {
          step = items.step();
        } catch (error) {
          room.leave();
          throw error;
        }
      }
      if (step.done || this.#isFed || this.#cut !== null) return room.leave();
      this.#begin(index, step.value);
    }
  }

  /** Closes the iterable. An error of that does not end the mapping. */
  async #close(): Promise<void> {
    try {
      await this.#items.close();
    } catch (error) {
      if (isInterrupt(error)) throw error;
      this.#closing = { error };
    }
  }

  #begin(index: number, item: T): void {
    const greenlet = new Greenlet(this.#run, item) as Greenlet<R>;
    if (this.#site !== null) spawnedAt(this.#site, greenlet);
    this.#room.start(greenlet);
    this.#running.set(greenlet, index);
    greenlet.rawlink(this.#ended);
    // The start calls code of the user, which may have stopped the mapping.
    if (index > this.#lastWanted) killOnce([greenlet], this.#exit);
  }

  #callEnded(call: Greenlet<R>): void {
    const index = this.#running.get(call)!;
    this.#running.delete(call);
    if (this.#running.size === 0) this.#drained?.switch();
    // The call was killed. If its clean-up has failed, the greenlet reports that itself.
    if (index > this.#lastWanted && scopeOf(call).isKillThrown) return;
    if (!call.successful()) {
      keepError(call);
      this.#failed.add(call);
    }
    this.#sink.ended(index, call);
  }

  /** Notes that the error of a call will be thrown. {@linkcode settleError} must follow. */
  claimError(call: object): void {
    this.#failed.delete(call as Greenlet<R>);
  }

  /** Lets the hub report the errors of calls that are not thrown. */
  giveBackErrors(): void {
    for (const call of this.#failed) giveBackError(call);
    this.#failed.clear();
  }

  /**
   * Takes no more items, and kills calls.
   *
   * @param after The calls for items with a higher index are killed: all, if it is left out.
   */
  stop(after = -1): void {
    if (after >= this.#lastWanted) return;
    this.#lastWanted = after;
    this.#endFeeding();
    const unwanted: Greenlet<R>[] = [];
    for (const [call, index] of this.#running) {
      if (index > after) unwanted.push(call);
    }
    killOnce(unwanted, this.#exit);
    if (this.#isStopped) this.#drained?.switch();
  }

  /** Ends all clean-up at once. */
  hasten(): void {
    this.#feeding?.kill(this.#exit, 0);
    this.#items.closeSoon();
    killOnce(this.#running.keys(), this.#exit, 0);
  }

  /** Makes no more calls, as the group has killed the calls that run. */
  cut(error: unknown): void {
    if (this.#isFed) return;
    this.#cut ??= { error, index: null };
    // If no item was asked for, the last one may have been taken. Then nothing is missing.
    if (this.#items.isAsked) this.#feeding!.kill(this.#exit, GRACE);
  }

  /**
   * Notes that a call has failed. Calls for later items are killed at once. Calls for earlier
   * items get some time: if one of them fails as well, its error is thrown.
   */
  callFailed(index: number, call: Greenlet<R>): void {
    const before = this.#failure;
    if (before === null || before.index !== null && index < before.index) {
      this.#failure = { error: call.exception, index, call };
    }
    this.stop(index);
    if (this.#running.size === 0) return;
    this.#patience ??= startTimer(GRACE, { expired: () => this.stop() });
  }

  #endFeeding(): void {
    if (this.#isFed) return;
    this.#isFed = true;
    this.#feeding?.kill(this.#exit, GRACE);
  }
}

/**
 * Follows {@linkcode Mapping.claimError}.
 *
 * @param isThrown Whether the error was thrown. If not, the hub reports it.
 */
export function settleError(call: object, isThrown: boolean): void {
  if (isThrown) takeError(call);
  giveBackError(call);
}

/** The wait until the calls of a mapping have ended. */
class Draining extends Suspension<void> {
  readonly #running: ReadonlyMap<Greenlet<unknown>, number>;

  constructor(running: ReadonlyMap<Greenlet<unknown>, number>) {
    super();
    this.#running = running;
  }

  override describe(): string {
    return `the calls of map(): ${several(this.#running.keys())}`;
  }

  override get blockers(): readonly Greenlet<unknown>[] {
    return [...this.#running.keys()];
  }
}

/** The wait for all results of a mapping. The mapping runs in the greenlet that waits. */
export class MappingWait<T, R> extends PatientWait<R[]> {
  readonly #mapping: Mapping<T, R>;
  readonly #results: R[];
  /** The scope in which the items are taken. Only this wait passes interrupts on to it. */
  readonly #inner: Scope;
  /** The error of the first interrupt. */
  #cause: { readonly error: unknown } | null = null;

  /** @param results The array that the mapping puts the results into. */
  constructor(mapping: Mapping<T, R>, results: R[]) {
    const outer = currentScope();
    super(outer);
    this.#mapping = mapping;
    this.#results = results;
    this.#inner = new Scope(outer.greenlet);
    this.#inner.root = outer.root;
  }

  /** Runs the mapping. */
  start(): Wait<R[]> {
    const wait = this.suspend(this.waiter);
    runIn(this.#inner, () => this.#follow());
    return wait;
  }

  async #follow(): Promise<void> {
    await this.#mapping.run(false);
    this.#inner.close(this.isPending ? this.waiter : null);
    const { failure: ownFailure } = this.#mapping;
    const failure = this.#cause ?? ownFailure;
    if (failure !== null && failure === ownFailure && ownFailure.call) {
      this.#mapping.claimError(ownFailure.call);
      settleError(ownFailure.call, !this.isCutShort);
    }
    this.#mapping.giveBackErrors();
    if (failure === null) return this.switch(this.#results);
    // Even an error that has killed the call is now an error of the greenlet that waits.
    this.waiter.markRecipient(failure.error);
    this.throw(failure.error);
  }

  override interrupt(error: unknown, final: boolean): void {
    if (!this.isPending) return;
    this.markInterrupted(error, final);
    // Only the first error is thrown.
    const isFirst = this.#cause === null && this.#mapping.failure === null;
    if (isFirst) this.#cause = { error };
    this.#mapping.stop();
    if (!isFirst || final) super.interrupt(error, final);
  }

  override describe(): string {
    return describeInner(this.#inner);
  }

  override get blockers(): readonly CoreGreenlet[] {
    return blockersOf(this.#inner);
  }

  protected override hasten(): void {
    this.#mapping.hasten();
  }

  protected override undo(error: unknown): void {
    this.#inner.escalate(error);
  }
}
