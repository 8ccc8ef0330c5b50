/**
 * Builds and runs the programs of the interop tests: peers for WebTransport, QMux and Media over
 * QUIC that use other implementations and have the same command line.
 *
 * ```text
 * peer server --cert CERT.pem --key KEY.pem      prints {"port":N}, later {"closed":{"code":N,"reason":"…"}}
 * peer client --url URL --hash HEX --scenario S  prints one line of JSON
 * ```
 *
 * QMux peers need no certificates; `--protocols LIST` sets the protocols that a client offers.
 * Media over QUIC servers also accept a scenario. The relay has a different command line.
 *
 * If this module is run as a program, it builds all peers in advance.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";

/** Longest time for one reply of a peer, in milliseconds. */
export const PATIENCE_MS = 100_000;

const SOURCES = new URL("./peers/", import.meta.url);

/** A client's scenario, with the server's replies. */
export type Scenario =
  | "echo"
  | "uni"
  | "datagrams"
  | "big"
  | "opened-by-server"
  | "reset"
  | "closed-by-server"
  | "close"
  | "rejected"
  | "protocol";

/** Steps to build and run a peer. */
interface Recipe {
  readonly name: string;
  readonly version: string;
  /** Folder below `peers/`. */
  readonly folder: string;
  readonly tool: string;
  readonly env?: Readonly<Record<string, string>>;
  /** The part of a toolchain that provides the program, with its first sufficient version. */
  readonly toolchain: string;
  /** Builds the peer in `into`, which is kept for this source; `shared` for its tool. */
  build(folders: Folders): Promise<void>;
  command(folders: Folders): readonly string[];
  /** Arguments after all others. */
  readonly options?: readonly string[];
  /** Build parameters in addition to source and version; a change causes a new build. */
  readonly flags?: readonly string[];
}

interface Folders {
  readonly source: string;
  readonly into: string;
  readonly shared: string;
}

const RECIPES: readonly Recipe[] = [
  goRecipe("webtransport-go 0.9", {
    version: "0.9.0",
    folder: "webtransport_go",
    toolchain: "Go 1.23",
    flags: [],
  }),
  goRecipe("webtransport-go 0.13", {
    version: "0.13.0",
    folder: "webtransport_go",
    toolchain: "Go 1.26",
    flags: ["-modfile=library_0_13.mod", "-tags=library_0_13"],
  }),
  rustRecipe("wtransport", { version: "0.7.2", folder: "wtransport", binary: "peer" }),
  rustRecipe("web-transport-quinn", {
    version: "0.13.5",
    folder: "web_transport_rust",
    binary: "web-transport-peer",
    flags: ["--features=quinn"],
  }),
  rustRecipe("web-transport-quiche", {
    version: "0.8.3",
    folder: "web_transport_rust",
    binary: "web-transport-peer",
    flags: ["--features=quiche"],
    toolchain: "Rust 1.88 with cmake and libclang",
  }),
  webTransportRecipe("aioquic", { version: "1.7.2" }),
  webTransportRecipe("pywebtransport", { version: "0.21.1", python: "3.13" }),
  webTransportRecipe("aiopquic", { version: "0.6.1", python: "3.13" }),
  {
    name: "Deno's WebTransport",
    version: Deno.version.deno,
    folder: "deno",
    tool: Deno.execPath(),
    toolchain: "Deno 2.9",
    build: () => Promise.resolve(),
    command: ({ source }) => denoProgram(source),
  },
];

/** The newest version, and the version that `@moq/net` 0.1 and so `@moq/publish` use. */
const MOQ_QMUX = ["0.3.3", "0.1.3"];

const QMUX_RECIPES: readonly Recipe[] = [
  ...MOQ_QMUX.map((version): Recipe => ({
    name: `@moq/qmux ${version.slice(0, version.lastIndexOf("."))}`,
    version,
    folder: "qmux_moq",
    tool: Deno.execPath(),
    toolchain: "Deno 2.9",
    build: ({ source }) => run([...denoProgram(source), "fetch", "--library", version], source),
    command: ({ source }) => denoProgram(source),
    options: ["--library", version],
  })),
  rustRecipe("qmux of Rust", { version: "0.6.6", folder: "qmux_rust", binary: "qmux-peer" }),
];

const STRUCTURED_RECIPES: readonly Recipe[] = RECIPES.filter(({ name }) =>
  name === "pywebtransport"
);

const PYTHON_CLIENT_RECIPES: readonly Recipe[] = [
  // The client itself is part of the tests; the version is that of the WebSocket library.
  pythonRecipe("a client in Python", { version: "17.4", folder: "python_client" }),
];

const STREAMS_PYTHON_RECIPES: readonly Recipe[] = [
  pythonRecipe("Durable Streams for Python", {
    version: "0.1.0",
    folder: "durable_streams_python",
  }),
];

/** QUIC and WebSocket only: the other transports cause most of the build time. */
const RELAY_FLAGS = ["--no-default-features", "--features", "noq,websocket"];

/** Cloudflare's programs for the drafts of the IETF, which share most of what they are built of. */
const MOQ_IETF = { "moq-relay-ietf": "0.8.0", "moq-pub": "0.10.0", "moq-sub": "0.5.0" };

const MOQ_RECIPES: readonly Recipe[] = [
  goRecipe("gomoqt 0.11", {
    version: "0.11.0",
    folder: "moq_gomoqt",
    toolchain: "Go 1.26",
    flags: [],
  }),
  goRecipe("gomoqt 0.17", {
    version: "0.17.0",
    folder: "moq_gomoqt",
    toolchain: "Go 1.26.4",
    flags: ["-modfile=library_0_17.mod", "-tags=library_0_17"],
  }),
  crateRecipe("moq-relay", {
    crates: { "moq-relay": "0.17.10" },
    folder: "moq_relay",
    flags: RELAY_FLAGS,
    toolchain: "Rust 1.95",
  }),
  ...Object.keys(MOQ_IETF).map((name) =>
    crateRecipe(name, { crates: MOQ_IETF, folder: "moq_ietf", toolchain: "Rust 1.95" })
  ),
  aiomoqtRecipe("aiomoqt", "moq-interop-relay"),
  aiomoqtRecipe("aiomoqt's cases", "moq-interop-client"),
  {
    name: "@moq/net",
    version: "0.3.4",
    folder: "moq_js",
    tool: Deno.execPath(),
    toolchain: "Deno 2.9",
    build: ({ source }) => run([...denoProgram(source), "fetch"], source),
    command: ({ source }) => denoProgram(source),
  },
];

const DURABLE_STREAMS_RECIPES: readonly Recipe[] = [{
  name: "the suite of Durable Streams",
  version: "0.3.6",
  folder: "durable_streams",
  tool: "npm",
  toolchain: "npm",
  flags: ["vitest@4.1.12"],
  async build({ source, into }) {
    const quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
    const suite = "@durable-streams/server-conformance-tests@0.3.6";
    await run(["npm", "install", ...quiet, "--prefix", into, suite, "vitest@4.1.12"], source);
    await Deno.copyFile(`${source}/suite.js`, `${into}/suite.test.js`);
  },
  command: ({ into }) => {
    const program = ["node", `${into}/node_modules/vitest/vitest.mjs`, "run"];
    // On a busy machine a test takes longer than its default timeout of five seconds.
    return [...program, "--root", into, "--testTimeout", "30000", "--reporter", "json"];
  },
}];

/**
 * Clients since 0.12 require RESET_STREAM_AT, which the runtime's QUIC does not have; the client of
 * 0.11 is otherwise equal.
 */
const ENDPOINT_RECIPES: Readonly<Record<"client" | "server", readonly Recipe[]>> = {
  client: [endpointRecipe("client", {
    version: "0.11.1",
    sum: "h1:rrFQMO+7/52ZDJ04fsrjIaWqn6q1z1MYo9iVFq6JtbA=",
  })],
  server: [endpointRecipe("server", {
    version: "0.13.0",
    sum: "h1:RJLrTUHlTj8jJaQlQJUy0z0Mf7u1fVM0I6L1b9pe2M0=",
  })],
};

const RUNTIME_RECIPES: readonly Recipe[] = [
  ...["20.20.2", "22.23.3", "24.21.0", "26.10.0"].map((version) =>
    runtimeRecipe(`Node ${parseInt(version)}`, { version, binary: "node", scope: "node-" })
  ),
  runtimeRecipe("Bun", { version: "1.4.5", binary: "bun", scope: "@oven/bun-" }),
];

/** The version of Miniflare, which runs workerd. */
const MINIFLARE = "4.20260730.0";

/** Miniflare needs a newer Node than the machine may have. */
const WORKERS_NODE = "24.21.0";

const WORKERS_RECIPES: readonly Recipe[] = [{
  name: "workerd",
  version: MINIFLARE,
  folder: "workers",
  tool: "npm",
  toolchain: "npm",
  flags: [WORKERS_NODE],
  async build({ source, into }) {
    const packages = [`miniflare@${MINIFLARE}`, `${libraryOf("node-")}@${WORKERS_NODE}`];
    await npmInstall(packages, { source, into });
    await Deno.copyFile(`${source}/host.mjs`, `${into}/host.mjs`);
  },
  command: (
    { into },
  ) => [`${into}/node_modules/${libraryOf("node-")}/bin/node`, `${into}/host.mjs`],
}];

/** The npm package with the binary of a runtime for this platform. */
function libraryOf(scope: string): string {
  const { os, arch } = Deno.build;
  // Node's packages use the name "arm64", packages of Bun and Deno "aarch64".
  const cpu = arch === "x86_64" ? "x64" : scope === "node-" ? "arm64" : arch;
  return `${scope}${os}-${cpu}`;
}

/** Installs packages of npm into a folder, without their install scripts. */
async function npmInstall(
  packages: readonly string[],
  { source, into }: { readonly source: string; readonly into: string },
): Promise<void> {
  const quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
  await run(["npm", "install", ...quiet, "--prefix", into, ...packages], source);
}

/**
 * A runtime from npm: the package for one platform, which includes the binary and needs no install
 * script.
 */
function runtimeRecipe(
  name: string,
  { version, binary, scope }: {
    readonly version: string;
    readonly binary: string;
    readonly scope: string;
  },
): Recipe {
  const library = libraryOf(scope);
  return {
    name,
    version,
    folder: "runtimes",
    tool: "npm",
    toolchain: "npm",
    flags: [library],
    async build({ source, into }) {
      await npmInstall([`${library}@${version}`], { source, into });
    },
    command: ({ into }) => [`${into}/node_modules/${library}/bin/${binary}`],
  };
}

/** One role of webtransport-go's own endpoint for the QUIC interop runner. */
function endpointRecipe(
  role: "client" | "server",
  { version, sum }: { readonly version: string; readonly sum: string },
): Recipe {
  return {
    name: `webtransport-go ${version.slice(0, version.lastIndexOf("."))} endpoint`,
    version,
    folder: "webtransport_go_endpoint",
    tool: "go",
    toolchain: "Go 1.25",
    flags: [role, sum],
    async build({ source, into }) {
      const program = [
        Deno.execPath(),
        "run",
        "-A",
        "--no-config",
        "--quiet",
        `${source}/build.ts`,
      ];
      const module = ["--version", version, "--sum", sum, "--role", role];
      await run([...program, ...module, "--into", into], source);
    },
    command: ({ into }) => [`${into}/endpoint`],
  };
}

/** The command of a peer that runs on Deno. */
function denoProgram(source: string): string[] {
  const flags = ["-A", "--no-config", "--no-lock", "--unstable-net", "--quiet"];
  return [Deno.execPath(), "run", ...flags, `${source}/peer.ts`];
}

/** A program with its libraries in a virtual environment. */
function pythonRecipe(
  name: string,
  { version, folder, python = "", requirements = "requirements.txt", options = [] }: {
    readonly version: string;
    readonly folder: string;
    /** The required version; 3.11 or later by default. */
    readonly python?: string;
    readonly requirements?: string;
    readonly options?: readonly string[];
  },
): Recipe {
  const tool = `python${python || 3}`;
  // Without the variable, pyenv's shims start only the selected version.
  const env: Record<string, string> = python === "" ? {} : { PYENV_VERSION: python };
  return {
    name,
    version,
    folder,
    tool,
    env,
    toolchain: `Python ${python || "3.11"}`,
    options,
    flags: [requirements],
    async build({ source, into }) {
      await run([tool, "-m", "venv", "--clear", `${into}/venv`], source, env);
      const install = ["-m", "pip", "install", "--quiet", "--requirement", requirements];
      await run([`${into}/venv/bin/python`, ...install], source);
    },
    // Without -B, Python leaves compiled files next to the source.
    command: ({ source, into }) => [`${into}/venv/bin/python`, "-B", `${source}/peer.py`],
  };
}

/** A program of aiomoqt, which installs several. */
function aiomoqtRecipe(name: string, program: string): Recipe {
  const recipe = { version: "0.13.3", folder: "moq_python", python: "3.13" };
  return {
    ...pythonRecipe(name, recipe),
    command: ({ into }) => [`${into}/venv/bin/python`, "-B", `${into}/venv/bin/${program}`],
  };
}

/** A WebTransport library for Python; all of them share one source. */
function webTransportRecipe(
  library: string,
  versions: { readonly version: string; readonly python?: string },
): Recipe {
  return pythonRecipe(library, {
    ...versions,
    folder: "webtransport_python",
    requirements: `requirements_${library}.txt`,
    options: ["--library", library],
  });
}

/** A program in Rust, with the versions of its lock file. */
function rustRecipe(
  name: string,
  { version, folder, binary, flags = [], toolchain = "Rust 1.88" }: {
    readonly version: string;
    readonly folder: string;
    /** Name of the program after `skein-interop-`. */
    readonly binary: string;
    readonly flags?: readonly string[];
    readonly toolchain?: string;
  },
): Recipe {
  return {
    name,
    version,
    folder,
    tool: "cargo",
    toolchain,
    flags,
    async build({ source, into, shared }) {
      // Two peers have one name, and Cargo compiles for one at a time.
      using _lock = await locked(`${shared}.lock`);
      const build = ["cargo", "build", "--quiet", "--locked", ...flags, "--target-dir", shared];
      await run(build, source);
      // Another process: a program that this one starts meanwhile would have the copy open.
      await run(["cp", `${shared}/debug/skein-interop-${binary}`, `${into}/peer`], source);
    },
    command: ({ into }) => [`${into}/peer`],
  };
}

/** A program from crates.io; crates that are installed together are compiled together. */
function crateRecipe(
  name: string,
  { crates, folder, toolchain, flags = [] }: {
    /** The version of each crate; the first one names the build. */
    readonly crates: Readonly<Record<string, string>>;
    readonly folder: string;
    readonly toolchain: string;
    readonly flags?: readonly string[];
  },
): Recipe {
  return {
    name,
    version: Object.values(crates)[0]!,
    folder,
    tool: "cargo",
    toolchain,
    flags,
    async build({ source, into, shared }) {
      const settings = { CARGO_PROFILE_DEV_DEBUG: "0", CARGO_INCREMENTAL: "0" };
      // Not --locked: the lock in a crate names versions that not every mirror of crates has.
      const folders = ["--root", into, "--target-dir", shared, "--no-track", "--force"];
      for (const [crate, version] of Object.entries(crates)) {
        const install = ["cargo", "install", crate, "--version", version, "--debug", "--quiet"];
        await run([...install, ...flags, ...folders], source, settings);
      }
    },
    command: ({ into }) => [`${into}/bin/${name}`],
  };
}

/** A program in Go; both versions share one source. */
function goRecipe(
  name: string,
  { version, folder, toolchain, flags }: {
    readonly version: string;
    readonly folder: string;
    readonly toolchain: string;
    readonly flags: readonly string[];
  },
): Recipe {
  return {
    name,
    version,
    folder,
    tool: "go",
    toolchain,
    async build({ source, into }) {
      await run(["go", "build", "-buildvcs=false", ...flags, "-o", `${into}/peer`, "."], source);
    },
    command: ({ into }) => [`${into}/peer`],
  };
}

/** A peer, or the reason for its absence. */
export type Build =
  | { readonly name: string; readonly peer: Peer }
  /** The toolchain is missing. */
  | { readonly name: string; readonly missing: string }
  /** The toolchain is present, and the build failed. */
  | { readonly name: string; readonly failed: Error };

/**
 * Builds all peers concurrently. Each has a folder in the user's cache that is named after the
 * version and the hash of the source, so that a second call can reuse it.
 *
 * @returns For each peer, the peer or the reason why it is missing.
 */
export function buildPeers(): Promise<Build[]> {
  return build(RECIPES);
}

/** The same for the peers of QMux. */
export function buildQmuxPeers(): Promise<Build[]> {
  return build(QMUX_RECIPES);
}

/**
 * The same for the peers of Media over QUIC; the first build of `moq-relay` takes long.
 *
 * @param names The peers; all by default.
 */
export function buildMoqPeers(names?: readonly string[]): Promise<Build[]> {
  return build(MOQ_RECIPES.filter(({ name }) => names?.includes(name) ?? true));
}

/** The same for the peers that have structured messages. */
export function buildStructuredPeers(): Promise<Build[]> {
  return build(STRUCTURED_RECIPES);
}

/** The same for the client of `skein.1` in Python, which is written from the specification. */
export function buildPythonClient(): Promise<Build[]> {
  return build(PYTHON_CLIENT_RECIPES);
}

/** The same for Electric's Python client of Durable Streams. */
export function buildStreamsPython(): Promise<Build[]> {
  return build(STREAMS_PYTHON_RECIPES);
}

/** The same for the endpoints of one role that play the cases of the QUIC interop runner. */
export function buildEndpoints(role: "client" | "server"): Promise<Build[]> {
  return build(ENDPOINT_RECIPES[role]);
}

/**
 * The same for other runtimes that run the client: supported versions of Node, one that is too old,
 * and Bun.
 */
export function buildRuntimes(): Promise<Build[]> {
  return build(RUNTIME_RECIPES);
}

/** The same for Cloudflare's runtime, which runs a bundled Worker; the version is Miniflare's. */
export function buildWorkers(): Promise<Build[]> {
  return build(WORKERS_RECIPES);
}

/** The same for the conformance suite of Durable Streams, which prints its report as JSON. */
export function buildDurableStreamsSuite(): Promise<Build[]> {
  return build(DURABLE_STREAMS_RECIPES);
}

/**
 * The peers that were built. Every other peer registers a test that fails; if the toolchain is
 * missing, the test is ignored unless `CI` is `true`.
 */
export function builtPeers(builds: readonly Build[]): Peer[] {
  return builds.flatMap((build) => {
    if ("peer" in build) return [build.peer];
    const isSkipped = "missing" in build && Deno.env.get("CI") !== "true";
    Deno.test({
      name: `${build.name} is built${isSkipped ? ` (skipped: ${build.missing})` : ""}`,
      ignore: isSkipped,
      fn: () => {
        throw "failed" in build ? build.failed : new Error(build.missing);
      },
    });
    return [];
  });
}

async function build(recipes: readonly Recipe[]): Promise<Build[]> {
  return await Promise.all(recipes.map(async (recipe): Promise<Build> => {
    const { name, version, tool, env, toolchain, options = [] } = recipe;
    if (!await isInstalled(tool, env)) {
      return { name, missing: `${tool} is not installed; it requires ${toolchain}` };
    }
    try {
      return { name, peer: new Peer(name, version, await make(recipe), options) };
    } catch (error) {
      const failed = new Error(`Cannot build ${name}`, { cause: error });
      return { name, failed };
    }
  }));
}

/** Builds a peer unless a build is cached; returns the command that runs it. */
async function make(recipe: Recipe): Promise<readonly string[]> {
  const { name, version, tool, folder, flags = [] } = recipe;
  const source = new URL(folder, SOURCES).pathname;
  const peers = `${cacheFolder()}/peers`;
  const into = `${peers}/${folder}-${version}-${await hashOf(source, flags)}`;
  const folders = { source, into, shared: `${peers}/${tool}-shared` };
  await Deno.mkdir(into, { recursive: true });
  // Another process may be building the same peer, or may have been killed during a build.
  using _lock = await locked(`${into}/lock`);
  const isMade = await Deno.stat(`${into}/made`).then(() => true, () => false);
  if (!isMade) {
    await recipe.build(folders);
    await Deno.writeTextFile(`${into}/made`, `${name} ${version}\n`);
  }
  return recipe.command(folders);
}

/**
 * The cache folder for programs that tests build or install once; throws for a user without a home.
 */
export function cacheFolder(): string {
  const home = Deno.env.get("HOME");
  const folder = Deno.env.get("XDG_CACHE_HOME") || (home && `${home}/.cache`);
  if (!folder) {
    throw new Error("Cannot find the cache folder: neither XDG_CACHE_HOME nor HOME is set");
  }
  return `${folder}/skein`;
}

/**
 * Waits for the lock of a file, which is created if it is missing. The lock is held until the file
 * is closed.
 */
export async function locked(path: string): Promise<Deno.FsFile> {
  const file = await Deno.open(path, { create: true, write: true });
  await file.lock(true);
  return file;
}

/** A hash of the names and contents of all files in a folder, and of the build parameters. */
async function hashOf(folder: string, flags: readonly string[]): Promise<string> {
  const parts = [...flags];
  const visit = async (path: string) => {
    const entries = await Array.fromAsync(Deno.readDir(path));
    for (const { name, isDirectory } of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
      const inner = `${path}/${name}`;
      if (isDirectory) await visit(inner);
      else parts.push(inner.slice(folder.length), await Deno.readTextFile(inner));
    }
  };
  await visit(folder);
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(parts.join("\0")));
  return new Uint8Array(digest).toHex().slice(0, 16);
}

async function isInstalled(tool: string, env: Recipe["env"] = {}): Promise<boolean> {
  try {
    const args = [tool === "go" ? "version" : "--version"];
    const command = new Deno.Command(tool, { args, env, stdout: "null", stderr: "null" });
    return (await command.output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function run(
  [program, ...args]: string[],
  cwd: string,
  env: Record<string, string> = {},
): Promise<void> {
  const command = new Deno.Command(program!, { args, cwd, env, stdin: "null" });
  const { success, stdout, stderr } = await command.output();
  if (success) return;
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  throw new Error(`${program} ${args[0]} failed:\n${text(stdout)}${text(stderr)}`);
}

/** The certificate of a server, as files. */
export interface CertificateFiles {
  /** Path of the certificate. */
  readonly cert: string;
  /** Path of the private key. */
  readonly key: string;
}

/** A foreign implementation. */
export class Peer {
  /** Name of the peer. */
  readonly name: string;
  /** Version of the library. */
  readonly version: string;
  /** The command that runs the peer. */
  readonly command: readonly string[];
  readonly #options: readonly string[];

  /** Creates a peer from its command, and the arguments after all others. */
  constructor(
    name: string,
    version: string,
    command: readonly string[],
    options: readonly string[] = [],
  ) {
    this.name = name;
    this.version = version;
    this.command = command;
    this.#options = options;
  }

  /** Starts the server on a free port; arguments besides the certificate start with two dashes. */
  async serve(
    files?: CertificateFiles,
    options: Readonly<Record<string, string>> = {},
  ): Promise<PeerServer> {
    const child = this.start([
      "server",
      ...(files === undefined ? [] : ["--cert", files.cert, "--key", files.key]),
      ...dashed(options),
    ]);
    const server = new PeerServer(child);
    try {
      const { port, ports = {} } = await server.next() as Pick<PeerServer, "port" | "ports">;
      server.port = port;
      server.ports = ports;
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Plays a scenario as a client; returns the printed result. */
  async play(
    scenario: string,
    options: {
      readonly url: string;
      readonly hash?: string;
      readonly protocols?: string;
      readonly webtransport?: string;
    },
  ): Promise<unknown> {
    const child = this.start(["client", ...dashed(options), "--scenario", scenario]);
    const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
    try {
      const { success, signal, stdout, stderr } = await child.output();
      const text = new TextDecoder().decode(stdout);
      if (success) return JSON.parse(text);
      const why = signal === "SIGKILL" ? "sent no reply in time" : "failed";
      throw new Error(`${this.name} ${why}:\n${text}${new TextDecoder().decode(stderr)}`);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Starts the program with arguments, and with additional environment variables. */
  start(args: readonly string[], env: Readonly<Record<string, string>> = {}): Deno.ChildProcess {
    const [program, ...rest] = this.command;
    const options = { env, stdin: "null", stdout: "piped", stderr: "piped" } as const;
    const all = [...rest, ...args, ...this.#options];
    return new Deno.Command(program!, { args: all, ...options }).spawn();
  }
}

function dashed(options: Readonly<Record<string, string>>): string[] {
  return Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
}

/** The server of a foreign implementation, in a separate process. */
export class PeerServer implements AsyncDisposable {
  /** The port of the server. */
  port = 0;
  /** Ports of paths that are served on a separate port. */
  ports: Readonly<Record<string, number>> = {};
  readonly #child: Deno.ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #errors: Promise<string>;

  /** Reads the output of a process. */
  constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#lines = linesOf(child.stdout);
    this.#errors = new Response(child.stderr).text();
  }

  url(path: string): string {
    return `https://127.0.0.1:${this.ports[path] ?? this.port}${path}`;
  }

  /** The next printed line. */
  async next(): Promise<unknown> {
    const { done, value } = await deadline(this.#lines.next(), PATIENCE_MS);
    if (done) throw new Error(`The server exited:\n${await this.#errors}`);
    return JSON.parse(value);
  }

  /** Sends SIGTERM to the process. */
  terminate(): void {
    this.#child.kill("SIGTERM");
  }

  /** Kills the process. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // The process has already ended.
    }
    await this.#child.status;
    while (!(await this.#lines.next()).done);
    await this.#errors;
  }
}

async function* linesOf(output: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of output.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

if (import.meta.main) {
  const all = [
    buildPeers(),
    buildQmuxPeers(),
    buildMoqPeers(),
    buildStructuredPeers(),
    buildPythonClient(),
    buildStreamsPython(),
    buildEndpoints("client"),
    buildEndpoints("server"),
    buildRuntimes(),
    buildWorkers(),
    buildDurableStreamsSuite(),
  ];
  for (const build of (await Promise.all(all)).flat()) {
    if ("peer" in build) console.log(`${build.name} ${build.peer.version}: built`);
    else if ("missing" in build) console.log(`${build.name}: ${build.missing}`);
    else console.error(build.failed);
  }
}
