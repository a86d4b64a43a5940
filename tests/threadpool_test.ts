import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  GreenletError,
  GreenletExit,
  patch,
  Pool,
  PoolClosed,
  sleep,
  spawn,
  subprocess,
  ThreadPool,
  Timeout,
  transfer,
  WorkerDied,
} from "../mod.ts";
import type { Imported, ThreadPoolOptions } from "../threadpool.ts";
import { type Body, testBoth } from "./_bodies.ts";
import { ended, Mark } from "./_marks.ts";
import { when } from "./_waits.ts";

type Work = Imported<typeof import("./_work.ts")>;
type LibraryWork = typeof import("./_library_work.ts");

const WORK = import.meta.resolve("./_work.ts");
const LIBRARY_WORK = import.meta.resolve("./_library_work.ts");
const KINDS = ["process", "thread"] as const;

/** Tests with processes, and with threads. */
function testEach(
  name: string,
  test: (pool: ThreadPool, work: Work) => Promise<void>,
  size = 1,
): void {
  for (const isolate of KINDS) {
    Deno.test(`${name}, ${isolate}`, async () => {
      await using pool = new ThreadPool(size, { isolate });
      await test(pool, pool.import(WORK));
    });
  }
}

/** Tests with processes only, which can be stopped. */
function test(
  name: string,
  test: (pool: ThreadPool, work: Work) => Promise<void>,
  size = 1,
): void {
  Deno.test(name, async () => {
    await using pool = new ThreadPool(size);
    await test(pool, pool.import(WORK));
  });
}

testEach(
  "ThreadPool.import() gives functions that are called in a worker",
  async (pool, work) => {
    assertEquals(await work.double(21), 42);
    assertEquals(await work.later("x"), "x");
    const library = pool.import<LibraryWork>(LIBRARY_WORK);
    assertEquals(await library.generated(1), 2);
    assertEquals(await library.sumInGreenlets(10), 45);
    assertEquals(await work.nothing(), undefined);
    assertStrictEquals(work.double, work.double);
    assertEquals(work.double.name, "double");
    assertEquals(await (work as unknown), work);
    assertEquals([pool.size, pool.busy, pool.waiting], [1, 0, 0]);
  },
);

for (const isolate of KINDS) {
  testBoth(`ThreadPool.import() gives waits for a body, ${isolate}`, {
    async: async (work: Work) => await work.double(1),
    *generator(work) {
      return yield* work.double(1);
    },
  }, async (body: Body<[Work], number>) => {
    await using pool = new ThreadPool(1, { isolate });
    assertEquals(await spawn(body, pool.import<Work>(WORK) as never).get(), 2);
  });
}

testEach("ThreadPool.apply() sends a function as its code", async (pool) => {
  assertEquals(await pool.apply((a: number, b: number) => a + b, 1, 2), 3);
  assertEquals(await pool.apply(async (a: string) => await a, "x"), "x");
  assertEquals(
    await pool.apply(function* (a: string) {
      yield* [];
      return a;
    }, "y"),
    "y",
  );
  const object = {
    method(a: number) {
      return a * 3;
    },
  };
  assertEquals(await pool.apply(object.method, 3), 9);
  const outside = 5;
  await assertRejects(() => pool.apply(() => outside), ReferenceError);
});

Deno.test("ThreadPool.apply() refuses what can't be sent", async () => {
  await using pool = new ThreadPool(1);
  const apply = pool.apply.bind(pool) as (
    f: unknown,
    ...args: unknown[]
  ) => unknown;
  assertThrows(() => apply(5), TypeError, "'f' must be a function: received 5");
  assertThrows(
    () => apply(Math.max),
    TypeError,
    "'f' must have code that can be sent: received max",
  );
  assertThrows(
    () => apply(((a: number) => a).bind(null)),
    TypeError,
    "native or bound",
  );
  assertThrows(
    () => apply(async function* own() {}),
    TypeError,
    "async generator",
  );
  assertEquals([pool.busy, pool.waiting], [0, 0]);
});

testEach("ThreadPool clones arguments and results", async (_pool, work) => {
  const values = [
    undefined,
    null,
    -0,
    10n,
    "x",
    new Date(0),
    /a/g,
    new Map([[1, new Set([2])]]),
    new Uint8Array([1, 2, 3]),
    { a: [1, { b: 2 }] },
    [1, , 3],
  ];
  const copies = await work.echo(values);
  assertEquals(copies, values);
  const circular: Record<string, unknown> = {};
  circular.self = circular;
  const copy = await work.echo(circular);
  assertStrictEquals((copy as typeof circular).self, copy as typeof circular);
});

testEach(
  "ThreadPool takes arguments as they are at the call",
  async (_pool, work) => {
    const data = { x: 1 };
    // The second waits for the first, and is sent later.
    const waits = [work.echo(data), work.echo(data)];
    data.x = 2;
    assertEquals(await Promise.all(waits), [{ x: 1 }, { x: 1 }]);
  },
);

testEach(
  "ThreadPool says at the call what can't be cloned",
  async (pool, work) => {
    const echo = work.echo as (...args: unknown[]) => unknown;
    const calls = () => {
      for (
        const value of [() => {}, Symbol("s"), { f() {} }, Promise.resolve()]
      ) {
        const error = assertThrows(
          () => echo(1, value),
          DOMException,
          "Cannot call 'echo'",
        );
        assertEquals(error.name, "DataCloneError");
      }
    };
    calls();
    await work.nothing();
    calls();
    assertEquals([pool.busy, pool.waiting], [0, 0]);
    const error = await assertRejects(
      () => work.unsendable(),
      DOMException,
      "the result of 'unsendable'",
    );
    assertEquals(error.name, "DataCloneError");
    assertEquals(await work.double(1), 2);
  },
);

test(
  "ThreadPool fails a call of what another process can't get, and goes on",
  async (_pool, work) => {
    assertThrows(
      () => work.echo(new SharedArrayBuffer(4)),
      DOMException,
      "can't be cloned",
    );
    assertEquals(await work.double(1), 2);
  },
);

testEach("transfer() has arguments and results moved", async (pool, work) => {
  for (let i = 0; i < 2; i++) {
    const data = new Uint8Array(1000);
    const waits = [
      work.nothing(),
      work.lengthOf(transfer(data, [data.buffer])),
    ];
    assertEquals(data.length, 0);
    assertEquals(await Promise.all(waits), [undefined, 1000]);
  }
  const library = pool.import<LibraryWork>(LIBRARY_WORK);
  const made = await library.make(1000);
  assertEquals([made.length, made[999]], [1000, 7]);
});

Deno.test("transfer() gives the value, and refuses what it can't note", () => {
  const data = new Uint8Array(1);
  assertStrictEquals(transfer(data, [data.buffer]), data);
  assertThrows(
    () => transfer(5 as never, []),
    TypeError,
    "'value' must be an object: received 5",
  );
  assertThrows(
    () => transfer(data, 5 as never),
    TypeError,
    "'list' must be an array: received 5",
  );
});

testEach(
  "ThreadPool brings errors back with class, message and stack",
  async (_pool, work) => {
    const fail = (how: string) =>
      work.fail(how).then(() => assert(false), (error: unknown) => error);
    const type = await fail("type");
    assertInstanceOf(type, TypeError);
    assertEquals([type.name, type.message], ["TypeError", "a type"]);
    assert(type.stack?.includes("_work.ts"), type.stack);
    assertInstanceOf(type.cause, RangeError);
    assertEquals(Reflect.get(type.cause, "code"), 1);
    assertEquals(Object.keys(type), []);
    const own = await fail("own");
    assertInstanceOf(own, RangeError);
    assertEquals(
      [own.name, own.constructor.name, own.message, Reflect.get(own, "code")],
      ["OwnError", "OwnError", "code 7", 7],
    );
    assert(Error.isError(own));
    assertInstanceOf(await fail("runtime"), Deno.errors.NotFound);
    const dom = await fail("dom");
    assertInstanceOf(dom, DOMException);
    assertEquals([dom.name, dom.message], ["AbortError", "aborted"]);
    const several = await fail("aggregate");
    assertInstanceOf(several, AggregateError);
    assertInstanceOf(several.errors[0], RangeError);
    assertEquals(several.errors[1], 2);
    assertEquals(await fail("value"), { a: [1] } as unknown);
    const unsent = await fail("function");
    assertInstanceOf(unsent, GreenletError);
    const unreadable = await fail("unreadable");
    assertInstanceOf(unreadable, GreenletError);
    const property = await fail("property") as { sent: unknown };
    assertEquals(Object.entries(property), [["sent", 1]]);
  },
);

testEach(
  "ThreadPool brings each of the library's own errors back with its class",
  async (pool) => {
    const { CalledProcessError, TimeoutExpired } = subprocess;
    const library = pool.import<LibraryWork>(LIBRARY_WORK);
    const fail = (how: string) =>
      library.fail(how).then(() => assert(false), (error: unknown) => error);
    const timeout = await fail("timeout");
    assertInstanceOf(timeout, Timeout);
    assertEquals(timeout.ms, 5);
    assertInstanceOf(await fail("closed"), PoolClosed);
    assertInstanceOf(await fail("died"), WorkerDied);
    const called = await fail("called");
    assertInstanceOf(called, CalledProcessError);
    const { command, args, code, stderr } = called;
    assertEquals([command, args, code, stderr], ["ls", ["x"], 2, "no"]);
    const expired = await fail("expired");
    assertInstanceOf(expired, TimeoutExpired);
    assertEquals([expired.ms, expired.stdout], [5, "out"]);
    assertEquals(
      String(expired),
      'TimeoutExpired: "ls" timed out after 5 ms',
    );
    // Its private fields are there.
    expired.close();
  },
);

testEach(
  "ThreadPool.import() fails a call of what there is not",
  async (pool, work) => {
    const odd = work as unknown as Record<string, () => Promise<unknown>>;
    await assertRejects(
      () => odd.there_is_none!(),
      TypeError,
      "Cannot call 'there_is_none'",
    );
    await assertRejects(
      () => odd.version!(),
      TypeError,
      "Cannot call 'version'",
    );
    await assertRejects(
      () => odd.__defineGetter__!(),
      TypeError,
      "Cannot call '__defineGetter__'",
    );
    const missing = pool.import<{ f(): void }>(
      import.meta.resolve("./no_such_module.ts"),
    );
    await assertRejects(() => missing.f(), Error, "Module not found");
    const broken = pool.import<{ f(): void }>(
      "data:text/javascript,throw new RangeError('broken')",
    );
    await assertRejects(() => broken.f(), RangeError, "broken");
    assertEquals(await work.double(1), 2);
  },
);

testEach(
  "ThreadPool.import() may be called when workers have started",
  async (pool, work) => {
    await work.nothing();
    const code = "export function triple(x) { return 3 * x; }";
    const more = pool.import<{ triple(x: number): number }>(
      `data:text/javascript,${encodeURIComponent(code)}`,
    );
    assertEquals(
      await Promise.all([more.triple(1), work.double(1), more.triple(2)]),
      [3, 2, 6],
    );
  },
);

Deno.test("ThreadPool.import() refuses what is no absolute address", async () => {
  await using pool = new ThreadPool(1);
  for (const url of ["./work.ts", "", 5, undefined]) {
    assertThrows(
      () => pool.import(url as string),
      TypeError,
      "'url' must be an absolute URL",
    );
  }
});

testEach(
  "ThreadPool runs as many calls at a time as it has workers",
  async (pool, work) => {
    const waits = Array.from({ length: 5 }, (_, i) => work.later(i, 20));
    assertEquals([pool.size, pool.busy, pool.waiting], [2, 2, 3]);
    assertEquals(await Promise.all(waits), [0, 1, 2, 3, 4]);
    assertEquals([pool.busy, pool.waiting], [0, 0]);
  },
  2,
);

testEach(
  "ThreadPool composes with Pool.map() and imap()",
  async (_pool, work) => {
    const items = Array.from({ length: 20 }, (_, i) => i);
    assertEquals(
      await new Pool(100).map(work.double, items),
      items.map((i) => 2 * i),
    );
    const results: number[] = [];
    for await (
      const x of new Pool(3).imapUnordered(work.double, items)
    ) results.push(x);
    assertEquals(results.toSorted((a, b) => a - b), items.map((i) => 2 * i));
  },
  2,
);

testEach(
  "ThreadPool takes back a call that waits, when it is interrupted",
  async (pool, work) => {
    const first = work.later("first", 50);
    const greenlet = spawn(() => work.later("second", 50));
    const third = work.later("third", 1);
    await sleep(0);
    assertEquals([pool.busy, pool.waiting], [1, 2]);
    await greenlet.kill();
    assertEquals([pool.busy, pool.waiting], [1, 1]);
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals([await first, await third], ["first", "third"]);
  },
);

testEach(
  "ThreadPool takes back a call whose worker has not started yet",
  async (pool, work) => {
    const greenlet = spawn(() => work.die("exit", 1));
    await sleep(0);
    assertEquals([pool.busy, pool.waiting], [1, 0]);
    const wait = work.double(2);
    await greenlet.kill();
    assertEquals([pool.busy, pool.waiting], [1, 0]);
    assertEquals(await wait, 4);
  },
);

for (const name of ["compute", "wait"] as const) {
  test(
    `ThreadPool stops a call that runs, ${name}, by a kill`,
    async (pool, work) => {
      using mark = new Mark();
      const greenlet = spawn(() => work[name](mark.path));
      const pid = await mark.written();
      assertEquals(pool.busy, 1);
      await greenlet.kill();
      assertEquals([pool.busy, pool.waiting], [0, 0]);
      assertInstanceOf(greenlet.value, GreenletExit);
      await ended(pid);
      assertNotEquals(await work.pid(), pid);
    },
  );

  test(
    `ThreadPool stops a call that runs, ${name}, by a Timeout in main`,
    async (pool, work) => {
      using mark = new Mark();
      const wait = work[name](mark.path);
      const pid = await mark.written();
      // In main the Timeout would be for it as well.
      const next = spawn(() => work.double(4));
      await sleep(0);
      assertEquals([pool.busy, pool.waiting], [1, 1]);
      await assertRejects(async () => {
        using _ = Timeout.start(1);
        await wait;
      }, Timeout);
      await ended(pid);
      assertEquals(await next.get(), 8);
    },
  );
}

test("ThreadPool stops a call that runs under patch()", async (_pool, work) => {
  using _ = patch();
  using mark = new Mark();
  const greenlet = spawn(() => work.compute(mark.path));
  const pid = await mark.written();
  await greenlet.kill();
  await ended(pid);
  assertEquals(await spawn(() => work.double(1)).get(), 2);
});

testEach(
  "ThreadPool lets a thread or process that waits be replaced",
  async (pool, work) => {
    using mark = new Mark();
    const greenlet = spawn(() => work.wait(mark.path));
    await mark.written();
    await greenlet.kill();
    assertEquals(pool.busy, 0);
    assertEquals(await work.double(3), 6);
  },
);

testEach(
  "ThreadPool keeps an answer that has come before the interrupt",
  async (_pool, work) => {
    await work.nothing();
    const seen: unknown[] = [];
    const greenlet = spawn(async () => {
      const wait = work.double(1);
      wait.then(() => greenlet.kill(undefined, { block: false }));
      seen.push(await wait);
      await sleep(0);
      seen.push("alive");
    });
    await greenlet.join();
    assertEquals(seen, [2]);
    assertEquals(await work.double(2), 4);
  },
);

testEach(
  "ThreadPool begins nothing if an interrupt is due",
  async (pool, work) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      await promise;
      await work.double(1);
    });
    await sleep(0);
    greenlet.kill(undefined, { block: false });
    resolve();
    await greenlet.join();
    assert(greenlet.successful());
    assertEquals([pool.busy, pool.waiting], [0, 0]);
  },
);

for (
  const [how, isolates] of [
    ["exit", KINDS],
    ["uncaught", KINDS],
    ["close", ["thread"]],
    ["signal", ["process"]],
  ] as const
) {
  for (const isolate of isolates) {
    Deno.test(`ThreadPool fails the call of a worker that dies by ${how}, ${isolate}`, async () => {
      await using pool = new ThreadPool(1, { isolate });
      const work = pool.import<typeof import("./_work.ts")>(WORK);
      const died = assertRejects(
        () => work.die(how, 7),
        WorkerDied,
        "Cannot finish 'die' as its worker",
      );
      const next = work.double(4);
      const { message } = await died;
      if (how === "exit") {
        assert(message.endsWith("has exited with code 7"), message);
      }
      if (how === "signal") {
        assert(message.endsWith("was ended by SIGKILL"), message);
      }
      if (how === "uncaught" && isolate === "thread") {
        assert(message.includes("caught by nothing"), message);
      }
      assertEquals(await next, 8);
      assertEquals([pool.busy, pool.waiting], [0, 0]);
    });
  }
}

Deno.test("ThreadPool fails each of the calls for which no worker can be started", async () => {
  await using pool = new ThreadPool(1, { isolate: "thread" });
  const work = pool.import<typeof import("./_work.ts")>(WORK);
  using mark = new Mark();
  const running = spawn(() => work.wait(mark.path));
  await mark.written();
  const { Worker } = globalThis;
  globalThis.Worker = class {
    constructor() {
      throw new Deno.errors.NotCapable("No worker");
    }
  } as unknown as typeof Worker;
  try {
    // The last one needs a worker that knows its module.
    const waiting = [1, 2, 3].map((n) => spawn(() => work.double(n)));
    waiting.push(spawn(() => pool.import<Work>(`${WORK}?2`).double(4)));
    const joined = spawn(() => pool.join());
    await when(() => pool.waiting === waiting.length);
    await running.kill();
    for (const call of waiting) {
      await assertRejects(() => call.get(), Deno.errors.NotCapable);
    }
    assertEquals(await joined.get(), true);
    assertEquals([pool.busy, pool.waiting], [0, 0]);
  } finally {
    globalThis.Worker = Worker;
  }
  assertEquals(await work.double(2), 4);
});

testEach(
  "ThreadPool.join() waits until no call is left",
  async (pool, work) => {
    assertEquals(await pool.join(), true);
    const waits = [work.later(1, 20), work.later(2, 1)];
    assertEquals(await pool.join({ timeout: 0 }), false);
    assertEquals(await pool.join(), true);
    assertEquals([pool.busy, pool.waiting], [0, 0]);
    assertEquals(await Promise.all(waits), [1, 2]);
    assertThrows(
      () => pool.join(5 as never),
      TypeError,
      "the options must be an object",
    );
    assertThrows(
      () => pool.join({ timeout: "5" as never }),
      TypeError,
      "a number of milliseconds",
    );
  },
);

testEach(
  "ThreadPool.join() ends when the last call is interrupted, or dies",
  async (pool, work) => {
    using mark = new Mark();
    const greenlet = spawn(() => work.wait(mark.path));
    await mark.written();
    const joined = spawn(() => pool.join());
    await sleep(0);
    await greenlet.kill();
    assertEquals(await joined.get(), true);
    const died = work.die("exit").catch(() => {});
    assertEquals(await pool.join(), true);
    await died;
  },
);

testEach(
  "ThreadPool.kill() ends all calls, those that wait included",
  async (pool, work) => {
    using mark = new Mark();
    const running = spawn(() => work.wait(mark.path));
    await mark.written();
    const waiting = work.double(1);
    const joined = spawn(() => pool.join());
    await sleep(0);
    await pool.kill();
    assertEquals([pool.busy, pool.waiting], [0, 0]);
    await assertRejects(
      () => running.get(),
      PoolClosed,
      "Cannot finish 'wait'",
    );
    await assertRejects(() => waiting, PoolClosed, "Cannot finish 'double'");
    assertEquals(await joined.get(), true);
    await assertRejects(
      () => work.double(1),
      PoolClosed,
      "Cannot call 'double'",
    );
    await assertRejects(() => pool.apply(() => 1), GreenletError);
    await pool.kill();
  },
);

Deno.test("ThreadPool refuses a size and options of the wrong kind", () => {
  const make = (...args: unknown[]) =>
    new ThreadPool(...args as [number, ThreadPoolOptions]);
  for (const size of [0, -1, 1.5, NaN, Infinity]) {
    assertThrows(
      () => make(size),
      RangeError,
      "'size' must be a positive integer",
    );
  }
  assertThrows(() => make("2"), TypeError, `received "2"`);
  assertThrows(() => make(1, 5), TypeError, "the options must be an object");
  assertThrows(
    () => make(1, { isolate: "fork" }),
    TypeError,
    `"process" or "thread": received "fork"`,
  );
  for (
    const permissions of [5, "all", { disk: true }, { read: 5 }, {
      read: ["a,b"],
    }, null]
  ) {
    assertThrows(() => make(1, { permissions }), TypeError, "'permissions");
  }
  assertEquals(new ThreadPool().size, navigator.hardwareConcurrency);
  assertEquals(new ThreadPool(3).busy, 0);
});
