/**
 * Shared by the tests of servers: clients that use only the runtime, without greenlets.
 *
 * @module
 */

import { settle } from "./_quiet.ts";
import type { BaseServer } from "../mod.ts";

/** An address with any free port. */
export const HERE = { hostname: "127.0.0.1", port: 0 };

/** The port of a server that was started. */
export function portOf(server: BaseServer): number {
  return (server.address as Deno.NetAddr).port;
}

/** Connects a client of the runtime. */
export function connectTo(server: BaseServer): Promise<Deno.TcpConn> {
  return Deno.connect({ hostname: "127.0.0.1", port: portOf(server) });
}

/** Writes text. */
export async function say(conn: Deno.Conn, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) {
    at += await conn.write(bytes.subarray(at));
  }
}

/** Reads `count` characters of one byte each; fewer if the connection ends. */
export async function hear(conn: Deno.Conn, count = Infinity): Promise<string> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(64 * 1024);
  let text = "";
  while (text.length < count) {
    const room = Math.min(buffer.length, count - text.length);
    const read = await conn.read(buffer.subarray(0, room));
    if (read === null) break;
    text += decoder.decode(buffer.subarray(0, read), { stream: true });
  }
  return text;
}

/** Reads to the end, or until the peer resets the connection. */
export async function hearTheEnd(conn: Deno.Conn): Promise<string> {
  try {
    return await hear(conn);
  } catch (error) {
    if (isLost(error)) return "";
    throw error;
  }
}

/** Whether the peer is gone. */
export function isLost(error: unknown): boolean {
  const { errors } = Deno;
  return error instanceof errors.ConnectionReset ||
    error instanceof errors.BrokenPipe ||
    error instanceof errors.ConnectionAborted ||
    error instanceof errors.UnexpectedEof;
}

/** Waits until a condition holds. */
export async function eventually(holds: () => boolean): Promise<void> {
  while (!holds()) {
    await settle();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** The bytes of memory that the process uses; without garbage if `gc()` can be called. */
export function residentMemory(): number {
  (globalThis as { gc?: () => void }).gc?.();
  return Deno.memoryUsage().rss;
}

/** Asserts that nothing listens: a connection is refused, or closed with the backlog. */
export async function assertRefused(port: number): Promise<void> {
  try {
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    const text = await hearTheEnd(conn);
    if (text !== "") throw new Error(`Something has said ${text}`);
  } catch (error) {
    const { ConnectionRefused } = Deno.errors;
    if (!(error instanceof ConnectionRefused) && !isLost(error)) throw error;
  }
}

/** An answer of HTTP/1.1, as it came. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
  /** Whether the whole answer has come. */
  readonly isWhole: boolean;
}

/** A client that writes and reads HTTP/1.1 by itself, and keeps its connection. */
export class RawClient implements Disposable {
  readonly conn: Deno.Conn;
  #text = "";
  #isEnded = false;

  constructor(conn: Deno.Conn) {
    this.conn = conn;
  }

  static async of(server: BaseServer): Promise<RawClient> {
    return new RawClient(await connectTo(server));
  }

  /** Sends a request. */
  send(path: string, method = "GET"): Promise<void> {
    return say(this.conn, `${method} ${path} HTTP/1.1\r\nHost: here\r\n\r\n`);
  }

  /** Reads an answer; `null` if the connection ends before its first byte. */
  async receive(): Promise<RawAnswer | null> {
    while (!this.#text.includes("\r\n\r\n")) {
      if (!await this.more()) return this.#part();
    }
    const [head, ...lines] = this.#take(this.#text.indexOf("\r\n\r\n") + 4)
      .trim().split("\r\n");
    const headers = new Headers(
      lines.map((line) => line.split(": ", 2) as [string, string]),
    );
    const status = Number(head!.split(" ")[1]);
    if (status === 204) return { status, headers, body: "", isWhole: true };
    const length = headers.get("content-length");
    if (length !== null) {
      const isWhole = await this.#has(Number(length));
      return { status, headers, body: this.#take(Number(length)), isWhole };
    }
    let body = "";
    while (await this.#until("\r\n")) {
      const size = parseInt(this.#take(this.#text.indexOf("\r\n") + 2), 16);
      const isThere = await this.#has(size + 2);
      body += this.#take(size);
      this.#take(2);
      if (!isThere) break;
      if (size === 0) return { status, headers, body, isWhole: true };
    }
    return { status, headers, body, isWhole: false };
  }

  /** Sends a request, and reads the answer. */
  async ask(path: string): Promise<RawAnswer | null> {
    try {
      await this.send(path);
    } catch (error) {
      if (!isLost(error)) throw error;
      return null;
    }
    return await this.receive();
  }

  #part(): RawAnswer | null {
    if (this.#text === "") return null;
    return { status: 0, headers: new Headers(), body: "", isWhole: false };
  }

  #take(count: number): string {
    const taken = this.#text.slice(0, count);
    this.#text = this.#text.slice(count);
    return taken;
  }

  async #has(count: number): Promise<boolean> {
    while (this.#text.length < count) if (!await this.more()) return false;
    return true;
  }

  async #until(end: string): Promise<boolean> {
    while (!this.#text.includes(end)) if (!await this.more()) return false;
    return true;
  }

  /** Reads more. Returns `false` at the end of the connection. */
  async more(): Promise<boolean> {
    if (this.#isEnded) return false;
    try {
      const buffer = new Uint8Array(64 * 1024);
      const count = await this.conn.read(buffer);
      if (count !== null) {
        // A character for each byte.
        const text = new TextDecoder("latin1").decode(
          buffer.subarray(0, count),
        );
        this.#text += text;
        return true;
      }
    } catch (error) {
      if (!isLost(error)) throw error;
    }
    this.#isEnded = true;
    return false;
  }

  [Symbol.dispose](): void {
    this.conn[Symbol.dispose]();
  }
}
