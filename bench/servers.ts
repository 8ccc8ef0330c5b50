/**
 * The servers that are measured side by side, and how to start each.
 *
 * @module
 */
import { devCertificate } from "../transport/certificate/dev_certificate.ts";
import type { DialectName } from "./dialects.ts";
import { MOQ_VERSION } from "./moq.ts";

/** One server. */
export interface ServerUnderTest {
  /** Name, for `--only`. */
  readonly name: string;
  /** What it is, in words. */
  readonly title: string;
  /** Tells the generator how to speak to it. */
  readonly client: readonly string[];
  /** Whether it listens on TCP, if not only there. */
  readonly hasTcp: boolean;
  /** Program and arguments. */
  readonly command: (port: number) => readonly string[];
}

/**
 * Servers that do the same work: messages over WebSocket, the echo over
 * WebTransport, messages over both, or streams on a WebSocket.
 */
export type ServerGroup = "websocket" | "webtransport" | "both" | "streams";

/** The servers, and what was installed for them. */
export interface FoundServers extends AsyncDisposable {
  /** The servers of each group that was asked for, a control among them. */
  readonly servers: Readonly<Record<ServerGroup, readonly ServerUnderTest[]>>;
  /** Node's version, if it is there; `ws` and socket.io run on it then. */
  readonly node: string | undefined;
}

/** What the others are compared with. */
export const CONTROL = "bare";

/** Versions of what runs on Node; those for Deno are in the files. */
const NODE_PACKAGES = ["ws@8.23.0", "socket.io@4.8.4"];
const NODE_CONTROLS = ["ws.mjs", "socketio.mjs"];

/**
 * Finds the servers. `ws` and socket.io run on Node where it and npm exist, which
 * is their home, and on Deno otherwise.
 *
 * @param groups What is needed.
 * @returns The servers; dispose of them to remove what was installed.
 */
export async function findServers(groups: ReadonlySet<ServerGroup>): Promise<FoundServers> {
  const folder = await Deno.makeTempDir({ prefix: "bench-" });
  const node = groups.has("websocket") ? await installForNode(folder) : undefined;
  const webSocket = webSocketServers(folder, node);
  const isShared = ({ name }: ServerUnderTest) => name === CONTROL || name === "skein";
  return {
    node,
    servers: {
      websocket: groups.has("websocket") ? webSocket : [],
      webtransport: groups.has("webtransport") ? await webTransportServers(folder) : [],
      both: groups.has("both") ? [...webSocket.filter(isShared), SKEIN_WEBTRANSPORT] : [],
      streams: groups.has("streams") ? STREAMS : [],
    },
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

const SKEIN_WEBTRANSPORT: ServerUnderTest = {
  name: "skein-webtransport",
  title: "Skein, `skein.1` over WebTransport",
  client: ["--dialect", "skein", "--wire", "webtransport"],
  hasTcp: true,
  command: (port) => denoCommand("server.ts", "--port", `${port}`, "--webtransport"),
};

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

function webSocketServers(folder: string, node: string | undefined): ServerUnderTest[] {
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
  ];
}

/** The example has a certificate of its own, as every server in development; the controls are given one. */
async function webTransportServers(folder: string): Promise<ServerUnderTest[]> {
  const { cert, key, hashes } = devCertificate({ cacheFolder: null });
  const files = [`${folder}/cert.pem`, `${folder}/key.pem`] as const;
  await Deno.writeTextFile(files[0], cert);
  await Deno.writeTextFile(files[1], key, { mode: 0o600 });
  const control = (name: string, title: string, ...more: string[]): ServerUnderTest => ({
    name,
    title,
    client: ["--hash", hashes[0]!.value.toHex(), ...more],
    hasTcp: false,
    command: (port) => denoCommand(`controls/webtransport_${name}.ts`, `${port}`, ...files),
  });
  return [
    {
      name: "skein",
      title: "Skein, `examples/echo.ts`",
      client: [],
      hasTcp: true,
      command: (port) => denoCommand("../examples/echo.ts", "--port", `${port}`),
    },
    control(CONTROL, "bare QUIC, no sessions"),
    // It never ends its half of a stream.
    control("builtin", "built-in, `Deno.upgradeWebTransport`", "--no-fin"),
  ];
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
