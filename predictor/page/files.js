// Completed items as files.

function stamp(seconds, mark) {
  const ms = Math.round(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const clock = [ms / 3600000, (ms / 60000) % 60, (ms / 1000) % 60].map((v) => two(Math.floor(v)));
  return `${clock.join(":")}${mark}${String(ms % 1000).padStart(3, "0")}`;
}

const oneLine = (text) => text.replace(/\s+/g, " ").trim();
const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const span = (item, mark) => `${stamp(item.start_s, mark)} --> ${stamp(item.end_s, mark)}`;

export const writers = {
  txt: { type: "text/plain", write: (items) => items.map((i) => `${i.text}\n`).join("") },
  srt: {
    type: "application/x-subrip",
    write: (items) =>
      items.map((i, n) => `${n + 1}\n${span(i, ",")}\n${oneLine(i.text)}\n`).join("\n"),
  },
  vtt: {
    type: "text/vtt",
    write: (items) =>
      ["WEBVTT\n", ...items.map((i) => `${span(i, ".")}\n${escape(oneLine(i.text))}\n`)].join("\n"),
  },
  json: { type: "application/json", write: (items) => `${JSON.stringify(items, null, 1)}\n` },
};

export function download(format, items) {
  const { type, write } = writers[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(items)], { type }));
  link.download = `transcript.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
