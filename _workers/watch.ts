/**
 * Watches whether the program still lives that has started this process.
 *
 * @module
 */

import { findWorkerRef } from "../_base/runtime.ts";
import { dataUrl } from "./messages.ts";

/** How often it is looked whether the parent is still there, in milliseconds. */
const WATCH_EVERY = 250;
/** The longest that a timer of the runtime can wait, in milliseconds: 24 days. */
const LONGEST = 2 ** 31 - 1;

/**
 * Ends this process when its parent is gone, although it may be busy: from a thread, and by
 * a signal, as nothing else reaches a thread that computes. It does not keep the process alive.
 *
 * @param parent The process id of the parent.
 * @param delay After how many milliseconds, in which the process may end by itself.
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
