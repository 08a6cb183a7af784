// ---------- completions: unpacked in the browser, listed without drawing what is out of sight ----------
let rows = [], terms = {}, tokenValues = null;
async function unpacked(id) {
  const packed = byId(id).textContent.trim();
  if (!packed) return null;
  const binary = atob(packed), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
async function takeCompletions() {
  const buffer = await unpacked("packed");
  if (!buffer) return;
  const { names, columns, terms: found } = JSON.parse(new TextDecoder().decode(buffer));
  terms = found;
  const c = columns;
  const name = (field, i) => names[field][c[field][i]];
  rows = c.text.map((text, i) => ({
    index: i, set: name("set", i), step: c.step[i], problem: name("problem", i), sample: c.sample[i], kind: name("kind", i), prompt: name("prompt", i), gold: name("gold", i),
    text, left_out: c.left_out[i], tokens: c.tokens[i], right: c.right[i], reward: c.reward[i], advantage: c.advantage[i], outcome: name("outcome", i), note: name("note", i),
    finish: name("finish", i), signs: c.signs[i], with_tokens: c.with_tokens[i], tokensAt: undefined, lower: undefined,
  }));
  let at = 0;
  for (const row of rows) if (row.with_tokens) { row.tokensAt = at; at += row.with_tokens * row.tokens; }
}
const signMarks = { right: ["✓", "right"], wrong: ["✗", "wrong"], none: ["–", "ink"] };
const cut = (row) => row.finish === "length";
const judged = (row) => (row.right === null ? "none" : row.right ? "right" : "wrong");
function sign(row) {
  const [mark, tone] = signMarks[judged(row)];
  return el("span", { class: "sign t-" + tone, title: judged(row) === "none" ? "not judged" : judged(row) }, mark);
}
const setName = (name) => (name === "train" ? "training" : name || "held-out");
// The question without its template; the whole prompt stands in the browser of completions.
const OPENING = /(?:^|[\s.])User:\s*|<\|im_start\|>user\s*|<｜User｜>|<\|start_header_id\|>user<\|end_header_id\|>\s*/;
const CLOSING = /(?:\.?\s*Assistant:|<\|im_end\|>\s*<\|im_start\|>assistant|<｜Assistant｜>|<\|eot_id\|><\|start_header_id\|>assistant<\|end_header_id\|>)\s*(?:<think>\s*)?$/;
function clean(prompt) {
  const open = OPENING.exec(prompt);
  return (open ? prompt.slice(open.index + open[0].length) : prompt).replace(CLOSING, (found) => (found.startsWith(".") ? "." : "")).trim();
}
const option = (value, label) => el("option", { value }, label);
const many = (n, one) => n.toLocaleString("en-US") + " " + one + (n === 1 ? "" : "s");
function verdictWords(row) {
  const word = { right: "Right", wrong: "Wrong", none: "Not judged" }[judged(row)];
  return word + (cut(row) ? ", cut off at the length limit" : "") + (row.outcome && row.outcome !== "scored" ? ", " + row.outcome.replace("_", " ") : "");
}
// Where the thinking ends; a prompt may already have opened it.
function parts(row) {
  const text = row.text, open = text.indexOf("<think>"), close = text.lastIndexOf("</think>");
  const opened = open >= 0 && (close < 0 || open < close);
  if (!opened && close < 0) return [["", text]];
  const start = opened ? open + 7 : 0;
  const stop = close < 0 ? text.length : close;
  return [["", text.slice(0, opened ? open : 0)], ["think", text.slice(start, stop), close < 0], ["", close < 0 ? "" : text.slice(close + 8)]];
}
function marked(text, query) {
  if (!query) return [text];
  const out = [], lower = text.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(query); at >= 0 && out.length < 2000; at = lower.indexOf(query, from)) {
    out.push(text.slice(from, at), el("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  return [...out, text.slice(from)];
}
function completionText(row, query) {
  return parts(row).filter(([kind, text]) => kind || text.trim()).map(([kind, text, unclosed]) =>
    kind ? el("div", { class: "text think" }, el("span", { class: "tag" }, "<think>"), marked(text, query), el("span", { class: "tag" }, unclosed ? "\n[never closed]" : "</think>"))
      : el("div", { class: "text" }, marked(text.replace(/^\n+|\n+$/g, ""), query)));
}
const shownNumber = (v) => (v === null || v === undefined ? "–" : significant(v));
function chips(row) {
  const list = [["reward", shownNumber(row.reward)]];
  for (const [name, values] of Object.entries(terms)) if (values[row.index] !== null) list.push([name, shownNumber(values[row.index])]);
  if (row.advantage !== null) list.push(["advantage", shownNumber(row.advantage)]);
  if (row.tokens !== null) list.push(["tokens", row.tokens.toLocaleString("en-US")]);
  if (row.finish) list.push(["finish", row.finish]);
  if (row.kind) list.push(["kind", row.kind]);
  const found = data.marks.filter((_, bit) => (row.signs >> bit) & 1).map((mark) => el("span", { class: "chip flag", title: mark.rule }, mark.title));
  return el("div", { class: "chips" }, list.map(([k, v]) => el("span", { class: "chip" }, k + " ", el("b", {}, v))), found);
}
function verdictLine(row) {
  const where = `step ${row.step.toLocaleString("en-US")} · ${setName(row.set)}` + (row.sample === null ? "" : ` · sample ${row.sample}`);
  return el("div", {}, sign(row), " ", el("span", { class: "verdict" }, verdictWords(row)), " ", el("span", { class: "chip" }, where));
}

// ---------- a long list: only the rows in sight exist ----------
const ROW_HEIGHT = 56;
function virtualList(host, draw, choose, empty) {
  const tall = el("div", { class: "tall", role: "presentation" });
  host.replaceChildren(tall);
  const list = { items: [], at: -1 };
  let drawnRows = new Map();
  function paint() {
    const from = Math.max(0, Math.floor(host.scrollTop / ROW_HEIGHT) - 8);
    const to = Math.min(list.items.length, Math.ceil((host.scrollTop + host.clientHeight) / ROW_HEIGHT) + 8);
    for (const [i, node] of drawnRows) if (i < from || i >= to) { node.remove(); drawnRows.delete(i); }
    for (let i = from; i < to; i++) {
      if (drawnRows.has(i)) continue;
      const node = draw(list.items[i]);
      fill(node, { id: `${host.id}-${i}`, role: "option", "aria-selected": String(i === list.at), "aria-posinset": i + 1, "aria-setsize": list.items.length, onclick: () => list.select(i, true) }, []);
      node.style.top = i * ROW_HEIGHT + "px";
      drawnRows.set(i, node);
      tall.append(node);
    }
  }
  list.show = (items, at) => {
    list.items = items;
    list.at = at;
    drawnRows = new Map();
    tall.replaceChildren(...(items.length ? [] : [el("p", { class: "item" }, "", empty)]));
    tall.style.height = Math.max(1, items.length) * ROW_HEIGHT + "px";
    host.scrollTop = at > 0 ? Math.max(0, at * ROW_HEIGHT - 120) : 0;
    active();
    paint();
  };
  function active() {
    if (list.at >= 0) host.setAttribute("aria-activedescendant", `${host.id}-${list.at}`);
    else host.removeAttribute("aria-activedescendant");
  }
  list.select = (at, byPointer) => {
    const before = drawnRows.get(list.at);
    if (before) before.setAttribute("aria-selected", "false");
    list.at = at;
    const top = at * ROW_HEIGHT;
    if (top < host.scrollTop) host.scrollTop = top;
    else if (top + ROW_HEIGHT > host.scrollTop + host.clientHeight) host.scrollTop = top + ROW_HEIGHT - host.clientHeight;
    active();
    paint();
    drawnRows.get(at).setAttribute("aria-selected", "true");
    choose(list.items[at], byPointer);
  };
  host.addEventListener("scroll", paint, { passive: true });
  host.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(host.clientHeight / ROW_HEIGHT) - 1);
    const jump = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 }[event.key];
    if (jump === undefined || !list.items.length) return;
    event.preventDefault();
    list.select(Math.min(list.items.length - 1, Math.max(0, list.at + jump)), false);
  });
  window.addEventListener("resize", paint);
  return list;
}

// ---------- tokens: what sampler and trainer thought of each, and where the update pushed ----------
const SURPRISE_SCALE = 25, ENTROPY_SCALE = 40, RATIO_SCALE = 127, UNKNOWN = 255;
function tokensOf(row) {
  if (row.tokensAt === undefined || !tokenValues) return null;
  const out = [];
  let from = 0;
  for (let i = 0; i < row.tokens; i++) {
    const stop = from + tokenValues[row.tokensAt + i];
    const nats = (tokenValues[row.tokensAt + row.tokens + i] / SURPRISE_SCALE) ** 2;
    const token = { text: row.text.slice(from, stop), nats, p: Math.exp(-nats), push: row.advantage === null ? null : row.advantage * (1 - Math.exp(-nats)), entropy: null, logRatio: null };
    const entropy = row.with_tokens > 2 ? tokenValues[row.tokensAt + 2 * row.tokens + i] : UNKNOWN;
    if (entropy !== UNKNOWN) {
      const ratio = (tokenValues[row.tokensAt + 3 * row.tokens + i] - RATIO_SCALE) / RATIO_SCALE;
      token.entropy = (entropy / ENTROPY_SCALE) ** 2;
      token.logRatio = ratio * Math.abs(ratio);
    }
    out.push(token);
    from = stop;
  }
  return out;
}
const level = (share) => Math.max(0, Math.min(8, Math.round(8 * share)));
const COLOURS = {
  text: ["nothing", () => ""],
  surprise: ["surprise, −log p", (t) => "k-warm k" + level(Math.sqrt(t.nats / 4))],
  push: ["push, A·(1−p)", (t) => (t.push === null ? "" : (t.push > 0 ? "k-good k" : "k-bad k") + level(Math.sqrt(Math.abs(t.push) / 2)))],
  entropy: ["entropy", (t) => (t.entropy === null ? "" : "k-warm k" + level(Math.sqrt(t.entropy / 2)))],
  ratio: ["ratio", (t) => (t.logRatio === null ? "" : (t.logRatio > 0 ? "k-good k" : "k-bad k") + level(Math.sqrt(Math.abs(t.logRatio) / 0.2)))],
  advantage: ["advantage", (t, row) => (row.advantage === null ? "" : (row.advantage > 0 ? "k-good k" : "k-bad k") + level(Math.abs(row.advantage) / 2.5))],
};
const COLOUR_NOTES = {
  surprise: "Surprise of the sampler at each token, in nats: −log of the probability it drew the token with. The stronger the colour, the less likely (full at 4 nats).",
  push: "Advantage × (1 − p): how hard, and which way, the first update pulls at the logit of each token drawn (green: more of this, red: less).",
  entropy: "Entropy of the trainer's distribution at each token, in nats: how open the choice was (full colour at 2 nats).",
  ratio: "The trainer's probability of each token, at the last update that learned from it, over the sampler's when it was drawn (green: more likely since, red: less; full colour at a factor of e^0.2). 1 where the policy had not moved: what is left then is the rounding of two programs.",
  advantage: "GRPO gives every token of a completion the same advantage, so the colour is one for all.",
};
function why(row) {
  if (row.set !== "train") return "Held-out answers are stored without log-probabilities: no token colours.";
  if (row.left_out) return "The middle of this text is left out here: no token colours.";
  return "No token values on this page for this completion (room for some of them only, or no log-probabilities or tokenizer in the run).";
}
const TRAINED = ["entropy", "ratio"];
let colour = "text";
const trainedOn = (tokens) => tokens.some((t) => t.entropy !== null);
// The colour asked for, where this completion has it.
const colourOf = (tokens) => (tokens && (!TRAINED.includes(colour) || trainedOn(tokens)) ? colour : "text");
function tokenPane(row, again) {
  const tokens = tokensOf(row);
  if (!tokens) return [el("p", { class: "fine" }, why(row))];
  const trained = trainedOn(tokens), shown = colourOf(tokens);
  const choices = Object.entries(COLOURS).filter(([value]) => trained || !TRAINED.includes(value));
  const pick = el("select", { "aria-label": "Colour tokens by" }, choices.map(([value, [label]]) => option(value, label)));
  pick.value = shown;
  pick.addEventListener("input", () => { colour = pick.value; again(); });
  const head = el("label", { class: "colour" }, "Colour tokens by ", pick);
  const untold = trained ? [] : [el("p", { class: "fine" }, "No entropy and ratio: the trainer computed none for this completion (its group taught nothing, or the run is of an older version).")];
  if (shown === "text") return [head, ...(colour === "text" ? [] : untold)];
  const say = (t) => `${JSON.stringify(t.text)}: p ${t.p < 0.001 ? t.p.toExponential(1) : t.p.toFixed(3)}, surprise ${t.nats.toFixed(2)} nats` + (t.push === null ? "" : `, push ${t.push.toFixed(2)}`)
    + (t.entropy === null ? "" : `, entropy ${t.entropy.toFixed(2)} nats, ratio ${Math.exp(t.logRatio).toFixed(3)}`);
  const told = el("p", { class: "fine told" }, COLOUR_NOTES[shown]);
  const block = el("div", { class: "text tokens" }, tokens.filter((t) => t.text).map((t) => el("span", { class: COLOURS[shown][1](t, row), title: say(t) }, t.text)));
  const mean = tokens.reduce((sum, t) => sum + t.nats, 0) / Math.max(1, tokens.length);
  const top = [...tokens].sort((a, b) => b.nats - a.nats).slice(0, 5).map((t) => `${JSON.stringify(t.text)} ${t.nats.toFixed(1)}`).join(", ");
  return [head, told, block, el("p", { class: "fine" }, `Mean surprise ${mean.toFixed(2)} nats. Most surprising: ${top}.`), ...untold];
}

// ---------- browse ----------
const browse = { selected: null, list: null };
const FILTERS = ["query", "set", "verdict", "mark", "order", "step-from", "step-to", "len-from", "len-to", "outcome", "kind", "term", "term-from", "term-to"];
const bound = (id) => { const text = byId(id).value.trim(); return text === "" || Number.isNaN(Number(text)) ? null : Number(text); };
const within = (value, low, high) => (low === null && high === null) || (value !== null && value !== undefined && (low === null || value >= low) && (high === null || value <= high));
function haystack(row) {
  if (row.lower === undefined) row.lower = (row.text + "\n" + row.prompt + "\n" + row.problem).toLowerCase();
  return row.lower;
}
function matching() {
  const f = Object.fromEntries(FILTERS.map((id) => [id, byId(id).value]));
  const query = f.query.trim().toLowerCase(), bit = f.mark === "" ? -1 : Number(f.mark);
  const step = [bound("step-from"), bound("step-to")], length = [bound("len-from"), bound("len-to")], value = [bound("term-from"), bound("term-to")];
  const values = f.term === "reward" ? (row) => row.reward : f.term === "advantage" ? (row) => row.advantage : (row) => (terms[f.term.slice(1)] || [])[row.index];
  return rows.filter((row) =>
    (!f.set || row.set === f.set.slice(1)) && within(row.step, ...step) && within(row.tokens, ...length)
    && (f.verdict === "cut" ? cut(row) : !f.verdict || judged(row) === f.verdict) && (bit < 0 || (row.signs >> bit) & 1)
    && (!f.outcome || row.outcome === f.outcome.slice(1)) && (!f.kind || row.kind === f.kind.slice(1))
    && (!f.term || within(values(row), ...value)) && (!query || haystack(row).includes(query)));
}
const size = (row) => (row.tokens === null ? row.text.length : row.tokens);
const falling = (get) => (a, b) => (get(b) === null ? -1e9 : get(b)) - (get(a) === null ? -1e9 : get(a)) || a.index - b.index;
const rising = (get) => (a, b) => (get(a) === null ? 1e9 : get(a)) - (get(b) === null ? 1e9 : get(b)) || a.index - b.index;
const orders = {
  step: ["step, early first", (a, b) => a.step - b.step || a.index - b.index],
  late: ["step, late first", (a, b) => b.step - a.step || a.index - b.index],
  long: ["longest first", falling(size)],
  short: ["shortest first", rising(size)],
  reward: ["highest reward first", falling((row) => row.reward)],
  poor: ["lowest reward first", rising((row) => row.reward)],
  advantage: ["highest advantage first", falling((row) => row.advantage)],
};
function refilter() {
  const shown = matching().sort(orders[byId("order").value][1]);
  const right = shown.filter((row) => row.right).length, told = shown.filter((row) => row.right !== null).length;
  byId("count").textContent = many(shown.length, "completion") + (told ? `, ${right.toLocaleString("en-US")} right (${format.percent(right / told)} of the judged)` : "");
  let at = browse.selected ? shown.indexOf(browse.selected) : -1;
  if (at < 0) { at = shown.length ? 0 : -1; browse.selected = shown[0] || null; }
  browse.list.show(shown, at);
  renderDetail();
}
function lastWords(row) {
  const ends = parts(row);
  return (ends[ends.length - 1][1].trim() || ends[Math.max(0, ends.length - 2)][1].trim()).slice(-160).replace(/\s+/g, " ");
}
function item(row) {
  return el("div", { class: "item" }, sign(row), el("span", { class: "what" }, clean(row.prompt).slice(0, 200)), el("span", { class: "side" }, `${row.step} · ${setName(row.set)}`), el("span", { class: "answer" }, lastWords(row)));
}
function renderDetail() {
  const row = browse.selected, query = byId("query").value.trim().toLowerCase(), pane = byId("detail");
  pane.scrollTop = 0;
  if (!row) { pane.replaceChildren(); return; }
  const body = colourOf(tokensOf(row)) === "text" ? completionText(row, query) : [];
  pane.replaceChildren(verdictLine(row), chips(row), ...(row.note ? [el("p", { class: "fine" }, row.note)] : []),
    el("h3", {}, "Prompt"), el("div", { class: "text" }, marked(row.prompt.trim(), query)), ...(row.gold ? [el("h3", {}, "Gold"), el("div", { class: "text" }, row.gold)] : []),
    el("h3", {}, "Completion"), ...tokenPane(row, renderDetail), ...body, others(row));
}
function others(row) {
  const same = problemOf(row).rows;
  const near = row.set === "train" ? same.filter((other) => other.step === row.step) : same;
  return el("div", {}, el("h3", {}, row.set === "train" ? "The group: answers to this problem in this step" : "This problem through training"),
    el("div", { class: "path" }, near.slice(0, 80).map((other) => el("button", { type: "button", "aria-current": String(other === row), onclick: () => { browse.selected = other; refilterKeeping(other); } }, sign(other), row.set === "train" ? ` sample ${other.sample}` : ` step ${other.step}`))),
    el("p", {}, el("button", { type: "button", class: "link", onclick: () => followProblem(row) }, `Follow this problem (${many(same.length, "completion")})`), " ", el("span", { class: "fine" }, row.problem)));
}
function refilterKeeping(row) {
  const at = browse.list.items.indexOf(row);
  if (at >= 0) browse.list.select(at, false);
  else renderDetail();
}
function clearFilters() {
  for (const id of FILTERS) byId(id).value = id === "order" ? "step" : "";
}
// From a sign or a problem to one completion; `bit` narrows the list to its kind.
function openCompletion(index, bit) {
  showView("browse");
  clearFilters();
  if (bit >= 0) byId("mark").value = String(bit);
  browse.selected = rows[index];
  refilter();
  byId("completions").scrollIntoView();
  byId("list").focus({ preventScroll: true });
}
function distinct(field) {
  return [...new Set(rows.map((row) => row[field]))];
}
function setUpBrowse() {
  const choices = (id, values) => byId(id).append(option("", "all"), ...values);
  choices("set", distinct("set").map((name) => option("=" + name, setName(name))));
  choices("verdict", [["right", "right"], ["wrong", "wrong"], ["cut", "cut off"], ["none", "not judged"]].map(([v, l]) => option(v, l)));
  choices("outcome", distinct("outcome").filter(Boolean).map((name) => option("=" + name, name.replace("_", " "))));
  choices("kind", distinct("kind").filter(Boolean).map((name) => option("=" + name, name)));
  const counts = data.marks.map((_, bit) => rows.reduce((n, row) => n + ((row.signs >> bit) & 1), 0));
  choices("mark", data.marks.map((mark, bit) => [mark, bit]).filter(([, bit]) => counts[bit]).map(([mark, bit]) => option(bit, `${mark.title} (${counts[bit].toLocaleString("en-US")})`)));
  choices("term", [option("reward", "reward"), option("advantage", "advantage"), ...Object.keys(terms).map((name) => option("=" + name, name))]);
  byId("order").append(...Object.entries(orders).map(([v, [l]]) => option(v, l)));
  browse.list = virtualList(byId("list"), item, (row, byPointer) => {
    browse.selected = row;
    renderDetail();
    if (byPointer && window.innerWidth <= 680) byId("detail").scrollIntoView({ block: "nearest" });
  }, "Nothing matches.");
  let waiting = 0;
  byId("filters").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(refilter, 80); });
  byId("filters").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(waiting); refilter(); });
  byId("clear").addEventListener("click", () => { clearFilters(); refilter(); });
  refilter();
}
