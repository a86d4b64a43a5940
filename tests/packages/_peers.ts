/**
 * Stand-ins for servers that tests can't have, or only at the price of seconds: each speaks as
 * much of its protocol as the tests need.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createServer, type Socket } from "node:net";
import type { AddressInfo } from "node:net";

/** How a stand-in reads and answers. */
interface Protocol {
  /** The size of the first message; `Infinity` if too little has come to tell. */
  sizeOf(bytes: Buffer): number;
  /** Answers one message. */
  answer(message: Buffer): void;
}

/** Serves a protocol; gives the port. A connection has a protocol of its own. */
async function serve(
  stack: AsyncDisposableStack,
  protocolOf: (socket: Socket) => Protocol,
): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const protocol = protocolOf(socket);
    let bytes = Buffer.alloc(0);
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {});
    socket.on("data", (more: Buffer) => {
      bytes = Buffer.concat([bytes, more]);
      for (let size; (size = protocol.sizeOf(bytes)) <= bytes.length;) {
        protocol.answer(bytes.subarray(0, size));
        bytes = bytes.subarray(size);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  stack.defer(() => {
    sockets.forEach((socket) => socket.destroy());
    return new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return (server.address() as AddressInfo).port;
}

// SMTP

/** Serves mail: the answer to each mail is its subject. */
export function serveMail(stack: AsyncDisposableStack): Promise<number> {
  return serve(stack, (socket) => {
    let isText = false;
    let subject = "";
    socket.write("220 Ready\r\n");
    return {
      sizeOf: (bytes) => bytes.indexOf("\n") + 1 || Infinity,
      answer(message) {
        const line = message.toString().trimEnd();
        if (isText && line.startsWith("Subject: ")) subject = line.slice(9);
        if (isText && line !== ".") return;
        isText = line === "DATA";
        if (line === "QUIT") socket.end("221 Bye\r\n");
        else if (line === ".") socket.write(`250 ${subject}\r\n`);
        else socket.write(isText ? "354 Go on\r\n" : "250 Done\r\n");
      },
    };
  });
}

// The wire protocol of MongoDB

/** The part of `BSON` of `mongodb` that is used. */
interface Bson {
  serialize(document: object): Uint8Array;
  deserialize(bytes: Uint8Array): Record<string, unknown>;
  readonly Long: { readonly ZERO: object };
}

const OP_REPLY = 1;
const OP_QUERY = 2004;
const OP_MSG = 2013;

/** Answers a command. */
function answerTo(command: Record<string, unknown>, { Long }: Bson): object {
  if ("find" in command) {
    const cursor = {
      id: Long.ZERO,
      ns: "db.collection",
      // The answer to `find` is what was asked for.
      firstBatch: [command.filter],
    };
    return { ok: 1, cursor };
  }
  return {
    ok: 1,
    helloOk: true,
    isWritablePrimary: true,
    maxBsonObjectSize: 1 << 24,
    maxMessageSizeBytes: 48_000_000,
    maxWriteBatchSize: 100_000,
    localTime: new Date(0),
    minWireVersion: 0,
    maxWireVersion: 21,
    readOnly: false,
  };
}

/** Serves `mongodb`: `find` gives its own filter. */
export function serveMongo(
  stack: AsyncDisposableStack,
  bson: Bson,
): Promise<number> {
  let last = 0;
  return serve(stack, (socket) => ({
    sizeOf: (bytes) => bytes.length < 4 ? Infinity : bytes.readInt32LE(0),
    answer(message) {
      const isQuery = message.readInt32LE(12) === OP_QUERY;
      // Behind the name of a collection and two numbers, or behind flags and a byte
      const start = isQuery ? message.indexOf(0, 20) + 9 : 21;
      const command = bson.deserialize(
        message.subarray(start, start + message.readInt32LE(start)),
      );
      const body = bson.serialize(answerTo(command, bson));
      const head = Buffer.alloc(isQuery ? 36 : 21);
      head.writeInt32LE(head.length + body.length, 0);
      head.writeInt32LE(++last, 4);
      head.writeInt32LE(message.readInt32LE(4), 8);
      head.writeInt32LE(isQuery ? OP_REPLY : OP_MSG, 12);
      if (isQuery) head.writeInt32LE(1, 32);
      socket.write(Buffer.concat([head, body]));
    },
  }));
}
