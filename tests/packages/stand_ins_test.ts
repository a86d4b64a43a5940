/** Clients whose servers are stand-ins here: `mongodb` and `amqplib`. */

import { until, withSignal } from "../../mod.ts";
import { testKills } from "./_kills.ts";
import { serveAmqp, serveMongo } from "./_peers.ts";
import { connectAmqp } from "./_recipes.ts";
import { Relay } from "./_relay.ts";
import { testPackage } from "./_scenes.ts";

// Loaded without their types, which declare globals of Node and change those of other tests.
const { default: amqp } = await import("amqplib" as string);
const { BSON, MongoClient } = await import("mongodb" as string);

/** Without timers, which no test waits for. */
const OPTIONS = { serverMonitoringMode: "poll", maxPoolSize: 1 };

/** The bytes of an answer that come before it is held back within its body. */
const HALF = 50_000;

/** Connects to the stand-in for MongoDB by a relay. */
async function openMongo(stack: AsyncDisposableStack) {
  const relay = stack.use(new Relay(await serveMongo(stack, BSON)));
  const client = new MongoClient(`mongodb://${relay.host}`, OPTIONS);
  stack.defer(() => client.close());
  await client.connect();
  const documents = client.db("db").collection("collection");
  const find = (filter: object, options?: object) =>
    documents.find(filter, options).toArray();
  await find({});
  return { relay, find };
}

testPackage("mongodb", {
  async "waiting for the answer"(stack) {
    const { relay, find } = await openMongo(stack);
    const open = relay.open;
    relay.hold();
    return {
      call: () => find({ text: "wanted" }),
      recipe: () =>
        withSignal((signal) => find({ text: "wanted" }, { signal })),
      begun: () => relay.heard("wanted"),
      async freed() {
        await relay.closed(open - 1);
        relay.release();
      },
      answer: () => relay.release(),
      after: () => find({}),
    };
  },
  async "within the body"(stack) {
    const { relay, find } = await openMongo(stack);
    const open = relay.open;
    relay.hold(HALF);
    const filter = { text: "x".repeat(2 * HALF) };
    return {
      call: () => find(filter),
      recipe: () => withSignal((signal) => find(filter, { signal })),
      begun: () => relay.heldBack(),
      async freed() {
        await relay.closed(open - 1);
        relay.release();
      },
      answer: () => relay.release(),
      after: () => find({}),
    };
  },
});

testKills("mongodb", async (stack) => {
  const port = await serveMongo(stack, BSON);
  const options = { ...OPTIONS, maxPoolSize: 5 };
  const client = new MongoClient(`mongodb://127.0.0.1:${port}`, options);
  stack.defer(() => client.close());
  await client.connect();
  const documents = client.db("db").collection("collection");
  return async (number) => {
    const found = await withSignal((signal) =>
      documents.find({ number }, { signal }).toArray()
    );
    return (found as { number: number }[])[0]!.number;
  };
});

testPackage("amqplib", {
  async "before the connection"(stack) {
    const relay = stack.use(new Relay(await serveAmqp(stack)));
    const url = `amqp://${relay.host}`;
    relay.hold();
    return {
      async call() {
        const connection = await amqp.connect(url);
        stack.defer(() => connection.close());
      },
      recipe: () => connectAmqp(amqp, url),
      begun: () => relay.connected(),
      freed() {
        relay.release();
        return relay.closed();
      },
      answer: () => relay.release(),
    };
  },
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(await serveAmqp(stack)));
    const connection = await amqp.connect(`amqp://${relay.host}`);
    stack.defer(() => connection.close());
    const channel = await connection.createChannel();
    relay.hold();
    return {
      call: () => channel.checkQueue("queue"),
      recipe: () => until(channel.checkQueue("queue")),
      begun: () => relay.heard("queue"),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: () => channel.checkQueue("next"),
    };
  },
});

testKills("amqplib", async (stack) => {
  const port = await serveAmqp(stack);
  const connection = await amqp.connect(`amqp://127.0.0.1:${port}`);
  stack.defer(() => connection.close());
  const channel = await connection.createChannel();
  return async (number) => {
    const found = await until(channel.checkQueue(`${number}`));
    return (found as { queue: string }).queue;
  };
});
