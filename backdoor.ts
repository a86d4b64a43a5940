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
 * const { port } = server.address as Deno.NetAddr;
 * using socket = await connect({ hostname: "127.0.0.1", port });
 * await socket.recvUntil(">>> ");
 * await socket.sendAll("state.jobs + 1\n");
 * console.log(new TextDecoder().decode(await socket.recvUntil("\n"))); // 4
 * ```
 *
 * It asks for no password: who can connect can do all that the program can. That is why it
 * listens on loopback addresses and Unix sockets only, unless it is told otherwise.
 *
 * @module
 */

import { nameClasses } from "./_base/inspecting.ts";
import { getBuiltin } from "./_base/builtin.ts";
import { addressName, type ServerAddress } from "./_base/addresses.ts";
import { checkOptions, isObject, show } from "./_base/checks.ts";
import { ignore, NO_OPTIONS } from "./_base/language.ts";
import { Names, parse } from "./_base/repl.ts";
import { getCurrent, runDetached } from "./_hub/current.ts";
import { type Greenlet, GreenletExit } from "./greenlet.ts";
import { formatRunInfo } from "./inspect.ts";
import { StreamServer, type StreamServerOptions } from "./server.ts";
import type { Socket, SocketListener } from "./socket.ts";

/** Options of {@linkcode BackdoorServer}. */
export interface BackdoorOptions extends StreamServerOptions {
  /**
   * Names for the code that is typed. They are shared: a change of an object is seen by all,
   * and so is a name that is added later. An assignment to a name makes it the connection's
   * own.
   *
   * @default {{}}
   */
  locals?: object;
  /** Text that each connection is sent first. */
  banner?: string;
  /** Whether it may listen where other machines can connect. @default {false} */
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
 * What is typed is evaluated as JavaScript, with `await` at the top level, in the greenlet of
 * the connection: `getCurrent()` gives that one. The value is printed unless it is `undefined`,
 * and `_` is the last one; an error is printed, and ends nothing. An input that is incomplete
 * goes on in the next line. Names that are declared or assigned belong to the connection.
 * `console` prints to the connection, also in functions of the program that the code calls.
 *
 * Commands: `.tree` prints the greenlets, `.break` drops an incomplete input, `.exit` closes
 * the connection, `.help` lists them.
 *
 * Code that computes for long holds up the whole program, as in any greenlet. When a client
 * leaves, the code that runs is not ended: the next read or write of the connection ends its
 * greenlet.
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
export class BackdoorServer extends StreamServer {
  /** The names that all connections share. gevent's `locals`. */
  readonly locals: object;
  /** Text that each connection is sent first; `""` for none. */
  readonly banner: string;

  /**
   * Makes a back door that is not open yet.
   *
   * @param address Where it is to listen: a loopback address or a Unix socket, or a listener
   * there.
   * @param options Names, a banner, and what any server has.
   * @throws {TypeError} If other machines could connect, and `remote` is not `true`.
   * @throws {TypeError | RangeError} If the address or an option is none.
   */
  constructor(
    address: ServerAddress | SocketListener | Deno.Listener,
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
    if (remote !== true && !isLocal(this.address)) {
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

/** Whether only programs of this machine can connect there. */
function isLocal(address: object): boolean {
  if ("path" in address) return true;
  const { hostname } = address as { hostname?: string };
  if (hostname === undefined) return false;
  return hostname === "localhost" ||
    /^(::ffff:)?127\.\d+\.\d+\.\d+$/i.test(hostname) ||
    hostname === "::1" || hostname === "0:0:0:0:0:0:0:1";
}

/** Whether the client is gone. */
function isGone(error: unknown): boolean {
  const { errors } = Deno;
  return error instanceof errors.ConnectionReset ||
    error instanceof errors.BrokenPipe ||
    error instanceof errors.ConnectionAborted;
}

/** A connection: what was typed, and the names that it has. */
class Session {
  readonly #socket: Socket;
  readonly #names: Names;
  /** The lines of an input that is incomplete. */
  #lines: string[] = [];

  constructor(socket: Socket, locals: object) {
    this.#socket = socket;
    this.#names = new Names(locals);
  }

  /** Sends text after all that was printed before, and waits for nothing. */
  print(text: string): void {
    // Detached, as an interrupt of the code that prints would take it back.
    runDetached(() => this.#socket.sendAll(text)).catch(ignore);
  }

  async serve(banner: string, console: Console): Promise<void> {
    const names = this.#names;
    names.define("console", console);
    names.define("getCurrent", getCurrent);
    const socket = this.#socket;
    if (banner !== "") this.print(banner.replace(/\n?$/, "\n"));
    await socket.sendAll(PROMPT);
    let isFirst = true;
    for await (const line of socket.lines({ max: LONGEST_LINE })) {
      // A page in a browser can have text sent here, and can't leave out the first line.
      if (isFirst && /^[A-Z]+ \S+ HTTP\/\d/.test(line)) return;
      isFirst = false;
      // Bytes that are no text are telnet's: Ctrl-C.
      const text = line.includes("\ufffd") ? ".break" : line;
      if (text.trim() === ".exit") return;
      await this.#take(text);
      await socket.sendAll(this.#lines.length > 0 ? MORE : PROMPT);
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
      const result = await this.#names.run(body);
      const value = result?.value;
      if (value === undefined) return;
      this.#names.define("_", value);
      this.print(`${inspect(value)}\n`);
      // Unhandled, its rejection would end the program.
      if (value instanceof Promise) value.catch((error) => this.#fail(error));
    } catch (error) {
      if (error instanceof GreenletExit) throw error;
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (error instanceof GreenletExit) return;
    this.print(`Uncaught ${withoutOurFrames(inspect(error))}\n`);
  }
}

/** Leaves out the frames that are not of the code that was typed, or of what it calls. */
function withoutOurFrames(text: string): string {
  const lines = text.split("\n");
  const isFrame = (line: string) => /^\s+at /.test(line);
  const isTyped = (line: string) =>
    isFrame(line) && /\bbackdoor(?:, <anonymous>)?:\d+:\d+/.test(line);
  const last = lines.findLastIndex(isTyped);
  if (last < 0) return text;
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

/** The consoles of the greenlets of connections. */
const consoles = new Map<Greenlet, Console>();
/** The descriptor of `console` before the first connection. */
let original: PropertyDescriptor | undefined;
let dispatching: Console | null = null;

/** Has `console` print to a connection whenever its greenlet runs. */
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
  // Other code may have replaced it since.
  if (consoles.size > 0 || globalThis.console !== dispatching) return;
  Object.defineProperty(globalThis, "console", original!);
  dispatching = null;
}

nameClasses({ BackdoorServer });
