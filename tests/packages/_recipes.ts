/**
 * Calls of packages that stop at once when their greenlet is interrupted, as
 * `docs/packages.md` shows them.
 *
 * @module
 */

import { Socket as TcpSocket } from "node:net";
import { until } from "../../mod.ts";

/** The part of the pool of `pg` that the recipe uses. */
interface PgPool {
  connect(): Promise<PgClient>;
  query(text: string, values?: unknown[]): Promise<unknown>;
}

interface PgClient {
  processID: number;
  query(text: string, values?: unknown[]): Promise<unknown>;
  release(): void;
}

/** The part of the pool of `mysql2/promise` that the recipe uses. */
interface MysqlPool {
  getConnection(): Promise<MysqlConnection>;
  query(text: string): Promise<unknown>;
}

interface MysqlConnection {
  threadId: number;
  query(text: string, values?: unknown[]): Promise<unknown>;
  release(): void;
}

/** The part of `postgres` that the recipe uses. */
interface Postgres<S extends PostgresConnection> {
  reserve(): Promise<S>;
  unsafe(text: string, values: number[]): PromiseLike<unknown>;
}

interface PostgresConnection {
  unsafe(text: string): PromiseLike<unknown>;
  release(): void;
}

/** The part of a socket of `ws` that the recipe uses. */
interface Socket {
  once(event: string, listener: (value: unknown) => void): unknown;
  terminate(): void;
}

/** The part of `nodemailer` that the recipe uses. */
interface Nodemailer {
  createTransport(options: object): {
    sendMail(mail: object): Promise<unknown>;
  };
}

// A server ignores a cancel that comes before its query, so it is sent until the query is over
export function cancelUntilOver(
  query: PromiseLike<unknown>,
  cancel: () => PromiseLike<unknown>,
): Promise<unknown> {
  let sent: Promise<unknown> = Promise.allSettled([cancel()]);
  const timer = setInterval(() => {
    sent = Promise.allSettled([sent, cancel()]);
  }, 50);
  return Promise.allSettled([query]).then(() => {
    clearInterval(timer);
    return sent;
  });
}

// pg
export async function queryPg(
  pool: PgPool,
  admin: PgPool, // Another pool, so that a cancel never waits for a client
  text: string,
  values?: unknown[],
): Promise<unknown> {
  const connecting = pool.connect();
  const client = await until(connecting, () => {
    connecting.then((late) => late.release(), () => {});
  });
  const result = client.query(text, values);
  let cancel: Promise<unknown> | undefined;
  try {
    return await until(result, () => {
      cancel = cancelUntilOver(
        result,
        () => admin.query("SELECT pg_cancel_backend($1)", [client.processID]),
      );
    });
  } finally {
    // A cancel that comes late must not reach the client's next query
    Promise.allSettled([result, cancel]).then(() => client.release());
  }
}

// mysql2
export async function queryMysql(
  pool: MysqlPool,
  admin: MysqlPool,
  text: string,
  values?: unknown[],
): Promise<unknown> {
  const connecting = pool.getConnection();
  const connection = await until(connecting, () => {
    connecting.then((late) => late.release(), () => {});
  });
  const result = connection.query(text, values);
  let cancel: Promise<unknown> | undefined;
  try {
    return await until(result, () => {
      cancel = cancelUntilOver(
        result,
        () => admin.query(`KILL QUERY ${connection.threadId}`),
      );
    });
  } finally {
    Promise.allSettled([result, cancel]).then(() => connection.release());
  }
}

// postgres
export async function queryPostgres<T, S extends PostgresConnection>(
  sql: Postgres<S>,
  admin: Omit<Postgres<S>, "reserve">,
  query: (own: S) => PromiseLike<T>,
): Promise<T> {
  const reserving = sql.reserve();
  const own = await until(reserving, () => {
    reserving.then((late) => late.release(), () => {});
  });
  const asking = Promise.resolve(own.unsafe("SELECT pg_backend_pid() AS pid"));
  let result: Promise<T> | undefined;
  let cancel: Promise<unknown> | undefined;
  try {
    const [{ pid }] = await until(asking) as [{ pid: number }];
    const running = result = Promise.resolve(query(own));
    return await until(running, () => {
      cancel = cancelUntilOver(
        running,
        () => admin.unsafe("SELECT pg_cancel_backend($1)", [pid]).then(),
      );
    });
  } finally {
    Promise.allSettled([asking, result, cancel]).then(() => own.release());
  }
}

// What comes late is closed, cancelled or returned to where it came from
export function orGiveBack<T>(
  pending: Promise<T>,
  giveBack: (late: T) => unknown,
): PromiseLike<T> {
  return until(pending, () => {
    pending.then(giveBack).catch(() => {});
  });
}

// ws
export function untilMessage(socket: Socket): PromiseLike<unknown> {
  const message = new Promise((resolve, reject) => {
    socket.once("message", resolve);
    socket.once("close", () => reject(new Error("The socket was closed")));
  });
  return until(message, () => socket.terminate());
}

// nodemailer
export function sendMail(
  nodemailer: Nodemailer,
  options: { host: string; port: number },
  mail: object,
): PromiseLike<unknown> {
  const socket = new TcpSocket(); // The Socket of node:net
  const transport = nodemailer.createTransport({ ...options, socket });
  return until(transport.sendMail(mail), () => {
    // nodemailer may not have begun to connect, and stops at an error only
    const stop = () => void socket.destroy(new Error("The mail is not sent"));
    socket.on("error", () => {}).on("connect", stop);
    stop();
  });
}

// @grpc/grpc-js
export function callGrpc<T>(
  begin: (done: (error: unknown, value?: T) => void) => { cancel(): void },
): PromiseLike<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const call = begin((error, value) => error ? reject(error) : resolve(value!));
  return until(promise, () => call.cancel());
}
