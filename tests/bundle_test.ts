/**
 * Names in a bundle whose names were shortened.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import * as library from "../mod.ts";

const ROOT = new URL("../", import.meta.url);

/** Other names of classes that are exported twice. */
const ALIASES: Record<string, string> = { JoinableQueue: "Queue" };

const classes = Object.entries(library).filter(([name, value]) =>
  typeof value === "function" && /^[A-Z]/.test(name) && value.prototype
);

Deno.test("nameClasses() is called for every class of the public modules", async () => {
  const named = new Set<string>();
  for (const folder of ["", "_hub/"]) {
    for await (const { name } of Deno.readDir(new URL(folder, ROOT))) {
      if (!name.endsWith(".ts")) continue;
      const text = await Deno.readTextFile(new URL(folder + name, ROOT));
      const calls = text.matchAll(
        /(?:nameClasses|Object\.entries)\(\{([^}]*)\}/g,
      );
      for (const [, list] of calls) {
        for (const one of list!.split(",")) named.add(one.trim());
      }
    }
  }
  const missing = classes.map(([name]) => ALIASES[name] ?? name)
    .filter((name) => !named.has(name));
  assertEquals(missing, []);
});

Deno.test("Classes, errors and greenlets have their names in a bundle with shortened names", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const source = `
      import * as library from ${JSON.stringify(new URL("mod.ts", ROOT).href)};
      const { Empty, Lock, Queue, RLock, sleep, spawn, formatRunInfo } = library;
      const classes = Object.entries(library).filter(([name, value]) =>
        typeof value === "function" && /^[A-Z]/.test(name) && value.prototype);
      console.log(JSON.stringify(classes.map(([name, value]) => [name, value.name])));
      const holder = spawn(sleep, 60_000);
      holder.name = "holder";
      const queue = new Queue();
      const waiter = spawn(() => queue.get());
      await sleep(1);
      console.log(String(holder));
      console.log(waiter.waitsIn);
      console.log(Deno.inspect(queue));
      console.log(Deno.inspect(new Empty()).split("\\n")[0]);
      console.log(Object.prototype.toString.call(holder), new RLock().constructor.name);
      Deno.exit();
    `;
    await Deno.writeTextFile(`${folder}/main.js`, source);
    const args = ["bundle", "--minify", "-q", "-o", `${folder}/out.js`];
    const bundling = await new Deno.Command(Deno.execPath(), {
      args: [...args, `${folder}/main.js`],
    }).output();
    if (!bundling.success) {
      // \`deno bundle\` loads its bundler when it is first used.
      const text = new TextDecoder().decode(bundling.stderr);
      assert(/esbuild|npm|fetch|connect|download/i.test(text), text);
      return console.warn(`No bundle can be made here: ${text}`);
    }
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-q", "--no-check", `${folder}/out.js`],
      env: { NO_COLOR: "1" },
    }).output();
    const lines = new TextDecoder().decode(stdout).trimEnd().split("\n");
    assertEquals(new TextDecoder().decode(stderr), "");
    const names: [string, string][] = JSON.parse(lines.shift()!);
    assertEquals(names.length, classes.length);
    for (const [name, own] of names) assertEquals(own, ALIASES[name] ?? name);
    assert(lines.shift()!.startsWith('<Greenlet "holder"'));
    assertEquals(lines.slice(0, 3), [
      "Queue.get()",
      "Queue { maxsize: Infinity, items: [], getters: 1, putters: 0 }",
      "Empty: The queue is empty",
    ]);
    assertEquals(lines[3], "[object Object] RLock");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
