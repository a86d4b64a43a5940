/**
 * The files that hold documentation.
 *
 * @module
 */

/** The repository's root. */
export const ROOT: URL = new URL("../", import.meta.url);

/** Folders that hold neither the library nor its documentation. */
const OTHERS = [
  "bench",
  "coverage",
  "examples",
  "node_modules",
  "tests",
  "tools",
];

/**
 * Lists the library's modules and the pages of Markdown, as sorted paths from the
 * repository's root.
 */
export function documented(folder = ""): string[] {
  const paths: string[] = [];
  for (const { name, isDirectory } of Deno.readDirSync(new URL(folder, ROOT))) {
    const path = folder + name;
    if (name.startsWith(".") || OTHERS.includes(path)) continue;
    if (isDirectory) {
      paths.push(...documented(`${path}/`));
    } else if (/\.(ts|md)$/.test(name)) {
      paths.push(path);
    }
  }
  return paths.sort();
}
