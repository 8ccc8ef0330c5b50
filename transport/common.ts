/**
 * What of this folder the parts that a page loads later share with what it loads
 * at first. All of them import all of it, so that bundlers keep it in one file.
 *
 * @module
 */
import "../errors.ts";
import "./_frame_inbox.ts";
import "./_url.ts";
import "./close_info.ts";
import "./within.ts";
