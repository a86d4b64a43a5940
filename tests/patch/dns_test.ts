import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { Buffer } from "node:buffer";
import { createSocket, type RemoteInfo } from "node:dgram";
import {
  type Greenlet,
  GreenletExit,
  joinAll,
  patch,
  sleep,
  spawn,
  until,
  withTimeout,
} from "../../mod.ts";
import { Failures, testBoth } from "../_bodies.ts";
import { inVain, outcome, test, testRandomly, tick } from "../_random.ts";
import { Operations, turns, when } from "../_waits.ts";

const NAME = "greenlet.test.";

/** A name server, which has one answer for whatever it is asked. */
class NameServer implements AsyncDisposable {
  /** How many queries it is to leave unanswered, and for how long it keeps the others. */
  ignored = 0;
  delay = 0;
  queries = 0;
  readonly #socket = createSocket("udp4");
  readonly #timers = new Set<unknown>();

  static async start(): Promise<NameServer> {
    const server = new NameServer();
    const socket = server.#socket;
    socket.on("message", (query, from) => server.#hear(query, from));
    await new Promise<void>((resolve) => {
      socket.bind(0, "127.0.0.1", resolve);
    });
    return server;
  }

  get options(): Deno.ResolveDnsOptions {
    const { port } = this.#socket.address();
    return { nameServer: { ipAddr: "127.0.0.1", port } };
  }

  #hear(query: Buffer, { port, address }: RemoteInfo): void {
    this.queries++;
    if (this.ignored-- > 0) return;
    this.ignored = 0;
    const question = query.subarray(12, query.indexOf(0, 12) + 5);
    const answer = Buffer.concat([
      query.subarray(0, 2),
      // A response, with one question and one answer.
      Buffer.from([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]),
      question,
      // For the name in the question: A, IN, for a minute, 4 bytes.
      Buffer.from([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]),
    ]);
    const timer: unknown = setTimeout(() => {
      this.#timers.delete(timer);
      this.#socket.send(answer, port, address);
    }, this.delay);
    this.#timers.add(timer);
  }

  async asked(): Promise<void> {
    const before = this.queries;
    await when(() => this.queries > before);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer as number);
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()));
  }
}

function outside<T>(run: () => Promise<T>): Promise<T> {
  return run();
}

function inside<T>(run: () => Promise<T>): Promise<T> {
  return spawn(run).get();
}

test("Deno.resolveDns() resolves, inside as outside", async () => {
  await using server = await NameServer.start();
  using _ = patch();
  const resolve = () => Deno.resolveDns(NAME, "A", server.options);
  assertEquals(await resolve(), ["192.0.2.1"]);
  assertEquals(await inside(resolve), ["192.0.2.1"]);
  assertEquals(await withTimeout(10_000, resolve), ["192.0.2.1"]);
  assertEquals(server.queries, 3);
});

testBoth(
  "Deno.resolveDns() is cancelled when it is interrupted",
  {
    async: async (options: Deno.ResolveDnsOptions, log: string[]) => {
      try {
        return await Deno.resolveDns(NAME, "A", options);
      } finally {
        log.push("cleaned up");
      }
    },
    *generator(options: Deno.ResolveDnsOptions, log: string[]) {
      try {
        return yield* until(Deno.resolveDns(NAME, "A", options));
      } finally {
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    await using server = await NameServer.start();
    using _ = patch();
    server.ignored = 100;
    const log: string[] = [];
    const greenlet = spawn(body, server.options, log);
    await server.asked();
    await greenlet.kill();
    assertEquals(log, ["cleaned up"]);
    assertInstanceOf(greenlet.value as unknown, GreenletExit);
    // The sanitizers see that no operation is left.
    const late = await withTimeout(
      5,
      () => Deno.resolveDns(NAME, "A", server.options),
      { value: "late" },
    );
    assertEquals(late as unknown, "late");
  },
);

test("Deno.resolveDns() that is interrupted at once sends no query in vain", async () => {
  await using server = await NameServer.start();
  using _ = patch();
  const resolve = () => Deno.resolveDns(NAME, "A", server.options);
  await inVain(resolve);
  const held = new Error("held");
  const { promise, resolve: goOn } = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await promise;
    const error = await resolve().catch((error) => error);
    return [error, await resolve()];
  });
  await sleep(0);
  greenlet.throw(held);
  goOn();
  assertEquals(await greenlet.get(), [held, ["192.0.2.1"]]);
});

test("Deno.resolveDns() has as much time in a greenlet as outside", async () => {
  await using server = await NameServer.start();
  using operations = new Operations(Deno, "resolveDns");
  using _ = patch();
  // Told of a signal, the runtime asks twice, and each time gives up after a second. Each of
  // the four does, and what they ask after that is answered after more than a second, too.
  server.ignored = 8;
  server.delay = 1100;
  const resolve = () => Deno.resolveDns(NAME, "A", server.options);
  const greenlet = spawn(resolve);
  const victim = spawn(resolve);
  const { signal } = new AbortController();
  const told = [outside, inside].map((wrap) =>
    wrap(() =>
      Deno.resolveDns(NAME, "A", { ...server.options, signal })
        .catch((error) => error)
    )
  );
  for (const error of await Promise.all(told)) {
    assertInstanceOf(error, Deno.errors.TimedOut);
  }
  await when(() => server.queries === 10);
  assertFalse(greenlet.dead);
  assertFalse(victim.dead);
  await victim.kill();
  assertInstanceOf(victim.value as unknown, GreenletExit);
  assertEquals(await greenlet.get(), ["192.0.2.1"]);
  // Queries that could not be cancelled any more have to end, for the sanitizers.
  await operations.over();
});

test("Deno.resolveDns() takes a signal, inside as outside", async () => {
  await using server = await NameServer.start();
  using _ = patch();
  const reason = new Error("stop");
  for (const wrap of [outside, inside]) {
    const resolve = (signal: AbortSignal) =>
      wrap(() =>
        Deno.resolveDns(NAME, "A", { ...server.options, signal })
          .catch((error) => error)
      );
    assertStrictEquals(await resolve(AbortSignal.abort(reason)), reason);
    server.ignored = 100;
    const controller = new AbortController();
    const stopped = resolve(controller.signal);
    await server.asked();
    controller.abort(reason);
    assertStrictEquals(await stopped, reason);
    server.ignored = 0;
    const other = new AbortController();
    assertEquals(await resolve(other.signal), ["192.0.2.1"]);
    other.abort(reason);
  }
  // The first answer wins.
  server.ignored = 100;
  const controller = new AbortController();
  const { signal } = controller;
  const victim = spawn(() =>
    Deno.resolveDns(NAME, "A", { ...server.options, signal })
  );
  await server.asked();
  await victim.kill();
  controller.abort(reason);
  assertInstanceOf(victim.value as unknown, GreenletExit);
});

for (const wrap of [outside, inside]) {
  test(`patch() leaves results and errors of Deno.resolveDns as they are, ${wrap.name} greenlets`, async () => {
    await using server = await NameServer.start();
    const resolve = Deno.resolveDns as (...args: unknown[]) => unknown;
    async function callAll(wrap: typeof outside) {
      const results: unknown[] = [];
      const resolve = Deno.resolveDns as (...args: unknown[]) => unknown;
      for (
        const args of [
          [undefined, "A", server.options],
          [1, "A", server.options],
          [NAME, undefined, server.options],
          [NAME, "pigeon", server.options],
          [NAME, "A", 5],
          [NAME, "A", { nameServer: 5 }],
          [NAME, "A", { nameServer: { ipAddr: "nowhere" } }],
          [NAME, "A", { ...server.options, signal: null }],
          [NAME, "A", { ...server.options, signal: 5 }],
          [NAME, "A", { ...server.options, signal: {} }],
          ["a name that is none", "A", server.options],
          [NAME, "AAAA", server.options],
          [NAME, "TXT", server.options],
        ]
      ) results.push(await wrap(() => outcome(() => resolve(...args))));
      return results;
    }
    const unpatched = await callAll(outside);
    {
      using _ = patch();
      assertEquals(await callAll(wrap), unpatched);
      assertFalse(Deno.resolveDns as unknown === resolve);
      const { name, length } = Deno.resolveDns;
      assertEquals([name, length], [resolve.name, resolve.length]);
    }
    assertStrictEquals(Deno.resolveDns as unknown, resolve);
  });
}

test("patch() disposed of while a name is resolved lets that end", async () => {
  await using server = await NameServer.start();
  server.delay = 10;
  const restore = patch();
  const greenlet = spawn(() => Deno.resolveDns(NAME, "A", server.options));
  const victim = spawn(() => Deno.resolveDns(NAME, "A", server.options));
  await server.asked();
  restore[Symbol.dispose]();
  await victim.kill();
  assertEquals(await greenlet.get(), ["192.0.2.1"]);
});

testRandomly(
  "Deno.resolveDns() leaves nothing behind when hundreds are interrupted",
  async (next) => {
    await using server = await NameServer.start();
    using failures = new Failures();
    using _ = patch();
    let resolved = 0;
    let interrupts = 0;
    const work = async () => {
      for (let i = 0; i < 40; i++) {
        server.delay = next() * 2;
        let isResolved = false;
        const resolve = async () => {
          const result = await Deno.resolveDns(NAME, "A", server.options);
          assertEquals(result, ["192.0.2.1"]);
          isResolved = true;
        };
        const kind = next();
        if (kind < 0.2) {
          await resolve();
        } else if (kind < 0.5) {
          await withTimeout(next() * 2, resolve, { value: undefined });
        } else {
          const greenlet = spawn(resolve) as Greenlet;
          // Some before anything can have come.
          if (kind < 0.7) await sleep(0);
          else await until(turns(Math.floor(next() ** 2 * 200)));
          if (kind > 0.8) await until(tick(next() * 2));
          await greenlet.kill();
          if (greenlet.exception !== undefined) throw greenlet.exception;
        }
        if (isResolved) resolved++;
        else interrupts++;
      }
    };
    await joinAll([1, 2, 3, 4, 5].map(() => spawn(work)), { raiseError: true });
    assertEquals(failures.errors, []);
    assertGreaterOrEqual(interrupts, 20);
    assertGreaterOrEqual(resolved, 15);
    assert(server.queries >= resolved);
    await assertRejects(
      () => withTimeout(0, () => Deno.resolveDns(NAME, "A", server.options)),
    );
  },
);
