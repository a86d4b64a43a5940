/**
 * What workers may do.
 *
 * @module
 */

import { show } from "../_base/checks.ts";

/** The names of permissions. */
const NAMES = [
  "read",
  "write",
  "net",
  "env",
  "run",
  "sys",
  "ffi",
  "import",
] as const;

type Name = typeof NAMES[number];

/** One permission: all of it, none, what the program has, or some. */
type Extent = boolean | "inherit" | readonly (string | URL)[];

/** Permissions in the form that the runtime gives a `Worker` in. */
export type PermissionFlags =
  | "inherit"
  | "none"
  | { readonly [name in Name]?: Extent };

/**
 * Checks permissions, and copies them.
 *
 * @param what For the message: what can't be done.
 * @throws {TypeError} If they are none.
 */
export function checkPermissions(
  permissions: unknown,
  what: string,
): PermissionFlags {
  if (permissions === undefined || permissions === "inherit") return "inherit";
  if (permissions === "none") return "none";
  const wrong: Wrong = (name, kind, value) =>
    new TypeError(
      `Cannot ${what} as '${name}' must be ${kind}: received ${show(value)}`,
    );
  if (typeof permissions !== "object" || permissions === null) {
    throw wrong("permissions", `"inherit", "none" or an object`, permissions);
  }
  const checked: { [name in Name]?: Extent } = {};
  for (const [name, extent] of Object.entries(permissions)) {
    if (!(NAMES as readonly string[]).includes(name)) {
      throw wrong("permissions", `of ${NAMES.join(", ")}`, name);
    }
    if (extent === undefined) continue;
    checked[name as Name] = checkExtent(name, extent, wrong);
  }
  return checked;
}

/** Makes the error of a value that is none. */
type Wrong = (name: string, kind: string, value: unknown) => TypeError;

function checkExtent(name: string, extent: unknown, wrong: Wrong): Extent {
  if (typeof extent === "boolean" || extent === "inherit") return extent;
  if (!Array.isArray(extent)) {
    throw wrong(
      `permissions.${name}`,
      `true, false, "inherit" or an array`,
      extent,
    );
  }
  return extent.map((one: unknown) => {
    const text = one instanceof URL && one.protocol === "file:"
      ? decodeURIComponent(one.pathname)
      : one instanceof URL
      ? one.href
      : one;
    if (typeof text !== "string" || text === "" || text.includes(",")) {
      throw wrong(`permissions.${name}`, "of strings without a comma", one);
    }
    return text;
  });
}

/**
 * The flags of the runtime that give permissions, and no more than those. What is not given is
 * denied by name: a program that `node:child_process` starts as `deno run` without any such
 * flag gets `-A`. Nothing is denied of `import`, which is needed to load what is imported.
 *
 * @param more What is given of a permission in any case.
 */
export function permissionFlags(
  permissions: PermissionFlags,
  more: { readonly [name in Name]?: string } = {},
): string[] {
  return NAMES.flatMap((name) => {
    const flag = flagOf(name, extentOf(permissions, name), more[name]);
    return flag ?? (name === "import" ? [] : `--deny-${name}`);
  });
}

function extentOf(permissions: PermissionFlags, name: Name): Extent {
  if (permissions === "none") return false;
  return permissions === "inherit" ? "inherit" : permissions[name] ?? false;
}

function flagOf(
  name: Name,
  extent: Extent,
  more: string | undefined,
): string | null {
  if (extent === "inherit") extent = hasAll(name);
  if (extent === true) return `--allow-${name}`;
  const some = [...extent || [], ...more === undefined ? [] : [more]];
  return some.length === 0 ? null : `--allow-${name}=${some.join(",")}`;
}

/**
 * Whether the program has a permission without any exception. What it has a part of can't be
 * handed on, as it does not tell which part that is.
 */
function hasAll(name: Name): boolean {
  const { state, partial } = Deno.permissions.querySync(
    { name } as Deno.PermissionDescriptor,
  );
  return state === "granted" && !partial;
}
