/**
 * The HTTP API: backends in any language publish, send to users, disconnect sessions, and read
 * presence, histories, health and statistics.
 *
 * @module
 */
export { httpApi } from "./api.ts";
export type { ApiAction, ApiOptions } from "./api_options.ts";
