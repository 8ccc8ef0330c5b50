/** The projects that `skein new` creates. Their files are loaded with this module. */
import aiContract from "./ai/contract.ts.txt" with { type: "text" };
import aiHtml from "./ai/index.html.txt" with { type: "text" };
import aiModel from "./ai/model.ts.txt" with { type: "text" };
import aiPage from "./ai/page.ts.txt" with { type: "text" };
import aiReadme from "./ai/README.md.txt" with { type: "text" };
import aiServer from "./ai/server.ts.txt" with { type: "text" };
import aiTest from "./ai/server_test.ts.txt" with { type: "text" };
import aiStyle from "./ai/style.css.txt" with { type: "text" };
import boardCards from "./board/cards.ts.txt" with { type: "text" };
import boardContract from "./board/contract.ts.txt" with { type: "text" };
import boardDev from "./board/dev.ts.txt" with { type: "text" };
import boardMutations from "./board/mutations.ts.txt" with { type: "text" };
import boardHtml from "./board/index.html.txt" with { type: "text" };
import boardPage from "./board/page.ts.txt" with { type: "text" };
import boardPast from "./board/past.ts.txt" with { type: "text" };
import boardReadme from "./board/README.md.txt" with { type: "text" };
import boardServer from "./board/server.ts.txt" with { type: "text" };
import boardSite from "./board/site.ts.txt" with { type: "text" };
import boardTest from "./board/server_test.ts.txt" with { type: "text" };
import boardStyle from "./board/style.css.txt" with { type: "text" };
import chatContract from "./chat/contract.ts.txt" with { type: "text" };
import chatHtml from "./chat/index.html.txt" with { type: "text" };
import chatPage from "./chat/page.ts.txt" with { type: "text" };
import chatReadme from "./chat/README.md.txt" with { type: "text" };
import chatServer from "./chat/server.ts.txt" with { type: "text" };
import chatTest from "./chat/server_test.ts.txt" with { type: "text" };
import chatStyle from "./chat/style.css.txt" with { type: "text" };
import gameHtml from "./game/index.html.txt" with { type: "text" };
import gamePage from "./game/page.ts.txt" with { type: "text" };
import gameReadme from "./game/README.md.txt" with { type: "text" };
import gameServer from "./game/server.ts.txt" with { type: "text" };
import gameTest from "./game/server_test.ts.txt" with { type: "text" };
import gameStyle from "./game/style.css.txt" with { type: "text" };
import gameWorld from "./game/world.ts.txt" with { type: "text" };
import hooksPython from "./hooks/backend.py.txt" with { type: "text" };
import hooksBackend from "./hooks/backend.ts.txt" with { type: "text" };
import hooksConfig from "./hooks/config.ts.txt" with { type: "text" };
import hooksDev from "./hooks/dev.ts.txt" with { type: "text" };
import hooksEvents from "./hooks/events.ts.txt" with { type: "text" };
import hooksHooks from "./hooks/hooks.ts.txt" with { type: "text" };
import hooksLog from "./hooks/log.ts.txt" with { type: "text" };
import hooksPhp from "./hooks/backend.php.txt" with { type: "text" };
import hooksReadme from "./hooks/README.md.txt" with { type: "text" };
import hooksServer from "./hooks/server.ts.txt" with { type: "text" };
import hooksTest from "./hooks/server_test.ts.txt" with { type: "text" };
import hooksSigning from "./hooks/signing.ts.txt" with { type: "text" };
import hooksJson from "./hooks/skein.json.txt" with { type: "text" };
import hooksSlots from "./hooks/slots.ts.txt" with { type: "text" };
import minimalHtml from "./minimal/index.html.txt" with { type: "text" };
import minimalPage from "./minimal/page.ts.txt" with { type: "text" };
import minimalReadme from "./minimal/README.md.txt" with { type: "text" };
import minimalServer from "./minimal/server.ts.txt" with { type: "text" };
import minimalTest from "./minimal/server_test.ts.txt" with { type: "text" };
import reactContract from "./react/contract.ts.txt" with { type: "text" };
import reactDev from "./react/dev.ts.txt" with { type: "text" };
import reactReadme from "./react/README.md.txt" with { type: "text" };
import reactServer from "./react/server.ts.txt" with { type: "text" };
import reactTest from "./react/server_test.ts.txt" with { type: "text" };
import reactSite from "./react/site.ts.txt" with { type: "text" };
import reactStyle from "./react/style.css.txt" with { type: "text" };
import reactVite from "./react/vite.config.ts.txt" with { type: "text" };
import reactApp from "./react/web/app.tsx.txt" with { type: "text" };
import reactChat from "./react/web/chat.tsx.txt" with { type: "text" };
import reactChatTest from "./react/web/chat_test.tsx.txt" with { type: "text" };
import reactHooks from "./react/web/hooks.ts.txt" with { type: "text" };
import reactHtml from "./react/web/index.html.txt" with { type: "text" };
import reactMain from "./react/web/main.tsx.txt" with { type: "text" };
import reactWords from "./react/web/words.ts.txt" with { type: "text" };
import address from "./shared/address.ts.txt" with { type: "text" };
import dataDev from "./shared/data_dev.ts.txt" with { type: "text" };
import data from "./shared/data.ts.txt" with { type: "text" };
import dev from "./shared/dev.ts.txt" with { type: "text" };
import offline from "./shared/offline.ts.txt" with { type: "text" };
import site from "./shared/site.ts.txt" with { type: "text" };
import status from "./shared/status.ts.txt" with { type: "text" };
import style from "./shared/style.css.txt" with { type: "text" };
import workerScript from "./shared/worker.js.txt" with { type: "text" };
import worker from "./shared/worker.ts.txt" with { type: "text" };

/** A template of a project. */
export interface Template {
  /** One line for the list of templates. */
  readonly summary: string;
  /**
   * The files, by their path in the project. In the README, `NAME` is replaced by the name of the
   * project.
   */
  readonly files: Readonly<Record<string, string>>;
  /** The build of the page, if the project has one. */
  readonly page: PageBuild | undefined;
  /**
   * Packages in addition to Skein and `@std/assert`. `VERSION` is replaced by the version of Skein.
   */
  readonly imports: Readonly<Record<string, string>>;
  /** Options of `docker run` that the server needs. */
  readonly docker?: string | undefined;
}

/** The build of a page. */
export interface PageBuild {
  /** Folder of the sources. */
  readonly folder: string;
  /** File or folder that the build creates. */
  readonly made: string;
  /** Name and command of the task that builds the page. */
  readonly task: readonly [name: string, command: string];
  /**
   * Returns a command that rebuilds the page on each change, next to the command that runs the
   * server.
   */
  readonly dev: (server: string) => string;
  /** Further settings in `deno.json`. */
  readonly config: object;
}

const RUN = "deno run --allow-net --allow-env --allow-read --allow-write";

const BUNDLE = "deno bundle --quiet --minify --platform browser -o page/page.js page/page.ts";

/** A page with one script, built by Deno's bundler. */
const BUNDLED: PageBuild = {
  folder: "page/",
  made: "page/page.js",
  task: ["bundle", BUNDLE],
  dev: (server) =>
    `deno task bundle && (${BUNDLE.replace("--quiet", "--quiet --watch")} & ${server})`,
  config: {},
};

/** Vite, run by Deno. It finds the packages of the page in `node_modules`. */
const VITE = "deno run -A npm:vite@~8.3";

/** A page in React, built by Vite. */
const REACT: PageBuild = {
  folder: "web/",
  made: "dist/",
  task: ["build", `${VITE} build`],
  // The server prints the addresses to open.
  dev: (server) => `(${VITE} --logLevel warn & ${server})`,
  config: {
    nodeModulesDir: "auto",
    compilerOptions: {
      jsx: "react-jsx",
      jsxImportSource: "react",
      lib: ["deno.window", "dom", "dom.iterable"],
    },
  },
};

const ZOD = { "zod": "npm:zod@^4" };

/** All templates by name, in display order. */
export const TEMPLATES: Readonly<Record<string, Template>> = {
  minimal: {
    summary: "A server of 20 lines, with a page and a test",
    files: {
      "README.md": minimalReadme,
      "server.ts": minimalServer,
      "server_test.ts": minimalTest,
      "address.ts": address,
      "site.ts": site,
      "dev.ts": dev,
      "page/index.html": minimalHtml,
      "page/page.ts": minimalPage,
      "page/status.ts": status,
      "page/style.css": style,
    },
    page: BUNDLED,
    imports: {},
  },
  chat: {
    summary: "Rooms with presence and history, in a page",
    files: {
      "README.md": chatReadme,
      "contract.ts": chatContract,
      "server.ts": chatServer,
      "server_test.ts": chatTest,
      "address.ts": address,
      "site.ts": site,
      "dev.ts": dataDev,
      "data.ts": data,
      "page/index.html": chatHtml,
      "page/page.ts": chatPage,
      "page/status.ts": status,
      "page/style.css": style + chatStyle,
    },
    page: BUNDLED,
    imports: ZOD,
  },
  ai: {
    summary: "Streaming responses that survive a reload and a restart, with a mock model",
    files: {
      "README.md": aiReadme,
      "contract.ts": aiContract,
      "model.ts": aiModel,
      "server.ts": aiServer,
      "server_test.ts": aiTest,
      "address.ts": address,
      "site.ts": site,
      "dev.ts": dataDev,
      "data.ts": data,
      "page/index.html": aiHtml,
      "page/page.ts": aiPage,
      "page/status.ts": status,
      "page/style.css": style + aiStyle,
    },
    page: BUNDLED,
    imports: ZOD,
  },
  game: {
    summary: "Players on a field: positions as datagrams, events as messages",
    files: {
      "README.md": gameReadme,
      "server.ts": gameServer,
      "server_test.ts": gameTest,
      "address.ts": address,
      "site.ts": site,
      "dev.ts": dev,
      "world.ts": gameWorld,
      "page/index.html": gameHtml,
      "page/page.ts": gamePage,
      "page/status.ts": status,
      "page/style.css": style + gameStyle,
    },
    page: BUNDLED,
    imports: {},
  },
  board: {
    summary: "A planning board that works offline",
    files: {
      "README.md": boardReadme,
      "cards.ts": boardCards,
      "contract.ts": boardContract,
      "mutations.ts": boardMutations,
      "past.ts": boardPast,
      "server.ts": boardServer,
      "server_test.ts": boardTest,
      "address.ts": address,
      "site.ts": boardSite,
      "worker.ts": worker,
      "dev.ts": boardDev,
      "data.ts": data,
      "page/index.html": boardHtml,
      "page/page.ts": boardPage,
      "page/status.ts": status,
      "page/offline.ts": offline,
      "page/worker.js": workerScript,
      "page/style.css": style + boardStyle,
    },
    page: BUNDLED,
    imports: ZOD,
  },
  react: {
    summary: "The chat in React, with Vite: presence, typing indicator, unsent lines",
    files: {
      "README.md": reactReadme,
      "contract.ts": reactContract,
      "server.ts": reactServer,
      "server_test.ts": reactTest,
      "address.ts": address,
      "site.ts": reactSite,
      "worker.ts": worker,
      "dev.ts": reactDev,
      "data.ts": data,
      "vite.config.ts": reactVite,
      "web/index.html": reactHtml,
      "web/main.tsx": reactMain,
      "web/app.tsx": reactApp,
      "web/chat.tsx": reactChat,
      "web/chat_test.tsx": reactChatTest,
      "web/hooks.ts": reactHooks,
      "web/words.ts": reactWords,
      "web/offline.ts": offline,
      "web/worker.js": workerScript,
      "web/style.css": style + chatStyle + reactStyle,
    },
    page: REACT,
    imports: {
      ...ZOD,
      "@skein/client": "npm:@skein/client@^VERSION",
      "@types/react": "npm:@types/react@^19",
      "@types/react-dom": "npm:@types/react-dom@^19",
      "@vitejs/plugin-react": "npm:@vitejs/plugin-react@^6",
      "react": "npm:react@^19",
      "react-dom": "npm:react-dom@^19",
      "vite": "npm:vite@~8.3",
    },
  },
  hooks: {
    summary: "A server that asks your backend, in any language, who may do what",
    files: {
      "README.md": hooksReadme,
      "skein.json": hooksJson,
      "server.ts": hooksServer,
      "server_test.ts": hooksTest,
      "config.ts": hooksConfig,
      "hooks.ts": hooksHooks,
      "backend.ts": hooksBackend,
      "events.ts": hooksEvents,
      "signing.ts": hooksSigning,
      "slots.ts": hooksSlots,
      "log.ts": hooksLog,
      "address.ts": address,
      "dev.ts": hooksDev,
      "backend.py": hooksPython,
      "backend.php": hooksPhp,
    },
    page: undefined,
    imports: ZOD,
    docker: "--env-file .env",
  },
};

/** True if a template has a database, in the folder `data`. */
function keepsData({ files }: Template): boolean {
  return "data.ts" in files;
}

/** Container image, with the version of Deno with which the templates are tested. */
const IMAGE = "denoland/deno:2.9.6";

/**
 * Creates the Dockerfile, which copies the files that the server needs, but no tests, texts or
 * `dev.ts`. The container starts one file with all packages, in half the time.
 */
function dockerfileOf(template: Template): string {
  const { files, page, docker } = template;
  const modules = Object.keys(files).filter((path) =>
    /\.(ts|json)$/.test(path) && !/\/|_test\.ts$|^dev\.ts$/.test(path)
  );
  const copyPage = page ? `COPY ${page.folder} ${page.folder}\n` : "";
  const buildPage = page ? ` && deno task ${page.task[0]}` : "";
  const hasData = keepsData(template);
  const mount = hasData ? " -v app-data:/srv/app/data" : "";
  const needs = docker === undefined ? "" : ` ${docker}`;
  const volume = hasData
    ? `
# Created for the user below. The volume keeps the data when the container is replaced.
RUN mkdir data && chown 1993:1993 data
VOLUME /srv/app/data
`
    : "";
  const rights = hasData ? `"--allow-write=data", "--allow-sys=osUptime", ` : "";
  return `# docker build -t app . && docker run --rm -p 8000:8000${mount}${needs} app
FROM ${IMAGE}

ENV DENO_NO_UPDATE_CHECK=1 IN_CONTAINER=1
WORKDIR /srv/app

# Keep deno.lock in your repository: the image then has the packages of that file.
COPY deno.json deno.lock* ${modules.join(" ")} ./
${copyPage}RUN deno install --entrypoint server.ts${buildPage} && \\
    deno bundle --quiet --sourcemap=external --output server.js server.ts
${volume}
# From here on without rights; 1993 is the user "deno" of the image.
USER 1993
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD \\
  ["deno", "eval", "const { ok } = await fetch('http://localhost:8000'); Deno.exit(ok ? 0 : 1)"]

# One file starts in half the time; server.js.map maps the lines in its stack traces to the modules.
# --cached-only: the container downloads no code.
CMD ["deno", "run", "--no-prompt", "--cached-only", "--unstable-net", \\
     "--allow-net", "--allow-env", "--allow-read=.", ${rights}"server.js"]
`;
}

/**
 * Creates the files of a project.
 *
 * @param options Name of the project, and version of Skein.
 * @returns The files, by path in the project.
 */
export function filesOf(
  template: Template,
  { name, version }: { readonly name: string; readonly version: string },
): Map<string, string> {
  const { files, page, imports } = template;
  const [task = "", command = ""] = page?.task ?? [];
  const hasData = keepsData(template);
  // Runs the server on the addresses of this machine, and restarts it on each change. The database
  // needs the uptime to tell a killed process from a power loss.
  const dev = `${RUN} --allow-sys=networkInterfaces${hasData ? ",osUptime" : ""} --watch dev.ts`;
  const config = {
    imports: {
      "@skein/skein": "jsr:@skein/skein@^VERSION",
      "@std/assert": "jsr:@std/assert@^1",
      ...imports,
    },
    tasks: {
      dev: page?.dev(dev) ?? dev,
      start: `${page ? `deno task ${task} && ` : ""}${RUN}${
        hasData ? " --allow-sys=osUptime" : ""
      } server.ts`,
      ...(page && { [task]: command }),
      test: "deno test --allow-net --allow-env --allow-read --allow-write",
    },
    // WebTransport needs QUIC, which Deno enables by this name.
    unstable: ["net"],
    ...page?.config,
    exclude: page && [page.made],
  };
  const ignored = [
    "node_modules/",
    ".env",
    ...page ? [page.made] : [],
    ...hasData ? ["data/"] : [],
  ];
  return new Map([
    ["deno.json", `${JSON.stringify(config, undefined, 2).replaceAll("VERSION", version)}\n`],
    ["Dockerfile", dockerfileOf(template)],
    [".gitignore", ignored.map((path) => `${path}\n`).join("")],
    ...Object.entries(files).map(([path, text]) =>
      [path, path === "README.md" ? text.replace("NAME", () => name) : text] as const
    ),
  ]);
}
