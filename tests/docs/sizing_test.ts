/** Walks through the page on sizing, and measures its server with the page's command. */
import { walk } from "./walk.ts";

walk(["docs/deploy/sizing.md"]);
