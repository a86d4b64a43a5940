/**
 * The main greenlet, and the way to it for errors that no greenlet takes.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { getCurrent, type Greenlet } from "../greenlet.ts";
import { isThenable } from "../_base/thenable.ts";
import { isEnding, printError } from "./print.ts";

/** The core's main greenlet, which runs whenever no other greenlet does. */
export const main: Greenlet = (() => {
  let ancestor = getCurrent();
  while (ancestor.parent !== null) ancestor = ancestor.parent;
  return ancestor;
})();

/** The method that the hub adds to the main greenlet. */
interface ErrorHandler {
  handleError(context: unknown, error: unknown): unknown;
}

/**
 * Tells the hub of an error that no greenlet takes. If a handler of the user's fails, its
 * error is printed with the one that it was told of, and nothing is thrown here.
 */
export function report(context: unknown, error: unknown): void {
  if (isEnding(error)) return;
  const failed = (thrown: unknown) => {
    printError(context, error);
    printError("hub.handleError()", thrown);
  };
  try {
    const result: unknown = (main as Greenlet & ErrorHandler).handleError(
      context,
      error,
    );
    if (isThenable(result)) then(result, undefined, failed);
  } catch (thrown) {
    failed(thrown);
  }
}
