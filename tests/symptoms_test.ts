import { assert, assertEquals } from "@std/assert";
import { runScript } from "./_bodies.ts";

const PAGE = await Deno.readTextFile(
  new URL("../docs/debugging.md", import.meta.url),
);

/** The lines of the page's block of output that has a line like this one. */
function shown(part: string): string[] {
  const blocks = [...PAGE.matchAll(/```console\n([^]*?)```/g)];
  const block = blocks.find(([, text]) => text!.includes(part));
  assert(block !== undefined, `docs/debugging.md does not show ${part}`);
  return block[1]!.trimEnd().split("\n");
}

/**
 * A line without its numbers, which differ from run to run, and without the time of a wait, which
 * is there on a slow machine only.
 */
function withoutNumbers(line: string): string {
  return line.replace(/ for up to \d+ s/g, "").replace(/\d+(\.\d+)?/g, "0");
}

/** Asserts that the output has the lines that the page shows. */
function assertShown(output: string, part: string): void {
  const lines = output.split("\n").map(withoutNumbers);
  for (const line of shown(part)) {
    assert(
      lines.includes(withoutNumbers(line)),
      `Expected "${line}" in:\n${output}`,
    );
  }
}

Deno.test("monitor() prints what the page of docs shows, of a program that is slow and of one that grows", async () => {
  const { err, code } = await runScript(
    `
    const compute = (ms) => {
      for (const end = performance.now() + ms; performance.now() < end;);
    };
    const limit = Deno.memoryUsage().rss + 64 * 2 ** 20;
    let blocked = false, grown = false;
    const watching = monitor({ maxBlocking: 100, maxMemory: limit });
    watching.addEventListener("blocked", ({ detail }) => {
      if (detail.greenlet === "parser") blocked = true;
    });
    watching.addEventListener("memory", () => grown = true);
    // The thread that watches may take long to start.
    while (!blocked) {
      const parser = spawn(compute, 300);
      parser.name = "parser";
      await parser.join();
      await sleep(50);
    }
    const leak = [];
    while (!grown) {
      leak.push(new Uint8Array(2 ** 24).fill(1));
      await sleep(50);
    }
    watching[Symbol.dispose]();
    `,
    () => {},
    ["--no-check"],
  );
  assertEquals(code, 0);
  assertShown(err, "Greenlet 'parser' has held up the event loop for 512 ms");
  assertShown(err, "bytes of memory, more than its limit of");
});

Deno.test("assertSwitches() and console.log() print what the page of docs shows", async () => {
  const example = PAGE.match(/```ts\n(import \{ Lock, Queue[^]*?)```/)![1]!
    .replace(/^import .*/, "").replace("new Queue<number>", "new Queue");
  const { out, err, code } = await runScript(
    `
    function parse() {
      using _ = assertSwitches({ maxBlocking: 50 });
      for (const end = performance.now() + 60; performance.now() < end;);
    }
    const parser = spawn(parse);
    parser.name = "parser";
    await parser.join();
    ${example}
    `,
    () => {},
    ["--no-check"],
  );
  assertEquals(code, 0);
  // Where the error is, follows.
  assertShown(err, "FailedToSwitch");
  assertEquals(out, shown("Queue { maxsize: 3"));
});

Deno.test("trackSpawns() prints what the page of docs shows, of an error that nothing takes", async () => {
  const example = PAGE.match(
    /```ts\n(import \{ Queue, spawn, trackS[^]*?)```/,
  )![1]!
    .replace(/^import .*/, "")
    .replace(/: Queue<string>|<string>/g, "");
  const { err, code } = await runScript(example, () => {}, ["--no-check"]);
  assertEquals(code, 0);
  const anyFile = (text: string) =>
    text.replace(/(?:file:\/\/|data:)\S+?:/g, "file:");
  const lines = anyFile(err).split("\n").map(withoutNumbers);
  for (const line of shown("failed with Empty in")) {
    const wanted = withoutNumbers(anyFile(line));
    assert(lines.includes(wanted), `Expected "${wanted}" in:\n${err}`);
  }
});

/** The example of the page that begins with an import like this one, as JavaScript. */
function example(imports: string): string {
  const found = PAGE.split("```ts\n").find((one) => one.startsWith(imports));
  assert(found !== undefined, `docs/debugging.md has no example ${imports}`);
  return found.split("```")[0]!.replace(/^import .*/, "")
    .replace(/: Lock|<string>/g, "");
}

Deno.test("formatRunInfo() prints what the page of docs shows, of a program that hangs", async () => {
  const program = example("import { formatRunInfo, Lock,")
    .replace(
      /console.log\(.*/,
      // The machine may be slower than the example.
      `while (!formatRunInfo().includes("(deadlock)")) await sleep(1);
      console.log(formatRunInfo());`,
    );
  const { out, code } = await runScript(program, () => {}, ["--no-check"]);
  assertEquals(code, 0);
  assertEquals(out, shown('"rose": take> waits in Lock.acquire(), held by'));
});

Deno.test("LoopExit prints what the page of docs shows, of a queue that nothing fills and of two locks", async () => {
  const queue = example("import { LoopExit, Queue, run }")
    .replace(/if \(.*\) await/, "await");
  const locks = example("import { formatRunInfo, Lock,")
    .replace(/await sleep\(5\);[^]*/, "await rose.join();");
  const [one, two] = await Promise.all([
    runScript(`void GreenletTree; ${queue}`, () => {}, ["--no-check"]),
    runScript(
      `void GreenletTree; await run(async function main() { ${locks} });`,
      () => {},
      ["--no-check"],
    ),
  ]);
  assertEquals([one.code, two.code], [1, 1]);
  assertShown(one.err, "LoopExit: Nothing can end what");
  assertShown(two.err, "waits in join of <Greenlet");
});
