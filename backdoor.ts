/**
 * A back door: a console in the running program, for `nc` or `telnet`.
 *
 * ```ts
 * import { BackdoorServer, connect } from "@gevent/gevent";
 *
 * const state = { jobs: 3 };
 * const address = { hostname: "127.0.0.1", port: 0 };
 * await using server = new BackdoorServer(address, { locals: { state } });
 * server.start();
 *
 * // In a terminal: nc 127.0.0.1 PORT
 * const { port } = server.address;
 * using socket = await connect({ hostname: "127.0.0.1", port });
 * await socket.recvUntil(">>> ");
 * await socket.sendAll("state.jobs + 1\n");
 * console.log(new TextDecoder().decode(await socket.recvUntil("\n"))); // 4
 * ```
 *
 * It asks for no password: a client can do everything that the program can do. So it listens only
 * on loopback addresses and Unix sockets, unless the option `remote` is set.
 *
 * @module
 */

import { nameClasses } from "./_base/inspecting.ts";
import { getBuiltin } from "./_base/builtin.ts";
import { addressName } from "./_base/addresses.ts";
import {
  checkFlag,
  checkOptions,
  inWords,
  isObject,
  show,
} from "./_base/checks.ts";
import { firstPlace, userFrames } from "./_base/frames.ts";
import { ignore, NO_OPTIONS, then } from "./_base/language.ts";
import { Names, parse } from "./_base/repl.ts";
import { isGone } from "./_hub/conns.ts";
import { getCurrent, runDetached } from "./_hub/current.ts";
import { withStacks } from "./_hub/print.ts";
import { type Greenlet, GreenletExit } from "./greenlet.ts";
import { until } from "./hub.ts";
import { formatRunInfo } from "./inspect.ts";
import {
  type ListensOn,
  StreamServer,
  type StreamServerOptions,
} from "./server.ts";
import type { Socket } from "./socket.ts";

/** Options of {@linkcode BackdoorServer}. */
export interface BackdoorOptions extends StreamServerOptions {
  /**
   * Names for the typed code, with their values. All connections share the object: they see
   * changed objects, and names that are added later. An assignment to a name changes it only for
   * the connection.
   *
   * @default {{}}
   */
  locals?: object;
  /** Text that is sent first to each connection. */
  banner?: string;
  /** Whether the address may be one to which other machines can connect. @default {false} */
  remote?: boolean;
}

const PROMPT = ">>> ";
const MORE = "... ";

const HELP = `.break  Drop the lines of an input that is incomplete
.exit   Close the connection
.help   Print this
.tree   Print the greenlets
`;

/** The longest line that may be typed, in bytes. */
const LONGEST_LINE = 1024 * 1024;

/**
 * A console in the running program, with a greenlet for each connection. gevent's
 * `BackdoorServer`.
 *
 * Each input is evaluated as JavaScript, with `await` at the top level, in the greenlet of the
 * connection, which `getCurrent()` returns. The value is printed unless it is `undefined`, and
 * `_` is the last value. An error is printed, and the session goes on. An incomplete input
 * continues in the next line. Names that are declared or assigned belong to the connection.
 * `console` prints to the connection, also in functions of the program that the code calls.
 *
 * Commands: `.tree` prints the greenlets, `.break` drops an incomplete input, `.exit` closes
 * the connection, `.help` lists them.
 *
 * Code that computes for long blocks the whole program, as in any greenlet. When a client leaves,
 * the running code goes on. The next read or write of the connection ends its greenlet. A kill of
 * the greenlet, as by `stop()`, ends it although the code awaits a promise that never settles.
 *
 * @typeParam L What it listens on.
 *
 * @example Usage
 * ```ts
 * import { BackdoorServer } from "@gevent/gevent";
 *
 * const path = `${await Deno.makeTempDir()}/door`;
 * await using server = new BackdoorServer(
 *   { transport: "unix", path },
 *   { locals: { answer: 42 }, banner: "Welcome" },
 * );
 * server.start(); // nc -U $path
 * ```
 */
export class BackdoorServer<L extends ListensOn = ListensOn>
  extends StreamServer<L> {
  /** The names that all connections share. gevent's `locals`. */
  readonly locals: object;
  /** Text that is sent first to each connection; `""` for none. */
  readonly banner: string;

  /**
   * Makes a back door that is not open yet.
   *
   * @param address The address to listen on, a loopback address or a Unix socket; or a listener
   * on such an address.
   * @param options Names, a banner, and the options of a server.
   * @throws {TypeError} If other machines could connect, and `remote` is not `true`.
   * @throws {TypeError | RangeError} If the address or an option is invalid.
   */
  constructor(
    address: L,
    options: BackdoorOptions = NO_OPTIONS,
  ) {
    super(address, (socket: Socket) => this.#serve(socket), options);
    checkOptions(options, "create backdoor server");
    const { locals = {}, banner = "", remote = false } = options;
    if (!isObject(locals)) {
      throw new TypeError(
        `Cannot create backdoor server as 'locals' must be an object: received ${
          show(locals)
        }`,
      );
    }
    if (typeof banner !== "string") {
      throw new TypeError(
        `Cannot create backdoor server as 'banner' must be a string: received ${
          show(banner)
        }`,
      );
    }
    checkFlag(remote, "create backdoor server", "remote");
    if (!remote && !isLocal(this.address)) {
      throw new TypeError(
        `Cannot create backdoor server as other machines could connect to ${
          addressName(this.address)
        }: use a loopback address such as 127.0.0.1, a Unix socket, or { remote: true }`,
      );
    }
    this.locals = locals;
    this.banner = banner;
  }

  async #serve(socket: Socket): Promise<void> {
    const greenlet = getCurrent();
    const session = new Session(socket, this.locals);
    const console = consoleFor((text) => session.print(text));
    enter(greenlet, console);
    try {
      await session.serve(this.banner, console);
    } catch (error) {
      if (!isGone(error)) throw error;
    } finally {
      leave(greenlet);
    }
  }
}

/** Whether only programs on this machine can connect to an address. */
function isLocal(address: object): boolean {
  if ("path" in address) return true;
  const { hostname } = address as { hostname?: string };
  if (hostname === undefined) return false;
  return /^localhost$/i.test(hostname) ||
    /^(::ffff:)?127\.\d+\.\d+\.\d+$/i.test(hostname) ||
    hostname === "::1" || hostname === "0:0:0:0:0:0:0:1";
}

/** A connection: its names, and its input so far. */
class Session {
  readonly #socket: Socket;
  readonly #names: Names;
  /** The lines of an incomplete input. */
  #lines: string[] = [];
  #isFirst = true;

  constructor(socket: Socket, locals: object) {
    this.#socket = socket;
    this.#names = new Names(locals);
  }

  /** Sends text, after all earlier text. Does not wait. */
  print(text: string): void {
    // Detached, as an interrupt of the printing code would cancel the write.
    runDetached(() => this.#socket.sendAll(text)).catch(ignore);
  }

  async serve(banner: string, console: Console): Promise<void> {
    const names = this.#names;
    names.define("console", console);
    names.define("getCurrent", getCurrent);
    const socket = this.#socket;
    if (banner !== "") this.print(banner.replace(/\n?$/, "\n"));
    await socket.sendAll(PROMPT);
    for (let isOpen = true; isOpen;) {
      try {
        isOpen = await this.#takeLines();
      } catch (error) {
        // Only a line that is too long throws this: errors of the code are printed.
        if (!(error instanceof RangeError)) throw error;
        await this.#dropLine();
        this.#lines = [];
        this.print(
          `Uncaught RangeError: A line must have ${LONGEST_LINE} bytes at most\n`,
        );
        await socket.sendAll(PROMPT);
      }
    }
  }

  /** Takes lines until the client wants to leave, or has left. Returns whether to go on. */
  async #takeLines(): Promise<boolean> {
    const socket = this.#socket;
    for await (const line of socket.lines({ max: LONGEST_LINE })) {
      // A web page may try to send code by an HTTP request. Its first line shows that.
      if (this.#isFirst && /^[A-Z]+ \S+ HTTP\/\d/.test(line)) return false;
      this.#isFirst = false;
      // Bytes that are not valid text are commands of telnet, such as Ctrl-C.
      const text = line.includes("\ufffd") ? ".break" : line;
      if (text.trim() === ".exit") return false;
      await this.#take(text);
      await socket.sendAll(this.#lines.length > 0 ? MORE : PROMPT);
    }
    return false;
  }

  /** Reads the rest of a line that is too long. */
  async #dropLine(): Promise<void> {
    const socket = this.#socket;
    for (;;) {
      // These bytes have no end of a line.
      await socket.recv(LONGEST_LINE);
      try {
        await socket.recvUntil("\n", { max: LONGEST_LINE });
        return;
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
      }
    }
  }

  /** Takes a line, and evaluates it when the input is complete. */
  async #take(line: string): Promise<void> {
    const command = line.trim();
    if (command === ".break") {
      this.#lines = [];
      return;
    }
    if (this.#lines.length === 0 && /^\.[a-z]*$/.test(command)) {
      return this.print(this.#command(command));
    }
    this.#lines.push(line);
    const code = this.#lines.join("\n");
    const parsed = parse(code);
    if (parsed.kind === "incomplete") return;
    this.#lines = [];
    if (parsed.kind === "wrong") {
      const { name, message } = parsed.error;
      return this.print(`Uncaught ${name}: ${message}\n`);
    }
    await this.#evaluate(parsed.body);
  }

  #command(command: string): string {
    if (command === ".tree") return `${formatRunInfo()}\n`;
    if (command === ".help") return HELP;
    return `There is no command ${command}\n${HELP}`;
  }

  async #evaluate(body: string): Promise<void> {
    try {
      const result = await outcomeOf(this.#names.run(body));
      const value = result?.value;
      if (value === undefined) return;
      this.#names.define("_", value);
      this.print(`${inspect(value)}\n`);
      // An unhandled rejection would end the program.
      if (value instanceof Promise) value.catch((error) => this.#fail(error));
    } catch (error) {
      if (error instanceof GreenletExit) throw error;
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (error instanceof GreenletExit) return;
    let text = "";
    try {
      withStacks(error, typedFrames, () => text = inspect(error));
    } catch {
      // A getter of the error may throw.
      text = inWords(() => String(error));
    }
    this.print(`Uncaught ${text}\n`);
  }
}

/**
 * Waits for typed code. The wait is one of the library, so that a kill ends it even if the code
 * awaits a promise that never settles. Before that, the code has its grace. A time limit that the
 * code has started is left to the code.
 */
async function outcomeOf<T>(running: Promise<T>): Promise<T> {
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  void then(running, over, over);
  let before: unknown = running;
  for (;;) {
    try {
      return await until(running);
    } catch (error) {
      if (isOver) return await running;
      // A kill is thrown again when its grace is over.
      if (error === before) throw error;
      before = error;
    }
  }
}

/** Leaves only the frames of the typed code and of the functions that it calls. */
function typedFrames(stack: string): string {
  const lines = stack.split("\n");
  const isFrame = (line: string) => /^\s+at /.test(line);
  const isTyped = (line: string) =>
    isFrame(line) && /\bbackdoor(?:, <anonymous>)?:\d+:\d+/.test(line);
  const last = lines.findLastIndex(isTyped);
  if (last < 0) {
    // A `Timeout` may come from the event loop, where no code of the program is on the stack.
    if (firstPlace(stack) !== null) return userFrames(stack);
    return lines.filter((line) => !isFrame(line)).join("\n");
  }
  const isOurs = (line: string, index: number) =>
    isFrame(line) && (index > last || line.includes("/_base/repl.ts:"));
  return lines.filter((line, index) => !isOurs(line, index)).join("\n");
}

function inspect(value: unknown): string {
  if (typeof Deno === "object") return Deno.inspect(value);
  return getBuiltin("node:util").inspect(value);
}

function consoleFor(print: (text: string) => void): Console {
  const { Console } = getBuiltin("node:console");
  const { Writable } = getBuiltin("node:stream");
  const stdout = new Writable({
    decodeStrings: false,
    write(chunk, _encoding, done) {
      print(String(chunk));
      done();
    },
  });
  return new Console({ stdout }) as unknown as Console;
}

/** The consoles of the connections, by greenlet. */
const consoles = new Map<Greenlet, Console>();
/** The descriptor of `console` before the first connection. */
let original: PropertyDescriptor | undefined;
let dispatching: Console | null = null;

/** Makes `console` print to a connection while its greenlet runs. */
function enter(greenlet: Greenlet, console: Console): void {
  if (consoles.size === 0) {
    original = Object.getOwnPropertyDescriptor(globalThis, "console");
    const before = globalThis.console;
    dispatching = new Proxy(before, {
      get: (_, key) => {
        return Reflect.get(consoles.get(getCurrent()) ?? before, key);
      },
    });
    Object.defineProperty(globalThis, "console", {
      ...original,
      value: dispatching,
    });
  }
  consoles.set(greenlet, console);
}

function leave(greenlet: Greenlet): void {
  consoles.delete(greenlet);
  // Other code may have replaced `console` meanwhile.
  if (consoles.size > 0 || globalThis.console !== dispatching) return;
  Object.defineProperty(globalThis, "console", original!);
  dispatching = null;
}

nameClasses({ BackdoorServer });
