/**
 * Helpers for the tests of greenlets: a test for both kinds of body, a place for the errors
 * that are reported to the hub, and scripts in a process of their own.
 *
 * @module
 */

import { getHub } from "../mod.ts";
import { reportUntaken } from "../_hub/reports.ts";

export { settle } from "./_quiet.ts";

/** A body of either kind: the calls of the library take both alike. */
export type Body<A extends unknown[], T> = (
  ...args: A
) => Promise<T> | Generator<unknown, T, unknown>;

/** The same body twice. */
export interface Bodies<A extends unknown[], T> {
  async: (...args: A) => Promise<T>;
  generator: (...args: A) => Generator<unknown, T, unknown>;
}

/** Makes one test with the async body and one with the generator body. */
export function testBoth<A extends unknown[], T>(
  name: string,
  bodies: Bodies<A, T>,
  test: (body: Body<A, T>) => Promise<void>,
): void {
  Deno.test(`${name}, async body`, () => test(bodies.async));
  Deno.test(`${name}, generator body`, () => test(bodies.generator));
}

/**
 * Collects the errors that are reported to the hub while this is in use, and keeps them
 * from stderr. Reading them first reports the errors that no greenlet has taken, which the
 * library does at the end of a turn of the loop.
 */
export class Failures implements Disposable {
  readonly #contexts: unknown[] = [];
  readonly #errors: unknown[] = [];
  readonly #handleError = getHub().handleError;

  constructor() {
    getHub().handleError = (context, error) => {
      this.#contexts.push(context);
      this.#errors.push(error);
    };
  }

  /** The contexts of the errors: nearly always greenlets. */
  get contexts(): unknown[] {
    reportUntaken();
    return this.#contexts;
  }

  /** The errors, in the same order. */
  get errors(): unknown[] {
    reportUntaken();
    return this.#errors;
  }

  [Symbol.dispose](): void {
    reportUntaken();
    getHub().handleError = this.#handleError;
  }
}

/** The output of a script, and how its process has ended. */
export interface ScriptOutput {
  out: string[];
  err: string;
  code: number;
  signal: Deno.Signal | null;
}

/** The modules that `mod.ts` is made of, the lower ones first; the last one is `mod.ts`. */
const MODULES = [
  "greenlet",
  "hub",
  "timeout",
  "gevent",
  "event",
  "lock",
  "condition",
  "queue",
  "local",
  "pool",
  "nursery",
  "select",
  "signal",
  "inspect",
  "socket",
  "threadpool",
  "subprocess",
  "server",
  "http",
  "backdoor",
  "trace",
  "monitor",
  "monkey",
  "mod",
].map((name) => new URL(`../${name}.ts`, import.meta.url).href);

/** The import of each name of the library, from the lowest module that has it. */
let imports: Promise<Map<string, string>> | undefined;

async function findImports(): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const whole = await import("../mod.ts") as Record<string, unknown>;
  for (const module of MODULES) {
    const exports = await import(module) as Record<string, unknown>;
    const from = `from ${JSON.stringify(module)};`;
    for (const [name, value] of Object.entries(whole)) {
      if (found.has(name)) continue;
      if (value === exports) found.set(name, `import * as ${name} ${from}`);
      else if (Object.hasOwn(exports, name) && exports[name] === value) {
        found.set(name, `import { ${name} } ${from}`);
      }
    }
  }
  return found;
}

/**
 * Makes the imports of the names that a script uses. Loading the whole library takes a process
 * 170 ms of processor time, and the greenlets alone 70.
 */
async function importsOf(script: string): Promise<string> {
  const named = new Set(script.match(/[\w$]+/g));
  const lines: string[] = [];
  for (const [name, line] of await (imports ??= findImports())) {
    if (named.has(name)) lines.push(line);
  }
  if (named.has("gevent")) {
    lines.push(`import * as gevent from ${JSON.stringify(MODULES.at(-1))};`);
  }
  return lines.join("\n");
}

/** The arguments by which `deno` runs a script; `deno eval` takes 30 ms more of processor time. */
export function argsOf(script: string, flags: string[] = []): string[] {
  const address = `data:text/javascript,${encodeURIComponent(script)}`;
  return ["run", "-q", "-A", ...flags, address];
}

/**
 * Runs a script in a process of its own. All names of the library are in scope, and `gevent`
 * has all of them.
 *
 * @param body The script, in JavaScript.
 * @param told Called with each line that it prints.
 * @param flags Flags of the runtime.
 */
export async function runScript(
  body: string,
  told: (line: string, process: Deno.ChildProcess) => void = () => {},
  flags: string[] = [],
): Promise<ScriptOutput> {
  const script = `${await importsOf(body)}\n${body}`;
  await using process = new Deno.Command(Deno.execPath(), {
    args: argsOf(script, flags),
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  const err = new Response(process.stderr).text();
  const out: string[] = [];
  let rest = "";
  const text = process.stdout.pipeThrough(new TextDecoderStream());
  for await (const chunk of text) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      out.push(line);
      told(line, process);
    }
  }
  const { code, signal } = await process.status;
  return { out, err: await err, code, signal };
}
