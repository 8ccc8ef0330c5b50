/**
 * Lists names that may be redundant: types and functions that are declared more than once, and
 * interfaces that have only one implementation and no test double. Also counts conditional spreads;
 * `tools/optionals.ts` forbids conditional spreads of one member.
 *
 * The lists are only hints: two `Entry` types in two folders may be clearer than two longer names.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/names.ts   # takes minutes
 * ```
 *
 * @module
 */
import ts from "npm:typescript@6.0.3";
import { isLibrary, readRepository, type Repository } from "./arrows.ts";

/** A name with two or more declarations. */
export interface DoubleName {
  readonly kind: "type" | "function";
  readonly name: string;
  /** Path and line of each declaration. */
  readonly places: readonly string[];
}

/** An interface with functions that one class or object implements. */
export interface OneUserInterface {
  readonly name: string;
  /** Path and line of the declaration. */
  readonly place: string;
  /** Class, or path and line of the object literal. */
  readonly implementer: string;
}

/**
 * Lists types, classes and functions that the library declares more than once at the top level of
 * files.
 *
 * @param repository The files, as returned by `readRepository()` in `arrows.ts`.
 * @returns The names; those with the most declarations first.
 */
export function doubleNames({ files }: Repository): DoubleName[] {
  const found = new Map<string, DoubleName & { places: string[] }>();
  for (const [path, source] of files) {
    if (!isLibrary(path)) continue;
    const file = parsed(path, source);
    const seen = new Set<string>();
    for (const [kind, name, node] of file.statements.flatMap(declaredBy)) {
      const key = `${kind} ${name}`;
      // Overloads count as one declaration, and so do a type and a value with the same name.
      if (seen.has(key)) continue;
      seen.add(key);
      const entry = found.get(key) ?? { kind, name, places: [] };
      found.set(key, entry);
      entry.places.push(placeOf(node, file));
    }
  }
  return [...found.values()].filter(({ places }) => places.length > 1)
    .sort((a, b) => b.places.length - a.places.length || (a.name < b.name ? -1 : 1));
}

function declaredBy(node: ts.Statement): [DoubleName["kind"], string, ts.Node][] {
  if (
    ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node) ||
    ts.isClassDeclaration(node)
  ) return node.name === undefined ? [] : [["type", node.name.text, node]];
  if (ts.isFunctionDeclaration(node) && node.name !== undefined) {
    return [["function", node.name.text, node]];
  }
  if (!ts.isVariableStatement(node)) return [];
  return node.declarationList.declarations.flatMap((declaration) => {
    const { name, initializer } = declaration;
    return initializer !== undefined && ts.isArrowFunction(initializer) && ts.isIdentifier(name)
      ? [["function", name.text, declaration]]
      : [];
  });
}

/**
 * Lists spreads that add a member conditionally, such as `...(x === undefined ? {} : { x })`.
 *
 * @param repository The files, as returned by `readRepository()` in `arrows.ts`.
 * @returns The path and line of each such spread in the library.
 */
export function conditionalSpreads({ files }: Repository): string[] {
  const places: string[] = [];
  for (const [path, source] of files) {
    if (!isLibrary(path)) continue;
    const file = parsed(path, source);
    walk(file, (node) => {
      if (!ts.isSpreadAssignment(node)) return;
      const { expression } = node;
      const inner = ts.isParenthesizedExpression(expression) ? expression.expression : expression;
      const isConditional = ts.isConditionalExpression(inner) ||
        ts.isBinaryExpression(inner) &&
          inner.operatorToken.kind === ts.SyntaxKind.AmpersandAmpersandToken;
      if (isConditional) places.push(placeOf(node, file));
    });
  }
  return places;
}

/**
 * Lists interfaces with methods that have only one implementation and no test double. The list
 * omits interfaces that users can import (published contracts), options, and records (types of
 * objects that the same file creates).
 *
 * @param repository The files, as returned by `readRepository()` in `arrows.ts`.
 * @returns The interfaces, sorted by path.
 */
export function oneUserInterfaces(repository: Repository): OneUserInterface[] {
  const program = programOf(repository);
  const checker = program.getTypeChecker();
  const sources = [...repository.files.keys()].map((path) => program.getSourceFile(ROOT + path)!);
  const published = new Set(
    Object.values(repository.exports).flatMap((path) => {
      const file = program.getSourceFile(ROOT + path.replace(/^\.\//, ""));
      const symbol = file && checker.getSymbolAtLocation(file);
      return symbol === undefined
        ? []
        : checker.getExportsOfModule(symbol).map((name) =>
          name.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(name) : name
        );
    }),
  );
  const implementers = new Map<ts.Symbol, Set<string>>();
  for (const file of sources.filter((file) => isLibrary(pathOf(file)))) {
    for (const node of file.statements) {
      if (!ts.isInterfaceDeclaration(node) || /(?:Options|Settings)$/.test(node.name.text)) {
        continue;
      }
      const symbol = checker.getSymbolAtLocation(node.name)!;
      if (node.members.some(isFunction) && !published.has(symbol)) {
        implementers.set(symbol, new Set());
      }
    }
  }
  for (const file of sources) {
    walk(file, (node) => {
      for (const [type, implementer] of implementationsAt(node, checker)) {
        for (const symbol of withBases(type)) implementers.get(symbol)?.add(implementer);
      }
    });
  }
  return [...implementers].filter(([, { size }]) => size === 1).map(([symbol, users]) => {
    const [node] = symbol.declarations!;
    const [implementer = ""] = users;
    return { name: symbol.name, place: placeOf(node!, node!.getSourceFile()), implementer };
  }).filter(({ place, implementer }) =>
    place.split(":")[0] !== implementer.split(":")[0] && isLibrary(pathIn(implementer))
  );
}

/** Returns the types that a node implements, each with the name of the class or object. */
function implementationsAt(node: ts.Node, checker: ts.TypeChecker): [ts.Type, string][] {
  if (ts.isClassLike(node)) {
    const clauses = (node.heritageClauses ?? []).filter(({ token }) =>
      token === ts.SyntaxKind.ImplementsKeyword
    );
    return clauses.flatMap(({ types }) => types).map((type) => [
      checker.getTypeAtLocation(type),
      nameOf(node),
    ]);
  }
  if (!ts.isExpression(node) || !isHandedOver(node)) return [];
  const expected = checker.getContextualType(node);
  if (expected === undefined) return [];
  const given = checker.getApparentType(checker.getTypeAtLocation(node)).symbol;
  const [declaration] = given?.declarations ?? [];
  if (declaration === undefined) return [];
  const isOwn = ts.isClassLike(declaration) || ts.isObjectLiteralExpression(declaration) ||
    ts.isInterfaceDeclaration(declaration);
  return (expected.isUnionOrIntersection() ? expected.types : [expected])
    .filter(({ symbol }) => isOwn && symbol !== undefined && symbol !== given)
    .map((type) => [type, nameOf(declaration)]);
}

/** Returns true for an object literal, and for a value where a declared type is expected. */
function isHandedOver(node: ts.Expression): boolean {
  const { parent } = node;
  return ts.isObjectLiteralExpression(node) ||
    (ts.isNewExpression(parent) || ts.isCallExpression(parent)) && parent.expression !== node ||
    ts.isPropertyAssignment(parent) && parent.initializer === node ||
    ts.isVariableDeclaration(parent) && parent.initializer === node ||
    ts.isReturnStatement(parent) || ts.isArrowFunction(parent) && parent.body === node;
}

function withBases(type: ts.Type): ts.Symbol[] {
  if (type.symbol === undefined) return [];
  const target = (type as ts.TypeReference).target ?? type;
  const bases = target.isClassOrInterface() ? target.getBaseTypes() ?? [] : [];
  return [type.symbol, ...bases.flatMap(withBases)];
}

function isFunction(member: ts.TypeElement): boolean {
  return ts.isMethodSignature(member) ||
    ts.isPropertySignature(member) && member.type !== undefined &&
      ts.isFunctionTypeNode(member.type);
}

/** Returns the path in a name from {@linkcode nameOf}. */
function pathIn(implementer: string): string {
  return implementer.replace(/^\w+ \(/, "").split(":", 1)[0]!;
}

function nameOf(node: ts.Node): string {
  const place = placeOf(node, node.getSourceFile());
  const { name } = node as { name?: ts.Identifier };
  return name === undefined ? place : `${name.text} (${place})`;
}

/** Root folder of the in-memory program. */
const ROOT = "/skein/";

function programOf({ files }: Repository): ts.Program {
  const options: ts.CompilerOptions = {
    allowImportingTsExtensions: true,
    jsx: ts.JsxEmit.Preserve,
    lib: ["lib.esnext.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    noEmit: true,
    strict: true,
    target: ts.ScriptTarget.ESNext,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile } = host;
  host.directoryExists = () => true;
  host.fileExists = (path) => files.has(path.slice(ROOT.length)) || fileExists(path);
  host.readFile = (path) => files.get(path.slice(ROOT.length)) ?? readFile(path);
  return ts.createProgram([...files.keys()].map((path) => ROOT + path), options, host);
}

function parsed(path: string, source: string): ts.SourceFile {
  return ts.createSourceFile(ROOT + path, source, ts.ScriptTarget.Latest);
}

function walk(node: ts.Node, visit: (node: ts.Node) => void): void {
  visit(node);
  ts.forEachChild(node, (child) => walk(child, visit));
}

function pathOf({ fileName }: ts.SourceFile): string {
  return fileName.slice(ROOT.length);
}

function placeOf(node: ts.Node, file: ts.SourceFile): string {
  return `${pathOf(file)}:${file.getLineAndCharacterOfPosition(node.getStart(file)).line + 1}`;
}

if (import.meta.main) {
  const repository = await readRepository(new URL("../", import.meta.url));
  console.log(`${conditionalSpreads(repository).length} conditional spreads`);
  const oneUser = oneUserInterfaces(repository);
  console.log(`\n${oneUser.length} interfaces with one implementer and no double`);
  for (const { name, place, implementer } of oneUser) {
    console.log(`${name} ${place}: ${implementer}`);
  }
  const doubles = doubleNames(repository);
  console.log(`\n${doubles.length} names declared twice or more`);
  for (const { kind, name, places } of doubles) {
    console.log(`${kind} ${name}: ${places.join(" ")}`);
  }
}
