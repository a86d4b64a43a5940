/**
 * Kills greenlets in calls that never end, and prints how each ends.
 *
 * @module
 */

/** Waits for a turn of the event loop, and some more. */
export const turn = () => new Promise((resolve) => setTimeout(resolve, 5));

/**
 * @param spawn The library's `spawn`.
 * @param calls Each call by its name, and a function that waits until it has begun.
 */
export async function killEach(spawn, calls) {
  for (const [name, [call, begun]] of Object.entries(calls)) {
    const beginning = begun();
    let isCleanedUp = false;
    const greenlet = spawn(async () => {
      try {
        await call();
      } finally {
        isCleanedUp = true;
      }
    });
    await beginning;
    await greenlet.kill(undefined, { timeout: 20_000 });
    console.log(
      JSON.stringify([
        name,
        greenlet.dead,
        isCleanedUp,
        greenlet.successful(),
      ]),
    );
  }
}
