/**
 * Calls that need what only Deno has: prints their errors.
 *
 *     node missing.js <folder of the modules> <.ts or .js>
 */

const [folder, extension] = process.argv.slice(2);
const { isPatched, patch, support } = await import(
  `${folder}/monkey${extension}`
);
const { connect, listen } = await import(`${folder}/socket${extension}`);
const { run } = await import(`${folder}/subprocess${extension}`);

const calls = [
  () => patch({ net: true }),
  () => patch({ process: { killChildren: false } }),
  () => connect({ port: 1 }),
  () => listen({ port: 0 }),
  () => run("true"),
];
for (const call of calls) {
  try {
    await call();
  } catch (error) {
    console.log(String(error));
  }
}
const patched = patch({ net: false });
console.log(isPatched("net"), isPatched("fetch"), support().net);
patched[Symbol.dispose]?.();
