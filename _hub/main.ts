/**
 * The main greenlet, and how errors that no greenlet takes reach it.
 *
 * @module
 */

import { isInstance, isObject } from "../_base/checks.ts";
import { then } from "../_base/language.ts";
import { getCurrent, type Greenlet } from "../greenlet.ts";
import { isThenable } from "../_base/thenable.ts";
import { isEnding, printError } from "./print.ts";

/** The core's main greenlet. It runs whenever no other greenlet runs. */
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
 * Tells the hub when the promise that a callback of the program has returned rejects.
 *
 * @param tell Tells the hub of an error.
 */
export function reportRejection(
  callback: unknown,
  result: unknown,
  tell: (context: unknown, error: unknown) => void = report,
): void {
  // Of another thenable, such as a query, `then` may begin something.
  if (!isObject(result) || !isInstance(result, Promise)) return;
  then(result, undefined, (error) => tell(callback, error));
}

/**
 * Passes an error that no greenlet takes to `hub.handleError()`. Never throws: if a handler of
 * the user fails, both errors are printed.
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
