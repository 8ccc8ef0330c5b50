/**
 * Writes the OpenAPI document of the HTTP API, as a server with the path `/api` serves it, to
 * `docs/protocol/openapi.json`.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/openapi.ts
 * ```
 *
 * @module
 */
import { openApi } from "../operations/http_api/openapi.ts";

/** The file of the document. */
export const OPENAPI_FILE: URL = new URL("../docs/protocol/openapi.json", import.meta.url);

/** Returns the text of the file. */
export function openApiText(): string {
  return `${JSON.stringify(openApi("/api"), null, 2)}\n`;
}

if (import.meta.main) await Deno.writeTextFile(OPENAPI_FILE, openApiText());
