// Answers to HEAD, and what an HttpServer tells of its handlers.

import { assertEquals, assertThrows } from "@std/assert";
import { getCurrent, HttpServer, sleep, StreamServer } from "../mod.ts";
import { Failures, testBoth } from "./_bodies.ts";
import { connectTo, hearTheEnd, HERE, say } from "./_servers.ts";

/** Makes a request, and returns the whole answer as text, without the date. */
async function ask(server: HttpServer, method: string): Promise<string> {
  using conn = await connectTo(server);
  await say(
    conn,
    `${method} / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n`,
  );
  return (await hearTheEnd(conn)).replace(/^date: .*\r\n/m, "");
}

function streamOf(text: string): ReadableStream<Uint8Array> {
  return new Blob([text]).stream();
}

Deno.test("HttpServer tells no length in the answer to HEAD for a body whose length it does not know", async () => {
  await using server = new HttpServer(
    HERE,
    () => new Response(streamOf("abc"), { headers: { "x-some": "thing" } }),
  );
  server.start();
  assertEquals(
    await ask(server, "HEAD"),
    "HTTP/1.1 200 OK\r\nx-some: thing\r\nconnection: close\r\n\r\n",
  );
});

Deno.test("HttpServer tells the length in the answer to HEAD that the handler has told", async () => {
  await using server = new HttpServer(
    HERE,
    () => new Response(streamOf("abc"), { headers: { "content-length": "3" } }),
  );
  server.start();
  assertEquals(
    await ask(server, "HEAD"),
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n",
  );
});

Deno.test("HttpServer answers HEAD with 500, as GET, when something else reads the body", async () => {
  using failures = new Failures();
  await using server = new HttpServer(HERE, () => {
    const response = new Response(streamOf("abc"));
    response.body!.getReader();
    return response;
  });
  server.start();
  for (const method of ["GET", "HEAD"]) {
    const answer = await ask(server, method);
    assertEquals(answer.slice(0, 12), "HTTP/1.1 500", method);
  }
  assertEquals(failures.errors.map((error) => (error as Error).name), [
    "TypeError",
    "TypeError",
  ]);
});

Deno.test("HttpServer refuses a log that is a generator function, and tells what a log may be", () => {
  const make = (log: unknown) => () =>
    new HttpServer(HERE, () => new Response(), { log: log as never });
  assertThrows(make(function* () {}), TypeError, "'log' must not be a gener");
  assertThrows(make("all"), TypeError, `must be a function or "common"`);
  assertThrows(make(null), TypeError, `must be a function or "common"`);
});

/** What the current greenlet prints as, without its port. */
function shown(): string {
  return String(getCurrent()).replace(/:\d+/, "");
}

testBoth(
  "HttpServer and StreamServer run their handlers in greenlets that print as a Greenlet",
  {
    async async(texts: string[]) {
      texts.push(shown());
      await sleep(0);
      return new Response("x");
    },
    *generator(texts: string[]) {
      texts.push(shown());
      yield* sleep(0);
      return new Response("x");
    },
  },
  async (body) => {
    const texts: string[] = [];
    await using web = new HttpServer(HERE, () => body(texts));
    web.start();
    await ask(web, "GET");
    await using server = new StreamServer(HERE, () => body(texts));
    server.start();
    using conn = await connectTo(server);
    await hearTheEnd(conn);
    assertEquals(texts, [
      '<Greenlet "GET /">',
      '<Greenlet "127.0.0.1">',
    ]);
  },
);
