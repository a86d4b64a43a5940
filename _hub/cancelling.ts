/**
 * Abort signals by which an interrupt cancels an operation of the runtime.
 *
 * @module
 */

import { iterableOf, then, withOptions } from "../_base/language.ts";
import { operate } from "./operation.ts";
import type { Scope } from "./scope.ts";
import type { Wait } from "./suspension.ts";
import { connectingTo } from "./waits.ts";

/** Adds an abort signal to options, beside the signal that the caller has passed. */
export function addSignal(options: unknown, ours: AbortSignal): unknown {
  // If the options are no object, the runtime throws the right error.
  const isOptions = typeof options === "object" && options !== null &&
    !Array.isArray(options);
  if (!isOptions) return options;
  const theirs = (options as { signal?: unknown }).signal ?? undefined;
  // The runtime throws the error for the wrong value.
  if (theirs !== undefined && !(theirs instanceof AbortSignal)) return options;
  const signal = theirs === undefined ? ours : eitherOf(theirs, ours);
  // The runtime calls this once more when it has the result: throwing then would lose the
  // result.
  signal.throwIfAborted = () => theirs?.throwIfAborted();
  return withOptions(options, { signal });
}

/** A signal that is aborted when one of two is. */
export function eitherOf(one: AbortSignal, other: AbortSignal): AbortSignal {
  return AbortSignal.any(iterableOf(one, other) as AbortSignal[]);
}

/**
 * Connects; an interrupt cancels that. A connection that is made nevertheless is closed.
 *
 * @param connect Connects with these options.
 * @param made Called with the connection before anything else has it.
 */
export function connectIn<C extends Deno.Conn>(
  scope: Scope,
  connect: (options: Deno.ConnectOptions) => Promise<Deno.Conn>,
  options: object,
  made: (conn: Deno.Conn) => C,
): Wait<C> {
  const abort = new AbortController();
  const given = addSignal(options, abort.signal) as Deno.ConnectOptions;
  return operate(
    scope,
    then(connect(given), made),
    () => connectingTo(options),
    (error) => abort.abort(error),
    (conn) => conn.close(),
  );
}
