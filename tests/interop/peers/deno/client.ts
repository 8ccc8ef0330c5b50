const SEQUENTIAL_ECHOES = 500;
const CONCURRENT_ECHOES = 200;
const UNI_STREAMS = 50;
const DATAGRAMS = 300;
const BIG_BYTES = 5_000_000;

/** A step that takes longer than this has stalled. */
const STALL_MS = 2_000;

const encode = (text: string) => new TextEncoder().encode(text);

/** Plays a scenario; returns the result. */
export async function dial(url: string, hash: string, scenario: string): Promise<unknown> {
  if (scenario === "protocol") return { unsupported: "there is no option for subprotocols" };
  if (scenario === "opened-by-server") return { unsupported: "the end of a stream is not sent" };
  if (scenario === "reset") return { unsupported: "a stream is not reset" };
  const session = new WebTransport(url, {
    serverCertificateHashes: [{ algorithm: "sha-256", value: Uint8Array.fromHex(hash) }],
  });
  if (scenario === "rejected") {
    try {
      await session.ready;
    } catch (error) {
      // The error's text is the only information.
      const status = String(error).match(/Some\((\d+)\)/)?.[1];
      return { status: status === undefined ? null : Number(status), authenticate: null };
    }
    throw new Error("It was accepted");
  }
  await session.ready;
  switch (scenario) {
    case "echo":
      return await echoes(session);
    case "uni":
      return await unidirectional(session);
    case "datagrams":
      return await datagrams(session);
    case "big":
      return await big(session);
    case "closed-by-server": {
      const info = await within(STALL_MS, session.closed.catch((error) => String(error)));
      if (info === undefined) return { unsupported: "a close by the server is not noticed" };
      if (typeof info === "string") return { error: info };
      return { code: info.closeCode ?? 0, reason: info.reason ?? "" };
    }
    case "close":
      session.close({ closeCode: 4010, reason: "grüße" });
      await within(500, session.closed.catch(() => {}));
      return { done: true };
  }
  throw new TypeError(`No such scenario: ${scenario}`);
}

/** Returns the value of a promise, or `undefined` after a timeout. */
async function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  return await Promise.race([
    promise,
    new Promise<undefined>((resolve) => setTimeout(resolve, ms, undefined)),
  ]);
}

/**
 * The reply is complete once it has its expected length, because a peer doesn't see this client's
 * streams end.
 */
async function roundTrip(session: WebTransport, payload: Uint8Array): Promise<Uint8Array> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writer = writable.getWriter();
  const send = async () => {
    await writer.write(payload);
    await writer.close();
  };
  const receive = async () => {
    const answer = new Uint8Array(payload.length);
    let length = 0;
    for await (const chunk of readable) {
      answer.set(chunk, length);
      length += chunk.length;
      if (length === answer.length) break;
    }
    return answer.subarray(0, length);
  };
  // The peer echoes while reading, so this side has to read while writing.
  const [answer] = await Promise.all([receive(), send()]);
  return answer;
}

async function isRight(session: WebTransport, payload: string): Promise<boolean> {
  // The runtime throws if the peer allows no more streams.
  const answering = roundTrip(session, encode(payload)).catch(() => undefined);
  const answer = await within(STALL_MS, answering);
  return answer !== undefined && new TextDecoder().decode(answer) === payload;
}

async function echoes(session: WebTransport): Promise<unknown> {
  let sequential = 0;
  while (sequential < SEQUENTIAL_ECHOES) {
    // After the first stalled stream, all other streams would stall.
    if (!await isRight(session, `sequential ${sequential}`)) return { sequential, concurrent: 0 };
    sequential++;
  }
  const rights = await Promise.all(
    Array.from({ length: CONCURRENT_ECHOES }, (_, n) => isRight(session, `concurrent ${n}`)),
  );
  return { sequential, concurrent: rights.filter((right) => right).length };
}

async function unidirectional(session: WebTransport): Promise<unknown> {
  const missing = new Set(Array.from({ length: UNI_STREAMS }, (_, n) => `one way ${n}`));
  const incoming = session.incomingUnidirectionalStreams.getReader();
  const send = async () => {
    for (const payload of [...missing]) {
      const writer = (await session.createUnidirectionalStream()).getWriter();
      await writer.write(encode(payload));
      await writer.close();
    }
  };
  const receive = async () => {
    while (missing.size > 0) {
      const { value, done } = await incoming.read();
      if (done) return;
      missing.delete(await new Response(value).text());
    }
  };
  await within(STALL_MS, Promise.all([send(), receive()]));
  if (missing.size === UNI_STREAMS) return { unsupported: "the end of a stream is not sent" };
  return { returned: UNI_STREAMS - missing.size };
}

async function datagrams(session: WebTransport): Promise<unknown> {
  const returned = new Set<string>();
  const writer = session.datagrams.writable.getWriter();
  const reader = session.datagrams.readable.getReader();
  for (let n = 0; n < DATAGRAMS; n++) {
    // Datagrams are sent one at a time, because the runtime keeps only one if no read is pending.
    await writer.write(encode(`datagram ${n}`));
    const result = await within(STALL_MS, reader.read());
    if (result?.value === undefined) break;
    returned.add(new TextDecoder().decode(result.value));
  }
  return { returned: returned.size };
}

async function big(session: WebTransport): Promise<unknown> {
  // No two parts of the content are alike, so a lost or duplicated piece is detected.
  const payload = new Uint8Array(Uint32Array.from({ length: BIG_BYTES / 4 }, (_, n) => n).buffer);
  const answer = await within(10 * STALL_MS, roundTrip(session, payload));
  if (answer === undefined) return { bytes: null, same: false };
  const same = answer.every((byte, place) => byte === payload[place]);
  return { bytes: answer.length, same: same && answer.length === payload.length };
}
