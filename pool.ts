/**
 * Groups of greenlets that are joined and killed together, and pools, which limit how many
 * run at a time.
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

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import {
  ADVICE_ERROR,
  checkFunction,
  checkIterable,
  checkOptions,
  instanceOf,
  isInstance,
  killErrorOf,
  numberError,
  show,
} from "./_base/checks.ts";
import { composed } from "./_hub/composed.ts";
import { currentScope, getCurrent, scopeOf } from "./_hub/current.ts";
import { Iteration } from "./_hub/iteration.ts";
import { endAll, killOnce } from "./_hub/kill.ts";
import { report } from "./_hub/main.ts";
import { Mapping, MappingWait, type Room } from "./_hub/mapping.ts";
import { giveBackError, keepError, takeError } from "./_hub/reports.ts";
import { Results } from "./_hub/results.ts";
import {
  checkpoint,
  DONE,
  doneWait,
  LateCall,
  readyWait,
} from "./_hub/suspension.ts";
import { checkDuration, countDown, now, timeoutOf } from "./_hub/timers.ts";
import { BLOCKERS, CALL, callOf, classOf, several } from "./_hub/waits.ts";
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
import { type Greenlet as CoreGreenlet, GreenletExit } from "./greenlet.ts";
import type { Wait } from "./hub.ts";
import { Semaphore } from "./lock.ts";
import { Full } from "./queue.ts";
import { withTimeout } from "./timeout.ts";

/** A greenlet with any type of result. */
// deno-lint-ignore no-explicit-any
export type AnyGreenlet = Greenlet<any>;

/**
 * Thrown by {@linkcode Pool.add} and {@linkcode Pool.start} if there is no room in time.
 * gevent's `PoolFull`.
 *
 * @example Usage
 * ```ts
 * import { Greenlet, Pool, PoolFull, sleep } from "@gevent/gevent";
 *
 * const pool = new Pool(1);
 * await pool.spawn(sleep, 5);
 * try {
 *   await pool.start(new Greenlet(sleep, 5), { block: false });
 * } catch (error) {
 *   console.log(error instanceof PoolFull); // true
 * }
 * await pool.join();
 * ```
 */
export class PoolFull extends Full {
  static {
    this.prototype.name = "PoolFull";
  }

  /**
   * Makes the error.
   *
   * @param message The message.
   */
  constructor(message = "The pool is full") {
    super(message);
  }
}

/** Options of {@linkcode GroupBase.join}. */
export interface GroupJoinOptions {
  /** How many milliseconds to wait at most. @default {Infinity} */
  timeout?: number;
  /** Whether to throw the error of a greenlet that has failed. @default {false} */
  raiseError?: boolean;
}

/** Options of {@linkcode Pool.add} and {@linkcode Pool.start}. */
export interface PoolOptions {
  /** Whether to wait for room. @default {true} */
  block?: boolean;
  /** How many milliseconds to wait at most. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode GroupBase.imap}. */
export interface ImapOptions {
  /**
   * The most calls that may be in progress, or have a result that the loop has not taken yet.
   *
   * @default {Infinity}
   */
  maxsize?: number;
}

/** An event that is set while a group has no greenlets. */
class Emptied extends Event {
  readonly #group: GroupBase;

  constructor(group: GroupBase) {
    super();
    this.#group = group;
  }

  [CALL](): string {
    return `${callOf(this.#group, "join()")}, for ${
      several(this.#group.greenlets)
    }`;
  }

  [BLOCKERS](): readonly CoreGreenlet[] {
    return [...this.#group.greenlets];
  }
}

/** The free places of a pool. */
class PoolRoom extends Semaphore {
  readonly #pool: Pool;

  constructor(pool: Pool, size: number) {
    super(size);
    this.#pool = pool;
  }

  [CALL](): string {
    const { greenlets } = this.#pool;
    return `room in a ${classOf(this.#pool)} of ${greenlets.size} greenlets`;
  }
}

/** The greenlets that one call of `kill` waits for. */
class Dying {
  /** The greenlets that were killed and have not ended. */
  greenlets: Set<AnyGreenlet>;
  /** The greenlets that `greenlets`, or their descendants, have spawned in the group since. */
  spawned = new Set<AnyGreenlet>();
  /** Whether a greenlet that is spawned from now on is killed before it starts. */
  isLast = false;

  constructor(greenlets: Iterable<AnyGreenlet>) {
    this.greenlets = new Set(greenlets);
  }
}

/**
 * The base class of {@linkcode Group} and {@linkcode Pool}. It has the methods that call a
 * function in greenlets, as gevent's `GroupMappingMixin` does.
 *
 * @example Usage
 * ```ts
 * import { Group, type GroupBase, Pool } from "@gevent/gevent";
 *
 * async function squares(group: GroupBase): Promise<number[]> {
 *   return await group.map((n: number) => n * n, [1, 2, 3]);
 * }
 * console.log(await squares(new Group())); // [1, 4, 9]
 * console.log(await squares(new Pool(2))); // [1, 4, 9]
 *
 * for await (const n of new Pool(2).imap((n: number) => n + 1, [1, 2])) {
 *   console.log(n); // 2, 3
 * }
 * console.log(await new Group().apply((name: string) => name, ["rose"])); // rose
 * ```
 */
export abstract class GroupBase implements AsyncDisposable {
  /** The greenlets that have not ended. gevent's `greenlets`. */
  readonly greenlets: Set<AnyGreenlet> = new Set();
  readonly #empty = new Emptied(this);
  readonly #ended = (greenlet: AnyGreenlet) => this.discard(greenlet);
  /** The greenlets of `applyAsync` that wait for room. */
  readonly #waiting = new Set<AnyGreenlet>();
  readonly #dying = new Set<Dying>();
  readonly #room: Room = {
    enter: () => this.enter(),
    tryEnter: () => this.tryEnter(),
    leave: () => this.leave(),
    start: (greenlet) => this.begin(greenlet),
    mappings: new Set(),
  };

  static {
    showAs(this, (group) => ({ greenlets: [...group.greenlets] }));
  }

  /** Makes a group without greenlets. */
  constructor() {
    this.#empty.set();
  }

  /** Waits for a free place for a greenlet, and takes it. */
  protected abstract enter(): Wait<unknown>;

  /** Takes a place if one is free now. Returns whether it has taken one. */
  protected abstract tryEnter(): boolean;

  /** Gives a place back. */
  protected abstract leave(): void;

  /**
   * Adds a greenlet for which a place was taken. Gives the place back if that fails.
   *
   * @returns Whether the greenlet is new in the group.
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

  /** Adds a greenlet for which a place was taken, and starts it. */
  protected begin(greenlet: AnyGreenlet): void {
    const isNew = this.admit(greenlet);
    try {
      greenlet.start();
    } catch (error) {
      // The greenlet never runs, so nothing else removes it.
      if (isNew) this.discard(greenlet);
      throw error;
    }
  }

  /** Tells `kill` of a new greenlet, if a greenlet that is being killed has spawned it. */
  #noteSpawned(greenlet: AnyGreenlet): void {
    const spawner = getCurrent() as AnyGreenlet;
    for (const dying of this.#dying) {
      if (!dying.greenlets.has(spawner) && !dying.spawned.has(spawner)) {
        continue;
      }
      dying.spawned.add(greenlet);
      // Otherwise a greenlet that spawns another one in its clean-up would keep kill() busy.
      if (dying.isLast) killOnce([greenlet]);
    }
  }

  /** The number of greenlets that have not ended. gevent's `len(group)`. */
  get size(): number {
    return this.greenlets.size;
  }

  /**
   * Whether a greenlet is in the group and has not ended. gevent's `greenlet in group`.
   *
   * @param greenlet The greenlet.
   */
  has(greenlet: AnyGreenlet): boolean {
    return this.greenlets.has(greenlet);
  }

  /** Iterates over the greenlets that have not ended. */
  [Symbol.iterator](): IterableIterator<AnyGreenlet> {
    return this.greenlets.values();
  }

  /**
   * Removes a greenlet from the group. The greenlet goes on. Not a switch point. gevent's
   * `discard`.
   *
   * @param greenlet The greenlet. Does nothing if it is not in the group.
   */
  discard(greenlet: AnyGreenlet): void {
    if (!this.greenlets.delete(greenlet)) return;
    greenlet.unlink(this.#ended);
    this.leave();
    if (this.greenlets.size === 0) this.#empty.set();
  }

  /**
   * Waits until the group has no greenlet. A switch point. gevent's `join`. An interrupt of
   * the caller does not end the greenlets.
   *
   * @param options How long to wait, and whether to throw.
   * @returns `true` if the group has no greenlet, `false` at the timeout.
   * @throws {unknown} With `raiseError`, when all have ended or at the timeout: the error of
   * the first failed greenlet among those that were in the group at the call.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  join(options: GroupJoinOptions = NO_OPTIONS): Wait<boolean> {
    const timeout = timeoutOf(options, "join");
    const { raiseError = false } = options;
    if (!raiseError) return this.#empty.wait({ timeout });
    const greenlets = [...this.greenlets];
    return composed(async () => {
      // Which error is thrown is known only at the end. The other errors are reported then.
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
   * Kills all greenlets and waits until they have ended. A switch point, unless `block` is
   * `false`. gevent's `kill`.
   *
   * Greenlets that they spawn in this group during their clean-up are killed as well. Greenlets
   * that other code spawns here meanwhile are not, and this does not wait for them.
   *
   * A greenlet that was killed before does not get a second error. It finishes its clean-up
   * within the grace of its first kill, or within the grace given here if that is shorter.
   *
   * A `map` in progress and a loop over `imap` begin no more calls. They throw the error,
   * unless they had taken all their items. An `applyAsync` that waits for room is killed, too.
   *
   * @param options What to throw, and how long to wait; see `killAll`.
   * @returns Nothing, also at the timeout. {@linkcode GroupBase.size} is then the number of
   * greenlets that are left.
   * @throws {TypeError | RangeError} If a time is not a number of milliseconds.
   */
  kill(options: KillAllOptions = NO_OPTIONS): Wait<void> {
    const timeout = timeoutOf(options, "kill all", ADVICE_ERROR);
    const { error = new GreenletExit(), block = true, grace } = options;
    if (grace !== undefined) checkDuration(grace, "kill all");
    const thrown = instanceOf(error);
    for (const mapping of this.#room.mappings) mapping.cut(thrown);
    const dying = new Dying(this.greenlets);
    killOnce([...this.#waiting, ...this.greenlets], thrown, grace);
    if (!block || this.greenlets.size === 0) return doneWait();
    const until = now() + timeout;
    return composed(async () => {
      this.#dying.add(dying);
      try {
        while (dying.greenlets.size > 0) {
          // A greenlet can't wait for its own end.
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
   * Kills one greenlet and waits until it has ended. A switch point, unless `block` is
   * `false`. gevent's `killone`.
   *
   * A greenlet that was killed before does not get a second error; see
   * {@linkcode GroupBase.kill}.
   *
   * @param greenlet The greenlet. Does nothing if it is not in the group.
   * @param error The error to throw; by default a new `GreenletExit`.
   * @param options See `Greenlet.kill`.
   * @returns Nothing.
   * @throws {TypeError | RangeError} If a time is not a number of milliseconds.
   */
  killOne(
    greenlet: AnyGreenlet,
    error: unknown = new GreenletExit(),
    options: KillOptions = NO_OPTIONS,
  ): Wait<void> {
    const thrown = killErrorOf(error);
    if (!this.greenlets.has(greenlet)) return doneWait();
    if (scopeOf(greenlet).killed === null) {
      return greenlet.kill(thrown, options);
    }
    const timeout = timeoutOf(options, "kill");
    const { block = true, grace } = options;
    if (grace !== undefined) checkDuration(grace, "kill");
    killOnce([greenlet], thrown, grace);
    // A greenlet can't wait for its own end.
    if (!block || getCurrent() === greenlet) return DONE;
    const scope = currentScope();
    const left = countDown(timeout);
    return checkpoint(scope) ??
      new LateCall(scope, () => greenlet.join({ timeout: left() }));
  }

  /**
   * Calls a function in a greenlet of its own, and waits for the result. A switch point.
   * gevent's `apply`.
   *
   * An interrupt of the caller, or a `withTimeout` around the call, kills that greenlet. The
   * interrupt is thrown when the greenlet has ended and its place is free. In gevent the
   * greenlet goes on.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param args Its arguments.
   * @returns The function's result.
   * @throws {unknown} The error that the function throws.
   * @throws {TypeError} If `run` is not a function.
   */
  apply<A extends unknown[], R>(
    run: (...args: A) => R,
    args: A = [] as unknown[] as A,
  ): Wait<BodyResult<R>> {
    checkFunction(run, "apply", "run");
    checkIterable(args, "apply", "arguments");
    // A greenlet of the group calls the function itself, as in gevent: it may hold the last
    // place, and would wait for itself.
    if (this.has(getCurrent() as AnyGreenlet)) {
      return withTimeout(Infinity, () => run(...args)) as Wait<BodyResult<R>>;
    }
    const greenlet = new Greenlet(run, ...args) as Greenlet<BodyResult<R>>;
    return composed(async () => {
      // The greenlet starts before those that are spawned after the call, as in gevent.
      if (!this.tryEnter()) await this.enter();
      // The error of the greenlet is thrown here.
      scopeOf(greenlet).errorIsHandled = true;
      this.begin(greenlet);
      try {
        return await greenlet.get();
      } catch (error) {
        if (!greenlet.dead) await endAll([greenlet]);
        // A greenlet that has not ended reports its error itself, later. One that has failed
        // with another error than the one thrown here is reported now.
        if (!greenlet.dead) scopeOf(greenlet).errorIsHandled = false;
        else if (!greenlet.successful() && greenlet.exception !== error) {
          report(greenlet, greenlet.exception);
        }
        throw error;
      }
    });
  }

  /**
   * Calls a function in a greenlet of its own, and returns at once. Not a switch point.
   * gevent's `apply_async`.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param args Its arguments.
   * @param callback Called with the function's result, in a greenlet of its own.
   * @returns A greenlet with the function's result. If there is no room, the greenlet waits
   * for it. A kill of the greenlet stops the function.
   * @throws {TypeError} If `run` or `callback` is not a function.
   */
  applyAsync<A extends unknown[], R>(
    run: (...args: A) => R,
    args: A = [] as unknown[] as A,
    callback?: (result: BodyResult<R>) => unknown,
  ): Greenlet<BodyResult<R>> {
    checkFunction(run, "apply", "run");
    checkIterable(args, "apply", "arguments");
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
   * Calls a function for each item, each call in a greenlet of its own, and waits for all
   * results. A switch point. gevent's `map`.
   *
   * An item is taken only when there is room for its greenlet. When a call fails, no more
   * items are taken, and the calls for later items are killed. The calls for earlier items go
   * on for up to a second, and are killed then: if one of them fails as well, its error is
   * thrown. gevent waits for them without limit.
   *
   * An interrupt of the caller kills all calls. When this returns or throws, all calls have
   * ended and the iterable has been closed. An error that is not thrown, or that a killed call
   * throws in its clean-up, is reported to the hub.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @returns The results, in the order of the items.
   * @throws {unknown} The error of the first call, in the order of the items, that has failed
   * without a kill; the error of the iterable; or the error of {@linkcode GroupBase.kill}, if
   * that was called before all items were taken.
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

  /** Opens the items, and makes a mapping that has not run yet. */
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
   * {@linkcode GroupBase.map} in a new greenlet: returns at once. Not a switch point. gevent's
   * `map_async`.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @param callback Called with the results, in a greenlet of its own.
   * @returns A greenlet whose result is the array of results.
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
    // If the greenlet is killed before it starts, nothing else closes the items.
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
   * Calls a function for each item, each call in a greenlet of its own, and returns an
   * iterator over the results. Not a switch point. gevent's `imap`.
   *
   * The calls begin at once. If a call fails, its error is thrown in place of its result. If
   * the iterable throws, its error is thrown after the last result, and the iteration ends.
   *
   * A `for await` loop over the results may end in any way: `break`, an error, an interrupt.
   * When it is over, the calls were killed and have ended, and the iterable is closed. An
   * interrupt that arrives meanwhile is thrown by the next wait. A call that awaits a foreign
   * promise is left behind after its grace.
   *
   * If you call `yield* results.next()` yourself, call `results.return()` in a `finally`
   * block. After `next()` has thrown the error of a call, you can call it again, as in gevent.
   * An error that `next()` has not thrown is reported to the hub when the results are closed.
   * If `next()` was never called, it is reported when the greenlet that has called `imap` is
   * dead, or when the process ends.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @param options How many calls may be ahead of the loop.
   * @returns An iterator over the results, in the order of the items.
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
   * Like {@linkcode GroupBase.imap}, but with the results in the order in which the calls end.
   * Not a switch point. gevent's `imap_unordered`.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @param options How many calls may be ahead of the loop.
   * @returns An iterator over the results.
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

  /** Waits until all greenlets have ended, at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.join();
  }
}

/** Calls a callback with the value of a greenlet, when the greenlet has succeeded. */
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
 * The iterator that {@linkcode GroupBase.imap} returns, for `for await`. A generator body
 * calls `yield* results.next()`.
 *
 * @typeParam T The type of the results.
 */
export interface ResultIterator<T> extends AsyncIterableIterator<T> {
  /**
   * Waits for the next result. A switch point. If it is interrupted, all calls are killed, as
   * by {@linkcode ResultIterator.return}.
   */
  next(): Wait<IteratorResult<T, undefined>>;
  /**
   * Kills the calls that have not ended, closes the iterable, and waits until that is done. A
   * switch point. Pending calls of `next()` return `done`.
   */
  return(): Wait<IteratorResult<T, undefined>>;
  /** Returns the iterator itself. */
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
   * @param greenlets The first greenlets of the group.
   * @throws {TypeError} If one of them is not a greenlet.
   */
  constructor(greenlets: Iterable<AnyGreenlet> = []) {
    super();
    checkIterable(greenlets, "create group", "greenlets");
    const all = [...greenlets];
    for (const greenlet of all) checkGreenlet(greenlet);
    for (const greenlet of all) this.admit(greenlet);
  }

  /** Returns at once: a group always has room. */
  protected override enter(): Wait<unknown> {
    return checkpoint(currentScope()) ?? doneWait();
  }

  /** Returns `true`: a group always has room. */
  protected override tryEnter(): boolean {
    return true;
  }

  /** Does nothing: a group always has room. */
  protected override leave(): void {}

  /**
   * Adds a greenlet, which stays in the group until it has ended. Not a switch point. gevent's
   * `add`.
   *
   * @param greenlet The greenlet.
   * @throws {TypeError} If it is not a greenlet.
   */
  add(greenlet: AnyGreenlet): void {
    checkGreenlet(greenlet);
    this.admit(greenlet);
  }

  /**
   * Adds a greenlet and starts it. Not a switch point. gevent's `start`.
   *
   * @param greenlet The greenlet.
   * @throws {TypeError} If it is not a greenlet.
   */
  start(greenlet: AnyGreenlet): void {
    checkGreenlet(greenlet);
    this.begin(greenlet);
  }

  /**
   * Makes a greenlet, adds it to the group and starts it soon. Not a switch point. gevent's
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
  ): Greenlet<BodyResult<R>> {
    checkFunction(run, "spawn", "run");
    const greenlet = new Greenlet(run, ...args) as Greenlet<BodyResult<R>>;
    this.begin(greenlet);
    return greenlet;
  }
}

/**
 * A group with a limited number of greenlets. gevent's `Pool`.
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

  static {
    showAs(this, (pool) => ({
      maxsize: pool.#size,
      greenlets: [...pool.greenlets],
      waiting: pool.#room?.linkCount() ?? 0,
    }));
  }

  /**
   * Makes a pool.
   *
   * @param size The most greenlets at a time; no limit if it is left out.
   * @throws {TypeError | RangeError} If it is not a positive integer.
   */
  constructor(size?: number | null) {
    super();
    const most = size ?? Infinity;
    if (most !== Infinity && !(Number.isInteger(most) && most > 0)) {
      throw numberError("create pool", "size", "a positive integer", size);
    }
    this.#size = most;
    this.#room = most === Infinity ? null : new PoolRoom(this, most);
  }

  /** Waits for a free place for a greenlet, and takes it. */
  protected override enter(): Wait<unknown> {
    return this.#room?.acquire() ?? checkpoint(currentScope()) ?? doneWait();
  }

  /** Takes a place if one is free now. Returns whether it has taken one. */
  protected override tryEnter(): boolean {
    // If an interrupt is due, acquire() would throw it. Only a switch point may do that.
    if (this.full() || currentScope().interrupts !== null) return false;
    this.#room?.acquire();
    return true;
  }

  /** Gives a place back. */
  protected override leave(): void {
    this.#room?.release();
  }

  /** The most greenlets at a time, or `Infinity`. gevent's `size`. */
  get maxsize(): number {
    return this.#size;
  }

  /** Whether there is no room for another greenlet. gevent's `full`. */
  full(): boolean {
    return this.freeCount() <= 0;
  }

  /** Returns the number of free places, or `Infinity`. gevent's `free_count`. */
  freeCount(): number {
    return this.#room?.counter ?? Infinity;
  }

  /**
   * Waits until a place is free, and does not take it. A switch point. gevent's
   * `wait_available`.
   *
   * @param options How long to wait.
   * @returns The number of free places: 0 at the timeout, or if other greenlets have taken
   * them before this one goes on.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  waitAvailable(options: JoinOptions = NO_OPTIONS): Wait<number> {
    return this.#room?.wait(options) ?? checkpoint(currentScope()) ??
      readyWait(Infinity);
  }

  /**
   * Waits until there is room, and adds a greenlet, which stays in the pool until it has
   * ended. A switch point. gevent's `add`. If the wait is interrupted, the greenlet is not
   * added.
   *
   * @param greenlet The greenlet.
   * @param options Whether to wait for room, and how long.
   * @returns Nothing.
   * @throws {PoolFull} If there is no room in time.
   * @throws {TypeError} If it is not a greenlet.
   */
  add(greenlet: AnyGreenlet, options: PoolOptions = NO_OPTIONS): Wait<void> {
    checkGreenlet(greenlet);
    return this.#whenRoom(options, () => void this.admit(greenlet));
  }

  /**
   * Waits until there is room, adds a greenlet and starts it. A switch point. gevent's
   * `start`. If the wait is interrupted, the greenlet does not start.
   *
   * @param greenlet The greenlet.
   * @param options Whether to wait for room, and how long.
   * @returns Nothing.
   * @throws {PoolFull} If there is no room in time.
   * @throws {TypeError} If it is not a greenlet.
   */
  start(greenlet: AnyGreenlet, options: PoolOptions = NO_OPTIONS): Wait<void> {
    checkGreenlet(greenlet);
    return this.#whenRoom(options, () => this.begin(greenlet));
  }

  /**
   * Waits until there is room, makes a greenlet and starts it soon. A switch point. gevent's
   * `spawn`. If the wait is interrupted, the function is not called.
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
    const timeout = timeoutOf(options, "enter the pool");
    const { block = true } = options;
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
  if (isInstance(greenlet, Greenlet)) return;
  throw new TypeError(
    `Cannot add to the group as 'greenlet' must be a greenlet: received ${
      show(greenlet)
    }`,
  );
}

nameClasses({ PoolFull, GroupBase, Group, Pool });
