/** Locks that are disposed of twice, or were released before the end of their block. */

import { assert, assertEquals, assertFalse, assertThrows } from "@std/assert";
import {
  BoundedSemaphore,
  Condition,
  Event,
  Lock,
  RLock,
  Semaphore,
  sleep,
  spawn,
} from "../mod.ts";
import { settle, testBoth } from "./_bodies.ts";

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

for (
  const [name, lock] of [["Lock", new Lock()], ["RLock", new RLock()]] as const
) {
  Deno.test(`${name} is not released by a disposer that was called before it was acquired again`, async () => {
    const dispose = (await lock.acquire())![Symbol.dispose];
    dispose();
    await lock.acquire();
    dispose();
    assert(lock.locked());
    lock.release();
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
