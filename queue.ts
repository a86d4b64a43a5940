/**
 * Queues, through which greenlets hand items to each other.
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
 * Waiting calls are served in the order in which they began. A call that is interrupted while
 * it waits has put or taken nothing. Once a call has taken an item, it returns the item, and
 * the next wait throws the interrupt.
 *
 * `await queue.get()` also awaits the item, if the item is a promise. To pass promises, wrap
 * each in an object or an array, or use `yield*`.
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import { currentScope } from "./_hub/current.ts";
import type { Scope } from "./_hub/scope.ts";
import {
  checkpoint,
  doneWait,
  failedWait,
  readyWait,
} from "./_hub/suspension.ts";
import { Deque } from "./_base/deque.ts";
import { Heap } from "./_base/heap.ts";
import { areRivals, firstToMatch } from "./_hub/rivals.ts";
import { QueuedWait } from "./_hub/wait_queue.ts";
import { List } from "./_base/linked_list.ts";
import {
  checkCallback,
  checkIterable,
  checkOptions,
  numberError,
} from "./_base/checks.ts";
import { addEnding } from "./_hub/print.ts";
import { errorIn, placeLater } from "./_hub/stacks.ts";
import { timeoutOf } from "./_hub/timers.ts";
import { CALL, callOf, classOf } from "./_hub/waits.ts";
import { Event } from "./event.ts";
import type { Wait } from "./hub.ts";
import type { JoinOptions } from "./gevent.ts";

/**
 * Thrown by `get` and `peek` if there is no item in time. Python's `queue.Empty`.
 *
 * @example Usage
 * ```ts
 * import { Empty, Queue } from "@gevent/gevent";
 *
 * try {
 *   await new Queue().get({ timeout: 1 });
 * } catch (error) {
 *   console.log(error instanceof Empty); // true
 * }
 * ```
 */
export class Empty extends Error {
  static {
    this.prototype.name = "Empty";
  }

  /**
   * Makes the error.
   *
   * @param message The message.
   */
  constructor(message = "The queue is empty") {
    super(message);
  }
}

/**
 * Thrown by `put` if there is no room in time. Python's `queue.Full`.
 *
 * @example Usage
 * ```ts
 * import { Full, Queue } from "@gevent/gevent";
 *
 * const queue = new Queue<number>(1, [1]);
 * try {
 *   queue.putNowait(2);
 * } catch (error) {
 *   console.log(error instanceof Full); // true
 * }
 * ```
 */
export class Full extends Error {
  static {
    this.prototype.name = "Full";
  }

  /**
   * Makes the error.
   *
   * @param message The message.
   */
  constructor(message = "The queue is full") {
    super(message);
  }
}

/**
 * Thrown by `put` and `get` after {@linkcode Queue.shutdown}. If it ends a greenlet, the
 * greenlet has failed, but nothing is printed. Python's `queue.ShutDown`.
 *
 * @example Usage
 * ```ts
 * import { Queue, ShutDown } from "@gevent/gevent";
 *
 * const queue = new Queue<number>();
 * queue.shutdown();
 * try {
 *   await queue.put(1);
 * } catch (error) {
 *   console.log(error instanceof ShutDown); // true
 * }
 * ```
 */
export class ShutDown extends Error {
  static {
    this.prototype.name = "ShutDown";
    addEnding(this);
  }

  /**
   * Makes the error.
   *
   * @param message The message.
   */
  constructor(message = "The queue is shut down") {
    super(message);
  }
}

/** Options of `put`, `get` and `peek`. */
export interface QueueOptions {
  /** Whether to wait for an item or for room. @default {true} */
  block?: boolean;
  /** How many milliseconds to wait at most. @default {Infinity} */
  timeout?: number;
}

/** Options of {@linkcode Queue.shutdown}. */
export interface ShutdownOptions {
  /** Whether to drop the items in the queue. @default {false} */
  immediate?: boolean;
}

const NO_GETTER = "No get() waits for an item";
const NO_PUTTER = "No put() offers an item";

/** A wait for an item. */
class Getter<T> extends QueuedWait<Getter<T>, unknown> {
  /** Whether the item stays in the queue. */
  get peeks(): boolean {
    return false;
  }

  /** Ends the wait with an item. */
  take(item: T): void {
    this.switch(item);
  }

  /** Ends the wait, as the queue is shut down. */
  shutDown(): void {
    this.throw(placeLater(new ShutDown()));
  }

  protected override timedOut(): void {
    this.throw(placeLater(new Empty()));
  }

  protected override get call(): string {
    return this.peeks ? "peek()" : "get()";
  }
}

/** A wait for an item that leaves the item in the queue. */
class Peeker<T> extends Getter<T> {
  override get peeks(): boolean {
    return true;
  }
}

/** A wait for an item in a `for await` loop. */
class LoopGetter<T> extends Getter<T> {
  override take(item: T): void {
    this.switch({ done: false, value: item });
  }

  override shutDown(): void {
    this.switch({ done: true, value: undefined });
  }

  override describe(subject = this.subject): string {
    return `for await of ${classOf(subject)}`;
  }
}

/** Is set while all tasks of a queue are done. */
class AllDone extends Event {
  readonly #queue: object;

  constructor(queue: object) {
    super();
    this.#queue = queue;
  }

  [CALL](): string {
    return callOf(this.#queue, "join()");
  }
}

/** A wait for room for an item. */
class Putter<T> extends QueuedWait<Putter<T>, void> {
  readonly item: T;

  constructor(item: T) {
    super();
    this.item = item;
  }

  protected override timedOut(): void {
    this.throw(placeLater(new Full()));
  }

  protected override get call(): string {
    return "put()";
  }
}

/**
 * Keeps the items of a queue, and decides their order.
 *
 * @typeParam T The type of the items.
 */
export interface QueueItems<T> extends Iterable<T> {
  /** The number of items. */
  readonly length: number;
  /** Adds an item. */
  push(item: T): void;
  /** Removes the next item and returns it. */
  take(): T;
  /** Returns the next item and leaves it there. */
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

/** An item of a {@linkcode LeastFirst}, with its number in the order of `push` calls. */
interface Entry<T> {
  readonly item: T;
  readonly number: number;
}

/** Items in the order of a comparison. Equal items stay in the order in which they were added. */
class LeastFirst<T> implements QueueItems<T> {
  readonly #entries: Heap<Entry<T>>;
  #number = 0;

  constructor(compare: (a: T, b: T) => number) {
    this.#entries = new Heap((a, b) =>
      compare(a.item, b.item) || a.number - b.number
    );
  }

  get length(): number {
    return this.#entries.length;
  }

  push(item: T): void {
    this.#entries.push({ item, number: this.#number++ });
  }

  take(): T {
    return this.#entries.shift().item;
  }

  peek(): T {
    return this.#entries.first!.item;
  }

  *[Symbol.iterator](): Generator<T> {
    for (const { item } of this.#entries.toSorted()) yield item;
  }
}

function checkSize(maxsize: unknown): number {
  if (maxsize === undefined || maxsize === null) return Infinity;
  const isSize = maxsize === Infinity || Number.isInteger(maxsize);
  if (!isSize) {
    throw numberError("create queue", "maxsize", "an integer", maxsize);
  }
  // As in gevent and in Python. A queue that keeps no items is a Channel.
  return maxsize as number > 0 ? maxsize as number : Infinity;
}

/**
 * A first-in, first-out queue without {@linkcode Queue.taskDone}, {@linkcode Queue.join} and
 * {@linkcode Queue.shutdown}. gevent's `SimpleQueue`.
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
  readonly #getters: List<Getter<T>> = new List(this);
  readonly #putters: List<Putter<T>> = new List(this);
  #isShutDown = false;

  static {
    showAs(this, (queue) => ({
      maxsize: queue.#maxsize,
      items: [...queue.#items],
      getters: queue.#getters.length,
      putters: queue.#putters.length,
      ...(queue.#isShutDown ? { isShutDown: true } : {}),
    }));
  }

  /**
   * Makes a queue.
   *
   * @param maxsize The most items at a time; no limit if it is left out, or is 0 or less.
   * @param items The first items of the queue.
   * @throws {TypeError | RangeError} If `maxsize` is not an integer.
   */
  constructor(maxsize?: number | null, items: Iterable<T> = []) {
    this.#maxsize = checkSize(maxsize);
    this.#items = this.createItems();
    checkIterable(items, "create queue", "items");
    for (const item of items) this.#items.push(item);
  }

  /** Makes the container for the items. A subclass may override it. */
  protected createItems(): QueueItems<T> {
    return new FirstInFirstOut();
  }

  /**
   * The most items at a time, or `Infinity`. It can be set. gevent's `maxsize`.
   *
   * @throws {TypeError | RangeError} If it is set to a value that is not an integer.
   */
  get maxsize(): number {
    return this.#maxsize;
  }

  /** See the getter. */
  set maxsize(maxsize: number | null) {
    this.#maxsize = checkSize(maxsize);
    this.#balance();
  }

  /** Returns the number of items in the queue. gevent's `qsize`. */
  qsize(): number {
    return this.#items.length;
  }

  /** Whether the queue has no item. gevent's `empty`. */
  empty(): boolean {
    return this.#items.length === 0;
  }

  /** Whether the queue has no room for another item. gevent's `full`. */
  full(): boolean {
    return this.#items.length >= this.#maxsize;
  }

  /**
   * Makes a queue of the same class, with the same items. gevent's `copy`. Not a switch point.
   *
   * @returns The copy. Waits of the original are not copied.
   */
  copy(): this {
    const Class = this.constructor as new (
      maxsize: number,
      items: Iterable<T>,
    ) => this;
    return new Class(this.#maxsize, this.#items);
  }

  /**
   * Puts an item into the queue, and waits until there is room. A switch point if there is
   * none. gevent's `put`.
   *
   * If the wait is interrupted, the item is not in the queue. If there is room, this puts the
   * item even when an interrupt is due; the next wait throws the interrupt. So a `finally`
   * block that gives something back to a queue can't lose it.
   *
   * @param item The item.
   * @param options Whether to wait for room, and how long.
   * @returns Nothing.
   * @throws {Full} If there is no room in time.
   * @throws {ShutDown} If the queue is shut down.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  put(item: T, options: QueueOptions = NO_OPTIONS): Wait<void> {
    const timeout = timeoutOf(options, "put");
    const { block = true } = options;
    if (!this.#isShutDown && !this.full()) {
      this.#accept(item);
      return doneWait();
    }
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#isShutDown) {
      return failedWait(errorIn(Queue.prototype.put, ShutDown));
    }
    if (!block) return failedWait(errorIn(Queue.prototype.put, Full));
    const putter = new Putter(item);
    this.#putters.add(putter);
    return putter.limit(timeout).suspend(scope);
  }

  /**
   * Puts an item into the queue, without waiting for room. Not a switch point. gevent's
   * `put_nowait`.
   *
   * @param item The item.
   * @throws {Full} If there is no room.
   * @throws {ShutDown} If the queue is shut down.
   */
  putNowait(item: T): void {
    if (this.#isShutDown) throw errorIn(Queue.prototype.putNowait, ShutDown);
    if (this.full()) throw errorIn(Queue.prototype.putNowait, Full);
    this.#accept(item);
  }

  /**
   * Waits until there is an item, removes it and returns it. A switch point if there is none.
   * gevent's `get`. An interrupt leaves all items in the queue.
   *
   * @param options Whether to wait for an item, and how long.
   * @returns The item.
   * @throws {Empty} If there is none in time.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  get(options: QueueOptions = NO_OPTIONS): Wait<T> {
    return this.#get(false, options);
  }

  /**
   * Removes the next item and returns it, without waiting. Not a switch point. gevent's
   * `get_nowait`.
   *
   * @returns The item.
   * @throws {Empty} If there is none.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   */
  getNowait(): T {
    this.#checkItem(Queue.prototype.getNowait);
    return this.#take();
  }

  /**
   * Waits until there is an item, and returns it without removing it. A switch point if there
   * is none. gevent's `peek`.
   *
   * @param options Whether to wait for an item, and how long.
   * @returns The item.
   * @throws {Empty} If there is none in time.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  peek(options: QueueOptions = NO_OPTIONS): Wait<T> {
    return this.#get(true, options);
  }

  /**
   * Returns the next item without removing it and without waiting. Not a switch point.
   * gevent's `peek_nowait`.
   *
   * @returns The item.
   * @throws {Empty} If there is none.
   * @throws {ShutDown} If there is none, and the queue is shut down.
   */
  peekNowait(): T {
    this.#checkItem(Queue.prototype.peekNowait);
    return this.#items.peek();
  }

  #checkItem(callee: () => unknown): void {
    if (this.#items.length > 0) return;
    throw errorIn(callee, this.#isShutDown ? ShutDown : Empty);
  }

  #get(peeks: boolean, options: QueueOptions): Wait<T> {
    const timeout = timeoutOf(options, "get");
    const { block = true } = options;
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#items.length > 0) {
      return readyWait(peeks ? this.#items.peek() : this.#take());
    }
    const callee = peeks ? Queue.prototype.peek : Queue.prototype.get;
    if (this.#isShutDown) return failedWait(errorIn(callee, ShutDown));
    if (!block) return failedWait(errorIn(callee, Empty));
    const getter: Getter<T> = peeks ? new Peeker() : new Getter();
    this.#getters.add(getter);
    return getter.limit(timeout).suspend(scope) as Wait<T>;
  }

  /** Removes an item, and lets a waiting `put` use the room. */
  #take(): T {
    const item = this.#items.take();
    this.#balance();
    return item;
  }

  /** Adds an item for which there is room. */
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

  static readonly #balanceOf = (queue: SimpleQueue<unknown>): void =>
    queue.#balance();

  /** Ends every wait that can be ended: for room if there is room, for an item if there is one. */
  #balance(): void {
    for (;;) {
      const putter = this.full()
        ? null
        : firstToMatch(this.#putters, SimpleQueue.#balanceOf);
      const getter = putter !== null || this.#items.length === 0
        ? null
        : firstToMatch(this.#getters, SimpleQueue.#balanceOf);
      if (putter !== null) {
        this.#putters.remove(putter);
        try {
          this.#items.push(putter.item);
        } catch (error) {
          putter.throw(error);
          continue;
        }
        this.accepted();
        putter.switch();
      } else if (getter !== null) {
        this.#getters.remove(getter);
        let item: T;
        try {
          item = getter.peeks ? this.#items.peek() : this.#items.take();
        } catch (error) {
          // A comparison has thrown. The `get` throws the error, and the item stays.
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
        // A comparison has thrown. Drops the other items without comparing them.
        this.#items = this.createItems();
        for (; left > 0; left--) this.dropped();
      }
    }
    for (let p = this.#putters.shift(); p !== null; p = this.#putters.shift()) {
      p.throw(placeLater(new ShutDown()));
    }
    for (let g = this.#getters.shift(); g !== null; g = this.#getters.shift()) {
      g.shutDown();
    }
  }

  /** Called for each item that was dropped. */
  protected dropped(): void {}

  /** The number of waits for an item. gevent's `getters`. */
  get getters(): number {
    return this.#getters.length;
  }

  /** The number of waits for room. gevent's `putters`. */
  get putters(): number {
    return this.#putters.length;
  }

  /**
   * Takes items in a `for await` loop, until the queue is shut down and empty.
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
 * The iterator of a `for await` loop over a queue or a channel.
 *
 * @typeParam T The type of the items.
 */
export interface QueueIterator<T> extends AsyncIterableIterator<T> {
  /** Waits until there is an item, and takes it. A switch point. */
  next(): Wait<IteratorResult<T, undefined>>;
  /**
   * Ends the iteration. Pending calls of `next()` return `done`, and take no item. Not a
   * switch point.
   */
  return(): Wait<IteratorResult<T, undefined>>;
  /** Returns the iterator itself. */
  [Symbol.asyncIterator](): QueueIterator<T>;
}

/** The iterator over a queue or a channel. */
class Loop<T> implements QueueIterator<T> {
  readonly #take: (loop: Loop<T>) => Wait<IteratorResult<T, undefined>>;
  /** The pending waits: nearly always one at most. */
  readonly #waiting: LoopGetter<T>[] = [];
  #isOver = false;

  constructor(take: (loop: Loop<T>) => Wait<IteratorResult<T, undefined>>) {
    this.#take = take;
  }

  next(): Wait<IteratorResult<T, undefined>> {
    if (this.#isOver) return readyWait({ done: true, value: undefined });
    return this.#take(this);
  }

  /** Waits for an item, as the last of `getters`. */
  wait(
    getters: List<Getter<T>>,
    scope: Scope,
  ): Wait<IteratorResult<T, undefined>> {
    const waiting = this.#waiting;
    // Earlier waits are over, unless `next()` is called several times at once.
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
 * A first-in, first-out queue. gevent's `Queue`, which is its `JoinableQueue`.
 *
 * `Queue(0)` has room for any number of items, as in gevent and in Python. For a queue that
 * keeps no items, use a {@linkcode Channel}.
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
  readonly #finished = new AllDone(this);

  /**
   * Makes a queue.
   *
   * @param maxsize The most items at a time; no limit if it is left out, or is 0 or less.
   * @param items The first items of the queue. They count as unfinished tasks.
   * @throws {TypeError | RangeError} If `maxsize` is not an integer.
   */
  constructor(maxsize?: number | null, items: Iterable<T> = []) {
    super(maxsize, items);
    this.#unfinished = this.qsize();
    if (this.#unfinished === 0) this.#finished.set();
  }

  /**
   * The number of items that were put and for which {@linkcode Queue.taskDone} was not called.
   * gevent's `unfinished_tasks`.
   */
  get unfinishedTasks(): number {
    return this.#unfinished;
  }

  /** Counts one more task. */
  protected override accepted(): void {
    this.#unfinished++;
    this.#finished.clear();
  }

  /** Counts the task of a dropped item as done. */
  protected override dropped(): void {
    // taskDone() may have been called for an item that was still in the queue.
    if (this.#unfinished > 0) this.taskDone();
  }

  /**
   * Marks the task of one item as done. Not a switch point. gevent's `task_done`.
   *
   * @throws {RangeError} If it is called more often than items were put.
   */
  taskDone(): void {
    if (this.#unfinished === 0) {
      throw new RangeError(
        "Cannot mark a task done as all tasks are done: call taskDone() once for each item",
      );
    }
    if (--this.#unfinished === 0) this.#finished.set();
  }

  /**
   * Waits until {@linkcode Queue.taskDone} was called for every item. A switch point. gevent's
   * `join`.
   *
   * @param options How long to wait.
   * @returns `true` if all tasks are done, `false` at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  join(options: JoinOptions = NO_OPTIONS): Wait<boolean> {
    return this.#finished.wait(options);
  }

  /**
   * Shuts the queue down. Not a switch point. gevent's `shutdown`.
   *
   * From now on `put` throws {@linkcode ShutDown}. `get` and loops still take the items that
   * are left; then `get` throws `ShutDown`, and loops end. A `put` that waits for room throws
   * `ShutDown` now.
   *
   * If a greenlet doesn't catch the `ShutDown`, the greenlet fails with it: its `get()` throws
   * the error, and its nursery fails. But the error is not reported to the hub and not printed,
   * as a shutdown asks producers and consumers to end.
   *
   * @param options Whether to drop the items that are left. Their tasks then count as done.
   */
  shutdown(options: ShutdownOptions = NO_OPTIONS): void {
    checkOptions(options, "shut down");
    this.close(options.immediate ?? false);
  }
}

/**
 * The same class as {@linkcode Queue}. gevent's `JoinableQueue`.
 *
 * @example Usage
 * ```ts
 * import { JoinableQueue, Queue } from "@gevent/gevent";
 *
 * console.log(JoinableQueue === Queue); // true
 * ```
 */
export const JoinableQueue: typeof Queue = Queue;

/**
 * A last-in, first-out queue. gevent's `LifoQueue`.
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
  /** Makes the container for the items. */
  protected override createItems(): QueueItems<T> {
    return new LastInFirstOut();
  }
}

/** Options of a {@linkcode PriorityQueue}. */
export interface PriorityQueueOptions<T> {
  /** The most items at a time. @default {Infinity} */
  maxsize?: number | null;
  /** The first items of the queue. @default {[]} */
  items?: Iterable<T>;
}

/**
 * A queue that returns the least item first. gevent's `PriorityQueue`.
 *
 * Without a `compare` function, arrays are compared item by item, as Python's tuples are:
 * `[priority, data]`. All other items are compared with `<`. Items that are equal come out in
 * the order in which they were put.
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
   * @param compare Compares two items, as for `Array.prototype.sort`: returns a negative number
   * if the first argument comes out first.
   * @param options The size, and the first items.
   * @throws {TypeError} If `compare` is not a function.
   * @throws {TypeError | RangeError} If `maxsize` is not an integer.
   */
  constructor(
    compare: (a: T, b: T) => number = compareNaturally,
    options: PriorityQueueOptions<T> = NO_OPTIONS,
  ) {
    checkCallback(compare, "create queue", "compare");
    checkOptions(options, "create queue");
    super(null);
    this.#compare = compare;
    for (const item of options.items ?? []) this.putNowait(item);
    this.maxsize = options.maxsize ?? null;
  }

  /** Makes the container for the items. */
  protected override createItems(): QueueItems<T> {
    return new LeastFirst((a, b) => this.#compare(a, b));
  }

  /**
   * Makes a queue of the same class, with the same comparison and items. gevent's `copy`. Not
   * a switch point.
   *
   * @returns The copy. Waits of the original are not copied.
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
 * A queue that keeps no items: each `put` waits for a `get`, which takes the item directly.
 * gevent's `Channel`.
 *
 * A channel has no `shutdown`. To end a `for await` loop over it, put a value that means the end
 * and `break`, or kill the greenlet. Or use a {@linkcode Queue} of size 1, which can be shut down.
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
  readonly #getters: List<Getter<T>> = new List(this);
  readonly #putters: List<Putter<T>> = new List(this);

  static {
    showAs(this, (channel) => ({
      getters: channel.#getters.length,
      putters: channel.#putters.length,
    }));
  }

  /** The number of waits to put, minus the number of waits to get. gevent's `balance`. */
  get balance(): number {
    return this.#putters.length - this.#getters.length;
  }

  /** Returns 0: a channel keeps no items. gevent's `qsize`. */
  qsize(): number {
    return 0;
  }

  /** Returns `true`: a channel keeps no items. gevent's `empty`. */
  empty(): boolean {
    return true;
  }

  /** Returns `true`: a channel has no room for items. gevent's `full`. */
  full(): boolean {
    return true;
  }

  /**
   * Waits until a `get` takes the item. A switch point if no `get` waits now. gevent's `put`.
   * If the wait is interrupted, no `get` takes the item.
   *
   * @param item The item.
   * @param options Whether to wait, and how long.
   * @returns Nothing.
   * @throws {Full} If no `get` takes the item in time.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  put(item: T, options: QueueOptions = NO_OPTIONS): Wait<void> {
    const timeout = timeoutOf(options, "put");
    const { block = true } = options;
    const getter = firstToMatch(this.#getters, Channel.#match);
    if (getter !== null) {
      this.#getters.remove(getter);
      getter.take(item);
      return doneWait();
    }
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (!block) {
      return failedWait(errorIn(Channel.prototype.put, Full, NO_GETTER));
    }
    const putter = new Putter(item);
    this.#putters.add(putter);
    return putter.limit(timeout).suspend(scope);
  }

  /**
   * Hands an item to a waiting `get`. Not a switch point. gevent's `put_nowait`.
   *
   * @param item The item.
   * @throws {Full} If no `get` waits.
   */
  putNowait(item: T): void {
    const getter = this.#getters.shift();
    if (getter === null) {
      throw errorIn(Channel.prototype.putNowait, Full, NO_GETTER);
    }
    getter.take(item);
  }

  /**
   * Waits until a `put` offers an item, and takes it. A switch point if no `put` waits now.
   * gevent's `get`. If the wait is interrupted, it takes no item.
   *
   * @param options Whether to wait, and how long.
   * @returns The item.
   * @throws {Empty} If there is none in time.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   */
  get(options: QueueOptions = NO_OPTIONS): Wait<T> {
    const timeout = timeoutOf(options, "get");
    const { block = true } = options;
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    const putter = this.#firstPutter();
    if (putter !== null) {
      putter.switch();
      return readyWait(putter.item);
    }
    if (!block) {
      return failedWait(errorIn(Channel.prototype.get, Empty, NO_PUTTER));
    }
    const getter = new Getter<T>();
    this.#getters.add(getter);
    return getter.limit(timeout).suspend(scope) as Wait<T>;
  }

  /**
   * Takes the item of a waiting `put`. Not a switch point. gevent's `get_nowait`.
   *
   * @returns The item.
   * @throws {Empty} If no `put` waits.
   */
  getNowait(): T {
    const putter = this.#putters.shift();
    if (putter === null) {
      throw errorIn(Channel.prototype.getNowait, Empty, NO_PUTTER);
    }
    putter.switch();
    return putter.item;
  }

  /**
   * Takes items in a `for await` loop, which never ends by itself.
   *
   * @returns The iterator. In a generator body call `yield* iterator.next()`.
   */
  [Symbol.asyncIterator](): QueueIterator<T> {
    return new Loop((loop) => this.#next(loop));
  }

  /** Removes the first wait to put that may hand its item over now, and returns it. */
  #firstPutter(): Putter<T> | null {
    const putter = firstToMatch(this.#putters, Channel.#match);
    if (putter !== null) this.#putters.remove(putter);
    return putter;
  }

  /** Hands over what was put off while an alternative of a `select` was begun. */
  static readonly #match = (channel: Channel<unknown>): void => {
    let putter = channel.#putters.first;
    while (putter !== null) {
      let getter = channel.#getters.first;
      while (getter !== null && areRivals(putter, getter)) getter = getter.next;
      if (getter === null) {
        putter = putter.next;
        continue;
      }
      channel.#putters.remove(putter);
      channel.#getters.remove(getter);
      putter.switch();
      getter.take(putter.item);
      // The others of a `select` that has taken one of them are gone.
      putter = channel.#putters.first;
    }
  };

  #next(loop: Loop<T>): Wait<IteratorResult<T, undefined>> {
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    const putter = this.#firstPutter();
    if (putter !== null) {
      putter.switch();
      return readyWait({ done: false, value: putter.item });
    }
    return loop.wait(this.#getters, scope);
  }
}

nameClasses({
  Empty,
  Full,
  ShutDown,
  SimpleQueue,
  Queue,
  LifoQueue,
  PriorityQueue,
  Channel,
});
