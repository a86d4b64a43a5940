/**
 * The `resolve` and `reject` functions of a native promise.
 *
 * @module
 */

import { isObject } from "../_base/checks.ts";
import { standIn } from "../_hub/interrupts.ts";

/**
 * Rejects a promise with either of its two functions, as we can't tell which one it is. The
 * value that is passed has a getter `then` that throws the error: `resolve` reads it, so the
 * promise rejects with the error. For `reject` the value is the reason. It inherits from the
 * error, and so has the error's properties and class.
 */
export function rejectBy(
  settle: (value: unknown) => unknown,
  error: unknown,
): void {
  const reason = Object.create(isObject(error) ? error : null, {
    then: {
      get() {
        throw error;
      },
      configurable: true,
    },
  });
  standIn(reason, error);
  settle(reason);
  delete reason.then;
}

/** The source text of a promise's own function. Node 20 has no `Promise.withResolvers`. */
const NATIVE = (() => {
  let source = "";
  new Promise((resolve) => {
    source = Function.prototype.toString.call(resolve);
  });
  return source;
})();

/** Whether a function is the `resolve` or `reject` of a native promise. */
export function isResolver(callback: unknown): boolean {
  return typeof callback === "function" && callback.length === 1 &&
    callback.name === "" &&
    !Object.hasOwn(callback, "prototype") &&
    Function.prototype.toString.call(callback) === NATIVE;
}
