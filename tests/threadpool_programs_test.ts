/**
 * What becomes of a program that has a `ThreadPool`, and of its workers' permissions; and
 * random calls.
 */

import { assert, assertEquals } from "@std/assert";
import { Pool, sleep, subprocess, ThreadPool, withTimeout } from "../mod.ts";
import { runScript } from "./_bodies.ts";
import { ended, Mark } from "./_marks.ts";
import { random as seeded } from "./_random.ts";

const WORK = import.meta.resolve("./_work.ts");
const KINDS = ["process", "thread"] as const;

Deno.test("ThreadPool.kill() leaves no unhandled rejection of calls that nothing awaits", async () => {
  const { out, err, code } = await runScript(`
    for (const isolate of ["process", "thread"]) {
      const pool = new ThreadPool(1, { isolate });
      pool.apply(() => 1);
      pool.apply(() => 2);
      await pool.kill();
      pool.apply(() => 3);
    }
    await sleep(20);
    console.log("alive");
  `);
  assertEquals([out, err, code], [["alive"], "", 0]);
});

Deno.test("ThreadPool kills what computes when its block is left", async () => {
  using mark = new Mark();
  let pid;
  {
    await using pool = new ThreadPool(1);
    const work = pool.import<typeof import("./_work.ts")>(WORK);
    work.compute(mark.path);
    pid = await mark.written();
  }
  await ended(pid);
});

Deno.test("ThreadPool gives a process the permissions that were asked for, and no more", async () => {
  const file = new URL(WORK);
  for (
    const [permissions, expected] of [
      ["none", []],
      [{ net: true, env: false }, ["net"]],
      [{ read: [new URL("./_work.ts", file)] }, []],
      [{ read: true, run: [], write: "inherit" }, ["read", "write"]],
    ] as [Deno.PermissionOptions, string[]][]
  ) {
    await using pool = new ThreadPool(1, { permissions });
    const work = pool.import<typeof import("./_work.ts")>(WORK);
    assertEquals(await work.allowed(), expected);
    const reads = JSON.stringify(permissions).includes("read");
    assertEquals(await work.readsFile(file.pathname), reads);
    assertEquals(
      await work.readsFile(import.meta.filename!),
      expected.includes("read"),
    );
  }
});

Deno.test("ThreadPool lets a process inherit what the program may", async () => {
  await using pool = new ThreadPool(1);
  const work = pool.import<typeof import("./_work.ts")>(WORK);
  assertEquals(await work.allowed(), [
    "read",
    "write",
    "net",
    "env",
    "run",
    "sys",
  ]);
  // What a generator needs is loaded without a permission, too.
  await using none = new ThreadPool(1, { permissions: "none" });
  const { generated } = none.import<typeof import("./_library_work.ts")>(
    import.meta.resolve("./_library_work.ts"),
  );
  assertEquals(await generated(1), 2);
  assertEquals(
    await none.apply(function* () {
      yield* [];
      return 3;
    }),
    3,
  );
});

Deno.test("ThreadPool passes on the runtime's error if it must not start a process", async () => {
  const library = new URL("../mod.ts", import.meta.url).href;
  const input = `import { ThreadPool } from ${JSON.stringify(library)};
    await using pool = new ThreadPool(1);
    for (let i = 0; i < 2; i++) {
      const told = await pool.apply(() => 1).catch((error) => error.name);
      console.log(told, pool.busy, pool.waiting);
    }`;
  for (
    const [flags, expected] of [
      [[], "NotCapable"],
      [["--allow-env"], "NotCapable"],
      [["--allow-run", "--allow-env"], "1"],
    ] as const
  ) {
    const printed = await subprocess.checkOutput(
      Deno.execPath(),
      ["run", "-q", "--no-prompt", ...flags, "-"],
      { input, text: true },
    );
    assertEquals(printed, `${expected} 0 0\n`.repeat(2));
  }
});

Deno.test("ThreadPool's workers print to the program's own output", async () => {
  for (const isolate of KINDS) {
    const { out, err } = await runScript(`
      await using pool = new ThreadPool(1, { isolate: "${isolate}" });
      const work = pool.import(${JSON.stringify(WORK)});
      await work.print("hello");
      console.log(await work.double(2));
    `);
    assertEquals([out, err], [["hello", "hello", "4"], "hello\n"]);
  }
});

Deno.test("ThreadPool does not keep a program alive that has no calls", async () => {
  for (const isolate of KINDS) {
    const { out, code } = await runScript(`
      const pool = new ThreadPool(2, { isolate: "${isolate}" });
      console.log(await pool.apply(() => 1));
      pool.apply(() => new Promise((r) => setTimeout(r, 100, 2))).then(console.log);
    `);
    assertEquals([out, code], [["1", "2"], 0]);
  }
});

for (const how of ["exits", "is killed"]) {
  Deno.test(`ThreadPool leaves no process that computes when the program ${how}`, async () => {
    using mark = new Mark();
    const { code } = await runScript(`
      const pool = new ThreadPool(1);
      const work = pool.import(${JSON.stringify(WORK)});
      work.compute(${JSON.stringify(mark.path)});
      while (Deno.readTextFileSync(${
      JSON.stringify(mark.path)
    }) === "") await sleep(1);
      ${how === "exits" ? "Deno.exit(3)" : `Deno.kill(Deno.pid, "SIGKILL")`};
    `);
    assertEquals(code, how === "exits" ? 3 : 137);
    await ended(await mark.written());
  });
}

/** How long a random program goes on: `THREADPOOL_CALLS=10000` for a long one. */
const CALLS = Number(Deno.env.get("THREADPOOL_CALLS") ?? 50);

for (const isolate of KINDS) {
  Deno.test(`ThreadPool ends each of many random calls once, ${isolate}`, async () => {
    const random = seeded(isolate === "process" ? 16 : 61);
    await using pool = new ThreadPool(2, { isolate });
    const work = pool.import<typeof import("./_work.ts")>(WORK);
    const counts: Record<string, number> = {};
    let under = 0;
    const one = async (i: number) => {
      const kind = random();
      let ends = 0;
      const end = (how: string) => {
        ends++;
        assertEquals(ends, 1);
        counts[how] = (counts[how] ?? 0) + 1;
      };
      under++;
      const call = async () => {
        if (kind < 0.6) assertEquals(await work.double(i), 2 * i);
        else if (kind < 0.75) await work.later(i, 2 + 10 * random());
        else if (kind < 0.85) await work.fail("own");
        else if (kind < 0.9) await work.die("exit", 1);
        else if (isolate === "process") await work.compute("/dev/null");
        else await work.later(i, 1000);
      };
      const limit = kind >= 0.9 || random() < 0.2 ? 40 * random() : Infinity;
      try {
        await withTimeout(limit, call);
        end("value");
      } catch (error) {
        const name = error instanceof Error ? error.name : String(error);
        assert(
          ["Timeout", "OwnError", "WorkerDied"].includes(name),
          `${error}`,
        );
        end(name);
      }
      under--;
      assert(pool.busy <= pool.size);
    };
    const group = new Pool(6);
    const killed: unknown[] = [];
    for (let i = 0; i < CALLS; i++) {
      const greenlet = await group.spawn(one, i);
      if (random() < 0.05) {
        killed.push(greenlet);
        await sleep(2 * random());
        greenlet.kill(undefined, { block: false });
      }
      assertEquals(pool.busy + pool.waiting <= 6, true);
    }
    await group.join({ raiseError: true });
    assertEquals([pool.busy, pool.waiting], [0, 0]);
    const sum = Object.values(counts).reduce((a, b) => a + b, 0);
    assert(sum <= CALLS && sum >= CALLS - killed.length, `${sum}`);
    assertEquals(await work.double(1), 2);
  });
}
