/** A client whose server is a stand-in here: `mongodb`. */

import { withSignal } from "../../mod.ts";
import { testKills } from "./_kills.ts";
import { serveMongo } from "./_peers.ts";
import { Relay } from "./_relay.ts";
import { testPackage } from "./_scenes.ts";

// Loaded without its types, which declare globals of Node and change those of other tests.
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
