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

import { showAs } from "./_base/inspecting.ts";
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

/** The process of all events, as the format wants one. */
const PID = 1;
/** The track of the main greenlet. */
const MAIN_TID = 1;
/**
 * How many microtasks after its wake-up an async body counts as running, if it begins no wait:
 * each async function that returns to another one takes one of them.
 */
const HOPS = 8;

/** One event in Chrome's trace-event format. Times are in microseconds since the start. */
export interface TraceEvent {
  /** What has happened: `running`, `ready`, `waiting`, the name of a counter or an arrow. */
  name: string;
  /** The kind of event, to select events by. */
  cat?: string;
  /**
   * The phase: `X` a slice, `M` a name, `s` and `f` the ends of an arrow, `C` a counter, `i` an
   * instant.
   */
  ph: "X" | "M" | "s" | "f" | "C" | "i";
  /** When, in microseconds since the start. */
  ts: number;
  /** How long a slice takes, in microseconds. */
  dur?: number;
  /** The process: always 1. */
  pid: number;
  /** The track: 1 is the main greenlet's, and each other greenlet has its own. */
  tid: number;
  /** The number of an arrow, which both its ends have. */
  id?: number;
  /** Has the end of an arrow belong to the slice that it is in. */
  bp?: "e";
  /** Has an instant belong to its track. */
  s?: "t";
  /** More of it: what a slice waits in, the values of a counter, the error of a greenlet. */
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
   * @param traceEvents The events.
   */
  constructor(traceEvents: readonly TraceEvent[]) {
    this.traceEvents = traceEvents;
  }

  /**
   * Makes a page that shows the timeline in any browser. It is one file that loads nothing. The
   * wheel zooms, a drag moves, the search selects greenlets by name, and a click on a slice
   * shows its details. Not a switch point.
   *
   * @returns The text of the page, in HTML.
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
   * Ends the recording. Names are those that greenlets have now. What goes on is cut here, and
   * has `unfinished` among its `args`. To stop twice gives the same trace. Not a switch point.
   */
  stop(): Trace;
}

/**
 * Starts to record what greenlets do, until `stop()`. gevent has no such call. Not a switch
 * point.
 *
 * Each greenlet has a track with slices: `running`, `ready` (it may go on, and others run) and
 * `waiting`, whose `args.in` says what in, as {@linkcode Greenlet.waitsIn} does. Arrows lead
 * from a spawn and from a wake-up to where the greenlet goes on; where the event loop woke it,
 * from main. The counters `alive` and `run queue` tell how many greenlets there are and how
 * many of them are ready.
 *
 * The times of generator bodies and plain functions are exact. The library can't see all of an
 * async body: it sees its first part, each wake-up, and the next wait. After a wake-up it counts
 * as running until another greenlet runs, until the microtask after its next wait, or for 8
 * microtasks. What it does after it has awaited a promise of others is shown as `waiting` in
 * `a foreign promise`, until its next call.
 *
 * While it records, it keeps all greenlets that it has seen, and about 100 bytes a slice. It
 * uses `setTrace` of the core and calls the callback that was set before; one that is set
 * meanwhile takes its place, and then running generator bodies are not seen any more.
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
 * - `ready`: may go on, or begin, in its turn
 * - `running`
 * - `waiting`: in what `text` says
 * - `ended`
 */
type TrackState = "ready" | "running" | "waiting" | "ended";

/** The end of an arrow that was begun. */
interface Cause {
  readonly name: "spawn" | "wake-up";
  readonly from: Track;
  readonly ts: number;
}

/** What is known of one greenlet. */
class Track {
  readonly greenlet: Greenlet;
  readonly tid: number;
  state: TrackState;
  /** Since when it is in that state. */
  since: number;
  /** What it waits in. */
  text = "";
  /** What has made it ready. */
  cause: Cause | null = null;
  /** How often it has begun to run: tells whether it still is the same time. */
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

/** What greenlets of the library have, and those of the core have not. */
interface Known {
  readonly name?: string;
  readonly waitsIn?: string | null;
  readonly exception?: unknown;
  readonly value?: unknown;
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
  /** The async body that runs, and has switched to a greenlet of the core. */
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
    // The oldest first, as their tracks are at the top.
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
    // A slice is put in when it ends. Where times are equal, slices come before arrows.
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
      // Others' promises have resumed it before, which was not seen.
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
    // A generator body is switched to, and the core tells that.
    if (scopeOf(greenlet).awaited === null) this.#resume(track);
  }

  ended(greenlet: Greenlet): void {
    const track = this.#trackOf(greenlet);
    if (track.state === "ended") return;
    const { exception, value } = greenlet as Known;
    this.#become(track, "ended");
    const name = exception !== undefined
      ? "failed"
      : value instanceof GreenletExit
      ? "killed"
      : "ended";
    this.#events.push({
      name,
      cat: "greenlet",
      ph: "i",
      s: "t",
      ts: track.since,
      pid: PID,
      tid: track.tid,
      ...(exception === undefined ? {} : { args: { error: show(exception) } }),
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

  /** Notes that a body runs which is seen for the first time. */
  #runFirst(track: Track): void {
    this.#parkRunning();
    if (track.state === "ready") this.#ready--;
    track.state = "running";
    track.runs++;
    this.#running = track;
    this.#count();
  }

  /** An async body goes on. */
  #resume(track: Track): void {
    if (this.#trace !== null || track.state === "ended") return;
    this.#run(track);
    this.#parkSoon(track, track.runs, HOPS);
  }

  /** Notes that a body runs, and so no other one. */
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

  /** Notes that a body that has run waits, or has been woken already. */
  #park(track: Track): void {
    if (this.#running === track) this.#running = null;
    this.#become(track, "waiting");
  }

  /** Notes that an async body waits, after as many microtasks, unless it has run again. */
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

  /** Puts in the slice of the present state. */
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
   * The track of what has just ended a wait. The context alone does not tell, as the timers of
   * the runtime are called in that of the greenlet that has set the first of them.
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

  /** The track of a greenlet, which is made when it is first seen. */
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

function rounded(micros: number): number {
  return Math.round(micros * 1000) / 1000;
}

function nameOf(greenlet: Greenlet): string {
  if (greenlet === main) return "main";
  return (greenlet as Known).name ?? String(greenlet);
}

/** Says what a greenlet waits in. As from the hub, since one that runs waits in nothing. */
function waitOf(greenlet: Greenlet): string {
  const text = runDetached(() => (greenlet as Known).waitsIn);
  if (text === null) return "its turn";
  return text ?? "a switch to another greenlet";
}

function show(error: unknown): string {
  try {
    return String(error);
  } catch {
    return "an error that can't be shown";
  }
}
