/** WebSockets that several greenlets share, while the greenlet that connects is interrupted. */

import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { Agent, WebSocket as UndiciSocket } from "undici";
import { assertEquals, assertInstanceOf } from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  until,
} from "../../mod.ts";
import { Failures } from "../_bodies.ts";
import { test } from "../_random.ts";
import { Gate } from "../_waits.ts";
import { arrive } from "./_stops.ts";

// Loaded without their types, which declare globals of Node and change those of other tests.
const { WebSocket, WebSocketServer } = await import("ws" as string);
const { Server } = await import("socket.io" as string);
const { io } = await import("socket.io-client" as string);

type Upgrade = (
  request: IncomingMessage,
  socket: Duplex,
  head: Uint8Array,
) => void;

/** A server that answers requests for an upgrade when it is told to. */
class SlowServer {
  readonly http = createServer();
  /** Opened when the first request has come. */
  readonly asked = new Gate();
  readonly #told = new Gate();
  /** How many requests have come. */
  requests = 0;

  constructor(upgrade: Upgrade) {
    this.http.on("upgrade", async (request, socket, head) => {
      this.requests++;
      this.asked.open();
      await this.#told.opened;
      upgrade(request, socket, head);
    });
  }

  answer(): void {
    this.#told.open();
  }

  get port(): number {
    return (this.http.address() as AddressInfo).port;
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) =>
      this.http.listen(0, "127.0.0.1", resolve)
    );
  }

  async close(): Promise<void> {
    this.http.closeAllConnections();
    await new Promise<void>((resolve) => this.http.close(() => resolve()));
  }
}

/** A client that several greenlets share. */
interface Client {
  /** Waits until it has connected, and asks for an echo. */
  ask(text: string): Promise<unknown>;
}

/** What a socket of a package tells. */
interface Tell {
  opened(): void;
  failed(): void;
  received(text: string): void;
}

interface Socket {
  send(text: string): void;
  close(): unknown;
}

/** Starts a server of echoes, and shares one socket, which connects again when it fails. */
async function shareSocket(
  stack: AsyncDisposableStack,
  connect: (url: string, tell: Tell) => Socket,
): Promise<[SlowServer, () => Client]> {
  const sockets = new WebSocketServer({ noServer: true });
  const server = new SlowServer((request, socket, head) =>
    sockets.handleUpgrade(
      request,
      socket,
      head,
      (client: typeof WebSocket) => {
        client.on("message", (text: Uint8Array) => client.send(`${text}`));
      },
    )
  );
  await server.listen();
  stack.defer(() => server.close());
  return [server, () => {
    const opened = new Gate();
    const asked = new Map<string, (text: string) => void>();
    let socket: Socket;
    const begin = () => {
      socket = connect(`ws://127.0.0.1:${server.port}`, {
        opened: () => opened.open(),
        failed: () => void setTimeout(begin, 1),
        received: (text) => asked.get(text)?.(text),
      });
    };
    begin();
    stack.defer(async () => {
      await socket.close();
    });
    return {
      async ask(text) {
        await opened.opened;
        const answer = new Promise((resolve) => asked.set(text, resolve));
        socket.send(text);
        return await answer;
      },
    };
  }];
}

/** Starts a server, and makes a client of a package when it is told to. */
const packages: Record<
  string,
  (stack: AsyncDisposableStack) => Promise<[SlowServer, () => Client]>
> = {
  ws: (stack) =>
    shareSocket(stack, (url, tell) => {
      const socket = new WebSocket(url);
      // As packages do
      socket.on("error", tell.failed);
      socket.on("open", tell.opened);
      socket.on("message", (text: Uint8Array) => tell.received(`${text}`));
      return {
        send: (text) => socket.send(text),
        close: () => socket.terminate(),
      };
    }),
  "WebSocket of undici": (stack) =>
    shareSocket(stack, (url, tell) => {
      // Without time limits, whose timers it leaves running
      const dispatcher = new Agent({
        headersTimeout: 0,
        bodyTimeout: 0,
        connect: { timeout: 0 },
      });
      const socket = new UndiciSocket(url, { dispatcher });
      socket.onerror = tell.failed;
      socket.onopen = tell.opened;
      socket.onmessage = ({ data }) => tell.received(`${data}`);
      return {
        send: (text) => socket.send(text),
        async close() {
          socket.close();
          await dispatcher.destroy();
        },
      };
    }),
  async "socket.io-client"(stack) {
    const sockets = new Server({ transports: ["websocket"] });
    const server = new SlowServer((request, socket, head) =>
      sockets.engine.handleUpgrade(request, socket, head)
    );
    sockets.attach(createServer());
    sockets.on("connection", (socket: typeof io.Socket) => {
      socket.on(
        "ask",
        (text: string, answer: (text: string) => void) => answer(text),
      );
    });
    await server.listen();
    stack.defer(() => server.close());
    stack.defer(() => sockets.close());
    return [server, () => {
      const socket = io(`http://127.0.0.1:${server.port}`, {
        transports: ["websocket"],
        reconnectionDelay: 1,
        randomizationFactor: 0,
        forceNew: true,
      });
      stack.defer(() => socket.close());
      return { ask: (text) => socket.emitWithAck("ask", text) };
    }];
  },
};

const ways: Record<string, (greenlet: Greenlet) => unknown> = {
  killed: (greenlet) => greenlet.kill(undefined, { block: false }),
  "thrown an error": (greenlet) =>
    greenlet.throw(new GreenletExit("The test's own")),
};

const kinds: Record<string, (ask: () => Promise<unknown>) => Greenlet> = {
  "async body": (ask) =>
    spawn(async () => {
      await ask();
      // An interrupt that the package did not throw comes here.
      await sleep(0);
    }),
  "generator body": (ask) =>
    spawn(function* () {
      yield* until(ask());
      yield* sleep(0);
    }),
};

for (const [name, open] of Object.entries(packages)) {
  for (const [way, interrupt] of Object.entries(ways)) {
    for (const [kind, start] of Object.entries(kinds)) {
      test(`${name} serves other greenlets when the one that connects is ${way}, ${kind}`, async () => {
        using failures = new Failures();
        using _ = patch();
        {
          await using stack = new AsyncDisposableStack();
          const [server, make] = await open(stack);
          let client: Client | undefined;
          const ask = (text: string) => (client ??= make()).ask(text);
          const first = start(() => ask("first"));
          await server.asked.opened;
          const other = spawn(() => ask("other"));
          interrupt(first);
          await arrive();
          server.answer();
          assertEquals(await other.get(), "other");
          await first.join();
          assertInstanceOf(first.value, GreenletExit);
          assertEquals(await ask("last"), "last");
          assertEquals(server.requests, 1);
        }
        assertEquals(failures.errors, []);
      });
    }
  }
}
