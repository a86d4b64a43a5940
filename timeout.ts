/**
 * Time limits that stop the code they limit.
 *
 * ```ts
 * import { sleep, Timeout, withTimeout } from "@gevent/gevent";
 *
 * console.log(await withTimeout(5, () => sleep(1000), { value: "late" })); // late
 *
 * try {
 *   using _timeout = Timeout.start(5);
 *   await sleep(1000);
 * } catch (error) {
 *   console.log(error instanceof Timeout); // true
 * }
 * ```
 *
 * @module
 */

export type { BodyResult } from "./_base/thenable.ts";
export {
  Timeout,
  type TimeoutOptions,
  withTimeout,
  type WithTimeoutOptions,
} from "./_hub/timeout.ts";
