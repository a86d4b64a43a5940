import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertMatch,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  getCurrent,
  getTrace,
  Greenlet,
  GreenletError,
  GreenletExit,
  setTrace,
  type Switch,
  type TraceCallback,
} from "../greenlet.ts";

const main = getCurrent();

/** An error of the tests' own. */
class SomeError extends Error {}

// Whatever a test does, and above all whatever mistake it makes, control is back in
// main, and main is as it was.
Deno.test.afterEach(() => {
  assertStrictEquals(getCurrent(), main);
  assertStrictEquals(getTrace(), null);
  assertEquals(String(main), "<Greenlet current active started main>");
  assertStrictEquals(main.switch("to itself").value, "to itself");
  assertStrictEquals(echo().switch("there").value, "there");
});

/** A greenlet that gives back to main whatever it is sent, for ever. */
function echo(first?: unknown): Greenlet {
  return new Greenlet(function* echo(value: unknown) {
    if (first !== undefined) value = first;
    for (;;) value = yield* main.switch(value);
  });
}

/** Asserts that a suspended greenlet can still be switched to, and to its end. */
function assertUsable(greenlet: Greenlet, result: unknown): void {
  assert(greenlet.active);
  assertEquals(greenlet.switch("on").value, result);
  assert(greenlet.dead);
}

/** Records the switches while it is in use. */
class Trace implements Disposable {
  readonly events: [string, Greenlet, Greenlet][] = [];
  readonly #before: TraceCallback | null;

  constructor() {
    this.#before = setTrace((event, origin, target) => {
      this.events.push([event, origin, target]);
    });
  }

  [Symbol.dispose](): void {
    setTrace(this.#before);
  }
}

/** Compares by identity: to `assertEquals` two greenlets may be equal. */
function assertEvents(
  actual: readonly (readonly [string, Greenlet, Greenlet])[],
  expected: readonly (readonly [string, Greenlet, Greenlet])[],
): void {
  const seen: Greenlet[] = [];
  const numbered = (greenlet: Greenlet) => {
    if (!seen.includes(greenlet)) seen.push(greenlet);
    return `greenlet ${seen.indexOf(greenlet)}`;
  };
  const lines = (events: typeof actual) =>
    events.map(([event, origin, target]) =>
      `${event} from ${numbered(origin)} to ${numbered(target)}`
    );
  assertEquals(lines(actual), lines(expected));
}

// Switching: values and control

Deno.test("Greenlet.switch() starts the body with its arguments", () => {
  const seen: unknown[][] = [];
  const plain = (...args: unknown[]) => void seen.push(args);
  function* generator(...args: unknown[]) {
    seen.push(args);
    yield* main.switch();
  }
  for (const body of [plain, generator]) {
    new Greenlet(body).switch();
    new Greenlet(body).switch(1);
    new Greenlet(body).switch(undefined);
    new Greenlet(body).switch([1, 2]);
    new Greenlet(body).switch("a", "b", "c");
  }
  const each = [[], [1], [undefined], [[1, 2]], ["a", "b", "c"]];
  assertEquals(seen, [...each, ...each]);
});

Deno.test("Greenlet.switch() does not start the body before it is called", () => {
  let started = false;
  const g = new Greenlet(() => {
    started = true;
  });
  assertFalse(started);
  g.switch();
  assert(started);
});

Deno.test("Greenlet.switch() gives none as undefined, one as itself, several as an array", () => {
  const one = { some: "object" };
  const list = [1];
  const received: unknown[] = [];
  const g = new Greenlet(function* () {
    for (let i = 0; i < 5; i++) received.push(yield* main.switch());
  });
  g.switch();
  g.switch();
  g.switch(one);
  g.switch(list);
  g.switch(1, [2], 3);
  g.switch(undefined);
  assertEquals(received, [undefined, one, [1], [1, [2], 3], undefined]);
  assertStrictEquals(received[1], one);
  assertStrictEquals(received[2], list);
});

Deno.test("Greenlet.switch() gives main none as undefined, one as itself, several as an array", () => {
  const promise = Promise.resolve(1);
  const g = new Greenlet(function* () {
    yield* main.switch();
    yield* main.switch(promise);
    yield* main.switch(1, 2);
  });
  assertStrictEquals(g.switch().value, undefined);
  assertStrictEquals(g.switch().value, promise);
  assertEquals(g.switch().value, [1, 2]);
  assertStrictEquals(g.switch().value, undefined);
  assert(g.dead);
});

Deno.test("Greenlet.switch() goes on where the body was suspended", () => {
  const seen: number[] = [];
  const g = new Greenlet(function* () {
    seen.push(1);
    yield* main.switch();
    seen.push(3);
  });
  seen.push(0);
  g.switch();
  seen.push(2);
  g.switch();
  seen.push(4);
  assertEquals(seen, [0, 1, 2, 3, 4]);
});

Deno.test("Greenlet.switch() lets two children of one body run each on its own", () => {
  const seen: number[] = [];
  function* body() {
    seen.push(1);
    yield* main.switch();
    seen.push(1, 1);
  }
  const g = new Greenlet(body);
  const h = new Greenlet(body);
  g.switch();
  assertEquals(seen.length, 1);
  h.switch();
  assertEquals(seen.length, 2);
  h.switch();
  assertEquals(seen.length, 4);
  assert(h.dead);
  assertFalse(g.dead);
  g.switch();
  assertEquals(seen.length, 6);
  assert(g.dead);
});

Deno.test("Greenlet.switch() lets a child have a child", () => {
  const seen: string[] = [];
  const outer = new Greenlet(function* () {
    seen.push("a");
    const inner = new Greenlet(function* () {
      seen.push("b");
      yield* getCurrent().parent!.switch();
    });
    yield* inner.switch();
    seen.push("c");
  });
  outer.switch();
  assertEquals(seen, ["a", "b", "c"]);
});

Deno.test("Greenlet.switch() hands values between two greenlets past their parent", () => {
  const seen: unknown[] = [];
  const first: Greenlet = new Greenlet(function* (x: string, y: string) {
    seen.push(yield* second.switch(x + y));
  });
  const second = new Greenlet(function* (u: string) {
    seen.push(u);
    yield* first.switch(42);
  });
  first.switch("hello", " world");
  assertEquals(seen, ["hello world", 42]);
  assert(first.dead);
  assert(second.active);
});

Deno.test("Greenlet.switch() alternates two tasks, with arguments on the first switch only", () => {
  const seen: string[] = [];
  const eat: Greenlet = new Greenlet(function* (name: string) {
    seen.push(`${name} eat 1`);
    yield* play.switch("jack");
    seen.push(`${name} eat 2`);
    yield* play.switch();
  });
  const play: Greenlet = new Greenlet(function* (name: string) {
    seen.push(`${name} play 1`);
    yield* eat.switch();
    seen.push(`${name} play 2`);
  });
  eat.switch("rose");
  assertEquals(seen, [
    "rose eat 1",
    "jack play 1",
    "rose eat 2",
    "jack play 2",
  ]);
});

Deno.test("Greenlet.switch() to the current greenlet gives back what is sent", () => {
  assertStrictEquals(main.switch().value, undefined);
  assertEquals(main.switch(1, 2).value, [1, 2]);
  const generator: Greenlet = new Greenlet(function* () {
    return [yield* generator.switch(3), yield* generator.switch(4, 5)];
  });
  assertEquals(generator.switch().value, [3, [4, 5]]);
  const plain: Greenlet = new Greenlet(() => plain.switch(6).value);
  assertStrictEquals(plain.switch().value, 6);
});

Deno.test("Greenlet.switch() can be delegated to from a generator that the body calls", () => {
  function* ask(question: string) {
    return yield* main.switch<string>(question);
  }
  const g = new Greenlet(function* () {
    return (yield* ask("who")) + (yield* ask("what"));
  });
  assertStrictEquals(g.switch().value, "who");
  assertStrictEquals(g.switch("rose ").value, "what");
  assertStrictEquals(g.switch("eats").value, "rose eats");
});

Deno.test("Greenlet.switch() reaches a body that suspends in catch and finally blocks", () => {
  const seen: unknown[] = [];
  const g = new Greenlet(function* () {
    try {
      throw new SomeError("own");
    } catch (error) {
      seen.push(yield* main.switch("in catch"));
      seen.push((error as Error).message);
    } finally {
      seen.push(yield* main.switch("in finally"));
    }
    return "end";
  });
  assertStrictEquals(g.switch().value, "in catch");
  assertStrictEquals(g.switch(1).value, "in finally");
  assertStrictEquals(g.switch(2).value, "end");
  assertEquals(seen, [1, "own", 2]);
});

Deno.test("Greenlet.switch() between generator bodies does not deepen the stack", () => {
  const rounds = 50_000;
  const ping: Greenlet = new Greenlet(function* () {
    let sum = 0;
    for (let i = 0; i < rounds; i++) sum += yield* pong.switch<number>(i);
    return sum;
  });
  const pong = new Greenlet(function* (value: number) {
    for (;;) value = yield* ping.switch<number>(value + 1);
  });
  assertStrictEquals(ping.switch().value, rounds * (rounds + 1) / 2);
});

Deno.test("Greenlet.switch() goes down a line of 20,000 greenlets and up again", () => {
  function* body(depth: number): Generator<Switch, number, unknown> {
    if (depth === 0) return 0;
    return 1 + (yield* new Greenlet(body).switch<number>(depth - 1));
  }
  assertStrictEquals(new Greenlet(body).switch(20_000).value, 20_000);
});

Deno.test("Greenlet.switch() starts a generator that an arrow or a bound function returns", () => {
  function* body(this: unknown, a: number, b: number) {
    return a + b + (yield* main.switch<number>("suspended"));
  }
  const arrow = new Greenlet((a: number) => body(a, 2));
  assertStrictEquals(arrow.switch(1).value, "suspended");
  assertStrictEquals(arrow.switch(3).value, 6);
  const bound = new Greenlet(body.bind(null, 10));
  assertStrictEquals(bound.switch(20).value, "suspended");
  assertStrictEquals(bound.switch(30).value, 60);
});

Deno.test("Greenlet.switch() calls the body with the greenlet as this", () => {
  const seen: unknown[] = [];
  const plain = new Greenlet(function (this: Greenlet) {
    seen.push(this);
  });
  const generator = new Greenlet(function* (this: Greenlet) {
    seen.push(this);
    yield* main.switch();
  });
  plain.switch();
  generator.switch();
  assertStrictEquals(seen[0], plain);
  assertStrictEquals(seen[1], generator);
});

Deno.test("Switch.value is undefined until yield* has performed the request", () => {
  const g = new Greenlet(function* () {
    const request = main.switch("sent");
    const before = request.value;
    const result = yield* request;
    return [before, result, request.value];
  });
  assertStrictEquals(g.switch().value, "sent");
  assertEquals(g.switch("back").value, [undefined, "back", "back"]);
});

Deno.test("Switch.value is what yield* gives where the switch has been performed", () => {
  function* notABody() {
    return yield* echo().switch<string>("performed");
  }
  assertEquals(notABody().next(), { done: true, value: "performed" });
});

// The current greenlet

Deno.test("getCurrent() is the greenlet that has control", () => {
  const seen: Greenlet[] = [];
  const plain = new Greenlet(() => {
    seen.push(getCurrent());
    generator.switch();
    seen.push(getCurrent());
  });
  const generator = new Greenlet(function* () {
    seen.push(getCurrent());
    yield* plain.switch();
    seen.push(getCurrent());
  });
  plain.switch();
  seen.push(getCurrent());
  generator.switch();
  const expected = [plain, generator, plain, main, generator];
  assertEquals(seen.length, expected.length);
  expected.forEach((greenlet, i) => assertStrictEquals(seen[i], greenlet));
});

Deno.test("getCurrent() is main again when an error has come out of a greenlet", () => {
  const g = new Greenlet(() => {
    throw new SomeError();
  });
  assertThrows(() => g.switch(), SomeError);
  assertStrictEquals(getCurrent(), main);
});

// The end of a body

Deno.test("Greenlet sends the result of its body to its parent", () => {
  const plain = new Greenlet(() => "plain");
  assertStrictEquals(plain.switch().value, "plain");
  const generator = new Greenlet(function* () {
    yield* main.switch();
    return ["an", "array"];
  });
  generator.switch();
  assertEquals(generator.switch().value, ["an", "array"]);
  const silent = new Greenlet(() => {});
  assertStrictEquals(silent.switch().value, undefined);
  for (const g of [plain, generator, silent]) assert(g.dead);
});

Deno.test("Greenlet sends its result to its parent, whichever greenlet has switched to it last", () => {
  const seen: unknown[] = [];
  const parent = new Greenlet(function* () {
    seen.push(yield* main.switch("parent waits"));
    return "parent's own";
  });
  parent.switch();
  const child = new Greenlet(() => "child's", parent);
  const other = new Greenlet(function* () {
    seen.push(yield* child.switch());
  });
  assertStrictEquals(other.switch().value, "parent's own");
  assertEquals(seen, ["child's"]);
  assert(child.dead && parent.dead && other.active);
});

Deno.test("Greenlet throws an error that its body does not catch in its parent", () => {
  const error = new SomeError();
  const seen: unknown[] = [];
  const parent = new Greenlet(function* () {
    try {
      yield* child.switch();
    } catch (caught) {
      seen.push(caught);
    }
    return "recovered";
  });
  const child = new Greenlet(() => {
    throw error;
  }, parent);
  assertStrictEquals(parent.switch().value, "recovered");
  assertStrictEquals(seen[0], error);
  assert(child.dead);
});

Deno.test("Greenlet throws an error that no parent catches in main at last", () => {
  const error = new SomeError();
  const outer = new Greenlet(function* () {
    yield* middle.switch();
  });
  const middle = new Greenlet(function* () {
    yield* inner.switch();
  }, outer);
  const inner = new Greenlet(() => {
    throw error;
  }, middle);
  assertStrictEquals(assertThrows(() => outer.switch()), error);
  assert(outer.dead && middle.dead && inner.dead);
});

Deno.test("Greenlet returns an uncaught GreenletExit to its parent", () => {
  class Quit extends GreenletExit {}
  for (const exit of [new GreenletExit("bye"), new Quit()]) {
    const g = new Greenlet(() => {
      throw exit;
    });
    assertStrictEquals(g.switch().value, exit);
    assert(g.dead);
  }
});

Deno.test("Greenlet gives a thrown value that is not an Error to its parent as it is", () => {
  for (const thrown of ["text", 0, undefined, null, Symbol.iterator]) {
    const g = new Greenlet(() => {
      throw thrown;
    });
    try {
      g.switch();
    } catch (caught) {
      assertStrictEquals(caught, thrown);
      continue;
    }
    throw new Error("Nothing was thrown");
  }
});

Deno.test("Greenlet throws an error of a later switch in the parent it has by then", () => {
  const seen: string[] = [];
  function* body(name: string) {
    try {
      yield* main.switch();
    } catch (error) {
      seen.push(name);
      throw error;
    }
    throw new SomeError();
  }
  const g1 = new Greenlet(body);
  const g2 = new Greenlet(body);
  g1.switch("g1");
  g2.switch("g2");
  g2.parent = g1;
  assertEquals(seen, []);
  assertThrows(() => g2.switch(), SomeError);
  assertEquals(seen, ["g1"]);
  assert(g1.dead && g2.dead);
  assertStrictEquals(g2.switch().value, undefined);
  assertStrictEquals(g2.switch(25).value, 25);
  assertEquals(seen, ["g1"]);
});

Deno.test("Greenlet throws the error of a child in a parent that is suspended elsewhere", () => {
  const seen: unknown[] = [];
  const parent = new Greenlet(function* () {
    try {
      yield* main.switch();
    } catch (error) {
      seen.push(error);
      throw error;
    }
  });
  parent.switch();
  const error = new SomeError();
  const crasher = new Greenlet((error: Error) => {
    throw error;
  }, parent);
  assertStrictEquals(assertThrows(() => crasher.switch(error)), error);
  assertStrictEquals(seen[0], error);
});

Deno.test("Greenlet starts a parent that has not started with its result", () => {
  const parent = new Greenlet((x: number) => [x, 24]);
  const child = new Greenlet(() => 42, parent);
  assertEquals(child.switch().value, [42, 24]);
  assert(parent.dead && child.dead);
  const takesAll = new Greenlet((...args: unknown[]) => args);
  const several = new Greenlet(() => [1, 2], takesAll);
  assertEquals(several.switch().value, [[1, 2]]);
});

Deno.test("Greenlet gives the error of a parent that it starts to the parent's parent", () => {
  const parent = new Greenlet(() => {
    throw new SomeError();
  });
  const child = new Greenlet(() => 42, parent);
  assertThrows(() => child.switch(), SomeError);
  assert(parent.dead && child.dead);
});

Deno.test("Greenlet kills a parent that has not started with its error", () => {
  let started = false;
  const parent = new Greenlet(() => {
    started = true;
  });
  const child = new Greenlet(() => {
    throw new SomeError();
  }, parent);
  assertThrows(() => child.switch(), SomeError);
  assert(parent.dead);
  assertFalse(started);
});

Deno.test("Greenlet.ended() decides what the parent gets, and runs in the greenlet", () => {
  const seen: [unknown, boolean, boolean][] = [];
  class Recorded extends Greenlet {
    protected override ended(outcome: unknown, failed: boolean): unknown {
      seen.push([outcome, failed, getCurrent() === this && this.dead]);
      if (outcome === "throw") throw new SomeError("from ended");
      return "ended";
    }
  }
  const error = new SomeError();
  assertStrictEquals(new Recorded(() => 1).switch().value, "ended");
  const failing = new Recorded(() => {
    throw error;
  });
  assertStrictEquals(failing.switch().value, "ended");
  assertThrows(() => new Recorded(() => "throw").switch(), SomeError, "ended");
  const killed = new Recorded(() => {});
  const exit = new GreenletExit();
  assertStrictEquals(killed.throw(exit).value, "ended");
  assertEquals(seen, [
    [1, false, true],
    [error, true, true],
    ["throw", false, true],
    [exit, true, true],
  ]);
});

Deno.test("Greenlet.ended() can switch, and the greenlet is dead after it", () => {
  const helper = new Greenlet(function* (question: unknown) {
    yield* getCurrent().parent!.switch(["answer to", question]);
  });
  class Asking extends Greenlet {
    protected override ended(outcome: unknown): unknown {
      helper.parent = this;
      return helper.switch(outcome).value;
    }
  }
  const g = new Asking(() => "last words");
  assertEquals(g.switch().value, ["answer to", "last words"]);
  assert(g.dead);
  assertStrictEquals(g.switch("up").value, "up");
});

// The dead

Deno.test("Greenlet.switch() to a dead greenlet goes to its parent, and on up", () => {
  const seen: unknown[] = [];
  const top = new Greenlet(function* () {
    for (;;) seen.push(yield* main.switch("top"));
  });
  top.switch();
  const middle = new Greenlet(() => {}, top);
  const bottom = new Greenlet(() => {}, middle);
  bottom.switch();
  assert(middle.dead && bottom.dead);
  seen.length = 0;
  assertStrictEquals(bottom.switch().value, "top");
  assertStrictEquals(bottom.switch(1).value, "top");
  assertStrictEquals(middle.switch(2, 3).value, "top");
  assertEquals(seen, [undefined, 1, [2, 3]]);
});

Deno.test("Greenlet.switch() to a dead child of the current greenlet comes back at once", () => {
  const outer = new Greenlet(function* () {
    const inner = new Greenlet(() => 42);
    const alive = yield* inner.switch();
    const dead = yield* inner.switch();
    return [alive, dead, yield* inner.switch("echo"), inner];
  });
  const [alive, dead, sent, inner] = outer.switch<unknown[]>().value;
  assertEquals([alive, dead, sent], [42, undefined, "echo"]);
  assertStrictEquals((inner as Greenlet).switch().value, undefined);
});

Deno.test("Greenlet.switch() to a dead greenlet starts a parent that has not started", () => {
  const seen: unknown[] = [];
  const child = new Greenlet(() => void seen.push("child"));
  child.switch();
  child.parent = new Greenlet((...args: unknown[]) => void seen.push(args));
  assertStrictEquals(child.switch().value, undefined);
  child.parent = new Greenlet((...args: unknown[]) => void seen.push(args));
  child.switch(1, 2);
  assertEquals(seen, ["child", [], [1, 2]]);
});

Deno.test("Greenlet.throw() into a dead greenlet raises in its parent", () => {
  const dead = new Greenlet(() => {});
  dead.switch();
  const error = new SomeError();
  assertStrictEquals(assertThrows(() => dead.throw(error)), error);
  const careful = new Greenlet(function* () {
    try {
      yield* main.switch();
    } catch (caught) {
      return ["caught", caught];
    }
  });
  careful.switch();
  dead.parent = careful;
  assertEquals(dead.throw(error).value, ["caught", error]);
});

Deno.test("Greenlet.throw() of a GreenletExit into a dead greenlet returns it to the parent", () => {
  const dead = new Greenlet(() => {});
  dead.switch();
  const exit = new GreenletExit();
  assertStrictEquals(dead.throw(exit).value, exit);
  assertInstanceOf(dead.throw().value, GreenletExit);
  const parent = new Greenlet(function* () {
    return ["went on with", yield* main.switch()];
  });
  parent.switch();
  dead.parent = parent;
  assertEquals(dead.throw(exit).value, ["went on with", exit]);
});

Deno.test("Greenlet.dead stays, and main is never dead", () => {
  const g = new Greenlet(() => {});
  assertFalse(g.dead);
  g.switch();
  g.switch();
  g.throw();
  g.return();
  assertThrows(() => g.throw(new SomeError()), SomeError);
  assert(g.dead);
  assertThrows(() => main.throw(), GreenletExit);
  assertThrows(() => main.throw(new SomeError()), SomeError);
  assertStrictEquals(main.return("value").value, "value");
  assertFalse(main.dead);
  assert(main.active);
});

Deno.test("Greenlet.active is true from the first switch to the end", () => {
  const seen: boolean[] = [];
  const g = new Greenlet(function* () {
    seen.push(g.active);
    yield* main.switch();
  });
  seen.push(g.active);
  g.switch();
  seen.push(g.active);
  g.switch();
  seen.push(g.active);
  assertEquals(seen, [false, true, true, false]);
  const plain: Greenlet = new Greenlet(() => {
    seen.push(plain.active);
    seen.push(new Greenlet(() => plain.active).switch<boolean>().value);
  });
  seen.length = 0;
  plain.switch();
  assertEquals(seen, [true, true]);
  assertFalse(plain.active);
});

// throw() and return()

Deno.test("Greenlet.throw() throws in the switch in which the body is suspended", () => {
  const error = new SomeError("ciao");
  const g = new Greenlet(function* () {
    try {
      yield* main.switch("ok");
    } catch (caught) {
      assertStrictEquals(caught, error);
      yield* main.switch("caught");
      return "end";
    }
    return "not thrown";
  });
  assertStrictEquals(g.switch().value, "ok");
  assertStrictEquals(g.throw(error).value, "caught");
  assertStrictEquals(g.switch().value, "end");
});

Deno.test("Greenlet.throw() throws an error that the body does not catch in the parent", () => {
  const g = echo("ok");
  g.switch();
  const error = new SomeError();
  assertStrictEquals(assertThrows(() => g.throw(error)), error);
  assert(g.dead);
});

Deno.test("Greenlet.throw() without an error kills with a GreenletExit, which is returned", () => {
  let cleaned = false;
  const g = new Greenlet(function* () {
    try {
      yield* main.switch("ok");
      yield* main.switch("fail");
    } finally {
      cleaned = true;
    }
  });
  assertStrictEquals(g.switch().value, "ok");
  const exit = g.throw().value;
  assertInstanceOf(exit, GreenletExit);
  assert(cleaned);
  assert(g.dead);
  // The dead one passes it on at once.
  const second = g.throw().value;
  assertInstanceOf(second, GreenletExit);
  assertNotStrictEquals(second, exit);
});

Deno.test("Greenlet.throw() kills a greenlet that has not started before its first line", () => {
  let started = false;
  const body = () => {
    started = true;
  };
  const failed = new Greenlet(body);
  const error = new SomeError();
  assertStrictEquals(assertThrows(() => failed.throw(error)), error);
  const exited = new Greenlet(body);
  assertInstanceOf(exited.throw().value, GreenletExit);
  assert(failed.dead && exited.dead);
  failed.switch();
  assertFalse(started);
});

Deno.test("Greenlet.throw() into a greenlet that has not started raises in its own parent", () => {
  function* ready() {
    try {
      yield* main.switch("ready to catch");
    } catch {
      return "caught";
    }
    return "normal exit";
  }
  function* suspended() {
    yield* main.switch("from child");
  }

  const unstarted = new Greenlet(ready);
  const first = new Greenlet(suspended, unstarted);
  assertThrows(() => first.throw(new SomeError()), SomeError);
  assert(unstarted.dead && first.dead);

  for (const start of [false, true]) {
    const parent = new Greenlet(ready);
    const child = new Greenlet(suspended, parent);
    assertStrictEquals(parent.switch().value, "ready to catch");
    if (start) assertStrictEquals(child.switch().value, "from child");
    assertStrictEquals(child.throw(new SomeError()).value, "caught");
    assert(parent.dead && child.dead);
  }
});

Deno.test("Greenlet.throw() takes whatever JavaScript can throw", () => {
  for (const thrown of ["abc", 0, null, () => {}]) {
    const g = new Greenlet(function* () {
      try {
        yield* main.switch();
      } catch (caught) {
        return [caught];
      }
    });
    g.switch();
    const [caught] = g.throw<unknown[]>(thrown).value;
    assertStrictEquals(caught, thrown);
  }
});

Deno.test("Greenlet.throw() to the current greenlet throws there", () => {
  const error = new SomeError();
  assertStrictEquals(assertThrows(() => main.throw(error)), error);
  const plain: Greenlet = new Greenlet(() => {
    assertStrictEquals(assertThrows(() => plain.throw(error)), error);
    return "plain goes on";
  });
  assertStrictEquals(plain.switch().value, "plain goes on");
  const generator: Greenlet = new Greenlet(function* () {
    try {
      yield* generator.throw(error);
    } catch (caught) {
      return caught;
    }
  });
  assertStrictEquals(generator.switch().value, error);
});

Deno.test("Greenlet.throw() can be made in a generator body, by yield*", () => {
  const victim = new Greenlet(function* () {
    try {
      yield* main.switch();
    } catch (error) {
      yield* attacker.switch(error);
    }
  });
  victim.switch();
  const error = new SomeError();
  const attacker = new Greenlet(function* () {
    return yield* victim.throw(error);
  });
  assertStrictEquals(attacker.switch().value, error);
  assert(victim.active);
});

Deno.test("Greenlet.throw() can be swallowed again and again", () => {
  const g = new Greenlet(function* () {
    for (let swallowed = 0;; swallowed++) {
      try {
        yield* main.switch(swallowed);
      } catch {
        // That is the point.
      }
    }
  });
  g.switch();
  for (let i = 1; i < 20; i++) assertStrictEquals(g.throw().value, i);
  assert(g.active);
});

Deno.test("Greenlet.return() runs finally blocks and passes catch blocks by", () => {
  const seen: string[] = [];
  const g = new Greenlet(function* () {
    for (;;) {
      try {
        yield* main.switch();
      } catch {
        seen.push("catch");
      } finally {
        seen.push("finally");
      }
    }
  });
  g.switch();
  assertStrictEquals(g.return("value").value, "value");
  assert(g.dead);
  assertEquals(seen, ["finally"]);
});

Deno.test("Greenlet.return() lets a finally block switch, and ends the body after it", () => {
  const g = new Greenlet(function* () {
    try {
      yield* main.switch("body");
    } finally {
      yield* main.switch("cleaning up");
    }
    return "not reached";
  });
  assertStrictEquals(g.switch().value, "body");
  assertStrictEquals(g.return("asked for").value, "cleaning up");
  assert(g.active);
  assertStrictEquals(g.switch("anything").value, "asked for");
  assert(g.dead);
});

Deno.test("Greenlet.return() ends a greenlet that has not started before its first line", () => {
  let started = false;
  const g = new Greenlet(() => {
    started = true;
  });
  assertStrictEquals(g.return("value").value, "value");
  assert(g.dead);
  assertFalse(started);
});

Deno.test("Greenlet.return() to a dead greenlet sends the value to its parent, which goes on", () => {
  const dead = new Greenlet(() => {});
  dead.switch();
  assertStrictEquals(dead.return("value").value, "value");
  const parent = new Greenlet(function* () {
    return ["goes on with", yield* main.switch()];
  });
  parent.switch();
  dead.parent = parent;
  assertEquals(dead.return("value").value, ["goes on with", "value"]);
});

Deno.test("Greenlet.return() can be made in a generator body, by yield*", () => {
  const victim = echo();
  victim.switch();
  const g = new Greenlet(function* () {
    victim.parent = getCurrent();
    return ["got", yield* victim.return("ended")];
  });
  assertEquals(g.switch().value, ["got", "ended"]);
  assert(victim.dead);
});

Deno.test("Greenlet.return() reaches a plain body as a value: it can't be ended", () => {
  const plain: Greenlet = new Greenlet(() => {
    const inner = new Greenlet(function* () {
      yield* plain.return("value");
    });
    return ["goes on with", inner.switch().value];
  });
  assertEquals(plain.switch().value, ["goes on with", "value"]);
});

// Parents

Deno.test("Greenlet.parent is by default the greenlet that made it", () => {
  assertStrictEquals(new Greenlet(() => {}).parent, main);
  assertStrictEquals(new Greenlet(() => {}, undefined).parent, main);
  assertStrictEquals(new Greenlet(() => {}, null as never).parent, main);
  const outer: Greenlet = new Greenlet(function* () {
    assertStrictEquals(new Greenlet(() => {}).parent, outer);
    yield* main.switch();
    assertStrictEquals(new Greenlet(() => {}).parent, outer);
  });
  outer.switch();
  outer.switch();
  const plain: Greenlet = new Greenlet(() => {
    assertStrictEquals(new Greenlet(() => {}).parent, plain);
  });
  plain.switch();
});

Deno.test("Greenlet.parent of main is null", () => {
  assertStrictEquals(main.parent, null);
});

Deno.test("Greenlet.parent can be given, and set before and after the start", () => {
  const parent = () =>
    new Greenlet((result: string) => `in the parent: ${result}`);
  const given = new Greenlet(() => "given", parent());
  assertStrictEquals(given.switch().value, "in the parent: given");
  const setBefore = new Greenlet(() => "set before");
  setBefore.parent = parent();
  assertStrictEquals(setBefore.switch().value, "in the parent: set before");
  const setAfter = new Greenlet(function* () {
    yield* main.switch();
    return "set after";
  });
  setAfter.switch();
  setAfter.parent = parent();
  assertStrictEquals(setAfter.switch().value, "in the parent: set after");
});

Deno.test("Greenlet.parent can be set by the body itself", () => {
  const parent = new Greenlet((result: string) => `in the parent: ${result}`);
  const g: Greenlet = new Greenlet(() => {
    g.parent = parent;
    return "its own doing";
  });
  assertStrictEquals(g.switch().value, "in the parent: its own doing");
});

Deno.test("Greenlet.parent can be a dead greenlet, and the parent of that is used then", () => {
  const dead = new Greenlet(() => {});
  dead.switch();
  assertStrictEquals(new Greenlet(() => "up", dead).switch().value, "up");
});

Deno.test("Greenlet.parent refuses anything but a greenlet", () => {
  const g = new Greenlet(function* () {
    yield* main.switch();
  });
  const wrong = [
    null,
    undefined,
    1,
    "42",
    {},
    Object.create(null),
    Symbol("no"),
  ];
  const check = () => {
    for (const value of wrong) {
      assertThrows(
        () => g.parent = value as never,
        TypeError,
        "Cannot set parent as it must be a greenlet: received",
      );
    }
    assertStrictEquals(g.parent, main);
  };
  check();
  g.switch();
  check();
  g.switch();
  check();
  for (const value of wrong.slice(2)) {
    assertThrows(
      () => new Greenlet(() => {}, value as never),
      TypeError,
      "Cannot set parent as it must be a greenlet: received",
    );
  }
});

Deno.test("Greenlet.parent refuses the greenlet itself and a cycle, and stays as it was", () => {
  const [g1, g2, g3] = [1, 2, 3].map((i) =>
    Object.defineProperty(new Greenlet(() => i), "name", { value: `g${i}` })
  ) as [Greenlet, Greenlet, Greenlet];
  assertThrows(() => g1.parent = g1, RangeError, "close a cycle of parents");
  g1.parent = g2;
  g2.parent = g3;
  assertThrows(() => g3.parent = g1, RangeError, "close a cycle of parents");
  assertThrows(() => g3.parent = g2, RangeError, "close a cycle of parents");
  assertStrictEquals(g3.parent, main);
  assertStrictEquals(g1.switch().value, 3);
  assert(g1.dead && g2.dead && g3.dead);
  assertThrows(() => g3.parent = g1, RangeError, "close a cycle of parents");
});

Deno.test("Greenlet.parent says which greenlets would close a cycle", () => {
  const adam = new Greenlet(function adam() {});
  const eve = new Greenlet(function eve() {}, adam);
  const error = assertThrows(() => adam.parent = eve, RangeError);
  assertStringIncludes(error.message, '<Greenlet "eve" pending> the parent of');
  assertStringIncludes(error.message, '<Greenlet "adam" pending> as');
});

Deno.test("Greenlet.parent of main can't be set", () => {
  for (const value of [main, new Greenlet(() => {}), null, 42]) {
    assertThrows(
      () => main.parent = value as never,
      TypeError,
      "Cannot set the parent of the main greenlet",
    );
  }
  assertStrictEquals(main.parent, null);
});

Deno.test("Greenlet.parent can't be deleted", () => {
  const g = new Greenlet(() => {}) as { parent?: unknown };
  delete g.parent;
  assertStrictEquals(g.parent, main);
  delete (main as { parent?: unknown }).parent;
  assertStrictEquals(main.parent, null);
});

// run, and subclasses

Deno.test("Greenlet.run is the body, and is gone once that has started", () => {
  const body = () => g.run;
  const g: Greenlet = new Greenlet(body);
  assertStrictEquals(g.run, body);
  assertStrictEquals(g.switch().value, undefined);
  assertStrictEquals(g.run, undefined);
  const generator = new Greenlet(function* () {
    yield* main.switch(generator.run);
  });
  assertStrictEquals(generator.switch().value, undefined);
  assertStrictEquals(main.run, undefined);
});

Deno.test("Greenlet.run is gone from a greenlet that was killed before its start", () => {
  const g = new Greenlet(() => {});
  g.throw();
  assertStrictEquals(g.run, undefined);
});

Deno.test("Greenlet.run can be left out, and set before the first switch", () => {
  for (const g of [new Greenlet(), new Greenlet(undefined)]) {
    assertStrictEquals(g.run, undefined);
    assertStrictEquals(g.parent, main);
    g.run = (n: number) => n + 1;
    assertStrictEquals(g.switch(1).value, 2);
  }
});

Deno.test("Greenlet.run can be replaced before the first switch", () => {
  const g = new Greenlet(() => "first");
  g.run = () => "second";
  assertStrictEquals(g.switch().value, "second");
});

Deno.test("Greenlet refuses a run that is not a function", () => {
  for (const run of [null, 42, "run", {}, Object.create(null), Symbol("no")]) {
    assertThrows(
      () => new Greenlet(run as never),
      TypeError,
      "Cannot create greenlet as 'run' must be a function: received",
    );
  }
});

Deno.test("Greenlet without run can't be started until it has one", () => {
  const g = new Greenlet();
  const noRun =
    "Cannot start <Greenlet pending> as it has no 'run': pass a function to its constructor or define run() in its class";
  for (
    const wake of [
      () => g.switch(),
      () => g.throw(new SomeError()),
      () => g.throw(),
      () => g.return(),
    ]
  ) {
    assertStrictEquals(assertThrows(wake, TypeError).message, noRun);
    assertFalse(g.dead);
    assertFalse(g.active);
  }
  const asking = new Greenlet(function* () {
    try {
      yield* g.switch();
    } catch (error) {
      return error;
    }
  });
  assertStrictEquals(asking.switch<Error>().value.message, noRun);
  g.run = () => "now it runs";
  assertStrictEquals(g.switch().value, "now it runs");
});

Deno.test("Greenlet gives the error of a parent without run to the parent's parent", () => {
  const parent = new Greenlet();
  const child = new Greenlet(() => "lost", parent);
  assertThrows(() => child.switch(), TypeError, "it has no 'run'");
  assert(child.dead);
  assertFalse(parent.dead);
  parent.run = (value: string) => `got ${value}`;
  assertStrictEquals(child.switch("this").value, "got this");
});

Deno.test("Greenlet.run may be a plain method of a subclass", () => {
  class Timed extends Greenlet {
    createdAt = 1;
    finishedAt = 0;
    override run(name: string) {
      this.finishedAt = this.createdAt + 1;
      return `hello ${name}`;
    }
  }
  const g = new Timed();
  assertStrictEquals(g.switch("rose").value, "hello rose");
  assertStrictEquals(g.finishedAt, 2);
  assert(g.dead);
});

Deno.test("Greenlet.run may be a generator method of a subclass", () => {
  class Counter extends Greenlet {
    count = 0;
    override *run(step: number) {
      for (;;) {
        this.count += step;
        step = yield* this.parent!.switch<number>(this.count);
      }
    }
  }
  const a = new Counter();
  const b = new Counter();
  assertEquals([1, 2, 3].map((n) => a.switch(n).value), [1, 3, 6]);
  assertStrictEquals(b.switch(10).value, 10);
  assertStrictEquals(a.count, 6);
});

Deno.test("Greenlet.run passed to the constructor of a subclass hides its method", () => {
  class Fallback extends Greenlet {
    override run() {
      return "method";
    }
  }
  assertStrictEquals(new Fallback().switch().value, "method");
  assertStrictEquals(new Fallback(() => "passed").switch().value, "passed");
});

Deno.test("Greenlet.run may be left to the subclasses of an abstract class", () => {
  abstract class Shape extends Greenlet {
    abstract override run(): string;
  }
  class Square extends Shape {
    override run() {
      return "square";
    }
  }
  // @ts-expect-error A class without run() is no Shape.
  class Blob extends Shape {}
  assertStrictEquals(new Square().switch().value, "square");
  assertThrows(() => new Blob().switch(), TypeError, "it has no 'run'");
});

Deno.test("Greenlet can be subclassed, as its main instance can", () => {
  assertInstanceOf(main, Greenlet);
  const MainType = main.constructor as typeof Greenlet;
  assertStrictEquals(MainType, Greenlet);
  class Sub extends MainType {}
  assertStrictEquals(new Sub(() => 1).switch().value, 1);
});

Deno.test("Greenlet can be given properties by the user", () => {
  const g = new Greenlet(function* () {
    Object.assign(getCurrent(), { test: 42 });
    yield* main.switch();
  });
  g.switch();
  assertStrictEquals(Reflect.get(g, "test"), 42);
});

Deno.test("Greenlet can't be copied by structuredClone", () => {
  assertThrows(() => structuredClone(new Greenlet(() => {})), DOMException);
});

Deno.test("Greenlet stays as it was when an accessor run throws", () => {
  const perverse = new Greenlet();
  let works = false;
  Object.defineProperty(perverse, "run", {
    get() {
      if (!works) throw new SomeError();
      return () => "at last";
    },
    set() {},
  });
  const seen: number[] = [];
  const child = new Greenlet(() => void seen.push(42), perverse);
  assertThrows(() => child.switch(), SomeError);
  assertEquals(seen, [42]);
  assertThrows(() => child.switch(), SomeError);
  assertThrows(() => perverse.switch(), SomeError);
  assertEquals(seen, [42]);
  assertFalse(perverse.dead);
  works = true;
  assertStrictEquals(child.switch().value, "at last");
});

Deno.test("Greenlet started by its own accessor run gets the outer switch as its second", () => {
  const g = new Greenlet();
  const received: unknown[] = [];
  let looked = 0;
  Object.defineProperty(g, "run", {
    get() {
      if (looked++ === 0) received.push(["accessor", g.switch(43).value]);
      return function* (value: number) {
        received.push(["start", value]);
        for (;;) received.push(["later", yield* main.switch(value)]);
      };
    },
    set() {},
  });
  assertStrictEquals(g.switch(42).value, 43);
  assertEquals(received, [["start", 43], ["accessor", 43], ["later", 42]]);
});

Deno.test("Greenlet ended by its own accessor run does not run twice", () => {
  const g = new Greenlet();
  let looked = 0;
  let ran = 0;
  Object.defineProperty(g, "run", {
    get() {
      if (looked++ === 0) g.switch();
      return () => ++ran;
    },
    set() {},
  });
  assertStrictEquals(g.switch("to the parent").value, "to the parent");
  assertStrictEquals(ran, 1);
});

Deno.test("Greenlet.throw() keeps its error past an accessor that throws and catches", () => {
  const g = new Greenlet();
  Object.defineProperty(g, "run", {
    get() {
      try {
        throw new Error("internal");
      } catch {
        return () => {};
      }
    },
    set() {},
  });
  const error = new SomeError();
  assertStrictEquals(assertThrows(() => g.throw(error)), error);
});

// Plain bodies, callbacks and async functions

Deno.test("Greenlet.switch() in a plain body waits on the stack for what comes back", () => {
  const seen: unknown[] = [];
  const plain: Greenlet = new Greenlet((name: string) => {
    seen.push(name);
    seen.push(generator.switch("from plain").value);
    seen.push(generator.switch("again").value);
    return "plain's result";
  });
  const generator = new Greenlet(function* (value: string) {
    seen.push(value);
    seen.push(yield* plain.switch("first answer"));
    yield* plain.switch("second answer");
  });
  assertStrictEquals(plain.switch("plain").value, "plain's result");
  assertEquals(seen, [
    "plain",
    "from plain",
    "first answer",
    "again",
    "second answer",
  ]);
  assert(generator.active);
});

Deno.test("Greenlet.switch() nests plain bodies, each of which returns to the body that started it", () => {
  const body = (depth: number): string =>
    depth === 0
      ? "bottom"
      : `${depth} ${new Greenlet(body).switch<string>(depth - 1).value}`;
  assertStrictEquals(new Greenlet(body).switch(4).value, "4 3 2 1 bottom");
});

Deno.test("Greenlet.switch() reaches one generator body from several depths of the stack", () => {
  const seen: string[] = [];
  const shared = new Greenlet(function* (from: Greenlet) {
    for (let n = 1;; n++) from = yield* from.switch<Greenlet>(n);
  });
  const body = (depth: number) => {
    const self = getCurrent();
    seen.push(`${depth} got ${shared.switch(self).value}`);
    if (depth > 0) new Greenlet(body).switch(depth - 1);
    seen.push(`${depth} got ${shared.switch(self).value}`);
  };
  new Greenlet(body).switch(2);
  assertEquals(seen, [
    "2 got 1",
    "1 got 2",
    "0 got 3",
    "0 got 4",
    "1 got 5",
    "2 got 6",
  ]);
});

Deno.test("Greenlet.throw() reaches a plain body that waits on the stack", () => {
  const plain: Greenlet = new Greenlet(() => {
    const thrower = new Greenlet(function* () {
      yield* plain.throw(new SomeError("into plain"));
    });
    try {
      thrower.switch();
    } catch (error) {
      return `caught ${(error as Error).message}`;
    }
  });
  assertStrictEquals(plain.switch().value, "caught into plain");
});

Deno.test("Greenlet.switch() works in a callback of a plain body", () => {
  const doubler = new Greenlet(function* (n: number) {
    for (;;) n = yield* getCurrent().parent!.switch<number>(2 * n);
  });
  const plain = new Greenlet(() => {
    doubler.parent = getCurrent();
    return [1, 2, 3].map((n) => doubler.switch<number>(n).value);
  });
  assertEquals(plain.switch().value, [2, 4, 6]);
});

Deno.test("Greenlet.switch() works in a comparison of Array.sort()", () => {
  const comparer = new Greenlet(function* (a: number, b: number) {
    for (;;) [a, b] = yield* main.switch<[number, number]>(a - b);
  });
  const sorted = [3, 1, 2].sort((a, b) => comparer.switch<number>(a, b).value);
  assertEquals(sorted, [1, 2, 3]);
});

Deno.test("Greenlet.switch() works in callbacks of the event loop", async () => {
  const seen: unknown[] = [];
  const collector = new Greenlet(function* (item: unknown) {
    for (;;) {
      seen.push(item);
      item = yield* main.switch(seen.length);
    }
  });
  const turn = Promise.withResolvers<unknown>();
  queueMicrotask(() => seen.push(collector.switch("microtask").value));
  setTimeout(() => turn.resolve(collector.switch("timer").value), 0);
  assertStrictEquals(await turn.promise, 3);
  const target = new EventTarget();
  target.addEventListener("tick", () => collector.switch("event"));
  target.dispatchEvent(new Event("tick"));
  assertEquals(seen, ["microtask", 1, "timer", "event"]);
});

Deno.test("Greenlet.switch() works in async functions, before and after an await", async () => {
  const adder = new Greenlet(function* (n: number) {
    for (let sum = n;;) sum += yield* main.switch<number>(sum);
  });
  const add = async (n: number) => {
    const before = adder.switch<number>(n).value;
    await Promise.resolve();
    return [before, adder.switch<number>(n).value];
  };
  assertEquals(await Promise.all([add(1), add(10)]), [[1, 12], [11, 22]]);
  const failing = async () => {
    await Promise.resolve();
    adder.throw(new SomeError());
  };
  await assertRejects(failing, SomeError);
});

Deno.test("Greenlet gives the promise of an async body to its parent, and that body goes on in main", async () => {
  const seen: Greenlet[] = [];
  const g = new Greenlet(async () => {
    seen.push(getCurrent());
    await Promise.resolve();
    seen.push(getCurrent());
    return "async result";
  });
  const { value } = g.switch<Promise<string>>();
  assert(g.dead);
  assertInstanceOf(value, Promise);
  assertStrictEquals(await value, "async result");
  assertStrictEquals(seen[0], g);
  assertStrictEquals(seen[1], main);
});

Deno.test("Greenlet survives plain bodies nested until the stack is full", () => {
  let deepest = 0;
  const body = (depth: number) => {
    deepest = Math.max(deepest, depth);
    new Greenlet(body).switch(depth + 1);
  };
  assertThrows(() => new Greenlet(body).switch(0), RangeError);
  assertGreater(deepest, 100);
});

// Mistakes

const FORGOTTEN =
  "was never performed: write `yield*` before switch() and throw()";

Deno.test("Greenlet.switch() without yield*, before another, throws an error that says so, and leaves all greenlets usable", () => {
  const [forgotten, reached] = [echo(), echo()];
  const g = new Greenlet(function* careless() {
    forgotten.switch("forgotten");
    const error = assertThrows(() => reached.switch("too late"), GreenletError);
    assertStrictEquals(
      error.message,
      'A switch to <Greenlet "echo" pending> in the generator body of ' +
        `<Greenlet "careless" current active started> ${FORGOTTEN}`,
    );
    // The next one counts again.
    return ["goes on with", yield* main.switch("performed")];
  });
  assertStrictEquals(g.switch().value, "performed");
  assertFalse(forgotten.active);
  assertFalse(reached.active);
  assertUsable(g, ["goes on with", "on"]);
  assertStrictEquals(forgotten.switch("later").value, "later");
});

Deno.test("Greenlet.throw() without yield*, before another, says so and throws nothing", () => {
  const victim = echo();
  victim.switch();
  const g = new Greenlet(function* () {
    victim.throw(new SomeError());
    try {
      yield* main.switch();
    } catch (error) {
      return error;
    }
  });
  const error = g.switch<Error>().value;
  assertInstanceOf(error, GreenletError);
  assertStringIncludes(error.message, FORGOTTEN);
  assertStrictEquals(victim.switch("alive").value, "alive");
});

Deno.test("Greenlet.switch() without yield*, before a yield* of something else, says so", () => {
  function* foreign() {
    yield "something else";
  }
  const g = new Greenlet(function* careless() {
    main.switch();
    try {
      yield* foreign();
    } catch (error) {
      return [error, yield* main.switch("performed")];
    }
  });
  assertStrictEquals(g.switch().value, "performed");
  const [error] = g.switch<[Error]>().value;
  assertInstanceOf(error, GreenletError);
  assertStringIncludes(error.message, 'generator body of <Greenlet "careless"');
  assertStringIncludes(error.message, FORGOTTEN);
  assert(g.dead);
});

Deno.test("Greenlet.switch() without yield*, at the end of the body, says so to the parent", () => {
  const target = echo();
  const careless = new Greenlet(function* careless() {
    yield* main.switch();
    target.switch("forgotten");
  });
  careless.switch();
  const error = assertThrows(() => careless.switch(), GreenletError);
  assertStrictEquals(
    error.message,
    'A switch to <Greenlet "echo" pending> in the generator body of ' +
      `<Greenlet "careless" current active started> ${FORGOTTEN}`,
  );
  assert(careless.dead);
  assertStrictEquals(target.switch("later").value, "later");
});

Deno.test("Greenlet.switch() without yield*, in a callback of a generator body, says so", () => {
  const target = echo();
  const careless = new Greenlet(function* careless() {
    [1, 2].forEach((n) => target.switch(n));
    yield* main.switch();
  });
  assertThrows(() => careless.switch(), GreenletError, FORGOTTEN);
  assert(careless.dead);
  assertStrictEquals(target.switch("later").value, "later");
});

Deno.test("Greenlet.switch() without yield*, in the finally block of return(), says so", () => {
  const careless = new Greenlet(function* () {
    try {
      yield* main.switch();
    } finally {
      main.switch();
    }
  });
  careless.switch();
  assertThrows(() => careless.return(), GreenletError, FORGOTTEN);
  assert(careless.dead);
});

Deno.test("Greenlet.switch() without yield*, before an error, leaves that error as it is", () => {
  const careless = new Greenlet(function* () {
    yield* main.switch();
    main.switch();
    throw new SomeError();
  });
  careless.switch();
  assertThrows(() => careless.switch(), SomeError);
  // The forgotten request is not held against the next body.
  const careful = new Greenlet(function* () {
    return yield* main.switch();
  });
  careful.switch();
  assertUsable(careful, "on");
});

Deno.test("Greenlet.switch() taken apart by an iteration says that it was never performed", () => {
  for (
    const takeApart of [
      (request: Switch) => [...request as unknown as Iterable<unknown>],
      (request: Switch) => {
        const [first] = request as unknown as Iterable<unknown>;
        return first;
      },
    ]
  ) {
    const g = new Greenlet(function* () {
      takeApart(main.switch("not sent"));
      try {
        yield* main.switch("not sent either");
      } catch (error) {
        return [error, yield* main.switch("sent")];
      }
    });
    assertStrictEquals(g.switch().value, "sent");
    const [error] = g.switch<[Error]>().value;
    assertInstanceOf(error, GreenletError);
    assertStringIncludes(error.message, FORGOTTEN);
  }
});

Deno.test("Greenlet.switch() with yield instead of yield* throws an error that says so, and leaves all greenlets usable", () => {
  const target = echo();
  const g = new Greenlet(function* careless() {
    try {
      yield target.switch("not sent");
    } catch (error) {
      return [error, yield* main.switch("performed")];
    }
  });
  assertStrictEquals(g.switch().value, "performed");
  const [error] = g.switch<[Error]>().value;
  assertInstanceOf(error, GreenletError);
  assertStrictEquals(
    error.message,
    "Cannot yield a Switch or a Wait with `yield` in the body of " +
      '<Greenlet "careless" current active started>: write `yield*`',
  );
  assertFalse(target.active);
  assertStrictEquals(target.switch("later").value, "later");
});

Deno.test("Greenlet refuses a foreign object that its body yields, names it, and goes on", () => {
  const things: [unknown, string, string?][] = [
    [undefined, "undefined"],
    [1, "1"],
    ["text", '"text"'],
    [{}, "[object Object]"],
    [Object.create(null), "a value of type object"],
    [Symbol("s"), "Symbol(s)"],
    [
      Promise.resolve(),
      "[object Promise]",
      ", and until() makes a Wait of a promise",
    ],
    [[1, 2], "1,2"],
  ];
  for (const [thing, description, cure = ""] of things) {
    const g = new Greenlet(function* careless() {
      try {
        yield thing;
      } catch (error) {
        return [error, yield* main.switch("performed")];
      }
    });
    assertStrictEquals(g.switch().value, "performed");
    const [error] = g.switch<[Error]>().value;
    assertInstanceOf(error, GreenletError);
    assertStrictEquals(
      error.message,
      `Cannot yield ${description} in the body of ` +
        '<Greenlet "careless" current active started>: ' +
        "only a Switch or a Wait can be yielded, with `yield*`" + cure,
    );
  }
});

Deno.test("Greenlet throws the error of a mistaken yield that its body does not catch in the parent", () => {
  const careless = new Greenlet(function* () {
    yield 1;
  });
  assertThrows(() => careless.switch(), GreenletError, "Cannot yield 1");
  assert(careless.dead);
});

Deno.test("Greenlet tells by the cause of a TypeError that its body delegates to an array", () => {
  // The array's iterator has no throw() that could take our error: the engine
  // throws one of its own.
  const careless = new Greenlet(function* careless() {
    yield* [1, 2];
  });
  const { cause } = assertThrows(() => careless.switch(), TypeError);
  assertInstanceOf(cause, GreenletError);
  assertStringIncludes(
    cause.message,
    "Cannot yield 1 in the body of <Greenlet",
  );
  assert(careless.dead);
});

Deno.test("Switch can't be performed twice", () => {
  const target = echo("reached");
  const g = new Greenlet(function* () {
    const request = main.switch("once");
    const first = yield* request;
    try {
      yield* request;
    } catch (error) {
      return [first, error, yield* main.switch("performed")];
    }
  });
  assertStrictEquals(g.switch().value, "once");
  assertStrictEquals(g.switch("first").value, "performed");
  const [first, error] = g.switch<[string, Error]>().value;
  assertStrictEquals(first, "first");
  assertInstanceOf(error, GreenletError);
  assertStrictEquals(
    error.message,
    "Cannot perform a switch to <Greenlet suspended active started main> " +
      "that is no longer pending: call switch() again for each yield*",
  );
  assertStrictEquals(target.switch().value, "reached");
});

Deno.test("Switch can't be performed again after it has thrown", () => {
  const g = new Greenlet(function* () {
    const request = main.switch();
    try {
      yield* request;
    } catch {
      yield* request;
    }
  });
  g.switch();
  assertThrows(
    () => g.throw(new SomeError()),
    GreenletError,
    "no longer pending",
  );
  assert(g.dead);
});

Deno.test("Switch can't be performed once it was given up, nor in another greenlet", () => {
  let kept: Switch | undefined;
  const target = echo();
  const keeper = new Greenlet(function* () {
    kept = target.switch("kept");
    assertThrows(() => target.switch(), GreenletError, FORGOTTEN);
    try {
      yield* kept;
    } catch (error) {
      return [error, yield* main.switch("performed")];
    }
  });
  assertStrictEquals(keeper.switch().value, "performed");
  const [error] = keeper.switch<[Error]>().value;
  assertInstanceOf(error, GreenletError);
  assertStringIncludes(error.message, "no longer pending");
  const thief = new Greenlet(function* () {
    yield* kept!;
  });
  assertThrows(() => thief.switch(), GreenletError, "no longer pending");
  assertFalse(target.active);
  assertStrictEquals(target.switch("later").value, "later");
});

Deno.test("Greenlet.switch() to a plain body blocked below throws an error that says so, and leaves all greenlets usable", () => {
  const seen: unknown[] = [];
  const below: Greenlet = new Greenlet(function below() {
    const result = top.switch().value;
    return ["below got", result];
  });
  const top = new Greenlet(function top() {
    const error = assertThrows(() => below.switch("lost"), GreenletError);
    seen.push(error.message);
    assertThrows(() => main.switch("lost"), GreenletError);
    return "top's result";
  }, below);
  assertEquals(below.switch().value, ["below got", "top's result"]);
  assertEquals(seen, [
    'Cannot switch to <Greenlet "below" suspended active started> as it is ' +
    "blocked on the JavaScript stack below " +
    '<Greenlet "top" current active started>, whose plain body can\'t be ' +
    "suspended: make that body a generator function, or switch to " +
    '<Greenlet "top" current active started>',
  ]);
});

Deno.test("Greenlet.switch() to main from a plain body says that main is blocked below", () => {
  const plain = new Greenlet(function plain() {
    const error = assertThrows(() => main.switch(), GreenletError);
    assertStringIncludes(
      error.message,
      "<Greenlet suspended active started ma",
    );
    assertStringIncludes(error.message, "make that body a generator function");
    return "goes on";
  });
  assertStrictEquals(plain.switch().value, "goes on");
});

Deno.test("Greenlet.throw() to a plain body blocked below keeps the error as the cause", () => {
  const error = new SomeError("not delivered");
  const plain = new Greenlet(() => {
    const wrong = assertThrows(() => main.throw(error), GreenletError);
    assertStrictEquals(wrong.cause, error);
    return "goes on";
  });
  assertStrictEquals(plain.switch().value, "goes on");
});

Deno.test("Greenlet.switch() by a generator body to a body blocked below throws in the generator body", () => {
  const plain: Greenlet = new Greenlet(function plain() {
    return ["plain got", generator.switch().value];
  });
  const generator = new Greenlet(function* generator() {
    try {
      yield* main.switch("lost");
    } catch (error) {
      yield* plain.switch(error);
    }
  });
  const [, error] = plain.switch<[string, Error]>().value;
  assertInstanceOf(error, GreenletError);
  assertStringIncludes(error.message, 'below <Greenlet "plain"');
  assertStringIncludes(error.message, "Cannot switch to <Greenlet suspended");
  assert(generator.active);
  assertStrictEquals(generator.switch().value, undefined);
  assert(generator.dead);
});

Deno.test("Greenlet that dies with its parent blocked below tells the plain body that waits", () => {
  const seen: string[] = [];
  const body = (fails: boolean) => {
    if (fails) throw new SomeError("the child's own");
    return "the child's result";
  };
  for (const fails of [false, true]) {
    const child = new Greenlet(body);
    const plain = new Greenlet(function plain() {
      const error = assertThrows(() => child.switch(fails), GreenletError);
      seen.push(error.message);
      assertStrictEquals(error.cause instanceof SomeError, fails);
      return "plain's result";
    });
    assertStrictEquals(plain.switch().value, "plain's result");
    assert(child.dead && plain.dead);
  }
  assertEquals(seen.length, 2);
  for (const message of seen) {
    assertMatch(
      message,
      /^Cannot give the result of <Greenlet "body" dead> to/,
    );
    assertStringIncludes(
      message,
      "to <Greenlet suspended active started main>",
    );
    assertStringIncludes(message, 'below <Greenlet "plain"');
    assertStringIncludes(message, "make that body a generator function");
  }
});

Deno.test("Greenlet body that resumes its own generator fails with the language's error", () => {
  function* body(): Generator<Switch, string, unknown> {
    assertThrows(() => generator.next(), TypeError, "already running");
    return `goes on with ${yield* main.switch("suspended")}`;
  }
  const generator = body();
  const g = new Greenlet(() => generator);
  assertStrictEquals(g.switch().value, "suspended");
  assertStrictEquals(g.switch("it").value, "goes on with it");
});

Deno.test("Greenlet.switch() to a body that runs already says so, and that body goes on", () => {
  const plain: Greenlet = new Greenlet(() => {
    const nested = new Greenlet(() => {
      // `plain` runs, below us: it waits for us, and not for this.
      assertThrows(() => plain.switch(), GreenletError, "is blocked on the");
      assertThrows(() => plain.throw(), GreenletError, "is blocked on the");
      return "nested";
    });
    return ["plain got", nested.switch().value];
  });
  assertEquals(plain.switch().value, ["plain got", "nested"]);
});

// Words

Deno.test("Greenlet.toString() tells the class, the name and the state", () => {
  class Crawler extends Greenlet {}
  const seen: string[] = [];
  const note = (g: Greenlet) => seen.push(String(g));
  const g: Greenlet = new Greenlet(function* fetcher() {
    note(g);
    yield* main.switch();
  });
  note(g);
  g.switch();
  note(g);
  g.switch();
  note(g);
  note(new Crawler(() => {}));
  note(new Greenlet());
  assertEquals(seen, [
    '<Greenlet "fetcher" pending>',
    '<Greenlet "fetcher" current active started>',
    '<Greenlet "fetcher" suspended active started>',
    '<Greenlet "fetcher" dead>',
    "<Crawler pending>",
    "<Greenlet pending>",
  ]);
});

Deno.test("Greenlet.toString() tells main apart, current and suspended", () => {
  assertStrictEquals(String(main), "<Greenlet current active started main>");
  assertStrictEquals(
    new Greenlet(() => String(main)).switch().value,
    "<Greenlet suspended active started main>",
  );
});

Deno.test("Greenlet.toString() of a dead greenlet says neither current nor active", () => {
  const ran = new Greenlet(() => {});
  ran.switch();
  const killed = new Greenlet(() => {});
  killed.throw();
  for (const g of [ran, killed]) {
    assertMatch(`${g}`, / dead>$/);
    for (const word of ["suspended", "started", "active"]) {
      assertFalse(`${g}`.includes(word));
    }
  }
});

Deno.test("Greenlet.toString() does not name the method run", () => {
  class Named extends Greenlet {
    override run() {
      return String(this);
    }
  }
  const g = new Named();
  assertStrictEquals(String(g), "<Named pending>");
  assertStrictEquals(g.switch().value, "<Named current active started>");
  assertStrictEquals(String(g), "<Named dead>");
});

Deno.test("Greenlet.toString() is what Deno.inspect() shows", () => {
  const g = new Greenlet(function inspected() {});
  assertStrictEquals(Deno.inspect(g), '<Greenlet "inspected" pending>');
  assertStrictEquals(Deno.inspect([main]), `[ ${main} ]`);
});

Deno.test("GreenletExit and GreenletError are errors with names of their own", () => {
  assertStrictEquals(String(new GreenletExit("bye")), "GreenletExit: bye");
  assertStrictEquals(String(new GreenletError("no")), "GreenletError: no");
  assertInstanceOf(new GreenletExit(), Error);
  assertFalse(new GreenletExit() instanceof GreenletError);
});

// Tracing

Deno.test("setTrace() tells of each switch and throw, from origin to target", () => {
  using trace = new Trace();
  const g1 = new Greenlet(() => {});
  g1.switch();
  const g2 = new Greenlet(() => {
    throw new SomeError();
  });
  assertThrows(() => g2.switch(), SomeError);
  assertEvents(trace.events, [
    ["switch", main, g1],
    ["switch", g1, main],
    ["switch", main, g2],
    ["throw", g2, main],
  ]);
});

Deno.test("setTrace() tells of switches between generator bodies, and of an exit as a switch", () => {
  class Origin extends Greenlet {
    override *run() {
      yield* target.switch();
      yield* target.throw();
    }
  }
  class Target extends Greenlet {
    override *run() {
      yield* origin.switch();
    }
  }
  using trace = new Trace();
  const origin = new Origin();
  const target: Greenlet = new Target();
  assertInstanceOf(origin.switch().value, GreenletExit);
  assertEvents(trace.events, [
    ["switch", main, origin],
    ["switch", origin, target],
    ["switch", target, origin],
    ["throw", origin, target],
    ["switch", target, main],
  ]);
});

Deno.test("setTrace() tells of the greenlet that gets control, not of dead ones on the way", () => {
  const parent = echo();
  parent.switch();
  const child = new Greenlet(() => {}, parent);
  child.switch();
  using trace = new Trace();
  child.switch();
  child.throw();
  assertEvents(trace.events, [
    ["switch", main, parent],
    ["switch", parent, main],
    ["switch", main, parent],
    ["switch", parent, main],
  ]);
});

Deno.test("setTrace() tells of the start and the end of a greenlet killed before its first line", () => {
  const exited = new Greenlet(() => {});
  const failed = new Greenlet(() => {});
  const returned = new Greenlet(() => {});
  using trace = new Trace();
  exited.throw();
  assertThrows(() => failed.throw(new SomeError()), SomeError);
  returned.return();
  assertEvents(trace.events, [
    ["throw", main, exited],
    ["switch", exited, main],
    ["throw", main, failed],
    ["throw", failed, main],
    ["switch", main, returned],
    ["switch", returned, main],
  ]);
});

Deno.test("setTrace() tells of plain bodies, and of a switch to the current greenlet", () => {
  const outer: Greenlet = new Greenlet(() => {
    outer.switch();
    inner.parent = outer;
    inner.switch();
  });
  const inner = new Greenlet(() => {});
  using trace = new Trace();
  outer.switch();
  main.switch();
  assertEvents(trace.events, [
    ["switch", main, outer],
    ["switch", outer, outer],
    ["switch", outer, inner],
    ["switch", inner, outer],
    ["switch", outer, main],
    ["switch", main, main],
  ]);
});

Deno.test("setTrace() does not tell of mistakes, as they hand over no control", () => {
  const careless: Greenlet = new Greenlet(function* () {
    try {
      yield 1;
    } catch {
      // As foreseen.
    }
    try {
      yield* new Greenlet().switch();
    } catch {
      // As foreseen.
    }
    assertStrictEquals(getCurrent(), careless);
  });
  const plain = new Greenlet(() => {
    assertThrows(() => main.switch(), GreenletError);
  });
  using trace = new Trace();
  careless.switch();
  plain.switch();
  assertEvents(trace.events, [
    ["switch", main, careless],
    ["switch", careless, main],
    ["switch", main, plain],
    ["switch", plain, main],
  ]);
});

Deno.test("setTrace() runs the callback in the target", () => {
  const current: boolean[] = [];
  setTrace((_event, _origin, target) => {
    current.push(getCurrent() === target);
  });
  try {
    const g = echo();
    g.switch();
    new Greenlet(() => g.switch()).throw();
    assertThrows(() => g.throw(new SomeError()), SomeError);
  } finally {
    setTrace(null);
  }
  assertEquals(current, Array(6).fill(true));
});

Deno.test("setTrace() throws an error of the callback in the target, and removes the callback", () => {
  const caught: unknown[] = [];
  const g = new Greenlet(function* () {
    try {
      yield* main.switch();
    } catch (error) {
      caught.push(error, getTrace());
    }
    return "recovered";
  });
  g.switch();
  const error = new SomeError();
  let called = 0;
  setTrace(() => {
    called++;
    throw error;
  });
  assertStrictEquals(g.switch().value, "recovered");
  assertStrictEquals(called, 1);
  assertEquals(caught, [error, null]);
});

Deno.test("setTrace() gives main an error of the callback that the target does not catch", () => {
  const g = new Greenlet(function* () {
    yield* main.switch();
  });
  g.switch();
  using trace = new Trace();
  const record = getTrace()!;
  setTrace((...event) => {
    record(...event);
    throw new SomeError();
  });
  assertThrows(() => g.switch(), SomeError);
  assertStrictEquals(getTrace(), null);
  assert(g.dead);
  assertEvents(trace.events, [["switch", main, g]]);
});

Deno.test("setTrace() lets the callback's error kill a greenlet before its first line", () => {
  let started = false;
  const g = new Greenlet(() => {
    started = true;
  });
  const error = new SomeError();
  setTrace(() => {
    throw error;
  });
  assertStrictEquals(assertThrows(() => g.switch()), error);
  assert(g.dead);
  assertFalse(started);
});

Deno.test("setTrace() lets the callback's error replace the one that is thrown", () => {
  const g = echo();
  g.switch();
  const replacing = new SomeError("of the callback");
  setTrace(() => {
    throw replacing;
  });
  assertStrictEquals(
    assertThrows(() => g.throw(new Error("original"))),
    replacing,
  );
});

Deno.test("setTrace() throws the callback's error in main when main is the target", () => {
  const g = new Greenlet(() => "result");
  setTrace((_event, _origin, target) => {
    if (target === main) throw new SomeError();
  });
  assertThrows(() => g.switch(), SomeError);
  assert(g.dead);
});

Deno.test("setTrace() gives back the callback before, and refuses anything but a function", () => {
  const first = () => {};
  const second = () => {};
  assertStrictEquals(setTrace(first), null);
  assertStrictEquals(getTrace(), first);
  assertStrictEquals(setTrace(second), first);
  for (const wrong of [undefined, 42, {}, Object.create(null), Symbol("no")]) {
    assertThrows(
      () => setTrace(wrong as never),
      TypeError,
      "Cannot set trace as 'callback' must be a function or null: received",
    );
  }
  assertStrictEquals(setTrace(null), second);
  assertStrictEquals(getTrace(), null);
});

Deno.test("setTrace() takes the same callback twice", () => {
  let called = 0;
  const callback = () => void called++;
  setTrace(callback);
  assertStrictEquals(setTrace(callback), callback);
  new Greenlet(() => {}).switch();
  assertStrictEquals(setTrace(null), callback);
  assertStrictEquals(called, 2);
});

Deno.test("setTrace() can be called by the callback, and by a body", () => {
  let called = 0;
  setTrace(() => {
    called++;
    setTrace(null);
  });
  new Greenlet(() => {}).switch();
  assertStrictEquals(called, 1);
  const g = new Greenlet(() => {
    setTrace(() => void called++);
  });
  g.switch();
  setTrace(null);
  assertStrictEquals(called, 2);
});

/** Traces, and calls `intrude` in the callback once, when `when` is true. */
function intruding(
  when: (origin: Greenlet, target: Greenlet) => boolean,
  intrude: () => void,
): Disposable & { readonly events: [string, Greenlet, Greenlet][] } {
  const trace = new Trace();
  const record = getTrace()!;
  let intruded = false;
  setTrace((event, origin, target) => {
    record(event, origin, target);
    if (intruded || !when(origin, target)) return;
    intruded = true;
    intrude();
    assertStrictEquals(getCurrent(), target);
  });
  return trace;
}

Deno.test("Greenlet.switch() in a trace callback runs others before the target goes on", () => {
  const seen: unknown[] = [];
  const g1 = new Greenlet(function* () {
    seen.push("g1 starts");
    seen.push(["g1 got", yield* main.switch("from g1")]);
    seen.push("g1 ends");
  });
  const g2 = new Greenlet(function* () {
    seen.push("g2 starts");
    yield* g1.switch("from g2");
    seen.push("g2 ends");
  });
  using trace = intruding(
    (origin, target) => origin === g1 && target === main,
    () => seen.push(["callback got", g2.switch().value]),
  );
  // g1's switch to main is on its way when the callback hands g1 to its end.
  assertStrictEquals(g1.switch().value, "from g1");
  assert(g1.dead);
  g2.switch();
  assertEquals(seen, [
    "g1 starts",
    "g2 starts",
    ["g1 got", "from g2"],
    "g1 ends",
    ["callback got", undefined],
    "g2 ends",
  ]);
  assertEvents(trace.events, [
    ["switch", main, g1],
    ["switch", g1, main],
    ["switch", main, g2],
    ["switch", g2, g1],
    ["switch", g1, main],
    ["switch", main, g2],
    ["switch", g2, main],
  ]);
});

Deno.test("Greenlet.switch() in a trace callback does not lose the value that is on its way", () => {
  const seen: unknown[] = [];
  const g2 = echo();
  const g1 = new Greenlet(function* (...args: unknown[]) {
    seen.push(["g1 started with", args]);
    seen.push(["g1 got", yield* main.switch("from g1")]);
    return "g1 done";
  });
  {
    using _ = intruding(
      (_origin, target) => target === main,
      () => seen.push(["callback got", g2.switch("to g2").value]),
    );
    assertStrictEquals(g1.switch(1, 2).value, "from g1");
  }
  assertStrictEquals(g1.switch(3).value, "g1 done");
  assertEquals(seen, [
    ["g1 started with", [1, 2]],
    ["callback got", "to g2"],
    ["g1 got", 3],
  ]);
});

Deno.test("Greenlet.switch() in a trace callback comes before the target's first line", () => {
  const seen: unknown[] = [];
  const g1 = new Greenlet((...args: unknown[]) => {
    seen.push(["g1 started with", args]);
    return "g1 done";
  });
  const g2 = new Greenlet(function* (value: string) {
    seen.push(["g2 got", value]);
    // Main is blocked below the callback, which runs in g1.
    try {
      yield* main.switch("from g2");
    } catch (error) {
      seen.push((error as Error).constructor.name);
    }
    seen.push(["g2 got", yield* g1.switch("to the callback")]);
    return "g2 done";
  });
  using _ = intruding(
    (_origin, target) => target === g1,
    () => seen.push(["callback got", g2.switch("from callback").value]),
  );
  assertStrictEquals(g1.switch("g1's argument").value, "g1 done");
  assertStrictEquals(g2.switch("on").value, "g2 done");
  assertEquals(seen, [
    ["g2 got", "from callback"],
    "GreenletError",
    ["callback got", "to the callback"],
    ["g1 started with", ["g1's argument"]],
    ["g2 got", "on"],
  ]);
});

Deno.test("Greenlet.switch() in a trace callback leaves a suspended target as it was", () => {
  const target = echo();
  target.switch();
  const other = new Greenlet(function* () {
    for (;;) yield* target.switch("to the callback");
  });
  const got: unknown[] = [];
  {
    using _ = intruding(
      (_origin, to) => to === target,
      () => got.push(other.switch().value),
    );
    assertStrictEquals(target.switch("first").value, "first");
  }
  assertEquals(got, ["to the callback"]);
  assertStrictEquals(target.switch("second").value, "second");
});

// Generators made of greenlets: what Python's programs did before they had them

/** A greenlet that gives values to the code that iterates over it, by `give()`. */
class Giver<T> extends Greenlet {
  child: Giver<T> | null = null;

  constructor(body: () => Generator<unknown, unknown, unknown>) {
    super(body);
  }

  /** Asks for the next value, in a generator body. */
  *ask(): Generator<Switch, IteratorResult<T, undefined>, unknown> {
    // deno-lint-ignore no-this-alias
    let giver: Giver<T> = this;
    if (this.child === null) this.parent = getCurrent();
    while (giver.child !== null) {
      const child: Giver<T> = giver.child;
      giver.child = null;
      giver = child;
    }
    const value = yield* giver.switch<T>();
    return this.active
      ? { done: false, value }
      : { done: true, value: undefined };
  }

  /** Asks for the next value, in main. */
  next(): IteratorResult<T, undefined> {
    return this.ask().next().value as IteratorResult<T, undefined>;
  }

  [Symbol.iterator](): Iterator<T> {
    return this;
  }
}

/**
 * Gives a value to the consumer of the current giver, or of the giver `level` - 1 above.
 */
function* give<T>(value: T, level = 1): Generator<Switch, unknown, unknown> {
  let target = getCurrent();
  for (; level > 0; level--) {
    if (!(target instanceof Giver)) throw new SomeError("No giver gives this");
    if (level > 1) (target.parent as Giver<T>).child = target as Giver<T>;
    target = target.parent!;
  }
  return yield* target.switch(value);
}

Deno.test("Greenlet makes a generator", () => {
  const seen: number[] = [];
  const upTo = (n: number) =>
    new Giver<number>(function* () {
      for (let i = 0; i < n; i++) {
        seen.push(i);
        yield* give(i);
      }
    });
  for (let round = 0; round < 3; round++) {
    for (const value of upTo(5)) seen.push(value);
  }
  const once = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4];
  assertEquals(seen, [...once, ...once, ...once]);
});

Deno.test("Greenlet makes a generator that gives from nested functions", () => {
  const seen: number[] = [];
  function* nested(i: number) {
    yield* give(i);
  }
  const upTo = (n: number) =>
    new Giver<number>(function* () {
      for (let i = 0; i < n; i++) {
        seen.push(i + 1);
        yield* nested(i);
      }
    });
  for (let round = 0; round < 3; round++) {
    for (const value of upTo(5)) seen.push(value);
  }
  const once = [1, 0, 2, 1, 3, 2, 4, 3, 5, 4];
  assertEquals(seen, [...once, ...once, ...once]);
});

Deno.test("Greenlet makes generators that give over several levels", () => {
  const seen: number[] = [];
  const inner = (n: number) =>
    new Giver<number>(function* () {
      for (let i = 1; i < n; i++) {
        yield* give(i);
        yield* give(i * i, 2);
      }
    });
  const outer = new Giver<number>(function* () {
    const asked = inner(5);
    for (let r = yield* asked.ask(); !r.done; r = yield* asked.ask()) {
      seen.push(r.value);
    }
  });
  for (const value of outer) seen.push(value);
  assertEquals(seen, [1, 1, 2, 4, 3, 9, 4, 16]);
});

Deno.test("Greenlet makes generators that ask themselves", () => {
  const countdown = (n: number): Giver<number> =>
    new Giver<number>(function* () {
      if (n === 0) return;
      const smaller = countdown(n - 1);
      for (let r = yield* smaller.ask(); !r.done; r = yield* smaller.ask()) {
        yield* give(r.value);
      }
      yield* give(n);
    });
  assertEquals([...countdown(5)], [1, 2, 3, 4, 5]);
});

Deno.test("Greenlet makes a generator of permutations, and two of them in step", () => {
  const permutations = (list: number[]): Giver<number[]> =>
    new Giver<number[]>(function* () {
      if (list.length < 2) {
        yield* give(list);
        return;
      }
      for (const first of list) {
        const rest = permutations(list.filter((item) => item !== first));
        for (let r = yield* rest.ask(); !r.done; r = yield* rest.ask()) {
          yield* give([first, ...r.value]);
        }
      }
    });
  const all = [...permutations([0, 1, 2, 3])].map((p) => p.join(""));
  assertEquals(all.length, 24);
  assertEquals(new Set(all).size, 24);
  assert(all.includes("0123") && all.includes("3210"));

  const pairs: string[] = [];
  const threes = permutations([0, 1, 2]);
  const fours = permutations([0, 1, 2, 3]);
  for (const three of threes) {
    pairs.push(`${fours.next().value!.join("")} ${three.join("")}`);
  }
  assertEquals(pairs, [
    "0123 012",
    "0132 021",
    "0213 102",
    "0231 120",
    "0312 201",
    "0321 210",
  ]);
});

Deno.test("Greenlet makes a generator that refuses values from outside", () => {
  assertThrows(() => give(10).next(), SomeError, "No giver gives this");
});

// Realms

Deno.test("getCurrent() is a main greenlet of its own in each Worker", async () => {
  const core = new URL("../greenlet.ts", import.meta.url).href;
  const script = `
    import { getCurrent, Greenlet } from ${JSON.stringify(core)};
    const main = getCurrent();
    const seen = [0];
    const g = new Greenlet(function* () {
      seen.push(1);
      yield* main.switch();
      seen.push(3);
    });
    g.switch();
    seen.push(2);
    g.switch();
    postMessage([seen, String(main), main.parent]);`;
  const url = URL.createObjectURL(
    new Blob([script], { type: "text/javascript" }),
  );
  const run = async () => {
    const worker = new Worker(url, { type: "module" });
    try {
      return await new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = (event) => reject(new Error(event.message));
      });
    } finally {
      worker.terminate();
    }
  };
  try {
    assertEquals(
      await Promise.all([run(), run()]),
      Array(2).fill([
        [0, 1, 2, 3],
        "<Greenlet current active started main>",
        null,
      ]),
    );
  } finally {
    URL.revokeObjectURL(url);
  }
});

// Random programs, beside a model of the rules

/** A pseudo-random number generator (mulberry32), so that a failure can be repeated. */
function randomNumbers(seed: number): (below: number) => number {
  return (below) => {
    seed = seed + 0x6D2B79F5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) % below;
  };
}

type Sending = "switch" | "throw" | "return";
type Kind = "main" | "generator" | "plain" | "without run";

/** The way in which control arrives, as the model foresees it. */
interface Arrival {
  at: number;
  how: Sending;
  /** The value that is sent: the arguments, when `how` is "switch". */
  sent: unknown;
  /** True if the library makes the error: only its class is foreseen. */
  mistake: boolean;
}

/** Stands for an error that the library makes. */
const MISTAKES = { noRun: TypeError, blocked: GreenletError } as const;

/** A random program. All its greenlets, main too, do at random what `live()` can do. */
class Program {
  readonly #random: (below: number) => number;
  readonly #greenlets: Greenlet[] = [main];
  // The model: greenlets are numbers, and main is 0.
  readonly #kinds: Kind[] = ["main"];
  readonly #states: ("pending" | "active" | "dead")[] = ["active"];
  readonly #parents: number[] = [-1];
  /** The greenlets that wait on the JavaScript stack, from below to the top. */
  readonly #stack: number[] = [];
  #running = 0;
  #expected: Arrival | null = null;
  readonly #foreseen: string[] = [];
  readonly #traced: string[] = [];
  #tracing = false;
  /** After how many events the trace callback throws `#traceError`. */
  #traceFailsIn = 0;
  readonly #traceError = new SomeError("of the trace callback");
  #stepsLeft = 150;
  #nextValue = 0;
  /** How often each thing has happened, over all programs. */
  readonly #happened: Map<string, number>;

  constructor(seed: number, happened: Map<string, number>) {
    this.#random = randomNumbers(seed);
    this.#happened = happened;
    for (let i = 0; i < 3; i++) this.#create();
  }

  run(): void {
    try {
      const { done } = this.#live(0).next();
      assertStrictEquals(done, true);
    } finally {
      setTrace(null);
    }
    this.#check(0);
    assertStrictEquals(this.#stack.length, 0);
  }

  #note(what: string): void {
    this.#happened.set(what, (this.#happened.get(what) ?? 0) + 1);
  }

  #any(): number {
    return this.#random(this.#greenlets.length);
  }

  #values(): unknown[] {
    const values = [];
    for (let n = this.#random(4); n > 0; n--) values.push(++this.#nextValue);
    return values;
  }

  #error(): Error {
    return this.#random(3) === 0 ? new GreenletExit() : new SomeError();
  }

  #create(): void {
    const id = this.#greenlets.length;
    const parent = this.#any();
    const kind = ([
      "generator",
      "generator",
      "generator",
      "plain",
      "without run",
    ] as const)[
      this.#random(5)
    ]!;
    const live = (...args: unknown[]) => {
      this.#states[id] = "active";
      this.#arrive(id, "switch", args, true);
      return this.#live(id);
    };
    const run = kind === "generator"
      ? live
      : kind === "plain"
      ? (...args: unknown[]) => {
        const { done, value } = live(...args).next();
        assertStrictEquals(done, true);
        return value;
      }
      : undefined;
    this.#kinds.push(kind);
    this.#states.push("pending");
    this.#parents.push(parent);
    this.#greenlets.push(new Greenlet(run, this.#greenlets[parent]!));
  }

  /** Foresees where control goes from `from`, by greenlet's rules. */
  #deliver(from: number, to: number, how: Sending, sent: unknown): void {
    const alive = this.#states[from] !== "dead";
    let mistake = false;
    for (;;) {
      while (this.#states[to] === "dead") {
        if (
          how === "return" || how === "throw" && sent instanceof GreenletExit
        ) {
          how = "switch";
          sent = [sent];
        }
        to = this.#parents[to]!;
      }
      const noRun = this.#states[to] === "pending" &&
        this.#kinds[to] === "without run";
      const blocked = this.#stack.includes(to) && this.#stack.at(-1) !== to;
      if (noRun || blocked) {
        sent = noRun ? MISTAKES.noRun : MISTAKES.blocked;
        to = alive ? from : noRun ? this.#parents[to]! : this.#stack.at(-1)!;
        how = "throw";
        mistake = true;
        this.#note(noRun ? "without run" : "blocked below");
        continue;
      }
      if (this.#tracing && !mistake) {
        const event = how === "throw" ? "throw" : "switch";
        this.#foreseen.push(`${event} ${from} ${to}`);
        if (--this.#traceFailsIn === 0) {
          this.#tracing = false;
          how = "throw";
          sent = this.#traceError;
          this.#note("trace error");
        }
      }
      if (this.#states[to] === "pending" && how !== "switch") {
        // It dies before its first line, and only the tracer sees it.
        this.#states[to] = "dead";
        this.#note("killed unstarted");
        if (how === "return" || sent instanceof GreenletExit) sent = [sent];
        const goesOn = how === "return" || Array.isArray(sent);
        return this.#deliver(
          to,
          this.#parents[to]!,
          goesOn ? "switch" : "throw",
          sent,
        );
      }
      this.#expected = { at: to, how, sent, mistake };
      return;
    }
  }

  /** Foresees what a switch of the running greenlet does. */
  #send(to: number, how: Sending, sent: unknown): void {
    if (this.#kinds[this.#running] !== "generator") {
      this.#stack.push(this.#running);
    }
    this.#deliver(this.#running, to, how, sent);
  }

  /** Foresees what follows the end of the running body. */
  #die(how: "switch" | "throw", outcome: unknown): void {
    const id = this.#running;
    this.#states[id] = "dead";
    const exit = how === "throw" && outcome instanceof GreenletExit;
    const sent = how === "switch" || exit ? [outcome] : outcome;
    this.#deliver(id, this.#parents[id]!, exit ? "switch" : how, sent);
  }

  /** Compares what has arrived with what was foreseen. */
  #arrive(id: number, how: Sending, arrived: unknown, starting = false): void {
    const expected = this.#expected!;
    this.#expected = null;
    this.#running = id;
    if (this.#stack.at(-1) === id) this.#stack.pop();
    assertStrictEquals(expected.at, id);
    // A plain body can't be ended: to it, and to main, a return() is a switch.
    const ends = expected.how === "return" && this.#kinds[id] === "generator";
    if (ends) {
      assertStrictEquals(how, "return");
    } else if (expected.how === "throw") {
      assertStrictEquals(how, "throw");
      if (expected.sent === TypeError || expected.sent === GreenletError) {
        assertInstanceOf(arrived, expected.sent as typeof Error);
        this.#note("mistake");
      } else {
        assertStrictEquals(arrived, expected.sent);
      }
    } else {
      assertStrictEquals(how, "switch");
      const sent = expected.how === "return"
        ? [expected.sent]
        : expected.sent as unknown[];
      const value = starting || sent.length > 1 ? sent : sent[0];
      assertEquals(arrived, value);
    }
    this.#check(id);
  }

  #check(id: number): void {
    assertStrictEquals(getCurrent(), this.#greenlets[id]);
    assertEquals(this.#traced.splice(0), this.#foreseen.splice(0));
    this.#greenlets.forEach((greenlet, i) => {
      const state = this.#states[i];
      assertStrictEquals(greenlet.dead, state === "dead");
      assertStrictEquals(greenlet.active, state === "active");
      assertStrictEquals(
        greenlet.parent,
        this.#greenlets[this.#parents[i]!] ?? null,
      );
    });
  }

  /** The steps of each body, of whatever kind: a plain one yields nothing. */
  *#live(id: number): Generator<unknown, unknown, unknown> {
    const generator = this.#kinds[id] === "generator";
    while (this.#stepsLeft-- > 0) {
      const choice = this.#random(20);
      if (choice < 11) {
        yield* this.#transfer(id, choice);
      } else if (choice < 13) {
        if (this.#greenlets.length < 12) this.#create();
      } else if (choice < 15) {
        this.#reparent();
      } else if (choice < 16) {
        this.#trace();
      } else if (choice < 18 && generator) {
        yield* this.#blunder(id);
      } else if (choice === 19 && id !== 0) {
        break;
      }
      this.#check(id);
    }
    return id === 0 ? undefined : this.#end(generator);
  }

  *#transfer(id: number, choice: number): Generator<unknown, void, unknown> {
    const to = this.#any();
    const target = this.#greenlets[to]!;
    const how = choice < 8 ? "switch" : choice < 10 ? "throw" : "return";
    this.#note(how);
    let arrived: unknown;
    let arrives: Sending = "return";
    try {
      if (how === "switch") {
        const values = this.#values();
        this.#send(to, how, values);
        arrived = yield* target.switch(...values);
      } else if (how === "throw") {
        const error = this.#error();
        this.#send(to, how, error);
        arrived = yield* target.throw(error);
      } else {
        const value = ++this.#nextValue;
        this.#send(to, how, value);
        arrived = yield* target.return(value);
      }
      arrives = "switch";
    } catch (error) {
      arrived = error;
      arrives = "throw";
    } finally {
      // Or else the body is ended here, by return().
      if (arrives === "return") {
        const { sent } = this.#expected!;
        this.#arrive(id, arrives, undefined);
        this.#note("ended");
        this.#die("switch", sent);
      }
    }
    this.#arrive(id, arrives, arrived);
  }

  #reparent(): void {
    const child = this.#any();
    const parent = this.#any();
    let error: typeof Error | null = null;
    if (child === 0) error = TypeError;
    for (
      let id = parent;
      id !== -1 && error === null;
      id = this.#parents[id]!
    ) {
      if (id === child) error = RangeError;
    }
    const set = () => {
      this.#greenlets[child]!.parent = this.#greenlets[parent]!;
    };
    if (error !== null) {
      assertThrows(set, error);
    } else {
      set();
      this.#parents[child] = parent;
    }
    this.#note(error === null ? "new parent" : "refused parent");
  }

  #trace(): void {
    this.#tracing = this.#random(4) > 0;
    this.#traceFailsIn = this.#random(12);
    let failsIn = this.#traceFailsIn;
    setTrace(
      this.#tracing
        ? (event, origin, target) => {
          const from = this.#greenlets.indexOf(origin);
          const to = this.#greenlets.indexOf(target);
          this.#traced.push(`${event} ${from} ${to}`);
          assertStrictEquals(getCurrent(), target);
          if (--failsIn === 0) throw this.#traceError;
        }
        : null,
    );
  }

  /** Makes a mistake that throws here and hands control to no greenlet. */
  *#blunder(id: number): Generator<unknown, void, unknown> {
    const target = this.#greenlets[this.#any()]!;
    try {
      const choice = this.#random(3);
      if (choice > 0) target.switch("forgotten");
      if (choice === 1) target.throw();
      else yield "foreign";
    } catch (error) {
      assertInstanceOf(error, GreenletError);
      this.#note("blunder");
      this.#check(id);
      return;
    }
    throw new Error("The mistake went through");
  }

  #end(generator: boolean): unknown {
    const choice = this.#random(8);
    if (choice === 0 && generator) {
      this.#greenlets[0]!.switch("forgotten");
      this.#note("forgotten at the end");
      this.#die("throw", GreenletError);
      return;
    }
    if (choice < 3) {
      const error = this.#error();
      this.#note("died");
      this.#die("throw", error);
      throw error;
    }
    const value = ++this.#nextValue;
    this.#note("returned");
    this.#die("switch", value);
    return value;
  }
}

Deno.test("Greenlet keeps greenlet's rules in 1,000 random programs", () => {
  const happened = new Map<string, number>();
  for (let seed = 1; seed <= 1000; seed++) {
    try {
      new Program(seed, happened).run();
    } catch (error) {
      throw new Error(`Program ${seed} broke a rule`, { cause: error });
    }
  }
  // A program that never comes to a thing shows nothing of it.
  const things = [
    "switch",
    "throw",
    "return",
    "ended",
    "died",
    "returned",
    "new parent",
    "refused parent",
    "killed unstarted",
    "trace error",
    "without run",
    "blocked below",
    "blunder",
    "forgotten at the end",
  ];
  for (const thing of things) {
    assertGreater(happened.get(thing) ?? 0, 50, thing);
  }
});
