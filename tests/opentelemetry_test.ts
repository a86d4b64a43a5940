import { assertEquals } from "@std/assert";
import { trace } from "@opentelemetry/api";
import {
  Channel,
  nursery,
  Pool,
  Queue,
  sleep,
  spawn,
  until,
  withTimeout,
} from "../mod.ts";
import { inSpan, spanTree, spawnInSpan } from "../examples/_spans.ts";
import { testBoth } from "./_bodies.ts";

/** The name of the current span. */
function current(): string | undefined {
  return (trace.getActiveSpan() as { name?: string } | undefined)?.name;
}

testBoth(
  "spawn() passes the span of OpenTelemetry on, through every wait, with others beside it",
  {
    async async(queue: Queue<number>, seen: (string | undefined)[]) {
      seen.push(current());
      await sleep(0);
      seen.push(current());
      await queue.get();
      seen.push(current());
      await withTimeout(10_000, () => sleep(1));
      seen.push(current());
      await spawn(() => seen.push(current())).join();
      await until(new Promise((resolve) => setTimeout(resolve, 1)));
      seen.push(current());
    },
    *generator(queue: Queue<number>, seen: (string | undefined)[]) {
      seen.push(current());
      yield* sleep(0);
      seen.push(current());
      yield* queue.get();
      seen.push(current());
      yield* withTimeout(10_000, () => sleep(1));
      seen.push(current());
      yield* spawn(() => seen.push(current())).join();
      yield* until(new Promise((resolve) => setTimeout(resolve, 1)));
      seen.push(current());
    },
  },
  async (body) => {
    const queue = new Queue<number>();
    const names = ["one", "two", "three"];
    const all = names.map((name) =>
      inSpan(name, async () => {
        const seen: (string | undefined)[] = [];
        await spawn(body, queue, seen).get();
        return seen;
      })
    );
    // Woken from code that is in another span, and from code that is in none.
    await inSpan("waker", async () => {
      await sleep(1);
      queue.putNowait(1);
      queue.putNowait(2);
    });
    queue.putNowait(3);
    assertEquals(
      await Promise.all(all),
      names.map((name) => Array(6).fill(name)),
    );
    assertEquals(await spanTree(), "one\nthree\ntwo\nwaker");
  },
);

Deno.test("Pool.map(), nursery() and timers are in the span of OpenTelemetry that has begun them", async () => {
  const channel = new Channel<void>();
  await Promise.all(["one", "two"].map((name) =>
    inSpan(name, async () => {
      await new Pool(1).map(
        (i: number) => inSpan(`item ${i}`, () => sleep(1)),
        [1, 2],
      );
      await nursery((n) => {
        n.spawn(() => inSpan("child", () => channel.put()));
        n.spawn(() => inSpan("other child", () => channel.get()));
      });
      await inSpan("timer", () =>
        new Promise<void>((resolve) =>
          setTimeout(() =>
            void inSpan("callback", () => resolve()), 1)
        ));
    })
  ));
  const below = [
    "  child",
    "  item 1",
    "  item 2",
    "  other child",
    "  timer",
    "    callback",
  ];
  assertEquals((await spanTree()).split("\n"), [
    "one",
    ...below,
    "two",
    ...below,
  ]);
});

Deno.test("A span of OpenTelemetry for a greenlet ends with it, however that ends", async () => {
  await inSpan("parent", async () => {
    const killed = spawnInSpan("killed", sleep, 1e9);
    const failed = spawnInSpan("failed", () => {
      throw new TypeError("boom");
    });
    assertEquals(
      await spawnInSpan("returned", (n: number) => n + 1, 1).get(),
      2,
    );
    await failed.get().catch(() => {});
    await killed.kill();
  });
  assertEquals(
    await spanTree(),
    "parent\n  failed failed: TypeError: boom\n  killed failed: GreenletExit\n  returned",
  );
});

Deno.test("examples/opentelemetry.ts shows each span below its parent", async () => {
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-q",
      "--no-check",
      "-P=otel",
      "--import-map=tests/offline/import_map.json",
      "examples/opentelemetry.ts",
    ],
    cwd: new URL("../", import.meta.url),
    env: { NO_COLOR: "1" },
    stderr: "null",
  }).output();
  assertEquals(code, 0);
  const crawl = [
    "  in a nursery",
    ...[1, 2, 3].flatMap((page) => [`  load /${page}`, "    read"]),
    "  wait for a timer",
    "    timer",
    "  watcher failed: GreenletExit",
  ];
  assertEquals(new TextDecoder().decode(stdout).trimEnd().split("\n"), [
    "crawl one",
    ...crawl,
    "crawl two",
    ...crawl,
    "on its own",
    ...[1, 1, 2, 2, 3, 3].map((page) => `serve /${page}`),
  ]);
});
