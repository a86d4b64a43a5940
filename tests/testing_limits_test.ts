/**
 * The ends of what a test clock can do: how far it moves, and timers that are refreshed or cleared.
 *
 * @module
 */

import timers from "node:timers";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { killAll, monkey, sleep, spawn, Timeout, withTimeout } from "../mod.ts";
import { TestClock } from "../testing.ts";
import { testBoth } from "./_bodies.ts";

Deno.test("TestClock.advance() refuses a time at which no timer would be due any more", async () => {
  using clock = new TestClock();
  for (const ms of [Number.MAX_VALUE, 1e300, 2 ** 53, 2 ** 52 + 1]) {
    await assertRejects(
      () => clock.advance(ms),
      RangeError,
      "as its time must stay below 2 ** 52 ms: received",
    );
  }
  await clock.advance(1e12);
  await assertRejects(() => clock.advance(4.503e15), RangeError, "'ms' must");
  assertEquals(clock.now, 1e12);
});

testBoth(
  "TestClock moves timers after the longest way, and real time goes on after it",
  {
    async async() {
      await sleep(3);
      return await withTimeout(2, () => sleep(9)).catch((error) => error);
    },
    *generator() {
      yield* sleep(3);
      try {
        return yield* withTimeout(2, () => sleep(9));
      } catch (error) {
        return error;
      }
    },
  },
  async (body) => {
    {
      using clock = new TestClock();
      await clock.advance(2 ** 50);
      const greenlet = spawn(body);
      await clock.advance(5);
      assert(greenlet.dead);
      assert(await greenlet.get() instanceof Timeout);
    }
    await sleep(1);
    // A later clock starts from there.
    using clock = new TestClock();
    const greenlet = spawn(sleep, 1000);
    await clock.advance(1000);
    assert(greenlet.dead);
  },
);

Deno.test("TestClock.next() and runAll() leave a sleep for ever alone", async () => {
  using clock = new TestClock();
  const forever = [
    Number.MAX_SAFE_INTEGER,
    Number.MAX_VALUE,
    2 ** 53,
    Infinity,
  ].map((ms) => spawn(sleep, ms));
  const soon = spawn(sleep, 60_000);
  assert(await clock.next());
  assertEquals(await clock.next(), false);
  await clock.runAll();
  await clock.runAll(1);
  assertEquals([clock.now, soon.dead], [60_000, true]);
  assert(forever.every(({ dead }) => !dead));
  await killAll(forever);
  assertEquals(clock.pending, 0);
});

for (
  const [name, setTimeout, setInterval] of [
    ["global", () => globalThis.setTimeout, () => globalThis.setInterval],
    ["node:timers", () => timers.setTimeout, () => timers.setInterval],
  ] as const
) {
  Deno.test(`TestClock moves a timer that was refreshed, ${name}`, async () => {
    using _ = monkey.patch();
    using clock = new TestClock();
    const log: number[] = [];
    const set = setTimeout() as typeof timers.setTimeout;
    const timer = set(() => log.push(clock.now), 10);
    await clock.advance(6);
    assertEquals(timer.refresh(), timer);
    await clock.advance(9);
    assertEquals(log, []);
    await clock.advance(1);
    assertEquals(log, [16]);
    // Once more, when it has fired.
    timer.refresh();
    await clock.advance(10);
    timer.refresh();
    timer.close();
    await clock.advance(100);
    assertEquals([log, clock.pending], [[16, 26], 0]);
    const repeat = setInterval() as typeof timers.setInterval;
    const interval = repeat(() => log.push(clock.now), 10);
    await clock.advance(15);
    interval.refresh();
    await clock.advance(25);
    clearInterval(interval as never);
    await clock.advance(100);
    assertEquals([log.slice(2), clock.pending], [[136, 151, 161], 0]);
  });
}

Deno.test("TestClock moves a timer that is refreshed at its time, before it is called", async () => {
  const { setImmediate } = timers;
  using _ = monkey.patch();
  using clock = new TestClock();
  const log: number[] = [];
  const timer = timers.setTimeout(() => log.push(clock.now), 10);
  // In each turn, so also in that between the deadline and the call.
  function look(): void {
    if (clock.now < 10) setImmediate(look);
    else timer.refresh();
  }
  look();
  await clock.advance(19);
  assertEquals(log, []);
  await clock.advance(1);
  assertEquals([log, clock.pending], [[20], 0]);
});

testBoth("TestClock moves a timer that a greenlet refreshes in its callback", {
  async async(clock: TestClock, log: number[]) {
    const timer = timers.setTimeout(() => {
      if (log.push(clock.now) < 3) timer.refresh();
    }, 10);
    await sleep(100);
  },
  *generator(clock: TestClock, log: number[]) {
    const timer = timers.setTimeout(() => {
      if (log.push(clock.now) < 3) timer.refresh();
    }, 10);
    yield* sleep(100);
  },
}, async (body) => {
  using _ = monkey.patch();
  using clock = new TestClock();
  const log: number[] = [];
  const greenlet = spawn(body, clock, log);
  await clock.advance(100);
  assertEquals([log, greenlet.dead, clock.pending], [[10, 20, 30], true, 0]);
});

Deno.test("TestClock calls no timer that was cleared when the patch had ended", async () => {
  using clock = new TestClock();
  const log: string[] = [];
  const patch = monkey.patch();
  const once = timers.setTimeout(() => log.push("once"), 10);
  const global = setTimeout(() => log.push("global"), 10);
  const repeated = setInterval(() => log.push("repeated"), 10);
  const left = setTimeout(() => log.push("left"), 10);
  patch[Symbol.dispose]();
  clearTimeout(once as never);
  clearTimeout(global);
  clearInterval(repeated);
  await clock.advance(30);
  assertEquals(log, ["left"]);
  clearTimeout(left);
});
