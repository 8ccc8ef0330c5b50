/**
 * Reads the members of option types, with their types, defaults and descriptions, from the output of
 * `deno doc`.
 *
 * @module
 */
import { filesIn, isLibrary } from "../arrows.ts";

/** A type in the output of `deno doc`. */
interface TypeNode {
  readonly kind: string;
  // The shape depends on the kind.
  // deno-lint-ignore no-explicit-any
  readonly value?: any;
  readonly repr?: string;
}

interface JsDoc {
  readonly doc?: string;
  readonly tags?: readonly { readonly kind: string; readonly value?: string }[];
}

interface Property {
  readonly name: string;
  readonly tsType?: TypeNode;
  readonly optional?: boolean;
  readonly jsDoc?: JsDoc;
}

interface Method extends Property {
  readonly functionDef?: { readonly params: readonly Param[] };
}

interface Param {
  readonly name?: string;
  readonly tsType?: TypeNode;
  /** The parameter, if it has a default. */
  readonly left?: Param;
}

interface Declaration {
  readonly kind: string;
  readonly declarationKind: string;
  readonly jsDoc?: JsDoc;
  readonly def: {
    readonly properties?: readonly Property[];
    readonly methods?: readonly Method[];
    readonly extends?: readonly TypeNode[];
    readonly tsType?: TypeNode;
    readonly typeParams?: readonly { readonly name: string; readonly constraint?: TypeNode }[];
    readonly target?: { readonly filename: string };
  };
}

/** A declared type, with the file that its references start from. */
interface Declared {
  readonly file: string;
  readonly declaration: Declaration;
}

/** A type, with the declaration in which it is written. */
interface Place {
  readonly type: TypeNode;
  readonly in: Declared;
}

/** A member of an option type. */
export interface Member {
  readonly name: string;
  /** The first paragraph of the description, on one line. */
  readonly summary: string;
  /** The text of `@default`; `undefined` if there is none. */
  readonly default: string | undefined;
  readonly isOptional: boolean;
  /** The type in Markdown, without `undefined`. */
  readonly type: string;
  members(): readonly Member[];
}

/** A method that takes options. */
export interface Call {
  readonly name: string;
  readonly options: readonly Member[];
}

/** All declared types and classes of the library. */
export class Declarations {
  readonly #files: ReadonlyMap<string, ReadonlyMap<string, Declaration[]>>;
  readonly #exported = new Map<string, Set<string>>();
  readonly #summaries: ReadonlyMap<string, string>;
  /** The names of all members of types and classes, at any depth. */
  readonly names: ReadonlySet<string>;
  /** The defaults that are numbers, by the name of the option. */
  readonly defaults: ReadonlyMap<string, ReadonlySet<number>>;
  readonly #root: URL;

  private constructor(nodes: Record<string, DocModule>, root: URL) {
    this.#root = root;
    this.#summaries = new Map(
      Object.entries(nodes).map((
        [file, { module_doc }],
      ) => [file, summaryOf(module_doc?.doc ?? "")]),
    );
    this.#files = new Map(
      Object.entries(nodes).map(([file, { symbols }]) => [
        file,
        new Map(symbols.map(({ name, declarations }) => [name, declarations])),
      ]),
    );
    const names = new Set<string>();
    const defaults = new Map<string, Set<number>>();
    visit(Object.values(nodes), (name, text) => {
      names.add(name);
      const value = Number(text);
      if (text === undefined || Number.isNaN(value)) return;
      defaults.set(name, (defaults.get(name) ?? new Set()).add(value));
    });
    this.names = names;
    this.defaults = defaults;
    for (const [file, symbols] of this.#files) {
      for (const [name, declarations] of symbols) {
        if (!declarations.some(isExportedType)) continue;
        this.#exported.set(name, (this.#exported.get(name) ?? new Set()).add(file));
      }
    }
  }

  /**
   * Reads all modules of the library.
   *
   * @param root The URL of the repository.
   */
  static async read(root: URL): Promise<Declarations> {
    const files = (await Array.fromAsync(filesIn(root)))
      .filter((path) =>
        /\.tsx?$/.test(path) && isLibrary(path) && !/^cli\/(?!main\.ts)/.test(path)
      );
    const { success, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["doc", "--json", "--private", ...files],
      cwd: root,
      stderr: "null",
    }).output();
    if (!success) throw new Error("deno doc failed");
    return new Declarations(JSON.parse(new TextDecoder().decode(stdout)).nodes, root);
  }

  /**
   * Returns the members of an exported type, including inherited ones.
   *
   * @param name The name of the type.
   * @returns The members in the order of their declaration.
   * @throws {TypeError} If there is no such type, or more than one.
   */
  membersOf(name: string): Member[] {
    return this.#exports(name).flatMap((declared) => this.#members(declared));
  }

  /**
   * Returns the methods of an exported class whose last parameter is `options`.
   *
   * @param name The name of the class.
   * @returns The methods in the order of their declaration; overloads count as one method.
   * @throws {TypeError} If there is no such class, or more than one.
   */
  callsOf(name: string): Call[] {
    const calls = new Map<string, Call>();
    for (const declared of this.#exports(name)) {
      for (const { name, functionDef } of declared.declaration.def.methods ?? []) {
        const last = functionDef?.params.at(-1);
        const { name: param, tsType } = last?.left ?? last ?? {};
        if (param !== "options" || tsType === undefined) continue;
        const first = calls.get(name);
        const options = this.#membersIn({ type: tsType, in: declared });
        calls.set(name, {
          name,
          options: [
            ...new Map([...first?.options ?? [], ...options].map((it) => [it.name, it])).values(),
          ],
        });
      }
    }
    return [...calls.values()];
  }

  #exports(name: string): Declared[] {
    const files = [...this.#exported.get(name) ?? []];
    if (files.length !== 1) {
      throw new TypeError(`Cannot find type: ${name} must be exported once, received [${files}]`);
    }
    return this.#declared(name, files[0]!);
  }

  /**
   * Returns the members of an exported constant object.
   *
   * @returns The names of the members, and the first paragraphs of their descriptions.
   */
  constantsOf(name: string): Pick<Member, "name" | "summary">[] {
    return this.#exports(name)
      .flatMap((declared) =>
        this.#membersIn({ type: declared.declaration.def.tsType!, in: declared })
      );
  }

  /**
   * Returns the first sentence of a module's description.
   *
   * @param file The path of the module from the root of the repository.
   * @returns The sentence.
   */
  moduleSummary(file: string): string {
    const summary = this.#summaries.get(new URL(file, this.#root).href) ?? "";
    return /^.*?\.(?= |$)/.exec(summary)?.[0] ?? summary;
  }

  /** Finds the declarations of a name in a file, also if the file re-exports it. */
  #declared(name: string, file: string): Declared[] {
    return (this.#files.get(file)?.get(name) ?? []).flatMap((declaration) =>
      declaration.kind === "reference"
        ? this.#declared(name, declaration.def.target!.filename)
        : [{ file, declaration }]
    );
  }

  /** Finds the declarations that a reference means; none of a type parameter or a global type. */
  #resolve({ type: { value }, in: { file } }: Place): Declared[] {
    const { typeName, resolution } = value;
    if (resolution?.kind === "local") return this.#declared(typeName, file);
    if (resolution?.kind !== "import") return [];
    return this.#declared(resolution.name, new URL(resolution.specifier, file).href);
  }

  #members(declared: Declared): Member[] {
    const { kind, def } = declared.declaration;
    if (kind === "typeAlias") return this.#membersIn({ type: def.tsType!, in: declared });
    if (kind !== "interface") return [];
    return [
      ...(def.extends ?? []).flatMap((type) => this.#membersIn({ type, in: declared })),
      ...this.#named([...def.properties ?? [], ...def.methods ?? []], declared),
    ];
  }

  #membersIn(place: Place): Member[] {
    const { kind, value } = place.type;
    const within = (type: TypeNode) => this.#membersIn({ ...place, type });
    if (kind === "parenthesized") return within(value);
    if (kind === "union" || kind === "intersection") return (value as TypeNode[]).flatMap(within);
    if (kind === "typeLiteral") {
      return this.#named([...value.properties ?? [], ...value.methods ?? []], place.in);
    }
    if (kind === "indexedAccess") {
      const name = value.indexType.value.string;
      return within(value.objType).find((member) => member.name === name)?.members().slice() ?? [];
    }
    if (kind !== "typeRef") return [];
    const [inner, names] = (value.typeParams ?? []) as TypeNode[];
    if (value.typeName === "Omit" || value.typeName === "Pick") {
      const chosen = new Set(
        (names!.kind === "union" ? names!.value as TypeNode[] : [names!])
          .map((literal) => literal.value.string as string),
      );
      return within(inner!).filter(({ name }) => chosen.has(name) === (value.typeName === "Pick"));
    }
    if (value.typeName === "Readonly") return within(inner!);
    if (value.typeName === "Partial") {
      return within(inner!).map((member) => ({ ...member, isOptional: true }));
    }
    if (value.typeName === "Record") return [this.#entryOf({ ...place, type: names! })];
    return this.#resolve(place).flatMap((declared) => this.#members(declared));
  }

  /** The value of a record whose keys are patterns, as a member. */
  #entryOf(place: Place): Member {
    return {
      name: "[pattern]",
      summary: "",
      default: undefined,
      isOptional: true,
      type: this.#typeText(place),
      members: () => this.#membersIn(place),
    };
  }

  #named(properties: readonly Property[], declared: Declared): Member[] {
    return properties.filter(({ jsDoc }) => !jsDoc?.tags?.some(({ kind }) => HIDDEN.has(kind)))
      .map(({ name, tsType, optional, jsDoc }) => {
        const place = tsType && { type: tsType, in: declared };
        return {
          name,
          summary: summaryOf(jsDoc?.doc ?? ""),
          default: defaultIn(jsDoc),
          isOptional: optional === true,
          type: place === undefined ? "function" : this.#typeText(place),
          members: () => place === undefined ? [] : this.#membersIn(place),
        };
      });
  }

  /** Writes a type in Markdown. */
  #typeText(place: Place): string {
    return listOf([...new Set(this.#parts(place))], "or");
  }

  /** Writes each part of a union; names that stand for a union of literals are replaced. */
  #parts(place: Place): string[] {
    const { kind, value, repr } = place.type;
    const within = (type: TypeNode) => this.#parts({ ...place, type });
    switch (kind) {
      case "parenthesized":
        return within(value);
      case "union":
        return (value as TypeNode[]).flatMap(within);
      case "fnOrConstructor":
        return ["function"];
      case "typeLiteral":
      case "mapped":
      case "intersection":
        return ["object"];
      case "typeOperator":
        return within(value.tsType);
      case "array":
        return [`list of ${within(value).join(" or ")}`];
      case "literal":
        return [code(value.kind === "string" ? `"${repr}"` : repr!)];
      case "keyword":
        return repr === "undefined" || repr === "void" ? [] : [code(repr!)];
      case "indexedAccess":
        return [
          this.#membersIn({ ...place, type: value.objType })
            .find(({ name }) => name === value.indexType.value?.string)?.type ?? "object",
        ];
    }
    if (kind !== "typeRef") return [code(repr ?? kind)];
    const { typeName, typeParams = [], resolution } = value;
    if (typeName === "Readonly" || typeName === "Partial" || typeName === "NoInfer") {
      return within(typeParams[0]);
    }
    if (typeName === "Promise") return [`promise`];
    if (typeName === "Omit" || typeName === "Pick" || typeName === "Record") return ["object"];
    if (resolution?.kind === "typeParam") {
      const { constraint } = place.in.declaration.def.typeParams?.find(({ name }) =>
        name === typeName
      ) ?? {};
      return constraint === undefined ? [code("unknown")] : within(constraint);
    }
    const [declared] = this.#resolve(place);
    const alias = declared?.declaration.kind === "typeAlias"
      ? declared.declaration.def.tsType
      : undefined;
    const isShort = alias !== undefined &&
      (alias.kind === "fnOrConstructor" || alias.kind === "intersection" || isLiterals(alias));
    if (isShort) {
      return alias.kind === "intersection"
        ? ["function"]
        : this.#parts({ type: alias, in: declared! });
    }
    return [code(typeName)];
  }
}

/** Calls a function with each name in the output, and the text of its default. */
function visit(node: unknown, found: (name: string, text: string | undefined) => void): void {
  if (typeof node !== "object" || node === null) return;
  if ("name" in node && typeof node.name === "string") {
    found(node.name, defaultIn((node as { readonly jsDoc?: JsDoc }).jsDoc));
  }
  for (const inner of Object.values(node)) visit(inner, found);
}

interface DocModule {
  readonly symbols: readonly DocSymbol[];
  readonly module_doc?: JsDoc;
}

interface DocSymbol {
  readonly name: string;
  readonly declarations: Declaration[];
}

/** Tags of members that are not for users. */
const HIDDEN: ReadonlySet<string> = new Set(["ignore", "internal"]);

function isExportedType({ kind, declarationKind }: Declaration): boolean {
  return declarationKind === "export" &&
    ["class", "interface", "typeAlias", "variable"].includes(kind);
}

/** A longer list of literals is better named. */
const MAX_LITERALS = 5;

function isLiterals({ kind, value }: TypeNode): boolean {
  return kind === "union" && value.length <= MAX_LITERALS &&
    (value as TypeNode[]).every((part) => part.kind === "literal");
}

function code(text: string): string {
  return `\`${text}\``;
}

/** Returns the text of `@default`. The output of `deno doc` ends at the first closing brace. */
function defaultIn(jsDoc: JsDoc | undefined): string | undefined {
  const text = jsDoc?.tags?.find(({ kind }) => kind === "default")?.value;
  const isObject = text?.startsWith("{") && !text.endsWith("}");
  return isObject ? (text === "{" ? "{}" : `${text} }`) : text;
}

/**
 * Writes a list in words.
 *
 * @param last The word before the last part.
 * @returns The list: `a, b or c`.
 */
export function listOf(parts: readonly string[], last: "and" | "or"): string {
  return parts.length < 2
    ? parts.join("")
    : `${parts.slice(0, -1).join(", ")} ${last} ${parts.at(-1)}`;
}

/** Returns the first paragraph of a description as one line of Markdown. */
function summaryOf(doc: string): string {
  const [paragraph] = doc.trim().split(/\n\s*\n/);
  return paragraph!.replace(/\{@link(?:code)? ([^}|]+?)\}/g, "`$1`").replace(/\s*\n\s*/g, " ");
}
