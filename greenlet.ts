/**
 * The switch core: symmetric coroutines, as Python's
 * [greenlet](https://greenlet.readthedocs.io) has them.
 *
 * One line of control is handed from body to body by {@linkcode Greenlet.switch},
 * with values, errors and parents. There is no event loop here and nothing is
 * imported: the module runs in any JavaScript runtime.
 *
 * ```ts
 * import { Greenlet } from "@gevent/gevent/greenlet";
 *
 * const eat = new Greenlet(function* (name: string) {
 *   console.log(`${name} eat 1`);
 *   yield* play.switch("jack");
 *   console.log(`${name} eat 2`);
 *   yield* play.switch();
 * });
 * const play: Greenlet = new Greenlet(function* (name: string) {
 *   console.log(`${name} play 1`);
 *   yield* eat.switch();
 *   console.log(`${name} play 2`);
 * });
 *
 * eat.switch("rose"); // rose eat 1, jack play 1, rose eat 2, jack play 2
 * ```
 *
 * A body may be a generator function, which can be suspended at every `yield*`,
 * or a plain function, which can't: whatever it switches to runs on top of it and
 * has to come back to it.
 *
 * A greenlet belongs to its realm (main thread or Worker), as greenlet's belong to
 * their thread. A suspended body that is garbage-collected gets no
 * {@linkcode GreenletExit}: JavaScript has no hook that could run its `finally`.
 *
 * @module
 */

/**
 * The error that ends a greenlet without being an error: when a body doesn't
 * catch it, its parent gets it as a value. greenlet's `GreenletExit`.
 *
 * @example Usage
 * ```ts
 * import { Greenlet, GreenletExit } from "@gevent/gevent/greenlet";
 *
 * const main = new Greenlet(() => {}).parent!;
 * const waiting = new Greenlet(function* () {
 *   yield* main.switch();
 * });
 * waiting.switch();
 * console.log(waiting.throw().value instanceof GreenletExit); // true
 * ```
 */
export class GreenletExit extends Error {
  static {
    this.prototype.name = "GreenletExit";
  }
}

/**
 * A mistake in the use of greenlets: the message names the greenlet and the cure.
 * greenlet's `error`.
 *
 * @example Usage
 * ```ts
 * import { Greenlet, GreenletError } from "@gevent/gevent/greenlet";
 *
 * const sleepy = new Greenlet(function* () {
 *   yield 1; // Only a switch can be yielded, and by `yield*`
 * });
 * try {
 *   sleepy.switch();
 * } catch (error) {
 *   console.log(error instanceof GreenletError); // true
 * }
 * ```
 */
export class GreenletError extends Error {
  static {
    this.prototype.name = "GreenletError";
  }
}

/**
 * What {@linkcode Greenlet.switch} and {@linkcode Greenlet.throw} return.
 *
 * Inside a generator body it is a request: `yield*` performs it, and gives what is
 * later sent to us. Anywhere else there is nothing to yield to, so the switch has
 * been performed by the time the call returns, and `value` holds what came back.
 *
 * @typeParam T What comes back.
 */
export interface Switch<T = unknown> {
  /** What came back; `undefined` as long as the switch is a mere request. */
  readonly value: T;
  /** Performs the request, inside a generator body; gives what comes back. */
  [Symbol.iterator](): Iterator<Switch, T, unknown>;
}

/**
 * A function that {@linkcode setTrace} installs.
 *
 * @param event How `target` gets control: with a value, or with an error.
 * @param origin The greenlet that gives control up.
 * @param target The greenlet that gets it. The callback runs in it.
 */
export type TraceCallback = (
  event: "switch" | "throw",
  origin: Greenlet,
  target: Greenlet,
) => void;

/**
 * How control arrives in a greenlet. `return` has no counterpart in greenlet: it
 * ends a generator body past its `catch` blocks.
 */
type How = "switch" | "throw" | "return";

/**
 * - `pending`: not started
 * - `active`: a generator body that was started; or a plain body that now executes
 * - `blocked`: has called `switch` with nothing to yield to, and waits below us on
 *   the JavaScript stack
 * - `dead`
 */
type State = "pending" | "active" | "blocked" | "dead";

/** What `yield*` goes through: its own iterator and its own iterator result. */
class SwitchRequest<T> implements Switch<T> {
  readonly target: Greenlet;
  readonly how: How;
  /** What is sent; given up when the switch is performed. */
  sent: unknown;
  value: T;
  /** How many arguments were sent: a target that has not started wants them apart. */
  readonly count: number;
  done: boolean;
  #delegated = false;

  constructor(
    target: Greenlet,
    how: How,
    sent: unknown,
    value: T,
    count: number,
    done: boolean,
  ) {
    this.target = target;
    this.how = how;
    this.sent = sent;
    this.value = value;
    this.count = count;
    this.done = done;
  }

  /** Whether a `yield*` performs it, and no mere `yield`. */
  get isDelegated(): boolean {
    return this.#delegated;
  }

  [Symbol.iterator](): Iterator<Switch, T, unknown> {
    if (this.#delegated) throw stale(this.target);
    return this as unknown as Iterator<Switch, T, unknown>;
  }

  next(value: unknown): this {
    // First from `yield*` itself, then with what was sent back. One object serves
    // as request, iterator and both results: 12 ns less a switch than three.
    if (this.#delegated) {
      this.done = true;
      this.value = value as T;
    } else if (!this.done) {
      if (pending !== this as unknown) throw stale(this.target);
      this.#delegated = true;
      // V8 passes this result on as it is, JavaScriptCore only its value.
      this.value = this as unknown as T;
    }
    return this;
  }

  throw(error: unknown): never {
    this.value = undefined!;
    throw error;
  }

  return(value: unknown): { done: true; value: unknown } {
    return { done: true, value };
  }
}

/** Who has control. */
let current: Greenlet;
/** The greenlet whose generator executes just now, which is to say: can yield. */
let yielder: Greenlet | null = null;
/** The request that the executing generator has made and not yet yielded. */
let pending: SwitchRequest<unknown> | null = null;
let tracer: TraceCallback | null = null;

/** Hands control over from outside a generator body; see `Greenlet.#drive`. */
let drive: (
  top: Greenlet,
  target: Greenlet,
  how: How,
  value: unknown,
  count: number,
) => unknown;

function request(
  target: Greenlet,
  how: How,
  value: unknown,
  count: number,
): SwitchRequest<unknown> {
  if (yielder === null) {
    value = drive(current, target, how, value, count);
    return new SwitchRequest(target, how, undefined, value, count, true);
  }
  if (pending !== null) {
    const forgotten = pending;
    pending = null;
    throw undelegated(yielder, forgotten);
  }
  return pending = new SwitchRequest(
    target,
    how,
    value,
    undefined,
    count,
    false,
  );
}

/**
 * A body with a line of control of its own, which {@linkcode Greenlet.switch}
 * gives to it and takes from it. greenlet's `greenlet`.
 *
 * A subclass may define `run` as a method.
 *
 * @example A generator body
 * ```ts
 * import { Greenlet, getCurrent } from "@gevent/gevent/greenlet";
 *
 * const main = getCurrent();
 * const adder = new Greenlet(function* (a: number) {
 *   let sum = a;
 *   for (;;) sum += yield* main.switch<number>(sum);
 * });
 * console.log(adder.switch(1).value); // 1
 * console.log(adder.switch(2).value); // 3
 * console.log(adder.switch(3).value); // 6
 * ```
 *
 * @example A subclass
 * ```ts
 * import { Greenlet } from "@gevent/gevent/greenlet";
 *
 * class Greeter extends Greenlet {
 *   override run(name: string) {
 *     return `hello ${name}`;
 *   }
 * }
 * console.log(new Greeter().switch("rose").value); // hello rose
 * ```
 */
export class Greenlet {
  #state: State = "pending";
  /**
   * What `run` gives, unless the instance or its class has one of its own; `null` when it
   * was taken. Not `#run`, as structuredClone() refuses a function, and would copy what has
   * private fields only.
   */
  private _run: ((...args: never[]) => unknown) | null | undefined = undefined;
  /** `null` only in main. */
  #parent: Greenlet | null;
  /** The suspended body; `null` in a plain one, and before and after life. */
  #generator: Generator | null = null;
  /** What the messages call it. */
  #label = "";

  /** The property `run`: no accessor of the class, as a subclass may have a method. */
  static readonly #runProperty: PropertyDescriptor & ThisType<Greenlet> = {
    get() {
      return this._run ?? undefined;
    },
    set(run) {
      if (this._run === null || this.#state !== "pending") {
        throw new TypeError(
          `Cannot set 'run' of ${this} as it has started or is dead: make a new greenlet`,
        );
      }
      if (run !== undefined) checkRun(run, "set 'run'");
      this._run = run;
    },
    configurable: true,
  };

  static {
    Object.defineProperty(this.prototype, "run", Greenlet.#runProperty);
    // Main is neither created by anybody nor ever started.
    const main = new Greenlet(undefined, undefined);
    main.#parent = null;
    main.#state = "active";
    main.#label = "main";
    current = main;
    drive = Greenlet.#drive;
  }

  /**
   * Makes a greenlet that is not started yet.
   *
   * @param run The body: a generator function or a plain one. It gets the arguments
   * of the first `switch`. May be left out where a subclass defines `run`.
   * @param parent Who gets the body's result; by default the current greenlet.
   * @throws {TypeError} If `run` is not a function or is an async generator function, which
   * nothing would run, or if `parent` is not a greenlet.
   */
  constructor(run?: (...args: never[]) => unknown, parent?: Greenlet) {
    if (run !== undefined) {
      checkRun(run, "create greenlet");
      this.run = run;
    }
    this.#parent = parent === undefined || parent === null
      ? current
      : checkParent(parent);
  }

  /**
   * The body. Can be set until the greenlet starts; from then on there is none, and to set
   * it is a `TypeError`, as it is to set what can't be a body. greenlet's `run`.
   *
   * @param args The arguments of the first {@linkcode Greenlet.switch}.
   * @returns What the parent gets, or the generator that is the body.
   *
   * @example Usage
   * ```ts
   * import { Greenlet } from "@gevent/gevent/greenlet";
   *
   * const g = new Greenlet();
   * g.run = () => "here I am";
   * console.log(g.switch().value); // here I am
   * console.log(g.run); // undefined
   * ```
   */
  run?(...args: never[]): unknown;

  /**
   * Who gets control, and the result or the error, when the body ends; `null` for
   * main. Can be set at any time. greenlet's `parent`.
   *
   * @throws {TypeError} If set to something that is not a greenlet, or in main.
   * @throws {RangeError} If the greenlet would become its own ancestor.
   */
  get parent(): Greenlet | null {
    return this.#parent;
  }

  /** See the getter. */
  set parent(parent: Greenlet) {
    if (this.#parent === null) {
      throw new TypeError("Cannot set the parent of the main greenlet");
    }
    let ancestor: Greenlet | null = checkParent(parent);
    for (; ancestor !== null; ancestor = ancestor.#parent) {
      if (ancestor === this) {
        throw new RangeError(
          `Cannot make ${parent} the parent of ${this} as that would close a cycle of parents`,
        );
      }
    }
    this.#parent = parent;
  }

  /** Whether the body has ended, or was killed before it started. Main never is. */
  get dead(): boolean {
    return this.#state === "dead";
  }

  /** Whether the body has started and not ended: greenlet's `bool(g)`. */
  get active(): boolean {
    return this.#state !== "pending" && this.#state !== "dead";
  }

  /**
   * Hands control to this greenlet. greenlet's `switch`.
   *
   * The first switch starts the body with the arguments. A later one makes the
   * `switch` in which the body is suspended return them: none as `undefined`, one
   * as itself, several as an array. When the greenlet is dead, control goes to its
   * parent instead.
   *
   * A switch point: in a generator body write `yield* greenlet.switch(...)`.
   *
   * @typeParam T What comes back when somebody switches to us.
   * @param args What is sent.
   * @returns A request to be performed by `yield*`, in a generator body; elsewhere
   * the switch was performed, and `value` holds what came back.
   * @throws {GreenletError} If an earlier switch of the same body was not yielded,
   * or the greenlet can't be resumed from here.
   *
   * @example Usage
   * ```ts
   * import { Greenlet } from "@gevent/gevent/greenlet";
   *
   * const twice = new Greenlet((n: number) => 2 * n);
   * console.log(twice.switch(21).value); // 42
   * ```
   */
  switch<T = unknown>(...args: unknown[]): Switch<T> {
    const count = args.length;
    // What is not given is not looked for, as it would be found in the prototype.
    const value = count === 0 ? undefined : count === 1 ? args[0] : args;
    return request(this, "switch", value, count) as Switch<T>;
  }

  /**
   * Hands control to this greenlet and throws an error there. greenlet's `throw`.
   *
   * A greenlet that has not started is killed before its first line. What the body
   * doesn't catch is thrown in its parent, except a {@linkcode GreenletExit}, which
   * is returned to it.
   *
   * A switch point: in a generator body write `yield* greenlet.throw(...)`.
   *
   * @typeParam T What comes back when somebody switches to us.
   * @param error What is thrown, or the class of error of which a new one is; by default
   * a new `GreenletExit`.
   * @returns As {@linkcode Greenlet.switch} does.
   *
   * @example Usage
   * ```ts
   * import { getCurrent, Greenlet } from "@gevent/gevent/greenlet";
   *
   * const main = getCurrent();
   * const careful = new Greenlet(function* () {
   *   try {
   *     yield* main.switch();
   *   } catch (error) {
   *     return `caught ${(error as Error).message}`;
   *   }
   * });
   * careful.switch();
   * console.log(careful.throw(new Error("it")).value); // caught it
   * ```
   */
  throw<T = unknown>(error: unknown = new GreenletExit()): Switch<T> {
    return request(this, "throw", instanceOf(error), 1) as Switch<T>;
  }

  /**
   * Hands control to this greenlet and ends its generator body there, as an iterator's
   * `return()` does: its `finally` blocks run, its `catch` blocks don't. greenlet has
   * no such call, as Python's `except Exception` lets `GreenletExit` pass.
   *
   * A greenlet that has not started is dead before its first line. To main, to a plain
   * body, which nothing can end, and to a dead greenlet it is a `switch`.
   *
   * A switch point: in a generator body write `yield* greenlet.return(...)`.
   *
   * @typeParam T What comes back when somebody switches to us.
   * @param value What the body is made to return.
   * @returns As {@linkcode Greenlet.switch} does.
   *
   * @example Usage
   * ```ts
   * import { getCurrent, Greenlet } from "@gevent/gevent/greenlet";
   *
   * const main = getCurrent();
   * const stubborn = new Greenlet(function* () {
   *   for (;;) {
   *     try {
   *       yield* main.switch();
   *     } catch {
   *       // A throw() does not get past this
   *     }
   *   }
   * });
   * stubborn.switch();
   * console.log(stubborn.return("at last").value); // at last
   * ```
   */
  return<T = unknown>(value?: unknown): Switch<T> {
    return request(this, "return", value, 1) as Switch<T>;
  }

  /**
   * Called in the greenlet when its body has ended. What this returns is sent to the
   * parent, what it throws is thrown there.
   *
   * @param outcome What the body has returned or thrown.
   * @param failed Whether it was thrown.
   */
  protected ended(outcome: unknown, failed: boolean): unknown {
    if (failed && !(outcome instanceof GreenletExit)) throw outcome;
    return outcome;
  }

  /**
   * Takes the body away, as the greenlet starts or never will.
   *
   * @returns The body.
   */
  protected takeRun(): (...args: never[]) => unknown {
    const run = this.run!;
    if (run !== this._run) Greenlet.#hideRun(this);
    this._run = null;
    this.#label ||= run.name;
    return run;
  }

  /** Has a `run` of the instance's or the class's own be gone: 200 ns. */
  static #hideRun(greenlet: Greenlet): void {
    if (Reflect.defineProperty(greenlet, "run", Greenlet.#runProperty)) return;
    // An accessor of the user's own takes it as it likes.
    greenlet.run = undefined!;
  }

  /** What the messages call the body: the name of its function. */
  protected get label(): string {
    return this.#label || this.run?.name || "";
  }

  /** The greenlet's class, name and state, as greenlet's `repr()` words them. */
  toString(): string {
    const { label } = this;
    const words = [this.constructor.name];
    if (label !== "" && label !== "main" && label !== "run") {
      words.push(JSON.stringify(label));
    }
    if (this.#state === "dead") words.push("dead");
    else if (this.#state === "pending") words.push("pending");
    else {
      words.push(current === this ? "current" : "suspended", "active started");
      if (this.#parent === null) words.push("main");
    }
    return `<${words.join(" ")}>`;
  }

  /** What `console.log` shows in Deno: the same as `toString()`. */
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }

  /**
   * Gives control away, and keeps the JavaScript stack until it comes back to `top`, which
   * has it: all generator bodies are resumed from this loop.
   *
   * Static, as a private method makes each instance larger by 8 bytes.
   */
  static #drive(
    this: void,
    top: Greenlet,
    target: Greenlet,
    how: How,
    value: unknown,
    count: number,
  ): unknown {
    const before = top.#state;
    top.#state = "blocked";
    let from = top;
    // What a mistake throws back is no switch, and is not traced.
    let mistake = false;
    for (;;) {
      let failed = false;
      try {
        // Entered once a body's end and not once a switch: 6 ns less for each.
        for (;;) {
          while (target.#state === "dead") {
            // It has returned already, and it has already exited.
            if (how === "return" || value instanceof GreenletExit) {
              how = "switch";
            }
            target = target.#parent!;
          }
          if (target.#state !== "active") {
            const wrong = target.#state === "pending"
              ? noBody(target)
              : target === top
              ? null
              : blockedBelow(from, target, top, how, value);
            if (wrong !== null) {
              // The switcher made the mistake. One that has died can't be told:
              // its parent's parent is, or whoever waits for control here.
              if (from.#state !== "dead") target = from;
              else if (target.#state === "blocked") target = top;
              else target = target.#parent!;
              how = "throw";
              value = wrong.error;
              mistake = true;
              continue;
            }
            // An accessor `run` may itself have switched, even to the target's end.
            if ((target.#state as State) === "dead") continue;
          }
          if (tracer !== null && !mistake) {
            current = target;
            try {
              tracer(how === "throw" ? "throw" : "switch", from, target);
            } catch (error) {
              tracer = null;
              how = "throw";
              value = error;
            }
          }
          mistake = false;

          if (target === top) {
            top.#state = before;
            current = top;
            if (how !== "throw") return value;
            // The inner `catch` is for what bodies throw.
            break;
          }

          current = from = target;
          let result: IteratorResult<unknown>;
          if (target.#generator === null) {
            result = Greenlet.#start(target, how, value, count);
          } else {
            yielder = target;
            result = how === "switch"
              ? target.#generator.next(value)
              : how === "throw"
              ? target.#generator.throw(value)
              : target.#generator.return(value);
          }
          yielder = null;
          const asked = pending;
          pending = null;
          if (result.done) {
            if (asked !== null) throw undelegated(target, asked);
            value = result.value;
            break;
          }
          if (
            asked !== null && result.value === asked && asked.isDelegated
          ) {
            target = asked.target;
            how = asked.how;
            value = asked.sent;
            count = asked.count;
            asked.sent = undefined;
          } else {
            how = "throw";
            value = strangeYield(target, result.value, asked);
            mistake = true;
          }
        }
      } catch (error) {
        yielder = pending = null;
        failed = true;
        // What we threw into a `yield*` over an iterator without throw(), such as an
        // array's, the engine has replaced by a TypeError that names no greenlet.
        if (value instanceof GreenletError && error instanceof TypeError) {
          error.cause ??= value;
        }
        value = error;
      }
      if (target === top) throw value;

      target.#state = "dead";
      target.#generator = null;
      count = 1;
      how = "switch";
      try {
        value = target.ended(value, failed);
      } catch (error) {
        how = "throw";
        value = error;
      }
      target = target.#parent!;
    }
  }

  /** Starts the body, and runs it until it yields or ends. */
  static #start(
    greenlet: Greenlet,
    how: How,
    value: unknown,
    count: number,
  ): IteratorResult<unknown> {
    const run = greenlet.takeRun();
    greenlet.#state = "active";
    if (how === "throw") throw value;
    if (how === "return") return { done: true, value };
    const args = (count === 1 ? [value] : count === 0 ? [] : value) as never[];
    const result = run.apply(greenlet, args);
    if (!isGenerator(result)) return { done: true, value: result };
    greenlet.#generator = result;
    yielder = greenlet;
    return result.next();
  }
}

/**
 * The greenlet that has control; main, when no other has. greenlet's `getcurrent`.
 *
 * An async function that goes on after an `await` is resumed by the event loop, and
 * so runs in main: see `getCurrent` of the `hub` module for whose it is.
 *
 * @returns The current greenlet.
 *
 * @example Usage
 * ```ts
 * import { getCurrent, Greenlet } from "@gevent/gevent/greenlet";
 *
 * const g: Greenlet = new Greenlet(() => getCurrent() === g);
 * console.log(g.switch().value); // true
 * ```
 */
export function getCurrent(): Greenlet {
  return current;
}

/**
 * Installs a function that is called at every switch, in the greenlet that gets
 * control. greenlet's `settrace`.
 *
 * An error that the callback throws is thrown in the target, and removes it.
 *
 * @param callback What to call; `null` to trace no more.
 * @returns The callback that was installed before, or `null`.
 * @throws {TypeError} If `callback` is neither a function nor `null`.
 *
 * @example Usage
 * ```ts
 * import { Greenlet, setTrace } from "@gevent/gevent/greenlet";
 *
 * const before = setTrace((event, origin, target) => {
 *   console.log(`${event} from ${origin} to ${target}`);
 * });
 * new Greenlet(() => {}).switch();
 * setTrace(before);
 * ```
 */
export function setTrace(callback: TraceCallback | null): TraceCallback | null {
  if (callback !== null && typeof callback !== "function") {
    throw new TypeError(
      `Cannot set trace as 'callback' must be a function or null: received ${
        describe(callback)
      }`,
    );
  }
  const before = tracer;
  tracer = callback;
  return before;
}

/**
 * The installed trace callback. greenlet's `gettrace`.
 *
 * @returns The callback, or `null`.
 *
 * @example Usage
 * ```ts
 * import { getTrace } from "@gevent/gevent/greenlet";
 *
 * console.log(getTrace()); // null
 * ```
 */
export function getTrace(): TraceCallback | null {
  return tracer;
}

/** Throws unless it can be a body. */
function checkRun(run: unknown, what: string): void {
  if (typeof run !== "function") {
    throw new TypeError(
      `Cannot ${what} as 'run' must be a function: received ${describe(run)}`,
    );
  }
  if (isAsyncGeneratorFunction(run)) {
    throw new TypeError(
      `Cannot ${what} as 'run' must not be an async generator function, of which nothing would run a line: received ${
        run.name || "an anonymous one"
      }`,
    );
  }
}

/** Told by its tag, which one that is bound has as well. */
// deno-lint-ignore ban-types
function isAsyncGeneratorFunction(run: Function): boolean {
  return (run as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag] ===
    "AsyncGeneratorFunction";
}

/** What to throw for an error that is given by its class, as Python's may be. */
function instanceOf(error: unknown): unknown {
  const isClass = typeof error === "function" &&
    (error === Error || error.prototype instanceof Error);
  return isClass ? new (error as new () => Error)() : error;
}

function checkParent(parent: Greenlet): Greenlet {
  if (parent instanceof Greenlet) return parent;
  throw new TypeError(
    `Cannot set parent as it must be a greenlet: received ${describe(parent)}`,
  );
}

// Told by its tag and not by the function: an arrow may return what a generator
// function made, and a bound or wrapped generator function is none itself.
function isGenerator(result: unknown): result is Generator {
  return typeof result === "object" && result !== null &&
    (result as Generator)[Symbol.toStringTag] === "Generator" &&
    typeof (result as Generator).next === "function";
}

/** Why a switch can't be made. */
interface Obstacle {
  readonly error: unknown;
}

function noBody(target: Greenlet): Obstacle | null {
  let run: unknown;
  try {
    run = target.run;
  } catch (error) {
    // An accessor has thrown it. The greenlet has not started, and so lives on.
    return { error };
  }
  if (typeof run !== "function") {
    return {
      error: new TypeError(
        `Cannot start ${target} as it has no 'run': pass a function to its constructor or define run() in its class`,
      ),
    };
  }
  if (isAsyncGeneratorFunction(run)) {
    return {
      error: new TypeError(
        `Cannot start ${target} as its 'run' is an async generator function, of which nothing would run a line`,
      ),
    };
  }
  return null;
}

function blockedBelow(
  from: Greenlet,
  target: Greenlet,
  top: Greenlet,
  how: How,
  value: unknown,
): Obstacle {
  const what = from.dead ? `give the result of ${from}` : "switch";
  return {
    error: new GreenletError(
      `Cannot ${what} to ${target} as it is blocked on the JavaScript stack below ${top}, whose plain body can't be suspended: make that body a generator function, or switch to ${top}`,
      how === "throw" ? { cause: value } : undefined,
    ),
  };
}

function stale(target: Greenlet): GreenletError {
  return new GreenletError(
    `Cannot perform a switch to ${target} that is no longer pending: call switch() anew for each yield*`,
  );
}

function undelegated(
  greenlet: Greenlet,
  asked: SwitchRequest<unknown>,
): GreenletError {
  return new GreenletError(
    `A switch to ${asked.target} in the generator body of ${greenlet} was never performed: write \`yield*\` before switch() and throw()`,
  );
}

function strangeYield(
  greenlet: Greenlet,
  value: unknown,
  asked: SwitchRequest<unknown> | null,
): GreenletError {
  const delegable = typeof value === "object" && value !== null &&
    Symbol.iterator in value && (value === asked || value instanceof Promise);
  if (delegable) {
    return new GreenletError(
      `Cannot yield a Switch or a Wait with \`yield\` in the body of ${greenlet}: write \`yield*\``,
    );
  }
  if (asked !== null) return undelegated(greenlet, asked);
  const isPromise =
    typeof (value as PromiseLike<unknown> | null | undefined)?.then ===
      "function";
  return new GreenletError(
    `Cannot yield ${
      describe(value)
    } in the body of ${greenlet}: only a Switch or a Wait can be yielded, with \`yield*\`${
      isPromise ? ", and until() makes a Wait of a promise" : ""
    }`,
  );
}

function describe(value: unknown): string {
  try {
    return typeof value === "string" ? JSON.stringify(value) : String(value);
  } catch {
    return `a value of type ${typeof value}`;
  }
}
