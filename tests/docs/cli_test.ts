/** Walks through the page on the command, as a reader does. */
import { walk } from "./walk.ts";

walk(["docs/reference/cli.md"]);
