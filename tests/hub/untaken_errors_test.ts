import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { Group, Pool, sleep, spawn, Timeout } from "../../mod.ts";
import {
  type Bodies,
  Failures,
  runScript,
  settle,
  testBoth,
} from "../_bodies.ts";

/** Errors that calls have ended by. */
let ended: string[] = [];

function fail(item: number): never {
  ended.push(`failed ${item}`);
  throw new Error(`failed ${item}`);
}

/** Fails with an error for each item. */
const failing: Bodies<[number], never> = {
  // deno-lint-ignore require-await -- a body that fails is all that is wanted
  async async(item) {
    fail(item);
  },
  // deno-lint-ignore require-yield -- as above
  *generator(item) {
    fail(item);
  },
};

const items = [1, 2, 3];

/** The errors that were reported to the hub. */
function told(failures: Failures): string[] {
  return failures.errors.map((error) => (error as Error).message).toSorted();
}

/**
 * The errors of the calls without the one that was thrown; some calls may have been killed
 * before.
 */
function untaken(...thrown: string[]): string[] {
  for (const error of thrown) assert(ended.includes(error));
  return ended.filter((error) => !thrown.includes(error)).toSorted();
}

for (
  const [name, make] of [["Group", () => new Group()], [
    "Pool",
    () => new Pool(3),
  ]] as const
) {
  testBoth(
    `${name}.map() throws one error, and reports the errors of other calls to the hub`,
    failing,
    async (body) => {
      ended = [];
      using failures = new Failures();
      await assertRejects(() => make().map(body, items), Error, "failed 1");
      await settle();
      assertEquals(told(failures), untaken("failed 1"));
    },
  );

  for (const how of ["imap", "imapUnordered"] as const) {
    testBoth(
      `${name}.${how}() whose loop ends by one error reports the others to the hub`,
      failing,
      async (body) => {
        ended = [];
        using failures = new Failures();
        await assertRejects(
          async () => {
            for await (const _ of make()[how](body, items));
          },
          Error,
          "failed 1",
        );
        await settle();
        assertEquals(told(failures), untaken("failed 1"));
      },
    );

    testBoth(
      `${name}.${how}() whose next() is called reports the errors that no next() throws to the hub`,
      failing,
      async (body) => {
        ended = [];
        using failures = new Failures();
        const results = make()[how](body, items);
        await assertRejects(() => results.next(), Error, "failed 1");
        await settle();
        assertEquals(told(failures), []);
        await results.return();
        await settle();
        assertEquals(told(failures), untaken("failed 1"));
      },
    );

    testBoth(
      `${name}.${how}() whose errors are all thrown by next() reports none to the hub`,
      failing,
      async (body) => {
        ended = [];
        using failures = new Failures();
        const results = make()[how](body, items);
        for (const item of items) {
          await settle();
          await assertRejects(
            () => results.next(),
            Error,
            `failed ${item}`,
          );
        }
        assertEquals((await results.next()).done, true);
        await settle();
        assertEquals(told(failures), []);
      },
    );

    testBoth(
      `${name}.${how}() without a next() reports its errors to the hub when its greenlet is dead`,
      failing,
      async (body) => {
        ended = [];
        using failures = new Failures();
        const goOn = Promise.withResolvers<void>();
        const maker = spawn(async () => {
          make()[how](body, items);
          await goOn.promise;
        });
        await settle();
        assertEquals(told(failures), []);
        goOn.resolve();
        await maker.join();
        await settle();
        assertEquals(told(failures), untaken());
      },
    );

    testBoth(
      `${name}.${how}() whose greenlet is dead reports later errors to the hub`,
      failing,
      async (body) => {
        ended = [];
        using failures = new Failures();
        await spawn(() => void make()[how](body, items)).join();
        await settle();
        assertEquals(told(failures), untaken());
      },
    );

    testBoth(
      `${name}.${how}() whose next() another greenlet calls when its own is dead throws there`,
      failing,
      async (body) => {
        ended = [];
        using failures = new Failures();
        let made: AsyncIterableIterator<never>;
        await spawn(() => {
          made = make()[how](body, items) as AsyncIterableIterator<never>;
          made[Symbol.asyncIterator]();
        }).join();
        await settle();
        await assertRejects(() => made.next(), Error, "failed 1");
        await settle();
        assertEquals(told(failures), untaken("failed 1"));
      },
    );
  }

  testBoth(
    `${name}.map() that an interrupt ends reports the errors of its calls to the hub`,
    {
      async async(item: number) {
        try {
          await sleep(1e8);
        } finally {
          await failing.async(item);
        }
      },
      *generator(item: number) {
        try {
          yield* sleep(1e8);
        } finally {
          yield* failing.generator(item);
        }
      },
    },
    async (body) => {
      ended = [];
      using failures = new Failures();
      const caller = spawn(() => make().map(body, items));
      await settle();
      await caller.kill(new Timeout());
      await settle();
      const [timeout, ...rest] = failures.errors.toReversed();
      assertEquals(timeout, caller.exception);
      assertEquals(rest.length, ended.length);
      assertEquals(ended.length, 3);
    },
  );
}

Deno.test("Pool.imap() of main without a next() reports its errors to the hub when the process ends", async () => {
  const { out, err, code } = await runScript(`
    new Pool(2).imap(() => { throw new Error("failed"); }, [1, 2]);
    await idle();
    console.log("end");
  `);
  assertEquals([out, code], [["end"], 0]);
  assertStringIncludes(err, "Error: failed");
  assertEquals(err.split("Error: failed").length, 3);
});
