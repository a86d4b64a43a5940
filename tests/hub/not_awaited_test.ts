/** Calls whose waits the program does not await, and interrupts that are due. */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  Event,
  getCurrent,
  Greenlet,
  GreenletExit,
  Group,
  kill,
  killAll,
  nursery,
  Pool,
  Queue,
  select,
  sleep,
  spawn,
  Timeout,
  until,
  Waiter,
  withTimeout,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

const FOREVER = 1e9;

/** A promise that is not a wait of the library. */
const foreign = () => Promise.resolve();

testBoth(
  "Greenlet.kill() of the greenlet itself throws in the next wait, if it is not awaited",
  {
    async async(log: string[]) {
      (getCurrent() as Greenlet).kill(undefined, { grace: Infinity });
      log.push("goes on");
      await sleep(FOREVER);
      log.push("not reached");
    },
    *generator(log: string[]) {
      (getCurrent() as Greenlet).kill(undefined, { grace: Infinity });
      log.push("goes on");
      yield* sleep(FOREVER);
      log.push("not reached");
    },
  },
  async (body) => {
    const log: string[] = [];
    const greenlet = spawn(body, log);
    await settle();
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(log, ["goes on"]);
  },
);

/** Calls that throw an interrupt that is due, and that programs often don't await. */
const NOT_AWAITED: Record<string, (other: Greenlet) => unknown> = {
  "Greenlet.kill()": (other) => other.kill(),
  "kill()": (other) => kill(other),
  "killAll()": (other) => killAll([other]),
  "Group.kill()": (other) => new Group([other]).kill(),
  "Greenlet.join()": (other) => other.join(),
  "Queue.put()": () => new Queue(1, [0]).put(1),
  "Queue.get()": () => new Queue().get(),
  "sleep()": () => sleep(1),
  "withTimeout()": () => withTimeout(1, () => sleep(FOREVER)),
  "nursery()": () => nursery(() => sleep(FOREVER)),
  "select()": () => select([() => sleep(FOREVER)]),
  "until()": () => until(new Promise(() => {})),
  "Waiter.get()": () => new Waiter().get(),
  "Pool.map()": () => new Pool(1).map(() => sleep(FOREVER), [1]),
};

for (const [name, call] of Object.entries(NOT_AWAITED)) {
  testBoth(
    `${name} that is not awaited leaves an interrupt that is due to the next wait`,
    {
      async async(interrupt: (me: Greenlet) => void, other: Greenlet) {
        interrupt(getCurrent() as Greenlet);
        call(other);
        await sleep(FOREVER);
      },
      *generator(interrupt: (me: Greenlet) => void, other: Greenlet) {
        interrupt(getCurrent() as Greenlet);
        call(other);
        yield* sleep(FOREVER);
      },
    },
    async (body) => {
      using _failures = new Failures();
      const options = { block: false, grace: Infinity };
      const others = [new Greenlet(sleep, FOREVER), spawn(sleep, FOREVER)];
      const killed = spawn(body, (me) => {
        me.kill(undefined, options);
      }, others[0]!);
      const stop = new Error("stop");
      const failed = spawn(body, (me) => {
        me.kill(stop, options);
      }, others[1]!);
      await settle();
      assertInstanceOf(killed.value, GreenletExit);
      assertStrictEquals(failed.exception, stop);
      await killAll(others);
    },
  );
}

/** Kills of a greenlet that cleans up for long. */
const KILLS: Record<string, (other: Greenlet) => unknown> = {
  "Greenlet.kill()": (other) => other.kill(),
  "kill()": (other) => kill(other),
  "killAll()": (other) => killAll([other]),
  "Group.killOne()": (other) => {
    const group = new Group([other]);
    other.kill(undefined, { block: false });
    group.killOne(other);
  },
};

for (const [name, call] of Object.entries(KILLS)) {
  testBoth(
    `${name} that is not awaited is not the wait that an interrupt ends`,
    {
      async async(other: Greenlet, interrupt: (me: Greenlet) => void) {
        call(other);
        interrupt(getCurrent() as Greenlet);
        await foreign();
        await sleep(FOREVER);
      },
      *generator(other: Greenlet, interrupt: (me: Greenlet) => void) {
        call(other);
        interrupt(getCurrent() as Greenlet);
        yield* sleep(FOREVER);
      },
    },
    async (body) => {
      const cleaned = new Event();
      const other = spawn(async () => {
        try {
          await sleep(FOREVER);
        } finally {
          await cleaned.wait();
        }
      });
      await settle();
      const killed = spawn(body, other, (me) => {
        me.kill(undefined, { block: false, grace: Infinity });
      });
      await settle();
      assertInstanceOf(killed.value, GreenletExit);
      cleaned.set();
      await other.join();
    },
  );
}

Deno.test("Greenlet.kill() and killAll() wait for the end from the call on, when they are awaited later", async () => {
  for (
    const call of [(g: Greenlet) => g.kill(), (g: Greenlet) => killAll([g])]
  ) {
    const greenlets = [spawn(sleep, FOREVER), spawn(sleep, FOREVER)] as const;
    await settle();
    const waits = greenlets.map(call);
    await settle();
    assert(greenlets.every((one) => one.dead));
    await Promise.all(waits);
    await waits[0];
    await spawn(function* () {
      yield* waits[1]!;
    }).get();
  }
  const stuck = spawn(() => new Promise(() => {}));
  await settle();
  const kill = stuck.kill(undefined, { timeout: 1 });
  const all = killAll([stuck], { timeout: 1 });
  await sleep(2);
  await kill;
  await assertRejects(() => all, Timeout);
});

Deno.test("Greenlet.kill() of others in a clean-up past its grace does not count as swallowing the kill", async () => {
  using failures = new Failures();
  const log: string[] = [];
  const others = Array.from({ length: 20 }, () => spawn(sleep, FOREVER));
  const greenlet = spawn(async () => {
    try {
      await sleep(FOREVER);
    } finally {
      for (const other of others) other.kill();
      await foreign();
      log.push("cleaned up");
    }
  });
  await settle();
  await greenlet.kill(undefined, { grace: 0 });
  await settle();
  assertEquals(log, ["cleaned up"]);
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(failures.errors, []);
  assert(others.every((other) => other.dead));
});

testBoth(
  "Queue.get() that throws an interrupt throws it once, when it is awaited",
  {
    async async(log: string[]) {
      const queue = new Queue<number>();
      const me = getCurrent() as Greenlet;
      me.kill(new Error("stop"), { block: false, grace: Infinity });
      const wait = queue.get();
      queue.put(1);
      await foreign();
      await assertRejects(() => wait, Error, "stop");
      await assertRejects(() => wait, Error, "stop");
      await sleep(0);
      log.push(`${await queue.get()} is still there`);
    },
    *generator(log: string[]) {
      const queue = new Queue<number>();
      const me = getCurrent() as Greenlet;
      me.kill(new Error("stop"), { block: false, grace: Infinity });
      const wait = queue.get();
      queue.put(1);
      for (let i = 0; i < 2; i++) {
        try {
          yield* wait;
        } catch {
          log.push("thrown");
        }
      }
      yield* sleep(0);
      log.splice(0, 2, `${yield* queue.get()} is still there`);
    },
  },
  async (body) => {
    const log: string[] = [];
    await spawn(body, log).get();
    assertEquals(log, ["1 is still there"]);
  },
);

/** Kills of a greenlet that was killed before and does not end. */
const LIMITED: Record<
  string,
  (group: Group, greenlet: Greenlet, options: { timeout: number }) => unknown
> = {
  "Greenlet.kill()": (_, greenlet, options) =>
    greenlet.kill(undefined, options),
  "killAll()": (_, greenlet, options) => killAll([greenlet], options),
  "Group.kill()": (group, _, options) => group.kill(options),
  "Group.killOne()": (group, greenlet, options) =>
    group.killOne(greenlet, undefined, options),
};

for (const [name, call] of Object.entries(LIMITED)) {
  Deno.test(`${name} that is awaited later counts its timeout from the call`, async () => {
    using clock = new TestClock();
    const foreign = Promise.withResolvers<void>();
    const greenlet = spawn(() => foreign.promise);
    const group = new Group([greenlet]);
    await sleep(0);
    greenlet.kill(undefined, { block: false, grace: Infinity });
    const kill = call(group, greenlet, { timeout: 10 });
    await clock.advance(6);
    let over = false;
    const later = spawn(async () => {
      // `killAll()` throws a `Timeout`; the others return.
      try {
        await kill;
      } catch (error) {
        assertInstanceOf(error, Timeout);
      }
      over = true;
    });
    await clock.advance(3);
    assert(!over);
    await clock.advance(1);
    assert(over);
    foreign.resolve();
    await group.join();
    await later.join();
  });
}
