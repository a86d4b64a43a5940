/**
 * Child processes: ends a child and the processes that it has started, and collects its output.
 * Shared by `patch()` and `subprocess.ts`.
 *
 * Functions of the runtime are called outside greenlets here, where patched functions act as
 * the originals.
 *
 * @module
 */

import { after } from "../_base/after.ts";
import { bare, membersOf, then } from "../_base/language.ts";
import { current, runDetached } from "./current.ts";

/** Bytes in a plain buffer. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** The options for ending a child. */
export interface ChildEnding {
  /** The milliseconds from SIGTERM to SIGKILL; never for `Infinity`. */
  readonly grace: number;
  /** Whether the processes that it has started are ended as well: the child leads a group. */
  readonly group: boolean;
  /** Whether the grace keeps this process alive, so that SIGKILL is still sent. */
  readonly holds: boolean;
}

/**
 * Whether a child can lead a process group: on a system with groups, if this process may signal
 * any other.
 */
export function canEndGroups(): boolean {
  if (Deno.build.os === "windows") return false;
  // A permission that would have to be prompted for counts as missing.
  return Deno.permissions.querySync({ name: "run" }).state === "granted";
}

/** The promise of how a child ends. */
export function statusOf(
  child: Deno.ChildProcess,
): Promise<Deno.CommandStatus> {
  return runDetached(() => child.status);
}

/** Sends a signal to the process group that a child leads. Returns `false` if there is none. */
export function signalGroup(pid: number, signal: Deno.Signal): boolean {
  try {
    Deno.kill(-pid, signal);
    return true;
  } catch {
    return false;
  }
}

function hasGroup(pid: number): boolean {
  // Signal 0 sends nothing, and checks that the group exists.
  return signalGroup(pid, 0 as unknown as Deno.Signal);
}

/** A child as far as it takes to end it: of the runtime or of `node:child_process`. */
export interface Endable {
  readonly pid: number;
  kill(signal: Deno.Signal): unknown;
}

/** Sends a signal to a child, or to the group that it leads. */
export function signalChild(
  child: Endable,
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

/** Lets the process end while a child runs. Does nothing if the child has ended. */
export function unrefChild(child: Deno.ChildProcess): void {
  try {
    child.unref();
  } catch {
    // A pipe of it is closed already.
  }
}

/**
 * Sends SIGTERM to a child, and SIGKILL after the grace. Does not wait.
 *
 * @param whenOver Calls a function when the child has ended.
 */
export function endChild(
  child: Endable,
  { grace, group, holds }: ChildEnding,
  whenOver: (call: () => void) => void,
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
  // The child keeps the process alive if the program wants it to.
  current.clear(after, grace, kill);
  if (!holds) atEnd.add(kill);
  whenOver(() => {
    if (!group || !hasGroup(child.pid)) over();
  });
}

/**
 * Calls `ended` when a child has ended. Clears the async context, which the promise would keep
 * alive.
 */
export function whenEnded(child: Deno.ChildProcess, ended: () => void): void {
  current.clear(() => void then(statusOf(child), ended, ended));
}

/** Calls functions when the process ends. Listens for that only while there are any. */
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
 * Runs when the process ends: children in their grace get SIGKILL at once.
 */
export const atEnd: AtEnd = new AtEnd();

/** Collects the output of a pipe. */
export class OutputPipe {
  /** The whole output, once the pipe has ended. */
  readonly bytes: Promise<Bytes>;
  /** The chunks that have arrived; `null` when nothing needs them any more. */
  #chunks: Bytes[] | null = [];

  /** @param abort Closes the pipe: a process that the child has started may hold it open. */
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

  /** Returns the bytes that have arrived. */
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
