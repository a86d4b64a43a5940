/**
 * The part `node` of `patch()`: `node:` modules, and packages that are built on them.
 *
 * Node publishes each new request and child in a channel of `node:diagnostics_channel`, in the
 * async context of the code that makes it. By these channels, `patch()` need not load modules that
 * the program does not use, and reaches functions that were imported before it. Other functions
 * are replaced, if their module can be changed.
 *
 * @module
 */

import { Disposals } from "../_base/disposals.ts";
import { watchChildren } from "./node_children.ts";
import { watchRequests } from "./node_http.ts";
import { watchStreams } from "./node_http2.ts";
import { patchEvents } from "./node_events.ts";
import { patchNodeStreams } from "./node_streams.ts";
import { areModulesLoaded, patchNodePromises } from "./node_promises.ts";
import { watchUndici } from "./node_undici.ts";
import { patchAll } from "./patch_set.ts";

/** Patches the modules, and returns a `Disposable` that restores them. */
export function patchNodeModules(): Disposable {
  // Checked before the channels are opened: they load `node:process` themselves.
  const areLoaded = areModulesLoaded();
  const disposals = new Disposals();
  watchRequests(disposals);
  watchStreams(disposals);
  watchUndici(disposals);
  watchChildren(disposals);
  disposals.use(patchAll((patches) => {
    patchEvents(patches);
    patchNodeStreams(patches, areLoaded);
    patchNodePromises(patches, areLoaded);
  }));
  return disposals;
}
