/**
 * Makes the tests of the table of packages: what a kill and a `Timeout` do to a greenlet that
 * waits in a package, what frees the connection, and what the recipe does.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertStrictEquals,
} from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { Failures } from "../_bodies.ts";
import { test } from "../_random.ts";
import { arrive } from "../patch/_stops.ts";
import { type PackageName, type PhaseName, type Row, table } from "./_table.ts";

/** A greenlet that is about to wait in a package, and what the server sees of it. */
export interface Stage {
  /** Makes the call as everyone does. */
  call(): PromiseLike<unknown>;
  /** Makes the call in the way of the recipe. */
  recipe?(): PromiseLike<unknown>;
  /** Waits until the call waits in the phase. */
  begun(): Promise<unknown>;
  /**
   * Waits until the server has seen that the call has ended at once: that its connection is
   * closed, or that its work is cancelled.
   */
  freed(): Promise<unknown>;
  /** The same for the recipe, if that differs. */
  freedByRecipe?(): Promise<unknown>;
  /** Lets the wait come to its own end. */
  answer?(clock: TestClock): unknown;
  /** Uses the client once more, if it is shared. */
  after?(): Promise<unknown>;
}

/** Makes what a call needs, outside greenlets, and closes it by the stack. */
export type Scene = (stack: AsyncDisposableStack) => Stage | Promise<Stage>;

/** After how long calls are timed out, in milliseconds of a clock that is moved by hand. */
const SOON = 1000;

/**
 * What is "at once", in milliseconds. It takes a few; this allows for a machine under load.
 * What does not end by itself never does, as the server is silent and the clock stands still.
 */
const AT_ONCE = 2000;

/** Collects what is printed, and keeps it from the console. */
class Printed implements Disposable {
  readonly lines: unknown[][] = [];
  readonly #console = { ...console };

  constructor() {
    for (const name of ["debug", "error", "info", "log", "warn"] as const) {
      console[name] = (...args: unknown[]) => this.lines.push([name, ...args]);
    }
  }

  [Symbol.dispose](): void {
    Object.assign(console, this.#console);
  }
}

/** How a greenlet is interrupted, and how it has to end. */
const interrupts = {
  killed: {
    async give(greenlet: Greenlet, _clock: TestClock) {
      greenlet.kill(undefined, { block: false });
      await Promise.resolve();
    },
    check(greenlet: Greenlet) {
      assert(greenlet.successful(), Deno.inspect(greenlet.exception));
      assertInstanceOf(greenlet.value, GreenletExit);
    },
  },
  "timed out": {
    give: (_greenlet: Greenlet, clock: TestClock) => clock.advance(SOON),
    check(greenlet: Greenlet, timeout: Timeout) {
      assertStrictEquals(greenlet.exception, timeout);
    },
  },
};

/** Interrupts one call, and checks that it does what its row of the table says. */
async function play(
  scene: Scene,
  row: Row,
  how: keyof typeof interrupts,
  withRecipe: boolean,
): Promise<void> {
  const { give, check } = interrupts[how];
  const isAtOnce = withRecipe || row.stops === "at once";
  using printed = new Printed();
  using failures = new Failures();
  using _ = patch();
  {
    await using stack = new AsyncDisposableStack();
    const stage = await scene(stack);
    using clock = new TestClock();
    const timeout = new Timeout(SOON);
    let isCleanedUp = false;
    const greenlet = spawn(async () => {
      timeout.start();
      try {
        await (withRecipe ? stage.recipe! : stage.call)();
        // An interrupt that the package did not throw comes here.
        await sleep(0);
      } finally {
        timeout.close();
        isCleanedUp = true;
      }
    }) as Greenlet;
    // The test takes the error.
    greenlet.linkException(() => {});
    await stage.begun();
    await arrive();
    assert(!greenlet.dead, Deno.inspect(greenlet.exception ?? greenlet.value));
    const start = performance.now();
    await give(greenlet, clock);
    if (isAtOnce) {
      await greenlet.join();
      assertLess(performance.now() - start, AT_ONCE);
    } else {
      await arrive();
      assert(!greenlet.dead, "It has stopped at once");
      await stage.answer!(clock);
      await greenlet.join();
    }
    assert(isCleanedUp);
    const { error } = row;
    const isHeld = row.stops === "not at all" && !withRecipe;
    if (isHeld) assertEquals(greenlet.exception, undefined);
    else if (error === undefined || withRecipe) check(greenlet, timeout);
    else assertEquals((greenlet.exception as Error)?.name, error);
    if (withRecipe) await (stage.freedByRecipe ?? stage.freed)();
    else if (isAtOnce) await stage.freed();
    await stage.after?.();
  }
  await arrive();
  assertEquals(failures.errors, []);
  if (row.prints === undefined || withRecipe) assertEquals(printed.lines, []);
}

/**
 * Makes the tests of a package: one for each phase of the table, in which a greenlet is killed,
 * and another timed out, with and without the recipe.
 *
 * @param scenes What is called in each phase.
 * @param reason Why the tests are skipped, if they are.
 */
export function testPackage<P extends PackageName>(
  name: P,
  scenes: Record<PhaseName<P>, Scene>,
  reason: string | null = null,
): void {
  const rows: Record<string, Row> = table[name].phases;
  for (const [phase, scene] of Object.entries<Scene>(scenes)) {
    const row = rows[phase]!;
    const claim = row.stops === "at once"
      ? "stops at once"
      : row.recipe === undefined
      ? "goes on"
      : "goes on, and stops at once by its recipe,";
    const title = `${name} ${claim} when it is interrupted ${phase}`;
    test(title, async () => {
      const forms = row.recipe === undefined ? [false] : [false, true];
      for (const withRecipe of forms) {
        for (const how of Object.keys(interrupts)) {
          const way = how as keyof typeof interrupts;
          try {
            await play(scene, row, way, withRecipe);
          } catch (error) {
            const form = withRecipe ? "by its recipe" : "by itself";
            throw new Error(`${form}, ${how}`, { cause: error });
          }
        }
      }
    }, reason);
  }
}
