/**
 * One of the processes that serve a port, on its own side: it knows by a variable of its
 * environment that it is one, tells its parent when it serves, and does what that says.
 *
 * @module
 */

import { getProcess } from "../_base/builtin.ts";
import { type EndingSignal, SignalListener } from "../_hub/signals.ts";

/** The variable, which has the process id of the parent, and the port: `4711:8080`. */
export const VARIABLE = "GEVENT_SERVER_PROCESS";

/** What a parent and its process send each other; `stop` has a time in milliseconds. */
export type Order =
  | [typeof VARIABLE, "close" | "stop", number]
  | [typeof VARIABLE, "ready" | "stopped"];

/** Whether a message is one of those, and none of the program's own. */
export function isForMember(message: unknown): message is Order {
  return Array.isArray(message) && message[0] === VARIABLE;
}

/** What a process does when it is told to. */
export interface Serving {
  /** Accepts no more. */
  close(): void;
  /** Stops; `undefined`: with the server's own timeout. */
  stop(timeout?: number): Promise<void>;
  /** A signal is to end the process. */
  ended(signal: EndingSignal): void;
}

/**
 * The port that this process is to listen to, as one of several; `null` if it is none. One
 * that it has started itself is none.
 */
export function assignedPort(): number | null {
  const { Deno } = globalThis;
  if (Deno === undefined) return null;
  const permission = { name: "env", variable: VARIABLE } as const;
  if (Deno.permissions.querySync(permission).state !== "granted") return null;
  const [parent, port] = (Deno.env.get(VARIABLE) ?? "").split(":");
  return Number(parent) === Deno.ppid ? Number(port) : null;
}

/** Tells the parent that this process serves, and listens to what it says. */
export function serveAsMember(serving: Serving): void {
  const process = getProcess();
  const tell = (...order: Order) => {
    // Where the parent is gone, "disconnect" comes.
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
  // It is the server that keeps the process alive.
  (process as { channel?: { unref(): void } }).channel?.unref();
  tell(VARIABLE, "ready");
}
