/**
 * Tells the user's frames in a stack from those of this library and of the runtime.
 *
 * @module
 */

/**
 * The folder of the library's modules. `null` in a bundle: the modules are then in one file with
 * the user's code, and all frames count as the user's.
 */
const root = /^(.*\/)_base\/frames\.[jt]s$/.exec(import.meta.url)?.[1] ?? null;

/** Matches a module of the library, but no test and no example. */
const MODULE = /^(?:_\w+\/)*\w+\.[jt]s:\d/;

/** Matches a line of a stack that has a place: URL or path, line and column. */
const FRAME = /^ {4}at (?:.* \()?(?:async )?(.*:\d+:\d+)\)?$/;

/** The place of a frame of the user; `null` for other frames and other lines. */
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

/** Removes the frames of the library from a stack, unless it has no others. */
export function userFrames(stack: string): string {
  const lines = stack.split("\n");
  const kept = lines.filter((line) => {
    const place = FRAME.exec(line)?.[1];
    return place === undefined || !isOwn(place);
  });
  return kept.some((line) => FRAME.test(line)) ? kept.join("\n") : stack;
}
