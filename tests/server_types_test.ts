import { assertEquals } from "@std/assert";
import {
  BackdoorServer,
  connect,
  DatagramServer,
  listen,
  type Socket,
  StreamServer,
} from "../mod.ts";

Deno.test("StreamServer's types know the addresses of what it listens on", async () => {
  // No line here has a cast: the test is that it compiles.
  const met: string[] = [];
  const handle = (socket: Socket, peer: Deno.NetAddr) => {
    met.push(peer.hostname);
    return socket.sendAll("hello");
  };
  const tcp = { hostname: "127.0.0.1", port: 0 };
  await using one = new StreamServer(tcp, handle);
  await using two = new StreamServer(listen(tcp), handle);
  await using three = new StreamServer(Deno.listen(tcp), (socket, peer) => {
    met.push(socket.remoteAddr.hostname, peer.hostname);
  });
  const all: StreamServer[] = [one, two, three];
  for (const server of all) server.start();
  for (const server of [one, two, three]) {
    using socket = await connect(server.address);
    assertEquals(socket.remoteAddr.port, server.address.port);
    while ((await socket.recv()).length > 0);
  }
  assertEquals(met, Array(4).fill("127.0.0.1"));

  const path = `${Deno.makeTempDirSync()}/socket`;
  await using four = new StreamServer(
    { transport: "unix", path },
    (_socket, peer) => {
      met.push(peer.transport satisfies "unix" | "unixpacket");
    },
  );
  assertEquals(four.address.path, path);
  await using five = new DatagramServer(tcp, () => {});
  await using six = new BackdoorServer(tcp);

  for (const server of [five, six]) assertEquals(server.address.port, 0);
});

Deno.test("StreamServer's types allow any address in a subclass", () => {
  class Forwarder extends StreamServer {
    constructor(port: number) {
      super({ port }, (socket: Socket, peer: Deno.Addr) => [socket, peer]);
    }
  }
  class Known extends StreamServer<{ port: number }> {}
  const server: StreamServer = new Known({ port: 0 }, (_, { port }) => port);
  assertEquals(new Forwarder(0).address, { port: 0 });
  assertEquals(server.address, { port: 0 });
});
