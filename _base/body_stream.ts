/**
 * Passes the body of a response to the runtime, and notices when it is sent.
 *
 * @module
 */

import { isObject, show } from "./checks.ts";
import { markHandled } from "./language.ts";

/**
 * A body in memory of at most this many bytes counts as sent when the runtime has it: it fits
 * into the buffers of the system. A longer body is passed in pieces of this size, so that its
 * end is noticed.
 */
export const AT_ONCE = 64 * 1024;

/** Errors of bodies. The handler reports them, so those of the runtime are ignored. */
export const told = new WeakSet<object>();

/** A reader of a body, such as the result of `getReader()` of a stream. */
export interface BodyReader {
  read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>;
  cancel(reason: unknown): Promise<unknown>;
}

/** Reads a body in memory in pieces. */
export class Pieces implements BodyReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  read(): Promise<{ done: boolean; value: Uint8Array }> {
    const value = this.#bytes.subarray(this.#at, this.#at + AT_ONCE);
    this.#at += value.length;
    return Promise.resolve({ done: value.length === 0, value });
  }

  cancel(): Promise<void> {
    return Promise.resolve();
  }
}

/** The stream that the runtime reads a body from. Notices the end. */
export class BodyStream implements UnderlyingDefaultSource<Uint8Array> {
  readonly #reader: BodyReader;
  readonly #gone: () => void;
  readonly #over = Promise.withResolvers<void>();
  #controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  #isCut = false;
  /** The number of bytes that the runtime has got. */
  bytes = 0;

  /** @param gone Called when the client has gone. */
  constructor(reader: BodyReader, gone: () => void) {
    this.#reader = reader;
    this.#gone = gone;
    markHandled(this.#over.promise);
  }

  /** Settles when the body was sent, or has failed. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  /** Must be called when the runtime has sent the body. */
  readonly sent = (): void => this.#over.resolve();

  start(controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.#controller = controller;
  }

  async pull(
    controller: ReadableStreamDefaultController<Uint8Array>,
  ): Promise<void> {
    try {
      const { done, value } = await this.#reader.read();
      if (this.#isCut) return;
      if (done) return controller.close();
      if (!(value instanceof Uint8Array)) throw notBytes(value);
      this.bytes += value.byteLength;
      controller.enqueue(value);
    } catch (error) {
      if (this.#isCut) return;
      this.#isCut = true;
      if (isObject(error)) told.add(error);
      this.#over.reject(error);
      controller.error(error);
    }
  }

  /** Called by the runtime when it can't send the body any more. */
  cancel(): void {
    this.#gone();
  }

  /** Ends the body with an error, so that the client knows that the rest is missing. */
  cut(error: unknown): void {
    if (this.#isCut) return;
    this.#isCut = true;
    markHandled(Promise.resolve(this.#reader.cancel(error)));
    const reason = new Error("The response was cut off", { cause: error });
    told.add(reason);
    this.#controller?.error(reason);
  }
}

function notBytes(value: unknown): TypeError {
  return new TypeError(
    `Cannot send the body as its chunks must be of Uint8Array: received ${
      show(value)
    }`,
  );
}
