/**
 * Three producers and two consumers around a queue with room for two items.
 *
 * A producer waits while the queue is full, so it can't outrun the consumers. When all items
 * are put, the queue is shut down: the consumers take the items that are left, and their loops
 * end.
 *
 *     deno run -q -P=none examples/producer_consumer.ts
 */

import { joinAll, nursery, Queue, sleep } from "@gevent/gevent";

const queue = new Queue<string>(2);

async function produce(name: string) {
  for (let count = 1; count <= 3; count++) {
    const item = `${name} ${count}`;
    const note = queue.full() ? ", and waits for room" : "";
    console.log(`producer puts ${item}${note}`);
    await queue.put(item);
    await sleep(5);
  }
}

async function consume(name: string) {
  let count = 0;
  for await (const item of queue) {
    await sleep(20);
    console.log(`  ${name} has eaten ${item}`);
    count++;
  }
  console.log(`${name} ends after ${count} items`);
}

// Ends when all its greenlets have ended. If one failed, the others would be killed.
await nursery(async (n) => {
  const fruits = ["apple", "banana", "cherry"];
  const producers = fruits.map((fruit) => n.spawn(produce, fruit));
  n.spawn(consume, "rose");
  n.spawn(consume, "jack");

  await joinAll(producers);
  console.log("all items are put");
  queue.shutdown();
});
console.log(`${queue.qsize()} items are left`);
