/**
 * The current scope: the scope that the running code belongs to.
 *
 * @module
 */

import {
  getCurrent as getRunning,
  Greenlet,
  GreenletError,
} from "../greenlet.ts";
import { show } from "../_base/checks.ts";
import { type Context, makeContext } from "./async_context.ts";
import { errorFor, isExpected } from "./interrupts.ts";
import { main } from "./main.ts";
import { observers } from "./observer.ts";
import { watchRejections } from "./rejections.ts";
import {
  coldFieldsOf,
  mainScope,
  type Origin,
  Scope,
  treeOf,
} from "./scope.ts";
import { noteUnheard } from "./unheard.ts";

/** Carries the scope through every `await`. */
export const current: Context<Scope> = makeContext();

// The access of other modules to the private fields of a ScopedGreenlet. Functions, as methods
// would be seen in the public class that extends it.

/** Returns the scope of a greenlet of ours. Makes it on the first call. */
export let ownScopeOf: (greenlet: ScopedGreenlet) => Scope;
/** The scope of a greenlet of ours, if there is one. */
export let knownScopeOf: (greenlet: ScopedGreenlet) => Scope | null;
/** Forgets the scope of a greenlet that is dead. */
export let forgetScopeOf: (greenlet: ScopedGreenlet) => void;
/** The greenlet that was current when a greenlet of ours was made, unless it was collected. */
export let spawnerOf: (greenlet: ScopedGreenlet) => Greenlet | undefined;
/** Whether a greenlet is one of ours. `instanceof` would take twice the time. */
let isOurs: (greenlet: Greenlet) => greenlet is ScopedGreenlet;
/** Ends a greenlet of ours that has swallowed its kill again and again. */
let giveUp: (greenlet: ScopedGreenlet, error: unknown) => void;

/**
 * A greenlet of ours: it knows its scope, and the scope in which it was made. Two classes in
 * place of one cost 8 ns for each greenlet.
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

  // An explicit constructor, as the implicit one copies its arguments.
  constructor(
    // deno-lint-ignore no-explicit-any
    run: ((...args: any[]) => unknown) | undefined,
    parent: Greenlet,
  ) {
    super(run, parent);
    if (observers !== null) observers.made(this, getCurrent());
  }
}

function leftSuspended(greenlet: Greenlet, error: unknown): GreenletError {
  return new GreenletError(
    `${
      show(greenlet)
    } was left suspended for good as it has swallowed its kill again and again`,
    { cause: error },
  );
}

/** The scopes of the core's own greenlets, of which few ever wait. */
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

/** The current scope, if a wait there can be interrupted; `null` outside greenlets. */
export function interruptibleScope(): Scope | null {
  const scope = currentScope();
  return scope === mainScope ? null : scope;
}

/** The scope of the function that `runIn` runs. A variable, as it can't be passed along. */
let called: Scope | null = null;
/** The greenlet that runs the function. If it switches to another one, that is not in `called`. */
let caller: Greenlet;

/** Calls `run` outside greenlets: no interrupt reaches its waits. */
export function runDetached<R>(run: () => R): R {
  return currentScope() === mainScope ? run() : runIn(mainScope, run);
}

/** Calls `run` as a part of `scope`, which need not be the current one. */
export function runIn<R>(scope: Scope, run: () => R): R;
/** The same, and passes an argument to `run`, which makes a closure unnecessary. */
export function runIn<A, R>(scope: Scope, run: (arg: A) => R, arg: A): R;
export function runIn<A, R>(scope: Scope, run: (arg: A) => R, arg?: A): R {
  const before = called;
  const callerBefore = caller;
  called = scope;
  caller = getRunning();
  try {
    return arg === undefined
      ? current.run(scope, run as () => R)
      : current.run(scope, run, arg);
  } finally {
    called = before;
    caller = callerBefore;
  }
}

/** The scope that the running code belongs to. */
export function currentScope(): Scope {
  const running = getRunning();
  if (called !== null && running === caller) return called;
  // Outside generator bodies the event loop has called us, and for the core main runs. The
  // context tells the scope.
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
 *   await import("node:fs"); // Any promise
 *   return getCurrent();
 * });
 * console.log(await g.get() === g); // true
 * console.log(getCurrent() === getHub()); // true
 * ```
 */
export function getCurrent(): Greenlet {
  return currentScope().greenlet;
}

/** The origin of the greenlets that are spawned in a scope. */
export function originOf(part: Scope): Origin {
  // The scope may be that of a call in the greenlet. The greenlet's own one has the origin.
  const scope = scopeOf(part.greenlet);
  return coldFieldsOf(scope).origin ??= {
    spawner: new WeakRef(scope.greenlet),
    root: scope === mainScope ? scope.root : treeOf(scope),
  };
}

/** Abandons the body of a scope, as it has swallowed an error again and again. */
export function abandon(scope: Scope, error: unknown): void {
  const { greenlet, cold } = scope;
  if (cold !== null && cold.abandoned !== null) {
    cold.abandoned();
  } else if (isOurs(greenlet) && ownScopeOf(greenlet) === scope) {
    giveUp(greenlet, error);
  }
}

/** The scope of the rejection for which `tellApart` calls listeners. */
let rejectedIn: Scope | null = null;

/** Calls the listeners for a rejection of the current scope outside greenlets. */
export function tellApart<R>(tell: () => R): R {
  const before = rejectedIn;
  rejectedIn = currentScope();
  try {
    return runDetached(tell);
  } finally {
    rejectedIn = before;
  }
}

// The runtime calls its listeners in the context in which the promise was rejected.
watchRejections(
  {
    isExpected: (reason) => isExpected(reason, current.get() ?? mainScope),
    failureOfMain: (reason) => errorFor(reason, mainScope),
    noteUnheard: (promise, reason) =>
      noteUnheard(promise, reason, current.get() ?? mainScope),
    capture: () => current.capture(),
  },
  runDetached,
  (judge) => rejectedIn === null ? judge() : current.run(rejectedIn, judge),
);
