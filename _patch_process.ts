/**
 * The part `process` of `patch()`: child processes.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches child processes; disposing of what it returns restores the originals. */
export function patchProcess(): Disposable {
  return patchAll((_patches) => {});
}
