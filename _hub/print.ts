/**
 * Which errors are printed, and how.
 *
 * @module
 */

import { GreenletExit } from "../greenlet.ts";

/** Classes of errors that end a greenlet without being a failure. */
const endings: (abstract new () => Error)[] = [GreenletExit];

/** Has errors of a class not reported when a greenlet ends by them. gevent's `NOT_ERROR`. */
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
 * @param context What has failed: a greenlet, or a callback.
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
    // Such as a getter of it that throws.
    console.error(inWords(() => String(error)));
  }
  console.error(`${name} failed with ${inWords(() => nameOf(error))}`);
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
