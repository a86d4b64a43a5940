/** Thousands of calls within each other, and chains of thousands of greenlets. */

import {
  assert,
  assertInstanceOf,
  assertMatch,
  assertRejects,
} from "@std/assert";
import {
  Event,
  Greenlet,
  GreenletExit,
  nursery,
  sleep,
  spawn,
  Timeout,
  withTimeout,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { type Bodies, settle, testBoth } from "../_bodies.ts";

const FOREVER = 1e9;

/** Calls within each other: more than nested calls of functions could be. */
const DEEP = 5000;

const NESTED: Bodies<[number], void> = {
  async async(depth) {
    // Without this, the calls would be nested as functions.
    await sleep(0);
    if (depth === 0) await sleep(FOREVER);
    else await withTimeout(FOREVER, () => NESTED.async(depth - 1));
  },
  *generator(depth) {
    if (depth === 0) yield* sleep(FOREVER);
    else yield* withTimeout(FOREVER, () => NESTED.generator(depth - 1));
  },
};

testBoth(
  "withTimeout() within thousands of others is interrupted, described and ended",
  NESTED,
  async (body) => {
    for (const grace of [1000, 0]) {
      const greenlet = spawn(body, DEEP);
      await settle();
      assertMatch(greenlet.waitsIn!, /calls within each other.*withTimeout/);
      await greenlet.kill(undefined, { grace });
      assertInstanceOf(greenlet.value, GreenletExit);
    }
  },
);

Deno.test("Timeout.close() lets go of its error within thousands of withTimeout()", async () => {
  using clock = new TestClock();
  const innermost = new Event();
  const foreign = Promise.withResolvers<void>();
  async function nested(depth: number): Promise<void> {
    await sleep(0);
    if (depth > 0) return withTimeout(FOREVER, () => nested(depth - 1));
    innermost.set();
    await foreign.promise;
    await sleep(0);
  }
  const timeout = new Timeout(1);
  const greenlet = spawn(() => {
    timeout.start();
    return nested(DEEP);
  });
  await innermost.wait();
  // Both end in one tick: the error has come to the innermost function, and was not thrown.
  const closer = spawn(async () => {
    await sleep(1);
    timeout.close();
    foreign.resolve();
  });
  await sleep(0);
  await clock.advance(1);
  await closer.get();
  await greenlet.get();
});

/** Greenlets in a chain, or in one group. */
const MANY = 2000;

testBoth(
  "Greenlet.join() ends in a chain of thousands whose head is killed",
  {
    async async(before: Greenlet | null) {
      await (before?.get() ?? sleep(FOREVER));
    },
    *generator(before: Greenlet | null) {
      yield* before?.get() ?? sleep(FOREVER);
    },
  },
  async (body) => {
    const head = spawn(body, null);
    let last: Greenlet = head;
    for (let i = 0; i < MANY; i++) last = spawn(body, last);
    await settle();
    await head.kill();
    await last.join();
    assert(last.successful());
  },
);

testBoth(
  "Greenlet.rawlink() kills and starts greenlets along a chain of thousands",
  {
    async async() {
      await sleep(FOREVER);
    },
    *generator() {
      yield* sleep(FOREVER);
    },
  },
  async (body) => {
    for (const isStarted of [true, false]) {
      const chain = Array.from({ length: MANY }, () => new Greenlet(body));
      chain.forEach((greenlet, i) => {
        if (isStarted) greenlet.start();
        greenlet.rawlink(() => {
          chain[i + 1]?.kill(undefined, { block: false });
        });
      });
      await settle();
      await chain[0]!.kill();
      await chain.at(-1)!.join();
      assert(chain.every((greenlet) => greenlet.dead));
    }
  },
);

testBoth(
  "nursery() of thousands of greenlets ends by a kill and by a failure",
  {
    async async() {
      await sleep(FOREVER);
    },
    *generator() {
      yield* sleep(FOREVER);
    },
  },
  async (body) => {
    const failed = new Event();
    const make = () =>
      spawn(() =>
        nursery((children) => {
          for (let i = 0; i < MANY; i++) children.spawn(body);
          children.spawn(async () => {
            await failed.wait();
            throw new Error("failed");
          });
        })
      );
    const greenlets = [make(), make()] as const;
    await settle();
    await greenlets[0].kill();
    assert(greenlets[0].successful());
    failed.set();
    await assertRejects(() => greenlets[1].get(), Error, "failed");
  },
);
