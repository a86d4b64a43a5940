/**
 * Shows the greenlets that are alive, as a tree: each below its spawner, with the call in which
 * it waits.
 *
 * ```ts
 * import { printRunInfo, sleep, spawn } from "@gevent/gevent";
 *
 * const greenlet = spawn(sleep, 100_000);
 * await sleep(1);
 * printRunInfo(); // To stderr
 * greenlet.kill();
 * ```
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { checkFlag, checkOptions, numberError, show } from "./_base/checks.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import { BlockingWatch } from "./_hub/blocking.ts";
import { currentScope, runDetached, scopeOf } from "./_hub/current.ts";
import { RawGreenlet, stateOf, waitedBy } from "./_hub/greenlet.ts";
import { listGreenletsBy } from "./_hub/deadlock.ts";
import { aliveGreenlets } from "./_hub/live.ts";
import { main } from "./_hub/main.ts";
import type { Waited } from "./_hub/scope.ts";
import { OwnListener } from "./_hub/signals.ts";
import { placesOf, recordSites } from "./_hub/spawn_sites.ts";
import { blockersOf, durationText, nameOf } from "./_hub/waits.ts";
import { Greenlet } from "./gevent.ts";
import type { Greenlet as CoreGreenlet } from "./greenlet.ts";

/** Options of {@linkcode GreenletTree.format}. */
export interface TreeFormatOptions {
  /** Whether to mark deadlocks with the colours of a terminal. @default {false} */
  colors?: boolean;
}

/**
 * A greenlet that is alive, and those that it has spawned. gevent's `GreenletTree`.
 *
 * @example Usage
 * ```ts
 * import { Event, GreenletTree, sleep, spawn } from "@gevent/gevent";
 *
 * const event = new Event();
 * const parent = spawn(async () => {
 *   for (let i = 0; i < 500; i++) spawn(() => event.wait());
 *   await event.wait();
 * });
 * await sleep(1);
 * const [hub] = GreenletTree.forest();
 * console.log(hub!.children[0]!.children.length); // 500
 * console.log(String(hub).includes("× 500")); // true
 * event.set();
 * await parent.join();
 * ```
 */
export class GreenletTree {
  /** The greenlet. */
  readonly greenlet: CoreGreenlet;
  /** The trees of the greenlets that it has spawned, the oldest first. */
  readonly children: readonly GreenletTree[];

  static {
    showAs<GreenletTree>(
      this,
      // Other runtimes take any value for the option.
      (tree, colors) => tree.format({ colors: Boolean(colors) }),
    );
  }

  private constructor(
    greenlet: CoreGreenlet,
    children: readonly GreenletTree[],
  ) {
    this.greenlet = greenlet;
    this.children = children;
  }

  /**
   * Returns the trees of all greenlets that are alive: first that of the hub, then those of
   * greenlets whose spawner has ended. Not a switch point. gevent's `GreenletTree.forest`.
   *
   * @returns The trees.
   */
  static forest(): GreenletTree[] {
    const childrenOf = new Map<CoreGreenlet | undefined, GreenletTree[]>();
    const alive = [main, ...aliveGreenlets().reverse()];
    for (const greenlet of alive) childrenOf.set(greenlet, []);
    const roots: GreenletTree[] = [];
    for (const greenlet of alive) {
      const siblings = childrenOf.get(spawnerOf(greenlet)) ?? roots;
      siblings.push(new GreenletTree(greenlet, childrenOf.get(greenlet)!));
    }
    return roots;
  }

  /**
   * Returns the tree as text, a line for each greenlet: its name, the call in which it waits, and
   * for how long, if that is a second or more. `for 5 s` is exact. `for up to 5 s` is an upper
   * bound, as the library does not read the clock at each wait: that would take longer than many
   * waits do. In a program with timers the bound is nearly exact. For a foreign promise the time
   * is not known.
   *
   * Greenlets without children that run the same function and wait in the same call share one
   * line, with their number. With {@linkcode trackSpawns} a line ends with the place where the
   * greenlet was spawned; if its spawner has ended, also with the spawner's place. A greenlet
   * that can't go on because greenlets wait for each other is marked `deadlock`. Lines below the
   * 50th level are not indented further, and begin with their level. Not a switch point.
   * gevent's `format`.
   *
   * @param options Whether to use colours.
   * @returns The text, without a newline at its end.
   * @throws {TypeError} If the options are not an object, or `colors` is no boolean.
   */
  format(options: TreeFormatOptions = NO_OPTIONS): string {
    checkOptions(options, "format tree");
    const { colors = false } = options;
    checkFlag(colors, "format tree", "colors");
    return linesOf(this, colors ? "\x1b[31mdeadlock\x1b[0m" : "deadlock")
      .join("\n");
  }

  /** The same as {@linkcode GreenletTree.format}. */
  toString(): string {
    return this.format();
  }
}

/** The most levels that are indented: with thousands, the text would be too long for a string. */
const DEEPEST = 50;

/** A line to write. */
interface Line {
  readonly tree: GreenletTree;
  /** The activity of the greenlet. */
  readonly state: string;
  /** Where it was spawned, if that is known. */
  readonly spawned: string;
  readonly level: number;
  /** How long the greenlet has waited; the longest time of equal greenlets. */
  waited: Waited | null;
  /** The number of equal greenlets in the line. */
  times: number;
  /** The text before its own. */
  indent: string;
  /** The text before the indent of the lines below it. */
  below: string;
}

/** Writes the lines of a tree. Not recursive, as the tree may be deeper than the stack allows. */
function linesOf(root: GreenletTree, mark: string): string[] {
  const stuck = findStuck();
  const lineOf = (tree: GreenletTree, level: number): Line => {
    const { greenlet } = tree;
    const state = stateOf(greenlet) + (stuck.has(greenlet) ? ` (${mark})` : "");
    const waited = waitedBy(greenlet);
    // The line of the spawner shows the spawner's place, unless the spawner has ended.
    const places = placesOf(greenlet).slice(0, level > 0 ? 1 : undefined);
    const spawned = places.length > 0
      ? `, spawned at ${places.join(", from ")}`
      : "";
    return {
      tree,
      state,
      spawned,
      waited,
      level,
      times: 1,
      indent: "",
      below: "",
    };
  };
  const texts: string[] = [];
  const left = [lineOf(root, 0)];
  for (let line; (line = left.pop()) !== undefined;) {
    const { tree, level, below } = line;
    texts.push(textOf(line));
    const alike = new Map<unknown, Line>();
    for (const child of tree.children) {
      const one = lineOf(child, level + 1);
      const key = child.children.length > 0
        ? child
        : `${kindOf(child.greenlet)} ${one.state}${one.spawned}`;
      const other = alike.get(key);
      if (other === undefined) alike.set(key, one);
      else {
        other.times++;
        if ((one.waited?.ms ?? 0) > (other.waited?.ms ?? 0)) {
          other.waited = one.waited;
        }
      }
    }
    for (const [i, one] of [...alike.values()].reverse().entries()) {
      one.indent = below + (i === 0 ? "└─ " : "├─ ");
      one.below = level >= DEEPEST ? below : below + (i === 0 ? "   " : "│  ");
      left.push(one);
    }
  }
  return texts;
}

function textOf(line: Line): string {
  const { tree, state, spawned, waited, level, times, indent } = line;
  const prefix = level > DEEPEST ? `level ${level}: ` : "";
  const suffix = times > 1 ? ` × ${times}` : "";
  const time = durationText(waited);
  const name = nameOf(tree.greenlet);
  return `${indent}${prefix}${name} ${state}${time}${suffix}${spawned}`;
}

/** The text of a greenlet without its name: equal for greenlets that run the same function. */
function kindOf(greenlet: CoreGreenlet): string {
  if (!(greenlet instanceof Greenlet)) return show(greenlet);
  return show(greenlet).replace(/"Greenlet-\d+"/, "");
}

function spawnerOf(greenlet: CoreGreenlet): CoreGreenlet | undefined {
  return greenlet instanceof Greenlet || greenlet instanceof RawGreenlet
    ? greenlet.spawningGreenlet
    : undefined;
}

/**
 * Finds the greenlets that wait for each other in a circle, and those that wait for them. Removes
 * greenlets that can go on, until none is left that can.
 */
function findStuck(): Set<CoreGreenlet> {
  const blocked = new Map<CoreGreenlet, number>();
  const waiting = new Map<CoreGreenlet, CoreGreenlet[]>();
  const free: CoreGreenlet[] = [];
  const all = [main, ...aliveGreenlets()];
  for (const greenlet of all) {
    const blockers = blockersOf(scopeOf(greenlet)).filter((one) => !one.dead);
    blocked.set(greenlet, blockers.length);
    if (blockers.length === 0) free.push(greenlet);
    for (const blocker of blockers) {
      const others = waiting.get(blocker);
      if (others === undefined) waiting.set(blocker, [greenlet]);
      else others.push(greenlet);
    }
  }
  for (let one; (one = free.pop()) !== undefined;) {
    for (const greenlet of waiting.get(one) ?? []) {
      const left = blocked.get(greenlet)! - 1;
      blocked.set(greenlet, left);
      if (left === 0) free.push(greenlet);
    }
    blocked.delete(one);
  }
  return new Set(blocked.keys());
}

/**
 * Returns the trees of all greenlets that are alive as text; see {@linkcode GreenletTree}.
 * Not a switch point. gevent's `format_run_info`, which returns lines.
 *
 * @param options Whether to use colours.
 * @returns The text, without a newline at its end.
 *
 * @example Usage
 * ```ts
 * import { formatRunInfo, sleep, spawn } from "@gevent/gevent";
 *
 * const greenlet = spawn(sleep, 100_000);
 * greenlet.name = "sleeper";
 * await sleep(1);
 * console.log(formatRunInfo());
 * // main runs
 * // └─ <Greenlet "sleeper": sleep> waits in sleep(100000)
 * greenlet.kill();
 * ```
 */
export function formatRunInfo(options?: TreeFormatOptions): string {
  return GreenletTree.forest().map((tree) => tree.format(options)).join("\n");
}

/**
 * Prints {@linkcode formatRunInfo} to stderr, in colours if that is a terminal. Not a switch
 * point. gevent's `print_run_info`.
 */
export function printRunInfo(): void {
  const colors = globalThis.Deno?.stderr.isTerminal() ?? false;
  console.error(formatRunInfo({ colors }));
}

listGreenletsBy(formatRunInfo);

/**
 * Prints the run info to stderr each time that a signal comes: for a program that hangs, and
 * that was started without anything to ask it. Not a switch point. gevent has no such function;
 * its `gevent.signal_handler(signal.SIGUSR1, gevent.util.print_run_info)` does the same.
 *
 * It listens until it is disposed of, and does not keep the process alive. It belongs to no
 * greenlet, so no interrupt ends it. Several calls are independent, and each prints. If the event
 * loop is blocked, it prints when the loop turns again.
 *
 * @param signal The signal, such as `"SIGUSR1"`.
 * @returns A `Disposable` that ends the listening.
 * @throws {TypeError} If the signal does not exist, or can't be listened to, such as SIGKILL.
 *
 * @example Usage
 * ```ts
 * import { printRunInfoOn, sleep, spawn } from "@gevent/gevent";
 *
 * using _ = printRunInfoOn("SIGUSR1"); // From now on: kill -USR1 PID
 * const greenlet = spawn(sleep, 1);
 * await greenlet.join();
 * ```
 */
export function printRunInfoOn(signal: Deno.Signal): Disposable {
  return new OwnListener(signal, () => runDetached(printRunInfo), false);
}

/**
 * Records where each greenlet is spawned, until the result is disposed of. Not a switch point.
 * gevent records it by default (`GEVENT_TRACK_GREENLET_TREE`), as `spawning_stack`.
 *
 * {@linkcode formatRunInfo} and `LoopExit` then end each line with the place, `file:line:column`,
 * of the user's call of `spawn`, `pool.spawn`, `nursery.spawn` and so on. Below an error,
 * `hub.handleError` prints the place where the greenlet was spawned, and the places of its
 * spawners, for up to 8 generations.
 *
 * A greenlet that the library makes by itself, such as one for a connection of a server, has no
 * place; the place of its spawner is shown. In a bundle, the frames of this library look like
 * those of the user, so the place may be one of the library.
 *
 * While the recording is on, the errors of the library (`Timeout`, `Empty`, …) also show the
 * async functions that have waited. Finding these takes a microtask, so a greenlet that gets such
 * an error may go on behind one that was woken after it.
 *
 * A recorded place is kept as long as its greenlet. While the recording is on, a spawn takes some
 * microseconds more. Several calls are independent: the recording is on until the last result is
 * disposed of.
 *
 * @returns A `Disposable` that ends the recording.
 *
 * @example Usage
 * ```ts
 * import { formatRunInfo, sleep, spawn, trackSpawns } from "@gevent/gevent";
 *
 * using _ = trackSpawns();
 * const greenlet = spawn(sleep, 100_000);
 * await sleep(1);
 * console.log(/waits in sleep\(100000\), spawned at .*:\d+:\d+$/.test(formatRunInfo())); // true
 * await greenlet.kill();
 * ```
 */
export function trackSpawns(): Disposable {
  return recordSites();
}

/** Options of {@linkcode assertSwitches}. */
export interface AssertSwitchesOptions {
  /**
   * How many milliseconds code may run without a switch: a positive number. If it is left out,
   * the block has to switch at least once.
   */
  maxBlocking?: number;
}

/**
 * Thrown if a block has held up the event loop: see {@linkcode assertSwitches}. gevent's
 * `_FailedToSwitch`, which is an `AssertionError`.
 */
export class FailedToSwitch extends Error {
  /** The name of the class. */
  override name = "FailedToSwitch";
  /** The greenlet that ran, as its `toString()` gives it; `""` if it is not known. */
  readonly greenlet: string;
  /** How many milliseconds it ran without a switch. */
  readonly ms: number;
  /** How many milliseconds were allowed; `undefined` if the block only had to switch. */
  readonly maxBlocking: number | undefined;

  /**
   * Makes the error.
   *
   * @param greenlet The greenlet that ran; `""` if it is not known.
   * @param ms How many milliseconds it ran.
   * @param maxBlocking How many milliseconds were allowed.
   */
  constructor(greenlet: string, ms: number, maxBlocking?: number) {
    const runner = greenlet === ""
      ? "Code that a foreign promise has resumed"
      : greenlet;
    super(
      maxBlocking === undefined
        ? `${runner} has not switched in this block, in ${inMs(ms)}`
        : `${runner} has held up the event loop for ${
          inMs(ms)
        } in this block, where ${inMs(maxBlocking)} are allowed`,
    );
    this.greenlet = greenlet;
    this.ms = ms;
    this.maxBlocking = maxBlocking;
  }
}

/** Formats a time. Shows a digit behind the point if the time is short. */
function inMs(ms: number): string {
  return `${ms < 10 ? Math.round(10 * ms) / 10 : Math.round(ms)} ms`;
}

/**
 * Asserts that a block of code lets the event loop turn. The end of the block throws if code in
 * it has run for longer than `maxBlocking` without a switch; or, without that option, if the
 * block has not switched at all. For tests, and for code that must never compute for long.
 * gevent's `assert_switches`; a switch to any greenlet counts, not only one to the hub.
 *
 * As in gevent, all code counts that runs before the end of the block: that of the block, of
 * greenlets that it spawns, and of other greenlets. The error names the greenlet. Each `await`
 * and each `yield*` is a switch; the time of waits does not count. Code that a foreign promise
 * has resumed is noticed only when it has held up the loop for some 15 to 100 milliseconds more.
 *
 * If the block itself throws as well, `using` throws a `SuppressedError` with the error of the
 * block as its `suppressed`. A block that a kill or a `Timeout` ends is not checked. Not a switch
 * point. While the block runs, it reads the clock at each switch, which takes 0.1 µs; after that
 * it costs nothing.
 *
 * @param options How long code may run.
 * @returns A `Disposable` that checks at the end of the block.
 * @throws {TypeError | RangeError} If `maxBlocking` is not a positive number.
 * @throws {FailedToSwitch} At the end of the block.
 *
 * @example Usage
 * ```ts
 * import { assertSwitches, FailedToSwitch, idle } from "@gevent/gevent";
 *
 * {
 *   using _ = assertSwitches({ maxBlocking: 1000 });
 *   for (let i = 0; i < 3; i++) await idle();
 * }
 * try {
 *   using _ = assertSwitches(); // Nothing in the block waits
 * } catch (error) {
 *   console.log(error instanceof FailedToSwitch); // true
 * }
 * ```
 */
export function assertSwitches(
  options: AssertSwitchesOptions = NO_OPTIONS,
): Disposable {
  checkOptions(options, "assert switches");
  const { maxBlocking } = options;
  const isLimit = typeof maxBlocking === "number" && maxBlocking > 0;
  if (maxBlocking !== undefined && !isLimit) {
    const wanted = "a positive number of milliseconds";
    throw numberError("assert switches", "maxBlocking", wanted, maxBlocking);
  }
  return new SwitchAssertion(maxBlocking);
}

class SwitchAssertion implements Disposable {
  readonly #maxBlocking: number | undefined;
  #watch: BlockingWatch | null;

  static {
    showAs<SwitchAssertion>(this, (assertion) => ({
      state: assertion.#watch === null ? "over" : "watching",
      maxBlocking: assertion.#maxBlocking,
    }));
  }

  constructor(maxBlocking: number | undefined) {
    this.#maxBlocking = maxBlocking;
    this.#watch = new BlockingWatch(maxBlocking ?? Infinity);
  }

  [Symbol.dispose](): void {
    const watch = this.#watch;
    if (watch === null) return;
    this.#watch = null;
    const { hasSwitched } = watch;
    const { ms, greenlet } = watch.longest();
    watch[Symbol.dispose]();
    // An interrupt ends the block: that is no failure to switch.
    if (currentScope().unwinding !== undefined) return;
    const limit = this.#maxBlocking;
    if (limit === undefined ? hasSwitched : ms <= limit) return;
    throw new FailedToSwitch(
      greenlet === null ? "" : nameOf(greenlet),
      ms,
      limit,
    );
  }
}

nameClasses({ GreenletTree, FailedToSwitch, SwitchAssertion });
