/**
 * Requests of `node:http` in greenlets, as code makes them that knows nothing of greenlets.
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertStringIncludes,
} from "@std/assert";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";
import { type Duplex, PassThrough } from "node:stream";
import { setImmediate } from "node:timers";
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
import { TestClock } from "../../testing.ts";
import { Failures, testBoth } from "../_bodies.ts";
import { test, withSeeds } from "../_random.ts";
import { turns } from "../_waits.ts";
import { type Call, head, Site } from "./_site.ts";
import { arrive, testStops } from "./_stops.ts";

/** Makes a request, as most code does it. */
function get(url: string, options: http.RequestOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    http.get(url, options, (response) => {
      let text = "";
      response.on("data", (chunk) => text += chunk);
      response.on("end", () => resolve(text));
    }).on("error", reject);
  });
}

/** Makes a request, and gives the response. */
function begin(url: string): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    http.get(url, resolve).on("error", reject);
  });
}

async function readAll(response: AsyncIterable<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of response) text += new TextDecoder().decode(chunk);
  return text;
}

testStops("http.get() with data events", (url) => get(url));

testStops("http.get() without an agent", (url) => get(url, { agent: false }));

testStops(
  "http.get() in whose handler the response is iterated over",
  (url) =>
    new Promise((resolve, reject) => {
      http.get(url, (response) => readAll(response).then(resolve, reject))
        .on("error", reject);
    }),
);

testStops(
  "http.get() whose response is read later",
  async (url) => await readAll(await begin(url)),
);

testStops("http.get() whose response is piped", async (url) => {
  const through = new PassThrough();
  await pipeline(await begin(url), through, readAll as never);
});

testStops(
  "http.request() that sends a body",
  (url) =>
    new Promise((resolve, reject) => {
      const request = http.request(url, { method: "POST" }, (response) => {
        response.on("data", () => {});
        response.on("end", resolve);
        response.on("error", reject);
      });
      request.on("error", reject);
      request.end("body");
    }),
);

/** A request that never gets a connection, as no answer to its look-up of the host comes. */
function neverConnected(): Promise<string> {
  return get("http://never.test/", {
    agent: false,
    lookup: () => {},
  });
}

/** The ways in which a greenlet is interrupted that waits for a connection. */
for (
  const [way, interrupt] of Object.entries({
    "is killed": (greenlet: Greenlet) => greenlet.kill(),
    "is killed without grace": (greenlet: Greenlet) =>
      greenlet.kill(undefined, { grace: 0 }),
  })
) {
  testBoth(
    `http.get() stops at once when its greenlet ${way} before the connection`,
    {
      async: async (cleanUp: () => void) => {
        try {
          await neverConnected();
        } finally {
          cleanUp();
        }
      },
      *generator(cleanUp: () => void) {
        try {
          yield* until(neverConnected());
        } finally {
          cleanUp();
        }
      },
    },
    async (body) => {
      using failures = new Failures();
      using _ = patch();
      let cleanedUp = false;
      const greenlet: Greenlet = spawn(body, () => cleanedUp = true);
      await sleep(0);
      await interrupt(greenlet);
      assert(cleanedUp);
      assertInstanceOf(greenlet.value, GreenletExit);
      assertEquals(failures.errors, []);
      await arrive();
    },
  );
}

test("http.get() throws an interrupt that is held, and makes no request", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  const gate = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await gate.promise;
    await get(site.url);
  });
  await sleep(0);
  greenlet.kill(undefined, { block: false });
  await arrive();
  assertFalse(greenlet.dead);
  gate.resolve();
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(failures.errors, []);
  await arrive();
});

test("http.get() in the clean-up of a killed greenlet gets its response", async () => {
  using site = new Site();
  using _ = patch();
  const greenlet = spawn(async () => {
    try {
      await get(site.url);
    } finally {
      assertEquals(await get(site.url), "bye");
    }
  });
  const first = await site.next();
  greenlet.kill(undefined, { block: false });
  await (await site.next()).answer("bye");
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  await first.gone();
});

test("http.get() in clean-up stops when the grace of the kill is over", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  using clock = new TestClock();
  const greenlet = spawn(async () => {
    try {
      await get(site.url);
    } finally {
      await get(site.url);
    }
  });
  const first = await site.next();
  greenlet.kill(undefined, { block: false, grace: 50 });
  const second = await site.next();
  await arrive();
  assertFalse(greenlet.dead);
  await clock.advance(50);
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  await first.gone();
  await second.gone();
  assertEquals(failures.errors, []);
});

test("http.get() in a loop that swallows its kill is left suspended for good", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  let tries = 0;
  const greenlet = spawn(async () => {
    for (;;) {
      try {
        tries++;
        await get(site.url);
      } catch {
        // Tries again
      }
    }
  });
  const call = await site.next();
  await greenlet.kill(undefined, { grace: 0 });
  await call.gone();
  assert(greenlet.dead);
  assertStringIncludes(String(failures.errors[0]), "swallowed its kill");
  await arrive();
  const before = tries;
  await arrive();
  assertEquals(tries, before);
});

test("two requests of a greenlet are both ended by its kill", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  const greenlet = spawn(() => Promise.all([get(site.url), get(site.url)]));
  const calls = [await site.next(), await site.next()];
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  for (const call of calls) await call.gone();
  assertEquals(failures.errors, []);
});

test("http.get() that no code awaits is no unhandled rejection when its greenlet is killed", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  const greenlet = spawn(async () => {
    get(site.url);
    await sleep(100_000_000);
  });
  const call = await site.next();
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  await call.gone();
  await arrive();
  assertEquals(failures.errors, []);
});

test("http.get() without a listener for errors does not end the process when its greenlet is killed", async () => {
  using site = new Site();
  using _ = patch();
  const greenlet = spawn(async () => {
    http.get(site.url);
    await sleep(100_000_000);
  });
  const call = await site.next();
  await greenlet.kill();
  await call.gone();
  await arrive();
});

test("http.get() of one greenlet that another awaits fails there as a failure", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  let shared!: Promise<string>;
  const owner = spawn(() => shared = get(site.url));
  await sleep(0);
  const other = spawn(async () => {
    await shared;
  });
  const call = await site.next();
  await owner.kill();
  await other.join();
  await call.gone();
  assertInstanceOf(owner.value, GreenletExit);
  assertFalse(other.successful());
  assertStringIncludes(String(other.exception), "shared with");
  assertEquals(failures.errors, [other.exception]);
});

test("http.get() of one greenlet is not ended by a kill of another that awaits it", async () => {
  using site = new Site();
  using _ = patch();
  let shared!: Promise<string>;
  const owner = spawn(() => shared = get(site.url));
  await sleep(0);
  const other = spawn(async () => {
    await until(shared);
  });
  const call = await site.next();
  await other.kill();
  await call.answer("answer");
  assertEquals(await owner.get(), "answer");
});

test("http.get() outlives a greenlet that ends by itself", async () => {
  using site = new Site();
  using _ = patch();
  let left!: Promise<string>;
  const greenlet = spawn(() => {
    left = get(site.url);
  });
  await greenlet.join();
  const call = await site.next();
  await greenlet.kill();
  await call.answer("answer");
  assertEquals(await left, "answer");
});

test("http.get() lets go of its greenlet when its response has ended", async () => {
  using site = new Site();
  using _ = patch();
  const gate = Promise.withResolvers<void>();
  const seen: unknown[] = [];
  const greenlet = spawn(async () => {
    seen.push(await get(site.url));
    await gate.promise;
    await sleep(0).catch((error) => seen.push(error.name));
  });
  await (await site.next()).answer("answer");
  await arrive();
  greenlet.kill(undefined, { block: false });
  gate.resolve();
  await greenlet.join();
  assertEquals(seen, ["answer", "GreenletExit"]);
});

test("http.IncomingMessage that no code reads lets go of its greenlet", async () => {
  using site = new Site();
  using _ = patch();
  const seen: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  let response!: http.IncomingMessage;
  const greenlet = spawn(async () => {
    response = await begin(site.url);
    await gate.promise;
    await sleep(0).catch((error) => seen.push(error.name));
  });
  const call = await site.next();
  await call.send(head(4));
  await arrive();
  greenlet.kill(undefined, { block: false });
  gate.resolve();
  await greenlet.join();
  assertEquals(seen, ["GreenletExit"]);
  await call.send("text");
  assertEquals(await readAll(response), "text");
});

test("http.IncomingMessage belongs to the greenlet that reads it", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  const response = spawn(() => begin(site.url));
  const call = await site.next();
  await call.send(head(100) + "half");
  const reader = spawn(async () => {
    await readAll(await response.get());
  });
  await arrive();
  assertFalse(reader.dead);
  await reader.kill();
  assertInstanceOf(reader.value, GreenletExit);
  await call.gone();
  assertEquals(failures.errors, []);
});

test("http.get() that follows a redirect in its handler is ended by a kill", async () => {
  using site = new Site();
  using failures = new Failures();
  using _ = patch();
  const follow = (url: string): Promise<string> =>
    new Promise((resolve, reject) => {
      http.get(url, (response) => {
        response.resume();
        follow(new URL(response.headers.location!, url).href)
          .then(resolve, reject);
      }).on("error", reject);
    });
  const greenlet = spawn(follow, site.url);
  const first = await site.next();
  await first.answer("", `location: ${site.url}next`);
  const second = await site.next();
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  await second.gone();
  assertEquals(failures.errors, []);
});

test("an upgraded connection does not belong to the greenlet that has asked for it", async () => {
  using site = new Site();
  using _ = patch();
  const upgraded = Promise.withResolvers<Duplex>();
  const greenlet = spawn(async () => {
    http.get(site.url, { headers: { connection: "upgrade", upgrade: "echo" } })
      .on("upgrade", (_, socket) => upgraded.resolve(socket))
      .on("error", upgraded.reject);
    await sleep(100_000_000);
  });
  const call = await site.next();
  await call.send(
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
  );
  const socket = await upgraded.promise;
  await greenlet.kill();
  const told = new Promise((resolve) => socket.once("data", resolve));
  await call.send("hello");
  assertEquals(String(await told), "hello");
  socket.destroy();
  await call.gone();
});

test("withTimeout() ends a request of its function, and none from before it", async () => {
  using site = new Site();
  using _ = patch();
  using clock = new TestClock();
  const greenlet = spawn(async () => {
    const before = get(site.url);
    const late = await withTimeout(10, () => get(`${site.url}late`), {
      value: "late",
    });
    return [late, await before];
  });
  const calls = [await site.next(), await site.next()];
  const isLate = (call: Call) => call.received.startsWith("GET /late");
  await clock.advance(10);
  await calls.find(isLate)!.gone();
  await calls.find((call) => !isLate(call))!.answer("answer");
  assertEquals(await greenlet.get(), ["late", "answer"]);
});

test("http.get() is left alone without the part node, and when patch() is undone", async () => {
  using site = new Site();
  for (const undone of [false, true]) {
    const patched = patch({ node: undone });
    if (undone) patched[Symbol.dispose]();
    const greenlet = spawn(get, site.url);
    const call = await site.next();
    greenlet.kill(undefined, { block: false });
    await arrive();
    assertFalse(greenlet.dead);
    await call.answer("answer");
    await greenlet.join();
    patched[Symbol.dispose]();
  }
});

test("http.get() that ends without a connection emits its last events once", async () => {
  using failures = new Failures();
  using _ = patch();
  using site = new Site();
  const agent = new http.Agent({ maxSockets: 1 });
  const log: string[] = [];
  const ended: Promise<void>[] = [];
  async function call(name: string, before: Promise<void> | null) {
    if (before !== null) await before;
    const options = before === null ? { agent } : {};
    const request = http.get(site.url, options);
    for (const event of ["error", "close"]) {
      request.on(event, () => log.push(`${name}: ${event}`));
    }
    ended.push(new Promise((resolve) => request.on("close", resolve)));
    await until(new Promise(() => {}));
  }
  const gate = Promise.withResolvers<void>();
  const greenlets = [
    spawn(call, "connecting", null),
    spawn(call, "in the queue", null),
    spawn(call, "killed before", gate.promise),
  ];
  await turns(1);
  for (const greenlet of greenlets) greenlet.kill(undefined, { block: false });
  gate.resolve();
  await joinAll(greenlets);
  await Promise.all(ended);
  // Connections that the agent has begun to open come later.
  await arrive();
  assertEquals(log.toSorted(), [
    "connecting: close",
    "connecting: error",
    "in the queue: close",
    "in the queue: error",
    "killed before: close",
    "killed before: error",
  ]);
  agent.destroy();
  assertEquals(failures.errors, []);
});

test("http.Agent is usable after random kills, and no reply is mixed up", async () => {
  const server = http.createServer((request, response) => {
    const answer = () => response.end(`reply to ${request.url}`);
    if (request.url!.length % 2 === 0) setImmediate(answer);
    else answer();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  await withSeeds(async (next) => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
    {
      using failures = new Failures();
      using _ = patch();
      const greenlets = Array.from(
        { length: 300 },
        (_, i) =>
          spawn(async () => {
            const path = `/${i}`;
            assertEquals(await get(url + path, { agent }), `reply to ${path}`);
          }),
      );
      for (const greenlet of greenlets) {
        await turns(Math.floor(next() * 3));
        if (next() < 0.5) greenlet.kill(undefined, { block: false });
      }
      await joinAll(greenlets);
      assertEquals(failures.errors, []);
      assert(greenlets.every((greenlet) => greenlet.successful()));
    }
    assertEquals(await get(`${url}/last`, { agent }), "reply to /last");
    agent.destroy();
  });
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});
