/**
 * Calls functions on other cores, so that long computations don't block the event loop and can be
 * stopped.
 *
 * ```ts
 * import { ThreadPool } from "@gevent/gevent";
 *
 * await using pool = new ThreadPool(2);
 * const sum = await pool.apply((n: number) => {
 *   let sum = 0;
 *   for (let i = 1; i <= n; i++) sum += i;
 *   return sum;
 * }, 1_000_000);
 * console.log(sum); // 500000500000
 * ```
 *
 * {@linkcode ThreadPool.import} gives access to the functions of a module. Each returns a `Wait`,
 * so it works with everything else in the library: `new Pool(100).map(work.hash, files)`.
 *
 * A function that computes reaches no `await`, so in the main program no kill and no `Timeout`
 * could stop it. In a pool they can: an interrupt ends the worker that runs the call, and a new
 * worker replaces it. Therefore a worker is a **process**, unless you ask for threads. On Deno 2.9
 * a thread that computes can't be stopped: after `terminate()` it goes on and uses its core, and
 * the program can't end before the thread does.
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { after } from "./_base/after.ts";
import { List } from "./_base/linked_list.ts";
import {
  allOf,
  markHandled,
  membersOf,
  NO_OPTIONS,
  then,
} from "./_base/language.ts";
import {
  checkFunction,
  checkOptions,
  isObject,
  isRevoked,
  numberError,
  show,
} from "./_base/checks.ts";
import type { BodyResult } from "./_base/thenable.ts";
import { denoFunction } from "./_base/properties.ts";
import { currentScope, runDetached } from "./_hub/current.ts";
import { noteLoopTurn } from "./_hub/run_queue.ts";
import { operate } from "./_hub/operation.ts";
import type { Scope } from "./_hub/scope.ts";
import { checkpoint, DONE, failedWait, Suspension } from "./_hub/suspension.ts";
import { checkDuration } from "./_hub/timers.ts";
import { QueuedWait } from "./_hub/wait_queue.ts";
import {
  processes,
  type StartWorker,
  threads,
  type WorkerEvents,
  type WorkerLink,
} from "./_workers/links.ts";
import {
  type Answer,
  markMoved,
  NOTHING,
  type Request,
  takeMoved,
} from "./_workers/messages.ts";
import { checkForProcess, isPlain } from "./_workers/pack.ts";
import { checkPermissions } from "./_workers/permissions.ts";
import { type ErrorClasses, unpackError } from "./_workers/unpack.ts";
import type { JoinOptions } from "./gevent.ts";
import { GreenletError } from "./greenlet.ts";
import type { Wait } from "./hub.ts";
import { CalledProcessError, TimeoutExpired } from "./subprocess.ts";

/** Options of a {@linkcode ThreadPool}. */
export interface ThreadPoolOptions {
  /**
   * The kind of the workers:
   *
   * - `"process"`: can always be stopped, can have fewer permissions, and does not end the
   *   program when it runs out of memory. The program needs `--allow-run` and `--allow-env`.
   * - `"thread"`: starts several times as fast and takes less memory. A thread that computes
   *   can't be stopped: its call throws at once, but the thread runs until its function returns,
   *   and the program can't end before. The program needs permission to read the modules. Fewer
   *   `permissions` need `--unstable-worker-options`; without this flag, Deno ends the program.
   *
   * @default {"process"}
   */
  isolate?: "process" | "thread";
  /**
   * The permissions of the workers:
   *
   * - `"inherit"`: those of the program. A process gets only the permissions that the program
   *   has in full, as a program can't list the paths or hosts of a partial permission.
   * - `"none"`
   * - an object in the form of the runtime, such as `{ read: ["data"], net: true }`. Permissions
   *   that it does not name are denied.
   *
   * @default {"inherit"}
   */
  permissions?: Deno.PermissionOptions;
}

/**
 * The functions of a module, as a pool calls them.
 *
 * @typeParam M The type of the module.
 */
export type Imported<M> = {
  readonly [
    K in keyof M as M[K] extends (...args: never[]) => unknown ? K : never
  ]: M[K] extends (...args: infer A) => infer R
    ? (...args: A) => Wait<BodyResult<R>>
    : never;
};

/**
 * Thrown by a call that the pool has not finished, or refuses, because it was killed. Such a call
 * need not be awaited: it is no unhandled rejection.
 */
export class PoolClosed extends GreenletError {
  static {
    this.prototype.name = "PoolClosed";
  }
}

/**
 * Thrown by a call whose worker has ended: it has called `Deno.exit`, has run out of memory, or
 * has failed with an uncaught error.
 */
export class WorkerDied extends GreenletError {
  static {
    this.prototype.name = "WorkerDied";
  }
}

/** Classes that errors from a worker may have here, in addition to those of `unpack.ts`. */
const ERRORS: ErrorClasses = {
  PoolClosed,
  WorkerDied,
  CalledProcessError,
  TimeoutExpired,
};

/**
 * Marks objects in a value to be moved, and not copied, when the value is sent as an argument or
 * a result of a function that a {@linkcode ThreadPool} calls. The sender can't use them any more
 * after that. Not a switch point.
 *
 * Objects that are sent to another process are copied, but the sender can't use them any more
 * either.
 *
 * @param value The whole argument or result.
 * @param list The objects in it to move, such as the `buffer` of an array of bytes.
 * @returns The value.
 * @throws {TypeError} If the value is not an object, or the list not an array of objects, or if it
 * holds an array of bytes in place of its `buffer`.
 *
 * @example Usage
 * ```ts
 * import { ThreadPool, transfer } from "@gevent/gevent";
 *
 * await using pool = new ThreadPool(1);
 * const data = new Uint8Array(1_000_000);
 * const length = await pool.apply(
 *   (data: Uint8Array) => data.length,
 *   transfer(data, [data.buffer]),
 * );
 * console.log(length, data.length); // 1000000 0
 * ```
 */
export function transfer<T extends object>(
  value: T,
  list: readonly Transferable[],
): T {
  if (!isObject(value) || isRevoked(value)) {
    throw new TypeError(
      `Cannot transfer as 'value' must be an object: received ${show(value)}`,
    );
  }
  if (isRevoked(list) || !Array.isArray(list)) {
    throw new TypeError(
      `Cannot transfer as 'list' must be an array: received ${show(list)}`,
    );
  }
  // A copy, as `forEach()` passes over places without an item.
  [...list].forEach((one: unknown, i) => {
    if (isObject(one) && !ArrayBuffer.isView(one)) return;
    throw new TypeError(
      `Cannot transfer as 'list[${i}]' must be an object that can be moved, such as an ArrayBuffer: received ${
        isObject(one)
          ? "an array of bytes or numbers, whose 'buffer' can be moved"
          : show(one)
      }`,
    );
  });
  markMoved(value, [...list]);
  return value;
}

/**
 * A pool of workers on other cores. Each worker runs one call at a time. gevent's `ThreadPool`.
 *
 * A worker starts when there is a call for it, and stays. Arguments and results are copied as
 * by `structuredClone`, at the call; {@linkcode transfer} moves them. Into another process go
 * the values of the language only: what else there is, such as a `Blob` or a
 * `SharedArrayBuffer`, is refused.
 *
 * **An interrupt** always makes the call throw at once. If the call still waits for a worker, it
 * is removed and never runs. If it runs, its worker is ended, with all processes that the worker
 * has started, and the next call gets a new worker. A call that was answered before the interrupt
 * keeps its result.
 *
 * **An error** comes back with its class, message, stack, properties and `cause`. If only the
 * worker has the class, the error gets a class of the same name here.
 *
 * **Inside a worker** the library works as usual. A function may be async or a generator.
 * Operations and greenlets that it leaves behind go on while the worker lives. Processes write
 * to the output of the program, and read nothing from its input.
 *
 * Idle workers don't keep the program alive. All workers end with the program, also when it is
 * killed. A process that computes ends a moment later; on Windows, when its function returns.
 *
 * @example The functions of a module
 * ```ts ignore
 * // work.ts
 * export function hash(data: Uint8Array): string { … }
 *
 * // main.ts
 * import { Pool, ThreadPool } from "@gevent/gevent";
 *
 * await using pool = new ThreadPool();
 * const work = pool.import<typeof import("./work.ts")>(
 *   import.meta.resolve("./work.ts"),
 * );
 * const hashes = await new Pool(100).map(work.hash, files);
 * ```
 */
export class ThreadPool implements AsyncDisposable {
  /** The most workers at a time. */
  readonly size: number;
  readonly #start: StartWorker;
  readonly #waiting = new List<Call>();
  readonly #workers = new Set<PoolWorker>();
  /** Workers that were told to end and have not ended. */
  readonly #ending = new Set<WorkerLink>();
  /** The imported modules. A worker can load those that were imported before its start. */
  readonly #modules = new Set<string>();
  readonly #joiners = new Set<JoinWait>();
  #state: "open" | "closed" = "open";

  static {
    showAs(this, (pool) => ({
      size: pool.size,
      state: pool.#state,
      busy: pool.busy,
      waiting: pool.waiting,
    }));
  }

  /**
   * Makes a pool. No worker starts before the first call.
   *
   * @param size The most workers at a time. @default {the number of cores}
   * @param options The kind of the workers, and their permissions.
   * @throws {TypeError | RangeError} If the size is not a positive integer, or an option is
   * invalid.
   */
  constructor(
    size: number = navigator.hardwareConcurrency,
    options: ThreadPoolOptions = NO_OPTIONS,
  ) {
    if (!Number.isSafeInteger(size) || size < 1) {
      throw numberError(
        "create thread pool",
        "size",
        "a positive integer",
        size,
      );
    }
    checkOptions(options, "create thread pool");
    const { isolate = "process" } = options;
    const permissions = checkPermissions(
      options.permissions,
      "create thread pool",
    );
    if (isolate === "process") denoFunction("Command");
    else if (isolate !== "thread") {
      throw new TypeError(
        `Cannot create thread pool as 'isolate' must be "process" or "thread": received ${
          show(isolate)
        }`,
      );
    }
    this.size = size;
    this.#start = isolate === "thread"
      ? threads(permissions)
      : processes(permissions);
  }

  /** The number of calls that have a worker. */
  get busy(): number {
    let busy = 0;
    for (const worker of this.#workers) if (worker.call !== null) busy++;
    return busy;
  }

  /** The number of calls that wait for a worker. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Returns an object with the functions of a module. Not a switch point. Only workers load the
   * module, when one of the functions is called.
   *
   * Each function returns a `Wait` and is a switch point. It throws at the call if an argument
   * can't be cloned. If the module can't be loaded, or has no such function, the wait fails.
   *
   * @typeParam M The type of the module: `typeof import("./work.ts")`.
   * @param url The absolute URL of the module: `import.meta.resolve("./work.ts")`.
   * @returns An object with a function for each function of the module.
   * @throws {TypeError} If `url` is not an absolute URL; or is a `blob:` URL, which a process can't
   * load.
   *
   * @example Usage
   * ```ts
   * import { ThreadPool } from "@gevent/gevent";
   *
   * const code = "export const double = (x) => 2 * x;";
   * interface Work {
   *   double(x: number): number;
   * }
   *
   * await using pool = new ThreadPool(1);
   * const work = pool.import<Work>(`data:text/javascript,${code}`);
   * console.log(await work.double(21)); // 42
   * ```
   */
  import<M>(url: string | URL): Imported<M> {
    const module = checkUrl(url);
    if (!this.#start.copies && module.startsWith("blob:")) {
      throw new TypeError(
        `Cannot import as 'url' must be one that another process can load, such as a data: URL: received ${
          show(module)
        }`,
      );
    }
    this.#modules.add(module);
    const functions = new Map<string, unknown>();
    const call = (name: string, args: unknown[]) =>
      this.#call(module, name, name, args);
    return new Proxy(Object.create(null), {
      get(_target, name) {
        if (typeof name !== "string" || READ_BY_LANGUAGE.has(name)) {
          return undefined;
        }
        let found = functions.get(name);
        if (found === undefined) {
          found = { [name]: (...args: unknown[]) => call(name, args) }[name];
          functions.set(name, found);
        }
        return found;
      },
      set: () => false,
    });
  }

  /**
   * Calls a function in a worker. A switch point. gevent's `ThreadPool.apply`.
   *
   * Only the source code of the function is sent. So it must be self-contained: it can't use
   * variables and imports from around it.
   *
   * @typeParam A The types of the arguments.
   * @typeParam R What the function returns.
   * @param f The function: async, generator or plain.
   * @param args Its arguments, which are cloned.
   * @returns The function's result.
   * @throws {TypeError} At the call, if `f` is not a function with source code.
   * @throws {DOMException} At the call, if an argument can't be cloned.
   * @throws {PoolClosed} If the pool was killed.
   * @throws {WorkerDied} If its worker has ended.
   *
   * @example Usage
   * ```ts
   * import { ThreadPool } from "@gevent/gevent";
   *
   * await using pool = new ThreadPool(1);
   * console.log(await pool.apply((a: number, b: number) => a ** b, 2, 10)); // 1024
   * ```
   */
  apply<A extends unknown[], R>(
    f: (...args: A) => R,
    ...args: A
  ): Wait<BodyResult<R>> {
    checkFunction(f, "call in a worker", "f");
    const code = Function.prototype.toString.call(f);
    if (/^class\b/.test(code)) {
      throw new TypeError(
        `Cannot call in a worker as 'f' must be a function: received class ${
          f.name || "without a name"
        }, which can only be called with new`,
      );
    }
    if (/\{\s*\[native code\]\s*\}\s*$/.test(code)) {
      throw new TypeError(
        `Cannot call in a worker as 'f' must have code that can be sent: received ${
          f.name.trim() || "a native function"
        }, which is native or bound`,
      );
    }
    const name = f.name || "a function";
    return this.#call(null, code, name, args) as Wait<BodyResult<R>>;
  }

  #call(
    module: string | null,
    code: string,
    name: string,
    args: unknown[],
  ): Wait<unknown> {
    const scope = currentScope();
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (this.#state === "closed") {
      return failedWait(
        new PoolClosed(`Cannot call '${name}' as its pool was killed`),
      );
    }
    const call = new Call(this.#interrupted, scope, name);
    const list = movedOf(args);
    const worker = this.#findWorker(module);
    // A thread that is ready gets a copy from postMessage(): no second copy is needed.
    if (worker?.state === "idle" && this.#start.copies) {
      call.request = ["call", call.id, module, code, args];
      call.moved = list;
      try {
        worker.give(call);
      } catch (error) {
        throw uncloneable(error, name);
      }
      return call.suspend(scope);
    }
    const [copy, moved] = copyOf(args, list, name, !this.#start.copies);
    call.request = ["call", call.id, module, code, copy];
    call.moved = moved;
    if (worker !== null) worker.give(call);
    else this.#wait(call);
    return call.suspend(scope);
  }

  /** Finds an idle worker that can load a module. */
  #findWorker(module: string | null): PoolWorker | null {
    for (const worker of this.#workers) {
      if (worker.call === null && worker.knows(module)) return worker;
    }
    return null;
  }

  /** Starts a worker for a call, or lets the call wait for one. */
  #wait(call: Call): void {
    if (this.#workers.size >= this.size) {
      // An idle worker here can't load the module: it was imported after the worker's start.
      const idle = [...this.#workers].find((worker) => worker.call === null);
      if (idle === undefined) return this.#waiting.add(call);
      this.#drop(idle);
    }
    this.#startFor(call);
  }

  #startFor(call: Call): void {
    const worker = new PoolWorker(
      new Set(this.#modules),
      this.#freed,
      this.#died,
    );
    this.#workers.add(worker);
    worker.call = call;
    call.worker = worker;
    try {
      runDetached(() => worker.start(this.#start));
    } catch (error) {
      this.#workers.delete(worker);
      worker.state = "ended";
      call.worker = null;
      call.throw(error);
    }
  }

  /** Ends a worker. */
  #drop(worker: PoolWorker): void {
    this.#workers.delete(worker);
    const { link } = worker;
    worker.state = "ended";
    if (link === null) return;
    link.end();
    link.hold(false);
    this.#ending.add(link);
    void then(link.ended, () => this.#ending.delete(link));
  }

  /** Called when a worker has no call any more. */
  readonly #freed = (worker: PoolWorker): void => {
    const call = this.#waiting.shift();
    if (call === null) worker.rest();
    else if (worker.knows(call.request![2])) worker.give(call);
    else {
      this.#drop(worker);
      this.#startFor(call);
      this.#next();
    }
    this.#look();
  };

  /** Called when a worker has ended by itself. */
  readonly #died = (worker: PoolWorker): void => {
    this.#drop(worker);
    this.#next();
    this.#look();
  };

  /**
   * Starts workers for the next calls, while there is room. If a worker can't be started, its
   * call fails, and the next call gets the place.
   */
  #next(): void {
    while (this.#workers.size < this.size) {
      const call = this.#waiting.shift();
      if (call === null) return;
      this.#startFor(call);
    }
  }

  /** Called when a waiting or running call was interrupted. */
  readonly #interrupted = (call: Call): void => {
    const { worker } = call;
    call.worker = null;
    if (worker !== null && worker.state !== "ended") {
      worker.call = null;
      // A starting worker has not got the call yet, so it can take the next one.
      if (worker.state === "starting") this.#freed(worker);
      else {
        this.#drop(worker);
        this.#next();
      }
    }
    this.#look();
  };

  /** Ends the waits of `join()`, if no call is left. */
  #look(): void {
    if (this.#joiners.size === 0 || this.busy + this.waiting > 0) return;
    for (const joiner of this.#joiners) joiner.switch(true);
    this.#joiners.clear();
  }

  /**
   * Waits until no call runs or waits. A switch point. gevent's `ThreadPool.join`.
   *
   * @param options How long to wait.
   * @returns `true` if no call is left, `false` at the timeout.
   * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
   *
   * @example Usage
   * ```ts
   * import { ThreadPool } from "@gevent/gevent";
   *
   * await using pool = new ThreadPool(1);
   * pool.apply(() => {});
   * console.log(await pool.join(), pool.busy); // true 0
   * ```
   */
  join(options: JoinOptions = NO_OPTIONS): Wait<boolean> {
    checkOptions(options, "join thread pool");
    const { timeout = Infinity } = options;
    checkDuration(timeout, "join thread pool");
    const joiner = new JoinWait(this.#joiners);
    this.#joiners.add(joiner);
    joiner.limit(timeout);
    this.#look();
    return joiner.get();
  }

  /**
   * Ends all workers, and waits until they have ended. A switch point. The call itself ends the
   * workers: without `await`, or after an interrupt, they still end. gevent's `ThreadPool.kill`.
   *
   * All calls that run or wait, and all later calls, throw {@linkcode PoolClosed}.
   *
   * @returns Nothing.
   */
  kill(): Wait<void> {
    this.#state = "closed";
    const calls: Call[] = [];
    for (const worker of this.#workers) {
      if (worker.call !== null) calls.push(worker.call);
      worker.call = null;
      this.#drop(worker);
    }
    for (let call; (call = this.#waiting.shift()) !== null;) calls.push(call);
    for (const call of calls) {
      const { name } = call;
      call.worker = null;
      call.throw(
        new PoolClosed(`Cannot finish '${name}' as its pool was killed`),
      );
      markHandled(call.promise!);
    }
    this.#look();
    const links = membersOf(this.#ending);
    links.forEach((link) => link.hold(true));
    const ended = allOf([DONE, ...links.map((link) => link.ended)]);
    const scope: Scope = currentScope();
    return checkpoint(scope) ??
      operate(scope, then(ended, () => {}), "ThreadPool.kill()");
  }

  /** Kills the pool at the end of an `await using` block; see {@linkcode ThreadPool.kill}. */
  [Symbol.asyncDispose](): Wait<void> {
    return this.kill();
  }
}

/**
 * Properties that the language reads by itself: an object with a `then` would be taken for a
 * promise, and to print it or to write it as JSON would call the others.
 */
const READ_BY_LANGUAGE: ReadonlySet<string> = new Set([
  "then",
  "toString",
  "valueOf",
  "toJSON",
]);

/** How many calls there were. */
let calls = 0;

/** The wait for what a worker does. */
class Call extends QueuedWait<Call, unknown> {
  readonly #interrupted: (call: Call) => void;
  readonly #owner: Scope;
  readonly name: string;
  /** Its number, by which its answer is known. */
  readonly id = ++calls;
  /** What is to be done, until a worker was told. */
  request: Request | null = null;
  moved: readonly Transferable[] = NOTHING;
  /** The worker that runs the call, or will; `null` if it has none. */
  worker: PoolWorker | null = null;

  constructor(
    interrupted: (call: Call) => void,
    scope: Scope,
    name: string,
  ) {
    super();
    this.#interrupted = interrupted;
    this.#owner = scope;
    this.name = name;
  }

  /** The worker. */
  override get subject(): PoolWorker | null {
    return this.worker;
  }

  override describe(subject = this.subject): string {
    const state = subject === null ? ", waiting for a worker" : "";
    return `${this.name} in a ThreadPool${state}`;
  }

  protected override get caller(): Scope {
    return this.#owner;
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    this.#interrupted(this);
  }
}

/** The wait for the end of all calls. */
class JoinWait extends Suspension<boolean> {
  readonly #joiners: Set<JoinWait>;

  constructor(joiners: Set<JoinWait>) {
    super();
    this.#joiners = joiners;
  }

  override describe(): string {
    return "ThreadPool.join()";
  }

  protected override undo(): void {
    this.#joiners.delete(this);
  }

  protected override timedOut(): void {
    this.switch(false);
  }
}

/** How many milliseconds a worker is idle before the program may end without it. */
const REST = 10;

/**
 * - `starting`: has not reported yet that it is ready
 * - `idle`
 * - `busy`: has got its call
 * - `ended`: has ended, or was told to
 */
type PoolWorkerState = "starting" | "idle" | "busy" | "ended";

/** A worker, and its call. */
class PoolWorker implements WorkerEvents {
  readonly #modules: ReadonlySet<string>;
  readonly #freed: (worker: PoolWorker) => void;
  readonly #died: (worker: PoolWorker) => void;
  /** Whether it keeps the program alive. */
  #isHeld = true;
  /** Whether {@linkcode PoolWorker.rest} has set a timer. */
  #isResting = false;
  state: PoolWorkerState = "starting";
  call: Call | null = null;
  link: WorkerLink | null = null;

  constructor(
    modules: ReadonlySet<string>,
    freed: (worker: PoolWorker) => void,
    died: (worker: PoolWorker) => void,
  ) {
    this.#modules = modules;
    this.#freed = freed;
    this.#died = died;
  }

  start(start: StartWorker): void {
    this.link = start.link([...this.#modules], this);
  }

  /** Whether it can load a module. */
  knows(module: string | null): boolean {
    return module === null || this.#modules.has(module);
  }

  /** Gives it a call: sends the call now, or when the worker is ready. */
  give(call: Call): void {
    if (this.state === "idle") this.#tell(call);
    else this.#hold(true);
    this.call = call;
    call.worker = this;
  }

  #tell(call: Call): void {
    const { request, moved } = call;
    const link = this.link!;
    // Throws if an argument can't be cloned. The worker has then got nothing.
    link.send(request!, moved);
    this.state = "busy";
    call.request = null;
    call.moved = NOTHING;
    this.#hold(true);
  }

  /**
   * Called when the worker is idle. It soon stops keeping the program alive: not at once, as
   * telling the runtime after each call would double the time of a call.
   */
  rest(): void {
    if (this.#isResting) return;
    this.#isResting = true;
    after(REST, () => {
      this.#isResting = false;
      if (this.state !== "ended" && this.call === null) this.#hold(false);
    });
  }

  #hold(holds: boolean): void {
    if (this.#isHeld === holds) return;
    this.#isHeld = holds;
    this.link!.hold(holds);
  }

  told(answer: Answer): void {
    if (this.state === "ended") return;
    // The event loop has called this, so the greenlet that waits can go on in this turn.
    noteLoopTurn();
    if (answer[0] === "ready") {
      if (this.state !== "starting") return;
      this.state = "idle";
      if (this.call === null) this.rest();
      else this.#tell(this.call);
      return;
    }
    const { call } = this;
    if (this.state !== "busy" || call === null) return;
    if (answer[0] !== "value" && answer[0] !== "error") return;
    // A function of the program's has sent it.
    if (answer[1] !== call.id) return;
    this.state = "idle";
    this.call = call.worker = null;
    if (answer[0] === "value") call.switch(answer[2]);
    else call.throw(unpackError(answer[2], ERRORS));
    this.#freed(this);
  }

  died(how: string, cause?: unknown): void {
    const name = this.call?.name ?? "nothing";
    const options = cause === undefined ? {} : { cause };
    this.failed(
      new WorkerDied(`Cannot finish '${name}' as its worker ${how}`, options),
    );
  }

  failed(error: unknown): void {
    if (this.state === "ended") return;
    const { call } = this;
    this.call = null;
    if (call !== null) {
      call.worker = null;
      call.throw(error);
    }
    this.#died(this);
  }
}

/** The objects to move with the arguments. */
function movedOf(args: readonly unknown[]): readonly Transferable[] {
  return args.every(isPlain) ? NOTHING : args.flatMap(takeMoved);
}

/** Copies arguments that are sent later, as the caller may change them until then. */
function copyOf(
  args: readonly unknown[],
  list: readonly Transferable[],
  name: string,
  isForProcess: boolean,
): [args: readonly unknown[], moved: readonly Transferable[]] {
  if (args.every(isPlain)) return [args, NOTHING];
  try {
    const copy = structuredClone([args, list], { transfer: [...list] });
    if (isForProcess) checkForProcess(copy[0]);
    return copy as [unknown[], Transferable[]];
  } catch (error) {
    throw uncloneable(error, name);
  }
}

function uncloneable(error: unknown, name: string): DOMException {
  return new DOMException(
    `Cannot call '${name}' as its arguments can't be cloned: ${
      (error as Error).message
    }`,
    "DataCloneError",
  );
}

function checkUrl(url: string | URL): string {
  if (url instanceof URL) return url.href;
  if (typeof url === "string" && URL.canParse(url)) return new URL(url).href;
  throw new TypeError(
    `Cannot import as 'url' must be an absolute URL, such as import.meta.resolve("./work.ts"): received ${
      show(url)
    }`,
  );
}

nameClasses({ PoolClosed, WorkerDied, ThreadPool });
