import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import { AsyncLocalStorage } from "node:async_hooks";
import {
  Event,
  getCurrent,
  type Greenlet,
  GreenletError,
  GreenletExit,
  idle,
  Lock,
  type Nursery,
  nursery,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../mod.ts";
import { Failures, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;
/** Long enough for a busy machine, and nothing next to `FOREVER`. */
const AT_ONCE = 10_000;

/** A child that tells when it has begun and ended, and takes `ms` to clean up. */
class Children {
  alive = 0;
  ended = 0;

  readonly run = async (ms = 0) => {
    this.alive++;
    try {
      await sleep(FOREVER);
    } finally {
      try {
        await sleep(ms);
      } finally {
        this.alive--;
        this.ended++;
      }
    }
  };
}

async function boom(ms: number, message = "Boom"): Promise<never> {
  await sleep(ms);
  throw new Error(message);
}

testBoth("nursery() returns the function's result when children are done", {
  async: async (order: string[]) =>
    await nursery(async (n) => {
      n.spawn(async () => {
        await sleep(5);
        order.push("child");
      });
      await sleep(1);
      order.push("function");
      return 7;
    }),
  generator: function* (order: string[]) {
    return yield* nursery(function* (n: Nursery) {
      n.spawn(function* () {
        yield* sleep(5);
        order.push("child");
      });
      yield* sleep(1);
      order.push("function");
      return 7;
    });
  },
}, async (body) => {
  const order: string[] = [];
  assertEquals(await spawn(body, order).get(), 7);
  assertEquals(order, ["function", "child"]);
});

Deno.test("nursery() returns when the function is done, if that is later", async () => {
  const order: string[] = [];
  await nursery(async (n) => {
    n.spawn(() => order.push("child"));
    await sleep(2);
    order.push("function");
  });
  assertEquals(order, ["child", "function"]);
});

Deno.test("nursery() without children, or with a plain function, returns its result", async () => {
  assertEquals(await nursery(() => 1), 1);
  assertEquals(await nursery(async () => await Promise.resolve(2)), 2);
  let ended = false;
  const n = await nursery((n) => {
    n.spawn(async () => {
      await sleep(1);
      ended = true;
    });
    return n;
  });
  assert(ended);
  assertEquals(n.greenlets.size, 0);
});

Deno.test("nursery() refuses anything but a function", () => {
  assertThrows(() => nursery(1 as never), TypeError, "'run'");
});

Deno.test("nursery() runs the function in the current greenlet, in its context", async () => {
  const storage = new AsyncLocalStorage<string>();
  const g: Greenlet<unknown> = storage.run("mine", () =>
    spawn(async () => {
      await nursery(async (n) => {
        assertStrictEquals(getCurrent(), g);
        const child: Greenlet<unknown> = n.spawn(async () => {
          await until(Promise.resolve());
          assertEquals(storage.getStore(), "mine");
          assertStrictEquals(getCurrent(), child);
        });
        await sleep(1);
        assertStrictEquals(getCurrent(), g);
        assertEquals(storage.getStore(), "mine");
      });
      assertStrictEquals(getCurrent(), g);
    }));
  await g.get();
});

Deno.test("Nursery.spawn() gives the child, with its arguments and its result", async () => {
  await nursery(async (n) => {
    const child = n.spawn((a: number, b: number) => a + b, 1, 2);
    assert(n.greenlets.has(child));
    assertEquals(await child.get(), 3);
    await settle();
    assertEquals(n.greenlets.size, 0);
    assertThrows(() => n.spawn(1 as never), TypeError);
  });
});

testBoth(
  "Nursery.spawn() can be called by children, when the function is done as well",
  {
    async: async (n: Nursery, depths: number[], depth: number) => {
      await sleep(1);
      depths.push(depth);
      if (depth > 0) n.spawn(() => spawnOn(n, depths, depth - 1));
    },
    generator: function* (n: Nursery, depths: number[], depth: number) {
      yield* sleep(1);
      depths.push(depth);
      if (depth > 0) n.spawn(() => spawnOn(n, depths, depth - 1));
    },
  },
  async (body) => {
    const depths: number[] = [];
    await nursery((n) => {
      n.spawn(body as typeof spawnOn, n, depths, 3);
    });
    assertEquals(depths, [3, 2, 1, 0]);
  },
);

async function spawnOn(n: Nursery, depths: number[], depth: number) {
  await sleep(1);
  depths.push(depth);
  if (depth > 0) n.spawn(spawnOn, n, depths, depth - 1);
}

Deno.test("Nursery.spawn() throws when the nursery is closed", async () => {
  const n = await nursery((n) => n);
  assertThrows(() => n.spawn(sleep, 1), GreenletError, "closed");
  assertEquals(n.greenlets.size, 0);
});

Deno.test("Nursery.spawn() throws when the nursery is being closed", async () => {
  let refused: unknown = null;
  await assertRejects(
    () =>
      nursery((n) => {
        n.spawn(async () => {
          try {
            await sleep(FOREVER);
          } finally {
            refused = assertThrows(() => n.spawn(sleep, 1));
          }
        });
        n.spawn(boom, 1);
      }),
    Error,
    "Boom",
  );
  assertInstanceOf(refused, GreenletError);
  assert(refused.message.includes("closing"));
});

// --- Failures

testBoth(
  "nursery() throws the error of a child, which ends the function and the others",
  {
    async: async (children: Children) => {
      await nursery(async (n) => {
        n.spawn(children.run, 3);
        n.spawn(children.run, 1);
        n.spawn(boom, 2);
        await sleep(FOREVER);
      });
    },
    generator: function* (children: Children) {
      yield* nursery(function* (n: Nursery) {
        n.spawn(children.run, 3);
        n.spawn(children.run, 1);
        n.spawn(boom, 2);
        yield* sleep(FOREVER);
      });
    },
  },
  async (body) => {
    using failures = new Failures();
    const children = new Children();
    const caller = spawn(async () => {
      const error = await assertRejects(
        () => withTimeout(AT_ONCE, () => body(children)),
        Error,
        "Boom",
      );
      assertFalse(error instanceof AggregateError);
      assertEquals([children.alive, children.ended], [0, 2]);
    });
    await caller.get();
    await settle();
    // An error that is thrown is not printed as well.
    assertEquals(failures.errors, []);
  },
);

Deno.test("nursery() throws the error of the function, which ends the children", async () => {
  using failures = new Failures();
  const children = new Children();
  await assertRejects(
    () =>
      nursery(async (n) => {
        n.spawn(children.run, 2);
        await boom(1);
      }),
    Error,
    "Boom",
  );
  assertEquals([children.alive, children.ended], [0, 1]);
  await assertRejects(
    () =>
      nursery((n) => {
        n.spawn(children.run);
        throw new Error("At once");
      }),
    Error,
    "At once",
  );
  assertEquals(children.alive, 0);
  await settle();
  assertEquals(failures.errors, []);
});

Deno.test("nursery() throws a value that is not an Error as it is", async () => {
  for (const thrown of [undefined, null, 0, "text"]) {
    let caught: unknown = "nothing";
    try {
      await nursery((n) => {
        n.spawn(() => {
          throw thrown;
        });
      });
    } catch (error) {
      caught = error;
    }
    assertStrictEquals(caught, thrown);
  }
});

Deno.test("nursery() throws an AggregateError when several have failed on their own", async () => {
  using failures = new Failures();
  const error = await assertRejects(
    () =>
      nursery(async (n) => {
        n.spawn(async () => {
          try {
            await sleep(FOREVER);
          } finally {
            await boom(0, "Clean-up");
          }
        });
        n.spawn(boom, 1, "Child");
        try {
          await sleep(FOREVER);
        } finally {
          await boom(3, "Function");
        }
      }),
    AggregateError,
    "3 greenlets",
  );
  assertEquals(error.errors.map((e: Error) => e.message), [
    "Child",
    "Clean-up",
    "Function",
  ]);
  await settle();
  assertEquals(failures.errors, []);
});

Deno.test("nursery() does not take a killed child for a failure", async () => {
  const result = await nursery(async (n) => {
    const child = n.spawn(sleep, FOREVER);
    n.spawn(sleep, 3);
    await settle();
    await child.kill();
    await sleep(1);
    return "went on";
  });
  assertEquals(result, "went on");
});

Deno.test("nursery() takes a child that was killed by an error for a failure", async () => {
  const error = new Error("Killed");
  const caught = await assertRejects(() =>
    nursery(async (n) => {
      const child = n.spawn(sleep, FOREVER);
      await settle();
      await child.kill(error);
      await sleep(FOREVER);
    })
  );
  assertStrictEquals(caught, error);
});

Deno.test("nursery() whose function catches a child's error, goes on to throw nothing for it", async () => {
  // The child has failed all the same: it is the nursery that throws.
  await assertRejects(
    () =>
      nursery(async (n) => {
        const child = n.spawn(boom, 1);
        try {
          await child.get();
        } catch { /* Seen */ }
      }),
    Error,
    "Boom",
  );
});

Deno.test("nursery() ends a function that catches everything and tries again", async () => {
  const children = new Children();
  let tries = 0;
  await assertRejects(
    () =>
      withTimeout(AT_ONCE, () =>
        nursery(async (n) => {
          n.spawn(children.run);
          n.spawn(boom, 1);
          for (;;) {
            try {
              tries++;
              await sleep(FOREVER);
            } catch { /* Again */ }
          }
        })),
    Error,
    "Boom",
  );
  assert(tries > 1);
  assertEquals(children.alive, 0);
});

// --- Interrupts

for (const where of ["function", "children"]) {
  for (const grace of [1000, 0]) {
    testBoth(
      `nursery() that is killed with a grace of ${grace} while it waits for its ${where} kills the children, and outlives them`,
      {
        async: async (children: Children, order: string[]) => {
          try {
            await nursery(async (n) => {
              n.spawn(children.run, 5);
              n.spawn(children.run, 1);
              if (where === "function") await sleep(FOREVER);
            });
          } finally {
            order.push(`alive: ${children.alive}`);
          }
        },
        generator: function* (children: Children, order: string[]) {
          try {
            yield* nursery(function* (n: Nursery) {
              n.spawn(children.run, 5);
              n.spawn(children.run, 1);
              if (where === "function") yield* sleep(FOREVER);
            });
          } finally {
            order.push(`alive: ${children.alive}`);
          }
        },
      },
      async (body) => {
        using failures = new Failures();
        const children = new Children();
        const order: string[] = [];
        const g = spawn(body, children, order);
        await sleep(2);
        assertEquals(children.alive, 2);
        await g.kill(undefined, { grace });
        assertEquals([children.alive, children.ended], [0, 2]);
        assertEquals(order, ["alive: 0"]);
        assertInstanceOf(g.value, GreenletExit);
        await settle();
        assertEquals(failures.errors, []);
      },
    );
  }
}

Deno.test("nursery() that is killed twice, while children clean up, outlives them", async () => {
  for (const second of [1000, 0]) {
    const children = new Children();
    const g = spawn(() =>
      nursery((n) => {
        n.spawn(children.run, 10);
        n.spawn(children.run, 20);
      })
    );
    await sleep(2);
    g.kill(undefined, { block: false });
    await sleep(2);
    assertEquals([children.alive, g.dead], [2, false]);
    await g.kill(undefined, { grace: second });
    assertEquals([children.alive, children.ended], [0, 2]);
    assertInstanceOf(g.value, GreenletExit);
  }
});

Deno.test("nursery() whose children clean up beyond their grace outlives them", async () => {
  const children = new Children();
  const g = spawn(() =>
    nursery((n) => {
      n.spawn(children.run, FOREVER);
    })
  );
  await sleep(2);
  await g.kill(undefined, { grace: 5 });
  assertEquals([children.alive, children.ended], [0, 1]);
});

Deno.test("nursery() that is killed before its function begins spawns nothing", async () => {
  let begun = false;
  const g = spawn(async () => {
    await until(Promise.resolve());
    g.kill(undefined, { block: false });
    await nursery(() => {
      begun = true;
    });
  });
  await g.join();
  assertFalse(begun);
});

Deno.test("nursery() that is killed reports the errors of its children", async () => {
  using failures = new Failures();
  const error = new Error("Clean-up");
  const g = spawn(() =>
    nursery((n) => {
      n.spawn(async () => {
        try {
          await sleep(FOREVER);
        } finally {
          await Promise.reject(error);
        }
      });
    })
  );
  await settle();
  await g.kill();
  assertInstanceOf(g.value, GreenletExit);
  await settle();
  assertEquals(failures.errors, [error]);
});

for (const where of ["function", "children"]) {
  Deno.test(`Timeout around nursery() that waits for its ${where} is thrown when the children are done`, async () => {
    const children = new Children();
    const g = spawn(async () => {
      using timeout = Timeout.start(5);
      const error = await assertRejects(() =>
        nursery(async (n) => {
          n.spawn(children.run, 3);
          if (where === "function") await sleep(FOREVER);
        })
      );
      assertStrictEquals(error, timeout);
      assertEquals([children.alive, children.ended], [0, 1]);
      return "went on";
    });
    assertEquals(await g.get(), "went on");
  });
}

Deno.test("withTimeout() around nursery() kills the children", async () => {
  const children = new Children();
  const value = await withTimeout(5, () =>
    nursery((n) => {
      n.spawn(children.run);
      n.spawn(children.run);
    }), { value: "late" });
  assertEquals(value, "late");
  await settle();
  assertEquals([children.alive, children.ended], [0, 2]);
});

Deno.test("Timeout in the function of nursery() is the function's own", async () => {
  const children = new Children();
  const result = await nursery(async (n) => {
    n.spawn(sleep, 5);
    const value = await withTimeout(1, children.run, { value: "late" });
    assertEquals(value, "late");
    return "went on";
  });
  assertEquals(result, "went on");
});

Deno.test("Timeout of a child of nursery() is a failure", async () => {
  const children = new Children();
  const error = await assertRejects(() =>
    nursery((n) => {
      n.spawn(children.run);
      n.spawn(async () => {
        using _timeout = Timeout.start(2);
        await sleep(FOREVER);
      });
    })
  );
  assertInstanceOf(error, Timeout);
  assertEquals(children.alive, 0);
});

// --- Nested

Deno.test("nursery() in a nursery passes its failure on to the outer one", async () => {
  using failures = new Failures();
  const children = new Children();
  await assertRejects(
    () =>
      nursery(async (outer) => {
        outer.spawn(children.run, 2);
        await nursery((inner) => {
          inner.spawn(children.run, 2);
          inner.spawn(boom, 1);
        });
      }),
    Error,
    "Boom",
  );
  assertEquals([children.alive, children.ended], [0, 2]);
  await settle();
  assertEquals(failures.errors, []);
});

Deno.test("nursery() in a nursery is killed with the outer one's failure, and with its greenlet", async () => {
  const children = new Children();
  const nest = (fails: boolean) =>
    nursery(async (outer) => {
      outer.spawn(() =>
        nursery((inner) => {
          inner.spawn(children.run, 2);
        })
      );
      if (fails) outer.spawn(boom, 5);
      await nursery((inner) => {
        inner.spawn(children.run, 2);
      });
    });
  await assertRejects(() => nest(true), Error, "Boom");
  assertEquals([children.alive, children.ended], [0, 2]);
  const g = spawn(nest, false);
  await sleep(3);
  assertEquals(children.alive, 2);
  await g.kill();
  assertEquals([children.alive, children.ended], [0, 4]);
  assertInstanceOf(g.value, GreenletExit);
});

Deno.test("nursery() in a child that catches its failure leaves the outer one alone", async () => {
  const result = await nursery(async (outer) => {
    const child = outer.spawn(async () => {
      await assertRejects(
        () =>
          nursery((inner) => {
            inner.spawn(boom, 1);
          }),
        Error,
        "Boom",
      );
      return "caught";
    });
    await sleep(3);
    return await child.get();
  });
  assertEquals(result, "caught");
});

// --- Nothing outlives it

Deno.test("nursery() in main throws a child's error, and leaves main as it was", async () => {
  const event = new Event();
  await assertRejects(
    () =>
      nursery(async (n) => {
        n.spawn(boom, 1);
        await event.wait();
      }),
    Error,
    "Boom",
  );
  assertEquals(event.linkCount(), 0);
  await sleep(1);
});

Deno.test("nursery() whose child fails when the function has just ended leaves no error due", async () => {
  const g = spawn(async () => {
    for (let i = 0; i < 20; i++) {
      const error = await assertRejects(() =>
        nursery(async (n) => {
          n.spawn(async () => {
            for (let k = 0; k < i; k++) await Promise.resolve();
            throw new Error("Boom");
          });
          for (let k = 0; k < 10; k++) await Promise.resolve();
        })
      );
      assertInstanceOf(error, Error);
      assertEquals(error.message, "Boom");
      await sleep(0);
    }
    return "went on";
  });
  assertEquals(await g.get(), "went on");
});

Deno.test("nursery() that is killed gives back the permits that its children hold", async () => {
  const lock = new Lock();
  const g = spawn(() =>
    nursery((n) => {
      for (let i = 0; i < 5; i++) {
        n.spawn(async () => {
          using _ = await lock.acquire();
          await sleep(FOREVER);
        });
      }
    })
  );
  await settle();
  assert(lock.locked());
  await g.kill();
  assertFalse(lock.locked());
  assertEquals(lock.linkCount(), 0);
});

Deno.test("nursery() leaves no greenlet alive, whatever is killed and whenever", async () => {
  using _failures = new Failures();
  let seed = 11;
  const random = (n: number) => {
    seed = seed * 48271 % 2147483647;
    return seed % n;
  };
  for (let round = 0; round < 150; round++) {
    let alive = 0;
    let left = -1;
    const members: Greenlet<unknown>[] = [];
    const child = async (n: Nursery, depth: number) => {
      alive++;
      try {
        if (depth > 0 && random(2) === 0) {
          members.push(n.spawn(child, n, depth - 1));
        }
        await sleep(random(3));
        if (random(5) === 0) throw new Error("Boom");
        if (random(3) === 0) await nursery((inner) => child(inner, 0));
      } finally {
        try {
          await sleep(random(3));
        } finally {
          alive--;
        }
      }
    };
    const g = spawn(async () => {
      try {
        await nursery(async (n) => {
          for (let i = random(4); i >= 0; i--) {
            members.push(n.spawn(child, n, 2));
          }
          if (random(2) === 0) await sleep(random(4));
        });
      } finally {
        left = alive;
      }
    });
    members.push(g);
    for (let i = 0; i < 3; i++) {
      if (random(2) === 0) await sleep(random(3));
      else for (let k = random(20); k > 0; k--) await Promise.resolve();
      const grace = [1000, 1, 0][random(3)]!;
      members[random(members.length)]!.kill(undefined, { block: false, grace });
    }
    await g.join();
    assert(left <= 0, `${left} were left in round ${round}`);
    assertEquals(alive, 0);
    assert(members.every((member) => member.dead));
  }
});

Deno.test("nursery() of many children ends soon when one fails", async () => {
  clock.useRealTime();
  const children = new Children();
  const start = performance.now();
  await assertRejects(
    () =>
      nursery(async (n) => {
        for (let i = 0; i < 2000; i++) n.spawn(children.run);
        await idle();
        n.spawn(boom, 0);
      }),
    Error,
    "Boom",
  );
  assertEquals([children.alive, children.ended], [0, 2000]);
  assertLess(performance.now() - start, FOREVER / 2);
});
