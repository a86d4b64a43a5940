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
    readonly cause?: SentError;
    readonly errors?: readonly SentError[];
  };

/** How many levels of causes are sent. */
const DEEPEST = 10;

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
    structuredClone(value);
    return !(value instanceof SharedArrayBuffer);
  } catch {
    return false;
  }
}

/** Whether a value can be sent without a copy. */
export function isPlain(value: unknown): boolean {
  return value === null ||
    typeof value !== "object" && typeof value !== "function" &&
      typeof value !== "symbol";
}
