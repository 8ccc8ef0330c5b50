/** The states of a server, which share the rows of each stream. */
import { RequestError } from "../../errors.ts";
import type { LogTail } from "../../pubsub/logs/log.ts";
import { LiveRows } from "./live_rows.ts";
import { State, type StateParts } from "./state.ts";

/** Media type of a keyed stream. */
const JSON_TYPE = "application/json";

/** The open states of a server. */
export class States {
  readonly #parts: StateParts;
  readonly #tail: LogTail;
  /** Rows by id; bounded by the application's states. */
  readonly #rows = new Map<string, LiveRows>();

  /** @param tail The tail of new streams. */
  constructor(parts: StateParts, tail: LogTail) {
    this.#parts = parts;
    this.#tail = tail;
  }

  /**
   * Opens a state, and creates its stream if there is none.
   *
   * @param id The id.
   * @returns The state, once its rows are complete.
   * @throws {UnsupportedError} If the broker keeps no rows.
   * @throws {RangeError} If the id is empty or too long.
   * @throws {RequestError} With the code `wrong-type` if the stream is not keyed, and `full` if
   * there are too many streams.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async open(id: string): Promise<State> {
    const identity = await this.#create(id);
    let rows = this.#rows.get(id);
    // The rows of a deleted stream may not know yet that it is gone.
    if (rows?.identity !== undefined && rows.identity !== identity) rows = undefined;
    if (rows === undefined || rows.failure !== undefined) {
      rows = new LiveRows(id, this.#parts);
      this.#rows.set(id, rows);
    }
    const shared = rows;
    shared.users++;
    const leave = () => {
      if (--shared.users > 0) return;
      shared.close();
      if (this.#rows.get(id) === shared) this.#rows.delete(id);
    };
    try {
      await shared.ready;
    } catch (error) {
      leave();
      throw error;
    }
    return new State(shared, this.#parts, leave);
  }

  /** Ends all states. */
  close(): void {
    for (const rows of this.#rows.values()) rows.close();
    this.#rows.clear();
  }

  /** Creates the stream if there is none, and returns its identity. */
  async #create(id: string): Promise<string> {
    const options = { contentType: JSON_TYPE, keyed: this.#tail };
    const created = await this.#parts.logs.create(id, options);
    if (created.kind === "created") return created.info.identity;
    if (created.kind === "exists") {
      if (created.info.keyed !== undefined) return created.info.identity;
      throw new RequestError(
        "wrong-type",
        `Cannot open state: the durable stream "${id}" must be keyed`,
      );
    }
    throw new RequestError("full", `Cannot open state "${id}": ${created.kind}`);
  }
}
