/**
 * Describes the waits of greenlets, and finds the greenlets that they wait for.
 *
 * Each wait describes itself on request. Nothing is stored for that, so descriptions cost a
 * wait nothing.
 *
 * @module
 */

import { show, waitInWords } from "../_base/checks.ts";
import { addressName } from "../_base/addresses.ts";
import { getCurrent as getRunning, Greenlet } from "../greenlet.ts";
import { main } from "./main.ts";
import { isAboutToGoOn, noteWakeUps } from "./run_queue.ts";
import type { Scope, Waited } from "./scope.ts";

/** The text for a body that awaits a promise which is not a wait of the library. */
export const FOREIGN = "a foreign promise";

/** The greatest number of different waits of one scope that are named. */
const MOST_NAMED = 3;

/** Describes the wait of a scope; `null` if no wait of the library is pending. */
export function describeWaits(scope: Scope): string | null {
  const pending = waitedIn(scope);
  if (pending === null) return null;
  if (!(pending instanceof Set)) return waitInWords(() => pending.describe());
  const counts = new Map<string, number>();
  for (const one of pending) {
    const text = waitInWords(() => one.describe());
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  // Nearly always the wait for an async function that itself waits in the others.
  if (counts.size > 1) counts.delete(FOREIGN);
  const parts: string[] = [];
  let rest = 0;
  for (const [text, count] of counts) {
    if (parts.length === MOST_NAMED) rest += count;
    else parts.push(count > 1 ? `${text} × ${count}` : text);
  }
  if (rest > 0) parts.push(`${rest} more`);
  return parts.join(" and ");
}

/** How long a scope has waited; if it has several pending waits, the time of the longest. */
export function waitedOf(scope: Scope): Waited | null {
  const pending = waitedIn(scope);
  if (!(pending instanceof Set)) return pending?.waited ?? null;
  let longest: Waited | null = null;
  for (const { waited } of pending) {
    if (waited !== undefined && !(waited.ms <= (longest?.ms ?? -1))) {
      longest = waited;
    }
  }
  return longest;
}

/** Describes how long a wait has taken; `""` for less than a second. */
export function durationText(waited: Waited | null): string {
  if (waited === null || !(waited.ms >= 1000)) return "";
  const { ms, isExact } = waited;
  const seconds = Math.floor(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  const time = seconds < 120
    ? `${seconds} s`
    : minutes < 120
    ? `${minutes} min`
    : `${Math.floor(minutes / 60)} h`;
  return ` for ${isExact ? "" : "up to "}${time}`;
}

/**
 * The pending waits, without those that only run beside the body, such as that of a spawned
 * child.
 */
function waitedIn(scope: Scope): Scope["pending"] {
  const { pending } = scope;
  if (!(pending instanceof Set)) return pending;
  const waits = [...pending].filter((one) => !one.isAside);
  if (waits.length === 1) return waits[0]!;
  return waits.length === 0 ? pending : new Set(waits);
}

/** The most calls within each other that a description has: more could overflow the stack. */
const MOST_WITHIN = 100;
let within = 0;

/** Looks into the scope of a call; gives `tooDeep` if the call is within too many others. */
function lookInto<R>(scope: Scope, look: (scope: Scope) => R, tooDeep: R): R {
  if (within === MOST_WITHIN) return tooDeep;
  within++;
  try {
    return look(scope);
  } finally {
    within--;
  }
}

/** Describes the wait of a function that runs in a scope of its own. */
export function describeInner(scope: Scope): string {
  return lookInto(scope, describeWaits, "calls within each other") ?? FOREIGN;
}

/**
 * Returns the greenlets that must all go on before the wait of a scope can end; none if that is
 * not known.
 */
export function blockersOf(scope: Scope): readonly Greenlet[] {
  return lookInto(scope, blockersIn, NO_BLOCKERS);
}

function blockersIn(scope: Scope): readonly Greenlet[] {
  const pending = waitedIn(scope);
  // Of several waits, as in `Promise.any`, one may be enough.
  if (pending === null || pending instanceof Set) return NO_BLOCKERS;
  return pending.blockers;
}

/** The blockers of a wait that does not depend on certain greenlets. */
export const NO_BLOCKERS: readonly Greenlet[] = Object.freeze([]) as never[];

/**
 * Describes the wait of a greenlet that has begun and not ended.
 *
 * @param scope Its scope; `null` if it never had one.
 * @param follows Whether its body is an async function that has reached its first `await`.
 */
export function describeGreenlet(
  greenlet: Greenlet,
  scope: Scope | null,
  follows: boolean,
): string | null {
  noteWakeUps();
  const waits = scope === null ? null : describeWaits(scope);
  if (waits !== null) return waits;
  if (follows) {
    return scope !== null && isAboutToGoOn(scope) ? null : FOREIGN;
  }
  if (getRunning() === greenlet) return null;
  // Its wait has ended, and it is about to go on.
  if (scope !== null && scope.driver !== null) return null;
  return "a switch to another greenlet";
}

/** A description, or a function that makes it on request. */
export type Text = string | (() => string);

/** Returns a description. */
export function textOf(text: Text): string {
  return typeof text === "string" ? text : text();
}

/** The key of the method by which an inner object names calls of the object it belongs to. */
export const CALL: unique symbol = Symbol("call");

/** The key of the method that returns the blockers of calls of an object. */
export const BLOCKERS: unique symbol = Symbol("blockers");

/** An object that can describe the calls that wait for it. */
interface WaitedFor {
  [CALL]?(call: string): string;
  [BLOCKERS]?(): readonly Greenlet[];
}

/** Returns the greenlets that must all go on before calls of an object can end. */
export function blockersFor(
  owner: object | null | undefined,
): readonly Greenlet[] {
  if (owner instanceof Greenlet) return [owner];
  return (owner as WaitedFor | null | undefined)?.[BLOCKERS]?.() ?? NO_BLOCKERS;
}

/** Describes a call of an object, such as `Queue.get()`. */
export function callOf(owner: object | null | undefined, call: string): string {
  if (!owner) return call;
  return (owner as WaitedFor)[CALL]?.(call) ??
    (classOf(owner) === "Object" ? call : `${classOf(owner)}.${call}`);
}

/** The name of the class of an object. */
export function classOf(object: object | null | undefined): string {
  return object?.constructor?.name || "Object";
}

/** The address of a connection or of a listener, or the class of something else. */
export function titleOf(owner: object): string {
  const { remoteAddr, addr } = owner as Partial<Deno.Conn & Deno.Listener>;
  const address: { port?: unknown; path?: unknown } = remoteAddr ?? addr ?? {};
  // The path of a client at a Unix socket is empty.
  return address.port === undefined && !address.path
    ? classOf(owner)
    : addressName(address as Deno.NetAddr);
}

/** Describes an attempt to connect, with options of `Deno.connect`. */
export function connectingTo(options: object): string {
  const { port, path } = options as Partial<Deno.NetAddr & Deno.UnixAddr>;
  const address = path === undefined
    ? { hostname: "127.0.0.1", ...options, port }
    : options;
  return `connect to ${addressName(address as Deno.NetAddr)}`;
}

/** The name of a greenlet; the main one has none of its own. */
export function nameOf(greenlet: Greenlet): string {
  return greenlet === main ? "main" : show(greenlet);
}

/** Names a few greenlets or other things, or says how many there are. */
export function several(
  those: Iterable<unknown>,
  what = "greenlets",
): string {
  const all = [...those];
  if (all.length === 1) return asTitle(all[0]);
  if (all.length <= MOST_NAMED) return all.map(asTitle).join(", ");
  return `${all.length} ${what}`;
}

function asTitle(one: unknown): string {
  return typeof one === "string" ? one : show(one);
}
