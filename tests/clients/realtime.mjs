// OpenAI's realtime client for Node: node realtime.mjs BASE_URL PCM16_24KHZ_FILE [KEY] -> JSON.
// The certificate that the server's is signed by comes by NODE_EXTRA_CA_CERTS.
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [baseURL, file, apiKey = "none"] = process.argv.slice(2);
const audio = readFileSync(file);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const PIECE = 4_800; // 0.1 s
const TRANSCRIPTION = "conversation.item.input_audio_transcription";

// Events of one session until `count` items are complete.
function hear(openai, session, count) {
  return new Promise((resolve, reject) => {
    const live = new OpenAIRealtimeWS({ intent: "transcription" }, openai);
    const events = [];
    live.on("error", reject);
    live.on("event", (event) => {
      events.push(event);
      if (event.type === `${TRANSCRIPTION}.completed` && --count === 0) {
        live.close();
        resolve(events);
      }
    });
    live.on("session.created", () => {
      live.send({ type: "session.update", session });
      for (let start = 0; start < audio.length; start += PIECE) {
        const piece = audio.subarray(start, start + PIECE).toString("base64");
        live.send({ type: "input_audio_buffer.append", audio: piece });
      }
    });
  });
}

const transcription = { model: "qwen3-asr", language: "en" };
const format = { type: "audio/pcm", rate: 24_000 };
const session = {
  type: "transcription",
  audio: { input: { format, transcription, turn_detection: { type: "server_vad" } } },
  include: ["item.input_audio_transcription.logprobs"],
};
const events = await hear(client, session, 1);

// What a browser is given instead of the key.
const secret = await client.realtime.clientSecrets.create({ session });
const browser = new OpenAI({ baseURL, apiKey: secret.value, maxRetries: 0 });
const again = await hear(browser, { type: "transcription" }, 1);

process.stdout.write(JSON.stringify({ events, again, secret }));
