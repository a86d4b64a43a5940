/**
 * Inboxes: they keep the results of a repeated operation on one socket, file or terminal.
 *
 * If a `read` or an `accept` is cancelled, the runtime can't say whether it has taken bytes or a
 * connection. So the operation goes on when its caller is interrupted, and its result is for the
 * next caller: bytes are read into a buffer of the inbox, connections are kept.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { current } from "./current.ts";
import type { Scope } from "./scope.ts";
import { Suspension } from "./suspension.ts";
import type { Wait } from "./suspension.ts";
import { Begun } from "./begun.ts";
import { QueuedWait } from "./wait_queue.ts";
import { List } from "../_base/linked_list.ts";
import { operate } from "./operation.ts";
import { noteLoopTurn, runSoon } from "./run_queue.ts";
import { stopTimer } from "./timers.ts";
import { Timeout } from "./timeout.ts";
import { placeLater } from "./stacks.ts";
import { CALL, titleOf } from "./waits.ts";

/** The most bytes that one operation reads. */
export const MOST_READ = 64 * 1024;
/** The most bytes of memory to write from that are kept for reuse. */
export const MOST_KEPT = 64 * 1024;
/** The most bytes that one operation writes: `write` may write less than it is given. */
export const MOST_WRITTEN = 1024 * 1024;

/** The waits for the results of an inbox, in order. */
class Takers<K extends QueuedWait<K, T>, T> extends List<K> {
  readonly #inbox: { left(wasFirst: boolean): void };

  constructor(inbox: { left(wasFirst: boolean): void }) {
    super(inbox);
    this.#inbox = inbox;
  }

  override leave(taker: K): void {
    const wasFirst = taker === this.first;
    super.leave(taker);
    this.#inbox.left(wasFirst);
  }
}

/** Tells the owner of an inbox whether its operation keeps the process alive. */
export interface Hold {
  take(owner: object): void;
  release(owner: object): void;
}

/**
 * The inboxes that one part of `patch()` has made. When the part is restored, the owners of
 * inboxes that are not empty keep the patched methods.
 */
export class Inboxes {
  readonly #all = new Set<WeakRef<{ stayPatched(): void }>>();
  /**
   * At this number of inboxes, those whose owners were collected without being closed are
   * removed.
   */
  #most = 64;

  add(reference: WeakRef<{ stayPatched(): void }>): void {
    if (this.#all.size >= this.#most) {
      this.#forget();
      this.#most = 2 * this.#all.size + 64;
    }
    this.#all.add(reference);
  }

  delete(reference: WeakRef<{ stayPatched(): void }>): void {
    this.#all.delete(reference);
  }

  /** Must be called before the prototypes are restored. They may be patched again later. */
  stayPatched(): void {
    for (const inbox of this.#all) inbox.deref()?.stayPatched();
  }

  #forget(): void {
    for (const inbox of this.#all) {
      if (inbox.deref() === undefined) this.#all.delete(inbox);
    }
  }
}

/** Gives an object properties of its own, as they are now on its prototype. */
export function keepPatchedNames(
  owner: object,
  names: readonly PropertyKey[],
): void {
  for (const name of names) {
    if (!(name in owner)) continue;
    Object.defineProperty(owner, name, {
      value: (owner as Record<PropertyKey, unknown>)[name],
      writable: true,
      configurable: true,
    });
  }
}

/**
 * The operation of an inbox:
 *
 * - `idle`: no operation is running
 * - `busy`: an operation is running, and a wait needs its result
 * - `orphaned`: an operation is running that no wait needs any more, so it does not keep the
 *   process alive
 */
type OperationState = "idle" | "busy" | "orphaned";

/**
 * An operation that is repeated on one socket: the waits for its results, and the results that
 * were not taken yet.
 */
export abstract class Inbox<T, K extends QueuedWait<K, T>, R> {
  readonly #waits = new Takers<K, T>(this);
  readonly #inboxes: Inboxes | null;
  readonly #hold: Hold | null;
  readonly #reference = new WeakRef(this);
  #state: OperationState = "idle";
  /** The error of an operation, until a wait throws it. */
  #failure: { readonly error: unknown } | null = null;
  /** Whether the owner was closed. Not an `OperationState`, as the operation may still go on. */
  protected closed = false;

  /** @param inboxes The inboxes of the part of `patch()` that makes this one, if one does. */
  constructor(inboxes: Inboxes | null, hold: Hold | null = null) {
    this.#inboxes = inboxes;
    this.#hold = hold;
    inboxes?.add(this.#reference);
  }

  /** The state of the operation. */
  get state(): OperationState {
    return this.#state;
  }

  /** Whether a wait that begins now ends at once. */
  get ready(): boolean {
    return this.hasResult || this.#failure !== null;
  }

  /** Whether the original methods can be used again: nothing is kept here, and nothing waits. */
  get isEmpty(): boolean {
    return this.#state === "idle" && this.#waits.first === null && !this.ready;
  }

  /** Whether the owner is used, so that something else must not begin with it. */
  get busy(): boolean {
    return this.#state !== "idle";
  }

  /** The wait whose turn it is. */
  protected get firstTaker(): K | null {
    return this.#waits.first;
  }

  /** The number of waits in the queue. */
  protected get waiting(): number {
    return this.#waits.length;
  }

  /** Whether one of the waits should keep the process alive. */
  protected get isWaitedFor(): boolean {
    return this.#waits.first !== null;
  }

  /** Whether the owner has to keep our methods, when the prototype's are restored. */
  protected get mustStayPatched(): boolean {
    return !this.isEmpty;
  }

  /** Whether there is a result that was not taken. */
  protected abstract get hasResult(): boolean;
  /** The socket, file or terminal. */
  protected abstract get owner(): object;

  /** Names a call and its owner, such as `read of 127.0.0.1:80`. */
  [CALL](call: string): string {
    return `${call} of ${titleOf(this.owner)}`;
  }

  /** The methods of the owner that know of this. */
  protected abstract get patchedNames(): readonly PropertyKey[];
  /** Begins the operation for the first wait in the queue. */
  protected abstract begin(taker: K): Promise<R>;
  /** Keeps a result of the operation. */
  protected abstract keep(result: R): void;
  /** Whether the kept results are enough for a wait. */
  protected isServed(_taker: K): boolean {
    return this.hasResult;
  }
  /** Ends a wait with the results that are kept. */
  protected abstract give(taker: K): void;
  /** Drops or closes the results that were not taken. */
  protected abstract discard(): void;

  /** Must be called before the owner is closed. */
  close(): void {
    this.closed = true;
    this.#failure = null;
    this.discard();
    this.#inboxes?.delete(this.#reference);
  }

  /** Adds a wait to the queue; outside greenlets (`scope` is `null`) nothing interrupts it. */
  take(taker: K, scope: Scope | null): Wait<T> {
    this.#waits.add(taker);
    const wait = taker.suspend(scope);
    this.joined();
    this.#serve();
    return wait;
  }

  /**
   * Called when the program lets the owner keep the process alive.
   *
   * @returns Whether the owner's own `ref` is to be called, too.
   */
  ref(): boolean {
    return this.#state !== "orphaned";
  }

  /** Called when the program lets the process end while the owner waits. */
  unref(): void {}

  /** Must be called when a wait has joined the queue. */
  protected joined(): void {
    if (this.#state === "orphaned" && this.isWaitedFor) this.#adopt();
  }

  /** Must be called when a wait has left the queue before it was served. */
  left(wasFirst: boolean): void {
    if (this.isWaitedFor) {
      // The first one may have wanted more than there is, which is enough for the next one. Not
      // now, as the next one may be interrupted with it.
      if (wasFirst && this.hasResult) runSoon(Inbox.#serveNext, this);
    } else if (this.#state === "busy") {
      this.#state = "orphaned";
      this.release();
    }
  }

  // deno-lint-ignore no-explicit-any -- inboxes of all kinds
  static #serveNext(this: void, inbox: Inbox<any, any, any>): void {
    inbox.#serve();
  }

  /** Lets the operation keep the process alive again. */
  #adopt(): void {
    this.#state = "busy";
    this.retain();
  }

  /** Lets the process end while the operation runs. */
  protected release(): void {
    this.#hold?.release(this.owner);
  }

  /** Lets the operation keep the process alive, if the program wants that. */
  protected retain(): void {
    this.#hold?.take(this.owner);
  }

  #serve(): void {
    for (let taker = this.#waits.first; taker; taker = this.#waits.first) {
      const failure = this.#failure;
      if (this.isServed(taker)) {
        this.#waits.remove(taker);
        this.give(taker);
      } else if (failure === null) {
        return this.#operate(taker);
      } else {
        this.#waits.remove(taker);
        this.#failure = null;
        taker.throw(failure.error);
      }
    }
  }

  /** Keeps the methods of this one owner, when the prototype's are restored. */
  stayPatched(): void {
    if (this.mustStayPatched) keepPatchedNames(this.owner, this.patchedNames);
    else this.forget();
  }

  /** Called when the owner has its original methods again, and so no longer tells this inbox. */
  protected forget(): void {}

  #operate(taker: K): void {
    if (this.#state !== "idle") return;
    this.#state = "busy";
    // Without an async context: the operation goes on even when its caller is dead.
    current.clear(Inbox.#begin<T, K, R>, this, taker);
  }

  static #begin<T, K extends QueuedWait<K, T>, R>(
    this: void,
    inbox: Inbox<T, K, R>,
    taker: K,
  ): void {
    let operation: Promise<R>;
    try {
      operation = inbox.begin(taker);
    } catch (error) {
      operation = Promise.reject(error);
    }
    then(operation, inbox.#kept, inbox.#failed);
    inbox.left(false);
  }

  // Made once, and not for every operation.
  readonly #kept = (result: R): void => {
    noteLoopTurn();
    this.keep(result);
    this.#over();
  };

  readonly #failed = (error: unknown): void => {
    // Errors are kept as well, as some are reported only once: after the reset of a connection,
    // later reads see only its end.
    if (!this.closed) this.#failure = { error };
    else this.#failAll(error);
    this.#over();
  };

  #over(): void {
    if (this.#state === "orphaned") this.#adopt();
    this.#state = "idle";
    this.#serve();
    // A result from before the owner was closed is for the waits that were there then.
    if (this.closed) this.discard();
  }

  #failAll(error: unknown): void {
    for (let taker = this.#waits.shift(); taker; taker = this.#waits.shift()) {
      taker.throw(error);
    }
  }
}

/**
 * A wait for bytes that are kept in an inbox. While there are too few bytes, they stay in the
 * inbox and more are read. So an interrupted wait has taken nothing.
 */
export abstract class BytesTaker<T> extends // Waits of all kinds are in one queue, whatever they give.
// deno-lint-ignore no-explicit-any
QueuedWait<BytesTaker<any>, any> {
  readonly #ms: number;

  protected override get call(): string {
    return "read";
  }

  /** @param ms The time limit of each wait for bytes to arrive, in milliseconds. */
  constructor(ms = Infinity) {
    super();
    this.#ms = ms;
  }

  /** The most bytes to read, if too few are kept. */
  abstract room(kept: Bytes): number;

  /** Whether the kept bytes are enough for this wait. */
  isServedBy(kept: Bytes): boolean {
    return kept.length > 0 || kept.ended;
  }

  /** Takes its bytes from the kept ones. */
  abstract takeFrom(kept: Bytes): T;

  /** Starts the time limit. */
  startTime(): this {
    return this.#ms === Infinity ? this : this.limit(this.#ms);
  }

  /** Restarts the time limit, as bytes have arrived. */
  restartTime(): void {
    if (this.#ms === Infinity) return;
    stopTimer(this.timer);
    this.limit(this.#ms);
  }

  protected override timedOut(): void {
    this.throw(placeLater(new Timeout(this.#ms)));
  }
}

/** One turn of a stream. */
interface StreamTurn {
  /** Leaves the queue, if it is in it and the stream no longer has a reader. */
  leaveUnlessRead(): void;
}

/** One `read`. */
export class Reader extends BytesTaker<number | null> {
  readonly buffer: Uint8Array;

  constructor(buffer: Uint8Array, ms?: number) {
    super(ms);
    this.buffer = buffer;
  }

  override room(): number {
    return this.buffer.length;
  }

  override takeFrom(kept: Bytes): number | null {
    return kept.length > 0 ? kept.copyTo(this.buffer) : kept.takeEnd();
  }
}

// deno-lint-ignore no-explicit-any -- whatever has such a method
type Read = (this: any, buffer: Uint8Array) => Promise<number | null>;
// deno-lint-ignore no-explicit-any -- whatever has such a method
type Write = (this: any, data: Uint8Array) => Promise<number>;

/** The bytes that were read from one owner, in order, for all its readers. */
// deno-lint-ignore no-explicit-any -- its waits give different things
export class Bytes extends Inbox<any, BytesTaker<any>, number | null> {
  readonly #owner: object;
  readonly #read: Read;
  /** The memory that bytes are kept in. */
  #memory = new Uint8Array(0);
  /** The part of the memory that the last operation has read into. */
  #target = this.#memory;
  /** The bytes that were read and not taken lie from `#start` to `#end`. */
  #start = 0;
  #end = 0;
  /** Whether the end was read and no reader was told yet. */
  #ended = false;
  /** The last turn of the owner's stream. */
  #puller: StreamTurn | null = null;

  constructor(
    inboxes: Inboxes | null,
    owner: object,
    read: Read,
    hold: Hold | null = null,
  ) {
    super(inboxes, hold);
    this.#owner = owner;
    this.#read = read;
  }

  /** The most bytes that one operation reads. */
  protected get mostRead(): number {
    return MOST_READ;
  }

  /** Reads from the owner directly, ignoring the kept bytes and the queue. */
  protected readOn(buffer: Uint8Array): Promise<number | null> {
    return this.#read.call(this.#owner, buffer);
  }

  override take<T>(taker: BytesTaker<T>, scope: Scope | null): Wait<T> {
    if (this.#puller !== null) this.#puller.leaveUnlessRead();
    return super.take(taker, scope);
  }

  /** Adds a turn of the owner's stream to the queue. No interrupt ends it, but it may leave. */
  pull<T>(puller: BytesTaker<T> & StreamTurn): Wait<T> {
    this.#puller = null;
    const wait = this.take(puller, null);
    this.#puller = puller;
    return wait;
  }

  /** The number of bytes that were read and not taken. */
  get length(): number {
    return this.#end - this.#start;
  }

  /** Whether the connection ends behind the kept bytes. */
  get ended(): boolean {
    return this.#ended;
  }

  protected override get hasResult(): boolean {
    return this.#start < this.#end || this.#ended;
  }

  protected override get owner(): object {
    return this.#owner;
  }

  protected override get patchedNames(): readonly PropertyKey[] {
    return ["read", "close", Symbol.dispose];
  }

  protected override discard(): void {
    this.#start = this.#end;
    this.#ended = false;
  }

  protected override begin(taker: BytesTaker<unknown>): Promise<number | null> {
    const room = taker.room(this);
    // At least one byte, even if its buffer was transferred meanwhile.
    const most = Math.min(room, this.mostRead) || 1;
    if (this.#start < this.#end) {
      this.#target = this.#makeRoom(most, room);
    } else {
      this.#start = this.#end = 0;
      if (this.#memory.length < most) this.#memory = new Uint8Array(most);
      const isThere = this.#target.length === most &&
        this.#target.byteOffset === 0 &&
        this.#target.buffer === this.#memory.buffer;
      if (!isThere) this.#target = this.#memory.subarray(0, most);
    }
    return this.readOn(this.#target);
  }

  /** Makes room behind the kept bytes, in memory that grows as far as needed. */
  #makeRoom(most: number, room: number): Uint8Array<ArrayBuffer> {
    const { length } = this;
    const size = this.#memory.length;
    if (this.#end + most > size) {
      let memory = this.#memory;
      if (length + most > size / 2) {
        const needed = Math.min(2 * size, length + room);
        memory = new Uint8Array(Math.max(needed, length + most));
      }
      memory.set(this.#memory.subarray(this.#start, this.#end));
      this.#memory = memory;
      this.#start = 0;
      this.#end = length;
    }
    return this.#memory.subarray(this.#end, this.#end + most);
  }

  protected override keep(count: number | null): void {
    if (count === null) {
      this.#ended = true;
    } else {
      this.#end += count;
      this.firstTaker?.restartTime();
    }
  }

  protected override isServed(taker: BytesTaker<unknown>): boolean {
    return taker.isServedBy(this);
  }

  protected override give(taker: BytesTaker<unknown>): void {
    try {
      taker.switch(taker.takeFrom(this));
    } catch (error) {
      taker.throw(error);
    }
  }

  /** Takes as many kept bytes as there is room for. */
  copyTo(buffer: Uint8Array): number {
    const start = this.#start;
    const end = Math.min(start + buffer.length, this.#end);
    copy(this.#memory, start, end, buffer);
    this.#start = end;
    return end - start;
  }

  /** Takes `count` bytes, in a new array. */
  takeBytes(count: number): Uint8Array<ArrayBuffer> {
    const isWhole = count === this.#memory.length && this.state === "idle";
    // Full memory is handed to the caller without a copy.
    const bytes = isWhole
      ? this.#memory
      : this.#memory.slice(this.#start, this.#start + count);
    this.drop(count);
    if (isWhole) this.#memory = this.#target = new Uint8Array(0);
    return bytes;
  }

  /** As {@linkcode Bytes.takeBytes}, but the array's buffer may be larger, which spares a copy. */
  takeChunk(count: number): Uint8Array<ArrayBuffer> {
    const isAll = this.#start === 0 && count === this.#end &&
      this.state === "idle";
    if (!isAll) return this.takeBytes(count);
    const bytes = this.#memory.subarray(0, count);
    this.#memory = this.#target = new Uint8Array(0);
    this.#end = 0;
    return bytes;
  }

  /** Returns the first bytes without taking them. The view is valid only until the next call. */
  peek(count: number): Uint8Array<ArrayBuffer> {
    return this.#memory.subarray(this.#start, this.#start + count);
  }

  /** Drops the first bytes. */
  drop(count: number): void {
    this.#start += count;
    const isEmpty = this.#start === this.#end && this.state === "idle";
    if (!isEmpty || this.#memory.length <= MOST_READ) return;
    // The memory had grown for unusually many bytes: makes it small again.
    this.#memory = this.#target = new Uint8Array(0);
    this.#start = this.#end = 0;
  }

  /** Returns the end, as a reader is told of it. */
  takeEnd(): null {
    this.#ended = false;
    return null;
  }

  /** Returns one of the kept bytes without taking it. */
  at(index: number): number | undefined {
    return index >= 0 && index < this.length
      ? this.#memory[this.#start + index]
      : undefined;
  }

  /**
   * Searches the kept bytes for a sequence.
   *
   * @param from The index at which to begin.
   * @returns The index of the sequence, or -1.
   */
  indexOf(sought: Uint8Array, from: number): number {
    const kept = this.#memory.subarray(this.#start, this.#end);
    const last = kept.length - sought.length;
    for (let at = from;; at++) {
      at = kept.indexOf(sought[0]!, at);
      if (at < 0 || at > last) return -1;
      let i = 1;
      while (i < sought.length && kept[at + i] === sought[i]) i++;
      if (i === sought.length) return at;
    }
  }
}

/** Copies bytes; a few one by one, as the view that `set` needs costs as much. */
function copy(
  from: Uint8Array,
  start: number,
  end: number,
  to: Uint8Array,
): void {
  if (end - start > 64) return to.set(from.subarray(start, end));
  for (let i = start; i < end; i++) to[i - start] = from[i]!;
}

/**
 * The writes to a connection. The bytes are copied: an interrupted write goes on, in its place
 * in the order, while its caller may reuse its own array.
 */
export class Writes {
  readonly #owner: object;
  readonly #write: Write;
  readonly #isLoose: boolean;
  readonly #most: number;
  /** The memory for copies, used by one write at a time. */
  #buffer = new Uint8Array(0);
  /** The wait for the write from the buffer. */
  #writer: Suspension<number> | null = null;
  /** The number of other operations that are running. */
  #others = 0;

  /**
   * @param isLoose Whether a write may wait for the peer for ever: then it does not keep the
   * process alive after its caller was interrupted.
   * @param most The most bytes that one operation writes.
   */
  constructor(
    owner: object,
    write: Write,
    isLoose: boolean,
    most: number = MOST_WRITTEN,
  ) {
    this.#owner = owner;
    this.#write = write;
    this.#isLoose = isLoose;
    this.#most = most;
  }

  /** Whether a write is running. */
  get busy(): boolean {
    return this.#writer !== null || this.#others > 0;
  }

  write(data: Uint8Array, scope: Scope): Wait<number> {
    const begun = this.#isLoose ? new Begun() : null;
    const most = Math.min(lengthOf(data), this.#most);
    if (this.#writer !== null || most > MOST_KEPT) {
      const copy = Uint8Array.prototype.slice.call(data, 0, most);
      return this.other(this.#begin(copy, begun), scope, () => begun?.unref());
    }
    if (this.#buffer.length !== most) {
      this.#buffer = view(this.#buffer, most);
    }
    copy(data, 0, most, this.#buffer);
    const written = this.#begin(this.#buffer, begun);
    const writer = this.#writer = new Writer(this.#owner, begun);
    then(written, this.#written, this.#failed);
    return writer.suspend(scope);
  }

  #begin(data: Uint8Array, begun: Begun | null): Promise<number> {
    const write = () => this.#write.call(this.#owner, data);
    return begun === null ? write() : begun.watch(write);
  }

  /**
   * Waits for a write that has begun, from memory of its own.
   *
   * @param left Called when the wait is interrupted.
   */
  other(
    written: Promise<number>,
    scope: Scope,
    left: () => void,
  ): Wait<number> {
    this.#others++;
    then(written, this.#otherOver, this.#otherOver);
    return operate(
      scope,
      written,
      () => `write of ${titleOf(this.#owner)}`,
      left,
    );
  }

  readonly #written = (count: number): void => {
    const writer = this.#writer!;
    this.#writer = null;
    noteLoopTurn();
    writer.switch(count);
  };

  readonly #otherOver = (): void => {
    this.#others--;
  };

  readonly #failed = (error: unknown): void => {
    const writer = this.#writer!;
    this.#writer = null;
    writer.throw(error);
  };
}

/** One write from the buffer. */
class Writer extends Suspension<number> {
  readonly #owner: object;
  readonly #begun: Begun | null;

  constructor(owner: object, begun: Begun | null) {
    super();
    this.#owner = owner;
    this.#begun = begun;
  }

  override describe(): string {
    return `write of ${titleOf(this.#owner)}`;
  }

  protected override undo(): void {
    this.#begun?.unref();
  }
}

/**
 * Memory that is reused for the copies of many writes. An operation that ends at once no longer
 * needs it. An operation that is still running keeps it, and the next one gets new memory.
 */
export class Scratch {
  #bytes = new Uint8Array(0);

  /** Copies bytes. The copy is valid until the next call, or for good after `leave`. */
  copy(bytes: Uint8Array): Uint8Array {
    const length = lengthOf(bytes);
    if (this.#bytes.length !== length) {
      this.#bytes = view(this.#bytes, length);
    }
    // An array whose buffer was transferred has no bytes, and can't be copied.
    if (length > 0) this.#bytes.set(bytes);
    return this.#bytes;
  }

  /** Gives the memory of the last copy to the operation that still uses it. */
  leave(): void {
    this.#bytes = new Uint8Array(0);
  }
}

const getLength: (this: Uint8Array) => number = Object.getOwnPropertyDescriptor(
  Object.getPrototypeOf(Uint8Array.prototype),
  "length",
)!.get!;

/**
 * The true length of a `Uint8Array`. A subclass may claim more, and bytes of other writes lie
 * behind a copy.
 */
export function lengthOf(bytes: Uint8Array): number {
  return getLength.call(bytes);
}

/** The memory of `buffer` cut to a length, or new memory if it is too small. */
function view(buffer: Uint8Array<ArrayBuffer>, length: number) {
  return buffer.buffer.byteLength < length
    ? new Uint8Array(length)
    : new Uint8Array(buffer.buffer, 0, length);
}
