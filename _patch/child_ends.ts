/**
 * The end of a child of `node:child_process` of which a wait was interrupted.
 *
 * A package may wait for the exit again when its wait has failed, as execa does. If the child has
 * just ended, Node would emit `exit` between the two waits, and the package would wait for ever.
 *
 * @module
 */

import { setImmediate } from "../_base/immediate.ts";
import { type Emitter, override } from "./foreign.ts";

/** How many turns of the loop the code that was interrupted needs to wait again. */
const TURNS = 2;

/** The events that are held back. */
const ENDS: ReadonlySet<unknown> = new Set(["exit", "close"]);

/** How many interrupts hold back the end of a child, and how many events are held back. */
interface Held {
  interrupts: number;
  events: number;
}

const children = new WeakMap<object, Held>();

/** Holds back the end of a child for a moment, as a wait for its events is being interrupted. */
export function holdBackEnd(emitter: unknown): void {
  if (!isChild(emitter)) return;
  let held = children.get(emitter);
  if (held === undefined) {
    held = { interrupts: 0, events: 0 };
    children.set(emitter, held);
    hold(emitter, held);
  }
  const child = held;
  child.interrupts++;
  after(TURNS, () => child.interrupts--);
}

function hold(child: Emitter, held: Held): void {
  override(child, "emit", (emit) => (...args: unknown[]) => {
    const isFree = held.interrupts === 0 && held.events === 0;
    if (isFree || !ENDS.has(args[0])) return Reflect.apply(emit, child, args);
    held.events++;
    const emitLate = () => {
      if (held.interrupts > 0) return setImmediate(emitLate);
      held.events--;
      Reflect.apply(emit, child, args);
    };
    setImmediate(emitLate);
    return true;
  });
}

function after(turns: number, call: () => void): void {
  setImmediate(turns === 1 ? call : () => after(turns - 1, call));
}

function isChild(emitter: unknown): emitter is Emitter {
  return typeof Object(emitter).spawnfile === "string";
}
