/**
 * VitePress settings. The build writes `site.json` next to a copy of this file, and the pages into
 * the folder above.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { slugOf } from "../contents.ts";
import { SEARCH, sectionsOf } from "../search.ts";

const site = JSON.parse(readFileSync(new URL("site.json", import.meta.url), "utf8"));

/** Names of blocks without a file. */
const NAMES = { output: "Output" };

/** Languages that use a similar grammar. */
const ALIASES = { caddyfile: "nginx", caddy: "nginx", haproxy: "ini", env: "ini" };

/** Shows the name of its file above a code block. */
function withFileNames(md) {
  const { fence } = md.renderer.rules;
  md.renderer.rules.fence = (tokens, index, ...rest) => {
    const block = fence(tokens, index, ...rest);
    const { info } = tokens[index];
    const name = /\bfile=(\S+)/.exec(info)?.[1] ?? /\bignore (\S+\.\w+)/.exec(info)?.[1] ??
      NAMES[/^\S+ (\S+)/.exec(info)?.[1] ?? ""];
    if (name === undefined) return block;
    const caption = md.utils.escapeHtml(name);
    return `<figure class="file"><figcaption>${caption}</figcaption>${block}</figure>\n`;
  };
}

/** Number of columns at which a table uses smaller text. */
const DENSE_COLUMNS = 6;

/** Positions at which a long name in a table may wrap: before a dot or capital, after a slash. */
const BREAKS = /(?<=[\w)])(?=\.[#\w])|(?<=[/_:])(?=\w)|(?<=[a-z\d])(?=[A-Z])/g;

/** Fits tables into the text column; on a phone they scroll. */
function withTableFrames(md) {
  const { rules } = md.renderer;
  const { code_inline: code } = rules;
  let isInTable = false;
  rules.table_open = (tokens, index) => {
    isInTable = true;
    const end = tokens.findIndex(({ type }, at) => at > index && type === "thead_close");
    const columns = tokens.slice(index, end).filter(({ type }) => type === "th_open").length;
    const name = columns < DENSE_COLUMNS ? "table" : "table dense";
    return `<div class="${name}" tabindex="0"><table>\n`;
  };
  rules.table_close = () => {
    isInTable = false;
    return "</table></div>\n";
  };
  rules.code_inline = (...args) => {
    const html = code(...args);
    return isInTable
      ? html.replace(/>([^<]*)</, (_, text) => `>${text.replace(BREAKS, "<wbr>")}<`)
      : html;
  };
}

export default {
  title: "Skein",
  titleTemplate: ":title · Skein",
  description: site.description,
  lang: "en-GB",
  base: site.base,
  outDir: site.out,
  cleanUrls: true,
  metaChunk: true,
  // The tutorial links to the reader's own server.
  ignoreDeadLinks: "localhostLinks",
  srcExclude: ["node_modules/**"],
  head: [
    ["link", { rel: "icon", type: "image/svg+xml", href: `${site.base}mark.svg` }],
    ["meta", { name: "theme-color", media: "(prefers-color-scheme: light)", content: "#ffffff" }],
    ["meta", { name: "theme-color", media: "(prefers-color-scheme: dark)", content: "#14181b" }],
  ],
  markdown: {
    theme: { light: "github-light-high-contrast", dark: "github-dark-high-contrast" },
    languageAlias: ALIASES,
    anchor: { slugify: slugOf },
    // Pages are Markdown as code hosts render it, without extensions.
    attrs: { disable: true },
    config(md) {
      md.disable("emoji");
      withFileNames(md);
      withTableFrames(md);
    },
  },
  themeConfig: {
    logo: { src: "/mark.svg", alt: "", width: 26, height: 26 },
    nav: site.nav,
    sidebar: site.sidebar,
    outline: { level: [2, 3], label: "On this page" },
    search: {
      provider: "local",
      options: {
        detailedView: true,
        miniSearch: {
          ...SEARCH,
          _splitIntoSections: (file) => sectionsOf(readFileSync(file, "utf8")),
        },
      },
    },
    ...(site.repository === undefined ? {} : {
      editLink: { pattern: ({ frontmatter }) => frontmatter.edit, text: "Edit this page" },
      socialLinks: [{ icon: "github", link: site.repository, ariaLabel: "The repository" }],
    }),
    footer: { message: "Skein is free software under the MIT license." },
    notFound: {
      title: "This page does not exist",
      quote: "The URL may contain a typo, or the page has moved. Try the search.",
      linkLabel: "Go to the home page",
      linkText: "Home",
    },
  },
};
