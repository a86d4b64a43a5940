/**
 * The part `streams` of `patch()`: streams.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches streams; disposing of what it returns restores the originals. */
export function patchStreams(): Disposable {
  return patchAll((_patches) => {});
}
