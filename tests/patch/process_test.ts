import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  GreenletExit,
  killAll,
  monkey,
  patch,
  type PatchOptions,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { runScript, settle } from "../_bodies.ts";
import {
  inVain,
  outcome,
  test as testAnywhere,
  tick,
  withSeeds,
} from "../_random.ts";
import { whenSeen } from "../_waits.ts";

/** Longer than any test. */
const LONG = 100_000_000;

const test = Deno.build.os === "windows" ? () => {} : testAnywhere;

/** A program of the shell. */
function sh(
  script: string,
  options: Deno.CommandOptions = {},
): Deno.Command {
  return new Deno.Command("sh", { args: ["-c", script], ...options });
}

/** A child that would never end. */
function spawnLong(options: Deno.CommandOptions = {}): Deno.ChildProcess {
  return new Deno.Command("sleep", { args: ["1000"], ...options }).spawn();
}

const PIPED = { stdin: "piped", stdout: "piped" } as const;

/** A child that gives back what it gets, and ends with its input. */
function spawnEcho(options: Deno.CommandOptions = {}): Deno.ChildProcess {
  return new Deno.Command("cat", { ...PIPED, ...options }).spawn();
}

/** Checks that an echo was not told to end: it answers, and ends by itself. */
async function assertLeftAlone(child: Deno.ChildProcess): Promise<void> {
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode("alive"));
  await writer.close();
  assertEquals(await child.stdout.text(), "alive");
  assertEquals((await child.status).code, 0);
}

/** Ends a child, and waits for that. */
async function reap(child: Deno.ChildProcess): Promise<Deno.CommandStatus> {
  child.kill("SIGKILL");
  return await child.status;
}

/** Tells whether there is a process of that number, if only to be reaped. */
function exists(pid: number): boolean {
  try {
    Deno.kill(pid, "SIGCONT");
    return true;
  } catch {
    return false;
  }
}

/**
 * Calls something in a greenlet that was killed before: it is in a foreign promise, and the
 * error is held.
 */
async function whenKilled(run: () => unknown): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await promise;
    await run();
  });
  await sleep(0);
  greenlet.kill(undefined, { block: false });
  resolve();
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
}

async function eventually(holds: () => boolean): Promise<void> {
  while (!holds()) await tick(5);
}

/**
 * Runs a program of the system that lists our processes or files, to which we have no
 * access.
 */
function ask(command: string, ...args: string[]): string[] {
  if (Deno.build.os !== "linux") return [];
  const { stdout } = new Deno.Command(command, { args }).outputSync();
  return decode(stdout).split("\n").filter((line) => line !== "");
}

/** The number of our children, with those that were not reaped. */
function countChildren(): number {
  // Without the program that lists them.
  return ask("ps", "-o", "pid=", "--ppid", `${Deno.pid}`).length - 1;
}

/** How many files we have open. */
function countFiles(): number {
  return ask("ls", `/proc/${Deno.pid}/fd`).length;
}

/** A directory in which children leave notes. */
class Notes implements Disposable {
  readonly path = Deno.makeTempDirSync();

  /** The text of a note; `null` if there is none. */
  read(name: string): string | null {
    try {
      return Deno.readTextFileSync(`${this.path}/${name}`).trim() || null;
    } catch {
      return null;
    }
  }

  /** The text of a note, as soon as there is one. */
  async wait(name: string): Promise<string> {
    await eventually(() => this.read(name) !== null);
    return this.read(name)!;
  }

  /** For a script: waits until {@linkcode Notes.goOn} is called. */
  get untilToldToGoOn(): string {
    return `while [ ! -e ${this.path}/go ]; do sleep 0.01; done`;
  }

  goOn(): void {
    Deno.writeTextFileSync(`${this.path}/go`, "");
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** The ways to interrupt a wait while it is pending: each gives the error. */
const interrupters: Record<
  string,
  (
    wait: () => PromiseLike<unknown>,
    pending: () => Promise<unknown>,
  ) => Promise<
    unknown
  >
> = {
  "killed": async (wait, pending) => {
    const greenlet = spawn(async () => await wait());
    await pending();
    await greenlet.kill();
    return greenlet.value;
  },
  "killed without grace": async (wait, pending) => {
    const greenlet = spawn(async () => await wait());
    await pending();
    await greenlet.kill(undefined, { grace: 0 });
    return greenlet.value;
  },
  "killed in a generator body": async (wait, pending) => {
    const greenlet = spawn(function* () {
      return yield* until(wait());
    });
    await pending();
    await greenlet.kill();
    return greenlet.value;
  },
  "timed out": async (wait, pending) => {
    const ready = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      const promise = wait();
      await ready.promise;
      try {
        using _ = Timeout.start(1);
        await promise;
      } catch (error) {
        return error;
      }
    });
    await pending();
    ready.resolve();
    return await greenlet.get();
  },
  "timed out by withTimeout() outside greenlets": async (wait, pending) => {
    // Lets the machine take its time until the wait is pending.
    for (let ms = 5;; ms *= 2) {
      let isPending = false;
      try {
        await withTimeout(ms, async () => {
          const promise = wait();
          // It may be interrupted before it is awaited.
          promise.then(undefined, () => {});
          await pending();
          isPending = true;
          await promise;
        });
        return;
      } catch (error) {
        if (isPending) return error;
      }
    }
  },
};

function isInterrupt(error: unknown): boolean {
  return error instanceof GreenletExit || error instanceof Timeout;
}

function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** The contents of an output, for comparison. */
function told(output: Deno.CommandOutput): unknown {
  const { success, code, signal } = output;
  const text = (name: "stdout" | "stderr") => {
    try {
      return decode(output[name]);
    } catch (error) {
      return String(error);
    }
  };
  return {
    success,
    code,
    signal,
    stdout: text("stdout"),
    stderr: text("stderr"),
  };
}

test("Deno.Command looks under patch() as it did before", async () => {
  const before = Deno.Command;
  const describe = () => {
    const { prototype } = Deno.Command;
    const command = new Deno.Command("true");
    return [
      Deno.Command.name,
      Deno.Command.length,
      Object.getOwnPropertyNames(Deno.Command),
      Object.getOwnPropertyNames(prototype),
      prototype.spawn.name,
      prototype.output.name,
      Object.getOwnPropertyNames(Deno.ChildProcess.prototype),
      Deno.ChildProcess.prototype.output.name,
      command instanceof Deno.Command,
      command.constructor === Deno.Command,
      Object.getPrototypeOf(command) === prototype,
      Deno.inspect(command),
    ];
  };
  const expected = describe();
  {
    using _ = patch();
    assertEquals(describe(), expected);
    class Shell extends Deno.Command {
      constructor(readonly script: string) {
        super("sh", { args: ["-c", script] });
      }
    }
    const shell = new Shell("echo hello");
    assertInstanceOf(shell, Shell);
    assertInstanceOf(shell, Deno.Command);
    assertInstanceOf(shell, before);
    const output = await spawn(() => shell.output()).get();
    assertEquals(decode(output.stdout), "hello\n");
  }
  assertStrictEquals(Deno.Command, before);
  assertEquals(describe(), expected);
});

/** Each use of child processes, with its outcome. */
const programs: Record<string, () => unknown> = {
  "output": async () =>
    told(await sh("echo out; echo err >&2; exit 3").output()),
  "output of nothing": async () => told(await sh("true").output()),
  "output that is not piped": async () =>
    told(await sh("true", { stdout: "null", stderr: "inherit" }).output()),
  "output of a child that a signal ends": async () =>
    told(await sh("kill -9 $$").output()),
  "output with stdin": async () =>
    told(await sh("cat; echo end", { stdin: "null" }).output()),
  "output in a directory, with an environment": async () =>
    told(
      await sh("pwd; echo $A", { cwd: "/", env: { A: "b" }, clearEnv: true })
        .output(),
    ),
  "output of a detached child": async () =>
    told(
      await sh("echo $(($(ps -o pgid= -p $$) == $$))", { detached: true })
        .output(),
    ),
  "output with a signal that is aborted": async () =>
    told(
      await sh("exec sleep 1000", {
        signal: AbortSignal.abort(new Error("no")),
      })
        .output(),
    ),
  "output with a signal that aborts": async () => {
    const abort = new AbortController();
    const { signal } = abort;
    using notes = new Notes();
    const script = `trap 'echo bye; exit 4' TERM; echo 1 > ${notes.path}/ready
      while :; do sleep 0.01; done`;
    const output = sh(script, { signal }).output();
    await notes.wait("ready");
    abort.abort();
    return told(await output);
  },
  "output with a signal that aborts too late": async () => {
    const abort = new AbortController();
    const output = await sh("true", { signal: abort.signal }).output();
    abort.abort();
    return told(output);
  },
  "output of what does not exist": () =>
    new Deno.Command("nonexistent").output(),
  "output where nothing is": () => sh("true", { cwd: "/nonexistent" }).output(),
  "output with piped stdin": () => sh("true", { stdin: "piped" }).output(),
  "output with an odd option": () =>
    sh("true", { stdout: "odd" as "piped" }).output(),
  "output with an option that is null": () =>
    sh("true", { stdout: null as never }).output(),
  "output with options that are null": () =>
    new Deno.Command("true", null as never).output(),
  "output of no command": () =>
    Reflect.apply(Deno.Command.prototype.output, {}, []),
  "output without a command": () =>
    Reflect.apply(Deno.Command.prototype.output, undefined, []),
  "no command": () => Reflect.apply(Deno.Command, undefined, ["true"]),
  "spawn of what does not exist": () => new Deno.Command("nonexistent").spawn(),
  "spawn without a command": () =>
    Reflect.apply(Deno.Command.prototype.spawn, undefined, []),
  "spawn": async () => {
    const child = sh("cat; echo err >&2", {
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode("hello"));
    await writer.close();
    return told(await child.output());
  },
  "spawn without pipes": async () => {
    const child = sh("exit 5").spawn();
    return [
      await outcome(() => child.stdout),
      told(await child.output()),
      await child.status,
      await outcome(() => child.kill()),
    ];
  },
  "output() twice": async () => {
    const child = sh("echo hello", { stdout: "piped" }).spawn();
    return [
      told(await child.output()),
      await outcome(() => child.output()),
      await outcome(() => child.stdout.text()),
    ];
  },
  "output() twice at once": async () => {
    const child = sh("echo hello", { stdout: "piped" }).spawn();
    const first = child.output();
    return [await outcome(() => child.output()), told(await first)];
  },
  "output() of no child": () =>
    Reflect.apply(Deno.ChildProcess.prototype.output, {}, []),
  "status of no child": () =>
    Reflect.get(Deno.ChildProcess.prototype, "status"),
  "collectors": async () => {
    const piped = { stdout: "piped", stderr: "piped" } as const;
    const child = sh(
      'printf {\\"a\\":1}; printf "\\357\\273\\277\\377" >&2',
      piped,
    )
      .spawn();
    const json = await child.stdout.json();
    const text = await child.stderr.text();
    await child.status;
    const next = sh("printf abc; printf {a >&2", piped).spawn();
    const bytes = await next.stdout.bytes();
    const error = await outcome(() => next.stderr.json());
    await next.status;
    const last = sh("printf abc; printf abc >&2", piped).spawn();
    const buffer = new Uint8Array(await last.stdout.arrayBuffer());
    const again = await outcome(() => last.stdout.arrayBuffer());
    await last.stderr.cancel();
    await last.status;
    return { json, text, bytes, error, buffer, again };
  },
  "status": async () => {
    const child = sh("exit 6").spawn();
    const { status } = child;
    return [
      status instanceof Promise,
      status === child.status,
      await status,
      await child.status.then((it) => it.code),
      await child.status.finally(() => {}),
    ];
  },
  "asyncDispose": async () => {
    await using child = sh("exec sleep 1000").spawn();
    return typeof child.pid;
  },
  "Deno.spawn()": async () =>
    told(
      await Deno.spawn("sh", ["-c", "echo out"], { stdout: "piped" }).output(),
    ),
  "Deno.spawn() with options only": async () =>
    await Deno.spawn("sh", { args: ["-c", "exit 7"] }).status,
  "Deno.spawn() with arguments twice": () =>
    Deno.spawn("sh", ["-c"], { args: [] } as Deno.CommandOptions),
  "Deno.spawnAndWait()": async () =>
    told(await Deno.spawnAndWait("sh", ["-c", "echo out"])),
  "Deno.spawnAndWait() with options": async () =>
    told(
      await Deno.spawnAndWait("sh", ["-c", "echo $A"], { env: { A: "b" } }),
    ),
  "Deno.spawnAndWait() with options only": async () =>
    told(await Deno.spawnAndWait("sh", { args: ["-c", "exit 7"] })),
  "Deno.spawnAndWait() without arguments": async () =>
    told(await Deno.spawnAndWait("true")),
  "Deno.spawnAndWait() with arguments twice": () =>
    Deno.spawnAndWait("sh", ["-c"], { args: [] } as Deno.CommandOptions),
};

for (const [name, program] of Object.entries(programs)) {
  test(`Deno.Command does what it did, in greenlets and outside: ${name}`, async () => {
    const expected = await outcome(program);
    using _ = patch();
    assertEquals(await outcome(program), expected);
    assertEquals(await spawn(() => outcome(program)).get(), expected);
  });
}

test("child.status that a plain body returns is a wait of its greenlet, which can be killed", async () => {
  using _ = patch();
  const child = new Deno.Command("sleep", { args: ["100"] }).spawn();
  const greenlet = spawn(() => child.status);
  await sleep(0);
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  child.kill();
  assertEquals((await child.status).signal, "SIGTERM");
});

test("Command.output() gives all bytes of both pipes", async () => {
  using _ = patch();
  const script =
    "head -c 3000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait";
  const { stdout, stderr } = await spawn(() => sh(script).output()).get();
  assertEquals([stdout.length, stderr.length], [3_000_000, 2_000_000]);
});

for (const [name, interrupt] of Object.entries(interrupters)) {
  test(`Command.output() that is ${name} rejects at once, and the child is ended`, async () => {
    using _ = patch();
    using notes = new Notes();
    const error = await interrupt(
      () => sh(`echo $$ > ${notes.path}/pid; exec sleep 1000`).output(),
      () => notes.wait("pid"),
    );
    assert(isInterrupt(error));
    const pid = Number(notes.read("pid"));
    await eventually(() => !exists(pid));
    await whenSeen(() => countChildren() === 0);
  });
}

test("Command.output() that is interrupted before the child has started leaves no child", async () => {
  using _ = patch();
  for (let i = 0; i < 20; i++) {
    await inVain(() => sh("exec sleep 1000").output());
  }
  await whenSeen(() => countChildren() === 0);
});

test("Command.output() starts no child when an error is due", async () => {
  using _ = patch();
  using notes = new Notes();
  await whenKilled(() => sh(`touch ${notes.path}/ran`).output());
  // There is neither a child nor what it would have left.
  assertEquals(countChildren(), 0);
  assertEquals([...Deno.readDirSync(notes.path)], []);
});

test("Command.output() that ends before the interrupt keeps its result", async () => {
  using _ = patch();
  const over = Promise.withResolvers<void>();
  const { promise, resolve } = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    const wait = sh("echo hello").output();
    wait.then(() => over.resolve());
    await promise; // Killed here, and the error is held
    return decode((await wait).stdout);
  });
  await over.promise;
  greenlet.kill(undefined, { block: false });
  resolve();
  assertEquals(await greenlet.get(), "hello\n");
});

test("Command.output() that is interrupted closes pipes that the child's children have", async () => {
  using _ = patch();
  using notes = new Notes();
  const files = countFiles();
  const greenlet = spawn(() =>
    sh(`sleep 1000 & echo $! > ${notes.path}/pid; wait`).output()
  );
  const pid = Number(await notes.wait("pid"));
  await greenlet.kill();
  // The sanitizers see whether the pipes are closed: the grandchild lives on.
  await whenSeen(() => countChildren() === 0);
  await whenSeen(() => countFiles() <= files);
  assert(exists(pid));
  Deno.kill(pid, "SIGKILL");
});

test("patch({ process: { killChildren: false } }) leaves the child of an interrupted output() running", async () => {
  using _ = patch({ process: { killChildren: false } });
  using notes = new Notes();
  // More than fits into the pipe, so that it goes on only if the pipe is read.
  const script = `echo 1 > ${notes.path}/begun; ${notes.untilToldToGoOn}
    head -c 500000 /dev/zero; echo done > ${notes.path}/done`;
  const greenlet = spawn(() => sh(script).output());
  await notes.wait("begun");
  await greenlet.kill();
  notes.goOn();
  assertEquals(await notes.wait("done"), "done");
  await whenSeen(() => countChildren() === 0);
});

test("Command.output() of a command made before patch() is interrupted, and its child goes on", async () => {
  using notes = new Notes();
  const command = sh(
    `${notes.untilToldToGoOn}; echo done > ${notes.path}/done`,
  );
  using _ = patch();
  const greenlet = spawn(() => command.output());
  await sleep(0);
  await greenlet.kill();
  notes.goOn();
  assertEquals(await notes.wait("done"), "done");
  await whenSeen(() => countChildren() === 0);
});

test("Command.output() that pends when patch() is undone still works", async () => {
  using notes = new Notes();
  const patched = patch();
  const finished = spawn(() =>
    sh(`${notes.untilToldToGoOn}; echo hello`).output()
  );
  const killed = spawn(() => sh("exec sleep 1000").output());
  await sleep(0);
  patched[Symbol.dispose]();
  await killed.kill();
  assertInstanceOf(killed.value, GreenletExit);
  notes.goOn();
  assertEquals(decode((await finished.get()).stdout), "hello\n");
  await whenSeen(() => countChildren() === 0);
});

test("Deno.spawnAndWait() that is interrupted ends the child", async () => {
  using _ = patch();
  await assertRejects(
    () =>
      spawn(() => withTimeout(5, () => Deno.spawnAndWait("sleep", ["1000"])))
        .get(),
    Timeout,
  );
  await whenSeen(() => countChildren() === 0);
});

/** The calls that a greenlet with a child may be in when it is killed. */
const killed: Record<string, (child: Deno.ChildProcess) => Promise<unknown>> = {
  "waits for its status": (child) => child.status,
  "waits for its output": (child) => child.output(),
  "sleeps": () => sleep(LONG),
  "waits for a foreign promise": async (child) => {
    await monkey.getOriginal(child, "status");
    await sleep(LONG);
  },
};

for (const [what, wait] of Object.entries(killed)) {
  for (const deno of [false, true]) {
    test(
      `${
        deno ? "Deno" : "Command"
      }.spawn(): the child is ended when its greenlet is killed, that ${what}`,
      async () => {
        using _ = patch();
        let child: Deno.ChildProcess;
        const greenlet = spawn(async () => {
          child = deno ? Deno.spawn("sleep", ["1000"]) : spawnLong();
          await wait(child);
        });
        await sleep(0);
        await greenlet.kill();
        assertInstanceOf(greenlet.value, GreenletExit);
        assertEquals((await child!.status).signal, "SIGTERM");
      },
    );
  }
}

test("Deno.Command: a child that does not heed SIGTERM is killed after a kill's grace", async () => {
  using _ = patch();
  using notes = new Notes();
  const stubborn = (name: string) =>
    sh(`trap '' TERM; echo $$ > ${notes.path}/${name}
      while :; do sleep 0.05; done`);
  const greenlets = [
    spawn(() => stubborn("output").output()),
    spawn(async () => await stubborn("spawn").spawn().status),
  ];
  const pids = [
    Number(await notes.wait("output")),
    Number(await notes.wait("spawn")),
  ];
  const start = performance.now();
  await killAll(greenlets, { grace: 500 });
  for (const { value } of greenlets) assertInstanceOf(value, GreenletExit);
  // The killed greenlet does not wait for that.
  assert(pids.every(exists));
  await eventually(() => !pids.some(exists));
  assertGreaterOrEqual(performance.now() - start, 490);
});

test("Command.spawn(): a killed greenlet can wait for the end of its child", async () => {
  using _ = patch();
  let status: Deno.CommandStatus;
  const greenlet = spawn(async () => {
    const child = spawnLong();
    try {
      await sleep(LONG);
    } finally {
      status = await child.status;
    }
  });
  await sleep(0);
  await greenlet.kill(undefined, { grace: LONG });
  assertEquals(status!.signal, "SIGTERM");
});

test("Command.spawn(): a child that a killed greenlet spawns in its clean-up is not ended", async () => {
  using _ = patch();
  let code: number;
  const greenlet = spawn(async () => {
    try {
      await sleep(LONG);
    } finally {
      const { stdout } = await sh("echo cleaned").output();
      assertEquals(decode(stdout), "cleaned\n");
      code = (await sh("exit 8").spawn().status).code;
    }
  });
  await sleep(0);
  await greenlet.kill(undefined, { grace: LONG });
  assertEquals(code!, 8);
});

test("Command.spawn(): a greenlet that ends by itself leaves its child alone", async () => {
  using _ = patch();
  const greenlet = spawn(() => spawnEcho());
  const child = await greenlet.get();
  await greenlet.kill();
  await settle();
  await assertLeftAlone(child);
});

test("Command.spawn(): a greenlet that fails leaves its child alone", async () => {
  using _ = patch();
  let child: Deno.ChildProcess;
  const greenlet = spawn(async () => {
    child = spawnEcho();
    using _ = Timeout.start(1);
    await child.status;
  });
  await assertRejects(() => greenlet.get(), Timeout);
  await settle();
  await assertLeftAlone(child!);
});

test("Command.spawn(): a detached child is left alone", async () => {
  using _ = patch();
  const children: Deno.ChildProcess[] = [];
  const greenlet = spawn(async () => {
    children.push(spawnEcho({ detached: true }));
    children.push(Deno.spawn("cat", [], { ...PIPED, detached: true }));
    await sleep(LONG);
  });
  await sleep(0);
  await greenlet.kill();
  await settle();
  for (const child of children) await assertLeftAlone(child);
});

test("Command.spawn(): a child is left alone under killChildren: false", async () => {
  /** Checks whether a child goes on when the greenlet that has spawned it is killed. */
  const leaves = async (leaves: boolean) => {
    let child: Deno.ChildProcess;
    const greenlet = spawn(async () => {
      child = leaves ? spawnEcho() : spawnLong();
      await sleep(LONG);
    });
    await sleep(0);
    await greenlet.kill();
    await settle();
    if (leaves) await assertLeftAlone(child!);
    else assertEquals((await child!.status).signal, "SIGTERM");
  };
  using _outer = patch();
  await leaves(false);
  {
    using _ = patch({ process: { killChildren: false } });
    await leaves(true);
    {
      // Says nothing of it.
      using _ = patch();
      using __ = patch({ process: {} });
      await leaves(true);
    }
    {
      using _ = patch({ process: { killChildren: true } });
      await leaves(false);
    }
    await leaves(true);
  }
  await leaves(false);
});

test("Command.spawn(): children of several greenlets end each with its own", async () => {
  using _ = patch();
  const children: Deno.ChildProcess[] = [];
  const spawnTwo = () =>
    spawn(async () => {
      children.push(spawnLong(), spawnLong());
      await sleep(LONG);
    });
  const [first, second] = [spawnTwo(), spawnTwo()];
  await sleep(0);
  await first.kill();
  await Promise.all(children.slice(0, 2).map((child) => child.status));
  assert(children.slice(2).every((child) => exists(child.pid)));
  await second.kill();
  await Promise.all(children.map((child) => child.status));
});

for (const [name, interrupt] of Object.entries(interrupters)) {
  test(`ChildProcess.status that is ${name} can be awaited again, and the child goes on`, async () => {
    using _ = patch();
    const child = sh("read line; exit 9", { stdin: "piped" }).spawn();
    for (let i = 0; i < 3; i++) {
      const error = await interrupt(
        async () => await child.status,
        settle,
      );
      assert(isInterrupt(error), `${error}`);
    }
    assert(exists(child.pid));
    await child.stdin.close();
    assertEquals(await spawn(async () => (await child.status).code).get(), 9);
  });
}

test("ChildProcess.status that is not awaited is no wait", async () => {
  using _ = patch();
  const child = spawnLong();
  const greenlet = spawn(async () => {
    const { status } = child;
    try {
      await sleep(LONG);
    } catch {
      return [status];
    }
  });
  await sleep(0);
  greenlet.throw();
  const [status] = (await greenlet.get())!;
  await reap(child);
  assertEquals((await status!).signal, "SIGKILL");
});

test("ChildProcess.status.finally() calls back when the child has ended, and not at an interrupt", async () => {
  using _ = patch();
  await spawn(async () => {
    const child = spawnLong();
    let running = true;
    const ended = child.status.finally(() => running = false);
    await assertRejects(async () => {
      using _ = Timeout.start(1);
      await sleep(LONG);
    }, Timeout);
    await settle();
    assert(running);
    await reap(child);
    assertEquals((await ended).signal, "SIGKILL");
    assertFalse(running);
  }).get();
});

test("ChildProcess.status throws an error that is due", async () => {
  using _ = patch();
  const child = spawnLong();
  await whenKilled(() => child.status);
  await reap(child);
});

for (const [name, interrupt] of Object.entries(interrupters)) {
  test(`ChildProcess.output() that is ${name} loses nothing: the next call gives all`, async () => {
    using _ = patch();
    using notes = new Notes();
    const script = `echo one; echo 1 > ${notes.path}/one
      read line; echo two; echo err >&2; exit 9`;
    const child = sh(script, { ...PIPED, stderr: "piped" }).spawn();
    const pending = async () => {
      await notes.wait("one");
      await settle();
    };
    for (let i = 0; i < 3; i++) {
      const error = await interrupt(() => child.output(), pending);
      assert(isInterrupt(error), `${error}`);
    }
    await child.stdin.close();
    const output = await spawn(() => child.output()).get();
    assertEquals(told(output), {
      success: false,
      code: 9,
      signal: null,
      stdout: "one\ntwo\n",
      stderr: "err\n",
    });
    await assertRejects(() => child.output(), TypeError, "locked");
  });
}

test("ChildProcess.output() after an interrupted one gives all outside greenlets, and when patch() is undone", async () => {
  const children: Deno.ChildProcess[] = [];
  {
    using _ = patch();
    for (let i = 0; i < 3; i++) {
      const child = sh("echo hello; sleep 0.05", { stdout: "piped" }).spawn();
      await inVain(() => child.output());
      children.push(child);
    }
    assertEquals(decode((await children[0]!.output()).stdout), "hello\n");
  }
  assertEquals(decode((await children[1]!.output()).stdout), "hello\n");
  const late = children[2]!;
  await inVain(() => late.output());
  const { stdout } = await spawn(() => late.output()).get();
  assertEquals(decode(stdout), "hello\n");
  for (const child of children) {
    assertFalse(Object.hasOwn(child, "output"));
    await assertRejects(() => child.output(), TypeError, "locked");
  }
});

test("ChildProcess.output() after an interrupted one throws an error that is due, and leaves the output to the next call", async () => {
  using _ = patch();
  const child = sh("echo hello", { stdout: "piped" }).spawn();
  await inVain(() => child.output());
  await whenKilled(() => child.output());
  assertEquals(decode((await child.output()).stdout), "hello\n");
});

type Collector = "text" | "json" | "bytes" | "arrayBuffer";

const collectors: Record<Collector, (collected: unknown) => unknown> = {
  text: (text) => JSON.parse(text as string),
  json: (json) => json,
  bytes: (bytes) => JSON.parse(decode(bytes as Uint8Array)),
  arrayBuffer: (buffer) =>
    JSON.parse(decode(new Uint8Array(buffer as ArrayBuffer))),
};

for (const first of Object.keys(collectors) as Collector[]) {
  test(`stdout.${first}() that is interrupted loses nothing: the next collector gives all`, async () => {
    const children = new Map<Collector, Deno.ChildProcess>();
    {
      using _ = patch();
      const all = Object.keys(collectors) as Collector[];
      await Promise.all(all.map(async (second) => {
        const child = sh("printf '[1,'; sleep 0.02; printf '2]'", {
          stdout: "piped",
        }).spawn();
        const { stdout } = child;
        await inVain(() => stdout[first]());
        const collected = await spawn(() => stdout[second]()).get();
        assertEquals(collectors[second](collected), [1, 2]);
        await assertRejects(() => stdout[second](), TypeError, "locked");
        await child.status;
        const late = sh("printf '[1,'; sleep 0.02; printf '2]'", {
          stdout: "piped",
        }).spawn();
        children.set(second, late);
        await inVain(() => late.stdout[first]());
      }));
    }
    for (const [second, { stdout, status }] of children) {
      assertEquals(collectors[second](await stdout[second]()), [1, 2]);
      assertEquals(Object.getOwnPropertyNames(stdout), []);
      await status;
    }
  });
}

test("stdout.text() that is interrupted and fails later has the next one fail", async () => {
  using _ = patch();
  const child = sh("printf '[1'; sleep 0.05", { stdout: "piped" }).spawn();
  await inVain(() => child.stdout.json());
  await child.status;
  await settle();
  await assertRejects(() => child.stdout.json(), SyntaxError);
});

test("ChildProcess[Symbol.asyncDispose]() ends the child of a killed greenlet", async () => {
  using _ = patch();
  let child: Deno.ChildProcess;
  const greenlet = spawn(async () => {
    await using _ = child = spawnLong();
    await sleep(LONG);
  });
  await sleep(0);
  await greenlet.kill(undefined, { grace: LONG });
  assertFalse(exists(child!.pid));
  assertEquals((await child!.status).signal, "SIGTERM");
});

test("ChildProcess[Symbol.asyncDispose]() ends the child although an error is due", async () => {
  using _ = patch();
  const child = spawnLong();
  await whenKilled(() => child[Symbol.asyncDispose]());
  assertEquals((await child.status).signal, "SIGTERM");
});

test("ChildProcess[Symbol.asyncDispose]() can be interrupted", async () => {
  using _ = patch();
  using notes = new Notes();
  const child = sh(
    `trap '' TERM; echo 1 > ${notes.path}/ready; while :; do sleep 0.05; done`,
  ).spawn();
  await notes.wait("ready");
  const result = await spawn(() =>
    withTimeout(5, () => child[Symbol.asyncDispose](), { value: "late" })
  ).get();
  assertEquals(result, "late");
  await reap(child);
});

test("patch({ process }) refuses an unknown option", () => {
  for (
    const [process, message] of [
      [{ kill: true }, "must be killChildren"],
      [{ killChildren: 1 }, "'killChildren' must be a boolean: received 1"],
      [null, "'process' must be a boolean or options: received null"],
      ["yes", `'process' must be a boolean or options: received "yes"`],
    ] as const
  ) {
    assertThrows(
      () => patch({ process } as unknown as PatchOptions),
      TypeError,
      message,
    );
    assertFalse(monkey.isPatched("process"));
  }
  const original = Deno.Command;
  using _ = patch({ process: false });
  assertStrictEquals(Deno.Command, original);
  return Promise.resolve();
});

test("Command.output() that is interrupted does not keep the process alive", async () => {
  const { out, err } = await runScript(`
    patch();
    const g = spawn(() => new Deno.Command("sleep", { args: ["1000"] }).output());
    await sleep(1);
    await g.kill();
    console.log("killed");`);
  assertEquals([out, err], [["killed"], ""]);
});

test("Command.spawn(): a child that is ended and unref'd does not keep the process alive", async () => {
  const { out, err } = await runScript(`
    patch();
    const script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    const { promise, resolve } = Promise.withResolvers();
    const g = spawn(async () => {
      const child = new Deno.Command("sh", {
        args: ["-c", script], stdout: "piped", stderr: "null", stdin: "null",
      }).spawn();
      console.log(child.pid);
      const reader = child.stdout.getReader();
      await until(reader.read());
      reader.releaseLock();
      await child.stdout.cancel();
      child.unref();
      resolve();
      await sleep(100_000);
    });
    await promise;
    await g.kill();`);
  const [pid] = out;
  // It was told to end, and the process has not waited until it is killed.
  assert(exists(Number(pid)));
  Deno.kill(Number(pid), "SIGKILL");
  assertEquals(err, "");
});

/** Ways to have a child, each interrupted after `ms` at the most; counts what it was. */
type Way = (
  notes: Notes,
  id: string,
  ms: number,
  counts: { interrupted: number; whole: number },
) => Promise<void>;

/** A child that leaves its number, and then lives for some ms. */
function note(notes: Notes, id: string, ms: number): string {
  return `echo $$ > ${notes.path}/${id}; printf begin; exec sleep ${ms / 1000}`;
}

const ways: Record<string, Way> = {
  "output, timed out": async (notes, id, ms, counts) => {
    const output = await spawn(() =>
      withTimeout(ms, () => sh(note(notes, id, ms)).output(), { value: null })
    ).get();
    if (output === null) return void counts.interrupted++;
    assertEquals(decode(output.stdout), "begin");
    counts.whole++;
  },
  "output, killed": async (notes, id, ms, counts) => {
    const greenlet = spawn(() => sh(note(notes, id, ms)).output());
    await greenlet.join({ timeout: ms });
    await greenlet.kill();
    const { value } = greenlet;
    if (value instanceof GreenletExit) return void counts.interrupted++;
    assertEquals(decode(value!.stdout), "begin");
    counts.whole++;
  },
  "spawn, killed": async (notes, id, ms, counts) => {
    const greenlet = spawn(async () => {
      const child = sh(note(notes, id, LONG), { stdout: "piped" }).spawn();
      return await child.output();
    });
    await greenlet.join({ timeout: ms });
    await greenlet.kill(undefined, { grace: ms < 5 ? 0 : 1000 });
    assertInstanceOf(greenlet.value, GreenletExit);
    counts.interrupted++;
  },
  "spawn, disposed of": async (notes, id, ms, counts) => {
    const greenlet = spawn(async () => {
      await using child = sh(note(notes, id, LONG)).spawn();
      await child.status;
    });
    await greenlet.join({ timeout: ms });
    await greenlet.kill(undefined, { grace: LONG });
    if (greenlet.exception !== undefined) throw greenlet.exception;
    assertInstanceOf(greenlet.value, GreenletExit);
    counts.interrupted++;
  },
  "spawn, timed out again and again": async (notes, id, ms, counts) => {
    const output = await spawn(async () => {
      const child = sh(note(notes, id, ms), { stdout: "piped" }).spawn();
      const { status } = child;
      for (;;) {
        using timeout = Timeout.start(ms / 4);
        try {
          const output = await child.output();
          timeout[Symbol.dispose]();
          assertEquals((await status).code, output.code);
          return output;
        } catch (error) {
          if (error !== timeout) throw error;
          counts.interrupted++;
        }
      }
    }).get();
    assertEquals(decode(output.stdout), "begin");
    counts.whole++;
  },
  "text, timed out again and again": async (notes, id, ms, counts) => {
    const text = await spawn(async () => {
      const child = sh(note(notes, id, ms), { stdout: "piped" }).spawn();
      for (;;) {
        using timeout = Timeout.start(ms / 4);
        try {
          const text = await child.stdout.text();
          timeout[Symbol.dispose]();
          await child.status;
          return text;
        } catch (error) {
          if (error !== timeout) throw error;
          counts.interrupted++;
        }
      }
    }).get();
    assertEquals(text, "begin");
    counts.whole++;
  },
};

test("Deno.Command: every child is accounted for when hundreds are interrupted at random", () =>
  withSeeds(async (next) => {
    using _ = patch();
    using notes = new Notes();
    await sh("true").output();
    const files = countFiles();
    const counts = { interrupted: 0, whole: 0 };
    const kinds = Object.values(ways);
    let begun = 0;
    await Promise.all(Array.from({ length: 6 }, async () => {
      while (begun < 120) {
        const id = `${begun++}`;
        const kind = kinds[Math.floor(next() * kinds.length)]!;
        await kind(notes, id, next() ** 2 * 30, counts);
      }
    }));
    await whenSeen(() => countChildren() === 0);
    let seen = 0;
    for (const { name } of Deno.readDirSync(notes.path)) {
      const pid = notes.read(name);
      if (pid === null) continue;
      seen++;
      assertFalse(exists(Number(pid)));
    }
    assertGreater(seen, 30);
    assertGreater(counts.interrupted, 100);
    assertGreater(counts.whole, 10);
    await whenSeen(() => countFiles() <= files);
  }));
