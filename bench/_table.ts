/**
 * Prints what was measured.
 *
 * @module
 */

import {
  type Amount,
  amounts,
  isReached,
  median,
  type PeerResult,
  type RatioResult,
  type RowResult,
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
  const { name, samples, ratio, missing, error, aim } = peer;
  const title = name.padEnd(42);
  if (missing !== undefined) return [[title, `missing: ${missing}`]];
  const lines: string[][] = [];
  if (samples.length > 0) {
    const show = amount === "bytes" ? size : duration;
    const each = amounts(amount, peer);
    const line = [title, summary(each, show).padEnd(32)];
    if (ratio !== undefined) line.push(comparison(ratio));
    if (aim !== undefined) {
      const verdict = median(each) <= aim ? "reached" : "MISSED";
      line.push(`aim: at most ${show(aim)}: ${verdict}`);
    }
    lines.push([...line, besides(amount, peer)]);
  }
  if (error !== undefined) lines.push([title, `FAILED: ${error}`]);
  return lines;
}

/** What is measured by the way. */
function besides(amount: Amount, peer: PeerResult): string {
  const { samples } = peer;
  const parts: string[] = [];
  const busy = samples.map((sample) => sample.busy);
  if (amount === "ms" && samples[0]!.cpu !== undefined) {
    const cpu = median(amounts("cpu", peer));
    parts.push(`processor ${duration(cpu)}`);
  }
  if (busy[0] !== undefined) {
    parts.push(
      `other side ${Math.round(median(busy as number[]) * 100)} % busy`,
    );
  }
  if (samples[0]!.heap !== undefined) {
    parts.push(`objects ${size(median(amounts("heap", peer)))}`);
  }
  return parts.length === 0 ? "" : `[${parts.join(", ")}]`;
}

function comparison(ratio: RatioResult): string {
  const { of, aim, values } = ratio;
  if (values.length === 0) return "";
  const [words, bound] = WORDS[of];
  const text = `${summary(values, multiple)} ${words}`;
  if (aim === undefined) return text;
  const verdict = isReached(ratio) ? "reached" : "MISSED";
  return `${text}, aim: ${bound} ${aim}: ${verdict}`;
}

/** The median, and the least and the most. */
function summary(values: number[], show: (value: number) => string): string {
  const least = show(Math.min(...values));
  const most = show(Math.max(...values));
  const middle = show(median(values));
  return values.length === 1 ? middle : `${middle} (${least} – ${most})`;
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
