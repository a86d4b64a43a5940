/**
 * Measures this library against greenlet, gevent and the bare language, and prints what
 * each takes.
 *
 * ```sh
 * deno task bench
 * ```
 *
 * How it is done, and what the numbers don't say, is in `bench/README.md`.
 *
 * @module
 */

const WARM_UP_ROUNDS = 2;
const ROUNDS = 5;

const CLIENTS = 500;
/** How many messages each client sends in a round. */
const MESSAGES = 40;

/** Where a Python may be that has gevent: the user's own, and Debian's. */
const PYTHONS = ["python3", "/usr/bin/python3"];

/** A work that several do alike. */
interface Row {
  title: string;
  /** How many operations make a round. */
  count: number;
  /** What a round gives: how long it took, or how many bytes more are in use. */
  unit?: "ms" | "bytes";
  /** How many rounds count, where one takes long; one more is to warm up. */
  rounds?: number;
  /** The first is this library, which the others are compared to. */
  peers: Peer[];
}

/** One who does a work. */
interface Peer {
  name: string;
  /** Does a round for every line on its input; `null` if what it needs is missing. */
  command: string[] | null;
  /** Whom the command talks to: prints the port, which is the command's argument. */
  server?: string[] | null;
  /** What to tell, if we are compared to it. */
  ratio?: Ratio;
}

/**
 * How many times as fast as the peer we are, or how many times its time or its memory we
 * take; and what is to be reached.
 */
interface Ratio {
  of: "speed" | "time" | "memory";
  aim?: string;
}

const anyPython = await findPython("import selectors");
const geventPython = await findPython("import gevent, greenlet");

const rows: Row[] = [
  {
    title: "switch",
    count: 2_000_000,
    peers: [
      ours("switch"),
      python("greenlet", "switch", "at least 4"),
      bare("switch", "at most 4"),
    ],
  },
  {
    title: "create, run and die, in the core",
    count: 100_000,
    peers: [
      ours("create"),
      python("greenlet", "create", "at least 8"),
      bare("create"),
    ],
  },
  {
    title: "spawn and join",
    count: 200_000,
    peers: [
      ours("spawn"),
      ours("spawn-generator", ", generator bodies"),
      python("gevent", "spawn", "at least 10"),
      bare("spawn", "at most 3"),
    ],
  },
  {
    title: "sleep(0)",
    count: 500_000,
    peers: [
      ours("sleep"),
      ours("sleep-generator", ", generator bodies"),
      python("gevent", "sleep", "at least 15"),
      bare("sleep"),
    ],
  },
  {
    title: "hand-off through a Queue(1)",
    count: 200_000,
    peers: [
      ours("queue"),
      ours("queue-generator", ", generator bodies"),
      python("gevent", "queue", "at least 30"),
      bare("queue"),
    ],
  },
  {
    title: "Pool(100).map",
    count: 100_000,
    peers: [
      ours("map"),
      python("gevent", "map", "at least 5"),
      bare("map"),
    ],
  },
  {
    title: "kill of a sleeper",
    count: 100_000,
    rounds: 3,
    peers: [
      ours("kill"),
      ours("kill-generator", ", generator bodies"),
      python("gevent", "kill", "at least 4"),
    ],
  },
  {
    title: "memory of a sleeper",
    count: 20_000,
    unit: "bytes",
    peers: [
      ours("memory"),
      ours("memory-generator", ", generator bodies"),
      python("gevent", "memory", "at most 1 KB for ours", "memory"),
    ],
  },
  {
    title: `echo of a message to one of ${CLIENTS} TCP clients`,
    count: CLIENTS * MESSAGES,
    peers: [
      echo("@gevent/gevent, under patch()", deno("echo_patched.ts")),
      echo("gevent", withGevent("echo_gevent.py"), "at least 1.4"),
      echo("plain Deno", deno("echo_plain.ts"), "at least 0.93"),
    ],
  },
];

function ours(work: string, kind = ""): Peer {
  return { name: `@gevent/gevent${kind}`, command: deno("ours.ts", work) };
}

function bare(work: string, aim?: string): Peer {
  const ratio: Ratio = { of: "time", ...aim && { aim } };
  return { name: "the bare language", command: deno("bare.ts", work), ratio };
}

function python(
  name: string,
  work: string,
  aim: string,
  of: Ratio["of"] = "speed",
): Peer {
  const command = withGevent("gevent_works.py", work);
  return { name, command, ratio: { of, aim } };
}

function echo(name: string, server: string[] | null, aim?: string): Peer {
  const clients = anyPython === null
    ? null
    : [anyPython, "bench/peers/echo_clients.py"];
  return {
    name,
    command: server && clients,
    server,
    ...aim && { ratio: { of: "speed", aim } },
  };
}

function withGevent(file: string, ...args: string[]): string[] | null {
  if (geventPython === null) return null;
  return [geventPython, `bench/peers/${file}`, ...args];
}

function deno(file: string, ...args: string[]): string[] {
  const path = `bench/peers/${file}`;
  // For the memory: what is garbage is no greenlet's.
  const options = ["-q", "-P=local-net", "--v8-flags=--expose-gc"];
  return [Deno.execPath(), "run", ...options, path, ...args];
}

/** Finds a Python in which some imports succeed. */
async function findPython(imports: string): Promise<string | null> {
  for (const python of PYTHONS) {
    try {
      const args = ["-c", imports];
      const command = new Deno.Command(python, { args, stderr: "null" });
      if ((await command.output()).success) return python;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return null;
}

/** A process whose output we read line by line. */
class Process implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor([program, ...args]: string[]) {
    this.#child = new Deno.Command(program!, {
      args,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  /** Asks for a round; gives the numbers that are the answer. */
  async round(): Promise<number[]> {
    await this.#input.write(new Uint8Array([10]));
    return (await this.readLine()).split(" ").map(Number);
  }

  async readLine(): Promise<string> {
    let end;
    while ((end = this.#rest.indexOf("\n")) < 0) {
      const { done, value } = await this.#output.read();
      if (done) throw new Error("A peer has ended before its time");
      this.#rest += value;
    }
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return line;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#output.cancel();
    await this.#child.status;
  }
}

/** What a peer has done in each round. */
interface Result {
  peer: Peer;
  /** Milliseconds, or bytes. */
  amounts: number[];
  /** How busy the clients were, from 0 to 1, if there are any. */
  busy: number[];
}

/** Starts all peers and lets them take turns, so that they meet the same conditions. */
async function measure({ peers, count, rounds }: Row): Promise<Result[]> {
  await using stack = new AsyncDisposableStack();
  const results: Result[] = [];
  const runs: { process: Process; result: Result }[] = [];
  for (const peer of peers) {
    const result: Result = { peer, amounts: [], busy: [] };
    results.push(result);
    const { command, server } = peer;
    if (command === null) continue;
    let args = [count];
    if (server) {
      const port = Number(await stack.use(new Process(server)).readLine());
      args = [port, CLIENTS, MESSAGES];
    }
    const process = stack.use(new Process([...command, ...args.map(String)]));
    runs.push({ process, result });
  }
  const warmUp = rounds === undefined ? WARM_UP_ROUNDS : 1;
  for (let round = -warmUp; round < (rounds ?? ROUNDS); round++) {
    for (const { process, result } of runs) {
      const [amount = NaN, busy] = await process.round();
      if (round < 0) continue;
      result.amounts.push(amount);
      if (busy !== undefined) result.busy.push(busy);
    }
  }
  return results;
}

function print({ title, count, unit }: Row, results: Result[]): void {
  console.log(`\n${title} (${count.toLocaleString("en")} in a round)`);
  const own = results[0]!.amounts;
  for (const { peer, amounts, busy } of results) {
    const { ratio } = peer;
    const cells = [peer.name.padEnd(34)];
    if (amounts.length === 0) {
      cells.push("missing");
    } else {
      const each = amounts.map((amount) => amount / count);
      cells.push(summary(each, unit === "bytes" ? size : duration).padEnd(30));
      if (busy.length > 0) {
        cells.push(`clients ${Math.round(median(busy) * 100)} % busy`);
      }
      if (ratio !== undefined && own.length > 0) {
        cells.push(comparison(ratio, own, amounts));
      }
    }
    console.log(`  ${cells.join("  ").trimEnd()}`);
  }
}

/** Compares round by round, as neighbours in time had the same machine. */
function comparison({ of, aim }: Ratio, own: number[], its: number[]): string {
  const ratios = own.map((amount, i) =>
    of === "speed" ? its[i]! / amount : amount / its[i]!
  );
  const words = of === "speed" ? "as fast" : `its ${of}`;
  const text = `we: ${summary(ratios, multiple)} × ${words}`;
  return aim === undefined ? text : `${text}, aim: ${aim}`;
}

/** The median, and the least and the most. */
function summary(values: number[], show: (value: number) => string): string {
  const least = show(Math.min(...values));
  const most = show(Math.max(...values));
  return `${show(median(values))} (${least} – ${most})`;
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

function multiple(ratio: number): string {
  return ratio < 10 ? ratio.toPrecision(2) : ratio.toFixed(0);
}

function size(bytes: number): string {
  return `${(bytes / 1024).toPrecision(3)} KB`;
}

function duration(ms: number): string {
  const ns = ms * 1e6;
  return ns < 1000
    ? `${ns.toPrecision(3)} ns`
    : `${(ns / 1000).toPrecision(3)} µs`;
}

console.log(
  `Deno ${Deno.version.deno}; Python with gevent: ${geventPython ?? "missing"}`,
);
for (const row of rows) print(row, await measure(row));
