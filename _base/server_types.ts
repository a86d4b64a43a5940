/**
 * The types of the options and addresses of servers that need nothing of the library.
 *
 * @module
 */

/** The address of a TCP server, as for `Deno.listen`. */
export interface TcpAddress {
  /** The kind of address. @default {"tcp"} */
  transport?: "tcp";
  /** An IP address of this machine, or `localhost`. @default {"0.0.0.0"} */
  hostname?: string;
  /** The port: 0 for any that is free. */
  port: number;
  /** Whether other processes may listen on the port as well. @default {false} */
  reusePort?: boolean;
  /** The number of connections that the system keeps until they are accepted. */
  tcpBacklog?: number;
}

/** The address of a server for Unix sockets, as for `Deno.listen`. */
export interface UnixAddress {
  /** The kind of address. */
  transport: "unix";
  /** The path of the socket, which must not exist. */
  path: string;
}

/** The address of a server. */
export type ServerAddress = TcpAddress | UnixAddress;

/** The address of a server for datagrams. */
export interface UdpAddress {
  /** The kind of address. @default {"udp"} */
  transport?: "udp";
  /** An IP address of this machine, or `localhost`. @default {"0.0.0.0"} */
  hostname?: string;
  /** The port: 0 for any that is free. */
  port: number;
}

/** An address as the runtime returns it, or as a program passes it to a server. */
export type AnyAddress = ServerAddress | UdpAddress | Deno.Addr;

/** What a `StreamServer` listens on: an address or a listener. */
export type ListensOn = ServerAddress | Deno.Listener;

/**
 * The type of the addresses of both ends of a connection.
 *
 * @typeParam L What the server listens on.
 */
export type EndAddress<L extends ListensOn> = L extends
  Deno.Listener<Deno.Conn, infer A> ? A
  : L extends UnixAddress ? Deno.UnixAddr
  : Deno.NetAddr;

/**
 * The type of the address of a server: before the start, the one that was passed to it.
 *
 * @typeParam L What the server listens on.
 */
export type OwnAddress<L extends ListensOn> = L extends ServerAddress
  ? EndAddress<L> | (L extends UnixAddress ? UnixAddress : TcpAddress)
  : EndAddress<L>;

/** Options of servers that can use several cores. */
export interface ServerProcessOptions {
  /**
   * The number of processes that serve the port. `start()` starts the program again, so many
   * times and with the same arguments. In each of these processes the same code makes the same
   * server, which serves. This process accepts no connections: it watches over the others. Each
   * process has its own `pool` and limits. With `1` there are two processes: this one and one
   * that serves.
   *
   * One that ends is started again, after the delays of `ServerOptions`, and the hub
   * is told. SIGTERM and SIGINT stop the server, and set the exit code as `run` does. SIGHUP
   * replaces the processes one by one by new ones of the program as it is then; each serves
   * until the next one does, and then what it has to its end. No connection is refused by that.
   * On Linux, with `--allow-ffi`, none is lost; else the system resets one that arrives in the
   * moment in which a listener is closed. A process ends when this one has.
   *
   * Needs `--unstable-net`, `--allow-run`, `--allow-env`, and a TCP address. Linux spreads the
   * connections over the processes; macOS may not, and Windows can't share a port. Connections
   * are refused until the first process serves. A program can have one such server at a time.
   *
   * @default {undefined} This process serves.
   */
  processes?: number;
  /**
   * The permissions of the processes, in the form of the permissions of a `Worker`. `"inherit"`
   * passes on each permission that this program has in full, and the permission to listen on the
   * address. A permission for some paths or hosts only has to be repeated here, as a program
   * can't list its own.
   *
   * In any case the processes may read one environment variable, which this process sets for
   * them.
   *
   * @default {"inherit"}
   */
  permissions?: Deno.PermissionOptions;
}
