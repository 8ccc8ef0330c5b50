/** The files of the inspector's page. */
import css from "./page/inspector.css" with { type: "text" };
import data from "./page/data.js" with { type: "text" };
import draw from "./page/draw.js" with { type: "text" };
import html from "./page/index.html" with { type: "text" };
import lists from "./page/lists.js" with { type: "text" };
import main from "./page/main.js" with { type: "text" };
import overview from "./page/overview.js" with { type: "text" };
import skeinCss from "./page/skein.css" with { type: "text" };
import skeinJs from "./page/skein.js" with { type: "text" };
import skeinSvg from "./page/skein.svg" with { type: "text" };
import sessionDetail from "./page/session_detail.js" with { type: "text" };
import traffic from "./page/traffic.js" with { type: "text" };
import words from "./page/words.js" with { type: "text" };

const SCRIPT = "text/javascript";

/** The files by path below the inspector's path, each with its media type. */
export const PAGE_FILES: ReadonlyMap<string, readonly [type: string, body: string]> = new Map([
  ["/", ["text/html", html]],
  ["/inspector.css", ["text/css", css]],
  ["/data.js", [SCRIPT, data]],
  ["/draw.js", [SCRIPT, draw]],
  ["/lists.js", [SCRIPT, lists]],
  ["/main.js", [SCRIPT, main]],
  ["/overview.js", [SCRIPT, overview]],
  ["/session_detail.js", [SCRIPT, sessionDetail]],
  // The style of all Skein pages, which the examples also use.
  ["/skein.css", ["text/css", skeinCss]],
  ["/skein.js", [SCRIPT, skeinJs]],
  ["/skein.svg", ["image/svg+xml", skeinSvg]],
  ["/traffic.js", [SCRIPT, traffic]],
  ["/words.js", [SCRIPT, words]],
]);
