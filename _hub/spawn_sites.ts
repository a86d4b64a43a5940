/**
 * Where greenlets were spawned, while that is recorded.
 *
 * @module
 */

import { firstPlace } from "../_base/frames.ts";
import type { Greenlet } from "../greenlet.ts";
import { observe } from "./observer.ts";
import { followAwaits } from "./stacks.ts";

/** How many generations are kept: a greenlet that spawns its successor may go on for days. */
const MOST_GENERATIONS = 8;
/** How many frames are looked through for one of the user. */
const FRAMES = 50;

export type { Site };

/** A place in the user's code. Its text is made when it is asked for, which takes most time. */
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

/** The sites of a greenlet, of its spawner, and so on; `null` before anything is recorded. */
let sites: WeakMap<Greenlet, readonly Site[]> | null = null;
/** How many have asked for sites to be recorded. */
let asked = 0;
let observing: Disposable | null = null;

function note(greenlet: Greenlet, spawner: Greenlet): void {
  const before = sites!.get(spawner) ?? [];
  sites!.set(greenlet, [
    new Site(note),
    ...before.slice(0, MOST_GENERATIONS - 1),
  ]);
}

/** The place of a call that spawns greenlets later, too; `null` while nothing is recorded. */
export function siteHere(): Site | null {
  return asked > 0 ? new Site(siteHere) : null;
}

/** Has a greenlet be spawned at the place of an earlier call. */
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
 * Returns where a greenlet was spawned, where its spawner was, and so on: the youngest first.
 * Those are left out that no code of the user has spawned, and that were not recorded.
 */
export function placesOf(greenlet: unknown): string[] {
  const known = sites?.get(greenlet as Greenlet) ?? [];
  return known.map((site) => site.place).filter((place) => place !== null);
}
