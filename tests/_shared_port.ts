/**
 * A program whose server has several processes; for `processes_test.ts`.
 *
 * ```sh
 * deno run --unstable-net -A tests/_shared_port.ts http 2
 * ```
 *
 * The third argument may be a file. If the file is not empty, the program exits at once.
 *
 * @module
 */

// Each of the processes loads these: `mod.ts` would take it 50 ms more of processor time.
import { getHub, sleep } from "../gevent.ts";
import { HttpServer } from "../http.ts";
import { StreamServer } from "../server.ts";

const NAMES = ["read", "write", "net", "env", "run", "sys", "ffi"] as const;

const [kind, count, stop] = Deno.args;

// Exits before it starts its server, as a program with a fault may.
if (stop !== undefined && Deno.readTextFileSync(stop) !== "") Deno.exit(4);

getHub().handleError = (_context, error) => {
  console.log("error", error instanceof Error ? error.message : error);
};

const address = { hostname: "127.0.0.1", port: 0 };
const options = {
  processes: Number(count),
  minDelay: 1,
  maxDelay: 50,
  stopTimeout: kind === "short" ? 0 : 20_000,
  ...kind === "tls" && {
    tls: {
      cert: Deno.readTextFileSync(
        new URL("tls/localhost.pem", import.meta.url),
      ),
      key: Deno.readTextFileSync(new URL("tls/localhost.key", import.meta.url)),
    },
  },
};

function states(): string {
  return NAMES.map((name) => Deno.permissions.querySync({ name }).state).join();
}

const server = kind === "http"
  ? new HttpServer(address, async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/crash") Deno.exit(3);
    if (pathname === "/slow") {
      console.log("slow", Deno.pid);
      // Long enough that the test can end the process meanwhile.
      await sleep(300);
    }
    return new Response(`${Deno.pid}`);
  }, options)
  : new StreamServer(address, async (socket) => {
    for await (const line of socket.lines()) {
      if (line === "block") {
        console.log("blocked", Deno.pid);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
      }
      await socket.sendAll(`${Deno.pid} ${states()} ${line}\n`);
    }
  }, options);

server.start();
const { port } = server.address as Deno.NetAddr;
console.log("started", Deno.pid, port, states());
if (kind === "stop") {
  await server.stop();
  console.log("stopped", server.started, server.closed);
} else {
  await server.serveForever();
  console.log("over", Deno.pid);
}
