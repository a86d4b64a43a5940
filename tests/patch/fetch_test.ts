// First what real time is, then what stands in for it, and then the library that takes it
import { Gate, turns, when } from "../_waits.ts";
import { clock, giveBack } from "../_clock.ts";
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import {
  getCurrent,
  getHub,
  type Greenlet,
  GreenletExit,
  monkey,
  patch,
  Queue,
  sleep,
  spawn,
  Timeout,
  until,
  type Wait,
  withTimeout,
} from "../../mod.ts";
import { runScript, settle, testBoth } from "../_bodies.ts";
import { Call, head, Site } from "./_site.ts";
import { test, testRandomly, tick } from "../_random.ts";

giveBack();

/** Longer than any test. */
const LONG = 100_000_000;
/** After how long calls are timed out, in milliseconds of a clock that is moved by hand. */
const SOON = 1000;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Each method that reads a body to its end. */
const READERS = [
  "arrayBuffer",
  "blob",
  "bytes",
  "formData",
  "json",
  "text",
] as const;

/** The outcome of a call, in a form that can be compared. */
async function outcome(run: () => unknown): Promise<unknown> {
  let value;
  try {
    value = await run();
  } catch (error) {
    const { name, message, constructor } = error as Error;
    return { name, message, constructor };
  }
  if (value instanceof Blob) {
    return { type: value.type, text: await value.text() };
  }
  if (value instanceof FormData) {
    const entries = [...value].map(async ([name, value]) => [
      name,
      value instanceof File ? [value.name, await value.text()] : value,
    ]);
    return { entries: await Promise.all(entries) };
  }
  if (value instanceof ArrayBuffer) return { buffer: new Uint8Array(value) };
  return { value };
}

/** Runs in a greenlet that is killed when something has happened; gives its error. */
async function killed(
  run: () => unknown,
  happens: () => Promise<unknown>,
): Promise<unknown> {
  let thrown: unknown;
  const greenlet = spawn(async () => {
    try {
      await run();
    } catch (error) {
      thrown = error;
      throw error;
    }
  }) as Greenlet;
  await happens();
  await greenlet.kill(undefined, { grace: LONG });
  assertStrictEquals(thrown, greenlet.value);
  assertInstanceOf(thrown, GreenletExit);
  return thrown;
}

Deno.test("patch() makes fetch() and the readers of bodies look as before, and restores them", () => {
  const doors: [object, string][] = [[globalThis, "fetch"]];
  for (const { prototype } of [Request, Response]) {
    doors.push(...READERS.map((name): [object, string] => [prototype, name]));
  }
  for (const name of ["arrayBuffer", "bytes", "text"]) {
    doors.push([Blob.prototype, name]);
  }
  const look = () =>
    doors.map(([object, name]) =>
      Object.getOwnPropertyDescriptor(object, name)!
    );
  const before = look();
  {
    using _ = patch();
    for (const [i, { value, ...flags }] of look().entries()) {
      const { value: original, ...flagsBefore } = before[i]!;
      const [object, name] = doors[i]!;
      assertFalse(value === original, name);
      assertEquals(flags, flagsBefore);
      assertEquals([value.name, value.length], [
        original.name,
        original.length,
      ]);
      assertStrictEquals(
        monkey.getOriginal(object, name as never),
        original as never,
      );
    }
  }
  for (const [i, { value }] of look().entries()) {
    assertStrictEquals(value, before[i]!.value);
  }
});

test("fetch() outside greenlets gives the runtime's own promises, and what they give", async () => {
  using _ = patch();
  using site = new Site();
  const fetching = fetch(site.url);
  await (await site.next()).answer("[1]");
  const response = await fetching;
  const reading = response.json();
  for (const promise of [fetching, reading]) {
    assertFalse(Symbol.iterator in promise);
  }
  assertEquals(await reading, [1]);
  assert(response.bodyUsed);
});

test("fetch() in a greenlet refuses what the runtime refuses, with the same errors", async () => {
  using site = new Site();
  const { url } = site;
  const mine = new RangeError("mine");
  const reason = { name: "reason", message: "any value" };
  const calls: (() => unknown[])[] = [
    () => [],
    () => ["no URL"],
    () => [Symbol("no URL")],
    () => ["ftp://127.0.0.1/"],
    () => ["http://127.0.0.1:1/"],
    () => [url, 5],
    () => [url, "options"],
    () => [url, { signal: {} }],
    () => [url, { signal: 5 }],
    () => [url, { signal: AbortSignal.abort(reason) }],
    () => [new Request(url, { signal: AbortSignal.abort(reason) })],
    () => [url, { method: "CONNECT" }],
    () => [url, { body: "with GET" }],
    () => [url, { redirect: "odd" }],
    () => [url, { client: 5 }],
    () => [url, {
      get method() {
        throw mine;
      },
    }],
    () => [url, {
      get signal() {
        throw mine;
      },
    }],
    () => [Object.create(Request.prototype)],
  ];
  const ask = (args: unknown[]) => outcome(() => fetch(...args as [string]));
  for (const call of calls) {
    const expected = await ask(call());
    assert((expected as { name?: string }).name, String(call));
    using _ = patch();
    assertEquals(await ask(call()), expected, `outside: ${call}`);
    assertEquals(await spawn(ask, call()).get(), expected, `inside: ${call}`);
  }
});

test("fetch() in a greenlet takes options of every kind", async () => {
  using site = new Site();
  const { url } = site;
  class Options {
    get method() {
      return "PUT";
    }
    get headers() {
      return { "x-own": "1" };
    }
    #body = "body";
    get body() {
      return this.#body;
    }
  }
  const calls: (() => [Request | URL | string, unknown?])[] = [
    () => [url],
    () => [new URL(url)],
    () => [url, undefined],
    () => [url, null],
    () => [url, {}],
    () => [url, { method: "POST", body: "body", headers: [["x-own", "2"]] }],
    () => [url, Object.freeze({ method: "DELETE", signal: null })],
    () => [url, new Options()],
    () => [url, Object.create({ method: "PATCH" })],
    () => [url, Object.assign(() => {}, { method: "POST" })],
    () => [url, new Request(url, { method: "PUT", headers: { "x-own": "3" } })],
    () => [new Request(url, { headers: { "x-own": "4" } })],
    () => [new Request(url, { method: "POST", body: "body" }), {}],
    () => [new Request(url, { headers: { "x-own": "5" } }), { method: "PUT" }],
    () => [new Request(url), { signal: null, headers: { "x-own": "6" } }],
    () => [url, { signal: new AbortController().signal, keepalive: true }],
  ];
  async function ask(args: unknown[]): Promise<string> {
    const fetching = fetch(...args as [string]).then((it) => it.text());
    const call = await site.next();
    const isWhole = () =>
      !/^content-length: 4/m.test(call.received) ||
      call.received.endsWith("body");
    while (!isWhole()) await call.receive();
    await call.answer("done");
    assertEquals(await fetching, "done");
    return call.received;
  }
  for (const call of calls) {
    const expected = await ask(call());
    using _ = patch();
    assertEquals(await spawn(ask, call()).get(), expected, String(call));
  }
});

/** Bodies of every kind, and how they can be in the way. */
const bodies: Record<string, () => Request | Response> = {
  "none": () => new Response(null),
  "none, of a request": () => new Request("http://a/"),
  "empty": () => new Response(""),
  "json": () => new Response('{"a":[1,2]}'),
  "bytes": () => new Response(new Uint8Array([0x7b, 0x7d])),
  "bad utf-8": () => new Response(new Uint8Array([0xff, 0x41])),
  "blob": () => new Response(new Blob(["12"], { type: "image/png" })),
  "search": () => new Response(new URLSearchParams("a=1&b=%20")),
  "form": () =>
    new Response(
      pieces(
        encoder.encode('--x\r\ncontent-disposition: form-data; name="a"\r\n'),
        encoder.encode("\r\n1\r\n--x\r\ncontent-disposition: form-data; "),
        encoder.encode('name="b"; filename="c"\r\n\r\ncontent\r\n--x--\r\n'),
      ),
      { headers: { "content-type": "multipart/form-data; boundary=x" } },
    ),
  "form without a boundary": () =>
    new Response("x", { headers: { "content-type": "multipart/form-data" } }),
  "type": () =>
    new Response("1", { headers: { "Content-Type": "Text/Plain; a=B" } }),
  "types": () =>
    new Response("1", {
      headers: [["content-type", "text/a"], ["content-type", "text/b"]],
    }),
  "pieces": () =>
    new Response(pieces(encoder.encode('{"a'), encoder.encode('":1}'))),
  "pieces, of a request": () =>
    new Request("http://a/", {
      method: "POST",
      body: pieces(encoder.encode("a="), encoder.encode("1")),
      headers: { "content-type": "application/x-www-form-urlencoded" },
    }),
  "no pieces": () => new Response(pieces()),
  "text for bytes": () => new Response(pieces("text" as never)),
  "numbers for bytes": () =>
    new Response(pieces(new Uint8Array(1), 5 as never)),
  "failure": () => new Response(pieces(new Uint8Array(1), new RangeError("x"))),
  "bad resource": () =>
    new Response(pieces(new Deno.errors.BadResource("Bad resource ID"))),
  "locked": () => {
    const response = new Response("text");
    response.body!.getReader();
    return response;
  },
  "touched": () => {
    const response = new Response(pieces(new Uint8Array(1)));
    const reader = response.body!.getReader();
    reader.read().catch(() => {});
    reader.releaseLock();
    return response;
  },
  "used": () => {
    const response = new Response("text");
    response.text();
    return response;
  },
  "a clone": () => new Response("12").clone(),
  "a clone of pieces": () => new Response(pieces(encoder.encode("1"))).clone(),
  "cloned": () => {
    const response = new Response(pieces(encoder.encode("1")));
    response.clone();
    return response;
  },
  "a clone of a request": () =>
    new Request("http://a/", { method: "POST", body: "34" }).clone(),
  "an error": () => Response.error(),
  "nothing of the kind": () => ({}) as Response,
};

function pieces(
  ...chunks: (Uint8Array<ArrayBuffer> | Error)[]
): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    pull(controller) {
      const chunk = chunks.shift();
      if (chunk instanceof Error) controller.error(chunk);
      else if (chunk !== undefined) controller.enqueue(chunk);
      if (chunks.length === 0 && !(chunk instanceof Error)) controller.close();
    },
  }, { highWaterMark: 0 });
}

for (const reader of READERS) {
  test(`Body.${reader}() in a greenlet gives what it gives outside`, async () => {
    const { text } = Blob.prototype;
    async function read(it: Request | Response): Promise<unknown> {
      const { prototype } = it instanceof Request ? Request : Response;
      const result = await outcome(() => prototype[reader].call(it as never));
      return [result, it.bodyUsed, it.body?.locked];
    }
    for (const [name, make] of Object.entries(bodies)) {
      const expected = await read(make());
      using _ = patch();
      assertEquals(await spawn(read, make()).get(), expected, name);
      assertEquals(await read(make()), expected, `${name}, outside`);
    }
    assertStrictEquals(Blob.prototype.text, text);
  });

  test(`Response.${reader}() in a greenlet gives what was fetched`, async () => {
    using site = new Site();
    const search = "content-type: application/x-www-form-urlencoded";
    async function read(text: string, ...headers: string[]): Promise<unknown> {
      const fetching = fetch(site.url);
      await (await site.next()).answer(text, ...headers);
      const response = await fetching;
      const first = await outcome(() => response[reader]());
      const state = [response.bodyUsed, response.body?.locked];
      return [first, state, await outcome(() => response[reader]())];
    }
    for (
      const args of [["[1]"], ["a=1&b", search], [""], [
        "x",
        "content-type: a/b",
      ]]
    ) {
      const [text, ...headers] = args as [string];
      const expected = await read(text, ...headers);
      using _ = patch();
      assertEquals(await spawn(read, text, ...headers).get(), expected, text);
    }
  });
}

test("Request.json() of a body that has arrived as a whole is no switch point", async () => {
  using _ = patch();
  const make = (body: BodyInit) =>
    new Request("http://a/", { method: "POST", body });
  await spawn(async () => {
    // The runtime's own promise, where a wait has an iterator.
    const whole = make("[1]").json();
    assertFalse(Symbol.iterator in whole);
    assertEquals(await whole, [1]);
    const coming = make(pieces(encoder.encode("[2]"))).json();
    assert(Symbol.iterator in coming);
    assertEquals(await coming, [2]);
  }).get();
});

test("Request.text() of a response, and the other way round, is refused as before", async () => {
  const calls = [
    () => Request.prototype.text.call(new Response("text") as never),
    () => Response.prototype.text.call(new Request("http://a/") as never),
    () => Response.prototype.text.call(undefined as never),
    () => Blob.prototype.text.call(new Response("text") as never),
  ];
  for (const call of calls) {
    const expected = await outcome(call);
    assertEquals((expected as { name: string }).name, "TypeError");
    using _ = patch();
    assertEquals(await spawn(outcome, call).get(), expected);
  }
});

test("fetch() in a greenlet follows redirects, or does not, as it is told", async () => {
  using site = new Site();
  const redirect =
    `HTTP/1.1 302 Found\r\nlocation: /to\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`;
  async function ask(redirection: RequestRedirect): Promise<unknown> {
    const fetching = outcome(async () => {
      const response = await fetch(site.url, { redirect: redirection });
      await response.body?.cancel();
      return [response.status, response.redirected, response.url];
    });
    const call = await site.next();
    await call.send(redirect);
    call.close();
    if (redirection === "follow") {
      const call = await site.next();
      assertStringIncludes(call.received, "GET /to ");
      await call.answer("");
    }
    return await fetching;
  }
  for (const redirection of ["follow", "manual", "error"] as const) {
    const expected = await ask(redirection);
    using _ = patch();
    assertEquals(await spawn(ask, redirection).get(), expected);
  }
});

test("fetch() in a greenlet uses the client that it is told", async () => {
  using _ = patch();
  using site = new Site();
  using proxy = new Site();
  using client = Deno.createHttpClient({ proxy: { url: proxy.url } });
  const getting = spawn(() => fetch(site.url, { client })).get();
  await (await proxy.next()).answer("");
  assertEquals(await (await getting).text(), "");
  let call: Call;
  await killed(
    () => fetch(site.url, { client }),
    async () => call = await proxy.next(),
  );
  await call!.gone();
});

testBoth(
  "fetch() that is killed before the response closes its connection",
  {
    async: async (url: string, log: string[]) => {
      try {
        await fetch(url);
      } finally {
        log.push("cleaned up");
      }
    },
    *generator(url: string, log: string[]) {
      try {
        yield* until(fetch(url));
      } finally {
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    using _ = patch();
    using site = new Site();
    const log: string[] = [];
    const greenlet = spawn(body, site.url, log);
    const call = await site.next();
    await greenlet.kill();
    assertEquals(log, ["cleaned up"]);
    assertInstanceOf(greenlet.value as unknown, GreenletExit);
    await call.gone();
  },
);

testBoth(
  "Response.text() that is killed in the middle of the body closes its connection",
  {
    async: async (url: string, log: string[]) => {
      const response = await fetch(url);
      log.push("begun");
      try {
        await response.text();
      } finally {
        log.push("cleaned up");
      }
    },
    *generator(url: string, log: string[]) {
      const response = yield* until(fetch(url));
      log.push("begun");
      try {
        yield* until(response.text());
      } finally {
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    using _ = patch();
    using site = new Site();
    const log: string[] = [];
    const greenlet = spawn(body, site.url, log);
    const call = await site.next();
    await call.send(head(10) + "12345");
    await when(() => log.length > 0);
    await settle();
    await greenlet.kill();
    assertEquals(log, ["begun", "cleaned up"]);
    assertInstanceOf(greenlet.value as unknown, GreenletExit);
    await call.gone();
  },
);

/** Runs a function for a short time only, and gives the error that has interrupted it. */
const limits: Record<string, (run: () => Promise<unknown>) => Wait<unknown>> = {
  "withTimeout": (run) =>
    spawn(() => withTimeout(SOON, () => run().catch((error) => error))).get(),
  "withTimeout outside greenlets": (run) =>
    withTimeout(SOON, () => run().catch((error) => error)),
  "Timeout.start": (run) =>
    spawn(async () => {
      using timeout = Timeout.start(SOON);
      const error = await run().catch((error) => error);
      assertStrictEquals(error, timeout);
      return error;
    }).get(),
};

for (const [name, limit] of Object.entries(limits)) {
  test(`fetch() and the readers of its response are timed out, and close their connection, ${name}`, async () => {
    using _ = patch();
    using _time = clock.stop();
    using site = new Site();
    const fetching = limit(() => fetch(site.url)).catch((error) => error);
    const asked = await site.next();
    await clock.pass(SOON + 1);
    await asked.gone();
    assertInstanceOf(await fetching, Timeout);

    const isAnswered = new Gate();
    const reading = limit(async () => {
      const response = await fetch(site.url);
      isAnswered.open();
      return await response.json();
    }).catch((error) => error);
    const call = await site.next();
    await call.send(head(3) + "[");
    await isAnswered.opened;
    await clock.pass(SOON + 1);
    await call.gone();
    assertInstanceOf(await reading, Timeout);
  });
}

for (const reader of READERS) {
  test(`Body.${reader}() that is interrupted ends the body, wherever it comes from`, async () => {
    using _ = patch();
    using site = new Site();
    async function get(): Promise<[Response, Call]> {
      const fetching = fetch(site.url);
      const call = await site.next();
      await call.send(head(100, "content-type: multipart/form-data") + "1");
      return [await fetching, call];
    }

    const [inside, call1] = await spawn(get).get();
    await killed(() => inside[reader](), settle);
    await call1.gone();
    assert(inside.bodyUsed);

    const [outside, call2] = await get();
    await killed(() => outside[reader](), settle);
    await call2.gone();
    assert(outside.bodyUsed);

    // The rest of what is there has a source that can tell.
    for (
      const make of [
        (body: ReadableStream) => new Response(body),
        (body: ReadableStream) =>
          new Request("http://a/", { method: "POST", body }),
      ]
    ) {
      const reasons: unknown[] = [];
      const body = new ReadableStream({
        start: (controller) => controller.enqueue(new Uint8Array(1)),
        cancel(reason) {
          reasons.push(reason);
          throw new Error("nobody's business");
        },
      });
      const it = make(body);
      const error = await killed(() => it[reader](), settle);
      assertEquals(reasons.length, 1);
      assertStrictEquals(reasons[0], error);
    }
  });
}

test("fetch() that ended before the interrupt keeps its response, and no connection is left", async () => {
  using _ = patch();
  using site = new Site();
  const received: string[] = [];
  for (let count = 0; count < 30; count++) {
    let response: Response | null = null;
    const greenlet = spawn(async () => {
      response = await fetch(site.url);
    });
    const call = await site.next();
    const answered = call.send(head(4) + "text");
    // From before the answer to after it.
    for (let i = 0; i < count; i++) await (i % 3 === 0 ? turns(3) : null);
    if (count === 29) await when(() => response !== null);
    await greenlet.kill();
    const got = response as Response | null;
    if (got === null) {
      assertInstanceOf(greenlet.value as unknown, GreenletExit);
      await answered.catch(() => {});
      await call.gone();
    } else {
      await answered;
      received.push(await got.text());
      call.close();
    }
  }
  for (const text of received) assertEquals(text, "text");
  assertGreaterOrEqual(received.length, 1);
});

test("fetch() that a program has replaced may give one response twice", async () => {
  const original = globalThis.fetch;
  try {
    const response = new Response("text");
    globalThis.fetch = () => Promise.resolve(response);
    using _ = patch();
    await spawn(async () => {
      for (let i = 0; i < 2; i++) {
        assertStrictEquals(await fetch("http://a/"), response);
      }
      assertEquals(await response.text(), "text");
    }).get();
  } finally {
    globalThis.fetch = original;
  }
});

test("fetch() that a program has replaced may give anything but a response", async () => {
  const original = globalThis.fetch;
  try {
    for (const value of [undefined, null, 1, { body: "text" }] as never[]) {
      globalThis.fetch = () => Promise.resolve(value);
      using _ = patch();
      assertEquals(await spawn(() => fetch("http://a/")).get(), value);
      const fetching = spawn(() => fetch("http://a/"));
      await until(Promise.resolve());
      await fetching.kill();
    }
    await settle();
  } finally {
    globalThis.fetch = original;
  }
});

test("fetch() whose response comes in the same turn as the kill gives it, or gives it back", async () => {
  const original = globalThis.fetch;
  const outcomes = new Set<string>();
  try {
    for (let turns = 0; turns < 10; turns++) {
      const answer = Promise.withResolvers<Response>();
      globalThis.fetch = () => answer.promise;
      using _ = patch();
      let cancelled = false;
      let response: Response | undefined;
      const greenlet = spawn(async () => {
        response = await fetch("http://a/");
      });
      await sleep(0);
      const body = new ReadableStream({
        cancel: () => void (cancelled = true),
      });
      answer.resolve(new Response(body));
      for (let i = 0; i < turns; i++) await Promise.resolve();
      if (turns === 9) await settle();
      await greenlet.kill();
      await settle();
      const isKilled = greenlet.value as unknown instanceof GreenletExit;
      assertEquals([response === undefined, cancelled], [isKilled, isKilled]);
      outcomes.add(isKilled ? "given back" : "received");
    }
  } finally {
    globalThis.fetch = original;
  }
  assertEquals([...outcomes], ["given back", "received"]);
});

test("Body.text() that was over before the interrupt keeps its text", async () => {
  using _ = patch();
  const outcomes = new Set<unknown>();
  for (let turns = 0; turns < 40; turns++) {
    let end!: () => void;
    const body = new ReadableStream({
      start(controller) {
        end = () => {
          controller.enqueue(encoder.encode("text"));
          controller.close();
        };
      },
    });
    const greenlet = spawn(() => new Response(body).text());
    await sleep(0);
    end();
    for (let i = 0; i < turns; i++) await Promise.resolve();
    if (turns === 39) await settle();
    await greenlet.kill();
    outcomes.add(String(greenlet.value));
  }
  assertEquals([...outcomes], ["GreenletExit", "text"]);
});

test("Body.text() after an interrupt gives the connection back", async () => {
  using _ = patch();
  using site = new Site();
  for (const clone of [false, true]) {
    const held = Promise.withResolvers<void>();
    let response: Response | undefined;
    let text: unknown;
    const greenlet = spawn(async () => {
      response = await fetch(site.url);
      if (clone) response = new Response(response.body);
      await held.promise;
      try {
        text = await response.text();
      } catch (error) {
        text = error;
        throw error;
      }
    });
    const call = await site.next();
    await call.send(head(4) + "te");
    await when(() => response !== undefined);
    const killing = greenlet.kill(undefined, { grace: LONG });
    held.resolve();
    await killing;
    assertStrictEquals(text, greenlet.value);
    assertInstanceOf(text, GreenletExit);
    await call.gone();
  }
});

test("fetch() after an interrupt sends no request", async () => {
  using _ = patch();
  let asked = 0;
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => new Response(String(++asked)),
  );
  const url = `http://127.0.0.1:${server.addr.port}/`;
  const held = Promise.withResolvers<void>();
  let thrown: unknown;
  const greenlet = spawn(async () => {
    await held.promise;
    await fetch(url).catch((error) => thrown = error);
    return await (await fetch(url)).text();
  });
  await sleep(0);
  const error = new Error("the interrupt");
  greenlet.throw(error);
  held.resolve();
  assertEquals(await greenlet.get(), "1");
  assertStrictEquals(thrown, error);
});

test("Body.text() after an interrupt leaves a body alone that another greenlet reads", async () => {
  using _ = patch();
  using site = new Site();
  const fetching = spawn(() => fetch(site.url)).get();
  const call = await site.next();
  await call.send(head(4) + "te");
  const response = await fetching;
  const reading = spawn(() => response.text());
  await sleep(0);
  await killed(
    () => sleep(LONG).catch(() => {}).then(() => response.text()),
    settle,
  )
    .catch(() => {});
  const second = spawn(() => response.text());
  await assertRejects(() => second.get(), TypeError);
  await second.kill();
  await call.send("xt");
  assertEquals(await reading.get(), "text");
  call.close();
});

/** Ways of telling `fetch` of a signal. */
const tellings: Record<
  string,
  (url: string, signal: AbortSignal) => Wait<Response> | Promise<Response>
> = {
  "options": (url, signal) => fetch(url, { signal }),
  "a request": (url, signal) => fetch(new Request(url, { signal })),
  "a request and options": (url, signal) =>
    fetch(new Request(url, { signal }), { headers: {} }),
  "options over a request": (url, signal) =>
    fetch(new Request(url, { signal: AbortSignal.abort() }), { signal }),
  "any of several": (url, signal) =>
    fetch(url, {
      signal: AbortSignal.any([signal, new AbortController().signal]),
    }),
};

for (const [name, ask] of Object.entries(tellings)) {
  test(`fetch() in a greenlet obeys its caller's signal, given by ${name}`, async () => {
    using _ = patch();
    using site = new Site();
    const reason = new Error("the caller's");

    const first = new AbortController();
    const fetching = spawn(() => ask(site.url, first.signal)).get();
    const call1 = await site.next();
    first.abort(reason);
    assertStrictEquals(await fetching.catch((error) => error), reason);
    await call1.gone();

    const second = new AbortController();
    const answering = spawn(() => ask(site.url, second.signal)).get();
    const call2 = await site.next();
    await call2.send(head(4) + "te");
    const response = await answering;
    const reading = spawn(() => response.text()).get();
    await sleep(0);
    second.abort(reason);
    assertStrictEquals(await reading.catch((error) => error), reason);
    await call2.gone();

    // Nor is the signal touched by an interrupt.
    const third = new AbortController();
    let call3: Call;
    await killed(
      () => ask(site.url, third.signal),
      async () => call3 = await site.next(),
    );
    await call3!.gone();
    assertFalse(third.signal.aborted);
    third.abort(reason);

    const over = AbortSignal.abort(reason);
    assertStrictEquals(
      await spawn(() => ask(site.url, over)).get().catch((error) => error),
      reason,
    );
  });
}

test("fetch() in a greenlet with a signal of null is killed all the same", async () => {
  using _ = patch();
  using site = new Site();
  const signal = AbortSignal.abort();
  let call: Call;
  await killed(
    () => fetch(new Request(site.url, { signal }), { signal: null }),
    async () => call = await site.next(),
  );
  await call!.gone();
});

test("fetch() in a greenlet takes the greenlet's own signal", async () => {
  using _ = patch();
  using site = new Site();
  let call: Call;
  await killed(
    () => fetch(site.url, { signal: (getCurrent() as Greenlet).signal }),
    async () => call = await site.next(),
  );
  await call!.gone();
});

test("fetch() that is killed after a redirect closes the second connection", async () => {
  using _ = patch();
  using site = new Site();
  let call: Call;
  await killed(() => fetch(site.url), async () => {
    const first = await site.next();
    await first.send(
      "HTTP/1.1 307 Temporary\r\nlocation: /to\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    first.close();
    call = await site.next();
  });
  await call!.gone();
});

test("fetch() that is killed while it sends a body cancels that", async () => {
  using _ = patch();
  using site = new Site();
  const { promise: cancelled, resolve } = Promise.withResolvers<unknown>();
  let begun = 0;
  let sent = 0;
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      begun++;
      await tick(1);
      sent++;
      controller.enqueue(new Uint8Array(10));
    },
    cancel: resolve,
  });
  let call: Call;
  await killed(() => fetch(site.url, { method: "POST", body }), async () => {
    call = await site.next();
    await when(() => sent >= 3);
  });
  await call!.gone();
  await cancelled;
  await when(() => sent === begun);
});

test("Response.clone() is read to its end when the reader of the other one is interrupted", async () => {
  using _ = patch();
  using site = new Site();
  for (const victim of [0, 1]) {
    const fetching = spawn(() => fetch(site.url)).get();
    const call = await site.next();
    await call.send(head(4) + "te");
    const response = await fetching;
    const both = [response, response.clone()];
    const greenlets = both.map((it) => spawn(() => it.text()));
    await settle();
    await greenlets[victim]!.kill();
    assertInstanceOf(greenlets[victim]!.value as unknown, GreenletExit);
    await call.send("xt");
    assertEquals(await greenlets[1 - victim]!.get(), "text");
    call.close();
  }
});

test("Response.clone() gives the connection back when the readers of both are interrupted", async () => {
  using _ = patch();
  using site = new Site();
  const fetching = spawn(() => fetch(site.url)).get();
  const call = await site.next();
  await call.send(head(4) + "te");
  const response = await fetching;
  const copy = response.clone();
  await killed(() => response.text(), settle);
  await killed(() => copy.text(), settle);
  await call.gone();
});

test("Response that a greenlet has left can be read by others", async () => {
  using _ = patch();
  using site = new Site();
  const responses = new Queue<Response>();
  const owner = spawn(async () => {
    for (let i = 0; i < 3; i++) await responses.put(await fetch(site.url));
    await sleep(LONG);
  });
  const calls: Call[] = [];
  for (let i = 0; i < 3; i++) {
    const call = await site.next();
    await call.send(head(4) + "te");
    calls.push(call);
  }
  await when(() => responses.qsize() === 3);
  await owner.kill();
  const [one, two, three] = [1, 2, 3].map(() => responses.getNowait());
  const reading = [one!.text(), spawn(() => two!.text()).get()];
  await sleep(0);
  for (const call of calls.slice(0, 2)) await call.send("xt");
  assertEquals(await Promise.all(reading), ["text", "text"]);
  await killed(() => three!.text(), settle);
  await calls[2]!.gone();
});

test("Request.text() of a server's handler is timed out, and the handler answers", async () => {
  using _ = patch();
  using _time = clock.stop();
  const isAsked = new Gate();
  const { promise: thrown, resolve } = Promise.withResolvers<unknown>();
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    async (request) => {
      isAsked.open();
      const text = await withTimeout(
        SOON,
        () =>
          request.text().catch((error) => {
            resolve(error);
            throw error;
          }),
        { value: "too slow" },
      );
      return new Response(text);
    },
  );
  const conn = await Deno.connect({ port: server.addr.port });
  const call = new Call(conn);
  const question = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
  await call.send(`${question}content-length: 10\r\n\r\n12345`);
  await isAsked.opened;
  await clock.pass(SOON + 1);
  assertInstanceOf(await thrown, Timeout);
  while (!call.received.includes("too slow")) assert(await call.receive());
  call.close();

  const second = new Call(await Deno.connect({ port: server.addr.port }));
  await second.send(`${question}content-length: 4\r\n\r\nte`);
  await settle();
  await second.send("xt");
  while (!second.received.endsWith("text")) assert(await second.receive());
  second.close();
});

for (
  const [name, options] of Object.entries({
    "without the streams": { streams: false },
    "with no other part": {
      timers: false,
      net: false,
      tls: false,
      streams: false,
      dns: false,
      fs: false,
      process: false,
      http: false,
      websocket: false,
    },
  })
) {
  test(`patch() makes fetch() cooperative ${name}`, async () => {
    using _ = patch(options);
    assert(monkey.isPatched("fetch"));
    using site = new Site();
    for (const wrap of [(it: Response) => it, (it: Response) => it.clone()]) {
      const reading = spawn(async () => wrap(await fetch(site.url)).text());
      await (await site.next()).answer("text");
      assertEquals(await reading.get(), "text");
    }
    let call: Call;
    const isAnswered = new Gate();
    await killed(
      async () => {
        const { body } = await fetch(site.url);
        isAnswered.open();
        return await new Response(body).text();
      },
      async () => {
        call = await site.next();
        await call.send(head(4) + "te");
        await isAnswered.opened;
        await settle();
      },
    );
    await call!.gone();
  });
}

test("patch() without the part leaves fetch() as it is", () => {
  const { fetch } = globalThis;
  const { text } = Response.prototype;
  using _ = patch({ fetch: false });
  assertFalse(monkey.isPatched("fetch"));
  assertStrictEquals(globalThis.fetch, fetch);
  assertStrictEquals(Response.prototype.text, text);
  return Promise.resolve();
});

test("patch() disposed of while fetch() and readers are pending lets them go on, and be killed", async () => {
  const restore = patch();
  using site = new Site();
  const fetching = [1, 2].map(() => spawn(() => fetch(site.url)));
  const calls = [await site.next(), await site.next()];
  let answered = 0;
  const reading = [1, 2].map((i) =>
    spawn(async () => {
      const response = await fetch(site.url);
      answered++;
      return await (i === 1 ? response : response.clone()).text();
    })
  );
  for (const _ of reading) {
    const call = await site.next();
    await call.send(head(4) + "te");
    calls.push(call);
  }
  await when(() => answered === 2);
  await settle();
  restore[Symbol.dispose]();

  const [first, second, third, fourth] = calls as [Call, Call, Call, Call];
  await Promise.all([first, second].map((it) => it.send(head(4) + "te")));
  const responses = await Promise.all(fetching.map((it) => it.get()));
  await reading[0]!.kill();
  await third.gone();
  await fourth.send("xt");
  assertEquals(await reading[1]!.get(), "text");
  const texts = responses.map((it) => spawn(() => it.text()).get());
  await Promise.all([first, second].map((it) => it.send("xt")));
  assertEquals(await Promise.all(texts), ["text", "text"]);
});

test("fetch() that is not awaited is interrupted with the rest, and causes no unhandled rejection", async () => {
  using _ = patch();
  using site = new Site();
  const isAnswered = new Gate();
  const greenlet = spawn(async () => {
    fetch(site.url);
    const response = await fetch(`${site.url}answered`);
    isAnswered.open();
    response.clone().text();
    response.json();
    await sleep(LONG);
  });
  const calls = [await site.next(), await site.next()];
  for (const call of calls) {
    if (call.received.includes("answered")) await call.send(head(4) + "te");
  }
  await isAnswered.opened;
  await settle();
  await greenlet.kill();
  for (const call of calls) await call.gone();
});

test("Response.text() can be interrupted after a garbage collection", async () => {
  const { out, err, code } = await runScript(`
    const { setFlagsFromString } = await import("node:v8");
    setFlagsFromString("--expose-gc");
    const { runInNewContext } = await import("node:vm");
    const gc = runInNewContext("gc");
    using _ = patch();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const url = "http://127.0.0.1:" + listener.addr.port;
    const text = "HTTP/1.1 200 OK\\r\\ncontent-length: 9\\r\\n\\r\\n1234";
    const readers = [];
    const gone = [];
    let answered = 0;
    for (let i = 0; i < 10; i++) {
      readers.push(spawn(async () => {
        const response = await fetch(url);
        answered++;
        return await response.text();
      }));
      const conn = await listener.accept();
      const buffer = new Uint8Array(1000);
      await conn.read(buffer);
      await conn.write(new TextEncoder().encode(text));
      gone.push(conn.read(buffer).catch(() => null).finally(() => conn.close()));
    }
    while (answered < 10) await sleep(1);
    for (let i = 0; i < 5; i++) {
      await idle();
      gc();
    }
    killAll(readers);
    console.log((await Promise.all(gone)).every((end) => end === null));
    listener.close();
  `);
  assertEquals([err, out, code], ["", ["true"], 0]);
});

testBoth(
  "Blob.text() in a greenlet gives its text, and is a switch point",
  {
    async: async (blob: Blob, log: string[]) => {
      for (;;) log.push(await blob.text());
    },
    *generator(blob: Blob, log: string[]) {
      for (;;) log.push(yield* until(blob.text()));
    },
  },
  async (body) => {
    using _ = patch();
    const log: string[] = [];
    const greenlet = spawn(body, new Blob(["te", "xt"]), log);
    await when(() => log.length >= 3);
    await greenlet.kill();
    assertInstanceOf(greenlet.value as unknown, GreenletExit);
    assertEquals(new Set(log), new Set(["text"]));
    const blob = new Blob(["a"]);
    assertEquals(await spawn(() => blob.bytes()).get(), encoder.encode("a"));
    assertEquals((await spawn(() => blob.arrayBuffer()).get()).byteLength, 1);
  },
);

/** A body whose letters are numbered, and a JSON text. */
function numbered(length: number): string {
  const letters = Uint8Array.from(
    { length },
    (_, i) => 65 + (i * 7 + (i >> 6) * 11) % 26,
  );
  return `"${new TextDecoder().decode(letters)}"`;
}

/** Answers each request with a numbered body, slowly and in pieces, or stops halfway. */
class SlowSite {
  readonly #site = new Site();
  readonly #next: () => number;
  readonly #answers: Promise<void>[] = [];
  /** The share of the answers that never end, apart from those that are to be whole. */
  stalling = 0;

  constructor(next: () => number) {
    this.#next = next;
    this.#serve().catch(() => {});
  }

  get url(): string {
    return this.#site.url;
  }

  async #serve(): Promise<void> {
    for (;;) this.#answers.push(this.#answer(await this.#site.next()));
  }

  async #answer(call: Call): Promise<void> {
    let isGone = false;
    let cutShort = () => {};
    const gone = call.gone().then(() => {
      isGone = true;
      cutShort();
    });
    const delay = () =>
      new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, this.#next() * 2);
        cutShort = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    const text = numbered(Number(/\/(\d+)/.exec(call.received)![1]));
    const stalls = !call.received.includes("/whole") &&
      this.#next() < this.stalling;
    const pieces = [head(text.length)];
    for (let start = 0; start < text.length;) {
      const end = start + 1 + Math.floor(this.#next() * text.length);
      pieces.push(text.slice(start, end));
      start = end;
    }
    if (stalls) pieces.length = Math.floor(this.#next() * pieces.length);
    try {
      for (const piece of pieces) {
        if (!isGone && this.#next() < 0.5) await delay();
        if (isGone) break;
        await call.send(piece);
      }
    } catch {
      // It was gone before we knew.
    }
    // Only the client can end a response that stalls; a whole one is ended here.
    if (!stalls) call.close();
    await gone.catch(() => {});
  }

  /** Waits until the last connection is gone. */
  async close(): Promise<void> {
    await Promise.all(this.#answers);
    this.#site[Symbol.dispose]();
  }
}

type Get = (url: string) => Promise<string>;

/** Ways of getting a body, each to its end. */
const gets: Get[] = [
  async (url) => await (await fetch(url)).text(),
  async (url) => `"${await (await fetch(url)).json()}"`,
  async (url) => decoder.decode(await (await fetch(url)).bytes()),
  async (url) => decoder.decode(await (await fetch(url)).arrayBuffer()),
  async (url) => await (await (await fetch(url)).blob()).text(),
  async (url) =>
    await (await fetch(new Request(url), {
      signal: new AbortController().signal,
    })).text(),
  async (url) => await new Response((await fetch(url)).body).text(),
  async (url) => {
    const response = await fetch(url);
    const copy = response.clone();
    try {
      return await response.text();
    } finally {
      copy.body!.cancel().catch(() => {});
    }
  },
  async (url) => {
    const response = await fetch(url);
    // Another greenlet reads it, and is killed with us.
    const reader = spawn(() => response.text());
    try {
      return await reader.get();
    } finally {
      reader.kill(undefined, { block: false });
      // It may not even have begun.
      if (!response.bodyUsed) response.body!.cancel();
    }
  },
];

/** Each gets a body, for `ms` at the most; `undefined` if that was not enough. */
const impatient:
  ((get: () => Promise<string>, ms: number) => Promise<string | undefined>)[] =
    [
      (get, ms) =>
        spawn(() => withTimeout(ms, get, { value: undefined })).get(),
      (get, ms) => withTimeout(ms, get, { value: undefined }),
      (get, ms) =>
        spawn(async () => {
          using timeout = Timeout.start(ms);
          try {
            return await get();
          } catch (error) {
            if (error !== timeout) throw error;
          }
        }).get(),
      ...[LONG, 0].map(
        (grace) => async (get: () => Promise<string>, ms: number) => {
          const greenlet = spawn(get);
          await greenlet.join({ timeout: ms });
          await greenlet.kill(undefined, { grace });
          if (greenlet.exception !== undefined) throw greenlet.exception;
          const { value } = greenlet as { value: unknown };
          return value instanceof GreenletExit ? undefined : value as string;
        },
      ),
    ];

testRandomly(
  "fetch() and its bodies lose and leave nothing when hundreds are interrupted",
  async (next) => {
    using _ = patch();
    const site = new SlowSite(next);
    let whole = 0;
    let interrupted = 0;
    const pick = <T>(list: T[]): T => list[Math.floor(next() * list.length)]!;
    async function work(count: number, patience: () => number): Promise<void> {
      for (let i = 0; i < count; i++) {
        const length = Math.floor(next() ** 3 * 100_000);
        const get = pick(gets);
        const isPatient = next() < 0.2;
        const text = await pick(impatient)(
          () => get(`${site.url}${length}${isPatient ? "/whole" : ""}`),
          isPatient ? LONG : patience(),
        );
        if (text === undefined) {
          interrupted++;
        } else {
          whole++;
          assert(text === numbered(length), `${length} bytes are others`);
        }
      }
    }
    const all = (count: number, patience: () => number) =>
      Promise.all(Array.from({ length: 20 }, () => work(count, patience)));
    // The time it takes on this machine when nothing stalls and nothing is interrupted.
    const start = performance.now();
    await all(2, () => LONG);
    assertEquals(interrupted, 0);
    const usual = (performance.now() - start) / 2;
    whole = 0;
    site.stalling = 0.5;
    await all(25, () => next() ** 2 * 2 * usual);
    await site.close();
    assertGreaterOrEqual(interrupted, 150);
    assertGreaterOrEqual(whole, 60);
  },
);

test("Response.text() that is interrupted cancels a stream outside greenlets, not in the killer", async () => {
  using _ = patch();
  const cancelled = Promise.withResolvers<unknown>();
  const response = new Response(
    new ReadableStream({ cancel: () => cancelled.resolve(getCurrent()) }),
  );
  const reader = spawn(() => response.text());
  await sleep(0);
  await spawn(() => reader.kill()).join();
  assertEquals(await cancelled.promise, getHub());
});
