/**
 * Signals by which an interrupt cancels what the runtime does.
 *
 * @module
 */

import { iterableOf, then, withOptions } from "../_base/language.ts";
import { operate } from "./operation.ts";
import type { Scope } from "./scope.ts";
import type { Wait } from "./suspension.ts";
import { connectingTo } from "./waits.ts";

/** Adds a signal to options, which cancels as well as the one that the caller has given. */
export function addSignal(options: unknown, ours: AbortSignal): unknown {
  // For the runtime to complain of, as of an array.
  const isOptions = typeof options === "object" && options !== null &&
    !Array.isArray(options);
  if (!isOptions) return options;
  const theirs = (options as { signal?: unknown }).signal ?? undefined;
  if (theirs !== undefined && !(theirs instanceof AbortSignal)) return options;
  const signal = theirs === undefined ? ours : eitherOf(theirs, ours);
  // The runtime asks once more when the result is there, and to throw would lose it.
  signal.throwIfAborted = () => theirs?.throwIfAborted();
  return withOptions(options, { signal });
}

/** A signal that is aborted when one of two is. */
export function eitherOf(one: AbortSignal, other: AbortSignal): AbortSignal {
  return AbortSignal.any(iterableOf(one, other) as AbortSignal[]);
}

/**
 * Connects, such that an interrupt cancels it. One that is made nevertheless is closed.
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
