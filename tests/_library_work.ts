/**
 * The functions that workers call in `threadpool_test.ts` and that need the library.
 *
 * @module
 */

import { getCurrent, Greenlet, joinAll, sleep, spawn } from "../gevent.ts";
import * as subprocess from "../subprocess.ts";
import { PoolClosed, transfer, WorkerDied } from "../threadpool.ts";
import { Timeout } from "../timeout.ts";

export function* generated(x: number): Generator<unknown, number> {
  yield* sleep(1);
  return getCurrent() instanceof Greenlet ? x + 1 : NaN;
}

export async function sumInGreenlets(count: number): Promise<number> {
  let sum = 0;
  const greenlets = Array.from({ length: count }, (_, i) =>
    spawn(async () => {
      await sleep(1);
      sum += i;
    }));
  await joinAll(greenlets);
  return sum;
}

/** Throws an error of the library. */
export function fail(how: string): never {
  switch (how) {
    case "timeout":
      throw new Timeout(5);
    case "closed":
      throw new PoolClosed("closed");
    case "died":
      throw new WorkerDied("died");
    case "called":
      throw new subprocess.CalledProcessError("ls", ["x"], {
        code: 2,
        signal: null,
        success: false,
        stdout: "",
        stderr: "no",
      });
    case "expired":
      throw new subprocess.TimeoutExpired(5, "ls", [], "out", "");
    default:
      throw new Error(how);
  }
}

export function make(length: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(length).fill(7);
  return transfer(data, [data.buffer]);
}
