/**
 * Finds the tools that the measurements need, and their versions.
 *
 * @module
 */

import type { Who } from "./_rows.ts";

/** A tool that a peer may need. */
export type Need = Who | "python";

/** The Pythons that may have gevent: the first in the path, and Debian's. */
const PYTHONS = ["python3", "/usr/bin/python3"];

/** The packages from npm, and the programs that import them. */
const PACKAGES = {
  "effect": "bench/peers/effect.ts",
  "effection": "bench/peers/effection.ts",
  "p-limit": "bench/peers/p_limit.ts",
  "p-queue": "bench/peers/p_queue.ts",
} as const;

/** The tools that were found. */
export interface Tools {
  /** A Python with gevent if one was found, else any. */
  python: string;
  versions: Record<string, string>;
  /** The tools that are missing, and how to install them. */
  missing: Partial<Record<Need, string>>;
}

/**
 * Finds the tools.
 *
 * @param peers Whether gevent and the packages from npm are needed, too.
 */
export async function findTools(peers: boolean): Promise<Tools> {
  const { deno, v8 } = Deno.version;
  const tools: Tools = {
    python: PYTHONS[0]!,
    versions: { "@gevent/gevent": await ownVersion(), deno, v8 },
    missing: {},
  };
  await findPython(tools, "python", "python3 (Debian: apt install python3)");
  if (!peers) return tools;
  await findPython(
    tools,
    "gevent",
    "gevent (Debian: apt install python3-gevent; elsewhere: pip install gevent)",
  );
  for (const [name, file] of Object.entries(PACKAGES)) {
    const version = await npmVersion(name, file);
    if (version !== null) tools.versions[name] = version;
    else tools.missing[name as Need] = `${name} (deno cache ${file})`;
  }
  return tools;
}

/** The name and version of our package, and its commit. */
async function ownVersion(): Promise<string> {
  const { default: config } = await import("../deno.json", {
    with: { type: "json" },
  });
  const commit = await output("git", "describe", "--always", "--dirty");
  return commit === null ? config.version : `${config.version} (${commit})`;
}

const ASK_PYTHON: Record<"python" | "gevent", string> = {
  python: "print('python', platform.python_version())",
  gevent:
    "import gevent, greenlet; print('python', platform.python_version(), 'greenlet', greenlet.__version__, 'gevent', gevent.__version__)",
};

async function findPython(
  tools: Tools,
  need: "python" | "gevent",
  install: string,
): Promise<void> {
  for (const python of PYTHONS) {
    const code = `import platform; ${ASK_PYTHON[need]}`;
    const words = (await output(python, "-c", code))?.split(" ");
    if (words === undefined) continue;
    tools.python = python;
    for (let i = 0; i < words.length; i += 2) {
      tools.versions[words[i]!] = words[i + 1]!;
    }
    return;
  }
  tools.missing[need] = install;
}

/** The version of a package that a file imports from npm; `null` if it can't be had. */
async function npmVersion(name: string, file: string): Promise<string | null> {
  // Downloads it, too, so that the measurement does not include that.
  if (await output(Deno.execPath(), "cache", "-q", file) === null) return null;
  const json = await output(Deno.execPath(), "info", "--json", file);
  const { npmPackages = {} } = JSON.parse(json ?? "{}") as {
    npmPackages?: Record<string, { name: string; version: string }>;
  };
  for (const found of Object.values(npmPackages)) {
    if (found.name === name) return found.version;
  }
  return null;
}

/** The output of a program; `null` if there is no such program, or it fails. */
async function output(
  program: string,
  ...args: string[]
): Promise<string | null> {
  try {
    const command = new Deno.Command(program, { args, stderr: "null" });
    const { success, stdout } = await command.output();
    return success ? new TextDecoder().decode(stdout).trim() : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
