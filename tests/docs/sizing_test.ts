/** Walks through the page on sizing: its server is measured with the page's command. */
import { walk } from "./walk.ts";

walk(["docs/deploy/sizing.md"]);
