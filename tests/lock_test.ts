import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import {
  BoundedSemaphore,
  Condition,
  DummySemaphore,
  Event,
  getCurrent,
  getHub,
  type Greenlet,
  GreenletExit,
  joinAll,
  killAll,
  local,
  Lock,
  RLock,
  Semaphore,
  sleep,
  spawn,
  Timeout,
  type Wait,
  wait,
  withTimeout,
} from "../mod.ts";
import { Failures, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;
/**
 * Kills without insisting: an error that is not thrown at once never is, and the test
 * hangs.
 */
const ONCE = { grace: Infinity };

interface AnyLock extends Disposable {
  acquire(
    options?: { blocking?: boolean; timeout?: number },
  ): Wait<Disposable | null>;
  release(): unknown;
  locked(): boolean;
}

const LOCKS: Record<string, () => AnyLock> = {
  "Semaphore": () => new Semaphore(),
  "BoundedSemaphore": () => new BoundedSemaphore(),
  "Lock": () => new Lock(),
  "RLock": () => new RLock(),
};

const SEMAPHORES = { Semaphore, BoundedSemaphore };

/** A greenlet that holds the lock until it is told to release it. */
async function hold(lock: AnyLock): Promise<() => Promise<void>> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const g = spawn(async () => {
    using _ = await lock.acquire();
    await promise;
  });
  await settle();
  assert(lock.locked());
  return async () => {
    resolve();
    await g.get();
  };
}

// --- All locks

for (const [name, make] of Object.entries(LOCKS)) {
  Deno.test(`${name}.acquire() gives the object itself, and release() releases it`, async () => {
    const lock = make();
    assertFalse(lock.locked());
    for (let i = 0; i < 2; i++) {
      assertStrictEquals<unknown>(await lock.acquire(), lock);
      assert(lock.locked());
      lock.release();
      assertFalse(lock.locked());
    }
  });

  Deno.test(`${name}.acquire() gives null at once if it is not to block`, async () => {
    const lock = make();
    assertStrictEquals<unknown>(await lock.acquire({ blocking: false }), lock);
    lock.release();
    const release = await hold(lock);
    assertEquals(await lock.acquire({ blocking: false }), null);
    assertEquals(
      await lock.acquire({ blocking: false, timeout: FOREVER }),
      null,
    );
    await release();
    assertFalse(lock.locked());
  });

  testBoth(
    `${name}.acquire() gives null at the timeout, and leaves the queue of waiters`,
    {
      async async(lock: AnyLock, timeout: number) {
        return await lock.acquire({ timeout });
      },
      *generator(lock: AnyLock, timeout: number) {
        return yield* lock.acquire({ timeout });
      },
    },
    async (body) => {
      const lock = make();
      const release = await hold(lock);
      for (const timeout of [-1, 0, 5]) {
        const start = performance.now();
        assertEquals(await spawn(body, lock, timeout).get(), null);
        assertGreaterOrEqual(performance.now() - start, timeout);
      }
      await release();
      assertFalse(lock.locked());
      assertStrictEquals<unknown>(await spawn(body, lock, 0).get(), lock);
    },
  );

  testBoth(`${name}.acquire() serves waiters in their order`, {
    async async(lock: AnyLock, log: number[], i: number) {
      using _ = await lock.acquire();
      log.push(i);
      await sleep();
      log.push(i);
    },
    *generator(lock: AnyLock, log: number[], i: number) {
      using _ = yield* lock.acquire();
      log.push(i);
      yield* sleep();
      log.push(i);
    },
  }, async (body) => {
    const lock = make();
    const release = await hold(lock);
    const log: number[] = [];
    const all = [0, 1, 2, 3, 4].map((i) => spawn(body, lock, log, i));
    await settle();
    assertEquals(log, []);
    await release();
    await joinAll(all);
    assertEquals(log, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    assertFalse(lock.locked());
  });

  testBoth(
    `${name} is not overtaken by a greenlet that releases it and asks again at once`,
    {
      async async(lock: AnyLock, log: string[], name: string) {
        for (let i = 0; i < 3; i++) {
          await lock.acquire();
          log.push(name);
          // Till the others are in line.
          await sleep(1);
          lock.release();
        }
      },
      *generator(lock: AnyLock, log: string[], name: string) {
        for (let i = 0; i < 3; i++) {
          yield* lock.acquire();
          log.push(name);
          yield* sleep(1);
          lock.release();
        }
      },
    },
    async (body) => {
      const lock = make();
      const log: string[] = [];
      await joinAll(
        ["a", "b", "c"].map((name) => spawn(body, lock, log, name)),
      );
      assertEquals(log.join(""), "abcabcabc");
      assertFalse(lock.locked());
    },
  );

  Deno.test(`${name} is not given to a greenlet that asks between its release and the wake-up`, async () => {
    const lock = make();
    const log: string[] = [];
    const first = spawn(async () => {
      await lock.acquire();
      await sleep(1);
      lock.release();
      log.push(String(await lock.acquire({ blocking: false })));
    });
    const second = spawn(async () => {
      using _ = await lock.acquire();
      log.push("second");
    });
    await joinAll([first, second]);
    assertEquals(log.toSorted(), ["null", "second"]);
    assertFalse(lock.locked());
  });

  Deno.test(`${name} waits in main`, async () => {
    const lock = make();
    const release = await hold(lock);
    const waiting = lock.acquire({ timeout: FOREVER });
    await release();
    {
      using mine = await waiting;
      assertStrictEquals<unknown>(mine, lock);
      assert(lock.locked());
    }
    assertFalse(lock.locked());
  });

  testBoth(`${name} is released by using when the body throws`, {
    async async(lock: AnyLock) {
      using _ = await lock.acquire();
      throw new TypeError("expected");
    },
    *generator(lock: AnyLock) {
      using _ = yield* lock.acquire();
      throw new TypeError("expected");
    },
  }, async (body) => {
    using failures = new Failures();
    const lock = make();
    const [one, two] = [spawn(body, lock), spawn(body, lock)];
    await joinAll([one, two]);
    assertFalse(lock.locked());
    assertEquals(failures.errors.map(String), [
      "TypeError: expected",
      "TypeError: expected",
    ]);
  });

  const holder = {
    async async(lock: AnyLock, log: string[]) {
      log.push("asks");
      using _ = await lock.acquire({ timeout: FOREVER });
      log.push("holds");
      await sleep();
      log.push("goes on");
    },
    *generator(lock: AnyLock, log: string[]) {
      log.push("asks");
      using _ = yield* lock.acquire({ timeout: FOREVER });
      log.push("holds");
      yield* sleep();
      log.push("goes on");
    },
  };

  testBoth(
    `${name}: a waiter that is killed holds nothing, and the next gets it`,
    holder,
    async (body) => {
      const lock = make();
      const release = await hold(lock);
      const log: string[] = [];
      const [killed, next] = [spawn(body, lock, log), spawn(body, lock, log)];
      await settle();
      await killed.kill(undefined, ONCE);
      assertInstanceOf(killed.value, GreenletExit);
      assertEquals(log, ["asks", "asks"]);
      await release();
      await next.get();
      assertEquals(log.slice(2), ["holds", "goes on"]);
      assertFalse(lock.locked());
    },
  );

  testBoth(
    `${name}: a greenlet that is killed before acquire() takes nothing`,
    {
      async async(lock: AnyLock, log: string[]) {
        (getCurrent() as Greenlet).kill(undefined, { block: false, ...ONCE });
        try {
          using _ = await lock.acquire();
          log.push("holds");
        } finally {
          log.push("finally");
        }
      },
      *generator(lock: AnyLock, log: string[]) {
        (getCurrent() as Greenlet).kill(undefined, { block: false, ...ONCE });
        try {
          using _ = yield* lock.acquire();
          log.push("holds");
        } finally {
          log.push("finally");
        }
      },
    },
    async (body) => {
      const lock = make();
      const log: string[] = [];
      await spawn(body, lock, log).get();
      assertEquals(log, ["finally"]);
      assertFalse(lock.locked());
    },
  );

  testBoth(
    `${name}: a greenlet that is killed when it was given the lock holds it until its using`,
    holder,
    async (body) => {
      const lock = make();
      const log: string[] = [];
      const first = spawn(async () => {
        await lock.acquire();
        await sleep(1);
        lock.release();
        // In the same turn: it was given, and does not know yet.
        killed.kill(undefined, { block: false, ...ONCE });
        log.push("killed");
      });
      const killed = spawn(body, lock, log);
      const next = spawn(body, lock, log);
      await joinAll([first, killed, next]);
      assertEquals(log, [
        "asks",
        "asks",
        "killed",
        "holds",
        "holds",
        "goes on",
      ]);
      assertInstanceOf(killed.value, GreenletExit);
      assertFalse(lock.locked());
    },
  );

  testBoth(
    `${name}: a waiter that is killed in the turn before the release is passed by`,
    holder,
    async (body) => {
      const lock = make();
      const log: string[] = [];
      const first = spawn(async () => {
        await lock.acquire();
        await sleep(1);
        killed.kill(undefined, { block: false, ...ONCE });
        lock.release();
        log.push("killed");
      });
      const killed = spawn(body, lock, log);
      const next = spawn(body, lock, log);
      await joinAll([first, killed, next]);
      assertEquals(log, ["asks", "asks", "killed", "holds", "goes on"]);
      assertFalse(lock.locked());
    },
  );

  testBoth(
    `${name}: a holder that is killed gives it to the next`,
    holder,
    async (body) => {
      const lock = make();
      const log: string[] = [];
      const [killed, next] = [FOREVER, 1].map((ms) =>
        spawn(async () => {
          using _ = await lock.acquire();
          await sleep(ms);
          log.push("slept");
        })
      ) as [Greenlet, Greenlet];
      const last = spawn(body, lock, log);
      await settle();
      await killed.kill(undefined, ONCE);
      await joinAll([next, last]);
      assertEquals(log, ["asks", "slept", "holds", "goes on"]);
      assertFalse(lock.locked());
    },
  );

  testBoth(`${name}: a waiter that is timed out holds nothing`, {
    async async(lock: AnyLock) {
      using timeout = Timeout.start(1);
      try {
        using _ = await lock.acquire();
      } catch (error) {
        return error === timeout;
      }
    },
    *generator(lock: AnyLock) {
      using timeout = Timeout.start(1);
      try {
        using _ = yield* lock.acquire();
      } catch (error) {
        return error === timeout;
      }
    },
  }, async (body) => {
    const lock = make();
    const release = await hold(lock);
    const two = [spawn(body, lock), spawn(body, lock)];
    await joinAll(two);
    assertEquals(two.map((g) => g.value), [true, true]);
    await release();
    assertFalse(lock.locked());
  });

  Deno.test(`${name}: a waiter that withTimeout() ends holds nothing`, async () => {
    const lock = make();
    const release = await hold(lock);
    const late = await withTimeout(1, () => lock.acquire(), { value: "late" });
    assertEquals(late, "late");
    await release();
    assertFalse(lock.locked());
  });

  testBoth(
    `${name} is conserved, whichever greenlet is killed or timed out and when`,
    {
      async async(lock: AnyLock, ms: number) {
        using _timeout = Timeout.start(ms + 1, { error: new GreenletExit() });
        for (let i = 0; i < 5; i++) {
          using mine = await lock.acquire({ timeout: 3 });
          if (mine !== null) await sleep(i % 2);
        }
      },
      *generator(lock: AnyLock, ms: number) {
        using _timeout = Timeout.start(ms + 1, { error: new GreenletExit() });
        for (let i = 0; i < 5; i++) {
          using mine = yield* lock.acquire({ timeout: 3 });
          if (mine !== null) yield* sleep(i % 2);
        }
      },
    },
    async (body) => {
      const lock = make();
      const all = Array.from(
        { length: 60 },
        (_, i) => spawn(body, lock, i % 9),
      );
      for (let i = 0; i < all.length; i += 2) {
        if (i % 8 === 0) await sleep(1);
        all[i]!.kill(undefined, { block: false });
      }
      await joinAll(all);
      assertFalse(lock.locked());
      assertStrictEquals<unknown>(
        await lock.acquire({ blocking: false }),
        lock,
      );
      lock.release();
    },
  );

  Deno.test(`${name}.acquire() refuses a bad time`, async () => {
    const lock = make();
    for (const timeout of ["1", null, {}, 1n]) {
      assertThrows(
        () => lock.acquire({ timeout: timeout as never }),
        TypeError,
        "Cannot acquire as the time must be a number of milliseconds",
      );
    }
    assertThrows(() => lock.acquire({ timeout: NaN }), RangeError);
    assertFalse(lock.locked());
    await sleep();
  });

  testBoth(
    `${name}.acquire() of 1,000 killed at once leaves the queue of waiters empty`,
    {
      async async(lock: AnyLock) {
        using _ = await lock.acquire();
      },
      *generator(lock: AnyLock) {
        using _ = yield* lock.acquire();
      },
    },
    async (body) => {
      const lock = make();
      const release = await hold(lock);
      const all = Array.from({ length: 1000 }, () => spawn(body, lock));
      await settle();
      await killAll(all);
      await release();
      assertFalse(lock.locked());
    },
  );
}

// --- Semaphore, BoundedSemaphore

for (const [name, Type] of Object.entries(SEMAPHORES)) {
  Deno.test(`${name} has the number of permits that it is given, by default 1`, async () => {
    assertEquals(new Type().counter, 1);
    const two = new Type(2);
    await two.acquire();
    assertEquals(two.counter, 1);
    assertFalse(two.locked());
    assert(two.ready());
    await two.acquire();
    assertEquals(two.counter, 0);
    assert(two.locked());
    assertFalse(two.ready());
    assertEquals(await two.acquire({ blocking: false }), null);
    assertEquals(two.release(), 1);
    assertEquals(two.release(), 2);
    assertEquals(new Type(0).counter, 0);
  });

  Deno.test(`${name} refuses anything but a number of permits`, () => {
    for (const value of [-1, -(2 ** 53), 0.5, NaN, Infinity]) {
      assertThrows(() => new Type(value), RangeError, `received ${value}`);
    }
    for (const value of ["1", null]) {
      assertThrows(
        () => new Type(value as never),
        TypeError,
        `received ${JSON.stringify(value)}`,
      );
    }
  });

  testBoth(
    `${name} gives each permit once, and a released one to the next waiter`,
    {
      async async(semaphore: Semaphore, log: number[], phase: { n: number }) {
        await semaphore.acquire();
        log.push(phase.n);
        await semaphore.acquire();
        log.push(phase.n);
      },
      *generator(semaphore: Semaphore, log: number[], phase: { n: number }) {
        yield* semaphore.acquire();
        log.push(phase.n);
        yield* semaphore.acquire();
        log.push(phase.n);
      },
    },
    async (body) => {
      const semaphore = new Type(7);
      await semaphore.acquire();
      const log: number[] = [];
      const phase = { n: 0 };
      const ten = Array.from(
        { length: 10 },
        () => spawn(body, semaphore, log, phase),
      );
      const seen: number[] = [];
      for (const count of [7, 6]) {
        await settle();
        seen.push(log.length);
        phase.n++;
        for (let i = 0; i < count; i++) semaphore.release();
      }
      await settle();
      seen.push(log.length);
      assertEquals(seen, [6, 13, 19]);
      assertEquals(log, [
        ...Array(6).fill(0),
        ...Array(7).fill(1),
        ...Array(6).fill(2),
      ]);
      assert(semaphore.locked());
      assertEquals(semaphore.linkCount(), 1);
      semaphore.release();
      await joinAll(ten);
      assertEquals(semaphore.counter, 0);
    },
  );

  Deno.test(`${name}.acquire() without blocking gives the permits there are, and no more`, async () => {
    const semaphore = new Type(4);
    await semaphore.acquire();
    const five = Array.from({ length: 5 }, () =>
      spawn(async () => [
        await semaphore.acquire({ blocking: false }),
        await semaphore.acquire({ blocking: false }),
      ]));
    await joinAll(five);
    const had = five.flatMap((g) => g.value!).filter((s) => s !== null);
    assertEquals(had.length, 3);
  });

  Deno.test(`${name} is released by using, one inside the other`, async () => {
    const semaphore = new Type(2);
    const nest = async (error?: Error) => {
      using _outer = await semaphore.acquire();
      assertEquals(semaphore.counter, 1);
      using _inner = await semaphore.acquire();
      assertEquals(await semaphore.acquire({ blocking: false }), null);
      if (error) throw error;
    };
    await nest();
    assertEquals(semaphore.counter, 2);
    await assertRejects(() => nest(new TypeError("expected")), TypeError);
    assertEquals(semaphore.counter, 2);
  });

  Deno.test(`${name}.acquire() that gave null has nothing for using to release`, async () => {
    const semaphore = new Type(1);
    await semaphore.acquire();
    {
      using mine = await semaphore.acquire({ timeout: 1 });
      assertEquals(mine, null);
    }
    assertEquals(semaphore.counter, 0);
  });

  testBoth(`${name}.wait() waits for a permit, and takes none`, {
    async async(semaphore: Semaphore) {
      return await semaphore.wait({ timeout: FOREVER });
    },
    *generator(semaphore: Semaphore) {
      return yield* semaphore.wait({ timeout: FOREVER });
    },
  }, async (body) => {
    const semaphore = new Type(2);
    assertEquals(await spawn(body, semaphore).get(), 2);
    await semaphore.acquire();
    await semaphore.acquire();
    const two = [spawn(body, semaphore), spawn(body, semaphore)];
    await settle();
    assertEquals(semaphore.linkCount(), 2);
    semaphore.release();
    await joinAll(two);
    assertEquals(two.map((g) => g.value), [1, 1]);
    assertEquals(semaphore.counter, 1);
    assertEquals(semaphore.linkCount(), 0);
  });

  Deno.test(`${name}.wait() gives 0 at the timeout, or if other greenlets were quicker`, async () => {
    const semaphore = new Type(1);
    await semaphore.acquire();
    assertEquals(await semaphore.wait({ timeout: 1 }), 0);
    assertEquals(await semaphore.wait({ timeout: 0 }), 0);
    assertEquals(semaphore.linkCount(), 0);
    const waiting = semaphore.wait();
    semaphore.release();
    semaphore.acquire();
    assertEquals(await waiting, 0);
    assertThrows(() => semaphore.wait({ timeout: NaN }), RangeError);
  });

  testBoth(`${name}.wait() that is killed leaves no link`, {
    async async(semaphore: Semaphore) {
      await semaphore.wait();
    },
    *generator(semaphore: Semaphore) {
      yield* semaphore.wait();
    },
  }, async (body) => {
    const semaphore = new Type(0);
    const g = spawn(body, semaphore);
    await settle();
    assertEquals(semaphore.linkCount(), 1);
    await g.kill(undefined, ONCE);
    assertEquals(semaphore.linkCount(), 0);
  });

  Deno.test(`${name}.rawlink() calls once, soon and from the hub`, async () => {
    const semaphore = new Type(1);
    const log: string[] = [];
    const link = (name: string) => (source: Semaphore) => {
      assertStrictEquals<unknown>(source, semaphore);
      assertStrictEquals(getCurrent(), getHub());
      log.push(name);
    };
    semaphore.rawlink(link("ready"));
    assertEquals(log, []);
    await settle();
    assertEquals(log, ["ready"]);
    await semaphore.acquire();
    semaphore.rawlink(link("a"));
    const taken = link("taken");
    semaphore.rawlink(taken);
    semaphore.rawlink({ linked: link("b") });
    semaphore.unlink(taken);
    semaphore.unlink(taken);
    await settle();
    assertEquals(log, ["ready"]);
    semaphore.release();
    await semaphore.acquire();
    semaphore.release();
    await settle();
    assertEquals(log, ["ready", "a", "b"]);
    assertThrows(() => semaphore.rawlink(null as never), TypeError);
  });

  Deno.test(`${name} can be waited for by wait(), which takes nothing`, async () => {
    const semaphore = new Type(1);
    for (let i = 0; i < 2; i++) {
      const ready = await wait([semaphore]);
      assertStrictEquals(ready[0], semaphore);
    }
    await semaphore.acquire();
    assertEquals(await wait([semaphore], { timeout: 1 }), []);
    assertEquals(semaphore.linkCount(), 0);
  });
}

Deno.test("Semaphore.release() without an acquire() adds a permit", async () => {
  const semaphore = new Semaphore(1);
  assertEquals(semaphore.release(), 2);
  await semaphore.acquire();
  await semaphore.acquire();
  assert(semaphore.locked());
  assertEquals(semaphore.release(), 1);
});

Deno.test("Semaphore.release() twice calls the links of both times", async () => {
  const semaphore = new Semaphore();
  const log: string[] = [];
  semaphore.rawlink(() => log.push("a"));
  semaphore.release();
  semaphore.rawlink(() => log.push("b"));
  semaphore.release();
  await settle();
  assertEquals(log, ["a", "b"]);
});

Deno.test("Semaphore.release() gives a permit to a waiter, and to no link", async () => {
  const semaphore = new Semaphore(0);
  const log: string[] = [];
  semaphore.rawlink(() => log.push("link"));
  const acquiring = semaphore.acquire();
  assertEquals(semaphore.release(), 0);
  assertStrictEquals(await acquiring, semaphore);
  await settle();
  assertEquals(log, []);
  assertEquals(semaphore.release(), 1);
  await settle();
  assertEquals(log, ["link"]);
});

Deno.test("Semaphore is fair to a greenlet that comes between two that pass it on", async () => {
  const semaphore = new Semaphore();
  let done = false;
  let turns = 0;
  async function acquire(): Promise<void> {
    if (done || ++turns > 1000) return;
    await semaphore.acquire();
    await spawn(release).join();
  }
  async function release(): Promise<void> {
    semaphore.release();
    if (!done) await spawn(acquire).join();
  }
  const passing = [spawn(acquire), spawn(acquire)];
  const leaving = spawn(async () => {
    await semaphore.acquire();
    done = true;
  });
  await leaving.get({ timeout: FOREVER });
  assert(turns <= 1000);
  semaphore.release();
  await killAll(passing);
  await settle();
});

for (const Type of [BoundedSemaphore, Lock]) {
  Deno.test(`${Type.name}.release() refuses more permits than there were`, async () => {
    const semaphore = new Type();
    assertThrows(
      () => semaphore.release(),
      RangeError,
      "Cannot release as no permit is taken: 1 of 1 are free",
    );
    await semaphore.acquire();
    semaphore.release();
    assertThrows(() => semaphore.release(), RangeError);
    assertEquals(semaphore.counter, 1);
  });
}

Deno.test("BoundedSemaphore.release() counts right with waiters", async () => {
  const semaphore = new BoundedSemaphore(2);
  await semaphore.acquire();
  await semaphore.acquire();
  const waiting = [semaphore.acquire(), semaphore.acquire()];
  for (let i = 0; i < 2; i++) assertEquals(semaphore.release(), 0);
  await Promise.all(waiting);
  semaphore.release();
  semaphore.release();
  assertThrows(() => semaphore.release(), RangeError, "2 of 2");
});

// --- Lock

testBoth("Lock.acquire() again waits for a release, by any greenlet", {
  async async(lock: Lock, log: string[]) {
    await lock.acquire();
    log.push("once");
    await lock.acquire();
    log.push("twice");
  },
  *generator(lock: Lock, log: string[]) {
    yield* lock.acquire();
    log.push("once");
    yield* lock.acquire();
    log.push("twice");
  },
}, async (body) => {
  const lock = new Lock();
  const log: string[] = [];
  const g = spawn(body, lock, log);
  await settle();
  assertEquals(log, ["once"]);
  lock.release();
  await g.get();
  assertEquals(log, ["once", "twice"]);
  await spawn(() => lock.release()).get();
  assertFalse(lock.locked());
});

Deno.test("Lock can be acquired after a timeout of another", async () => {
  const lock = new Lock();
  await lock.acquire();
  assertEquals(await lock.acquire({ timeout: 1 }), null);
  lock.release();
  assertFalse(lock.locked());
  assertStrictEquals(await lock.acquire({ timeout: 1 }), lock);
});

// --- DummySemaphore

Deno.test("DummySemaphore makes no greenlet wait", async () => {
  const dummy = new DummySemaphore();
  {
    using mine = await dummy.acquire();
    assertStrictEquals(mine, dummy);
    assertStrictEquals(await dummy.acquire({ blocking: false }), dummy);
    assertFalse(dummy.locked());
    assert(dummy.ready());
  }
  dummy.release();
  dummy.release();
  assertEquals(await dummy.wait({ timeout: 1 }), 1);
  assertEquals(
    await spawn(function* () {
      using mine = yield* dummy.acquire();
      return mine === dummy && (yield* dummy.wait());
    }).get(),
    1,
  );
});

Deno.test("DummySemaphore.acquire() throws a kill that is held", async () => {
  const g = spawn(async () => {
    (getCurrent() as Greenlet).kill(undefined, { block: false });
    await new DummySemaphore().acquire();
    return "went on";
  });
  assertInstanceOf(await g.get(), GreenletExit);
});

// --- RLock

testBoth("RLock.acquire() again by the same greenlet returns at once", {
  async async(lock: RLock, log: unknown[]) {
    using _outer = await lock.acquire();
    for (let i = 0; i < 3; i++) {
      using _inner = await lock.acquire({ blocking: false });
      await sleep();
      log.push(lock.owned, lock.locked());
    }
    log.push(lock.owned);
  },
  *generator(lock: RLock, log: unknown[]) {
    using _outer = yield* lock.acquire();
    for (let i = 0; i < 3; i++) {
      using _inner = yield* lock.acquire({ blocking: false });
      yield* sleep();
      log.push(lock.owned, lock.locked());
    }
    log.push(lock.owned);
  },
}, async (body) => {
  const lock = new RLock();
  const log: unknown[] = [];
  await spawn(body, lock, log).get();
  assertEquals(log, Array(7).fill(true));
  assertFalse(lock.locked());
});

Deno.test("RLock is released as often as it was acquired", async () => {
  const lock = new RLock();
  await lock.acquire();
  await lock.acquire();
  lock.release();
  assert(lock.locked());
  const other = spawn(async () => {
    using _ = await lock.acquire();
    return lock.owned;
  });
  await settle();
  assertFalse(other.dead);
  await lock.acquire();
  lock.release();
  lock.release();
  assertEquals(await other.get(), true);
  assertFalse(lock.locked());
  assertThrows(() => lock.release(), RangeError, "it is free");
});

testBoth(
  "RLock.acquire() begun twice by one waiting greenlet is granted twice, in its turn",
  {
    async async(lock: RLock, log: string[]) {
      const waits = [lock.acquire(), lock.acquire(), lock.acquire()];
      assertEquals(await Promise.all(waits), [lock, lock, lock]);
      log.push("has it three times");
      for (let i = 0; i < 3; i++) {
        await sleep();
        assert(lock.owned);
        lock.release();
      }
      log.push("has released it three times");
    },
    *generator(lock: RLock, log: string[]) {
      const waits = [lock.acquire(), lock.acquire(), lock.acquire()];
      for (const wait of waits.reverse()) {
        assertStrictEquals(yield* wait, lock);
      }
      log.push("has it three times");
      for (let i = 0; i < 3; i++) {
        yield* sleep();
        assert(lock.owned);
        lock.release();
      }
      log.push("has released it three times");
    },
  },
  async (body) => {
    const lock = new RLock();
    const log: string[] = [];
    const other = async (name: string) => {
      using _ = await lock.acquire();
      log.push(name);
    };
    const release = await hold(lock);
    const greenlets = [
      spawn(other, "first"),
      spawn(body, lock, log),
      spawn(other, "last"),
    ];
    await settle();
    assertEquals(log, []);
    await release();
    await joinAll(greenlets, { raiseError: true });
    assertEquals(log, [
      "first",
      "has it three times",
      "has released it three times",
      "last",
    ]);
    assertFalse(lock.locked());
  },
);

Deno.test("RLock.acquire() begun twice by one greenlet is granted once, if the other call has ended", async () => {
  const lock = new RLock();
  const release = await hold(lock);
  const over = new Event();
  const twice = spawn(async () => {
    const late = lock.acquire({ timeout: 1 });
    const wait = lock.acquire();
    const limited = withTimeout(1, () => lock.acquire(), { value: "late" });
    assertEquals([await late, await limited], [null, "late"]);
    over.set();
    await wait;
    lock.release();
    assertThrows(() => lock.release(), RangeError);
  });
  await over.wait();
  await release();
  await twice.get();
  assertFalse(lock.locked());
});

Deno.test("RLock.acquire() begun twice does not overtake others with the second, when the first has ended", async () => {
  const lock = new RLock();
  const release = await hold(lock);
  const log: string[] = [];
  const over = new Event();
  const twice = spawn(async () => {
    const late = lock.acquire({ timeout: 1 });
    await sleep();
    const wait = lock.acquire();
    assertEquals(await late, null);
    over.set();
    await wait;
    log.push("second");
    lock.release();
  });
  const other = spawn(async () => {
    using _ = await lock.acquire();
    log.push("other");
  });
  await over.wait();
  await release();
  await joinAll([twice, other], { raiseError: true });
  assertEquals(log, ["other", "second"]);
});

Deno.test("RLock.acquire() begun twice by a greenlet that is killed leaves the queue to the others", async () => {
  const lock = new RLock();
  const release = await hold(lock);
  const twice = spawn(() => Promise.all([lock.acquire(), lock.acquire()]));
  const other = spawn(async () => {
    using _ = await lock.acquire();
    return lock.owned;
  });
  await settle();
  await twice.kill();
  await release();
  assertEquals(await other.get(), true);
  assertFalse(lock.locked());
});

Deno.test("RLock.acquire() begun often by many greenlets is granted to one after the other", async () => {
  const lock = new RLock();
  let holder: unknown = null;
  const greenlets = Array.from({ length: 50 }, (_, i) =>
    spawn(async () => {
      for (let round = 0; round < 5; round++) {
        const count = 1 + (i + round) % 4;
        await Promise.all(
          Array.from({ length: count }, () => lock.acquire()),
        );
        assert(holder === null);
        holder = getCurrent();
        if (i % 3 === 0) await sleep();
        assertStrictEquals(holder, getCurrent());
        holder = null;
        for (let k = 0; k < count; k++) lock.release();
      }
    }));
  await joinAll(greenlets, { raiseError: true });
  assertFalse(lock.locked());
});

Deno.test("RLock.release() is refused to every greenlet but its owner", async () => {
  const lock = new RLock();
  assertThrows(() => lock.release(), RangeError, "it is free");
  const release = await hold(lock);
  const error = assertThrows(() => lock.release(), RangeError);
  assertStringIncludes(error.message, "main");
  assertStringIncludes(error.message, 'Greenlet "');
  await spawn(() => assertThrows(() => lock.release(), RangeError)).get();
  assert(lock.locked());
  await release();
  assertFalse(lock.locked());
});

Deno.test("RLock.owned tells whether the current greenlet holds it", async () => {
  const lock = new RLock();
  assertFalse(lock.owned);
  await lock.acquire();
  assert(lock.owned);
  await lock.acquire();
  assert(lock.owned);
  assertEquals(await spawn(() => lock.owned).get(), false);
  lock.release();
  assert(lock.owned);
  lock.release();
  assertFalse(lock.owned);
});

Deno.test("RLock is the greenlet's own inside withTimeout()", async () => {
  const lock = new RLock();
  const g = spawn(async () => {
    using _ = await lock.acquire();
    return [
      await withTimeout(FOREVER, async () => {
        using _ = await lock.acquire();
        await sleep();
        return lock.owned;
      }),
      await withTimeout(FOREVER, function* () {
        using _ = yield* lock.acquire();
        yield* sleep();
        return lock.owned;
      }),
    ];
  });
  assertEquals(await g.get(), [true, true]);
  assertFalse(lock.locked());
});

// --- Condition

/** A condition on each kind of lock, with the lock. */
const CONDITIONS: Record<string, () => [Condition, Lock | RLock]> = {
  "a Lock": () => {
    const lock = new Lock();
    return [new Condition(lock), lock];
  },
  "an RLock": () => {
    const lock = new RLock();
    return [new Condition(lock), lock];
  },
};

Deno.test("Condition has by default an RLock of its own", async () => {
  const condition = new Condition();
  await condition.acquire();
  await condition.acquire();
  condition.release();
  condition.release();
  assertThrows(() => condition.release(), RangeError);
});

Deno.test("Condition.acquire() acquires its lock", async () => {
  const lock = new Lock();
  const condition = new Condition(lock);
  await condition.acquire();
  assertEquals(await lock.acquire({ blocking: false }), null);
  condition.release();
  await lock.acquire();
  assertEquals(await condition.acquire({ blocking: false }), null);
  assertEquals(await condition.acquire({ timeout: 1 }), null);
  lock.release();
  {
    using mine = await condition.acquire();
    assert(mine !== null);
    assert(lock.locked());
  }
  assertFalse(lock.locked());
});

Deno.test("Condition refuses anything but a lock", () => {
  for (const lock of [null, {}, 1, new Semaphore(), new DummySemaphore()]) {
    assertThrows(
      () => new Condition(lock as never),
      TypeError,
      "must be a Lock or an RLock",
    );
  }
});

Deno.test("Condition refuses a bad predicate, time and count", async () => {
  const condition = new Condition();
  using _ = await condition.acquire();
  assertThrows(() => condition.waitFor(1 as never), TypeError, "received 1");
  assertThrows(() => condition.wait({ timeout: NaN }), RangeError);
  assertThrows(
    () => condition.waitFor(() => true, { timeout: "1" as never }),
    TypeError,
  );
  for (const count of [-1, 0.5, NaN]) {
    assertThrows(
      () => condition.notify(count),
      RangeError,
      `received ${count}`,
    );
  }
  assertThrows(() => condition.notify("1" as never), TypeError, '"1"');
  condition.notify(0);
  condition.notify(5);
  condition.notifyAll();
});

for (const [name, make] of Object.entries(CONDITIONS)) {
  Deno.test(`Condition of ${name} refuses to wait or notify without the lock`, async () => {
    const [condition, lock] = make();
    assertThrows(() => condition.wait(), RangeError, "acquire it first");
    assertThrows(() => condition.waitFor(() => true), RangeError);
    assertThrows(() => condition.notify(), RangeError);
    assertThrows(() => condition.notifyAll(), RangeError);
    if (lock instanceof RLock) {
      const release = await hold(lock);
      assertThrows(() => condition.wait(), RangeError);
      assertThrows(() => condition.notify(), RangeError);
      await release();
    }
  });

  testBoth(
    `Condition.notify() of ${name} wakes the number of waiters that it is given, in order, when the lock is free`,
    {
      async async(condition: Condition, log: string[], i: number) {
        using _ = await condition.acquire();
        assertEquals(await condition.wait(), true);
        log.push(`${i}a`);
        await condition.wait();
        log.push(`${i}b`);
      },
      *generator(condition: Condition, log: string[], i: number) {
        using _ = yield* condition.acquire();
        assertEquals(yield* condition.wait(), true);
        log.push(`${i}a`);
        yield* condition.wait();
        log.push(`${i}b`);
      },
    },
    async (body) => {
      const [condition, lock] = make();
      for (let round = 0; round < 2; round++) {
        const log: string[] = [];
        const five = [0, 1, 2, 3, 4].map((i) => spawn(body, condition, log, i));
        await settle();
        assertFalse(lock.locked());
        await condition.acquire();
        condition.notify(3);
        await settle();
        assertEquals(log, []);
        condition.release();
        await settle();
        assertEquals(log, ["0a", "1a", "2a"]);
        await condition.acquire();
        condition.notify();
        condition.notify(2);
        condition.notify(0);
        condition.release();
        await settle();
        assertEquals(log.slice(3), ["3a", "4a", "0b"]);
        await condition.acquire();
        condition.notifyAll();
        condition.release();
        await joinAll(five);
        assertEquals(log.slice(6), ["1b", "2b", "3b", "4b"]);
        assertFalse(lock.locked());
      }
    },
  );

  testBoth(
    `Condition.wait() of ${name} gives false at the timeout, and holds the lock`,
    {
      async async(condition: Condition, lock: Lock | RLock, timeout: number) {
        using _ = await condition.acquire();
        return [await condition.wait({ timeout }), lock.locked()];
      },
      *generator(condition: Condition, lock: Lock | RLock, timeout: number) {
        using _ = yield* condition.acquire();
        return [yield* condition.wait({ timeout }), lock.locked()];
      },
    },
    async (body) => {
      const [condition, lock] = make();
      const five = [-1, 0, 1, 2, 5].map((ms) =>
        spawn(body, condition, lock, ms)
      );
      await joinAll(five);
      for (const g of five) assertEquals(g.value, [false, true]);
      assertFalse(lock.locked());
      // No greenlet is left to be notified.
      const last = spawn(body, condition, lock, FOREVER);
      await settle();
      await condition.acquire();
      condition.notify();
      condition.release();
      assertEquals(await last.get(), [true, true]);
    },
  );

  testBoth(`Condition.wait() of ${name} at the timeout waits for the lock`, {
    async async(condition: Condition, lock: Lock | RLock) {
      using _ = await condition.acquire();
      const notified = await condition.wait({ timeout: 1 });
      return [notified, lock.locked()];
    },
    *generator(condition: Condition, lock: Lock | RLock) {
      using _ = yield* condition.acquire();
      const notified = yield* condition.wait({ timeout: 1 });
      return [notified, lock.locked()];
    },
  }, async (body) => {
    const [condition, lock] = make();
    const releaseFirst = await hold(lock);
    const g = spawn(body, condition, lock);
    await settle();
    // In line already when the lock is given away, and so quicker than any time
    const release = await hold(lock);
    await releaseFirst();
    await sleep(5);
    assertFalse(g.dead);
    await release();
    assertEquals(await g.get(), [false, true]);
    assertFalse(lock.locked());
  });

  Deno.test(`Condition.wait() of ${name} that is notified in time gives true at the timeout`, async () => {
    const [condition, lock] = make();
    const release = await hold(lock);
    const g = spawn(async () => {
      using _ = await condition.acquire();
      return await condition.wait({ timeout: 5 });
    });
    await settle();
    const acquired = condition.acquire();
    await release();
    await acquired;
    condition.notify();
    await sleep(10);
    assertFalse(g.dead);
    condition.release();
    assertEquals(await g.get(), true);
    assertFalse(lock.locked());
  });

  testBoth(`Condition.waitFor() of ${name} waits until the predicate holds`, {
    async async(condition: Condition, state: { n: number }) {
      using _ = await condition.acquire();
      const holds = await condition.waitFor(() => state.n === 4);
      return [holds, state.n];
    },
    *generator(condition: Condition, state: { n: number }) {
      using _ = yield* condition.acquire();
      const holds = yield* condition.waitFor(() => state.n === 4);
      return [holds, state.n];
    },
  }, async (body) => {
    const [condition, lock] = make();
    const state = { n: 0 };
    const g = spawn(body, condition, state);
    for (let i = 0; i < 4; i++) {
      await sleep(1);
      await condition.acquire();
      assertFalse(g.dead);
      state.n++;
      condition.notify();
      condition.release();
    }
    assertEquals(await g.get(), [true, 4]);
    // It looks first, and gives the lock away only if it does not hold.
    assertEquals(await spawn(body, condition, state).get(), [true, 4]);
    assertFalse(lock.locked());
  });

  testBoth(
    `Condition.waitFor() of ${name} gives the predicate's result at the timeout`,
    {
      async async(condition: Condition, predicate: () => unknown) {
        using _ = await condition.acquire();
        return await condition.waitFor(predicate, { timeout: 5 });
      },
      *generator(condition: Condition, predicate: () => unknown) {
        using _ = yield* condition.acquire();
        return yield* condition.waitFor(predicate, { timeout: 5 });
      },
    },
    async (body) => {
      const [condition, lock] = make();
      assertEquals(await spawn(body, condition, () => 0).get(), false);
      // Before it waits, and at the timeout
      const looks = [null, "yes"];
      const g = spawn(body, condition, () => looks.shift());
      assertEquals(await g.get(), true);
      assertFalse(lock.locked());
    },
  );

  Deno.test(`Condition.waitFor() of ${name} ends when its time is over while it waits for the lock`, async () => {
    const [condition, lock] = make();
    const g = spawn(async () => {
      using _ = await condition.acquire();
      return await condition.waitFor(() => false, { timeout: 5 });
    });
    await settle();
    await condition.acquire();
    condition.notify();
    await sleep(10);
    condition.release();
    assertEquals(await g.get({ timeout: 5000 }), false);
    assertFalse(lock.locked());
  });

  Deno.test(`Condition.waitFor() of ${name} calls the predicate with the lock held, in the greenlet that waits`, async () => {
    const [condition, lock] = make();
    const mine = local<{ limit?: number }>();
    const seen: unknown[] = [];
    let n = 0;
    const g: Greenlet<void> = spawn(async () => {
      mine.limit = 2;
      using _ = await condition.acquire();
      await condition.waitFor(() => {
        seen.push(getCurrent() === g && lock.locked());
        return n >= mine.limit!;
      });
    });
    for (n = 0; n < 2;) {
      await settle();
      await spawn(async () => {
        using _ = await condition.acquire();
        n++;
        condition.notifyAll();
      }).get();
    }
    await g.get();
    assertEquals(seen, [true, true, true]);
  });

  testBoth(
    `Condition.waitFor() of ${name} throws the predicate's error, with the lock held`,
    {
      async async(condition: Condition, lock: Lock | RLock, from: number) {
        using _ = await condition.acquire();
        let calls = 0;
        try {
          await condition.waitFor(() => {
            if (++calls === from) throw new TypeError("expected");
          });
        } catch (error) {
          return [String(error), lock.locked()];
        }
      },
      *generator(condition: Condition, lock: Lock | RLock, from: number) {
        using _ = yield* condition.acquire();
        let calls = 0;
        try {
          yield* condition.waitFor(() => {
            if (++calls === from) throw new TypeError("expected");
          });
        } catch (error) {
          return [String(error), lock.locked()];
        }
      },
    },
    async (body) => {
      const [condition, lock] = make();
      const result = ["TypeError: expected", true];
      assertEquals(await spawn(body, condition, lock, 1).get(), result);
      const g = spawn(body, condition, lock, 2);
      await settle();
      await condition.acquire();
      condition.notify();
      condition.release();
      assertEquals(await g.get(), result);
      assertFalse(lock.locked());
    },
  );

  for (
    const [how, interrupt] of Object.entries({
      "kills": (g) => void g.kill(undefined, { block: false, ...ONCE }),
      "kills with a grace of 0": (g) =>
        void g.kill(undefined, { block: false, grace: 0 }),
      "throws into": (g) => g.throw(new GreenletExit()),
    } as Record<string, (g: Greenlet<unknown>) => void>)
  ) {
    // A condition that holds at the first look needs no wait.
    for (
      const [look, holds] of [[1, false], [2, true], [2, false]] as const
    ) {
      testBoth(
        `Condition.waitFor() of ${name} throws, with the lock, when its predicate ${how} its own greenlet in call ${look} and gives ${holds}`,
        {
          async async(
            condition: Condition,
            predicate: () => boolean,
            log: unknown[],
          ) {
            using _ = await condition.acquire();
            try {
              log.push(await condition.waitFor(predicate));
              await sleep(FOREVER);
            } finally {
              log.push("finally");
            }
          },
          *generator(
            condition: Condition,
            predicate: () => boolean,
            log: unknown[],
          ) {
            using _ = yield* condition.acquire();
            try {
              log.push(yield* condition.waitFor(predicate));
              yield* sleep(FOREVER);
            } finally {
              log.push("finally");
            }
          },
        },
        async (body) => {
          const [condition, lock] = make();
          const log: unknown[] = [];
          let looks = 0;
          const g: Greenlet<void> = spawn(body, condition, () => {
            if (++looks !== look) return false;
            interrupt(g);
            return holds;
          }, log);
          await settle();
          if (look === 2) {
            using _ = await condition.acquire();
            condition.notify();
          }
          await g.join({ timeout: 5000 });
          assertEquals(log, ["finally"]);
          assertInstanceOf(g.value, GreenletExit);
          assertEquals(looks, look);
          assertFalse(lock.locked());
          // It does not wait any more.
          const next = spawn(async () => {
            using _ = await condition.acquire();
            return await condition.wait({ timeout: 5000 });
          });
          await settle();
          await condition.acquire();
          condition.notify();
          condition.release();
          assertEquals(await next.get(), true);
        },
      );
    }
  }

  Deno.test(`Condition.waitFor() of ${name} throws one after the other when its predicate kills its own greenlet and throws`, async () => {
    const [condition, lock] = make();
    const log: unknown[] = [];
    let looks = 0;
    const g: Greenlet<void> = spawn(async () => {
      using _ = await condition.acquire();
      try {
        await condition.waitFor(() => {
          if (++looks === 1) return false;
          g.kill(undefined, { block: false, ...ONCE });
          throw new TypeError("expected");
        });
      } catch (error) {
        log.push(String(error), lock.locked());
      }
      await sleep(FOREVER);
    });
    await settle();
    await condition.acquire();
    condition.notify();
    condition.release();
    await g.join({ timeout: 5000 });
    assertEquals(log, ["TypeError: expected", true]);
    assertInstanceOf(g.value, GreenletExit);
    assertFalse(lock.locked());
  });

  const waiter = {
    async async(condition: Condition, lock: Lock | RLock, log: unknown[]) {
      using _ = await condition.acquire();
      try {
        await condition.wait();
        log.push("notified");
      } catch (error) {
        log.push((error as Error).name, lock.locked());
        throw error;
      }
    },
    *generator(condition: Condition, lock: Lock | RLock, log: unknown[]) {
      using _ = yield* condition.acquire();
      try {
        yield* condition.wait();
        log.push("notified");
      } catch (error) {
        log.push((error as Error).name, lock.locked());
        throw error;
      }
    },
  };

  testBoth(
    `Condition.wait() of ${name} that is killed gets the lock back first`,
    waiter,
    async (body) => {
      const [condition, lock] = make();
      const log: unknown[] = [];
      const g = spawn(body, condition, lock, log);
      await settle();
      const release = await hold(lock);
      const killing = g.kill(undefined, ONCE);
      await settle();
      assertEquals(log, []);
      await release();
      await killing;
      assertEquals(log, ["GreenletExit", true]);
      assertInstanceOf(g.value, GreenletExit);
      assertFalse(lock.locked());
      // It does not wait any more.
      const next = spawn(body, condition, lock, log);
      await settle();
      await condition.acquire();
      condition.notify();
      condition.release();
      await next.get();
      assertEquals(log.at(-1), "notified");
    },
  );

  testBoth(
    `Condition.wait() of ${name} that is killed in the free gets the lock at once`,
    waiter,
    async (body) => {
      const [condition, lock] = make();
      const log: unknown[] = [];
      const g = spawn(body, condition, lock, log);
      await settle();
      await g.kill(undefined, ONCE);
      assertEquals(log, ["GreenletExit", true]);
      assertFalse(lock.locked());
    },
  );

  testBoth(
    `Condition.wait() of ${name} that is timed out gets the lock back first`,
    {
      async async(condition: Condition, lock: Lock | RLock) {
        using _ = await condition.acquire();
        using timeout = Timeout.start(1);
        try {
          await condition.wait();
        } catch (error) {
          return [error === timeout, lock.locked()];
        }
      },
      *generator(condition: Condition, lock: Lock | RLock) {
        using _ = yield* condition.acquire();
        using timeout = Timeout.start(1);
        try {
          yield* condition.wait();
        } catch (error) {
          return [error === timeout, lock.locked()];
        }
      },
    },
    async (body) => {
      const [condition, lock] = make();
      const releaseFirst = await hold(lock);
      const three = [0, 1, 2].map(() => spawn(body, condition, lock));
      await settle();
      const release = await hold(lock);
      await releaseFirst();
      await sleep(5);
      assert(three.every((g) => !g.dead));
      await release();
      await joinAll(three);
      for (const g of three) assertEquals(g.value, [true, true]);
      assertFalse(lock.locked());
    },
  );

  testBoth(
    `Condition.wait() of ${name} that was notified and is killed throws, with the lock`,
    waiter,
    async (body) => {
      const [condition, lock] = make();
      const log: unknown[] = [];
      const g = spawn(body, condition, lock, log);
      await settle();
      await condition.acquire();
      condition.notify();
      g.kill(undefined, { block: false, ...ONCE });
      await settle();
      assertEquals(log, []);
      condition.release();
      await g.join();
      assertEquals(log, ["GreenletExit", true]);
      assertFalse(lock.locked());
    },
  );

  for (const grace of [Infinity, 0]) {
    testBoth(
      `Condition.wait() of ${name} that was notified and is killed with a grace of ${grace} leaves the notification to the next`,
      waiter,
      async (body) => {
        const [condition, lock] = make();
        const logs: unknown[][] = [[], [], [], []];
        const all = logs.map((log) => spawn(body, condition, lock, log));
        await settle();
        await condition.acquire();
        condition.notify();
        // Also when it is left to a greenlet that is killed, and when a greenlet is killed
        // twice.
        for (const i of [0, 1, 0]) {
          all[i]!.kill(undefined, { block: false, grace });
        }
        condition.release();
        await joinAll(all.slice(0, 3), { timeout: 5000 });
        await settle();
        for (const g of all.slice(0, 2)) {
          assertInstanceOf(g.value, GreenletExit);
        }
        assertEquals(logs.slice(2), [["notified"], []]);
        assertFalse(lock.locked());
        await killAll(all);
      },
    );
  }

  for (const holds of [true, false]) {
    Deno.test(`Condition.waitFor() of ${name} that is killed after its predicate gave ${holds} leaves the notification to the next unless it has used it`, async () => {
      const [condition, lock] = make();
      const log: unknown[] = [];
      let looks = 0;
      const g = spawn(async () => {
        using _ = await condition.acquire();
        await condition.waitFor(() => ++looks > 1 && holds);
        log.push("holds");
      });
      const next = spawn(async () => {
        using _ = await condition.acquire();
        log.push(await condition.wait());
      });
      await settle();
      await condition.acquire();
      condition.notify();
      condition.release();
      assertEquals(looks, 2);
      g.kill(undefined, { block: false, ...ONCE });
      await g.join();
      await settle();
      assertEquals(log, holds ? ["holds"] : []);
      assertFalse(next.dead);
      assertFalse(lock.locked());
      await next.kill();
    });
  }

  Deno.test(`Condition.waitFor() of ${name} whose predicate kills its own greenlet leaves the notification to the next`, async () => {
    const [condition, lock] = make();
    const log: unknown[] = [];
    let looks = 0;
    const g: Greenlet<void> = spawn(async () => {
      using _ = await condition.acquire();
      await condition.waitFor(() => {
        if (++looks === 1) return false;
        g.kill(undefined, { block: false, ...ONCE });
        return true;
      });
      log.push("holds");
    });
    const next = spawn(waiter.async, condition, lock, log);
    await settle();
    await condition.acquire();
    condition.notify();
    condition.release();
    await joinAll([g, next], { timeout: 5000 });
    assertEquals(log, ["notified"]);
    assertInstanceOf(g.value, GreenletExit);
    assertFalse(lock.locked());
  });

  Deno.test(`Condition.wait() of ${name} that is killed after its time leaves no notification to the next`, async () => {
    const [condition, lock] = make();
    const log: unknown[] = [];
    const g = spawn(async () => {
      using _ = await condition.acquire();
      await condition.wait({ timeout: 1 });
    });
    const next = spawn(waiter.async, condition, lock, log);
    await settle();
    const release = await hold(lock);
    await sleep(10);
    g.kill(undefined, { block: false, ...ONCE });
    await release();
    await g.join();
    await settle();
    assertEquals(log, []);
    await next.kill();
  });

  testBoth(
    `Condition.wait() of ${name} that is interrupted twice throws one after the other`,
    {
      async async(condition: Condition, log: unknown[]) {
        using _ = await condition.acquire();
        for (let i = 0; i < 2; i++) {
          try {
            await (i === 0 ? condition.wait() : sleep(FOREVER));
          } catch (error) {
            log.push((error as Error).name);
          }
        }
      },
      *generator(condition: Condition, log: unknown[]) {
        using _ = yield* condition.acquire();
        for (let i = 0; i < 2; i++) {
          try {
            yield* (i === 0 ? condition.wait() : sleep(FOREVER));
          } catch (error) {
            log.push((error as Error).name);
          }
        }
      },
    },
    async (body) => {
      const [condition, lock] = make();
      const log: unknown[] = [];
      const g = spawn(body, condition, log);
      await settle();
      const release = await hold(lock);
      g.kill(undefined, { block: false, ...ONCE });
      g.kill(new Timeout(1), { block: false, ...ONCE });
      await settle();
      await release();
      await g.join();
      assertEquals(log, ["GreenletExit", "Timeout"]);
      assertFalse(lock.locked());
    },
  );

  for (const grace of [0, 5]) {
    testBoth(
      `Condition.wait() of ${name} that is killed with a grace of ${grace} does not wait for the lock`,
      {
        async async(condition: Condition, log: unknown[]) {
          using _ = await condition.acquire();
          try {
            await condition.wait();
          } finally {
            log.push("finally");
          }
        },
        *generator(condition: Condition, log: unknown[]) {
          using _ = yield* condition.acquire();
          try {
            yield* condition.wait();
          } finally {
            log.push("finally");
          }
        },
      },
      async (body) => {
        using failures = new Failures();
        const [condition, lock] = make();
        const log: unknown[] = [];
        const g = spawn(body, condition, log);
        await settle();
        const release = await hold(lock);
        await g.kill(undefined, { grace });
        assertEquals(log, ["finally"]);
        assertInstanceOf(g.value, GreenletExit);
        assertEquals(failures.errors, []);
        // Its using has not released what another holds.
        assert(lock.locked());
        assertEquals(await lock.acquire({ blocking: false }), null);
        await release();
        assertFalse(lock.locked());
      },
    );
  }

  Deno.test(`Condition.wait() of ${name} that is killed with a grace of 0 holds the lock if it is free`, async () => {
    const [condition, lock] = make();
    const log: unknown[] = [];
    const g = spawn(function* () {
      using _ = yield* condition.acquire();
      try {
        yield* condition.wait();
      } catch (error) {
        // There is no further wait, and the error is thrown once.
        log.push(String(error));
        throw error;
      } finally {
        log.push(lock.locked());
      }
    });
    await settle();
    await g.kill(undefined, { grace: 0 });
    assertEquals(log, ["GreenletExit", true]);
    assertFalse(lock.locked());
  });

  Deno.test(`Condition.wait() of ${name} in withTimeout() ends in time, without the lock if need be`, async () => {
    const [condition, lock] = make();
    const left = new Event();
    const log: unknown[] = [];
    const g = spawn(async () => {
      {
        using _ = await condition.acquire();
        log.push(
          await withTimeout(5, () => condition.wait(), { value: "late" }),
        );
      }
      left.set();
      await lock.acquire();
      lock.release();
      log.push(lock.locked());
    });
    await settle();
    const release = await hold(lock);
    await left.wait();
    assertEquals(log, ["late"]);
    assert(lock.locked());
    assertEquals(await lock.acquire({ blocking: false }), null);
    await release();
    await g.get();
    assertEquals(log, ["late", false]);
    await lock.acquire();
    lock.release();
    assertThrows(() => lock.release(), RangeError);
  });
}

testBoth(
  "Condition.wait() releases each level of an RLock, and acquires each again",
  {
    async async(condition: Condition) {
      using _outer = await condition.acquire();
      using _inner = await condition.acquire();
      await condition.wait();
    },
    *generator(condition: Condition) {
      using _outer = yield* condition.acquire();
      using _inner = yield* condition.acquire();
      yield* condition.wait();
    },
  },
  async (body) => {
    const lock = new RLock();
    const condition = new Condition(lock);
    const g = spawn(body, condition);
    await settle();
    assertFalse(lock.locked());
    await condition.acquire();
    condition.notify();
    condition.release();
    await g.get();
    assertFalse(lock.locked());
  },
);

Deno.test("Condition.wait() begun several times by one greenlet acquires the lock as often, when all are notified", async () => {
  const lock = new RLock();
  const condition = new Condition(lock);
  const often = spawn(async () => {
    const waits: Wait<boolean>[] = [];
    for (const depth of [1, 2, 1]) {
      for (let i = 0; i < depth; i++) await lock.acquire();
      waits.push(condition.wait());
      assertFalse(lock.locked());
    }
    assertEquals(await Promise.all(waits), [true, true, true]);
    for (let i = 0; i < 4; i++) {
      assert(lock.owned);
      lock.release();
    }
    assertFalse(lock.locked());
  });
  await settle();
  await condition.acquire();
  condition.notifyAll();
  condition.release();
  await often.get();
});

for (const [name, make] of Object.entries(CONDITIONS)) {
  Deno.test(`Condition.notifyAll() of ${name} wakes a great many waiters, which all wait again`, async () => {
    const [condition, lock] = make();
    const done: number[] = [];
    let mayEnd = false;
    const all = Array.from({ length: 20_000 }, (_, i) =>
      spawn(async () => {
        using _ = await condition.acquire();
        await condition.waitFor(() => mayEnd);
        done.push(i);
      }));
    for (const ends of [false, true]) {
      await settle();
      await condition.acquire();
      condition.notifyAll();
      mayEnd = ends;
      condition.release();
    }
    await joinAll(all, { raiseError: true });
    assertEquals(done, [...Array(20_000).keys()]);
    assertFalse(lock.locked());
  });
}

for (const notifiesFirst of [true, false]) {
  Deno.test(`Condition.waitFor() that goes on waiting takes none of the levels that its greenlet acquires ${notifiesFirst ? "after" : "before"} the notification`, async () => {
    const lock = new RLock();
    const condition = new Condition(lock);
    const go = new Event();
    const log: string[] = [];
    let there = false;
    const waiting = spawn(async () => {
      await condition.acquire();
      const wait = condition.waitFor(() => there);
      await go.wait();
      await lock.acquire();
      await sleep();
      assert(lock.owned);
      log.push("has it meanwhile");
      lock.release();
      assertFalse(lock.owned);
      await wait;
      assert(lock.owned);
      lock.release();
    });
    await settle();
    await condition.acquire();
    const notifyInVain = () => condition.notifyAll();
    if (notifiesFirst) notifyInVain();
    go.set();
    await settle();
    if (!notifiesFirst) notifyInVain();
    condition.release();
    await settle();
    assertEquals(log, ["has it meanwhile"]);
    await condition.acquire();
    there = true;
    condition.notifyAll();
    condition.release();
    await waiting.get();
    assertFalse(lock.locked());
  });
}

Deno.test("Condition.wait() waits in main", async () => {
  const condition = new Condition();
  using _ = await condition.acquire();
  spawn(async () => {
    using _ = await condition.acquire();
    condition.notify();
  });
  assertEquals(await condition.wait(), true);
  assertEquals(await condition.wait({ timeout: 1 }), false);
  assertEquals(await condition.waitFor(() => true), true);
});

Deno.test("Condition hands items over between producers and consumers", async () => {
  const condition = new Condition();
  const items: number[] = [];
  const got: number[] = [];
  const consumers = [0, 1, 2].map(() =>
    spawn(function* () {
      for (let i = 0; i < 10; i++) {
        using _ = yield* condition.acquire();
        yield* condition.waitFor(() => items.length > 0);
        got.push(items.shift()!);
      }
    })
  );
  const producers = [0, 1, 2].map((k) =>
    spawn(async () => {
      for (let i = 0; i < 10; i++) {
        using _ = await condition.acquire();
        items.push(10 * k + i);
        condition.notify();
        if (i % 3 === 0) await sleep(1);
      }
    })
  );
  await joinAll([...producers, ...consumers], { raiseError: true });
  assertEquals(got.toSorted((a, b) => a - b), [...Array(30).keys()]);
});
