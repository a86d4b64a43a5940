/**
 * Prints the results as tables.
 *
 * @module
 */

import {
  type Amount,
  isReached,
  type PeerResult,
  type RatioResult,
  type RowResult,
  type Spread,
} from "./_results.ts";

const WORDS: Record<RatioResult["of"], [string, string]> = {
  speed: ["× as fast", "at least"],
  time: ["× its time", "at most"],
  memory: ["× its memory", "at most"],
  growth: ["× the cost at 10,000", "at most"],
};

/**
 * Prints a row as a table.
 *
 * @param row The row.
 */
export function printRow({ name, title, amount, peers }: RowResult): void {
  const counts = new Set(peers.map(({ count }) => count));
  const size = counts.size > 1
    ? ""
    : `, ${peers[0]!.count.toLocaleString("en")} in a round`;
  console.log(`\n${name}: ${title}${size}`);
  for (const peer of peers) {
    for (const line of linesOf(amount, peer)) {
      console.log(`  ${line.join("  ").trimEnd()}`);
    }
  }
}

function linesOf(amount: Amount, peer: PeerResult): string[][] {
  const { name, each, rounds, ratio, missing, error, aim } = peer;
  const title = name.padEnd(42);
  if (missing !== undefined) return [[title, `missing: ${missing}`]];
  const lines: string[][] = [];
  const cost = each[amount];
  if (cost !== undefined) {
    const show = amount === "bytes" ? size : duration;
    const line = [title, summary(cost, rounds, show).padEnd(32)];
    if (ratio !== undefined) line.push(comparison(ratio, rounds));
    if (aim !== undefined) {
      const verdict = cost.median <= aim ? "reached" : "MISSED";
      line.push(`aim: at most ${show(aim)}: ${verdict}`);
    }
    lines.push([...line, besides(amount, peer)]);
  }
  if (error !== undefined) lines.push([title, `FAILED: ${error}`]);
  return lines;
}

/** The values that are measured in addition. */
function besides(amount: Amount, { each, busy }: PeerResult): string {
  const parts: string[] = [];
  if (amount === "ms" && each.cpu !== undefined) {
    parts.push(`processor ${duration(each.cpu.median)}`);
  }
  if (busy !== undefined) {
    parts.push(`other side ${Math.round(busy.median * 100)} % busy`);
  }
  if (each.heap !== undefined) {
    parts.push(`objects ${size(each.heap.median)}`);
  }
  return parts.length === 0 ? "" : `[${parts.join(", ")}]`;
}

function comparison(ratio: RatioResult, rounds: number): string {
  const { of, aim } = ratio;
  const [words, bound] = WORDS[of];
  const text = `${summary(ratio, rounds, multiple)} ${words}`;
  if (aim === undefined) return text;
  const verdict = isReached(ratio) ? "reached" : "MISSED";
  return `${text}, aim: ${bound} ${aim}: ${verdict}`;
}

/** The median, the least and the greatest value. */
function summary(
  { median, least, most }: Spread,
  rounds: number,
  show: (value: number) => string,
): string {
  const middle = show(median);
  return rounds === 1 ? middle : `${middle} (${show(least)} – ${show(most)})`;
}

function multiple(ratio: number): string {
  return ratio < 10 ? ratio.toPrecision(2) : ratio.toFixed(0);
}

function size(bytes: number): string {
  return `${(bytes / 1024).toPrecision(3)} KB`;
}

function duration(ms: number): string {
  if (ms >= 1) return `${ms.toPrecision(3)} ms`;
  if (ms >= 1e-3) return `${(ms * 1e3).toPrecision(3)} µs`;
  return `${(ms * 1e6).toPrecision(3)} ns`;
}
