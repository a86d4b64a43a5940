import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertLess,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import { AsyncLocalStorage } from "node:async_hooks";
import {
  Channel,
  Empty,
  Full,
  getCurrent,
  type Greenlet,
  GreenletExit,
  idle,
  JoinableQueue,
  joinAll,
  LifoQueue,
  PriorityQueue,
  Queue,
  ShutDown,
  SimpleQueue,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../mod.ts";
import { Failures, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;

/** Each class that holds items, with room for `maxsize`. */
const holders: [string, (maxsize?: number) => SimpleQueue<number>][] = [
  ["SimpleQueue", (maxsize) => new SimpleQueue(maxsize)],
  ["Queue", (maxsize) => new Queue(maxsize)],
  ["LifoQueue", (maxsize) => new LifoQueue(maxsize)],
  [
    "PriorityQueue",
    (maxsize) => new PriorityQueue(undefined, { maxsize: maxsize ?? null }),
  ],
];

/** Each class that has a shutdown. */
const joinable = holders.slice(1) as [
  string,
  (maxsize?: number) => Queue<number>,
][];

/** Each class with its calls, full from the start. */
type Line = Pick<SimpleQueue<number>, "put" | "get"> & {
  getNowait(): number;
  putNowait(item: number): void;
  full(): boolean;
  empty(): boolean;
};

/** Each class, in a state in which a getter has to wait. */
const empties: [string, () => Line][] = [
  ...holders.map(([name, make]): [string, () => Line] => [name, () => make(1)]),
  ["Channel", () => new Channel<number>()],
];

/** Each class, in a state in which a putter has to wait. */
const fulls: [string, () => Line][] = [
  ...holders.map(([name, make]): [string, () => Line] => [name, () => {
    const queue = make(1);
    queue.putNowait(1);
    return queue;
  }]),
  ["Channel", () => new Channel<number>()],
];

/** All that is in a queue. */
function drain<T>(queue: SimpleQueue<T>): T[] {
  const items: T[] = [];
  while (!queue.empty()) items.push(queue.getNowait());
  return items;
}

// --- All of them: get

for (const [name, make] of empties) {
  testBoth(`${name}.get() waits until an item is put`, {
    async: async (line: Line) => await line.get(),
    generator: function* (line: Line) {
      return yield* line.get();
    },
  }, async (body) => {
    const line = make();
    const getter = spawn(body, line);
    await settle();
    assertFalse(getter.dead);
    await line.put(7);
    assertEquals(await getter.get(), 7);
    assert(line.empty());
  });

  testBoth(`${name}.get() throws Empty at its timeout, and has taken nothing`, {
    async: async (line: Line) => {
      await assertRejects(() => line.get({ timeout: 5 }), Empty);
      return await line.get();
    },
    generator: function* (line: Line) {
      try {
        yield* line.get({ timeout: 5 });
      } catch (error) {
        assertInstanceOf(error, Empty);
        return yield* line.get();
      }
      throw new Error("There was an item");
    },
  }, async (body) => {
    const line = make();
    const start = performance.now();
    const getter = spawn(body, line);
    await sleep(20);
    assert(performance.now() - start >= 5);
    await line.put(8);
    assertEquals(await getter.get(), 8);
  });

  Deno.test(`${name}.get() without block throws Empty at once`, async () => {
    const line = make();
    await assertRejects(() => line.get({ block: false }), Empty);
    await assertRejects(
      () => line.get({ block: false, timeout: FOREVER }),
      Empty,
    );
    assertThrows(() => line.getNowait(), Empty);
  });

  Deno.test(`${name}.get() with a negative timeout throws Empty`, async () => {
    await assertRejects(() => make().get({ timeout: 0 }), Empty);
    await assertRejects(() => make().get({ timeout: -1 }), Empty);
  });

  Deno.test(`${name}.get() refuses a timeout that is not a time`, () => {
    const line = make();
    assertThrows(() => line.get({ timeout: NaN }), RangeError);
    assertThrows(
      () => line.get({ timeout: "1" as unknown as number }),
      TypeError,
    );
    assertThrows(() => line.put(1, { timeout: NaN }), RangeError);
    assert(line.empty());
  });

  Deno.test(`${name}.get() that is timed out from outside throws that Timeout`, async () => {
    const line = make();
    let outer: Timeout | null = null;
    const getter = spawn(async () => {
      using timeout = Timeout.start(5);
      outer = timeout;
      await line.get({ timeout: FOREVER });
    });
    assertStrictEquals(await assertRejects(() => getter.get()), outer);
  });

  Deno.test(`${name}.get() that was killed has taken nothing, and the next in line gets the item`, async () => {
    const line = make();
    const killed = spawn(() => line.get());
    const timedOut = spawn(() =>
      withTimeout(1, () => line.get(), { value: -1 })
    );
    const getter = spawn(() => line.get());
    await sleep(5);
    await killed.kill();
    assertEquals(await timedOut.get(), -1);
    await line.put(9);
    assertEquals(await getter.get(), 9);
  });

  Deno.test(`${name}.get() serves waiters in the order in which they came`, async () => {
    const line = make();
    const served: string[] = [];
    const getters = ["a", "b", "c", "d"].map((who) =>
      spawn(async () => {
        served.push(`${who}${await line.get()}`);
      })
    );
    await settle();
    getters[1]!.kill();
    for (const item of [1, 2, 3]) await line.put(item);
    await joinAll(getters);
    assertEquals(served, ["a1", "c2", "d3"]);
  });

  testBoth(
    `${name}.get() receives an item that was handed over before the kill in the same turn`,
    {
      async: async (line: Line, got: number[]) => {
        got.push(await line.get());
        await sleep(FOREVER);
      },
      generator: function* (line: Line, got: number[]) {
        got.push(yield* line.get());
        yield* sleep(FOREVER);
      },
    },
    async (body) => {
      const line = make();
      const got: number[] = [];
      const getter = spawn(body, line, got);
      await settle();
      line.putNowait(5);
      await getter.kill();
      assertEquals(got, [5]);
      assertInstanceOf(getter.value, GreenletExit);
      assert(line.empty());
    },
  );
}

// --- All of them: put

for (const [name, make] of fulls) {
  testBoth(`${name}.put() waits until there is room`, {
    async: async (line: Line) => {
      await line.put(2);
      return "put";
    },
    generator: function* (line: Line) {
      yield* line.put(2);
      return "put";
    },
  }, async (body) => {
    const line = make();
    const putter = spawn(body, line);
    await settle();
    assertFalse(putter.dead);
    const first = await line.get();
    assertEquals(await putter.get(), "put");
    if (name !== "Channel") assertEquals([first, line.getNowait()], [1, 2]);
    else assertEquals(first, 2);
  });

  Deno.test(`${name}.put() throws Full at its timeout, and has put nothing`, async () => {
    const line = make();
    const putter = spawn(() => line.put(2, { timeout: 5 }));
    await assertRejects(() => putter.get(), Full);
    if (name !== "Channel") assertEquals(line.getNowait(), 1);
    assertThrows(() => line.getNowait(), Empty);
  });

  Deno.test(`${name}.put() without block throws Full at once`, async () => {
    const line = make();
    await assertRejects(() => line.put(2, { block: false }), Full);
    await assertRejects(() => line.put(2, { timeout: 0 }), Full);
    assertThrows(() => line.putNowait(2), Full);
    if (name !== "Channel") assertEquals(line.getNowait(), 1);
    assertThrows(() => line.getNowait(), Empty);
  });

  Deno.test(`${name}.put() that is timed out from outside throws that Timeout`, async () => {
    const line = make();
    let outer: Timeout | null = null;
    const putter = spawn(async () => {
      using timeout = Timeout.start(5);
      outer = timeout;
      await line.put(2, { timeout: FOREVER });
    });
    assertStrictEquals(await assertRejects(() => putter.get()), outer);
    if (name !== "Channel") assertEquals(line.getNowait(), 1);
    assertThrows(() => line.getNowait(), Empty);
  });

  testBoth(`${name}.put() that was killed has put nothing`, {
    async: async (line: Line) => {
      await line.put(2);
    },
    generator: function* (line: Line) {
      yield* line.put(2);
    },
  }, async (body) => {
    const line = make();
    const killed = spawn(body, line);
    const putter = spawn(() => line.put(3));
    await settle();
    await killed.kill();
    if (name !== "Channel") assertEquals(line.getNowait(), 1);
    assertEquals(await line.get(), 3);
    await putter.join();
    assertThrows(() => line.getNowait(), Empty);
  });

  Deno.test(`${name}.put() that was done before the kill in the same turn stays done`, async () => {
    const line = make();
    let isPut = false;
    const putter = spawn(async () => {
      await line.put(2);
      isPut = true;
      await sleep(FOREVER);
    });
    await settle();
    const items = [line.getNowait()];
    await putter.kill();
    assert(isPut);
    if (name !== "Channel") items.push(line.getNowait());
    assertEquals(items, name === "Channel" ? [2] : [1, 2]);
  });

  Deno.test(`${name}.put() begins when it is called, awaited or not`, async () => {
    const line = make();
    line.put(2);
    if (name !== "Channel") assertEquals(await line.get(), 1);
    assertEquals(line.getNowait(), 2);
  });

  Deno.test(`${name}.put() that is not awaited causes no unhandled rejection when it is killed`, async () => {
    const line = make();
    const putter = spawn(async () => {
      line.put(2);
      await sleep(FOREVER);
    });
    await settle();
    await putter.kill();
    await settle();
    if (name !== "Channel") assertEquals(line.getNowait(), 1);
    assertThrows(() => line.getNowait(), Empty);
  });
}

// --- Queues that hold items

for (const [name, make] of holders) {
  Deno.test(`${name}.putNowait() puts while there is room, from main as well`, () => {
    const queue = make(1);
    assertEquals(queue.putNowait(2), undefined);
    assertThrows(() => queue.putNowait(3), Full, "The queue is full");
    assertEquals(drain(queue), [2]);
  });

  Deno.test(`${name}.getNowait() gets an item that is there, from main as well`, () => {
    const queue = make(1);
    queue.putNowait(4);
    assertEquals(queue.getNowait(), 4);
    assertThrows(() => queue.getNowait(), Empty, "The queue is empty");
  });

  Deno.test(`${name}.putNowait() wakes a waiting getter`, async () => {
    const queue = make();
    const getter = spawn(() => queue.get());
    await settle();
    assertEquals(queue.getters, 1);
    queue.putNowait(10);
    assertEquals(queue.getters, 0);
    assert(queue.empty());
    assertFalse(getter.ready());
    assertEquals(await getter.get(), 10);
  });

  Deno.test(`${name}.getNowait() lets in the item of a waiting putter`, async () => {
    const queue = make(1);
    queue.putNowait(4);
    const putter = spawn(() => queue.put(5));
    await settle();
    assertEquals(queue.putters, 1);
    assertEquals(queue.getNowait(), 4);
    assertEquals(queue.putters, 0);
    assert(queue.full());
    assertEquals(queue.getNowait(), 5);
    await putter.get();
    assert(queue.empty());
  });

  Deno.test(`${name}.qsize(), empty() and full() tell how many items there are`, () => {
    const queue = make(2);
    assertEquals([queue.qsize(), queue.empty(), queue.full()], [
      0,
      true,
      false,
    ]);
    queue.putNowait(1);
    assertEquals([queue.qsize(), queue.empty(), queue.full()], [
      1,
      false,
      false,
    ]);
    queue.putNowait(2);
    assertEquals([queue.qsize(), queue.empty(), queue.full()], [
      2,
      false,
      true,
    ]);
  });

  Deno.test(`${name}.maxsize is Infinity for 0, less, or nothing`, () => {
    for (const maxsize of [undefined, 0, -1, Infinity]) {
      const queue = make(maxsize);
      assertEquals(queue.maxsize, Infinity);
      for (let i = 0; i < 100; i++) queue.putNowait(i);
      assertFalse(queue.full());
    }
    assertEquals(make(3).maxsize, 3);
  });

  Deno.test(`${name} refuses a maxsize that is not an integer`, () => {
    for (const maxsize of [1.5, NaN, -Infinity, "1" as never]) {
      const Wrong = typeof maxsize === "number" ? RangeError : TypeError;
      assertThrows(() => make(maxsize), Wrong, "'maxsize'");
      const queue = make(1);
      assertThrows(() => queue.maxsize = maxsize, Wrong);
      assertEquals(queue.maxsize, 1);
    }
  });

  Deno.test(`${name}.maxsize when it grows lets in the items of waiting putters`, async () => {
    const queue = make(1);
    queue.putNowait(1);
    const putters = [2, 3, 4].map((item) => spawn(() => queue.put(item)));
    await settle();
    queue.maxsize = 3;
    await settle();
    assertEquals(putters.map((g) => g.dead), [true, true, false]);
    assertEquals(queue.qsize(), 3);
    queue.maxsize = null;
    await joinAll(putters);
    assertEquals(queue.qsize(), 4);
    assertEquals(drain(queue).sort(), [1, 2, 3, 4]);
  });

  Deno.test(`${name}.maxsize when it shrinks drops nothing, and lets in nothing more`, async () => {
    const queue = make(3);
    for (const item of [1, 2, 3]) queue.putNowait(item);
    queue.maxsize = 1;
    assertEquals(queue.qsize(), 3);
    const putter = spawn(() => queue.put(4));
    await settle();
    queue.getNowait();
    queue.getNowait();
    await settle();
    assertFalse(putter.dead);
    queue.getNowait();
    await putter.join();
    assertEquals(drain(queue), [4]);
  });

  testBoth(`${name}.peek() waits for an item, and leaves it there`, {
    async: async (queue: SimpleQueue<number>) => await queue.peek(),
    generator: function* (queue: SimpleQueue<number>) {
      return yield* queue.peek();
    },
  }, async (body) => {
    const queue = make();
    const peekers = [spawn(body, queue), spawn(body, queue)];
    await settle();
    queue.putNowait(1);
    assertEquals(await joinAll(peekers), peekers);
    assertEquals(peekers.map((g) => g.value), [1, 1]);
    assertEquals(await queue.peek(), 1);
    assertEquals(queue.peekNowait(), 1);
    assertEquals(drain(queue), [1]);
  });

  Deno.test(`${name}.peek() throws Empty at its timeout, and without block`, async () => {
    const queue = make();
    await assertRejects(() => queue.peek({ timeout: 5 }), Empty);
    await assertRejects(() => queue.peek({ block: false }), Empty);
    assertThrows(() => queue.peekNowait(), Empty);
  });

  Deno.test(`${name}.peek() that waits before a get() sees the item that the get() takes`, async () => {
    const queue = make();
    const peeker = spawn(() => queue.peek());
    const getter = spawn(() => queue.get());
    const late = spawn(() => queue.peek());
    await settle();
    queue.putNowait(1);
    assertEquals([await peeker.get(), await getter.get()], [1, 1]);
    assertFalse(late.dead);
    queue.putNowait(2);
    assertEquals(await late.get(), 2);
    assertEquals(queue.qsize(), 1);
  });

  Deno.test(`${name}.copy() has the same items and room, and is independent`, async () => {
    const queue = make(3);
    for (const item of [3, 1, 2]) queue.putNowait(item);
    const putter = spawn(() => queue.put(4));
    await settle();
    const copy = queue.copy();
    assertNotStrictEquals(copy, queue);
    assertStrictEquals(copy.constructor, queue.constructor);
    assertEquals([copy.maxsize, copy.qsize(), copy.putters], [3, 3, 0]);
    await putter.kill();
    const items = drain(copy);
    assertEquals(queue.qsize(), 3);
    assertEquals(drain(queue), items);
  });

  Deno.test(`${name} keeps to its size, however many greenlets put and get`, async () => {
    const queue = make(3);
    let most = 0;
    const got: number[] = [];
    const putters = [0, 1, 2, 3].map((base) =>
      spawn(async () => {
        for (let i = 0; i < 50; i++) {
          await queue.put(base * 50 + i);
          most = Math.max(most, queue.qsize());
        }
      })
    );
    const getters = [0, 1, 2].map(() =>
      spawn(async () => {
        for (;;) {
          got.push(await queue.get());
          if (got.length % 7 === 0) await idle();
        }
      })
    );
    await joinAll(putters);
    await settle();
    for (const getter of getters) await getter.kill();
    assertEquals(most, 3);
    assertEquals(
      got.sort((a, b) => a - b),
      Array.from({ length: 200 }, (_, i) => i),
    );
  });

  Deno.test(`${name} is looped over with for await, and keeps the rest when the loop is left`, async () => {
    const queue = make();
    for (const item of [1, 2, 3]) queue.putNowait(item);
    const got: number[] = [];
    for await (const item of queue) {
      got.push(item);
      if (got.length === 2) break;
    }
    assertEquals(queue.qsize(), 1);
    got.push(queue.getNowait());
    assertEquals(got.sort(), [1, 2, 3]);
  });

  Deno.test(`${name} in a for await loop that is killed has taken nothing`, async () => {
    const queue = make();
    const got: number[] = [];
    const looper = spawn(async () => {
      for await (const item of queue) got.push(item);
    });
    await settle();
    queue.putNowait(1);
    await settle();
    assertEquals(queue.getters, 1);
    await looper.kill();
    assertEquals(queue.getters, 0);
    queue.putNowait(2);
    assertEquals(got, [1]);
    assertEquals(drain(queue), [2]);
  });
}

Deno.test("Queue(0) has room for any number of items", async () => {
  const queue = new Queue<number>(0);
  for (let i = 0; i < 1000; i++) await queue.put(i, { block: false });
  assertEquals(queue.qsize(), 1000);
});

Deno.test("Queue.put() of one greenlet goes on while there is room, and no further", async () => {
  const queue = new Queue<string>(2);
  const put: string[] = [];
  const putter = spawn(async () => {
    for (const item of ["a", "b", "c"]) {
      await queue.put(item);
      put.push(item);
    }
  });
  await settle();
  assertEquals(put, ["a", "b"]);
  assertEquals(await queue.get(), "a");
  await putter.join();
  assertEquals(put, ["a", "b", "c"]);
  assertEquals(drain(queue), ["b", "c"]);
});

Deno.test("Queue.put() lets waiting putters in, in the order in which they came", async () => {
  const queue = new Queue<number>(1);
  queue.putNowait(0);
  for (const item of [1, 2, 3]) spawn(() => queue.put(item));
  await settle();
  const got: number[] = [];
  for (let i = 0; i < 4; i++) got.push(await queue.get());
  assertEquals(got, [0, 1, 2, 3]);
});

Deno.test("Queue.put() does not overtake waiting putters", async () => {
  const queue = new Queue<number>(1);
  queue.putNowait(0);
  const first = spawn(() => queue.put(1));
  await settle();
  assertEquals(queue.getNowait(), 0);
  // The room that there was belongs to the first putter, which has not run since.
  assertThrows(() => queue.putNowait(2), Full);
  await first.join();
  assertEquals(drain(queue), [1]);
});

Deno.test("Queue.get() gives its items each to one of several getters", async () => {
  const queue = new Queue<string>();
  const getters = [1, 2, 3, 4].map(() => spawn(() => queue.get()));
  await settle();
  const ready = () => getters.filter((g) => g.dead).length;
  queue.putNowait("1");
  await settle();
  assertEquals(ready(), 1);
  queue.putNowait("2");
  await settle();
  assertEquals(ready(), 2);
  queue.putNowait("3");
  queue.putNowait("4");
  await joinAll(getters);
  assertEquals(getters.map((g) => g.value), ["1", "2", "3", "4"]);
});

Deno.test("Queue.get() that was timed out leaves the item to a later get", async () => {
  const queue = new Queue<string>();
  const timedOut = [1, 2].map(() =>
    spawn(() => withTimeout(0, () => queue.get(), { value: "timed out" }))
  );
  await joinAll(timedOut);
  assertEquals(timedOut.map((g) => g.value), ["timed out", "timed out"]);
  assertEquals(queue.getters, 0);
  queue.putNowait("sent");
  assertEquals(await queue.get(), "sent");
});

Deno.test("Queue.get() gets the item of a putter that is dead", async () => {
  const queue = new Queue<string>();
  const sender = spawn(() => queue.put("sent"));
  await sender.join();
  assertEquals(await queue.get(), "sent");
});

Deno.test("Queue.get() that has an item does not wait for anything else", async () => {
  const queue = new Queue<number>(null, [1]);
  const order: string[] = [];
  const getter = spawn(async () => {
    await queue.get();
    order.push("got");
  });
  const other = spawn(async () => {
    await sleep(0);
    order.push("slept");
  });
  await joinAll([getter, other]);
  assertEquals(order, ["got", "slept"]);
});

Deno.test("Queue.get() of a killed greenlet throws the kill although an item is there", async () => {
  const queue = new Queue<number>(null, [1]);
  const g = spawn(async () => {
    await until(Promise.resolve());
    g.kill(undefined, { block: false });
    await queue.get();
  });
  await g.join();
  assertInstanceOf(g.value, GreenletExit);
  assertEquals(drain(queue), [1]);
});

Deno.test("Queue.put() of a killed greenlet puts where there is room, and the next wait throws the kill", async () => {
  const queue = new Queue<number>();
  let put = false;
  const g = spawn(async () => {
    await until(Promise.resolve());
    g.kill(undefined, { block: false });
    await queue.put(1);
    put = true;
    await sleep(0);
  });
  await g.join();
  assertInstanceOf(g.value, GreenletExit);
  assertEquals([put, drain(queue)], [true, [1]]);
});

Deno.test("Queue keeps its order for a million items, in bounded time", () => {
  clock.useRealTime();
  const queue = new Queue<number>();
  const count = 1_000_000;
  const start = performance.now();
  for (let i = 0; i < count; i++) queue.putNowait(i);
  for (let i = 0; i < count; i++) {
    if (queue.getNowait() !== i) throw new Error(`Out of order at ${i}`);
  }
  assert(queue.empty());
  // An array's shift() would take many minutes.
  assertLess(performance.now() - start, 30_000);
});

Deno.test("Queue keeps its order when it grows in the middle of its ring", () => {
  const queue = new Queue<number>();
  let put = 0;
  let got = 0;
  for (let round = 1; round < 60; round++) {
    for (let i = 0; i < round; i++) queue.putNowait(put++);
    for (let i = 0; i < round / 2; i++) assertEquals(queue.getNowait(), got++);
    assertEquals(queue.qsize(), put - got);
  }
  assertEquals(drain(queue), Array.from({ length: put - got }, () => got++));
});

Deno.test("Queue takes undefined and null for items", async () => {
  const queue = new Queue<unknown>(null, [undefined, null]);
  assertEquals([await queue.get(), await queue.get()], [undefined, null]);
  queue.putNowait(undefined);
  const got: unknown[] = [];
  const looper = spawn(async () => {
    for await (const item of queue) got.push(item);
  });
  await settle();
  queue.putNowait(undefined);
  queue.shutdown();
  await looper.join();
  assertEquals(got, [undefined, undefined]);
});

Deno.test("Queue.get() gives a generator body an item that is a promise as it is", async () => {
  const promise = Promise.resolve(1);
  const queue = new Queue<Promise<number>>();
  const got: unknown[] = [];
  const g = spawn(function* () {
    got.push(yield* queue.get());
    got.push(yield* queue.get());
    got.push(yield* queue.peek());
    const { value } = yield* queue[Symbol.asyncIterator]().next();
    got.push(value);
  });
  await settle();
  queue.putNowait(promise);
  await settle();
  queue.putNowait(promise);
  queue.putNowait(promise);
  await g.get();
  assertEquals(got.length, 4);
  for (const item of got) assertStrictEquals(item, promise);
});

Deno.test("Queue.get() awaits an item that is a promise where it is awaited", async () => {
  const queue = new Queue<Promise<number>>(null, [Promise.resolve(1)]);
  assertEquals(await queue.get(), 1);
  queue.putNowait(Promise.resolve(2));
  assertEquals(await queue.getNowait(), 2);
});

Deno.test("Queue may be subclassed with an order of its own", async () => {
  const counts = { push: 0, take: 0 };
  class Counted<T> extends Queue<T> {
    protected override createItems() {
      const items = super.createItems();
      return {
        get length() {
          return items.length;
        },
        push(item: T) {
          counts.push++;
          items.push(item);
        },
        take() {
          counts.take++;
          return items.take();
        },
        peek: () => items.peek(),
        [Symbol.iterator]: () => items[Symbol.iterator](),
      };
    }
  }
  const queue = new Counted<string>();
  await queue.put("hi");
  assertEquals(await queue.get(), "hi");
  assertEquals(counts, { push: 1, take: 1 });
  queue.putNowait("ho");
  const copy = queue.copy();
  assertInstanceOf(copy, Counted);
  assertEquals(drain(copy), ["ho"]);
});

Deno.test("Queue whose items can't be stored stays as it was", async () => {
  let fails = false;
  class Failing extends Queue<number> {
    protected override createItems() {
      const items = super.createItems();
      const push = items.push.bind(items);
      items.push = (item) => {
        if (fails) throw new Error("No more");
        push(item);
      };
      return items;
    }
  }
  const queue = new Failing(1);
  queue.putNowait(1);
  const putters = [2, 3].map((item) => spawn(() => queue.put(item)));
  using _failures = new Failures();
  await settle();
  fails = true;
  assertEquals(queue.getNowait(), 1);
  await settle();
  for (const putter of putters) {
    await assertRejects(() => putter.get(), Error, "No more");
  }
  await assertRejects(async () => await queue.put(4), Error, "No more");
  assertThrows(() => queue.putNowait(5), Error, "No more");
  assertEquals([queue.qsize(), queue.unfinishedTasks], [0, 1]);
  fails = false;
  queue.putNowait(6);
  assertEquals(drain(queue), [6]);
});

Deno.test("Queue.get() keeps the current greenlet and its context", async () => {
  const storage = new AsyncLocalStorage<string>();
  const queue = new Queue<number>();
  const getter: Greenlet<unknown> = storage.run(
    "mine",
    () =>
      spawn(async () => {
        await queue.get();
        return [getCurrent() === getter, storage.getStore()];
      }),
  );
  await settle();
  storage.run("other", () => queue.putNowait(1));
  assertEquals(await getter.get(), [true, "mine"]);
});

Deno.test("Queue can be used from main", async () => {
  const queue = new Queue<number>(1);
  const g = spawn(async () => await queue.get() + await queue.get());
  await queue.put(1);
  await queue.put(2);
  assertEquals(await g.get(), 3);
});

// --- SimpleQueue

Deno.test("SimpleQueue has the items that it is made with, first in, first out", async () => {
  const queue = new SimpleQueue<number>(3, new Set([1, 2, 3]));
  assert(queue.full());
  assertEquals([await queue.get(), await queue.get(), await queue.get()], [
    1,
    2,
    3,
  ]);
});

Deno.test("SimpleQueue has neither tasks nor a shutdown", () => {
  const queue = new SimpleQueue<number>();
  for (const name of ["taskDone", "join", "shutdown", "unfinishedTasks"]) {
    assertFalse(name in queue);
  }
  assertFalse(queue instanceof Queue);
  assertInstanceOf(new Queue(), SimpleQueue);
});

for (const block of [true, false]) {
  Deno.test(`SimpleQueue hands many items from many putters to many getters, ${block ? "waiting" : "without"} block`, async () => {
    const queue = new SimpleQueue<number | null>();
    const [producers, consumers, each] = [10, 10, 50];
    const results = Array.from({ length: consumers }, (): number[] => []);
    const feeders = Array.from(
      { length: producers },
      (_, p) =>
        spawn(async () => {
          for (let i = 0; i < each; i++) {
            await queue.put(p * each + i);
            if ((i * 7 + p) % 5 === 0) await sleep(0);
          }
        }),
    );
    const eaters = results.map((own) =>
      spawn(async () => {
        for (;;) {
          try {
            const item = await queue.get(block ? {} : { block });
            if (item === null) return;
            own.push(item);
          } catch (error) {
            assertInstanceOf(error, Empty);
            await idle();
          }
        }
      })
    );
    await joinAll(feeders, { raiseError: true });
    for (let i = 0; i < consumers; i++) await queue.put(null);
    await joinAll(eaters, { raiseError: true });
    assertEquals(
      results.flat().sort((a, b) => a - b),
      Array.from({ length: producers * each }, (_, i) => i),
    );
    for (const own of results) {
      for (let p = 0; p < producers; p++) {
        // Items of one putter come to a getter in the putter's order.
        const items = own.filter((item) => Math.floor(item / each) === p);
        assertEquals(items, items.toSorted((a, b) => a - b));
      }
    }
    assert(queue.empty());
  });
}

// --- LifoQueue

Deno.test("LifoQueue gives the last item first", async () => {
  const queue = new LifoQueue<number>(null, [1, 2, 3]);
  assertEquals(queue.peekNowait(), 3);
  await queue.put(4);
  assertEquals(drain(queue), [4, 3, 2, 1]);
});

Deno.test("LifoQueue.copy() keeps the order", () => {
  const queue = new LifoQueue<number>(5, [1, 2, 3]);
  assertEquals(drain(queue.copy()), [3, 2, 1]);
});

// --- PriorityQueue

Deno.test("PriorityQueue gives the least item first", async () => {
  const queue = new PriorityQueue<number>();
  for (const item of [5, 3, 8, 1, 9, 2]) await queue.put(item);
  assertEquals(queue.peekNowait(), 1);
  assertEquals(drain(queue), [1, 2, 3, 5, 8, 9]);
});

Deno.test("PriorityQueue sorts any items that are put and taken in turn", () => {
  const queue = new PriorityQueue<number>();
  const model: number[] = [];
  let seed = 1;
  for (let i = 0; i < 2000; i++) {
    seed = seed * 48271 % 2147483647;
    if (seed % 3 > 0 || model.length === 0) {
      queue.putNowait(seed % 100);
      model.push(seed % 100);
      model.sort((a, b) => a - b);
    } else {
      assertEquals(queue.getNowait(), model.shift());
    }
    if (model.length > 0) assertEquals(queue.peekNowait(), model[0]);
  }
  assertEquals(drain(queue), model);
});

Deno.test("PriorityQueue gives items that are equal in the order in which they came", () => {
  const queue = new PriorityQueue<{ p: number; n: number }>(
    (a, b) => a.p - b.p,
  );
  for (let n = 0; n < 100; n++) queue.putNowait({ p: n % 3, n });
  const items = drain(queue);
  for (let i = 1; i < items.length; i++) {
    const [a, b] = [items[i - 1]!, items[i]!];
    assert(a.p < b.p || a.p === b.p && a.n < b.n);
  }
});

Deno.test("PriorityQueue has the items that it is made with", () => {
  const queue = new PriorityQueue<[number, string]>(undefined, {
    items: [[2, "b"], [1, "a"]],
    maxsize: 2,
  });
  assert(queue.full());
  assertEquals(queue.unfinishedTasks, 2);
  assertEquals(drain(queue), [[1, "a"], [2, "b"]]);
});

Deno.test("PriorityQueue compares arrays item by item, and strings by their order", () => {
  const arrays = new PriorityQueue<(number | string)[]>();
  for (const item of [[2, "a"], [1, "z"], [1, "b"], [1], [1, "b", 0]]) {
    arrays.putNowait(item);
  }
  assertEquals(drain(arrays), [[1], [1, "b"], [1, "b", 0], [1, "z"], [2, "a"]]);
  const strings = new PriorityQueue<string>();
  for (const item of ["b", "a", "c"]) strings.putNowait(item);
  assertEquals(drain(strings), ["a", "b", "c"]);
  const dates = new PriorityQueue<Date>();
  for (const ms of [2, 1]) dates.putNowait(new Date(ms));
  assertEquals(drain(dates).map(Number), [1, 2]);
});

Deno.test("PriorityQueue.copy() has the same order, and the comparison", () => {
  const queue = new PriorityQueue<number>((a, b) => b - a, { maxsize: 4 });
  for (const item of [1, 3, 2]) queue.putNowait(item);
  const copy = queue.copy();
  copy.putNowait(4);
  assert(copy.full());
  assertEquals(drain(copy), [4, 3, 2, 1]);
  assertEquals(drain(queue), [3, 2, 1]);
});

Deno.test("PriorityQueue refuses a comparison that is not a function", () => {
  assertThrows(
    () => new PriorityQueue(1 as unknown as () => number),
    TypeError,
    "'compare'",
  );
});

/** Compares numbers, but not with those below 0. */
function compareSome(a: number, b: number): number {
  if (a < 0 || b < 0) throw new TypeError("Not to be compared");
  return a - b;
}

Deno.test("PriorityQueue refuses an item that can't be compared, and keeps the others", async () => {
  const queue = new PriorityQueue(compareSome);
  for (const item of [3, 1, 2]) queue.putNowait(item);
  assertThrows(() => queue.putNowait(-1), TypeError, "Not to be compared");
  await assertRejects(async () => await queue.put(-1), TypeError);
  assertEquals([queue.qsize(), queue.unfinishedTasks], [3, 3]);
  assertEquals(drain(queue), [1, 2, 3]);
});

Deno.test("PriorityQueue that finds only later that an item can't be compared keeps its order", () => {
  // 1 can be compared with those on its way up, but not with the first.
  const compare = (a: number, b: number) => {
    if (Math.min(a, b) === 0 && Math.max(a, b) === 1) throw new TypeError("No");
    return a - b;
  };
  const queue = new PriorityQueue(compare);
  const items = [0, 10, 5, 20, 11, 6, 7, 30, 21, 12, 13];
  for (const item of items) queue.putNowait(item);
  assertThrows(() => queue.putNowait(1), TypeError, "No");
  assertEquals(queue.qsize(), items.length);
  assertEquals(drain(queue), items.toSorted((a, b) => a - b));
});

Deno.test("PriorityQueue.get() that fails to compare has taken nothing", () => {
  let fails = false;
  const queue = new PriorityQueue<number>((a, b) => {
    if (fails && (a === 6 || b === 6)) throw new TypeError("No");
    return a - b;
  });
  const items = [1, 3, 2, 4, 5, 6, 7, 8];
  for (const item of items) queue.putNowait(item);
  fails = true;
  assertThrows(() => queue.getNowait(), TypeError, "No");
  assertEquals(queue.qsize(), items.length);
  fails = false;
  assertEquals(drain(queue), [1, 2, 3, 4, 5, 6, 7, 8]);
});

Deno.test("PriorityQueue throws in the put() that waited with an item that can't be compared", async () => {
  const queue = new PriorityQueue(compareSome, { maxsize: 2, items: [1, 2] });
  using _failures = new Failures();
  const refused = spawn(() => queue.put(-1));
  const next = spawn(() => queue.put(3));
  await settle();
  assertEquals(await queue.get(), 1);
  await assertRejects(() => refused.get(), TypeError, "Not to be compared");
  await next.get();
  assertEquals(drain(queue), [2, 3]);
});

// --- Channel

Deno.test("Channel holds nothing, and is empty and full", async () => {
  const channel = new Channel<number>();
  const state = () => [channel.qsize(), channel.empty(), channel.full()];
  assertEquals(state(), [0, true, true]);
  const putter = spawn(() => channel.put(5));
  await settle();
  assertEquals(state(), [0, true, true]);
  assertEquals(channel.getNowait(), 5);
  await putter.join();
  assertEquals(state(), [0, true, true]);
});

Deno.test("Channel.balance tells how many getters or putters wait", async () => {
  const channel = new Channel<number>();
  assertEquals(channel.balance, 0);
  const putters = [1, 2].map((item) => spawn(() => channel.put(item)));
  await settle();
  assertEquals(channel.balance, 2);
  for (const putter of putters) await putter.kill();
  assertEquals(channel.balance, 0);
  const getter = spawn(() => channel.get());
  await settle();
  assertEquals(channel.balance, -1);
  await getter.kill();
  assertEquals(channel.balance, 0);
});

Deno.test("Channel.put() is done when the item is taken, and not before", async () => {
  const channel = new Channel<string>();
  const events: string[] = [];
  const sender = spawn(async () => {
    await channel.put("hi");
    events.push("sent");
  });
  await settle();
  assertEquals(events, []);
  const receiver = spawn(async () => {
    events.push(await channel.get());
  });
  await joinAll([sender, receiver]);
  assertEquals(events.sort(), ["hi", "sent"]);
});

Deno.test("Channel hands items over one by one, in order", async () => {
  const channel = new Channel<string>();
  const got: string[] = [];
  const taker = spawn(async () => {
    got.push(await channel.get(), await channel.get());
  });
  await channel.put("hello");
  await channel.put("world");
  await taker.join();
  assertEquals(got, ["hello", "world"]);
  const giver = spawn(async () => {
    await channel.put("a");
    await channel.put("b");
  });
  assertEquals([await channel.get(), await channel.get()], ["a", "b"]);
  await giver.join();
});

Deno.test("Channel.putNowait() gives to a waiting getter, or throws Full", async () => {
  const channel = new Channel<number>();
  assertThrows(() => channel.putNowait(1), Full, "No get() waits");
  const getter = spawn(() => channel.get());
  await settle();
  channel.putNowait(10);
  assertThrows(() => channel.putNowait(11), Full);
  assertEquals(await getter.get(), 10);
});

testBoth("Channel can be looped over", {
  async: async (channel: Channel<number>, got: number[]) => {
    for await (const item of channel) got.push(item);
  },
  generator: function* (channel: Channel<number>, got: number[]) {
    const iterator = channel[Symbol.asyncIterator]();
    assertStrictEquals(iterator[Symbol.asyncIterator](), iterator);
    for (;;) {
      const { done, value } = yield* iterator.next();
      if (done) return;
      got.push(value);
    }
  },
}, async (body) => {
  const channel = new Channel<number>();
  const got: number[] = [];
  const waiting = spawn(() => channel.put(1));
  await settle();
  const looper = spawn(body, channel, got);
  await waiting.join();
  await channel.put(2);
  await settle();
  await looper.kill();
  assertEquals(channel.balance, 0);
  assertEquals(got, [1, 2]);
});

// --- Tasks

Deno.test("JoinableQueue is Queue", () => {
  assertStrictEquals(JoinableQueue, Queue);
});

for (const [name, make] of joinable) {
  Deno.test(`${name}.join() waits until each item is done with`, async () => {
    const queue = make();
    let sum = 0;
    const workers = [0, 1].map(() =>
      spawn(async () => {
        for (;;) {
          const item = await queue.get();
          await sleep(0);
          sum += item;
          queue.taskDone();
        }
      })
    );
    for (let round = 0; round < 2; round++) {
      sum = 0;
      for (let i = 0; i < 100; i++) await queue.put(i);
      assertEquals(await queue.join(), true);
      assertEquals(sum, 4950);
    }
    for (const worker of workers) await worker.kill();
    assertThrows(() => queue.taskDone(), RangeError);
  });

  Deno.test(`${name}.taskDone() throws when it is called more often than items were put`, async () => {
    const queue = make();
    assertThrows(() => queue.taskDone(), RangeError, "once for each item");
    queue.putNowait(1);
    queue.taskDone();
    assertThrows(() => queue.taskDone(), RangeError);
    assertEquals(await queue.join(), true);
  });
}

Deno.test("Queue.unfinishedTasks counts the items that were put and are not done with", async () => {
  const queue = new Queue<number>(1);
  const putter = spawn(async () => {
    await queue.put(1);
    await queue.put(2);
  });
  await settle();
  // The second waits, and is not put yet.
  assertEquals(queue.unfinishedTasks, 1);
  assertEquals(await queue.get(), 1);
  await putter.join();
  assertEquals(queue.unfinishedTasks, 2);
  queue.taskDone();
  assertEquals(queue.unfinishedTasks, 1);
  queue.taskDone();
  assertEquals(queue.unfinishedTasks, 0);
});

Deno.test("Queue.join() returns at once if there are no tasks", async () => {
  assertEquals(await new Queue<number>().join(), true);
});

testBoth("Queue.join() returns false at its timeout", {
  async: async (queue: Queue<number>) => await queue.join({ timeout: 5 }),
  generator: function* (queue: Queue<number>) {
    return yield* queue.join({ timeout: 5 });
  },
}, async (body) => {
  const queue = new Queue<number>(null, [1, 2, 3]);
  for (const item of [1, 2, 3]) {
    assertEquals(await spawn(body, queue).get(), false);
    assertEquals(await queue.get(), item);
    queue.taskDone();
  }
  assertThrows(() => queue.taskDone(), RangeError);
  assertEquals(await spawn(body, queue).get(), true);
});

Deno.test("Queue.copy() has the tasks of its items, not of items that were taken", () => {
  const queue = new Queue<number>(null, [1, 2, 3]);
  queue.getNowait();
  assertEquals(queue.unfinishedTasks, 3);
  assertEquals(queue.copy().unfinishedTasks, 2);
});

// --- Shutdown

for (const [name, make] of joinable) {
  for (const immediate of [false, true]) {
    const how = immediate ? "shutdown({ immediate })" : "shutdown()";

    Deno.test(`${name}.${how} has put and get throw ShutDown`, async () => {
      const queue = make();
      await queue.put(1);
      queue.putNowait(2);
      queue.shutdown({ immediate });
      await assertRejects(() => queue.put(3), ShutDown);
      await assertRejects(() => queue.put(3, { block: false }), ShutDown);
      assertThrows(() => queue.putNowait(4), ShutDown);
      if (!immediate) {
        const items = [];
        for (let i = 0; i < 2; i++) {
          assertEquals(await queue.join({ timeout: 0 }), false);
          items.push(await queue.get());
          queue.taskDone();
        }
        assertEquals(items.sort(), [1, 2]);
      }
      assertThrows(() => queue.taskDone(), RangeError);
      assertEquals(await queue.join(), true);
      await assertRejects(
        () => queue.get(),
        ShutDown,
        "The queue is shut down",
      );
      await assertRejects(() => queue.get({ timeout: 1 }), ShutDown);
      await assertRejects(() => queue.get({ block: false }), ShutDown);
      await assertRejects(() => queue.peek(), ShutDown);
      assertThrows(() => queue.getNowait(), ShutDown);
      assertThrows(() => queue.peekNowait(), ShutDown);
      assert(queue.empty());
    });

    testBoth(`${name}.${how} wakes waiting getters`, {
      async: async (queue: Queue<number>) => {
        await assertRejects(() => queue.get(), ShutDown);
        return "shut down";
      },
      generator: function* (queue: Queue<number>) {
        try {
          yield* queue.get({ timeout: FOREVER });
        } catch (error) {
          assertInstanceOf(error, ShutDown);
          return "shut down";
        }
        return "";
      },
    }, async (body) => {
      const queue = make();
      const getters = [spawn(body, queue), spawn(body, queue)];
      const peeker = spawn(() => assertRejects(() => queue.peek(), ShutDown));
      await settle();
      queue.shutdown({ immediate });
      for (const getter of getters) {
        assertEquals(await getter.get(), "shut down");
      }
      await peeker.get();
    });

    Deno.test(`${name}.${how} wakes waiting putters, whose items are not put`, async () => {
      const queue = make(2);
      queue.putNowait(1);
      queue.putNowait(2);
      const putters = [3, 4].map((item) =>
        spawn(() => assertRejects(() => queue.put(item), ShutDown))
      );
      await settle();
      queue.shutdown({ immediate });
      for (const putter of putters) await putter.get();
      assertEquals(drain(queue).sort(), immediate ? [] : [1, 2]);
    });

    Deno.test(`${name}.${how} is the end of for await loops`, async () => {
      const queue = make();
      const got: number[] = [];
      const loopers = [0, 1].map(() =>
        spawn(async () => {
          for await (const item of queue) {
            got.push(item);
            await sleep(0);
          }
          return "ended";
        })
      );
      await settle();
      for (const item of [1, 2, 3, 4]) queue.putNowait(item);
      queue.shutdown({ immediate });
      for (const looper of loopers) assertEquals(await looper.get(), "ended");
      // Two were handed over, and are not dropped.
      assertEquals(got.length, immediate ? 2 : 4);
      for await (const item of queue) throw new Error(`There is ${item}`);
    });
  }

  Deno.test(`${name}.shutdown() lets join() go on until the items are done with`, async () => {
    const queue = make();
    queue.putNowait(1);
    queue.putNowait(2);
    const joiners = [0, 1].map(() => spawn(() => queue.join()));
    await settle();
    queue.shutdown();
    const workers = [0, 1].map(() =>
      spawn(async () => {
        await queue.get();
        await settle();
        queue.taskDone();
      })
    );
    await settle();
    await joinAll([...workers, ...joiners], { raiseError: true });
    assertEquals(joiners.map((g) => g.value), [true, true]);
    assertEquals(queue.unfinishedTasks, 0);
  });

  Deno.test(`${name}.shutdown({ immediate }) is done with the items that were not taken`, async () => {
    const queue = make();
    for (const item of [1, 2, 3]) queue.putNowait(item);
    await queue.get();
    const joiner = spawn(() => queue.join());
    await settle();
    queue.shutdown({ immediate: true });
    assertEquals([queue.qsize(), queue.unfinishedTasks], [0, 1]);
    await settle();
    assertFalse(joiner.dead);
    queue.taskDone();
    assertEquals(await joiner.get(), true);
  });

  Deno.test(`${name}.shutdown() may be called again, then immediate, and then again`, async () => {
    const queue = make();
    queue.putNowait(1);
    queue.shutdown();
    queue.shutdown();
    assertEquals(queue.qsize(), 1);
    queue.shutdown({ immediate: true });
    assertEquals(queue.qsize(), 0);
    queue.shutdown({ immediate: false });
    await assertRejects(() => queue.get(), ShutDown);
  });
}

Deno.test("Queue.shutdown() does not take back an item that was handed over", async () => {
  const queue = new Queue<number>();
  const getter = spawn(() => queue.get());
  await settle();
  queue.putNowait(1);
  queue.shutdown({ immediate: true });
  assertEquals(await getter.get(), 1);
});

Deno.test("Queue.shutdown() among many getters and putters loses no item that was put", async () => {
  for (const immediate of [false, true]) {
    const queue = new Queue<number>(4);
    const put: number[] = [];
    const got: number[] = [];
    const writers = [0, 1, 2, 3].map((base) =>
      spawn(async () => {
        for (let i = 0; i < 100; i++) {
          try {
            await queue.put(base * 100 + i);
          } catch (error) {
            assertInstanceOf(error, ShutDown);
            return;
          }
          put.push(base * 100 + i);
        }
      })
    );
    const readers = [0, 1, 2, 3, 4, 5].map(() =>
      spawn(async () => {
        for (;;) {
          try {
            got.push(await queue.get({ block: false }));
            queue.taskDone();
          } catch (error) {
            if (error instanceof ShutDown) return "shut down";
            assertInstanceOf(error, Empty);
          }
          await idle();
        }
      })
    );
    let dropped = 0;
    const closer = spawn(async () => {
      while (put.length < 150) await idle();
      dropped = immediate ? queue.qsize() : 0;
      queue.shutdown({ immediate });
    });
    await joinAll([closer, ...writers, ...readers], { raiseError: true });
    assertEquals(readers.map((g) => g.value), readers.map(() => "shut down"));
    assertEquals(await queue.join(), true);
    assertEquals(got.length + dropped, put.length);
    assertEquals(new Set(got).size, got.length);
    if (!immediate) assertEquals(got.sort(), put.sort());
  }
});

// --- Errors

Deno.test("Empty, Full and ShutDown are Errors with names", () => {
  for (const Class of [Empty, Full, ShutDown]) {
    const error = new Class();
    assertInstanceOf(error, Error);
    assertEquals(error.name, Class.name);
    assertStringIncludes(String(error), `${Class.name}: The queue is `);
    assertEquals(new Class("Else").message, "Else");
  }
});

Deno.test("Queue.get() that throws Empty fails its greenlet, and is reported like any failure", async () => {
  using failures = new Failures();
  const g: Greenlet<number> = spawn(() =>
    new Queue<number>().get({ block: false })
  );
  await g.join();
  assertInstanceOf(g.exception, Empty);
  await settle();
  assertEquals(failures.errors, [g.exception]);
});
