import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  abortedBy,
  getCurrent,
  Greenlet,
  GreenletExit,
  idle,
  sleep,
  spawn,
  Timeout,
  withSignal,
  withTimeout,
} from "../mod.ts";
import { Failures, testBoth } from "./_bodies.ts";

type Call = (signal: AbortSignal) => unknown;

const calls = {
  async async(call: Call) {
    return await withSignal(call);
  },
  *generator(call: Call): Generator<unknown, unknown> {
    return yield* withSignal(call);
  },
};

/** A client that ends with the reason of its signal, and never by itself. */
function client(log: unknown[]): Call {
  return (signal) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        log.push(signal.reason);
        reject(new Error("wrapped", { cause: signal.reason }));
      });
    });
}

testBoth("withSignal() returns what the call gives", calls, async (body) => {
  let given: AbortSignal | undefined;
  const promised = spawn(body, (signal: AbortSignal) => {
    given = signal;
    return Promise.resolve(1);
  });
  assertEquals(await promised.get(), 1);
  assertEquals(await spawn(body, () => 2).get(), 2);
  assertEquals(await spawn(body, () => sleep(1).then(() => 3)).get(), 3);
  assertEquals(given!.aborted, false);
});

testBoth("withSignal() throws what the call throws", calls, async (body) => {
  using failures = new Failures();
  const error = new Error("no");
  const rejected = spawn(body, () => Promise.reject(error));
  const thrown = spawn(body, () => {
    throw error;
  });
  await rejected.join();
  await thrown.join();
  assertStrictEquals(rejected.exception, error);
  assertStrictEquals(thrown.exception, error);
  assertEquals(failures.errors, [error, error]);
});

testBoth(
  "withSignal() ends at once when the greenlet is killed, and aborts the signal with the GreenletExit",
  calls,
  async (body) => {
    using failures = new Failures();
    const log: unknown[] = [];
    const greenlet = spawn(body, client(log));
    await idle();
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(log, [greenlet.value]);
    assertEquals(failures.errors, []);
  },
);

testBoth(
  "withSignal() ends at once at a Timeout, and aborts the signal with it",
  calls,
  async (body) => {
    const log: unknown[] = [];
    const greenlet = spawn(() => withTimeout(1, () => body(client(log))));
    await greenlet.join();
    assertInstanceOf(greenlet.exception, Timeout);
    assertEquals(log, [greenlet.exception]);
  },
);

testBoth(
  "withSignal() ends at once by throw(), and aborts the signal with the error",
  calls,
  async (body) => {
    using _failures = new Failures();
    const log: unknown[] = [];
    const error = new Error("out");
    const greenlet = spawn(body, client(log));
    await idle();
    greenlet.throw(error);
    await greenlet.join();
    assertStrictEquals(greenlet.exception, error);
    assertEquals(log, [error]);
  },
);

testBoth(
  "withSignal() does not wait for a call that ignores its signal",
  calls,
  async (body) => {
    let signal: AbortSignal | undefined;
    const greenlet = spawn(body, (its: AbortSignal) => {
      signal = its;
      return new Promise(() => {});
    });
    await idle();
    await greenlet.kill();
    assert(greenlet.dead);
    assert(signal!.aborted);
  },
);

testBoth("withSignal() does not begin its call when an interrupt is held", {
  async async(call: Call) {
    killHeld(getCurrent() as Greenlet);
    return await withSignal(call);
  },
  *generator(call: Call): Generator<unknown, unknown> {
    killHeld(getCurrent() as Greenlet);
    return yield* withSignal(call);
  },
}, async (body) => {
  let begun = 0;
  const greenlet = spawn(body, () => begun++);
  await greenlet.join();
  assertEquals(begun, 0);
  assertInstanceOf(greenlet.value, GreenletExit);
});

/** Kills a greenlet that runs, so that its next wait throws. */
function killHeld(greenlet: Greenlet): void {
  greenlet.kill(undefined, { block: false });
}

Deno.test("withSignal() whose call has ended before the kill keeps its result", async () => {
  const gate = Promise.withResolvers<string>();
  let signal: AbortSignal | undefined;
  const results: unknown[] = [];
  const greenlet = spawn(function* () {
    results.push(
      yield* withSignal((its) => {
        signal = its;
        return gate.promise;
      }),
    );
  });
  await idle();
  gate.resolve("done");
  await gate.promise;
  await greenlet.kill();
  assertEquals(results, ["done"]);
  assertEquals(signal!.aborted, false);
});

Deno.test("withSignal() works in the main greenlet", async () => {
  assertEquals(await withSignal(() => Promise.resolve(1)), 1);
  const log: unknown[] = [];
  await assertRejects(
    () => withTimeout(1, () => withSignal(client(log))),
    Timeout,
  );
  assertInstanceOf(log[0], Timeout);
});

Deno.test("withSignal() refuses anything but a function", () => {
  assertThrows(
    () => withSignal(1 as never),
    TypeError,
    "Cannot call with a signal as 'call' must be a function: received 1",
  );
});

Deno.test("abortedBy() kills the greenlet when the signal aborts", async () => {
  using failures = new Failures();
  const controller = new AbortController();
  const log: string[] = [];
  const greenlet = spawn(async () => {
    try {
      await sleep(1e9);
    } finally {
      log.push("finally");
    }
  });
  assertStrictEquals(abortedBy(controller.signal, greenlet), greenlet);
  await idle();
  controller.abort("reason");
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals((greenlet.value as GreenletExit).cause, "reason");
  assertEquals(log, ["finally"]);
  assertEquals(failures.errors, []);
});

Deno.test("abortedBy() kills at once when the signal has aborted, before the body begins", async () => {
  let begun = false;
  const greenlet = abortedBy(
    AbortSignal.abort(),
    spawn(() => {
      begun = true;
    }),
  );
  await greenlet.join();
  assertEquals(begun, false);
  assertInstanceOf(greenlet.value, GreenletExit);
});

Deno.test("abortedBy() follows the signal of another greenlet with its own exit", async () => {
  const parent = spawn(async () => {
    await sleep(1e9);
  });
  const child = abortedBy(parent.signal, spawn(sleep, 1e9));
  await idle();
  await parent.kill();
  await child.join();
  assertStrictEquals(child.value, parent.value);
});

Deno.test("abortedBy() lets go of the signal when the greenlet has ended", async () => {
  const target = new AbortController().signal;
  let listeners = 0;
  const { addEventListener, removeEventListener } = target;
  target.addEventListener = function (...args: unknown[]) {
    listeners++;
    return Reflect.apply(addEventListener, this, args);
  };
  target.removeEventListener = function (...args: unknown[]) {
    listeners--;
    return Reflect.apply(removeEventListener, this, args);
  };
  const greenlet = abortedBy(target, spawn(sleep, 1));
  assertEquals(listeners, 1);
  await greenlet.join();
  await idle();
  assertEquals(listeners, 0);
  abortedBy(target, greenlet);
  assertEquals(listeners, 0);
});

Deno.test("abortedBy() leaves the report of the greenlet's own error as it is", async () => {
  using failures = new Failures();
  const error = new Error("no");
  const greenlet = abortedBy(
    new AbortController().signal,
    spawn(() => {
      throw error;
    }),
  );
  await greenlet.join();
  assertEquals(failures.errors, [error]);
});

Deno.test("abortedBy() refuses anything but a signal and a greenlet", () => {
  assertThrows(
    () => abortedBy({} as never, new Greenlet()),
    TypeError,
    "must be an AbortSignal: received [object Object]",
  );
  assertThrows(
    () => abortedBy(new AbortController().signal, 1 as never),
    TypeError,
    "must be a Greenlet: received 1",
  );
});
