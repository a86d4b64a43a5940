/**
 * Timelines: what each greenlet did and when, for Perfetto and for a browser.
 *
 * ```ts
 * import { sleep, spawn, startTrace } from "@gevent/gevent";
 *
 * const recording = startTrace();
 * await spawn(sleep, 1).join();
 * const trace = recording.stop();
 * console.log(trace.traceEvents.length > 0); // true
 * const page = trace.toHtml(); // A page to look at; or JSON.stringify(trace), for Perfetto
 * ```
 *
 * @module
 */

import { isObject, isRevoked, show, waitInWords } from "./_base/checks.ts";
import { nameClasses, showAs } from "./_base/inspecting.ts";
import { timelinePage } from "./_base/timeline_page.ts";
import {
  getCurrent as getRunning,
  getTrace,
  type Greenlet,
  GreenletError,
  GreenletExit,
  setTrace,
  type TraceCallback,
} from "./greenlet.ts";
import { getCurrent, runDetached, scopeOf } from "./_hub/current.ts";
import { aliveGreenlets } from "./_hub/live.ts";
import { main } from "./_hub/main.ts";
import { observe, type Observer } from "./_hub/observer.ts";

/** The process of all events: the format requires one. */
const PID = 1;
/** The track of the main greenlet. */
const MAIN_TID = 1;
/**
 * An async body that begins no wait counts as running for this many microtasks after its
 * wake-up. Each return from one async function to another takes one microtask.
 */
const HOPS = 8;

/** One event in Chrome's trace-event format. Times are in microseconds since the start. */
export interface TraceEvent {
  /** The event: `running`, `ready`, `waiting`, or the name of a counter or an arrow. */
  name: string;
  /** The kind of event, to select events by. */
  cat?: string;
  /**
   * The phase: `X` a slice, `M` a name, `s` and `f` the ends of an arrow, `C` a counter, `i` an
   * instant.
   */
  ph: "X" | "M" | "s" | "f" | "C" | "i";
  /** The time, in microseconds since the start. */
  ts: number;
  /** The length of a slice, in microseconds. */
  dur?: number;
  /** The process: always 1. */
  pid: number;
  /** The track. The main greenlet has track 1, and each other greenlet has its own. */
  tid: number;
  /** The number of an arrow: both its ends carry it. */
  id?: number;
  /** Set at the end of an arrow: binds it to the slice that encloses it. */
  bp?: "e";
  /** Set at an instant: binds it to its track. */
  s?: "t";
  /** Details: the wait of a slice, the values of a counter, the error of a greenlet. */
  args?: Record<string, unknown>;
}

/**
 * A timeline that was recorded. `JSON.stringify` of it gives a file that Perfetto
 * (ui.perfetto.dev) and `chrome://tracing` open.
 *
 * @example Usage
 * ```ts
 * import { startTrace } from "@gevent/gevent";
 *
 * const trace = startTrace().stop();
 * console.log(Object.keys(JSON.parse(JSON.stringify(trace)))); // [ "traceEvents" ]
 * ```
 */
export class Trace {
  /** The events, in the order of their times. */
  readonly traceEvents: readonly TraceEvent[];

  /**
   * Makes a trace of events, such as those of a file that was stored.
   *
   * @param traceEvents The events, in the order of their times.
   * @throws {TypeError} If they are not an array of objects.
   */
  constructor(traceEvents: readonly TraceEvent[]) {
    checkEvents(traceEvents);
    this.traceEvents = traceEvents;
  }

  /**
   * Makes a page that shows the timeline in any browser. It is one file that loads nothing. The
   * wheel zooms, a drag moves, the search selects greenlets by name, and a click on a slice
   * shows its details. Not a switch point.
   *
   * @returns The page, as HTML.
   *
   * @example Usage
   * ```ts
   * import { sleep, spawn, startTrace } from "@gevent/gevent";
   *
   * const recording = startTrace();
   * await spawn(sleep, 1).join();
   * console.log(recording.stop().toHtml().startsWith("<!doctype html>")); // true
   * ```
   */
  toHtml(): string {
    return timelinePage(JSON.stringify(this.traceEvents));
  }
}

/**
 * A trace that is being recorded. `using` stops it at the end of the block.
 *
 * @example Usage
 * ```ts
 * import { startTrace, type TraceRecording } from "@gevent/gevent";
 *
 * const recording: TraceRecording = startTrace();
 * const trace = recording.stop();
 * console.log(recording.stop() === trace); // true
 * ```
 */
export interface TraceRecording extends Disposable {
  /**
   * Ends the recording. Greenlets appear by the names that they have now. Slices that have not
   * ended are cut here, and have `unfinished` in their `args`. A second call returns the same
   * trace. Not a switch point.
   */
  stop(): Trace;
}

/**
 * Records what greenlets do, until `stop()`. gevent has no such call. Not a switch point.
 *
 * Each greenlet has a track with slices: `running`, `ready` (it could run, but others do) and
 * `waiting`, whose `args.in` names the wait as {@linkcode Greenlet.waitsIn} does. Arrows lead
 * from each spawn and each wake-up to where the greenlet goes on; if the event loop woke it,
 * the arrow starts at main. The counters `alive` and `run queue` show how many greenlets are
 * alive and how many of them are ready.
 *
 * The times of generator bodies and plain functions are exact. Of an async body, the library
 * sees only its first part, each wake-up, and the beginning of each wait. After a wake-up it
 * counts as running until another greenlet runs, until the microtask after its next wait, or
 * for 8 microtasks. After it has awaited a foreign promise, it is shown as `waiting` in `a
 * foreign promise` until its next call of the library.
 *
 * A recording keeps all greenlets that it has seen in memory, and about 100 bytes a slice. It
 * uses `setTrace` of the core and also calls the callback that was set before. A callback that
 * is set during the recording replaces it, and then running generator bodies are no longer
 * seen.
 *
 * @returns The recording.
 * @throws {GreenletError} If another trace is being recorded.
 *
 * @example Usage
 * ```ts
 * import { sleep, spawn, startTrace } from "@gevent/gevent";
 *
 * const recording = startTrace();
 * await spawn(sleep, 1).join();
 * const { traceEvents } = recording.stop();
 * console.log(traceEvents.some(({ args }) => args?.in === "sleep(1)")); // true
 * ```
 */
export function startTrace(): TraceRecording {
  if (isRecording) {
    throw new GreenletError(
      "Cannot start trace as another one is being recorded: call its stop() first",
    );
  }
  return new Recorder();
}

/**
 * - `ready`: can run when its turn comes
 * - `running`
 * - `waiting`: in the wait that `text` names
 * - `ended`
 */
type TrackState = "ready" | "running" | "waiting" | "ended";

/** The start of an arrow. */
interface Cause {
  readonly name: "spawn" | "wake-up";
  readonly from: Track;
  readonly ts: number;
}

/** The record of one greenlet. */
class Track {
  readonly greenlet: Greenlet;
  readonly tid: number;
  state: TrackState;
  /** The time at which that state began. */
  since: number;
  /** The description of the wait that it is in. */
  text = "";
  /** The cause of its last wake-up. */
  cause: Cause | null = null;
  /** Counts how often it has begun to run, to tell one run from the next. */
  runs = 0;

  constructor(
    greenlet: Greenlet,
    tid: number,
    state: TrackState,
    since: number,
  ) {
    this.greenlet = greenlet;
    this.tid = tid;
    this.state = state;
    this.since = since;
  }
}

/** Members that greenlets of `gevent.ts` have and those of the core don't. */
interface Known {
  readonly name?: string;
  readonly waitsIn?: string | null;
  readonly exception?: unknown;
  readonly value?: unknown;
  successful?(): boolean;
}

const clock = performance;

/** Whether a trace is being recorded: the core has one tracer at a time. */
let isRecording = false;

class Recorder implements Observer, TraceRecording {
  readonly #start = clock.now();
  readonly #events: TraceEvent[] = [];
  readonly #tracks = new Map<Greenlet, Track>();
  readonly #main: Track;
  #running: Track | null = null;
  /** The async body that has switched to a greenlet of the core and still runs. */
  #beneath: Track | null = null;
  #alive = 0;
  #ready = 0;
  #arrows = 0;
  #trace: Trace | null = null;
  readonly #observing: Disposable;

  static {
    showAs(this, (recorder) => ({
      state: recorder.#trace === null ? "recording" : "stopped",
      events: recorder.#events.length,
    }));
  }

  readonly #before = getTrace();
  readonly #switched: TraceCallback = (event, origin, target) => {
    if (this.#trace === null) this.#noteSwitch(origin, target);
    this.#before?.(event, origin, target);
  };

  constructor() {
    this.#main = new Track(main, MAIN_TID, "running", 0);
    this.#tracks.set(main, this.#main);
    // The oldest greenlets come first: their tracks are at the top.
    for (const greenlet of aliveGreenlets().reverse()) this.#trackOf(greenlet);
    this.#count();
    const current = getCurrent();
    if (current !== main) this.#runFirst(this.#trackOf(current));
    setTrace(this.#switched);
    this.#observing = observe(this);
    isRecording = true;
  }

  stop(): Trace {
    if (this.#trace !== null) return this.#trace;
    this.#observing[Symbol.dispose]();
    isRecording = false;
    if (getTrace() === this.#switched) setTrace(this.#before);
    const now = this.#now();
    const names: TraceEvent[] = [
      this.#named("process_name", MAIN_TID, "greenlets"),
    ];
    for (const track of this.#tracks.values()) {
      const { greenlet, tid } = track;
      names.push(this.#named("thread_name", tid, nameOf(greenlet)));
      names.push({
        name: "thread_sort_index",
        ph: "M",
        ts: 0,
        pid: PID,
        tid,
        args: { sort_index: tid },
      });
      if (track.state !== "ended") this.#slice(track, now, true);
    }
    // A slice is added when it ends. At equal times, slices come before arrows.
    const rank = ({ ph }: TraceEvent) => ph === "X" ? 0 : 1;
    const events = this.#events.toSorted((a, b) =>
      a.ts - b.ts || rank(a) - rank(b)
    );
    this.#tracks.clear();
    return this.#trace = new Trace([...names, ...events]);
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  spawned(greenlet: Greenlet): void {
    const track = this.#trackOf(greenlet);
    track.cause = {
      name: "spawn",
      from: this.#trackOf(getCurrent()),
      ts: this.#now(),
    };
  }

  waits(greenlet: Greenlet): void {
    const track = this.#trackOf(greenlet);
    if (track === this.#main) return;
    if (track.state === "running") {
      // The core tells when other bodies stop.
      if (getRunning() !== track.greenlet) this.#parkSoon(track, track.runs, 0);
    } else if (track.state === "waiting") {
      // A foreign promise has resumed it before; that was not seen.
      this.#become(track, "waiting");
      this.#parkSoon(track, track.runs, 0);
    }
  }

  woken(greenlet: Greenlet): void {
    const track = this.#trackOf(greenlet);
    if (track === this.#main) return;
    if (track.state === "waiting") {
      track.cause = {
        name: "wake-up",
        from: this.#waker(),
        ts: this.#now(),
      };
      this.#become(track, "ready");
    }
  }

  resumes(greenlet: Greenlet): void {
    const track = this.#trackOf(greenlet);
    if (track === this.#main) return;
    // A generator body is resumed by a switch, which the core reports.
    if (scopeOf(greenlet).driver === null) this.#resume(track);
  }

  ended(greenlet: Greenlet): void {
    const track = this.#trackOf(greenlet);
    if (track.state === "ended") return;
    this.#become(track, "ended");
    this.#events.push({
      cat: "greenlet",
      ph: "i",
      s: "t",
      ts: track.since,
      pid: PID,
      tid: track.tid,
      ...endOf(greenlet as Known),
    });
  }

  #noteSwitch(origin: Greenlet, target: Greenlet): void {
    const from = this.#trackOf(origin);
    if (from !== this.#main && from.state === "running") {
      if (origin.dead) this.ended(origin);
      else this.#park(from);
    }
    if (target === main) {
      const beneath = this.#beneath;
      this.#beneath = null;
      this.#running = null;
      if (beneath !== null && beneath.state === "waiting") {
        this.#resume(beneath);
      }
      return;
    }
    if (origin === main) this.#beneath = this.#running;
    if (this.#tracks.has(target)) this.#run(this.#trackOf(target));
    else this.#runFirst(this.#trackOf(target));
  }

  /** Notes the first run of a body. */
  #runFirst(track: Track): void {
    this.#parkRunning();
    if (track.state === "ready") this.#ready--;
    track.state = "running";
    track.runs++;
    this.#running = track;
    this.#count();
  }

  /** Notes that an async body goes on. */
  #resume(track: Track): void {
    if (this.#trace !== null || track.state === "ended") return;
    this.#run(track);
    this.#parkSoon(track, track.runs, HOPS);
  }

  /** Notes that a body runs, and that the one before it no longer does. */
  #run(track: Track): void {
    const running = this.#running;
    if (running === track && track.state === "running") return;
    this.#parkRunning();
    this.#running = track;
    if (track.state === "ended") return;
    track.runs++;
    const { cause } = track;
    this.#become(track, "running");
    track.cause = null;
    if (cause !== null) this.#arrow(cause, track);
  }

  #parkRunning(): void {
    const running = this.#running;
    if (running !== null && running.state === "running") this.#park(running);
  }

  /** Notes that a body no longer runs: it waits, or is ready if it was woken already. */
  #park(track: Track): void {
    if (this.#running === track) this.#running = null;
    this.#become(track, "waiting");
  }

  /** Notes after `hops` microtasks that an async body waits, unless it has run again. */
  #parkSoon(track: Track, run: number, hops: number): void {
    queueMicrotask(() => {
      if (this.#trace !== null || track.runs !== run) return;
      if (track.state === "waiting") track.text = waitOf(track.greenlet);
      if (track.state !== "running") return;
      if (getRunning() === track.greenlet) return;
      if (hops > 0 && this.#running === track) {
        this.#parkSoon(track, run, hops - 1);
      } else this.#park(track);
    });
  }

  #become(track: Track, state: TrackState): void {
    const before = track.state;
    const now = this.#now();
    if (before !== "ended") this.#slice(track, now, false);
    if (state === "waiting") track.text = waitOf(track.greenlet);
    track.state = state;
    track.since = now;
    if (before === "ready") this.#ready--;
    if (state === "ready") this.#ready++;
    if (state === "ended") this.#alive--;
    if (before === "ready" || state === "ready" || state === "ended") {
      this.#count();
    }
  }

  /** Adds the slice of the present state. */
  #slice(track: Track, now: number, unfinished: boolean): void {
    const { state, since, tid } = track;
    if (now === since && state !== "running") return;
    const args: Record<string, unknown> = {};
    if (state === "waiting") args.in = track.text;
    if (unfinished) args.unfinished = true;
    this.#events.push({
      name: track === this.#main ? "main" : state,
      cat: track === this.#main ? "main" : state,
      ph: "X",
      ts: since,
      dur: rounded(now - since),
      pid: PID,
      tid,
      args,
    });
  }

  /**
   * The track of the greenlet, or the event loop, that has just ended a wait. The async context
   * alone does not show it: the runtime calls timers in the context of the greenlet that has
   * set the first of them.
   */
  #waker(): Track {
    const current = this.#trackOf(getCurrent());
    return current === this.#running ? current : this.#main;
  }

  #arrow({ name, from, ts }: Cause, to: Track): void {
    const id = ++this.#arrows;
    const arrow = { name, cat: name, id, pid: PID };
    this.#events.push(
      { ...arrow, ph: "s", ts, tid: from.tid },
      { ...arrow, ph: "f", bp: "e", ts: to.since, tid: to.tid },
    );
  }

  #count(): void {
    this.#counter("alive", this.#alive);
    this.#counter("run queue", this.#ready);
  }

  #counter(name: string, greenlets: number): void {
    this.#events.push({
      name,
      ph: "C",
      ts: this.#now(),
      pid: PID,
      tid: MAIN_TID,
      args: { greenlets },
    });
  }

  #named(name: string, tid: number, text: string): TraceEvent {
    return { name, ph: "M", ts: 0, pid: PID, tid, args: { name: text } };
  }

  /** Returns the track of a greenlet. Makes it when the greenlet is first seen. */
  #trackOf(greenlet: Greenlet): Track {
    let track = this.#tracks.get(greenlet);
    if (track !== undefined) return track;
    const state = greenlet.dead
      ? "ended"
      : greenlet.active
      ? "waiting"
      : "ready";
    const tid = MAIN_TID + this.#tracks.size;
    track = new Track(greenlet, tid, state, this.#now());
    this.#tracks.set(greenlet, track);
    if (state === "ended") return track;
    if (state === "waiting") track.text = waitOf(greenlet);
    else this.#ready++;
    this.#alive++;
    if (this.#main !== undefined) this.#count();
    return track;
  }

  /** The time since the start in microseconds, to the nanosecond. */
  #now(): number {
    return rounded((clock.now() - this.#start) * 1000);
  }
}

function checkEvents(events: unknown): void {
  const what = "Cannot make trace as";
  if (isRevoked(events) || !Array.isArray(events)) {
    throw new TypeError(
      `${what} 'traceEvents' must be an array: received ${show(events)}`,
    );
  }
  const wrong = events.findIndex((event) => !isObject(event));
  if (wrong < 0) return;
  throw new TypeError(
    `${what} 'traceEvents[${wrong}]' must be an object: received ${
      show(events[wrong])
    }`,
  );
}

function rounded(micros: number): number {
  return Math.round(micros * 1000) / 1000;
}

// An error of a subclass's own members must not get into the greenlet that is observed.

function nameOf(greenlet: Greenlet): string {
  if (greenlet === main) return "main";
  const name = () => (greenlet as Known).name ?? String(greenlet);
  return textOf(name, "a greenlet that can't be shown");
}

/** Describes the wait of a greenlet. Asks as the hub, since a greenlet that runs has no wait. */
function waitOf(greenlet: Greenlet): string {
  return waitInWords(() => {
    const text = runDetached(() => (greenlet as Known).waitsIn);
    if (text === null) return "its turn";
    return text ?? "a switch to another greenlet";
  });
}

/** Describes how a greenlet has ended. */
function endOf(greenlet: Known): Pick<TraceEvent, "name" | "args"> {
  try {
    if (greenlet.value instanceof GreenletExit) return { name: "killed" };
    // A body may have thrown `undefined`. A greenlet of the core does not tell.
    if (greenlet.successful?.() ?? true) return { name: "ended" };
    const { exception } = greenlet;
    const error = textOf(
      () => String(exception),
      "an error that can't be shown",
    );
    return { name: "failed", args: { error } };
  } catch {
    return { name: "ended" };
  }
}

function textOf(say: () => string, otherwise: string): string {
  try {
    return say();
  } catch {
    return otherwise;
  }
}

nameClasses({ Trace, Recorder });
