import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import { when } from "./_waits.ts";
import { random } from "./_random.ts";
import {
  AsyncResult,
  Channel,
  Condition,
  Empty,
  Event,
  getCurrent,
  type Greenlet,
  GreenletExit,
  iwait,
  joinAll,
  kill,
  Lock,
  nursery,
  Pool,
  Queue,
  RLock,
  select,
  Semaphore,
  ShutDown,
  sleep,
  spawn,
  spawnRaw,
  Timeout,
  until,
  type Wait,
  Waiter,
  withTimeout,
} from "../mod.ts";
import { scopeOf } from "../_hub/current.ts";
import { Failures, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

const FOREVER = 60_000;

// deno-lint-ignore no-explicit-any
type Any = any;

/** A select in a body of either kind, that gives what it gives or throws. */
function testSelect(
  name: string,
  test: (
    start: (...args: Parameters<typeof select>) => Greenlet<Any>,
  ) => Promise<void>,
): void {
  testBoth<Parameters<typeof select>, unknown>(name, {
    async: async (...args) => await select(...args),
    generator: function* (...args) {
      return yield* select(...args);
    },
  }, (body) => test((...args) => spawn(body, ...args)));
}

testSelect(
  "select() gives the key and the value of the first that is ready",
  async (start) => {
    const jobs = new Queue<string>();
    const stop = new Event();
    const worker = start({ job: () => jobs.get(), stop: () => stop.wait() });
    await settle();
    jobs.putNowait("wash up");
    assertEquals(await worker.get(), { key: "job", value: "wash up" });
    assertEquals([jobs.getters, stop.linkCount()], [0, 0]);

    const stopped = start({ job: () => jobs.get(), stop: () => stop.wait() });
    await settle();
    stop.set();
    assertEquals(await stopped.get(), { key: "stop", value: true });
    assertEquals(jobs.getters, 0);
  },
);

testSelect("select() of an array gives indices", async (start) => {
  const [a, b] = [new Queue<number>(), new Queue<number>(null, [7])];
  const first = await start([() => a.get(), () => b.get()]).get();
  assertEquals(first, { key: 1, value: 7 });
});

Deno.test("select() is typed by its keys", async () => {
  const first = await select({
    a: () => new Queue<number>(null, [1]).get(),
    b: () => new Queue<string>().get(),
    c: () => spawn(() => true),
  });
  if (first.key === "a") assertEquals(first.value + 1, 2);
  else if (first.key === "b") first.value.toUpperCase();
  else first.value satisfies boolean;
  const second = await select([
    () => new Queue<number>(null, [1]).get(),
    async () => await new Queue<string>().get(),
    Promise.resolve(new Date()),
  ]);
  if (second.key === 0) assertEquals(second.value + 1, 2);
  else if (second.key === 1) second.value.toUpperCase();
  else second.value.getTime();
  const many: (() => Wait<number>)[] = [() => new Queue(null, [5]).get()];
  const third: { readonly key: number; readonly value: number } = await select(
    many,
  );
  assertEquals(third, { key: 0, value: 5 });
});

testSelect(
  "select() takes one item of two queues that get one in the same turn",
  async (start) => {
    for (const putFirst of ["a", "b"] as const) {
      const queues = { a: new Queue<number>(), b: new Queue<number>() };
      const taker = start({
        a: () => queues.a.get(),
        b: () => queues.b.get(),
      });
      await settle();
      const other = putFirst === "a" ? "b" : "a";
      queues[putFirst].putNowait(1);
      queues[other].putNowait(2);
      queues[other].putNowait(3);
      queues[putFirst].putNowait(4);
      assertEquals(await taker.get(), { key: putFirst, value: 1 });
      assertEquals(await queues[other].get(), 2);
      assertEquals(await queues[other].get(), 3);
      assertEquals(await queues[putFirst].get(), 4);
    }
  },
);

testSelect(
  "select() with several ready takes the first given, and begins none after it",
  async (start) => {
    const [a, b, c] = [1, 2, 3].map((n) => new Queue<number>(null, [n]));
    const begun: string[] = [];
    const first = await start({
      never: () => (begun.push("never"), new Queue<number>().get()),
      b: () => (begun.push("b"), b!.get()),
      a: () => (begun.push("a"), a!.get()),
      c: () => (begun.push("c"), c!.get()),
    }).get();
    assertEquals(first, { key: "b", value: 2 });
    assertEquals(begun, ["never", "b"]);
    assertEquals([a!.qsize(), b!.qsize(), c!.qsize()], [1, 0, 1]);
  },
);

Deno.test("select() counts what has settled already among what is ready", async () => {
  const queue = new Queue<number>(null, [1]);
  const cases: [string, () => PromiseLike<unknown> | Greenlet][] = [
    ["a promise", () => Promise.resolve("x")],
    ["a wait", () => withTimeout(FOREVER, () => "x")],
    ["sleep(0)", () => sleep(0)],
    ["a set event", () => {
      const event = new Event();
      event.set();
      return event.wait();
    }],
    ["a permit", () => new Semaphore(1).acquire()],
    ["a lock", () => new RLock().acquire()],
    ["a result", () => {
      const result = new AsyncResult<string>();
      result.set("x");
      return result.get();
    }],
  ];
  for (const [name, ready] of cases) {
    if (name === "a wait") continue;
    const { key } = await select({ ready, item: () => queue.get() });
    assertEquals(key, "ready", name);
  }
  const dead = spawn(() => "x");
  await dead.join();
  assertEquals(await select([() => dead, () => queue.get()]), {
    key: 0,
    value: "x",
  });
  assertEquals(queue.qsize(), 1);
});

testSelect(
  "select() throws a Timeout in the end, and has taken nothing",
  async (start) => {
    const queue = new Queue<number>();
    const event = new Event();
    const error = await assertRejects(
      () =>
        start([() => queue.get(), () => event.wait()], { timeout: 5 }).get(),
      Timeout,
    );
    assertEquals(error.ms, 5);
    assertEquals([queue.getters, event.linkCount()], [0, 0]);
  },
);

testSelect("select() with timeout 0 takes what is ready", async (start) => {
  const queue = new Queue<number>(null, [1]);
  const empty = new Queue<number>();
  const timeout = { timeout: 0 };
  assertEquals(
    await start([() => empty.get(), () => queue.get()], timeout).get(),
    { key: 1, value: 1 },
  );
  assertEquals(
    await start([() => empty.get(), () => Promise.resolve(2)], timeout).get(),
    { key: 1, value: 2 },
  );
  const set = new Event();
  set.set();
  assertEquals(
    (await start([() => empty.get(), () => set.wait()], timeout).get()).key,
    1,
  );
  await assertRejects(
    () => start([() => empty.get(), () => empty.get()], timeout).get(),
    Timeout,
  );
  assertEquals(empty.getters, 0);
});

testSelect(
  "select() throws the error of one that fails, and undoes the rest",
  async (start) => {
    const queue = new Queue<number>();
    const fails = [
      () => queue.get({ timeout: 1 }),
      () => {
        throw new Empty();
      },
      () => Promise.reject(new Empty()),
      async () => {
        await sleep(1);
        throw new Empty();
      },
      () =>
        spawn(() => {
          throw new Empty();
        }),
      () =>
        withTimeout(FOREVER, async () => {
          await sleep(1);
          throw new Empty();
        }),
    ];
    for (const fail of fails) {
      const before = new Semaphore(0);
      const greenlet = start({
        before: () => before.acquire(),
        fail,
        after: () => queue.get(),
      });
      await assertRejects(() => greenlet.get(), Empty);
      assertEquals([queue.getters, before.linkCount()], [0, 0], `${fail}`);
    }
  },
);

testSelect("select() begins none after one that throws", async (start) => {
  const begun: number[] = [];
  const queue = new Queue<number>(null, [1]);
  const greenlet = start([
    () => {
      throw new RangeError("no");
    },
    () => {
      begun.push(1);
      return queue.get();
    },
  ]);
  await assertRejects(() => greenlet.get(), RangeError, "no");
  assertEquals([begun, queue.qsize()], [[], 1]);
});

testSelect(
  "select() fails with what gives no wait, and undoes the rest",
  async (start) => {
    const queue = new Queue<number>();
    for (const wrong of [undefined, null, 5, "x", {}, spawnRaw(() => {})]) {
      const greenlet = start({
        item: () => queue.get(),
        wrong: (() => wrong) as Any,
      });
      const error = await assertRejects(() => greenlet.get(), TypeError);
      assertStringIncludes(error.message, "'wrong' must give a wait");
      assertEquals(queue.getters, 0);
    }
  },
);

Deno.test("select() refuses what is no alternative at the call", async () => {
  const calls: [() => unknown, string][] = [
    [() => select({}), "there is no alternative"],
    [() => select([]), "there is no alternative"],
    [() => select(null as Any), "received null"],
    [() => select(5 as Any), "received 5"],
    [() => select({ a: 5 as Any }), "'a' must be a function"],
    [() => select([() => sleep(1), undefined as Any]), "'1' must be"],
    [() => select({ a: function* () {} as Any }), "'a' must not be"],
    [() => select({ a: async function* () {} as Any }), "'a' must not be"],
    [() => select({ a: sleep(1) }), "'a' is a wait that has begun"],
    [() => select([() => sleep(1)], 5 as Any), "options must be an object"],
    [
      () => select([() => sleep(1)], { timeout: "5" as Any }),
      "number of milliseconds",
    ],
  ];
  for (const [call, message] of calls) {
    const error = assertThrows(call, TypeError);
    assertStringIncludes(error.message, message);
  }
  assertThrows(() => select([() => sleep(1)], { timeout: NaN }), RangeError);
  await sleep(2);
});

Deno.test("select() of greenlets gives the result, and those that lose go on", async () => {
  const quick = spawn(async () => {
    await sleep(1);
    return "quick";
  });
  const slow = spawn(async () => {
    await sleep(5);
    return "slow";
  });
  assertEquals(await select({ slow, quick: () => quick }), {
    key: "quick",
    value: "quick",
  });
  assertEquals(await slow.get(), "slow");
  // One that was killed gives the exit, as get() does.
  const killed = spawn(sleep, FOREVER);
  const first = select([() => killed, () => killed]);
  killed.kill();
  assertInstanceOf((await first).value, GreenletExit);
});

Deno.test("select() takes the error of a greenlet that has failed", async () => {
  using failures = new Failures();
  const queue = new Queue<number>();
  const failing = spawn(async () => {
    await sleep(1);
    throw new Error("mine");
  });
  await assertRejects(
    async () => void await select([() => queue.get(), () => failing]),
    Error,
    "mine",
  );
  await settle();
  assertEquals(failures.errors, []);
});

Deno.test("select() lets go of a foreign promise that loses", async () => {
  const rejected = Promise.withResolvers<number>();
  const lasting = new Promise<number>(() => {});
  const queue = new Queue<number>(null, [1, 2]);
  for (const one of [() => rejected.promise, rejected.promise]) {
    const first = await select([
      one,
      () => lasting,
      { then() {} } as unknown as PromiseLike<number>,
      () => queue.get(),
    ]);
    assertEquals(first.key, 3);
  }
  rejected.reject(new Error("late"));
  await settle();
});

Deno.test("select() ends the waits of an async function that loses", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const events: string[] = [];
  const first = select({
    a: async () => {
      try {
        return await a.get();
      } catch (error) {
        events.push(`${error instanceof GreenletExit}`);
        throw error;
      } finally {
        events.push("finally");
        await sleep(1);
        events.push("cleaned up");
      }
    },
    b: () => b.get(),
  });
  await settle();
  assertEquals(a.getters, 1);
  b.putNowait(1);
  a.putNowait(2);
  assertEquals(await first, { key: "b", value: 1 });
  assertEquals(await a.get(), 2);
  await sleep(5);
  assertEquals(events, ["true", "finally", "cleaned up"]);
});

Deno.test("select() stops an async function that loses in a promise of others", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const { promise, resolve } = Promise.withResolvers<void>();
  const first = select({
    a: async () => {
      await promise;
      return await a.get();
    },
    b: () => b.get(),
  });
  b.putNowait(1);
  assertEquals((await first).key, "b");
  resolve();
  await settle();
  a.putNowait(2);
  assertEquals([a.getters, a.qsize()], [0, 1]);
});

Deno.test("select() leaves alone what an async function has begun that wins", async () => {
  const background = new Queue<number>();
  const got: number[] = [];
  const lasting = new Queue<number>();
  const first = await select({
    lasting: () => lasting.get(),
    connect: async () => {
      (async () => {
        for (;;) got.push(await background.get());
      })().catch(() => got.push(-1));
      await sleep(1);
      return "connected";
    },
  });
  assertEquals(first, { key: "connect", value: "connected" });
  background.putNowait(1);
  await settle();
  background.putNowait(2);
  await settle();
  assertEquals(got, [1, 2]);
  assertEquals(lasting.getters, 0);
});

testSelect(
  "select() of a call under a limit takes one item only",
  async (start) => {
    const [a, b] = [new Queue<number>(), new Queue<number>()];
    const first = start({
      a: () => withTimeout(FOREVER, () => a.get()),
      b: () => b.get(),
    });
    await settle();
    a.putNowait(1);
    b.putNowait(2);
    assertEquals(await first.get(), { key: "a", value: 1 });
    assertEquals([a.getters, b.getters, b.qsize()], [0, 0, 1]);
    const second = start({
      a: () => withTimeout(FOREVER, () => withTimeout(FOREVER, () => a.get())),
      c: () => b.get(),
    });
    assertEquals(await second.get(), { key: "c", value: 2 });
    assertEquals(a.getters, 0);
    const late = start({
      a: () => withTimeout(1, () => a.get(), { value: "late" }),
      b: () => b.get(),
    });
    assertEquals(await late.get(), { key: "a", value: "late" });
    assertEquals([a.getters, b.getters], [0, 0]);
  },
);

Deno.test("select() waits for a call under a limit that loses, while it cleans up", async () => {
  const queue = new Queue<number>();
  const events: string[] = [];
  const first = select({
    call: () =>
      withTimeout(FOREVER, async () => {
        try {
          await sleep(FOREVER);
        } finally {
          await sleep(5);
          events.push("cleaned up");
        }
      }),
    item: () => queue.get(),
  });
  queue.putNowait(1);
  assertEquals(await first, { key: "item", value: 1 });
  assertEquals(events, ["cleaned up"]);
});

Deno.test("select() tells the hub of what fails in the clean-up of one that loses", async () => {
  using failures = new Failures();
  const queue = new Queue<number>();
  const error = new Error("in finally");
  const first = select({
    call: () =>
      withTimeout(FOREVER, async () => {
        try {
          await sleep(FOREVER);
        } finally {
          // deno-lint-ignore no-unsafe-finally
          throw error;
        }
      }),
    item: () => queue.get(),
  });
  queue.putNowait(1);
  assertEquals((await first).key, "item");
  assertEquals(failures.errors, [error]);
});

Deno.test("select() does not wait for ever for one that loses and goes on", async () => {
  const queue = new Queue<number>();
  const stubborn = spawn(async () =>
    await select({
      call: () =>
        withTimeout(FOREVER, async () => {
          for (;;) {
            try {
              await sleep(FOREVER);
            } catch {
              // Once more.
            }
          }
        }),
      item: () => queue.get(),
    })
  );
  await settle();
  queue.putNowait(1);
  assertEquals(await stubborn.get({ timeout: 5000 }), {
    key: "item",
    value: 1,
  });
});

const INTERRUPTS: [string, (greenlet: Greenlet<Any>) => void][] = [
  ["kill", (greenlet) => {
    greenlet.kill(undefined, { block: false });
  }],
  ["throw", (greenlet) => {
    greenlet.throw(new RangeError("thrown"));
  }],
];

for (const [kind, interrupt] of INTERRUPTS) {
  testSelect(
    `select() that is interrupted by ${kind} undoes all`,
    async (start) => {
      const queue = new Queue<number>();
      const full = new Queue<number>(1, [0]);
      const [channel, other] = [new Channel<number>(), new Channel<number>()];
      const [semaphore, lock] = [new Semaphore(0), new RLock()];
      const [event, result] = [new Event(), new AsyncResult<number>()];
      const lasting = spawn(sleep, FOREVER);
      let cancelled = 0;
      await spawn(async () => {
        using _ = await lock.acquire();
        const greenlet = start({
          item: () => queue.get(),
          peek: () => queue.peek(),
          put: () => full.put(1),
          take: () => channel.get(),
          give: () => other.put(1),
          permit: () => semaphore.acquire(),
          some: () => semaphore.wait(),
          lock: () => lock.acquire(),
          event: () => event.wait(),
          result: () => result.get(),
          join: () => lasting.join(),
          greenlet: lasting,
          all: () => joinAll([lasting]),
          sleep: () => sleep(FOREVER),
          until: () => until(new Promise<void>(() => {}), () => cancelled++),
          foreign: () => new Promise<void>(() => {}),
          limit: () => withTimeout(FOREVER, () => queue.get()),
          next: () => queue[Symbol.asyncIterator]().next(),
        });
        await settle();
        assertEquals(queue.getters, 4);
        interrupt(greenlet);
        // In the same turn, and yet too late.
        queue.putNowait(5);
        semaphore.release();
        assertEquals([full.putters, other.balance, channel.balance], [0, 0, 0]);
        await greenlet.join();
        if (kind === "kill") assertInstanceOf(greenlet.value, GreenletExit);
        else assertInstanceOf(greenlet.exception, RangeError);
      }).get();
      assertEquals([queue.getters, queue.qsize(), cancelled], [0, 1, 1]);
      assertEquals(
        [semaphore.counter, semaphore.linkCount(), event.linkCount()],
        [1, 0, 0],
      );
      assertEquals([result.linkCount(), lock.locked()], [0, false]);
      assert(!lasting.dead);
      await lasting.kill();
    },
  );
}

testBoth("select() keeps what it was given before a kill in the same turn", {
  async: async (queue: Queue<number>, other: Queue<number>, got: unknown[]) => {
    const first = await select({ a: () => queue.get(), b: () => other.get() });
    got.push(first.value);
    await sleep(FOREVER);
  },
  generator: function* (queue, other, got) {
    const first = yield* select({ a: () => queue.get(), b: () => other.get() });
    got.push(first.value);
    yield* sleep(FOREVER);
  },
}, async (body) => {
  const [queue, other] = [new Queue<number>(), new Queue<number>()];
  const got: unknown[] = [];
  const greenlet = spawn(body, queue, other, got);
  await settle();
  queue.putNowait(1);
  const killing = greenlet.kill();
  other.putNowait(2);
  await killing;
  assertEquals(got, [1]);
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals([queue.qsize(), other.qsize()], [0, 1]);
});

Deno.test("select() keeps what a call under a limit was given before a kill in the same turn", async () => {
  const [queue, other] = [new Queue<number>(), new Queue<number>()];
  const got: unknown[] = [];
  const greenlet = spawn(async () => {
    const first = await select({
      a: () => withTimeout(FOREVER, () => queue.get()),
      b: () => other.get(),
    });
    got.push(first.value);
    await sleep(FOREVER);
  });
  await settle();
  queue.putNowait(1);
  await greenlet.kill();
  assertEquals(got, [1]);
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(other.getters, 0);
});

testSelect("select() in a Timeout undoes all, and throws it", async (start) => {
  const queue = new Queue<number>();
  await assertRejects(
    () => withTimeout(1, () => start([() => queue.get()]).get()),
    Timeout,
  );
  assertEquals(queue.getters, 1);
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  await assertRejects(
    async () =>
      void await withTimeout(1, () => select([() => a.get(), () => b.get()])),
    Timeout,
  );
  assertEquals([a.getters, b.getters], [0, 0]);
  queue.putNowait(1);
});

Deno.test("select() gets and puts through channels, at both ends", async () => {
  const [a, b] = [new Channel<number>(), new Channel<number>()];
  const taker = spawn(() => select({ a: () => a.get(), b: () => b.get() }));
  const giver = spawn(() => select({ a: () => a.put(1), b: () => b.put(2) }));
  assertEquals(await joinAll([taker, giver]), [taker, giver]);
  assertEquals([taker.value?.key, giver.value?.key], ["a", "a"]);
  assertEquals([taker.value?.value, a.balance, b.balance], [1, 0, 0]);
  // Both wait, and another comes.
  const takers = [1, 2].map(() =>
    spawn(() => select([() => a.get(), () => b.get()]))
  );
  await settle();
  b.putNowait(3);
  a.putNowait(4);
  await joinAll(takers);
  assertEquals(takers.map((taker) => taker.value), [
    { key: 1, value: 3 },
    { key: 0, value: 4 },
  ]);
  assertEquals([a.balance, b.balance], [0, 0]);
});

Deno.test("select() puts one item only", async () => {
  const [a, b] = [new Queue<number>(1, [0]), new Queue<number>(1, [0])];
  const putter = spawn(() => select([() => a.put(1), () => b.put(2)]));
  await settle();
  assertEquals([b.getNowait(), a.getNowait()], [0, 0]);
  assertEquals((await putter.get()).key, 1);
  assertEquals([a.qsize(), a.putters, b.getNowait()], [0, 0, 2]);
});

Deno.test("select() takes one permit or lock only", async () => {
  const semaphore = new Semaphore(0);
  const [lock, own] = [new Lock(), new RLock()];
  const holder = spawn(async () => {
    using _ = await own.acquire();
    using _lock = await lock.acquire();
    await sleep(1);
  });
  await settle();
  const greenlet = spawn(async () => {
    const first = await select({
      permit: () => semaphore.acquire(),
      own: () => own.acquire(),
      lock: () => lock.acquire(),
    });
    assertEquals(own.owned, first.key === "own");
    (first.value as Disposable)[Symbol.dispose]();
    return first.key;
  });
  await holder.get();
  semaphore.release();
  // Released in the opposite order of the acquisition.
  assertEquals(await greenlet.get(), "lock");
  assertEquals([semaphore.counter, lock.locked(), own.locked()], [
    1,
    false,
    false,
  ]);
});

Deno.test("select() that loses in a condition holds its lock again", async () => {
  const condition = new Condition();
  const stop = new Event();
  const waiter = spawn(async () => {
    using _ = await condition.acquire();
    const { key } = await select({
      changed: () => condition.wait(),
      stop: () => stop.wait(),
    });
    condition.notify(); // Throws unless it is held
    return key;
  });
  await settle();
  const holder = spawn(async () => {
    using _ = await condition.acquire();
    stop.set();
    await sleep(2);
    return waiter.dead;
  });
  assertEquals(await holder.get(), false);
  assertEquals(await waiter.get(), "stop");
});

Deno.test("select() of one queue twice takes one item", async () => {
  const queue = new Queue<number>();
  const first = select([() => queue.get(), () => queue.get()]);
  queue.putNowait(1);
  queue.putNowait(2);
  assertEquals(await first, { key: 0, value: 1 });
  assertEquals([queue.getNowait(), queue.getters], [2, 0]);
  const event = new Event();
  const second = select([() => event.wait(), () => event.wait()]);
  event.set();
  assertEquals((await second).key, 0);
  assertEquals(event.linkCount(), 0);
});

Deno.test("select() goes by a wait that was begun before, which goes on when it loses", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const before = a.get();
  const first = select({ before: () => before, b: () => b.get() });
  b.putNowait(1);
  assertEquals(await first, { key: "b", value: 1 });
  assertEquals(a.getters, 1);
  const second = select({ b: () => b.get(), before: () => before });
  a.putNowait(2);
  assertEquals(await second, { key: "before", value: 2 });
  assertEquals(await before, 2);
  // The same wait twice.
  let wait: Wait<number> | undefined;
  const third = select([() => wait = a.get(), () => wait!, () => b.get()]);
  a.putNowait(3);
  b.putNowait(4);
  assertEquals(await third, { key: 0, value: 3 });
  assertEquals([await wait, b.getNowait()], [3, 4]);
});

Deno.test("select() settles the waits that its alternatives have made", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const waits: Wait<number>[] = [];
  const noted: unknown[] = [];
  const note = (wait: Wait<number>) => {
    waits.push(wait);
    wait.then((value) => noted.push(value));
    return wait;
  };
  const first = select([() => note(a.get()), () => note(b.get())]);
  a.putNowait(1);
  assertEquals((await first).key, 0);
  assertInstanceOf(waits[0], Promise);
  assertEquals(await waits[0], 1);
  await assertRejects(async () => void await waits[1], GreenletExit);
  assertEquals(await waits[0]!.finally(() => {}), 1);
  assertEquals(
    await Promise.allSettled(waits).then((all) =>
      all.map(({ status }) => status)
    ),
    ["fulfilled", "rejected"],
  );
  assertEquals(noted, [1]);
  assertEquals(
    await spawn(function* () {
      return yield* waits[0]!;
    }).get(),
    1,
  );
});

Deno.test("select() in a select takes one item", async () => {
  const queues = [1, 2, 3].map(() => new Queue<number>());
  const [a, b, c] = queues as [Queue<number>, Queue<number>, Queue<number>];
  const nest = () =>
    select({
      inner: () => select({ a: () => a.get(), b: () => b.get() }),
      c: () => c.get(),
    });
  const first = nest();
  b.putNowait(1);
  c.putNowait(2);
  a.putNowait(3);
  assertEquals(await first, { key: "inner", value: { key: "b", value: 1 } });
  assertEquals(queues.map((q) => [q.qsize(), q.getters]), [
    [1, 0],
    [0, 0],
    [1, 0],
  ]);
  a.getNowait();
  assertEquals(await nest(), { key: "c", value: 2 });
  assertEquals(queues.map((q) => [q.qsize(), q.getters]), [
    [0, 0],
    [0, 0],
    [0, 0],
  ]);
});

Deno.test("select() in a select that cleans up has taken its item already", async () => {
  const queues = [1, 2].map(() => new Queue<number>());
  const [a, b] = queues as [Queue<number>, Queue<number>];
  let isClean = false;
  const first = select({
    inner: () =>
      select({
        a: () => a.get(),
        call: () =>
          withTimeout(FOREVER, async () => {
            try {
              await sleep(FOREVER);
            } finally {
              await sleep(5);
              isClean = true;
            }
          }),
      }),
    b: () => b.get(),
  });
  await settle();
  a.putNowait(1);
  b.putNowait(2);
  assertEquals(await first, { key: "inner", value: { key: "a", value: 1 } });
  assertEquals([isClean, b.qsize()], [true, 1]);
});

Deno.test("select() runs its alternatives in the current greenlet", async () => {
  const queue = new Queue<number>(null, [1]);
  const greenlet = spawn(async () => {
    const me = getCurrent();
    const seen: unknown[] = [];
    await select([
      () => {
        seen.push(getCurrent());
        return sleep(FOREVER);
      },
      async () => {
        await null;
        seen.push(getCurrent());
        await sleep(FOREVER);
      },
      () => {
        spawn(() => seen.push("spawned"));
        return sleep(1);
      },
    ]);
    assertStrictEquals(seen[0], me);
    assertEquals(seen.length, 3);
    assert(seen.includes(me) && seen.includes("spawned"));
    assertStrictEquals(getCurrent(), me);
    return (await select([() => queue.get()])).value;
  });
  assertEquals(await greenlet.get(), 1);
});

Deno.test("select() that an alternative interrupts undoes what was begun", async () => {
  const queues = [1, 2, 3].map(() => new Queue<number>());
  const kills: (() => unknown)[] = [
    () => void kill(getCurrent(), undefined, { block: false }),
    () => kill(getCurrent()),
    () => void (getCurrent() as Greenlet).throw(new GreenletExit()),
  ];
  for (const interrupt of kills) {
    for (const give of [() => queues[1]!.get(), () => new Promise(() => {})]) {
      let isBegun = false;
      const greenlet = spawn(async () => {
        await select([
          () => queues[0]!.get(),
          () => {
            interrupt();
            return give();
          },
          () => {
            isBegun = true;
            return queues[2]!.get();
          },
        ]);
      });
      await greenlet.join();
      assertInstanceOf(greenlet.value, GreenletExit);
      assertEquals(queues.map((queue) => queue.getters), [0, 0, 0]);
      assert(!isBegun);
    }
  }
});

Deno.test("select() keeps an item that an alternative takes and interrupts its greenlet", async () => {
  const queue = new Queue<number>(null, [1]);
  let got: unknown;
  const error = new RangeError("thrown");
  const greenlet = spawn(async () => {
    got = await select([() => {
      const wait = queue.get();
      scopeOf(getCurrent()).interrupt(error);
      return wait;
    }]);
    await sleep(FOREVER);
  });
  assertStrictEquals(await assertRejects(() => greenlet.get()), error);
  assertEquals(got, { key: 0, value: 1 });
});

Deno.test("select() takes what is given late to one that is interrupted, and then throws", async () => {
  const [queue, other] = [new Queue<number>(), new Queue<number>()];
  const got: unknown[] = [];
  const greenlet = spawn(async () => {
    const first = await select([
      () => other.get(),
      () => withTimeout(FOREVER, async () => await queue.get()),
    ]);
    got.push(first.key, first.value);
    await sleep(FOREVER);
  });
  await settle();
  queue.putNowait(1);
  const error = new RangeError("thrown");
  greenlet.throw(error);
  assertStrictEquals(await assertRejects(() => greenlet.get()), error);
  assertEquals([got, other.getters], [[1, 1], 0]);
});

testBoth("select() works in finally of a killed greenlet", {
  async: async (queue: Queue<number>) => {
    try {
      await sleep(FOREVER);
    } finally {
      const first = await select([() => queue.get(), () => sleep(FOREVER)]);
      assertEquals(first, { key: 0, value: 1 });
      queue.putNowait(2);
    }
  },
  generator: function* (queue) {
    try {
      yield* sleep(FOREVER);
    } finally {
      const first = yield* select([() => queue.get(), () => sleep(FOREVER)]);
      assertEquals(first, { key: 0, value: 1 });
      queue.putNowait(2);
    }
  },
}, async (body) => {
  const queue = new Queue<number>();
  const greenlet = spawn(body, queue);
  await settle();
  const killing = greenlet.kill();
  await settle();
  queue.putNowait(1);
  await killing;
  assertEquals(queue.getNowait(), 2);
  assertInstanceOf(greenlet.value, GreenletExit);
});

testBoth("select() of one past its grace ends, and has taken nothing", {
  async: async (queue: Queue<number>) => {
    for (;;) {
      try {
        await select([
          () => queue.get(),
          () => withTimeout(FOREVER, () => queue.get()),
          async () => await queue.get(),
        ]);
      } catch {
        // Once more.
      }
    }
  },
  generator: function* (queue) {
    for (;;) {
      try {
        yield* select([
          () => queue.get(),
          () => withTimeout(FOREVER, () => queue.get()),
          async () => await queue.get(),
        ]);
      } catch {
        // Once more.
      }
    }
  },
}, async (body) => {
  using _failures = new Failures();
  const queue = new Queue<number>();
  const greenlet = spawn(body, queue);
  await settle();
  await greenlet.kill(undefined, { grace: 5 });
  assert(greenlet.dead);
  await settle();
  assertEquals(queue.getters, 0);
});

Deno.test("select() outside greenlets waits as elsewhere", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const both = [
    select([() => a.get(), () => b.get()]),
    select([() => a.get(), () => b.get()]),
  ];
  b.putNowait(1);
  a.putNowait(2);
  assertEquals(await Promise.all(both), [
    { key: 1, value: 1 },
    { key: 0, value: 2 },
  ]);
});

Deno.test("select() of a queue that is shut down throws, and a loop's next() ends", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const first = select([() => a.get(), () => b.get()]);
  first.catch(() => {});
  b.shutdown();
  await assertRejects(async () => void await first, ShutDown);
  assertEquals(a.getters, 0);
  const next = select([
    () => a.get(),
    () => b[Symbol.asyncIterator]().next(),
  ]);
  assertEquals(await next, { key: 1, value: { done: true, value: undefined } });
});

Deno.test("select() that leaves the next() of an iterator does not end it", async () => {
  const queue = new Queue<number>(null, [0]);
  const [one, two] = [new Event(), new Event()];
  using ready = iwait([one, two]);
  assertEquals(
    (await select([() => ready.next(), () => queue.get()])).key,
    1,
  );
  one.set();
  assertEquals(
    (await select([() => queue.get(), () => ready.next()])).value,
    { done: false, value: one },
  );
  const results = new Pool(1).imap(async (item: number) => {
    await sleep(5);
    return item;
  }, [1, 2]);
  queue.putNowait(1);
  const iterator = results[Symbol.asyncIterator]();
  assertEquals(
    (await select([() => iterator.next(), () => queue.get()])).key,
    1,
  );
  assertEquals(await iterator.next(), { done: false, value: 1 });
  assertEquals(await iterator.next(), { done: false, value: 2 });
  assert((await iterator.next()).done);
});

Deno.test("select() waits for a nursery that loses", async () => {
  const queue = new Queue<number>();
  const events: string[] = [];
  const first = select([
    () =>
      nursery((n) => {
        n.spawn(async () => {
          try {
            await sleep(FOREVER);
          } finally {
            events.push("child");
          }
        });
        return sleep(FOREVER);
      }),
    () => queue.get(),
  ]);
  await settle();
  queue.putNowait(1);
  assertEquals((await first).key, 1);
  assertEquals(events, ["child"]);
});

Deno.test("select() takes one of 10,000", async () => {
  const queues = Array.from({ length: 10_000 }, () => new Queue<number>());
  const all = () => select(queues.map((queue) => () => queue.get()));
  const first = all();
  queues[7000]!.putNowait(1);
  assertEquals(await first, { key: 7000, value: 1 });
  assert(queues.every((queue) => queue.getters === 0));
  const greenlet = spawn(all);
  await settle();
  await greenlet.kill();
  assert(queues.every((queue) => queue.getters === 0));
  await assertRejects(
    async () =>
      void await select(queues.map((queue) => () => queue.get()), {
        timeout: 0,
      }),
    Timeout,
  );
  assert(queues.every((queue) => queue.getters === 0));
});

Deno.test("select() leaves nothing with what lasts", async () => {
  const event = new Event();
  const promise = new Promise<void>(() => {});
  const lasting = spawn(sleep, FOREVER);
  const results = new AsyncResult<number>();
  const turns = 2000;
  const round = async () => {
    for (let i = 0; i < turns; i++) {
      const queue = new Queue<Uint8Array>(null, [new Uint8Array(1000)]);
      await select([
        () => event.wait(),
        () => promise,
        lasting,
        () => results.get(),
        () => queue.get(),
      ], { timeout: FOREVER });
    }
  };
  await round();
  const before = Deno.memoryUsage().heapUsed;
  await round();
  await round();
  assertEquals([event.linkCount(), results.linkCount()], [0, 0]);
  const grown = Deno.memoryUsage().heapUsed - before;
  // What were kept of each would be some hundred bytes; garbage is none of it.
  assertLess(grown, 20_000_000);
  await lasting.kill();
});

Deno.test("select() stops an async function that loses to one before it", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const { promise, resolve } = Promise.withResolvers<void>();
  const first = select({
    b: () => b.get(),
    a: async () => {
      await promise;
      return await a.get();
    },
  });
  b.putNowait(1);
  assertEquals((await first).key, "b");
  resolve();
  await settle();
  assertEquals(a.getters, 0);
});

Deno.test("select() ends what an alternative has begun beside its wait", async () => {
  const [a, b, beside] = [1, 2, 3].map(() => new Queue<number>());
  const loses = () => {
    beside!.get().catch(() => {});
    return a!.get();
  };
  const greenlet = spawn(() => select([loses, () => b!.get()]));
  await settle();
  assertEquals([a!.getters, beside!.getters], [1, 1]);
  await greenlet.kill();
  assertEquals([a!.getters, b!.getters, beside!.getters], [0, 0, 0]);
  await assertRejects(
    async () => void await select([loses], { timeout: 1 }),
    Timeout,
  );
  assertEquals([a!.getters, beside!.getters], [0, 0]);
  const first = select([loses, async () => await b!.get()]);
  await settle();
  b!.putNowait(1);
  assertEquals((await first).key, 1);
  assertEquals([a!.getters, beside!.getters], [0, 0]);
});

Deno.test("select() with an alternative that gives something to one before it takes that", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  for (
    const late of [
      () => b.get(),
      () => withTimeout(FOREVER, () => b.get()),
      async () => await b.get(),
    ]
  ) {
    let isBegun = false;
    const first = select([
      () => a.get(),
      () => {
        a.putNowait(1);
        return late();
      },
      () => {
        isBegun = true;
        return b.get();
      },
    ]);
    b.putNowait(2);
    assertEquals(await first, { key: 0, value: 1 });
    assertEquals([b.getNowait(), b.getters, isBegun], [2, 0, false]);
  }
});

Deno.test("select() with an undo that gives something to one that loses leaves it there", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const undoes: ((put: () => void) => Wait<void>)[] = [
    (put) => new Waiter<void>(put).get(),
    (put) => until(new Promise<void>(() => {}), put),
  ];
  for (const undo of undoes) {
    for (const wins of [() => a.get(), () => sleep(1)]) {
      const first = select([
        () => undo(() => b.putNowait(2)),
        () => wins(),
        () => b.get(),
      ]);
      a.putNowait(1);
      assertEquals((await first).key, 1);
      assertEquals([b.getNowait(), b.getters, b.qsize()], [2, 0, 0]);
      if (a.qsize() > 0) a.getNowait();
    }
  }
});

Deno.test("select() lets go of a promise that it has not come to", async () => {
  const queue = new Queue<number>(null, [1]);
  const first = await select([
    () => queue.get(),
    Promise.reject(new Error("nothing to anybody")),
  ]);
  assertEquals(first.key, 0);
  await settle();
});

Deno.test("select() in a nursery, and of nurseries, is killed with it", async () => {
  const [a, b] = [new Queue<number>(), new Queue<number>()];
  const error = await assertRejects(() =>
    nursery(async (n) => {
      n.spawn(() => select([() => a.get(), () => b.get()]));
      await settle();
      throw new RangeError("no");
    })
  );
  assertInstanceOf(error, RangeError);
  assertEquals([a.getters, b.getters], [0, 0]);
});

Deno.test("select() with a Timeout that was closed before it was thrown goes on", async () => {
  const queue = new Queue<number>();
  let isClean = false;
  const greenlet = spawn(async () => {
    const timeout = Timeout.start(2);
    const first = await select([
      () =>
        withTimeout(FOREVER, async () => {
          try {
            await sleep(FOREVER);
          } finally {
            await sleep(5);
            isClean = true;
            // The time was over while this was waited for.
            timeout.close();
          }
        }),
      () => queue.get(),
    ]);
    await sleep(1);
    return first.value;
  });
  await settle();
  queue.putNowait(1);
  assertEquals(await greenlet.get(), 1);
  assert(isClean);
});

Deno.test("select() of random queues, interrupts and timeouts receives each item once, in each queue's order", async () => {
  const seeds = Deno.env.has("SEED")
    ? [Number(Deno.env.get("SEED"))]
    : Array.from({ length: 60 }, (_, i) => i + 1);
  for (const seed of seeds) {
    try {
      await randomProgram(random(seed));
    } catch (error) {
      throw new Error(`Failed with SEED=${seed}`, { cause: error });
    }
  }
});

/** An item: of which producer, and the how many-th of it. */
type Item = readonly [producer: number, number: number];

/** Producers, and consumers that are killed and replaced, of two to five queues. */
async function randomProgram(next: () => number): Promise<void> {
  const upTo = (n: number) => Math.floor(next() * n);
  const queues = Array.from(
    { length: 2 + upTo(4) },
    () =>
      next() < 0.3
        ? new Channel<Item>()
        : new Queue<Item>(next() < 0.5 ? null : 1 + upTo(2)),
  );
  // What is handed over in one order, bodies of several kinds may come to note in another.
  const kind = upTo(4);
  const isUniform = kind < 3;
  const received = queues.map((): Item[] => []);
  const sent = queues.map((): Item[] => []);
  const producers = queues.flatMap((queue, place) =>
    [0, 1].map((n) =>
      spawn(async () => {
        for (let i = 0; i < 10; i++) {
          const item: Item = [2 * place + n, i];
          for (let isPut = false; !isPut;) {
            try {
              // Some put by a select, which may take nothing at its end.
              if (next() < 0.5) await queue.put(item);
              else {
                await select([() => queue.put(item), () => sleep(FOREVER)], {
                  timeout: upTo(3),
                });
              }
              isPut = true;
            } catch (error) {
              assertInstanceOf(error, Timeout);
            }
          }
          sent[place]!.push(item);
          if (next() < 0.3) await sleep(upTo(3));
        }
      })
    )
  );
  const forms: ((queue: Queue<Item> | Channel<Item>) => () => Wait<Item>)[] = [
    (queue) => () => queue.get(),
    (queue) => () => withTimeout(FOREVER, () => queue.get()),
    (queue) => () => until(queue.get()),
  ];
  const alternatives = () => {
    const places = queues.map((_, i) => i).toSorted(() => next() - 0.5);
    const picked = places.slice(0, 1 + upTo(places.length));
    return Object.fromEntries(
      picked.map((place) => [
        `q${place}`,
        forms[isUniform ? 0 : upTo(forms.length)]!(queues[place]!),
      ]),
    );
  };
  const take = (first: { key: string; value: Item }) =>
    void received[Number(first.key.slice(1))]!.push(first.value);
  const consumers = new Set<Greenlet>();
  const bodies = [
    async () => {
      for (;;) {
        try {
          take(await select(alternatives(), { timeout: upTo(4) }));
        } catch (error) {
          if (!(error instanceof Timeout)) throw error;
        }
        if (next() < 0.2) await sleep(upTo(2));
      }
    },
    function* () {
      for (;;) {
        const first: { key: string; value: Item } = yield* select(
          alternatives(),
        );
        take(first);
        if (next() < 0.2) yield* sleep(upTo(2));
      }
    },
    async () => {
      for (;;) {
        const first = await withTimeout(
          upTo(4),
          () => select({ inner: () => select(alternatives()) }),
          { value: null },
        );
        if (first !== null) take(first.value);
      }
    },
  ];
  const consume = () => {
    const body = bodies[isUniform ? kind : upTo(bodies.length)]!;
    const consumer = spawn(body as () => Promise<void>);
    consumers.add(consumer as Greenlet);
  };
  for (let i = 0; i < 3; i++) consume();
  const killer = spawn(async () => {
    for (let i = 0; i < 20; i++) {
      await sleep(upTo(3));
      const [victim] = [...consumers].slice(upTo(consumers.size));
      consumers.delete(victim!);
      const block = next() < 0.5;
      const killing = victim!.kill(undefined, { block });
      if (next() < 0.5) await killing;
      consume();
    }
  });
  await joinAll([...producers, killer], { raiseError: true });
  await when(() => received.every((got) => got.length === 20));
  for (const consumer of consumers) await consumer.kill();
  for (const consumer of consumers) {
    if (!consumer.successful()) throw consumer.exception;
  }
  for (const [place, queue] of queues.entries()) {
    assertEquals(queue.qsize(), 0);
    const got = received[place]!;
    assertEquals(got.length, 20);
    for (const producer of [2 * place, 2 * place + 1]) {
      const own = got.filter(([one]) => one === producer);
      const numbers = own.map(([, number]) => number);
      if (!isUniform) numbers.sort((a, b) => a - b);
      assertEquals(numbers, [...Array(10).keys()]);
    }
    assertEquals(sent[place]!.length, 20);
  }
}

testBoth("until() of a wait that was over keeps its item in spite of a kill", {
  async: async (queue: Queue<number>, got: number[]) => {
    got.push(await until(queue.get()));
    await sleep(FOREVER);
  },
  generator: function* (queue, got) {
    got.push(yield* until(queue.get()));
    yield* sleep(FOREVER);
  },
}, async (body) => {
  const queue = new Queue<number>(null, [1]);
  const got: number[] = [];
  const greenlet: Greenlet = spawn(() => {
    const killing = Promise.resolve().then(() => greenlet.kill());
    killing.catch(() => {});
    return body(queue, got);
  });
  await greenlet.join();
  assertEquals(got, [1]);
});
