/**
 * Channels of `node:diagnostics_channel`.
 *
 * @module
 */

import { findBuiltin } from "../_base/builtin.ts";
import type { Disposals } from "../_base/disposals.ts";

type Listener = (message: unknown) => void;

/** The part of `node:diagnostics_channel` that is used. */
interface Channels {
  subscribe(channel: string, listener: Listener): void;
  unsubscribe(channel: string, listener: Listener): boolean;
}

/** The module; `null` if the runtime has none. Loading it at import would take 5 ms. */
function channels(): Channels | null {
  return findBuiltin("node:diagnostics_channel") ?? null;
}

/** Whether the runtime has channels. */
export function areChannelsKnown(): boolean {
  return typeof channels()?.subscribe === "function";
}

/** Calls `tell` with the messages of a channel, until the disposals are disposed of. */
export function listen<M>(
  disposals: Disposals,
  channel: string,
  tell: (message: M) => void,
): void {
  if (!areChannelsKnown()) return;
  const { subscribe, unsubscribe } = channels()!;
  const listener = (message: unknown) => tell(message as M);
  subscribe(channel, listener);
  disposals.use({
    [Symbol.dispose]: () => void unsubscribe(channel, listener),
  });
}
