import { clock, giveBack } from "../_clock.ts";
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  Event,
  getHub,
  Greenlet,
  GreenletExit,
  Group,
  type Nursery,
  nursery,
  Pool,
  run,
  sleep,
  spawn,
  spawnRaw,
  type Wait,
} from "../../mod.ts";
import { type Body, Failures, settle, testBoth } from "../_bodies.ts";

giveBack();

const FOREVER = 1e9;

/** A body that cleans up until its gate opens, and notes what happens meanwhile. */
class CleanUp {
  readonly gate = new Event();
  readonly errors: unknown[] = [];
  begun = false;
  cut: unknown = null;
  finished = false;
}

/**
 * The two bodies for {@linkcode testBoth}: each sleeps, and cleans up when it is killed.
 */
const cleaners = {
  async: async (me: CleanUp) => {
    try {
      await sleep(FOREVER);
    } catch (error) {
      me.errors.push(error);
      throw error;
    } finally {
      me.begun = true;
      try {
        await me.gate.wait();
        me.finished = true;
      } catch (error) {
        me.cut = error;
      }
    }
  },
  generator: function* (me: CleanUp) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      me.errors.push(error);
      throw error;
    } finally {
      me.begun = true;
      try {
        yield* me.gate.wait();
        me.finished = true;
      } catch (error) {
        me.cut = error;
      }
    }
  },
};

type Cleaner = Body<[CleanUp], void>;

/** A greenlet that waits. */
async function begin(body: Cleaner, me: CleanUp): Promise<Greenlet> {
  const greenlet = spawn(body, me);
  await settle();
  return greenlet as Greenlet;
}

/** Checks that a clean-up is left alone and ends by itself. */
async function assertLeftAlone(me: CleanUp, greenlet: Greenlet): Promise<void> {
  await settle();
  assert(me.begun);
  assertFalse(greenlet.dead);
  me.gate.set();
  await greenlet.join();
  assertEquals([me.finished, me.cut, me.errors.length], [true, null, 1]);
}

// --- Group and Pool

for (
  const [name, make] of [
    ["Group", () => new Group()],
    ["Pool", () => new Pool(3)],
  ] as [string, () => Group | Pool][]
) {
  const again: [string, (group: Group | Pool, g: Greenlet) => Wait<void>][] = [
    ["kill()", (group) => group.kill({ block: false })],
    ["killOne()", (group, g) => group.killOne(g, undefined, { block: false })],
  ];
  const first: typeof again = [
    ...again,
    ["Greenlet.kill()", (_, g) => g.kill(undefined, { block: false })],
  ];
  for (const [how, killFirst] of first) {
    for (const [method, killAgain] of again) {
      testBoth(
        `${name}.${method} leaves a greenlet that ${how} has killed to its clean-up`,
        cleaners,
        async (body) => {
          const group = make();
          const me = new CleanUp();
          const g = await begin(body, me);
          await group.add(g);
          killFirst(group, g);
          // Before the error has arrived, and while the body cleans up.
          killAgain(group, g);
          await settle();
          killAgain(group, g);
          await assertLeftAlone(me, g);
          assertInstanceOf(g.value, GreenletExit);
        },
      );
    }
  }

  testBoth(
    `${name}.kill() that is called twice waits both times for the clean-up`,
    cleaners,
    async (body) => {
      const group = make();
      const me = new CleanUp();
      await group.add(await begin(body, me));
      const killers = [spawn(() => group.kill()), spawn(() => group.kill())];
      await settle();
      assert(me.begun);
      assertEquals(killers.map((g) => g.dead), [false, false]);
      me.gate.set();
      for (const killer of killers) await killer.get();
      assertEquals([me.finished, me.cut, group.size], [true, null, 0]);
    },
  );

  testBoth(
    `${name}.kill() with a shorter grace ends a clean-up by then, and throws nothing before`,
    cleaners,
    async (body) => {
      using _clock = clock.stop();
      const group = make();
      const me = new CleanUp();
      const g = await begin(body, me);
      await group.add(g);
      group.kill({ block: false, grace: 1000 });
      await settle();
      const start = clock.now();
      group.kill({ block: false, grace: 2000 });
      group.kill({ block: false, grace: 50 });
      await settle();
      assertStrictEquals(me.cut, null);
      clock.advance();
      await g.join();
      assertFalse(me.finished);
      assert(clock.now() - start >= 50 && clock.now() - start < 1000);
      assertEquals(clock.armed, 0);
    },
  );

  testBoth(
    `${name}.kill() with no grace ends a clean-up at once`,
    cleaners,
    async (body) => {
      const group = make();
      const me = new CleanUp();
      await group.add(await begin(body, me));
      group.kill({ block: false });
      await settle();
      await group.kill({ grace: 0 });
      assertEquals([me.begun, me.finished, group.size], [true, false, 0]);
    },
  );

  testBoth(
    `${name}.kill() ends a greenlet that was killed with an endless grace within its usual grace`,
    cleaners,
    async (body) => {
      using _clock = clock.stop();
      const group = make();
      const me = new CleanUp();
      const g = await begin(body, me);
      await group.add(g);
      g.kill(undefined, { block: false, grace: Infinity });
      await settle();
      const start = clock.now();
      const killer = spawn(() => group.kill());
      await settle();
      assertStrictEquals(me.cut, null);
      clock.advance();
      await killer.get();
      assert(g.dead && !me.finished);
      assert(clock.now() - start >= 1000);
    },
  );

  Deno.test(`${name}.kill() throws once into a greenlet that has given control away by a switch`, async () => {
    const group = make();
    const me = new CleanUp();
    const g = spawn(function* () {
      try {
        yield* getHub().switch();
      } catch (error) {
        me.errors.push(error);
        me.begun = true;
        yield* me.gate.wait();
        me.finished = true;
      }
    }) as Greenlet;
    await settle();
    await group.add(g);
    group.kill({ block: false });
    group.kill({ block: false });
    await settle();
    group.kill({ block: false });
    await assertLeftAlone(me, g);
  });

  Deno.test(`${name}.killOne() that a greenlet calls in its clean-up leaves it to that`, async () => {
    const group = make();
    const order: string[] = [];
    const g = spawn(async () => {
      try {
        await sleep(FOREVER);
      } finally {
        await group.killOne(g);
        order.push("killed");
        await sleep(0);
        order.push("cleaned up");
      }
    }) as Greenlet;
    await group.add(g);
    await settle();
    await group.killOne(g);
    assertEquals(order, ["killed", "cleaned up"]);
  });

  testBoth(
    `${name}.kill() kills a greenlet that has not started once`,
    cleaners,
    async (body) => {
      const group = make();
      const me = new CleanUp();
      const g = Greenlet.spawnLater(FOREVER, body, me) as Greenlet;
      await group.add(g);
      group.kill({ block: false });
      await group.kill();
      assert(g.dead && !me.begun);
      assertInstanceOf(g.value, GreenletExit);
    },
  );
}

// --- nursery

testBoth(
  "nursery() that closes leaves a child that was killed before to its clean-up",
  cleaners,
  async (body) => {
    using failures = new Failures();
    const me = new CleanUp();
    let child!: Greenlet;
    const closing = spawn(() =>
      nursery(async (n: Nursery) => {
        child = n.spawn(body, me) as Greenlet;
        await settle();
        child.kill(undefined, { block: false, grace: 1e6 });
        await settle();
        throw new Error("Boom");
      })
    );
    while (!me.begun) await settle();
    await assertLeftAlone(me, child);
    await assertRejects(() => closing.get(), Error, "Boom");
    // Whether get() has come in time to take the error depends on the clean-up
    assert(failures.errors.length <= 1);
  },
);

testBoth(
  "nursery() that is killed leaves a child that was killed before to its clean-up",
  cleaners,
  async (body) => {
    const me = new CleanUp();
    let child!: Greenlet;
    const g = spawn(() =>
      nursery(async (n: Nursery) => {
        child = n.spawn(body, me) as Greenlet;
        await sleep(FOREVER);
      })
    );
    await settle();
    child.kill(undefined, { block: false });
    await settle();
    g.kill(undefined, { block: false });
    await assertLeftAlone(me, child);
    await g.join();
  },
);

testBoth(
  "nursery() leaves its function to its clean-up when a child fails meanwhile",
  cleaners,
  async (body) => {
    using failures = new Failures();
    const me = new CleanUp();
    const fail = new Event();
    const g = spawn(() =>
      nursery((n: Nursery) => {
        n.spawn(async () => {
          await fail.wait();
          throw new Error("Child");
        });
        return body(me);
      })
    ) as Greenlet;
    await settle();
    g.kill(undefined, { block: false });
    await settle();
    assert(me.begun);
    fail.set();
    await assertLeftAlone(me, g);
    assertInstanceOf(g.value, GreenletExit);
    assertEquals(failures.errors.map(String), ["Error: Child"]);
  },
);

testBoth(
  "nursery() kills a function that uses it in a clean-up when a child fails",
  cleaners,
  async (body) => {
    using _failures = new Failures();
    const me = new CleanUp();
    const g = spawn(async () => {
      try {
        await sleep(FOREVER);
      } finally {
        await nursery((n: Nursery) => {
          n.spawn(() => {
            throw new Error("Child");
          });
          return body(me);
        }).catch((error) => me.errors.push(error));
      }
    }) as Greenlet;
    await settle();
    me.gate.set();
    await g.kill();
    assertEquals([me.begun, me.finished], [true, true]);
    assertEquals(
      (me.errors.at(-1) as Error).message,
      "Child",
    );
  },
);

testBoth(
  "run() ends although a greenlet starts another whenever it is killed",
  {
    async: async (begun: unknown[], again: () => void) => {
      begun.push(1);
      try {
        await sleep(FOREVER);
      } finally {
        again();
      }
    },
    generator: function* (begun: unknown[], again: () => void) {
      begun.push(1);
      try {
        yield* sleep(FOREVER);
      } finally {
        again();
      }
    },
  },
  async (body) => {
    for (const start of [spawn, spawnRaw]) {
      const begun: unknown[] = [];
      const again = (): unknown => start(body, begun, again);
      await run(async () => {
        again();
        await sleep(0);
      });
      const { length } = begun;
      await settle();
      assertEquals(begun.length, length);
    }
    // Others start as before.
    assertEquals(await run(() => "over"), "over");
  },
);
