/**
 * Requests of `node:http2` in greenlets.
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import { once } from "node:events";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import {
  type Greenlet,
  GreenletExit,
  joinAll,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { Failures } from "../_bodies.ts";
import { test, withSeeds } from "../_random.ts";
import { turns } from "../_waits.ts";
import { arrive } from "./_stops.ts";

/** A server whose answers a test sends itself, and a session with it. */
class Peer implements AsyncDisposable {
  readonly #server = http2.createServer();
  readonly #streams: http2.ServerHttp2Stream[] = [];
  #come = Promise.withResolvers<void>();
  url = "";
  session!: http2.ClientHttp2Session;

  async start(): Promise<this> {
    this.#server.on("stream", (stream) => {
      stream.on("error", () => {});
      this.#streams.push(stream);
      this.#come.resolve();
    });
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    const { port } = this.#server.address() as AddressInfo;
    this.url = `http://127.0.0.1:${port}`;
    this.session = http2.connect(this.url);
    await once(this.session, "connect");
    return this;
  }

  /** Waits for the next request. */
  async next(): Promise<http2.ServerHttp2Stream> {
    while (this.#streams.length === 0) {
      await this.#come.promise;
      this.#come = Promise.withResolvers<void>();
    }
    return this.#streams.shift()!;
  }

  /** Answers all requests from now on. */
  echo(): void {
    this.#server.removeAllListeners("stream");
    this.#server.on("stream", (stream, headers) => {
      stream.on("error", () => {});
      stream.respond({ ":status": 200 });
      stream.end(`reply to ${headers[":path"]}`);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.session, "close");
    this.session.destroy();
    await closed;
    await new Promise((resolve) => this.#server.close(resolve));
    await arrive();
  }
}

/** Makes a request, as most code does it. */
function get(
  session: http2.ClientHttp2Session,
  path: string,
): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    session.request({ ":path": path })
      .on("data", (chunk) => text += chunk)
      .on("end", () => resolve(text))
      .on("error", reject)
      .end();
  });
}

/** Makes a request, and iterates over its response. */
async function iterate(
  session: http2.ClientHttp2Session,
  path: string,
): Promise<string> {
  const stream = session.request({ ":path": path });
  let text = "";
  for await (const chunk of stream) text += chunk;
  return text;
}

/** Waits until a stream of the server has ended; gives the code that it was ended with. */
async function codeOf(stream: http2.ServerHttp2Stream): Promise<number> {
  if (!stream.closed) await once(stream, "close");
  return stream.rstCode!;
}

const CALLS = { "data events": get, "for await": iterate };
const CANCEL = http2.constants.NGHTTP2_CANCEL;

for (const [how, call] of Object.entries(CALLS)) {
  for (const phase of ["before the headers", "within the body"]) {
    for (const kind of ["async body", "generator body"]) {
      for (const way of ["killed", "timed out"]) {
        test(`session.request() with ${how} stops at once when its greenlet is ${way} ${phase}, ${kind}`, async () => {
          await using peer = await new Peer().start();
          using failures = new Failures();
          using _ = patch();
          using clock = new TestClock();
          const timeout = new Timeout(1000);
          let cleanedUp = false;
          const run = () => call(peer.session, "/path");
          const greenlet: Greenlet = kind === "async body"
            ? spawn(async () => {
              timeout.start();
              try {
                await run();
              } finally {
                timeout.close();
                cleanedUp = true;
              }
            })
            : spawn(function* () {
              timeout.start();
              try {
                yield* until(run());
              } finally {
                timeout.close();
                cleanedUp = true;
              }
            });
          greenlet.linkException(() => {});
          const stream = await peer.next();
          if (phase === "within the body") {
            stream.respond({ ":status": 200 });
            stream.write("half");
            await arrive();
          }
          assertFalse(greenlet.dead);
          if (way === "killed") {
            await greenlet.kill();
            assertInstanceOf(greenlet.value, GreenletExit);
          } else {
            await clock.advance(1000);
            await greenlet.join();
            assertStrictEquals(greenlet.exception, timeout);
          }
          assert(cleanedUp);
          assertEquals(await codeOf(stream), CANCEL);
          assertFalse(peer.session.destroyed);
          assertEquals(failures.errors, []);
        });
      }
    }
  }
}

test("session.request() is not made by a greenlet that was killed before", async () => {
  await using peer = await new Peer().start();
  using failures = new Failures();
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await promise;
    await get(peer.session, "/");
  });
  await sleep(0);
  greenlet.kill(undefined, { block: false });
  resolve();
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(failures.errors, []);
});

test("a response of session.request() that no code reads is let go of, and belongs to its reader", async () => {
  await using peer = await new Peer().start();
  using failures = new Failures();
  using _ = patch();
  const requests = spawn(async () => {
    const stream = peer.session.request({ ":path": "/" });
    stream.on("error", () => {});
    await once(stream, "response");
    return stream;
  });
  const served = await peer.next();
  served.respond({ ":status": 200 });
  const stream = await requests.get();
  await arrive();
  const reads = spawn(async () => {
    for await (const _ of stream);
  });
  await arrive();
  assertFalse(stream.destroyed);
  assertFalse(reads.dead);
  await reads.kill();
  assertInstanceOf(reads.value, GreenletExit);
  assertEquals(await codeOf(served), CANCEL);
  assertEquals(failures.errors, []);
});

test("session.request() is left alone without the part node, and when patch() is undone", async () => {
  await using peer = await new Peer().start();
  for (const undone of [false, true]) {
    const patched = patch({ node: undone });
    if (undone) patched[Symbol.dispose]();
    const greenlet = spawn(get, peer.session, "/");
    const stream = await peer.next();
    greenlet.kill(undefined, { block: false });
    await arrive();
    assertFalse(greenlet.dead);
    stream.respond({ ":status": 200 });
    stream.end("answer");
    await greenlet.join();
    patched[Symbol.dispose]();
  }
});

test("session.request() belongs to its greenlet until its response was read", async () => {
  await using peer = await new Peer().start();
  peer.echo();
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await get(peer.session, "/");
    resolve();
    await sleep(99_999);
  });
  await promise;
  await sleep(0);
  assertEquals(greenlet.waitsIn, "sleep(99999)");
  await greenlet.kill();
});

test("Greenlet.waitsIn names session.request()", async () => {
  await using peer = await new Peer().start();
  using _ = patch();
  const greenlet = spawn(get, peer.session, "/path");
  await peer.next();
  assertEquals(greenlet.waitsIn, `GET ${peer.url}/path`);
  await greenlet.kill();
});

test("a session is usable after random kills, and no reply is mixed up", async () => {
  await withSeeds(async (next) => {
    await using peer = await new Peer().start();
    peer.echo();
    using failures = new Failures();
    using _ = patch();
    const greenlets = Array.from({ length: 100 }, (_, i) =>
      spawn(async () => {
        const path = `/${i}`;
        assertEquals(await get(peer.session, path), `reply to ${path}`);
      }));
    for (const greenlet of greenlets) {
      await turns(Math.floor(next() * 3));
      if (next() < 0.5) greenlet.kill(undefined, { block: false });
    }
    await joinAll(greenlets);
    assertEquals(failures.errors, []);
    assert(greenlets.every((greenlet) => greenlet.successful()));
    assertEquals(await get(peer.session, "/last"), "reply to /last");
  });
});
