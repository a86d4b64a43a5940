/**
 * The part `fs` of `patch()`: files.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches files; disposing of what it returns restores the originals. */
export function patchFs(): Disposable {
  return patchAll((_patches) => {});
}
