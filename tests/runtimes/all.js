/**
 * Runs programs of this folder one after the other, each after a line with its name: to start a
 * runtime takes longer than most of them.
 *
 *     node all.js <folder of the modules> <.ts or .js> <name,name>
 */

// A browser gets them by the address.
const [, , names] = globalThis.process?.argv.slice(2) ??
  location.search.slice(1).split("&");
for (const name of names.split(",")) {
  console.log(`== ${name}`);
  await import(`./${name}.js`);
}
