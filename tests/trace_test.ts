import {
  assert,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { findBrowser, inBrowser } from "./_browser.ts";
import { getTrace, Greenlet as CoreGreenlet, setTrace } from "../greenlet.ts";
import {
  Event,
  getHub,
  type Greenlet,
  greenlet as core,
  joinAll,
  Lock,
  patch,
  Pool,
  Queue,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  startTrace,
  Trace,
  type TraceEvent,
} from "../mod.ts";

const PHASES = ["X", "M", "s", "f", "C", "i"];

/** Checks the rules of Chrome's format, and those of Perfetto. */
function checkEvents(trace: Trace): void {
  const text = JSON.stringify(trace);
  const { traceEvents } = JSON.parse(text) as { traceEvents: TraceEvent[] };
  assertEquals(Object.keys(JSON.parse(text)), ["traceEvents"]);
  let last = 0;
  const arrows = new Map<number, TraceEvent[]>();
  const ends = new Map<number, number>();
  const slices = traceEvents.filter(({ ph }) => ph === "X");
  const named = new Set<number>();
  for (const event of traceEvents) {
    const { name, ph, ts, pid, tid } = event;
    assertEquals(typeof name, "string");
    assert(PHASES.includes(ph), ph);
    assert(Number.isFinite(ts) && ts >= last, `${ts} after ${last}`);
    last = ts;
    assertEquals(pid, 1);
    assert(Number.isInteger(tid) && tid >= 1);
    if (ph === "M") {
      if (name === "thread_name") named.add(tid);
      if (name !== "thread_sort_index") {
        assertEquals(typeof event.args!.name, "string");
      }
    } else if (ph === "X") {
      assert(event.dur! >= 0);
      // To a nanosecond, slices of a track do not overlap.
      assert(ts > (ends.get(tid) ?? 0) - 0.0015, `${name} overlaps at ${ts}`);
      ends.set(tid, ts + event.dur!);
    } else if (ph === "C") {
      const { greenlets } = event.args!;
      assert(Number.isInteger(greenlets) && greenlets as number >= 0);
    } else if (ph === "s" || ph === "f") {
      const both = arrows.get(event.id!) ?? [];
      arrows.set(event.id!, [...both, event]);
    } else {
      assertEquals(event.s, "t");
    }
  }
  for (const { tid } of traceEvents) assert(named.has(tid), `track ${tid}`);
  for (const both of arrows.values()) {
    assertEquals(both.map(({ ph }) => ph).toSorted(), ["f", "s"]);
    const begin = both.find(({ ph }) => ph === "s")!;
    const end = both.find(({ ph }) => ph === "f")!;
    assertEquals([begin.name, begin.cat], [end.name, end.cat]);
    assert(begin.ts <= end.ts);
    assertEquals(end.bp, "e");
    assert(
      slices.some(({ ts, tid, name }) =>
        tid === end.tid && ts === end.ts && name === "running"
      ),
      "an arrow ends where a body goes on",
    );
  }
}

/** The track of a greenlet. */
function tidOf({ traceEvents }: Trace, name: string): number {
  const found = traceEvents.filter((it) =>
    it.name === "thread_name" && it.args!.name === name
  );
  assertEquals(found.length, 1, `tracks of ${name}`);
  return found[0]!.tid;
}

/** The slices and the end of a track, in order. */
function track(trace: Trace, name: string): string[] {
  const tid = tidOf(trace, name);
  return trace.traceEvents
    .filter((it) => it.tid === tid && (it.ph === "X" || it.ph === "i"))
    .map((it) => it.args?.in === undefined ? it.name : `in ${it.args.in}`);
}

/** The names of the tracks that arrows of one kind lead from and to. */
function arrows(trace: Trace, kind: string): string[] {
  const names = new Map(
    trace.traceEvents.filter(({ name }) => name === "thread_name")
      .map(({ tid, args }) => [tid, args!.name]),
  );
  const all = trace.traceEvents.filter(({ name }) => name === kind);
  return all.filter(({ ph }) => ph === "f").map(({ id, tid }) => {
    const from = all.find((it) => it.ph === "s" && it.id === id)!;
    return `${names.get(from.tid)} -> ${names.get(tid)}`;
  });
}

function named<T>(greenlet: Greenlet<T>, name: string): Greenlet<T> {
  greenlet.name = name;
  return greenlet;
}

const BODIES = {
  async: async (queue: Queue<number>) => {
    const nested = async () => await queue.get();
    await nested();
    await sleep(1);
  },
  generator: function* (queue: Queue<number>) {
    yield* queue.get();
    yield* sleep(1);
  },
};

for (const [kind, body] of Object.entries(BODIES)) {
  Deno.test(`startTrace() records the slices of a greenlet, with what it waits in (${kind})`, async () => {
    const recording = startTrace();
    const queue = new Queue<number>();
    const taker = named(
      spawn(body as (queue: Queue<number>) => Promise<void>, queue),
      "taker",
    );
    const putter = named(
      spawn(async () => {
        await sleep(1);
        await queue.put(1);
      }),
      "putter",
    );
    await joinAll([taker, putter]);
    const trace = recording.stop();
    checkEvents(trace);
    assertEquals(track(trace, "taker"), [
      "ready",
      "running",
      "in Queue.get()",
      "ready",
      "running",
      "in sleep(1)",
      "ready",
      "running",
      "ended",
    ]);
    assertEquals(arrows(trace, "wake-up").slice(0, 2), [
      "main -> putter",
      "putter -> taker",
    ]);
  });

  Deno.test(`startTrace() tells kills, errors and results apart (${kind})`, async () => {
    const recording = startTrace();
    const queue = new Queue<number>();
    const killed = named(
      spawn(body as (queue: Queue<number>) => Promise<void>, queue),
      "killed",
    );
    const failed = named(
      spawn(
        kind === "async"
          ? async () => {
            await sleep(0);
            throw new RangeError("too far");
          }
          : function* () {
            yield* sleep(0);
            throw new RangeError("too far");
          } as never,
      ),
      "failed",
    );
    const never = named(spawn(() => {}), "never");
    never.kill(undefined, { block: false });
    await sleep(1);
    await killed.kill();
    await failed.get().catch(() => {});
    const trace = recording.stop();
    checkEvents(trace);
    assertEquals(track(trace, "killed").at(-1), "killed");
    assertEquals(track(trace, "failed").at(-1), "failed");
    assertEquals(track(trace, "never"), ["ready", "killed"]);
    const end = trace.traceEvents.find(({ name }) => name === "failed");
    assertEquals(end!.args, { error: "RangeError: too far" });
  });
}

Deno.test("startTrace() draws an arrow for each spawn, from the greenlet that has spawned", async () => {
  const recording = startTrace();
  const outer = spawn(async () => {
    const inner = named(spawn(() => named(spawn(() => {}), "leaf")), "inner");
    await (await inner.get()).join();
  });
  outer.name = "outer";
  await outer.join();
  const raw = spawnRaw(() => sleep(1));
  const later = named(spawnLater(1, () => {}), "later");
  await later.join();
  await sleep(1);
  const trace = recording.stop();
  checkEvents(trace);
  assertEquals(arrows(trace, "spawn"), [
    "main -> outer",
    "outer -> inner",
    "inner -> leaf",
    `main -> ${raw}`,
    "main -> later",
  ]);
});

Deno.test("startTrace() counts the greenlets that are alive and those that are ready", async () => {
  const recording = startTrace();
  const event = new Event();
  const all = Array.from({ length: 10 }, () => spawn(() => event.wait()));
  await sleep(1);
  event.set();
  await joinAll(all);
  const trace = recording.stop();
  checkEvents(trace);
  const counts = (counter: string) =>
    trace.traceEvents.filter(({ name }) => name === counter)
      .map(({ args }) => args!.greenlets as number);
  assertEquals(Math.max(...counts("alive")), 10);
  assertEquals(counts("alive").at(-1), 0);
  assertEquals(Math.max(...counts("run queue")), 10);
  assertEquals(counts("run queue").at(-1), 0);
});

Deno.test("startTrace() gives tracks to greenlets that exist already", async () => {
  const lock = new Lock();
  const owner = spawn(async () => {
    await lock.acquire();
    await sleep(100_000);
  });
  owner.name = "owner";
  const waiter = named(spawn(() => lock.acquire()), "waiter");
  await sleep(1);
  const starting = named(spawn(() => {}), "starting");
  const recording = startTrace();
  await starting.join();
  const trace = recording.stop();
  checkEvents(trace);
  assertEquals(track(trace, "owner"), ["in sleep(100000)"]);
  assertEquals(track(trace, "waiter").length, 1);
  assertStringIncludes(track(trace, "waiter")[0]!, "Lock.acquire()");
  assertEquals(track(trace, "starting"), ["ready", "running", "ended"]);
  assertEquals(
    trace.traceEvents.filter(({ args }) => args?.unfinished).length,
    3,
  );
  await owner.kill();
  await waiter.kill();
});

Deno.test("startTrace() records a greenlet that starts it, and calls of its own", async () => {
  const greenlet = spawn(async () => {
    const recording = startTrace();
    await sleep(1);
    return recording.stop();
  });
  greenlet.name = "self";
  const trace = await greenlet.get();
  checkEvents(trace);
  assertEquals(track(trace, "self"), [
    "running",
    "in sleep(1)",
    "ready",
    "running",
  ]);
});

Deno.test("startTrace() records pools, and what foreign promises and patched I/O do", async () => {
  const recording = startTrace();
  const pool = new Pool(2);
  await pool.map(async (ms: number) => await sleep(ms), [1, 1, 1, 1]);
  const foreign = named(
    spawn(async () => {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }),
    "foreign",
  );
  await foreign.join();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  {
    using _patched = patch();
    const reader = named(
      spawn(async () => {
        using conn = await Deno.connect({
          hostname: "127.0.0.1",
          port: (listener.addr as Deno.NetAddr).port,
        });
        await conn.read(new Uint8Array(8));
      }),
      "reader",
    );
    const conn = await listener.accept();
    await conn.write(new Uint8Array(8));
    await reader.join();
    conn.close();
  }
  const trace = recording.stop();
  checkEvents(trace);
  assertEquals(track(trace, "foreign").slice(0, 3), [
    "ready",
    "running",
    "in a foreign promise",
  ]);
  assertEquals(track(trace, "foreign").at(-1), "ended");
  const waits = track(trace, "reader").filter((it) => it.startsWith("in "));
  assert(waits.length >= 2, waits.join());
  const sleeps = trace.traceEvents.filter(({ args }) =>
    args?.in === "sleep(1)"
  );
  assertEquals(sleeps.length, 4);
});

Deno.test("startTrace() sees a wait that a body begins after a foreign promise", async () => {
  const recording = startTrace();
  const gate = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await gate.promise;
    await sleep(2);
  });
  greenlet.name = "mixed";
  await sleep(1);
  gate.resolve();
  await greenlet.join();
  const trace = recording.stop();
  checkEvents(trace);
  assertEquals(track(trace, "mixed"), [
    "ready",
    "running",
    "in a foreign promise",
    "in sleep(2)",
    "ready",
    "running",
    "ended",
  ]);
});

Deno.test("startTrace() records greenlets of the core, which switch by themselves", () => {
  const recording = startTrace();
  const two = new CoreGreenlet(function* () {
    yield* core.getCurrent().parent!.switch();
  });
  two.switch();
  two.switch();
  assert(two.dead);
  const trace = recording.stop();
  checkEvents(trace);
  assertEquals(track(trace, String(two)), [
    "running",
    "in a switch to another greenlet",
    "running",
    "ended",
  ]);
});

Deno.test("startTrace() refuses a second trace, and allows one after the stop", () => {
  const first = startTrace();
  assertThrows(
    startTrace,
    core.GreenletError,
    "Cannot start trace as another one is being recorded: call its stop() first",
  );
  first.stop();
  startTrace().stop();
});

Deno.test("TraceRecording.stop() gives the same trace when it is called twice", async () => {
  const recording = startTrace();
  const trace = recording.stop();
  await spawn(sleep, 0).join();
  assertEquals(recording.stop(), trace);
  assert(recording.stop() === trace);
  {
    using _other = startTrace();
  }
  startTrace().stop();
});

Deno.test("TraceRecording.stop() uses the names that greenlets have then", async () => {
  const recording = startTrace();
  const greenlet = named(spawn(() => {}), "first");
  await greenlet.join();
  greenlet.name = "second";
  tidOf(recording.stop(), "second");
});

Deno.test("startTrace() calls the callback of setTrace() as before, and puts it back", async () => {
  let calls = 0;
  const callback = () => void calls++;
  const before = setTrace(callback);
  try {
    const recording = startTrace();
    await spawn(function* () {
      yield* sleep(0);
    }).join();
    recording.stop();
    assert(calls >= 2);
    assert(getTrace() === callback);
    const other = startTrace();
    setTrace(null);
    other.stop();
    assertEquals(getTrace(), null);
  } finally {
    setTrace(before);
  }
});

Deno.test("startTrace() leaves an error that nothing takes as it is", async () => {
  const hub = getHub();
  const told: unknown[] = [];
  const handler = hub.handleError;
  hub.handleError = (_context, error) => void told.push(error);
  try {
    const recording = startTrace();
    const error = new Error("untaken");
    const greenlet = spawn(async () => {
      await sleep(0);
      throw error;
    });
    await greenlet.join();
    await sleep(1);
    recording.stop();
    assertEquals(told, [error]);
  } finally {
    hub.handleError = handler;
  }
});

Deno.test("Trace.toHtml() gives a page that loads nothing, whatever names are like", async () => {
  const recording = startTrace();
  const greenlet = named(spawn(() => {}), "</script><!-- <b>&amp;");
  await greenlet.join();
  const page = recording.stop().toHtml();
  assertEquals(page.match(/<\/script>/g)!.length, 2);
  assert(!/(?:src|href)="(?!data:,)/.test(page));
  assert(!/https?:/.test(page));
  const data = /<script id="events"[^>]*>(.*?)<\/script>/s.exec(page)![1]!;
  tidOf(new Trace(JSON.parse(data)), "</script><!-- <b>&amp;");
});

Deno.test("Trace.toHtml() shows 1,000 greenlets in a browser, and the details of a slice at a click", async () => {
  const browser = findBrowser();
  if (browser === null) {
    console.warn("Skipped: Chromium is not installed");
    return;
  }
  const recording = startTrace();
  const all = Array.from(
    { length: 1000 },
    (_, i) => named(spawn(sleep, 20), `worker ${i}`),
  );
  await joinAll(all);
  const page = await Deno.makeTempFile({ suffix: ".html" });
  await Deno.writeTextFile(page, recording.stop().toHtml());
  const complaints = await inBrowser(
    browser,
    `file://${page}`,
    async (send) => {
      const evaluate = async (expression: string) => {
        const reply = await send("Runtime.evaluate", {
          expression,
          returnByValue: true,
          awaitPromise: true,
        });
        assertEquals(reply.exceptionDetails, undefined);
        return reply.result.value;
      };
      const frame =
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))";
      const text = (id: string) =>
        evaluate(`document.getElementById("${id}").textContent`);
      assertStringIncludes(await text("summary"), "1001 of 1001 tracks");
      // One canvas, and no element for each row.
      assert(await evaluate("document.querySelectorAll('*').length") < 40);
      await evaluate(
        `const box = document.getElementById("search"); box.value = "WORKER 999"; box.dispatchEvent(new Event("input")); ${frame}`,
      );
      assertStringIncludes(await text("summary"), "1 of 1001 tracks");
      // In the middle of the only row, which waits nearly all the time.
      const [x, y] = JSON.parse(
        await evaluate(
          `(() => { const slice = rows[0].slices.find((it) => it.name === "waiting"); const at = canvas.getBoundingClientRect(); return JSON.stringify([at.x + xOf(slice.ts + slice.dur / 2), at.y + 31]); })()`,
        ),
      );
      const press = async () => {
        for (const type of ["mousePressed", "mouseReleased"]) {
          await send("Input.dispatchMouseEvent", {
            type,
            x,
            y,
            button: "left",
            clickCount: 1,
          });
        }
      };
      await press();
      const details = await text("details");
      assertStringIncludes(details, "worker 999: waiting");
      assertStringIncludes(details, "sleep(20)");
      const before = await evaluate("span");
      await send("Input.dispatchMouseEvent", {
        type: "mouseWheel",
        x,
        y,
        deltaX: 0,
        deltaY: -500,
      });
      await evaluate(frame);
      assert(await evaluate("span") < before);
      const colorIn = async (value: string) => {
        await send("Emulation.setEmulatedMedia", {
          features: [{ name: "prefers-color-scheme", value }],
        });
        await evaluate(frame);
        return await evaluate(
          "getComputedStyle(document.body).backgroundColor",
        );
      };
      assertEquals(await colorIn("light"), "rgb(255, 255, 255)");
      assertEquals(await colorIn("dark"), "rgb(22, 25, 29)");
      // The canvas is drawn in the colours of the page.
      assert(await evaluate("pen.getImageData(2, 200, 1, 1).data[0]") < 60);
      const shot = Deno.env.get("GEVENT_SCREENSHOT");
      if (shot !== undefined) {
        const { data } = await send("Page.captureScreenshot");
        await Deno.writeFile(shot, Uint8Array.fromBase64(data));
      }
    },
  );
  await Deno.remove(page);
  assertEquals(complaints, []);
});
