/**
 * Two tasks take turns on one thread, with plain generators and without a library.
 *
 * `yield` suspends a function, and `next()` resumes it. Each task can give control only to the
 * loop that called it. See `eat_play.ts` for tasks that hand control to each other.
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
