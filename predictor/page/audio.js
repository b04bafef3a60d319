// Where audio comes from: the microphone, or a recording; and playing parts of it again.

export const FILE_RATE = 16000;

// Calls `onSamples` with Float32Array pieces until `stop` of what it returns is called.
export async function openMicrophone(base, onSamples) {
  const media = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("page/capture.js", base));
  const source = context.createMediaStreamSource(media);
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  capture.port.onmessage = (message) => onSamples(message.data);
  source.connect(capture);
  return {
    rate: context.sampleRate,
    stop() {
      if (context.state === "closed") return;
      capture.port.onmessage = null;
      for (const track of media.getTracks()) track.stop();
      context.close();
    },
  };
}

// The whole of a recording as mono samples at FILE_RATE. Throws for what the browser cannot decode.
export async function decodeFile(file) {
  const context = new OfflineAudioContext(1, 1, FILE_RATE);
  const audio = await context.decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < samples.length; i++) mono[i] += samples[i] / audio.numberOfChannels;
  }
  return mono;
}

export function toPcm16(samples) {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    pcm[i] = Math.max(-1, Math.min(1, samples[i])) * 32767;
  }
  return pcm;
}

// Everything that was said in a session, to be heard or sent again.
export class Tape {
  constructor(rate) {
    this.rate = rate;
    this.pieces = []; // Int16Array
    this.starts = []; // sample at which each piece begins
    this.length = 0;
  }

  add(pcm) {
    this.pieces.push(pcm);
    this.starts.push(this.length);
    this.length += pcm.length;
  }

  slice(start, end) {
    const parts = [];
    for (let i = 0; i < this.pieces.length; i++) {
      const first = this.starts[i];
      if (first >= end || first + this.pieces[i].length <= start) continue;
      parts.push(this.pieces[i].subarray(Math.max(0, start - first), end - first));
    }
    const joined = new Int16Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      joined.set(part, at);
      at += part.length;
    }
    return joined;
  }

  play(startS, endS) {
    const pcm = this.slice(Math.floor(startS * this.rate), Math.ceil(endS * this.rate));
    if (!pcm.length) return;
    const context = new AudioContext();
    const buffer = context.createBuffer(1, pcm.length, this.rate);
    const samples = buffer.getChannelData(0);
    for (let i = 0; i < pcm.length; i++) samples[i] = pcm[i] / 32768;
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.onended = () => context.close();
    source.start();
  }
}
