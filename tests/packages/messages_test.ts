/** Clients of message brokers, and of servers that send messages. */

import { connect } from "nats";
import type { AddressInfo } from "node:net";
import { WebSocket, WebSocketServer } from "ws";
import { until } from "../../mod.ts";
import { testKills } from "./_kills.ts";
import { missing, serveTests } from "./_programs.ts";
import { untilMessage } from "./_recipes.ts";
import { Relay } from "./_relay.ts";
import { testPackage } from "./_scenes.ts";

// Loaded without their types, which declare globals of Node and change those of other tests.
const { default: mqtt } = await import("mqtt" as string);

const natsPort = serveTests("nats-server");
const mosquittoPort = serveTests("mosquitto");

/** Longer than any test. */
const LONG = 100_000_000;

testPackage("nats", {
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(natsPort()));
    const client = await connect({ servers: relay.host });
    stack.defer(() => client.close());
    client.subscribe("ask", { callback: (_, message) => message.respond() });
    const ask = () => client.request("ask", "", { timeout: LONG });
    await ask();
    relay.hold();
    return {
      call: ask,
      recipe: () => until(ask()),
      begun: () => relay.heard("ask"),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: ask,
    };
  },
  async "waiting for a message"(stack) {
    const client = await connect({ servers: `127.0.0.1:${natsPort()}` });
    stack.defer(() => client.close());
    const subscription = client.subscribe("news");
    const readOne = async () => {
      for await (const _ of subscription) return;
    };
    const publish = () => client.publish("news", "text");
    return {
      call: readOne,
      recipe: () => until(readOne(), () => subscription.unsubscribe()),
      begun: () => client.flush(),
      freed: () => subscription.closed,
      answer: publish,
      after: () => client.flush(),
    };
  },
}, missing("nats-server"));

testKills("nats", async (stack) => {
  const client = await connect({ servers: `127.0.0.1:${natsPort()}` });
  stack.defer(() => client.close());
  client.subscribe("ask", {
    callback: (_, message) => message.respond(message.data),
  });
  return async (number) => {
    const request = client.request("ask", `${number}`, { timeout: LONG });
    return (await until(request)).string();
  };
}, missing("nats-server"));

testPackage("mqtt", {
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(mosquittoPort()));
    const url = `mqtt://${relay.host}`;
    const client = await mqtt.connectAsync(url, {
      keepalive: 0,
      reconnectPeriod: 0,
    });
    stack.defer(() => client.endAsync());
    relay.hold();
    const publish = () => client.publishAsync("news", "text", { qos: 1 });
    return {
      call: publish,
      recipe: () => until(publish()),
      begun: () => relay.heard("news"),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: publish,
    };
  },
}, missing("mosquitto"));

testPackage("ws", {
  "before the connection"(stack) {
    const relay = stack.use(new Relay());
    let socket: WebSocket;
    const open = () => {
      socket = new WebSocket(`ws://${relay.host}`);
      socket.on("error", () => {});
      return new Promise<void>((resolve) => {
        socket.once("open", () => resolve());
        socket.once("close", () => resolve());
      });
    };
    return {
      call: open,
      recipe: () => until(open(), () => socket.terminate()),
      begun: () => relay.connected(),
      freed: () => relay.closed(),
      answer: () => socket.terminate(),
    };
  },
  async "waiting for the answer"(stack) {
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    await new Promise((resolve) => server.once("listening", resolve));
    stack.defer(() =>
      new Promise<void>((resolve) => server.close(() => resolve()))
    );
    const { port } = server.address() as AddressInfo;
    const relay = stack.use(new Relay(port));
    const socket = new WebSocket(`ws://${relay.host}`);
    await new Promise((resolve) => socket.once("open", resolve));
    stack.defer(() => socket.terminate());
    return {
      call: () => new Promise((resolve) => socket.once("message", resolve)),
      recipe: () => untilMessage(socket),
      begun: () => Promise.resolve(),
      freed: () => relay.closed(),
      answer() {
        for (const client of server.clients) client.send("text");
      },
    };
  },
});
