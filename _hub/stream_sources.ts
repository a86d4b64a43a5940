/**
 * By what streams of ours get their bytes.
 *
 * @module
 */

/** The source of a stream's bytes. It may keep the process alive. */
export interface StreamSource {
  /** Has it not keep the process alive, as nothing waits for the stream. */
  rest(): void;
  /** Has it do so. */
  resume(): void;
  /** Whether it answers what it was asked for before it had to rest. */
  readonly answersLate: boolean;
}

const sources = new WeakMap<ReadableStream, StreamSource>();

/** Tells what a stream gets its bytes by. */
export function setSource(stream: ReadableStream, source: StreamSource): void {
  sources.set(stream, source);
}

/** The source of a stream's bytes, if it is known. */
export function sourceOf(stream: ReadableStream): StreamSource | undefined {
  return sources.get(stream);
}
