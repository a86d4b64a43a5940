/**
 * Calls as a program from Python would write them first: each is refused at the call, by an error
 * that says what to write.
 */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  connect,
  connectTls,
  DatagramServer,
  Greenlet,
  Group,
  HttpServer,
  kill,
  killAll,
  listen,
  listenTls,
  nursery,
  Pool,
  select,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  StreamServer,
  subprocess,
  Timeout,
  withTimeout,
} from "../mod.ts";

// deno-lint-ignore no-explicit-any
type Any = any;

/** Calls that must throw a `TypeError` with a text in its message. */
function refused(calls: Record<string, () => unknown>, text: string): void {
  for (const [name, call] of Object.entries(calls)) {
    assertThrows(call, TypeError, text, name);
  }
}

Deno.test("checkOptions() refuses an error in the place of options", () => {
  const error = new Error("late") as Any;
  const text =
    "as the options must not be an error: received Error: late; write { error }";
  refused({
    "new Timeout": () => new Timeout(5, error),
    "Timeout.start": () => Timeout.start(5, error),
    "killAll": () => killAll([], error),
    "Group.kill": () => new Group().kill(error),
    "Pool.kill": () => new Pool(1).kill(error),
  }, text);
  refused({
    "Greenlet.join": () => new Greenlet(() => {}).join(error),
    "Greenlet.kill": () => new Greenlet(() => {}).kill(undefined, error),
    "Pool.join": () => new Pool(1).join(error),
    "withTimeout": () => withTimeout(5, () => {}, error),
    "subclass": () => new Timeout(5, new TypeError("late") as Any),
    "Timeout": () => new Timeout(5, new Timeout(5) as Any),
  }, "as the options must not be an error: received ");
});

Deno.test("checkOptions() tells what to write for an error's class, and for arguments", () => {
  refused({
    "new Timeout": () => new Timeout(5, RangeError as Any),
    "new Timeout, false": () => new Timeout(5, false as Any),
    "killAll": () => killAll([], RangeError as Any),
  }, "; write { error }");
  refused({
    "withTimeout": () => withTimeout(5, sleep, 100 as Any),
  }, "received 100; write () => run(...args) to pass arguments");
});

Deno.test("Greenlet.kill() refuses options in the place of the error", async () => {
  const text =
    "Cannot kill as the error must not be the options: received { block }; write kill(undefined, { block })";
  const greenlet = spawn(sleep, 100_000);
  const pool = new Pool(1);
  await pool.spawn(sleep, 100_000);
  const [member] = pool.greenlets;
  const raw = spawnRaw(sleep, 100_000);
  refused({
    "Greenlet.kill": () => greenlet.kill({ block: false }),
    "kill": () => kill(greenlet, { block: false }),
    "kill of a core greenlet": () => kill(raw, { block: false }),
    "Pool.killOne": () => pool.killOne(member!, { block: false }),
    "Pool.killOne of a stranger": () => pool.killOne(greenlet, { block: true }),
  }, text);
  refused({
    "timeout": () => greenlet.kill({ timeout: 5, grace: 0 }),
  }, "received { timeout, grace }; write kill(undefined, { timeout, grace })");
  assertEquals(greenlet.dead, false);
  await pool.kill();
  await kill(raw);
  // Other objects are errors, as before.
  const thrown = { block: false, reason: "over" };
  greenlet.linkException(() => {});
  await greenlet.kill(thrown);
  assertEquals(greenlet.exception, thrown);
  const quick = spawn(sleep, 100_000);
  quick.linkException(() => {});
  await quick.kill({});
  assertEquals(quick.exception, {});
});

Deno.test("spawn() and others refuse the result of a call, and say so", async () => {
  // A wait that nothing awaits keeps nothing alive.
  const work = Promise.resolve() as Any;
  const text = "; pass the function, without calling it";
  const pool = new Pool(1);
  refused({
    "spawn": () => spawn(work),
    "spawn of a wait": () => spawn(sleep(0) as Any),
    "spawn of a generator": () => spawn((function* () {})() as Any),
    "spawnLater": () => spawnLater(0, work),
    "spawnRaw": () => spawnRaw(work),
    "Pool.spawn": () => pool.spawn(work),
    "Pool.map": () => pool.map(work, []),
    "Pool.apply": () => pool.apply(work),
    "Group.spawn": () => new Group().spawn(work),
    "withTimeout": () => withTimeout(5, work),
  }, text);
  await assertRejects(
    async () => await nursery((n) => n.spawn(work)),
    TypeError,
    text,
  );
  // Only for these: other values are just not functions.
  const { message } = assertThrows(() => spawn(5 as Any), TypeError);
  assertEquals(message, "Cannot spawn as 'run' must be a function: received 5");
});

Deno.test("Group.apply() refuses arguments that are not in an array", () => {
  const square = (n: number) => n * n;
  refused({
    "Pool.apply": () => new Pool(1).apply(square, 3 as Any),
    "Pool.applyAsync": () => new Pool(1).applyAsync(square, 3 as Any),
    "Group.apply": () => new Group().apply(square, 3 as Any),
  }, "Cannot apply as the arguments must be iterable: received 3");
});

Deno.test("Servers and sockets refuse the addresses of Python, and tell the form of theirs", () => {
  const tuple = ["127.0.0.1", 0] as Any;
  refused({
    "StreamServer": () => new StreamServer(tuple, () => {}),
    "HttpServer": () => new HttpServer(tuple, () => new Response()),
    "DatagramServer": () => new DatagramServer(tuple, () => {}),
    "StreamServer, a text": () => new StreamServer(":80" as Any, () => {}),
  }, "as the address must be an object such as { port: 80 }: received ");
  refused({
    "connect": () => connect(tuple),
    "connect, a text": () => connect("127.0.0.1" as Any),
    "connectTls": () => connectTls(tuple),
    "listen": () => listen(tuple),
    "listen, a port": () => listen(80 as Any),
    "listenTls": () => listenTls(tuple),
  }, "; write an address such as { port: 80 }");
});

Deno.test("Servers and sockets refuse a path without its transport", () => {
  const path = "/tmp/no-such.sock";
  refused(
    {
      "StreamServer": () => new StreamServer({ path } as Any, () => {}),
      "HttpServer": () => new HttpServer({ path } as Any, () => new Response()),
      "connect": () => connect({ path } as Any),
      "listen": () => listen({ path } as Any), // Would listen on any port
    },
    `as 'transport' must be "unix" for the path "${path}": received undefined`,
  );
});

Deno.test("select() without alternatives names sleep()", () => {
  refused({
    "object": () => select({}, { timeout: 5 }),
    "array": () => select([], { timeout: 5 }),
  }, "as there is no alternative: pass one, or call sleep()");
});

Deno.test("subprocess.run() refuses the command and its arguments in one array", () => {
  const text =
    "as 'command' must be a name or a URL, before the array of its arguments: received ";
  refused({
    "run": () => subprocess.run(["ls", "-l"] as Any),
    "checkOutput": () => subprocess.checkOutput(["ls", "-l"] as Any),
  }, text);
});

Deno.test("Greenlet.start() names run() to a class that has _run()", () => {
  class Old extends Greenlet {
    _run() {}
  }
  assertThrows(
    () => new Old().start(),
    TypeError,
    "run() in its class, not _run()",
  );
});
