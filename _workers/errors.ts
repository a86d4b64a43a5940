/**
 * Errors on their way between workers: with their class, message and stack.
 *
 * @module
 */

import { GreenletError, GreenletExit } from "../greenlet.ts";
import { Empty, Full, ShutDown } from "../queue.ts";
import { Timeout } from "../timeout.ts";

/** What was thrown, as it can be sent. */
export type SentError =
  | { readonly kind: "value"; readonly value: unknown }
  | {
    readonly kind: "error";
    /** The names of its classes, its own first. */
    readonly classes: readonly string[];
    readonly name: string;
    readonly message: string;
    readonly stack: string | undefined;
    /** Its own properties that can be sent. */
    readonly properties: Readonly<Record<string, unknown>>;
    readonly cause?: SentError;
    readonly errors?: readonly SentError[];
  };

/** How many causes of causes are sent. */
const DEEPEST = 10;

/** Puts what was thrown into a form that can be sent. */
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
  return {
    ...sent,
    ...Object.hasOwn(error, "cause") &&
      { cause: packError(error.cause, depth + 1) },
    ...Array.isArray(errors) &&
      { errors: errors.map((one) => packError(one, depth + 1)) },
  };
}

function packValue(value: unknown): SentError {
  if (canBeSent(value)) return { kind: "value", value };
  return packError(
    new GreenletError(
      `A worker has thrown what can't be sent: ${describe(value)}`,
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
    structuredClone(value);
    return !(value instanceof SharedArrayBuffer);
  } catch {
    return false;
  }
}

/** Whether a value is sent as it is, without a copy of anything. */
export function isPlain(value: unknown): boolean {
  return value === null ||
    typeof value !== "object" && typeof value !== "function" &&
      typeof value !== "symbol";
}

/** Makes the error again that was packed. */
export function unpackError(sent: SentError): unknown {
  if (sent.kind === "value") return sent.value;
  const { name, message, stack, properties } = sent;
  const error = makeError(sent);
  Object.assign(error, properties);
  // Where the class does not say so, as for one that has set it itself.
  if (error.name !== name) define(error, "name", name);
  if (error.message !== message) define(error, "message", message);
  if (stack !== undefined) define(error, "stack", stack);
  if (sent.cause !== undefined) {
    define(error, "cause", unpackError(sent.cause));
  }
  if (sent.errors !== undefined) {
    define(error, "errors", sent.errors.map(unpackError));
  }
  return error;
}

function define(error: Error, name: string, value: unknown): void {
  Object.defineProperty(error, name, {
    value,
    writable: true,
    enumerable: false,
    configurable: true,
  });
}

type SentObject = Extract<SentError, { kind: "error" }>;
type ErrorClass = new (message?: string) => Error;

function makeError({ classes, message, name, properties }: SentObject): Error {
  if (classes[0] === "DOMException") return new DOMException(message, name);
  const known = classes.findIndex((one) => findClass(one) !== undefined);
  const base = known < 0 ? Error : findClass(classes[known]!)!;
  // It has private fields, which nothing but its constructor makes.
  if (base === Timeout) {
    const { ms } = properties;
    const timeout = new Timeout(typeof ms === "number" ? ms : Infinity);
    if (known > 0) {
      Object.setPrototypeOf(timeout, classNamed(classes[0]!, base).prototype);
    }
    return timeout;
  }
  const made = known > 0 ? classNamed(classes[0]!, base) : base;
  // As `Error` makes it, whatever the constructor of the class wants.
  return Reflect.construct(Error, [message], made);
}

/** The library's own classes of errors. */
const OWN: Record<string, unknown> = {
  __proto__: null,
  GreenletError,
  GreenletExit,
  Timeout,
  Empty,
  Full,
  ShutDown,
};

/** The class of errors of a name that both sides have. */
function findClass(name: string): ErrorClass | undefined {
  const found = OWN[name] ??
    (Object.hasOwn(Deno.errors, name)
      ? Reflect.get(Deno.errors, name)
      : null) ??
    Reflect.get(globalThis, name);
  const isError = found === Error ||
    typeof found === "function" && found.prototype instanceof Error;
  return isError ? found as ErrorClass : undefined;
}

/** Classes that stand for those which only the other side has. */
const standIns = new Map<string, ErrorClass>();

function classNamed(name: string, base: ErrorClass): ErrorClass {
  const key = `${name} ${base.name}`;
  let made = standIns.get(key);
  if (made === undefined) {
    made = { [name]: class extends base {} }[name]!;
    standIns.set(key, made);
  }
  return made;
}
