/**
 * A registry with the npm package of a checkout, on the loopback interface. Packages of other
 * scopes come from the user's registry.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { readCheckout } from "../mirror/checkout.ts";
import { listenNear } from "../mirror/mirror.ts";
import { readTree } from "../mirror/packages.ts";

/** Scope of the served package. */
const SCOPE = "@skein";

/** A package to serve. */
export interface PackedPackage {
  /** The content of its `package.json`. */
  readonly manifest: { readonly name: string; readonly version: string };
  /** The content of the tarball. */
  readonly tarball: Uint8Array<ArrayBuffer>;
}

/** A running registry. */
export interface NpmRegistry extends AsyncDisposable {
  /** URL of the registry, with a final slash. */
  readonly url: string;
  /**
   * Environment variables for programs: npm, pnpm and Yarn read the user's settings from a file
   * that also contains this registry. Deno reads such a file only as the `.npmrc` of a project or
   * the home folder.
   */
  readonly env: Readonly<Record<string, string>>;
}

/** Options for {@linkcode openRegistry}. */
export interface RegistryOptions {
  /** Root of the checkout. */
  readonly checkout: URL;
  /** Builds the package on the first request; by default with `deno task package`. */
  readonly build?: () => Promise<PackedPackage>;
  /** The user's settings; by default the content of `~/.npmrc`. */
  readonly settings?: string;
}

/**
 * Starts a registry. Its URL is derived from the checkout's folder and content: npm lock files stay
 * valid while these stay the same, and Deno, which never fetches a version twice from the same URL,
 * gets each changed package.
 *
 * @param options See {@linkcode RegistryOptions}.
 * @returns The running registry.
 */
export async function openRegistry(options: RegistryOptions): Promise<NpmRegistry> {
  const { checkout, build = () => buildCheckout(checkout) } = options;
  const identity = identityOf(checkout);
  const handler = registryHandler(build, `/${identity.slice(0, 12)}`);
  const server = await listenNear(identity, handler);
  const url = `${server.url}${identity.slice(0, 12)}/`;
  const settings = await Deno.makeTempFile({ prefix: "skein-", suffix: ".npmrc" });
  const text = options.settings ?? await readSettings();
  await Deno.writeTextFile(settings, `${text.trimEnd()}\n${SCOPE}:registry=${url}\n`);
  return {
    url,
    // npm passes the lowercase name to programs that it starts, and either name may win.
    env: { NPM_CONFIG_USERCONFIG: settings, npm_config_userconfig: settings },
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await Deno.remove(settings);
    },
  };
}

/**
 * Serves the package document, which lists one version, and the tarball, as the npm registry does.
 *
 * @param build Builds the package; called on the first request, and again only after a failure.
 * @param base Path of the registry, without a final slash.
 */
export function registryHandler(
  build: () => Promise<PackedPackage>,
  base = "",
): (request: Request) => Promise<Response> {
  let building: Promise<PackedPackage> | undefined;
  const load = () => {
    building ??= build();
    building.catch(() => building = undefined);
    return building;
  };
  return async (request) => {
    const { origin, pathname } = new URL(request.url);
    if (!pathname.startsWith(`${base}/`)) return notFound();
    const path = decodeURIComponent(pathname.slice(base.length + 1));
    if (!path.startsWith(`${SCOPE}/`)) return notFound();
    const { manifest, tarball } = await load();
    const { name, version } = manifest;
    const file = `${name}/-/${name.slice(SCOPE.length + 1)}-${version}.tgz`;
    if (path === file) return new Response(tarball);
    if (path !== name) return notFound();
    const dist = {
      tarball: `${origin}${base}/${file}`,
      integrity: `sha512-${createHash("sha512").update(tarball).digest("base64")}`,
    };
    const versions = { [version]: { ...manifest, dist } };
    // npm must revalidate each time: the package changes with the checkout.
    const headers = { "cache-control": "no-cache" };
    return Response.json({ name, "dist-tags": { latest: version }, versions }, { headers });
  };
}

/** Returns a name for a checkout's folder and content; it also depends on the package's builder. */
function identityOf(checkout: URL): string {
  const hash = createHash("sha256").update(checkout.href);
  for (const files of [readCheckout(checkout).files, readTree(new URL(".", import.meta.url))]) {
    for (const [path, content] of files) hash.update(path).update(content);
  }
  return hash.digest("hex");
}

function notFound(): Response {
  return Response.json({ error: "Not found" }, { status: 404 });
}

/** Builds the package in a separate process, so that the tools don't stay in memory. */
async function buildCheckout(checkout: URL): Promise<PackedPackage> {
  const folder = await Deno.makeTempDir({ prefix: "skein-package-" });
  try {
    const program = fileURLToPath(new URL("tools/npm/package.ts", checkout));
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--no-lock", program, `--into=${folder}`],
      cwd: fileURLToPath(checkout),
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).output();
    if (!success) throw new Error(`Cannot build the package:\n${new TextDecoder().decode(stderr)}`);
    const manifest = JSON.parse(await Deno.readTextFile(`${folder}/npm/package.json`));
    const name = `${manifest.name.slice(1).replace("/", "-")}-${manifest.version}.tgz`;
    return { manifest, tarball: await Deno.readFile(`${folder}/${name}`) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function readSettings(): Promise<string> {
  const home = Deno.env.get("HOME") ?? Deno.env.get("USERPROFILE");
  const path = Deno.env.get("NPM_CONFIG_USERCONFIG") ?? (home && `${home}/.npmrc`);
  if (!path) return "";
  return await Deno.readTextFile(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  });
}
