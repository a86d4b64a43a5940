/** Clients of queues, of mail, and of calls to other servers. */

import { Redis } from "ioredis";
import { Buffer } from "node:buffer";
import type { EventEmitter } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { promisify } from "node:util";
import { assertEquals } from "@std/assert";
import { until } from "../../mod.ts";
import { testKills } from "./_kills.ts";
import { serveMail } from "./_peers.ts";
import { missing, serveTests } from "./_programs.ts";
import { callGrpc, sendMail } from "./_recipes.ts";
import { Relay } from "./_relay.ts";
import { testPackage } from "./_scenes.ts";

// Loaded without their types, which declare globals of Node and change those of other tests.
const { Queue, QueueEvents, Worker } = await import("bullmq" as string);
const grpc = await import("@grpc/grpc-js" as string);
const { default: nodemailer } = await import("nodemailer" as string);
const { Server } = await import("socket.io" as string);
const { io } = await import("socket.io-client" as string);

const redisPort = serveTests("redis-server");

/** Connects to Redis as BullMQ needs it. */
function connect(port: number, stack: AsyncDisposableStack): Redis {
  const redis = new Redis(port, "127.0.0.1", {
    maxRetriesPerRequest: null,
    disconnectTimeout: 1,
  });
  stack.defer(async () => {
    await redis.quit();
  });
  return redis;
}

testPackage("bullmq", {
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(redisPort()));
    const connection = connect(relay.port, stack);
    const queue = new Queue(crypto.randomUUID(), { connection });
    stack.defer(() => queue.close());
    await queue.waitUntilReady();
    const add = () => queue.add("job", "data");
    await add();
    relay.hold();
    return {
      call: add,
      recipe: () => until(add()),
      begun: () => relay.heard("data"),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: add,
    };
  },
  async "waiting for the end of a job"(stack) {
    const connection = connect(redisPort(), stack);
    const name = crypto.randomUUID();
    const queue = new Queue(name, { connection });
    stack.defer(() => queue.close());
    const events = new QueueEvents(name, { connection });
    stack.defer(() => events.close());
    await events.waitUntilReady();
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    const { promise: end, resolve: release } = Promise.withResolvers<void>();
    const worker = new Worker(name, () => {
      begin();
      return end;
    }, { connection });
    stack.defer(() => worker.close());
    const completed = new Promise((resolve) =>
      worker.once("completed", resolve)
    );
    const job = await queue.add("job", "data");
    const wait = () => job.waitUntilFinished(events);
    return {
      call: wait,
      recipe: () => until(wait()),
      begun: () => begun,
      freed: () => Promise.resolve(),
      answer: () => release(),
      // It has not been stopped.
      async after() {
        release();
        await completed;
      },
    };
  },
}, missing("redis-server"));

testKills("bullmq", async (stack) => {
  const connection = connect(redisPort(), stack);
  const queue = new Queue(crypto.randomUUID(), { connection });
  stack.defer(() => queue.close());
  await queue.waitUntilReady();
  return async (number) => {
    const jobId = `job-${number}`;
    await until(queue.add("job", number, { jobId }));
    return (await until<{ data: number }>(queue.getJob(jobId))).data;
  };
}, missing("redis-server"));

testKills("socket.io-client", async (stack) => {
  const http = createServer();
  const server = new Server(http);
  server.on("connection", (socket: typeof io.Socket) => {
    socket.on("ask", (number: number, answer: (number: number) => void) => {
      answer(number);
    });
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  stack.defer(() => server.close());
  const { port } = http.address() as AddressInfo;
  const socket = io(`http://127.0.0.1:${port}`, {
    transports: ["websocket"],
    reconnection: false,
  });
  stack.defer(() => socket.close());
  await new Promise((resolve) => socket.once("connect", resolve));
  return (number) => until(socket.emitWithAck("ask", number));
});

testPackage("socket.io-client", {
  async "waiting for the answer"(stack) {
    const http = createServer();
    const server = new Server(http);
    let answer: (() => void) | undefined;
    let isHeld = true;
    const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
    server.on("connection", (socket: typeof io.Socket) => {
      socket.on("ask", (acknowledge: () => void) => {
        answer = acknowledge;
        ask();
        if (!isHeld) answer();
      });
    });
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    stack.defer(() => server.close());
    const { port } = http.address() as AddressInfo;
    const socket = io(`http://127.0.0.1:${port}`, {
      transports: ["websocket"],
      reconnection: false,
    });
    stack.defer(() => socket.close());
    await new Promise((resolve) => socket.once("connect", resolve));
    const release = () => {
      isHeld = false;
      answer!();
    };
    return {
      call: () => socket.emitWithAck("ask"),
      recipe: () => until(socket.emitWithAck("ask")),
      begun: () => asked,
      freed: () => Promise.resolve(release()),
      answer: release,
      after: () => socket.emitWithAck("ask"),
    };
  },
});

testPackage("nodemailer", {
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(await serveMail(stack)));
    const options = { host: "127.0.0.1", port: relay.port };
    const mail = { from: "a@example.org", to: "b@example.org", text: "Hello" };
    relay.hold();
    return {
      call: () => nodemailer.createTransport(options).sendMail(mail),
      recipe: () => sendMail(nodemailer, options, mail),
      begun: () => relay.connected(),
      freed: () => relay.closed(),
      answer: () => relay.release(),
      async after() {
        relay.release();
        await sendMail(nodemailer, options, mail);
      },
    };
  },
});

testKills("nodemailer", async (stack) => {
  const relay = stack.use(new Relay(await serveMail(stack)));
  // No greenlet leaves its connection open.
  stack.defer(() => relay.closed());
  return async (number) => {
    const mail = { from: "a@example.org", to: "b@example.org" };
    const options = { host: "127.0.0.1", port: relay.port };
    const sent = await sendMail(nodemailer, options, {
      ...mail,
      subject: `${number}`,
    });
    return (sent as { response: string }).response.replace("250 ", "");
  };
});

/** A method that takes and gives a text. */
const METHOD = {
  path: "/test.Test/Ask",
  requestStream: false,
  responseStream: false,
  requestSerialize: (text: string) => Buffer.from(text),
  requestDeserialize: (bytes: Uint8Array) => `${bytes}`,
  responseSerialize: (text: string) => Buffer.from(text),
  responseDeserialize: (bytes: Uint8Array) => `${bytes}`,
};

/** Starts a server of that method, and connects a client, outside greenlets. */
async function connectGrpc(
  server: InstanceType<typeof grpc.Server>,
  stack: AsyncDisposableStack,
) {
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync(
      "127.0.0.1:0",
      grpc.ServerCredentials.createInsecure(),
      (error: unknown, port: number) => error ? reject(error) : resolve(port),
    )
  );
  stack.defer(() => server.forceShutdown());
  const Client = grpc.makeGenericClientConstructor({ ask: METHOD }, "Test");
  const client = new Client(
    `127.0.0.1:${port}`,
    grpc.credentials.createInsecure(),
  );
  stack.defer(() => client.close());
  await promisify(client.waitForReady.bind(client, Infinity))();
  return client;
}

testPackage("@grpc/grpc-js", {
  async "waiting for the answer"(stack) {
    const server = new grpc.Server();
    const { promise: asked, resolve: hear } = Promise.withResolvers<void>();
    const cancelled = Promise.withResolvers<void>();
    let isHeld = true;
    server.addService({ ask: METHOD }, {
      ask(call: EventEmitter, done: (error: unknown, text?: string) => void) {
        if (!isHeld) return done(null, "answer");
        call.on("cancelled", cancelled.resolve);
        hear();
      },
    });
    const client = await connectGrpc(server, stack);
    const ask: () => Promise<unknown> = promisify(
      client.ask.bind(client, "question"),
    );
    return {
      call: ask,
      recipe: () => callGrpc<string>((done) => client.ask("question", done)),
      begun: () => asked,
      freed: () => cancelled.promise,
      async after() {
        isHeld = false;
        assertEquals(await ask(), "answer");
      },
    };
  },
});

testKills("@grpc/grpc-js", async (stack) => {
  const server = new grpc.Server();
  server.addService({ ask: METHOD }, {
    ask(
      call: { request: string },
      done: (error: unknown, text: string) => void,
    ) {
      done(null, call.request);
    },
  });
  const client = await connectGrpc(server, stack);
  return (number) => callGrpc<string>((done) => client.ask(`${number}`, done));
});
