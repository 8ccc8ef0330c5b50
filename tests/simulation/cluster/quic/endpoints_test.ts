import { assertEquals } from "@std/assert";
import { SimulatedNetwork } from "../../../simulator/network/network.ts";
import { Simulation } from "../../../simulator/simulation.ts";
import { internals } from "../../../../session/core.ts";
import { dialWebTransport } from "../../../../transport/h3/client.ts";
import { listenWebTransport } from "../../../../transport/h3/server.ts";
import { devCertificate } from "../../../../transport/certificate/dev_certificate.ts";
import { simulateQuic } from "./endpoints.ts";

/** Echoes a stream between two hosts and returns the bytes. */
async function runSimulated(): Promise<string> {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation, { delayMs: 5, jitterMs: 5, splitRate: 0.5 });
  using quic = simulateQuic(network[internals].links);
  const [server, client] = [simulation.host("server"), simulation.host("client")];
  const listener = quic.engine(server)({ port: 443 } as never);
  let text = "";
  const serve = async () => {
    for await (const request of listener) {
      for await (const { readable, writable } of request.accept().incomingBidirectionalStreams) {
        await readable.pipeTo(writable);
      }
    }
  };
  const use = async () => {
    const connection = await quic.dialer(client)(new URL("https://server/"), {});
    const { readable, writable } = await connection.createBidirectionalStream();
    const writer = writable.getWriter();
    void writer.write(new TextEncoder().encode("there and back"));
    void writer.close();
    text = await new Response(readable).text();
    connection.close();
    await connection.closed;
    await listener.close();
  };
  const over = Promise.all([serve(), use()]);
  await simulation.run(10_000);
  await over;
  return text;
}

Deno.test("simulateQuic() carries HTTP/3 between hosts", async () => {
  assertEquals(await runSimulated(), "there and back");
});

Deno.test("simulateQuic() restores the runtime's sockets", async () => {
  await runSimulated();
  const certificate = devCertificate({ cacheFolder: null });
  await using listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
  const accepting = (async () => {
    for await (const request of listener) return request.accept();
    throw new TypeError("expected a request");
  })();
  await using connection = await dialWebTransport(
    `https://127.0.0.1:${listener.address.port}/`,
    { serverCertificateHashes: certificate.hashes },
  );
  assertEquals(connection.transport, "webtransport");
  await (await accepting)[Symbol.asyncDispose]();
  assertEquals(await runSimulated(), "there and back");
});
