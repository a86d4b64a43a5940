/**
 * Server programs that tests start on free ports of this machine, and end.
 *
 * @module
 */

import { when } from "../_waits.ts";

/** How a server program is found, prepared and run. */
interface Program {
  /** The Debian package that has it. */
  readonly package: string;
  /** The folder and the name of its executable. */
  find(): string | null;
  /** What to run before the server, if anything. */
  prepare?(path: string, directory: string): string[];
  command(path: string, directory: string, port: number): string[];
  /** What it writes when it listens. */
  readonly ready: string;
  /** The signal that ends it at once. */
  readonly ending: Deno.Signal;
}

/** Finds an executable in the folders of `PATH`, and where Debian has servers. */
export function find(name: string, folders: string[] = []): string | null {
  const path = [...Deno.env.get("PATH")!.split(":"), "/usr/sbin", ...folders];
  return findIn(name, path);
}

/** Finds an executable in some folders. */
function findIn(name: string, folders: string[]): string | null {
  for (const folder of folders) {
    try {
      if (Deno.statSync(`${folder}/${name}`).isFile) return `${folder}/${name}`;
    } catch (error) {
      const { NotFound, NotADirectory, PermissionDenied } = Deno.errors;
      const isMissing = error instanceof NotFound ||
        error instanceof NotADirectory || error instanceof PermissionDenied;
      if (!isMissing) throw error;
    }
  }
  return null;
}

/** The folders in a folder, with the latest version first. */
function foldersIn(folder: string, suffix: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name).sort()
      .reverse().map((name) => `${folder}/${name}/${suffix}`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** Runs a command as a user that is not root, which PostgreSQL refuses to be. */
function asPostgres(command: string[]): string[] {
  if (Deno.uid() !== 0) return command;
  const user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];
  return ["setpriv", ...user, ...command];
}

const programs = {
  "redis-server": {
    package: "redis-server",
    find: () => find("redis-server"),
    command: (path, directory, port) => [
      path,
      ...["--port", `${port}`, "--bind", "127.0.0.1", "--dir", directory],
      ...["--save", "", "--appendonly", "no"],
    ],
    ready: "eady to accept connections",
    ending: "SIGKILL",
  },
  postgres: {
    package: "postgresql",
    find: () => find("postgres", foldersIn("/usr/lib/postgresql", "bin")),
    prepare: (path, directory) =>
      asPostgres([
        Deno.realPathSync(path).replace(/postgres$/, "initdb"),
        ...["-D", `${directory}/data`, "-U", "postgres", "-A", "trust"],
        ...["--no-sync", "--locale=C", "-E", "UTF8"],
      ]),
    command: (path, directory, port) =>
      asPostgres([
        path,
        ...["-D", `${directory}/data`, "-p", `${port}`, "-h", "127.0.0.1"],
        // Without a socket in the file system, and without fsync
        ...["-k", "", "-F"],
      ]),
    ready: "ready to accept connections",
    ending: "SIGQUIT",
  },
  mariadbd: {
    package: "mariadb-server-core",
    find: () => find("mariadbd"),
    command: (path, directory, port) => [
      path,
      ...["--no-defaults", "--user=root", `--datadir=${directory}`],
      ...["--bind-address=127.0.0.1", `--port=${port}`],
      ...[`--socket=${directory}/socket`, "--skip-grant-tables"],
      ...["--innodb-buffer-pool-size=8M", "--performance-schema=OFF"],
    ],
    ready: "ready for connections",
    ending: "SIGKILL",
  },
  mosquitto: {
    package: "mosquitto",
    find: () => find("mosquitto"),
    command: (path, _directory, port) => [path, "-v", "-p", `${port}`],
    ready: "running",
    ending: "SIGKILL",
  },
  "nats-server": {
    package: "nats-server",
    find: () => find("nats-server"),
    command: (path, _directory, port) => [
      path,
      ...["-a", "127.0.0.1", "-p", `${port}`],
    ],
    ready: "Server is ready",
    ending: "SIGKILL",
  },
  "rabbitmq-server": {
    package: "rabbitmq-server",
    // What Debian has in the folders of `PATH` changes the user and the folder.
    find: () => findIn("rabbitmq-server", ["/usr/lib/rabbitmq/bin"]),
    command: (path, directory, port) => {
      const epmd = `${freePort()}`;
      const plugins = `${directory}/plugins`;
      const environment = {
        HOME: directory,
        RABBITMQ_NODENAME: `gevent-${port}@localhost`,
        RABBITMQ_CONF_ENV_FILE: "/dev/null",
        RABBITMQ_CONFIG_FILE: `${directory}/config`,
        RABBITMQ_MNESIA_BASE: `${directory}/mnesia`,
        RABBITMQ_LOG_BASE: `${directory}/logs`,
        RABBITMQ_LOGS: "-",
        // A third of the time that it takes to start is for those that it does not use.
        RABBITMQ_PLUGINS_DIR: plugins,
        RABBITMQ_ENABLED_PLUGINS_FILE: `${plugins}/enabled`,
        RABBITMQ_NODE_IP_ADDRESS: "127.0.0.1",
        RABBITMQ_NODE_PORT: `${port}`,
        RABBITMQ_DIST_PORT: `${freePort()}`,
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS:
          "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
        ERL_EPMD_ADDRESS: "127.0.0.1",
        ERL_EPMD_PORT: epmd,
        // No program of it starts one that would outlive it.
        ERL_ZFLAGS: "-start_epmd false",
        // So that it becomes the process of the server, in place of its parent
        RUNNING_UNDER_SYSTEMD: "1",
      };
      const pairs = Object.entries(environment)
        .map(([name, value]) => `${name}=${value}`);
      const script = "setpriv --pdeathsig KILL epmd & " +
        'until epmd -names; do sleep 0.05; done; exec "$0"';
      return ["env", ...pairs, "sh", "-c", script, path];
    },
    ready: " completed with ",
    ending: "SIGKILL",
  },
} satisfies Record<string, Program>;

/** The name of a server program. */
export type ProgramName = keyof typeof programs;

/** Why a server can't be run here; `null` if it can. */
export function missing(name: ProgramName): string | null {
  const program = programs[name];
  if (program.find() !== null) return null;
  return `${program.package} is not installed`;
}

/** A server program that runs. */
export class RunningProgram implements AsyncDisposable {
  readonly port: number;
  readonly #directory: string;
  readonly #process: Deno.ChildProcess;
  readonly #program: Program;

  private constructor(
    port: number,
    directory: string,
    process: Deno.ChildProcess,
    program: Program,
  ) {
    this.port = port;
    this.#directory = directory;
    this.#process = process;
    this.#program = program;
  }

  /** Starts a program, and waits until it listens. */
  static async start(name: ProgramName): Promise<RunningProgram> {
    const program: Program = programs[name];
    const path = program.find()!;
    for (let attempt = 0;; attempt++) {
      const port = freePort();
      const directory = await Deno.makeTempDir({ prefix: "gevent-" });
      // It may run as another user.
      await Deno.chmod(directory, 0o777);
      const log = `${directory}/log`;
      await Deno.writeTextFile(log, "");
      await Deno.chmod(log, 0o666);
      if (program.prepare !== undefined) {
        await run(program.prepare(path, directory), log).status;
      }
      const process = run(
        program.command(path, directory, port),
        log,
      );
      let hasEnded = false;
      process.status.then(() => hasEnded = true);
      const server = new this(port, directory, process, program);
      const written = () => Deno.readTextFileSync(log);
      await when(() => hasEnded || written().includes(program.ready));
      if (!hasEnded) return server;
      const said = written();
      await server[Symbol.asyncDispose]();
      // Another process may have taken the port meanwhile.
      if (attempt === 2) throw new Error(`Cannot run ${name}: ${said}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill(this.#program.ending);
    } catch (error) {
      // It has ended already.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#process.status;
    await Deno.remove(this.#directory, { recursive: true });
  }
}

/** Runs a command whose output goes to a file. */
function run(command: string[], log: string): Deno.ChildProcess {
  return new Deno.Command("sh", {
    args: ["-c", 'log="$0"; exec "$@" >>"$log" 2>&1', log, ...command],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
}

/** A port that no process gets by chance, as ports from 32768 on. */
function freePort(): number {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/**
 * Starts a program before the tests of a file, and ends it after them.
 *
 * @returns Gives the port that it listens on, to a test.
 */
export function serveTests(name: ProgramName): () => number {
  let server: RunningProgram | undefined;
  if (missing(name) === null) {
    Deno.test.beforeAll(async () => {
      server = await RunningProgram.start(name);
    });
    Deno.test.afterAll(() => server?.[Symbol.asyncDispose]());
  }
  return () => server!.port;
}
