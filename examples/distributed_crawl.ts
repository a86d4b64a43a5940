/**
 * A crawl by several processes, which take pages from one queue in Redis, with BullMQ. Each job
 * runs in a greenlet with a time limit. BullMQ alone can't stop a job.
 *
 *     deno run -q -P=distributed-crawl examples/distributed_crawl.ts
 *
 * Three workers crawl a site whose pages link to each other. Some pages never come: their jobs
 * are stopped, and leave no connection open. One worker is killed with SIGKILL while it has jobs:
 * the others do these jobs. One worker is stopped with SIGTERM: it ends its jobs first, which
 * takes no longer than their limit.
 *
 * Redis streams would work as well, but BullMQ already has retries, a heartbeat for each worker,
 * and queues each page only once.
 */

import { Queue, QueueEvents, Worker } from "bullmq";
import { Redis } from "ioredis";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { patch, run, sleep, spawn, withTimeout } from "@gevent/gevent";

const HOST = "127.0.0.1";
/** The number of pages, the number of links in each, and which pages never come. */
const PAGES = 60;
const LINKS = 8;
const isStuck = (page: number) => page % 15 === 7;
/** How long the other pages take, in milliseconds. */
const DELAY = 40;

/** How long a job may take, in milliseconds, and how often it is tried. */
const LIMIT = 300;
const ATTEMPTS = 2;
/** How many jobs a worker has at a time. */
const JOBS = 4;
/** How long a worker may be silent before the others get its jobs, in milliseconds. */
const LOCK = 600;
/** How long the whole crawl may take, in milliseconds. */
const PATIENCE = 30_000;

const QUEUE = "pages";
/** A page that is in the queue, or was, is not queued again. */
const jobOf = (page: number) => ({
  name: "page",
  data: { page },
  opts: { jobId: `page-${page}`, attempts: ATTEMPTS },
});

// --- A worker

/** Takes pages from the queue until SIGTERM comes. */
async function work(name: string, redis: number, site: number): Promise<void> {
  using _ = patch();
  const connection = connect(redis);
  const queue = new Queue(QUEUE, { connection });

  /** Crawls a page. This code knows nothing of greenlets. */
  async function crawlPage(page: number): Promise<number> {
    const headers = { "user-agent": name };
    const response = await fetch(`http://${HOST}:${site}/${page}`, { headers });
    const { links } = await response.json() as { links: number[] };
    await queue.addBulk(links.map(jobOf));
    return links.length;
  }

  const worker = new Worker<{ page: number }>(
    QUEUE,
    ({ data }) => spawn(withTimeout, LIMIT, () => crawlPage(data.page)).get(),
    {
      connection,
      concurrency: JOBS,
      lockDuration: LOCK,
      stalledInterval: LOCK,
    },
  );
  worker.on("error", (error) => console.log(`${name}: ${error}`));

  await new Promise<void>((stop) => Deno.addSignalListener("SIGTERM", stop));
  await worker.close();
  await queue.close();
  await connection.quit();
  Deno.exit();
}

// --- The site, the queue and the workers

/** What the site observes. */
class Site implements AsyncDisposable {
  /** The pages that were sent in full. */
  readonly sent = new Set<number>();
  /** How long the connections of the pages that never come were open, in milliseconds. */
  readonly held: number[] = [];
  /** The number of open connections. */
  connections = 0;
  /** The number of pending requests of each worker. */
  readonly #asking = new Map<string, number>();
  readonly #server = createServer((request, response) => {
    const page = Number(request.url!.slice(1));
    const worker = request.headers["user-agent"]!;
    const start = performance.now();
    this.#asking.set(worker, this.asking(worker) + 1);
    response.on("close", () => {
      this.#asking.set(worker, this.asking(worker) - 1);
      if (isStuck(page)) this.held.push(performance.now() - start);
    });
    response.on("finish", () => this.sent.add(page));
    if (isStuck(page)) return;
    const links = Array.from({ length: LINKS }, (_, i) => page + i + 1);
    const body = JSON.stringify({ links: links.filter((to) => to < PAGES) });
    setTimeout(() => response.end(body), DELAY);
  });

  asking(worker: string): number {
    return this.#asking.get(worker) ?? 0;
  }

  async listen(): Promise<number> {
    this.#server.on("connection", (socket) => {
      this.connections++;
      socket.on("close", () => this.connections--);
    });
    await new Promise<void>((done) => this.#server.listen(0, HOST, done));
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function crawl(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const redis = freePort();
  if (!await startRedis(stack, redis)) {
    return console.log("Skipped: redis-server is not installed");
  }
  const site = stack.use(new Site());
  const sitePort = await site.listen();
  const connection = connect(redis);
  stack.defer(() => void connection.disconnect());
  const queue = new Queue(QUEUE, { connection });
  stack.defer(() => queue.close());
  const events = new QueueEvents(QUEUE, { connection });
  stack.defer(() => events.close());
  await events.waitUntilReady();
  const takenUp = new Set<string>();
  events.on("stalled", ({ jobId }) => takenUp.add(jobId));

  const start = (name: string) => {
    const child = startProcess(stack, Deno.execPath(), [
      ...["run", "-q", "-P=distributed-crawl", import.meta.filename!],
      ...["worker", name, `${redis}`, `${sitePort}`],
    ]);
    return { name, child };
  };
  const anna = start("anna"), bert = start("bert"), carl = start("carl");
  await when(async () => await queue.getWorkersCount() === 3);
  console.log("three workers wait; the queue gets the first page");
  await queue.addBulk([jobOf(0)]);

  await when(() => site.sent.size > PAGES / 4 && site.asking(anna.name) > 0);
  anna.child.kill("SIGKILL");
  console.log(`anna is killed after ${site.sent.size} of ${PAGES} pages`);

  await when(() => site.sent.size > PAGES / 2 && site.asking(bert.name) > 0);
  bert.child.kill("SIGTERM");
  const { code } = await bert.child.status;
  console.log(
    `bert has ended with ${code} and leaves ${site.asking(bert.name)} requests`,
  );

  await when(async () => {
    const { completed, failed } = await queue.getJobCounts();
    return completed! + failed! === PAGES;
  });
  carl.child.kill("SIGTERM");
  await carl.child.status;
  await when(() => site.connections === 0);

  const { completed } = await queue.getJobCounts();
  console.log(`${completed} pages are crawled, each of them at least once`);
  console.log(`${takenUp.size} jobs of anna were taken up by others`);
  for (const { data, attemptsMade, failedReason } of await queue.getFailed()) {
    console.log(`/${data.page} failed ${attemptsMade} times: ${failedReason}`);
  }
  const longest = Math.round(Math.max(...site.held));
  console.log(`the limit is ${LIMIT} ms: no such page kept its connection`);
  console.log(`for longer than ${longest} ms; ${site.connections} are left`);
}

/** Starts Redis. Returns `false` if it is not installed. */
async function startRedis(
  stack: AsyncDisposableStack,
  port: number,
): Promise<boolean> {
  const directory = await Deno.makeTempDir({ prefix: "gevent-crawl-" });
  stack.defer(() => Deno.remove(directory, { recursive: true }));
  try {
    startProcess(stack, "redis-server", [
      ...["--bind", HOST, "--port", `${port}`, "--dir", directory],
      ...["--save", "", "--appendonly", "no"],
    ], "null");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  await when(async () => {
    try {
      (await Deno.connect({ hostname: HOST, port })).close();
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionRefused) return false;
      throw error;
    }
  });
  return true;
}

/** Connects to Redis without a time limit for commands, as workers need. */
function connect(port: number): Redis {
  return new Redis(port, HOST, { maxRetriesPerRequest: null });
}

/** Starts a process. It ends when the stack is disposed of. */
function startProcess(
  stack: AsyncDisposableStack,
  command: string,
  args: string[],
  stdout: "inherit" | "null" = "inherit",
): Deno.ChildProcess {
  const options = { args, stdin: "null", stdout } as const;
  const child = new Deno.Command(command, options).spawn();
  let isRunning = true;
  child.status.then(() => isRunning = false);
  stack.defer(async () => {
    if (isRunning) child.kill("SIGKILL");
    await child.status;
  });
  return child;
}

function freePort(): number {
  using listener = Deno.listen({ hostname: HOST, port: 0 });
  return listener.addr.port;
}

/** Waits until a condition holds. */
async function when(
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  while (!await condition()) await sleep(5);
}

const [role, name, redisPort, sitePort] = Deno.args;
if (role === "worker") await work(name!, Number(redisPort), Number(sitePort));
else await run(() => withTimeout(PATIENCE, crawl));
