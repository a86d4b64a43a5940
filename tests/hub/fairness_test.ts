import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
} from "@std/assert";
import { clock } from "../_clock.ts";
import { setImmediate } from "node:timers";
import {
  AsyncResult,
  Event,
  type Greenlet,
  GreenletExit,
  joinAll,
  killAll,
  Lock,
  Queue,
  Semaphore,
  sleep,
  spawn,
  until,
  type Wait,
  Waiter,
  withTimeout,
} from "../../mod.ts";
import {
  type Bodies,
  type Body,
  runScript,
  settle,
  testBoth,
} from "../_bodies.ts";

clock.inEachTest();

/** The number of turns that timers and sockets need to count as making progress. */
const ENOUGH = 3;
/** Long enough never to be over, short enough for a test that fails. */
const FOREVER = 60_000;

/** Timers and a TCP echo that turn as long as they are in use, in real time. */
class EventLoop implements AsyncDisposable {
  timers = 0;
  echoes = 0;
  #closed = false;
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #over: Promise<unknown>;

  constructor() {
    clock.useRealTime();
    this.#over = Promise.all([this.#tick(), this.#serve(), this.#ask()]);
  }

  async #tick() {
    while (!this.#closed) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      this.timers++;
    }
  }

  async #serve() {
    const conn = await this.#listener.accept();
    await conn.readable.pipeTo(conn.writable);
  }

  async #ask() {
    using conn = await Deno.connect(this.#listener.addr as { port: number });
    const buffer = new Uint8Array(1);
    while (!this.#closed) {
      await conn.write(new Uint8Array([this.echoes]));
      assertEquals(await conn.read(buffer), 1);
      assertEquals(buffer[0], this.echoes % 256);
      this.echoes++;
    }
  }

  /** Waits until both have come to their turn so often again. */
  async turn(times = ENOUGH): Promise<void> {
    const [timers, echoes] = [this.timers + times, this.echoes + times];
    while (this.timers < timers || this.echoes < echoes) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#over;
    this.#listener.close();
  }
}

/** How many turns of the event loop are looked at. */
const MANY = 50;
/**
 * How often a body may go on in one slice of 0.1 ms: the clock of the tests lets a slice
 * last for ten looks, at every 16th wake-up, and a greenlet that a turn wakes is woken
 * beyond that.
 */
const MOST = 250;

/** Waits until the loop has turned often, and it has gone on between any two turns. */
async function countSlices(count: () => number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const slices: number[] = [];
  let before = count();
  const turned = () => {
    slices.push(count() - before);
    before = count();
    if (slices.length < MANY) setImmediate(turned);
    else resolve();
  };
  setImmediate(turned);
  await promise;
  const most = Math.max(...slices);
  assertLess(most, MOST, `${slices}`);
  assertGreater(most, 5, `${slices}`);
}

/** Two sides of a table, and the ball is on one of them. */
class Table {
  hits = 0;
  readonly #waiters: (Waiter<void> | null)[] = [null, null];

  /** Waits for the ball to come. */
  receive(side: number) {
    return (this.#waiters[side] = new Waiter<void>()).get();
  }

  /** Plays the ball to the other side. */
  hit(side: number): void {
    this.hits++;
    this.#waiters[1 - side]?.switch();
  }
}

const players: {
  async: Body<[Table, number], void>;
  generator: Body<[Table, number], void>;
} = {
  async async(table, side) {
    for (;;) {
      await table.receive(side);
      table.hit(side);
    }
  },
  *generator(table, side) {
    for (;;) {
      yield* table.receive(side);
      table.hit(side);
    }
  },
};

for (
  const [who, bodies] of Object.entries({
    "two async bodies": [players.async, players.async],
    "two generator bodies": [players.generator, players.generator],
    "a body of each kind": [players.async, players.generator],
  })
) {
  Deno.test(`Waiter.switch() to and fro for ever between ${who} lets timers and sockets have their turn`, async () => {
    await using loop = new EventLoop();
    const table = new Table();
    const greenlets = bodies.map((body, side) => spawn(body, table, side));
    await settle();
    table.hit(0);
    await loop.turn();
    // A second time, as the first slice of time is like no other.
    await sleep(1);
    await loop.turn();
    await killAll(greenlets);
    const { hits } = table;
    assertGreater(hits, 2);
    await loop.turn(1);
    assertEquals(table.hits, hits);
  });

  Deno.test(`Waiter.switch() to and fro for ever between ${who} lets the event loop turn after each slice`, async () => {
    const table = new Table();
    const greenlets = bodies.map((body, side) => spawn(body, table, side));
    await settle();
    table.hit(0);
    await countSlices(() => table.hits);
    await killAll(greenlets);
  });
}

/** The number of steps of a body that goes on for ever. */
interface Rounds {
  count: number;
}

/** Bodies that go on for ever, by the call that they repeat. */
const ENDLESS: Record<string, Bodies<[Rounds], void>> = {
  "sleep(0)": {
    async async(rounds) {
      for (;;) {
        await sleep(0);
        rounds.count++;
      }
    },
    *generator(rounds) {
      for (;;) {
        yield* sleep(0);
        rounds.count++;
      }
    },
  },
  "Greenlet.join() of greenlets that end at once": {
    async async(rounds) {
      for (;;) {
        await spawn(() => {}).join();
        rounds.count++;
      }
    },
    *generator(rounds) {
      for (;;) {
        yield* spawn(() => {}).join();
        rounds.count++;
      }
    },
  },
  "withTimeout()": {
    async async(rounds) {
      for (;;) {
        await withTimeout(FOREVER, async () => await sleep(0));
        rounds.count++;
      }
    },
    *generator(rounds) {
      for (;;) {
        yield* withTimeout(FOREVER, function* () {
          yield* sleep(0);
        });
        rounds.count++;
      }
    },
  },
};

for (const [what, bodies] of Object.entries(ENDLESS)) {
  testBoth(
    `${what} for ever lets timers and sockets have their turn`,
    bodies,
    async (body) => {
      await using loop = new EventLoop();
      const all = [1, 2, 3].map(() => ({ count: 0 }));
      const greenlets = all.map((rounds) => spawn(body, rounds));
      await loop.turn();
      await sleep(1);
      await loop.turn();
      await killAll(greenlets);
      for (const { count } of all) assertGreater(count, 2);
    },
  );

  testBoth(
    `${what} for ever lets the event loop turn after each slice`,
    bodies,
    async (body) => {
      for (const many of [1, 2, 7]) {
        const all = Array.from({ length: many }, () => ({ count: 0 }));
        const greenlets = all.map((rounds) => spawn(body, rounds));
        const counts = () => all.map((rounds) => rounds.count);
        await countSlices(() => counts().reduce((sum, count) => sum + count));
        await killAll(greenlets);
        // Each has had its turn as often as the others, but for the last round.
        const apart = Math.max(...counts()) - Math.min(...counts());
        assert(apart <= 1, `${counts()}`);
      }
    },
  );
}

/** Calls that are always ready. */
function readyCalls(): Record<string, () => unknown> {
  const queue = new Queue<number>();
  const event = new Event();
  event.set();
  const result = new AsyncResult<number>();
  result.set(1);
  const exit = new GreenletExit();
  const failed = new AsyncResult<number>();
  failed.setException(new Error("Failed"));
  const lock = new Lock();
  const dead = spawn(() => {});
  return {
    "Queue.put() and get()": async () => {
      await queue.put(1);
      await queue.get();
    },
    "Event.wait()": () => event.wait(),
    "AsyncResult.get()": () => result.get(),
    "Semaphore.acquire()": () => new Semaphore(1).acquire(),
    "Lock.acquire()": async () => {
      await lock.acquire();
      lock.release();
    },
    "Greenlet.join() of a dead one": () => dead.join(),
    "Greenlet.get() of a dead one": () => dead.get(),
    "joinAll() of none": () => joinAll([]),
    "Greenlet.kill() of a dead one": () => dead.kill(exit),
    "killAll() of none": () => killAll([], { error: exit }),
    "AsyncResult.get() of an error": () => failed.get().then(null, () => {}),
    "Queue.get() that does not block": () =>
      new Queue().get({ block: false }).then(null, () => {}),
  };
}

for (const name of Object.keys(readyCalls())) {
  Deno.test(`${name} for ever lets timers and sockets have their turn, although it is always ready`, async () => {
    const call = readyCalls()[name]!;
    await settle();
    await using loop = new EventLoop();
    let isOver = false;
    const greenlet = spawn(async () => {
      for (let i = 0; i < 5_000_000 && !isOver; i++) await call();
      return isOver;
    });
    await loop.turn();
    isOver = true;
    assert(await greenlet.get());
  });
}

testBoth(
  "Queue.put() and get() in two greenlets for ever let timers and sockets have their turn",
  {
    async async(step: () => Wait<unknown>) {
      for (;;) await step();
    },
    *generator(step: () => Wait<unknown>) {
      for (;;) yield* step();
    },
  },
  async (body) => {
    await using loop = new EventLoop();
    const queue = new Queue<number>(1);
    const greenlets = [
      spawn(body, () => queue.put(1)),
      spawn(body, () => queue.get()),
    ];
    await loop.turn();
    await killAll(greenlets);
  },
);

Deno.test("Queue.put() with room lets no other greenlet run in a generator body, however long it goes on", async () => {
  const queue = new Queue<number>();
  let others = 0;
  await settle();
  const other = spawn(async () => {
    for (;;) {
      await sleep(0);
      others++;
    }
  });
  await spawn(function* () {
    const before = others;
    for (let i = 0; i < 10_000; i++) yield* queue.put(i);
    assertEquals(others, before);
  }).get();
  await other.kill();
});

/** A chain of greenlets, each spawned by the one before. */
class Chain {
  links = 0;
  isOver = false;
  readonly #body: Body<[Chain], void>;
  #last!: Greenlet;

  constructor(body: Body<[Chain], void>) {
    this.#body = body;
    this.next();
  }

  next(): void {
    if (!this.isOver) this.#last = spawn(this.#body, this);
  }

  async end(): Promise<void> {
    this.isOver = true;
    await this.#last.join();
  }
}

const LINKS: Bodies<[Chain], void> = {
  async async(chain) {
    if (++chain.links % 2 === 0) await sleep(0);
    chain.next();
  },
  *generator(chain) {
    if (++chain.links % 2 === 0) yield* sleep(0);
    chain.next();
  },
};

testBoth(
  "spawn() in an endless chain lets timers and sockets have their turn",
  LINKS,
  async (body) => {
    await using loop = new EventLoop();
    const chain = new Chain(body);
    await loop.turn();
    await loop.turn();
    await chain.end();
    assertGreater(chain.links, 10);
  },
);

testBoth(
  "spawn() in an endless chain lets the event loop turn after each slice",
  LINKS,
  async (body) => {
    const chain = new Chain(body);
    await countSlices(() => chain.links);
    await chain.end();
  },
);

Deno.test("Two greenlets that wake each other for ever let a third sleep, be killed and time out", async () => {
  const table = new Table();
  const playing = [
    spawn(players.async, table, 0),
    spawn(players.generator, table, 1),
  ];
  await settle();
  table.hit(0);
  const log: string[] = [];
  const there = Promise.withResolvers<void>();
  const third = spawn(async () => {
    await sleep(10);
    log.push("slept");
    log.push(
      await withTimeout(10, () => sleep(FOREVER), { value: "late" }) as string,
    );
    log.push(
      await until(
        new Promise<string>((resolve) => setTimeout(resolve, 1, "foreign")),
      ),
    );
    try {
      there.resolve();
      await sleep(FOREVER);
    } finally {
      log.push("killed");
    }
  });
  await there.promise;
  await third.kill(undefined, { grace: Infinity });
  assertEquals(log, ["slept", "late", "foreign", "killed"]);
  await killAll(playing);
});

/** Every kind of body, one after the other. */
function alternate<A extends unknown[], T>(
  async: Body<A, T>,
  generator: Body<A, T>,
  many: number,
): Body<A, T>[] {
  return Array.from(
    { length: many },
    (_, i) => i % 2 === 0 ? async : generator,
  );
}

/** A shuffle that is the same every time. */
function shuffled(many: number): number[] {
  const order = Array.from({ length: many }, (_, i) => i);
  let seed = 1;
  for (let i = many - 1; i > 0; i--) {
    seed = Math.imul(seed, 48271) % 0x7fffffff;
    const j = Math.abs(seed) % (i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

Deno.test("Wake-ups are first in, first out for both kinds of body", async () => {
  const woken: number[] = [];
  // So many that the time slice ends among them, more than once.
  const many = 20_000;
  const waiters = Array.from({ length: many }, () => new Waiter<void>());
  const greenlets = alternate(
    async (me: number) => {
      await waiters[me]!.get();
      woken.push(me);
    },
    function* (me: number) {
      yield* waiters[me]!.get();
      woken.push(me);
    },
    many,
  ).map((body, me) => spawn(body, me));
  await settle();
  const order = shuffled(many);
  for (const me of order) waiters[me]!.switch();
  await joinAll(greenlets);
  assertEquals(woken, order);
});

Deno.test("Wake-ups are first in, first out when they come from elsewhere, turn by turn", async () => {
  const woken: number[] = [];
  const many = 1000;
  const waiters = Array.from({ length: many }, () => new Waiter<void>());
  const greenlets = alternate(
    async (me: number) => {
      await waiters[me]!.get();
      woken.push(me);
    },
    function* (me: number) {
      yield* waiters[me]!.get();
      woken.push(me);
    },
    many,
  ).map((body, me) => spawn(body, me));
  await settle();
  const order = shuffled(many);
  for (const [i, me] of order.entries()) {
    waiters[me]!.switch();
    // Some of them from a microtask, some from a callback of the event loop.
    if (i % 7 === 0) await null;
    if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    if (i % 200 === 0) {
      const start = performance.now();
      while (performance.now() - start < 6);
    }
  }
  await joinAll(greenlets);
  assertEquals(woken, order);
});

Deno.test("spawn() starts bodies first in, first out, of both kinds", async () => {
  const started: number[] = [];
  const many = 20_000;
  const bodies = alternate(
    async (me: number) => {
      started.push(me);
      await sleep(0);
    },
    function* (me: number) {
      started.push(me);
      yield* sleep(0);
    },
    many,
  );
  const greenlets = bodies.map((body, me) => spawn(body, me));
  assertEquals(started, []);
  await joinAll(greenlets);
  assertEquals(started, Array.from({ length: many }, (_, i) => i));
});

Deno.test("sleep(0) goes around in a circle, of both kinds of body", async () => {
  const log: number[] = [];
  const many = 10;
  const rounds = 2000;
  const greenlets = alternate(
    async (me: number) => {
      for (let i = 0; i < rounds; i++) {
        await sleep(0);
        log.push(me);
      }
    },
    function* (me: number) {
      for (let i = 0; i < rounds; i++) {
        yield* sleep(0);
        log.push(me);
      }
    },
    many,
  ).map((body, me) => spawn(body, me));
  await joinAll(greenlets);
  assertEquals(log.length, many * rounds);
  const wrong = log.findIndex((me, i) => me !== i % many);
  assertEquals(wrong, -1, `${log.slice(wrong, wrong + 2 * many)}`);
});

testBoth("sleep() for the same time wakes first in, first out", {
  async async(log: number[], me: number) {
    await sleep(20);
    log.push(me);
  },
  *generator(log: number[], me: number) {
    yield* sleep(20);
    log.push(me);
  },
}, async (body) => {
  const log: number[] = [];
  const many = 1000;
  const all = Array.from({ length: many }, (_, me) => spawn(body, log, me));
  await joinAll(all);
  assertEquals(log, Array.from({ length: many }, (_, i) => i));
});

testBoth("sleep() wakes in the order of the deadlines", {
  async async(log: number[], ms: number) {
    await sleep(ms);
    log.push(ms);
  },
  *generator(log: number[], ms: number) {
    yield* sleep(ms);
    log.push(ms);
  },
}, async (body) => {
  const log: number[] = [];
  const start = performance.now();
  await joinAll([90, 30, 120, 60, 31].map((ms) => spawn(body, log, ms)));
  assertGreaterOrEqual(performance.now() - start, 120);
  assertEquals(log, [30, 31, 60, 90, 120]);
});

Deno.test("A greenlet that is ready again and again does not delay greenlets woken before it", async () => {
  const log: string[] = [];
  const waiter = new Waiter<void>();
  let busy = true;
  const spinning = spawn(async () => {
    while (busy) await sleep(0);
  });
  const waiting = spawn(function* () {
    yield* waiter.get();
    log.push("woken");
    busy = false;
  });
  await sleep(5);
  waiter.switch();
  await joinAll([spinning, waiting]);
  assertEquals(log, ["woken"]);
});

Deno.test("A process whose greenlets woke each other until they were killed exits at once", async () => {
  clock.useRealTime();
  const start = performance.now();
  const { out, err, code } = await runScript(`
    const waiters = [];
    let hits = 0;
    const play = async (side) => {
      for (;;) {
        await (waiters[side] = new Waiter()).get();
        hits++;
        waiters[1 - side].switch();
      }
    };
    const playing = [spawn(play, 0), spawn(play, 1)];
    const spinning = spawn(function* () { for (;;) yield* sleep(0); });
    await idle();
    waiters[0].switch();
    while (hits < 1000) await sleep(1);
    await killAll([...playing, spinning]);
    console.log("killed");
  `);
  assertEquals(err, "");
  assertEquals(out, ["killed"]);
  assertEquals(code, 0);
  assert(performance.now() - start < FOREVER / 2);
});
