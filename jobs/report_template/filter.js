// The filter box without a server: comparisons as in a SQL WHERE clause, read by a small parser and never by eval.
// Three-valued like SQL: a comparison with a missing value is null and keeps nothing.
function tokens(text) {
  const pattern = /\s*(?:(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)|'((?:[^']|'')*)'|([a-z_][\w.]*)|(<=|>=|<>|!=|==|[=<>(),-]))/giy;
  const found = [];
  while (pattern.lastIndex < text.trimEnd().length) {
    const at = pattern.lastIndex;
    const match = pattern.exec(text);
    if (!match) throw new Error(`cannot read “${text.slice(at).trim().slice(0, 20)}”`);
    if (match[1] !== undefined) found.push({ kind: "value", value: Number(match[1]) });
    else if (match[2] !== undefined) found.push({ kind: "value", value: match[2].replaceAll("''", "'") });
    else if (match[3] !== undefined) found.push({ kind: "word", value: match[3] });
    else found.push({ kind: "sign", value: match[4] });
  }
  return found;
}

// text -> (row) => true | false | null; `lookup(name)` gives a column or null.
function parseFilter(text, lookup) {
  const list = tokens(text);
  let at = 0;
  const is = (value) => list[at] !== undefined && list[at].kind !== "value" && String(list[at].value).toLowerCase() === value;
  const take = (value) => is(value) && (at += 1) > 0;
  const need = (value) => { if (!take(value)) throw new Error(`expected “${value}” ${list[at] ? `before “${list[at].value}”` : "at the end"}`); };

  function either() {
    let left = both();
    while (take("or")) { const [a, b] = [left, both()]; left = (row) => { const x = a(row), y = b(row); return x || y ? true : x === null || y === null ? null : false; }; }
    return left;
  }
  function both() {
    let left = inverse();
    while (take("and")) { const [a, b] = [left, inverse()]; left = (row) => { const x = a(row), y = b(row); return x === false || y === false ? false : x === null || y === null ? null : true; }; }
    return left;
  }
  function inverse() {
    if (!take("not")) return comparison();
    const inner = inverse();
    return (row) => { const x = inner(row); return x === null ? null : !x; };
  }
  function comparison() {
    if (take("(")) { const inner = either(); need(")"); return inner; }
    const left = operand();
    if (take("is")) { const no = take("not"); need("null"); return (row) => (left(row) === null) !== no; }
    const negated = take("not");
    const maybe = (test) => (row) => { const x = left(row); if (x === null) return null; const y = test(x, row); return y === null ? null : y !== negated; };
    if (take("in")) {
      need("(");
      const options = [operand()];
      while (take(",")) options.push(operand());
      need(")");
      return maybe((x, row) => options.some((option) => option(row) === x) || (options.some((option) => option(row) === null) ? null : false));
    }
    if (take("between")) { const low = operand(); need("and"); const high = operand(); return maybe((x, row) => (low(row) === null || high(row) === null ? null : x >= low(row) && x <= high(row))); }
    if (is("like") || is("ilike")) {
      const sensitive = is("like");
      at += 1;
      const wanted = operand();
      return maybe((x, row) => like(String(wanted(row)), sensitive).test(String(x)));
    }
    if (negated) throw new Error("expected “in”, “between” or “like” after “not”");
    const sign = list[at];
    const compare = sign && sign.kind === "sign" && comparisons[sign.value];
    if (!compare) throw new Error(`expected a comparison ${sign ? `before “${sign.value}”` : "at the end"}`);
    at += 1;
    const right = operand();
    return (row) => { const x = left(row), y = right(row); return x === null || y === null ? null : compare(x, y); };
  }
  function operand() {
    const token = list[at];
    if (!token) throw new Error("the filter ends too early");
    at += 1;
    if (token.kind === "value") return () => token.value;
    if (token.value === "-") { const inner = operand(); return (row) => { const x = inner(row); return x === null ? null : -x; }; }
    if (token.kind === "word" && token.value.toLowerCase() === "abs" && take("(")) {
      const inner = operand();
      need(")");
      return (row) => { const x = inner(row); return x === null ? null : Math.abs(x); };
    }
    if (token.kind === "word" && token.value.toLowerCase() === "null") return () => null;
    const values = token.kind === "word" ? lookup(token.value.toLowerCase()) : null;
    if (!values) throw new Error(`no column “${token.value}”`);
    return (row) => values[row] ?? null;
  }
  const test = either();
  if (at < list.length) throw new Error(`cannot read “${list[at].value}”`);
  return test;
}
const comparisons = {
  "=": (x, y) => x === y, "==": (x, y) => x === y, "!=": (x, y) => x !== y, "<>": (x, y) => x !== y,
  "<": (x, y) => x < y, ">": (x, y) => x > y, "<=": (x, y) => x <= y, ">=": (x, y) => x >= y,
};
function like(pattern, sensitive) {
  const escaped = pattern.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll("%", ".*").replaceAll("_", ".");
  return new RegExp(`^${escaped}$`, sensitive ? "s" : "si");
}

// Words without an operator are looked for in names.
const looksLikeSql = (text) => /[=<>()]|\b(is|in|like|ilike|between)\b/i.test(text);
function filterRows(rows, text, method) {
  const wanted = text.trim();
  if (!wanted) return rows;
  if (!looksLikeSql(wanted)) {
    const needle = wanted.toLowerCase();
    return rows.filter((row) => [run.images.key[row], className(run.images.label[row]), className(run.images.prediction[row])]
      .some((name) => name.toLowerCase().includes(needle)));
  }
  const test = parseFilter(wanted, (name) => column(name, method));
  return rows.filter((row) => test(row) === true);
}
