/**
 * The part `dns` of `patch()`: `Deno.resolveDns`.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches `Deno.resolveDns`; disposing of what it returns restores the originals. */
export function patchDns(): Disposable {
  return patchAll((_patches) => {});
}
