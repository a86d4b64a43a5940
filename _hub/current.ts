/**
 * Who is current: the scope that running code belongs to.
 *
 * @module
 */

import { getCurrent as getRunning, type Greenlet } from "../greenlet.ts";
import { type Context, makeContext } from "./async_context.ts";
import { errorFor, isExpected } from "./interrupts.ts";
import { main } from "./main.ts";
import { watchRejections } from "./rejections.ts";
import {
  type Abandon,
  coldFieldsOf,
  mainScope,
  type Origin,
  Scope,
  treeOf,
} from "./scope.ts";

/** Carries the scope through every `await`. */
export const current: Context<Scope> = makeContext();

/** The scopes of greenlets that are not ours: the core's own, which wait now and then. */
const rawScopes = new WeakMap<Greenlet, Scope>();

/** Gives a greenlet class a say in where the scope of its instances is. */
let ownScope: (greenlet: Greenlet) => Scope | undefined = () => undefined;

/** Ends a greenlet of that class whose body is past all patience. */
let giveUp: Abandon = () => {};

/** Called once by the class that keeps its scopes itself. */
export function setOwnScope(
  find: (greenlet: Greenlet) => Scope | undefined,
  end: Abandon,
): void {
  ownScope = find;
  giveUp = end;
}

/** The scope of a greenlet. */
export function scopeOf(greenlet: Greenlet): Scope {
  if (greenlet === main) return mainScope;
  let scope = ownScope(greenlet) ?? rawScopes.get(greenlet);
  if (scope === undefined) rawScopes.set(greenlet, scope = new Scope(greenlet));
  return scope;
}

/** Makes `scope` the one in which the body of a core greenlet runs. */
export function setScope(greenlet: Greenlet, scope: Scope): void {
  rawScopes.set(greenlet, scope);
}

/** The scope to be cooperative in; `null` outside greenlets and limited calls. */
export function interruptibleScope(): Scope | null {
  const scope = currentScope();
  return scope === mainScope ? null : scope;
}

/** The scope of a function that a body has called, in no greenlet of its own. */
let called: Scope | null = null;
/** Who runs that function: the greenlets to which it may switch have their own scopes. */
let caller: Greenlet;

/** Calls `run` as nobody's part: no interrupt reaches what it and its `await`s wait for. */
export function runDetached<R>(run: () => R): R {
  return currentScope() === mainScope ? run() : runIn(mainScope, run);
}

/** Calls `run` as a part of `scope`, which is not that of whoever runs. */
export function runIn<R>(scope: Scope, run: () => R): R {
  const before = called;
  const callerBefore = caller;
  called = scope;
  caller = getRunning();
  try {
    return current.run(scope, run);
  } finally {
    called = before;
    caller = callerBefore;
  }
}

/** The scope that the running code belongs to. */
export function currentScope(): Scope {
  const running = getRunning();
  if (called !== null && running === caller) return called;
  // Outside generator bodies the event loop runs us, which is main's business; whose
  // code it is, the context tells.
  return running === main ? current.get() ?? mainScope : scopeOf(running);
}

/**
 * The greenlet that the running code belongs to: in a generator body the running
 * greenlet; in an async body the one that the call belongs to, through every `await`;
 * else main, which is the hub. gevent's `getcurrent`.
 *
 * @returns The current greenlet.
 *
 * @example Usage
 * ```ts
 * import { getCurrent, getHub, spawn } from "@gevent/gevent";
 *
 * const g = spawn(async () => {
 *   await import("node:fs"); // Anybody's promise
 *   return getCurrent();
 * });
 * console.log(await g.get() === g); // true
 * console.log(getCurrent() === getHub()); // true
 * ```
 */
export function getCurrent(): Greenlet {
  return currentScope().greenlet;
}

/** Where those come from who are spawned in a scope. */
export function originOf(part: Scope): Origin {
  // The greenlet's own scope knows, also of a part of it.
  const scope = scopeOf(part.greenlet);
  return coldFieldsOf(scope).origin ??= {
    spawner: new WeakRef(scope.greenlet),
    root: scope === mainScope ? scope.root : treeOf(scope),
  };
}

/** Gives up a body that is past all patience. */
export function abandon(scope: Scope, error: unknown): void {
  const { greenlet, cold } = scope;
  if (cold !== null && cold.abandoned !== null) {
    cold.abandoned(greenlet, error);
  } else if (scopeOf(greenlet) === scope) {
    giveUp(greenlet, error);
  }
}

/** The scope of the rejection that is being told of outside greenlets. */
let rejectedIn: Scope | null = null;

/** Calls `tell`, which tells of a rejection of the current scope, outside greenlets. */
export function tellApart<R>(tell: () => R): R {
  const before = rejectedIn;
  rejectedIn = currentScope();
  try {
    return runDetached(tell);
  } finally {
    rejectedIn = before;
  }
}

// The runtime tells of a rejection in the context in which it has happened.
watchRejections(
  {
    isExpected: (reason) => isExpected(reason, current.get() ?? mainScope),
    failureOfMain: (reason) => errorFor(reason, mainScope),
  },
  runDetached,
  (judge) => rejectedIn === null ? judge() : current.run(rejectedIn, judge),
);
