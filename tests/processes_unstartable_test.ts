import { assertEquals } from "@std/assert";

const PROGRAM = `
import { StreamServer, getHub, until } from "${new URL(
  "../mod.ts",
  import.meta.url,
)}";
const server = new StreamServer({ hostname: "127.0.0.1", port: 0 }, () => {}, {
  processes: 1, minDelay: 2, maxDelay: 8,
});
const reports = [];
const { promise, resolve } = Promise.withResolvers();
getHub().handleError = (context, error) => {
  reports.push(error.message.replaceAll(String(server), "SERVER").replace(/: Requires.*flag/, "").replace(/^Process [0-9]+/, "Process N"));
  if (reports.length === 4) resolve();
};
if (Deno.env.get("GEVENT_SERVER_PROCESS")) Deno.exit(3);
server.start();
// From now on no process can be started.
Deno.permissions.revokeSync({ name: "run" });
await until(promise);
// The next start is due in 8 ms. No process is started after the stop.
await server.stop();
await new Promise((resolve) => setTimeout(resolve, 50));
console.log(JSON.stringify(reports));
`;

Deno.test("StreamServer.start() waits longer and longer for a process that can't be started, until stop()", async () => {
  const { stdout, stderr, code } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-q",
      "-A",
      "--no-check",
      "--unstable-net",
      `data:text/javascript,${encodeURIComponent(PROGRAM)}`,
    ],
  }).output();
  const decoder = new TextDecoder();
  assertEquals([code, decoder.decode(stderr)], [0, ""]);
  assertEquals(
    JSON.parse(decoder.decode(stdout)),
    [
      "Process N of SERVER has exited with code 3: another one is started in 2 ms",
      ...[4, 8, 8].map((ms) =>
        `A process of SERVER could not be started: another one is started in ${ms} ms`
      ),
    ],
  );
});
