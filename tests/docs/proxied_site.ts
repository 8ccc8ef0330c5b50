/**
 * Runs two nodes and Redis behind a proxy with the exact files of the page about proxies. Only
 * names, ports, paths and times differ.
 *
 * @module
 */
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { bundleClient } from "../../examples/shared/site.ts";
import { lowPort } from "../networks/ports.ts";
import { RedisServer } from "../brokers/redis_server.ts";
import { blocksOf } from "./blocks.ts";
import type { Delays } from "./delays.ts";

const ROOT = new URL("../../", import.meta.url);

const PAGE = "docs/deploy/proxies.md";

/** An event of `watcher.ts`. */
export type WatcherEvent =
  | { readonly opened: string }
  | { readonly ready: string }
  | { readonly heard: number }
  | { readonly recovered: boolean }
  | { readonly who: unknown };

/** The reply of the page's server to the request `who`. */
export interface Who {
  readonly node: number;
  readonly transport: string;
  readonly address: string | null;
}

/** How clients reach a proxy: over TLS, as in the page's file or with HTTP/1.1, or without TLS. */
export type Access = "HTTP/2" | "HTTP/1.1" | "no TLS";

/** A proxy of the page. */
export interface ProxyKind {
  /** The program. */
  readonly program: "nginx" | "caddy" | "haproxy";
  /** Name of the file in the page. */
  readonly file: string;
  /** Name of another file in the page, which the page adds to the first one. */
  readonly added?: string;
  /** Changes of the nodes' file for this proxy, as the page describes them. */
  readonly nodes?: (text: string, page: string) => string;
  /** Changes that only a test needs, after the changes to all files. */
  readonly adapt?: (text: string, site: ProxiedSite) => string;
  /** Changes of the page's file for clients without HTTP/2 or TLS, as the page describes them. */
  readonly without: Readonly<Record<Exclude<Access, "HTTP/2">, (text: string) => string>>;
  /** Arguments that check the file; the check succeeds if the file is valid. */
  check(path: string, folder: string): readonly string[];
  /** Arguments that run the proxy in the foreground. */
  run(path: string, folder: string): readonly string[];
  /** Reloads the file while sessions continue. */
  reload(site: ProxiedSite): Promise<void>;
}

/**
 * Shorter versions of the page's times: heartbeats and timeouts keep their order, and differ enough
 * for a busy machine.
 */
const SHORT: readonly (readonly [RegExp, string])[] = [
  [/serve\(\{/, "serve({\n  session: { heartbeat: { intervalMs: 4_000, timeoutMs: 10_000 } },"],
  [
    /webTransport: \{/,
    "webTransport: {\n    idleTimeoutMs: 10_000,\n    keepAliveIntervalMs: 500,",
  ],
  [/withinMs: 30_000/, "withinMs: 1_000"],
  [/\b(?:75|60)s\b/g, "10s"],
  [/\b30s\b/g, "2s"],
];

/** `true` if this machine has IPv6; containers may have none. */
const HAS_IPV6 = hasIpv6();

/** Lines of proxies that listen only on IPv6. */
const ONLY_IPV6 = /^.*(?:\[::\]|v6only).*\n/gm;

/**
 * Longest time that a page's proxy waits without bytes, in milliseconds, in its shorter version.
 */
export const SHORT_TIMEOUT_MS = 10_000;

/** The page that a browser opens, which the nodes serve. */
const HTML = `<!doctype html><title>Page</title><script type="module">
import * as skein from "/client.js";
globalThis.skein = skein;
</script>`;

/** Serves the browser's page; the page's server serves none. */
const FETCH = `fetch: (request) => new Response(
    Deno.readTextFileSync(new URL(request.url).pathname === "/client.js" ? "client.js" : "page.html"),
    { headers: { "content-type": request.url.endsWith(".js") ? "text/javascript" : "text/html" } },
  ),
  onMessage:`;

/** A process whose stdout is read line by line. */
class LineProcess implements AsyncDisposable {
  readonly lines: string[] = [];
  readonly child: Deno.ChildProcess;
  readonly #reading: Promise<unknown>;
  #errors = "";
  #isOver = false;
  #wake: PromiseWithResolvers<void> = Promise.withResolvers();

  constructor(command: string, options: Deno.CommandOptions) {
    this.child = new Deno.Command(command, {
      ...options,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#reading = Promise.all([this.#read(), this.#readErrors()]);
  }

  /** Everything that the process wrote to stderr. */
  get errors(): string {
    return this.#errors;
  }

  /** Waits until `find` returns a value; rejects if the process exits before. */
  async until<T>(what: string, find: () => T | undefined): Promise<T> {
    for (let found: T | undefined;;) {
      if ((found = find()) !== undefined) return found;
      if (this.#isOver) {
        throw new Error(`Cannot wait for ${what}: the process exited\n${this.#errors}`);
      }
      await this.#wake.promise;
    }
  }

  async write(line: string): Promise<void> {
    const writer = this.child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(`${line}\n`));
    writer.releaseLock();
  }

  async end(signal: Deno.Signal): Promise<Deno.CommandStatus> {
    try {
      this.child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // The process has ended.
    }
    await this.child.stdin.abort().catch(() => {}); // The reader of the pipe may have exited.
    await this.#reading;
    return await this.child.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
  }

  async #read(): Promise<void> {
    let rest = "";
    for await (const text of this.child.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      this.lines.push(...lines);
      this.#signal();
    }
    this.#isOver = true;
    this.#signal();
  }

  async #readErrors(): Promise<void> {
    for await (const text of this.child.stderr.pipeThrough(new TextDecoderStream())) {
      this.#errors += text;
      this.#signal();
    }
  }

  #signal(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}

/** A client behind the proxy, in a separate process that trusts the certificate. */
export class Watcher implements AsyncDisposable {
  readonly #process: LineProcess;

  constructor(process: LineProcess) {
    this.#process = process;
  }

  get events(): WatcherEvent[] {
    return this.#process.lines.map((line) => JSON.parse(line));
  }

  /** Ids of the sessions that opened, in order. */
  get sessions(): string[] {
    return this.events.flatMap((event) => "opened" in event ? [event.opened] : []);
  }

  /** Results of the recoveries. */
  get recoveries(): boolean[] {
    return this.events.flatMap((event) => "recovered" in event ? [event.recovered] : []);
  }

  get heard(): number[] {
    return this.events.flatMap((event) => "heard" in event ? [event.heard] : []);
  }

  async whenReady(): Promise<void> {
    await this.#process.until("a session", () => this.events.find((it) => "ready" in it));
  }

  /** Waits until the client received a number. */
  async whenHeard(number: number): Promise<void> {
    await this.#process.until(`${number}`, () => this.heard.includes(number) || undefined);
  }

  /** Requests the server's view of this client. */
  async who(): Promise<Who> {
    const answers = () => this.events.flatMap((event) => "who" in event ? [event.who as Who] : []);
    const before = answers().length;
    await this.#process.write("who");
    return await this.#process.until("an answer", () => answers()[before]);
  }

  /** Publishes numbers. */
  async say(from: number, to: number): Promise<void> {
    await this.#process.write(`say ${from} ${to}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }
}

/** The nodes, Redis and the proxy of a page, in a temporary folder. */
export class ProxiedSite implements AsyncDisposable {
  readonly folder: string;
  /** The port of the proxy, for TCP and UDP. */
  readonly port: number;
  /** The port of a proxy's administration, if the proxy has one. */
  readonly adminPort: number;
  /** The hash of the certificate, for pages. */
  readonly hash: Uint8Array<ArrayBuffer>;
  /** Ports of the nodes. */
  readonly nodes: readonly [number, number];
  readonly kind: ProxyKind;
  readonly access: Access;
  readonly #running = new Map<number, LineProcess>();
  readonly #stack = new AsyncDisposableStack();
  #redis: RedisServer | undefined;
  #proxy: LineProcess | undefined;

  private constructor(kind: ProxyKind, access: Access, folder: string) {
    this.kind = kind;
    this.access = access;
    this.folder = folder;
    [this.port, this.adminPort, ...this.nodes] = [lowPort(), lowPort(), lowPort(), lowPort()];
    const { cert, key, hashes } = devCertificate({ names: ["localhost"], cacheFolder: null });
    this.hash = hashes[0]!.value;
    Deno.writeTextFileSync(`${folder}/cert.pem`, cert);
    Deno.writeTextFileSync(`${folder}/key.pem`, key);
    Deno.writeTextFileSync(`${folder}/both.pem`, cert + key);
    Deno.writeTextFileSync(`${folder}/page.html`, HTML);
    Deno.writeTextFileSync(`${folder}/deno.json`, JSON.stringify(this.#config()));
  }

  /** Writes the files of the page, and starts the nodes and the proxy. */
  static async start(kind: ProxyKind): Promise<ProxiedSite> {
    const site = await ProxiedSite.#write(kind, "HTTP/2");
    try {
      site.#redis = await RedisServer.start();
      const script = await bundleClient(new URL("client.ts", ROOT));
      await Deno.writeTextFile(`${site.folder}/client.js`, script);
      await Promise.all(site.nodes.map((node) => site.startNode(node)));
      await site.startProxy();
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
    return site;
  }

  /**
   * Measures delays through the page's proxy. The server is the one in `delays.ts`.
   *
   * @returns The forwarded addresses of a request and its version of HTTP, and the delays of each
   * kind of events.
   */
  static async measure(
    kind: ProxyKind,
    access: Access,
  ): Promise<{ readonly reply: string; readonly rows: readonly Delays[] }> {
    await using site = await ProxiedSite.#write(kind, access);
    const program = new URL("delays.ts", import.meta.url).pathname;
    const args = ["run", "-A", "--cert", "cert.pem", "--cached-only", program];
    await using delays = site.#deno([...args, ...site.nodes.map(String), site.url], {});
    await delays.until("the server", () => delays.lines[0]);
    await site.startProxy();
    const asked = ["-H", "x-forwarded-for: 192.0.2.66", "-w", " %{http_version}"];
    const reply = await site.run("curl", ["-skf", ...asked, `${site.url}/forwarded`]);
    await delays.write("");
    await delays.until("the last delays", () => delays.lines.includes("measured") || undefined);
    return { reply, rows: delays.lines.slice(1, -1).map((line) => JSON.parse(line)) };
  }

  /** Writes the files of the page. */
  static async #write(kind: ProxyKind, access: Access): Promise<ProxiedSite> {
    const folder = await Deno.makeTempDir({ prefix: "proxied-" });
    const site = new ProxiedSite(kind, access, folder);
    const page = await Deno.readTextFile(new URL(PAGE, ROOT));
    const blocks = blocksOf(PAGE, page);
    const files = new Map(
      blocks.flatMap((it) => it.kind === "file" ? [[it.path, it.text] as const] : []),
    );
    const { file, added, nodes } = kind;
    if (added !== undefined) files.set(file, `${files.get(file)}\n${files.get(added)}`);
    if (nodes !== undefined) files.set("server.ts", nodes(files.get("server.ts")!, page));
    for (const path of ["server.ts", "check.ts", file]) {
      await Deno.writeTextFile(`${folder}/${path}`, site.#adapted(path, files.get(path)!));
    }
    return site;
  }

  get url(): string {
    return `${this.access === "no TLS" ? "http" : "https"}://localhost:${this.port}`;
  }

  /** Path of the proxy's file. */
  get file(): string {
    return `${this.folder}/${this.kind.file}`;
  }

  /** Starts a node; resolves once it listens on TCP. */
  async startNode(node: number): Promise<void> {
    const process = this.#deno(["run", "-A", "--cached-only", "server.ts"], {
      PORT: `${node}`,
      REDIS_URL: this.#redis!.url,
    });
    this.#running.set(node, process);
    await process.until(
      "the node",
      () => process.errors.includes("Listening on") || undefined,
    );
  }

  /** Stops a node; resolves with the exit code. */
  async endNode(node: number, signal: "SIGTERM" | "SIGKILL"): Promise<number> {
    const process = this.#running.get(node)!;
    this.#running.delete(node);
    return (await process.end(signal)).code;
  }

  /** Checks the file with the proxy itself; resolves with its complaints. */
  async complaints(): Promise<string> {
    const { program, check } = this.kind;
    return await this.run(program, check(this.file, this.folder));
  }

  /** Runs a command that must succeed. */
  async run(command: string, args: readonly string[]): Promise<string> {
    const { success, stdout, stderr } = await new Deno.Command(command, {
      args: [...args],
      cwd: this.folder,
      env: this.#env(),
      stdin: "null",
    }).output();
    const output = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
    if (!success) throw new Error(`${command} ${args.join(" ")} failed:\n${output}`);
    return output;
  }

  /** Starts the proxy; resolves when it responds. */
  async startProxy(): Promise<void> {
    const { program, run } = this.kind;
    this.#proxy = new LineProcess(program, {
      args: [...run(this.file, this.folder)],
      cwd: this.folder,
      env: this.#env(),
    });
    const proxy = this.#proxy;
    const isUp = async () => {
      try {
        (await Deno.connect({ port: this.port })).close();
        return true;
      } catch {
        return false;
      }
    };
    let isOver = false;
    void proxy.child.status.then(() => isOver = true);
    while (!await isUp()) {
      if (isOver) throw new Error(`${program} ended:\n${proxy.errors}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Stops the proxy, which has then written its logs. */
  async endProxy(): Promise<void> {
    await this.#proxy!.end("SIGTERM");
  }

  /** Everything that the proxy has logged. */
  async logs(): Promise<string> {
    const files = await Array.fromAsync(Deno.readDir(this.folder), ({ name }) => name);
    const texts = files.filter((name) => name.endsWith(".log"))
      .map((name) => Deno.readTextFile(`${this.folder}/${name}`));
    return [...await Promise.all(texts), ...this.#proxy!.lines, this.#proxy!.errors].join("\n");
  }

  get proxyPid(): number {
    return this.#proxy!.child.pid;
  }

  /** Runs the page's own client; resolves with its output. */
  async check(): Promise<string> {
    return await this.run(Deno.execPath(), [
      ...["run", "--allow-net", "--unstable-net", "--cert", "cert.pem", "--cached-only"],
      "check.ts",
    ]);
  }

  /** Starts a client with one transport; resolves when it is subscribed. */
  async watch(transport: string): Promise<Watcher> {
    const program = new URL("watcher.ts", import.meta.url).pathname;
    const args = ["run", "-A", "--cert", "cert.pem", "--cached-only", program, this.url, transport];
    const watcher = this.#stack.use(new Watcher(this.#deno(args, {})));
    await watcher.whenReady();
    return watcher;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
    await this.#proxy?.end("SIGTERM");
    for (const process of this.#running.values()) await process.end("SIGKILL");
    await this.#redis?.[Symbol.asyncDispose]();
    await Deno.remove(this.folder, { recursive: true });
  }

  #deno(args: readonly string[], env: Record<string, string>): LineProcess {
    const [command, ...rest] = args;
    return new LineProcess(Deno.execPath(), {
      args: [command!, "--config", "deno.json", "--no-lock", ...rest],
      cwd: this.folder,
      env: { ...this.#env(), ...env },
    });
  }

  #env(): Record<string, string> {
    return { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", XDG_DATA_HOME: this.folder };
  }

  /** Uses the checkout instead of the registry, as this run has loaded it. */
  #config(): unknown {
    const { imports, exports } = JSON.parse(Deno.readTextFileSync(new URL("deno.json", ROOT)));
    const own = Object.entries(exports as Record<string, string>)
      .map(([name, path]) => [`@skein/skein${name.slice(1)}`, new URL(path, ROOT).href]);
    return {
      imports: { ...imports, ...Object.fromEntries(own) },
      unstable: ["net"],
      nodeModulesDir: "none",
    };
  }

  #adapted(path: string, text: string): string {
    const [one, two] = this.nodes;
    if (path === this.kind.file && this.access !== "HTTP/2") {
      text = this.kind.without[this.access](text);
    }
    let adapted = SHORT.reduce((made, [from, to]) => made.replace(from, to), text)
      .replaceAll("/etc/ssl/chat/", `${this.folder}/`)
      .replaceAll("https://chat.example.com", this.url)
      .replaceAll("chat.example.com", "localhost")
      .replace(/\b443\b/g, `${this.port}`)
      .replace(/\b8001\b/g, `${one}`)
      .replace(/\b8002\b/g, `${two}`);
    if (!HAS_IPV6) adapted = adapted.replace(ONLY_IPV6, "").replace('"::"', '"0.0.0.0"');
    if (path === "server.ts") adapted = adapted.replace("onMessage:", FETCH);
    return path === this.kind.file ? this.kind.adapt?.(adapted, this) ?? adapted : adapted;
  }
}

function hasIpv6(): boolean {
  try {
    Deno.listen({ hostname: "::", port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}
