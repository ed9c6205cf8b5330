// The dashboard. One picture of the node (/dashboard.json) is kept up to date by events (/events) and drawn. Everything
// that comes from outside becomes text by text nodes only; no markup is ever made from strings.
"use strict";

const MARKS = {
  running: "●", reloading: "●", completed: "✓", starting: "◐", stopping: "◐", waiting: "◌", backoff: "↻", failed: "✗",
  stopped: "○", held: "‖", well: "●", idle: "○", degraded: "▲", unhealthy: "▲",
};
const SVG = "http://www.w3.org/2000/svg";
const HOUR = 3600;
const ROWS_FIRST = 200; // rows that are drawn unasked
const GRAPH_MAX = 150; // units that are drawn one by one
const CAUSES_FULL = 12;
const POLL_MS = 5000; // without a stream
const WHOLE_MS = 30000; // with one: what events do not tell, such as health
const SOON_MS = 250;
const byId = (id) => document.getElementById(id);

// ---- text

// Characters that make text look other than it is are shown by their numbers.
const DECEIVING = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;
const clean = (text) => String(text).replace(DECEIVING, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");

function fill(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(clean(child)));
  }
  return node;
}

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) if (value !== null) node.setAttribute(name, value);
  return fill(node, children);
}

// A place is made anew only where it says something else, and whoever stands on one of its links stays on it.
function renew(place, children) {
  const fresh = fill(document.createDocumentFragment(), children);
  const [old, now] = [[...place.childNodes], [...fresh.childNodes]];
  if (old.length === now.length && old.every((node, i) => node.isEqualNode(now[i]))) return;
  const stood = place.contains(document.activeElement) ? document.activeElement : null;
  const alike = () => [...place.querySelectorAll(stood.tagName)].filter((node) => node.isEqualNode(stood));
  const nth = stood ? alike().indexOf(stood) : 0;
  place.replaceChildren(fresh);
  if (!stood) return;
  const again = alike();
  (again[nth] || again[0])?.focus({ preventScroll: true });
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  return fill(node, children);
}

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return s + "s";
  if (s < 3600) return Math.floor(s / 60) + "m";
  if (s < 86400) return Math.floor(s / 3600) + "h" + (s < 36000 && s % 3600 >= 60 ? " " + Math.floor((s % 3600) / 60) + "m" : "");
  return Math.floor(s / 86400) + "d";
}

function bytes(n) {
  for (const unit of ["B", "K", "M", "G"]) {
    if (n < 1024 || unit === "G") return (n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)) + unit;
    n /= 1024;
  }
}

// The server's clock, by its last answer.
let ahead = 0;
const now = () => Date.now() / 1000 + ahead;
const since = (unit) => span(now() - unit.since_s);
const inTime = (at) => (at > now() ? "in " + span(at - now()) : "now");
const clock = (iso) => {
  const at = new Date(iso);
  return isNaN(at) ? String(iso) : at.toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
};
const href = (name) => "#unit=" + encodeURIComponent(name);
const link = (name) => el("a", { href: href(name) }, name);
const mark = (word) => el("span", { class: "mark", "aria-hidden": "true" }, MARKS[word] || "·");
const stateOf = (unit) => el("span", { class: "state " + unit.state }, mark(unit.state), " ", unit.state);
const isUp = (unit) => unit.state === "running" || unit.state === "reloading";
const isSick = (unit) => isUp(unit) && (unit.health === "unhealthy" || unit.health === "degraded");
const plural = (n, word) => n + " " + word + (n === 1 ? "" : "s");

// ---- what is true of the node

let node = null;
const units = new Map();

function verdict() {
  const all = [...units.values()].filter((u) => u.desired === "up" || u.state !== "stopped" || u.profile);
  const count = (state) => all.filter((u) => u.state === state).length;
  const fine = all.filter((u) => isUp(u) || u.state === "completed").length;
  const sick = all.filter(isSick).length;
  const [failed, backoff, waiting] = [count("failed"), count("backoff"), count("waiting")];
  const moving = count("starting") + waiting;
  const paused = new Set((node.breakers || []).flatMap((b) => b.held)).size;
  const of = (n) => n + " of " + plural(all.length, "unit");
  const also = [];
  if (backoff) also.push(backoff + " to be tried again");
  if (sick) also.push(sick + " not healthy");
  if (waiting) also.push(waiting + " waiting");
  const say = (level, ...words) => ({ level, sentence: words.join(", ") });
  if (node.stopping) return say("stopping", "shutting down");
  if (failed) return say("failed", of(failed) + " down for good", ...also);
  if (backoff || sick) return say("degraded", of(fine) + " up", ...also);
  if (!all.length) return say("idle", "no unit is wanted");
  if (paused) return say("degraded", of(fine) + " up", paused + " held back by a breaker");
  if (waiting && !count("starting") && node.settled) return say("degraded", of(fine) + " up", waiting + " held back");
  if (moving || !node.settled) return say("starting", of(fine) + " up");
  if (fine < all.length) return say("degraded", of(fine) + " up");
  return say("well", all.length === 1 ? "its 1 unit is up" : "all " + all.length + " units are up");
}

function rank(unit) {
  if (unit.state === "failed") return 0;
  if (unit.state === "backoff" || (isUp(unit) && unit.health === "unhealthy")) return 1;
  if (isSick(unit)) return 2;
  return { waiting: 3, starting: 4, stopping: 4, held: 5, stopped: 5 }[unit.state] ?? 6;
}

// Root causes, worst first: what waits is counted to whatever it waits for in the end.
function troubles() {
  const roots = new Map();
  for (const unit of units.values()) {
    const level = rank(unit);
    if (level <= 2) roots.set(unit.name, { name: unit.name, unit, level, why: "", blocks: new Set() });
  }
  for (const unit of units.values()) {
    if (unit.state !== "waiting") continue;
    const seen = new Set([unit.name]);
    const open = [unit];
    while (open.length) {
      for (const { unit: name, why } of open.pop().blocked_by || []) {
        if (!name || seen.has(name)) continue;
        seen.add(name);
        const known = units.get(name);
        if (roots.has(name)) roots.get(name).blocks.add(unit.name);
        else if (known && known.state === "waiting") open.push(known);
        else if (!known || known.state === "stopped" || known.state === "held") {
          roots.set(name, { name, unit: known, level: 3, why, blocks: new Set([unit.name]) });
        }
      }
    }
  }
  return [...roots.values()].sort((a, b) => a.level - b.level || b.blocks.size - a.blocks.size || a.name.localeCompare(b.name));
}

function what(trouble) {
  const unit = trouble.unit;
  if (!unit) return trouble.why;
  const next = unit.next_try_s ? ", next try " + inTime(unit.next_try_s) : "";
  if (unit.state === "failed") return "failed " + since(unit) + " ago" + next;
  if (unit.state === "backoff") return "ended " + since(unit) + " ago" + next;
  if (isUp(unit)) return "runs, but is " + unit.health;
  if (unit.held !== null && unit.held !== undefined) return "held" + (unit.held ? ": " + unit.held : "");
  return unit.state + " for " + since(unit);
}

function reason(unit) {
  if (!unit) return "";
  if (isUp(unit)) return (isSick(unit) && unit.health_text) || unit.status_text || unit.health_text || "";
  return unit.state === "failed" || unit.state === "backoff" ? unit.last_error || "" : "";
}

function command(trouble) {
  const unit = trouble.unit;
  if (unit && unit.held !== null && unit.held !== undefined) return "ringriftctl unhold " + trouble.name;
  if (trouble.level === 3) return "ringriftctl start " + trouble.name;
  return "ringriftctl " + (isUp(unit) ? "status " : "why ") + trouble.name;
}

// ---- the node's page

function drawVerdict() {
  const { level, sentence } = verdict();
  byId("verdict").dataset.level = level;
  const said = [MARKS[level], node.node, level, sentence].join("|");
  const headline = byId("headline");
  if (headline.dataset.said !== said) { // said again only when it changes: it is read aloud
    headline.dataset.said = said;
    headline.replaceChildren(el("span", { class: "mark", "aria-hidden": "true" }, MARKS[level]), document.createTextNode(" " + clean(node.node) + ": "),
      el("span", { class: "word" }, level), document.createTextNode(", " + clean(sentence)));
  }
  document.title = clean(MARKS[level] + " " + node.node + ": " + level);
  const facts = [
    node.profiles.length ? "profile " + node.profiles.join(", ") : "no profile",
    "up " + span(node.uptime_seconds + (now() - node.timestamp)), "ringriftd " + node.version, node.containment,
  ];
  byId("facts").textContent = clean(facts.filter(Boolean).join(" · "));
  const order = ["failed", "backoff", "waiting", "starting", "stopping", "stopped", "held", "running", "reloading", "completed"];
  const counts = {};
  for (const unit of units.values()) counts[unit.state] = (counts[unit.state] || 0) + 1;
  const items = order.filter((s) => counts[s]).map((s) => el("li", { class: s }, mark(s), " " + counts[s] + " " + s));
  if (node.known > units.size) items.push(el("li", { class: "stopped" }, node.known - units.size + " not wanted here"));
  byId("counts").replaceChildren(...items);
  byId("notices").replaceChildren(...(node.notices || []).map((n) => el("li", {}, n)));
}

// Those that a cause holds up, the first of them by name.
function blocks(names) {
  if (!names.length) return null;
  const shown = names.slice(0, 6).map((name, i) => [i ? ", " : "", link(name)]);
  if (names.length > 6) shown.push(" and " + (names.length - 6) + " more");
  return el("p", { class: "blocks" }, "holds up " + names.length + ": ", shown);
}

// A breaker names units by their keys.
function named(key) {
  for (const unit of units.values()) if (unit.key === key) return unit.name;
  return key.toLowerCase();
}

function drawBreaker(breaker) {
  const { open, category } = breaker;
  const whose = category ? "the breaker of category " + category : "the node's breaker";
  const many = plural(breaker.restarts, "restart") + " within " + span(breaker.window_seconds);
  return el("li", { class: "breaker" },
    el("p", { class: "title" }, el("span", { class: "waiting" }, mark("waiting")), " " + whose + " is open: no restarts for now; it closes "
      + inTime(Date.parse(open.until) / 1000)),
    el("p", {}, "because: " + many + (breaker.restarts === 1 ? " was" : " were") + " made, and ", link(named(open.unit)), " was one too many"),
    blocks(breaker.held.map(named)),
    el("p", {}, el("code", {}, "ringriftctl reset-failed" + (category ? " @" + category : ""))));
}

function drawCauses(list) {
  const breakers = (node.breakers || []).filter((breaker) => breaker.open);
  byId("wrong").hidden = !list.length && !breakers.length;
  const items = list.slice(0, CAUSES_FULL).map((trouble) => {
    const word = trouble.unit ? (isUp(trouble.unit) ? trouble.unit.health : trouble.unit.state) : "stopped";
    const why = reason(trouble.unit);
    return el("li", { class: word },
      el("p", { class: "title" }, el("span", { class: word }, mark(word)), " ", link(trouble.name), " ", what(trouble)),
      why && el("p", {}, "because: ", why),
      blocks([...trouble.blocks]),
      el("p", {}, el("code", {}, command(trouble))));
  });
  if (list.length > CAUSES_FULL) items.push(el("li", {}, el("p", {}, "and " + (list.length - CAUSES_FULL) + " more, in the list below")));
  renew(byId("causes"), [breakers.map(drawBreaker), items]);
}

// The last hour as a strip: the higher, the worse; a word says the same.
const HEIGHTS = { running: 4, reloading: 4, completed: 4, stopped: 2, held: 6, starting: 8, stopping: 8, waiting: 8, backoff: 12, failed: 16 };
function strip(unit) {
  const end = now(), begin = end - HOUR, wide = 120;
  const picture = svg("svg", { class: "strip", viewBox: "0 0 120 16", role: "img" });
  picture.append(svg("rect", { class: "ground", x: 0.5, y: 0.5, width: 119, height: 15 }));
  const history = unit.history && unit.history.length ? unit.history : [[unit.since_s, unit.state]];
  const spent = {};
  let changes = 0;
  history.forEach(([at, state], i) => {
    const until = i + 1 < history.length ? history[i + 1][0] : end;
    const [from, to] = [Math.max(at, begin), Math.min(until, end)];
    if (to <= from) return;
    if (at > begin) changes += 1;
    spent[state] = (spent[state] || 0) + to - from;
    const high = HEIGHTS[state] || 4;
    const x = ((from - begin) / HOUR) * wide;
    const width = Math.max(1.5, ((to - from) / HOUR) * wide);
    picture.append(svg("rect", { class: state, x: x.toFixed(1), y: 16 - high, width: width.toFixed(1), height: high }));
  });
  const bad = Object.entries(spent).filter(([s]) => !["running", "reloading", "completed"].includes(s));
  const said = plural(changes, "change") + (bad.length ? "; " + bad.map(([s, t]) => s + " " + span(t)).join(", ") : ", always up");
  picture.setAttribute("aria-label", "last hour: " + said);
  picture.append(svg("title", {}, "last hour: " + said));
  return picture;
}

// What is no unit: a breaker, which says its name, or the node's limit of starts.
function nameless({ why }) {
  return (why || "").includes(" is open") ? why.split(" is open")[0] : "its turn";
}

function note(unit) {
  const said = [];
  if (unit.held !== null && unit.held !== undefined) said.push("held" + (unit.held ? ": " + unit.held : ""));
  if (unit.state === "waiting" && (unit.blocked_by || []).length) {
    said.push("waits for " + unit.blocked_by.map((b) => b.unit || nameless(b)).join(", "));
  }
  if (unit.state === "failed" || unit.state === "backoff") said.push(unit.last_error || "");
  if (unit.next_try_s) said.push("next try " + inTime(unit.next_try_s));
  if (unit.status_text) said.push(unit.status_text);
  if (unit.needs_restart) said.push("needs restart");
  if (unit.deprecated !== null && unit.deprecated !== undefined) said.push("deprecated" + (unit.deprecated ? ": use " + unit.deprecated : ""));
  if (unit.note) said.push(unit.note);
  return said.filter(Boolean).join("; ");
}

const rows = new Map();
let showsAll = false;
let current = null;

function chosen() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (u) => [u.name, u.state, u.category, u.health].join(" ").toLowerCase();
  const list = [...units.values()].filter((u) => words.every((w) => text(u).includes(w)));
  const by = {
    worst: (a, b) => rank(a) - rank(b), name: () => 0, since: (a, b) => b.since_s - a.since_s,
    restarts: (a, b) => b.restart_count - a.restart_count, category: (a, b) => String(a.category).localeCompare(b.category),
  }[byId("sort").value];
  return list.sort((a, b) => by(a, b) || a.name.localeCompare(b.name));
}

// A row is made anew only when what it says has changed; ages are kept up in place.
function drawRows() {
  const list = chosen();
  const shown = showsAll ? list : list.slice(0, ROWS_FIRST);
  const made = shown.map((unit) => {
    const said = JSON.stringify([unit.state, unit.health, unit.restart_count, unit.since_s, unit.last_error, unit.blocked_by,
      unit.next_try_s, unit.status_text, unit.health_text, unit.held, unit.note, unit.needs_restart, unit.deprecated, (unit.history || []).length]);
    let row = rows.get(unit.name);
    if (!row || row.dataset.said !== said) {
      const had = row && row.contains(document.activeElement);
      const health = unit.health === "unknown" ? "-" : unit.health;
      row = el("tr", { class: "row-" + unit.state },
        el("th", { scope: "row" }, link(unit.name)), el("td", {}, stateOf(unit)),
        el("td", { class: unit.health === "unknown" ? "none" : unit.health }, isSick(unit) && mark(unit.health), " ", health),
        el("td", {}, since(unit)), el("td", { class: unit.restart_count ? "" : "none" }, String(unit.restart_count)),
        el("td", {}, strip(unit)), el("td", {}, note(unit)));
      row.dataset.said = said;
      row.dataset.drawn = String(Math.floor(now() / 60));
      const before = rows.get(unit.name);
      if (before && before.isConnected) before.replaceWith(row);
      rows.set(unit.name, row);
      if (had) row.querySelector("a").focus();
    }
    return row;
  });
  const body = byId("rows");
  made.forEach((row, i) => { if (body.children[i] !== row) body.insertBefore(row, body.children[i] || null); });
  while (body.children.length > made.length) body.lastElementChild.remove();
  for (const name of rows.keys()) if (!units.has(name)) rows.delete(name);
  byId("found").textContent = list.length === units.size ? plural(list.length, "unit") : list.length + " of " + plural(units.size, "unit");
  const more = byId("more");
  more.hidden = shown.length === list.length;
  more.textContent = "Show all " + list.length;
}

function age() {
  if (!node) return;
  for (const [name, row] of rows) {
    const unit = units.get(name);
    if (!unit || !row.isConnected) continue;
    row.children[3].textContent = since(unit);
    const minute = String(Math.floor(now() / 60));
    if (row.dataset.drawn !== minute) {
      row.dataset.drawn = minute;
      row.children[5].replaceChildren(strip(unit));
    }
    if (unit.next_try_s) row.children[6].textContent = clean(note(unit));
  }
}

// ---- the graph

const pulls = (unit) => (unit.depends_on || []).filter((d) => d.kind !== "after");

// Which units are drawn: all of a node of usual size, else what is wrong with what it holds up and needs.
function drawn(list) {
  if (units.size <= GRAPH_MAX) return [...units.keys()];
  const names = new Set();
  for (const trouble of list) {
    if (names.size > GRAPH_MAX / 2) break;
    names.add(trouble.name);
    for (const name of [...trouble.blocks].slice(0, 20)) names.add(name);
    for (const { unit } of pulls(trouble.unit || {})) names.add(unit);
  }
  return [...names].filter((name) => units.has(name));
}

function layers(names) {
  const here = new Set(names);
  const layer = new Map();
  const needs = (name) => pulls(units.get(name)).map((d) => d.unit).filter((n) => here.has(n) && n !== name);
  // As many rounds as there are units at most: a circle, which no daemon has, ends in the last layer.
  for (let round = 0; layer.size < names.length && round <= names.length; round += 1) {
    const ready = names.filter((n) => !layer.has(n) && needs(n).every((m) => layer.has(m)));
    const found = ready.length ? ready : names.filter((n) => !layer.has(n));
    for (const name of found) layer.set(name, round);
  }
  const columns = [];
  for (const name of names) (columns[layer.get(name)] ||= []).push(name);
  // What is wrong and what it holds up first; then beside what it needs, so that lines are short.
  const place = new Map();
  columns.forEach((column) => {
    const wish = (name) => {
      const at = needs(name).map((n) => place.get(n) ?? 0);
      return at.length ? at.reduce((a, b) => a + b, 0) / at.length : 1e6;
    };
    const worst = (name) => Math.min(rank(units.get(name)), 5);
    column.sort((a, b) => worst(a) - worst(b) || wish(a) - wish(b) || a.localeCompare(b));
    column.forEach((name, i) => place.set(name, i / column.length));
  });
  return { columns, needs };
}

let drawnAs = "";
function drawGraph(list) {
  const names = drawn(list);
  const has = names.some((name) => pulls(units.get(name)).length);
  const isLarge = units.size > GRAPH_MAX;
  byId("graph").hidden = !isLarge && !has;
  drawTiles(isLarge);
  byId("drawing").hidden = !names.length || !has;
  const root = new Map();
  for (const trouble of list) for (const name of trouble.blocks) if (!root.has(name)) root.set(name, trouble.name);
  byId("graph-says").textContent = isLarge
    ? "Too many units for one drawing: by category, and below what is wrong with what it holds up."
    : "Left is needed by right." + (root.size ? " Thick dashed lines: " + plural(root.size, "unit") + " held up by what is broken." : "");
  const room = Math.max(byId("drawing").clientWidth, 900);
  const said = room + JSON.stringify(names.map((n) => [n, units.get(n).state, units.get(n).health, units.get(n).depends_on, root.get(n)]));
  if (said === drawnAs) return;
  drawnAs = said;
  const { columns, needs } = layers(names.sort());
  const [wide, high, gap, between] = [170, 24, 7, 44];
  // A long layer stands in several columns side by side, as tall as it takes for all to fit beside each other.
  const across = (tall) => columns.reduce((sum, c) => sum + Math.ceil(c.length / tall) * (wide + 12) + between - 12, 28 - between);
  let tall = 8;
  while (tall < 40 && across(tall) > room) tall += 1;
  const place = new Map();
  const heads = [];
  let x = 14, lowest = 0;
  columns.forEach((column, i) => {
    heads.push([x, i === 0 ? "needs none" : "layer " + (i + 1)]);
    const parts = Math.ceil(column.length / tall);
    const each = Math.ceil(column.length / parts);
    // What holds others up stands on their side, what is held up on the other.
    const isRoot = list.some((t) => t.blocks.size && column.includes(t.name));
    for (let n = 0; n < parts; n += 1) {
      const part = isRoot ? parts - 1 - n : n;
      column.slice(part * each, (part + 1) * each).forEach((name, j) => {
        const y = 34 + j * (high + gap);
        place.set(name, [x, y]);
        lowest = Math.max(lowest, y + high);
      });
      x += wide + (n + 1 < parts ? 12 : between);
    }
  });
  const width = x - between + 14;
  const picture = svg("svg", { width, height: lowest + 14, viewBox: "0 0 " + width + " " + (lowest + 14), role: "group",
    "aria-label": "Units by what they need. Arrow keys go from unit to unit, Enter opens one." });
  for (const [at, text] of heads) picture.append(svg("text", { class: "head", x: at, y: 20 }, text));
  const lines = [], thick = [];
  for (const name of names) {
    for (const { unit: other, kind } of pulls(units.get(name))) {
      if (!place.has(other) || other === name) continue;
      const [x1, y1] = place.get(other), [x2, y2] = place.get(name);
      const [ax, ay, bx, by] = [x1 + wide, y1 + high / 2, x2, y2 + high / 2];
      const bend = Math.max(24, Math.abs(bx - ax) / 2);
      const isBlocked = root.has(name) && (root.get(name) === other || root.has(other));
      const path = svg("path", { d: `M${ax} ${ay}C${ax + bend} ${ay} ${bx - bend} ${by} ${bx} ${by}`,
        class: isBlocked ? "blocks" : kind === "wants" ? "soft" : "" });
      path.dataset.from = other;
      path.dataset.to = name;
      (isBlocked ? thick : lines).push(path);
    }
  }
  picture.append(...lines, ...thick);
  columns.flat().forEach((name, i) => {
    const unit = units.get(name);
    const word = isSick(unit) ? unit.health : unit.state;
    const blocks = list.find((t) => t.name === name)?.blocks.size || 0;
    const by = root.get(name);
    const label = name + ", " + word + (blocks ? ", holds up " + blocks : "") + (by ? ", held up by " + by : "");
    const [at, y] = place.get(name);
    const text = name.length > 21 ? name.slice(0, 20) + "…" : name;
    const box = svg("a", { class: "box " + word, href: href(name), "aria-label": clean(label), tabindex: i ? "-1" : "0" },
      svg("title", {}, label), svg("rect", { x: at, y, width: wide, height: high, rx: 5 }),
      svg("text", { class: "mark-text", x: at + 8, y: y + 16.5 }, MARKS[word] || "·"),
      svg("text", { x: at + 25, y: y + 16.5 }, text));
    box.dataset.name = name;
    picture.append(box);
  });
  const had = document.activeElement?.closest?.("#drawing a")?.dataset.name;
  byId("drawing").replaceChildren(picture);
  if (had) picture.querySelector(`a[data-name="${CSS.escape(had)}"]`)?.focus();
  // Where not all of it fits, what is wrong is in sight.
  const first = list.find((t) => place.has(t.name));
  if (first && had === undefined) byId("drawing").scrollLeft = Math.max(0, place.get(first.name)[0] - 40);
}

function drawTiles(isLarge) {
  const tiles = [];
  if (isLarge) {
    const by = new Map();
    for (const unit of units.values()) {
      const name = unit.category || "without a category";
      if (!by.has(name)) by.set(name, {});
      const states = by.get(name);
      states[unit.state] = (states[unit.state] || 0) + 1;
    }
    const worst = (states) => Math.min(...Object.keys(states).map((state) => rank({ state })));
    for (const [name, states] of [...by].sort((a, b) => worst(a[1]) - worst(b[1]) || a[0].localeCompare(b[0]))) {
      const total = Object.values(states).reduce((a, b) => a + b, 0);
      const parts = Object.entries(states).sort((a, b) => rank({ state: a[0] }) - rank({ state: b[0] }));
      tiles.push(el("li", {}, el("b", {}, name + ": " + total),
        parts.map(([state, n], i) => [i ? ", " : "", el("span", { class: state }, mark(state), n + " " + state)])));
    }
  }
  byId("tiles").replaceChildren(...tiles);
  byId("tiles").hidden = !tiles.length;
}

// Whom it needs and who needs it, at whatever distance, stand out while it is looked at.
function lookAt(name) {
  const drawing = byId("drawing");
  drawing.classList.toggle("looks", Boolean(name));
  if (!name) return;
  const paths = [...drawing.querySelectorAll("path")];
  const reach = (from, to) => {
    const found = new Set([name]);
    for (let grown = true; grown;) {
      grown = false;
      for (const p of paths) if (found.has(p.dataset[from]) && !found.has(p.dataset[to])) { found.add(p.dataset[to]); grown = true; }
    }
    return found;
  };
  const [up, down] = [reach("from", "to"), reach("to", "from")];
  for (const p of paths) {
    const both = (set) => set.has(p.dataset.from) && set.has(p.dataset.to);
    p.classList.toggle("near", both(up) || both(down));
  }
  for (const box of drawing.querySelectorAll(".box")) box.classList.toggle("near", up.has(box.dataset.name) || down.has(box.dataset.name));
}

function graphKeys(event) {
  const box = event.target.closest?.("a.box");
  const step = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[event.key];
  if (!box || !step) return;
  event.preventDefault();
  const centre = (b) => { const r = b.querySelector("rect"); return [Number(r.getAttribute("x")), Number(r.getAttribute("y"))]; };
  const [x, y] = centre(box);
  let best = null, least = Infinity;
  for (const other of byId("drawing").querySelectorAll("a.box")) {
    const [ox, oy] = centre(other);
    const [dx, dy] = [ox - x, oy - y];
    const along = dx * step[0] + dy * step[1];
    const across = Math.abs(step[0] ? dy : dx);
    if (other === box || along <= 0) continue;
    const far = along + across * 3;
    if (far < least) [best, least] = [other, far];
  }
  if (!best) return;
  box.setAttribute("tabindex", "-1");
  best.setAttribute("tabindex", "0");
  best.focus();
  best.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// ---- one unit's page

let asked = 0;
async function drawUnit() {
  const name = current;
  if (!name) return;
  const mine = ++asked;
  let data = null;
  try {
    const answer = await fetch("/dashboard/" + encodeURIComponent(name) + ".json", { cache: "no-store" });
    data = await answer.json();
    if (!answer.ok) {
      byId("unit-title").textContent = "no unit " + clean(name);
      byId("unit-says").textContent = clean((data.nearest || []).length ? "near: " + data.nearest.join(", ") : data.error || "");
      return;
    }
  } catch {
    data = units.get(name) || null; // what is known of it
  }
  if (!data || mine !== asked || current !== name) return;
  showUnit(data);
}

function showUnit(unit) {
  const title = byId("unit-title");
  title.replaceChildren();
  fill(title, [el("span", { class: unit.state }, mark(unit.state)), " ", unit.name, ": ", unit.state]);
  byId("unit-says").textContent = clean(unit.description || "");
  const facts = [];
  const add = (word, ...value) => facts.push(el("dt", {}, word), el("dd", {}, ...value));
  add("State", stateOf(unit), " for " + since(unit), unit.desired === "up" ? "" : ", not wanted");
  const list = troubles();
  const root = list.find((t) => t.blocks.has(unit.name));
  if (root) add("Root cause", link(root.name), " ", what(root), reason(root.unit) ? ": " + reason(root.unit) : "");
  if ((unit.blocked_by || []).length) add("Waits for", unit.blocked_by.map((b, i) => [i ? "; " : "", b.unit ? link(b.unit) : nameless(b), " ", b.why]));
  if (unit.held !== null && unit.held !== undefined) add("Held", unit.held || "without a note");
  if (unit.next_try_s) add("Next try", inTime(unit.next_try_s));
  if (unit.last_error) add("Last error", unit.last_error);
  if (unit.last_exit) {
    const exit = unit.last_exit;
    add("Last exit", exit.signal ? exit.signal : exit.code !== undefined ? "code " + exit.code : "unknown", exit.at ? ", " + clock(exit.at) : "");
  }
  const own = list.find((t) => t.name === unit.name);
  if (own && own.blocks.size) add("Holds up", el("ul", { class: "names" }, [...own.blocks].map((n) => el("li", {}, link(n)))));
  add("Health", el("span", { class: unit.health }, unit.health), unit.health_text ? ": " + unit.health_text : "");
  if (unit.status_text) add("It says", unit.status_text);
  const life = [unit.pid ? "pid " + unit.pid : "", plural(unit.starts ?? 0, "start"), plural(unit.restart_count ?? 0, "automatic restart")];
  add("Life", life.filter(Boolean).join(", "));
  if (unit.cpu_seconds !== null && unit.cpu_seconds !== undefined) add("CPU time", unit.cpu_seconds.toFixed(1) + "s");
  if (unit.memory_bytes) add("Memory", bytes(unit.memory_bytes));
  add("Last hour", strip(unit));
  for (const [kind, word] of [["requires", "Requires"], ["wants", "Wants"], ["after", "After"]]) {
    const names = (unit.depends_on || []).filter((d) => d.kind === kind).map((d) => d.unit);
    if (names.length) add(word, el("ul", { class: "names" }, names.map((n) => el("li", {}, link(n)))));
  }
  if ((unit.required_by || []).length) add("Required by", el("ul", { class: "names" }, unit.required_by.map((n) => el("li", {}, link(n)))));
  add("Kind", [unit.category, unit.lifecycle, unit.critical ? "critical" : ""].filter(Boolean).join(", "));
  if (unit.added_by) add("Added by", link(unit.added_by));
  if (unit.deprecated !== null && unit.deprecated !== undefined) add("Deprecated", unit.deprecated ? ["use ", link(unit.deprecated)] : "nothing replaces it");
  if (unit.note) add("Note", unit.note);
  if (unit.needs_restart) add("Files", "changed: takes effect at the next restart");
  const metrics = Object.entries(unit.metrics || {});
  if (metrics.length) add("Its numbers", metrics.map(([name, n], i) => [i ? ", " : "", name + " " + n]));
  renew(byId("unit-facts"), facts);

  const events = [...(unit.events || [])].reverse().map((e) => el("tr", {},
    el("td", {}, clock(e.time)),
    el("td", {}, el("span", { class: "state " + e.to }, mark(e.to), " ", e.from, " → ", e.to)),
    el("td", {}, (e.cause || {}).text || "", (e.cause || {}).unit ? [" (", link(e.cause.unit), ")"] : "")));
  renew(byId("events"), events);
  byId("no-events").hidden = events.length > 0;
  const lines = unit.last_lines || null;
  byId("unit-lines").hidden = !lines;
  byId("lines").textContent = lines ? lines.map((l) => clean(l.text)).join("\n") || "(it has written nothing)" : "";
  const capsules = (unit.capsules || []).map((c) => [
    el("p", {}, c.time ? clock(c.time) + ": " : "", c.text || "", c.oom ? (c.oom === "maybe" ? " (perhaps out of memory)" : " (out of memory)") : "",
      c.lived_seconds !== null && c.lived_seconds !== undefined ? ", after " + span(c.lived_seconds) : "",
      c.memory_peak_bytes ? ", at most " + bytes(c.memory_peak_bytes) + " of memory" : ""),
    c.changed && c.changed.length ? el("p", { class: "note" }, "changed since it last worked: ", c.changed.join("; ")) : null,
    c.lines && c.lines.length ? el("pre", { tabindex: "0" }, el("span", {}, c.lines.map((l) => [clean(l.text), el("br")]))) : null,
  ]);
  byId("unit-failures").hidden = !capsules.length;
  byId("capsules").replaceChildren();
  fill(byId("capsules"), capsules);
}

// ---- live

let line = { is: "connecting", since: Date.now() };
function tell(is) {
  if (line.is !== is) line = { is, since: Date.now() };
  const old = heard ? span((Date.now() - heard) / 1000) : "";
  byId("line").className = is === "live" || is === "connecting" ? "" : "lost";
  const said = { live: "● live", connecting: "connecting", polling: "▲ no event stream, asking every 5s", lost: "✗ not connected, this picture is " + old + " old" }[is];
  if (byId("line").textContent !== said) byId("line").textContent = said;
}

let heard = 0; // when the last answer came
async function ask(names) {
  const query = names ? "?unit=" + names.map(encodeURIComponent).join(",") : "";
  const answer = await fetch("/dashboard.json" + query, { cache: "no-store" });
  if (!answer.ok) throw new Error("answered " + answer.status);
  const data = await answer.json();
  heard = Date.now();
  ahead = data.timestamp - heard / 1000;
  node = data;
  if (!names) units.clear();
  for (const unit of data.units) units.set(unit.name, unit);
  return data;
}

let due = null, changed = new Set(), isWhole = false, isAsking = false;
function soon(name) {
  if (name) changed.add(name); else isWhole = true;
  if (!due && !isAsking) due = setTimeout(refresh, SOON_MS);
}

async function refresh() {
  due = null;
  if (isAsking) return;
  isAsking = true;
  const names = isWhole || changed.size > 40 || !node ? null : [...changed];
  changed = new Set();
  isWhole = false;
  try {
    await ask(names);
    draw();
  } catch {
    isWhole = true;
    tell("lost");
  }
  isAsking = false;
  if (changed.size) due = setTimeout(refresh, SOON_MS);
}

function draw() {
  if (!node) return;
  drawVerdict();
  const list = troubles();
  if (current) drawUnit();
  drawCauses(list);
  drawGraph(list);
  drawRows();
}

let stream = null, last = null;
function listen() {
  if (!window.EventSource) return;
  const from = last ?? (node ? node.seq : null);
  stream = new EventSource("/events" + (from === null ? "" : "?after=" + from));
  stream.onopen = () => { tell("live"); soon(null); };
  stream.onmessage = (event) => {
    last = event.lastEventId || last;
    try {
      const told = JSON.parse(event.data);
      // Who waits for it may wait no more, or wait now.
      for (const unit of units.values()) if ((unit.blocked_by || []).some((b) => b.unit === told.unit)) changed.add(unit.name);
      soon(told.unit);
    } catch { soon(null); }
  };
  stream.addEventListener("lagged", () => soon(null));
  stream.onerror = () => {
    tell("lost");
    // The browser tries again by itself, unless the answer was a refusal.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, POLL_MS);
  };
}

function beat() {
  const isLive = stream && stream.readyState === EventSource.OPEN;
  const age = Date.now() - heard;
  if (!isLive && age >= POLL_MS) {
    isWhole = true;
    refresh().then(() => { if (Date.now() - heard < 1500 && !(stream && stream.readyState === EventSource.OPEN)) tell("polling"); });
  } else if (age >= WHOLE_MS && !document.hidden) soon(null);
  if (line.is !== "live") tell(line.is);
  age && ageScreen();
}

function ageScreen() {
  if (!node || document.hidden) return;
  age();
  drawVerdict();
}

function route() {
  const match = /^#unit=(.*)$/.exec(location.hash);
  let name = null;
  try { name = match ? decodeURIComponent(match[1]) : null; } catch { name = null; }
  const before = current;
  current = name;
  byId("unit").hidden = !name;
  byId("node").hidden = Boolean(name);
  if (name) {
    if (name !== before) {
      byId("unit-title").textContent = clean(name);
      for (const id of ["unit-facts", "events", "capsules"]) byId(id).replaceChildren();
      byId("unit-lines").hidden = true;
      window.scrollTo(0, 0);
      byId("unit").focus({ preventScroll: true });
    }
    drawUnit();
  } else if (before) {
    const row = rows.get(before);
    if (row) row.querySelector("a").focus();
  }
}

function go(by) {
  const links = [...byId("rows").querySelectorAll("th a")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at < 0 ? 0 : at + by))].focus();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName || "");
  if (event.key === "Escape") {
    if (isTyping) { byId("filter").value = ""; drawRows(); document.activeElement.blur(); } else if (current) location.hash = "";
    return;
  }
  if (isTyping) return;
  const jump = (id) => { location.hash = ""; route(); const to = byId(id); to.scrollIntoView(); to.querySelector("a, input")?.focus({ preventScroll: true }); };
  const does = {
    "/": () => { location.hash = ""; route(); byId("filter").focus(); }, j: () => go(1), k: () => go(-1),
    w: () => jump("wrong"), g: () => jump("graph"), u: () => jump("units"),
  }[event.key];
  if (does) { event.preventDefault(); does(); }
}

byId("choice").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", drawRows);
byId("sort").addEventListener("change", drawRows);
byId("more").addEventListener("click", () => { showsAll = true; drawRows(); });
byId("back").addEventListener("click", (event) => { event.preventDefault(); location.hash = ""; });
byId("drawing").addEventListener("keydown", graphKeys);
for (const kind of ["focusin", "mouseover"]) byId("drawing").addEventListener(kind, (e) => lookAt(e.target.closest?.("a.box")?.dataset.name));
for (const kind of ["focusout", "mouseleave"]) byId("drawing").addEventListener(kind, () => lookAt(null));
window.addEventListener("resize", () => { if (node) drawGraph(troubles()); });
document.addEventListener("keydown", keys);
document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(null); });
window.addEventListener("hashchange", route);

ask(null).then(draw, () => tell("lost")).then(() => { route(); listen(); setInterval(beat, 1000); });
