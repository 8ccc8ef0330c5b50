/**
 * The authors of answers: a small program that needs no key, and a model behind an API that is
 * compatible with OpenAI's.
 *
 * @module
 */
import { setTimeout as delay } from "node:timers/promises";
import { ANSWERS, OTHER } from "./answers.ts";
import type { Turn } from "./contract.ts";

/** Input of a {@linkcode Writer}. */
export interface Prompt {
  /** The earlier turns of the conversation. */
  readonly before: readonly Turn[];
  readonly question: string;
  /** The part of the answer that a server wrote before it stopped. */
  readonly written: string;
  /** Aborted when a reader stops the answer. */
  readonly signal: AbortSignal;
}

/** Writes the rest of an answer, piece by piece. */
export type Writer = (prompt: Prompt) => AsyncIterable<string>;

/** Writes prepared answers, always the same for the same question, one word every `paceMs`. */
export function localWriter(paceMs: number): Writer {
  return async function* ({ question, written, signal }) {
    let length = 0;
    for (const [word] of answerTo(question).matchAll(/\s*\S+/g)) {
      length += word.length;
      if (length <= written.length) continue;
      await delay(paceMs, undefined, { signal });
      if (word.endsWith("\0")) throw new Error("The writer was asked to fail, and so it did");
      yield word;
    }
  };
}

/** Returns the prepared answer to a question, in Markdown. */
export function answerTo(question: string): string {
  const [, limit] = /count to (\d{1,4})/i.exec(question) ?? [];
  if (limit !== undefined) {
    return Array.from({ length: Number(limit) }, (_, i) => i + 1).join(" ");
  }
  const [, answer] = ANSWERS.find(([pattern]) => pattern.test(question)) ?? [];
  return answer ?? OTHER.replace("QUESTION", question.replace(/\s+/g, " "));
}

/** The API of a model. */
export interface Model {
  /** Base URL of the API, such as `http://localhost:11434/v1`. */
  readonly url: string;
  /** Name of the model. */
  readonly name: string;
  /** Key of the API. */
  readonly key: string | undefined;
}

/** Forwards the words of a model. */
export function modelWriter({ url, name, key }: Model): Writer {
  return async function* ({ before, question, written, signal }) {
    const response = await fetch(`${url}/chat/completions`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
      },
      body: JSON.stringify({
        model: name,
        stream: true,
        messages: [
          ...before.flatMap((turn) => [say("user", turn.question), say("assistant", turn.answer)]),
          say("user", question),
          ...(written === "" ? [] : [say("assistant", written), say("user", GO_ON)]),
        ],
      }),
      signal,
    });
    if (!response.ok || response.body === null) {
      await response.body?.cancel();
      throw new Error(`The model's API responded with status ${response.status}`);
    }
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const word = JSON.parse(data).choices?.[0]?.delta?.content;
      if (word) yield word;
    }
    throw new Error("The model stopped in the middle of the answer");
  };
}

const GO_ON = "Your answer was cut off. Continue with the very next character; repeat nothing.";

function say(role: "user" | "assistant", content: string) {
  return { role, content };
}

/** Yields the data of server-sent events of one line each. */
async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop()!;
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}
