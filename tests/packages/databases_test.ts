/** Clients of databases, with servers of the tests' own. */

import { Redis } from "ioredis";
import { until } from "../../mod.ts";
import { test } from "../_random.ts";
import { turns } from "../_waits.ts";
import { testKills } from "./_kills.ts";
import { missing, serveTests } from "./_programs.ts";
import { queryMysql, queryPg, queryPostgres } from "./_recipes.ts";
import { Relay } from "./_relay.ts";
import { testPackage } from "./_scenes.ts";

// Loaded without their types, which declare globals of Node and change those of other tests.
const { default: mysql } = await import("mysql2" as string);
const { default: pg } = await import("pg" as string);
const { default: postgres } = await import("postgres" as string);
const { createClient } = await import("redis" as string);

const redisPort = serveTests("redis-server");
const postgresPort = serveTests("postgres");
const mariadbPort = serveTests("mariadbd");

testPackage("ioredis", {
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

testPackage("postgres", {
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
