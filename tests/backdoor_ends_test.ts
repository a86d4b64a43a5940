/**
 * Ends of what is typed at a back door: lines that are too long, code that never ends, errors.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  BackdoorServer,
  connect,
  sleep,
  type Socket,
  Timeout,
  withTimeout,
} from "../mod.ts";
import { Failures } from "./_bodies.ts";
import { HERE, portOf } from "./_servers.ts";

const PROMPT = ">>> ";
const LONGEST = 1024 * 1024;

async function open(server: BackdoorServer): Promise<Socket> {
  if (!server.started) server.start();
  const socket = await connect({
    hostname: "127.0.0.1",
    port: portOf(server),
  });
  await hear(socket);
  return socket;
}

async function hear(socket: Socket, end = PROMPT): Promise<string> {
  const bytes = await socket.recvUntil(end, { max: 4 * LONGEST });
  return new TextDecoder().decode(bytes).slice(0, -end.length);
}

async function type(socket: Socket, line: string): Promise<string> {
  await socket.sendAll(`${line}\n`);
  return await hear(socket);
}

Deno.test("BackdoorServer tells of a line that is too long, and goes on with the next one", async () => {
  using failures = new Failures();
  await using server = new BackdoorServer(HERE);
  using socket = await open(server);
  const told =
    `Uncaught RangeError: A line must have ${LONGEST} bytes at most\n`;
  assertEquals(await type(socket, "1".repeat(LONGEST + 1)), told);
  assertEquals(await type(socket, "1 + 1"), "2\n");
  // The lines before it, which were incomplete, are dropped as well.
  await socket.sendAll("[\n");
  await hear(socket, "... ");
  assertEquals(await type(socket, " ".repeat(2 * LONGEST + 5) + "]"), told);
  await socket.sendAll(`${"x".repeat(LONGEST + 9)}\n2 + 2\n`);
  assertEquals([await hear(socket), await hear(socket)], [told, "4\n"]);
  // A client that leaves in the middle of such a line is no failure.
  await socket.sendAll("y".repeat(LONGEST + 1));
  socket.close();
  await server.stop();
  assertEquals(failures.errors, []);
});

Deno.test("BackdoorServer.stop() ends a connection whose code awaits what never settles, and gives console back", async () => {
  const before = globalThis.console;
  const log: string[] = [];
  const locals = { log, sleep };
  const server = new BackdoorServer(HERE, { locals, stopTimeout: 0 });
  using foreign = await open(server);
  using graced = await open(server);
  await foreign.sendAll("console.log('on'); await new Promise(() => {})\n");
  await hear(foreign, "on\n");
  await graced.sendAll(
    "try { console.log('on'); await sleep(1e8) } finally { await sleep(1); log.push('cleaned') }\n",
  );
  await hear(graced, "on\n");
  const connections = [...server.connections];
  assert(globalThis.console !== before);
  await server.stop();
  for (const one of connections) await one.join();
  assertEquals(log, ["cleaned"]);
  assertEquals(globalThis.console, before);
});

Deno.test("BackdoorServer leaves a time limit to the code that has started it", async () => {
  await using server = new BackdoorServer(HERE, {
    locals: { sleep, Timeout, withTimeout },
  });
  using socket = await open(server);
  const caught = await type(
    socket,
    "{ using t = Timeout.start(1); try { await sleep(1e8) } catch (e) { await sleep(1); console.log(e === t) } }",
  );
  assertEquals(caught, "true\n");
  // No code of the program is on the stack of this error.
  assertEquals(
    await type(socket, "await withTimeout(1, () => sleep(1e8))"),
    "Uncaught [Timeout: Timed out after 1 ms] { ms: 1 }\n",
  );
  assertEquals(await type(socket, "1"), "1\n");
});

Deno.test("BackdoorServer prints the properties of an error behind its frames", async () => {
  await using server = new BackdoorServer(HERE);
  using socket = await open(server);
  const text = await type(
    socket,
    "throw Object.assign(new Error('no', { cause: new Error('why') }), { code: 5 })",
  );
  const lines = text.split("\n").filter((line) => !/^ +at /.test(line));
  assert(/^Uncaught Error: no\n +at eval \(backdoor/.test(text), text);
  assert(!text.includes("/backdoor.ts:"), text);
  assert(text.includes("code: 5"), text);
  assertEquals(
    text.split("{").length,
    text.split("}").length,
    lines.join("\n"),
  );
  assertEquals(
    await type(
      socket,
      "throw { get stack() { throw 1 }, toString() { throw 2 } }",
    ),
    "Uncaught { stack: [Getter], toString: [Function: toString] }\n",
  );
});

Deno.test("BackdoorServer takes 'localhost' in any case, and 'remote' as a boolean only", () => {
  new BackdoorServer({ hostname: "LocalHost", port: 0 });
  for (const remote of ["yes", 1, null, {}]) {
    assertThrows(
      () => new BackdoorServer(HERE, { remote: remote as never }),
      TypeError,
      "Cannot create backdoor server as 'remote' must be true or false: received",
    );
  }
});
