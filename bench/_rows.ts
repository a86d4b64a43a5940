/**
 * The works that are measured, the peers that do them, and the aims.
 *
 * @module
 */

import type { Amount, Ratio } from "./_results.ts";
import type { Tools } from "./_tools.ts";

/** A peer: this library, a library that is compared to it, or the bare language. */
export type Who =
  | "ours"
  | "gevent"
  | "effect"
  | "effection"
  | "p-limit"
  | "p-queue"
  | "bare";

/** A work that several do alike. */
export interface Row {
  name: string;
  title: string;
  /** How many operations make a round. */
  count: number;
  amount: Amount;
  /**
   * How it is measured: in rounds of processes that live on, in a new process for each
   * round, or by how long a process takes from its start to its end.
   */
  mode: "rounds" | "fresh" | "start";
  /** How often the processes are started, and for how many rounds, if not as usual. */
  launches?: number;
  rounds?: number;
  /** True if it needs clients, which are in Python. */
  hasClients?: boolean;
  /** Whom all peers talk to; its port is their last argument. */
  server?: string[];
  /** The first is what the others are compared to. */
  peers: Peer[];
}

/** A peer that does a work. */
export interface Peer {
  who: Who;
  name: string;
  /** Does a round for every line on its input. */
  command: string[];
  /**
   * The server that is tested, if the command only talks to it; its port is the last
   * argument.
   */
  server?: string[];
  /** How many operations make a round, if not as in the row. */
  count?: number;
  ratio?: Ratio;
  /** The largest median for one operation that is wanted. */
  aim?: number;
}

/** Where a work is found: a file in `peers/`, and an ending of the work's name there. */
interface Source {
  who: Who;
  name: string;
  file: string;
  ending?: string;
}

const OURS: Source = { who: "ours", name: "@gevent/gevent", file: "ours.ts" };

/** The same with generator bodies, where it makes a difference. */
const GENERATORS: Source = {
  who: "ours",
  name: "@gevent/gevent, generator bodies",
  file: "ours.ts",
  ending: "-generator",
};

/** What a `select` does for one of two queues. */
const HAND_OFF: Source = {
  who: "ours",
  name: "@gevent/gevent, hand-off through a Queue(1)",
  file: "ours.ts",
  ending: "-queue",
};

/** The same work in a process that nothing watches. */
const UNWATCHED: Source = {
  who: "ours",
  name: "@gevent/gevent, watched by nothing",
  file: "ours.ts",
  ending: "-unwatched",
};

const GREENLET: Source = {
  who: "gevent",
  name: "greenlet",
  file: "works_gevent.py",
};

const GEVENT: Source = {
  who: "gevent",
  name: "gevent",
  file: "works_gevent.py",
};

const EFFECT: Source = { who: "effect", name: "effect", file: "effect.ts" };

const EFFECTION: Source = {
  who: "effection",
  name: "effection",
  file: "effection.ts",
};

const P_LIMIT: Source = { who: "p-limit", name: "p-limit", file: "p_limit.ts" };

const P_QUEUE: Source = { who: "p-queue", name: "p-queue", file: "p_queue.ts" };

const BARE: Source = {
  who: "bare",
  name: "the bare language",
  file: "bare.ts",
};

/** Where each task can be stopped, as a greenlet can. */
const BARE_ABORT: Source = {
  ...BARE,
  name: "the bare language, an AbortController each",
};

/** The ratio to a peer: how many times as fast as it we are. */
const FASTER: Ratio = { of: "speed" };

/** How many times its time we take, which is the limit of what can be had. */
const SLOWER: Ratio = { of: "time" };

function atLeast(aim: number): Ratio {
  return { of: "speed", aim };
}

function atMost(aim: number): Ratio {
  return { of: "time", aim };
}

/** A row of works that all have by its name: the first is compared to the others. */
type Works = [
  name: string,
  title: string,
  count: number,
  peers: [Source, Ratio?][],
  options?: Partial<Row>,
];

const WORKS: Works[] = [
  ["switch", "switch", 2_000_000, [
    [OURS],
    [GREENLET, atLeast(4)],
    [BARE, atMost(4)],
  ]],
  ["chain", "switch to the next of a chain of 1,000", 100_000, [
    [OURS],
    [GREENLET, FASTER],
    [BARE, SLOWER],
  ]],
  ["create", "create, run and die, in the core", 100_000, [
    [OURS],
    [GREENLET, atLeast(8)],
    [BARE, SLOWER],
  ]],
  ["spawn", "spawn and join", 200_000, [
    [OURS],
    [GENERATORS, FASTER],
    [GEVENT, atLeast(10)],
    [EFFECT, atLeast(1)],
    [EFFECTION, FASTER],
    [BARE, atMost(3)],
  ]],
  ["sleep", "sleep(0), 10 take turns", 200_000, [
    [OURS],
    [GENERATORS, FASTER],
    [GEVENT, atLeast(15)],
    [EFFECT, atLeast(10)],
    [BARE, SLOWER],
  ]],
  ["sleep-many", "sleep(0), 1,000 take turns", 200_000, [
    [OURS],
    [GENERATORS, FASTER],
    [GEVENT, FASTER],
    [EFFECT, FASTER],
    [BARE, SLOWER],
  ]],
  ["queue", "hand-off through a Queue(1)", 200_000, [
    [OURS],
    [GENERATORS, FASTER],
    [GEVENT, atLeast(30)],
    [EFFECT, atLeast(15)],
    [EFFECTION, FASTER],
    [BARE, SLOWER],
  ]],
  ["select", "select of two Queue(1)", 100_000, [
    [OURS],
    [GENERATORS, FASTER],
    [HAND_OFF, atMost(2.5)],
  ]],
  ["event", "wake-up by an Event that 10,000 wait for", 100_000, [
    [OURS],
    [GEVENT, FASTER],
    [EFFECT, FASTER],
    [EFFECTION, FASTER],
    [BARE, SLOWER],
  ]],
  ["semaphore", "Semaphore(10), 100 want it for a turn", 100_000, [
    [OURS],
    [GEVENT, FASTER],
    [EFFECT, FASTER],
    [BARE, SLOWER],
  ]],
  ["map", "Pool(100).map", 100_000, [
    [OURS],
    [GEVENT, atLeast(5)],
    [EFFECT, FASTER],
    [P_LIMIT, atLeast(1)],
    [P_QUEUE, FASTER],
    [BARE, SLOWER],
  ]],
  ["map-waiting", "Pool(100).map, each waits a turn", 100_000, [
    [OURS],
    [GEVENT, FASTER],
    [EFFECT, FASTER],
    [P_LIMIT, FASTER],
    [P_QUEUE, FASTER],
    [BARE, SLOWER],
  ]],
  ["sleeps", "sleep of up to 1 s, processor time", 100_000, [
    [OURS],
    [GEVENT, FASTER],
    [EFFECT, FASTER],
    [EFFECTION, FASTER],
    [BARE, SLOWER],
  ], { amount: "cpu" }],
  ["timeouts", "timeout, started and cancelled", 100_000, [
    [OURS],
    [GEVENT, FASTER],
    [BARE, SLOWER],
  ]],
  ["limit", "call under a time limit", 100_000, [
    [OURS],
    [GEVENT, FASTER],
    [EFFECT, FASTER],
    [BARE, SLOWER],
  ]],
  ["kill", "kill of one of 100,000 sleepers", 100_000, [
    [OURS],
    [GENERATORS, FASTER],
    [GEVENT, atLeast(4)],
    [EFFECT, FASTER],
    [EFFECTION, FASTER],
    [BARE_ABORT, SLOWER],
  ]],
];

/** What it costs to see what is going on; and that nothing stays behind when it is off again. */
const WATCHED: Works[] = [
  ["monitor-queue", "hand-off through a Queue(1), with monitor()", 200_000, [
    [{ ...OURS, name: "@gevent/gevent, with monitor()" }],
    [UNWATCHED, atMost(1.02)],
  ]],
  ["monitor-spawn", "spawn and join, with monitor()", 200_000, [
    [{ ...OURS, name: "@gevent/gevent, with monitor()" }],
    [UNWATCHED, atMost(1.02)],
  ]],
  ["off-queue", "hand-off through a Queue(1), after a trace", 200_000, [
    [{ ...OURS, name: "@gevent/gevent, all of it off again" }],
    [UNWATCHED, atMost(1.02)],
  ]],
  ["off-spawn", "spawn and join, after a trace", 200_000, [
    [{ ...OURS, name: "@gevent/gevent, all of it off again" }],
    [UNWATCHED, atMost(1.02)],
  ]],
];

/** How many sleepers there are at once, where it is measured how that matters. */
const NUMBERS = [1_000, 10_000, 100_000, 1_000_000];

/** Whose sleepers are measured, and up to how many: what takes no longer than 10 s. */
const GROWING: [Source, number][] = [
  [OURS, 1_000_000],
  [GENERATORS, 1_000_000],
  [GEVENT, 100_000],
  [EFFECT, 1_000_000],
  [EFFECTION, 10_000],
  [BARE_ABORT, 1_000_000],
];

/** The rows, for a machine with these tools. */
class Rows {
  readonly #python: string;
  readonly #quick: boolean;

  constructor({ python }: Tools, quick: boolean) {
    this.#python = python;
    this.#quick = quick;
  }

  /** The command that starts a program in `peers/`, with the permissions that it needs. */
  #program(file: string, ...options: string[]): string[] {
    const path = `bench/peers/${file}`;
    if (file.endsWith(".py")) return [this.#python, path];
    return [Deno.execPath(), "run", "-q", "-P=local-net", ...options, path];
  }

  #size(count: number): number {
    return this.#quick ? count / 10 : count;
  }

  works([name, title, size, peers, options]: Works): Row {
    const count = this.#size(size);
    return {
      name,
      title,
      count,
      amount: "ms",
      mode: "rounds",
      peers: peers.map(([{ who, name: title, file, ending = "" }, ratio]) => ({
        who,
        name: title,
        command: [...this.#program(file), name + ending, `${count}`],
        ...ratio && { ratio },
      })),
      ...options,
    };
  }

  /** Servers that many clients talk to. */
  clients(
    name: string,
    title: string,
    size: number,
    clients: number,
    peers: [Source, Ratio?][],
    protocol: string = name,
  ): Row {
    const count = this.#size(size);
    const command = [
      ...this.#program("clients.py"),
      protocol,
      `${count}`,
      `${clients}`,
    ];
    return {
      name,
      title,
      count,
      amount: "ms",
      mode: "rounds",
      hasClients: true,
      peers: peers.map(([{ who, name, file }, ratio]) => ({
        who,
        name,
        command,
        server: this.#program(file),
        ...ratio && { ratio },
      })),
    };
  }

  /** Servers that compute, on two processes that share a port, and on one. */
  processes(): Row {
    const row = this.clients(
      "processes",
      "HTTP request that computes for 5 ms, 250 clients",
      1_000,
      250,
      [],
      "http",
    );
    const command = [
      ...this.#program("clients.py"),
      "http",
      `${row.count}`,
      "250",
    ];
    const server = (count: number) => [
      Deno.execPath(),
      "run",
      "-q",
      "--unstable-net",
      "--allow-net=127.0.0.1",
      "--allow-run",
      "--allow-env",
      "bench/peers/http_processes.ts",
      `${count}`,
    ];
    const peer = (name: string, count: number): Peer => ({
      who: "ours",
      name,
      command,
      server: server(count),
    });
    return {
      ...row,
      peers: [
        peer("HttpServer, two processes", 2),
        { ...peer("HttpServer, one process", 1), ratio: atLeast(1.8) },
      ],
    };
  }

  /** Clients that one server has pages for. */
  fetches(...works: Works): Row {
    return { ...this.works(works), server: this.#program("pages.ts") };
  }

  /** Calls of a function on another core. */
  calls(): Row {
    const count = this.#size(10_000);
    const peer = (who: Who, name: string, file: string, work = "calls") => ({
      who,
      name,
      command: [
        Deno.execPath(),
        "run",
        "-q",
        "--allow-read",
        "--allow-run",
        "--allow-env",
        `bench/peers/${file}`,
        work,
        `${count}`,
      ],
    });
    return {
      name: "calls",
      title: "call of a function in a worker, and its answer",
      count,
      amount: "ms",
      mode: "rounds",
      peers: [
        peer("ours", "ThreadPool, a thread", "calls_ours.ts"),
        {
          ...peer(
            "ours",
            "ThreadPool, a process",
            "calls_ours.ts",
            "calls-process",
          ),
          ratio: FASTER,
        },
        {
          ...peer("bare", "postMessage", "calls_bare.ts"),
          ratio: atMost(1.25),
        },
      ],
    };
  }

  imports(): Row {
    const python = (code: string) => [this.#python, "-c", code];
    const deno = (file: string) => this.#program(`import_${file}.ts`);
    return {
      name: "import",
      title: "program that imports the library and ends",
      count: 1,
      amount: "ms",
      mode: "start",
      launches: 1,
      rounds: this.#quick ? 3 : 20,
      peers: [
        { who: "ours", name: OURS.name, command: deno("ours") },
        {
          who: "gevent",
          name: GEVENT.name,
          command: python("import gevent"),
          ratio: FASTER,
        },
        {
          who: "gevent",
          name: "an empty program in Python",
          command: python(""),
        },
        {
          who: "effect",
          name: EFFECT.name,
          command: deno("effect"),
          ratio: FASTER,
        },
        {
          who: "effection",
          name: EFFECTION.name,
          command: deno("effection"),
          ratio: FASTER,
        },
        {
          who: "bare",
          name: "an empty module",
          command: deno("nothing"),
          ratio: SLOWER,
        },
      ],
    };
  }

  /** The cost of a life: to be spawned, fall asleep, be killed and end. */
  growth({ who, name, file, ending = "" }: Source, most: number): Row {
    const numbers = this.#numbers(most);
    // All are compared to 10,000, which therefore come first.
    numbers.sort((a, b) => Number(b === 10_000) - Number(a === 10_000));
    return {
      name: `growth-${who}${ending}`,
      title: `life of one of so many sleepers, ${name}`,
      count: 10_000,
      amount: "ms",
      mode: "rounds",
      launches: this.#quick ? 1 : 2,
      peers: numbers.map((number) => {
        const count = Math.max(number, this.#size(100_000) / 5);
        const works = [`lives${ending}`, `${count}`, `${number}`];
        const ratio: Ratio = { of: "growth" };
        if (who === "ours" && number === 1_000_000) ratio.aim = 1.5;
        return {
          who,
          name: number.toLocaleString("en"),
          count,
          command: [...this.#program(file), ...works],
          ...number !== 10_000 && { ratio },
        };
      }),
    };
  }

  memory(number: number): Row {
    const peers: Peer[] = [];
    for (const [{ who, name, file, ending = "" }, most] of GROWING) {
      if (number > most) continue;
      // Garbage does not count for a greenlet.
      const program = this.#program(file, "--v8-flags=--expose-gc");
      peers.push({
        who,
        name,
        command: [...program, `memory${ending}`, `${number}`],
        ...who !== "ours" && { ratio: { of: "memory" } },
        ...who === "ours" && number === 100_000 && { aim: 1024 },
      });
    }
    return {
      name: `memory-${number}`,
      title: `memory of one of ${number.toLocaleString("en")} sleepers`,
      count: number,
      amount: "bytes",
      mode: "fresh",
      launches: 1,
      rounds: number === 1_000_000 ? 1 : 2,
      peers,
    };
  }

  #numbers(most: number): number[] {
    const bound = this.#quick ? 10_000 : most;
    return NUMBERS.filter((number) => number <= bound);
  }

  all(): Row[] {
    return [
      ...[...WORKS, ...WATCHED].map((works) => this.works(works)),
      this.clients("echo", "message of 500 TCP clients, echoed", 40_000, 500, [
        [{ ...OURS, name: "@gevent/gevent, patched", file: "echo_patched.ts" }],
        [{ ...GEVENT, file: "echo_gevent.py" }, atLeast(1.4)],
        [{ ...BARE, name: "plain Deno", file: "echo_plain.ts" }, atLeast(0.93)],
      ]),
      this.clients("http", "HTTP request, 100 clients", 20_000, 100, [
        [{
          ...OURS,
          name: "@gevent/gevent, a greenlet each",
          file: "http_greenlet.ts",
        }],
        [{ ...GEVENT, file: "http_gevent.py" }, FASTER],
        [{ ...BARE, name: "plain Deno", file: "http_plain.ts" }, SLOWER],
      ]),
      this.clients(
        "stream-server",
        "message of 500 TCP clients, echoed by a StreamServer",
        40_000,
        500,
        [
          [{ ...OURS, name: "@gevent/gevent", file: "echo_server.ts" }],
          [{ ...GEVENT, file: "echo_gevent.py" }, atLeast(1.4)],
          [
            { ...BARE, name: "plain Deno", file: "echo_plain.ts" },
            atLeast(0.95),
          ],
        ],
        "echo",
      ),
      this.clients(
        "http-server",
        "HTTP request, 100 clients of an HttpServer",
        20_000,
        100,
        [
          [{ ...OURS, name: "@gevent/gevent", file: "http_server.ts" }],
          [{ ...GEVENT, file: "http_gevent.py" }, atLeast(5)],
          [
            { ...BARE, name: "plain Deno", file: "http_plain.ts" },
            atLeast(0.95),
          ],
        ],
        "http",
      ),
      this.processes(),
      this.fetches("fetch", "fetch of a short page, 100 at once", 5_000, [
        [{
          ...OURS,
          name: "@gevent/gevent, patched",
          file: "fetch_patched.ts",
        }],
        [{ ...GEVENT, file: "fetch_gevent.py" }, FASTER],
        [{ ...BARE, name: "plain Deno", file: "fetch_plain.ts" }, SLOWER],
        [{
          ...BARE,
          name: "plain Deno, an AbortController each",
          file: "fetch_abortable.ts",
        }, SLOWER],
      ]),
      this.fetches("crawl", "page of a crawl, Pool(100) and fetch", 1_000, [
        [{
          ...OURS,
          name: "@gevent/gevent, patched",
          file: "fetch_patched.ts",
        }],
        [{ ...GEVENT, file: "fetch_gevent.py" }, FASTER],
        [{ ...EFFECT, file: "fetch_effect.ts" }, FASTER],
        [{ ...P_LIMIT, file: "fetch_p_limit.ts" }, FASTER],
        [{ ...BARE, name: "plain Deno", file: "fetch_plain.ts" }, SLOWER],
      ]),
      this.calls(),
      this.imports(),
      ...GROWING.map(([source, most]) => this.growth(source, most)),
      ...this.#numbers(1_000_000).map((number) => this.memory(number)),
    ];
  }
}

/**
 * All rows.
 *
 * @param tools What was found.
 * @param quick True if the sizes are those for trying things out.
 */
export function makeRows(tools: Tools, quick: boolean): Row[] {
  return new Rows(tools, quick).all();
}
