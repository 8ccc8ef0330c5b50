/** Late chunk of HTTP as the last transport; `page.ts` says how chunks work. */
import "./page.ts";

export { fallBackToHttp } from "../../transport/race/http_fallback.ts";
