/**
 * Reads of a `FileHandle` of `node:fs/promises`, for the part `node` of `patch()`.
 *
 * The runtime can't cancel a read, and the position of a `FileHandle` can't be put back. So an
 * interrupted read goes on, and its bytes are kept for the next read of the handle. A read with a
 * position of its own moves nothing, so there is nothing to keep.
 *
 * @module
 */

import { getBuiltin } from "../_base/builtin.ts";
import { isObject } from "../_base/checks.ts";
import { findSymbol } from "../_base/runtime.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { type Bytes, BytesTaker, Inboxes } from "../_hub/inbox.ts";
import { checkpoint, type Settled } from "../_hub/suspension.ts";
import { cooperate, cooperateRelease } from "./cooperate.ts";
import { KeptBytes } from "./files.ts";
import { abortError } from "./foreign.ts";
import type { Patches } from "./patch_set.ts";

// deno-lint-ignore no-explicit-any -- whatever it takes
type Asking<T = unknown> = (this: Handle, ...args: any[]) => Promise<T>;

/** `FileHandle`, as far as it is used here. */
interface Handle {
  readonly fd: number;
}

interface ReadResult {
  readonly bytesRead: number;
}

/** The bytes that one operation reads of something whose size is not known. */
const CHUNK = 64 * 1024;

/** The size of the largest file that `readFile` reads, in bytes. */
const LARGEST = 2 ** 31 - 1;

/** The methods of a handle that stay patched while bytes are kept. */
const PATCHED_NAMES = ["read", "readv", "readFile", "close"];

const inboxes = new Inboxes();
const readsOf = new WeakMap<object, HandleBytes>();

/** Patches the methods of a `FileHandle` that read, and `close`. */
export function patchHandleReads(patches: Patches, prototype: object): void {
  // Taken before it is replaced: the others read by it as well.
  const read: Asking<ReadResult> = Reflect.get(prototype, "read");
  const replace = (name: string, wrap: (original: Asking) => Asking) =>
    patches.replaceIfAllowed<Asking>(prototype, name, wrap);
  replace("read", (original) => keptReading(original, read, askedByRead));
  replace("readv", (original) => keptReading(original, read, askedByReadv));
  replace(
    "readFile",
    (original) => keptReading(original, read, askedByReadFile),
  );
  replace("close", (original) => {
    const close = cooperateRelease(original);
    return function () {
      readsOf.get(this)?.close();
      readsOf.delete(this);
      return close.call(this);
    };
  });
  patches.beforeRestore(() => inboxes.stayPatched());
}

/** What a call reads; `null` if the runtime's own function is to be called. */
type Asked = (
  args: readonly unknown[],
  handle: Handle,
) => BytesTaker<unknown> | null;

function keptReading(
  original: Asking,
  read: Asking<ReadResult>,
  asked: Asked,
): Asking {
  const cooperative = cooperate(original);
  return function (...args) {
    const scope = interruptibleScope();
    let reads = readsOf.get(this) ?? null;
    if (scope === null && (reads === null || reads.isEmpty)) {
      return Reflect.apply(original, this, args);
    }
    const taker = isObject(this) ? asked(args, this) : null;
    if (taker === null) return Reflect.apply(cooperative, this, args);
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (reads === null) {
      reads = new HandleBytes(this, read);
      readsOf.set(this, reads);
    }
    return reads.take(taker, scope);
  };
}

/** The reads of a handle, and the bytes that are kept for them. */
class HandleBytes extends KeptBytes {
  /** Whether it is a file on a disk, whose reads give as many bytes as there are. */
  readonly isFile: boolean;
  readonly #use: Use;

  constructor(handle: Handle, read: Asking<ReadResult>) {
    const use = new Use(handle);
    super(inboxes, handle, async (buffer) => {
      const { length } = buffer;
      const given = await read.call(use.handle, buffer, 0, length, null);
      return given.bytesRead || null;
    });
    this.#use = use;
    this.isFile = sizeOf(handle) !== null;
  }

  protected override get patchedNames(): readonly PropertyKey[] {
    return PATCHED_NAMES;
  }

  protected override get mostRead(): number {
    return this.isFile ? Infinity : super.mostRead;
  }

  protected override release(): void {
    super.release();
    this.#use.release();
  }

  protected override retain(): void {
    super.retain();
    this.#use.retain();
  }
}

/** The size of the file of a handle; `null` if it is no file on a disk, or closed. */
function sizeOf(handle: Handle): number | null {
  try {
    const stat = getBuiltin("node:fs").fstatSync(handle.fd);
    return stat.isFile() ? stat.size : null;
  } catch {
    return null;
  }
}

/**
 * A handle as its reads use it. `close()` of a handle waits until nothing uses it. But a read that
 * no wait needs any more may wait for ever, as for a pipe, so it does not hold up the `close()`.
 */
class Use {
  readonly handle: Handle;
  /** Says that the handle is used, and that it is not; `null` in a runtime that has changed. */
  readonly #ref: (() => void) | null = null;
  readonly #unref: (() => void) | null = null;
  #isRunning = false;
  #isHeld = false;

  constructor(handle: Handle) {
    this.handle = handle;
    const prototype = Object.getPrototypeOf(handle);
    const ref = findSymbol(prototype, "kRef");
    const unref = findSymbol(prototype, "kUnref");
    if (ref === undefined || unref === undefined) return;
    this.#ref = () => Reflect.get(handle, ref).call(handle);
    this.#unref = () => Reflect.get(handle, unref).call(handle);
    this.handle = Object.create(handle, {
      fd: { get: () => handle.fd },
      [ref]: { value: () => this.#begin() },
      [unref]: { value: () => this.#end() },
    });
  }

  #begin(): void {
    this.#isRunning = true;
    this.retain();
  }

  #end(): void {
    this.#isRunning = false;
    this.release();
  }

  retain(): void {
    if (!this.#isRunning || this.#isHeld) return;
    this.#isHeld = true;
    this.#ref?.();
  }

  release(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#unref?.();
  }
}

/** One `read` or `readv`. */
class HandleReader extends BytesTaker<object> {
  readonly #views: readonly Uint8Array[];
  readonly #result: (bytesRead: number) => object;
  readonly #length: number;
  /** Whether an operation was begun for it. */
  #hasAsked = false;

  constructor(
    views: readonly Uint8Array[],
    result: (bytesRead: number) => object,
  ) {
    super();
    this.#views = views;
    this.#result = result;
    this.#length = views.reduce((sum, { length }) => sum + length, 0);
  }

  override room(kept: Bytes): number {
    this.#hasAsked = true;
    return this.#length - kept.length;
  }

  /** Kept bytes of a file are not enough: where there is more, a read gives as much as it can. */
  override isServedBy(kept: HandleBytes): boolean {
    if (kept.ended || kept.length >= this.#length) return true;
    const hasRead = this.#hasAsked && !kept.busy;
    return kept.length > 0 && (hasRead || !kept.isFile);
  }

  override takeFrom(kept: Bytes): object {
    let count = 0;
    this.#views.forEach((view) => count += kept.copyTo(view));
    if (kept.length === 0) kept.takeEnd();
    // Lets go of memory for an unusually large read.
    kept.drop(0);
    return this.#result(count);
  }
}

/** One `readFile`: all bytes up to the end. */
class WholeReader extends BytesTaker<string | Uint8Array> {
  readonly #handle: Handle;
  readonly #encoding: BufferEncoding | null;
  /** The caller's signal. */
  readonly #signal: AbortSignal | null;

  constructor(
    handle: Handle,
    encoding: BufferEncoding | null,
    signal: AbortSignal | null,
  ) {
    super();
    this.#handle = handle;
    this.#encoding = encoding;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#abort);
  }

  protected override get call(): string {
    return "readFile";
  }

  override room(kept: Bytes): number {
    return Math.max((sizeOf(this.#handle) ?? 0) - kept.length, CHUNK);
  }

  override isServedBy(kept: Bytes): boolean {
    return kept.ended;
  }

  override takeFrom(kept: Bytes): string | Uint8Array {
    const { buffer, byteOffset, byteLength } = kept.takeBytes(kept.length);
    kept.takeEnd();
    const { Buffer } = getBuiltin("node:buffer");
    const bytes = Buffer.from(buffer, byteOffset, byteLength);
    return this.#encoding === null ? bytes : bytes.toString(this.#encoding);
  }

  readonly #abort = (): void => {
    if (!this.isPending) return;
    this.undo(undefined);
    this.throw(abortError(this.#signal!.reason));
  };

  override settle(state: Settled, value: unknown): void {
    this.#signal?.removeEventListener("abort", this.#abort);
    super.settle(state, value);
  }

  protected override undo(error: unknown): void {
    // A wait that loses a race ends without `settle`.
    this.#signal?.removeEventListener("abort", this.#abort);
    super.undo(error);
  }
}

// Arguments. What is not as usual is for the runtime to judge.

/** Whether a position stands for that of the file. */
function isCurrent(position: unknown): boolean {
  return position === undefined || position === null || position === -1 ||
    position === -1n;
}

function askedByRead(args: readonly unknown[]): HandleReader | null {
  const [first, second] = args;
  let [buffer, offset, length, position] = args;
  if (!(first instanceof Uint8Array)) {
    const options = first ?? {};
    if (!isObject(options)) return null;
    ({ buffer, offset, length, position } = options as Record<string, unknown>);
    buffer ??= getBuiltin("node:buffer").Buffer.alloc(16 * 1024);
  } else if (isObject(second)) {
    ({ offset, length, position } = second as Record<string, unknown>);
  }
  offset ??= 0;
  if (!ArrayBuffer.isView(buffer) || !isCurrent(position)) return null;
  if (!isCount(offset)) return null;
  length ??= buffer.byteLength - offset;
  const fits = isCount(length) && length > 0 &&
    offset + length <= buffer.byteLength;
  if (!fits) return null;
  const view = viewOf(buffer).subarray(offset, offset + (length as number));
  return new HandleReader([view], (bytesRead) => ({ buffer, bytesRead }));
}

function askedByReadv(args: readonly unknown[]): HandleReader | null {
  const [buffers, position] = args;
  if (!Array.isArray(buffers) || !isCurrent(position)) return null;
  if (!buffers.every((buffer) => ArrayBuffer.isView(buffer))) return null;
  const views = buffers.map(viewOf);
  if (!views.some(({ length }) => length > 0)) return null;
  return new HandleReader(views, (bytesRead) => ({ bytesRead, buffers }));
}

function askedByReadFile(
  args: readonly unknown[],
  handle: Handle,
): WholeReader | null {
  const given = args[0] ?? null;
  const options = typeof given === "string" ? { encoding: given } : given ?? {};
  if (!isObject(options)) return null;
  const { encoding = null, signal = null } = options as {
    encoding?: BufferEncoding | null;
    signal?: AbortSignal | null;
  };
  const isKnown = encoding === null ||
    getBuiltin("node:buffer").Buffer.isEncoding(encoding);
  if (!isKnown || (sizeOf(handle) ?? 0) > LARGEST) return null;
  const isUsable = signal === null ||
    signal instanceof AbortSignal && !signal.aborted;
  return isUsable ? new WholeReader(handle, encoding, signal) : null;
}

/** Whether a value is a `FileHandle`. */
export function isHandle(
  value: unknown,
): value is Handle & { readFile(options: unknown): Promise<unknown> } {
  return isObject(value) && "readableWebStream" in value;
}

/**
 * Whether a call of a function of `node:fs` moves the position of a file on a disk. It takes bytes
 * that can't be given back, and does not take long.
 *
 * @param args The arguments, with the callback.
 */
export function takesBytes(name: string, args: readonly unknown[]): boolean {
  const fd = args[0];
  if (typeof fd !== "number") return false;
  const last = args.at(-2);
  const isOptions = isObject(last) && !ArrayBuffer.isView(last);
  let position: unknown;
  if (name === "readv") position = args.length > 3 ? args[2] : undefined;
  else if (name === "read" && args.length === 6) position = args[4];
  else if (name === "read" && isOptions) {
    position = Reflect.get(last, "position");
  } else if (name !== "read" && name !== "readFile") return false;
  return isCurrent(position) && sizeOf({ fd }) !== null;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function viewOf(
  { buffer, byteOffset, byteLength }: ArrayBufferView,
): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
