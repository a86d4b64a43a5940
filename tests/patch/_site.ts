/**
 * A web server whose answers a test sends itself, as slowly as it likes.
 *
 * @module
 */

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The head of a response with so many bytes of a body, on a connection of its own. */
export function head(length: number, ...headers: string[]): string {
  return [
    "HTTP/1.1 200 OK",
    "connection: close",
    `content-length: ${length}`,
    ...headers,
    "\r\n",
  ].join("\r\n");
}

/** Gives its requests one by one, and closes what is left of them in the end. */
export class Site implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #calls: Call[] = [];

  get url(): string {
    return `http://127.0.0.1:${this.#listener.addr.port}/`;
  }

  /** Waits for the next request; its head has come then. */
  async next(): Promise<Call> {
    for (;;) {
      const call = new Call(await this.#listener.accept());
      this.#calls.push(call);
      while (await call.receive()) {
        if (call.received.includes("\r\n\r\n")) return call;
      }
      call.close();
    }
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    for (const call of this.#calls) call.close();
  }
}

/** A connection, and what was received by it. */
export class Call {
  readonly #conn: Deno.Conn;
  #closed = false;
  received = "";

  constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  /** Sends a part of a response. */
  async send(text: string): Promise<void> {
    let bytes = encoder.encode(text);
    while (bytes.length > 0) {
      bytes = bytes.subarray(await this.#conn.write(bytes));
    }
  }

  /** Sends a whole response. */
  async answer(text: string, ...headers: string[]): Promise<void> {
    await this.send(head(text.length, ...headers) + text);
    this.close();
  }

  /** Receives some more; returns whether there was any. */
  async receive(): Promise<boolean> {
    const buffer = new Uint8Array(64 * 1024);
    let count;
    try {
      count = await this.#conn.read(buffer);
    } catch (error) {
      const isOver = this.#closed ||
        error instanceof Deno.errors.ConnectionReset;
      if (!isOver) throw error;
      return false;
    }
    if (count === null) return false;
    this.received += decoder.decode(buffer.subarray(0, count));
    return true;
  }

  /** Waits until the client has closed the connection. */
  async gone(): Promise<void> {
    while (await this.receive());
    this.close();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#conn.close();
  }
}
