/**
 * A MoQ peer that the test plays, byte by byte.
 *
 * @module
 */
import { StreamError } from "../../errors.ts";
import { MoqSession, type MoqSessionOptions } from "../../moq/session/session.ts";
import { type MoqVersion, protocolsOf, VERSIONS } from "../../moq/wire/versions.ts";
import type { Connection, DirectReadable, DirectStream } from "../../transport/connection.ts";
import { directStream } from "../../transport/direct.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import type { QuicPair } from "../pairs/quic.ts";
import { soon } from "../waiting.ts";

const bytesOf = (hex: string) => Uint8Array.fromHex(hex.replaceAll(" ", ""));

/** A bidirectional stream whose one end the test plays. */
export class HandExchange {
  readonly #stream: DirectStream;

  /** Takes over a stream. */
  constructor(stream: DirectStream) {
    this.#stream = stream;
  }

  /** Writes bytes, given in hex. */
  write(hex: string): Promise<void> {
    return soon(this.#stream.write(bytesOf(hex)));
  }

  /** Closes the test's direction. */
  async end(): Promise<void> {
    await soon(this.#stream.close()).catch(() => {});
  }

  /** Aborts the test's direction. */
  reset(streamErrorCode: number): void {
    this.#stream.abort({ streamErrorCode });
  }

  /**
   * Reads to the end.
   *
   * @returns The received bytes, in hex, and the code of a reset.
   */
  async rest(): Promise<{ readonly hex: string; readonly reset?: number }> {
    return await restOf(this.#stream);
  }

  /** Reads the next bytes, in hex; `null` at the end. */
  async read(): Promise<string | null> {
    return (await soon(this.#stream.read()))?.toHex() ?? null;
  }
}

async function restOf(stream: DirectReadable): Promise<{ hex: string; reset?: number }> {
  let hex = "";
  try {
    for (let bytes; (bytes = await soon(stream.read())) !== null;) hex += bytes.toHex();
    return { hex };
  } catch (error) {
    if (error instanceof StreamError) return { hex, reset: error.streamErrorCode };
    throw error;
  }
}

/** Setups of clients without parameters, in hex, on a separate stream. */
const SETUPS: Readonly<Record<MoqVersion, string>> = {
  "moq-lite-05": "01 01 00",
  "moq-lite-04": "",
  "moq-lite-02": "20 000a 01 c0000000ff0dad02 00",
  "moq-lite-01": "20 000a 01 c0000000ff0dad01 00",
  "moqt-18": "af00 0000",
  "moqt-20": "af00 0000",
  "moqt-22": "af00 0000",
  "gomoqt-dev": "00 0a 01 c0000000feedbabe 00",
};

/** Performs a client's setup as far as the server requires; resolves with the server's reply. */
async function setUp(client: Connection, version: MoqVersion): Promise<void> {
  const { setup } = VERSIONS[version];
  const bytes = bytesOf(SETUPS[version]);
  if (setup === "none") return;
  if (setup === "control") {
    // The stream stays open as long as the session.
    await directStream(await client.createUnidirectionalStream()).write(bytes);
    return;
  }
  if (setup === "stream") {
    if (client.transport !== "quic") return; // The path is already known.
    const stream = directStream(await client.createUnidirectionalStream());
    await stream.write(bytes);
    return await stream.close();
  }
  const stream = directStream(await client.createBidirectionalStream());
  await stream.write(bytes);
  await soon(stream.read());
}

/** A session, and the peer's raw connection. */
export class HandPeer implements AsyncDisposable {
  /** The session under test. */
  readonly session: MoqSession;
  /** The other side of the connection. */
  readonly connection: Connection;
  readonly #bidis: AsyncIterator<{ readable: unknown; writable: unknown }>;

  private constructor(session: MoqSession, connection: Connection) {
    this.session = session;
    this.connection = connection;
    this.#bidis = connection.incomingBidirectionalStreams[Symbol.asyncIterator]();
  }

  /**
   * Opens a session with a peer that the test plays.
   *
   * @param version The version. For a client, it must be one that a subprotocol identifies.
   * @param pair Both sides of the connection; in memory by default.
   * @returns The peer of the session.
   */
  static async open(
    version: MoqVersion,
    options: Partial<MoqSessionOptions> = {},
    pair: Pick<QuicPair, "client" | "server"> = memoryPair({
      protocol: protocolsOf([version], "quic")[0]!,
      frames: false,
    }),
  ): Promise<HandPeer> {
    const { side = "server" } = options;
    const opening = MoqSession.open(pair[side], { ...options, side, versions: [version] });
    if (side === "server") return await HandPeer.join(version, opening, pair.client);
    return new HandPeer(await soon(opening), pair.server);
  }

  /**
   * Sets up a session of a server.
   *
   * @param opening The session, which must not be rejected.
   * @param connection The client's side of its connection.
   */
  static async join(
    version: MoqVersion,
    opening: Promise<MoqSession | undefined>,
    connection: Connection,
  ): Promise<HandPeer> {
    await setUp(connection, version);
    const session = await soon(opening);
    if (session === undefined) throw new Error("The server rejected the session");
    return new HandPeer(session, connection);
  }

  /** Opens a bidirectional stream, and writes bytes to it. */
  async ask(hex: string): Promise<HandExchange> {
    const exchange = new HandExchange(
      directStream(await this.connection.createBidirectionalStream()),
    );
    if (hex !== "") await exchange.write(hex);
    return exchange;
  }

  /**
   * Opens a unidirectional stream, writes bytes to it, and closes it unless it should stay open.
   */
  async post(hex: string, options: { readonly staysOpen?: boolean } = {}): Promise<void> {
    const stream = directStream(await this.connection.createUnidirectionalStream());
    const written = stream.write(bytesOf(hex));
    // The session may reject the stream before the end arrives.
    const closed = options.staysOpen ? undefined : stream.close().catch(() => {});
    await soon(Promise.all([written, closed]));
  }

  /** Accepts the next bidirectional stream of the session. */
  async nextBidi(): Promise<HandExchange> {
    const { value } = await soon(this.#bidis.next());
    return new HandExchange(directStream(value));
  }

  /** Waits until the session closes. */
  async closed(): Promise<{ readonly code: number; readonly by: string }> {
    const { code, by } = await soon(this.session.closed);
    return { code, by };
  }

  /** Closes both sides. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.session[Symbol.asyncDispose]();
    this.connection.close();
  }
}
