/**
 * The part `fs` of `patch()`: files.
 *
 * @module
 */

import { argumentAt, markHandled, then } from "../_base/language.ts";
import { callerOf, findSymbol } from "../_base/runtime.ts";
import { detached, onFirstInstanceOf } from "./detached.ts";
import { interruptibleScope, runDetached } from "../_hub/current.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint } from "../_hub/suspension.ts";
import type { Wait } from "../_hub/suspension.ts";
import { patchFiles } from "./files.ts";
import { getOriginal, mimic } from "../_base/properties.ts";
import { QueuedWait } from "../_hub/wait_queue.ts";
import { leaveBy, operateStep } from "./leaving.ts";
import { cooperate, cooperateBySignal, cooperateLoosely } from "./cooperate.ts";
import { patchAll, type Patches } from "./patch_set.ts";
import { Inbox, Inboxes } from "../_hub/inbox.ts";

/** Functions that go on after an interrupt, and leave nothing to clean up. */
const GO_ON = [
  "chmod",
  "chown",
  "link",
  "lstat",
  "mkdir",
  "readLink",
  "realPath",
  "remove",
  "rename",
  "stat",
  "symlink",
  "utime",
];

/** The same, for functions that open a file: if it is a pipe, they may wait for ever. */
const OPENING = ["copyFile", "truncate"];

/** Patches files; disposing of the result restores the originals. */
export function patchFs(): Disposable {
  return patchAll((patches) => {
    onFirstInstanceOf(
      patches,
      ["FSWatcher", "StatWatcher"],
      "unref",
      (watcher) => {
        patches.replace(watcher, "emit", detached);
      },
    );
    for (const name of GO_ON) {
      patches.replace(Deno, name, (original) => cooperate(original));
    }
    for (const name of OPENING) {
      patches.replace(Deno, name, (original) => cooperateLoosely(original));
    }
    for (const name of ["open", "create"]) {
      patches.replace<typeof Deno.create>(
        Deno,
        name,
        (original) => cooperateLoosely(original, (file) => file.close()),
      );
    }
    for (const name of ["makeTempDir", "makeTempFile"]) {
      patches.replace<typeof Deno.makeTempDir>(
        Deno,
        name,
        (original) => cooperate(original, removeQuietly),
      );
    }
    for (const name of ["readFile", "readTextFile"]) {
      patches.replace<Whole>(Deno, name, (read) => cooperativeWhole(read, 1));
    }
    for (const name of ["writeFile", "writeTextFile"]) {
      patches.replace<Whole>(Deno, name, (write) => cooperativeWhole(write, 2));
    }
    patches.replace<typeof Deno.readDir>(Deno, "readDir", cooperativeReadDir);
    patches.replace<typeof Deno.watchFs>(
      Deno,
      "watchFs",
      (watchFs) =>
        function (this: unknown) {
          const watcher = Reflect.apply(watchFs, this, arguments as never);
          patches.onFirstInstance(watcher, "next", (it) =>
            patchWatcher(patches, it));
          if (isAskedByListeners()) {
            listenedTo.add(watcher);
          }
          return watcher;
        },
    );
    patchFiles(patches);
    patches.beforeRestore(() => inboxes.stayPatched());
  });
}

/** Removes a file or directory at once: its caller was interrupted and does not know its path. */
function removeQuietly(path: string): void {
  try {
    getOriginal(Deno, "removeSync")(path);
  } catch {
    // The program may have no permission to remove it.
  }
}

/** A function that reads or writes a whole file. */
type Whole = (this: unknown, ...args: unknown[]) => Promise<unknown>;

/** Makes a function cooperative that a `signal` among its options cancels. */
function cooperativeWhole(original: Whole, at: number): Whole {
  const bySignal = cooperateBySignal(cancellable(original, at), at);
  const goingOn = cooperate(original);
  return function (...args) {
    if (interruptibleScope() === null) return original.apply(this, args);
    // The runtime throws its own error for `null` as options.
    const isOdd = argumentAt(args, at) === null;
    return (isOdd ? goingOn : bySignal).apply(this, args);
  };
}

/**
 * Makes a call close the resource by which it can be cancelled. The runtime does not close it
 * when it writes a stream, or when the call fails before it begins, as without a permission.
 */
function cancellable(original: Whole, at: number): Whole {
  return mimic(function (this: unknown, ...args: unknown[]) {
    const { signal } = args[at] as { signal: unknown };
    let close = () => {};
    if (signal instanceof AbortSignal) {
      hear(signal, (algorithm) => {
        close = algorithm;
      });
    }
    // The runtime reads the stream that it writes, so only this call may interrupt it.
    const promise = runDetached(() => original.apply(this, args));
    then(promise, () => close(), () => close());
    return promise;
  }, original);
}

/** Calls `tell` with the first abort algorithm that the runtime adds to our signal. */
function hear(signal: AbortSignal, tell: (algorithm: () => void) => void) {
  const add = findSymbol(AbortSignal.prototype, "[[add]]");
  if (add === undefined) return;
  const ours = signal as unknown as Record<symbol, unknown>;
  ours[add] = (algorithm: () => void) => {
    delete ours[add];
    tell(algorithm);
    (ours[add] as typeof tell)(algorithm as never);
  };
}

function cooperativeReadDir(original: typeof Deno.readDir) {
  return function (this: unknown): AsyncIterable<Deno.DirEntry> {
    const entries = Reflect.apply(original, this, arguments as never);
    const iterate = entries[Symbol.asyncIterator];
    entries[Symbol.asyncIterator] = mimic(function () {
      const iterator = iterate.call(entries);
      iterator.next = cooperativeNextEntry(iterator);
      return iterator;
    }, iterate);
    return entries;
  };
}

type Entries = AsyncIterator<Deno.DirEntry>;

function cooperativeNextEntry(iterator: Entries): Entries["next"] {
  const { next } = iterator;
  // If `next` throws, the loop does not call `return`, and the directory would stay open.
  const leave = () => {
    const closing = iterator.return!();
    markHandled(closing);
    return closing;
  };
  return mimic(function () {
    const scope = interruptibleScope();
    if (scope === null) return next.call(iterator);
    const due = checkpoint(scope);
    return due === null
      ? operateStep(scope, next.call(iterator), "the next of readDir()", leave)
      : leaveBy(due, scope, leave);
  }, next);
}

type Next = (this: Deno.FsWatcher) => Promise<IteratorResult<Deno.FsEvent>>;
// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Close = (this: Deno.FsWatcher, ...args: any[]) => any;
/** A watcher with the methods that the runtime's types leave out. */
type Watcher = Deno.FsWatcher & {
  return(value?: unknown): Promise<IteratorResult<Deno.FsEvent>>;
  ref(): void;
  unref(): void;
};
type Iterate = (this: Deno.FsWatcher) => AsyncIterableIterator<Deno.FsEvent>;

const inboxes = new Inboxes();
const eventsOf = new WeakMap<Deno.FsWatcher, Events>();
/** The watchers of `node:fs`, whose events go to listeners. They outlive their creators. */
const listenedTo = new WeakSet<Deno.FsWatcher>();

/** Whether the caller is `watch` of `node:fs`, whose events go to listeners. */
function isAskedByListeners(): boolean {
  if (interruptibleScope() === null) return false;
  // Only the stack tells. Above us are the patched function and its caller.
  return /\bwatch \(ext:deno_node\//.test(callerOf(2));
}

/** Returns the scope that waits for an event; `null` if a listener gets it. */
function scopeFor(watcher: Deno.FsWatcher): Scope | null {
  return listenedTo.has(watcher) ? null : interruptibleScope();
}

/** A wait in `next` of a watcher. */
class Watching extends QueuedWait<Watching, IteratorResult<Deno.FsEvent>> {
  readonly #left: () => void;

  protected override get call(): string {
    return "the next event";
  }

  constructor(left: () => void) {
    super();
    this.#left = left;
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    this.#left();
  }
}

/** The events of a watcher, in order, and the waits for them. */
class Events extends Inbox<
  IteratorResult<Deno.FsEvent>,
  Watching,
  IteratorResult<Deno.FsEvent>
> {
  readonly #watcher: Deno.FsWatcher;
  readonly #next: Next;
  readonly #kept: IteratorResult<Deno.FsEvent>[] = [];

  constructor(watcher: Deno.FsWatcher, next: Next) {
    super(inboxes);
    this.#watcher = watcher;
    this.#next = next;
  }

  /** Waits for the next event. A watcher without waits does not keep the process alive. */
  next(
    scope: Scope | null,
    left: () => void,
  ): Wait<IteratorResult<Deno.FsEvent>> {
    if (this.state === "orphaned") (this.#watcher as Watcher).ref();
    const taker = new Watching(() => {
      if (this.state === "orphaned") (this.#watcher as Watcher).unref();
      left();
    });
    return this.take(taker, scope);
  }

  protected override get hasResult(): boolean {
    return this.#kept.length > 0;
  }

  protected override get owner(): object {
    return this.#watcher;
  }

  protected override get patchedNames(): readonly PropertyKey[] {
    return PATCHED_NAMES;
  }

  protected override begin(): Promise<IteratorResult<Deno.FsEvent>> {
    return this.#next.call(this.#watcher);
  }

  protected override keep(result: IteratorResult<Deno.FsEvent>): void {
    this.#kept.push(result);
  }

  protected override give(watching: Watching): void {
    watching.switch(this.#kept.shift()!);
  }

  protected override discard(): void {
    this.#kept.length = 0;
  }
}

/** The methods of a watcher that stay patched while an event is awaited or kept. */
const PATCHED_NAMES = [
  "next",
  "return",
  "close",
  Symbol.dispose,
  Symbol.asyncIterator,
];

function patchWatcher(patches: Patches, prototype: object): void {
  let original: Next;
  patches.replace<Next>(prototype, "next", (next) => {
    original = next;
    return function () {
      return nextEvent(this, next, () => {});
    };
  });
  patches.replace<Iterate>(
    prototype,
    Symbol.asyncIterator,
    (iterate) =>
      function () {
        const scope = scopeFor(this);
        return scope === null
          ? iterate.call(this)
          : loop(this, original, scope);
      },
  );
  ["return", "close", Symbol.dispose].forEach((name) => {
    patches.replace<Close>(prototype, name, (close) =>
      function (...args) {
        eventsOf.get(this)?.close();
        return close.apply(this, args);
      });
  });
}

function nextEvent(
  watcher: Deno.FsWatcher,
  original: Next,
  left: () => void,
): Promise<IteratorResult<Deno.FsEvent>> {
  const scope = scopeFor(watcher);
  let events = eventsOf.get(watcher);
  const asBefore = scope === null && (events === undefined || events.isEmpty);
  const isOdd = typeof watcher !== "object" || watcher === null;
  if (asBefore || isOdd) return original.call(watcher);
  const due = checkpoint(scope);
  if (due !== null) {
    left();
    return due;
  }
  if (events === undefined) {
    eventsOf.set(watcher, events = new Events(watcher, original));
  }
  return events.next(scope, left);
}

/**
 * Makes the iterator of a `for await` loop over a watcher. An interrupt in its `next` closes the
 * watcher, as leaving the loop elsewhere does. A call of `next` in a `withTimeout` of its own
 * does not come from a loop, and may be repeated.
 */
function loop(
  watcher: Deno.FsWatcher,
  next: Next,
  scope: Scope,
): AsyncIterableIterator<Deno.FsEvent> {
  const leave = () => void (watcher as Watcher).return();
  return {
    next: () =>
      nextEvent(
        watcher,
        next,
        interruptibleScope() === scope ? leave : () => {},
      ),
    return: (value?: unknown) => (watcher as Watcher).return(value),
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
