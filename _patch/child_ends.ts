/**
 * The end of a child of `node:child_process` of which a wait was interrupted.
 *
 * A package may wait for the exit again when its wait has failed, as execa does. If the child has
 * just ended, Node would emit `exit` between the two waits, and the package would wait for ever.
 * And if an interrupt ends the child, the exit comes: a wait for it need not be interrupted again.
 *
 * @module
 */

import { setImmediate } from "../_base/immediate.ts";
import { type Emitter, override } from "./foreign.ts";

/** The events at the end of a child. */
const ENDS: ReadonlySet<unknown> = new Set(["exit", "close"]);

/** After how many interrupted waits for its end a package seems to ignore them. */
const IGNORED = 3;

interface Held {
  /** How many interrupts hold back the end of the child. */
  interrupts: number;
  /** How many events are held back. */
  events: number;
  /** How many waits were interrupted in all. */
  waits: number;
}

const children = new WeakMap<object, Held>();

/** Holds back the end of a child for a turn of the loop, as a wait for it is being interrupted. */
export function holdBackEnd(emitter: unknown): void {
  if (!isChild(emitter)) return;
  const held = children.get(emitter) ?? hold(emitter);
  held.interrupts++;
  held.waits++;
  setImmediate(() => held.interrupts--);
}

/** Children that an interrupt is ending. */
const ending = new WeakSet<object>();

/** Notes that a child is being ended, by SIGKILL if it ignores all else. */
export function markEnding(child: Emitter): void {
  ending.add(child);
}

/**
 * Whether a new wait is left alone: for the end of a child that surely comes, or of one for which a
 * package waits again and again. Else execa would use up the patience with a body that ignores its
 * kill, and the body would never clean up.
 */
export function isEndLeftAlone(emitter: unknown, event: unknown): boolean {
  if (!ENDS.has(event) || !isChild(emitter)) return false;
  const { waits } = children.get(emitter) ?? { waits: 0 };
  return ending.has(emitter) || waits >= IGNORED;
}

function hold(child: Emitter): Held {
  const held = { interrupts: 0, events: 0, waits: 0 };
  children.set(child, held);
  override(child, "emit", (emit) => (...args: unknown[]) => {
    const isFree = held.interrupts === 0 && held.events === 0;
    if (isFree || !ENDS.has(args[0])) return Reflect.apply(emit, child, args);
    held.events++;
    setImmediate(() => {
      held.events--;
      Reflect.apply(emit, child, args);
    });
    return true;
  });
  return held;
}

function isChild(emitter: unknown): emitter is Emitter {
  return typeof Object(emitter).spawnfile === "string";
}
