/**
 * Checks of arguments.
 *
 * @module
 */

/**
 * Matches what a terminal does not print as a character of the line: ends of lines, control codes,
 * changes of the direction of the text, and halves of surrogate pairs.
 */
export const NOT_IN_LINE =
  /[\p{Cc}\p{Cs}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/**
 * Returns a text of the program as one line: escapes what a terminal does not print. Otherwise the
 * name of a greenlet could look like other lines, or change the colours.
 */
export function oneLine(text: string): string {
  return text.replace(NOT_IN_LINE, (char) => {
    const escaped = JSON.stringify(char).slice(1, -1);
    if (escaped !== char) return escaped;
    return `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/**
 * Returns a text that code of the program makes, as one line. Never throws.
 *
 * @param otherwise The text if that code throws.
 */
export function inWords(
  say: () => string,
  otherwise = "something that can't be shown",
): string {
  try {
    return oneLine(String(say()));
  } catch {
    return otherwise;
  }
}

/** Returns the description of a wait, as one line. A class in it may have a name that throws. */
export function waitInWords(describe: () => string): string {
  return inWords(describe, "a wait that can't be described");
}

/** The most items of an array, and characters of a string, that are shown. */
const MOST_SHOWN = 3;
const LONGEST_SHOWN = 1000;

/** Shows a value of the program in a message, as one line. Never throws. */
export function show(value: unknown): string {
  // For a value that has no `toString()`, or one that throws.
  return inWords(() => textOf(value), `a value of type ${typeof value}`);
}

function textOf(value: unknown): string {
  if (typeof value === "string") {
    const isLong = value.length > LONGEST_SHOWN;
    return JSON.stringify(isLong ? `${value.slice(0, LONGEST_SHOWN)}…` : value);
  }
  if (typeof value === "bigint") return `${value}n`;
  // As a string, it would be its numbers.
  if (ArrayBuffer.isView(value)) return Object.prototype.toString.call(value);
  // As a string, a function would be its source text.
  if (typeof value === "function") {
    return `function ${value.name || "without a name"}`;
  }
  if (!Array.isArray(value)) return String(value);
  // As a string, `[5]` would be `5`.
  const items = value.slice(0, MOST_SHOWN).map((item) =>
    Array.isArray(item) ? "[…]" : show(item)
  );
  if (value.length > MOST_SHOWN) items.push("…");
  return `[${items.join(", ")}]`;
}

/** Whether it is an object, and no function. */
export function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/**
 * Whether a value of the program is an instance of a class. `instanceof` throws where the value
 * is a proxy that answers no question.
 */
export function isInstance<C extends abstract new (...args: never[]) => object>(
  value: unknown,
  of: C,
): value is InstanceType<C> {
  try {
    return value instanceof of;
  } catch {
    return false;
  }
}

/** Whether a value is a proxy that was revoked: every use of it throws. */
export function isRevoked(value: unknown): boolean {
  try {
    // The one question about a proxy that runs no code of the program.
    Array.isArray(value);
    return false;
  } catch {
    return true;
  }
}

/** Whether a value is an object or a function, and so can have properties. */
export function isObjectOrFunction(value: unknown): value is object {
  return isObject(value) || typeof value === "function";
}

/**
 * Checks options. Without this check, `join(5)`, `join([5])` and `killAll(all, new Error())`
 * would silently ignore the argument.
 *
 * @param what For the message: the action that failed, such as `wait`.
 * @param advice For the message: what to write instead.
 * @throws {TypeError} If they are not an object, or are an error.
 */
export function checkOptions(
  options: unknown,
  what: string,
  advice?: string,
): void {
  const isUsable = isObject(options) && !isRevoked(options);
  const isError = isUsable && isInstance(options, Error);
  if (isUsable && !isError && !Array.isArray(options)) return;
  throw new TypeError(
    `Cannot ${what} as the options must ${
      isError ? "not be an error" : "be an object"
    }: received ${show(options)}${
      advice === undefined ? "" : `; write ${advice}`
    }`,
  );
}

/** Advice for a call whose options have an `error`, which gevent takes as an argument. */
export const ADVICE_ERROR = "{ error }";

/**
 * Checks an option that is on or off. Any other value would count as on, also `"no"`.
 *
 * @param what For the message: the action that failed, such as `wait`.
 * @param name For the message: the name of the option.
 * @throws {TypeError} If it is neither `true` nor `false`; it may be left out.
 */
export function checkFlag(flag: unknown, what: string, name: string): void {
  if (flag === undefined || typeof flag === "boolean") return;
  throw new TypeError(
    `Cannot ${what} as '${name}' must be true or false: received ${show(flag)}`,
  );
}

/**
 * Returns the error of a kill, as {@linkcode instanceOf}. Without the check,
 * `kill({ block: false })` would throw the options into the body, and wait.
 *
 * @throws {TypeError} If it is the options of the kill.
 */
export function killErrorOf(error: unknown): unknown {
  if (isInstance(error, Error) || !isObject(error) || isRevoked(error)) {
    return instanceOf(error);
  }
  const names = Object.keys(error);
  if (names.length === 0 || !names.every((name) => KILL_OPTIONS.has(name))) {
    return error;
  }
  const list = names.join(", ");
  throw new TypeError(
    `Cannot kill as the error must not be the options: received { ${list} }; write kill(undefined, { ${list} })`,
  );
}

const KILL_OPTIONS = new Set(["block", "timeout", "grace"]);

/** Returns the error to throw. If a class of errors is given, makes one, as Python does. */
export function instanceOf(error: unknown): unknown {
  const isClass = typeof error === "function" && !isRevoked(error) &&
    (error === Error || isInstance(error.prototype, Error));
  return isClass ? new (error as new () => Error)() : error;
}

/**
 * Checks that a value is iterable.
 *
 * @param what For the message: the action that failed, such as `wait`.
 * @param name For the message: what the values in it are.
 * @throws {TypeError} If it is not.
 */
export function checkIterable(
  value: unknown,
  what: string,
  name: string,
): asserts value is Iterable<unknown> {
  if (!isRevoked(value)) {
    const open = (value as Iterable<unknown> | null | undefined)
      ?.[Symbol.iterator];
    if (typeof open === "function") return;
  }
  throw new TypeError(
    `Cannot ${what} as the ${name} must be iterable: received ${show(value)}`,
  );
}

/**
 * Returns a name as a string.
 *
 * @throws {TypeError} If it can't be one.
 */
export function nameFrom(name: unknown): string {
  try {
    return String(name);
  } catch {
    throw new TypeError(
      `Cannot set name as 'name' must be a string: received ${show(name)}`,
    );
  }
}

/** Makes the error for a value that is not the required number. */
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
 * Checks a function that is called later or run as a body. It may be async, a generator
 * function or plain.
 *
 * @param what For the message: the action that failed, such as `wait`.
 * @param name For the message: the name of the argument.
 * @throws {TypeError} If it is not a function, or is an async generator function.
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

/** Whether a value can be run as a body. */
export function isBody(value: unknown): boolean {
  return typeof value === "function" && !isRevoked(value) &&
    kindOf(value) !== "AsyncGeneratorFunction";
}

/**
 * Checks a function that is called for its effect, or its answer, and must not wait.
 *
 * @throws {TypeError} If it is not a function, or is a generator function of either kind.
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
 * Checks that a value can be called.
 *
 * @throws {TypeError} If it can't.
 */
export function checkCallable(
  value: unknown,
  what: string,
  name: string,
): void {
  if (typeof value === "function" && !isRevoked(value)) return;
  throw new TypeError(
    `Cannot ${what} as '${name}' must be a function: received ${show(value)}${
      isResultOfCall(value) ? "; pass the function, without calling it" : ""
    }`,
  );
}

/** Whether a value is what an async function or a generator function returns. */
function isResultOfCall(value: unknown): boolean {
  const kind = isObject(value) && !isRevoked(value) && kindOf(value);
  return kind === "Promise" || kind === "Generator";
}

/** The kind of a function, by its tag: a bound function has it, too. */
function kindOf(value: unknown): unknown {
  return (value as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag];
}

/** Makes the error for a function whose call would run no line. */
function neverRun(
  value: unknown,
  kind: string,
  what: string,
  name: string,
): TypeError {
  return new TypeError(
    `Cannot ${what} as '${name}' must not be ${kind}, as a call of it would run no line: received ${
      (value as { name?: string }).name || "an anonymous one"
    }`,
  );
}
