/**
 * Functions of Node's modules that wait for the runtime, for the part `node` of `patch()`: those of
 * `node:fs/promises`, `node:dns/promises`, `node:readline/promises`, the methods of a
 * `FileHandle` and of `crypto.subtle`, and what `util.promisify` has made of a function of
 * `node:fs`, `node:dns`, `node:crypto` or `node:zlib`.
 *
 * The runtime can't cancel most of these operations. An interrupted operation goes on, and its
 * result is dropped; a file or directory that it opens is closed.
 *
 * @module
 */

import { markHandled, property, then } from "../_base/language.ts";
import { getBuiltin } from "../_base/builtin.ts";
import { callerOf, findShared } from "../_base/runtime.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { cooperate, cooperateBySignal, cooperateLoosely } from "./cooperate.ts";
import { detached, onEmitter } from "./detached.ts";
import { type Ending, ForeignOperation, override } from "./foreign.ts";
import { leavable } from "./leaving.ts";
import { isHandle, patchHandleReads, takesBytes } from "./node_handles.ts";
import { mimic } from "../_base/properties.ts";
import type { Patches } from "./patch_set.ts";
import type { Scope } from "../_hub/scope.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { classOf } from "../_hub/waits.ts";

type Asking = (this: unknown, ...args: unknown[]) => Promise<unknown>;
type Method = (this: unknown, ...args: unknown[]) => unknown;
type Callback = (error: unknown, ...results: unknown[]) => void;

/**
 * Whether the program may have loaded the patched modules before `patch()`. Each of them loads
 * `node:process`, which leaves a trace in the object that the runtime's modules share. Loading
 * the modules in every `patch()` would cost 20 ms.
 */
export function areModulesLoaded(): boolean {
  const shared = findShared();
  return shared.core === undefined || "__bootstrapNodeProcess" in shared;
}

/**
 * Patches the modules that are loaded now, and each other one when its first object is made.
 */
export function patchNodePromises(patches: Patches, areLoaded: boolean): void {
  const { SubtleCrypto } = globalThis;
  if (SubtleCrypto !== undefined) patchMethods(patches, SubtleCrypto.prototype);
  const files = once(() => patchFiles(patches));
  const lines = once(() => patchLines(patches));
  if (areLoaded) {
    files();
    patchNames(patches);
    patchCrypto(patches);
  }
  onEmitter(patches, (emitter) => {
    if ("readableWebStream" in emitter) {
      files();
      patches.onFirstInstance(
        emitter,
        "readableWebStream",
        (prototype) => patchHandles(patches, prototype),
      );
    } else if ("question" in emitter) lines();
    else if ("_processChunk" in emitter) ownEngine(emitter);
  });
}

function once(call: () => void): () => void {
  let isCalled = false;
  return () => {
    if (isCalled) return;
    isCalled = true;
    call();
  };
}

/** Makes all methods of a prototype cooperative. Each must return a promise. */
function patchMethods(patches: Patches, prototype: object): void {
  Object.getOwnPropertyNames(prototype).forEach((name) => {
    if (name === "constructor") return;
    patches.replaceIfAllowed<Asking>(
      prototype,
      name,
      (method) => cooperate(method),
    );
  });
}

/** Replaces a function. A module may copy the replacement and keep it for good. */
function replaceCopied(
  patches: Patches,
  object: object,
  name: string,
  wrap: (original: Asking) => Asking,
): void {
  patches.replaceIfAllowed<Asking>(object, name, (original) => {
    const cooperative = wrap(original);
    return function () {
      const chosen = patches.isOver ? original : cooperative;
      return Reflect.apply(chosen, this, arguments as never);
    };
  });
}

// Files

/** Functions of files that leave nothing to clean up. */
const ON_PATHS = [
  "access",
  "chmod",
  "chown",
  "cp",
  "lchmod",
  "lchown",
  "link",
  "lstat",
  "lutimes",
  "mkdir",
  "readdir",
  "readlink",
  "realpath",
  "rename",
  "rm",
  "rmdir",
  "stat",
  "statfs",
  "symlink",
  "unlink",
  "utimes",
];

/** Functions that open a file. If it is a pipe, they may wait for ever. */
const OPENING = ["copyFile", "truncate"];

/** Functions of `node:fs` with a callback that take the number of an open file. */
const ON_NUMBERS = [
  "fchmod",
  "fchown",
  "fdatasync",
  "fstat",
  "fsync",
  "ftruncate",
  "futimes",
  "read",
  "readv",
  "write",
  "writev",
];

/** Disposes of a result that an interrupted caller does not get. */
type Discard = (result: never) => unknown;

/** Functions whose results would leave something behind, and how to dispose of a result. */
const DISCARDS: Record<string, Discard> = {
  open: (file: Closable) => file.close(),
  opendir: (directory: Closable) => directory.close(),
  mkdtemp: (path: string) => getBuiltin("node:fs").rmdirSync(path),
  mkdtempDisposable: (made: { remove(): unknown }) => made.remove(),
};

interface Closable {
  close(): unknown;
}

/** The functions of whole files, and the index of their options. */
const WHOLE: Record<string, number> = {
  readFile: 1,
  writeFile: 2,
  appendFile: 2,
};

function patchFiles(patches: Patches): void {
  const fs = getBuiltin("node:fs");
  // The same object as `node:fs/promises`, whose names are bound when that module is loaded.
  const { promises } = fs;
  const replace = (name: string, wrap: (original: Asking) => Asking) =>
    replaceCopied(patches, promises, name, wrap);
  ON_PATHS.forEach((name) =>
    replace(name, (original) => cooperate(named(name, original)))
  );
  OPENING.forEach((name) =>
    replace(name, (original) => cooperateLoosely(named(name, original)))
  );
  Object.keys(DISCARDS).forEach((name) => {
    const discard = quietly(DISCARDS[name]!);
    replace(
      name,
      (original) => cooperateLoosely(named(name, original), discard),
    );
  });
  Object.keys(WHOLE).forEach((name) => {
    const at = WHOLE[name]!;
    replace(name, (original) => cooperativeWhole(named(name, original), at));
  });
  patchGlob(patches, promises.glob);
  const discards: Record<string, Discard> = {
    ...DISCARDS,
    open: (file: number) => fs.closeSync(file),
  };
  ON_PATHS.concat(
    OPENING,
    ON_NUMBERS,
    Object.keys(discards),
    Object.keys(WHOLE),
  )
    .forEach((name) => patchCallback(patches, fs, name, discards[name]));
}

/**
 * Makes loops over `glob()` cooperative, also where it was imported by name: all of its generators
 * inherit from one object. They run outside greenlets, as they take an error for a missing file.
 */
function patchGlob(
  patches: Patches,
  glob: (patterns: string[]) => object,
): void {
  // In Node, a call prints a warning.
  if (findShared().core === undefined) return;
  // Without patterns, as for one it would load a module that needs a permission.
  const generators = Object.getPrototypeOf(glob([]));
  patches.replaceIfAllowed<Asking>(
    generators,
    "next",
    (next) =>
      function (this: AsyncGenerator<unknown>) {
        if (interruptibleScope() === null) {
          return Reflect.apply(next, this, arguments as never);
        }
        override(this, "next", () => detached(next));
        return leavable(this, { text: "for await of glob()" }).next();
      } as Asking,
  );
}

/** Calls `discard` with a result, and ignores its errors. */
function quietly(discard: Discard): (result: unknown) => void {
  return (result) => {
    try {
      markHandled(Promise.resolve(discard(result as never)));
    } catch {
      // The file or directory does not exist any more.
    }
  };
}

/** Gives a function a name for descriptions: many functions of the module have none. */
function named(name: string, original: Asking): Asking {
  const call: Asking = function () {
    return Reflect.apply(original, this, arguments as never);
  };
  Object.defineProperty(call, "name", property({ value: name }));
  return call;
}

/** Makes a function that reads or writes a whole file cooperative. An interrupt aborts it. */
function cooperativeWhole(original: Asking, at: number): Asking {
  // Detached: the function calls methods of a file, which are patched as well.
  const bySignal = cooperateBySignal(mimic(detached(original), original), at);
  return function (...args) {
    const [file] = args;
    if (original.name === "readFile" && isHandle(file)) {
      return file.readFile(args[1]);
    }
    if (interruptibleScope() === null) {
      return Reflect.apply(original, this, args);
    }
    const options = args[at];
    if (typeof options === "string") args[at] = { encoding: options };
    return Reflect.apply(bySignal, this, args);
  };
}

/** The methods of a `FileHandle` that wait and read nothing. */
const OF_HANDLES = [
  "appendFile",
  "chmod",
  "chown",
  "datasync",
  "stat",
  "sync",
  "truncate",
  "utimes",
  "write",
  "writeFile",
  "writev",
];

function patchHandles(patches: Patches, prototype: object): void {
  OF_HANDLES.forEach((name) =>
    patches.replaceIfAllowed<Asking>(
      prototype,
      name,
      (method) => cooperate(method),
    )
  );
  patchHandleReads(patches, prototype);
}

// Names

/** The functions of `node:dns`. Some of them are also methods of a resolver. */
const NAMES = [
  "lookup",
  "lookupService",
  "resolve",
  "resolve4",
  "resolve6",
  "resolveAny",
  "resolveCaa",
  "resolveCname",
  "resolveMx",
  "resolveNaptr",
  "resolveNs",
  "resolvePtr",
  "resolveSoa",
  "resolveSrv",
  "resolveTlsa",
  "resolveTxt",
  "reverse",
];

function patchNames(patches: Patches): void {
  const dns = getBuiltin("node:dns");
  const { promises } = dns;
  for (const name of NAMES) {
    for (const object of [promises, promises.Resolver.prototype]) {
      replaceCopied(
        patches,
        object,
        name,
        (original) => cooperate(named(name, original)),
      );
    }
    patchCallback(patches, dns, name);
  }
}

// Crypto

const OF_CRYPTO = [
  "checkPrime",
  "generateKey",
  "generateKeyPair",
  "generatePrime",
  "hkdf",
  "pbkdf2",
  "randomBytes",
  "randomFill",
  "randomInt",
  "scrypt",
  "sign",
  "verify",
];

function patchCrypto(patches: Patches): void {
  const crypto = getBuiltin("node:crypto");
  for (const name of OF_CRYPTO) patchCallback(patches, crypto, name);
}

// Lines

function patchLines(patches: Patches): void {
  patchQuestion(patches);
  // The loop over an interface is one over `events.on()`.
  patches.replaceIfAllowed<Asking>(
    getBuiltin("node:readline/promises").Interface.prototype,
    "question",
    (question) => cooperateBySignal(question, 1),
  );
}

/** Makes what `util.promisify` gives for `question()` cooperative. */
function patchQuestion(patches: Patches): void {
  const { prototype } = getBuiltin("node:readline").Interface;
  patches.replaceIfAllowed<Method>(prototype, "question", (question) => {
    const same: Method = function () {
      return Reflect.apply(question, this, arguments as never);
    };
    return withCustom(
      same,
      question,
      (promisified) => cooperateBySignal(named("question", promisified), 1),
    );
  });
}

// Functions with callbacks

/** Matches the module of the functions that `util.promisify` makes, in a stack. */
const PROMISIFY =
  /\b(?:ext:deno_node\/internal\/util\.mjs|node:internal\/util):/;

/**
 * Makes a function with a callback cooperative, but only for calls by `util.promisify`: an
 * interrupt passes an error to the callback, and other callbacks may not expect that.
 */
function patchCallback(
  patches: Patches,
  module: object,
  name: string,
  discard?: Discard,
): void {
  patches.replaceIfAllowed<Method>(module, name, (original) => {
    const replacement: Method = function (...args) {
      const callback = args.at(-1);
      const scope = interruptibleScope();
      if (
        scope === null || typeof callback !== "function" ||
        patches.isOver || !PROMISIFY.test(callerOf(1))
      ) return Reflect.apply(original, this, args);
      const due = checkpoint(scope);
      if (due !== null) {
        return then(due, undefined, (error) => callback(error));
      }
      const [file, options] = args;
      if (name === "readFile" && isHandle(file)) {
        const text = file.readFile(options === callback ? null : options);
        return then(text, (text) => callback(null, text), callback as Callback);
      }
      if (takesBytes(name, args)) return Reflect.apply(original, this, args);
      const wait = new CallbackWait(
        `${name}()`,
        callback as Callback,
        discard === undefined ? null : quietly(discard),
      );
      wait.begin(scope);
      args[args.length - 1] = wait.callback;
      try {
        return Reflect.apply(original, this, args);
      } catch (error) {
        wait.drop();
        throw error;
      }
    };
    return withCustom(
      replacement,
      original,
      (own) => cooperate(named(name, own)),
    );
  });
}

/** Gives a function the promisified form of the original, if that is a special one. */
function withCustom(
  replacement: Method,
  original: Method,
  wrap: (promisified: Asking) => Asking,
): Method {
  const own = Object.getOwnPropertyDescriptor(original, CUSTOM);
  if (typeof own?.value === "function") {
    const value = mimic(wrap(own.value), own.value);
    // For good: else it would get that of the original.
    const descriptor = { ...own, value, configurable: false };
    Object.defineProperty(replacement, CUSTOM, property(descriptor));
  }
  return replacement;
}

/** The key of a function's special promisified form. */
const CUSTOM = Symbol.for("nodejs.util.promisify.custom");

/** A wait for a callback. Either the runtime or an interrupt calls the callback, once. */
class CallbackWait implements Ending {
  readonly #text: string;
  #callback: Callback | null;
  readonly #discard: ((result: unknown) => void) | null;
  #operation: ForeignOperation | null = null;

  constructor(
    text: string,
    callback: Callback,
    discard: ((result: unknown) => void) | null,
  ) {
    this.#text = text;
    this.#callback = callback;
    this.#discard = discard;
  }

  begin(scope: Scope): void {
    this.#operation = new ForeignOperation(scope, this);
  }

  /** The function to pass to the runtime. */
  readonly callback: Callback = (...results) => {
    const callback = this.#callback;
    this.drop();
    if (callback !== null) Reflect.apply(callback, undefined, results);
    else if (!results[0]) this.#discard?.(results[1]);
  };

  /** Ends the wait. */
  drop(): void {
    this.#callback = null;
    this.#operation?.over();
  }

  describe(): string {
    return this.#text;
  }

  end(error: unknown): boolean {
    const callback = this.#callback;
    this.#callback = null;
    callback?.(error);
    return callback !== null;
  }

  silence(): void {
    this.#callback = null;
  }
}

/** A stream of `node:zlib`. Functions with a callback make one, and store the callback in it. */
interface Engine {
  cb?: Callback;
  close(): void;
}

/**
 * Lets a stream of `node:zlib` belong to the greenlet in which `util.promisify` has called a
 * function of that module. The functions of the module can't be replaced.
 */
function ownEngine(emitter: object): void {
  const scope = interruptibleScope();
  if (scope === null) return;
  const engine = emitter as Engine;
  override(engine, "end", (end) =>
    function (this: unknown) {
      const callback = engine.cb;
      // All functions of the module with a callback use one function, which calls this.
      if (typeof callback === "function" && PROMISIFY.test(callerOf(3))) {
        const wait = new CallbackWait(calledAs(engine), callback, null);
        wait.begin(scope);
        engine.cb = wait.callback;
      }
      return Reflect.apply(end, this, arguments);
    });
}

/** Describes the function that has made a stream of `node:zlib`, such as `gzip()`. */
function calledAs(engine: object): string {
  return `${classOf(engine).replace(/^./, (first) => first.toLowerCase())}()`;
}
