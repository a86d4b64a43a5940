import { assert, assertEquals } from "@std/assert";
import { getCurrent, getHub, patch, sleep, spawn } from "../mod.ts";

/** What tells of messages from a server, and how it is closed. */
interface Source extends EventTarget {
  close(): void;
}

/** Tells of two messages, some time apart. */
function serve(): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    (request) => {
      if (request.headers.get("upgrade") !== "websocket") {
        let timer: ReturnType<typeof setTimeout> | undefined;
        const events = new ReadableStream({
          start(controller) {
            controller.enqueue("data: one\n\n");
            timer = setTimeout(() => controller.enqueue("data: two\n\n"), 50);
          },
          cancel: () => clearTimeout(timer),
        });
        return new Response(events.pipeThrough(new TextEncoderStream()), {
          headers: { "content-type": "text/event-stream" },
        });
      }
      const { socket, response } = Deno.upgradeWebSocket(request);
      socket.onopen = () => {
        socket.send("one");
        setTimeout(() => socket.readyState === 1 && socket.send("two"), 50);
      };
      return response;
    },
  );
}

function closed(source: Source): Promise<unknown> {
  if (source instanceof WebSocket) {
    return new Promise((resolve) => source.addEventListener("close", resolve));
  }
  return Promise.resolve();
}

const sources: Record<string, (address: string) => Source> = {
  WebSocket: (address) => new WebSocket(`ws://${address}`),
  EventSource: (address) => new EventSource(`http://${address}`),
};

for (const [name, open] of Object.entries(sources)) {
  Deno.test(`${name} that a killed greenlet has opened tells others of its messages, whose listeners may wait`, async () => {
    using _ = patch();
    await using server = serve();
    const { hostname, port } = server.addr;
    const messages: string[] = [];
    const current: unknown[] = [];
    const both = Promise.withResolvers<void>();
    let source!: Source;
    const opener = spawn(async () => {
      source = open(`${hostname}:${port}`);
      source.addEventListener("message", async (event) => {
        current.push(getCurrent());
        await sleep(1);
        current.push(getCurrent());
        messages.push((event as MessageEvent<string>).data);
        if (messages.length === 2) both.resolve();
      });
      await sleep(1e9);
    });
    await sleep(1);
    await opener.kill();
    await both.promise;
    const end = closed(source);
    source.close();
    await end;
    assertEquals(messages, ["one", "two"]);
    assertEquals(current, Array(4).fill(getHub()));
  });

  Deno.test(`${name} is under patch() what it was, for who asks`, () => {
    const original = Reflect.get(globalThis, name);
    {
      using _ = patch();
      const patched = Reflect.get(globalThis, name);
      assertEquals(patched.name, name);
      assertEquals(patched.length, original.length);
      assertEquals(patched.CLOSED, original.CLOSED);
      assert(patched.prototype === original.prototype);
      assert(patched.prototype.constructor === patched);
      assert(Object.create(patched.prototype) instanceof original);
    }
    assert(Reflect.get(globalThis, name) === original);
    assert(original.prototype.constructor === original);
  });
}
