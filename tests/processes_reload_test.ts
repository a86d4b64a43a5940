import { assertEquals, assertMatch } from "@std/assert";
import { Mark } from "./_marks.ts";
import { hear, say } from "./_servers.ts";
import { Program } from "./_shared_port_program.ts";

const IS_LINUX = Deno.build.os === "linux";
const CA = Deno.readTextFileSync(new URL("tls/ca.pem", import.meta.url));

/** Sends a line, and gives the process that has answered. */
async function ask(conn: Deno.Conn): Promise<number> {
  await say(conn, "hello\n");
  let answer = "";
  while (!answer.endsWith("\n")) {
    const part = await hear(conn, 1);
    if (part === "") throw new Error(`The answer ends with ${answer}`);
    answer += part;
  }
  assertMatch(answer, /^\d+ [a-z,]+ hello\n$/);
  return parseInt(answer);
}

Deno.test("StreamServer with TLS replaces its processes on SIGHUP, keeps them when a new one can't start, and ends by SIGINT", async () => {
  using stop = new Mark();
  await using program = new Program(["tls", "1", stop.path]);
  const [first] = await program.started(1);
  const port = await program.port();
  const connect = () =>
    Deno.connectTls({ hostname: "localhost", port, caCerts: [CA] });
  const askOnce = async () => {
    using conn = await connect();
    return await ask(conn);
  };
  assertEquals(await askOnce(), first);

  // No request fails while it is replaced.
  let isOver = false;
  const seen = new Set([first]);
  const failures: unknown[] = [];
  const load = Array.from({ length: 2 }, async () => {
    while (!isOver) {
      try {
        seen.add(await askOnce());
      } catch (error) {
        failures.push(error);
      }
    }
  });
  program.kill("SIGHUP");
  const [, second] = await program.started(2);
  await program.printed("over", 1);
  isOver = true;
  await Promise.all(load);
  if (IS_LINUX) assertEquals(failures, []);
  assertEquals(await askOnce(), second);
  assertEquals(seen.difference(new Set([first, second])), new Set());

  // The next one ends before it serves.
  await Deno.writeTextFile(stop.path, "stop");
  program.kill("SIGHUP");
  const [words] = await program.printed("error", 1);
  assertMatch(
    words!.join(" "),
    /^Process \d+ of <StreamServer .*> has exited with code 4 before it served: those that serve are kept$/,
  );
  assertEquals(await askOnce(), second);

  program.kill("SIGINT");
  assertEquals(await program.ended(), 130);
  assertEquals(program.lines("over").length, 3);
});

Deno.test("StreamServer serves the connections of a process that SIGHUP replaces to their end", async () => {
  await using program = new Program(
    ["stream", "1"],
    // Nothing diverts connections without access to the C library.
    ["--allow-run", "--allow-net=127.0.0.1", "--allow-env"],
  );
  const [first] = await program.started(1);
  const address = { hostname: "127.0.0.1", port: await program.port() };
  using before = await Deno.connect(address);
  assertEquals(await ask(before), first);
  program.kill("SIGHUP");
  const [, second] = await program.started(2);
  // The first one may get it as well until it has closed.
  for (let pid = first; pid !== second;) {
    using after = await Deno.connect(address);
    pid = await ask(after).catch(() => first);
    assertEquals(pid === first || pid === second, true);
  }
  assertEquals(await ask(before), first);
  assertEquals(program.lines("over"), []);
  before.close();
  assertEquals(await program.printed("over", 1), [[`${first}`]]);
  program.kill("SIGINT");
  assertEquals(await program.ended(), 130);
  assertEquals(program.lines("error"), []);
});
