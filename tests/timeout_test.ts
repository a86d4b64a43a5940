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
import { clock } from "./_clock.ts";
import {
  getCurrent,
  getHub,
  Greenlet,
  GreenletError,
  GreenletExit,
  idle,
  killAll,
  nursery,
  sleep,
  spawn,
  Timeout,
  until,
  Waiter,
  withTimeout,
} from "../mod.ts";
import { Failures, runScript, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;
/** Long enough for a busy machine, and nothing next to `FOREVER`. */
const AT_ONCE = 10_000;

/** A promise that never settles, and so a body that nothing reaches. */
const never = new Promise<never>(() => {});

/**
 * Gives a function to wait with, in nothing of ours, until short timers are over that were
 * started meanwhile, and not for another turn of the event loop.
 */
async function timersOver(): Promise<() => Promise<void>> {
  const { promise, resolve } = Promise.withResolvers<void>();
  spawn(async () => {
    Timeout.start(20, { error: new GreenletExit() });
    // Called where the timers expire.
    await new Waiter(() => queueMicrotask(resolve)).get();
  });
  await idle();
  return () => {
    const start = performance.now();
    while (performance.now() - start < 40);
    return promise;
  };
}

// --- Timeout

Deno.test("Timeout is an Error that can be thrown like any other", () => {
  const timeout = new Timeout();
  const error = assertThrows(() => {
    throw timeout;
  });
  assertStrictEquals(error, timeout);
  assertInstanceOf(timeout, Error);
  assertFalse(timeout.pending);
  assertEquals(timeout.name, "Timeout");
  assertEquals(timeout.ms, Infinity);
  assertEquals(String(timeout), "Timeout: Timed out");
  assertEquals(String(new Timeout(5)), "Timeout: Timed out after 5 ms");
});

testBoth(
  "Timeout.start() throws the timeout in what the body waits on, and again when it is restarted",
  {
    async: async (timeout: Timeout) => {
      const caught: unknown[] = [];
      for (let i = 0; i < 2; i++) {
        timeout.start();
        try {
          await sleep(FOREVER);
        } catch (error) {
          caught.push(error, timeout.pending);
        }
      }
      return caught;
    },
    generator: function* (timeout: Timeout) {
      const caught: unknown[] = [];
      for (let i = 0; i < 2; i++) {
        timeout.start();
        try {
          yield* sleep(FOREVER);
        } catch (error) {
          caught.push(error, timeout.pending);
        }
      }
      return caught;
    },
  },
  async (body) => {
    const timeout = new Timeout(10);
    const start = performance.now();
    const caught = await spawn(body, timeout).get();
    assertGreaterOrEqual(performance.now() - start, 20);
    assertEquals(caught.length, 4);
    assertStrictEquals(caught[0], timeout);
    assertStrictEquals(caught[2], timeout);
    assertEquals([caught[1], caught[3]], [false, false]);
  },
);

testBoth(
  "Timeout.start() gives a Timeout that is closed at the end of its block",
  {
    async: async () => {
      let kept: Timeout;
      {
        using timeout = Timeout.start(30);
        assert(timeout.pending);
        await sleep(1);
        kept = timeout;
      }
      assertFalse(kept.pending);
      await sleep(40);
      return "done";
    },
    generator: function* () {
      let kept: Timeout;
      {
        using timeout = Timeout.start(30);
        assert(timeout.pending);
        yield* sleep(1);
        kept = timeout;
      }
      assertFalse(kept.pending);
      yield* sleep(40);
      return "done";
    },
  },
  async (body) => {
    assertEquals(await spawn(body).get(), "done");
  },
);

testBoth(
  "Timeout.start() throws in each kind of wait, and in whatever is called",
  {
    async: async () => {
      const caught: unknown[] = [];
      const other = spawn(sleep, FOREVER);
      async function inner() {
        await null;
        await sleep(FOREVER);
      }
      const waits = [
        () => sleep(FOREVER),
        () => other.join(),
        () => other.get(),
        () => new Waiter().get(),
        () => until(never),
        () => inner(),
        () => getHub().join(),
        () => withTimeout(FOREVER, () => sleep(FOREVER)),
      ];
      for (const wait of waits) {
        using timeout = Timeout.start(1);
        try {
          await wait();
        } catch (error) {
          caught.push(error === timeout);
        }
      }
      await other.kill();
      return caught;
    },
    generator: function* () {
      const caught: unknown[] = [];
      const other = spawn(sleep, FOREVER);
      async function inner() {
        await null;
        await sleep(FOREVER);
      }
      function* delegate() {
        yield* sleep(FOREVER);
      }
      const waits = [
        () => sleep(FOREVER),
        () => other.join(),
        () => other.get(),
        () => new Waiter().get(),
        () => until(never),
        () => until(inner()),
        () => delegate(),
        () => withTimeout(FOREVER, () => sleep(FOREVER)),
      ];
      for (const wait of waits) {
        using timeout = Timeout.start(1);
        try {
          yield* wait() as Iterable<unknown>;
        } catch (error) {
          caught.push(error === timeout);
        }
      }
      yield* other.kill();
      return caught;
    },
  },
  async (body) => {
    assertEquals(await spawn(body).get(), Array(8).fill(true));
  },
);

testBoth("Timeout that ends between waits is thrown by the next wait", {
  async: async () => {
    using timeout = Timeout.start(1);
    await new Promise((resolve) => setTimeout(resolve, 10));
    assertFalse(timeout.pending);
    try {
      await sleep(0);
    } catch (error) {
      return error === timeout;
    }
  },
  generator: function* () {
    using timeout = Timeout.start(1);
    const start = performance.now();
    while (performance.now() - start < 5);
    try {
      for (;;) yield* sleep(0);
    } catch (error) {
      return error === timeout;
    }
  },
}, async (body) => {
  assert(await spawn(body).get());
});

testBoth("Timeout is thrown once", {
  async: async () => {
    using timeout = Timeout.start(1);
    let count = 0;
    for (let i = 0; i < 3; i++) {
      try {
        await sleep(5);
      } catch (error) {
        assertStrictEquals(error, timeout);
        count++;
      }
    }
    return count;
  },
  generator: function* () {
    using timeout = Timeout.start(1);
    let count = 0;
    for (let i = 0; i < 3; i++) {
      try {
        yield* sleep(5);
      } catch (error) {
        assertStrictEquals(error, timeout);
        count++;
      }
    }
    return count;
  },
}, async (body) => {
  assertEquals(await spawn(body).get(), 1);
});

for (const close of ["close", "cancel"] as const) {
  testBoth(`Timeout.${close}() keeps it from being thrown`, {
    async: async (timeout: Timeout) => {
      timeout.start();
      assert(timeout.pending);
      timeout[close]();
      assertFalse(timeout.pending);
      await sleep(5);
      return "done";
    },
    generator: function* (timeout: Timeout) {
      timeout.start();
      assert(timeout.pending);
      timeout[close]();
      assertFalse(timeout.pending);
      yield* sleep(5);
      return "done";
    },
  }, async (body) => {
    const timeout = new Timeout(1);
    timeout[close]();
    assertEquals(await spawn(body, timeout).get(), "done");
  });

  testBoth(
    `Timeout.${close}() takes back a Timeout that has ended and was not thrown yet`,
    {
      async: async () => {
        // Both are over in the same turn: the sleep first, so that it keeps its result
        for (let tries = 0; tries < 100; tries++) {
          const timeout = new Timeout(2);
          const nap = sleep(2);
          timeout.start();
          await nap;
          const isOver = !timeout.pending;
          timeout[close]();
          await sleep(0);
          if (isOver) return "never thrown";
        }
      },
      generator: function* () {
        for (let tries = 0; tries < 100; tries++) {
          const timeout = new Timeout(2);
          const nap = sleep(2);
          timeout.start();
          yield* nap;
          const isOver = !timeout.pending;
          timeout[close]();
          yield* sleep(0);
          if (isOver) return "never thrown";
        }
      },
    },
    async (body) => {
      assertEquals(await spawn(body).get(), "never thrown");
    },
  );
}

Deno.test("Timeout.close() takes back a Timeout that has ended while a foreign promise was awaited", async () => {
  const g = spawn(async () => {
    {
      using timeout = Timeout.start(1);
      await new Promise((resolve) => setTimeout(resolve, 10));
      assertFalse(timeout.pending);
    }
    await sleep(1);
    return "done";
  });
  assertEquals(await g.get(), "done");
});

/** Calls that run a function in a scope of its own. */
const INNER: Record<string, (run: () => Promise<void>) => Promise<void>> = {
  "withTimeout()": (run) => withTimeout(FOREVER, run),
  "nested withTimeout()": (run) =>
    withTimeout(FOREVER, () => withTimeout(FOREVER, run)),
  "nursery()": (run) => nursery(run),
};

for (const [name, call] of Object.entries(INNER)) {
  Deno.test(`Timeout.close() takes back what the function of ${name} holds`, async () => {
    const log: unknown[] = [];
    const g = spawn(async () => {
      const over = await timersOver();
      const timeout = Timeout.start(1);
      await call(async () => {
        await over();
        log.push(timeout.pending);
        timeout.close();
        await sleep(1);
        log.push("inside");
      });
      await sleep(1);
      log.push("outside");
    });
    await g.join();
    assertEquals(log, [false, "inside", "outside"]);
    assert(g.successful());
  });

  Deno.test(`Timeout.close() takes back a Timeout that the function of ${name} holds and has not thrown yet`, async () => {
    const log: unknown[] = [];
    const g = spawn(async () => {
      const over = await timersOver();
      const timeout = Timeout.start(1);
      const { promise, resolve } = Promise.withResolvers<void>();
      const called = call(() => promise);
      await over();
      log.push(timeout.pending);
      timeout.close();
      await sleep(5);
      resolve();
      await called;
      log.push("called");
    });
    await g.join();
    assertEquals(log, [false, "called"]);
    assert(g.successful());
  });
}

testBoth("Timeout throws the caller's own error, whatever it is", {
  async: async (error: unknown) => {
    using _timeout = Timeout.start(1, { error });
    try {
      await sleep(FOREVER);
    } catch (thrown) {
      return Object.is(thrown, error);
    }
  },
  generator: function* (error: unknown) {
    using _timeout = Timeout.start(1, { error });
    try {
      yield* sleep(FOREVER);
    } catch (thrown) {
      return Object.is(thrown, error);
    }
  },
}, async (body) => {
  for (const error of [new RangeError("slow"), "text", 0, false, null]) {
    assert(await spawn(body, error).get());
  }
});

testBoth(
  "Timeout that is not caught ends the greenlet, which is reported to the hub",
  {
    async: async () => {
      using _timeout = Timeout.start(1);
      await sleep(FOREVER);
    },
    generator: function* () {
      using _timeout = Timeout.start(1);
      yield* sleep(FOREVER);
    },
  },
  async (body) => {
    using failures = new Failures();
    const g = spawn(body);
    await g.join();
    assertInstanceOf(g.exception, Timeout);
    assertEquals(failures.errors, [g.exception]);
  },
);

testBoth(
  "Timeouts nest: the outer and the inner one are told apart by identity",
  {
    async: async (outerMs: number, innerMs: number) => {
      using outer = Timeout.start(outerMs);
      using inner = Timeout.start(innerMs);
      try {
        await sleep(FOREVER);
      } catch (error) {
        return [
          error === outer ? "outer" : error === inner ? "inner" : error,
          outer.pending,
          inner.pending,
        ];
      }
    },
    generator: function* (outerMs: number, innerMs: number) {
      using outer = Timeout.start(outerMs);
      using inner = Timeout.start(innerMs);
      try {
        yield* sleep(FOREVER);
      } catch (error) {
        return [
          error === outer ? "outer" : error === inner ? "inner" : error,
          outer.pending,
          inner.pending,
        ];
      }
    },
  },
  async (body) => {
    assertEquals(await spawn(body, 1, FOREVER).get(), ["outer", false, true]);
    assertEquals(await spawn(body, FOREVER, 1).get(), ["inner", true, false]);
  },
);

testBoth(
  "Timeouts nest: the outer one is thrown in the clean-up of the inner one",
  {
    async: async () => {
      const log: unknown[] = [];
      using outer = Timeout.start(50);
      try {
        using inner = Timeout.start(1);
        try {
          await sleep(FOREVER);
        } catch (error) {
          log.push(error === inner);
          await sleep(FOREVER);
        }
      } catch (error) {
        log.push(error === outer);
      }
      return log;
    },
    generator: function* () {
      const log: unknown[] = [];
      using outer = Timeout.start(50);
      try {
        using inner = Timeout.start(1);
        try {
          yield* sleep(FOREVER);
        } catch (error) {
          log.push(error === inner);
          yield* sleep(FOREVER);
        }
      } catch (error) {
        log.push(error === outer);
      }
      return log;
    },
  },
  async (body) => {
    assertEquals(await spawn(body).get(), [true, true]);
  },
);

testBoth("Timeout without a time is never thrown", {
  async: async (timeout: Timeout) => {
    timeout.start();
    assertFalse(timeout.pending);
    await sleep(5);
    timeout.close();
    return "done";
  },
  generator: function* (timeout: Timeout) {
    timeout.start();
    assertFalse(timeout.pending);
    yield* sleep(5);
    timeout.close();
    return "done";
  },
}, async (body) => {
  for (const ms of [undefined, null, Infinity]) {
    assertEquals(await spawn(body, new Timeout(ms)).get(), "done");
  }
});

testBoth("Timeout of 0 or less ends at once", {
  async: async (ms: number) => {
    using timeout = Timeout.start(ms);
    try {
      await sleep(FOREVER);
    } catch (error) {
      return error === timeout;
    }
  },
  generator: function* (ms: number) {
    using timeout = Timeout.start(ms);
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      return error === timeout;
    }
  },
}, async (body) => {
  assert(await spawn(body, 0).get());
  assert(await spawn(body, -1).get());
});

testBoth(
  "Timeout is thrown in the greenlet that has started it, and in no child",
  {
    async: async () => {
      using timeout = Timeout.start(5);
      const child = spawn(sleep, 10);
      try {
        await child.join();
      } catch (error) {
        assertStrictEquals(error, timeout);
      }
      assertFalse(child.dead);
      await child.join();
      return child.successful();
    },
    generator: function* () {
      using timeout = Timeout.start(5);
      const child = spawn(sleep, 10);
      try {
        yield* child.join();
      } catch (error) {
        assertStrictEquals(error, timeout);
      }
      assertFalse(child.dead);
      yield* child.join();
      return child.successful();
    },
  },
  async (body) => {
    const g = spawn(body);
    assertEquals(await g.get(), true);
  },
);

Deno.test("Timeout.start() again starts the time anew", async () => {
  const timeout = Timeout.start(30);
  await sleep(1);
  const start = performance.now();
  timeout.start();
  await assertRejects(() => sleep(FOREVER), Timeout);
  assertGreaterOrEqual(performance.now() - start, 30);
  timeout.close();
});

Deno.test("Timeout.start() outside greenlets throws in what main waits on", async () => {
  using timeout = Timeout.start(1);
  const error = await assertRejects(() => sleep(FOREVER), Timeout);
  assertStrictEquals(error, timeout);
});

Deno.test("Timeout that ends in main between its waits is thrown by the next wait only", async () => {
  {
    using timeout = Timeout.start(1);
    await new Promise((resolve) => setTimeout(resolve, 10));
    const error = await assertRejects(() => sleep(0), Timeout);
    assertStrictEquals(error, timeout);
  }
  await sleep(1);
});

Deno.test("Timeout refuses anything but a number of milliseconds", () => {
  for (
    const call of [
      (ms: unknown) => new Timeout(ms as number),
      (ms: unknown) => Timeout.start(ms as number),
    ]
  ) {
    assertThrows(() => call("5"), TypeError, 'received "5"');
    assertThrows(() => call(5n), TypeError, "received 5");
    assertThrows(() => call({}), TypeError, "received [object Object]");
    assertThrows(() => call(NaN), RangeError, "received NaN");
  }
});

// --- withTimeout

testBoth("withTimeout() gives what the function gives in time", {
  async: async () => [
    await withTimeout(FOREVER, async () => {
      await sleep(1);
      return 1;
    }),
    await withTimeout(FOREVER, function* () {
      yield* sleep(1);
      return 2;
    }),
    await withTimeout(FOREVER, () => 3),
    await withTimeout(Infinity, () => sleep(1), { value: "not given" }),
  ],
  generator: function* () {
    return [
      yield* withTimeout(FOREVER, async () => {
        await sleep(1);
        return 1;
      }),
      yield* withTimeout(FOREVER, function* () {
        yield* sleep(1);
        return 2;
      }),
      yield* withTimeout(FOREVER, () => 3),
      yield* withTimeout(Infinity, () => sleep(1), { value: "not given" }),
    ];
  },
}, async (body) => {
  assertEquals(await spawn(body).get(), [1, 2, 3, undefined]);
});

testBoth("withTimeout() throws what the function throws", {
  async: async (error: Error) => {
    const caught: unknown[] = [];
    const fails = [
      () => {
        throw error;
      },
      async () => {
        await sleep(1);
        throw error;
      },
      function* () {
        yield* sleep(1);
        throw error;
      },
    ];
    for (const fail of fails) {
      try {
        await withTimeout(FOREVER, fail as () => Promise<never>);
      } catch (thrown) {
        caught.push(thrown === error);
      }
    }
    return caught;
  },
  generator: function* (error: Error) {
    const caught: unknown[] = [];
    const fails = [
      () => {
        throw error;
      },
      async () => {
        await sleep(1);
        throw error;
      },
      function* () {
        yield* sleep(1);
        throw error;
      },
    ];
    for (const fail of fails) {
      try {
        yield* withTimeout(FOREVER, fail as () => Promise<never>);
      } catch (thrown) {
        caught.push(thrown === error);
      }
    }
    return caught;
  },
}, async (body) => {
  assertEquals(await spawn(body, new Error("own")).get(), [true, true, true]);
});

/** The limited function: it sleeps, and cleans up. */
const LIMITED: Record<string, (log: string[]) => () => unknown> = {
  "async function": (log) => async () => {
    try {
      await sleep(FOREVER);
    } finally {
      log.push("finally");
    }
  },
  "generator function": (log) =>
    function* () {
      try {
        yield* sleep(FOREVER);
      } finally {
        log.push("finally");
      }
    },
  "foreign promise": (log) => () => {
    log.push("finally");
    return never;
  },
  "async function that swallows": (log) => async () => {
    try {
      await sleep(FOREVER);
    } catch {
      log.push("finally");
    }
    await sleep(FOREVER);
  },
  "generator function that swallows": (log) =>
    function* () {
      try {
        yield* sleep(FOREVER);
      } catch {
        log.push("finally");
      }
      yield* sleep(FOREVER);
    },
  "nested call": (log) => () =>
    withTimeout(FOREVER, async () => {
      try {
        await sleep(FOREVER);
      } finally {
        log.push("finally");
      }
    }),
};

for (const [what, limited] of Object.entries(LIMITED)) {
  testBoth(
    `withTimeout() throws a Timeout or gives the value in time, ${what}`,
    {
      async: async (log: string[]) => {
        const start = performance.now();
        try {
          await withTimeout(10, limited(log));
        } catch (error) {
          assertInstanceOf(error, Timeout);
          assertEquals(error.ms, 10);
        }
        const value = await withTimeout(1, limited(log), { value: "late" });
        const none = await withTimeout(1, limited(log), { value: undefined });
        const elapsed = performance.now() - start;
        await sleep(1);
        return { value, none, elapsed };
      },
      generator: function* (log: string[]) {
        const start = performance.now();
        try {
          yield* withTimeout(10, limited(log));
        } catch (error) {
          assertInstanceOf(error, Timeout);
          assertEquals(error.ms, 10);
        }
        const value = yield* withTimeout(1, limited(log), { value: "late" });
        const none = yield* withTimeout(1, limited(log), { value: undefined });
        const elapsed = performance.now() - start;
        yield* sleep(1);
        return { value, none, elapsed };
      },
    },
    async (body) => {
      using failures = new Failures();
      const log: string[] = [];
      const { value, none, elapsed } = await spawn(body, log).get();
      assertEquals([value, none], ["late", undefined]);
      assertGreaterOrEqual(elapsed, 12);
      assertLess(elapsed, AT_ONCE);
      assertEquals(log, ["finally", "finally", "finally"]);
      assertEquals(failures.errors, []);
    },
  );
}

testBoth(
  "withTimeout() gives the function's own result if it ends at once at the limit",
  {
    async: async () => [
      await withTimeout(1, async () => {
        try {
          await sleep(FOREVER);
        } catch {
          return "own";
        }
      }, { value: "late" }),
      await withTimeout(1, function* () {
        try {
          yield* sleep(FOREVER);
        } catch {
          return "own";
        }
      }),
    ],
    generator: function* () {
      return [
        yield* withTimeout(1, async () => {
          try {
            await sleep(FOREVER);
          } catch {
            return "own";
          }
        }, { value: "late" }),
        yield* withTimeout(1, function* () {
          try {
            yield* sleep(FOREVER);
          } catch {
            return "own";
          }
        }),
      ];
    },
  },
  async (body) => {
    assertEquals(await spawn(body).get(), ["own", "own"]);
  },
);

testBoth(
  "withTimeout() throws the function's own error if it ends at once at the limit",
  {
    async: async () => {
      try {
        await withTimeout(1, async () => {
          try {
            await sleep(FOREVER);
          } catch {
            throw new Error("own");
          }
        }, { value: "late" });
      } catch (error) {
        return error;
      }
    },
    generator: function* () {
      try {
        yield* withTimeout(1, function* () {
          try {
            yield* sleep(FOREVER);
          } catch {
            throw new Error("own");
          }
        }, { value: "late" });
      } catch (error) {
        return error;
      }
    },
  },
  async (body) => {
    const error = await spawn(body).get();
    assertInstanceOf(error, Error);
    assertEquals(error.message, "own");
  },
);

testBoth(
  "withTimeout() in withTimeout(): the shorter one is thrown, and goes through the longer one",
  {
    async: async (outer: number, inner: number) => {
      const log: unknown[] = [];
      try {
        await withTimeout(outer, async () => {
          try {
            return await withTimeout(inner, () => sleep(FOREVER), { value: 1 });
          } catch (error) {
            log.push((error as Timeout).ms);
            throw error;
          }
        });
        log.push("inner value");
      } catch (error) {
        log.push((error as Timeout).ms);
      }
      return log;
    },
    generator: function* (outer: number, inner: number) {
      const log: unknown[] = [];
      try {
        yield* withTimeout(outer, function* () {
          try {
            return yield* withTimeout(inner, () => sleep(FOREVER), {
              value: 1,
            });
          } catch (error) {
            log.push((error as Timeout).ms);
            throw error;
          }
        });
        log.push("inner value");
      } catch (error) {
        log.push((error as Timeout).ms);
      }
      return log;
    },
  },
  async (body) => {
    assertEquals(await spawn(body, 5, FOREVER).get(), [5, 5]);
    assertEquals(await spawn(body, FOREVER, 5).get(), ["inner value"]);
  },
);

testBoth(
  "withTimeout() does not lose a timeout from outside, which runs the function's finally",
  {
    async: async (log: string[]) => {
      using timeout = Timeout.start(1);
      try {
        await withTimeout(FOREVER, LIMITED["async function"]!(log), {
          value: "not given",
        });
      } catch (error) {
        log.push(error === timeout ? "outer" : String(error));
      }
    },
    generator: function* (log: string[]) {
      using timeout = Timeout.start(1);
      try {
        yield* withTimeout(FOREVER, LIMITED["generator function"]!(log), {
          value: "not given",
        });
      } catch (error) {
        log.push(error === timeout ? "outer" : String(error));
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    await spawn(body, log).get();
    assertEquals(log, ["finally", "outer"]);
  },
);

testBoth(
  "withTimeout() runs the function's finally when its greenlet is killed, and the kill waits for it",
  {
    async: async (log: string[]) => {
      try {
        await withTimeout(FOREVER, async () => {
          try {
            await sleep(FOREVER);
          } finally {
            log.push("inner");
            await sleep(5);
            log.push("cleaned up");
          }
        }, { value: "not given" });
      } finally {
        log.push("outer");
      }
    },
    generator: function* (log: string[]) {
      try {
        yield* withTimeout(FOREVER, function* () {
          try {
            yield* sleep(FOREVER);
          } finally {
            log.push("inner");
            yield* sleep(5);
            log.push("cleaned up");
          }
        }, { value: "not given" });
      } finally {
        log.push("outer");
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    const g: Greenlet = spawn(body, log);
    await sleep(1);
    await g.kill();
    assertEquals(log, ["inner", "cleaned up", "outer"]);
    assertInstanceOf(g.value, GreenletExit);
  },
);

testBoth(
  "withTimeout() around a foreign promise does not hold up a kill of its greenlet",
  {
    async: async () => {
      await withTimeout(FOREVER, () => never);
    },
    generator: function* () {
      yield* withTimeout(FOREVER, () => never);
    },
  },
  async (body) => {
    const g: Greenlet = spawn(body);
    await settle();
    const start = performance.now();
    await g.kill();
    assertLess(performance.now() - start, AT_ONCE);
    assertInstanceOf(g.value, GreenletExit);
  },
);

testBoth(
  "withTimeout() throws the Timeout in each wait of a function that goes on too late, and suspends it after ten",
  {
    async: async (log: unknown[]) => {
      try {
        await sleep(FOREVER);
      } catch (error) {
        log.push(error);
      }
      for (;;) {
        try {
          await sleep(1);
          log.push("slept");
        } catch (error) {
          log.push(error);
        }
        await null;
      }
    },
    generator: function* (log: unknown[]): Generator<unknown, never> {
      for (;;) {
        try {
          yield* sleep(FOREVER);
          log.push("slept");
        } catch (error) {
          log.push(error);
        } finally {
          // A escalated generator body is ended, unless it refuses
          log.push("finally");
          // deno-lint-ignore no-unsafe-finally
          continue;
        }
      }
    },
  },
  async (body) => {
    const log: unknown[] = [];
    const error = await assertRejects(
      () => withTimeout(1, () => body(log)),
      Timeout,
    );
    await settle();
    const thrown = log.filter((entry) => entry === error);
    const refused = log.filter((entry) => entry === "finally");
    assertFalse(log.includes("slept"));
    assertGreaterOrEqual(Math.max(thrown.length, refused.length), 10);
    const { length } = log;
    await sleep(10);
    assertEquals(log.length, length);
  },
);

Deno.test("withTimeout() with a value does not end the process by what its function has not awaited", async () => {
  const { out, err, code } = await runScript(`
    const limited = (kind) => withTimeout(5, () => {
      void (async () => await sleep(60_000))();
      void (async () => {
        await new Promise((resolve) => setTimeout(resolve, 10));
        await sleep(1);
      })();
      return sleep(60_000);
    }, { value: kind });
    console.log(await limited("main"));
    console.log(await spawn(limited, "greenlet").get());
    console.log(await withTimeout(60_000, () => limited("nested")));
    await sleep(20);
    console.log("goes on");
  `);
  assertEquals(out, ["main", "greenlet", "nested", "goes on"], err);
  assertEquals([err, code], ["", 0]);
});

Deno.test("withTimeout() without a value ends the process in main if the Timeout is not caught", async () => {
  const { out, err, code } = await runScript(`
    setTimeout(() => console.log("went on"), 60_000);
    void (async () => await withTimeout(5, () => sleep(60_000)))();
  `);
  assertEquals(out, []);
  assertEquals(code, 1);
  assert(err.includes("Timed out after 5 ms"), err);
});

Deno.test("withTimeout() leaves what goes on too late in a foreign promise the Timeout from its next wait", async () => {
  const log: unknown[] = [];
  const foreign = Promise.withResolvers<void>();
  const error = await assertRejects(() =>
    withTimeout(1, async () => {
      await foreign.promise;
      log.push("foreign");
      try {
        await sleep(0);
      } catch (error) {
        log.push(error);
      }
    }), Timeout);
  foreign.resolve();
  await settle();
  assertEquals(log.length, 2);
  assertStrictEquals(log[1], error);
});

testBoth(
  "withTimeout() does not reach the calls that a function which ended by the Timeout has left behind",
  {
    async: async (log: unknown[], foreign: Promise<void>) => {
      leaveBehind(log, foreign);
      try {
        await sleep(FOREVER);
      } catch (error) {
        return error;
      }
    },
    generator: function* (log: unknown[], foreign: Promise<void>) {
      leaveBehind(log, foreign);
      try {
        yield* sleep(FOREVER);
      } catch (error) {
        return error;
      }
    },
  },
  async (body) => {
    const log: unknown[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    const error = await withTimeout(1, () => body(log, promise));
    assertInstanceOf(error, Timeout);
    resolve();
    await settle();
    assertEquals(log, ["slept", "slept"]);
  },
);

/** Goes on after its caller, and waits twice. */
async function leaveBehind(log: unknown[], foreign: Promise<void>) {
  await foreign;
  for (let i = 0; i < 2; i++) {
    try {
      await sleep(0);
      log.push("slept");
    } catch (error) {
      log.push(error);
    }
  }
}

Deno.test("withTimeout() causes no unhandled rejection when a function fails too late", async () => {
  const foreign = Promise.withResolvers<void>();
  await assertRejects(() => withTimeout(1, () => foreign.promise), Timeout);
  foreign.reject(new Error("too late"));
  await settle();
});

testBoth("withTimeout() calls the function in the current greenlet", {
  async: async () => {
    const me = getCurrent() as Greenlet;
    const [inAsync, inGenerator, childOf] = await withTimeout(
      FOREVER,
      async () => {
        await sleep(1);
        await null;
        const inGenerator = await withTimeout(FOREVER, function* () {
          yield* sleep(1);
          return getCurrent();
        });
        return [getCurrent(), inGenerator, new Greenlet()] as const;
      },
    );
    return inAsync === me && inGenerator === me && getCurrent() === me &&
      childOf.spawningGreenlet === me &&
      childOf.spawnTreeLocals === me.spawnTreeLocals;
  },
  generator: function* () {
    const me = getCurrent() as Greenlet;
    const [inAsync, inGenerator, childOf] = yield* withTimeout(
      FOREVER,
      async () => {
        await sleep(1);
        await null;
        const inGenerator = await withTimeout(FOREVER, function* () {
          yield* sleep(1);
          return getCurrent();
        });
        return [getCurrent(), inGenerator, new Greenlet()] as const;
      },
    );
    return inAsync === me && inGenerator === me && getCurrent() === me &&
      childOf.spawningGreenlet === me &&
      childOf.spawnTreeLocals === me.spawnTreeLocals;
  },
}, async (body) => {
  assert(await spawn(body).get());
});

testBoth(
  "withTimeout() of 0 leaves the function what it can do without waiting",
  {
    async: async () => {
      const log: unknown[] = [];
      log.push(await withTimeout(0, () => "plain"));
      log.push(await withTimeout(0, () => sleep(FOREVER), { value: "late" }));
      return log;
    },
    generator: function* () {
      const log: unknown[] = [];
      log.push(yield* withTimeout(0, () => "plain"));
      log.push(yield* withTimeout(0, () => sleep(FOREVER), { value: "late" }));
      return log;
    },
  },
  async (body) => {
    assertEquals(await spawn(body).get(), ["plain", "late"]);
  },
);

Deno.test("withTimeout() limits each of many calls at once by itself, outside greenlets as well", async () => {
  const results = await Promise.all(
    Array.from({ length: 10 }, (_, n) =>
      withTimeout(
        n % 2 === 0 ? 1 : FOREVER,
        async () => {
          await sleep(n % 2 === 0 ? FOREVER : 1);
          return n;
        },
        { value: "late" },
      )),
  );
  assertEquals(results, [
    "late",
    1,
    "late",
    3,
    "late",
    5,
    "late",
    7,
    "late",
    9,
  ]);
});

Deno.test("withTimeout() lets go of a child that its function was joining", async () => {
  const child = spawn(sleep, FOREVER);
  const g = spawn(async () =>
    await withTimeout(1, () => child.get(), { value: "late" })
  );
  assertEquals(await g.get(), "late");
  assertFalse(child.dead);
  await child.kill();
});

Deno.test("withTimeout() that throws in a greenlet that shares its promise is told from that greenlet's own", async () => {
  using failures = new Failures();
  const shared = Promise.withResolvers<unknown>();
  const other = spawn(async () => {
    await shared.promise;
  });
  const g = spawn(async () => {
    const wait = withTimeout(1, () => sleep(FOREVER));
    shared.resolve(wait);
    await assertRejects(() => wait, Timeout);
  });
  await g.get();
  await other.join();
  assertInstanceOf(other.exception, GreenletError);
  assertNotStrictEquals(other.exception.cause, undefined);
  assertEquals(failures.errors, [other.exception]);
});

Deno.test("withTimeout() refuses a bad time, and anything but a function", () => {
  assertThrows(() => withTimeout("5" as never, () => {}), TypeError, '"5"');
  assertThrows(() => withTimeout(NaN, () => {}), RangeError, "received NaN");
  for (const run of [undefined, null, 5, {}]) {
    assertThrows(
      () => withTimeout(5, run as never),
      TypeError,
      `received ${run}`,
    );
  }
});

Deno.test("withTimeout() and Timeout leave no timer behind when they are over", async () => {
  clock.useRealTime();
  const start = performance.now();
  const { out, err, code } = await runScript(`
    const keep = Timeout.start(${FOREVER});
    keep.close();
    await withTimeout(${FOREVER}, () => sleep(1));
    await withTimeout(${FOREVER}, () => 1);
    const g = spawn(() => withTimeout(${FOREVER}, () => sleep(${FOREVER})));
    await idle();
    await g.kill();
    console.log("end");
  `);
  assertEquals([out, err, code], [["end"], "", 0]);
  assertLess(performance.now() - start, FOREVER);
});

Deno.test("Timeouts by the thousand are thrown each in its own greenlet", async () => {
  const log: boolean[] = [];
  const greenlets = Array.from(
    { length: 10_000 },
    (_, n) =>
      n % 2 === 0
        ? spawn(async () => {
          using timeout = Timeout.start(n % 7);
          try {
            await sleep(FOREVER);
          } catch (error) {
            log.push(error === timeout);
          }
        })
        : spawn(function* () {
          using timeout = Timeout.start(n % 7);
          try {
            yield* sleep(FOREVER);
          } catch (error) {
            log.push(error === timeout);
          }
        }),
  );
  for (const g of greenlets) await g.get();
  assertEquals(log.length, 10_000);
  assert(log.every((own) => own));
  await killAll(greenlets);
});

for (
  const [end, body] of Object.entries({
    "returns": async () => {
      Timeout.start(60_000);
      await sleep(1);
    },
    "fails": async () => {
      Timeout.start(60_000);
      await sleep(1);
      throw new GreenletExit();
    },
    "returns from withTimeout()": () =>
      withTimeout(60_000, async () => {
        Timeout.start(60_000);
        await sleep(1);
      }),
    "is a generator that returns": function* () {
      Timeout.start(60_000);
      yield* sleep(1);
    },
  })
) {
  // The clock sees to it that no timer is left.
  Deno.test(`Timeout.start() leaves no timer behind when the greenlet ${end} without closing it`, async () => {
    await spawn(body as () => unknown).join();
  });
}

for (const [name, call] of Object.entries(INNER)) {
  Deno.test(`Timeout.start() in a function of ${name} goes on in its greenlet`, async () => {
    const log: unknown[] = [];
    await spawn(async () => {
      let timeout: Timeout | undefined;
      await call(async () => {
        timeout = Timeout.start(5);
        await sleep(0);
      });
      log.push(timeout!.pending);
      try {
        await sleep(FOREVER);
      } catch (error) {
        log.push(error === timeout);
      }
      await call(async () => {
        timeout!.start();
        await sleep(0);
      });
      timeout!.close();
      await sleep(20);
      log.push(timeout!.pending);
    }).join();
    assertEquals(log, [true, true, false]);
  });

  Deno.test(`Timeout.start() in a function of ${name} ends with that in main, which others wait in`, async () => {
    let timeout: Timeout | undefined;
    await call(async () => {
      timeout = Timeout.start(5);
      await sleep(0);
    });
    assertFalse(timeout!.pending);
    await sleep(20);
  });

  Deno.test(`Timeout.start() in a function of ${name} leaves no timer behind when the greenlet has ended first`, async () => {
    const log: string[] = [];
    await spawn(async () => {
      call(async () => {
        Timeout.start(FOREVER);
        await sleep(5);
        log.push("inside");
      });
      await sleep(0);
      log.push("outside");
    }).join();
    while (log.length < 2) await sleep(1);
    await settle();
    assertEquals(log, ["outside", "inside"]);
  });
}

Deno.test("Timeout.start() goes on in what a body has left behind", async () => {
  const log: string[] = [];
  await spawn(async () => {
    (async () => {
      using limit = Timeout.start(5);
      await sleep(60_000).catch((error) => log.push(String(error === limit)));
    })();
    await sleep(0);
  }).join();
  while (log.length === 0) await sleep(1);
  assertEquals(log, ["true"]);
});
