/**
 * Measures this library against the bare language and, with `--peers`, against greenlet,
 * gevent and packages from npm. Prints a table, and writes `bench/results.json`.
 *
 * ```sh
 * deno task bench
 * deno task bench:peers
 * deno task bench:peers --quick queue kill
 * ```
 *
 * `bench/README.md` says how it measures, and what the numbers don't say.
 *
 * @module
 */

import os from "node:os";
import { parseArgs } from "node:util";
import { measure } from "./_measure.ts";
import type { Machine, Repeats, Results, RowResult } from "./_results.ts";
import { makeRows, type Row } from "./_rows.ts";
import { printRow } from "./_table.ts";
import { findTools } from "./_tools.ts";

const USAGE = `deno task bench [options] [rows]
deno task bench:peers [options] [rows]

Measures the rows that are named, or all. "map" means map and map-waiting.

  --list        prints the names of the rows, and ends
  --quick       a tenth of the work, in few rounds: to see whether it runs
  --launches=N  how often the processes of a row are started anew
  --rounds=N    how many rounds of each start count
  --out=FILE    where in bench/ the results go; bench/results.json if all was
                measured
  --help        prints this, and ends
`;

/** The file for the results of a run that measures all rows. */
const RESULTS = "bench/results.json";

const WRITE = { write: true, create: true };

function parse(args: string[]) {
  return parseArgs({
    args,
    allowPositionals: true,
    options: {
      peers: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
      quick: { type: "boolean", default: false },
      launches: { type: "string" },
      rounds: { type: "string" },
      out: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
}

type Options = ReturnType<typeof parse>["values"];

function repeats({ quick, launches, rounds }: Options): Repeats {
  return {
    launches: Number(launches ?? (quick ? 1 : 3)),
    warmUp: quick ? 100 : 300,
    rounds: Number(rounds ?? (quick ? 2 : 3)),
  };
}

/** Whether a word is the name of a row, or the first part of it. */
function isNamed({ name }: Row, word: string): boolean {
  return name === word || name.startsWith(`${word}-`);
}

/** The rows that were asked for, with the peers that were asked for. */
function chooseRows(rows: Row[], names: string[], peers: boolean): Row[] {
  const chosen: Row[] = [];
  for (const row of rows) {
    if (names.length > 0 && !names.some((name) => isNamed(row, name))) continue;
    const those = row.peers.filter(({ who }) =>
      peers || who === "ours" || who === "bare"
    );
    if (those.length > 0) chosen.push({ ...row, peers: those });
  }
  return chosen;
}

function findMachine(): Machine {
  return {
    cpu: os.cpus()[0]?.model ?? "unknown",
    cores: os.cpus().length,
    memory: os.totalmem(),
    os: `${Deno.build.os} ${Deno.osRelease()} ${Deno.build.arch}`,
    load: Deno.loadavg()[0]!,
  };
}

function printHead({ machine, versions, missing }: Results): void {
  const { cpu, cores, memory, os, load } = machine;
  const gigabytes = Math.round(memory / 2 ** 30);
  console.log(`${cpu}, ${cores} processors, ${gigabytes} GiB, ${os}`);
  console.log(
    Object.entries(versions).map((pair) => pair.join(" ")).join(", "),
  );
  if (load > cores / 2) {
    console.log(
      `The machine is busy with something else (load ${
        load.toFixed(1)
      }): the numbers will say little`,
    );
  }
  for (const install of Object.values(missing)) {
    console.log(`missing: ${install}`);
  }
}

/** Prints the failures, and returns whether there are any. */
function reportFailures(rows: RowResult[]): boolean {
  const failures = rows.flatMap(({ name, peers }) =>
    peers.filter(({ error }) => error !== undefined)
      .map((peer) => `${name}, ${peer.name}: ${peer.error}`)
  );
  for (const failure of failures) console.error(`\nFAILED: ${failure}`);
  return failures.length > 0;
}

/** Rounds a number to six digits, which is more than the measurements are good for. */
function shorten(_key: string, value: unknown): unknown {
  return typeof value === "number" ? Number(value.toPrecision(6)) : value;
}

/** The results as JSON, in which a median and its spread are one line. */
function format(results: Results): string {
  const text = JSON.stringify(results, shorten, 2).replaceAll(
    /\{[^{}]*"median"[^{}]*\}/g,
    (spread) => spread.replaceAll(/\s+/g, " "),
  );
  return `${text}\n`;
}

async function main(): Promise<number> {
  let parsed;
  try {
    parsed = parse(Deno.args);
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${USAGE}`);
    return 2;
  }
  const { values: options, positionals: names } = parsed;
  if (options.help) {
    console.log(USAGE);
    return 0;
  }
  const start = performance.now();
  const date = new Date().toISOString();
  const tools = await findTools(options.peers);
  const all = makeRows(tools, options.quick);
  const rows = chooseRows(all, names, options.peers);
  if (options.list) {
    for (const { name, title } of rows) console.log(`${name}: ${title}`);
    return 0;
  }
  if (rows.length === 0) {
    console.error(`There is no row named ${names.join(" or ")}: see --list`);
    return 2;
  }
  const results: Results = {
    date,
    quick: options.quick,
    repeats: repeats(options),
    machine: findMachine(),
    versions: tools.versions,
    missing: tools.missing,
    rows: [],
  };
  const isWhole = names.length === 0 && !options.quick;
  const out = options.out ?? (isWhole ? RESULTS : null);
  // Fails now, and not after all rows, if the file can't be written.
  if (out !== null) (await Deno.open(out, WRITE)).close();
  printHead(results);
  for (const row of rows) {
    const result = await measure(row, results.repeats, tools.missing);
    printRow(result);
    results.rows.push(result);
  }
  const minutes = (performance.now() - start) / 60_000;
  console.log(`\nMeasured in ${minutes.toFixed(1)} minutes`);
  if (out !== null) {
    await Deno.writeTextFile(out, format(results));
  }
  return reportFailures(results.rows) ? 1 : 0;
}

Deno.exit(await main());
