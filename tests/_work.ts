/**
 * The functions that workers call in `threadpool_test.ts`.
 *
 * @module
 */

// Not `mod.ts`, as each worker loads these modules.
import { getCurrent, Greenlet, joinAll, sleep, spawn } from "../gevent.ts";
import * as subprocess from "../subprocess.ts";
import { PoolClosed, transfer, WorkerDied } from "../threadpool.ts";
import { Timeout } from "../timeout.ts";

export const version = 1;

export class OwnError extends RangeError {
  constructor(readonly code: number, options?: ErrorOptions) {
    super(`code ${code}`, options);
  }

  static {
    this.prototype.name = "OwnError";
  }
}

export function double(x: number): number {
  return 2 * x;
}

export async function later<T>(value: T, ms = 1): Promise<T> {
  await sleep(ms);
  return value;
}

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

/** Writes its process id to a file, and computes for ever. */
export function compute(file: string): never {
  Deno.writeTextFileSync(file, `${Deno.pid}\n`);
  for (;;);
}

/** Writes its process id to a file, and waits for ever. */
export function wait(file: string): Promise<never> {
  Deno.writeTextFileSync(file, `${Deno.pid}\n`);
  return new Promise(() => setInterval(() => {}, 1000));
}

export function pid(): number {
  return Deno.pid;
}

export function nothing(): void {}

export function fail(how: string): never {
  switch (how) {
    case "type":
      throw new TypeError("a type", { cause: new OwnError(1) });
    case "own":
      throw new OwnError(7);
    case "runtime":
      throw new Deno.errors.NotFound("no file");
    case "dom":
      throw new DOMException("aborted", "AbortError");
    case "aggregate":
      throw new AggregateError([new OwnError(1), 2], "several");
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
    case "value":
      throw { a: [1] };
    case "function":
      throw () => {};
    case "unreadable":
      throw Object.defineProperty(new Error(), "message", {
        get() {
          throw new Error("no");
        },
      });
    case "property":
      throw Object.assign(new Error("x"), { sent: 1, unsent: () => {} });
    default:
      throw new Error(how);
  }
}

/** Ends the worker. */
export function die(how: string, code = 0): Promise<never> | never {
  if (how === "exit") Deno.exit(code);
  if (how === "close") self.close();
  if (how === "signal") Deno.kill(Deno.pid, "SIGKILL");
  if (how === "memory") {
    const all: unknown[] = [];
    for (;;) all.push(new Array(1e6).fill(all.length));
  }
  setTimeout(() => {
    throw new Error("caught by nothing");
  }, 0);
  return new Promise(() => setInterval(() => {}, 1000));
}

export function lengthOf(data: Uint8Array): number {
  return data.length;
}

export function make(length: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(length).fill(7);
  return transfer(data, [data.buffer]);
}

export function echo<T>(value: T): T {
  return value;
}

export function unsendable(): unknown {
  return () => {};
}

export function print(text: string): void {
  console.log(text);
  console.error(text);
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** Returns the permissions that are granted. */
export function allowed(): string[] {
  return (["read", "write", "net", "env", "run", "sys", "ffi"] as const)
    .filter((name) => Deno.permissions.querySync({ name }).state === "granted");
}

export function readsFile(path: string): boolean {
  try {
    Deno.readTextFileSync(path);
    return true;
  } catch {
    return false;
  }
}
