/**
 * Random numbers that a seed repeats. Imports nothing, as the clock must be loaded before the
 * library.
 *
 * @module
 */

/** Makes a function that returns numbers from 0 to 1, the same for the same seed (mulberry32). */
export function random(seed: number): () => number {
  return () => {
    seed = seed + 0x6D2B79F5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}
