/**
 * Streams that nobody waits for.
 *
 * A read that is taken back leaves its stream asking its source, as what comes is for the next
 * read. That is not to keep the process alive: such a stream rests, until somebody reads it.
 * Where it passes on what comes from another one, as a branch of `tee()` does and the end of
 * a `pipeThrough()`, that one rests with it.
 *
 * @module
 */

import { Begun } from "./_begun.ts";
import { get, set, slots } from "./_stream_slots.ts";

/** What a stream gets its bytes by, which may keep the process alive. */
interface StreamSource {
  /** Has it not keep the process alive, as nobody waits for the stream. */
  rest(): void;
  /** Has it do so. */
  resume(): void;
}

/** What there is to know of a stream that may rest. */
class Resting {
  readonly #stream: ReadableStream;
  source: StreamSource | null = null;
  /** The stream whose bytes it passes on. */
  upstream: ReadableStream | null = null;
  /** All streams that pass on the same, this one included. */
  branches: readonly ReadableStream[] = [];
  #isResting = false;

  constructor(stream: ReadableStream) {
    this.#stream = stream;
  }

  rest(): void {
    if (this.#isResting) return;
    this.#isResting = true;
    this.#watchReader();
    this.source?.rest();
    const { upstream, branches } = this;
    if (upstream === null || branches.some(isAsked)) return;
    for (const branch of branches) restingOf(branch).rest();
    restingOf(upstream).rest();
  }

  resume(): void {
    if (!this.#isResting) return;
    this.#isResting = false;
    const reader = get(this.#stream, slots.reader);
    Object.defineProperty(this.#stream, slots.reader, {
      value: reader,
      writable: true,
      enumerable: true,
      configurable: true,
    });
    this.source?.resume();
    if (this.upstream !== null) restingOf(this.upstream).resume();
  }

  /** Resumes when the stream gets another reader: the runtime's own tell nobody else. */
  #watchReader(): void {
    let reader = get(this.#stream, slots.reader);
    Object.defineProperty(this.#stream, slots.reader, {
      get: () => reader,
      set: (value) => {
        reader = value;
        if (value !== undefined) this.resume();
      },
      enumerable: true,
      configurable: true,
    });
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

/** Whether a read waits for a chunk of the stream. */
function isAsked(stream: ReadableStream): boolean {
  const reader = get(stream, slots.reader);
  const requests = get(reader, slots.readRequests) ??
    get(reader, slots.readIntoRequests);
  return requests !== undefined && requests.size > 0;
}

/** A read of a stream was taken back, or a reader has left it. */
export function leftAlone(stream: ReadableStream | undefined): void {
  if (stream === undefined || isAsked(stream)) return;
  // One that was made of another by the runtime itself, or by a program, is none of ours.
  restings.get(stream)?.rest();
}

/** A stream is about to be read. */
export function askedAgain(stream: ReadableStream | undefined): void {
  if (stream !== undefined) restings.get(stream)?.resume();
}

/** Tells what a stream gets its bytes by. */
export function setSource(stream: ReadableStream, source: StreamSource): void {
  restingOf(stream).source = source;
}

/** Finds out by what a stream gets its bytes, if it is one of the runtime's own. */
export function findSource(stream: ReadableStream): void {
  if (restings.get(stream)?.source != null || !isBacked(stream)) return;
  const controller = get(stream, slots.controller);
  const pull = get(controller, slots.pullAlgorithm);
  // It has none when it is over.
  if (pull === undefined) return;
  const begun = new Begun();
  setSource(stream, {
    rest: () => begun.unref(),
    resume: () => begun.ref(!isUnreffed(stream)),
  });
  set(controller, slots.pullAlgorithm, function (this: unknown) {
    return begun.watch(() => Reflect.apply(pull, this, arguments));
  });
}

/** Whether the runtime reads a stream from a resource. */
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

/** Notes that streams pass on what comes from another one. */
export function passOn(
  upstream: ReadableStream,
  branches: readonly ReadableStream[],
): void {
  findSource(upstream);
  for (const branch of branches) {
    const resting = restingOf(branch);
    resting.upstream = upstream;
    resting.branches = branches;
  }
}
