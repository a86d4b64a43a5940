/**
 * Prints errors that no greenlet takes.
 *
 * @module
 */

import { inWords, isInstance } from "../_base/checks.ts";
import { GreenletExit } from "../greenlet.ts";
import { waitThatThrew } from "./stacks.ts";
import { userFrames } from "../_base/frames.ts";
import { placesOf } from "./spawn_sites.ts";

/** Classes of errors that end a greenlet and are no failures. */
const endings: (abstract new () => Error)[] = [GreenletExit];

/**
 * Adds a class of errors that are no failures: they are not reported when they end a greenlet.
 * gevent's `NOT_ERROR`.
 */
export function addEnding(ending: abstract new () => Error): void {
  endings.push(ending);
}

/** Whether an error ends a greenlet and is no failure. */
export function isEnding(error: unknown): boolean {
  return endings.some((ending) => isInstance(error, ending));
}

/**
 * Writes an error to stderr, and the name of the greenlet or callback that has failed.
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
    withStacks(error, userFrames, () => console.error(error));
  } catch {
    // A getter of the error may throw.
    console.error(inWords(() => String(error)));
  }
  const wait = waitThatThrew(error);
  const what = inWords(() => nameOf(error)) +
    (wait === undefined ? "" : ` in ${wait}`);
  const sites = placesOf(context).map((place, i) =>
    `\n    ${i === 0 ? "spawned" : "by a greenlet spawned"} at ${place}`
  );
  console.error(`${name} failed with ${what}${sites.join("")}`);
}

/**
 * Calls a function while an error, and the errors inside it, have other stacks.
 *
 * @param change Returns a stack as it is to be shown.
 */
export function withStacks(
  error: unknown,
  change: (stack: string) => string,
  show: () => void,
): void {
  const before = new Map<Error, string>();
  const left = [error];
  while (left.length > 0) {
    const one = left.pop();
    if (!(one instanceof Error) || before.has(one)) continue;
    const { stack, cause } = one;
    if (typeof stack !== "string") continue;
    before.set(one, stack);
    left.push(cause);
    if (one instanceof AggregateError) left.push(...one.errors);
  }
  try {
    for (const [one, stack] of before) setStack(one, change(stack));
    show();
  } finally {
    for (const [one, stack] of before) setStack(one, stack);
  }
}

function setStack(error: Error, stack: string): void {
  // Does nothing if the error is frozen.
  Reflect.set(error, "stack", stack);
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error;
}
