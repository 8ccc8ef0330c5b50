/**
 * Projects of users: temporary folders with files, in which npm has installed the packed package.
 *
 * @module
 */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import manifest from "../../deno.json" with { type: "json" };

/** The folder of the repository. */
export const ROOT = new URL("../../", import.meta.url);

/** Pinned tools and libraries of consumers, which npm installs. */
export const PACKAGES = {
  "@arethetypeswrong/cli": ["@arethetypeswrong/cli@0.18.5"],
  "@types/node": ["@types/node@22.20.5"],
  "@types/react-18": ["@types/react@18.3.31"],
  "@types/react-19": ["@types/react@19.3.0"],
  "esbuild": ["esbuild@0.28.2"],
  "jest": ["jest@30.5.2", "@babel/core@7.29.13", "@babel/preset-env@7.29.14"],
  "publint": ["publint@0.3.25"],
  "react-18": ["react@18.3.1", "react-dom@18.3.1"],
  "react-19": ["react@19.3.1", "react-dom@19.3.1"],
  "typescript": ["typescript@6.0.3"],
  "typescript-5": ["typescript-5@npm:typescript@5.7.3"],
  "typescript-7": ["typescript-7@npm:typescript@7.0.2"],
  "vite": ["vite@8.3.8"],
  "webpack": ["webpack@5.112.2"],
  "zod": ["zod@4.6.7"],
} as const;

/** Name of a tool or library. */
export type Tool = keyof typeof PACKAGES;

/** Result of a command. */
export interface Outcome {
  /** The exit code. */
  readonly code: number;
  /** Standard output and standard error. */
  readonly output: string;
}

/** The path of the tarball that `deno task package` creates. */
export const TARBALL: string = fileURLToPath(
  new URL(`dist/skein-client-${manifest.version}.tgz`, ROOT),
);

/** A folder with the package, and the tools of one consumer. */
export class Project implements AsyncDisposable {
  /** Path of the folder. */
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /**
   * Creates the folder, and installs the packed package and tools.
   *
   * @param files Texts of the files, keyed by path.
   * @param tools Packages besides the client.
   */
  static async make(
    files: Readonly<Record<string, string>>,
    tools: readonly Tool[] = [],
  ): Promise<Project> {
    const project = new Project(await Deno.makeTempDir({ prefix: "skein-consumer-" }));
    const own = JSON.stringify({ private: true, type: "module" });
    for (const [path, content] of Object.entries({ ...files, "package.json": own })) {
      const to = `${project.folder}/${path}`;
      await Deno.mkdir(dirname(to), { recursive: true });
      await Deno.writeTextFile(to, content);
    }
    const packages = tools.flatMap((tool) => PACKAGES[tool]);
    const quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"];
    const install = ["npm", "install", ...quiet, TARBALL, ...packages];
    const { code, output } = await project.run(install);
    if (code !== 0) throw new Error(`npm install failed:\n${output}`);
    return project;
  }

  /** Runs a command in the folder. */
  async run(
    [program, ...args]: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): Promise<Outcome> {
    const { code, stdout, stderr } = await new Deno.Command(program!, {
      args,
      cwd: this.folder,
      env: { NO_COLOR: "1", ...env },
      stdin: "null",
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, output: text(stdout) + text(stderr) };
  }

  /** Runs a tool of the project on Node, by its program's path below `node_modules`. */
  async tool(path: string, ...args: string[]): Promise<Outcome> {
    return await this.run(["node", `node_modules/${path}`, ...args]);
  }

  /** Removes the folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}
