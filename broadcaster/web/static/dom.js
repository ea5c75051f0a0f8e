// Elements out of plain values. Text becomes text nodes and nothing else: what somebody wrote into a tag is never read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

// Only what differs is touched, so that a screen reader and a selection are left in peace.
export function say(node, text, title = "") {
  if (node.textContent !== text) node.textContent = text;
  if (title && node.title !== title) node.title = title;
}

// Rows of a table's body by key: those that stay are kept as nodes, so that focus stays too. `make(key)` returns a row with an
// `update(item)` of its own.
export class Rows {
  constructor(body, make) {
    this.body = body;
    this.make = make;
    this.rows = new Map();
  }

  show(items, keyOf) {
    const wanted = new Set(items.map(keyOf));
    for (const [key, row] of this.rows) {
      if (!wanted.has(key)) {
        row.node.remove();
        this.rows.delete(key);
      }
    }
    items.forEach((item, index) => {
      const key = keyOf(item);
      let row = this.rows.get(key);
      if (!row) this.rows.set(key, (row = this.make(item)));
      row.update(item);
      if (this.body.children[index] !== row.node) this.body.insertBefore(row.node, this.body.children[index] ?? null);
    });
  }
}

// A table that a phone shows as a list of cards. Roles are written out, because `display` takes them away.
export function table(caption, columns) {
  const head = columns.map((column) => el("th", { scope: "col", role: "columnheader", class: column.number && "number" }, column.name));
  const body = el("tbody", { role: "rowgroup" });
  const node = el(
    "table",
    { role: "table" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head)),
    body,
  );
  return { node, body };
}

// One row, whose first cell heads it. `cells` are nodes, in the order of the columns.
export function row(columns, cells) {
  const made = columns.map((column, index) =>
    el(
      index ? "td" : "th",
      { role: index ? "cell" : "rowheader", scope: index ? null : "row", "data-label": column.name, class: column.number ? "number" : column.wide && "wide" },
      cells[index],
    ),
  );
  return el("tr", { role: "row" }, made);
}
