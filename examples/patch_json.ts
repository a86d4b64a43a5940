/**
 * Shows how monkey patching works: it replaces two functions of an object, and restores them.
 *
 * The code that uses the object does not change. `patch()` replaces the runtime's functions
 * that wait in the same way.
 *
 *     deno run -q -P=none examples/patch_json.ts
 */

import { monkey } from "@gevent/gevent";

/** Uses JSON, and knows nothing of the patch. */
function useJson() {
  console.log("stringify:", JSON.stringify({ name: "rose" }));
  console.log("parse:", JSON.parse('{ "name": "jack" }'));
}

useJson();
{
  using _ = monkey.patchModule(JSON, {
    stringify: () => "this is the patched stringify",
    parse: () => "this is the patched parse",
  });
  useJson();
}
useJson();
