/**
 * Runs the test files, several processes at a time.
 *
 * Why not `deno test --parallel`, which runs them as threads of one process: tests count
 * open file descriptors and children, send signals, and look at what a process holds
 * when it ends, so the files would see each other.
 *
 * Most files run one after the other in a process that they share, as one module that
 * imports them: `deno test` takes 0.5 s of processor time for each module that it is given,
 * most of it for an array of 80 MB that benchmarks would use, and to load the library takes
 * 0.2 s.
 *
 * @module
 */

import { pathToFileURL } from "node:url";

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
  /** Files that share a process; {@linkcode GROUPS} by default. */
  groups?: readonly (readonly string[])[];
  /** How many processes at a time. */
  jobs?: number;
  /** Called with the tests of a file and their results when the file has ended. */
  print?: (text: string) => void;
}

/** A file that takes longer, in milliseconds, is taken to hang. */
const LIMIT = 600_000;

/** How many processes at a time. Tests wait more than they work. */
const JOBS = navigator.hardwareConcurrency + 1;

/**
 * The files that share a process. A file that replaces functions of the runtime when it is
 * imported runs by itself, and so does `testing_limits_test.ts`, which moves the library's time
 * on by thousands of years. Files that import the clock of the tests share a process with each
 * other only.
 */
export const GROUPS: readonly (readonly string[])[] = [
  // Those that take longest come first: these start many processes.
  [
    "tests/hub/loop_exit_left_test.ts",
    "tests/hub/loop_exit_test.ts",
    "tests/hub/outlives_test.ts",
    "tests/hub/process_end_test.ts",
    "tests/run_info_signal_test.ts",
    "tests/run_signals_test.ts",
    "tests/run_test.ts",
    "tests/signal_test.ts",
    "tests/symptoms_test.ts",
  ],
  [
    "tests/patch/datagrams_test.ts",
    "tests/patch/fs_test.ts",
    "tests/patch/polluted_test.ts",
    "tests/patch/process_test.ts",
    "tests/patch/stdin_test.ts",
    "tests/patch/streams_test.ts",
    "tests/patch/waits_in_test.ts",
  ],
  [
    "tests/auto_test.ts",
    "tests/docs_test.ts",
    "tests/hub/errors_test.ts",
    "tests/hub/main_errors_test.ts",
    "tests/hub/unhandled_test.ts",
  ],
  [
    "tests/hash_tree_test.ts",
    "tests/monitor_test.ts",
    "tests/processes_reload_test.ts",
    "tests/processes_test.ts",
    "tests/processes_unstartable_test.ts",
    "tests/subprocess_test.ts",
    "tests/threadpool_arguments_test.ts",
  ],
  [
    "tests/packages/databases_test.ts",
    "tests/packages/http_test.ts",
    "tests/packages/messages_test.ts",
    "tests/packages/services_test.ts",
    "tests/packages/stand_ins_test.ts",
    "tests/packages/table_test.ts",
    "tests/packages/work_test.ts",
    "tests/patch/packages_http_test.ts",
    "tests/patch/packages_interrupted_test.ts",
    "tests/patch/packages_redis_test.ts",
    "tests/patch/packages_sleep_test.ts",
  ],
  ["tests/patch/net_test.ts", "tests/patch/tls_test.ts"],
  [
    "tests/threadpool_memory_test.ts",
    "tests/threadpool_programs_test.ts",
    "tests/threadpool_test.ts",
    "tests/threadpool_values_test.ts",
  ],
  ["tests/http_test.ts", "tests/server_test.ts", "tests/socket_test.ts"],
  [
    "tests/http_drain_test.ts",
    "tests/http_head_test.ts",
    "tests/http_lost_clients_test.ts",
    "tests/server_handler_stops_test.ts",
    "tests/server_options_test.ts",
    "tests/server_types_test.ts",
    "tests/socket_closed_test.ts",
    "tests/socket_next_call_test.ts",
    "tests/socket_plain_test.ts",
    "tests/tls_left_test.ts",
  ],
  ["tests/patch/callbacks_test.ts", "tests/patch/shared_queues_test.ts"],
  [
    "tests/bundle_test.ts",
    "tests/packages/browser_test.ts",
    "tests/runtimes_test.ts",
    "tests/tools_test.ts",
    "tests/upstream_test.ts",
  ],
  [
    "tests/monkey_test.ts",
    "tests/patch/dns_test.ts",
    "tests/patch/events_test.ts",
    "tests/patch/http_test.ts",
    "tests/patch/loops_left_test.ts",
    "tests/patch/servers_test.ts",
    "tests/patch/stream_functions_test.ts",
    "tests/patch/support_test.ts",
    "tests/patch/timer_errors_test.ts",
    "tests/patch/timers_test.ts",
    "tests/patch/websocket_test.ts",
    "tests/select_sockets_test.ts",
  ],
  [
    "tests/backdoor_ends_test.ts",
    "tests/backdoor_test.ts",
    "tests/flags_test.ts",
    "tests/hub/context_test.ts",
    "tests/hub/order_model_test.ts",
    "tests/hub/order_pairs_test.ts",
    "tests/hub/untaken_errors_test.ts",
    "tests/inspect_forms_test.ts",
    "tests/links_test.ts",
    "tests/local_hints_test.ts",
    "tests/one_line_names_test.ts",
    "tests/opentelemetry_test.ts",
    "tests/peers_test.ts",
    "tests/pool_steps_test.ts",
    "tests/subprocess_arguments_test.ts",
    "tests/testing_test.ts",
    "tests/trace_test.ts",
    "tests/types_test.ts",
    "tests/with_signal_test.ts",
  ],
  [
    "tests/node_interrupts_test.ts",
    "tests/patch/children_interrupted_test.ts",
    "tests/patch/connecting_interrupted_test.ts",
    "tests/patch/node_by_name_test.ts",
    "tests/patch/node_children_test.ts",
    "tests/patch/node_events_test.ts",
    "tests/patch/node_handles_test.ts",
    "tests/patch/node_http2_test.ts",
    "tests/patch/node_http_test.ts",
    "tests/patch/node_https_test.ts",
    "tests/patch/node_promises_test.ts",
    "tests/patch/node_same_test.ts",
    "tests/patch/node_streams_test.ts",
    "tests/patch/node_test.ts",
    "tests/patch/node_timers_test.ts",
    "tests/patch/upgrades_interrupted_test.ts",
  ],
  [
    "tests/assert_switches_test.ts",
    "tests/http_log_test.ts",
    "tests/http_upload_test.ts",
    "tests/hub/deep_test.ts",
    "tests/hub/errors_beside_test.ts",
    "tests/hub/failing_callbacks_test.ts",
    "tests/hub/generator_waits_test.ts",
    "tests/hub/hostile_test.ts",
    "tests/hub/long_queues_test.ts",
    "tests/hub/next_task_test.ts",
    "tests/hub/not_awaited_test.ts",
    "tests/hub/order_mapping_test.ts",
    "tests/hub/refused_kills_test.ts",
    "tests/hub/suppressed_test.ts",
    "tests/hub/throwing_iterators_test.ts",
    "tests/hub/throwing_timers_test.ts",
    "tests/hub/trees_test.ts",
    "tests/hub/unheard_test.ts",
    "tests/hub/waitables_test.ts",
    "tests/inspect_test.ts",
    "tests/lock_dispose_test.ts",
    "tests/messages_test.ts",
    "tests/porting_mistakes_test.ts",
    "tests/select_arguments_test.ts",
    "tests/select_both_ends_test.ts",
    "tests/server_stop_test.ts",
    "tests/socket_speed_test.ts",
    "tests/stacks_test.ts",
    "tests/unasked_test.ts",
  ],
  // These wait until the hub has nothing to do, so that other files may leave nothing there.
  ["tests/hub/throwing_values_test.ts", "tests/spawn_sites_test.ts"],
  // In each test of these files time jumps: `Clock.inEachTest()` is for a whole module.
  [
    "tests/event_test.ts",
    "tests/gevent_test.ts",
    "tests/hub/fairness_test.ts",
    "tests/hub/gather_test.ts",
    "tests/hub/interrupt_test.ts",
    "tests/hub_test.ts",
    "tests/local_test.ts",
    "tests/lock_test.ts",
    "tests/nursery_test.ts",
    "tests/pool_test.ts",
    "tests/queue_test.ts",
    "tests/select_test.ts",
    "tests/timeout_test.ts",
  ],
  // These move the clock by hand.
  [
    "tests/hub/iterators_test.ts",
    "tests/hub/kill_once_test.ts",
    "tests/hub/order_test.ts",
    "tests/patch/fetch_test.ts",
    "tests/property_test.ts",
  ],
  [
    "tests/patch/packages_ky_test.ts",
    "tests/socket_timeout_test.ts",
    "tests/waited_test.ts",
  ],
];

/**
 * Groups files that share a process. The groups that are listed first begin first, so that none of
 * those that take long runs alone at the end.
 */
export function grouped(files: readonly string[], all = GROUPS): string[][] {
  const left = new Set(files);
  const groups = all
    .map((group) => group.filter((file) => left.delete(file)))
    .filter((group) => group.length > 0);
  return [
    ...groups.filter((group) => group.length > 1),
    ...[...left].map((file) => [file]),
    ...groups.filter((group) => group.length === 1),
  ];
}

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
 * Tells flags of `deno test` from test files: an argument that exists as a file or a folder is
 * one, any other argument is a flag or its value.
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

/** The processes that are running. */
const running = new Set<Deno.ChildProcess>();

/** At SIGINT and SIGTERM kills the processes, and ends this one with the signal's status. */
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
  // The chunks of both streams in the order in which they arrive, as in a terminal.
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

/** The module of a group: the file itself, or a module that imports the files. */
async function moduleOf(
  group: string[],
): Promise<{ path: string } & AsyncDisposable> {
  if (group.length === 1) {
    return { path: group[0]!, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const folder = await Deno.makeTempDir();
  // The coverage report leaves out folders of this name.
  const path = `${folder}/tests/group_test.ts`;
  await Deno.mkdir(`${folder}/tests`);
  await Deno.writeTextFile(
    path,
    group.map((file) => `import "${pathToFileURL(file)}";\n`).join(""),
  );
  return {
    path,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

/** Removes the colours of a text. */
function plain(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/\x1b\[[0-9;]*m/g, "");
}

/**
 * Parses the output of `deno test`.
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
 * Runs the suite: all test files, or those that are given. Types are checked with the flag
 * `--check` only: that takes 25 s of processor time, and `deno task check` does it for all files.
 *
 * @returns The sum of the outcomes.
 */
export async function runSuite(options: SuiteOptions = {}): Promise<Outcome> {
  const { flags = [], files = [], groups, jobs = JOBS, print = () => {} } =
    options;
  const paths = files.length > 0 ? files : testFiles();
  const total: Outcome = {
    passed: 0,
    failed: 0,
    ignored: 0,
    filtered: 0,
    failures: [],
    errors: [],
  };

  const runGroup = async (group: string[]): Promise<void> => {
    await using module = await moduleOf(group);
    const args = ["test", "-q", "-P", "--config=deno.json", ...flags];
    if (!flags.some((flag) => /^--check\b/.test(flag))) args.push("--no-check");
    const { text, code } = await runDeno([...args, module.path]);
    const [outcome, tests] = parseOutput(group.join(", "), text, code);
    if (tests !== "") print(tests);
    total.passed += outcome.passed;
    total.failed += outcome.failed;
    total.ignored += outcome.ignored;
    total.filtered += outcome.filtered;
    total.failures.push(...outcome.failures);
    total.errors.push(...outcome.errors);
  };

  const queue = grouped(paths, groups).map((group) => () => runGroup(group));
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
