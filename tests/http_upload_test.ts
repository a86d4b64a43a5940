// Requests whose bodies are arriving when the server stops, and clients that leave meanwhile.

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import {
  Event,
  GreenletExit,
  type HttpHandler,
  HttpServer,
  type HttpServerOptions,
  type LogEntry,
  sleep,
  until,
} from "../mod.ts";
import { Failures, testBoth } from "./_bodies.ts";
import {
  assertRefused,
  eventually,
  hearTheEnd,
  HERE,
  portOf,
  RawClient,
  say,
} from "./_servers.ts";

const LONG = 100_000_000;

function serve(
  handler: unknown,
  options?: HttpServerOptions,
): HttpServer {
  const server = new HttpServer(HERE, handler as HttpHandler, options);
  server.start();
  return server;
}

/** Handlers that read the body of a request. */
const READERS = {
  async async(request: Request) {
    const text = await request.text();
    return new Response(`${text.length} ${text.slice(-3)}`);
  },
  *generator(request: Request): Generator<unknown, Response, unknown> {
    const text = (yield* until(request.text())) as string;
    return new Response(`${text.length} ${text.slice(-3)}`);
  },
};

const LARGE = "x".repeat(50_000);

/** The fields of the head of an upload, and the pieces of the body. */
const UPLOADS: Record<string, [fields: string, pieces: string[]]> = {
  "of a known length": ["Content-Length: 9", ["123", "456", "789"]],
  "that begins after the head": ["Content-Length: 3", ["", "789"]],
  "in chunks": [
    "Transfer-Encoding: chunked",
    ["3\r\n123\r\n", "3\r\n789\r\n", "0\r\n\r\n"],
  ],
  "that waits to be asked for": [
    "Content-Length: 6\r\nExpect: 100-continue",
    ["", "123", "789"],
  ],
  "that is large": [
    "Content-Length: 150003",
    [LARGE, LARGE, LARGE, "789"],
  ],
};

/** An upload that a test sends piece by piece. */
class Upload {
  readonly client: RawClient;
  readonly #pieces: string[];

  constructor(client: RawClient, pieces: string[]) {
    this.client = client;
    this.#pieces = [...pieces];
  }

  static async begin(
    server: HttpServer,
    [fields, pieces]: [string, string[]],
    path = "/",
  ): Promise<Upload> {
    const upload = new Upload(await RawClient.of(server), pieces);
    await say(
      upload.client.conn,
      `POST ${path} HTTP/1.1\r\nHost: h\r\n${fields}\r\n\r\n`,
    );
    await upload.goOn();
    return upload;
  }

  async goOn(): Promise<void> {
    const piece = this.#pieces.shift() ?? "";
    if (piece !== "") await say(this.client.conn, piece);
  }

  /** Sends the rest, and returns the status and the body of the answer. */
  async end(): Promise<[number, string]> {
    while (this.#pieces.length > 0) {
      await sleep(1);
      await this.goOn();
    }
    let answer = await this.client.receive();
    if (answer?.status === 100) answer = await this.client.receive();
    assert(answer?.isWhole);
    return [answer.status, answer.body];
  }
}

testBoth(
  "HttpServer.stop() serves the requests to their end whose bodies are arriving",
  READERS,
  async (body) => {
    using failures = new Failures();
    const entries: LogEntry[] = [];
    const server = serve(body, { log: (entry) => entries.push(entry) });
    const names = Object.keys(UPLOADS).filter((it) => !it.includes("asked"));
    const uploads = await Promise.all(
      names.map((name) => Upload.begin(server, UPLOADS[name]!)),
    );
    await eventually(() => server.connections.size === uploads.length);
    const stopping = server.stop({ timeout: LONG });
    // It serves what comes meanwhile.
    using other = await RawClient.of(server);
    await say(
      other.conn,
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n789",
    );
    const answer = await other.receive();
    assertEquals([answer!.status, answer!.body], [200, "3 789"]);
    assertEquals(answer!.headers.get("connection"), "close");
    const answers: unknown[] = [];
    for (const upload of uploads) answers.push(await upload.end());
    assertEquals(answers, [
      [200, "9 789"],
      [200, "3 789"],
      [200, "6 789"],
      [200, "150003 789"],
    ]);
    await stopping;
    await assertRefused(portOf(server));
    assertEquals(entries.map(({ status }) => status), [
      200,
      200,
      200,
      200,
      200,
    ]);
    assertEquals(failures.errors, []);
    for (const { client } of uploads) client.conn.close();
  },
);

Deno.test("HttpServer.stop() waits for a body that is asked for by 100 Continue", async () => {
  const server = serve(READERS.async);
  const upload = await Upload.begin(
    server,
    UPLOADS["that waits to be asked for"]!,
  );
  await eventually(() => server.connections.size === 1);
  const stopping = server.stop({ timeout: LONG });
  const first = await upload.client.conn.read(new Uint8Array(25));
  assertEquals(first, 25);
  assertEquals(await upload.end(), [200, "6 789"]);
  await stopping;
  upload.client.conn.close();
});

/** Handlers that read the body late, or pass it on. */
const LATE: Record<string, (request: Request, goOn: Event) => unknown> = {
  "reads later": async (request, goOn) => {
    await goOn.wait();
    return new Response(await request.text());
  },
  "reads later, a generator": function* (request, goOn) {
    yield* goOn.wait();
    return new Response((yield* until(request.text())) as string);
  },
  "passes it on": (request) => new Response(request.body),
  "passes it on later": async (request, goOn) => {
    await goOn.wait();
    return new Response(request.body);
  },
  "reads it by a reader": async (request) => {
    let text = "";
    for await (const chunk of request.body!) {
      text += new TextDecoder().decode(chunk);
    }
    return new Response(text);
  },
  "reads a copy": async (request) => new Response(await request.clone().text()),
};

Deno.test("HttpServer.stop() waits for a body whatever the handler does with it", async () => {
  using failures = new Failures();
  for (const [name, handler] of Object.entries(LATE)) {
    const goOn = new Event();
    const server = serve((request: Request) => handler(request, goOn));
    const upload = await Upload.begin(server, UPLOADS["of a known length"]!);
    await eventually(() => server.connections.size === 1);
    const stopping = server.stop({ timeout: LONG });
    await upload.goOn();
    await upload.goOn();
    goOn.set();
    assertEquals(await upload.end(), [200, "123456789"], name);
    await stopping;
    upload.client.conn.close();
  }
  assertEquals(failures.errors, []);
});

Deno.test("HttpServer.stop() waits for a body that arrives while its request waits for room", async () => {
  const goOn = new Event();
  const server = serve(async (request: Request) => {
    if (request.method === "GET") await goOn.wait();
    return new Response(await request.text());
  }, { pool: 1 });
  using first = await RawClient.of(server);
  await first.send("/");
  await eventually(() => server.connections.size === 1);
  const upload = await Upload.begin(server, UPLOADS["of a known length"]!);
  await eventually(() => server.connections.size === 2);
  const stopping = server.stop({ timeout: LONG });
  goOn.set();
  assertEquals((await first.receive())!.status, 200);
  assertEquals(await upload.end(), [200, "123456789"]);
  await stopping;
  upload.client.conn.close();
});

Deno.test("HttpServer.close() waits for a body that is arriving, then it does not listen any more", async () => {
  const server = serve(READERS.async);
  const upload = await Upload.begin(server, UPLOADS["in chunks"]!);
  await eventually(() => server.connections.size === 1);
  server.close();
  assertEquals(await upload.end(), [200, "6 789"]);
  await hearTheEnd(upload.client.conn);
  await server.stop();
  await assertRefused(portOf(server));
  upload.client.conn.close();
});

Deno.test("HttpServer.close() does not wait for a handler that has read the body", async () => {
  const goOn = new Event();
  const hasRead = new Event();
  const server = serve(async (request: Request) => {
    const text = await request.text();
    hasRead.set();
    await goOn.wait();
    return new Response(text);
  });
  using idle = await RawClient.of(server);
  const upload = await Upload.begin(server, UPLOADS["in chunks"]!);
  await eventually(() => server.connections.size === 1);
  await upload.goOn();
  await upload.goOn();
  await hasRead.wait();
  server.close();
  // At once: the idle connection is closed, though the handler goes on.
  assertEquals(await hearTheEnd(idle.conn), "");
  await assertRefused(portOf(server));
  goOn.set();
  assertEquals(await upload.end(), [200, "123789"]);
  await server.stop();
  upload.client.conn.close();
});

testBoth(
  "HttpServer.stop() answers 503 at the timeout for a body that does not come",
  READERS,
  async (body) => {
    using failures = new Failures();
    const server = serve(body);
    const uploads = await Promise.all(
      ["of a known length", "in chunks"].map((name) =>
        Upload.begin(server, UPLOADS[name]!)
      ),
    );
    await eventually(() => server.connections.size === 2);
    await server.stop({ timeout: 20 });
    for (const { client } of uploads) {
      const answer = await client.receive();
      assertEquals([answer!.status, answer!.isWhole], [503, true]);
      client.conn.close();
    }
    assertEquals([server.connections.size, failures.errors], [0, []]);
    await assertRefused(portOf(server));
  },
);

Deno.test("HttpServer.stop() loses no request of clients that keep their connections while a body arrives", async () => {
  let handled = 0;
  const server = serve((request: Request) => {
    handled++;
    return READERS.async(request);
  });
  const upload = await Upload.begin(server, UPLOADS["in chunks"]!);
  const whole = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n789";
  const clients = Array.from({ length: 10 }, async () => {
    using client = await RawClient.of(server);
    for (let count = 1;; count++) {
      await say(client.conn, whole);
      const answer = await client.receive();
      assertEquals(answer?.body, "3 789");
      if (answer!.headers.get("connection") === "close") return count;
    }
  });
  await eventually(() => handled > 100);
  const stopping = server.stop({ timeout: LONG });
  const counts = await Promise.all(clients);
  assertEquals(await upload.end(), [200, "6 789"]);
  await stopping;
  assertEquals(counts.reduce((a, b) => a + b) + 1, handled);
  await assertRefused(portOf(server));
  upload.client.conn.close();
});

Deno.test("HttpServer.stop() rejects requests that come after its timeout", async () => {
  using failures = new Failures();
  const ended = new Event();
  const unwinding = new Event();
  const server = serve(async (request: Request) => {
    try {
      return new Response(await until(request.text()));
    } finally {
      unwinding.set();
      await ended.wait();
    }
  });
  const upload = await Upload.begin(server, UPLOADS["in chunks"]!);
  await eventually(() => server.connections.size === 1);
  const stopping = server.stop({ timeout: 1 });
  using other = await RawClient.of(server);
  await unwinding.wait();
  const answer = await other.ask("/");
  assertEquals([answer!.status, answer!.isWhole], [503, true]);
  ended.set();
  await stopping;
  assertEquals(failures.errors, []);
  upload.client.conn.close();
});

Deno.test("HttpServer.stop() serves a body to its end that arrives over HTTP/2", async () => {
  const server = serve(READERS.async);
  using client = Deno.createHttpClient({ http1: false, http2: true });
  const pipe = new TransformStream<Uint8Array, Uint8Array>();
  const writer = pipe.writable.getWriter();
  const answer = fetch(server.url, {
    method: "POST",
    body: pipe.readable,
    client,
  });
  await writer.write(new TextEncoder().encode("123"));
  await eventually(() => server.connections.size === 1);
  const stopping = server.stop({ timeout: LONG });
  for (const piece of ["456", "789"]) {
    await writer.write(new TextEncoder().encode(piece));
  }
  await writer.close();
  assertEquals(await (await answer).text(), "9 789");
  await stopping;
});

/** How a client leaves in the middle of its upload. */
const LEAVING: Record<string, (upload: Upload) => unknown> = {
  "closes the connection": ({ client }) => client.conn.close(),
  "sends no more": ({ client }) => client.conn.closeWrite(),
};

/** Ways to read the body of a request that fails. */
const FAILING: Record<string, (request: Request) => unknown> = {
  text: READERS.async,
  "text, a generator": READERS.generator,
  json: async (request) => Response.json(await request.json()),
  plain: (request) => request.arrayBuffer().then((it) => new Response(it)),
  reader: LATE["reads it by a reader"] as (request: Request) => unknown,
  "reader, a generator": function* (request) {
    const reader = request.body!.getReader();
    while (!((yield* until(reader.read())) as { done: boolean }).done);
    return new Response();
  },
  copy: LATE["reads a copy"] as (request: Request) => unknown,
  "wrapped error": async (request) => {
    try {
      return new Response(await request.text());
    } catch (cause) {
      throw new Error("The upload has failed", { cause });
    }
  },
  "passed on": (request) => new Response(request.body),
};

Deno.test("HttpServer reports no error of a client that leaves in the middle of its upload, and logs that it has gone", async () => {
  using failures = new Failures();
  const entries: LogEntry[] = [];
  await using server = serve(
    (request: Request) => {
      const name = decodeURIComponent(new URL(request.url).pathname.slice(1));
      return FAILING[name]!(request);
    },
    { log: (entry) => entries.push(entry), pool: 100 },
  );
  for (const [how, leave] of Object.entries(LEAVING)) {
    for (const name of Object.keys(FAILING)) {
      for (const kind of ["of a known length", "in chunks"]) {
        entries.length = 0;
        const path = `/${encodeURIComponent(name)}`;
        const upload = await Upload.begin(server, UPLOADS[kind]!, path);
        await eventually(() => server.connections.size === 1);
        await leave(upload);
        await eventually(() => entries.length === 1);
        const { status, error } = entries[0]!;
        const what = `${how}, ${name}, ${kind}`;
        assertEquals(status, name === "passed on" ? 200 : 503, what);
        assertInstanceOf(error, GreenletExit, what);
        assertEquals(error.message, "The client has gone away", what);
        assertEquals([server.connections.size, failures.errors], [0, []], what);
        try {
          upload.client.conn.close();
        } catch {
          // It is closed.
        }
      }
    }
  }
  assertEquals(server.pool!.freeCount(), 100);
});

Deno.test("HttpServer reports an error of a handler that only looks like one of the body", async () => {
  using failures = new Failures();
  await using server = serve(async (request: Request) => {
    await request.text();
    throw new Deno.errors.BadResource("File closed");
  });
  const upload = await Upload.begin(server, UPLOADS["of a known length"]!);
  assertEquals((await upload.end())[0], 500);
  assertEquals(failures.errors.map(String), ["BadResource: File closed"]);
  upload.client.conn.close();
});
