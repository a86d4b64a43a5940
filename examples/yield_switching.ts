/**
 * Two tasks take turns with bare generators: how one thread does two things at once,
 * before any library.
 *
 * `yield` stops a function where it is, and `next()` lets it go on from there. Each task
 * can only give control back to the loop that called it; see `eat_play.ts` for tasks that
 * hand control to each other.
 *
 *     deno run -q -P=none examples/yield_switching.ts
 */

const ROUNDS = 3;

function* task1() {
  for (;;) {
    console.log("task1 run");
    yield;
  }
}

function* task2() {
  for (;;) {
    console.log("task2 run");
    yield;
  }
}

const first = task1();
const second = task2();

for (let round = 0; round < ROUNDS; round++) {
  first.next();
  second.next();
}
