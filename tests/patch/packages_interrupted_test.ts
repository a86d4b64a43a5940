/**
 * Packages in greenlets that are interrupted where it matters most: in the queue of a pool, on a
 * connection that was used before, just after the request was sent.
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import axios from "axios";
import got from "got";
import { AsyncLocalStorage, AsyncResource } from "node:async_hooks";
import { execa } from "execa";
import events, { once } from "node:events";
import http from "node:http";
import net, { type AddressInfo } from "node:net";
import process from "node:process";
import stream from "node:stream";
import timers from "node:timers";
import timersPromises from "node:timers/promises";
import { Agent, request } from "undici";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { Failures } from "../_bodies.ts";
import { queryMysql, queryPg, queryPostgres } from "../packages/_recipes.ts";
import { test } from "../_random.ts";
import { atOnce, turns } from "../_waits.ts";
import { arrive } from "./_stops.ts";

/** After how long calls are timed out, in milliseconds of a clock that is moved by hand. */
const SOON = 1000;

/** Starts a greenlet with a body of either kind. */
const kinds: Record<string, (call: () => PromiseLike<unknown>) => Greenlet> = {
  "async body": (call) =>
    spawn(async () => {
      await call();
    }),
  "generator body": (call) =>
    spawn(function* () {
      yield* until(call());
    }),
};

/** Interrupts a greenlet that waits in a call, and checks how it ends. */
const ways: Record<
  string,
  (greenlet: Greenlet, timeout: Timeout, clock: TestClock) => Promise<void>
> = {
  async "is killed"(greenlet) {
    await atOnce(greenlet.kill(), "The end");
    assertInstanceOf(greenlet.value, GreenletExit);
  },
  async "is timed out"(greenlet, timeout, clock) {
    await clock.advance(SOON);
    await atOnce(greenlet.join(), "The end");
    assertStrictEquals(greenlet.exception, timeout);
  },
  async "is thrown an error"(greenlet) {
    const error = new Error("The test's own");
    greenlet.throw(error);
    await atOnce(greenlet.join(), "The end");
    const { exception } = greenlet;
    assert(exception === error || (exception as Error).cause === error);
  },
};

/** Makes a test of a call, for each way and each kind of body. */
function testEnds(
  name: string,
  scene: (stack: AsyncDisposableStack) => Promise<Scene>,
): void {
  for (const [way, interrupt] of Object.entries(ways)) {
    for (const [kind, start] of Object.entries(kinds)) {
      test(`${name} when its greenlet ${way}, ${kind}`, async () => {
        await using stack = new AsyncDisposableStack();
        using failures = new Failures();
        const { call, begun, after } = await scene(stack);
        {
          using _ = patch();
          using clock = new TestClock();
          const timeout = new Timeout(SOON);
          let isCleanedUp = false;
          const greenlet = start(async () => {
            timeout.start();
            try {
              await call();
            } finally {
              timeout.close();
              isCleanedUp = true;
            }
          });
          // The test takes the error
          greenlet.linkException(() => {});
          await begun();
          assert(!greenlet.dead, Deno.inspect(greenlet.exception));
          await interrupt(greenlet, timeout, clock);
          assert(isCleanedUp);
          await arrive();
          // undici lets its clock run on for a while
          await clock.advance(10 * SOON);
        }
        await after();
        assertEquals(failures.errors, []);
      });
    }
  }
}

/** A call, and what the server sees of it. */
interface Scene {
  call(): PromiseLike<unknown>;
  /** Waits until the call waits in the phase. */
  begun(): Promise<unknown>;
  /** Checks what is left, outside greenlets. */
  after(): Promise<unknown>;
}

// Pools of connections

/** A server that answers all requests but those for `/silent`. */
class Server {
  readonly #server = http.createServer((request, response) => {
    this.requests.push(request.url!);
    if (request.url !== "/silent") response.end(`reply to ${request.url}`);
  });
  /** The paths of the requests. */
  readonly requests: string[] = [];
  /** How many connections were made. */
  connections = 0;

  static async start(stack: AsyncDisposableStack): Promise<Server> {
    const server = new Server();
    server.#server.on("connection", () => server.connections++);
    server.#server.listen(0, "127.0.0.1");
    await once(server.#server, "listening");
    stack.defer(async () => {
      server.#server.closeAllConnections();
      await new Promise((resolve) => server.#server.close(resolve));
      await arrive();
    });
    return server;
  }

  url(path: string): string {
    const { port } = this.#server.address() as AddressInfo;
    return `http://127.0.0.1:${port}/${path}`;
  }

  /** How many connections are open. */
  open(): Promise<number> {
    return new Promise((resolve) =>
      this.#server.getConnections((_error, count) => resolve(count))
    );
  }
}

type Get = (url: string, agent: http.Agent) => PromiseLike<unknown>;

/** Clients that take an agent. */
const clients: Record<string, Get> = {
  "http.get()": (url, agent) =>
    new Promise((resolve, reject) => {
      http.get(url, { agent }, (response) => {
        response.resume().on("end", () => resolve("done"));
      }).on("error", reject);
    }),
  "got()": (url, agent) => got(url, { agent: { http: agent } }),
  "axios.get()": (url, httpAgent) => axios.get(url, { httpAgent }),
};

/** Makes an agent, and destroys it by the stack. */
function makeAgent(
  stack: AsyncDisposableStack,
  options: http.AgentOptions = {},
): http.Agent {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1, ...options });
  stack.defer(() => agent.destroy());
  return agent;
}

for (const [name, get] of Object.entries(clients)) {
  testEnds(
    `${name} on a used connection ends, and is not sent again`,
    async (stack) => {
      const server = await Server.start(stack);
      const agent = makeAgent(stack);
      await get(server.url("first"), agent);
      return {
        call: () => get(server.url("silent"), agent),
        begun: () => atOnce(() => server.requests.includes("/silent")),
        async after() {
          await get(server.url("last"), agent);
          assertEquals(server.requests, ["/first", "/silent", "/last"]);
          assertEquals(server.connections, 2);
        },
      };
    },
  );

  testEnds(
    `${name} that waits for a connection of its agent ends at once`,
    async (stack) => {
      const server = await Server.start(stack);
      const agent = makeAgent(stack);
      const first = http.get(server.url("silent"), { agent });
      first.on("error", () => {});
      await atOnce(() => server.requests.length > 0);
      return {
        call: () => get(server.url("lost"), agent),
        begun: () => atOnce(() => Object.keys(agent.requests).length > 0),
        async after() {
          assertEquals(agent.requests, {});
          const waiting = get(server.url("next"), agent);
          first.destroy();
          await waiting;
          assertEquals(server.requests, ["/silent", "/next"]);
        },
      };
    },
  );
}

testEnds(
  "http.get() whose agent takes long to open a connection ends at once",
  async (stack) => {
    const server = await Server.start(stack);
    const agent = makeAgent(stack);
    let give: (() => net.Socket) | undefined;
    agent.createConnection = ((options: net.NetConnectOpts, done: Done) => {
      give = () => {
        const socket = net.connect(options);
        done(null, socket);
        return socket;
      };
    }) as never;
    return {
      call: () => clients["http.get()"]!(server.url("lost"), agent),
      begun: () => atOnce(() => give !== undefined),
      async after() {
        const late = give!();
        await new Promise((resolve) => late.once("close", resolve));
        assertEquals(server.requests, []);
      },
    };
  },
);

type Done = (error: unknown, socket: net.Socket) => void;

test("http.get() that is killed before it uses a connection leaves no listener on it", async () => {
  await using stack = new AsyncDisposableStack();
  const server = await Server.start(stack);
  const agent = makeAgent(stack);
  using failures = new Failures();
  using _ = patch();
  let socket: net.Socket | undefined;
  const counts = new Set<string>();
  for (let round = 0; round < 200; round++) {
    await new Promise<void>((resolve, reject) => {
      const request = http.get(server.url("next"), { agent }, (response) => {
        response.resume().on("end", resolve);
      }).on("error", reject);
      request.on("socket", (used) => socket = used);
    });
    await turns(2);
    const lost = spawn(() => clients["http.get()"]!(server.url("lost"), agent));
    // The greenlet begins, and its request has no connection yet.
    await Promise.resolve();
    await lost.kill();
    const names = socket!.eventNames();
    counts.add(String(names.map((name) => socket!.listenerCount(name))));
  }
  assertEquals(counts.size, 1, [...counts].join(" "));
  assertEquals(server.connections, 1);
  assertEquals(failures.errors, []);
});

/** Without time limits, whose timers undici leaves running. */
const LIMITS = { headersTimeout: 0, bodyTimeout: 0, connect: { timeout: 0 } };

testEnds(
  "request() of undici that has waited for a connection of its pool ends at once",
  async (stack) => {
    const server = await Server.start(stack);
    const dispatcher = new Agent({ ...LIMITS, connections: 2 });
    stack.defer(() => dispatcher.destroy());
    const aborts = [new AbortController(), new AbortController()];
    for (const { signal } of aborts) {
      request(server.url("silent"), { dispatcher, signal }).catch(() => {});
    }
    await atOnce(() => server.requests.length === 2);
    return {
      call: () => request(server.url("silent"), { dispatcher }),
      async begun() {
        await arrive();
        assertEquals(server.requests.length, 2);
        aborts[0]!.abort();
        await atOnce(() => server.requests.length === 3);
      },
      async after() {
        // Closes the connection, which would leave a timer of undici
        const options = { dispatcher, reset: true };
        const { body } = await request(server.url("last"), options);
        assertEquals(await body.text(), "reply to /last");
      },
    };
  },
);

// Streams that outlive a loop

for (const [kind, start] of Object.entries(kinds)) {
  test(`Readable.iterator() that keeps its stream leaves no listener on it when it is interrupted, ${kind}`, async () => {
    using failures = new Failures();
    using _ = patch();
    const kept = new stream.PassThrough();
    const counts = () =>
      kept.eventNames().map((name) => [name, kept.listenerCount(name)]);
    const before = counts();
    const read = async () => {
      for await (const chunk of kept.iterator({ destroyOnReturn: false })) {
        return `${chunk}`;
      }
    };
    for (let round = 0; round < 200; round++) {
      const greenlet = start(read);
      await turns();
      await greenlet.kill();
      assertEquals(counts(), before);
    }
    const next = spawn(read);
    await turns();
    kept.write("kept");
    assertEquals(await atOnce(next.get()), "kept");
    assert(!kept.destroyed);
    assertEquals(failures.errors, []);
  });
}

// Parts of a package that wait for its own events

const onces = {
  // Looked up at each call: `patch()` replaces it.
  "events.once()": (emitter: events.EventEmitter, event: string | symbol) =>
    events.once(emitter, event),
  "once(), imported by name": once,
};

for (const [name, wait] of Object.entries(onces)) {
  test(`${name} goes on until an event whose name is a symbol`, async () => {
    using _ = patch();
    const emitter = new events.EventEmitter();
    const event = Symbol("event");
    let got: unknown;
    const greenlet = spawn(async () => {
      [got] = await wait(emitter, event);
      await sleep(0);
    });
    await turns();
    greenlet.kill(undefined, { block: false });
    await arrive();
    assert(!greenlet.dead);
    emitter.emit(event, "value");
    await atOnce(greenlet.join());
    assertEquals(got, "value");
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(emitter.eventNames(), []);
    // Another one for the same emitter is no exception.
    const other = spawn(() => wait(emitter, "event"));
    await turns();
    await atOnce(other.kill(), "The end");
    assertInstanceOf(other.value, GreenletExit);
  });
}

for (const [kind, start] of Object.entries(kinds)) {
  test(`execa() that merges the outputs of its child ends with its greenlet, ${kind}`, async () => {
    using failures = new Failures();
    using _ = patch();
    let begun = false;
    let closed: Promise<unknown> | undefined;
    const greenlet = start(async () => {
      const script = "echo begun; exec sleep 1000";
      const child = execa("sh", ["-c", script], { all: true });
      child.stdout.on("data", () => begun = true);
      closed = new Promise((resolve) => child.on("close", resolve));
      await child;
    });
    await atOnce(() => begun);
    await atOnce(greenlet.kill(undefined, { grace: 1e9 }), "The end");
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(failures.errors, []);
    await closed;
    await arrive();
  });
}

test("execa() with a time limit of its own ends when its greenlet is thrown an error", async () => {
  using _ = patch();
  let closed: Promise<unknown> | undefined;
  const greenlet = spawn(async () => {
    const child = execa("sleep", ["1000"], { timeout: 1_000_000 });
    closed = new Promise((resolve) => child.on("close", resolve));
    await child;
  });
  greenlet.linkException(() => {});
  await arrive();
  const error = new Error("The test's own");
  greenlet.throw(error);
  await atOnce(greenlet.join(), "The end");
  assertInstanceOf(greenlet.exception, Error);
  await closed;
  await arrive();
});

// Order

type Log = (entry: unknown) => void;

const store = new AsyncLocalStorage<string>();

/** Waits as code that knows nothing of greenlets. */
const pause = (ms: number) =>
  new Promise<void>((resolve) => setTimeout(resolve, ms));
const immediate = () =>
  new Promise<void>((resolve) => timers.setImmediate(() => resolve()));

/** Programs whose order a package may rely on. Each ends when all that it has begun is over. */
const programs: Record<string, (log: Log) => Promise<unknown>> = {
  async "ticks and microtasks"(log) {
    process.nextTick(() => {
      log("tick");
      process.nextTick(() => log("tick in tick"));
      queueMicrotask(() => log("microtask in tick"));
    });
    queueMicrotask(() => {
      log("microtask");
      process.nextTick(() => log("tick in microtask"));
    });
    Promise.resolve().then(() => log("promise"));
    await null;
    log("awaited");
    await turns(3);
  },
  async "immediates"(log) {
    timers.setImmediate(() => {
      log("first");
      timers.setImmediate(() => log("next turn"));
      process.nextTick(() => log("tick"));
      queueMicrotask(() => log("microtask"));
    });
    timers.setImmediate(() => log("second"));
    timers.clearImmediate(timers.setImmediate(() => log("cleared")));
    await immediate();
    log("awaited");
    await timersPromises.setImmediate();
    log("promised");
    await turns(3);
  },
  async "timers"(log) {
    // In the order of their deadlines: a machine may stand still between two calls.
    setTimeout(() => {
      log("first");
      process.nextTick(() => log("tick"));
      queueMicrotask(() => log("microtask"));
    }, 1);
    setTimeout(() => clearTimeout(cleared), 1);
    setTimeout(() => log("second"), 2);
    const awaited = pause(2).then(() => log("awaited"));
    setTimeout(() => log("third"), 2);
    const cleared = setTimeout(() => log("cleared"), 3);
    await awaited;
    await timersPromises.setTimeout(3, "promised").then(log);
  },
  async "a wait and what its timer does"(log) {
    setTimeout(() => {
      log("timer");
      process.nextTick(() => log("tick"));
      queueMicrotask(() => log("microtask"));
    }, 1);
    await pause(1);
    log("awaited");
    process.nextTick(() => log("later tick"));
    await null;
    log("microtask after it");
    await turns(3);
  },
  async "an interval"(log) {
    let count = 0;
    await new Promise<void>((resolve) => {
      const interval = setInterval(() => {
        log(++count);
        process.nextTick(() => log("tick"));
        if (count < 3) return;
        clearInterval(interval);
        timers.setImmediate(resolve);
      }, 1);
    });
    for await (const value of timersPromises.setInterval(1, "value")) {
      log(value);
      break;
    }
  },
  async "events"(log) {
    const emitter = new events.EventEmitter();
    emitter.on("event", async () => {
      log("listener");
      await null;
      log("its end");
    });
    emitter.once("event", () => log("once"));
    queueMicrotask(() => log("microtask"));
    emitter.emit("event");
    emitter.emit("event");
    log(emitter.listenerCount("event"));
    const failed = once(emitter, "other").catch(log);
    emitter.emit("error", "failure");
    await failed;
    log(emitter.eventNames());
    await turns(3);
  },
  async "a readable stream"(log) {
    const source = stream.Readable.from(["a", "b"]);
    source.on("data", (data) => {
      log(data);
      process.nextTick(() => log("tick"));
    });
    source.on("end", () => log("end"));
    await new Promise<void>((resolve) => source.on("close", () => resolve()));
    log("closed");
    const left = stream.Readable.from([1, 2]);
    left.on("close", () => log("close"));
    for await (const item of left) {
      log(item);
      break;
    }
    log(left.destroyed);
    await turns(3);
  },
  async "a writable stream"(log) {
    const sink = new stream.Writable({
      highWaterMark: 2,
      write(data, _encoding, done) {
        log(`${data}`);
        timers.setImmediate(done);
      },
      final(done) {
        log("final");
        done();
      },
    });
    sink.on("drain", () => log("drain")).on("finish", () => log("finish"));
    log(sink.write("ab", () => log("written")));
    await new Promise<void>((resolve) => sink.end("cd", resolve));
    log("ended");
    await turns(3);
  },
  async "a pipeline"(log) {
    const sink = () =>
      new stream.Writable({
        objectMode: true,
        write(data, _encoding, done) {
          log(data);
          done();
        },
      });
    const source = () => stream.Readable.from([1, 2]);
    await new Promise<void>((resolve) =>
      stream.pipeline(source(), sink(), (error) => {
        log(["called back", error]);
        resolve();
      })
    );
    await stream.promises.pipeline(source(), async function* (items) {
      for await (const item of items) yield item * 2;
    }, sink());
    log("over");
  },
  async "the context of callbacks"(log) {
    const tell = (where: string) => log(`${where}: ${store.getStore()}`);
    await store.run("run", async () => {
      timers.setImmediate(() => tell("immediate"));
      process.nextTick(() => tell("tick"));
      queueMicrotask(() => tell("microtask"));
      await immediate();
      tell("after an immediate");
      setTimeout(() => tell("timer"), 1);
      await pause(1);
      tell("after a timer");
      store.exit(() => setTimeout(() => tell("timer of exit()"), 1));
      await timersPromises.setTimeout(2);
      tell("after a promised timer");
    });
    tell("at the end");
  },
  async "a context that is entered"(log) {
    await store.run("outer", async () => {
      store.enterWith("entered");
      await pause(1);
      log(store.getStore());
      await immediate();
      log(store.getStore());
      setTimeout(() => log(["timer", store.getStore()]), 1);
      store.enterWith("entered again");
      await pause(2);
      log(store.getStore());
      const emitter = new events.EventEmitter();
      timers.setImmediate(() =>
        store.run("emitting", () => emitter.emit("event"))
      );
      await events.once(emitter, "event");
      log(store.getStore());
      for await (const _ of stream.Readable.from([1])) log(store.getStore());
    });
    log(store.getStore());
  },
  async "contexts that are bound"(log) {
    const tell = () => log(store.getStore());
    const bound = store.run("bound", () => AsyncLocalStorage.bind(tell));
    const snapshot = store.run("snapshot", () => AsyncLocalStorage.snapshot());
    const resource = store.run("resource", () => new AsyncResource("test"));
    await store.run("current", async () => {
      bound();
      timers.setImmediate(bound);
      await immediate();
      setTimeout(bound, 1);
      await pause(2);
      snapshot(tell);
      resource.runInAsyncScope(tell);
      await snapshot(async () => {
        await pause(1);
        tell();
      });
      tell();
    });
  },
};

for (const [name, program] of Object.entries(programs)) {
  test(`patch() keeps the order of ${name}, outside greenlets and inside`, async () => {
    const run = async () => {
      const log: unknown[] = [];
      // Each begins at the same place of a turn.
      await turns();
      await program((entry) => log.push(entry));
      return log;
    };
    const plain = await run();
    using failures = new Failures();
    using _ = patch();
    assertEquals(await run(), plain);
    assertEquals(await spawn(run).get(), plain);
    const generator = spawn(function* () {
      return yield* until(run());
    });
    assertEquals(await generator.get(), plain);
    assertEquals(await withTimeout(100_000, run), plain);
    assertEquals(failures.errors, []);
  });
}

// Recipes

/** Clients of a database whose server ignores the first cancel, as it has not begun the query. */
class Database {
  readonly #query = Promise.withResolvers<never>();
  /** What is done, in order. */
  readonly log: string[] = [];
  processID = 7;
  threadId = 7;

  readonly pool = {
    connect: () => Promise.resolve(this),
    getConnection: () => Promise.resolve(this),
    reserve: () => Promise.resolve(this),
  };

  readonly admin = {
    connect: this.pool.connect,
    getConnection: this.pool.getConnection,
    query: () => this.#cancel(),
    unsafe: () => this.#cancel(),
  };

  query(_text?: string): Promise<never> {
    this.log.push("query");
    return this.#query.promise;
  }

  unsafe(): Promise<unknown> {
    return Promise.resolve([{ pid: 7 }]);
  }

  release(): void {
    this.log.push("release");
  }

  async #cancel(): Promise<void> {
    this.log.push("cancel");
    if (this.log.length < 3) return;
    // The query is over before its cancel is.
    this.#query.reject(new Error("Cancelled"));
    await turns(2);
    this.log.push("cancelled");
  }
}

const recipes: Record<string, (database: Database) => Promise<unknown>> = {
  queryPg: ({ pool, admin }) =>
    queryPg({ ...pool, query: admin.query }, admin, ""),
  queryMysql: ({ pool, admin }) =>
    queryMysql({ ...pool, query: admin.query }, admin, ""),
  queryPostgres: ({ pool, admin }) =>
    queryPostgres({ ...pool, ...admin }, admin, (own) => own.query()),
};

for (const [name, recipe] of Object.entries(recipes)) {
  test(`${name}() cancels until its query is over, and gives back the connection then`, async () => {
    using failures = new Failures();
    using _ = patch();
    using clock = new TestClock();
    const database = new Database();
    const greenlet = spawn(recipe, database);
    await atOnce(() => database.log.length > 0);
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(database.log, ["query", "cancel"]);
    await clock.advance(1000);
    await arrive();
    const expected = ["query", "cancel", "cancel", "cancelled", "release"];
    assertEquals(database.log, expected);
    assertEquals(failures.errors, []);
  });
}
