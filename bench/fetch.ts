/**
 * Measures what `patch()` costs `fetch`: requests per second to a server on this machine, by
 * greenlets under `patch()` and by plain async functions, for bodies of some sizes.
 *
 * ```sh
 * deno run -q -P=bench bench/fetch.ts
 * ```
 *
 * The server and both peers are processes of their own, which run this same file. The peers
 * take turns, and a ratio is formed within each turn, as `bench/README.md` explains.
 *
 * @module
 */

import { joinAll, patch, spawn } from "@gevent/gevent";

const WARM_UP_ROUNDS = 3;
const ROUNDS = 15;
const CLIENTS = 50;

/** How large the bodies are, and how many of them each client gets in a round. */
const WORKS = [
  { bytes: 100, count: 60 },
  { bytes: 10_000, count: 60 },
  { bytes: 1_000_000, count: 4 },
];

/** What a process does, by its first argument. */
const roles: Record<string, (...args: string[]) => unknown> = {
  /** Answers with so many bytes, and prints its port. */
  server(bytes) {
    const body = new Uint8Array(Number(bytes));
    const onListen = ({ port }: { port: number }) => console.log(port);
    const options = { hostname: "127.0.0.1", port: 0, onListen };
    Deno.serve(options, () => new Response(body));
  },

  patched: (port, count) =>
    serveRounds(async () => {
      using _ = patch();
      const clients = Array.from(
        { length: CLIENTS },
        () => spawn(get, port!, Number(count)),
      );
      await joinAll(clients, { raiseError: true });
    }),

  plain: (port, count) =>
    serveRounds(() =>
      Promise.all(
        Array.from({ length: CLIENTS }, () => get(port!, Number(count))),
      )
    ),
};

async function get(port: string, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const response = await fetch(`http://127.0.0.1:${port}/`);
    await response.text();
  }
}

/** Prints how long a round takes, for each line on standard input. */
async function serveRounds(round: () => Promise<unknown>): Promise<void> {
  const buffer = new Uint8Array(1);
  while (await Deno.stdin.read(buffer) !== null) {
    const start = performance.now();
    await round();
    console.log(performance.now() - start);
  }
}

/** A process that prints numbers. */
class Process implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #output: ReadableStreamDefaultReader<string>;

  constructor(...args: (string | number)[]) {
    const program = ["run", "-q", "-P=local-net", "bench/fetch.ts"];
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [...program, ...args.map(String)],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  async read(): Promise<number> {
    let line = "";
    while (!line.endsWith("\n")) {
      const { done, value } = await this.#output.read();
      if (done) throw new Error("A process has ended before its time");
      line += value;
    }
    return Number(line);
  }

  /** How many requests a second there were in a round. */
  async speed(requests: number): Promise<number> {
    await this.#input.write(new Uint8Array([10]));
    return requests / await this.read() * 1000;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#output.cancel();
    await this.#child.status;
  }
}

async function measure(bytes: number, count: number): Promise<void> {
  await using server = new Process("server", bytes);
  const port = await server.read();
  await using patched = new Process("patched", port, count);
  await using plain = new Process("plain", port, count);
  const speeds: { patched: number; plain: number }[] = [];
  for (let round = -WARM_UP_ROUNDS; round < ROUNDS; round++) {
    const requests = CLIENTS * count;
    const speed = {
      patched: await patched.speed(requests),
      plain: await plain.speed(requests),
    };
    if (round >= 0) speeds.push(speed);
  }
  const all = (of: (speed: typeof speeds[number]) => number, digits: number) =>
    summary(speeds.map(of), digits);
  console.log(`\n${bytes.toLocaleString("en")} bytes, ${CLIENTS} clients`);
  console.log(`  under patch()  ${all((it) => it.patched, 0)} requests/s`);
  console.log(`  plain Deno     ${all((it) => it.plain, 0)} requests/s`);
  console.log(`  we: ${all((it) => it.patched / it.plain, 2)} × as fast`);
}

/** The median, and the least and the most. */
function summary(values: number[], digits: number): string {
  const sorted = values.toSorted((a, b) => a - b);
  const show = (at: number) => sorted.at(at)!.toFixed(digits);
  return `${show(Math.floor(sorted.length / 2))} (${show(0)} – ${show(-1)})`;
}

const [role, ...args] = Deno.args;
if (role !== undefined) {
  await roles[role]!(...args);
} else {
  console.log(`Deno ${Deno.version.deno}`);
  for (const { bytes, count } of WORKS) await measure(bytes, count);
}
