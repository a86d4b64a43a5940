/**
 * Calls {@linkcode patch} on import, for programs that can't be edited.
 *
 * ```sh
 * deno run --preload jsr:@gevent/gevent/auto program.ts
 * ```
 *
 * `--preload` evaluates this module before the program and its imports, so no module can have
 * copied a function from a global before. In a program of your own, make it the first import
 * of the main module instead:
 *
 * ```ts
 * import "@gevent/gevent/auto";
 * import { spawn } from "@gevent/gevent";
 *
 * const pause = (ms: number) =>
 *   new Promise((resolve) => setTimeout(resolve, ms));
 * const greenlet = spawn(pause, 1);
 * await greenlet.join();
 * ```
 *
 * This patches all parts, for good: disposing of what another `patch()` returns restores
 * nothing. It patches its own realm only: import it in each `Worker` as well.
 *
 * @module
 */

// The functions of Node's modules are patched in what is loaded by then. Later imports of
// `node:fs/promises` and `node:dns/promises` copy them.
import "node:fs";
import { patch } from "./monkey.ts";

patch();
