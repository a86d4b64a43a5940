/**
 * `once` and `on` of `node:events`, for the part `node` of `patch()`.
 *
 * The module's default export is the class `EventEmitter`, so both functions are replaced as
 * properties of it. A module that imports `once` by name has the original. That one adds two
 * listeners to the emitter; an interrupt calls its listener for errors, as the emitter would. It
 * first adds the listener for the event.
 *
 * @module
 */

import { EventEmitter } from "node:events";
import { argumentAt, noOptions } from "../_base/language.ts";
import { holdBackEnd, isEndLeftAlone } from "./child_ends.ts";
import { callerOf } from "../_base/runtime.ts";
import { addSignal } from "../_hub/cancelling.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import { Operation } from "../_hub/operation.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { classOf } from "../_hub/waits.ts";
import { type Ending, ForeignOperation, tolerateErrors } from "./foreign.ts";
import { leavable } from "./leaving.ts";
import type { Patches } from "./patch_set.ts";

type Listener = (...args: unknown[]) => void;
type Listen = (
  this: EventEmitter,
  event: string | symbol,
  listener: Listener,
) => EventEmitter;
type Once = typeof EventEmitter.once;
type On = typeof EventEmitter.on;

/** Patches both functions. */
export function patchEvents(patches: Patches): void {
  patches.replace<Once>(EventEmitter, "once", cooperativeOnce);
  patches.replace<On>(EventEmitter, "on", (on) =>
    function (this: unknown) {
      const events: ReturnType<On> = Reflect.apply(
        on,
        this,
        arguments as never,
      );
      return leavable(events, {
        text: nameOf("on", arguments[0], arguments[1]),
        listens: true,
      });
    } as On);
  const { prototype } = EventEmitter;
  patches.replace<Listen>(
    prototype,
    "once",
    (once) =>
      function (this: EventEmitter, event, listener) {
        const emitter = Reflect.apply(once, this, arguments as never);
        if (listener?.name === EVENT_LISTENER) {
          awaited.set(this, event);
        } else if (event === "error" && listener?.name === ERROR_LISTENER) {
          const event = awaited.get(this);
          awaited.delete(this);
          if (isLeftAlone(this, event)) return emitter;
          // Called here, and not in a function: `callerOf` counts the frames of the stack.
          const scope = interruptibleScope();
          if (scope !== null && EVENTS.test(callerOf(1))) {
            own(this, listener, scope, event);
          }
        }
        return emitter;
      },
  );
  patches.replace<Listen>(
    prototype,
    "removeListener",
    (remove) =>
      function (this: EventEmitter, event, listener) {
        if (event === "error" && typeof listener === "function") {
          waits.get((listener as Wrapped).listener ?? listener)?.over();
        }
        return Reflect.apply(remove, this, arguments as never);
      },
  );
}

function cooperativeOnce(original: Once): Once {
  return function (this: unknown) {
    const scope = interruptibleScope();
    const args = arguments as unknown as Parameters<Once>;
    const [emitter, name] = [argumentAt(args, 0), argumentAt(args, 1)];
    if (scope === null || isLeftAlone(emitter, name)) {
      return runDetached(() => Reflect.apply(original, this, args));
    }
    const due = checkpoint(scope);
    if (due !== null) {
      beforeInterrupt(emitter, name);
      return due;
    }
    const abort = new AbortController();
    const options = argumentAt(args, 2);
    const given = addSignal(
      options === undefined ? noOptions() : options,
      abort.signal,
    );
    // Detached: inside, the patched methods of the emitter would make a second wait.
    const event = runDetached(() =>
      Reflect.apply(original, this, [args[0], args[1], given] as never)
    );
    const text = nameOf("once", args[0], args[1]);
    return new OnceWait(abort, text, args[0], args[1]).follow(event).suspend(
      scope,
    );
  } as Once;
}

/** The wait of `once`. An interrupt aborts its signal; if the event came before, it is kept. */
class OnceWait extends Operation<unknown[]> {
  readonly #abort: AbortController;
  /** The interrupt that has aborted the signal. */
  #interrupt: { readonly error: unknown } | null = null;

  constructor(
    abort: AbortController,
    text: () => string,
    readonly emitter: object,
    readonly event: unknown,
  ) {
    super(text, (error) => runDetached(() => abort.abort(error)));
    this.#abort = abort;
  }

  get listens(): boolean {
    return true;
  }

  override interrupt(error: unknown, final: boolean): void {
    if (!this.isPending) return;
    beforeInterrupt(this.emitter, this.event);
    if (final) return super.interrupt(error, final);
    if (this.#interrupt !== null) return this.scope!.hold(error);
    this.#interrupt = { error };
    this.markOwnHandled();
    runDetached(() => this.#abort.abort(error));
  }

  override unhold(error: unknown): void {
    if (this.#interrupt?.error === error) this.#interrupt = null;
  }

  override fulfilled(value: unknown): void {
    const { scope } = this;
    super.fulfilled(value);
    if (this.#interrupt !== null) scope?.hold(this.#interrupt.error);
  }

  override rejected(error: unknown): void {
    super.rejected(this.#interrupt === null ? error : this.#interrupt.error);
  }
}

/** The event for which `once` of `node:events` has just begun to wait. */
const awaited = new WeakMap<EventEmitter, string | symbol>();

/**
 * Whether a wait is left alone. If the event's name is a symbol, only the package that has made the
 * symbol knows of the event, and the wait is a part of something larger: execa would never settle
 * its promise if the wait failed.
 */
function isLeftAlone(emitter: unknown, event: unknown): boolean {
  return typeof event === "symbol" || isEndLeftAlone(emitter, event);
}

/** The events by which emitters tell that they have begun. */
const BEGINNINGS: ReadonlySet<unknown> = new Set([
  "connect",
  "listening",
  "open",
  "ready",
  "secureConnect",
  "spawn",
]);

/** Emitters whose errors are tolerated. */
const tolerated = new WeakSet<object>();

/**
 * Prepares an emitter for the interrupt of a wait. A package that waits for a socket to connect
 * takes a failed wait for the end of the socket, and adds no listener for errors: a later one,
 * such as that of a time limit, must not end the process.
 */
function beforeInterrupt(emitter: unknown, event: unknown): void {
  holdBackEnd(emitter);
  const isBeginning = BEGINNINGS.has(event) &&
    emitter instanceof EventEmitter && !tolerated.has(emitter);
  if (!isBeginning) return;
  tolerated.add(emitter);
  tolerateErrors(emitter);
}

/** The name of the listener for errors in `once` of `node:events`. */
const ERROR_LISTENER = "errorListener";
/** The name of the listener for the event in `once` of `node:events`. */
const EVENT_LISTENER = "resolver";

/** Matches the module of `once` in a stack. */
const EVENTS = /\b(?:ext:deno_node\/_events\.mjs|node:events):/;

/** The function with which an emitter calls a listener once. */
type Wrapped = Listener & { readonly listener?: Listener };

/** The waits of `once`, by their listeners for errors. */
const waits = new WeakMap<Listener, ForeignOperation>();

function own(
  emitter: EventEmitter,
  listener: Listener,
  scope: Scope,
  event: unknown,
): void {
  waits.set(
    listener,
    new ForeignOperation(scope, new OnceByName(emitter, listener, event)),
  );
}

/** A call of the original `once`, imported by name. */
class OnceByName implements Ending {
  readonly #emitter: EventEmitter;
  readonly #fail: Listener;
  readonly #event: unknown;

  constructor(emitter: EventEmitter, fail: Listener, event: unknown) {
    this.#emitter = emitter;
    this.#fail = fail;
    this.#event = event;
  }

  describe(): string {
    return nameOf("once", this.#emitter, this.#event)();
  }

  get emitter(): object {
    return this.#emitter;
  }

  get listens(): boolean {
    return true;
  }

  end(error: unknown): boolean {
    beforeInterrupt(this.#emitter, this.#event);
    this.#emitter.removeListener("error", this.#fail);
    this.#fail(error);
    return true;
  }

  silence(): void {
    beforeInterrupt(this.#emitter, this.#event);
    this.#emitter.removeListener("error", this.#fail);
    const found = this.#find();
    if (found === null) return;
    this.#emitter.removeListener(found.event, found.listener);
  }

  /** Finds the listener for the event, unless several listeners could be it. */
  #find(): { event: string | symbol; listener: Listener } | null {
    const emitter = this.#emitter;
    const all = emitter.eventNames().flatMap((event) =>
      emitter.listeners(event).map((listener) => ({
        event,
        listener: listener as Listener,
      }))
    ).filter(({ listener }) => listener.name === EVENT_LISTENER);
    return all.length === 1 ? all[0]! : null;
  }
}

/** Describes a call on request, such as `once("close") of ChildProcess`. */
function nameOf(call: string, emitter: unknown, event: unknown): () => string {
  return () => {
    const name = event === undefined
      ? ""
      : typeof event === "symbol"
      ? String(event)
      : JSON.stringify(event);
    return `${call}(${name}) of ${classOf(emitter as object)}`;
  };
}
