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
  assertStringIncludes,
} from "@std/assert";
import { clock } from "../_clock.ts";
import {
  Event,
  getCurrent,
  getHub,
  Greenlet,
  GreenletError,
  GreenletExit,
  idle,
  iwait,
  joinAll,
  kill,
  killAll,
  nursery,
  Semaphore,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  Timeout,
  until,
  type Wait,
  wait,
  type Waitable,
  Waiter,
  withTimeout,
} from "../../mod.ts";
import {
  type Body,
  Failures,
  runScript,
  settle,
  testBoth,
} from "../_bodies.ts";
import { Unhandled } from "../_uncaught.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;
/** Long enough for a busy machine, and nothing next to `FOREVER`. */
const AT_ONCE = 10_000;
/**
 * Kills without insisting: an error that is not thrown at once never is, and the test
 * hangs.
 */
const ONCE = { grace: Infinity };

const never = new Promise<never>(() => {});

/** Waits outside of every greenlet, so that nothing of ours is involved. */
function foreign<T = void>(ms: number, value?: T): Promise<T> {
  return new Promise((resolve) => setTimeout(resolve, ms, value as T));
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : String(error);
}

/** From now on wake-ups are set aside, until the event loop has turned. */
function useUpTheSlice(): void {
  const start = performance.now();
  while (performance.now() - start < 10);
  for (let i = 0; i < 200; i++) {
    const waiter = new Waiter<void>();
    waiter.get();
    waiter.switch();
  }
}

/** Calls back in the turn in which all the timers of the library expire that are due. */
function atTimer(ms: number, callback: () => void): void {
  spawn(async () => {
    Timeout.start(ms, { error: new GreenletExit() });
    await new Waiter(callback).get();
  });
}

/** Keeps the event loop from turning, so that its timers are due before anything else. */
async function beBusy(ms: number): Promise<void> {
  await null;
  const start = performance.now();
  while (performance.now() - start < ms);
}

/** Lets the greenlets begin, and then so much time go by that their timers are due. */
async function beLate(): Promise<void> {
  await idle();
  const start = performance.now();
  while (performance.now() - start < 100);
}

/** Calls that wait for what is ready, with a limit. */
const LIMITED: Record<
  string,
  (objects: Waitable[], timeout: number) => Promise<Waitable[]>
> = {
  "joinAll()": (objects, timeout) => joinAll(objects, { timeout }),
  "wait()": (objects, timeout) => wait(objects, { timeout }),
  "iwait()": (objects, timeout) => Array.fromAsync(iwait(objects, { timeout })),
};

for (const [name, call] of Object.entries(LIMITED)) {
  for (const isAside of [false, true]) {
    const when = isAside ? "late" : "in time";
    Deno.test(`${name} with a timeout of 0 gives all that are ready, when their links are called ${when}`, async () => {
      const g = spawn(() => 1);
      await g.join();
      const event = new Event();
      event.set();
      const semaphore = new Semaphore(1);
      const slow = spawn(sleep, FOREVER);
      if (isAside) useUpTheSlice();
      const called = call([slow, g, event, new Event(), semaphore], 0);
      if (isAside) await beBusy(5);
      assertEquals(await called, [g, event, semaphore]);
      assertEquals(await call([slow], 0), []);
      assertEquals(await call([g], -1), [g]);
      await slow.kill();
    });
  }

  Deno.test(`${name} gives what is ready at its timeout although its link is called later`, async () => {
    const event = new Event();
    const called = call([new Event(), event], 5);
    await beBusy(10);
    useUpTheSlice();
    event.set();
    assertEquals(await called, [event]);
  });
}

Deno.test("iwait() gives nothing that is ready after its timeout", async () => {
  const event = new Event();
  using ready = iwait([event], { timeout: 0 });
  await foreign(5);
  event.set();
  await foreign(5);
  assertEquals(await ready.next(), { done: true, value: undefined });
});

// Where a kill finds the body.

const PLACES: Record<string, (other: Greenlet) => Wait<unknown>> = {
  "sleep(ms)": () => sleep(FOREVER),
  "sleep(Infinity)": () => sleep(Infinity),
  "join()": (other) => other.join(),
  "join({ timeout })": (other) => other.join({ timeout: FOREVER }),
  "get()": (other) => other.get(),
  "get({ timeout })": (other) => other.get({ timeout: FOREVER }),
  "until()": () => until(never),
  "Waiter.get()": () => new Waiter().get(),
  "joinAll()": (other) => joinAll([other, other], { timeout: FOREVER }),
  "wait()": () => wait(null, { timeout: FOREVER }),
  "Hub.join()": () => getHub().join(),
  "withTimeout() of sleep()": () => withTimeout(FOREVER, () => sleep(FOREVER)),
  "withTimeout() of an async function": () =>
    withTimeout(FOREVER, async () => {
      await sleep(FOREVER);
    }),
  "withTimeout() of a generator function": () =>
    withTimeout(FOREVER, function* () {
      yield* sleep(FOREVER);
    }),
  "withTimeout() of a foreign promise": () => withTimeout(FOREVER, () => never),
  "kill() of another": (other) => other.kill(undefined, ONCE),
  "killAll()": (other) => killAll([other], { ...ONCE, timeout: FOREVER }),
};

for (const [place, begin] of Object.entries(PLACES)) {
  testBoth(`Greenlet.kill() ends a body that waits in ${place}`, {
    async async(log: string[], other: Greenlet) {
      try {
        await begin(other);
        log.push("went on");
      } catch (error) {
        log.push(nameOf(error));
        throw error;
      } finally {
        log.push("finally");
      }
    },
    *generator(log: string[], other: Greenlet) {
      try {
        yield* begin(other);
        log.push("went on");
      } catch (error) {
        log.push(nameOf(error));
        throw error;
      } finally {
        log.push("finally");
      }
    },
  }, async (body) => {
    await using _ = new Unhandled();
    // Not to be killed itself, as it does not wait by our means.
    const release = Promise.withResolvers<void>();
    const other = spawn(() => release.promise);
    const log: string[] = [];
    const g = spawn(body, log, other);
    await sleep(2);
    const error = new GreenletExit();
    await g.kill(error, ONCE);
    assertEquals(log, ["GreenletExit", "finally"]);
    assert(g.dead);
    assert(g.successful());
    assertStrictEquals<unknown>(g.value, error);
    release.resolve();
    await other.join();
    await foreign(0);
    assertEquals(log.length, 2);
  });
}

testBoth("Greenlet.kill() ends a body that waits in iwait()", {
  async async(log: string[], other: Greenlet) {
    using ready = iwait([other]);
    try {
      await ready.next();
    } finally {
      log.push("finally");
    }
  },
  *generator(log: string[], other: Greenlet) {
    using ready = iwait([other]);
    try {
      yield* ready.next();
    } finally {
      log.push("finally");
    }
  },
}, async (body) => {
  const log: string[] = [];
  const other = spawn(sleep, FOREVER);
  const g = spawn(body, log, other);
  await sleep(1);
  await g.kill(undefined, ONCE);
  assertEquals(log, ["finally"]);
  await other.kill(undefined, ONCE);
});

testBoth("Greenlet.kill() ends a body in a loop of idle()", {
  async async() {
    for (;;) await idle();
  },
  *generator() {
    for (;;) yield* idle();
  },
}, async (body) => {
  const g = spawn(body);
  await sleep(2);
  await g.kill(undefined, ONCE);
  assert(g.successful());
});

testBoth("Greenlet.kill() ends a body in a loop of sleep(0)", {
  async async() {
    for (;;) await sleep(0);
  },
  *generator() {
    for (;;) yield* sleep(0);
  },
}, async (body) => {
  const g = spawn(body);
  await sleep(2);
  await g.kill(undefined, ONCE);
  assert(g.successful());
});

testBoth("Greenlet.kill() between two waits is thrown by the second", {
  async async(log: string[], between: () => void) {
    await sleep(1);
    log.push("between");
    between();
    log.push("still between");
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    }
  },
  *generator(log: string[], between: () => void) {
    yield* sleep(1);
    log.push("between");
    between();
    log.push("still between");
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g: Greenlet = spawn(body, log, () => {
    // It is the body that runs this, but so does anything that a body calls.
    g.kill(undefined, { ...ONCE, block: false });
  });
  await g.join();
  assertEquals(log, ["between", "still between", "GreenletExit"]);
  assert(g.successful());
});

testBoth("Greenlet.kill() stops a spawned greenlet from starting", {
  async async(log: string[]) {
    log.push("started");
    await sleep(1);
  },
  *generator(log: string[]) {
    log.push("started");
    yield* sleep(1);
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  const error = new GreenletExit();
  const killed = g.kill(error);
  assert(g.dead);
  await killed;
  await g.join();
  await foreign(5);
  assertEquals(log, []);
  assertFalse(g.started);
  assert(g.successful());
  assertStrictEquals<unknown>(g.value, error);
});

testBoth("Greenlet.kill() stops a greenlet that is to start later", {
  async async(log: string[]) {
    log.push("started");
    await sleep(1);
  },
  *generator(log: string[]) {
    log.push("started");
    yield* sleep(1);
  },
}, async (body) => {
  const log: string[] = [];
  const soon = spawnLater(5, body, log);
  // Its timer would be found at the end of the test.
  const late = spawnLater(FOREVER, body, log);
  await sleep(1);
  await Promise.all([soon.kill(), late.kill()]);
  assert(soon.dead && late.dead);
  await foreign(20);
  assertEquals(log, []);
});

testBoth("Greenlet.kill() stops a greenlet that was never started", {
  async async(log: string[]) {
    log.push("started");
    await sleep(1);
  },
  *generator(log: string[]) {
    log.push("started");
    yield* sleep(1);
  },
}, async (body) => {
  const log: string[] = [];
  const g = new Greenlet(body, log);
  await g.kill();
  assert(g.dead);
  g.start();
  g.startLater(1);
  await g.join();
  await foreign(10);
  assertEquals(log, []);
  assertFalse(g.started);
});

testBoth("Greenlet.kill() before the start fails with the caller's own error", {
  async async() {},
  *generator() {},
}, async (body) => {
  using failures = new Failures();
  const error = new Error("not needed any more");
  const g = spawn(body);
  await g.kill(error);
  assertFalse(g.successful());
  assertStrictEquals(g.exception, error);
  assertEquals(failures.errors, [error]);
  assertStrictEquals(failures.contexts[0], g);
  assertStrictEquals(await assertRejects(() => g.get()), error);
});

testBoth("Greenlet.kill() leaves a greenlet that has ended alone", {
  async async() {
    await sleep(1);
    return "done";
  },
  *generator() {
    yield* sleep(1);
    return "done";
  },
}, async (body) => {
  using failures = new Failures();
  const g = spawn(body);
  await g.join();
  await g.kill(new Error("too late"));
  await g.kill(new Error("too late"), { grace: 0, timeout: 0 });
  g.throw(new Error("too late"));
  await foreign(0);
  assertEquals(await g.get(), "done");
  assert(g.successful());
  assertEquals(failures.errors, []);
});

testBoth(
  "Greenlet.kill() of a body whose wait has ended, but which has not gone on, keeps the result",
  {
    async async(log: string[], waiter: Waiter<string>) {
      log.push(await waiter.get());
      try {
        await sleep(FOREVER);
      } catch (error) {
        log.push(nameOf(error));
        throw error;
      }
    },
    *generator(log: string[], waiter: Waiter<string>) {
      log.push(yield* waiter.get());
      try {
        yield* sleep(FOREVER);
      } catch (error) {
        log.push(nameOf(error));
        throw error;
      }
    },
  },
  async (body) => {
    for (const isAside of [false, true]) {
      const log: string[] = [];
      let undone = 0;
      const waiter = new Waiter<string>(() => undone++);
      const g = spawn(body, log, waiter);
      await sleep(1);
      if (isAside) useUpTheSlice();
      waiter.switch("item");
      await g.kill(undefined, ONCE);
      assertEquals(log, ["item", "GreenletExit"]);
      assertEquals(undone, 0);
      assert(g.successful());
    }
  },
);

testBoth("Greenlet.kill() from itself throws where it is awaited", {
  async async(log: string[], error: unknown) {
    try {
      await (getCurrent() as Greenlet).kill(error, ONCE);
      log.push("went on");
    } catch (thrown) {
      log.push(thrown === error ? "thrown" : "something else");
      throw thrown;
    } finally {
      await sleep(1);
      log.push("cleaned up");
    }
  },
  *generator(log: string[], error: unknown) {
    try {
      yield* (getCurrent() as Greenlet).kill(error, ONCE);
      log.push("went on");
    } catch (thrown) {
      log.push(thrown === error ? "thrown" : "something else");
      throw thrown;
    } finally {
      yield* sleep(1);
      log.push("cleaned up");
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log, new GreenletExit());
  await g.join();
  assertEquals(log, ["thrown", "cleaned up"]);
  assert(g.successful());
});

testBoth("Greenlet.kill() from itself throws while another wait is pending", {
  async async(log: string[]) {
    sleep(FOREVER);
    try {
      await (getCurrent() as Greenlet).kill(undefined, ONCE);
      log.push("went on");
    } finally {
      log.push("finally");
      await sleep(1);
      log.push("cleaned up");
    }
  },
  *generator(log: string[]) {
    sleep(FOREVER);
    try {
      yield* (getCurrent() as Greenlet).kill(undefined, ONCE);
      log.push("went on");
    } finally {
      log.push("finally");
      yield* sleep(1);
      log.push("cleaned up");
    }
  },
}, async (body) => {
  await using _ = new Unhandled();
  const log: string[] = [];
  const g = spawn(body, log);
  await g.join({ timeout: AT_ONCE });
  assertEquals(log, ["finally", "cleaned up"]);
  assert(g.successful());
});

testBoth(
  "Greenlet.kill() from itself with block: false throws at the next wait",
  {
    async async(log: string[]) {
      await (getCurrent() as Greenlet).kill(undefined, {
        ...ONCE,
        block: false,
      });
      log.push("went on");
      await sleep(FOREVER);
      log.push("slept");
    },
    *generator(log: string[]) {
      yield* (getCurrent() as Greenlet).kill(undefined, {
        ...ONCE,
        block: false,
      });
      log.push("went on");
      yield* sleep(FOREVER);
      log.push("slept");
    },
  },
  async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await g.join();
    assertEquals(log, ["went on"]);
    assert(g.successful());
  },
);

testBoth("Greenlet.kill() from itself throws inside withTimeout()", {
  async async(log: string[]) {
    await withTimeout(FOREVER, async () => {
      await (getCurrent() as Greenlet).kill(undefined, ONCE);
      log.push("went on");
    });
    log.push("went on outside");
  },
  *generator(log: string[]) {
    yield* withTimeout(FOREVER, function* () {
      yield* (getCurrent() as Greenlet).kill(undefined, ONCE);
      log.push("went on");
    });
    log.push("went on outside");
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await g.join({ timeout: AT_ONCE });
  assert(g.successful());
  assertEquals(log, []);
});

testBoth("Greenlet.kill() again interrupts the clean-up", {
  async async(log: unknown[]) {
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push(error);
      throw error;
    } finally {
      try {
        await sleep(FOREVER);
      } catch (error) {
        log.push(error);
      }
      await sleep(1);
      log.push("cleaned up");
    }
  },
  *generator(log: unknown[]) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push(error);
      throw error;
    } finally {
      try {
        yield* sleep(FOREVER);
      } catch (error) {
        log.push(error);
      }
      yield* sleep(1);
      log.push("cleaned up");
    }
  },
}, async (body) => {
  const log: unknown[] = [];
  const g = spawn(body, log);
  await sleep(1);
  const [first, second] = [new GreenletExit(), new GreenletExit()];
  const killed = g.kill(first, ONCE);
  await sleep(1);
  assertFalse(g.dead);
  await Promise.all([killed, g.kill(second, ONCE)]);
  assertEquals(log.length, 3);
  assertStrictEquals(log[0], first);
  assertStrictEquals(log[1], second);
  assertEquals(log[2], "cleaned up");
  assertStrictEquals<unknown>(g.value, first);
});

testBoth("Greenlet.kill() arrives in a finally that waits", {
  async async(log: string[]) {
    try {
      log.push("work");
    } finally {
      try {
        await sleep(FOREVER);
      } finally {
        log.push("finally");
      }
    }
  },
  *generator(log: string[]) {
    try {
      log.push("work");
    } finally {
      try {
        yield* sleep(FOREVER);
      } finally {
        log.push("finally");
      }
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  await g.kill(undefined, ONCE);
  assertEquals(log, ["work", "finally"]);
  assert(g.successful());
});

testBoth("Greenlet.kill() throws an error of the caller's own", {
  async async(log: unknown[]) {
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push(error);
      throw error;
    }
  },
  *generator(log: unknown[]) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push(error);
      throw error;
    }
  },
}, async (body) => {
  for (const error of [new Error("mine"), "a string", 0, null, Symbol("s")]) {
    using failures = new Failures();
    const log: unknown[] = [];
    const g = spawn(body, log);
    await sleep(1);
    await g.kill(error, ONCE);
    assertEquals(log.length, 1);
    assertStrictEquals<unknown>(log[0], error);
    assert(g.dead);
    assertFalse(g.successful());
    assertStrictEquals<unknown>(g.exception, error);
    assertEquals(g.value, undefined);
    assertEquals(failures.errors.length, 1);
    assertStrictEquals<unknown>(failures.errors[0], error);
  }
});

testBoth("Greenlet.kill() with block: false doesn't wait", {
  async async(log: string[]) {
    try {
      await sleep(FOREVER);
    } finally {
      await sleep(5);
      log.push("cleaned up");
    }
  },
  *generator(log: string[]) {
    try {
      yield* sleep(FOREVER);
    } finally {
      yield* sleep(5);
      log.push("cleaned up");
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  await g.kill(undefined, { ...ONCE, block: false });
  assertFalse(g.dead);
  assertEquals(log, []);
  await g.join();
  assertEquals(log, ["cleaned up"]);
});

testBoth(
  "Greenlet.kill() with a short timeout leaves the body to its clean-up",
  {
    async async(log: string[]) {
      try {
        await sleep(FOREVER);
      } finally {
        await sleep(50);
        log.push("cleaned up");
      }
    },
    *generator(log: string[]) {
      try {
        yield* sleep(FOREVER);
      } finally {
        yield* sleep(50);
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(1);
    await g.kill(undefined, { ...ONCE, timeout: 1 });
    assertFalse(g.dead);
    assertEquals(log, []);
    await g.join();
    assertEquals(log, ["cleaned up"]);
    assert(g.successful());
  },
);

testBoth("Greenlet.kill() goes on when the killer is killed", {
  async async(victim: Greenlet) {
    await victim.kill(undefined, ONCE);
  },
  *generator(victim: Greenlet) {
    yield* victim.kill(undefined, ONCE);
  },
}, async (body) => {
  const log: string[] = [];
  const victim = spawn(async () => {
    try {
      await sleep(FOREVER);
    } finally {
      await sleep(20);
      log.push("cleaned up");
    }
  });
  await sleep(1);
  const killer = spawn(body, victim);
  await sleep(1);
  await killer.kill(undefined, ONCE);
  assert(killer.successful());
  assertFalse(victim.dead);
  await victim.join();
  assertEquals(log, ["cleaned up"]);
});

testBoth("Greenlet.throw() interrupts once, and doesn't insist", {
  async async(log: string[]) {
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push((error as Error).message);
    }
    await sleep(5);
    return "lives on";
  },
  *generator(log: string[]) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push((error as Error).message);
    }
    yield* sleep(5);
    return "lives on";
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  g.throw(new Error("wake up"));
  assertEquals(await g.get(), "lives on");
  assertEquals(log, ["wake up"]);
});

testBoth("kill() ends a core greenlet that waits", {
  async async(log: string[]) {
    try {
      await sleep(FOREVER);
      log.push("went on");
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    } finally {
      log.push("finally");
    }
  },
  *generator(log: string[]) {
    try {
      yield* sleep(FOREVER);
      log.push("went on");
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    } finally {
      log.push("finally");
    }
  },
}, async (body) => {
  using failures = new Failures();
  const log: string[] = [];
  const raw = spawnRaw(body, log);
  await sleep(1);
  assert(raw.active);
  assertFalse(raw.dead);
  await kill(raw, undefined, ONCE);
  await sleep(1);
  assertEquals(log, ["GreenletExit", "finally"]);
  assert(raw.dead);
  assertEquals(await getHub().join({ timeout: AT_ONCE }), true);
  assertEquals(failures.errors, []);
});

testBoth("kill() right after spawnRaw() leaves nothing running", {
  async async(log: string[]) {
    await sleep(FOREVER);
    log.push("went on");
  },
  *generator(log: string[]) {
    yield* sleep(FOREVER);
    log.push("went on");
  },
}, async (body) => {
  using failures = new Failures();
  const log: string[] = [];
  const raw = spawnRaw(body, log);
  await kill(raw, undefined, ONCE);
  await sleep(5);
  assert(raw.dead);
  assertEquals(log, []);
  assertEquals(await getHub().join({ timeout: AT_ONCE }), true);
  assertEquals(failures.errors, []);
});

testBoth("kill() leaves a stubborn core greenlet suspended for good", {
  async async(log: string[]) {
    for (;;) {
      try {
        await sleep(FOREVER);
      } catch {
        log.push("swallowed");
      }
    }
  },
  *generator(log: string[]) {
    for (;;) {
      try {
        yield* sleep(FOREVER);
      } finally {
        log.push("swallowed");
        // deno-lint-ignore no-unsafe-finally
        continue;
      }
    }
  },
}, async (body) => {
  using failures = new Failures();
  const log: string[] = [];
  const raw = spawnRaw(body, log);
  await sleep(1);
  await kill(raw, undefined, { grace: 0 });
  assertEquals(await getHub().join({ timeout: AT_ONCE }), true);
  assertEquals(log.length, 10);
  assert(raw.dead);
  assertEquals(failures.errors.length, 1);
  assertInstanceOf(failures.errors[0], GreenletError);
  assertStrictEquals(failures.contexts[0], raw);
});

// Foreign promises.

Deno.test("Greenlet.kill() throws nothing into a foreign promise, but by the next cooperative call", async () => {
  const log: string[] = [];
  const { promise, resolve } = Promise.withResolvers<string>();
  const g = spawn(async () => {
    try {
      log.push(await promise);
      log.push(await (async () => await foreign(1, "and another"))());
      await sleep(0);
      log.push("went on");
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    }
  });
  await sleep(1);
  const killed = g.kill(undefined, ONCE);
  await sleep(5);
  assertEquals(log, []);
  assertFalse(g.dead);
  resolve("foreign");
  await killed;
  assertEquals(log, ["foreign", "and another", "GreenletExit"]);
  assert(g.successful());
});

Deno.test("Greenlet.kill() with a timeout returns in time from a body that is stuck in a foreign promise", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const g = spawn(async () => await promise);
  await sleep(1);
  await g.kill(undefined, { timeout: 5, grace: 1 });
  assertFalse(g.dead);
  await g.kill(undefined, { timeout: 0, grace: 0 });
  await foreign(20);
  assertFalse(g.dead);
  resolve();
  await g.join();
});

Deno.test("Greenlet.kill() leaves a body that fails by a foreign promise with the foreign error", async () => {
  using failures = new Failures();
  const { promise, reject } = Promise.withResolvers<void>();
  const g = spawn(async () => await promise);
  await sleep(1);
  const killed = g.kill();
  reject(new Error("foreign"));
  await killed;
  assertEquals((g.exception as Error).message, "foreign");
  assertEquals(failures.errors, [g.exception]);
});

Deno.test("Greenlet.kill() counts the grace from when the error is thrown", async () => {
  const log: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const g = spawn(async () => {
    try {
      await promise;
      await sleep(FOREVER);
    } finally {
      await sleep(2);
      log.push("cleaned up");
      await sleep(FOREVER);
      log.push("went on");
    }
  });
  await sleep(1);
  const killed = g.kill(undefined, { grace: 100 });
  await foreign(150);
  resolve();
  await killed;
  assertEquals(log, ["cleaned up"]);
  assert(g.successful());
});

Deno.test("Greenlet.kill() insists with a body that swallows it after a foreign promise", async () => {
  using failures = new Failures();
  const { promise, resolve } = Promise.withResolvers<void>();
  let swallowed = 0;
  const g = spawn(async () => {
    await promise;
    for (;;) {
      try {
        await sleep(FOREVER);
      } catch {
        swallowed++;
      }
    }
  });
  await sleep(1);
  const killed = g.kill(undefined, { grace: 5 });
  await foreign(10);
  resolve();
  await killed;
  assert(g.dead);
  assertInstanceOf(g.exception, GreenletError);
  assertEquals(failures.errors, [g.exception]);
  await foreign(5);
  assertEquals(swallowed, 11);
});

// Several waits at once.

testBoth("Greenlet.kill() undoes every pending wait", {
  async async(log: string[], waiters: Waiter<void>[]) {
    try {
      await Promise.all(waiters.map((waiter) => waiter.get()));
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    }
  },
  *generator(log: string[], waiters: Waiter<void>[]) {
    try {
      yield* until(Promise.all(waiters.map((waiter) => waiter.get())));
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    }
  },
}, async (body) => {
  await using _ = new Unhandled();
  const log: string[] = [];
  const error = new GreenletExit();
  const waiters = [1, 2, 3].map((n) =>
    new Waiter<void>((thrown) => {
      assertStrictEquals(thrown, error);
      log.push(`undo ${n}`);
    })
  );
  const g = spawn(body, log, waiters);
  await sleep(1);
  await g.kill(error, ONCE);
  assertEquals(log, ["undo 1", "undo 2", "undo 3", "GreenletExit"]);
  // Over is over.
  for (const waiter of waiters) waiter.switch();
  assert(g.successful());
});

Deno.test("Greenlet.kill() undoes both waits of a Promise.race()", async () => {
  await using _ = new Unhandled();
  const undone: number[] = [];
  const g = spawn(async () => {
    await Promise.race(
      [1, 2].map((n) => new Waiter(() => undone.push(n)).get()),
    );
  });
  await sleep(1);
  await g.kill(undefined, ONCE);
  assertEquals(undone, [1, 2]);
  assert(g.successful());
});

testBoth("Greenlet.kill() undoes waits that are not awaited", {
  async async(log: string[], waiter: Waiter<void>) {
    waiter.get();
    sleep(FOREVER);
    until(never);
    withTimeout(FOREVER, () => sleep(FOREVER));
    withTimeout(FOREVER, () => never);
    try {
      await sleep(FOREVER);
    } finally {
      log.push("finally");
    }
  },
  *generator(log: string[], waiter: Waiter<void>) {
    waiter.get();
    sleep(FOREVER);
    until(never);
    withTimeout(FOREVER, () => sleep(FOREVER));
    withTimeout(FOREVER, () => never);
    try {
      yield* sleep(FOREVER);
    } finally {
      log.push("finally");
    }
  },
}, async (body) => {
  await using _ = new Unhandled();
  const log: string[] = [];
  const g = spawn(body, log, new Waiter<void>(() => log.push("undone")));
  await sleep(1);
  await g.kill(undefined, ONCE);
  assertEquals(log, ["undone", "finally"]);
  assert(g.successful());
});

Deno.test("Greenlet.kill() ends a body in a foreign promise whose only wait is not awaited", async () => {
  await using _ = new Unhandled();
  let undone = 0;
  const { promise, resolve } = Promise.withResolvers<void>();
  const g = spawn(async () => {
    new Waiter(() => undone++).get();
    await promise;
    await sleep(FOREVER);
  });
  await sleep(1);
  const killed = g.kill(undefined, { grace: 20 });
  assertEquals(undone, 1);
  resolve();
  await killed;
  assert(g.successful());
});

Deno.test("Greenlet.kill() of a body with a held error ends its wait that is not awaited", async () => {
  await using _ = new Unhandled();
  const { promise, resolve } = Promise.withResolvers<void>();
  const g = spawn(async () => {
    await promise;
    // Takes the error, and reports nothing.
    sleep(1);
    await sleep(FOREVER);
  });
  await sleep(1);
  const killed = g.kill(undefined, { grace: 20 });
  resolve();
  await killed;
  assert(g.successful());
});

Deno.test("Greenlet.kill() goes on when the undo of a wait fails", async () => {
  using failures = new Failures();
  const g = spawn(async () => {
    await Promise.all([
      new Waiter(() => {
        throw new Error("undo");
      }).get(),
      until(never, () => {
        throw new Error("onInterrupt");
      }),
      sleep(FOREVER),
    ]);
  });
  await sleep(1);
  await g.kill(undefined, ONCE);
  assert(g.successful());
  assertEquals(failures.errors.map((error) => (error as Error).message), [
    "undo",
    "onInterrupt",
  ]);
});

Deno.test("Greenlet.kill() lets the undo of one wait end another", async () => {
  const log: string[] = [];
  const g = spawn(async () => {
    const second = new Waiter<string>(() => log.push("second undone"));
    const first = new Waiter(() => second.switch("put back"));
    const results = await Promise.allSettled([first.get(), second.get()]);
    for (const result of results) {
      log.push(
        result.status === "fulfilled" ? result.value as string : "thrown",
      );
    }
  });
  await sleep(1);
  await g.kill(undefined, ONCE);
  assertEquals(log, ["thrown", "put back"]);
});

Deno.test("Greenlet.kill() lets an undo kill the same greenlet", async () => {
  await using _ = new Unhandled();
  const g: Greenlet = spawn(async () => {
    const undo = () => {
      g.kill(undefined, { ...ONCE, block: false });
    };
    await Promise.all([new Waiter(undo).get(), new Waiter(undo).get()]);
  });
  await sleep(1);
  await g.kill(undefined, ONCE);
  assert(g.successful());
});

testBoth("until() calls onInterrupt once, with the error", {
  async async(log: unknown[]) {
    await until(never, (error) => log.push(error));
  },
  *generator(log: unknown[]) {
    yield* until(never, (error) => log.push(error));
  },
}, async (body) => {
  const log: unknown[] = [];
  const g = spawn(body, log);
  await sleep(1);
  const error = new GreenletExit();
  await g.kill(error, ONCE);
  assertEquals(log.length, 1);
  assertStrictEquals(log[0], error);
});

testBoth("until() handles the rejection of a promise after an interrupt", {
  async async(promise: Promise<void>) {
    await until(promise);
  },
  *generator(promise: Promise<void>) {
    yield* until(promise);
  },
}, async (body) => {
  await using _ = new Unhandled();
  const { promise, reject } = Promise.withResolvers<void>();
  const g = spawn(body, promise);
  await sleep(1);
  await g.kill(undefined, ONCE);
  reject(new Error("late"));
  await foreign(0);
  assert(g.successful());
});

// In the same turn.

testBoth("Waiter.get() gives the value that was handed over before the kill", {
  async async(log: string[], waiter: Waiter<string>, go: Waiter<void>) {
    await go.get();
    // Neither is lost: the item is received, and the kill comes with the next wait.
    log.push(await waiter.get());
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
    }
  },
  *generator(log: string[], waiter: Waiter<string>, go: Waiter<void>) {
    yield* go.get();
    log.push(yield* waiter.get());
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
    }
  },
}, async (body) => {
  const log: string[] = [];
  const waiter = new Waiter<string>(() => log.push("undone"));
  const go = new Waiter<void>();
  const g = spawn(body, log, waiter, go);
  await sleep(1);
  waiter.switch("item");
  go.switch();
  await g.kill(undefined, ONCE);
  assertEquals(log, ["item", "GreenletExit"]);
});

testBoth("Waiter.get() undoes a wait that a held kill prevents", {
  async async(waiter: Waiter<string>, go: Waiter<void>) {
    await go.get();
    await waiter.get();
  },
  *generator(waiter: Waiter<string>, go: Waiter<void>) {
    yield* go.get();
    yield* waiter.get();
  },
}, async (body) => {
  const log: string[] = [];
  const error = new GreenletExit();
  const waiter = new Waiter<string>((thrown) =>
    log.push(thrown === error ? "undone" : "something else")
  );
  const go = new Waiter<void>();
  const g = spawn(body, waiter, go);
  await sleep(1);
  go.switch();
  await g.kill(error, ONCE);
  assertEquals(log, ["undone"]);
  assert(g.successful());
});

testBoth("Two interrupts in one turn are thrown one after the other", {
  async async(log: string[]) {
    for (let i = 0; i < 3; i++) {
      try {
        await sleep(i === 2 ? 1 : FOREVER);
        log.push("slept");
      } catch (error) {
        log.push((error as Error).message);
      }
    }
  },
  *generator(log: string[]) {
    for (let i = 0; i < 3; i++) {
      try {
        yield* sleep(i === 2 ? 1 : FOREVER);
        log.push("slept");
      } catch (error) {
        log.push((error as Error).message);
      }
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  g.throw(new Error("first"));
  g.throw(new Error("second"));
  await g.join();
  assertEquals(log, ["first", "second", "slept"]);
});

testBoth("A Timeout and a kill in one turn are both thrown", {
  async async(log: string[], atTimeout: (error: unknown) => void) {
    const timeout = Timeout.start(2);
    try {
      await new Waiter(atTimeout).get();
    } catch (error) {
      log.push(error === timeout ? "Timeout" : nameOf(error));
    }
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
    }
  },
  *generator(log: string[], atTimeout: (error: unknown) => void) {
    const timeout = Timeout.start(2);
    try {
      yield* new Waiter(atTimeout).get();
    } catch (error) {
      log.push(error === timeout ? "Timeout" : nameOf(error));
    }
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g: Greenlet = spawn(body, log, () => {
    g.kill(undefined, { ...ONCE, block: false });
  });
  await g.join();
  assertEquals(log, ["Timeout", "GreenletExit"]);
});

testBoth("A Timeout that is closed before its turn comes is never thrown", {
  async async(log: string[], go: Waiter<void>) {
    {
      using _timeout = Timeout.start(1);
      await go.get();
    }
    await sleep(2);
    log.push("slept");
  },
  *generator(log: string[], go: Waiter<void>) {
    {
      using _timeout = Timeout.start(1);
      yield* go.get();
    }
    yield* sleep(2);
    log.push("slept");
  },
}, async (body) => {
  const log: string[] = [];
  const go = new Waiter<void>();
  const g = spawn(body, log, go);
  await sleep(0);
  await sleep(0);
  // Over, and then, before the body goes on, the time is over as well.
  const deadline = performance.now() + 20;
  useUpTheSlice();
  go.switch();
  while (performance.now() < deadline);
  await g.join();
  assertEquals(log, ["slept"]);
});

testBoth(
  "A kill in the turn in which a limited wait ends keeps the result",
  {
    async async(log: string[], waiter: Waiter<string>) {
      log.push(await withTimeout(FOREVER, () => waiter.get()));
      try {
        await sleep(FOREVER);
        log.push("went on");
      } catch (error) {
        log.push(nameOf(error));
        throw error;
      }
    },
    *generator(log: string[], waiter: Waiter<string>) {
      log.push(
        yield* withTimeout(FOREVER, function* () {
          return yield* waiter.get();
        }),
      );
      try {
        yield* sleep(FOREVER);
        log.push("went on");
      } catch (error) {
        log.push(nameOf(error));
        throw error;
      }
    },
  },
  async (body) => {
    for (const isAside of [false, true]) {
      const log: string[] = [];
      const waiter = new Waiter<string>();
      const g = spawn(body, log, waiter);
      await sleep(1);
      if (isAside) useUpTheSlice();
      waiter.switch("item");
      await g.kill(undefined, { ...ONCE, timeout: AT_ONCE });
      assertEquals(log, ["item", "GreenletExit"]);
      assert(g.successful());
    }
  },
);

testBoth("A limit in the turn in which its wait ends keeps the result", {
  async async(log: string[], waiter: Waiter<string>) {
    log.push(
      await withTimeout(80, async () => await waiter.get(), { value: "late" }),
    );
    await sleep(1);
    log.push("slept");
  },
  *generator(log: string[], waiter: Waiter<string>) {
    log.push(
      yield* withTimeout(80, function* () {
        return yield* waiter.get();
      }, { value: "late" }),
    );
    yield* sleep(1);
    log.push("slept");
  },
}, async (body) => {
  for (const isAside of [false, true]) {
    const log: string[] = [];
    const waiter = new Waiter<string>(() => log.push("undone"));
    const g = spawn(body, log, waiter);
    atTimer(70, () => {
      if (isAside) useUpTheSlice();
      waiter.switch("item");
    });
    await beLate();
    await g.join();
    assertEquals(log, ["item", "slept"]);
  }
});

testBoth("A kill in the turn of a limit is thrown after it", {
  async async(log: string[], atLimit: () => void) {
    const result = await withTimeout(2, () => new Waiter(atLimit).get(), {
      value: "late",
    });
    log.push(String(result));
    try {
      await sleep(FOREVER);
      log.push("went on");
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    }
  },
  *generator(log: string[], atLimit: () => void) {
    const result = yield* withTimeout(2, () => new Waiter(atLimit).get(), {
      value: "late",
    });
    log.push(String(result));
    try {
      yield* sleep(FOREVER);
      log.push("went on");
    } catch (error) {
      log.push(nameOf(error));
      throw error;
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g: Greenlet = spawn(body, log, () => {
    g.kill(undefined, { ...ONCE, block: false });
  });
  await g.join();
  assertEquals(log, ["late", "GreenletExit"]);
  assert(g.successful());
});

Deno.test("A kill in the turn of the limit of a foreign promise is not lost", async () => {
  for (const [ms, expected] of [[70, []], [90, ["late", "GreenletExit"]]]) {
    const log: string[] = [];
    const g = spawn(async () => {
      log.push(await withTimeout(80, () => never, { value: "late" }));
      try {
        await sleep(FOREVER);
        log.push("went on");
      } catch (error) {
        log.push(nameOf(error));
        throw error;
      }
    });
    atTimer(ms as number, () => {
      g.kill(undefined, { ...ONCE, block: false });
    });
    await beLate();
    await g.join();
    assertEquals(log, expected as string[]);
    assert(g.successful());
  }
});

// The three steps of a kill.

testBoth("Greenlet.kill() lets the clean-up wait, within its grace", {
  async async(log: string[]) {
    try {
      await sleep(FOREVER);
    } finally {
      for (let i = 0; i < 20; i++) await sleep(1);
      await until(foreign(5));
      await spawn(sleep, 1).join();
      log.push("cleaned up");
    }
  },
  *generator(log: string[]) {
    try {
      yield* sleep(FOREVER);
    } finally {
      for (let i = 0; i < 20; i++) yield* sleep(1);
      yield* until(foreign(5));
      yield* spawn(sleep, 1).join();
      log.push("cleaned up");
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  await g.kill(undefined, { grace: AT_ONCE });
  assertEquals(log, ["cleaned up"]);
  assert(g.successful());
});

testBoth(
  "Greenlet.kill() cuts a clean-up short that takes longer than the grace",
  {
    async async(log: string[]) {
      try {
        await sleep(FOREVER);
      } finally {
        try {
          await sleep(FOREVER);
          log.push("cleaned up");
        } finally {
          log.push("inner finally");
        }
      }
    },
    *generator(log: string[]) {
      try {
        yield* sleep(FOREVER);
      } finally {
        try {
          yield* sleep(FOREVER);
          log.push("cleaned up");
        } finally {
          log.push("inner finally");
        }
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(1);
    const start = performance.now();
    await g.kill(undefined, { grace: 30 });
    assertGreaterOrEqual(performance.now() - start, 30);
    assertEquals(log, ["inner finally"]);
    assert(g.successful());
    assertInstanceOf(g.value, GreenletExit);
    assertEquals(failures.errors, []);
  },
);

testBoth("Greenlet.kill() has a grace of a second", {
  async async(log: string[]) {
    try {
      await sleep(FOREVER);
    } finally {
      await sleep(100);
      log.push("cleaned up");
      await sleep(FOREVER);
      log.push("went on");
    }
  },
  *generator(log: string[]) {
    try {
      yield* sleep(FOREVER);
    } finally {
      yield* sleep(100);
      log.push("cleaned up");
      yield* sleep(FOREVER);
      log.push("went on");
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  const start = performance.now();
  await g.kill();
  assertGreaterOrEqual(performance.now() - start, 1000);
  assertLess(performance.now() - start, AT_ONCE);
  assertEquals(log, ["cleaned up"]);
});

testBoth("Greenlet.kill() with a grace of 0 allows no further wait", {
  async async(log: string[]) {
    try {
      await sleep(FOREVER);
    } finally {
      log.push("finally");
      try {
        await sleep(1);
        log.push("waited");
      } finally {
        log.push("inner finally");
      }
    }
  },
  *generator(log: string[]) {
    try {
      yield* sleep(FOREVER);
    } finally {
      log.push("finally");
      try {
        yield* sleep(1);
        log.push("waited");
      } finally {
        log.push("inner finally");
      }
    }
  },
}, async (body) => {
  using failures = new Failures();
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  const error = new GreenletExit();
  await g.kill(error, { grace: 0 });
  assertEquals(log, ["finally", "inner finally"]);
  assert(g.successful());
  assertStrictEquals<unknown>(g.value, error);
  assertEquals(failures.errors, []);
});

/** A resource whose clean-up waits for good. */
function waiting(): AsyncDisposable {
  return { [Symbol.asyncDispose]: () => sleep(FOREVER) };
}

Deno.test("Greenlet.kill() past its grace does not fail an await using block", async () => {
  using failures = new Failures();
  const body = async () => {
    await using _a = waiting();
    await using _b = waiting();
    await sleep(FOREVER);
  };
  for (const grace of [0, 5]) {
    const exit = new GreenletExit();
    const g = spawn(body);
    const raw = spawnRaw(body);
    const limited = spawn(() => withTimeout(FOREVER, body));
    const nursing = spawn(() => nursery(body));
    await sleep(1);
    await killAll([g, raw, limited, nursing], { error: exit, grace });
    for (const one of [g, limited, nursing]) {
      assert(one.successful());
      assertStrictEquals<unknown>(one.value, exit);
    }
    assert(raw.dead);
  }
  assertEquals(failures.errors, []);
});

Deno.test("Greenlet.kill() again does not fail an await using block", async () => {
  using failures = new Failures();
  const g = spawn(async () => {
    await using _ = waiting();
    await sleep(FOREVER);
  });
  await sleep(1);
  const last = new GreenletExit();
  await Promise.all([g.kill(), sleep(1).then(() => g.kill(last))]);
  assert(g.successful());
  assertStrictEquals<unknown>(g.value, last);
  assertEquals(failures.errors, []);
});

Deno.test("Greenlet.kill() past its grace fails an await using block by the caller's own error itself", async () => {
  using failures = new Failures();
  const error = new Error("mine");
  const g = spawn(async () => {
    await using _ = waiting();
    await sleep(FOREVER);
  });
  await sleep(1);
  await g.kill(error, { grace: 0 });
  assertStrictEquals(g.exception, error);
  assertEquals(failures.errors, [error]);
});

Deno.test("Greenlet.kill() past its grace reports the other errors of an await using block", async () => {
  using failures = new Failures();
  const others = [
    new Error("other"),
    new Timeout(),
    new GreenletExit("nobody's"),
  ];
  for (const other of others) {
    const g = spawn(async () => {
      await using _ = waiting();
      try {
        await sleep(FOREVER);
      } catch {
        throw other;
      }
    });
    await sleep(1);
    const exit = new GreenletExit();
    await g.kill(exit, { grace: 0 });
    assertStrictEquals<unknown>(g.value, exit);
    await settle();
    assertEquals(
      failures.errors.splice(0),
      other instanceof GreenletExit ? [] : [other],
    );
  }
});

Deno.test("Greenlet.kill() past its grace does not end the process by an await using block that is not awaited", async () => {
  const { out, err, code } = await runScript(`
    const g = spawn(async () => {
      (async () => {
        await using _ = { [Symbol.asyncDispose]: () => sleep(60_000) };
        await sleep(60_000);
      })();
      await sleep(60_000);
    });
    await idle();
    await g.kill(undefined, { grace: 0 });
    await sleep(5);
    console.log(g.successful());
  `);
  assertEquals([out, err, code], [["true"], "", 0]);
});

/** Where the only throw of a kill with a grace of 0 finds a generator body. */
const LAST_WAITS: Record<string, () => Generator<unknown, void, unknown>> = {
  *"a wait"() {
    yield* sleep(FOREVER);
  },
  *"a wait beside others"() {
    sleep(FOREVER);
    until(never);
    yield* sleep(FOREVER);
  },
  *"a wait after its own kill"() {
    kill(getCurrent(), undefined, { block: false, grace: 0 });
    yield* sleep(FOREVER);
  },
  *"a wait after several kills"() {
    const error = new GreenletExit();
    for (const grace of [Infinity, 0, 0]) {
      kill(getCurrent(), error, { block: false, grace });
    }
    yield* sleep(FOREVER);
  },
  *"withTimeout() of an async function"() {
    yield* withTimeout(FOREVER, () => sleep(FOREVER));
  },
  *"withTimeout() of a foreign promise"() {
    yield* withTimeout(FOREVER, () => never);
  },
  *"withTimeout() of a generator function"() {
    yield* withTimeout(FOREVER, function* () {
      yield* sleep(FOREVER);
    });
  },
  *"nursery()"() {
    yield* nursery((n) => n.spawn(sleep, FOREVER).join());
  },
};

for (const [place, wait] of Object.entries(LAST_WAITS)) {
  Deno.test(`Greenlet.kill() with a grace of 0 is thrown into a generator body once, and then ends it, in ${place}`, async () => {
    await using _ = new Unhandled();
    using failures = new Failures();
    const log: string[] = [];
    const g = spawn(function* () {
      for (;;) {
        try {
          yield* wait();
        } catch (error) {
          log.push(`caught ${nameOf(error)}`);
        } finally {
          log.push("finally");
        }
      }
    });
    await sleep(2);
    await g.kill(undefined, { grace: 0 });
    assertEquals(log, ["caught GreenletExit", "finally", "finally"]);
    assert(g.successful());
    assertInstanceOf(g.value, GreenletExit);
    assertEquals(failures.errors, []);
  });
}

Deno.test("Greenlet.kill() with a grace of 0 is thrown once into each function of nested calls, and then ends it", async () => {
  const log: string[] = [];
  const stubborn = function* (name: string, wait: () => Wait<unknown>) {
    for (;;) {
      try {
        yield* wait();
      } catch {
        log.push(`${name} caught`);
      } finally {
        log.push(`${name} finally`);
      }
    }
  };
  const g = spawn(
    stubborn,
    "outer",
    () =>
      nursery(() =>
        withTimeout(FOREVER, () => stubborn("inner", () => sleep(FOREVER)))
      ),
  );
  await sleep(2);
  await g.kill(undefined, { grace: 0 });
  for (const name of ["inner", "outer"]) {
    assertEquals(log.filter((line) => line.startsWith(name)), [
      `${name} caught`,
      `${name} finally`,
      `${name} finally`,
    ]);
  }
  assert(g.successful());
});

testBoth("Greenlet.kill() with an infinite grace throws exactly once", {
  async async(log: string[]) {
    try {
      await sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
    }
    for (let i = 0; i < 20; i++) await sleep(1);
    return "lives on";
  },
  *generator(log: string[]) {
    try {
      yield* sleep(FOREVER);
    } catch (error) {
      log.push(nameOf(error));
    }
    for (let i = 0; i < 20; i++) yield* sleep(1);
    return "lives on";
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(1);
  await g.kill(undefined, { grace: Infinity });
  assertEquals(log, ["GreenletExit"]);
  assertEquals(await g.get(), "lives on");
});

testBoth(
  "Greenlet.kill() takes the value that a body returns when it catches the error",
  {
    async async() {
      try {
        await sleep(FOREVER);
      } catch {
        return "caught";
      }
    },
    *generator() {
      try {
        yield* sleep(FOREVER);
      } catch {
        return "caught";
      }
    },
  },
  async (body) => {
    const g = spawn(body);
    await sleep(1);
    await g.kill();
    assert(g.successful());
    assertEquals(g.value, "caught");
  },
);

Deno.test("Greenlet.kill() ends an async body that swallows it between sessions", async () => {
  using failures = new Failures();
  let swallowed = 0;
  const g = spawn(async () => {
    for (;;) {
      try {
        await sleep(FOREVER);
      } catch {
        swallowed++;
        await sleep(1);
      }
    }
  });
  await sleep(1);
  const error = new GreenletExit();
  await g.kill(error, { grace: 20 });
  assert(g.dead);
  assert(g.successful(), "The second sleep is outside of the try");
  assertStrictEquals<unknown>(g.value, error);
  assertEquals(swallowed, 2);
  assertEquals(failures.errors, []);
});

Deno.test("Greenlet.kill() leaves an async body suspended that swallows it ten times", async () => {
  await using _ = new Unhandled();
  using failures = new Failures();
  let swallowed = 0;
  const g = spawn(async () => {
    try {
      await sleep(FOREVER);
    } catch {
      // The error itself, within the grace.
    }
    for (;;) {
      try {
        await sleep(FOREVER);
      } catch {
        swallowed++;
      }
    }
  });
  await sleep(1);
  const error = new GreenletExit();
  await g.kill(error, { grace: 5 });
  assert(g.dead);
  assertFalse(g.successful());
  assertInstanceOf(g.exception, GreenletError);
  assertStrictEquals(g.exception.cause, error);
  assertStringIncludes(g.exception.message, g.name);
  assertEquals(failures.errors.length, 1);
  assertStrictEquals(await assertRejects(() => g.get()), g.exception);
  assertEquals(swallowed, 10);
  // Not one time more: it doesn't spin, and nothing resumes it.
  for (let i = 0; i < 5; i++) await foreign(1);
  assertEquals(swallowed, 10);
  await g.kill(undefined, { grace: 0 });
  g.throw();
  await foreign(1);
  assertEquals(swallowed, 10);
  assertEquals(failures.errors, [g.exception]);
  assertStrictEquals(failures.contexts[0], g);
});

testBoth(
  "Greenlet.kill() leaves the event loop its turns while a body swallows",
  {
    async async(log: string[]) {
      for (;;) {
        try {
          await sleep(0);
        } catch {
          log.push("swallowed");
        }
      }
    },
    *generator(log: string[]) {
      for (;;) {
        try {
          yield* sleep(0);
        } finally {
          log.push("swallowed");
          // deno-lint-ignore no-unsafe-finally
          continue;
        }
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(1);
    log.length = 0;
    await g.kill(undefined, { grace: 0 });
    assert(g.dead);
    const { length } = log;
    let turns = 0;
    while (turns < 10) {
      await foreign(0);
      turns++;
    }
    assertEquals(log.length, length);
    assertEquals(failures.errors, [g.exception]);
    assertInstanceOf(g.exception, GreenletError);
  },
);

Deno.test("Greenlet.kill() ends a generator body past its catch", async () => {
  using failures = new Failures();
  const log: string[] = [];
  const g = spawn(function* () {
    for (;;) {
      try {
        yield* sleep(FOREVER);
      } catch (error) {
        log.push(`caught ${nameOf(error)}`);
      } finally {
        log.push("finally");
      }
    }
  });
  await sleep(1);
  const error = new GreenletExit();
  await g.kill(error, { grace: 5 });
  assertEquals(log, ["caught GreenletExit", "finally", "finally"]);
  assert(g.successful());
  assertStrictEquals<unknown>(g.value, error);
  assertEquals(failures.errors, []);
});

Deno.test("Greenlet.kill() fails a generator body by the caller's own error also past its catch", async () => {
  using failures = new Failures();
  for (const error of [new Error("mine"), "a string"]) {
    const g = spawn(function* () {
      for (;;) {
        try {
          yield* sleep(FOREVER);
        } catch {
          // Swallowed
        }
      }
    });
    await sleep(1);
    await g.kill(error, { grace: 0 });
    assertFalse(g.successful());
    assertStrictEquals<unknown>(g.exception, error);
    assertStrictEquals<unknown>(failures.errors.pop(), error);
  }
});

Deno.test("Greenlet.kill() ends a generator body past its catch around withTimeout()", async () => {
  const log: string[] = [];
  const limits: (() => Promise<void>)[] = [() => sleep(FOREVER), () => never];
  for (const limited of limits) {
    const g = spawn(function* () {
      for (;;) {
        try {
          yield* withTimeout(FOREVER, limited);
        } catch (error) {
          log.push(`caught ${nameOf(error)}`);
        } finally {
          log.push("finally");
        }
      }
    });
    await sleep(1);
    await g.kill(undefined, { grace: 5 });
    assert(g.successful());
    assertEquals(log.splice(0), ["caught GreenletExit", "finally", "finally"]);
  }
});

Deno.test("Greenlet.kill() takes what the finally of a generator body returns", async () => {
  const g = spawn(function* () {
    try {
      yield* sleep(FOREVER);
    } finally {
      // deno-lint-ignore no-unsafe-finally
      return "from finally";
    }
  });
  await sleep(1);
  await g.kill(new Error("mine"), { grace: 0 });
  assert(g.successful());
  assertEquals<unknown>(g.value, "from finally");
});

Deno.test("Greenlet.kill() fails a generator body whose finally throws past its catch", async () => {
  using failures = new Failures();
  const g = spawn(function* () {
    try {
      yield* sleep(FOREVER);
    } finally {
      // deno-lint-ignore no-unsafe-finally
      throw new Error("from finally");
    }
  });
  await sleep(1);
  await g.kill(undefined, { grace: 0 });
  assertEquals((g.exception as Error).message, "from finally");
  assertEquals(failures.errors, [g.exception]);
});

Deno.test("Greenlet.kill() ends a generator body whose finally waits too long", async () => {
  using failures = new Failures();
  const log: string[] = [];
  const g = spawn(function* () {
    try {
      yield* sleep(FOREVER);
    } finally {
      try {
        for (;;) {
          log.push("waits");
          try {
            yield* sleep(FOREVER);
          } catch {
            log.push("caught");
          }
        }
      } finally {
        log.push("finally");
        yield* sleep(1);
        log.push("went on");
      }
    }
  });
  await sleep(1);
  await g.kill(undefined, { grace: 5 });
  assertEquals(log, ["waits", "finally"]);
  assert(g.successful());
  assertEquals(failures.errors, []);
});

Deno.test("Greenlet.kill() leaves a generator body suspended whose finally loops", async () => {
  using failures = new Failures();
  let waits = 0;
  const g = spawn(function* () {
    for (;;) {
      try {
        waits++;
        yield* sleep(FOREVER);
      } finally {
        // deno-lint-ignore no-unsafe-finally
        continue;
      }
    }
  });
  await sleep(1);
  const error = new GreenletExit();
  await g.kill(error, { grace: 5 });
  assert(g.dead);
  assertInstanceOf(g.exception, GreenletError);
  assertStrictEquals(g.exception.cause, error);
  assertEquals(failures.errors, [g.exception]);
  const sofar = waits;
  assertLess(sofar, 20);
  await foreign(5);
  assertEquals(waits, sofar);
});

testBoth(
  "Greenlet.kill() ends a body that begins several waits whenever it swallows",
  {
    async async() {
      for (;;) {
        await Promise.allSettled([
          sleep(FOREVER),
          sleep(FOREVER),
          until(never),
        ]);
      }
    },
    *generator() {
      for (;;) {
        yield* until(Promise.allSettled([sleep(FOREVER), until(never)]));
      }
    },
  },
  async (body) => {
    await using _ = new Unhandled();
    using failures = new Failures();
    const g = spawn(body);
    await sleep(1);
    await g.kill(undefined, { grace: 5 });
    assert(g.dead);
    // A generator body is ended, where an async body can only be left.
    assertEquals(failures.errors.length, g.successful() ? 0 : 1);
  },
);

testBoth("Greenlet.kill() again with less grace makes the first more urgent", {
  async async() {
    try {
      await sleep(FOREVER);
    } finally {
      try {
        await sleep(FOREVER);
      } catch {
        await sleep(FOREVER);
      }
    }
  },
  *generator() {
    try {
      yield* sleep(FOREVER);
    } finally {
      try {
        yield* sleep(FOREVER);
      } catch {
        yield* sleep(FOREVER);
      }
    }
  },
}, async (body) => {
  const g = spawn(body);
  await sleep(1);
  await g.kill(undefined, { grace: FOREVER, block: false });
  await sleep(1);
  assertFalse(g.dead);
  await g.kill(undefined, { grace: 5 });
  assert(g.dead);
});

testBoth("Greenlet.kill() again with more grace doesn't put the first off", {
  async async() {
    for (let i = 0; i < 3; i++) {
      try {
        await sleep(FOREVER);
      } catch {
        // Swallowed
      }
    }
    await sleep(FOREVER);
  },
  *generator() {
    for (let i = 0; i < 3; i++) {
      try {
        yield* sleep(FOREVER);
      } catch {
        // Swallowed
      }
    }
    yield* sleep(FOREVER);
  },
}, async (body) => {
  const g = spawn(body);
  await sleep(1);
  await g.kill(undefined, { grace: 20, block: false });
  await g.kill(undefined, { grace: FOREVER });
  assert(g.dead);
});

testBoth(
  "Greenlet.kill() lets go of the calls that an ended body has left behind",
  {
    async async(log: string[], gate: Promise<void>) {
      (async () => {
        await gate;
        try {
          await sleep(1);
          log.push("slept");
        } catch (error) {
          log.push(nameOf(error));
        }
      })();
      await sleep(FOREVER);
    },
    *generator(log: string[], gate: Promise<void>) {
      (async () => {
        await gate;
        try {
          await sleep(1);
          log.push("slept");
        } catch (error) {
          log.push(nameOf(error));
        }
      })();
      yield* sleep(FOREVER);
    },
  },
  async (body) => {
    const log: string[] = [];
    const gate = Promise.withResolvers<void>();
    const g = spawn(body, log, gate.promise);
    await sleep(1);
    await g.kill(undefined, ONCE);
    gate.resolve();
    await foreign(10);
    assertEquals(log, ["slept"]);
  },
);

// Inside withTimeout().

testBoth(
  "Greenlet.kill() goes through nested withTimeout() calls, from the inside out",
  {
    async async(log: string[]) {
      try {
        await withTimeout(FOREVER, async () => {
          try {
            await withTimeout(FOREVER, async () => {
              try {
                await sleep(FOREVER);
              } finally {
                await sleep(1);
                log.push("inner");
              }
            }, { value: "late" });
            log.push("went on in the middle");
          } finally {
            await sleep(1);
            log.push("middle");
          }
        }, { value: "late" });
        log.push("went on outside");
      } finally {
        await sleep(1);
        log.push("outer");
      }
    },
    *generator(log: string[]) {
      try {
        yield* withTimeout(FOREVER, function* () {
          try {
            yield* withTimeout(FOREVER, function* () {
              try {
                yield* sleep(FOREVER);
              } finally {
                yield* sleep(1);
                log.push("inner");
              }
            }, { value: "late" });
            log.push("went on in the middle");
          } finally {
            yield* sleep(1);
            log.push("middle");
          }
        }, { value: "late" });
        log.push("went on outside");
      } finally {
        yield* sleep(1);
        log.push("outer");
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(2);
    await g.kill(undefined, ONCE);
    assertEquals(log, ["inner", "middle", "outer"]);
    assert(g.successful());
  },
);

testBoth(
  "Greenlet.kill() without grace goes through nested withTimeout() calls",
  {
    async async(log: string[]) {
      try {
        await withTimeout(FOREVER, async () => {
          try {
            await withTimeout(FOREVER, async () => {
              try {
                await sleep(FOREVER);
              } finally {
                log.push("inner");
              }
            }, { value: "late" });
            log.push("went on in the middle");
          } finally {
            log.push("middle");
          }
        }, { value: "late" });
        log.push("went on outside");
      } finally {
        log.push("outer");
      }
    },
    *generator(log: string[]) {
      try {
        yield* withTimeout(FOREVER, function* () {
          try {
            yield* withTimeout(FOREVER, function* () {
              try {
                yield* sleep(FOREVER);
              } finally {
                log.push("inner");
              }
            }, { value: "late" });
            log.push("went on in the middle");
          } finally {
            log.push("middle");
          }
        }, { value: "late" });
        log.push("went on outside");
      } finally {
        log.push("outer");
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(2);
    const error = new GreenletExit();
    await g.kill(error, { grace: 0 });
    assertEquals(log.toSorted(), ["inner", "middle", "outer"]);
    assert(g.successful());
    assertStrictEquals<unknown>(g.value, error);
  },
);

testBoth("Greenlet.kill() ends a body whose limited function swallows it", {
  async async(log: string[]) {
    try {
      await withTimeout(FOREVER, async () => {
        for (;;) {
          try {
            await sleep(FOREVER);
          } catch {
            log.push("swallowed");
          }
        }
      });
      log.push("went on");
    } finally {
      log.push("finally");
    }
  },
  *generator(log: string[]) {
    try {
      yield* withTimeout(FOREVER, function* () {
        for (;;) {
          try {
            yield* sleep(FOREVER);
          } catch {
            log.push("swallowed");
          }
        }
      });
      log.push("went on");
    } finally {
      log.push("finally");
    }
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(2);
  await g.kill(undefined, { grace: 5 });
  assert(g.successful());
  await foreign(5);
  assertEquals(log.filter((line) => line === "finally").length, 1);
  assertEquals(log.indexOf("went on"), -1);
  assertLess(log.length, 15);
  const { length } = log;
  await foreign(5);
  assertEquals(log.length, length);
});

testBoth(
  "Greenlet.kill() ends a loop of withTimeout() that swallows every error",
  {
    async async() {
      for (;;) {
        try {
          await withTimeout(FOREVER, () => sleep(FOREVER), { value: null });
        } catch {
          // Swallowed
        }
      }
    },
    *generator() {
      for (;;) {
        try {
          yield* withTimeout(FOREVER, () => sleep(FOREVER), { value: null });
        } catch {
          // Swallowed
        }
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const g = spawn(body);
    await sleep(2);
    await g.kill(undefined, { grace: 5 });
    assert(g.dead);
    // A generator body is ended, where an async body can only be left.
    assertEquals(failures.errors.length, g.successful() ? 0 : 1);
  },
);

testBoth("Greenlet.kill() waits for the clean-up inside withTimeout()", {
  async async(log: string[]) {
    await withTimeout(FOREVER, async () => {
      try {
        await sleep(FOREVER);
      } finally {
        await sleep(20);
        log.push("cleaned up");
      }
    });
  },
  *generator(log: string[]) {
    yield* withTimeout(FOREVER, function* () {
      try {
        yield* sleep(FOREVER);
      } finally {
        yield* sleep(20);
        log.push("cleaned up");
      }
    });
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await sleep(2);
  await g.kill(undefined, ONCE);
  assertEquals(log, ["cleaned up"]);
});

testBoth(
  "Greenlet.kill() during the withTimeout() of a foreign promise arrives at once",
  {
    async async(log: string[], promise: Promise<void>) {
      try {
        await withTimeout(FOREVER, async () => {
          await promise;
          try {
            await sleep(FOREVER);
          } catch (error) {
            log.push(`inside: ${nameOf(error)}`);
          }
        }, { value: "late" });
        log.push("went on");
      } finally {
        log.push("finally");
      }
    },
    *generator(log: string[], promise: Promise<void>) {
      try {
        yield* withTimeout(FOREVER, async () => {
          await promise;
          try {
            await sleep(FOREVER);
          } catch (error) {
            log.push(`inside: ${nameOf(error)}`);
          }
        }, { value: "late" });
        log.push("went on");
      } finally {
        log.push("finally");
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    const g = spawn(body, log, promise);
    await sleep(1);
    await g.kill(undefined, ONCE);
    assertEquals(log, ["finally"]);
    assert(g.successful());
    // A call that was left behind does not go on.
    resolve();
    await foreign(1);
    assertEquals(log, ["finally", "inside: GreenletExit"]);
  },
);

testBoth(
  "withTimeout() returns in time from a function that swallows its Timeout, and ends it",
  {
    async async(log: string[]) {
      return await withTimeout(5, async () => {
        for (;;) {
          try {
            await sleep(FOREVER);
          } catch (error) {
            log.push(nameOf(error));
          }
        }
      }, { value: "late" });
    },
    *generator(log: string[]) {
      return yield* withTimeout(5, function* () {
        for (;;) {
          try {
            yield* sleep(FOREVER);
          } finally {
            log.push("Timeout");
            // deno-lint-ignore no-unsafe-finally
            continue;
          }
        }
      }, { value: "late" });
    },
  },
  async (body) => {
    using failures = new Failures();
    const log: string[] = [];
    const g = spawn(body, log);
    assertEquals<unknown>(await g.get(), "late");
    await foreign(5);
    assertEquals(new Set(log), new Set(["Timeout"]));
    // The first by the limit, ten by its own waits.
    assertEquals(log.length, 11);
    await foreign(5);
    assertEquals(log.length, 11);
    assertEquals(failures.errors, []);
  },
);

testBoth("Greenlet.kill() is not mistaken for the end of a limit", {
  async async() {
    return await withTimeout(FOREVER, () => sleep(FOREVER), { value: "late" });
  },
  *generator() {
    return yield* withTimeout(FOREVER, function* () {
      yield* sleep(FOREVER);
    }, { value: "late" });
  },
}, async (body) => {
  using failures = new Failures();
  const timeout = new Timeout(1);
  const g = spawn(body);
  await sleep(1);
  // Not even by the Timeout of another greenlet.
  await g.kill(timeout, ONCE);
  assertStrictEquals(g.exception, timeout);
  assertEquals(failures.errors, [timeout]);
});

testBoth("Timeout.start() inside withTimeout() is thrown inside", {
  async async(log: string[]) {
    log.push(
      await withTimeout(FOREVER, async () => {
        using timeout = Timeout.start(2);
        try {
          await sleep(FOREVER);
        } catch (error) {
          log.push(error === timeout ? "inner" : nameOf(error));
        }
        await sleep(1);
        return "result";
      }, { value: "late" }),
    );
    await sleep(1);
  },
  *generator(log: string[]) {
    log.push(
      yield* withTimeout(FOREVER, function* () {
        using timeout = Timeout.start(2);
        try {
          yield* sleep(FOREVER);
        } catch (error) {
          log.push(error === timeout ? "inner" : nameOf(error));
        }
        yield* sleep(1);
        return "result";
      }, { value: "late" }),
    );
    yield* sleep(1);
  },
}, async (body) => {
  const log: string[] = [];
  await spawn(body, log).get();
  assertEquals(log, ["inner", "result"]);
});

testBoth("Timeout.start() around withTimeout() is thrown through it", {
  async async(log: string[]) {
    using timeout = Timeout.start(2);
    try {
      await withTimeout(FOREVER, async () => {
        try {
          await sleep(FOREVER);
        } finally {
          log.push("inner finally");
        }
      }, { value: "late" });
      log.push("went on");
    } catch (error) {
      log.push(error === timeout ? "outer" : nameOf(error));
    }
    await sleep(1);
  },
  *generator(log: string[]) {
    using timeout = Timeout.start(2);
    try {
      yield* withTimeout(FOREVER, function* () {
        try {
          yield* sleep(FOREVER);
        } finally {
          log.push("inner finally");
        }
      }, { value: "late" });
      log.push("went on");
    } catch (error) {
      log.push(error === timeout ? "outer" : nameOf(error));
    }
    yield* sleep(1);
  },
}, async (body) => {
  const log: string[] = [];
  await spawn(body, log).get();
  assertEquals(log, ["inner finally", "outer"]);
});

Deno.test("Timeout.start() around withTimeout() is thrown through a foreign promise", async () => {
  const log: string[] = [];
  await spawn(async () => {
    using timeout = Timeout.start(2);
    try {
      await withTimeout(FOREVER, () => never, { value: "late" });
    } catch (error) {
      log.push(error === timeout ? "outer" : nameOf(error));
    }
  }).get();
  assertEquals(log, ["outer"]);
});

testBoth("Nested limits that end together give way from the inside out", {
  async async(log: string[]) {
    return await withTimeout(20, async () => {
      const inner = await withTimeout(20, () => sleep(FOREVER), {
        value: "inner",
      });
      log.push(String(inner));
      await sleep(FOREVER);
    }, { value: "outer" });
  },
  *generator(log: string[]) {
    return yield* withTimeout(20, function* () {
      const inner = yield* withTimeout(20, () => sleep(FOREVER), {
        value: "inner",
      });
      log.push(String(inner));
      yield* sleep(FOREVER);
    }, { value: "outer" });
  },
}, async (body) => {
  const log: string[] = [];
  const g = spawn(body, log);
  await beLate();
  assertEquals<unknown>(await g.get(), "outer");
  assert(log.length === 0 || log.join() === "inner", log.join());
});

testBoth(
  "A Timeout that ends during the clean-up of a kill interrupts the clean-up",
  {
    async async(log: string[]) {
      const timeout = Timeout.start(20);
      try {
        await sleep(FOREVER);
      } finally {
        try {
          await sleep(FOREVER);
        } catch (error) {
          log.push(error === timeout ? "Timeout" : nameOf(error));
        }
      }
    },
    *generator(log: string[]) {
      const timeout = Timeout.start(20);
      try {
        yield* sleep(FOREVER);
      } finally {
        try {
          yield* sleep(FOREVER);
        } catch (error) {
          log.push(error === timeout ? "Timeout" : nameOf(error));
        }
      }
    },
  },
  async (body) => {
    const log: string[] = [];
    const g = spawn(body, log);
    await sleep(1);
    await g.kill(undefined, ONCE);
    assertEquals(log, ["Timeout"]);
    assert(g.successful());
  },
);

// An exit belongs to its target.

/** One promise for all callers of the same time, as when clients refresh tokens. */
class Shared {
  #promise: Promise<string> | null = null;

  get(): Promise<string> {
    return this.#promise ??= (async () => {
      await sleep(FOREVER);
      return "token";
    })();
  }
}

const SHARERS: { [how: string]: Body<[Shared], string> } = {
  "natively": async (shared) => await shared.get(),
  "through until(), async body": async (shared) => await until(shared.get()),
  "through until(), generator body": function* (shared) {
    return yield* until(shared.get());
  },
  "inside withTimeout()": async (shared) =>
    await withTimeout(FOREVER, () => shared.get()),
  "inside withTimeout(), generator body": function* (shared) {
    return yield* withTimeout(FOREVER, function* () {
      return yield* until(shared.get());
    });
  },
};

for (const [how, body] of Object.entries(SHARERS)) {
  Deno.test(`A killed greenlet's exit is a failure in another greenlet that shares its promise ${how}`, async () => {
    await using _ = new Unhandled();
    using failures = new Failures();
    const shared = new Shared();
    const a = spawn(async () => await shared.get());
    a.name = "the refresher";
    await sleep(1);
    const b = spawn(body, shared);
    await sleep(1);
    const exit = new GreenletExit();
    await a.kill(exit, ONCE);
    await b.join();
    assert(a.successful());
    assertStrictEquals<unknown>(a.value, exit);
    assertFalse(b.successful());
    assertInstanceOf(b.exception, GreenletError);
    assertStringIncludes(b.exception.message, "the refresher");
    assertStringIncludes(b.exception.message, "GreenletExit");
    assertStrictEquals(b.exception.cause, exit);
    assertEquals(failures.errors, [b.exception]);
    assertStrictEquals(failures.contexts[0], b);
    assertNotStrictEquals(await assertRejects(() => b.get()), exit);
  });

  Deno.test(`A greenlet's Timeout is a failure in another greenlet that shares its promise ${how}`, async () => {
    using failures = new Failures();
    const shared = new Shared();
    let timeout: unknown;
    const a = spawn(async () => {
      using own = Timeout.start(10);
      timeout = own;
      await shared.get();
    });
    const b = spawn(body, shared);
    await joinAll([a, b]);
    assertStrictEquals(a.exception, timeout);
    assertInstanceOf(b.exception, GreenletError);
    assertStrictEquals(b.exception.cause, timeout);
    assertEquals(failures.errors, [a.exception, b.exception]);
  });

  Deno.test(`A limit of one greenlet is a failure in another greenlet that shares its promise ${how}`, async () => {
    using failures = new Failures();
    const shared = new Shared();
    const a = spawn(async () => await withTimeout(10, () => shared.get()));
    const b = spawn(body, shared);
    await joinAll([a, b]);
    assertInstanceOf(a.exception, Timeout);
    assertInstanceOf(b.exception, GreenletError);
    assertStrictEquals(b.exception.cause, a.exception);
    assertEquals(failures.errors.length, 2);
  });

  Deno.test(`A greenlet's own kill counts as its own while it shares a promise ${how}`, async () => {
    using failures = new Failures();
    const { promise, resolve } = Promise.withResolvers<void>();
    const shared = new Shared();
    const a = spawn(async () => {
      await promise;
      await shared.get();
    });
    const b = spawn(body, shared);
    await sleep(1);
    // By the promise, if natively: b waits inside.
    const exit = new GreenletExit();
    await b.kill(exit, ONCE);
    assert(b.successful());
    assertStrictEquals<unknown>(b.value, exit);
    // A greenlet that awaits the promise now finds it failed by the exit of another.
    resolve();
    await a.join();
    assertInstanceOf(a.exception, GreenletError);
    assertEquals(failures.errors, [a.exception]);
  });
}

testBoth(
  "A greenlet that has caught the exit of another is still killed by its own",
  {
    async async(shared: Shared, log: string[]) {
      try {
        await until(shared.get());
      } catch (error) {
        log.push(nameOf(error));
      }
      await sleep(FOREVER);
    },
    *generator(shared: Shared, log: string[]) {
      try {
        yield* until(shared.get());
      } catch (error) {
        log.push(nameOf(error));
      }
      yield* sleep(FOREVER);
    },
  },
  async (body) => {
    using failures = new Failures();
    const log: string[] = [];
    const shared = new Shared();
    const a = spawn(async () => await shared.get());
    const b = spawn(body, shared, log);
    await sleep(1);
    await a.kill(undefined, ONCE);
    await sleep(1);
    const exit = new GreenletExit();
    await b.kill(exit, ONCE);
    assertEquals(log, ["GreenletError"]);
    assert(b.successful());
    assertStrictEquals<unknown>(b.value, exit);
    assertEquals(failures.errors, []);
  },
);

Deno.test("An exit that kills two greenlets that share a promise is each one's own", async () => {
  const shared = new Shared();
  const a = spawn(async () => await shared.get());
  const b = spawn(async () => await shared.get());
  await sleep(1);
  const exit = new GreenletExit();
  await killAll([a, b], { error: exit, ...ONCE });
  assertStrictEquals<unknown>(a.value, exit);
  assertStrictEquals<unknown>(b.value, exit);
});

Deno.test("killAll() throws one error in many greenlets, and it is each one's own", async () => {
  using failures = new Failures();
  const error = new Error("all of you");
  const all = [1, 2, 3, 4].map((n) =>
    n % 2 === 0 ? spawn(sleep, FOREVER) : spawn(function* () {
      yield* sleep(FOREVER);
    })
  );
  // Not started at all
  all.push(spawnLater(FOREVER, () => {}));
  await sleep(1);
  await killAll(all, { error, ...ONCE });
  for (const g of all) assertStrictEquals(g.exception, error);
  assertEquals(failures.errors.length, 5);
});

testBoth("Greenlet.get() throws the Timeout of the other greenlet as it is", {
  async async(a: Greenlet, log: unknown[]) {
    try {
      await a.get();
    } catch (error) {
      log.push(error);
      throw error;
    }
  },
  *generator(a: Greenlet, log: unknown[]) {
    try {
      yield* a.get();
    } catch (error) {
      log.push(error);
      throw error;
    }
  },
}, async (body) => {
  using failures = new Failures();
  const log: unknown[] = [];
  const a = spawn(async () => {
    using _timeout = Timeout.start(5);
    await sleep(FOREVER);
  });
  // Two greenlets that wait, and one that comes later.
  const bs = [spawn(body, a, log), spawn(body, a, log)];
  await a.join();
  bs.push(spawn(body, a, log));
  await joinAll(bs);
  assertInstanceOf(a.exception, Timeout);
  assertEquals(log.length, 3);
  for (const error of log) assertStrictEquals(error, a.exception);
  for (const b of bs) assertStrictEquals(b.exception, a.exception);
  assertEquals(failures.contexts, bs);
});

testBoth("joinAll() throws the Timeout of another greenlet as it is", {
  async async(a: Greenlet) {
    await joinAll([a], { raiseError: true });
  },
  *generator(a: Greenlet) {
    yield* joinAll([a], { raiseError: true });
  },
}, async (body) => {
  using _failures = new Failures();
  const a = spawn(async () => {
    using _timeout = Timeout.start(5);
    await sleep(FOREVER);
  });
  const b = spawn(body, a);
  await b.join();
  assertInstanceOf(a.exception, Timeout);
  assertStrictEquals(b.exception, a.exception);
});

Deno.test("A limit that a body meets again in a promise of its own is its own", async () => {
  using failures = new Failures();
  const g = spawn(async () => {
    let promise!: Promise<void>;
    await withTimeout(5, () => promise = sleep(FOREVER), { value: null });
    await promise;
  });
  await g.join();
  assertInstanceOf(g.exception, Timeout);
  assertEquals(failures.errors, [g.exception]);
});

Deno.test("A body's own GreenletExit ends it without a failure", async () => {
  using failures = new Failures();
  const exit = new GreenletExit();
  const g = spawn(async () => {
    await sleep(0);
    throw exit;
  });
  await g.join();
  assert(g.successful());
  assertStrictEquals<unknown>(g.value, exit);
  assertEquals(failures.errors, []);
});

Deno.test("Greenlet.get() does not keep the errors that it has thrown", async () => {
  const library = new URL("../../mod.ts", import.meta.url).href;
  const script = `
    import { getHub, sleep, spawn, Timeout } from ${JSON.stringify(library)};
    getHub().handleError = () => {};
    const errors = [];
    for (let i = 0; i < 100; i++) {
      const g = spawn(async () => {
        const error = new Error();
        errors.push(new WeakRef(error));
        throw error;
      });
      await g.get().catch(() => {});
      using timeout = Timeout.start(0);
      await sleep(1000).catch(() => {});
      errors.push(new WeakRef(timeout));
    }
    // The last objects may still be in a register.
    await sleep(5);
    gc();
    await sleep(5);
    gc();
    console.log(errors.filter((error) => error.deref() !== undefined).length);
  `;
  const { stdout, success } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-q",
      "--no-lock",
      "--v8-flags=--expose-gc",
      `data:text/typescript,${encodeURIComponent(script)}`,
    ],
    env: { NO_COLOR: "1" },
    stderr: "inherit",
  }).output();
  assert(success);
  assertLess(Number(new TextDecoder().decode(stdout)), 20);
});

// Nothing is lost.

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Hands items over, one at a time, as a program may build it on `Waiter`. */
class Slot {
  #item: number | null = null;
  readonly #getters = new Set<Waiter<number>>();
  readonly #putters = new Map<Waiter<void>, number>();

  /** Either it gives an item, or it throws and has taken none. */
  get(): Wait<number> {
    const waiter = new Waiter<number>(() => this.#getters.delete(waiter));
    this.#getters.add(waiter);
    this.#match();
    return waiter.get();
  }

  /** Either it returns, or it throws and has put nothing. */
  put(item: number): Wait<void> {
    const waiter = new Waiter<void>(() => this.#putters.delete(waiter));
    this.#putters.set(waiter, item);
    this.#match();
    return waiter.get();
  }

  #match(): void {
    for (;;) {
      const putter = this.#putters.entries().next().value;
      if (this.#item === null && putter !== undefined) {
        this.#putters.delete(putter[0]);
        this.#item = putter[1];
        putter[0].switch();
      }
      const getter = this.#getters.values().next().value;
      if (this.#item === null || getter === undefined) return;
      this.#getters.delete(getter);
      getter.switch(this.#item);
      this.#item = null;
    }
  }
}

const ITEMS = 300;

/** One step of a body, which may be interrupted. */
type Doing = "plainly" | "by Timeout.start()" | "by withTimeout()";
const DOINGS: Doing[] = ["plainly", "by Timeout.start()", "by withTimeout()"];

class Exchange {
  readonly slot = new Slot();
  readonly next: () => number;
  readonly doing: Doing;
  readonly toPut: number[] = Array.from({ length: ITEMS }, (_, i) => i);
  readonly got: number[] = [];

  constructor(next: () => number, doing: Doing) {
    this.next = next;
    this.doing = doing;
  }

  /** A time about as long as it takes for something to happen. */
  moment(): number {
    return this.next() * 3;
  }
}

testBoth(
  "An item that is handed over is neither lost nor doubled by kills and Timeouts",
  {
    async async(exchange: Exchange, puts: boolean) {
      const { slot, toPut, got, doing, next } = exchange;
      const act = async () => {
        if (puts) {
          const item = toPut.shift();
          if (item === undefined) return sleep(1);
          try {
            await slot.put(item);
          } catch (error) {
            toPut.push(item);
            throw error;
          }
        } else {
          got.push(await slot.get());
        }
      };
      for (;;) {
        try {
          if (doing === "by withTimeout()") {
            await withTimeout(exchange.moment(), act);
          } else if (doing === "by Timeout.start()") {
            using _timeout = Timeout.start(exchange.moment());
            await act();
          } else {
            await act();
          }
          if (next() < 0.1) await sleep(0);
        } catch (error) {
          if (!(error instanceof Timeout)) throw error;
        }
      }
    },
    *generator(exchange: Exchange, puts: boolean) {
      const { slot, toPut, got, doing, next } = exchange;
      const act = function* () {
        if (puts) {
          const item = toPut.shift();
          if (item === undefined) return yield* sleep(1);
          try {
            yield* slot.put(item);
          } catch (error) {
            toPut.push(item);
            throw error;
          }
        } else {
          got.push(yield* slot.get());
        }
      };
      for (;;) {
        try {
          if (doing === "by withTimeout()") {
            yield* withTimeout(exchange.moment(), act);
          } else if (doing === "by Timeout.start()") {
            using _timeout = Timeout.start(exchange.moment());
            yield* act();
          } else {
            yield* act();
          }
          if (next() < 0.1) yield* sleep(0);
        } catch (error) {
          if (!(error instanceof Timeout)) throw error;
        }
      }
    },
  },
  async (body) => {
    await using _ = new Unhandled();
    for (let seed = 1; seed <= 12; seed++) {
      const next = random(seed);
      const doing = DOINGS[seed % DOINGS.length]!;
      const exchange = new Exchange(next, doing);
      const workers = [true, true, false, false, false].map((puts) => ({
        puts,
        greenlet: spawn(body, exchange, puts),
      }));
      const all = workers.map((worker) => worker.greenlet);
      const deadline = performance.now() + AT_ONCE;
      let kills = 0;
      while (exchange.got.length < ITEMS && performance.now() < deadline) {
        const dice = next();
        if (dice < 0.3) await sleep(0);
        else if (dice < 0.5) await foreign(0);
        else if (dice < 0.55) useUpTheSlice();
        const worker = workers[Math.floor(next() * workers.length)]!;
        if (next() < 0.5) {
          if (worker.greenlet.active) worker.greenlet.throw(new Timeout());
        } else {
          // Step one only: without grace a body could not put an item back.
          worker.greenlet.kill(undefined, { ...ONCE, block: false });
          worker.greenlet = spawn(body, exchange, worker.puts);
          all.push(worker.greenlet);
          kills++;
        }
        // Lists the outcomes without an interrupt, and some with one.
        for (let turns = next() * 4; turns > 0; turns--) await sleep(0);
      }
      await killAll(all, { ...ONCE, timeout: AT_ONCE });
      assert(all.every((g) => g.successful()), `seed ${seed}: some failed`);
      const got = exchange.got.toSorted((a, b) => a - b);
      const expected = Array.from({ length: ITEMS }, (_, i) => i);
      assertEquals(
        got,
        expected,
        `seed ${seed}, ${doing}, after ${kills} kills`,
      );
    }
  },
);

// Very many.

Deno.test("killAll() ends 100,000 greenlets that sleep, of both kinds of body, in bounded time", async () => {
  clock.useRealTime();
  const start = performance.now();
  const ended = { async: 0, generator: 0 };
  const bodies: (() => unknown)[] = [
    async () => {
      try {
        await sleep(10 * FOREVER);
      } finally {
        ended.async++;
      }
    },
    function* () {
      try {
        yield* sleep(10 * FOREVER);
      } finally {
        ended.generator++;
      }
    },
  ];
  const all = Array.from(
    { length: 50_000 },
    () => bodies.map((body) => spawn(body)),
  ).flat();
  await settle();
  assertEquals(ended, { async: 0, generator: 0 });
  await killAll(all);
  assertEquals(ended, { async: 50_000, generator: 50_000 });
  assert(all.every((g) => g.successful()));
  // A search for each of them would take longer, and much longer for more of them.
  assertLess(performance.now() - start, 2 * FOREVER);
});

// Nothing is left behind.

Deno.test("A process whose greenlets have ended exits at once", async () => {
  clock.useRealTime();
  const start = performance.now();
  const { out, err, code } = await runScript(`
    const long = ${10 * FOREVER};
    const bodies = [
      async () => await sleep(long),
      function* () { yield* sleep(long); },
      async () => await withTimeout(long, () => sleep(long)),
      async () => await withTimeout(long, () => new Promise(() => {})),
      async () => await until(new Promise(() => {})),
      async () => await Promise.all([sleep(long), sleep(long)]),
      async () => { try { await sleep(long) } finally { await sleep(1) } },
      async () => { using timeout = Timeout.start(long); await sleep(1); },
      async () => await sleep(1),
    ];
    const all = bodies.map((body) => spawn(body));
    all.push(spawnLater(long, () => {}));
    await idle();
    await killAll(all);
    console.log(all.every((g) => g.dead));
  `);
  assertEquals(err, "");
  assertEquals(out, ["true"]);
  assertEquals(code, 0);
  assertLess(performance.now() - start, FOREVER / 2);
});

Deno.test("A process with a killed greenlet that is stuck in a foreign promise exits", async () => {
  clock.useRealTime();
  const start = performance.now();
  const { out, err, code } = await runScript(`
    const stuck = spawn(async () => {
      try {
        await new Promise(() => {});
      } finally {
        await sleep(${10 * FOREVER});
      }
    });
    // The time of its grace runs, and is then not to be waited for.
    const stuckInCleanUp = spawn(async () => {
      try {
        await sleep(${10 * FOREVER});
      } finally {
        await sleep(1);
        await new Promise(() => {});
      }
    });
    await idle();
    const options = { timeout: 20, grace: ${10 * FOREVER} };
    await Promise.all([
      stuck.kill(undefined, options),
      stuckInCleanUp.kill(undefined, options),
    ]);
    console.log(stuck.dead, stuckInCleanUp.dead);
  `);
  assertEquals(err, "");
  assertEquals(out, ["false false"]);
  assertEquals(code, 0);
  assertLess(performance.now() - start, FOREVER / 2);
});

Deno.test("A process whose greenlets were killed has no unhandled rejection", async () => {
  const { out, err, code } = await runScript(`
    const late = Promise.withResolvers();
    const all = Array.from({ length: 100 }, (_, i) => spawn(i % 2 === 0
      ? async () => {
          sleep(1000);
          until(late.promise);
          withTimeout(1000, () => sleep(1000));
          await Promise.race([sleep(1000), sleep(1000)]);
        }
      : function* () {
          sleep(1000);
          until(late.promise);
          yield* sleep(1000);
        }));
    await sleep(1);
    await killAll(all);
    late.reject("late");
    await sleep(20);
    console.log("all is well");
  `);
  assertEquals(err, "");
  assertEquals(out, ["all is well"]);
  assertEquals(code, 0);
});

Deno.test("yield* of a wait that another greenlet has begun is interrupted, and leaves that greenlet alone", async () => {
  const waiter = new Waiter<string>();
  const foreignWait = waiter.get();
  const log: unknown[] = [];
  const g = spawn(function* () {
    try {
      yield* foreignWait;
    } finally {
      log.push("finally");
    }
  });
  const limited = spawn(function* () {
    using limit = Timeout.start(5);
    try {
      yield* foreignWait;
    } catch (error) {
      log.push(error === limit);
    }
  });
  const served = spawn(function* () {
    return yield* foreignWait;
  });
  await sleep(0);
  await g.kill(undefined, ONCE);
  await limited.join();
  assertEquals(log, ["finally", true]);
  waiter.switch("value");
  assertEquals(await foreignWait, "value");
  assertEquals(await served.get(), "value");
});

Deno.test("kill() by an error that main has received before causes no unhandled rejection", async () => {
  const { out, code } = await runScript(`
    getHub().handleError = () => {};
    const stop = new Error("stop");
    for (let i = 0; i < 2; i++) {
      const g = spawn(async () => {
        const branch = (async () => await sleep(60_000))();
        await sleep(60_000);
        await branch;
      });
      await sleep(1);
      await g.kill(stop);
      await sleep(1); // The runtime reports rejections when the microtasks are done
      await g.get().catch((error) => console.log(error.message));
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
    console.log("alive");
  `);
  assertEquals(out, ["stop", "stop", "alive"]);
  assertEquals(code, 0);
});
