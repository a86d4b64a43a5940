/**
 * The links of the README and of the docs lead somewhere, and the README stays short.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../", import.meta.url);

async function pages(): Promise<string[]> {
  const found: string[] = [];
  for (const folder of ["", "docs/"]) {
    for await (const { name } of Deno.readDir(new URL(folder, ROOT))) {
      if (name.endsWith(".md")) found.push(folder + name);
    }
  }
  return found;
}

/** Makes the anchor of a heading as a forge does. */
function anchorOf(heading: string): string {
  return heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .trim().replaceAll(/\s/g, "-");
}

function headingsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    anchorOf(heading!)
  );
}

Deno.test("Each link within the README and the docs leads to a file and a heading", async () => {
  const broken: string[] = [];
  for (const page of await pages()) {
    const url = new URL(page, ROOT);
    const text = await Deno.readTextFile(url);
    for (const [, link] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(link!)) continue;
      const target = new URL(link!, url);
      const anchor = target.hash.slice(1);
      target.hash = "";
      try {
        if (anchor === "") await Deno.stat(target);
        else if (
          !headingsOf(await Deno.readTextFile(target)).includes(anchor)
        ) broken.push(`${page}: ${link}`);
      } catch {
        broken.push(`${page}: ${link}`);
      }
    }
  }
  assertEquals(broken, []);
});

Deno.test("README.md is under 9 KB", async () => {
  const { size } = await Deno.stat(new URL("README.md", ROOT));
  assert(size < 9 * 1024, `${size} bytes`);
});
