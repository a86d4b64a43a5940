/**
 * Streams of numbered bytes, and what they bring.
 *
 * @module
 */

import { sleep } from "../../mod.ts";
import { tick } from "../_random.ts";
import { Interrupts } from "../_waits.ts";

/** The byte at an offset of a stream of numbered bytes. */
function byteAt(offset: number): number {
  return (offset * 31 + (offset >> 8) * 17 + (offset >> 16)) & 255;
}

/** Checks the bytes that were read, and counts the reads and interrupts. */
export class Received extends Interrupts {
  length = 0;
  reads = 0;
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

// Taken at import: it waits until both branches are cancelled, and in a greenlet an interrupt
// could be thrown into that wait alone, where it is no use to a test of reads.
const { cancel } = ReadableStream.prototype;

/** One of two branches, when the other is cancelled. */
function oneOf([one, two]: ReadableStream<Uint8Array>[]) {
  cancel.call(two!);
  return one!;
}

/** The value in a slot of a stream, or of an object that belongs to it. */
// deno-lint-ignore no-explicit-any -- of the runtime
function slotOf(object: object, name: string): any {
  const symbol = Object.getOwnPropertySymbols(object).find((symbol) =>
    symbol.description === `[[${name}]]`
  );
  return Reflect.get(object, symbol!);
}

/** The number of bytes that have come into a stream of bytes and were not read yet. */
export function bytesIn(stream: ReadableStream): number {
  const controller = slotOf(stream, "controller");
  const pulls = slotOf(controller, "pendingPullIntos");
  // A read that wants more has them already.
  const filled = pulls.size > 0 ? pulls.peek().bytesFilled : 0;
  return slotOf(controller, "queueTotalSize") + filled;
}

/** Waits for some interrupts, if there are any to come; and then for a moment, or for none. */
export async function dawdle(
  next: () => number,
  interrupts?: Interrupts,
): Promise<void> {
  await interrupts?.more(Math.floor(next() * 3));
  const choice = next();
  if (choice < 0.2) await tick(next());
  else if (choice < 0.4) await sleep(next());
  else if (choice < 0.6) await sleep(0);
}

/**
 * Streams of numbered bytes, as many kinds as there are. Each goes on when it is read with
 * some interrupts, if it is given them.
 */
export const sources: Record<
  string,
  (
    length: number,
    next: () => number,
    interrupts?: Interrupts,
  ) => ReadableStream<Uint8Array>
> = {
  "a pull source": (length, next, interrupts) => {
    const left = pieces(length, next)[Symbol.iterator]();
    return new ReadableStream({
      async pull(controller) {
        await dawdle(next, interrupts);
        const { value, done } = left.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
    }, { highWaterMark: Math.floor(next() * 3) });
  },
  "a push source": (length, next, interrupts) =>
    new ReadableStream({
      start(controller) {
        (async () => {
          for (const piece of pieces(length, next)) {
            await dawdle(next, interrupts);
            controller.enqueue(piece);
          }
          controller.close();
        })();
      },
    }),
  "a byte source": (length, next, interrupts) => {
    const left = pieces(length, next)[Symbol.iterator]();
    let rest = new Uint8Array(0);
    return new ReadableStream({
      type: "bytes",
      async pull(controller) {
        await dawdle(next, interrupts);
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
  "a source that waits when it starts": (length, next, interrupts) =>
    new ReadableStream({
      async start(controller) {
        for (const piece of pieces(length, next)) {
          await dawdle(next, interrupts);
          controller.enqueue(piece);
        }
        controller.close();
      },
    }),
  "a generator": (length, next, interrupts) => {
    async function* generate() {
      for (const piece of pieces(length, next)) {
        await dawdle(next, interrupts);
        yield piece;
      }
    }
    return ReadableStream.from(generate()) as ReadableStream<Uint8Array>;
  },
  "a chain": (length, next, interrupts) =>
    sources["a pull source"]!(length, next, interrupts)
      .pipeThrough(new TransformStream())
      .pipeThrough(
        new TransformStream({
          async transform(chunk, controller) {
            await dawdle(next, interrupts);
            controller.enqueue(chunk);
          },
        }),
      ),
  "a branch": (length, next, interrupts) =>
    oneOf(sources["a pull source"]!(length, next, interrupts).tee()),
  "a branch of bytes": (length, next, interrupts) =>
    oneOf(sources["a byte source"]!(length, next, interrupts).tee()),
};
