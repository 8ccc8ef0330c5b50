/** The page on sizing, walked: its server is measured with the command of the page. */
import { walk } from "./walk.ts";

walk(["docs/deploy/sizing.md"]);
