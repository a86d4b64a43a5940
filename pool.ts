/**
 * Greenlets that belong together: groups, pools of so many, and nurseries.
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

import {
  callIn,
  currentFlow,
  DONE,
  Flow,
  flowOf,
  getCurrent,
  readyWait,
  report,
  Suspension,
  unwrapped,
} from "./_flow.ts";
import { isThenable } from "./_body.ts";
import {
  checkFunction,
  checkOptions,
  instanceOf,
  numberError,
} from "./_checks.ts";
import { checkDuration } from "./_timers.ts";
import { GRACE, killOnce } from "./_kill.ts";
import { Event } from "./event.ts";
import { GreenletError, GreenletExit } from "./greenlet.ts";
import {
  Greenlet,
  joinAll,
  type JoinOptions,
  killAll,
  type KillAllOptions,
  type KillOptions,
  type Returned,
  spawn,
} from "./gevent.ts";
import { until, type Wait } from "./hub.ts";
import { Semaphore } from "./lock.ts";
import { Full, Queue, ShutDown } from "./queue.ts";
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

/** Options of {@linkcode Members.join}. */
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

/** Options of {@linkcode Members.imap}. */
export interface ImapOptions {
  /**
   * How many results may be there, or in the making, that were not taken.
   *
   * @default {Infinity}
   */
  maxsize?: number;
}

/** Runs a function that waits several times as one wait of the current greenlet. */
function composed<T>(run: () => Promise<T>): Wait<T> {
  return withTimeout(Infinity, run) as Wait<unknown> as Wait<T>;
}

/**
 * What {@linkcode Group} and {@linkcode Pool} have in common.
 */
export abstract class Members implements AsyncDisposable {
  /** The greenlets that have not ended. gevent's `greenlets`. */
  readonly greenlets: Set<AnyGreenlet> = new Set();
  readonly #empty = new Event();
  readonly #ended = (greenlet: AnyGreenlet) => this.discard(greenlet);

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

  /** Takes in a greenlet for which there is room. */
  protected admit(greenlet: AnyGreenlet): void {
    if (this.greenlets.has(greenlet)) return this.leave();
    this.greenlets.add(greenlet);
    this.#empty.clear();
    greenlet.rawlink(this.#ended);
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
   * @throws {unknown} With `raiseError`, the error of a greenlet that is in it now.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  join(options: GroupJoinOptions = {}): Wait<boolean> {
    checkOptions(options, "join");
    const { timeout = Infinity, raiseError = false } = options;
    checkDuration(timeout, "join");
    if (!raiseError) return this.#empty.wait({ timeout });
    return composed(async () => {
      const until = performance.now() + timeout;
      await joinAll(this.greenlets, { timeout, raiseError });
      return await this.#empty.wait({ timeout: until - performance.now() });
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
   * @param options What to throw, and how long to wait; see `killAll`.
   * @returns Nothing, at the timeout as well: see {@linkcode Members.size}.
   * @throws {TypeError | RangeError} If a time is not a number of milliseconds.
   */
  kill(options: KillAllOptions = {}): Wait<void> {
    checkOptions(options, "kill all");
    const { error = new GreenletExit(), block = true } = options;
    const { timeout = Infinity, grace } = options;
    checkDuration(timeout, "kill all");
    if (grace !== undefined) checkDuration(grace, "kill all");
    const thrown = instanceOf(error);
    const killNow = () => killOnce(this.greenlets, thrown, grace);
    killNow();
    if (!block || this.greenlets.size === 0) return DONE;
    const until = performance.now() + timeout;
    return composed(async () => {
      for (;;) {
        await joinAll(this.greenlets, { timeout: until - performance.now() });
        if (this.greenlets.size === 0 || performance.now() >= until) return;
        // All that we have killed have ended: these were spawned meanwhile.
        killNow();
      }
    });
  }

  /**
   * Kills one greenlet, if it is in it. A switch point, unless `block` is false. gevent's
   * `killone`.
   *
   * One that was killed before is left to its clean-up, as by {@linkcode Members.kill}.
   *
   * @param greenlet The greenlet.
   * @param error What to throw; by default a new `GreenletExit`.
   * @param options See `Greenlet.kill`.
   * @returns Nothing.
   */
  killOne(
    greenlet: AnyGreenlet,
    error: unknown = new GreenletExit(),
    options: KillOptions = {},
  ): Wait<void> {
    if (!this.greenlets.has(greenlet)) return DONE;
    if (flowOf(greenlet).killed === null) return greenlet.kill(error, options);
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
  ): Wait<Returned<R>> {
    // One that is in it has room, which may be the last: gevent's rule.
    if (this.has(getCurrent() as AnyGreenlet)) {
      return withTimeout(Infinity, () => run(...args)) as Wait<Returned<R>>;
    }
    const greenlet = new Greenlet(run, ...args) as Greenlet<Returned<R>>;
    return composed(async () => {
      await this.enter();
      flowOf(greenlet).quiet = true;
      this.#start(greenlet);
      try {
        return await greenlet.get();
      } catch (error) {
        // When we don't wait for it any more, it tells of its error itself; or we do, if it
        // has just failed.
        if (!greenlet.dead) flowOf(greenlet).quiet = false;
        else if (!greenlet.successful() && greenlet.exception !== error) {
          report(greenlet, greenlet.exception);
        }
        throw error;
      }
    });
  }

  #start(greenlet: AnyGreenlet): void {
    this.admit(greenlet);
    greenlet.start();
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
    callback?: (result: Returned<R>) => unknown,
  ): Greenlet<Returned<R>> {
    checkFunction(run, "apply", "run");
    checkCallback(callback, "apply");
    if (this.tryEnter()) {
      const greenlet = new Greenlet(run, ...args) as Greenlet<Returned<R>>;
      this.#start(greenlet);
      return follow(greenlet, callback);
    }
    const waiting = spawn(async () => {
      const [result] = await this.map(() => run(...args), [undefined]);
      return result!;
    });
    return follow(waiting as Greenlet<Returned<R>>, callback);
  }

  /**
   * Calls a function for each item, in greenlets of their own, and waits for the results.
   * A switch point. gevent's `map`.
   *
   * The items are taken no faster than there is room for their greenlets. When one of the
   * calls fails, or the caller is interrupted, the others are killed.
   *
   * @typeParam T The type of the items.
   * @typeParam R What the function returns.
   * @param run The function.
   * @param items The items: an iterable, sync or async.
   * @returns The results, in the order of the items.
   * @throws {unknown} What the function throws first, in the order of the items.
   * @throws {TypeError} If `run` is not a function, or `items` not iterable.
   */
  map<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
  ): Wait<Returned<R>[]> {
    checkFunction(run, "map", "run");
    const iterator = iterate(items);
    return composed(() => this.#map(run, iterator));
  }

  async #map<T, R>(
    run: (item: T) => R,
    items: Iterator<T> | AsyncIterator<T>,
  ): Promise<Returned<R>[]> {
    const running = new Set<Greenlet<Returned<R>>>();
    const results: Returned<R>[] = [];
    const failures: { readonly index: number; readonly error: unknown }[] = [];
    const quiet = new Event();
    /** Ends our waits when a call fails, whatever they are for. */
    const failed = new GreenletExit("A call has failed");
    const flow = currentFlow();
    let isMapping = true;
    let ended = false;
    const take = (index: number, greenlet: Greenlet<Returned<R>>) => {
      running.delete(greenlet);
      if (greenlet.successful()) {
        results[index] = greenlet.value as Returned<R>;
      } else {
        failures.push({ index, error: greenlet.exception });
        if (isMapping && failures.length === 1) flow.interrupt(failed);
      }
      if (running.size === 0) quiet.set();
    };
    try {
      for (let index = 0; failures.length === 0; index++) {
        await this.enter();
        let entered = true;
        try {
          let step = items.next();
          if (isThenable(step)) {
            // Whoever makes the items may need the room.
            this.leave();
            entered = false;
            step = await until(step);
            await this.enter();
            entered = true;
          }
          const { done, value } = step as IteratorResult<T>;
          ended = done === true;
          if (ended) break;
          const greenlet = new Greenlet(run, value) as Greenlet<Returned<R>>;
          flowOf(greenlet).quiet = true;
          running.add(greenlet);
          greenlet.rawlink(() => take(index, greenlet));
          this.#start(greenlet);
          entered = false;
        } finally {
          if (entered) this.leave();
        }
      }
      while (running.size > 0 && failures.length === 0) {
        quiet.clear();
        await quiet.wait();
      }
    } catch (error) {
      if (error !== failed) throw error;
    } finally {
      isMapping = false;
      flow.unhold(failed);
      if (running.size > 0) await killAll(running);
      if (!ended) await close(items);
    }
    const [first] = failures.sort((a, b) => a.index - b.index);
    if (first !== undefined) {
      // It may have killed the call, and is now ours.
      flow.receive(first.error);
      throw first.error;
    }
    return results;
  }

  /**
   * As {@linkcode Members.map}, but waits for nothing. gevent's `map_async`. Not a switch
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
    callback?: (results: Returned<R>[]) => unknown,
  ): Greenlet<Returned<R>[]> {
    checkFunction(run, "map", "run");
    checkCallback(callback, "map");
    const iterator = iterate(items);
    return follow(spawn(() => this.#map(run, iterator)), callback);
  }

  /**
   * Calls a function for each item, in greenlets of their own, and gives the results as
   * they are asked for. gevent's `imap`.
   *
   * The calls begin at once. When the loop over the results is left, or whoever waits for
   * the next one is interrupted, those that have not ended are killed. What a call throws
   * is thrown in its place.
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
    options: ImapOptions = {},
  ): ResultIterator<Returned<R>> {
    return this.#imap(run, items, options, true);
  }

  /**
   * As {@linkcode Members.imap}, but in the order in which the calls end. gevent's
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
    options: ImapOptions = {},
  ): ResultIterator<Returned<R>> {
    return this.#imap(run, items, options, false);
  }

  #imap<T, R>(
    run: (item: T) => R,
    items: Iterable<T> | AsyncIterable<T>,
    options: ImapOptions,
    ordered: boolean,
  ): ResultIterator<Returned<R>> {
    checkOptions(options, "map");
    const { maxsize = Infinity } = options;
    if (maxsize !== Infinity && !(Number.isInteger(maxsize) && maxsize > 0)) {
      throw numberError("map", "maxsize", "a positive integer", maxsize);
    }
    checkFunction(run, "map", "run");
    const begin = async (item: T) => {
      const greenlet = new Greenlet(run, item) as Greenlet<Returned<R>>;
      flowOf(greenlet).quiet = true;
      await this.enter();
      this.#start(greenlet);
      return greenlet;
    };
    return new Results(begin, iterate(items), maxsize, ordered);
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

/** Tells an iterator that no more is wanted, which may take its time. */
async function close(items: Iterator<unknown> | AsyncIterator<unknown>) {
  await until(items.return?.());
}

function iterate<T>(
  items: Iterable<T> | AsyncIterable<T>,
): Iterator<T> | AsyncIterator<T> {
  const iterator = (items as AsyncIterable<T>)?.[Symbol.asyncIterator]?.() ??
    (items as Iterable<T>)?.[Symbol.iterator]?.();
  if (iterator === undefined) {
    throw new TypeError(
      `Cannot map as the items must be iterable: received ${items}`,
    );
  }
  return iterator;
}

/**
 * What {@linkcode Members.imap} returns: for `for await`. A generator body calls
 * `yield* results.next()`.
 *
 * @typeParam T The type of the results.
 */
export interface ResultIterator<T> extends AsyncIterableIterator<T> {
  /** Waits for the next result. A switch point. */
  next(): Wait<IteratorResult<T, undefined>>;
  /** Kills the calls that have not ended. */
  return(): Wait<IteratorResult<T, undefined>>;
  /** Itself. */
  [Symbol.asyncIterator](): ResultIterator<T>;
}

class Results<T, R> implements ResultIterator<R> {
  /** The greenlets whose results are next: in order, or those that have ended. */
  readonly #next = new Queue<Greenlet<R>>();
  readonly #running = new Set<Greenlet<R>>();
  /** How many more results may be made before one is taken. */
  readonly #ahead: Semaphore | null;
  readonly #ordered: boolean;
  readonly #feeder: Greenlet<void>;
  #isFed = false;
  #isStopped = false;

  constructor(
    begin: (item: T) => Promise<Greenlet<R>>,
    items: Iterator<T> | AsyncIterator<T>,
    maxsize: number,
    ordered: boolean,
  ) {
    this.#ahead = maxsize === Infinity ? null : new Semaphore(maxsize);
    this.#ordered = ordered;
    this.#feeder = new Greenlet(() => this.#feed(begin, items));
    // Its error is for whoever takes the results.
    flowOf(this.#feeder).quiet = true;
    this.#feeder.start();
  }

  async #feed(
    begin: (item: T) => Promise<Greenlet<R>>,
    items: Iterator<T> | AsyncIterator<T>,
  ): Promise<void> {
    let ended = false;
    try {
      for (;;) {
        await this.#ahead?.acquire();
        const step = items.next();
        const { done, value } = isThenable(step) ? await until(step) : step;
        ended = done === true;
        if (ended) break;
        const greenlet = await begin(value);
        this.#running.add(greenlet);
        greenlet.rawlink(() => this.#ended(greenlet));
        if (this.#ordered && !this.#isStopped) this.#next.putNowait(greenlet);
      }
    } finally {
      this.#isFed = true;
      this.#closeAtEnd();
      // One may have begun since we were stopped.
      if (this.#isStopped) killOnce(this.#running);
      if (!ended) await close(items);
    }
  }

  #ended(greenlet: Greenlet<R>): void {
    this.#running.delete(greenlet);
    if (!this.#ordered && !this.#isStopped) this.#next.putNowait(greenlet);
    this.#closeAtEnd();
  }

  /** When no more greenlets will come, those that take them are told. */
  #closeAtEnd(): void {
    if (!this.#isFed) return;
    if (this.#ordered || this.#running.size === 0) this.#next.shutdown();
  }

  next(): Wait<IteratorResult<R, undefined>> {
    const due = currentFlow().checkpoint();
    if (due !== null) this.#stop();
    return due ?? composed(() => this.#take());
  }

  async #take(): Promise<IteratorResult<R, undefined>> {
    let greenlet: Greenlet<R> | undefined;
    try {
      greenlet = await this.#next.get();
      const value = await greenlet.get();
      return { done: false, value };
    } catch (error) {
      if (greenlet === undefined && error instanceof ShutDown) {
        if (!this.#isStopped) await this.#feeder.get();
        return { done: true, value: undefined };
      }
      const isResult = greenlet?.dead && greenlet.exception === error;
      if (!isResult) this.#stop();
      throw error;
    } finally {
      this.#ahead?.release();
    }
  }

  /** Kills what runs, and forgets what is there. */
  #stop(): void {
    this.#isStopped = true;
    this.#next.shutdown({ immediate: true });
    killOnce([this.#feeder, ...this.#running]);
  }

  return(): Wait<IteratorResult<R, undefined>> {
    this.#stop();
    return readyWait({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
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
export class Group extends Members {
  /**
   * Makes a group.
   *
   * @param greenlets Those that are in it from the start.
   */
  constructor(greenlets: Iterable<AnyGreenlet> = []) {
    super();
    for (const greenlet of greenlets) this.add(greenlet);
  }

  /** There is always room. */
  protected override enter(): Wait<unknown> {
    return currentFlow().checkpoint() ?? DONE;
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
    this.add(greenlet);
    greenlet.start();
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
  ): Greenlet<Returned<R>> {
    const greenlet = spawn(run, ...args);
    this.admit(greenlet);
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
export class Pool extends Members {
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
    return this.#room?.acquire() ?? currentFlow().checkpoint() ?? DONE;
  }

  /** Takes room for one more, if there is some now. */
  protected override tryEnter(): boolean {
    // Where an error is due, acquire() would throw it: this is no switch point.
    if (this.full() || currentFlow().trouble !== null) return false;
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
  waitAvailable(options: JoinOptions = {}): Wait<number> {
    return this.#room?.wait(options) ?? currentFlow().checkpoint() ??
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
  add(greenlet: AnyGreenlet, options: PoolOptions = {}): Wait<void> {
    checkGreenlet(greenlet);
    return this.#whenRoom(options, () => this.admit(greenlet));
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
  start(greenlet: AnyGreenlet, options: PoolOptions = {}): Wait<void> {
    checkGreenlet(greenlet);
    return this.#whenRoom(options, () => {
      this.admit(greenlet);
      greenlet.start();
    });
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
  ): Wait<Greenlet<Returned<R>>> {
    const greenlet = new Greenlet(run, ...args) as Greenlet<Returned<R>>;
    return this.#whenRoom({}, () => {
      this.admit(greenlet);
      greenlet.start();
      return greenlet;
    });
  }

  #whenRoom<T>(options: PoolOptions, enter: () => T): Wait<T> {
    checkOptions(options, "enter the pool");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "enter the pool");
    const due = currentFlow().checkpoint();
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

/** What {@linkcode nursery} does, in a nursery's own secrets. */
let runNursery: (run: (nursery: Nursery) => unknown) => Promise<unknown>;

/**
 * Where a {@linkcode nursery}'s function spawns its greenlets.
 *
 * @example Usage
 * ```ts
 * import { type Nursery, nursery, sleep } from "@gevent/gevent";
 *
 * function plant(nursery: Nursery, ms: number) {
 *   nursery.spawn(sleep, ms);
 * }
 * await nursery((n) => plant(n, 1));
 * ```
 */
export class Nursery {
  /** The children that have not ended. */
  readonly greenlets: Set<AnyGreenlet> = new Set();
  readonly #quiet = new Event();
  /** What children, and the function, have failed with on their own. */
  readonly #errors: unknown[] = [];
  /** What the others are killed with. */
  readonly #exit = new GreenletExit("The nursery is closed");
  #state: "open" | "closing" | "closed" = "open";
  #body: Flow | null = null;

  /**
   * Spawns a greenlet that does not outlive the nursery. Not a switch point.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param run The body.
   * @param args Its arguments.
   * @returns The greenlet.
   * @throws {TypeError} If `run` is not a function.
   * @throws {GreenletError} If the nursery is closed, or being closed.
   */
  spawn<A extends unknown[], R>(
    run: (...args: A) => R,
    ...args: A
  ): Greenlet<Returned<R>> {
    if (this.#state !== "open") {
      throw new GreenletError(
        `Cannot spawn as the nursery is ${this.#state}: spawn before its function and its greenlets have ended`,
      );
    }
    const greenlet = spawn(run, ...args);
    flowOf(greenlet).quiet = true;
    this.greenlets.add(greenlet);
    greenlet.rawlink(() => this.#ended(greenlet));
    return greenlet;
  }

  #ended(greenlet: AnyGreenlet): void {
    this.greenlets.delete(greenlet);
    if (!greenlet.successful()) this.#fail(greenlet.exception);
    if (this.greenlets.size === 0) this.#quiet.set();
  }

  #fail(error: unknown): void {
    // That of a child whose result the function has asked for is the same.
    if (!this.#errors.includes(error)) this.#errors.push(error);
    this.#close();
  }

  /** Kills what runs here. */
  #close(): void {
    if (this.#state !== "open") return;
    this.#state = "closing";
    this.#body?.kill(this.#exit, GRACE);
    killOnce(this.greenlets, this.#exit);
  }

  /** Kills what cleans up: our greenlet is past its own grace. */
  #end(): void {
    killOnce(this.greenlets, this.#exit, 0);
  }

  static {
    runNursery = async (run) => {
      currentFlow().lasts = true;
      const nursery = new Nursery();
      let result: unknown;
      let interrupt: { readonly error: unknown } | null = null;
      const flow = currentFlow();
      try {
        result = await withTimeout(Infinity, () => {
          const body = nursery.#body = currentFlow();
          // Past all patience it is left where it is, and waited for no longer.
          body.abandoned = () => flow.interrupt(nursery.#exit);
          return run(nursery);
        });
      } catch (error) {
        const isOurs = error === nursery.#exit;
        const own = unwrapped(error, flow);
        if (!isOurs && flow.wasInterruptedBy(own)) {
          interrupt = { error: own };
          nursery.#close();
        } else if (!isOurs) nursery.#fail(error);
      }
      nursery.#body = null;
      while (nursery.greenlets.size > 0) {
        nursery.#quiet.clear();
        if (interrupt !== null) {
          // They have been killed, and end; nothing may outlive us meanwhile.
          const wait = new QuietWait(nursery.#quiet, () => nursery.#end());
          if (flow.sentence !== null) nursery.#end();
          await wait.suspend(flow);
          continue;
        }
        try {
          await nursery.#quiet.wait();
        } catch (error) {
          interrupt = { error };
          nursery.#close();
        }
      }
      nursery.#state = "closed";
      const errors = nursery.#errors;
      if (interrupt !== null) {
        for (const error of errors) report(getCurrent(), error);
        throw interrupt.error;
      }
      // That one of them was killed by it makes it no less ours.
      for (const error of errors) flow.receive(error);
      if (errors.length === 1) throw errors[0];
      if (errors.length > 1) {
        throw new AggregateError(
          errors,
          `${errors.length} greenlets of the nursery failed`,
        );
      }
      return result;
    };
  }
}

/** A wait that no interrupt ends: the last one is only passed on. */
class QuietWait extends Suspension<void> {
  readonly #condemned: () => void;

  constructor(event: Event, condemned: () => void) {
    super();
    event.rawlink(() => this.switch());
    this.#condemned = condemned;
  }

  override interrupt(_error: unknown, final: boolean): void {
    if (final) this.#condemned();
  }
}

/**
 * The wait for a nursery. An interrupt is passed on to what is waited for there, and even
 * the last one does not end the wait before the children, as it would a limited call.
 */
class Nursing extends Suspension<unknown> {
  readonly #outer: Flow;
  readonly #inner: Flow;

  constructor(outer: Flow) {
    super();
    this.#outer = outer;
    this.#inner = new Flow(outer.greenlet);
    this.#inner.root = outer.root;
  }

  start(run: (nursery: Nursery) => unknown): Wait<unknown> {
    const wait = this.suspend(this.#outer);
    callIn(this.#inner, () => this.#follow(run));
    return wait;
  }

  async #follow(run: (nursery: Nursery) => unknown): Promise<void> {
    try {
      const result = await runNursery(run);
      this.#close();
      this.switch(result);
    } catch (error) {
      this.#close();
      this.condemned &&= this.#outer.isSentence(error);
      this.#outer.receiveInterrupts(error);
      this.throw(error);
    }
  }

  /** What was not thrown in the nursery, its greenlet throws later. */
  #close(): void {
    for (const error of this.#inner.trouble?.held ?? []) {
      this.#outer.hold(error);
    }
    this.#inner.close(this.#outer);
  }

  override interrupt(error: unknown, final: boolean): void {
    // Where nobody awaits us, an interrupt is no unhandled rejection.
    this.promise!.catch(() => {});
    if (final) {
      this.condemned = this.#outer.endsBody;
      this.#inner.condemn(error, !this.condemned);
    } else this.#inner.interrupt(error);
  }

  override unhold(error: unknown): void {
    this.#inner.unhold(error);
  }

  protected override get caller(): Flow {
    return this.#outer;
  }
}

/**
 * Calls a function that spawns greenlets, and waits until it and all of them have ended. A
 * switch point. gevent has none; Trio calls it a nursery.
 *
 * The first of them that fails has the others killed. Whoever kills the current greenlet
 * kills them, too. Nothing outlives the call.
 *
 * @typeParam R What the function returns.
 * @param run The function. It runs in the current greenlet.
 * @returns The function's result.
 * @throws {unknown} The error of the one that has failed.
 * @throws {AggregateError} If several have failed on their own.
 * @throws {TypeError} If `run` is not a function.
 *
 * @example Usage
 * ```ts
 * import { nursery, sleep } from "@gevent/gevent";
 *
 * await nursery(async (n) => {
 *   n.spawn(async () => {
 *     await sleep(2);
 *     console.log("child");
 *   });
 *   await sleep(1);
 *   console.log("function");
 * });
 * console.log("all have ended");
 * ```
 */
export function nursery<R>(run: (nursery: Nursery) => R): Wait<Returned<R>> {
  checkFunction(run, "open nursery", "run");
  const flow = currentFlow();
  const wait = flow.checkpoint() ?? new Nursing(flow).start(run);
  return wait as Wait<Returned<R>>;
}
