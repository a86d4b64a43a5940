/**
 * The functions that workers call in `threadpool_test.ts` and that need nothing of the library,
 * which takes each worker 0.1 s of processor time to load.
 *
 * @module
 */

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
  await new Promise((resolve) => setTimeout(resolve, ms));
  return value;
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
