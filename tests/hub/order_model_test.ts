/**
 * Random programs go on in the order of a model: gevent's hub, one queue of callbacks.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import {
  AsyncResult,
  Event,
  Greenlet,
  Group,
  killAll,
  Pool,
  sleep,
  spawn,
  type Wait,
} from "../../mod.ts";
import { spendBudget } from "../../_hub/run_queue.ts";
import { Failures } from "../_bodies.ts";
import { random } from "../_seeded.ts";
import { turns } from "../_waits.ts";

/** How a greenlet is started. The first two have a link of their own. */
const STARTS = ["Group.spawn", "Pool.applyAsync", "start", "spawn"] as const;
/** The number of things that are set and waited for. */
const THINGS = 4;
/** The number of greenlets of a program, without main. */
const MOST = 9;
/** The number of calls after which the clock is looked at; see `spendBudget()`. */
const CALLS = 16;
/** Longer than a time slice, in milliseconds. */
const LONG = 0.12;

/** A step of a body. The numbers are those of things or greenlets. */
type Step =
  | { does: "spawn"; how: number; body: Step[] }
  | { does: "set" | "wait" | "link"; to: number }
  | { does: "join" | "link greenlet"; to: number }
  | { does: "sleep" }
  | { does: "fail" }
  /** Takes up the time slice, so that it ends after some of the next calls. */
  | { does: "compute"; calls: number };

class Program {
  readonly #random: () => number;
  /** Whether the bodies are generators. */
  readonly isGenerator: boolean;
  readonly main: Step[];
  #left: number;

  constructor(seed: number) {
    this.#random = random(seed);
    this.isGenerator = seed % 2 === 0;
    this.#left = 4 + this.#below(MOST - 3);
    this.main = this.#body(0);
  }

  #below(end: number): number {
    return Math.floor(this.#random() * end);
  }

  #body(depth: number): Step[] {
    return Array.from({ length: 1 + this.#below(5) }, () => this.#step(depth));
  }

  #step(depth: number): Step {
    const kind = this.#below(20);
    if (kind < 6 && depth < 3 && this.#left > 0) {
      this.#left--;
      const how = this.#below(STARTS.length);
      return { does: "spawn", how, body: this.#body(depth + 1) };
    }
    const to = this.#below(THINGS);
    if (kind < 10) return { does: "sleep" };
    if (kind < 13) return { does: "set", to };
    if (kind < 15) return { does: "wait", to };
    if (kind < 17) return { does: "link", to };
    // The end of an async body is noticed some steps later: nothing may wait for it.
    if (kind < 18 && this.isGenerator) return { does: "join", to };
    if (kind < 19 && this.isGenerator) return { does: "link greenlet", to };
    if (kind === 19 && depth > 0) return { does: "fail" };
    return { does: "compute", calls: this.#below(CALLS) };
  }
}

/** Runs a program in the model. Returns the names of its steps as they begin and end. */
function runModel(program: Program): string[] {
  const log: string[] = [];
  const queue: (() => void)[] = [];
  let links = 0;

  /** Something with links. */
  class Source {
    readonly #links: (() => void)[] = [];
    /** Whether links that come meanwhile are called with the others. */
    readonly #takesAll: boolean;
    #isScheduled = false;
    isReady = false;

    constructor(takesAll: boolean) {
      this.#takesAll = takesAll;
    }

    set(): void {
      if (this.isReady) return;
      this.isReady = true;
      this.#schedule();
    }

    link(link: () => void): void {
      this.#links.push(link);
      if (this.isReady) this.#schedule();
    }

    #schedule(): void {
      if (this.#isScheduled || this.#links.length === 0) return;
      this.#isScheduled = true;
      queue.push(() => this.#tell());
    }

    #tell(): void {
      if (!this.#takesAll) {
        this.#isScheduled = false;
        for (const link of this.#links.splice(0)) link();
        return;
      }
      for (let link; (link = this.#links.shift()) !== undefined;) link();
      this.#isScheduled = false;
    }
  }

  const things = Array.from({ length: THINGS }, () => new Source(false));
  const greenlets: Source[] = [];

  const run = (name: string, body: Step[], self: Source, next = 0): void => {
    for (let i = next; i < body.length; i++) {
      const step = body[i]!;
      const at = `${name}.${i} ${step.does}`;
      const goOn = () => {
        log.push(`${at} ends`);
        run(name, body, self, i + 1);
      };
      log.push(at);
      if (step.does === "fail") break;
      if (step.does === "sleep") return void queue.push(goOn);
      if (step.does === "spawn") {
        const child = new Source(true);
        if (step.how < 2) child.link(() => {});
        const childName = `g${greenlets.push(child)}`;
        queue.push(() => run(childName, step.body, child));
      } else if ("to" in step) {
        const source = step.does === "join" || step.does === "link greenlet"
          ? greenlets[step.to % greenlets.length]
          : things[step.to];
        if (source === undefined || source === self) continue;
        if (step.does === "set") source.set();
        else if (step.does === "wait" || step.does === "join") {
          if (!source.isReady) return source.link(goOn);
        } else {
          const link = `link ${links++}`;
          source.link(() => log.push(link));
        }
      }
    }
    self.set();
  };

  queue.push(() => run("main", program.main, new Source(true)));
  for (let call; (call = queue.shift()) !== undefined;) call();
  return log;
}

/** Runs a program with the library. */
async function runReally(program: Program): Promise<string[]> {
  const log: string[] = [];
  const things = Array.from(
    { length: THINGS },
    (_, i) => i % 2 === 0 ? new Event() : new AsyncResult<number>(),
  );
  const group = new Group();
  const pool = new Pool();
  const greenlets: Greenlet[] = [];
  let links = 0;

  const start = (how: number, body: () => unknown): Greenlet => {
    if (how === 0) return group.spawn(body);
    if (how === 1) return pool.applyAsync(body);
    if (how === 3) return spawn(body);
    const greenlet = new Greenlet(body);
    greenlet.start();
    return greenlet;
  };

  /** Returns the wait of a step, if it waits. */
  const begin = (step: Step, self: number): Wait<unknown> | null => {
    if (step.does === "sleep") return sleep(0);
    if (step.does === "fail") throw new Error("fails");
    if (step.does === "spawn") {
      const number = greenlets.length + 1;
      greenlets.push(start(step.how, bodyOf(`g${number}`, step.body, number)));
    } else if (step.does === "compute") {
      for (let i = step.calls; i < CALLS; i++) spendBudget();
      const end = performance.now() + LONG;
      while (performance.now() < end) { /* Computes. */ }
    } else if (step.does === "join" || step.does === "link greenlet") {
      const index = step.to % greenlets.length;
      const greenlet = greenlets[index];
      if (greenlet === undefined || index + 1 === self) return null;
      if (step.does === "join") return greenlet.dead ? null : greenlet.join();
      link(greenlet);
    } else {
      const thing = things[step.to]!;
      if (step.does === "link") link(thing);
      else if (step.does === "wait") return thing.ready() ? null : thing.wait();
      else if (!thing.ready()) thing.set(1);
    }
    return null;
  };

  const link = (source: { rawlink(link: () => void): unknown }): void => {
    const name = `link ${links++}`;
    source.rawlink(() => void log.push(name));
  };

  const bodyOf = (
    name: string,
    body: Step[],
    self: number,
  ): () => unknown => {
    const at = (i: number): string => `${name}.${i} ${body[i]!.does}`;
    return program.isGenerator
      ? function* () {
        for (const [i, step] of body.entries()) {
          log.push(at(i));
          const wait = begin(step, self);
          if (wait === null) continue;
          yield* wait;
          log.push(`${at(i)} ends`);
        }
      }
      : async function () {
        for (const [i, step] of body.entries()) {
          log.push(at(i));
          const wait = begin(step, self);
          if (wait === null) continue;
          await wait;
          log.push(`${at(i)} ends`);
        }
      };
  };

  const main = spawn(bodyOf("main", program.main, 0));
  // Until nothing goes on any more. What waits for things that are not set waits for ever.
  for (let length = -1; length !== log.length;) {
    length = log.length;
    await turns(4);
  }
  const result = [...log];
  await killAll([main, ...greenlets]);
  return result;
}

Deno.test("Greenlets of random programs go on in the order of gevent's hub", async () => {
  using _ = new Failures();
  for (let seed = 1; seed <= 1000; seed++) {
    const program = new Program(seed);
    const log = await runReally(program);
    assertEquals(
      log,
      runModel(program),
      `Program ${seed}: ${JSON.stringify(program.main)}`,
    );
  }
});
