import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { openRegistry, type PackedPackage, registryHandler } from "./registry.ts";

const PACKAGE: PackedPackage = {
  manifest: { name: "@skein/client", version: "1.2.3" },
  tarball: new Uint8Array([1, 2, 3]),
};

const ask = (handler: (request: Request) => Promise<Response>, path: string) =>
  handler(new Request(`http://127.0.0.1:1${path}`));

Deno.test("registryHandler() has the document and the tarball, and builds once", async () => {
  let builds = 0;
  const handler = registryHandler(() => {
    builds++;
    return Promise.resolve(PACKAGE);
  });
  const document = await (await ask(handler, "/@skein%2fclient")).json();
  assertEquals(document["dist-tags"], { latest: "1.2.3" });
  const { dist, version } = document.versions["1.2.3"];
  assertEquals(version, "1.2.3");
  assertMatch(dist.integrity, /^sha512-[\w+/]{86}==$/);
  const tarball = await ask(handler, new URL(dist.tarball).pathname);
  assertEquals(await tarball.bytes(), PACKAGE.tarball);
  assertEquals(builds, 1);
});

Deno.test("registryHandler() answers 404 for other packages and versions", async () => {
  const handler = registryHandler(() => Promise.resolve(PACKAGE));
  for (const path of ["/", "/react", "/@skein/server", "/@skein/client/-/client-1.2.2.tgz"]) {
    const response = await ask(handler, path);
    await response.body?.cancel();
    assertEquals(response.status, 404, path);
  }
});

Deno.test("openRegistry() adds the registry to the settings, and builds again after a failure", async () => {
  let builds = 0;
  const build = () => builds++ === 0 ? Promise.reject(new Error("full")) : Promise.resolve(PACKAGE);
  const checkout = await writeCheckout("1");
  await using registry = await openRegistry({ checkout, build, settings: "fund=false\n" });
  const settings = await Deno.readTextFile(registry.env["NPM_CONFIG_USERCONFIG"]!);
  assertEquals(settings, `fund=false\n@skein:registry=${registry.url}\n`);
  for (const status of [500, 200]) {
    const response = await fetch(`${registry.url}@skein/client`);
    await response.body?.cancel();
    assertEquals(response.status, status);
  }
});

Deno.test("openRegistry() has another URL after each change of the checkout", async () => {
  const checkout = await writeCheckout("1");
  const options = { checkout, build: () => Promise.resolve(PACKAGE), settings: "" };
  const urlOf = async () => {
    await using registry = await openRegistry(options);
    return registry.url;
  };
  const first = await urlOf();
  assertEquals(await urlOf(), first);
  await Deno.writeTextFile(new URL("mod.ts", checkout), "2");
  assertNotEquals(new URL(await urlOf()).pathname, new URL(first).pathname);
});

/** Writes a checkout with one module into a new folder. */
async function writeCheckout(source: string): Promise<URL> {
  const checkout = new URL(`file://${await Deno.makeTempDir()}/`);
  const config = { name: "@skein/skein", version: "1.0.0", exports: {}, imports: {} };
  const publish = { exclude: [] };
  await Deno.writeTextFile(new URL("deno.json", checkout), JSON.stringify({ ...config, publish }));
  await Deno.writeTextFile(new URL(".gitignore", checkout), "dist\n");
  await Deno.writeTextFile(new URL("mod.ts", checkout), source);
  return checkout;
}
