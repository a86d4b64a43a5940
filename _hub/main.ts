/**
 * The main greenlet, and how errors reach it that no greenlet takes.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { getCurrent, type Greenlet } from "../greenlet.ts";
import { isThenable } from "../_base/thenable.ts";
import { isEnding, printError } from "./print.ts";

/** What runs whenever no greenlet does: the core's main greenlet. */
export const main: Greenlet = (() => {
  let ancestor = getCurrent();
  while (ancestor.parent !== null) ancestor = ancestor.parent;
  return ancestor;
})();

/** What the hub adds to the main greenlet. */
interface ErrorHandler {
  handleError(context: unknown, error: unknown): unknown;
}

/**
 * Tells the hub of an error that no greenlet takes. A handler of the user's own that fails
 * is reported with what it was told of, and nobody who happens to report fails by it.
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
