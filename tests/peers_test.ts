/**
 * The TCP examples and the programs that other people have: plain sockets in Python, and
 * gevent. Without Python, or without its gevent, these tests are skipped, and their names
 * tell why.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { runScript } from "./_bodies.ts";

const CLIENTS = 500;
const MESSAGES = 10;
/** Long enough for a busy machine; what takes longer is stuck. */
const LIMIT = 120_000;

/** By which the examples find the library under its name. */
const CONFIG = `--config=${new URL("../deno.json", import.meta.url).pathname}`;

/** Debian's own Python has Debian's gevent; another one may have its own. */
const PYTHONS = ["/usr/bin/python3", "python3"];
const python = await findPython("pass");
const pythonWithGevent = await findPython("import gevent");
const NO_PYTHON = "python3 is not installed";
const NO_GEVENT = "python3-gevent is not installed";

/** The first Python that can run a line of code. */
async function findPython(code: string): Promise<string | null> {
  for (const python of PYTHONS) {
    const options = { args: ["-c", code], stdout: "null", stderr: "null" };
    try {
      const command = new Deno.Command(python, options as Deno.CommandOptions);
      if ((await command.output()).success) return python;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return null;
}

/** A test that needs a Python; its name tells when it is skipped, and why. */
function testWith(
  python: string | null,
  reason: string,
  name: string,
  test: (python: string) => Promise<void>,
): void {
  const ignore = python === null;
  Deno.test({
    name: ignore ? `${name} (skipped: ${reason})` : name,
    ignore,
    fn: () => test(python!),
  });
}

/** Runs a script of `tests/peers/` to its end. */
async function runPeer(
  python: string,
  script: string,
  ...args: unknown[]
): Promise<{ code: number; out: string; err: string }> {
  const path = new URL(`peers/${script}`, import.meta.url).pathname;
  const { code, stdout, stderr } = await new Deno.Command(python, {
    args: [path, ...args.map(String)],
    stdin: "null",
    signal: AbortSignal.timeout(LIMIT),
  }).output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

/** A server in a process of its own, which prints a line when it listens. */
class Server implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #out: ReadableStreamDefaultReader<string>;
  readonly #err: Promise<string>;
  port = 0;

  private constructor(command: string, args: string[]) {
    this.#process = new Deno.Command(command, {
      args,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    this.#out = this.#process.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
    this.#err = new Response(this.#process.stderr).text();
  }

  static async start(command: string, args: string[]): Promise<Server> {
    const server = new Server(command, args);
    let first = "";
    while (!first.includes("\n")) {
      const { value, done } = await server.#out.read();
      if (done) throw new Error(`It ended before it listened: ${first}`);
      first += value;
    }
    server.port = Number(first.split("\n")[0]!.split(":").at(-1));
    return server;
  }

  static startExample(name: string): Promise<Server> {
    const path = new URL(`../examples/${name}.ts`, import.meta.url).pathname;
    const args = ["run", "-q", "-P=local-net", path, "127.0.0.1", "0"];
    return Server.start(Deno.execPath(), args);
  }

  /** Ends it by Ctrl-C, and gives what it has printed since it listened. */
  async interrupt(): Promise<{ out: string; err: string }> {
    this.#process.kill("SIGINT");
    let out = "";
    for (;;) {
      const { value, done } = await this.#out.read();
      if (done) break;
      out += value;
    }
    await this.#process.status;
    return { out, err: await this.#err };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch (error) {
      // It has ended already.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#out.cancel();
    await this.#err;
    await this.#process.status;
  }
}

testWith(
  python,
  NO_PYTHON,
  "examples/tcp_server.ts gives 500 Python threads every reply",
  async (python) => {
    await using server = await Server.startExample("tcp_server");
    const clients = await runPeer(
      python,
      "clients.py",
      server.port,
      CLIENTS,
      MESSAGES,
    );
    assertEquals(clients.err, "");
    assertEquals(JSON.parse(clients.out), {
      replies: CLIENTS * MESSAGES,
      errors: [],
    });
    const { out, err } = await server.interrupt();
    assertEquals(err, "");
    assertMatch(out, /server has ended\n$/);
  },
);

testWith(
  python,
  NO_PYTHON,
  "examples/tcp_server.ts serves on when clients leave, half-close and reset",
  async (python) => {
    await using server = await Server.startExample("tcp_server");
    const clients = await runPeer(python, "rude_clients.py", server.port);
    assertEquals(clients.err, "");
    assertEquals(JSON.parse(clients.out), {
      leaves_at_once: [null, "STILL THERE"],
      leaves_with_a_reply_unread: [null, "STILL THERE"],
      leaves_in_the_middle_of_a_long_reply: ["X", "STILL THERE"],
      half_closes: ["HALF", "STILL THERE"],
      half_closes_at_once: ["", "STILL THERE"],
      resets_at_once: [null, "STILL THERE"],
      resets_after_a_message: [null, "STILL THERE"],
      resets_after_a_reply: ["HELLO", "STILL THERE"],
      cuts_a_character: ["AÉ", "STILL THERE"],
    });
    const { out, err } = await server.interrupt();
    assertEquals(err, "");
    assertMatch(out, /server has ended\n$/);
  },
);

testWith(
  pythonWithGevent,
  NO_GEVENT,
  "examples/tcp_clients.ts is served by a gevent server with a backlog of 5",
  async (python) => {
    const path = new URL("peers/gevent_server.py", import.meta.url).pathname;
    await using server = await Server.start(python, [path]);
    const example = new URL("../examples/tcp_clients.ts", import.meta.url);
    const args = ["run", "-q", "-P=local-net", example.pathname, "127.0.0.1"];
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [...args, ...[server.port, CLIENTS, MESSAGES].map(String)],
      stdin: "null",
      signal: AbortSignal.timeout(LIMIT),
    }).output();
    assertEquals(new TextDecoder().decode(stderr), "");
    const lines = new TextDecoder().decode(stdout).trimEnd().split("\n");
    assertEquals(lines.at(-1), "served:   500 of 500 clients");
    assert(lines.includes("replies:  5000 of 5000"));
    assert(lines.some((line) => line.startsWith("250 of 500 clients served")));
    assertEquals(code, 0);
  },
);

Deno.test("runClients() tries again where a server resets, is silent or ends", async () => {
  const clients = new URL("../examples/tcp_clients.ts", import.meta.url).href;
  const { out, err, code } = await runScript(
    `
    const { runClients } = await import(${JSON.stringify(clients)});
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    // The first connections are treated badly, each in its own way, and the rest well.
    const manners = [
      // To close what has bytes unread is to reset.
      async (conn) => {
        await conn.read(new Uint8Array(1));
        conn.close();
      },
      (conn) => conn.closeWrite(),
      async (conn) => {
        const buffer = new Uint8Array(1024);
        while (await conn.read(buffer) !== null);
        conn.close();
      },
      // One that answers a single message, and ends in the middle of the next.
      async (conn) => {
        const buffer = new Uint8Array(1024);
        await answer(conn, buffer);
        await conn.read(buffer);
        await conn.write(new TextEncoder().encode("THR"));
        conn.close();
      },
    ];
    async function answer(conn, buffer) {
      const count = await conn.read(buffer);
      if (count === null) return false;
      const text = new TextDecoder().decode(buffer.subarray(0, count));
      await conn.write(new TextEncoder().encode(text.toUpperCase()));
      return true;
    }
    async function serve(conn) {
      const buffer = new Uint8Array(1024);
      while (await answer(conn, buffer));
      conn.close();
    }
    (async () => {
      for await (const conn of listener) {
        const serveNext = manners.shift() ?? serve;
        Promise.resolve(serveNext(conn)).catch(() => {});
      }
    })();
    using _ = patch();
    const allServed = await run(runClients, {
      hostname: "127.0.0.1",
      port: listener.addr.port,
      clients: 8,
      messages: 3,
      limit: 500,
      pause: 1,
    });
    console.log(allServed);
    Deno.exit(0);
  `,
    undefined,
    [CONFIG],
  );
  assertEquals(err, "");
  assertEquals(out.slice(-2), ["served:   8 of 8 clients", "true"]);
  assertEquals(code, 0);
});

Deno.test("runClients() tells how many were served where there is no server", async () => {
  const clients = new URL("../examples/tcp_clients.ts", import.meta.url).href;
  const { out, err } = await runScript(
    `
    const { runClients } = await import(${JSON.stringify(clients)});
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    listener.close();
    using _ = patch();
    const plan = { hostname: "127.0.0.1", port, clients: 3, messages: 2, pause: 1 };
    console.log(await run(runClients, plan));
  `,
    undefined,
    [CONFIG],
  );
  assertEquals(err, "");
  assertEquals(out.slice(-2), ["served:   0 of 3 clients", "false"]);
});

Deno.test("examples/line_server.ts answers each line, however the bytes arrive", async () => {
  await using server = await Server.startExample("line_server");
  const address = { hostname: "127.0.0.1", port: server.port };
  using conn = await Deno.connect(address);
  const send = (text: string) => conn.write(new TextEncoder().encode(text));
  const buffer = new Uint8Array(1024);
  const decoder = new TextDecoder();
  await send("hel");
  await send("lo\nwor");
  let answers = "";
  while (answers.length < "HELLO\n".length) {
    const count = await conn.read(buffer);
    answers += decoder.decode(buffer.subarray(0, count ?? 0));
  }
  assertEquals(answers, "HELLO\n");
  await send("ld\nquit\n");
  for (let count; (count = await conn.read(buffer)) !== null;) {
    answers += decoder.decode(buffer.subarray(0, count));
  }
  assertEquals(answers, "HELLO\nWORLD\nBYE\n");
  const { err } = await server.interrupt();
  assertEquals(err, "");
});
