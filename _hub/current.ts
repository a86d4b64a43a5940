/**
 * Who is current: the scope that running code belongs to.
 *
 * @module
 */

import {
  getCurrent as getRunning,
  Greenlet,
  GreenletError,
} from "../greenlet.ts";
import { type Context, makeContext } from "./async_context.ts";
import { errorFor, isExpected } from "./interrupts.ts";
import { main } from "./main.ts";
import { watchRejections } from "./rejections.ts";
import {
  coldFieldsOf,
  mainScope,
  type Origin,
  Scope,
  treeOf,
} from "./scope.ts";

/** Carries the scope through every `await`. */
export const current: Context<Scope> = makeContext();

// What other modules may do with the private fields of a ScopedGreenlet. Functions, as
// methods would be seen in the public class that extends it.

/** The scope of a greenlet of ours, which is made when it is first asked for. */
export let ownScopeOf: (greenlet: ScopedGreenlet) => Scope;
/** The scope of a greenlet of ours, if there is one. */
export let knownScopeOf: (greenlet: ScopedGreenlet) => Scope | null;
/** Forgets the scope of a greenlet that is dead. */
export let forgetScopeOf: (greenlet: ScopedGreenlet) => void;
/** The greenlet that was current when one of ours was made, unless it is gone. */
export let spawnerOf: (greenlet: ScopedGreenlet) => Greenlet | undefined;
/** Whether a greenlet is one of ours. `instanceof` would take twice the time. */
let isOurs: (greenlet: Greenlet) => greenlet is ScopedGreenlet;
/** Ends a greenlet of ours that has swallowed its kill again and again. */
let giveUp: (greenlet: ScopedGreenlet, error: unknown) => void;

/**
 * A greenlet of ours: one that knows its scope, and in which scope it was made. To have two
 * classes in place of one takes 8 ns for each greenlet.
 *
 * @internal
 */
export abstract class ScopedGreenlet extends Greenlet {
  /** `null` before the body begins, and when it has ended, if nothing may ask for it. */
  #scope: Scope | null = null;
  readonly #origin: Origin = originOf(currentScope());

  static {
    ownScopeOf = (greenlet) => {
      if (greenlet.#scope !== null) return greenlet.#scope;
      const scope = greenlet.#scope = new Scope(greenlet);
      scope.root = greenlet.#origin.root;
      return scope;
    };
    knownScopeOf = (greenlet) => greenlet.#scope;
    forgetScopeOf = (greenlet) => {
      greenlet.#scope = null;
    };
    spawnerOf = (greenlet) => greenlet.#origin.spawner.deref();
    isOurs = (greenlet) => #scope in greenlet;
    giveUp = (greenlet, error) => {
      greenlet.ended(leftSuspended(greenlet, error), true);
    };
  }

  // Explicit, as the one that the language makes copies its arguments.
  constructor(
    // deno-lint-ignore no-explicit-any
    run: ((...args: any[]) => unknown) | undefined,
    parent: Greenlet,
  ) {
    super(run, parent);
  }
}

function leftSuspended(greenlet: Greenlet, error: unknown): GreenletError {
  return new GreenletError(
    `${greenlet} was left suspended for good as it has swallowed its kill again and again`,
    { cause: error },
  );
}

/** The scopes of greenlets that are not ours: the core's own, which wait now and then. */
const coreScopes = new WeakMap<Greenlet, Scope>();

/** The scope of a greenlet. */
export function scopeOf(greenlet: Greenlet): Scope {
  if (greenlet === main) return mainScope;
  if (isOurs(greenlet)) return ownScopeOf(greenlet);
  let scope = coreScopes.get(greenlet);
  if (scope === undefined) {
    coreScopes.set(greenlet, scope = new Scope(greenlet));
  }
  return scope;
}

/** Makes `scope` the one in which the body of a core greenlet runs. */
export function setScope(greenlet: Greenlet, scope: Scope): void {
  coreScopes.set(greenlet, scope);
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

/** Ends what runs in a scope, as its body has swallowed an error again and again. */
export function abandon(scope: Scope, error: unknown): void {
  const { greenlet, cold } = scope;
  if (cold !== null && cold.abandoned !== null) {
    cold.abandoned();
  } else if (isOurs(greenlet) && ownScopeOf(greenlet) === scope) {
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
