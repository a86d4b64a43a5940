/**
 * Child processes: how one is ended, with the processes that it has started, and how all that
 * it prints is collected. What `patch()` and `subprocess.ts` share.
 *
 * What is called here is called outside greenlets, where a patched function is the original.
 *
 * @module
 */

import { after } from "../_base/after.ts";
import { bare, membersOf, then } from "../_base/language.ts";
import { current, runDetached } from "./current.ts";

/** Bytes that are in memory of their own. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** The options of ending a child. */
export interface ChildEnding {
  /** After how many milliseconds SIGKILL follows SIGTERM; never for `Infinity`. */
  readonly grace: number;
  /** Whether the processes that it has started are ended as well: it leads a group. */
  readonly group: boolean;
  /** Whether the process is not to end within the grace, which would be over then. */
  readonly holds: boolean;
}

/**
 * Whether a child can lead a group that is ended as a whole: a process that may signal any
 * other may, on a system that has groups.
 */
export function canEndGroups(): boolean {
  if (Deno.build.os === "windows") return false;
  // Where it is to be asked for, the user would be asked at a time of no meaning.
  return Deno.permissions.querySync({ name: "run" }).state === "granted";
}

/** The promise of how a child ends. */
export function statusOf(
  child: Deno.ChildProcess,
): Promise<Deno.CommandStatus> {
  return runDetached(() => child.status);
}

/** Sends a signal to the group of processes that one leads; `false` if there is none. */
export function signalGroup(pid: number, signal: Deno.Signal): boolean {
  try {
    Deno.kill(-pid, signal);
    return true;
  } catch {
    return false;
  }
}

function hasGroup(pid: number): boolean {
  // 0 sends nothing, and finds out whether something could be sent.
  return signalGroup(pid, 0 as unknown as Deno.Signal);
}

/** Sends a signal to a child, or to the group that it leads. */
export function signalChild(
  child: Deno.ChildProcess,
  signal: Deno.Signal,
  group: boolean,
): void {
  if (group && signalGroup(child.pid, signal)) return;
  try {
    child.kill(signal);
  } catch {
    // It has ended.
  }
}

/** Has a child not keep the process alive. One that has ended does not. */
export function unrefChild(child: Deno.ChildProcess): void {
  try {
    child.unref();
  } catch {
    // A pipe of it is closed already.
  }
}

/** Tells a child to end, and sees to it if it does not. Waits for nothing. */
export function endChild(
  child: Deno.ChildProcess,
  { grace, group, holds }: ChildEnding,
): void {
  signalChild(child, "SIGTERM", group);
  if (grace === Infinity) return;
  let isOver = false;
  const over = () => {
    isOver = true;
    if (!holds) atEnd.delete(kill);
  };
  const kill = () => {
    if (isOver) return;
    over();
    signalChild(child, "SIGKILL", group);
  };
  // The child keeps the process alive for as long as the user wants it to.
  current.clear(after, grace, kill);
  if (!holds) atEnd.add(kill);
  whenEnded(child, () => {
    if (!group || !hasGroup(child.pid)) over();
  });
}

/** Calls `ended` when a child has ended, in no context, which that would keep alive. */
export function whenEnded(child: Deno.ChildProcess, ended: () => void): void {
  current.clear(() => void then(statusOf(child), ended, ended));
}

/** Calls functions when the process ends. Listens as long as there are any. */
class AtEnd {
  readonly #calls = new Set<() => void>();
  readonly #callAll = () => membersOf(this.#calls).forEach((call) => call());

  add(call: () => void): void {
    if (this.#calls.size === 0) addEventListener("unload", this.#callAll);
    this.#calls.add(call);
  }

  delete(call: () => void): void {
    if (!this.#calls.delete(call) || this.#calls.size > 0) return;
    removeEventListener("unload", this.#callAll);
  }
}

/**
 * What is done with children when the process ends: those that were told to end, and would
 * outlive their grace, are ended at once.
 */
export const atEnd: AtEnd = new AtEnd();

/** Collects what comes out of a pipe. */
export class OutputPipe {
  /** All of it, when the pipe has ended. */
  readonly bytes: Promise<Bytes>;
  /** The chunks that have come so far; `null` when nothing wants them any more. */
  #chunks: Bytes[] | null = [];

  /** @param abort Closes the pipe, which the child may have left to others. */
  constructor(stream: ReadableStream<Bytes>, abort: AbortController) {
    const sink = new WritableStream<Bytes>(
      bare({
        write: (chunk: Bytes) => void this.#chunks?.push(chunk),
      }),
    );
    const piped = runDetached(() =>
      stream.pipeTo(sink, bare({ signal: abort.signal }))
    );
    this.bytes = then(piped, () => this.read());
  }

  /** Returns the bytes that have come so far. */
  read(): Bytes {
    return concat(this.#chunks ?? []);
  }

  forget(): void {
    this.#chunks = null;
  }
}

function concat(chunks: Bytes[]): Bytes {
  let length = 0;
  chunks.forEach((chunk) => length += chunk.length);
  const all = new Uint8Array(length);
  let offset = 0;
  chunks.forEach((chunk) => {
    all.set(chunk, offset);
    offset += chunk.length;
  });
  return all;
}
