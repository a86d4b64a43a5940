import { clock, giveBack } from "../_clock.ts";
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  Channel,
  Event,
  type Greenlet,
  GreenletExit,
  Group,
  idle,
  Pool,
  Queue,
  type QueueIterator,
  type ResultIterator,
  sleep,
  spawn,
  Timeout,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";
import { random } from "../_random.ts";

giveBack();

const FOREVER = 1e9;

type Mapper = Group | Pool;

const mappers: [string, () => Mapper][] = [
  ["Group", () => new Group()],
  ["Pool", () => new Pool(3)],
];
const methods = ["imap", "imapUnordered"] as const;

/** Counts the calls that run, and those that were made. */
class Calls {
  running = 0;
  made = 0;

  /** Wraps what a call does. */
  count<A extends unknown[], T>(
    run: (...args: A) => Promise<T> | T,
  ): (...args: A) => Promise<T> {
    return async (...args) => {
      this.made++;
      this.running++;
      try {
        return await run(...args);
      } finally {
        this.running--;
      }
    };
  }
}

/** An iterable that counts how often it was opened and closed. */
class Source implements AsyncIterable<number> {
  opened = 0;
  closed = 0;
  asked = 0;
  readonly #next: (i: number) => unknown;

  /** @param next Gives an item, a promise of one, or `undefined` at the end; may throw. */
  constructor(next: (i: number) => unknown = (i) => i) {
    this.#next = next;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<number> {
    this.opened++;
    try {
      for (;;) {
        const item = await this.#next(this.asked++);
        if (item === undefined) return;
        yield item as number;
      }
    } finally {
      this.closed++;
    }
  }

  *sync(): Generator<number> {
    this.opened++;
    try {
      for (;;) {
        const item = this.#next(this.asked++);
        if (item === undefined) return;
        yield item as number;
      }
    } finally {
      this.closed++;
    }
  }

  /** An iterator that is not a generator. */
  byHand(): AsyncIterable<number> {
    return {
      [Symbol.asyncIterator]: () => {
        this.opened++;
        return {
          next: async () => {
            const value = await this.#next(this.asked++) as number;
            return value === undefined
              ? { done: true, value }
              : { done: false, value };
          },
          return: () => {
            this.closed++;
            return Promise.resolve({ done: true, value: undefined });
          },
        };
      },
    };
  }
}

/** A promise that is never settled, and that nothing interrupts. */
function never(): Promise<never> {
  return new Promise(() => {});
}

/** Takes results as a `for await` loop does, where there is none for generator bodies. */
function* loop<T>(
  results: ResultIterator<T>,
  each: (result: T) => Generator<unknown, boolean | void, unknown>,
): Generator<unknown, void, unknown> {
  let ended = false;
  try {
    for (;;) {
      const { done, value } = yield* results.next();
      if (done) return void (ended = true);
      if (yield* each(value)) return;
    }
  } finally {
    if (!ended) yield* results.return();
  }
}

/** Moves the clock by hand until a greenlet has ended. */
async function runOut(greenlet: Greenlet<unknown>): Promise<void> {
  for (;;) {
    await settle();
    if (greenlet.dead) return;
    assert(clock.armed > 0, "Nothing happens any more");
    clock.advance();
  }
}

// --- A loop over imap() that is left

/** The ways to leave a loop, and the error that is thrown then. */
const exits = {
  "a break": null,
  "an error in the loop": "In the loop",
  "a call that fails": "Call",
  "an iterable that fails": "Iterable",
  "a kill in the loop": GreenletExit,
  "a kill while it waits": GreenletExit,
  "a Timeout in the loop": Timeout,
  "a Timeout while it waits": Timeout,
} as const;
type Exit = keyof typeof exits;

for (const [name, make] of mappers) {
  for (const method of methods) {
    for (const exit of Object.keys(exits) as Exit[]) {
      for (const kind of ["sync", "async", "byHand"] as const) {
        const setUp = () => {
          const group = make();
          const calls = new Calls();
          const source = new Source((i) => {
            if (exit === "an iterable that fails" && i === 2) {
              throw new Error("Iterable");
            }
            return i;
          });
          const run = calls.count(async (i: number) => {
            if (i === 0) return i;
            if (exit === "a call that fails" && i === 1) {
              throw new Error("Call");
            }
            // Where the iterable has failed, what it gave before is given first.
            if (exit === "an iterable that fails") return i;
            await sleep(FOREVER);
            return i;
          });
          const items = {
            sync: () => source.sync(),
            async: () => source,
            byHand: () => source.byHand(),
          }[kind]();
          const results = group[method](run, items, { maxsize: 3 });
          const isOver = () => {
            assertEquals([calls.running, group.size], [0, 0]);
            const isClosed = source.opened === source.closed;
            // An iterator that has failed or ended by itself is not closed.
            const told = exit === "an iterable that fails" && kind === "byHand";
            assertEquals(isClosed, !told);
            if (group instanceof Pool) assertEquals(group.freeCount(), 3);
          };
          return { results, isOver, calls, source };
        };
        testBoth(
          `${name}.${method}() over ${kind} items has ended its calls and closed the items when its loop is left by ${exit}`,
          {
            async: async ({ results, isOver }: ReturnType<typeof setUp>) => {
              using timeout = new Timeout(5);
              try {
                if (exit === "a Timeout while it waits") timeout.start();
                for await (const _ of results) {
                  if (exit === "a break") break;
                  if (exit === "an error in the loop") {
                    throw new Error("In the loop");
                  }
                  if (exit === "a Timeout in the loop") timeout.start();
                  if (exit.endsWith("in the loop")) await sleep(FOREVER);
                }
              } finally {
                isOver();
              }
            },
            generator: function* ({ results, isOver }) {
              using timeout = new Timeout(5);
              try {
                if (exit === "a Timeout while it waits") timeout.start();
                yield* loop(results, function* () {
                  if (exit === "a break") return true;
                  if (exit === "an error in the loop") {
                    throw new Error("In the loop");
                  }
                  if (exit === "a Timeout in the loop") timeout.start();
                  if (exit.endsWith("in the loop")) yield* sleep(FOREVER);
                });
              } finally {
                isOver();
              }
            },
          },
          async (body) => {
            using _clock = clock.stop();
            using failures = new Failures();
            const it = setUp();
            const consumer = spawn(body, it) as Greenlet<unknown>;
            await settle();
            if (exit.startsWith("a kill")) {
              assertFalse(consumer.dead);
              consumer.kill(undefined, { block: false });
            }
            if (exit.startsWith("a Timeout")) {
              assertFalse(consumer.dead);
              clock.advance();
            }
            // Nothing of it takes any time.
            await settle();
            assert(consumer.dead);
            const expected = exits[exit];
            if (expected === null) {
              assertEquals(consumer.exception, undefined);
            } else if (expected === GreenletExit) {
              assertInstanceOf(consumer.value, GreenletExit);
            } else if (expected === Timeout) {
              assertInstanceOf(consumer.exception, Timeout);
            } else {
              assertEquals(
                (consumer.exception as Error)?.message,
                expected as string,
              );
            }
            assertEquals(
              failures.errors,
              consumer.successful() ? [] : [consumer.exception],
            );
            // The end stays the end, and nothing goes on.
            const { asked } = it.source;
            assertEquals((await it.results.next()).done, true);
            await settle();
            it.isOver();
            assertEquals(it.source.asked, asked);
            assertEquals(clock.armed, 0);
          },
        );
      }
    }

    // --- What it waits for

    const leave = new Event();

    testBoth(
      `${name}.${method}() waits at the end of its loop for the clean-up of calls and items`,
      {
        async: async (results: ResultIterator<number>, log: string[]) => {
          for await (const _ of results) {
            await leave.wait();
            break;
          }
          log.push("over");
        },
        generator: function* (results: ResultIterator<number>, log: string[]) {
          yield* loop(results, function* () {
            yield* leave.wait();
            return true;
          });
          log.push("over");
        },
      },
      async (body) => {
        const group = make();
        const log: string[] = [];
        const [closing, cleaning] = [new Event(), new Event()];
        async function* items() {
          try {
            yield* [0, 1];
            await sleep(FOREVER);
          } finally {
            await closing.wait();
            log.push("closed");
          }
        }
        const results = group[method](async (i: number) => {
          try {
            await sleep(i === 0 ? 0 : FOREVER);
            return i;
          } finally {
            if (i > 0) {
              await cleaning.wait();
              log.push("cleaned up");
            }
          }
        }, items());
        leave.clear();
        const consumer = spawn(body, results, log);
        await settle();
        leave.set();
        await settle();
        assertEquals(log, []);
        cleaning.set();
        await settle();
        assertEquals(log, ["cleaned up"]);
        closing.set();
        await consumer.get();
        assertEquals(log, ["cleaned up", "closed", "over"]);
        assertEquals(group.size, 0);
      },
    );

    testBoth(
      `${name}.${method}() leaves a call that was killed before the end of its loop to its clean-up`,
      {
        async: async (results: ResultIterator<number>, gate: Event) => {
          for await (const _ of results) {
            await gate.wait();
            break;
          }
        },
        generator: function* (results: ResultIterator<number>, gate: Event) {
          yield* loop(results, function* () {
            yield* gate.wait();
            return true;
          });
        },
      },
      async (body) => {
        const group = make();
        const [leave, cleaning] = [new Event(), new Event()];
        let cut: unknown = null;
        const results = group[method](async (i: number) => {
          if (i === 0) return i;
          try {
            await sleep(FOREVER);
          } finally {
            await cleaning.wait().catch((error) => cut = error);
          }
          return i;
        }, [0, 1]);
        const consumer = spawn(body, results, leave);
        await settle();
        const [call] = group;
        call!.kill(undefined, { block: false });
        await settle();
        leave.set();
        await settle();
        assertEquals([call!.dead, consumer.dead], [false, false]);
        cleaning.set();
        await consumer.get();
        assert(call!.dead);
        assertStrictEquals(cut, null);
      },
    );

    Deno.test(`${name}.${method}() ends its calls although its consumer may wait no longer`, async () => {
      using _clock = clock.stop();
      for (const where of ["in the loop", "while it waits"]) {
        const group = make();
        const calls = new Calls();
        const source = new Source();
        const consumer = spawn(async () => {
          try {
            for await (
              const _ of group[method](
                calls.count(async (i) => {
                  if (i === 0) return;
                  try {
                    await sleep(FOREVER);
                  } finally {
                    await sleep(FOREVER);
                  }
                }),
                source,
                { maxsize: 3 },
              )
            ) if (where === "in the loop") await sleep(FOREVER);
          } finally {
            assertEquals([calls.running, source.closed, group.size], [0, 1, 0]);
          }
        });
        await settle();
        assert(calls.running > 0);
        await consumer.kill(undefined, { grace: 0 });
        assertInstanceOf(consumer.value as unknown, GreenletExit);
        assertEquals(clock.armed, 0);
      }
    });

    Deno.test(`${name}.${method}() ends its calls at the end of the grace of its consumer`, async () => {
      using _clock = clock.stop();
      const group = make();
      const calls = new Calls();
      const consumer = spawn(async () => {
        for await (
          const _ of group[method](
            calls.count(async (i: number) => {
              if (i === 0) return;
              try {
                await sleep(FOREVER);
              } finally {
                await sleep(FOREVER);
              }
            }),
            [0, 1, 2],
          )
        ) await sleep(FOREVER);
      });
      await settle();
      consumer.kill(undefined, { block: false, grace: 100 });
      await settle();
      assertEquals([consumer.dead, calls.running], [false, 2]);
      clock.advance();
      await consumer.join();
      assertEquals([calls.running, group.size], [0, 0]);
    });

    Deno.test(`${name}.${method}() in a call with a time limit ends its calls in time`, async () => {
      using _clock = clock.stop();
      const group = make();
      const calls = new Calls();
      const source = new Source();
      const caller = spawn(() =>
        withTimeout(5, async () => {
          for await (
            const _ of group[method](
              calls.count(() => sleep(FOREVER)),
              source,
              { maxsize: 3 },
            )
          );
        }, { value: "late" })
      );
      await settle();
      assert(calls.running > 0);
      clock.advance();
      assertEquals(await caller.get(), "late");
      assertEquals([calls.running, source.closed, group.size], [0, 1, 0]);
    });

    Deno.test(`${name}.${method}() throws an error that interrupts the end of its loop after that end`, async () => {
      using _clock = clock.stop();
      const group = make();
      const begun = new Event();
      const gate = new Event();
      const order: string[] = [];
      const consumer = spawn(async () => {
        using timeout = Timeout.start(5);
        for await (
          const _ of group[method](async (i: number) => {
            if (i === 0) return await begun.wait();
            begun.set();
            try {
              await sleep(FOREVER);
            } finally {
              await gate.wait();
              order.push("cleaned up");
            }
          }, [0, 1])
        ) break;
        order.push("left");
        const error = await assertRejects(async () => await sleep(0));
        assertStrictEquals(error, timeout);
      });
      await settle();
      clock.advance();
      await settle();
      assertEquals(order, []);
      gate.set();
      await consumer.get();
      assertEquals(order, ["cleaned up", "left"]);
    });

    // --- An iterable that never answers

    testBoth(
      `${name}.${method}() over items that never come is ended by the error of a call`,
      {
        async: async (results: ResultIterator<number>) => {
          for await (const _ of results);
        },
        generator: function* (results: ResultIterator<number>) {
          yield* loop(results, function* () {});
        },
      },
      async (body) => {
        using _failures = new Failures();
        using _clock = clock.stop();
        const group = make();
        const results = group[method](
          (i: number): number => {
            throw new Error(`Boom ${i}`);
          },
          new Source((i) => i === 0 ? i : never()),
        );
        const consumer = spawn(body, results);
        await settle();
        assertEquals((consumer.exception as Error)?.message, "Boom 0");
        assertEquals([group.size, clock.armed], [0, 0]);
      },
    );

    for (const kind of ["async", "byHand"] as const) {
      for (const leave of ["break", "kill", "no grace", "Timeout"]) {
        Deno.test(`${name}.${method}() over ${kind} items that never come can be left by ${leave}`, async () => {
          using _failures = new Failures();
          using _clock = clock.stop();
          const group = make();
          const source = new Source((i) => i === 0 ? i : never());
          const items = kind === "async" ? source : source.byHand();
          const results = group[method]((i: number) => i, items);
          const consumer = spawn(async () => {
            using _timeout = leave === "Timeout" ? Timeout.start(5) : null;
            for await (const _ of results) if (leave === "break") break;
          });
          await settle();
          if (leave === "Timeout") clock.advance();
          const grace = leave === "no grace" ? 0 : 1000;
          if (leave !== "break" && leave !== "Timeout") {
            consumer.kill(undefined, { block: false, grace });
          }
          await settle();
          assert(consumer.dead);
          // An iterator that can't be closed during next() is asked to close at least, if
          // it can be.
          assertEquals(source.closed, kind === "byHand" ? 1 : 0);
          assertEquals([group.size, clock.armed], [0, 0]);
        });
      }
    }

    Deno.test(`${name}.${method}() leaves a call that is stuck elsewhere behind in the end`, async () => {
      using _clock = clock.stop();
      const group = make();
      const stuck = Promise.withResolvers<number>();
      const begun = Promise.withResolvers<number>();
      const run = (i: number) => {
        // A call that has not begun when the loop is left never does.
        if (i === 0) return begun.promise;
        begun.resolve(0);
        return stuck.promise;
      };
      const consumer = spawn(async () => {
        for await (const _ of group[method](run, [0, 1])) break;
      });
      await runOut(consumer);
      assertEquals(group.size, 1);
      stuck.resolve(1);
      await settle();
      assertEquals([group.size, clock.armed], [0, 0]);
    });

    // --- next() and return() by hand

    testBoth(
      `${name}.${method}() gives the end to a next() that waits when it is closed`,
      {
        async: async (results: ResultIterator<number>) => await results.next(),
        generator: function* (results: ResultIterator<number>) {
          return yield* results.next();
        },
      },
      async (body) => {
        const group = make();
        const calls = new Calls();
        const source = new Source();
        const results = group[method](
          calls.count(async (i: number) => (await sleep(FOREVER), i)),
          source,
          { maxsize: 3 },
        );
        const takers = [spawn(body, results), spawn(body, results)];
        await settle();
        assertEquals(await results.return(), { done: true, value: undefined });
        assertEquals([calls.running, source.closed, group.size], [0, 1, 0]);
        for (const taker of takers) {
          assertEquals(await taker.get(), { done: true, value: undefined });
        }
        assertEquals((await results.return()).done, true);
        assertEquals(source.closed, 1);
      },
    );

    testBoth(
      `${name}.${method}() throws the error of the items once, and has ended then`,
      {
        async: async (results: ResultIterator<number>) => await results.next(),
        generator: function* (results: ResultIterator<number>) {
          return yield* results.next();
        },
      },
      async (body) => {
        using _failures = new Failures();
        for (const kind of ["sync", "async", "byHand"] as const) {
          const source = new Source((i) => {
            if (i === 1) throw new Error("No more");
            return i;
          });
          const items = {
            sync: source.sync(),
            async: source,
            byHand: source.byHand(),
          }[kind];
          const results = make()[method]((i: number) => i, items);
          assertEquals(await spawn(body, results).get(), {
            done: false,
            value: 0,
          });
          await assertRejects(() => spawn(body, results).get(), Error, "No");
          for (let i = 0; i < 2; i++) {
            assertEquals((await spawn(body, results).get()).done, true);
          }
          assertEquals(source.asked, 2);
        }
      },
    );

    Deno.test(`${name}.${method}() whose next() has thrown ends with the greenlet`, async () => {
      using _failures = new Failures();
      const group = make();
      const calls = new Calls();
      const source = new Source();
      const g = spawn(function* () {
        const results = group[method](
          calls.count(async (i: number) => {
            if (i === 2) throw new Error("Boom");
            await sleep(i > 2 ? FOREVER : 0);
          }),
          source,
          { maxsize: 2 },
        );
        for (;;) yield* results.next();
      });
      await assertRejects(() => g.get(), Error, "Boom");
      await settle();
      assertEquals([calls.running, source.closed, group.size], [0, 1, 0]);
    });

    Deno.test(`${name}.${method}() throws an error that is due, and has ended its calls by then`, async () => {
      const group = make();
      const calls = new Calls();
      const source = new Source();
      const due = new Error("Due");
      const foreign = Promise.withResolvers<void>();
      const consumer = spawn(async () => {
        const results = group[method](
          calls.count(() => sleep(FOREVER)),
          source,
          { maxsize: 3 },
        );
        await foreign.promise;
        const error = await assertRejects(async () => await results.next());
        assertStrictEquals(error, due);
        assertEquals([calls.running, source.closed, group.size], [0, 1, 0]);
      });
      await settle();
      consumer.throw(due);
      foreign.resolve();
      await consumer.get();
    });

    Deno.test(`${name}.${method}() closes its items once although it never began`, async () => {
      for (const kind of ["async", "byHand"]) {
        const group = make();
        const source = new Source();
        const items = kind === "async" ? source : source.byHand();
        await group[method]((i: number) => i, items).return();
        assertEquals([source.asked, source.opened], [
          0,
          kind === "async" ? 0 : 1,
        ]);
        assertEquals(source.closed, source.opened);
      }
    });

    // --- Errors in clean-up

    Deno.test(`${name}.${method}() throws the error of closing the items after a break, as the language does`, async () => {
      const items = (): AsyncIterable<number> => ({
        [Symbol.asyncIterator]: () => ({
          next: () => Promise.resolve({ done: false, value: 0 }),
          return: () => Promise.reject(new Error("Closing")),
        }),
      });
      await assertRejects(
        async () => {
          for await (
            const _ of make()[method]((i: number) => i, items(), { maxsize: 1 })
          ) break;
        },
        Error,
        "Closing",
      );
    });

    Deno.test(`${name}.${method}() hides no error behind an error of the clean-up`, async () => {
      const failing = (i: number, message: string) => ({
        [Symbol.asyncIterator]: () => ({
          next: () => Promise.resolve({ done: false as const, value: i++ }),
          return: () => Promise.reject(new Error(message)),
        }),
      });
      for (const where of ["call", "loop"]) {
        using failures = new Failures();
        const group = make();
        await assertRejects(
          async () => {
            for await (
              const _ of group[method](
                async (i: number) => {
                  if (i === 0) return;
                  if (i === 1 && where === "call") throw new Error("First");
                  try {
                    await sleep(FOREVER);
                  } catch {
                    throw new Error(`Clean-up`);
                  }
                },
                failing(0, "Closing"),
                { maxsize: 3 },
              )
            ) if (where === "loop") throw new Error("First");
          },
          Error,
          "First",
        );
        assertEquals(group.size, 0);
        await settle();
        // Errors of the calls' clean-up are thrown nowhere else.
        const messages = failures.errors.map((error) =>
          (error as Error).message
        );
        assert(messages.every((message) => message === "Clean-up"));
      }
    });
  }

  // --- map() and apply()

  testBoth(
    `${name}.map() over items that never come throws the error of a call`,
    {
      async: async (group: Mapper, items: AsyncIterable<number>) =>
        await group.map((i: number): number => {
          throw new Error(`Boom ${i}`);
        }, items),
      generator: function* (group: Mapper, items: AsyncIterable<number>) {
        return yield* group.map((i: number): number => {
          throw new Error(`Boom ${i}`);
        }, items);
      },
    },
    async (body) => {
      using _failures = new Failures();
      using _clock = clock.stop();
      for (const kind of ["async", "byHand"]) {
        const group = make();
        const source = new Source((i) => i === 0 ? i : never());
        const items = kind === "async" ? source : source.byHand();
        const mapper = spawn(body, group, items);
        await settle();
        assertEquals((mapper.exception as Error)?.message, "Boom 0");
        // It may be closed before it is asked for the second item.
        if (kind === "byHand") assertEquals(source.closed, 1);
        assertEquals([group.size, clock.armed], [0, 0]);
      }
    },
  );

  for (const exit of ["a call", "the items", "a kill", "a Timeout"]) {
    for (const kind of ["sync", "async", "byHand"] as const) {
      testBoth(
        `${name}.map() over ${kind} items has ended its calls and closed the items when it is ended by ${exit}`,
        {
          async: async (map: () => Promise<unknown>, isOver: () => void) => {
            try {
              await map();
            } finally {
              isOver();
            }
          },
          generator: function* (map, isOver) {
            try {
              yield* map() as unknown as Generator;
            } finally {
              isOver();
            }
          },
        },
        async (body) => {
          using _failures = new Failures();
          using _clock = clock.stop();
          const group = make();
          const calls = new Calls();
          const source = new Source((i) => {
            if (exit === "the items" && i === 2) throw new Error("Iterable");
            if (i < 3 || group instanceof Pool) return i;
            return kind === "sync" ? undefined : sleep(FOREVER);
          });
          const items = {
            sync: () => source.sync(),
            async: () => source,
            byHand: () => source.byHand(),
          }[kind]();
          const run = calls.count(async (i: number) => {
            if (exit === "a call" && i === 0) {
              await sleep(1);
              throw new Error("Call");
            }
            await sleep(FOREVER);
          });
          const mapper = spawn(
            body,
            () => {
              const map = () => group.map(run, items);
              if (exit !== "a Timeout") return map();
              return withTimeout(1, map);
            },
            () => {
              assertEquals([calls.running, group.size], [0, 0]);
              const told = exit === "the items" && kind === "byHand" ||
                exit === "a call" && kind === "sync" && group instanceof Group;
              assertEquals(source.closed, told && kind === "byHand" ? 0 : 1);
            },
          );
          await settle();
          if (exit === "a kill") mapper.kill(undefined, { block: false });
          else if (exit !== "the items") clock.advance();
          await settle();
          assert(mapper.dead);
          if (exit === "a kill") {
            assertInstanceOf(mapper.value, GreenletExit);
          } else if (exit === "a Timeout") {
            assertInstanceOf(mapper.exception, Timeout);
          } else {
            const message = exit === "a call" ? "Call" : "Iterable";
            assertEquals((mapper.exception as Error).message, message);
          }
          assertEquals(clock.armed, 0);
        },
      );
    }
  }

  Deno.test(`${name}.map() throws the error of the first failed item when all calls ran to their end`, async () => {
    using failures = new Failures();
    using _clock = clock.stop();
    // In one turn, one after the other, and with a greenlet that is killed and fails then.
    for (const apart of [false, true]) {
      const group = make();
      const gates = [new Event(), new Event(), new Event()];
      const mapper = spawn(() =>
        group.map(async (i: number) => {
          try {
            await gates[i]!.wait();
          } catch {
            throw new Error(`Clean-up ${i}`);
          }
          throw new Error(`Call ${i}`);
        }, [0, 1, 2])
      );
      await settle();
      gates[1]!.set();
      if (apart) await settle();
      gates[0]!.set();
      await settle();
      assertEquals((mapper.exception as Error)?.message, "Call 0");
    }
    assertEquals(
      failures.errors.map(String).filter((it) => it.includes("Clean-up")),
      ["Error: Clean-up 2", "Error: Clean-up 2"],
    );
    assertEquals(clock.armed, 0);
  });

  Deno.test(`${name}.map() throws the error of a call although one for an earlier item does not end`, async () => {
    using failures = new Failures();
    using _clock = clock.stop();
    const group = make();
    const ended: number[] = [];
    const mapper = spawn(() =>
      group.map(async (i: number) => {
        if (i === 1) throw new Error("Call 1");
        try {
          await sleep(FOREVER);
        } catch {
          ended.push(i);
          throw new Error(`Clean-up ${i}`);
        }
      }, [0, 1, 2])
    );
    await settle();
    assertEquals([ended, mapper.dead], [[2], false]);
    await runOut(mapper);
    assertEquals((mapper.exception as Error).message, "Call 1");
    assertEquals(ended, [2, 0]);
    assertEquals(
      failures.errors.map((error) => (error as Error).message),
      ["Clean-up 2", "Clean-up 0", "Call 1"],
    );
    assertEquals(clock.armed, 0);
  });

  Deno.test(`${name}.map() opens nothing when an error is due`, async () => {
    const source = new Source();
    const foreign = Promise.withResolvers<void>();
    const due = new Error("Due");
    const mapper = spawn(async () => {
      await foreign.promise;
      const error = await assertRejects(async () =>
        await make().map((i: number) => i, source.byHand())
      );
      assertStrictEquals(error, due);
    });
    await settle();
    mapper.throw(due);
    foreign.resolve();
    await mapper.get();
    assertEquals([source.opened, source.closed], [0, 0]);
  });

  Deno.test(`${name}.mapAsync() that is killed before it begins closes the items`, async () => {
    const source = new Source();
    const mapper = make().mapAsync((i: number) => i, source.byHand());
    await mapper.kill();
    await settle();
    assertEquals([source.asked, source.opened, source.closed], [0, 1, 1]);
  });

  testBoth(
    `${name}.apply() in a call with a time limit ends its greenlet`,
    {
      async: async (group: Mapper, run: () => Promise<void>) =>
        await withTimeout(5, () => group.apply(run), { value: "late" }),
      generator: function* (group: Mapper, run: () => Promise<void>) {
        return yield* withTimeout(5, () => group.apply(run), { value: "late" });
      },
    },
    async (body) => {
      using _clock = clock.stop();
      const group = make();
      const calls = new Calls();
      const caller = spawn(body, group, calls.count(() => sleep(FOREVER)));
      await settle();
      assertEquals([calls.running, group.size], [1, 1]);
      clock.advance();
      assertEquals(await caller.get(), "late");
      assertEquals([calls.running, group.size], [0, 0]);
      if (group instanceof Pool) assertEquals(group.freeCount(), 3);
    },
  );

  Deno.test(`${name}.kill() returns during a map() or a loop over imap() of endless items, and ends that`, async () => {
    using _clock = clock.stop();
    for (const kind of ["sync", "async", "never"] as const) {
      const group = kind === "sync" ? new Pool(2) : make();
      const calls = new Calls();
      const run = calls.count(() => sleep(FOREVER));
      const source = new Source((i) => i < 3 || kind !== "never" ? i : never());
      const items = () => kind === "sync" ? source.sync() : source;
      const options = { maxsize: 3 };
      const greenlets = [
        spawn(() => group.map(run, items())),
        group.mapAsync(run, items()),
        spawn(async () => {
          for await (const _ of group.imap(run, items(), options));
        }),
        spawn(async () => {
          for await (const _ of group.imapUnordered(run, items(), options));
        }),
      ] as Greenlet<unknown>[];
      if (kind === "async" && group instanceof Group) {
        // It would call for ever.
        for (const g of greenlets.splice(0, 2)) await g.kill();
      }
      await settle();
      const killer = spawn(() => group.kill());
      await settle();
      assert(killer.dead);
      for (const g of greenlets) {
        assert(g.dead);
        assertInstanceOf(g.value, GreenletExit);
      }
      assertEquals([calls.running, group.size, clock.armed], [0, 0, 0]);
    }
  });

  Deno.test(`${name}.kill() throws its error in a map() that it cuts short`, async () => {
    using _failures = new Failures();
    const group = new Pool(2);
    const error = new Error("Given");
    const mapper = spawn(() =>
      group.map(() => sleep(FOREVER), new Source().sync())
    );
    await settle();
    await group.kill({ error });
    await mapper.join();
    assertStrictEquals(mapper.exception, error);
  });
}

// --- Queues

testBoth("Queue in a loop that is left by an interrupt keeps its items", {
  async: async (queue: Queue<number>, got: number[]) => {
    for await (const item of queue) got.push(item);
  },
  generator: function* (queue: Queue<number>, got: number[]) {
    const items = queue[Symbol.asyncIterator]();
    for (;;) {
      const { done, value } = yield* items.next();
      if (done) return;
      got.push(value);
    }
  },
}, async (body) => {
  const queue = new Queue<number>();
  const got: number[] = [];
  const first = spawn(body, queue, got);
  queue.putNowait(0);
  await settle();
  assertEquals(queue.getters, 1);
  await first.kill();
  assertEquals(queue.getters, 0);
  queue.putNowait(1);
  queue.shutdown();
  await spawn(body, queue, got).get();
  assertEquals(got, [0, 1]);
});

for (
  const [name, make] of [
    ["Queue", () => new Queue<number>()],
    ["Channel", () => new Channel<number>()],
  ] as [string, () => Queue<number> | Channel<number>][]
) {
  testBoth(
    `${name}'s iterator ends a next() that waits when it is closed, and leaves the items`,
    {
      async: async (items: QueueIterator<number>) => await items.next(),
      generator: function* (items: QueueIterator<number>) {
        return yield* items.next();
      },
    },
    async (body) => {
      const queue = make();
      const items = queue[Symbol.asyncIterator]();
      const other = queue[Symbol.asyncIterator]();
      const waiting = [spawn(body, items), spawn(body, items)];
      const left = spawn(body, other);
      await settle();
      assertEquals(await items.return(), { done: true, value: undefined });
      await settle();
      for (const one of waiting) assertEquals((await one.get()).done, true);
      assertEquals((await items.next()).done, true);
      assertFalse(left.dead);
      await queue.put(1);
      assertEquals(await left.get(), { done: false, value: 1 });
      await items.return();
    },
  );

  Deno.test(`${name}'s iterator takes no item for a loop that was left`, async () => {
    const queue = make();
    const items = queue[Symbol.asyncIterator]();
    const taker = spawn(async () => {
      for await (const item of items) if (item === 1) break;
    });
    await settle();
    await queue.put(1);
    await taker.get();
    assertEquals((await items.next()).done, true);
    const next = spawn(() => queue.get());
    await settle();
    await queue.put(2);
    assertEquals(await next.get(), 2);
  });
}

// --- All that is random

/** One random loop, and what must hold when it is over. */
async function runRandomly(next: () => number): Promise<void> {
  using _clock = clock.stop();
  using failures = new Failures();
  const below = (n: number) => Math.floor(next() * n);
  const chance = (p: number) => next() < p;
  const size = below(4);
  const group: Mapper = size === 0 ? new Group() : new Pool(size);
  const calls = new Calls();
  /** Errors that calls have ended by. */
  const failed: unknown[] = [];
  const how = (["map", "imap", "imapUnordered"] as const)[below(3)]!;
  // The clock stands still, so that a body that goes on for ever does not let the event
  // loop turn.
  const isEndless = chance(0.3) && (size > 0 || how !== "map");
  const length = isEndless ? Infinity : below(8);
  const failsAt = chance(0.2) ? below(8) : -1;
  const waits = [below(3), below(3), below(3)];
  const kind = (["sync", "async", "byHand"] as const)[below(3)]!;
  const source = new Source((i) => {
    if (i === failsAt) throw new Error("Iterable");
    if (i >= length) return undefined;
    const ms = waits[i % 3]!;
    return kind === "sync" || ms === 0 ? i : sleep(ms).then(() => i);
  });
  const items = () =>
    ({
      sync: () => source.sync(),
      async: () => source,
      byHand: () => source.byHand(),
    })[kind]();
  const plans = Array.from({ length: 5 }, () => ({
    ms: below(6) + (isEndless ? 1 : 0),
    fails: chance(0.15),
    cleanUp: below(3),
    isGenerator: chance(0.5),
  }));
  const run = (i: number) => {
    const { ms, fails, cleanUp, isGenerator } = plans[i % 5]!;
    const error = new Error("Call");
    let hasFailed = false;
    const fail = () => {
      hasFailed = true;
      throw error;
    };
    calls.made++;
    calls.running++;
    if (isGenerator) {
      return (function* () {
        try {
          yield* sleep(ms);
          if (fails) fail();
          return i;
        } finally {
          try {
            yield* sleep(cleanUp);
            if (hasFailed) failed.push(error);
          } finally {
            calls.running--;
          }
        }
      })();
    }
    return (async () => {
      try {
        await sleep(ms);
        if (fails) fail();
        return i;
      } finally {
        try {
          await sleep(cleanUp);
          if (hasFailed) failed.push(error);
        } finally {
          calls.running--;
        }
      }
    })();
  };
  const maxsize = 1 + below(5);
  const breakAt = chance(0.3) ? below(8) : -1;
  const throwAt = chance(0.2) ? below(8) : -1;
  const pauses = [below(4), below(4)];
  const limit = chance(0.3) ? below(12) : Infinity;
  const isLimited = chance(0.5);
  const got: number[] = [];
  const check = () => {
    assertEquals(calls.running, 0, "A call runs");
    assertEquals(group.size, 0, "The group has calls");
    if (group instanceof Pool) assertEquals(group.freeCount(), size);
    if (source.opened === 0) return;
    // An iterator that has ended or failed by itself was not closed.
    const isToldByItself = kind === "byHand" &&
      (source.asked > length || failsAt >= 0 && source.asked > failsAt);
    if (!isToldByItself) assertEquals(source.closed, 1, "It is open");
    else assert(source.closed <= 1);
  };
  const body = async () => {
    using _timeout = isLimited ? null : Timeout.start(limit);
    try {
      if (how === "map") {
        got.push(...await group.map(run, items()) as number[]);
        return;
      }
      let i = 0;
      for await (const x of group[how](run, items(), { maxsize })) {
        got.push(x as number);
        if (i === breakAt) break;
        if (i === throwAt) throw new Error("Loop");
        await sleep(pauses[i++ % 2]);
      }
    } finally {
      check();
    }
  };
  const caller = spawn(() =>
    isLimited ? withTimeout(limit, body, { value: undefined }) : body()
  ) as Greenlet<unknown>;
  const kills = chance(0.4) || isEndless ? 5 + below(20) : Infinity;
  const grace = chance(0.3) ? 0 : chance(0.3) ? 2 : 1000;
  const killsAll = chance(0.3);
  for (let step = 0; !caller.dead; step++) {
    for (let turns = below(4); turns >= 0; turns--) await idle();
    if (step === kills) {
      if (killsAll) group.kill({ block: false, grace });
      else caller.kill(undefined, { block: false, grace });
    } else if (step > kills + 3 && killsAll) {
      caller.kill(undefined, { block: false, grace });
    }
    if (clock.armed > 0 && chance(0.7)) clock.advance();
    assert(step < 2000, "It does not end");
  }
  await settle();
  check();
  // Results are those of the calls, each once, and in order where they are; a call that the
  // group has killed gives the error.
  const numbers = got.filter((x) => typeof x === "number");
  assertEquals(new Set(numbers).size, numbers.length);
  if (how !== "imapUnordered") {
    assertEquals(numbers, numbers.toSorted((a, b) => a - b));
  }
  // Each error was told once, or thrown into the caller, whose end was told.
  const expected = new Set(failed);
  if (!caller.successful()) expected.add(caller.exception);
  assertEquals(new Set(failures.errors), expected, "Errors were told");
  assertEquals(failures.errors.length, expected.size, "One was told twice");
  assertEquals(clock.armed, 0, "A timer is armed");
}

Deno.test("map() and imap() leave nothing behind, however and whenever they are left", async () => {
  const runs = Number(Deno.env.get("GEVENT_PROPERTY_RUNS") ?? 400);
  const first = Number(Deno.env.get("SEED") ?? 1);
  const seeds = Array.from({ length: runs }, (_, i) => first + i);
  // With this one, a kill without grace came while an error of a call was on its way.
  for (const seed of [460, ...seeds]) {
    try {
      await runRandomly(random(seed));
    } catch (error) {
      throw new Error(`Failed with SEED=${seed}`, { cause: error });
    }
  }
});
