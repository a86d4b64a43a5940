/**
 * Keeps new connections away from a listener that is about to close.
 *
 * Each of the listeners that share a port has a queue of connections. When one closes, Linux
 * resets the connections in its queue and those on their way there. So new connections have to go
 * to the other listeners first. A program for the kernel's packet filter chooses the listener
 * (`SO_ATTACH_REUSEPORT_CBPF`), which needs no privileges. The runtime has no call for that, so
 * this calls the C library.
 *
 * @module
 */

// The same on x86-64 and on ARM64.
const SOL_SOCKET = 1;
const SO_REUSEPORT = 15;
const SO_ACCEPTCONN = 30;
const SO_ATTACH_REUSEPORT_CBPF = 51;
const SO_DETACH_REUSEPORT_BPF = 68;
/** The instruction to return a number. */
const BPF_RET = 6;

const SYMBOLS = {
  getsockopt: {
    parameters: ["i32", "i32", "i32", "buffer", "buffer"],
    result: "i32",
  },
  setsockopt: {
    parameters: ["i32", "i32", "i32", "buffer", "u32"],
    result: "i32",
  },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
} as const;

type Library = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

/**
 * Sends all new connections to a port to one of its listeners, until
 * {@linkcode spreadConnections} is called. When another listener closes and the chosen one was
 * the last in the order, the kernel spreads the connections again by itself.
 *
 * @param port A port on which this process listens.
 * @param index The number of the listener, from 0, in the order in which they began to listen.
 * When a listener closes, the last one gets its number.
 * @returns Whether it worked. It works on Linux only, with the permission to call the C library.
 */
export function divertConnections(port: number, index: number): boolean {
  return withListener(port, (fd, { setsockopt }) => {
    const code = new DataView(new ArrayBuffer(8));
    code.setUint16(0, BPF_RET, true);
    code.setUint32(4, index, true);
    const program = new DataView(new ArrayBuffer(16));
    program.setUint16(0, 1, true);
    const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(code));
    program.setBigUint64(8, BigInt(address), true);
    const { buffer, byteLength } = program;
    return setsockopt(
      fd,
      SOL_SOCKET,
      SO_ATTACH_REUSEPORT_CBPF,
      buffer,
      byteLength,
    ) === 0;
  });
}

/** Lets the kernel spread the connections to a port over its listeners again. */
export function spreadConnections(port: number): void {
  withListener(port, (fd, { setsockopt }) => {
    const unused = new Int32Array(1);
    return setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, unused, 4) === 0;
  });
}

/** Calls a function with the file descriptor by which this process listens to a port. */
function withListener(
  port: number,
  act: (fd: number, library: Library) => boolean,
): boolean {
  const isPossible = Deno.build.os === "linux" &&
    Deno.permissions.querySync({ name: "ffi" }).state === "granted";
  if (!isPossible) return false;
  const library = openLibrary();
  if (library === null) return false;
  try {
    const fd = findListener(port, library.symbols);
    return fd !== null && act(fd, library.symbols);
  } finally {
    library.close();
  }
}

function openLibrary(): Deno.DynamicLibrary<typeof SYMBOLS> | null {
  try {
    return Deno.dlopen("libc.so.6", SYMBOLS);
  } catch {
    // The system has another C library.
    return null;
  }
}

/** The most file descriptors to search. 1,000 take 2 ms. */
const MOST_DESCRIPTORS = 10_000;

function findListener(
  port: number,
  { getsockopt, getsockname }: Library,
): number | null {
  const value = new Int32Array(1);
  const length = new Uint32Array(1);
  const name = new DataView(new ArrayBuffer(128));
  const has = (fd: number, option: number) => {
    length[0] = value.byteLength;
    return getsockopt(fd, SOL_SOCKET, option, value, length) === 0 &&
      value[0] === 1;
  };
  for (let fd = 3; fd < MOST_DESCRIPTORS; fd++) {
    if (!has(fd, SO_ACCEPTCONN) || !has(fd, SO_REUSEPORT)) continue;
    length[0] = name.byteLength;
    // The port is at the same place in addresses of both versions.
    const isNamed = getsockname(fd, name.buffer, length) === 0;
    if (isNamed && name.getUint16(2) === port) return fd;
  }
  return null;
}
