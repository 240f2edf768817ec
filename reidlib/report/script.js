// What a page can do besides being read: theme, sorting and copying of tables, search. Without it, all is readable.
"use strict";
(() => {
  const root = document.documentElement;
  const make = (name, attributes, text) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    return element;
  };

  // ---- dark and light: the reader's setting, or what was chosen here
  const kept = { // a browser may refuse to keep anything
    read: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
    write: (theme) => { try { localStorage.setItem("theme", theme); } catch { /* it lasts for this page */ } },
  };
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (prefersDark.matches ? "dark" : "light");
  if (["dark", "light"].includes(kept.read())) root.dataset.theme = kept.read();
  const switches = [...document.querySelectorAll(".tools")].map((place) => {
    const button = make("button", { type: "button", class: "theme" });
    place.append(button);
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      kept.write(root.dataset.theme);
      label();
    });
    return button;
  });
  const label = () => {
    for (const button of switches) button.textContent = theme() === "dark" ? "Light colours" : "Dark colours";
  };
  prefersDark.addEventListener("change", label);
  label();

  // ---- search: a field on every page that leads to the page of results
  const results = document.getElementById("results");
  for (const place of document.querySelectorAll(".tools")) {
    const field = make("input", { type: "search", placeholder: "Search the report", "aria-label": "Search the report" });
    place.prepend(field);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && field.value.trim() && !results)
        location.href = "search.html#" + encodeURIComponent(field.value.trim());
    });
    if (results) field.addEventListener("input", () => show(field.value, field));
  }
  const folded = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/\u2212/g, "-").toLowerCase();
  const entries = results && JSON.parse(document.getElementById("search-index").textContent)
    .map((entry) => ({ ...entry, in: folded(entry.title + " " + entry.heading), text_in: folded(entry.text) }));
  const show = (asked, from) => {
    const words = folded(asked).split(/\s+/).filter(Boolean);
    const count = (text, word) => text.split(word).length - 1;
    const rank = (entry) => words.reduce((sum, word) => sum + 20 * count(entry.in, word) + count(entry.text_in, word), 0);
    const found = words.length === 0 ? [] : entries
      .filter((entry) => words.every((word) => entry.in.includes(word) || entry.text_in.includes(word)))
      .sort((one, other) => rank(other) - rank(one));
    results.replaceChildren(...found.slice(0, 60).map((entry) => {
      const item = make("li", {});
      item.append(make("a", { href: entry.href }, entry.heading || entry.title));
      if (entry.heading) item.append(make("small", {}, " " + entry.title));
      item.append(snippet(entry, words));
      return item;
    }));
    document.getElementById("found").textContent =
      words.length === 0 ? "" : `${found.length} ${found.length === 1 ? "section" : "sections"} found`;
    for (const field of document.querySelectorAll(".tools input")) if (field !== from) field.value = asked;
    if (asked || location.hash) history.replaceState(null, "", "#" + encodeURIComponent(asked));
  };
  const snippet = (entry, words) => { // folding may change lengths; then the place is only near
    const first = Math.max(0, Math.min(...words.map((word) => entry.text_in.indexOf(word)).filter((at) => at >= 0), 1e9));
    const start = first > 1e8 ? 0 : Math.max(0, first - 60);
    const text = (start ? "… " : "") + entry.text.slice(start, start + 220);
    const line = make("p", {});
    const pattern = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
    text.split(new RegExp(`(${pattern})`, "i")).forEach((part, index) =>
      line.append(index % 2 ? make("mark", {}, part) : part));
    return line;
  };
  if (results) {
    const asked = () => decodeURIComponent(location.hash.slice(1));
    show(asked());
    addEventListener("hashchange", () => show(asked()));
    document.querySelector(".search-page input")?.focus();
  }

  // ---- tables: sorted by a column, copied as CSV or LaTeX
  const value = (cell) => {
    const text = cell.textContent.trim().replace(/\u2212/g, "-");
    const number = text.replace(/,(?=\d{3})/g, "").match(/^[+-]?\d+(\.\d+)?/);
    return number ? Number(number[0]) : /^(–|-|not run|not computed|did not learn|)$/.test(text) ? null : text.toLowerCase();
  };
  const order = (one, other) => typeof one === "number" && typeof other === "number"
    ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
  const sortable = (table) => table.tHead?.rows.length === 1 && table.tBodies[0]?.rows.length > 2
    && !table.querySelector("tbody [rowspan], tbody [colspan], thead [colspan]");
  for (const table of document.querySelectorAll(".scroll > table")) {
    if (sortable(table)) [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = make("button", { type: "button", class: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      const body = table.tBodies[0], before = [...body.rows];
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort || "none"];
        for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
        if (next !== "none") head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        body.append(...(next === "none" ? before : [...before].sort((one, other) => {
          const a = value(one.cells[column]), b = value(other.cells[column]);
          return a === null || b === null ? (a === null) - (b === null) : sign * order(a, b); // empty ones last
        })));
      });
    });
    const rows = () => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim().replace(/\s+/g, " ")));
    const csv = () => rows().map((row) => row.map((cell) => cell.replace(/\u2212(?=\d)/g, "-")).map((text) =>
      /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text).join(",")).join("\n") + "\n";
    const tex = (text) => text.replace(/\\/g, "\\textbackslash ").replace(/[&%$#_{}]/g, "\\$&").replace(/~/g, "\\textasciitilde ")
      .replace(/\^/g, "\\textasciicircum ").replace(/\u2212/g, "$-$").replace(/±/g, "$\\pm$").replace(/×/g, "$\\times$")
      .replace(/[₀-₉]/g, (sign) => `$_${sign.charCodeAt(0) - 0x2080}$`).replace(/→/g, "$\\to$").replace(/–/g, "--");
    const latex = () => {
      const [head, ...body] = rows().map((row) => row.map(tex).join(" & ") + " \\\\");
      const columns = [...table.rows[0].cells].map((cell) => cell.classList.contains("number") ? "r" : "l").join("");
      return [`\\begin{tabular}{${columns}}`, "\\toprule", head, "\\midrule", ...body, "\\bottomrule", "\\end{tabular}", ""].join("\n");
    };
    const bar = make("div", { class: "copy" });
    for (const [name, text] of [["CSV", csv], ["LaTeX", latex]]) {
      const button = make("button", { type: "button" }, `Copy as ${name}`);
      button.addEventListener("click", async () => {
        button.textContent = (await copied(text())) ? "Copied" : "The browser refuses";
        setTimeout(() => { button.textContent = `Copy as ${name}`; }, 1500);
      });
      bar.append(button);
    }
    (table.closest("figure") || table.parentElement).after(bar);
  }
  const copied = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not from a file, in some browsers */ }
    const field = make("textarea", { class: "off" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  };
})();
