/**
 * The HTTP API: backends in any language publish, send to users, disconnect sessions, and read
 * presence, histories, health and statistics.
 *
 * @module
 */
export { httpApi } from "../../server/http/api.ts";
export type { ApiAction, ApiOptions } from "../../server/http/api_options.ts";
