/**
 * The core and the hub in other runtimes: a program does there what it does here. Where a
 * runtime is not installed its tests are skipped, and their names tell why.
 *
 * @module
 */

import { assertEquals } from "@std/assert";

const ROOT = new URL("..", import.meta.url).pathname.replace(/\/$/, "");
const PROGRAMS = ["core", "hub", "loop_exit", "patch", "signals"];
/** Long enough for a busy machine; what takes longer is stuck. */
const LIMIT = 60_000;

/** Runtimes other than this one. */
const RUNTIMES = [
  // Node 20 knows no types, no `using`, and neither SuppressedError nor DisposableStack.
  {
    name: "Node",
    command: "node",
    extension: ".js",
    oldest: 20,
    lacks: [] as string[],
  },
  // Bun does not tell when its loop is empty.
  {
    name: "Bun",
    command: "bun",
    extension: ".ts",
    oldest: 1,
    lacks: ["loop_exit"],
  },
];

/** Why a runtime can't be used: `null` if it can. */
async function missing(
  { name, command, oldest }: typeof RUNTIMES[number],
): Promise<string | null> {
  try {
    const { success, out } = await output(command, ["--version"]);
    const version = Number(/\d+/.exec(out)?.[0]);
    if (success && version >= oldest) return null;
    return `${name} is of version ${version}, and ${oldest} is needed`;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return `${name} is not installed`;
  }
}

async function output(command: string, args: string[]) {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args,
    stdin: "null",
    env: { NO_COLOR: "1" },
    signal: AbortSignal.timeout(LIMIT),
  }).output();
  const decoder = new TextDecoder();
  return { success, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

/** Where the library's modules are. */
const FOLDERS = ["", "_base/", "_hub/", "_patch/"];

/** The library's modules in JavaScript, in a folder of their own. */
async function transpile(folder: string): Promise<void> {
  const modules: string[] = [];
  for (const part of FOLDERS) {
    for await (const { name } of Deno.readDir(`${ROOT}/${part}`)) {
      if (name.endsWith(".ts")) modules.push(`${ROOT}/${part}${name}`);
    }
  }
  const args = ["transpile", "-q", "--no-check", "--outdir", folder];
  const { success, err } = await output(Deno.execPath(), [...args, ...modules]);
  if (!success) throw new Error(err);
  const imports = /(\b(?:from|import) "\.[\w./]+)\.ts"/g;
  for (const part of FOLDERS) {
    for await (const { name, isFile } of Deno.readDir(`${folder}/${part}`)) {
      if (!isFile) continue;
      const path = `${folder}/${part}${name}`;
      const code = await Deno.readTextFile(path);
      await Deno.writeTextFile(path, code.replaceAll(imports, '$1.js"'));
    }
  }
  await Deno.writeTextFile(`${folder}/package.json`, '{ "type": "module" }');
}

for (const runtime of RUNTIMES) {
  const reason = await missing(runtime);
  const claim =
    `The programs in tests/runtimes/ do in ${runtime.name} what they do in Deno`;
  Deno.test({
    name: reason === null ? claim : `${claim} (skipped: ${reason})`,
    ignore: reason !== null,
    async fn() {
      const folder = await Deno.makeTempDir();
      try {
        let modules = ROOT;
        if (runtime.extension === ".js") await transpile(modules = folder);
        for (const program of PROGRAMS) {
          if (runtime.lacks.includes(program)) continue;
          const path = `${ROOT}/tests/runtimes/${program}.js`;
          const flags = ["-q", "--no-check", "--allow-read", "--allow-run"];
          const args = ["run", ...flags, path, ROOT, ".ts"];
          const here = await output(Deno.execPath(), args);
          assertEquals(here.err, "");
          const { command, extension } = runtime;
          assertEquals(await output(command, [path, modules, extension]), here);
        }
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
