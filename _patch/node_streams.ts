/**
 * Streams of `node:stream`, for the part `node` of `patch()`: loops over a stream, and
 * `node:stream/promises`.
 *
 * Loops are patched in the classes of streams. So loops of the runtime's own functions are
 * patched as well, such as those of `text()` of `node:stream/consumers` and `stream.toArray()`.
 *
 * @module
 */

import { ignore, property, then } from "../_base/language.ts";
import { getBuiltin } from "../_base/builtin.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { classOf } from "../_hub/waits.ts";
import { cooperateBySignal } from "./cooperate.ts";
import { override } from "./foreign.ts";
import { leavable, leave } from "./leaving.ts";
import { onStreamClass, type StreamClass } from "./net_node.ts";
import { endSourceOf, patchFrom } from "./node_sources.ts";
import type { Patches } from "./patch_set.ts";

/** The part of `stream.Readable` that is used here. */
interface Readable {
  readonly readableEnded?: boolean;
  destroy(): unknown;
  unshift(chunk: unknown): unknown;
  eventNames(): (string | symbol)[];
  rawListeners(event: string | symbol): Listener[];
  removeListener(event: string | symbol, listener: Listener): unknown;
}

type Listener = (...args: unknown[]) => void;

/** A method that makes the iterator of a stream. There are two. */
type Iterate = (
  this: Readable,
  options?: { destroyOnReturn?: boolean },
) => AsyncIterator<unknown>;

type Asking = (this: unknown, ...args: unknown[]) => Promise<unknown>;

/**
 * Patches each class of streams when its first stream is made. Patches the module now if it may be
 * loaded, as a program may take a function from it before it makes a stream.
 */
export function patchNodeStreams(patches: Patches, areLoaded: boolean): void {
  const seen = new Set<StreamClass>();
  const patch = (base: StreamClass) => {
    if (seen.has(base)) return;
    seen.add(base);
    patchIteration(patches, base);
    // Loads the module, even if the class is one of a package.
    if (base === getBuiltin("node:stream") as unknown) patchFunctions(patches);
  };
  if (areLoaded) patch(getBuiltin("node:stream") as unknown as StreamClass);
  onStreamClass(patches, patch);
}

function patchFunctions(patches: Patches): void {
  const promises = getBuiltin("node:stream/promises");
  patches.replaceIfAllowed<Asking>(promises, "pipeline", cooperativePipeline);
  patches.replaceIfAllowed<Asking>(
    promises,
    "finished",
    (finished) => cooperateBySignal(finished, 1),
  );
  const stream = getBuiltin("node:stream");
  for (const name of ["pipeline", "finished"] as const) {
    patches.replaceIfAllowed<Asking>(
      stream,
      name,
      (original) => promisifiedAs(original, () => promises[name]),
    );
  }
  // The getter returns a module namespace, which can't be changed. So the getter is replaced.
  patches.replaceGetter(
    stream,
    "promises",
    () => () => promises,
  );
}

/** A function with a callback, for which `util.promisify` gives another one. */
function promisifiedAs(original: Asking, get: () => unknown): Asking {
  const same: Asking = function () {
    return Reflect.apply(original, this, arguments as never);
  };
  const { custom } = getBuiltin("node:util").promisify;
  // For good: else it would get that of the original.
  Object.defineProperty(same, custom, property({ get, enumerable: true }));
  return same;
}

function patchIteration(patches: Patches, { Readable }: StreamClass): void {
  if (Readable === undefined) return;
  patchFrom(patches, Readable);
  for (const name of [Symbol.asyncIterator, "iterator"]) {
    patches.replaceIfAllowed<Iterate>(
      Readable.prototype,
      name,
      (iterate) =>
        function (options) {
          const iterator = Reflect.apply(iterate, this, arguments as never);
          // A stream of the old kind is wrapped in another one.
          const { stream = this } = iterator as { stream?: Readable };
          const keepsStream = name === "iterator" &&
            options?.destroyOnReturn === false;
          const stopListening = keepsStream
            ? noteListeners(iterator, stream)
            : ignore;
          return leavable(iterator, {
            text: () => `for await of ${classOf(this)}`,
            listens: true,
            close(error, next) {
              if (!keepsStream) endSourceOf(stream, error);
              leave(iterator);
              // The loop ends at once, as on `break`. The stream is closed later.
              if (!keepsStream) stream.destroy();
              else if (next !== undefined) {
                giveBack(stream, next);
                stopListening();
              }
              return Promise.resolve();
            },
          });
        },
    );
  }
}

/**
 * Notes which listeners the first `next()` of a loop adds to its stream.
 *
 * @returns Removes them. The loop's own `return()` does so only when the stream has a chunk, and
 * the streams that are kept may have none for long.
 */
function noteListeners(
  iterator: AsyncIterator<unknown>,
  stream: Readable,
): () => void {
  const added: [event: string | symbol, listener: Listener][] = [];
  const listeners = () =>
    stream.eventNames().flatMap((event) =>
      stream.rawListeners(event).map((listener) => [event, listener] as const)
    );
  override(iterator, "next", (next) =>
    function (this: unknown) {
      const before = new Set(listeners().map(([, listener]) => listener));
      const result = Reflect.apply(next, this, arguments);
      if (added.length === 0) {
        for (const [event, listener] of listeners()) {
          if (!before.has(listener)) added.push([event, listener]);
        }
      }
      return result;
    });
  return () => {
    for (const [event, listener] of added) {
      stream.removeListener(event, listener);
    }
  };
}

/** Puts the chunk of a pending `next()` back into its stream, after the loop was left. */
function giveBack(
  stream: Readable,
  next: Promise<IteratorResult<unknown>>,
): void {
  then(next, ({ done, value }) => {
    if (!done && !stream.readableEnded) stream.unshift(value);
  }, ignore);
}

function cooperativePipeline(pipeline: Asking): Asking {
  return function (...args) {
    if (interruptibleScope() === null) {
      return Reflect.apply(pipeline, this, args);
    }
    const last = args.at(-1);
    const at = isOptions(last) ? args.length - 1 : args.length;
    return Reflect.apply(cooperateBySignal(pipeline, at), this, args);
  };
}

/** Whether the last argument of a pipeline holds options, and is no stream and no iterable. */
function isOptions(last: unknown): boolean {
  if (typeof last !== "object" || last === null) return false;
  return !STREAM_PROPERTIES.some((name) => name in last);
}

const STREAM_PROPERTIES: readonly PropertyKey[] = [
  Symbol.asyncIterator,
  Symbol.iterator,
  "_readableState",
  "_writableState",
  "pipe",
  "write",
  // Of the language's streams
  "getReader",
  "getWriter",
  "readable",
];
