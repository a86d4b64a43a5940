import { assert, assertEquals } from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
} from "../../mod.ts";
import { settle } from "../_bodies.ts";

/** How a loop is left, when it waits for its third item or works on its second. */
const WAYS = ["break", "error", "kill in the body", "kill", "Timeout"] as const;
type Way = (typeof WAYS)[number];

/** A loop over something that takes its time to be closed, until it is told to be. */
class Trial {
  readonly log: string[] = [];
  readonly closing = Promise.withResolvers<void>();
  readonly stuck = Promise.withResolvers<void>();

  /** What is called for the source to be closed. */
  async close(): Promise<void> {
    this.log.push("closing");
    await this.closing.promise;
    this.log.push("closed");
  }

  /** A source of two items, which then waits. */
  source(): UnderlyingDefaultSource<number> {
    let i = 0;
    return {
      pull: async (controller) => {
        if (i < 2) return controller.enqueue(i++);
        await this.stuck.promise;
      },
      cancel: () => this.close(),
    };
  }

  bytes(): UnderlyingByteSource {
    let i = 0;
    return {
      type: "bytes",
      pull: async (controller) => {
        if (i < 2) return controller.enqueue(Uint8Array.of(++i));
        await this.stuck.promise;
      },
      cancel: () => this.close(),
    };
  }
}

const sources: Record<string, (trial: Trial) => AsyncIterable<unknown>> = {
  ReadableStream: (trial) => new ReadableStream(trial.source()),
  "ReadableStream of bytes": (trial) => new ReadableStream(trial.bytes()),
  "ReadableStream.values()": (trial) =>
    new ReadableStream(trial.source()).values(),
  "ReadableStream.from()": (trial) =>
    ReadableStream.from({
      [Symbol.asyncIterator]() {
        let i = 0;
        return {
          async next() {
            if (i === 2) await trial.stuck.promise;
            return { done: false, value: i++ };
          },
          async return() {
            await trial.close();
            return { done: true, value: undefined };
          },
        };
      },
    }),
  "Response.body": (trial) =>
    new Response(new ReadableStream(trial.bytes())).body!,
};

/** Leaves a loop, in a body of either kind; the generator asks by hand. */
const bodies: Record<
  string,
  (items: AsyncIterable<unknown>, way: Way, log: string[]) => Greenlet
> = {
  async: (items, way, log) =>
    spawn(async () => {
      try {
        let i = 0;
        for await (const _ of items) {
          if (++i < 2) continue;
          if (way === "break") break;
          if (way === "error") throw new Error("left");
          if (way === "kill in the body") await sleep(1e8);
        }
      } catch (error) {
        log.push((error as Error).name);
      } finally {
        log.push("over");
      }
    }) as Greenlet,
  generator: (items, way, log) =>
    spawn(function* () {
      const iterator = items[Symbol.asyncIterator]();
      try {
        try {
          yield* until(iterator.next());
          yield* until(iterator.next());
          if (way === "error") throw new Error("left");
          if (way === "kill in the body") yield* sleep(1e8);
          if (way === "kill" || way === "Timeout") {
            yield* until(iterator.next());
          }
        } finally {
          if (way !== "kill" && way !== "Timeout") {
            yield* until(iterator.return!());
          }
        }
      } catch (error) {
        log.push((error as Error).name);
      } finally {
        log.push("over");
      }
    }) as Greenlet,
};

const thrown: Record<Way, string[]> = {
  break: [],
  error: ["Error"],
  "kill in the body": ["GreenletExit"],
  kill: ["GreenletExit"],
  Timeout: ["Timeout"],
};

for (const [name, make] of Object.entries(sources)) {
  for (const way of WAYS) {
    for (const [kind, leave] of Object.entries(bodies)) {
      Deno.test(`${name} has been closed when a loop over it is left by ${way}, ${kind} body`, async () => {
        using _ = patch();
        const trial = new Trial();
        const { log } = trial;
        const greenlet = leave(make(trial), way, log);
        await settle();
        if (way.startsWith("kill")) greenlet.kill(undefined, { block: false });
        if (way === "Timeout") greenlet.throw(new Timeout(1));
        await settle();
        assertEquals(log, ["closing"]);
        trial.closing.resolve();
        await greenlet.join();
        assertEquals(log, ["closing", "closed", ...thrown[way], "over"]);
        trial.stuck.resolve();
        await settle();
      });
    }
  }

  Deno.test(`${name} is closed when an interrupt was due before the loop began to wait`, async () => {
    using _ = patch();
    const trial = new Trial();
    const { log } = trial;
    const goOn = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      try {
        for await (const _ of make(trial)) await goOn.promise;
      } finally {
        log.push("over");
      }
    });
    await settle();
    greenlet.kill(undefined, { block: false });
    goOn.resolve();
    await settle();
    assertEquals(log, ["closing"]);
    trial.closing.resolve();
    await greenlet.join();
    assertEquals(log, ["closing", "closed", "over"]);
    assert(greenlet.value as unknown instanceof GreenletExit);
    trial.stuck.resolve();
    await settle();
  });

  Deno.test(`${name} that is never closed holds up nothing past the grace of a kill`, async () => {
    using _ = patch();
    const trial = new Trial();
    const { log } = trial;
    const greenlet = spawn(async () => {
      try {
        for await (const _ of make(trial));
      } finally {
        log.push("over");
      }
    });
    await settle();
    await greenlet.kill(undefined, { grace: 5 });
    assertEquals(log, ["closing", "over"]);
    trial.closing.resolve();
    trial.stuck.resolve();
    await settle();
  });
}

Deno.test("ReadableStream.tee() has a branch that a kill leaves wait for no other branch", async () => {
  using _ = patch();
  const trial = new Trial();
  const [branch, other] = new ReadableStream(trial.source()).tee();
  const greenlet = spawn(async () => {
    for await (const _ of branch);
  });
  await settle();
  await greenlet.kill(undefined, { grace: 1e8 });
  assertEquals(trial.log, []);
  trial.closing.resolve();
  trial.stuck.resolve();
  await other.cancel();
  await settle();
});

for (const way of ["kill", "Timeout"] as const) {
  for (const [kind, leave] of Object.entries(bodies)) {
    Deno.test(`Deno.readDir() has been closed when a loop over it is left by ${way}, ${kind} body`, async () => {
      const trial = new Trial();
      const { log } = trial;
      const { readDir } = Deno;
      // The runtime's own can't be slowed down.
      try {
        let i = 0;
        Deno.readDir = () => ({
          [Symbol.asyncIterator]: () => ({
            async next() {
              if (i === 2) await trial.stuck.promise;
              return {
                done: false,
                value: { name: `${i++}` } as Deno.DirEntry,
              };
            },
            async return() {
              await trial.close();
              return { done: true, value: undefined };
            },
          }),
        });
        using _ = patch();
        const greenlet = leave(Deno.readDir("."), way, log);
        await settle();
        if (way === "kill") greenlet.kill(undefined, { block: false });
        else greenlet.throw(new Timeout(1));
        await settle();
        assertEquals(log, ["closing"]);
        trial.closing.resolve();
        await greenlet.join();
        assertEquals(log, ["closing", "closed", ...thrown[way], "over"]);
        trial.stuck.resolve();
        await settle();
      } finally {
        Deno.readDir = readDir;
      }
    });
  }
}
