/**
 * The frames of stacks: which are the user's, and which those of this library or the runtime.
 *
 * @module
 */

/**
 * Where the library's modules are. In a bundle, where they are in one file with the user's
 * code, nothing tells the frames apart, and all count as the user's.
 */
const root = /^(.*\/)_base\/frames\.[jt]s$/.exec(import.meta.url)?.[1] ?? null;

/** A module of the library, below the root: tests and examples are not. */
const MODULE = /^(?:_\w+\/)*\w+\.[jt]s:\d/;

/** A line of a stack with a place: the URL or path, the line and the column. */
const FRAME = /^ {4}at (?:.* \()?(?:async )?(.*:\d+:\d+)\)?$/;

/** The place of a frame of the user; `null` for other frames, and for what is no frame. */
function placeOf(line: string): string | null {
  const place = FRAME.exec(line)?.[1];
  if (place === undefined || /^(?:ext|node):/.test(place)) return null;
  return isOwn(place) ? null : place;
}

function isOwn(place: string): boolean {
  return root !== null && place.startsWith(root) &&
    MODULE.test(place.slice(root.length));
}

/** The place of the innermost frame of the user: `file:line:column`; `null` if there is none. */
export function firstPlace(stack: string): string | null {
  for (const line of stack.split("\n")) {
    const place = placeOf(line);
    if (place !== null) return place;
  }
  return null;
}

/** Returns a stack without the frames of the library; as it is, if it has no others. */
export function userFrames(stack: string): string {
  const lines = stack.split("\n");
  const kept = lines.filter((line) => {
    const place = FRAME.exec(line)?.[1];
    return place === undefined || !isOwn(place);
  });
  return kept.some((line) => FRAME.test(line)) ? kept.join("\n") : stack;
}
