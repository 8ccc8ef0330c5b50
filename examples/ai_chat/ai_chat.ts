/**
 * The server of the page: conversations as requests, answers as streaming responses.
 *
 * @module
 */
import { RequestError, serve, type ServeOptions, type Server } from "../../mod.ts"; // jsr:@skein/skein
import { resumable } from "../../streams/mod.ts"; // jsr:@skein/skein/streams
import { contract, type Question, type Turn } from "./contract.ts";
import type { Conversations } from "./conversations.ts";
import type { Writer } from "./writer.ts";

/** The only user of this server; an application returns the user of the session's token. */
const USER = "me";

/** Options of {@linkcode serveAiChat}; the example sets all others. */
export interface AiChatOptions
  extends Pick<ServeOptions, "port" | "hostname" | "fetch" | "onListen" | "broker"> {
  readonly conversations: Conversations;
  /** The author of the answers. */
  readonly writer: Writer;
}

/** The stored words of an answer, at most the newest 10,000, and the total number. */
interface Progress {
  readonly written: readonly string[];
  readonly count: number;
  readonly signal: AbortSignal;
}

/** A server of the example. */
export type AiChatServer = Server<string, typeof contract>;

export function serveAiChat({ conversations, writer, ...options }: AiChatOptions): AiChatServer {
  const server: AiChatServer = serve({
    ...options,
    path: "/session",
    contract,
    authenticate: () => USER,
    requests: {
      list: () => conversations.list(),
      open: ({ data }) => conversations.turns(data),
      remove({ data }) {
        conversations.remove(data);
        server.to(USER).send("conversations", conversations.list());
        return null;
      },
      ask: {
        resumable,
        handle({ data, signal }) {
          conversations.begin(data);
          tell(data.id);
          server.to(USER).send("conversations", conversations.list());
          return write(data, { written: [], count: 0, signal });
        },
        // Another server, or this one after a restart, continues after the stored words.
        resume: ({ data }, progress) => write(data, progress),
      },
    },
  });

  /** Writes the rest of an answer, and records how it ended. */
  async function* write(
    { id, conversation, question }: Question,
    { written, count, signal }: Progress,
  ): AsyncGenerator<string> {
    const turns = conversations.turns(conversation);
    const before = turns.slice(0, turns.findIndex((turn) => turn.id === id));
    let answer = written.join("");
    try {
      if (written.length < count) throw new Error("The answer is too long to be continued");
      for await (const word of writer({ before, question, written: answer, signal })) {
        if (conversations.turn(id) === undefined) return; // The conversation was deleted.
        answer += word;
        yield word;
      }
      end("complete");
    } catch (error) {
      if (!signal.aborted) {
        const { message } = error as Error;
        end("failed", message);
        throw new RequestError("failed", message);
      }
    } finally {
      // After any other reason the next server continues the answer.
      if (isStopped(signal)) end("stopped");
    }

    function end(state: Turn["state"], reason = ""): void {
      conversations.end(id, { state, answer, reason });
      tell(id);
    }
  }

  /** Sends a turn to all of the user's pages. */
  function tell(id: string): void {
    const turn = conversations.turn(id);
    if (turn !== undefined) server.to(USER).send("turn", turn);
  }

  return server;
}

/** Returns true if a reader pressed stop. */
function isStopped({ reason }: AbortSignal): boolean {
  return reason instanceof RequestError && reason.failure.code === "cancelled";
}
