/**
 * The side of a child: one of the processes that serve a port. An environment variable tells it
 * that it is one. It reports to its parent when it serves, and obeys the parent's orders.
 *
 * @module
 */

import { getProcess } from "../_base/builtin.ts";
import { type EndingSignal, SignalListener } from "../_hub/signals.ts";

/** The name of the variable. Its value is the parent's process id and the port: `4711:8080`. */
export const VARIABLE = "GEVENT_SERVER_PROCESS";

/** A message between parent and child. `stop` has a time in milliseconds. */
export type Order =
  | [typeof VARIABLE, "close" | "stop", number]
  | [typeof VARIABLE, "ready" | "stopped"];

/** Whether a message is an {@linkcode Order}, and not one of the user's program. */
export function isForMember(message: unknown): message is Order {
  return Array.isArray(message) && message[0] === VARIABLE;
}

/** The reactions of a child to its parent's orders and to signals. */
export interface Serving {
  /** Stops accepting. */
  close(): void;
  /** Stops; without a timeout, with that of the server. */
  stop(timeout?: number): Promise<void>;
  /** Called when a signal ends the process. */
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

/** Reports to the parent that this process serves, and listens to its orders. */
export function serveAsMember(serving: Serving): void {
  const process = getProcess();
  const tell = (...order: Order) => {
    // Ignores errors: if the parent is gone, "disconnect" comes.
    if (process.connected) process.send!(order, () => {});
  };
  const stop = async (timeout?: number) => {
    try {
      await serving.stop(timeout);
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
    if (message[1] === "close") serving.close();
    if (message[1] !== "stop") return;
    signals[Symbol.dispose]();
    void stop(message[2]);
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
  tell(VARIABLE, "ready");
}
