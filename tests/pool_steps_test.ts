import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  AsyncResult,
  BoundedSemaphore,
  Channel,
  Condition,
  Event,
  getHub,
  Greenlet,
  GreenletExit,
  Group,
  iwait,
  joinAll,
  killAll,
  local,
  Lock,
  type Nursery,
  nursery,
  Pool,
  PriorityQueue,
  Queue,
  RLock,
  run,
  Semaphore,
  sleep,
  spawn,
  spawnLater,
  until,
  wait,
  Waiter,
} from "../mod.ts";
import { Failures, settle, testBoth } from "./_bodies.ts";

const FOREVER = 1e9;

/** A spawn callback that throws, as long as it is in use. */
class Refusal implements Disposable {
  readonly error = new Error("Not now");
  /** The numbers of the starts that it refuses. */
  readonly #which: (i: number) => boolean;
  #seen = 0;
  readonly #callback = () => {
    if (this.#which(this.#seen++)) throw this.error;
  };

  constructor(which: (i: number) => boolean = () => true) {
    this.#which = which;
    Greenlet.addSpawnCallback(this.#callback);
  }

  [Symbol.dispose](): void {
    Greenlet.removeSpawnCallback(this.#callback);
  }
}

/** A greenlet that can't be linked to. */
class Unlinkable extends Greenlet {
  override rawlink(): void {
    throw new Error("No links");
  }
}

/** The error of a call, thrown at once or later. */
async function errorOf(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error("Nothing was thrown");
}

type Mapper = Group | Pool;

const mappers: [string, () => Mapper][] = [
  ["Group", () => new Group()],
  ["Pool", () => new Pool(2)],
];

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** Checks that all slots are there, by using them. */
async function assertWhole(group: Mapper): Promise<void> {
  await settle();
  assertEquals(group.size, 0);
  assertEquals(await group.join({ timeout: 0 }), true);
  if (!(group instanceof Pool)) return;
  assertEquals(group.freeCount(), 2);
  const results = group.map(async (x: number) => {
    await sleep(0);
    assert(group.size <= 2);
    return x;
  }, [1, 2, 3]);
  assertEquals(await results, [1, 2, 3]);
}

// --- A start that throws

/** All that starts a greenlet in a group. */
const starts: Record<string, (group: Mapper) => unknown> = {
  "spawn()": (group) => group.spawn(() => {}),
  "start()": (group) => group.start(new Greenlet(() => {})),
  "apply()": (group) => group.apply(() => {}),
  "applyAsync()": (group) => group.applyAsync(() => {}),
  "map()": (group) => group.map(() => {}, [1, 2]),
  "mapAsync()": (group) => group.mapAsync(() => {}, [1, 2]),
  "imap()": (group) => group.imap(() => {}, [1, 2]),
  "imapUnordered()": (group) => group.imapUnordered(() => {}, [1, 2]),
};

for (const [name, make] of mappers) {
  for (const [method, start] of Object.entries(starts)) {
    Deno.test(`${name}.${method} gives its place back when a spawn callback throws`, async () => {
      const group = make();
      {
        using refusal = new Refusal();
        for (let i = 0; i < 5; i++) {
          assertStrictEquals(await errorOf(() => start(group)), refusal.error);
        }
      }
      await assertWhole(group);
    });
  }

  for (const method of ["map", "mapAsync", "imap", "imapUnordered"] as const) {
    for (const kind of ["sync", "async"]) {
      Deno.test(`${name}.${method}() over ${kind} items ends its calls and closes the items when a spawn callback throws in the middle`, async () => {
        using _failures = new Failures();
        for (let which = 0; which < 4; which++) {
          const group = make();
          let [running, opened, closed] = [0, 0, 0];
          const sync = function* () {
            opened++;
            try {
              for (let i = 0;; i++) yield i;
            } finally {
              closed++;
            }
          };
          const async = async function* () {
            yield* sync();
          };
          const call = async (i: number) => {
            running++;
            try {
              await sleep(i % 2 === 0 ? 0 : FOREVER);
            } finally {
              running--;
            }
          };
          const items = kind === "sync" ? sync() : async();
          using refusal = new Refusal((i) => i === which);
          const error = await errorOf(() => {
            if (method === "map") return group.map(call, items);
            if (method === "mapAsync") {
              return group.mapAsync(call, items).get();
            }
            // Where the items fail, what was begun is given first.
            const brief = () => {};
            return collect(group[method](brief, items, { maxsize: 2 }));
          });
          assertStrictEquals(error, refusal.error);
          await settle();
          assertEquals([running, closed, group.size], [0, opened, 0]);
          if (group instanceof Pool) assertEquals(group.freeCount(), 2);
        }
      });
    }
  }

  for (const kind of ["throws", "kills"]) {
    Deno.test(`${name}.start() of a greenlet that is in it keeps its place when a spawn callback ${kind}`, async () => {
      const group = make();
      const g = new Greenlet(() => {});
      await group.add(g);
      const callback = () => {
        if (kind === "throws") throw new Error("Not now");
        g.kill(undefined, { block: false });
      };
      Greenlet.addSpawnCallback(callback);
      try {
        if (kind === "throws") {
          await errorOf(() => group.start(g));
          assertEquals([group.size, group.has(g)], [1, true]);
          if (group instanceof Pool) assertEquals(group.freeCount(), 1);
        } else {
          await group.start(g);
        }
      } finally {
        Greenlet.removeSpawnCallback(callback);
      }
      if (kind === "throws") await group.start(g);
      await assertWhole(group);
    });
  }

  Deno.test(`${name} refuses anything but a function, and a greenlet without one, and gives the place back`, async () => {
    const group = make();
    const wrong = undefined as unknown as () => void;
    for (let i = 0; i < 3; i++) {
      for (
        const call of [
          () => group.spawn(wrong),
          () => group.apply(wrong),
          () => group.applyAsync(wrong),
          () => group.map(wrong, [1]),
          () => group.mapAsync(wrong, [1]),
          () => group.imap(wrong, [1]),
          () => group.imapUnordered(wrong, [1]),
          () => group.start(undefined as unknown as Greenlet),
          () => group.add(undefined as unknown as Greenlet),
        ]
      ) assertThrows(call, TypeError);
      const error = await errorOf(() => group.start(new Greenlet()));
      assertInstanceOf(error, TypeError);
    }
    await assertWhole(group);
  });

  Deno.test(`${name}.applyAsync() takes no place for arguments that can't be spread`, async () => {
    const group = make();
    for (let i = 0; i < 3; i++) {
      assertThrows(() => group.applyAsync(() => {}, 5 as never), TypeError);
      await errorOf(() => group.apply(() => {}, 5 as never));
    }
    await assertWhole(group);
  });

  Deno.test(`${name}.add() and start() take no place for a greenlet that can't be linked to`, async () => {
    const group = make();
    for (let i = 0; i < 3; i++) {
      const error = await errorOf(() => group.add(new Unlinkable(() => {})));
      assertEquals((error as Error).message, "No links");
      await errorOf(() => group.start(new Unlinkable(() => {})));
    }
    await assertWhole(group);
  });

  Deno.test(`${name}.join() waits for all before it throws with raiseError`, async () => {
    using _failures = new Failures();
    for (const generator of [false, true]) {
      const group = make();
      const gate = new Event();
      await group.spawn(() => gate.wait());
      const error = new Error("Boom");
      const isJoined = new Event();
      await group.spawn(async () => {
        await isJoined.wait();
        throw error;
      });
      const joiner = generator
        ? spawn(function* () {
          return yield* group.join({ raiseError: true });
        })
        : spawn(async () => await group.join({ raiseError: true }));
      await settle();
      isJoined.set();
      await settle();
      assertEquals(group.size, 1);
      assertFalse(joiner.dead);
      gate.set();
      await joiner.join();
      assertStrictEquals(joiner.exception, error);
      assertEquals(group.size, 0);
    }
  });

  Deno.test(`${name}.kill() ends although greenlets start others for ever`, async () => {
    const group = make();
    let spawned = 0;
    const again = async () => {
      spawned++;
      try {
        await sleep(FOREVER);
      } finally {
        group.applyAsync(again);
      }
    };
    await group.spawn(again);
    await settle();
    await group.kill();
    await settle();
    assertEquals(group.size, 0);
    assert(spawned <= 3);
  });

  Deno.test(`${name}.kill() ends although others spawn in it for ever`, async () => {
    const group = make();
    let spawned = 0;
    const spawner = spawn(async () => {
      for (;;) {
        const one = await group.spawn(() => sleep(FOREVER));
        spawned++;
        await one.join();
      }
    });
    await settle();
    await group.kill();
    await spawner.kill();
    assert(spawned >= 1);
    await group.kill();
    await assertWhole(group);
  });
}

Deno.test("Pool.spawn(), start() and apply() give a place back that they have waited for when a spawn callback throws", async () => {
  for (const method of ["spawn()", "start()", "apply()"]) {
    const pool = new Pool(1);
    const first = await pool.spawn(() => sleep(FOREVER));
    const waiting = spawn(() => errorOf(() => starts[method]!(pool)));
    await settle();
    assertFalse(waiting.dead);
    using refusal = new Refusal();
    await first.kill();
    assertStrictEquals(await waiting.get(), refusal.error);
    await settle();
    assertEquals([pool.size, pool.freeCount()], [0, 1]);
  }
});

Deno.test("Pool.start() of a greenlet without a body that has waited for a place gives it back", async () => {
  const pool = new Pool(1);
  const first = await pool.spawn(() => sleep(FOREVER));
  const waiting = spawn(() => errorOf(() => pool.start(new Greenlet())));
  await settle();
  await first.kill();
  assertInstanceOf(await waiting.get(), TypeError);
  await settle();
  assertEquals([pool.size, pool.freeCount()], [0, 1]);
});

testBoth("Nursery.spawn() that throws leaves no child behind", {
  async: async () =>
    await nursery((n: Nursery) => {
      using refusal = new Refusal();
      assertStrictEquals(assertThrows(() => n.spawn(() => {})), refusal.error);
      assertThrows(() => n.spawn(undefined as never), TypeError);
      assertEquals(n.greenlets.size, 0);
      return "over";
    }),
  generator: function* () {
    return yield* nursery(function* (n: Nursery) {
      using refusal = new Refusal();
      assertStrictEquals(assertThrows(() => n.spawn(() => {})), refusal.error);
      assertThrows(() => n.spawn(undefined as never), TypeError);
      yield* sleep(0);
      assertEquals(n.greenlets.size, 0);
      return "over";
    });
  },
}, async (body) => {
  assertEquals(await spawn(body).get(), "over");
});

Deno.test("run() that could not start can be called again", async () => {
  {
    using refusal = new Refusal();
    assertStrictEquals(await errorOf(() => run(() => {})), refusal.error);
  }
  assertEquals(await run(() => 1), 1);
});

Deno.test("spawn(), spawnLater() and start() that a spawn callback refuses can be tried again", async () => {
  const g = new Greenlet(() => "started");
  {
    using refusal = new Refusal();
    assertStrictEquals(assertThrows(() => spawn(() => {})), refusal.error);
    assertThrows(() => spawnLater(1, () => {}));
    assertThrows(() => g.start());
    assertThrows(() => g.startLater(1));
    assertFalse(g.started);
  }
  g.start();
  assertEquals(await g.get(), "started");
  // None of the others counts as alive.
  assertEquals(await wait(), true);
});

Deno.test("Greenlet.link() whose greenlet a spawn callback refuses leaves the other links alone", async () => {
  using failures = new Failures();
  const told: string[] = [];
  const g = spawn(() => {});
  g.link(() => told.push("first"));
  g.link(() => told.push("second"));
  g.rawlink(() => told.push("third"));
  await null;
  using refusal = new Refusal((i) => i === 0);
  await settle();
  assertEquals(told, ["second", "third"]);
  assertEquals(failures.errors, [refusal.error]);
});

// --- Several at once

Deno.test("killAll() checks all greenlets before it kills one", async () => {
  const a = spawn(sleep, FOREVER);
  const b = spawn(sleep, FOREVER);
  await settle();
  for (const wrong of [5, null, undefined, {}, () => {}, getHub()]) {
    assertThrows(() => killAll([a, wrong as never, b]), TypeError, "kill all");
  }
  const items = function* () {
    yield a;
    throw new Error("Boom");
  };
  assertThrows(() => killAll(items()), Error, "Boom");
  assertThrows(() => killAll([a, b], { grace: NaN }), RangeError);
  await settle();
  assertEquals([a.dead, b.dead], [false, false]);
  await killAll([a, b]);
});

Deno.test("killAll() kills a greenlet that it is given twice once", async () => {
  const errors: unknown[] = [];
  const g = spawn(async () => {
    for (let i = 0; i < 2; i++) {
      await sleep(i === 0 ? FOREVER : 0).catch((error) => errors.push(error));
    }
  });
  await settle();
  await killAll([g, g]);
  assertEquals(errors.length, 1);
});

Deno.test("killAll() kills the others when one can't be linked to or refuses", async () => {
  class Refusing extends Greenlet {
    override kill(): never {
      throw new Error("No");
    }
  }
  const a = spawn(sleep, FOREVER);
  const b = spawn(sleep, FOREVER);
  const refusing = Refusing.spawn(() => sleep(FOREVER)) as Refusing;
  const unlinkable = Unlinkable.spawn(() => sleep(FOREVER)) as Unlinkable;
  await settle();
  assertThrows(() => killAll([a, refusing, unlinkable, b]), Error, "No");
  await settle();
  assertEquals([a, b, unlinkable].map((g) => g.dead), [true, true, true]);
  Greenlet.prototype.kill.call(refusing);
  await settle();
});

Deno.test("joinAll(), wait() and iwait() check all objects before they link to one, and take back all links when one refuses", async () => {
  const event = new Event();
  const unlinkable = new Unlinkable(() => {});
  for (const call of [joinAll, wait, iwait]) {
    const all = call as (objects: unknown[]) => unknown;
    assertThrows(() => all([event, 5, event]), TypeError);
    assertEquals(event.linkCount(), 0);
    const error = await errorOf(() => all([event, event, unlinkable, event]));
    assertEquals([(error as Error).message, event.linkCount()], [
      "No links",
      0,
    ]);
  }
});

Deno.test("new Group() checks all greenlets before it takes one in", async () => {
  let links = 0;
  class Counted extends Greenlet {
    override rawlink(link: never): void {
      links++;
      super.rawlink(link);
    }
  }
  const g = new Counted(() => {});
  assertThrows(() => new Group([g, 5 as never]), TypeError);
  assertEquals(links, 0);
  g.start();
  await g.join();
});

testBoth("iwait() in a loop that an interrupt leaves takes its links back", {
  async: async (events: Event[], log: string[]) => {
    try {
      for await (const _ of iwait(events));
    } finally {
      log.push(`links: ${events[0]!.linkCount()}`);
    }
  },
  generator: function* (events: Event[], log: string[]) {
    try {
      // A caller of next() closes the iterator itself.
      using ready = iwait(events);
      for (;;) if ((yield* ready.next()).done) return;
    } finally {
      log.push(`links: ${events[0]!.linkCount()}`);
    }
  },
}, async (body) => {
  for (const grace of [1000, 0]) {
    const events = [new Event(), new Event()];
    const log: string[] = [];
    const g = spawn(body, events, log);
    await settle();
    assertEquals(events[0]!.linkCount(), 1);
    await g.kill(undefined, { grace });
    assertEquals(log, ["links: 0"]);
    assertEquals(events[1]!.linkCount(), 0);
  }
});

Deno.test("iwait() gives no more objects when it was left", async () => {
  const events = [new Event(), new Event()];
  for (const event of events) event.set();
  const ready = iwait(events);
  for await (const _ of ready) break;
  assertEquals(await ready.next(), { done: true, value: undefined });
  const pending = iwait([new Event()]);
  const next = pending.next();
  await pending.return();
  assertEquals(await next, { done: true, value: undefined });
});

// --- Comparisons that throw

/** A comparison that throws when it is told to. */
function comparison(): { fails: boolean; compare: typeof compare } {
  const it = { fails: false, compare };
  function compare(a: number, b: number): number {
    if (it.fails) throw new Error("Compare");
    return a - b;
  }
  return it;
}

Deno.test("PriorityQueue is unchanged when a comparison throws in put() or get()", async () => {
  const it = comparison();
  const queue = new PriorityQueue(it.compare, { items: [4, 2, 3, 1] });
  it.fails = true;
  for (
    const call of [
      () => queue.put(5),
      () => queue.putNowait(5),
      () => queue.get(),
      () => queue.getNowait(),
    ]
  ) {
    assertEquals((await errorOf(call) as Error).message, "Compare");
    assertEquals([queue.qsize(), queue.unfinishedTasks], [4, 4]);
  }
  it.fails = false;
  const all: number[] = [];
  while (!queue.empty()) all.push(await queue.get());
  assertEquals(all, [1, 2, 3, 4]);
});

testBoth(
  "PriorityQueue.put() that waits throws the error of a comparison, and the next is served",
  {
    async: async (queue: PriorityQueue<number>, item: number) =>
      await queue.put(item),
    generator: function* (queue: PriorityQueue<number>, item: number) {
      yield* queue.put(item);
    },
  },
  async (body) => {
    using _failures = new Failures();
    const it = comparison();
    const queue = new PriorityQueue(it.compare, { maxsize: 2, items: [1, 2] });
    const putters = [spawn(body, queue, 3), spawn(body, queue, 4)];
    await settle();
    // Taking the last but one compares nothing, and putting another does.
    it.fails = true;
    assertEquals(queue.getNowait(), 1);
    it.fails = false;
    await settle();
    assertEquals(queue.putters, 0);
    assertEquals((putters[0]!.exception as Error)?.message, "Compare");
    assertEquals((putters[1]!.exception as Error)?.message, "Compare");
    assertEquals([queue.qsize(), queue.getNowait()], [1, 2]);
  },
);

Deno.test("PriorityQueue.shutdown() drops all items and wakes all waiters although a comparison throws", async () => {
  using _failures = new Failures();
  const it = comparison();
  const queue = new PriorityQueue(it.compare, { maxsize: 3, items: [3, 2, 1] });
  const putter = spawn(() => queue.put(4));
  const joiner = spawn(() => queue.join());
  await settle();
  it.fails = true;
  queue.shutdown({ immediate: true });
  await settle();
  assert(putter.dead && joiner.dead);
  assertEquals([queue.qsize(), queue.unfinishedTasks, queue.putters], [
    0,
    0,
    0,
  ]);
});

Deno.test("Queue.shutdown() drops all items although taskDone() was called too often", () => {
  const queue = new Queue<number>(null, [1, 2]);
  queue.taskDone();
  queue.taskDone();
  queue.shutdown({ immediate: true });
  assertEquals([queue.qsize(), queue.unfinishedTasks], [0, 0]);
});

testBoth(
  "Queue.get() that waits throws the error of its store, and the item stays",
  {
    async: async (queue: Queue<number>) => await queue.get(),
    generator: function* (queue: Queue<number>) {
      return yield* queue.get();
    },
  },
  async (body) => {
    using _failures = new Failures();
    let fails = true;
    class Odd extends Queue<number> {
      protected override createItems() {
        const items: number[] = [];
        return Object.assign(items, {
          take: () => {
            if (fails) throw new Error("Store");
            return items.shift()!;
          },
          peek: () => items[0]!,
        });
      }
    }
    const queue = new Odd();
    const getters = [spawn(body, queue), spawn(body, queue)];
    await settle();
    await queue.put(1);
    await settle();
    for (const getter of getters) {
      assertEquals((getter.exception as Error)?.message, "Store");
    }
    fails = false;
    assertEquals([queue.getters, queue.qsize(), await queue.get()], [0, 1, 1]);
  },
);

// --- put() with room

testBoth(
  "Queue.put() with room puts although an error is due, and the next wait throws it",
  {
    async: async (put: () => Promise<void>, log: unknown[]) => {
      try {
        await until(Promise.resolve());
      } finally {
        await put();
        log.push("put");
        await sleep(0);
        log.push("slept");
      }
    },
    generator: function* (put, log: unknown[]) {
      try {
        yield* until(Promise.resolve());
      } finally {
        yield* put() as unknown as Generator;
        log.push("put");
        yield* sleep(0);
        log.push("slept");
      }
    },
  },
  async (body) => {
    for (
      const make of [
        () => new Queue<number>(),
        () => new Queue<number>(1),
        () => new PriorityQueue<number>(),
      ]
    ) {
      for (const due of ["throw", "kill", "no grace"]) {
        const queue = make();
        const log: unknown[] = [];
        const g: Greenlet<unknown> = spawn(body, () => {
          // While it runs, so that it is held.
          if (due === "throw") flowInterrupt(g);
          else {g.kill(undefined, {
              block: false,
              grace: due === "kill" ? 9 : 0,
            });}
          return queue.put(1);
        }, log) as Greenlet<unknown>;
        await g.join();
        assertInstanceOf(g.value, GreenletExit);
        assertEquals([log, queue.qsize()], [["put"], 1]);
      }
    }
  },
);

/** Has an error held, where throwing into itself would throw at once. */
function flowInterrupt(g: Greenlet<unknown>): void {
  g.kill(undefined, { block: false, grace: Infinity });
}

Deno.test("Channel.put() to a waiting getter hands over although an error is due", async () => {
  const channel = new Channel<number>();
  const taker = spawn(() => channel.get());
  await settle();
  const g = spawn(async () => {
    await until(Promise.resolve());
    g.kill(undefined, { block: false });
    await channel.put(1);
    await channel.put(2);
  });
  await g.join();
  assertInstanceOf(g.value as unknown, GreenletExit);
  assertEquals([await taker.get(), channel.balance], [1, 0]);
});

// --- Others that call the user

Deno.test("Condition.waitFor() holds the lock when its predicate throws, and the next is served", async () => {
  for (const lock of [new Lock(), new RLock()]) {
    using _failures = new Failures();
    const condition = new Condition(lock);
    let fails = false;
    const waiter = (calls: () => boolean) =>
      spawn(async () => {
        using _ = await condition.acquire();
        await condition.waitFor(calls);
        return lock.locked();
      });
    const failing = waiter(() => {
      if (fails) throw new Error("Predicate");
      return false;
    });
    await settle();
    let holds = false;
    const next = waiter(() => holds);
    await settle();
    fails = holds = true;
    {
      using _ = await condition.acquire();
      condition.notifyAll();
    }
    await assertRejects(() => failing.get(), Error, "Predicate");
    assertEquals(await next.get(), true);
    await settle();
    assertFalse(lock.locked());
  }
});

Deno.test("Condition keeps its waiters when the lock can't be released", async () => {
  class Stubborn extends Lock {
    refuses = false;
    override release(): number {
      if (this.refuses) throw new Error("Mine");
      return super.release();
    }
  }
  const lock = new Stubborn();
  const condition = new Condition(lock);
  await lock.acquire();
  lock.refuses = true;
  assertEquals(
    (await errorOf(() => condition.wait()) as Error).message,
    "Mine",
  );
  lock.refuses = false;
  condition.notifyAll();
  assertEquals(lock.locked(), true);
  lock.release();
  assertEquals(lock.locked(), false);
});

Deno.test("Semaphore keeps its permits when acquire() is given wrong options", () => {
  for (const semaphore of [new Semaphore(1), new BoundedSemaphore(1)]) {
    assertThrows(() => semaphore.acquire({ timeout: NaN }), RangeError);
    assertThrows(() => semaphore.acquire(5 as never), TypeError);
    assertThrows(() => semaphore.rawlink(5 as never), TypeError);
    assertEquals([semaphore.counter, semaphore.linkCount()], [1, 0]);
  }
});

Deno.test("AsyncResult is set by its next source when reading the first one throws", async () => {
  using failures = new Failures();
  const result = new AsyncResult<number>();
  const event = new Event();
  const odd = {
    successful(): boolean {
      throw new Error("Odd");
    },
    value: 1,
    exception: undefined,
  };
  event.rawlink(() => result.linked(odd));
  event.rawlink(() => result.set(2));
  event.set();
  assertEquals(await result.get(), 2);
  assertEquals(failures.errors.map(String), ["Error: Odd"]);
});

Deno.test("local() calls its init again when that throws or gives no object", () => {
  let calls = 0;
  const mine = local<{ name: string }>(() => {
    if (++calls === 1) throw new Error("Boom");
    return (calls === 2 ? 5 : { name: "rose" }) as { name: string };
  });
  assertThrows(() => mine.name, Error, "Boom");
  assertThrows(() => mine.name, TypeError, "5");
  assertEquals(mine.name, "rose");
});

Deno.test("Waiter whose undo throws is interrupted all the same", async () => {
  using failures = new Failures();
  const waiter = new Waiter<void>(() => {
    throw new Error("Undo");
  });
  const g = spawn(() => waiter.get());
  await settle();
  await g.kill();
  assertInstanceOf(g.value as unknown, GreenletExit);
  assertEquals(failures.errors.map(String), ["Error: Undo"]);
});
