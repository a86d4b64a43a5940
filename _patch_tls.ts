/**
 * The part `tls` of `patch()`: TLS.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches TLS; disposing of what it returns restores the originals. */
export function patchTls(): Disposable {
  return patchAll((_patches) => {});
}
