/**
 * Prints errors that no greenlet takes.
 *
 * @module
 */

import { GreenletExit } from "../greenlet.ts";
import { placesOf } from "./spawn_sites.ts";

/** Classes of errors that end a greenlet without being a failure. */
const endings: (abstract new () => Error)[] = [GreenletExit];

/**
 * Adds a class of errors that are not reported when a greenlet ends by them. gevent's
 * `NOT_ERROR`.
 */
export function addEnding(ending: abstract new () => Error): void {
  endings.push(ending);
}

/** Whether an error is one that ends a greenlet without being a failure. */
export function isEnding(error: unknown): boolean {
  return endings.some((ending) => error instanceof ending);
}

/**
 * Writes an error to stderr, and what has failed with it.
 *
 * @param context The greenlet or the callback that has failed.
 */
export function printError(context: unknown, error: unknown): void {
  const name = inWords(() =>
    typeof context === "function"
      ? context.name || "a callback"
      : String(context)
  );
  try {
    console.error(error);
  } catch {
    // A getter of the error may throw.
    console.error(inWords(() => String(error)));
  }
  const what = inWords(() => nameOf(error));
  const sites = placesOf(context).map((place, i) =>
    `\n    ${i === 0 ? "spawned" : "by a greenlet spawned"} at ${place}`
  );
  console.error(`${name} failed with ${what}${sites.join("")}`);
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error;
}

function inWords(say: () => string): string {
  try {
    return say();
  } catch {
    return "something that can't be shown";
  }
}
