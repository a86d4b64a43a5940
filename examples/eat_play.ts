/**
 * Two greenlets hand control to each other, without an event loop.
 *
 * The first `switch` starts a body with the arguments. A later one resumes the body where it
 * was suspended. When a body ends, control goes to its parent: the greenlet that created it.
 *
 *     deno run -q -P=none examples/eat_play.ts
 */

import { Greenlet } from "@gevent/gevent/greenlet";

const eat = new Greenlet(function* (name: string) {
  console.log(`${name} eat 1`);
  yield* play.switch("jack");
  console.log(`${name} eat 2`);
  yield* play.switch();
});

const play: Greenlet = new Greenlet(function* (name: string) {
  console.log(`${name} play 1`);
  yield* eat.switch();
  console.log(`${name} play 2`);
});

eat.switch("rose");
