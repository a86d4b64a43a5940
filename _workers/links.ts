/**
 * The side of a pool: starts workers, sends them calls, and ends them.
 *
 * @module
 */

import { after } from "../_base/after.ts";
import { atEnd, canEndGroups, signalGroup } from "../_hub/child.ts";
import { findWorkerRef } from "../_base/runtime.ts";
import { type Answer, dataUrl, isAnswer, type Request } from "./messages.ts";
import { type PermissionFlags, permissionFlags } from "./permissions.ts";

/** Called when something happens to a worker. */
export interface WorkerEvents {
  /** The worker has sent a message. */
  told(answer: Answer): void;
  /** The worker has ended by itself. `how` continues the phrase "as its worker". */
  died(how: string, cause?: unknown): void;
  /** The worker could not be started. */
  failed(error: unknown): void;
}

/** The pool's connection to a worker. */
export interface WorkerLink {
  /** Sends a call. The `moved` objects can't be used here any more. */
  send(request: Request, moved: readonly Transferable[]): void;
  /** Sets whether the worker keeps this process alive. */
  hold(holds: boolean): void;
  /** Ends the worker, even if it computes. */
  end(): void;
  /** Settles when the worker has ended. */
  readonly ended: Promise<void>;
}

/** Starts workers. */
export interface StartWorker {
  /** Whether `send()` copies the arguments, and throws at once if one can't be copied. */
  readonly copies: boolean;
  link(modules: readonly string[], events: WorkerEvents): WorkerLink;
}

/**
 * The URL of a worker's main module. The code contains the imports of the user's modules: the
 * worker then needs no permission to read them.
 */
function mainModule(
  serve: string,
  modules: readonly string[],
  ...rest: number[]
): string {
  const own = JSON.stringify(import.meta.resolve("./worker.ts"));
  const imports = modules.map((module) => {
    const address = JSON.stringify(module);
    return `${address}: () => import(${address})`;
  });
  const args = [`{ ${imports.join(", ")} }`, ...rest].join(", ");
  return dataUrl(`import { ${serve} } from ${own}; ${serve}(${args});`);
}

/** Starts threads. */
export function threads(permissions: PermissionFlags): StartWorker {
  return {
    copies: true,
    link: (modules, events) => new ThreadLink(modules, permissions, events),
  };
}

class ThreadLink implements WorkerLink {
  readonly #worker: Worker;
  readonly #events: WorkerEvents;
  #isOver = false;
  #holds = true;
  readonly ended = Promise.resolve();

  constructor(
    modules: readonly string[],
    permissions: PermissionFlags,
    events: WorkerEvents,
  ) {
    this.#events = events;
    const deno = permissions === "inherit" ? {} : { deno: { permissions } };
    const worker = new Worker(
      mainModule("serveThread", modules),
      { type: "module", ...deno } as WorkerOptions,
    );
    this.#worker = worker;
    worker.onmessage = ({ data }) => this.#take(data);
    worker.onmessageerror = () =>
      this.#die("has sent a message that can't be read");
    worker.onerror = (event) => {
      event.preventDefault();
      this.#die(`has failed: ${event.message}`, event.error);
    };
  }

  #take(message: unknown): void {
    if (this.#isOver || !isAnswer(message)) return;
    if (message[0] !== "exit") return this.#events.told(message);
    this.#die(`has exited with code ${message[1]}`);
  }

  #die(how: string, cause?: unknown): void {
    if (this.#isOver) return;
    this.end();
    this.#events.died(how, cause ?? undefined);
  }

  send(request: Request, moved: readonly Transferable[]): void {
    if (moved.length === 0) this.#worker.postMessage(request);
    else this.#worker.postMessage(request, [...moved]);
  }

  hold(holds: boolean): void {
    if (this.#holds === holds) return;
    this.#holds = holds;
    holdThread?.(this.#worker, holds);
  }

  end(): void {
    this.#isOver = true;
    this.#worker.terminate();
  }
}

const holdThread = findWorkerRef();

/** The part of a `ChildProcess` of `node:child_process` that is used. */
export interface Child {
  readonly pid?: number;
  readonly connected: boolean;
  readonly channel?: { ref(): void; unref(): void } | null;
  send(message: unknown, sent: (error: Error | null) => void): boolean;
  kill(signal: string): boolean;
  disconnect(): void;
  ref(): void;
  unref(): void;
  // deno-lint-ignore no-explicit-any -- the arguments depend on the event
  on(event: string, listener: (...args: any[]) => void): void;
}

interface ChildProcessModule {
  spawn(command: string, args: string[], options: object): Child;
}

/**
 * Starts a process of this runtime, as the leader of a new group. Ctrl-C does not reach it: its
 * parent decides when it ends.
 *
 * @param flags The flags of the runtime, permissions included.
 * @param program The main module, and the arguments of the program.
 * @param env Environment variables, in addition to those of this process.
 */
export function startProcess(
  flags: readonly string[],
  program: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Child {
  const isEnvOpen =
    Deno.permissions.querySync({ name: "env" }).state === "granted";
  return findChildProcess().spawn(
    Deno.execPath(),
    ["run", "-q", "--no-prompt", ...flags, ...program],
    {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      serialization: "advanced",
      detached: true,
      // Without permission to read the variables, none can be passed on.
      env: isEnvOpen ? { ...Deno.env.toObject(), ...env } : env,
    },
  );
}

/** By which signals the engine ends a process whose memory is used up. */
const OUT_OF_MEMORY = ["SIGTRAP", "SIGILL", "SIGABRT"];

/** Tells how a process has ended, as what it has done. */
export function howEnded(code: number | null, signal: string | null): string {
  if (signal === null) return `has exited with code ${code}`;
  const isEngine = OUT_OF_MEMORY.includes(signal);
  return `was ended by ${signal}${
    isEngine ? ", as when it runs out of memory" : ""
  }`;
}

/** Ends a process at once, with those that it has started if its group can be ended. */
export function killProcess(child: Child): void {
  const { pid } = child;
  if (pid === undefined) return;
  if (!canEndGroups() || !signalGroup(pid, "SIGKILL")) child.kill("SIGKILL");
}

function findChildProcess(): ChildProcessModule {
  const { process } = globalThis as unknown as {
    process: { getBuiltinModule(name: string): ChildProcessModule };
  };
  return process.getBuiltinModule("node:child_process");
}

/** Starts processes. */
export function processes(permissions: PermissionFlags): StartWorker {
  return {
    // A failed `send()` makes the channel useless. So arguments are copied before.
    copies: false,
    link: (modules, events) => new ProcessLink(modules, permissions, events),
  };
}

/**
 * How many milliseconds to wait for the last messages of a process that has ended. Its channel
 * reports its own end, unless another process holds it open.
 */
const LAST_WORDS = 1000;

class ProcessLink implements WorkerLink {
  readonly #child: Child;
  readonly #events: WorkerEvents;
  readonly #atEnd = () => this.#kill();
  #isOver = false;
  /** How the process has ended; `null` while it runs. */
  #end: string | null = null;
  #isDisconnected = false;
  readonly ended: Promise<void>;

  constructor(
    modules: readonly string[],
    permissions: PermissionFlags,
    events: WorkerEvents,
  ) {
    this.#events = events;
    const main = mainModule("serveProcess", modules, Deno.pid);
    const child = this.#child = startProcess(
      permissionFlags(permissions),
      [main],
    );
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    atEnd.add(this.#atEnd);
    const over = () => {
      atEnd.delete(this.#atEnd);
      if (this.#isDisconnected) resolve();
      else after(LAST_WORDS, resolve);
    };
    child.on("message", (message) => {
      if (!this.#isOver && isAnswer(message)) events.told(message);
    });
    child.on("error", (error: Error) => {
      if (child.pid !== undefined) {
        return this.#die(`has failed: ${error.message}`, error);
      }
      this.#isOver = this.#isDisconnected = true;
      over();
      events.failed(error);
    });
    child.on("exit", (code: number | null, signal: string | null) => {
      over();
      this.#end = howEnded(code, signal);
      if (this.#isDisconnected) return this.#die(this.#end);
      after(LAST_WORDS, () => this.#die(this.#end!));
    });
    child.on("disconnect", () => {
      this.#isDisconnected = true;
      if (this.#end !== null) resolve();
      if (this.#end !== null) return this.#die(this.#end);
      // The process is ending; or else the user's function has closed the channel.
      after(LAST_WORDS, () => this.#kill());
    });
  }

  #die(how: string, cause?: unknown): void {
    if (this.#isOver) return;
    this.end();
    this.#events.died(how, cause);
  }

  send(request: Request): void {
    this.#child.send(request, (error) => {
      if (error !== null) {
        this.#die(`could not be sent the call: ${error.message}`, error);
      }
    });
  }

  hold(holds: boolean): void {
    const { channel, pid } = this.#child;
    if (pid === undefined) return;
    if (holds) {
      this.#child.ref();
      channel?.ref();
    } else {
      this.#child.unref();
      channel?.unref();
    }
  }

  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#kill();
    if (this.#child.connected) this.#child.disconnect();
  }

  #kill(): void {
    if (this.#end === null) killProcess(this.#child);
  }
}
