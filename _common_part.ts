/**
 * What all parts of a page's code have in common. The parts that are loaded later
 * import all of it, so that bundlers keep it in one file.
 *
 * @module
 */
import "./session/_inside.ts";
import "./session/standard_schema.ts";
import "./transport/common.ts";
