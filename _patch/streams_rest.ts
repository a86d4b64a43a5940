/**
 * Streams at rest, which do not keep the process alive.
 *
 * After a read was interrupted, the stream goes on calling its source, as the next chunk is for
 * the next read. This must not keep the process alive: the stream rests until it is read again.
 * If it passes on the chunks of another stream, as a branch of `tee()` or the end of a
 * `pipeThrough()` does, the other stream rests, too.
 *
 * A writable stream rests when no call waits for its pending writes. They go on, until the next
 * write, or until the process ends.
 *
 * @module
 */

import { property } from "../_base/language.ts";
import { findSymbol, symbolsOf } from "../_base/runtime.ts";
import { Begun } from "../_hub/begun.ts";
import { setSource, sourceOf } from "../_hub/stream_sources.ts";
import { get, type Queue, set, slots } from "./streams_slots.ts";

/** Notes that a stream rests, and resumes it when it gets another reader or writer. */
class Rest {
  readonly #stream: object;
  /** The slot of the stream's reader or writer. */
  readonly #slot: symbol;
  #isResting = false;

  constructor(stream: object, slot: symbol) {
    this.#stream = stream;
    this.#slot = slot;
  }

  get isResting(): boolean {
    return this.#isResting;
  }

  /** Begins the rest. Returns `false` if the stream rests already. */
  begin(resume: () => void): boolean {
    if (this.#isResting) return false;
    this.#isResting = true;
    // The runtime itself makes a reader or a writer for a pipe. Only this setter notices it.
    let user = get(this.#stream, this.#slot);
    this.#define({
      get: () => user,
      set(value) {
        user = value;
        if (value !== undefined) resume();
      },
    });
    return true;
  }

  /** Ends the rest. Returns `false` if the stream did not rest. */
  end(): boolean {
    if (!this.#isResting) return false;
    this.#isResting = false;
    const value = get(this.#stream, this.#slot);
    this.#define({ value, writable: true });
    return true;
  }

  #define(descriptor: PropertyDescriptor): void {
    Object.defineProperty(
      this.#stream,
      this.#slot,
      property({ ...descriptor, enumerable: true, configurable: true }),
    );
  }
}

/** A readable stream that may rest. */
class Resting {
  readonly #stream: ReadableStream;
  readonly #rest: Rest;
  /** The stream whose chunks it passes on. */
  upstream: ReadableStream | null = null;
  /** All streams that pass on the same chunks, including this one. */
  branches: readonly ReadableStream[] = [];

  constructor(stream: ReadableStream) {
    this.#stream = stream;
    this.#rest = new Rest(stream, slots.reader);
  }

  /** Whether a read waits and must keep the process alive. A pipe may read a stream at rest. */
  get isWanted(): boolean {
    return !this.#rest.isResting && isAsked(this.#stream);
  }

  rest(): void {
    if (!this.#rest.begin(() => this.resume())) return;
    const source = sourceOf(this.#stream);
    source?.rest();
    if (source?.answersLate === false) forgetPull(this.#stream);
    const { upstream } = this;
    const branches = this.branches.map(restingOf);
    if (upstream === null || branches.some(({ isWanted }) => isWanted)) return;
    branches.forEach((branch) => branch.rest());
    restingOf(upstream).rest();
  }

  resume(): void {
    if (!this.#rest.end()) return;
    sourceOf(this.#stream)?.resume();
    if (this.upstream !== null) restingOf(this.upstream).resume();
  }
}

const restings = new WeakMap<ReadableStream, Resting>();

function restingOf(stream: ReadableStream): Resting {
  let resting = restings.get(stream);
  if (resting === undefined) {
    restings.set(stream, resting = new Resting(stream));
  }
  return resting;
}

/** Takes back what a stream asks its source for: the runtime asks for one at a time only. */
function forgetPull(stream: ReadableStream): void {
  const controller = get(stream, slots.controller);
  const pulls: Queue<{ readerType: string }> | undefined = get(
    controller,
    slots.pendingPullIntos,
  );
  if (pulls?.size !== 1 || pulls.peek().readerType !== "none") return;
  pulls.dequeue();
  set(controller, slots.byobRequest, null);
}

/** Whether a stream has a source that we know, or another stream before it. */
function mayRest(stream: ReadableStream): boolean {
  return restings.has(stream) || sourceOf(stream) !== undefined;
}

/** Whether a read waits for a chunk of the stream. */
function isAsked(stream: ReadableStream): boolean {
  const reader = get(stream, slots.reader);
  const requests = get(reader, slots.readRequests) ??
    get(reader, slots.readIntoRequests);
  return requests !== undefined && requests.size > 0;
}

/** Lets a stream rest, if no read waits for it any more. */
export function leftAlone(stream: ReadableStream | undefined): void {
  if (stream && mayRest(stream) && !isAsked(stream)) restingOf(stream).rest();
}

/** Ends the rest of a stream that is about to be read. */
export function askedAgain(stream: ReadableStream | undefined): void {
  if (stream !== undefined) restings.get(stream)?.resume();
}

/** Finds the source of a stream, if it is one of the runtime's own. */
export function findSource(stream: ReadableStream): void {
  if (sourceOf(stream) !== undefined || !isBacked(stream)) return;
  const controller = get(stream, slots.controller);
  const pull = get(controller, slots.pullAlgorithm);
  // A stream that has ended has no source.
  if (pull === undefined) return;
  const begun = new Begun();
  setSource(stream, {
    rest: () => begun.unref(),
    resume: () => begun.ref(!isUnreffed(stream)),
    answersLate: true,
  });
  set(controller, slots.pullAlgorithm, function (this: unknown) {
    return begun.watch(() => Reflect.apply(pull, this, arguments));
  });
}

/** Whether the runtime reads the stream from a resource, or writes it to one. */
function isBacked(stream: object): boolean {
  return symbolsOf(stream).some((symbol) =>
    symbol.description?.startsWith("[[resourceBacking") &&
    get(stream, symbol) !== null
  );
}

/** Whether the user has told the runtime that a stream need not keep the process alive. */
function isUnreffed(stream: object): boolean {
  const symbol = findSymbol(stream, "isUnref");
  return symbol !== undefined && get(stream, symbol) === true;
}

/** Notes that streams pass on the chunks of another one, whose source was found before. */
export function passOn(
  upstream: ReadableStream,
  branches: readonly ReadableStream[],
): void {
  branches.forEach((branch) => {
    const resting = restingOf(branch);
    resting.upstream = upstream;
    resting.branches = branches;
  });
}

/** Whether a stream is a branch of `tee()`: it is closed when all its branches are. */
export function isBranch(stream: ReadableStream | undefined): boolean {
  const branches = stream && restings.get(stream)?.branches;
  return branches !== undefined && branches.length > 1;
}

/** The slots for the pending writes of a writable stream. */
class WriteSlots {
  readonly writer: symbol;
  readonly #waiting: symbol;
  readonly #atEnd: readonly symbol[];

  constructor(find: (name: string) => symbol) {
    this.writer = find("writer");
    this.#waiting = find("writeRequests");
    this.#atEnd = [
      "inFlightWriteRequest",
      "closeRequest",
      "inFlightCloseRequest",
    ]
      .map(find);
  }

  /** Returns the promises of pending `write` and `close` calls. */
  promises(stream: WritableStream): unknown[] {
    const queue: Queue<{ promise: unknown }> = get(stream, this.#waiting);
    const waiting = Array.from({ length: queue.size }, () => queue.dequeue());
    waiting.forEach((request) => queue.enqueue(request));
    const atEnd = this.#atEnd.map((slot) => get(stream, slot));
    return waiting.concat(atEnd).filter((request) => request !== undefined)
      .map(({ promise }) => promise);
  }
}

/** Finds the slots; returns `null` if the runtime has other slots. */
function findWriteSlots(stream: WritableStream): WriteSlots | null {
  try {
    return new WriteSlots((name) => {
      const found = findSymbol(stream, `[[${name}]]`);
      if (found === undefined) throw new TypeError(`There is no [[${name}]]`);
      return found;
    });
  } catch {
    return null;
  }
}

let writeSlots: WriteSlots | null | undefined;

/** A writable stream that the runtime writes to a resource. */
export class Sink {
  readonly #stream: WritableStream;
  readonly #slots: WriteSlots;
  readonly #rest: Rest;
  readonly #begun = new Begun();
  /** The promises of calls that were interrupted. */
  readonly #left = new WeakSet<Promise<unknown>>();

  constructor(stream: WritableStream, slots: WriteSlots) {
    this.#stream = stream;
    this.#slots = slots;
    this.#rest = new Rest(stream, slots.writer);
  }

  /** Makes a write to the resource. It keeps the process alive only while a call waits. */
  watch<R>(write: () => R): R {
    const result = this.#begun.watchOn(write);
    this.#look();
    return result;
  }

  /** Ends the rest, as a call is about to write or to close. */
  resume(): void {
    if (this.#rest.end()) this.#begun.ref();
  }

  /** Notes that the call of `write` or `close` with this promise was interrupted. */
  leave(promise: Promise<unknown>): void {
    this.#left.add(promise);
    this.#look();
  }

  /** Notes that a pipe was interrupted: no call waits for the writes that are still pending. */
  leaveAll(): void {
    this.#slots.promises(this.#stream).forEach((promise) => {
      this.#left.add(promise as Promise<unknown>);
    });
    this.#look();
  }

  #look(): void {
    const promises = this.#slots.promises(this.#stream);
    const isLeft = promises.every((promise) =>
      this.#left.has(promise as Promise<unknown>)
    );
    if (!isLeft || promises.length === 0) return;
    if (this.#rest.begin(() => this.resume())) this.#begun.unref();
  }
}

const sinks = new WeakMap<WritableStream, Sink>();

/** Returns the sink of a stream; `null` if the runtime does not write it to a resource. */
export function sinkOf(stream: WritableStream | undefined): Sink | null {
  if (stream === undefined) return null;
  const known = sinks.get(stream);
  if (known !== undefined) return known;
  if (!isBacked(stream)) return null;
  writeSlots ??= findWriteSlots(stream);
  const controller = get(stream, slots.controller);
  const write = get(controller, slots.writeAlgorithm);
  if (writeSlots === null || write === undefined) return null;
  const sink = new Sink(stream, writeSlots);
  sinks.set(stream, sink);
  set(controller, slots.writeAlgorithm, function (this: unknown) {
    return sink.watch(() => Reflect.apply(write, this, arguments));
  });
  return sink;
}
