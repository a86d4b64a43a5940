/**
 * Outboxes: the writes to one connection, in order.
 *
 * One operation of the runtime may write fewer bytes than it is given. So a write of all bytes
 * may take several operations, and later writes wait until it ends. A write that has begun goes
 * on when its caller is interrupted: half a message would spoil all later ones.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { List } from "../_base/linked_list.ts";
import { Begun } from "./begun.ts";
import { current } from "./current.ts";
import { lengthOf, MOST_KEPT, MOST_WRITTEN, Scratch } from "./inbox.ts";
import {
  loopCalls,
  noteLoopTurn,
  spendBudget,
  spendOnceInTurn,
} from "./run_queue.ts";
import type { Scope } from "./scope.ts";
import { NONE, type SocketOps } from "./socket_ops.ts";
import { DONE, Suspension, takenWait, type Wait } from "./suspension.ts";
import { titleOf } from "./waits.ts";
import { Timeout } from "./timeout.ts";
import { placeLater } from "./stacks.ts";
import { stopTimer } from "./timers.ts";
import { QueuedWait } from "./wait_queue.ts";

type Write = (data: Uint8Array) => Promise<number>;
type CloseWrite = () => Promise<void>;

/** A task in the queue: to write some of the bytes, to write all, or to end all writing. */
type Task = "write" | "writeAll" | "closeWrite";

const NOTHING = new Uint8Array(0);

/** Holds a copy of the bytes that an operation is writing. */
const scratch = new Scratch();

/** The wait of one call that writes. */
class Sender extends // Waits of all kinds are in one queue, whatever they give.
// deno-lint-ignore no-explicit-any
QueuedWait<Sender, any> {
  readonly task: Task;
  readonly #outbox: Outbox;
  readonly #ms: number;
  /** The bytes to write. Bytes that were written may be missing. */
  bytes: Uint8Array;
  /** Whether the bytes are a copy, which the caller can't change. */
  isOwn: boolean;
  /** The number of bytes to write, and below it the number that were written. */
  readonly length: number;
  sent = 0;

  constructor(
    outbox: Outbox,
    task: Task,
    bytes: Uint8Array,
    isOwn: boolean,
    ms: number,
  ) {
    super();
    this.#outbox = outbox;
    this.task = task;
    this.bytes = bytes;
    this.isOwn = isOwn;
    this.length = lengthOf(bytes);
    this.#ms = ms;
  }

  /**
   * The index of the first byte that was not written.
   *
   * @throws {TypeError} If the caller has transferred the buffer.
   */
  get from(): number {
    const length = lengthOf(this.bytes);
    if (length < this.length - this.sent) {
      throw new TypeError(
        "Cannot go on writing as the buffer of the bytes was transferred",
      );
    }
    return this.sent - (this.length - length);
  }

  /** Copies the bytes that were not written: the caller may change its array from now on. */
  keepBytes(): void {
    const isThere = lengthOf(this.bytes) === this.length;
    this.bytes = isThere
      ? Uint8Array.prototype.slice.call(this.bytes, this.sent)
      : NOTHING;
    this.isOwn = true;
  }

  /** Starts the time limit. */
  startTime(): this {
    return this.#ms === Infinity ? this : this.limit(this.#ms);
  }

  /** Restarts the time limit, as bytes were written. */
  restartTime(): void {
    if (this.#ms === Infinity || this.state !== "waiting") return;
    stopTimer(this.timer);
    this.limit(this.#ms);
  }

  override describe(): string {
    return `${this.task} of ${titleOf(this.#outbox.owner)}`;
  }

  protected override timedOut(): void {
    this.throw(placeLater(new Timeout(this.#ms)));
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    this.#outbox.leftBy(this);
  }
}

/**
 * The writes to one connection. Each is finished before the next begins, in the order of the
 * calls.
 */
export class Outbox {
  readonly owner: object;
  readonly #write: Write;
  readonly #closeWrite: CloseWrite;
  readonly #operations: SocketOps | null;
  readonly #waits = new List<Sender>();
  /** The call that is being served. */
  #served: Sender | null = null;
  /** Whether it was interrupted. */
  #isOrphaned = false;
  /** The operation that is running for it. */
  #operation = NONE;
  #begun: Begun | null = null;
  /** The value of `loopCalls` at the last write that ended at once. */
  #lastCall = -1;

  /** @param operations The operations to write with, in place of the connection's `write`. */
  constructor(
    owner: object,
    write: Write,
    closeWrite: CloseWrite,
    operations: SocketOps | null,
  ) {
    this.owner = owner;
    this.#write = write;
    this.#closeWrite = closeWrite;
    this.#operations = operations;
  }

  /** Writes some of the bytes. The caller must have made the checkpoint of the scope. */
  write(data: Uint8Array, ms: number, scope: Scope | null): Wait<number> {
    const operations = this.#operations;
    if (this.#served !== null || operations === null) {
      return this.#add(new Sender(this, "write", data, false, ms), scope);
    }
    const written = operations.write(this.owner, this.#copyOf(data, 0, false));
    if (operations.isOver(written)) return takenWait(written, this.#isFirst());
    const sender = new Sender(this, "write", data, false, ms);
    return this.#serveWith(sender, written, scope);
  }

  /** Writes all bytes. */
  writeAll(
    data: Uint8Array,
    isOwn: boolean,
    ms: number,
    scope: Scope | null,
  ): Wait<void> {
    const operations = this.#operations;
    if (this.#served !== null || operations === null) {
      return this.#add(new Sender(this, "writeAll", data, isOwn, ms), scope);
    }
    // Nearly always the first operation ends at once and has written all bytes. Then no wait is
    // needed.
    const written = operations.write(
      this.owner,
      this.#copyOf(data, 0, isOwn),
    );
    const count = operations.resultOf(written);
    if (count === lengthOf(data)) return doneWait(this.#isFirst());
    const sender = new Sender(this, "writeAll", data, isOwn, ms);
    return this.#serveWith(sender, written, scope);
  }

  /**
   * Whether this is the first write since the event loop has called the library. It takes nothing
   * from the time slice: a server that answers 100 clients in one turn of the loop would need
   * more than a slice for that, and to defer the answers took about a tenth of its time.
   */
  #isFirst(): boolean {
    const isFirst = this.#lastCall !== loopCalls;
    this.#lastCall = loopCalls;
    return isFirst;
  }

  /** Closes the writing side, after all earlier writes. */
  closeWrite(ms: number, scope: Scope | null): Wait<void> {
    const sender = new Sender(this, "closeWrite", NOTHING, true, ms);
    return this.#add(sender, scope);
  }

  /** Must be called when a call was interrupted, in its turn or before. */
  leftBy(sender: Sender): void {
    if (sender === this.#served) {
      if (!sender.isOwn && sender.task === "writeAll") sender.keepBytes();
      this.#isOrphaned = true;
    }
    this.#hold();
  }

  #add<T>(sender: Sender, scope: Scope | null): Wait<T> {
    const wait: Wait<T> = sender.startTime().suspend(scope);
    this.#waits.add(sender);
    if (this.#served === null) this.#serveNext();
    else this.#hold();
    return wait;
  }

  #serveWith<T>(
    sender: Sender,
    operation: Promise<number>,
    scope: Scope | null,
  ): Wait<T> {
    this.#served = sender;
    this.#isOrphaned = false;
    const wait: Wait<T> = sender.startTime().suspend(scope);
    this.#follow(operation);
    return wait;
  }

  #serveNext(): void {
    const sender = this.#served = this.#waits.shift();
    this.#isOrphaned = false;
    // Without an async context: the operation goes on even when its caller is dead.
    if (sender !== null) current.clear(() => this.#begin(sender));
  }

  #begin(sender: Sender): void {
    let operation: Promise<number | void>;
    try {
      operation = this.#operate(sender);
    } catch (error) {
      operation = Promise.reject(error);
    }
    this.#follow(operation);
  }

  #operate(sender: Sender): Promise<number | void> {
    if (sender.task === "closeWrite") return this.#watch(this.#closeWrite);
    const chunk = this.#copyOf(sender.bytes, sender.from, sender.isOwn);
    return this.#operations?.write(this.owner, chunk) ??
      this.#watch(() => this.#write(chunk));
  }

  #watch<T>(begin: () => Promise<T>): Promise<T> {
    this.#begun = new Begun();
    return this.#begun.watch(begin);
  }

  /** The bytes for one operation: a copy, unless the caller has no access to them. */
  #copyOf(bytes: Uint8Array, from: number, isOwn: boolean): Uint8Array {
    const to = Math.min(lengthOf(bytes), from + MOST_WRITTEN);
    if (isOwn) return bytes.subarray(from, to);
    if (to - from > MOST_KEPT) {
      return Uint8Array.prototype.slice.call(bytes, from, to);
    }
    const isPart = from > 0 || to < lengthOf(bytes);
    return scratch.copy(isPart ? bytes.subarray(from, to) : bytes);
  }

  #follow(operation: Promise<number | void>): void {
    this.#operation = this.#operations?.idOf(operation) ?? NONE;
    scratch.leave();
    this.#hold();
    then(operation, this.#written, this.#failed);
  }

  /** Sets whether the operation keeps the process alive. */
  #hold(): void {
    const isWaitedFor = !this.#isOrphaned || this.#waits.first !== null;
    if (isWaitedFor) {
      this.#operations?.take(this.#operation, true);
      this.#begun?.ref();
    } else {
      this.#operations?.leave(this.#operation);
      this.#begun?.unref();
    }
  }

  readonly #written = (count: number | void): void => {
    noteLoopTurn();
    const sender = this.#served!;
    sender.sent += count ?? 0;
    if (sender.task === "writeAll" && sender.sent < sender.length) {
      sender.restartTime();
      return current.clear(() => this.#begin(sender));
    }
    this.#over();
    sender.switch(sender.task === "write" ? count : undefined);
    this.#serveNext();
  };

  readonly #failed = (error: unknown): void => {
    const sender = this.#served!;
    this.#over();
    sender.throw(error);
    this.#serveNext();
  };

  #over(): void {
    this.#operation = NONE;
    this.#begun = null;
  }
}

/** The wait of a write that ended at once. It only lets other greenlets run first. */
function doneWait(isOnce: boolean): Wait<void> {
  if (isOnce ? spendOnceInTurn() : spendBudget()) return DONE;
  const wait = new Suspension<void>();
  wait.switch();
  return wait.suspend(null);
}
