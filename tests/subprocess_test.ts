import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  GreenletExit,
  patch,
  sleep,
  spawn,
  type subprocess,
  Timeout,
  until,
  withTimeout,
} from "../mod.ts";
import {
  CalledProcessError,
  checkOutput,
  run,
  type RunOptions,
  TimeoutExpired,
} from "../subprocess.ts";
import { type Body, runScript, testBoth } from "./_bodies.ts";
import { childrenEnded } from "./_processes.ts";
import { when, whenSeen } from "./_waits.ts";

/** Programs of the shell are what is run here. */
const test = Deno.build.os === "windows" ? () => {} : Deno.test;
const testInBoth = Deno.build.os === "windows" ? () => {} : testBoth;

/** More than any pipe holds. */
const MILLION = 1_000_000;

/** Runs a script of the shell. */
function sh(script: string, options: RunOptions = {}) {
  return run("sh", ["-c", script], { ...options, text: true });
}

function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Whether a process runs, and is not only to be reaped. */
function isRunning(pid: number): boolean {
  try {
    Deno.kill(pid, 0 as unknown as Deno.Signal);
  } catch {
    return false;
  }
  const { stdout } = new Deno.Command("ps", {
    args: ["-o", "stat=", "-p", `${pid}`],
  }).outputSync();
  const state = new TextDecoder().decode(stdout).trim();
  return state !== "" && !state.startsWith("Z");
}

/** Waits until processes have ended whose numbers were printed. */
async function ended(printed: string, count: number): Promise<void> {
  const pids = printed.trim().split("\n").map(Number);
  assertEquals(pids.length, count, printed);
  for (const pid of pids) {
    assert(pid > 0, printed);
    await whenSeen(() => !isRunning(pid));
  }
  await childrenEnded();
}

/** Runs a script in TypeScript, in a process with some permissions. */
async function runWith(flags: string[], script: string): Promise<string> {
  const library = new URL("../mod.ts", import.meta.url).href;
  const code = `import * as gevent from ${JSON.stringify(library)};${script}`;
  return await checkOutput(
    Deno.execPath(),
    ["run", "-q", "--no-prompt", ...flags, "-"],
    { input: code, text: true },
  );
}

/** A file that a script writes when it has come so far. */
class Mark implements Disposable {
  readonly path = Deno.makeTempFileSync();

  get text(): string {
    return Deno.readTextFileSync(this.path);
  }

  written(): Promise<void> {
    return when(() => this.text.endsWith("\n"));
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path);
  }
}

/** What never ends by itself, with a process that it has started, and tells both numbers. */
const TWO = "echo $$; sleep 1000 & echo $!; wait";

testInBoth("run() gives the exit code and all output, as bytes", {
  async: async () => await run("sh", ["-c", "echo out; echo err >&2; exit 3"]),
  *generator() {
    return yield* run("sh", ["-c", "echo out; echo err >&2; exit 3"]);
  },
}, async (body: Body<[], subprocess.Completed>) => {
  assertEquals(await spawn(body).get(), {
    code: 3,
    signal: null,
    success: false,
    stdout: bytes("out\n"),
    stderr: bytes("err\n"),
  } as subprocess.Completed);
});

test("run() gives strings if the output is to be text", async () => {
  assertEquals(await sh("echo über"), {
    code: 0,
    signal: null,
    success: true,
    stdout: "über\n",
    stderr: "",
  });
  const empty = await run("true", [], { text: true });
  assertEquals([empty.stdout, empty.stderr], ["", ""]);
  const { stdout } = await run("printf", ["\\377"], { text: true });
  assertEquals(stdout, "\uFFFD");
});

test("run() tells the signal that has ended a program", async () => {
  const { code, signal, success } = await sh("kill -9 $$");
  assertEquals([code, signal, success], [137, "SIGKILL", false]);
});

test("run() runs a program without arguments and options", async () => {
  const { success, stdout } = await run("true");
  assertEquals([success, stdout.length], [true, 0]);
});

test("run() runs a program in a directory, with an environment of its own", async () => {
  const cwd = await Deno.realPath(new URL(".", import.meta.url));
  const options = { cwd, env: { FRUIT: "banana" } };
  const { stdout } = await sh("pwd; echo $FRUIT; test -n $PATH", options);
  assertEquals(stdout, `${cwd}\nbanana\n`);
  const url = new URL(".", import.meta.url);
  assertEquals((await sh("pwd", { cwd: url })).stdout, `${cwd}\n`);
});

test("run() gives a program its input, and then its end", async () => {
  assertEquals(
    (await sh("cat; echo end", { input: "pear\n" })).stdout,
    "pear\nend\n",
  );
  assertEquals((await sh("cat; echo end", { input: "" })).stdout, "end\n");
  const { stdout } = await run("cat", [], { input: bytes("pear") });
  assertEquals(stdout, bytes("pear") as typeof stdout);
});

test("run() gives a program an empty input if there is none", async () => {
  assertEquals((await sh("cat; echo end")).stdout, "end\n");
});

test("run() takes the input as it is at the call", async () => {
  const input = new Uint8Array(MILLION).fill(65);
  const wait = checkOutput("cat", [], { input });
  input.fill(66);
  assert((await wait).every((byte) => byte === 65));
});

testInBoth("run() takes a million bytes each way", {
  async: async (input: Uint8Array) => await checkOutput("cat", [], { input }),
  *generator(input) {
    return yield* checkOutput("cat", [], { input });
  },
}, async (body) => {
  const input = new Uint8Array(MILLION).map((_, i) => i * 31 ^ i >> 8);
  const stdout = await spawn(body, input).get();
  assertEquals(stdout.length, MILLION);
  assert(stdout.every((byte, i) => byte === input[i]));
});

test("run() takes a million bytes of output and of errors at once", async () => {
  const script =
    `head -c ${MILLION} /dev/zero >&2; head -c ${MILLION} /dev/zero; ` +
    `head -c ${MILLION} /dev/zero >&2`;
  const { stdout, stderr } = await run("sh", ["-c", script]);
  assertEquals([stdout.length, stderr.length], [MILLION, 2 * MILLION]);
});

test("run() takes it for no error that a program does not read its input", async () => {
  const input = new Uint8Array(MILLION);
  for (const script of ["true", "exec <&-; echo done", "head -c 1 >&2"]) {
    const { success } = await sh(script, { input });
    assert(success, script);
  }
});

test("run() is a wait that has begun when it returns", async () => {
  using mark = new Mark();
  const wait = sh(`echo begun > ${mark.path}`);
  await mark.written();
  assertEquals((await wait).code, 0);
});

test("run() lets other greenlets run meanwhile", async () => {
  using mark = new Mark();
  const waiting = spawn(() =>
    sh(`until test -s ${mark.path}; do sleep 0.01; done; echo seen`)
  );
  await sleep(1);
  Deno.writeTextFileSync(mark.path, "go\n");
  assertEquals((await waiting.get()).stdout, "seen\n");
});

test("run() throws the error of a program that fails, if that is to be checked", async () => {
  const error = await assertRejects(
    () => sh("echo out; echo err >&2; exit 47", { check: true }),
    CalledProcessError,
    '"sh" failed with exit code 47',
  );
  const { name, command, args, code, signal, success, stdout, stderr } = error;
  assertEquals(
    { name, command, args: args.length, code, signal, success, stdout, stderr },
    {
      name: "CalledProcessError",
      command: "sh",
      args: 2,
      code: 47,
      signal: null,
      success: false,
      stdout: "out\n",
      stderr: "err\n",
    },
  );
  assertEquals((await sh("exit 0", { check: true })).code, 0);
  await assertRejects(
    () => sh("kill $$", { check: true }),
    CalledProcessError,
    '"sh" was ended by SIGTERM',
  );
});

test("checkOutput() gives the output, and throws if the program fails", async () => {
  assertEquals(await checkOutput("echo", ["hello"], { text: true }), "hello\n");
  const output = await checkOutput("cat", [], { input: "x" });
  assertEquals(output, bytes("x") as typeof output);
  const error = await assertRejects(
    () => checkOutput("sh", ["-c", "echo no >&2; exit 44"], { text: true }),
    CalledProcessError,
  );
  assertEquals([error.code, error.stderr], [44, "no\n"]);
});

testInBoth("checkOutput() is a wait for both kinds of body", {
  async: async () => await checkOutput("echo", ["x"], { text: true }),
  *generator() {
    return yield* checkOutput("echo", ["x"], { text: true });
  },
}, async (body) => {
  assertEquals(await spawn(body).get(), "x\n");
});

testInBoth("run() ends the program and what it has started, at its timeout", {
  async: async () => await sh(TWO, { timeout: 300 }),
  *generator() {
    return yield* sh(TWO, { timeout: 300 });
  },
}, async (body) => {
  // A loaded machine may not have printed by then.
  for (;;) {
    const error = await assertRejects(() => spawn(body).get(), TimeoutExpired);
    assert(error instanceof Timeout);
    assertEquals([error.ms, error.command, error.stderr], [300, "sh", ""]);
    const { stdout } = error as TimeoutExpired<string>;
    if (stdout.split("\n").length < 3) continue;
    return await ended(stdout, 2);
  }
});

test("run() at its timeout carries bytes, if the output is bytes", async () => {
  const error = await assertRejects(
    () => run("sh", ["-c", "sleep 1000"], { timeout: 1 }),
    TimeoutExpired,
  );
  await childrenEnded();
  assertEquals([error.stdout, error.stderr], [
    new Uint8Array(),
    new Uint8Array(),
  ]);
});

test("run() does not time out a program that ends in time", async () => {
  assertEquals((await sh("echo x", { timeout: 100_000 })).stdout, "x\n");
});

/** How a call can be interrupted: each does so once it is pending. */
const interrupts: Record<
  string,
  (
    call: () => PromiseLike<unknown>,
    pending: () => Promise<void>,
  ) => Promise<unknown>
> = {
  "a kill of its greenlet": async (call, pending) => {
    const greenlet = spawn(async () => await call());
    await pending();
    await greenlet.kill();
    return greenlet.value;
  },
  "a kill of a generator body": async (call, pending) => {
    const greenlet = spawn(function* () {
      return yield* until(call());
    });
    await pending();
    await greenlet.kill();
    return greenlet.value;
  },
  "a Timeout": async (call, pending) => {
    const begun = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      const wait = call();
      await begun.promise;
      try {
        using _ = Timeout.start(1);
        await wait;
      } catch (error) {
        return error;
      }
    });
    await pending();
    begun.resolve();
    return await greenlet.get();
  },
  "a Timeout in main": async (call, pending) => {
    const wait = call();
    await pending();
    try {
      using _ = Timeout.start(1);
      await wait;
    } catch (error) {
      return error;
    }
  },
};

for (const [name, interrupt] of Object.entries(interrupts)) {
  for (const isPatched of [false, true]) {
    const under = isPatched ? " under patch()" : "";
    test(`run() ends the program and what it has started, at ${name}${under}`, async () => {
      using _ = isPatched ? patch() : null;
      using mark = new Mark();
      const script =
        `sleep 1000 & printf "%s\\n%s\\n" $$ $! > ${mark.path}; wait`;
      const error = await interrupt(() => sh(script), () => mark.written());
      assert(
        error instanceof Timeout || error instanceof GreenletExit,
        `${error}`,
      );
      await ended(mark.text, 2);
    });
  }
}

test("run() gives a Timeout that interrupts it what was printed until then", async () => {
  for (let ms = 100;; ms *= 2) {
    const error = await assertRejects(
      () => withTimeout(ms, () => sh(`echo out; echo err >&2; sleep 1000`)),
      Timeout,
    );
    await childrenEnded();
    const { stdout, stderr } = error as TimeoutExpired<string>;
    if (stderr === "" || stdout === "") continue;
    return assertEquals([stdout, stderr], ["out\n", "err\n"]);
  }
});

test("run() reads what was printed in time, although the loop was held up", async () => {
  using mark = new Mark();
  const wait = sh(`echo out; echo x > ${mark.path}; sleep 1000`, {
    timeout: 500,
  });
  const end = performance.now() + 510;
  while (performance.now() < end) { /* Nothing else can run. */ }
  const isPrinted = mark.text !== "";
  const error = await assertRejects(() => wait, TimeoutExpired);
  await childrenEnded();
  if (isPrinted) assertEquals(error.stdout, "out\n");
});

test("run() throws at once, and kills what does not end within the grace", async () => {
  using mark = new Mark();
  const script = `trap '' TERM; (trap '' TERM; echo x; sleep 1000) & ` +
    `printf "%s\\n%s\\n" $$ $! > ${mark.path}; wait; wait`;
  const greenlet = spawn(() => sh(script, { grace: 300 }));
  await mark.written();
  const begun = performance.now();
  await greenlet.kill();
  assert(performance.now() - begun < 300, "the call waits for the grace");
  await ended(mark.text, 2);
  assert(performance.now() - begun >= 290, "the grace is not kept");
});

test("run() kills those that outlive the program which was told to end", async () => {
  using mark = new Mark();
  // The shell ends by SIGTERM, and what it has started does not.
  const script = `sh -c "trap '' TERM; sleep 1000; sleep 1000" & ` +
    `printf "%s\\n%s\\n" $$ $! > ${mark.path}; wait`;
  const greenlet = spawn(() => sh(script, { grace: 100 }));
  await mark.written();
  await greenlet.kill();
  await ended(mark.text, 2);
});

test("run() gives a program the grace to clean up", async () => {
  using mark = new Mark();
  using end = new Mark();
  const script = `trap 'echo clean > ${end.path}; exit' TERM; ` +
    `sleep 1000 & echo x > ${mark.path}; wait`;
  const greenlet = spawn(() => sh(script, { grace: 100_000 }));
  await mark.written();
  await greenlet.kill();
  await end.written();
  await childrenEnded();
});

test("run() ends what holds the output open after the program has ended", async () => {
  using mark = new Mark();
  const greenlet = spawn(() => sh(`sleep 1000 & echo $! > ${mark.path}`));
  await mark.written();
  await greenlet.kill();
  await ended(mark.text, 1);
});

test("run() starts nothing if an interrupt is due", async () => {
  using mark = new Mark();
  const { promise, resolve } = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await promise;
    await sh(`echo x > ${mark.path}`);
  });
  await sleep(0);
  greenlet.kill(undefined, { block: false });
  resolve();
  await greenlet.join();
  assert(greenlet.successful());
  assertEquals(mark.text, "");
});

test("run() keeps the result of a program that has ended before the interrupt", async () => {
  const results: string[] = [];
  const greenlet = spawn(async () => {
    const wait = sh("echo x");
    // Whoever looks at it first kills us.
    wait.then(() => greenlet.kill(undefined, { block: false }));
    results.push((await wait).stdout);
    await sleep(0);
    results.push("alive");
  });
  await greenlet.join();
  assertEquals(results, ["x\n"]);
});

test("run() passes on the errors of the runtime", async () => {
  await assertRejects(
    () => run("there-is-no-such-program"),
    Deno.errors.NotFound,
  );
  await assertRejects(
    () => run("true", [], { cwd: "/there/is/no/such/directory" }),
    Deno.errors.NotFound,
  );
  const printed = await runWith(
    [],
    `for (const options of [{}, { input: "x" }]) {
      await gevent.subprocess.run("true", [], options)
        .catch((error) => console.log(error.name));
    }
    const greenlet = gevent.spawn(() => gevent.subprocess.run("true"));
    await greenlet.get().catch((error) => console.log(error.name));`,
  );
  assertEquals(printed, "NotCapable\n".repeat(3));
});

test("run() ends the program alone, where not all programs may be run", async () => {
  const printed = await runWith(
    ["--allow-run=sh"],
    `const script = "sleep 3 & echo $$; exec sleep 1000";
    const options = { timeout: 500, text: true };
    await gevent.subprocess.run("sh", ["-c", script], options).catch((error) =>
      console.log(error.stdout.trim(), error instanceof gevent.Timeout)
    );`,
  );
  assert(printed.endsWith(" true\n"), printed);
  if (printed.length > 6) await ended(printed.split(" ")[0]!, 1);
});

for (const input of ["", "input: new Uint8Array(1e6), "]) {
  test(
    `run() lets the process end, and leaves nothing that ignores SIGTERM, ${
      input === "" ? "without input" : "with input that is not read"
    }`,
    async () => {
      using mark = new Mark();
      const begun = performance.now();
      const { out, err, code } = await runScript(`
    const script = "trap '' TERM; sleep 1000 & printf '%s\\\\n%s\\\\n' $$ $! > ${mark.path}; wait; wait";
    const options = { ${input}grace: 60_000 };
    const waiting = spawn(() => subprocess.run("sh", ["-c", script], options));
    while (!Deno.readTextFileSync("${mark.path}").endsWith("\\n")) await sleep(1);
    await waiting.kill();
    console.log("over");
  `);
      assertEquals([out, err, code], [["over"], "", 0]);
      assert(
        performance.now() - begun < 60_000,
        "the process waits for the grace",
      );
      await ended(mark.text, 2);
    },
  );
}

test("run() lets the process end whose program has left its input open", async () => {
  using mark = new Mark();
  const begun = performance.now();
  const { out, err, code } = await runScript(`
    const script = "exec 3<&0; sleep 30 <&3 >/dev/null 2>&1 & echo $! > ${mark.path}";
    const options = { input: new Uint8Array(1e6) };
    const { success } = await subprocess.run("sh", ["-c", script], options);
    console.log(success);
  `);
  const took = performance.now() - begun;
  if (took < 30_000) Deno.kill(Number(mark.text), "SIGKILL");
  assertEquals([out, err, code], [["true"], "", 0]);
  assert(took < 30_000, "the process waits for the input to be read");
});

test("run() leaves nothing of a process that exits while it waits", async () => {
  using mark = new Mark();
  const { code } = await runScript(`
    const script = "sleep 1000 & printf '%s\\\\n%s\\\\n' $$ $! > ${mark.path}; wait";
    spawn(() => subprocess.run("sh", ["-c", script]));
    while (!Deno.readTextFileSync("${mark.path}").endsWith("\\n")) await sleep(1);
    Deno.exit(3);
  `);
  assertEquals(code, 3);
  await ended(mark.text, 2);
});

test("run() refuses arguments of the wrong kind", () => {
  const wrong: [unknown[], string][] = [
    [[5], "'command' must be a name or a URL: received 5"],
    [[""], `'command' must be a name or a URL: received ""`],
    [["ls", "-l"], `'args' must be an array of strings: received "-l"`],
    [
      ["ls", {}],
      "'args' must be an array of strings: received [object Object]",
    ],
    [["ls", [1]], "'args[0]' must be a string: received 1"],
    [["ls", [], 5], "the options must be an object: received 5"],
    [["ls", [], null], "the options must be an object: received null"],
    [
      ["ls", [], { input: 5 }],
      "'input' must be a string or a Uint8Array: received 5",
    ],
    [
      ["ls", [], { timeout: "5" }],
      'the time must be a number of milliseconds: received "5"',
    ],
    [
      ["ls", [], { grace: null }],
      "the time must be a number of milliseconds: received null",
    ],
    [["ls", [], { check: 1 }], "'check' must be true or false: received 1"],
    [
      ["ls", [], { text: "utf8" }],
      `'text' must be true or false: received "utf8"`,
    ],
    [["ls", [], { cwd: 5 }], "'cwd' must be a path or a URL: received 5"],
    [["ls", [], { env: 5 }], "'env' must be an object of strings: received 5"],
    [["ls", [], { env: { A: 1 } }], "'env.A' must be a string: received 1"],
  ];
  for (const call of [run, checkOutput] as ((...args: never[]) => unknown)[]) {
    for (const [args, message] of wrong) {
      assertThrows(() => call(...args as never[]), TypeError, message);
    }
    assertThrows(
      () => call(...["ls", [], { timeout: NaN }] as never[]),
      RangeError,
      "received NaN",
    );
  }
});

test("run() leaves no child, no timer and no listener behind after many calls", async () => {
  for (let i = 0; i < 10; i++) {
    const greenlets = [0, 1, 2].map((j) =>
      spawn(() =>
        j === 0
          ? sh("exit 0")
          : sh(`exec sleep ${j === 1 ? 0 : 1000}`, { timeout: j * 20 })
      )
    );
    for (const greenlet of greenlets) await greenlet.join();
  }
  await childrenEnded();
});
