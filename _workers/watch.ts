/**
 * Watches whether the program that has started this process is still alive.
 *
 * @module
 */

import { findWorkerRef } from "../_base/runtime.ts";
import { dataUrl } from "./messages.ts";

/** The time between two looks for the parent, in milliseconds. */
const WATCH_EVERY = 250;
/** The longest that a timer of the runtime can wait, in milliseconds: 24 days. */
const LONGEST = 2 ** 31 - 1;

/**
 * Ends this process when its parent is gone, even if it computes: a thread sends the signal, as
 * nothing else can end a thread that computes. The thread does not keep the process alive.
 *
 * @param parent The process id of the parent.
 * @param delay How many milliseconds the process has to end by itself.
 */
export function endWithParent(parent: number, delay: number): void {
  const code = `import process from "node:process";
    const watch = setInterval(() => {
      if (Deno.ppid === ${parent}) return;
      clearInterval(watch);
      setTimeout(() => process.kill(process.pid, "SIGKILL"), ${
    Math.min(delay, LONGEST)
  });
    }, ${WATCH_EVERY});`;
  const worker = new Worker(dataUrl(code), { type: "module" });
  findWorkerRef()?.(worker, false);
}
