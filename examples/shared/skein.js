/**
 * The header of all pages. `site.ts` serves the inspector's file at this address; this module leads
 * bundlers and editors to it.
 *
 * @module
 */
export * from "../../server/inspector/page/skein.js";
