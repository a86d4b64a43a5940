/**
 * The core and the hub in other runtimes: a program does there what it does here. Where a
 * runtime is not installed its tests are skipped, and their names tell why.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { findBrowser, inBrowser, type Message } from "./_browser.ts";

const ROOT = new URL("..", import.meta.url).pathname.replace(/\/$/, "");
const PROGRAMS = [
  // Nothing that others have left may keep its event loop alive.
  "loop_exit",
  "core",
  "hub",
  "awaits",
  "context",
  "patch",
  "patch_waits",
  "patch_node",
  "observe",
  "signals",
];
/** Those that need nothing of a runtime but the web platform. */
const BROWSER_PROGRAMS = ["core", "hub", "awaits"];
/** Long enough for a busy machine; what takes longer is stuck. */
const LIMIT = 60_000;

/** The output of the program about what only Deno has. */
const MISSING =
  `TypeError: Cannot patch 'net' as this runtime has no Deno.connect
TypeError: Cannot patch 'process' as this runtime has no Deno.Command
TypeError: Cannot call Deno.connect as this runtime does not have it
TypeError: Cannot call Deno.listen as this runtime does not have it
TypeError: Cannot call Deno.Command as this runtime does not have it
false true reduced
`;

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
  // Bun does not tell when its loop is empty, and when a child begins.
  {
    name: "Bun",
    command: "bun",
    extension: ".ts",
    oldest: 1,
    lacks: ["loop_exit", "patch_node"],
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

function pathOf(program: string): string {
  return `${ROOT}/tests/runtimes/${program}.js`;
}

/** What each program has printed, of the output of them all. */
function parts(out: string): Map<string, string> {
  const texts = out.split(/^== (\w+)\n/m).slice(1);
  return new Map(
    texts.flatMap((name, i) => i % 2 === 0 ? [[name, texts[i + 1]!]] : []),
  );
}

let outputsHere: ReturnType<typeof output> | undefined;

/** What programs print in this runtime, in which all of them run once. */
async function printedHere(programs: string[]): Promise<Map<string, string>> {
  const flags = [
    "-q",
    "--no-check",
    "--allow-read",
    "--allow-run",
    "--allow-net",
    "--allow-env",
  ];
  const args = ["run", ...flags, pathOf("all"), ROOT, ".ts", PROGRAMS.join()];
  const here = await (outputsHere ??= output(Deno.execPath(), args));
  assertEquals([here.err, here.success], ["", true]);
  const printed = parts(here.out);
  return new Map(programs.map((name) => [name, printed.get(name)!]));
}

/** Where the library's modules are. */
const FOLDERS = ["", "_base/", "_hub/", "_patch/"];

let transpiled: string | null = null;

/** Returns a folder with the library's modules in JavaScript, made at the first call. */
async function transpile(): Promise<string> {
  if (transpiled !== null) return transpiled;
  const folder = transpiled = await Deno.makeTempDir();
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
  return folder;
}

Deno.test.afterAll(async () => {
  if (transpiled !== null) await Deno.remove(transpiled, { recursive: true });
});

for (const runtime of RUNTIMES) {
  const reason = await missing(runtime);
  const claim =
    `The programs in tests/runtimes/ do in ${runtime.name} what they do in Deno`;
  Deno.test({
    name: reason === null ? claim : `${claim} (skipped: ${reason})`,
    ignore: reason !== null,
    async fn() {
      const modules = runtime.extension === ".js" ? await transpile() : ROOT;
      const { command, extension, lacks } = runtime;
      const programs = PROGRAMS.filter((name) => !lacks.includes(name));
      const there = await output(command, [
        pathOf("all"),
        modules,
        extension,
        programs.join(),
      ]);
      assertEquals([there.err, there.success], ["", true]);
      assertEquals(parts(there.out), await printedHere(programs));
      const missing = [pathOf("missing"), modules, runtime.extension];
      assertEquals(await output(runtime.command, missing), {
        success: true,
        out: MISSING,
        err: "",
      });
    },
  });
}

/** What a message of the browser has printed; errors stand out. */
function textOf({ method, params }: Message): string {
  // deno-lint-ignore no-explicit-any
  const { type, args, exceptionDetails, entry } = params as any;
  return method === "Runtime.consoleAPICalled" && type === "log"
    ? args.map(({ value }: { value: unknown }) => value).join(" ")
    : JSON.stringify(exceptionDetails ?? entry ?? args);
}

const browser = findBrowser();

Deno.test({
  name: "Programs in tests/runtimes/ do in Chromium what they do in Deno" +
    (browser === null ? " (skipped: Chromium is not installed)" : ""),
  ignore: browser === null,
  async fn() {
    const folder = await transpile();
    const page =
      `<link rel=icon href="data:,"><script>globalThis.over = import("/all.js").catch((error) => console.error(error.stack));</script>`;
    await using server = Deno.serve({ port: 0, onListen() {} }, async (it) => {
      const { pathname } = new URL(it.url);
      if (pathname === "/all.html") {
        return new Response(page, {
          headers: { "content-type": "text/html" },
        });
      }
      const isModule = pathname.startsWith("/modules/");
      const path = isModule
        ? folder + pathname.slice("/modules".length)
        : pathOf(pathname.slice(1, -".js".length));
      return new Response(await Deno.readTextFile(path), {
        headers: { "content-type": "text/javascript" },
      });
    });
    const url =
      `http://localhost:${server.addr.port}/all.html?/modules&.js&${BROWSER_PROGRAMS}`;
    const messages = await inBrowser(browser!, url, async (send) => {
      await send("Runtime.evaluate", {
        expression: "over",
        awaitPromise: true,
      });
    });
    const out = messages.map((it) => textOf(it) + "\n").join("");
    assertEquals(parts(out), await printedHere(BROWSER_PROGRAMS));
  },
});
