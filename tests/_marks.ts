/**
 * How tests watch other processes: by files that these write to, and by their process ids.
 *
 * @module
 */

import { sleep } from "../mod.ts";

/** A file to which a worker writes its process id when it runs. */
export class Mark implements Disposable {
  readonly path = Deno.makeTempFileSync();

  /** Waits until the worker runs, and returns its process id. */
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
