/** Topics that clients may use: the contract's topics, and rooms. */
import { RequestError } from "../../errors.ts";
import type { StandardSchema } from "../../base/standard_schema.ts";
import { compileContract } from "../../session/settings/check_settings.ts";
import type { Contract, ContractMatch, ContractRouter } from "../../session/contract.ts";
import { TopicPattern } from "../../session/wire/topic_pattern.ts";
import type { AuthorizedAction } from "./topic_handler.ts";

/** Topics by the contract of a server, and the patterns of its rooms. */
export class KnownTopics {
  readonly #messages: ContractRouter | undefined;
  readonly #presence: ContractRouter | undefined;
  readonly #rooms: readonly TopicPattern[];

  /**
   * Compiles the patterns.
   *
   * @param contract Topics and their schemas; `undefined` if all topics are allowed.
   * @param roomPatterns Patterns of topics that are rooms.
   * @throws {TypeError} If a pattern is malformed.
   */
  constructor(contract: Contract | undefined, roomPatterns: readonly string[]) {
    this.#messages = contract && compileContract(contract, "client");
    this.#presence = contract && compileContract(contract, "presence");
    this.#rooms = roomPatterns.map((pattern) => new TopicPattern(pattern, "create server"));
  }

  /** Checks whether a topic is a room by its pattern. */
  isRoom(topic: string): boolean {
    return this.#rooms.some((pattern) => pattern.match(topic) !== undefined);
  }

  /**
   * Rejects topics that are not part of the contract. Rooms have presence notices in addition to
   * messages.
   *
   * @throws {RequestError} With the code `unknown-topic`.
   */
  check(topic: string, action: AuthorizedAction): void {
    if (this.#messages === undefined) return;
    if (action === "presence") {
      if (this.#presence?.match(topic) !== undefined) return;
      throw new RequestError("unknown-topic", `No presence of the contract fits "${topic}"`);
    }
    if (this.#messages.match(topic)?.kind === "message") return;
    if (action === "subscribe" && this.isRoom(topic)) return;
    throw new RequestError("unknown-topic", `No message of the contract fits the topic "${topic}"`);
  }

  /** Returns the contract's entry for the messages on a topic, if there is one. */
  messageOf(topic: string): ContractMatch | undefined {
    return this.#messages?.match(topic);
  }

  /** Returns the schema of a publication, if the contract has one. */
  schemaOf(topic: string): StandardSchema | undefined {
    return this.messageOf(topic)?.input;
  }

  /** Returns the schema of the presence data in a room, if the contract has one. */
  presenceSchemaOf(room: string): StandardSchema | undefined {
    return this.#presence?.match(room)?.input;
  }
}
