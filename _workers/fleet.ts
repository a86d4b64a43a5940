/**
 * The side of the parent of the processes that serve one port: starts, replaces and ends them.
 * The parent accepts no connections.
 *
 * Each child is started with the main module and the arguments of this program, and so makes the
 * same server. `member.ts` is the side of a child.
 *
 * @module
 */

import type { TcpAddress } from "../_base/server_types.ts";
import { checkOptions, numberError, show } from "../_base/checks.ts";
import { markHandled, then } from "../_base/language.ts";
import { getOriginal } from "../_base/properties.ts";
import { atEnd } from "../_hub/child.ts";
import { report } from "../_hub/main.ts";
import {
  type EndingSignal,
  OwnListener,
  SignalListener,
} from "../_hub/signals.ts";
import { now, startTimer, stopTimer, type Timer } from "../_hub/timers.ts";
import { GreenletError } from "../greenlet.ts";
import { type Child, howEnded, killProcess, startProcess } from "./links.ts";
import { isForMember, type Order, STOP_GRACE, VARIABLE } from "./member.ts";
import { type PermissionFlags, permissionFlags } from "./permissions.ts";

/**
 * Checks the option `processes` of a server.
 *
 * @param address The address of the server; `null` if it was given a listener.
 * @param what The failed action, for the message.
 * @throws {TypeError | RangeError} If the option is invalid, or needs another address.
 */
export function checkProcesses(
  options: { readonly processes?: number },
  address: { readonly transport?: string } | null,
  what: string,
): void {
  checkOptions(options, what);
  const { processes } = options;
  if (processes === undefined) return;
  if (!Number.isInteger(processes) || processes <= 0) {
    throw numberError(what, "processes", "a positive integer", processes);
  }
  if (address !== null && (address.transport ?? "tcp") === "tcp") return;
  const given = address === null
    ? "a listener"
    : `one of transport ${show(address.transport)}`;
  throw new TypeError(
    `Cannot ${what} as 'processes' needs a TCP address: received ${given}`,
  );
}

/** Options of a {@linkcode Fleet}. */
export interface FleetOptions {
  /** The number of processes. */
  readonly size: number;
  /** The permissions of the processes. */
  readonly permissions: PermissionFlags;
  /** The first and the longest delay before an ended process is started again, in ms. */
  readonly minDelay: number;
  readonly maxDelay: number;
  /** How many milliseconds a replaced process may go on to serve. */
  readonly stopTimeout: number;
}

/** How many milliseconds a process that has stopped in time gets to exit. */
const GRACE = 500;

/** The fleet of the program. Only one, as a child could not know which server it belongs to. */
let running: Fleet | null = null;

/** A place for a process. */
interface Slot {
  member: Member | null;
  /** The delay before the next process is started if this one ends, in ms. */
  delay: number;
  timer: Timer | null;
}

/** The processes of a server. */
export class Fleet {
  readonly #server: object;
  readonly #options: FleetOptions;
  readonly #slots: Slot[];
  /** The processes that have not ended. */
  readonly #members = new Set<Member>();
  #state: "idle" | "serving" | "closed" = "idle";
  #reload: "none" | "under way" | "once more" = "none";
  #address: Deno.NetAddr | null = null;
  #flags: readonly string[] = [];
  #hold: Disposable | null = null;
  #signals: readonly Disposable[] = [];

  /** @param server The server, for error reports. */
  constructor(server: object, options: FleetOptions) {
    this.#server = server;
    this.#options = options;
    this.#slots = Array.from({ length: options.size }, () => ({
      member: null,
      delay: options.minDelay,
      timer: null,
    }));
  }

  /**
   * Finds the port, and starts the processes.
   *
   * @param asked The requested address.
   * @param told Called with the first signal that asks the program to end.
   * @returns The address on which they will listen.
   */
  start(asked: TcpAddress, told: (signal: EndingSignal) => void): Deno.NetAddr {
    const what = `Cannot start ${show(this.#server)} in processes`;
    checkCanShare(what);
    if (running !== null) {
      throw new GreenletError(
        `${what} as the program has ${
          show(running.#server)
        } already: one server of a program can have processes at a time`,
      );
    }
    const listen = getOriginal(Deno, "listen");
    const listener = listen({ ...asked, reusePort: true });
    const address = this.#address = listener.addr;
    this.#flags = flagsFor(this.#options.permissions, asked, address.port);
    markHandled(this.#keepPort(listener));
    running = this;
    this.#state = "serving";
    this.#signals = [
      new SignalListener(told),
      new OwnListener("SIGHUP", () => this.#askForReload()),
    ];
    try {
      for (const slot of this.#slots) slot.member = this.#begin(slot);
    } catch (error) {
      this.close();
      throw error;
    }
    return address;
  }

  /**
   * Keeps the port reserved while no process listens on it. It does so by a connection to itself:
   * a listener would get some of the connections that are for the processes.
   */
  async #keepPort(listener: Deno.TcpListener): Promise<void> {
    const { hostname, port } = listener.addr;
    try {
      using ours = await getOriginal(Deno, "connect")({ hostname, port });
      const { port: from } = ours.localAddr;
      for (;;) {
        const conn = await listener.accept();
        if (conn.remoteAddr.port !== from) {
          conn.close();
          continue;
        }
        conn.unref();
        if (this.#state === "closed") conn.close();
        else this.#hold = conn;
        return;
      }
    } finally {
      listener.close();
    }
  }

  #begin(slot: Slot): Member {
    const { port } = this.#address!;
    const member = new Member(this.#flags, port);
    this.#members.add(member);
    then(member.ready, (isReady) => {
      if (isReady) this.#began(slot, member);
    });
    then(member.ended, (how) => {
      this.#members.delete(member);
      this.#ended(slot, member, how);
    });
    return member;
  }

  /** Resets the delay when a process has lived for `maxDelay`. */
  #began(slot: Slot, member: Member): void {
    const { minDelay, maxDelay } = this.#options;
    const since = now();
    then(member.ended, () => {
      if (now() - since >= maxDelay) slot.delay = minDelay;
    });
  }

  #ended(slot: Slot, member: Member, how: string): void {
    if (slot.member !== member) return;
    slot.member = null;
    if (this.#state !== "serving") return;
    const { delay } = slot;
    slot.delay = Math.min(Math.max(2 * delay, 1), this.#options.maxDelay);
    report(
      this.#server,
      new GreenletError(
        `${member.title} of ${
          show(this.#server)
        } ${how}: another one is started in ${delay} ms`,
      ),
    );
    slot.timer = startTimer(delay, {
      expired: () => {
        slot.timer = null;
        slot.member = this.#begin(slot);
      },
    });
  }

  #askForReload(): void {
    if (this.#state !== "serving") return;
    if (this.#reload !== "none") {
      this.#reload = "once more";
      return;
    }
    markHandled(this.#replaceAll());
  }

  /** Replaces the processes one by one: each serves until the next one does. */
  async #replaceAll(): Promise<void> {
    do {
      this.#reload = "under way";
      for (const slot of this.#slots) {
        if (this.#state !== "serving") return;
        // A process that is not started yet will be a new one anyway.
        if (slot.member === null) continue;
        const next = this.#begin(slot);
        const isReady = await next.ready;
        if (this.#state as string === "closed") return;
        if (!isReady) {
          report(
            this.#server,
            new GreenletError(
              `${next.title} of ${show(this.#server)} ${await next
                .ended} before it served: the old processes go on to serve`,
            ),
          );
          break;
        }
        // Read now: the old process may have ended meanwhile, and have been replaced.
        const before = slot.member;
        stopTimer(slot.timer);
        slot.timer = null;
        slot.member = next;
        if (before === null) continue;
        before.leave(this.#options.stopTimeout, this.#countListeners());
        await before.ended;
        next.spread();
      }
    } while (this.#reload as string === "once more");
    this.#reload = "none";
  }

  #countListeners(): number {
    let count = 0;
    for (const { listens } of this.#members) if (listens) count++;
    return count;
  }

  /** Tells the processes to accept no more, and to finish their connections. */
  close(): void {
    this.#end();
    for (const member of this.#members) member.close();
  }

  #end(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    if (running === this) running = null;
    this.#hold?.[Symbol.dispose]();
    for (const listener of this.#signals) listener[Symbol.dispose]();
    for (const slot of this.#slots) {
      stopTimer(slot.timer);
      slot.timer = null;
    }
  }

  /**
   * Stops the processes, and waits until they have ended.
   *
   * @param timeout How many milliseconds they have to finish their connections.
   */
  async stop(timeout: number): Promise<void> {
    this.#end();
    const members = [...this.#members];
    for (const member of members) member.stop(timeout);
    for (const member of members) await member.ended;
  }
}

/**
 * - `starting`: does not listen yet
 * - `serving`
 * - `stopping`: was told to stop, and is killed when its time is over
 * - `ended`
 */
type State = "starting" | "serving" | "stopping" | "ended";

/** One of the processes. */
class Member {
  readonly #child: Child;
  /** Resolves to `true` when the process serves, or to `false` if it has ended before. */
  readonly ready: Promise<boolean>;
  /** Resolves when the process has ended, to a description of how. */
  readonly ended: Promise<string>;
  readonly #kill = () => killProcess(this.#child);
  #state: State = "starting";
  #timer: Timer | null = null;

  constructor(flags: readonly string[], port: number) {
    const child = this.#child = startProcess(
      flags,
      [Deno.mainModule, ...Deno.args],
      { [VARIABLE]: `${Deno.pid}:${port}` },
    );
    const ready = Promise.withResolvers<boolean>();
    const ended = Promise.withResolvers<string>();
    this.ready = ready.promise;
    this.ended = ended.promise;
    atEnd.add(this.#kill);
    const over = (how: string) => {
      this.#state = "ended";
      atEnd.delete(this.#kill);
      stopTimer(this.#timer);
      ready.resolve(false);
      ended.resolve(how);
    };
    child.on("message", (message: unknown) => {
      if (!isForMember(message)) return;
      if (message[1] === "ready") {
        if (this.#state === "starting") this.#state = "serving";
        ready.resolve(true);
      } else this.#killIn(GRACE);
    });
    child.on("error", (error: Error) => {
      if (child.pid === undefined) {
        over(`could not be started: ${error.message}`);
      }
    });
    child.on("exit", (code: number | null, signal: string | null) => {
      over(howEnded(code, signal));
    });
  }

  /** Its name in messages. A process that could not be started has no number. */
  get title(): string {
    const { pid } = this.#child;
    return pid === undefined ? "A process" : `Process ${pid}`;
  }

  #send(...order: Order): void {
    if (!this.#child.connected) return this.#kill();
    this.#child.send(order, (error) => {
      if (error !== null && this.#state !== "ended") this.#kill();
    });
  }

  /** Tells the process to stop accepting. Kills it if it does not serve yet. */
  close(): void {
    if (this.#state === "starting") this.#kill();
    else if (this.#state === "serving") this.#send(VARIABLE, "close");
  }

  /** Tells the process to stop, and kills it if it does not. */
  stop(timeout: number): void {
    this.#stop(timeout, VARIABLE, "stop", timeout);
  }

  /**
   * Tells the process to stop, and to let new connections go to the listener that began last.
   *
   * @param listeners The number of listeners on the port.
   */
  leave(timeout: number, listeners: number): void {
    this.#stop(timeout, VARIABLE, "leave", timeout, listeners);
  }

  #stop(timeout: number, ...order: Order): void {
    if (this.#state === "ended") return;
    if (this.#state === "starting") return this.#kill();
    this.#state = "stopping";
    this.#send(...order);
    this.#killIn(timeout + STOP_GRACE);
  }

  /** Ends the diversion of connections to this process, after another one has left. */
  spread(): void {
    if (this.#state === "serving") this.#send(VARIABLE, "spread");
  }

  /** Whether it listens on the port, as far as the parent knows. */
  get listens(): boolean {
    return this.#state === "serving" || this.#state === "stopping";
  }

  #killIn(ms: number): void {
    if (this.#state === "ended") return;
    stopTimer(this.#timer);
    this.#timer = ms === Infinity ? null : startTimer(ms, {
      expired: this.#kill,
    });
  }
}

/** The flags of a process: no permission is wider than this program's. */
function flagsFor(
  permissions: PermissionFlags,
  { hostname = "0.0.0.0" }: TcpAddress,
  port: number,
): string[] {
  const host = hostname.includes(":")
    ? `[${hostname}]:${port}`
    : `${hostname}:${port}`;
  // A partial permission can't be listed, but the runtime tells whether it includes this host.
  const mayListen = permissions === "inherit" &&
    Deno.permissions.querySync({ name: "net", host }).state === "granted";
  const more = { env: VARIABLE, ...mayListen && { net: host } };
  return ["--unstable-net", ...permissionFlags(permissions, more)];
}

function checkCanShare(what: string): void {
  if (Deno.build.os === "windows") {
    throw new GreenletError(`${what} as Windows can't share a port`);
  }
  if (Deno.build.standalone) {
    throw new GreenletError(
      `${what} as a compiled program can't be started by "deno run"`,
    );
  }
  // Without the flag the runtime does not throw, but ends the process.
  if (!("listenDatagram" in Deno)) {
    throw new GreenletError(
      `${what} as sharing a port needs the flag --unstable-net of the runtime`,
    );
  }
  const needed = [
    { name: "run", command: Deno.execPath() },
    // The runtime reads it whenever `node:child_process` starts a process.
    { name: "env", variable: "NODE_V8_COVERAGE" },
  ] as const;
  for (const permission of needed) {
    if (Deno.permissions.querySync(permission).state === "granted") continue;
    const { name } = permission;
    throw new Deno.errors.NotCapable(
      `${what} as starting them needs ${name} access: pass --allow-${name}`,
    );
  }
}
