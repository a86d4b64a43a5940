import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLess,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import { promisify } from "node:util";
import {
  getCurrent,
  getHub,
  Greenlet,
  GreenletError,
  GreenletExit,
  joinAll,
  kill,
  killAll,
  monkey,
  patch,
  sleep,
  spawn,
  spawnLater,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { argsOf, Failures, runScript, settle, testBoth } from "../_bodies.ts";
import { testRandomly } from "../_random.ts";
import { Gate, when } from "../_waits.ts";
import { Uncaught } from "../_uncaught.ts";

type Timer = ReturnType<typeof setTimeout>;

/** Longer than any test: what is still set when a test ends, the sanitizers see. */
const LONG = 100_000_000;

/** Foreign code. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** As the runtime's own, whatever is patched. */
function tick(ms = 0): Promise<void> {
  const setTimeout = monkey.getOriginal(globalThis, "setTimeout");
  return new Promise((resolve) => setTimeout(resolve, ms));
}

Deno.test("setTimeout() runs its callback as a greenlet of its own, with the setter's context", async () => {
  using _ = patch();
  const request = new AsyncLocalStorage<string>();
  const seen: unknown[] = [];
  const setter = request.run("request 1", () =>
    spawn(async () => {
      const locals = (getCurrent() as Greenlet).spawnTreeLocals;
      locals.tree = "tree 1";
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(async function callback() {
        const current = getCurrent() as Greenlet;
        seen.push(current instanceof Greenlet, current === setter);
        seen.push(current.spawningGreenlet === setter);
        seen.push(current.spawnTreeLocals.tree, request.getStore());
        seen.push(String(current).includes("callback"));
        await sleep(1);
        await pause(1);
        await tick();
        seen.push(getCurrent() === current, request.getStore());
        resolve();
      }, 1);
      await until(promise);
    }));
  await setter.get();
  assertEquals(seen, [
    ...[true, false, true, "tree 1", "request 1", true],
    ...[true, "request 1"],
  ]);
});

Deno.test("setTimeout() passes the arguments and the runtime's own `this`", async () => {
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<unknown[]>();
  const result = await spawn(async () => {
    const timer = setTimeout(
      function (this: unknown, ...args: unknown[]) {
        resolve([this === timer as unknown, ...args]);
      },
      1,
      "one",
      2,
    );
    return await promise;
  }).get();
  assertEquals(result, [true, "one", 2]);
});

Deno.test("setTimeout() never runs the callback before it returns", async () => {
  using _ = patch();
  const order: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  await spawn(async () => {
    setTimeout(() => {
      order.push("callback");
      resolve();
    }, 0);
    order.push("set");
    await until(promise);
  }).get();
  assertEquals(order, ["set", "callback"]);
});

Deno.test("setTimeout() takes every kind of function that does not settle a promise", async () => {
  using _ = patch();
  const calls: unknown[][] = [];
  class Target {
    method(...args: unknown[]) {
      calls.push(["method", ...args]);
    }
  }
  const target = new Target();
  const setters: [(...args: never[]) => unknown, unknown[]][] = [
    [(one: unknown) => void calls.push(["arrow", one]), ["a"]],
    [
      function (one: unknown) {
        calls.push(["anonymous", one]);
      } as () => void,
      ["b"],
    ],
    [target.method, ["c"]],
    [target.method.bind(target), ["d"]],
    [calls.push.bind(calls), [["bound"]]],
    // deno-lint-ignore require-await
    [async (one: unknown) => void calls.push(["async", one]), ["e"]],
    [
      // deno-lint-ignore require-yield
      function* () {
        calls.push(["never run"]);
      },
      [],
    ],
  ];
  const greenlet: Greenlet = spawn(async () => {
    for (const [callback, args] of setters) {
      setTimeout(callback as (...args: unknown[]) => void, 1, ...args);
    }
    // None of them is a wait of the greenlet's, to be undone with a kill.
    greenlet.kill(undefined, { block: false });
    await sleep(LONG);
  });
  await greenlet.join();
  await when(() => calls.length >= setters.length - 1);
  assertEquals(calls, [
    ["arrow", "a"],
    ["anonymous", "b"],
    ["method", "c"],
    ["method", "d"],
    ["bound"],
    ["async", "e"],
  ]);
});

Deno.test("setTimeout() callbacks can be killed and timed out like any greenlet", async () => {
  using _ = patch();
  const log: string[] = [];
  let callback: Greenlet | undefined;
  spawn(() => {
    setTimeout(async () => {
      callback = getCurrent() as Greenlet;
      const value = await withTimeout(1, () => pause(LONG), { value: "late" });
      log.push(String(value));
      try {
        await pause(LONG);
      } finally {
        log.push("cleaned up");
      }
    }, 1);
  });
  await when(() => log.length > 0);
  await callback!.kill();
  assertEquals(log, ["late", "cleaned up"]);
  assertInstanceOf(callback!.value, GreenletExit);
});

Deno.test("setTimeout() is not cleared when its setter is killed, and its callback may wait", async () => {
  using _ = patch();
  const log: string[] = [];
  let intervals = 0;
  let interval: Timer | undefined;
  const setter: Greenlet = spawn(async () => {
    setTimeout(async () => {
      log.push("callback");
      await pause(1);
      await sleep(1);
      log.push("waited");
    }, 1);
    interval = setInterval(async () => {
      await pause(1);
      intervals++;
    }, 1);
    // Without any grace, so that the setter is escalated as well.
    setter.kill(undefined, { grace: 0, block: false });
    await sleep(LONG);
  });
  await setter.join();
  assertInstanceOf(setter.value, GreenletExit);
  await when(() => log.length >= 2 && intervals >= 3);
  clearInterval(interval);
  assertEquals(log, ["callback", "waited"]);
  await getHub().join();
});

Deno.test("setTimeout() sets a timer in a greenlet that has been escalated", async () => {
  using _ = patch();
  let fired = false;
  const setter = spawn(async () => {
    try {
      await sleep(LONG);
    } finally {
      setTimeout(() => fired = true, 1);
    }
  });
  await sleep(0);
  await setter.kill(undefined, { grace: 0 });
  await when(() => fired);
});

Deno.test("setInterval() runs a greenlet each time, until clearInterval()", async () => {
  using _ = patch();
  const greenlets = new Set<unknown>();
  const args = new Set<unknown>();
  const { promise, resolve } = Promise.withResolvers<void>();
  await spawn(async () => {
    const id = setInterval(
      (arg: unknown) => {
        greenlets.add(getCurrent());
        args.add(arg);
        if (greenlets.size < 4) return;
        clearInterval(id);
        resolve();
      },
      1,
      "arg",
    );
    await until(promise);
  }).get();
  // It does not come again, for which it would have had time.
  await tick(3);
  assertEquals(greenlets.size, 4);
  assertEquals([...args], ["arg"]);
  for (const greenlet of greenlets) assertInstanceOf(greenlet, Greenlet);
});

Deno.test("setInterval() goes on after a callback has failed", async () => {
  using _ = patch();
  using told = new Uncaught();
  let id: Timer | undefined;
  spawn(() => {
    id = setInterval(() => {
      throw new Error("again");
    }, 1);
  });
  await told.until(3);
  clearInterval(id);
});

Deno.test("setInterval() with a promise's resolve settles it and goes on until cleared", async () => {
  using _ = patch();
  const value = await spawn(async () => {
    let id: Timer | undefined;
    const value = await new Promise((resolve) => {
      id = setInterval(resolve, 1, "first");
    });
    await sleep(5);
    clearInterval(id);
    return value;
  }).get();
  assertEquals(value, "first");
});

Deno.test("clearTimeout() clears timers that were set inside and outside, from inside and outside", async () => {
  let fired = 0;
  const fire = () => void fired++;
  // The sanitizers see a timer that is not cleared.
  const before = setTimeout(fire, LONG);
  using _ = patch();
  const outside = setTimeout(fire, LONG);
  const other = setTimeout(fire, LONG);
  const inside: Timer[] = [];
  await spawn(() => {
    for (const set of [setTimeout, setTimeout, setInterval]) {
      inside.push(set(fire, LONG));
    }
    clearTimeout(before);
    clearTimeout(outside);
    clearInterval(inside[0]);
  }).get();
  clearTimeout(other);
  clearTimeout(inside[1]);
  clearTimeout(inside[2]);
  // Nothing happens to what is not there any more, nor for no timer at all.
  clearTimeout(inside[1]);
  clearTimeout(undefined);
  clearTimeout(null as never);
  clearTimeout(987654321);
  await settle();
  assertEquals(fired, 0);
});

Deno.test("clearTimeout() takes the number of a timer, as a string too", async () => {
  using _ = patch();
  // The sanitizers see a timer that is not cleared.
  await spawn(() => {
    clearTimeout(Number(setTimeout(() => {}, LONG)));
    clearTimeout(String(Number(setTimeout(() => {}, LONG))) as never);
  }).get();
});

Deno.test("clearTimeout() fails for anything but a timer as it does unpatched", async () => {
  const { clearTimeout: original } = globalThis;
  const odd = [Symbol("s"), 1n] as never[];
  const messages = odd.map((id) =>
    assertThrows(() => original(id), TypeError).message
  );
  using _ = patch();
  await spawn(async () => {
    const wait = spawn(pause, LONG);
    await sleep(0);
    for (const [i, id] of odd.entries()) {
      assertThrows(() => clearTimeout(id), TypeError, messages[i]);
    }
    await wait.kill();
  }).get();
});

Deno.test("clearTimeout() is in time as long as the callback has not begun", async () => {
  using _ = patch();
  let stop = false;
  // So much is going on that a spawned greenlet has to wait for its turn.
  const busy = [1, 2].map(() =>
    spawn(async () => {
      while (!stop) await sleep(0);
    })
  );
  try {
    for (let i = 0; i < 8; i++) {
      const log: string[] = [];
      await spawn(async () => {
        const ids: Timer[] = [];
        for (const name of ["one", "two", "three"]) {
          ids.push(
            setTimeout(() => {
              for (const id of ids) clearTimeout(id);
              log.push(name);
            }, 1),
          );
        }
        // They are due together.
        const end = performance.now() + 2;
        while (performance.now() < end);
        while (log.length === 0) await sleep(0);
        await sleep(1);
      }).get();
      assertEquals(log, ["one"]);
    }
  } finally {
    stop = true;
    await joinAll(busy);
  }
});

Deno.test("clearTimeout() leaves a promise pending, and the greenlet can still be killed", async () => {
  using _ = patch();
  let id: Timer | undefined;
  let cleaned = false;
  const greenlet = spawn(async () => {
    try {
      await until(
        new Promise((resolve) => {
          id = setTimeout(resolve, LONG);
        }),
      );
    } finally {
      cleaned = true;
    }
  });
  await sleep(0);
  clearTimeout(id);
  await settle();
  assertFalse(cleaned);
  await greenlet.kill();
  assert(cleaned);
});

const pausing = {
  async: async (log: string[], ms: number) => {
    try {
      await pause(ms);
      log.push("paused");
    } finally {
      log.push("cleaned up");
    }
  },
  *generator(log: string[], ms: number) {
    try {
      yield* until(pause(ms));
      log.push("paused");
    } finally {
      log.push("cleaned up");
    }
  },
};

testBoth(
  "setTimeout() in the promise idiom waits",
  pausing,
  async (body) => {
    using _ = patch();
    const log: string[] = [];
    const start = performance.now();
    await spawn(body, log, 5).get();
    assertGreaterOrEqual(performance.now() - start, 4);
    assertEquals(log, ["paused", "cleaned up"]);
  },
);

testBoth(
  "setTimeout() in the promise idiom is killed at once",
  pausing,
  async (body) => {
    using _ = patch();
    const log: string[] = [];
    const greenlet = spawn(body, log, LONG);
    await sleep(0);
    // If it were not at once, it would never be.
    await greenlet.kill(undefined, { grace: LONG });
    assertEquals(log, ["cleaned up"]);
    assertInstanceOf(greenlet.value, GreenletExit);
    assert(greenlet.successful());
  },
);

testBoth(
  "setTimeout() in the promise idiom is killed with the caller's own error",
  pausing,
  async (body) => {
    using _ = patch();
    using failures = new Failures();
    const log: string[] = [];
    const greenlet = spawn(body, log, LONG);
    await sleep(0);
    const error = new Error("own");
    await greenlet.kill(error);
    assertStrictEquals(greenlet.exception, error);
    assertEquals(failures.errors, [error]);
    assertEquals(log, ["cleaned up"]);
  },
);

testBoth(
  "setTimeout() in the promise idiom throws the Timeout itself",
  {
    async: async () => {
      using timeout = Timeout.start(1);
      try {
        await pause(LONG);
      } catch (error) {
        return error === timeout;
      }
    },
    *generator() {
      using timeout = Timeout.start(1);
      try {
        yield* until(pause(LONG));
      } catch (error) {
        return error === timeout;
      }
    },
  },
  async (body) => {
    using _ = patch();
    assertStrictEquals(await spawn(body).get(), true);
  },
);

testBoth(
  "setTimeout() in the promise idiom ends with withTimeout()",
  {
    async: async (log: string[]) => {
      const run = () => pausing.async(log, LONG);
      log.push(String(await withTimeout(1, run, { value: "late" })));
      await assertRejects(() => withTimeout(1, run), Timeout);
    },
    *generator(log: string[]) {
      const run = () => pausing.generator(log, LONG);
      log.push(String(yield* withTimeout(1, run, { value: "late" })));
      try {
        yield* withTimeout(1, run);
      } catch (error) {
        assertInstanceOf(error, Timeout);
      }
    },
  },
  async (body) => {
    using _ = patch();
    const log: string[] = [];
    await spawn(body, log).get();
    assertEquals(log, ["cleaned up", "late", "cleaned up"]);
  },
);

Deno.test("setTimeout() in the promise idiom ends with withTimeout() outside greenlets", async () => {
  using _ = patch();
  const log: string[] = [];
  assertEquals(
    await withTimeout(1, () => pausing.async(log, LONG), { value: "late" }),
    "late",
  );
  await assertRejects(
    () => withTimeout(1, () => pausing.async(log, LONG)),
    Timeout,
  );
  assertEquals(log, ["cleaned up", "cleaned up"]);
  // Outside of it nothing has changed.
  await pause(1);
});

Deno.test("setTimeout() with a promise's reject is interrupted with the error", async () => {
  using _ = patch();
  const wait = () =>
    new Promise<never>((_, reject) => setTimeout(reject, LONG));
  const greenlet = spawn(wait);
  await sleep(0);
  const exit = new GreenletExit("now");
  await greenlet.kill(exit);
  assert(greenlet.successful());
  assertStrictEquals<unknown>(greenlet.value, exit);

  assertEquals(
    await spawn(async () => {
      try {
        await withTimeout(1, wait);
      } catch (error) {
        return error instanceof Timeout && error.message;
      }
    }).get(),
    "Timed out after 1 ms",
  );
});

Deno.test("setTimeout() with a promise's reject gives an error that is not a promise", async () => {
  using _ = patch();
  const caught = await spawn(async () => {
    using _timeout = Timeout.start(1);
    const promise = new Promise<never>((_, reject) => setTimeout(reject, LONG));
    // A promise is settled with the value that its handler gives.
    const given = await promise.catch((error: unknown) => error);
    const [settled] = await Promise.allSettled([promise]);
    return [
      given,
      settled!.status,
      settled!.status === "rejected" && "then" in settled!.reason,
    ];
  }).get();
  assertInstanceOf(caught[0], Timeout);
  assertEquals(caught.slice(1), ["rejected", false]);
});

Deno.test("setTimeout() with a promise's reject rejects in the end", async () => {
  using _ = patch();
  const late = new Error("late");
  const thrown = await spawn(async () => {
    try {
      await new Promise((_, reject) => setTimeout(reject, 1, late));
    } catch (error) {
      return error;
    }
  }).get();
  assertStrictEquals(thrown, late);
});

Deno.test("setTimeout() resolves with its arguments, promises and thenables too", async () => {
  using _ = patch();
  const values = await spawn(async () => [
    await new Promise((r) => setTimeout(r, 1)),
    await new Promise((r: (...args: unknown[]) => void) =>
      setTimeout(r, 1, "value", "ignored")
    ),
    await new Promise((r) => setTimeout(r, 1, Promise.resolve("promised"))),
    await new Promise((r) =>
      setTimeout(r, 1, { then: (f: (s: string) => void) => f("thenable") })
    ),
    await new Promise((r) => setTimeout(r)),
    await new Promise((r) => setTimeout(r, -1)),
  ]).get();
  assertEquals(values, [
    ...[undefined, "value", "promised", "thenable"],
    ...[undefined, undefined],
  ]);
});

Deno.test("setTimeout() knows the functions of Promise.withResolvers()", async () => {
  using _ = patch();
  for (const which of ["resolve", "reject"] as const) {
    const greenlet = spawn(async () => {
      const resolvers = Promise.withResolvers();
      setTimeout(resolvers[which], LONG);
      await resolvers.promise;
    });
    await sleep(0);
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
  }
});

Deno.test("setTimeout() knows the functions that an awaited thenable gets", async () => {
  using _ = patch();
  const greenlet = spawn(async () => {
    await {
      then(resolve: (value: unknown) => void) {
        setTimeout(resolve, LONG);
      },
    };
  });
  await settle();
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
});

Deno.test("setTimeout() in a promise of a subclass is interrupted too", async () => {
  using _ = patch();
  class Later<T> extends Promise<T> {}
  const greenlet = spawn(async () => {
    await new Later((resolve) => setTimeout(resolve, LONG));
  });
  await sleep(0);
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
});

Deno.test("setTimeout() interrupts all the promises that are pending", async () => {
  using _ = patch();
  let cleaned = 0;
  const greenlet = spawn(async () => {
    try {
      await Promise.all([
        pause(LONG),
        pause(LONG).finally(() => cleaned++),
        sleep(LONG),
        until(pause(LONG)),
      ]);
    } finally {
      cleaned++;
    }
  });
  await sleep(0);
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(cleaned, 2);
});

Deno.test("setTimeout() interrupted in a promise that is not awaited yet causes no unhandled rejection", async () => {
  using _ = patch();
  let unhandled = 0;
  const listener = (event: PromiseRejectionEvent) => {
    if (event.defaultPrevented) return;
    unhandled++;
    event.preventDefault();
  };
  addEventListener("unhandledrejection", listener);
  try {
    for (const which of ["resolve", "reject"] as const) {
      for (
        const interrupt of [
          (g: Greenlet) => g.kill(),
          (g: Greenlet) => g.kill(undefined, { grace: 0 }),
          (g: Greenlet) => g.throw(new Timeout(1)).value,
        ]
      ) {
        const greenlet = spawn(async () => {
          // At least so long shall it take.
          const { promise, [which]: settle } = Promise.withResolvers();
          setTimeout(settle, LONG);
          try {
            await sleep(LONG);
          } catch {
            return;
          }
          await promise;
        });
        await sleep(0);
        await interrupt(greenlet as Greenlet);
        await greenlet.join();
        // The runtime looks for unhandled rejections in each turn of its loop.
        await settle();
      }
    }
  } finally {
    removeEventListener("unhandledrejection", listener);
  }
  assertEquals(unhandled, 0);
});

Deno.test("setTimeout() interrupted in a promise that is not awaited does not end the process", async () => {
  const { out, err, code } = await runScript(`
    using _ = patch();
    const killed = spawn(async () => {
      const atLeast = new Promise((resolve) => setTimeout(resolve, 100_000));
      await sleep(100_000);
      await atLeast;
    });
    await sleep(1);
    await killed.kill();
    await sleep(5);
    console.log(String(killed.value.name));
  `);
  assertEquals([err, out, code], ["", ["GreenletExit"], 0]);
});

for (
  const [name, code] of Object.entries({
    "withTimeout()": "await withTimeout(1, pause);",
    "get()": `await spawn(() => withTimeout(1, pause)).get();`,
  })
) {
  Deno.test(`setTimeout() interrupted leaves a Timeout that is not caught around ${name} to the runtime`, async () => {
    const { out, err, code: exitCode } = await runScript(`
      using _ = patch();
      getHub().handleError = () => {};
      const pause = () => new Promise((r) => setTimeout(r, 100_000));
      async function program() {
        ${code}
      }
      program();
      await sleep(100_000);
      console.log("not reached");
    `);
    assertEquals([out, exitCode], [[], 1]);
    assert(err.includes("Timed out after 1 ms"));
  });
}

Deno.test("setTimeout() leaves an unhandled rejection of another promise to the runtime", async () => {
  const { out, err, code } = await runScript(`
    using _ = patch();
    await spawn(async () => {
      using _ = Timeout.start(1);
      await new Promise((r) => setTimeout(r, 100_000)).catch(() => {});
      Promise.reject(new Error("somebody else's"));
      await sleep(100_000);
    }).join();
    console.log("not reached");
  `);
  assertEquals([out, code], [[], 1]);
  assert(err.includes("somebody else's"));
});

testBoth(
  "setTimeout() in the promise idiom throws what was held, and sets no timer",
  {
    async: async (log: unknown[]) => {
      await log[0];
      try {
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, LONG);
          log.push(typeof timer, Number(timer) > 0);
          clearTimeout(timer);
        });
      } catch (error) {
        log.push(error);
      }
      await pause(1);
      log.push("goes on");
    },
    *generator(log: unknown[]) {
      yield* sleep(1);
      // Held, as it is between two waits when it interrupts itself.
      kill(getCurrent(), log[1], { block: false });
      try {
        yield* until(
          new Promise((resolve) => {
            const timer = setTimeout(resolve, LONG);
            log.push(typeof timer, Number(timer) > 0);
            clearTimeout(timer);
          }),
        );
      } catch (error) {
        log.push(error);
      }
      yield* until(pause(1));
      log.push("goes on");
    },
  },
  async (body) => {
    using _ = patch();
    const { promise, resolve } = Promise.withResolvers<void>();
    const error = new Error("held");
    const log: unknown[] = [promise, error];
    const greenlet = spawn(body, log);
    await sleep(0);
    if (body.constructor.name === "AsyncFunction") {
      greenlet.throw(error);
      resolve();
    }
    await greenlet.get();
    const { setTimeout } = globalThis;
    const unpatched = setTimeout(() => {});
    clearTimeout(unpatched);
    assertEquals(log.slice(2), [typeof unpatched, true, error, "goes on"]);
  },
);

for (const over of ["fired", "cleared"]) {
  Deno.test(`setTimeout() that has ${over} is no longer a wait: an interrupt is held for the next`, async () => {
    using _ = patch();
    const isOver = new Gate();
    const goesOn = new Gate();
    const error = new Error("held");
    const greenlet = spawn(async () => {
      const ended = new Promise((resolve) => {
        const timer = setTimeout(resolve, over === "fired" ? 1 : LONG);
        if (over === "cleared") clearTimeout(timer);
      });
      if (over === "fired") await ended;
      isOver.open();
      await goesOn.opened;
      return await pause(LONG).catch((error: unknown) => error);
    });
    await isOver.opened;
    greenlet.throw(error);
    goesOn.open();
    assertStrictEquals(await greenlet.get(), error);
  });
}

Deno.test("setTimeout() keeps its result when its time ended before the interrupt", async () => {
  using _ = patch();
  const log: unknown[] = [];
  const greenlet: Greenlet = spawn(async () => {
    const value = await new Promise((resolve) => {
      setTimeout(resolve, 1, "over");
      // Due right after the other one, in the same turn.
      setTimeout(() => greenlet.throw(new Error("too late")), 1);
    });
    log.push(value);
    try {
      await pause(LONG);
    } catch (error) {
      log.push((error as Error).message);
    }
  });
  await greenlet.get();
  // The callback may have come in time for the next wait, too.
  assertEquals(log, ["over", "too late"]);
});

Deno.test("setTimeout() in the promise idiom ends a body that swallows its kill", async () => {
  using _ = patch();
  using failures = new Failures();
  let swallowed = 0;
  const greenlet = spawn(async () => {
    for (;;) {
      try {
        await pause(LONG);
      } catch {
        swallowed++;
      }
    }
  });
  await sleep(0);
  await greenlet.kill(undefined, { grace: 1 });
  assert(greenlet.dead);
  // Once for the kill, and ten times more.
  assertGreaterOrEqual(swallowed, 10);
  assertLess(swallowed, 13);
  const [error] = failures.errors;
  assertInstanceOf(error, GreenletError);
  assert(error.message.includes("left suspended for good"));
  const count = swallowed;
  await settle();
  assertEquals(swallowed, count);
});

Deno.test("setTimeout() lets clean-up pause within its grace", async () => {
  using _ = patch();
  const log: string[] = [];
  const greenlet = spawn(async () => {
    try {
      await pause(LONG);
    } finally {
      await pause(5);
      log.push("saved");
    }
  });
  await sleep(0);
  await greenlet.kill(undefined, { grace: LONG });
  assertEquals(log, ["saved"]);
});

Deno.test("setTimeout() ends a clean-up that pauses beyond its grace", async () => {
  using _ = patch();
  const log: string[] = [];
  const greenlet = spawn(async () => {
    try {
      await pause(LONG);
    } finally {
      try {
        await pause(LONG);
      } finally {
        log.push("cut short");
      }
    }
  });
  await sleep(0);
  await greenlet.kill(undefined, { grace: 5 });
  assertEquals(log, ["cut short"]);
  assertInstanceOf(greenlet.value, GreenletExit);
});

/** A and B share a promise whose wait is A's. */
function shareRefresh(
  refresh: () => Promise<string>,
  ofB: (shared: () => Promise<string>) => Promise<unknown>,
): { a: Greenlet; b: Greenlet } {
  let shared: Promise<string> | undefined;
  const share = () => shared ??= refresh();
  const a = spawn(async () => await share());
  const b = spawn(async () => await ofB(share));
  return { a: a as Greenlet, b: b as Greenlet };
}

async function refresh(): Promise<string> {
  await pause(LONG);
  return "token";
}

for (
  const [name, ofB] of Object.entries({
    "that awaits it": (share: () => Promise<string>) => share(),
    "in until()": async (share: () => Promise<string>) => await until(share()),
    "in withTimeout()": async (share: () => Promise<string>) =>
      await withTimeout(LONG, share),
    "in a race": async (share: () => Promise<string>) =>
      await Promise.race([share(), until(new Promise(() => {}))]),
  })
) {
  Deno.test(`setTimeout() killed in a shared promise fails the other greenlet, ${name}`, async () => {
    using _ = patch();
    using failures = new Failures();
    const { a, b } = shareRefresh(refresh, ofB);
    await sleep(0);
    await a.kill();
    await b.join();
    assertInstanceOf(a.value, GreenletExit);
    assertFalse(b.successful());
    assertInstanceOf(b.exception, GreenletError);
    assert(b.exception.message.includes(String(a)));
    assert(b.exception.message.includes("GreenletExit"));
    assertStrictEquals(b.exception.cause, a.value);
    assertEquals(failures.contexts, [b]);
    assertStrictEquals(failures.errors[0], b.exception);
    await assertRejects(() => b.get(), GreenletError, "shared with");
  });
}

Deno.test("setTimeout() timed out in a shared promise fails the other greenlet", async () => {
  using _ = patch();
  for (const body of ["Timeout.start", "withTimeout"]) {
    using failures = new Failures();
    const { a, b } = shareRefresh(async () => {
      if (body === "withTimeout") return await withTimeout(5, refresh);
      using _timeout = Timeout.start(5);
      return await refresh();
    }, (share) => share());
    await joinAll([a, b]);
    assertInstanceOf(a.exception, Timeout);
    assertInstanceOf(b.exception, GreenletError);
    assertFalse(b.exception instanceof Timeout);
    assertStrictEquals(b.exception.cause, a.exception);
    assertEquals(failures.contexts, [a, b]);
  }
});

Deno.test("setTimeout() rejected in a shared promise fails the other greenlet", async () => {
  using _ = patch();
  using failures = new Failures();
  const { a, b } = shareRefresh(
    () => new Promise((_, reject) => setTimeout(reject, LONG)),
    (share) => share(),
  );
  await sleep(0);
  await a.kill();
  await b.join();
  assertInstanceOf(b.exception, GreenletError);
  assertStrictEquals(b.exception.cause, a.value);
  assertEquals(failures.contexts, [b]);
});

Deno.test("setTimeout() killed in a shared promise fails the main greenlet's code as it is", async () => {
  using _ = patch();
  let shared: Promise<string> | undefined;
  const a = spawn(async () => await (shared = refresh()));
  await sleep(0);
  const outside = shared!.catch((error: unknown) => error);
  await a.kill();
  assertStrictEquals<unknown>(await outside, a.value);
});

Deno.test("setTimeout() killed in a shared promise is caught by the other greenlet as any error", async () => {
  using _ = patch();
  const { a, b } = shareRefresh(refresh, async (share) => {
    for (;;) {
      try {
        return await share();
      } catch {
        return "another way";
      }
    }
  });
  await sleep(0);
  await a.kill();
  assertEquals(await b.get(), "another way");
});

Deno.test("setTimeout() killed in a shared promise is an exit to both when both were killed", async () => {
  using _ = patch();
  const { a, b } = shareRefresh(refresh, (share) => share());
  await sleep(0);
  const exit = new GreenletExit("both");
  await killAll([a, b], { error: exit });
  assert(a.successful());
  assert(b.successful());
  assertStrictEquals<unknown>(b.value, exit);
});

Deno.test("setTimeout() killed in a shared promise leaves the other greenlet's own kill to it", async () => {
  using _ = patch();
  const caught = new Gate();
  const { a, b } = shareRefresh(refresh, async (share) => {
    try {
      return await share();
    } catch {
      caught.open();
      await sleep(LONG);
    }
  });
  await sleep(0);
  await a.kill();
  await caught.opened;
  await b.kill();
  assert(b.successful());
  assertNotStrictEquals<unknown>(b.value, a.value);
});

Deno.test("setTimeout() outside greenlets is the runtime's own", async () => {
  const { setTimeout: original } = globalThis;
  const timer = original(() => {});
  clearTimeout(timer);
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<unknown[]>();
  const patched = setTimeout(
    function (this: unknown, ...args: unknown[]) {
      resolve([this === patched as unknown, getCurrent() === getHub(), args]);
    },
    1,
    "a",
    "b",
  );
  assertStrictEquals(
    Object.getPrototypeOf(patched),
    Object.getPrototypeOf(timer),
  );
  assertEquals(await promise, [true, true, ["a", "b"]]);
  for (const callback of [undefined, "code", {}, null]) {
    const error = assertThrows(() => original(callback as never), TypeError);
    assertThrows(
      () => setTimeout(callback as never),
      TypeError,
      error.message,
    );
    const thrown = await spawn(() =>
      assertThrows(() => setTimeout(callback as never, 1), TypeError)
    ).get();
    assertEquals(thrown.message, error.message);
  }
});

/** Code that wraps functions of the runtime does so before any other module is loaded. */
const WRAP = `
  for (const name of ["setTimeout", "setInterval"]) {
    const original = globalThis[name];
    globalThis[name] = (callback, ...rest) =>
      original((...args) => callback(...args), ...rest);
  }
`;

Deno.test("setTimeout() that was wrapped before the library was loaded leaves the hub's timer alone", async () => {
  const library = new URL("../../mod.ts", import.meta.url).href;
  const script = `${WRAP}
    const { patch, sleep, spawn } = await import(${JSON.stringify(library)});
    using _ = patch();
    await spawn(async () => {
      for (let i = 0; i < 2; i++) await sleep(1);
      console.log("slept");
    }).get();
  `;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: argsOf(script),
  }).output();
  const decoder = new TextDecoder();
  assertEquals(decoder.decode(stderr), "");
  assertEquals(decoder.decode(stdout), "slept\n");
});

Deno.test("setTimeout() and setInterval() that were wrapped before patch() run a callback as one greenlet, and can be interrupted", async () => {
  const { setTimeout, setInterval } = globalThis;
  using restored = new DisposableStack();
  restored.defer(() => Object.assign(globalThis, { setTimeout, setInterval }));
  new Function(WRAP)();
  using _ = patch();
  const greenlets: unknown[] = [];
  const count = (greenlet: Greenlet) => void greenlets.push(greenlet);
  await spawn(async () => {
    Greenlet.addSpawnCallback(count);
    const current = await until(
      new Promise((resolve) => {
        globalThis.setTimeout(() => resolve(getCurrent()), 1);
      }),
    );
    const ticks = await until(
      new Promise((resolve) => {
        const ticks: unknown[] = [];
        const id = globalThis.setInterval(() => {
          if (ticks.push(getCurrent()) < 2) return;
          clearInterval(id);
          resolve(ticks);
        }, 1);
      }),
    ) as unknown[];
    Greenlet.removeSpawnCallback(count);
    assertEquals(greenlets, [current, ...ticks]);
    await pause(1);
  }).get();
  const paused = spawn(pause, LONG);
  await sleep(0);
  await paused.kill(undefined, { grace: LONG });
  assertInstanceOf(paused.value, GreenletExit);
});

Deno.test("setTimeout() can be promisified, as unpatched", async () => {
  using _ = patch();
  assertEquals(await promisify(setTimeout)(1, "value"), "value");
  assertEquals(
    await spawn(async () => await promisify(setTimeout)(1, "value")).get(),
    "value",
  );
});

Deno.test("setTimeout() gives a timer that can be unreferenced, inside too", async () => {
  const { out, code } = await runScript(`
    using _ = patch();
    spawn(async () => {
      await new Promise((resolve) => {
        Deno.unrefTimer(setTimeout(resolve, 100_000));
      });
    });
    spawn(() => Deno.unrefTimer(setTimeout(() => {}, 100_000)));
    await sleep(1);
    console.log("ends");
  `);
  assertEquals([out, code], [["ends"], 0]);
});

Deno.test("setTimeout() that is pending when patch() is disposed of goes on", async () => {
  const restore = patch();
  const log: string[] = [];
  const killed = spawn(() => pausing.async(log, LONG));
  const cleared = spawn(async () => {
    let id: Timer | undefined;
    await until(
      new Promise((resolve) => {
        id = setTimeout(resolve, LONG);
        log.push("set");
        clear = () => clearTimeout(id);
      }),
    );
  });
  let clear = () => {};
  const paused = spawn(() => pausing.async(log, 5));
  let called = false;
  const setter = spawn(() => {
    setTimeout(() => called = getCurrent() instanceof Greenlet, 1);
  });
  await joinAll([setter]);
  restore[Symbol.dispose]();
  await killed.kill();
  assertEquals(log.splice(0), ["set", "cleaned up"]);
  clear();
  await cleared.kill();
  await paused.get();
  assertEquals(log, ["paused", "cleaned up"]);
  await when(() => called);
});

Deno.test("setTimeout() after patch() is disposed of belongs to no greenlet", async () => {
  const setter = patch();
  setter[Symbol.dispose]();
  const result = await spawn(async () => {
    const greenlet = getCurrent();
    const current = await new Promise((resolve) => {
      setTimeout(() => resolve(getCurrent()), 1);
    });
    return current === greenlet;
  }).get();
  assert(result);
});

testRandomly(
  "setTimeout() survives a storm of kills and timeouts: each body cleans up once",
  async (next) => {
    using _ = patch();
    const ends = { paused: 0, "timed out": 0, killed: 0 };
    /** Longer than anything takes, in ms. */
    const LONGEST = 60;
    async function storm(count: number) {
      const cleanedUp = new Array(count).fill(0);
      async function body(i: number) {
        let end: keyof typeof ends = "killed";
        const ms = next() * LONGEST;
        const limit = next() * LONGEST;
        try {
          if (next() < 0.5) {
            using timeout = Timeout.start(limit);
            try {
              await pause(ms);
              end = "paused";
            } catch (error) {
              if (error !== timeout) throw error;
              end = "timed out";
            }
          } else {
            const value = await withTimeout(
              limit,
              () => pause(ms),
              { value: "late" },
            );
            end = value === "late" ? "timed out" : "paused";
          }
        } finally {
          cleanedUp[i]++;
          ends[end]++;
        }
      }
      const greenlets = cleanedUp.map((_, i) => spawn(body, i));
      const killers = greenlets.filter((_, i) => i % 2 === 0)
        .map((victim) => spawnLater(next() * LONGEST, () => victim.kill()));
      await joinAll([...greenlets, ...killers]);
      for (const [i, greenlet] of greenlets.entries()) {
        assert(greenlet.successful(), `${greenlet.exception}`);
        // Once, or never if it was killed before it began.
        const began = cleanedUp[i] === 1 ||
          greenlet.value as unknown instanceof GreenletExit;
        assert(
          began,
          `Greenlet ${i} cleaned up ${cleanedUp[i]} times`,
        );
      }
    }
    // On a machine that is slow enough one of the ends may not come about.
    do await storm(1000); while (
      Object.values(ends).some((times) => times < 10)
    );
  },
);
