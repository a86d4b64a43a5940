/**
 * The part `streams` of `patch()`: streams.
 *
 * Code of a stream's own (`pull`, `write`, ...) that runs because a greenlet reads or
 * writes is not a part of that greenlet, as the stream has to stay whole when the greenlet
 * is interrupted. Where an interrupt ends the stream anyway, it is: so it stops at once.
 *
 * @module
 */

import { callApart, cooperativeFlow, takenWait } from "./_flow.ts";
import { getOriginal } from "./_items.ts";
import { cooperateKept, operate, withSignal } from "./_operate.ts";
import { patchAll, type Patches } from "./_patches.ts";
import {
  beginRead,
  isFree,
  knowStreams,
  prepare,
  preventsCancel,
  Read,
  readBehind,
  readerOf,
  type ReadMethod,
  requestsOf,
} from "./_reads.ts";

type Reader = ReadableStreamDefaultReader;
type Iterator = AsyncIterator<unknown>;

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Asking = (this: any, ...args: any[]) => Promise<any>;

/** Patches streams; disposing of what it returns restores the originals. */
export function patchStreams(): Disposable {
  knowStreams();
  return patchAll((patches) => {
    patchReading(patches);
    patchIterating(patches);
    patchWriting(patches);
  });
}

function patchReading(patches: Patches): void {
  const readable = ReadableStream.prototype;
  const reader = ReadableStreamDefaultReader.prototype;
  const byobReader = ReadableStreamBYOBReader.prototype;
  patches.put<ReadMethod>(
    reader,
    "read",
    (read) => cooperativeRead(read, "readRequests"),
  );
  patches.put<ReadMethod>(
    byobReader,
    "read",
    (read) => cooperativeRead(readBehind(read), "readIntoRequests"),
  );
  patches.put(readable, "pipeTo", cooperativePipeTo);
  for (const it of [readable, reader, byobReader]) {
    patches.put(it, "cancel", cooperateAtLast);
  }
  for (const it of [reader, byobReader]) {
    patches.putGetter<Promise<unknown>>(it, "closed", cooperateKept);
  }
}

/** All iterators of streams have their methods from one object, which has no name. */
function patchIterating(patches: Patches): void {
  const iterator = Object.getPrototypeOf(new ReadableStream().values());
  patches.put<ReadMethod>(iterator, "next", cooperativeNext);
  patches.put(iterator, "return", cooperateAtLast);
}

function patchWriting(patches: Patches): void {
  const writable = WritableStream.prototype;
  const writer = WritableStreamDefaultWriter.prototype;
  patches.put(writer, "write", cooperativeWrite);
  for (const it of [writable, writer]) {
    patches.put(it, "close", cooperateAtLast);
    patches.put(it, "abort", cooperateAtLast);
  }
  for (const name of ["closed", "ready"]) {
    patches.putGetter<Promise<unknown>>(writer, name, cooperateKept);
  }
}

function cooperativeRead(
  original: ReadMethod,
  kind: "readRequests" | "readIntoRequests",
): ReadMethod {
  return function (this: Reader) {
    const flow = cooperativeFlow();
    const requests = flow === null ? undefined : requestsOf(this, kind);
    if (flow === null || requests === undefined) {
      return Reflect.apply(original, this, arguments);
    }
    const due = flow.checkpoint();
    if (due !== null) return due;
    prepare(this, requests, true);
    const read = beginRead(Read, this, requests, original, this, arguments);
    return read instanceof Read ? read.suspend(flow) : takenWait(read);
  };
}

/** A read of a loop: when it is interrupted, that leaves the loop. */
class Step extends Read {
  protected override undo(error: unknown): void {
    // The language has no `return()` for a loop whose `next()` has failed.
    cancel(this.reader as Reader, error);
  }
}

/** A read of a loop that leaves its stream as it is. */
class LastingStep extends Read {
  protected override undo(): void {
    this.leaveQueue();
    // Ends the iterator, which releases the stream.
    this.request.closeSteps();
  }
}

/** Cancels whatever the reader has, if it still has something. */
function cancel(reader: Reader, error: unknown): void {
  const original = getOriginal(ReadableStreamDefaultReader.prototype, "cancel");
  callApart(async () => await original.call(reader, error)).catch(ignore);
}

function ignore(): void {}

function cooperativeNext(original: ReadMethod): ReadMethod {
  return function (this: Iterator) {
    const flow = cooperativeFlow();
    const reader = flow === null ? undefined : readerOf(this);
    if (flow === null || reader === undefined) {
      return Reflect.apply(original, this, arguments);
    }
    const due = flow.checkpoint();
    if (due !== null) {
      due.catch((error) => leave(this, error));
      return due;
    }
    const requests = requestsOf(reader, "readRequests")!;
    const lasts = preventsCancel(this);
    if (!isFree(reader, requests)) {
      // The runtime has it wait for the one before, and begins nothing yet.
      return operate(
        flow,
        Reflect.apply(original, this, arguments),
        lasts ? undefined : (error) => cancel(reader, error),
      );
    }
    prepare(reader, requests, lasts);
    const kind = lasts ? LastingStep : Step;
    const read = beginRead(kind, reader, requests, original, this, arguments);
    return read instanceof Read ? read.suspend(flow) : takenWait(read);
  };
}

/** Leaves a loop that is about to fail and waits for nothing. */
function leave(iterator: Iterator, error: unknown): void {
  const prototype = Object.getPrototypeOf(iterator);
  const original = getOriginal(prototype, "return") as Asking;
  callApart(async () => await original.call(iterator, error)).catch(ignore);
}

function cooperativePipeTo(original: Asking): Asking {
  return function (this: ReadableStream, destination, options = {}) {
    const flow = cooperativeFlow();
    if (flow === null || arguments.length === 0 || !isObject(options ?? {})) {
      return Reflect.apply(original, this, arguments);
    }
    const due = flow.checkpoint();
    if (due !== null) return due;
    const { preventAbort, preventCancel, preventClose, signal } = options ?? {};
    const abort = new AbortController();
    const ours = withSignal(
      { preventAbort, preventCancel, preventClose, signal },
      abort.signal,
    );
    const isFree = readerOf(this) === undefined;
    const begin = () => original.call(this, destination, ours);
    const promise = preventAbort || preventCancel ? callApart(begin) : begin();
    const reader = isFree && !preventCancel ? readerOf(this) : undefined;
    return operate(flow, promise, (error) => {
      callApart(() => abort.abort(error));
      // The runtime would first write what was read, for as long as that takes.
      if (reader !== undefined) cancel(reader, error);
    });
  };
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null;
}

/** What is written is written in its turn, whatever becomes of the writer. */
function cooperativeWrite(original: Asking): Asking {
  return function () {
    const flow = cooperativeFlow();
    if (flow === null) return Reflect.apply(original, this, arguments);
    const due = flow.checkpoint();
    if (due !== null) return due;
    return operate(
      flow,
      callApart(() => Reflect.apply(original, this, arguments)),
    );
  };
}

/**
 * The cooperative form of what a `finally` block calls: it is begun even if an error is
 * due, as there may be no other chance to give something back.
 */
function cooperateAtLast(original: Asking): Asking {
  return function () {
    const flow = cooperativeFlow();
    if (flow === null) return Reflect.apply(original, this, arguments);
    const promise: Promise<unknown> = callApart(() =>
      Reflect.apply(original, this, arguments)
    );
    const due = flow.checkpoint();
    if (due === null) return operate(flow, promise);
    promise.catch(ignore);
    return due;
  };
}
