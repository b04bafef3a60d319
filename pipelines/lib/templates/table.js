"use strict";
// A table of recordings that filters and sorts; data lies in the page, nothing is fetched.
const data = JSON.parse(document.getElementById("clips-data").textContent);
const body = document.querySelector("#clips tbody");
const filter = document.getElementById("clips-filter");
const count = document.getElementById("clips-count");
const MAX_SHOWN = 500;
for (const row of data) row.uri = row.sound === null ? null : document.getElementById("sound-" + row.sound).src;
let key = "errors", down = true;

function text(tag, content, className) {
  const node = document.createElement(tag);
  node.textContent = content;
  if (className) node.className = className;
  return node;
}

function matches(row, words) {
  const all = (row.id + " " + row.language + " " + row.reference + " " + row.hypothesis + " " + row.tags).toLowerCase();
  return words.every((word) => all.includes(word));
}

function compare(a, b) {
  const x = a[key] ?? -Infinity, y = b[key] ?? -Infinity;
  const order = typeof x === "string" || typeof y === "string" ? String(x).localeCompare(String(y)) : x - y;
  return (down ? -order : order) || a.id.localeCompare(b.id);
}

function diff(row) {
  const line = document.createElement("div");
  line.className = "diff";
  for (const [operation, said, heard] of row.spans) {
    if (operation === "equal") line.append(heard + " ");
    else {
      if (said) line.append(text("del", said), " ");
      if (heard) line.append(text("ins", heard), " ");
    }
  }
  return line;
}

function details(row) {
  const cell = document.createElement("td");
  cell.colSpan = 8;
  cell.className = "text";
  for (const [name, value] of [["said", row.reference], ["written", row.hypothesis]]) {
    const line = text("div", "", "");
    line.append(text("span", name + ": ", "dim"), value);
    cell.append(line);
  }
  cell.append(diff(row));
  if (row.error) cell.append(text("div", row.error, "fail"));
  if (row.uri) {
    const audio = document.createElement("audio");
    audio.controls = true;
    audio.src = row.uri;
    const button = text("button", "spectrogram", "");
    button.onclick = () => { button.remove(); spectrogram(row.uri, cell); };
    cell.append(audio, button);
  } else cell.append(text("div", "audio not embedded: " + row.audio, "dim"));
  const line = document.createElement("tr");
  line.append(cell);
  return line;
}

function draw() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = data.filter((row) => matches(row, words)).sort(compare);
  body.replaceChildren();
  for (const row of found.slice(0, MAX_SHOWN)) {
    const line = document.createElement("tr");
    const rate = row.rate === null ? "–" : (row.rate * 100).toFixed(1) + " %";
    const cells = [row.id, row.language, row.errors, rate, row.confidence === null ? "–" : row.confidence.toFixed(2),
      row.duration_s === null ? "–" : row.duration_s.toFixed(1), row.latency_s === null ? "–" : row.latency_s.toFixed(2), row.tags];
    cells.forEach((value, i) => line.append(text("td", String(value), i < 2 || i === 7 ? "text" : "")));
    line.onclick = () => {
      if (line.open) { line.open.remove(); line.open = null; }
      else { line.open = details(row); line.after(line.open); }
    };
    body.append(line);
  }
  count.textContent = found.length + " of " + data.length + (found.length > MAX_SHOWN ? ", the first " + MAX_SHOWN + " shown" : "");
}

// |FFT| of 512 samples under a Hann window every 160, in dB, low frequencies at the bottom.
function powers(samples, at, size) {
  const re = new Float64Array(size), im = new Float64Array(size);
  for (let i = 0; i < size; i++) re[i] = (samples[at + i] || 0) * (0.5 - 0.5 * Math.cos(2 * Math.PI * i / size));
  for (let i = 0, j = 0; i < size; i++) {
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; }
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (let span = 2; span <= size; span <<= 1) {
    for (let start = 0; start < size; start += span) {
      for (let k = 0; k < span / 2; k++) {
        const angle = -2 * Math.PI * k / span, a = start + k, b = a + span / 2;
        const x = re[b] * Math.cos(angle) - im[b] * Math.sin(angle), y = re[b] * Math.sin(angle) + im[b] * Math.cos(angle);
        re[b] = re[a] - x; im[b] = im[a] - y; re[a] += x; im[a] += y;
      }
    }
  }
  return Array.from({ length: size / 2 }, (_, i) => 10 * Math.log10(re[i] * re[i] + im[i] * im[i] + 1e-10));
}

async function spectrogram(uri, cell) {
  const raw = atob(uri.split(",")[1]);
  const bytes = Uint8Array.from(raw, (c) => c.charCodeAt(0));
  const sound = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes.buffer);
  const samples = sound.getChannelData(0), size = 512;
  const columns = Math.min(900, Math.max(1, Math.floor(samples.length / 160)));
  const canvas = document.createElement("canvas");
  canvas.width = columns; canvas.height = size / 4;
  const paint = canvas.getContext("2d"), image = paint.createImageData(columns, size / 4);
  for (let x = 0; x < columns; x++) {
    const column = powers(samples, Math.floor(x * (samples.length - size) / columns), size);
    for (let y = 0; y < size / 4; y++) {
      const level = Math.max(0, Math.min(1, (Math.max(column[2 * y], column[2 * y + 1]) + 60) / 80));
      const at = 4 * ((size / 4 - 1 - y) * columns + x);
      image.data.set([255 * level, 220 * level * level, 255 * (0.3 + 0.5 * level - 0.6 * level * level), 255], at);
    }
  }
  paint.putImageData(image, 0, 0);
  canvas.style.width = "100%";
  cell.append(canvas);
}

document.querySelectorAll("#clips th[data-key]").forEach((head) => {
  head.onclick = () => { down = key === head.dataset.key ? !down : true; key = head.dataset.key; draw(); };
});
filter.oninput = draw;
draw();
