/**
 * Prints the import map that the tests and the type check use, as a path from
 * the repository's root: `deno.json`, where `@std/assert` and `@std/net` come
 * from JSR, or `tests/offline/import_map.json`, where they are the stand-ins
 * beside it, for a machine that JSR can't be reached from.
 *
 * ```sh
 * deno test --import-map=$(deno run -q tests/import_map.ts)
 * ```
 *
 * @module
 */

/** How long to wait for JSR, in milliseconds. */
const PATIENCE = 2000;

/**
 * Loads what the tests import. Nothing about the outcome is kept: what Deno
 * has in its cache counts as within reach, and everything else is asked for
 * again the next time.
 */
async function load(): Promise<string | undefined> {
  // The names are no literals, or Deno would load them before this file runs.
  const names = ["@std/assert", "@std/net"];
  try {
    await Promise.all(names.map((name) => import(name)));
  } catch (error) {
    return String(error).split("\n", 1)[0];
  }
}

// A sealed network may swallow packets rather than refuse them.
const patience = new Promise<string>((resolve) => {
  setTimeout(resolve, PATIENCE, `no answer in ${PATIENCE} ms`);
});

const problem = await Promise.race([load(), patience]);
if (problem === undefined) {
  console.log("deno.json");
} else {
  console.error(`Testing with tests/offline, as JSR can't be used: ${problem}`);
  console.log("tests/offline/import_map.json");
}
// A download that is still waiting for an answer would keep the process alive.
Deno.exit(0);
