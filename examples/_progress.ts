/**
 * A line of text that shows the progress of a program.
 *
 * @module
 */

/**
 * A line of text that changes, below lines that stay. On a terminal it is redrawn; a pipe or a
 * file gets a line for each milestone.
 */
export class Progress implements Disposable {
  readonly #isTerminal = Deno.stdout.isTerminal();
  readonly #encoder = new TextEncoder();
  #text = "";

  /** Changes the text. If the output is not a terminal, prints it only at a milestone. */
  show(text: string, isMilestone: boolean): void {
    this.#text = text;
    if (this.#isTerminal) this.#redraw(text);
    else if (isMilestone) console.log(text);
  }

  /** Prints a line that stays. */
  print(line: string): void {
    if (this.#isTerminal) this.#redraw(`${line}\n${this.#text}`);
    else console.log(line);
  }

  /** Leaves the text where it is. */
  [Symbol.dispose](): void {
    if (this.#isTerminal) this.#redraw(`${this.#text}\n`);
  }

  /** Goes to the start of the line, and erases it. */
  #redraw(text: string): void {
    Deno.stdout.writeSync(this.#encoder.encode(`\r\x1b[K${text}`));
  }
}
