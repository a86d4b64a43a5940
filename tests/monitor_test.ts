import process from "node:process";
import {
  assert,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  GreenletError,
  joinAll,
  monitor,
  type MonitorDetail,
  type MonitorEvent,
  sleep,
  spawn,
  startTrace,
} from "../mod.ts";
import { testBoth } from "./_bodies.ts";

const LONG = 100_000_000;

/** How long the loop is held up, in ms: more than `maxBlocking`, again and again. */
const HOLD = 250;

/**
 * Waits for an event, and keeps it from being printed. What holds up the loop outside greenlets,
 * as the garbage collector may, is left out.
 */
function next(target: EventTarget, type: string): Promise<MonitorDetail> {
  return new Promise((resolve) => {
    // The monitor itself does not keep the event loop alive.
    const alive = setInterval(() => {}, 1000);
    const listener = (event: Event) => {
      event.preventDefault();
      const { detail } = event as MonitorEvent;
      if (type === "blocked" && detail.greenlet === "") return;
      clearInterval(alive);
      target.removeEventListener(type, listener);
      resolve(detail);
    };
    target.addEventListener(type, listener);
  });
}

function compute(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

/** Bodies that compute until `isOver()`, as the thread that watches may take long to start. */
const hogs = {
  async async(isOver: () => boolean) {
    while (!isOver()) {
      await sleep(1);
      compute(HOLD);
    }
  },
  *generator(isOver: () => boolean) {
    while (!isOver()) {
      yield* sleep(1);
      compute(HOLD);
    }
  },
};

testBoth("monitor() names the greenlet that computes", hogs, async (hog) => {
  using watching = monitor({ maxBlocking: 100 });
  const blocked = next(watching, "blocked");
  let isOver = false;
  const start = () => Array.from({ length: 20 }, () => spawn(sleep, 1));
  const others = start();
  const greenlet = spawn(hog, () => isOver);
  greenlet.name = "hog";
  others.push(...start());
  const { greenlet: name, ms, stack } = await blocked;
  isOver = true;
  assertEquals(name, "hog");
  assert(ms >= 100, `${ms} ms`);
  assertEquals(stack, "");
  await joinAll([greenlet, ...others]);
});

testBoth("monitor() names the greenlet that computes when it is killed", {
  async async() {
    try {
      await sleep(LONG);
    } finally {
      compute(HOLD);
    }
  },
  *generator() {
    try {
      yield* sleep(LONG);
    } finally {
      compute(HOLD);
    }
  },
}, async (body) => {
  using watching = monitor({ maxBlocking: 100 });
  let told: MonitorDetail | null = null;
  next(watching, "blocked").then((detail) => told = detail);
  while (told === null) {
    const greenlet = spawn(body);
    greenlet.name = "killed";
    await sleep(1);
    await greenlet.kill();
    await sleep(1);
  }
  assertEquals((told as MonitorDetail).greenlet, "killed");
});

Deno.test("monitor() names the greenlet that computes before its first wait", async () => {
  using watching = monitor({ maxBlocking: 100 });
  let told: MonitorDetail | null = null;
  next(watching, "blocked").then((detail) => told = detail);
  while (told === null) {
    const greenlet = spawn(compute, HOLD);
    greenlet.name = "first";
    await greenlet.join();
    await sleep(1);
  }
  assertEquals((told as MonitorDetail).greenlet, "first");
});

Deno.test("monitor() names a greenlet that has had no name until then", async () => {
  using watching = monitor({ maxBlocking: 100 });
  let told: MonitorDetail | null = null;
  next(watching, "blocked").then((detail) => told = detail);
  let last = spawn(() => {});
  while (told === null) {
    last = spawn(compute, HOLD);
    // Others run behind it, before the event.
    const others = Array.from({ length: 20 }, () => spawn(sleep, 1));
    await joinAll([last, ...others]);
    await sleep(1);
  }
  assertEquals((told as MonitorDetail).greenlet, last.name);
});

Deno.test("monitor() names the greenlet that parses a large text", async () => {
  const text = JSON.stringify(Array.from({ length: 2e5 }, (_, i) => [i]));
  using watching = monitor({ maxBlocking: 100 });
  const blocked = next(watching, "blocked");
  let isOver = false;
  const greenlet = spawn(async () => {
    while (!isOver) {
      await sleep(1);
      const end = performance.now() + 300;
      while (performance.now() < end) JSON.parse(text);
    }
  });
  greenlet.name = "parser";
  assertEquals((await blocked).greenlet, "parser");
  isOver = true;
  await greenlet.join();
});

Deno.test("monitor() tells when the memory is over its limit", async () => {
  using watching = monitor({ maxMemory: 1 });
  const { memory, isOver } = await next(watching, "memory");
  assert(memory > 1);
  assert(isOver);
});

Deno.test("monitor() tells when the memory is well under its limit again", async () => {
  const { memoryUsage } = process;
  using watching = monitor({ maxMemory: 1000 });
  const heard: [number, boolean][] = [];
  watching.addEventListener("memory", (event) => {
    const { memory, isOver } = (event as MonitorEvent).detail;
    heard.push([memory, isOver]);
  });
  const values = [900, 1001, 950, 1001, 899, 950, 1001];
  try {
    process.memoryUsage = (() => ({
      rss: values.length > 1 ? values.shift() : values[0],
    })) as never;
    while (heard.length < 3) await next(watching, "memory");
  } finally {
    process.memoryUsage = memoryUsage;
  }
  assertEquals(heard, [[1001, true], [899, false], [1001, true]]);
});

Deno.test("monitor() refuses options that are none, and a second one", () => {
  for (const maxBlocking of [0, -1, NaN, "x" as never, "100" as never]) {
    assertThrows(() => monitor({ maxBlocking }), Error, "maxBlocking");
  }
  for (const maxMemory of [0, -1, NaN, "1000000" as never]) {
    assertThrows(() => monitor({ maxMemory }), Error, "maxMemory");
  }
  using _ = monitor();
  assertThrows(() => monitor(), GreenletError, "there is one already");
});

Deno.test("monitor() prints from its thread which greenlet never comes back", async () => {
  const code = `import { monitor, sleep, spawn } from "${new URL(
    "../mod.ts",
    import.meta.url,
  )}";
    monitor();
    const greenlet = spawn(async () => { for (;;) { await sleep(300); const end = performance.now() + 60_000; while (performance.now() < end); } });
    greenlet.name = "end\\nless";
    await greenlet.join();`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", code],
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let text = "";
  for await (const part of child.stderr.pipeThrough(new TextDecoderStream())) {
    text += part;
    if (text.includes("\n") && text.includes("still does")) {
      child.kill("SIGKILL");
    }
  }
  await child.status;
  assertStringIncludes(
    text,
    "Greenlet 'end\\u000aless' has held up the event loop for",
  );
});

Deno.test("monitor() finds the hottest stack, and prints what is not prevented", async () => {
  const code = `import { monitor, sleep, spawn } from "${new URL(
    "../mod.ts",
    import.meta.url,
  )}";
    using watching = monitor({ profile: true });
    const told = new Promise((resolve) => watching.addEventListener("blocked", (event) => { if (event.detail.greenlet !== "") resolve(event); }));
    function burn() { const end = performance.now() + 500; while (performance.now() < end); }
    let isOver = false;
    const greenlet = spawn(async () => { while (!isOver) { await sleep(300); burn(); } });
    greenlet.name = "burner";
    console.log((await told).detail.stack);
    isOver = true;`;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", code],
  }).output();
  const decoder = new TextDecoder();
  const printed = decoder.decode(stderr);
  assertStringIncludes(printed, "Greenlet 'burner' has held up the event loop");
  assertStringIncludes(decoder.decode(stdout), "burn (");
  assertStringIncludes(printed, "    at burn (");
  assert(!printed.includes("/_hub/"), printed);
});

Deno.test("monitor() does not keep the process alive", async () => {
  const url = new URL("../mod.ts", import.meta.url);
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", `(await import("${url}")).monitor()`],
  }).output();
  assert(success);
});

Deno.test("monitor() and startTrace() work at the same time, and one goes on when the other ends", async () => {
  using watching = monitor({ maxBlocking: 100 });
  const recording = startTrace();
  const begun = spawn(sleep, 1);
  begun.name = "traced";
  await begun.join();
  const { traceEvents } = recording.stop();
  const names = traceEvents.filter(({ name }) => name === "thread_name");
  assert(names.some(({ args }) => args!.name === "traced"));
  const blocked = next(watching, "blocked");
  let isOver = false;
  const greenlet = spawn(hogs.async, () => isOver);
  greenlet.name = "hog";
  assertEquals((await blocked).greenlet, "hog");
  isOver = true;
  await greenlet.join();
});
