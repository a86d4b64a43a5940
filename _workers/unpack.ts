/**
 * Unpacks errors from a worker: makes them again, with their class, message and stack.
 *
 * @module
 */

import { GreenletError, GreenletExit } from "../greenlet.ts";
import { Empty, Full, ShutDown } from "../queue.ts";
import { Timeout } from "../timeout.ts";
import type { SentError } from "./pack.ts";

/** Classes of errors by their names. */
export type ErrorClasses = Readonly<Record<string, unknown>>;

/**
 * Makes an error from its packed form.
 *
 * @param sent The packed error.
 * @param others Classes of modules above this one, which it can't import.
 */
export function unpackError(sent: SentError, others: ErrorClasses): unknown {
  if (sent.kind === "value") return sent.value;
  const { name, message, stack, properties } = sent;
  const error = makeError(sent, others);
  Object.assign(error, properties);
  // An instance may have set its own name or message, which its class does not give.
  if (error.name !== name) define(error, "name", name);
  if (error.message !== message) define(error, "message", message);
  if (stack !== undefined) define(error, "stack", stack);
  for (const [link, linked] of Object.entries(sent.linked ?? {})) {
    define(error, link, unpackError(linked, others));
  }
  if (sent.errors !== undefined) {
    const errors = sent.errors.map((one) => unpackError(one, others));
    define(error, "errors", errors);
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

function makeError(
  { classes, message, name, properties }: SentObject,
  others: ErrorClasses,
): Error {
  if (classes[0] === "DOMException") return new DOMException(message, name);
  const known = classes.findIndex((one) => findClass(one, others));
  const base = findClass(classes[known] ?? "Error", others)!;
  const made = known > 0 ? classNamed(classes[0]!, base) : base;
  // A `Timeout` has private fields. Only its constructor makes them.
  if (base === Timeout || base.prototype instanceof Timeout) {
    const { ms } = properties;
    const timeout = new Timeout(typeof ms === "number" ? ms : Infinity);
    timeout.message = message;
    return Object.setPrototypeOf(timeout, made.prototype);
  }
  // Calls the constructor `Error`: that of the class may need other arguments.
  return Reflect.construct(Error, [message], made);
}

/** Error classes of the library, from modules below this one. */
const OWN: ErrorClasses = {
  __proto__: null,
  GreenletError,
  GreenletExit,
  Timeout,
  Empty,
  Full,
  ShutDown,
};

/** Finds an error class by its name; `undefined` if this side does not have it. */
function findClass(
  name: string,
  others: ErrorClasses,
): ErrorClass | undefined {
  const found = OWN[name] ??
    (Object.hasOwn(others, name) ? others[name] : null) ??
    (Object.hasOwn(Deno.errors, name)
      ? Reflect.get(Deno.errors, name)
      : null) ??
    Reflect.get(globalThis, name);
  const isError = found === Error ||
    typeof found === "function" && found.prototype instanceof Error;
  return isError ? found as ErrorClass : undefined;
}

/** Classes made here in place of those that only the worker has. */
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
