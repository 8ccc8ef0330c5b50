/** The rules for the peer's control stream (RFC 9114 sections 5.2 and 7.2). */
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { decodeIdPayload, FrameType, type Http3Frame } from "./frames.ts";
import { decodeSettings, type Http3Settings } from "./settings.ts";

/** The effect of a frame: the peer's settings, a GOAWAY, or nothing. */
type ControlEvent = Http3Settings | "goaway" | undefined;

/**
 * The difference between two request IDs, which are the IDs of bidirectional streams opened by the
 * client.
 */
const REQUEST_IDS_EVERY = 4n;

/**
 * A validator for the frames of one control stream. Neither end ever pushes, so MAX_PUSH_ID has no
 * effect and CANCEL_PUSH is an error.
 *
 * The `Http3FrameParser` of a control stream has already checked that SETTINGS is the first frame
 * and occurs only once.
 */
export class ControlFrames {
  readonly #side: "client" | "server";
  #goawayId: bigint | undefined = undefined;
  #maxPushId: bigint | undefined = undefined;

  /**
   * Creates a validator.
   *
   * @param side The role of this side. The frames come from the other side.
   */
  constructor(side: "client" | "server") {
    this.#side = side;
  }

  /**
   * Validates the next frame.
   *
   * @throws {H3ProtocolError} If the frame breaks a rule that ends the connection.
   */
  receive({ type, payload }: Http3Frame): ControlEvent {
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
          `Received CANCEL_PUSH although nothing is pushed, for ${decodeIdPayload(payload)}`,
        );
    }
    return undefined;
  }

  #goaway(id: bigint): void {
    // A server sends a request ID. A client sends a push ID, which can be any number.
    if (this.#side === "client" && id % REQUEST_IDS_EVERY !== 0n) {
      throw new H3ProtocolError(
        H3Error.idError,
        `Expected a request ID in GOAWAY, received ${id}`,
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
        "Received MAX_PUSH_ID from a server",
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
