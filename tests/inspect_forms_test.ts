import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { inspect as inspectInNode } from "node:util";
import * as gevent from "../mod.ts";
import { TestClock } from "../testing.ts";
import { settle } from "./_bodies.ts";

const {
  AsyncResult,
  Channel,
  Condition,
  Event,
  Group,
  idle,
  listen,
  local,
  Lock,
  monitor,
  nursery,
  patch,
  Pool,
  Queue,
  Semaphore,
  sleep,
  spawn,
  spawnRaw,
  Timeout,
  Waiter,
} = gevent;

const LOOPBACK = { hostname: "127.0.0.1", port: 0 } as const;
const LONG = 1e9;

/** A part of what is shown, or all of it. */
type Expected = string | RegExp;

/** Makes an object, looks at it, and puts everything back. */
type Case = () =>
  | Iterable<[unknown, Expected]>
  | AsyncIterable<[unknown, Expected]>;

/** Errors are shown as any error is. */
const anError = (make: () => unknown): Case =>
  function* () {
    yield [make(), /^\w+: [^]+\n {4}at /];
  };

/** Classes that only others extend. */
const abstract: Case = function* () {};

function* queue(
  Class: new (size: number, items: number[]) => unknown,
): Iterable<
  [unknown, Expected]
> {
  const { name } = Class;
  yield [
    new Class(3, [1, 2]),
    `${name} { maxsize: 3, items: [ 1, 2 ], getters: 0, putters: 0 }`,
  ];
}

async function* server(one: gevent.BaseServer): AsyncIterable<
  [unknown, Expected]
> {
  const { name } = one.constructor;
  yield [
    one,
    new RegExp(`^${name} \\{[^]*address: "127.0.0.1:0",\\s+state: "idle",`),
  ];
  one.start();
  yield [
    one,
    /address: "127.0.0.1:[1-9]\d*",\s+state: "started",\s+connections: 0,\s+pool: null/,
  ];
  await one.stop();
  yield [one, /state: "closed"/];
}

/** What is shown of an instance of each class that is exported. */
const CASES: Record<string, Case> = {
  AsyncResult: function* () {
    const result = new AsyncResult<number>();
    yield [result, 'AsyncResult { state: "pending", waiting: 0 }'];
    result.set(42);
    yield [result, 'AsyncResult { state: "succeeded", value: 42, waiting: 0 }'];
    result.setException("no");
    yield [
      result,
      'AsyncResult { state: "failed", exception: "no", waiting: 0 }',
    ];
  },
  BackdoorServer: () => server(new gevent.BackdoorServer(LOOPBACK)),
  BaseServer: abstract,
  BoundedSemaphore: function* () {
    yield [
      new gevent.BoundedSemaphore(2),
      "BoundedSemaphore { counter: 2, waiting: 0 }",
    ];
  },
  Channel: async function* () {
    const channel = new Channel();
    yield [channel, "Channel { getters: 0, putters: 0 }"];
    const putter = spawn(() => channel.put(1));
    await idle();
    yield [channel, "Channel { getters: 0, putters: 1 }"];
    await putter.kill();
  },
  Condition: async function* () {
    const condition = new Condition(new Lock());
    const waiter = spawn(async () => {
      using _ = await condition.acquire();
      await condition.wait();
    });
    await idle();
    yield [
      condition,
      /^Condition \{\s+lock: Lock \{ holder: null, waiting: 0 \},\s+waiting: 1\s+\}$/,
    ];
    await waiter.kill();
  },
  DatagramServer: () => server(new gevent.DatagramServer(LOOPBACK, () => {})),
  DummySemaphore: function* () {
    yield [new gevent.DummySemaphore(), "DummySemaphore {}"];
  },
  Empty: anError(() => new gevent.Empty()),
  Event: async function* () {
    const event = new Event();
    const waiter = spawn(() => event.wait());
    await idle();
    yield [event, "Event { isSet: false, waiting: 1 }"];
    event.set();
    await waiter.join();
    yield [event, "Event { isSet: true, waiting: 0 }"];
  },
  FailedToSwitch: anError(() => new gevent.FailedToSwitch("main", 5, 1)),
  Full: anError(() => new gevent.Full()),
  Greenlet: async function* () {
    const task = (ms: number) => sleep(ms);
    const made = new gevent.Greenlet(task, LONG);
    made.name = "rose";
    yield [made, '<Greenlet "rose": task> is not started'];
    made.start();
    yield [inspect(made), '<Greenlet "rose": task> has not begun'];
    await idle();
    yield [
      made,
      /^<Greenlet "rose": task> waits in sleep\(1000000000\)( for .*)?$/,
    ];
    await made.kill();
    yield [made, '<Greenlet "rose": task> was killed'];
    const itself: gevent.Greenlet = spawn(() => inspect(itself));
    itself.name = "me";
    await itself.join();
    yield [itself.value, /^<Greenlet "me"> runs$/];
    const returned = spawn(() => 42);
    const failed = spawn(() => {
      throw new TypeError("boom");
    });
    returned.name = failed.name = "jack";
    await failed.get().catch(() => {});
    yield [returned, '<Greenlet "jack"> has ended with 42'];
    yield [failed, '<Greenlet "jack"> has failed: TypeError: boom'];
    const raw = spawnRaw(task, LONG);
    await idle();
    yield [
      raw,
      /^<RawGreenlet "task" suspended active started> waits in sleep\(1000000000\)/,
    ];
    gevent.kill(raw);
    await idle();
    yield [raw, '<RawGreenlet "task" dead>'];
  },
  GreenletError: anError(() => new gevent.GreenletError("no")),
  GreenletExit: anError(() => new gevent.GreenletExit("no")),
  GreenletTree: async function* () {
    const child = spawn(sleep, LONG);
    child.name = "child";
    await idle();
    const [tree] = gevent.GreenletTree.forest();
    yield [tree, /^main runs\n[^]*<Greenlet "child": sleep> waits in sleep/];
    await child.kill();
  },
  Group: async function* () {
    const group = new Group();
    const member = group.spawn(sleep, LONG);
    member.name = "member";
    yield [
      inspect(group),
      /^Group \{\s+greenlets: \[ <Greenlet "member": sleep> has not begun \]\s+\}$/,
    ];
    await group.kill();
    yield [group, "Group { greenlets: [] }"];
  },
  GroupBase: abstract,
  HttpServer: () =>
    server(new gevent.HttpServer(LOOPBACK, () => new Response())),
  Hub: function* () {
    yield [gevent.getHub(), /^<Hub .*main>$/];
  },
  JoinableQueue: () => queue(gevent.JoinableQueue),
  LifoQueue: () => queue(gevent.LifoQueue),
  LoopExit: anError(() => new gevent.LoopExit("stuck")),
  Lock: async function* () {
    const lock = new Lock();
    yield [lock, "Lock { holder: null, waiting: 0 }"];
    const holder = spawn(async () => {
      using _ = await lock.acquire();
      await sleep(LONG);
    });
    holder.name = "holder";
    const waiter = spawn(() => lock.acquire());
    await idle();
    yield [
      lock,
      /^Lock \{\s+holder: <Greenlet "holder"> waits in sleep\(1000000000\).*,\s+waiting: 1\s+\}$/,
    ];
    await waiter.kill();
    await holder.kill();
    yield [lock, "Lock { holder: null, waiting: 0 }"];
  },
  Nursery: async function* () {
    let left: gevent.Nursery | null = null;
    const seen: [unknown, Expected][] = [];
    await nursery((n) => {
      left = n;
      n.spawn(() => {}).name = "child";
      seen.push([
        inspect(n),
        /^Nursery \{\s+state: "open",\s+greenlets: \[ <Greenlet "child"> has not begun \]\s+\}$/,
      ]);
    });
    yield* seen;
    yield [left, 'Nursery { state: "closed", greenlets: [] }'];
  },
  Pool: async function* () {
    const pool = new Pool(1);
    const member = await pool.spawn(sleep, LONG);
    member.name = "member";
    const waiter = spawn(() => pool.spawn(() => {}));
    await idle();
    yield [
      pool,
      /^Pool \{\s+maxsize: 1,\s+greenlets: \[ <Greenlet "member": sleep> waits in .* \],\s+waiting: 1\s+\}$/,
    ];
    await waiter.kill();
    await pool.kill();
    yield [pool, "Pool { maxsize: 1, greenlets: [], waiting: 0 }"];
    const results = new Pool(1).imap((x: number) => x, [1, 2]);
    yield [results, 'Results { state: "open", ready: 0, waiting: 0 }'];
    await Array.fromAsync(results);
    yield [results, /state: "over"/];
  },
  PoolClosed: anError(() => new gevent.PoolClosed("no")),
  PoolFull: anError(() => new gevent.PoolFull()),
  PriorityQueue: function* () {
    yield [
      new gevent.PriorityQueue<number>((a, b) => a - b, {
        maxsize: 3,
        items: [2, 1],
      }),
      "PriorityQueue { maxsize: 3, items: [ 1, 2 ], getters: 0, putters: 0 }",
    ];
  },
  Queue: async function* () {
    yield* queue(Queue);
    const empty = new Queue(3);
    const full = new Queue(1, [1]);
    const waiters = [
      spawn(() => empty.get()),
      spawn(() => full.put(2)),
      spawn(() => full.put(3)),
    ];
    await idle();
    yield [empty, "Queue { maxsize: 3, items: [], getters: 1, putters: 0 }"];
    yield [full, "Queue { maxsize: 1, items: [ 1 ], getters: 0, putters: 2 }"];
    await gevent.killAll(waiters);
    full.shutdown();
    yield [
      full,
      /^Queue \{\s+maxsize: 1,\s+items: \[ 1 \],\s+getters: 0,\s+putters: 0,\s+isShutDown: true\s+\}$/,
    ];
    yield [
      new Queue(),
      "Queue { maxsize: Infinity, items: [], getters: 0, putters: 0 }",
    ];
    class Jobs extends Queue<number> {
      urgent = true;
    }
    yield [
      new Jobs(3),
      /^Jobs \{\s+maxsize: 3,\s+items: \[\],\s+getters: 0,\s+putters: 0,\s+urgent: true\s+\}$/,
    ];
  },
  RLock: async function* () {
    const lock = new gevent.RLock();
    const holder = spawn(async () => {
      await lock.acquire();
      await lock.acquire();
      await sleep(LONG);
    });
    holder.name = "holder";
    await idle();
    yield [
      lock,
      /^RLock \{\s+holder: <Greenlet "holder"> waits in .*,\s+depth: 2,\s+waiting: 0\s+\}$/,
    ];
    await holder.kill();
  },
  Semaphore: async function* () {
    const semaphore = new Semaphore(1);
    await semaphore.acquire();
    const waiter = spawn(() => semaphore.acquire());
    await idle();
    yield [semaphore, "Semaphore { counter: 0, waiting: 1 }"];
    await waiter.kill();
  },
  ShutDown: anError(() => new gevent.ShutDown()),
  SimpleQueue: () => queue(gevent.SimpleQueue),
  Socket: async function* () {
    using listener = listen(LOOPBACK);
    const [accepted, connected] = await Promise.all([
      listener.accept(),
      gevent.connect({ ...LOOPBACK, port: listener.addr.port }),
    ]);
    using _ = accepted;
    yield [
      connected,
      /^Socket \{\s+localAddr: "127.0.0.1:\d+",\s+remoteAddr: "127.0.0.1:\d+",\s+state: "open",\s+timeout: Infinity\s+\}$/,
    ];
    connected.close();
    yield [connected, /state: "closed"/];
  },
  SocketListener: function* () {
    const listener = listen(LOOPBACK);
    yield [
      listener,
      /^SocketListener \{ addr: "127.0.0.1:\d+", state: "open" \}$/,
    ];
    listener.close();
    yield [listener, /state: "closed"/];
  },
  StreamServer: () => server(new gevent.StreamServer(LOOPBACK, () => {})),
  ThreadPool: function* () {
    yield [
      new gevent.ThreadPool(2),
      'ThreadPool { size: 2, state: "open", busy: 0, waiting: 0 }',
    ];
  },
  Timeout: function* () {
    const timeout = Timeout.start(LONG);
    yield [timeout, /Timeout\]? \{ ms: 1000000000, pending: true \}$/];
    timeout.close();
    yield [timeout, /^Timeout: Timed out after 1000000000 ms\n {4}at /];
  },
  Trace: function* () {
    const recording = gevent.startTrace();
    yield [recording, /^Recorder \{ state: "recording", events: \d+ \}$/];
    const trace = recording.stop();
    yield [recording, /^Recorder \{ state: "stopped", events: \d+ \}$/];
    yield [trace, /^Trace \{\s+traceEvents: \[/];
  },
  Waiter: function* () {
    const waiter = new Waiter<number>();
    yield [waiter, 'Waiter { state: "idle" }'];
    waiter.get();
    yield [waiter, 'Waiter { state: "waiting" }'];
    waiter.switch(1);
    yield [waiter, 'Waiter { state: "given", value: 1 }'];
  },
  WorkerDied: anError(() => new gevent.WorkerDied("no")),
  "greenlet.Greenlet": function* () {
    const greenlet = new gevent.greenlet.Greenlet(function* jack() {
      yield* gevent.getHub().switch();
    });
    yield [greenlet, '<Greenlet "jack" pending>'];
    greenlet.switch();
    yield [greenlet, '<Greenlet "jack" suspended active started>'];
    const request = greenlet.switch();
    yield [greenlet, '<Greenlet "jack" dead>'];
    yield [request, /done: true/];
  },
  "greenlet.GreenletError": anError(() => new gevent.GreenletError("no")),
  "greenlet.GreenletExit": anError(() => new gevent.GreenletExit("no")),
  "subprocess.CalledProcessError": abstract,
  "subprocess.TimeoutExpired": abstract,
  TestClock: function* () {
    using clock = new TestClock();
    yield [clock, /^TestClock \{ state: "\w+", now: 0, pending: 0 \}$/];
  },
};

/** What is shown of what functions return. */
const RETURNED: Record<string, Case> = {
  monitor: function* () {
    const watching = monitor({ maxBlocking: 1000 });
    yield [
      watching,
      /^LoopMonitor (\[EventTarget\] )?\{\s+state: "watching",\s+maxBlocking: 1000,\s+maxMemory: Infinity\s+\}$/,
    ];
    watching[Symbol.dispose]();
    yield [watching, /state: "stopped"/];
  },
  "onSignal, printRunInfoOn": function* () {
    if (Deno.build.os === "windows") return;
    for (
      const listening of [
        gevent.onSignal("SIGUSR1", () => {}),
        gevent.printRunInfoOn("SIGUSR1"),
      ]
    ) {
      yield [listening, /\{ signal: "SIGUSR1", state: "listening" \}$/];
      listening[Symbol.dispose]();
      yield [listening, /\{ signal: "SIGUSR1", state: "disposed" \}$/];
    }
    using signals = gevent.signals("SIGUSR1");
    yield [signals, 'Signals { signals: [ "SIGUSR1" ], come: [], waiting: 0 }'];
  },
  assertSwitches: async function* () {
    using asserting = gevent.assertSwitches({ maxBlocking: LONG });
    await idle();
    yield [asserting, /\{ state: "watching", maxBlocking: 1000000000 \}$/];
  },
  iwait: function* () {
    yield [
      gevent.iwait([]),
      "Arrivals { left: 0, ready: [], waiting: 0 }",
    ];
  },
  patch: function* () {
    const patched = patch({ ...NONE, timers: true });
    yield [patched, /\{ isDisposed: false \}$/];
    patched[Symbol.dispose]();
    yield [patched, /\{ isDisposed: true \}$/];
  },
  "a wait": async function* () {
    const event = new Event();
    const wait = event.wait();
    yield [
      wait,
      /^Promise \{\s+<pending>,\s+Symbol\(waiting\): Event.wait\(\)/,
    ];
    event.set();
    await wait;
    yield [wait, /^Promise \{\s+true,\s+Symbol\(waiting\): given/];
  },
  local: async function* () {
    let made = 0;
    const mine = local(() => ({ id: ++made }));
    // A proxy: node:util of Deno asks it for its constructor, and so uses it.
    yield [inspect(mine), "[local that main has not used]"];
    assertEquals(made, 0);
    mine.id = 7;
    yield [mine, "{ id: 7 }"];
    const other = spawn(() => inspect(mine));
    other.name = "other";
    yield [await other.get(), '[local that <Greenlet "other"> has not used]'];
    assertEquals(made, 1);
    assertEquals(Object.keys(mine), ["id"]);
  },
};

const NONE = Object.fromEntries(
  Object.keys(gevent.monkey.support()).map((part) => [part, false]),
) as gevent.PatchOptions;

/** Shows an object as the runtime does; a text is one that was shown before. */
function inspect(object: unknown): string {
  return typeof object === "string" ? object : Deno.inspect(object);
}

/** The names of the classes that a module exports, and its namespaces. */
function* classesOf(exported: object, prefix = ""): Generator<string> {
  for (const [name, value] of Object.entries(exported)) {
    if (
      typeof value === "function" &&
      Function.prototype.toString.call(value).startsWith("class")
    ) yield prefix + name;
    else if (Object.prototype.toString.call(value) === "[object Module]") {
      yield* classesOf(value, `${prefix}${name}.`);
    }
  }
}

Deno.test("Deno.inspect() is tried with every class that is exported", () => {
  const exported = [...classesOf(gevent), ...classesOf({ TestClock })];
  assertEquals(Object.keys(CASES).sort(), exported.sort());
});

for (const [name, run] of Object.entries({ ...CASES, ...RETURNED })) {
  Deno.test(`Deno.inspect() and util.inspect() of ${name} tell the state`, async () => {
    for await (const [object, expected] of run()) {
      const text = inspect(object);
      if (typeof expected === "string") assertEquals(text, expected);
      else assertMatch(text, expected);
      // To look changes nothing.
      assertEquals(inspect(object), text);
      if (typeof object === "string") continue;
      if (object instanceof Error) continue;
      const inNode = inspectInNode(object, { depth: 4 });
      assertEquals(
        inNode.replace(/['"]/g, '"').replace(/\s+/g, " "),
        text.replace(/\s+/g, " "),
      );
    }
    await settle();
  });
}

Deno.test("Deno.inspect() of what is in itself is circular, however deep it may look", () => {
  const queue = new Queue<unknown>();
  queue.putNowait({ queue });
  const result = new AsyncResult<unknown>();
  result.set([result, queue]);
  for (const inspectIn of [Deno.inspect, inspectInNode]) {
    for (const depth of [2, 10, Infinity]) {
      assertMatch(inspectIn(queue, { depth }), /Circular|\[Object\]/);
      assertMatch(inspectIn(result, { depth }), /Circular/);
    }
  }
});

Deno.test("Deno.inspect() of an object keeps to the depth and the colours that are asked for", () => {
  const queue = new Queue<unknown>(null, [new Queue<unknown>(1, [[[5]]])]);
  for (const inspectIn of [Deno.inspect, inspectInNode]) {
    assertMatch(inspectIn([[queue]], { depth: 1 }), /^\[ \[ \[Queue\] \] \]$/);
    assertMatch(inspectIn(queue, { depth: 1 }), /items: \[ \[Queue\] \]/);
    assert(!inspectIn(queue, { depth: 9 }).includes("\x1b["));
    assert(
      inspectIn(queue, { colors: true }).includes("\x1b[33mInfinity\x1b[39m"),
    );
  }
});

Deno.test("Deno.inspect() of a prototype, which has no state, does not throw", () => {
  for (const value of Object.values(gevent)) {
    if (typeof value !== "function" || !value.prototype) continue;
    for (const inspectIn of [Deno.inspect, inspectInNode]) {
      inspectIn(value.prototype);
      inspectIn(Object.create(value.prototype));
    }
  }
});

Deno.test("Deno.inspect() of a queue does not keep its items", async () => {
  const queue = new Queue<object>();
  queue.putNowait({ one: 1 });
  inspect(queue);
  queue.getNowait();
  await settle();
  queue.putNowait({ two: 2 });
  assertMatch(inspect(queue), /items: \[ \{ two: 2 \} \]/);
  assertThrows(() => new Queue(1, [1]).putNowait(2), gevent.Full);
});
