import { assert, assertEquals, assertMatch } from "@std/assert";
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

const resolved = Promise.resolve();
const heldByMain = new RLock();
await heldByMain.acquire();
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
  [() => heldByMain.acquire(), "RLock.acquire(), held by main"],
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

Deno.test("Greenlet.waitsIn is null for a greenlet that was woken, and waits for its turn", async () => {
  const waiters = Array.from({ length: 50 }, () => new Waiter<void>());
  const greenlets = waiters.map((waiter) =>
    spawn(async () => {
      await waiter.get();
      await never;
    })
  );
  await idle();
  for (const [i, waiter] of waiters.entries()) {
    waiter.switch();
    // A time slice is over, so that the last greenlets go on when the event loop has turned.
    for (
      const end = performance.now() + 1;
      i === 20 && performance.now() < end;
    );
  }
  await resolved;
  assertEquals(greenlets[0]!.waitsIn, "a foreign promise");
  assertEquals(greenlets.at(-1)!.waitsIn, null);
  await idle();
  assertEquals(greenlets.at(-1)!.waitsIn, "a foreign promise");
  await killAll(greenlets, { grace: 0, timeout: 1 }).catch(() => {});
});

Deno.test("formatRunInfo() shows a chain of 20,000 spawns", async () => {
  const depth = 20_000;
  const event = new Event();
  const { promise, resolve } = Promise.withResolvers<void>();
  const link = async (left: number): Promise<void> => {
    if (left > 0) spawn(link, left - 1).name = `link ${left - 1}`;
    else resolve();
    await event.wait();
  };
  const first = spawn(link, depth);
  first.name = `link ${depth}`;
  await promise;
  await idle();
  const text = formatRunInfo();
  const lines = text.split("\n").filter((line) => line.includes('"link '));
  assertEquals(lines.length, depth + 1);
  assertMatch(
    lines[1]!,
    /^ {3}(│ {2}| {3})?└─ <Greenlet "link 19999": link> waits/,
  );
  assertMatch(lines[depth]!, /└─ level \d+: <Greenlet "link 0": link> waits/);
  assert(text.length < 10_000_000);
  event.set();
  await first.join();
  await idle();
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
