import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import events, { EventEmitter, on, once } from "node:events";
import { createRequire } from "node:module";
import { GreenletExit, patch, sleep, spawn } from "../../mod.ts";
import { settle } from "../_bodies.ts";
import { test } from "../_random.ts";
import { interruptInEveryWay } from "./_interrupted.ts";

const require = createRequire(import.meta.url);
const required = require("events") as typeof events;

/** Every way to `once`. */
const ways: Record<
  string,
  () => (
    emitter: EventEmitter,
    event: string,
    options?: { signal?: AbortSignal },
  ) => Promise<unknown[]>
> = {
  "of the default export": () => events.once,
  "of require()": () => required.once,
  "of EventEmitter": () => EventEmitter.once,
  "imported by name": () => once,
};

for (const [way, once] of Object.entries(ways)) {
  test(`events.once() ${way} ends with its greenlet, and leaves no listener`, async () => {
    using _ = patch();
    const emitter = new EventEmitter();
    const listeners = () =>
      emitter.eventNames().map((name) => emitter.listenerCount(name));
    await interruptInEveryWay(() => () => once()(emitter, "tick"), () => {
      assertEquals(listeners(), []);
    });
    // It is not killed any more.
    const other = spawn(async () => await once()(emitter, "tick"));
    await settle();
    assertEquals(listeners(), [1, 1]);
    emitter.emit("tick", 1, 2);
    assertEquals(await other.get(), [1, 2]);
    assertEquals(listeners(), []);
  });

  test(`events.once() ${way} keeps an event that comes before the interrupt`, async () => {
    using _ = patch();
    const emitter = new EventEmitter();
    const got: unknown[] = [];
    const greenlet = spawn(async () => {
      got.push(await once()(emitter, "tick"));
      await sleep(0);
      got.push("went on");
    });
    await settle();
    emitter.emit("tick", 1);
    await greenlet.kill();
    assertEquals(got, [[1]]);
    assertInstanceOf(greenlet.value, GreenletExit);
  });

  test(`events.once() ${way} tells of errors as without patch()`, async () => {
    using _ = patch();
    const emitter = new EventEmitter();
    const failed = new Error("The emitter's own");
    const greenlet = spawn(() =>
      assertRejects(async () => await once()(emitter, "tick"))
    );
    await settle();
    emitter.emit("error", failed);
    assertStrictEquals(await greenlet.get(), failed);
    assertEquals(emitter.eventNames(), []);
    const abort = new AbortController();
    const aborted = spawn(() =>
      assertRejects(async () =>
        await once()(emitter, "tick", { signal: abort.signal })
      )
    );
    await settle();
    abort.abort();
    assertEquals(((await aborted.get()) as Error).name, "AbortError");
    assertEquals(emitter.eventNames(), []);
    await spawn(() =>
      assertRejects(
        async () => await once()(emitter, "tick", null as never),
        TypeError,
      )
    ).get();
  });
}

test("events.once() by name lets go of a body that swallows its kill", async () => {
  using _ = patch();
  const emitter = new EventEmitter();
  let rounds = 0;
  const greenlet = spawn(async () => {
    for (;;) {
      rounds++;
      await once(emitter, "tick").catch(() => {});
    }
  });
  await settle();
  await greenlet.kill(undefined, { grace: 0 });
  const before = rounds;
  emitter.emit("tick");
  await settle();
  assertEquals(rounds, before);
  assertEquals(emitter.eventNames(), []);
});

test("events.once() ends for an EventTarget, and for the event 'error'", async () => {
  using _ = patch();
  const target = new EventTarget();
  await interruptInEveryWay(() => () => events.once(target, "tick"));
  const kept = spawn(async () => {
    const fired = await events.once(target, "tick");
    await sleep(0);
    return fired;
  });
  await settle();
  const tick = new Event("tick");
  let got: unknown;
  const first = spawn(async () => {
    [got] = await events.once(target, "tick");
    await sleep(0);
  });
  await settle();
  target.dispatchEvent(tick);
  await first.kill();
  assertStrictEquals(got, tick);
  assertEquals(await kept.get(), [tick]);
  const emitter = new EventEmitter();
  await interruptInEveryWay(
    () => () => events.once(emitter, "error"),
    () => assertEquals(emitter.eventNames(), []),
  );
});

test("events.on() ends with its greenlet, and leaves no listener", async () => {
  using _ = patch();
  const emitter = new EventEmitter();
  const begin = () => async () => {
    for await (const [value] of events.on(emitter, "tick")) {
      assertEquals(value, 1);
    }
  };
  await interruptInEveryWay(
    () => {
      queueMicrotask(() => emitter.emit("tick", 1));
      return begin();
    },
    () => assertEquals(emitter.eventNames(), []),
  );
});

test("events.on() loses no event until it is interrupted", async () => {
  using _ = patch();
  const emitter = new EventEmitter();
  const got: unknown[] = [];
  const greenlet = spawn(async () => {
    for await (const [value] of events.on(emitter, "tick")) got.push(value);
  });
  await settle();
  emitter.emit("tick", 1);
  emitter.emit("tick", 2);
  await settle();
  emitter.emit("tick", 3);
  await greenlet.kill();
  assertEquals(got, [1, 2, 3]);
});

test("events.on() in a loop that ends by itself is as without patch()", async () => {
  using _ = patch();
  const emitter = new EventEmitter();
  const greenlet = spawn(async () => {
    for await (const [value] of events.on(emitter, "tick")) return value;
  });
  await settle();
  emitter.emit("tick", 1);
  assertEquals(await greenlet.get(), 1);
  assertEquals(emitter.eventNames(), []);
});

Deno.test("events.once() and on() are the same functions to look at, and are restored", () => {
  const before = Object.getOwnPropertyDescriptors(events);
  const methods = Object.getOwnPropertyDescriptors(EventEmitter.prototype);
  {
    using _ = patch();
    assertEquals(events.once.name, once.name);
    assertEquals(events.once.length, once.length);
    assertEquals(events.on.length, on.length);
    assertStrictEquals(required.once, events.once);
  }
  assertEquals(Object.getOwnPropertyDescriptors(events), before);
  assertEquals(
    Object.getOwnPropertyDescriptors(EventEmitter.prototype),
    methods,
  );
});
