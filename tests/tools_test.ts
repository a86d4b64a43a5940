import {
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { random, withSeeds } from "./_random.ts";
import {
  failureReport,
  grouped,
  GROUPS,
  parseArgs,
  parseOutput,
  runSuite,
  summary,
  testFiles,
} from "../tools/_suite.ts";

const NONE = {
  passed: 0,
  failed: 0,
  ignored: 0,
  filtered: 0,
  failures: [],
  errors: [],
};

Deno.test("parseOutput() reads the counts of the summary", () => {
  const text = [
    "running 2 tests from ./a_test.ts",
    "A passes ... ok (1ms)",
    "B prints ok | 9 passed | 9 failed ... ok (1ms)",
    "",
    "\x1b[32mok\x1b[0m | 2 passed (3 steps) | 0 failed | 1 ignored | 4 filtered out (1s)",
    "",
  ].join("\n");
  const [outcome, tests] = parseOutput("a_test.ts", text, 0);
  assertEquals(outcome, { ...NONE, passed: 2, ignored: 1, filtered: 4 });
  assertEquals(tests, text.split("\n").slice(0, 3).join("\n"));
});

Deno.test("parseOutput() reads the names and the errors of failed tests", () => {
  const text = [
    "running 2 tests from ./a_test.ts",
    "A fails ... FAILED (1ms)",
    "B fails ... FAILED (1ms)",
    "",
    " ERRORS ",
    "",
    "A fails => ./a_test.ts:1:6",
    "error: Error: a",
    "",
    "B fails => ./a_test.ts:2:6",
    "error: Error: b",
    "",
    " FAILURES ",
    "",
    "\x1b[1mA fails\x1b[0m => ./a_test.ts:1:6",
    "B fails => ./a_test.ts:2:6",
    "",
    "FAILED | 0 passed | 2 failed (1s)",
    "",
    "error: Test failed",
  ].join("\n");
  const [outcome, tests] = parseOutput("a_test.ts", text, 1);
  assertEquals(outcome.failures, [
    "A fails => ./a_test.ts:1:6",
    "B fails => ./a_test.ts:2:6",
  ]);
  assertEquals([outcome.passed, outcome.failed], [0, 2]);
  assertEquals(outcome.errors, [
    "A fails => ./a_test.ts:1:6\nerror: Error: a\n\n" +
    "B fails => ./a_test.ts:2:6\nerror: Error: b",
  ]);
  assertEquals(tests, text.split("\n").slice(0, 3).join("\n"));
  assertMatch(failureReport(outcome), /ERRORS[^]*error: Error: b[^]*FAILURES/);
});

Deno.test("parseOutput() counts a file without a summary, or with a wrong status, as a failure", () => {
  const crashed = parseOutput("a_test.ts", "running 2 tests\nSegfault\n", 139);
  assertEquals(crashed, [{
    ...NONE,
    failed: 1,
    failures: ["a_test.ts (ended with status 139)"],
    errors: ["running 2 tests\nSegfault"],
  }, ""]);
  const text = "ok | 2 passed | 0 failed (1s)\n";
  const [outcome] = parseOutput("a_test.ts", text, 1);
  assertEquals([outcome.passed, outcome.failed], [2, 1]);
});

Deno.test("parseArgs() takes paths that exist for files, and the rest for flags and their values", () => {
  const file = "tests/tools_test.ts";
  assertEquals(
    parseArgs(["--filter", "Queue.get() waits", file, "--seed=5"]),
    { flags: ["--filter", "Queue.get() waits", "--seed=5"], files: [file] },
  );
  assertEquals(parseArgs(["tests"]), { flags: [], files: testFiles("tests") });
  assertThrows(() => parseArgs(["tests/none_test.ts"]), Error, "none_test.ts");
});

Deno.test("summary() is written as that of `deno test`", () => {
  const outcome = { ...NONE, passed: 12 };
  assertEquals(summary(outcome, 2900), "ok | 12 passed | 0 failed (3s)");
  assertEquals(
    summary({ ...outcome, failed: 1, ignored: 2, filtered: 3 }, 65_000),
    "FAILED | 12 passed | 1 failed | 2 ignored | 3 filtered out (1m5s)",
  );
});

Deno.test("testFiles() finds this file", () => {
  assertEquals(testFiles().includes("tests/tools_test.ts"), true);
});

Deno.test("grouped() puts each file into one group, and a file without its group by itself", () => {
  const all = grouped(testFiles());
  assertEquals(all.flat().sort(), testFiles().sort());
  assertEquals(new Set(all.flat()).size, all.flat().length);
  const together = all.find((group) => group.length > 2)!;
  assertEquals(grouped([together[1]!, "other_test.ts", together[0]!]), [
    together.slice(0, 2),
    ["other_test.ts"],
  ]);
  assertEquals(grouped([together[1]!]), [[together[1]!]]);
});

Deno.test("grouped() knows of no file that does not exist", () => {
  const files = grouped(testFiles()).filter((group) => group.length > 1);
  assertEquals(
    files.map((group) => group.length),
    GROUPS.map((group) => group.length),
  );
});

Deno.test("runSuite() runs each file, alone or in a group, and reports failures, and wrong types with --check", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const files = {
      "one.ts": `Deno.test("A passes", () => {});
        const wrong: string = 1;
        Deno.test("B fails", () => { throw new Error("told"); });`,
      "two.ts": `Deno.test("C fails", () => { throw new Error("told, too"); });
        Deno.test("D passes", () => {});`,
      "exits.ts": "Deno.exit(3);",
    };
    const paths = Object.keys(files).map((name) => `${folder}/${name}`);
    for (const [name, text] of Object.entries(files)) {
      await Deno.writeTextFile(`${folder}/${name}`, text);
    }
    const printed: string[] = [];
    const outcome = await runSuite({
      files: paths,
      groups: [paths.slice(0, 2)],
      jobs: 2,
      print: (text) => printed.push(text),
    });
    const { passed, failures, errors } = outcome;
    assertEquals(passed, 2);
    assertEquals(outcome.failed, failures.length);
    const told = [...failures, ...errors].join("\n");
    const parts = [
      "B fails",
      "told",
      "C fails",
      "told, too",
      "exits.ts",
    ];
    for (const part of parts) {
      assertEquals(told.includes(part), true, `${part} in ${told}`);
    }
    assertEquals(told.includes("TS2322"), false);
    const text = printed.join("\n");
    assertMatch(text, /A passes \.\.\. ok[^]*D passes \.\.\. ok/);
    const checked = await runSuite({
      files: paths.slice(0, 1),
      flags: ["--check"],
    });
    assertEquals([checked.passed, checked.failed], [0, 1]);
    assertMatch(checked.errors[0]!, /TS2322/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("The tasks that check the types cover all that the tests run, and come before them", async () => {
  const { tasks, exclude } = JSON.parse(await Deno.readTextFile("deno.json"));
  assertMatch(
    tasks.check.command,
    /^deno check --doc .* \. \*\.md docs\/\*\.md$/,
  );
  // `deno check .` takes every file but these.
  assertEquals(exclude, ["coverage/"]);
  const inOrder = /deno task check\b[^]*deno task test\b/;
  assertMatch(tasks.ok.command, inOrder);
  assertMatch(await Deno.readTextFile(".ci/run"), inOrder);
});

Deno.test("withSeeds() runs the seeds that once failed, then a new one, and names the one that fails", async () => {
  const first: number[] = [];
  const run = (next: () => number): Promise<void> => {
    first.push(next());
    return Promise.resolve();
  };
  const given = Deno.env.get("SEED");
  try {
    Deno.env.delete("SEED");
    await withSeeds(run, [1, 2]);
    assertEquals(first.length, 3);
    assertEquals(first.slice(0, 2), [random(1)(), random(2)()]);
    const fail = () => Promise.reject(new Error("no"));
    await assertRejects(() => withSeeds(fail, [7]), Error, "SEED=7");
    Deno.env.set("SEED", "3");
    await withSeeds(run, [1, 2]);
    assertEquals(first.slice(3), [random(3)()]);
  } finally {
    if (given === undefined) Deno.env.delete("SEED");
    else Deno.env.set("SEED", given);
  }
});
