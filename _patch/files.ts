/**
 * Open files and the standard streams, in the part `fs` of `patch()`.
 *
 * The runtime can't cancel a read. So an interrupted read goes on, and its bytes are not lost.
 * If the file has a position, the position is put back, as if nothing had been read. Bytes of
 * a terminal or a pipe are kept for the next read.
 *
 * The runtime does the asynchronous operations on one file one after the other, in the order
 * in which they began, and the synchronous ones at once. That is not enough for the position:
 * an operation that begins after a read has to wait until the read is over, as an interrupt of
 * the read puts the position back.
 *
 * @module
 */

import { bare, markHandled, then } from "../_base/language.ts";
import { byteStreamOf } from "../_hub/byte_streams.ts";
import { isObject } from "../_base/checks.ts";
import { callerOf } from "../_base/runtime.ts";
import { Begun } from "../_hub/begun.ts";
import { detached } from "./detached.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint } from "../_hub/suspension.ts";
import type { Wait } from "../_hub/suspension.ts";
import { getOriginal } from "../_base/properties.ts";
import { QueuedWait } from "../_hub/wait_queue.ts";
import { operate } from "../_hub/operation.ts";
import { titleOf } from "../_hub/waits.ts";
import { cooperate, cooperateRelease } from "./cooperate.ts";
import type { Patches } from "./patch_set.ts";
import {
  Bytes,
  Inbox,
  Inboxes,
  keepPatchedNames,
  Reader,
  Writes,
} from "../_hub/inbox.ts";

type File = Deno.FsFile;
// deno-lint-ignore no-explicit-any -- files and the standard streams
type Read = (this: any, buffer: Uint8Array) => Promise<number | null>;
// deno-lint-ignore no-explicit-any -- files and the standard streams
type ReadSync = (this: any, buffer: Uint8Array) => number | null;
// deno-lint-ignore no-explicit-any -- files and the standard streams
type Write = (this: any, data: Uint8Array) => Promise<number>;
// deno-lint-ignore no-explicit-any -- files and the standard streams
type Close = (this: any) => void;
type Lock = (this: File, exclusive?: boolean) => Promise<boolean | void>;
type LockSync = (this: File, exclusive?: boolean) => boolean | void;
type Unlock<T> = (this: File) => T;

/** The size of the largest buffer that is kept for a file, in bytes. */
const MOST_KEPT = 64 * 1024;
/** The bytes that a stream reads at once, as the runtime's own streams do. */
const CHUNK = 64 * 1024;

const NOTHING = new Uint8Array(0);

/** The methods of a file that stay patched while an operation is pending or bytes are kept. */
const PATCHED_NAMES = [
  "read",
  "readSync",
  "readable",
  "write",
  "writeSync",
  "seek",
  "seekSync",
  "close",
  Symbol.dispose,
];
const PATCHED_NAMES_OF_LOCKS = [
  "lock",
  "lockSync",
  "tryLock",
  "tryLockSync",
  "unlock",
  "unlockSync",
];

const inboxes = new Inboxes();

/** The reads of a file, and the bytes that are kept for them. */
type Reads = Position | KeptBytes;

const readsOf = new WeakMap<object, Reads>();
const writesOf = new WeakMap<object, Writes>();
const locksOf = new WeakMap<object, Locks>();
/** The stream that `readable` of each file has returned. */
const streamOf = new WeakMap<object, ReadableStream<Uint8Array>>();

/** Patches open files and the standard streams. */
export function patchFiles(patches: Patches): void {
  const file = Deno.FsFile.prototype;
  patchReads(patches, file, readsOfFile);
  patches.replace<Write>(file, "write", cooperativeWrite);
  patches.replace<File["seek"]>(file, "seek", cooperativeSeek);
  for (const name of ["seekSync", "writeSync"] as const) {
    patches.replace<(this: object) => number>(
      file,
      name,
      (original) =>
        function () {
          checkPosition(this, name);
          return Reflect.apply(original, this, arguments as never);
        },
    );
  }
  patches.replaceGetter<File["writable"]>(
    file,
    "writable",
    (original) =>
      function () {
        checkPosition(this, "get writable");
        return original.call(this);
      },
  );
  for (const name of ["truncate", "stat", "sync", "syncData", "utime"]) {
    patches.replace(file, name, (original) => cooperate(original));
  }
  for (const name of ["lock", "tryLock"]) {
    patches.replace<Lock>(file, name, cooperativeLock);
  }
  for (const name of ["lockSync", "tryLockSync"]) {
    patches.replace<LockSync>(file, name, lockingSync);
  }
  patches.replace<Unlock<Promise<void>>>(
    file,
    "unlock",
    (original) => unlocking(cooperateRelease(original)),
  );
  patches.replace<Unlock<void>>(file, "unlockSync", unlocking);

  patchReads(
    patches,
    Object.getPrototypeOf(Deno.stdin),
    (owner, read) =>
      owner === Deno.stdin ? new KeptBytes(inboxes, owner, read) : null,
    (read) => readingForProcess(read, patches),
  );
  for (const stream of [Deno.stdout, Deno.stderr]) {
    const prototype = Object.getPrototypeOf(stream);
    patches.replace<Write>(prototype, "write", cooperativeWrite);
  }
  patches.beforeRestore(() => inboxes.stayPatched());
}

/** Makes the reads of a file at its first read; returns `null` if it is no file. */
type FindReads = (owner: object, read: Read) => Reads | null;

function patchReads(
  patches: Patches,
  prototype: object,
  find: FindReads,
  wrap = (read: Read) => read,
): void {
  patches.replace<Read>(
    prototype,
    "read",
    (read) => wrap(cooperativeRead(read, find)),
  );
  patches.replace<ReadSync>(prototype, "readSync", keptReadSync);
  patches.replaceGetter(prototype, "readable", keptReadable);
  for (const name of ["close", Symbol.dispose]) {
    if (Object.hasOwn(prototype, name)) {
      patches.replace<Close>(prototype, name, closing);
    }
  }
}

/** A wait for an operation at the position of a file. They run one after the other. */
abstract class Turn extends QueuedWait<Turn, unknown> {
  /** Begins the operation. */
  abstract begin(): Promise<unknown>;

  /** Ends the wait with the operation's result. */
  end(value: unknown): void {
    this.switch(value);
  }

  /** Called with the operation's result if its caller was interrupted. */
  late(_value: unknown): void {}
}

/** An operation that goes on after an interrupt. */
class Other extends Turn {
  readonly begin: () => Promise<unknown>;
  readonly #call: string;

  constructor(begin: () => Promise<unknown>, call: string) {
    super();
    this.begin = begin;
    this.#call = call;
  }

  protected override get call(): string {
    return this.#call;
  }
}

/** A `read` of a file that has a position. */
class Reading extends Turn {
  readonly #position: Position;
  readonly #buffer: Uint8Array;
  /** The buffer to read into: the caller may reuse its own after an interrupt. */
  #bytes = NOTHING;

  constructor(position: Position, buffer: Uint8Array) {
    super();
    this.#position = position;
    this.#buffer = buffer;
  }

  protected override get call(): string {
    return "read";
  }

  override begin(): Promise<number | null> {
    this.#bytes = this.#position.memory(this.#buffer.length);
    return this.#position.readInto(this.#bytes);
  }

  override end(count: number | null): void {
    if (count === null) return this.switch(null);
    // The caller's buffer is shorter if it was transferred meanwhile.
    const fits = Math.min(count, this.#buffer.length);
    if (fits > 0) this.#buffer.set(this.#bytes.subarray(0, fits));
    this.late(count - fits);
    this.switch(fits);
  }

  override late(count: number | null): void {
    if (count !== null && count > 0) this.#position.giveBack(count);
  }
}

interface Outcome {
  readonly hasFailed: boolean;
  /** The result, or the error. */
  readonly value: unknown;
}

/** The operations at the position of a file, one after the other. */
class Position extends Inbox<unknown, Turn, Outcome> {
  readonly #file: object;
  readonly #read: Read;
  /** The operation in progress. */
  #turn: Turn | null = null;
  /** Its outcome, for its caller. */
  #outcome: Outcome | null = null;
  /** A buffer to read into. */
  #memory = NOTHING;

  constructor(file: object, read: Read) {
    super(inboxes);
    this.#file = file;
    this.#read = read;
  }

  /** Whether an operation whose caller was interrupted may still move the position. */
  get unsettled(): boolean {
    return this.#turn !== null && !this.#turn.isPending;
  }

  read(buffer: Uint8Array, scope: Scope | null): Wait<number | null> {
    return this.take(new Reading(this, buffer), scope) as Wait<number | null>;
  }

  /** Returns a buffer, for one read at a time. */
  memory(length: number): Uint8Array<ArrayBuffer> {
    if (length > MOST_KEPT) return new Uint8Array(length);
    if (this.#memory.length < length) this.#memory = new Uint8Array(length);
    return this.#memory.subarray(0, length);
  }

  readInto(bytes: Uint8Array): Promise<number | null> {
    return this.#read.call(this.#file, bytes);
  }

  /** Puts the position back by a number of bytes. */
  giveBack(count: number): void {
    try {
      move(this.#file, -count);
    } catch {
      // The file was closed meanwhile.
    }
  }

  protected override get hasResult(): boolean {
    return this.#outcome !== null;
  }

  protected override get owner(): object {
    return this.#file;
  }

  protected override get patchedNames(): readonly PropertyKey[] {
    return PATCHED_NAMES;
  }

  protected override async begin(turn: Turn): Promise<Outcome> {
    this.#turn = turn;
    try {
      return { hasFailed: false, value: await turn.begin() };
    } catch (error) {
      // After a close all waits throw, as the runtime ends all reads then.
      if (this.closed) throw error;
      return { hasFailed: true, value: error };
    }
  }

  protected override keep(outcome: Outcome): void {
    const turn = this.#turn!;
    this.#turn = null;
    // The operation's wait is the first in the queue, unless it was interrupted.
    if (turn.isPending) this.#outcome = outcome;
    else if (!outcome.hasFailed) turn.late(outcome.value);
  }

  protected override give(turn: Turn): void {
    const outcome = this.#outcome!;
    this.#outcome = null;
    if (outcome.hasFailed) turn.throw(outcome.value);
    else turn.end(outcome.value);
  }

  protected override discard(): void {}
}

/** The bytes of a terminal, a pipe or a device, which have no position to put back. */
export class KeptBytes extends Bytes {
  readonly #begun = new Begun();

  protected override get patchedNames(): readonly PropertyKey[] {
    return PATCHED_NAMES;
  }

  protected override readOn(buffer: Uint8Array): Promise<number | null> {
    return this.#begun.watch(() => super.readOn(buffer));
  }

  protected override release(): void {
    this.#begun.unref();
  }

  protected override retain(): void {
    this.#begun.ref();
  }

  read(buffer: Uint8Array, scope: Scope | null): Wait<number | null> {
    return this.take(new Reader(buffer), scope);
  }

  /** Reads bytes that are kept. */
  readSync(buffer: Uint8Array): number | null {
    const reader = new Reader(buffer);
    markHandled(this.take(reader, null));
    if (reader.state === "thrown") throw reader.value;
    return reader.value as number | null;
  }
}

function readsOfFile(file: object, read: Read): Reads | null {
  try {
    return hasPosition(file)
      ? new Position(file, read)
      : new KeptBytes(inboxes, file, read);
  } catch {
    // The original throws its own error for this.
    return null;
  }
}

/**
 * Whether a file has a position, as a file on a disk has.
 *
 * @throws {TypeError} If it is not a file.
 */
function hasPosition(file: object): boolean {
  try {
    move(file, 0);
  } catch (error) {
    if (error instanceof TypeError) throw error;
    return false;
  }
  return !isDevice(file);
}

/** Whether a write may wait for a reader, as with a pipe. */
function mayStall(file: object): boolean {
  try {
    return !hasPosition(file);
  } catch {
    return true; // A standard stream, which may be anything.
  }
}

/** Whether it is a device, which accepts a position and ignores it. */
function isDevice(file: object): boolean {
  try {
    const stat = getOriginal(Deno.FsFile.prototype, "statSync");
    return stat.call(file as File).isCharDevice === true;
  } catch {
    // `statSync` needs a permission, which may have been revoked.
    return false;
  }
}

/** Moves the position of a file by a number of bytes. */
function move(file: object, by: number): void {
  const seek = getOriginal(Deno.FsFile.prototype, "seekSync");
  seek.call(file as File, by, Deno.SeekMode.Current);
}

function cooperativeRead(original: Read, find: FindReads): Read {
  return function (buffer) {
    const scope = interruptibleScope();
    let reads = readsOf.get(this) ?? null;
    const asBefore = scope === null && (reads === null || reads.isEmpty);
    if (asBefore || !hasRoom(buffer)) return original.call(this, buffer);
    if (reads === null && isObject(this)) reads = find(this, original);
    if (reads === null) return original.call(this, buffer);
    const due = checkpoint(scope);
    if (due !== null) return due;
    readsOf.set(this, reads);
    return reads.read(buffer, scope);
  };
}

/**
 * Makes `process.stdin` read outside greenlets. It reads for all its listeners, so an interrupt
 * of the greenlet that added the first listener must not destroy it, which ends the process.
 */
function readingForProcess(read: Read, patches: Patches): Read {
  let hasPatchedEvents = false;
  return function (buffer) {
    if (interruptibleScope() === null || !isAskedByProcess()) {
      return read.call(this, buffer);
    }
    if (!hasPatchedEvents && !patches.isOver) patchEvents(patches);
    hasPatchedEvents = true;
    // An `async` function makes a native promise, which the caller's scope can await.
    return runDetached(async () => await read.call(this, buffer));
  };
}

/** Whether the caller is the `stdin` of `node:process`. */
function isAskedByProcess(): boolean {
  // Only the stack tells. Above us are the patched function and its caller.
  return /\b_read \(ext:deno_node\//.test(callerOf(2));
}

/**
 * Makes the listeners of `process.stdin` run outside greenlets, as those of sockets do, once
 * it reads. It outlives the greenlet that began to read.
 */
function patchEvents(patches: Patches): void {
  patches.replace(globalThis.process.stdin, "push", detached);
}

function hasRoom(buffer: unknown): boolean {
  return buffer instanceof Uint8Array && buffer.length > 0;
}

function keptReadSync(original: ReadSync): ReadSync {
  return function (buffer) {
    const reads = readsOf.get(this);
    if (reads instanceof KeptBytes && hasRoom(buffer)) {
      if (reads.ready) return reads.readSync(buffer);
      if (reads.state === "orphaned") throw busy("readSync");
    }
    checkPosition(this, "readSync");
    return original.call(this, buffer);
  };
}

/** Throws if a synchronous operation would find a wrong position. */
function checkPosition(file: unknown, what: string): void {
  const reads = readsOf.get(file as object);
  if (reads instanceof Position && reads.unsettled) throw busy(what);
}

function busy(what: string): Error {
  return new Deno.errors.Busy(
    `Cannot ${what} as an interrupted read is still in progress: await an asynchronous read, write or seek first`,
  );
}

function keptReadable(
  original: (this: unknown) => ReadableStream<Uint8Array>,
): (this: unknown) => ReadableStream<Uint8Array> {
  return function () {
    const reads = readsOf.get(this as object);
    const stream = streamOf.get(this as object) ??
      (reads === undefined || reads.isEmpty
        ? original.call(this)
        : readableOf(this as Partial<Disposable>, reads));
    streamOf.set(this as object, stream);
    return stream;
  };
}

/** Makes the stream of a file. It does what the runtime's stream does, and reads kept bytes. */
function readableOf(
  file: Partial<Disposable>,
  reads: Reads,
): ReadableStream<Uint8Array> {
  // Standard input has no `dispose` and stays open.
  const close = () => file[Symbol.dispose]?.();
  if (reads instanceof KeptBytes) {
    return byteStreamOf(() => reads, close, (error) => error);
  }
  const source: UnderlyingByteSource = bare({
    type: "bytes",
    autoAllocateChunkSize: CHUNK,
    async pull(controller) {
      const { buffer, byteOffset, byteLength } = controller.byobRequest!.view!;
      try {
        const bytes = new Uint8Array(buffer, byteOffset, byteLength);
        const count = await reads.read(bytes, null);
        if (count === null) {
          close();
          controller.close();
        }
        controller.byobRequest!.respond(count ?? 0);
      } catch (error) {
        controller.error(error);
        close();
      }
    },
    cancel: close,
  });
  return new ReadableStream(source);
}

/** Runs an operation at the position of a file, after the operations that began before. */
function inTurn<T>(
  file: object,
  begin: () => Promise<T>,
  scope: Scope | null,
  name: string,
): Promise<T> {
  const reads = readsOf.get(file);
  if (reads instanceof Position && !reads.isEmpty) {
    return reads.take(new Other(begin, name), scope) as Promise<T>;
  }
  return scope === null
    ? begin()
    : operate(scope, begin(), () => `${name} of ${titleOf(file)}`);
}

function cooperativeSeek(original: File["seek"]): File["seek"] {
  return function (this: File) {
    const scope = interruptibleScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    const begin = () => Reflect.apply(original, this, arguments as never);
    return inTurn(this, begin, scope, "seek");
  };
}

function cooperativeWrite(original: Write): Write {
  const write: Write = function (data) {
    return inTurn(this, () => original.call(this, data), null, "write");
  };
  return function (data) {
    const scope = interruptibleScope();
    const isOurs = data instanceof Uint8Array && isObject(this);
    if (scope === null || !isOurs) return write.call(this, data);
    const due = checkpoint(scope);
    if (due !== null) return due;
    let writes = writesOf.get(this);
    if (writes === undefined) {
      // A file takes all the bytes of a write, and programs rely on that.
      writes = new Writes(this, write, mayStall(this), Infinity);
      writesOf.set(this, writes);
    }
    return writes.write(data, scope);
  };
}

function closing(original: Close): Close {
  return function () {
    const reads = readsOf.get(this);
    // Later calls find a closed file.
    readsOf.delete(this);
    reads?.close();
    return original.call(this);
  };
}

/** The lock of a file. If it is granted after its caller was interrupted, it is released. */
class Locks {
  readonly #file: File;
  readonly #reference = new WeakRef(this);
  /** The number of pending requests. */
  #asking = 0;
  /** Whether a caller holds the lock. */
  #held = false;
  /** Whether the lock was granted to a caller that was interrupted. */
  #late = false;

  constructor(file: File) {
    this.#file = file;
  }

  /** Requests the lock. */
  ask<T>(begin: () => Promise<T>, scope: Scope | null): Promise<T> {
    let left = false;
    const begun = new Begun();
    const promise = scope === null ? begin() : begun.watch(begin);
    if (this.#asking++ === 0) inboxes.add(this.#reference);
    const over = (granted: unknown) => {
      if (--this.#asking === 0) inboxes.delete(this.#reference);
      if (granted !== false) {
        if (left) this.#late = true;
        else this.#held = true;
      }
      this.#giveBack();
    };
    then(promise, over, () => over(false));
    return scope === null
      ? promise
      : operate(scope, promise, () => `lock of ${titleOf(this.#file)}`, () => {
        left = true;
        begun.unref();
      });
  }

  /** Notes that a caller got the lock, or released it. */
  set held(held: boolean) {
    this.#held = held;
    this.#late = false;
  }

  /** Releases the lock if no caller holds it or is about to get it. */
  #giveBack(): void {
    if (!this.#late || this.#held || this.#asking > 0) return;
    this.#late = false;
    try {
      getOriginal(Deno.FsFile.prototype, "unlockSync").call(this.#file);
    } catch {
      // The file was closed meanwhile, which releases the lock.
    }
  }

  stayPatched(): void {
    keepPatchedNames(this.#file, PATCHED_NAMES_OF_LOCKS);
  }
}

function locksOfFile(file: File): Locks {
  let locks = locksOf.get(file);
  if (locks === undefined) locksOf.set(file, locks = new Locks(file));
  return locks;
}

function cooperativeLock(original: Lock): Lock {
  return function () {
    const scope = interruptibleScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    const begin = () => Reflect.apply(original, this, arguments as never);
    return isObject(this) ? locksOfFile(this).ask(begin, scope) : begin();
  };
}

function lockingSync(original: LockSync): LockSync {
  return function () {
    const granted = Reflect.apply(original, this, arguments as never);
    if (granted !== false) locksOfFile(this).held = true;
    return granted;
  };
}

function unlocking<T>(original: Unlock<T>): Unlock<T> {
  return function () {
    const locks = locksOf.get(this);
    if (locks !== undefined) locks.held = false;
    return original.call(this);
  };
}
