/**
 * The switch core in any JavaScript runtime: prints what it does, which has to be the same
 * everywhere.
 *
 *     node core.js <folder of the modules> <.ts or .js>
 */

// A browser gets them by the address.
const [folder, extension] = globalThis.process?.argv.slice(2) ??
  location.search.slice(1).split("&");
const { getCurrent, Greenlet, GreenletError, GreenletExit, setTrace } =
  await import(`${folder}/greenlet${extension}`);

/** Prints values alike in all runtimes. */
const print = (...values) => console.log(JSON.stringify(values));

const main = getCurrent();

const eat = new Greenlet(function* (name) {
  print(`${name} eats`);
  print(`${name} got ${yield* play.switch("jack")}`);
  yield* play.switch();
});
const play = new Greenlet(function* (name) {
  print(`${name} plays`);
  yield* eat.switch("a ball");
  print(`${name} plays again`);
});
eat.switch("rose");

const adder = new Greenlet(function* (first) {
  let sum = first;
  for (;;) sum += yield* main.switch(sum);
});
print([1, 2, 3].map((n) => adder.switch(n).value));

// Through functions that delegate to each other, and several values at once.
function* helper(depth) {
  return depth > 0 ? yield* helper(depth - 1) : yield* main.switch("deep");
}
const deep = new Greenlet(function* () {
  return yield* helper(5);
});
print(deep.switch().value, deep.switch(1, 2).value);

// Errors: into a body, out of it, given by their class, and what ends without being one.
const careful = new Greenlet(function* () {
  try {
    yield* main.switch();
  } catch (error) {
    yield* main.switch(`caught ${error.name}`);
  } finally {
    print("cleaned up");
  }
});
careful.switch();
print(careful.throw(RangeError).value);
print(careful.throw().value instanceof GreenletExit, careful.dead);
// deno-lint-ignore require-yield
const failing = new Greenlet(function* () {
  throw new TypeError("out of it");
});
printError(() => failing.switch());
const stubborn = new Greenlet(function* () {
  for (;;) {
    try {
      yield* main.switch();
    } catch {
      // Swallows whatever it is
    }
  }
});
stubborn.switch();
print(stubborn.return("at last").value);

// Mistakes.
printError(() =>
  new Greenlet(function* () {
    yield main.switch();
  }).switch()
);
printError(() =>
  new Greenlet(function* () {
    main.switch();
    yield* main.switch();
  }).switch()
);
printError(() =>
  new Greenlet(function* () {
    yield 1;
  }).switch()
);
printError(() => new Greenlet(async function* () {}));
printError(() => failing.run = () => {});

const before = setTrace((event, origin, target) =>
  print(event, origin === main, target === main)
);
new Greenlet(function* () {
  yield* main.switch();
}).switch();
setTrace(before);

function printError(run) {
  try {
    run();
    print("nothing was thrown");
  } catch (error) {
    print(error.name, error instanceof GreenletError);
  }
}
