/**
 * The switch core: symmetric coroutines, as in Python's
 * [greenlet](https://greenlet.readthedocs.io).
 *
 * {@linkcode Greenlet.switch} hands control from one body to another, together with a value
 * or an error. When a body ends, its parent gets control. This module needs no event loop
 * and imports nothing: it runs in any JavaScript runtime.
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
 * A body may be a generator function, which can be suspended at every `yield*`. It may also
 * be a plain function, which can't be suspended: a greenlet that it switches to runs on top
 * of it on the JavaScript stack, and has to give control back to it.
 *
 * A greenlet belongs to its realm (main thread or Worker), as in Python it belongs to its
 * thread. A suspended body that is garbage-collected gets no {@linkcode GreenletExit}:
 * JavaScript has no hook that could run its `finally` blocks.
 *
 * @module
 */

/**
 * The error that ends a greenlet and does not count as a failure. If the body does not catch
 * it, the parent gets it as a value. greenlet's `GreenletExit`.
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
 * Thrown when greenlets are used wrongly. The message names the greenlet and says what to
 * do instead. greenlet's `error`.
 *
 * @example Usage
 * ```ts
 * import { Greenlet, GreenletError } from "@gevent/gevent/greenlet";
 *
 * const sleepy = new Greenlet(function* () {
 *   yield 1; // Only a switch can be yielded, with `yield*`
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
 * The result of {@linkcode Greenlet.switch}, {@linkcode Greenlet.throw} and
 * {@linkcode Greenlet.return}.
 *
 * Inside a generator body it is a request: `yield*` performs the switch, and returns the
 * value that is later sent back. Anywhere else the switch is complete when the call returns,
 * and `value` holds what was sent back.
 *
 * @typeParam T The type of the value that is sent back.
 *
 * @example Usage
 * ```ts
 * import { getCurrent, Greenlet, type Switch } from "@gevent/gevent/greenlet";
 *
 * const main = getCurrent();
 * const g = new Greenlet(function* () {
 *   const sent: string = yield* main.switch<string>("ready"); // A request
 *   return sent.toUpperCase();
 * });
 * const first: Switch = g.switch(); // Complete
 * console.log(first.value, g.switch("go").value); // ready GO
 * ```
 */
export interface Switch<T = unknown> {
  /** The value that was sent back; `undefined` in a request. */
  readonly value: T;
  /** Performs the request, with `yield*` in a generator body. Returns the value sent back. */
  [Symbol.iterator](): Iterator<Switch, T, unknown>;
}

/**
 * A function that {@linkcode setTrace} installs. It is called at every switch.
 *
 * @param event `"switch"` if `target` gets a value, `"throw"` if it gets an error.
 * @param origin The greenlet that gives up control.
 * @param target The greenlet that gets control. The callback runs in it.
 */
export type TraceCallback = (
  event: "switch" | "throw",
  origin: Greenlet,
  target: Greenlet,
) => void;

/**
 * The way in which control arrives in a greenlet. `return` ends a generator body and runs none
 * of its `catch` blocks; Python's greenlet has nothing like it.
 */
type How = "switch" | "throw" | "return";

/**
 * - `pending`: not started
 * - `active`: a generator body that has started, or a plain body that is executing
 * - `blocked`: has called `switch` outside a generator body. The call is on the JavaScript
 *   stack and waits for control.
 * - `dead`
 */
type State = "pending" | "active" | "blocked" | "dead";

/** A requested switch. It is its own iterator, and its own iterator result. */
class SwitchRequest<T> implements Switch<T> {
  readonly target: Greenlet;
  readonly how: How;
  /** The value to send; dropped when the switch is performed. */
  sent: unknown;
  value: T;
  /** The number of arguments in `sent`: a body that starts gets them as separate arguments. */
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

  /** Whether the body has used `yield*`, and not `yield`. */
  get isDelegated(): boolean {
    return this.#delegated;
  }

  [Symbol.iterator](): Iterator<Switch, T, unknown> {
    if (this.#delegated) throw stale(this.target);
    return this as unknown as Iterator<Switch, T, unknown>;
  }

  next(value: unknown): this {
    // `yield*` calls this twice: to begin, and with the value that was sent back. One object
    // for the request, the iterator and both results saves 12 ns a switch.
    if (this.#delegated) {
      this.done = true;
      this.value = value as T;
    } else if (!this.done) {
      if (pending !== this as unknown) throw stale(this.target);
      this.#delegated = true;
      // `yield*` passes on the result itself in V8, but only its value in JavaScriptCore.
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

/** The greenlet that has control. */
let current: Greenlet;
/** The greenlet whose generator is executing. It can yield. */
let yielder: Greenlet | null = null;
/** The request that the executing generator has made and has not yielded yet. */
let pending: SwitchRequest<unknown> | null = null;
let tracer: TraceCallback | null = null;

/** Hands over control from outside a generator body: `Greenlet.#drive`. */
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
 * A function that can be suspended and resumed by {@linkcode Greenlet.switch}. greenlet's
 * `greenlet`.
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
   * The value of `run`, unless the instance or its class defines `run`; `null` after the
   * start. Not `#run`, as structuredClone() has to refuse a greenlet: it refuses the function
   * in this field, but it would copy an object that has only private fields. Not `_run`, as
   * programs from Python define that.
   */
  private _greenletRun: ((...args: never[]) => unknown) | null | undefined =
    undefined;
  /** `null` only in main. */
  #parent: Greenlet | null;
  /** The generator; `null` for a plain body, before the start and after the end. */
  #generator: Generator | null = null;
  /** The name in messages. */
  #label = "";

  /** The property `run`. Not an accessor of the class, as a subclass may define it as a method. */
  static readonly #runProperty: PropertyDescriptor & ThisType<Greenlet> = {
    get() {
      return this._greenletRun ?? undefined;
    },
    set(run) {
      if (this._greenletRun === null || this.#state !== "pending") {
        throw new TypeError(
          `Cannot set 'run' of ${
            describe(this)
          } as it has started or is dead: make a new greenlet`,
        );
      }
      if (run !== undefined) checkRun(run, "set 'run'");
      this._greenletRun = run;
    },
    configurable: true,
  };

  static {
    Object.defineProperty(this.prototype, "run", Greenlet.#runProperty);
    // The main greenlet has no creator and is never started.
    const main = new Greenlet(undefined, undefined);
    main.#parent = null;
    main.#state = "active";
    main.#label = "main";
    current = main;
    drive = Greenlet.#drive;
  }

  /**
   * Makes a greenlet and does not start it.
   *
   * @param run The body: a generator function or a plain one. It is called with the arguments
   * of the first `switch`. Leave it out if a subclass defines `run`.
   * @param parent The greenlet that gets the body's result; by default the current one.
   * @throws {TypeError} If `run` is not a function; if it is an async generator function, of
   * which no line would run; or if `parent` is not a greenlet.
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
   * The body. It can be set until the greenlet starts, and is `undefined` after that.
   * greenlet's `run`.
   *
   * @param args The arguments of the first {@linkcode Greenlet.switch}.
   * @returns The result for the parent, or the generator that is the body.
   * @throws {TypeError} If it is set after the start, or to a value that can't be a body.
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
   * The greenlet that gets control, and the result or the error, when the body ends; `null`
   * for the main greenlet. It can be set at any time. greenlet's `parent`.
   *
   * @throws {TypeError} If set to a value that is not a greenlet, or on the main greenlet.
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
          `Cannot make ${describe(parent)} the parent of ${
            describe(this)
          } as that would close a cycle of parents`,
        );
      }
    }
    this.#parent = parent;
  }

  /**
   * Whether the body has ended, or was killed before it started. Always `false` for the main
   * greenlet. greenlet's `dead`.
   */
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
   * The first switch starts the body with the arguments. A later one resumes the body: the
   * `switch` in which it is suspended returns `undefined` if there are no arguments, the
   * argument if there is one, and an array if there are several. If the greenlet is dead,
   * control goes to its parent instead.
   *
   * A switch point: in a generator body write `yield* greenlet.switch(...)`.
   *
   * @typeParam T The type of the value that is sent back.
   * @param args The values to send.
   * @returns In a generator body, a request that `yield*` performs. Elsewhere the switch is
   * complete, and `value` holds what was sent back.
   * @throws {GreenletError} If an earlier switch of the same body was not yielded, or if the
   * greenlet can't be resumed from here.
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
    // Does not read `args[0]` of an empty array: the prototype could have a value there.
    const value = count === 0 ? undefined : count === 1 ? args[0] : args;
    return request(this, "switch", value, count) as Switch<T>;
  }

  /**
   * Hands control to this greenlet and throws an error there. greenlet's `throw`.
   *
   * If the greenlet has not started, it is dead after this and its body never runs. If the body
   * does not catch the error, the error is thrown in the parent; only a {@linkcode GreenletExit}
   * is given to the parent as a value.
   *
   * A switch point: in a generator body write `yield* greenlet.throw(...)`.
   *
   * @typeParam T The type of the value that is sent back.
   * @param error The error, or a class of errors, of which a new one is made; by default a new
   * `GreenletExit`.
   * @returns See {@linkcode Greenlet.switch}.
   * @throws {GreenletError} See {@linkcode Greenlet.switch}.
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
   * Hands control to this greenlet and ends its generator body, as an iterator's `return()`
   * does: its `finally` blocks run, its `catch` blocks don't. Python's greenlet needs no such
   * call: there `except Exception` does not catch a `GreenletExit`.
   *
   * If the greenlet has not started, it is dead after this and its body never runs. For the
   * main greenlet, a plain body and a dead greenlet this is a `switch`.
   *
   * A switch point: in a generator body write `yield* greenlet.return(...)`.
   *
   * @typeParam T The type of the value that is sent back.
   * @param value The value that the body returns.
   * @returns See {@linkcode Greenlet.switch}.
   * @throws {GreenletError} See {@linkcode Greenlet.switch}.
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
   *       // Swallows every throw()
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
   * Called in the greenlet when its body has ended. A subclass may override it.
   *
   * @param outcome The value that the body has returned, or the error that it has thrown.
   * @param failed Whether the body has thrown.
   * @returns The value for the parent.
   * @throws {unknown} The error to throw in the parent.
   */
  protected ended(outcome: unknown, failed: boolean): unknown {
    if (failed && !isInstance(outcome, GreenletExit)) throw outcome;
    return outcome;
  }

  /**
   * Removes the body from the greenlet. Called when it starts, or is killed before its start.
   *
   * @returns The body.
   */
  protected takeRun(): (...args: never[]) => unknown {
    const run = this.run!;
    if (run !== this._greenletRun) Greenlet.#hideRun(this);
    this._greenletRun = null;
    this.#label ||= run.name;
    return run;
  }

  /** Hides a `run` that the instance or its class defines. That takes 200 ns. */
  static #hideRun(greenlet: Greenlet): void {
    if (Reflect.defineProperty(greenlet, "run", Greenlet.#runProperty)) return;
    // The property can't be redefined. This calls the setter of the user, if there is one.
    greenlet.run = undefined!;
  }

  /** The name in messages: by default the name of the function. */
  protected get label(): string {
    return this.#label || this.run?.name || "";
  }

  /** Returns the greenlet's class, name and state, in the words of greenlet's `repr()`. */
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

  /** Returns what `console.log` shows: `toString()`, or a prototype as it is. */
  [Symbol.for("nodejs.util.inspect.custom")](): unknown {
    return #state in this ? this.toString() : this;
  }

  /**
   * Hands control from `top` to `target`, and returns when `top` gets control again. Meanwhile
   * this loop resumes all generator bodies.
   *
   * Static, as a private method makes each instance 8 bytes larger.
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
    // The error about a mistake is thrown back to its author. That is no switch: not traced.
    let mistake = false;
    for (;;) {
      let failed = false;
      try {
        // The loop is inside the `try`, so that only the end of a body enters the `try` again,
        // and not each switch: this saves 6 ns a switch.
        for (;;) {
          while (target.#state === "dead") {
            // A dead greenlet can't return or exit again: its parent gets a value.
            if (how === "return" || isInstance(value, GreenletExit)) {
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
              // `from` made the mistake, so it gets the error. If it has died, the parent
              // of `target` gets it, or `top` if `target` is blocked.
              if (from.#state !== "dead") target = from;
              else if (target.#state === "blocked") target = top;
              else target = target.#parent!;
              how = "throw";
              value = wrong.error;
              mistake = true;
              continue;
            }
            // A getter of `run` may have switched to the target, and the target may have ended.
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
            // Throws outside the `try`: the `catch` is for the errors of bodies.
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
        // If a body delegates to an iterator without throw(), such as that of an array, the
        // engine replaces our error by a TypeError, which names no greenlet.
        if (isInstance(value, GreenletError) && isInstance(error, TypeError)) {
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
 * Returns the greenlet that has control. greenlet's `getcurrent`. Not a switch point.
 *
 * After an `await`, the event loop resumes an async function: for the core it then runs in the
 * main greenlet. `getCurrent` of the `hub` module returns the greenlet to which such a function
 * belongs.
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
 * Installs a function that is called at every switch, in the greenlet that gets control.
 * greenlet's `settrace`. Not a switch point.
 *
 * If the callback throws, the error is thrown in the target of the switch, and the callback
 * is removed.
 *
 * @param callback The function to call; `null` to stop tracing.
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
 * Returns the installed trace callback. greenlet's `gettrace`. Not a switch point.
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

/** Throws if `run` can't be a body. */
function checkRun(run: unknown, what: string): void {
  if (typeof run !== "function") {
    throw new TypeError(
      `Cannot ${what} as 'run' must be a function: received ${describe(run)}`,
    );
  }
  if (isAsyncGeneratorFunction(run)) {
    throw new TypeError(
      `Cannot ${what} as 'run' must not be an async generator function, whose body would never run: received ${
        run.name || "an anonymous one"
      }`,
    );
  }
}

/** Checks the tag: a bound function has it, too. */
// deno-lint-ignore ban-types
function isAsyncGeneratorFunction(run: Function): boolean {
  return (run as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag] ===
    "AsyncGeneratorFunction";
}

/** Whether a value is a proxy that was revoked: every use of it throws. */
function isRevoked(value: unknown): boolean {
  try {
    Array.isArray(value);
    return false;
  } catch {
    return true;
  }
}

/** As `instanceof`, which throws for a proxy that answers no question. */
function isInstance<C extends abstract new (...args: never[]) => object>(
  value: unknown,
  of: C,
): value is InstanceType<C> {
  try {
    return value instanceof of;
  } catch {
    return false;
  }
}

/** Returns an error. If a class of errors is given, makes one, as Python does. */
function instanceOf(error: unknown): unknown {
  const isClass = typeof error === "function" && !isRevoked(error) &&
    (error === Error || isInstance(error.prototype, Error));
  return isClass ? new (error as new () => Error)() : error;
}

function checkParent(parent: Greenlet): Greenlet {
  if (isInstance(parent, Greenlet)) return parent;
  throw new TypeError(
    `Cannot set parent as it must be a greenlet: received ${describe(parent)}`,
  );
}

// Checks what the function has returned, and not the function: an arrow function may return a
// generator, and a bound or wrapped generator function can't be recognized.
function isGenerator(result: unknown): result is Generator {
  return typeof result === "object" && result !== null &&
    (result as Generator)[Symbol.toStringTag] === "Generator" &&
    typeof (result as Generator).next === "function";
}

/** A reason why a switch is not possible. */
interface Obstacle {
  readonly error: unknown;
}

function noBody(target: Greenlet): Obstacle | null {
  let run: unknown;
  try {
    run = target.run;
  } catch (error) {
    // A getter of `run` has thrown. The greenlet has not started, and can be started later.
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
        `Cannot start ${target} as its 'run' is an async generator function, whose body would never run`,
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
    `Cannot perform a switch to ${target} that is no longer pending: call switch() again for each yield*`,
  );
}

function undelegated(
  greenlet: Greenlet,
  asked: SwitchRequest<unknown>,
): GreenletError {
  return new GreenletError(
    `A switch to ${describe(asked.target)} in the generator body of ${
      describe(greenlet)
    } was never performed: write \`yield*\` before switch() and throw()`,
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
      `Cannot yield a Switch or a Wait with \`yield\` in the body of ${
        describe(greenlet)
      }: write \`yield*\``,
    );
  }
  if (asked !== null) return undelegated(greenlet, asked);
  const isPromise =
    typeof (value as PromiseLike<unknown> | null | undefined)?.then ===
      "function";
  return new GreenletError(
    `Cannot yield ${describe(value)} in the body of ${
      describe(greenlet)
    }: only a Switch or a Wait can be yielded, with \`yield*\`${
      isPromise ? ", and until() makes a Wait of a promise" : ""
    }`,
  );
}

function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  try {
    if (Array.isArray(value) && value.length === 0) return "[]";
    return typeof value === "function"
      ? `function ${value.name || "without a name"}`
      : String(value);
  } catch {
    return `a value of type ${typeof value}`;
  }
}

// A minifier shortens the names of classes, and leaves the keys of an object as they are.
for (
  const [value, one] of Object.entries({
    Greenlet,
    GreenletError,
    GreenletExit,
  })
) Object.defineProperty(one, "name", { value, configurable: true });
