import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import {
  AsyncResult,
  Event,
  getCurrent,
  getHub,
  type Greenlet,
  GreenletExit,
  iwait,
  joinAll,
  killAll,
  Semaphore,
  sleep,
  spawn,
  spawnLater,
  Timeout,
  wait,
  withTimeout,
} from "../mod.ts";
import { Failures, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;

const ERROR = new Error("expected");

// --- Event

Deno.test("Event.isSet() tells whether it is set, as ready() does", () => {
  const event = new Event();
  assertFalse(event.isSet());
  assertFalse(event.ready());
  event.set();
  assert(event.isSet());
  assert(event.ready());
  event.set();
  assert(event.isSet());
  event.clear();
  assertFalse(event.isSet());
  event.clear();
  assertFalse(event.ready());
});

testBoth(
  "Event.wait() waits until the event is set, and then returns at once",
  {
    async async(event: Event, log: unknown[]) {
      log.push(await event.wait());
      log.push(await event.wait());
    },
    *generator(event: Event, log: unknown[]) {
      log.push(yield* event.wait());
      log.push(yield* event.wait());
    },
  },
  async (body) => {
    const event = new Event();
    for (let round = 0; round < 2; round++) {
      const log: unknown[] = [];
      const five = Array.from({ length: 5 }, () => spawn(body, event, log));
      await settle();
      assertEquals(log, []);
      assertEquals(event.linkCount(), 5);
      event.set();
      assertEquals(log, []);
      await joinAll(five);
      assertEquals(log, Array(10).fill(true));
      assertEquals(event.linkCount(), 0);
      event.clear();
    }
  },
);

Deno.test("Event.wait() waits in main", async () => {
  const event = new Event();
  spawn(() => event.set());
  assert(await event.wait());
  assert(await event.wait({ timeout: 0 }));
});

testBoth("Event.wait() gives false at the timeout, and leaves nothing", {
  async async(event: Event, timeout: number) {
    return await event.wait({ timeout });
  },
  *generator(event: Event, timeout: number) {
    return yield* event.wait({ timeout });
  },
}, async (body) => {
  const event = new Event();
  for (const timeout of [-1, 0, 10]) {
    const start = performance.now();
    assertEquals(await spawn(body, event, timeout).get(), false);
    assertGreaterOrEqual(performance.now() - start, timeout);
    assertEquals(event.linkCount(), 0);
  }
  const set = spawn(body, event, FOREVER);
  await settle();
  event.set();
  assertEquals(await set.get(), true);
  assertEquals(await spawn(body, event, 0).get(), true);
});

Deno.test("Event.wait() gives false at the timeout in main", async () => {
  assertEquals(await new Event().wait({ timeout: 1 }), false);
});

testBoth("Event.set() wakes all waiters in the order in which they came", {
  async async(event: Event, log: number[], i: number) {
    await event.wait();
    log.push(i);
  },
  *generator(event: Event, log: number[], i: number) {
    yield* event.wait();
    log.push(i);
  },
}, async (body) => {
  const event = new Event();
  const log: number[] = [];
  const all = Array.from({ length: 100 }, (_, i) => spawn(body, event, log, i));
  await settle();
  event.set();
  await joinAll(all);
  assertEquals(log, all.map((_, i) => i));
});

for (const count of [1, 100, 1000]) {
  testBoth(`Event.set() and clear() at once wake the waiters: ${count}`, {
    async async(event: Event) {
      return [await event.wait(), event.isSet()];
    },
    *generator(event: Event) {
      return [yield* event.wait(), event.isSet()];
    },
  }, async (body) => {
    const event = new Event();
    const all = Array.from({ length: count }, () => spawn(body, event));
    await settle();
    event.set();
    event.clear();
    const late = spawn(body, event);
    await joinAll(all);
    assert(all.every((g) => g.value![0] === true && g.value![1] === false));
    await settle();
    // It came after the clear().
    assertFalse(late.dead);
    event.set();
    assertEquals(await late.get(), [true, true]);
  });
}

Deno.test("Event.set() and clear() at once wake main", async () => {
  const event = new Event();
  const waiting = event.wait();
  event.set();
  event.clear();
  assert(await waiting);
});

Deno.test("Event.set() wakes no waiter twice, and none that came after clear()", async () => {
  const event = new Event();
  const first = event.wait();
  event.set();
  event.clear();
  const second = event.wait({ timeout: 1 });
  assertEquals(await first, true);
  assertEquals(await second, false);
});

Deno.test("Event.wait() of a set event does not wait for the waiters that are woken", async () => {
  const event = new Event();
  const log: number[] = [];
  const body = async (i: number) => {
    await event.wait();
    log.push(i);
  };
  const two = [spawn(body, 1), spawn(body, 2)];
  await settle();
  event.set();
  await body(3);
  await joinAll(two);
  assertEquals(log, [3, 1, 2]);
});

Deno.test("Event.clear() after a set() in a link makes wait() wait", async () => {
  const event = new Event();
  await spawn(async () => {
    const setter = spawn(() => event.set());
    assert(await event.wait());
    assert(event.ready());
    await setter.join();
    event.clear();
    assertEquals(await wait([event], { timeout: 5 }), []);
    assertEquals(event.linkCount(), 0);
  }).get();
});

testBoth(
  "Event.wait() that is interrupted leaves no link, and the other waiters their turn",
  {
    async async(event: Event) {
      return await event.wait({ timeout: FOREVER });
    },
    *generator(event: Event) {
      return yield* event.wait({ timeout: FOREVER });
    },
  },
  async (body) => {
    const event = new Event();
    const [a, b, c] = [0, 1, 2].map(() => spawn(body, event)) as [
      Greenlet<boolean>,
      Greenlet<boolean>,
      Greenlet<boolean>,
    ];
    await settle();
    await b.kill(undefined, { grace: Infinity });
    assertInstanceOf(b.value, GreenletExit);
    assertEquals(event.linkCount(), 2);
    event.set();
    await joinAll([a, c]);
    assertEquals([a.value, c.value], [true, true]);
  },
);

testBoth("Event.wait() is interrupted by a Timeout around it", {
  async async(event: Event) {
    using timeout = Timeout.start(1);
    try {
      await event.wait({ timeout: FOREVER });
    } catch (error) {
      return error === timeout;
    }
  },
  *generator(event: Event) {
    using timeout = Timeout.start(1);
    try {
      yield* event.wait({ timeout: FOREVER });
    } catch (error) {
      return error === timeout;
    }
  },
}, async (body) => {
  const event = new Event();
  assertEquals(await spawn(body, event).get(), true);
  assertEquals(event.linkCount(), 0);
});

testBoth(
  "Event.wait() of an event that was set before the kill returns, and the kill is thrown next",
  {
    async async(event: Event, log: unknown[]) {
      log.push(await event.wait());
      await sleep();
      log.push("went on");
    },
    *generator(event: Event, log: unknown[]) {
      log.push(yield* event.wait());
      yield* sleep();
      log.push("went on");
    },
  },
  async (body) => {
    const event = new Event();
    const log: unknown[] = [];
    const g = spawn(body, event, log);
    await settle();
    // Called by the hub just after the wait of the body.
    event.rawlink(() => g.kill(undefined, { block: false, grace: Infinity }));
    event.set();
    await g.join();
    assertEquals(log, [true]);
    assertInstanceOf(g.value, GreenletExit);
  },
);

Deno.test("Event.rawlink() calls once, soon and from the hub, in order", async () => {
  const event = new Event();
  const log: string[] = [];
  const link = (name: string) => (source: Event) => {
    assertStrictEquals(source, event);
    assertStrictEquals(getCurrent(), getHub());
    log.push(name);
  };
  event.rawlink(link("a"));
  event.rawlink({
    linked: (source) => {
      link("b")(source);
      return log;
    },
  });
  await spawn(() => event.set()).join();
  event.rawlink(link("c"));
  await settle();
  assertEquals(log, ["a", "b", "c"]);
  event.clear();
  event.set();
  await settle();
  assertEquals(log.length, 3);
});

Deno.test("Event.rawlink() of a set event calls the link soon, and not before it returns", async () => {
  const event = new Event();
  event.set();
  const log: string[] = [];
  event.rawlink(() => log.push("link"));
  log.push("returned");
  await settle();
  assertEquals(log, ["returned", "link"]);
  assertEquals(event.linkCount(), 0);
});

Deno.test("Event.rawlink() twice calls twice, and unlink() takes one back", async () => {
  const event = new Event();
  let calls = 0;
  const link = () => calls++;
  event.rawlink(link);
  event.rawlink(link);
  event.rawlink(link);
  event.unlink(link);
  assertEquals(event.linkCount(), 2);
  event.set();
  await settle();
  assertEquals(calls, 2);
});

Deno.test("Event.unlink() is in time until the link is called", async () => {
  const event = new Event();
  const log: string[] = [];
  const second = () => log.push("second");
  const third = () => log.push("third");
  event.rawlink(() => {
    log.push("first");
    event.unlink(second);
  });
  event.rawlink(second);
  event.rawlink(third);
  event.set();
  await settle();
  assertEquals(log, ["first", "third"]);
  event.unlink(third);
  event.unlink(null as never);
  event.rawlink(third);
  event.unlink(third);
  await settle();
  assertEquals(log, ["first", "third"]);
});

Deno.test("Event.rawlink() in a link is called in a turn of its own", async () => {
  const event = new Event();
  const log: string[] = [];
  event.rawlink(() => {
    log.push("first");
    event.clear();
    event.rawlink(() => log.push("inner"));
  });
  event.rawlink(() => log.push("second"));
  event.set();
  await settle();
  assertEquals(log, ["first", "second"]);
  event.set();
  await settle();
  assertEquals(log, ["first", "second", "inner"]);
});

Deno.test("Event.rawlink() keeps the others from the error of a link", async () => {
  using failures = new Failures();
  const event = new Event();
  const log: string[] = [];
  const bad = () => {
    throw ERROR;
  };
  event.rawlink(bad);
  event.rawlink(() => log.push("next"));
  const waiting = event.wait();
  event.set();
  assert(await waiting);
  assertEquals(log, ["next"]);
  assertEquals(failures.errors, [ERROR]);
  assertStrictEquals(failures.contexts[0], bad);
});

Deno.test("Event and AsyncResult refuse a bad link and a bad time", () => {
  for (const object of [new Event(), new AsyncResult()]) {
    for (const link of [null, undefined, 1, {}, "link"]) {
      assertThrows(() => object.rawlink(link as never), TypeError, "link");
    }
    assertThrows(
      () => object.wait({ timeout: "1" as never }),
      TypeError,
      'received "1"',
    );
    assertThrows(() => object.wait({ timeout: NaN }), RangeError, "NaN");
    assertEquals(object.linkCount(), 0);
  }
  assertThrows(
    () => new AsyncResult().get({ timeout: null as never }),
    TypeError,
    "received null",
  );
});

// --- AsyncResult

Deno.test("AsyncResult is pending, and then has a value", async () => {
  const result = new AsyncResult<number>();
  assertFalse(result.ready());
  assertFalse(result.done());
  assertFalse(result.successful());
  assertEquals([result.value, result.exception], [undefined, undefined]);
  result.set(1);
  assert(result.ready());
  assert(result.done());
  assert(result.successful());
  assertEquals([result.value, result.exception], [1, undefined]);
  assertEquals(result.getNowait(), 1);
  assertEquals(await result.get(), 1);
  assertEquals(await result.get({ block: false }), 1);
  assertEquals(await result.get({ timeout: 0 }), 1);
  assertEquals(await result.result(), 1);
  assertEquals(await result.wait(), 1);
});

Deno.test("AsyncResult is pending, and then has an error", async () => {
  const result = new AsyncResult<number>();
  result.setException(ERROR);
  assert(result.ready());
  assert(result.done());
  assertFalse(result.successful());
  assertEquals([result.value, result.exception], [undefined, ERROR]);
  assertStrictEquals(assertThrows(() => result.getNowait()), ERROR);
  assertStrictEquals(await assertRejects(() => result.get()), ERROR);
  assertStrictEquals(await assertRejects(() => result.result()), ERROR);
  assertEquals(await result.wait(), undefined);
});

Deno.test("AsyncResult takes undefined as a value, and anything as an error", async () => {
  const value = new AsyncResult<undefined>();
  value.set(undefined);
  assert(value.successful());
  assertEquals(await value.get(), undefined);
  const failed = new AsyncResult();
  failed.setException(undefined);
  assert(failed.ready());
  assertFalse(failed.successful());
  const outcome = await failed.get().then(() => "value", (error) => [error]);
  assertEquals(outcome, [undefined]);
});

Deno.test("AsyncResult.set() again replaces what was set", async () => {
  const result = new AsyncResult<number>();
  result.setException(ERROR);
  result.set(1);
  assertEquals([result.value, result.exception], [1, undefined]);
  result.set(2);
  assertEquals(await result.get(), 2);
  result.setException(ERROR);
  assertEquals([result.value, result.exception], [undefined, ERROR]);
});

testBoth(
  "AsyncResult.get() gives all waiters the value, in the order in which they came",
  {
    async async(result: AsyncResult<string>, log: unknown[], i: number) {
      log.push([i, await result.get()]);
    },
    *generator(result: AsyncResult<string>, log: unknown[], i: number) {
      log.push([i, yield* result.get()]);
    },
  },
  async (body) => {
    const result = new AsyncResult<string>();
    const log: unknown[] = [];
    const three = [0, 1, 2].map((i) => spawn(body, result, log, i));
    await settle();
    assertEquals(result.linkCount(), 3);
    result.set("value");
    await joinAll(three);
    assertEquals(log, [[0, "value"], [1, "value"], [2, "value"]]);
    assertEquals(result.linkCount(), 0);
  },
);

testBoth("AsyncResult.get() throws the error that is set", {
  async async(result: AsyncResult) {
    try {
      return await result.get();
    } catch (error) {
      return { error };
    }
  },
  *generator(result: AsyncResult) {
    try {
      return yield* result.get();
    } catch (error) {
      return { error };
    }
  },
}, async (body) => {
  const result = new AsyncResult();
  const two = [spawn(body, result), spawn(body, result)];
  await settle();
  result.setException(ERROR);
  await joinAll(two);
  assertEquals(two.map((g) => g.value), [{ error: ERROR }, { error: ERROR }]);
  assertEquals(await spawn(body, result).get(), { error: ERROR });
});

Deno.test("AsyncResult.get() waits in main for a value and for an error", async () => {
  const value = new AsyncResult<string>();
  spawn(() => value.set("value"));
  assertEquals(await value.get(), "value");
  const failed = new AsyncResult();
  spawn(() => failed.setException(ERROR));
  assertStrictEquals(await assertRejects(() => failed.get()), ERROR);
});

Deno.test("AsyncResult.get() that is not awaited causes no unhandled rejection when an error is set", async () => {
  const result = new AsyncResult();
  result.setException(ERROR);
  result.get();
  result.get({ block: false });
  await settle();
});

testBoth("AsyncResult.get() throws a Timeout at the timeout", {
  async async(result: AsyncResult, timeout: number) {
    return await result.get({ timeout });
  },
  *generator(result: AsyncResult, timeout: number) {
    return yield* result.get({ timeout });
  },
}, async (body) => {
  using failures = new Failures();
  const result = new AsyncResult();
  for (const timeout of [-1, 0, 5]) {
    const g = spawn(body, result, timeout);
    const error = await assertRejects(() => g.get(), Timeout);
    assertEquals(error.ms, timeout);
    assertEquals(result.linkCount(), 0);
  }
  assertEquals(failures.errors, []);
});

Deno.test("AsyncResult.get() throws a Timeout at once if it is not to block", async () => {
  const result = new AsyncResult();
  await assertRejects(() => result.get({ block: false }), Timeout);
  await assertRejects(
    () => result.get({ block: false, timeout: FOREVER }),
    Timeout,
  );
  assertThrows(() => result.getNowait(), Timeout);
  await assertRejects(() => result.result({ timeout: 1 }), Timeout);
  assertEquals(result.linkCount(), 0);
});

Deno.test("AsyncResult.get() is limited by withTimeout()", async () => {
  const result = new AsyncResult();
  const value = await withTimeout(1, () => result.get(), { value: "late" });
  assertEquals(value, "late");
  assertEquals(result.linkCount(), 0);
});

testBoth("AsyncResult.get() is interrupted by a Timeout of another error", {
  async async(result: AsyncResult, error: Error) {
    using _ = Timeout.start(0, { error });
    return await result.get();
  },
  *generator(result: AsyncResult, error: Error) {
    using _ = Timeout.start(0, { error });
    return yield* result.get();
  },
}, async (body) => {
  using failures = new Failures();
  const result = new AsyncResult();
  const setter = spawnLater(FOREVER, () => result.set(1));
  const error = new Error("interrupted");
  const g = spawn(body, result, error);
  assertStrictEquals(await assertRejects(() => g.get()), error);
  assertEquals(result.linkCount(), 0);
  assertEquals(failures.errors, []);
  await setter.kill();
});

testBoth("AsyncResult.wait() throws nothing", {
  async async(result: AsyncResult<number>, timeout: number) {
    return [await result.wait({ timeout }), result.ready()];
  },
  *generator(result: AsyncResult<number>, timeout: number) {
    return [yield* result.wait({ timeout }), result.ready()];
  },
}, async (body) => {
  const value = new AsyncResult<number>();
  assertEquals(await spawn(body, value, 1).get(), [undefined, false]);
  assertEquals(value.linkCount(), 0);
  const waiting = spawn(body, value, FOREVER);
  await settle();
  value.set(1);
  assertEquals(await waiting.get(), [1, true]);
  const failed = new AsyncResult<number>();
  const other = spawn(body, failed, Infinity);
  await settle();
  failed.setException(ERROR);
  assertEquals(await other.get(), [undefined, true]);
  assertEquals(await spawn(body, failed, 0).get(), [undefined, true]);
});

Deno.test("AsyncResult.cancel() cancels nothing", async () => {
  const result = new AsyncResult<number>();
  assertEquals(result.cancel(), false);
  assertEquals(result.cancelled(), false);
  result.set(1);
  assertEquals(await result.get(), 1);
});

Deno.test("AsyncResult is filled by a greenlet that gives a value", async () => {
  const g = spawn(async () => {
    await sleep(1);
    return 1;
  });
  const [all, values, errors, raw] = [0, 1, 2, 3].map(() =>
    new AsyncResult<number>()
  ) as [
    AsyncResult<number>,
    AsyncResult<number>,
    AsyncResult<number>,
    AsyncResult<number>,
  ];
  g.link(all);
  g.linkValue(values);
  g.linkException(errors);
  g.rawlink(raw);
  assertEquals(await all.get(), 1);
  assertEquals(await values.get(), 1);
  assertEquals(await raw.get(), 1);
  const late = await withTimeout(5, () => errors.get(), { value: "never" });
  assertEquals(late, "never" as never);
  // Of a greenlet that has ended, as well.
  const after = new AsyncResult<number>();
  g.link(after);
  assertEquals(await after.get(), 1);
});

Deno.test("AsyncResult is filled by a greenlet that fails", async () => {
  using _ = new Failures();
  const g = spawn((): number => {
    throw ERROR;
  });
  const all = new AsyncResult<number>();
  const values = new AsyncResult<number>();
  const errors = new AsyncResult<number>();
  g.link(all);
  g.linkValue(values);
  g.linkException(errors);
  assertStrictEquals(await assertRejects(() => all.get()), ERROR);
  assertStrictEquals(await assertRejects(() => errors.get()), ERROR);
  await assertRejects(() => values.get({ timeout: 5 }), Timeout);
});

Deno.test("AsyncResult is filled by a greenlet that is killed, and by another result", async () => {
  const g = spawn(sleep, FOREVER);
  const result = new AsyncResult<unknown>();
  const copy = new AsyncResult<unknown>();
  g.link(result);
  result.rawlink(copy);
  const exit = new GreenletExit();
  await g.kill(exit);
  assertStrictEquals(await result.get(), exit);
  assertStrictEquals(await copy.get(), exit);
});

Deno.test("AsyncResult hands an error over that others may throw, too", async () => {
  using _ = new Failures();
  const result = new AsyncResult();
  const error = new Error("expected");
  result.setException(error);
  assertStrictEquals(await assertRejects(() => result.get()), error);
  const g = spawn(() => {
    throw error;
  });
  await g.join();
  assertStrictEquals(g.exception, error);
});

testBoth("AsyncResult hands the Timeout of another greenlet over as it is", {
  async async(result: AsyncResult) {
    await result.get();
  },
  *generator(result: AsyncResult) {
    yield* result.get();
  },
}, async (body) => {
  using failures = new Failures();
  const failed = spawn(async () => {
    using _ = Timeout.start(1);
    await sleep(FOREVER);
  });
  const result = new AsyncResult();
  failed.link(result);
  const waiting = spawn(body, result);
  await waiting.join();
  const later = spawn(body, result);
  const nowait = spawn(() => result.getNowait());
  await joinAll([later, nowait]);
  assertInstanceOf(failed.exception, Timeout);
  for (const g of [waiting, later, nowait]) {
    assertStrictEquals(g.exception, failed.exception);
  }
  assertEquals(failures.contexts.length, 3);
  assertFalse(failures.contexts.includes(failed));
});

Deno.test("AsyncResult.rawlink() calls once, soon and from the hub", async () => {
  const result = new AsyncResult<number>();
  const log: unknown[] = [];
  const link = (source: AsyncResult<number>) => {
    assertStrictEquals(getCurrent(), getHub());
    log.push(source.value);
  };
  result.rawlink(link);
  await spawn(() => result.set(1)).join();
  await settle();
  assertEquals(log, [1]);
  result.rawlink(link);
  assertEquals(log, [1]);
  await settle();
  assertEquals(log, [1, 1]);
  result.rawlink(link);
  result.unlink(link);
  result.unlink(link);
  result.unlink(null as never);
  await settle();
  assertEquals(log, [1, 1]);
});

// --- wait() and iwait() over them

testBoth("wait() waits for events, results, semaphores and greenlets", {
  async async(objects: (Event | AsyncResult | Semaphore | Greenlet)[]) {
    return await wait(objects);
  },
  *generator(objects: (Event | AsyncResult | Semaphore | Greenlet)[]) {
    return yield* wait(objects);
  },
}, async (body) => {
  const event = new Event();
  const result = new AsyncResult();
  const semaphore = new Semaphore(0);
  const greenlet = spawn(sleep, 1) as Greenlet;
  const objects = [event, result, semaphore, greenlet];
  const g = spawn(body, objects);
  await greenlet.join();
  semaphore.release();
  await settle();
  assertFalse(g.dead);
  result.setException(ERROR);
  await settle();
  event.set();
  const ready = await g.get();
  assertEquals(ready.map((o) => objects.indexOf(o)), [3, 2, 1, 0]);
  // It has taken nothing.
  assertEquals(semaphore.counter, 1);
});

Deno.test("wait() with a count gives that number of objects, and leaves no link in the others", async () => {
  for (const count of [0, 1, 2, 10]) {
    const events = Array.from({ length: 5 }, () => new Event());
    const results = Array.from({ length: 5 }, () => new AsyncResult());
    const sender = spawn(async () => {
      for (const [i, event] of events.entries()) {
        await sleep();
        event.set();
        await sleep();
        results[i]!.set(i);
      }
    });
    const all = [...events, ...results];
    const ready = await wait(all, { count, timeout: FOREVER });
    assertEquals(ready.length, count);
    assertEquals(sender.dead, count === 10);
    await sender.join();
    assert(all.every((object) => object.linkCount() === 0));
  }
});

Deno.test("wait() gives the objects that are ready at the timeout, and leaves no link", async () => {
  const [set, unset] = [new Event(), new Event()];
  const [result, taken] = [new AsyncResult(), new Semaphore(0)];
  set.set();
  const ready = await wait([set, unset, result, taken], { timeout: 5 });
  assertEquals(ready.length, 1);
  assertStrictEquals(ready[0], set);
  for (const object of [set, unset, result, taken]) {
    assertEquals(object.linkCount(), 0);
  }
});

Deno.test("wait() gives an event that is set each time it is asked", async () => {
  const event = new Event();
  event.set();
  for (let i = 0; i < 2; i++) {
    const ready = await wait([event]);
    assertEquals(ready.length, 1);
    assertStrictEquals(ready[0], event);
  }
});

testBoth("wait() that is interrupted leaves no link", {
  async async(objects: (Event | AsyncResult | Semaphore)[]) {
    await wait(objects);
  },
  *generator(objects: (Event | AsyncResult | Semaphore)[]) {
    yield* wait(objects);
  },
}, async (body) => {
  const objects = [new Event(), new AsyncResult(), new Semaphore(0)];
  const g = spawn(body, objects);
  await settle();
  assertEquals(objects.map((o) => o.linkCount()), [1, 1, 1]);
  await g.kill(undefined, { grace: Infinity });
  assertEquals(objects.map((o) => o.linkCount()), [0, 0, 0]);
});

testBoth(
  "iwait() gives events, results, semaphores and greenlets as they get ready",
  {
    async async(objects: (Event | AsyncResult | Semaphore | Greenlet)[]) {
      const log: unknown[] = [];
      for await (const object of iwait(objects)) {
        log.push(objects.indexOf(object));
      }
      return log;
    },
    *generator(objects: (Event | AsyncResult | Semaphore | Greenlet)[]) {
      const log: unknown[] = [];
      using ready = iwait(objects);
      for (;;) {
        const { done, value } = yield* ready.next();
        if (done) return log;
        log.push(objects.indexOf(value!));
      }
    },
  },
  async (body) => {
    const event = new Event();
    const result = new AsyncResult();
    const semaphore = new Semaphore(0);
    const greenlet = spawn(() => {}) as Greenlet;
    const objects = [event, result, semaphore, greenlet];
    const g = spawn(body, objects);
    await settle();
    semaphore.release();
    await settle();
    event.set();
    await settle();
    assertFalse(g.dead);
    result.set(1);
    assertEquals(await g.get(), [3, 2, 0, 1]);
    assertEquals(objects.slice(0, 3).map((o) => (o as Event).linkCount()), [
      0,
      0,
      0,
    ]);
  },
);

Deno.test("iwait() given up leaves no link", async () => {
  const event = new Event();
  const objects = [event, new AsyncResult(), new Semaphore(0)];
  event.set();
  for await (const object of iwait(objects)) {
    assertStrictEquals(object, event);
    break;
  }
  assertEquals(objects.map((o) => o.linkCount()), [0, 0, 0]);
});

// --- Every wait, whatever meets it

const WAITS = {
  "Event.wait()": () => new Event().wait({ timeout: FOREVER }),
  "AsyncResult.wait()": () => new AsyncResult().wait({ timeout: FOREVER }),
  "AsyncResult.get()": () => new AsyncResult().get({ timeout: FOREVER }),
  "wait() for an event": () => wait([new Event()], { timeout: FOREVER }),
  "wait() for a result": () => wait([new AsyncResult()], { timeout: FOREVER }),
};

for (const [name, begin] of Object.entries(WAITS)) {
  Deno.test(`${name} does not lose the Timeout around it`, async () => {
    using timeout = Timeout.start(1);
    assertStrictEquals(await assertRejects(begin, Timeout), timeout);
  });

  testBoth(`${name} throws a kill that is held, and begins nothing`, {
    async async(log: string[]) {
      kill();
      try {
        await begin();
      } finally {
        log.push("finally");
      }
    },
    *generator(log: string[]) {
      kill();
      try {
        yield* begin();
      } finally {
        log.push("finally");
      }
    },
  }, async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await g.join();
    assertInstanceOf(g.value, GreenletExit);
    assertEquals(log, ["finally"]);
  });
}

/** Kills the current greenlet between its waits. */
function kill(): void {
  (getCurrent() as Greenlet).kill(undefined, { block: false });
}

testBoth("Event.wait() of 1,000 killed at once leaves no link", {
  async async(event: Event) {
    await event.wait();
  },
  *generator(event: Event) {
    yield* event.wait();
  },
}, async (body) => {
  const event = new Event();
  const all = Array.from({ length: 1000 }, () => spawn(body, event));
  await settle();
  assertEquals(event.linkCount(), 1000);
  await killAll(all);
  assertEquals(event.linkCount(), 0);
});
