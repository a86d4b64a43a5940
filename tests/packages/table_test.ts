/** The table of `docs/packages.md` says what the tests of packages check. */

import { assert, assertEquals } from "@std/assert";
import { type PackageRows, type Row, table } from "./_table.ts";

const root = new URL("../../", import.meta.url);
const page = await Deno.readTextFile(new URL("docs/packages.md", root));

/** Makes the cells of a row. */
function cellsOf(name: string, phase: string, row: Row): string[] {
  const failing = row.error === undefined ? "" : `, with a \`${row.error}\``;
  const recipe = row.recipe === undefined
    ? "–"
    : `\`${row.recipe}\`: ${row.recipeThen}`;
  return [name, phase, `${row.stops}${failing}`, row.then, recipe];
}

/** Makes all rows; a package is named in its first one. */
function* allCells(): Generator<string[]> {
  for (const [name, rows] of Object.entries<PackageRows>(table)) {
    const { version, phases } = rows;
    let title = version === null ? `\`${name}\`` : `${name} ${version}`;
    for (const [phase, row] of Object.entries(phases)) {
      yield cellsOf(title, phase, row);
      title = "";
    }
  }
}

/** Reads the cells below a heading. */
function readCells(heading: string): string[][] {
  const start = page.indexOf(`\n## ${heading}\n`);
  assert(start >= 0, `No ${heading}`);
  const lines = page.slice(start).split("\n");
  const first = lines.findIndex((line) => line.startsWith("|"));
  const rows: string[][] = [];
  for (const line of lines.slice(first + 2)) {
    if (!line.startsWith("|")) break;
    rows.push(line.split("|").slice(1, -1).map((cell) => cell.trim()));
  }
  return rows;
}

Deno.test("docs/packages.md has the table that the tests check", () => {
  assertEquals(readCells("Phase by phase"), [...allCells()]);
});

Deno.test("deno.json has the versions of the table of packages", async () => {
  const config = await Deno.readTextFile(new URL("deno.json", root));
  const { imports } = JSON.parse(config);
  for (const [name, { version }] of Object.entries<PackageRows>(table)) {
    if (version === null) continue;
    assertEquals(imports[name], `npm:${name}@^${version}`);
  }
});

/** Whether a recipe is one of `_recipes.ts`, and not a function of the library. */
function isFunction(recipe: string | undefined): recipe is string {
  return recipe !== undefined && !["until", "withSignal"].includes(recipe);
}

Deno.test("docs/packages.md shows the recipes that the tests use", async () => {
  const recipes = await Deno.readTextFile(
    new URL("_recipes.ts", import.meta.url),
  );
  const blocks = [...page.matchAll(/```ts ignore\n([^]*?)```/g)]
    .map((match) => match[1]!);
  const names = Object.values<PackageRows>(table)
    .flatMap(({ phases }) => Object.values(phases))
    .flatMap(({ recipe }) => isFunction(recipe) ? [recipe] : []);
  for (const name of names) {
    const isShown = blocks.some((block) => block.includes(`function ${name}`));
    assert(isShown, `No recipe ${name}`);
  }
  for (const block of blocks) {
    assert(recipes.includes(block), `Differs: ${block}`);
  }
});
