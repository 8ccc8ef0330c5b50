/** Walks through the page about the command as a reader does. */
import { walk } from "./walk.ts";

walk(["docs/reference/cli.md"]);
