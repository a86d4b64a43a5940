import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { Hono } from "hono";
import {
  getCurrent,
  type Greenlet,
  GreenletExit,
  patch,
  type PatchOptions,
  run,
  sleep,
  spawn,
  until,
} from "../../mod.ts";
import { Failures, runScript, testBoth } from "../_bodies.ts";

const LONG = 100_000_000;

type Server = Deno.HttpServer<Deno.NetAddr>;

/** A server on this machine, that says nothing of itself. */
function serve(
  handler: Deno.ServeHandler<Deno.NetAddr>,
  options: Deno.ServeOptions & { signal?: AbortSignal } = {},
): Server {
  return Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {}, ...options },
    handler,
  );
}

function urlOf(server: Server, path = "/"): string {
  return `http://127.0.0.1:${server.addr.port}${path}`;
}

/** Asks, and goes away once `begun` is settled. */
async function askInVain(
  server: Server,
  begun: Promise<unknown>,
  init: RequestInit & { client?: Deno.HttpClient } = {},
): Promise<void> {
  const abort = new AbortController();
  const { signal } = abort;
  const failed = assertRejects(() =>
    fetch(urlOf(server, "/vain"), { ...init, signal })
  );
  await begun;
  abort.abort();
  await failed;
}

/**
 * Waits until the server knows that a client has gone: it has aborted the request's signal.
 */
async function whenGone(request: Request): Promise<void> {
  if (request.signal.aborted) return;
  await new Promise((resolve) =>
    request.signal.addEventListener("abort", resolve)
  );
}

const clients: Record<string, () => Deno.HttpClient> = {
  "HTTP/1": () => Deno.createHttpClient({ http1: true, http2: false }),
  "HTTP/2": () => Deno.createHttpClient({ http1: false, http2: true }),
};

/** The promises by which a test and its handler talk to each other. */
interface Order {
  readonly begun: PromiseWithResolvers<Request>;
  readonly goOn: PromiseWithResolvers<void>;
  readonly stored: PromiseWithResolvers<void>;
}

function order(): Order {
  return {
    begun: Promise.withResolvers(),
    goOn: Promise.withResolvers(),
    stored: Promise.withResolvers(),
  };
}

for (const [name, client] of Object.entries(clients)) {
  testBoth(
    `Deno.serve() over ${name} leaves a handler to its end when its client goes away`,
    {
      async async({ begun, goOn, stored }: Order, request: Request) {
        begun.resolve(request);
        await until(goOn.promise);
        await new Promise((resolve) => setTimeout(resolve, 1));
        await sleep(1);
        stored.resolve();
        return new Response("stored");
      },
      *generator({ begun, goOn, stored }: Order, request: Request) {
        begun.resolve(request);
        yield* until(goOn.promise);
        yield* sleep(1);
        stored.resolve();
        return new Response("stored");
      },
    },
    async (body) => {
      using failures = new Failures();
      using _ = patch();
      const told = order();
      let greenlet!: Greenlet;
      const errors: unknown[] = [];
      await using server = serve(
        ((request: Request) => {
          greenlet = getCurrent() as Greenlet;
          return body(told, request);
        }) as Deno.ServeHandler,
        {
          onError(error) {
            errors.push(error);
            return new Response(null, { status: 500 });
          },
        },
      );
      using http = client();
      await askInVain(server, told.begun.promise, { client: http });
      await whenGone(await told.begun.promise);
      assert(greenlet.active);
      told.goOn.resolve();
      await told.stored.promise;
      await greenlet.join();
      assertInstanceOf(greenlet.value, Response);
      assertEquals([errors, failures.errors], [[], []]);
    },
  );
}

Deno.test("Deno.serve() leaves its handlers to their end when its signal is aborted", async () => {
  using _ = patch();
  const told = order();
  const abort = new AbortController();
  const server = serve(async (request) => {
    told.begun.resolve(request);
    await told.goOn.promise;
    await sleep(1);
    told.stored.resolve();
    return new Response("stored");
  }, { signal: abort.signal });
  const failed = assertRejects(() => fetch(urlOf(server)));
  await told.begun.promise;
  abort.abort();
  await failed;
  told.goOn.resolve();
  await told.stored.promise;
  await server.finished;
});

Deno.test("patch({ http: { killOnDisconnect } }) holds for the servers that are made while it is in force", async () => {
  using _ = patch();
  const ends: Record<string, unknown> = {};
  const ended: Promise<void>[] = [];
  const begun: Promise<unknown>[] = [];
  const make = (name: string): Server => {
    const started = Promise.withResolvers<void>();
    const over = Promise.withResolvers<void>();
    begun.push(started.promise);
    ended.push(over.promise);
    return serve(async (request) => {
      started.resolve();
      try {
        await until(whenGone(request));
        await sleep(1);
        ends[name] = "left to its end";
      } catch (error) {
        ends[name] = (error as Error).message;
        throw error;
      } finally {
        over.resolve();
      }
      return new Response();
    });
  };
  const servers = [make("before")];
  {
    using _ = patch({ http: { killOnDisconnect: true } });
    servers.push(make("asked"));
    {
      using _ = patch({ http: { killOnDisconnect: false } });
      servers.push(make("asked not to"));
    }
    using _same = patch({ http: {} });
    servers.push(make("nothing said"));
  }
  servers.push(make("after"));
  await Promise.all(
    servers.map((server, i) => askInVain(server, begun[i]!)),
  );
  await Promise.all(ended);
  assertEquals(ends, {
    before: "left to its end",
    asked: "The client has gone away",
    "asked not to": "left to its end",
    "nothing said": "The client has gone away",
    after: "left to its end",
  });
  for (const server of servers) await server.shutdown();
});

Deno.test("patch({ http }) refuses an unknown option", () => {
  const wrong: [unknown, string][] = [
    [
      1,
      "Cannot patch as 'http' must be a boolean or options: received 1",
    ],
    [
      null,
      "Cannot patch as 'http' must be a boolean or options: received null",
    ],
    [
      { killOnDisconnect: 1 },
      "Cannot patch as 'killOnDisconnect' must be a boolean: received 1",
    ],
    [
      { kill: true },
      `Cannot patch as the option of 'http' must be killOnDisconnect: received "kill"`,
    ],
  ];
  for (const [http, message] of wrong) {
    const error = assertThrows(
      () => patch({ http } as PatchOptions),
      TypeError,
    );
    assertEquals(error.message, message);
  }
  using _ = patch({ http: { killOnDisconnect: undefined! } });
});

Deno.test("Deno.serve(): a handler that was killed answers with 503, over and over on one connection", async () => {
  using _ = patch();
  let killed: Greenlet | null = null;
  await using server = serve(async (request) => {
    if (request.url.endsWith("/fine")) return new Response("fine");
    killed = getCurrent() as Greenlet;
    await sleep(LONG);
    return new Response();
  });
  for (let i = 0; i < 3; i++) {
    const response = fetch(urlOf(server));
    while (killed === null) await sleep(1);
    await (killed as Greenlet).kill();
    killed = null;
    assertEquals((await response).status, 503);
    assertEquals(await (await response).text(), "");
    assertEquals(await (await fetch(urlOf(server, "/fine"))).text(), "fine");
  }
});

/** An application of Hono whose handlers wait, and say how they have ended. */
function hono(told: Order): { app: Hono; ends: unknown[] } {
  const app = new Hono();
  const ends: unknown[] = [];
  app.use(async (_, next) => {
    await next();
    ends.push("next() is over");
  });
  app.get("/vain", async (c) => {
    told.begun.resolve(c.req.raw);
    try {
      await until(told.goOn.promise);
      await new Promise((resolve) => setTimeout(resolve, 1));
      ends.push("stored");
      return c.text("stored");
    } catch (error) {
      ends.push(error);
      throw error;
    } finally {
      told.stored.resolve();
    }
  });
  app.get("/", (c) => c.text("hello"));
  return { app, ends };
}

/** Collects what `console.error` prints while this is in use. */
class Printed implements Disposable {
  readonly lines: unknown[][] = [];
  readonly #error = console.error;

  constructor() {
    console.error = (...line) => void this.lines.push(line);
  }

  [Symbol.dispose](): void {
    console.error = this.#error;
  }
}

Deno.test("Deno.serve(app.fetch) of Hono leaves a handler to its end when its client goes away, and prints nothing", async () => {
  using printed = new Printed();
  using _ = patch();
  const told = order();
  const { app, ends } = hono(told);
  await using server = serve(app.fetch);
  await askInVain(server, told.begun.promise);
  await whenGone(await told.begun.promise);
  told.goOn.resolve();
  await told.stored.promise;
  assertEquals(await (await fetch(urlOf(server))).text(), "hello");
  assertEquals(ends, ["stored", "next() is over", "next() is over"]);
  assertEquals(printed.lines, []);
});

Deno.test("Deno.serve(app.fetch) of Hono prints nothing when its handlers are killed as their clients go away", async () => {
  using printed = new Printed();
  using _ = patch({ http: { killOnDisconnect: true } });
  const told = order();
  const { app, ends } = hono(told);
  await using server = serve(app.fetch);
  await askInVain(server, told.begun.promise);
  await told.stored.promise;
  assertEquals(await (await fetch(urlOf(server))).text(), "hello");
  assertInstanceOf(ends[0], GreenletExit);
  assertEquals(printed.lines, []);
});

Deno.test("Deno.serve(app.fetch) of Hono answers with 503, and prints nothing, when run() ends with a handler in it", async () => {
  using printed = new Printed();
  const told = order();
  const { app, ends } = hono(told);
  let status = 0;
  let server!: Server;
  using _ = patch();
  // It belongs to no greenlet, as the end of run() would kill that, too.
  const ask = async () => {
    const response = await fetch(urlOf(server, "/vain"));
    await response.body?.cancel();
    status = response.status;
  };
  const asking = Promise.withResolvers<Promise<void>>();
  const wish = Promise.withResolvers<void>();
  wish.promise.then(() => asking.resolve(ask()));
  await run(async () => {
    server = serve(app.fetch);
    wish.resolve();
    await until(told.begun.promise);
  });
  await (await asking.promise);
  assertEquals(status, 503);
  assertInstanceOf(ends[0], GreenletExit);
  assertEquals(printed.lines, []);
  await server.shutdown();
});

Deno.test("GreenletExit has no response of its own without patch()", () => {
  assertFalse("getResponse" in new GreenletExit());
  {
    using _ = patch();
    assert("getResponse" in new GreenletExit());
    const names = [];
    for (const name in new GreenletExit()) names.push(name);
    assertFalse(names.includes("getResponse"));
  }
  assertFalse("getResponse" in new GreenletExit());
});

for (
  const [name, handler] of Object.entries({
    "async handler": `async () => {
      console.log("asked");
      await sleep(100_000);
    }`,
    "generator handler": `function* () {
      console.log("asked");
      yield* sleep(100_000);
    }`,
  })
) {
  Deno.test(`run() that ends, with a handler of Deno.serve in it, prints nothing, ${name}`, async () => {
    const { out, err, code } = await runScript(`
      const { fetch } = globalThis;
      patch();
      let server;
      const begun = Promise.withResolvers();
      const asking = begun.promise.then(async (url) => {
        const response = await fetch(url);
        console.log(response.status, await response.text());
      });
      const asked = Promise.withResolvers();
      const { log } = console;
      console.log = (...args) => {
        log(...args);
        asked.resolve();
      };
      await run(async () => {
        server = Deno.serve(
          { hostname: "127.0.0.1", port: 0, onListen() {} },
          ${handler},
        );
        begun.resolve("http://127.0.0.1:" + server.addr.port + "/slow");
        await until(asked.promise);
      });
      await asking;
      await server.shutdown();
      console.log("over");`);
    assertEquals([out, err, code], [["asked", "503 ", "over"], "", 0]);
  });
}

Deno.test("Deno.serve(): a client that leaves ends no handler that other greenlets wait for", async () => {
  using _ = patch();
  const told = order();
  let shared: Promise<string> | null = null;
  await using server = serve(async (request) => {
    shared ??= (async () => {
      told.begun.resolve(request);
      await until(told.goOn.promise);
      await new Promise((resolve) => setTimeout(resolve, 1));
      return "computed once";
    })();
    return new Response(await shared);
  });
  await askInVain(server, told.begun.promise);
  await whenGone(await told.begun.promise);
  const texts = [1, 2].map(async () =>
    await (await fetch(urlOf(server))).text()
  );
  told.goOn.resolve();
  assertEquals(await Promise.all(texts), ["computed once", "computed once"]);
  assertStrictEquals(await shared!, "computed once");
  await spawn(sleep, 0).join();
});
