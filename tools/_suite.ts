/**
 * Runs the test files, each in a process of its own and several at a time.
 *
 * Why not `deno test --parallel`, which runs them as threads of one process: tests count
 * open file descriptors and children, send signals, and look at what a process holds
 * when it ends, so the files would see each other.
 *
 * @module
 */

import { documented } from "../tests/_documented.ts";

/** The outcome of a run: of a file, or of the whole suite. */
export interface Outcome {
  passed: number;
  failed: number;
  ignored: number;
  filtered: number;
  /** The names of the tests or files that failed. */
  failures: string[];
  /** The errors in full. */
  errors: string[];
}

/** The options of a run. */
export interface SuiteOptions {
  /** Flags for `deno test`. */
  flags?: string[];
  /** Paths of test files; all if there are none. */
  files?: string[];
  /** How many processes at a time. */
  jobs?: number;
  /** Called with the tests of a file and their results when the file has ended. */
  print?: (text: string) => void;
}

/** A file that takes longer, in milliseconds, is taken to hang. */
const LIMIT = 600_000;

/** How many processes at a time. Tests wait more than they work. */
const JOBS = navigator.hardwareConcurrency + 1;

/** Lists the test files in a folder, the larger ones first: they tend to take longer. */
export function testFiles(folder = "tests"): string[] {
  const files: [path: string, size: number][] = [];
  const visit = (folder: string): void => {
    for (const { name, isDirectory } of Deno.readDirSync(folder)) {
      const path = `${folder}/${name}`;
      if (isDirectory) visit(path);
      else if (/_test\.ts$/.test(name)) {
        files.push([path, Deno.statSync(path).size]);
      }
    }
  };
  visit(folder);
  files.sort(([, a], [, b]) => b - a);
  return files.map(([path]) => path);
}

/**
 * Tells flags of `deno test` from test files: what exists is a file, or a folder of them, and
 * anything else is a flag or the value of one.
 */
export function parseArgs(
  args: string[],
): { flags: string[]; files: string[] } {
  const flags: string[] = [];
  const files: string[] = [];
  for (const arg of args) {
    const stat = arg.startsWith("-") ? null : statOf(arg);
    if (stat?.isDirectory) files.push(...testFiles(arg));
    else if (stat !== null) files.push(arg);
    else if (arg.endsWith("_test.ts")) throw new Error(`Cannot find ${arg}`);
    else flags.push(arg);
  }
  return { flags, files };
}

function statOf(path: string): Deno.FileInfo | null {
  try {
    return Deno.statSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** The processes that run, which end with this one. */
const running = new Set<Deno.ChildProcess>();

/** Kills what runs, and ends this process as the signal would have. */
export function endOnSignals(): void {
  for (const [name, status] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    Deno.addSignalListener(name, () => {
      for (const process of running) process.kill("SIGKILL");
      Deno.exit(status);
    });
  }
}

/** Runs `deno` to its end, or to the limit. */
async function runDeno(
  args: string[],
): Promise<{ text: string; code: number }> {
  const process = new Deno.Command(Deno.execPath(), {
    args,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: {
      DENO_NO_UPDATE_CHECK: "1",
      ...Deno.noColor || !Deno.stdout.isTerminal()
        ? { NO_COLOR: "1" }
        : { FORCE_COLOR: "1" },
    },
  }).spawn();
  running.add(process);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    process.kill("SIGKILL");
  }, LIMIT);
  // In the order in which they come, as in a terminal.
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  const collect = async (
    stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  ): Promise<void> => {
    for await (const chunk of stream) chunks.push(chunk);
  };
  await Promise.all([collect(process.stdout), collect(process.stderr)]);
  const { code } = await process.status;
  running.delete(process);
  clearTimeout(timer);
  const text = await new Blob(chunks).text();
  return {
    text: late ? `${text}\nKilled after ${LIMIT / 1000} s` : text,
    code,
  };
}

/** Removes the colours of a text. */
function plain(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/\x1b\[[0-9;]*m/g, "");
}

/**
 * Takes apart what `deno test` has printed.
 *
 * @returns The outcome, and the tests with their results, as printed.
 */
export function parseOutput(
  file: string,
  text: string,
  code: number,
): [outcome: Outcome, tests: string] {
  const lines = text.split("\n");
  const find = (pattern: RegExp): number =>
    lines.findLastIndex((line) => pattern.test(plain(line)));
  const part = (start: number, end: number): string =>
    lines.slice(start, end).join("\n").trim();

  const summary = find(/^(ok|FAILED) \| \d+ passed/);
  const counts = summary < 0 ? "" : plain(lines[summary]!);
  const count = (what: string): number =>
    Number(new RegExp(`(\\d+) ${what}`).exec(counts)?.[1] ?? 0);
  const outcome: Outcome = {
    passed: count("passed"),
    failed: count("failed"),
    ignored: count("ignored"),
    filtered: count("filtered out"),
    failures: [],
    errors: [],
  };
  if (summary < 0 || code !== 0 && outcome.failed === 0) {
    // It crashed, or hung.
    outcome.failed++;
    outcome.failures.push(`${file} (ended with status ${code})`);
    outcome.errors.push(text.trim());
    return [outcome, ""];
  }
  if (outcome.failed === 0) return [outcome, part(0, summary)];
  const errors = find(/^ ERRORS $/);
  const failures = find(/^ FAILURES $/);
  outcome.failures.push(...plain(part(failures + 1, summary)).split("\n"));
  outcome.errors.push(part(errors + 1, failures));
  return [outcome, part(0, errors)];
}

/**
 * Runs the suite: checks the types of the tests, of the library and of the examples in its
 * documentation, and runs each test file.
 *
 * @returns The sum of the outcomes.
 */
export async function runSuite(options: SuiteOptions = {}): Promise<Outcome> {
  const { flags = [], files = [], jobs = JOBS, print = () => {} } = options;
  const paths = files.length > 0 ? files : testFiles();
  const importMap = flags.filter((flag) => flag.startsWith("--import-map="));
  const total: Outcome = {
    passed: 0,
    failed: 0,
    ignored: 0,
    filtered: 0,
    failures: [],
    errors: [],
  };

  const checkTypes = async (): Promise<void> => {
    const docs = files.length > 0 ? [] : documented();
    const args = ["check", "-q", "--doc", ...importMap, ...paths, ...docs];
    const { text, code } = await runDeno(args);
    if (code === 0) return;
    total.failed++;
    total.failures.push("The check of the types");
    total.errors.push(text.trim());
  };

  const runFile = async (file: string): Promise<void> => {
    // The types are checked once for all.
    const others = flags.filter((flag) => flag !== "--no-check");
    const args = ["test", "-q", "-P", "--no-check", ...others, file];
    const { text, code } = await runDeno(args);
    const [outcome, tests] = parseOutput(file, text, code);
    if (tests !== "") print(tests);
    total.passed += outcome.passed;
    total.failed += outcome.failed;
    total.ignored += outcome.ignored;
    total.filtered += outcome.filtered;
    total.failures.push(...outcome.failures);
    total.errors.push(...outcome.errors);
  };

  const queue = paths.map((path) => () => runFile(path));
  if (!flags.includes("--no-check")) queue.unshift(checkTypes);
  const work = async (): Promise<void> => {
    for (let next; (next = queue.shift()) !== undefined;) await next();
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return total;
}

/** Lists what failed as `deno test` does: the errors in full, and the names. */
export function failureReport({ errors, failures }: Outcome): string {
  return [" ERRORS ", ...errors, " FAILURES ", failures.join("\n")].join(
    "\n\n",
  );
}

/** Writes a time as `deno test` does: `1m5s`. */
export function time(milliseconds: number): string {
  const seconds = Math.round(milliseconds / 1000);
  const minutes = Math.floor(seconds / 60);
  return minutes === 0 ? `${seconds}s` : `${minutes}m${seconds % 60}s`;
}

/** Sums up as `deno test` does: `ok | 12 passed | 0 failed (3s)`. */
export function summary(outcome: Outcome, milliseconds: number): string {
  const { passed, failed, ignored, filtered } = outcome;
  return [
    failed === 0 ? "ok" : "FAILED",
    `${passed} passed`,
    `${failed} failed`,
    ...ignored > 0 ? [`${ignored} ignored`] : [],
    ...filtered > 0 ? [`${filtered} filtered out`] : [],
  ].join(" | ") + ` (${time(milliseconds)})`;
}
