/**
 * Queues: items handed from greenlet to greenlet.
 *
 * ```ts
 * import { Queue, spawn } from "@gevent/gevent";
 *
 * const queue = new Queue<number>(2);
 * spawn(async () => {
 *   for (let i = 1; i <= 3; i++) await queue.put(i);
 *   queue.shutdown();
 * });
 * for await (const item of queue) console.log(item); // 1, 2, 3
 * ```
 *
 * Items come out in order, and those who wait are served in the order in which they came.
 * One who is interrupted while waiting has neither put nor got anything; an item that was
 * handed over is received. An item that is a promise is awaited by whoever awaits its
 * `get`, as JavaScript has it: put it into an object or an array, or use `yield*`.
 *
 * @module
 */

import { NO_OPTIONS } from "./_base/language.ts";
import { currentScope } from "./_hub/current.ts";
import type { Scope } from "./_hub/scope.ts";
import { checkpoint, DONE, failedWait, readyWait } from "./_hub/suspension.ts";
import { Deque } from "./_base/deque.ts";
import { QueuedWait } from "./_hub/wait_queue.ts";
import { List } from "./_base/linked_list.ts";
import { checkCallback, checkOptions, numberError } from "./_base/checks.ts";
import { addEnding } from "./_hub/print.ts";
import { checkDuration } from "./_hub/timers.ts";
import { Event } from "./event.ts";
import type { Wait } from "./hub.ts";
import type { JoinOptions } from "./gevent.ts";

/** What a `get` throws that finds no item in time. Python's `queue.Empty`. */
export class Empty extends Error {
  static {
    this.prototype.name = "Empty";
  }

  /**
   * Makes the error.
   *
   * @param message What has happened.
   */
  constructor(message = "The queue is empty") {
    super(message);
  }
}

/** What a `put` throws that finds no room in time. Python's `queue.Full`. */
export class Full extends Error {
  static {
    this.prototype.name = "Full";
  }

  /**
   * Makes the error.
   *
   * @param message What has happened.
   */
  constructor(message = "The queue is full") {
    super(message);
  }
}

/**
 * What `put` and `get` throw after a shutdown. A greenlet that it ends has failed, but
 * nothing is printed; see {@linkcode Queue.shutdown}. Python's `queue.ShutDown`.
 */
export class ShutDown extends Error {
  static {
    this.prototype.name = "ShutDown";
    addEnding(this);
  }

  /**
   * Makes the error.
   *
   * @param message What has happened.
   */
  constructor(message = "The queue is shut down") {
    super(message);
  }
}

/** Options of `put`, `get` and `peek`. */
export interface QueueOptions {
  /** Whether to wait if it can't be done at once. @default {true} */
  block?: boolean;
  /** After how many milliseconds to give up. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode Queue.shutdown}. */
export interface ShutdownOptions {
  /** Whether to drop the items that are there. @default {false} */
  immediate?: boolean;
}

/** The place in line of one who waits for an item. */
class Getter<T> extends QueuedWait<Getter<T>, unknown> {
  /** Whether the item is left where it is. */
  get peeks(): boolean {
    return false;
  }

  /** Gets the item. */
  take(item: T): void {
    this.switch(item);
  }

  /** There are no items any more. */
  shutDown(): void {
    this.throw(new ShutDown());
  }

  protected override timedOut(): void {
    this.throw(new Empty());
  }
}

/** One who only looks at the item. */
class Peeker<T> extends Getter<T> {
  override get peeks(): boolean {
    return true;
  }
}

/** One who waits in a `for await` loop. */
class LoopGetter<T> extends Getter<T> {
  override take(item: T): void {
    this.switch({ done: false, value: item });
  }

  override shutDown(): void {
    this.switch({ done: true, value: undefined });
  }
}

/** The place in line of one who waits for room, with the item. */
class Putter<T> extends QueuedWait<Putter<T>, void> {
  readonly item: T;

  constructor(item: T) {
    super();
    this.item = item;
  }

  protected override timedOut(): void {
    this.throw(new Full());
  }
}

/**
 * Where a queue keeps its items: what order they have is its business.
 *
 * @typeParam T The type of the items.
 */
export interface QueueItems<T> extends Iterable<T> {
  /** How many there are. */
  readonly length: number;
  /** Puts one. */
  push(item: T): void;
  /** Takes the next item. */
  take(): T;
  /** Looks at the next item. */
  peek(): T;
}

class FirstInFirstOut<T> extends Deque<T> implements QueueItems<T> {
  take(): T {
    return this.shift();
  }

  peek(): T {
    return this.at(0);
  }
}

class LastInFirstOut<T> extends Deque<T> implements QueueItems<T> {
  take(): T {
    return this.pop();
  }

  peek(): T {
    return this.at(this.length - 1);
  }
}

/** What a {@linkcode Heap} holds: an item, and the how many-th it is. */
interface Entry<T> {
  readonly item: T;
  readonly number: number;
}

function parentOf(index: number): number {
  return (index - 1) >> 1;
}

/**
 * A binary heap; items that are equal keep the order in which they came.
 *
 * A comparison may throw. So places are found first, and nothing is moved until then.
 */
class Heap<T> implements QueueItems<T> {
  readonly #entries: Entry<T>[] = [];
  readonly #compare: (a: T, b: T) => number;
  #number = 0;

  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare;
  }

  get length(): number {
    return this.#entries.length;
  }

  #order(a: Entry<T>, b: Entry<T>): number {
    return this.#compare(a.item, b.item) || a.number - b.number;
  }

  push(item: T): void {
    const entries = this.#entries;
    const entry = { item, number: this.#number++ };
    let place = entries.length;
    while (place > 0 && this.#order(entry, entries[parentOf(place)]!) < 0) {
      place = parentOf(place);
    }
    for (let i = entries.length; i > place; i = parentOf(i)) {
      entries[i] = entries[parentOf(i)]!;
    }
    entries[place] = entry;
  }

  take(): T {
    const entries = this.#entries;
    const last = entries.length - 1;
    // The last one goes where there is room for it below the first, which is taken.
    let moved = entries[last]!;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= last) break;
      const isSecond = child + 1 < last &&
        this.#order(entries[child + 1]!, entries[child]!) < 0;
      if (isSecond) child++;
      if (this.#order(entries[child]!, moved) >= 0) break;
      place = child;
    }
    for (let i = place; i > 0; i = parentOf(i)) {
      [entries[i], moved] = [moved, entries[i]!];
    }
    const { item } = entries[0]!;
    entries[0] = moved;
    entries.pop();
    return item;
  }

  peek(): T {
    return this.#entries[0]!.item;
  }

  *[Symbol.iterator](): Generator<T> {
    const entries = [...this.#entries].sort((a, b) => this.#order(a, b));
    for (const { item } of entries) yield item;
  }
}

function checkSize(maxsize: unknown): number {
  if (maxsize === undefined || maxsize === null) return Infinity;
  const isSize = maxsize === Infinity || Number.isInteger(maxsize);
  if (!isSize) {
    throw numberError("create queue", "maxsize", "an integer", maxsize);
  }
  // gevent's rule, as Python's queue has it; what holds nothing is a Channel.
  return maxsize as number > 0 ? maxsize as number : Infinity;
}

/**
 * A queue without tasks and without a shutdown. gevent's `SimpleQueue`; see
 * {@linkcode Queue}, which has both.
 *
 * @typeParam T The type of the items.
 *
 * @example Usage
 * ```ts
 * import { SimpleQueue } from "@gevent/gevent";
 *
 * const queue = new SimpleQueue<string>();
 * await queue.put("apple");
 * console.log(queue.qsize()); // 1
 * console.log(await queue.get()); // apple
 * ```
 */
export class SimpleQueue<T> {
  #maxsize: number;
  #items: QueueItems<T>;
  readonly #getters: List<Getter<T>> = new List();
  readonly #putters: List<Putter<T>> = new List();
  #isShutDown = false;

  /**
   * Makes a queue.
   *
   * @param maxsize How many items there is room for; 0 or less, or nothing, for any
   * number.
   * @param items Those that are there from the start.
   * @throws {TypeError | RangeError} If `maxsize` is not an integer.
   */
  constructor(maxsize?: number | null, items: Iterable<T> = []) {
    this.#maxsize = checkSize(maxsize);
    this.#items = this.createItems();
    for (const item of items) this.#items.push(item);
  }

  /** Makes what keeps the items. */
  protected createItems(): QueueItems<T> {
    return new FirstInFirstOut();
  }

  /** How many items there is room for, or `Infinity`. Can be set. gevent's `maxsize`. */
  get maxsize(): number {
    return this.#maxsize;
  }

  /** See the getter. */
  set maxsize(maxsize: number | null) {
    this.#maxsize = checkSize(maxsize);
    this.#balance();
  }

  /** How many items there are. gevent's `qsize`. */
  qsize(): number {
    return this.#items.length;
  }

  /** Whether there are none. gevent's `empty`. */
  empty(): boolean {
    return this.#items.length === 0;
  }

  /** Whether there is no room. gevent's `full`. */
  full(): boolean {
    return this.#items.length >= this.#maxsize;
  }

  /**
   * Makes a queue of the same kind, with the same items. gevent's `copy`.
   *
   * @returns The copy. Nobody waits in it.
   */
  copy(): this {
    const Class = this.constructor as new (
      maxsize: number,
      items: Iterable<T>,
    ) => this;
    return new Class(this.#maxsize, this.#items);
  }

  /**
   * Puts an item. A switch point, if there is no room. gevent's `put`.
   *
   * Where there is room, the item is in the queue whatever is due: an interrupt that is held
   * is thrown by the next wait. So a `finally` block that gives something back can't lose it.
   *
   * @param item The item.
   * @param options Whether and how long to wait for room.
   * @returns Nothing.
   * @throws {Full} If there is no room in time.
   * @throws {ShutDown} If the queue is shut down.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  put(item: T, options: QueueOptions = NO_OPTIONS): Wait<void> {
    checkOptions(options, "put");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "put");
    if (!this.#isShutDown && !this.full()) {
      this.#accept(item);
      return DONE;
    }
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#isShutDown) return failedWait(new ShutDown());
    if (!block) return failedWait(new Full());
    const putter = new Putter(item);
    this.#putters.add(putter);
    return putter.limit(timeout).suspend(scope);
  }

  /**
   * Puts an item, if there is room. Not a switch point. gevent's `put_nowait`.
   *
   * @param item The item.
   * @throws {Full} If there is no room.
   * @throws {ShutDown} If the queue is shut down.
   */
  putNowait(item: T): void {
    if (this.#isShutDown) throw new ShutDown();
    if (this.full()) throw new Full();
    this.#accept(item);
  }

  /**
   * Takes the next item. A switch point, if there is none. gevent's `get`.
   *
   * @param options Whether and how long to wait for an item.
   * @returns The item.
   * @throws {Empty} If there is none in time.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  get(options: QueueOptions = NO_OPTIONS): Wait<T> {
    return this.#get(false, options);
  }

  /**
   * Takes the next item, if there is one. Not a switch point. gevent's `get_nowait`.
   *
   * @returns The item.
   * @throws {Empty} If there is none.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   */
  getNowait(): T {
    this.#checkItem();
    return this.#take();
  }

  /**
   * Looks at the next item, and leaves it there. A switch point, if there is none.
   * gevent's `peek`.
   *
   * @param options Whether and how long to wait for an item.
   * @returns The item.
   * @throws {Empty} If there is none in time.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  peek(options: QueueOptions = NO_OPTIONS): Wait<T> {
    return this.#get(true, options);
  }

  /**
   * Looks at the next item, if there is one. Not a switch point. gevent's `peek_nowait`.
   *
   * @returns The item.
   * @throws {Empty} If there is none.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   */
  peekNowait(): T {
    this.#checkItem();
    return this.#items.peek();
  }

  #checkItem(): void {
    if (this.#items.length > 0) return;
    throw this.#isShutDown ? new ShutDown() : new Empty();
  }

  #get(peeks: boolean, options: QueueOptions): Wait<T> {
    checkOptions(options, "get");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "get");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#items.length > 0) {
      return readyWait(peeks ? this.#items.peek() : this.#take());
    }
    if (this.#isShutDown) return failedWait(new ShutDown());
    if (!block) return failedWait(new Empty());
    const getter: Getter<T> = peeks ? new Peeker() : new Getter();
    this.#getters.add(getter);
    return getter.limit(timeout).suspend(scope) as Wait<T>;
  }

  /** Takes an item that is there, which makes room. */
  #take(): T {
    const item = this.#items.take();
    this.#balance();
    return item;
  }

  /** Puts an item for which there is room. */
  #accept(item: T): void {
    this.#items.push(item);
    this.accepted();
    this.#balance();
  }

  /** The items, in order. */
  protected items(): Iterable<T> {
    return this.#items;
  }

  /** Called for each item that was put. */
  protected accepted(): void {}

  /**
   * Restores the order of things: nobody waits for an item that is there, nor for room.
   */
  #balance(): void {
    for (;;) {
      if (this.#putters.first !== null && !this.full()) {
        const putter = this.#putters.shift()!;
        try {
          this.#items.push(putter.item);
        } catch (error) {
          putter.throw(error);
          continue;
        }
        this.accepted();
        putter.switch();
      } else if (this.#getters.first !== null && this.#items.length > 0) {
        const getter = this.#getters.shift()!;
        let item: T;
        try {
          item = getter.peeks ? this.#items.peek() : this.#items.take();
        } catch (error) {
          // A comparison has failed: the wait for the item throws it, and the item stays.
          getter.throw(error);
          continue;
        }
        getter.take(item);
      } else {
        return;
      }
    }
  }

  /** Ends the queue; see {@linkcode Queue.shutdown}. */
  protected close(immediate: boolean): void {
    this.#isShutDown = true;
    if (immediate) {
      let left = this.#items.length;
      try {
        for (; left > 0; left--) {
          this.#items.take();
          this.dropped();
        }
      } catch {
        // A comparison has failed: the rest goes without.
        this.#items = this.createItems();
        for (; left > 0; left--) this.dropped();
      }
    }
    for (let p = this.#putters.shift(); p !== null; p = this.#putters.shift()) {
      p.throw(new ShutDown());
    }
    for (let g = this.#getters.shift(); g !== null; g = this.#getters.shift()) {
      g.shutDown();
    }
  }

  /** Called for each item that was dropped. */
  protected dropped(): void {}

  /** How many wait to get an item. */
  get getters(): number {
    return this.#getters.length;
  }

  /** How many wait to put one. */
  get putters(): number {
    return this.#putters.length;
  }

  /**
   * Takes items for ever, or until the shutdown, in a `for await` loop.
   *
   * @returns The iterator. In a generator body call `yield* iterator.next()`.
   */
  [Symbol.asyncIterator](): QueueIterator<T> {
    return new Loop((loop) => this.#next(loop));
  }

  #next(loop: Loop<T>): Wait<IteratorResult<T, undefined>> {
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#items.length > 0) {
      return readyWait({ done: false, value: this.#take() });
    }
    if (this.#isShutDown) return readyWait({ done: true, value: undefined });
    return loop.wait(this.#getters, scope);
  }
}

/**
 * What a `for await` loop over a queue goes through.
 *
 * @typeParam T The type of the items.
 */
export interface QueueIterator<T> extends AsyncIterableIterator<T> {
  /** Takes the next item. A switch point. */
  next(): Wait<IteratorResult<T, undefined>>;
  /**
   * Takes no more items: what waits for one gets the end, and the queue keeps the item. Not
   * a switch point.
   */
  return(): Wait<IteratorResult<T, undefined>>;
  /** Itself. */
  [Symbol.asyncIterator](): QueueIterator<T>;
}

/** What takes items in a loop, of a queue or a channel. */
class Loop<T> implements QueueIterator<T> {
  readonly #take: (loop: Loop<T>) => Wait<IteratorResult<T, undefined>>;
  /** Those that wait: nearly always one at most. */
  readonly #waiting: LoopGetter<T>[] = [];
  #isOver = false;

  constructor(take: (loop: Loop<T>) => Wait<IteratorResult<T, undefined>>) {
    this.#take = take;
  }

  next(): Wait<IteratorResult<T, undefined>> {
    if (this.#isOver) return readyWait({ done: true, value: undefined });
    return this.#take(this);
  }

  /** Waits in a line for an item. */
  wait(
    getters: List<Getter<T>>,
    scope: Scope,
  ): Wait<IteratorResult<T, undefined>> {
    const waiting = this.#waiting;
    // Those before have left their line, unless several ask at once.
    while (waiting.length > 0 && waiting.at(-1)!.list === null) waiting.pop();
    const getter = new LoopGetter<T>();
    waiting.push(getter);
    getters.add(getter);
    return getter.suspend(scope) as Wait<IteratorResult<T, undefined>>;
  }

  return(): Wait<IteratorResult<T, undefined>> {
    this.#isOver = true;
    for (const getter of this.#waiting.splice(0)) {
      if (getter.list === null) continue;
      getter.list.remove(getter);
      getter.shutDown();
    }
    return readyWait({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

/**
 * A queue, first in, first out. gevent's `Queue`, which is its `JoinableQueue`.
 *
 * `Queue(0)` has room for any number of items, as in gevent and in Python; what holds none
 * and hands them over is a {@linkcode Channel}.
 *
 * @typeParam T The type of the items.
 *
 * @example Usage
 * ```ts
 * import { Queue, spawn } from "@gevent/gevent";
 *
 * const queue = new Queue<string>(1);
 * spawn(async () => {
 *   for await (const url of queue) {
 *     console.log(url);
 *     queue.taskDone();
 *   }
 * });
 * await queue.put("/one");
 * await queue.put("/two");
 * await queue.join();
 * queue.shutdown();
 * ```
 */
export class Queue<T> extends SimpleQueue<T> {
  #unfinished: number;
  readonly #finished = new Event();

  /**
   * Makes a queue.
   *
   * @param maxsize How many items there is room for; 0 or less, or nothing, for any
   * number.
   * @param items Those that are there from the start, as unfinished tasks.
   * @throws {TypeError | RangeError} If `maxsize` is not an integer.
   */
  constructor(maxsize?: number | null, items: Iterable<T> = []) {
    super(maxsize, items);
    this.#unfinished = this.qsize();
    if (this.#unfinished === 0) this.#finished.set();
  }

  /** How many items were put for which {@linkcode Queue.taskDone} was not called. */
  get unfinishedTasks(): number {
    return this.#unfinished;
  }

  /** There is one more task. */
  protected override accepted(): void {
    this.#unfinished++;
    this.#finished.clear();
  }

  /** Its task is done with. */
  protected override dropped(): void {
    // It may have been called too often before.
    if (this.#unfinished > 0) this.taskDone();
  }

  /**
   * Says that an item that was taken is done with. gevent's `task_done`.
   *
   * @throws {RangeError} If it is called more often than items were put.
   */
  taskDone(): void {
    if (this.#unfinished === 0) {
      throw new RangeError(
        "Cannot mark a task done as all are: call taskDone() once for each item",
      );
    }
    if (--this.#unfinished === 0) this.#finished.set();
  }

  /**
   * Waits until all items are done with. A switch point. gevent's `join`.
   *
   * @param options How long to wait.
   * @returns Whether they are; `false` at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  join(options: JoinOptions = NO_OPTIONS): Wait<boolean> {
    return this.#finished.wait(options);
  }

  /**
   * Ends the queue: nothing can be put any more, and `get` throws when the items are
   * gone. Loops over it end. Whoever waits to put an item gets {@linkcode ShutDown}.
   * gevent's `shutdown`.
   *
   * A greenlet that doesn't catch the `ShutDown` ends by it, and has failed with it: `get()`
   * of the greenlet throws it, a nursery fails with it. But the hub is not told and nothing
   * is printed, as with a kill: a shutdown asks producers and consumers to end.
   *
   * @param options Whether to drop the items, as done with.
   */
  shutdown(options: ShutdownOptions = NO_OPTIONS): void {
    this.close(options.immediate ?? false);
  }
}

/** The same as {@linkcode Queue}. gevent's `JoinableQueue`. */
export const JoinableQueue: typeof Queue = Queue;

/**
 * A queue, last in, first out. gevent's `LifoQueue`.
 *
 * @typeParam T The type of the items.
 *
 * @example Usage
 * ```ts
 * import { LifoQueue } from "@gevent/gevent";
 *
 * const queue = new LifoQueue<number>(null, [1, 2, 3]);
 * console.log(await queue.get()); // 3
 * ```
 */
export class LifoQueue<T> extends Queue<T> {
  /** Makes what keeps the items. */
  protected override createItems(): QueueItems<T> {
    return new LastInFirstOut();
  }
}

/** Options of a {@linkcode PriorityQueue}. */
export interface PriorityQueueOptions<T> {
  /** How many items there is room for. @default {Infinity} */
  maxsize?: number | null;
  /** Those that are there from the start. @default {[]} */
  items?: Iterable<T>;
}

/**
 * A queue, the least first. gevent's `PriorityQueue`.
 *
 * Without a comparison, numbers, strings and the like are compared by `<`, and arrays item
 * by item, as Python's tuples are: `[priority, data]`. Items that are equal come out in
 * the order in which they came.
 *
 * @typeParam T The type of the items.
 *
 * @example Usage
 * ```ts
 * import { PriorityQueue } from "@gevent/gevent";
 *
 * const queue = new PriorityQueue<[number, string]>();
 * await queue.put([2, "later"]);
 * await queue.put([1, "sooner"]);
 * console.log((await queue.get())[1]); // sooner
 * ```
 */
export class PriorityQueue<T> extends Queue<T> {
  readonly #compare: (a: T, b: T) => number;

  /**
   * Makes a queue.
   *
   * @param compare Tells which of two items comes first, as for `Array.prototype.sort`.
   * @param options The size, and the first items.
   * @throws {TypeError} If `compare` is not a function.
   * @throws {TypeError | RangeError} If `maxsize` is not an integer.
   */
  constructor(
    compare: (a: T, b: T) => number = compareNaturally,
    options: PriorityQueueOptions<T> = NO_OPTIONS,
  ) {
    checkCallback(compare, "create queue", "compare");
    super(null);
    this.#compare = compare;
    for (const item of options.items ?? []) this.putNowait(item);
    this.maxsize = options.maxsize ?? null;
  }

  /** Makes what keeps the items. */
  protected override createItems(): QueueItems<T> {
    return new Heap((a, b) => this.#compare(a, b));
  }

  /**
   * Makes a queue of the same kind, with the same items.
   *
   * @returns The copy. Nobody waits in it.
   */
  override copy(): this {
    const { maxsize } = this;
    const Class = this.constructor as new (
      compare: (a: T, b: T) => number,
      options: PriorityQueueOptions<T>,
    ) => this;
    return new Class(this.#compare, { maxsize, items: this.items() });
  }
}

function compareNaturally(a: unknown, b: unknown): number {
  if (!Array.isArray(a) || !Array.isArray(b)) return compareOne(a, b);
  for (let i = 0; i < a.length && i < b.length; i++) {
    const order = compareNaturally(a[i], b[i]);
    if (order !== 0) return order;
  }
  return a.length - b.length;
}

function compareOne(a: unknown, b: unknown): number {
  // deno-lint-ignore no-explicit-any
  const [x, y] = [a as any, b as any];
  return x < y ? -1 : x > y ? 1 : 0;
}

/**
 * A rendezvous: a `put` waits for a `get`, and the item goes from hand to hand. gevent's
 * `Channel`.
 *
 * @typeParam T The type of the items.
 *
 * @example Usage
 * ```ts
 * import { Channel, spawn } from "@gevent/gevent";
 *
 * const channel = new Channel<string>();
 * const taker = spawn(() => channel.get());
 * await channel.put("apple"); // Waits for the taker
 * console.log(await taker.get()); // apple
 * ```
 */
export class Channel<T> {
  readonly #getters: List<Getter<T>> = new List();
  readonly #putters: List<Putter<T>> = new List();

  /** How many wait to put, less those that wait to get. gevent's `balance`. */
  get balance(): number {
    return this.#putters.length - this.#getters.length;
  }

  /** 0: a channel holds nothing. */
  qsize(): number {
    return 0;
  }

  /** `true`: a channel holds nothing. */
  empty(): boolean {
    return true;
  }

  /** `true`: a channel has room for nothing. */
  full(): boolean {
    return true;
  }

  /**
   * Gives an item to one who takes it. A switch point, if nobody waits for it. gevent's
   * `put`.
   *
   * @param item The item.
   * @param options Whether and how long to wait.
   * @returns Nothing.
   * @throws {Full} If nobody takes it in time.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  put(item: T, options: QueueOptions = NO_OPTIONS): Wait<void> {
    checkOptions(options, "put");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "put");
    const getter = this.#getters.shift();
    if (getter !== null) {
      getter.take(item);
      return DONE;
    }
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (!block) return failedWait(new Full("Nobody takes it from the channel"));
    const putter = new Putter(item);
    this.#putters.add(putter);
    return putter.limit(timeout).suspend(scope);
  }

  /**
   * Gives an item to one who waits for it. Not a switch point. gevent's `put_nowait`.
   *
   * @param item The item.
   * @throws {Full} If nobody waits.
   */
  putNowait(item: T): void {
    const getter = this.#getters.shift();
    if (getter === null) throw new Full("Nobody takes it from the channel");
    getter.take(item);
  }

  /**
   * Takes an item from one who gives it. A switch point, if nobody waits to. gevent's
   * `get`.
   *
   * @param options Whether and how long to wait.
   * @returns The item.
   * @throws {Empty} If there is none in time.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  get(options: QueueOptions = NO_OPTIONS): Wait<T> {
    checkOptions(options, "get");
    const { block = true, timeout = Infinity } = options;
    checkDuration(timeout, "get");
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    const putter = this.#putters.shift();
    if (putter !== null) {
      putter.switch();
      return readyWait(putter.item);
    }
    if (!block) return failedWait(new Empty("Nobody gives it to the channel"));
    const getter = new Getter<T>();
    this.#getters.add(getter);
    return getter.limit(timeout).suspend(scope) as Wait<T>;
  }

  /**
   * Takes an item from one who waits to give it. Not a switch point. gevent's
   * `get_nowait`.
   *
   * @returns The item.
   * @throws {Empty} If nobody waits.
   */
  getNowait(): T {
    const putter = this.#putters.shift();
    if (putter === null) throw new Empty("Nobody gives it to the channel");
    putter.switch();
    return putter.item;
  }

  /**
   * Takes items for ever, in a `for await` loop.
   *
   * @returns The iterator. In a generator body call `yield* iterator.next()`.
   */
  [Symbol.asyncIterator](): QueueIterator<T> {
    return new Loop((loop) => this.#next(loop));
  }

  #next(loop: Loop<T>): Wait<IteratorResult<T, undefined>> {
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    const putter = this.#putters.shift();
    if (putter !== null) {
      putter.switch();
      return readyWait({ done: false, value: putter.item });
    }
    return loop.wait(this.#getters, scope);
  }
}
