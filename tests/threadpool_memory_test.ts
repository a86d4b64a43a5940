import { assertEquals, assertStringIncludes } from "@std/assert";
import { runScript } from "./_bodies.ts";

const WORK = import.meta.resolve("./_work.ts");

Deno.test("ThreadPool fails a call whose process runs out of memory, and starts another process", async () => {
  const { out, err, code } = await runScript(`
    // For what is started from here on.
    Deno.env.set("DENO_V8_FLAGS", "--max-old-space-size=32");
    await using pool = new ThreadPool(1);
    const work = pool.import(${JSON.stringify(WORK)});
    const calls = [work.die("memory"), work.double(2)];
    for (const { value, reason } of await Promise.allSettled(calls)) {
      console.log(value ?? reason.name + ": " + reason.message);
    }
    console.log(pool.size, pool.busy, pool.waiting);
  `);
  assertStringIncludes(err, "JavaScript out of memory");
  assertEquals([out, code], [[
    "WorkerDied: Cannot finish 'die' as its worker was ended by SIGTRAP, as when it runs out of memory",
    "4",
    "1 0 0",
  ], 0]);
});
