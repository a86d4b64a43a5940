import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  BackdoorServer,
  connect,
  Empty,
  Event,
  getHub,
  GreenletExit,
  joinAll,
  listen,
  Queue,
  sleep,
  type Socket,
  spawn,
} from "../mod.ts";
import { HERE, portOf } from "./_servers.ts";

const PROMPT = ">>> ";

function start(
  options?: ConstructorParameters<typeof BackdoorServer>[1],
): BackdoorServer {
  const server = new BackdoorServer(HERE, options);
  server.start();
  return server;
}

/** A client that knows what has been printed. */
class Client implements Disposable {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  static async open(server: BackdoorServer): Promise<Client> {
    const { address } = server;
    if ("path" in address) {
      return new Client(
        await connect({ transport: "unix", path: address.path! }),
      );
    }
    return new Client(
      await connect({ hostname: "127.0.0.1", port: portOf(server) }),
    );
  }

  static async ready(server: BackdoorServer): Promise<Client> {
    const client = await Client.open(server);
    await client.hear();
    return client;
  }

  async send(text: string | Uint8Array): Promise<void> {
    await this.#socket.sendAll(text);
  }

  /** Reads what comes until a prompt, and leaves that out. */
  async hear(prompt = PROMPT): Promise<string> {
    const bytes = await this.#socket.recvUntil(prompt, { max: 1 << 20 });
    return new TextDecoder().decode(bytes).slice(0, -prompt.length);
  }

  async type(line: string, prompt = PROMPT): Promise<string> {
    await this.send(`${line}\n`);
    return await this.hear(prompt);
  }

  /** Reads until the server closes the connection. */
  async rest(): Promise<string> {
    let text = "";
    for (;;) {
      const bytes = await this.#socket.recv();
      if (bytes.length === 0) return text;
      text += new TextDecoder().decode(bytes);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }
}

Deno.test("BackdoorServer evaluates what ten clients type", async () => {
  await using server = start();
  const jobs = Array.from({ length: 10 }, (_, i) =>
    spawn(async () => {
      using client = await Client.ready(server);
      assertEquals(await client.type(`2 + ${i}\r`), `${2 + i}\n`);
      await client.send(".exit\r\n");
      assertEquals(await client.rest(), "");
    }));
  await joinAll(jobs, { raiseError: true });
});

Deno.test("BackdoorServer sends the banner first", async () => {
  await using server = start({ banner: "Welcome stranger!" });
  using client = await Client.open(server);
  assertEquals(await client.hear(), "Welcome stranger!\n");
});

Deno.test("BackdoorServer evaluates statements, and prints no undefined", async () => {
  await using server = start();
  using client = await Client.ready(server);
  const cases: [code: string, printed: string][] = [
    ["", ""],
    ["undefined", ""],
    ["null", "null\n"],
    ["{ a: 1 }", "{ a: 1 }\n"],
    ["const a = 1; a + 1;", "2\n"],
    ["a", "1\n"],
    ["let { b, c: [d = 5] } = { b: 3, c: [] }", ""],
    ["[b, d]", "[ 3, 5 ]\n"],
    ["const a = 2 // ; 7", ""],
    ["a", "2\n"],
    ["x = 'a; b'", '"a; b"\n'],
    ["x", '"a; b"\n'],
    ["typeof nothing", '"undefined"\n'],
    ["function f() { return b }", ""],
    ["class C { static n = 4 }", ""],
    ["b = 9; f() + C.n", "13\n"],
    ["var v = 1; if (v) v = 2", ""],
    ["v", "2\n"],
    ["for (const i of [1, 2]) console.log(i)", "1\n2\n"],
    ["_ = 5; _", "5\n"],
    ["await Promise.resolve(6)", "6\n"],
    ["_ + 1", "7\n"],
    ["const late = await (async () => 8)(); late", "8\n"],
    ["late", "8\n"],
  ];
  for (const [code, printed] of cases) {
    assertEquals(await client.type(code), printed, code);
  }
  assertFalse("x" in globalThis);
  assertFalse("v" in globalThis);
});

Deno.test("BackdoorServer waits for the other lines of an incomplete input", async () => {
  await using server = start();
  using client = await Client.ready(server);
  const inputs: [lines: string[], printed: string][] = [
    [["function f(n) {", "  return n + 1;", "}"], ""],
    [["f(", "1", ")"], "2\n"],
    [["f(f(", "1))"], "3\n"],
    [["[1,", "2]"], "[ 1, 2 ]\n"],
    [["`a", "b`"], '"a\\nb"\n'],
    [["/* a", "b */ 4"], "4\n"],
    [["const o =", "{ p: 1 }"], ""],
    [["if (o) {", "console.log(o.p)", "}"], "1\n"],
    [["await (async () => {", "return 5", "})()"], "5\n"],
  ];
  for (const [lines, printed] of inputs) {
    for (const line of lines.slice(0, -1)) {
      assertEquals(await client.type(line, "... "), "", line);
    }
    assertEquals(await client.type(lines.at(-1)!), printed, lines.join());
  }
  assertEquals(await client.type("f(", "... "), "");
  assertEquals(await client.type(".break"), "");
  assertEquals(await client.type("1"), "1\n");
});

Deno.test("BackdoorServer shows errors, and goes on", async () => {
  await using server = start();
  using client = await Client.ready(server);
  const cases: [code: string, start: string][] = [
    ["null.x", "Uncaught TypeError: Cannot read properties of null"],
    ["throw new RangeError('far')", "Uncaught RangeError: far\n"],
    ["throw 5", "Uncaught 5\n"],
    ["f(1 2)", "Uncaught SyntaxError: "],
    ["}", "Uncaught SyntaxError: "],
    ["'a", "Uncaught SyntaxError: "],
    ["nothing", "Uncaught ReferenceError: nothing is not defined"],
    ["await Promise.reject(new Error('later'))", "Uncaught Error: later\n"],
    ["const bad = null.x", "Uncaught TypeError"],
    ["bad", "Uncaught ReferenceError: bad is not defined"],
    [".nothing", "There is no command .nothing\n"],
  ];
  for (const [code, start] of cases) {
    const printed = await client.type(code);
    assert(printed.startsWith(start), `${code}: ${printed}`);
    assertFalse(printed.includes("_base/repl.ts"), printed);
  }
  assertEquals(await client.type("1 + 1"), "2\n");
});

Deno.test("BackdoorServer prints the rejection of a promise that was not awaited", async () => {
  await using server = start();
  using client = await Client.ready(server);
  await client.send("Promise.reject(new Error('gone'))\n");
  await client.hear("Uncaught Error: gone");
  await client.send("\n");
  await client.hear();
});

Deno.test("BackdoorServer shares locals, and leaves other names to the connection", async () => {
  const state = { count: 1 };
  const locals: Record<string, unknown> = { state, shared: "all" };
  await using server = start({ locals });
  using one = await Client.ready(server);
  using other = await Client.ready(server);
  assertEquals(await one.type("state.count = 2"), "2\n");
  assertEquals(await other.type("state.count"), "2\n");
  assertEquals(state.count, 2);
  assertEquals(await one.type("shared = 'mine'; const own = 3"), "");
  assertEquals(await other.type("shared"), '"all"\n');
  assertStringIncludes(await other.type("own"), "own is not defined");
  locals.late = 4;
  assertEquals(await other.type("late"), "4\n");
  assertEquals(Object.keys(locals), ["state", "shared", "late"]);
});

Deno.test("BackdoorServer has console print to the connection, in functions of the program as well", async () => {
  const before = globalThis.console;
  async function busy() {
    const queue = new Queue();
    console.log("switching out, then throwing in");
    try {
      await queue.get({ timeout: 1 });
    } catch (error) {
      if (error instanceof Empty) console.log("Got Empty");
    }
    await sleep(1);
    console.error("switched %s", "in");
  }
  await using server = start({ locals: { busy } });
  using one = await Client.ready(server);
  using other = await Client.ready(server);
  await one.send("await busy()\n");
  assertEquals(await other.type("console.log('mine')"), "mine\n");
  assertEquals(
    await one.hear(),
    "switching out, then throwing in\nGot Empty\nswitched in\n",
  );
  await one.send(".exit\n");
  await one.rest();
  await other.send(".exit\n");
  await other.rest();
  await server.stop();
  assertStrictEquals(globalThis.console, before);
});

Deno.test("BackdoorServer evaluates in the greenlet of the connection", async () => {
  const locals: Record<string, unknown> = { hub: getHub() };
  await using server = start({ locals });
  locals.server = server;
  using client = await Client.ready(server);
  assertEquals(await client.type("getCurrent() !== hub"), "true\n");
  const code = "await null; server.connections.has(getCurrent())";
  assertEquals(await client.type(code), "true\n");
});

Deno.test("BackdoorServer prints the greenlets at .tree", async () => {
  const over = new Event();
  const waiting = spawn(() => over.wait());
  waiting.name = "waiting for the end";
  await using server = start();
  using client = await Client.ready(server);
  assertStringIncludes(await client.type(".tree"), "waiting for the end");
  assertMatch(await client.type(".help"), /\.exit/);
  over.set();
  await waiting.join();
});

Deno.test("BackdoorServer.stop() ends connections in the middle of their code", async () => {
  await using server = start({ locals: { over: new Event() } });
  using client = await Client.ready(server);
  await client.send("console.log('begun'); await over.wait()\n");
  await client.hear("begun\n");
  const [greenlet] = server.connections;
  await server.stop({ timeout: 0 });
  assert(greenlet!.value instanceof GreenletExit);
  await client.rest();
});

Deno.test("BackdoorServer drops an incomplete input at telnet's Ctrl-C", async () => {
  await using server = start();
  using client = await Client.ready(server);
  await client.type("1 + (", "... ");
  await client.send(new Uint8Array([0xff, 0xf4, 0xff, 0xfd, 0x06, 10]));
  assertEquals(await client.hear(), "");
  assertEquals(await client.type("2"), "2\n");
});

Deno.test("BackdoorServer closes a connection that speaks HTTP", async () => {
  const locals = { hits: 0 };
  await using server = start({ locals });
  using client = await Client.ready(server);
  await client.send("POST / HTTP/1.1\r\n\r\n");
  assertEquals(await client.rest(), "");
});

Deno.test("BackdoorServer listens on a Unix socket", async () => {
  const path = `${await Deno.makeTempDir()}/door`;
  const server = new BackdoorServer({ transport: "unix", path });
  server.start();
  try {
    using client = await Client.ready(server);
    assertEquals(await client.type("6 * 7"), "42\n");
  } finally {
    await server.stop();
  }
});

Deno.test("BackdoorServer refuses to listen where other machines can connect", () => {
  const refused = [undefined, "0.0.0.0", "::", "192.0.2.1", "127.example.com"];
  for (const hostname of refused) {
    const address = { ...hostname !== undefined && { hostname }, port: 0 };
    assertThrows(
      () => new BackdoorServer(address),
      TypeError,
      "Cannot create backdoor server as other machines could connect to",
    );
    new BackdoorServer(address, { remote: true }).close();
  }
  for (const hostname of ["127.0.0.1", "127.1.2.3", "localhost", "::1"]) {
    new BackdoorServer({ hostname, port: 0 }).close();
  }
  using listener = listen({ hostname: "0.0.0.0", port: 0 });
  assertThrows(() => new BackdoorServer(listener), TypeError, "0.0.0.0");
});

Deno.test("BackdoorServer refuses options that are none", () => {
  const wrong = [{ locals: 5 }, { banner: 5 }, { locals: null }];
  for (const options of wrong) {
    assertThrows(
      () => new BackdoorServer(HERE, options as never),
      TypeError,
      "Cannot create backdoor server as",
    );
  }
});
