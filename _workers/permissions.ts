/**
 * The permissions of workers.
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

/** How much of a permission is given: all, none, the program's, or the listed parts. */
type Extent = boolean | "inherit" | readonly (string | URL)[];

/** Permissions, in the form of the runtime's option for a `Worker`. */
export type PermissionFlags =
  | "inherit"
  | "none"
  | { readonly [name in Name]?: Extent };

/**
 * Checks permissions, and copies them.
 *
 * @param what The failed action, for the message.
 * @throws {TypeError} If they are not valid permissions.
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

/** Makes the error for an invalid value. */
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
 * Returns the runtime's flags for permissions. All other permissions are denied by name: without
 * any such flag, `node:child_process` would add `-A` to `deno run`. Only `import` is never denied,
 * as the worker has to load the modules.
 *
 * @param more Parts of permissions that are always given.
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
 * Whether the program has a permission in full. A partial permission can't be passed on, as the
 * runtime does not list its parts.
 */
function hasAll(name: Name): boolean {
  const { state, partial } = Deno.permissions.querySync(
    { name } as Deno.PermissionDescriptor,
  );
  return state === "granted" && !partial;
}
