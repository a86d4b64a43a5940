/**
 * Greenlets that belong together: groups, and pools of so many.
 *
 * ```ts
 * import { Pool, sleep } from "@gevent/gevent";
 *
 * const pool = new Pool(2);
 * const squares = await pool.map(async (n: number) => {
 *   await sleep(1);
 *   return n * n;
 * }, [1, 2, 3]);
 * console.log(squares); // [1, 4, 9]
 * ```
 *
 * @module
 */

import { NO_OPTIONS } from "./_base/language.ts";
import {
  checkFunction,
  checkOptions,
  instanceOf,
  numberError,
} from "./_base/checks.ts";
import { composed } from "./_hub/composed.ts";
import { currentScope, getCurrent, scopeOf } from "./_hub/current.ts";
import { Iteration } from "./_hub/iteration.ts";
import { endAll, killOnce } from "./_hub/kill.ts";
import { report } from "./_hub/main.ts";
import { Mapping, MappingWait, type Room } from "./_hub/mapping.ts";
import { giveBackError, keepError, takeError } from "./_hub/reports.ts";
import { Results } from "./_hub/results.ts";
import { checkpoint, DONE, readyWait } from "./_hub/suspension.ts";
import { checkDuration, now } from "./_hub/timers.ts";
import { Event } from "./event.ts";
import {
  type BodyResult,
  Greenlet,
  joinAll,
  type JoinOptions,
  type KillAllOptions,
  type KillOptions,
  spawn,
} from "./gevent.ts";
import { GreenletExit } from "./greenlet.ts";
import type { Wait } from "./hub.ts";
import { Semaphore } from "./lock.ts";
import { Full } from "./queue.ts";
import { withTimeout } from "./timeout.ts";

/** A greenlet, whatever it gives. */
// deno-lint-ignore no-explicit-any
export type AnyGreenlet = Greenlet<any>;

/** What {@linkcode Pool.add} and {@linkcode Pool.start} throw that find no room. */
export class PoolFull extends Full {
  static {
    this.prototype.name = "PoolFull";
  }

  /**
   * Makes the error.
   *
   * @param message What has happened.
   */
  constructor(message = "The pool is full") {
    super(message);
  }
}

/** Options of {@linkcode GroupBase.join}. */
export interface GroupJoinOptions {
  /** After how many milliseconds to wait no longer. @default {Infinity} */
  timeout?: number;
  /** Whether to throw the first error of a greenlet. @default {false} */
  raiseError?: boolean;
}

/** Options of {@linkcode Pool.add} and {@linkcode Pool.start}. */
export interface PoolOptions {
  /** Whether to wait if there is no room. @default {true} */
  block?: boolean;
  /** After how many milliseconds to give up. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode GroupBase.imap}. */
export interface ImapOptions {
  /**
   * How many results may be there, or in the making, that were not taken.
   *
   * @default {Infinity}
   */
  maxsize?: number;
}

/** Greenlets of a group that a `kill` waits for. */
class Dying {
  /** Those that were killed and have to end. */
  greenlets: Set<AnyGreenlet>;
  /** Those that these, and they themselves, have spawned in the group meanwhile. */
  spawned = new Set<AnyGreenlet>();
  /** Whether those are killed before they begin. */
  isLast = false;

  constructor(greenlets: Iterable<AnyGreenlet>) {
    this.greenlets = new Set(greenlets);
  }
}

/**
 * What {@linkcode Group} and {@linkcode Pool} have in common.
 */
export abstract class GroupBase implements AsyncDisposable {
  /** The greenlets that have not ended. gevent's `greenlets`. */
  readonly greenlets: Set<AnyGreenlet> = new Set();
  readonly #empty = new Event();
  readonly #ended = (greenlet: AnyGreenlet) => this.discard(greenlet);
  /** Greenlets of `applyAsync` that wait for room. */
  readonly #waiting = new Set<AnyGreenlet>();
  readonly #dying = new Set<Dying>();
  readonly #room: Room = {
    enter: () => this.enter(),
    leave: () => this.leave(),
    start: (greenlet) => this.begin(greenlet),
    mappings: new Set(),
  };

  /** Makes it, with no greenlets. */
  constructor() {
    this.#empty.set();
  }

  /** Waits for room for one more. */
  protected abstract enter(): Wait<unknown>;

  /** Takes room for one more, if there is some now. */
  protected abstract tryEnter(): boolean;

  /** Gives room back. */
  protected abstract leave(): void;

  /**
   * Takes in a greenlet for which there is room. The room is given back if that fails.
   *
   * @returns Whether it was not in it before.
   */
  protected admit(greenlet: AnyGreenlet): boolean {
    if (this.greenlets.has(greenlet)) {
      this.leave();
      return false;
    }
    try {
      greenlet.rawlink(this.#ended);
    } catch (error) {
      this.leave();
      throw error;
    }
    this.greenlets.add(greenlet);
    this.#empty.clear();
    if (this.#dying.size > 0) this.#noteSpawned(greenlet);
    return true;
  }

  /** Takes in a greenlet for which there is room, and starts it. */
  protected begin(greenlet: AnyGreenlet): void {
    const isNew = this.admit(greenlet);
    try {
      greenlet.start();
    } catch (error) {
      // It never runs, so that nothing else would take it out.
      if (isNew) this.discard(greenlet);
      throw error;
    }
  }

  /** What a greenlet spawns here that is being killed is killed after it. */
  #noteSpawned(greenlet: AnyGreenlet): void {
    const spawner = getCurrent() as AnyGreenlet;
    for (const dying of this.#dying) {
      if (!dying.greenlets.has(spawner) && !dying.spawned.has(spawner)) {
        continue;
      }
      dying.spawned.add(greenlet);
      // Else one that spawns another whenever it is killed would go on for ever.
      if (dying.isLast) killOnce([greenlet]);
    }
  }

  /** How many greenlets have not ended. gevent's `len(group)`. */
  get size(): number {
    return this.greenlets.size;
  }

  /**
   * Whether a greenlet is in it, and has not ended.
   *
   * @param greenlet The greenlet.
   */
  has(greenlet: AnyGreenlet): boolean {
    return this.greenlets.has(greenlet);
  }

  /** The greenlets that have not ended. */
  [Symbol.iterator](): IterableIterator<AnyGreenlet> {
    return this.greenlets.values();
  }

  /**
   * Takes a greenlet out, whatever becomes of it. gevent's `discard`. Not a switch point.
   *
   * @param greenlet The greenlet; need not be in it.
   */
  discard(greenlet: AnyGreenlet): void {
    if (!this.greenlets.delete(greenlet)) return;
    greenlet.unlink(this.#ended);
    this.leave();
    if (this.greenlets.size === 0) this.#empty.set();
  }

  /**
   * Waits until there is no greenlet. A switch point. gevent's `join`.
   *
   * @param options How long to wait, and whether to throw.
   * @returns Whether there is none; `false` at the timeout.
   * @throws {unknown} With `raiseError`, and not before all have ended or the time is over,
   * the error of the first greenlet that is in it now and has failed.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  join(options: GroupJoinOptions = NO_OPTIONS): Wait<boolean> {
    checkOptions(options, "join");
    const { timeout = Infinity, raiseError = false } = options;
    checkDuration(timeout, "join");
    if (!raiseError) return this.#empty.wait({ timeout });
    const greenlets = [...this.greenlets];
    return composed(async () => {
      // Which error is thrown is known in the end: the hub is told of the others then.
      for (const greenlet of greenlets) greenlet.rawlink(keepError);
      try {
        const isEmpty = await this.#empty.wait({ timeout });
        const failed = greenlets.find((g) => g.dead && !g.successful());
        if (failed === undefined) return isEmpty;
        takeError(failed);
        currentScope().markRecipient(failed.exception);
        throw failed.exception;
      } finally {
        for (const greenlet of greenlets) {
          greenlet.unlink(keepError);
          giveBackError(greenlet);
        }
      }
    });
  }

  /**
   * Kills all greenlets and waits until they have ended, and those whom they spawn here
   * while they clean up are killed as well. A switch point, unless `block` is false.
   * gevent's `kill`.
   *
   * A greenlet that was killed before, here or elsewhere, is not thrown a second error: it
   * cleans up within the grace that it has, or within the one that is given here, if that
   * is shorter.
   *
   * A `map` or a loop over `imap` that is in progress begins no more calls: unless all its
   * items were taken, it throws the error. An `applyAsync` that waits for room is killed.
   * What others spawn here meanwhile is not waited for.
   *
   * @param options What to throw, and how long to wait; see `killAll`.
   * @returns Nothing, at the timeout as well: see {@linkcode GroupBase.size}.
   * @throws {TypeError | RangeError} If a time is not a number of milliseconds.
   */
  kill(options: KillAllOptions = NO_OPTIONS): Wait<void> {
    checkOptions(options, "kill all");
    const { error = new GreenletExit(), block = true } = options;
    const { timeout = Infinity, grace } = options;
    checkDuration(timeout, "kill all");
    if (grace !== undefined) checkDuration(grace, "kill all");
    const thrown = instanceOf(error);
    for (const mapping of this.#room.mappings) mapping.cut(thrown);
    const dying = new Dying(this.greenlets);
    killOnce([...this.#waiting, ...this.greenlets], thrown, grace);
    if (!block || this.greenlets.size === 0) return DONE;
    const until = now() + timeout;
    return composed(async () => {
      this.#dying.add(dying);
      try {
        while (dying.greenlets.size > 0) {
          // One that waits for its own end would wait for ever.
          dying.greenlets.delete(getCurrent() as AnyGreenlet);
          const left = until - now();
          await joinAll(dying.greenlets, { timeout: left });
          if (now() >= until) return;
          dying.greenlets = dying.spawned;
          dying.spawned = new Set();
          dying.isLast = true;
          killOnce(dying.greenlets, thrown, grace);
        }
      } finally {
        this.#dying.delete(dying);
      }
    });
  }

  /**
   * Kills one greenlet, if it is in it. A switch point, unless `block` is false. gevent's
   * `killone`.
   *
   * One that was killed before is left to its clean-up, as by {@linkcode GroupBase.kill}.
   *
   * @param greenlet The greenlet.
   * @param error What to throw; by default a new `GreenletExit`.
   * @param options See `Greenlet.kill`.
   * @returns Nothing.
   */
  killOne(
    greenlet: AnyGreenlet,
    error: unknown = new GreenletExit(),
    options: KillOptions = NO_OPTIONS,
  ): Wait<void> {
    if (!this.greenlets.has(greenlet)) return DONE;
    if (scopeOf(greenlet).killed === null) return greenlet.kill(error, options);
    checkOptions(options, "kill");
    const { block = true, timeout = Infinity, grace } = options;
    checkDuration(timeout, "kill");
    if (grace !== undefined) checkDuration(grace, "kill");
    killOnce([greenlet], error, grace);
    // One that cleans up goes on with that, where it can't wait for its own end.
    if (!block || getCurrent() === greenlet) return DONE;
    return greenlet.join({ timeout });
  }

  /**
   * Calls a function in a greenlet of its own, and waits for the result. A switch point.
   * gevent's `apply`.
   *
   * An interrupt of the caller, or a `withTimeout` around the call, kills that greenlet, and
   * is thrown when it has ended and its place is free. gevent's lets it go on.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param args Its arguments.
   * @returns The result.
   * @throws {unknown} What the function throws.
   */
  apply<A extends unknown[], R>(
    run: (...args: A) => R,
    args: A = [] as unknown[] as A,
  ): Wait<BodyResult<R>> {
    checkFunction(run, "apply", "run");
    // One that is in it has room, which may be the last: gevent's rule.
    if (this.has(getCurrent() as AnyGreenlet)) {
      return withTimeout(Infinity, () => run(...args)) as Wait<BodyResult<R>>;
    }
    const greenlet = new Greenlet(run, ...args) as Greenlet<BodyResult<R>>;
    return composed(async () => {
      await this.enter();
      // Its error is thrown here.
      scopeOf(greenlet).errorIsHandled = true;
      this.begin(greenlet);
      try {
        return await greenlet.get();
      } catch (error) {
        if (!greenlet.dead) await endAll([greenlet]);
        // One that is stuck elsewhere tells of its error itself; and we do of another one
        // than what is thrown.
        if (!greenlet.dead) scopeOf(greenlet).errorIsHandled = false;
        else if (!greenlet.successful() && greenlet.exception !== error) {
          report(greenlet, greenlet.exception);
        }
        throw error;
      }
    });
  }

  /**
   * Calls a function in a greenlet of its own, and waits for nothing. gevent's
   * `apply_async`. Not a switch point.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param args Its arguments.
   * @param callback Gets the result, in a greenlet of its own.
   * @returns A greenlet whose result is the function's; it waits for room, if need be. To
   * kill it is to kill the function's.
   * @throws {TypeError} If `run` or `callback` is not a function.
   */
  applyAsync<A extends unknown[], R>(
    run: (...args: A) => R,
    args: A = [] as unknown[] as A,
    callback?: (result: BodyResult<R>) => unknown,
  ): Greenlet<BodyResult<R>> {
    checkFunction(run, "apply", "run");
    checkCallback(callback, "apply");
    const greenlet = new Greenlet(run, ...args) as Greenlet<BodyResult<R>>;
    if (this.tryEnter()) {
      this.begin(greenlet);
      return follow(greenlet, callback);
    }
    const waiting = spawn(() => this.apply(run, args));
    this.#waiting.add(waiting);
    if (this.#dying.size > 0) this.#noteSpawned(waiting);
    waiting.rawlink(() => this.#waiting.delete(waiting));
    return follow(waiting as Greenlet<BodyResult<R>>, callback);
  }

  /**
   * Calls a function for each item, in greenlets of their own, and waits for the results.
   * A switch point. gevent's `map`.
   *
   * The items are taken no faster than there is room for their greenlets. When a call fails,
   * no more items are taken, and the calls for later items are killed. Those for earlier
   * items may still fail by themselves, and an error of theirs comes first: after a second
   * they are killed, too, where gevent would wait for as long as they take.
   *
   * An interrupt of the caller kills all calls. Whatever ends it, the calls have ended and
   * the iterable has been closed when it is over. The hub is told of what other calls have
   * failed with, and of what one that was killed fails with in its clean-up.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @returns The results, in the order of the items.
   * @throws {unknown} The error of the first item, in the items' order, whose call has failed
   * and was not killed; or that of the iterable; or what {@linkcode GroupBase.kill} has thrown,
   * if that has ended the calls before the items have.
   * @throws {TypeError} If `run` is not a function, or `items` not iterable.
   */
  map<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
  ): Wait<BodyResult<R>[]> {
    checkFunction(run, "map", "run");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    const [mapping, results] = this.#mapping(run, items);
    return new MappingWait(mapping, results).start();
  }

  /** A mapping that has opened the items and does nothing more before it is run. */
  #mapping<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
  ): [Mapping<T, BodyResult<R>>, BodyResult<R>[]] {
    const results: BodyResult<R>[] = [];
    const iteration = new Iteration(items, "map");
    const mapping = new Mapping<T, BodyResult<R>>(this.#room, run, iteration, {
      ended(index, call) {
        if (call.successful()) results[index] = call.value as BodyResult<R>;
        else mapping.callFailed(index, call);
      },
    });
    return [mapping, results];
  }

  /**
   * As {@linkcode GroupBase.map}, but waits for nothing. gevent's `map_async`. Not a switch
   * point.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @param callback Gets the results, in a greenlet of its own.
   * @returns A greenlet whose result are the results.
   * @throws {TypeError} If `run` or `callback` is not a function, or `items` not iterable.
   */
  mapAsync<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
    callback?: (results: BodyResult<R>[]) => unknown,
  ): Greenlet<BodyResult<R>[]> {
    checkFunction(run, "map", "run");
    checkCallback(callback, "map");
    const [mapping, results] = this.#mapping(run, items);
    const greenlet = new Greenlet(() =>
      new MappingWait(mapping, results).start()
    );
    // One that is killed before it begins has closed nothing.
    greenlet.rawlink(() => mapping.abandon(greenlet.value));
    try {
      greenlet.start();
    } catch (error) {
      mapping.abandon(error);
      throw error;
    }
    return follow(greenlet, callback);
  }

  /**
   * Calls a function for each item, in greenlets of their own, and gives the results as
   * they are asked for. gevent's `imap`.
   *
   * The calls begin at once. What a call throws is thrown in its place, and what the iterable
   * throws after the last result; then there are no more results.
   *
   * In whatever way a `for await` loop over the results is left, by `break`, an error or an
   * interrupt: the calls have been killed and have ended, and the iterable has been closed,
   * when the loop is over. An interrupt that comes meanwhile is thrown by the next wait. A
   * call that is stuck in a promise of somebody else's is left behind after its grace.
   *
   * One that asks by hand, by `yield* results.next()`, calls `return()` in a `finally` block.
   * It may ask on after the error of a call, as in gevent. The hub is told of errors that are
   * not asked for: when the results are closed, and, where nothing has asked for any, when the
   * greenlet is dead that has called this, or the process ends.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @param options How many results may be ahead of the loop.
   * @returns The results, in the order of the items, for a `for await` loop.
   * @throws {TypeError} If `run` is not a function, or `items` not iterable.
   * @throws {TypeError | RangeError} If `maxsize` is not a positive integer.
   */
  imap<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
    options: ImapOptions = NO_OPTIONS,
  ): ResultIterator<BodyResult<R>> {
    return this.#imap(run, items, options, true);
  }

  /**
   * As {@linkcode GroupBase.imap}, but in the order in which the calls end. gevent's
   * `imap_unordered`.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @param options How many results may be ahead of the loop.
   * @returns The results, for a `for await` loop.
   * @throws {TypeError} If `run` is not a function, or `items` not iterable.
   * @throws {TypeError | RangeError} If `maxsize` is not a positive integer.
   */
  imapUnordered<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
    options: ImapOptions = NO_OPTIONS,
  ): ResultIterator<BodyResult<R>> {
    return this.#imap(run, items, options, false);
  }

  #imap<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
    options: ImapOptions,
    ordered: boolean,
  ): ResultIterator<BodyResult<R>> {
    checkOptions(options, "map");
    const { maxsize = Infinity } = options;
    if (maxsize !== Infinity && !(Number.isInteger(maxsize) && maxsize > 0)) {
      throw numberError("map", "maxsize", "a positive integer", maxsize);
    }
    checkFunction(run, "map", "run");
    const iteration = new Iteration(items, "map");
    return new Results<BodyResult<R>>(
      this.#room,
      run,
      iteration,
      maxsize,
      ordered,
    );
  }

  /** Joins it, at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.join();
  }
}

/** Has a callback called with a greenlet's value, once there is one. */
function follow<T>(
  greenlet: Greenlet<T>,
  callback: ((value: T) => unknown) | undefined,
): Greenlet<T> {
  if (callback !== undefined) {
    greenlet.linkValue((source) => callback(source.value as T));
  }
  return greenlet;
}

function checkCallback(callback: unknown, what: string): void {
  if (callback !== undefined) checkFunction(callback, what, "callback");
}

/**
 * What {@linkcode GroupBase.imap} returns: for `for await`. A generator body calls
 * `yield* results.next()`.
 *
 * @typeParam T The type of the results.
 */
export interface ResultIterator<T> extends AsyncIterableIterator<T> {
  /**
   * Waits for the next result. A switch point. When it is interrupted, that ends the calls,
   * as {@linkcode ResultIterator.return} does.
   */
  next(): Wait<IteratorResult<T, undefined>>;
  /**
   * Kills the calls that have not ended and closes the iterable, and waits until that is
   * done. A switch point. What waits for a result meanwhile gets the end.
   */
  return(): Wait<IteratorResult<T, undefined>>;
  /** Itself. */
  [Symbol.asyncIterator](): ResultIterator<T>;
}

/**
 * Greenlets that are joined and killed together. gevent's `Group`.
 *
 * @example Usage
 * ```ts
 * import { Group, sleep } from "@gevent/gevent";
 *
 * const group = new Group();
 * group.spawn(sleep, 1);
 * group.spawn(sleep, 2);
 * await group.join();
 * console.log(group.size); // 0
 * ```
 */
export class Group extends GroupBase {
  /**
   * Makes a group.
   *
   * @param greenlets Those that are in it from the start.
   */
  constructor(greenlets: Iterable<AnyGreenlet> = []) {
    super();
    const all = [...greenlets];
    for (const greenlet of all) checkGreenlet(greenlet);
    for (const greenlet of all) this.admit(greenlet);
  }

  /** There is always room. */
  protected override enter(): Wait<unknown> {
    return checkpoint(currentScope()) ?? DONE;
  }

  /** There is always room. */
  protected override tryEnter(): boolean {
    return true;
  }

  /** There is always room. */
  protected override leave(): void {}

  /**
   * Takes a greenlet in, until it has ended. gevent's `add`. Not a switch point.
   *
   * @param greenlet The greenlet.
   * @throws {TypeError} If it is none.
   */
  add(greenlet: AnyGreenlet): void {
    checkGreenlet(greenlet);
    this.admit(greenlet);
  }

  /**
   * Takes a greenlet in and starts it. gevent's `start`. Not a switch point.
   *
   * @param greenlet The greenlet.
   * @throws {TypeError} If it is none.
   */
  start(greenlet: AnyGreenlet): void {
    checkGreenlet(greenlet);
    this.begin(greenlet);
  }

  /**
   * Spawns a greenlet in the group. gevent's `spawn`. Not a switch point.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The body.
   * @param args Its arguments.
   * @returns The greenlet.
   * @throws {TypeError} If `run` is not a function.
   */
  spawn<A extends unknown[], R>(
    run: (...args: A) => R,
    ...args: A
  ): Greenlet<BodyResult<R>> {
    checkFunction(run, "spawn", "run");
    const greenlet = new Greenlet(run, ...args) as Greenlet<BodyResult<R>>;
    this.begin(greenlet);
    return greenlet;
  }
}

/**
 * A group of at most so many greenlets. gevent's `Pool`.
 *
 * @example Usage
 * ```ts
 * import { Pool, sleep } from "@gevent/gevent";
 *
 * const pool = new Pool(2);
 * for (let i = 0; i < 4; i++) {
 *   await pool.spawn(sleep, 1); // Waits until there is room
 * }
 * await pool.join();
 * ```
 */
export class Pool extends GroupBase {
  readonly #room: Semaphore | null;
  readonly #size: number;

  /**
   * Makes a pool.
   *
   * @param size How many greenlets there is room for; any number, if left out.
   * @throws {TypeError | RangeError} If it is not a positive integer.
   */
  constructor(size?: number | null) {
    super();
    const most = size ?? Infinity;
    if (most !== Infinity && !(Number.isInteger(most) && most > 0)) {
      throw numberError("create pool", "size", "a positive integer", size);
    }
    this.#size = most;
    this.#room = most === Infinity ? null : new Semaphore(most);
  }

  /** Waits for room for one more. */
  protected override enter(): Wait<unknown> {
    return this.#room?.acquire() ?? checkpoint(currentScope()) ?? DONE;
  }

  /** Takes room for one more, if there is some now. */
  protected override tryEnter(): boolean {
    // Where an error is due, acquire() would throw it: this is no switch point.
    if (this.full() || currentScope().interrupts !== null) return false;
    this.#room?.acquire();
    return true;
  }

  /** Gives room back. */
  protected override leave(): void {
    this.#room?.release();
  }

  /** How many greenlets there is room for, or `Infinity`. gevent's `size`. */
  get maxsize(): number {
    return this.#size;
  }

  /** Whether there is no room. gevent's `full`. */
  full(): boolean {
    return this.freeCount() <= 0;
  }

  /** For how many more there is room. gevent's `free_count`. */
  freeCount(): number {
    return this.#room?.counter ?? Infinity;
  }

  /**
   * Waits until there is room. A switch point. gevent's `wait_available`.
   *
   * @param options How long to wait.
   * @returns For how many there is room; none, if others were quicker or at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  waitAvailable(options: JoinOptions = NO_OPTIONS): Wait<number> {
    return this.#room?.wait(options) ?? checkpoint(currentScope()) ??
      readyWait(Infinity);
  }

  /**
   * Takes a greenlet in, until it has ended. A switch point, if there is no room. gevent's
   * `add`.
   *
   * @param greenlet The greenlet.
   * @param options Whether and how long to wait for room.
   * @returns Nothing.
   * @throws {PoolFull} If there is no room in time.
   * @throws {TypeError} If it is no greenlet.
   */
  add(greenlet: AnyGreenlet, options: PoolOptions = NO_OPTIONS): Wait<void> {
    checkGreenlet(greenlet);
    return this.#whenRoom(options, () => void this.admit(greenlet));
  }

  /**
   * Takes a greenlet in and starts it. A switch point, if there is no room. gevent's
   * `start`.
   *
   * @param greenlet The greenlet.
   * @param options Whether and how long to wait for room.
   * @returns Nothing.
   * @throws {PoolFull} If there is no room in time.
   * @throws {TypeError} If it is no greenlet.
   */
  start(greenlet: AnyGreenlet, options: PoolOptions = NO_OPTIONS): Wait<void> {
    checkGreenlet(greenlet);
    return this.#whenRoom(options, () => this.begin(greenlet));
  }

  /**
   * Spawns a greenlet when there is room for it. A switch point, if there is none. gevent's
   * `spawn`.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The body.
   * @param args Its arguments.
   * @returns The greenlet.
   * @throws {TypeError} If `run` is not a function.
   */
  spawn<A extends unknown[], R>(
    run: (...args: A) => R,
    ...args: A
  ): Wait<Greenlet<BodyResult<R>>> {
    checkFunction(run, "spawn", "run");
    const greenlet = new Greenlet(run, ...args) as Greenlet<BodyResult<R>>;
    return this.#whenRoom({}, () => {
      this.begin(greenlet);
      return greenlet;
    });
  }

  #whenRoom<T>(options: PoolOptions, enter: () => T): Wait<T> {
    checkOptions(options, "enter the pool");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "enter the pool");
    const due = checkpoint(currentScope());
    if (due !== null) return due;
    const room = this.#room;
    if (room === null) return readyWait(enter());
    if (room.counter > 0) {
      room.acquire();
      return readyWait(enter());
    }
    return composed(async () => {
      const entered = await room.acquire({ blocking: block, timeout });
      if (entered === null) throw new PoolFull();
      return enter();
    });
  }
}

function checkGreenlet(greenlet: unknown): void {
  if (greenlet instanceof Greenlet) return;
  throw new TypeError(
    `Cannot add to the group as it must be a greenlet: received ${
      String(greenlet)
    }`,
  );
}
