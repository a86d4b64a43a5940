import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import { AsyncLocalStorage } from "node:async_hooks";
import {
  Event,
  Full,
  getCurrent,
  Greenlet,
  GreenletExit,
  Group,
  joinAll,
  killAll,
  Pool,
  PoolFull,
  Queue,
  type ResultIterator,
  ShutDown,
  sleep,
  spawn,
  Timeout,
  until,
  type Wait,
  withTimeout,
} from "../mod.ts";
import { Failures, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;
/** Long enough for a busy machine, and nothing next to `FOREVER`. */
const AT_ONCE = 10_000;

type Mapper = Group | Pool;

const mappers: [string, () => Mapper][] = [
  ["Group", () => new Group()],
  ["Pool", () => new Pool(3)],
];

const sizes: [string, number | null][] = [
  ["Pool(1)", 1],
  ["Pool(2)", 2],
  ["Pool(3)", 3],
  ["Pool(10)", 10],
  ["Pool()", null],
];

async function square(x: number): Promise<number> {
  await sleep(0);
  return x * x;
}

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

const squares = (length: number) => range(length).map((x) => x * x);

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const ascending = (a: number, b: number) => a - b;

/** An iterable that tells what was asked of it. */
class Source implements AsyncIterable<number> {
  taken = 0;
  closed = 0;
  readonly #end: number;
  readonly #wait: () => Promise<unknown> | void;

  constructor(end = Infinity, wait: () => Promise<unknown> | void = () => {}) {
    this.#end = end;
    this.#wait = wait;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<number> {
    try {
      while (this.taken < this.#end) {
        await this.#wait();
        yield this.taken++;
      }
    } finally {
      this.closed++;
    }
  }

  *sync(): Generator<number> {
    try {
      while (this.taken < this.#end) yield this.taken++;
    } finally {
      this.closed++;
    }
  }
}

/** Counts how many calls run at a time; the first ones wait until there are so many. */
class Census {
  now = 0;
  most = 0;
  ended = 0;
  readonly #expected: number;
  readonly #areThere = new Event();

  constructor(expected = 1) {
    this.#expected = expected;
  }

  readonly run = async <T>(item: T): Promise<T> => {
    this.most = Math.max(this.most, ++this.now);
    if (this.now === this.#expected) this.#areThere.set();
    try {
      await this.#areThere.wait();
      await sleep(1);
      return item;
    } finally {
      this.now--;
      this.ended++;
    }
  };
}

// --- Group and Pool

for (const [name, make] of mappers) {
  Deno.test(`${name}.spawn() takes greenlets in until they have ended`, async () => {
    const group = make();
    const [first, second] = [new Event(), new Event()];
    const one = await group.spawn(() => first.wait());
    const two = await group.spawn(() => second.wait());
    assertEquals(group.size, 2);
    assertEquals([...group], [one, two]);
    assert(group.has(one));
    assertStrictEquals(group.greenlets.has(two), true);
    first.set();
    await one.join();
    await settle();
    assertEquals(group.size, 1);
    assertFalse(group.has(one));
    second.set();
    await settle();
    assertEquals(group.size, 0);
  });

  Deno.test(`${name}.spawn() gives the body its arguments, and makes it current`, async () => {
    const group = make();
    const body = function* (a: number, b: string) {
      yield* sleep(0);
      return [a, b, getCurrent()];
    };
    const g = group instanceof Pool
      ? await group.spawn(body, 1, "b")
      : group.spawn(body, 1, "b");
    const [a, b, current] = await g.get();
    assertEquals([a, b], [1, "b"]);
    assertStrictEquals(current, g);
  });

  Deno.test(`${name}.spawn() refuses anything but a function`, () => {
    const group = make();
    assertThrows(() => group.spawn(1 as unknown as () => void), TypeError);
    assertEquals(group.size, 0);
  });

  Deno.test(`${name}.spawn() reports a failure once, as spawn() does`, async () => {
    using failures = new Failures();
    const group = make();
    const g = await group.spawn(() => {
      throw new Error("Boom");
    });
    assertEquals(await group.join(), true);
    await settle();
    assertEquals(failures.errors, [g.exception]);
    assertEquals(failures.contexts, [g]);
  });

  Deno.test(`${name}.add() takes in a greenlet that runs already, once`, async () => {
    const group = make();
    const g = spawn(sleep, FOREVER);
    await group.add(g);
    await group.add(g);
    assertEquals(group.size, 1);
    if (group instanceof Pool) assertEquals(group.freeCount(), 2);
    await g.kill();
    await settle();
    assertEquals(group.size, 0);
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
  });

  Deno.test(`${name}.add() of a dead greenlet keeps nothing`, async () => {
    const group = make();
    const g = spawn(() => {});
    await g.join();
    await group.add(g);
    assertEquals(await group.join(), true);
    assertEquals(group.size, 0);
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
  });

  Deno.test(`${name}.add() and start() refuse anything but a greenlet`, () => {
    const group = make();
    for (const wrong of [1, null, () => {}]) {
      assertThrows(() => group.add(wrong as never), TypeError, "a greenlet");
      assertThrows(() => group.start(wrong as never), TypeError, "a greenlet");
    }
    assertEquals(group.size, 0);
  });

  Deno.test(`${name}.start() takes a greenlet in and starts it`, async () => {
    const group = make();
    const g = new Greenlet(() => 1);
    await group.start(g);
    assert(group.has(g));
    assertEquals(await g.get(), 1);
    assertEquals(await group.join(), true);
  });

  Deno.test(`${name}.discard() takes a greenlet out, which lives on`, async () => {
    const group = make();
    const g = await group.spawn(sleep, FOREVER);
    group.discard(g);
    assertEquals(group.size, 0);
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
    assertEquals(await group.join(), true);
    assertFalse(g.dead);
    group.discard(g);
    await g.kill();
    await settle();
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
  });

  testBoth(
    `${name}.join() waits until all have ended, greenlets of later spawns included`,
    {
      async: async (group: Mapper) => await group.join(),
      generator: function* (group: Mapper) {
        return yield* group.join();
      },
    },
    async (body) => {
      const group = make();
      const order: string[] = [];
      await group.spawn(async () => {
        await sleep(2);
        await group.spawn(async () => {
          await sleep(2);
          order.push("late");
        });
        order.push("first");
      });
      const joiner = spawn(body, group);
      joiner.rawlink(() => order.push("joined"));
      assertEquals(await joiner.get(), true);
      await settle();
      assertEquals(order, ["first", "late", "joined"]);
      assertEquals(group.size, 0);
    },
  );

  Deno.test(`${name}.join() without greenlets returns true at once`, async () => {
    assertEquals(await make().join(), true);
    assertEquals(await make().join({ raiseError: true }), true);
    assertEquals(await make().join({ timeout: 0 }), true);
  });

  for (const raiseError of [false, true]) {
    Deno.test(`${name}.join() returns false at its timeout, with raiseError ${raiseError}`, async () => {
      const group = make();
      const g = await group.spawn(sleep, FOREVER);
      assertEquals(await group.join({ timeout: 5, raiseError }), false);
      assertEquals(await group.join({ timeout: 0, raiseError }), false);
      assertFalse(g.dead);
      await g.kill();
      assertEquals(await group.join({ timeout: AT_ONCE, raiseError }), true);
    });

    Deno.test(`${name}.join() that is timed out from outside throws that Timeout, with raiseError ${raiseError}`, async () => {
      const group = make();
      const g = await group.spawn(sleep, FOREVER);
      using timeout = new Timeout(5);
      timeout.start();
      assertStrictEquals(
        await assertRejects(() => group.join({ timeout: FOREVER, raiseError })),
        timeout,
      );
      await g.kill();
    });
  }

  Deno.test(`${name}.join() refuses a timeout that is not a time`, () => {
    assertThrows(() => make().join({ timeout: NaN }), RangeError);
  });

  Deno.test(`${name}.join() throws the error of a greenlet with raiseError`, async () => {
    using _failures = new Failures();
    const group = make();
    await group.spawn(sleep, 1);
    await group.spawn(async () => {
      await sleep(2);
      throw new Error("Boom");
    });
    await assertRejects(
      () => group.join({ raiseError: true }),
      Error,
      "Boom",
    );
    assertEquals(await group.join(), true);
  });

  testBoth(`${name}.kill() kills all, and waits for their clean-up`, {
    async: async (group: Mapper) => await group.kill(),
    generator: function* (group: Mapper) {
      yield* group.kill();
    },
  }, async (body) => {
    const group = make();
    let cleaned = 0;
    for (let i = 0; i < 3; i++) {
      await group.spawn(async () => {
        try {
          await sleep(FOREVER);
        } finally {
          await sleep(2);
          cleaned++;
        }
      });
    }
    await settle();
    const all = [...group];
    await spawn(body, group).get();
    assertEquals(cleaned, 3);
    assert(all.every((g) => g.dead && g.value instanceof GreenletExit));
    await settle();
    assertEquals(group.size, 0);
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
  });

  Deno.test(`${name}.kill() without block does not wait`, async () => {
    const group = make();
    await group.spawn(sleep, FOREVER);
    await group.spawn(sleep, FOREVER);
    await settle();
    group.kill({ block: false });
    assertEquals(group.size, 2);
    await settle();
    assertEquals(group.size, 0);
  });

  Deno.test(`${name}.kill() throws the error that it is given`, async () => {
    using _failures = new Failures();
    const group = make();
    const error = new Error("Given");
    const g = await group.spawn(sleep, FOREVER);
    await settle();
    await group.kill({ error });
    assertStrictEquals(g.exception, error);
  });

  Deno.test(`${name}.kill() returns when some are alive at its timeout`, async () => {
    const group = make();
    const g = await group.spawn(async () => {
      try {
        await sleep(FOREVER);
      } finally {
        await sleep(30);
      }
    });
    await settle();
    await group.kill({ timeout: 2 });
    assertEquals(group.size, 1);
    await g.join();
  });

  Deno.test(`${name}.kill() stops greenlets that have not started from starting`, async () => {
    const group = make();
    let started = false;
    await group.add(
      Greenlet.spawnLater(FOREVER, () => {
        started = true;
      }),
    );
    await group.kill();
    assertFalse(started);
    await settle();
    assertEquals(group.size, 0);
  });

  Deno.test(`${name}.killOne() kills the greenlet, if it is in the group`, async () => {
    const group = make();
    const one = await group.spawn(sleep, FOREVER);
    const two = await group.spawn(sleep, FOREVER);
    const other = spawn(sleep, FOREVER);
    await settle();
    await group.killOne(one);
    assert(one.dead);
    await group.killOne(one);
    await group.killOne(other);
    assertFalse(other.dead || two.dead);
    group.killOne(two, new GreenletExit("Two"), { block: false });
    assertFalse(two.dead);
    await two.join();
    assertEquals((two.value as unknown as Error).message, "Two");
    await other.kill();
  });

  Deno.test(`${name} is joined at the end of an await using block`, async () => {
    const done: number[] = [];
    {
      await using group = make();
      for (const ms of [3, 1, 2]) {
        await group.spawn(async () => {
          await sleep(ms);
          done.push(ms);
        });
      }
      assertEquals(done, []);
    }
    assertEquals(done.sort(), [1, 2, 3]);
  });

  // --- apply

  testBoth(`${name}.apply() gives the result of a greenlet of its own`, {
    async: async (group: Mapper) =>
      await group.apply((a: number, b: number) => [a + b, getCurrent()], [
        1,
        2,
      ]),
    generator: function* (group: Mapper) {
      return yield* group.apply(function* (a: number, b: number) {
        yield* sleep(0);
        return [a + b, getCurrent()];
      }, [1, 2]);
    },
  }, async (body) => {
    const group = make();
    const caller = spawn(body, group);
    const [sum, current] = await caller.get();
    assertEquals(sum, 3);
    assertInstanceOf(current, Greenlet);
    assert(current !== caller);
    await settle();
    assertEquals(group.size, 0);
  });

  Deno.test(`${name}.apply() throws the function's error, which is not printed as well`, async () => {
    using failures = new Failures();
    const group = make();
    const error = new Error("Boom");
    const caught = await assertRejects(() =>
      group.apply(async () => {
        await sleep(0);
        throw error;
      })
    );
    assertStrictEquals(caught, error);
    await settle();
    assertEquals(failures.errors, []);
  });

  Deno.test(`${name}.apply() that is interrupted kills its greenlet, and reports an error of its clean-up`, async () => {
    using failures = new Failures();
    const group = make();
    const error = new Error("Clean-up");
    let killed: unknown;
    const caller = spawn(() =>
      group.apply(async () => {
        try {
          await sleep(FOREVER);
        } catch (exit) {
          killed = exit;
          await sleep(0);
          throw error;
        }
      })
    );
    await settle();
    await caller.kill();
    assertInstanceOf(killed, GreenletExit);
    assertInstanceOf(caller.value as unknown, GreenletExit);
    assertEquals([group.size, failures.errors], [0, [error]]);
  });

  Deno.test(`${name}.apply() that is interrupted as its greenlet fails reports the error at most once`, async () => {
    let told = 0;
    for (let turns = 0; turns < 10; turns++) {
      using failures = new Failures();
      const group = make();
      const error = new Error("Boom");
      const gate = new Event();
      const caller = spawn(() =>
        group.apply(async () => {
          await gate.wait();
          throw error;
        })
      );
      await settle();
      gate.set();
      for (let i = 0; i < turns; i++) await null;
      await caller.kill();
      assertEquals(group.size, 0);
      await settle();
      assert(failures.errors.every((one) => one === error));
      assert(failures.errors.length <= 1);
      told += failures.errors.length;
    }
    // Where it has failed by itself before it could be killed.
    assert(told > 0);
  });

  Deno.test(`${name}.applyAsync() gives a greenlet with the result, and the callback the result`, async () => {
    const group = make();
    const results: number[] = [];
    const g = group.applyAsync(square, [7], (result) => {
      results.push(result);
    });
    assertEquals(group.size, 1);
    assertEquals(await g.get(), 49);
    await settle();
    assertEquals(results, [49]);
  });

  Deno.test(`${name}.applyAsync() calls no callback after a failure, which get() throws`, async () => {
    using failures = new Failures();
    const group = make();
    const results: unknown[] = [];
    const g = group.applyAsync(
      () => {
        throw new Error("Boom");
      },
      [],
      (result) => results.push(result),
    );
    await assertRejects(() => g.get(), Error, "Boom");
    await settle();
    assertEquals(results, []);
    assertEquals(failures.errors, []);
  });

  Deno.test(`${name}.applyAsync() reports an error of the callback`, async () => {
    using failures = new Failures();
    const g = make().applyAsync(() => 1, [], () => {
      throw new Error("Callback");
    });
    assertEquals(await g.get(), 1);
    await settle();
    assertEquals(failures.errors.map(String), ["Error: Callback"]);
  });

  Deno.test(`${name}.applyAsync() can be timed out, and is joined with the others`, async () => {
    const group = make();
    const g = group.applyAsync(async () => {
      await sleep(20);
      return 36;
    });
    await assertRejects(() => g.get({ timeout: 1 }), Timeout);
    assertEquals(await group.join(), true);
    assertEquals(g.value, 36);
  });

  Deno.test(`${name}.applyAsync() that is killed kills the function's greenlet`, async () => {
    const group = make();
    let ended = false;
    const g = group.applyAsync(async () => {
      try {
        await sleep(FOREVER);
      } finally {
        ended = true;
      }
    });
    await settle();
    await g.kill();
    assert(ended);
    await settle();
    assertEquals(group.size, 0);
  });

  // --- map

  testBoth(`${name}.map() gives the results in the order of the items`, {
    async: async (group: Mapper) =>
      await group.map(async (ms: number) => {
        await sleep(ms);
        return `${ms}`;
      }, [6, 1, 3]),
    generator: function* (group: Mapper) {
      return yield* group.map(function* (ms: number) {
        yield* sleep(ms);
        return `${ms}`;
      }, [6, 1, 3]);
    },
  }, async (body) => {
    assertEquals(await spawn(body, make()).get(), ["6", "1", "3"]);
  });

  Deno.test(`${name}.map() takes sync and async iterables, and plain functions`, async () => {
    const group = make();
    assertEquals(
      await group.map((x: number) => x * x, range(100)),
      squares(100),
    );
    assertEquals(await group.map(square, new Set(range(10))), squares(10));
    const source = new Source(10);
    assertEquals(await group.map(square, source), squares(10));
    const synchronous = new Source(10);
    assertEquals(await group.map(square, synchronous.sync()), squares(10));
    assertEquals([source.closed, synchronous.closed], [1, 1]);
    assertEquals(await group.map(square, []), []);
    assertEquals(await group.map(square, new Source(0)), []);
  });

  Deno.test(`${name}.map() gives the function the item, and nothing else`, async () => {
    const args: unknown[][] = [];
    await make().map((...all: unknown[]) => args.push(all), ["a", "b"]);
    assertEquals(args, [["a"], ["b"]]);
  });

  Deno.test(`${name}.map() and its like refuse anything but a function and an iterable`, () => {
    const group = make();
    const wrong = 1 as never;
    for (
      const call of [
        () => group.map(wrong, []),
        () => group.imap(wrong, []),
        () => group.imapUnordered(wrong, []),
        () => group.map(square, wrong),
        () => group.imap(square, wrong),
        () => group.imapUnordered(square, null as never),
      ]
    ) assertThrows(call, TypeError, "Cannot map");
  });

  Deno.test(`${name}.map() throws the error of a call, kills the others, and closes the iterator`, async () => {
    using failures = new Failures();
    const group = make();
    const source = new Source();
    let killed = 0;
    const error = new Error("Boom");
    const caught = await assertRejects(() =>
      group.map(async (x: number) => {
        if (x === 1) {
          await sleep(2);
          throw error;
        }
        try {
          await sleep(FOREVER);
        } finally {
          killed++;
        }
      }, group instanceof Pool ? source : [0, 1, 2])
    );
    assertStrictEquals(caught, error);
    assertEquals(killed, 2);
    await settle();
    assertEquals(group.size, 0);
    assertEquals(failures.errors, []);
    if (group instanceof Pool) assertEquals(source.closed, 1);
  });

  Deno.test(`${name}.map() throws the error of a call though the iterable has not ended`, async () => {
    const group = make();
    const queue = new Queue<number>(null, [0]);
    await assertRejects(
      () =>
        withTimeout(AT_ONCE, () =>
          group.map((x: number) => {
            throw new Error(`Boom ${x}`);
          }, queue)),
      Error,
      "Boom 0",
    );
    // The iterable keeps items that are not taken any more.
    await settle();
    assertEquals(queue.getters, 0);
  });

  Deno.test(`${name}.map() throws the error of the iterable, and kills the calls`, async () => {
    const group = make();
    let killed = 0;
    const run = async () => {
      try {
        await sleep(FOREVER);
      } finally {
        killed++;
      }
    };
    const sync = function* () {
      yield 1;
      yield 2;
      throw new Error("No more");
    };
    const async = async function* () {
      yield 1;
      yield 2;
      await sleep(2);
      throw new Error("No more");
    };
    await assertRejects(() => group.map(run, sync()), Error, "No more");
    await assertRejects(() => group.map(run, async()), Error, "No more");
    assert(killed >= 2);
    await settle();
    assertEquals(group.size, 0);
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
  });

  Deno.test(`${name}.map() that is killed kills the calls, and closes the iterator`, async () => {
    const group = make();
    const source = new Source(3);
    let [started, killed] = [0, 0];
    const mapper = spawn(() =>
      group.map(async () => {
        started++;
        try {
          await sleep(FOREVER);
        } finally {
          await sleep(1);
          killed++;
        }
      }, source)
    );
    await sleep(5);
    assertEquals(started, 3);
    await mapper.kill();
    assertEquals(killed, 3);
    await settle();
    assertEquals(group.size, 0);
    assertEquals(source.closed, 1);
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
  });

  Deno.test(`${name}.map() that is killed while it waits for the iterable closes that`, async () => {
    const group = make();
    let closed = 0;
    const queue = new Queue<number>();
    const items: AsyncIterable<number> = {
      [Symbol.asyncIterator]: () => ({
        next: () => queue[Symbol.asyncIterator]().next(),
        return() {
          closed++;
          return Promise.resolve({ done: true, value: undefined });
        },
      }),
    };
    const mapper = spawn(() => group.map(square, items));
    queue.putNowait(1);
    await sleep(2);
    await mapper.kill();
    assertEquals([closed, queue.getters, group.size], [1, 0, 0]);
    if (group instanceof Pool) assertEquals(group.freeCount(), 3);
  });

  Deno.test(`${name}.map() does not close an iterator that has ended or failed`, async () => {
    const group = make();
    let closed = 0;
    const make_ = (next: () => IteratorResult<number>) => ({
      [Symbol.iterator]: () => ({
        next,
        return() {
          closed++;
          return { done: true as const, value: undefined };
        },
      }),
    });
    await group.map(square, make_(() => ({ done: true, value: undefined })));
    await collect(
      group.imap(square, make_(() => ({ done: true, value: undefined }))),
    );
    assertEquals(closed, 0);
  });

  Deno.test(`${name}.map() takes an async iterable of thenables that are not promises`, async () => {
    let i = 0;
    const items: AsyncIterable<number> = {
      [Symbol.asyncIterator]: () => ({
        next() {
          const result = i < 3
            ? { done: false as const, value: i++ }
            : { done: true as const, value: undefined };
          return {
            then: (resolve: (result: unknown) => void) => resolve(result),
          } as unknown as Promise<IteratorResult<number>>;
        },
      }),
    };
    assertEquals(await make().map(square, items), squares(3));
    i = 0;
    assertEquals(await collect(make().imap(square, items)), squares(3));
  });

  Deno.test(`${name}.mapAsync() gives a greenlet with the results, and the callback the results`, async () => {
    const results: number[][] = [];
    const g = make().mapAsync(square, range(5), (all) => results.push(all));
    assertFalse(g.ready());
    assertEquals(await g.get(), squares(5));
    await settle();
    assertEquals(results, [squares(5)]);
  });

  Deno.test(`${name}.mapAsync() calls no callback after a failure, which get() throws`, async () => {
    using failures = new Failures();
    const results: unknown[] = [];
    const g = make().mapAsync(
      (x: number) => {
        if (x === 2) throw new Error("Boom");
      },
      range(5),
      (all) => results.push(all),
    );
    await assertRejects(() => g.get(), Error, "Boom");
    await settle();
    assertEquals(failures.errors, []);
    assertEquals(results, []);
  });

  Deno.test(`${name}.mapAsync() ends when the group is killed`, async () => {
    const group = make();
    const g = group.mapAsync(sleep, [FOREVER, FOREVER, FOREVER]);
    await settle();
    assertEquals(group.size, 3);
    await group.kill();
    await g.join();
    assertEquals(group.size, 0);
    const values: unknown[] = g.value!;
    assert(values.every((value) => value instanceof GreenletExit));
  });

  Deno.test(`${name}.mapAsync() that is killed kills the calls`, async () => {
    const group = make();
    const g = group.mapAsync(sleep, [FOREVER, FOREVER, FOREVER]);
    await settle();
    await g.kill();
    await settle();
    assertEquals(group.size, 0);
  });

  // --- imap

  for (const method of ["imap", "imapUnordered"] as const) {
    Deno.test(`${name}.${method}() gives the results of sync and async iterables`, async () => {
      const group = make();
      for (const items of [range(10), new Source(10), new Source(10).sync()]) {
        const results = await collect(group[method](square, items));
        assertEquals(results.sort(ascending), squares(10));
      }
      assertEquals(await collect(group[method](square, [])), []);
      assertEquals(await collect(group[method](square, new Source(0))), []);
      assertEquals(group.size, 0);
    });

    testBoth(`${name}.${method}() can be taken from by next()`, {
      async: async (results: ResultIterator<number>) => {
        assertStrictEquals(results[Symbol.asyncIterator](), results);
        const all: number[] = [];
        for (;;) {
          const { done, value } = await results.next();
          if (done) return all;
          all.push(value);
        }
      },
      generator: function* (results: ResultIterator<number>) {
        const all: number[] = [];
        for (;;) {
          const { done, value } = yield* results.next();
          if (done) return all;
          all.push(value);
        }
      },
    }, async (body) => {
      const results = make()[method](square, range(10));
      const all = await spawn(body, results).get();
      assertEquals(all.sort(ascending), squares(10));
      // The end stays the end.
      assertEquals(await results.next(), { done: true, value: undefined });
      assertEquals(await results.next(), { done: true, value: undefined });
    });

    Deno.test(`${name}.${method}() begins at once, before a result is taken`, async () => {
      const begun: number[] = [];
      const results = make()[method]((x: number) => begun.push(x), range(3));
      await settle();
      assertEquals(begun, [0, 1, 2]);
      await collect(results);
    });

    Deno.test(`${name}.${method}() waits for the end of the iterable, which may take its time`, async () => {
      const group = make();
      const queue = new Queue<number>(null, [3]);
      const results = spawn(() => collect(group[method](square, queue)));
      await sleep(2);
      assertFalse(results.dead);
      queue.shutdown();
      assertEquals(await results.get(), [9]);
      const late = async function* () {
        yield* range(3);
        await sleep(2);
      };
      assertEquals(
        (await collect(group[method](square, late()))).sort(ascending),
        squares(3),
      );
    });

    Deno.test(`${name}.${method}() throws the error of a call in its place, and goes on when next() is called again`, async () => {
      using failures = new Failures();
      const results = new Pool(1)[method]((x: number) => {
        if (x === 0) throw new RangeError("Zero");
        return 1 / x;
      }, [1, 0, 2]);
      assertEquals((await results.next()).value, 1);
      await assertRejects(() => results.next(), RangeError, "Zero");
      assertEquals((await results.next()).value, 0.5);
      assertEquals((await results.next()).done, true);
      await settle();
      assertEquals(failures.errors, []);
    });

    Deno.test(`${name}.${method}() throws a ShutDown of a call like any error`, async () => {
      const closed = new Queue<number>();
      closed.shutdown();
      const results = make()[method](
        (x: number) => x === 0 ? closed.get() : x,
        [0],
      );
      await assertRejects(() => results.next(), ShutDown);
      assertEquals((await results.next()).done, true);
    });

    Deno.test(`${name}.${method}() throws the error of the iterable after the results`, async () => {
      using failures = new Failures();
      const items = function* () {
        yield 1;
        yield 2;
        throw new Error("No more");
      };
      const got: number[] = [];
      await assertRejects(
        async () => {
          for await (const x of make()[method](square, items())) got.push(x);
        },
        Error,
        "No more",
      );
      assertEquals(got.sort(ascending), [1, 4]);
      await settle();
      assertEquals(failures.errors, []);
    });

    Deno.test(`${name}.${method}() is ended by leaving the loop: calls killed, iterator closed`, async () => {
      const group = make();
      const source = new Source();
      const run = async (x: number) => {
        await sleep(x === 0 ? 1 : FOREVER);
        return x;
      };
      const items = group instanceof Pool ? source : source.sync();
      for await (
        const x of group[method](run, items, { maxsize: 3 })
      ) {
        assertEquals(x, 0);
        break;
      }
      await settle();
      assertEquals(group.size, 0);
      assertEquals(source.closed, 1);
      if (group instanceof Pool) assertEquals(group.freeCount(), 3);
    });

    Deno.test(`${name}.${method}() is ended by an error in the loop`, async () => {
      const group = make();
      const run = async (x: number) => {
        await sleep(x === 0 ? 1 : FOREVER);
        return x;
      };
      await assertRejects(
        async () => {
          for await (const x of group[method](run, [0, 1, 2])) {
            throw new Error(`At ${x}`);
          }
        },
        Error,
        "At 0",
      );
      await settle();
      assertEquals(group.size, 0);
    });

    for (const where of ["waits for a result", "is in the loop"]) {
      Deno.test(`${name}.${method}() is ended by killing the consumer while it ${where}`, async () => {
        const group = make();
        const source = new Source(Infinity, () => sleep(0));
        const run = async (x: number) => {
          await sleep(x === 0 ? 1 : FOREVER);
          return x;
        };
        const consumer = spawn(async () => {
          for await (const _ of group[method](run, source, { maxsize: 3 })) {
            if (where === "is in the loop") await sleep(FOREVER);
          }
        });
        await sleep(10);
        assert(group.size > 0);
        await consumer.kill();
        await sleep(2);
        assertEquals(group.size, 0);
        assertEquals(source.closed, 1);
        const { taken } = source;
        await sleep(2);
        assertEquals(source.taken, taken);
        if (group instanceof Pool) assertEquals(group.freeCount(), 3);
      });
    }

    Deno.test(`${name}.${method}() that was ended gives no more results`, async () => {
      const group = make();
      const results = group[method](square, range(10));
      assertEquals((await results.next()).done, false);
      await sleep(5);
      await results.return();
      assertEquals(await results.next(), { done: true, value: undefined });
      assertEquals(await results.next(), { done: true, value: undefined });
      assertEquals(await results.return(), { done: true, value: undefined });
      assertEquals(group.size, 0);
    });

    Deno.test(`${name}.${method}() that is ended before it began calls nothing`, async () => {
      const group = make();
      const begun: number[] = [];
      const results = group[method]((x: number) => begun.push(x), range(3));
      await results.return();
      const next = await withTimeout(AT_ONCE, () => results.next());
      assertEquals(next.done, true);
      await settle();
      assertEquals(begun, []);
    });

    Deno.test(`${name}.${method}() takes items only as results are taken, with maxsize`, async () => {
      for (const maxsize of [1, 2, 5]) {
        const source = new Source(30);
        let taken = 0;
        const results = make()[method](square, source, { maxsize });
        const got: number[] = [];
        for await (const x of results) {
          await settle();
          assert(source.taken <= ++taken + maxsize);
          got.push(x);
        }
        assertEquals(got.sort(ascending), squares(30));
      }
    });

    Deno.test(`${name}.${method}() refuses a maxsize that is not a positive integer`, () => {
      for (const maxsize of [0, -1, 1.5, NaN]) {
        assertThrows(
          () => make()[method](square, [], { maxsize }),
          RangeError,
          "'maxsize'",
        );
      }
    });

    Deno.test(`${name}.${method}() may be shared by several consumers`, async () => {
      const results = make()[method](square, range(30));
      const takers = range(3).map(() => spawn(() => collect(results)));
      await joinAll(takers, { raiseError: true });
      assertEquals(
        takers.flatMap((g) => g.value!).sort(ascending),
        squares(30),
      );
    });
  }

  Deno.test(`${name}.imap() gives the results in the order of the items`, async () => {
    const run = async (ms: number) => {
      await sleep(ms);
      return ms;
    };
    assertEquals(await collect(make().imap(run, [9, 1, 5])), [9, 1, 5]);
  });

  Deno.test(`${name}.imapUnordered() gives the results in the order in which they come`, async () => {
    const group = make();
    const events = range(3).map(() => new Event());
    const results = group.imapUnordered(async (i: number) => {
      await events[i]!.wait();
      return i;
    }, range(3));
    for (const i of [2, 0, 1]) {
      events[i]!.set();
      assertEquals((await results.next()).value, i);
    }
    assertEquals((await results.next()).done, true);
  });

  Deno.test(`${name}'s calls run in greenlets of their own, with the context of the caller`, async () => {
    const storage = new AsyncLocalStorage<string>();
    const group = make();
    const run = async (_: unknown) => {
      const before = getCurrent();
      assertInstanceOf(before, Greenlet);
      assert(group.has(before));
      await sleep(1);
      await until(Promise.resolve());
      assertStrictEquals(getCurrent(), before);
      return storage.getStore();
    };
    const items = range(8);
    const mine = items.map(() => "mine");
    const caller = storage.run("mine", () =>
      spawn(async () => {
        assertEquals(await group.map(run, items), mine);
        assertEquals(await group.map(run, new Source(8)), mine);
        assertEquals(await collect(group.imap(run, items)), mine);
        assertEquals(await collect(group.imapUnordered(run, items)), mine);
        assertEquals(await group.apply(run, [0]), "mine");
        assertEquals(await group.applyAsync(run, [0]).get(), "mine");
        assertEquals(await group.mapAsync(run, items).get(), mine);
        assertEquals(await (await group.spawn(run, 0)).get(), "mine");
      }));
    // Others use it at the same time.
    const other = storage.run(
      "other",
      () => spawn(() => group.map(run, items)),
    );
    await caller.get();
    assertEquals(await other.get(), items.map(() => "other"));
  });
}

// --- Group

Deno.test("Group has the greenlets that it is made with", async () => {
  const greenlets = [spawn(sleep, FOREVER), spawn(sleep, FOREVER)];
  const group = new Group(greenlets);
  assertEquals([...group], greenlets);
  await group.kill();
  await settle();
  assertEquals(group.size, 0);
});

Deno.test("Group.spawn() gives the greenlet, and not a wait for it", async () => {
  const group = new Group();
  const g = group.spawn(() => 1);
  assertInstanceOf(g, Greenlet);
  assertEquals(await g.get(), 1);
});

Deno.test("Group.kill() kills greenlets of subclasses, and greenlets that fail", async () => {
  using failures = new Failures();
  class Special<T> extends Greenlet<T> {}
  const failing = Special.spawn(() => {
    throw new Error("Boom");
  });
  const sleeping = Special.spawn(sleep, FOREVER);
  const group = new Group([failing, sleeping]);
  await settle();
  await group.kill();
  assert(failing.dead && sleeping.dead);
  assertEquals(failures.errors.length, 1);
});

Deno.test("Group.kill() insists with greenlets that swallow it, where gevent's throws once", async () => {
  using _failures = new Failures();
  const group = new Group();
  let shots = 0;
  group.spawn(async () => {
    for (;;) {
      try {
        await sleep(FOREVER);
      } catch {
        shots++;
      }
    }
  });
  await settle();
  await group.kill({ grace: 5 });
  assert(shots > 1);
  await settle();
  assertEquals(group.size, 0);
});

Deno.test("Group.kill() kills greenlets that are spawned while others clean up, too, and each once", async () => {
  const group = new Group();
  let cleaned = 0;
  let late: Greenlet | undefined;
  group.spawn(async () => {
    try {
      await sleep(FOREVER);
    } finally {
      late = group.spawn(sleep, FOREVER);
      await sleep(5);
      cleaned++;
    }
  });
  group.spawn(async () => {
    try {
      await sleep(FOREVER);
    } finally {
      await sleep(15);
      cleaned++;
    }
  });
  await settle();
  await group.kill();
  assertEquals(group.size, 0);
  assertEquals(cleaned, 2);
  assertInstanceOf(late!.value, GreenletExit);
});

Deno.test("Group.kill() called in the group kills the caller, too", async () => {
  const group = new Group();
  const other = group.spawn(sleep, FOREVER);
  const caller = group.spawn(async () => {
    await group.kill();
    await sleep(FOREVER);
  });
  await group.join();
  assertInstanceOf(caller.value, GreenletExit);
  assertInstanceOf(other.value, GreenletExit);
});

Deno.test("Group methods refuse at the call anything but a function and an iterable", () => {
  for (const group of [new Group(), new Pool(1), new Pool()]) {
    for (const wrong of [5, "f", null, {}] as never[]) {
      assertThrows(() => group.mapAsync(wrong, [1]), TypeError, "'run'");
      assertThrows(() => group.applyAsync(wrong), TypeError, "'run'");
      if (wrong === null) continue;
      const f = () => {};
      assertThrows(() => group.mapAsync(f, [1], wrong), TypeError, "callback");
      assertThrows(() => group.applyAsync(f, [], wrong), TypeError, "callback");
    }
    assertThrows(() => group.mapAsync(() => {}, 5 as never), TypeError, "5");
  }
  assertInstanceOf(new PoolFull(), Full);
});

Deno.test("Group may hold a greenlet that another one holds", async () => {
  const [a, b] = [new Group(), new Group()];
  const g = a.spawn(sleep, 1);
  b.add(g);
  a.discard(g);
  assertEquals([a.size, b.size], [0, 1]);
  assertEquals(await b.join(), true);
  assert(g.dead);
});

// --- Pool

for (const [name, size] of sizes) {
  Deno.test(`${name}.map(), imap() and imapUnordered() call for each item, never over the size`, async () => {
    const pool = new Pool(size);
    const items = range(40);
    for (
      const results of [
        (run: (x: number) => Promise<number>) => pool.map(run, items),
        (run: (x: number) => Promise<number>) => pool.map(run, new Source(40)),
        (run: (x: number) => Promise<number>) => collect(pool.imap(run, items)),
        (run: (x: number) => Promise<number>) =>
          collect(pool.imapUnordered(run, items)),
      ]
    ) {
      const most = Math.min(size ?? 40, 40);
      const census = new Census(most);
      const all: number[] = await results(census.run);
      assertEquals(all.toSorted(ascending), items);
      assertEquals(census.most, most);
      assertEquals([census.now, census.ended], [0, 40]);
    }
    assertEquals(pool.freeCount(), size ?? Infinity);
  });

  Deno.test(`${name}.imap() keeps the order of many`, async () => {
    const results = new Pool(size).imap(square, range(1000));
    for (let i = 0; i < 1000; i++) {
      assertEquals(await results.next(), { done: false, value: i * i });
    }
    assertEquals((await results.next()).done, true);
  });
}

Deno.test("Pool takes items only when there is room for their greenlets", async () => {
  for (
    const call of [
      (pool: Pool, items: AsyncIterable<number> | Iterable<number>) =>
        pool.map(sleep, items),
      (pool: Pool, items: AsyncIterable<number> | Iterable<number>) =>
        collect(pool.imap(sleep, items)),
      (pool: Pool, items: AsyncIterable<number> | Iterable<number>) =>
        collect(pool.imapUnordered(sleep, items)),
    ]
  ) {
    for (const kind of ["sync", "async"]) {
      const pool = new Pool(2);
      const source = new Source();
      const items = kind === "sync" ? source.sync() : source;
      const blocker = await pool.spawn(sleep, FOREVER);
      const other = await pool.spawn(sleep, FOREVER);
      const mapper = spawn(() => call(pool, items) as Promise<unknown>);
      await settle();
      // At most the item whose greenlet is next.
      assert(source.taken <= 1);
      await mapper.kill();
      await killAll([blocker, other]);
      await settle();
      assertEquals(pool.freeCount(), 2);
    }
  }
});

Deno.test("Pool.spawn() waits until there is room", async () => {
  const pool = new Pool(1);
  const one = await pool.spawn(sleep, FOREVER);
  const order: string[] = [];
  const spawner = spawn(async () => {
    const two = await pool.spawn(() => order.push("two"));
    order.push("spawned");
    return two;
  });
  await settle();
  assertEquals(pool.size, 1);
  assertFalse(spawner.dead);
  await one.kill();
  await (await spawner.get()).join();
  assertEquals(order.sort(), ["spawned", "two"]);
});

testBoth("Pool.spawn() that was killed while it waited spawns nothing", {
  async: async (pool: Pool, begun: unknown[]) => {
    await pool.spawn(() => begun.push(1));
  },
  generator: function* (pool: Pool, begun: unknown[]) {
    yield* pool.spawn(() => begun.push(1));
  },
}, async (body) => {
  const pool = new Pool(1);
  const begun: unknown[] = [];
  const one = await pool.spawn(sleep, FOREVER);
  const spawner = spawn(body, pool, begun);
  await settle();
  await spawner.kill();
  await one.kill();
  await settle();
  assertEquals(begun, []);
  assertEquals([pool.size, pool.freeCount()], [0, 1]);
});

Deno.test("Pool.spawn() lets waiting spawners in, in the order in which they came", async () => {
  const pool = new Pool(1);
  const order: number[] = [];
  const spawners = range(5).map((i) =>
    spawn(() =>
      pool.spawn(async () => {
        await sleep(0);
        order.push(i);
      })
    )
  );
  await joinAll(spawners);
  await pool.join();
  assertEquals(order, range(5));
});

for (const grace of [1000, 0]) {
  Deno.test(`Pool gets every slot back, whatever is killed and whenever, with a grace of ${grace}`, async () => {
    using _failures = new Failures();
    let seed = 7;
    const random = (n: number) => {
      seed = seed * 48271 % 2147483647;
      return seed % n;
    };
    for (let round = 0; round < 60; round++) {
      const pool = new Pool(1 + random(3));
      const census = new Census();
      const calls: (() => Wait<unknown> | Promise<unknown>)[] = [
        () => pool.spawn(census.run, 0),
        () => pool.apply(census.run, [0]),
        () => pool.map(census.run, range(6)),
        () => pool.map(census.run, new Source(6, () => sleep(0))),
        () => collect(pool.imap(census.run, range(6))),
        () => collect(pool.imapUnordered(census.run, range(6), { maxsize: 2 })),
        () => pool.add(spawn(sleep, 1)),
        () => pool.start(new Greenlet(sleep, 1), { timeout: 1 }),
        () => pool.waitAvailable(),
        () => pool.applyAsync(census.run, [0]).get(),
      ];
      const callers = range(8).map(() =>
        spawn(() => calls[random(calls.length)]!())
      );
      for (let i = 0; i < 6; i++) {
        if (random(2) === 0) await sleep(0);
        else for (let n = random(20); n > 0; n--) await Promise.resolve();
        const victim = random(3) === 0
          ? [...pool][random(Math.max(pool.size, 1))]
          : callers[random(callers.length)];
        victim?.kill(undefined, { block: false, grace });
        assert(pool.size <= pool.maxsize);
      }
      await joinAll(callers);
      do await pool.join(); while (await sleep(2), pool.size > 0);
      assert(census.most <= pool.maxsize);
      assertEquals([census.now, pool.freeCount()], [0, pool.maxsize]);
    }
  });
}

Deno.test("Pool.add() and start() throw PoolFull without block, and at their timeout", async () => {
  const pool = new Pool(1);
  const first = spawn(sleep, FOREVER);
  const second = spawn(sleep, FOREVER);
  await pool.add(first);
  assertEquals([pool.freeCount(), pool.size], [0, 1]);
  await assertRejects(() => pool.add(second, { block: false }), PoolFull);
  await assertRejects(() => pool.add(second, { timeout: 2 }), PoolFull);
  const unstarted = new Greenlet(() => "run");
  await assertRejects(() => pool.start(unstarted, { block: false }), PoolFull);
  await assertRejects(() => pool.start(unstarted, { timeout: 2 }), PoolFull);
  assertFalse(unstarted.started);
  assertThrows(() => pool.add(second, { timeout: NaN }), RangeError);
  using timeout = new Timeout(2);
  timeout.start();
  assertStrictEquals(await assertRejects(() => pool.add(second)), timeout);
  assertEquals([pool.freeCount(), pool.size], [0, 1]);
  await killAll([first, second]);
  await settle();
  assertEquals([pool.freeCount(), pool.size], [1, 0]);
});

Deno.test("Pool.add() of one greenlet by two waiting greenlets takes one slot", async () => {
  const pool = new Pool(2);
  const blockers = [
    await pool.spawn(sleep, FOREVER),
    await pool.spawn(sleep, FOREVER),
  ];
  const g = spawn(sleep, FOREVER);
  const adders = [spawn(() => pool.add(g)), spawn(() => pool.add(g))];
  await settle();
  await killAll(blockers);
  await joinAll(adders);
  assertEquals([pool.size, pool.freeCount()], [1, 1]);
  await g.kill();
  await settle();
  assertEquals(pool.freeCount(), 2);
});

Deno.test("Pool.freeCount() and full() tell for how many greenlets there is room", async () => {
  const pool = new Pool(2);
  assertEquals([pool.freeCount(), pool.full(), pool.maxsize], [2, false, 2]);
  const first = await pool.spawn((x: number) => x, 1);
  assertEquals([pool.freeCount(), pool.full()], [1, false]);
  await first.get();
  await settle();
  assertEquals(pool.freeCount(), 2);
  const order: number[] = [];
  pool.applyAsync((x: number) => order.push(x), [2]);
  assertEquals(pool.freeCount(), 1);
  pool.applyAsync((x: number) => order.push(x), [3]);
  assertEquals([pool.freeCount(), pool.full()], [0, true]);
  pool.applyAsync((x: number) => order.push(x), [4]);
  assertEquals(order, []);
  await sleep(5);
  assertEquals(order, [2, 3, 4]);
  const unlimited = new Pool();
  await unlimited.spawn(sleep, 0);
  assertEquals([unlimited.freeCount(), unlimited.full()], [Infinity, false]);
  await unlimited.join();
});

Deno.test("Pool.freeCount() is restored after an error that is reported to the hub", async () => {
  using _failures = new Failures();
  const pool = new Pool(1);
  const g = await pool.spawn(() => {
    throw new Error("Boom");
  });
  await assertRejects(() => g.get(), Error, "Boom");
  await settle();
  assertEquals(pool.freeCount(), 1);
  await pool.apply(sleep, [0]);
});

testBoth("Pool.waitAvailable() waits until there is room, and takes none", {
  async: async (pool: Pool) => await pool.waitAvailable(),
  generator: function* (pool: Pool) {
    return yield* pool.waitAvailable();
  },
}, async (body) => {
  const pool = new Pool(2);
  assertEquals(await spawn(body, pool).get(), 2);
  const greenlets = [
    await pool.spawn(sleep, FOREVER),
    await pool.spawn(sleep, FOREVER),
  ];
  const waiter = spawn(body, pool);
  await settle();
  assertFalse(waiter.dead);
  await greenlets[0]!.kill();
  assertEquals(await waiter.get(), 1);
  assertEquals(pool.freeCount(), 1);
  await pool.kill();
});

Deno.test("Pool.waitAvailable() returns 0 at its timeout", async () => {
  const pool = new Pool(1);
  await pool.spawn(sleep, FOREVER);
  assertEquals(await pool.waitAvailable({ timeout: 2 }), 0);
  await pool.kill();
  assertEquals(await new Pool().waitAvailable(), Infinity);
});

Deno.test("Pool refuses a size that is not a positive integer", () => {
  for (const size of [0, -1, 1.5, NaN]) {
    assertThrows(() => new Pool(size), RangeError, "'size'");
  }
  assertThrows(() => new Pool("1" as never), TypeError, "'size'");
});

Deno.test("Pool.apply() called in the pool does not wait for a slot", async () => {
  const pool = new Pool(1);
  const plus = (a: number) => a + 1;
  assertEquals(
    await withTimeout(
      AT_ONCE,
      () => pool.apply(() => pool.apply(plus, [5])),
    ),
    6,
  );
  const generator = pool.apply(function* () {
    return yield* pool.apply(function* (a: number) {
      yield* sleep(0);
      return a + 1;
    }, [6]);
  });
  assertEquals(await generator, 7);
  await assertRejects(
    () =>
      pool.apply(() =>
        pool.apply(() => {
          throw new Error("Boom");
        })
      ),
    Error,
    "Boom",
  );
  await settle();
  assertEquals(pool.freeCount(), 1);
});

Deno.test("Pool.applyAsync() waits for room in a greenlet of its own", async () => {
  const pool = new Pool(1);
  const order: string[] = [];
  await pool.spawn(async () => {
    await sleep(2);
    order.push("first");
  });
  const greenlets = ["second", "third"].map((name) =>
    pool.applyAsync(async () => {
      await sleep(1);
      order.push(name);
    })
  );
  assertEquals(pool.size, 1);
  await joinAll(greenlets);
  assertEquals(order, ["first", "second", "third"]);
});

Deno.test("Pool.map() over results of the same pool goes on", async () => {
  const pool = new Pool(1);
  const doubled = pool.imap((x: number) => 2 * x, range(10));
  assertEquals(
    await withTimeout(AT_ONCE, () => pool.map((x: number) => x + 1, doubled)),
    range(10).map((x) => 2 * x + 1),
  );
});

Deno.test("Pool.map() holds no slot while it waits for an item", async () => {
  const pool = new Pool(1);
  const queue = new Queue<number>();
  const mapper = spawn(() => pool.map(square, queue));
  await settle();
  assertEquals(pool.freeCount(), 1);
  assertEquals(await withTimeout(AT_ONCE, () => pool.apply(square, [3])), 9);
  queue.putNowait(2);
  queue.shutdown();
  assertEquals(await mapper.get(), [4]);
});

Deno.test("Pool.map() of many is quick, and gives each slot back", async () => {
  clock.useRealTime();
  const pool = new Pool(100);
  const start = performance.now();
  const results = await pool.map((x: number) => x, range(20_000));
  assertEquals(results.length, 20_000);
  assertLess(performance.now() - start, 30_000);
  await settle();
  assertEquals(pool.freeCount(), 100);
});

Deno.test("Pool lets a producer and its workers wait for each other", async () => {
  const pool = new Pool(2);
  const event = new Event();
  const order: string[] = [];
  const consumer = await pool.spawn(async () => {
    order.push("consumer waits");
    await event.wait();
    order.push("consumer goes on");
  });
  pool.applyAsync(async () => {
    await sleep(1);
    order.push("producer");
    event.set();
  });
  await consumer.get();
  assertEquals(order, ["consumer waits", "producer", "consumer goes on"]);
});

Deno.test("PoolFull is an Error with a name", () => {
  assertEquals(String(new PoolFull()), "PoolFull: The pool is full");
  assertEquals(new PoolFull("Else").message, "Else");
});
