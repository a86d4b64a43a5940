/**
 * gevent for Deno: tasks that can be killed and timed out.
 *
 * In JavaScript an `async` function that waits at an `await` can't be stopped from outside.
 * Here every task has a handle, a greenlet. You can kill the task or give it a time limit,
 * and its `finally` blocks run at once.
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
 * await task.kill(); // Prints "cleaned up" at once
 * ```
 *
 * The namespace `greenlet` has the core's classes, which need no event loop. The namespace
 * `monkey` has {@linkcode patch} and its relatives, which let a kill stop code that does not
 * use this library.
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
export * from "./condition.ts";
export * from "./queue.ts";
export * from "./local.ts";
export * from "./pool.ts";
export * from "./nursery.ts";
export * from "./select.ts";
export * from "./signal.ts";
export * from "./inspect.ts";
export * from "./socket.ts";
export * from "./threadpool.ts";
export * as subprocess from "./subprocess.ts";
export * from "./server.ts";
export * from "./http.ts";
export * from "./backdoor.ts";
export * from "./trace.ts";
export * from "./monitor.ts";
export * as monkey from "./monkey.ts";
export {
  type HttpOptions,
  type Part,
  type PartOptions,
  patch,
  type PatchOptions,
  type ProcessOptions,
} from "./monkey.ts";
