// Clients of an HttpServer that leave, over TLS and HTTP/2: the runtime tells that in other ways.

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import {
  GreenletExit,
  type HttpHandler,
  HttpServer,
  type LogEntry,
  sleep,
  until,
} from "../mod.ts";
import { Failures, testBoth } from "./_bodies.ts";
import { eventually, HERE, portOf, say } from "./_servers.ts";

const tls = {
  cert: Deno.readTextFileSync(new URL("tls/localhost.pem", import.meta.url)),
  key: Deno.readTextFileSync(new URL("tls/localhost.key", import.meta.url)),
};
const caCerts = [
  Deno.readTextFileSync(new URL("tls/ca.pem", import.meta.url)),
];

/** Passes on what it gets to a server, and can lose both connections without a word of TLS. */
class Cable implements Disposable {
  readonly #listener = Deno.listen(HERE);
  readonly #conns: Deno.Conn[] = [this.#listener as never];
  readonly #done: Promise<void>;

  constructor(server: HttpServer) {
    this.#done = this.#accept(portOf(server));
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  async #accept(port: number): Promise<void> {
    const client = await this.#listener.accept();
    const server = await Deno.connect({ hostname: "127.0.0.1", port });
    this.#conns.push(client, server);
    const ends = [
      client.readable.pipeTo(server.writable),
      server.readable.pipeTo(client.writable),
    ];
    await Promise.allSettled(ends);
  }

  /** Loses both connections. */
  async cut(): Promise<void> {
    for (const conn of this.#conns.splice(0)) conn[Symbol.dispose]();
    await this.#done;
  }

  [Symbol.dispose](): void {
    for (const conn of this.#conns.splice(0)) conn[Symbol.dispose]();
  }
}

/** A client that begins an upload, which does not end. */
type Uploader = (port: number) => Promise<AsyncDisposable>;

const UPLOADERS: Record<string, Uploader> = {
  async "HTTP/1 and TLS"(port) {
    const conn = await Deno.connectTls({
      hostname: "localhost",
      port,
      caCerts,
    });
    await say(
      conn,
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf",
    );
    return {
      [Symbol.asyncDispose]() {
        conn.close();
        return Promise.resolve();
      },
    };
  },
  // deno-lint-ignore require-await
  async "HTTP/2"(port) {
    const client = Deno.createHttpClient({
      caCerts,
      http1: false,
      http2: true,
    });
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new Uint8Array(9));
      },
    });
    const failed = fetch(`https://localhost:${port}`, {
      method: "POST",
      body,
      client,
    }).then((answer) => answer.body?.cancel(), () => {});
    return {
      async [Symbol.asyncDispose]() {
        await failed;
        client.close();
      },
    };
  },
};

/** Handlers that let the error of a body through. */
const READERS = {
  async async(request: Request) {
    for await (const _ of request.body!);
    return new Response("read");
  },
  *generator(request: Request): Generator<unknown, Response, unknown> {
    const text = (yield* until(request.text())) as string;
    return new Response(text);
  },
};

for (const [kind, begin] of Object.entries(UPLOADERS)) {
  testBoth(
    `HttpServer reports no error of a client that is lost in its upload, over ${kind}`,
    READERS,
    async (body) => {
      using failures = new Failures();
      const entries: LogEntry[] = [];
      await using server = new HttpServer(HERE, body as HttpHandler, {
        tls,
        log: (entry) => entries.push(entry),
      });
      server.start();
      using cable = new Cable(server);
      await using _ = await begin(cable.port);
      await eventually(() => server.connections.size === 1);
      await cable.cut();
      await eventually(() => entries.length === 1);
      assertInstanceOf(entries[0]!.error, GreenletExit);
      assertEquals(failures.errors, []);
    },
  );
}

testBoth(
  "HttpServer reports no error of a client over HTTP/2 that is lost in an upload that the response passes on",
  {
    async async(request: Request) {
      await sleep(0);
      return new Response(request.body);
    },
    *generator(request: Request) {
      yield* sleep(0);
      return new Response(request.body);
    },
  },
  async (body) => {
    using failures = new Failures();
    const entries: LogEntry[] = [];
    await using server = new HttpServer(HERE, body as HttpHandler, {
      tls,
      log: (entry) => entries.push(entry),
    });
    server.start();
    using cable = new Cable(server);
    await using _ = await UPLOADERS["HTTP/2"]!(cable.port);
    await eventually(() => server.connections.size === 1);
    await cable.cut();
    await eventually(() => entries.length === 1);
    assertInstanceOf(entries[0]!.error, GreenletExit);
    assertEquals(failures.errors, []);
  },
);

/** Opens an answer over HTTP/2, reads its first bytes, and leaves it. */
async function leave(server: HttpServer): Promise<void> {
  const client = Deno.createHttpClient({ caCerts, http1: false, http2: true });
  const url = `https://localhost:${portOf(server)}/`;
  const answer = await fetch(url, { client });
  const reader = answer.body!.getReader();
  await reader.read();
  await reader.cancel();
  client.close();
}

Deno.test("HttpServer cancels the stream of a body when its client over HTTP/2 goes away", async () => {
  const entries: LogEntry[] = [];
  const cancelled = Promise.withResolvers<unknown>();
  await using server = new HttpServer(HERE, () => {
    const body = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(100)),
      cancel: cancelled.resolve,
    });
    return new Response(body);
  }, { tls, pool: 1, log: (entry) => entries.push(entry) });
  server.start();
  await leave(server);
  assertInstanceOf(await cancelled.promise, GreenletExit);
  await eventually(() => entries.length === 1);
  assertInstanceOf(entries[0]!.error, GreenletExit);
  assertEquals([server.connections.size, server.pool!.freeCount()], [0, 1]);
});

Deno.test("HttpServer logs that a client over HTTP/2 has left an answer that was not sent", async () => {
  const entries: LogEntry[] = [];
  const body = new Uint8Array(20_000_000);
  await using server = new HttpServer(HERE, () => new Response(body), {
    tls,
    log: (entry) => entries.push(entry),
  });
  server.start();
  await leave(server);
  await eventually(() => entries.length === 1);
  assertInstanceOf(entries[0]!.error, GreenletExit);
  assert(entries[0]!.bytes < body.length);
});
