/**
 * The order of timers that are due together, and of links; and arguments that are converted
 * as in gevent, or refused where a mistake would pass in silence.
 *
 * @module
 */

import { clock } from "../_clock.ts";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import timers from "node:timers";
import * as core from "../../greenlet.ts";
import {
  AsyncResult,
  Condition,
  Event,
  getCurrent,
  getHub,
  Greenlet,
  GreenletExit,
  Group,
  idle,
  iwait,
  joinAll,
  kill,
  killAll,
  local,
  Lock,
  nursery,
  patch,
  Pool,
  PriorityQueue,
  Queue,
  run,
  Semaphore,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  Timeout,
  until,
  wait,
  Waiter,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

const FOREVER = 60_000;

// --- Timers

/** Comes to a time that is later by `ms`, as if the event loop had been busy till then. */
async function comeLate(ms: number): Promise<void> {
  const late = clock.now() + ms;
  clock.now = () => late;
  try {
    await new Promise<void>((resolve) =>
      setImmediate(() => {
        clock.advance();
        resolve();
      })
    );
    await settle();
  } finally {
    Reflect.deleteProperty(clock, "now");
  }
}

/** Waits that end at a deadline, each in both kinds of body. */
interface Sleeper {
  name: string;
  /** True if its error takes many steps to come out, which the hub can't see. */
  isDeep?: true;
  async(ms: number): PromiseLike<unknown>;
  generator(ms: number): Generator<unknown, unknown, unknown>;
}

/** One that nothing ends. */
class Never {
  readonly queue = new Queue();
  readonly full = new Queue(1);
  readonly event = new Event();
  readonly result = new AsyncResult();
  readonly lock = new Semaphore(0);
  readonly greenlet = new Greenlet(() => {});

  constructor() {
    this.full.putNowait(0);
  }
}

const never = new Never();

/** Each call that ends by a limit, and says so by an error or by its result. */
const SLEEPERS: Sleeper[] = [
  {
    name: "sleep()",
    async: (ms) => sleep(ms),
    *generator(ms) {
      yield* sleep(ms);
    },
  },
  {
    name: "sleep() of a function called by a function",
    isDeep: true,
    async: async (ms) => await (async () => await sleep(ms))(),
    *generator(ms) {
      yield* (function* () {
        yield* sleep(ms);
      })();
    },
  },
  {
    name: "Timeout",
    isDeep: true,
    async async(ms) {
      using _timeout = Timeout.start(ms);
      await sleep(FOREVER);
    },
    *generator(ms) {
      using _timeout = Timeout.start(ms);
      yield* sleep(FOREVER);
    },
  },
  {
    name: "withTimeout()",
    async: (ms) => withTimeout(ms, () => sleep(FOREVER), { value: 0 }),
    *generator(ms) {
      const value = 0;
      yield* withTimeout(ms, function* () {
        yield* sleep(FOREVER);
      }, { value });
    },
  },
  {
    name: "withTimeout() around a foreign promise",
    async: (ms) => withTimeout(ms, () => new Promise(() => {}), { value: 0 }),
    *generator(ms) {
      yield* withTimeout(ms, () => new Promise(() => {}), { value: 0 });
    },
  },
  limited("Queue.get()", (timeout) => never.queue.get({ timeout })),
  limited("Queue.put()", (timeout) => never.full.put(1, { timeout })),
  limited("Event.wait()", (timeout) => never.event.wait({ timeout })),
  limited("AsyncResult.get()", (timeout) => never.result.get({ timeout })),
  limited("Semaphore.acquire()", (timeout) => never.lock.acquire({ timeout })),
  limited("Greenlet.join()", (timeout) => never.greenlet.join({ timeout })),
  limited("Greenlet.get()", (timeout) => never.greenlet.get({ timeout })),
  limited("joinAll()", (timeout) => joinAll([never.greenlet], { timeout })),
  limited("wait()", (timeout) => wait([never.event], { timeout })),
  limited("iwait()", (timeout) => iwait([never.event], { timeout }).next()),
  limited("wait() for all", (timeout) => wait(null, { timeout })),
  limited("Hub.join()", (timeout) => getHub().join({ timeout })),
];

/** A wait with a limit of its own. */
function limited(
  name: string,
  call: (timeout: number) => ReturnType<typeof until>,
): Sleeper {
  return {
    name,
    async: call,
    *generator(ms) {
      yield* call(ms);
    },
  };
}

/** The time between two deadlines, in milliseconds. */
const STEP = 5;

for (const kind of ["async", "generator"] as const) {
  /** A greenlet that tells when it has slept. */
  const start = (
    sleeper: Sleeper,
    ms: number,
    tell: (ms: number) => void,
  ): Greenlet =>
    kind === "async"
      ? spawn(async () => {
        // Some tell the end by an error.
        try {
          await sleeper.async(ms);
        } catch (error) {
          assert(!(error instanceof GreenletExit));
        }
        tell(ms);
      })
      : spawn(function* () {
        try {
          yield* sleeper.generator(ms);
        } catch (error) {
          assert(!(error instanceof GreenletExit));
        }
        tell(ms);
      });

  const later = (ms: number, tell: (ms: number) => void): Greenlet =>
    kind === "async"
      // deno-lint-ignore require-await
      ? spawnLater(ms, async () => tell(ms))
      // deno-lint-ignore require-yield
      : spawnLater(ms, function* () {
        tell(ms);
      });

  Deno.test(`Timers that are due at the same time go off in the order of their deadlines, ${kind} body`, async () => {
    using _clock = clock.stop();
    const told: [number, string][] = [];
    const all: Greenlet[] = [];
    // Each has a spawnLater() just before and just after it, and the last is started first.
    const count = 2 * SLEEPERS.length + 1;
    for (let i = count; i > 0; i--) {
      const ms = i * STEP;
      const sleeper = i % 2 === 0 ? SLEEPERS[i / 2 - 1]! : null;
      const tell = () => told.push([ms, sleeper?.name ?? "spawnLater()"]);
      all.push(sleeper === null ? later(ms, tell) : start(sleeper, ms, tell));
    }
    await settle();
    assertEquals(told, []);
    await comeLate(FOREVER / 2);
    await killAll(all);
    assertEquals(told.length, count);
    assertEquals(told, told.toSorted(([a], [b]) => a - b));
  });

  for (const sleeper of SLEEPERS) {
    if (sleeper.isDeep) continue;
    Deno.test(`spawnLater() and ${sleeper.name} with one deadline go in the order of their starts, ${kind} body`, async () => {
      using _clock = clock.stop();
      const told: string[] = [];
      const all = [later(5, () => told.push("later"))];
      all.push(start(sleeper, 5, () => told.push("sleeper")));
      await settle();
      all.push(later(5, () => told.push("last")));
      await comeLate(10);
      await killAll(all);
      assertEquals(told, ["later", "sleeper", "last"]);
    });
  }
}

Deno.test("spawnLater() that is due in one turn with a longer sleep() goes first", async () => {
  using _clock = clock.stop();
  const told: string[] = [];
  const slow = spawn(async () => {
    await sleep(10);
    told.push("slept");
  });
  await settle();
  const quick = spawnLater(1, () => told.push("later"));
  await comeLate(50);
  assertEquals(told, ["later", "slept"]);
  await joinAll([slow, quick]);
});

Deno.test("spawnLater() whose greenlet is killed by another that is due at the same time never starts it", async () => {
  using _clock = clock.stop();
  const told: string[] = [];
  const killer = spawnLater(1, () => {
    told.push("killer");
    victim.kill(undefined, { block: false });
  });
  const victim: Greenlet = spawnLater(1, () => told.push("victim"));
  await comeLate(5);
  assertEquals(told, ["killer"]);
  assertInstanceOf(victim.value, GreenletExit);
  await killer.join();
});

Deno.test("Timeout.close() by a greenlet that is due before the Timeout prevents it", async () => {
  using _clock = clock.stop();
  const told: string[] = [];
  let timeout: Timeout;
  const sleeper = spawn(async () => {
    timeout = Timeout.start(2 * STEP);
    await sleep(3 * STEP);
    told.push("slept");
  });
  const closer = spawn(async () => {
    await sleep(STEP);
    timeout.close();
    told.push("closed");
  });
  await settle();
  await comeLate(50);
  assertEquals(told, ["closed", "slept"]);
  await joinAll([sleeper, closer]);
});

// --- Timers of the runtime's, under patch()

/** Between two deadlines, in milliseconds: all have to be started in less. */
const GAP = 15;

/**
 * Starts timers all at once, and lets none of them go off before all are due.
 *
 * @param start Starts greenlets, which log their steps in order.
 * @param ms When the last is due.
 * @returns The lines that they have logged.
 */
async function allAtOnce<T>(
  start: (told: T[]) => Greenlet[],
  ms: number,
): Promise<T[]> {
  for (;;) {
    const before = performance.now();
    const told: T[] = [];
    const all = start(told);
    await idle();
    // On a machine that has taken longer, the first may be over before the last has begun.
    const isQuick = performance.now() - before < GAP;
    if (isQuick) { while (performance.now() - before < ms + 4 * GAP); }
    else await killAll(all);
    await joinAll(all);
    await settle();
    if (isQuick) return told;
  }
}

testBoth("setTimeout() under patch() has its turn among the hub's timers", {
  async async(ms: number, told: [number, string][]) {
    await new Promise((resolve) => setTimeout(resolve, ms));
    told.push([ms, "setTimeout()"]);
  },
  *generator(ms: number, told: [number, string][]) {
    yield* until(new Promise((resolve) => setTimeout(resolve, ms)));
    told.push([ms, "setTimeout()"]);
  },
}, async (body) => {
  using _ = patch();
  type Told = [number, string][];
  const tellers: ((ms: number, told: Told) => Greenlet)[] = [
    (ms, told) => spawn(body, ms, told),
    (ms, told) =>
      spawn(async () => {
        await sleep(ms);
        told.push([ms, "sleep()"]);
      }),
    (ms, told) => spawnLater(ms, () => told.push([ms, "spawnLater()"])),
    (ms, told) =>
      spawn(async () => {
        const { promise, resolve } = Promise.withResolvers<void>();
        setTimeout(() => {
          told.push([ms, "callback"]);
          resolve();
        }, ms);
        await promise;
      }),
    (ms, told) =>
      spawn(async () => {
        await withTimeout(ms, () => sleep(FOREVER), { value: 0 });
        told.push([ms, "withTimeout()"]);
      }),
    (ms, told) =>
      spawn(async () => {
        await timers.promises.setTimeout(ms);
        told.push([ms, "node:timers/promises"]);
      }),
  ];
  const count = 2 * tellers.length;
  const told = await allAtOnce((told: Told) => {
    // In an order in which each comes before and after each other one.
    return Array.from({ length: count }, (_, i) => {
      const n = (i + Math.floor(i / tellers.length)) % tellers.length;
      return tellers[n]!((count - i) * GAP, told);
    });
  }, count * GAP);
  assertEquals(told.length, count);
  assertEquals(told, told.toSorted(([a], [b]) => a - b));
});

Deno.test("setTimeout() under patch() and sleep() of the same time go in the order of their starts", async () => {
  using _ = patch();
  const told = await allAtOnce((told: string[]) => {
    const set = (name: string) =>
      spawn(async () => {
        await new Promise((resolve) => setTimeout(resolve, 4 * GAP));
        told.push(name);
      });
    const nap = (name: string) =>
      spawn(async () => {
        await sleep(4 * GAP);
        told.push(name);
      });
    return [nap("1"), set("2"), nap("3"), set("4"), set("5"), nap("6")];
  }, 4 * GAP);
  assertEquals(told, ["1", "2", "3", "4", "5", "6"]);
});

Deno.test("clearTimeout() under patch() in a greenlet that is due before prevents the call", async () => {
  using _ = patch();
  const told = await allAtOnce((told: string[]) => {
    let id: ReturnType<typeof setTimeout> | undefined;
    const napping = spawn(async () => {
      await sleep(4 * GAP);
      clearTimeout(id);
      told.push("cleared");
    });
    const setting = spawn(() => {
      id = setTimeout(() => told.push("called"), 4 * GAP);
    });
    return [napping, setting];
  }, 4 * GAP);
  assertEquals(told, ["cleared"]);
});

Deno.test("setTimeout() under patch() whose greenlet is killed by another that is due before never ends", async () => {
  using _ = patch();
  const told = await allAtOnce((told: string[]) => {
    const napping = spawn(async () => {
      await sleep(4 * GAP);
      victim.kill(undefined, { block: false });
      told.push("killed");
    });
    const victim: Greenlet = spawn(async () => {
      await new Promise((resolve) => setTimeout(resolve, 4 * GAP));
      told.push("went on");
    });
    return [napping, victim];
  }, 4 * GAP);
  assertEquals(told, ["killed"]);
});

Deno.test("setTimeout() under patch() that had to wait for its turn reports its error to the runtime", async () => {
  using _ = patch();
  const request = new AsyncLocalStorage<string>();
  const onError = (event: ErrorEvent) => {
    event.preventDefault();
    event.error.cause.push(event.message);
  };
  globalThis.addEventListener("error", onError);
  try {
    const told = await allAtOnce((told: unknown[]) => {
      const napping = spawn(async () => {
        await sleep(4 * GAP);
        told.push("slept");
        // The callback's turn comes then.
        await sleep(GAP);
      });
      const setting = request.run("mine", () =>
        spawn(() => {
          setTimeout(() => {
            told.push(request.getStore());
            throw new Error("of its own", { cause: told });
          }, 4 * GAP);
        }));
      return [napping, setting];
    }, 4 * GAP);
    assertEquals(told, ["slept", "mine", "Uncaught Error: of its own"]);
  } finally {
    globalThis.removeEventListener("error", onError);
  }
});

Deno.test("setInterval() under patch() goes on in its turn, and ends when it is cleared", async () => {
  using _ = patch();
  const told: string[] = [];
  let id: ReturnType<typeof setTimeout> | undefined;
  const interval = spawn(() => {
    id = setInterval(() => told.push("interval"), GAP);
  });
  await interval.join();
  while (told.length < 3) await sleep(1);
  clearInterval(id);
  const { length } = told;
  await sleep(3 * GAP);
  assertEquals(told.length, length);
});

Deno.test("setTimeout() under patch() that is cleared leaves no timer behind", async () => {
  using _ = patch();
  const g = spawn(async () => {
    const id = setTimeout(() => {}, FOREVER);
    const other = setTimeout(() => {}, FOREVER);
    await sleep(1);
    clearTimeout(id);
    timers.clearTimeout(other as never);
  });
  await g.join();
  // The sanitizers see timers that the runtime keeps; the hub keeps none if its own is not
  // armed.
  assert(await getHub().join({ timeout: FOREVER }));
});

// --- Links

/** Each object that can be linked to, and the call that makes it ready. */
const LINKED = [
  {
    name: "Greenlet",
    make() {
      const greenlet = new Greenlet(() => {});
      return { source: greenlet, ready: () => greenlet.start() };
    },
  },
  {
    name: "Event",
    make() {
      const event = new Event();
      return { source: event, ready: () => event.set() };
    },
  },
  {
    name: "AsyncResult",
    make() {
      const result = new AsyncResult();
      return { source: result, ready: () => result.set(1) };
    },
  },
];

for (const { name, make } of LINKED) {
  for (const kind of ["async", "generator"] as const) {
    Deno.test(`${name} calls links and wakes waiters in the order in which they came, ${kind} body`, async () => {
      using _clock = clock.stop();
      const { source, ready } = make();
      const told: string[] = [];
      const all: Greenlet[] = [];
      const waiters: Record<string, () => ReturnType<typeof until>> = {
        wait: () =>
          source instanceof Greenlet
            ? source.join()
            : source instanceof Event
            ? source.wait()
            : source.get(),
        get: () => source instanceof Event ? source.wait() : source.get(),
        joinAll: () => joinAll([source]),
        "wait()": () => wait([source]),
        iwait: () => iwait([source]).next(),
      };
      const expected: string[] = [];
      for (const [how, call] of Object.entries(waiters)) {
        for (const link of ["rawlink", "link", "linkValue"] as const) {
          if (link !== "rawlink" && !(source instanceof Greenlet)) continue;
          const told1 = () => told.push(`${how} before ${link}`);
          all.push(
            kind === "async"
              ? spawn(async () => {
                await call();
                told1();
              })
              : spawn(function* () {
                yield* call();
                told1();
              }),
          );
          await settle();
          const told2 = () => told.push(`${link} after ${how}`);
          if (link === "rawlink") source.rawlink(told2);
          else if (kind === "async") {
            // deno-lint-ignore require-await
            (source as Greenlet)[link](async () => told2());
          } else {
            // deno-lint-ignore require-yield
            (source as Greenlet)[link](function* () {
              told2();
            });
          }
          expected.push(`${how} before ${link}`, `${link} after ${how}`);
        }
      }
      ready();
      await joinAll(all);
      await settle();
      assertEquals(told, expected);
    });
  }
}

testBoth(
  "Greenlet.join() goes on before a link of a greenlet that has ended later",
  {
    async async(source: Greenlet, told: string[]) {
      await source.join();
      told.push("joined");
    },
    *generator(source: Greenlet, told: string[]) {
      yield* source.join();
      told.push("joined");
    },
  },
  async (body) => {
    const told: string[] = [];
    const first = new Greenlet(() => {});
    const second = new Greenlet(() => {});
    const joining = spawn(body, first, told);
    await settle();
    second.rawlink(() => told.push("second has ended"));
    first.start();
    second.start();
    await joinAll([first, second, joining]);
    assertEquals(told, ["joined", "second has ended"]);
  },
);

Deno.test("Greenlet.link() that spawns has the links after it called first", async () => {
  const told: string[] = [];
  const source = new Greenlet(() => {});
  source.rawlink(() => void spawn(() => told.push("spawned")));
  source.rawlink(() => told.push("second link"));
  source.start();
  await settle();
  assertEquals(told, ["second link", "spawned"]);
});

testBoth(
  "Greenlet.unlink() by a greenlet that was woken before takes the link back",
  {
    async async(source: Greenlet, link: () => void) {
      await source.join();
      source.unlink(link);
    },
    *generator(source: Greenlet, link: () => void) {
      yield* source.join();
      source.unlink(link);
    },
  },
  async (body) => {
    let called = 0;
    const link = () => void called++;
    const source = new Greenlet(() => {});
    const unlinking = spawn(body, source, link);
    await settle();
    source.rawlink(link);
    source.rawlink(() => called += 10);
    source.start();
    await unlinking.join();
    await settle();
    assertEquals(called, 10);
  },
);

testBoth(
  "sleep(0) in a greenlet that a link has woken lets the links after it go first",
  {
    async async(source: Greenlet, told: string[]) {
      await source.join();
      await sleep(0);
      told.push("slept");
    },
    *generator(source: Greenlet, told: string[]) {
      yield* source.join();
      yield* sleep(0);
      told.push("slept");
    },
  },
  async (body) => {
    const told: string[] = [];
    const source = new Greenlet(() => {});
    const g = spawn(body, source, told);
    await settle();
    source.rawlink(() => told.push("link"));
    source.start();
    await g.join();
    assertEquals(told, ["link", "slept"]);
  },
);

testBoth(
  "sleep(0) of several joiners of one greenlet takes turns with the greenlets that they spawn",
  {
    async async(source: Greenlet, told: string[], name: string) {
      await source.join();
      told.push(`${name} joined`);
      spawn(() => told.push(`spawned by ${name}`));
      await sleep(0);
      told.push(`${name} slept`);
    },
    *generator(source: Greenlet, told: string[], name: string) {
      yield* source.join();
      told.push(`${name} joined`);
      spawn(() => told.push(`spawned by ${name}`));
      yield* sleep(0);
      told.push(`${name} slept`);
    },
  },
  async (body) => {
    const told: string[] = [];
    const source = new Greenlet(() => {});
    const all = ["a", "b"].map((name) => spawn(body, source, told, name));
    await settle();
    source.start();
    await joinAll(all);
    await settle();
    assertEquals(told, [
      "a joined",
      "b joined",
      "spawned by a",
      "a slept",
      "spawned by b",
      "b slept",
    ]);
  },
);

// --- An error given by its class

/** An error of one's own. */
class Broken extends Error {}

/** Where an error can be given, and how it comes out. */
const THROWERS: Record<string, (error: unknown) => PromiseLike<unknown>> = {
  "Greenlet.throw()": (error) => thrownIn((g) => g.throw(error)),
  "Greenlet.kill()": (error) => thrownIn((g) => g.kill(error)),
  "Greenlet.kill() of the current greenlet": (error) =>
    thrownIn((g) => g.kill(), async () => {
      await (getCurrent() as Greenlet).kill(error);
    }),
  "Greenlet.kill() of the current greenlet, generator": (error) =>
    thrownIn((g) => g.kill(), function* () {
      yield* (getCurrent() as Greenlet).kill(error);
    }),
  "Greenlet.throw() into the current greenlet": (error) =>
    // deno-lint-ignore require-yield
    thrownIn((g) => g.kill(), function* (): Generator {
      (getCurrent() as Greenlet).throw(error);
    }),
  "Greenlet.throw() before the start": async (error) => {
    using _failures = new Failures();
    const g = new Greenlet(() => {});
    g.throw(error);
    return await g.get().catch((thrown) => thrown);
  },
  "kill()": (error) => thrownIn((g) => kill(g, error)),
  "killAll()": (error) => thrownIn((g) => killAll([g], { error })),
  "Group.kill()": (error) =>
    thrownIn((g) => {
      const group = new Group();
      group.add(g);
      return group.kill({ error });
    }),
  "Group.killOne()": (error) =>
    thrownIn((g) => {
      const group = new Group();
      group.add(g);
      return group.killOne(g, error);
    }),
  "Timeout": async (error) => {
    try {
      using _timeout = Timeout.start(1, { error });
      await sleep(FOREVER);
    } catch (thrown) {
      return thrown;
    }
  },
  "Timeout in a generator body": (error) =>
    spawn(function* () {
      try {
        using _timeout = Timeout.start(1, { error });
        yield* sleep(FOREVER);
      } catch (thrown) {
        return thrown;
      }
    }).get(),
  "Waiter.throw()": async (error) => {
    const waiter = new Waiter<void>();
    waiter.throw(error);
    return await waiter.get().catch((thrown) => thrown);
  },
  "AsyncResult.setException()": async (error) => {
    const result = new AsyncResult();
    result.setException(error);
    const thrown = await result.get().catch((thrown) => thrown);
    assertStrictEquals(result.exception, thrown);
    return thrown;
  },
  "core Greenlet.throw()": (error) => {
    const main = core.getCurrent();
    const g = new core.Greenlet(function* () {
      try {
        yield* main.switch();
      } catch (thrown) {
        return thrown;
      }
    });
    g.switch();
    return Promise.resolve(g.throw(error).value);
  },
  "core Greenlet.throw() in a generator body": (error) => {
    const main = core.getCurrent();
    const g = new core.Greenlet(function* () {
      try {
        yield* main.switch();
      } catch (thrown) {
        return thrown;
      }
    });
    g.switch();
    const thrower = new core.Greenlet(function* () {
      return yield* g.throw(error);
    });
    g.parent = thrower;
    return Promise.resolve(thrower.switch().value);
  },
  "core Greenlet.throw() before the start": (error) => {
    const g = new core.Greenlet(() => {});
    try {
      g.throw(error);
    } catch (thrown) {
      return Promise.resolve(thrown);
    }
    return Promise.resolve();
  },
  "kill() of a core greenlet": async (error) => {
    let thrown: unknown;
    const g = spawnRaw(async () => {
      await sleep(FOREVER).catch((error) => thrown = error);
    });
    await settle();
    await kill(g, error);
    await settle();
    return thrown;
  },
};

/** Gives the error that `act` throws in a body. */
async function thrownIn(
  act: (g: Greenlet) => unknown,
  body: () => unknown = () => sleep(FOREVER),
): Promise<unknown> {
  using _failures = new Failures();
  const g: Greenlet = spawn(body);
  await settle();
  if (!g.dead) await act(g);
  return await g.get().catch((thrown) => thrown);
}

for (const [name, thrownBy] of Object.entries(THROWERS)) {
  Deno.test(`${name} given a class of error throws a new error of it`, async () => {
    for (const error of [Broken, Error, TypeError, DOMException]) {
      const thrown = await thrownBy(error);
      assertInstanceOf(thrown, error);
      assertNotStrictEquals(thrown, await thrownBy(error));
    }
  });

  Deno.test(`${name} given an error throws that error`, async () => {
    const error = new Broken();
    assertStrictEquals(await thrownBy(error), error);
  });
}

Deno.test("Greenlet.kill() given the class GreenletExit is a success", async () => {
  const g = spawn(sleep, FOREVER);
  await settle();
  await g.kill(GreenletExit);
  assert(g.successful());
  assertInstanceOf(g.value, GreenletExit);
});

Deno.test("Timeout given a class of error makes a new error each time that it ends", async () => {
  let made = 0;
  class Counted extends Error {
    constructor() {
      super(`number ${++made}`);
    }
  }
  const timeout = new Timeout(1, { error: Counted });
  timeout.start();
  timeout.close();
  assertEquals(made, 0);
  for (const message of ["number 1", "number 2"]) {
    timeout.start();
    await assertRejects(() => sleep(FOREVER), Counted, message);
  }
});

Deno.test("Timeout.close() takes back an error that was made of a class and is held", async () => {
  let closed = false;
  const g = spawn(async () => {
    const timeout = Timeout.start(1, { error: Broken });
    // A foreign promise: the error is held until the next wait.
    await new Promise((resolve) => setTimeout(resolve, 5));
    timeout.close();
    closed = true;
    await sleep(0);
  });
  await g.get();
  assert(closed);
});

// --- spawnTreeLocals

testBoth(
  "Greenlet.spawnTreeLocals can be set, for greenlets that are spawned from then on",
  {
    async async(seen: unknown[]) {
      const me = getCurrent() as Greenlet;
      const before = me.spawnTreeLocals;
      const older = new Greenlet(() => {});
      const mine = { name: "mine" };
      me.spawnTreeLocals = mine;
      seen.push(me.spawnTreeLocals === mine, older.spawnTreeLocals === before);
      const child = spawn(() => spawn(() => {}));
      const raw = spawnRaw(() => {}) as Greenlet;
      const limited = await withTimeout(
        FOREVER,
        // deno-lint-ignore require-await
        async () => new Greenlet(() => {}),
      );
      const grandchild = await child.get();
      for (const g of [child, grandchild, raw, limited]) {
        seen.push(g.spawnTreeLocals === mine);
      }
    },
    *generator(seen: unknown[]) {
      const me = getCurrent() as Greenlet;
      const before = me.spawnTreeLocals;
      const older = new Greenlet(() => {});
      const mine = { name: "mine" };
      me.spawnTreeLocals = mine;
      seen.push(me.spawnTreeLocals === mine, older.spawnTreeLocals === before);
      const child = spawn(() => spawn(() => {}));
      const raw = spawnRaw(() => {}) as Greenlet;
      const limited = yield* withTimeout(
        FOREVER,
        function* () {
          return new Greenlet(() => {});
        },
      );
      const grandchild = yield* child.get();
      for (const g of [child, grandchild, raw, limited]) {
        seen.push(g.spawnTreeLocals === mine);
      }
    },
  },
  async (body) => {
    const seen: unknown[] = [];
    await spawn(body, seen).get();
    assertEquals(seen, [true, true, true, true, true, true]);
  },
);

testBoth(
  "Greenlet.spawnTreeLocals set within withTimeout() and nursery() are the greenlet's",
  {
    async async() {
      const me = getCurrent() as Greenlet;
      const mine = {};
      return await withTimeout(FOREVER, async () => {
        me.spawnTreeLocals = mine;
        return await nursery(async (nursery) => {
          const child = nursery.spawn(() => {});
          await child.join();
          return child.spawnTreeLocals === mine;
        });
      });
    },
    *generator() {
      const me = getCurrent() as Greenlet;
      const mine = {};
      return yield* withTimeout(FOREVER, function* () {
        me.spawnTreeLocals = mine;
        return yield* nursery(function* (nursery) {
          const child = nursery.spawn(() => {});
          yield* child.join();
          return child.spawnTreeLocals === mine;
        });
      });
    },
  },
  async (body) => {
    assertEquals(await spawn(body).get(), true);
  },
);

Deno.test("Greenlet.spawnTreeLocals can be set by other greenlets, before the start and after the end", async () => {
  const mine = { name: "mine" };
  const g = new Greenlet(() => new Greenlet(() => {}));
  g.spawnTreeLocals = mine;
  g.start();
  const child = await g.get();
  assertStrictEquals(child.spawnTreeLocals, mine);
  const other = {};
  g.spawnTreeLocals = other;
  assertStrictEquals(g.spawnTreeLocals, other);
  assertStrictEquals(child.spawnTreeLocals, mine);
  const raw = spawnRaw(() => {}) as Greenlet;
  raw.spawnTreeLocals = other;
  assertStrictEquals(raw.spawnTreeLocals, other);
  await settle();
});

Deno.test("Greenlet.spawnTreeLocals refuses anything but an object", () => {
  const g = new Greenlet(() => {});
  for (const locals of [undefined, null, 5, "x"]) {
    assertThrows(
      () => g.spawnTreeLocals = locals as never,
      TypeError,
      `Cannot set spawn tree locals as they must be an object: received`,
    );
  }
});

// --- run

class Subclass extends core.Greenlet {
  override run(): unknown {
    return "method";
  }
}

class WithField extends core.Greenlet {
  override run = () => "field";
}

class OwnGreenlet extends Greenlet {
  override run(): unknown {
    return "method";
  }
}

/** Greenlets of each kind that have started or never will. */
const STARTED: Record<string, () => core.Greenlet | Promise<core.Greenlet>> = {
  "a greenlet that has ended"() {
    const g = new core.Greenlet(() => {});
    g.switch();
    return g;
  },
  "a greenlet that is suspended"() {
    const main = core.getCurrent();
    const g = new core.Greenlet(function* () {
      yield* main.switch();
    });
    g.switch();
    return g;
  },
  "a greenlet that was killed before its start"() {
    const g = new core.Greenlet(() => {});
    g.throw();
    return g;
  },
  "main": () => core.getCurrent(),
  "a greenlet of a class with a method"() {
    const g = new Subclass();
    assertEquals(g.switch().value, "method");
    return g;
  },
  "a greenlet of a class with a field"() {
    const g = new WithField();
    assertEquals(g.switch().value, "field");
    return g;
  },
  async "a Greenlet that has ended"() {
    const g = spawn(() => {});
    await g.join();
    return g;
  },
  async "a Greenlet that runs"() {
    const g = spawn(() => sleep(1));
    await settle();
    return g;
  },
  "a Greenlet that was killed before its start"() {
    const g = new Greenlet(() => {});
    g.kill(undefined, { block: false });
    return g;
  },
  async "a Greenlet with a method"() {
    const g = OwnGreenlet.spawn();
    assertEquals(await g.get(), "method");
    return g;
  },
  async "a raw greenlet"() {
    const g = spawnRaw(() => {});
    await settle();
    return g;
  },
};

for (const [name, make] of Object.entries(STARTED)) {
  Deno.test(`Greenlet.run can't be set in ${name}`, async () => {
    const g = await make();
    assertStrictEquals(g.run, undefined);
    for (const run of [() => "late", undefined]) {
      const error = assertThrows(() => g.run = run as never, TypeError);
      assertStringIncludes(error.message, `Cannot set 'run' of ${g}`);
    }
    assertStrictEquals(g.run, undefined);
    if (g instanceof Greenlet) await g.kill();
  });
}

Deno.test("Greenlet.run can be set until the start, in each kind of greenlet", async () => {
  for (const g of [new core.Greenlet(() => {}), new Subclass()]) {
    g.run = () => "set";
    assertEquals(g.switch().value, "set");
  }
  for (const g of [new Greenlet(() => {}), new OwnGreenlet()]) {
    g.start();
    g.run = () => "set";
    assertEquals(await g.get(), "set");
  }
});

Deno.test("Greenlet.run refuses anything but a function", () => {
  const g = new core.Greenlet(() => "kept");
  for (const run of [null, 42, "run", {}]) {
    assertThrows(
      () => g.run = run as never,
      TypeError,
      "Cannot set 'run' as 'run' must be a function: received",
    );
  }
  assertEquals(g.switch().value, "kept");
});

Deno.test("Greenlet.run is gone while the body runs, of a generator that was switched to", () => {
  const seen: unknown[] = [];
  // deno-lint-ignore require-yield
  const g: Greenlet = new Greenlet(function* () {
    seen.push(g.run);
    assertThrows(() => g.run = () => {}, TypeError);
  });
  g.switch();
  assertEquals(seen, [undefined]);
});

// --- Bodies of which no line would run

async function* ticks(): AsyncGenerator<number> {
  yield 1;
}
const bound = ticks.bind(null);
const method = {
  async *ticks(): AsyncGenerator<number> {
    yield 1;
  },
}.ticks;

class AsyncGeneratorMethod extends core.Greenlet {
  override async *run(): AsyncGenerator<number> {
    yield 1;
  }
}

class OwnAsyncGeneratorMethod extends Greenlet {
  override async *run(): AsyncGenerator<number> {
    yield 1;
  }
}

/** Everything that takes a function to run as a body. */
const RUNNERS: Record<string, (body: () => unknown) => unknown> = {
  "spawn()": (body) => spawn(body),
  "spawnLater()": (body) => spawnLater(1, body),
  "spawnRaw()": (body) => spawnRaw(body),
  "new Greenlet()": (body) => new Greenlet(body),
  "Greenlet.spawn()": (body) => Greenlet.spawn(body),
  "Greenlet.spawnLater()": (body) => Greenlet.spawnLater(1, body),
  "new core.Greenlet()": (body) => new core.Greenlet(body),
  "Greenlet.run": (body) => new Greenlet().run = body,
  "core Greenlet.run": (body) => new core.Greenlet().run = body,
  "withTimeout()": (body) => withTimeout(1, body),
  "run()": (body) => run(body),
  "nursery()": (body) => nursery(body),
  "Greenlet.link()": (body) => new Greenlet(() => {}).link(body),
  "Greenlet.linkValue()": (body) => new Greenlet(() => {}).linkValue(body),
  "Greenlet.linkException()": (body) =>
    new Greenlet(() => {}).linkException(body),
  "Group.spawn()": (body) => new Group().spawn(body),
  "Group.apply()": (body) => new Group().apply(body),
  "Group.applyAsync()": (body) => new Group().applyAsync(body),
  "Group.map()": (body) => new Group().map(body, [1]),
  "Group.mapAsync()": (body) => new Group().mapAsync(body, [1]),
  "Group.imap()": (body) => new Group().imap(body, [1]),
  "Group.imapUnordered()": (body) => new Group().imapUnordered(body, [1]),
  "Pool.spawn()": (body) => new Pool(1).spawn(body),
  "Pool.apply()": (body) => new Pool(1).apply(body),
  "Pool.applyAsync()": (body) => new Pool(1).applyAsync(body),
  "Pool.applyAsync() with a callback": (body) =>
    new Pool(1).applyAsync(() => 1, [], body),
  "Pool.map()": (body) => new Pool(1).map(body, [1]),
  "Pool.mapAsync()": (body) => new Pool(1).mapAsync(body, [1]),
  "Pool.imap()": (body) => new Pool(1).imap(body, [1]),
  "Pool.imapUnordered()": (body) => new Pool(1).imapUnordered(body, [1]),
};

/** Everything that takes a function to call for its effect, which can't wait. */
const CALLERS: Record<string, (callback: () => unknown) => unknown> = {
  "Greenlet.rawlink()": (callback) => new Greenlet(() => {}).rawlink(callback),
  "Greenlet.rawlink() after another": (callback) => {
    const g = new Greenlet(() => {});
    g.rawlink(() => {});
    g.rawlink(callback);
  },
  "Event.rawlink()": (callback) => new Event().rawlink(callback),
  "AsyncResult.rawlink()": (callback) => new AsyncResult().rawlink(callback),
  "Lock.rawlink()": (callback) => new Lock().rawlink(callback),
  "Greenlet.addSpawnCallback()": (callback) =>
    Greenlet.addSpawnCallback(callback),
  "new Waiter()": (callback) => new Waiter(callback),
  "until()": (callback) => until(1, callback),
  "Condition.waitFor()": (callback) => new Condition().waitFor(callback),
  "new PriorityQueue()": (callback) => new PriorityQueue(callback as never),
};

for (const [name, call] of Object.entries({ ...RUNNERS, ...CALLERS })) {
  Deno.test(`${name} refuses an async generator function`, async () => {
    for (const body of [ticks, bound, method]) {
      const error = await assertRefused(call, body);
      assertStringIncludes(error.message, "async generator function");
      assertStringIncludes(error.message, body.name);
    }
  });
}

for (const [name, call] of Object.entries(CALLERS)) {
  Deno.test(`${name} refuses a generator function, whose body would never run`, async () => {
    const error = await assertRefused(call, function* counting() {});
    assertStringIncludes(error.message, "generator function");
    assertStringIncludes(error.message, "counting");
  });
}

/** It is refused at the call, or where the call gives a promise, by that. */
async function assertRefused<F>(
  call: (body: F) => unknown,
  body: F,
): Promise<TypeError> {
  try {
    await call(body);
  } catch (error) {
    assertInstanceOf(error, TypeError);
    return error;
  }
  throw new Error("It was taken");
}

Deno.test("Pool.spawn() that refuses an async generator function leaves its place free", async () => {
  const pool = new Pool(1);
  await assertRefused((body) => pool.spawn(body), ticks);
  assertEquals(pool.freeCount(), 1);
  assertEquals(await (await pool.spawn(() => 42)).get(), 42);
});

Deno.test("Greenlet.switch() refuses a method run that is an async generator", () => {
  const g = new AsyncGeneratorMethod();
  assertThrows(() => g.switch(), TypeError, "async generator function");
  const own = new OwnAsyncGeneratorMethod();
  assertThrows(() => own.switch(), TypeError, "async generator function");
  const asking = new core.Greenlet(function* () {
    try {
      yield* g.switch();
    } catch (error) {
      return error;
    }
  });
  assertInstanceOf(asking.switch().value, TypeError);
});

Deno.test("Greenlet.start() refuses a method run that is an async generator", () => {
  const g = new OwnAsyncGeneratorMethod();
  for (
    const start of [
      () => g.start(),
      () => g.startLater(1),
      () => OwnAsyncGeneratorMethod.spawn(),
      () => OwnAsyncGeneratorMethod.spawnLater(1),
    ]
  ) {
    assertThrows(start, TypeError, "async generator function");
  }
  assert(!g.started);
});

Deno.test("local() takes a function of any kind, as it is called for its value", () => {
  const mine = local(ticks);
  assertEquals(typeof mine.next, "function");
});
