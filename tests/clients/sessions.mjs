// What OpenAI's SDK for Node and the Vercel AI SDK hear: node sessions.mjs BASE_URL FILE -> JSON.
import { readFileSync, createReadStream } from "node:fs";
import OpenAI from "openai";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_transcribe as transcribe, generateText } from "ai";

const [baseURL, file] = process.argv.slice(2);
const model = "whisper-1";
const audio = readFileSync(file);
const heard = {};

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const create = (options) =>
  client.audio.transcriptions.create({ model, file: createReadStream(file), ...options });
heard.json = await create({});
heard.logprobs = (await create({ include: ["logprobs"] })).logprobs.length;
heard.verbose = await create({ response_format: "verbose_json", timestamp_granularities: ["segment"] });
heard.srt = await create({ response_format: "srt" });
heard.deltas = [];
for await (const event of await create({ stream: true })) {
  if (event.type === "transcript.text.delta") heard.deltas.push(event.delta);
  else heard.done = event;
}
heard.models = (await client.models.list()).data.map((entry) => entry.id);
const content = [{ type: "input_audio", input_audio: { data: audio.toString("base64"), format: "wav" } }];
heard.chat = await client.chat.completions.create({ model, messages: [{ role: "user", content }] });
heard.chunks = [];
const stream = await client.chat.completions.create({
  model, messages: [{ role: "user", content }], stream: true,
});
for await (const chunk of stream) heard.chunks.push(chunk.choices[0]?.delta?.content ?? "");
try {
  await create({ language: "klingon" });
} catch (error) {
  heard.error = { name: error.constructor.name, param: error.param, status: error.status };
}

const vercel = createOpenAI({ baseURL, apiKey: "none" });
const said = await transcribe({ model: vercel.transcription(model), audio });
heard.vercel = {
  text: said.text,
  segments: said.segments,
  language: said.language,
  durationInSeconds: said.durationInSeconds,
  warnings: said.warnings,
};
const spoken = await generateText({
  model: vercel.chat(model),
  messages: [{ role: "user", content: [{ type: "file", mediaType: "audio/wav", data: audio }] }],
});
heard.vercelChat = spoken.text;

process.stdout.write(JSON.stringify(heard));
