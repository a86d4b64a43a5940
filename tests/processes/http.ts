/**
 * A server on several processes, that is told by its arguments what to do; for
 * `processes_test.ts`.
 */
import { getHub, HttpServer } from "../../mod.ts";

const [count = "2", ...flags] = Deno.args;

getHub().handleError = (_context, error) => {
  console.log("error", error instanceof Error ? error.message : error);
};

const server = new HttpServer(
  { hostname: "127.0.0.1", port: 0 },
  async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/crash") Deno.exit(3);
    if (pathname === "/slow") {
      console.log("slow", Deno.pid);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    if (pathname === "/permissions") {
      const states = (["read", "net", "env", "run", "sys", "ffi"] as const)
        .map((name) => Deno.permissions.querySync({ name }).state);
      return Response.json(states);
    }
    return new Response(`${Deno.pid}`);
  },
  { processes: Number(count), minDelay: 1, maxDelay: 50 },
);
server.start();
console.log("serving", Deno.pid, server.url);
if (flags.includes("forever")) await server.serveForever();
