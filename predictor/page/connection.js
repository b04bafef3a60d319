// One live session over /api/v1/live: sends the tape, tells of lines, and goes on when the server
// ends a connection (see the README: `expiring`, `resume`).

const PIECE = 8192; // samples in one message
const MAX_BUFFERED = 1 << 20; // bytes that may wait in the socket before sending pauses

export class Connection {
  // handlers: line(object), closed(wasClean), all called in order
  constructor(base, options, tape, handlers) {
    this.base = base;
    this.options = options;
    this.tape = tape;
    this.handlers = handlers;
    this.sent = 0; // samples of the tape
    this.isFinished = false; // no more audio comes
    this.resume = null;
    this.open();
  }

  open() {
    const url = new URL("api/v1/live", this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("rate", String(this.tape.rate));
    if (this.options.language) url.searchParams.set("language", this.options.language);
    if (this.options.context) url.searchParams.set("context", this.options.context);
    if (this.resume) url.searchParams.set("resume", this.resume);
    const protocols = ["realtime"];
    if (this.options.key) protocols.push(`openai-insecure-api-key.${this.options.key}`);
    this.isReady = false;
    this.socket = new WebSocket(url, protocols);
    this.socket.onmessage = (message) => this.receive(JSON.parse(message.data));
    this.socket.onclose = (event) => this.close(event);
  }

  receive(line) {
    if (line.type === "ready") {
      this.isReady = true;
      this.hasEnded = false;
      this.pump();
    }
    if (line.type === "expiring") {
      this.resume = line.resume;
      if (line.expires_in_s === 0) this.sent = Math.round(line.audio_done_s * this.tape.rate);
    }
    this.handlers.line(line);
  }

  close(event) {
    const wasReady = this.isReady;
    this.isReady = false;
    if (event.code === 1001 && this.resume && wasReady) this.open();
    else this.handlers.closed(event.code === 1000 && this.isFinished);
  }

  // Send what the tape has and the server has not.
  pump() {
    if (!this.isReady || this.socket.readyState !== WebSocket.OPEN) return;
    while (this.sent < this.tape.length) {
      if (this.socket.bufferedAmount > MAX_BUFFERED) {
        setTimeout(() => this.pump(), 50);
        return;
      }
      const end = Math.min(this.sent + PIECE, this.tape.length);
      this.socket.send(this.tape.slice(this.sent, end));
      this.sent = end;
    }
    if (this.isFinished && !this.hasEnded) {
      this.hasEnded = true;
      this.socket.send('{"type": "end"}');
    }
  }

  update(options) {
    this.options = { ...this.options, ...options };
    if (this.isReady) this.socket.send(JSON.stringify({ type: "update", ...options }));
  }

  finish() {
    this.isFinished = true;
    this.pump();
  }
}
