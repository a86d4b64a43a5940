/**
 * The generators from which `Readable.from()` of `node:stream` makes streams, for the part `node` of
 * `patch()`.
 *
 * `patch()` calls the functions of a stream outside greenlets, and a generator that waits would go
 * on waiting when its stream has ended. So it has a scope of its own. When an interrupt ends the
 * stream, this scope is interrupted, and the generator runs its `finally` blocks.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { interruptibleScope, runIn } from "../_hub/current.ts";
import { isInterrupt } from "../_hub/interrupts.ts";
import { main } from "../_hub/main.ts";
import { endWith, Scope } from "../_hub/scope.ts";
import { findWrapped } from "../_hub/wrapped.ts";
import { override } from "./foreign.ts";
import type { Patches } from "./patch_set.ts";

type From = (
  this: unknown,
  iterable: unknown,
  ...options: unknown[]
) => object;

type Step = (value?: unknown) => Promise<unknown>;

/** The methods of an iterator. */
const STEPS = ["next", "return", "throw"] as const;

const sources = new WeakMap<object, Source>();

/** Patches `Readable.from()`. */
export function patchFrom(patches: Patches, Readable: object): void {
  patches.replaceIfAllowed<From>(
    Readable,
    "from",
    (from) =>
      function (iterable, ...options) {
        const isOurs = interruptibleScope() !== null && isGenerator(iterable);
        if (!isOurs) return Reflect.apply(from, this, arguments as never);
        const source = new Source(iterable);
        const stream = Reflect.apply(from, this, [source, ...options]);
        sources.set(stream, source);
        // A pipeline destroys its streams with an error that wraps the interrupt.
        override(stream, "_destroy", (destroy) => (error, done) => {
          const [interrupt] = findWrapped(error, isInterrupt) ?? [];
          if (interrupt !== undefined) source.end(interrupt);
          return Reflect.apply(destroy, stream, [error, done]);
        });
        return stream;
      },
  );
}

/** Ends what the generator of a stream waits for. The stream is destroyed afterwards. */
export function endSourceOf(stream: object, error: unknown): void {
  sources.get(stream)?.end(error);
}

function isGenerator(iterable: unknown): iterable is AsyncGenerator<unknown> {
  return Object.prototype.toString.call(iterable) === "[object AsyncGenerator]";
}

/** A generator that runs in a scope of its own. */
class Source {
  readonly #scope = new Scope(main);
  readonly #generator: AsyncGenerator<unknown>;
  /** The number of calls that have not ended. */
  #calls = 0;

  constructor(generator: AsyncGenerator<unknown>) {
    this.#generator = generator;
  }

  [Symbol.asyncIterator](): Record<string, Step> {
    return Object.fromEntries(
      STEPS.map((name) => [name, (value) => this.#call(name, value)]),
    );
  }

  #call(name: typeof STEPS[number], value: unknown): Promise<unknown> {
    this.#calls++;
    const over = () => void this.#calls--;
    const result = runIn(this.#scope, () => this.#generator[name](value));
    then(result, over, over);
    return result;
  }

  end(error: unknown): void {
    // A generator that is suspended in a `yield` waits for nothing.
    if (this.#calls > 0) endWith(this.#scope, error);
  }
}
