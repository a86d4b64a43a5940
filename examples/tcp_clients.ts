/**
 * Many TCP clients at once, each a greenlet that talks to `tcp_server.ts`, or to any server
 * that answers in upper case, and checks every reply.
 *
 *     deno run -q -P=local-net examples/tcp_clients.ts [host] [port] [clients] [messages]
 *
 * By default 500 clients send 10 messages each to 127.0.0.1:8080. The server may have a backlog
 * of only five connections, so few clients connect at the same time. A client that gets no
 * connection or no reply in time tries again after a pause. The exit status is 1 if a client
 * was not served.
 */

import {
  GreenletExit,
  joinAll,
  patch,
  run,
  Semaphore,
  sleep,
  spawn,
  Timeout,
  withTimeout,
} from "@gevent/gevent";
import { isConnectionLost, writeAll } from "./_bytes.ts";
import { Progress } from "./_progress.ts";

/** The address of the server, how much to send, and the time limits. */
export interface Plan {
  hostname: string;
  port: number;
  clients: number;
  messages: number;
  /** The time limit for connecting and for each reply, in milliseconds. */
  limit?: number;
  /** The pause before the first retry, in milliseconds. Later pauses are longer. */
  pause?: number;
}

/** How many clients may connect at the same time: fewer than a backlog of 5 has room for. */
const CONNECTING = 4;
const LIMIT = 10_000;
const PAUSE = 100;
/** The most attempts in a row without a reply. */
const RETRIES = 10;

/** Runs all clients at the same time, and prints the summary. Returns whether all were served. */
export async function runClients(plan: Plan): Promise<boolean> {
  const clients = new Clients(plan);
  await clients.run();
  clients.summarize();
  return clients.allServed;
}

/** The clients and their results. */
class Clients {
  readonly #plan: Required<Plan>;
  readonly #connecting = new Semaphore(CONNECTING);
  readonly #start = performance.now();
  readonly #progress = new Progress();
  readonly #latencies: number[] = [];
  readonly #errors: unknown[] = [];
  #served = 0;
  #retries = 0;

  constructor(plan: Plan) {
    this.#plan = { limit: LIMIT, pause: PAUSE, ...plan };
  }

  get allServed(): boolean {
    return this.#served === this.#plan.clients;
  }

  async run(): Promise<void> {
    using _progress = this.#progress;
    const clock = spawn(async () => {
      for (;; await sleep(1000)) this.#tell(true);
    });
    const greenlets = Array.from(
      { length: this.#plan.clients },
      (_, i) => spawn(this.#client, `Thread-${i + 1}`),
    );
    await joinAll(greenlets);
    await clock.kill();
  }

  /** Runs one client: it sends its messages one by one, with a new connection after a failure. */
  readonly #client = async (name: string): Promise<void> => {
    const { messages, pause } = this.#plan;
    let replies = 0;
    let failures = 0;
    const replied = () => {
      replies++;
      failures = 0;
    };
    while (replies < messages) {
      try {
        await this.#converse(name, replies + 1, replied);
      } catch (error) {
        // A kill, such as by Ctrl-C, is not a failure of the server.
        if (error instanceof GreenletExit) throw error;
        if (!isPassing(error) || ++failures > RETRIES) {
          this.#errors.push(error);
          return;
        }
        this.#retries++;
        await sleep(pause * failures * (0.5 + Math.random()));
      }
    }
    this.#served++;
    this.#tell(this.#served % Math.ceil(this.#plan.clients / 10) === 0);
  };

  /** Opens a connection, and sends the messages that have no reply yet. */
  async #converse(
    name: string,
    first: number,
    replied: () => void,
  ): Promise<void> {
    const { hostname, port, messages, limit } = this.#plan;
    // Only the first reply shows that the server has accepted the connection. Other clients
    // wait until then.
    using connecting = await Permit.of(this.#connecting);
    using conn = await withTimeout(
      limit,
      () => Deno.connect({ hostname, port }),
    );
    conn.setNoDelay();
    for (let k = first; k <= messages; k++) {
      const start = performance.now();
      await withTimeout(limit, () => ask(conn, `${name} say hello ${k}`));
      this.#latencies.push(performance.now() - start);
      connecting.release();
      replied();
    }
  }

  #tell(isMilestone: boolean): void {
    const seconds = (performance.now() - this.#start) / 1000;
    this.#progress.show(
      `${this.#served} of ${this.#plan.clients} clients served, ` +
        `${this.#latencies.length} replies, ${seconds.toFixed(1)} s`,
      isMilestone,
    );
  }

  summarize(): void {
    const { clients, messages } = this.#plan;
    const ms = performance.now() - this.#start;
    const latencies = this.#latencies.sort((a, b) => a - b);
    const percentile = (p: number) =>
      latencies[Math.ceil(latencies.length * p / 100) - 1]?.toFixed(1) ?? "-";

    console.log(`clients:  ${clients}, with ${messages} messages each`);
    console.log(`replies:  ${latencies.length} of ${clients * messages}`);
    console.log(`time:     ${(ms / 1000).toFixed(2)} s`);
    console.log(
      `rate:     ${Math.round(latencies.length / ms * 1000)} messages/s`,
    );
    console.log(
      `latency:  ${percentile(50)} ms (50 %), ${percentile(95)} ms (95 %), ` +
        `${percentile(99)} ms (99 %), ${percentile(100)} ms (most)`,
    );
    console.log(`retries:  ${this.#retries}`);
    console.log(`errors:   ${this.#errors.length}`);
    for (const [message, { length }] of Map.groupBy(this.#errors, String)) {
      console.log(`  ${length} × ${message}`);
    }
    console.log(`served:   ${this.#served} of ${clients} clients`);
  }
}

/** A permit of a semaphore, which can be released before the end of the block. */
class Permit implements Disposable {
  #semaphore: Semaphore | null;

  private constructor(semaphore: Semaphore) {
    this.#semaphore = semaphore;
  }

  static async of(semaphore: Semaphore): Promise<Permit> {
    await semaphore.acquire();
    return new Permit(semaphore);
  }

  release(): void {
    this.#semaphore?.release();
    this.#semaphore = null;
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** Whether another attempt may succeed. */
function isPassing(error: unknown): boolean {
  return error instanceof Timeout || isConnectionLost(error);
}

/** Sends a message, and reads and checks the reply. */
async function ask(conn: Deno.Conn, message: string): Promise<void> {
  const expected = message.toUpperCase();
  await writeAll(conn, new TextEncoder().encode(message));
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(1024);
  let reply = "";
  // The reply may arrive in parts.
  while (reply.length < expected.length) {
    const count = await conn.read(buffer);
    if (count === null) {
      throw new Deno.errors.UnexpectedEof("The server has closed its side");
    }
    reply += decoder.decode(buffer.subarray(0, count), { stream: true });
  }
  if (reply !== expected) {
    throw new Error(`Sent "${message}" and received "${reply}"`);
  }
}

if (import.meta.main) {
  const [
    hostname = "127.0.0.1",
    port = "8080",
    clients = "500",
    messages = "10",
  ] = Deno.args;

  using _ = patch();
  const plan = {
    hostname,
    port: Number(port),
    clients: Number(clients),
    messages: Number(messages),
  };
  const allServed = await run(runClients, plan);
  // After Ctrl-C `allServed` is the GreenletExit.
  Deno.exitCode = allServed === true ? 0 : 1;
}
