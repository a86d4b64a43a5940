/**
 * What the peers in TypeScript share: the protocol with `run_all.ts`.
 *
 * @module
 */

/**
 * Does its work so many times; what it returns is waited for. A number is what it has
 * measured itself: the milliseconds of the part that counts, or bytes.
 */
export type Work = (
  count: number,
) => void | number | Promise<void | number>;

/** How much memory the process has, without what is garbage. */
export function residentBytes(): number {
  const { gc } = globalThis as { gc?: () => void };
  if (gc === undefined) {
    throw new Error("Cannot measure memory without --v8-flags=--expose-gc");
  }
  gc();
  return Deno.memoryUsage().rss;
}

/**
 * Does the work that the arguments name, `<work> <count>`, for every line on standard
 * input, and prints the milliseconds that it took, or what it has measured itself.
 */
export async function serveRounds(works: Record<string, Work>): Promise<void> {
  const [name = "", count] = Deno.args;
  const work = works[name];
  if (work === undefined) throw new Error(`No such work: ${name}`);
  const buffer = new Uint8Array(1);
  while (await Deno.stdin.read(buffer) !== null) {
    const start = performance.now();
    const measured = await work(Number(count));
    console.log(measured ?? performance.now() - start);
  }
}
