/**
 * What is repeated on one socket, file or terminal, by whoever asks for it.
 *
 * The runtime can't cancel one `read` or `accept` and tell whether it has taken something.
 * So an operation goes on when its caller is interrupted, and what it brings is for the
 * next caller: bytes are read into a buffer of ours, connections are kept.
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
import { noteLoopTurn } from "./run_queue.ts";

/** The most that is read by one operation, and kept for it. */
const MOST_READ = 64 * 1024;
/** The most for which memory to write from is kept. */
export const MOST_KEPT = 64 * 1024;
/** The most that is written to a socket by one operation: `write` may write less. */
export const MOST_WRITTEN = 1024 * 1024;

/** Those who wait for what a source brings. */
class WaitQueue<K extends QueuedWait<K, T>, T> extends List<K> {
  readonly #source: { left(): void };

  constructor(source: { left(): void }) {
    super();
    this.#source = source;
  }

  override leave(taker: K): void {
    super.leave(taker);
    this.#source.left();
  }
}

/** How the owner of a source is told whether its operation keeps the process alive. */
export interface Hold {
  take(owner: object): void;
  release(owner: object): void;
}

/**
 * The sources that one part of `patch()` has made. Those that are not idle when the part
 * is restored have to stay cooperative.
 */
export class Inboxes {
  readonly #all = new Set<WeakRef<{ stayPatched(): void }>>();
  /** How many there may be until we look for those whose owners are gone unclosed. */
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

  /** The prototypes are about to be restored, and may be patched again later. */
  stayPatched(): void {
    for (const source of this.#all) source.deref()?.stayPatched();
  }

  #forget(): void {
    for (const source of this.#all) {
      if (source.deref() === undefined) this.#all.delete(source);
    }
  }
}

/** Keeps the properties that are in force, when the prototype's are restored. */
export function keepPatchedNames(
  owner: object,
  doors: readonly PropertyKey[],
): void {
  for (const name of doors) {
    if (!(name in owner)) continue;
    Object.defineProperty(owner, name, {
      value: (owner as Record<PropertyKey, unknown>)[name],
      writable: true,
      configurable: true,
    });
  }
}

/**
 * An operation that is repeated on one socket: who waits for it, and what it has brought
 * that nobody has taken.
 */
export abstract class Inbox<T, K extends QueuedWait<K, T>, R> {
  readonly #line = new WaitQueue<K, T>(this);
  readonly #sources: Inboxes;
  readonly #hold: Hold | null;
  readonly #reference = new WeakRef(this);
  #busy = false;
  #resting = false;
  /** The error of an operation that nobody waited for any more. */
  #failure: { readonly error: unknown } | null = null;
  protected closed = false;

  constructor(sources: Inboxes, hold: Hold | null = null) {
    this.#sources = sources;
    this.#hold = hold;
    sources.add(this.#reference);
  }

  /** Whether the original method would do as well. */
  get idle(): boolean {
    return !this.#busy && this.#line.first === null && !this.hasResult &&
      this.#failure === null;
  }

  /** Whether who asks is served at once. */
  get ready(): boolean {
    return this.hasResult || this.#failure !== null;
  }

  /** Whether nobody waits for the operation that is under way. */
  get isOrphaned(): boolean {
    return this.#busy && !this.isWaitedFor;
  }

  /** How many wait. */
  protected get waiting(): number {
    return this.#line.length;
  }

  /** Whether somebody waits who wants the process to be kept alive for it. */
  protected get isWaitedFor(): boolean {
    return this.#line.first !== null;
  }

  /** Whether the operation is under way. */
  get busy(): boolean {
    return this.#busy;
  }

  /** Whether it is, and nobody waits for it: then it doesn't keep the process alive. */
  get isUnreffed(): boolean {
    return this.#resting;
  }

  /** Whether the owner has to keep our methods, when the prototype's are restored. */
  protected get lasting(): boolean {
    return !this.idle;
  }

  /** Whether something was brought that nobody has taken. */
  protected abstract get hasResult(): boolean;
  /** Whose operation it is. */
  protected abstract get owner(): object;
  /** The methods of the owner that know of this. */
  protected abstract get patchedNames(): readonly PropertyKey[];
  /** Begins the operation for whoever is first in the line. */
  protected abstract begin(taker: K): Promise<R>;
  /** Keeps what the operation has brought. */
  protected abstract keep(result: R): void;
  /** Gives what there is. */
  protected abstract give(taker: K): void;
  /** Gets rid of what nobody has taken. */
  protected abstract discard(): void;

  /** The owner is about to be closed. */
  close(): void {
    this.closed = true;
    this.#failure = null;
    this.discard();
    this.#sources.delete(this.#reference);
  }

  /** Waits in the line; outside greenlets (`scope` is `null`) nothing interrupts it. */
  take(taker: K, scope: Scope | null): Wait<T> {
    this.#line.add(taker);
    const wait = taker.suspend(scope);
    this.joined();
    this.#serve();
    return wait;
  }

  /**
   * Its user wants the owner to keep the process alive.
   *
   * @returns Whether what the owner itself waits for may do so.
   */
  ref(): boolean {
    return !this.#resting;
  }

  /** Its user does not want it. */
  unref(): void {}

  /** Somebody is in the line who may not have been before. */
  protected joined(): void {
    if (this.#resting && this.isWaitedFor) this.#wakeUp();
  }

  /** Somebody was interrupted, and is in the line no more. */
  left(): void {
    if (!this.#busy || this.#resting || this.isWaitedFor) return;
    this.#resting = true;
    this.release();
  }

  #wakeUp(): void {
    this.#resting = false;
    this.retain();
  }

  /** Has the operation not keep the process alive. */
  protected release(): void {
    this.#hold?.release(this.owner);
  }

  /** Has it do so, if its user wants it. */
  protected retain(): void {
    this.#hold?.take(this.owner);
  }

  #serve(): void {
    for (let taker = this.#line.first; taker; taker = this.#line.first) {
      const failure = this.#failure;
      if (!this.hasResult && failure === null) return this.#operate(taker);
      this.#line.remove(taker);
      if (failure === null) {
        this.give(taker);
      } else {
        this.#failure = null;
        taker.throw(failure.error);
      }
    }
  }

  /** Keeps the methods of this one owner, when the prototype's are restored. */
  stayPatched(): void {
    if (this.lasting) keepPatchedNames(this.owner, this.patchedNames);
    else this.forget();
  }

  /** Nobody tells us any more what happens to the owner. */
  protected forget(): void {}

  #operate(taker: K): void {
    if (this.#busy) return;
    this.#busy = true;
    // In no context, as it goes on when its caller is interrupted, who may be dead then.
    current.clear(Inbox.#begin<T, K, R>, this, taker);
  }

  static #begin<T, K extends QueuedWait<K, T>, R>(
    this: void,
    source: Inbox<T, K, R>,
    taker: K,
  ): void {
    let operation: Promise<R>;
    try {
      operation = source.begin(taker);
    } catch (error) {
      operation = Promise.reject(error);
    }
    then(operation, source.#kept, source.#failed);
    source.left();
  }

  // Made once, and not for every operation.
  readonly #kept = (result: R): void => {
    noteLoopTurn();
    this.keep(result);
    this.#over();
  };

  readonly #failed = (error: unknown): void => {
    // Kept as well, as some come once only: after the reset of a connection there is
    // nothing but its end.
    if (!this.closed) this.#failure = { error };
    else this.#failAll(error);
    this.#over();
  };

  #over(): void {
    if (this.#resting) this.#wakeUp();
    this.#busy = false;
    this.#serve();
    // What has come before the owner was closed is for who waited, and nobody else.
    if (this.closed) this.discard();
  }

  #failAll(error: unknown): void {
    for (let taker = this.#line.shift(); taker; taker = this.#line.shift()) {
      taker.throw(error);
    }
  }
}

/** One `read`. */
export class Reader extends QueuedWait<Reader, number | null> {
  readonly buffer: Uint8Array;

  constructor(buffer: Uint8Array) {
    super();
    this.buffer = buffer;
  }
}

// deno-lint-ignore no-explicit-any -- whatever has such a method
type Read = (this: any, buffer: Uint8Array) => Promise<number | null>;
// deno-lint-ignore no-explicit-any -- whatever has such a method
type Write = (this: any, data: Uint8Array) => Promise<number>;

/** The bytes of what is read, in order, whoever asks for them. */
export class Bytes extends Inbox<number | null, Reader, number | null> {
  readonly #owner: object;
  readonly #read: Read;
  /** What is read into. */
  #buffer = new Uint8Array(0);
  /** What was read and not taken lies from here to there. */
  #start = 0;
  #end = 0;
  /** Whether the stream is at its end, and nobody was told. */
  #ended = false;
  /** Whether the stream of the owner waits in the line. */
  #streamWaits = false;
  #streamRests = false;

  constructor(
    sources: Inboxes,
    owner: object,
    read: Read,
    hold: Hold | null = null,
  ) {
    super(sources, hold);
    this.#owner = owner;
    this.#read = read;
  }

  /** Reads, whatever is kept and whoever waits. */
  protected readOn(buffer: Uint8Array): Promise<number | null> {
    return this.#read.call(this.#owner, buffer);
  }

  /** Reads for the stream of the owner: nothing interrupts it, but it may rest. */
  async readForStream(buffer: Uint8Array): Promise<number | null> {
    this.#streamWaits = true;
    try {
      return await this.take(new Reader(buffer), null);
    } finally {
      this.#streamWaits = false;
    }
  }

  /** Nobody waits for the stream. */
  restStream(): void {
    this.#streamRests = true;
    this.left();
  }

  /** The stream is about to be read. */
  resumeStream(): void {
    this.#streamRests = false;
    this.joined();
  }

  /** Whether nobody waits for the stream. */
  protected get streamRests(): boolean {
    return this.#streamRests;
  }

  protected override get isWaitedFor(): boolean {
    const resting = this.#streamWaits && this.#streamRests ? 1 : 0;
    return this.waiting > resting;
  }

  /** How many bytes were read that nobody has taken. */
  get length(): number {
    return this.#end - this.#start;
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

  protected override begin(reader: Reader): Promise<number | null> {
    // Somewhere to read to there must be, even if its buffer was transferred meanwhile.
    const most = Math.min(reader.buffer.length, MOST_READ) || 1;
    if (this.#buffer.length !== most) this.#buffer = view(this.#buffer, most);
    return this.readOn(this.#buffer);
  }

  protected override keep(count: number | null): void {
    this.#start = 0;
    this.#end = count ?? 0;
    this.#ended = count === null;
  }

  protected override give(reader: Reader): void {
    if (this.#ended) {
      this.#ended = false;
      return reader.switch(null);
    }
    const start = this.#start;
    const end = Math.min(start + reader.buffer.length, this.#end);
    copy(this.#buffer, start, end, reader.buffer);
    this.#start = end;
    reader.switch(end - start);
  }
}

/** Copies a few bytes one by one: a view for `set` costs as much. */
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
 * What is written to a connection: copies, as a write that is interrupted goes on, in its
 * place in the order, when its caller may already use the bytes for something else.
 */
export class Writes {
  readonly #owner: object;
  readonly #write: Write;
  readonly #isLoose: boolean;
  readonly #most: number;
  /** What is written from, if nothing else is on its way. */
  #buffer = new Uint8Array(0);
  /** Who waits for what is written from the buffer. */
  #writer: Suspension<number> | null = null;
  /** How many others are on their way. */
  #others = 0;

  /**
   * @param isLoose Whether a write may wait for somebody else for ever: then it does not
   * keep the process alive when its caller is interrupted.
   * @param most How much is written at once at the most.
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

  /** Whether something is on its way. */
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
    const writer = this.#writer = new Writer(begun);
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
    return operate(scope, written, left);
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
  readonly #begun: Begun | null;

  constructor(begun: Begun | null) {
    super();
    this.#begun = begun;
  }

  protected override undo(): void {
    this.#begun?.unref();
  }
}

/**
 * Memory for the copies of many: an operation that is over when it returns has let go of
 * it, and what is not over is left the memory that it has.
 */
export class Scratch {
  #bytes = new Uint8Array(0);

  /** Copies bytes: until the next call, unless they are left to whoever has them. */
  copy(bytes: Uint8Array): Uint8Array {
    const length = lengthOf(bytes);
    if (this.#bytes.length !== length) {
      this.#bytes = view(this.#bytes, length);
    }
    // Those that were transferred are none.
    if (length > 0) this.#bytes.set(bytes);
    return this.#bytes;
  }

  /** Leaves what was copied last to whoever has it. */
  leave(): void {
    this.#bytes = new Uint8Array(0);
  }
}

const getLength: (this: Uint8Array) => number = Object.getOwnPropertyDescriptor(
  Object.getPrototypeOf(Uint8Array.prototype),
  "length",
)!.get!;

/**
 * How many bytes there are, whatever an heir of the class says: what is copied has no more,
 * and behind it lies what others have written.
 */
export function lengthOf(bytes: Uint8Array): number {
  return getLength.call(bytes);
}

/** The memory of `buffer` at that length, or new memory if it is too small. */
function view(buffer: Uint8Array<ArrayBuffer>, length: number) {
  return buffer.buffer.byteLength < length
    ? new Uint8Array(length)
    : new Uint8Array(buffer.buffer, 0, length);
}
