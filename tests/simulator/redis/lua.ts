/**
 * Redis scripts, run by Lua 5.1 compiled to WebAssembly. Numbers, patterns and errors are the same
 * as in Redis, which also embeds Lua 5.1.
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { formatNumber } from "./commands.ts";
import {
  type ByteString,
  byteString,
  type Command,
  ErrorReply,
  type Reply,
  StatusReply,
  textOf,
} from "./replies.ts";

/** Most scripts that stay compiled. */
const MAX_SCRIPTS = 1_000;

/** Deepest nesting of tables in a reply. */
const MAX_DEPTH = 32;

const GLOBALS = -10_002;
const REGISTRY = -10_000;

/** Types of Lua, by number. */
const LUA = { nil: 0, boolean: 1, number: 3, string: 4, table: 5 } as const;

/** Functions of the interpreter in WebAssembly, from `lua.h`, with pointers as numbers. */
interface LuaModule {
  readonly HEAPU8: Uint8Array;
  readonly HEAP32: Int32Array;
  addFunction(callback: (state: number) => number, signature: string): number;
  _malloc(bytes: number): number;
  _free(pointer: number): void;
  _luaL_newstate(): number;
  _luaL_openlibs(state: number): void;
  _luaL_loadbuffer(state: number, code: number, bytes: number, name: number): number;
  _luaL_ref(state: number, table: number): number;
  _luaL_unref(state: number, table: number, ref: number): void;
  _lua_createtable(state: number, places: number, fields: number): void;
  _lua_error(state: number): number;
  _lua_getfield(state: number, table: number, name: number): void;
  _lua_gettop(state: number): number;
  _lua_insert(state: number, index: number): void;
  _lua_pcall(state: number, values: number, results: number, handler: number): number;
  _lua_pushboolean(state: number, value: number): void;
  _lua_pushcclosure(state: number, callback: number, values: number): void;
  _lua_pushlightuserdata(state: number, pointer: number): void;
  _lua_pushlstring(state: number, bytes: number, length: number): void;
  _lua_pushnil(state: number): void;
  _lua_pushnumber(state: number, value: number): void;
  _lua_rawgeti(state: number, table: number, index: number): void;
  _lua_rawset(state: number, table: number): void;
  _lua_rawseti(state: number, table: number, index: number): void;
  _lua_setfield(state: number, table: number, name: number): void;
  _lua_settop(state: number, index: number): void;
  _lua_toboolean(state: number, index: number): number;
  _lua_tolstring(state: number, index: number, length: number): number;
  _lua_tonumber(state: number, index: number): number;
  _lua_type(state: number, index: number): number;
}

/** Runs the commands of a script. */
export type ScriptCall = (command: Command) => Reply;

/**
 * Libraries for scripts, set up as by Redis: an error is a table with a location, `pcall` returns
 * the text of an error, and globals are read-only. A function that the model lacks throws an error
 * that names it.
 */
const START = `
local host, getinfo = host, debug.getinfo
for _, name in ipairs({ 'host', 'debug', 'io', 'os', 'package', 'require', 'module', 'print', 'dofile',
  'loadfile', 'newproxy' }) do _G[name] = nil end
local function lacking(library, functions)
  return setmetatable(functions, { __index = function(_, name)
    error('the model of Redis does not have ' .. library .. '.' .. tostring(name), 2)
  end })
end
redis = lacking('redis', {
  call = host.call,
  pcall = host.pcall,
  error_reply = function(text)
    return { err = string.sub(text, 1, 1) == '-' and string.sub(text, 2) or text }
  end,
  status_reply = function(text) return { ok = text } end,
  sha1hex = function(text) return host.hash(text) end,
  log = function() end,
  acl_check_cmd = function() return true end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
})
cjson = lacking('cjson', { decode = function(text)
  local isRead, value = host.decode(text)
  if not isRead then error(value, 2) end
  return value
end, null = host.null })
struct = lacking('struct', { unpack = function(format, bytes, from)
  local size = string.match(format, '^>I([1-8])$')
  if not size then error('the model of Redis does not have the format ' .. tostring(format), 2) end
  local at, number = from or 1, 0
  if at + size - 1 > #bytes then error('data string too short', 2) end
  for i = at, at + size - 1 do number = number * 256 + string.byte(bytes, i) end
  return number, at + size
end })
local catch = pcall
local function textual(isDone, failure, ...)
  if not isDone and type(failure) == 'table' and failure.err then return false, failure.err end
  return isDone, failure, ...
end
pcall = function(...) return textual(catch(...)) end
KEYS, ARGV = {}, {}
setmetatable(_G, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
  __newindex = function() error('Attempt to modify a readonly table', 2) end,
})
return function(failure)
  local place = getinfo(2, 'nSl')
  if place and place.what == 'C' then place = getinfo(3, 'nSl') end
  if type(failure) ~= 'table' then failure = { err = 'ERR ' .. tostring(failure) } end
  if place then failure.source, failure.line = place.source, tostring(place.currentline) end
  return failure
end
`;

/** Size of the buffer for short strings, which most words of commands are. */
const DESK_BYTES = 256;

/**
 * The interpreter of scripts. One serves all servers of a process, because scripts share no state.
 */
export class ScriptEngine {
  static #loading: Promise<ScriptEngine> | undefined;
  readonly #lua: LuaModule;
  readonly #state: number;
  /** Buffer for the length of a string. */
  readonly #length: number;
  /** Buffer for one short string. */
  readonly #desk: number;
  /** Buffers of the few names, kept permanently. */
  readonly #names = new Map<string, number>();
  /** Compiled scripts by hash, the least recently used first. */
  readonly #scripts = new Map<ByteString, number>();
  readonly #handler: number;
  #call: ScriptCall = () => new ErrorReply("ERR no script runs");
  /** Error of the model, which no script may catch. */
  #failure: { readonly error: unknown } | undefined;

  private constructor(lua: LuaModule) {
    this.#lua = lua;
    this.#state = lua._luaL_newstate();
    this.#length = lua._malloc(4);
    this.#desk = lua._malloc(DESK_BYTES);
    lua._luaL_openlibs(this.#state);
    lua._lua_createtable(this.#state, 0, 4);
    this.#define("call", () => this.#runCommand() instanceof ErrorReply);
    this.#define("pcall", () => void this.#runCommand());
    this.#define("hash", () => this.#push(hashOf(this.#text(1))));
    this.#define("decode", () => this.#decode());
    lua._lua_pushlightuserdata(this.#state, 0);
    this.#setField("null");
    lua._lua_setfield(this.#state, GLOBALS, this.#nameOf("host"));
    if (!this.#load(START) || lua._lua_pcall(this.#state, 0, 1, 0) !== 0) {
      throw new Error(`Cannot start Lua: ${this.#text(-1)}`);
    }
    this.#handler = lua._luaL_ref(this.#state, REGISTRY);
  }

  /**
   * Loads the interpreter once per process. This takes real time, so a simulation waits for it
   * before its first event.
   */
  static load(): Promise<ScriptEngine> {
    return this.#loading ??= import("wasmoon-lua5.1").then(async (library) => {
      const { LuaApi } = (library.default ?? library) as unknown as {
        readonly LuaApi: { initialize(): Promise<{ readonly module: LuaModule }> };
      };
      return new ScriptEngine((await LuaApi.initialize()).module);
    });
  }

  /**
   * Compiles a script once.
   *
   * @returns An error reply if the script is invalid.
   */
  compile(hash: ByteString, code: ByteString): ErrorReply | undefined {
    if (this.#scripts.has(hash)) return undefined;
    const lua = this.#lua;
    if (!this.#load(code)) {
      const text = this.#text(-1);
      lua._lua_settop(this.#state, 0);
      return new ErrorReply(`ERR Error compiling script (new function): ${text}`);
    }
    this.#scripts.set(hash, lua._luaL_ref(this.#state, REGISTRY));
    if (this.#scripts.size > MAX_SCRIPTS) {
      const [oldest, ref] = this.#scripts.entries().next().value!;
      this.#scripts.delete(oldest);
      lua._luaL_unref(this.#state, REGISTRY, ref);
    }
    return undefined;
  }

  /**
   * Runs a script.
   *
   * @param input `KEYS` and `ARGV`.
   * @param call Runs a command of the script. A command with an argument of a wrong type is passed
   * as empty.
   */
  run(
    { hash, code }: { readonly hash: ByteString; readonly code: ByteString },
    { keys, args }: { readonly keys: readonly ByteString[]; readonly args: readonly ByteString[] },
    call: ScriptCall,
  ): Reply {
    const mistake = this.compile(hash, code);
    if (mistake !== undefined) return mistake;
    const script = this.#scripts.get(hash)!;
    this.#scripts.delete(hash);
    this.#scripts.set(hash, script);
    const lua = this.#lua;
    const state = this.#state;
    for (const [name, list] of [["KEYS", keys], ["ARGV", args]] as const) {
      this.#push(list);
      lua._lua_setfield(state, GLOBALS, this.#nameOf(name));
    }
    lua._lua_rawgeti(state, REGISTRY, this.#handler);
    lua._lua_rawgeti(state, REGISTRY, script);
    this.#call = call;
    const isFailed = lua._lua_pcall(state, 0, 1, 1) !== 0;
    const failure = this.#failure;
    this.#failure = undefined;
    const reply = isFailed ? this.#errorOf(hash) : this.#replyAt(2, 0);
    lua._lua_settop(state, 0);
    if (failure !== undefined) throw failure.error;
    return reply;
  }

  #load(code: ByteString): boolean {
    const lua = this.#lua;
    const pointer = this.#copy(code);
    const name = this.#nameOf("@user_script");
    const isLoaded = lua._luaL_loadbuffer(this.#state, pointer, code.length, name) === 0;
    lua._free(pointer);
    return isLoaded;
  }

  /**
   * Defines a host function as a field of the top table. `run` pushes the results, and returns
   * `true` to throw the last one.
   */
  #define(name: string, run: () => boolean | void): void {
    const lua = this.#lua;
    const pointer = lua.addFunction(() => {
      const before = lua._lua_gettop(this.#state);
      let throws: boolean;
      try {
        throws = run() === true;
      } catch (error) {
        this.#failure ??= { error };
        this.#push("ERR the model of Redis failed");
        throws = true;
      }
      // Outside of the block above, because the interpreter exits with an exception.
      return throws ? lua._lua_error(this.#state) : lua._lua_gettop(this.#state) - before;
    }, "ii");
    lua._lua_pushcclosure(this.#state, pointer, 0);
    this.#setField(name);
  }

  /** Runs the command on the stack, and pushes the reply. */
  #runCommand(): Reply {
    const reply = this.#call(this.#command());
    this.#push(reply);
    return reply;
  }

  /** Reads the command on the stack; numbers have up to 17 digits, as in Redis. */
  #command(): Command {
    const lua = this.#lua;
    const command: ByteString[] = [];
    for (let i = 1; i <= lua._lua_gettop(this.#state); i++) {
      const type = lua._lua_type(this.#state, i);
      if (type === LUA.string) command.push(this.#text(i));
      else if (type === LUA.number) command.push(formatNumber(lua._lua_tonumber(this.#state, i)));
      else return [];
    }
    return command;
  }

  /** Decodes JSON; pushes success and the value, or the error. */
  #decode(): void {
    let value: unknown;
    try {
      value = JSON.parse(textOf(this.#text(1)));
    } catch {
      this.#lua._lua_pushboolean(this.#state, 0);
      return this.#push("Expected value but found invalid token at character 1");
    }
    this.#lua._lua_pushboolean(this.#state, 1);
    this.#pushJson(value);
  }

  #pushJson(value: unknown): void {
    const lua = this.#lua;
    const state = this.#state;
    if (value === null) lua._lua_pushlightuserdata(state, 0);
    else if (typeof value === "boolean") lua._lua_pushboolean(state, value ? 1 : 0);
    else if (typeof value === "number") lua._lua_pushnumber(state, value);
    else if (typeof value === "string") this.#push(byteString(value));
    else {
      lua._lua_createtable(state, 0, 0);
      const isList = Array.isArray(value);
      for (const [name, each] of Object.entries(value as object)) {
        if (isList) lua._lua_pushnumber(state, Number(name) + 1);
        else this.#push(byteString(name));
        this.#pushJson(each);
        lua._lua_rawset(state, -3);
      }
    }
  }

  /** Pushes a reply as scripts see it. */
  #push(reply: Reply): void {
    const lua = this.#lua;
    const state = this.#state;
    if (typeof reply === "string") {
      // The interpreter copies the bytes.
      const isShort = reply.length < DESK_BYTES;
      const pointer = isShort ? this.#write(reply, this.#desk) : this.#copy(reply);
      lua._lua_pushlstring(state, pointer, reply.length);
      if (!isShort) lua._free(pointer);
    } else if (typeof reply === "number") lua._lua_pushnumber(state, reply);
    else if (reply === null) lua._lua_pushboolean(state, 0);
    else if (reply instanceof StatusReply || reply instanceof ErrorReply) {
      lua._lua_createtable(state, 0, 1);
      this.#push(reply.text);
      this.#setField(reply instanceof StatusReply ? "ok" : "err");
    } else {
      lua._lua_createtable(state, reply.length, 0);
      reply.forEach((each, i) => {
        this.#push(each);
        lua._lua_rawseti(state, -2, i + 1);
      });
    }
  }

  /** Reads the result of a script. */
  #replyAt(index: number, depth: number): Reply {
    const lua = this.#lua;
    const state = this.#state;
    switch (lua._lua_type(state, index)) {
      case LUA.string:
        return this.#text(index);
      case LUA.number: {
        const number = Math.trunc(lua._lua_tonumber(state, index));
        return number === 0 ? 0 : number; // Never -0.
      }
      case LUA.boolean:
        return lua._lua_toboolean(state, index) ? 1 : null;
      case LUA.table:
        break;
      default:
        return null;
    }
    if (depth > MAX_DEPTH) return new ErrorReply("ERR reached lua stack limit");
    const top = lua._lua_gettop(state);
    const at = index < 0 ? top + 1 + index : index;
    const err = this.#field(at, "err");
    if (err !== undefined) return new ErrorReply(err);
    const ok = this.#field(at, "ok");
    if (ok !== undefined) return new StatusReply(ok);
    const list: Reply[] = [];
    for (let i = 1;; i++) {
      lua._lua_rawgeti(state, at, i);
      const isOver = lua._lua_type(state, -1) === LUA.nil;
      if (!isOver) list.push(this.#replyAt(-1, depth + 1));
      lua._lua_settop(state, top);
      if (isOver) return list;
    }
  }

  #errorOf(hash: ByteString): ErrorReply {
    const lua = this.#lua;
    if (lua._lua_type(this.#state, 2) !== LUA.table) {
      return new ErrorReply(`ERR ${this.#text(2)}`);
    }
    const text = this.#field(2, "err") ?? "ERR unknown error";
    const [source, line] = [this.#field(2, "source"), this.#field(2, "line")];
    return new ErrorReply(
      source === undefined ? text : `${text} script: ${hash}, on ${source}:${line}.`,
    );
  }

  /** Reads a string field of a table. */
  #field(table: number, name: string): ByteString | undefined {
    const lua = this.#lua;
    lua._lua_getfield(this.#state, table, this.#nameOf(name));
    const text = lua._lua_type(this.#state, -1) === LUA.string ? this.#text(-1) : undefined;
    lua._lua_settop(this.#state, -2);
    return text;
  }

  #setField(name: string): void {
    this.#lua._lua_setfield(this.#state, -2, this.#nameOf(name));
  }

  #text(index: number): ByteString {
    const lua = this.#lua;
    const pointer = lua._lua_tolstring(this.#state, index, this.#length);
    const length = lua.HEAP32[this.#length >> 2]!;
    const { buffer, byteOffset } = lua.HEAPU8;
    return pointer === 0
      ? ""
      : Buffer.from(buffer, byteOffset + pointer, length).toString("latin1");
  }

  /** Copies bytes to the interpreter's memory; the caller frees them. */
  #copy(bytes: ByteString): number {
    return this.#write(bytes, this.#lua._malloc(bytes.length + 1));
  }

  /** Writes bytes and a final zero to the interpreter's memory. */
  #write(bytes: ByteString, pointer: number): number {
    const { HEAPU8 } = this.#lua;
    const { length } = bytes;
    if (length < DESK_BYTES) {
      for (let i = 0; i < length; i++) HEAPU8[pointer + i] = bytes.charCodeAt(i);
    } else {
      Buffer.from(HEAPU8.buffer, HEAPU8.byteOffset + pointer, length).write(bytes, "latin1");
    }
    HEAPU8[pointer + length] = 0;
    return pointer;
  }

  #nameOf(name: string): number {
    let pointer = this.#names.get(name);
    if (pointer === undefined) this.#names.set(name, pointer = this.#copy(name));
    return pointer;
  }
}

/** Computes the hash of a script: SHA-1 in hexadecimal digits. */
export function hashOf(code: ByteString): ByteString {
  return createHash("sha1").update(Buffer.from(code, "latin1")).digest("hex");
}
