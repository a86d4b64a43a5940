/**
 * Other programs: run one, wait for its end, and have its output.
 *
 * ```ts
 * import { subprocess } from "@gevent/gevent";
 *
 * const { stdout } = await subprocess.run("echo", ["hello"], { text: true });
 * console.log(stdout); // hello
 * ```
 *
 * When the call is interrupted, or its time is over, the program is ended **with all
 * processes that it has started**: they get SIGTERM, and SIGKILL some time later. Nothing
 * waits for that: the call throws at once, and the own process may end, too.
 *
 * For this, the child leads a group of processes, which is a session of its own. So Ctrl-C on
 * a terminal reaches the own process only, which ends its children when it is unwound by
 * `run(main)`, or exits. A group can be ended where the process has permission to run any
 * program (`--allow-run`), and not on Windows; elsewhere only the child itself is ended. A
 * process that leaves the group, as daemons do, is not ended either.
 *
 * @module
 */

import { nameClasses } from "./_base/inspecting.ts";
import { after } from "./_base/after.ts";
import { allOf, NO_OPTIONS, then } from "./_base/language.ts";
import { checkOptions, show } from "./_base/checks.ts";
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
   * What the program reads from its standard input; nothing, if left out. That it does not
   * read all of it is no error.
   */
  input?: string | Uint8Array;
  /** After how many milliseconds to end the program, and to throw. @default {Infinity} */
  timeout?: number;
  /** Whether a program that fails is an error. @default {false} */
  check?: boolean;
  /** Whether the output is text in UTF-8, and not bytes. @default {false} */
  text?: boolean;
  /** The directory to run it in. @default {the current one} */
  cwd?: string | URL;
  /** Environment variables that it has in addition to our own. */
  env?: Record<string, string>;
  /**
   * After how many milliseconds a program that was told to end, and has not, is killed.
   * `Infinity` for never.
   *
   * @default {1000}
   */
  grace?: number;
}

/**
 * What the output of a program is by the options: a string with `text: true`, else bytes.
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
 * How a program has ended, and what it has printed. Python's `CompletedProcess`.
 *
 * @typeParam T What its output is: bytes, or a string.
 */
export interface Completed<T = Uint8Array<ArrayBuffer>> {
  /** Its exit code; with a signal, 128 and the number of the signal. */
  readonly code: number;
  /** The signal that has ended it; `null` if none has. */
  readonly signal: Deno.Signal | null;
  /** Whether the exit code is 0. */
  readonly success: boolean;
  /** What the program has printed to its standard output. */
  readonly stdout: T;
  /** What the program has printed to its standard error. */
  readonly stderr: T;
}

/**
 * A program has failed that was to be checked. Python's `CalledProcessError`.
 *
 * @typeParam T What its output is: bytes, or a string.
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

  /** The program that was run. */
  readonly command: string | URL;
  /** Its arguments. */
  readonly args: readonly string[];
  /** Its exit code. */
  readonly code: number;
  /** The signal that has ended it; `null` if none has. */
  readonly signal: Deno.Signal | null;
  /** Whether the exit code is 0. */
  readonly success: boolean;
  /** What the program has printed to its standard output. */
  readonly stdout: T;
  /** What the program has printed to its standard error. */
  readonly stderr: T;

  /**
   * Makes the error.
   *
   * @param command The program that was run.
   * @param args Its arguments.
   * @param completed How it has ended.
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
 * A program has not ended in its time. Python's `TimeoutExpired`.
 *
 * @typeParam T What its output is: bytes, or a string.
 */
export class TimeoutExpired<T = Uint8Array<ArrayBuffer> | string>
  extends Timeout {
  /** The program that was run. */
  readonly command: string | URL;
  /** Its arguments. */
  readonly args: readonly string[];
  /** What it has printed to its standard output until then. */
  readonly stdout: T;
  /** What it has printed to its standard error until then. */
  readonly stderr: T;

  /**
   * Makes the error.
   *
   * @param ms After how many milliseconds.
   * @param command The program that was run.
   * @param args Its arguments.
   * @param stdout What it has printed to its standard output until then.
   * @param stderr What it has printed to its standard error until then.
   */
  constructor(
    ms: number,
    command: string | URL,
    args: readonly string[],
    stdout: T,
    stderr: T,
  ) {
    super(ms);
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
 * An interrupt, such as a kill, ends the program and the processes that it has started, and
 * throws at once. An interrupt that is due when this is called starts nothing. A `Timeout`
 * that interrupts the call gets the properties `stdout` and `stderr`, which the call's own
 * has as well: what was printed until then.
 *
 * A program that can't be started, or must not be, makes the call fail with the runtime's own
 * error: `Deno.errors.NotFound`, `Deno.errors.NotCapable`.
 *
 * @typeParam O The options, which tell what the output is.
 * @param command The program: a name that is looked for in `PATH`, a path, or a `file:` URL.
 * @param args Its arguments.
 * @param options What it reads, how long it may run, and what its output is to be.
 * @returns How it has ended, and what it has printed.
 * @throws {CalledProcessError} If `check` is set and the exit code is not 0.
 * @throws {TimeoutExpired} At the timeout; it is a `Timeout`.
 * @throws {TypeError | RangeError} At the call, if an argument is of the wrong kind.
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
 * Runs a program and gives what it has printed to its standard output. A switch point, as
 * {@linkcode run} is. gevent's `subprocess.check_output`.
 *
 * @typeParam O The options, which tell what the output is.
 * @param command The program.
 * @param args Its arguments.
 * @param options What it reads, how long it may run, and what its output is to be.
 * @returns Its output.
 * @throws {CalledProcessError} If the exit code is not 0; it has what was printed to the
 * standard error.
 * @throws {TimeoutExpired} At the timeout; it is a `Timeout`.
 * @throws {TypeError | RangeError} At the call, if an argument is of the wrong kind.
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

/** A program that is to be run, as it was asked for, of which nothing changes any more. */
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
    checkFlag(check, "check");
    checkFlag(text, "text");
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

  /** Starts it. */
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

  /** Turns the output into the form that was asked for: text or bytes. */
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
 * For how many milliseconds after its time is over a program may still be read, and end: the
 * call throws then at the latest.
 */
const LINGER = 50;

/** The wait for the end of a program. */
class ProgramWait extends Suspension<unknown> {
  readonly #program: Program;
  readonly #owner: Scope;
  readonly #check: boolean;
  readonly #form: (completed: Completed<Output>) => unknown;
  /** `null` if it could not be started. */
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
    // Its time was over before.
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

  /** Reads the output that came in time first, in case the loop was held up. */
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
    // Most programs end at once, and then nothing of them is left when this throws.
    runDetached(() => {
      void then(running.completed, timedOut, timedOut);
      after(LINGER, timedOut);
    });
  }

  protected override undo(error: unknown): void {
    if (this.#running === null) return;
    this.#running.end();
    const [stdout, stderr] = this.#running.close();
    // One that ends several calls has what the first of them has printed.
    if (!(error instanceof Timeout) || "stdout" in error) return;
    Object.assign(error, { stdout, stderr });
  }
}

/** A program that runs. */
class RunningProgram {
  readonly #program: Program;
  readonly #child: Deno.ChildProcess;
  readonly #isGroup = canEndGroups();
  readonly #abort = new AbortController();
  readonly #stdout: OutputPipe;
  readonly #stderr: OutputPipe;
  /** The operation that writes its input, which may never end. */
  readonly #writing = new Begun();
  /** Ends it when the process exits: Ctrl-C on a terminal does not reach it. */
  readonly #exit = () => signalChild(this.#child, "SIGTERM", this.#isGroup);
  /** Whether it was told to end. */
  isEnded = false;
  /** Resolves when it has ended. */
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
        // Another program may have its input open, and not read it.
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

  /** Has it end. */
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

  /** Waits for nothing more of it, and gives what it has printed so far. */
  close(): [stdout: Output, stderr: Output] {
    const printed = [this.#stdout, this.#stderr].map((pipe) => {
      const bytes = pipe.read();
      pipe.forget();
      return this.#program.form(bytes);
    });
    unrefChild(this.#child);
    runDetached(() => this.#abort.abort());
    // It ends when the child does, which may take as long as that likes.
    this.#writing.unref();
    return printed as [Output, Output];
  }
}

/** Gives a program its input, as far as it takes it. */
async function feed(
  stdin: WritableStream<Uint8Array<ArrayBufferLike>>,
  input: Uint8Array,
  writing: Begun,
): Promise<void> {
  try {
    const writer = stdin.getWriter();
    // As soon as the stream has started, a write begins its operation in the call.
    await writer.ready;
    await writing.watch(() => writer.write(input));
    await writer.close();
  } catch {
    // It has closed its input, or has ended.
  }
}

function checkCommand(command: unknown): void {
  if (typeof command === "string" && command !== "") return;
  if (command instanceof URL) return;
  throw wrong("command", "a name or a URL", command);
}

function checkArgs(args: unknown): void {
  if (!Array.isArray(args)) throw wrong("args", "an array of strings", args);
  args.forEach((arg, i) => {
    if (typeof arg !== "string") throw wrong(`args[${i}]`, "a string", arg);
  });
}

function checkInput(input: unknown): void {
  if (input === undefined || typeof input === "string") return;
  if (input instanceof Uint8Array) return;
  throw wrong("input", "a string or a Uint8Array", input);
}

function checkFlag(flag: unknown, name: string): void {
  if (flag === undefined || typeof flag === "boolean") return;
  throw wrong(name, "true or false", flag);
}

function checkCwd(cwd: unknown): void {
  if (cwd === undefined || typeof cwd === "string") return;
  if (cwd instanceof URL) return;
  throw wrong("cwd", "a path or a URL", cwd);
}

function checkEnv(env: unknown): void {
  if (env === undefined) return;
  if (typeof env !== "object" || env === null) {
    throw wrong("env", "an object of strings", env);
  }
  Object.entries(env).forEach(([name, value]) => {
    if (typeof value !== "string") {
      throw wrong(`env.${name}`, "a string", value);
    }
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
