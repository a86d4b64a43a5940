/**
 * The part `process` of `patch()`: child processes.
 *
 * Whether an interrupt ends a child depends on whether other code can reach the child.
 *
 * - No other code can reach the child of `command.output()`: every interrupt ends it.
 * - A spawned child belongs to the greenlet that spawned it: a kill of the greenlet ends it,
 *   whatever the greenlet waits for. A `Timeout` in `await child.status` leaves it alone.
 * - A greenlet that ends by itself leaves its children alone. No kill ends a child that was
 *   spawned with `detached`.
 *
 * @module
 */

import { allOf, bare, noOptions, property, then } from "../_base/language.ts";
import { Begun } from "../_hub/begun.ts";
import {
  type Bytes,
  endChild,
  OutputPipe,
  signalChild,
  statusOf,
  unrefChild,
  whenEnded,
} from "../_hub/child.ts";
import { detached, onFirstInstanceOf } from "./detached.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { GRACE, type Scope } from "../_hub/scope.ts";
import { checkpoint, type Wait } from "../_hub/suspension.ts";
import { getOriginal, mimic } from "../_base/properties.ts";
import { operate, Operation } from "../_hub/operation.ts";
import { cooperateObserved, cooperateRelease } from "./cooperate.ts";
import { OptionsInForce, patchAll, type Patches } from "./patch_set.ts";
import { Greenlet } from "../gevent.ts";

/** Options of the part `process` of `patch()`. */
export interface ProcessOptions {
  /**
   * Whether an interrupt of `command.output()` ends its child, and a kill of a greenlet ends
   * the children that it has spawned. The part `node` asks for it as well.
   *
   * @default {true}
   */
  killChildren?: boolean;
}

type Command = Deno.Command;
type Child = Deno.ChildProcess;
type NewCommand = new (
  command: string | URL,
  options?: Deno.CommandOptions,
) => Command;
type Output = (this: Command) => Promise<Deno.CommandOutput>;
type Spawn = (this: Command) => Child;
type ChildOutput = (this: Child) => Promise<Deno.CommandOutput>;
/** `Deno.spawn` and `Deno.spawnAndWait`, which take the arguments of a command. */
type Run<R> = (
  command: string | URL,
  args?: string[] | Deno.CommandOptions,
  options?: Deno.CommandOptions,
) => R;

/** The current options. */
export const processOptions: OptionsInForce<ProcessOptions> =
  new OptionsInForce();

/** Whether interrupts end children that are made now. */
export function killsChildren(): boolean {
  return processOptions.get("killChildren", true);
}

/** The arguments of each command, which a command does not show. */
const made = new WeakMap<
  Command,
  {
    readonly command: string | URL;
    readonly options: Deno.CommandOptions | null;
  }
>();

/** Patches child processes; disposing of the result restores the originals. */
export function patchProcess(): Disposable {
  return patchAll((patches) => {
    const { prototype } = Deno.Command;
    patches.replace<NewCommand & (() => never)>(Deno, "Command", recorded);
    patches.replace(prototype, "constructor", () => Deno.Command as never);
    patches.replace<Spawn>(
      prototype,
      "spawn",
      (spawn) => owningSpawn(spawn, (child) => patchPipes(patches, child)),
    );
    patches.replace(prototype, "output", cooperativeOutput);
    if ("spawnAndWait" in Deno) {
      patches.replace<Run<Child>>(
        Deno,
        "spawn",
        (original) => byCommand(original, (it) => it.spawn()),
      );
      patches.replace<Run<Promise<Deno.CommandOutput>>>(
        Deno,
        "spawnAndWait",
        (original) => byCommand(original, (it) => it.output()),
      );
    }
    const child = Deno.ChildProcess.prototype;
    patches.replaceGetter<Promise<Deno.CommandStatus>>(
      child,
      "status",
      cooperateObserved,
    );
    patches.replace<ChildOutput>(
      child,
      "output",
      (output) => collector(output, { output: (it) => it }, "output", output),
    );
    patches.replace(child, Symbol.asyncDispose, cooperateRelease);
    // `node:process` adds its signal listeners with it, too.
    patches.replace(Deno, "addSignalListener", detached);
    onFirstInstanceOf(patches, ["ChildProcess"], "spawn", (prototype) => {
      patches.replace(prototype, "emit", detached);
      // The method that opens the pipes
      patches.replace(prototype, "spawn", detached);
    });
  });
}

/** Makes a class that records the arguments of its instances. */
function recorded<C extends NewCommand>(original: C): C {
  const handler: ProxyHandler<C> = bare({
    construct(target, args, newTarget) {
      const instance = Reflect.construct(target, args, newTarget);
      const command = args[0];
      const options = args.length > 1 ? args[1] : undefined;
      made.set(instance, {
        command,
        options: options === undefined ? noOptions() : options,
      });
      return instance;
    },
  });
  return new Proxy(original, handler);
}

function owningSpawn(original: Spawn, onChild: (child: Child) => void): Spawn {
  return function () {
    const child: Child = Reflect.apply(original, this, arguments);
    onChild(child);
    const greenlet = interruptibleScope()?.greenlet;
    const isOwned = killsChildren() && !made.get(this)?.options?.detached;
    if (greenlet instanceof Greenlet && isOwned) own(greenlet, child);
    return child;
  };
}

/** Makes a kill of the greenlet end a child. */
function own(greenlet: Greenlet, child: Child): void {
  const { signal } = greenlet;
  const killed = () => end(child);
  signal.addEventListener("abort", killed, bare({ once: true }));
  const ended = () => signal.removeEventListener("abort", killed);
  whenEnded(child, ended);
}

/** Sends SIGTERM to a child, and SIGKILL if it has not ended after the grace. */
function end(child: Child): void {
  // As long as the body of a greenlet that is killed. The child keeps the process alive,
  // unless the user has unreffed it.
  endChild(
    child,
    { grace: GRACE, group: false, holds: true },
    (call) => whenEnded(child, call),
  );
}

function cooperativeOutput(original: Output): Output {
  return function () {
    const scope = interruptibleScope();
    if (scope === null) return original.call(this);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const known = made.get(this);
    if (!known?.options || isOdd(known.options)) {
      return operate(scope, original.call(this), "output()");
    }
    return run(known.command, known.options, scope);
  };
}

/** Whether the runtime throws its own error for the options. */
function isOdd(options: Deno.CommandOptions): boolean {
  const { stdin, stdout, stderr, signal } = options;
  return stdin === "piped" || stdin === null || stdout === null ||
    stderr === null ||
    signal !== undefined && !(signal instanceof AbortSignal);
}

/**
 * Does what `output()` does, with a child that can be ended. The original returns no handle.
 * The pipes are closed, too, as children of the child may have them open.
 */
function run(
  command: string | URL,
  options: Deno.CommandOptions,
  scope: Scope,
): Wait<Deno.CommandOutput> {
  const { stdin = "null", stdout = "piped", stderr = "piped", signal } =
    options;
  const Command = getOriginal(Deno, "Command");
  const child = getOriginal(Command.prototype, "spawn").call(
    new Command(command, {
      ...options,
      stdin,
      stdout,
      stderr,
      detached: false,
    }),
  );
  // `output()` does this, `spawn()` does not.
  if (signal?.aborted) signalChild(child, "SIGTERM", false);
  const kills = killsChildren();
  const abort = new AbortController();
  const out = stdout === "piped" ? new OutputPipe(child.stdout, abort) : null;
  const err = stderr === "piped" ? new OutputPipe(child.stderr, abort) : null;
  const collected = allOf([statusOf(child), out?.bytes, err?.bytes]);
  const output = then(collected, (results) => {
    const { success, code, signal } = results[0] as Deno.CommandStatus;
    return {
      success,
      code,
      signal,
      get stdout(): Bytes {
        return piped("stdout", results[1] as Bytes | undefined);
      },
      get stderr(): Bytes {
        return piped("stderr", results[2] as Bytes | undefined);
      },
    };
  });
  return operate(scope, output, () => `output of ${command}`, () => {
    out?.forget();
    err?.forget();
    // No other code has a handle to the child: it goes on, and may outlive the process.
    if (!kills) return unrefChild(child);
    end(child);
    abort.abort();
  });
}

function piped(name: string, bytes: Bytes | undefined): Bytes {
  if (bytes !== undefined) return bytes;
  throw new TypeError(`Cannot get '${name}': '${name}' is not piped`);
}

/** Does what the original does. In a greenlet it uses a command whose arguments are recorded. */
function byCommand<R>(original: Run<R>, run: (command: Command) => R): Run<R> {
  return function (this: unknown, command, args, options) {
    const isTwice = Array.isArray(args) && options?.args !== undefined;
    if (interruptibleScope() === null || isTwice) {
      return Reflect.apply(original, this, arguments);
    }
    return run(
      new Deno.Command(
        command,
        Array.isArray(args) ? { ...options, args } : args,
      ),
    );
  };
}

/** Methods that collect the same data, each with the conversion of the data to its result. */
type Forms<T> = { readonly [name: string]: (collected: T) => unknown };

/** The methods that collect the bytes of a child's pipe. */
const formsOfBytes: Forms<Bytes> = {
  arrayBuffer: (bytes) => bytes.buffer,
  bytes: (bytes) => bytes,
  json: (bytes) => JSON.parse(decode(bytes)),
  text: decode,
};

function decode(bytes: Bytes): string {
  return new TextDecoder().decode(bytes);
}

function patchPipes(patches: Patches, child: Child): void {
  (["stdout", "stderr"] as const).forEach((name) => {
    let pipe: Child["stdout"];
    try {
      pipe = child[name];
    } catch {
      return; // This stream is not piped.
    }
    patches.onFirstInstance(pipe, "bytes", (prototype) => {
      const bytes = getOriginal(prototype as typeof pipe, "bytes");
      Object.keys(formsOfBytes).forEach((form) => {
        patches.replace<typeof bytes>(
          prototype,
          form,
          (original) => collector(original, formsOfBytes, form, bytes),
        );
      });
    });
  });
}

// deno-lint-ignore no-explicit-any -- of children and of pipes
type Collect<T> = (this: any) => Promise<T>;

/**
 * Makes a method cooperative that collects all data, which can be done only once. After an
 * interrupt it goes on, and the next call of such a method gets the data.
 *
 * @param original The method.
 * @param forms All methods that collect the same data.
 * @param form The name of this method.
 * @param collect Collects the data.
 */
function collector<T, R>(
  original: Collect<R>,
  forms: Forms<T>,
  form: string,
  collect: Collect<T>,
): Collect<R> {
  return function () {
    const scope = interruptibleScope();
    if (scope === null) return original.call(this);
    const due = checkpoint(scope);
    if (due !== null) return due;
    const begun = new Begun();
    const collected = begun.watch<Promise<T>>(() => collect.call(this));
    const all = { owner: this, forms, collected, begun };
    return collecting(all, form, scope) as Wait<R>;
  };
}

/** Data that is collected once. */
interface Collection<T> {
  readonly owner: object;
  /** All methods that collect it. */
  readonly forms: Forms<T>;
  readonly collected: Promise<T>;
  /** The operation, which keeps the process alive while a call waits. */
  readonly begun: Begun;
}

function collecting<T>(
  collection: Collection<T>,
  form: string,
  scope: Scope,
): Wait<unknown> {
  const { forms, collected } = collection;
  const cancel = () => leave(collection);
  return new Collecting(`${form}()`, cancel, forms[form]!)
    .follow(collected).suspend(scope);
}

/** A wait for collected data. An interrupt leaves the data to the next call. */
class Collecting<T> extends Operation<T> {
  readonly #form: (collected: T) => unknown;

  constructor(
    text: string,
    cancel: () => void,
    form: (collected: T) => unknown,
  ) {
    super(text, cancel);
    this.#form = form;
  }

  override fulfilled(collected: unknown): void {
    try {
      this.switch(this.#form(collected as T) as T);
    } catch (error) {
      this.throw(error);
    }
  }
}

/** Makes the next call return the data of an interrupted one, even after the patch has ended. */
function leave<T>(collection: Collection<T>): void {
  const { owner, forms, collected, begun } = collection;
  begun.unref();
  Object.keys(forms).forEach((form) => {
    const original = getOriginal(owner as Record<string, () => unknown>, form);
    const value = mimic(() => {
      const scope = interruptibleScope();
      const due = checkpoint(scope);
      if (due !== null) return due;
      Object.keys(forms).forEach((name) => Reflect.deleteProperty(owner, name));
      begun.ref();
      if (scope === null) return then(collected, forms[form]);
      return collecting(collection, form, scope);
    }, original);
    Object.defineProperty(
      owner,
      form,
      property({ value, writable: true, configurable: true }),
    );
  });
}
