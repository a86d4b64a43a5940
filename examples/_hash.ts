/**
 * The function that the workers of `hash_tree.ts` run.
 *
 * @module
 */

import { createHash } from "node:crypto";

/** The size and the hash of a file. */
export interface Hashed {
  bytes: number;
  hash: string;
}

/** Reads a file, and computes its hash: both on the worker's core. */
export function hashFile(path: string): Hashed {
  const data = Deno.readFileSync(path);
  const hash = createHash("sha256").update(data).digest("hex");
  return { bytes: data.length, hash };
}
