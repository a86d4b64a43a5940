/**
 * Measures a row: its peers take turns, A B C A B C, one round each.
 *
 * @module
 */

import { type Answer, Process } from "./_process.ts";
import {
  type Amount,
  compare,
  type PeerResult,
  type Repeats,
  type RowResult,
  type Sample,
  summarize,
} from "./_results.ts";
import type { Peer, Row } from "./_rows.ts";
import type { Tools } from "./_tools.ts";

/** A peer whose rounds take more milliseconds than this does one round for each start. */
const SLOW = 2_000;

/** A peer whose rounds take more milliseconds than this does one round in all. */
const TOO_SLOW = 15_000;

/** Does the rounds of a peer. */
interface Runner extends AsyncDisposable {
  round(): Promise<Answer>;
}

/** Does all rounds in one process. */
class LivingRunner extends Process implements Runner {
  round(): Promise<Answer> {
    return this.ask();
  }
}

/** Measures a server: the processor time that it takes for the requests of its clients. */
class ClientsRunner extends Process implements Runner {
  readonly #server: Process;

  constructor(command: string[], server: Process) {
    super(command);
    this.#server = server;
  }

  async round(): Promise<Answer> {
    const { cpu: before } = await this.#server.ask();
    const answer = await this.ask();
    const { cpu: after } = await this.#server.ask();
    return { ...answer, cpu: after! - before! };
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    await this.#server[Symbol.asyncDispose]();
  }
}

/** Measures a client. Also notes how busy its server is, which must not slow it down. */
class ServedRunner extends Process implements Runner {
  readonly #server: Process;

  constructor(command: string[], server: Process) {
    super(command);
    this.#server = server;
  }

  async round(): Promise<Answer> {
    const { cpu: before } = await this.#server.ask();
    const answer = await this.ask();
    const { cpu: after } = await this.#server.ask();
    return { ...answer, busy: (after! - before!) / answer.ms! };
  }
}

/** Starts a new process for each round. */
class FreshRunner implements Runner {
  readonly #command: string[];

  constructor(command: string[]) {
    this.#command = command;
  }

  async round(): Promise<Answer> {
    await using process = new Process(this.#command);
    return await process.ask();
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Measures a process from its start to its end. */
class StartRunner implements Runner {
  readonly #program: string;
  readonly #args: string[];

  constructor([program, ...args]: string[]) {
    this.#program = program!;
    this.#args = args;
  }

  async round(): Promise<Answer> {
    const command = new Deno.Command(this.#program, { args: this.#args });
    const start = performance.now();
    const { success, stderr } = await command.output();
    const ms = performance.now() - start;
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    return { ms };
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** The server that all peers of a row talk to. */
interface Shared {
  server: Process;
  port: string;
}

async function startRunner(
  { mode }: Row,
  { command, server }: Peer,
  shared: Shared | null,
): Promise<Runner> {
  if (mode === "fresh") return new FreshRunner(command);
  if (mode === "start") return new StartRunner(command);
  if (shared !== null) {
    return new ServedRunner([...command, shared.port], shared.server);
  }
  if (server === undefined) return new LivingRunner(command);
  const tested = new Process(server);
  return new ClientsRunner([...command, await tested.readLine()], tested);
}

/** A peer, the rounds that it has done, and the process for the next ones. */
interface Turn {
  readonly peer: Peer;
  /** How many operations make a round. */
  readonly count: number;
  readonly samples: Sample[];
  missing?: string;
  error?: string;
  /** The process that does its rounds now. */
  runner: Runner | null;
  /** Whether it does no more rounds. */
  isOver: boolean;
}

/**
 * Measures a row.
 *
 * @param row The row.
 * @param repeats The numbers of starts and rounds, unless the row has its own.
 * @param missing The tools that its peers need and that are not installed.
 */
export async function measure(
  row: Row,
  repeats: Repeats,
  missing: Tools["missing"],
): Promise<RowResult> {
  const { name, title, amount, launches = repeats.launches } = row;
  const turns = row.peers.map((peer) => newTurn(row, peer, missing));
  for (let launch = 0; launch < launches; launch++) {
    await using stack = new AsyncDisposableStack();
    await start(row, turns, stack);
    if (row.mode !== "fresh") {
      await warmUp(turns, launch, row.mode === "start" ? 0 : repeats.warmUp);
    }
    const { rounds = repeats.rounds } = row;
    for (let round = 0; round < rounds; round++) {
      for (const turn of turns) await takeTurn(turn, launch, round);
    }
  }
  const [base] = turns;
  const peers = turns.map((turn) => resultOf(amount, base!, turn));
  return { name, title, amount, peers };
}

function newTurn(
  { count, hasClients }: Row,
  peer: Peer,
  missing: Tools["missing"],
): Turn {
  const reason = missing[peer.who] ??
    (hasClients ? missing.python : undefined);
  return {
    peer,
    count: peer.count ?? count,
    samples: [],
    ...reason !== undefined && { missing: reason },
    runner: null,
    isOver: reason !== undefined,
  };
}

function resultOf(amount: Amount, base: Turn, turn: Turn): PeerResult {
  const { peer, count, missing, error } = turn;
  const { who, name, aim } = peer;
  const ratio = peer.ratio === undefined
    ? null
    : compare(amount, base, turn, peer.ratio);
  return {
    who,
    name,
    count,
    ...summarize(turn),
    ...aim !== undefined && { aim },
    ...missing !== undefined && { missing },
    ...error !== undefined && { error },
    ...ratio !== null && { ratio },
  };
}

/** Starts all peers of a row. */
async function start(
  row: Row,
  turns: Turn[],
  stack: AsyncDisposableStack,
): Promise<void> {
  let shared: Shared | null = null;
  if (row.server !== undefined) {
    const server = stack.use(new Process(row.server));
    shared = { server, port: await server.readLine() };
  }
  for (const turn of turns) {
    turn.runner = null;
    if (turn.isOver) continue;
    await attempt(turn, async () => {
      turn.runner = stack.use(await startRunner(row, turn.peer, shared));
    });
  }
}

/**
 * Lets each peer do rounds that don't count, for `ms` milliseconds. A round of more than `SLOW`
 * milliseconds counts, and is the only one of this start.
 */
async function warmUp(
  turns: Turn[],
  launch: number,
  ms: number,
): Promise<void> {
  for (const turn of turns) {
    const begin = performance.now();
    for (let before = begin; turn.runner !== null;) {
      const { runner } = turn;
      await attempt(turn, async () => {
        const answer = await runner.round();
        const now = performance.now();
        if (now - before > SLOW) {
          turn.samples.push({ launch, round: 0, ...answer });
          turn.runner = null;
          if (now - before > TOO_SLOW) turn.isOver = true;
        }
        before = now;
      });
      if (performance.now() - begin >= ms) break;
    }
  }
}

async function takeTurn(
  turn: Turn,
  launch: number,
  round: number,
): Promise<void> {
  const { runner } = turn;
  if (runner === null) return;
  await attempt(turn, async () => {
    const answer = await runner.round();
    turn.samples.push({ launch, round, ...answer });
  });
}

/** Calls a function for a peer. If it fails, the peer does no more rounds. */
async function attempt(
  turn: Turn,
  step: () => Promise<void>,
): Promise<void> {
  try {
    await step();
  } catch (error) {
    turn.runner = null;
    turn.isOver = true;
    turn.error = error instanceof Error ? error.message : String(error);
  }
}
