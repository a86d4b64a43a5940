/**
 * What a search through random programs, side by side with gevent, and through the open points of
 * the core has shown.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  BoundedSemaphore,
  Condition,
  Event,
  getCurrent,
  Greenlet,
  GreenletExit,
  Group,
  kill,
  killAll,
  Lock,
  nursery,
  Pool,
  Queue,
  RLock,
  select,
  Semaphore,
  sleep,
  spawn,
  Timeout,
  until,
  Waiter,
  withTimeout,
} from "../../mod.ts";
import { type Bodies, Failures, settle, testBoth } from "../_bodies.ts";

const FOREVER = 1e9;

function messagesOf(failures: Failures): string[] {
  return failures.errors.map((error) => (error as Error).message);
}

const failing = (name: string) => Promise.reject(new Error(name));

testBoth(
  "Greenlet.kill() reports the other errors of an AggregateError that has the kill",
  {
    async async() {
      await Promise.any([failing("first"), sleep(FOREVER), failing("third")]);
    },
    *generator() {
      try {
        yield* sleep(FOREVER);
      } catch (kill) {
        const [first, third] = [new Error("first"), new Error("third")];
        throw new AggregateError([first, kill, third]);
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const greenlet = spawn(body);
    await settle();
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
    await settle();
    assertEquals(messagesOf(failures), ["first", "third"]);
  },
);

Deno.test("Greenlet.kill() reports the errors beside the kill once, however they are wrapped", async () => {
  const make: Record<string, (kill: unknown) => unknown> = {
    "a": (kill) => new AggregateError([new Error("a"), kill]),
    "b,c": (kill) =>
      new AggregateError([
        new Error("b"),
        new Error("wraps", {
          cause: new AggregateError([kill, new Error("c")]),
        }),
      ]),
    "d": (kill) => new AggregateError([kill], "", { cause: new Error("d") }),
    "outer": (kill) =>
      new AggregateError([
        kill,
        new AggregateError([new Error("e"), new Error("f")], "outer"),
      ]),
    "g,h": (kill) =>
      new SuppressedError(
        new Error("g"),
        new AggregateError([kill, new Error("h")]),
      ),
    "": (kill) =>
      new AggregateError([kill, new Error("wraps", { cause: kill })]),
    "top": (kill) =>
      new AggregateError([
        kill,
        new Error("top", { cause: new Error("bottom") }),
      ]),
  };
  for (const [expected, wrap] of Object.entries(make)) {
    using failures = new Failures();
    const greenlet = spawn(async () => {
      try {
        await sleep(FOREVER);
      } catch (error) {
        throw wrap(error);
      }
    });
    await settle();
    await greenlet.kill();
    await settle();
    assertEquals(messagesOf(failures).join(), expected);
    assertEquals(greenlet.successful(), true);
  }
});

Deno.test("withTimeout() reports the other errors of an AggregateError that has its Timeout", async () => {
  using failures = new Failures();
  await assertRejects(
    () =>
      withTimeout(1, () => Promise.any([failing("one"), new Event().wait()])),
    Timeout,
  );
  await settle();
  assertEquals(messagesOf(failures), ["one"]);
});

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

/** Locks that know the greenlet which holds them. */
const OWNED: Record<string, () => Lock | RLock | Condition> = {
  Lock: () => new Lock(),
  RLock: () => new RLock(),
  "Condition of an RLock": () => new Condition(),
  "Condition of a Lock": () => new Condition(new Lock()),
};

/** Acquires a lock and holds it until an event. */
async function keep(
  lock: Lock | RLock | Condition,
  until: Event,
): Promise<void> {
  await lock.acquire();
  await until.wait();
  lock.release();
}

/** Whether a lock is free. */
async function isFree(lock: Lock | RLock | Condition): Promise<boolean> {
  const taken = await spawn(async () => {
    using mine = await lock.acquire({ blocking: false });
    return mine !== null;
  }).get();
  return taken;
}

for (const [name, make] of Object.entries(OWNED)) {
  testBoth(
    `${name} is not released by a block that has released it before its end`,
    {
      async async(lock: Lock | RLock | Condition) {
        using _ = await lock.acquire();
        lock.release();
        await sleep(0);
      },
      *generator(lock: Lock | RLock | Condition) {
        using _ = yield* lock.acquire();
        lock.release();
        yield* sleep(0);
      },
    },
    async (body) => {
      const lock = make();
      await spawn(body, lock).get();
      assert(await isFree(lock));
      const end = new Event();
      const first = spawn(body, lock);
      const next = spawn(keep, lock, end);
      await first.get();
      assertFalse(await isFree(lock));
      end.set();
      await next.get();
      assert(await isFree(lock));
    },
  );

  testBoth(
    `${name} that is disposed of twice is released once`,
    {
      async async(lock: Lock | RLock | Condition) {
        const held = (await lock.acquire())!;
        held[Symbol.dispose]();
        held[Symbol.dispose]();
        await sleep(0);
        held[Symbol.dispose]();
      },
      *generator(lock: Lock | RLock | Condition) {
        const held = (yield* lock.acquire())!;
        held[Symbol.dispose]();
        held[Symbol.dispose]();
        yield* sleep(0);
        held[Symbol.dispose]();
      },
    },
    async (body) => {
      const lock = make();
      const end = new Event();
      const first = spawn(body, lock);
      const next = spawn(keep, lock, end);
      await first.get();
      assertFalse(await isFree(lock));
      end.set();
      await next.get();
      assert(await isFree(lock));
    },
  );

  Deno.test(`${name} is released by a stack that another greenlet disposes of, once`, async () => {
    const lock = make();
    const end = new Event();
    for (let i = 0; i < 2; i++) {
      const stack = await spawn(async () => {
        const stack = new DisposableStack();
        stack.use(await lock.acquire());
        return stack;
      }).get();
      assertFalse(await isFree(lock));
      await spawn(() => stack.dispose()).get();
      assert(await isFree(lock));
      stack.dispose();
      assert(await isFree(lock));
    }
    await spawn(async () => {
      const dispose = (await lock.acquire())![Symbol.dispose];
      const next = spawn(keep, lock, end);
      await sleep(0);
      dispose();
      await sleep(0);
      dispose();
      assertFalse(await isFree(lock));
      end.set();
      await next.get();
    }).get();
  });
}

for (const name of ["Condition of an RLock", "Condition of a Lock"]) {
  Deno.test(`${name} is released at the end of a block that has waited for it, and of one within it`, async () => {
    const condition = OWNED[name]!() as Condition;
    const waiting = spawn(async () => {
      using _ = await condition.acquire();
      await condition.wait();
      assertFalse(await isFree(condition));
    });
    await settle();
    {
      using _ = await condition.acquire();
      condition.notify();
    }
    await waiting.get();
    assert(await isFree(condition));
  });
}

Deno.test("RLock is held until the outermost block ends", async () => {
  const lock = new RLock();
  {
    using _outer = await lock.acquire();
    {
      using _inner = await lock.acquire();
    }
    assert(lock.owned);
  }
  assertFalse(lock.locked());
});

Deno.test("BoundedSemaphore is not released by a block that has released it, if nothing is taken", async () => {
  const semaphore = new BoundedSemaphore(2);
  {
    using _ = await semaphore.acquire();
    semaphore.release();
  }
  assertEquals(semaphore.counter, 2);
  assertThrows(() => semaphore.release(), RangeError);
});

Deno.test("Semaphore is released once by one disposer", async () => {
  const semaphore = new Semaphore(1);
  const dispose = (await semaphore.acquire())![Symbol.dispose];
  dispose();
  dispose();
  assertEquals(semaphore.counter, 1);
});

/** Runs one task at a time. The end of a task begins the next one in the same step. */
class OneByOne {
  readonly #tasks: (() => void)[] = [];
  #isBusy = false;

  add<T>(task: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#tasks.push(async () => {
        try {
          resolve(await task());
        } catch (error) {
          reject(error);
        } finally {
          this.#isBusy = false;
          this.#begin();
        }
      });
      this.#begin();
    });
  }

  #begin(): void {
    if (this.#isBusy) return;
    const task = this.#tasks.shift();
    this.#isBusy = task !== undefined;
    task?.();
  }
}

Deno.test("withTimeout() whose function a queue ends does not end the task that the queue begins then", async () => {
  const queue = new OneByOne();
  const slow = Promise.withResolvers<void>();
  const late = spawn(() => withTimeout(1, () => queue.add(() => slow.promise)));
  const next = spawn(() =>
    queue.add(async () => {
      for (let i = 0; i < 3; i++) await sleep(0);
      return "done";
    })
  );
  await assertRejects(() => late.get(), Timeout);
  await settle();
  slow.resolve();
  assertEquals(await next.get(), "done");
});
