/**
 * A relay between a client and its server, which sees what the client does and can hold back
 * what the server says.
 *
 * @module
 */

/** Where it listens. */
const HOSTNAME = "127.0.0.1";

/** One character for each byte. */
const decoder = new TextDecoder("latin1");

/** Whether the other side has gone. */
function isGone(error: unknown): boolean {
  const { errors } = Deno;
  return error instanceof errors.ConnectionReset ||
    error instanceof errors.BrokenPipe ||
    error instanceof errors.BadResource ||
    error instanceof errors.Interrupted ||
    error instanceof errors.NotConnected;
}

/** Relays connections to a server. Without one, it accepts them and never answers. */
export class Relay implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: HOSTNAME, port: 0 });
  readonly #target: number | null;
  readonly #serving: Promise<void>;
  readonly #relays = new Set<Promise<void>>();
  readonly #conns = new Set<Deno.Conn>();
  #held: PromiseWithResolvers<void> | null = null;
  /** How many bytes it lets through before it holds back the others. */
  #free = 0;
  #hasHeldBack = false;
  #received = "";
  #change = Promise.withResolvers<void>();
  /** How many connections have been accepted. */
  accepted = 0;
  /** How many connections the clients have not closed. */
  open = 0;

  /** @param target The port of the server. */
  constructor(target: number | null = null) {
    this.#target = target;
    this.#serving = this.#serve();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  /** Where it listens, for a URL. */
  get host(): string {
    return `${HOSTNAME}:${this.port}`;
  }

  /** Holds back what the server says, from now on, but for the first bytes. */
  hold(free = 0): void {
    this.#held ??= Promise.withResolvers();
    this.#free = free;
    this.#hasHeldBack = false;
    this.#received = "";
  }

  /** Lets through what it held back. */
  release(): void {
    this.#held?.resolve();
    this.#held = null;
  }

  /** Waits until clients have sent a text since {@linkcode Relay.hold}. */
  heard(text: string): Promise<void> {
    return this.#until(() => this.#received.includes(text));
  }

  /** Waits until it has held something back. */
  heldBack(): Promise<void> {
    return this.#until(() => this.#hasHeldBack);
  }

  /** Waits until a client has connected. */
  connected(): Promise<void> {
    return this.#until(() => this.accepted > 0);
  }

  /** Waits until the clients have closed all connections but so many. */
  closed(left = 0): Promise<void> {
    return this.#until(() => this.open <= left);
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) await this.#change.promise;
  }

  #tell(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }

  async #serve(): Promise<void> {
    for await (const conn of this.#listener) {
      this.accepted++;
      this.open++;
      this.#tell();
      const relay = this.#relay(conn).finally(() => this.#relays.delete(relay));
      this.#relays.add(relay);
    }
  }

  async #relay(client: Deno.Conn): Promise<void> {
    this.#conns.add(client);
    let server: Deno.Conn | null = null;
    if (this.#target !== null) {
      server = await Deno.connect({ hostname: HOSTNAME, port: this.#target });
      this.#conns.add(server);
    }
    const back = server === null ? null : this.#copy(server, async (bytes) => {
      if (this.#held !== null) {
        const passed = bytes.subarray(0, this.#free);
        this.#free -= passed.length;
        await writeAll(client, passed);
        bytes = bytes.subarray(passed.length);
      }
      if (bytes.length === 0) return;
      while (this.#held !== null) {
        this.#hasHeldBack = true;
        this.#tell();
        await this.#held.promise;
      }
      await writeAll(client, bytes);
    }).finally(() => this.#close(client));
    await this.#copy(client, async (bytes) => {
      this.#received += decoder.decode(bytes);
      if (server !== null) await writeAll(server, bytes);
      this.#tell();
    });
    this.open--;
    this.#tell();
    this.#close(client);
    if (server !== null) this.#close(server);
    await back;
  }

  async #copy(
    from: Deno.Conn,
    pass: (bytes: Uint8Array) => Promise<void>,
  ): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    try {
      for (;;) {
        const count = await from.read(buffer);
        if (count === null) return;
        await pass(buffer.slice(0, count));
      }
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }

  #close(conn: Deno.Conn): void {
    if (this.#conns.delete(conn)) conn.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
    this.#listener.close();
    for (const conn of this.#conns) this.#close(conn);
    await this.#serving;
    await Promise.all(this.#relays);
  }
}

async function writeAll(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await conn.write(bytes.subarray(at));
  }
}
