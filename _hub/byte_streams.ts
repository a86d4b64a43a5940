/**
 * Streams of the bytes that an inbox keeps.
 *
 * A stream takes its turn with all others that read. When it asks for bytes and is not read
 * any more, as its reader was released or an interrupt has taken the read back, it leaves the
 * line, so that what comes is for the next reader of whatever kind.
 *
 * @module
 */

import { bare, property } from "../_base/language.ts";
import { type Bytes, BytesTaker, MOST_READ } from "./inbox.ts";
import { setSource } from "./stream_sources.ts";

type Readable = ReadableStream<Uint8Array<ArrayBuffer>>;

/** What a stream gets: bytes, the end, or nothing as it has left the line. */
type Pulled = Uint8Array<ArrayBuffer> | "end" | "left";

/** One turn of a stream. */
export class Puller extends BytesTaker<Pulled> {
  readonly #stream: Readable;
  readonly #max: number;
  readonly #left: () => void;

  /** @param left Called when it has left the line. */
  constructor(stream: Readable, max: number, left: () => void) {
    super();
    this.#stream = stream;
    this.#max = max;
    this.#left = left;
  }

  override room(): number {
    return this.#max;
  }

  override isServedBy(kept: Bytes): boolean {
    return super.isServedBy(kept) || !this.#stream.locked;
  }

  override takeFrom(kept: Bytes): Pulled {
    if (!this.#stream.locked) {
      this.#left();
      return "left";
    }
    if (kept.length > 0) {
      return kept.takeChunk(Math.min(this.#max, kept.length));
    }
    kept.takeEnd();
    return "end";
  }

  /** Leaves the line, if it is in it. */
  leave(): void {
    if (this.list === null) return;
    this.list.leave(this);
    this.#left();
    this.switch("left");
  }

  /** Leaves the line if the stream has no reader any more. */
  leaveUnlessRead(): void {
    if (!this.#stream.locked) this.leave();
  }
}

/**
 * Makes the stream of an inbox: for its users it is one of the runtime's own.
 *
 * @param findBytes Gives the inbox.
 * @param close Called at the end, at an error, and when the stream is cancelled.
 * @param errorOf Makes the error of the stream of that of a read.
 */
export function byteStreamOf(
  findBytes: () => Bytes,
  close: () => void,
  errorOf: (error: unknown) => unknown,
): Readable {
  let controller: ReadableByteStreamController;
  let puller: Puller | null = null;
  /** Whether a reader has left memory to be filled, for which the stream asks only once. */
  let isOwed = false;
  async function pull(): Promise<void> {
    if (puller !== null) return;
    if (isOwed) settle();
    const view = controller.byobRequest?.view;
    const mine = puller = new Puller(
      stream,
      view?.byteLength ?? MOST_READ,
      left,
    );
    try {
      const pulled = await findBytes().pull(mine);
      if (pulled === "left") return;
      if (pulled === "end") {
        close();
        controller.close();
        controller.byobRequest?.respond(0);
      } else {
        // Which fills the memory of a reader as well.
        controller.enqueue(pulled);
      }
    } catch (error) {
      controller.error(errorOf(error));
      close();
    } finally {
      if (puller === mine) puller = null;
    }
  }
  function left(): void {
    puller = null;
    if (controller.byobRequest === null) return;
    isOwed = true;
    // The next reader with memory of its own would wait for ever, and only `patch()` tells us
    // that the stream is read again.
    const { getReader } = ReadableStream.prototype;
    function value(this: unknown, options: unknown): object {
      const reader: object = Reflect.apply(getReader, this, [options]);
      if (reader instanceof ReadableStreamBYOBReader) resume();
      return reader;
    }
    Object.defineProperty(
      stream,
      "getReader",
      property({ value, writable: true, configurable: true }),
    );
  }
  function settle(): void {
    isOwed = false;
    Reflect.deleteProperty(stream, "getReader");
  }
  function resume(): void {
    if (!isOwed) return;
    if (controller.byobRequest === null) settle();
    else pull();
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
  setSource(stream, {
    rest: () => puller?.leave(),
    resume,
    answersLate: false,
  });
  return stream;
}
