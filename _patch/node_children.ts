/**
 * Children of `node:child_process`, for the part `node` of `patch()`.
 *
 * - A child of `exec` or `execFile` is ended by every interrupt of its greenlet, as that of
 *   `command.output()` of `Deno` is.
 * - A child of `spawn` or `fork` is ended by a kill of its greenlet. Another interrupt leaves it
 *   alone if the greenlet waits in a call of this library; else it is the child that the
 *   greenlet waits for, and the interrupt ends it.
 * - A greenlet that ends by itself leaves its children alone. No interrupt ends a child that
 *   was spawned with `detached`.
 *
 * The child is ended as by an aborted `signal` of `node:child_process`: it gets SIGTERM, and its
 * `error` event tells of the interrupt at once. A second later it gets SIGKILL, and its pipes
 * are closed.
 *
 * @module
 */

import type { Disposals } from "../_base/disposals.ts";
import { listen } from "./channels.ts";
import {
  abortError,
  type Emitter,
  type Ending,
  ForeignOperation,
  mute,
  override,
  owningScope,
} from "./foreign.ts";
import { GRACE, type Scope } from "../_hub/scope.ts";
import { getOriginal } from "../_base/properties.ts";
import { killsChildren } from "./process.ts";

/**
 * After how long SIGKILL follows, in milliseconds: a little before the grace of the greenlet is
 * over, as a package such as execa waits for the exit whatever is thrown into its wait.
 */
const PATIENCE = GRACE - 100;

/** `child_process.ChildProcess`, as far as it is used here. */
interface Child extends Emitter {
  /** The program. */
  readonly spawnfile: string;
  killed: boolean;
  readonly stdout: { destroy(): unknown } | null;
  readonly stderr: { destroy(): unknown } | null;
  kill(signal: string): boolean;
  once(event: string, listener: () => void): unknown;
}

/** Makes each child belong to the greenlet that makes it, until the stack is disposed of. */
export function watchChildren(disposals: Disposals): void {
  /** The children that are made, and not spawned yet. */
  const made = new WeakMap<Child, OwnedChild>();
  listen<{ process: Child }>(disposals, "child_process", ({ process }) => {
    const scope = owningScope();
    if (scope === null || !killsChildren()) return;
    made.set(process, new OwnedChild(process, scope, isExecuted()));
  });
  listen<{ process: Child; options: { detached?: boolean } }>(
    disposals,
    "tracing:child_process.spawn:start",
    ({ process, options }) => {
      if (!options?.detached) made.get(process)?.begin();
    },
  );
}

/** Whether `exec` or `execFile` makes the child: only the stack tells. */
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

  begin(): void {
    const operation = new ForeignOperation(this.#scope, this);
    const child = this.#child;
    override(child, "emit", (emit) => (...args: unknown[]) => {
      const [event] = args;
      if (event === "exit") this.#hasExited = true;
      // After `exit`, a child of the child may still have its pipes open.
      if (event === "close" || event === "error") operation.over();
      return operation.tell(() => Reflect.apply(emit, child, args));
    });
  }

  describe(): string {
    return `child process ${this.#child.spawnfile}`;
  }

  end(error: unknown): boolean {
    const child = this.#child;
    this.#kill();
    const isHeard = child.listenerCount("error") > 0;
    // As by an aborted signal. The caller of `execFile` adds properties to this error.
    if (isHeard) child.emit("error", abortError(error));
    return isHeard;
  }

  silence(): void {
    this.#kill();
    mute(this.#child);
  }

  #kill(): void {
    const child = this.#child;
    if (!this.#hasExited) child.kill("SIGTERM");
    const timer = getOriginal(globalThis, "setTimeout")(
      () => {
        if (!this.#hasExited) {
          // The runtime sends no second signal (2.9.6).
          child.killed = false;
          child.kill("SIGKILL");
        }
        // A child of the child may keep them open, and a package may wait for their end.
        child.stdout?.destroy();
        child.stderr?.destroy();
      },
      PATIENCE,
    );
    Deno.unrefTimer(timer);
    child.once("close", () => getOriginal(globalThis, "clearTimeout")(timer));
  }
}
