/**
 * Measures a row: its peers take turns, A B C A B C, one round each.
 *
 * @module
 */

import { type Answer, Process } from "./_process.ts";
import {
  compare,
  type PeerResult,
  type Repeats,
  type RowResult,
} from "./_results.ts";
import type { Peer, Row } from "./_rows.ts";
import type { Tools } from "./_tools.ts";

/** Whoever takes longer for a round, in milliseconds, does one of each start. */
const SLOW = 2_000;

/** Whoever takes longer than this does one and no more. */
const TOO_SLOW = 15_000;

/** One who does rounds, in whatever process. */
interface Runner extends AsyncDisposable {
  round(): Promise<Answer>;
}

/** A process that lives on. */
class LivingRunner extends Process implements Runner {
  round(): Promise<Answer> {
    return this.ask();
  }
}

/** Clients, and the server that is measured by them. */
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

/** A client that is measured, and its server, that is to have time to spare. */
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

/** A new process for each round. */
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

/** A process that is measured from its start to its end. */
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

/** What a peer has to do, and has done. */
interface Turn {
  readonly peer: Peer;
  readonly result: PeerResult;
  /** What does its rounds now. */
  runner: Runner | null;
  /** Whether it does no more rounds at all. */
  isOver: boolean;
}

/**
 * Measures a row.
 *
 * @param row The row.
 * @param repeats How often, if the row doesn't say.
 * @param missing What its peers may need, and is not there.
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
  for (const { peer, result } of turns) {
    if (peer.ratio === undefined || result.samples.length === 0) continue;
    result.ratio = compare(amount, base!.result, result, peer.ratio);
  }
  return { name, title, amount, peers: turns.map(({ result }) => result) };
}

function newTurn(
  { count, hasClients }: Row,
  peer: Peer,
  missing: Tools["missing"],
): Turn {
  const { who, name, aim } = peer;
  const reason = missing[who] ?? (hasClients ? missing.python : undefined);
  const result: PeerResult = {
    who,
    name,
    count: peer.count ?? count,
    samples: [],
    ...aim !== undefined && { aim },
    ...reason !== undefined && { missing: reason },
  };
  return { peer, result, runner: null, isOver: reason !== undefined };
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

/** Has each do rounds for a while, unless one is so long that it warms up itself. */
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
          turn.result.samples.push({ launch, round: 0, ...answer });
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
    turn.result.samples.push({ launch, round, ...answer });
  });
}

/** Does something for a peer; if that fails, it is the end of its turns. */
async function attempt(
  turn: Turn,
  step: () => Promise<void>,
): Promise<void> {
  try {
    await step();
  } catch (error) {
    turn.runner = null;
    turn.isOver = true;
    turn.result.error = error instanceof Error ? error.message : String(error);
  }
}
