/**
 * Runs every example in a process of its own, with the permission set of `deno.json` that it
 * needs. Fails if an example fails.
 *
 * ```sh
 * deno task examples
 * ```
 *
 * @module
 */

/** The examples that end by themselves, with their permission sets. */
const EXAMPLES = [
  ["yield_switching", "none"],
  ["eat_play", "none"],
  ["overlap", "none"],
  ["main_ends", "none"],
  ["patch_json", "none"],
  ["await_horizon", "none"],
  ["third_party", "none"],
  ["producer_consumer", "none"],
  ["crawler", "crawler"],
  ["crawler_axios", "crawler-axios"],
  ["bounded_crawl", "local-net"],
  ["fetch_client", "local-net"],
  ["tcp_500_clients", "local-net"],
  ["http_service", "examples"],
  ["websocket_hub", "local-net"],
  ["tcp_server_socket", "local-net"],
  ["tcp_proxy", "local-net"],
  ["chat_server", "local-net"],
  ["hash_tree", "hash-tree"],
  ["distributed_crawl", "distributed-crawl"],
  ["trace_crawl", "trace"],
  ["opentelemetry", "otel"],
] as const;

const CLIENTS = 500;

/** How long one example may take, in milliseconds, before it counts as stuck. */
const LIMIT = 60_000;

/** The exit status that `run()` sets after Ctrl-C, as shells expect. */
const SIGINT_STATUS = 130;

/** How many lines of the server to print: it writes one for each connection. */
const SERVER_LINES = 3;

const failures: string[] = [];

for (const [name, permissions] of EXAMPLES) {
  heading(name);
  const { code } = await start(name, permissions).status;
  if (code !== 0) failures.push(`${name} exited with ${code}`);
}

heading(`tcp_server and tcp_clients, ${CLIENTS} clients`);
await withServer("tcp_server", async (address) => {
  const args = [...address, String(CLIENTS)];
  const { code } = await start("tcp_clients", "local-net", args).status;
  if (code !== 0) failures.push(`tcp_clients exited with ${code}`);
});

heading("line_server");
await withServer("line_server", async ([hostname, port]) => {
  using conn = await Deno.connect({ hostname, port: Number(port) });
  // Each line gets one answer, even if its bytes arrive in parts.
  for (const bytes of ["hel", "lo\nwor", "ld\nquit\n"]) {
    await conn.write(new TextEncoder().encode(bytes));
  }
  const answers = await new Response(conn.readable).text();
  console.log(answers.trimEnd());
  if (answers !== "HELLO\nWORLD\nBYE\n") {
    failures.push(`line_server answered ${JSON.stringify(answers)}`);
  }
});

heading(failures.length === 0 ? "All examples succeeded" : "Failed");
for (const failure of failures) console.log(failure);
Deno.exit(failures.length === 0 ? 0 : 1);

/** Runs a server and its clients as two people would: one starts, uses and stops it. */
async function withServer(
  name: string,
  use: (address: [hostname: string, port: string]) => Promise<void>,
): Promise<void> {
  const address: [string, string] = ["127.0.0.1", String(freePort())];
  const server = start(name, "local-net", address, "piped");

  // The server prints its first line once it listens.
  const lines = linesOf(server.stdout);
  const first = await lines.next();
  if (first.done) {
    const { code } = await server.status;
    failures.push(`${name} exited with ${code} before it listened`);
    return;
  }
  console.log(first.value);
  const printed = printFirst(name, SERVER_LINES - 1, lines);

  await use(address);

  try {
    server.kill("SIGINT");
  } catch (error) {
    // The server has ended already. Its exit code is checked below.
    if (!(error instanceof TypeError)) throw error;
  }
  const { code } = await server.status;
  await printed;
  if (code !== SIGINT_STATUS) {
    failures.push(`${name} exited with ${code} after SIGINT`);
  } else console.log(`${name} ended cleanly after SIGINT`);
}

/** Starts an example with nothing on its standard input. */
function start(
  name: string,
  permissions: string,
  args: string[] = [],
  stdout: "inherit" | "piped" = "inherit",
): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", `-P=${permissions}`, `examples/${name}.ts`, ...args],
    stdin: "null",
    stdout,
    signal: AbortSignal.timeout(LIMIT),
  }).spawn();
}

/** Prints the first lines, and reads and counts the rest. */
async function printFirst(
  name: string,
  count: number,
  lines: AsyncIterable<string>,
): Promise<void> {
  let more = 0;
  for await (const line of lines) {
    if (count-- > 0) console.log(line);
    else more++;
  }
  if (more > 0) console.log(`… and ${more} more lines from ${name}`);
}

async function* linesOf(
  bytes: ReadableStream<Uint8Array<ArrayBuffer>>,
): AsyncGenerator<string, void> {
  let rest = "";
  for await (const text of bytes.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  if (rest !== "") yield rest;
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

function heading(text: string): void {
  console.log(`\n=== ${text} ===`);
}
