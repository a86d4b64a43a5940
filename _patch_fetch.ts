/**
 * The part `fetch` of `patch()`: `fetch` and the bodies of requests and responses.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches `fetch` and the bodies of requests and responses; disposing of what it returns restores the originals. */
export function patchFetch(): Disposable {
  return patchAll((_patches) => {});
}
