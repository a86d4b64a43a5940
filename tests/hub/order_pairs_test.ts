/**
 * In which order greenlets go on that are made ready one right after the other: gevent
 * 22.10 gives the same.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import {
  AsyncResult,
  Event,
  Greenlet,
  Group,
  Pool,
  Queue,
  Semaphore,
  sleep,
  spawn,
  spawnLater,
  type Wait,
} from "../../mod.ts";
import { spendBudget } from "../../_hub/run_queue.ts";
import { settle } from "../_bodies.ts";

/** Has a greenlet wait and then say so. */
type Go = (wait: () => Wait<unknown>, said: () => void) => Greenlet;

const kinds: Record<string, Go> = {
  async: (wait, said) =>
    spawn(async () => {
      await wait();
      said();
    }) as Greenlet,
  generator: (wait, said) =>
    spawn(function* () {
      yield* wait();
      said();
    }) as Greenlet,
};

/** Sets up something, and gives what makes it ready. */
type SetUp = (go: Go, said: () => void) => () => unknown;

/** What the hub tells of. */
const told: Record<string, SetUp> = {
  "Event.set()": (go, said) => {
    const event = new Event();
    go(() => event.wait(), said);
    return () => event.set();
  },
  "AsyncResult.set()": (go, said) => {
    const result = new AsyncResult();
    go(() => result.get(), said);
    return () => result.set(1);
  },
  "a link": (_, said) => {
    const event = new Event();
    event.rawlink(said);
    return () => event.set();
  },
};

/** What is handed to the greenlet that waits. */
const handed: Record<string, SetUp> = {
  "Queue.put()": (go, said) => {
    const queue = new Queue<number>();
    go(() => queue.get(), said);
    return () => queue.put(1);
  },
  "Semaphore.release()": (go, said) => {
    const semaphore = new Semaphore(0);
    go(() => semaphore.acquire(), said);
    return () => semaphore.release();
  },
};

const begun: Record<string, SetUp> = {
  "spawn()": (_, said) => () => spawn(said),
  "start()": (_, said) => () => new Greenlet(said).start(),
  "Group.spawn()": (_, said) => () => new Group().spawn(said),
  "Pool.applyAsync()": (_, said) => () => new Pool(1).applyAsync(said),
};

/** What comes after those that are ready. */
const late: Record<string, SetUp> = {
  "a spawned sleep(0)": (go, said) => () => go(() => sleep(0), said),
  "spawnLater(0)": (_, said) => () => spawnLater(0, said),
};

async function orderOf(
  first: SetUp,
  second: SetUp,
  go: Go,
  before = () => {},
): Promise<string[]> {
  const log: string[] = [];
  const makeReady = [
    first(go, () => void log.push("first")),
    second(go, () => void log.push("second")),
  ];
  await settle();
  before();
  for (const make of makeReady) make();
  assertEquals(log, []);
  await sleep(0);
  log.push("sleep(0)");
  while (log.length < 3) await sleep(1);
  return log;
}

/** Lets the time slice be over at the wake-up with this number. */
function endSliceAt(wakeup: number): void {
  // The clock is looked at for every 16th wake-up.
  for (let i = wakeup; i < 16; i++) spendBudget();
  const end = performance.now() + 0.2;
  while (performance.now() < end);
}

const ready = { ...told, ...handed, ...begun };

for (const [kind, go] of Object.entries(kinds)) {
  for (const [first, setFirst] of Object.entries(ready)) {
    // One that is handed something is woken there and then, before the hub tells of anything.
    const others = first in told ? { ...told, ...begun } : ready;
    for (const [second, setSecond] of Object.entries(others)) {
      Deno.test(`${first} and then ${second} and sleep(0) go on in this order, ${kind} body`, async () => {
        assertEquals(await orderOf(setFirst, setSecond, go), [
          "first",
          "second",
          "sleep(0)",
        ]);
      });
    }
    Deno.test(`${first} and then spawn() go on in this order when the time slice ends meanwhile, ${kind} body`, async () => {
      for (let wakeup = 0; wakeup < 16; wakeup++) {
        const endSlice = () => endSliceAt(wakeup);
        assertEquals(
          await orderOf(setFirst, begun["spawn()"]!, go, endSlice),
          ["first", "second", "sleep(0)"],
          `wake-up ${wakeup}`,
        );
      }
    });
    for (const [second, setSecond] of Object.entries(late)) {
      Deno.test(`${first} and sleep(0) come before ${second}, ${kind} body`, async () => {
        assertEquals(await orderOf(setFirst, setSecond, go), [
          "first",
          "sleep(0)",
          "second",
        ]);
        assertEquals(await orderOf(setSecond, setFirst, go), [
          "second",
          "sleep(0)",
          "first",
        ]);
      });
    }
  }
}

for (const [kind, go] of Object.entries(kinds)) {
  Deno.test(`Event.set() and then spawn() in a greenlet have the waiter go on first, ${kind} body`, async () => {
    const log: string[] = [];
    const event = new Event();
    go(() => event.wait(), () => void log.push("waiter"));
    await settle();
    const setter = go(() => {
      event.set();
      spawn(() => log.push("spawned"));
      return sleep(0);
    }, () => void log.push("setter"));
    await setter.join();
    assertEquals(log, ["waiter", "spawned", "setter"]);
  });
}

for (const [kind, go] of Object.entries(kinds)) {
  for (const [name, setUp] of Object.entries({ ...told, ...begun })) {
    Deno.test(`spawn() and then ${name} and spawn() go on in this order, ${kind} body`, async () => {
      for (const wakeup of [0, 8, 10, 12, 14, 15]) {
        const log: string[] = [];
        const makeReady = setUp(go, () => void log.push("second"));
        await settle();
        endSliceAt(wakeup);
        spawn(() => log.push("first"));
        makeReady();
        await spawn(() => log.push("third")).join();
        assertEquals(log, ["first", "second", "third"], `wake-up ${wakeup}`);
      }
    });
  }

  Deno.test(`sleep(0) comes before a link that is added after it, ${kind} body`, async () => {
    const log: string[] = [];
    const event = new Event();
    const ready = new Event();
    event.rawlink(() => log.push("first link"));
    ready.set();
    await settle();
    const linker = go(() => {
      ready.rawlink(() => log.push("last link"));
      return sleep(0);
    }, () => {});
    event.set();
    await sleep(0);
    log.push("sleep(0)");
    await linker.join();
    assertEquals(log, ["first link", "sleep(0)", "last link"]);
  });

  Deno.test(`Event.rawlink() after a wait has the link called behind a greenlet that is spawned, ${kind} body`, async () => {
    const log: string[] = [];
    const event = new Event();
    const waiter = go(
      () => event.wait(),
      () => event.rawlink(() => log.push("new link")),
    );
    await settle();
    event.rawlink(() => log.push("link"));
    event.set();
    spawn(() => log.push("spawned"));
    await waiter.join();
    await settle();
    assertEquals(log, ["link", "spawned", "new link"]);
  });
}

Deno.test("Greenlet.rawlink() adds to the links that are about to be called", async () => {
  const log: string[] = [];
  const ended = spawn(() => {
    spawn(() => {
      spawn(() => log.push("spawned"));
      ended.rawlink(() => log.push("second link"));
    });
  });
  ended.rawlink(() => log.push("link"));
  await settle();
  assertEquals(log, ["link", "second link", "spawned"]);
});
