/**
 * Tests `examples/streams.ts --port`, the server that other measurements and tests use.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { dial } from "../mod.ts";
import type { CertificateHash } from "../client.ts";
import { dialWebTransport, directDatagrams, directStream } from "../transport/mod.ts";
import { soon } from "./waiting.ts";

/** Runs the example in its own process. */
class Echo implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  port = 0;

  constructor() {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-N",
        "--unstable-net",
        new URL("../examples/streams.ts", import.meta.url).href,
        "--port",
        "0",
      ],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
  }

  /** Waits until the example listens. */
  async ready(): Promise<void> {
    const lines = this.#child.stderr.pipeThrough(new TextDecoderStream());
    let text = "";
    for await (const part of lines) {
      text += part;
      this.port = Number(/WebTransport on https:\/\/127\.0\.0\.1:(\d+)\//.exec(text)?.[1] ?? 0);
      if (this.port !== 0) break;
    }
    assert(this.port !== 0, text);
  }

  async hashes(): Promise<CertificateHash[]> {
    const url = `http://127.0.0.1:${this.port}/.well-known/skein/webtransport`;
    const { serverCertificateHashes } = await (await fetch(url)).json();
    return serverCertificateHashes.map(({ value }: { value: string }) => ({
      algorithm: "sha-256",
      value: Uint8Array.fromBase64(value),
    }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#child.status;
  }
}

Deno.test("examples/streams.ts --port echoes streams and datagrams on every kind of session", async () => {
  await using echo = new Echo();
  await soon(echo.ready());
  const serverCertificateHashes = await echo.hashes();
  const url = `https://127.0.0.1:${echo.port}/echo`;
  await using session = await dial(`ws://127.0.0.1:${echo.port}/echo`, {
    transports: ["webtransport"],
  });
  await using raw = await dialWebTransport(url, { serverCertificateHashes });
  assertEquals([session.transport, raw.protocol], ["webtransport", ""]);
  for (const connection of [raw, session.connection]) {
    // A failed session does not end another.
    const broken = directStream(await connection.createBidirectionalStream());
    await broken.write(new Uint8Array(10));
    broken.cancel();
    broken.abort();
    const oneWay = (await connection.createUnidirectionalStream()).getWriter();
    await oneWay.write(new Uint8Array(4_000_000));
    await oneWay.close();
    await Promise.all([1, 1_000, 300_000].map(async (size) => {
      const stream = directStream(await connection.createBidirectionalStream());
      const writing = stream.write(new Uint8Array(size).fill(7)).then(() => stream.close());
      let count = 0;
      for (let bytes; (bytes = await soon(stream.read())) !== null;) count += bytes.length;
      await writing;
      assertEquals(count, size);
    }));
    const datagrams = directDatagrams(connection.datagrams);
    const { promise, resolve } = Promise.withResolvers<Uint8Array>();
    datagrams.receive(resolve);
    datagrams.send(Uint8Array.of(1, 2, 3));
    assertEquals(await soon(promise), Uint8Array.of(1, 2, 3));
  }
  assertEquals(await session.request("sum", [1, 2]), [1, 2]);
});
