import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { AsyncResource } from "node:async_hooks";
import async from "async";
import { Mutex } from "async-mutex";
import { Sema } from "async-sema";
import Bottleneck from "bottleneck";
import { bulkhead } from "cockatiel";
import genericPool from "generic-pool";
import pLimit from "p-limit";
import PQueue from "p-queue";
import {
  Event as Signal,
  type Greenlet,
  GreenletError,
  GreenletExit,
  idle,
  joinAll,
  kill,
  patch,
  sleep,
  spawn,
  spawnRaw,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { type Bodies, Failures, testBoth } from "../_bodies.ts";
import { eventually } from "../_servers.ts";

type Task<T> = () => Promise<T>;
/** Has a queue run a task when there is room, and gives what that gives. */
type Add = <T>(task: Task<T>) => Promise<T>;

/** How many tasks run at once. */
const SIZE = 5;
const GREENLETS = 100;
const FOREVER = 1e9;

/** Queues of packages that start a task where the one before it has ended. */
const chained: Record<string, (size?: number) => Add> = {
  "p-queue": (concurrency = SIZE) => {
    const queue = new PQueue({ concurrency });
    return (task) => queue.add(task);
  },
  "cockatiel's bulkhead": (size = SIZE) => {
    const policy = bulkhead(size, Infinity);
    return (task) => policy.execute(task);
  },
  "async.queue": (size = SIZE) => {
    const queue = async.queue(
      async (task: Task<unknown>) => await task(),
      size,
    );
    return <T>(task: Task<T>) => queue.pushAsync(task) as Promise<T>;
  },
};

/** Queues whose tasks run where they were added. */
const bound: Record<string, () => Add> = {
  "p-limit": () => pLimit(SIZE),
  "generic-pool": () => {
    const pool = genericPool.createPool({
      create: () => Promise.resolve({}),
      destroy: () => Promise.resolve(),
    }, { max: SIZE });
    return async (task) => await pool.use(task);
  },
  "async-sema": () => {
    const sema = new Sema(SIZE);
    return async (task) => {
      await sema.acquire();
      try {
        return await task();
      } finally {
        sema.release();
      }
    };
  },
  "async-mutex": () => {
    const mutex = new Mutex();
    return (task) => mutex.runExclusive(task);
  },
};

/** The ways in which a greenlet ends while its own task runs. */
const endings: Record<string, (victim: Greenlet<unknown>) => unknown> = {
  "kill()": (victim) => victim.kill(),
  "kill() by an error": (victim) => victim.kill(new Error("killed")),
  "throw()": (victim) => victim.throw(new Error("thrown")),
};

/** Adds a task, and gives its result. */
const adds: Bodies<[Add, Task<number>], number> = {
  async: async (add, task) => await add(task),
  *generator(add, task) {
    return yield* until(add(task));
  },
};

/** Has each of many greenlets add a task; the tasks of the first wait for ever. */
async function share(
  add: Add,
  body: (add: Add, task: Task<number>) => unknown,
  others = body,
): Promise<Greenlet<unknown>[]> {
  const begun = new Signal();
  const greenlets: Greenlet<unknown>[] = [];
  for (let i = 0; i < GREENLETS; i++) {
    greenlets.push(spawn(i === 0 ? body : others, add, async () => {
      if (i === 0) {
        begun.set();
        await sleep(FOREVER);
      }
      await sleep(1);
      await sleep(1);
      return i;
    }));
    // One after the other, so that each of the first has its task begin.
    if (i < SIZE) await idle();
  }
  await begun.wait();
  return greenlets;
}

async function allButFirst(greenlets: Greenlet<unknown>[]): Promise<void> {
  const others = greenlets.slice(1);
  await joinAll(others);
  assertEquals(
    others.map((one) => one.exception ?? one.value),
    others.map((_, i) => i + 1),
  );
}

for (const [name, make] of Object.entries({ ...chained, ...bound })) {
  for (const [how, end] of Object.entries(endings)) {
    testBoth(
      `${name} goes on when a greenlet ends in its task by ${how}`,
      adds,
      async (body) => {
        using _ = patch();
        using _failures = new Failures();
        const greenlets = await share(make(), body);
        await end(greenlets[0]!);
        await allButFirst(greenlets);
        assert(greenlets[0]!.dead);
        assert(greenlets[0]!.value !== 0);
      },
    );
  }

  testBoth(
    `${name} goes on when withTimeout() ends a task`,
    adds,
    async (body) => {
      using _ = patch();
      const greenlets = await share(
        make(),
        (add, task) => withTimeout(1, () => body(add, task), { value: "late" }),
        body,
      );
      await allButFirst(greenlets);
      assertEquals(await greenlets[0]!.get(), "late");
    },
  );

  testBoth(`${name} goes on when a Timeout ends a task`, {
    async async(add: Add, task: Task<number>) {
      using _ = Timeout.start(1);
      return await add(task);
    },
    *generator(add: Add, task: Task<number>) {
      using _ = Timeout.start(1);
      return yield* until(add(task));
    },
  }, async (body) => {
    using _ = patch();
    using _failures = new Failures();
    const greenlets = await share(make(), body, adds.async);
    await allButFirst(greenlets);
    assertInstanceOf(greenlets[0]!.exception, Timeout);
  });
}

for (const [name, make] of Object.entries(chained)) {
  Deno.test(`${name} goes on when a raw greenlet is killed in its task`, async () => {
    using _ = patch();
    const add = make(1);
    const begun = new Signal();
    const raw = spawnRaw(async () =>
      await add(async () => {
        begun.set();
        await sleep(FOREVER);
      })
    );
    await begun.wait();
    const other = spawn(adds.async, add, async () => {
      await sleep(1);
      await sleep(1);
      return 1;
    });
    await idle();
    await kill(raw);
    assertEquals(await other.get(), 1);
  });

  testBoth(`${name} has the next task wait while a killed greenlet cleans up`, {
    async async(add: Add, begun: Signal, clean: Signal) {
      try {
        await add(async () => {
          begun.set();
          await sleep(FOREVER);
        });
      } finally {
        await clean.wait();
      }
    },
    *generator(add: Add, begun: Signal, clean: Signal) {
      try {
        yield* until(add(async () => {
          begun.set();
          await sleep(FOREVER);
        }));
      } finally {
        yield* clean.wait();
      }
    },
  }, async (body) => {
    using _ = patch();
    const add = make(1);
    const [begun, clean] = [new Signal(), new Signal()];
    const victim = spawn(body, add, begun, clean);
    await begun.wait();
    const other = spawn(adds.async, add, async () => {
      await sleep(1);
      await sleep(1);
      return 1;
    });
    await idle();
    victim.kill(undefined, { block: false });
    assertEquals(await other.get(), 1);
    assert(!victim.dead);
    clean.set();
    await victim.join();
    assertInstanceOf(victim.value, GreenletExit);
  });

  testBoth(
    `${name} goes on after a task that withTimeout() has let go of`,
    adds,
    async (body) => {
      using _ = patch();
      using _failures = new Failures();
      const add = make(1);
      const foreign = Promise.withResolvers<number>();
      const victim = spawn(() =>
        withTimeout(1, () => body(add, () => foreign.promise), { value: -1 })
      );
      await idle();
      const others = [1, 2, 3].map((i) =>
        spawn(adds.async, add, async () => {
          await sleep(1);
          await sleep(1);
          return i;
        })
      );
      assertEquals(await victim.get(), -1);
      foreign.resolve(0);
      await joinAll(others);
      // The next task begins before the function's promise has settled.
      const [next, ...rest] = others;
      if (next!.exception !== undefined) {
        assertInstanceOf(next!.exception, GreenletError);
        assertStringIncludes(String(next!.exception), victim.name);
      }
      assertEquals(rest.map((one) => one.exception ?? one.value), [2, 3]);
    },
  );

  // Nothing tells the task from what the greenlet itself has begun and not awaited.
  Deno.test(`${name} whose next task began in a greenlet that is killed later fails that task with an error that names the greenlet`, async () => {
    using _ = patch();
    using failures = new Failures();
    const { victim, other, last } = await lead(
      make(1),
      (add, task) => add(task),
    );
    await victim.kill();
    await joinAll([other, last]);
    assertInstanceOf(other.exception, GreenletError);
    assertStringIncludes(String(other.exception), victim.name);
    assertEquals(failures.contexts, [other]);
    assertEquals(last.value, 2);
  });

  Deno.test(`${name} keeps the next task from the kill of the greenlet before if AsyncResource.bind() binds it to its own`, async () => {
    using _ = patch();
    const { victim, other, last } = await lead(
      make(1),
      (add, task) => add(AsyncResource.bind(task)),
    );
    await victim.kill();
    assertEquals(await joinAll([other, last]), [other, last]);
    assertEquals([other.value, last.value], [1, 2]);
  });

  Deno.test(`${name} keeps the next task from the kill of the greenlet before if that one adds its own in withTimeout()`, async () => {
    using _ = patch();
    const { victim, other, last } = await lead(
      make(1),
      (add, task) => withTimeout(Infinity, () => add(task)),
    );
    await victim.kill();
    await joinAll([other, last]);
    assertEquals([other.value, last.value], [1, 2]);
  });

  Deno.test(`${name} ends a bound task with its greenlet, wherever the task was started`, async () => {
    using _ = patch();
    const { victim, other, last } = await lead(
      make(1),
      (add, task) => add(AsyncResource.bind(task)),
    );
    await other.kill();
    assertEquals(await last.get(), 2);
    assert(!victim.dead);
    await victim.kill();
  });
}

/**
 * Has three greenlets add a task each, of which the second has begun where the first has
 * ended; the greenlet of the first lives on.
 */
async function lead(
  add: Add,
  addTo: (add: Add, task: Task<number>) => PromiseLike<number>,
): Promise<Record<"victim" | "other" | "last", Greenlet<number>>> {
  const [first, second] = [new Signal(), new Signal()];
  const victim = spawn(async () => {
    const value = await addTo(add, async () => {
      await first.wait();
      return 0;
    });
    await sleep(FOREVER);
    return value;
  });
  await idle();
  const other = spawn(async () =>
    await addTo(add, async () => {
      second.set();
      await sleep(5);
      return 1;
    })
  );
  const last = spawn(async () =>
    await addTo(add, async () => {
      await sleep(1);
      return 2;
    })
  );
  await idle();
  first.set();
  await second.wait();
  await idle();
  return { victim, other, last };
}

Deno.test("async.queue whose first tasks begin in one greenlet fails only those tasks with it, and none hang", async () => {
  using _ = patch();
  using _failures = new Failures();
  const add = chained["async.queue"]!();
  const begun = new Signal();
  const greenlets = Array.from(
    { length: GREENLETS },
    (_, i) =>
      spawn(async () =>
        await add(async () => {
          if (i === 0) begun.set();
          await sleep(5);
          return i;
        })
      ),
  );
  await begun.wait();
  await greenlets[0]!.kill();
  await joinAll(greenlets);
  for (const [i, one] of greenlets.entries()) {
    if (i === 0) assertInstanceOf(one.value, GreenletExit);
    else if (i < SIZE) assertInstanceOf(one.exception, GreenletError);
    else assertEquals(one.value, i);
  }
});

Deno.test("Bottleneck goes on when the greenlet of a running task is killed", async () => {
  using _ = patch();
  const bottleneck = new Bottleneck({ maxConcurrent: SIZE });
  const add: Add = (task) => bottleneck.schedule(task);
  const [begun, end] = [new Signal(), new Signal()];
  const greenlets = Array.from(
    { length: GREENLETS },
    (_, i) =>
      spawn(async () =>
        await add(async () => {
          if (i === SIZE - 1) begun.set();
          if (i < SIZE) await end.wait();
          await sleep(1);
          return i;
        })
      ),
  );
  await begun.wait();
  // It takes in the tasks of all one after the other, in a chain that the first call has begun:
  // until that is over, the chain is work of the first greenlet.
  await eventually(() => bottleneck.counts().RECEIVED === 0);
  // Its task runs in a greenlet of its own, as the callback of a timer.
  greenlets[0]!.kill(undefined, { block: false });
  await idle();
  end.set();
  await allButFirst(greenlets);
  await greenlets[0]!.join();
});

Deno.test("Greenlet.kill() past the grace of a body that lives on reaches the calls in its context", async () => {
  using _ = patch();
  using _failures = new Failures();
  const add = chained["p-queue"]!(1);
  const begun = new Signal();
  const victim = spawn(async () => {
    try {
      await add(async () => {
        begun.set();
        await sleep(FOREVER);
      });
    } catch {
      await sleep(FOREVER);
    }
  });
  await begun.wait();
  const other = spawn(adds.async, add, async () => {
    await sleep(FOREVER);
    return 1;
  });
  await idle();
  await victim.kill(undefined, { grace: 5 });
  const error = await assertRejects(() => other.get(), GreenletError);
  assertStringIncludes(error.message, victim.name);
});

testBoth(
  "withTimeout() that has let go of its function leaves alone what goes on when that has ended",
  {
    async async(log: unknown[], gates: Promise<void>[]) {
      (async () => {
        await gates[1];
        await sleep(1);
        log.push("goes on");
      })();
      await gates[0];
    },
    *generator(log: unknown[], gates: Promise<void>[]) {
      (async () => {
        await gates[1];
        await sleep(1);
        log.push("goes on");
      })();
      yield* until(gates[0]);
    },
  },
  async (body) => {
    const log: unknown[] = [];
    const gates = [1, 2].map(() => Promise.withResolvers<void>());
    const promises = gates.map(({ promise }) => promise);
    await assertRejects(
      () => withTimeout(1, () => body(log, promises)),
      Timeout,
    );
    gates[0]!.resolve();
    await idle();
    gates[1]!.resolve();
    while (log.length === 0) await idle();
    assertEquals(log, ["goes on"]);
  },
);

Deno.test("Greenlet.signal of a greenlet that was killed and has ended is aborted", async () => {
  const exit = new GreenletExit();
  const greenlet = spawn(() => sleep(FOREVER));
  await idle();
  await greenlet.kill(exit);
  assertStrictEquals(greenlet.signal.reason, exit);
});
