import { assertEquals, assertStringIncludes } from "@std/assert";
import { runScript } from "../_bodies.ts";
import { inParallel } from "../_processes.ts";

/** The calls of a greenlet that main awaits while the greenlet is interrupted. */
const shared: Record<string, string> = {
  "an async function in an async body":
    `async () => { promise = (async () => { await sleep(1e8); })(); await promise; }`,
  "a wait in an async body":
    `async () => { promise = sleep(1e8); await promise; }`,
  "a wait in a generator body":
    `function* () { promise = sleep(1e8); yield* promise; }`,
  "an async function in a generator body":
    `function* () { promise = (async () => { await sleep(1e8); })(); yield* until(promise); }`,
};

const interrupts: Record<string, string> = {
  GreenletExit: "victim.kill(undefined, { block: false });",
  Timeout: "victim.throw(new Timeout(5));",
};

const awaits: Record<string, string> = {
  "a top-level await": "await promise;",
  "a function that a top-level await calls":
    "await (async () => { await promise; })();",
  "a top-level await that throws it again":
    "try { await promise; } catch (error) { console.log(error.name); throw error; }",
};

for (const [error, interrupt] of Object.entries(interrupts)) {
  for (const [how, wait] of Object.entries(awaits)) {
    Deno.test(`A ${error} of another greenlet ends the process as an error that explains it, by ${how}`, async () => {
      await inParallel(Object.entries(shared), async ([what, body]) => {
        const { out, err, code } = await runScript(`
          let promise;
          const victim = spawn(${body});
          await idle();
          ${interrupt}
          ${wait}
          console.log("went on");
        `);
        assertEquals(out, wait.includes("log") ? [error] : [], what);
        assertEquals(code, 1, what);
        assertStringIncludes(err, `interrupted by ${error}`, what);
        assertStringIncludes(err, "A promise shared with", what);
      });
    });
  }
}

/** Calls that main has begun and does not await. */
const begun: Record<string, string> = {
  "a wait": "sleep(1e8)",
  "an async function": "(async () => { await sleep(1e8); })()",
  "until()": "until(new Promise(() => {}))",
  "a function that wraps the error":
    "(async () => { try { await sleep(1e8); } catch (cause) { throw new Error('wrapped', { cause }); } })()",
  "withTimeout()":
    "(async () => { await withTimeout(1e8, () => sleep(1e8)); })()",
  "Greenlet.get()":
    "(async () => { await spawn(function* () { yield* sleep(1e8); }).get(); })()",
  "Pool.map()":
    "(async () => { await new Pool(2).map(() => sleep(1e8), [1, 2]); })()",
};

Deno.test("Timeout.start() in main ends calls that main has begun and does not await, which causes no unhandled rejection", async () => {
  const scripts = Object.entries(begun).map(([what, call]) => `
    {
      const timeout = Timeout.start(5);
      void ${call};
      try {
        await sleep(1e8);
      } catch (error) {
        console.log(${JSON.stringify(what)}, error === timeout);
      }
      await idle();
      await sleep(1);
    }
  `);
  const { out, err, code } = await runScript(`${scripts.join("")}
    console.log("went on");
    Deno.exit();
  `);
  const told = Object.keys(begun).map((what) => `${what} true`);
  assertEquals([out, code], [[...told, "went on"], 0], err);
  assertEquals(err, "");
});

Deno.test("Timeout.start() in main that ends several calls ends the process if main does not catch it", async () => {
  await inParallel(Object.entries(begun), async ([what, call]) => {
    const { out, err, code } = await runScript(`
      Timeout.start(5);
      void ${call};
      await sleep(1e8);
      console.log("went on");
    `);
    assertEquals([out, code], [[], 1], what);
    assertStringIncludes(err, "Timed out after 5 ms", what);
  });
});

Deno.test("A kill of a greenlet whose call main does not await any more is not an error of main", async () => {
  const { out, err, code } = await runScript(`
    let promise;
    const victim = spawn(async () => {
      promise = (async () => { await sleep(1e8); })();
      await promise;
    });
    await idle();
    await victim.kill();
    await promise.catch((error) => console.log(error.name));
    await idle();
    console.log("went on");
  `);
  assertEquals([out, err, code], [["GreenletExit", "went on"], "", 0]);
});
