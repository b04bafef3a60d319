// The page: controls, the transcript as it grows, and what is kept of it.

import { FILE_RATE, Tape, decodeFile, openMicrophone, toPcm16 } from "./audio.js";
import { Connection } from "./connection.js";
import { download } from "./files.js";
import { languages, texts } from "./texts.js";

const base = new URL(".", document.baseURI);
const $ = (id) => document.getElementById(id);
const SURE = 0.9;
const LESS = 0.7;

let words = texts.en;
let status = ["ready", ""];
let session = null; // { connection, tape, microphone, arrivals }
const waiting = []; // files for when the session has ended
let isOpening = false; // a file is decoded
const items = []; // completed ones, of all sessions, on one clock
const shown = new Map(); // key -> { row, said, tail }
let number = 0; // of the session
let offset = 0; // seconds of the sessions before

function say(name, detail = "", isError = false) {
  status = [name, detail];
  $("status").textContent = words[name] + detail;
  $("status").classList.toggle("error", isError);
}

function translate(language) {
  words = texts[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = words.title;
  for (const element of document.querySelectorAll("[data-text]")) {
    if (element.id !== "status") element.textContent = words[element.dataset.text];
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", words[element.dataset.label]);
  }
  const names = new Intl.DisplayNames([language === "zh" ? "zh-CN" : "en"], { type: "language" });
  const chosen = $("language").value;
  $("language").replaceChildren(
    new Option(words.detect, ""),
    ...languages.map((code) => new Option(names.of(code), code)),
  );
  $("language").value = chosen;
  $("speak").textContent = session?.microphone ? words.stop : words.speak;
  say(...status, $("status").classList.contains("error"));
  remember("interface", language);
}

function dress(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(isDark));
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // private windows may keep nothing
  }
}

function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

// Sessions

function begin(rate) {
  const tape = new Tape(rate);
  const options = {
    language: $("language").value,
    context: $("hotwords").value.trim(),
    key: $("key").value.trim(),
  };
  session = { tape, microphone: null, arrivals: [], number: ++number, offset };
  const current = session;
  session.connection = new Connection(base, options, tape, {
    line: (line) => receive(current, line),
    closed: (isClean) => end(current, isClean),
  });
  say("connecting");
}

function end(current, isClean) {
  current.microphone?.stop();
  offset = current.offset + current.tape.length / current.tape.rate;
  if (session === current) session = null;
  $("speak").textContent = words.speak;
  $("speak").setAttribute("aria-pressed", "false");
  if (isClean) say("done");
  else say("lost", "", true);
  openNext();
}

async function speak() {
  if (session) {
    session.microphone?.stop();
    session.connection.finish();
    say("finishing");
    return;
  }
  let microphone;
  try {
    microphone = await openMicrophone(base, (samples) => hear(samples));
  } catch (error) {
    say("noMicrophone", error.message, true);
    return;
  }
  begin(microphone.rate);
  session.microphone = microphone;
  $("speak").textContent = words.stop;
  $("speak").setAttribute("aria-pressed", "true");
}

function hear(samples) {
  if (!session) return;
  session.tape.add(toPcm16(samples));
  session.arrivals.push([session.tape.length / session.tape.rate, performance.now()]);
  if (session.arrivals.length > 4000) session.arrivals.splice(0, 2000);
  session.connection.pump();
}

async function open(file) {
  if (!file) return;
  if (session || isOpening) {
    waiting.push(file);
    return;
  }
  isOpening = true;
  let samples;
  try {
    samples = await decodeFile(file);
  } catch (error) {
    say("noFile", error.message, true);
  }
  isOpening = false;
  if (samples && session) waiting.unshift(file); // somebody began to speak meanwhile
  else if (samples) {
    begin(FILE_RATE);
    session.tape.add(toPcm16(samples));
    session.connection.finish();
  } else openNext();
}

function openNext() {
  if (waiting.length) open(waiting.shift());
}

function receive(current, line) {
  if (line.type === "ready") say(current.microphone ? "listening" : "reading");
  else if (line.type === "speech_started") rowOf(current, line.item, line.at_s);
  else if (line.type === "partial") partial(current, line);
  else if (line.type === "completed") completed(current, line);
  else if (line.type === "failed" || line.type === "error") say("failed", line.error, true);
}

// Transcript

function rowOf(current, item, startS) {
  const key = `${current.number}:${item}`;
  if (!shown.has(key)) {
    $("hint").hidden = true;
    const row = document.createElement("p");
    row.className = "item";
    const time = document.createElement("button");
    time.type = "button";
    time.className = "time";
    const said = document.createElement("span");
    const tail = document.createElement("span");
    tail.className = "tail";
    tail.setAttribute("aria-hidden", "true");
    row.append(time, said, tail);
    $("items").append(row);
    shown.set(key, { row, time, said, tail });
  }
  const entry = shown.get(key);
  if (startS !== undefined) entry.time.textContent = clock(current.offset + startS);
  return entry;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// Words as spans, with the spaces before them outside, so that no shade covers those.
function spans(list) {
  return list.flatMap((word) => {
    const span = document.createElement("span");
    span.className = "word";
    if (word.confidence < LESS) span.classList.add("low");
    else if (word.confidence < SURE) span.classList.add("mid");
    span.textContent = word.text.trimStart();
    span.title = `${Math.round(word.confidence * 100)} %`;
    const space = word.text.slice(0, word.text.length - span.textContent.length);
    return space ? [document.createTextNode(space), span] : [span];
  });
}

// Where an aligner gave times a click plays a word. By keyboard: arrows go from the row's time to
// its words and on, so that a page of text is not a page of tab stops.
function makeAudible(current, entry, line) {
  const timed = [...entry.said.querySelectorAll(".word")];
  line.words.forEach((word, i) => {
    if (word.start_s === undefined) return;
    timed[i].classList.add("timed");
    timed[i].tabIndex = -1;
    timed[i].addEventListener("click", () => current.tape.play(word.start_s, word.end_s));
  });
  const stops = [entry.time, ...timed.filter((span) => span.classList.contains("timed"))];
  entry.row.addEventListener("keydown", (event) => {
    const at = stops.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at < 0) return;
    if (step) stops[Math.max(0, Math.min(stops.length - 1, at + step))].focus();
    else if (at > 0 && (event.key === "Enter" || event.key === " ")) stops[at].click();
    else return;
    event.preventDefault();
  });
}

function partial(current, line) {
  const entry = rowOf(current, line.item);
  const box = $("transcript");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  entry.said.append(...spans(line.words));
  entry.tail.replaceChildren(...spans(line.tail_words));
  if (isAtEnd) box.scrollTop = box.scrollHeight;
  if (current.microphone && !current.connection.isFinished) {
    const arrival = current.arrivals.find(([atS]) => atS >= line.at_s);
    if (arrival) say("listening", ` · ${words.latency(Math.round(performance.now() - arrival[1]))}`);
  }
}

function completed(current, line) {
  const entry = rowOf(current, line.item, line.start_s);
  if (!line.text) {
    entry.row.remove();
    return;
  }
  entry.said.replaceChildren(...spans(line.words));
  entry.tail.replaceChildren();
  entry.time.setAttribute("aria-label", `${words.play} ${entry.time.textContent}`);
  entry.time.addEventListener("click", () => current.tape.play(line.start_s, line.end_s));
  makeAudible(current, entry, line);
  $("announced").textContent = line.text; // once and whole, for screen readers
  items.push({
    text: line.text, language: line.language, confidence: line.confidence,
    start_s: current.offset + line.start_s, end_s: current.offset + line.end_s, words: line.words,
  });
  enable(true);
}

function enable(isOn) {
  for (const button of document.querySelectorAll("[data-format], #clear")) button.disabled = !isOn;
}

function clear() {
  items.length = 0;
  shown.clear();
  $("items").replaceChildren();
  $("hint").hidden = false;
  enable(false);
}

// Controls

$("speak").addEventListener("click", speak);
$("file").addEventListener("change", (event) => {
  for (const file of event.target.files) open(file);
  event.target.value = "";
});
$("clear").addEventListener("click", clear);
$("interface").addEventListener("change", (event) => translate(event.target.value));
$("language").addEventListener("change", (event) => {
  session?.connection.update({ language: event.target.value });
});
$("hotwords").addEventListener("change", (event) => {
  session?.connection.update({ context: event.target.value.trim() });
});
$("more").addEventListener("submit", (event) => event.preventDefault());
$("theme").addEventListener("click", () => {
  const isDark = document.documentElement.dataset.theme !== "dark";
  dress(isDark);
  remember("theme", isDark ? "dark" : "light");
});
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => download(button.dataset.format, items));
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && session?.microphone) speak();
});
const box = $("transcript");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    box.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    box.classList.remove("over");
  });
}
document.addEventListener("drop", (event) => [...event.dataTransfer.files].forEach(open));

const theme = recall("theme");
dress(theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
const language = recall("interface") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
$("interface").value = language;
translate(language);
