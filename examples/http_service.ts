/**
 * An HTTP service that a container stops. Requests pass jobs to background workers. After
 * SIGTERM, requests and jobs that have begun are finished.
 *
 *     deno run -q -P=examples examples/http_service.ts
 *
 * The program sends itself some requests, and SIGTERM while a slow request is answered. It shows
 * the effect: no more connections, a complete answer to the slow request, all letters written,
 * and the exit code 0.
 */

import {
  HttpServer,
  JoinableQueue,
  onSignal,
  run,
  sleep,
  spawn,
  until,
} from "@gevent/gevent";

const letters = new JoinableQueue<string>();

/** Writes letters, one after the other, until it is killed. */
async function writeLetters(writer: string): Promise<void> {
  try {
    for await (const name of letters) {
      await sleep(50); // A mail server takes its time
      console.log(`${writer} has written to ${name}`);
      letters.taskDone();
    }
  } finally {
    console.log(`${writer} goes home`);
  }
}

/** Answers a request. */
async function handle(request: Request): Promise<Response> {
  const name = new URL(request.url).pathname.slice(1);
  if (name === "slow") {
    await sleep(100);
    return new Response("slow, but whole");
  }
  letters.put(name);
  return new Response("accepted", { status: 202 });
}

async function main(): Promise<void> {
  const server = new HttpServer({ hostname: "127.0.0.1", port: 0 }, handle, {
    pool: 100,
    requestTimeout: 10_000,
    log: ({ method, url, status, ms }) =>
      console.log(
        `${method} ${new URL(url).pathname} ${status} ${
          ms > 90 ? "slow" : "fast"
        }`,
      ),
  });
  using _ = onSignal("SIGTERM", async () => {
    console.log("SIGTERM: no more requests");
    await server.stop({ timeout: 5_000 });
  });
  for (const name of ["Rose", "Jack"]) spawn(writeLetters, name);

  server.start();
  const client = spawn(beClient, server.url);
  await server.serveForever(); // Until it is stopped
  console.log("all requests are answered");

  await letters.join({ timeout: 5_000 });
  console.log(`${letters.qsize()} letters are left`);
  await client.join();
} // The writers die with main

/** Plays the clients, which send requests, and the container, which sends SIGTERM. */
async function beClient(url: string): Promise<void> {
  for (const name of ["ann", "bob", "cid"]) {
    await until(fetch(url + name, { method: "POST" }));
  }
  const slow = fetch(`${url}slow`);
  await sleep(20);
  Deno.kill(Deno.pid, "SIGTERM");
  await sleep(20);
  const late = await until(fetch(`${url}late`).catch(() => null));
  console.log(`a late client is ${late === null ? "refused" : "served"}`);
  console.log(`the slow client got: ${await (await until(slow)).text()}`);
}

if (import.meta.main) await run(main);
