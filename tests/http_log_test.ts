// What HttpServer logs and reports of requests whose bodies are not sent, or not received.

import { assertEquals } from "@std/assert";
import { connect, getHub, HttpServer, type LogEntry, until } from "../mod.ts";

const LOCAL = { hostname: "127.0.0.1", port: 0 };

Deno.test("HttpServer logs that the answer to HEAD has sent no bytes", async () => {
  const entries: LogEntry[] = [];
  const bodies: Record<string, () => BodyInit> = {
    "/text": () => "hello",
    "/long": () => "x".repeat(100_000),
    "/stream": () => new Blob(["hello"]).stream(),
  };
  await using server = new HttpServer(LOCAL, (request) => {
    const body = bodies[new URL(request.url).pathname];
    if (body === undefined) throw new Error("Not found");
    return new Response(body());
  }, { log: (entry) => entries.push(entry) });
  server.start();
  using _ = silent();
  for (const path of [...Object.keys(bodies), "/none"]) {
    const { body } = await fetch(new URL(path, server.url), { method: "HEAD" });
    await body?.cancel();
  }
  await server.stop();
  assertEquals(entries.map(({ status, bytes }) => [status, bytes]), [
    [200, 0],
    [200, 0],
    [200, 0],
    [500, 0],
  ]);
});

Deno.test("HttpServer reports nothing of a handler that it kills in a body that does not come", async () => {
  const handlers: ((request: Request) => unknown)[] = [
    async (request) => new Response(await request.text()),
    function* (request) {
      return new Response(yield* until(request.text()));
    },
    async (request) => {
      for await (const _ of request.body!);
      return new Response();
    },
    (request) => request.arrayBuffer().then((bytes) => new Response(bytes)),
  ];
  using reports = silent();
  for (const handler of handlers) {
    const entries: LogEntry[] = [];
    await using server = new HttpServer(
      LOCAL,
      (request) => handler(request) as Response,
      { requestTimeout: 20, log: (entry) => entries.push(entry) },
    );
    server.start();
    using socket = await connect(server.address as Deno.NetAddr);
    await socket.sendAll(
      "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc",
    );
    const { value } = await socket.lines().next();
    assertEquals(value, "HTTP/1.1 503 Service Unavailable");
    await server.stop();
    assertEquals(entries.map(({ status }) => status), [503]);
    assertEquals(reports.errors, []);
  }
});

/** Keeps what is reported to the hub, until it is disposed of. */
function silent(): Disposable & { errors: unknown[] } {
  const hub = getHub();
  const before = hub.handleError;
  const errors: unknown[] = [];
  hub.handleError = (_context, error) => void errors.push(error);
  return {
    errors,
    [Symbol.dispose]() {
      hub.handleError = before;
    },
  };
}
