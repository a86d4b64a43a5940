/**
 * Code of all fetching peers in TypeScript, and of `pages.ts`.
 *
 * @module
 */

import { check, WORKERS } from "./_rounds.ts";

const FILLING = "<p>Nothing of interest.</p>\n".repeat(360);

/** Where the pages are: `pages.ts` is asked, whose port is the last argument. */
const ORIGIN = `http://127.0.0.1:${Deno.args.at(-1)}`;

/**
 * The text of a page.
 *
 * @param name Its name: a number, or nothing.
 */
export function pageText(name: string): string {
  return name === "" ? "hello, world\n" : `<h1>${name}</h1>\n${FILLING}`;
}

/**
 * Gets a page.
 *
 * @param number Its number.
 * @returns How long its text is.
 */
export async function getPage(number: number): Promise<number> {
  const response = await fetch(`${ORIGIN}/${number}`);
  const text = await response.text();
  if (!text.startsWith(`<h1>${number}</h1>`)) {
    throw new Error(`wrong result: not page ${number}: ${text.slice(0, 20)}`);
  }
  return text.length;
}

/**
 * Checks what {@linkcode getPage} has given for the pages from 0.
 *
 * @param lengths How long the texts were.
 * @param count How many they have to be.
 */
export function checkPages(lengths: number[], count: number): void {
  let expected = 0;
  for (let i = 0; i < count; i++) expected += pageText(`${i}`).length;
  check(lengths.reduce((a, b) => a + b), expected, "characters of all pages");
}

/**
 * Gets the short page, again and again: its share of so many times.
 *
 * @param count How many times all {@linkcode WORKERS} workers do it.
 * @param options Gives the options of each `fetch`.
 * @returns How many characters came.
 */
export async function getShortPages(
  count: number,
  options: () => RequestInit | undefined = () => undefined,
): Promise<number> {
  let sum = 0;
  for (let i = 0; i < count / WORKERS; i++) {
    sum += (await (await fetch(ORIGIN, options())).text()).length;
  }
  return sum;
}

/**
 * Checks what {@linkcode getShortPages} has given.
 *
 * @param sums How many characters came to each worker.
 * @param count How many pages there have to be.
 */
export function checkShortPages(sums: number[], count: number): void {
  const expected = count * pageText("").length;
  check(sums.reduce((a, b) => a + b), expected, "characters of all pages");
}
