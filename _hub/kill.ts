/**
 * How the library kills on its own account: each greenlet once.
 *
 * Whoever calls `kill()` on a greenlet twice throws into it twice. What the library kills
 * because a loop is left, a nursery closes or a program ends may have been killed before,
 * and clean up: a second error would cut that short.
 *
 * @module
 */

import { instanceOf } from "../_base/checks.ts";
import { currentScope, scopeOf } from "./current.ts";
import { GRACE, type Scope } from "./scope.ts";
import { DONE, type Wait } from "./suspension.ts";
import { linkAll, waking } from "./links.ts";
import { PatientWait } from "./patient_wait.ts";
import { type Greenlet as OwnGreenlet, kill } from "./greenlet.ts";
import { type Greenlet, GreenletExit } from "../greenlet.ts";

/**
 * Kills greenlets, and waits for nothing. One that was killed before, by whatever call,
 * gets no second error: it cleans up for as long as it was given.
 *
 * Where that is for ever, or where `grace` says so, it gets `grace` ms from now on, if that
 * is less. Past its grace it needs no kill: every wait of it throws.
 *
 * @param greenlets What is killed: of any kind.
 * @param error What is thrown, or the class of error of which a new one is.
 * @param grace For how many milliseconds the bodies may clean up; the usual time, if left
 * out.
 */
export function killOnce(
  greenlets: Iterable<Greenlet>,
  error: unknown = new GreenletExit(),
  grace?: number,
): void {
  const thrown = instanceOf(error);
  for (const greenlet of [...greenlets]) {
    if (greenlet.dead) continue;
    const scope = scopeOf(greenlet);
    if (scope.killed === null) {
      kill(greenlet, thrown, { block: false, grace: grace ?? GRACE });
    } else if (grace !== undefined || scope.grace === Infinity) {
      scope.shortenGrace(grace ?? GRACE);
    }
  }
}

/**
 * Kills greenlets as {@linkcode killOnce} does, and waits until they have ended. A switch
 * point, that is no end of the wait: what interrupts it meanwhile is thrown by the next one.
 *
 * Whoever may wait no longer gives them no more time, and goes on in some turns of the event
 * loop. One that is past its grace and still alive is stuck in a promise of somebody else's:
 * it is left there.
 *
 * @param greenlets What is killed.
 * @param error What is thrown.
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

/** A little more than the grace, so that what ends by then has ended. */
const STUCK_AFTER = GRACE + GRACE / 4;

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
    for (const greenlet of this.#greenlets) greenlet.unlink(this.#link);
  }
}

/** Whether a greenlet that was killed is within its grace, which begins when it is told. */
function cleansUp(greenlet: Greenlet): boolean {
  const scope = scopeOf(greenlet);
  return !greenlet.dead && scope.isKillThrown && !scope.isEscalated;
}
