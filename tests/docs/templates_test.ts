/** The templates of `skein new`, as a user runs these: with the package of this checkout. */
import { assert, assertEquals } from "@std/assert";
import { dial, SessionClosedError } from "../../mod.ts";
import { TEMPLATES } from "../../cli/templates/templates.ts";
import { openMirror } from "../../tools/_mirror.ts";
import { lowPort } from "../ports.ts";

const ROOT = new URL("../../", import.meta.url);

/** Opens a session as a page of an origin does; returns the code of a refusal. */
async function visit(url: string, origin: string, token: string | null): Promise<number> {
  try {
    await using session = await dial(url, {
      transports: ["websocket"],
      headers: { origin },
      token,
    });
    return session.isClosed ? -1 : 0;
  } catch (error) {
    if (error instanceof SessionClosedError) return error.info!.code;
    throw error;
  }
}

/** Addresses of this machine that are not loopback. */
function ownAddresses(): string[] {
  return Deno.networkInterfaces().map(({ address }) => address).filter((address) =>
    /^\d+\./.test(address) && !address.startsWith("127.")
  );
}

/** Reads the errors of a process: `listening` resolves with the line of a server. */
function watch(process: Deno.ChildProcess) {
  const { promise: listening, resolve, reject } = Promise.withResolvers<void>();
  const read = async () => {
    let seen = "";
    for await (const part of process.stderr.pipeThrough(new TextDecoderStream())) {
      seen += part;
      if (seen.includes("Listening on")) resolve();
    }
    reject(new Error(`The server has ended:\n${seen}`));
  };
  return { listening, end: read() };
}

for (const [name, { hasPage }] of Object.entries(TEMPLATES)) {
  Deno.test(`A project from the template ${name} is clean, passes its tests, and serves`, async () => {
    await using mirror = await openMirror({ checkout: ROOT });
    const folder = await Deno.makeTempDir({ prefix: "template-" });
    const port = lowPort();
    const env = { JSR_URL: mirror.url, NO_COLOR: "1", PORT: String(port) };
    const deno = async (...args: string[]) => {
      const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args,
        cwd: `${folder}/app`,
        env,
        stdin: "null",
      }).output();
      const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
      assert(success, `deno ${args.join(" ")}:\n${text}`);
    };
    try {
      await Deno.mkdir(`${folder}/app`);
      await deno("run", "-A", "--no-lock", "jsr:@skein/skein/cli", "new", ".", "-t", name);
      await deno("fmt", "--check");
      await deno("lint");
      await deno("check");
      await deno("task", "test");
      const server = new Deno.Command(Deno.execPath(), {
        args: ["task", "dev"],
        cwd: `${folder}/app`,
        env,
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      const { listening, end } = watch(server);
      const printed = new Response(server.stdout).text();
      try {
        await listening;
        const base = `http://localhost:${port}`;
        const response = await fetch(base);
        assertEquals(response.status, 200);
        await response.text();
        for (const file of hasPage ? ["page.js", "style.css"] : []) {
          const found = await fetch(`${base}/${file}`);
          assertEquals([found.status, (await found.text()).length > 1_000], [200, true], file);
        }
        for (const address of ownAddresses()) {
          const origin = `http://${address}:${port}`;
          const token = name === "chat" ? "Ann" : null;
          assertEquals(await visit(origin, origin, token), 0);
          assertEquals(await visit(origin, "http://evil.example", token), 4403);
        }
      } finally {
        server.kill("SIGINT");
        await Promise.all([server.status, end]);
      }
      const lines = (await printed).split("\n");
      for (const address of ownAddresses()) {
        assert(lines.includes(`In your network: http://${address}:${port}/`), lines.join("\n"));
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
