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
 * What a parent and its process send each other:
 *
 * - `close`, `stop`: as {@linkcode Serving} has it, `stop` with a time in milliseconds
 * - `leave`: stop, while so many listeners have the port, of which the last one goes on
 * - `spread`: the one that has left is gone
 * - `ready`, `stopped`: of the process
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
 * For how many milliseconds after the timeout of its stop a process may still be there, as it
 * kills what is left, and answers for it.
 */
export const STOP_GRACE = 2000;

/** What a process does when it is told to. */
export interface Serving {
  /** For how many milliseconds it serves what it has, when nothing else is said. */
  readonly stopTimeout: number;
  /** Accepts no more. */
  close(): void;
  /**
   * Stops; `undefined`: with the server's own timeout.
   *
   * @param isDiverted Whether no new connection comes any more.
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
