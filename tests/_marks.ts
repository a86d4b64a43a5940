/**
 * How tests know of other processes: by what these write to files, and by their numbers.
 *
 * @module
 */

import { sleep } from "../mod.ts";

/** A file in which a worker says that it runs. */
export class Mark implements Disposable {
  readonly path = Deno.makeTempFileSync();

  /** Waits until it runs, and gives the number of its process. */
  async written(): Promise<number> {
    for (;;) {
      const text = Deno.readTextFileSync(this.path);
      if (text.endsWith("\n")) return Number(text);
      await sleep(5);
    }
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path);
  }
}

/** Waits until a process has ended. */
export async function ended(pid: number): Promise<void> {
  for (;;) {
    try {
      Deno.kill(pid, 0 as unknown as Deno.Signal);
    } catch {
      return;
    }
    await sleep(10);
  }
}
