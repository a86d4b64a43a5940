/**
 * Texts about greenlets stay one line each, and no member of a subclass that throws gets into them.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  Event,
  formatRunInfo,
  Greenlet,
  GreenletTree,
  joinAll,
  killAll,
  LoopExit,
  monitor,
  type MonitorEvent,
  Pool,
  select,
  sleep,
  spawn,
  startTrace,
  Trace,
  type TraceEvent,
} from "../mod.ts";
import { newLoopExit } from "../_hub/deadlock.ts";
import { printError } from "../_hub/print.ts";
import { testBoth } from "./_bodies.ts";

/** Ends a line, imitates another, changes colours and the direction, and holds half a character. */
const HOSTILE = "a\nmain\r\u2028b\x1b[31m\x9b2J\x07\u202ec\ud800";
/** What must not be in a line. */
const NOT_PRINTED =
  // deno-lint-ignore no-control-regex -- those are looked for
  /[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]/;

function assertOneLine(text: string | null): void {
  assert(text !== null && text !== "");
  assert(!NOT_PRINTED.test(text), JSON.stringify(text));
}

/** Gives a function a name. */
function named<F>(f: F, name: string): F {
  Object.defineProperty(f, "name", { value: name });
  return f;
}

testBoth(
  "Greenlet.toString() and waitsIn are one line, whatever names are like",
  {
    async: (event: Event) => event.wait(),
    *generator(event: Event) {
      return yield* event.wait();
    },
  },
  async (body) => {
    class Hostile extends Event {}
    class Kind extends Greenlet {}
    named(Hostile, HOSTILE);
    named(Kind, HOSTILE);
    const event = new Hostile();
    const waiting = new Kind(
      named((one: Event) => body(one), HOSTILE) as never,
      event,
    );
    waiting.name = HOSTILE;
    waiting.start();
    const joining = spawn(() => waiting.join());
    const choosing = spawn(() => select([() => waiting, () => event.wait()]));
    const gathering = spawn(() => joinAll([waiting, spawn(sleep, 1)]));
    await sleep(0);
    for (const one of [waiting, joining, choosing, gathering]) {
      assertOneLine(String(one));
      assertOneLine(one.waitsIn);
      assertOneLine(Deno.inspect(one));
    }
    assertEquals(waiting.name, HOSTILE);
    const lines = formatRunInfo().split("\n");
    assertEquals(lines.length, 6);
    lines.forEach(assertOneLine);
    newLoopExit().message.split("\n").forEach(assertOneLine);
    event.set();
    await joinAll([waiting, joining, choosing, gathering]);
  },
);

Deno.test("formatRunInfo() keeps names as they are that terminals print", async () => {
  const greenlet = spawn(sleep, 100_000);
  greenlet.name = "Zoë 👩‍👩‍👧 日本 \\n";
  await sleep(0);
  assert(formatRunInfo().includes('"Zoë 👩‍👩‍👧 日本 \\\\n"'));
  await greenlet.kill();
});

Deno.test("hub.handleError() prints the greenlet and the class of its error in one line", () => {
  const printed: string[] = [];
  const { error } = console;
  console.error = (text: unknown) => printed.push(String(text));
  try {
    const failed = new Error("no");
    failed.name = HOSTILE;
    printError(named(() => {}, HOSTILE), failed);
    printError({ toString: () => HOSTILE }, failed);
  } finally {
    console.error = error;
  }
  assertOneLine(printed[1]!);
  assertOneLine(printed[3]!);
});

/** A greenlet of which no text can be made. */
class Silent extends Greenlet {
  static isSilent = false;

  #say(): string {
    if (Silent.isSilent) throw new Error("refused");
    return "silent";
  }

  override get name(): string {
    return this.#say();
  }

  override get waitsIn(): string | null {
    return this.#say();
  }

  override toString(): string {
    return this.#say();
  }
}

testBoth(
  "formatRunInfo(), startTrace() and waitsIn get on with members that throw",
  {
    async: () => sleep(100_000),
    *generator() {
      yield* sleep(100_000);
    },
  },
  async (body) => {
    const silent = new Silent(body);
    silent.start();
    const pool = new Pool();
    const waits = [
      spawn(() => silent.join()),
      spawn(() => silent.get()),
      spawn(() => select({ silent: () => silent })),
      spawn(() => killAll([silent], { block: true, grace: Infinity })),
      await pool.spawn(() => joinAll([silent])),
    ];
    Silent.isSilent = true;
    const recording = startTrace();
    try {
      await sleep(0);
      for (const one of waits) assert(one.dead || one.waitsIn !== null);
      assert(formatRunInfo().split("\n").length >= 2);
      assert(GreenletTree.forest().length > 0);
      assert(newLoopExit() instanceof LoopExit);
      await joinAll([silent, ...waits]);
    } finally {
      Silent.isSilent = false;
    }
    const { traceEvents } = recording.stop();
    assert(traceEvents.some(({ name }) => name === "ended"));
  },
);

Deno.test("TraceRecording.stop() names what can't be named", async () => {
  const recording = startTrace();
  const silent = new Silent(() => {});
  silent.start();
  await silent.join();
  Silent.isSilent = true;
  try {
    const tracks = recording.stop().traceEvents
      .filter(({ name }) => name === "thread_name")
      .map(({ args }) => args!.name);
    assertEquals(tracks, ["main", "a greenlet that can't be shown"]);
  } finally {
    Silent.isSilent = false;
  }
});

testBoth("startTrace() marks a greenlet that has thrown undefined as failed", {
  async async(): Promise<never> {
    await sleep(0);
    throw undefined;
  },
  *generator(): Generator<unknown, never> {
    yield* sleep(0);
    throw undefined;
  },
}, async (body) => {
  const recording = startTrace();
  await spawn(body).get().catch(() => {});
  const [mark] = recording.stop().traceEvents.filter(({ ph }) => ph === "i");
  assertEquals([mark?.name, mark?.args], ["failed", { error: "undefined" }]);
});

Deno.test("The errors of wrong arguments show the value, its kind, and not all of it", () => {
  for (
    const [wrong, shown] of [
      [[5], "[5]"],
      [["a", [1], 2n], '["a", […], 2n]'],
      [[1, 2, 3, 4, 5], "[1, 2, 3, …]"],
      [[], "[]"],
      [new Int16Array(1), "[object Int16Array]"],
      [new Uint8Array(100_000), "[object Uint8Array]"],
      [
        HOSTILE,
        '"a\\nmain\\r\\u2028b\\u001b[31m\\u009b2J\\u0007\\u202ec\\ud800"',
      ],
      ["x".repeat(5000), `"${"x".repeat(1000)}…"`],
    ] as const
  ) {
    const { message } = assertThrows(() => sleep(wrong as never), TypeError);
    assertEquals(message.split(": received ")[1], shown);
  }
});

Deno.test("new Trace() refuses what is no array of events", () => {
  const revoked = Proxy.revocable([], {});
  revoked.revoke();
  for (const wrong of [undefined, null, "x", {}, 5, revoked.proxy]) {
    assertThrows(
      () => new Trace(wrong as never),
      TypeError,
      "Cannot make trace as 'traceEvents' must be an array: received",
    );
  }
  assertThrows(
    () => new Trace([{} as TraceEvent, null as never]),
    TypeError,
    "Cannot make trace as 'traceEvents[1]' must be an object: received null",
  );
});

Deno.test("monitor() prints a name in one line, and cuts no character in two", async () => {
  const printed: string[] = [];
  const names: string[] = [];
  const { error } = console;
  console.error = (text: unknown) => printed.push(String(text));
  try {
    using watching = monitor({ maxBlocking: 20 });
    watching.addEventListener("blocked", (event) => {
      names.push((event as MonitorEvent).detail.greenlet);
    });
    // The thread that watches may take long to start.
    while (!names.some((name) => name !== "")) {
      const greenlet = spawn(() => {
        const end = performance.now() + 60;
        while (performance.now() < end);
      });
      greenlet.name = HOSTILE + "x".repeat(119 - HOSTILE.length) + "👍";
      await greenlet.join();
      await sleep(1);
    }
  } finally {
    console.error = error;
  }
  for (const line of printed) assertOneLine(line);
  const name = names.find((name) => name !== "")!;
  assertEquals(name.length, 120);
  assert(name.startsWith("a\n") && name.isWellFormed());
});
