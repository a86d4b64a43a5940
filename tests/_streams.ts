/**
 * Streams of numbered bytes, and what they bring.
 *
 * @module
 */

import { sleep } from "../mod.ts";
import { tick } from "./_random.ts";

/** The byte at an offset of a stream of numbered bytes. */
function byteAt(offset: number): number {
  return (offset * 31 + (offset >> 8) * 17 + (offset >> 16)) & 255;
}

/** What has been read. */
export class Received {
  length = 0;
  reads = 0;
  interrupts = 0;
  ended = false;

  take({ value, done }: ReadableStreamReadResult<Uint8Array>): void {
    this.ended = done;
    // At the end there may be less than was asked for, and not nothing.
    for (const byte of value ?? []) {
      if (byte !== byteAt(this.length)) {
        throw new Error(
          `Byte ${this.length} is ${byte} and not ${byteAt(this.length)}`,
        );
      }
      this.length++;
    }
  }
}

/** Numbered bytes in random pieces. */
export function* pieces(
  length: number,
  next: () => number,
): Iterable<Uint8Array<ArrayBuffer>> {
  for (let sent = 0; sent < length;) {
    const size = Math.min(1 + Math.floor(next() * 40), length - sent);
    yield Uint8Array.from({ length: size }, (_, i) => byteAt(sent + i));
    sent += size;
  }
}

/** Waits for a moment, or for none. */
export async function dawdle(next: () => number): Promise<void> {
  const choice = next();
  if (choice < 0.4) await tick(next() * 2);
  else if (choice < 0.7) await sleep(next());
}

/** Streams of numbered bytes, as many kinds as there are. */
export const sources: Record<
  string,
  (length: number, next: () => number) => ReadableStream<Uint8Array>
> = {
  "a source that is asked": (length, next) => {
    const left = pieces(length, next)[Symbol.iterator]();
    return new ReadableStream({
      async pull(controller) {
        await dawdle(next);
        const { value, done } = left.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
    }, { highWaterMark: Math.floor(next() * 3) });
  },
  "a source that sends": (length, next) =>
    new ReadableStream({
      start(controller) {
        (async () => {
          for (const piece of pieces(length, next)) {
            await dawdle(next);
            controller.enqueue(piece);
          }
          controller.close();
        })();
      },
    }),
  "a source of bytes": (length, next) => {
    const left = pieces(length, next)[Symbol.iterator]();
    let rest = new Uint8Array(0);
    return new ReadableStream({
      type: "bytes",
      async pull(controller) {
        await dawdle(next);
        if (rest.length === 0) {
          const { value, done } = left.next();
          if (done) {
            controller.close();
            controller.byobRequest?.respond(0);
            return;
          }
          rest = value;
        }
        const view = controller.byobRequest?.view;
        if (view && next() < 0.8) {
          const bytes = new Uint8Array(
            view.buffer,
            view.byteOffset,
            view.byteLength,
          );
          const count = Math.min(bytes.length, rest.length);
          bytes.set(rest.subarray(0, count));
          rest = rest.slice(count);
          controller.byobRequest!.respond(count);
        } else {
          controller.enqueue(rest);
          rest = new Uint8Array(0);
        }
      },
      ...next() < 0.5 ? { autoAllocateChunkSize: 16 } : {},
    } as UnderlyingByteSource) as ReadableStream<Uint8Array>;
  },
  "a source that waits when it starts": (length, next) =>
    new ReadableStream({
      async start(controller) {
        for (const piece of pieces(length, next)) {
          await dawdle(next);
          controller.enqueue(piece);
        }
        controller.close();
      },
    }),
  "a generator": (length, next) => {
    async function* generate() {
      for (const piece of pieces(length, next)) {
        await dawdle(next);
        yield piece;
      }
    }
    return ReadableStream.from(generate()) as ReadableStream<Uint8Array>;
  },
  "a chain": (length, next) =>
    sources["a source that is asked"]!(length, next)
      .pipeThrough(new TransformStream())
      .pipeThrough(
        new TransformStream({
          async transform(chunk, controller) {
            await dawdle(next);
            controller.enqueue(chunk);
          },
        }),
      ),
  "a branch": (length, next) => {
    const [one, two] = sources["a source that is asked"]!(length, next).tee();
    two.cancel();
    return one;
  },
  "a branch of bytes": (length, next) => {
    const [one, two] = sources["a source of bytes"]!(length, next).tee();
    two.cancel();
    return one;
  },
};
