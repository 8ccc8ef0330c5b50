/** The program of a backend that sends HTTP requests to nodes and leaves some responses unread. */
import { type Examiner, outcomeOf } from "./examiner.ts";
import type { Node } from "./nodes.ts";
import { ROUND_MS } from "./waits.ts";

/** Headers of a request from an inspector's page. */
const PAGE = { "skein-inspector": "1" } as const;

/** A request. Its body is sent as JSON. */
export interface Question {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  /** A body that is sent as it is, instead of JSON. */
  readonly body?: BodyInit;
  /** Time after which the backend aborts, in milliseconds. */
  readonly leaveMs?: number;
}

export class Backend {
  readonly #examiner: Examiner;

  /** Creates a backend. */
  constructor(examiner: Examiner) {
    this.#examiner = examiner;
  }

  /**
   * Sends a request to a node, and aborts it if the response takes too long.
   *
   * @param path The path, with a query.
   * @param question See {@linkcode Question}.
   * @returns The status, or the name of the error.
   */
  async ask(node: Node, path: string, question: Question = {}): Promise<string> {
    const { json, leaveMs = ROUND_MS, headers, body, ...init } = question;
    const isJson = json !== undefined;
    const leave = new AbortController();
    const examiner = this.#examiner;
    let status = "none";
    const answering = async () => {
      const response = await examiner.fetch(
        examiner.host("growth-backend"),
        `https://${node.host.name}${path}`,
        {
          method: isJson || body !== undefined ? "POST" : "GET",
          ...init,
          headers: { ...(isJson && { "content-type": "application/json" }), ...headers },
          ...(isJson ? { body: JSON.stringify(json) } : body !== undefined && { body }),
          signal: leave.signal,
        },
      );
      status = `${response.status}`;
      await response.text();
    };
    const outcome = outcomeOf(answering());
    await examiner.inTime(outcome, leaveMs, "late");
    leave.abort();
    await outcome;
    return status;
  }

  /**
   * Requests data from an inspector, as a page does.
   *
   * @param name Name of the data.
   * @param params Parameters.
   * @returns See {@linkcode Backend.ask}.
   */
  inspect(
    node: Node,
    name: string,
    params: Readonly<Record<string, string>> = {},
  ): Promise<string> {
    const path = `/inspector/data/${name}?${new URLSearchParams(params)}`;
    return this.ask(node, path, { headers: PAGE });
  }
}
