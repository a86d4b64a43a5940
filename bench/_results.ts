/**
 * The result of a run of the measurements: the contents of `results.json`.
 *
 * @module
 */

import type { Who } from "./_rows.ts";

/** The results of a run, with the machine and the versions. */
export interface Results {
  /** When it began, in UTC. */
  date: string;
  /** Whether the sizes were the small ones of `--quick`. */
  quick: boolean;
  repeats: Repeats;
  machine: Machine;
  /** The versions of the tools that were found. */
  versions: Record<string, string>;
  /** The tools that were missing, and how to install them. */
  missing: Record<string, string>;
  rows: RowResult[];
}

/** How often a row is measured, unless the row says otherwise or a peer is slow. */
export interface Repeats {
  /** The number of starts of each process. */
  launches: number;
  /** How long each peer does rounds that don't count, in milliseconds. */
  warmUp: number;
  /** The number of rounds that count, for each start. */
  rounds: number;
}

/** The machine that it ran on. */
export interface Machine {
  cpu: string;
  cores: number;
  /** Bytes. */
  memory: number;
  os: string;
  /** The load before the run, as an average of a minute. */
  load: number;
}

/**
 * The amount that is measured: milliseconds by the clock, milliseconds of all processors,
 * or bytes of memory.
 */
export type Amount = "ms" | "cpu" | "bytes" | "heap";

/** The results of a row: the cost of the same work for each peer. */
export interface RowResult {
  name: string;
  title: string;
  amount: Amount;
  /** The others are compared to the first. */
  peers: PeerResult[];
}

/** The median of several values, the least and the greatest. */
export interface Spread {
  median: number;
  least: number;
  most: number;
}

/** The measurements of one peer for a work. */
export interface PeerResult {
  who: Who;
  name: string;
  /** How many operations make a round. */
  count: number;
  /** Why there are no rounds: the tool to install. */
  missing?: string;
  /** Why there are no more rounds. */
  error?: string;
  /** How many rounds count. */
  rounds: number;
  /** The cost of one operation, in each amount that was measured. */
  each: Partial<Record<Amount, Spread>>;
  /** The share of the time in which the other process was busy: clients, or a server. */
  busy?: Spread;
  ratio?: RatioResult;
  /** The greatest median for one operation that reaches the aim. */
  aim?: number;
}

/** The measurements of a round. */
export interface Sample {
  /** Which start of the processes it belongs to, and which round in that, from 0. */
  launch: number;
  round: number;
  /** Milliseconds by the clock. */
  ms?: number;
  /** Milliseconds of all processors: of the server, where there is one under test. */
  cpu?: number;
  /** The growth of the memory of the process, as the system counts it, in bytes. */
  bytes?: number;
  /** The part of it that objects use, if the runtime tells. */
  heap?: number;
  /** The share of the time in which the other process was busy: clients, or a server. */
  busy?: number;
}

/** The rounds of a peer, each of `count` operations. */
export interface Rounds {
  readonly count: number;
  readonly samples: readonly Sample[];
}

/**
 * How the first peer of a row compares to this one.
 *
 * - `speed`: how many times as fast it is
 * - `time`, `memory`: how many times as much it takes
 * - `growth`: how many times as much this one takes, of the same at another size
 */
export interface Ratio {
  of: "speed" | "time" | "memory" | "growth";
  /** The aim: the least value for `speed`, the greatest for the others. */
  aim?: number;
}

/** A ratio of rounds that followed each other, as the load of the machine was the same then. */
export interface RatioResult extends Ratio, Spread {}

/** Sums up the rounds of a peer. */
export function summarize(
  { count, samples }: Rounds,
): Pick<PeerResult, "rounds" | "each" | "busy"> {
  const each: PeerResult["each"] = {};
  for (const amount of ["ms", "cpu", "bytes", "heap"] as const) {
    const values = samples.flatMap((sample) => sample[amount] ?? []);
    if (values.length === 0) continue;
    each[amount] = spread(values.map((value) => value / count));
  }
  const busy = samples.flatMap((sample) => sample.busy ?? []);
  return {
    rounds: samples.length,
    each,
    ...busy.length > 0 && { busy: spread(busy) },
  };
}

/**
 * Compares the first peer of a row to another.
 *
 * @param amount The amount that the row measures.
 * @param base The rounds of the first peer.
 * @param peer The rounds of the other.
 * @param ratio The kind of ratio, and its aim.
 * @returns The ratio; `null` if the two have no rounds in the same turns.
 */
export function compare(
  amount: Amount,
  base: Rounds,
  peer: Rounds,
  ratio: Ratio,
): RatioResult | null {
  const values: number[] = [];
  for (const sample of peer.samples) {
    const neighbour = base.samples.find(({ launch, round }) =>
      launch === sample.launch && round === sample.round
    );
    if (neighbour === undefined) continue;
    const its = sample[amount]! / peer.count;
    const own = neighbour[amount]! / base.count;
    const isInverse = ratio.of === "speed" || ratio.of === "growth";
    values.push(isInverse ? its / own : own / its);
  }
  return values.length === 0 ? null : { ...ratio, ...spread(values) };
}

/** Tells whether a ratio reaches its aim; `null` if there is none. */
export function isReached({ of, aim, median }: RatioResult): boolean | null {
  if (aim === undefined) return null;
  return of === "speed" ? median >= aim : median <= aim;
}

function spread(values: number[]): Spread {
  return {
    median: median(values),
    least: Math.min(...values),
    most: Math.max(...values),
  };
}

/** The value in the middle, or the mean of the two in the middle. */
function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? sorted[middle]!
    : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
