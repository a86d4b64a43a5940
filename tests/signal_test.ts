import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  AsyncResult,
  Event,
  getCurrent,
  getHub,
  Greenlet,
  GreenletExit,
  onSignal,
  Queue,
  select,
  signals,
  sleep,
  spawn,
  Timeout,
  withTimeout,
} from "../mod.ts";
import { isListenedTo } from "../_hub/signals.ts";
import { Failures, runScript, type ScriptOutput, settle } from "./_bodies.ts";
import { test } from "./_random.ts";
import { when } from "./_waits.ts";

// deno-lint-ignore no-explicit-any
type Any = any;

const FOREVER = 1e9;

function send(name: Deno.Signal): void {
  Deno.kill(Deno.pid, name);
}

/** Runs a script without a check of its types, and sends it signals as it asks for them. */
function runSignalled(
  script: string,
  ...names: Deno.Signal[]
): Promise<ScriptOutput> {
  return runScript(script, (line, process) => {
    if (line === "ready") process.kill(names.shift());
  }, ["--no-check"]);
}

const HANDLERS = {
  "async function": async (queue: Queue<unknown>, ...args: unknown[]) => {
    await sleep(0);
    queue.putNowait([getCurrent(), ...args]);
  },
  "generator function": function* (
    queue: Queue<unknown>,
    ...args: unknown[]
  ) {
    yield* sleep(0);
    queue.putNowait([getCurrent(), ...args]);
  },
  "plain function": (queue: Queue<unknown>, ...args: unknown[]) => {
    queue.putNowait([getCurrent(), ...args]);
  },
};

for (const [kind, handler] of Object.entries(HANDLERS)) {
  test(`onSignal() runs a handler in a greenlet each time, ${kind}`, async () => {
    const queue = new Queue<Any>();
    using _ = onSignal("SIGUSR1", handler, queue, 1, "two");
    const greenlets = new Set<Greenlet>();
    for (let i = 0; i < 3; i++) {
      send("SIGUSR1");
      const [greenlet, ...args] = await queue.get();
      assertEquals(args, [1, "two"]);
      assertInstanceOf(greenlet, Greenlet);
      assertEquals(greenlet.name, "SIGUSR1");
      greenlets.add(greenlet);
    }
    assertEquals(greenlets.size, 3);
  });
}

test("onSignal() several times for one signal has independent handlers, in order", async () => {
  const queue = new Queue<string>();
  const put = (name: string) => queue.putNowait(name);
  using _first = onSignal("SIGUSR1", put, "first");
  const second = onSignal("SIGUSR1", put, "second");
  using _third = onSignal("SIGUSR1", put, "third");
  send("SIGUSR1");
  const taken = [await queue.get(), await queue.get(), await queue.get()];
  assertEquals(taken, ["first", "second", "third"]);
  second[Symbol.dispose]();
  second[Symbol.dispose]();
  send("SIGUSR1");
  assertEquals([await queue.get(), await queue.get()], ["first", "third"]);
  await settle();
  assertEquals(queue.qsize(), 0);
});

test("onSignal() tells the hub of a handler's error, and goes on", async () => {
  const told = new Queue<[unknown, unknown]>();
  const hub = getHub();
  const { handleError } = hub;
  hub.handleError = (context, error) => told.putNowait([context, error]);
  try {
    const error = new Error("in the handler");
    using _ = onSignal("SIGUSR1", () => {
      throw error;
    });
    for (let i = 0; i < 2; i++) {
      send("SIGUSR1");
      const [context, thrown] = await told.get();
      assertEquals((context as Greenlet).name, "SIGUSR1");
      assertEquals(thrown, error);
    }
  } finally {
    hub.handleError = handleError;
  }
});

test("onSignal() outlives the greenlet that calls it, and its handlers are no part of that", async () => {
  const seen = new AsyncResult<unknown>();
  const listener = await spawn(() =>
    onSignal("SIGUSR1", () => {
      seen.set((getCurrent() as Greenlet).spawningGreenlet);
    })
  ).get();
  using _ = listener;
  send("SIGUSR1");
  assertEquals(await seen.get(), getHub());
});

test("onSignal() that is disposed of lets its handler go on", async () => {
  const begun = new Event();
  const ended = new Event();
  {
    using _ = onSignal("SIGUSR1", async () => {
      begun.set();
      await sleep(1);
      ended.set();
    });
    send("SIGUSR1");
    await begun.wait();
  }
  await ended.wait();
});

Deno.test("onSignal() and signals() refuse what they can't listen to, at the call", () => {
  const wrong: unknown[] = [
    "SIGFOO",
    "sigusr1",
    "SIGKILL",
    "SIGSTOP",
    "",
    12,
    undefined,
    null,
    {},
  ];
  for (const name of wrong) {
    for (
      const call of [
        () => onSignal(name as Any, () => {}),
        () => signals(name as Any),
        () => signals("SIGUSR1", name as Any),
      ]
    ) {
      const error = assertThrows(call, TypeError);
      assertStringIncludes(error.message, "Cannot listen for a signal");
      assertStringIncludes(
        error.message,
        typeof name === "string" ? JSON.stringify(name) : String(name),
      );
    }
  }
  for (const handler of [1, undefined, "f", async function* () {}]) {
    assertThrows(
      () => onSignal("SIGUSR1", handler as Any),
      TypeError,
      "'handler' must",
    );
  }
  assertThrows(() => signals(), TypeError, "there is no name");
});

const LOOPS = {
  async: async (names: string[], ready: Queue<null>) => {
    for await (const name of signals("SIGUSR1", "SIGUSR2", "SIGUSR1")) {
      names.push(name);
      if (names.length === 4) break;
      ready.putNowait(null);
    }
  },
  generator: function* (names: string[], ready: Queue<null>) {
    using received = signals("SIGUSR1", "SIGUSR2", "SIGUSR1");
    for (;;) {
      const { value } = yield* received.next();
      names.push(value!);
      if (names.length === 4) break;
      ready.putNowait(null);
    }
  },
};

for (const [kind, body] of Object.entries(LOOPS)) {
  test(`signals() gives each by its name, in order, ${kind} body`, async () => {
    const names: string[] = [];
    const ready = new Queue<null>();
    const greenlet = spawn(
      body as (...args: [string[], Queue<null>]) => Promise<void>,
      names,
      ready,
    );
    await settle();
    for (const name of ["SIGUSR1", "SIGUSR2", "SIGUSR2"] as const) {
      send(name);
      await ready.get();
    }
    send("SIGUSR1");
    await greenlet.get();
    assertEquals(names, ["SIGUSR1", "SIGUSR2", "SIGUSR2", "SIGUSR1"]);
  });
}

test("signals() keeps what comes between two steps, from the call on", async () => {
  using received = signals("SIGUSR1", "SIGUSR2");
  using others = signals("SIGUSR2");
  send("SIGUSR1");
  send("SIGUSR2");
  assertEquals((await others.next()).value, "SIGUSR2");
  const names = [await received.next(), await received.next()];
  assertEquals(names.map(({ value }) => value).toSorted(), [
    "SIGUSR1",
    "SIGUSR2",
  ]);
});

test("signals() listens no more when its loop is left in any way", async () => {
  // One that listens all the time, for the signals not to end the process.
  const queue = new Queue<null>();
  using _ = onSignal("SIGUSR1", () => queue.putNowait(null));
  const iterators: ReturnType<typeof signals>[] = [];
  const begin = () => {
    const iterator = signals("SIGUSR1");
    iterators.push(iterator);
    return iterator;
  };
  const loops = [
    async () => {
      for await (const _ of begin()) break;
    },
    async () => {
      for await (const _ of begin()) throw new GreenletExit();
    },
    async () => {
      for await (const _ of begin()) await sleep(FOREVER);
    },
    async () => {
      for await (const _ of begin()) {
        // Once more.
      }
    },
  ];
  const greenlets = loops.map((loop) => spawn(loop));
  await settle();
  send("SIGUSR1");
  await queue.get();
  await settle();
  for (const greenlet of greenlets) await greenlet.kill();
  for (const iterator of iterators) {
    assertEquals(await iterator.next(), { done: true, value: undefined });
  }
  assertEquals(iterators.length, 4);
  const late = spawn(async () => {
    await withTimeout(1, async () => {
      for await (const _ of begin()) {
        // Once more.
      }
    });
  });
  await assertRejects(() => late.get(), Timeout);
  assert((await iterators.at(-1)!.next()).done);
});

test("signals() asked by hand goes on after an interrupt", async () => {
  using received = signals("SIGUSR1");
  await assertRejects(() => withTimeout(1, () => received.next()), Timeout);
  const greenlet = spawn(() => received.next());
  await settle();
  await greenlet.kill();
  const waiting = select([() => received.next(), () => sleep(0)]);
  assertEquals((await waiting).key, 1);
  send("SIGUSR1");
  assertEquals((await received.next()).value, "SIGUSR1");
  const last = received.next();
  received[Symbol.dispose]();
  assert((await last).done);
});

test("onSignal() and signals() keep no process alive", async () => {
  const { out, err, code } = await runSignalled(`
    onSignal("SIGUSR1", () => {});
    spawn(async () => {
      for await (const name of signals("SIGHUP")) console.log(name);
    });
    spawn(async () => {
      const received = signals("SIGUSR2");
      await received.next();
    });
    console.log("end");
  `);
  assertEquals([out, err, code], [["end"], "", 0]);
});

for (const [name, exitCode] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
  const other = name === "SIGINT" ? "SIGTERM" : "SIGINT";

  test(`run() leaves ${name} to an onSignal(), and takes it when that is disposed of`, async () => {
    const { out, err, code } = await runSignalled(
      `
      const result = await run(async () => {
        const handled = new Queue();
        const timer = setTimeout(() => {}, 1e6);
        {
          using _ = onSignal("${name}", () => handled.putNowait(1));
          using _other = onSignal("${name}", () => handled.putNowait(2));
          for (let i = 0; i < 2; i++) {
            console.log("ready");
            console.log(await handled.get(), await handled.get());
          }
        }
        try {
          console.log("ready");
          await sleep(1e6);
        } finally {
          console.log("unwound");
          clearTimeout(timer);
        }
      });
      console.log(result instanceof GreenletExit);
    `,
      name,
      name,
      name,
    );
    assertEquals(out, [
      "ready",
      "1 2",
      "ready",
      "1 2",
      "ready",
      "unwound",
      "true",
    ]);
    assertEquals([err, code], ["", exitCode]);
  });

  test(`run() with an onSignal() of ${name} still takes ${other}`, async () => {
    const { out, code } = await runSignalled(
      `
      onSignal("${name}", () => console.log("ready"));
      await run(async () => {
        console.log("ready");
        await sleep(1e6);
      });
      console.log("unwound");
    `,
      name,
      other,
    );
    assertEquals(out, ["ready", "ready", "unwound"]);
    assertEquals(code, exitCode === 130 ? 143 : 130);
  });

  test(`run() leaves ${name} to signals(), and ends as it would`, async () => {
    const { out, err, code } = await runSignalled(
      `
      console.log(await run(async () => {
        console.log("ready");
        for await (const name of signals("${name}")) {
          console.log(name);
          break;
        }
        return "drained";
      }));
    `,
      name,
    );
    assertEquals([out, err, code], [["ready", name, "drained"], "", 0]);
  });
}

test("run() that waits in silence is not deaf to an onSignal() of SIGTERM", async () => {
  const { out, err, code } = await runSignalled(
    `
      await run(async () => {
        const stopping = new Event();
        using _ = onSignal("SIGTERM", () => stopping.set());
        // For longer than it takes run() to look for a deadlock.
        await new Promise((resolve) => setTimeout(resolve, 1500));
        console.log("ready");
        await stopping.wait();
        console.log("stopped");
      });
    `,
    "SIGTERM",
  );
  assertEquals([out, err, code], [["ready", "stopped"], "", 0]);
});

test("signals() listens no more when its loop goes on after a held interrupt", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const begun = new Event();
  const greenlet = spawn(async () => {
    for await (const _ of signals("SIGUSR2")) {
      begun.set();
      // A promise of others, in which the kill is held.
      await promise;
    }
  });
  await when(() => isListenedTo("SIGUSR2"));
  send("SIGUSR2");
  await begun.wait();
  greenlet.kill(undefined, { block: false });
  resolve();
  await greenlet.join();
  assertEquals(isListenedTo("SIGUSR2"), false);
});

test("onSignal() under patch() is not ended with the greenlet that calls it", async () => {
  const { out, err, code } = await runSignalled(
    `
    using _ = patch();
    const queue = new Queue();
    const g = spawn(async () => {
      onSignal("SIGUSR1", async () => {
        await new Promise((resolve) => setTimeout(resolve, 1));
        queue.putNowait("handled");
      });
      await sleep(1e6);
    });
    await idle();
    await g.kill();
    console.log("ready");
    console.log(await queue.get());
    Deno.exit();
  `,
    "SIGUSR1",
  );
  assertEquals([out, err, code], [["ready", "handled"], "", 0]);
});

Deno.test("onSignal() leaves nothing to be told of", () => {
  using failures = new Failures();
  onSignal("SIGUSR1", () => {})[Symbol.dispose]();
  assertEquals(failures.errors, []);
});
