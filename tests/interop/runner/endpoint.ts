/**
 * An endpoint of the QUIC interop runner in its WebTransport mode: a client or a server that plays
 * one test case and exits. Environment variables select the case.
 *
 * | variable                             | meaning                                                      |
 * | ------------------------------------ | ------------------------------------------------------------ |
 * | `ROLE`                               | `client` or `server`                                         |
 * | `TESTCASE`                           | the test case; for an unknown one, the exit code is 127      |
 * | `REQUESTS`                           | URLs for a client, `endpoint/file` for a server              |
 * | `PROTOCOLS`                          | application protocols, in order of preference                |
 * | `WWW`, `DOWNLOADS`, `CERTS`, `LOGS`  | folders; by default those of the container, such as `/www`   |
 * | `PORT`                               | port of a server: 443 by default; 0 selects a free port      |
 *
 * The exit code is 0 on success and 1 on a failure. A client trusts the certificate authorities
 * given to the runtime (`deno run --cert`).
 *
 * @see {@link https://github.com/quic-interop/quic-interop-runner/blob/master/webtransport.md}
 *
 * @module
 */
import { listenWebTransport } from "../../../transport/mod.ts";
import { WebTransport } from "../../../transport/w3c/mod.ts";
import {
  type Carrier,
  fetchFiles,
  FileFolder,
  serveFiles,
  type TransferSession,
} from "./transfer.ts";

/** Exit code for a test case that is not supported. */
const UNSUPPORTED = 127;

/** Exit code of a program that SIGTERM stopped. */
const TERMINATED = 143;

/** Time for the last packets of a settled session, in milliseconds. */
const FAREWELL_MS = 20;

type Environment = Readonly<Record<string, string | undefined>>;

/** The role on a connection. */
type Role = "client" | "server";

/**
 * A test case as one end sees it: saving the protocol, replying to requests, or fetching files.
 */
type Task = "handshake" | "transfer" | Carrier;

/** A session with the path of its request. */
interface EndpointSession {
  readonly endpoint: string;
  readonly session: TransferSession & {
    readonly protocol: string;
    readonly closed: Promise<unknown>;
    close(): void;
  };
}

/** Folders and lists from the environment. */
class Settings {
  /** Files to fetch, by endpoint. */
  readonly requests: ReadonlyMap<string, readonly string[]>;
  /** Host and port of a client's requests. */
  readonly origin: string;
  /** Application protocols in order of preference. */
  readonly protocols: readonly string[];
  readonly #env: Environment;

  constructor(env: Environment) {
    this.#env = env;
    const words = (name: string) => (env[name] ?? "").split(" ").filter((word) => word !== "");
    const requests = new Map<string, string[]>();
    let origin = "";
    for (const request of words("REQUESTS")) {
      const url = new URL(request, "https://server/");
      const [endpoint = "", ...file] = url.pathname.slice(1).split("/");
      const files = requests.get(endpoint) ?? [];
      requests.set(endpoint, files);
      const name = file.join("/");
      if (name !== "") files.push(name);
      origin = url.origin;
    }
    this.requests = requests;
    this.origin = origin;
    this.protocols = words("PROTOCOLS");
  }

  /** Port that a server listens on. */
  get port(): number {
    return Number(this.#env.PORT ?? 443);
  }

  /** The path of a folder, or of a file in it. */
  path(folder: "www" | "downloads" | "certs" | "logs", file = ""): string {
    return `${this.#env[folder.toUpperCase()] || `/${folder}`}${file && `/${file}`}`;
  }
}

function taskOf(role: string | undefined, testcase = ""): Task | undefined {
  if (testcase === "handshake" || testcase === "transfer") return testcase;
  const [, carrier, direction] =
    /^transfer-(bidirectional|unidirectional|datagram)-(receive|send)$/.exec(testcase) ?? [];
  // The end that fetches plays the case itself; the other side plays "transfer".
  return direction === (role === "client" ? "receive" : "send") ? carrier as Carrier : undefined;
}

/** Plays a test case on one session. */
class Player {
  readonly #settings: Settings;
  readonly #task: Task;
  readonly #log: (text: string) => void;

  constructor(settings: Settings, task: Task, log: (text: string) => void) {
    this.#settings = settings;
    this.#task = task;
    this.#log = log;
  }

  /** Saves the negotiated protocol, if that is the task. */
  async saveProtocol(protocol: string): Promise<void> {
    if (this.#task !== "handshake") return;
    const path = this.#settings.path("downloads", "negotiated_protocol.txt");
    await Deno.writeTextFile(path, protocol);
  }

  /** Plays the rest. A client closes a handshake's session, and a server waits for that. */
  async play({ endpoint, session }: EndpointSession, role: Role): Promise<void> {
    try {
      if (this.#task === "transfer") {
        await serveFiles(session, new FileFolder(this.#settings.path("www", endpoint)));
      } else if (this.#task !== "handshake") {
        const names = this.#settings.requests.get(endpoint) ?? [];
        const into = new FileFolder(this.#settings.path("downloads", endpoint));
        await fetchFiles(session, this.#task, { names, into });
        this.#log(`Fetched ${names.length} files of ${endpoint}`);
      } else if (role === "server") {
        await session.closed.catch(() => {});
      }
    } finally {
      session.close();
      // The task is complete: a broken connection is harmless now.
      await session.closed.catch((error) => this.#log(`The session was lost: ${error}`));
    }
  }
}

/** Opens all sessions on one connection. */
async function runClient(settings: Settings, player: Player): Promise<void> {
  const { origin, protocols } = settings;
  if (origin === "") throw new TypeError("Cannot connect: REQUESTS must name an endpoint");
  await Promise.all([...settings.requests.keys()].map(async (endpoint) => {
    const session = new WebTransport(`${origin}/${endpoint}`, { protocols, allowPooling: true });
    await session.ready;
    await player.saveProtocol(session.protocol);
    await player.play({ endpoint, session }, "client");
  }));
}

/** Accepts one session for each folder of files, and exits after the last session. */
async function runServer(
  settings: Settings,
  player: Player,
  log: (text: string) => void,
): Promise<void> {
  const folders = (await Array.fromAsync(Deno.readDir(settings.path("www"))))
    .filter(({ isDirectory }) => isDirectory);
  const expected = new Set(folders.map(({ name }) => name));
  const cert = await Deno.readTextFile(settings.path("certs", "cert.pem"));
  const key = await Deno.readTextFile(settings.path("certs", "priv.key"));
  await using listener = listenWebTransport({ port: settings.port, cert, key });
  log(`Listening on port ${listener.address.port}`);
  const playing: Promise<void>[] = [];
  for await (const request of listener) {
    const endpoint = new URL(request.url).pathname.slice(1).replace(/\/$/, "");
    if (!expected.delete(endpoint)) {
      request.reject(404);
      continue;
    }
    log(`A session on ${endpoint}`);
    const protocol = request.protocols.find((name) => settings.protocols.includes(name)) ?? "";
    // The client may finish the test right after the first reply.
    await player.saveProtocol(protocol);
    const played = player.play({ endpoint, session: request.accept({ protocol }) }, "server");
    played.catch(() => listener.stop());
    playing.push(played);
    if (expected.size === 0) break;
  }
  await Promise.all(playing);
}

/**
 * Plays the test case that the environment selects.
 *
 * @param env See the variables of this module.
 * @returns The exit code.
 */
async function runEndpoint(env: Environment): Promise<number> {
  const { ROLE: role, TESTCASE: testcase } = env;
  const task = taskOf(role, testcase);
  if (task === undefined) {
    console.error(`Not supported: ${testcase} as ${role}`);
    return UNSUPPORTED;
  }
  const settings = new Settings(env);
  await Deno.mkdir(settings.path("logs"), { recursive: true });
  const log = (text: string) => {
    console.error(text);
    const line = `${new Date().toISOString()} ${text}\n`;
    Deno.writeTextFileSync(settings.path("logs", "log.txt"), line, { append: true });
  };
  try {
    const player = new Player(settings, task, log);
    await (role === "client" ? runClient(settings, player) : runServer(settings, player, log));
    return 0;
  } catch (error) {
    log(`Failed: ${error}`);
    return 1;
  }
}

if (import.meta.main) {
  // The first process of a container ignores SIGTERM unless it has a handler.
  Deno.addSignalListener("SIGTERM", () => Deno.exit(TERMINATED));
  const code = await runEndpoint(Deno.env.toObject());
  setTimeout(() => Deno.exit(code), FAREWELL_MS);
}
