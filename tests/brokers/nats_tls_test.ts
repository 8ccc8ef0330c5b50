/** Tests the broker's own transport to NATS over TLS. */
import { assertMatch } from "@std/assert";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import type { NatsServers } from "../../brokers/nats/options.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { Hearing } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { until } from "../waiting.ts";

const { cert, key } = devCertificate({ cacheFolder: null });
const other = devCertificate({ cacheFolder: null });

async function startTls(settings = ""): Promise<NatsServer> {
  const folder = await Deno.makeTempDir({ prefix: "skein-tls-" });
  await Deno.writeTextFile(`${folder}/cert.pem`, cert);
  await Deno.writeTextFile(`${folder}/key.pem`, key);
  const files = `cert_file: "${folder}/cert.pem", key_file: "${folder}/key.pem"`;
  const server = await NatsServer.start({ settings: `tls { ${files} }\n${settings}` });
  await Deno.remove(folder, { recursive: true });
  return server;
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `NatsBroker over TLS ${name}`, ignore: isNatsMissing, fn });
}

/** Publishes a message through the server, and waits until it arrives. */
async function serves(broker: NatsBroker): Promise<void> {
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  broker.publish({ topic: "news", payload: "x".repeat(200_000) });
  await hearing.count(1);
}

const LOGINS: readonly [name: string, hostname: string, tls: NatsServers["tls"]][] = [
  ["a certificate authority as text and a host name", "localhost", { ca: cert }],
  ["a certificate authority as text and an address", "127.0.0.1", { ca: cert }],
];

for (const [name, hostname, tls] of LOGINS) {
  test(`encrypts with ${name}`, async () => {
    await using server = await startTls();
    await using broker = new NatsBroker({ servers: `${hostname}:${server.port}`, tls: tls! });
    await serves(broker);
  });
}

test("reads the certificate authority from a file at each attempt", async () => {
  await using server = await startTls();
  const caFile = await Deno.makeTempFile();
  await Deno.writeTextFile(caFile, other.cert);
  await using broker = new NatsBroker({ servers: server.servers, tls: { caFile } });
  await until(() => /certificate/i.test(broker.issues().join()));
  await Deno.writeTextFile(caFile, cert);
  await serves(broker);
  await Deno.remove(caFile);
});

test("rejects a server with an untrusted certificate, and names the cause", async () => {
  await using server = await startTls();
  await using broker = new NatsBroker({ servers: server.servers });
  await until(() => broker.issues().length > 0);
  assertMatch(broker.issues().join(), /not been reached since the start: .*certificate/i);
});

test("rejects a server without TLS if TLS is required", async () => {
  await using server = await NatsServer.start();
  await using broker = new NatsBroker({ servers: server.servers, tls: { ca: cert } });
  await until(() => /does not support 'tls'/.test(broker.issues().join()));
});

test("supports handshakeFirst with a client certificate, and reconnects", async () => {
  // Debian's servers don't support handshake_first, so a proxy terminates TLS.
  await using server = await startTls("allow_non_tls: true");
  using proxy = new TlsProxy(server.port);
  const tls = { handshakeFirst: true, ca: cert, cert: other.cert, key: other.key };
  await using broker = new NatsBroker({ servers: `localhost:${proxy.port}`, tls });
  await serves(broker);
  proxy.cut();
  await until(() => broker.stats.interruptions > 0);
  await serves(broker);
  await using plain = new NatsBroker({
    servers: `localhost:${proxy.port}`,
    tls: { handshakeFirst: true, ca: cert },
  });
  await serves(plain);
});

/** Terminates TLS in front of a server. */
class TlsProxy implements Disposable {
  readonly #listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, cert, key });
  readonly #target: number;
  readonly #open = new Set<Deno.Conn>();

  constructor(target: number) {
    this.#target = target;
    void this.#accept();
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  cut(): void {
    for (const connection of this.#open) {
      try {
        connection.close();
      } catch (error) {
        // The other side closed first.
        if (!(error instanceof Deno.errors.BadResource)) throw error;
      }
    }
    this.#open.clear();
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    this.cut();
  }

  async #accept(): Promise<void> {
    try {
      for await (const near of this.#listener) {
        const far = await Deno.connect({ hostname: "127.0.0.1", port: this.#target });
        for (const connection of [near, far]) this.#open.add(connection);
        for (const [from, to] of [[near, far], [far, near]] as const) {
          from.readable.pipeTo(to.writable).catch(() => {});
        }
      }
    } catch {
      // The listener was closed.
    }
  }
}
