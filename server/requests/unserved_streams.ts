/** Topics of durable streams on a server without a feature that serves them. */
import { RequestError } from "../../errors.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import type { Session } from "../../session/session.ts";
import { STREAM_PREFIX } from "../../session/wire/recovery.ts";
import type { AuthorizedAction, TopicHandler } from "./topic_handler.ts";

/** Rejects all requests for durable streams, so that `authorize` never allows one of them. */
export class UnservedStreams implements TopicHandler {
  readonly prefix = STREAM_PREFIX;
  readonly #console: ConsoleReport;

  constructor(console: ConsoleReport) {
    this.#console = console;
  }

  subjectOf(_session: Session, topic: string): Promise<never> {
    this.#console.tell(
      "no-streams",
      `A client asked for the durable stream or state "${topic}". Pass it in features: ` +
        'import { durableStreams, liveState } from "@skein/skein/streams"',
    );
    return Promise.reject(new RequestError("not-found", "This server has no durable streams"));
  }

  actionOf(): AuthorizedAction {
    return "publish";
  }

  publish(): Promise<never> {
    return Promise.reject(new RequestError("not-found", "This server has no durable streams"));
  }
}
