/**
 * The part `websocket` of `patch()`: `WebSocketStream`.
 *
 * @module
 */

import { patchAll } from "./_patches.ts";

/** Patches `WebSocketStream`; disposing of what it returns restores the originals. */
export function patchWebsocket(): Disposable {
  return patchAll((_patches) => {});
}
