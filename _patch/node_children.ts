/**
 * Children of `node:child_process`, for the part `node` of `patch()`.
 *
 * - Every interrupt of the greenlet ends a child of `exec` or `execFile`, as it ends one of
 *   `Deno.Command.output()`.
 * - A kill of the greenlet ends a child of `spawn` or `fork`. Another interrupt ends it only if
 *   the greenlet does not wait in a call of this library: then the greenlet probably waits for
 *   the child. A timer beside `once()` for the child does not count.
 * - A child goes on when its greenlet has ended without an interrupt. No interrupt ends a child
 *   that was spawned with `detached`.
 *
 * The child is ended as by an aborted `signal` of `node:child_process`: it gets SIGTERM, and its
 * `error` event has the interrupt, at once. A second later it gets SIGKILL, and its pipes are
 * closed.
 *
 * @module
 */

import type { Disposals } from "../_base/disposals.ts";
import { listen } from "./channels.ts";
import { holdBackEnd, markEnding } from "./child_ends.ts";
import {
  abortError,
  type Emitter,
  type Ending,
  ForeignOperation,
  mute,
  override,
  owningScope,
} from "./foreign.ts";
import { endChild } from "../_hub/child.ts";
import { GRACE, type Scope } from "../_hub/scope.ts";
import { killsChildren } from "./process.ts";

/**
 * After how long SIGKILL follows, in milliseconds: a little before the grace of the greenlet is
 * over, as execa ignores what is thrown into its wait for the exit.
 */
const PATIENCE = GRACE - 100;

/** The part of `child_process.ChildProcess` that is used here. */
interface Child extends Emitter {
  /** The program. */
  readonly spawnfile: string;
  readonly pid?: number;
  killed: boolean;
  readonly stdout: { destroy(): unknown } | null;
  readonly stderr: { destroy(): unknown } | null;
  kill(signal: string): boolean;
  /** Begins the child. Deno does that in the constructor. */
  spawn?(options: SpawnOptions): unknown;
}

interface SpawnOptions {
  readonly detached?: boolean;
}

/** Lets each new child belong to the greenlet that makes it, until the patch is undone. */
export function watchChildren(disposals: Disposals): void {
  /** Children that were made and are not spawned yet. */
  const made = new WeakMap<Child, OwnedChild>();
  listen<{ process: Child }>(disposals, "child_process", ({ process }) => {
    const scope = owningScope();
    if (scope === null || !killsChildren()) return;
    made.set(process, new OwnedChild(process, scope, isExecuted()));
    // Node 20 has no message when a child begins. Node calls this method then.
    if (process.spawn !== undefined) {
      override(process, "spawn", (spawn) => (options) => {
        const result = Reflect.apply(spawn!, process, [options]);
        begin(process, options);
        return result;
      });
    }
  });
  const begin = (process: Child, options: SpawnOptions | undefined) => {
    if (!options?.detached) made.get(process)?.begin();
    made.delete(process);
  };
  listen<{ process: Child; options: SpawnOptions }>(
    disposals,
    "tracing:child_process.spawn:start",
    ({ process, options }) => begin(process, options),
  );
}

/** Whether `exec` or `execFile` makes the child. Only the stack shows that. */
function isExecuted(): boolean {
  return /\bexecFile \((?:ext:deno_node\/|node:)/.test(
    String(new Error().stack),
  );
}

class OwnedChild implements Ending {
  readonly isLeftAlone: boolean;
  readonly #child: Child;
  readonly #scope: Scope;
  #hasExited = false;

  constructor(child: Child, scope: Scope, isExecuted: boolean) {
    this.#child = child;
    this.#scope = scope;
    this.isLeftAlone = !isExecuted;
  }

  get emitter(): object {
    return this.#child;
  }

  begin(): void {
    const operation = new ForeignOperation(this.#scope, this);
    const child = this.#child;
    override(child, "emit", (emit) => (...args: unknown[]) => {
      const [event] = args;
      if (event === "exit") this.#hasExited = true;
      // After `exit`, a process that the child has started may still have its pipes open.
      if (event === "close" || event === "error") operation.over();
      return operation.tell(() => Reflect.apply(emit, child, args));
    });
  }

  describe(): string {
    return `child process ${this.#child.spawnfile}`;
  }

  end(error: unknown): boolean {
    const child = this.#child;
    holdBackEnd(child);
    this.#kill();
    const isHeard = child.listenerCount("error") > 0;
    // The same error as for an aborted signal. `execFile` adds properties to it.
    if (isHeard) child.emit("error", abortError(error));
    return isHeard;
  }

  silence(): void {
    this.#kill();
    mute(this.#child);
  }

  #kill(): void {
    const child = this.#child;
    const kill = (signal: Deno.Signal) => {
      if (!this.#hasExited) {
        // The runtime sends no second signal (2.9.6).
        child.killed = false;
        child.kill(signal);
      }
      if (signal !== "SIGKILL") return;
      // A child of the child may keep them open, and a package may wait for their end.
      child.stdout?.destroy();
      child.stderr?.destroy();
    };
    markEnding(child);
    endChild(
      { pid: child.pid!, kill },
      { grace: PATIENCE, group: false, holds: true },
      (call) => void child.on("close", call),
    );
  }
}
