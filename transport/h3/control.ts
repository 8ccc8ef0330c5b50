/**
 * Rules of the peer's control stream (RFC 9114 sections 5.2 and 7.2).
 *
 * @module
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { decodeIdPayload, type Frame, FrameType } from "./frames.ts";
import { decodeSettings, type Settings } from "./settings.ts";

/** Effect of a frame: the peer's settings, its wish to end, or none. */
export type ControlEvent = Settings | "goaway" | undefined;

/** Requests have the numbers of the bidirectional streams that a client opens. */
const REQUEST_IDS_EVERY = 4n;

/**
 * Checks the frames of one control stream, and says what follows from them. Nothing is ever pushed
 * in either direction, so the frames about pushes change nothing.
 *
 * A `FrameParser` of a control stream has refused SETTINGS that do not come first, or come twice.
 */
export class ControlFrames {
  readonly #side: "client" | "server";
  #goawayId: bigint | undefined = undefined;
  #maxPushId: bigint | undefined = undefined;

  /**
   * Prepares to read.
   *
   * @param side Which end this is; the frames come from the other one.
   */
  constructor(side: "client" | "server") {
    this.#side = side;
  }

  /**
   * Checks the next frame.
   *
   * @param frame The frame.
   * @returns Its effect.
   * @throws {H3ProtocolError} If the frame breaks a rule; it ends the connection.
   */
  receive({ type, payload }: Frame): ControlEvent {
    switch (type) {
      case FrameType.settings:
        return decodeSettings(payload);
      case FrameType.goaway:
        this.#goaway(decodeIdPayload(payload));
        return "goaway";
      case FrameType.maxPushId:
        return this.#allowPushes(decodeIdPayload(payload));
      case FrameType.cancelPush:
        throw new H3ProtocolError(
          H3Error.idError,
          `Expected no CANCEL_PUSH where nothing is pushed, received one of ${
            decodeIdPayload(payload)
          }`,
        );
    }
    return undefined;
  }

  #goaway(id: bigint): void {
    // A server names a request. A client names a push, which has any number.
    if (this.#side === "client" && id % REQUEST_IDS_EVERY !== 0n) {
      throw new H3ProtocolError(
        H3Error.idError,
        `Expected the number of a request in GOAWAY, received ${id}`,
      );
    }
    if (this.#goawayId !== undefined && id > this.#goawayId) {
      throw new H3ProtocolError(
        H3Error.idError,
        `Expected GOAWAY of at most ${this.#goawayId}, received ${id}`,
      );
    }
    this.#goawayId = id;
  }

  #allowPushes(maxId: bigint): undefined {
    if (this.#side === "client") {
      throw new H3ProtocolError(
        H3Error.frameUnexpected,
        "Expected no MAX_PUSH_ID from a server, received one",
      );
    }
    if (this.#maxPushId !== undefined && maxId < this.#maxPushId) {
      throw new H3ProtocolError(
        H3Error.idError,
        `Expected MAX_PUSH_ID of at least ${this.#maxPushId}, received ${maxId}`,
      );
    }
    this.#maxPushId = maxId;
  }
}
