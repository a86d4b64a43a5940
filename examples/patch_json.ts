/**
 * How monkey patching works: two functions of an object are swapped, and put back.
 *
 * The code that uses the object does not change, and does not notice. `patch()` does the
 * same to the functions of the runtime that wait.
 *
 *     deno run -q -P=none examples/patch_json.ts
 */

import { monkey } from "@gevent/gevent";

/** Foreign code, that knows nothing of any patch. */
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
