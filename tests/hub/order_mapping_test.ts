/**
 * Found by random programs that gevent 22.10 has run as well: in which order the calls of `map`,
 * `imap` and `apply` begin.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { Group, Pool, sleep, spawn } from "../../mod.ts";
import { type Body, testBoth } from "../_bodies.ts";

/** A body that says its name, gives way once, and says it again. */
function twice(log: string[]): (name: unknown) => Promise<void> {
  return async (name) => {
    log.push(`${name}`);
    await sleep(0);
    log.push(`${name} again`);
  };
}

const rooms = { Group: () => new Group(), Pool: () => new Pool(3) };

for (const [name, makeRoom] of Object.entries(rooms)) {
  for (const method of ["map", "imap", "imapUnordered"] as const) {
    const mapping = async (log: string[]) => {
      const results = makeRoom()[method](twice(log), [1, 2, 3]);
      if (results instanceof Promise) return void await results;
      for await (const _ of results);
    };
    Deno.test(`${name}.${method}() begins its calls in a row while there is room`, async () => {
      const log: string[] = [];
      const other = twice(log);
      await Promise.all([
        spawn(other, "a").join(),
        spawn(other, "b").join(),
        spawn(mapping, log).join(),
      ]);
      const begun = log.indexOf("1");
      assertEquals(log.slice(begun, begun + 3), ["1", "2", "3"]);
    });
  }

  testBoth(
    `${name}.apply() begins before a greenlet that is spawned after the call`,
    {
      async async(log: string[]) {
        const applied = makeRoom().apply(twice(log), ["applied"]);
        spawn(twice(log), "spawned");
        await applied;
      },
      *generator(log: string[]) {
        const applied = makeRoom().apply(twice(log), ["applied"]);
        spawn(twice(log), "spawned");
        yield* applied;
      },
    },
    async (body: Body<[string[]], void>) => {
      const log: string[] = [];
      await spawn(body, log).get();
      assertEquals(log.slice(0, 3), ["applied", "spawned", "applied again"]);
    },
  );
}

testBoth(
  "Pool.map() of two greenlets at once: the first takes all places that are free",
  {
    async async(pool: Pool, log: string[], items: string[]) {
      await pool.map(twice(log), items);
    },
    *generator(pool: Pool, log: string[], items: string[]) {
      yield* pool.map(twice(log), items);
    },
  },
  async (body: Body<[Pool, string[], string[]], void>) => {
    const log: string[] = [];
    const pool = new Pool(2);
    const first = spawn(body, pool, log, ["a", "b"]);
    const second = spawn(body, pool, log, ["c", "d"]);
    await first.get();
    await second.get();
    assertEquals(log.slice(0, 4), ["a", "b", "a again", "b again"]);
  },
);

Deno.test("Group.map() over an endless iterable ends when a call fails", async () => {
  let taken = 0;
  const endless = {
    *[Symbol.iterator]() {
      for (;;) yield taken++;
    },
  };
  const error = await spawn(async () => {
    try {
      await new Group().map((n: number) => {
        if (n === 2) throw new Error("two");
      }, endless);
    } catch (error) {
      return (error as Error).message;
    }
  }).get();
  assertEquals(error, "two");
  assert(taken < 10_000, `${taken} items`);
});
