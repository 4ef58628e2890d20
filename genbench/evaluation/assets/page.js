"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("rows");
  if (!list) return;
  const control = (name) => document.getElementById(name);
  const [kind, metric, order, differ, find, count, end, another] =
    ["kind", "metric", "order", "differ", "find", "count", "end", "more"].map(control);
  const STEP = 12; // rows added at a time
  const QUARTER = 0.75; // "disagree" for scores that are not 0 or 1: the widest quarter of the rows

  const element = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  // --- small pictures: one block of lines in the page for every data.block rows, split when first needed

  const blocks = new Map();
  const small = (row, cell) => {
    const block = Math.floor(row / data.block);
    if (!blocks.has(block)) {
      if (blocks.size > 40) blocks.delete(blocks.keys().next().value);
      blocks.set(block, document.getElementById("b" + block).textContent.split("\n"));
    }
    return cell[3] < 0 ? "" : "data:image/webp;base64," + blocks.get(block)[cell[3]];
  };
  const whole = (cell) => cell[0].split("/").map(encodeURIComponent).join("/");

  // --- scores

  const chosen = () => Number(metric.value || 0);
  const value = (cell, which) => (cell && cell[2].length ? cell[2][which] : null);
  const values = (row) => row[3].map((cell) => value(cell, chosen())).filter((each) => each !== null);
  const range = (row) => {
    const all = values(row);
    return all.length > 1 ? Math.max(...all) - Math.min(...all) : 0;
  };
  const gain = (row, chain) => {
    const other = data.against[chain];
    if (other === null) return null;
    const [first, mine] = [value(row[3][other], chosen()), value(row[3][chain], chosen())];
    return first === null || mine === null ? null : mine - first;
  };
  const digits = (each, count) => String(Number(Number(each.toPrecision(count)).toFixed(6)));
  const shown = (each, which) => (each === null ? "" : digits(each * 10 ** data.metrics[which].power, 4));
  const signed = (each) => (each > 0 ? "+" : "") + digits(each * 10 ** data.metrics[chosen()].power, 2);

  const threshold = () => {
    if (data.metrics[chosen()].rate) return 0;
    const sorted = data.rows.map(range).sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length * QUARTER)] || 0;
  };

  // --- which rows, in which order

  const select = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const least = differ.checked ? threshold() : null;
    const wanted = (row) =>
      (kind.value === "" || row[2].includes(Number(kind.value))) &&
      words.every((word) => row[0].toLowerCase().includes(word)) &&
      (least === null || (range(row) > 0 && range(row) >= least));
    const rows = [...data.rows.keys()].filter((i) => wanted(data.rows[i]));
    const [by, chain] = order.value.split(" ");
    if (by === "listed") return rows;
    const key = by === "range" ? range : (row) => gain(row, Number(chain)) * (by === "loss" ? -1 : 1);
    const known = rows.filter((i) => by === "range" || gain(data.rows[i], Number(chain)) !== null);
    return known.sort((a, b) => key(data.rows[b]) - key(data.rows[a]));
  };

  // --- drawing

  let rows = [];
  let drawn = 0;

  const picture = (i, chain) => {
    const row = data.rows[i], cell = row[3][chain], name = data.chains[chain];
    if (!cell) return element("div", { className: "cell" }, element("div", { className: "none" }, "no picture"),
      element("div", { className: "name" }, name));
    const image = element("img", { alt: `${name}, seed ${row[1]}: ${row[0]}`, loading: "lazy", decoding: "async" });
    image.src = small(i, cell) || whole(cell);
    const button = element("button", { type: "button", className: "picture", title: "enlarge" }, image);
    button.addEventListener("click", () => open(i, chain));
    const score = element("div", { className: "score" });
    const mine = value(cell, chosen());
    if (mine !== null) {
      score.append(shown(mine, chosen()));
      const more = gain(row, chain);
      if (more) score.append(element("span", { className: more > 0 ? "up" : "down" }, " " + signed(more)));
    }
    return element("div", { className: "cell" }, button, element("div", { className: "name" }, name), score);
  };

  const draw = () => {
    for (const i of rows.slice(drawn, drawn + STEP)) {
      const row = data.rows[i];
      const head = element("h3", {}, row[0] || "(empty prompt)", element("span", {}, ` seed ${row[1]}`));
      const cells = element("div", { className: "cells" }, ...data.chains.map((_, chain) => picture(i, chain)));
      list.append(element("article", {}, head, cells));
    }
    drawn = Math.min(rows.length, drawn + STEP);
    count.textContent = `${rows.length} of ${data.rows.length} rows`;
    end.hidden = drawn >= rows.length;
  };

  let growing = false; // once asked for more, rows come as one scrolls; before, what follows them is in reach
  const near = () => {
    const { top, bottom } = end.getBoundingClientRect();
    return growing && !end.hidden && bottom > 0 && top < innerHeight * 2; // not for who reads on below
  };
  const more = () => { while (near()) draw(); };
  const restart = () => {
    rows = select();
    drawn = 0;
    list.replaceChildren();
    draw();
    more();
  };

  // --- enlarged

  const viewer = control("viewer"), large = control("viewer-picture");
  const place = { row: 0, chain: 0 }; // row: position in `rows`

  const show = () => {
    const i = rows[place.row], row = data.rows[i], cell = row[3][place.chain];
    control("viewer-chain").textContent = data.chains[place.chain];
    const text = [element("p", { className: "prompt" }, row[0])];
    large.hidden = !cell;
    if (cell) {
      const told = data.metrics.map((each, which) => [each.name, shown(value(cell, which), which)]);
      const facts = [["seed", row[1]], ["evaluations", cell[1]], ...told].filter(([, each]) => each !== "");
      text.push(element("p", {}, facts.map(([name, each]) => `${name} ${each}`).join(" · ")));
      text.push(element("p", { className: "file" }, element("code", {}, `genbench rerun ${cell[0]}`)));
      large.onerror = () => {
        large.onerror = null;
        large.src = small(i, cell);
        text[2].append(" The full picture is not beside this page; this is its small one.");
      };
      large.src = whole(cell);
      large.alt = `${data.chains[place.chain]}: ${row[0]}`;
    } else text.push(element("p", {}, `No picture with seed ${row[1]}.`));
    control("viewer-text").replaceChildren(...text);
  };

  const open = (i, chain) => {
    Object.assign(place, { row: rows.indexOf(i), chain });
    show();
    viewer.showModal();
  };

  const turn = (value, by, size) => (value + by + size) % size;
  const go = {
    left: () => { place.chain = turn(place.chain, -1, data.chains.length); },
    right: () => { place.chain = turn(place.chain, 1, data.chains.length); },
    up: () => { place.row = turn(place.row, -1, rows.length); },
    down: () => { place.row = turn(place.row, 1, rows.length); },
  };
  const move = (where) => {
    if (where === "close") viewer.close();
    else if (go[where]) { go[where](); show(); }
  };

  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]");
    if (button) move(button.dataset.go);
    else if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    move(event.key.slice(5).toLowerCase());
  });

  for (const each of [kind, metric, order, differ]) each.addEventListener("change", restart);
  find.addEventListener("input", restart);
  another.addEventListener("click", () => { growing = true; draw(); more(); });
  addEventListener("scroll", more, { passive: true });
  addEventListener("resize", more);
  restart();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
