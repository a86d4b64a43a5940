/**
 * Reads of streams that an interrupt can take back.
 *
 * A read for which there is no chunk yet is a request in a queue of its reader. The runtime can
 * take back requests only in `releaseLock()`, and all at once; their chunks stay in the stream.
 * So we put our wait into the queue in place of the request. When the stream hands out a chunk,
 * the wait gets it directly. When the wait is interrupted before, it leaves the queue, by the
 * rules of `releaseLock()`. No chunk is kept here: it stays in the stream for the next read,
 * which may be one by the runtime itself.
 *
 * @module
 */

import { callOf } from "../_hub/waits.ts";
import { markHandled, property } from "../_base/language.ts";
import { Suspension } from "../_hub/suspension.ts";
import { calls, giveScope } from "./streams_scopes.ts";
import { findSource, leftAlone } from "./streams_rest.ts";
import { get, type Queue, set, slots } from "./streams_slots.ts";

/** The result of a read. */
export type ReadResult = { value: unknown; done: boolean };

/** A request for a chunk. The stream calls one of its methods. */
interface ReadRequest {
  chunkSteps(chunk: unknown): void;
  closeSteps(chunk?: unknown): void;
  errorSteps(error: unknown): void;
}

/** A buffer for the source of a byte stream to write to, for a reader of a certain type. */
interface PullInto {
  readonly buffer: ArrayBuffer;
  byteOffset: number;
  byteLength: number;
  bytesFilled: number;
  elementSize: number;
  minimumFill: number;
  viewConstructor: unknown;
  readerType: "default" | "byob" | "none";
}

/** The reads of a reader that wait for a chunk, in order. */
export type Requests = Queue<ReadRequest>;

// deno-lint-ignore no-explicit-any -- readers and iterators
export type ReadMethod = (this: any, ...args: any[]) => Promise<ReadResult>;

/** Returns the waiting reads of a reader; `undefined` if it is no reader of this kind. */
export function requestsOf(
  reader: unknown,
  kind: "readRequests" | "readIntoRequests",
): Requests | undefined {
  return get(reader, slots[kind]);
}

/** Returns the reader of a stream's iterator; `undefined` if it is no such iterator. */
export function readerOf(
  iterator: unknown,
): ReadableStreamDefaultReader | undefined {
  return get(iterator, slots.reader);
}

/** Whether an iterator was made with `preventCancel`. */
export function preventsCancel(iterator: unknown): boolean {
  return get(iterator, slots.preventCancel);
}

/** Whether a `next()` of the reader's iterator can begin at once. */
export function isFree(
  reader: ReadableStreamDefaultReader,
  requests: Requests,
): boolean {
  if (requests.size > 0 || get(reader, slots.stream) === undefined) {
    return false;
  }
  // The runtime may still have the last `next()` as pending.
  set(reader, slots.iteratorNext, null);
  return true;
}

/** The queue in which the next request is replaced, its reader, and the class to replace it. */
let expectedIn: Requests | null = null;
let expectedOf: object;
let expectedKind: typeof Read;
/** The count of calls at that time: a function of the stream must not use the replacement. */
let expectedBefore: number;
/** The read that has replaced the request. */
let begun: Read | null = null;

/** Replaces the queue's own method. */
function enqueue(this: Requests, request: ReadRequest): unknown {
  if (expectedIn === this && calls === expectedBefore) {
    expectedIn = null;
    request = begun = new expectedKind(expectedOf, this, request);
  }
  return slots.enqueue.call(this, request);
}

/**
 * Begins a read.
 *
 * @returns The read if it has to wait; otherwise the promise of its result.
 */
export function beginRead(
  kind: typeof Read,
  reader: object,
  requests: Requests,
  original: ReadMethod,
  self: unknown,
  args: ArrayLike<unknown>,
): Read | Promise<ReadResult> {
  // The stream may call its source, which may begin another read in this call.
  const before = begun;
  begun = null;
  expectedIn = requests;
  expectedOf = reader;
  expectedKind = kind;
  expectedBefore = calls;
  let read: Read | null;
  let promise: Promise<ReadResult>;
  try {
    promise = Reflect.apply(original, self, args);
  } finally {
    expectedIn = null;
    read = begun;
    begun = before;
  }
  if (read === null) return promise;
  markHandled(promise);
  adopt(reader);
  return read;
}

/** Whether an interrupted read has ever left a request at a source. */
let hasLeft = false;

/**
 * Lets the first default read take the buffer that an interrupted read has left at the source.
 * The runtime would put the bytes of that buffer into the stream, and would hand them out only
 * when more bytes come.
 */
export function adopt(reader: unknown): void {
  if (hasLeft) adoptPull(reader);
}

function adoptPull(reader: unknown): void {
  const size = requestsOf(reader, "readRequests")?.size;
  const pulls = pullsOf(controllerOf(reader));
  if (size !== 1 || pulls === undefined || pulls.size === 0) return;
  const pull = pulls.peek();
  if (pull.readerType !== "none") return;
  pull.readerType = "default";
  pull.elementSize = pull.minimumFill = 1;
  pull.viewConstructor = Uint8Array;
  // Removes the buffers that the runtime has added for this read.
  edit(pulls, (pulls) => pulls.splice(1));
}

/** Makes it possible to replace the reads of a reader. */
export function prepare(reader: object, requests: Requests): void {
  if (requests.enqueue === enqueue) return;
  requests.enqueue = enqueue;
  const stream = streamOf(reader);
  // A reader that was released has no stream.
  if (stream === undefined) return;
  giveScope(stream);
  findSource(stream);
}

/** Returns the stream of a reader. */
export function streamOf(reader: unknown): ReadableStream | undefined {
  return get(reader, slots.stream);
}

/** A read that waits for its chunk. */
export class Read extends Suspension<ReadResult> implements ReadRequest {
  readonly reader: object;
  readonly #requests: Requests;
  /** The runtime's own request. */
  protected readonly request: ReadRequest;

  constructor(reader: object, requests: Requests, request: ReadRequest) {
    super();
    this.reader = reader;
    this.#requests = requests;
    this.request = request;
  }

  chunkSteps(chunk: unknown): void {
    this.request.chunkSteps(chunk);
    this.switch({ value: chunk, done: false });
  }

  closeSteps(chunk?: unknown): void {
    this.request.closeSteps(chunk);
    this.switch({ value: chunk, done: true });
  }

  errorSteps(error: unknown): void {
    this.request.errorSteps(error);
    this.throw(error);
  }

  override describe(): string {
    return callOf(this.reader, "read()");
  }

  protected override undo(_error: unknown): void {
    this.leaveQueue();
  }

  /** Removes the read from the queue, and leaves its buffer at the source to later reads. */
  protected leaveQueue(): void {
    this.#leaveQueue();
    leftAlone(streamOf(this.reader));
  }

  #leaveQueue(): void {
    let place = -1;
    edit(this.#requests, (requests) => {
      place = requests.indexOf(this);
      if (place >= 0) requests.splice(place, 1);
    });
    if (place < 0) return;
    const controller = controllerOf(this.reader);
    const pulls = pullsOf(controller);
    if (pulls === undefined || pulls.size === 0) return;
    edit(pulls, (pulls) => {
      // The buffers are in the order of the requests, after one whose request has left.
      if (pulls[0]!.readerType === "none") place++;
      const pull = pulls[place];
      if (pull === undefined) return;
      if (pull.bytesFilled > 0) giveBack(controller, pull);
      // The source may be writing to the first buffer: its bytes go into the stream.
      if (place === 0) {
        pull.readerType = "none";
        hasLeft = true;
        controller.close = closeBehind;
      } else pulls.splice(place, 1);
    });
  }
}

function controllerOf(reader: unknown): ReadableByteStreamController {
  return get(get(reader, slots.stream), slots.controller);
}

function pullsOf(
  controller: ReadableByteStreamController,
): Queue<PullInto> | undefined {
  return get(controller, slots.pendingPullIntos);
}

function edit<T>(queue: Queue<T>, change: (values: T[]) => void): void {
  const values = Array.from({ length: queue.size }, () => queue.dequeue());
  change(values);
  values.forEach((value) => queue.enqueue(value));
}

// The rest is for reads of a minimal number of bytes: `read(view, { min })`.

/**
 * Puts bytes back into the stream that were too few for their read. The runtime would keep them
 * in the buffer until more come, and would lose them at the end of the stream.
 */
function giveBack(
  controller: ReadableByteStreamController,
  pull: PullInto,
): void {
  // The source has transferred the buffer, to write to it elsewhere.
  if (pull.buffer.detached) return;
  const { byteOffset, bytesFilled } = pull;
  const { buffer } = new Uint8Array(pull.buffer, byteOffset, bytesFilled)
    .slice();
  pull.byteOffset += bytesFilled;
  pull.byteLength -= bytesFilled;
  pull.bytesFilled = 0;
  const size = get(controller, slots.queueTotalSize);
  set(controller, slots.queueTotalSize, size + bytesFilled);
  get(controller, slots.queue)
    .enqueue({ buffer, byteOffset: 0, byteLength: bytesFilled });
}

/** Whether there are bytes, and the source has a buffer that no read waits for. */
function hasBytesBehind(controller: ReadableByteStreamController): boolean {
  const pulls = pullsOf(controller);
  return pulls !== undefined && pulls.size > 0 &&
    pulls.peek().readerType === "none" &&
    get(controller, slots.queueTotalSize) > 0;
}

/**
 * Whether there are bytes, and yet a default read waits: the runtime hands out the bytes of a
 * buffer without a read only when more bytes come.
 */
function hasReadsBehind(controller: ReadableByteStreamController): boolean {
  const reader = readerOf(get(controller, slots.stream));
  const requests = requestsOf(reader, "readRequests");
  return requests !== undefined && requests.size > 0 &&
    get(controller, slots.queueTotalSize) > 0;
}

/**
 * Replaces `close`. The source may call `close()` and then `byobRequest.respond(0)`, which the
 * runtime can't handle if there are bytes. And a read may wait that would never get the bytes.
 */
function closeBehind(this: ReadableByteStreamController): void {
  const { close, enqueue } = ReadableByteStreamController.prototype;
  Reflect.deleteProperty(this, "close");
  const isBehind = hasBytesBehind(this);
  if (!isBehind && !hasReadsBehind(this)) return close.call(this);
  const queue: Queue<Uint8Array<ArrayBuffer>> = get(this, slots.queue);
  const rests = Array.from({ length: queue.size }, () => queue.dequeue());
  set(this, slots.queueTotalSize, 0);
  // These calls remove the buffers at the source, and serve the reads that wait now.
  rests.forEach(({ buffer, byteOffset, byteLength }) => {
    enqueue.call(this, new Uint8Array(buffer, byteOffset, byteLength));
  });
  close.call(this);
  if (!isBehind || this.byobRequest !== null) return;
  const byobRequest = { view: null, respond() {}, respondWithNewView() {} };
  const value = byobRequest;
  Object.defineProperty(this, "byobRequest", property({ value }));
}

/**
 * Whether the source has a buffer that no read waits for, and is not called for it any more, as
 * no read waited when the source had given too few bytes. The runtime calls the source for
 * other buffers only when this one has been filled.
 */
function isForgotten(controller: ReadableByteStreamController): boolean {
  const pulls = pullsOf(controller);
  return pulls?.size === 1 && pulls.peek().readerType === "none" &&
    !get(controller, slots.pulling) &&
    get(controller, slots.byobRequest) === null;
}

/** Makes a read take the bytes that are there, without waiting for an earlier buffer. */
export function readBehind(original: ReadMethod): ReadMethod {
  return function (this: object, view, options) {
    const controller = controllerOf(this);
    // `closeBehind` has closed the stream: no more bytes will come, however many are wanted.
    if (controller !== undefined && Object.hasOwn(controller, "byobRequest")) {
      const size = get(controller, slots.queueTotalSize);
      const most = Math.floor(size / (view?.BYTES_PER_ELEMENT ?? 1));
      if (options?.min > most && most > 0) options = { min: most };
    }
    const pulls = pullsOf(controller);
    if (isForgotten(controller)) pulls!.dequeue();
    const isBehind = pulls?.size === 1 && hasBytesBehind(controller) &&
      get(controller, slots.pulling);
    if (!isBehind) return Reflect.apply(original, this, [view, options]);
    const first = pulls.dequeue();
    const byobRequest = get(controller, slots.byobRequest);
    set(controller, slots.byobRequest, null);
    try {
      return Reflect.apply(original, this, [view, options]);
    } finally {
      edit(pulls, (pulls) => pulls.unshift(first));
      set(controller, slots.byobRequest, byobRequest);
    }
  };
}
