/**
 * The part `node` of `patch()`: what a greenlet does with `node:` modules, and with packages
 * that are built on them.
 *
 * Requests and children are told of in a channel of `node:diagnostics_channel`, in the context
 * of the code that makes them. So no module is loaded that the program does not use, and
 * functions that a module has taken before are reached as well. Other functions are replaced,
 * where the module can be changed.
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

/** Patches the modules; disposing of what it returns restores them. */
export function patchNodeModules(): Disposable {
  // Before the channels, which load `node:process` themselves.
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
