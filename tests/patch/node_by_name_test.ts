/**
 * What a program imports by name from Node's modules before `patch()`: whether an interrupt stops it
 * at once all the same. `docs/patch.md` has the same table.
 */

import { assertEquals, assertInstanceOf } from "@std/assert";
import {
  type ChildProcess,
  exec,
  execFile,
  spawn as spawnChild,
} from "node:child_process";
import { EventEmitter, on, once } from "node:events";
import { watch } from "node:fs/promises";
import { createInterface } from "node:readline";
import { createInterface as createLines } from "node:readline/promises";
import streams, {
  finished as finishedByCallback,
  PassThrough,
  pipeline as pipelineByCallback,
} from "node:stream";
import { text } from "node:stream/consumers";
import { finished, pipeline } from "node:stream/promises";
import { setTimeout as wait } from "node:timers";
import {
  scheduler,
  setInterval as repeat,
  setTimeout as pause,
} from "node:timers/promises";
import { promisify } from "node:util";
import { type Greenlet, GreenletExit, patch, spawn, until } from "../../mod.ts";
import { Failures, settle } from "../_bodies.ts";
import { inVain, test } from "../_random.ts";
import { arrive } from "./_stops.ts";

const LONG = 100_000_000;

/** Promisified before `patch()`. */
const before = {
  finished: promisify(finishedByCallback),
  pipeline: promisify(pipelineByCallback),
  wait: promisify(wait),
};

/** A call, and what lets it end by itself. */
interface Case {
  call(): PromiseLike<unknown>;
  end?(): unknown;
}

type Make = () => Case;

async function drain(items: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of items);
}

function onEmitter(call: (emitter: EventEmitter) => PromiseLike<unknown>) {
  const emitter = new EventEmitter();
  return {
    call: () => call(emitter),
    end: () => {
      if (emitter.listenerCount("event") > 0) emitter.emit("event");
      else emitter.emit("error", new GreenletExit());
    },
  };
}

/** A call that waits for a stream. */
function onStream(
  call: (stream: PassThrough) => PromiseLike<unknown>,
): Case {
  const stream = new PassThrough();
  return {
    call: () => call(stream),
    end: () => stream.resume().end(),
  };
}

/** A call that waits for children; its end is when they have exited. */
function onChildren(
  call: (add: (child: ChildProcess) => ChildProcess) => PromiseLike<unknown>,
): Case {
  const exits: Promise<unknown>[] = [];
  return {
    call: () =>
      call((child) => {
        exits.push(new Promise((resolve) => child.once("exit", resolve)));
        return child;
      }),
    end: () => Promise.all(exits),
  };
}

const forEver = (call: () => PromiseLike<unknown>): Case => ({ call });

/** The calls that stop at once, by how the table names them. */
const reached: Record<string, Make> = {
  "`once` of `node:events`, of an emitter": () =>
    onEmitter((emitter) => once(emitter, "event")),
  "`watch` of `node:fs/promises`": () => forEver(() => drain(watch("."))),
  "`node:timers/promises`": () =>
    forEver(() =>
      Promise.race([pause(LONG), drain(repeat(LONG)), scheduler.wait(LONG)])
    ),
  "`setTimeout` of `node:timers`, promisified before": () =>
    forEver(() => before.wait(LONG)),
  "`exec`, `execFile` of `node:child_process`, promisified or not": () =>
    onChildren((add) => {
      const one = promisify(exec)("sleep 1000");
      const two = promisify(execFile)("sleep", ["1000"]);
      [one.child, two.child].forEach(add);
      const three = new Promise((_, reject) => {
        add(exec("sleep 1000", reject));
      });
      return Promise.race([one, two, three]);
    }),
  "`spawn` of `node:child_process`": () =>
    onChildren((add) => once(add(spawnChild("sleep", ["1000"])), "exit")),
  "loops over streams, and `node:stream/consumers`": () =>
    forEver(() =>
      Promise.race([drain(new PassThrough()), text(new PassThrough())])
    ),
  "`createInterface` of `node:readline` and of `node:readline/promises`": () =>
    forEver(() => {
      const lines = createInterface({ input: new PassThrough() });
      return Promise.race([
        createLines({ input: new PassThrough() }).question("?"),
        promisify(lines.question).call(lines, "?"),
        drain(createInterface({ input: new PassThrough() })),
      ]);
    }),
  "`pipeline`, `finished` of the default export of `node:stream`, promisified":
    () =>
      forEver(() =>
        Promise.race([
          promisify(streams.finished)(new PassThrough()),
          promisify(streams.pipeline)(new PassThrough(), new PassThrough()),
        ])
      ),
};

/** The calls that no layer beneath them reaches. */
const missed: Record<string, Make> = {
  "`once` of `node:events`, of an `EventTarget` or for `error`": () => {
    const target = new EventTarget();
    return {
      call: () => once(target, "event"),
      end: () => target.dispatchEvent(new Event("event")),
    };
  },
  "`on` of `node:events`": () =>
    onEmitter(async (emitter) => {
      for await (const _ of on(emitter, "event")) break;
    }),
  "`pipeline`, `finished` of `node:stream/promises`": () =>
    onStream((stream) =>
      Promise.all([finished(stream), pipeline(stream, new PassThrough())])
    ),
  "`pipeline`, `finished` of `node:stream`, promisified": () =>
    onStream((stream) =>
      Promise.all([
        before.finished(stream),
        before.pipeline(stream, new PassThrough()),
      ])
    ),
};

for (const [name, make] of Object.entries(reached)) {
  test(`${name}, imported by name, stops at once`, async () => {
    using failures = new Failures();
    using _ = patch();
    const { call, end } = make();
    const greenlet = spawn(async () => void await call()) as Greenlet;
    await settle();
    await greenlet.kill(undefined, { grace: Infinity });
    assertInstanceOf(greenlet.value, GreenletExit);
    if (name.includes("child_process")) await end!();
    await arrive();
    assertEquals(failures.errors, []);
  });
}

for (const [name, make] of Object.entries(missed)) {
  test(`${name}, imported by name, stops at once by until() only`, async () => {
    using _ = patch();
    for (const isByUntil of [false, true]) {
      const { call, end } = make();
      const greenlet = spawn(async () => {
        await (isByUntil ? until(call()) : call());
        await until(new Promise(() => {}));
      }) as Greenlet;
      await settle();
      greenlet.kill(undefined, { block: false });
      await arrive();
      assertEquals(greenlet.dead, isByUntil);
      end!();
      await greenlet.join();
      assertInstanceOf(greenlet.value, GreenletExit);
    }
  });
}

test("docs/patch.md names what is reached by name, and what is not", async () => {
  const page = await Deno.readTextFile(
    new URL("../../docs/patch.md", import.meta.url),
  );
  const start = page.indexOf("\n## Imported by name\n");
  const rows = page.slice(start).split("\n## ")[1]!.split("\n")
    .filter((line) => line.startsWith("|")).slice(2)
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
  const wanted = [
    ...Object.keys(reached).map((name) => [name, "at once"]),
    ...Object.keys(missed).map((name) => [name, "use `until` or a signal"]),
  ];
  assertEquals(rows, wanted);
});

test("promisify(readline.question) that is interrupted withdraws its question", async () => {
  using _ = patch();
  const input = new PassThrough();
  const lines = createInterface({ input });
  const ask = () => promisify(lines.question).call(lines, "?");
  await inVain(ask);
  const answer = ask();
  input.write("text\n");
  assertEquals(await answer as unknown, "text");
  const inGreenlet = spawn(ask);
  await settle();
  input.write("more\n");
  assertEquals(await inGreenlet.get() as unknown, "more");
  lines.close();
});
