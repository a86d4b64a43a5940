/**
 * Interrupts of async bodies that are in a foreign promise, and have begun waits that they do not
 * await.
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  Event,
  getCurrent,
  type Greenlet,
  GreenletExit,
  Group,
  nursery,
  Pool,
  Queue,
  select,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { Failures, settle } from "../_bodies.ts";
import { Unhandled } from "../_uncaught.ts";

const FOREVER = 1e9;
/** A kill that throws once: the grace never ends. */
const ONCE = { grace: Infinity, block: false };

const full = () => new Queue(1, [0]);
const stubborn = () =>
  spawn(async () => {
    const end = new Event();
    ends.push(end);
    try {
      await sleep(FOREVER);
    } finally {
      await end.wait();
    }
  });
/** What ends the greenlets that are left after a test. */
const ends: Event[] = [];

/** Calls that wait, and that the body does not await. */
const NOT_AWAITED: Record<string, () => unknown> = {
  "sleep()": () => sleep(FOREVER),
  "Queue.put()": () => full().put(1),
  "Event.wait()": () => new Event().wait(),
  "until()": () => until(new Promise(() => {})),
  "an async function": async () => {
    await sleep(FOREVER);
  },
  "an async function in another": async () => {
    await (async () => {
      await sleep(FOREVER);
    })();
  },
  "two calls": () => {
    full().put(1);
    sleep(FOREVER);
  },
  "a call and an async function": () => {
    full().put(1);
    (async () => {
      await sleep(FOREVER);
    })();
  },
  "withTimeout()": () => withTimeout(FOREVER, () => sleep(FOREVER)),
  "nursery()": () => nursery(() => sleep(FOREVER)),
  "select()": () => select([() => sleep(FOREVER), () => full().put(1)]),
  "Pool.map()": () => new Pool(1).map(() => sleep(FOREVER), [1]),
  "the next of Pool.imap()": () =>
    new Pool(1).imap(() => sleep(FOREVER), [1]).next(),
};

/** Ways to interrupt a greenlet once. */
const INTERRUPTS: Record<string, (greenlet: Greenlet, error: Error) => void> = {
  "kill()": (greenlet, error) => {
    greenlet.kill(error, ONCE);
  },
  "throw()": (greenlet, error) => {
    greenlet.throw(error);
  },
};

for (const [how, interrupt] of Object.entries(INTERRUPTS)) {
  for (const [name, call] of Object.entries(NOT_AWAITED)) {
    Deno.test(`Greenlet.${how} in a foreign promise is thrown by the next wait of the body, beside ${name} that is not awaited`, async () => {
      using failures = new Failures();
      await using _ = new Unhandled();
      const error = new GreenletExit();
      const foreign = Promise.withResolvers<void>();
      const log: unknown[] = [];
      const greenlet = spawn(async () => {
        call();
        await foreign.promise;
        log.push("goes on");
        try {
          await sleep(FOREVER);
        } catch (error) {
          log.push(error);
          // Once: clean-up may wait.
          await sleep(0);
          await sleep(1);
          log.push("cleaned up");
          throw error;
        }
      });
      await settle();
      interrupt(greenlet, error);
      await settle();
      foreign.resolve();
      await greenlet.join();
      assertEquals(log, ["goes on", error, "cleaned up"]);
      assertStrictEquals(greenlet.value, error);
      assertEquals(failures.errors, []);
    });
  }
}

Deno.test("Group.kill() that is not awaited does not take a kill of the body in a foreign promise", async () => {
  const group = new Group([stubborn()]);
  const foreign = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    group.kill({ grace: Infinity });
    await foreign.promise;
    await sleep(FOREVER);
  });
  await settle();
  greenlet.kill(undefined, ONCE);
  await settle();
  foreign.resolve();
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  ends.splice(0).forEach((end) => end.set());
  await group.join();
});

Deno.test("Timeout.start() in a foreign promise is thrown by the next wait of the body, beside a wait that is not awaited", async () => {
  using clock = new TestClock();
  await using _ = new Unhandled();
  using failures = new Failures();
  for (const isClosed of [false, true]) {
    const foreign = Promise.withResolvers<void>();
    const log: string[] = [];
    const greenlet = spawn(async () => {
      const timeout = Timeout.start(10);
      full().put(1);
      await foreign.promise;
      if (isClosed) timeout.close();
      log.push("goes on");
      await sleep(10);
      log.push("slept");
    });
    await clock.advance(10);
    foreign.resolve();
    await clock.advance(10);
    await greenlet.join();
    assertEquals(log, isClosed ? ["goes on", "slept"] : ["goes on"]);
    assertEquals(greenlet.exception instanceof Timeout, !isClosed);
  }
  assertEquals(failures.errors.length, 1);
});

Deno.test("Timeout.close() before the interrupt is known to be unheard takes it back", async () => {
  using clock = new TestClock();
  const foreign = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    const timeout = Timeout.start(10);
    full().put(1);
    await foreign.promise;
    timeout.close();
    await sleep(1);
    return "slept";
  });
  await settle();
  // In the same step as the timeout.
  const resolver = spawn(async () => {
    await sleep(10);
    foreign.resolve();
  });
  await settle();
  await clock.advance(20);
  assertEquals(await greenlet.get(), "slept");
  await resolver.join();
});

/** Promises that the body awaits after the foreign one. */
const AWAITED_LATER: Record<string, () => PromiseLike<unknown>> = {
  "a wait": () => sleep(FOREVER),
  "an async function": async () => {
    await sleep(FOREVER);
  },
  "a withTimeout()": () => withTimeout(FOREVER, () => sleep(FOREVER)),
};

/** Ways to await a promise. */
const WAYS: Record<string, (promise: PromiseLike<unknown>) => unknown> = {
  "await": (promise) => promise,
  "then()": (promise) => promise.then(() => {}),
  "Promise.all()": (promise) => Promise.all([promise, sleep(0)]),
  "until()": (promise) => until(promise),
};

for (const [name, call] of Object.entries(AWAITED_LATER)) {
  for (const [way, use] of Object.entries(WAYS)) {
    Deno.test(`Greenlet.kill() is thrown once by ${name} that ${way} awaits after a foreign promise`, async () => {
      await using _ = new Unhandled();
      const foreign = Promise.withResolvers<void>();
      const log: unknown[] = [];
      const greenlet = spawn(async () => {
        const promise = call();
        await foreign.promise;
        try {
          await use(promise);
        } finally {
          await sleep(0);
          await sleep(1);
          log.push("cleaned up");
        }
      });
      await settle();
      greenlet.kill(undefined, ONCE);
      await settle();
      foreign.resolve();
      await greenlet.join();
      assertEquals(log, ["cleaned up"]);
      assertInstanceOf(greenlet.value, GreenletExit);
    });
  }
}

Deno.test("Greenlet.kill() is thrown once into a body that awaits one of its waits and not the others", async () => {
  await using _ = new Unhandled();
  const log: unknown[] = [];
  const greenlet = spawn(async () => {
    full().put(1);
    (async () => {
      await sleep(FOREVER);
    })();
    try {
      await sleep(FOREVER);
    } finally {
      await sleep(0);
      await sleep(1);
      log.push("cleaned up");
    }
  });
  await settle();
  greenlet.kill(undefined, ONCE);
  await greenlet.join();
  assertEquals(log, ["cleaned up"]);
});

Deno.test("Greenlet.kill() ends a wait that the body has begun before the kill is known to be unheard", async () => {
  await using _ = new Unhandled();
  const foreign = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    full().put(1);
    await foreign.promise;
    await sleep(FOREVER);
  });
  await settle();
  greenlet.kill(undefined, ONCE);
  foreign.resolve();
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
});

Deno.test("Greenlet.kill() of the greenlet itself is thrown by its next wait, if neither it nor another wait is awaited", async () => {
  await using _ = new Unhandled();
  const greenlet = spawn(async () => {
    full().put(1);
    (getCurrent() as Greenlet).kill(undefined, { grace: Infinity });
    await Promise.resolve();
    await sleep(FOREVER);
  });
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
});

Deno.test("Greenlet.kill() of the greenlet itself is thrown once, beside a wait that a generator body does not await", async () => {
  await using _ = new Unhandled();
  for (const isAwaited of [true, false]) {
    const log: string[] = [];
    const greenlet = spawn(function* () {
      full().put(1);
      try {
        const kill = (getCurrent() as Greenlet).kill(undefined, {
          grace: Infinity,
        });
        if (isAwaited) yield* kill;
        else yield* sleep(FOREVER);
      } finally {
        yield* sleep(0);
        yield* sleep(1);
        log.push("cleaned up");
      }
    });
    await greenlet.join();
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(log, ["cleaned up"]);
  }
});

Deno.test("Greenlet.kill() of several greenlets by one error is thrown once into each", async () => {
  await using _ = new Unhandled();
  const foreign = Promise.withResolvers<void>();
  let cleaned = 0;
  const greenlets = Array.from({ length: 100 }, (_, i) =>
    spawn(async () => {
      if (i % 2 === 0) full().put(1);
      await foreign.promise;
      try {
        await sleep(FOREVER);
      } finally {
        await sleep(1);
        cleaned++;
      }
    }));
  await settle();
  const error = new GreenletExit();
  for (const greenlet of greenlets) greenlet.kill(error, ONCE);
  await settle();
  foreign.resolve();
  for (const greenlet of greenlets) await greenlet.join();
  assertEquals(cleaned, 100);
});

Deno.test("withTimeout() around a foreign promise ends at once by a kill, beside a wait that is not awaited", async () => {
  await using _ = new Unhandled();
  const greenlet = spawn(async () => {
    await withTimeout(FOREVER, async () => {
      full().put(1);
      await new Promise(() => {});
    });
  });
  await settle();
  greenlet.kill(undefined, ONCE);
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
});

Deno.test("Greenlet.kill() past its grace ends a body whose kill was unheard", async () => {
  using clock = new TestClock();
  const foreign = Promise.withResolvers<void>();
  const log: string[] = [];
  const greenlet = spawn(async () => {
    full().put(1);
    await foreign.promise;
    for (const time of ["once", "and for all"]) {
      try {
        await sleep(FOREVER);
      } catch {
        log.push(time);
      }
    }
    await sleep(FOREVER);
  });
  await settle();
  greenlet.kill(undefined, { block: false, grace: 100 });
  await settle();
  // The grace begins when the error is thrown.
  await clock.advance(1000);
  foreign.resolve();
  await settle();
  assertEquals(log, ["once"]);
  await clock.advance(100);
  await greenlet.join();
  assertEquals(log, ["once", "and for all"]);
});

Deno.test("A listener for unhandledrejection hears of no interrupted wait that is not awaited", async () => {
  const heard: unknown[] = [];
  const listener = (event: PromiseRejectionEvent) => {
    heard.push(event.reason);
    event.preventDefault();
  };
  addEventListener("unhandledrejection", listener);
  try {
    const foreign = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      for (const call of Object.values(NOT_AWAITED)) call();
      await foreign.promise;
      await sleep(FOREVER);
    });
    await settle();
    greenlet.kill(undefined, ONCE);
    await settle();
    foreign.resolve();
    await greenlet.join();
    await settle();
    assertEquals(heard, []);
  } finally {
    removeEventListener("unhandledrejection", listener);
  }
});

Deno.test("Greenlet.kill() leaves a promise that it has rejected as it was", async () => {
  await using _ = new Unhandled();
  let promise!: Promise<unknown>;
  const foreign = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    promise = full().put(1);
    await foreign.promise;
    await sleep(FOREVER);
  });
  await settle();
  greenlet.kill(undefined, ONCE);
  await settle();
  await assertRejects(() => promise, GreenletExit);
  assert(!Object.hasOwn(promise, "constructor"));
  assertStrictEquals(promise.constructor, Promise);
  foreign.resolve();
  await greenlet.kill();
});
