/**
 * The two functions of a promise that the language has made.
 *
 * @module
 */

import { isObject } from "../_base/checks.ts";
import { standIn } from "../_hub/interrupts.ts";

/**
 * Makes a promise reject, by whichever of its two functions. To `resolve` we give what
 * throws when asked whether it is a thenable; to `reject` it is a reason that is the
 * error in all but identity.
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

/** The source of a promise's own function; Node 20 has no `Promise.withResolvers`. */
const NATIVE = (() => {
  let source = "";
  new Promise((resolve) => {
    source = Function.prototype.toString.call(resolve);
  });
  return source;
})();

/** Whether a function can be nothing but a promise's own. */
export function isResolver(callback: unknown): boolean {
  return typeof callback === "function" && callback.length === 1 &&
    callback.name === "" &&
    !Object.hasOwn(callback, "prototype") &&
    Function.prototype.toString.call(callback) === NATIVE;
}
