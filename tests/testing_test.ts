/** The test clock: all of it in no real time, with the sanitizers on. */

import {
  assert,
  assertEquals,
  assertFalse,
  assertRejects,
  assertThrows,
} from "@std/assert";
import {
  Event,
  GreenletExit,
  Lock,
  monkey,
  Queue,
  sleep,
  spawn,
  spawnLater,
  Timeout,
  until,
  withTimeout,
} from "../mod.ts";
import { TestClock } from "../testing.ts";
import { testBoth } from "./_bodies.ts";

/** Far longer than a test may take. */
const HOUR = 3_600_000;

const never = new Promise<never>(() => {});

testBoth("TestClock.advance() ends sleeps in the order of their deadlines", {
  async: async (log: number[], ms: number) => {
    await sleep(ms);
    log.push(ms);
  },
  generator: function* (log: number[], ms: number) {
    yield* sleep(ms);
    log.push(ms);
  },
}, async (body) => {
  using clock = new TestClock();
  const log: number[] = [];
  const greenlets = [3, 1, 2, 5, 4].map((n) => spawn(body, log, n * HOUR));
  await clock.advance(5 * HOUR - 1);
  assertEquals(log, [1, 2, 3, 4].map((n) => n * HOUR));
  assertEquals(clock.pending, 1);
  await clock.advance(1);
  assertEquals(log.at(-1), 5 * HOUR);
  assertEquals(clock.now, 5 * HOUR);
  assertEquals(clock.pending, 0);
  assert(greenlets.every((g) => g.dead));
});

testBoth("TestClock.advance() meets sleeps that begin within its span", {
  async: async (log: number[], clock: TestClock) => {
    for (let i = 0; i < 3; i++) {
      await sleep(10);
      log.push(clock.now);
      await spawn(sleep, 5).join();
      log.push(clock.now);
    }
  },
  generator: function* (log: number[], clock: TestClock) {
    for (let i = 0; i < 3; i++) {
      yield* sleep(10);
      log.push(clock.now);
      yield* spawn(sleep, 5).join();
      log.push(clock.now);
    }
  },
}, async (body) => {
  using clock = new TestClock();
  const log: number[] = [];
  const g = spawn(body, log, clock);
  await clock.advance(100);
  assertEquals(log, [10, 15, 25, 30, 40, 45]);
  assert(g.successful());
  assertEquals(clock.now, 100);
});

testBoth("TestClock.advance() moves Timeout and withTimeout()", {
  async: async (log: unknown[], clock: TestClock) => {
    using timeout = Timeout.start(HOUR);
    try {
      await sleep(2 * HOUR);
    } catch (error) {
      log.push(error === timeout, clock.now);
    }
    log.push(
      await withTimeout(HOUR, () => until(never), { value: "late" }),
      clock.now,
    );
  },
  generator: function* (log: unknown[], clock: TestClock) {
    using timeout = Timeout.start(HOUR);
    try {
      yield* sleep(2 * HOUR);
    } catch (error) {
      log.push(error === timeout, clock.now);
    }
    log.push(
      yield* withTimeout(HOUR, () => until(never), { value: "late" }),
      clock.now,
    );
  },
}, async (body) => {
  using clock = new TestClock();
  const log: unknown[] = [];
  const g = spawn(body, log, clock);
  await clock.advance(3 * HOUR);
  assertEquals(log, [true, HOUR, "late", 2 * HOUR]);
  assert(g.successful());
});

testBoth("TestClock.advance() moves the grace of a kill", {
  async: async (log: unknown[], clock: TestClock) => {
    try {
      await sleep(10 * HOUR);
    } finally {
      try {
        await sleep(10 * HOUR);
      } catch (error) {
        log.push(error instanceof GreenletExit, clock.now);
      }
    }
  },
  generator: function* (log: unknown[], clock: TestClock) {
    try {
      yield* sleep(10 * HOUR);
    } finally {
      try {
        yield* sleep(10 * HOUR);
      } catch (error) {
        log.push(error instanceof GreenletExit, clock.now);
      }
    }
  },
}, async (body) => {
  using clock = new TestClock();
  const log: unknown[] = [];
  const g = spawn(body, log, clock);
  await clock.advance(1);
  g.kill(undefined, { block: false, grace: HOUR });
  await clock.advance(HOUR - 1);
  assertFalse(g.dead);
  await clock.advance(1);
  assert(g.dead);
  assertEquals(log[1] ?? HOUR + 1, HOUR + 1);
});

testBoth(
  "TestClock.advance() moves the limits of join, get, queues, locks and events",
  {
    async: async (log: unknown[], clock: TestClock) => {
      const sleeper = spawn(sleep, 10 * HOUR);
      const lock = new Lock();
      await lock.acquire();
      await sleeper.join({ timeout: HOUR });
      log.push("join", clock.now);
      for (
        const [name, wait] of [
          ["get", () => sleeper.get({ timeout: HOUR })],
          ["queue", () => new Queue().get({ timeout: HOUR })],
        ] as const
      ) {
        try {
          await wait();
        } catch {
          log.push(name, clock.now);
        }
      }
      log.push(await lock.acquire({ timeout: HOUR }), clock.now);
      log.push(await new Event().wait({ timeout: HOUR }), clock.now);
      await sleeper.kill();
    },
    generator: function* (log: unknown[], clock: TestClock) {
      const sleeper = spawn(sleep, 10 * HOUR);
      const lock = new Lock();
      yield* lock.acquire();
      yield* sleeper.join({ timeout: HOUR });
      log.push("join", clock.now);
      try {
        yield* sleeper.get({ timeout: HOUR });
      } catch {
        log.push("get", clock.now);
      }
      try {
        yield* new Queue().get({ timeout: HOUR });
      } catch {
        log.push("queue", clock.now);
      }
      log.push(yield* lock.acquire({ timeout: HOUR }), clock.now);
      log.push(yield* new Event().wait({ timeout: HOUR }), clock.now);
      yield* sleeper.kill();
    },
  },
  async (body) => {
    using clock = new TestClock();
    const log: unknown[] = [];
    const g = spawn(body, log, clock);
    await clock.advance(5 * HOUR);
    assert(g.dead);
    assertEquals(log, [
      ...["join", HOUR, "get", 2 * HOUR, "queue", 3 * HOUR],
      ...[null, 4 * HOUR, false, 5 * HOUR],
    ]);
    assertEquals(clock.pending, 0);
  },
);

Deno.test("TestClock.advance() starts greenlets that spawnLater() has scheduled", async () => {
  using clock = new TestClock();
  const g = spawnLater(HOUR, () => clock.now);
  await clock.advance(HOUR - 1);
  assertFalse(g.dead);
  await clock.advance(1);
  assertEquals(g.value, HOUR);
});

testBoth("TestClock.advance() moves patched timers in a greenlet", {
  async: async (log: unknown[], clock: TestClock) => {
    await new Promise((resolve) => setTimeout(resolve, HOUR));
    log.push(clock.now);
    const interval = setInterval((a) => log.push(a, clock.now), HOUR, "tick");
    await sleep(2 * HOUR + 1);
    clearInterval(interval);
    const timer = setTimeout(() => log.push("cleared"), 1);
    clearTimeout(timer);
    await sleep(HOUR);
  },
  generator: function* (log: unknown[], clock: TestClock) {
    yield* until(new Promise((resolve) => setTimeout(resolve, HOUR)));
    log.push(clock.now);
    const interval = setInterval((a) => log.push(a, clock.now), HOUR, "tick");
    yield* sleep(2 * HOUR + 1);
    clearInterval(interval);
    const timer = setTimeout(() => log.push("cleared"), 1);
    clearTimeout(timer);
    yield* sleep(HOUR);
  },
}, async (body) => {
  using _ = monkey.patch();
  using clock = new TestClock();
  const log: unknown[] = [];
  const g = spawn(body, log, clock);
  await clock.advance(5 * HOUR);
  assert(g.successful());
  assertEquals(log, [HOUR, "tick", 2 * HOUR, "tick", 3 * HOUR]);
  assertEquals(clock.pending, 0);
});

testBoth("A kill ends a patched timer that the clock moves", {
  async: async () => {
    await new Promise((resolve) => setTimeout(resolve, HOUR));
  },
  generator: function* () {
    yield* until(new Promise((resolve) => setTimeout(resolve, HOUR)));
  },
}, async (body) => {
  using _ = monkey.patch();
  using clock = new TestClock();
  const g = spawn(body);
  await clock.advance(1);
  assertEquals(clock.pending, 1);
  await g.kill();
  assert(g.dead);
  assertEquals(clock.pending, 0);
});

Deno.test("TestClock.advance() moves patched timers outside greenlets", async () => {
  using _ = monkey.patch();
  using clock = new TestClock();
  const log: unknown[] = [];
  const timer = setTimeout(
    function (this: unknown, text: string) {
      log.push(text, this === timer, clock.now);
    },
    HOUR,
    "once",
  );
  const interval = setInterval(() => {
    log.push(clock.now);
    if (clock.now === 3 * HOUR) clearInterval(interval);
  }, HOUR);
  const cleared = setTimeout(() => log.push("cleared"), 1);
  clearTimeout(cleared);
  await clock.advance(HOUR - 1);
  assertEquals(log, []);
  await clock.advance(5 * HOUR);
  assertEquals(log, ["once", true, HOUR, HOUR, 2 * HOUR, 3 * HOUR]);
  assertEquals(clock.pending, 0);
});

Deno.test("TestClock leaves timers that are not patched alone", async () => {
  using clock = new TestClock();
  await new Promise((resolve) => setTimeout(resolve, 1));
  assertEquals(clock.now, 0);
});

Deno.test("TestClock gives timers that are left back to real time", async () => {
  const clock = new TestClock();
  const g = spawn(sleep, HOUR);
  await clock.advance(HOUR - 1);
  assertFalse(g.dead);
  clock[Symbol.dispose]();
  clock[Symbol.dispose]();
  await g.join();
  assert(g.successful());
  await sleep(1);
});

Deno.test("TestClock keeps the remaining time of timers that run already", async () => {
  const g = spawn(sleep, HOUR);
  await sleep(0);
  using clock = new TestClock();
  assertEquals(clock.pending, 1);
  await clock.advance(HOUR / 2);
  assertFalse(g.dead);
  await clock.advance(HOUR / 2);
  assert(g.dead);
});

Deno.test("TestClock gives a patched timer that is left back to real time", async () => {
  using _ = monkey.patch();
  const { promise, resolve } = Promise.withResolvers<void>();
  {
    using clock = new TestClock();
    setTimeout(() => resolve(), HOUR);
    await clock.advance(HOUR - 1);
  }
  await promise;
});

Deno.test("TestClock refuses a second one at a time", () => {
  {
    using _clock = new TestClock();
    assertThrows(() => new TestClock(), Error, "another one is in use");
  }
  using _next = new TestClock();
});

Deno.test("TestClock.advance() refuses anything but a span of time", async () => {
  using clock = new TestClock();
  for (const ms of ["5", null, undefined, 5n]) {
    await assertRejects(() => clock.advance(ms as never), TypeError);
  }
  for (const ms of [-1, NaN, Infinity, -Infinity]) {
    await assertRejects(() => clock.advance(ms), RangeError);
  }
  assertEquals(clock.now, 0);
});

Deno.test("TestClock.advance() refuses to move while it moves, and once it is disposed of", async () => {
  const clock = new TestClock();
  const first = clock.advance(1);
  await assertRejects(() => clock.advance(1), Error, "moving already");
  await first;
  clock[Symbol.dispose]();
  await assertRejects(() => clock.advance(1), Error, "disposed of");
  await assertRejects(() => clock.next(), Error, "disposed of");
});

Deno.test("TestClock.advance() rejects when the clock is disposed of meanwhile", async () => {
  const clock = new TestClock();
  spawn(async () => {
    await sleep(5);
    clock[Symbol.dispose]();
  });
  await assertRejects(() => clock.advance(HOUR), Error, "disposed of");
});

Deno.test("TestClock.next() goes to the next deadline", async () => {
  using clock = new TestClock();
  const g = spawn(sleep, HOUR);
  spawn(sleep, 2 * HOUR);
  assert(await clock.next());
  assertEquals([g.dead, clock.now], [true, HOUR]);
  assert(await clock.next());
  assertFalse(await clock.next());
  assertEquals(clock.now, 2 * HOUR);
});

Deno.test("TestClock.runAll() goes on until no timer is left, or to its limit", async () => {
  using clock = new TestClock();
  const g = spawn(async () => {
    for (let i = 0; i < 5; i++) await sleep(HOUR);
  });
  await assertRejects(() => clock.runAll(2), Error, "after 2 deadlines");
  assertEquals(clock.now, 2 * HOUR);
  await clock.runAll(3);
  assert(g.dead);
  await assertRejects(() => clock.runAll(0), RangeError);
  await assertRejects(() => clock.runAll("1" as never), TypeError);
});

Deno.test("TestClock.advance() ends though a greenlet starts limits of 0 ms again and again", async () => {
  using clock = new TestClock();
  let count = 0;
  const g = spawn(async () => {
    for (;; count++) await withTimeout(0, () => until(never), { value: 0 });
  });
  await clock.advance(10);
  assertEquals(count, 10);
  await g.kill();
});

Deno.test("TestClock.advance() wakes sleepers of one deadline in the order of their starts", async () => {
  using clock = new TestClock();
  const log: number[] = [];
  for (let i = 0; i < 20; i++) {
    spawn(async () => {
      await sleep(5);
      log.push(i);
      await sleep(5);
      log.push(i);
    });
  }
  await clock.advance(10);
  const order = Array.from({ length: 20 }, (_, i) => i);
  assertEquals(log, [...order, ...order]);
});

Deno.test("A kill's grace is measured by the library's clock, not by a replaced performance.now()", async () => {
  let isClean = false;
  const g = spawn(async () => {
    try {
      await sleep(HOUR);
    } finally {
      await sleep(1);
      isClean = true;
    }
  });
  await sleep(0);
  const { now } = performance;
  let time = 0;
  performance.now = () => time += 2 * HOUR;
  try {
    await g.kill(undefined, { grace: HOUR });
  } finally {
    performance.now = now;
  }
  assert(isClean);
});
