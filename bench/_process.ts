/**
 * The processes that the measurements are made in.
 *
 * @module
 */

/** How long a process may take for an answer, in milliseconds. */
const PATIENCE = 180_000;

/** The answer of a process: numbers by their names. */
export type Answer = Record<string, number>;

/** A process that does something for each line on its input, and prints a line then. */
export class Process implements AsyncDisposable {
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #rest = "";

  /** Starts it. */
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

  /** Asks for an answer, and waits for it. */
  async ask(): Promise<Answer> {
    await this.#input.write(new Uint8Array([10]));
    const answer = JSON.parse(await this.readLine());
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  /** Reads what the process prints next. */
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

  /** Ends it. */
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
