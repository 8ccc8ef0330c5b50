/**
 * The late chunk with HTTP, which is the last transport to try; `page.ts` explains how chunks work.
 */
import "./page.ts";

export { fallBackToHttp } from "../../transport/race/http_fallback.ts";
