import { assert, assertEquals } from "@std/assert";
import { TestPair } from "../../tests/peers/qmux_wire.ts";
import { Random } from "../../tests/random.ts";
import { StreamError } from "../../errors.ts";
import type { DirectReadable } from "../connection.ts";
import { directStream } from "../direct.ts";
import { MAX_BUFFERED_BYTES } from "./record_scheduler.ts";
import { MAX_RECORD_BYTES } from "./qmux.ts";
import { turns } from "../../tests/waiting.ts";

const SCHEDULES = 1_000;

/** The number of bytes that the reader grants ahead of the bytes that it has read. */
const GRANT_BYTES = 65_536;

/** The maximum number of bytes in flight in one direction: the limit plus one record. */
const MAX_WIRE_BYTES = MAX_BUFFERED_BYTES + MAX_RECORD_BYTES;

/** The number of steps without progress after which a schedule counts as stalled. */
const PATIENCE_STEPS = 5_000;

/** A sender, a reader that grants credit explicitly, and a random network between them. */
class Schedule {
  readonly #random: Random;
  readonly #pair: TestPair;
  readonly #turns: (() => void)[] = [];
  #readBytes = 0;
  #endedStreams = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
    const window = this.#random.pick([500, 5_000, 65_536, 262_144]);
    this.#pair = new TestPair({}, {
      server: {
        flowControl: {
          maxData: this.#random.pick([0, 1, 1_000, GRANT_BYTES]),
          maxStreamData: window,
          maxStreamsUni: 1 + this.#random.below(4),
          automatic: false,
        },
      },
    });
  }

  /** Runs until all streams have ended, or until there is no more progress. */
  async run(): Promise<void> {
    using pair = this.#pair;
    const { client, server } = pair;
    const random = this.#random;
    const streams = 1 + random.below(6);
    const writing = Array.from({ length: streams }, (_, at) => this.#write(at));
    const reading = this.#accept();
    let isDone = false;
    const all = Promise.all(writing).then(() => isDone = true);
    let before = -1;
    for (let idle = 0; !isDone || this.#endedStreams < streams; idle++) {
      for (let i = random.below(4); i > 0; i--) await Promise.resolve();
      // Records are sent at the end of a turn of the event loop.
      if (random.below(8) === 0) await turns(1);
      this.#step();
      this.#check();
      const progress = this.#readBytes + this.#endedStreams + client.qmux.ledger.streamBytesSent;
      if (progress !== before) idle = 0;
      before = progress;
      assert(idle < PATIENCE_STEPS, `nothing moves: ${this.#endedStreams} of ${streams} ended`);
    }
    await all;
    await pair.settle();
    this.#check();
    server.qmux.end(new Error("The schedule is over"), false);
    await reading;
    assertEquals(client.link.faults, []);
    assertEquals(server.link.faults, []);
    assert(client.link.mostBytes <= MAX_WIRE_BYTES && server.link.mostBytes <= MAX_WIRE_BYTES);
  }

  #step(): void {
    const random = this.#random;
    const { client, server } = this.#pair;
    switch (random.below(6)) {
      case 0:
      case 1: {
        const record = client.link.take();
        return record && server.qmux.receive(record);
      }
      case 2: {
        const record = server.link.take();
        return record && client.qmux.receive(record);
      }
      case 3:
        return this.#grant();
      case 4: {
        const { received } = server.qmux.credit.state("unidirectional");
        const ended = Math.min(received, this.#endedStreams);
        server.qmux.credit.grant("unidirectional", ended + 1 + random.below(3));
        return;
      }
      default:
        this.#turns.splice(random.below(this.#turns.length), 1)[0]?.();
    }
  }

  #check(): void {
    const { client, server } = this.#pair;
    const { granted, received } = server.qmux.credit.state("data");
    assert(received <= granted, "received more than was granted");
    assert(client.qmux.credit.state("data").sent <= granted, "sent more than was granted");
    const { heldBytes } = server.qmux;
    assert(heldBytes <= GRANT_BYTES, `${heldBytes} bytes are held unread`);
    assertEquals(client.qmux.heldBytes, 0);
  }

  /** Grants a fixed number of bytes ahead of the bytes that were read or abandoned. */
  #grant(): void {
    const { qmux } = this.#pair.server;
    const { received } = qmux.credit.state("data");
    qmux.credit.grant("data", received - qmux.heldBytes + GRANT_BYTES);
  }

  /** Waits until the schedule continues. */
  #turn(): Promise<void> {
    return new Promise((resolve) => this.#turns.push(resolve));
  }

  async #write(at: number): Promise<void> {
    const random = this.#random;
    const sendOrder = random.below(3);
    const near = directStream(
      await this.#pair.client.qmux.createUnidirectionalStream({ sendOrder }),
    );
    const size = random.bits(17);
    // The name is sent first, because streams arrive in the order in which they were opened, but
    // end in any order.
    await near.write(Uint8Array.of(at));
    const isCut = random.below(8) === 0;
    for (let sent = 0; sent < size;) {
      const chunk = new Uint8Array(Math.min(size - sent, 1 + random.bits(17)));
      for (let i = 0; i < chunk.length; i++) chunk[i] = sent + i + at;
      sent += chunk.length;
      if (random.below(2) === 0) await this.#turn();
      try {
        await near.write(chunk);
      } catch (error) {
        assert(error instanceof StreamError && error.streamErrorCode === 9, `${error}`);
        return;
      }
    }
    if (isCut) near.abort({ streamErrorCode: 7 });
    else await near.close().catch(() => {});
  }

  async #accept(): Promise<void> {
    const reads: Promise<void>[] = [];
    for await (const incoming of this.#pair.server.qmux.incomingUnidirectionalStreams) {
      reads.push(this.#read(directStream(incoming)));
    }
    await Promise.all(reads);
  }

  async #read(far: DirectReadable): Promise<void> {
    const random = this.#random;
    const cancelAfter = random.below(8) === 0 ? random.bits(16) : Infinity;
    let count = 0;
    let name: number | undefined;
    try {
      while (count < cancelAfter) {
        if (random.below(2) === 0) await this.#turn();
        const chunk = await far.read();
        if (chunk === null) return;
        this.#readBytes += chunk.byteLength;
        const start = name === undefined ? 1 : 0;
        name ??= chunk[0]!;
        for (let i = start; i < chunk.length; i++) {
          const expected = count + i - 1 + name & 255;
          if (chunk[i] !== expected) assertEquals(chunk[i], expected, `byte ${count + i}`);
        }
        count += chunk.byteLength;
      }
      far.cancel({ streamErrorCode: 9 });
    } catch (error) {
      assert(error instanceof StreamError && error.streamErrorCode === 7, `${error}`);
    } finally {
      this.#endedStreams++;
    }
  }
}

Deno.test(`Qmux neither exceeds its credit nor stalls, over ${SCHEDULES} schedules`, async () => {
  for (let seed = 1; seed <= SCHEDULES; seed++) {
    try {
      await new Schedule(seed).run();
    } catch (cause) {
      throw new Error(`Schedule ${seed} failed`, { cause });
    }
  }
});
