/**
 * What the peers in TypeScript share: the protocol with `run_all.ts`.
 *
 * @module
 */

/** Does its work so many times; what it returns is waited for. */
export type Work = (count: number) => unknown;

/**
 * Does the work that the arguments name, `<work> <count>`, for every line on standard
 * input, and prints the milliseconds that it took.
 */
export async function serveRounds(works: Record<string, Work>): Promise<void> {
  const [name = "", count] = Deno.args;
  const work = works[name];
  if (work === undefined) throw new Error(`No such work: ${name}`);
  const buffer = new Uint8Array(1);
  while (await Deno.stdin.read(buffer) !== null) {
    const start = performance.now();
    await work(Number(count));
    console.log(performance.now() - start);
  }
}
