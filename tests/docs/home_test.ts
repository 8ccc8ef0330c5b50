import { walk } from "./walk.ts";

walk(["docs/README.md"]);
