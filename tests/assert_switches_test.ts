import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import {
  assertSwitches,
  type AssertSwitchesOptions,
  FailedToSwitch,
  type Greenlet,
  GreenletExit,
  idle,
  joinAll,
  sleep,
  spawn,
  until,
} from "../mod.ts";
import { type Body, testBoth } from "./_bodies.ts";
import { turns } from "./_waits.ts";

/** More than any machine takes for what a test does. */
const LONG = 1e7;

const { now } = performance;
let ahead = 0;
performance.now = () => now.call(performance) + ahead;

/** Computes, as the clock tells. */
function compute(ms: number): void {
  ahead += ms;
}

/** A promise that the library knows nothing of: timers of the runtime have gone by then. */
function foreign(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1));
}

/** Runs a body in a greenlet, and gives the error that it fails with. */
async function failure(body: Body<[], unknown>): Promise<FailedToSwitch> {
  const greenlet = spawn(body);
  greenlet.name = "block";
  const error = await greenlet.get().catch((error: unknown) => error);
  assertInstanceOf(error, FailedToSwitch);
  return error;
}

testBoth("assertSwitches() throws when its block has run for too long", {
  async async() {
    using _ = assertSwitches({ maxBlocking: LONG });
    await sleep(0);
    compute(2 * LONG);
    await sleep(0);
  },
  *generator() {
    using _ = assertSwitches({ maxBlocking: LONG });
    yield* sleep(0);
    compute(2 * LONG);
    yield* sleep(0);
  },
}, async (body) => {
  const error = await failure(body);
  assertEquals(error.name, "FailedToSwitch");
  assertMatch(error.greenlet, /^<Greenlet "block": \w+>$/);
  assertEquals(Math.floor(error.ms / LONG), 2);
  assertEquals(error.maxBlocking, LONG);
  assertMatch(
    error.message,
    /^<Greenlet "block": \w+> has held up the event loop for 2\d+ ms in this block, where 10000000 ms are allowed$/,
  );
});

/** Where a block may compute for too long. */
const PLACES: Record<string, (body: "async" | "generator") => Body<[], void>> =
  {
    "before its first wait": (kind) =>
      kind === "async"
        ? async () => {
          using _ = assertSwitches({ maxBlocking: LONG });
          compute(2 * LONG);
          await sleep(0);
        }
        : function* () {
          using _ = assertSwitches({ maxBlocking: LONG });
          compute(2 * LONG);
          yield* sleep(0);
        },
    "after its last wait": (kind) =>
      kind === "async"
        ? async () => {
          using _ = assertSwitches({ maxBlocking: LONG });
          await sleep(1);
          compute(2 * LONG);
        }
        : function* () {
          using _ = assertSwitches({ maxBlocking: LONG });
          yield* sleep(1);
          compute(2 * LONG);
        },
    "between the begin of a wait and its await": (kind) =>
      kind === "async"
        ? async () => {
          using _ = assertSwitches({ maxBlocking: LONG });
          const wait = sleep(0);
          compute(2 * LONG);
          await wait;
        }
        : function* () {
          using _ = assertSwitches({ maxBlocking: LONG });
          const wait = sleep(0);
          compute(2 * LONG);
          yield* wait;
        },
    "without any wait": (kind) =>
      kind === "async"
        // deno-lint-ignore require-await
        ? async () => {
          using _ = assertSwitches({ maxBlocking: LONG });
          compute(2 * LONG);
        }
        // deno-lint-ignore require-yield
        : function* () {
          using _ = assertSwitches({ maxBlocking: LONG });
          compute(2 * LONG);
        },
    "behind a foreign promise": (kind) =>
      kind === "async"
        ? async () => {
          using _ = assertSwitches({ maxBlocking: LONG });
          await foreign();
          compute(2 * LONG);
        }
        : function* () {
          using _ = assertSwitches({ maxBlocking: LONG });
          yield* until(foreign());
          compute(2 * LONG);
        },
  };

for (const [place, bodyOf] of Object.entries(PLACES)) {
  for (const kind of ["async", "generator"] as const) {
    Deno.test(`assertSwitches() sees code that computes ${place}, ${kind} body`, async () => {
      const { greenlet, ms } = await failure(bodyOf(kind));
      assertEquals([greenlet, Math.round(ms / LONG)], [
        '<Greenlet "block">',
        2,
      ]);
    });
  }
}

Deno.test("assertSwitches() sees code between two foreign promises, and names nothing that it does not know", async () => {
  const error = await failure(async () => {
    using _ = assertSwitches({ maxBlocking: LONG });
    await foreign();
    // The timer may come before the loop has turned, and then it is still the block's stretch.
    await turns(2);
    compute(2 * LONG);
    for (let beats = 0; beats < 3; beats++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  });
  assertEquals(error.greenlet, "");
  assertMatch(error.message, /^Code that a foreign promise has resumed has/);
});

testBoth(
  "assertSwitches() lets a block wait for as long as it likes, and compute in parts",
  {
    async async() {
      using _ = assertSwitches({ maxBlocking: LONG });
      for (let i = 0; i < 5; i++) {
        compute(LONG / 2);
        await idle();
      }
      compute(LONG / 2);
      await foreign();
      compute(LONG / 2);
      await sleep(1);
      return "done";
    },
    *generator() {
      using _ = assertSwitches({ maxBlocking: LONG });
      for (let i = 0; i < 5; i++) {
        compute(LONG / 2);
        yield* idle();
      }
      compute(LONG / 2);
      yield* until(foreign());
      compute(LONG / 2);
      yield* sleep(1);
      return "done";
    },
  },
  async (body) => {
    assertEquals(await spawn(body).get(), "done");
  },
);

Deno.test("assertSwitches() counts no time in which the event loop waits", async () => {
  // The loop is idle for longer than is allowed: no greenlet holds it up.
  const waits = async (wait: () => PromiseLike<unknown>) => {
    using _ = assertSwitches({ maxBlocking: 1000 });
    await wait();
  };
  await joinAll([
    spawn(waits, () => sleep(1010)),
    spawn(waits, () => new Promise((resolve) => setTimeout(resolve, 1010))),
  ], { raiseError: true });
});

Deno.test("assertSwitches() counts greenlets that run in the block, and names them", async () => {
  const error = await failure(async () => {
    using _ = assertSwitches({ maxBlocking: LONG });
    const child = spawn(() => compute(3 * LONG));
    child.name = "child";
    const other = spawn(() => compute(2 * LONG));
    await child.join();
    await other.join();
  });
  assertEquals(error.greenlet, '<Greenlet "child">');
  assertEquals(Math.floor(error.ms / LONG), 3);
});

testBoth(
  "assertSwitches() without a limit throws when its block has not switched",
  {
    // deno-lint-ignore require-await
    async async() {
      using _ = assertSwitches();
    },
    // deno-lint-ignore require-yield
    *generator() {
      using _ = assertSwitches({});
    },
  },
  async (body) => {
    const error = await failure(body);
    assertEquals(error.maxBlocking, undefined);
    assertMatch(
      error.message,
      /^<Greenlet "block": \w+> has not switched in this block, in \d+(\.\d)? ms$/,
    );
  },
);

const WAITS: Bodies = {
  "sleep(0)": () => sleep(0),
  "idle()": () => idle(),
  "a foreign promise": () => until(foreign()),
  "the join of a greenlet": () => spawn(() => {}).join(),
};
type Bodies = Record<string, () => ReturnType<typeof until>>;

testBoth(
  "assertSwitches() without a limit takes any wait for a switch, and however much is computed",
  {
    async async() {
      for (const wait of Object.values(WAITS)) {
        using _ = assertSwitches();
        await wait();
        compute(LONG);
      }
    },
    *generator() {
      for (const wait of Object.values(WAITS)) {
        using _ = assertSwitches();
        yield* wait();
        compute(LONG);
      }
    },
  },
  async (body) => {
    await spawn(body).get();
  },
);

testBoth("assertSwitches() hides no error of its block", {
  // deno-lint-ignore require-await
  async async() {
    using _ = assertSwitches();
    throw new SyntaxError("its own");
  },
  // deno-lint-ignore require-yield
  *generator() {
    using _ = assertSwitches();
    throw new SyntaxError("its own");
  },
}, async (body) => {
  const error = await spawn(body).get().catch((error: unknown) => error);
  assertInstanceOf(error, SuppressedError);
  assertInstanceOf(error.suppressed, SyntaxError);
  assertInstanceOf(error.error, FailedToSwitch);
});

testBoth("assertSwitches() does not judge a block that is killed", {
  async async() {
    using _ = assertSwitches({ maxBlocking: LONG });
    compute(2 * LONG);
    await sleep(LONG);
  },
  *generator() {
    using _ = assertSwitches({ maxBlocking: LONG });
    compute(2 * LONG);
    yield* sleep(LONG);
  },
}, async (body) => {
  const greenlet: Greenlet = spawn(body);
  await idle();
  await greenlet.kill();
  assert(greenlet.successful());
  assertInstanceOf(await greenlet.get<GreenletExit>(), GreenletExit);
});

testBoth("assertSwitches() in a block of another one counts by itself", {
  async async() {
    using _outer = assertSwitches({ maxBlocking: 10 * LONG });
    await assertRejects(async () => {
      using _inner = assertSwitches({ maxBlocking: LONG });
      compute(2 * LONG);
      await sleep(0);
    }, FailedToSwitch);
    {
      using _inner = assertSwitches({ maxBlocking: 3 * LONG });
      compute(2 * LONG);
      await sleep(0);
    }
  },
  *generator() {
    using _outer = assertSwitches({ maxBlocking: 10 * LONG });
    let thrown: unknown;
    try {
      using _inner = assertSwitches({ maxBlocking: LONG });
      compute(2 * LONG);
      yield* sleep(0);
    } catch (error) {
      thrown = error;
    }
    assertInstanceOf(thrown, FailedToSwitch);
    {
      using _inner = assertSwitches({ maxBlocking: 3 * LONG });
      compute(2 * LONG);
      yield* sleep(0);
    }
  },
}, async (body) => {
  await spawn(body).get();
});

Deno.test("assertSwitches() in main names main, and is over when it is disposed of", () => {
  const asserting = assertSwitches({ maxBlocking: LONG });
  compute(2 * LONG);
  assertThrows(
    () => asserting[Symbol.dispose](),
    FailedToSwitch,
    "main has held up the event loop for 2",
  );
  compute(2 * LONG);
  asserting[Symbol.dispose]();
});

Deno.test("assertSwitches() refuses what is no limit, at the call", () => {
  for (const maxBlocking of [0, -1, NaN, -Infinity]) {
    assertThrows(
      () => assertSwitches({ maxBlocking }),
      RangeError,
      `Cannot assert switches as 'maxBlocking' must be a positive number of milliseconds: received ${maxBlocking}`,
    );
  }
  for (const maxBlocking of ["50", null, true, 5n, {}]) {
    assertThrows(
      () => assertSwitches({ maxBlocking } as AssertSwitchesOptions),
      TypeError,
      "Cannot assert switches as 'maxBlocking' must be a positive number of milliseconds: received ",
    );
  }
  for (const options of [50, null, "50"]) {
    assertThrows(
      () => assertSwitches(options as AssertSwitchesOptions),
      TypeError,
      "Cannot assert switches as the options must be an object: received ",
    );
  }
  using _ = assertSwitches({ maxBlocking: Infinity });
});
