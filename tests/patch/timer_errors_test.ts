import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import domain from "node:domain";
import process from "node:process";
import { mock } from "node:test";
import timers from "node:timers";
import {
  getCurrent,
  type Greenlet,
  GreenletError,
  idle,
  kill,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
} from "../../mod.ts";
import { Failures, runScript, settle } from "../_bodies.ts";
import { Uncaught } from "../_uncaught.ts";

type Set = (callback: (...args: unknown[]) => unknown) => unknown;

/** Each call that sets a timer which fires once. */
const setters: Record<string, Set> = {
  "setTimeout()": (callback) => setTimeout(callback, 1),
  "setInterval()": (callback) => {
    const timer = setInterval(() => {
      clearInterval(timer);
      return callback();
    }, 1);
  },
  "setImmediate()": (callback) => setImmediate(callback),
  "setTimeout() of node:timers": (callback) => timers.setTimeout(callback, 1),
  "setInterval() of node:timers": (callback) => {
    const timer = timers.setInterval(() => {
      timers.clearInterval(timer);
      return callback();
    }, 1);
  },
  "setImmediate() of node:timers": (callback) => timers.setImmediate(callback),
};

for (const [name, set] of Object.entries(setters)) {
  Deno.test(`${name} in a greenlet reports an error of its callback as an error event, and not by the hub`, async () => {
    using _ = patch();
    using failures = new Failures();
    using told = new Uncaught();
    const error = new Error("thrown");
    const setter = spawn(async () => {
      set(() => {
        throw error;
      });
      await sleep(1e9);
    });
    await told.until(1);
    await idle();
    assertEquals(told.errors, [error]);
    assertEquals(told.rejections, []);
    assertEquals(failures.errors, []);
    assert(!setter.dead);
    await setter.kill();
  });

  Deno.test(`${name} in a greenlet reports the promise of its callback as an unhandled rejection, and not by the hub`, async () => {
    using _ = patch();
    using failures = new Failures();
    using told = new Uncaught();
    const error = new Error("rejected");
    let promise: Promise<never> | undefined;
    await spawn(() => {
      // It returns the promise of the async function that it calls.
      set(() =>
        promise = (async () => {
          await sleep(1);
          throw error;
        })()
      );
    }).join();
    await told.until(1);
    await idle();
    assertEquals(told.errors, []);
    assertEquals(told.rejections.length, 1);
    assertStrictEquals(told.rejections[0]![0], promise);
    assertStrictEquals(told.rejections[0]![1], error);
    assertEquals(failures.errors, []);
  });

  Deno.test(`${name} in a greenlet reports nothing when its callback is killed`, async () => {
    using _ = patch();
    using failures = new Failures();
    using told = new Uncaught();
    const { promise, resolve } = Promise.withResolvers<Greenlet>();
    await spawn(() => {
      set(async () => {
        resolve(getCurrent() as Greenlet);
        await sleep(1e9);
      });
    }).join();
    const callback = await promise;
    await callback.kill();
    assert(callback.dead);
    await settle();
    assertEquals([told.errors, told.rejections, failures.errors], [[], [], []]);
  });
}

Deno.test("setTimeout() in a greenlet reports an error that its callback is killed by to the hub", async () => {
  using _ = patch();
  using failures = new Failures();
  using told = new Uncaught();
  const { promise, resolve } = Promise.withResolvers<Greenlet>();
  const error = new Error("killed by");
  await spawn(() => {
    setTimeout(async () => {
      resolve(getCurrent() as Greenlet);
      await sleep(1e9);
    }, 1);
    setTimeout(async () => {
      using _ = Timeout.start(1);
      await sleep(1e9);
    }, 1);
  }).join();
  const callback = await promise;
  await callback.kill(error);
  while (failures.errors.length < 2) await idle();
  assert(failures.errors.includes(error));
  assert(failures.errors.some((one) => one instanceof Timeout));
  assertEquals([told.errors, told.rejections], [[], []]);
});

Deno.test("setTimeout() in a greenlet reports a callback that shares the wait in which another is killed to the hub", async () => {
  using _ = patch();
  using failures = new Failures();
  using told = new Uncaught();
  const shared = Promise.withResolvers<void>();
  const victim = spawn(async () => {
    await sleep(1e9);
  });
  await idle();
  await spawn(() => {
    setTimeout(async () => {
      await shared.promise;
    }, 1);
  }).join();
  await sleep(5);
  const leader = spawn(async () => {
    try {
      await sleep(1e9);
    } catch (error) {
      shared.reject(error);
    }
  });
  await idle();
  await kill(leader);
  await kill(victim);
  while (failures.errors.length < 1) await idle();
  assertInstanceOf(failures.errors[0], GreenletError);
  assertEquals([told.errors, told.rejections], [[], []]);
});

Deno.test("setTimeout() in a greenlet does not call the `then` of what its callback returns", async () => {
  using _ = patch();
  using told = new Uncaught();
  let calls = 0;
  class Lazy extends Promise<unknown> {
    // deno-lint-ignore no-explicit-any -- as it is called
    override then(...args: any[]): any {
      calls++;
      return super.then(...args);
    }
  }
  const { promise, resolve } = Promise.withResolvers<void>();
  await spawn(() => {
    setTimeout(() => ({ then: () => calls++ }), 1);
    setTimeout(() => Lazy.resolve(1), 1);
    setTimeout(() => {
      resolve();
      return Lazy.reject(new Error("a subclass"));
    }, 1);
  }).join();
  await promise;
  await told.until(1);
  assertEquals(calls, 0);
  assertEquals(told.rejections.map(([, reason]) => String(reason)), [
    "Error: a subclass",
  ]);
});

Deno.test("setTimeout() in a greenlet reports its error in the setter's context of other storages", async () => {
  using _ = patch();
  const storage = new AsyncLocalStorage<string>();
  const contexts: unknown[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const listener = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    contexts.push(storage.getStore());
    resolve();
  };
  addEventListener("unhandledrejection", listener);
  await storage.run("here", () =>
    spawn(() => {
      setTimeout(() => Promise.reject(new Error("rejected")), 1);
    })).join();
  await promise;
  removeEventListener("unhandledrejection", listener);
  assertEquals(contexts, ["here"]);
});

Deno.test("uncaughtException of process tells of the error of a timer that a greenlet has set", async () => {
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const error = new Error("thrown");
  process.once("uncaughtException", resolve);
  await spawn(() => {
    setTimeout(() => {
      throw error;
    }, 1);
  }).join();
  assertStrictEquals(await promise, error);
});

Deno.test("A domain gets the error of a timer that a greenlet has set in it", async () => {
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const error = new Error("thrown");
  await spawn(() => {
    const it = domain.create();
    it.on("error", resolve);
    it.run(() => {
      setTimeout(() => {
        throw error;
      }, 1);
    });
  }).join();
  assertStrictEquals(await promise, error);
});

Deno.test("A clock that a greenlet moves by hand throws the error of a callback to it", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const error = new Error("thrown");
  try {
    using _ = patch();
    const thrown = await spawn(async () => {
      setTimeout(() => {
        throw error;
      }, 10);
      await until(Promise.resolve());
      try {
        mock.timers.tick(10);
      } catch (error) {
        return error;
      }
    }).get();
    assertStrictEquals(thrown, error);
  } finally {
    mock.timers.reset();
  }
});

Deno.test("A clock that a generator body moves by hand reports the error of a callback", async () => {
  using told = new Uncaught();
  mock.timers.enable({ apis: ["setTimeout"] });
  const error = new Error("thrown");
  try {
    using _ = patch();
    await spawn(function* () {
      setTimeout(() => {
        throw error;
      }, 10);
      mock.timers.tick(10);
      yield* until(told.until(1));
    }).get();
    assertEquals(told.errors, [error]);
  } finally {
    mock.timers.reset();
  }
});

const PROGRAMS: Record<string, string> = {
  "that throws": `setTimeout(() => { throw new Error("thrown"); }, 1);`,
  "that rejects":
    `setTimeout(async () => { throw new Error("rejected"); }, 1);`,
  "of an interval": `setInterval(() => { throw new Error("thrown"); }, 1);`,
  "that is immediate": `setImmediate(() => { throw new Error("thrown"); });`,
  "that a listener hears": `
    addEventListener("error", (event) => {
      console.log("told", event.error.message);
      event.preventDefault();
      Deno.exit(7);
    });
    setTimeout(() => { throw new Error("thrown"); }, 1);`,
};

for (const [name, code] of Object.entries(PROGRAMS)) {
  Deno.test(`A timer ${name} ends the process, as without greenlets`, async () => {
    const later = `setTimeout(() => console.log("goes on"), 1000);`;
    const plain = await runScript(`${later} ${code}`);
    const ours = await runScript(`patch(); ${later} spawn(() => { ${code} });`);
    assertEquals([ours.out, ours.code], [plain.out, plain.code]);
    assertEquals(ours.err.split("\n")[0], plain.err.split("\n")[0]);
    assert(plain.code !== 0);
  });
}
