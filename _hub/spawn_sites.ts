/**
 * Records where greenlets are spawned, when asked to.
 *
 * @module
 */

import { firstPlace } from "../_base/frames.ts";
import type { Greenlet } from "../greenlet.ts";
import { observe } from "./observer.ts";
import { followAwaits } from "./stacks.ts";

/** How many generations are kept. There is a limit, as each greenlet may spawn a successor. */
const MOST_GENERATIONS = 8;
/** How many frames to search for one of the user. */
const FRAMES = 50;

export type { Site };

/** A place in the user's code. Making its text is slow, so it is made on request. */
class Site {
  #error: { stack?: string } | null = {};
  #place: string | null = null;

  constructor(below: typeof note | typeof siteHere) {
    const limit = Error.stackTraceLimit;
    try {
      Error.stackTraceLimit = FRAMES;
      Error.captureStackTrace?.(this.#error!, below);
    } finally {
      Error.stackTraceLimit = limit;
    }
  }

  /** `null` if no code of the user was on the stack. */
  get place(): string | null {
    if (this.#error !== null) {
      this.#place = firstPlace(String(this.#error.stack ?? ""));
      this.#error = null;
    }
    return this.#place;
  }
}

/** For each greenlet its site, that of its spawner, and so on; `null` before the first record. */
let sites: WeakMap<Greenlet, readonly Site[]> | null = null;
/** The number of {@linkcode recordSites} calls in force. */
let asked = 0;
let observing: Disposable | null = null;

function note(greenlet: Greenlet, spawner: Greenlet): void {
  const before = sites!.get(spawner) ?? [];
  sites!.set(greenlet, [
    new Site(note),
    ...before.slice(0, MOST_GENERATIONS - 1),
  ]);
}

/** The place of a call that will spawn greenlets later; `null` if places are not recorded. */
export function siteHere(): Site | null {
  return asked > 0 ? new Site(siteHere) : null;
}

/** Replaces the place of a greenlet by that of an earlier call. */
export function spawnedAt(site: Site, greenlet: Greenlet): void {
  const [, ...before] = sites!.get(greenlet) ?? [];
  sites!.set(greenlet, [site, ...before]);
}

/** Records where greenlets are spawned, until the result is disposed of. */
export function recordSites(): Disposable {
  sites ??= new WeakMap();
  if (asked++ === 0) {
    observing = observe({ made: note });
    followAwaits(true);
  }
  let isOver = false;
  return {
    [Symbol.dispose]() {
      if (isOver) return;
      isOver = true;
      if (--asked > 0) return;
      followAwaits(false);
      observing![Symbol.dispose]();
      observing = null;
    },
  };
}

/**
 * Returns where a greenlet was spawned, where its spawner was, and so on. Leaves out greenlets
 * that were not recorded, or that were spawned without code of the user on the stack.
 */
export function placesOf(greenlet: unknown): string[] {
  const known = sites?.get(greenlet as Greenlet) ?? [];
  return known.map((site) => site.place).filter((place) => place !== null);
}
