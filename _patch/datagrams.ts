/**
 * Datagram sockets, in the part `net` of `patch()`. The runtime has them with
 * `--unstable-net`.
 *
 * @module
 */

import { Begun } from "../_hub/begun.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { operate } from "../_hub/operation.ts";
import { titleOf } from "../_hub/waits.ts";
import type { Patches } from "./patch_set.ts";
import { patchClosing, patchHold, type Socket } from "./sockets.ts";
import { QueuedWait } from "../_hub/wait_queue.ts";
import { type Hold, Inbox, type Inboxes } from "../_hub/inbox.ts";
import { hold } from "../_hub/conns.ts";

/** A datagram socket. The runtime's types have it only with `--unstable-net`. */
interface DatagramConn extends Socket {
  readonly addr: Deno.Addr;
  bufSize: number;
  receive: Receive;
  send: Send;
}

type Datagram = [Uint8Array, Deno.Addr];
type Receive = (this: DatagramConn, buffer?: Uint8Array) => Promise<Datagram>;
type Send = (
  this: DatagramConn,
  data: Uint8Array,
  address: Deno.Addr,
) => Promise<number>;
type ListenDatagram = (options: never) => DatagramConn;

/** The length of the longest datagram, in bytes. */
const LONGEST = {
  udp: 64 * 1024,
  // The usual value of net.core.wmem_max in Linux.
  unixpacket: 208 * 1024,
};

/** One `receive`. */
class Receiver extends QueuedWait<Receiver, Datagram> {
  readonly buffer: Uint8Array;

  protected override get call(): string {
    return "receive";
  }

  constructor(buffer: Uint8Array) {
    super();
    this.buffer = buffer;
  }
}

/**
 * The datagrams of a socket, in order, and the waits for them. Each is received whole, into a
 * buffer of ours: the system drops what does not fit, and the `receive` that gets the datagram
 * may have a longer buffer than the interrupted one that asked for it.
 */
class Datagrams extends Inbox<Datagram, Receiver, Datagram> {
  readonly #socket: DatagramConn;
  readonly #receive: Receive;
  #buffer = new Uint8Array(0);
  #datagram: Datagram | null = null;

  constructor(
    inboxes: Inboxes,
    socket: DatagramConn,
    receive: Receive,
    hold: Hold,
  ) {
    super(inboxes, hold);
    this.#socket = socket;
    this.#receive = receive;
  }

  protected override get hasResult(): boolean {
    return this.#datagram !== null;
  }

  protected override get owner(): object {
    return this.#socket;
  }

  protected override get patchedNames(): readonly PropertyKey[] {
    return ["receive", "close", "ref", "unref"];
  }

  protected override begin({ buffer }: Receiver): Promise<Datagram> {
    const transport = this.#socket.addr?.transport;
    const longest = Math.max(
      LONGEST[transport as keyof typeof LONGEST] ?? 0,
      buffer.length,
    );
    if (this.#buffer.length < longest) this.#buffer = new Uint8Array(longest);
    return this.#receive.call(this.#socket, this.#buffer);
  }

  protected override keep(datagram: Datagram): void {
    this.#datagram = datagram;
  }

  protected override give(receiver: Receiver): void {
    const data = this.#datagram![0];
    const address = this.#datagram![1];
    const { buffer } = receiver;
    try {
      const count = Math.min(data.length, buffer.length);
      const received = Uint8Array.prototype.subarray.call(buffer, 0, count);
      received.set(data.subarray(0, count));
      receiver.switch([received, address]);
      this.#datagram = null;
    } catch (error) {
      // The caller's buffer was transferred meanwhile.
      receiver.throw(error);
    }
  }

  protected override discard(): void {
    this.#datagram = null;
  }
}

const datagramsOf = new WeakMap<object, Datagrams>();

/** Patches datagrams, if the runtime has them. */
export function patchDatagrams(patches: Patches, inboxes: Inboxes): void {
  if (!("listenDatagram" in Deno)) return;
  patches.replace<ListenDatagram>(
    Deno,
    "listenDatagram",
    (listen) =>
      function (this: unknown) {
        const socket = Reflect.apply(listen, this, arguments as never);
        patches.onFirstInstance(socket, "receive", (prototype) => {
          patchSocket(patches, prototype as DatagramConn, inboxes);
        });
        return socket;
      },
  );
}

function patchSocket(
  patches: Patches,
  prototype: DatagramConn,
  inboxes: Inboxes,
): void {
  patchHold(patches, prototype, datagramsOf);
  patches.replace<Receive>(
    prototype,
    "receive",
    (receive) => cooperativeReceive(receive, inboxes, hold),
  );
  patches.replace<Send>(prototype, "send", cooperativeSend);
  patchClosing(patches, prototype, datagramsOf);
}

function cooperativeReceive(
  original: Receive,
  inboxes: Inboxes,
  hold: Hold,
): Receive {
  return function (given) {
    const scope = interruptibleScope();
    let datagrams = datagramsOf.get(this);
    const asBefore = scope === null && (datagrams?.isEmpty ?? true);
    const buffer = asBefore ? undefined : bufferFor(this, given);
    if (buffer === undefined) return original.call(this, given);
    const due = checkpoint(scope);
    if (due !== null) return due;
    if (datagrams === undefined) {
      datagrams = new Datagrams(inboxes, this, original, hold);
      datagramsOf.set(this, datagrams);
    }
    return datagrams.take(new Receiver(buffer), scope);
  };
}

/** Returns the buffer to receive into; `undefined` if the original has to throw. */
function bufferFor(
  socket: DatagramConn,
  given: Uint8Array | undefined,
): Uint8Array | undefined {
  if (typeof socket !== "object" || socket === null) return;
  if (given) return given instanceof Uint8Array ? given : undefined;
  const size = socket.bufSize;
  const isSize = Number.isInteger(size) && size >= 0 && size < 2 ** 31;
  return isSize ? new Uint8Array(size) : undefined;
}

function cooperativeSend(original: Send): Send {
  return function (data, address) {
    const scope = interruptibleScope();
    if (scope === null) return original.call(this, data, address);
    const due = checkpoint(scope);
    if (due !== null) return due;
    // After an interrupt the send goes on, while the caller may reuse the bytes.
    const copy = data instanceof Uint8Array ? new Uint8Array(data) : data;
    const begun = new Begun();
    const sent = begun.watch(() => original.call(this, copy, address));
    return operate(
      scope,
      sent,
      () => `send of ${titleOf(this)}`,
      () => begun.unref(),
    );
  };
}
