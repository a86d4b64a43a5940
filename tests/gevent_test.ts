import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLess,
  assertMatch,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import { AsyncLocalStorage } from "node:async_hooks";
import * as core from "../greenlet.ts";
import {
  AsyncResult,
  Channel,
  Event,
  getCurrent,
  getHub,
  Greenlet,
  GreenletError,
  GreenletExit,
  Group,
  idle,
  iwait,
  joinAll,
  kill,
  killAll,
  type Link,
  Pool,
  Queue,
  RLock,
  run,
  Semaphore,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  Timeout,
  until,
  type Wait,
  wait,
  type Waitable,
  Waiter,
  withTimeout,
} from "../mod.ts";
import { Failures, runScript, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;
/** Long enough for a busy machine, and nothing next to `FOREVER`. */
const AT_ONCE = 10_000;

/** The properties that tell the state of a greenlet. */
function stateOf(g: Greenlet) {
  return {
    started: g.started,
    active: g.active,
    dead: g.dead,
    ready: g.ready(),
    successful: g.successful(),
    value: g.value,
    exception: g.exception,
  };
}

const PENDING = {
  started: false,
  active: false,
  dead: false,
  ready: false,
  successful: false,
  value: undefined,
  exception: undefined,
};
const SCHEDULED = { ...PENDING, started: true };
const RUNNING = { ...SCHEDULED, active: true };
const DEAD = { ...PENDING, dead: true, ready: true };

/** A small event of our own: it calls each link once. */
class Signal implements Waitable {
  readonly links = new Set<(source: Signal) => unknown>();

  rawlink(link: (source: Signal) => unknown): void {
    this.links.add(link);
  }

  unlink(link: (source: Signal) => unknown): void {
    this.links.delete(link);
  }

  set(): void {
    for (const link of this.links) {
      this.links.delete(link);
      link(this);
    }
  }
}

// --- The life of a greenlet

testBoth("Greenlet goes from pending over running to successful", {
  async: async (ms: number, value: number) => {
    await sleep(ms);
    return value;
  },
  generator: function* (ms: number, value: number) {
    yield* sleep(ms);
    return value;
  },
}, async (body) => {
  const linked: Greenlet[] = [];
  const g = new Greenlet<number>(body, 5, 7);
  g.rawlink((source) => linked.push(source));
  assertEquals(stateOf(g), PENDING);

  g.start();
  assertEquals(stateOf(g), SCHEDULED);

  await sleep(1);
  assertEquals(stateOf(g), RUNNING);
  assertEquals(linked, []);

  await g.join();
  assertEquals(stateOf(g), { ...DEAD, successful: true, value: 7 });
  await sleep(0);
  assertEquals(linked.length, 1);
  assertStrictEquals(linked[0], g);
});

testBoth("Greenlet goes from pending over running to failed", {
  async: async (error: Error): Promise<void> => {
    await sleep(1);
    throw error;
  },
  generator: function* (error: Error): Generator<unknown, void> {
    yield* sleep(1);
    throw error;
  },
}, async (body) => {
  using failures = new Failures();
  const error = new Error("expected");
  const linked: Greenlet[] = [];
  const g = new Greenlet(body, error);
  g.rawlink((source) => linked.push(source));
  g.start();
  await sleep(0);
  assertEquals(stateOf(g), RUNNING);

  await g.join();
  await sleep(0);
  const state = stateOf(g);
  assertEquals(state, { ...DEAD, exception: error });
  assertStrictEquals(state.exception, error);
  assertStrictEquals(linked[0], g);
  assertEquals(failures.errors, [error]);
  assertStrictEquals(failures.contexts[0], g);
});

Deno.test("Greenlet runs a plain function", async () => {
  using failures = new Failures();
  assertEquals(await spawn((a: number, b: number) => a + b, 1, 2).get(), 3);
  const error = new Error("expected");
  const g = spawn(() => {
    throw error;
  });
  await g.join();
  assertStrictEquals(g.exception, error);
  assertEquals(failures.errors, [error]);
});

Deno.test("Greenlet runs what a plain function returns: a promise or a generator", async () => {
  function* body(n: number) {
    yield* sleep(1);
    return n;
  }
  assertEquals(await spawn(() => body(1)).get(), 1);
  assertEquals(await spawn(() => Promise.resolve(2)).get(), 2);
  assertEquals(await spawn(body.bind(null, 3)).get(), 3);
  assertEquals(await spawn(sleep, 1).get(), undefined);
});

Deno.test("Greenlet takes any value to be thrown", async () => {
  using failures = new Failures();
  for (const thrown of [undefined, null, 0, "text", Symbol("s")]) {
    const g = spawn(() => {
      throw thrown;
    });
    await g.join();
    assertFalse(g.successful());
    assertStrictEquals(g.exception, thrown);
  }
  assertEquals(failures.errors.length, 5);
});

Deno.test("Greenlet is not thenable, so that an async function may return one", async () => {
  const start = async () => {
    await sleep(0);
    return spawn(sleep, FOREVER);
  };
  const g = await start();
  assertFalse("then" in g);
  assertFalse(g.ready());
  await g.kill();
});

Deno.test("Greenlet.args are the arguments of the body", async () => {
  const g = spawn((a: number, b: string) => `${b}${a}`, 1, "n");
  assertEquals(g.args, [1, "n"]);
  assertEquals(await g.get(), "n1");
});

Deno.test("Greenlet survives a body that exhausts the stack", async () => {
  using failures = new Failures();
  const recur = (): number => 1 + recur();
  const g = spawn(recur);
  const joiner = spawn(async () => {
    await joinAll([g]);
  });
  await joinAll([joiner]);
  assert(joiner.successful());
  assertEquals(failures.errors.length, 1);
  assertStrictEquals(failures.contexts[0], g);
  await assertRejects(() => g.get(), RangeError);
  assertFalse(g.successful());
  assert(g.dead);
});

Deno.test("Greenlet is not dead at any switch of its life", async () => {
  const seen: boolean[] = [];
  const before = core.setTrace((_event, _origin, target) => {
    if (target instanceof Greenlet) seen.push(target.dead);
  });
  try {
    await spawn(function* () {
      yield* sleep(0);
      return 42;
    }).join();
  } finally {
    core.setTrace(before);
  }
  assertEquals(seen, [false, false]);
});

Deno.test("Greenlet has the hub as its parent", async () => {
  const g = spawn(sleep, FOREVER);
  assertStrictEquals(g.parent, getHub());
  await g.kill();
});

// --- Subclasses

class Doubler extends Greenlet<number> {
  readonly factor: number;

  constructor(factor: number, ...args: unknown[]) {
    super(undefined, ...args);
    this.factor = factor;
  }
}

class AsyncDoubler extends Doubler {
  override async run(n: number) {
    await sleep(1);
    return this.factor * n;
  }
}

class GeneratorDoubler extends Doubler {
  override *run(n: number) {
    yield* sleep(1);
    return this.factor * n;
  }
}

class PlainDoubler extends Doubler {
  override run(n: number) {
    return this.factor * n;
  }
}

const CLASSES: (typeof Doubler)[] = [
  AsyncDoubler,
  GeneratorDoubler,
  PlainDoubler,
];

for (const Class of CLASSES) {
  Deno.test(`Greenlet may be subclassed with a run method, ${Class.name}`, async () => {
    const g = new Class(2, 21);
    g.start();
    assertEquals(await g.get(), 42);

    const spawned = Class.spawn(3, 5);
    assertInstanceOf(spawned, Class);
    assertEquals(await spawned.get(), 15);

    const later = Class.spawnLater(1, 4, 5);
    assertInstanceOf(later, Class);
    assertEquals(await later.get(), 20);
  });
}

Deno.test("Greenlet.spawn() and Greenlet.spawnLater() start a function", async () => {
  const g = Greenlet.spawn((n: number) => n + 1, 1);
  const later = Greenlet.spawnLater(1, (n: number) => n + 1, 2);
  assertEquals([await g.get(), await later.get()], [2, 3]);
});

// --- Start

testBoth("spawn() never runs the body before it returns", {
  async: async (log: string[]) => {
    log.push("body");
    await sleep(0);
  },
  generator: function* (log: string[]) {
    log.push("body");
    yield* sleep(0);
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  log.push("spawned");
  await g.join();
  assertEquals(log, ["spawned", "body"]);
});

testBoth("spawn() starts the bodies in the order of the calls", {
  async: async (log: number[], n: number) => {
    log.push(n);
    await sleep(0);
  },
  generator: function* (log: number[], n: number) {
    log.push(n);
    yield* sleep(0);
  },
}, async (body) => {
  const log: number[] = [];
  const numbers = Array.from({ length: 1000 }, (_, n) => n);
  await joinAll(numbers.map((n) => spawn(body, log, n)));
  assertEquals(log, numbers);
});

testBoth("spawn() in a body that ends at once is not undone", {
  async: async (log: string[]) => {
    await undefined;
    spawn(() => log.push("child"));
  },
  // deno-lint-ignore require-yield
  generator: function* (log: string[]) {
    spawn(() => log.push("child"));
  },
}, async (body) => {
  const log: string[] = [];
  await spawn(body, log).join();
  await settle();
  assertEquals(log, ["child"]);
});

testBoth("spawnLater() starts the body after the time", {
  async: async (start: number) => {
    await undefined;
    return performance.now() - start;
  },
  // deno-lint-ignore require-yield
  generator: function* (start: number) {
    return performance.now() - start;
  },
}, async (body) => {
  const log: string[] = [];
  const sooner = spawnLater(5, () => log.push("sooner"));
  const g = spawnLater(10, body, performance.now());
  g.rawlink(() => log.push("later"));
  assertEquals(stateOf(g), SCHEDULED);
  assertGreaterOrEqual(await g.get(), 10);
  await sooner.join();
  assertEquals(log, ["sooner", "later"]);
});

Deno.test("spawnLater() starts its greenlet while its spawner sleeps", async () => {
  const log: string[] = [];
  const g = spawn(async () => {
    spawnLater(1, () => log.push("timer"));
    await sleep(10);
    log.push("slept");
  });
  assertEquals(log, []);
  await g.join();
  assertEquals(log, ["timer", "slept"]);
});

Deno.test("spawnLater() without end can be killed", async () => {
  const g = spawnLater(Infinity, () => "never");
  await g.kill();
  assertInstanceOf(g.value, GreenletExit);
});

Deno.test("Greenlet.start() starts it once", async () => {
  let count = 0;
  const g = spawn(() => ++count);
  g.start();
  g.startLater(1);
  await g.join();
  g.start();
  assert(g.dead);
  await sleep(5);
  assertEquals(count, 1);
  assertEquals(g.value, 1);
});

Deno.test("Greenlet.startLater() starts it after the time, and once", async () => {
  const start = performance.now();
  let count = 0;
  const g = new Greenlet(() => ++count);
  g.startLater(10);
  g.start();
  await g.join();
  assertGreaterOrEqual(performance.now() - start, 10);
  assertEquals(count, 1);
});

Deno.test("Greenlet.start() without a body throws a TypeError", async () => {
  const g = new Greenlet();
  assertThrows(() => g.start(), TypeError, "no 'run'");
  assertThrows(() => g.startLater(1), TypeError, "no 'run'");
  assertEquals(stateOf(g), PENDING);
  assert(await getHub().join());
});

testBoth("Greenlet.switch() starts the body at once, in its own context", {
  async: async (log: unknown[]) => {
    log.push(getCurrent());
    await until(Promise.resolve());
    log.push(getCurrent());
    await sleep(1);
    log.push(getCurrent());
    return "result";
  },
  generator: function* (log: unknown[]) {
    log.push(getCurrent());
    yield* until(Promise.resolve());
    log.push(getCurrent());
    yield* sleep(1);
    log.push(getCurrent());
    return "result";
  },
}, async (body) => {
  const log: unknown[] = [];
  for (
    const make of [() => new Greenlet<string>(body), () => spawn(body, log)]
  ) {
    const g = make();
    log.length = 0;
    g.switch(log);
    assertEquals(log, [g]);
    assertEquals(stateOf(g), RUNNING);
    assertEquals(await g.get(), "result");
    assertEquals(log, [g, g, g]);
  }
});

Deno.test("Greenlet.switch() to an async body that fails later reports the error to the hub once", async () => {
  using failures = new Failures();
  const error = new Error("expected");
  const g = new Greenlet(async () => {
    await sleep(1);
    throw error;
  });
  g.switch();
  await g.join();
  assertStrictEquals(g.exception, error);
  assertEquals(failures.errors, [error]);
});

Deno.test("Greenlet.switch() from a generator body starts an async body, and the hub goes on", async () => {
  const child = new Greenlet<unknown>(async () => {
    await sleep(1);
    return getCurrent();
  });
  const g = spawn(function* () {
    return yield* child.switch();
  });
  assertStrictEquals(await child.get(), child);
  // A greenlet that has switched away is resumed by a switch alone
  assertFalse(g.dead);
  g.switch("back");
  assertEquals(await g.get(), "back");
});

Deno.test("Greenlet.switch() to an async body that waits throws a GreenletError", async () => {
  const g = spawn(sleep, FOREVER);
  await sleep(0);
  assertThrows(() => g.switch(), GreenletError, "async function");
  await g.kill();
});

Deno.test("Greenlet.switch() to a generator body that waits throws a GreenletError there", async () => {
  const g = spawn(function* () {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      return error;
    }
  });
  await sleep(0);
  const switcher = spawn(() => void g.switch());
  const error = await g.get();
  assertInstanceOf(error, GreenletError);
  assertStringIncludes(error.message, "as it waits");
  await switcher.join();
  assert(switcher.dead);
});

testBoth("Greenlet.throw() throws in what the body waits on", {
  async: async () => {
    try {
      await sleep(FOREVER);
    } catch (error) {
      return error;
    }
  },
  generator: function* () {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      return error;
    }
  },
}, async (body) => {
  const error = new Error("thrown");
  const g = spawn(body);
  await sleep(0);
  g.throw(error);
  assertFalse(g.dead);
  assertStrictEquals(await g.get(), error);
});

Deno.test("Greenlet.throw() keeps a greenlet that has not started from starting", async () => {
  const log: string[] = [];
  const bodies = [() => log.push("one"), () => log.push("two")];
  const greenlets: Greenlet[] = bodies.map((body) => spawn(body));
  greenlets.push(new Greenlet(() => log.push("three")));
  for (const g of greenlets) g.throw();
  await joinAll(greenlets);
  await sleep(1);
  assertEquals(log, []);
  for (const g of greenlets) {
    assertInstanceOf(g.value, GreenletExit);
    assertStrictEquals(g.exception, undefined);
  }
});

Deno.test("Greenlet.throw() to a dead greenlet does nothing", async () => {
  const g = spawn(() => 1);
  await g.join();
  g.throw(new Error("too late"));
  await sleep(0);
  assertEquals(g.value, 1);
});

Deno.test("Greenlet.throw() into the current greenlet throws there and then, in a generator body and in a plain one", async () => {
  using failures = new Failures();
  const error = new Error("expected");
  const greenlets: Greenlet[] = [
    spawn(() => void getCurrent().throw(error)),
    spawn(function* () {
      yield* sleep(0);
      getCurrent().throw(error);
      return "not here";
    }),
    spawn(function* () {
      yield* getCurrent().throw(error);
      return "not here";
    }),
  ];
  for (const g of greenlets) {
    await g.join();
    assertStrictEquals(g.exception, error);
  }
  assertEquals(failures.errors, [error, error, error]);
});

Deno.test("Greenlet.throw() into the current greenlet throws at the next wait, in an async body", async () => {
  using _failures = new Failures();
  const log: string[] = [];
  const error = new Error("expected");
  const g = spawn(async () => {
    await null;
    getCurrent().throw(error);
    log.push("goes on");
    await sleep(0);
    log.push("not here");
  });
  await g.join();
  assertStrictEquals(g.exception, error);
  assertEquals(log, ["goes on"]);
});

Deno.test("Greenlet.throw() in a callback of the same greenlet throws in what the body waits on", async () => {
  const error = new Error("expected");
  const g = spawn(async () => {
    const me = getCurrent();
    setTimeout(() => me.throw(error), 1);
    try {
      await sleep(FOREVER);
    } catch (thrown) {
      return thrown;
    }
  });
  assertStrictEquals(await g.get(), error);
});

// --- join and get

testBoth("Greenlet.join() waits until the body has ended", {
  async: async (g: Greenlet) => {
    await g.join();
    return g.dead;
  },
  generator: function* (g: Greenlet) {
    yield* g.join();
    return g.dead;
  },
}, async (body) => {
  const g = spawn(sleep, 5);
  const joiners = [spawn(body, g), spawn(body, g)];
  await joinAll(joiners);
  assertEquals(joiners.map((joiner) => joiner.value), [true, true]);
});

testBoth(
  "Greenlet.join() returns nothing at the timeout, and the greenlet lives on",
  {
    async: async (g: Greenlet) => {
      const start = performance.now();
      const result: unknown = await g.join({ timeout: 10 });
      return [result, performance.now() - start] as const;
    },
    generator: function* (g: Greenlet) {
      const start = performance.now();
      const result: unknown = yield* g.join({ timeout: 10 });
      return [result, performance.now() - start] as const;
    },
  },
  async (body) => {
    const g = spawn(sleep, FOREVER);
    const [result, elapsed] = await spawn(body, g).get();
    assertStrictEquals(result, undefined);
    assertGreaterOrEqual(elapsed, 10);
    assertLess(elapsed, AT_ONCE);
    assertFalse(g.dead);
    await g.kill();
  },
);

testBoth("Greenlet.join() does not lose a timeout from outside", {
  async: async (g: Greenlet) => {
    using timeout = Timeout.start(1);
    try {
      await g.join({ timeout: FOREVER });
    } catch (error) {
      return error === timeout;
    }
  },
  generator: function* (g: Greenlet) {
    using timeout = Timeout.start(1);
    try {
      yield* g.join({ timeout: FOREVER });
    } catch (error) {
      return error === timeout;
    }
  },
}, async (body) => {
  const g = spawn(sleep, FOREVER);
  assert(await spawn(body, g).get());
  await g.kill();
});

testBoth("Greenlet.join() does not throw the error of the greenlet", {
  async: async (g: Greenlet) => {
    await g.join();
    return "joined";
  },
  generator: function* (g: Greenlet) {
    yield* g.join();
    return "joined";
  },
}, async (body) => {
  using _failures = new Failures();
  const g = spawn(() => {
    throw new Error("expected");
  });
  assertEquals(await spawn(body, g).get(), "joined");
  assertEquals(await spawn(body, g).get(), "joined");
});

Deno.test("Greenlet.join() of a dead greenlet returns at once, with a timeout of 0 as well", async () => {
  const g = spawn(() => 1);
  await g.join({ timeout: 0 });
  await g.join();
  await g.join({ timeout: 0 });
  await g.join();
  assert(g.dead);
});

Deno.test("Greenlet.join() wakes the joiners in the order of their calls", async () => {
  const log: number[] = [];
  const g = spawn(sleep, 1);
  const numbers = Array.from({ length: 100 }, (_, n) => n);
  await joinAll(numbers.map((n) =>
    n % 2 === 0
      ? spawn(async () => {
        await g.join();
        log.push(n);
      })
      : spawn(function* () {
        yield* g.join();
        log.push(n);
      })
  ));
  assertEquals(log, numbers);
});

testBoth("Greenlet.get() gives the result", {
  async: async (g: Greenlet<number>) => [await g.get(), await g.get()],
  generator: function* (g: Greenlet<number>) {
    return [yield* g.get(), yield* g.get()];
  },
}, async (body) => {
  const g = spawnLater(1, () => 25);
  assertEquals(await spawn(body, g).get(), [25, 25]);
});

testBoth("Greenlet.get() throws the very error of the greenlet, each time", {
  async: async (g: Greenlet) => {
    const caught: unknown[] = [];
    for (let i = 0; i < 3; i++) {
      try {
        await g.get();
      } catch (error) {
        caught.push(error);
      }
    }
    return caught;
  },
  generator: function* (g: Greenlet) {
    const caught: unknown[] = [];
    for (let i = 0; i < 3; i++) {
      try {
        yield* g.get();
      } catch (error) {
        caught.push(error);
      }
    }
    return caught;
  },
}, async (body) => {
  using _failures = new Failures();
  const error = new Error("expected");
  const g = spawnLater(1, () => {
    throw error;
  });
  const caught = await spawn(body, g).get();
  assertEquals(caught.length, 3);
  for (const one of caught) assertStrictEquals(one, error);
});

testBoth("Greenlet.get() throws a Timeout at the timeout", {
  async: async (g: Greenlet) => {
    const start = performance.now();
    try {
      await g.get({ timeout: 10 });
    } catch (error) {
      return [error, performance.now() - start] as const;
    }
  },
  generator: function* (g: Greenlet) {
    const start = performance.now();
    try {
      yield* g.get({ timeout: 10 });
    } catch (error) {
      return [error, performance.now() - start] as const;
    }
  },
}, async (body) => {
  const g = spawn(sleep, FOREVER);
  const [error, elapsed] = (await spawn(body, g).get())!;
  assertInstanceOf(error, Timeout);
  assertEquals(error.ms, 10);
  assertGreaterOrEqual(elapsed, 10);
  assertLess(elapsed, AT_ONCE);
  assertFalse(g.dead);
  await g.kill();
});

testBoth("Greenlet.get() does not lose a timeout from outside", {
  async: async (g: Greenlet) => {
    const error = new Error("own");
    using _timeout = Timeout.start(1, { error });
    try {
      await g.get({ timeout: FOREVER });
    } catch (thrown) {
      return thrown === error;
    }
  },
  generator: function* (g: Greenlet) {
    const error = new Error("own");
    using _timeout = Timeout.start(1, { error });
    try {
      yield* g.get({ timeout: FOREVER });
    } catch (thrown) {
      return thrown === error;
    }
  },
}, async (body) => {
  const g = spawn(sleep, FOREVER);
  assert(await spawn(body, g).get());
  await g.kill();
});

Deno.test("Greenlet.get() without block throws a Timeout unless it is ready", async () => {
  const g = spawn(() => 1);
  await assertRejects(() => g.get({ block: false }), Timeout);
  await g.join();
  assertEquals(await g.get({ block: false }), 1);
});

Deno.test("Greenlet.get() gives the GreenletExit of a killed greenlet", async () => {
  const exit = new GreenletExit();
  const g = spawn(sleep, FOREVER);
  const getting = g.get();
  await g.kill(exit);
  assertStrictEquals(await getting, exit);
  assertStrictEquals(await g.get(), exit);
});

Deno.test("Greenlet.get() of a greenlet that ended by its own Timeout interrupts no limit of the caller", async () => {
  using failures = new Failures();
  const g = spawn(async () => {
    using _timeout = Timeout.start(1);
    await sleep(FOREVER);
  });
  const caller = spawn(async () => {
    using mine = Timeout.start(FOREVER);
    try {
      await g.get();
    } catch (error) {
      return error instanceof Timeout && error !== mine;
    }
  });
  assert(await caller.get());
  assertEquals(failures.errors, []);
});

// --- Links

testBoth(
  "Greenlet.link() calls each link with the greenlet, whenever it is linked",
  {
    async: async () => {
      await sleep(1);
      return 25;
    },
    generator: function* () {
      yield* sleep(1);
      return 25;
    },
  },
  async (body) => {
    const g = spawn(body);
    for (let i = 0; i < 3; i++) {
      const log: unknown[] = [];
      g.link((source) => log.push(source));
      g.linkValue((source) => log.push(source.value));
      g.linkException(() => log.push("not called"));
      for (let n = 0; n < 10; n++) g.link(() => log.push(n));
      await g.join();
      await settle();
      assertStrictEquals(log[0], g);
      assertEquals(log.slice(1), [25, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
  },
);

testBoth(
  "Greenlet.linkException() calls the link if it fails, Greenlet.linkValue() does not",
  {
    async: async (error: Error): Promise<void> => {
      await sleep(1);
      throw error;
    },
    generator: function* (error: Error): Generator<unknown, void> {
      yield* sleep(1);
      throw error;
    },
  },
  async (body) => {
    using failures = new Failures();
    const error = new Error("expected");
    const g = spawn(body, error);
    for (let i = 0; i < 3; i++) {
      const log: unknown[] = [];
      g.link((source) => log.push(source));
      g.linkException((source) => log.push(source.exception));
      g.linkValue(() => log.push("not called"));
      await g.join();
      await settle();
      assertEquals(log.length, 2);
      assertStrictEquals(log[0], g);
      assertStrictEquals(log[1], error);
    }
    assertEquals(failures.errors, []);
  },
);

testBoth("Greenlet.link() and Greenlet.linkValue() take a kill for a success", {
  async: async () => {
    await sleep(FOREVER);
  },
  generator: function* () {
    yield* sleep(FOREVER);
  },
}, async (body) => {
  const g = spawn(body);
  for (let i = 0; i < 3; i++) {
    const log: unknown[] = [];
    g.link((source) => log.push(source.value));
    g.linkValue((source) => log.push(source.value));
    g.linkException(() => log.push("not called"));
    await g.kill();
    await sleep(1);
    assertEquals(log.length, 2);
    assertInstanceOf(log[0], GreenletExit);
    assertStrictEquals(log[1], log[0]);
  }
});

for (const count of [1, 2, 3, 1000]) {
  Deno.test(`Greenlet.link() keeps the order, ${count} links`, async () => {
    const log: number[] = [];
    const g = spawn(() => void log.push(0));
    for (let n = 1; n <= count; n++) g.link(() => log.push(n));
    await g.join();
    assertEquals(log, Array.from({ length: count + 1 }, (_, n) => n));
  });
}

Deno.test("Greenlet.link() calls the link in a greenlet of its own, which may wait", async () => {
  const g = spawn(() => 1);
  const { promise, resolve } = Promise.withResolvers<unknown>();
  g.link(async () => {
    await settle();
    resolve(getCurrent());
  });
  const linked = await promise;
  assertInstanceOf(linked, Greenlet);
  assertNotStrictEquals(linked, g);
  await linked.join();
});

Deno.test("Greenlet.rawlink() calls the link in the hub", async () => {
  const log: unknown[] = [];
  const g = spawn(async () => {
    await sleep(1);
  });
  g.rawlink(() => log.push(getCurrent()));
  await g.join();
  await sleep(0);
  assertEquals(log.length, 1);
  assertStrictEquals(log[0], getHub());
  // Also when linked from within a greenlet, after the end
  await spawn(() => g.rawlink(() => log.push(getCurrent()))).join();
  await settle();
  assertEquals(log.length, 2);
  assertStrictEquals(log[1], getHub());
});

Deno.test("Greenlet.link() and the others take an object that is linkable", async () => {
  const log: string[] = [];
  const g = spawn(() => 1);
  const linkable = (name: string): Link<Greenlet<number>> => ({
    linked: (source) => log.push(`${name} ${source.value}`),
  });
  const dropped = linkable("dropped");
  g.link(linkable("link"));
  g.linkValue(linkable("value"));
  g.linkException(linkable("exception"));
  g.rawlink(linkable("raw"));
  g.rawlink(dropped);
  g.unlink(dropped);
  await g.join();
  await settle();
  assertEquals(log, ["link 1", "value 1", "raw 1"]);
});

Deno.test("Greenlet.link() inside a link is called as well", async () => {
  const log: string[] = [];
  const g = spawn(() => 1);
  g.rawlink(() => {
    log.push("first");
    g.rawlink(() => log.push("second"));
  });
  await g.join();
  await settle();
  assertEquals(log, ["first", "second"]);
});

for (
  const method of ["link", "linkValue", "linkException", "rawlink"] as const
) {
  Deno.test(`Greenlet.unlink() takes back what was linked by ${method}()`, async () => {
    using _failures = new Failures();
    const log: string[] = [];
    const fails = method === "linkException";
    const g: Greenlet = spawn(() => {
      if (fails) throw new Error("expected");
    });
    const link = () => log.push("unlinked");
    const twice = () => log.push("twice");
    g[method](link);
    g[method](twice);
    g[method](twice);
    g.unlink(link);
    g.unlink(twice);
    g.unlink(() => {});
    await g.join();
    await settle();
    assertEquals(log, ["twice"]);
    // After the end, too
    g[method](link);
    g.unlink(link);
    await settle();
    assertEquals(log, ["twice"]);
  });
}

Deno.test("Greenlet.unlinkAll() takes all links back", async () => {
  const log: string[] = [];
  const g = spawn(() => 1);
  g.unlinkAll();
  g.link(() => log.push("link"));
  g.rawlink(() => log.push("rawlink"));
  g.unlinkAll();
  g.rawlink(() => log.push("later"));
  await settle();
  assertEquals(log, ["later"]);
});

for (const method of ["link", "rawlink"] as const) {
  for (const fails of [false, true]) {
    Deno.test(`Greenlet.${method}() tells the hub of a link that throws, and the other links are called, after ${fails ? "an error" : "a result"}`, async () => {
      using failures = new Failures();
      const log: number[] = [];
      const error = new Error("body");
      const g = spawn(() => {
        if (fails) throw error;
      });
      const errors = [new Error("one"), new Error("two"), new Error("three")];
      g[method](() => {
        log.push(10);
        throw errors[0];
      });
      g[method](() => {
        log.push(20);
        throw errors[1];
      });
      g[method](() => {
        throw errors[2];
      });
      await settle();
      assertEquals(log, [10, 20]);
      assertEquals(failures.errors, fails ? [error, ...errors] : errors);
    });
  }
}

for (const method of ["link", "rawlink"] as const) {
  Deno.test(`Greenlet.${method}() is not called after unlink(), even when others are being called`, async () => {
    using failures = new Failures();
    const log: number[] = [];
    const g = spawn(() => 5);
    const one = () => {
      g.unlink(two);
      log.push(1);
      throw new Error("one");
    };
    const two = () => {
      g.unlink(one);
      log.push(2);
    };
    g[method](one);
    g[method](two);
    g[method](() => {
      throw new Error("three");
    });
    await settle();
    assertEquals(log, [1]);
    assertEquals(failures.errors.map(String), ["Error: one", "Error: three"]);
  });
}

Deno.test("Greenlet.link() and the others refuse anything that can't be called", async () => {
  const g = spawn(() => 1);
  for (
    const method of ["link", "linkValue", "linkException", "rawlink"] as const
  ) {
    for (const wrong of [undefined, null, 5, {}]) {
      assertThrows(
        () => g[method](wrong as never),
        TypeError,
        `received ${wrong}`,
      );
    }
  }
  await g.join();
});

// --- What a greenlet knows of itself

Deno.test("Greenlet.spawningGreenlet is the greenlet that made it", async () => {
  const g = spawn(async () => {
    const child = new Greenlet(() => {});
    assertStrictEquals(child.spawningGreenlet, getCurrent());
    await sleep(0);
    const raw = spawnRaw(() => {}) as Greenlet;
    assertStrictEquals(raw.spawningGreenlet, getCurrent());
    await sleep(0);
  });
  assertStrictEquals(g.spawningGreenlet, getHub());
  await g.get();
});

testBoth(
  "Greenlet.spawnTreeLocals are those of the spawner, and of no other greenlet",
  {
    async: async () => {
      await sleep(0);
      const { spawnTreeLocals } = getCurrent() as Greenlet;
      assertStrictEquals(new Greenlet().spawnTreeLocals, spawnTreeLocals);
      const raw = spawnRaw(() => {}) as Greenlet;
      assertStrictEquals(raw.spawnTreeLocals, spawnTreeLocals);
      const grandchild = spawn(() =>
        spawn(() => getCurrent() as Greenlet).get()
      );
      assertStrictEquals(
        (await grandchild.get()).spawnTreeLocals,
        spawnTreeLocals,
      );
    },
    generator: function* () {
      yield* sleep(0);
      const { spawnTreeLocals } = getCurrent() as Greenlet;
      assertStrictEquals(new Greenlet().spawnTreeLocals, spawnTreeLocals);
      const raw = spawnRaw(() => {}) as Greenlet;
      assertStrictEquals(raw.spawnTreeLocals, spawnTreeLocals);
      const grandchild = spawn(() =>
        spawn(() => getCurrent() as Greenlet).get()
      );
      assertStrictEquals(
        (yield* grandchild.get()).spawnTreeLocals,
        spawnTreeLocals,
      );
    },
  },
  async (body) => {
    const one = spawn(body);
    const two = spawn(body);
    one.spawnTreeLocals.name = "one";
    assertNotStrictEquals(one.spawnTreeLocals, two.spawnTreeLocals);
    assertFalse("spawnTreeLocals" in getHub());
    await one.get();
    await two.get();
    const raw = spawnRaw(body) as Greenlet;
    assertNotStrictEquals(raw.spawnTreeLocals, one.spawnTreeLocals);
    assertEquals(typeof raw.spawnTreeLocals, "object");
    assert(await getHub().join());
  },
);

Deno.test("Greenlet.signal is aborted by kill() with its error, and by nothing else", async () => {
  const log: unknown[] = [];
  const g = spawn(async () => {
    const { signal } = getCurrent() as Greenlet;
    signal.addEventListener("abort", () => log.push(signal.reason));
    await until(
      new Promise((_, reject) => signal.addEventListener("abort", reject)),
    );
  });
  await settle();
  const exit = new GreenletExit();
  await g.kill(exit);
  assertEquals(log.length, 1);
  assertStrictEquals(log[0], exit);
  assertStrictEquals(g.signal.reason, exit);

  const quiet = spawn(() => (getCurrent() as Greenlet).signal);
  const signal = await quiet.get();
  await quiet.kill();
  assertFalse(signal.aborted);
});

testBoth(
  "Greenlet.signal is aborted when it is first read after the kill",
  {
    async: async () => {
      try {
        await sleep(FOREVER);
      } finally {
        const { signal } = getCurrent() as Greenlet;
        // deno-lint-ignore no-unsafe-finally
        return signal;
      }
    },
    generator: function* () {
      try {
        yield* sleep(FOREVER);
      } finally {
        const { signal } = getCurrent() as Greenlet;
        // deno-lint-ignore no-unsafe-finally
        return signal;
      }
    },
  },
  async (body) => {
    for (const grace of [1000, 0]) {
      const g = spawn(body);
      await sleep(0);
      const error = new Error("killed");
      await g.kill(error, { grace });
      // A escalated generator body is ended past its own `return`
      const signal = g.value instanceof AbortSignal ? g.value : g.signal;
      assert(signal.aborted);
      assertStrictEquals(signal.reason, error);
    }
  },
);

Deno.test("Greenlet[Symbol.asyncDispose]() joins at the end of the block", async () => {
  using _failures = new Failures();
  const greenlets: Greenlet[] = [];
  {
    await using g = spawn(sleep, 5);
    await using failing = spawn(() => {
      throw new Error("expected");
    });
    greenlets.push(g, failing);
    assertFalse(g.dead);
  }
  assertEquals(greenlets.map((g) => g.dead), [true, true]);
  await assertRejects(() => greenlets[1]!.get(), Error, "expected");
});

Deno.test("Greenlet[Symbol.asyncDispose]() lets an error of the block through", async () => {
  let g: Greenlet | undefined;
  await assertRejects(
    async () => {
      await using spawned = spawn(sleep, 5);
      g = spawned;
      throw new Error("block");
    },
    Error,
    "block",
  );
  assert(g!.dead);
});

Deno.test("Greenlet[Symbol.asyncDispose]() calls the join() of a subclass", async () => {
  class Strict extends Greenlet {
    override join(): Wait<void> {
      throw new RangeError("join");
    }
  }
  let g: Strict | undefined;
  await assertRejects(
    async () => {
      await using spawned = Strict.spawn(sleep, FOREVER);
      g = spawned;
    },
    RangeError,
    "join",
  );
  assertFalse(g!.dead);
  await g!.kill(undefined, { block: false });
  await settle();
  assert(g!.dead);
});

Deno.test("Greenlet.addSpawnCallback() adds a callback for each start, and Greenlet.removeSpawnCallback() removes it", async () => {
  const log: Greenlet[] = [];
  const callback = (g: Greenlet) => void log.push(g);
  Greenlet.addSpawnCallback(callback);
  Greenlet.addSpawnCallback(callback);
  const expected: Greenlet[] = [];
  try {
    const g = spawn(() => {});
    expected.push(g);
    assertEquals(log, expected);
    expected.push(spawnLater(1, () => {}));
    assertEquals(log, expected);
    const made = new Greenlet(() => {});
    assertEquals(log, expected);
    made.start();
    expected.push(made);
    made.start();
    assertEquals(log, expected);
    await joinAll(expected);
  } finally {
    Greenlet.removeSpawnCallback(callback);
    Greenlet.removeSpawnCallback(callback);
  }
  await spawn(() => {}).join();
  assertEquals(log, expected);
  assertThrows(
    () => Greenlet.addSpawnCallback("callback" as never),
    TypeError,
    'received "callback"',
  );
});

Deno.test("Greenlet.addSpawnCallback() with a callback that throws keeps the greenlet from being started", async () => {
  const callback = () => {
    throw new Error("expected");
  };
  const log: string[] = [];
  const g = new Greenlet(() => log.push("ran"));
  Greenlet.addSpawnCallback(callback);
  try {
    assertThrows(() => g.start(), Error, "expected");
    assertThrows(() => spawn(() => {}), Error, "expected");
  } finally {
    Greenlet.removeSpawnCallback(callback);
  }
  assertEquals(stateOf(g), PENDING);
  // No join waits for a greenlet that never starts
  assert(await getHub().join({ timeout: AT_ONCE }));
  g.start();
  await g.join();
  assertEquals(log, ["ran"]);
});

Deno.test("Greenlet.addSpawnCallback() with a callback that kills the greenlet keeps it from starting", async () => {
  const log: string[] = [];
  const callback = (g: Greenlet) => void g.kill();
  Greenlet.addSpawnCallback(callback);
  const g = new Greenlet(() => log.push("ran"));
  try {
    g.start();
  } finally {
    Greenlet.removeSpawnCallback(callback);
  }
  await g.join();
  await settle();
  assertEquals(log, []);
  assertInstanceOf(g.value, GreenletExit);
});

Deno.test("Greenlet.toString() gives the class, the name and the function", async () => {
  function task() {}
  const g = spawn(task);
  assertMatch(String(g), /^<Greenlet "Greenlet-\d+": task>$/);
  assertEquals(String(g), `<Greenlet "${g.name}": task>`);
  g.name = "Foo";
  assertEquals(String(g), '<Greenlet "Foo": task>');
  assertEquals(Deno.inspect(g), '<Greenlet "Foo": task> has not begun');
  await g.join();
  assertEquals(String(g), '<Greenlet "Foo": task>');
  assertMatch(String(new AsyncDoubler(1)), /^<AsyncDoubler "Greenlet-\d+">$/);
  assertMatch(String(new Greenlet()), /^<Greenlet "Greenlet-\d+">$/);
  assertMatch(String(new Greenlet(() => {})), /^<Greenlet "Greenlet-\d+">$/);
});

Deno.test("Greenlet.name is different for each unless it is set", () => {
  const [one, two] = [new Greenlet(), new Greenlet()];
  assertNotStrictEquals(one.name, two.name);
  one.name = "mine";
  assertEquals(one.name, "mine");
});

// --- Context

const storage = new AsyncLocalStorage<string>();

/** Every way in which a body can ask for the current greenlet. */
function whoAmI() {
  return { greenlet: getCurrent(), request: storage.getStore() };
}

type Identity = ReturnType<typeof whoAmI>;

async function nested(log: Identity[], depth: number): Promise<void> {
  log.push(whoAmI());
  await null;
  log.push(whoAmI());
  if (depth > 0) await nested(log, depth - 1);
  await sleep(0);
  log.push(whoAmI());
}

async function foreign(log: Identity[]): Promise<void> {
  for (let i = 0; i < 3; i++) {
    await Promise.resolve();
    log.push(whoAmI());
    await new Promise((resolve) => setTimeout(resolve, 1));
    log.push(whoAmI());
    await crypto.subtle.digest("SHA-1", new Uint8Array(1));
    log.push(whoAmI());
    await (await fetch("data:,x")).text();
    log.push(whoAmI());
    await Promise.all([null, Promise.resolve(), sleep(1)]);
    log.push(whoAmI());
  }
  async function* numbers() {
    yield 1;
    await null;
    yield 2;
  }
  for await (const _ of numbers()) log.push(whoAmI());
}

async function callbacks(log: Identity[]): Promise<void> {
  const note = (resolve: () => void) => () => {
    log.push(whoAmI());
    resolve();
  };
  await new Promise<void>((resolve) => setTimeout(note(resolve), 1));
  await new Promise<void>((resolve) => queueMicrotask(note(resolve)));
  await new Promise<void>((resolve) => {
    const interval = setInterval(() => {
      clearInterval(interval);
      note(resolve)();
    }, 1);
  });
  await Promise.resolve().then(note(() => {}));
}

testBoth("getCurrent() and an AsyncLocalStorage are right all through a body", {
  async: async (log: Identity[]) => {
    log.push(whoAmI());
    await sleep(0);
    log.push(whoAmI());
    await sleep(1);
    log.push(whoAmI());
    await nested(log, 3);
    await foreign(log);
    await callbacks(log);
    log.push(whoAmI());
    try {
      await withTimeout(1, () => sleep(FOREVER));
    } catch {
      log.push(whoAmI());
    }
  },
  generator: function* (log: Identity[]) {
    log.push(whoAmI());
    yield* sleep(0);
    log.push(whoAmI());
    yield* sleep(1);
    log.push(whoAmI());
    yield* until(nested(log, 3));
    yield* until(foreign(log));
    yield* until(callbacks(log));
    log.push(whoAmI());
    try {
      yield* withTimeout(1, () => sleep(FOREVER));
    } catch {
      log.push(whoAmI());
    }
  },
}, async (body) => {
  clock.useRealTime();
  const logs = ["one", "two", "three"].map((request) =>
    storage.run(request, () => {
      const log: Identity[] = [];
      return { request, log, greenlet: spawn(body, log) };
    })
  );
  await joinAll(logs.map(({ greenlet }) => greenlet), { raiseError: true });
  for (const { request, log, greenlet } of logs) {
    assertEquals(log.length, 38);
    for (const who of log) {
      assertStrictEquals(who.greenlet, greenlet);
      assertEquals(who.request, request);
    }
  }
  assertStrictEquals(getCurrent(), getHub());
  assertStrictEquals(storage.getStore(), undefined);
});

testBoth(
  "spawn() lets the child inherit the AsyncLocalStorage of the spawner",
  {
    async: async (log: (string | undefined)[]) => {
      await sleep(0);
      const spawned = storage.run("inner", () => [
        spawn(async () => {
          await sleep(1);
          log.push(storage.getStore());
        }),
        spawn(function* () {
          yield* sleep(1);
          log.push(storage.getStore());
        }),
        spawnLater(1, () => log.push(storage.getStore())),
      ]);
      spawnRaw(() => log.push(storage.getStore()));
      await joinAll(spawned);
      log.push(storage.getStore());
    },
    generator: function* (log: (string | undefined)[]) {
      yield* sleep(0);
      const spawned = storage.run("inner", () => [
        spawn(async () => {
          await sleep(1);
          log.push(storage.getStore());
        }),
        spawn(function* () {
          yield* sleep(1);
          log.push(storage.getStore());
        }),
        spawnLater(1, () => log.push(storage.getStore())),
      ]);
      spawnRaw(() => log.push(storage.getStore()));
      yield* joinAll(spawned);
      log.push(storage.getStore());
    },
  },
  async (body) => {
    const log: (string | undefined)[] = [];
    const g = storage.run("outer", () => spawn(body, log));
    await g.get();
    assertEquals(log, ["outer", "inner", "inner", "inner", "outer"]);
  },
);

Deno.test("getCurrent() is the child's in a child, and the spawner's again after it", async () => {
  const g = spawn(function* () {
    const me = getCurrent();
    const child = spawn(async () => {
      await sleep(1);
      return getCurrent();
    });
    assertStrictEquals(yield* child.get(), child);
    assertStrictEquals(getCurrent(), me);
    return me;
  });
  assertStrictEquals(await g.get(), g);
});

// --- kill

testBoth(
  "Greenlet.kill() runs the finally blocks of a sleeping body, and waits for them",
  {
    async: async (log: string[]) => {
      try {
        log.push("start");
        await sleep(FOREVER);
        log.push("not here");
      } finally {
        log.push("finally");
        await sleep(5);
        log.push("cleaned up");
      }
    },
    generator: function* (log: string[]) {
      try {
        log.push("start");
        yield* sleep(FOREVER);
        log.push("not here");
      } finally {
        log.push("finally");
        yield* sleep(5);
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(0);
    assertEquals(log, ["start"]);
    const killed = g.kill();
    assertEquals(log, ["start"]);
    await killed;
    assertEquals(log, ["start", "finally", "cleaned up"]);
    assert(g.successful());
    assertInstanceOf(g.value, GreenletExit);
  },
);

testBoth(
  "Greenlet.kill() is done with a body that swallows the exit and ends",
  {
    async: async (log: string[]) => {
      try {
        log.push("start");
        await sleep(FOREVER);
      } catch {
        log.push("catch");
      }
      log.push("end");
      return 1;
    },
    generator: function* (log: string[]) {
      try {
        log.push("start");
        yield* sleep(FOREVER);
      } catch {
        log.push("catch");
      }
      log.push("end");
      return 1;
    },
  },
  async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(0);
    await g.kill();
    assertEquals(log, ["start", "catch", "end"]);
    assertEquals(g.value, 1);
  },
);

testBoth("Greenlet.kill() throws the error of the caller's own", {
  async: async (caught: unknown[]) => {
    try {
      for (;;) await sleep(0);
    } catch (error) {
      caught.push(error);
    }
  },
  generator: function* (caught: unknown[]) {
    try {
      for (;;) yield* sleep(0);
    } catch (error) {
      caught.push(error);
    }
  },
}, async (body) => {
  const caught: unknown[] = [];
  const error = new Error("mine");
  const g = spawn(body, caught);
  await sleep(0);
  await kill(g, error);
  assertEquals(caught.length, 1);
  assertStrictEquals(caught[0], error);
  assertStrictEquals(g.exception, undefined);
  assert(g.successful());
});

testBoth(
  "Greenlet.kill() waits no longer than its timeout, and throws nothing",
  {
    async: async (stop: Promise<void>) => {
      try {
        await sleep(FOREVER);
      } finally {
        await until(stop);
      }
    },
    generator: function* (stop: Promise<void>) {
      try {
        yield* sleep(FOREVER);
      } finally {
        yield* until(stop);
      }
    },
  },
  async (body) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const g = spawn(body, promise);
    await sleep(0);
    const start = performance.now();
    await g.kill(undefined, { timeout: 5, grace: FOREVER });
    assertGreaterOrEqual(performance.now() - start, 5);
    assertFalse(g.dead);
    resolve();
    await g.join();
    assert(g.successful());
  },
);

testBoth("Greenlet.kill() with a grace ends a body that swallows everything", {
  async: async (log: string[]) => {
    for (;;) {
      try {
        log.push("session");
        await sleep(FOREVER);
      } catch {
        await sleep(1);
      }
    }
  },
  generator: function* (log: string[]): Generator<unknown, void> {
    for (;;) {
      try {
        log.push("session");
        yield* sleep(FOREVER);
      } catch {
        yield* sleep(1);
      }
    }
  },
}, async (body) => {
  using failures = new Failures();
  const g = spawn(body as (log: string[]) => Promise<void>, []);
  await sleep(0);
  const start = performance.now();
  await g.kill(undefined, { grace: 10 });
  assertGreaterOrEqual(performance.now() - start, 10);
  assert(g.dead);
  // An async body can only be left where it is; a generator body is ended
  for (const error of failures.errors) assertInstanceOf(error, GreenletError);
  assertEquals(failures.errors.length, g.successful() ? 0 : 1);
});

testBoth("Greenlet.kill() with an infinite grace throws once", {
  async: async (caught: unknown[]) => {
    try {
      await sleep(FOREVER);
    } catch (error) {
      caught.push(error);
    }
    for (let i = 0; i < 20; i++) await sleep(1);
    return "alive";
  },
  generator: function* (caught: unknown[]) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      caught.push(error);
    }
    for (let i = 0; i < 20; i++) yield* sleep(1);
    return "alive";
  },
}, async (body) => {
  const caught: unknown[] = [];
  const g = spawn(body, caught);
  await sleep(0);
  await g.kill(undefined, { grace: Infinity });
  assertEquals(g.value, "alive");
  assertEquals(caught.length, 1);
});

/** In which state a greenlet is killed. */
const STATES: Record<string, (g: Greenlet) => unknown> = {
  "not started": () => {},
  "just started": (g) => g.start(),
  "to start later": (g) => g.startLater(FOREVER),
  "running": (g) => {
    g.start();
    return settle();
  },
};

for (const [state, prepare] of Object.entries(STATES)) {
  for (const how of ["Greenlet.kill()", "kill()", "killAll()"]) {
    testBoth(`${how} ends a greenlet for good that is ${state}`, {
      async: async (log: string[]) => {
        await sleep(FOREVER);
        log.push("not here");
      },
      generator: function* (log: string[]) {
        yield* sleep(FOREVER);
        log.push("not here");
      },
    }, async (body) => {
      using _failures = new Failures();
      for (const block of [true, false]) {
        for (const error of [new GreenletExit(), new Error("mine"), 42]) {
          const log: string[] = [];
          const linked: Greenlet[] = [];
          const g: Greenlet = new Greenlet(body, log);
          g.link((source) => linked.push(source));
          await prepare(g);

          const killIt = () =>
            how === "Greenlet.kill()"
              ? g.kill(error, { block })
              : how === "kill()"
              ? kill(g, error, { block })
              : killAll([g], { error, block });
          const expected = error instanceof GreenletExit
            ? { ...DEAD, successful: true, value: error }
            : { ...DEAD, exception: error };
          await killIt();
          if (!block) await settle();
          assertEquals(stateOf(g), expected);
          // A second time must not hurt, nor does a start
          await killIt();
          g.start();
          await settle();
          assertEquals(stateOf(g), expected);
          assertEquals(log, []);
          assertEquals(linked.length, 1);
          assertStrictEquals(linked[0], g);
        }
      }
    });
  }
}

Deno.test("kill() keeps greenlets that were just spawned from starting", async () => {
  const log: string[] = [];
  const one = spawn(() => log.push("one"));
  const two = spawn(() => log.push("two"));
  kill(one);
  two.kill();
  await joinAll([one, two]);
  assertEquals(log, []);
  for (const g of [one, two]) {
    assertInstanceOf(g.value, GreenletExit);
    assertStrictEquals(g.exception, undefined);
  }
});

testBoth("kill() ends a greenlet that spawnRaw() has started", {
  async: async (log: string[]) => {
    try {
      await sleep(FOREVER);
    } finally {
      log.push("finally");
      await sleep(1);
      log.push("cleaned up");
    }
  },
  generator: function* (log: string[]) {
    try {
      yield* sleep(FOREVER);
    } finally {
      log.push("finally");
      yield* sleep(1);
      log.push("cleaned up");
    }
  },
}, async (body) => {
  // Once it waits, and before its start, which then never comes
  for (const late of [true, false]) {
    const log: string[] = [];
    const raw = spawnRaw(body, log);
    if (late) {
      await sleep(0);
      assert(raw.active);
      assertFalse(raw.dead);
    }
    await kill(raw);
    assert(await getHub().join({ timeout: AT_ONCE }));
    assert(raw.dead);
    assertFalse(raw.active);
    assertEquals(log, late ? ["finally", "cleaned up"] : []);
  }
});

testBoth(
  "kill() leaves a greenlet of spawnRaw() that swallows everything suspended",
  {
    async: async () => {
      for (;;) {
        try {
          await sleep(FOREVER);
        } catch {
          continue;
        }
      }
    },
    generator: function* (): Generator<unknown, never> {
      for (;;) {
        try {
          yield* sleep(FOREVER);
        } finally {
          // deno-lint-ignore no-unsafe-finally
          continue;
        }
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const raw = spawnRaw(body);
    await sleep(0);
    await kill(raw, undefined, { grace: 1 });
    assert(await getHub().join({ timeout: AT_ONCE }));
    assert(raw.dead);
    assertEquals(failures.errors.length, 1);
    assertStringIncludes(String(failures.errors[0]), "left suspended for good");
  },
);

Deno.test("kill() ends a core greenlet that waits somewhere", async () => {
  const log: string[] = [];
  const raw = new core.Greenlet(function* () {
    try {
      yield* sleep(FOREVER);
    } finally {
      log.push("finally");
    }
  });
  raw.switch();
  await kill(raw);
  await settle();
  assertEquals(log, ["finally"]);
  assert(raw.dead);

  const switched = new core.Greenlet(function* () {
    try {
      yield* getHub().switch();
    } finally {
      log.push("switched");
    }
  });
  switched.switch();
  await kill(switched);
  await settle();
  assertEquals(log.splice(1), ["switched"]);
  assert(switched.dead);

  const unstarted = new core.Greenlet(() => log.push("not here"));
  await kill(unstarted);
  await settle();
  assert(unstarted.dead);
  assertEquals(log, ["finally"]);
});

Deno.test("kill() from the hub ends a core greenlet: the calls that it begins then are not the killer's", async () => {
  using failures = new Failures();
  const { handleError } = getHub();
  const current: unknown[] = [];
  getHub().handleError = (context, error) => {
    current.push(getCurrent());
    handleError.call(getHub(), context, error);
  };
  const raw = new core.Greenlet(function* () {
    try {
      yield* getHub().switch();
    } finally {
      (async () => {
        await null;
        current.push(getCurrent());
      })();
    }
  });
  raw.switch();
  const wrong = new Error("wrong");
  const killer = spawn(async () => {
    kill(raw, wrong);
    await idle();
  });
  await killer.join();
  await settle();
  assertEquals(failures.errors, [wrong]);
  assertEquals(current, [getHub(), getHub()]);
});

/** Bodies that are suspended by a switch of their own, and by no wait. */
const SWITCHED: Record<string, () => Generator<unknown, void>> = {
  *"has switched to the hub"() {
    yield* getHub().switch();
  },
  *"has switched to the hub and leaves a wait behind"() {
    sleep(FOREVER);
    yield* getHub().switch();
  },
  *"has switched to another greenlet"() {
    const other = new core.Greenlet(function* () {
      yield* getHub().switch();
    });
    yield* other.switch();
  },
};

for (const [name, wait] of Object.entries(SWITCHED)) {
  const kinds: Record<string, (body: () => unknown) => core.Greenlet> = {
    "spawn()": spawn,
    "spawnRaw()": spawnRaw,
  };
  for (const [kind, make] of Object.entries(kinds)) {
    Deno.test(`kill() ends a greenlet of ${kind} that ${name}`, async () => {
      using failures = new Failures();
      const log: string[] = [];
      const g = make(function* () {
        try {
          yield* wait();
        } catch (error) {
          log.push(`caught ${(error as Error).name}`);
          throw error;
        } finally {
          yield* sleep(1);
          log.push("finally");
        }
      });
      await sleep(1);
      await kill(g);
      assert(await getHub().join({ timeout: AT_ONCE }));
      assert(g.dead);
      assertEquals(log, ["caught GreenletExit", "finally"]);
      assertEquals(failures.errors, []);
      if (g instanceof Greenlet) assertInstanceOf(g.value, GreenletExit);
    });

    Deno.test(`kill() insists on a greenlet of ${kind} that ${name}`, async () => {
      using failures = new Failures();
      for (const grace of [0, 5]) {
        const log: string[] = [];
        const g = make(function* () {
          try {
            yield* wait();
          } catch {
            for (;;) {
              try {
                yield* sleep(FOREVER);
              } catch {
                log.push("caught again");
              } finally {
                log.push("finally");
              }
            }
          }
        });
        await sleep(1);
        await kill(g, undefined, { grace });
        assert(await getHub().join({ timeout: AT_ONCE }));
        assert(g.dead);
        assertEquals(log, ["finally"]);
      }
      assertEquals(failures.errors, []);
    });
  }
}

Deno.test("kill() ends a greenlet that has switched to its killer", async () => {
  for (const make of [spawn, spawnRaw]) {
    const log: string[] = [];
    const g: core.Greenlet = make(function* () {
      const killer = new core.Greenlet(() => {
        kill(g, undefined, { block: false });
        log.push("killed");
      }, g);
      yield* killer.switch();
      try {
        yield* getHub().switch();
      } finally {
        log.push("finally");
      }
    });
    assert(await getHub().join({ timeout: AT_ONCE }));
    assert(g.dead);
    assertEquals(log, ["killed", "finally"]);
  }
});

Deno.test("kill() of a greenlet that has switched away is thrown by its next wait when another greenlet switches to it first", async () => {
  const log: unknown[] = [];
  const g = spawn(function* () {
    log.push(yield* getHub().switch());
    yield* sleep(FOREVER);
  });
  await sleep(1);
  const killed = g.kill();
  g.switch("switched");
  await killed;
  assertEquals(log, ["switched"]);
  assertInstanceOf(g.value, GreenletExit);
});

testBoth("kill() keeps a greenlet of spawnRaw() from starting", {
  async: async (log: string[]) => {
    log.push("not here");
    await sleep(1);
  },
  generator: function* (log: string[]) {
    log.push("not here");
    yield* sleep(1);
  },
}, async (body) => {
  using failures = new Failures();
  const log: string[] = [];
  const wrong = new Error("wrong");
  const raw = spawnRaw(body, log);
  kill(raw);
  const failed = spawnRaw(body, log);
  kill(failed, wrong, { grace: 0 });
  kill(failed, wrong);
  assert(await getHub().join({ timeout: AT_ONCE }));
  assert(raw.dead && failed.dead);
  assertEquals(log, []);
  assertEquals(failures.errors, [wrong]);
  assertStrictEquals(failures.contexts[0], failed);
});

Deno.test("kill() and killAll() refuse the hub and anything but a greenlet", () => {
  for (const wrong of [undefined, null, 5, {}]) {
    const message = `received ${wrong}`;
    assertThrows(() => kill(wrong as never), TypeError, message);
    assertThrows(() => killAll([wrong] as never), TypeError, message);
  }
  assertThrows(() => kill(getHub()), TypeError, "not the main one");
  assertThrows(() => killAll(5 as never), TypeError, "received 5");
});

Deno.test("killAll() throws one error in all, and waits for all", async () => {
  using failures = new Failures();
  const log: string[] = [];
  const exit = new GreenletExit();
  const bodies = [
    async () => {
      try {
        await sleep(FOREVER);
      } finally {
        await sleep(50);
        log.push("async");
      }
    },
    function* () {
      try {
        yield* sleep(FOREVER);
      } finally {
        yield* sleep(1);
        log.push("generator");
      }
    },
  ];
  const greenlets: Greenlet[] = [
    ...bodies.map((body) => spawn(body as () => Promise<void>)),
    spawn(() => log.push("done before")),
  ];
  await sleep(0);
  const unstarted = [1, 2].map(() => spawn(() => log.push("not here")));
  const raw = [
    spawnRaw(sleep, FOREVER),
    spawnRaw(function* () {
      yield* getHub().switch();
    }),
    new core.Greenlet(() => log.push("not here")),
  ];
  await killAll([...greenlets, ...unstarted, ...raw], { error: exit });
  assertEquals(log, ["done before", "generator", "async"]);
  assertStrictEquals(greenlets[0]!.value, exit);
  assertStrictEquals(greenlets[1]!.value, exit);
  for (const g of unstarted) assertStrictEquals(g.value, exit);
  assert(await getHub().join({ timeout: AT_ONCE }));
  assert(raw.every((g) => g.dead));
  assertEquals(failures.errors, []);
});

Deno.test("killAll() throws a Timeout at the timeout", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const g = spawn(async () => {
    try {
      await sleep(FOREVER);
    } finally {
      await until(promise);
    }
  });
  await sleep(0);
  const error = await assertRejects(
    () => killAll([g], { timeout: 5 }),
    Timeout,
  );
  assertEquals((error as Timeout).ms, 5);
  assertFalse(g.dead);
  resolve();
  await g.join();
});

Deno.test("killAll() of no greenlets, and of dead ones, returns at once", async () => {
  await killAll([]);
  const g = spawn(() => 1);
  await g.join();
  await killAll([g, g]);
  assertEquals(g.value, 1);
});

// --- spawnRaw

testBoth("spawnRaw() starts a core greenlet soon", {
  async: async (log: unknown[], ...args: unknown[]) => {
    log.push(getCurrent(), args);
    await sleep(1);
    log.push(getCurrent());
  },
  generator: function* (log: unknown[], ...args: unknown[]) {
    log.push(getCurrent(), args);
    yield* sleep(1);
    log.push(getCurrent());
  },
}, async (body) => {
  const log: unknown[] = [];
  const raw = spawnRaw(body, log, 1, { name: "value" });
  assertInstanceOf(raw, core.Greenlet);
  assertFalse(raw instanceof Greenlet);
  assertEquals([log, raw.dead, raw.active], [[], false, false]);
  await sleep(0);
  assertEquals([raw.dead, raw.active], [false, true]);
  assert(await getHub().join({ timeout: AT_ONCE }));
  assertEquals([raw.dead, raw.active], [true, false]);
  assertStrictEquals(log[0], raw);
  assertEquals(log[1], [1, { name: "value" }]);
  assertStrictEquals(log[2], raw);
  assertEquals(log.length, 3);
});

testBoth("spawnRaw() tells the hub of an error, once", {
  async: async (error: Error): Promise<void> => {
    await sleep(1);
    throw error;
  },
  generator: function* (error: Error): Generator<unknown, void> {
    yield* sleep(1);
    throw error;
  },
}, async (body) => {
  using failures = new Failures();
  const error = new Error("expected");
  const raw = spawnRaw(body, error);
  assert(await getHub().join({ timeout: AT_ONCE }));
  assertEquals(failures.errors, [error]);
  assertStrictEquals(failures.contexts[0], raw);
});

// --- sleep and idle

testBoth("sleep() lasts at least its time", {
  async: async () => {
    const start = performance.now();
    await sleep(10);
    return performance.now() - start;
  },
  generator: function* () {
    const start = performance.now();
    yield* sleep(10);
    return performance.now() - start;
  },
}, async (body) => {
  clock.useRealTime();
  const elapsed = await spawn(body).get();
  assertGreaterOrEqual(elapsed, 10);
  assertLess(elapsed, AT_ONCE);
});

testBoth("sleep() ends in the order of the times", {
  async: async (log: number[], ms: number) => {
    await sleep(ms);
    log.push(ms);
  },
  generator: function* (log: number[], ms: number) {
    yield* sleep(ms);
    log.push(ms);
  },
}, async (body) => {
  const log: number[] = [];
  const times = [20, 1, 15, 2, 10, 3, 30, 7];
  await joinAll(times.map((ms) => spawn(body, log, ms)));
  assertEquals(log, [1, 2, 3, 7, 10, 15, 20, 30]);
});

testBoth("sleep(0) lets all other greenlets that are ready go first", {
  async: async (log: string[], name: string) => {
    log.push(`${name}A`);
    await sleep(0);
    log.push(`${name}B`);
    await sleep();
    log.push(`${name}C`);
  },
  generator: function* (log: string[], name: string) {
    log.push(`${name}A`);
    yield* sleep(0);
    log.push(`${name}B`);
    yield* sleep();
    log.push(`${name}C`);
  },
}, async (body) => {
  const log: string[] = [];
  spawn(body, log, "1");
  spawn(body, log, "2");
  await wait();
  assertEquals(log.join(" "), "1A 2A 1B 2B 1C 2C");
});

testBoth("sleep() without end is ended by a kill", {
  async: async () => {
    await sleep(Infinity);
  },
  generator: function* () {
    yield* sleep(Infinity);
  },
}, async (body) => {
  const g = spawn(body);
  await sleep(5);
  assert(g.active);
  await g.kill();
  assert(g.dead);
});

testBoth("sleep(0) in a circle of greenlets lets timers go on", {
  async: async (state: { over: boolean }) => {
    while (!state.over) await sleep(0);
  },
  generator: function* (state: { over: boolean }) {
    while (!state.over) yield* sleep(0);
  },
}, async (body) => {
  clock.useRealTime();
  const state = { over: false };
  let ticks = 0;
  const interval = setInterval(() => {
    if (++ticks < 3) return;
    clearInterval(interval);
    state.over = true;
  }, 1);
  await joinAll([spawn(body, state), spawn(body, state)]);
  assertEquals(ticks, 3);
});

Deno.test("sleep() refuses anything but a number of milliseconds", () => {
  assertThrows(() => sleep("1" as never), TypeError, 'received "1"');
  assertThrows(() => sleep(null as never), TypeError, "received null");
  assertThrows(() => sleep(NaN), RangeError, "received NaN");
});

testBoth("idle() waits until the others that are ready have run", {
  async: async (log: string[]) => {
    await idle();
    log.push("idle");
  },
  generator: function* (log: string[]) {
    yield* idle();
    log.push("idle");
  },
}, async (body) => {
  const log: string[] = [];
  const idler = spawn(body, log);
  const busy = spawn(async () => {
    for (let i = 0; i < 10; i++) await sleep(0);
    log.push("busy");
  });
  await joinAll([idler, busy]);
  assertEquals(log, ["busy", "idle"]);
});

testBoth("idle() is ended by a kill", {
  async: async () => {
    await idle();
    return "not here";
  },
  generator: function* () {
    yield* idle();
    return "not here";
  },
}, async (body) => {
  const g: Greenlet = spawn(body);
  await sleep(0);
  await g.kill();
  assertInstanceOf(g.value, GreenletExit);
});

// --- joinAll, wait, iwait

testBoth("joinAll() waits for all, and gives them in the order of their ends", {
  async: async (greenlets: Greenlet[]) => await joinAll(greenlets),
  generator: function* (greenlets: Greenlet[]) {
    return yield* joinAll(greenlets);
  },
}, async (body) => {
  const quick = spawn(() => 1);
  const middle = spawn(sleep, 5);
  const slow = spawn(sleep, 10);
  const ended = await spawn(body, [slow, quick, middle]).get();
  assertEquals(ended.map((g) => g.name), [quick.name, middle.name, slow.name]);
  assertEquals((await joinAll(new Set([slow, quick]))).length, 2);
});

testBoth("joinAll() gives the greenlets that have ended at the timeout", {
  async: async (greenlets: Greenlet[]) => {
    const start = performance.now();
    const ended = await joinAll(greenlets, { timeout: 10 });
    assertGreaterOrEqual(performance.now() - start, 10);
    return ended;
  },
  generator: function* (greenlets: Greenlet[]) {
    const start = performance.now();
    const ended = yield* joinAll(greenlets, { timeout: 10 });
    assertGreaterOrEqual(performance.now() - start, 10);
    return ended;
  },
}, async (body) => {
  const pending = new Greenlet(() => {});
  const g = spawn(sleep, FOREVER);
  const quick = spawn(() => 1);
  const ended = await spawn(body, [g, quick, pending]).get();
  assertEquals(ended.length, 1);
  assertStrictEquals(ended[0], quick);
  await g.kill();
});

testBoth("joinAll() does not lose a timeout from outside", {
  async: async (g: Greenlet) => {
    using timeout = Timeout.start(1);
    try {
      await joinAll([g], { timeout: FOREVER });
    } catch (error) {
      return error === timeout;
    }
  },
  generator: function* (g: Greenlet) {
    using timeout = Timeout.start(1);
    try {
      yield* joinAll([g], { timeout: FOREVER });
    } catch (error) {
      return error === timeout;
    }
  },
}, async (body) => {
  for (const g of [new Greenlet(() => {}), spawn(sleep, FOREVER)]) {
    assert(await spawn(body, g).get());
    await g.kill();
  }
});

testBoth("joinAll() with raiseError throws the error that came first", {
  async: async (greenlets: Greenlet[]) => {
    await joinAll(greenlets, { raiseError: true });
  },
  generator: function* (greenlets: Greenlet[]) {
    yield* joinAll(greenlets, { raiseError: true });
  },
}, async (body) => {
  using _failures = new Failures();
  const { promise, resolve } = Promise.withResolvers<void>();
  const slow = spawn(async () => {
    await until(promise);
    throw new Error("first in the list");
  });
  const quick = spawn(() => {
    throw new Error("first in time");
  });
  const joiner = spawn(body, [slow, quick]);
  await joiner.join();
  assertStrictEquals(joiner.exception, quick.exception);
  assertFalse(slow.dead);
  await assertRejects(
    () => joinAll([quick], { raiseError: true }),
    Error,
    "first in time",
  );
  resolve();
  await joinAll([slow, quick]);
  assert(slow.dead);
});

Deno.test("joinAll() with raiseError throws nothing if nothing fails", async () => {
  const greenlets = [1, 2, 3].map((n) => spawn(() => n));
  await joinAll(greenlets, { raiseError: true });
  assertEquals(greenlets.map((g) => g.value), [1, 2, 3]);
});

Deno.test("joinAll() with a count returns when that number of greenlets have ended, failed or not", async () => {
  using _failures = new Failures();
  const sleeper = spawn(sleep, FOREVER);
  const failing: Greenlet = spawn(() => {
    throw new Error("expected");
  });
  const ended = await joinAll([sleeper, failing], { count: 1 });
  assertEquals(ended.length, 1);
  assertStrictEquals(ended[0], failing);
  assertFalse(sleeper.dead);
  assertEquals(await joinAll([sleeper], { count: 0 }), []);
  await sleeper.kill();
  assertEquals((await joinAll([sleeper], { count: 9 })).length, 1);
});

Deno.test("joinAll() of no greenlets returns at once", async () => {
  assertEquals(await joinAll([]), []);
  assertEquals(await joinAll([], { timeout: FOREVER }), []);
});

Deno.test("joinAll(), wait() and iwait() leave no links behind", async () => {
  const [one, two, three] = [new Signal(), new Signal(), new Signal()];
  spawn(() => one.set());
  assertEquals(await wait([one, two], { count: 1 }), [one]);
  assertEquals(await joinAll([two, three], { timeout: 1 }), []);
  using ready = iwait([two, three]);
  const g = spawn(() => joinAll([two, three]));
  await sleep(0);
  assertEquals([two.links.size, three.links.size], [2, 2]);
  await g.kill();
  ready[Symbol.dispose]();
  assertEquals([one, two, three].map((s) => s.links.size), [0, 0, 0]);
});

Deno.test("joinAll(), wait() and iwait() refuse objects that they can't wait for", () => {
  for (
    const call of [joinAll, wait, iwait] as ((...args: unknown[]) => unknown)[]
  ) {
    assertThrows(() => call(5), TypeError, "received 5");
    assertThrows(() => call([5]), TypeError, "received 5");
    assertThrows(() => call([null]), TypeError, "received null");
    assertThrows(() => call([], { timeout: "1" }), TypeError, '"1"');
    assertThrows(() => call([], { timeout: NaN }), RangeError, "NaN");
    for (const count of [-1, 0.5, NaN]) {
      assertThrows(() => call([], { count }), RangeError, `received ${count}`);
    }
    assertThrows(() => call([], { count: "1" }), TypeError, 'received "1"');
    assertThrows(() => call([], 5), TypeError, "options must be an object");
  }
});

testBoth("wait() gives the objects that are ready, greenlets and others", {
  async: async (objects: Waitable[]) => await wait(objects, { count: 1 }),
  generator: function* (objects: Waitable[]) {
    return yield* wait(objects, { count: 1 });
  },
}, async (body) => {
  const signal = new Signal();
  const g = spawnLater(FOREVER, () => 5);
  const setter = spawnLater(5, () => signal.set());
  const ready = await spawn(body, [g, signal]).get();
  assertEquals(ready.length, 1);
  assertStrictEquals(ready[0], signal);
  assertFalse(g.dead);
  assert(setter.dead);
  await g.kill();
});

testBoth("wait() without objects waits until the others have ended", {
  async: async () => await wait(),
  generator: function* () {
    return yield* wait(null);
  },
}, async (body) => {
  for (let i = 0; i < 2; i++) {
    const soon = spawn(() => 5);
    const later = spawnLater(5, () => 6);
    assert(await spawn(body).get());
    assertEquals([soon.value, later.value], [5, 6]);
  }
});

testBoth("wait() without objects gives false at the timeout", {
  async: async () => await wait(undefined, { timeout: 10 }),
  generator: function* () {
    return yield* wait(undefined, { timeout: 10 });
  },
}, async (body) => {
  for (let i = 0; i < 2; i++) {
    const start = performance.now();
    const g = spawnLater(FOREVER, () => 5);
    assertFalse(await spawn(body).get());
    assertGreaterOrEqual(performance.now() - start, 10);
    assertFalse(g.dead);
    await g.kill();
    assert(await spawn(body).get());
  }
});

Deno.test("wait() without objects does not wait for the runtime's timers", async () => {
  const timer = setTimeout(() => {}, FOREVER);
  assert(await wait(null, { timeout: AT_ONCE }));
  clearTimeout(timer);
});

Deno.test("iwait() gives the objects as they become ready", async () => {
  const greenlets = [1, 5, 10].map((ms) => spawnLater(ms, () => ms));
  const values: (number | undefined)[] = [];
  for await (const g of iwait(greenlets.toReversed())) values.push(g.value);
  assertEquals(values, [1, 5, 10]);
});

Deno.test("iwait() is an iterator itself, for generator bodies", async () => {
  const [one, two] = [new Signal(), new Signal()];
  const g = spawn(function* (): Generator<unknown, Signal | undefined> {
    using ready = iwait([one, two]);
    const { value } = yield* ready.next();
    assertEquals(two.links.size, 1);
    return value;
  });
  spawn(() => one.set());
  assertStrictEquals(await g.get(), one);
  assertEquals(two.links.size, 0);
});

Deno.test("iwait() keeps an object that became ready before next() was called", async () => {
  const greenlets = [1, 2, 3].map((n) => spawn(() => n));
  const ready = iwait(greenlets);
  await joinAll(greenlets);
  await settle();
  const values: (number | undefined)[] = [];
  for await (const g of ready) values.push(g.value);
  assertEquals(values, [1, 2, 3]);
});

Deno.test("iwait() ends at the timeout, which runs from the call", async () => {
  const slow = spawnLater(FOREVER, () => "slow");
  const quick = spawn(() => "quick");
  const start = performance.now();
  const values: (string | undefined)[] = [];
  for await (const g of iwait([slow, quick], { timeout: 50 })) {
    values.push(g.value);
  }
  assertGreaterOrEqual(performance.now() - start, 50);
  assertEquals(values, ["quick"]);
  const late = iwait([slow], { timeout: 1 });
  await sleep(5);
  await slow.kill();
  await settle();
  assertEquals(await late.next(), { done: true, value: undefined });
});

Deno.test("iwait() with a count ends after that number of objects", async () => {
  const signals = [new Signal(), new Signal(), new Signal()];
  for (const signal of signals) spawn(() => signal.set());
  const seen: Signal[] = [];
  for await (const signal of iwait(signals, { count: 2 })) seen.push(signal);
  assertEquals(seen, signals.slice(0, 2));
  assertEquals(signals.map((signal) => signal.links.size), [0, 0, 0]);
});

Deno.test("iwait() that is left early takes back its links to the others", async () => {
  const [one, two] = [new Signal(), new Signal()];
  spawn(() => one.set());
  for await (const signal of iwait([one, two], { timeout: FOREVER })) {
    assertStrictEquals(signal, one);
    break;
  }
  assertEquals(two.links.size, 0);
});

Deno.test("iwait() has a timer only while it is waited on", async () => {
  // A timer that were left would be seen at the end of the test
  iwait([], { timeout: FOREVER });
  iwait([new Signal()], { timeout: FOREVER });
  const g = spawn(async () => {
    for await (const _ of iwait([new Signal()], { timeout: FOREVER }));
  });
  await sleep(0);
  await g.kill();
});

Deno.test("iwait() that is left early does not hold up the process", async () => {
  clock.useRealTime();
  const start = performance.now();
  const { out, code } = await runScript(`
    iwait([], { timeout: ${FOREVER} });
    const g = spawn(async () => {
      for await (const _ of iwait([spawn(sleep, Infinity)], { timeout: ${FOREVER} }));
    });
    await idle();
    await g.kill();
    console.log("end");
  `);
  assertEquals([out, code], [["end"], 0]);
  assertLess(performance.now() - start, FOREVER);
});

Deno.test("iwait() goes on after a next() that was interrupted", async () => {
  const signal = new Signal();
  const g = spawn(async () => {
    using ready = iwait([signal]);
    try {
      using _timeout = Timeout.start(1);
      await ready.next();
    } catch {
      signal.set();
    }
    return (await ready.next()).value;
  });
  assertStrictEquals(await g.get(), signal);
});

// --- run

testBoth("run() gives the result of main", {
  async: async (a: number, b: number) => {
    await sleep(1);
    return a + b;
  },
  generator: function* (a: number, b: number) {
    yield* sleep(1);
    return a + b;
  },
}, async (body) => {
  assertEquals(await run(body, 1, 2), 3);
  assertEquals(await run(() => "plain"), "plain");
});

testBoth(
  "run() kills the leftovers, and their finally blocks have run when it returns",
  {
    async: async (log: string[]) => {
      const leave = (name: string, ms: number) =>
        spawn(async () => {
          try {
            await sleep(FOREVER);
          } finally {
            await sleep(ms);
            log.push(name);
            spawn(async () => {
              try {
                await sleep(FOREVER);
              } finally {
                log.push(`child of ${name}`);
              }
            });
            await sleep(1);
          }
        });
      leave("one", 1);
      leave("two", 5);
      spawnLater(FOREVER, () => log.push("never"));
      await sleep(1);
      return "done";
    },
    generator: function* (log: string[]) {
      const leave = (name: string, ms: number) =>
        spawn(function* () {
          try {
            yield* sleep(FOREVER);
          } finally {
            yield* sleep(ms);
            log.push(name);
            spawn(function* () {
              try {
                yield* sleep(FOREVER);
              } finally {
                log.push(`child of ${name}`);
              }
            });
            yield* sleep(1);
          }
        });
      leave("one", 1);
      leave("two", 5);
      spawnLater(FOREVER, () => log.push("never"));
      yield* sleep(1);
      return "done";
    },
  },
  async (body) => {
    const log: string[] = [];
    assertEquals(await run(body, log), "done");
    assertEquals(log.toSorted(), [
      "child of one",
      "child of two",
      "one",
      "two",
    ]);
    assert(await getHub().join({ timeout: AT_ONCE }));
  },
);

testBoth(
  "run() throws the error of main, which is not printed, after the leftovers' end",
  {
    async: async (log: string[], error: Error): Promise<void> => {
      spawn(async () => {
        try {
          await sleep(FOREVER);
        } finally {
          log.push("finally");
        }
      });
      await sleep(1);
      throw error;
    },
    generator: function* (
      log: string[],
      error: Error,
    ): Generator<unknown, void> {
      spawn(function* () {
        try {
          yield* sleep(FOREVER);
        } finally {
          log.push("finally");
        }
      });
      yield* sleep(1);
      throw error;
    },
  },
  async (body) => {
    using failures = new Failures();
    const log: string[] = [];
    const error = new Error("main");
    const thrown = await assertRejects(() => run(body, log, error));
    assertStrictEquals(thrown, error);
    assertEquals(log, ["finally"]);
    assertEquals(failures.errors, []);
  },
);

Deno.test("run() reports the errors of greenlets other than main to the hub", async () => {
  using failures = new Failures();
  const error = new Error("child");
  await run(async () => {
    await spawn(() => {
      throw error;
    }).join();
  });
  assertEquals(failures.errors, [error]);
});

Deno.test("run() in a run() is refused", async () => {
  const message = await run(async () => {
    const error = await assertRejects(() => run(() => {}), GreenletError);
    return (error as GreenletError).message;
  });
  assertStringIncludes(message, "another run()");
  // And after it, there may be one
  assertEquals(await run(() => 1), 1);
});

Deno.test("run() refuses anything but a function", async () => {
  await assertRejects(() => run(5 as never), TypeError, "received 5");
  assertEquals(await run(() => 1), 1);
});

Deno.test("run() gives the GreenletExit if main was killed", async () => {
  const exit = new GreenletExit();
  const result: unknown = await run(async () => {
    const me = getCurrent() as Greenlet;
    spawn(() => me.kill(exit));
    await sleep(FOREVER);
  });
  assertStrictEquals(result, exit);
});

Deno.test("run() in a greenlet spares the greenlets that wait for it", async () => {
  const outer = spawn(async () => {
    const inner = spawn(() => run(() => "result"));
    return await inner.get();
  });
  assertEquals(await outer.get(), "result");
});

Deno.test("run() is ended by SIGINT, which unwinds everything", async () => {
  const { out, err, code } = await runScript(
    `
    const clean = (name) => async () => {
      try {
        await sleep(${FOREVER});
      } finally {
        await sleep(1);
        console.log(name);
      }
    };
    const result = await run(function* () {
      spawn(clean("child"));
      console.log("ready");
      try {
        yield* sleep(${FOREVER});
      } finally {
        yield* sleep(1);
        console.log("main");
      }
    });
    console.log(result instanceof GreenletExit);
  `,
    (line, process) => {
      if (line === "ready") process.kill("SIGINT");
    },
  );
  const all = ["ready", "main", "child", "true"];
  assertEquals([out, err, code], [all, "", 130]);
});

Deno.test("run() leaves the second SIGINT to the process", async () => {
  const { out, signal } = await runScript(
    `
    await run(async () => {
      console.log("ready");
      try {
        await sleep(${FOREVER});
      } finally {
        console.log("stuck");
        await new Promise((resolve) => setTimeout(resolve, ${FOREVER}));
      }
    });
  `,
    (line, process) => {
      if (line === "ready" || line === "stuck") process.kill("SIGINT");
    },
  );
  assertEquals([out, signal], [["ready", "stuck"], "SIGINT"]);
});

Deno.test("The process ends at once after the last greenlet", async () => {
  clock.useRealTime();
  const start = performance.now();
  const { out, err, code } = await runScript(`
    const sleepers = [];
    for (let i = 0; i < 10; i++) sleepers.push(spawn(sleep, ${FOREVER}));
    sleepers.push(spawnLater(${FOREVER}, () => {}));
    const late = spawn(() => withTimeout(${FOREVER}, () => sleep(1)));
    await late.get();
    await spawn(sleep, 1).get({ timeout: ${FOREVER} });
    await killAll(sleepers, { timeout: ${FOREVER} });
    console.log("end");
  `);
  assertEquals([out, err, code], [["end"], "", 0]);
  assertLess(performance.now() - start, FOREVER);
});

// --- Bad input

Deno.test("spawn() and its like refuse anything but a function", () => {
  assertThrows(() => spawn(1 as never), TypeError, "received 1");
  assertThrows(() => spawnRaw(1 as never), TypeError, "received 1");
  assertThrows(() => spawnLater(1, 1 as never), TypeError, "received 1");
  assertThrows(
    () => spawnLater(1, undefined as never),
    TypeError,
    "received undefined",
  );
  assertThrows(() => new Greenlet(1 as never), TypeError, "received 1");
  assertThrows(() => Greenlet.spawn(1 as never), TypeError, "received 1");
  assertThrows(
    () => (Greenlet.spawn as () => void).call(Greenlet),
    TypeError,
    "no 'run'",
  );
});

Deno.test("Greenlet refuses times that are not a number of milliseconds", async () => {
  const g = new Greenlet(() => 1);
  for (
    const call of [
      (time: unknown) => g.startLater(time as number),
      (time: unknown) => spawnLater(time as number, () => {}),
      (time: unknown) => g.join({ timeout: time as number }),
      (time: unknown) => g.get({ timeout: time as number }),
      (time: unknown) => g.kill(undefined, { timeout: time as number }),
      (time: unknown) => g.kill(undefined, { grace: time as number }),
      (time: unknown) => kill(g, undefined, { grace: time as number }),
      (time: unknown) => killAll([g], { timeout: time as number }),
      (time: unknown) => killAll([g], { grace: time as number }),
    ]
  ) {
    assertThrows(() => call("5"), TypeError, 'received "5"');
    assertThrows(() => call(5n), TypeError, "received 5");
    assertThrows(() => call(NaN), RangeError, "received NaN");
  }
  assertEquals(stateOf(g), PENDING);
  assert(await getHub().join());
});

Deno.test("spawn() of several starts the others when a tracer fails in the first", async () => {
  const { err, out } = await runScript(`
    const seen = [];
    globalThis.onunhandledrejection = (event) => {
      event.preventDefault();
      seen.push(event.reason.message);
    };
    const before = gevent.greenlet.setTrace((_event, _origin, target) => {
      if (target === getHub()) throw new Error("the tracer's");
    });
    for (let i = 0; i < 3; i++) spawn(() => seen.push(i));
    // The others begin, and the rejection is reported, some turns of the loop later
    for (let i = 0; i < 20; i++) await idle();
    gevent.greenlet.setTrace(before);
    console.log(JSON.stringify(seen));
  `);
  assertEquals(err, "");
  assertEquals(JSON.parse(out[0]!).toSorted(), [0, 1, 2, "the tracer's"]);
});

Deno.test("spawn() keeps the order of spawns and wake-ups, and each spawner's context", async () => {
  const storage = new AsyncLocalStorage<string>();
  const order: string[] = [];
  const log = (name: string) => order.push(`${name} ${storage.getStore()}`);
  const gate = new Waiter<void>();
  const waiting = spawn(async () => {
    await gate.get();
    log("woken");
  });
  await sleep(0);
  const all = [spawn(log, "one"), storage.run("a", () => spawn(log, "two"))];
  storage.run("a", () => all.push(spawn(log, "three"), spawn(log, "four")));
  gate.switch();
  all.push(spawn(log, "five"));
  await joinAll([...all, waiting]);
  assertEquals(order, [
    "one undefined",
    "two a",
    "three a",
    "four a",
    "woken undefined",
    "five undefined",
  ]);
});

Deno.test("spawn() begins all bodies in their turn, however many, before the greenlets that are woken meanwhile", async () => {
  const order: (number | string)[] = [];
  const gate = new Waiter<void>();
  const waiting = spawn(async () => {
    await gate.get();
    order.push("woken");
  });
  await sleep(0);
  for (const wakesAt of [0, 63, 64, 150, null]) {
    order.length = 0;
    const greenlets = Array.from({ length: 200 }, (_, i) =>
      spawn(async () => {
        order.push(i);
        if (i === wakesAt) gate.switch();
        if (i % 7 === 0) {
          await sleep(0);
          order.push("slept");
        }
      }));
    greenlets[0]!.rawlink(() => order.push("told"));
    const joiner = spawn(() => order.push("last"));
    await joinAll([...greenlets, joiner]);
    const begun = order.filter((entry) => typeof entry === "number");
    assertEquals(begun, Array.from({ length: 200 }, (_, i) => i));
    assertEquals(order.indexOf("last"), 200);
    assertEquals(order.filter((entry) => entry === "told").length, 1);
  }
  await waiting.join();
});

Deno.test("spawn() begins all greenlets that were spawned together before a link of the first is called", async () => {
  const order: string[] = [];
  const greenlets = Array.from({ length: 300 }, (_, i) =>
    spawn(() => {
      if (i === 0 || i === 299) order.push(`begin ${i}`);
    }));
  greenlets[0]!.rawlink(() => order.push("link of 0"));
  await joinAll(greenlets);
  assertEquals(order, ["begin 0", "begin 299", "link of 0"]);
});

Deno.test("run() kills greenlets that have not begun, and joins count them as alive", async () => {
  let begun = 0;
  await run(() => {
    for (let i = 0; i < 200; i++) spawn(() => begun++);
    spawnLater(FOREVER, () => begun++);
  });
  assert(begun <= 200);
  const late = spawnLater(1, () => "late");
  assertFalse(await getHub().join({ timeout: 0 }));
  assert(await getHub().join());
  assertEquals(late.value, "late");
});

Deno.test("Greenlet.signal is aborted when it was killed before it started", async () => {
  const exit = new GreenletExit();
  const g = spawn(function named() {});
  await g.kill(exit);
  assert(g.signal.aborted);
  assertStrictEquals(g.signal.reason, exit);
  assertStringIncludes(String(g), "named");
});

Deno.test("iwait() leaves no links behind when it ends by its timeout", async () => {
  const g = spawn(sleep, FOREVER);
  let links = 0;
  const counted: Waitable = {
    rawlink: () => links++,
    unlink: () => links--,
  };
  for await (const _ of iwait([g, counted], { timeout: 1 }));
  assertEquals(links, 0);
  await g.kill();
});

Deno.test("Greenlet.kill(), throw(), kill() and killAll() make a new error of a class that they are given", async () => {
  using _failures = new Failures();
  class Own extends Error {}
  const ends: ((g: Greenlet, error: unknown) => unknown)[] = [
    (g, error) => g.kill(error),
    (g, error) => g.throw(error),
    (g, error) => kill(g, error),
    (g, error) => killAll([g], { error }),
  ];
  for (const end of ends) {
    for (const isStarted of [true, false]) {
      const exited = spawn(sleep, FOREVER);
      const failed = spawn(sleep, FOREVER);
      if (isStarted) await sleep(0);
      await end(exited, GreenletExit);
      await end(failed, Own);
      await joinAll([exited, failed]);
      assertInstanceOf(exited.value, GreenletExit);
      assertInstanceOf(failed.exception, Own);
    }
  }
});

Deno.test("Each function that takes options refuses anything but an object, and does not wait for ever", async () => {
  const greenlet = spawn(() => {});
  const calls: Record<string, (options: never) => unknown> = {
    "Greenlet.join": (options) => greenlet.join(options),
    "Greenlet.get": (options) => greenlet.get(options),
    "Greenlet.kill": (options) => greenlet.kill(undefined, options),
    "kill": (options) => kill(greenlet, undefined, options),
    "joinAll": (options) => joinAll([greenlet], options),
    "killAll": (options) => killAll([greenlet], options),
    "wait": (options) => wait(undefined, options),
    "iwait": (options) => iwait([greenlet], options),
    "Hub.join": (options) => getHub().join(options),
    "Event.wait": (options) => new Event().wait(options),
    "AsyncResult.get": (options) => new AsyncResult().get(options),
    "AsyncResult.wait": (options) => new AsyncResult().wait(options),
    "Semaphore.acquire": (options) => new Semaphore().acquire(options),
    "Semaphore.wait": (options) => new Semaphore(0).wait(options),
    "RLock.acquire": (options) => new RLock().acquire(options),
    "Queue.put": (options) => new Queue().put(1, options),
    "Queue.get": (options) => new Queue().get(options),
    "Queue.peek": (options) => new Queue().peek(options),
    "Channel.put": (options) => new Channel().put(1, options),
    "Channel.get": (options) => new Channel().get(options),
    "Pool.add": (options) => new Pool().add(greenlet, options),
    "Group.join": (options) => new Group().join(options),
    "Group.kill": (options) => new Group().kill(options),
    "Pool.imap": (options) => new Pool().imap(() => {}, [], options),
    "Timeout": (options) => new Timeout(1, options),
    "withTimeout": (options) => withTimeout(1, () => {}, options),
  };
  for (const [name, call] of Object.entries(calls)) {
    for (const wrong of [5, false, "5", null] as never[]) {
      assertThrows(
        () => call(wrong),
        TypeError,
        `the options must be an object: received ${JSON.stringify(wrong)}`,
        name,
      );
    }
  }
  await greenlet.join();
});
