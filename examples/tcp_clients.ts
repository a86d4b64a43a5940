/**
 * Many TCP clients at once, each a greenlet that talks to `tcp_server.ts`, checks every
 * reply and takes its time.
 *
 *     deno run -q -P=local-net examples/tcp_clients.ts [host] [port] [clients] [messages]
 *
 * Unless told otherwise 500 clients send 10 messages each to 127.0.0.1:8080. The exit
 * status is 1 if a client has failed or a reply was wrong.
 */

import { joinAll, patch, run, spawn } from "@gevent/gevent";
import { readLines, writeLine } from "./_lines.ts";

/** Where to connect to, and how much to send. */
export interface Plan {
  hostname: string;
  port: number;
  clients: number;
  messages: number;
}

/** Runs all clients at once, prints the summary, and tells whether all went well. */
export async function runClients(plan: Plan): Promise<boolean> {
  const latencies: number[] = [];
  const errors: unknown[] = [];

  async function client(name: string): Promise<void> {
    try {
      await talk(name, plan, latencies);
    } catch (error) {
      errors.push(error);
    }
  }

  const start = performance.now();
  const greenlets = Array.from(
    { length: plan.clients },
    (_, i) => spawn(client, `client${i + 1}`),
  );
  await joinAll(greenlets);
  summarize(plan, performance.now() - start, latencies, errors);
  return errors.length === 0;
}

/** One client's conversation: sends its messages one by one, and checks each reply. */
async function talk(
  name: string,
  { hostname, port, messages }: Plan,
  latencies: number[],
): Promise<void> {
  using conn = await Deno.connect({ hostname, port });
  const replies = readLines(conn);
  for (let count = 1; count <= messages; count++) {
    const message = `${name} say hello ${count}`;
    const start = performance.now();
    await writeLine(conn, message);
    const { value: reply = "nothing" } = await replies.next();
    latencies.push(performance.now() - start);
    if (reply !== message.toUpperCase()) {
      throw new Error(`Sent "${message}" and received "${reply}"`);
    }
  }
}

function summarize(
  { clients, messages }: Plan,
  ms: number,
  latencies: number[],
  errors: unknown[],
): void {
  latencies.sort((a, b) => a - b);
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
  console.log(`errors:   ${errors.length}`);
  for (const [message, { length }] of Map.groupBy(errors, String)) {
    console.log(`  ${length} × ${message}`);
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
  const allWentWell = await run(runClients, plan);
  // After Ctrl-C it is the GreenletExit.
  Deno.exitCode = allWentWell === true ? 0 : 1;
}
