/**
 * The side of a worker of a `ThreadPool`: receives calls, and sends results.
 *
 * @module
 */

import { GreenletError } from "../greenlet.ts";
import { isThenable } from "../_base/thenable.ts";
import { checkForProcess, isPlain, packError } from "./pack.ts";
import { type Answer, NOTHING, type Request, takeMoved } from "./messages.ts";
import { endWithParent } from "./watch.ts";

/** The modules that the worker can load: URLs, and functions that import them. */
type Modules = Record<string, () => Promise<Record<string, unknown>>>;
type Function = (...args: unknown[]) => unknown;
type Send = (answer: Answer, moved: readonly Transferable[]) => void;

/** Serves a pool in the process that has started this one. */
export async function serveProcess(
  modules: Modules,
  parent: number,
): Promise<void> {
  const { default: process } = await import("node:process");
  // Taken now, as code of the program may replace it, and the call would never end.
  const post = process.send!.bind(process);
  const own = new Calls(modules, (answer, moved) => {
    // What another process gets is a copy; what was to be moved is gone here all the same.
    let sent: Answer = answer;
    if (answer[0] === "value" && !isPlain(answer[2])) {
      const [tag, id, value] = answer;
      sent = [tag, id, structuredClone(value, { transfer: [...moved] })];
      checkForProcess(sent[2]);
    }
    post(sent, (error: Error | null) => {
      if (error !== null) post(["error", answer[1], packError(error)]);
    });
  });
  process.on("message", (message: unknown) => own.take(message as Request));
  // The parent has ended, or has dropped this worker.
  process.on("disconnect", () => Deno.exit());
  post(["ready"]);
  endWithParent(parent, 0);
}

/** The global object of a thread. */
interface Thread {
  onmessage: (event: MessageEvent<Request>) => void;
  postMessage(message: unknown, transfer?: Transferable[]): void;
  close(): void;
}

/** Serves the pool of the thread that has started this thread. */
export function serveThread(modules: Modules): void {
  const thread = globalThis as unknown as Thread;
  // Passing an empty list of objects to move costs 1.5 µs.
  // Taken now, as code of the program may replace it, and the call would never end.
  const post = thread.postMessage.bind(thread);
  const send: Send = (answer, moved) =>
    moved.length === 0 ? post(answer) : post(answer, [...moved]);
  const own = new Calls(modules, send);
  // The runtime does not tell the parent that a thread has ended itself, so this tells it.
  const close = thread.close.bind(thread);
  const exit = (code?: number): never => {
    send(["exit", code ?? Deno.exitCode], NOTHING);
    close();
    // `Deno.exit()` must not return.
    throw new Error("This thread has ended");
  };
  Object.defineProperty(Deno, "exit", { value: exit, configurable: true });
  thread.close = exit;
  thread.onmessage = ({ data }) => own.take(data);
  send(["ready"], NOTHING);
}

/** The calls of a worker, one after the other. */
class Calls {
  readonly #modules: Modules;
  readonly #send: Send;
  readonly #loaded = new Map<string, Record<string, unknown>>();
  /** Which call is done now. */
  #id = 0;
  /** Functions that came as code. */
  readonly #compiled = new Map<string, Function>();

  constructor(modules: Modules, send: Send) {
    this.#modules = modules;
    this.#send = send;
  }

  /** Performs a call and answers; at once, if there is nothing to wait for. */
  take(request: Request): void {
    if (!Array.isArray(request) || request[0] !== "call") return;
    const [, id, module, name, args] = request;
    this.#id = id;
    const called = module === null ? null : this.#loaded.get(module)?.[name];
    if (typeof called !== "function") {
      return void this.#prepare(module, name, args);
    }
    this.#run(called as Function, name, args);
  }

  /** Finds the function, then calls it. */
  async #prepare(
    module: string | null,
    name: string,
    args: readonly unknown[],
  ): Promise<void> {
    let called;
    try {
      called = module === null
        ? this.#compile(name)
        : await this.#find(module, name);
    } catch (error) {
      return this.#fail(error);
    }
    this.#run(called, module === null ? called.name : name, args);
  }

  #run(called: Function, name: string, args: readonly unknown[]): void {
    let result: unknown;
    try {
      const given = called(...args);
      result = isGenerator(given) ? runGenerator(given) : given;
    } catch (error) {
      return this.#fail(error);
    }
    if (!isThenable(result)) return this.#succeed(result, name);
    Promise.resolve(result).then(
      (value) => this.#succeed(value, name),
      (error) => this.#fail(error),
    );
  }

  #succeed(value: unknown, name: string): void {
    try {
      this.#send(["value", this.#id, value], takeMoved(value));
    } catch (error) {
      this.#fail(unsendable(error, name));
    }
  }

  #fail(error: unknown): void {
    let packed;
    try {
      packed = packError(error);
    } catch (thrown) {
      // A property of the error may be a getter that throws.
      packed = packError(unreadable(thrown));
    }
    this.#send(["error", this.#id, packed], NOTHING);
  }

  async #find(module: string, name: string): Promise<Function> {
    // Importing the module for each call would take as long as the call.
    let exports = this.#loaded.get(module);
    if (exports === undefined) {
      exports = await this.#modules[module]!();
      this.#loaded.set(module, exports);
    }
    const called = Object.hasOwn(exports, name) ? exports[name] : undefined;
    if (typeof called === "function") return called as Function;
    throw new TypeError(
      `Cannot call '${name}' as ${
        shortened(module)
      } exports no function of that name`,
    );
  }

  #compile(code: string): Function {
    let compiled = this.#compiled.get(code);
    if (compiled === undefined) {
      if (this.#compiled.size >= MOST_COMPILED) this.#compiled.clear();
      this.#compiled.set(code, compiled = compile(code));
    }
    return compiled;
  }
}

/** The most characters of a URL in a message. */
const LONGEST_URL = 200;

/** Shortens a URL for a message: a `data:` URL is a whole module. */
function shortened(url: string): string {
  return url.length > LONGEST_URL ? `${url.slice(0, LONGEST_URL - 1)}…` : url;
}

/** Runs a generator in a greenlet. Loads `gevent.ts` only now: that takes 30 ms. */
async function runGenerator(
  body: Generator<unknown, unknown, never>,
): Promise<unknown> {
  const { spawn } = await import("../gevent.ts");
  return await spawn(() => body).get();
}

function unreadable(thrown: unknown): GreenletError {
  return new GreenletError("A worker has thrown an error that can't be read", {
    cause: thrown,
  });
}

/** Whether a function's result is a generator, which has to be run. */
function isGenerator(
  result: unknown,
): result is Generator<unknown, unknown, never> {
  return Object.prototype.toString.call(result) === "[object Generator]";
}

/** How many compiled functions are kept. */
const MOST_COMPILED = 1000;

/**
 * Makes a function of its code, as `toString()` gives it: an expression, or a method, which an
 * object has to be around.
 */
function compile(code: string): Function {
  const run = (text: string) => (0, eval)(`"use strict"; (${text})`);
  let error: unknown;
  try {
    return run(code);
  } catch (thrown) {
    error = thrown;
  }
  let method: PropertyDescriptor;
  try {
    const object: object = run(`{ ${code} }`);
    const [key] = Reflect.ownKeys(object);
    method = Object.getOwnPropertyDescriptor(object, key!)!;
  } catch (thrown) {
    // Of code that was no expression, this tells more.
    throw /^Unexpected token '\{'/.test((error as Error).message)
      ? thrown
      : error;
  }
  return method.value ?? method.get ?? method.set;
}

function unsendable(error: unknown, name: string): DOMException {
  return new DOMException(
    `Cannot send the result of '${name}' as it can't be cloned: ${
      (error as Error).message
    }`,
    "DataCloneError",
  );
}
