/**
 * Checks of what the user gives.
 *
 * @module
 */

/** How a message shows what it has received. */
export function show(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/**
 * Checks options: what is none would be passed over in silence, such as the 5 of `join(5)`.
 *
 * @param what For the message: what can't be done.
 * @throws {TypeError} If they are no object.
 */
export function checkOptions(options: unknown, what: string): void {
  if (typeof options === "object" && options !== null) return;
  throw new TypeError(
    `Cannot ${what} as the options must be an object: received ${
      show(options)
    }`,
  );
}

/** What to throw for an error that is given by its class, as Python's may be. */
export function instanceOf(error: unknown): unknown {
  const isClass = typeof error === "function" &&
    error.prototype instanceof Error;
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
 * Checks a function that is called later.
 *
 * @throws {TypeError} If it is none.
 */
export function checkFunction(
  value: unknown,
  what: string,
  name: string,
): void {
  if (typeof value === "function") return;
  throw new TypeError(
    `Cannot ${what} as '${name}' must be a function: received ${show(value)}`,
  );
}
