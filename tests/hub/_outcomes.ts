/**
 * How parts of a program end that wait for something: with a `LoopExit`, or not.
 *
 * @module
 */

import { assert } from "@std/assert";
import { runScript } from "../_bodies.ts";

const HEAD = `
  const tell = async (name, stuck) => {
    let error;
    try {
      await stuck();
    } catch (caught) {
      error = caught;
    }
    console.log(JSON.stringify([name, error instanceof LoopExit, String(error)]));
  };
`;

/** A part: its name, whether it has ended with a `LoopExit`, and its error. */
export type Outcome = readonly [name: string, isExit: boolean, error: string];

/** Runs a program, which calls `tell(name, part)` for each part. */
export async function outcomesOf(program: string): Promise<Outcome[]> {
  const { out, err } = await runScript(HEAD + program, undefined, [
    "--no-check",
  ]);
  assert(out.length > 0, err);
  return out.map((line) => JSON.parse(line));
}
