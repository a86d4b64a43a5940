import { assertEquals } from "@std/assert";
import async from "async";
import { Mutex } from "async-mutex";
import { Sema } from "async-sema";
import Bottleneck from "bottleneck";
import { bulkhead } from "cockatiel";
import genericPool from "generic-pool";
import pLimit from "p-limit";
import PQueue from "p-queue";
import { Greenlet, GreenletExit, patch, sleep, spawn, until } from "../mod.ts";
import { testBoth } from "./_bodies.ts";

type Task = () => Promise<number>;
/** Has a queue run a task when there is room, and gives what that gives. */
type Add = (task: Task) => Promise<number>;

/** How many tasks run at once. */
const SIZE = 5;
const GREENLETS = 100;

/** Packages with queues that greenlets may share. */
const queues: Record<string, () => Add> = {
  "p-queue": () => {
    const queue = new PQueue({ concurrency: SIZE });
    return (task) => queue.add(task);
  },
  "async.queue": () => {
    const queue = async.queue<Task, number>((task) => task(), SIZE);
    return (task) => queue.pushAsync(task) as unknown as Promise<number>;
  },
  "async.queue of callbacks": () => {
    const queue = async.queue<Task, number>(
      (task, done) => void task().then((value) => done(null, value), done),
      SIZE,
    );
    return (task) =>
      new Promise((resolve, reject) => {
        queue.push<number>(task, (error, value) => error ? reject(error) : resolve(value!));
      });
  },
  Bottleneck: () => {
    const bottleneck = new Bottleneck({ maxConcurrent: SIZE });
    return (task) => bottleneck.schedule(task);
  },
  "cockatiel's bulkhead": () => {
    const policy = bulkhead(SIZE, Infinity);
    return (task) => policy.execute(task);
  },
  "p-limit": () => pLimit(SIZE),
  "generic-pool": () => {
    const pool = genericPool.createPool({
      create: () => Promise.resolve({}),
      destroy: () => Promise.resolve(),
    }, { max: SIZE });
    return (task) => pool.use(task) as Promise<number>;
  },
  "async-sema": () => {
    const sema = new Sema(SIZE);
    return async (task) => {
      await sema.acquire();
      try {
        return await task();
      } finally {
        sema.release();
      }
    };
  },
  "async-mutex": () => {
    const mutex = new Mutex();
    return (task) => mutex.runExclusive(task);
  },
};

for (const [name, make] of Object.entries(queues)) {
 for (const grace of [1000, 0]) {
  testBoth(`${name} goes on when a greenlet is killed in its own task, grace ${grace}`, {
    async async(add: Add, task: Task) {
      return await add(task);
    },
    *generator(add, task) {
      return yield* until(add(task));
    },
  }, async (body) => {
    using _ = patch();
    const add = make();
    const victim = 20;
    let begun = Promise.withResolvers<void>();
    const gs = Array.from({length: GREENLETS}, (_, i) => spawn(body, add, async () => {
      if (i === victim) { begun.resolve(); await sleep(1e6); }
      await sleep(1);
      await sleep(1);
      return i;
    }));
    await begun.promise;
    gs[victim]!.kill(undefined, {block: false, grace});
    const out = {} as Record<string, number>;
    for (const [i, g] of gs.entries()) {
      await g.join({timeout: 3000});
      const s = !g.ready() ? "pending" : g.exception ? String(g.exception) : g.value instanceof GreenletExit ? "exit" : g.value === i ? "ok" : "odd";
      out[s] = (out[s] ?? 0) + 1;
      if (!g.ready()) break;
    }
    assertEquals(out, {ok: 99, exit: 1});
  });
 }
}
