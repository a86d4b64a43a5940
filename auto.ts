/**
 * Patches on import: {@linkcode patch} for programs that can't be edited.
 *
 * ```sh
 * deno run --preload jsr:@gevent/gevent/auto program.ts
 * ```
 *
 * `--preload` evaluates it before the program and everything that the program imports, so
 * nothing can have been taken from a global before. Where the program is one's own, the
 * same is done by the first import of its main module:
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
 * All parts are patched, for good: what `patch()` returns elsewhere restores nothing then.
 * It is the realm that is patched: a `Worker` has to import it as well.
 *
 * @module
 */

import { patch } from "./monkey.ts";

patch();
