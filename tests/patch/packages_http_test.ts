/**
 * Clients from npm that are built on `node:http`, and undici, unmodified: they stop at once
 * when their greenlet is interrupted.
 */

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import axios from "axios";
import got from "got";
import ky from "ky";
import nodeFetch from "node-fetch";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { Writable } from "node:stream";
import superagent from "superagent";
import { Agent, fetch, pipeline, request, stream } from "undici";
import {
  GreenletExit,
  joinAll,
  patch,
  sleep,
  spawn,
  withSignal,
} from "../../mod.ts";
import { Failures } from "../_bodies.ts";
import { test, withSeeds } from "../_random.ts";
import { turns } from "../_waits.ts";
import { KILLS } from "../packages/_kills.ts";
import { arrive, type Attempt, testStops } from "./_stops.ts";

testStops("axios.get()", (url) => axios.get(url));

testStops("axios.post()", (url) => axios.post(url, { a: 1 }));

testStops("axios.get() of a stream", async (url) => {
  const { data } = await axios.get(url, { responseType: "stream" });
  for await (const _ of data);
});

testStops("got()", (url) => got(url));

testStops("got().json()", (url) => got(url).json());

testStops("got.stream()", async (url) => {
  for await (const _ of got.stream(url));
});

/** Without time limits, whose timers undici leaves running. */
const LIMITS = {
  headersTimeout: 0,
  bodyTimeout: 0,
  connect: { timeout: 0 },
};

/** Calls a function of undici with a dispatcher of its own, and closes that. */
function withAgent(
  run: (url: string, dispatcher: Agent) => PromiseLike<unknown>,
): Attempt {
  return async (url) => {
    const agent = new Agent(LIMITS);
    try {
      return await run(url, agent);
    } finally {
      agent.destroy();
    }
  };
}

/** Takes what it is written. */
function sink(): Writable {
  return new Writable({
    write(_chunk, _encoding, done) {
      done();
    },
  });
}

testStops(
  "request() of undici",
  withAgent(async (url, dispatcher) => {
    const { body } = await request(url, { dispatcher });
    return await body.text();
  }),
);

testStops(
  "fetch() of undici",
  withAgent(async (url, dispatcher) =>
    await (await fetch(url, { dispatcher })).text()
  ),
);

testStops(
  "stream() of undici",
  withAgent((url, dispatcher) =>
    stream(url, { dispatcher, method: "GET" }, sink)
  ),
);

testStops(
  "pipeline() of undici",
  withAgent(async (url, dispatcher) => {
    const duplex = pipeline(
      url,
      { dispatcher, method: "GET" },
      ({ body }) => body,
    );
    duplex.end();
    for await (const _ of duplex);
  }),
);

test("request() of undici stops at once when its greenlet is killed before the connection", async () => {
  using failures = new Failures();
  using _ = patch();
  // Never calls back
  const agent = new Agent({ ...LIMITS, connect: () => {} });
  let cleanedUp = false;
  const greenlet = spawn(async () => {
    try {
      await request("http://never.test/", { dispatcher: agent });
    } finally {
      cleanedUp = true;
    }
  });
  await sleep(0);
  await greenlet.kill();
  assert(cleanedUp);
  assertInstanceOf(greenlet.value, GreenletExit);
  await arrive();
  assertEquals(failures.errors, []);
});

/** Clients with a pool, each with how a path of the server is read. */
const clients: Record<
  string,
  () => { read(url: string): PromiseLike<string>; close(): unknown }
> = {
  axios() {
    const httpAgent = new http.Agent({ keepAlive: true, maxSockets: 4 });
    return {
      read: async (url) => (await axios.get(url, { httpAgent })).data,
      close: () => httpAgent.destroy(),
    };
  },
  got() {
    const agent = { http: new http.Agent({ keepAlive: true, maxSockets: 4 }) };
    return {
      read: (url) => got(url, { agent, retry: { limit: 0 } }).text(),
      close: () => agent.http.destroy(),
    };
  },
  // They do not tell what has ended a request, so they get a signal.
  "node-fetch"() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
    return {
      read: (url) =>
        withSignal(async (signal) =>
          (await nodeFetch(url, { agent, signal })).text()
        ),
      close: () => agent.destroy(),
    };
  },
  superagent() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
    return {
      read: async (url) => (await superagent.get(url).agent(agent)).text,
      close: () => agent.destroy(),
    };
  },
  ky: () => ({
    read: (url) => ky(url, { retry: 0 }).text(),
    close() {},
  }),
  undici() {
    const dispatcher = new Agent({ ...LIMITS, connections: 4 });
    return {
      read: async (url) => (await request(url, { dispatcher })).body.text(),
      close: () => dispatcher.destroy(),
    };
  },
};

/** The number of connections that a server has. */
function connectionsOf(server: http.Server): Promise<number> {
  return new Promise((resolve) =>
    server.getConnections((_error, count) => resolve(count))
  );
}

for (const [name, make] of Object.entries(clients)) {
  test(`${name} is usable after random kills, and no reply is mixed up`, async () => {
    const server = http.createServer((request, response) =>
      response.end(`reply to ${request.url}`)
    );
    await new Promise<void>((resolve) =>
      server.listen(0, "127.0.0.1", resolve)
    );
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    await withSeeds(async (next) => {
      const client = make();
      {
        using failures = new Failures();
        using _ = patch();
        const greenlets = Array.from(
          { length: 2 * KILLS },
          (_, i) =>
            spawn(async () => {
              const path = `/${i}`;
              assertEquals(await client.read(url + path), `reply to ${path}`);
            }),
        );
        for (const greenlet of greenlets) {
          await turns(Math.floor(next() * 4));
          if (next() < 0.5) greenlet.kill(undefined, { block: false });
        }
        await joinAll(greenlets);
        assertEquals(failures.errors, []);
      }
      assertEquals(await client.read(`${url}/last`), "reply to /last");
      await client.close();
      // No connection is left, but for those that `fetch` keeps for later.
      while (name !== "ky" && await connectionsOf(server) > 0) await turns(5);
    });
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await arrive();
  });
}
