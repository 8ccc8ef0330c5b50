/** The check of an instrumentation. A page does not load this module. */
import { implementing } from "../../base/options/option_checks.ts";
import type { NestedCheck } from "../../base/options/options.ts";
import type { Instrumentation } from "./instrumentation.ts";

/** Check of the hooks of a feature. */
export const HOOKS: NestedCheck = implementing<
  Instrumentation & { readonly name?: string; mount?(): unknown }
>({
  handle: "function",
  handshake: "function",
  // A feature may be its own instrumentation.
  mount: "function",
  name: "string",
  published: "function",
  received: "function",
  request: "function",
  send: "function",
  sessionClosed: "function",
  sessionOpened: "function",
});
