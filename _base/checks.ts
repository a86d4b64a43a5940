/**
 * Checks of what the user gives.
 *
 * @module
 */

/** How a message shows what it has received. */
export function show(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** Whether it is an object, and no function. */
export function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** Whether it is an object or a function: what can have properties of its own. */
export function isObjectOrFunction(value: unknown): value is object {
  return isObject(value) || typeof value === "function";
}

/**
 * Checks options: what is none would be passed over in silence, such as the 5 of `join(5)`.
 *
 * @param what For the message: what can't be done.
 * @throws {TypeError} If they are no object.
 */
export function checkOptions(options: unknown, what: string): void {
  if (isObject(options)) return;
  throw new TypeError(
    `Cannot ${what} as the options must be an object: received ${
      show(options)
    }`,
  );
}

/** What to throw for an error that is given by its class, as Python's may be. */
export function instanceOf(error: unknown): unknown {
  const isClass = typeof error === "function" &&
    (error === Error || error.prototype instanceof Error);
  return isClass ? new (error as new () => Error)() : error;
}

/** The error for a value that is not the number that it has to be. */
export function numberError(
  what: string,
  name: string,
  kind: string,
  value: unknown,
): TypeError | RangeError {
  const message = `Cannot ${what} as '${name}' must be ${kind}: received ${
    show(value)
  }`;
  return typeof value === "number"
    ? new RangeError(message)
    : new TypeError(message);
}

/**
 * Checks a function that is called later, or run as a body: async, generator or plain.
 *
 * @param what For the message: what can't be done.
 * @param name For the message: what the user calls it.
 * @throws {TypeError} If it is none, or an async generator function.
 */
export function checkFunction(
  value: unknown,
  what: string,
  name: string,
): void {
  if (isBody(value)) return;
  checkCallable(value, what, name);
  throw neverRun(value, "an async generator function", what, name);
}

/** Whether it can be run as a body. */
export function isBody(value: unknown): boolean {
  return typeof value === "function" &&
    kindOf(value) !== "AsyncGeneratorFunction";
}

/**
 * Checks a function that is called for its effect, or its answer, and can't wait.
 *
 * @throws {TypeError} If it is none, or a generator function of either kind.
 */
export function checkCallback(
  value: unknown,
  what: string,
  name: string,
): void {
  checkFunction(value, what, name);
  if (kindOf(value) !== "GeneratorFunction") return;
  throw neverRun(value, "a generator function", what, name);
}

/**
 * Checks that something can be called, whatever comes of that.
 *
 * @throws {TypeError} If it can't.
 */
export function checkCallable(
  value: unknown,
  what: string,
  name: string,
): void {
  if (typeof value === "function") return;
  throw new TypeError(
    `Cannot ${what} as '${name}' must be a function: received ${show(value)}`,
  );
}

/** The kind of a function by its tag, which one that is bound has as well. */
function kindOf(value: unknown): unknown {
  return (value as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag];
}

/** The error for a function of which a call runs no line. */
function neverRun(
  value: unknown,
  kind: string,
  what: string,
  name: string,
): TypeError {
  return new TypeError(
    `Cannot ${what} as '${name}' must not be ${kind}, of which nothing would run a line: received ${
      (value as { name?: string }).name || "an anonymous one"
    }`,
  );
}
