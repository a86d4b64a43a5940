/**
 * The sources from which the library's streams get their bytes.
 *
 * @module
 */

/** The source of a stream's bytes. It may keep the process alive. */
export interface StreamSource {
  /** Lets the process end, as nothing waits for the stream. */
  rest(): void;
  /** Lets the source keep the process alive again. */
  resume(): void;
  /** Whether it still answers a pull from before `rest()`. */
  readonly answersLate: boolean;
}

const sources = new WeakMap<ReadableStream, StreamSource>();

/** Notes the source of a stream's bytes. */
export function setSource(stream: ReadableStream, source: StreamSource): void {
  sources.set(stream, source);
}

/** The source of a stream's bytes, if it is known. */
export function sourceOf(stream: ReadableStream): StreamSource | undefined {
  return sources.get(stream);
}
