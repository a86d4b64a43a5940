/**
 * The part `streams` of `patch()`: streams.
 *
 * The functions of a stream itself (`pull`, `write`, ...) run outside greenlets, so that no
 * interrupt breaks the stream; see `streams_scopes.ts`.
 *
 * @module
 */

import { bare, markHandled, noOptions, then } from "../_base/language.ts";
import { isObject } from "../_base/checks.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import { isInterrupt } from "../_hub/interrupts.ts";
import {
  checkpoint,
  checkpointAtLast,
  DONE,
  takenWait,
} from "../_hub/suspension.ts";
import { getOriginal } from "../_base/properties.ts";
import { operate } from "../_hub/operation.ts";
import { callOf } from "../_hub/waits.ts";
import { addSignal } from "../_hub/cancelling.ts";
import { leaveBy, leaveWhenClosed, operateStep } from "./leaving.ts";
import { cooperateObserved } from "./cooperate.ts";
import { patchAll, type Patches } from "./patch_set.ts";
import {
  adopt,
  beginRead,
  isFree,
  prepare,
  preventsCancel,
  Read,
  readBehind,
  readerOf,
  type ReadMethod,
  requestsOf,
  streamOf,
} from "./streams_reads.ts";
import { endScopeOf, giveScope, makeWithScope } from "./streams_scopes.ts";
import {
  askedAgain,
  findSource,
  isBranch,
  leftAlone,
  passOn,
  type Sink,
  sinkOf,
} from "./streams_rest.ts";
import { get, knowStreams, slots } from "./streams_slots.ts";

type Reader = ReadableStreamDefaultReader;
type Iterator = AsyncIterator<unknown>;

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Asking = (this: any, ...args: any[]) => Promise<any>;

/** Patches streams; disposing of the result restores the originals. */
export function patchStreams(): Disposable {
  return patchAll((patches) => {
    // Without the internal slots an interrupt could lose chunks, so streams are not patched.
    if (!knowStreams()) return;
    patchReading(patches);
    patchIterating(patches);
    patchWriting(patches);
    patchMaking(patches);
  });
}

function patchMaking(patches: Patches): void {
  const { prototype } = ReadableStream;
  patches.replace(ReadableStream, "from", (from: Making) =>
    function () {
      return make(() => Reflect.apply(from, this, arguments));
    });
  patches.replace(prototype, "pipeThrough", (original) => {
    const pipeThrough = pipeDetached(original);
    return function (this: ReadableStream) {
      findSource(this);
      const readable = Reflect.apply(pipeThrough, this, arguments);
      passOn(this, [readable as ReadableStream]);
      return readable;
    };
  });
  patches.replace(prototype, "tee", (original) => {
    const tee = pipeDetached(original);
    return function (this: ReadableStream) {
      findSource(this);
      const branches = Reflect.apply(tee, this, arguments);
      passOn(this, branches as ReadableStream[]);
      return branches;
    };
  });
  for (const name of ["ReadableStream", "WritableStream", "TransformStream"]) {
    patches.replaceClass(globalThis, name, make);
  }
}

// deno-lint-ignore no-explicit-any -- whatever it takes
type Making = (this: any, ...args: any[]) => object;

/** Makes a stream: with a scope of its own in a greenlet, unchanged outside greenlets. */
function make<T extends object>(stream: () => T): T {
  return interruptibleScope() === null ? stream() : makeWithScope(stream);
}

/** Makes a method that pipes run outside greenlets: a pipe outlives the greenlet that makes it. */
function pipeDetached(original: Making): Making {
  return function (this: ReadableStream) {
    if (interruptibleScope() === null || !(this instanceof ReadableStream)) {
      return Reflect.apply(original, this, arguments);
    }
    giveScope(this);
    return runDetached(() => Reflect.apply(original, this, arguments));
  };
}

function patchReading(patches: Patches): void {
  const readable = ReadableStream.prototype;
  const reader = ReadableStreamDefaultReader.prototype;
  const byobReader = ReadableStreamBYOBReader.prototype;
  patches.replace<ReadMethod>(
    reader,
    "read",
    (read) => cooperativeRead(read, "readRequests"),
  );
  patches.replace<ReadMethod>(
    byobReader,
    "read",
    (read) => cooperativeRead(readBehind(read), "readIntoRequests"),
  );
  patches.replace(readable, "pipeTo", cooperativePipeTo);
  for (const it of [readable, reader, byobReader]) {
    patches.replace(it, "cancel", cooperativeCancel);
  }
  for (const it of [reader, byobReader]) {
    patches.replaceGetter<Promise<unknown>>(it, "closed", cooperateObserved);
  }
}

/** Patches the iterators of streams. They all inherit from one object, which has no name. */
function patchIterating(patches: Patches): void {
  const iterator = Object.getPrototypeOf(new ReadableStream().values());
  patches.replace<ReadMethod>(iterator, "next", cooperativeNext);
  patches.replace(iterator, "return", cooperativeCancel);
}

function patchWriting(patches: Patches): void {
  const writable = WritableStream.prototype;
  const writer = WritableStreamDefaultWriter.prototype;
  patches.replace(writer, "write", cooperativeWrite);
  for (const it of [writable, writer]) {
    patches.replace(it, "close", cooperativeClose);
    patches.replace(it, "abort", cooperativeAbort);
  }
  for (const name of ["closed", "ready"]) {
    patches.replaceGetter<Promise<unknown>>(writer, name, cooperateObserved);
  }
}

function cooperativeRead(
  original: ReadMethod,
  kind: "readRequests" | "readIntoRequests",
): ReadMethod {
  return function (this: Reader) {
    const scope = interruptibleScope();
    const requests = scope === null ? undefined : requestsOf(this, kind);
    if (scope === null || requests === undefined) {
      askedAgain(streamOf(this));
      const promise = Reflect.apply(original, this, arguments);
      adopt(this);
      return promise;
    }
    const due = checkpoint(scope);
    if (due !== null) return due;
    askedAgain(streamOf(this));
    prepare(this, requests);
    const read = beginRead(Read, this, requests, original, this, arguments);
    return read instanceof Read ? read.suspend(scope) : takenWait(read);
  };
}

/** The text of the wait of a loop over a stream. */
const NEXT_CHUNK = "for await of ReadableStream";

/** A read of a loop. An interrupt of it ends the loop and cancels the stream. */
class Step extends Read {
  override describe(): string {
    return NEXT_CHUNK;
  }

  protected override undo(error: unknown): void {
    // A loop does not call `return()` if `next()` throws.
    cancel(this.reader as Reader, error);
  }

  override interrupt(error: unknown, final: boolean): void {
    // A loop that is being left already waits until the stream is closed.
    if (this.state !== "waiting" || this.#isLeft) return;
    if (final) return super.interrupt(error, final);
    const { scope } = this;
    this.#isLeft = true;
    const closing = cancel(this.reader as Reader, error);
    // Code that cancels may interrupt the same scope.
    if (this.state === "waiting" && scope === this.scope) {
      leaveWhenClosed(this, error, closing);
    }
  }

  #isLeft = false;

  override closeSteps(chunk?: unknown): void {
    if (this.#isLeft) this.request.closeSteps(chunk);
    else super.closeSteps(chunk);
  }

  override errorSteps(error: unknown): void {
    if (this.#isLeft) this.request.errorSteps(error);
    else super.errorSteps(error);
  }
}

/** A read of a loop with `preventCancel`. An interrupt of it only unlocks the stream. */
class LastingStep extends Read {
  override describe(): string {
    return NEXT_CHUNK;
  }

  protected override undo(): void {
    this.leaveQueue();
    // Ends the iterator, which unlocks the stream.
    this.request.closeSteps();
  }
}

/** Cancels the stream of a reader, if it still has one. */
function cancel(reader: Reader, error: unknown): Promise<unknown> {
  const stream = streamOf(reader);
  const original = getOriginal(ReadableStreamDefaultReader.prototype, "cancel");
  const closing = runDetached(async () => await original.call(reader, error));
  markHandled(closing);
  // If the stream is a branch, its source goes on, and perhaps no other branch is read.
  leftAlone(stream);
  return isBranch(stream) ? DONE : closing;
}

function cooperativeNext(original: ReadMethod): ReadMethod {
  return function (this: Iterator) {
    const scope = interruptibleScope();
    const reader = scope === null ? undefined : readerOf(this);
    if (scope === null || reader === undefined) {
      askedAgain(streamOf(readerOf(this)));
      const promise = Reflect.apply(original, this, arguments);
      adopt(readerOf(this));
      return promise;
    }
    const due = checkpoint(scope);
    if (due !== null) {
      return leaveBy(due, scope, (error) => leaveLoop(this, error));
    }
    askedAgain(streamOf(reader));
    const requests = requestsOf(reader, "readRequests")!;
    const isLasting = preventsCancel(this);
    if (!isFree(reader, requests)) {
      // The runtime begins this read only when the one before has ended.
      const next = Reflect.apply(original, this, arguments);
      return isLasting ? operate(scope, next, NEXT_CHUNK) : operateStep(
        scope,
        next,
        NEXT_CHUNK,
        (error) => cancel(reader, error),
      );
    }
    prepare(reader, requests);
    const kind = isLasting ? LastingStep : Step;
    const read = beginRead(kind, reader, requests, original, this, arguments);
    return read instanceof Read ? read.suspend(scope) : takenWait(read);
  };
}

/** Ends a loop whose `next()` is about to throw. Returns a promise of the end. */
function leaveLoop(iterator: Iterator, error: unknown): Promise<unknown> {
  const prototype = Object.getPrototypeOf(iterator);
  const original = getOriginal(prototype, "return") as Asking;
  const stream = streamOf(readerOf(iterator));
  const closing = runDetached(async () => await original.call(iterator, error));
  markHandled(closing);
  return isBranch(stream) ? DONE : closing;
}

function cooperativePipeTo(original: Asking): Asking {
  return function (this: ReadableStream, destination, options) {
    const scope = interruptibleScope();
    const isOdd = !(this instanceof ReadableStream) ||
      !(destination instanceof WritableStream) ||
      !isObject(options ?? noOptions());
    if (scope === null || isOdd) {
      // The runtime throws its own error for these arguments.
      return Reflect.apply(original, this, arguments);
    }
    const due = checkpoint(scope);
    if (due !== null) return due;
    const { preventAbort, preventCancel, preventClose, signal } = options ??
      noOptions();
    const abort = new AbortController();
    const ours = addSignal(
      bare({ preventAbort, preventCancel, preventClose, signal }),
      abort.signal,
    );
    const isFree = readerOf(this) === undefined;
    if (isFree) {
      giveScope(this);
      findSource(this);
    }
    const isSink = !destination.locked;
    if (isSink) giveScope(destination);
    const sink = isSink ? sinkOf(destination) : null;
    sink?.resume();
    const promise = runDetached(() => original.call(this, destination, ours));
    const reader = isFree && !preventCancel ? readerOf(this) : undefined;
    // With `preventCancel` the stream is left as it is.
    const left = () => leftAlone(this);
    return operate(scope, promise, "ReadableStream.pipeTo()", (error) => {
      runDetached(() => abort.abort(error));
      then(promise, left, left);
      // The runtime would first write the chunks that it has read, without a time limit.
      if (reader !== undefined) cancel(reader, error);
      if (isSink && !preventAbort) endScopeOf(destination, error);
      sink?.leaveAll();
    });
  };
}

/** Makes `write` cooperative. After an interrupt the chunk is still written, in its turn. */
function cooperativeWrite(original: Asking): Asking {
  return function () {
    const scope = interruptibleScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    const sink = sinkOf(get(this, slots.stream));
    sink?.resume();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const promise: Promise<unknown> = runDetached(() =>
      Reflect.apply(original, this, arguments)
    );
    return operate(
      scope,
      promise,
      () => callOf(this as object, "write()"),
      () => sink?.leave(promise),
    );
  };
}

/** Makes `close` of a stream or of a writer cooperative. */
function cooperativeClose(original: Asking): Asking {
  return cooperateAtLast(
    original,
    (it) => sinkOf(it instanceof WritableStream ? it : get(it, slots.stream)),
  );
}

/** Makes `cancel` cooperative, and `return` of an iterator. */
function cooperativeCancel(original: Asking): Asking {
  return withReason(cooperateAtLast(original));
}

/**
 * Makes `abort` cooperative. The runtime first waits for the function that the stream is
 * running; an interrupt as the reason ends what this function waits for.
 */
function cooperativeAbort(original: Asking): Asking {
  const abort = cooperateAtLast(original);
  return withReason(function (reason) {
    const stream = isInterrupt(reason) ? streamToAbort(this) : undefined;
    if (stream !== undefined) endScopeOf(stream, reason);
    return Reflect.apply(abort, this, arguments);
  });
}

/** Makes the interrupt of the caller the reason, if the caller gives none. */
function withReason(end: Asking): Asking {
  return function (reason) {
    const interrupt = reason === undefined
      ? interruptibleScope()?.unwinding
      : undefined;
    return interrupt === undefined
      ? Reflect.apply(end, this, arguments)
      : end.call(this, interrupt);
  };
}

/** Returns the stream that the runtime is about to abort; `undefined` if there is none. */
function streamToAbort(by: unknown): WritableStream | undefined {
  const isWriter = by instanceof WritableStreamDefaultWriter;
  const stream: unknown = isWriter ? get(by, slots.stream) : by;
  const isOpen = stream instanceof WritableStream &&
    get(stream, slots.state) === "writable";
  return isOpen && (isWriter || !stream.locked) ? stream : undefined;
}

/**
 * Makes a method cooperative that `finally` blocks call. It begins even if an interrupt is due,
 * as this may be the last chance to release something.
 *
 * @param find Finds the sink, which has to know of each wait and of its end.
 */
function cooperateAtLast(
  original: Asking,
  find: (self: unknown) => Sink | null = () => null,
): Asking {
  return function () {
    const scope = interruptibleScope();
    const sink = find(this);
    sink?.resume();
    if (scope === null) return Reflect.apply(original, this, arguments);
    const promise: Promise<unknown> = runDetached(() =>
      Reflect.apply(original, this, arguments)
    );
    const left = () => sink?.leave(promise);
    const due = checkpointAtLast(scope);
    if (due === null) {
      const text = () => callOf(this as object, `${original.name}()`);
      return operate(scope, promise, text, left);
    }
    markHandled(promise);
    left();
    return due;
  };
}
