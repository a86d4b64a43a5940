/**
 * Streams of the bytes that an inbox keeps.
 *
 * A stream takes its turn among all readers. If it has asked for bytes and is no longer read,
 * as its reader was released or an interrupt has undone the read, it leaves the queue, so that
 * the bytes are for the next reader of any kind.
 *
 * @module
 */

import { bare, property } from "../_base/language.ts";
import { type Bytes, BytesTaker, MOST_READ } from "./inbox.ts";
import { setSource } from "./stream_sources.ts";

type Readable = ReadableStream<Uint8Array<ArrayBuffer>>;

/** The answer to a pull of a stream: bytes, the end, or nothing as it has left the queue. */
type Pulled = Uint8Array<ArrayBuffer> | "end" | "left";

/** One turn of a stream. */
class Puller extends BytesTaker<void> {
  readonly #stream: Readable;
  readonly #max: number;
  readonly #take: (pulled: Pulled) => void;

  /** @param take Called in its turn, and not later: the stream may no longer be read then. */
  constructor(stream: Readable, max: number, take: (pulled: Pulled) => void) {
    super();
    this.#stream = stream;
    this.#max = max;
    this.#take = take;
  }

  override room(): number {
    return this.#max;
  }

  override isServedBy(kept: Bytes): boolean {
    return super.isServedBy(kept) || !this.#stream.locked;
  }

  override takeFrom(kept: Bytes): void {
    if (!this.#stream.locked) return this.#take("left");
    if (kept.length > 0) {
      return this.#take(kept.takeChunk(Math.min(this.#max, kept.length)));
    }
    kept.takeEnd();
    this.#take("end");
  }

  /** Leaves the queue, if it is in it. */
  leave(): void {
    if (this.list === null) return;
    this.list.leave(this);
    this.#take("left");
    this.switch(undefined);
  }

  /** Leaves the queue if the stream has no reader any more. */
  leaveUnlessRead(): void {
    if (!this.#stream.locked) this.leave();
  }
}

/**
 * Makes the stream of an inbox. It is a `ReadableStream` of the runtime.
 *
 * @param findBytes Returns the inbox.
 * @param close Called at the end, at an error, and when the stream is cancelled.
 * @param errorOf Returns the error of the stream for the error of a read.
 */
export function byteStreamOf(
  findBytes: () => Bytes,
  close: () => void,
  errorOf: (error: unknown) => unknown,
): Readable {
  let controller: ReadableByteStreamController;
  let puller: Puller | null = null;
  /**
   * Whether a former reader has left a buffer that is not filled. The stream then does not ask for
   * bytes for the next reader, as it would fill that buffer first. So the next reader is noticed
   * here, and gets one byte first, which releases the buffer.
   */
  let isOwed = false;
  async function pull(): Promise<void> {
    if (puller !== null) return;
    const view = controller.byobRequest?.view;
    const max = view == null ? MOST_READ : isOwed ? 1 : view.byteLength;
    isOwed = false;
    puller = new Puller(stream, max, take);
    try {
      await findBytes().pull(puller);
    } catch (error) {
      puller = null;
      controller.error(errorOf(error));
      close();
    }
  }
  function take(pulled: Pulled): void {
    puller = null;
    if (pulled === "left") {
      isOwed = controller.byobRequest !== null;
    } else if (pulled === "end") {
      close();
      controller.close();
      controller.byobRequest?.respond(0);
    } else {
      // This also fills the buffer of a reader that waits.
      controller.enqueue(pulled);
    }
  }
  function resume(): void {
    if (isOwed && controller.byobRequest !== null) pull();
  }
  function getReader(this: unknown, options: unknown): object {
    const { getReader } = ReadableStream.prototype;
    const reader: object = Reflect.apply(getReader, this, [options]);
    // The pending turn is for the former reader, which may have asked for more bytes.
    puller?.leave();
    if (reader instanceof ReadableStreamBYOBReader) resume();
    return reader;
  }
  const source: UnderlyingByteSource = bare({
    type: "bytes",
    start(given) {
      controller = given;
    },
    pull,
    cancel: close,
  });
  const stream: Readable = new ReadableStream(source);
  Object.defineProperty(
    stream,
    "getReader",
    property({ value: getReader, writable: true, configurable: true }),
  );
  setSource(stream, {
    rest: () => puller?.leave(),
    resume,
    answersLate: false,
  });
  return stream;
}
