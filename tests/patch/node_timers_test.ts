import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import { once } from "node:events";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { mock } from "node:test";
import timersDefault, {
  clearInterval as namedClearInterval,
  clearTimeout as namedClearTimeout,
  promises as namedPromises,
  setImmediate as namedSetImmediate,
  setInterval as namedSetInterval,
  setTimeout as namedSetTimeout,
} from "node:timers";
import * as timersNamespace from "node:timers";
import promisesDefault, {
  scheduler,
  setImmediate as turn,
  setInterval as every,
  setTimeout as wait,
} from "node:timers/promises";
import * as promisesNamespace from "node:timers/promises";
import process from "node:process";
import { promisify } from "node:util";
import {
  getCurrent,
  getHub,
  Greenlet,
  GreenletError,
  GreenletExit,
  joinAll,
  kill,
  patch,
  sleep,
  spawn,
  spawnLater,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { Failures, runScript, settle, testBoth } from "../_bodies.ts";
import { Uncaught } from "../_uncaught.ts";
import { testRandomly } from "../_random.ts";
import { Gate, when } from "../_waits.ts";

/** Longer than any test: what is still set when a test ends, the sanitizers see. */
const LONG = 100_000_000;

const require = createRequire(import.meta.url);
const { setTimeout: taken, setInterval: takenInterval } = globalThis;
const required = require("timers") as typeof timersDefault;
const { setTimeout: requiredSetTimeout, setInterval: requiredSetInterval } =
  required;

/** The functions, whatever their types say. */
interface Timers {
  setTimeout: (
    callback: (...args: never[]) => unknown,
    ms?: number,
    ...args: unknown[]
  ) => NodeJS.Timeout;
  setInterval: Timers["setTimeout"];
  setImmediate: (
    callback: (...args: never[]) => unknown,
    ...args: unknown[]
  ) => unknown;
  clearTimeout: (timer?: unknown) => void;
  clearInterval: (timer?: unknown) => void;
  clearImmediate: (immediate?: unknown) => void;
}

/** Every way to the functions that a program may have taken before `patch()`. */
const ways = Object.entries({
  "of the global object": () => globalThis,
  "taken from the global object": () => ({
    ...byName,
    setTimeout: taken,
    setInterval: takenInterval,
  }),
  "imported by name": () => byName,
  "of the default import": () => timersDefault,
  "of the namespace": () => timersNamespace,
  "of require()": () => required,
  "taken from require()": () => ({
    ...byName,
    setTimeout: requiredSetTimeout,
    setInterval: requiredSetInterval,
  }),
}) as unknown as [name: string, way: () => Timers][];
const byName = {
  setTimeout: namedSetTimeout,
  setInterval: namedSetInterval,
  clearTimeout: namedClearTimeout,
  clearInterval: namedClearInterval,
};

const promiseWays = {
  "imported by name": () => ({ setTimeout: wait, setInterval: every }),
  "of the default import": () => promisesDefault,
  "of the namespace": () => promisesNamespace,
  "of require()": () => require("node:timers/promises") as typeof namedPromises,
  "of node:timers": () => timersDefault.promises,
  "of node:timers, by name": () => namedPromises,
};

/** A body that says how it has ended. */
async function cleaning(
  log: unknown[],
  body: () => PromiseLike<unknown>,
): Promise<void> {
  try {
    await body();
    log.push("over");
  } finally {
    log.push("cleaned up");
  }
}

/** Kills it and times it out, in all the ways there are; it has to end at once. */
async function interruptInEveryWay(
  body: () => PromiseLike<unknown>,
): Promise<void> {
  const log: unknown[] = [];
  const clean = () => cleaning(log, body);
  const limited = () => withTimeout(1, clean);
  const ways: (() => Promise<unknown>)[] = [
    // With grace it would never end if it did not at once.
    ...[LONG, 0].map((grace) => async () => {
      const killed = spawn(clean);
      await sleep(1);
      await killed.kill(undefined, { grace });
      assertInstanceOf(killed.value, GreenletExit);
    }),
    () => assertRejects(limited, Timeout),
    () => spawn(() => assertRejects(limited, Timeout)).get(),
    () =>
      spawn(async () => {
        using _ = Timeout.start(1);
        await assertRejects(clean, Timeout);
      }).get(),
    // Held, as it has come between two waits.
    async () => {
      const held = spawn(async () => {
        kill(getCurrent(), undefined, { block: false });
        await clean();
      });
      await held.join();
      assertInstanceOf(held.value, GreenletExit);
    },
  ];
  await Promise.all(ways.map((way) => way()));
  assertEquals(log, new Array(6).fill("cleaned up"));
  // Clearing a timer that was never set does nothing.
  await settle();
  const left = process.getActiveResourcesInfo();
  assertFalse(left.includes("Timeout"), String(left));
}

for (const [name, way] of ways) {
  Deno.test(`setTimeout() ${name} runs its callback as a greenlet of its own`, async () => {
    using _ = patch();
    const { setTimeout } = way();
    const request = new AsyncLocalStorage<string>();
    const { promise, resolve } = Promise.withResolvers<void>();
    const seen: unknown[] = [];
    const setter = request.run("request 1", () =>
      spawn(() => {
        const timer = setTimeout(
          async function callback(this: unknown, ...args: unknown[]) {
            const current = getCurrent() as Greenlet;
            seen.push(current instanceof Greenlet, current === setter);
            seen.push(current.spawningGreenlet === setter);
            seen.push(String(current).includes("callback"));
            seen.push(this === timer as unknown, ...args);
            await sleep(1);
            seen.push(getCurrent() === current, request.getStore());
            resolve();
          },
          1,
          "one",
          2,
        );
        assertEquals(seen, []);
      }));
    await setter.get();
    await promise;
    assertEquals(seen, [
      ...[true, false, true, true],
      ...[true, "one", 2],
      ...[true, "request 1"],
    ]);
  });

  Deno.test(`setTimeout() ${name} in the promise idiom can be interrupted`, async () => {
    using _ = patch();
    const { setTimeout } = way();
    await interruptInEveryWay(() =>
      new Promise((resolve) => setTimeout(resolve, LONG))
    );
    await interruptInEveryWay(() =>
      new Promise((_, reject) => setTimeout(reject, LONG))
    );
    // It waits otherwise.
    const start = performance.now();
    const value = await spawn(() =>
      new Promise((resolve: (...args: unknown[]) => void) =>
        setTimeout(resolve, 5, "value")
      )
    ).get();
    assertEquals(value, "value");
    assertGreaterOrEqual(performance.now() - start, 4);
  });

  Deno.test(`setInterval() ${name} in the promise idiom can be interrupted`, async () => {
    using _ = patch();
    const { setInterval } = way();
    await interruptInEveryWay(() =>
      new Promise((resolve) => setInterval(resolve, LONG))
    );
  });

  Deno.test(`setInterval() ${name} runs a greenlet each time, and goes on after an error`, async () => {
    using _ = patch();
    using told = new Uncaught();
    const { setInterval, clearInterval } = way();
    const greenlets = new Set<unknown>();
    const { promise, resolve } = Promise.withResolvers<void>();
    await spawn(async () => {
      const me = getCurrent();
      const timer = setInterval(
        (...args: unknown[]) => {
          assertEquals(args, ["arg"]);
          assert(getCurrent() !== me);
          greenlets.add(getCurrent());
          if (greenlets.size < 4) throw new Error("again");
          clearInterval(timer);
          resolve();
        },
        1,
        "arg",
      );
      await until(promise);
    }).get();
    // It does not come again, for which it would have had time.
    await new Promise((resolve) => setTimeout(resolve, 3));
    assertEquals(greenlets.size, 4);
    for (const greenlet of greenlets) assertInstanceOf(greenlet, Greenlet);
    assertEquals(told.errors.length, 3);
  });

  Deno.test(`clearTimeout() ${name} clears timers that were set in any way`, async () => {
    // The sanitizers see a timer that is not cleared.
    const never = () => {};
    const before = way().setTimeout(never, LONG);
    using _ = patch();
    const { clearTimeout, clearInterval } = way();
    await spawn(() => {
      clearTimeout(before);
      for (
        const { setTimeout, setInterval } of ways.map(([, way]) => way())
      ) {
        clearTimeout(setTimeout(never, LONG));
        clearTimeout(Number(setTimeout(never, LONG)));
        clearInterval(setInterval(never, LONG));
      }
    }).get();
  });

  Deno.test(`clearTimeout() ${name} leaves no wait: an interrupt is held for the next`, async () => {
    using _ = patch();
    const { clearTimeout } = way();
    for (const { setTimeout } of ways.map(([, way]) => way())) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const error = new Error("held");
      const greenlet = spawn(async () => {
        new Promise((resolve) => clearTimeout(setTimeout(resolve, LONG)));
        await promise;
        return await sleep(LONG).catch((error: unknown) => error);
      });
      await sleep(0);
      greenlet.throw(error);
      resolve();
      assertStrictEquals(await greenlet.get(), error);
    }
  });
}

Deno.test("setTimeout() outside greenlets is the runtime's own, in whatever way it was taken", async () => {
  using _ = patch();
  let spawned = 0;
  const count = () => void spawned++;
  Greenlet.addSpawnCallback(count);
  try {
    for (const { setTimeout } of ways.map(([, way]) => way())) {
      await new Promise<void>((resolve) => {
        setTimeout(() => {
          assertStrictEquals(getCurrent(), getHub() as never);
          resolve();
        }, 1);
      });
      const odd = [undefined, null, "code", {}] as never[];
      for (const callback of odd) {
        const { message } = assertThrows(() => taken(callback), TypeError);
        assertThrows(() => setTimeout(callback), TypeError, message);
      }
    }
    for await (const value of every(1, "value")) {
      assertEquals(value, "value");
      break;
    }
    assertEquals(await wait(1, "value"), "value");
    assertEquals(await turn("value"), "value");
    await scheduler.wait(1);
    await scheduler.yield();
  } finally {
    Greenlet.removeSpawnCallback(count);
  }
  assertEquals(spawned, 0);
});

Deno.test("setTimeout() of the global object and of node:timers are one function, patched or not", () => {
  const isOne = () =>
    (["setTimeout", "setInterval", "setImmediate"] as const).every((name) =>
      timersDefault[name] as unknown === globalThis[name]
    );
  assert(isOne());
  {
    using _ = patch();
    assert(isOne());
    assert(globalThis.setTimeout !== taken);
  }
  assert(isOne());
  assertStrictEquals(timersDefault.setTimeout, namedSetTimeout);
});

Deno.test("setTimeout() gives the runtime's own Timeout, with all its methods", async () => {
  using _ = patch();
  for (const { setTimeout } of ways.map(([, way]) => way())) {
    await spawn(async () => {
      let fired = 0;
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(() => {
        if (++fired === 2) resolve();
      }, LONG);
      assertStrictEquals(
        Object.getPrototypeOf(timer),
        Object.getPrototypeOf(outside),
      );
      assertEquals(Object.keys(timer), Object.keys(outside));
      assert(timer.hasRef());
      assertFalse(timer.unref().hasRef());
      assert(timer.ref().hasRef());
      assertStrictEquals(timer.refresh(), timer);
      assertEquals(typeof +timer, "number");
      timer.close();
      assertEquals(fired, 0);

      // Once more, when it has fired.
      const again = setTimeout(() => {
        if (++fired === 2) resolve();
      }, 1);
      while (fired === 0) await sleep(1);
      again.refresh();
      await until(promise);
      {
        // The sanitizers see it if it is not closed.
        using _ = setTimeout(() => fired++, LONG);
      }
      assertEquals(fired, 2);
    }).get();
  }
});
const outside = taken(() => {}) as unknown as NodeJS.Timeout;
outside.close();

Deno.test("setTimeout() whose Timeout is closed is no longer a wait", async () => {
  using _ = patch();
  for (const { setTimeout } of ways.map(([, way]) => way())) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const error = new Error("held");
    const greenlet = spawn(async () => {
      new Promise((resolve) => {
        setTimeout(resolve, LONG).close();
      });
      await promise;
      return await sleep(LONG).catch((error: unknown) => error);
    });
    await sleep(0);
    greenlet.throw(error);
    resolve();
    assertStrictEquals(await greenlet.get(), error);
  }
});

Deno.test("setTimeout() leaves the runtime's own timers alone", async () => {
  using _ = patch();
  const spawned: Greenlet[] = [];
  const server = createServer((socket) => socket.resume()).listen(0);
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  await spawn(async () => {
    const add = (greenlet: Greenlet) => void spawned.push(greenlet);
    Greenlet.addSpawnCallback(add);
    try {
      const socket = connect(port, "127.0.0.1");
      // By one of these.
      socket.setTimeout(5);
      await until(once(socket, "timeout"));
      socket.destroy();
      await until(once(socket, "close"));
    } finally {
      Greenlet.removeSpawnCallback(add);
    }
  }).get();
  server.close();
  await once(server, "close");
  assertEquals(spawned, []);
});

Deno.test("setTimeout() leaves the hub's timer alone, wherever it was set", async () => {
  using _ = patch();
  await getHub().join();
  let spawned = 0;
  const count = () => void spawned++;
  await spawn(async () => {
    Greenlet.addSpawnCallback(count);
    // The first timer of all is set by the runtime.
    await sleep(1);
    await withTimeout(1, () => sleep(LONG), { value: 1 });
    Greenlet.removeSpawnCallback(count);
  }).get();
  assertEquals(spawned, 0);
});

for (const [name, way] of Object.entries(promiseWays)) {
  Deno.test(`node:timers/promises setTimeout() ${name} can be interrupted`, async () => {
    using _ = patch();
    const { setTimeout } = way();
    await interruptInEveryWay(() => setTimeout(LONG));
    await interruptInEveryWay(() => setTimeout(LONG, "value", { ref: false }));
    const { signal } = new AbortController();
    await interruptInEveryWay(() => setTimeout(LONG, "value", { signal }));
    assertEquals(await spawn(() => setTimeout(1, "value")).get(), "value");
  });

  Deno.test(`node:timers/promises setInterval() ${name} can be interrupted`, async () => {
    using _ = patch();
    const { setInterval } = way();
    for (const ms of [1, LONG]) {
      await interruptInEveryWay(async () => {
        for await (const _ of setInterval(ms));
      });
      const { signal } = new AbortController();
      await interruptInEveryWay(async () => {
        for await (const _ of setInterval(ms, "value", { signal }));
      });
    }
    const values = await spawn(async () => {
      const values: unknown[] = [];
      for await (const value of setInterval(1, "value")) {
        if (values.push(value) === 3) return values;
      }
    }).get();
    assertEquals(values, ["value", "value", "value"]);
  });
}

Deno.test("node:timers/promises scheduler can be interrupted", async () => {
  using _ = patch();
  await interruptInEveryWay(() => scheduler.wait(LONG));
  await interruptInEveryWay(async () => {
    for (;;) await scheduler.yield();
  });
  await spawn(async () => {
    await scheduler.wait(1);
    await scheduler.yield();
  }).get();
});

Deno.test("promisify() of the functions of node:timers can be interrupted", async () => {
  using _ = patch();
  for (const { setTimeout } of ways.map(([, way]) => way())) {
    const pause = promisify(setTimeout as unknown as typeof namedSetTimeout);
    await interruptInEveryWay(() => pause(LONG));
    assertEquals(await spawn(() => pause(1, "value")).get(), "value");
  }
});

testBoth(
  "node:timers/promises setTimeout() can be killed",
  {
    async: async (log: string[]) => {
      try {
        await wait(LONG);
      } finally {
        await wait(1);
        log.push("cleaned up");
      }
    },
    *generator(log: string[]) {
      try {
        yield* until(wait(LONG));
      } finally {
        yield* until(wait(1));
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    using _ = patch();
    const log: string[] = [];
    const greenlet = spawn(body, log);
    await sleep(0);
    await greenlet.kill(undefined, { grace: LONG });
    assertEquals(log, ["cleaned up"]);
  },
);

/** Counts the listeners of a signal. */
function watchedSignal(): {
  controller: AbortController;
  signal: AbortSignal;
  listeners: Set<unknown>;
} {
  const controller = new AbortController();
  const { signal } = controller;
  const listeners = new Set<unknown>();
  const { addEventListener: add, removeEventListener: remove } = signal;
  signal.addEventListener = function (this: unknown, ...args: unknown[]) {
    listeners.add(args[1]);
    Reflect.apply(add, this, args);
  } as typeof add;
  signal.removeEventListener = function (this: unknown, ...args: unknown[]) {
    listeners.delete(args[1]);
    Reflect.apply(remove, this, args);
  } as typeof remove;
  return { controller, signal, listeners };
}

const bySignal = {
  setTimeout: (signal: AbortSignal) => wait(LONG, "value", { signal }),
  setInterval: async (signal: AbortSignal) => {
    for await (const _ of every(LONG, "value", { signal }));
  },
  "scheduler.wait": (signal: AbortSignal) => scheduler.wait(LONG, { signal }),
};

for (const [name, body] of Object.entries(bySignal)) {
  Deno.test(`node:timers/promises ${name}() takes a signal as before`, async () => {
    async function reasons(): Promise<unknown[]> {
      const seen: unknown[] = [];
      const aborted = AbortSignal.abort("at once");
      await body(aborted).catch((error) => seen.push(error.name, error.cause));
      const { controller, signal, listeners } = watchedSignal();
      taken(() => controller.abort("later"), 2);
      await body(signal).catch((error) => seen.push(error.name, error.cause));
      seen.push(name === "setTimeout" || listeners.size);
      await assertRejects(() => body({} as never), TypeError, "signal");
      return seen;
    }
    const expected = await reasons();
    assertEquals(expected.slice(0, 4), [
      ...["AbortError", "at once", "AbortError", "later"],
    ]);
    using _ = patch();
    assertEquals(await reasons(), expected);
    assertEquals(await spawn(reasons).get(), expected);
  });

  Deno.test(`node:timers/promises ${name}() that is interrupted lets go of its signal`, async () => {
    using _ = patch();
    const { controller, signal, listeners } = watchedSignal();
    const greenlet = spawn(async () => await body(signal));
    await settle();
    assertEquals(listeners.size, 1);
    await greenlet.kill();
    await settle();
    assertEquals(listeners.size, 0);
    // This changes nothing any more.
    controller.abort(new Error("too late"));
    assertInstanceOf(greenlet.value, GreenletExit);
  });
}

Deno.test("node:timers/promises setTimeout() keeps its result when its time ended before the interrupt", async () => {
  using _ = patch();
  const log: unknown[] = [];
  const greenlet: Greenlet = spawn(async () => {
    const over = wait(1, "over");
    // Due right after the other one, in the same turn.
    taken(() => greenlet.throw(new Error("too late")), 1);
    log.push(await over);
    await wait(LONG).catch((error) => log.push(error.message));
  });
  await greenlet.get();
  assertEquals(log, ["over", "too late"]);
});

Deno.test("node:timers/promises setTimeout() interrupted in a shared promise fails the other greenlet", async () => {
  using _ = patch();
  using failures = new Failures();
  let shared: Promise<string> | undefined;
  const share = () => shared ??= wait(LONG, "token");
  const a = spawn(async () => await share());
  const b = spawn(async () => await share());
  await sleep(0);
  await a.kill();
  await b.join();
  assertInstanceOf(b.exception, GreenletError);
  assertStrictEquals<unknown>(b.exception.cause, a.value);
  assertEquals(failures.contexts, [b]);
});

Deno.test("node:timers/promises setTimeout() fails for mistakes as it does unpatched", async () => {
  const mistakes = [
    () => wait("1" as never),
    () => wait(1, 1, 1 as never),
    () => wait(1, 1, { signal: 1 as never }),
    () => wait(1, 1, { ref: 1 as never }),
    () => scheduler.wait.call({}, 1),
    () => every(1, 1, { ref: 1 as never }).next(),
    () => every(1, 1, null as never).next(),
    () => turn(1, { ref: 1 as never }),
  ];
  const messages = async () => {
    const all: string[] = [];
    for (const mistake of mistakes) {
      all.push(await (async () => await mistake())().catch(String) as string);
    }
    return all;
  };
  const expected = await messages();
  for (const message of expected) assert(message.includes("TypeError"));
  using _ = patch();
  assertEquals(await messages(), expected);
  assertEquals(await spawn(messages).get(), expected);
});

Deno.test("node:timers/promises setTimeout() with ref: false does not keep the process alive", async () => {
  const { out, code } = await runScript(`
    const { setTimeout, setInterval } = await import("node:timers/promises");
    using _ = patch();
    spawn(() => setTimeout(100_000, 1, { ref: false }));
    spawn(async () => {
      for await (const _ of setInterval(100_000, 1, { ref: false }));
    });
    await sleep(1);
    console.log("ends");
  `);
  assertEquals([out, code], [["ends"], 0]);
});

Deno.test("node:timers/promises setInterval() that is interrupted ends, and its timer is cleared", async () => {
  using _ = patch();
  const iterator = every(LONG)[Symbol.asyncIterator]();
  await spawn(() => assertRejects(() => withTimeout(2, () => iterator.next())))
    .get();
  assertEquals(await iterator.next(), { done: true, value: undefined });

  // One that main has begun, too: it gets its tick.
  const begun = every(10, "tick")[Symbol.asyncIterator]();
  const first = begun.next();
  await spawn(() => assertRejects(() => withTimeout(2, () => begun.next())))
    .get();
  assertEquals(await first, { done: false, value: "tick" });
  assertEquals(await begun.next(), { done: true, value: undefined });
});

Deno.test("node:timers/promises setInterval() that is interrupted before it begins never does", async () => {
  using _ = patch();
  const iterator = every(LONG)[Symbol.asyncIterator]();
  const error = new Error("held");
  const thrown = await spawn(async () => {
    kill(getCurrent(), error, { block: false });
    return await iterator.next().catch((error: unknown) => error);
  }).get();
  assertStrictEquals(thrown, error);
  assertEquals(await iterator.next(), { done: true, value: undefined });
});

Deno.test("node:timers/promises setInterval() loses no tick while its loop is busy", async () => {
  using _ = patch();
  const ticks = await spawn(async () => {
    let ticks = 0;
    for await (const _ of every(1)) {
      if (++ticks === 1) await sleep(5);
      else if (ticks === 4) break;
    }
    return ticks;
  }).get();
  assertEquals(ticks, 4);
});

Deno.test("node:timers/promises setInterval() ends with an interrupt of its loop's body", async () => {
  using _ = patch();
  const { signal, listeners } = watchedSignal();
  const isInBody = new Gate();
  const greenlet = spawn(async () => {
    for await (const _ of every(1, 1, { signal })) {
      isInBody.open();
      await sleep(LONG);
    }
  });
  await isInBody.opened;
  assertEquals(listeners.size, 1);
  await greenlet.kill();
  assertEquals(listeners.size, 0);
});

const immediateWays = Object.entries({
  "of the global object": () => globalThis,
  "of node:timers": () => timersDefault,
  "of require()": () => required,
}) as unknown as [name: string, way: () => Timers][];

for (const [name, way] of immediateWays) {
  Deno.test(`setImmediate() ${name} runs its callback as a greenlet of its own`, async () => {
    using _ = patch();
    using told = new Uncaught();
    const { setImmediate } = way();
    const request = new AsyncLocalStorage<string>();
    const { promise, resolve } = Promise.withResolvers<void>();
    const seen: unknown[] = [];
    const error = new Error("told");
    const setter = request.run("request 1", () =>
      spawn(() => {
        const immediate = setImmediate(
          async function callback(this: unknown, ...args: unknown[]) {
            const current = getCurrent() as Greenlet;
            seen.push(current === setter, current.spawningGreenlet === setter);
            seen.push(this === immediate, ...args);
            await sleep(1);
            seen.push(getCurrent() === current, request.getStore());
            resolve();
            throw error;
          },
          "one",
          2,
        );
        seen.push("set");
      }));
    await setter.get();
    await promise;
    await told.until(1);
    assertEquals(seen, [
      ...["set", false, true, true, "one", 2, true, "request 1"],
    ]);
    assertEquals(told.rejections.map(([, reason]) => reason), [error]);
  });

  Deno.test(`setImmediate() ${name} in the promise idiom can be interrupted`, async () => {
    using _ = patch();
    const { setImmediate } = way();
    await interruptInEveryWay(async () => {
      for (;;) await new Promise((resolve) => setImmediate(resolve));
    });
    const value = await spawn(() =>
      new Promise((resolve: (value: unknown) => void) =>
        setImmediate(resolve, "value")
      )
    ).get();
    assertEquals(value, "value");
  });

  Deno.test(`clearImmediate() ${name} is in time as long as the callback has not begun`, async () => {
    using _ = patch();
    const { setImmediate, clearImmediate } = way();
    let fired = 0;
    await spawn(async () => {
      clearImmediate(setImmediate(() => fired++));
      const immediates = [1, 2, 3].map(() =>
        setImmediate(() => {
          fired++;
          for (const immediate of immediates) {
            clearImmediate(immediate);
          }
        })
      );
      await when(() => fired > 0);
      await settle();
      for (const odd of [undefined, null, 1, "1", Symbol("1"), {}]) {
        clearImmediate(odd);
      }
    }).get();
    assertEquals(fired, 1);
  });
}

Deno.test("clearImmediate() leaves no wait: an interrupt is held for the next", async () => {
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<void>();
  const error = new Error("held");
  const greenlet = spawn(async () => {
    new Promise((resolve) => clearImmediate(setImmediate(resolve)));
    await promise;
    return await sleep(LONG).catch((error: unknown) => error);
  });
  await sleep(0);
  greenlet.throw(error);
  resolve();
  assertStrictEquals(await greenlet.get(), error);
});

Deno.test("setImmediate() that was imported by name stays as it was", async () => {
  using _ = patch();
  const greenlet: Greenlet = spawn(async () => {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    namedSetImmediate(() => resolve(getCurrent()));
    assertStrictEquals(await promise, getCurrent());
    assertEquals(await turn("value"), "value");
  });
  await greenlet.get();
});

Deno.test("node:timers/promises setImmediate() of node:timers can be interrupted", async () => {
  using _ = patch();
  await interruptInEveryWay(async () => {
    for (;;) await timersDefault.promises.setImmediate();
  });
  await spawn(async () => {
    const { setImmediate } = timersDefault.promises;
    assertEquals(await setImmediate("value"), "value");
    const signal = AbortSignal.abort("why");
    const error = await assertRejects(() => setImmediate(1, { signal }), Error);
    assertEquals([error.name, error.cause], ["AbortError", "why"]);
  }).get();
});

Deno.test("AbortSignal.timeout() stays as it is", async () => {
  const { timeout } = AbortSignal;
  using _ = patch();
  assertStrictEquals(AbortSignal.timeout, timeout);
  const { promise, resolve } = Promise.withResolvers<void>();
  let signal: AbortSignal | undefined;
  let seen: unknown;
  const greenlet = spawn(async () => {
    signal = AbortSignal.timeout(5);
    signal.onabort = () => {
      seen = getCurrent();
      resolve();
    };
    await sleep(LONG);
  });
  await sleep(0);
  // It belongs to no greenlet, as any greenlet may use it.
  await greenlet.kill();
  // It holds up no process.
  const alive = taken(() => {}, LONG);
  await promise;
  namedClearTimeout(alive);
  assertEquals(signal!.reason.name, "TimeoutError");
  assertFalse(seen !== getHub() && seen !== greenlet);

  const aborted = spawn(() =>
    wait(LONG, undefined, { signal: AbortSignal.timeout(1) })
  );
  const busy = taken(() => {}, LONG);
  const error = await assertRejects(() => aborted.get(), Error);
  namedClearTimeout(busy);
  assertEquals(error.name, "AbortError");
});

Deno.test("node:timers that is pending when patch() is disposed of goes on", async () => {
  const restore = patch();
  const log: unknown[] = [];
  const killed = [
    spawn(cleaning, log, () => wait(LONG)),
    spawn(cleaning, log, async () => {
      for await (const _ of every(LONG));
    }),
    spawn(cleaning, log, async () => {
      for await (const _ of every(1));
    }),
    spawn(
      cleaning,
      log,
      () => new Promise((resolve) => namedSetTimeout(resolve, LONG)),
    ),
  ];
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const setter = spawn(() => {
    namedSetTimeout(() => resolve(getCurrent()), 5);
  });
  const later: unknown[] = [];
  const paused = spawn(cleaning, later, () => wait(5));
  await sleep(1);
  restore[Symbol.dispose]();
  for (const greenlet of killed) await greenlet.kill();
  assertEquals(log, new Array(4).fill("cleaned up"));
  await paused.get();
  assertEquals(later, ["over", "cleaned up"]);
  const current = await promise;
  assertInstanceOf(current, Greenlet);
  assert(current !== setter as Greenlet);
});

Deno.test("node:timers is the runtime's own after patch() is disposed of", async () => {
  const keys = () => [
    Reflect.ownKeys(Object.getPrototypeOf(outside)),
    Reflect.ownKeys(namedPromises.setInterval.prototype),
  ];
  const before = keys();
  const create = Object.values(
    Object.getOwnPropertyDescriptors(Object.getPrototypeOf(outside)),
  );
  patch()[Symbol.dispose]();
  assertEquals(keys(), before);
  assertEquals(
    Object.values(
      Object.getOwnPropertyDescriptors(Object.getPrototypeOf(outside)),
    ),
    create,
  );
  await spawn(async () => {
    const me = getCurrent();
    for (const { setTimeout } of ways.map(([, way]) => way())) {
      const current = await new Promise((resolve) =>
        setTimeout(() => resolve(getCurrent()), 1)
      );
      assertStrictEquals(current, me);
    }
    kill(me, new Error("held"), { block: false });
    await wait(1);
    for await (const _ of every(1)) break;
    await timersDefault.promises.setImmediate();
    await assertRejects(() => sleep(1), Error, "held");
  }).get();
});

Deno.test("node:timers/promises that is loaded under patch() is patched, and as before after it", async () => {
  const { out, err } = await runScript(`
    const restore = patch();
    const { setImmediate, setTimeout } = await import("node:timers/promises");
    const spin = async () => {
      for (;;) await setImmediate();
    };
    await withTimeout(5, spin).catch((error) => console.log(error.message));
    restore[Symbol.dispose]();
    const spun = spawn(async () => {
      for (let i = 0; i < 50; i++) await setImmediate();
      return "spun";
    });
    await sleep(0);
    spun.throw(new Error("held for ever"));
    console.log(await spun.get());
    using _ = patch();
    await withTimeout(5, spin).catch((error) => console.log(error.message));
    await withTimeout(5, () => setTimeout(100_000))
      .catch((error) => console.log(error.message));
  `);
  const timedOut = "Timed out after 5 ms";
  assertEquals([err, out], ["", [timedOut, "spun", timedOut, timedOut]]);
});

/** Patches with a runtime that makes its timers as we don't know. */
function patchUnknown(change: (symbols: symbol[]) => symbol[]): Disposable {
  const { getOwnPropertySymbols } = Object;
  Object.getOwnPropertySymbols = (object) =>
    change(getOwnPropertySymbols(object));
  try {
    return patch();
  } finally {
    Object.getOwnPropertySymbols = getOwnPropertySymbols;
  }
}

/** In place of the symbol of that name, another one. */
function instead(name: string, symbol: symbol) {
  return (symbols: symbol[]) =>
    symbols.map((it) => it.description === name ? symbol : it);
}

const unused = Symbol("createTimer");
Object.defineProperty(Object.getPrototypeOf(outside), unused, {
  value: () => {},
  writable: true,
  configurable: true,
});

const unknown: Record<string, (symbols: symbol[]) => symbol[]> = {
  "has no such methods": () => [],
  "has something else there": instead("destroy", Symbol("destroy")),
  "has no mark for its own": (symbols) =>
    symbols.filter((symbol) => symbol.description !== "system"),
  "does not use its methods": instead("createTimer", unused),
};

for (const [name, change] of Object.entries(unknown)) {
  Deno.test(`patch() of a runtime that ${name} patches the functions that are reached by properties`, async () => {
    const before = Object.getOwnPropertyDescriptors(
      Object.getPrototypeOf(outside),
    );
    using _ = patchUnknown(change);
    assertEquals(
      Object.getOwnPropertyDescriptors(Object.getPrototypeOf(outside)),
      before,
    );
    for (
      const { setTimeout, clearTimeout } of [
        globalThis,
        timersDefault,
        required,
      ]
    ) {
      await interruptInEveryWay(() =>
        new Promise((resolve) => setTimeout(resolve, LONG))
      );
      await spawn(async () => {
        const me = getCurrent();
        const { promise, resolve } = Promise.withResolvers<unknown>();
        setTimeout(() => resolve(getCurrent()), 1);
        clearTimeout(setTimeout(() => resolve(null), 1) as never);
        const current = await until(promise);
        assertInstanceOf(current, Greenlet);
        assert(current !== me);
        // There is nothing left that an interrupt could hit.
        new Promise((resolve) =>
          clearTimeout(setTimeout(resolve, LONG) as never)
        );
        kill(me, new Error("held"), { block: false });
        await assertRejects(() => sleep(1), Error, "held");
      }).get();
    }
    const { promises } = timersDefault;
    await interruptInEveryWay(() => promises.setTimeout(LONG));
    const { signal, listeners } = watchedSignal();
    await interruptInEveryWay(() => promises.setTimeout(LONG, 1, { signal }));
    assertEquals(listeners.size, 0);
    await interruptInEveryWay(() => scheduler.wait(LONG));
    await interruptInEveryWay(async () => {
      for (;;) await scheduler.yield();
    });
    const log: unknown[] = [];
    const looping = spawn(cleaning, log, async () => {
      for await (const _ of every(3));
    });
    await sleep(0);
    await looping.kill();
    assertEquals(log, ["cleaned up"]);
    const controller = new AbortController();
    taken(() => controller.abort("why"), 2);
    const aborted = spawn(() =>
      promises.setTimeout(LONG, 1, { signal: controller.signal })
    );
    const error = await assertRejects(() => aborted.get(), Error);
    assertEquals([error.name, error.cause], ["AbortError", "why"]);
    // A function that was taken before is the runtime's own.
    await spawn(async () => {
      const me = getCurrent();
      const current = await new Promise((resolve) =>
        namedSetTimeout(() => resolve(getCurrent()), 1)
      );
      assertStrictEquals(current, me);
      assertEquals(await wait(1, "value"), "value");
    }).get();
    // The iterator goes on to its next tick, as its timer can't be reached.
    await new Promise((resolve) => taken(resolve, 5));
  });
}

Deno.test("patch() under the mocked timers of node:test replaces the mocks", async () => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  try {
    using _ = patch();
    const log: unknown[] = [];
    const pause = () => new Promise((resolve) => setTimeout(resolve, LONG));
    const paused = spawn(cleaning, log, pause);
    const killed = spawn(cleaning, log, pause);
    const { promise, resolve } = Promise.withResolvers<unknown>();
    const setter = spawn(() => {
      setTimeout(() => resolve(getCurrent()), LONG);
    });
    await setter.get();
    await killed.kill();
    assertEquals(log, ["cleaned up"]);
    mock.timers.tick(LONG);
    assertInstanceOf(await promise, Greenlet);
    await paused.get();
    assertEquals(log, ["cleaned up", "over", "cleaned up"]);
  } finally {
    mock.timers.reset();
  }
});

Deno.test("setTimeout() runs its callback as a greenlet when a generator body moves the clock", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    using _ = patch();
    const log: unknown[] = [];
    await spawn(function* () {
      const me = getCurrent();
      setTimeout(async () => {
        log.push(getCurrent() === me);
        await sleep(0);
        log.push("over");
      }, LONG);
      mock.timers.tick(LONG);
      log.push("ticked", getCurrent() === me);
      while (!log.includes("over")) yield* sleep(0);
    }).get();
    assertEquals(log, ["ticked", true, false, "over"]);
  } finally {
    mock.timers.reset();
  }
});

Deno.test("patch() before the timers of node:test are mocked leaves the mocks to work", async () => {
  using _ = patch();
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const slept = spawn(async () => {
      await wait(LONG);
      await new Promise((resolve) => namedSetTimeout(resolve, LONG));
      return "slept";
    });
    while (!slept.dead) {
      await sleep(0);
      mock.timers.tick(LONG);
    }
    assertEquals(await slept.get(), "slept");
  } finally {
    mock.timers.reset();
  }
});

Deno.test("patch() in a Worker patches that Worker, and no other realm", async () => {
  const library = new URL("../../mod.ts", import.meta.url).href;
  const code = `
    import { setTimeout as wait } from "node:timers/promises";
    import { getCurrent, monkey, patch, sleep, spawn } from "${library}";
    const before = globalThis.setTimeout;
    onmessage = async ({ data }) => {
      if (data === "patch") globalThis.restore = patch();
      if (data === "restore") globalThis.restore[Symbol.dispose]();
      const log = [];
      // Its end is waited for where it can't be killed.
      const ms = data === "patch" ? ${LONG} : 5;
      const pauses = [
        () => new Promise((resolve) => setTimeout(resolve, ms)),
        () => wait(ms),
      ];
      for (const pause of pauses) {
        const killed = spawn(async () => {
          try {
            await pause();
            log.push("over");
          } finally {
            log.push("cleaned up");
          }
        });
        await sleep(0);
        await killed.kill();
      }
      postMessage([
        monkey.isPatched("timers"),
        globalThis.setTimeout === before,
        ...log,
      ]);
    };
    postMessage("ready");
  `;
  const url = URL.createObjectURL(
    new Blob([code], { type: "text/javascript" }),
  );
  const worker = new Worker(url, { type: "module" });
  const replies: ((data: unknown) => void)[] = [];
  worker.onmessage = ({ data }) => replies.shift()!(data);
  worker.onerror = (event) => {
    event.preventDefault();
    replies.shift()!(event.message);
  };
  const reply = () => new Promise((resolve) => replies.push(resolve));
  const ask = (request: string) => {
    worker.postMessage(request);
    return reply();
  };
  const over = ["over", "cleaned up", "over", "cleaned up"];
  const stopped = ["cleaned up", "cleaned up"];
  try {
    assertEquals(await reply(), "ready");
    {
      // Here, which is not there.
      using _ = patch();
      assertEquals(await ask("nothing"), [false, true, ...over]);
    }
    assertStrictEquals(globalThis.setTimeout, taken);
    assertEquals(await ask("patch"), [true, false, ...stopped]);
    // There, which is not here.
    assertStrictEquals(globalThis.setTimeout, taken);
    const current = await spawn(() =>
      new Promise((resolve) => setTimeout(() => resolve(getCurrent()), 1))
    ).get();
    assertFalse(current === getHub());
    assertEquals(await ask("restore"), [false, true, ...over]);
  } finally {
    worker.terminate();
    URL.revokeObjectURL(url);
  }
});

testRandomly(
  "node:timers survives a storm of interrupts: each body cleans up once, each timer is cleared",
  async (next) => {
    using _ = patch();
    const waits: ((ms: number) => Promise<unknown>)[] = [
      (ms) => wait(ms, "over"),
      (ms) => scheduler.wait(ms),
      (ms) => new Promise((resolve) => namedSetTimeout(resolve, ms)),
      (ms) => new Promise((resolve) => requiredSetTimeout(resolve, ms)),
      async (ms) => {
        let ticks = 0;
        for await (const _ of every(ms / 3)) if (++ticks === 3) break;
      },
      async (ms) => {
        const end = performance.now() + ms;
        while (performance.now() < end) await scheduler.yield();
      },
      async (ms) => {
        const signal = AbortSignal.timeout(ms);
        await wait(LONG, 1, { signal }).catch((error) => {
          if (error.name !== "AbortError") throw error;
        });
      },
    ];
    const ends = { over: 0, "timed out": 0, killed: 0 };
    /** Longer than anything takes, in ms. */
    const LONGEST = 80;
    async function storm(count: number) {
      const began: number[] = [];
      const cleanedUp: number[] = [];
      async function body(i: number) {
        let end: keyof typeof ends = "killed";
        began[i] = 1;
        try {
          const pause = waits[i % waits.length]!;
          const value = await withTimeout(
            next() * LONGEST,
            async () => {
              await pause(next() * LONGEST / 2);
              return "over";
            },
            { value: "late" },
          );
          end = value === "late" ? "timed out" : "over";
        } finally {
          cleanedUp[i] = (cleanedUp[i] ?? 0) + 1;
          ends[end]++;
        }
      }
      const greenlets = Array.from({ length: count }, (_, i) => spawn(body, i));
      const killers = greenlets.filter((_, i) => i % 2 === 0)
        .map((victim) => spawnLater(next() * LONGEST, () => victim.kill()));
      await joinAll([...greenlets, ...killers]);
      for (const greenlet of greenlets) {
        assert(greenlet.successful(), `${greenlet.exception}`);
      }
      assertEquals(cleanedUp, began);
    }
    // On a machine that is slow enough one of the ends may not come about.
    do await storm(1000); while (
      Object.values(ends).some((times) => times < 30)
    );
  },
);
