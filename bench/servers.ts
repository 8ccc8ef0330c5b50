/**
 * The measured servers, and the commands that start them.
 *
 * @module
 */
import { devCertificate } from "../transport/certificate/dev_certificate.ts";
import type { DialectName } from "./dialects.ts";
import { MOQ_VERSION } from "./moq.ts";

export interface ServerUnderTest {
  /** Name, for `--only`. */
  readonly name: string;
  /** Description of the server. */
  readonly title: string;
  /** The dialect of the server. */
  readonly client: readonly string[];
  /** True if the server listens on TCP, possibly in addition to UDP. */
  readonly hasTcp: boolean;
  /** Program and arguments. */
  readonly command: (port: number) => readonly string[];
}

/**
 * Groups of servers for the same work: messages over WebSocket, the echo over WebTransport,
 * messages over WebTransport, or streams on a WebSocket.
 */
export type ServerGroup = "websocket" | "webtransport" | "fan-out" | "streams";

/** The servers and the installed packages. */
export interface FoundServers extends AsyncDisposable {
  /** The servers of each requested group, including a control. */
  readonly servers: Readonly<Record<ServerGroup, readonly ServerUnderTest[]>>;
  /** Node's version, if installed; `ws` and socket.io run on Node then. */
  readonly node: string | undefined;
}

/** The control of each group, for comparison. */
export const CONTROL = "bare";

/** Package versions for Node; the versions for Deno are in the files. */
const NODE_PACKAGES = ["ws@8.23.0", "socket.io@4.8.4", "bun@1.4.5"];
const NODE_CONTROLS = ["ws.mjs", "socketio.mjs", "bun.mjs"];

/**
 * Finds the servers. If Node and npm are installed, `ws` and socket.io run on Node, their native
 * platform; otherwise, they run on Deno. Bun is installed from npm, so it is left out if npm is
 * missing.
 *
 * @param groups The groups to measure.
 * @param uWebSockets The program built from `controls/uwebsockets.cpp`, if there is one.
 * @returns The servers; dispose the result to remove the installed packages.
 */
export async function findServers(
  groups: ReadonlySet<ServerGroup>,
  uWebSockets?: string,
): Promise<FoundServers> {
  const folder = await Deno.makeTempDir({ prefix: "bench-" });
  const node = groups.has("websocket") ? await installForNode(folder) : undefined;
  const webSocket = webSocketServers(folder, { node, uWebSockets });
  const overQuic = groups.has("webtransport") || groups.has("fan-out")
    ? await webTransportServers(folder)
    : { webtransport: [], "fan-out": [] };
  return {
    node,
    servers: {
      websocket: groups.has("websocket") ? webSocket : [],
      ...overQuic,
      streams: groups.has("streams") ? STREAMS : [],
    },
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

const STREAMS: readonly ServerUnderTest[] = [
  {
    name: CONTROL,
    title: "bare Deno, messages of a WebSocket",
    client: ["--client", "raw"],
    hasTcp: true,
    command: (port) => denoCommand("controls/streams_bare.ts", "--port", `${port}`),
  },
  {
    name: "skein-text",
    title: "Skein, messages of `skein.1`",
    client: ["--client", "text"],
    hasTcp: true,
    command: (port) => denoCommand("streams_server.ts", "--port", `${port}`),
  },
  {
    name: "skein",
    title: "Skein, streams of `skein.1`",
    client: ["--client", "skein"],
    hasTcp: true,
    command: (port) => denoCommand("streams_server.ts", "--port", `${port}`, "--streams"),
  },
  {
    name: "moq",
    title: `@moq/qmux ${MOQ_VERSION}, streams`,
    client: ["--client", "moq"],
    hasTcp: true,
    command: (port) => denoCommand("controls/streams_moq.ts", "--port", `${port}`),
  },
];

/** The programs outside Deno. */
interface Programs {
  /** Node's version. */
  readonly node: string | undefined;
  /** The program of uWebSockets. */
  readonly uWebSockets: string | undefined;
}

function webSocketServers(folder: string, { node, uWebSockets }: Programs): ServerUnderTest[] {
  const runtime = node === undefined ? "Deno" : `Node ${node}`;
  const nodeCommand = (file: string) =>
    node === undefined ? denoCommand(`controls/${file}`) : ["node", `${folder}/${file}`];
  const server = (
    name: string,
    title: string,
    { dialect = "plain", command }: { dialect?: DialectName; command: readonly string[] },
  ): ServerUnderTest => ({
    name,
    title,
    client: ["--dialect", dialect],
    hasTcp: true,
    command: (port) => [...command, "--port", `${port}`],
  });
  return [
    server("skein-plain", "Skein, plain WebSocket", { command: denoCommand("server.ts") }),
    server("skein", "Skein, `skein.1`", { dialect: "skein", command: denoCommand("server.ts") }),
    server("skein-plain-hardened", "Skein, plain WebSocket, hardened engine", {
      command: denoCommand("server.ts", "--hardened"),
    }),
    server("skein-hardened", "Skein, `skein.1`, hardened engine", {
      dialect: "skein",
      command: denoCommand("server.ts", "--hardened"),
    }),
    server(CONTROL, "bare Deno, a loop over a Set", { command: denoCommand("controls/bare.ts") }),
    server("crossws", "crossws on Deno", { command: denoCommand("controls/crossws.ts") }),
    server("ws", `ws on ${runtime}`, { command: nodeCommand("ws.mjs") }),
    server("socketio", `socket.io on ${runtime}`, {
      dialect: "socketio",
      command: nodeCommand("socketio.mjs"),
    }),
    ...node === undefined ? [] : [
      server("bun", "Bun, topics of its server", {
        command: [`${folder}/node_modules/.bin/bun`, `${folder}/bun.mjs`],
      }),
    ],
    ...uWebSockets === undefined ? [] : [
      server("uwebsockets", "uWebSockets, C++, topics of the library", { command: [uWebSockets] }),
    ],
  ];
}

/** Skein creates a certificate, like every development server; the controls receive one. */
async function webTransportServers(
  folder: string,
): Promise<Record<"webtransport" | "fan-out", readonly ServerUnderTest[]>> {
  const { cert, key, hashes } = devCertificate({ cacheFolder: null });
  const files = [`${folder}/cert.pem`, `${folder}/key.pem`] as const;
  await Deno.writeTextFile(files[0], cert);
  await Deno.writeTextFile(files[1], key, { mode: 0o600 });
  const hash = ["--hash", hashes[0]!.value.toHex()];
  const control = (
    name: string,
    title: string,
    { client = [], flags = [] }: Partial<Record<"client" | "flags", readonly string[]>> = {},
  ): ServerUnderTest => ({
    name,
    title,
    client: [...hash, ...client],
    hasTcp: false,
    command: (port) =>
      denoCommand(`controls/webtransport_${name}.ts`, `${port}`, ...files, ...flags),
  });
  return {
    webtransport: [
      {
        name: "skein",
        title: "Skein, `examples/streams.ts`",
        client: [],
        hasTcp: true,
        // All sessions of a benchmark come from one address, faster than the default rate allows.
        command: (port) => denoCommand("../examples/streams.ts", "--port", `${port}`, "--load"),
      },
      control(CONTROL, "bare QUIC, no sessions"),
      // The built-in server never ends its half of a stream.
      control("builtin", "built-in, `Deno.upgradeWebTransport`", { client: ["--no-fin"] }),
    ],
    "fan-out": [
      {
        name: "skein",
        title: "Skein, `skein.1` over WebTransport",
        client: ["--dialect", "skein", "--wire", "webtransport"],
        hasTcp: true,
        command: (port) => denoCommand("server.ts", "--port", `${port}`, "--webtransport"),
      },
      control(CONTROL, "bare QUIC, a loop over a Set", {
        client: ["--dialect", "plain", "--wire", "webtransport"],
        flags: ["--fan-out"],
      }),
      {
        name: "skein-websocket",
        title: "Skein, `skein.1` over WebSocket",
        client: ["--dialect", "skein"],
        hasTcp: true,
        command: (port) => denoCommand("server.ts", "--port", `${port}`),
      },
    ],
  };
}

function denoCommand(file: string, ...args: readonly string[]): string[] {
  const url = new URL(file, import.meta.url).href;
  return [Deno.execPath(), "run", "-A", "--unstable-net", "--no-lock", url, ...args];
}

async function installForNode(folder: string): Promise<string | undefined> {
  try {
    const version = await new Deno.Command("node", { args: ["--version"] }).output();
    const { success } = await new Deno.Command("npm", {
      args: ["install", "--no-audit", "--no-fund", "--prefix", folder, ...NODE_PACKAGES],
    }).output();
    if (!success) return undefined;
    for (const file of NODE_CONTROLS) {
      await Deno.copyFile(new URL(`controls/${file}`, import.meta.url), `${folder}/${file}`);
    }
    return new TextDecoder().decode(version.stdout).trim().slice(1);
  } catch {
    return undefined;
  }
}
