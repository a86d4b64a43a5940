/** `amqplib`, with RabbitMQ. */

import { Buffer } from "node:buffer";
import { assertEquals } from "@std/assert";
import {
  type Greenlet,
  joinAll,
  killAll,
  patch,
  Queue,
  sleep,
  spawn,
  until,
} from "../../mod.ts";
import { Failures } from "../_bodies.ts";
import { test, withSeeds } from "../_random.ts";
import { turns } from "../_waits.ts";
import { arrive } from "../patch/_stops.ts";
import { KILLS, testKills } from "./_kills.ts";
import { missing, serveTests } from "./_programs.ts";
import { orGiveBack } from "./_recipes.ts";
import { Relay } from "./_relay.ts";
import { testPackage } from "./_scenes.ts";

// Loaded without its types, which declare globals of Node and change those of other tests.
const { default: amqp } = await import("amqplib" as string);

const reason = missing("rabbitmq-server");
const rabbitmqPort = serveTests("rabbitmq-server");

/** The bytes of a message that come before it is held back within its body. */
const HALF = 50_000;

/** The part of a message that is used. */
interface Message {
  content: Buffer;
}

/** The part of a channel with confirms that is used. */
interface Channel {
  assertQueue(
    queue: string,
    options?: object,
  ): Promise<{ queue: string; messageCount: number }>;
  checkQueue(queue: string): Promise<{ queue: string; messageCount: number }>;
  sendToQueue(
    queue: string,
    content: Buffer,
    options: object,
    done: (error: unknown) => void,
  ): boolean;
  get(queue: string): Promise<Message | false>;
  consume(
    queue: string,
    receive: (message: Message) => void,
  ): Promise<{ consumerTag: string }>;
  cancel(consumerTag: string): Promise<unknown>;
  ack(message: Message): void;
  nack(message: Message): void;
}

/** Connects to RabbitMQ, and opens a channel and a queue that ends with its connection. */
async function open(stack: AsyncDisposableStack, port = rabbitmqPort()) {
  const connection = await amqp.connect(`amqp://127.0.0.1:${port}`, {
    noDelay: true,
  });
  stack.defer(() => connection.close());
  const channel: Channel = await connection.createConfirmChannel();
  const { queue } = await channel.assertQueue("", { exclusive: true });
  return { channel, queue };
}

/** Sends a text, and waits until the server has confirmed it. */
function send(channel: Channel, queue: string, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (error: unknown) => error ? reject(error) : resolve();
    channel.sendToQueue(queue, Buffer.from(text), {}, done);
  });
}

/** Takes the next message, which is lost to others until it is acknowledged or given back. */
function take(channel: Channel, queue: string): PromiseLike<Message | false> {
  return orGiveBack(
    channel.get(queue),
    (late) => late && channel.nack(late),
  );
}

testPackage("amqplib", {
  "before the connection"(stack) {
    const relay = stack.use(new Relay(rabbitmqPort()));
    const url = `amqp://${relay.host}`;
    relay.hold();
    return {
      async call() {
        const connection = await amqp.connect(url);
        stack.defer(() => connection.close());
      },
      recipe: () =>
        orGiveBack<{ close(): unknown }>(
          amqp.connect(url),
          (late) => late.close(),
        ),
      begun: () => relay.connected(),
      freed() {
        relay.release();
        return relay.closed();
      },
      answer: () => relay.release(),
    };
  },
  async "waiting for the answer"(stack) {
    const relay = stack.use(new Relay(rabbitmqPort()));
    const { channel, queue } = await open(stack, relay.port);
    relay.hold();
    return {
      call: () => channel.checkQueue(queue),
      recipe: () => until(channel.checkQueue(queue)),
      begun: () => relay.heard(queue),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      after: () => channel.checkQueue(queue),
    };
  },
  async "waiting for a confirm"(stack) {
    const relay = stack.use(new Relay(rabbitmqPort()));
    const { channel, queue } = await open(stack, relay.port);
    relay.hold();
    return {
      call: () => send(channel, queue, "text"),
      recipe: () => until(send(channel, queue, "text")),
      begun: () => relay.heard("text"),
      freed: () => Promise.resolve(relay.release()),
      answer: () => relay.release(),
      async after() {
        const message = await channel.get(queue) as Message;
        assertEquals(`${message.content}`, "text");
      },
    };
  },
  async "waiting for a message"(stack) {
    const { channel, queue } = await open(stack);
    let received = 0;
    const { promise: message, resolve } = Promise.withResolvers<Message>();
    const { consumerTag } = await channel.consume(queue, (message) => {
      received++;
      channel.ack(message);
      resolve(message);
    });
    return {
      call: () => message,
      recipe: () => until(message, () => void channel.cancel(consumerTag)),
      begun: () => Promise.resolve(),
      freed: () => Promise.resolve(),
      async freedByRecipe() {
        await send(channel, queue, "text");
        // The answer comes behind any message that a consumer gets.
        assertEquals((await channel.checkQueue(queue)).messageCount, 1);
        assertEquals(received, 0);
      },
      answer: () => send(channel, queue, "text"),
      after: () => channel.checkQueue(queue),
    };
  },
  async "within the body"(stack) {
    const relay = stack.use(new Relay(rabbitmqPort()));
    const { channel, queue } = await open(stack, relay.port);
    const text = "x".repeat(2 * HALF);
    await send(channel, queue, text);
    relay.hold(HALF);
    return {
      call: () => channel.get(queue),
      recipe: () => take(channel, queue),
      begun: () => relay.heldBack(),
      freed: () => Promise.resolve(relay.release()),
      async freedByRecipe() {
        relay.release();
        let message: Message | false = false;
        while (!message) message = await channel.get(queue);
        assertEquals(message.content.length, text.length);
      },
      answer: () => relay.release(),
      after: () => channel.checkQueue(queue),
    };
  },
}, reason);

testKills("amqplib", async (stack) => {
  const { channel } = await open(stack);
  const exclusive = { exclusive: true };
  for (let i = 0; i < 10; i++) await channel.assertQueue(`${i}`, exclusive);
  return async (number) => {
    const name = `${number % 10}`;
    const found = await until(channel.checkQueue(name));
    return found.queue === name ? number : found.queue;
  };
}, reason);

/** How many messages are sent. */
const MESSAGES = 2 * KILLS;

/** Kills some greenlets at random, and waits for all. */
async function killSome(
  greenlets: Greenlet[],
  next: () => number,
): Promise<void> {
  for (const greenlet of greenlets) {
    await turns(Math.floor(next() * 3));
    if (next() < 0.5) greenlet.kill(undefined, { block: false });
  }
  await joinAll(greenlets, { raiseError: true });
}

test(
  "amqplib delivers each message once when senders and receivers are killed",
  () =>
    withSeeds(async (next) => {
      using failures = new Failures();
      using _ = patch();
      {
        await using stack = new AsyncDisposableStack();
        const { channel, queue } = await open(stack);
        const sent: string[] = [];
        const received: string[] = [];

        const sendOne = async (text: string) => {
          sent.push(text);
          await until(send(channel, queue, text));
        };

        /** Works a little on a message, which goes back to its queue if that is interrupted. */
        const work = async (message: Message) => {
          let isDone = false;
          try {
            await sleep(0);
            await until(channel.checkQueue(queue));
            isDone = true;
          } finally {
            if (isDone) {
              received.push(`${message.content}`);
              channel.ack(message);
            } else channel.nack(message);
          }
        };

        const receiveOne = async () => {
          const message = await take(channel, queue);
          if (message !== false) await work(message);
        };

        for (let number = 0; number < MESSAGES;) {
          const senders = Array.from(
            { length: 10 },
            () => spawn(sendOne, `${number++}`),
          );
          const receivers = Array.from({ length: 10 }, () => spawn(receiveOne));
          await killSome([...senders, ...receivers], next);
        }
        // The rest comes to greenlets that loop over the messages of a consumer.
        const messages = new Queue<Message>();
        const { consumerTag } = await channel.consume(
          queue,
          (message) => messages.putNowait(message),
        );
        const workAll = async () => {
          for await (const message of messages) await work(message);
        };
        const workers = Array.from({ length: 3 }, () => spawn(workAll));
        for (let kills = 0; received.length < sent.length;) {
          await turns(Math.floor(next() * 3));
          if (kills++ < KILLS) {
            workers.shift()!.kill(undefined, { block: false });
            workers.push(spawn(workAll));
          }
        }
        await killAll(workers);
        await channel.cancel(consumerTag);
        assertEquals(
          received.map(Number).sort((a, b) => a - b),
          sent.map(Number),
        );
        assertEquals((await channel.checkQueue(queue)).messageCount, 0);
      }
      await arrive();
      assertEquals(failures.errors, []);
    }),
  reason,
);
