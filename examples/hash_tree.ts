/**
 * Hashes all files of a directory on all cores: with a `Pool` of greenlets, one for each file,
 * and a `ThreadPool` of workers, one for each core.
 *
 *     deno run -q -P=hash-tree examples/hash_tree.ts [directory]
 *
 * A terminal gets a bar; a pipe or a file gets a line for every 50 files. Each file has a time
 * limit: at the limit its worker is ended, and the next file gets a new one. After Ctrl-C, no
 * greenlet and no process is left.
 */

import {
  GreenletExit,
  Pool,
  run,
  ThreadPool,
  withTimeout,
} from "@gevent/gevent";
import { Progress } from "./_progress.ts";

const DIRECTORY = Deno.args[0] ?? `${import.meta.dirname}/..`;
/** How many files are read at a time: more than cores, so that no core waits for the next. */
const AT_ONCE = 4 * navigator.hardwareConcurrency;
/** How long one file may take, in milliseconds. */
const LIMIT = 20_000;
const WIDTH = 30;

/** Iterates over the files of a directory and its subdirectories. */
function* walk(directory: string): Generator<string> {
  for (const entry of Deno.readDirSync(directory)) {
    if (entry.name.startsWith(".") || entry.name === "node_modules") continue;
    const path = `${directory}/${entry.name}`;
    if (entry.isDirectory) yield* walk(path);
    else if (entry.isFile) yield path;
  }
}

/** The result for one file. */
interface Outcome {
  path: string;
  bytes: number;
  hash: string;
  error?: unknown;
}

function bar(done: number, all: number): string {
  const filled = Math.round(WIDTH * done / all);
  return `[${"#".repeat(filled)}${
    " ".repeat(WIDTH - filled)
  }] ${done} of ${all}`;
}

await run(async () => {
  await using workers = new ThreadPool();
  const work = workers.import<typeof import("./_hash.ts")>(
    import.meta.resolve("./_hash.ts"),
  );

  /** Hashes one file. A failure is returned as an outcome, so that the others go on. */
  async function hash(path: string): Promise<Outcome> {
    try {
      return { path, ...await withTimeout(LIMIT, () => work.hashFile(path)) };
    } catch (error) {
      // A kill, such as by Ctrl-C, is not a failure of the file.
      if (error instanceof GreenletExit) throw error;
      return { path, bytes: 0, hash: "", error };
    }
  }

  const start = performance.now();
  const paths = [...walk(DIRECTORY)].sort();
  const hashes: Outcome[] = [];
  {
    using progress = new Progress();
    for await (const outcome of new Pool(AT_ONCE).imapUnordered(hash, paths)) {
      hashes.push(outcome);
      if (outcome.error !== undefined) {
        progress.print(`failed: ${outcome.path}: ${outcome.error}`);
      }
      progress.show(bar(hashes.length, paths.length), hashes.length % 50 === 0);
    }
  }
  const failed = hashes.filter(({ error }) => error !== undefined);
  const bytes = hashes.reduce((sum, { bytes }) => sum + bytes, 0);
  const distinct = new Set(hashes.map(({ hash }) => hash)).size;
  const seconds = (performance.now() - start) / 1000;
  console.log(`files:    ${hashes.length}, and ${failed.length} failed`);
  console.log(`distinct: ${distinct}`);
  console.log(`bytes:    ${bytes}`);
  console.log(`cores:    ${workers.size}`);
  console.log(`time:     ${seconds.toFixed(2)} s`);
});
