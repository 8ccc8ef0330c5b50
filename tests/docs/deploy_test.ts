/**
 * Tests the pages in `docs/deploy/`: their files pass the checkers of their programs, and their
 * commands run with the same user, permissions and folders.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { openMirror } from "../../tools/mirror/mirror.ts";
import { lowPort } from "../networks/ports.ts";
import { blocksOf } from "./blocks.ts";
import { checkers } from "./checkers.ts";
import { copyDeno, isInstalled } from "./programs.ts";
import { walk } from "./walk.ts";

const ROOT = new URL("../../", import.meta.url);

/** Largest exposure on the scale of `systemd-analyze security`, from 0 to 10. */
const MAX_EXPOSURE = 2;

/** Longest time until a page's server listens or has drained, in milliseconds. */
const PATIENCE_MS = 120_000;

/**
 * A folder in which every user may create folders; the folder of a test run is closed to other
 * users.
 */
const SHARED = "/var/tmp";

/** The user of the image `denoland/deno`, who has no permissions on any machine. */
const USER = "1993";

/** The files of a page, by path. */
async function filesOf(page: string): Promise<ReadonlyMap<string, string>> {
  const path = `docs/deploy/${page}.md`;
  const blocks = blocksOf(path, await Deno.readTextFile(new URL(path, ROOT)));
  return new Map(blocks.flatMap((it) => it.kind === "file" ? [[it.path, it.text]] : []));
}

async function writeFiles(folder: string, files: ReadonlyMap<string, string>): Promise<void> {
  for (const [path, text] of files) await Deno.writeTextFile(`${folder}/${path}`, text);
}

/** Runs a command that must succeed; resolves with the output. */
async function run(command: readonly string[], options: Deno.CommandOptions = {}): Promise<string> {
  const [program, ...args] = command;
  const { success, stdout, stderr } = await new Deno.Command(program!, {
    ...options,
    args,
    stdin: "null",
  }).output();
  const output = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
  if (!success) throw new Error(`${command.join(" ")} failed:\n${output}`);
  return output;
}

/** A page's command, and the machine that runs it. */
interface Service {
  readonly page: string;
  readonly command: readonly string[];
  /** Environment variables, as the page sets them. */
  readonly env: Readonly<Record<string, string>>;
  readonly port: number;
}

/**
 * Installs the packages as the page says, and runs the command as an unprivileged user, with the
 * folder and the packages read-only: a client receives a reply, and `SIGTERM` drains.
 */
async function runService({ page, command, env, port }: Service): Promise<void> {
  await using redis = await RedisServer.start();
  await using mirror = await openMirror({ checkout: ROOT });
  const home = await Deno.makeTempDir({ prefix: "service-", dir: SHARED });
  const [folder, certificate, cache] = [`${home}/chat`, `${home}/ssl`, `${home}/deno`] as const;
  const free = lowPort();
  try {
    for (const path of [folder, certificate]) await Deno.mkdir(path);
    await copyDeno(`${home}/program`);
    const adapted = (text: string) =>
      text.replaceAll("/etc/ssl/chat", certificate).replaceAll("chat.example.com", "localhost")
        .replaceAll(`${port}`, `${free}`).replace("withinMs: 30_000", "withinMs: 1_000");
    const files = await filesOf(page);
    await writeFiles(folder, new Map([...files].map(([path, text]) => [path, adapted(text)])));
    const { cert, key } = devCertificate({ names: ["localhost"], cacheFolder: null });
    await Deno.writeTextFile(`${certificate}/cert.pem`, cert);
    await Deno.writeTextFile(`${certificate}/key.pem`, key);

    const variables = {
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
      DENO_DIR: cache,
      JSR_URL: mirror.url,
      REDIS_URL: redis.url,
      ...Object.fromEntries(Object.entries(env).map(([name, text]) => [name, adapted(text)])),
    };
    const install = [Deno.execPath(), "install", "--entrypoint", "server.ts"];
    await run(install, { cwd: folder, env: variables });
    // As in the image, when the lock file exists.
    if (command.includes("--frozen")) {
      await run([...install, "--frozen"], { cwd: folder, env: variables });
    }

    // The owner is root: the user can read everything, and write nothing.
    await run(["chmod", "-R", "a+rX,a-w", home]);
    const rights = ["--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"];
    const none = ["--inh-caps=-all", "--bounding-set=-all"];
    const child = new Deno.Command("setpriv", {
      args: [...rights, ...none, `${home}/program`, ...command.slice(1).map(adapted)],
      cwd: folder,
      env: { ...variables, HOME: "/nonexistent" },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    try {
      const errors = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
      let printed = "";
      while (!printed.includes("WebTransport on")) {
        const { done, value } = await deadline(errors.read(), PATIENCE_MS);
        assert(!done, `The server exited:\n${printed}`);
        printed += value;
      }
      const client = `
        import { connect } from "@skein/skein";
        for (const transport of ["websocket", "http", "webtransport"]) {
          await using client = connect("https://localhost:${free}", { transports: [transport] });
          const who = await client.request("who", null, { timeoutMs: 60_000 });
          if (who.transport !== transport) throw new Error(JSON.stringify(who));
        }`;
      const file = await Deno.makeTempFile({ suffix: ".ts" });
      await Deno.writeTextFile(file, client);
      const config = ["--config", `${folder}/deno.json`, "--cert", `${certificate}/cert.pem`];
      await run(
        [Deno.execPath(), "run", "-A", "--no-lock", "--unstable-net", ...config, file],
        { env: variables },
      );
      const health = ["curl", "-fsk", `https://localhost:${free}/healthz`];
      assertEquals(JSON.parse(await run(health)).status, "ok");

      child.kill("SIGTERM");
      while (!(await deadline(errors.read(), PATIENCE_MS)).done);
      assertEquals((await child.status).code, 0);
    } finally {
      // The process may have exited by itself.
      await run(["sh", "-c", `kill -KILL ${child.pid} 2>&1 || true`]);
    }
  } finally {
    await run(["chmod", "-R", "u+w", home]);
    await Deno.remove(home, { recursive: true });
  }
}

/** Joins continued lines of a unit. */
const joined = (text: string) => text.replaceAll("\\\n", "");

const isRoot = Deno.uid() === 0;
const cannotRun = isRedisMissing || !isRoot || !await isInstalled("setpriv");

Deno.test({
  name: "the systemd page's unit passes systemd-analyze, and exposes little",
  ignore: !await isInstalled("systemd-analyze"),
  async fn() {
    const folder = await Deno.makeTempDir();
    const unit = (await filesOf("systemd")).get("skein@.service")!
      .replace("/usr/local/bin/deno", Deno.execPath());
    const file = `${folder}/skein@443.service`;
    await Deno.writeTextFile(file, unit);
    const complaints = await run(["systemd-analyze", "verify", file]);
    assertEquals(complaints, "");
    const threshold = `--threshold=${MAX_EXPOSURE * 10}`;
    await run(["systemd-analyze", "security", "--offline=true", threshold, file]);
  },
});

Deno.test({
  name: "the unit's command runs with its variables, and drains on SIGTERM",
  ignore: cannotRun,
  async fn() {
    const unit = joined((await filesOf("systemd")).get("skein@.service")!);
    const command = /^ExecStart=(.*)$/m.exec(unit)![1]!.split(/\s+/);
    await runService({ page: "systemd", command, env: { PORT: "443" }, port: 443 });
  },
});

Deno.test({
  name: "the image's command runs with packages of the lock file, and drains on SIGTERM",
  ignore: cannotRun,
  async fn() {
    const image = joined((await filesOf("docker")).get("Dockerfile")!);
    const command = JSON.parse(/^CMD (.*)$/m.exec(image)![1]!) as string[];
    await runService({ page: "docker", command, env: {}, port: 8443 });
  },
});

const tools = await checkers();

Deno.test({
  name: "the Docker page's images and compose file pass a linter and the schema",
  ignore: tools === undefined,
  async fn() {
    const folder = await Deno.makeTempDir();
    await writeFiles(folder, await filesOf("docker"));
    const images = ["Dockerfile", "Dockerfile.compiled"].map((name) => `${folder}/${name}`);
    assertEquals(await run([...tools!.hadolint, ...images]), "");
    await run([...tools!.compose, `${folder}/compose.yaml`]);
  },
});

Deno.test({
  name: "the Kubernetes page's manifests pass the schemas of Kubernetes",
  ignore: tools === undefined,
  async fn() {
    const folder = await Deno.makeTempDir();
    await writeFiles(folder, await filesOf("kubernetes"));
    const manifests = ["chat.yaml", "redis.yaml"].map((name) => `${folder}/${name}`);
    await run([...tools!.kubernetes, "--strict", ...manifests]);
  },
});

/** Reads a page's TOML or YAML file. */
async function parsed(page: string, path: string): Promise<Record<string, unknown>> {
  const folder = await Deno.makeTempDir();
  await writeFiles(folder, await filesOf(page));
  return JSON.parse(await run([...tools!.toJson, `${folder}/${path}`]));
}

/** The options of Fly's configuration file that the page uses, as in the platform's reference. */
interface FlyFile {
  readonly kill_signal: string;
  readonly kill_timeout: number;
  readonly http_service?: { internal_port: number; checks: { path: string }[] };
  readonly services?: {
    protocol: "tcp" | "udp";
    internal_port: number;
    ports: { port: number; handlers?: string[] }[];
  }[];
}

Deno.test({
  name: "the Fly page's files match its server: ports, signal, and drain time",
  ignore: tools === undefined,
  async fn() {
    const server = (await filesOf("fly")).get("server.ts")!;
    const port = Number(/port: (\d+)/.exec(server)![1]);
    const drainMs = Number(/withinMs: ([\d_]+)/.exec(server)![1]!.replaceAll("_", ""));
    for (const path of ["fly.toml", "fly.udp.toml"]) {
      const file = await parsed("fly", path) as unknown as FlyFile;
      assert(server.includes(`"${file.kill_signal}"`), file.kill_signal);
      assert(file.kill_timeout * 1_000 > drainMs, `${file.kill_timeout}`);
      const ports = [file.http_service, ...file.services ?? []].filter((it) => it !== undefined);
      assertEquals(ports[0]!.internal_port, port);
      for (const { path } of file.http_service?.checks ?? []) assert(server.includes(`"${path}"`));
      for (const service of file.services ?? []) {
        if (service.protocol === "tcp") continue;
        // The platform neither rewrites UDP ports nor handles UDP.
        assertEquals(service.ports, [{ port: service.internal_port }]);
      }
    }
  },
});

Deno.test({
  name: "the Cloudflare page's tunnel leads to its server, and its last rule is a catch-all",
  ignore: tools === undefined,
  async fn() {
    const server = (await filesOf("cloudflare")).get("server.ts")!;
    const { ingress } = await parsed("cloudflare", "config.yml") as {
      ingress: { hostname?: string; service: string }[];
    };
    const [first, rest, ...others] = ingress;
    assertEquals(first!.service, `http://127.0.0.1:${/port: (\d+)/.exec(server)![1]}`);
    assert(server.includes(`"${first!.hostname}"`));
    assertEquals([rest, others], [{ service: "http_status:404" }, []]);
  },
});

Deno.test("the pages' programs that no other test checks pass type checking", async () => {
  const folder = await Deno.makeTempDir();
  const programs: string[] = [];
  for (const page of ["proxies", "kubernetes", "cloudflare", "fly", "deno-deploy"]) {
    await Deno.mkdir(`${folder}/${page}`);
    const files = [...await filesOf(page)].filter(([path]) => path.endsWith(".ts"));
    await writeFiles(`${folder}/${page}`, new Map(files));
    programs.push(...files.map(([path]) => `${page}/${path}`));
  }
  await using mirror = await openMirror({ checkout: ROOT });
  const config = { imports: { "@skein/skein": "jsr:@skein/skein" } };
  await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify(config));
  const env = { JSR_URL: mirror.url, NO_COLOR: "1" };
  await run([Deno.execPath(), "check", "--no-lock", ...programs], { cwd: folder, env });
});

walk(["docs/deploy/rolling-restarts.md"], { ports: [6379], ignore: isRedisMissing });
