import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import express from "express";
import { Hono } from "hono";
import type { IncomingMessage, ServerResponse } from "node:http";
import {
  Event,
  getCurrent,
  type Greenlet,
  GreenletExit,
  type HttpHandler,
  HttpServer,
  type HttpServerOptions,
  joinAll,
  type LogEntry,
  patch,
  Pool,
  Queue,
  run,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../mod.ts";
import { Failures, runScript, testBoth } from "./_bodies.ts";
import { turns, when } from "./_waits.ts";
import {
  assertRefused,
  connectTo,
  eventually,
  hear,
  hearTheEnd,
  HERE,
  portOf,
  type RawAnswer,
  RawClient,
  residentMemory,
  say,
} from "./_servers.ts";

const LONG = 100_000_000;

function serve(handler: HttpHandler, options?: HttpServerOptions): HttpServer {
  const server = new HttpServer(HERE, handler, options);
  server.start();
  return server;
}

function pathOf(request: Request): string {
  return new URL(request.url).pathname;
}

/** What the whole of an answer says. */
async function ask(server: HttpServer, path = "/"): Promise<RawAnswer> {
  using client = await RawClient.of(server);
  return (await client.ask(path))!;
}

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** A body that sends, and then waits until it is cancelled. */
class Endless {
  readonly cancelled = Promise.withResolvers<unknown>();
  controller!: ReadableStreamDefaultController<Uint8Array>;

  get response(): Response {
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.controller = controller;
        controller.enqueue(bytesOf("begun"));
      },
      cancel: (reason) => this.cancelled.resolve(reason),
    });
    return new Response(stream);
  }
}

for (const isPatched of [false, true]) {
  const under = isPatched ? " under patch()" : "";
  const patched = () => isPatched ? patch() : new DisposableStack();

  testBoth(
    `HttpServer${under} handles each request in a greenlet that is named after it, without its query`,
    {
      async async(request: Request) {
        const { name } = getCurrent() as Greenlet;
        await sleep(1);
        return new Response(`${name} ${await request.text()}`);
      },
      *generator(request: Request) {
        const { name } = getCurrent() as Greenlet;
        yield* sleep(1);
        const text: string = yield* until(request.text());
        return new Response(`${name} ${text}`);
      },
    },
    async (body) => {
      using _ = patched();
      await using server = serve(body as HttpHandler);
      const answer = await fetch(`${server.url}a/b?c=d`, {
        method: "POST",
        body: "hello",
      });
      assertEquals(await answer.text(), "POST /a/b hello");
    },
  );

  testBoth(
    `HttpServer${under} answers an error with 500 and reports it once`,
    {
      async async() {
        await sleep(1);
        throw new RangeError("no");
      },
      *generator() {
        yield* sleep(1);
        throw new RangeError("no");
      },
    },
    async (body) => {
      using _ = patched();
      using failures = new Failures();
      await using server = serve(body as HttpHandler);
      assertEquals((await ask(server, "/path")).status, 500);
      assertEquals(failures.errors.map(String), ["RangeError: no"]);
      assertEquals((failures.contexts[0] as Greenlet).name, "GET /path");
      assertEquals((await ask(server)).status, 500);
      assertEquals(failures.errors.length, 2);
    },
  );

  testBoth(
    `HttpServer${under} kills a handler when its client goes away`,
    {
      async async(begun: Event, ended: (error: unknown) => void) {
        begun.set();
        try {
          await sleep(LONG);
        } catch (error) {
          ended(error);
        }
      },
      *generator(begun: Event, ended: (error: unknown) => void) {
        begun.set();
        try {
          yield* sleep(LONG);
        } catch (error) {
          ended(error);
        }
      },
    },
    async (body) => {
      using _ = patched();
      using failures = new Failures();
      const begun = new Event();
      const ended = Promise.withResolvers<unknown>();
      await using server = serve(
        (() => body(begun, ended.resolve)) as unknown as HttpHandler,
      );
      const client = await RawClient.of(server);
      await client.send("/");
      await begun.wait();
      assertEquals(server.connections.size, 1);
      client.conn.close();
      assertInstanceOf(await ended.promise, GreenletExit);
      await server.connections.join();
      // It has returned no response, as nothing waits for one.
      assertEquals(failures.errors.length, 1);
    },
  );
}

Deno.test("HttpServer answers by a plain handler", async () => {
  await using server = serve((request) => new Response(pathOf(request)));
  const answer = await ask(server, "/plain");
  assertEquals([answer.status, answer.body], [200, "/plain"]);
  assertEquals(server.connections.size, 0);
});

Deno.test("HttpServer answers what is no Response with 500, and reports it with the request's name", async () => {
  using failures = new Failures();
  const wrong: unknown[] = [undefined, "text", Promise.resolve(5)];
  const used = new Response("used");
  await used.text();
  wrong.push(used, Response.error());
  await using server = serve((() => wrong.shift()) as unknown as HttpHandler);
  for (let i = 0; i < 5; i++) {
    assertEquals((await ask(server, `/${i}`)).status, 500);
  }
  assertEquals(
    failures.contexts.map((greenlet) => (greenlet as Greenlet).name),
    ["GET /0", "GET /1", "GET /2", "GET /3", "GET /4"],
  );
  assert(failures.errors.every((error) => error instanceof TypeError));
});

Deno.test("HttpServer answers 503 for a handler that something has killed", async () => {
  using failures = new Failures();
  await using server = serve(async () => {
    void (getCurrent() as Greenlet).kill(undefined, { block: false });
    await sleep(LONG);
    return new Response("late");
  });
  assertEquals((await ask(server)).status, 503);
  assertEquals(failures.errors, []);
});

testBoth(
  "HttpServer kills a handler past requestTimeout, and answers 503",
  {
    async async(ended: Event) {
      try {
        await sleep(LONG);
      } finally {
        ended.set();
      }
      return new Response("late");
    },
    *generator(ended: Event) {
      try {
        yield* sleep(LONG);
      } finally {
        ended.set();
      }
      return new Response("late");
    },
  },
  async (body) => {
    using failures = new Failures();
    const ended = new Event();
    await using server = serve((() => body(ended)) as HttpHandler, {
      requestTimeout: 20,
    });
    assertEquals((await ask(server)).status, 503);
    await ended.wait();
    assertEquals(failures.errors, []);
  },
);

Deno.test("HttpServer answers 503 past requestTimeout though the handler is stuck, and gives its place back", async () => {
  await using server = serve(async (request) => {
    if (pathOf(request) === "/stuck") await new Promise(() => {});
    return new Response("served");
  }, { requestTimeout: 20, pool: 1, stopTimeout: 0 });
  assertEquals((await ask(server, "/stuck")).status, 503);
  await eventually(() => server.connections.size === 0);
  assertEquals((await ask(server)).status, 200);
});

Deno.test("HttpServer counts what waits for room in the pool into requestTimeout", async () => {
  const begun = new Event();
  await using server = serve(async (request) => {
    begun.set();
    await sleep(pathOf(request) === "/long" ? 200 : 0);
    return new Response("served");
  }, { requestTimeout: 100, pool: new Pool(1) });
  const long = ask(server, "/long");
  await begun.wait();
  const answers = await Promise.all([long, ask(server), ask(server)]);
  assertEquals(answers[0].status, 503);
  assert(answers.every(({ status }) => status === 503 || status === 200));
});

Deno.test("HttpServer cuts a body off past requestTimeout, and cancels its stream", async () => {
  using failures = new Failures();
  const endless = new Endless();
  await using server = serve(() => endless.response, { requestTimeout: 30 });
  const answer = await ask(server);
  assertEquals([answer.status, answer.body, answer.isWhole], [
    200,
    "begun",
    false,
  ]);
  assertInstanceOf(await endless.cancelled.promise, GreenletExit);
  await server.connections.join();
  assertEquals(failures.errors, []);
});

Deno.test("HttpServer lets a request wait that there is no room for, in order", async () => {
  const begun = new Queue<string>();
  const goOn = new Queue<void>();
  await using server = serve(async (request) => {
    begun.put(pathOf(request));
    await goOn.get();
    return new Response(pathOf(request));
  }, { pool: 2 });
  const answers: Promise<RawAnswer>[] = [];
  for (const path of ["/1", "/2", "/3", "/4"]) {
    answers.push(ask(server, path));
    await eventually(() => server.connections.size === answers.length);
  }
  assertEquals(begun.qsize(), 2);
  const order: string[] = [];
  for (let i = 0; i < 4; i++) {
    order.push(await begun.get());
    goOn.put();
  }
  assertEquals(order, ["/1", "/2", "/3", "/4"]);
  const bodies = (await Promise.all(answers)).map(({ body }) => body);
  assertEquals(bodies, ["/1", "/2", "/3", "/4"]);
});

Deno.test("HttpServer forgets a request that waits for room when its client goes away", async () => {
  const goOn = new Event();
  const handled: string[] = [];
  const pool = new Pool(1);
  await using server = serve(async (request) => {
    handled.push(pathOf(request));
    await goOn.wait();
    return new Response();
  }, { pool });
  const first = ask(server, "/first");
  await eventually(() => handled.length === 1);
  const client = await RawClient.of(server);
  await client.send("/gone");
  await eventually(() => server.connections.size === 2);
  client.conn.close();
  await eventually(() => server.connections.size === 1);
  goOn.set();
  await first;
  assertEquals((await ask(server, "/next")).status, 200);
  assertEquals(handled, ["/first", "/next"]);
  await eventually(() => pool.freeCount() === 1);
});

Deno.test("HttpServer rejects a request that there is no room for with 503 and Retry-After, if so told", async () => {
  const goOn = new Event();
  let handled = 0;
  await using server = serve(async () => {
    handled++;
    await goOn.wait();
    return new Response("served");
  }, { pool: 1, overload: "reject" });
  const first = ask(server);
  await eventually(() => handled === 1);
  const second = await ask(server);
  assertEquals(second.status, 503);
  assert(Number(second.headers.get("retry-after")) > 0);
  goOn.set();
  assertEquals((await first).body, "served");
  await eventually(() => server.connections.size === 0);
  assertEquals([(await ask(server)).status, handled], [200, 2]);
});

for (const kind of ["a stream", "bytes"]) {
  Deno.test(`HttpServer holds a request's place until its body is sent: ${kind}`, async () => {
    const chunk = new Uint8Array(1024 * 1024);
    const whole = new Uint8Array(8 * chunk.length);
    let left = 8;
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (left-- > 0) controller.enqueue(chunk);
        else controller.close();
      },
    });
    const pool = new Pool(1);
    await using server = serve(
      () => new Response(kind === "bytes" ? whole : stream),
      { pool, overload: "reject" },
    );
    using slow = await RawClient.of(server);
    await slow.send("/");
    await slow.more();
    await turns(20);
    assertEquals([server.connections.size, pool.freeCount()], [1, 0]);
    assertEquals((await ask(server)).status, 503);
    const answer = await slow.receive();
    assertEquals([answer!.isWhole, answer!.body.length], [true, whole.length]);
    if (kind === "bytes") {
      assertEquals(answer!.headers.get("content-length"), `${whole.length}`);
    }
    await eventually(() => pool.freeCount() === 1);
    assertEquals(server.connections.size, 0);
  });
}

Deno.test("HttpServer cancels the stream of a body when its client goes away, and kills the request", async () => {
  using failures = new Failures();
  const endless = new Endless();
  let greenlet!: Greenlet;
  await using server = serve(() => {
    greenlet = getCurrent() as Greenlet;
    return endless.response;
  });
  const client = await RawClient.of(server);
  await client.send("/events");
  await client.more();
  assert(greenlet.active);
  client.conn.close();
  assertInstanceOf(await endless.cancelled.promise, GreenletExit);
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  assertEquals(failures.errors, []);
});

testBoth(
  "HttpServer sends server-sent events as they come",
  {
    // deno-lint-ignore require-await
    async async(stream: ReadableStream) {
      return new Response(stream, {
        headers: { "content-type": "text/event-stream" },
      });
    },
    *generator(stream: ReadableStream) {
      yield* sleep(0);
      return new Response(stream, {
        headers: { "content-type": "text/event-stream" },
      });
    },
  },
  async (body) => {
    const events = new Queue<string>();
    async function* stream() {
      for (;;) {
        const event = await events.get();
        if (event === "end") return;
        yield bytesOf(`data: ${event}\n\n`);
      }
    }
    await using server = serve(
      (() => body(ReadableStream.from(stream()))) as HttpHandler,
    );
    const answer = await fetch(server.url);
    const reader = answer.body!.pipeThrough(new TextDecoderStream())
      .getReader();
    for (const event of ["one", "two"]) {
      events.put(event);
      assertEquals((await reader.read()).value, `data: ${event}\n\n`);
    }
    events.put("end");
    assert((await reader.read()).done);
    await eventually(() => server.connections.size === 0);
  },
);

Deno.test("HttpServer reports an error of a body's stream once, and cuts the answer off", async () => {
  using failures = new Failures();
  await using server = serve(() =>
    new Response(
      ReadableStream.from((async function* () {
        yield bytesOf("begun");
        await sleep(1);
        throw new RangeError("no more");
      })()),
    )
  );
  const answer = await ask(server, "/path");
  assertEquals([answer.body, answer.isWhole], ["begun", false]);
  await server.connections.join();
  assertEquals(failures.errors.map(String), ["RangeError: no more"]);
  assertEquals((failures.contexts[0] as Greenlet).name, "GET /path");
});

Deno.test("HttpServer reports a body whose chunks are no bytes, and cuts the answer off", async () => {
  using failures = new Failures();
  await using server = serve(() =>
    new Response(ReadableStream.from(["text"]) as unknown as ReadableStream)
  );
  assertFalse((await ask(server, "/path")).isWhole);
  await server.connections.join();
  assertEquals(failures.errors.map((error) => error instanceof TypeError), [
    true,
  ]);
  assertEquals((failures.contexts[0] as Greenlet).name, "GET /path");
});

Deno.test("HttpServer with a pool leaves an error that is due in main to main", async () => {
  await using server = serve(() => new Response("served"), { pool: 1 });
  using timeout = Timeout.start(1);
  // Nothing of the library waits in main meanwhile.
  await when(() => !timeout.pending);
  const answer = await ask(server);
  assertEquals(answer.body, "served");
  const error = await assertRejects(async () => await sleep(LONG));
  assertStrictEquals(error, timeout);
});

Deno.test("HttpServer is closed at the end of run(), with what it handles", async () => {
  let server!: HttpServer;
  let answer!: Promise<RawAnswer>;
  await run(async () => {
    server = serve(async () => {
      await sleep(LONG);
      return new Response("late");
    });
    answer = ask(server);
    await eventually(() => server.connections.size === 1);
  });
  assertEquals((await answer).status, 503);
  assert(server.closed);
  await assertRefused(portOf(server));
});

Deno.test("HttpServer answers HEAD without the body, and cancels its stream", async () => {
  const endless = new Endless();
  await using server = serve(() => endless.response);
  using client = await RawClient.of(server);
  await client.send("/", "HEAD");
  await endless.cancelled.promise;
  assert(await client.more());
  await eventually(() => server.connections.size === 0);
});

for (const [kind, length] of [["short", 10], ["long", 200_000]] as const) {
  Deno.test(`HttpServer leaves an answer as it is whose body is there as a whole: ${kind}`, async () => {
    const text = "é".repeat(length);
    await using server = serve(() => {
      const headers = { "x-some": "thing" };
      return new Response(text, { status: 201, headers });
    });
    const answer = await fetch(server.url);
    assertEquals(answer.status, 201);
    assertEquals(answer.headers.get("x-some"), "thing");
    assertEquals(answer.headers.get("content-length"), `${2 * length}`);
    assertEquals(
      answer.headers.get("content-type"),
      "text/plain;charset=UTF-8",
    );
    assertEquals(await answer.text(), text);
  });
}

Deno.test("HttpServer hands on what fetch() has given", async () => {
  await using origin = serve(() => new Response("from afar"));
  await using server = serve(async () => await until(fetch(origin.url)));
  const client = await RawClient.of(server);
  assertEquals((await client.ask("/"))!.body, "from afar");
  client.conn.close();
});

Deno.test("HttpServer tells its log of each request when it is over", async () => {
  using failures = new Failures();
  const entries = new Queue<LogEntry>();
  const endless = new Endless();
  const handlers: Record<string, () => Response | Promise<Response>> = {
    "/plain": () => new Response("né"),
    "/async": () => sleep(5).then(() => new Response(null, { status: 204 })),
    "/error": () => {
      throw new RangeError("no");
    },
    "/stream": () =>
      new Response(ReadableStream.from([bytesOf("one"), bytesOf("two")])),
    "/late": () => sleep(LONG).then(() => new Response("late")),
    "/gone": () => endless.response,
  };
  await using server = serve((request) => handlers[pathOf(request)]!(), {
    log: (entry) => void entries.put(entry),
    requestTimeout: 1000,
  });
  const tell = async (path: string) => {
    const { status } = await ask(server, `${path}?q=1`);
    const entry = await entries.get();
    assertEquals(entry.method, "GET");
    assertEquals(entry.url, `http://here${path}?q=1`);
    assertEquals((entry.remoteAddr as Deno.NetAddr).hostname, "127.0.0.1");
    assertEquals(entry.status, status);
    return entry;
  };
  const plain = await tell("/plain");
  assertEquals([plain.status, plain.bytes, plain.error], [200, 3, undefined]);
  const waited = await tell("/async");
  assertEquals([waited.status, waited.bytes], [204, 0]);
  assert(waited.ms >= 4);
  const failed = await tell("/error");
  assertEquals(failed.status, 500);
  assertInstanceOf(failed.error, RangeError);
  assertEquals((await tell("/stream")).bytes, 6);
  const late = await tell("/late");
  assertEquals(late.status, 503);
  assertInstanceOf(late.error, GreenletExit);
  const client = await RawClient.of(server);
  await client.send("/gone");
  await client.more();
  client.conn.close();
  const gone = await entries.get();
  assertEquals([gone.status, gone.bytes], [200, 5]);
  assertInstanceOf(gone.error, GreenletExit);
  assertEquals(failures.errors.length, 1);
});

Deno.test("HttpServer reports what its log throws, and goes on", async () => {
  using failures = new Failures();
  const log = () => {
    throw new RangeError("no");
  };
  await using server = serve(() => new Response("served"), { log });
  assertEquals((await ask(server)).body, "served");
  assertEquals(failures.contexts, [log]);
});

Deno.test("HttpServer prints lines in the Common Log Format, if so told", async () => {
  const { out, err } = await runScript(`
    const server = new HttpServer({ hostname: "127.0.0.1", port: 0 },
      (request) => new Response(request.url.endsWith("empty") ? null : "hello"),
      { log: "common" });
    server.start();
    await (await fetch(server.url + "a?b=c")).text();
    await (await fetch(server.url + "empty", { method: "POST" })).text();
    await server.stop();
  `);
  const date = String.raw`\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\]`;
  assertEquals([out.length, err], [2, ""]);
  assert(
    new RegExp(
      String.raw`^127\.0\.0\.1 - - ${date} "GET /a\?b=c HTTP/1\.1" 200 5$`,
    ).test(out[0]!),
    out[0],
  );
  assert(out[1]!.endsWith('"POST /empty HTTP/1.1" 200 -'), out[1]);
});

Deno.test("HttpServer.start() throws the runtime's AddrInUse, and may be tried again", async () => {
  const one = serve(() => new Response("one"));
  const two = new HttpServer(
    { ...HERE, port: portOf(one) },
    () => new Response("two"),
  );
  assertThrows(() => two.start(), Deno.errors.AddrInUse);
  assertEquals([two.started, two.closed], [false, false]);
  await one.stop();
  two.start();
  assertEquals((await ask(two)).body, "two");
  await two.stop();
});

Deno.test("HttpServer.close() accepts no more, and leaves requests to their end", async () => {
  const begun = new Event();
  const goOn = new Event();
  const server = serve(async () => {
    begun.set();
    await goOn.wait();
    return new Response("served");
  });
  const answer = ask(server);
  await begun.wait();
  server.close();
  assertEquals([server.started, server.closed], [false, true]);
  await assertRefused(portOf(server));
  goOn.set();
  const { body, headers } = await answer;
  assertEquals([body, headers.get("connection")], ["served", "close"]);
  await server.stop();
});

Deno.test("HttpServer.stop() answers what has begun, ends the connections, and accepts no more", async () => {
  const begun = new Event();
  const goOn = new Event();
  const server = serve(async (request) => {
    if (pathOf(request) === "/wait") {
      begun.set();
      await goOn.wait();
    }
    return new Response("served");
  });
  using idle = await RawClient.of(server);
  assertEquals((await idle.ask("/"))!.body, "served");
  using busy = await RawClient.of(server);
  await busy.send("/wait");
  await begun.wait();
  const stopping = server.stop({ timeout: LONG });
  // It is not asked any more.
  assertFalse(await idle.more());
  await assertRefused(portOf(server));
  goOn.set();
  const answer = await busy.receive();
  assertEquals([answer!.body, answer!.isWhole], ["served", true]);
  assertEquals(answer!.headers.get("connection"), "close");
  assertFalse(await busy.more());
  await stopping;
  assertEquals([server.started, server.closed], [false, true]);
});

testBoth(
  "HttpServer.stop() kills what still runs at the timeout, which is answered 503",
  {
    async async(begun: Event, told: string[]) {
      begun.set();
      try {
        await sleep(LONG);
      } finally {
        await sleep(1);
        told.push("finally");
      }
      return new Response("late");
    },
    *generator(begun: Event, told: string[]) {
      begun.set();
      try {
        yield* sleep(LONG);
      } finally {
        yield* sleep(1);
        told.push("finally");
      }
      return new Response("late");
    },
  },
  async (body) => {
    using failures = new Failures();
    const begun = new Event();
    const told: string[] = [];
    const server = serve((() => body(begun, told)) as HttpHandler);
    const answer = ask(server);
    await begun.wait();
    await server.stop({ timeout: 10 });
    const { status, isWhole } = await answer;
    assertEquals([status, isWhole, told], [503, true, ["finally"]]);
    assertEquals([server.connections.size, failures.errors], [0, []]);
  },
);

Deno.test("HttpServer.stop() ends although a handler sits in a foreign promise, which is answered 503", async () => {
  const begun = new Event();
  const server = serve(async () => {
    begun.set();
    await new Promise(() => {});
    return new Response();
  });
  const answer = ask(server);
  await begun.wait();
  await server.stop({ timeout: 0 });
  assertEquals((await answer).status, 503);
  assertEquals(server.connections.size, 0);
});

Deno.test("HttpServer.stop() cuts off at the timeout what is still being sent", async () => {
  const endless = new Endless();
  const server = serve(() => endless.response);
  const answer = ask(server);
  await eventually(() => server.connections.size === 1);
  await server.stop({ timeout: 10 });
  assertFalse((await answer).isWhole);
  await endless.cancelled.promise;
});

Deno.test("HttpServer.stop() of a handler's own server answers that request", async () => {
  const server = serve(async () => {
    await server.stop({ timeout: LONG });
    return new Response("stopped");
  });
  const answer = await ask(server);
  assertEquals([answer.body, answer.isWhole], ["stopped", true]);
  assert(server.closed);
});

Deno.test("HttpServer.stop() that is interrupted kills the handlers at once", async () => {
  const begun = new Event();
  const server = serve(async () => {
    begun.set();
    await sleep(LONG);
    return new Response();
  });
  const answer = ask(server);
  await begun.wait();
  await assertRejects(
    async () => await withTimeout(1, () => server.stop({ timeout: LONG })),
    Timeout,
  );
  assertEquals((await answer).status, 503);
  await server.connections.join();
});

Deno.test("HttpServer.stop() under a load loses no request that it has accepted, of clients that keep their connections", async () => {
  let handled = 0;
  let isStopping = false;
  const server = serve(async () => {
    handled++;
    await sleep(1);
    return new Response("x".repeat(1000));
  });
  let whole = 0;
  let cut = 0;
  let lost = 0;
  const clients = Array.from({ length: 40 }, async () => {
    using client = await RawClient.of(server);
    for (;;) {
      const answer = await client.ask("/");
      if (answer === null) return lost++;
      if (answer.isWhole && answer.body.length === 1000) whole++;
      else cut++;
      if (answer.headers.get("connection") === "close") return;
    }
  });
  await eventually(() => handled > 400);
  isStopping = true;
  await server.stop({ timeout: 5000 });
  await Promise.all(clients);
  assert(isStopping);
  assertEquals([whole, cut, lost], [handled, 0, 0]);
  await assertRefused(portOf(server));
});

Deno.test("HttpServer.serveForever() stops the server when it is killed", async () => {
  const server = new HttpServer(HERE, () => new Response("served"));
  const serving = spawn(() => server.serveForever());
  await eventually(() => server.started);
  assertEquals((await ask(server)).body, "served");
  await serving.kill();
  assert(server.closed);
  await assertRefused(portOf(server));
});

Deno.test("HttpServer upgrades a request to a WebSocket, which is no request any more", async () => {
  const closed = new Event();
  const server = serve(async (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(`echo ${data}`);
    socket.onclose = () => closed.set();
    // By the upgrade the runtime has ended the request.
    await turns(20);
    return response;
  });
  const socket = new WebSocket(server.url.replace("http", "ws"));
  const messages = new Queue<string>();
  socket.onmessage = ({ data }) => messages.put(data);
  socket.onopen = () => socket.send("hello");
  assertEquals(await messages.get(), "echo hello");
  await eventually(() => server.connections.size === 0);
  const left = new Promise((resolve) => socket.onclose = resolve);
  await server.stop();
  await Promise.all([left, closed.wait()]);
});

const tls = {
  cert: Deno.readTextFileSync(new URL("tls/localhost.pem", import.meta.url)),
  key: Deno.readTextFileSync(new URL("tls/localhost.key", import.meta.url)),
};
const caCerts = [
  Deno.readTextFileSync(new URL("tls/ca.pem", import.meta.url)),
];

for (
  const [name, options] of [
    ["HTTP/1.1 over TLS", { http1: true, http2: false }],
    ["HTTP/2 over TLS", { http1: false, http2: true }],
    ["HTTP/2 without TLS", { http1: false, http2: true }],
  ] as const
) {
  const isSecure = name.endsWith("over TLS");
  Deno.test(`HttpServer speaks ${name}, and drains it`, async () => {
    const begun = new Event();
    const goOn = new Event();
    const ended = Promise.withResolvers<unknown>();
    const server = serve(async (request) => {
      if (pathOf(request) === "/gone") {
        begun.set();
        try {
          await sleep(LONG);
        } catch (error) {
          ended.resolve(error);
          throw error;
        }
      }
      if (pathOf(request) === "/wait") {
        begun.set();
        await goOn.wait();
      }
      return new Response(await request.text());
    }, isSecure ? { tls } : {});
    using client = Deno.createHttpClient({ caCerts, ...options });
    const url = server.url.replace("127.0.0.1", "localhost");
    const ask = (path: string, init: RequestInit = {}) =>
      fetch(url + path, { ...init, client });
    const answer = await ask("", { method: "POST", body: "hello" });
    assertEquals(await answer.text(), "hello");

    const abort = new AbortController();
    const gone = assertRejects(() => ask("gone", { signal: abort.signal }));
    await begun.wait();
    abort.abort();
    await gone;
    assertInstanceOf(await ended.promise, GreenletExit);

    begun.clear();
    const waiting = ask("wait", { method: "POST", body: "waited" });
    await begun.wait();
    const stopping = server.stop({ timeout: LONG });
    goOn.set();
    assertEquals(await (await waiting).text(), "waited");
    await stopping;
  });
}

Deno.test("HttpServer listens on a Unix socket", async () => {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/socket`;
  {
    await using server = new HttpServer(
      { transport: "unix", path },
      (request) => new Response(pathOf(request)),
    );
    server.start();
    using conn = await Deno.connect({ transport: "unix", path });
    await say(conn, "GET /path HTTP/1.0\r\n\r\n");
    assert((await hear(conn)).endsWith("\r\n\r\n/path"));
    assertThrows(() => server.url, TypeError, "a Unix socket has none");
  }
  await Deno.remove(dir, { recursive: true });
});

Deno.test("HttpServer refuses what is no address, no handler and no option", () => {
  const make = (...args: unknown[]) => () =>
    Reflect.construct(HttpServer, args);
  const handler = () => new Response();
  assertThrows(make(5, handler), TypeError, "address");
  assertThrows(make({ port: 70_000 }, handler), RangeError, "port");
  assertThrows(make({}, handler), TypeError, "port");
  for (const wrong of [undefined, 5, async function* () {}]) {
    assertThrows(make(HERE, wrong), TypeError, "handler");
  }
  assertThrows(make(HERE, handler, 5), TypeError, "options");
  assertThrows(make(HERE, handler, { pool: 0 }), RangeError, "pool");
  assertThrows(make(HERE, handler, { overload: "x" }), TypeError, "overload");
  assertThrows(make(HERE, handler, { log: "combined" }), TypeError, "log");
  for (const name of ["requestTimeout", "minDelay"]) {
    const named = `'${name}' must be a number of milliseconds: received`;
    assertThrows(make(HERE, handler, { [name]: "1" }), TypeError, named);
  }
  for (const wrong of [null, 5, { cert: "x" }]) {
    assertThrows(make(HERE, handler, { tls: wrong }), TypeError, "tls");
  }
});

Deno.test("HttpServer.start() throws the runtime's error for a certificate that is none", () => {
  const wrong = { cert: "x", key: "y" };
  const server = new HttpServer(HERE, () => new Response(), { tls: wrong });
  assertThrows(() => server.start(), Error);
  assertFalse(server.started);
});

Deno.test("HttpServer takes the fetch of an application of Hono as it is", async () => {
  using failures = new Failures();
  const ended = Promise.withResolvers<unknown>();
  const begun = new Event();
  const app = new Hono();
  app.get("/hello/:name", async (c) => {
    await sleep(1);
    return c.text(`hello ${c.req.param("name")}`);
  });
  app.get("/wait", async (c) => {
    begun.set();
    try {
      await sleep(LONG);
    } catch (error) {
      ended.resolve(error);
      throw error;
    }
    return c.text("late");
  });
  await using server = serve(app.fetch);
  const answer = await ask(server, "/hello/rose");
  assertEquals([answer.status, answer.body], [200, "hello rose"]);
  assertEquals((await ask(server, "/nothing")).status, 404);
  const client = await RawClient.of(server);
  await client.send("/wait");
  await begun.wait();
  client.conn.close();
  assertInstanceOf(await ended.promise, GreenletExit);
  await server.connections.join();
  assertEquals(failures.errors, []);
});

Deno.test("HttpServer and an application of express serve beside each other under patch()", async () => {
  using _ = patch();
  await using server = serve(async () => {
    await sleep(1);
    return new Response("ours");
  });
  const app = express();
  app.get("/", async (_request: IncomingMessage, response: ServerResponse) => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    const answer = await fetch(server.url);
    response.end(`express and ${await answer.text()}`);
  });
  const listening = Promise.withResolvers<void>();
  const other = app.listen(0, "127.0.0.1", () => listening.resolve());
  await listening.promise;
  const { port } = other.address() as { port: number };
  const asked = Array.from({ length: 5 }, () =>
    spawn(async () => {
      const answer = await fetch(`http://127.0.0.1:${port}/`);
      return await answer.text();
    }));
  await joinAll(asked, { raiseError: true });
  assertEquals(
    asked.map(({ value }) => value),
    Array(5).fill("express and ours"),
  );
  const closed = new Promise((resolve) => other.close(resolve));
  other.closeAllConnections();
  await closed;
});

/** What a client does, and when it leaves. */
const LEAVING: Record<string, (client: RawClient) => Promise<void>> = {
  "at once": async () => {},
  "in the middle of its head": async ({ conn }) => {
    await say(conn, "GET / HTTP/1.1\r\nHo");
  },
  "in the middle of its body": async ({ conn }) => {
    await say(
      conn,
      "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf",
    );
  },
  "while it is handled": (client) => client.send("/wait"),
  "while its answer is sent": async (client) => {
    await client.send("/stream");
    await client.more();
  },
  "while a long answer is sent": async (client) => {
    await client.send("/long");
    await client.more();
  },
  "after its answer": async (client) => {
    await client.ask("/");
  },
};

for (const [moment, begin] of Object.entries(LEAVING)) {
  Deno.test(`HttpServer leaves nothing behind of a client that goes away ${moment}`, async () => {
    using _failures = new Failures();
    const long = new Uint8Array(20_000_000);
    const pool = new Pool(1);
    await using server = serve(async (request) => {
      const path = pathOf(request);
      if (path === "/wait") await sleep(LONG);
      if (path === "/body") return new Response(await until(request.text()));
      if (path === "/stream") return new Endless().response;
      return new Response(path === "/long" ? long : "served");
    }, { pool });
    for (let i = 0; i < 3; i++) {
      const client = await RawClient.of(server);
      await begin(client);
      await sleep(1);
      client.conn.close();
    }
    await eventually(() => server.connections.size === 0);
    assertEquals(pool.freeCount(), 1);
    assertEquals((await ask(server)).body, "served");
  });
}

Deno.test("HttpServer sends no faster than its client reads", async () => {
  const chunk = new Uint8Array(1024 * 1024);
  let sent = 0;
  const server = serve(() =>
    new Response(
      new ReadableStream({
        pull(controller) {
          if (++sent > 100) controller.close();
          else controller.enqueue(chunk);
        },
      }, { highWaterMark: 0 }),
    )
  );
  using conn = await connectTo(server);
  const before = residentMemory();
  await say(conn, "GET / HTTP/1.1\r\nHost: here\r\n\r\n");
  const byte = new Uint8Array(1);
  for (let i = 0; i < 50; i++) {
    await conn.read(byte);
    await sleep(1);
  }
  assert(sent < 50, `Sent ${sent} MB`);
  const grown = residentMemory() - before;
  assert(grown < 60_000_000, `Grown by ${grown}`);
  await server.stop({ timeout: 0 });
});

Deno.test("HttpServer listens again when the runtime has given up for want of file descriptors", async () => {
  const library = new URL("../mod.ts", import.meta.url).href;
  const script = `import { getHub, HttpServer, sleep } from ${
    JSON.stringify(library)
  };
    // The runtime itself needs files for signals, when it first thinks of them.
    const listener = () => {};
    Deno.addSignalListener("SIGUSR2", listener);
    const server = new HttpServer({ hostname: "127.0.0.1", port: 0 }, () => new Response("served"));
    let errors = 0;
    getHub().handleError = () => void errors++;
    server.start();
    const { port } = server.address;
    const conns = [];
    for (;;) {
      try {
        conns.push(await Deno.connect({ hostname: "127.0.0.1", port }));
      } catch {
        break;
      }
    }
    while (errors === 0) await sleep(1);
    for (const conn of conns) conn.close();
    for (;;) {
      try {
        console.log(await (await fetch(server.url)).text());
        break;
      } catch {
        await sleep(1);
      }
    }
    await server.stop();
    Deno.removeSignalListener("SIGUSR2", listener);`;
  const { stdout, stderr } = await new Deno.Command("sh", {
    args: [
      "-c",
      'ulimit -n 64; exec "$0" eval -q --no-check "$1"',
      Deno.execPath(),
      script,
    ],
    stdin: "null",
  }).output();
  const text = new TextDecoder();
  assertEquals(text.decode(stdout), "served\n", text.decode(stderr));
});

/** Stands before `Deno.serve`, and has the runtime's servers give up. */
class Serving implements Disposable {
  readonly #original = Deno.serve;
  /** The options of each call. */
  readonly options: Record<string, unknown>[] = [];
  readonly #failed: PromiseWithResolvers<void>[] = [];
  readonly #servers: Deno.HttpServer<Deno.Addr>[] = [];
  /** How many were told not to keep the process alive. */
  unreffed = 0;

  constructor() {
    Deno.serve = this.#serve.bind(this) as never;
  }

  #serve(options: Record<string, unknown>, handler: Deno.ServeHandler) {
    this.options.push(options);
    const server = this.#original(options as Deno.ServeTcpOptions, handler);
    const failed = Promise.withResolvers<void>();
    this.#servers.push(server);
    this.#failed.push(failed);
    return {
      addr: server.addr,
      finished: Promise.race([server.finished, failed.promise]),
      shutdown: () => server.shutdown(),
      unref: () => {
        this.unreffed++;
        server.unref();
      },
    };
  }

  /** The last one serves no longer, as when there are no file descriptors. */
  async giveUp(): Promise<void> {
    this.#failed.at(-1)!.reject(new Error("Too many open files"));
    await this.#servers.at(-1)!.shutdown();
  }

  [Symbol.dispose](): void {
    Deno.serve = this.#original;
  }
}

Deno.test("HttpServer.stop() does not wait for the delay after the runtime has given up", async () => {
  using failures = new Failures();
  using serving = new Serving();
  const server = new HttpServer(HERE, () => new Response(), {
    minDelay: LONG,
    maxDelay: LONG,
  });
  server.start();
  await serving.giveUp();
  await eventually(() => failures.errors.length === 1);
  // Its delay would be a timer that is left over.
  await server.stop();
  assertEquals(serving.options.length, 1);
});

Deno.test("HttpServer waits longer each time that the runtime gives up", async () => {
  using failures = new Failures();
  using serving = new Serving();
  await using server = new HttpServer(HERE, () => new Response("served"), {
    minDelay: 4,
    maxDelay: 16,
  });
  server.start();
  const giveUpTimes = async (count: number) => {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const before = serving.options.length;
      await serving.giveUp();
      await eventually(() => serving.options.length > before);
    }
    return performance.now() - start;
  };
  // 4, 8, 16 and 16.
  assert(await giveUpTimes(4) >= 44);
  assertEquals((await ask(server)).body, "served");
  assertEquals(failures.errors.length, 4);
});

for (const transport of ["tcp", "unix"] as const) {
  Deno.test(`HttpServer listens again as it was asked to: ${transport}`, async () => {
    using _ = new Failures();
    using serving = new Serving();
    const dir = await Deno.makeTempDir();
    const path = `${dir}/socket`;
    const asked = transport === "unix"
      ? { transport, path }
      : { transport, ...HERE, tcpBacklog: 7 };
    {
      await using server = new HttpServer(asked, () => new Response("served"));
      server.start();
      const { port } = server.address as Deno.NetAddr;
      await serving.giveUp();
      await eventually(() => serving.options.length === 2);
      const { tcpBacklog } = serving.options[1]!;
      assertEquals(tcpBacklog, transport === "tcp" ? 7 : undefined);
      const connect = Deno.connect as (options: object) => Promise<Deno.Conn>;
      using conn = await connect(
        transport === "unix" ? asked : { ...asked, port },
      );
      await say(conn, "GET / HTTP/1.0\r\n\r\n");
      assert((await hear(conn)).endsWith("served"));
    }
    await Deno.remove(dir, { recursive: true });
  });
}

Deno.test("HttpServer.stop() by a handler of another server waits for the answers to what it kills", async () => {
  using serving = new Serving();
  const server = serve(() => new Response(new Uint8Array(64 * 1024 * 1024)));
  await using other = serve(async () => {
    await server.stop({ timeout: 0 });
    return new Response("stopped");
  });
  using client = await RawClient.of(server);
  await client.send("/");
  await client.more();
  assertEquals((await ask(other)).body, "stopped");
  // The client reads nothing more: its connection is left to itself.
  assertEquals(serving.unreffed, 1);
});

Deno.test("HttpServer needs no more memory for many requests", async () => {
  await using server = serve(async () => {
    await sleep(0);
    return new Response("served");
  }, { pool: 10, requestTimeout: LONG, log() {} });
  const round = async () => {
    const clients = Array.from({ length: 10 }, async () => {
      using client = await RawClient.of(server);
      for (let i = 0; i < 100; i++) await client.ask("/");
    });
    await Promise.all(clients);
  };
  await round();
  const before = residentMemory();
  await round();
  await round();
  const grown = residentMemory() - before;
  assert(grown < 60_000_000, `Grown by ${grown}`);
  assertStrictEquals(server.connections.size, 0);
});

/** Sends what it is, and reads to the end. */
async function exchange(server: HttpServer, text: string): Promise<string> {
  using conn = await connectTo(server);
  const said = say(conn, text).catch(() => {});
  const heard = await hearTheEnd(conn);
  await said;
  return heard;
}

/** Answers with the method, the path and the body. */
async function tellBack(request: Request): Promise<Response> {
  const text = await until(request.text());
  const cookies = request.headers.get("cookie") ?? "";
  return new Response(
    `${request.method} ${pathOf(request)} [${text}] ${cookies}`,
  );
}

const CHUNKED = "POST /chunks HTTP/1.1\r\nHost: h\r\n" +
  "Transfer-Encoding: chunked\r\n";
const CLOSE = "Connection: close\r\n";

Deno.test("HttpServer answers requests in their order that come at once", async () => {
  await using server = serve(async (request) => {
    await sleep(pathOf(request) === "/1" ? 20 : 0);
    return await tellBack(request);
  });
  const requests = ["/1", "/2", "/3"].map((path, i) =>
    `GET ${path} HTTP/1.1\r\nHost: h\r\n${i === 2 ? CLOSE : ""}\r\n`
  );
  const heard = await exchange(server, requests.join(""));
  assertEquals(heard.match(/GET \/\d/g), ["GET /1", "GET /2", "GET /3"]);
});

Deno.test("HttpServer ends a connection after the answer, if its client asks for that or speaks HTTP/1.0", async () => {
  await using server = serve(tellBack);
  const one = await exchange(
    server,
    `GET /1 HTTP/1.1\r\nHost: h\r\n${CLOSE}\r\n`,
  );
  assert(one.endsWith("GET /1 [] "));
  const two = await exchange(server, "GET /2 HTTP/1.0\r\n\r\n");
  assert(two.startsWith("HTTP/1.0 200") && two.endsWith("GET /2 [] "));
});

for (
  const [name, body] of Object.entries({
    "in chunks": "2\r\noh\r\n4\r\n hai\r\n0\r\n\r\n",
    "in chunks with extensions":
      '2;a="b c"\r\noh\r\n4;d=e\r\n hai\r\n0\r\n\r\n',
    "in chunks with trailers":
      "2\r\noh\r\n4\r\n hai\r\n0\r\nSome: trailer\r\n\r\n",
  })
) {
  Deno.test(`HttpServer takes a body ${name}, and the next request after it`, async () => {
    await using server = serve(tellBack);
    const next = `GET /next HTTP/1.1\r\nHost: h\r\n${CLOSE}\r\n`;
    const heard = await exchange(server, `${CHUNKED}\r\n${body}${next}`);
    assert(heard.includes("POST /chunks [oh hai]"), heard);
    assert(heard.endsWith("GET /next [] "), heard);
  });
}

for (
  const [name, text] of Object.entries({
    "a negative length":
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -100\r\n\r\n",
    "a length that is none":
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ten\r\n\r\n",
    "a length beside chunks":
      `${CHUNKED}Content-Length: 4\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n`,
    "a header in two lines":
      "GET / HTTP/1.1\r\nHost: h\r\nSome: one\r\n two\r\n\r\n",
    "a path of a megabyte": `GET /${
      "x".repeat(1_000_000)
    } HTTP/1.1\r\nHost: h\r\n\r\n`,
    "something else": "hello world\r\n\r\n",
  })
) {
  Deno.test(`HttpServer handles no request that is no HTTP: ${name}`, async () => {
    let handled = 0;
    await using server = serve(() => {
      handled++;
      return new Response("served");
    });
    const heard = await exchange(server, text);
    // What is not read of it may reset the connection before the answer is.
    assert(heard === "" || heard.startsWith("HTTP/1.1 400 "), heard);
    assertEquals(handled, 0);
  });
}

for (
  const [name, body] of Object.entries({
    "whose length is none": "xyz\r\noh\r\n0\r\n\r\n",
    "without an end of its line": "2\r\noh4\r\n hai\r\n0\r\n\r\n",
    "that a request follows in place of the end":
      "2\r\noh\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
  })
) {
  Deno.test(`HttpServer takes nothing for a body or a request after a chunk ${name}`, async () => {
    using _failures = new Failures();
    const heard: string[] = [];
    await using server = serve(async (request) => {
      heard.push(pathOf(request));
      return await tellBack(request);
    });
    const answer = await exchange(server, `${CHUNKED}\r\n${body}`);
    assertFalse(answer.includes("200 OK"), answer);
    assert(heard.every((path) => path === "/chunks"), String(heard));
  });
}

Deno.test("HttpServer asks for a body that waits to be asked for", async () => {
  await using server = serve(tellBack);
  using conn = await connectTo(server);
  await say(
    conn,
    `POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n${CLOSE}` +
      "Expect: 100-continue\r\n\r\n",
  );
  assert((await hear(conn, 25)).startsWith("HTTP/1.1 100 Continue"));
  await say(conn, "body");
  assert((await hear(conn)).endsWith("POST / [body] "));
});

Deno.test("HttpServer fails the read of a body that ends before its length", async () => {
  using _failures = new Failures();
  const failed = Promise.withResolvers<unknown>();
  await using server = serve(async (request) => {
    try {
      await until(request.text());
    } catch (error) {
      failed.resolve(error);
    }
    return new Response();
  });
  using conn = await connectTo(server);
  await say(
    conn,
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf",
  );
  await conn.closeWrite();
  await hearTheEnd(conn);
  assertInstanceOf(await failed.promise, Error);
});

Deno.test("HttpServer gives a handler all cookies of a request", async () => {
  await using server = serve(tellBack);
  const heard = await exchange(
    server,
    `GET / HTTP/1.0\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n`,
  );
  assert(heard.endsWith("a=1; b=2"));
});
