/**
 * A WebSocket hub: it sends each client's messages to all others.
 *
 *     deno run -q -P=local-net examples/websocket_hub.ts
 *
 * Each member has a queue and a greenlet that sends from it. So a slow member does not delay the
 * others; a member that is too far behind is removed. Three clients in this program talk, one
 * leaves, and the hub stops.
 */

import {
  Full,
  HttpServer,
  nursery,
  Queue,
  run,
  ShutDown,
  spawn,
  until,
} from "@gevent/gevent";

/** The most messages that a member may be behind. */
const MOST_BEHIND = 100;

class Hub {
  readonly #members = new Map<string, Queue<string>>();

  /** Adds a client that asks for a WebSocket. */
  join(request: Request): Response {
    const name = new URL(request.url).pathname.slice(1);
    const { socket, response } = Deno.upgradeWebSocket(request);
    const messages = new Queue<string>(MOST_BEHIND);
    socket.onopen = () => {
      this.#members.set(name, messages);
      spawn(send, socket, messages);
      this.tellAll(`${name} is here`);
    };
    socket.onmessage = ({ data }) => this.tellAll(`${name}: ${data}`, name);
    socket.onclose = () => {
      messages.shutdown();
      if (!this.#members.delete(name)) return;
      this.tellAll(`${name} has left`);
    };
    return response;
  }

  /** Sends a message to all members but one. */
  tellAll(message: string, but?: string): void {
    for (const [name, messages] of this.#members) {
      if (name === but) continue;
      try {
        messages.putNowait(message);
      } catch (error) {
        if (!(error instanceof Full)) throw error;
        messages.shutdown({ immediate: true });
      }
    }
  }
}

/** Sends a member its messages, until its queue is shut down. */
async function send(socket: WebSocket, messages: Queue<string>): Promise<void> {
  try {
    for await (const message of messages) socket.send(message);
  } catch (error) {
    if (!(error instanceof ShutDown)) throw error;
  } finally {
    socket.close();
  }
}

/** A client, with a queue of the messages that it gets. */
async function connect(url: string, name: string) {
  const socket = new WebSocket(url + name);
  const heard = new Queue<string>();
  socket.onmessage = ({ data }) => {
    console.log(`${name} hears: ${data}`);
    heard.put(data);
  };
  const closed = new Promise((resolve) => socket.onclose = resolve);
  await until(
    new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    }),
  );
  /** Waits until it has got a certain message. */
  const hear = async (message: string) => {
    while (await heard.get() !== message);
  };
  return { socket, closed, hear };
}

async function main(): Promise<void> {
  const hub = new Hub();
  await using server = new HttpServer(
    { hostname: "127.0.0.1", port: 0 },
    (request) => hub.join(request),
  );
  server.start();
  const url = server.url.replace("http", "ws");

  const rose = await connect(url, "Rose");
  await rose.hear("Rose is here");
  const jack = await connect(url, "Jack");
  await rose.hear("Jack is here");
  const cal = await connect(url, "Cal");
  await nursery((clients) => {
    clients.spawn(() => rose.hear("Cal is here"));
    clients.spawn(() => jack.hear("Cal is here"));
  });

  jack.socket.send("look, a dolphin");
  await nursery((clients) => {
    clients.spawn(() => rose.hear("Jack: look, a dolphin"));
    clients.spawn(() => cal.hear("Jack: look, a dolphin"));
  });

  cal.socket.close();
  await rose.hear("Cal has left");

  await server.stop();
  await Promise.all([rose.closed, jack.closed]);
  console.log("the hub has stopped, and its sockets are closed");
}

if (import.meta.main) await run(main);
