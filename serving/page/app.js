"use strict";
// Asks, and shows what the server streams. Texts are set as text, never as HTML.
const $ = (id) => document.getElementById(id);
let settings = { student: "student", other: null, report: false, images: false, key: false };
let running = null;

function make(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function headers() {
  const found = { "content-type": "application/json" };
  if ($("key").value) found.authorization = `Bearer ${$("key").value}`;
  return found;
}

// Yields the events of a streamed answer.
async function* events(body, signal) {
  const reply = await fetch("ask", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!reply.ok) {
    const said = await reply.json().catch(() => ({}));
    const detail = typeof said.detail === "string" ? said.detail : `The server answered ${reply.status}.`;
    throw new Error(detail);
  }
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

function addColumn(name) {
  const column = $("column").content.cloneNode(true).firstElementChild;
  column.querySelector("h2").textContent = name;
  column.setAttribute("aria-label", name);
  $("columns").append(column);
  return column;
}

function showPassages(column, passages) {
  column.querySelector("h3").hidden = passages.length === 0;
  for (const passage of passages) {
    const item = make("li");
    const details = make("details", undefined, { id: `${column.dataset.side}-${passage.number}` });
    const where = passage.page ? `${passage.title}, page ${passage.page}` : passage.title;
    details.append(make("summary", `[${passage.number}] ${where} (${passage.score.toFixed(2)})`));
    details.append(make("p", passage.text));
    item.append(details);
    column.querySelector(".passages").append(item);
  }
}

// An <img> cannot send the key: then its data is fetched.
async function loadPreview(image, address) {
  if (!$("key").value) {
    image.src = address;
    return;
  }
  try {
    const reply = await fetch(address, { headers: headers() });
    if (!reply.ok) throw new Error(reply.status);
    const reader = new FileReader();
    reader.addEventListener("load", () => { image.src = reader.result; });
    reader.readAsDataURL(await reply.blob());
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

function showImages(column, images) {
  const list = column.querySelector(".images");
  list.hidden = images.length === 0;
  for (const passage of images) {
    const item = make("li");
    const figure = make("figure", undefined, { title: passage.file || passage.id });
    const image = make("img", undefined, { alt: passage.title, loading: "lazy" });
    const missing = () => {
      const box = make("span", "no preview", { class: "missing", role: "img", "aria-label": `${passage.title}, no preview` });
      if (image.isConnected) image.replaceWith(box);
    };
    image.addEventListener("error", missing);
    const caption = make("figcaption");
    caption.append(make("span", passage.title, { class: "name" }), make("span", passage.score.toFixed(2), { class: "score quiet" }));
    figure.append(image, caption);
    item.append(figure);
    list.append(item);
    const other = column.dataset.side === "other" ? { other: "true" } : {};
    if (passage.preview) loadPreview(image, `preview?${new URLSearchParams({ id: passage.id, ...other })}`);
    else missing();
  }
}

// Marks the sentences that answer within their passage.
function markPassage(column, passage, spans) {
  const text = column.querySelector(`#${column.dataset.side}-${passage.number} p`);
  text.textContent = "";
  let at = 0;
  const letters = Array.from(passage.text); // offsets count characters, not UTF-16 units
  for (const [start, end] of spans.sort((a, b) => a[0] - b[0])) {
    if (start < at) continue;
    text.append(letters.slice(at, start).join(""), make("mark", letters.slice(start, end).join("")));
    at = end;
  }
  text.append(letters.slice(at).join(""));
}

function times(ms) {
  const told = Object.entries(ms).map(([step, value]) => `${step} ${value.toFixed(1)} ms`);
  const sum = Object.values(ms).reduce((a, b) => a + b, 0);
  return `${told.join(" · ")} · together ${sum.toFixed(1)} ms`;
}

// Of a folder its last two names: "quickstart/student".
function shortened(model) {
  return model && model.startsWith("/") ? model.split("/").filter(Boolean).slice(-2).join("/") : model;
}

// Conditions a line, or a filter in JSON that goes over several.
function conditions() {
  const text = $("filters").value.trim();
  return text.startsWith("{") ? [text] : text.split("\n").filter((line) => line.trim());
}

async function askOne(question, other, signal) {
  const column = addColumn(other ? settings.other : settings.student);
  column.dataset.side = other ? "other" : "student";
  let passages = [];
  let images = false;
  const spans = new Map();
  for await (const event of events({ question, other, filters: conditions() }, signal)) {
    if (event.event === "error") throw new Error(event.detail);
    if (event.event === "passages") {
      passages = event.passages;
      images = event.images;
      (images ? showImages : showPassages)(column, passages);
      column.querySelector(".times").textContent = times(event.ms);
    } else if (event.event === "answer") {
      const item = make("li", `${event.text} `);
      const link = make("a", `[${event.passage}]`, { href: `#${column.dataset.side}-${event.passage}` });
      const title = passages[event.passage - 1].title;
      link.setAttribute("aria-label", `source ${event.passage}: ${title}`);
      link.addEventListener("click", (click) => {
        click.preventDefault(); // following it would take the focus away again
        const details = column.querySelector(`#${column.dataset.side}-${event.passage}`);
        details.open = true;
        details.querySelector("summary").focus();
        details.scrollIntoView({ block: "nearest" });
      });
      item.append(link);
      column.querySelector(".answers").append(item);
      spans.set(event.passage, [...(spans.get(event.passage) || []), [event.start, event.end]]);
      markPassage(column, passages[event.passage - 1], spans.get(event.passage));
      column.querySelector(`#${column.dataset.side}-${event.passage}`).open = true;
    } else if (event.event === "done") {
      const count = images ? passages.length : spans.size;
      const none = column.querySelector(".none");
      none.hidden = count > 0;
      if (images) none.textContent = "There is no such image.";
      column.querySelector(".times").textContent = times(event.ms);
      if (images) return count === 1 ? "1 image." : count ? `${count} images, best first.` : "No image.";
      return count ? `${count} ${count === 1 ? "sentence answers" : "sentences answer"}.` : "No answer.";
    }
  }
  throw new Error("The server broke off. Ask again.");
}

async function ask() {
  const question = $("question").value.trim();
  if (!question) return;
  if (running) running.abort();
  const own = (running = new AbortController());
  $("columns").textContent = "";
  $("error").textContent = "";
  $("status").textContent = "Asking ...";
  const address = new URLSearchParams({ q: question });
  if (conditions().length) address.set("f", $("filters").value);
  history.replaceState(null, "", `#${address}`);
  const sides = settings.other && $("both").checked ? [false, true] : [false];
  const found = await Promise.allSettled(sides.map((side) => askOne(question, side, own.signal)));
  if (own !== running) return; // another question came meanwhile
  const failed = found.filter((one) => one.status === "rejected").map((one) => one.reason);
  const said = failed.map((e) => (e instanceof TypeError ? "The server cannot be reached. Is it running?" : e.message));
  $("error").textContent = [...new Set(said)].join(" ");
  $("status").textContent = found
    .map((one, side) => {
      if (one.status === "rejected") return "";
      return found.length > 1 ? `${side ? settings.other : settings.student}: ${one.value}` : one.value;
    })
    .join(" ");
}

async function start() {
  const asked = new URLSearchParams(location.hash.slice(1));
  $("key").value = sessionStorage.getItem("key") || "";
  $("key").addEventListener("change", () => sessionStorage.setItem("key", $("key").value));
  $("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  try {
    settings = await (await fetch("settings")).json();
    $("report").hidden = !settings.report || settings.key; // a link cannot send the key
    if (settings.images) {
      document.title = $("title").textContent = "Find images";
      $("hint").textContent = "Describe what an image shows. Those that fit best come first.";
    }
    for (const side of ["student", "other"]) settings[side] = shortened(settings[side]);
    $("choice").hidden = !settings.other;
    $("names").textContent = `${settings.student} and ${settings.other}`;
    $("secret").hidden = !settings.key;
    const ready = await fetch("ready");
    if (!ready.ok) $("error").textContent = (await ready.json()).detail;
  } catch {
    $("error").textContent = "The server cannot be reached. Is it running?";
  }
  if (running) return; // a question was asked meanwhile
  if (asked.get("f")) {
    $("filters").value = asked.get("f");
    $("filters").closest("details").open = true;
  }
  if (asked.get("q")) { $("question").value = asked.get("q"); ask(); }
}
start();
