/** Answers of a stream to a publisher. */
import type { Msg } from "@nats-io/transport-node";
import { BrokerError } from "../../errors.ts";

/** Status of a message without a receiver: the stream does not exist, or has no leader. */
const NO_RESPONDERS = 503;

/** Error codes of JetStream for an unexpected last sequence. */
const WRONG_SEQUENCE: ReadonlySet<number> = new Set([10070, 10071, 10164]);

/** An answer; branch on `name`. */
export type Ack =
  | { readonly name: "stored"; readonly seq: number; readonly isDuplicate: boolean }
  | { readonly name: "conflict" | "away" | "refused"; readonly error: BrokerError };

/** Reads an answer; an unreadable one counts as a refusal. */
export function parseAck(message: Msg): Ack {
  try {
    return parse(message);
  } catch {
    return failure("refused", "an unreadable message");
  }
}

function parse(message: Msg): Ack {
  if (message.data.length === 0) {
    const isAway = message.headers?.code === NO_RESPONDERS;
    return failure(isAway ? "away" : "refused", message.headers?.status ?? "nothing");
  }
  const { seq, duplicate = false, error } = message.json<Answer>();
  if (error !== undefined) {
    const { code, err_code = 0, description = `error ${code}` } = error;
    if (WRONG_SEQUENCE.has(err_code)) return failure("conflict", description);
    return failure(code === NO_RESPONDERS ? "away" : "refused", description);
  }
  if (seq === undefined) return failure("refused", message.string().slice(0, 100));
  return { name: "stored", seq, isDuplicate: duplicate };
}

interface Answer {
  readonly seq?: number;
  readonly duplicate?: boolean;
  readonly error?: {
    readonly code: number;
    readonly err_code?: number;
    readonly description?: string;
  };
}

function failure(name: "conflict" | "away" | "refused", answer: string): Ack {
  return { name, error: new BrokerError(`Cannot append: JetStream answered ${answer}`) };
}
