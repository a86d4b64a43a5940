/**
 * gevent for Deno: greenlets on the event loop, that can be killed and timed out.
 *
 * In JavaScript an `async` function that awaits can't be stopped. Here every task has a
 * handle: it can be killed and timed out, and its `finally` runs at once.
 *
 * ```ts
 * import { sleep, spawn } from "@gevent/gevent";
 *
 * const task = spawn(async () => {
 *   try {
 *     await sleep(100_000);
 *   } finally {
 *     console.log("cleaned up");
 *   }
 * });
 * await sleep(1);
 * await task.kill(); // cleaned up, at once
 * ```
 *
 * The core's classes, that know no event loop, are in the namespace `greenlet`; what makes
 * other people's code cooperate is in `monkey`.
 *
 * @module
 */

export { GreenletError, GreenletExit } from "./greenlet.ts";
export type { Greenlet as CoreGreenlet, Switch } from "./greenlet.ts";
export * as greenlet from "./greenlet.ts";
export * from "./hub.ts";
export * from "./timeout.ts";
export * from "./gevent.ts";
export * from "./event.ts";
export * from "./lock.ts";
export * from "./queue.ts";
export * from "./local.ts";
export * from "./pool.ts";
export * from "./nursery.ts";
export * from "./socket.ts";
export * as monkey from "./monkey.ts";
export {
  type HttpOptions,
  type Part,
  type PartOptions,
  patch,
  type PatchOptions,
  type ProcessOptions,
} from "./monkey.ts";
