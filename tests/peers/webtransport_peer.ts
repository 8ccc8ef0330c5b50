/**
 * A WebTransport server for tests of clients.
 *
 * @module
 */
import type { Connection } from "../../transport/connection.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import type { WebTransportHash } from "../../transport/w3c/mod.ts";
import {
  listenWebTransport,
  type ListenWebTransportOptions,
  type WebTransportListener,
  type WebTransportRequest,
} from "../../transport/h3/server.ts";
import { soon } from "../waiting.ts";

/** Options for {@linkcode WebTransportPeer}. */
export interface WebTransportPeerOptions extends Partial<ListenWebTransportOptions> {
  /** Responds to a request. By default, the server accepts the first offered subprotocol. */
  readonly respond?: (request: WebTransportRequest) => Connection | undefined;
}

/** A server that responds to requests in the order of arrival. */
export class WebTransportPeer implements AsyncDisposable {
  readonly listener: WebTransportListener;
  readonly trust: { readonly serverCertificateHashes: readonly WebTransportHash[] };
  /** The certificate, in PEM. */
  readonly cert: string;
  readonly #serving: Promise<void>;
  readonly #sessions: ReadableStream<Connection>;
  readonly #reader: ReadableStreamDefaultReader<Connection>;

  /** Starts listening. */
  constructor({ respond = acceptFirst, ...options }: WebTransportPeerOptions = {}) {
    const certificate = devCertificate({ cacheFolder: null });
    this.cert = certificate.cert;
    this.trust = { serverCertificateHashes: certificate.hashes };
    this.listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate, ...options });
    const { readable, writable } = new TransformStream<Connection>(
      {},
      undefined,
      { highWaterMark: 1_000 },
    );
    this.#sessions = readable;
    this.#reader = this.#sessions.getReader();
    this.#serving = this.#serve(writable.getWriter(), respond);
  }

  get url(): string {
    return `https://127.0.0.1:${this.listener.address.port}/`;
  }

  async session(): Promise<Connection> {
    return (await soon(this.#reader.read())).value!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.listener.close();
    await this.#serving;
  }

  async #serve(
    accepted: WritableStreamDefaultWriter<Connection>,
    respond: (request: WebTransportRequest) => Connection | undefined,
  ): Promise<void> {
    for await (const request of this.listener) {
      const session = respond(request);
      if (session !== undefined) void accepted.write(session);
    }
  }
}

/** Accepts a request with the first offered subprotocol. */
export function acceptFirst(request: WebTransportRequest): Connection {
  const [protocol] = request.protocols;
  return request.accept(protocol === undefined ? {} : { protocol });
}

/** Accepts a request and echoes all data: on the same stream, on a new stream, or as a datagram. */
export function acceptEcho(request: WebTransportRequest): Connection {
  const session = acceptFirst(request);
  const quietly = (work: Promise<unknown>) => void work.catch(() => {}); // The session ended.
  quietly((async () => {
    for await (const { readable, writable } of session.incomingBidirectionalStreams) {
      quietly(readable.pipeTo(writable));
    }
  })());
  quietly((async () => {
    for await (const readable of session.incomingUnidirectionalStreams) {
      quietly(session.createUnidirectionalStream().then((back) => readable.pipeTo(back)));
    }
  })());
  const { direct } = session.datagrams;
  direct!.receive((datagram) => direct!.send(datagram));
  return session;
}
