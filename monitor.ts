/**
 * Watches the event loop: which greenlet holds it up, and how much memory the process uses.
 *
 * ```ts
 * import { monitor, type MonitorEvent, sleep } from "@gevent/gevent";
 *
 * using watching = monitor({ maxBlocking: 100 });
 * watching.addEventListener("blocked", (event) => {
 *   const { greenlet, ms } = (event as MonitorEvent).detail;
 *   console.log(`${greenlet} has held up the event loop for ${ms} ms`);
 * });
 * await sleep(1);
 * ```
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { getBuiltin, getProcess } from "./_base/builtin.ts";
import { setInterval } from "node:timers";
import {
  checkFlag,
  checkOptions,
  NOT_IN_LINE,
  numberError,
  oneLine,
} from "./_base/checks.ts";
import { userFrames } from "./_base/frames.ts";
import { ignore, NO_OPTIONS } from "./_base/language.ts";
import { runDetached } from "./_hub/current.ts";
import { knownNameOf } from "./_hub/greenlet.ts";
import { pauseAtEnd } from "./_hub/loop_end.ts";
import { observe } from "./_hub/observer.ts";
import { noteIdleTimer } from "./_base/pending.ts";
import { Disposals } from "./_base/disposals.ts";
import { type Greenlet, GreenletError } from "./greenlet.ts";

/** Options of {@linkcode monitor}. */
export interface MonitorOptions {
  /** How many milliseconds the event loop may be held up: 10 or more. @default {100} */
  maxBlocking?: number;
  /** How many bytes of memory the process may use. @default {Infinity} */
  maxMemory?: number;
  /**
   * Whether to find the hottest stack, with `node:inspector`. It samples the program all the
   * time. In Deno it needs `--allow-sys=inspector`; without it the stack is empty.
   *
   * @default {false}
   */
  profile?: boolean;
}

/** The details of an event. */
export interface MonitorDetail {
  /**
   * The name of the greenlet that holds up the loop. `""` if it is not known: code that a
   * foreign promise has resumed, for example.
   */
  readonly greenlet: string;
  /** How many milliseconds the loop was held up; 0 for `"memory"`. */
  readonly ms: number;
  /**
   * The hottest stack, without the frames of this library: one function a line, with the place
   * where it begins, in a TypeScript module that of the JavaScript that it is made to. `""` if it
   * is not known.
   */
  readonly stack: string;
  /** How many bytes the process uses; 0 for `"blocked"`. */
  readonly memory: number;
  /** Whether the process uses more than the limit; `false` for `"blocked"`. */
  readonly isOver: boolean;
}

/**
 * An event of {@linkcode monitor}: `"blocked"` or `"memory"`. Printed to stderr unless a
 * listener calls `preventDefault()`.
 */
export type MonitorEvent = CustomEvent<MonitorDetail>;

/** Dispatches {@linkcode MonitorEvent}s until it is disposed of. See {@linkcode monitor}. */
export interface Monitor extends EventTarget, Disposable {}

/** The shortest time between two reports of a held loop, in ms. */
const REPORT_EVERY = 1000;
/** The time between two looks at the memory, in ms. A look takes about 20 µs. */
const LOOK_EVERY = 500;
/** Memory use goes up and down: it counts as under the limit again below this part of the limit. */
const UNDER = 0.9;
/** A loop that is held for `NEVER` times `maxBlocking`, and `NEVER_MS`, may never come back. */
const NEVER = 10;
const NEVER_MS = 1000;
/** The most functions of a stack that are shown. */
const DEEPEST = 20;

// The fields of the shared memory, which is written here and read by the watching thread. A
// name is kept as its length and UTF-16 units.
const BEAT = 0;
const STOP = 1;
/** 0: nothing, 1: the loop is held up, 2: and that has been printed */
const SEEN = 2;
const RUNNING = 3;
const BLOCKING = 4;
/** The number of switches, and the number at which the loop was held up. */
const COUNT = 5;
const BLOCKING_COUNT = 6;
const FIELDS = 7;
/** How many of the last greenlets are kept, so that they can be named later. */
const KEPT = 1024;
/** In place of the length of a name: the greenlet has none yet. */
const UNNAMED = -1;
const LONGEST_NAME = 120;

/** The watching thread. It shares only memory with the main thread, whose loop may be held up. */
const WATCH = `
const { workerData } = require("node:worker_threads");
const { buffer, maxBlocking, never, notInLine, FIELDS, LONGEST_NAME } = workerData;
const escape = (char) => "\\\\u" + char.charCodeAt(0).toString(16).padStart(4, "0");
const fields = new Int32Array(buffer, 0, FIELDS);
const running = new Uint16Array(buffer, 4 * FIELDS, LONGEST_NAME);
const blocking = new Uint16Array(buffer, 4 * FIELDS + 2 * LONGEST_NAME, LONGEST_NAME);
const tick = maxBlocking / 4;
let beat = -1, since = 0;
while (Atomics.load(fields, ${STOP}) === 0) {
  Atomics.wait(fields, ${STOP}, 0, tick);
  const now = performance.now();
  const next = Atomics.load(fields, ${BEAT});
  if (next !== beat) {
    beat = next;
    since = now;
    continue;
  }
  const seen = Atomics.load(fields, ${SEEN});
  if (seen === 0 && now - since >= maxBlocking / 2) {
    blocking.set(running);
    Atomics.store(fields, ${BLOCKING}, Atomics.load(fields, ${RUNNING}));
    Atomics.store(fields, ${BLOCKING_COUNT}, Atomics.load(fields, ${COUNT}));
    Atomics.store(fields, ${SEEN}, 1);
  } else if (seen === 1 && now - since >= never) {
    const length = Atomics.load(fields, ${BLOCKING});
    const units = blocking.subarray(0, Math.max(length, 0));
    const name = String.fromCharCode(...units).replace(new RegExp(notInLine, "gu"), escape);
    const who = length === 0 ? "Unknown code" : length < 0
      ? "A greenlet without a name"
      : "Greenlet '" + name + "'";
    require("node:fs").writeSync(2, who + " has held up the event loop for " +
      Math.round(now - since) + " ms, and still does\\n");
    Atomics.store(fields, ${SEEN}, 2);
  }
}`;

/** A greenlet of the library. Greenlets of the core have no name. */
interface Named {
  readonly name?: string;
}

/** Whether there is a monitor. Only one is allowed: a second one would report the same. */
let isOn = false;

/**
 * Watches the event loop. Dispatches an event when the loop was held up, and when the process
 * uses too much memory. gevent's `monitor_thread`, with `max_blocking_time` and
 * `max_memory_usage`.
 *
 * - `"blocked"`: a greenlet has computed, or called something that blocks, for longer than
 *   `maxBlocking`. At most once a second. If the loop is still held up after ten times that,
 * and at least a second, the watching thread prints it to stderr.
 * - `"memory"`: the process uses more than `maxMemory`; and again, when it uses less than 90 %
 *   of the limit.
 *
 * Each event is printed to stderr unless a listener calls `preventDefault()`. A monitor does
 * not keep the process alive. Not a switch point.
 *
 * @param options The limits.
 * @returns The monitor. It dispatches events until it is disposed of.
 * @throws {TypeError | RangeError} If an option is not valid.
 * @throws {GreenletError} If there is a monitor already.
 *
 * @example Usage
 * ```ts
 * import { monitor, type MonitorEvent } from "@gevent/gevent";
 *
 * using watching = monitor({ maxMemory: 2 ** 40 });
 * watching.addEventListener("memory", (event) => {
 *   event.preventDefault();
 *   console.log((event as MonitorEvent).detail.memory);
 * });
 * ```
 */
export function monitor(options: MonitorOptions = NO_OPTIONS): Monitor {
  checkOptions(options, "start monitor");
  const { maxBlocking = 100, maxMemory = Infinity, profile = false } = options;
  const isNumber = typeof maxBlocking === "number";
  if (!(isNumber && maxBlocking >= 10 && maxBlocking <= 1e9)) {
    const wanted = "a number of milliseconds from 10 to 1e9";
    throw numberError("start monitor", "maxBlocking", wanted, maxBlocking);
  }
  if (!(typeof maxMemory === "number" && maxMemory > 0)) {
    const wanted = "a positive number of bytes";
    throw numberError("start monitor", "maxMemory", wanted, maxMemory);
  }
  checkFlag(profile, "start monitor", "profile");
  if (isOn) {
    throw new GreenletError(
      "Cannot start monitor as there is one already: dispose of it first",
    );
  }
  return new LoopMonitor(maxBlocking, maxMemory, profile);
}

class LoopMonitor extends EventTarget implements Monitor {
  readonly #maxBlocking: number;
  readonly #maxMemory: number;
  readonly #fields: Int32Array;
  readonly #running: Uint16Array;
  readonly #blocking: Uint16Array;
  readonly #disposals = new Disposals();
  readonly #profiler: Profiler | null;
  readonly #clock = performance;
  #last = this.#clock.now();
  #reported = -Infinity;
  /** The greenlets that have run last, by their number. */
  readonly #lastRun = new Array<Greenlet | null>(KEPT).fill(null);
  /** The number of switches; a small integer. */
  #count = 0;
  #looked = -Infinity;
  #isOver = false;

  static {
    showAs(this, (monitor) => ({
      state: monitor.#disposals.isDisposed ? "stopped" : "watching",
      maxBlocking: monitor.#maxBlocking,
      maxMemory: monitor.#maxMemory,
    }));
  }

  constructor(maxBlocking: number, maxMemory: number, profile: boolean) {
    super();
    this.#maxBlocking = maxBlocking;
    this.#maxMemory = maxMemory;
    const buffer = new SharedArrayBuffer(4 * FIELDS + 4 * LONGEST_NAME);
    this.#fields = new Int32Array(buffer, 0, FIELDS);
    this.#running = new Uint16Array(buffer, 4 * FIELDS, LONGEST_NAME);
    this.#blocking = new Uint16Array(
      buffer,
      4 * FIELDS + 2 * LONGEST_NAME,
      LONGEST_NAME,
    );
    const { Worker } = getBuiltin("node:worker_threads");
    const never = Math.max(NEVER * maxBlocking, NEVER_MS);
    const workerData = {
      buffer,
      maxBlocking,
      never,
      notInLine: NOT_IN_LINE.source,
      FIELDS,
      LONGEST_NAME,
    };
    const disposals = this.#disposals;
    let worker: InstanceType<typeof Worker>;
    const watch = () => {
      worker = new Worker(WATCH, { eval: true, workerData });
      worker.unref();
    };
    const unwatch = async () => {
      Atomics.store(this.#fields, STOP, 1);
      Atomics.notify(this.#fields, STOP);
      await worker.terminate().catch(ignore);
    };
    runDetached(() => {
      watch();
      disposals.defer(() => void unwatch());
      const beat = Math.trunc(maxBlocking / 4);
      const timer = setInterval(() => this.#beat(), beat);
      timer.unref();
      disposals.defer(() => clearInterval(timer as never));
      disposals.use(noteIdleTimer(timer, beat));
    });
    // The thread ends nothing that anything waits in, but looks to the runtime as if it might.
    disposals.use(pauseAtEnd({
      operations: 2,
      pause: unwatch,
      goOn: () => {
        Atomics.store(this.#fields, STOP, 0);
        runDetached(watch);
      },
    }));
    const note = (greenlet: Greenlet) => this.#noteGreenlet(greenlet);
    disposals.use(observe({ begins: note, resumes: note }));
    this.#profiler = profile ? Profiler.start() : null;
    if (this.#profiler !== null) disposals.use(this.#profiler);
    this.#last = this.#clock.now(); // The profiler may have taken long to start
    isOn = true;
    disposals.defer(() => {
      isOn = false;
    });
  }

  #noteGreenlet(greenlet: Greenlet): void {
    this.#lastRun[(this.#count = (this.#count + 1) | 0) & (KEPT - 1)] =
      greenlet;
    this.#fields[COUNT] = this.#count;
    const name = knownNameOf(greenlet);
    if (name === undefined) this.#fields[RUNNING] = UNNAMED;
    else this.#note(name);
  }

  /** Tells the watching thread which greenlet is about to run. */
  #note(name: string): void {
    const length = Math.min(name.length, LONGEST_NAME);
    const running = this.#running;
    for (let i = 0; i < length; i++) running[i] = name.charCodeAt(i);
    // Read much later, so that no barrier is needed: that would take 20 ns at each switch.
    this.#fields[RUNNING] = length;
  }

  #beat(): void {
    const fields = this.#fields;
    // The next code to run may be foreign.
    this.#note("");
    Atomics.add(fields, BEAT, 1);
    const now = this.#clock.now();
    const ms = now - this.#last;
    this.#last = now;
    const seen = Atomics.exchange(fields, SEEN, 0);
    if (ms >= this.#maxBlocking) {
      if (seen !== 0 && now - this.#reported >= REPORT_EVERY) {
        this.#reported = now;
        this.#blocked(Math.round(ms), seen === 2);
      }
      this.#last = this.#clock.now();
    }
    // Otherwise dead greenlets would be kept in memory.
    this.#lastRun.fill(null);
    if (now - this.#looked >= LOOK_EVERY) {
      this.#looked = now;
      this.#lookAtMemory();
    }
  }

  #blocked(ms: number, isPrinted: boolean): void {
    const greenlet = this.#blockingName();
    const tell = (stack: string) => {
      const who = greenlet === ""
        ? "Unknown code"
        : `Greenlet '${oneLine(greenlet)}'`;
      const frames = stack.replace(/^/gm, "    at ");
      const text = `${who} has held up the event loop for ${ms} ms${
        stack === "" ? "" : `\n${frames}`
      }`;
      const detail = { greenlet, ms, stack, memory: 0, isOver: false };
      this.#dispatch("blocked", detail, isPrinted && stack === "" ? "" : text);
    };
    if (this.#profiler === null) tell("");
    else this.#profiler.hottest(tell);
  }

  /** The name of the greenlet that the watching thread has seen. */
  #blockingName(): string {
    const length = Atomics.load(this.#fields, BLOCKING);
    if (length !== UNNAMED) {
      const units = this.#blocking.subarray(0, length);
      // The end may be in the middle of a character.
      return String.fromCharCode(...units).toWellFormed();
    }
    const count = Atomics.load(this.#fields, BLOCKING_COUNT);
    if (this.#count - count >= KEPT) return "";
    const greenlet = this.#lastRun[count & (KEPT - 1)] as Named | null;
    try {
      return greenlet?.name ?? "";
    } catch {
      // A subclass may have a name that throws.
      return "";
    }
  }

  #lookAtMemory(): void {
    if (this.#maxMemory === Infinity) return;
    const memory = getProcess().memoryUsage().rss;
    const limit = this.#maxMemory * (this.#isOver ? UNDER : 1);
    const isOver = memory > limit;
    if (isOver === this.#isOver) return;
    this.#isOver = isOver;
    const detail = { greenlet: "", ms: 0, stack: "", memory, isOver };
    const side = isOver ? "more" : "less";
    this.#dispatch(
      "memory",
      detail,
      `The process uses ${memory} bytes of memory, ${side} than its limit of ${this.#maxMemory}`,
    );
  }

  #dispatch(type: string, detail: MonitorDetail, text: string): void {
    if (this.#disposals.isDisposed) return;
    const event = new CustomEvent(type, { detail, cancelable: true });
    if (this.dispatchEvent(event) && text !== "") console.error(text);
  }

  [Symbol.dispose](): void {
    this.#disposals[Symbol.dispose]();
  }
}

/** A function of a profile. */
interface ProfileNode {
  readonly id: number;
  readonly hitCount: number;
  readonly children?: readonly number[];
  readonly callFrame: {
    readonly functionName: string;
    readonly url: string;
    readonly lineNumber: number;
    readonly columnNumber: number;
  };
}

/** The sampling profiler of the runtime. */
class Profiler implements Disposable {
  readonly #session: import("node:inspector").Session;

  private constructor(session: import("node:inspector").Session) {
    this.#session = session;
    session.post("Profiler.enable");
    session.post("Profiler.setSamplingInterval", { interval: 5000 });
    session.post("Profiler.start");
  }

  /** Starts a profiler. Returns `null` if the runtime has none, or does not permit it. */
  static start(): Profiler | null {
    try {
      const { Session } = getBuiltin("node:inspector");
      const session = new Session();
      session.connect();
      return new Profiler(session);
    } catch {
      return null;
    }
  }

  /** Finds the stack that was sampled most often since it was last asked for. */
  hottest(tell: (stack: string) => void): void {
    this.#session.post("Profiler.stop", (error, result) => {
      const nodes: readonly ProfileNode[] = error === null
        ? result.profile.nodes as readonly ProfileNode[]
        : [];
      this.#session.post("Profiler.start");
      tell(hottestStack(nodes));
    });
  }

  [Symbol.dispose](): void {
    this.#session.disconnect();
  }
}

function hottestStack(nodes: readonly ProfileNode[]): string {
  const callers = new Map<number, ProfileNode>();
  let hottest: ProfileNode | undefined;
  for (const node of nodes) {
    for (const child of node.children ?? []) callers.set(child, node);
    // Names in brackets are the engine's: `(idle)`, `(garbage collector)`.
    if (node.callFrame.functionName.startsWith("(")) continue;
    if (node.hitCount > (hottest?.hitCount ?? 0)) hottest = node;
  }
  const lines: string[] = [];
  for (let node = hottest; node !== undefined; node = callers.get(node.id)) {
    const { functionName, url, lineNumber, columnNumber } = node.callFrame;
    if (functionName === "(root)" || lines.length === DEEPEST) break;
    const place = `${url}:${lineNumber + 1}:${columnNumber + 1}`;
    lines.push(`    at ${functionName || "<anonymous>"} (${place})`);
  }
  return userFrames(lines.join("\n")).replace(/^ {4}at /gm, "");
}

nameClasses({ LoopMonitor });
