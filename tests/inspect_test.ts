import { assertEquals, assertMatch } from "@std/assert";
import {
  AsyncResult,
  Channel,
  Condition,
  Event,
  formatRunInfo,
  getCurrent,
  getHub,
  type Greenlet,
  Group,
  idle,
  joinAll,
  killAll,
  Lock,
  nursery,
  Pool,
  Queue,
  RLock,
  Semaphore,
  sleep,
  spawn,
  until,
  type Wait,
  wait,
  Waiter,
  withTimeout,
} from "../mod.ts";

const never = new Promise<never>(() => {});

/** What waits, what it says, and a greenlet that it may wait for. */
type Case = [run: (other: Greenlet) => unknown, text: string];

const WAITS: Case[] = [
  [() => sleep(10000), "sleep(10000)"],
  [() => sleep(Infinity), "sleep(Infinity)"],
  [() => new Queue().get(), "Queue.get()"],
  [() => new Queue().peek(), "Queue.peek()"],
  [async () => {
    const queue = new Queue<number>(1);
    await queue.put(1);
    await queue.put(2);
  }, "Queue.put()"],
  [() => new Queue(null, [1]).join(), "Queue.join()"],
  [async () => {
    for await (const _ of new Queue());
  }, "for await of Queue"],
  [() => new (class Jobs extends Queue<number> {})().get(), "Jobs.get()"],
  [() => new Channel().get(), "Channel.get()"],
  [() => new Channel().put(1), "Channel.put()"],
  [() => new Event().wait(), "Event.wait()"],
  [() => new AsyncResult().get(), "AsyncResult.get()"],
  [() => new AsyncResult().wait(), "AsyncResult.wait()"],
  [() => new Semaphore(0).acquire(), "Semaphore.acquire()"],
  [() => new Semaphore(0).wait(), "Semaphore.wait()"],
  [async () => {
    const lock = new Lock();
    const holder = spawn(() => void lock.acquire());
    holder.name = "holder";
    await holder.join();
    await lock.acquire();
  }, 'Lock.acquire(), held by <Greenlet "holder">, which is dead'],
  [async () => {
    const lock = new RLock();
    const holder = spawn(() => void lock.acquire());
    holder.name = "holder";
    await holder.join();
    await lock.acquire();
  }, 'RLock.acquire(), held by <Greenlet "holder">, which is dead'],
  [async () => {
    const condition = new Condition();
    await condition.acquire();
    await condition.wait();
  }, "Condition.wait()"],
  [(other) => other.join(), 'join of <Greenlet "other": sleep>'],
  [(other) => other.get(), 'get of <Greenlet "other": sleep>'],
  [(other) => joinAll([other]), 'join of <Greenlet "other": sleep>'],
  [
    (other) => wait([other, new Event()], { count: 1 }),
    'wait for 1 of <Greenlet "other": sleep>, Event',
  ],
  [(other) => {
    const group = new Group();
    group.add(other);
    return group.join();
  }, 'Group.join(), for <Greenlet "other": sleep>'],
  [async (other) => {
    const pool = new Pool(1);
    await pool.add(other);
    await pool.spawn(() => {});
  }, "room in a Pool of 1 greenlets"],
  [() => getHub().join(), "Hub.join()"],
  [() => new Waiter().get(), "Waiter.get()"],
  [() => until(never), "a foreign promise"],
  [() => never, "a foreign promise"],
  [
    () => withTimeout(99_999, () => never),
    "a foreign promise, within withTimeout(99999)",
  ],
  [
    () => withTimeout(99_999, () => new Event().wait()),
    "Event.wait(), within withTimeout(99999)",
  ],
  [
    () => Promise.all([new Event().wait(), sleep(9999), sleep(9999)]),
    "Event.wait() and sleep(9999) × 2",
  ],
  [() =>
    nursery((n) => {
      n.spawn(sleep, 9999).name = "child";
    }), 'nursery(), for <Greenlet "child": sleep>'],
];

/** The two kinds of body. */
const KINDS = {
  async: (run: () => unknown) => async () => void await run(),
  generator: (run: () => unknown) =>
    function* () {
      const result = run();
      if (result instanceof Promise && Symbol.iterator in result) {
        yield* result as Wait<unknown>;
      } else yield* until(result);
    },
};

for (const [kind, bodyOf] of Object.entries(KINDS)) {
  Deno.test(`Greenlet.waitsIn says what the greenlet waits in (${kind})`, async () => {
    const texts: (string | null)[] = [];
    for (const [run] of WAITS) {
      const other = spawn(sleep, 99_999);
      other.name = "other";
      const greenlet = spawn<[], unknown>(bodyOf(() => run(other)));
      await idle();
      texts.push(greenlet.waitsIn);
      await killAll([greenlet, other], { grace: 0, timeout: 1 }).catch(
        () => {},
      );
    }
    assertEquals(texts, WAITS.map(([, text]) => text));
  });
}

Deno.test("Greenlet.waitsIn is null unless the greenlet waits", async () => {
  const greenlet = spawn(async () => {
    assertEquals(getCurrent() === greenlet && greenlet.waitsIn, null);
    await sleep(0);
    assertEquals(greenlet.waitsIn, null);
  });
  assertEquals(greenlet.waitsIn, null);
  await greenlet.get();
  assertEquals(greenlet.waitsIn, null);
  const killed = spawn(sleep, 1000);
  await killed.kill();
  assertEquals(killed.waitsIn, null);
});

Deno.test("formatRunInfo() shows who has spawned whom, and folds equal greenlets", async () => {
  const event = new Event();
  const parent = spawn(async () => {
    for (let i = 0; i < 500; i++) spawn(() => event.wait());
    await event.wait();
  });
  parent.name = "parent";
  await idle();
  // Greenlets of other tests that wait for foreign promises may be there as well.
  const lines = formatRunInfo().split("\n");
  assertEquals(lines[0], "main runs");
  const at = lines.findIndex((line) => line.includes('"parent"'));
  assertMatch(lines[at]!, /^.─ <Greenlet "parent"> waits in Event.wait\(\)$/);
  assertMatch(
    lines[at + 1]!,
    /^. {2}└─ <Greenlet "Greenlet-\d+"> waits in Event.wait\(\) × 500$/,
  );
  event.set();
  await parent.join();
});

Deno.test("formatRunInfo() marks greenlets that wait for each other", async () => {
  const [a, b] = [new RLock(), new RLock()];
  const take = async (one: RLock, other: RLock) => {
    using _one = await one.acquire();
    await sleep(0);
    using _other = await other.acquire();
  };
  const pair = [spawn(take, a, b), spawn(take, b, a)] as const;
  pair[0].name = "rose";
  pair[1].name = "jack";
  const behind = spawn(() => pair[0].join());
  const free = spawn(sleep, 99_999);
  await idle();
  const text = formatRunInfo();
  assertMatch(
    text,
    /"rose": take> waits in RLock.acquire\(\), held by <Greenlet "jack": take> \(deadlock\)/,
  );
  assertMatch(text, /"jack": take> .* \(deadlock\)/);
  assertMatch(text, /join of <Greenlet "rose": take> \(deadlock\)/);
  assertMatch(text, /waits in sleep\(99999\)$/m);
  await killAll([...pair, behind, free]);
});
