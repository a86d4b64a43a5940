// Handlers that stop their own server.

import { assertEquals } from "@std/assert";
import {
  type BaseServer,
  Event,
  HttpServer,
  sleep,
  type Socket,
  StreamServer,
} from "../mod.ts";
import { testBoth } from "./_bodies.ts";
import { turns } from "./_waits.ts";
import { connectTo, eventually, hearTheEnd, HERE, say } from "./_servers.ts";

const LONG = 100_000_000;

/** A server, and the event after which each of its handlers stops it and then answers. */
class Stopped {
  readonly go = new Event();
  server!: BaseServer;
}

type Handler = (it: Stopped, socket?: Socket) => unknown;

/** Makes a server of each kind. */
const KINDS: Record<string, (it: Stopped, handle: Handler) => BaseServer> = {
  StreamServer: (it, handle) =>
    new StreamServer(HERE, (socket) => handle(it, socket), {
      stopTimeout: LONG,
    }),
  HttpServer: (it, handle) =>
    new HttpServer(HERE, () => handle(it) as Promise<Response>, {
      stopTimeout: LONG,
    }),
};

/** They stop the server. That kills at once the handlers that it does not leave out. */
const HANDLERS = {
  async async(it: Stopped, socket?: Socket) {
    await it.go.wait();
    await it.server.stop({ timeout: 0 });
    await sleep(0);
    await socket?.sendAll("bye");
    return new Response("bye");
  },
  *generator(it: Stopped, socket?: Socket): Generator<unknown, Response> {
    yield* it.go.wait();
    yield* it.server.stop({ timeout: 0 });
    yield* sleep(0);
    if (socket !== undefined) yield* socket.sendAll("bye");
    return new Response("bye");
  },
};

/** Makes a request, and returns the last three characters of the answer. */
async function ask(server: BaseServer): Promise<string> {
  using conn = await connectTo(server);
  await say(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  return (await hearTheEnd(conn)).slice(-3);
}

for (const [kind, make] of Object.entries(KINDS)) {
  testBoth(
    `${kind}.stop() by two handlers at once does not wait for, or kill, the other one`,
    HANDLERS as never,
    async (body) => {
      const it = new Stopped();
      it.server = make(it, body as Handler);
      it.server.start();
      const answers = [ask(it.server), ask(it.server)];
      await eventually(() => it.server.connections.size === 2);
      it.go.set();
      assertEquals(await Promise.all(answers), ["bye", "bye"]);
      await it.server.stop({ timeout: 0 });
    },
  );

  testBoth(
    `${kind}.serveForever() waits for the handler that has stopped the server`,
    {
      async async(it: Stopped, socket?: Socket) {
        await it.server.stop({ timeout: 0 });
        await it.go.wait();
        return await HANDLERS.async(it, socket);
      },
      *generator(it: Stopped, socket?: Socket): Generator<unknown, Response> {
        yield* it.server.stop({ timeout: 0 });
        yield* it.go.wait();
        return yield* HANDLERS.generator(it, socket);
      },
    } as never,
    async (body) => {
      const it = new Stopped();
      it.server = make(it, body as Handler);
      let isOver = false;
      const served = it.server.serveForever().then(() => isOver = true);
      const answer = ask(it.server);
      await eventually(() => it.server.closed);
      await turns(10);
      assertEquals(isOver, false);
      it.go.set();
      assertEquals(await answer, "bye");
      await served;
    },
  );
}
