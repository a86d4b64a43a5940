/**
 * What a run of the measurements gives: the contents of `results.json`.
 *
 * @module
 */

import type { Who } from "./_rows.ts";

/** All that a run has measured, and on what. */
export interface Results {
  /** When it began, in UTC. */
  date: string;
  /** Whether the sizes were those for trying things out. */
  quick: boolean;
  repeats: Repeats;
  machine: Machine;
  /** The version of everything that took part; what is missing is left out. */
  versions: Record<string, string>;
  /** What was missing, and how to install it. */
  missing: Record<string, string>;
  rows: RowResult[];
}

/** How each row is measured, unless it is told otherwise or slow. */
export interface Repeats {
  /** How often the processes are started anew. */
  launches: number;
  /** For how many milliseconds each does rounds that don't count. */
  warmUp: number;
  /** How many rounds count, of each start. */
  rounds: number;
}

/** What it ran on. */
export interface Machine {
  cpu: string;
  cores: number;
  /** Bytes. */
  memory: number;
  os: string;
  /** How many wanted a processor before the run, on an average of a minute. */
  load: number;
}

/**
 * What is measured: milliseconds by the clock, milliseconds of all processors, or
 * bytes of memory.
 */
export type Amount = "ms" | "cpu" | "bytes" | "heap";

/** A work, and what each peer has taken for it. */
export interface RowResult {
  name: string;
  title: string;
  amount: Amount;
  /** The first is what the others are compared to. */
  peers: PeerResult[];
}

/** What one peer has taken for a work. */
export interface PeerResult {
  who: Who;
  name: string;
  /** How many operations make a round. */
  count: number;
  /** Why there are no samples, or no more. */
  missing?: string;
  error?: string;
  /** Each round that counts. */
  samples: Sample[];
  ratio?: RatioResult;
  /** What the median for one operation is to be, at most. */
  aim?: number;
}

/** What a round has taken. */
export interface Sample {
  /** Which start of the processes it belongs to, and which round in that, from 0. */
  launch: number;
  round: number;
  /** Milliseconds by the clock. */
  ms?: number;
  /** Milliseconds of all processors: of the server, where there is one under test. */
  cpu?: number;
  /** By how much the memory has grown, as the system sees it. */
  bytes?: number;
  /** How much of it is used by objects, where that is known. */
  heap?: number;
  /** How much of the time the other side has run: clients, or the server of the pages. */
  busy?: number;
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
  /** What is to be reached: at least that speed, or at most that of the others. */
  aim?: number;
}

/** A ratio, formed in each turn, as neighbours in time had the same machine. */
export interface RatioResult extends Ratio {
  values: number[];
}

/**
 * What a row is about, for each operation of each sample.
 *
 * @param amount What the row measures.
 * @param peer The peer.
 */
export function amounts(amount: Amount, peer: PeerResult): number[] {
  return peer.samples.map((sample) => (sample[amount] ?? NaN) / peer.count);
}

/**
 * Compares the first peer of a row to another.
 *
 * @param amount What the row measures.
 * @param base The first peer.
 * @param peer The other.
 * @param ratio What to tell.
 */
export function compare(
  amount: Amount,
  base: PeerResult,
  peer: PeerResult,
  ratio: Ratio,
): RatioResult {
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
  return { ...ratio, values };
}

/** Whether a ratio is what it is to be; `null` if there is no aim. */
export function isReached({ of, aim, values }: RatioResult): boolean | null {
  if (aim === undefined || values.length === 0) return null;
  const found = median(values);
  return of === "speed" ? found >= aim : found <= aim;
}

/** The one in the middle, or the mean of the two. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? sorted[middle]!
    : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
