/**
 * Calls of a function in a `Worker`, by messages: the name of a function and its arguments,
 * and the answer.
 *
 * @module
 */

import { check, serveRounds } from "./_rounds.ts";

const CODE = `const functions = { next: (x) => x + 1 };
onmessage = ({ data: [name, args] }) =>
  postMessage(["value", functions[name](...args)]);`;

const worker = new Worker(
  `data:text/javascript,${encodeURIComponent(CODE)}`,
  { type: "module" },
);
let answer: (value: number) => void;
worker.onmessage = ({ data }) => answer(data[1]);

function call(name: string, ...args: number[]): Promise<number> {
  return new Promise((resolve) => {
    answer = resolve;
    worker.postMessage([name, args]);
  });
}

await serveRounds({
  calls: async (count) => {
    let x = 0;
    while (x < count) x = await call("next", x);
    check(x, count, "calls");
  },
});
