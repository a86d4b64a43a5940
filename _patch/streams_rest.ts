/**
 * Streams that nobody waits for.
 *
 * A read that is taken back leaves its stream asking its source, as what comes is for the next
 * read. That is not to keep the process alive: such a stream rests, until somebody reads it.
 * Where it passes on what comes from another one, as a branch of `tee()` does and the end of
 * a `pipeThrough()`, that one rests with it.
 *
 * So does a stream that is written to, when nobody waits any more for what is on its way: it
 * goes on, until somebody writes, or the process ends.
 *
 * @module
 */

import { property } from "../_base/language.ts";
import { Begun } from "../_hub/begun.ts";
import { setSource, sourceOf } from "../_hub/stream_sources.ts";
import { get, type Queue, set, slots } from "./streams_slots.ts";

/** Has a stream rest, and resume when it gets another reader or writer. */
class Rest {
  readonly #stream: object;
  /** Where the stream has its reader or writer. */
  readonly #slot: symbol;
  #isResting = false;

  constructor(stream: object, slot: symbol) {
    this.#stream = stream;
    this.#slot = slot;
  }

  get isResting(): boolean {
    return this.#isResting;
  }

  /** Returns whether it did not rest before. */
  begin(resume: () => void): boolean {
    if (this.#isResting) return false;
    this.#isResting = true;
    // Those that the runtime itself makes, as for a pipe, are told of nowhere else.
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

  /** Returns whether it rested. */
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

/** What there is to know of a stream that is read, and may rest. */
class Resting {
  readonly #stream: ReadableStream;
  readonly #rest: Rest;
  /** The stream whose bytes it passes on. */
  upstream: ReadableStream | null = null;
  /** All streams that pass on the same, this one included. */
  branches: readonly ReadableStream[] = [];

  constructor(stream: ReadableStream) {
    this.#stream = stream;
    this.#rest = new Rest(stream, slots.reader);
  }

  /** Whether somebody waits for it: one that rests may be asked by a pipe. */
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

/** A read of a stream was taken back, or a reader has left it. */
export function leftAlone(stream: ReadableStream | undefined): void {
  if (stream && mayRest(stream) && !isAsked(stream)) restingOf(stream).rest();
}

/** A stream is about to be read. */
export function askedAgain(stream: ReadableStream | undefined): void {
  if (stream !== undefined) restings.get(stream)?.resume();
}

/** Finds out by what a stream gets its bytes, if it is one of the runtime's own. */
export function findSource(stream: ReadableStream): void {
  if (sourceOf(stream) !== undefined || !isBacked(stream)) return;
  const controller = get(stream, slots.controller);
  const pull = get(controller, slots.pullAlgorithm);
  // It has none when it is over.
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

/** Whether the runtime reads a stream from a resource, or writes it to one. */
function isBacked(stream: object): boolean {
  return Object.getOwnPropertySymbols(stream).some((symbol) =>
    symbol.description?.startsWith("[[resourceBacking") &&
    get(stream, symbol) !== null
  );
}

/** Whether its user has told the runtime that a stream need not keep the process alive. */
function isUnreffed(stream: object): boolean {
  return Object.getOwnPropertySymbols(stream).some((symbol) =>
    symbol.description === "isUnref" && get(stream, symbol) === true
  );
}

/** Notes that streams pass on what comes from another one, whose source was found before. */
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

/** Where the runtime keeps what is on its way in a stream that is written to. */
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

  /** The promises of those who have written or closed, and wait. */
  promises(stream: WritableStream): unknown[] {
    const queue: Queue<{ promise: unknown }> = get(stream, this.#waiting);
    const waiting = Array.from({ length: queue.size }, () => queue.dequeue());
    waiting.forEach((request) => queue.enqueue(request));
    const atEnd = this.#atEnd.map((slot) => get(stream, slot));
    return waiting.concat(atEnd).filter((request) => request !== undefined)
      .map(({ promise }) => promise);
  }
}

/** Finds the slots; `null` where the runtime has others. */
function findWriteSlots(stream: WritableStream): WriteSlots | null {
  const symbols = Object.getOwnPropertySymbols(stream);
  try {
    return new WriteSlots((name) => {
      const found = symbols.find(({ description }) =>
        description === `[[${name}]]`
      );
      if (found === undefined) throw new TypeError(`There is no [[${name}]]`);
      return found;
    });
  } catch {
    return null;
  }
}

let writeSlots: WriteSlots | null | undefined;

/** A stream that the runtime writes to a resource. */
export class Sink {
  readonly #stream: WritableStream;
  readonly #slots: WriteSlots;
  readonly #rest: Rest;
  readonly #begun = new Begun();
  /** The promises of those who wait no longer. */
  readonly #left = new WeakSet<Promise<unknown>>();

  constructor(stream: WritableStream, slots: WriteSlots) {
    this.#stream = stream;
    this.#slots = slots;
    this.#rest = new Rest(stream, slots.writer);
  }

  /** Has a write to the resource not keep the process alive, if nobody waits for it. */
  watch<R>(write: () => R): R {
    const result = this.#begun.watchOn(write);
    this.#look();
    return result;
  }

  /** Somebody is about to write, or to close. */
  resume(): void {
    if (this.#rest.end()) this.#begun.ref();
  }

  /** Whoever has written, or closed, waits no longer. */
  leave(promise: Promise<unknown>): void {
    this.#left.add(promise);
    this.#look();
  }

  /** A pipe that was alone with the stream has ended, whatever is still on its way. */
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

/** What a stream is written to, if the runtime writes it to a resource. */
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
