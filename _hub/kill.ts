/**
 * Kills that the library makes by itself: each greenlet is killed once.
 *
 * Two calls of `kill()` throw into a greenlet twice. The library kills greenlets when a loop is
 * left, a nursery closes or a program ends. Such a greenlet may already be cleaning up after a
 * kill, and a second error would cut that short.
 *
 * @module
 */

import { instanceOf } from "../_base/checks.ts";
import { currentScope, scopeOf } from "./current.ts";
import { GRACE, type Scope } from "./scope.ts";
import { DONE, type Wait } from "./suspension.ts";
import { linkAll, unlinkAll, waking } from "./links.ts";
import { PatientWait } from "./patient_wait.ts";
import { type Greenlet as OwnGreenlet, kill } from "./greenlet.ts";
import { type Greenlet, GreenletExit } from "../greenlet.ts";
import { several } from "./waits.ts";

/**
 * Kills greenlets without waiting. A greenlet that was killed before, by any call, gets no
 * second error: it cleans up within the grace that it has.
 *
 * If that grace is `Infinity`, or if `grace` is passed, it ends in `grace` ms at the latest. A
 * greenlet that is past its grace needs no kill, as each of its waits throws.
 *
 * @param greenlets The greenlets, of any kind.
 * @param error The error, or a class of errors, of which a new one is made.
 * @param grace The milliseconds that the bodies may take to clean up; by default the usual
 * grace.
 */
export function killOnce(
  greenlets: Iterable<Greenlet>,
  error: unknown = new GreenletExit(),
  grace?: number,
): void {
  const thrown = instanceOf(error);
  forEachOf(greenlets, (greenlet) => {
    if (greenlet.dead) return;
    const scope = scopeOf(greenlet);
    if (scope.killed === null) {
      kill(greenlet, thrown, { block: false, grace: grace ?? GRACE });
    } else if (grace !== undefined || scope.grace === Infinity) {
      scope.shortenGrace(grace ?? GRACE);
    }
  });
}

/**
 * Calls a function for each of several greenlets, even if it throws for some, such as when a
 * subclass has a \`kill\` of its own. Then throws the first error.
 */
export function forEachOf(
  greenlets: Iterable<Greenlet>,
  act: (greenlet: Greenlet) => void,
): void {
  let refused: { readonly error: unknown } | null = null;
  for (const greenlet of [...greenlets]) {
    try {
      act(greenlet);
    } catch (error) {
      refused ??= { error };
    }
  }
  if (refused !== null) throw refused.error;
}

/**
 * Kills greenlets as {@linkcode killOnce} does, and waits until they have ended. A switch
 * point, but an interrupt does not end the wait: it is thrown by the next one.
 *
 * If the caller is past its own grace, the greenlets get no more time, and the call returns
 * after some turns of the event loop. A greenlet that is past its grace and still alive is
 * stuck in a foreign promise, and is left there.
 *
 * @param greenlets The greenlets.
 * @param error The error to throw.
 */
export function endAll(
  greenlets: readonly AnyGreenlet[],
  error: GreenletExit = new GreenletExit(),
): Wait<void> {
  killOnce(greenlets, error);
  const alive = [...greenlets].filter((greenlet) => !greenlet.dead);
  if (alive.length === 0) return DONE;
  const scope = currentScope();
  const ending = new Ending(scope, alive);
  const wait = ending.suspend(scope);
  const escalated = scope.escalateIfOverdue();
  if (escalated !== null) ending.interrupt(escalated.error, true);
  return wait;
}

/** The milliseconds after which a greenlet counts as stuck: a little longer than its grace. */
export const STUCK_AFTER: number = GRACE + GRACE / 4;

// deno-lint-ignore no-explicit-any
type AnyGreenlet = OwnGreenlet<any>;

/** The wait of {@linkcode endAll}. */
class Ending extends PatientWait<void> {
  readonly #greenlets: readonly AnyGreenlet[];
  #left: number;
  readonly #link = waking(() => {
    if (--this.#left === 0) this.switch();
  });

  constructor(scope: Scope, greenlets: readonly AnyGreenlet[]) {
    super(scope);
    this.#greenlets = greenlets;
    this.#left = greenlets.length;
    linkAll(greenlets, this.#link);
    this.limit(STUCK_AFTER);
  }

  override expired(): void {
    if (this.#greenlets.some(cleansUp)) return void this.limit(STUCK_AFTER);
    super.expired();
  }

  protected override hasten(): void {
    killOnce(this.#greenlets, undefined, 0);
  }

  protected override undo(): void {
    unlinkAll(this.#greenlets, this.#link);
  }

  override describe(): string {
    return `the end of ${several(this.blockers)}, killed`;
  }

  override get blockers(): readonly Greenlet[] {
    return this.#greenlets.filter((greenlet) => !greenlet.dead);
  }
}

/** Whether a kill was thrown into a greenlet, and it is within its grace. */
function cleansUp(greenlet: Greenlet): boolean {
  const scope = scopeOf(greenlet);
  return !greenlet.dead && scope.isKillThrown && !scope.isEscalated;
}
