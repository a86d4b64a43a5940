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

/** A work that several peers do in the same way. */
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
  /** The numbers of starts and of rounds, if not those of {@linkcode Repeats}. */
  launches?: number;
  rounds?: number;
  /** Whether it needs the clients, which are in Python. */
  hasClients?: boolean;
  /** The command of a server for all peers. Its port is added to their arguments. */
  server?: string[];
  /** The others are compared to the first. */
  peers: Peer[];
}

/** A peer that does a work. */
export interface Peer {
  who: Who;
  name: string;
  /** Starts a process that does a round for each line of its input. */
  command: string[];
  /**
   * The command of the server that is measured, if `command` starts its clients. Its port is
   * added to their arguments.
   */
  server?: string[];
  /** How many operations make a round, if not as in the row. */
  count?: number;
  ratio?: Ratio;
  /** The greatest median for one operation that reaches the aim. */
  aim?: number;
}

/** A file in `peers/`, and the ending that its names of works have. */
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

/** The hand-off alone, without `select`. */
const HAND_OFF: Source = {
  who: "ours",
  name: "@gevent/gevent, hand-off through a Queue(1)",
  file: "ours.ts",
  ending: "-queue",
};

/** The same work in a process that has never had a monitor or a trace. */
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

/** Tasks that can be stopped, as greenlets can. */
const BARE_ABORT: Source = {
  ...BARE,
  name: "the bare language, an AbortController each",
};

/** How many times as fast as a peer this library is. */
const FASTER: Ratio = { of: "speed" };

/** How many times as long as the bare language this library takes. */
const SLOWER: Ratio = { of: "time" };

function atLeast(aim: number): Ratio {
  return { of: "speed", aim };
}

function atMost(aim: number): Ratio {
  return { of: "time", aim };
}

/** A row in which the work has the same name in the files of all peers. */
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
    [GREENLET, atLeast(5)],
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
    [GEVENT, atLeast(1)],
    [BARE, SLOWER],
  ]],
  ["limit", "call under a time limit", 100_000, [
    [OURS],
    [GEVENT, atLeast(1)],
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

/** The cost of a monitor while it is on, and of a trace that is off again. */
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

/** The numbers of sleepers for which the cost of one is measured. */
const NUMBERS = [1_000, 10_000, 100_000, 1_000_000];

/** The peers for these numbers, and the greatest that takes each at most 10 s. */
const GROWING: [Source, number][] = [
  [OURS, 1_000_000],
  [GENERATORS, 1_000_000],
  [GEVENT, 100_000],
  [EFFECT, 1_000_000],
  [EFFECTION, 10_000],
  [BARE_ABORT, 1_000_000],
];

/** Makes the rows, with commands for the tools that were found. */
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

  /** A row that measures servers with many clients. */
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

  /**
   * A row that compares a server of two processes, which share a port, to one process. A round
   * takes less than 2 s: otherwise the first one would count, in which two processes compile.
   */
  processes(): Row {
    const row = this.clients(
      "processes",
      "HTTP request that computes for 5 ms, 40 clients",
      360,
      40,
      [],
      "http",
    );
    const command = [
      ...this.#program("clients.py"),
      "http",
      `${row.count}`,
      "40",
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

  /** A row that measures clients of one server. */
  fetches(...works: Works): Row {
    return { ...this.works(works), server: this.#program("pages.ts") };
  }

  /** A row that measures calls of a function on another core. */
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

  /** A row that measures a whole life: to be spawned, fall asleep, be killed and end. */
  growth({ who, name, file, ending = "" }: Source, most: number): Row {
    const numbers = this.#numbers(most);
    // The others are compared to 10,000, so it comes first.
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
      // The peer collects garbage before it measures, so that only live objects count.
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
        [{ ...BARE, name: "plain Deno", file: "echo_plain.ts" }, atLeast(0.95)],
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
        [
          { ...BARE, name: "plain Deno", file: "fetch_plain.ts" },
          atLeast(0.95),
        ],
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
 * Makes all rows.
 *
 * @param tools The tools that were found.
 * @param quick Whether to use a tenth of the sizes.
 */
export function makeRows(tools: Tools, quick: boolean): Row[] {
  return new Rows(tools, quick).all();
}
