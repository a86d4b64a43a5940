/**
 * The side of a child: one of the processes that serve a port. An environment variable tells it
 * that it is one. It reports to its parent when it serves, and obeys the parent's orders.
 *
 * @module
 */

import { getProcess } from "../_base/builtin.ts";
import { type EndingSignal, SignalListener } from "../_hub/signals.ts";
import { divertConnections, spreadConnections } from "./diversion.ts";
import { endWithParent } from "./watch.ts";

/** The name of the variable. Its value is the parent's process id and the port: `4711:8080`. */
export const VARIABLE = "GEVENT_SERVER_PROCESS";

/**
 * A message between a parent and a process:
 *
 * - `close`, `stop`: calls the method of {@linkcode Serving}; `stop` has a time in milliseconds
 * - `leave`: as `stop`, while the last of so many listeners goes on with the port
 * - `spread`: the process that had to leave has ended
 * - `ready`, `stopped`: the process tells the parent that it serves, or has stopped
 */
export type Order =
  | [typeof VARIABLE, "stop", timeout: number]
  | [typeof VARIABLE, "leave", timeout: number, listeners: number]
  | [typeof VARIABLE, "close" | "spread" | "ready" | "stopped"];

/** Whether a message is an {@linkcode Order}, and not one of the user's program. */
export function isForMember(message: unknown): message is Order {
  return Array.isArray(message) && message[0] === VARIABLE;
}

/**
 * How many milliseconds a process has after the timeout of its stop, in which it kills the
 * handlers that are left and answers their requests.
 */
export const STOP_GRACE = 2000;

/** What a process does when it is told to. */
export interface Serving {
  /** How many milliseconds its connections have to end, if `stop` gets no time. */
  readonly stopTimeout: number;
  /** Accepts no more. */
  close(): void;
  /**
   * Stops; `undefined`: with the server's own timeout.
   *
   * @param isDiverted Whether new connections go to other processes.
   */
  stop(timeout?: number, isDiverted?: boolean): Promise<void>;
  /** A signal is to end the process. */
  ended(signal: EndingSignal): void;
}

/**
 * The port on which this process has to listen, if it is a child that serves; else `null`.
 * Processes that such a child starts are no such children.
 */
export function assignedPort(): number | null {
  const { Deno } = globalThis;
  if (Deno === undefined) return null;
  const permission = { name: "env", variable: VARIABLE } as const;
  if (Deno.permissions.querySync(permission).state !== "granted") return null;
  const [parent, port] = (Deno.env.get(VARIABLE) ?? "").split(":");
  return Number(parent) === Deno.ppid ? Number(port) : null;
}

/** Tells the parent that this process serves a port, and listens to what it says. */
export function serveAsMember(port: number, serving: Serving): void {
  const process = getProcess();
  const tell = (...order: Order) => {
    // Ignores errors: if the parent is gone, "disconnect" comes.
    if (process.connected) process.send!(order, () => {});
  };
  const stop = async (timeout?: number, isDiverted = false) => {
    try {
      await serving.stop(timeout, isDiverted);
    } finally {
      tell(VARIABLE, "stopped");
    }
  };
  const signals = new SignalListener((signal) => {
    serving.ended(signal);
    void stop();
  });
  process.on("message", (message: unknown) => {
    if (!isForMember(message)) return;
    if (message[1] === "close") return serving.close();
    if (message[1] === "spread") return spreadConnections(port);
    if (message[1] !== "stop" && message[1] !== "leave") return;
    signals[Symbol.dispose]();
    const isDiverted = message[1] === "leave" &&
      divertConnections(port, message[3] - 1);
    void stop(message[2], isDiverted);
  });
  process.on("disconnect", async () => {
    try {
      await stop();
    } finally {
      Deno.exit(1);
    }
  });
  // The server keeps the process alive, and not the channel.
  (process as { channel?: { unref(): void } }).channel?.unref();
  endWithParent(Deno.ppid, serving.stopTimeout + STOP_GRACE);
  tell(VARIABLE, "ready");
}
