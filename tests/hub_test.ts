import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import { AsyncLocalStorage } from "node:async_hooks";
import * as core from "../greenlet.ts";
import {
  getCurrent,
  getHub,
  type Greenlet,
  GreenletError,
  GreenletExit,
  Hub,
  kill,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  Timeout,
  until,
  type Wait,
  Waiter,
} from "../mod.ts";
import { Failures, runScript, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;
/** Long enough for a busy machine, and nothing next to `FOREVER`. */
const AT_ONCE = 10_000;

// --- The hub

Deno.test("getHub() gives the core's main greenlet, which is current outside greenlets", () => {
  const hub = getHub();
  assertInstanceOf(hub, Hub);
  assertInstanceOf(hub, core.Greenlet);
  assertStrictEquals(hub, getHub());
  assertStrictEquals(getCurrent(), hub);
  assertStrictEquals(core.getCurrent(), hub);
  assertEquals([hub.parent, hub.dead, hub.active], [null, false, true]);
});

testBoth("Hub.join() waits until the others have ended", {
  async: async () => await getHub().join(),
  generator: function* () {
    return yield* getHub().join();
  },
}, async (body) => {
  const log: string[] = [];
  spawn(() => log.push("now"));
  spawnLater(1, () => log.push("later"));
  spawnRaw(async () => {
    await sleep(5);
    log.push("raw, async");
  });
  spawnRaw(function* () {
    yield* sleep(10);
    log.push("raw, generator");
    spawn(() => log.push("grandchild"));
  });
  assertStrictEquals(await spawn(body).get(), true);
  assertEquals(log, [
    "now",
    "later",
    "raw, async",
    "raw, generator",
    "grandchild",
  ]);
});

testBoth("Hub.join() gives false at the timeout", {
  async: async () => await getHub().join({ timeout: 10 }),
  generator: function* () {
    return yield* getHub().join({ timeout: 10 });
  },
}, async (body) => {
  const g = spawn(sleep, FOREVER);
  const start = performance.now();
  assertStrictEquals(await spawn(body).get(), false);
  assertGreaterOrEqual(performance.now() - start, 10);
  await g.kill();
  assertStrictEquals(await spawn(body).get(), true);
});

testBoth("Hub.join() is ended by a kill", {
  async: async () => await getHub().join(),
  generator: function* () {
    return yield* getHub().join();
  },
}, async (body) => {
  const g = spawn(sleep, FOREVER);
  const joiner: Greenlet = spawn(body);
  await sleep(0);
  await joiner.kill();
  assertInstanceOf(joiner.value, GreenletExit);
  await g.kill();
});

Deno.test("Hub.join() without greenlets returns at once, however often it is called", async () => {
  for (let i = 0; i < 3; i++) {
    assertStrictEquals(await getHub().join(), true);
    assertStrictEquals(await getHub().join({ timeout: 0 }), true);
    assertFalse(getHub().dead);
    await sleep(1);
  }
});

Deno.test("Hub.join() refuses anything but a number of milliseconds", () => {
  const join = (timeout: unknown) =>
    getHub().join({ timeout: timeout as number });
  assertThrows(() => join("5"), TypeError, 'received "5"');
  assertThrows(() => join(NaN), RangeError, "received NaN");
});

/** Collects what `console.error` prints while this is in use. */
class Stderr implements Disposable {
  readonly lines: unknown[][] = [];
  readonly #error = console.error;

  constructor() {
    console.error = (...args) => void this.lines.push(args);
  }

  [Symbol.dispose](): void {
    console.error = this.#error;
  }
}

testBoth(
  "Hub.handleError() prints the error and the name of the greenlet, once",
  {
    async: async (error: Error): Promise<void> => {
      await sleep(0);
      throw error;
    },
    generator: function* (error: Error): Generator<unknown, void> {
      yield* sleep(0);
      throw error;
    },
  },
  async (body) => {
    using stderr = new Stderr();
    const error = new RangeError("expected");
    const g = spawn(body, error);
    g.name = "worker";
    await g.join();
    await settle();
    await assertRejects(() => g.get(), RangeError);
    g.link(() => {});
    await settle();
    assertEquals(stderr.lines.length, 2);
    assertStrictEquals(stderr.lines[0]![0], error);
    assertMatch(
      String(stderr.lines[1]![0]),
      /^<Greenlet "worker".*> failed with RangeError$/,
    );
  },
);

Deno.test("Hub.handleError() prints nothing for a GreenletExit", async () => {
  using stderr = new Stderr();
  for (
    const body of [
      () => {
        throw new GreenletExit();
      },
      async () => {
        await sleep(0);
        throw new GreenletExit();
      },
      function* (): Generator<unknown, void> {
        yield* sleep(0);
        throw new GreenletExit();
      },
    ]
  ) {
    const g: Greenlet = spawn(body as () => void);
    await g.join();
    assert(g.successful());
    assertInstanceOf(g.value, GreenletExit);
    spawnRaw(body);
    await getHub().join();
  }
  assertEquals(stderr.lines, []);
});

Deno.test("Hub.handleError() prints whatever is thrown, and the name of a callback", async () => {
  using stderr = new Stderr();
  const g = spawn(() => {
    throw "a text";
  });
  g.rawlink(function onEnd() {
    throw undefined;
  });
  g.rawlink(() => {
    throw new TypeError("link");
  });
  await settle();
  assertEquals(
    stderr.lines.map((line) => line[0]).filter((line) =>
      !(line instanceof Error)
    ),
    [
      "a text",
      `${g} failed with string`,
      undefined,
      "onEnd failed with undefined",
      "a callback failed with TypeError",
    ],
  );
});

Deno.test("Hub.handleError() of a process lets it go on", async () => {
  const { out, err, code } = await runScript(`
    const g = spawn(() => { throw new Error("expected"); });
    g.name = "worker";
    await g.join();
    console.log("still here");
  `);
  assertEquals([out, code], [["still here"], 0]);
  assertEquals(err.match(/Error: expected/g)?.length, 1);
  assertStringIncludes(err, '<Greenlet "worker"> failed with Error\n');
});

Deno.test("Hub.handleError may be replaced", async () => {
  const log: unknown[] = [];
  const hub = getHub();
  const { handleError } = hub;
  hub.handleError = (context, error) => log.push(context, error);
  const error = new Error("expected");
  const g = spawn(() => {
    throw error;
  });
  await g.join();
  await settle();
  hub.handleError = handleError;
  assertEquals(log.length, 2);
  assertStrictEquals(log[0], g);
  assertStrictEquals(log[1], error);
});

// --- Waiter

testBoth("Waiter.get() gives what Waiter.switch() is given later", {
  async: async (waiter: Waiter<number>) => await waiter.get(),
  generator: function* (waiter: Waiter<number>) {
    return yield* waiter.get();
  },
}, async (body) => {
  const waiter = new Waiter<number>();
  const g = spawn(body, waiter);
  await settle();
  assertFalse(g.dead);
  waiter.switch(5);
  assertFalse(g.dead);
  waiter.switch(6);
  waiter.throw(new Error("too late"));
  assertEquals(await g.get(), 5);
});

testBoth("Waiter.get() gives what Waiter.switch() was given before", {
  async: async (waiter: Waiter<number>) => await waiter.get(),
  generator: function* (waiter: Waiter<number>) {
    return yield* waiter.get();
  },
}, async (body) => {
  const waiter = new Waiter<number>();
  waiter.switch(5);
  waiter.switch(6);
  assertEquals(await spawn(body, waiter).get(), 5);
});

testBoth("Waiter.get() throws what Waiter.throw() is given, later or before", {
  async: async (waiter: Waiter<number>) => {
    try {
      await waiter.get();
    } catch (error) {
      return error;
    }
  },
  generator: function* (waiter: Waiter<number>) {
    try {
      yield* waiter.get();
    } catch (error) {
      return error;
    }
  },
}, async (body) => {
  const error = new Error("expected");
  const before = new Waiter<number>();
  before.throw(error);
  before.switch(5);
  assertStrictEquals(await spawn(body, before).get(), error);
  const later = new Waiter<number>();
  const g = spawn(body, later);
  await settle();
  later.throw(error);
  assertStrictEquals(await g.get(), error);
});

testBoth(
  "Waiter calls its undo with the error when it is interrupted, and only then",
  {
    async: async (waiter: Waiter<void>) => {
      await waiter.get();
    },
    generator: function* (waiter: Waiter<void>) {
      yield* waiter.get();
    },
  },
  async (body) => {
    const log: unknown[] = [];
    const exit = new GreenletExit();
    const interrupted = spawn(
      body,
      new Waiter<void>((error) => log.push(error)),
    );
    await sleep(0);
    await interrupted.kill(exit);
    assertEquals(log.length, 1);
    assertStrictEquals(log[0], exit);

    const waiter = new Waiter<void>((error) => log.push(error));
    const served = spawn(body, waiter);
    await sleep(0);
    waiter.switch();
    await served.join();
    await served.kill();
    assertEquals(log.length, 1);
  },
);

testBoth("Waiter calls its undo if an error is due before it waits", {
  async: async (waiter: Waiter<void>, error: Error) => {
    kill(getCurrent(), error, { block: false });
    try {
      await waiter.get();
    } catch (thrown) {
      return thrown;
    }
  },
  generator: function* (waiter: Waiter<void>, error: Error) {
    kill(getCurrent(), error, { block: false });
    try {
      yield* waiter.get();
    } catch (thrown) {
      return thrown;
    }
  },
}, async (body) => {
  const log: unknown[] = [];
  const error = new Error("due");
  const waiter = new Waiter<void>((error) => log.push(error));
  assertStrictEquals(await spawn(body, waiter, error).get(), error);
  assertEquals(log.length, 1);
  assertStrictEquals(log[0], error);
});

Deno.test("Waiter tells the hub of an undo that throws, and the wait ends all the same", async () => {
  using failures = new Failures();
  const error = new Error("undo");
  const waiter = new Waiter<void>(function takeBack() {
    throw error;
  });
  const g = spawn(() => waiter.get());
  await sleep(0);
  await g.kill();
  assert(g.successful());
  assertEquals(failures.errors, [error]);
  assertEquals((failures.contexts[0] as () => void).name, "takeBack");
});

Deno.test("Waiter.get() twice throws a TypeError", async () => {
  const waiter = new Waiter<number>();
  const wait = waiter.get();
  assertThrows(() => waiter.get(), TypeError, "Cannot wait twice");
  waiter.switch(1);
  assertEquals(await wait, 1);
  assertThrows(() => waiter.get(), TypeError, "Cannot wait twice");
});

Deno.test("Waiters wake their greenlets in the order of the switches", async () => {
  const waiters = Array.from({ length: 100 }, () => new Waiter<void>());
  const log: number[] = [];
  const greenlets = waiters.map((waiter, n) =>
    n % 2 === 0
      ? spawn(async () => {
        await waiter.get();
        log.push(n);
      })
      : spawn(function* () {
        yield* waiter.get();
        log.push(n);
      })
  );
  await sleep(0);
  for (const waiter of waiters.toReversed()) waiter.switch();
  for (const g of greenlets) await g.join();
  assertEquals(log, waiters.map((_, n) => 99 - n));
});

// --- Wait

Deno.test("Wait is a native promise", async () => {
  const wait = sleep(1);
  assertStrictEquals(wait.constructor, Promise);
  assertStrictEquals(Promise.resolve(wait), wait);
  assertEquals(await wait.then(() => 1), 1);
  assertEquals(await Promise.all([sleep(1), sleep(0)]), [undefined, undefined]);
  const waiter = new Waiter<string>();
  const race = [waiter.get(), sleep(1).then(() => "quick")];
  assertEquals(await Promise.race(race), "quick");
  waiter.switch("slow");
  assertEquals(await Promise.all(race), ["slow", "quick"]);
});

Deno.test("Wait has begun when the call returns, awaited or not", async () => {
  const g = spawn(async () => {
    const start = performance.now();
    const wait = sleep(20);
    await sleep(20);
    await wait;
    return performance.now() - start;
  });
  assertGreaterOrEqual(await g.get(), 20);
  let undone = false;
  const h = spawn(() => {
    new Waiter(() => undone = true).get();
    return until(new Promise(() => {}));
  });
  await sleep(0);
  await h.kill();
  // A wait that was not awaited was undone all the same
  assert(undone);
});

Deno.test("Wait may be delegated to after it has ended, and more than once", async () => {
  const g = spawn(function* () {
    const wait = sleep(1);
    yield* sleep(5);
    yield* wait;
    yield* wait;
    const result = until(Promise.resolve(7));
    return (yield* result) + (yield* result);
  });
  assertEquals(await g.get(), 14);
});

Deno.test("Wait that is delegated to outside a generator body throws a GreenletError", async () => {
  const wait: Wait<void> = sleep(1);
  const error = assertThrows(
    () => wait[Symbol.iterator]().next(),
    GreenletError,
  );
  assertStringIncludes((error as Error).message, "use `await`");
  await wait;
});

Deno.test("Wait that is yielded without delegation throws a GreenletError", async () => {
  using _failures = new Failures();
  const g = spawn(function* () {
    yield sleep(1);
  });
  const error = await assertRejects(() => g.get(), GreenletError);
  assertStringIncludes((error as Error).message, "write `yield*`");
  await sleep(5);
});

// --- until

testBoth("until() gives what the promise gives", {
  async: async () => [
    await until(Promise.resolve(1)),
    await until(new Promise((resolve) => setTimeout(resolve, 1, 2))),
    await until(3),
    // deno-lint-ignore no-explicit-any
    await until({ then: (resolve: any) => resolve(4) } as PromiseLike<number>),
  ],
  generator: function* () {
    return [
      yield* until(Promise.resolve(1)),
      yield* until(new Promise((resolve) => setTimeout(resolve, 1, 2))),
      yield* until(3),
      yield* until(
        // deno-lint-ignore no-explicit-any
        { then: (resolve: any) => resolve(4) } as PromiseLike<number>,
      ),
    ];
  },
}, async (body) => {
  assertEquals(await spawn(body).get(), [1, 2, 3, 4]);
});

testBoth("until() throws what the promise throws", {
  async: async (promise: Promise<never>) => {
    try {
      await until(promise);
    } catch (error) {
      return error;
    }
  },
  generator: function* (promise: Promise<never>) {
    try {
      yield* until(promise);
    } catch (error) {
      return error;
    }
  },
}, async (body) => {
  const error = new Error("expected");
  const failed = Promise.reject(error);
  // The body may begin after a turn of the loop, which would tell of a rejection.
  failed.catch(() => {});
  assertStrictEquals(await spawn(body, failed).get(), error);
  const { promise, reject } = Promise.withResolvers<never>();
  const g = spawn(body, promise);
  await settle();
  reject(error);
  assertStrictEquals(await g.get(), error);
});

testBoth("until() is ended by a kill, and calls onInterrupt with the error", {
  async: async (promise: Promise<void>, onInterrupt: (e: unknown) => void) => {
    await until(promise, onInterrupt);
  },
  generator: function* (
    promise: Promise<void>,
    onInterrupt: (e: unknown) => void,
  ) {
    yield* until(promise, onInterrupt);
  },
}, async (body) => {
  const log: unknown[] = [];
  const exit = new GreenletExit();
  const { promise, reject } = Promise.withResolvers<void>();
  const g = spawn(body, promise, (error) => log.push(error));
  await sleep(0);
  await g.kill(exit);
  assertStrictEquals(g.value as unknown, exit);
  assertEquals(log.length, 1);
  assertStrictEquals(log[0], exit);
  // This causes no unhandled rejection
  reject(new Error("too late"));
  await settle();
  assertEquals(log.length, 1);
});

testBoth("until() does not call onInterrupt when the promise settles", {
  async: async (log: string[]) => {
    await until(Promise.resolve(), () => log.push("interrupt"));
  },
  generator: function* (log: string[]) {
    yield* until(Promise.resolve(), () => log.push("interrupt"));
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await g.join();
  await g.kill();
  assertEquals(log, []);
});

Deno.test("until() tells the hub of an onInterrupt that throws", async () => {
  using failures = new Failures();
  const error = new Error("expected");
  const g = spawn(() =>
    until(new Promise(() => {}), () => {
      throw error;
    })
  );
  await sleep(0);
  await g.kill();
  assert(g.successful());
  assertEquals(failures.errors, [error]);
});

Deno.test("until() of a promise that another greenlet's exit has failed is a failure that says so", async () => {
  using failures = new Failures();
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const target = spawn(async () => {
    const wait = sleep(FOREVER);
    resolve(wait);
    await wait;
  });
  const others = [
    spawn(() => until(promise)),
    spawn(function* () {
      return yield* until(promise);
    }),
    spawn(() => promise),
  ];
  await sleep(0);
  const exit = new GreenletExit();
  await target.kill(exit);
  assertStrictEquals(target.value as unknown, exit);
  for (const g of others) {
    await g.join();
    assertFalse(g.successful());
    assertInstanceOf(g.exception, GreenletError);
    assertStringIncludes(g.exception.message, String(target));
    assertStrictEquals(g.exception.cause, exit);
  }
  assertEquals(failures.errors.length, 3);
});

testBoth(
  "until() throws the error that tells of another greenlet's exit where it is caught as well",
  {
    async: async (promise: Promise<unknown>) => {
      try {
        await until(promise);
      } catch (error) {
        return error;
      }
    },
    generator: function* (promise: Promise<unknown>) {
      try {
        yield* until(promise);
      } catch (error) {
        return error;
      }
    },
  },
  async (body) => {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    const target = spawn(() => {
      const wait = sleep(FOREVER);
      resolve(wait);
      return wait;
    });
    const g = spawn(body, promise);
    await sleep(0);
    await target.kill();
    assertInstanceOf(await g.get(), GreenletError);
  },
);

Deno.test("until() refuses an onInterrupt that is not a function", () => {
  for (const wrong of [null, 5, "f", {}]) {
    assertThrows(
      () => until(Promise.resolve(), wrong as never),
      TypeError,
      "'onInterrupt' must be a function",
    );
    assertThrows(
      () => new Waiter(wrong as never),
      TypeError,
      "'undo' must be a function",
    );
  }
});

// --- The current greenlet

const storage = new AsyncLocalStorage<string>();

Deno.test("getCurrent() is the hub in callbacks of the event loop", async () => {
  clock.useRealTime();
  const seen: unknown[] = [];
  await new Promise<void>((resolve) =>
    setTimeout(() => resolve(void seen.push(getCurrent())), 1)
  );
  await Promise.resolve().then(() => seen.push(getCurrent()));
  seen.push(getCurrent());
  for (const one of seen) assertStrictEquals(one, getHub());
});

Deno.test("getCurrent() is the greenlet in callbacks that it hands to the runtime, even after its end", async () => {
  clock.useRealTime();
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const g = spawn(() => void setTimeout(() => resolve(getCurrent()), 5));
  await g.join();
  assertStrictEquals(await promise, g);
});

testBoth(
  "getCurrent() and an AsyncLocalStorage are right in each of many greenlets that take turns",
  {
    async: async (n: number) => {
      for (let i = 0; i < 20; i++) {
        await sleep(0);
        if (storage.getStore() !== `request ${n}`) return "wrong storage";
        await null;
        if ((getCurrent() as Greenlet).args[0] !== n) return "wrong greenlet";
        if (i === 10) await sleep(n % 3);
      }
      return n;
    },
    generator: function* (n: number) {
      for (let i = 0; i < 20; i++) {
        yield* sleep(0);
        if (storage.getStore() !== `request ${n}`) return "wrong storage";
        yield* until(null);
        if ((getCurrent() as Greenlet).args[0] !== n) return "wrong greenlet";
        if (i === 10) yield* sleep(n % 3);
      }
      return n;
    },
  },
  async (body) => {
    const greenlets = Array.from(
      { length: 100 },
      (_, n) => storage.run(`request ${n}`, () => spawn(body, n)),
    );
    for (const [n, g] of greenlets.entries()) assertEquals(await g.get(), n);
  },
);

Deno.test("getCurrent() is the core greenlet in its waits, and in async functions that it calls", async () => {
  const seen: unknown[] = [];
  const look = () => seen.push(getCurrent());
  const raw = new core.Greenlet(function* () {
    look();
    yield* sleep(1);
    look();
    yield* until((async () => {
      look();
      await null;
      look();
      await sleep(1);
      look();
    })());
    look();
  });
  raw.switch();
  while (!raw.dead) await sleep(1);
  assertEquals(seen.length, 6);
  for (const one of seen) assertStrictEquals(one, raw);
});

testBoth("getCurrent() and an AsyncLocalStorage are right after an interrupt", {
  async: async (seen: unknown[]) => {
    const look = () => seen.push(getCurrent(), storage.getStore());
    try {
      using _timeout = Timeout.start(1);
      await sleep(FOREVER);
    } catch {
      look();
      await sleep(1);
      look();
    }
    try {
      await sleep(FOREVER);
    } finally {
      look();
      await sleep(1);
      look();
    }
  },
  generator: function* (seen: unknown[]) {
    const look = () => seen.push(getCurrent(), storage.getStore());
    try {
      using _timeout = Timeout.start(1);
      yield* sleep(FOREVER);
    } catch {
      look();
      yield* sleep(1);
      look();
    }
    try {
      yield* sleep(FOREVER);
    } finally {
      look();
      yield* sleep(1);
      look();
    }
  },
}, async (body) => {
  const seen: unknown[] = [];
  const g = storage.run("mine", () => spawn(body, seen));
  while (seen.length < 4) await sleep(1);
  await settle();
  await storage.run("the killer's", () => g.kill());

  assertEquals(seen.length, 8);
  for (let i = 0; i < seen.length; i += 2) {
    assertStrictEquals(seen[i], g);
    assertEquals(seen[i + 1], "mine");
  }
});

// --- Fairness

testBoth(
  "The hub lets timers and the event loop go on while two greenlets switch through each other for ever",
  {
    async: async (state: { over: boolean; waiters: Waiter<void>[] }) => {
      while (!state.over) {
        const mine = new Waiter<void>();
        const other = state.waiters.shift();
        state.waiters.push(mine);
        other?.switch();
        await mine.get();
      }
      for (const waiter of state.waiters) waiter.switch();
    },
    generator: function* (state: { over: boolean; waiters: Waiter<void>[] }) {
      while (!state.over) {
        const mine = new Waiter<void>();
        const other = state.waiters.shift();
        state.waiters.push(mine);
        other?.switch();
        yield* mine.get();
      }
      for (const waiter of state.waiters) waiter.switch();
    },
  },
  async (body) => {
    clock.useRealTime();
    const state = { over: false, waiters: [] };
    const pair = [spawn(body, state), spawn(body, state)];
    // One of ours, some of the runtime's, and I/O
    await sleep(10);
    await new Promise<void>((resolve) => {
      let ticks = 0;
      const timer = setInterval(() => {
        if (++ticks === 3) resolve(clearInterval(timer));
      }, 1);
    });
    await Deno.stat(import.meta.dirname!);
    state.over = true;
    for (const g of pair) {
      await g.join({ timeout: AT_ONCE });
      assert(g.dead);
    }
  },
);
