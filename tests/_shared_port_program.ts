/**
 * Starts the program of `_shared_port.ts`, and reads what it prints.
 *
 * @module
 */

/** A running program, and the lines that it has printed. */
export class Program implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #printed: string[] = [];
  readonly #reading: Promise<void>;
  #changed = Promise.withResolvers<void>();

  constructor(args: string[], flags: string[] = ["-A"]) {
    const main = new URL("_shared_port.ts", import.meta.url).pathname;
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-q",
        "--no-check",
        "--unstable-net",
        ...flags,
        main,
        ...args,
      ],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    this.#reading = this.#read();
  }

  async #read(): Promise<void> {
    const text = this.#child.stdout.pipeThrough(new TextDecoderStream());
    let rest = "";
    for await (const chunk of text) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      this.#printed.push(...lines);
      this.#changed.resolve();
      this.#changed = Promise.withResolvers();
    }
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** The words of each line that begins with `word`, without that word. */
  lines(word: string): string[][] {
    return this.#printed.filter((line) => line.startsWith(`${word} `))
      .map((line) => line.split(" ").slice(1));
  }

  /** Waits until it has printed `count` such lines. */
  async printed(word: string, count: number): Promise<string[][]> {
    while (this.lines(word).length < count) await this.#changed.promise;
    return this.lines(word);
  }

  /** Waits until `count` processes of its server have started. Returns their process ids. */
  async started(count: number): Promise<number[]> {
    const all = await this.printed("started", count + 1);
    return all.map(([pid]) => Number(pid)).filter((pid) => pid !== this.pid);
  }

  async port(): Promise<number> {
    return Number((await this.printed("started", 1))[0]![1]);
  }

  kill(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** Waits until it has ended, and all processes that share its standard output. */
  async ended(): Promise<number> {
    const { code } = await this.#child.status;
    await this.#reading;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.ended();
  }
}
