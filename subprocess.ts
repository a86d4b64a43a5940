/**
 * Runs other programs: waits for their end, and returns their output.
 *
 * ```ts
 * import { subprocess } from "@gevent/gevent";
 *
 * const { stdout } = await subprocess.run("echo", ["hello"], { text: true });
 * console.log(stdout); // hello
 * ```
 *
 * An interrupt of the call, or its timeout, ends the program **and all processes that it has
 * started**: they get SIGTERM, and SIGKILL some time later. The call does not wait for that. It
 * throws at once, and this process may end meanwhile.
 *
 * For this, the program becomes the leader of a new process group and session. So Ctrl-C on a
 * terminal reaches only this process, which ends its children when `run(main)` kills the
 * greenlets, or when it exits. Only with permission to run any program (`--allow-run`), and not
 * on Windows, can a whole group be ended; otherwise only the program itself is. A process that
 * leaves the group, such as a daemon, is not ended.
 *
 * @module
 */

import { nameClasses } from "./_base/inspecting.ts";
import { after } from "./_base/after.ts";
import { allOf, NO_OPTIONS, then } from "./_base/language.ts";
import {
  checkFlag,
  checkOptions,
  isInstance,
  isObject,
  isRevoked,
  show,
} from "./_base/checks.ts";
import { denoFunction } from "./_base/properties.ts";
import { Begun } from "./_hub/begun.ts";
import {
  atEnd,
  type Bytes,
  canEndGroups,
  endChild,
  OutputPipe,
  signalChild,
  statusOf,
  unrefChild,
  whenEnded,
} from "./_hub/child.ts";
import { currentScope, runDetached } from "./_hub/current.ts";
import type { Scope } from "./_hub/scope.ts";
import { checkpoint, Suspension } from "./_hub/suspension.ts";
import { checkDuration } from "./_hub/timers.ts";
import type { Wait } from "./hub.ts";
import { Timeout } from "./timeout.ts";

/** Options of {@linkcode run} and {@linkcode checkOutput}. */
export interface RunOptions {
  /**
   * The standard input of the program; empty, if it is left out. It is no error if the program
   * does not read all of it.
   */
  input?: string | Uint8Array;
  /** After how many milliseconds to end the program and to throw. @default {Infinity} */
  timeout?: number;
  /** Whether to throw if the exit code is not 0. @default {false} */
  check?: boolean;
  /** Whether to decode the output as UTF-8 and return strings. @default {false} */
  text?: boolean;
  /** The working directory of the program. @default {the current one} */
  cwd?: string | URL;
  /** Environment variables, in addition to those of this process. */
  env?: Record<string, string>;
  /**
   * How many milliseconds after SIGTERM a program that has not ended gets SIGKILL. `Infinity` for
   * never.
   *
   * @default {1000}
   */
  grace?: number;
}

/**
 * The type of the output, by the options: a string with `text: true`, otherwise bytes.
 *
 * @typeParam O The options.
 */
export type OutputOf<O> = O extends { text: infer T }
  ? T extends true ? string : Uint8Array<ArrayBuffer>
  : O extends { text?: infer T } ? unknown extends T ? Uint8Array<ArrayBuffer>
    : T extends true ? string
    : Uint8Array<ArrayBuffer>
  : Uint8Array<ArrayBuffer>;

/**
 * The exit status and the output of a program. Python's `CompletedProcess`.
 *
 * @typeParam T The type of the output: bytes or a string.
 */
export interface Completed<T = Uint8Array<ArrayBuffer>> {
  /** The exit code; after a signal, 128 plus the number of the signal. */
  readonly code: number;
  /** The signal that has ended the program; `null` if none has. */
  readonly signal: Deno.Signal | null;
  /** Whether the exit code is 0. */
  readonly success: boolean;
  /** The standard output. */
  readonly stdout: T;
  /** The standard error. */
  readonly stderr: T;
}

/**
 * Thrown if a program has failed: by {@linkcode run} with `check`, and by
 * {@linkcode checkOutput}. Python's `CalledProcessError`.
 *
 * @typeParam T The type of the output: bytes or a string.
 *
 * @example Usage
 * ```ts
 * import { subprocess } from "@gevent/gevent";
 *
 * try {
 *   await subprocess.run("sh", ["-c", "echo no >&2; exit 3"], {
 *     check: true,
 *     text: true,
 *   });
 * } catch (error) {
 *   if (!(error instanceof subprocess.CalledProcessError)) throw error;
 *   console.log(error.code, error.stderr); // 3 no
 * }
 * ```
 */
export class CalledProcessError<T = Uint8Array<ArrayBuffer> | string>
  extends Error
  implements Completed<T> {
  static {
    this.prototype.name = "CalledProcessError";
  }

  /** The program. */
  readonly command: string | URL;
  /** The arguments of the program. */
  readonly args: readonly string[];
  /** The exit code; after a signal, 128 plus the number of the signal. */
  readonly code: number;
  /** The signal that has ended the program; `null` if none has. */
  readonly signal: Deno.Signal | null;
  /** Whether the exit code is 0. */
  readonly success: boolean;
  /** The standard output. */
  readonly stdout: T;
  /** The standard error. */
  readonly stderr: T;

  /**
   * Makes the error.
   *
   * @param command The program.
   * @param args The arguments of the program.
   * @param completed The exit status and the output.
   */
  constructor(
    command: string | URL,
    args: readonly string[],
    completed: Completed<T>,
  ) {
    const { code, signal, success, stdout, stderr } = completed;
    super(
      signal === null
        ? `${show(String(command))} failed with exit code ${code}`
        : `${show(String(command))} was ended by ${signal}`,
    );
    this.command = command;
    this.args = args;
    this.code = code;
    this.signal = signal;
    this.success = success;
    this.stdout = stdout;
    this.stderr = stderr;
  }
}

/**
 * Thrown if a program has not ended before its timeout. Python's `TimeoutExpired`.
 *
 * @typeParam T The type of the output: bytes or a string.
 */
export class TimeoutExpired<T = Uint8Array<ArrayBuffer> | string>
  extends Timeout {
  static {
    this.prototype.name = "TimeoutExpired";
  }

  /** The program. */
  readonly command: string | URL;
  /** The arguments of the program. */
  readonly args: readonly string[];
  /** The standard output before the timeout. */
  readonly stdout: T;
  /** The standard error before the timeout. */
  readonly stderr: T;

  /**
   * Makes the error.
   *
   * @param ms The timeout, in milliseconds.
   * @param command The program.
   * @param args The arguments of the program.
   * @param stdout The standard output before the timeout.
   * @param stderr The standard error before the timeout.
   */
  constructor(
    ms: number,
    command: string | URL,
    args: readonly string[],
    stdout: T,
    stderr: T,
  ) {
    super(ms);
    this.message = `${show(String(command))} timed out after ${ms} ms`;
    this.command = command;
    this.args = args;
    this.stdout = stdout;
    this.stderr = stderr;
  }
}

/**
 * Runs a program and waits until it has ended and its output is closed. A switch point.
 * gevent's `subprocess.run`, with the output captured.
 *
 * An interrupt, such as a kill, ends the program and the processes that it has started, and is
 * thrown at once. If an interrupt is due already, the program does not start. A `Timeout` that
 * interrupts the call gets the properties `stdout` and `stderr`, with the output until then; a
 * {@linkcode TimeoutExpired} has them as well.
 *
 * If the program does not exist, or must not be run, the call fails with the error of the runtime:
 * `Deno.errors.NotFound` or `Deno.errors.NotCapable`.
 *
 * @typeParam O The options, which decide the type of the output.
 * @param command The program: a name that is looked up in `PATH`, a path, or a `file:` URL.
 * @param args The arguments of the program.
 * @param options The input, the time limit, and the form of the output.
 * @returns The exit status and the output.
 * @throws {CalledProcessError} If `check` is set and the exit code is not 0.
 * @throws {TimeoutExpired} At the timeout. It is a `Timeout`.
 * @throws {TypeError | RangeError} At the call, if an argument is invalid.
 *
 * @example A filter, and a time limit
 * ```ts
 * import { subprocess } from "@gevent/gevent";
 *
 * const { stdout, success } = await subprocess.run("sort", ["-n"], {
 *   input: "10\n9\n",
 *   text: true,
 *   timeout: 10_000,
 * });
 * console.log(success, stdout.split("\n")); // true [ "9", "10", "" ]
 * ```
 */
export function run<O extends RunOptions = { text?: false }>(
  command: string | URL,
  args: readonly string[] = [],
  options: O = NO_OPTIONS as O,
): Wait<Completed<OutputOf<O>>> {
  const program = new Program(command, args, options);
  return begin(program, options.check ?? false, (completed) => completed);
}

/**
 * Runs a program and returns its standard output. A switch point. An interrupt has the same
 * effect as in {@linkcode run}. gevent's `subprocess.check_output`.
 *
 * @typeParam O The options, which decide the type of the output.
 * @param command The program: a name that is looked up in `PATH`, a path, or a `file:` URL.
 * @param args The arguments of the program.
 * @param options The input, the time limit, and the form of the output.
 * @returns The standard output.
 * @throws {CalledProcessError} If the exit code is not 0. It holds the standard error.
 * @throws {TimeoutExpired} At the timeout. It is a `Timeout`.
 * @throws {TypeError | RangeError} At the call, if an argument is invalid.
 *
 * @example Usage
 * ```ts
 * import { subprocess } from "@gevent/gevent";
 *
 * console.log(await subprocess.checkOutput("echo", ["hello"], { text: true }));
 * ```
 */
export function checkOutput<
  O extends Omit<RunOptions, "check"> = { text?: false },
>(
  command: string | URL,
  args: readonly string[] = [],
  options: O = NO_OPTIONS as O,
): Wait<OutputOf<O>> {
  const program = new Program(command, args, options);
  return begin(program, true, (completed) => completed.stdout);
}

type Output = Bytes | string;

/** The checked arguments of a call, copied so that later changes have no effect. */
class Program {
  readonly command: string | URL;
  readonly args: readonly string[];
  readonly input: Uint8Array | undefined;
  readonly timeout: number;
  readonly grace: number;
  readonly #text: boolean;
  readonly #place: Pick<Deno.CommandOptions, "cwd" | "env">;

  constructor(
    command: string | URL,
    args: readonly string[],
    options: RunOptions,
  ) {
    denoFunction("Command");
    checkCommand(command);
    checkArgs(args);
    checkOptions(options, "run a command");
    const { input, timeout = Infinity, grace = 1000, cwd, env } = options;
    const { check, text } = options;
    checkInput(input);
    checkDuration(timeout, "run a command");
    checkDuration(grace, "run a command");
    checkFlag(check, "run a command", "check");
    checkFlag(text, "run a command", "text");
    checkCwd(cwd);
    checkEnv(env);
    this.command = command;
    this.args = [...args];
    this.input = typeof input === "string"
      ? new TextEncoder().encode(input)
      : input?.slice();
    this.timeout = timeout;
    this.grace = Math.max(grace, 0);
    this.#text = text ?? false;
    this.#place = {
      ...cwd !== undefined && { cwd },
      ...env !== undefined && { env: { ...env } },
    };
  }

  /** Starts the program. */
  start(detached: boolean): Deno.ChildProcess {
    return new Deno.Command(this.command, {
      ...this.#place,
      args: [...this.args],
      stdin: this.input === undefined ? "null" : "piped",
      stdout: "piped",
      stderr: "piped",
      detached,
    }).spawn();
  }

  /** Returns the output as the options ask for it: as text or as bytes. */
  form(bytes: Bytes): Output {
    return this.#text ? new TextDecoder().decode(bytes) : bytes;
  }
}

function begin<R>(
  program: Program,
  check: boolean,
  form: (completed: Completed<Output>) => unknown,
): Wait<R> {
  const scope = currentScope();
  return checkpoint(scope) ??
    new ProgramWait(program, scope, check, form).begin() as Wait<R>;
}

/**
 * After the timeout the call still reads the output and waits for the end of the program. It
 * sleeps so often, for so many milliseconds, and then throws. In each sleep the loop asks what has
 * arrived: one long sleep might be over before it has asked, if the machine is busy.
 */
const SLEEPS = 10;
const SLEEP = 5;

/** The wait for the end of a program. */
class ProgramWait extends Suspension<unknown> {
  readonly #program: Program;
  readonly #owner: Scope;
  readonly #check: boolean;
  readonly #form: (completed: Completed<Output>) => unknown;
  /** `null` if the program could not be started. */
  #running: RunningProgram | null = null;

  constructor(
    program: Program,
    scope: Scope,
    check: boolean,
    form: (completed: Completed<Output>) => unknown,
  ) {
    super();
    this.#program = program;
    this.#owner = scope;
    this.#check = check;
    this.#form = form;
  }

  begin(): Wait<unknown> {
    try {
      this.#running = runDetached(() => new RunningProgram(this.#program));
    } catch (error) {
      this.throw(error);
      return this.suspend(this.#owner);
    }
    this.limit(this.#program.timeout);
    const wait = this.suspend(this.#owner);
    runDetached(() =>
      void then(
        this.#running!.completed,
        (completed) => this.#ended(completed),
        (error) => this.throw(error),
      )
    );
    return wait;
  }

  override describe(): string {
    return `output of ${this.#program.command}`;
  }

  #ended(completed: Completed<Output>): void {
    // The timeout came first.
    if (this.#running!.isEnded) return;
    if (completed.success || !this.#check) {
      return this.switch(this.#form(completed));
    }
    const { command, args } = this.#program;
    this.throw(new CalledProcessError(command, args, completed));
  }

  protected override get caller(): Scope {
    return this.#owner;
  }

  /** At the timeout, first reads the output that came in time: the loop may have been held up. */
  override expired(): void {
    this.value = undefined;
    const running = this.#running!;
    running.end();
    const timedOut = () => {
      if (this.state !== "waiting") return;
      const { command, args, timeout } = this.#program;
      const [stdout, stderr] = running.close();
      this.throw(new TimeoutExpired(timeout, command, args, stdout, stderr));
    };
    let left = SLEEPS;
    const goOn = () => {
      if (left-- === 0) timedOut();
      else if (this.state === "waiting") after(SLEEP, goOn);
    };
    // Most programs end at once. When this throws, they have ended.
    runDetached(() => {
      void then(running.completed, timedOut, timedOut);
      goOn();
    });
  }

  protected override undo(error: unknown): void {
    if (this.#running === null) return;
    this.#running.end();
    const [stdout, stderr] = this.#running.close();
    // A timeout that interrupts several calls keeps the output of the first.
    if (!(error instanceof Timeout) || "stdout" in error) return;
    Object.assign(error, { stdout, stderr });
  }
}

/** A running program. */
class RunningProgram {
  readonly #program: Program;
  readonly #child: Deno.ChildProcess;
  readonly #isGroup = canEndGroups();
  readonly #abort = new AbortController();
  readonly #stdout: OutputPipe;
  readonly #stderr: OutputPipe;
  /** The operation that writes the input. It may never end. */
  readonly #writing = new Begun();
  /** Ends the program when this process exits: Ctrl-C on a terminal does not reach it. */
  readonly #exit = () => signalChild(this.#child, "SIGTERM", this.#isGroup);
  /** Whether the program was told to end. */
  isEnded = false;
  /** Resolves when the program has ended and its output is closed. */
  readonly completed: Promise<Completed<Output>>;

  constructor(program: Program) {
    this.#program = program;
    const child = this.#child = program.start(this.#isGroup);
    this.#stdout = new OutputPipe(child.stdout, this.#abort);
    this.#stderr = new OutputPipe(child.stderr, this.#abort);
    if (program.input !== undefined) {
      void feed(child.stdin, program.input, this.#writing);
    }
    if (this.#isGroup) atEnd.add(this.#exit);
    this.completed = then(
      allOf([statusOf(child), this.#stdout.bytes, this.#stderr.bytes]),
      (results) => {
        atEnd.delete(this.#exit);
        // A process that it has started may hold the input open and not read it.
        this.#writing.unref();
        return this.#complete(
          results[0] as Deno.CommandStatus,
          results[1] as Bytes,
          results[2] as Bytes,
        );
      },
    );
  }

  #complete(
    { code, signal, success }: Deno.CommandStatus,
    stdout: Bytes,
    stderr: Bytes,
  ): Completed<Output> {
    return {
      code,
      signal,
      success,
      stdout: this.#program.form(stdout),
      stderr: this.#program.form(stderr),
    };
  }

  /** Tells the program to end. */
  end(): void {
    if (this.isEnded) return;
    this.isEnded = true;
    atEnd.delete(this.#exit);
    const { grace } = this.#program;
    runDetached(() =>
      endChild(
        this.#child,
        { grace, group: this.#isGroup, holds: false },
        (call) => whenEnded(this.#child, call),
      )
    );
  }

  /** Stops reading, and returns the output so far. */
  close(): [stdout: Output, stderr: Output] {
    const printed = [this.#stdout, this.#stderr].map((pipe) => {
      const bytes = pipe.read();
      pipe.forget();
      return this.#program.form(bytes);
    });
    unrefChild(this.#child);
    runDetached(() => this.#abort.abort());
    // The write ends when the child ends, which may be much later.
    this.#writing.unref();
    return printed as [Output, Output];
  }
}

/** Writes the input of a program, until the program closes it. */
async function feed(
  stdin: WritableStream<Uint8Array<ArrayBufferLike>>,
  input: Uint8Array,
  writing: Begun,
): Promise<void> {
  try {
    const writer = stdin.getWriter();
    // Once the stream is ready, `write()` begins its operation before it returns.
    await writer.ready;
    await writing.watch(() => writer.write(input));
    await writer.close();
  } catch {
    // The program has closed its input, or has ended.
  }
}

function checkCommand(command: unknown): void {
  if (isPathOrUrl(command) && command !== "") return;
  const wanted = !isRevoked(command) && Array.isArray(command)
    ? "a name or a URL, before the array of its arguments"
    : pathInstead(command, "a name or a URL");
  throw wrong("command", wanted, command);
}

/** Whether the runtime takes a value for a path: otherwise its errors don't name the argument. */
function isPathOrUrl(value: unknown): boolean {
  return isText(value) || isInstance(value, URL) && value.protocol === "file:";
}

/** Says what is wanted in place of a value that is no path. */
function pathInstead(value: unknown, kind: string): string {
  return isInstance(value, URL)
    ? `${kind} that begins with "file:"`
    : textInstead(value, kind);
}

/** Says what is wanted in place of a value that the system can't take. */
function textInstead(value: unknown, kind: string): string {
  const hasNul = typeof value === "string" && value.includes("\0");
  return hasNul ? `${kind} without NUL characters` : kind;
}

/** Whether the system can take a value: its strings end at the first NUL character. */
function isText(value: unknown): value is string {
  return typeof value === "string" && !value.includes("\0");
}

function checkArgs(args: unknown): void {
  if (isRevoked(args) || !Array.isArray(args)) {
    throw wrong("args", "an array of strings", args);
  }
  // A copy, as `forEach()` passes over places without an item.
  [...args].forEach((arg: unknown, i) => {
    if (isText(arg)) return;
    throw wrong(`args[${i}]`, textInstead(arg, "a string"), arg);
  });
}

function checkInput(input: unknown): void {
  if (input === undefined || typeof input === "string") return;
  if (!isInstance(input, Uint8Array)) {
    throw wrong("input", "a string or a Uint8Array", input);
  }
  const { buffer } = input;
  if (!(buffer as Partial<ArrayBuffer>).detached) return;
  throw new TypeError(
    "Cannot run a command as 'input' must be in memory: received a Uint8Array whose buffer was transferred",
  );
}

function checkCwd(cwd: unknown): void {
  if (cwd === undefined || isPathOrUrl(cwd)) return;
  throw wrong("cwd", pathInstead(cwd, "a path or a URL"), cwd);
}

function checkEnv(env: unknown): void {
  if (env === undefined) return;
  // A `Map` or an array has no properties that are variables.
  if (!isObject(env) || isRevoked(env) || Symbol.iterator in env) {
    throw wrong("env", "an object of strings", env);
  }
  Object.entries(env).forEach(([name, value]) => {
    if (name === "" || name.includes("=") || !isText(name)) {
      throw wrong("env", 'of names without "=" and NUL characters', name);
    }
    if (isText(value)) return;
    throw wrong(`env.${name}`, textInstead(value, "a string"), value);
  });
}

function wrong(name: string, kind: string, value: unknown): TypeError {
  return new TypeError(
    `Cannot run a command as '${name}' must be ${kind}: received ${
      show(value)
    }`,
  );
}

nameClasses({ CalledProcessError, TimeoutExpired });
