/**
 * The processes in which the peers run.
 *
 * @module
 */

/** How long a process may take for an answer, in milliseconds. */
const PATIENCE = 180_000;

/** The answer of a process: numbers by their names. */
export type Answer = Record<string, number>;

/** A process that does a round for each line of its input, and prints a line after each. */
export class Process implements AsyncDisposable {
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor([program, ...args]: string[]) {
    this.#name = args.find((arg) => /\.(ts|py)$/.test(arg)) ?? program!;
    this.#child = new Deno.Command(program!, {
      args,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  /** Lets the process do a round, and returns its answer. */
  async ask(): Promise<Answer> {
    await this.#input.write(new Uint8Array([10]));
    const answer = JSON.parse(await this.readLine());
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  /** Returns the next line that the process prints. */
  async readLine(): Promise<string> {
    const patience = AbortSignal.timeout(PATIENCE);
    patience.onabort = () => this.#child.kill("SIGKILL");
    try {
      let end;
      while ((end = this.#rest.indexOf("\n")) < 0) {
        const { done, value } = await this.#output.read();
        if (patience.aborted) {
          throw new Error(`no answer in ${PATIENCE / 1000} s`);
        }
        if (done) throw new Error(`${this.#name} has ended before its time`);
        this.#rest += value;
      }
      const line = this.#rest.slice(0, end);
      this.#rest = this.#rest.slice(end + 1);
      return line;
    } finally {
      patience.onabort = null;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // It has ended already
    }
    await this.#output.cancel();
    await this.#child.status;
  }
}
