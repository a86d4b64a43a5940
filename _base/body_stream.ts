/**
 * The body of an answer on its way to the runtime, that sends it.
 *
 * @module
 */

import { isObject, show } from "./checks.ts";
import { markHandled } from "./language.ts";

/**
 * Of a body that is there as a whole, how many bytes are sent when the runtime has them: they
 * fit into the buffers of the system. Of a longer one we learn by sending it in such pieces.
 */
export const AT_ONCE = 64 * 1024;

/** Errors of bodies, which are their handler's: the runtime tells of them as well. */
export const told = new WeakSet<object>();

/** A reader of a body, as `getReader()` of a stream gives one. */
export interface BodyReader {
  read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>;
  cancel(reason: unknown): Promise<unknown>;
}

/** A body that is there as a whole, in pieces. */
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

/** Passes a body on to the runtime, and reports its end. */
export class BodyStream implements UnderlyingDefaultSource<Uint8Array> {
  readonly #reader: BodyReader;
  readonly #gone: () => void;
  readonly #over = Promise.withResolvers<void>();
  #controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  #isCut = false;
  /** The number of bytes that were handed on. */
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

  /** To be called when the runtime has sent it. */
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

  /** The runtime can't send it any more. */
  cancel(): void {
    this.#gone();
  }

  /** Ends it before its end: the client must not take it for the whole. */
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
