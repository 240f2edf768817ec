// The explorer: shows one query at a time, chosen by the reader. Without it, the page has the first queries.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const place = document.getElementById("explorer");
  const make = (name, attributes, ...inside) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  };
  const [width, height] = data.thumbnail, [mapWidth, mapHeight, border] = data.attention;
  const cell = (kind, at, label, ...inside) => {
    const element = make("span", { class: `thumb ${kind}`, role: "img", "aria-label": label }, ...inside);
    element.style.backgroundPosition = `${-(at % data.columns) * width}px ${-Math.floor(at / data.columns) * height}px`;
    return element;
  };
  const attention = (at, label) => { // enlarged to a thumbnail, without the border that repeats its edge
    const across = width / (mapWidth - 2 * border), down = height / (mapHeight - 2 * border);
    const element = make("span", { class: "thumb attention", role: "img", "aria-label": label });
    const column = at % data.columns, row = Math.floor(at / data.columns);
    element.style.backgroundSize = `${data.columns * mapWidth * across}px auto`;
    element.style.backgroundPosition = `${-(column * mapWidth + border) * across}px ${-(row * mapHeight + border) * down}px`;
    return element;
  };
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  const numbers = data.queries.map((_, number) => number);
  const orders = {
    "models differ most": () => numbers,
    "by identity": () => [...numbers].sort((a, b) => data.queries[a].identity - data.queries[b].identity),
  };
  data.models.forEach((title, model) => {
    orders[`worst under ${title}`] = () =>
      [...numbers].sort((a, b) => data.queries[a].precision[model] - data.queries[b].precision[model]);
  });

  let order = numbers, at = 0;
  const show = (next) => {
    at = (next + order.length) % order.length;
    const number = order[at], query = data.queries[number];
    const heading = make("h2", {}, `Identity ${query.identity}, camera ${query.camera}`);
    const parts = [heading, make("p", { class: "files" }, query.name)];
    data.models.forEach((title, model) => {
      const row = make("div", { class: "ranks" });
      const map = attention(number * data.models.length + model, `where ${title} responds`);
      row.append(make("figure", {}, make("span", { class: "pair" }, cell("query", number, "query"), map), make("figcaption", {}, "query")));
      query.top[model].forEach((image, rank) => {
        if (image < 0) return;
        const [identity, camera] = data.gallery[image], right = identity === query.identity;
        const label = `${right ? "right" : "wrong"}: identity ${identity}, camera ${camera}`;
        const mark = `${right ? "✓" : "✗"} ${query.distance[model][rank].toFixed(query.distance[model][rank] < 10 ? 2 : 0)}`;
        row.append(make("figure", { class: right ? "right" : "wrong" }, cell("gallery", image, label), make("figcaption", {}, mark)));
      });
      parts.push(make("h3", {}, title), make("p", { class: "files" },
        `first right match at rank ${query.rank[model]}, average precision ${percent(query.precision[model])}`),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Ranking under ${title}` }, row));
    });
    place.replaceChildren(...parts);
    where.textContent = `${at + 1} of ${order.length}`;
    history.replaceState(null, "", "#" + encodeURIComponent(query.name));
  };
  const button = (text, does) => {
    const element = make("button", { type: "button" }, text);
    element.addEventListener("click", does);
    return element;
  };
  const choose = make("select", { "aria-label": "Order of the queries" }, ...Object.keys(orders).map((name) => make("option", {}, name)));
  choose.addEventListener("change", () => { order = orders[choose.value](); show(0); });
  const failure = make("select", { "aria-label": "Model whose failures are looked for" }, ...data.models.map((name) => make("option", {}, name)));
  const where = make("output", { "aria-live": "polite" });
  const fails = () => {
    const model = data.models.indexOf(failure.value);
    for (let step = 1; step <= order.length; step += 1)
      if (data.queries[order[(at + step) % order.length]].rank[model] !== 1) return show(at + step);
    where.textContent = "none fails";
  };
  document.getElementById("explorer-tools").append(choose, button("← Previous", () => show(at - 1)), button("Next →", () => show(at + 1)),
    button("Next failure of", fails), failure, where);
  addEventListener("keydown", (event) => {
    if (event.target.closest("select, input")) return;
    if (event.key === "ArrowRight") show(at + 1);
    if (event.key === "ArrowLeft") show(at - 1);
  });
  const asked = order.findIndex((number) => data.queries[number].name === decodeURIComponent(location.hash.slice(1)));
  show(Math.max(0, asked));
})();
