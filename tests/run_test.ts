import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import {
  Event,
  getCurrent,
  getHub,
  type Greenlet,
  GreenletExit,
  run,
  sleep,
  spawn,
} from "../mod.ts";
import {
  Failures,
  runScript,
  type ScriptOutput,
  settle,
  testBoth,
} from "./_bodies.ts";

/** Long enough never to be over. */
const FOREVER = 1e9;

/** The signals that end a program, with the exit codes that a shell expects. */
const SIGNALS = [["SIGINT", 130], ["SIGTERM", 143]] as const;

/** Runs a script without a check of its types, and sends it signals as it asks for them. */
function runSignalled(
  script: string,
  ...signals: Deno.Signal[]
): Promise<ScriptOutput> {
  return runScript(script, (line, process) => {
    if (line === "ready") process.kill(signals.shift());
  }, ["--no-check"]);
}

/** A child that is unwound, and a main that waits. */
const MAINS: Record<string, string> = {
  "an async body that waits": `async () => {
      try {
        console.log("ready");
        await sleep(1e6);
      } finally {
        await sleep(1);
        console.log("main");
      }
    }`,
  "a generator body that waits": `function* () {
      try {
        console.log("ready");
        yield* sleep(1e6);
      } finally {
        yield* sleep(1);
        console.log("main");
      }
    }`,
  "an async body in a foreign promise": `async () => {
      console.log("ready");
      await new Promise(() => {});
    }`,
  "a generator body in a foreign promise of a call": `function* () {
      console.log("ready");
      yield* withTimeout(Infinity, () => new Promise(() => {}));
    }`,
  "an async body that swallows the kill": `async () => {
      console.log("ready");
      for (;;) {
        try {
          await sleep(1e6);
        } catch {
          // Once more.
        }
      }
    }`,
};

/** Runs all mains one after the other in one process, and gives the lines that each led to. */
async function unwindAll(
  signal: Deno.Signal,
  exitCode: number,
): Promise<Map<string, string[]>> {
  const mains = Object.values(MAINS);
  const { out, err, code } = await runSignalled(
    `
    for (const main of [${mains.join(", ")}]) {
      Deno.exitCode = 0;
      spawn(async () => {
        try {
          await sleep(1e6);
        } finally {
          await sleep(1);
          console.log("child");
        }
      });
      spawn(function* () {
        try {
          yield* sleep(1e6);
        } finally {
          console.log("generator");
        }
      });
      const result = await run(main).catch((error) => error);
      console.log(result instanceof Error, Deno.exitCode);
      console.log("next");
    }
  `,
    ...mains.map(() => signal),
  );
  assertEquals([err, code], ["", exitCode]);
  const lines = out.join("\n").split("\nnext").map((part) =>
    part.trim().split("\n")
  );
  return new Map(Object.keys(MAINS).map((name, i) => [name, lines[i]!]));
}

for (const [signal, exitCode] of SIGNALS) {
  let unwound: ReturnType<typeof unwindAll> | undefined;
  for (const name of Object.keys(MAINS)) {
    Deno.test(`run() with ${name} is unwound by ${signal}, and sets the exit code`, async () => {
      const all = await (unwound ??= unwindAll(signal, exitCode));
      const out = all.get(name)!;
      const lines = out.filter((line) => line !== "main").toSorted();
      assertEquals(lines, [
        "child",
        "generator",
        "ready",
        `true ${exitCode}`,
      ]);
      assertEquals(out.at(-1), `true ${exitCode}`);
      assertEquals(out.includes("main"), name.endsWith("that waits"));
    });
  }

  for (const [second] of SIGNALS) {
    Deno.test(`run() that ${signal} has come to leaves ${second} to the process`, async () => {
      const { out, signal: ended } = await runSignalled(
        `
        await run(async () => {
          console.log("ready");
          try {
            await sleep(1e6);
          } finally {
            console.log("ready");
            await new Promise((resolve) => setTimeout(resolve, 1e6));
          }
        });
      `,
        signal,
        second,
      );
      assertEquals([out, ended], [["ready", "ready"], second]);
    });
  }

  Deno.test(`run() gives what main returns in spite of ${signal}, and sets the exit code`, async () => {
    const { out, err, code } = await runSignalled(
      `
      const result = await run(async () => {
        try {
          console.log("ready");
          await sleep(1e6);
        } catch {
          return "saved";
        }
      });
      console.log(result);
    `,
      signal,
    );
    assertEquals([out, err, code], [["ready", "saved"], "", exitCode]);
  });

  Deno.test(`run() that ${signal} comes to while it kills the others goes on with that`, async () => {
    const { out, err, code } = await runScript(
      `
      const came = new gevent.Event();
      const note = () => came.set();
      const result = await run(async () => {
        const child = spawn(async () => {
          try {
            await sleep(1e6);
          } finally {
            Deno.addSignalListener("${signal}", note);
            Deno.kill(Deno.pid, "${signal}");
            await came.wait();
            Deno.removeSignalListener("${signal}", note);
            await sleep(1);
            console.log("cleaned up");
          }
        });
        await idle();
        return "result";
      });
      console.log(result);
    `,
      undefined,
      ["--no-check"],
    );
    assertEquals(out, ["cleaned up", "result"]);
    assertEquals([err, code], ["", exitCode]);
  });
}

Deno.test("run() that no signal has ended leaves the exit code as it is", async () => {
  const { out, err, code } = await runSignalled(`
    Deno.exitCode = 7;
    console.log(await run(() => "result"));
  `);
  assertEquals([out, err, code], [["result"], "", 7]);
});

/** Mains that nothing can end any more, after what has happened. */
const DEADLOCKS: Record<string, string> = {
  "in a foreign promise": "await new Promise(() => {});",
  "in a wait": "await new Event().wait();",
  "of several greenlets":
    "await Promise.all([1, 2].map(() => spawn(() => new Event().wait()).join()));",
  "that comes later": "await sleep(5); await new Event().wait();",
};

/** Runs all of them in one process, which the last one ends; the lines that each led to. */
async function runDeadlocks(): Promise<string[]> {
  const runs = Object.values(DEADLOCKS).map((deadlock) => `
    run(async () => {
      console.log("begun");
      ${deadlock}
    })`);
  const { out, err, code } = await runScript(
    `
    const tell = (error) => console.log(String(error));
    ${runs.slice(0, -1).map((run) => `await ${run}.catch(tell);`).join("")}
    await ${runs.at(-1)};
    console.log("not reached");
  `,
    undefined,
    ["--no-check"],
  );
  assertEquals([out.at(-1), code], ["begun", 1]);
  const parts = [...out, err].join("\n").split("begun\n");
  assertEquals(parts.shift(), "");
  return parts;
}

let deadlocks: ReturnType<typeof runDeadlocks> | undefined;

for (const [i, name] of Object.keys(DEADLOCKS).entries()) {
  Deno.test(`run() in a deadlock ${name} ends with a LoopExit`, async () => {
    const all = await (deadlocks ??= runDeadlocks());
    assertStringIncludes(all[i]!, "LoopExit: Nothing can end");
  });
}

Deno.test("run() that is not awaited ends with a LoopExit, too, and does not keep the process alive", async () => {
  const { out, err, code } = await runScript(
    `
    run(async () => {
      await sleep(1);
      console.log("begun");
      await new Event().wait();
    });
  `,
    undefined,
    ["--no-check"],
  );
  assertEquals([out, code], [["begun"], 1]);
  assertStringIncludes(err, "LoopExit: Nothing can end");
});

Deno.test("run() goes on listening when it has looked for a deadlock and found none", async () => {
  const { out, err, code } = await runSignalled(
    `
    const timer = setTimeout(() => {}, 1e6);
    const result = await run(async () => {
      // Nothing of the library's happens for longer than it takes to look.
      await new Promise((resolve) => setTimeout(resolve, 1500));
      console.log("ready");
      await new Event().wait();
    });
    clearTimeout(timer);
    console.log(result instanceof GreenletExit);
  `,
    "SIGINT",
  );
  assertEquals([out, err, code], [["ready", "true"], "", 130]);
});

Deno.test("run() with a foreign operation pending is not taken for a deadlock", async () => {
  const { out, err, code } = await runScript(
    `
    const result = await run(async () => {
      using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      // A process of its own, so that nothing keeps this one alive but the accept().
      const { port } = listener.addr;
      const client = new Deno.Command(Deno.execPath(), {
        args: ["eval", \`setTimeout(async () => {
          (await Deno.connect({ hostname: "127.0.0.1", port: \${port} })).close();
        }, 1300);\`],
      }).spawn();
      client.unref();
      const conn = await listener.accept();
      conn.close();
      return "accepted";
    });
    console.log(result);
    Deno.exit();
  `,
    undefined,
    ["--no-check"],
  );
  assertEquals([out, err, code], [["accepted"], "", 0]);
});

testBoth("run() leaves greenlets that were killed before to their clean-up", {
  async async(log: unknown[], gate: Event) {
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push(error);
    } finally {
      try {
        await gate.wait();
        log.push("cleaned up");
      } catch {
        log.push("cut short");
      }
    }
  },
  *generator(log: unknown[], gate: Event) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push(error);
    } finally {
      try {
        yield* gate.wait();
        log.push("cleaned up");
      } catch {
        log.push("cut short");
      }
    }
  },
}, async (body) => {
  const log: unknown[] = [];
  const gate = new Event();
  const exit = new GreenletExit();
  let g!: Greenlet;
  await run(async () => {
    g = spawn(body, log, gate) as Greenlet;
    await settle();
    g.kill(exit, { block: false, grace: 1e6 });
    await settle();
    // When the end of run() has come to it, and has done what it does.
    setTimeout(() => gate.set(), 5);
  });
  assert(g.dead);
  assertEquals(log.length, 2);
  assertStrictEquals(log[0], exit);
  assertEquals(log[1], "cleaned up");
});

Deno.test("run() reports all errors to the hub before it returns", async () => {
  const errors: unknown[] = [];
  const hub = getHub();
  const { handleError } = hub;
  hub.handleError = (_context, error) => void errors.push(error);
  try {
    const error = new Error("child");
    await run(() => {
      spawn(() => {
        throw error;
      });
    });
    assertEquals(errors, [error]);
  } finally {
    hub.handleError = handleError;
  }
});

Deno.test("run() that is called in a greenlet ends its main with that", async () => {
  using failures = new Failures();
  let main!: Greenlet;
  const outer = spawn(() =>
    run(async () => {
      main = getCurrent() as Greenlet;
      await sleep(FOREVER);
    })
  );
  await settle();
  await outer.kill();
  await main.join();
  assertInstanceOf(main.value, GreenletExit);
  assertFalse(outer.started);
  await settle();
  // And after it, there may be one
  assertEquals(await run(() => 1), 1);
  assertEquals(failures.errors, []);
});
