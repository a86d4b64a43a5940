/**
 * Checks the direction of the library's imports: down the layers only, and in no circle.
 * Checks that no module has grown too long to be read at a sitting.
 *
 * ```sh
 * deno task lint:layers
 * ```
 *
 * @module
 */

/** The layers, the lowest first. A module may import its own layer and those below. */
const LAYERS: readonly (readonly string[])[] = [
  ["_base/"],
  ["greenlet.ts"],
  ["_hub/"],
  ["hub.ts", "timeout.ts", "gevent.ts"],
  [
    "event.ts",
    "lock.ts",
    "condition.ts",
    "queue.ts",
    "local.ts",
    "pool.ts",
    "nursery.ts",
    "select.ts",
    "testing.ts",
  ],
  ["inspect.ts", "monitor.ts", "trace.ts"],
  ["_workers/"],
  ["threadpool.ts", "subprocess.ts", "signal.ts"],
  ["http.ts", "server.ts", "socket.ts", "backdoor.ts"],
  ["_patch/"],
  ["monkey.ts", "auto.ts"],
  ["mod.ts"],
];

/** How many lines of code a module may have, comments and blank lines left out. */
const MOST_LINES = 700;

/** Matches imports of another module, and re-exports of it; types count as well. */
const IMPORT = /^(?:import|export)\b[^;]*?\bfrom "(\.[^"]+)"/gms;

const root = new URL("../", import.meta.url);

/** The modules of the library, by path from the root. */
async function* modules(folder = ""): AsyncGenerator<string> {
  for await (const { name, isFile } of Deno.readDir(new URL(folder, root))) {
    if (isFile && name.endsWith(".ts")) yield folder + name;
    else if (folder === "" && /^_\w+$/.test(name)) yield* modules(`${name}/`);
  }
}

function importsOf(module: string, code: string): string[] {
  const url = new URL(module, root);
  return [...code.matchAll(IMPORT)].map(([, specifier]) =>
    new URL(specifier!, url).href.slice(root.href.length)
  );
}

/** How many lines of a module are neither blank nor part of a comment of their own lines. */
function countLines(code: string): number {
  const bare = code.replace(/^\s*\/\*.*?\*\/\s*$/gms, "");
  return bare.split("\n").filter((line) => !/^\s*(\/\/|$)/.test(line)).length;
}

function layerOf(module: string): number {
  return LAYERS.findIndex((layer) =>
    layer.some((one) =>
      one === module || one.endsWith("/") && module.startsWith(one)
    )
  );
}

/** The modules on a way from `module` back to itself; `null` if there is none. */
function findCycle(
  module: string,
  graph: ReadonlyMap<string, string[]>,
  done: Set<string>,
  path: string[] = [],
): string[] | null {
  const start = path.indexOf(module);
  if (start >= 0) return [...path.slice(start), module];
  if (done.has(module)) return null;
  for (const next of graph.get(module) ?? []) {
    const cycle = findCycle(next, graph, done, [...path, module]);
    if (cycle !== null) return cycle;
  }
  done.add(module);
  return null;
}

const graph = new Map<string, string[]>();
const problems: string[] = [];
for await (const module of modules()) {
  const code = await Deno.readTextFile(new URL(module, root));
  graph.set(module, importsOf(module, code));
  const lines = countLines(code);
  if (lines > MOST_LINES) {
    problems.push(
      `${module} has ${lines} lines of code, and may have ${MOST_LINES}: split it`,
    );
  }
}

for (const [module, imports] of graph) {
  if (layerOf(module) < 0) problems.push(`${module} is in no layer`);
  for (const one of imports) {
    if (layerOf(one) > layerOf(module)) {
      problems.push(`${module} imports ${one}, which is above it`);
    }
  }
}
const done = new Set<string>();
for (const module of graph.keys()) {
  const cycle = findCycle(module, graph, done);
  if (cycle === null) continue;
  problems.push(`There is a circle: ${cycle.join(" -> ")}`);
  break;
}

for (const problem of problems.toSorted()) console.error(problem);
if (problems.length > 0) Deno.exit(1);
console.log(
  `${graph.size} modules import downwards only, and have ${MOST_LINES} lines at most`,
);
