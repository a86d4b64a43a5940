import { assertEquals } from "@std/assert";

const auto = new URL("../auto.ts", import.meta.url).href;
const library = new URL("../mod.ts", import.meta.url).href;

/**
 * Runs `main.ts` of a program that is given by its files, without any permission.
 *
 * @param files The files by name; `LIBRARY` and `AUTO` in them stand for the modules.
 * @param args Of `deno`, before the name of the main module.
 */
async function run(
  files: Record<string, string>,
  args: string[],
): Promise<{ out: string[]; err: string; code: number }> {
  const directory = await Deno.makeTempDir();
  try {
    for (const [name, text] of Object.entries(files)) {
      const code = text.replaceAll("LIBRARY", library).replaceAll("AUTO", auto);
      await Deno.writeTextFile(`${directory}/${name}`, code);
    }
    const command = new Deno.Command(Deno.execPath(), {
      args: [...args, `${directory}/main.ts`],
      stdin: "null",
      env: { NO_COLOR: "1", DENO_NO_PROMPT: "1" },
    });
    let { stdout, stderr, code, signal } = await command.output();
    // At the end of 1 in 300 of these processes a thread of V8's crashes.
    if (signal === "SIGSEGV") {
      ({ stdout, stderr, code, signal } = await command.output());
    }
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    const out = text(stdout).split("\n").slice(0, -1);
    return { out, err: text(stderr), code };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** A foreign module, which takes its functions when it is loaded. */
const PAUSES = `
  import { setImmediate as turn, setTimeout as wait } from "node:timers/promises";
  const { setImmediate, setTimeout } = globalThis;
  export const pauses = {
    global: () => new Promise((resolve) => globalThis.setTimeout(resolve, 1e8)),
    taken: () => new Promise((resolve) => setTimeout(resolve, 1e8)),
    promise: () => wait(1e8),
    immediate: async () => {
      for (let i = 0; i < 1e4; i++) await new Promise((r) => setImmediate(r));
    },
    promised: async () => {
      for (let i = 0; i < 1e4; i++) await turn();
    },
  };
`;

/** A program that never patches. */
const MAIN = `
  import { monkey, sleep, spawn } from "LIBRARY";
  import { pauses } from "./pauses.ts";
  console.log("patched", monkey.isPatched("timers"), monkey.isPatched("net"));
  for (const [name, pause] of Object.entries(pauses)) {
    const greenlet = spawn(async () => {
      try {
        await pause();
        console.log(name, "over");
      } finally {
        console.log(name, "cleaned up");
      }
    });
    await sleep(1);
    await greenlet.kill();
  }
`;

const STOPPED = [
  "patched true true",
  ...["global", "taken", "promise", "immediate", "promised"]
    .map((name) => `${name} cleaned up`),
];

Deno.test("auto.ts patches a program that was not changed, by --preload", async () => {
  const files = { "main.ts": MAIN, "pauses.ts": PAUSES };
  const output = await run(files, ["run", "-q", "--preload", auto]);
  assertEquals(output, { out: STOPPED, err: "", code: 0 });
});

Deno.test("auto.ts patches when it is the first import of all", async () => {
  const files = { "main.ts": `import "AUTO";${MAIN}`, "pauses.ts": PAUSES };
  const output = await run(files, ["run", "-q"]);
  assertEquals(output, { out: STOPPED, err: "", code: 0 });
});

Deno.test("auto.ts imported after another module patches the functions which that module has not taken", async () => {
  const files = {
    "main.ts": `import "./pauses.ts"; import "AUTO";${MAIN}`,
    "pauses.ts": PAUSES,
  };
  const output = await run(files, ["run", "-q"]);
  const out = STOPPED.flatMap((line) =>
    /^(immediate|promised)/.test(line)
      // A function that can be reached by its name only stays as it was.
      ? [line.replace("cleaned up", "over"), line]
      : [line]
  );
  assertEquals(output, { out, err: "", code: 0 });
});

Deno.test("auto.ts patches once, however often and in whatever way it is loaded", async () => {
  const files = {
    "main.ts": `
      import "AUTO";
      import { monkey } from "LIBRARY";
      const { setTimeout } = globalThis;
      await import("AUTO");
      {
        using _ = monkey.patch();
        console.log(setTimeout === globalThis.setTimeout);
      }
      console.log(setTimeout === globalThis.setTimeout);
      console.log(monkey.isPatched("timers"));
      const original = monkey.getOriginal(globalThis, "setTimeout");
      console.log(original !== setTimeout, original.name);
    `,
  };
  for (const preload of [[], ["--preload", auto, "--preload", auto]]) {
    const output = await run(files, ["run", "-q", ...preload]);
    const out = ["true", "true", "true", "true setTimeout"];
    assertEquals(output, { out, err: "", code: 0 });
  }
});

Deno.test("auto.ts leaves a program without greenlets alone", async () => {
  const files = {
    "main.ts": `
      let fired = 0;
      const interval = setInterval(() => {
        if (++fired === 2) clearInterval(interval);
      }, 1);
      setTimeout(() => console.log("fired"), 1);
      setImmediate(() => console.log("immediately"));
      addEventListener("unload", () => console.log("unloaded", fired));
      console.log("main");
    `,
  };
  const output = await run(files, ["run", "-q", "--preload", auto]);
  const [first, ...rest] = output.out;
  assertEquals(first, "main");
  assertEquals(rest.sort(), ["fired", "immediately", "unloaded 2"]);
  assertEquals([output.err, output.code], ["", 0]);
});

Deno.test("auto.ts patches tests by `deno test --preload`, and the sanitizers see nothing", async () => {
  const files = {
    "main.ts": `
      import { pauses } from "./pauses.ts";
      import { monkey, sleep, spawn } from "LIBRARY";
      for (const [name, pause] of Object.entries(pauses)) {
        Deno.test(name, async () => {
          if (!monkey.isPatched("timers")) throw new Error("Not patched");
          const greenlet = spawn(pause);
          await sleep(1);
          await greenlet.kill();
          if (greenlet.value === undefined) throw new Error("Not killed");
        });
      }
    `,
    "pauses.ts": PAUSES,
  };
  const output = await run(files, [
    "test",
    "-q",
    "-P=none",
    "--no-check",
    "--preload",
    auto,
  ]);
  const summary = output.out.find((line) => line.startsWith("ok | "));
  assertEquals(
    summary?.startsWith("ok | 5 passed | 0 failed"),
    true,
    output.out.join("\n"),
  );
  assertEquals([output.err, output.code], ["", 0]);
});

Deno.test("auto.ts patches the realm that imports it, and each Worker for itself", async () => {
  const files = {
    "main.ts": `
      import { monkey } from "LIBRARY";
      for (const name of ["./plain.ts", "./patched.ts"]) {
        const url = new URL(name, import.meta.url);
        const worker = new Worker(url, { type: "module" });
        await new Promise((resolve) => {
          worker.onmessage = ({ data }) => resolve(console.log(name, data));
        });
        worker.terminate();
      }
      console.log("main", monkey.isPatched("timers"));
    `,
    "plain.ts": `
      import { monkey } from "LIBRARY";
      postMessage(monkey.isPatched("timers"));
    `,
    "patched.ts": `import "AUTO"; import "./plain.ts";`,
  };
  // A module of a Worker is read when it is made.
  const args = ["run", "-q", "--allow-read", "--preload", auto];
  const out = ["./plain.ts false", "./patched.ts true", "main true"];
  assertEquals(await run(files, args), { out, err: "", code: 0 });
});
