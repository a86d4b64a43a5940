/**
 * Reads of streams that can be taken back.
 *
 * A read for which there is no chunk yet is a request in a queue of its reader. The runtime
 * takes requests back in `releaseLock()` only, all of them, and leaves what they would have
 * got in the stream. So we put the wait itself into the queue, in the request's place: it
 * has its chunk the moment that the stream has no more of it; and when it is interrupted
 * before, it leaves the queue, by the rules of `releaseLock()`. Nothing is ever kept here:
 * the chunk is in the stream for whoever reads that next, and be it the runtime itself.
 *
 * @module
 */

import { markHandled, property } from "../_base/language.ts";
import { Suspension } from "../_hub/suspension.ts";
import { calls, giveScope } from "./streams_scopes.ts";
import { findSource, leftAlone } from "./streams_rest.ts";
import { get, type Queue, set, slots } from "./streams_slots.ts";

/** What a read has brought. */
export type ReadResult = { value: unknown; done: boolean };

/** What a stream serves a read by. */
interface ReadRequest {
  chunkSteps(chunk: unknown): void;
  closeSteps(chunk?: unknown): void;
  errorSteps(error: unknown): void;
}

/** Memory for the source of bytes to write to, for a reader of that type. */
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

/** The reads of one reader that have to wait, in order. */
export type Requests = Queue<ReadRequest>;

// deno-lint-ignore no-explicit-any -- whatever reads
export type ReadMethod = (this: any, ...args: any[]) => Promise<ReadResult>;

/** Where a reader has its reads; `undefined` if it is no such reader. */
export function requestsOf(
  reader: unknown,
  kind: "readRequests" | "readIntoRequests",
): Requests | undefined {
  return get(reader, slots[kind]);
}

/** The reader that an iterator reads by; `undefined` if it is no iterator of a stream. */
export function readerOf(
  iterator: unknown,
): ReadableStreamDefaultReader | undefined {
  return get(iterator, slots.reader);
}

/** Whether an iterator leaves its stream as it is. */
export function preventsCancel(iterator: unknown): boolean {
  return get(iterator, slots.preventCancel);
}

/** Whether a `next()` of its iterator could begin at once. */
export function isFree(
  reader: ReadableStreamDefaultReader,
  requests: Requests,
): boolean {
  if (requests.size > 0 || get(reader, slots.stream) === undefined) {
    return false;
  }
  // The runtime may think that the last one is not over yet.
  set(reader, slots.iteratorNext, null);
  return true;
}

/** Where the next request is to be replaced, for which reader, and by what. */
let expectedIn: Requests | null = null;
let expectedOf: object;
let expectedKind: typeof Read;
/** Not in a call that the stream makes meanwhile, of a function of its own. */
let expectedBefore: number;
/** What it was replaced by. */
let begun: Read | null = null;

/** In the place of the queue's own method. */
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
 * @returns The read, if it has to wait, or the promise of what it has taken.
 */
export function beginRead(
  kind: typeof Read,
  reader: object,
  requests: Requests,
  original: ReadMethod,
  self: unknown,
  args: ArrayLike<unknown>,
): Read | Promise<ReadResult> {
  // In the call the stream may ask its source for more, which may read again.
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

/** Whether a read has ever left what the source was asked for. */
let hasLeft = false;

/**
 * Serves the first read of any chunk by what the source was asked for by one that has gone.
 * The runtime would put that into the stream, and give it to nobody before it gets more.
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
  // What the runtime would ask for in this one's place.
  edit(pulls, (pulls) => pulls.splice(1));
}

/** Makes reads of a reader replaceable. */
export function prepare(reader: object, requests: Requests): void {
  if (requests.enqueue === enqueue) return;
  requests.enqueue = enqueue;
  const stream = streamOf(reader);
  // It has none once it was released.
  if (stream === undefined) return;
  giveScope(stream);
  findSource(stream);
}

/** The stream that a reader reads. */
export function streamOf(reader: unknown): ReadableStream | undefined {
  return get(reader, slots.stream);
}

/** A read that waits for its chunk. */
export class Read extends Suspension<ReadResult> implements ReadRequest {
  readonly reader: object;
  readonly #requests: Requests;
  /** What the runtime has made for this read. */
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

  protected override undo(_error: unknown): void {
    this.leaveQueue();
  }

  /** Leaves what it has asked for to others. */
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
      // They are in the order of the requests, behind one that has none any more.
      if (pulls[0]!.readerType === "none") place++;
      const pull = pulls[place];
      if (pull === undefined) return;
      if (pull.bytesFilled > 0) giveBack(controller, pull);
      // The source may be writing to the first; what that gets comes into the stream.
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

// What follows is for readers of bytes that want so many: `read(view, { min })`.

/**
 * Puts bytes back that were too few for their reader. The runtime would keep them in the
 * pull until more come, and forget them at the end of the stream.
 */
function giveBack(
  controller: ReadableByteStreamController,
  pull: PullInto,
): void {
  // The source has given it away, to have it written to elsewhere.
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

/** Whether there are bytes, and the source is asked for some for nobody. */
function hasBytesBehind(controller: ReadableByteStreamController): boolean {
  const pulls = pullsOf(controller);
  return pulls !== undefined && pulls.size > 0 &&
    pulls.peek().readerType === "none" &&
    get(controller, slots.queueTotalSize) > 0;
}

/**
 * Whether there are bytes, and a read that waits all the same: the runtime gives what the
 * source was asked for by nobody to a read of any chunk not before it gets some more.
 */
function hasReadsBehind(controller: ReadableByteStreamController): boolean {
  const reader = readerOf(get(controller, slots.stream));
  const requests = requestsOf(reader, "readRequests");
  return requests !== undefined && requests.size > 0 &&
    get(controller, slots.queueTotalSize) > 0;
}

/**
 * In the place of `close`: the source may answer by `close()` and then
 * `byobRequest.respond(0)`, by which the runtime would not stand if there are bytes; and
 * there may be a read that would never get those.
 */
function closeBehind(this: ReadableByteStreamController): void {
  const { close, enqueue } = ReadableByteStreamController.prototype;
  Reflect.deleteProperty(this, "close");
  const isBehind = hasBytesBehind(this);
  if (!isBehind && !hasReadsBehind(this)) return close.call(this);
  const queue: Queue<Uint8Array<ArrayBuffer>> = get(this, slots.queue);
  const rests = Array.from({ length: queue.size }, () => queue.dequeue());
  set(this, slots.queueTotalSize, 0);
  // Which ends what the source was asked for, and serves whoever waits by now.
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
 * Whether the source was asked for some for nobody, and is not any more: when it had given
 * too few, nobody read. The runtime asks for no others before it has those.
 */
function isForgotten(controller: ReadableByteStreamController): boolean {
  const pulls = pullsOf(controller);
  return pulls?.size === 1 && pulls.peek().readerType === "none" &&
    !get(controller, slots.pulling) &&
    get(controller, slots.byobRequest) === null;
}

/** A read that gets the bytes that are there, and does not wait for those asked before. */
export function readBehind(original: ReadMethod): ReadMethod {
  return function (this: object, view, options) {
    const controller = controllerOf(this);
    // It was closed by us: there are no more, however many are wanted.
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
