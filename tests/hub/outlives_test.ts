import {
  assertEquals,
  assertInstanceOf,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  Greenlet,
  GreenletExit,
  joinAll,
  sleep,
  spawn,
  until,
} from "../../mod.ts";
import { Failures, runScript, settle as settled } from "../_bodies.ts";

/** Code for all scripts here. */
const MEASURE = `
  /** The memory of objects, in bytes, after a garbage collection. */
  async function heap() {
    for (let i = 0; i < 3; i++) {
      gc();
      await idle();
    }
    return Deno.memoryUsage().heapUsed;
  }

  const bodies = {
    "async body": (wait) => async () => await wait(),
    "generator body": (wait) => function* () {
      return yield* until(wait());
    },
  };

  const interrupts = {
    killed: async (body) => {
      const greenlet = spawn(body);
      await sleep(0);
      await greenlet.kill();
    },
    "timed out": async (body) => {
      await spawn(() => withTimeout(0, body, { value: 1 })).join();
    },
  };

  async function repeat(count, round, atOnce = 50) {
    for (let i = 0; i < count; i += atOnce) {
      await Promise.all(Array.from({ length: atOnce }, round));
    }
  }

  /**
   * How many bytes a round leaves for good: the least of some tries, as what is loaded
   * meanwhile takes memory as well, above all in the first rounds.
   */
  async function leavings(round, atOnce, rounds) {
    await repeat(50, round, atOnce);
    let least = Infinity;
    for (let i = 0; i < 4 && least > MOST; i++) {
      const before = await heap();
      await repeat(rounds, round, atOnce);
      least = Math.min(least, (await heap() - before) / rounds);
    }
    return Math.round(least);
  }

  /** The bytes that one round may leave: a reaction alone is 500 bytes. */
  const MOST = 250;

  async function tell(name, round, atOnce = 50, rounds = 500) {
    const left = await leavings(round, atOnce, rounds);
    if (left > MOST) console.log(name, "leaves", left);
  }

  /** Tells of the waits that leave something when they are interrupted. */
  async function measure(waits, atOnce) {
    const rounds = [];
    for (const [name, wait] of Object.entries(waits)) {
      for (const [how, interrupt] of Object.entries(interrupts)) {
        for (const [kind, body] of Object.entries(bodies)) {
          const round = () => interrupt(body(wait));
          rounds.push([[name, how, kind].join(", "), round]);
        }
      }
    }
    // All in one, as to collect garbage takes most of the time.
    const all = async () => {
      for (const [, round] of rounds) await round();
    };
    if (await leavings(all, atOnce, 100) <= MOST) return;
    for (const [name, round] of rounds) await tell(name, round, atOnce);
  }
`;

/** Code that is compiled while a test measures would take memory. */
const FLAGS = ["--v8-flags=--expose-gc,--no-opt,--no-maglev,--no-sparkplug"];

/** Runs a script that prints what is left, and checks that nothing is. */
async function leavesNothing(
  script: string,
  flags: string[] = [],
): Promise<void> {
  const { out, err, code } = await runScript(MEASURE + script, () => {}, [
    ...FLAGS,
    ...flags,
  ]);
  assertEquals([out, err, code], [["done"], "", 0]);
}

/** Scripts that share a process. */
const shared: Record<string, string> = {
  "until() of a promise that never settles leaves no reaction in it when it is interrupted":
    `
    const promise = new Promise(() => {});
    const before = new Promise(() => {});
    class Own extends Promise {}
    const own = new Own(() => {});
    const frozen = Object.freeze(new Promise(() => {}));
    const event = new Event();
    const shared = event.wait();
    const of = { greenlet: null };
    spawn(() => of.wait = event.wait());
    await sleep(0);
    await measure({
      "until()": () => until(promise),
      "until() of two": () => {
        until(before).catch(() => {});
        return until(promise);
      },
      "until() with onInterrupt": () => until(promise, () => {}),
      "until() of an own class": () => until(own),
      "until() of a frozen promise": () => until(frozen),
      "until() of a wait of main": () => until(shared),
      "until() of a wait of another greenlet": () => until(of.wait),
    });`,
  "withTimeout() of a function that returns a promise that never settles leaves no reaction in it":
    `
    const promise = new Promise(() => {});
    class Own extends Promise {}
    const own = new Own(() => {});
    for (const [name, run] of Object.entries({
      "a promise": () => promise,
      "one of an own class": () => own,
    })) {
      await tell(name, () => withTimeout(0, run, { value: 1 }));
    }`,
  "yield* of another greenlet's wait leaves nothing in it when it is interrupted":
    `
    const event = new Event();
    let theirs;
    spawn(() => theirs = event.wait());
    await sleep(0);
    const rounds = {
      killed: async () => {
        const greenlet = spawn(function* () {
          yield* theirs;
        });
        await sleep(0);
        await greenlet.kill();
      },
      "timed out": () =>
        spawn(() => withTimeout(0, function* () {
          yield* theirs;
        }, { value: 1 })).join(),
    };
    for (const [name, round] of Object.entries(rounds)) {
      await tell(name, round);
    }`,
};

/** Runs them, and gives what each has told. */
async function runShared(): Promise<Map<string, string[]>> {
  const parts = Object.values(shared).map((script) =>
    `await (async () => { ${script} })();\nconsole.log("next");`
  );
  const { out, err, code } = await runScript(
    `${MEASURE} ${parts.join("\n")} Deno.exit();`,
    undefined,
    FLAGS,
  );
  assertEquals([err, code], ["", 0]);
  const told: string[][] = [[]];
  for (const line of out) {
    if (line === "next") told.push([]);
    else told.at(-1)!.push(line);
  }
  return new Map(Object.keys(shared).map((name, i) => [name, told[i]!]));
}

let told: ReturnType<typeof runShared> | undefined;

for (const name of Object.keys(shared)) {
  Deno.test(name, async () => {
    assertEquals((await (told ??= runShared())).get(name), []);
  });
}

class Counting<T> extends Promise<T> {
  static asked = 0;

  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    Counting.asked++;
    return super.then(onFulfilled, onRejected);
  }
}

Deno.test("until() calls then() of a promise once, however many greenlets wait for it, and wakes them in order", async () => {
  let settle!: (value: number) => void;
  const promise = new Counting<number>((resolve) => settle = resolve);
  const other = Promise.withResolvers<number>();
  Counting.asked = 0;
  const told: unknown[] = [];
  const waiting = (name: string) =>
    spawn(async () => told.push([name, await until(promise)]));
  const greenlets = ["a", "b", "c"].map(waiting);
  await settled();
  await greenlets[1]!.kill();
  const fourth = spawn(async () => {
    const value = until(other.promise);
    told.push(["d", await until(promise), await value]);
  });
  await settled();
  assertEquals(Counting.asked, 1);
  settle(1);
  other.resolve(2);
  await joinAll([...greenlets, fourth]);
  assertEquals(told, [["a", 1], ["c", 1], ["d", 1, 2]]);
  // One that has settled is asked once more.
  assertEquals(await until(promise), 1);
  assertEquals(Counting.asked, 2);
});

Deno.test("until() is rejected as its promise is, for all greenlets that wait", async () => {
  const { promise, reject } = Promise.withResolvers<never>();
  const error = new Error("no");
  const greenlets = [1, 2, 3].map(() =>
    spawn(async () => await until(promise).catch((error) => error))
  );
  await settled();
  await greenlets[0]!.kill();
  reject(error);
  await joinAll(greenlets);
  assertInstanceOf(greenlets[0]!.value, GreenletExit);
  assertStrictEquals(greenlets[1]!.value, error);
  assertStrictEquals(greenlets[2]!.value, error);
});

Deno.test("until() calls the then() of a foreign thenable each time, as that may begin something", async () => {
  let begun = 0;
  const query = {
    then(resolve: (value: number) => void) {
      resolve(++begun);
    },
  } as PromiseLike<number>;
  assertEquals(await Promise.all([until(query), until(query)]), [1, 2]);
  class Broken extends Promise<number> {
    override then(): never {
      throw new Error("broken");
    }
  }
  const broken: Promise<number> = new Broken(() => {});
  await assertRejects(async () => await until(broken), Error, "broken");
  await assertRejects(async () => await until(broken), Error, "broken");
});

Deno.test("patch() leaves no reaction in the promises of objects when a wait for them is interrupted", async () => {
  await leavesNothing(
    `
    using _ = patch();
    const child = new Deno.Command("sleep", { args: ["1000"] }).spawn();
    const collected = new Deno.Command("sleep", {
      args: ["1000"],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const piped = new Deno.Command("sleep", { args: ["1000"], stdout: "piped" })
      .spawn();
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      () => new Response(),
    );
    const full = new WritableStream({ write: () => new Promise(() => {}) })
      .getWriter();
    full.write(1);
    const reader = new ReadableStream().getReader();
    const byobReader = new ReadableStream({ type: "bytes" })
      .getReader({ mode: "byob" });
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const conn = await Deno.connect({ port: listener.addr.port });
    const peer = await listener.accept();
    const stream = new WebSocketStream("ws://127.0.0.1:" + listener.addr.port);
    const buffer = new Uint8Array(8);
    await measure({
      "child.status": () => child.status,
      "server.finished": () => server.finished,
      "writer.ready": () => full.ready,
      "writer.closed": () => full.closed,
      "reader.closed": () => reader.closed,
      "byobReader.closed": () => byobReader.closed,
      "reader.read()": () => reader.read(),
      "stream.closed": () => stream.closed,
      "conn.read()": () => conn.read(buffer),
      "listener.accept()": () => listener.accept(),
    });
    await measure({
      "child.output()": () => collected.output(),
      "child.stdout.text()": () => piped.stdout.text(),
    }, 1);
    for (const it of [child, collected, piped]) it.kill("SIGKILL");
    console.log("done");
    Deno.exit();`,
    ["--unstable-net"],
  );
});

Deno.test("Greenlet.args are empty when the greenlet is dead, however it ended", async () => {
  using failures = new Failures();
  const never = new Promise(() => {});
  const ends: Record<string, (greenlet: Greenlet) => unknown> = {
    "returned": (greenlet) => greenlet.start(),
    "killed before it started": (greenlet) => greenlet.kill(),
    "killed before it begins": (greenlet) => {
      greenlet.start();
      greenlet.kill();
    },
  };
  for (const end of Object.values(ends)) {
    const argument = {};
    const greenlet = new Greenlet((one, two) => [one, two].length, argument, 2);
    assertEquals(greenlet.args, [argument, 2]);
    end(greenlet);
    await greenlet.join();
    assertEquals(greenlet.args, []);
  }
  const bodies: ((argument: unknown) => unknown)[] = [
    async () => await sleep(0),
    function* () {
      yield* sleep(0);
    },
    async () => {
      await sleep(0);
      throw new Error("no");
    },
    async () => await until(never),
    function* () {
      yield* until(never);
    },
  ];
  for (const body of bodies) {
    const greenlet = spawn(body, "argument");
    await settled();
    if (!greenlet.dead) {
      assertEquals(greenlet.args, ["argument"]);
      await greenlet.kill();
    }
    assertEquals(greenlet.args, []);
  }
  assertEquals(failures.errors.length, 1);
});

Deno.test("Greenlet.spawnTreeLocals are those of the tree when its first greenlet is dead", async () => {
  const children: Greenlet[] = [];
  const first = spawn(() => {
    children.push(spawn(() => children.push(spawn(() => {}))));
  });
  await settled();
  const [child, grandchild] = children;
  assertEquals(first.dead && child!.dead && grandchild!.dead, true);
  assertStrictEquals(child!.spawnTreeLocals, first.spawnTreeLocals);
  assertStrictEquals(grandchild!.spawnTreeLocals, first.spawnTreeLocals);
  const other = spawn(() => {});
  await other.join();
  assertNotStrictEquals(other.spawnTreeLocals, first.spawnTreeLocals);
});

Deno.test("A chain of workers, each spawned by the one before, keeps no dead worker in memory", async () => {
  await leavesNothing(`
    class Large {
      rows = new Array(1000).fill(0);
    }

    const workers = {
      "async body": (before, result) => async () => {
        await before();
        return result();
      },
      "generator body": (before, result) => function* () {
        const wait = before();
        if (wait) yield* wait;
        return result();
      },
    };
    getHub().handleError = () => {};
    const pool = new Pool(3);
    const group = new Group();
    const never = new Promise(() => {});

    /** Each starts a worker, which is followed by the next. */
    const chains = {
      link: (body, next, argument) =>
        spawn(body(() => sleep(0)), argument).link((greenlet) => next(greenlet)),
      linkValue: (body, next, argument) =>
        spawn(body(() => sleep(0)), argument).linkValue(next),
      linkException: (body, next, argument) =>
        spawn(
          body(() => sleep(0), () => {
            throw new Large();
          }),
          argument,
        ).linkException(next),
      rawlink: (body, next, argument) =>
        spawn(body(() => sleep(0)), argument).rawlink(() => next()),
      "a link that waits": (body, next, argument) =>
        spawn(body(() => sleep(0)), argument).link(async (greenlet) => {
          await sleep(0);
          next(greenlet);
        }),
      "a kill": (body, next, argument) => {
        const greenlet = spawn(body(() => until(never)), argument);
        greenlet.link(next);
        spawn(() => greenlet.kill());
      },
      "the worker itself": (body, next, argument) =>
        spawn(body(() => void next()), argument),
      spawnLater: (body, next, argument) =>
        spawnLater(0, body(() => void next()), argument),
      spawnRaw: (body, next, argument) =>
        spawnRaw(body(() => void next()), argument),
      withTimeout: (body, next, argument) =>
        spawn(
          (argument) => withTimeout(1000, body(() => void next(), () => argument)),
          argument,
        ),
      "a Timeout": (body, next, argument) =>
        spawn(body(() => {
          Timeout.start(100_000);
          next();
        }), argument),
      signal: (body, next, argument) => {
        const greenlet = spawn(body(() => void next()), argument);
        greenlet.signal.addEventListener("abort", () => {});
      },
      spawnTreeLocals: (body, next, argument) => {
        const greenlet = spawn(body(() => void next()), argument);
        greenlet.spawnTreeLocals.mark = 1;
      },
      "a subclass": (body, next, argument) => {
        class Worker extends Greenlet {
          run = body(() => void next());
        }
        Worker.spawn(undefined, argument);
      },
      Pool: (body, next, argument) =>
        pool.spawn(body(() => sleep(0)), argument)
          .then((greenlet) => greenlet.link(next)),
      Group: (body, next, argument) =>
        group.spawn(body(() => sleep(0)), argument).link(next),
      setTimeout: (body, next, argument) =>
        spawn(body(() => void setTimeout(next, 0)), argument),
      queueMicrotask: (body, next, argument) =>
        spawn(body(() => void queueMicrotask(next)), argument),
    };

    /** Runs a chain; gives what its workers were given, and gave. */
    async function begin(chain, body) {
      const large = [];
      const end = Promise.withResolvers();
      const make = () => {
        const one = new Large();
        large.push(new WeakRef(one));
        return one;
      };
      let left = 30;
      const next = () => {
        if (left-- === 0) {
          // The last goes on, as a worker does.
          end.resolve(spawn(sleep, 100_000));
        } else chain((before, result = make) => body(before, result), next, make());
      };
      next();
      return { large, last: await end.promise };
    }

    async function look(when) {
      const results = [];
      for (const [name, chain] of Object.entries(chains)) {
        for (const [kind, body] of Object.entries(workers)) {
          results.push([[name, kind, when], await begin(chain, body)]);
        }
      }
      await heap();
      await heap();
      for (const [name, { large, last }] of results) {
        const kept = large.filter((one) => one.deref() !== undefined).length;
        if (kept > 3) console.log(name.join(", "), "keeps", kept);
        await last.kill();
      }
    }
    await look("");
    using _ = patch();
    await look("under patch()");
    console.log("done");
    Deno.exit();`);
});

Deno.test("A greenlet that has ended, or was killed, is freed when the program does not refer to it", async () => {
  await leavesNothing(`
    const never = new Promise(() => {});
    const event = new Event();
    const queue = new Queue();
    const lock = new Lock();
    const exit = new GreenletExit();
    await lock.acquire();
    const first = new Deno.Command("sleep", { args: ["1000"] }).spawn();
    using _ = patch();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const conn = await Deno.connect({ port: listener.addr.port });
    const peer = await listener.accept();
    const { readable, writable } = new TransformStream();
    const reader = readable.getReader();
    const buffer = new Uint8Array(8);
    const waits = {
      nothing: () => {},
      sleep: () => sleep(100_000),
      until: () => until(never),
      event: () => event.wait(),
      queue: () => queue.get(),
      lock: () => lock.acquire(),
      accept: () => listener.accept(),
      read: () => conn.read(buffer),
      status: () => first.status,
      stream: () => reader.read(),
      fetch: () => fetch("http://127.0.0.1:" + listener.addr.port),
      timer: () => new Promise((resolve) => setTimeout(resolve, 100_000)),
    };
    const ends = {
      kill: (greenlet) => greenlet.kill(),
      "kill by one error": (greenlet) => greenlet.kill(exit),
      throw: async (greenlet) => {
        greenlet.throw();
        await greenlet.join();
      },
    };
    async function some(wait, end) {
      const all = [];
      for (let i = 0; i < 10; i++) {
        const greenlet = spawn(wait);
        all.push(new WeakRef(greenlet));
        await sleep(0);
        await end(greenlet);
      }
      // The last objects may still be in registers and caches.
      return all.slice(0, 6);
    }
    const results = [];
    for (const [name, wait] of Object.entries(waits)) {
      for (const [how, end] of Object.entries(ends)) {
        for (const [kind, body] of Object.entries(bodies)) {
          results.push([[name, how, kind], await some(body(wait), end)]);
        }
      }
    }
    await heap();
    await heap();
    // The runtime keeps the context of the read that has made it ask the source.
    const allowed = { stream: 1 };
    for (const [name, all] of results) {
      const kept = all.filter((one) => one.deref() !== undefined).length;
      if (kept > (allowed[name[0]] ?? 0)) console.log(name.join(", "), "keeps", kept);
    }
    first.kill();
    console.log("done");
    Deno.exit();`);
});
