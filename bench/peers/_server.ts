/**
 * Code of all servers in TypeScript: the protocol with `bench/run.ts`.
 *
 * @module
 */

import { answerLines, cpuTime } from "./_rounds.ts";

/**
 * Prints the port that a server listens on, and then, for every line on standard input,
 * how long it has run so far.
 *
 * @param port The port.
 */
export async function tellPort(port: number): Promise<void> {
  console.log(port);
  await answerLines(() => ({ cpu: cpuTime() }));
}
