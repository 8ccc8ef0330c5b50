/** The page on the command, as a reader follows the page. */
import { walk } from "./walk.ts";

walk(["docs/reference/cli.md"]);
