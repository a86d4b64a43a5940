import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import {
  AsyncResult,
  getCurrent,
  getHub,
  type Greenlet,
  GreenletError,
  GreenletExit,
  Group,
  joinAll,
  kill,
  monkey,
  type Nursery,
  nursery,
  Queue,
  run,
  ShutDown,
  sleep,
  spawn,
  spawnRaw,
  Timeout,
  until,
  wait,
  Waiter,
  withTimeout,
} from "../../mod.ts";
import { type Bodies, runScript, settle, testBoth } from "../_bodies.ts";

/** Long enough never to be over. */
const FOREVER = 1e9;

/** Keeps the errors that are reported to the hub, at the time when they are. */
class Told implements Disposable {
  readonly contexts: unknown[] = [];
  readonly errors: unknown[] = [];
  readonly #handleError = getHub().handleError;

  constructor() {
    getHub().handleError = (context, error) => {
      this.contexts.push(context);
      this.errors.push(error);
    };
  }

  [Symbol.dispose](): void {
    getHub().handleError = this.#handleError;
  }
}

/** Collects what `console.error` prints while this is in use. */
class Stderr implements Disposable {
  readonly lines: unknown[] = [];
  readonly #error = console.error;

  constructor() {
    console.error = (...args) => void this.lines.push(...args);
  }

  [Symbol.dispose](): void {
    console.error = this.#error;
  }
}

/** The unhandled rejections that a listener hears of while this is in use. */
class Rejections implements Disposable {
  readonly reasons: unknown[] = [];
  readonly #listener = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    this.reasons.push(event.reason);
  };

  constructor() {
    globalThis.addEventListener("unhandledrejection", this.#listener);
  }

  [Symbol.dispose](): void {
    globalThis.removeEventListener("unhandledrejection", this.#listener);
  }
}

/** Bodies that fail after a wait. */
const FAILING: Bodies<[Error], void> = {
  async async(error) {
    await sleep(0);
    throw error;
  },
  *generator(error) {
    yield* sleep(0);
    throw error;
  },
};

// --- Errors that are taken

/** Each way to take a greenlet's error. */
const TAKERS: Record<string, (g: Greenlet<void>) => unknown> = {
  "get()": (g) => assertRejects(() => g.get()),
  "get() with a timeout": (g) =>
    assertRejects(() => g.get({ timeout: FOREVER })),
  "get() in a greenlet": (g) => spawn(() => assertRejects(() => g.get())),
  "get() in a generator body": (g) =>
    spawn(function* () {
      try {
        yield* g.get();
      } catch {
        // Taken.
      }
    }),
  "get() under withTimeout()": (g) =>
    assertRejects(() => withTimeout(FOREVER, () => g.get())),
  "joinAll() with raiseError": (g) =>
    assertRejects(() => joinAll([g], { raiseError: true })),
  "linkException()": (g) => g.linkException(() => {}),
  "linkException() of an AsyncResult": (g) =>
    g.linkException(new AsyncResult<void>()),
  "link() of an AsyncResult": (g) => g.link(new AsyncResult<void>()),
  "rawlink() of an AsyncResult": (g) => g.rawlink(new AsyncResult<void>()),
};

for (const [name, take] of Object.entries(TAKERS)) {
  testBoth(
    `${name} takes an error before the greenlet dies`,
    FAILING,
    async (body) => {
      using told = new Told();
      const g = spawn(body, new Error("expected"));
      await take(g);
      await g.join();
      await settle();
      assertEquals(told.errors, []);
    },
  );

  testBoth(
    `${name} takes an error in the turn in which the greenlet has died`,
    FAILING,
    async (body) => {
      using told = new Told();
      const g = spawn(body, new Error("expected"));
      await g.join();
      await take(g);
      await settle();
      assertEquals(told.errors, []);
    },
  );

  testBoth(
    `${name} takes no error that was reported before`,
    FAILING,
    async (body) => {
      using told = new Told();
      const error = new Error("expected");
      const g = spawn(body, error);
      await g.join();
      await settle();
      assertEquals(told.errors, [error]);
      await take(g);
      await settle();
      assertEquals(told.errors, [error]);
      assertStrictEquals(told.contexts[0], g);
    },
  );
}

/** Each way to wait for a greenlet's end that takes no error. */
const OTHERS: Record<string, (g: Greenlet<void>) => unknown> = {
  "nothing": () => {},
  "join()": (g) => g.join(),
  "joinAll()": (g) => joinAll([g]),
  "wait()": (g) => wait([g]),
  "link()": (g) => g.link(() => {}),
  "linkValue()": (g) => g.linkValue(() => {}),
  "linkValue() of an AsyncResult": (g) => g.linkValue(new AsyncResult<void>()),
  "rawlink()": (g) => g.rawlink(() => {}),
  "linkException() that is taken back": (g) => {
    const link = () => {};
    g.linkException(link);
    g.unlink(link);
  },
  "get() that times out before": (g) =>
    assertRejects(() => g.get({ block: false }), Timeout),
  "get() that is interrupted before": (g) => {
    const asking = spawn(() => g.get());
    asking.kill(undefined, { block: false });
  },
};

for (const [name, other] of Object.entries(OTHERS)) {
  testBoth(
    `${name} leaves an error to the hub, which reports it once`,
    FAILING,
    async (body) => {
      using told = new Told();
      const error = new Error("expected");
      const g = spawn(body, error);
      await other(g);
      await g.join();
      await settle();
      assertEquals(told.errors, [error]);
      assertStrictEquals(told.contexts[0], g);
    },
  );
}

Deno.test("joinAll() with raiseError takes the error that it throws, and the hub reports the others", async () => {
  using told = new Told();
  const errors = [new Error("first"), new Error("second")];
  const all = errors.map((error) => spawn(FAILING.async, error));
  const thrown = await assertRejects(() => joinAll(all, { raiseError: true }));
  await settle();
  assertEquals(told.errors, errors.filter((error) => error !== thrown));
  assertEquals(told.errors.length, 1);
});

Deno.test("Group.join() with raiseError takes the error that it throws, and the hub reports the others", async () => {
  using told = new Told();
  const group = new Group();
  const gate = new Waiter<void>();
  const thrown = new Error("thrown");
  const first = group.spawn(async () => {
    await gate.get();
    throw thrown;
  });
  const other = group.spawn(FAILING.async, new Error("other"));
  const joins = [1, 2].map(() =>
    assertRejects(() => group.join({ raiseError: true }))
  );
  const leaving = spawn(() => group.join({ raiseError: true }));
  await other.join();
  await settle();
  await leaving.kill();
  await settle();
  // It may be thrown yet.
  assertEquals(told.errors, []);
  gate.switch();
  assertEquals(await Promise.all(joins), [thrown, thrown]);
  await settle();
  assertEquals(told.contexts, [other]);
  assertStrictEquals(first.exception, thrown);
});

Deno.test("Group.join() with raiseError that is left leaves the errors to the hub", async () => {
  using told = new Told();
  const group = new Group();
  const error = new Error("expected");
  const sleeper = group.spawn(sleep, FOREVER);
  group.spawn(FAILING.async, error);
  const leaving = spawn(() => group.join({ raiseError: true }));
  await settle();
  assertEquals(told.errors, []);
  await leaving.kill();
  await settle();
  assertEquals(told.errors, [error]);
  await sleeper.kill();
});

Deno.test("nursery(), apply() and map() take the errors that they throw", async () => {
  using told = new Told();
  const error = new Error("expected");
  const boom = () => {
    throw error;
  };
  const group = new Group();
  await assertRejects(() => nursery((n) => void n.spawn(boom)));
  await assertRejects(() => group.apply(boom));
  await assertRejects(() => group.map(boom, [1]));
  await settle();
  assertEquals(told.errors, []);
});

testBoth(
  "nursery() takes the error of a child whose result its function gets",
  {
    async async(error: Error) {
      await nursery(async (n: Nursery) => {
        await n.spawn(FAILING.async, error).get();
      });
    },
    *generator(error: Error) {
      yield* nursery(function* (n: Nursery) {
        yield* n.spawn(FAILING.generator, error).get();
      });
    },
  },
  async (body) => {
    using told = new Told();
    const error = new Error("expected");
    const g = spawn(body, error);
    assertStrictEquals(await assertRejects(() => g.get()), error);
    await settle();
    assertEquals(told.errors, []);
  },
);

testBoth(
  "An error is taken by a waiter that is due in the turn of the death, where wake-ups are deferred",
  FAILING,
  async (body) => {
    using told = new Told();
    for (let i = 0; i < 20; i++) {
      const g = spawn(body, new Error("expected"));
      const asking = spawn(async () => {
        await g.join();
        await assertRejects(() => g.get());
      });
      useUpTheSlice(i);
      await asking.get();
    }
    await settle();
    assertEquals(told.errors, []);
  },
);

/** Has wake-ups set aside, some of them from now on. */
function useUpTheSlice(wakeups: number): void {
  const start = performance.now();
  while (performance.now() - start < 1);
  for (let i = 0; i < wakeups; i++) {
    const waiter = new Waiter<void>();
    waiter.get();
    waiter.switch();
  }
}

Deno.test("Errors are reported in the order of the deaths, before the errors of links", async () => {
  using told = new Told();
  const errors = ["first", "link of first", "second"].map((text) =>
    new Error(text)
  );
  const first = spawn(() => {
    throw errors[0];
  });
  first.rawlink(() => {
    throw errors[1];
  });
  spawn(FAILING.async, errors[2]!);
  await settle();
  assertEquals(told.errors, errors);
});

Deno.test("hub.handleError() is called outside greenlets, in the context of other storages that the greenlet had", async () => {
  const storage = new AsyncLocalStorage<string>();
  const hub = getHub();
  const { handleError } = hub;
  const seen: unknown[] = [];
  hub.handleError = () => void seen.push(storage.getStore(), getCurrent());
  try {
    storage.run("request 7", () => spawn(FAILING.async, new Error("expected")));
    await settle();
  } finally {
    hub.handleError = handleError;
  }
  assertEquals(seen.length, 2);
  assertEquals(seen[0], "request 7");
  assertStrictEquals(seen[1], hub);
});

const ENDS: Record<string, { end: string; code: number }> = {
  "Deno.exit()": { end: "Deno.exit(3);", code: 3 },
  "process.exit()": {
    end: `(await import("node:process")).default.exit(3);`,
    code: 3,
  },
  "an error at the top level": { end: `throw new Error("top");`, code: 1 },
  "an unhandled rejection": {
    end: `Promise.reject(new Error("top")); await new Promise(() => {});`,
    code: 1,
  },
  "an uncaught error": {
    end: `await new Promise(() => setTimeout(() => {
      const other = spawn(() => { throw new Error("other"); });
      other.switch();
      throw new Error("top");
    }));`,
    code: 1,
  },
  "its own end": { end: "", code: 0 },
};

for (const [name, { end, code }] of Object.entries(ENDS)) {
  Deno.test(`An error that no greenlet takes is printed once when the process ends in that turn, by ${name}`, async () => {
    const { err, ...output } = await runScript(`
      const g = spawn(async () => { throw new Error("expected"); });
      await g.join();
      ${end}
    `);
    assertEquals(output.code, code, err);
    assertEquals(err.match(/Error: expected/g)?.length, 1, err);
    if (name === "an uncaught error") assertStringIncludes(err, "Error: other");
  });
}

Deno.test("An error that another greenlet has taken is not printed when the process ends in that turn", async () => {
  const { err } = await runScript(`
    const g = spawn(async () => { throw new Error("expected"); });
    await g.get().catch(() => {});
    Deno.exit();
  `);
  assertEquals(err, "");
});

testBoth(
  "nursery() throws all errors when its function's error is that of another greenlet",
  {
    async async(other: Greenlet<void>, cleanUp: Error) {
      await nursery(async (n: Nursery) => {
        n.spawn(async () => {
          try {
            await sleep(FOREVER);
          } catch {
            throw cleanUp;
          }
        });
        await other.get();
      });
    },
    *generator(other: Greenlet<void>, cleanUp: Error) {
      yield* nursery(function* (n: Nursery) {
        n.spawn(function* () {
          try {
            yield* sleep(FOREVER);
          } catch {
            throw cleanUp;
          }
        });
        yield* other.get();
      });
    },
  },
  async (body) => {
    using told = new Told();
    const errors = [new Error("other"), new Error("clean-up")];
    const other = spawn(async () => {
      await settle();
      throw errors[0];
    });
    const g = spawn(body, other, errors[1]!);
    const error = await assertRejects(() => g.get(), AggregateError);
    assertEquals(error.errors, errors);
    await settle();
    assertEquals(told.errors, []);
  },
);

// --- Handlers that fail

/** Handlers of an application's own that fail, each in its way. */
const HANDLERS: Record<string, (context: unknown, error: unknown) => void> = {
  "that throws": () => {
    throw new Error("handler");
  },
  "whose promise rejects": async () => {
    await null;
    throw new Error("handler");
  },
};

for (const [name, handler] of Object.entries(HANDLERS)) {
  testBoth(
    `hub.handleError() ${name} is printed itself, with the error that it was given`,
    FAILING,
    async (body) => {
      using rejections = new Rejections();
      using stderr = new Stderr();
      const hub = getHub();
      const { handleError } = hub;
      hub.handleError = handler;
      const error = new Error("expected");
      const log: string[] = [];
      try {
        const g = spawn(body, error);
        g.rawlink(() => log.push("link"));
        await g.join();
        spawnRaw(body, error);
        await settle();
      } finally {
        hub.handleError = handleError;
      }
      const errors = stderr.lines.filter((line) => line instanceof Error);
      assertEquals(errors.map((one) => one.message).toSorted(), [
        "expected",
        "expected",
        "handler",
        "handler",
      ]);
      assertEquals(log, ["link"]);
      assertEquals(rejections.reasons, []);
    },
  );
}

Deno.test("hub.handleError that is not a function is reported, and the process lives", async () => {
  const { out, err, code } = await runScript(`
    getHub().handleError = null;
    await spawn(() => { throw new Error("expected"); }).join();
    await idle();
    console.log("alive");
  `);
  assertEquals([out, code], [["alive"], 0]);
  assertStringIncludes(err, "Error: expected");
  assertStringIncludes(err, "handleError is not a function");
});

Deno.test("hub.handleError() prints an error that can't be shown", async () => {
  const { out, err, code } = await runScript(`
    const strange = new Proxy(new Error(), {
      get() { throw new Error("no"); },
      has() { throw new Error("no"); },
      getOwnPropertyDescriptor() { throw new Error("no"); },
      ownKeys() { throw new Error("no"); },
    });
    const g = spawn(async () => { throw strange; });
    g.name = "worker";
    await g.join();
    await idle();
    console.log("alive");
  `);
  assertEquals([out, code], [["alive"], 0], err);
  assertStringIncludes(err, 'Greenlet "worker"');
});

// --- Errors that no greenlet takes

Deno.test("A GreenletExit is not printed, whatever it is thrown in", async () => {
  using told = new Told();
  const exit = () => {
    throw new GreenletExit();
  };
  const g = spawn(exit);
  g.link(exit);
  g.rawlink(exit);
  g.rawlink({ linked: exit });
  spawnRaw(exit);
  const waiting = spawn(() => until(new Promise(() => {}), exit));
  await settle();
  await waiting.kill();
  await settle();
  assertEquals(told.errors, []);
});

testBoth(
  "Queue.shutdown() ends a producer with a failure that is not printed",
  {
    async async(queue: Queue<number>) {
      for (let i = 0;; i++) await queue.put(i);
    },
    *generator(queue: Queue<number>): Generator<unknown, never> {
      for (let i = 0;; i++) yield* queue.put(i);
    },
  },
  async (body) => {
    using told = new Told();
    const queue = new Queue<number>(2);
    const producers = [spawn(body, queue), spawn(body, queue)];
    spawnRaw(body, queue);
    await settle();
    queue.shutdown();
    await joinAll(producers);
    const late = spawn(body, queue);
    await late.join();
    await settle();
    for (const g of [...producers, late]) {
      assertFalse(g.successful());
      assertInstanceOf(g.exception, ShutDown);
      await assertRejects(() => g.get(), ShutDown);
    }
    assertEquals(told.errors, []);
  },
);

// --- What wraps a kill or a Timeout

type Wrap = (error: unknown) => unknown;

/** Errors that are made of the error of an interrupt. */
const WRAPS: Record<string, Wrap> = {
  "an AggregateError": (error) => new AggregateError([error, error]),
  "an AggregateError with another error": (error) =>
    new AggregateError([new Error("mirror is down"), error]),
  "an error with it as its cause": (cause) => new Error("failed", { cause }),
  "a chain of causes": (error) => {
    let cause = error;
    for (let i = 0; i < 100; i++) cause = new Error(`${i}`, { cause });
    return cause;
  },
  "a SuppressedError of nothing else": (error) =>
    new SuppressedError(error, error),
  "a SuppressedError as compilers make it": (error) =>
    Object.assign(new Error("two"), {
      name: "SuppressedError",
      error,
      suppressed: error,
    }),
  "wrappings in each other": (error) =>
    new AggregateError([
      new Error("mirror is down"),
      new Error("failed", {
        cause: new SuppressedError(error, new AggregateError([error])),
      }),
    ]),
  "an error that is its own cause": (error) => {
    const first = new AggregateError([], "first");
    const second = new Error("second", { cause: first });
    first.cause = second;
    first.errors = [second, first, error];
    return first;
  },
  "the event of the web that tells of it": (error) =>
    new ErrorEvent("error", { error }),
  "the event of a package that tells of it": (error) =>
    new class {
      get type() {
        return "error";
      }
      get error() {
        return error;
      }
    }(),
  "an AggregateError beside what can't be read": (error) => {
    const strange = {
      get cause() {
        throw new Error("no");
      },
    };
    return new AggregateError([strange, error]);
  },
};

/** The number of errors beside the interrupt that a wrapping has; none, if it is not named. */
const BESIDE: Record<string, number> = {
  "an AggregateError with another error": 1,
  "wrappings in each other": 1,
  "an AggregateError beside what can't be read": 1,
};

/** A body that wraps what it is interrupted by. */
const WRAPPING: Bodies<[Wrap], void> = {
  async async(wrap) {
    try {
      await sleep(FOREVER);
    } catch (error) {
      throw wrap(error);
    }
  },
  *generator(wrap) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      throw wrap(error);
    }
  },
};

for (const [name, wrap] of Object.entries(WRAPS)) {
  testBoth(
    `Greenlet.kill() that the body wraps in ${name} is still a kill`,
    WRAPPING,
    async (body) => {
      using told = new Told();
      const exit = new GreenletExit();
      const g = spawn(body, wrap);
      const raw = spawnRaw(body, wrap);
      const limited = spawn(() => withTimeout(FOREVER, () => body(wrap)));
      const nursing = spawn(() => nursery(() => body(wrap)));
      const thrown = spawn(body, wrap);
      await settle();
      thrown.throw(exit);
      await joinAll([thrown]);
      for (const one of [g, limited, nursing]) await one.kill(exit);
      kill(raw, exit);
      await settle();
      for (const one of [g, limited, nursing, thrown]) {
        assert(one.successful());
        assertStrictEquals<unknown>(one.value, exit);
      }
      const all = [g, raw, limited, nursing, thrown];
      assertEquals(told.errors.length, (BESIDE[name] ?? 0) * all.length);
    },
  );

  testBoth(
    `Greenlet.kill() with the caller's own error that the body wraps in ${name} fails with that error`,
    WRAPPING,
    async (body) => {
      using _told = new Told();
      const error = new Error("stop");
      const g = spawn(body, wrap);
      await settle();
      await g.kill(error);
      assertStrictEquals(g.exception, error);
      await settle();
    },
  );

  testBoth(
    `Greenlet.throw() of the caller's own error that the body wraps in ${name} fails with the body's error`,
    WRAPPING,
    async (body) => {
      using told = new Told();
      let wrapping: unknown;
      const g = spawn(body, (error) => wrapping = wrap(error));
      await settle();
      g.throw(new Error("mine"));
      await g.join();
      assertStrictEquals(g.exception, wrapping);
      await settle();
      assertEquals(told.contexts, [g]);
    },
  );

  testBoth(
    `withTimeout() throws its Timeout that the function wraps in ${name}`,
    WRAPPING,
    async (body) => {
      let inner: unknown;
      const keep: Wrap = (error) => wrap(inner = error);
      for (const outside of [true, false]) {
        const limited = () => withTimeout(1, () => body(keep));
        const error = await assertRejects(
          () => outside ? limited() : spawn(limited).get(),
          Timeout,
        );
        assertStrictEquals(error, inner);
      }
      const value = await withTimeout(1, () => body(keep), { value: "late" });
      assertEquals(value, "late");
      const nested = await assertRejects(
        () => withTimeout(1, () => withTimeout(FOREVER, () => body(keep))),
        Timeout,
      );
      assertStrictEquals(nested, inner);
    },
  );

  testBoth(
    `Timeout.start() that the body wraps in ${name} is still that Timeout`,
    WRAPPING,
    async (body) => {
      let timeout!: Timeout;
      const g = spawn(async () => {
        timeout = Timeout.start(1);
        await until(spawnless(body, wrap));
      });
      assertStrictEquals(await assertRejects(() => g.get()), timeout);
    },
  );

  testBoth(
    `nursery() that closes takes ${name} of its exit for no failure of its function`,
    WRAPPING,
    async (body) => {
      const error = new Error("child");
      const thrown = await assertRejects(() =>
        nursery((n: Nursery) => {
          n.spawn(FAILING.async, error);
          n.spawn(body, wrap);
          return body(wrap);
        })
      );
      assertStrictEquals(thrown, error);
    },
  );

  testBoth(
    `run() takes ${name} of the kill of its main greenlet for the kill`,
    WRAPPING,
    async (body) => {
      const exit = new GreenletExit();
      const result: unknown = await run(() => {
        const me = getCurrent() as Greenlet;
        spawn(() => void me.kill(exit, { block: false }));
        return body(wrap);
      });
      assertStrictEquals(result, exit);
    },
  );
}

/** Runs a body of either kind in the current greenlet. */
function spawnless(
  body: (wrap: Wrap) => unknown,
  wrap: Wrap,
): PromiseLike<unknown> {
  return withTimeout(FOREVER, () => body(wrap));
}

testBoth("Promise.any() of waits is killed and timed out as a wait", {
  async async() {
    await Promise.any([sleep(FOREVER), sleep(FOREVER)]);
  },
  *generator() {
    yield* until(Promise.any([sleep(FOREVER), sleep(FOREVER)]));
  },
}, async (body) => {
  using told = new Told();
  const g = spawn(body);
  await settle();
  await g.kill();
  assert(g.successful());
  await assertRejects(() => withTimeout(1, body), Timeout);
  await settle();
  assertEquals(told.errors, []);
});

Deno.test("Greenlet.kill() is found in chains that are longer than the stack is deep", async () => {
  using rejections = new Rejections();
  using _told = new Told();
  const links: ((error: unknown, exit: unknown) => unknown)[] = [
    (cause) => ({ cause }),
    (suppressed, error) => ({ error, suppressed }),
  ];
  for (const link of links) {
    const wrap = (exit: unknown) => {
      let error: unknown = { error: exit, suppressed: exit };
      for (let i = 0; i < 20_000; i++) error = link(error, exit);
      return error;
    };
    const g = spawn(async () => {
      void WRAPPING.async(wrap);
      await WRAPPING.async(wrap);
    });
    await settle();
    await g.kill();
    await settle();
    assert(g.successful());
  }
  assertEquals(rejections.reasons, []);
});

Deno.test("A SuppressedError of a kill and of something else is a kill, and the rest is reported", async () => {
  using told = new Told();
  const other = new Error("clean-up");
  const wraps: Wrap[] = [
    (error) => new SuppressedError(other, error),
    (error) => new SuppressedError(error, other),
  ];
  for (const wrap of wraps) {
    const g = spawn(WRAPPING.async, wrap);
    await settle();
    await g.kill();
    assert(g.successful());
    await settle();
    assertStrictEquals(told.errors.pop(), other);
    assertEquals(told.errors, []);
  }
});

Deno.test("An error that lists Timeouts which were caught comes out as the body throws it", async () => {
  const body = async () => {
    const errors: unknown[] = [];
    for (let i = 0; i < 2; i++) {
      using _timeout = Timeout.start(1);
      try {
        await sleep(FOREVER);
      } catch (error) {
        errors.push(error);
      }
    }
    throw new AggregateError(errors, "two attempts");
  };
  const error = await assertRejects(() => spawn(body).get(), AggregateError);
  assertEquals(error.message, "two attempts");
  const limited = async () => {
    try {
      await withTimeout(1, () => sleep(FOREVER));
    } catch (cause) {
      throw new Error("too slow", { cause });
    }
  };
  await assertRejects(() => spawn(limited).get(), Error, "too slow");
  await assertRejects(
    () => withTimeout(FOREVER, limited),
    Error,
    "too slow",
  );
});

Deno.test("A kill of another greenlet that an error wraps is a failure, and is printed", async () => {
  using told = new Told();
  const shared = Promise.withResolvers<void>();
  const bodies = [
    () => Promise.any([shared.promise]),
    async () => {
      try {
        await shared.promise;
      } catch (cause) {
        throw new Error("refresh failed", { cause });
      }
    },
  ];
  const others = bodies.map((body) => spawn(body));
  const g = spawn(async () => {
    try {
      await sleep(FOREVER);
    } catch (error) {
      shared.reject(error);
      throw error;
    }
  });
  await settle();
  await g.kill();
  await joinAll(others);
  await settle();
  assert(g.successful());
  for (const other of others) assertFalse(other.successful());
  assertEquals(told.contexts, others);
});

// --- Unhandled rejections

const load = async () => await sleep(FOREVER);

/** Handles errors as pooledMap of @std/async does: its reader may not be there any more. */
function pooledMap<T, R>(
  limit: number,
  items: Iterable<T>,
  call: (item: T) => Promise<R>,
): ReadableStream<R> {
  const stream = new TransformStream<Promise<R>, R>({
    async transform(promise, controller) {
      try {
        controller.enqueue(await promise);
      } catch (error) {
        if (error instanceof AggregateError) controller.error(error);
      }
    },
  });
  (async () => {
    const writer = stream.writable.getWriter();
    const calls: Promise<unknown>[] = [];
    try {
      for (const item of items) {
        const result = Promise.resolve().then(() => call(item));
        writer.write(result);
        const ended: Promise<unknown> = result.then(() =>
          calls.splice(calls.indexOf(ended), 1)
        );
        calls.push(ended);
        if (calls.length >= limit) await Promise.race(calls);
      }
      await Promise.all(calls);
      writer.close();
    } catch {
      const failed = await Promise.allSettled(calls);
      const errors = failed.filter((one) => one.status === "rejected")
        .map(({ reason }) => reason);
      const error = new AggregateError(errors);
      writer.write(Promise.reject(error)).catch(() => {});
    }
  })();
  return stream.readable;
}

/** Functions that begin calls, and are interrupted before they await them. */
const BEGINNING: Record<string, () => unknown> = {
  "a call that is awaited later": async () => {
    const p = load();
    await sleep(FOREVER);
    return await p;
  },
  "a call of a generator body": function* () {
    const p = load();
    yield* sleep(FOREVER);
    yield* until(p);
  },
  "a call whose clean-up waits": async () => {
    const p = (async () => {
      try {
        await load();
      } finally {
        await sleep(1);
      }
    })();
    try {
      await sleep(FOREVER);
    } finally {
      await sleep(3);
    }
    await p;
  },
  "calls that wrap the error": async () => {
    const p = load().catch((cause) => {
      throw new Error("load failed", { cause });
    });
    const q = Promise.any([load(), load()]);
    await sleep(FOREVER);
    await p;
    await q;
  },
  "a call in a limit of its own": async () => {
    const p = withTimeout(FOREVER, async () => {
      const inner = load();
      await sleep(FOREVER);
      await inner;
    });
    const q = (async () => await p)();
    await sleep(FOREVER);
    await q;
  },
  "calls that are never awaited": async () => {
    load();
    Promise.all([load(), load()]);
    await sleep(FOREVER);
  },
  "a pool of calls": async () => {
    for await (const result of pooledMap(2, [1, 2, 3], load)) void result;
  },
};

for (const [name, body] of Object.entries(BEGINNING)) {
  for (const patched of name === "a pool of calls" ? [false, true] : [false]) {
    const patch = patched ? " under patch()" : "";

    Deno.test(`withTimeout() that ends ${name}${patch} causes no unhandled rejection, in main, in a greenlet, with a value`, async () => {
      using _patched = patched ? monkey.patch() : null;
      using rejections = new Rejections();
      const limited = () => withTimeout(1, body);
      await assertRejects(limited, Timeout);
      await assertRejects(() => spawn(limited).get(), Timeout);
      await withTimeout(1, body, { value: "late" });
      await assertRejects(
        () => withTimeout(1, () => withTimeout(FOREVER, body)),
        Timeout,
      );
      await settle();
      assertEquals(rejections.reasons, []);
    });

    Deno.test(`kill(), throw() and Timeout.start() that end ${name}${patch} cause no unhandled rejection`, async () => {
      using _patched = patched ? monkey.patch() : null;
      using rejections = new Rejections();
      using _told = new Told();
      const killed = spawn(body);
      const stopped = spawn(body);
      const thrown = spawn(body);
      const limited = spawn(async () => {
        using _timeout = Timeout.start(1);
        await withTimeout(Infinity, body);
      });
      const nursing = spawn(() => nursery(body));
      await settle();
      await killed.kill();
      await stopped.kill(new Error("stop"));
      await assertRejects(() => stopped.get());
      thrown.throw(new Error("thrown"));
      await assertRejects(() => thrown.get());
      await assertRejects(() => limited.get());
      await nursing.kill();
      // Their clean-up takes 1 ms.
      await sleep(5);
      await settle();
      assertEquals(rejections.reasons, []);
    });
  }
}

Deno.test("A process whose own listeners for unhandled rejections exit lives on after an interrupt", async () => {
  const { out, err, code } = await runScript(`
    const { default: process } = await import("node:process");
    globalThis.addEventListener("unhandledrejection", () => Deno.exit(3));
    globalThis.onunhandledrejection = () => Deno.exit(4);
    process.on("unhandledRejection", () => Deno.exit(5));
    process.on("uncaughtException", () => Deno.exit(6));
    const body = async () => {
      const p = (async () => await sleep(1e6))();
      await sleep(1e6);
      return await p;
    };
    await withTimeout(5, body).catch(() => {});
    await spawn(() => withTimeout(5, body)).get().catch(() => {});
    const g = spawn(body);
    await idle();
    await g.kill();
    await idle();
    console.log("alive");
  `);
  assertEquals([out, err, code], [["alive"], "", 0]);
});

Deno.test("A listener for unhandled rejections that is older than the library hears of no expected interrupt", async () => {
  const library = new URL("../../mod.ts", import.meta.url).href;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      "-q",
      `globalThis.addEventListener("unhandledrejection", () => Deno.exit(3));
      globalThis.onunhandledrejection = () => Deno.exit(4);
      const { idle, sleep, spawn, withTimeout } = await import("${library}");
      const body = async () => {
        const p = (async () => await sleep(1e6))();
        await sleep(1e6);
        await p;
      };
      await withTimeout(1, body).catch(() => {});
      const g = spawn(body);
      await idle();
      await g.kill();
      await idle();
      console.log("alive");`,
    ],
  }).output();
  const decoder = new TextDecoder();
  assertEquals(
    [decoder.decode(stdout), decoder.decode(stderr), code],
    ["alive\n", "", 0],
  );
});

/** Calls that fail by an interrupt of something else, as their result. */
const RESULTS: Record<string, () => PromiseLike<unknown>> = {
  "a withTimeout() of its own": () => withTimeout(1, () => sleep(FOREVER)),
  "a withTimeout() around a foreign promise": () =>
    withTimeout(1, () => new Promise(() => {})),
  "a withTimeout() in a longer one": () =>
    withTimeout(FOREVER, () => withTimeout(1, () => sleep(FOREVER))),
  "a withTimeout() in a nursery": () =>
    nursery((n: Nursery) => {
      n.spawn(sleep, FOREVER);
      return withTimeout(1, () => sleep(FOREVER));
    }),
  "Promise.any() of a withTimeout() of its own": () =>
    Promise.any([withTimeout(1, () => sleep(FOREVER))]),
  "a greenlet that was killed by an error": () => {
    const other = spawn(sleep, FOREVER);
    spawn(() => other.kill(new Error("stop")));
    return other.get();
  },
  "joinAll() of a greenlet that was killed by an error": () => {
    const other = spawn(sleep, FOREVER);
    spawn(() => other.kill(new Error("stop")));
    return joinAll([other], { raiseError: true });
  },
};

/** Begins a call and forgets it. */
const FORGETTING: Record<string, (call: () => PromiseLike<unknown>) => void> = {
  "the call": (call) => void call(),
  "an async function around it": (call) => void (async () => await call())(),
};

for (const [name, call] of Object.entries(RESULTS)) {
  for (const [what, forget] of Object.entries(FORGETTING)) {
    testBoth(
      `An unhandled rejection is ${what} that fails by ${name}, in a greenlet`,
      {
        async async() {
          forget(call);
          await sleep(5);
        },
        *generator() {
          forget(call);
          yield* sleep(5);
        },
      },
      async (body) => {
        using rejections = new Rejections();
        await spawn(body).get();
        await settle();
        assertEquals(rejections.reasons.length, 1);
      },
    );

    Deno.test(`An unhandled rejection is ${what} that fails by ${name}, in main`, async () => {
      using rejections = new Rejections();
      forget(call);
      await sleep(5);
      await settle();
      assertEquals(rejections.reasons.length, 1);
    });
  }
}

Deno.test("An unhandled rejection is a call whose end happens in another greenlet's context", async () => {
  using rejections = new Rejections();
  // Its timer is the first, so that all others go off in its context.
  const timer = spawn(sleep, 1);
  await settle();
  const calling = spawn(async () => {
    void withTimeout(3, () => new Promise(() => {}));
    const other = spawn(sleep, FOREVER);
    void other.get();
    await sleep(5);
    await other.kill(new Error("stop"));
  });
  await joinAll([timer, calling]);
  await settle();
  assertEquals(rejections.reasons.length, 2);
});

for (const where of ["main", "a greenlet"]) {
  Deno.test(`withTimeout() that is not awaited ends the process by its Timeout, in ${where}`, async () => {
    const body = `async () => {
      void (async () => await withTimeout(1, () => sleep(1e6)))();
      await sleep(1e5);
    }`;
    const { out, err, code } = await runScript(
      where === "main"
        ? `await (${body})(); console.log("went on");`
        : `await spawn(${body}).join(); console.log("went on");`,
    );
    assertEquals([out, code], [[], 1]);
    assertStringIncludes(err, "Timed out after 1 ms");
  });
}

Deno.test("An unhandled rejection is an AggregateError that holds another error than an interrupt", async () => {
  using rejections = new Rejections();
  const other = new Error("other");
  const errors: unknown[] = [];
  const g = spawn(async () => {
    const rejected = async (wrap: Wrap) => {
      try {
        await sleep(FOREVER);
      } catch (error) {
        errors.push(wrap(error));
        throw errors.at(-1);
      }
    };
    void rejected((error) => new AggregateError([error, other]));
    void rejected((error) => new SuppressedError(other, error));
    void rejected(() => new Error("failed", { cause: other }));
    void rejected(() => new AggregateError([]));
    await sleep(FOREVER);
  });
  await settle();
  await g.kill();
  await settle();
  assertEquals(rejections.reasons.length, 4);
  assertEquals(new Set(rejections.reasons), new Set(errors));
});

Deno.test("An error that explains the interrupt of another greenlet is an unhandled rejection", async () => {
  using rejections = new Rejections();
  using _told = new Told();
  const shared = Promise.withResolvers<void>();
  const g = spawn(async () => {
    try {
      await sleep(FOREVER);
    } catch (error) {
      shared.reject(error);
      throw error;
    }
  });
  const other = spawn(async () => {
    void (async () => await until(shared.promise))();
    await sleep(0);
    await g.join();
  });
  await settle();
  await g.kill();
  await other.get();
  await settle();
  assertEquals(rejections.reasons.length, 1);
  assertInstanceOf(rejections.reasons[0], GreenletError);
});

Deno.test("A Timeout that main does not catch ends the process", async () => {
  for (
    const script of [
      "await withTimeout(1, () => sleep(1e6));",
      "await withTimeout(1, () => Promise.any([sleep(1e6)]));",
      "Timeout.start(1); await sleep(1e6);",
      "(async () => { Timeout.start(1); await sleep(1e6); })();",
    ]
  ) {
    const { err, code } = await runScript(script);
    assertEquals(code, 1, script);
    assertStringIncludes(err, "Timed out after 1 ms");
  }
});
