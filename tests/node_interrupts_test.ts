/**
 * Modules of Node and packages in greenlets that are interrupted: uploads, several children, loops
 * over what a request gives, and packages that try again.
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import childProcess from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import http2 from "node:http2";
import net, { type AddressInfo } from "node:net";
import readline from "node:readline";
import stream from "node:stream";
import timersPromises from "node:timers/promises";
import { Agent, request as ask, RetryAgent } from "undici";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../mod.ts";
import { TestClock } from "../testing.ts";
import { Failures } from "./_bodies.ts";
import { test } from "./_random.ts";
import { type Call, head, Site } from "./patch/_site.ts";
import { arrive } from "./patch/_stops.ts";
import { atOnce } from "./_waits.ts";

const CANCEL = http2.constants.NGHTTP2_CANCEL;

/** How a greenlet is interrupted during a call, and how it has to end. */
const ways: Record<
  string,
  (greenlet: Greenlet, timeout: Timeout, clock: TestClock) => Promise<void>
> = {
  async killed(greenlet) {
    await atOnce(greenlet.kill(), "The end of the greenlet");
    assertInstanceOf(greenlet.value, GreenletExit);
  },
  async "timed out"(greenlet, timeout, clock) {
    await clock.advance(1000);
    await atOnce(greenlet.join(), "The end of the greenlet");
    assertStrictEquals(greenlet.exception, timeout);
  },
};

/** Starts a greenlet that makes a call, which takes no longer than a second. */
function begin(
  call: () => PromiseLike<unknown>,
  timeout: Timeout,
  kind: string = "async body",
): Greenlet {
  const greenlet: Greenlet = kind === "async body"
    ? spawn(async () => {
      timeout.start();
      try {
        await call();
      } finally {
        timeout.close();
      }
    })
    : spawn(function* () {
      timeout.start();
      try {
        yield* until(call());
      } finally {
        timeout.close();
      }
    });
  // The test takes the error
  greenlet.linkException(() => {});
  return greenlet;
}

const KINDS = ["async body", "generator body"];

// Uploads

const block = new Uint8Array(1 << 20);

/** Sends without end what the server does not read. */
const uploads: Record<
  string,
  (request: http2.ClientHttp2Stream) => Promise<unknown>
> = {
  async "write() and its callback"(request) {
    for (;;) {
      await new Promise<void>((resolve, reject) => {
        request.write(block, (error) => error ? reject(error) : resolve());
      });
    }
  },
  "pipeline()"(request) {
    const source = new stream.Readable({
      read() {
        this.push(block);
      },
    });
    return stream.promises.pipeline(source, request);
  },
};

for (const [how, upload] of Object.entries(uploads)) {
  for (const [way, interrupt] of Object.entries(ways)) {
    for (const kind of KINDS) {
      test(`session.request() that sends by ${how} is reset at the server when its greenlet is ${way}, ${kind}`, async () => {
        const server = http2.createServer();
        const arrived = Promise.withResolvers<http2.ServerHttp2Stream>();
        server.on("stream", (served) => {
          served.on("error", () => {});
          arrived.resolve(served);
        });
        server.listen(0, "127.0.0.1");
        await once(server, "listening");
        const { port } = server.address() as AddressInfo;
        const session = http2.connect(`http://127.0.0.1:${port}`);
        await once(session, "connect");
        {
          using failures = new Failures();
          using _ = patch();
          using clock = new TestClock();
          const timeout = new Timeout(1000);
          const call = () => {
            const request = session.request({ ":method": "POST" });
            request.on("error", () => {});
            return upload(request);
          };
          const greenlet = begin(call, timeout, kind);
          const served = await arrived.promise;
          const closed = once(served, "close");
          await arrive();
          await interrupt(greenlet, timeout, clock);
          await closed;
          assertEquals(served.rstCode, CANCEL);
          assert(!session.destroyed);
          assertEquals(failures.errors, []);
        }
        const over = once(session, "close");
        session.destroy();
        await over;
        await new Promise((resolve) => server.close(resolve));
        await arrive();
      });
    }
  }
}

// Children

for (const [way, interrupt] of Object.entries(ways)) {
  for (const kind of KINDS) {
    // A generator body waits in a call of the library: by design, a Timeout spares its children
    if (way === "timed out" && kind === "generator body") continue;
    test(`two children of spawn() that a greenlet waits for are both ended when it is ${way}, ${kind}`, async () => {
      using failures = new Failures();
      using _ = patch();
      using clock = new TestClock();
      const timeout = new Timeout(1000);
      const ends: Promise<unknown>[] = [];
      const begun = Promise.withResolvers<void>();
      const greenlet = begin(
        () => {
          const children = [0, 1].map(() =>
            childProcess.spawn("sleep", ["1000"])
          );
          for (const child of children) {
            ends.push(new Promise((resolve) => child.once("exit", resolve)));
          }
          begun.resolve();
          return Promise.all(
            children.map((child) =>
              new Promise((resolve, reject) => {
                child.on("close", resolve).on("error", reject);
              })
            ),
          );
        },
        timeout,
        kind,
      );
      await begun.promise;
      await interrupt(greenlet, timeout, clock);
      await atOnce(Promise.all(ends), "The end of the children");
      await arrive();
      assertEquals(failures.errors, []);
    });
  }
}

// Loops over what a request gives

for (const [way, interrupt] of Object.entries(ways)) {
  for (const kind of KINDS) {
    test(`a loop over the lines of a response does not end the process when its greenlet is ${way}, ${kind}`, async () => {
      using site = new Site();
      using failures = new Failures();
      using _ = patch();
      using clock = new TestClock();
      const timeout = new Timeout(1000);
      const greenlet = begin(
        async () => {
          const response = await new Promise<http.IncomingMessage>(
            (resolve, reject) => {
              http.get(site.url, resolve).on("error", reject);
            },
          );
          for await (const _ of readline.createInterface({ input: response }));
        },
        timeout,
        kind,
      );
      const call = await site.next();
      await call.send(head(100) + "line\n");
      await arrive();
      await interrupt(greenlet, timeout, clock);
      await call.gone();
      await arrive();
      assertEquals(failures.errors, []);
    });
  }
}

/** Reads a stream that waits for its generator. */
const reads: Record<string, (source: stream.Readable) => Promise<unknown>> = {
  async "a loop"(source) {
    for await (const _ of source);
  },
  "pipeline()": (source) =>
    stream.promises.pipeline(
      source,
      new stream.PassThrough({ objectMode: true }),
    ),
};

for (const [how, read] of Object.entries(reads)) {
  for (const [way, interrupt] of Object.entries(ways)) {
    for (const kind of KINDS) {
      test(`Readable.from() a generator ends the generator's wait when the greenlet of ${how} is ${way}, ${kind}`, async () => {
        using failures = new Failures();
        using _ = patch();
        using clock = new TestClock();
        const timeout = new Timeout(1000);
        const waits = Promise.withResolvers<void>();
        const ended = Promise.withResolvers<unknown>();
        async function* generate() {
          let caught: unknown;
          try {
            yield 1;
            waits.resolve();
            await new Promise((resolve) => setTimeout(resolve, 99_999));
          } catch (error) {
            caught = error;
          } finally {
            await sleep(0);
            ended.resolve(caught);
          }
        }
        const greenlet = begin(
          () => read(stream.Readable.from(generate())),
          timeout,
          kind,
        );
        await waits.promise;
        await interrupt(greenlet, timeout, clock);
        await clock.advance(1);
        assertStrictEquals(
          await atOnce(ended.promise, "The end of the generator"),
          greenlet.exception ?? greenlet.value,
        );
        assertEquals(failures.errors, []);
      });
    }
  }
}

test("Readable.from() in a greenlet leaves to a generator what it does when its loop is left", async () => {
  const run = async () => {
    const log: unknown[] = [];
    async function* generate() {
      try {
        yield* [1, 2, 3];
      } finally {
        await new Promise((resolve) => setTimeout(resolve, 1));
        log.push("finally");
      }
    }
    const streams = [0, 1, 2].map(() => stream.Readable.from(generate()));
    for await (const item of streams[0]!) {
      log.push(item);
      break;
    }
    log.push(await streams[1]!.toArray());
    const error = new Error("failed");
    const closed = once(streams[2]!.on("error", () => {}), "close");
    streams[2]!.read();
    streams[2]!.destroy(error);
    await closed.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 5));
    return log;
  };
  const plain = await run();
  using _ = patch();
  assertEquals(await run(), plain);
  assertEquals(await spawn(run).get(), plain);
});

test("setImmediate() of the default export of node:timers/promises ends with its greenlet, and is restored", async () => {
  const { setImmediate } = timersPromises;
  const seen = Object.getOwnPropertyDescriptors(timersPromises);
  for (let round = 0; round < 2; round++) {
    using _ = patch();
    let turns = 0;
    const greenlet = spawn(async () => {
      for (;;) {
        turns++;
        await timersPromises.setImmediate();
      }
    });
    await sleep(0);
    await greenlet.kill();
    assert(turns > 0);
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(timersPromises.setImmediate.name, setImmediate.name);
    assertEquals(timersPromises.setImmediate.length, setImmediate.length);
  }
  assertEquals(Object.getOwnPropertyDescriptors(timersPromises), seen);
});

// Packages that try again

/** Makes a request, and makes it again in a timer when it fails. As axios-retry does. */
async function getAgain(url: string, left: number): Promise<unknown> {
  try {
    return await new Promise((resolve, reject) => {
      http.get(url, resolve).on("error", reject);
    });
  } catch (error) {
    if (left === 0) throw error;
    return await new Promise((resolve) => {
      setTimeout(() => resolve(getAgain(url, left - 1)), 1);
    });
  }
}

test("Greenlet.kill() ends requests that a package makes in timers after it, when the grace is over", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  using clock = new TestClock();
  const greenlet = begin(() => getAgain(site.url, 3), new Timeout(99_999));
  const first = await site.next();
  greenlet.kill(undefined, { block: false, grace: 1000 });
  await first.gone();
  await arrive();
  await clock.advance(1);
  const second = await site.next();
  await clock.advance(1000);
  await atOnce(second.gone(), "The end of the second request");
  for (let i = 0; i < 1000 && !greenlet.dead; i++) {
    await clock.advance(1);
    await arrive();
  }
  assert(greenlet.dead);
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(failures.errors, []);
});

test("Greenlet.kill() leaves timers of a greenlet alone that were set before it", async () => {
  using site = new Site();
  using _ = patch();
  let answer!: Promise<string>;
  const greenlet = spawn(async () => {
    answer = new Promise((resolve, reject) => {
      setTimeout(() => {
        http.get(site.url, (response) => {
          response.resume().on("end", () => resolve("answered"));
        }).on("error", reject);
      }, 1);
    });
    await until(new Promise(() => {}));
  });
  await sleep(0);
  await greenlet.kill();
  const call = await site.next();
  await call.send(head(0));
  assertEquals(await answer, "answered");
  await arrive();
});

/** Without time limits, whose timers undici leaves running. */
const LIMITS = { headersTimeout: 0, bodyTimeout: 0, connect: { timeout: 0 } };

test("Greenlet.kill() of a request of undici's RetryAgent ends it, and no request follows", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  const agent = new RetryAgent(new Agent(LIMITS), {
    minTimeout: 1,
    timeoutFactor: 1,
  });
  const greenlet = spawn(() => ask(site.url, { dispatcher: agent }));
  const call = await site.next();
  // It tries again until the grace is over, if nothing ends that.
  await withTimeout(20_000, () => greenlet.kill(undefined, { grace: 1e9 }));
  assertInstanceOf(greenlet.value, GreenletExit);
  await call.gone();
  await agent.destroy();
  assertEquals(failures.errors, []);
  await arrive();
});

/** A response on a connection that is kept. */
const KEPT = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/** Receives until so many requests have come by a connection. */
async function receive(call: Call, count: number): Promise<void> {
  while (call.received.split("\r\n\r\n").length <= count) {
    assert(await call.receive(), "The connection is closed");
  }
}

for (
  const [name, reach] of Object.entries({
    "that waits for a connection": async (call: Call, next: () => Greenlet) => {
      const greenlet = next();
      await arrive();
      const kill = greenlet.kill();
      await call.send(KEPT);
      await kill;
    },
    "that gets a used connection": async (call: Call, next: () => Greenlet) => {
      await call.send(KEPT);
      await arrive();
      const greenlet = next();
      await sleep(0);
      await greenlet.kill();
    },
  })
) {
  test(`Greenlet.kill() of a request ${name} of http.Agent leaves that to the next one`, async () => {
    using site = new Site();
    using failures = new Failures();
    using _ = patch();
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const get = () =>
      spawn(() =>
        new Promise<string>((resolve, reject) => {
          http.get(site.url, { agent }, (response) => {
            response.resume().on("end", () => resolve("done"));
          }).on("error", reject);
        })
      );
    const first = get();
    const call = await site.next();
    await reach(call, get);
    assertEquals(await first.get(), "done");
    const last = get();
    await receive(call, 2);
    await call.send(KEPT);
    assertEquals(await last.get(), "done");
    agent.destroy();
    await call.gone();
    assertEquals(failures.errors, []);
  });
}

test("http.get() in a listener of a request that cleans up has the grace", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  /** Makes two requests one after the other, the second one in a listener. */
  const getTwice = () =>
    new Promise((resolve, reject) => {
      http.get(site.url, (first) => {
        first.resume().on("end", () => {
          http.get(site.url, (second) => {
            second.resume().on("end", () => resolve("done"));
          }).on("error", reject);
        });
      }).on("error", reject);
    });
  let cleanedUp: unknown;
  const greenlet = spawn(async () => {
    try {
      await getTwice();
    } finally {
      cleanedUp = await getTwice();
    }
  });
  await site.next();
  const killed = greenlet.kill(undefined, { grace: Infinity });
  for (let i = 0; i < 2; i++) {
    const call = await site.next();
    await call.send(head(0));
  }
  await killed;
  assertEquals(cleanedUp, "done");
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(failures.errors, []);
  await arrive();
});

// Pools of raw sockets

/** Clients share one socket. The one that comes first opens it. As a pool of a database does. */
class SharedSocket {
  #socket: net.Socket | null = null;
  readonly #waiting: ((line: string) => void)[] = [];

  constructor(readonly port: number) {}

  ask(question: string): Promise<string> {
    this.#socket ??= this.#connect();
    this.#socket.write(`${question}\n`);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #connect(): net.Socket {
    const socket = net.connect(this.port, "127.0.0.1");
    let text = "";
    socket.on("data", (data) => {
      const lines = (text + data).split("\n");
      text = lines.pop()!;
      for (const line of lines) this.#waiting.shift()!(line);
    });
    return socket;
  }

  async close(): Promise<void> {
    this.#socket!.destroy();
    await once(this.#socket!, "close");
  }
}

for (const end of ["killed", "timed out"]) {
  test(`net.Socket of a pool survives that the greenlet that has opened it is ${end}`, async () => {
    const questions: string[] = [];
    const held = Promise.withResolvers<net.Socket>();
    const server = net.createServer((socket) => {
      socket.on("data", (data) => {
        questions.push(...String(data).split("\n").filter(Boolean));
        held.resolve(socket);
      });
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    using failures = new Failures();
    using _ = patch();
    using clock = new TestClock();
    const pool = new SharedSocket((server.address() as AddressInfo).port);
    const timeout = new Timeout(1000);
    const opener = begin(() => until(pool.ask("first")), timeout);
    const peer = await held.promise;
    await ways[end]!(opener, timeout, clock);
    const other = spawn(() => pool.ask("second"));
    while (questions.length < 2) await arrive();
    peer.write("reply to first\nreply to second\n");
    assertEquals(await other.get(), "reply to second");
    assertEquals(questions, ["first", "second"]);
    assertEquals(failures.errors, []);
    const gone = once(peer, "close");
    await pool.close();
    await gone;
    await new Promise((resolve) => server.close(resolve));
    await arrive();
  });
}
