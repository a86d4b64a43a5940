// One select on both ends of a queue or a channel: it must not serve itself.

import { assertEquals, assertRejects } from "@std/assert";
import {
  Channel,
  joinAll,
  Queue,
  select,
  sleep,
  spawn,
  Timeout,
  withTimeout,
} from "../mod.ts";

const FOREVER = 1e9;

Deno.test("select() of both ends of a channel does not hand its item to itself", async () => {
  const channel = new Channel<string>();
  const put = () => channel.put("own");
  const get = () => channel.get();
  const within = (wait: () => Promise<unknown>) => () =>
    withTimeout(FOREVER, wait);
  const nested = (wait: () => Promise<unknown>) => () => select([wait]);
  for (
    const both of [
      [put, get],
      [get, put],
      [within(put), get],
      [within(get), put],
      [get, within(put)],
      [nested(put), get],
      [get, nested(put)],
      [nested(within(get)), nested(put)],
      [() => select([put, get])],
      [() => select([get, within(put)])],
    ]
  ) {
    await assertRejects(() => select(both, { timeout: 0 }), Timeout);
    assertEquals(channel.balance, 0);
    // The end that another greenlet needs is taken.
    const other = spawn(() => channel.get());
    await sleep(0);
    await select(both);
    assertEquals([other.dead, other.value, channel.balance], [
      true,
      "own",
      0,
    ]);
  }
});

Deno.test("select() of both ends of a channel in two greenlets swaps nothing away", async () => {
  const channel = new Channel<string>();
  const both = (item: string) => ({
    put: () => channel.put(item),
    get: () => channel.get(),
  });
  const first = spawn(() => select(both("a")));
  const second = spawn(function* () {
    return yield* select(both("b"));
  });
  await joinAll([first, second]);
  // The one that came first gets or puts, and the other does the opposite.
  assertEquals([first.value, second.value], [
    { key: "get", value: "b" },
    { key: "put", value: undefined },
  ]);
  assertEquals(channel.balance, 0);
});

Deno.test("select() that puts into a full queue and gets from it loses no item", async () => {
  const queue = new Queue<number>(1, [7]);
  const put = () => queue.put(1);
  const get = () => queue.get();
  const first = await select({ put, get });
  assertEquals(first, { key: "get", value: 7 });
  assertEquals([queue.qsize(), queue.putters], [0, 0]);
  // The room is for another greenlet that waits for it.
  queue.putNowait(7);
  const mine = select({ put: () => queue.put(2) });
  const other = select({
    put,
    get: () => select([() => withTimeout(FOREVER, get)]),
  });
  assertEquals((await other).key, "get");
  assertEquals((await mine).key, "put");
  assertEquals([queue.getNowait(), queue.qsize()], [2, 0]);
});

Deno.test("select() that gets from an empty queue and puts into it takes one of both", async () => {
  for (const peeks of [false, true]) {
    const queue = new Queue<number>();
    const first = await select({
      get: () => peeks ? queue.peek() : queue.get(),
      put: () => queue.put(1),
    });
    assertEquals(first, { key: "put", value: undefined });
    assertEquals([queue.getters, queue.qsize(), queue.getNowait()], [0, 1, 1]);
  }
  // Another greenlet that waits gets the item.
  const queue = new Queue<number>();
  const mine = select({ get: () => queue.get(), x: () => sleep(FOREVER) });
  const other = spawn(() => queue.get());
  await sleep(0);
  await queue.put(1);
  assertEquals((await mine).key, "get");
  const both = select([() => queue.get(), () => queue.put(2)]);
  assertEquals(await both, { key: 1, value: undefined });
  assertEquals([await other.get(), queue.qsize()], [2, 0]);
});

Deno.test("select() takes what an alternative puts on its way to another wait", async () => {
  const queue = new Queue<number>(1);
  const channel = new Channel<number>();
  const item = { queue: () => queue.get(), channel: () => channel.get() };
  const late = () => sleep(FOREVER);
  for (
    const [key, begin] of [
      ["queue", () => (queue.put(5), late())],
      ["queue", () => (queue.putNowait(5), late())],
      ["queue", async () => (await queue.put(5), await late())],
      ["channel", () => (channel.put(5), late())],
      ["channel", () => (channel.putNowait(5), late())],
      ["channel", async () => (await channel.put(5), await late())],
    ] as const
  ) {
    const first = await select({ ...item, begin });
    assertEquals(first as unknown, { key, value: 5 });
    assertEquals([queue.qsize(), channel.balance], [0, 0]);
  }
  // And room.
  queue.putNowait(1);
  const put = await select({
    put: () => queue.put(2),
    begin: () => (queue.getNowait(), late()),
  });
  assertEquals([put.key, queue.getNowait()], ["put", 2]);
});
