import { assertEquals } from "@std/assert";
import { ended } from "./_marks.ts";

const EXAMPLE = new URL("../examples/hash_tree.ts", import.meta.url).pathname;

Deno.test("hash_tree.ts leaves nothing behind when Ctrl-C ends it", async () => {
  const files = await Deno.makeTempDir();
  const scratch = await Deno.makeTempDir();
  try {
    for (let i = 0; i < 60; i++) {
      await Deno.writeTextFile(`${files}/${i}`, `${i}`);
    }
    // The last one takes seconds, and no space: it has only a length.
    await Deno.writeTextFile(`${files}/z`, "");
    await Deno.truncate(`${files}/z`, 2e9);
    await using child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-q", "--no-check", "-P=hash-tree", EXAMPLE, files],
      env: { TMPDIR: scratch },
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const errors = new Response(child.stderr).text();
    let printed = "";
    let workers: number[] = [];
    for await (
      const part of child.stdout.pipeThrough(new TextDecoderStream())
    ) {
      printed += part;
      if (!printed.includes("\n") || workers.length > 0) continue;
      workers = childrenOf(child.pid);
      child.kill("SIGINT");
    }
    const { code } = await child.status;
    assertEquals(printed, `[${"#".repeat(25)}${" ".repeat(5)}] 50 of 61\n`);
    assertEquals([await errors, code], ["", 130]);
    assertEquals(workers.length > 0, true);
    for (const worker of workers) await ended(worker);
    assertEquals([...Deno.readDirSync(scratch)], []);
    assertEquals([...Deno.readDirSync(files)].length, 61);
  } finally {
    await Deno.remove(files, { recursive: true });
    await Deno.remove(scratch, { recursive: true });
  }
});

function childrenOf(pid: number): number[] {
  const { stdout } = new Deno.Command("pgrep", { args: ["-P", `${pid}`] })
    .outputSync();
  return new TextDecoder().decode(stdout).trim().split("\n").map(Number);
}
