/**
 * The prepared answers of the local writer, in Markdown.
 *
 * @module
 */

const lines = (...text: string[]) => text.join("\n");

/** Patterns of questions, with their answers. A null character makes the writer fail. */
export const ANSWERS: readonly (readonly [question: RegExp, answer: string])[] = [
  [/fail/i, "This answer starts well. But then, in the middle of the second sentence, \0"],
  [
    /refresh|reload/i,
    lines(
      "The answer does **not** belong to the page that asked. Reload the page now: the words keep coming.",
      "",
      "1. The page sends the question, and gives the answer a name.",
      "2. The server writes the answer into a *durable stream*, word by word.",
      "3. The page reads the stream. After a reload it requests the same name again. The server doesn't start over: it sends the words so far, and those that follow.",
      "",
      "The page needs only this:",
      "",
      "```js",
      'const answer = client.requestStream("ask", turn, { id: turn.id });',
      "for await (const word of answer) show(word);",
      "```",
      "",
      "A second tab does the same, and reads along. `answer.cancel()` is the stop button, and any reader may press it.",
    ),
  ],
  [
    /kill|crash|restart|die/i,
    lines(
      "Try it: stop the server with `kill -9` while these words appear, and start it again.",
      "",
      "- **The words that you see are safe.** Each was written to the file before it was sent.",
      "- **The page waits.** It reconnects by itself, and continues after the last word.",
      "- **The writer is replaced.** The new server finds an answer without a writer, claims it, and calls `resume` with the words so far:",
      "",
      "```ts",
      "ask: {",
      "  resumable,",
      "  handle: ({ data }) => write(data, []),",
      "  resume: ({ data }, { written }) => write(data, written),",
      "},",
      "```",
      "",
      "If there are several servers, exactly one claims the answer. So each word arrives exactly once, in order.",
      "",
      "A handler without `resume` cannot continue. Its answer fails visibly, and the page offers a retry.",
    ),
  ],
  [
    /code|function|typescript|debounce/i,
    lines(
      "A function that runs once the calls have paused for a while:",
      "",
      "```ts",
      "function debounce<Args extends unknown[]>(",
      "  act: (...args: Args) => void,",
      "  waitMs: number,",
      "): (...args: Args) => void {",
      "  let timer: number | undefined;",
      "  return (...args) => {",
      "    clearTimeout(timer);",
      "    timer = setTimeout(act, waitMs, ...args);",
      "  };",
      "}",
      "```",
      "",
      "### Notes",
      "",
      "- Each call restarts the timer; only the **last** arguments are used.",
      "- For a call *at most* every 200 ms, throttle instead.",
    ),
  ],
  [
    /story|tale|weaver/i,
    lines(
      "### The weaver and the river",
      "",
      "A weaver lived by a river, and her loom stood on the bridge, where the light was best.",
      "",
      "People crossed the bridge all day. Some stopped to watch the cloth grow. When they were called away they asked: *Will you wait for me?* She never did. She tied a knot in the edge of the cloth, one for each finger's breadth, and said: **Remember your knot.**",
      "",
      "One evening a flood took the bridge, the loom, and the lamp. It did not take the cloth, for that hung in the house on the bank, rolled up to the last row. In the morning her daughter set up another loom. She ran her thumb along the edge to the last knot, and went on with the very next thread.",
      "",
      "The people came back by boat. Each looked for a knot, and found the pattern unbroken: no row missing, no row twice.",
      "",
      "> And nobody could tell where one weaver had ended and the other had begun.",
    ),
  ],
];

/** The answer to all other questions. */
export const OTHER = lines(
  "There is no model behind this page, only a small program with a few prepared answers. So it cannot answer this:",
  "",
  "> QUESTION",
  "",
  "But it writes at the pace of a model, so you can try this:",
  "",
  "1. **Reload** the page in the middle of an answer.",
  "2. Open a **second tab**, and press stop there.",
  "3. **Kill** the server, and start it again.",
  "",
  "For a real model, start the server with its address: `--url http://localhost:11434/v1 --model llama3.2`.",
);
