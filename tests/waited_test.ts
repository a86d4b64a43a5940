import { clock } from "./_clock.ts";
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  Event,
  formatRunInfo,
  type Greenlet,
  killAll,
  Queue,
  sleep,
  spawn,
  Waiter,
} from "../mod.ts";
import { type Body, settle, testBoth } from "./_bodies.ts";

const never = new Promise<never>(() => {});

/** The line of the run info that names a greenlet. */
function lineOf(name: string): string {
  const lines = formatRunInfo().split("\n");
  return lines.find((line) => line.includes(`"${name}"`))!.replace(/^.*─ /, "");
}

function named(name: string, run: Body<[], unknown>): Greenlet {
  const greenlet: Greenlet = spawn(run);
  greenlet.name = name;
  return greenlet;
}

testBoth(
  "formatRunInfo() tells for how long a greenlet has waited, from a second on",
  {
    async async() {
      await new Event().wait();
    },
    *generator() {
      yield* new Event().wait();
    },
  },
  async (body) => {
    using _ = clock.stop();
    const long = named("long", body);
    await clock.pass(500);
    assertMatch(lineOf("long"), /waits in Event.wait\(\)$/);
    const ticking = spawn(async () => {
      for (;;) await sleep(1000);
    });
    await clock.pass(65_000);
    const short = named("short", body);
    await clock.pass(5_000);
    assertMatch(lineOf("long"), /waits in Event.wait\(\) for up to 70 s$/);
    assertMatch(lineOf("short"), /waits in Event.wait\(\) for up to 5 s$/);
    assertMatch(
      Deno.inspect(short),
      /^<Greenlet "short": \w+> waits in Event.wait\(\) for up to 5 s$/,
    );
    assertEquals(long.waitsIn, "Event.wait()");
    await clock.pass(600_000);
    assertMatch(lineOf("long"), / for up to 11 min$/);
    await clock.pass(36_000_000);
    assertMatch(lineOf("long"), / for up to 10 h$/);
    await killAll([long, short, ticking]);
  },
);

testBoth("formatRunInfo() tells exactly for how long a greenlet has slept", {
  async async() {
    await sleep(100_000);
  },
  *generator() {
    yield* sleep(100_000);
  },
}, async (body) => {
  using _ = clock.stop();
  const sleeper = named("sleeper", body);
  await clock.pass(12_300);
  assertMatch(lineOf("sleeper"), /waits in sleep\(100000\) for 12 s$/);
  await sleeper.kill();
});

Deno.test("formatRunInfo() folds greenlets that have waited for different times, and tells the longest", async () => {
  using _ = clock.stop();
  const event = new Event();
  const parent = named("parent", async () => {
    for (let i = 0; i < 3; i++) {
      spawn(() => event.wait());
      await sleep(10_000);
    }
    await event.wait();
  });
  await clock.pass(40_000);
  assertMatch(
    formatRunInfo(),
    /<Greenlet "Greenlet-\d+"> waits in Event.wait\(\) for up to 40 s × 3$/m,
  );
  event.set();
  await parent.join();
});

Deno.test("formatRunInfo() tells the longest of several waits at once, and nothing of a foreign promise", async () => {
  using _ = clock.stop();
  const several = named("several", async () => {
    await sleep(1);
    const first = new Event().wait();
    await sleep(3000);
    await Promise.all([first, sleep(50_000)]);
  });
  const foreign = named("foreign", () => never);
  await clock.pass(8100);
  assertMatch(
    lineOf("several"),
    /waits in Event.wait\(\) and sleep\(50000\) for up to 8 s$/,
  );
  assertMatch(lineOf("foreign"), /waits in a foreign promise$/);
  foreign.kill(undefined, { block: false, grace: 0 });
  await several.kill();
});

Deno.test("Greenlet.waitsIn is null for a greenlet that was woken in the same turn", async () => {
  const waiter = new Waiter<void>();
  const queue = new Queue<number>();
  const event = new Event();
  const wake: Record<string, () => void> = {
    waiter: () => waiter.switch(),
    queue: () => queue.putNowait(1),
    event: () => event.set(),
  };
  const greenlets = [
    named("waiter", async () => {
      await waiter.get();
      await never;
    }),
    named("queue", async () => {
      await queue.get();
      await never;
    }),
    named("event", async () => {
      await event.wait();
      await never;
    }),
  ];
  await settle();
  for (const greenlet of greenlets) {
    assert(greenlet.waitsIn !== null);
    wake[greenlet.name]!();
    if (greenlet.name !== "event") assertEquals(greenlet.waitsIn, null);
    await settle();
    assertEquals(greenlet.waitsIn, "a foreign promise");
  }
  killAll(greenlets, { grace: 0, block: false });
});
