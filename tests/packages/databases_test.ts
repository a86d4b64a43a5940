/** Clients of databases, with servers of the tests' own. */

import { Redis } from "ioredis";
import { assertEquals } from "@std/assert";
import { until } from "../../mod.ts";
import { test } from "../_random.ts";
import { turns } from "../_waits.ts";
import { testKills } from "./_kills.ts";
import { missing, serveTests } from "./_programs.ts";
import { queryMysql, queryPg, queryPostgres } from "./_recipes.ts";
import { Relay } from "./_relay.ts";
import { type Scene, testPackage } from "./_scenes.ts";

// Loaded without their types, which declare globals of Node and change those of other tests.
const { default: mysql } = await import("mysql2" as string);
const { default: pg } = await import("pg" as string);
const { default: postgres } = await import("postgres" as string);
const { createClient } = await import("redis" as string);

const redisPort = serveTests("redis-server");
const postgresPort = serveTests("postgres");
const mariadbPort = serveTests("mariadbd");

/** The bytes of an answer that come before it is held back within its body. */
const HALF = 50_000;

/** An answer of twice as many bytes. */
const LARGE = "x".repeat(2 * HALF);

testPackage("ioredis", {
  "before the connection"(stack) {
    const relay = stack.use(new Relay(redisPort()));
    relay.hold();
    const options = { lazyConnect: true, disconnectTimeout: 1 };
    const make = () => {
      const redis = new Redis(relay.port, "127.0.0.1", options);
      stack.defer(() => redis.disconnect());
      return redis;
    };
    return {
      call: () => make().connect(),
      recipe() {
        const redis = make();
        return until(redis.connect(), () => redis.disconnect());
      },
      begun: () => relay.connected(),
      freed: () => relay.closed(),
      answer: () => relay.release(),
    };
  },
  async "within the body"(stack) {
    const relay = stack.use(new Relay(redisPort()));
    const redis = new Redis(relay.port, "127.0.0.1", { disconnectTimeout: 1 });
    stack.defer(async () => {
      await redis.quit();
    });
    await redis.set("large", LARGE);
    relay.hold(HALF);
    return {
      call: () => redis.get("large"),
      recipe: () => until(redis.get("large")),
      begun: () => relay.heldBack(),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: () => redis.ping(),
    };
  },
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(redisPort()));
    const redis = new Redis(relay.port, "127.0.0.1", { disconnectTimeout: 1 });
    stack.defer(async () => {
      await redis.quit();
    });
    await redis.set("key", "value");
    relay.hold();
    return {
      call: () => redis.get("key"),
      recipe: () => until(redis.get("key")),
      begun: () => relay.heard("key"),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: () => redis.ping(),
    };
  },
}, missing("redis-server"));

testPackage("redis", {
  "before the connection"(stack) {
    const relay = stack.use(new Relay(redisPort()));
    relay.hold();
    const make = () => {
      const client = createClient({ url: `redis://${relay.host}` });
      stack.defer(() => {
        if (client.isOpen) client.destroy();
      });
      return client;
    };
    return {
      call: () => make().connect(),
      recipe() {
        const client = make();
        return until(client.connect(), () => client.destroy());
      },
      begun: () => relay.connected(),
      freed: () => relay.closed(),
      answer: () => relay.release(),
    };
  },
  async "within the body"(stack) {
    const relay = stack.use(new Relay(redisPort()));
    const client = createClient({ url: `redis://${relay.host}` });
    await client.connect();
    stack.defer(() => client.close());
    await client.set("large", LARGE);
    relay.hold(HALF);
    return {
      call: () => client.get("large"),
      recipe: () => until(client.get("large")),
      begun: () => relay.heldBack(),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: () => client.ping(),
    };
  },
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(redisPort()));
    const client = createClient({ url: `redis://${relay.host}` });
    await client.connect();
    stack.defer(() => client.close());
    relay.hold();
    return {
      call: () => client.get("key"),
      recipe: () => until(client.get("key")),
      begun: () => relay.heard("key"),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: () => client.ping(),
    };
  },
}, missing("redis-server"));

/** A query with a large answer. */
const LARGE_QUERY = `select repeat('x', ${LARGE.length}) as large`;

/** A pool and its recipe, for {@linkcode poolScenes}. */
interface PoolCalls {
  /** Asks in the usual way. */
  call(text: string): PromiseLike<unknown>;
  recipe(text: string): PromiseLike<unknown>;
}

/** Two phases of a pool's query: it connects, and a part of its answer has come. */
function poolScenes(
  portOf: () => number,
  open: (
    port: number,
    stack: AsyncDisposableStack,
  ) => PoolCalls | Promise<PoolCalls>,
): Record<"before the connection" | "within the body", Scene> {
  return {
    async "before the connection"(stack) {
      const relay = stack.use(new Relay(portOf()));
      const pool = await open(relay.port, stack);
      relay.hold();
      return {
        call: () => pool.call("select 1"),
        recipe: () => pool.recipe("select 1"),
        begun: () => relay.connected(),
        freed: () => Promise.resolve(relay.release()),
        answer: () => relay.release(),
        // By the connection that was made.
        async after() {
          await pool.call("select 1");
          assertEquals(relay.accepted, 1);
        },
      };
    },
    async "within the body"(stack) {
      const relay = stack.use(new Relay(portOf()));
      const pool = await open(relay.port, stack);
      await pool.call("select 1");
      relay.hold(HALF);
      return {
        call: () => pool.call(LARGE_QUERY),
        recipe: () => pool.recipe(LARGE_QUERY),
        begun: () => relay.heldBack(),
        freed: () => Promise.resolve(relay.release()),
        answer: () => relay.release(),
        after: () => Promise.resolve(pool.call("select 1")),
      };
    },
  };
}

/** Asks until the number of queries that run in the server is as wanted. */
async function running(
  count: () => Promise<number>,
  wanted: number,
): Promise<void> {
  while (await count() !== wanted) await turns(5);
}

const PG_RUNNING =
  "select count(*)::int as n from pg_stat_activity where state = 'active' and query like 'select pg_sleep(1000)%'";

testPackage("pg", {
  ...poolScenes(postgresPort, (port, stack) => {
    const options = { host: "127.0.0.1", user: "postgres", max: 1 };
    const admin = new pg.Pool({ ...options, port: postgresPort() });
    stack.defer(() => admin.end());
    const pool = new pg.Pool({ ...options, port });
    stack.defer(() => pool.end());
    return {
      call: (text) => pool.query(text),
      recipe: (text) => queryPg(pool, admin, text),
    };
  }),
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(postgresPort()));
    const options = { host: "127.0.0.1", user: "postgres" };
    const admin = new pg.Pool({ ...options, port: postgresPort(), max: 1 });
    stack.defer(() => admin.end());
    const pool = new pg.Pool({ ...options, port: relay.port, max: 1 });
    stack.defer(() => pool.end());
    await pool.query("select 1");
    const count = async () => (await admin.query(PG_RUNNING)).rows[0].n;
    await count();
    let isCancelled = false;
    return {
      call() {
        relay.hold();
        return pool.query("select pg_sleep(0)");
      },
      recipe() {
        isCancelled = true;
        return queryPg(pool, admin, "select pg_sleep(1000)");
      },
      async begun() {
        await relay.heard("pg_sleep");
        if (isCancelled) await running(count, 1);
      },
      freed: () => running(count, 0),
      answer: () => relay.release(),
      after: () => pool.query("select 1"),
    };
  },
}, missing("postgres"));

const byPostgres = poolScenes(
  postgresPort,
  async (port, stack) => {
    const options = { host: "127.0.0.1", user: "postgres", max: 1 };
    const admin = postgres({ ...options, port: postgresPort() });
    stack.defer(() => admin.end());
    // It connects by a timer, and no time passes in a test.
    await admin.unsafe("select 1");
    const sql = postgres({ ...options, port });
    stack.defer(() => sql.end());
    return {
      call: (text) => sql.unsafe(text),
      recipe: (text) => queryPostgres(sql, admin, (own) => own.unsafe(text)),
    };
  },
);

testPackage("postgres", {
  "within the body": byPostgres["within the body"],
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(postgresPort()));
    const options = { host: "127.0.0.1", user: "postgres", max: 1 };
    const admin = postgres({ ...options, port: postgresPort() });
    stack.defer(() => admin.end());
    const sql = postgres({ ...options, port: relay.port });
    stack.defer(() => sql.end());
    await sql`select 1`;
    const count = async () => (await admin.unsafe(PG_RUNNING))[0]!.n;
    await count();
    let isCancelled = false;
    return {
      call() {
        relay.hold();
        return sql`select pg_sleep(0)`;
      },
      recipe() {
        isCancelled = true;
        return queryPostgres(
          sql,
          admin,
          (own) => own.unsafe("select pg_sleep(1000)"),
        );
      },
      async begun() {
        await relay.heard("pg_sleep");
        if (isCancelled) await running(count, 1);
      },
      freed: () => running(count, 0),
      answer: () => relay.release(),
      after: async () => await sql`select 1`,
    };
  },
}, missing("postgres"));

testPackage("mysql2", {
  ...poolScenes(mariadbPort, (port, stack) => {
    const options = { host: "127.0.0.1", user: "root", connectionLimit: 1 };
    const admin = mysql.createPool({ ...options, port: mariadbPort() })
      .promise();
    stack.defer(() => admin.end());
    const pool = mysql.createPool({ ...options, port }).promise();
    stack.defer(() => pool.end());
    return {
      call: (text) => pool.query(text),
      recipe: (text) => queryMysql(pool, admin, text),
    };
  }),
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(mariadbPort()));
    const options = { host: "127.0.0.1", user: "root", connectionLimit: 1 };
    const admin = mysql.createPool({ ...options, port: mariadbPort() })
      .promise();
    stack.defer(() => admin.end());
    const pool = mysql.createPool({ ...options, port: relay.port }).promise();
    stack.defer(() => pool.end());
    await pool.query("select 1");
    const count = async () => {
      const [rows] = await admin.query(
        "select count(*) as n from information_schema.processlist where info like 'select sleep(1000)%'",
      );
      return Number((rows as { n: number }[])[0]!.n);
    };
    await count();
    let isCancelled = false;
    return {
      call() {
        relay.hold();
        return pool.query("select sleep(0)");
      },
      recipe() {
        isCancelled = true;
        return queryMysql(pool, admin, "select sleep(1000)");
      },
      async begun() {
        await relay.heard("sleep(");
        if (isCancelled) await running(count, 1);
      },
      freed: () => running(count, 0),
      answer: () => relay.release(),
      after: () => pool.query("select 1"),
    };
  },
}, missing("mariadbd"));

// --- Random interrupts

/**
 * Ends a client of postgres once all of its connections have been given back: what a recipe
 * reserved comes back a little after its greenlet has ended, and an `end()` that is called
 * before that never resolves.
 */
async function endPostgres(
  sql: Sql,
  connections: number,
): Promise<void> {
  const own = await Promise.all(
    Array.from({ length: connections }, () => sql.reserve()),
  );
  for (const connection of own) connection.release();
  await sql.end();
}

/** The part of postgres that {@linkcode endPostgres} uses. */
interface Sql {
  reserve(): Promise<{ release(): void }>;
  end(): Promise<void>;
}

if (missing("postgres") === null) {
  test("postgres ends when a connection is given back late", async () => {
    const options = {
      host: "127.0.0.1",
      user: "postgres",
      port: postgresPort(),
    };
    const sql = postgres({ ...options, max: 2 });
    const own = await sql.reserve();
    const ending = endPostgres(sql, 2);
    await turns(50);
    own.release();
    await ending;
  });
}

testKills("ioredis", async (stack) => {
  const redis = new Redis(redisPort(), "127.0.0.1", { disconnectTimeout: 1 });
  stack.defer(async () => {
    await redis.quit();
  });
  await redis.ping();
  return (number) => until(redis.echo(`${number}`));
}, missing("redis-server"));

testKills("redis", async (stack) => {
  const client = createClient({ url: `redis://127.0.0.1:${redisPort()}` });
  await client.connect();
  stack.defer(() => client.close());
  return (number) => until(client.echo(`${number}`));
}, missing("redis-server"));

testKills("pg", (stack) => {
  const options = { host: "127.0.0.1", user: "postgres", port: postgresPort() };
  const admin = new pg.Pool({ ...options, max: 2 });
  stack.defer(() => admin.end());
  const pool = new pg.Pool({ ...options, max: 3 });
  stack.defer(() => pool.end());
  return async (number) => {
    const text = "select $1::int as number, pg_sleep(0.0005)";
    const result = await queryPg(pool, admin, text, [number]);
    return (result as { rows: { number: number }[] }).rows[0]!.number;
  };
}, missing("postgres"));

testKills("postgres", (stack) => {
  const options = { host: "127.0.0.1", user: "postgres", port: postgresPort() };
  const admin = postgres({ ...options, max: 2 });
  stack.defer(() => admin.end());
  const sql = postgres({ ...options, max: 3 });
  stack.defer(() => endPostgres(sql, 3));
  return async (number) => {
    const rows = await queryPostgres(
      sql,
      admin,
      (own) =>
        own.unsafe(
          `select ${number}::int as number, pg_sleep(0.0005)`,
        ) as PromiseLike<{ number: number }[]>,
    );
    return rows[0]!.number;
  };
}, missing("postgres"));

testKills("mysql2", (stack) => {
  const options = { host: "127.0.0.1", user: "root", port: mariadbPort() };
  const admin = mysql.createPool({ ...options, connectionLimit: 2 }).promise();
  stack.defer(() => admin.end());
  const pool = mysql.createPool({ ...options, connectionLimit: 3 }).promise();
  stack.defer(() => pool.end());
  return async (number) => {
    const text = "select ? as number, sleep(0.0005) as slept";
    const result = await queryMysql(pool, admin, text, [number]);
    return (result as { number: number }[][])[0]![0]!.number;
  };
}, missing("mariadbd"));
