/**
 * Compares the model of NATS with the installed server: the same operations must get the same
 * replies.
 */
import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async/delay";
import { SimulatedNetwork, type SimulatedSocket, Simulation } from "../simulator/mod.ts";
import { SimulatedNats } from "../simulator/nats/nats.ts";
import {
  comparable,
  type Heard,
  type Operation,
  Operations,
  patiently,
  Probe,
  TcpWire,
  type Wire,
} from "./nats_operations.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";

const OPERATIONS = 500;

interface Target {
  run(operation: Operation): Promise<readonly (Heard | string)[]>;
}

async function installed(server: NatsServer, stack: AsyncDisposableStack): Promise<Target> {
  const wire = stack.use(await TcpWire.open(server.port));
  const probe = new Probe(wire);
  await patiently(probe.greet());
  return { run: (operation) => patiently(probe.run(operation)) };
}

/** The model, whose virtual time passes while an operation waits. */
async function modeled(): Promise<Target> {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  const [store, client] = [simulation.host("nats"), simulation.host("client")];
  new SimulatedNats(simulation, network, [store]);
  let socket: SimulatedSocket | undefined;
  void network.connectSocket(client, store, 4_222).then((opened) => socket = opened);
  await simulation.run(1_000);
  const wire: Wire = {
    send: (bytes) => socket!.send(bytes, bytes.length),
    onBytes: undefined,
  };
  socket!.onMessage = (bytes) => wire.onBytes?.(bytes as Uint8Array);
  const probe = new Probe(wire);
  const outcome = async <T>(promise: Promise<T>): Promise<T> => {
    let isOver = false;
    const ended = promise.finally(() => isOver = true);
    for (let i = 0; !isOver && i < 100; i++) await simulation.run(20);
    probe.giveUp();
    for (let i = 0; !isOver && i < 100; i++) await simulation.run(20);
    if (!isOver) throw new Error("The model did not reply");
    return await ended;
  };
  await outcome(probe.greet());
  return { run: (operation) => outcome(probe.run(operation)) };
}

for (const seed of [1, 2, 3]) {
  Deno.test({
    name: `SimulatedNats replies to the operations of seed ${seed} like the installed server`,
    ignore: isNatsMissing,
    async fn() {
      await using server = await NatsServer.start();
      await using stack = new AsyncDisposableStack();
      const [real, model] = [await installed(server, stack), await modeled()];
      const [drawn, twin] = [new Operations(seed), new Operations(seed)];
      const names = new Map<string, string>();
      for (let i = 0; i < OPERATIONS; i++) {
        const [operation, again] = [drawn.next(), twin.next()];
        const what = `Operation ${i}: ${JSON.stringify(operation)}`;
        const received = await model.run(again);
        // If the server replies anyway, the reply is received with the next operation.
        const isUnanswered = !received.some((one) =>
          typeof one !== "string" && one.sid === "answers"
        );
        const expected = await real.run({ ...operation, isUnanswered }).catch((cause) => {
          throw new Error(what, { cause });
        });
        drawn.heard(operation, expected);
        twin.heard(again, received);
        learn(names, expected, received);
        assertEquals(
          received.map((answer) => comparable(answer, new Map())),
          expected.map((answer) => comparable(answer, names)),
          what,
        );
      }
    },
  });
}

Deno.test({
  name: "SimulatedNats expires old messages and ids like the installed server",
  ignore: isNatsMissing,
  async fn() {
    await using server = await NatsServer.start();
    await using stack = new AsyncDisposableStack();
    const real = await installed(server, stack);
    const model = await modeled();
    const config = {
      name: "short",
      subjects: ["short.>"],
      max_age: 200e6,
      duplicate_window: 200e6,
    };
    const info = { subject: "$JS.API.STREAM.INFO.short" };
    const put = { subject: "short.x", body: "x", headers: "NATS/1.0\r\nNats-Msg-Id: a\r\n\r\n" };
    for (const { run } of [real, model]) {
      await run({ subject: "$JS.API.STREAM.CREATE.short", body: JSON.stringify(config) });
      const first = await run(put);
      assertEquals(body(first), { stream: "short", seq: 1 });
      for (;;) {
        const [heard] = await run(info);
        assert(typeof heard === "object");
        if (JSON.parse(heard.body).state.messages === 0) break;
        await delay(20);
      }
      let again: unknown;
      // The server expires ids on a separate timer, a little later than messages.
      for (let tries = 0; tries < 100; tries++) {
        again = body(await run({ ...put }));
        if (!(again as { readonly duplicate?: boolean }).duplicate) break;
        await delay(20);
      }
      assertEquals(again, { stream: "short", seq: 2 });
    }
  },
});

/** Maps consumer names on one server to their names on the other. */
function learn(
  names: Map<string, string>,
  expected: readonly (Heard | string)[],
  received: readonly (Heard | string)[],
): void {
  for (const [i, one] of expected.entries()) {
    const other = received[i];
    if (typeof one === "string" || typeof other !== "object") continue;
    if (!one.body.startsWith("{") || !other.body.startsWith("{")) continue;
    const [left, right] = [JSON.parse(one.body), JSON.parse(other.body)];
    if (left.type?.includes("consumer_create") && left.name && right.name) {
      names.set(left.name, right.name);
    }
  }
}

function body(heard: readonly (Heard | string)[]): unknown {
  const answer = heard.find((one) => typeof one === "object" && one.sid === "answers");
  return JSON.parse((answer as Heard).body);
}
