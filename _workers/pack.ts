/**
 * Packs errors that a worker sends: class, message and stack.
 *
 * Separate from `unpack.ts`: each worker loads its modules anew, and needs only this one.
 *
 * @module
 */

import { GreenletError } from "../greenlet.ts";

/** A thrown value in a form that can be sent. */
export type SentError =
  | { readonly kind: "value"; readonly value: unknown }
  | {
    readonly kind: "error";
    /** The names of its classes, the most derived first. */
    readonly classes: readonly string[];
    readonly name: string;
    readonly message: string;
    readonly stack: string | undefined;
    /** Its own properties that can be sent. */
    readonly properties: Readonly<Record<string, unknown>>;
    /** What else it was caused by, under the names of its properties. */
    readonly linked?: Readonly<Record<string, SentError>>;
    readonly errors?: readonly SentError[];
  };

/** How many levels of causes are sent. */
const DEEPEST = 10;
/** Own properties of errors that may be errors, and that nothing enumerates. */
const LINKS = ["cause", "error", "suppressed"] as const;

/** Converts a thrown value to a form that can be sent. */
export function packError(error: unknown, depth = 0): SentError {
  if (!(error instanceof Error)) return packValue(error);
  const { name, message, stack } = error;
  const sent = {
    kind: "error",
    classes: classesOf(error),
    name: String(name),
    message: String(message),
    stack: stack === undefined ? undefined : String(stack),
    properties: propertiesOf(error),
  } as const;
  if (depth === DEEPEST) return sent;
  const { errors } = error as { errors?: unknown };
  const linked: Record<string, SentError> = {};
  for (const link of LINKS) {
    if (!isLink(error, link)) continue;
    linked[link] = packError(Reflect.get(error, link), depth + 1);
  }
  return {
    ...sent,
    linked,
    ...Array.isArray(errors) &&
      { errors: errors.map((one) => packError(one, depth + 1)) },
  };
}

/** Whether a property is one of an error's own, and not of the program's: `cause` may be both. */
function isLink(error: Error, name: string): boolean {
  const property = Object.getOwnPropertyDescriptor(error, name);
  return property !== undefined && (name === "cause" || !property.enumerable);
}

function packValue(value: unknown): SentError {
  if (canBeSent(value)) return { kind: "value", value };
  return packError(
    new GreenletError(
      `A worker has thrown a value that can't be sent: ${describe(value)}`,
    ),
  );
}

function describe(value: unknown): string {
  try {
    return String(value);
  } catch {
    return typeof value;
  }
}

function classesOf(error: Error): string[] {
  const classes: string[] = [];
  for (
    let prototype = Object.getPrototypeOf(error);
    prototype !== null && prototype !== Object.prototype;
    prototype = Object.getPrototypeOf(prototype)
  ) {
    const { name } = prototype.constructor ?? {};
    if (typeof name === "string" && name !== "") classes.push(name);
  }
  return classes;
}

function propertiesOf(error: Error): Record<string, unknown> {
  const properties: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(error)) {
    const isSent = name !== "cause" && name !== "errors" && canBeSent(value);
    if (isSent) properties[name] = value;
  }
  return properties;
}

function canBeSent(value: unknown): boolean {
  if (isPlain(value)) return true;
  try {
    checkForProcess(structuredClone(value));
    return true;
  } catch {
    return false;
  }
}

/** What has these prototypes gets into another process as it is. */
const CARRIED: ReadonlySet<object | null> = new Set([
  ArrayBuffer,
  Boolean,
  BigInt,
  Date,
  Error,
  EvalError,
  Number,
  RangeError,
  ReferenceError,
  RegExp,
  String,
  SyntaxError,
  TypeError,
  URIError,
].map(({ prototype }) => prototype));

/**
 * Checks that a value gets into another process as it is. The runtime sends an empty object for
 * what belongs to itself, such as a `Blob`, and ends the channel for what is shared.
 *
 * @param copy The value, as `structuredClone` has copied it.
 * @throws {TypeError} If something in it does not.
 */
export function checkForProcess(copy: unknown): void {
  const found = new Set<unknown>([copy]);
  // It grows meanwhile, and so does the iteration.
  for (const value of found) {
    if (typeof value !== "object" || value === null) continue;
    const prototype = Object.getPrototypeOf(value);
    if (prototype === Array.prototype || prototype === Object.prototype) {
      for (const inner of Object.values(value)) {
        if (!isPlain(inner)) found.add(inner);
      }
    } else if (value instanceof Map) {
      for (const pair of value) for (const inner of pair) found.add(inner);
    } else if (value instanceof Set) {
      for (const inner of value) found.add(inner);
    } else if (ArrayBuffer.isView(value)) {
      found.add(value.buffer);
    } else if (!CARRIED.has(prototype)) {
      const name = prototype?.constructor?.name ?? "an object";
      throw new TypeError(`${name} can't be sent to another process`);
    }
  }
}

/** Whether a value is sent as it is, without a copy of anything. */
export function isPlain(value: unknown): boolean {
  return value === null ||
    typeof value !== "object" && typeof value !== "function" &&
      typeof value !== "symbol";
}
