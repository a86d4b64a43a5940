/**
 * ioredis, unmodified, against a redis-server of its own for each test: a client on
 * `node:net`, whose promises are its own and whose one connection is shared by all.
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { Redis, type RedisOptions } from "ioredis";
import {
  Event,
  getHub,
  Greenlet,
  GreenletExit,
  joinAll,
  killAll,
  patch,
  Pool,
  Queue,
  Semaphore,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle } from "../_bodies.ts";
import { withSeeds } from "../_random.ts";
import { PATIENCE, when } from "../_waits.ts";

/** The server's version; `null` if there is no server to test with. */
const version = ((): number | null => {
  try {
    const args = ["--version"];
    const { stdout } = new Deno.Command("redis-server", { args }).outputSync();
    return parseInt(/v=(\d+)/.exec(new TextDecoder().decode(stdout))![1]!);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
})();
const ignore = version === null;

/** A test that fails when what it waits for does not come. */
function test(name: string, body: (server: Server) => Promise<void>): void {
  Deno.test({
    name: ignore ? `${name} (skipped: no redis-server on PATH)` : name,
    ignore,
    async fn() {
      await using server = await Server.start();
      using _ = patch();
      using failures = new Failures();
      const { promise, reject } = Promise.withResolvers<never>();
      const late = new Error("Waits for what does not come");
      const timer = setTimeout(() => reject(late), PATIENCE);
      try {
        await Promise.race([body(server), promise]);
      } finally {
        clearTimeout(timer);
      }
      assertEquals(failures.errors, []);
    },
  });
}

/** A test with random numbers; see {@linkcode withSeeds}. */
function testRandomly(
  name: string,
  body: (server: Server, next: () => number) => Promise<void>,
): void {
  test(name, (server) => withSeeds((next) => body(server, next)));
}

/** A pause as in code that knows nothing of greenlets. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A redis-server, and the clients that a test has made for it. */
class Server implements AsyncDisposable {
  readonly port: number;
  readonly #directory: string;
  readonly #clients: Redis[] = [];
  #process: Deno.ChildProcess | null = null;
  #hasEnded = false;

  private constructor(port: number, directory: string) {
    this.port = port;
    this.#directory = directory;
  }

  static async start(): Promise<Server> {
    const directory = await Deno.makeTempDir();
    for (let attempt = 0;; attempt++) {
      const server = new Server(freePort(), directory);
      try {
        await server.run();
        return server;
      } catch (error) {
        // Another process may have taken the port meanwhile.
        if (attempt === 4) throw error;
      }
    }
  }

  /** Starts the process; once more, after {@linkcode Server.kill}. */
  async run(): Promise<void> {
    const options = {
      port: this.port,
      bind: "127.0.0.1",
      dir: this.#directory,
      save: "",
      appendonly: "no",
      // Before, DEBUG was allowed to all.
      ...version! >= 7 ? { "enable-debug-command": "yes" } : {},
    };
    const args = Object.entries(options).flatMap(([name, value]) => [
      `--${name}`,
      String(value),
    ]);
    const process = this.#process = new Deno.Command("redis-server", {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    this.#hasEnded = false;
    process.status.then(() => this.#hasEnded = true);
    for (;;) {
      try {
        const conn = await Deno.connect({ port: this.port });
        return conn.close();
      } catch (error) {
        if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
      }
      if (this.#hasEnded) throw new Error("Cannot run redis-server");
      await pause(5);
    }
  }

  /** Ends the process, as a crash would. */
  async kill(): Promise<void> {
    if (!this.#hasEnded) this.#process?.kill("SIGKILL");
    await this.#process?.status;
  }

  /** A client, which tries to connect again and again. */
  client(options: Omit<RedisOptions, "replyMapping"> = {}): Redis {
    return this.keep(
      new Redis({
        host: "127.0.0.1",
        port: this.port,
        retryStrategy: () => 20,
        disconnectTimeout: 100,
        ...options,
      }),
    );
  }

  /** Has a client closed at the end of the test. */
  keep(client: Redis): Redis {
    this.#clients.push(client);
    // It would print them.
    client.on("error", () => {});
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // They end by themselves then. To disconnect() a client that has lost its server, or is
    // about to connect again, would leave a timer of ioredis behind.
    const ends = this.#clients.map((client) => {
      client.options.retryStrategy = () => null;
      return client.status === "end" ||
        new Promise((resolve) => client.once("end", resolve));
    });
    await this.kill();
    await Promise.all(ends);
    await Deno.remove(this.#directory, { recursive: true });
  }
}

/**
 * A port that no process gets by chance, as ports from 32768 on: a server comes back to it.
 */
function freePort(): number {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/** Closes a connection that is open, and waits until that is done. */
async function close(client: Redis): Promise<void> {
  const end = new Promise((resolve) => client.once("end", resolve));
  client.disconnect();
  await end;
}

/** A script that keeps the server busy for some 100 ms. */
const BUSY = "local n = 0; for i = 1, 2e7 do n = n + i end; return KEYS[1]";

// --- One connection for all

testRandomly(
  "ioredis serves 100 greenlets over one connection: killed or timed out, none gets a reply of another",
  async (server, next) => {
    const redis = server.client();
    const id = await redis.client("ID");
    const slowness = server.client();
    const log = { begun: 0, replies: 0, timeouts: 0, kills: 0 };

    class User extends Greenlet<void> {
      readonly key: string;
      /** The number that was sent last, whether it was answered or not. */
      last: string | null = null;
      count = 0;
      /** True if it had nothing left to wait for, killed or not. */
      isDone = false;
      isClean = false;

      constructor(i: number) {
        super();
        this.key = `user-${i}`;
      }

      /** Sends a command, in its turn, and waits for its reply as long as it may. */
      async ask<T>(send: () => Promise<T>, expected: () => T): Promise<void> {
        try {
          let wanted!: T;
          const reply = await withTimeout(1 + next() * 60, () => {
            log.begun++;
            const promise = send();
            wanted = expected();
            return until(promise);
          });
          assertEquals(reply, wanted);
          log.replies++;
        } catch (error) {
          if (!(error instanceof Timeout)) throw error;
          log.timeouts++;
        }
      }

      #value(): string {
        return this.last = `${this.key}:${next()}`;
      }

      readonly #commands = [
        () => {
          const text = `${this.key} ${next()}`;
          return this.ask(() => redis.echo(text), () => text);
        },
        () =>
          this.ask<string>(
            () => redis.set(this.key, this.#value()),
            () => "OK",
          ),
        () => this.ask(() => redis.get(this.key), () => this.last),
        () => this.ask(() => redis.incr(`${this.key}#`), () => ++this.count),
        () =>
          this.ask<unknown>(
            () => redis.eval("return {KEYS[1], ARGV[1]}", 1, this.key, 7),
            () => [this.key, "7"],
          ),
        () =>
          this.ask<unknown>(
            () =>
              redis.pipeline().set(this.key, this.#value()).get(this.key)
                .incr(`${this.key}#`).exec(),
            () => [[null, "OK"], [null, this.last], [null, ++this.count]],
          ),
        () =>
          this.ask<unknown>(
            () =>
              redis.multi().get(this.key).incr(`${this.key}#`)
                .echo(this.key).exec(),
            () => [[null, this.last], [null, ++this.count], [null, this.key]],
          ),
      ];

      override run = async () => {
        try {
          for (let i = 0; i < 25; i++) {
            await this.#commands[Math.floor(next() * this.#commands.length)]!();
            if (next() < 0.1) await pause(next() * 4);
          }
          this.isDone = true;
        } finally {
          this.isClean = true;
        }
      };
    }

    const users = Array.from({ length: 100 }, (_, i) => new User(i));
    for (const user of users) user.start();
    const slow = spawn(async () => {
      for (;;) {
        await until(slowness.call("DEBUG", "SLEEP", 0.03));
        await sleep(20);
      }
    });
    const victims = users.filter(() => next() < 0.4);
    for (const victim of victims) {
      await sleep(next() * 10);
      if (victim.dead) continue;
      await victim.kill();
      assert(victim.isClean);
      // Its last wait may have been over before the kill, and keeps its result.
      if (victim.isDone) continue;
      assertInstanceOf(victim.value, GreenletExit);
      log.kills++;
    }
    await joinAll(users, { raiseError: true });
    await slow.kill();
    for (const count of Object.values(log)) assertGreater(count, 0);

    // Commands that were begun were done, once, and the replies still come in order.
    for (const { key, last, count } of users) {
      assertEquals(await redis.get(key), last);
      assertEquals(Number(await redis.get(`${key}#`)), count);
    }
    assertEquals(await redis.client("ID"), id);
    assert(await getHub().join({ timeout: 10_000 }));
  },
);

testRandomly(
  "ioredis sends the commands of several greenlets together, and those of killed ones do no harm to the others",
  async (server, next) => {
    const redis = server.client({ enableAutoPipelining: true });
    await redis.ping();
    for (let round = 0; round < 20; round++) {
      const greenlets = Array.from({ length: 50 }, (_, i) =>
        spawn(async () => {
          const value = `${round}-${i}`;
          await until(redis.set(`key-${i}`, value));
          return await until(redis.get(`key-${i}`)) === value;
        }));
      await sleep(0);
      // All are sent in the context of the first
      const killed = greenlets.filter((_, i) => i === 0 || next() < 0.3);
      if (next() < 0.5) await sleep(next() * 2);
      await killAll(killed);
      await joinAll(greenlets, { raiseError: true });
      for (const greenlet of greenlets) {
        if (!killed.includes(greenlet)) assertEquals(greenlet.value, true);
      }
    }
  },
);

// --- Slow commands

const slowCommands: Record<string, (redis: Redis) => Promise<unknown>> = {
  "BLPOP": (redis) => redis.blpop("nothing", 0),
  "DEBUG SLEEP": (redis) => redis.call("DEBUG", "SLEEP", 0.1),
  "a script": (redis) => redis.eval(BUSY, 1, "key"),
};

for (const [name, send] of Object.entries(slowCommands)) {
  test(`ioredis that waits by until() for ${name} is killed at once, and the connection is of use`, async (server) => {
    const redis = server.client();
    const other = server.client();
    await Promise.all([redis.ping(), other.ping()]);
    let log: string[];
    // Once more if this process was held up for as long as the server.
    do {
      const notes: string[] = log = [];
      const greenlet = spawn(async () => {
        const reply = send(redis).then(() => notes.push("reply"));
        try {
          await until(reply);
        } finally {
          notes.push("finally");
        }
      });
      await sleep(0);
      await greenlet.kill();
    } while (log[0] === "reply");
    // Behind the other one, in its turn
    const next = spawn(() => until(redis.echo("next")));
    await other.rpush("nothing", "something");
    assertEquals(await next.get(), "next");
    assertEquals(log, ["finally", "reply"]);
  });

  test(`ioredis that waits by until() for ${name} is timed out at once, and the connection is of use`, async (server) => {
    const redis = server.client();
    const other = server.client();
    await Promise.all([redis.ping(), other.ping()]);
    let log: string[];
    // Once more if this process was held up for as long as the server.
    do {
      const notes: string[] = log = [];
      await spawn(async () => {
        const reply = send(redis).then(() => notes.push("reply"));
        using limit = Timeout.start(1);
        try {
          await until(reply);
        } catch (error) {
          assertStrictEquals(error, limit);
          notes.push("timeout");
        }
      }).get();
    } while (log[0] === "reply");
    const next = spawn(() => until(redis.echo("next")));
    await other.rpush("nothing", "something");
    assertEquals(await next.get(), "next");
    assertEquals(log, ["timeout", "reply"]);
  });
}

test("ioredis has its own commandTimeout in greenlets, whose promise until() passes on", async (server) => {
  const redis = server.client();
  await redis.ping();
  redis.options.commandTimeout = 20;
  const greenlet = spawn(async () => {
    const error = await assertRejects(
      () => until(redis.blpop("nothing", 0)),
      Error,
      "Command timed out",
    );
    assertFalse(error instanceof Timeout);
  });
  await greenlet.get();
});

test("ioredis gives what a BLPOP has popped too late to onInterrupt, which puts it back", async (server) => {
  const redis = server.client();
  const other = server.client();
  await Promise.all([redis.ping(), other.ping()]);

  const returns: Promise<void>[] = [];

  /** The next item: none is lost when the wait is interrupted. */
  function pop(): Promise<string> {
    const popped = redis.blpop("items", 0) as Promise<[string, string]>;
    const putBack = async () => {
      const [key, item] = await popped;
      await other.lpush(key, item);
    };
    return until(popped, () => returns.push(putBack()))
      .then(([, item]) => item);
  }

  const items: string[] = [];
  for (let round = 0; round < 5; round++) {
    const getter = spawn(pop);
    await sleep(0);
    await getter.kill();
    await other.rpush("items", `item ${round}`);
    // The item that was put back
    items.push(await spawn(pop).get());
  }
  await Promise.all(returns);
  assertEquals(items, [0, 1, 2, 3, 4].map((i) => `item ${i}`));
});

// --- Without until()

test("ioredis awaited without until() ends when the reply is there, and then its greenlet is killed", async (server) => {
  const redis = server.client();
  const other = server.client();
  await Promise.all([redis.ping(), other.ping()]);
  const log: unknown[] = [];
  const greenlet = spawn(async () => {
    try {
      log.push(await redis.blpop("items", 0)); // A foreign promise
      log.push("goes on");
      await pause(0);
      log.push("not here");
    } finally {
      log.push("finally");
    }
  });
  await sleep(0);
  // It gets the error, and can't be stopped
  await greenlet.kill(undefined, { timeout: 5 });
  assertFalse(greenlet.dead);
  assertEquals(log, []);
  await other.rpush("items", "item");
  await greenlet.join();
  assertEquals(log, [["items", "item"], "goes on", "finally"]);
  assertInstanceOf(greenlet.value, GreenletExit);
});

test("ioredis awaited without until() holds up its greenlet, but not withTimeout()", async (server) => {
  const redis = server.client();
  const other = server.client();
  await Promise.all([redis.ping(), other.ping()]);
  const log: unknown[] = [];
  const late = await withTimeout(5, async () => {
    log.push(await redis.blpop("items", 0));
    await pause(0).catch((error) => log.push(error.name));
  }, { value: "late" });
  assertEquals(late, "late");
  assertEquals(log, []);
  // A call that is left behind ends at its next wait
  await other.rpush("items", "item");
  assertEquals(await redis.echo("next"), "next");
  await settle();
  assertEquals(log, [["items", "item"], "Timeout"]);
});

// --- Connecting, and connecting again

test("ioredis that reaches no server lets go of greenlets that are killed and timed out", async (server) => {
  const redis = server.client({
    port: freePort(),
    maxRetriesPerRequest: null,
  });
  const waiting = spawn(() => until(redis.get("key")));
  await sleep(5);
  await waiting.kill();
  assertInstanceOf(waiting.value, GreenletExit);
  const limited = spawn(() =>
    withTimeout(5, () => until(redis.get("key")), { value: "late" })
  );
  assertEquals(await limited.get(), "late");
});

test("ioredis that reaches no server fails in greenlets as outside", async (server) => {
  using failures = new Failures();
  const redis = server.client({ port: freePort(), maxRetriesPerRequest: 1 });
  const waiting = spawn(() => until(redis.get("key")));
  const error = await assertRejects(() => waiting.get()) as Error;
  assertEquals(error.name, "MaxRetriesPerRequestError");
  assertEquals(failures.errors, []); // get() has taken it
});

test("ioredis whose server never answers lets go of greenlets that are killed and timed out", async (server) => {
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  let redis!: Redis;
  const opener = spawn(async () => {
    redis = server.client({ port: silent.addr.port, disconnectTimeout: 1 });
    await until(redis.get("key"));
  });
  // It is connected, and waits until the server is ready.
  await when(() => redis?.status === "connect");
  await opener.kill();
  const limited = spawn(() =>
    withTimeout(5, () => until(redis.get("key")), { value: "late" })
  );
  assertEquals(await limited.get(), "late");
  await close(redis);
});

testRandomly(
  "ioredis connects again when its server is there again, for greenlets that were not killed meanwhile",
  async (server, next) => {
    const redis = server.client({ maxRetriesPerRequest: null });
    await redis.ping();
    for (let round = 0; round < 3; round++) {
      let isDown = false;
      const greenlets = Array.from({ length: 30 }, (_, i) =>
        spawn(async () => {
          let after = 0;
          while (after < 5) {
            const text = `${round} ${i} ${after}`;
            assertEquals(await until(redis.echo(text)), text);
            if (isDown) after++;
            await pause(1);
          }
        }));
      await sleep(5);
      await server.kill();
      isDown = true;
      const killed = greenlets.filter(() => next() < 0.4);
      for (const greenlet of killed) {
        await sleep(next() * 2);
        await greenlet.kill();
      }
      assert(greenlets.every((g) => g.dead === killed.includes(g)));
      await server.run();
      await joinAll(greenlets, { raiseError: true });
    }
  },
);

// --- The greenlet that has made the client

/** The ways in which the greenlet that happens to open the connection may end. */
const ends: Record<string, (open: () => Redis) => Promise<unknown>> = {
  "ends": (open) => spawn(open).get(),
  "is killed before it connects": async (open) => {
    const opener = spawn(async () => {
      open();
      await until(new Promise(() => {}));
    });
    await sleep(0);
    await opener.kill();
  },
  "is killed without grace while it connects": async (open) => {
    const opener = spawn(async () => {
      const client = open();
      await until(new Promise((resolve) => client.once("connect", resolve)));
      await until(new Promise(() => {}));
    });
    await sleep(2);
    await opener.kill(undefined, { grace: 0 });
  },
  "is killed as soon as it is connected": async (open) => {
    const opener = spawn(async () => {
      const client = open();
      client.once("connect", () => opener.kill());
      await until(new Promise(() => {}));
    });
    await opener.join();
  },
  "is killed while it waits for a reply": async (open) => {
    const { promise: isReady, resolve } = Promise.withResolvers<void>();
    const opener = spawn(async () => {
      const client = open();
      client.once("ready", () => resolve());
      await until(client.blpop("nothing", 0.1));
    });
    await isReady;
    await opener.kill();
  },
  "is timed out": (open) =>
    withTimeout(1, () => until(open().blpop("nothing", 0.1)), { value: null }),
};

for (const [end, openAndEnd] of Object.entries(ends)) {
  for (const lazyConnect of [false, true]) {
    const when = lazyConnect ? "with its first command" : "at once";
    test(`ioredis that connects ${when} serves all, when the greenlet ${end} that has made it`, async (server) => {
      const log: string[] = [];
      let redis!: Redis;
      await openAndEnd(() => {
        redis = server.client({ lazyConnect });
        // As an application does: to set the client up, and to keep it alive
        redis.on("ready", async () => {
          await pause(1);
          log.push("ready");
          const timer = setInterval(async () => {
            await pause(0);
            log.push("alive");
          }, 1);
          redis.once("close", () => {
            clearInterval(timer);
            log.push("close");
          });
        });
        if (lazyConnect) redis.ping().catch(() => {});
        return redis;
      });
      const others = Array.from(
        { length: 10 },
        (_, i) =>
          spawn(async () => {
            const text = `other ${i}`;
            assertEquals(await until(redis.echo(text)), text);
          }),
      );
      await joinAll(others, { raiseError: true });
      while (log.length < 3) await sleep(1);
      assertEquals(log.splice(0, 3), ["ready", "alive", "alive"]);

      // Once more, by the client's own timer
      const killer = server.client();
      await killer.call("CLIENT", "KILL", "TYPE", "normal");
      while (!log.includes("ready")) await sleep(1);
      assertEquals(log.filter((line) => line !== "alive"), ["close", "ready"]);
      assertEquals(await spawn(() => until(redis.echo("x"))).get(), "x");
      await close(redis);
      await getHub().join();
    });
  }
}

test("ioredis that looks for Sentinels, in waits of its own, ends with the greenlet that it waits for, and so not in a greenlet of its own", async (server) => {
  const make = () =>
    server.keep(
      new Redis({
        // This server is no Sentinel, and knows no other
        sentinels: [{ host: "127.0.0.1", port: server.port }],
        sentinelRetryStrategy: () => 5,
        name: "main",
      }),
    );
  async function ofFirstUser(make: () => Redis | Promise<Redis>) {
    const made = Promise.withResolvers<Redis>();
    const user = spawn(async () => {
      const redis = await make();
      made.resolve(redis);
      await until(redis.get("key"));
    });
    const retries: string[] = [];
    const redis = await made.promise;
    redis.on("error", (error) => retries.push(error.name));
    while (retries.length === 0) await sleep(1);
    await user.kill();
    return { redis, retries };
  }

  // The pause before it tries again is a wait of the greenlet that was killed
  const lost = await ofFirstUser(make);
  while (lost.redis.status !== "end") await sleep(1);
  assertEquals(lost.retries.at(-1), "GreenletExit");

  const { redis, retries } = await ofFirstUser(() => spawn(make).get());
  const count = retries.length;
  while (retries.length < count + 3) await sleep(1);
  assert(retries.every((name) => name === "Error"));
  redis.options.sentinelRetryStrategy = () => null;
  await new Promise((resolve) => redis.once("end", resolve));
});

// --- Publish and subscribe

test("ioredis puts what is published into a queue, of which a killed and a timed-out greenlet take nothing", async (server) => {
  const publisher = server.client();
  const queue = new Queue<string>();
  let subscriber!: Redis;
  const opener = spawn(async () => {
    subscriber = server.client();
    subscriber.on("message", (channel, message) => {
      queue.putNowait(`${channel}: ${message}`);
    });
    await until(subscriber.subscribe("news"));
    await until(new Promise(() => {}));
  });
  await sleep(0);
  while (await publisher.publish("news", "0") === 0) await sleep(1);
  await opener.kill();

  const got: string[] = [];
  async function read(count: number): Promise<void> {
    for (let i = 0; i < count; i++) got.push(await queue.get());
  }
  await spawn(read, 1).get();
  const killed = spawn(read, 100);
  await publisher.publish("news", "1");
  while (got.length < 2) await sleep(1);
  await killed.kill();
  await publisher.publish("news", "2");
  await spawn(read, 1).get();
  const late = spawn(() => withTimeout(5, () => read(100), { value: "late" }));
  assertEquals(await late.get(), "late");
  for (let i = 3; i < 20; i++) await publisher.publish("news", String(i));
  await spawn(read, 17).get();
  assertEquals(got, Array.from({ length: 20 }, (_, i) => `news: ${i}`));
});

test("ioredis subscribes again after its server was away, whichever greenlet has subscribed", async (server) => {
  const queue = new Queue<string>();
  let subscriber!: Redis;
  const opener = spawn(async () => {
    subscriber = server.client();
    subscriber.on("message", (_, message) => queue.putNowait(message));
    await until(subscriber.subscribe("news"));
  });
  await opener.get();
  const publisher = server.client({ maxRetriesPerRequest: null });
  await server.kill();
  const reader = spawn(() => queue.get());
  await server.run();
  while (await publisher.publish("news", "again") === 0) await sleep(1);
  assertEquals(await reader.get(), "again");
});

// --- Transactions

test("ioredis does nothing of a transaction whose greenlet is killed in the middle, on a connection of its own", async (server) => {
  const redis = server.client();
  await redis.mset("a", "1", "b", "1");
  for (const sent of [0, 1, 2]) {
    const step = new Event();
    const greenlet = spawn(async () => {
      const own = server.keep(redis.duplicate());
      try {
        await until(own.multi({ pipeline: false }));
        if (sent >= 1) await until(own.set("a", "2"));
        if (sent >= 2) await until(own.set("b", "2"));
        step.set();
        await until(new Promise(() => {}));
        await until(own.exec());
      } finally {
        own.disconnect();
      }
    });
    await step.wait();
    await greenlet.kill();
    assertEquals(await redis.mget("a", "b"), ["1", "1"]);
    assertEquals(await redis.set("a", "1"), "OK");
  }
});

/** A number of connections, each lent to one greenlet at a time. */
class Connections {
  readonly free: Redis[];
  readonly permits: Semaphore;

  constructor(server: Server, count: number) {
    this.free = Array.from({ length: count }, () => server.client());
    this.permits = new Semaphore(count);
  }

  async lend<T>(use: (redis: Redis) => Promise<T>): Promise<T> {
    using _ = await this.permits.acquire();
    const redis = this.free.pop()!;
    try {
      return await use(redis);
    } finally {
      this.free.push(redis);
    }
  }
}

testRandomly(
  "ioredis on connections that a Semaphore guards: transfers lose nothing, whichever greenlet is killed or timed out and when",
  async (server, next) => {
    const accounts = ["a", "b", "c", "d"];
    const connections = new Connections(server, 5);
    const admin = server.client();
    await admin.mset(Object.fromEntries(accounts.map((name) => [name, "100"])));
    const log = { transfers: 0, conflicts: 0, timeouts: 0, kills: 0 };

    async function transfer(redis: Redis, from: string, to: string) {
      try {
        await until(redis.watch(from, to));
        const before = await until(redis.mget(from, to));
        if (next() < 0.3) await pause(next() * 2);
        const amount = Math.floor(next() * 10);
        const done = await until(
          redis.multi()
            .set(from, Number(before[0]) - amount)
            .set(to, Number(before[1]) + amount)
            .exec(),
        );
        if (done === null) log.conflicts++;
        else log.transfers++;
      } finally {
        // In its turn, so before the next greenlet that has the connection; it needs no
        // wait.
        redis.unwatch().catch(() => {});
      }
    }

    async function many() {
      const greenlets = Array.from(
        { length: 60 },
        (_, number) =>
          spawn(async () => {
            for (let i = 0; i < 10; i++) {
              const from = Math.floor(next() * 4);
              const to = (from + 1 + Math.floor(next() * 3)) % 4;
              const isLate = await withTimeout(
                // Some have the time that it takes.
                number < 5 ? Infinity : 1 + next() * 30,
                () =>
                  connections.lend((redis) =>
                    transfer(redis, accounts[from]!, accounts[to]!)
                  ),
                { value: true },
              );
              if (isLate) log.timeouts++;
            }
          }),
      );
      for (const greenlet of greenlets.filter(() => next() < 0.4)) {
        await sleep(next() * 4);
        if (greenlet.dead) continue;
        await greenlet.kill();
        log.kills++;
      }
      await joinAll(greenlets, { raiseError: true });
    }
    // On a fast machine or a slow one some of them may not come about.
    do await many(); while (Object.values(log).some((count) => count === 0));

    assertEquals(connections.permits.counter, 5);
    assertEquals(connections.free.length, 5);
    const balances = await admin.mget(accounts);
    assertEquals(balances.reduce((sum, n) => sum + Number(n), 0), 400);
    for (const redis of connections.free) {
      assertEquals(await redis.echo("of use"), "of use");
    }
  },
);

testRandomly(
  "ioredis in a Pool of greenlets: each place comes back, whichever greenlet is killed and when",
  async (server, next) => {
    const redis = server.client();
    await redis.ping();
    const pool = new Pool(5);
    let most = 0;
    let inside = 0;
    const feeder = spawn(async () => {
      for (let i = 0; i < 100; i++) {
        await pool.spawn(async () => {
          most = Math.max(most, ++inside);
          try {
            await until(redis.set(`key ${i}`, i));
            await until(redis.get(`key ${i}`));
          } finally {
            inside--;
          }
        });
      }
    });
    while (!feeder.dead) {
      await sleep(next() * 2);
      for (const greenlet of [...pool.greenlets]) {
        if (next() < 0.3) await pool.killOne(greenlet);
      }
    }
    await feeder.get();
    await pool.join();
    assertEquals([pool.freeCount(), most, inside], [5, 5, 0]);
    assertEquals(await redis.echo("of use"), "of use");
  },
);
