/**
 * Random programs: what they are made of, how they are run, and what must hold.
 *
 * A program is data: a small system of queues, locks, events and pools, and greenlets that
 * do things to it and to each other. It is run until nothing happens any more; a greenlet
 * that is left then is stuck, and killed. Each greenlet notes down its actions, and in the
 * end the notes are compared.
 *
 * @module
 */

import { clock, giveBack } from "./_clock.ts";
import { setImmediate } from "node:timers";
import fc from "fast-check";
import {
  BoundedSemaphore,
  Channel,
  Condition,
  Empty,
  Event,
  Full,
  getCurrent,
  getHub,
  Greenlet,
  GreenletError,
  GreenletExit,
  idle,
  joinAll,
  killAll,
  LifoQueue,
  Lock,
  type Nursery,
  nursery,
  Pool,
  PriorityQueue,
  Queue,
  RLock,
  Semaphore,
  ShutDown,
  sleep,
  Timeout,
  until,
  wait,
  withTimeout,
} from "../mod.ts";
import type { QueueItems } from "../queue.ts";
import { reportUntaken } from "../_hub/reports.ts";
import { deferToNextTurn } from "../_hub/run_queue.ts";

giveBack();

type Kind = "async" | "generator";

/** The actions of a greenlet. */
interface Task {
  kind: Kind;
  body: Op[];
}

/** How long to wait. */
interface Patience {
  block: boolean;
  timeout: number;
  /** The limit of a `withTimeout` around the call; `null` for none. */
  limit: number | null;
}

/** One action of a body. Numbers choose one of the queues, the locks, the greenlets and so on. */
type Op =
  | { op: "pause"; how: "turn" | "idle" | "sleep" | "foreign" | "forget" }
  | { op: "fail" }
  | { op: "put"; queue: number; patience: Patience }
  | {
    op: "get";
    queue: number;
    how: "get" | "peek" | "next";
    patience: Patience;
  }
  | { op: "shutdown"; queue: number; immediate: boolean }
  | { op: "resize"; queue: number; maxsize: number }
  | { op: "hold"; lock: number; patience: Patience; body: Op[] }
  | { op: "waitFor"; timeout: number }
  | { op: "notify"; count: number }
  | { op: "set" | "clear"; event: number }
  | { op: "await"; event: number; timeout: number }
  | { op: "spawn"; later: number | null; task: Task }
  | {
    op: "kill";
    target: number;
    fails: boolean;
    block: boolean;
    grace: number | null;
    timeout: number;
  }
  | {
    op: "join";
    target: number;
    how: "join" | "get" | "joinAll" | "wait";
    timeout: number;
  }
  | { op: "timeout"; ms: number; body: Op[] }
  | { op: "withTimeout"; ms: number; task: Task; throws: boolean }
  | { op: "swallow"; body: Op[] }
  | { op: "finally"; body: Op[]; cleanUp: Op[] }
  | {
    op: "enter";
    pool: number;
    how: "spawn" | "apply" | "applyAsync";
    task: Task;
  }
  | {
    op: "map";
    pool: number;
    how: "map" | "mapAsync";
    items: number;
    task: Task;
  }
  | {
    op: "imap";
    pool: number;
    how: "imap" | "imapUnordered";
    items: number;
    maxsize: number;
    take: number;
    task: Task;
    body: Op[];
  }
  | { op: "killPool"; pool: number; block: boolean }
  | { op: "nursery"; task: Task; children: Task[] }
  | { op: "plant"; task: Task };

type QueueKind = "fifo" | "lifo" | "priority" | "channel";
type LockKind = "semaphore" | "bounded" | "lock" | "rlock" | "condition";

/** A program. */
export interface Program {
  queues: { kind: QueueKind; maxsize: number }[];
  locks: { kind: LockKind; value: number }[];
  events: number;
  pools: number[];
  tasks: Task[];
  /** The grace of greenlets that are stuck in the end, in ms. */
  grace: number;
  /** The number of turns of the event loop before time goes on. */
  turns: number;
}

/** The parts that a program may have. */
export type Theme = "queues" | "locks" | "events" | "pools" | "nurseries";

const index = fc.nat(7);
const timeout = fc.constantFrom(Infinity, Infinity, Infinity, 0, 1, 2);
const shortly = fc.constantFrom(0, 1, 2);
const kind = fc.constantFrom<Kind>("async", "generator");
const patience: fc.Arbitrary<Patience> = fc.record({
  block: fc.constantFrom(true, true, true, false),
  timeout,
  limit: fc.constantFrom(null, null, null, 0, 1, 2),
});

type Arb = fc.Arbitrary<Op>;

const leaves: Record<Theme | "all", Arb[]> = {
  all: [
    fc.record({
      op: fc.constant("pause" as const),
      how: fc.constantFrom(
        "turn",
        "turn",
        "idle",
        "sleep",
        "foreign",
        "forget",
      ),
    }),
    fc.record({
      op: fc.constant("kill" as const),
      target: index,
      fails: fc.boolean(),
      block: fc.boolean(),
      grace: fc.constantFrom(null, 0, 1, 3),
      timeout,
    }),
    fc.record({
      op: fc.constant("join" as const),
      target: index,
      how: fc.constantFrom("join", "get", "joinAll", "wait"),
      timeout,
    }),
    fc.constant({ op: "fail" }),
  ],
  queues: [
    fc.record({ op: fc.constant("put" as const), queue: index, patience }),
    fc.record({ op: fc.constant("put" as const), queue: index, patience }),
    fc.record({
      op: fc.constant("get" as const),
      queue: index,
      how: fc.constantFrom("get", "get", "next", "peek"),
      patience,
    }),
    fc.record({
      op: fc.constant("get" as const),
      queue: index,
      how: fc.constantFrom("get", "get", "next", "peek"),
      patience,
    }),
    fc.oneof(
      fc.record({
        op: fc.constant("resize" as const),
        queue: index,
        maxsize: fc.nat(3),
      }),
      fc.record({
        op: fc.constant("shutdown" as const),
        queue: index,
        immediate: fc.boolean(),
      }),
    ),
  ],
  locks: [
    fc.record({ op: fc.constant("waitFor" as const), timeout }),
    fc.record({ op: fc.constant("notify" as const), count: fc.nat(2) }),
  ],
  events: [
    fc.record({
      op: fc.constantFrom("set" as const, "clear" as const),
      event: index,
    }),
    fc.record({ op: fc.constant("await" as const), event: index, timeout }),
  ],
  pools: [
    fc.record({
      op: fc.constant("killPool" as const),
      pool: index,
      block: fc.boolean(),
    }),
  ],
  nurseries: [],
};

/** Actions that run bodies of their own. */
function nests(ops: fc.Arbitrary<Op[]>): Record<Theme | "all", Arb[]> {
  const task: fc.Arbitrary<Task> = fc.record({ kind, body: ops });
  return {
    all: [
      fc.record({
        op: fc.constant("spawn" as const),
        later: fc.constantFrom(null, null, 0, 1),
        task,
      }),
      fc.record({
        op: fc.constant("timeout" as const),
        ms: shortly,
        body: ops,
      }),
      fc.record({
        op: fc.constant("withTimeout" as const),
        ms: shortly,
        task,
        throws: fc.boolean(),
      }),
      fc.record({ op: fc.constant("swallow" as const), body: ops }),
      fc.record({
        op: fc.constant("finally" as const),
        body: ops,
        cleanUp: ops,
      }),
    ],
    queues: [],
    locks: ["", "", ""].map(() =>
      fc.record({
        op: fc.constant("hold" as const),
        lock: index,
        patience,
        body: ops,
      })
    ),
    events: [],
    pools: [
      fc.record({
        op: fc.constant("enter" as const),
        pool: index,
        how: fc.constantFrom("spawn", "apply", "applyAsync"),
        task,
      }),
      fc.record({
        op: fc.constant("map" as const),
        pool: index,
        how: fc.constantFrom("map", "map", "mapAsync"),
        items: fc.nat(4),
        task,
      }),
      fc.record({
        op: fc.constant("imap" as const),
        pool: index,
        how: fc.constantFrom("imap", "imapUnordered"),
        items: fc.nat(4),
        maxsize: fc.constantFrom(1, 2, Infinity),
        take: fc.nat(4),
        task,
        body: ops,
      }),
    ],
    nurseries: [
      fc.record({
        op: fc.constant("nursery" as const),
        task,
        children: fc.array(task, { maxLength: 3 }),
      }),
      fc.record({
        op: fc.constant("nursery" as const),
        task,
        children: fc.array(task, { maxLength: 3 }),
      }),
      fc.record({ op: fc.constant("plant" as const), task }),
    ],
  };
}

/** Makes programs with these parts. */
export function programs(...themes: Theme[]): fc.Arbitrary<Program> {
  const about = ["all" as const, ...themes];
  const { ops } = fc.letrec<{ op: Op; ops: Op[]; leaf: Op; nest: Op }>(
    (tie) => {
      const nested = nests(tie("ops"));
      return {
        leaf: fc.oneof(...about.flatMap((theme) => leaves[theme])),
        nest: fc.oneof(...about.flatMap((theme) => nested[theme])),
        op: fc.oneof(
          { maxDepth: 3, withCrossShrink: true },
          { arbitrary: tie("leaf"), weight: 3 },
          { arbitrary: tie("nest"), weight: 2 },
        ),
        ops: fc.array(tie("op"), { maxLength: 4, size: "medium" }),
      };
    },
  );
  return fc.record({
    queues: fc.array(
      fc.record({
        kind: fc.constantFrom<QueueKind>(
          "fifo",
          "fifo",
          "lifo",
          "priority",
          "channel",
        ),
        maxsize: fc.constantFrom(0, 1, 1, 2),
      }),
      { minLength: 1, maxLength: 2 },
    ),
    locks: fc.array(
      fc.record({
        kind: fc.constantFrom<LockKind>(
          "semaphore",
          "bounded",
          "lock",
          "rlock",
          "condition",
        ),
        value: fc.constantFrom(1, 1, 2),
      }),
      { minLength: 1, maxLength: 2 },
    ),
    events: fc.integer({ min: 1, max: 2 }),
    pools: fc.array(fc.integer({ min: 1, max: 3 }), {
      minLength: 1,
      maxLength: 2,
    }),
    tasks: fc.array(fc.record({ kind, body: ops }), {
      minLength: 1,
      maxLength: 5,
      size: "medium",
    }),
    grace: fc.constantFrom(0, 5),
    turns: fc.integer({ min: 1, max: 4 }),
  });
}

/** The error with which a program fails on purpose. */
class Planned extends Error {
  override name = "Planned";
}

/** An item of a queue, and what has become of it. */
interface Item {
  readonly producer: Greenlet;
  readonly number: number;
  /** The result of `put`. */
  put: "pending" | "done" | "refused";
  got: number;
  dropped: boolean;
}

let watched: Watched;

/** The items of a queue. Notes what goes through it. */
class Watched implements QueueItems<Item> {
  readonly #items: QueueItems<Item>;
  queue: Queue<Item> | null = null;
  overfull = false;
  /** The items that are there, in the order in which they came. */
  readonly #order: Item[] = [];
  /** Whether an item was taken that was not the first. */
  overtaken = false;
  last: Item | null = null;

  constructor(items: QueueItems<Item>) {
    this.#items = items;
    watched = this;
  }

  get length(): number {
    return this.#items.length;
  }

  push(item: Item): void {
    this.#items.push(item);
    this.#order.push(item);
    if (this.queue !== null && this.length > this.queue.maxsize) {
      this.overfull = true;
    }
  }

  take(): Item {
    const item = this.last = this.#items.take();
    const i = this.#order.indexOf(item);
    if (i > 0) this.overtaken = true;
    this.#order.splice(i, 1);
    return item;
  }

  peek(): Item {
    return this.#items.peek();
  }

  [Symbol.iterator](): Iterator<Item> {
    return this.#items[Symbol.iterator]();
  }
}

class WatchedQueue extends Queue<Item> {
  readonly watched = watched;

  constructor(maxsize: number) {
    super(maxsize);
    this.watched.queue = this;
  }

  protected override createItems(): QueueItems<Item> {
    return new Watched(super.createItems());
  }

  protected override dropped(): void {
    this.watched.last!.dropped = true;
    super.dropped();
  }
}

class WatchedLifo extends LifoQueue<Item> {
  readonly watched = watched;

  constructor(maxsize: number) {
    super(maxsize);
    this.watched.queue = this;
  }

  protected override createItems(): QueueItems<Item> {
    return new Watched(super.createItems());
  }

  protected override dropped(): void {
    this.watched.last!.dropped = true;
    super.dropped();
  }
}

class WatchedPriority extends PriorityQueue<Item> {
  readonly watched = watched;

  constructor(maxsize: number) {
    super((a, b) => a.number - b.number, { maxsize });
    this.watched.queue = this;
  }

  protected override createItems(): QueueItems<Item> {
    return new Watched(super.createItems());
  }

  protected override dropped(): void {
    this.watched.last!.dropped = true;
    super.dropped();
  }
}

type Store = WatchedQueue | WatchedLifo | WatchedPriority | Channel<Item>;

/** A queue, and what was put there. */
class QueueNotes {
  readonly kind: QueueKind;
  readonly queue: Store;
  readonly items: Item[] = [];
  /** By consumer and producer: the number of the last item that was taken. */
  readonly lasts = new Map<Greenlet, Map<Greenlet, number>>();

  constructor({ kind, maxsize }: Program["queues"][number]) {
    this.kind = kind;
    this.queue = kind === "channel"
      ? new Channel()
      : kind === "lifo"
      ? new WatchedLifo(maxsize)
      : kind === "priority"
      ? new WatchedPriority(maxsize)
      : new WatchedQueue(maxsize);
  }
}

type AnyLock = Semaphore | RLock | Condition;

/** A lock and its holder. */
class LockNotes {
  readonly kind: LockKind;
  readonly lock: AnyLock;
  /** The semaphore underneath, if it is one. */
  readonly semaphore: Semaphore | null;
  readonly rlock: RLock | null;
  readonly value: number;
  /** One entry for each permit that is out; a greenlet may be there twice. */
  readonly holders: Greenlet[] = [];

  constructor({ kind, value }: Program["locks"][number], number: number) {
    this.kind = kind;
    this.value = kind === "semaphore" || kind === "bounded" ? value : 1;
    const inner = kind === "semaphore"
      ? new Semaphore(value)
      : kind === "bounded"
      ? new BoundedSemaphore(value)
      : kind === "lock" || kind === "condition" && number % 2 === 0
      ? new Lock()
      : new RLock();
    this.semaphore = inner instanceof Semaphore ? inner : null;
    this.rlock = inner instanceof RLock ? inner : null;
    this.lock = kind === "condition"
      ? new Condition(inner as Lock | RLock)
      : inner;
  }
}

class EventNotes {
  readonly event = new Event();
  sets = 0;
}

class PoolNotes {
  readonly pool: Pool;
  readonly running = new Set<Greenlet>();

  constructor(size: number) {
    this.pool = new Pool(size);
  }
}

/** The items that were mapped, and the outcome. */
class MapNotes {
  /** Whether no greenlet waits for results any more. */
  over = false;
  /** The number of calls that have begun after that. */
  late = 0;
  readonly greenlets: Greenlet[] = [];
  readonly done: number[];

  constructor(items: number) {
    this.done = new Array(items).fill(0);
  }
}

/** The greenlets of a nursery. */
class NurseryNotes {
  over = false;
  readonly children: Greenlet[] = [];
}

/** Where a body runs. */
interface Place {
  readonly kind: Kind;
  readonly nursery: { nursery: Nursery; children: Greenlet[] } | null;
  /** The condition that is held. */
  readonly condition: LockNotes | null;
}

// deno-lint-ignore no-explicit-any
type Body<T = unknown> = Generator<unknown, T, any>;

/** Runs the steps of a generator as an async function. */
async function asAsync<T>(body: Body<T>): Promise<T> {
  let step = body.next();
  while (!step.done) {
    let value: unknown;
    let failed = false;
    try {
      value = await step.value;
    } catch (error) {
      value = error;
      failed = true;
    }
    step = failed ? body.throw(value) : body.next(value);
  }
  return step.value;
}

/** Yields a wait to {@linkcode asAsync}, and returns its result. */
function* handOver<T>(wait: PromiseLike<T>): Generator<unknown, T, T> {
  return yield wait;
}

/** How often a body swallows its kill. After ten times it would be abandoned. */
const SWALLOWS = 3;

/** A program in progress. */
class Run {
  readonly program: Program;
  readonly queues: QueueNotes[];
  readonly locks: LockNotes[];
  readonly events: EventNotes[];
  readonly pools: PoolNotes[];
  readonly maps: MapNotes[] = [];
  readonly nurseries: NurseryNotes[] = [];
  /** All greenlets that were started. */
  readonly greenlets: Greenlet[] = [];
  /** Those that actions can refer to. */
  readonly targets: Greenlet[] = [];
  readonly swallows = new Map<unknown, number>();
  readonly broken: string[] = [];
  #number = 0;
  #hidden = false;

  constructor(program: Program) {
    this.program = program;
    this.queues = program.queues.map((q) => new QueueNotes(q));
    this.locks = program.locks.map((l, i) => new LockNotes(l, i));
    this.events = Array.from(
      { length: program.events },
      () => new EventNotes(),
    );
    this.pools = program.pools.map((size) => new PoolNotes(size));
  }

  check(holds: boolean, otherwise: string): void {
    if (!holds && !this.broken.includes(otherwise)) this.broken.push(otherwise);
  }

  /** Called for each greenlet that is started. */
  readonly spawned = (greenlet: Greenlet): void => {
    this.greenlets.push(greenlet);
    if (!this.#hidden) this.targets.push(greenlet);
  };

  /** Makes a function of either kind. */
  #function<A extends unknown[], T>(
    kind: Kind,
    body: (...args: A) => Body<T>,
  ): (...args: A) => Promise<T> | Body<T> {
    return kind === "generator" ? body : (...args) => asAsync(body(...args));
  }

  task(task: Task, outer: Partial<Place> = {}): () => Promise<unknown> | Body {
    const place: Place = {
      nursery: outer.nursery ?? null,
      kind: task.kind,
      condition: null,
    };
    return this.#function(task.kind, () => this.#steps(task.body, place));
  }

  *#steps(ops: Op[], place: Place): Body {
    for (const op of ops) yield* this.#step(op, place);
    return "done";
  }

  *#step(op: Op, place: Place): Body {
    const on = <T>(wait: PromiseLike<T>): Iterable<unknown> & {
      [Symbol.iterator](): Iterator<unknown, T, unknown>;
    } => (place.kind === "generator" ? wait : handOver(wait)) as never;
    const me = getCurrent() as Greenlet;
    switch (op.op) {
      case "pause": {
        if (op.how === "turn") yield* on(sleep(0));
        else if (op.how === "idle") yield* on(idle());
        else if (op.how === "sleep") yield* on(sleep(1));
        // Nothing awaits this one. An interrupt ends it, too.
        else if (op.how === "forget") sleep(2);
        else {
          const promise = new Promise<void>((resolve) => setImmediate(resolve));
          // A generator can't wait for a promise that is not a `Wait`.
          yield* on(place.kind === "async" ? promise : until(promise));
        }
        return;
      }
      case "fail":
        throw new Planned();
      case "put": {
        const notes = pick(this.queues, op.queue);
        const { limit, ...options } = op.patience;
        const item: Item = {
          producer: me,
          number: this.#number++,
          put: "pending",
          got: 0,
          dropped: false,
        };
        notes.items.push(item);
        try {
          yield* on(limited(limit, () => notes.queue.put(item, options)));
          item.put = "done";
        } catch (error) {
          if (!isRefusal(error)) throw error;
        } finally {
          if (item.put === "pending") item.put = "refused";
        }
        return;
      }
      case "get": {
        const notes = pick(this.queues, op.queue);
        const { queue } = notes;
        const { limit, ...options } = op.patience;
        try {
          if (op.how === "peek" && !(queue instanceof Channel)) {
            yield* on(limited(limit, () => queue.peek(options)));
          } else if (op.how === "next") {
            const step = yield* on(
              limited(limit, () => queue[Symbol.asyncIterator]().next()),
            );
            if (!step.done) this.#got(notes, step.value, me);
          } else {
            const item = yield* on(limited(limit, () => queue.get(options)));
            this.#got(notes, item, me);
          }
        } catch (error) {
          if (!isRefusal(error)) throw error;
        }
        return;
      }
      case "shutdown": {
        const { queue } = pick(this.queues, op.queue);
        if (!(queue instanceof Channel)) queue.shutdown(op);
        return;
      }
      case "resize": {
        const { queue } = pick(this.queues, op.queue);
        if (!(queue instanceof Channel)) queue.maxsize = op.maxsize;
        return;
      }
      case "hold": {
        const notes = pick(this.locks, op.lock);
        const { limit, block, timeout } = op.patience;
        let lock: Disposable | null;
        try {
          lock = yield* on(
            limited(
              limit,
              () => notes.lock.acquire({ blocking: block, timeout }),
            ),
          );
        } catch (error) {
          if (!isRefusal(error)) throw error;
          return;
        }
        if (lock === null) return;
        using _ = lock;
        this.#holds(notes, me);
        try {
          const condition = notes.kind === "condition" ? notes : null;
          yield* this.#steps(op.body, { ...place, condition });
        } finally {
          this.#releases(notes, me);
        }
        return;
      }
      case "waitFor": {
        const notes = place.condition;
        if (notes === null) return;
        const depth = notes.holders.filter((holder) => holder === me).length;
        const release = () => {
          for (let i = 0; i < depth; i++) this.#releases(notes, me);
        };
        release();
        try {
          yield* on((notes.lock as Condition).wait(op));
        } finally {
          // An escalated body can't wait for the lock, and goes on without it.
          const isBack = notes.semaphore === null
            ? notes.rlock!.owned
            : notes.holders.length === 0 && notes.semaphore.locked();
          if (isBack) {
            for (let i = 0; i < depth; i++) this.#holds(notes, me);
          }
        }
        return;
      }
      case "notify":
        (place.condition?.lock as Condition | undefined)?.notify(op.count);
        return;
      case "set": {
        const notes = pick(this.events, op.event);
        notes.sets++;
        notes.event.set();
        return;
      }
      case "clear":
        pick(this.events, op.event).event.clear();
        return;
      case "await": {
        const notes = pick(this.events, op.event);
        const before = notes.event.isSet() ? -1 : notes.sets;
        const isSet = yield* on(notes.event.wait(op));
        this.check(
          !isSet || notes.sets > before,
          "Event.wait() gave true, and the event was not set",
        );
        this.check(
          isSet || op.timeout !== Infinity,
          "Event.wait() gave false without a timeout",
        );
        return;
      }
      case "spawn": {
        const run = this.task(op.task);
        if (op.later === null) Greenlet.spawn(run);
        else Greenlet.spawnLater(op.later, run);
        return;
      }
      case "kill": {
        const { block, timeout } = op;
        const options = op.grace === null
          ? { block, timeout }
          : { block, timeout, grace: op.grace };
        const error = op.fails ? new Planned() : new GreenletExit();
        yield* on(pick(this.targets, op.target).kill(error, options));
        return;
      }
      case "join": {
        const target = pick(this.targets, op.target);
        const { timeout } = op;
        if (op.how === "join") yield* on(target.join({ timeout }));
        else if (op.how === "get") yield* on(target.get({ timeout }));
        else {
          const two = [target, pick(this.targets, op.target + 1)];
          if (op.how === "joinAll") {
            yield* on(joinAll(two, { timeout, raiseError: true }));
          } else yield* on(wait(two, { timeout, count: 1 }));
        }
        return;
      }
      case "timeout": {
        using timeout = Timeout.start(op.ms);
        try {
          yield* this.#steps(op.body, place);
        } catch (error) {
          if (error !== timeout) throw error;
        }
        return;
      }
      case "withTimeout": {
        const run = this.task(op.task, place);
        const options = op.throws ? {} : { value: "late" };
        yield* on(withTimeout(op.ms, run, options));
        return;
      }
      case "swallow":
        try {
          yield* this.#steps(op.body, place);
        } catch (error) {
          const swallows = this.swallows.get(me) ?? 0;
          this.swallows.set(me, swallows + 1);
          if (swallows >= SWALLOWS) throw error;
        }
        return;
      case "finally":
        try {
          yield* this.#steps(op.body, place);
        } finally {
          yield* this.#steps(op.cleanUp, place);
        }
        return;
      case "enter": {
        const notes = pick(this.pools, op.pool);
        const run = this.#pooled(notes, op.task);
        if (op.how === "spawn") yield* on(notes.pool.spawn(run));
        else if (op.how === "apply") yield* on(notes.pool.apply(run));
        else notes.pool.applyAsync(run);
        return;
      }
      case "map": {
        const notes = pick(this.pools, op.pool);
        const { map, run, items } = this.#mapping(notes, op.items, op.task);
        try {
          const results: unknown[] | GreenletExit = op.how === "map"
            ? yield* on(notes.pool.map(run, items))
            : yield* on(notes.pool.mapAsync(run, items).get());
          // The result of a call whose greenlet was killed is its `GreenletExit`.
          if (results instanceof GreenletExit) return;
          this.check(
            results.length === op.items &&
              results.every((r, i) => r === i || r instanceof GreenletExit),
            "Pool.map() gave its results out of order, or not all",
          );
        } finally {
          map.over = op.how === "map";
        }
        return;
      }
      case "imap": {
        const notes = pick(this.pools, op.pool);
        const { map, run, items } = this.#mapping(notes, op.items, op.task);
        this.#hidden = true;
        const first = this.greenlets.length;
        const results = notes.pool[op.how](run, items, op);
        this.#hidden = false;
        map.greenlets.push(...this.greenlets.slice(first));
        const got: unknown[] = [];
        let failures = 0;
        try {
          // As `for await` does, but for a call that has failed: it is one result.
          for (let i = 0; i < op.take;) {
            let step: IteratorResult<unknown, undefined>;
            try {
              step = yield* on(results.next());
            } catch (error) {
              if (!(error instanceof CallFailed)) throw error;
              failures++;
              i++;
              continue;
            }
            if (step.done) {
              this.check(
                got.length + failures === op.items,
                `Pool.${op.how}() ended before all results were there`,
              );
              break;
            }
            i++;
            got.push(step.value);
            let left = true;
            try {
              yield* this.#steps(op.body, place);
              left = false;
            } finally {
              if (left) results.return();
            }
          }
          results.return();
        } finally {
          map.over = true;
          const numbers = got.filter((r) => typeof r === "number");
          this.check(
            new Set(numbers).size === numbers.length,
            `Pool.${op.how}() gave a result twice`,
          );
          this.check(
            op.how !== "imap" ||
              numbers.every((n, i) => i === 0 || n > numbers[i - 1]!),
            "Pool.imap() gave its results out of order",
          );
        }
        return;
      }
      case "killPool": {
        const { pool } = pick(this.pools, op.pool);
        yield* on(pool.kill(op));
        return;
      }
      case "nursery": {
        const notes = new NurseryNotes();
        this.nurseries.push(notes);
        const { children } = notes;
        try {
          yield* on(nursery((nursery) => {
            const inside = { nursery: { nursery, children } };
            for (const child of op.children) {
              children.push(nursery.spawn(this.task(child, inside)));
            }
            return this.task(op.task, inside)();
          }));
        } finally {
          notes.over = true;
          this.check(
            children.every((child) => child.dead),
            "A greenlet has outlived its nursery",
          );
        }
        return;
      }
      case "plant": {
        if (place.nursery === null) return;
        const { nursery, children } = place.nursery;
        try {
          children.push(nursery.spawn(this.task(op.task, place)));
        } catch (error) {
          if (!(error instanceof GreenletError)) throw error;
        }
      }
    }
  }

  #got(notes: QueueNotes, item: Item, me: Greenlet): void {
    this.check(++item.got === 1, "An item was got twice");
    const lasts = notes.lasts.get(me) ?? new Map<Greenlet, number>();
    notes.lasts.set(me, lasts);
    if (notes.kind === "fifo" || notes.kind === "channel") {
      this.check(
        (lasts.get(item.producer) ?? -1) < item.number,
        "The items of one producer were got out of order",
      );
    }
    lasts.set(item.producer, item.number);
    if (!(notes.queue instanceof Channel)) notes.queue.taskDone();
  }

  #holds(notes: LockNotes, me: Greenlet): void {
    const { holders, semaphore, value } = notes;
    const others = holders.some((holder) => holder !== me);
    holders.push(me);
    if (semaphore === null) {
      this.check(!others, "Two hold one RLock");
      this.check(notes.rlock!.owned, "An RLock is not its holder's");
    } else {
      this.check(
        holders.length <= value,
        value === 1
          ? "Two hold one lock"
          : "More permits are out than there were",
      );
      this.check(
        holders.length + semaphore.counter <= value,
        "Permits out + permits in > the initial value",
      );
    }
  }

  #releases(notes: LockNotes, me: Greenlet): void {
    const i = notes.holders.indexOf(me);
    if (i >= 0) notes.holders.splice(i, 1);
  }

  #pooled<T>(
    notes: PoolNotes,
    task: Task,
    result?: (greenlet: Greenlet) => T,
  ): () => Promise<unknown> | Body {
    return this.#function(
      task.kind,
      () => this.#pooledSteps(notes, task, result),
    );
  }

  *#pooledSteps<T>(
    notes: PoolNotes,
    task: Task,
    result?: (greenlet: Greenlet) => T,
  ): Body {
    const me = getCurrent() as Greenlet;
    // A greenlet that is in the pool applies in the room that it has.
    const isIn = notes.running.has(me);
    notes.running.add(me);
    this.check(
      notes.running.size <= notes.pool.maxsize,
      "A pool runs more greenlets than it has room for",
    );
    try {
      const given = result?.(me);
      yield* this.#steps(task.body, {
        kind: task.kind,
        nursery: null,
        condition: null,
      });
      return given;
    } finally {
      if (!isIn) notes.running.delete(me);
    }
  }

  /** The items that are mapped, and the call that maps them. */
  #mapping(notes: PoolNotes, items: number, task: Task) {
    const map = new MapNotes(items);
    this.maps.push(map);
    const run = (item: number) => {
      const body = this.#pooled(notes, task, (greenlet) => {
        map.greenlets.push(greenlet);
        this.check(++map.done[item]! === 1, "An item was mapped twice");
        // One call may have been about to begin.
        if (map.over) map.late++;
        this.check(map.late <= 1, "Items were mapped in vain");
        return item;
      });
      return failingByCall(body()) as Promise<number>;
    };
    return { map, run, items: Array.from({ length: items }, (_, i) => i) };
  }

  /**
   * Checks the rules that hold whenever nothing goes on, though some greenlets may be
   * stuck.
   */
  checkQuiet(): void {
    for (const { queue, kind } of this.queues) {
      if (queue instanceof Channel) continue;
      this.check(
        queue.getters === 0 || queue.empty(),
        `One waits for an item of a queue (${kind}) that is not empty`,
      );
      this.check(
        queue.putters === 0 || queue.full(),
        `One waits for room in a queue (${kind}) that is not full`,
      );
    }
    for (const { semaphore, rlock, holders, value, kind } of this.locks) {
      if (semaphore !== null) {
        this.check(
          semaphore.counter + holders.length === value,
          `Permits out + permits in is not the initial value (${kind})`,
        );
        this.check(
          semaphore.counter === 0 || semaphore.linkCount() === 0,
          `One waits for a permit of a ${kind} that is there`,
        );
      } else {
        this.check(
          rlock!.locked() === holders.length > 0,
          "An RLock is not held, or not by its holder",
        );
      }
    }
    for (const { event } of this.events) {
      this.check(
        !event.isSet() || event.linkCount() === 0,
        "One waits for an event that is set",
      );
    }
    for (const { pool } of this.pools) {
      this.check(
        pool.freeCount() + pool.size === pool.maxsize,
        "A pool has lost room",
      );
    }
    for (const { over, children } of this.nurseries) {
      const failed = children.some((child) =>
        child.dead && !child.successful()
      );
      this.check(
        over || !failed || children.every((child) => child.dead),
        "A greenlet of a nursery has failed, and others go on",
      );
    }
    for (const map of this.maps) {
      this.check(
        !map.over || map.greenlets.every((greenlet) => greenlet.dead),
        "A map is over, and its greenlets go on",
      );
    }
  }

  /** Checks the rules that hold when all greenlets have ended. */
  checkEnd(): void {
    for (const { queue, items, kind } of this.queues) {
      const left = queue instanceof Channel ? [] : [...queue.watched];
      if (queue instanceof Channel) {
        this.check(queue.balance === 0, "A channel has waiters left");
      } else {
        this.check(
          queue.getters === 0 && queue.putters === 0,
          `A queue (${kind}) has waiters left`,
        );
        this.check(
          !queue.watched.overfull,
          `A queue (${kind}) held more than it has room for`,
        );
        this.check(
          kind !== "fifo" || !queue.watched.overtaken,
          "An item has overtaken another",
        );
        this.check(
          queue.unfinishedTasks === left.length,
          "A queue has miscounted its tasks",
        );
      }
      for (const item of items) {
        const places = item.got + (item.dropped ? 1 : 0) +
          left.filter((other) => other === item).length;
        this.check(
          item.put === "done" ? places === 1 : places === 0,
          item.put !== "done"
            ? `An item that was refused is in the queue (${kind}), or was got`
            : places === 0
            ? `An item was lost (${kind})`
            : `An item is there twice (${kind})`,
        );
      }
    }
    for (const { holders, semaphore, rlock, value, kind } of this.locks) {
      this.check(
        holders.length === 0 && !rlock?.locked() &&
          (semaphore === null || semaphore.counter === value),
        `A ${kind} is not released`,
      );
      this.check(
        semaphore === null || semaphore.linkCount() === 0,
        `A ${kind} has waiters left`,
      );
    }
    for (const { event } of this.events) {
      this.check(event.linkCount() === 0, "An event has waiters left");
    }
    for (const { pool, running } of this.pools) {
      this.check(
        pool.size === 0 && running.size === 0 &&
          pool.freeCount() === pool.maxsize,
        "A pool is not empty",
      );
    }
    for (const greenlet of this.greenlets) {
      this.check(greenlet.dead, "A greenlet is alive");
    }
  }
}

function pick<T>(all: readonly T[], index: number): T {
  return all[index % all.length]!;
}

/** Puts a call into a `withTimeout`, if there is a limit. */
function limited<T>(
  limit: number | null,
  call: () => PromiseLike<T>,
): PromiseLike<T> {
  return limit === null ? call() : withTimeout(limit, call) as PromiseLike<T>;
}

/** Whether an error only says that a call can't be done, or not in time. */
function isRefusal(error: unknown): boolean {
  return error instanceof Empty || error instanceof Full ||
    error instanceof ShutDown;
}

/** The error of a mapped call. */
class CallFailed extends Planned {}

/** Replaces a planned error of a body by a {@linkcode CallFailed}. */
function failingByCall(body: Promise<unknown> | Body): Promise<unknown> | Body {
  const failure = (error: unknown) =>
    error instanceof Planned || error instanceof Timeout
      ? new CallFailed()
      : error;
  if (body instanceof Promise) {
    return body.catch((error) => {
      throw failure(error);
    });
  }
  return (function* (): Body {
    try {
      return yield* body;
    } catch (error) {
      throw failure(error);
    }
  })();
}

/** Whether a program may fail with an error. */
function isPlanned(error: unknown): boolean {
  return error instanceof Planned || error instanceof Timeout ||
    error instanceof GreenletExit ||
    error instanceof AggregateError && error.errors.every(isPlanned);
}

/** Waits for turns of the event loop. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

/** The number of turns after which everything that takes no time is done. */
const ENOUGH = 12;
/** The most timers that may go off in one program. */
const TIMERS = 2000;
/** The most calls of {@linkcode Time.pass} for one program. */
const PASSES = 20;

/** How time passes for a program. */
interface Time {
  /** Lets time pass until nothing happens any more, or `over` returns `true`. */
  pass(over: () => boolean): Promise<void>;
}

function byHand(program: Program): Time {
  let passes = 0;
  return {
    async pass(over) {
      if (++passes > PASSES) return;
      await turns(program.turns);
      for (let i = 0; i < TIMERS && clock.armed > 0; i++) {
        clock.advance();
        await turns(program.turns);
      }
      await turns(ENOUGH);
      // A wait that is pending after all greenlets have ended is not awaited by any.
      if (clock.armed > 0) await this.pass(over);
    },
  };
}

const inRealTime: Time = {
  async pass(over) {
    for (let i = 0; i < 20 && !over(); i++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    // A kill has a grace of one second; a program that takes many times as long never ends.
    const deadline = performance.now() + 30_000;
    while (!over() && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await turns(ENOUGH);
  },
};

/**
 * Runs a program.
 *
 * @param program The program.
 * @param clockStands Whether time stands still while anything else happens; else it is real.
 * @throws {Error} If something does not hold.
 */
export async function runProgram(
  program: Program,
  clockStands = true,
): Promise<void> {
  using _clock = clockStands ? clock.stop() : null;
  const time = clockStands ? byHand(program) : inRealTime;
  const hub = getHub();
  const { handleError } = hub;
  const run = new Run(program);
  const rejected = (event: PromiseRejectionEvent) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    run.check(false, `A rejection is unhandled: ${event.reason}`);
  };
  hub.handleError = (context, error) => {
    run.check(
      isPlanned(error),
      `${context} failed with ${describe(error)}`.replace(/\d+/g, "N"),
    );
  };
  globalThis.addEventListener("unhandledrejection", rejected);
  Greenlet.addSpawnCallback(run.spawned);
  try {
    // All programs begin in the same state: the event loop has just turned.
    await new Promise<void>((resolve) => deferToNextTurn({ wake: resolve }));
    for (const task of program.tasks) Greenlet.spawn(run.task(task));
    const ended = () => run.greenlets.every((greenlet) => greenlet.dead);
    if (clockStands) {
      await time.pass(ended);
      run.checkQuiet();
    } else {
      await hub.join({ timeout: 10 });
      // After that, the hub calls the links of the last greenlet.
      await turns(ENOUGH);
    }
    for (let i = 0; i < 3 && !ended(); i++) {
      const { grace } = program;
      killAll(run.greenlets, { block: false, grace });
      await time.pass(ended);
    }
    run.checkQuiet();
    run.checkEnd();
    let quiet = false;
    hub.join({ timeout: 1 }).then((isQuiet) => quiet = isQuiet);
    await turns(ENOUGH);
    run.check(quiet, "The hub is not quiet");
    run.check(!clockStands || !quiet || clock.armed === 0, "A timer is armed");
  } finally {
    Greenlet.removeSpawnCallback(run.spawned);
    globalThis.removeEventListener("unhandledrejection", rejected);
    // A broken program must leave no timer to the next one.
    while (clockStands && clock.armed > 0) {
      clock.advance();
      await turns(1);
    }
    reportUntaken();
    hub.handleError = handleError;
  }
  if (run.broken.length > 0) throw new Error(run.broken.join("\n"));
}

function describe(error: unknown): string {
  return error instanceof AggregateError
    ? `${error}: ${error.errors.map(describe).join(", ")}`
    : String(error);
}
