/**
 * The header of all pages. `site.ts` serves the inspector's file at this URL; this module is for
 * bundlers and editors.
 *
 * @module
 */
export * from "../../operations/inspector/page/skein.js";
