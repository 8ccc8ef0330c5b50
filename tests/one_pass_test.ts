/** Tests that the server does the work of one event once. */
import { assertEquals } from "@std/assert";
import { z } from "zod";
import { defineContract, MemoryBroker } from "../mod.ts";
import { workOf } from "./call_counts.ts";
import { listen, portOf, RawSocket } from "./servers.ts";

/** A client without code of the library, so that all counted work is the server's. */
class Wire implements Disposable {
  readonly #socket: RawSocket;
  #unread: string[] = [];

  private constructor(socket: RawSocket) {
    this.#socket = socket;
  }

  static async open(port: number): Promise<Wire> {
    const wire = new Wire(await RawSocket.open(port, { protocol: "skein.1" }));
    await wire.until('{"hello":');
    return wire;
  }

  async say(text: string): Promise<void> {
    await this.#socket.frame(text);
  }

  /** Reads until an envelope arrives that contains a text. */
  async until(part: string): Promise<string> {
    while (true) {
      while (this.#unread.length > 0) {
        const text = this.#unread.shift()!;
        if (text.includes(part)) return text;
      }
      const frame = await this.#socket.read();
      this.#unread = new TextDecoder().decode(frame!.payload).split("\n");
    }
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}

Deno.test("Server names, measures and encodes a state's row once when a client writes it", async () => {
  const contract = defineContract({
    state: { "board:{id}": { cards: z.object({ title: z.string() }) } },
  });
  await using server = listen({
    webTransport: false,
    broker: new MemoryBroker(),
    contract,
    durableStreams: { path: "/streams" },
    authorize: () => true,
    authorizeChange: () => true,
  });
  await using _state = await server.state("board:1");
  using writer = await Wire.open(portOf(server));
  using reader = await Wire.open(portOf(server));
  for (const wire of [writer, reader]) {
    await wire.say('{"subscribe":"stream:board:1","id":1}');
    await wire.until('{"reply":1,"data"');
  }
  const write = async (id: number, txid: string, title: string) => {
    await writer.say(
      `{"publish":"stream:board:1","id":${id},"data":{"writes":[[{"type":"cards","key":"first","value":{"title":"${title}"},"headers":{"operation":"upsert","txid":"${txid}"}}]]}}`,
    );
    await writer.until(`{"reply":${id},"data":{"results":[{"version"`);
    await reader.until(txid);
  };
  await write(2, "tx-1", "warm-up");
  const work = await workOf(() => write(3, "tx-2", "a title"));
  assertEquals(
    {
      names: work.calls("rowName"),
      encodedNames: work.encodings('["cards","first"]'),
      encodedRows: work.encodings('{"title":"a title"}'),
      measuredNames: work.measurements('["cards","first"]'),
      // The row, and the frame to the readers.
      measuredRows: work.measurements('{"title":"a title"}'),
    },
    { names: 1, encodedNames: 1, encodedRows: 1, measuredNames: 1, measuredRows: 2 },
  );
});
