/**
 * Tests the endpoint of the QUIC interop runner. A case runs two processes as in the runner, but
 * without containers: each process has its own environment, folders and exit code. The peer is a
 * second process of this endpoint, or the endpoint of webtransport-go.
 */
import { assert, assertEquals } from "@std/assert";
import { devCertificate } from "../../../transport/certificate/dev_certificate.ts";
import { lowPort } from "../../networks/ports.ts";
import { buildEndpoints, builtPeers, Peer } from "../peers.ts";

const SCRIPT = new URL("./run_endpoint.sh", import.meta.url).pathname;

const KB = 1_024;

/** Sizes of the files, in bytes: the runner's, with every fifth of its 200 small files. */
const SIZES = {
  stream: [100 * KB, 500 * KB, 250 * KB, 1_024 * KB, 2_048 * KB],
  datagram: Array.from({ length: 40 }, (_, n) => 600 + 10 * n),
};

const CARRIERS = ["unidirectional", "bidirectional", "datagram"] as const;

type Case = "handshake" | `transfer-${typeof CARRIERS[number]}-${"receive" | "send"}`;

const CASES: readonly Case[] = [
  "handshake",
  ...CARRIERS.flatMap((carrier) =>
    [`transfer-${carrier}-receive`, `transfer-${carrier}-send`] as const
  ),
];

type Role = "client" | "server";

/** The end that saves files: a case is named after the client's role. */
function fetcherOf(testcase: Case): Role {
  return testcase.endsWith("-send") ? "server" : "client";
}

/**
 * The folders of one case, as the runner mounts them, with the environment variables that name
 * them.
 */
class Stage implements AsyncDisposable {
  readonly #root: string;
  readonly #case: Case;
  readonly #endpoints: readonly string[];
  readonly #port: number;

  private constructor(root: string, testcase: Case, endpoints: readonly string[], port: number) {
    this.#root = root;
    this.#case = testcase;
    this.#endpoints = endpoints;
    this.#port = port;
  }

  /** Creates the folders, a certificate and the files. */
  static async create(
    testcase: Case,
    endpoints: readonly string[] = ["calm-otter"],
  ): Promise<Stage> {
    const stage = new Stage(await Deno.makeTempDir(), testcase, endpoints, lowPort());
    for (const folder of ["www", "downloads", "logs"]) {
      for (const role of ["client", "server"] as const) {
        await Deno.mkdir(stage.#path(role, folder), { recursive: true });
      }
    }
    await Deno.mkdir(stage.#certs);
    const { cert, key } = devCertificate({ cacheFolder: null });
    // A self-signed certificate is its own certificate authority.
    await Deno.writeTextFile(`${stage.#certs}/ca.pem`, cert);
    await Deno.writeTextFile(`${stage.#certs}/cert.pem`, cert);
    await Deno.writeTextFile(`${stage.#certs}/priv.key`, key);
    for (const endpoint of endpoints) {
      await Deno.mkdir(stage.#path("server", `www/${endpoint}`));
      if (testcase === "handshake") continue;
      const folder = stage.#path(stage.#sender, `www/${endpoint}`);
      await Deno.mkdir(folder, { recursive: true });
      for (const size of stage.#sizes) {
        const content = Uint8Array.from({ length: size }, (_, n) => n * size >> 7);
        await Deno.writeFile(`${folder}/file-${size}`, content);
      }
    }
    return stage;
  }

  /** The end that exits first, once all files are there. */
  get first(): Role {
    return fetcherOf(this.#case);
  }

  /** The environment of one end. */
  env(role: Role): Record<string, string> {
    const isFetcher = fetcherOf(this.#case) === role;
    const files = this.#endpoints.flatMap((endpoint) =>
      this.#sizes.map((size) => `${endpoint}/file-${size}`)
    );
    const paths = role === "client" ? this.#endpoints : [];
    const wanted = isFetcher && files.length > 0 ? files : paths;
    const origin = role === "client" ? `https://127.0.0.1:${this.#port}/` : "";
    return {
      ROLE: role,
      TESTCASE: isFetcher || this.#case === "handshake" ? this.#case : "transfer",
      REQUESTS: wanted.map((path) => `${origin}${path}`).join(" "),
      // Two protocols are common; the client's order decides.
      PROTOCOLS: role === "client" ? "red one two blue" : "green two one white",
      SSLKEYLOGFILE: this.#path(role, "logs/keys.log"),
      WWW: this.#path(role, "www"),
      DOWNLOADS: this.#path(role, "downloads"),
      CERTS: this.#certs,
      LOGS: this.#path(role, "logs"),
      PORT: `${this.#port}`,
      ADDRESS: `127.0.0.1:${this.#port}`,
      DENO: Deno.execPath(),
    };
  }

  /** Makes the same checks as the runner. */
  async check(): Promise<void> {
    // A server on the runtime's QUIC logs no keys; the runner accepts the client's keys as well.
    const keys = await Deno.readTextFile(this.#path("client", "logs/keys.log"));
    const handshakes = keys.split("\n").filter((line) => line.startsWith("SERVER_HANDSHAKE_"));
    assertEquals(handshakes.length, 1);
    if (this.#case === "handshake") {
      for (const role of ["client", "server"] as const) {
        const path = this.#path(role, "downloads/negotiated_protocol.txt");
        assertEquals(await Deno.readTextFile(path), "one");
      }
      return;
    }
    for (const endpoint of this.#endpoints) {
      const sent = this.#path(this.#sender, `www/${endpoint}`);
      const saved = this.#path(fetcherOf(this.#case), `downloads/${endpoint}`);
      assertEquals((await Array.fromAsync(Deno.readDir(saved))).length, this.#sizes.length);
      for (const size of this.#sizes) {
        const [original, copy] = await Promise.all(
          [sent, saved].map((folder) => Deno.readFile(`${folder}/file-${size}`)),
        );
        assertEquals(copy!.length, size);
        assert(original!.every((byte, n) => byte === copy![n]), `file-${size} differs`);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.#root, { recursive: true });
  }

  get #certs(): string {
    return `${this.#root}/certs`;
  }

  get #sender(): Role {
    return fetcherOf(this.#case) === "client" ? "server" : "client";
  }

  get #sizes(): readonly number[] {
    if (this.#case === "handshake") return [];
    return this.#case.includes("datagram") ? SIZES.datagram : SIZES.stream;
  }

  #path(role: Role, path: string): string {
    return `${this.#root}/${role}/${path}`;
  }
}

/** Our endpoint, started as in the container. */
const OURS = new Peer("Skein", Deno.version.deno, [SCRIPT]);

/** A running endpoint. */
class End {
  readonly #child: Deno.ChildProcess;
  readonly #speaking = Promise.withResolvers<void>();
  readonly #output: Promise<string>;

  constructor(peer: Peer, env: Record<string, string>) {
    this.#child = peer.start([], env);
    this.#output = this.#read();
  }

  /**
   * Resolves with the first line, which a server prints when it listens, or at the end of the
   * output.
   */
  get speaking(): Promise<void> {
    return this.#speaking.promise;
  }

  /** Waits for the exit; throws the output if the exit code is not the expected one. */
  async ended(expected: number): Promise<void> {
    const output = await this.#output;
    assertEquals((await this.#child.status).code, expected, output);
  }

  async terminate(): Promise<void> {
    try {
      this.#child.kill("SIGTERM");
    } catch {
      // The process has already ended.
    }
    await this.#output;
    await this.#child.status;
  }

  async #read(): Promise<string> {
    const { stdout, stderr } = this.#child;
    const printed = new Response(stdout).text();
    let text = "";
    for await (const chunk of stderr.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      this.#speaking.resolve();
    }
    this.#speaking.resolve();
    return text + await printed;
  }
}

async function play(stage: Stage, peers: Readonly<Record<Role, Peer>>): Promise<void> {
  const server = new End(peers.server, stage.env("server"));
  await server.speaking;
  const ends = { server, client: new End(peers.client, stage.env("client")) };
  const { first } = stage;
  const second = first === "client" ? "server" : "client";
  try {
    await ends[first].ended(0);
    // A foreign process may exit before its last packets are sent; ours closes properly.
    if (peers[first] === OURS) await ends[second].ended(0);
  } finally {
    await Promise.all([ends[first].terminate(), ends[second].terminate()]);
  }
  await stage.check();
}

function testPair(title: string, peers: Readonly<Record<Role, Peer>>): void {
  for (const testcase of CASES) {
    Deno.test(`${title}: ${testcase}`, async () => {
      await using stage = await Stage.create(testcase);
      await play(stage, peers);
    });
  }
}

testPair("our client with our server", { client: OURS, server: OURS });

Deno.test("our client opens the sessions of several endpoints on one connection", async () => {
  await using stage = await Stage.create("transfer-unidirectional-receive", ["one", "two"]);
  await play(stage, { client: OURS, server: OURS });
});

for (const role of ["client", "server"] as const) {
  Deno.test(`our ${role} exits with 127 if the test case is unknown`, async () => {
    await using stage = await Stage.create("handshake");
    await new End(OURS, { ...stage.env(role), TESTCASE: "calm-otter" }).ended(127);
  });
}

Deno.test("our endpoints exit with 1 if a file is missing", async () => {
  await using stage = await Stage.create("transfer-unidirectional-receive");
  const env = stage.env("client");
  const server = new End(OURS, stage.env("server"));
  await server.speaking;
  const client = new End(OURS, { ...env, REQUESTS: `${env.REQUESTS}-missing` });
  await Promise.all([server.ended(1), client.ended(1)]);
});

Deno.test("the image of our endpoint includes every module that the endpoint loads", async () => {
  const root = new URL("../../../", import.meta.url);
  const dockerfile = await Deno.readTextFile(new URL("./Dockerfile", import.meta.url));
  const copied = [...dockerfile.matchAll(/^COPY (?!--)(\S+) /gm)].map(([, path]) => path!);
  const args = ["info", "--json", "--no-lock", new URL("./endpoint.ts", import.meta.url).href];
  const { stdout } = await new Deno.Command(Deno.execPath(), { args, cwd: root }).output();
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as {
    modules: readonly { readonly specifier: string }[];
  };
  const missing = modules
    .map(({ specifier }) => specifier.replace(root.href, ""))
    .filter((path) => !path.startsWith("node:"))
    .filter((path) => !copied.some((from) => path === from || path.startsWith(`${from}/`)));
  assertEquals(missing, []);
});

for (const peer of builtPeers(await buildEndpoints("client"))) {
  testPair(`our server with the client of the ${peer.name}`, { client: peer, server: OURS });
}

for (const peer of builtPeers(await buildEndpoints("server"))) {
  testPair(`our client with the server of the ${peer.name}`, { client: OURS, server: peer });
}
