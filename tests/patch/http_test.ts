import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertLess,
  assertMatch,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import {
  getCurrent,
  getHub,
  Greenlet,
  GreenletExit,
  Lock,
  monkey,
  patch,
  type PatchOptions,
  Queue,
  run,
  sleep,
  spawn,
  until,
  withTimeout,
} from "../../mod.ts";
import { argsOf, Failures, runScript, settle } from "../_bodies.ts";
import { outcome, test, testRandomly, tick } from "../_random.ts";
import { Gate, when } from "../_waits.ts";

/** Longer than any test. */
const LONG = 100_000_000;

/** Has handlers killed when their clients go away. */
const KILLING: PatchOptions = { http: { killOnDisconnect: true } };

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

async function textOf(
  server: Server,
  path = "/",
  init?: RequestInit & { client?: Deno.HttpClient },
): Promise<string> {
  const response = await fetch(urlOf(server, path), init);
  return await response.text();
}

/** Sends a request, and goes away when `told` has ended. */
async function askInVain(
  server: Server,
  told: () => Promise<unknown>,
  init: RequestInit & { client?: Deno.HttpClient } = {},
): Promise<void> {
  const abort = new AbortController();
  const { signal } = abort;
  const response = fetch(urlOf(server, "/vain"), { ...init, signal });
  const failed = assertRejects(() => response, DOMException);
  await told();
  abort.abort();
  await failed;
}

/** The options of a server that collects the errors of its handlers, and these errors. */
class Errors {
  readonly all: unknown[] = [];
  readonly onError = (error: unknown): Response => {
    this.all.push(error);
    return new Response("failed", { status: 500 });
  };
}

/** A handler that waits, and its log. */
class Waiting {
  readonly begun = Promise.withResolvers<Greenlet>();
  readonly ended = Promise.withResolvers<unknown>();

  /** Waits until it is interrupted. */
  readonly handler = async (): Promise<Response> => {
    this.begun.resolve(getCurrent() as Greenlet);
    try {
      await sleep(LONG);
      return new Response("not reached");
    } catch (error) {
      this.ended.resolve(error);
      throw error;
    }
  };
}

const clients: Record<string, () => Deno.HttpClient> = {
  "HTTP/1": () => Deno.createHttpClient({ http1: true, http2: false }),
  "HTTP/2": () => Deno.createHttpClient({ http1: false, http2: true }),
};

test("Deno.serve() looks under patch() as it did before, and refuses bad arguments as it did", async () => {
  const describe = async () => [
    Deno.serve.name,
    Deno.serve.length,
    Deno.upgradeWebSocket.name,
    Deno.upgradeWebSocket.length,
    await outcome(() => Reflect.apply(Deno.serve, undefined, [])),
    await outcome(() => Reflect.apply(Deno.serve, undefined, [null])),
    await outcome(() => Reflect.apply(Deno.serve, undefined, [{}])),
    await outcome(() => Reflect.apply(Deno.serve, undefined, [{}, 1])),
    await outcome(() => Reflect.apply(Deno.serve, undefined, [{ handler: 1 }])),
    await outcome(() =>
      Deno.serve({ port: 0, keyFile: "x" } as never, () => new Response())
    ),
    await outcome(() => Deno.serve({ port: 100_000 }, () => new Response())),
    await outcome(() => Deno.upgradeWebSocket(new Request("http://a.b"))),
    await outcome(() => Reflect.apply(Deno.upgradeWebSocket, undefined, [])),
  ];
  const { serve, upgradeWebSocket } = Deno;
  const expected = await describe();
  {
    using _ = patch();
    assertEquals(await describe(), expected);
    assertEquals(await spawn(describe).get(), expected);
  }
  assertStrictEquals(Deno.serve, serve);
  assertStrictEquals(Deno.upgradeWebSocket, upgradeWebSocket);
});

test("Deno.serve() gives the server that it gave", async () => {
  const describe = async () => {
    await using server = serve(() => new Response());
    const properties = Object.entries(Object.getOwnPropertyDescriptors(server))
      .map(([name, { enumerable, configurable }]) => [
        name,
        enumerable,
        configurable,
      ]);
    const { finished } = server;
    return [
      properties,
      Object.getPrototypeOf(server) === Object.prototype,
      server.addr.hostname,
      finished instanceof Promise,
      finished === server.finished,
      server.shutdown.name,
      server.shutdown.length,
      server.ref.name,
      server.unref.name,
    ];
  };
  const expected = await describe();
  using _ = patch();
  assertEquals(await describe(), expected);
  assertEquals(await spawn(describe).get(), expected);
});

test("Deno.serve() handles each request in a greenlet of its own, that is named after it", async () => {
  using _ = patch();
  const seen: Greenlet[] = [];
  await using server = serve(async (request, info) => {
    const greenlet = getCurrent() as Greenlet;
    assertInstanceOf(greenlet, Greenlet);
    assertStrictEquals(greenlet.args[0], request);
    assertStrictEquals(greenlet.args[1], info);
    assertStrictEquals(greenlet.spawningGreenlet, getHub());
    assert(greenlet.active);
    await new Promise((resolve) => setTimeout(resolve, 1));
    assertStrictEquals(getCurrent(), greenlet);
    await import("node:fs"); // A foreign promise
    assertStrictEquals(getCurrent(), greenlet);
    seen.push(greenlet);
    return new Response(greenlet.name);
  });
  assertEquals(await textOf(server, "/a/b?c=d#e"), "GET /a/b");
  assertEquals(await textOf(server, "/", { method: "POST" }), "POST /");
  assertEquals(
    await textOf(server, "/x", { method: "PUT", body: "?/" }),
    "PUT /x",
  );
  assertEquals(new Set(seen).size, 3);
  assert(seen.every((greenlet) => greenlet.dead && greenlet.successful()));
  assertMatch(String(seen[0]), /^<Greenlet "GET \/a\/b"/);
});

test("Deno.serve() names greenlets after requests without a path", async () => {
  using _ = patch();
  await using server = serve(() =>
    new Response((getCurrent() as Greenlet).name)
  );
  const ask = async (line: string) => {
    using conn = await Deno.connect({ port: server.addr.port });
    await conn.write(
      new TextEncoder().encode(
        `${line} HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n`,
      ),
    );
    let text = "";
    const decoder = new TextDecoder();
    const buffer = new Uint8Array(1000);
    for (;;) {
      const count = await conn.read(buffer);
      if (count === null) return text.split("\r\n\r\n")[1];
      text += decoder.decode(buffer.subarray(0, count));
    }
  };
  assertEquals(await ask("OPTIONS *"), "OPTIONS /*");
  assertEquals(await ask("CONNECT a.b:443"), "CONNECT a.b:443");
  assertEquals(await ask("GET http://c.d/e?f"), "GET /e");
});

/** All ways to tell Deno.serve of a handler. */
const overloads: Record<
  string,
  (handler: Deno.ServeHandler) => Deno.HttpServer
> = {
  "options and a handler": (handler) =>
    Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, handler),
  "options with a handler": (handler) =>
    Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {}, handler }),
  "options of a class": (handler) => {
    class Options {
      hostname = "127.0.0.1";
      get port() {
        return 0;
      }
      onListen() {}
      get handler() {
        return handler;
      }
    }
    return Deno.serve(new Options());
  },
};

for (const [name, overload] of Object.entries(overloads)) {
  test(`Deno.serve() takes ${name}`, async () => {
    using _ = patch();
    await using server = overload(() =>
      new Response((getCurrent() as Greenlet).name)
    ) as Server;
    assertEquals(await textOf(server, "/path"), "GET /path");
  });
}

test("Deno.serve() takes a handler only", async () => {
  // Its port is not ours to choose.
  const { out, err } = await runScript(`
    patch();
    const server = Deno.serve((request) => new Response(getCurrent().name));
    const { port } = server.addr;
    console.log(await (await fetch("http://127.0.0.1:" + port + "/path")).text());
    await server.shutdown();`);
  // Unless the port is taken.
  if (!err.includes("AddrInUse")) {
    assertEquals([out.at(-1), err], ["GET /path", ""]);
  }
});

if (Deno.build.os !== "windows") {
  test("Deno.serve() serves on a Unix socket", async () => {
    const directory = Deno.makeTempDirSync();
    using _ = patch(KILLING);
    const path = `${directory}/socket`;
    const begun = new AbortController();
    const gone = Promise.withResolvers<void>();
    await using _server = Deno.serve(
      { path, onListen() {} },
      async (request) => {
        const { name } = getCurrent() as Greenlet;
        if (!request.url.endsWith("/slow")) return new Response(name);
        begun.abort();
        try {
          await sleep(LONG);
        } finally {
          gone.resolve();
        }
        return new Response();
      },
    );
    const client = Deno.createHttpClient({
      proxy: { transport: "unix", path },
    });
    const response = await fetch("http://localhost/path", { client });
    assertEquals(await response.text(), "GET /path");
    await assertRejects(() =>
      fetch("http://localhost/slow", {
        client,
        signal: begun.signal,
      })
    );
    await gone.promise;
    client.close();
    Deno.removeSync(directory, { recursive: true });
  });
}

for (const [name, client] of Object.entries(clients)) {
  test(`Deno.serve() serves over ${name}: body, headers, address, completion`, async () => {
    using _ = patch();
    const completed = Promise.withResolvers<void>();
    await using server = serve(async (request, info) => {
      info.completed.then(completed.resolve, completed.reject);
      const text = await request.text();
      return new Response(text.toUpperCase(), {
        status: 201,
        headers: {
          "x-method": request.method,
          "x-hostname": info.remoteAddr.hostname,
          "x-name": (getCurrent() as Greenlet).name,
        },
      });
    });
    using http = client();
    const body = "hello ".repeat(50_000);
    const response = await fetch(urlOf(server, "/body"), {
      client: http,
      method: "POST",
      body,
    });
    assertEquals(response.status, 201);
    assertEquals(response.headers.get("x-method"), "POST");
    assertEquals(response.headers.get("x-hostname"), "127.0.0.1");
    assertEquals(response.headers.get("x-name"), "POST /body");
    assertEquals(await response.text(), body.toUpperCase());
    await completed.promise;
  });
}

test("Deno.serve() takes handlers of every kind, and begins each at once", async () => {
  using _ = patch();
  const name = () => (getCurrent() as Greenlet).name;
  const handlers: Deno.ServeHandler[] = [
    () => new Response(name()),
    (_request) => new Response(name()),
    function () {
      return new Response(name());
    },
    async () => {
      await null;
      return new Response(name());
    },
    async () => {
      await sleep(1);
      return new Response(name());
    },
    () => Promise.resolve(new Response(name())),
    // deno-lint-ignore require-await -- one that waits for nothing
    async (_request, _info) => new Response(name()),
    (function* () {
      yield* sleep(1);
      return new Response(name());
    }) as unknown as Deno.ServeHandler,
  ];
  for (const handler of handlers) {
    await using server = serve(handler);
    for (const path of ["/1", "/2"]) {
      assertEquals(await textOf(server, path), `GET ${path}`);
    }
  }
});

test("Deno.serve() gives its handlers the context that it gave them", async () => {
  const storage = new AsyncLocalStorage<string>();
  const ask = async () => {
    await using server = storage.run("serve", () =>
      serve(async () => {
        const before = storage.getStore();
        return await storage.run("request", async () => {
          await new Promise((resolve) => setTimeout(resolve, 1));
          return new Response(`${before} ${storage.getStore()}`);
        });
      }));
    return await textOf(server);
  };
  const expected = await ask();
  using _ = patch();
  assertEquals(await ask(), expected);
  assertEquals(await spawn(ask).get(), expected);
});

test("Deno.serve() hands the very error of a handler to onError, and not to the hub", async () => {
  using _ = patch();
  using failures = new Failures();
  const error = new Error("no");
  const handlers: Deno.ServeHandler[] = [
    () => {
      throw error;
    },
    async () => {
      await null;
      throw error;
    },
    async () => {
      await sleep(1);
      throw error;
    },
    (function* () {
      yield* sleep(1);
      throw error;
    }) as unknown as Deno.ServeHandler,
    () => Promise.reject(error),
  ];
  for (const handler of handlers) {
    const errors = new Errors();
    await using server = serve(handler, errors);
    const response = await fetch(urlOf(server));
    assertEquals(response.status, 500);
    assertEquals(await response.text(), "failed");
    assertEquals(errors.all.length, 1);
    assertStrictEquals(errors.all[0], error);
  }
  assertEquals(failures.errors, []);
});

test("Deno.serve() refuses anything but a response as it did", async () => {
  const complaints = async () => {
    const messages: string[] = [];
    const odd = [undefined, "text", {}, Response.error(), Promise.resolve(1)];
    for (const value of odd) {
      const errors = new Errors();
      await using server = serve(() => value as Response, errors);
      await textOf(server);
      messages.push(...errors.all.map(String));
    }
    return messages;
  };
  const expected = await complaints();
  assertEquals(expected.length, 5);
  using _ = patch();
  assertEquals(await complaints(), expected);
});

test("Deno.serve() prints an error of a handler once, and answers with 500", async () => {
  const { out, err } = await runScript(`
    patch();
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async () => {
      await sleep(1);
      throw new Error("for the log");
    });
    console.log((await fetch("http://127.0.0.1:" + server.addr.port)).status);
    await server.shutdown();`);
  assertEquals(out, ["500"]);
  assertEquals(err.split("for the log").length, 2);
  // As the hub would put it.
  assertFalse(err.includes("failed with"));
});

test("Deno.serve(): a handler that is killed answers with 503, and onError gets no exit", async () => {
  using _ = patch();
  using failures = new Failures();
  for (const error of [new GreenletExit(), new Error("shot")]) {
    const errors = new Errors();
    const waiting = new Waiting();
    await using server = serve(waiting.handler, errors);
    const response = fetch(urlOf(server));
    const greenlet = await waiting.begun.promise;
    await greenlet.kill(error);
    assertStrictEquals(await waiting.ended.promise, error);
    const isExit = error instanceof GreenletExit;
    assertEquals((await response).status, isExit ? 503 : 500);
    assertEquals(await (await response).text(), isExit ? "" : "failed");
    assertEquals(errors.all.length, isExit ? 0 : 1);
    if (!isExit) assertStrictEquals(errors.all[0], error);
  }
  assertEquals(failures.errors, []);
});

test("Deno.serve(): a handler may answer although it is killed", async () => {
  using _ = patch();
  const errors = new Errors();
  const begun = Promise.withResolvers<Greenlet>();
  await using server = serve(async () => {
    begun.resolve(getCurrent() as Greenlet);
    try {
      await sleep(LONG);
      return new Response("not reached");
    } catch {
      await sleep(1);
      return new Response("busy", { status: 503 });
    }
  }, errors);
  const response = fetch(urlOf(server));
  await (await begun.promise).kill();
  assertEquals((await response).status, 503);
  assertEquals(await (await response).text(), "busy");
  assertEquals(errors.all, []);
});

test("Deno.serve(): a handler that swallows its kill for ever answers with 500", async () => {
  using _ = patch();
  using failures = new Failures();
  const errors = new Errors();
  const begun = Promise.withResolvers<Greenlet>();
  await using server = serve(async () => {
    begun.resolve(getCurrent() as Greenlet);
    for (;;) {
      try {
        await sleep(LONG);
      } catch {
        // Again
      }
    }
  }, errors);
  const response = fetch(urlOf(server));
  await (await begun.promise).kill(undefined, { grace: 0 });
  assertEquals((await response).status, 500);
  await (await response).text();
  assertMatch(String(errors.all), /left suspended for good/);
  assertEquals(failures.errors, []);
});

test("Deno.serve(): a handler can have a time limit, and waits work in all of it", async () => {
  using _ = patch();
  const lock = new Lock();
  await using server = serve(async () => {
    const answer = await withTimeout(5, async () => {
      using _ = await lock.acquire();
      await new Promise((resolve) => setTimeout(resolve, LONG));
      return new Response();
    }, { value: null });
    return answer ?? new Response("late", { status: 504 });
  });
  const responses = await Promise.all(
    [1, 2, 3].map(() => fetch(urlOf(server))),
  );
  for (const response of responses) {
    assertEquals(response.status, 504);
    await response.text();
  }
  assertFalse(lock.locked());
});

for (const [name, client] of Object.entries(clients)) {
  /** The waits that a handler is in when the client goes away. */
  const waits: Record<string, () => Promise<unknown>> = {
    "sleeps": () => sleep(LONG),
    "waits for a timer": () =>
      new Promise((resolve) => setTimeout(resolve, LONG)),
    "is limited": () => withTimeout(LONG, () => sleep(LONG)),
    "waits for a lock": async () => {
      const lock = new Lock();
      await lock.acquire();
      await lock.acquire();
    },
  };
  for (const [what, wait] of Object.entries(waits)) {
    test(`Deno.serve() over ${name}: a handler that ${what} is killed when the client goes away`, async () => {
      using _ = patch(KILLING);
      using failures = new Failures();
      const errors = new Errors();
      const begun = Promise.withResolvers<Greenlet>();
      const cleaned = Promise.withResolvers<void>();
      await using server = serve(async () => {
        begun.resolve(getCurrent() as Greenlet);
        try {
          await wait();
        } finally {
          await sleep(1); // Clean-up may wait
          cleaned.resolve();
        }
        return new Response();
      }, errors);
      using http = client();
      await askInVain(server, () => begun.promise, { client: http });
      await cleaned.promise;
      const greenlet = await begun.promise;
      await greenlet.join();
      assertInstanceOf(greenlet.value, GreenletExit);
      assertEquals(greenlet.value.message, "The client has gone away");
      await settle();
      assertEquals([errors.all, failures.errors], [[], []]);
      assertEquals(greenlet.name, "GET /vain");
    });
  }

  test(`Deno.serve() over ${name}: a handler is killed when the client goes away at once`, async () => {
    using _ = patch(KILLING);
    let begun = 0, ended = 0;
    await using server = serve(async () => {
      begun++;
      try {
        await sleep(LONG);
      } finally {
        ended++;
      }
      return new Response();
    });
    using http = client();
    for (let i = 0; i < 30; i++) {
      await askInVain(server, () => tick(i % 3), { client: http });
    }
    // One at least gets so far.
    await askInVain(server, () => when(() => begun > 0), { client: http });
    await when(() => begun === ended);
  });

  test(`Deno.serve() over ${name}: a handler that sends no body gets the abort of request.signal, too`, async () => {
    using _ = patch(KILLING);
    const begun = Promise.withResolvers<void>();
    const aborted = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<unknown>();
    await using server = serve(async (request) => {
      request.signal.addEventListener("abort", () => aborted.resolve());
      begun.resolve();
      try {
        await sleep(LONG);
      } catch (error) {
        ended.resolve(error);
        throw error;
      }
      return new Response();
    });
    using http = client();
    await askInVain(server, () => begun.promise, {
      client: http,
      method: "POST",
      body: "hello",
    });
    await aborted.promise;
    assertInstanceOf(await ended.promise, GreenletExit);
  });

  test(`Deno.serve() over ${name}: waits in the body of a response work after its handler has ended`, async () => {
    using _ = patch();
    const queue = new Queue<string>();
    let greenlet: Greenlet;
    await using server = serve(async () => {
      greenlet = getCurrent() as Greenlet;
      await sleep(1);
      return new Response(
        new ReadableStream({
          async pull(controller) {
            await new Promise((resolve) => setTimeout(resolve, 1));
            await sleep(1);
            assert(greenlet.dead);
            const text = await queue.get();
            controller.enqueue(new TextEncoder().encode(text));
            if (text === "end") controller.close();
          },
        }),
      );
    });
    using http = client();
    const text = textOf(server, "/", { client: http });
    for (const item of ["one ", "two ", "end"]) {
      await settle();
      await queue.put(item);
    }
    assertEquals(await text, "one two end");
  });

  test(`Deno.serve() over ${name}: a client that goes away cancels the body of a response`, async () => {
    using _ = patch();
    const errors = new Errors();
    const cancelled = Promise.withResolvers<void>();
    let begun = 0, ended = 0;
    await using server = serve(() =>
      new Response(
        new ReadableStream({
          async pull(controller) {
            begun++;
            await sleep(1);
            ended++;
            controller.enqueue(new Uint8Array(10));
          },
          cancel: () => cancelled.resolve(),
        }),
      ), errors);
    using http = client();
    const abort = new AbortController();
    const { signal } = abort;
    const response = await fetch(urlOf(server), { client: http, signal });
    await response.body!.getReader().read();
    abort.abort();
    await cancelled.promise;
    // The call that it waits in then goes on.
    await when(() => begun === ended);
    assertEquals(errors.all, []);
  });
}

test("Deno.serve(): a handler stuck in a foreign promise is killed at its next wait", async () => {
  using _ = patch(KILLING);
  const { promise, resolve } = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  let signal!: AbortSignal;
  const ended = Promise.withResolvers<unknown>();
  await using server = serve(async (request) => {
    signal = request.signal;
    begun.resolve();
    await promise;
    try {
      await sleep(0);
    } catch (error) {
      ended.resolve(error);
    }
    return new Response();
  });
  await askInVain(server, () => begun.promise);
  await when(() => signal.aborted);
  await settle();
  resolve();
  assertInstanceOf(await ended.promise, GreenletExit);
});

test("Deno.serve(): an error of a handler's clean-up is reported although the client is gone", async () => {
  using _ = patch(KILLING);
  using failures = new Failures();
  const errors = new Errors();
  const begun = Promise.withResolvers<void>();
  await using server = serve(async () => {
    begun.resolve();
    try {
      await sleep(LONG);
    } catch {
      throw new Error("broken");
    }
    return new Response();
  }, errors);
  await askInVain(server, () => begun.promise);
  await when(() => errors.all.length > 0);
  assertEquals(errors.all.map(String), ["Error: broken"]);
  assertEquals(failures.errors, []);
});

test("Deno.serve() reads no signal of a request that is answered at once", async () => {
  using _ = patch(KILLING);
  const { get } = Object.getOwnPropertyDescriptor(
    Request.prototype,
    "signal",
  )!;
  let asked = 0;
  const served = new WeakSet<Request>();
  Object.defineProperty(Request.prototype, "signal", {
    get() {
      if (served.has(this)) asked++;
      return get!.call(this);
    },
    configurable: true,
  });
  try {
    await using server = serve(async (request) => {
      served.add(request);
      switch (new URL(request.url).pathname) {
        case "/json":
          return Response.json(await request.json());
        case "/slow":
          await sleep(1);
      }
      return new Response();
    });
    await textOf(server);
    await textOf(server, "/json", { method: "POST", body: "{}" });
    assertEquals(asked, 0);
    await textOf(server, "/slow");
    assertGreater(asked, 0);
  } finally {
    Object.defineProperty(Request.prototype, "signal", {
      get: get!,
      enumerable: true,
      configurable: true,
    });
  }
});

for (const flags of [[], ["--unstable-no-legacy-abort"]]) {
  test(`Deno.serve() prints no warning of signals that it has read, ${flags.join() || "by default"}`, async () => {
    const library = new URL("../../mod.ts", import.meta.url).href;
    const script = `
      import { patch, sleep } from ${JSON.stringify(library)};
      const { warn } = console;
      {
        using _ = patch({ http: { killOnDisconnect: true } });
        const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
          await sleep(request.url.endsWith("/vain") ? 100_000 : 5);
          console.warn("a warning of", "the user's");
          return new Response("hello");
        });
        const url = "http://127.0.0.1:" + server.addr.port;
        for (let i = 0; i < 3; i++) await (await fetch(url)).text();
        await fetch(url + "/vain", { signal: AbortSignal.timeout(20) }).catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, 20));
        await server.shutdown();
      }
      console.log(console.warn === warn);`;
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: argsOf(script, flags),
      env: { NO_COLOR: "1" },
    }).output();
    const decoder = new TextDecoder();
    assertEquals(
      [decoder.decode(stdout), decoder.decode(stderr)],
      ["true\n", "a warning of the user's\n".repeat(3)],
    );
  });
}

for (
  const [what, wait] of [
    ["shutdown()", (server: Server) => server.shutdown()],
    ["finished", async (server: Server) => await server.finished],
    [
      "[Symbol.asyncDispose]()",
      (server: Server) => server[Symbol.asyncDispose](),
    ],
  ] as const
) {
  test(`HttpServer.${what} is a wait that can be interrupted`, async () => {
    using _ = patch();
    const { promise, resolve } = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const server = serve(async () => {
      begun.resolve();
      await promise;
      return new Response("in the end");
    });
    const text = textOf(server);
    await begun.promise;
    const killed = spawn(() => wait(server));
    await sleep(0);
    await killed.kill();
    assertInstanceOf(killed.value, GreenletExit);
    const late = await spawn(() =>
      withTimeout(5, () => wait(server), { value: "late" })
    ).get();
    assertEquals(late, "late");
    assertEquals(
      await withTimeout(5, () => wait(server), { value: "late" }),
      "late",
    );
    resolve();
    assertEquals(await text, "in the end");
    if (what === "finished") server.shutdown();
    await spawn(() => wait(server)).get();
    await server.finished;
  });
}

test("HttpServer.shutdown() goes on when it is interrupted", async () => {
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const server = serve(async () => {
    begun.resolve();
    await promise;
    return new Response("in the end");
  });
  const text = textOf(server);
  await begun.promise;
  await spawn(() => withTimeout(5, () => server.shutdown(), { value: null }))
    .get();
  resolve();
  assertEquals(await text, "in the end");
  await server.finished;
});

test("HttpServer[Symbol.asyncDispose]() stops the server although an error is due", async () => {
  using _ = patch();
  const { promise, resolve } = Promise.withResolvers<void>();
  const server = serve(() => new Response());
  const greenlet = spawn(async () => {
    await using _ = server;
    await promise; // Killed here, and the error is held
  });
  await sleep(0);
  greenlet.kill(undefined, { block: false });
  resolve();
  await greenlet.join();
  assertInstanceOf(greenlet.value, GreenletExit);
  await server.finished;
});

test("HttpServer.finished that is not awaited is no wait", async () => {
  using _ = patch();
  const server = serve(() => new Response());
  const greenlet = spawn(async () => {
    const { finished } = server;
    try {
      await sleep(LONG);
    } catch {
      return [finished];
    }
  });
  await sleep(0);
  greenlet.throw();
  const [finished] = (await greenlet.get())!;
  await server.shutdown();
  await finished;
});

test("Deno.serve() goes on when the greenlet that has called it is killed", async () => {
  using _ = patch();
  const waiting = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<Greenlet>();
  let server: Server;
  const greenlet = spawn(async () => {
    server = serve(async (request) => {
      if (!request.url.endsWith("/slow")) return new Response("quick");
      begun.resolve(getCurrent() as Greenlet);
      await until(waiting.promise);
      return new Response("slow");
    });
    await sleep(LONG);
  });
  await sleep(0);
  const slow = textOf(server!, "/slow");
  assertStrictEquals((await begun.promise).spawningGreenlet, getHub());
  await greenlet.kill();
  assertEquals(await textOf(server!), "quick");
  waiting.resolve();
  assertEquals(await slow, "slow");
  await server!.shutdown();
});

test("Deno.serve(): its handlers are killed when run() ends", async () => {
  using _ = patch();
  const waiting = new Waiting();
  const errors = new Errors();
  let response: Promise<Response>;
  let server: Server;
  await run(async () => {
    server = serve(waiting.handler, errors);
    response = monkey.getOriginal(globalThis, "fetch")(urlOf(server));
    await until(waiting.begun.promise);
  });
  assertInstanceOf(await waiting.ended.promise, GreenletExit);
  assertEquals((await response!).status, 503);
  await (await response!).text();
  assertEquals(errors.all, []);
  await server!.shutdown();
});

test("Deno.serve() kills its handlers when its signal is aborted", async () => {
  using _ = patch(KILLING);
  const waiting = new Waiting();
  const errors = new Errors();
  const abort = new AbortController();
  const server = serve(waiting.handler, { ...errors, signal: abort.signal });
  const failed = assertRejects(() => fetch(urlOf(server)));
  await waiting.begun.promise;
  abort.abort();
  await failed;
  assertInstanceOf(await waiting.ended.promise, GreenletExit);
  await server.finished;
  assertEquals(errors.all, []);
});

test("Deno.serve() works on when patch() is undone, and its handlers stay greenlets", async () => {
  const waiting = new Waiting();
  const begun = new Gate();
  const mayEnd = new Gate();
  let server: Server;
  let slow: Promise<string>;
  {
    using _ = patch(KILLING);
    server = serve(async (request) => {
      const { name } = getCurrent() as Greenlet;
      const path = new URL(request.url).pathname;
      if (path === "/vain") return await waiting.handler();
      if (path === "/slow") {
        begun.open();
        await mayEnd.opened;
      }
      return new Response(name);
    });
    slow = textOf(server, "/slow");
    await begun.opened;
  }
  mayEnd.open();
  assertEquals(await slow, "GET /slow");
  assertEquals(await textOf(server, "/path"), "GET /path");
  await askInVain(server, () => waiting.begun.promise);
  assertInstanceOf(await waiting.ended.promise, GreenletExit);
  await server.shutdown();
});

test("Deno.serve() called before patch() stays as it was", async () => {
  const { serve: before } = Deno;
  using _ = patch();
  await using server = before(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => new Response(String(getCurrent() === getHub())),
  );
  assertEquals(await textOf(server), "true");
});

/** A websocket of the runtime's own, as a client. */
async function talk(server: Server, text: string): Promise<string> {
  const socket = new WebSocket(`ws://127.0.0.1:${server.addr.port}/socket`);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  socket.onopen = () => socket.send(text);
  socket.onmessage = ({ data }) => resolve(data);
  socket.onerror = (event) => reject((event as ErrorEvent).error ?? event);
  const answer = await promise;
  const closed = new Promise((resolve) => socket.onclose = resolve);
  socket.close();
  await closed;
  return answer;
}

for (const slow of [false, true]) {
  test(`Deno.upgradeWebSocket() works in a handler${slow ? " that takes its time" : ""}, and no client is taken to be gone`, async () => {
    using _ = patch(KILLING);
    const errors = new Errors();
    const greenlets: Greenlet[] = [];
    const callers: unknown[] = [];
    await using server = serve(async (request) => {
      greenlets.push(getCurrent() as Greenlet);
      if (slow) await sleep(1);
      const { socket, response } = Deno.upgradeWebSocket(request);
      socket.onmessage = async ({ data }) => {
        // Outside greenlets, as the socket outlives the request.
        callers.push(getCurrent());
        await new Promise((resolve) => setTimeout(resolve, 1));
        await sleep(1);
        socket.send(data.toUpperCase());
      };
      if (slow) await sleep(1);
      return response;
    }, errors);
    assertEquals(await talk(server, "hello"), "HELLO");
    const [greenlet] = greenlets;
    assert(greenlet!.successful());
    assertInstanceOf(greenlet!.value, Response);
    assertEquals(errors.all, []);
    assertEquals(callers.length, 1);
    assertStrictEquals(callers[0], getHub());
  });
}

test("Deno.upgradeWebSocket() that fails leaves the handler to be killed", async () => {
  using _ = patch(KILLING);
  const waiting = new Waiting();
  await using server = serve(async (request) => {
    try {
      Deno.upgradeWebSocket(request);
    } catch (error) {
      assertInstanceOf(error, TypeError);
    }
    return await waiting.handler();
  });
  await askInVain(server, () => waiting.begun.promise);
  assertInstanceOf(await waiting.ended.promise, GreenletExit);
});

testRandomly(
  "Deno.serve(): every handler is accounted for when hundreds of clients go away at random",
  async (next) => {
    using _ = patch(KILLING);
    using failures = new Failures();
    const errors = new Errors();
    const lock = new Lock();
    const counts = { begun: 0, killed: 0, answered: 0 };
    /** Clients that go away when their handlers, which would never answer, have begun. */
    const leaving = new Map<string, AbortController>();
    let running = 0;
    await using server = serve(async ({ url }) => {
      counts.begun++;
      running++;
      const query = url.slice(url.indexOf("?"));
      try {
        if (leaving.has(query)) {
          leaving.get(query)!.abort();
          await sleep(LONG);
        }
        await new Promise((resolve) => setTimeout(resolve, next() * 10));
        {
          using _ = await lock.acquire();
          await sleep(next());
        }
        if (next() < 0.5) await withTimeout(LONG, () => sleep(next() * 5));
        counts.answered++;
        return new Response(query.repeat(1000));
      } catch (error) {
        assertInstanceOf(error, GreenletExit);
        counts.killed++;
        throw error;
      } finally {
        try {
          await sleep(0);
        } finally {
          running--;
        }
      }
    }, errors);
    let asked = 0, answers = 0, aborted = 0;
    for (const client of Object.values(clients)) {
      using http = client();
      const enough = asked + 150;
      await Promise.all(Array.from({ length: 10 }, async () => {
        while (asked < enough) {
          const query = `?${asked++}`;
          const kind = next();
          const isPatient = kind < 0.3;
          const init: RequestInit & { client: Deno.HttpClient } = {
            client: http,
          };
          if (kind > 0.8) {
            const abort = new AbortController();
            leaving.set(query, abort);
            init.signal = abort.signal;
          } else if (!isPatient) {
            init.signal = AbortSignal.timeout(next() * 30);
          }
          try {
            const text = await textOf(server, `/${query}`, init);
            assertEquals(text, query.repeat(1000));
            answers++;
          } catch (error) {
            // HTTP/2 has a limit to how many may go away.
            const isOurs = !isPatient && error instanceof DOMException;
            if (!isOurs && !(error instanceof TypeError)) throw error;
            aborted++;
          }
        }
      }));
    }
    await when(() => running === 0);
    assertFalse(lock.locked());
    assertEquals(counts.killed + counts.answered, counts.begun);
    assertGreater(answers, 40);
    assertGreater(aborted, 40);
    assertGreater(counts.killed, 20);
    assertLess(counts.begun, asked + 1);
    assertEquals([errors.all, failures.errors], [[], []]);
  },
);
