/** The control streams of a session in the IETF's drafts: one in each direction, for its life. */
import { ProtocolError } from "../../../errors.ts";
import { within } from "../../../base/wait.ts";
import type { DirectWritable } from "../../../transport/connection.ts";
import { openUnidirectional } from "../../../transport/direct.ts";
import { MoqError } from "../../wire/errors.ts";
import {
  decodeDraftGoaway,
  decodeDraftSetup,
  DraftType,
  encodeDraftGoaway,
  encodeDraftSetup,
  readDraftBody,
  readDraftMessage,
  SetupOption,
  unexpected,
} from "../../wire/ietf/messages.ts";
import type { MessageReader } from "../../wire/message_reader.ts";
import type { MoqParameters } from "../../wire/messages.ts";
import { moqErrorOf, sessionClosed } from "../context.ts";
import type { DialectEvents, OwnSetup, ReceivedSetup } from "../dialect.ts";
import { END_GRACE_MS, ownParameters } from "../setup.ts";
import type { DraftPeer } from "./peer.ts";

/** The name of this implementation, for the peer's log. */
const IMPLEMENTATION = "skein";

/** The path and query of a URL. */
const PATH = /^(?:\/[^\s?#]*)?(?:\?[^\s#]*)?$/;

/** The host and port of a URL. */
const AUTHORITY = /^[^\s/?#]+$/;

/** Both control streams. */
export class DraftControl {
  readonly #peer: DraftPeer;
  readonly #events: DialectEvents;
  #stream: DirectWritable | undefined = undefined;
  #hasGoaway = false;

  constructor(peer: DraftPeer, events: DialectEvents) {
    this.#peer = peer;
    this.#events = events;
  }

  /** Opens the control stream of this side, with SETUP. */
  async open({ extensions, path, authority }: OwnSetup): Promise<void> {
    const { connection } = this.#peer.context;
    const options = ownParameters(extensions);
    const encoder = new TextEncoder();
    options.set(SetupOption.implementation, encoder.encode(IMPLEMENTATION));
    if (connection.transport === "quic" && path !== "") {
      options.set(SetupOption.path, encoder.encode(path));
      if (authority !== "") options.set(SetupOption.authority, encoder.encode(authority));
    }
    this.#stream = await openUnidirectional(connection);
    await this.#stream.write(encodeDraftSetup(options));
  }

  /** Sends GOAWAY; the peer may ask for no more than this. */
  async goaway(uri: string, timeoutMs: number): Promise<void> {
    const peer = this.#peer;
    const { signal } = peer.context;
    if (signal.aborted) throw sessionClosed(signal.reason);
    if (uri !== "" && peer.context.session.side === "client") {
      throw new TypeError("Cannot send goaway: a client must not name a URI in the IETF's drafts");
    }
    if (peer.isLeaving) return;
    peer.isLeaving = true;
    const message = { uri, timeoutMs, requestId: peer.nextPeerId };
    try {
      await this.#stream?.write(encodeDraftGoaway(message, peer.draft));
    } catch (error) {
      throw moqErrorOf(peer.context, "session", error);
    }
  }

  /** Reads the control stream of the peer, after its type. */
  async read(reader: MessageReader): Promise<void> {
    const setup = this.#checked(decodeDraftSetup(await readDraftBody(reader)));
    this.#events.onSetup(setup);
    this.#peer.take(setup);
    for (let message; (message = await this.#next(reader)) !== undefined;) {
      if (message.type !== DraftType.goaway) throw unexpected(message, "GOAWAY");
      this.#takeGoaway(message.body);
    }
    await this.#endSoon();
  }

  /** Reads a message; a stream that fails ends like any other. */
  async #next(reader: MessageReader): ReturnType<typeof readDraftMessage> {
    try {
      return await readDraftMessage(reader);
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      return undefined;
    }
  }

  #takeGoaway(body: Uint8Array): void {
    const { context, draft } = this.#peer;
    const { uri } = decodeDraftGoaway(body, draft);
    if (this.#hasGoaway) throw new ProtocolError("Expected one GOAWAY, received a second one");
    if (uri !== "" && context.session.side === "server") {
      throw new ProtocolError("Received a GOAWAY with a URI from a client");
    }
    this.#hasGoaway = true;
    this.#events.onGoaway(uri);
  }

  #checked({ options, tokens }: ReturnType<typeof decodeDraftSetup>): ReceivedSetup {
    const { connection, session } = this.#peer.context;
    const isAllowed = session.side === "server" && connection.transport === "quic" ||
      // Tests and tools have no URL either.
      session.side === "server" && connection.transport === "memory";
    const path = textOf(options, SetupOption.path);
    const authority = textOf(options, SetupOption.authority);
    if (path !== undefined) {
      if (!isAllowed) throw setupFault("invalidPath", "a path");
      if (!PATH.test(path)) throw setupFault("malformedPath", "such a path");
    }
    if (authority !== undefined) {
      if (!isAllowed) throw setupFault("invalidAuthority", "an authority");
      if (!AUTHORITY.test(authority)) throw setupFault("malformedAuthority", "such an authority");
    }
    return { parameters: options, path, tokens };
  }

  /** Closes the session, unless the connection first reports how it closed. */
  async #endSoon(): Promise<void> {
    const { closed, runtime } = this.#peer.context;
    try {
      await within(runtime, closed, { timeoutMs: END_GRACE_MS });
    } catch {
      throw new ProtocolError("Expected the control stream to stay open, received its end");
    }
  }
}

function textOf(options: MoqParameters, number: number): string | undefined {
  const value = options.get(number);
  return value === undefined ? undefined : new TextDecoder().decode(value);
}

function setupFault(
  reason: "invalidPath" | "malformedPath" | "invalidAuthority" | "malformedAuthority",
  what: string,
): MoqError {
  return new MoqError("session", reason, `Expected SETUP without ${what}`);
}
