// A stop of an HttpServer that few clients use, which keep their connections.

import { assertEquals } from "@std/assert";
import { type HttpHandler, HttpServer, sleep } from "../mod.ts";
import { testBoth } from "./_bodies.ts";
import {
  assertRefused,
  eventually,
  HERE,
  portOf,
  RawClient,
} from "./_servers.ts";

testBoth(
  "HttpServer.stop() answers requests that are on their way, also of few clients",
  {
    async async() {
      await sleep(0);
      return new Response("answer");
    },
    *generator() {
      yield* sleep(0);
      return new Response("answer");
    },
  },
  async (body) => {
    const server = new HttpServer(HERE, body as HttpHandler);
    server.start();
    const clients = await Promise.all(
      Array.from({ length: 5 }, () => RawClient.of(server)),
    );
    for (let i = 0; i < 2; i++) {
      for (const client of clients) await client.ask("/");
    }
    const sent = clients.map((client) => client.ask("/"));
    const stopped = server.stop({ timeout: 100_000_000 });
    const answers = await Promise.all(sent);
    assertEquals(
      answers.map((answer) => [answer?.status, answer?.body]),
      clients.map(() => [200, "answer"]),
    );
    for (const client of clients) client[Symbol.dispose]();
    await stopped;
  },
);

Deno.test("HttpServer.stop() does not wait for clients when all requests are still handled", async () => {
  let handled = 0;
  const server = new HttpServer(HERE, async () => {
    handled++;
    await sleep(100_000_000);
    return new Response();
  });
  server.start();
  const clients = await Promise.all(
    Array.from({ length: 20 }, () => RawClient.of(server)),
  );
  for (const client of clients) await client.send("/");
  await eventually(() => handled === 20);
  const stopped = server.stop({ timeout: 0 });
  await assertRefused(portOf(server));
  for (const client of clients) client[Symbol.dispose]();
  await stopped;
});
