/** What an iterable of the program does when `map` and `imap` take its items. */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Pool, spawn } from "../../mod.ts";
import { testBoth } from "../_bodies.ts";

/** An iterable whose results have a getter that throws; notes whether it was closed. */
class Trapped {
  closed = 0;
  readonly #kind: "sync" | "async";
  readonly #trap: "value" | "done";
  #left: number;

  constructor(kind: "sync" | "async", trap: "value" | "done", left: number) {
    this.#kind = kind;
    this.#trap = trap;
    this.#left = left;
  }

  open(): Iterable<number> {
    const step = () =>
      this.#left-- > 0
        ? { done: false, value: this.#left }
        : Object.defineProperty({ done: false, value: 0 }, this.#trap, {
          get() {
            throw new Error("trapped");
          },
        });
    const iterator = (next: () => unknown) => ({
      next,
      return: () => {
        this.closed++;
        return {};
      },
    });
    const items = this.#kind === "sync"
      ? { [Symbol.iterator]: () => iterator(step) }
      : {
        [Symbol.asyncIterator]: () => iterator(() => Promise.resolve(step())),
      };
    return items as unknown as Iterable<number>;
  }
}

const double = (n: number) => 2 * n;

for (const kind of ["sync", "async"] as const) {
  for (const trap of ["value", "done"] as const) {
    for (const before of [0, 3]) {
      const what =
        `a getter '${trap}' of result ${before} of an ${kind} iterator throws`;

      testBoth(`Pool.map() gives its places back when ${what}`, {
        async async(pool: Pool, items: Iterable<number>) {
          await pool.map(double, items);
        },
        *generator(pool: Pool, items: Iterable<number>) {
          yield* pool.map(double, items);
        },
      }, async (body) => {
        const pool = new Pool(2);
        const items = new Trapped(kind, trap, before);
        const greenlet = spawn(body, pool, items.open());
        await assertRejects(() => greenlet.get(), Error, "trapped");
        assertEquals([pool.freeCount(), pool.size], [2, 0]);
        // A `for` loop does not close it either.
        assertEquals(items.closed, 0);
      });

      testBoth(`Pool.imap() gives its places back when ${what}`, {
        async async(pool: Pool, items: Iterable<number>) {
          for await (const _ of pool.imap(double, items));
        },
        *generator(pool: Pool, items: Iterable<number>) {
          const results = pool.imap(double, items);
          try {
            while (!(yield* results.next()).done);
          } finally {
            yield* results.return();
          }
        },
      }, async (body) => {
        const pool = new Pool(2);
        const items = new Trapped(kind, trap, before);
        const greenlet = spawn(body, pool, items.open());
        await assertRejects(() => greenlet.get(), Error, "trapped");
        assertEquals([pool.freeCount(), pool.size], [2, 0]);
        assertEquals(items.closed, 0);
      });
    }
  }
}

const strange: [string, () => unknown][] = [
  ["5", () => 5],
  ["null", () => null],
  ["no next()", () => ({})],
];

for (const [what, open] of strange) {
  for (const symbol of [Symbol.iterator, Symbol.asyncIterator]) {
    Deno.test(`Pool.map() says what is wrong with an iterator that is ${what}, ${symbol.description}`, () => {
      const items = { [symbol]: open } as unknown as Iterable<number>;
      const pool = new Pool(1);
      const wanted = "Cannot map as the iterator must be an object with next()";
      assertThrows(() => pool.map(double, items), TypeError, wanted);
      assertThrows(() => pool.imap(double, items), TypeError, wanted);
      assertThrows(() => pool.mapAsync(double, items), TypeError, wanted);
      assertEquals(pool.freeCount(), 1);
    });
  }
}

for (const symbol of [Symbol.iterator, Symbol.asyncIterator]) {
  Deno.test(`Pool.imap() throws at a break when return() gives no object, as a loop over ${symbol.description} does`, async () => {
    const items = {
      [symbol]: () => ({
        next: () => ({ done: false, value: 1 }),
        return: () => 5,
      }),
    } as unknown as Iterable<number>;
    const leave = async (results: AsyncIterable<number>) => {
      for await (const _ of results) break;
    };
    const pool = new Pool(1);
    await assertRejects(() => leave(pool.imap(double, items)), TypeError);
    assertEquals(pool.freeCount(), 1);
    const fail = async () => {
      for await (const _ of pool.imap(double, items)) throw new Error("own");
    };
    await assertRejects(fail, Error, "own");
    assertEquals(pool.freeCount(), 1);
  });
}
