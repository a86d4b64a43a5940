import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { GreenletExit, joinAll, spawn, until } from "../mod.ts";
import { runScript, settle as settled } from "./_bodies.ts";

/** What the scripts here share. */
const MEASURE = `
  /** How much memory objects take, when what is garbage was collected. */
  async function heap() {
    for (let i = 0; i < 3; i++) {
      gc();
      await idle();
    }
    return Deno.memoryUsage().heapUsed;
  }

  const bodies = {
    "async body": (wait) => async () => await wait(),
    "generator body": (wait) => function* () {
      return yield* until(wait());
    },
  };

  const interrupts = {
    killed: async (body) => {
      const greenlet = spawn(body);
      await sleep(0);
      await greenlet.kill();
    },
    "timed out": async (body) => {
      await spawn(() => withTimeout(0, body, { value: 1 })).join();
    },
  };

  async function repeat(count, round, atOnce = 50) {
    for (let i = 0; i < count; i += atOnce) {
      await Promise.all(Array.from({ length: atOnce }, round));
    }
  }

  /**
   * How many bytes a round leaves for good: the least of some tries, as code that is
   * compiled meanwhile takes memory as well.
   */
  async function leavings(round, atOnce, rounds) {
    let least = Infinity;
    for (let i = 0; i < 4 && least > MOST; i++) {
      const before = await heap();
      await repeat(rounds, round, atOnce);
      least = Math.min(least, (await heap() - before) / rounds);
    }
    return Math.round(least);
  }

  /** What one round may leave: a reaction alone is 500 bytes. */
  const MOST = 250;

  async function tell(name, round, atOnce = 50, rounds = 500) {
    const left = await leavings(round, atOnce, rounds);
    if (left > MOST) console.log(name, "leaves", left);
  }

  /** Tells of the waits that leave something when they are interrupted. */
  async function measure(waits, atOnce) {
    const rounds = [];
    for (const [name, wait] of Object.entries(waits)) {
      for (const [how, interrupt] of Object.entries(interrupts)) {
        for (const [kind, body] of Object.entries(bodies)) {
          const round = () => interrupt(body(wait));
          rounds.push([[name, how, kind].join(", "), round]);
        }
      }
    }
    // All in one, as to collect garbage takes most of the time.
    const all = async () => {
      for (const [, round] of rounds) await round();
    };
    if (await leavings(all, atOnce, 200) <= MOST) return;
    for (const [name, round] of rounds) await tell(name, round, atOnce);
  }
`;

/** Runs a script that tells of what is left, and checks that nothing is. */
async function leavesNothing(
  script: string,
  flags: string[] = [],
): Promise<void> {
  const { out, err, code } = await runScript(MEASURE + script, () => {}, [
    "--v8-flags=--expose-gc",
    ...flags,
  ]);
  assertEquals([out, err, code], [["done"], "", 0]);
}

Deno.test("until() of a promise that lasts leaves nothing in it when it is interrupted", async () => {
  await leavesNothing(`
    const promise = new Promise(() => {});
    const before = new Promise(() => {});
    class Own extends Promise {}
    const own = new Own(() => {});
    const frozen = Object.freeze(new Promise(() => {}));
    const event = new Event();
    const shared = event.wait();
    const of = { greenlet: null };
    spawn(() => of.wait = event.wait());
    await sleep(0);
    await measure({
      "until()": () => until(promise),
      "until() of two": () => {
        until(before).catch(() => {});
        return until(promise);
      },
      "until() with onInterrupt": () => until(promise, () => {}),
      "until() of an own class": () => until(own),
      "until() of a frozen promise": () => until(frozen),
      "until() of a wait of main": () => until(shared),
      "until() of a wait of another greenlet": () => until(of.wait),
    });
    console.log("done");
    Deno.exit();`);
});

Deno.test("withTimeout() of a function that gives a promise that lasts leaves nothing in it", async () => {
  await leavesNothing(`
    const promise = new Promise(() => {});
    class Own extends Promise {}
    const own = new Own(() => {});
    for (const [name, run] of Object.entries({
      "a promise": () => promise,
      "one of an own class": () => own,
    })) {
      await tell(name, () => withTimeout(0, run, { value: 1 }));
    }
    console.log("done");
    Deno.exit();`);
});

Deno.test("yield* of another greenlet's wait leaves nothing in it when it is interrupted", async () => {
  await leavesNothing(`
    const event = new Event();
    let theirs;
    spawn(() => theirs = event.wait());
    await sleep(0);
    const rounds = {
      killed: async () => {
        const greenlet = spawn(function* () {
          yield* theirs;
        });
        await sleep(0);
        await greenlet.kill();
      },
      "timed out": () =>
        spawn(() => withTimeout(0, function* () {
          yield* theirs;
        }, { value: 1 })).join(),
    };
    for (const [name, round] of Object.entries(rounds)) {
      await tell(name, round);
    }
    console.log("done");
    Deno.exit();`);
});

class Counting<T> extends Promise<T> {
  static asked = 0;

  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    Counting.asked++;
    return super.then(onFulfilled, onRejected);
  }
}

Deno.test("until() asks a promise once, however many wait for it, and tells them in order", async () => {
  let settle!: (value: number) => void;
  const promise = new Counting<number>((resolve) => settle = resolve);
  const other = Promise.withResolvers<number>();
  Counting.asked = 0;
  const told: unknown[] = [];
  const waiting = (name: string) =>
    spawn(async () => told.push([name, await until(promise)]));
  const greenlets = ["a", "b", "c"].map(waiting);
  await settled();
  await greenlets[1]!.kill();
  const fourth = spawn(async () => {
    const value = until(other.promise);
    told.push(["d", await until(promise), await value]);
  });
  await settled();
  assertEquals(Counting.asked, 1);
  settle(1);
  other.resolve(2);
  await joinAll([...greenlets, fourth]);
  assertEquals(told, [["a", 1], ["c", 1], ["d", 1, 2]]);
  // One that has settled is asked once more.
  assertEquals(await until(promise), 1);
  assertEquals(Counting.asked, 2);
});

Deno.test("until() is rejected as its promise is, for all who wait", async () => {
  const { promise, reject } = Promise.withResolvers<never>();
  const error = new Error("no");
  const greenlets = [1, 2, 3].map(() =>
    spawn(async () => await until(promise).catch((error) => error))
  );
  await settled();
  await greenlets[0]!.kill();
  reject(error);
  await joinAll(greenlets);
  assertInstanceOf(greenlets[0]!.value, GreenletExit);
  assertStrictEquals(greenlets[1]!.value, error);
  assertStrictEquals(greenlets[2]!.value, error);
});

Deno.test("until() asks what is no promise each time, as that may begin something", async () => {
  let begun = 0;
  const query = {
    then(resolve: (value: number) => void) {
      resolve(++begun);
    },
  } as PromiseLike<number>;
  assertEquals(await Promise.all([until(query), until(query)]), [1, 2]);
  class Broken extends Promise<number> {
    override then(): never {
      throw new Error("broken");
    }
  }
  const broken: Promise<number> = new Broken(() => {});
  await assertRejects(async () => await until(broken), Error, "broken");
  await assertRejects(async () => await until(broken), Error, "broken");
});

Deno.test("patch() leaves nothing in what objects keep when the wait for it is interrupted", async () => {
  await leavesNothing(
    `
    using _ = patch();
    const child = new Deno.Command("sleep", { args: ["1000"] }).spawn();
    const collected = new Deno.Command("sleep", {
      args: ["1000"],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const piped = new Deno.Command("sleep", { args: ["1000"], stdout: "piped" })
      .spawn();
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      () => new Response(),
    );
    const full = new WritableStream({ write: () => new Promise(() => {}) })
      .getWriter();
    full.write(1);
    const reader = new ReadableStream().getReader();
    const byobReader = new ReadableStream({ type: "bytes" })
      .getReader({ mode: "byob" });
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const conn = await Deno.connect({ port: listener.addr.port });
    const peer = await listener.accept();
    const stream = new WebSocketStream("ws://127.0.0.1:" + listener.addr.port);
    const buffer = new Uint8Array(8);
    await measure({
      "child.status": () => child.status,
      "server.finished": () => server.finished,
      "writer.ready": () => full.ready,
      "writer.closed": () => full.closed,
      "reader.closed": () => reader.closed,
      "byobReader.closed": () => byobReader.closed,
      "reader.read()": () => reader.read(),
      "stream.closed": () => stream.closed,
      "conn.read()": () => conn.read(buffer),
      "listener.accept()": () => listener.accept(),
    });
    await measure({
      "child.output()": () => collected.output(),
      "child.stdout.text()": () => piped.stdout.text(),
    }, 1);
    for (const it of [child, collected, piped]) it.kill("SIGKILL");
    console.log("done");
    Deno.exit();`,
    ["--unstable-net"],
  );
});
