/**
 * The servers that are measured side by side, and how to start each.
 *
 * @module
 */
import type { DialectName } from "./dialects.ts";

/** One server. */
export interface ServerUnderTest {
  /** Name, for `--only`. */
  readonly name: string;
  /** What it is, in words. */
  readonly title: string;
  /** How to speak to it. */
  readonly dialect: DialectName;
  /** Program and arguments; `--port` follows. */
  readonly command: readonly string[];
}

/** The servers, and what was installed for them. */
export interface FoundServers extends AsyncDisposable {
  /** The servers, the control among them. */
  readonly servers: readonly ServerUnderTest[];
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
 * @returns The servers; dispose of them to remove what was installed.
 */
export async function findServers(): Promise<FoundServers> {
  const folder = await Deno.makeTempDir({ prefix: "bench-" });
  const node = await installForNode(folder);
  const runtime = node === undefined ? "Deno" : `Node ${node}`;
  const nodeCommand = (file: string) =>
    node === undefined ? denoCommand(`controls/${file}`) : ["node", `${folder}/${file}`];
  return {
    node,
    servers: [
      {
        name: "skein-plain",
        title: "Skein, plain WebSocket",
        dialect: "plain",
        command: denoCommand("server.ts"),
      },
      {
        name: "skein",
        title: "Skein, `skein.1`",
        dialect: "skein",
        command: denoCommand("server.ts"),
      },
      {
        name: CONTROL,
        title: "bare Deno, a loop over a Set",
        dialect: "plain",
        command: denoCommand("controls/bare.ts"),
      },
      {
        name: "crossws",
        title: "crossws on Deno",
        dialect: "plain",
        command: denoCommand("controls/crossws.ts"),
      },
      { name: "ws", title: `ws on ${runtime}`, dialect: "plain", command: nodeCommand("ws.mjs") },
      {
        name: "socketio",
        title: `socket.io on ${runtime}`,
        dialect: "socketio",
        command: nodeCommand("socketio.mjs"),
      },
    ],
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

function denoCommand(file: string): string[] {
  return [Deno.execPath(), "run", "-A", "--no-lock", new URL(file, import.meta.url).href];
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
