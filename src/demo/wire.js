// One channel over three native transports: WebSocket, EventSource and fetch. No DOM here, page.js has that.
//
// The one idea to take from here: a transport only moves a position along the channel's log, and the position outlives
// the transport. So a switch, a broken line and a restarted server are the same thing: close what is open, open the
// next one from `#resume`. Whether that really loses and repeats nothing is not assumed but counted, in `#checkChain`.

const HISTORY = 50; // messages asked for at the first join
const OUTBOX_MAX = 100; // messages that wait for an ack
const BATCH_MAX = 20; // envelopes per POST, so that a batch stays below the server's size limit
const POLL_WAIT_S = 25;
const PRESENCE_EVERY_MS = 5000; // while polling
const RESEND_SAFE_MS = 110_000; // the server knows a message_id for 2 minutes; later, a repeat could double it

export const NAMES = { ws: "WebSocket", sse: "SSE", poll: "long polling" };

export class Line {
  received = 0;
  gaps = 0;
  duplicates = 0;
  last = null; // { epoch, seq } of the last message handed over; the next one's `prev` has to name it
  userId;

  #view;
  #resume = null; // where the next transport begins: { cursor } or { recover: { epoch, seq } }; null: never joined
  #joinedAt = Infinity; // seq at the first join; the message before the first one we get cannot be later than this
  #announcedGap = false; // the server has said that something is missing before the next message
  #link = null; // what is meant to be open now: { kind, stop, joined, socket, refusal }
  #outbox = new Map(); // message_id -> { envelope, created, state: "pending" | "acked", attempt }
  #posting = false;
  #typingSentAt = 0;
  #presenceAskedAt = 0;

  /** `view` has a method for everything that happens: status, message, outbox, note, trouble, presence, online, typing. */
  constructor(name, channel, view) {
    this.name = name;
    this.channel = channel;
    this.userId = name; // until the server says what the token means
    this.#view = view;
  }

  get isOpen() {
    return this.#link !== null;
  }

  /** Opens the channel by `kind` from the last position; whatever is open is closed first, so the two never overlap. */
  open(kind) {
    this.close();
    this.#link = { kind, stop: new AbortController(), joined: false, socket: null, refusal: null };
    this.#keepOpen(this.#link);
  }

  /** Closes at once. The position stays, and so does what has not been acknowledged. */
  close() {
    const link = this.#link;
    this.#link = null;
    link?.stop.abort();
  }

  // ---- One loop for all transports ---------------------------------------------------------------------------------

  async #keepOpen(link) {
    const transports = { ws: this.#webSocket, sse: this.#eventSource, poll: this.#longPoll };
    for (let failures = 0; ; failures += 1) {
      // Ending an attempt, for whatever reason, aborts its signal: that closes its socket, fetch, timers, listeners.
      const attempt = new AbortController();
      Object.assign(link, { attempt, joined: false, socket: null, refusal: null });
      this.#view.status("connecting", `Connecting by ${NAMES[link.kind]}…`);
      let ending;
      try {
        ending = await transports[link.kind].call(this, link, AbortSignal.any([link.stop.signal, attempt.signal]));
      } catch (error) {
        ending = Refusal.from(error);
      }
      attempt.abort();
      if (this.#link !== link) return; // switched or disconnected: no failure, and no longer ours to report

      if (link.joined) failures = 0;
      link.joined = false;
      if (ending.isToken) identity = null; // run out or refused: the next attempt asks for a new one
      if (ending.isFinal) {
        this.#link = null;
        this.#view.trouble(ending.words());
        this.#view.status("closed", "Refused");
        return;
      }
      const delay = ending.retryMs ?? backoff(failures + (ending.code === 1013 ? 2 : 0));
      this.#view.trouble(ending.words(delay));
      this.#view.status("connecting", `Reconnecting in ${seconds(delay)}…`);
      await pause(delay, link.stop.signal);
      if (this.#link !== link) return;
    }
  }

  /** The server has confirmed the join: from here on, sends go out on this transport. */
  #joined(link) {
    if (link.joined) return;
    link.joined = true;
    this.#view.status("connected", `Connected by ${NAMES[link.kind]}`);
    this.#view.trouble("");
    this.#view.note(this.last ? `${NAMES[link.kind]}, on from #${this.last.seq}` : NAMES[link.kind]);
    this.#flush();
  }

  // ---- The transports: each opens, feeds `#receive`, and ends by throwing or returning a Refusal ---------------------

  async #webSocket(link, signal) {
    const url = new URL("/v1/ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("ticket", await this.#ticket(signal));
    signal.throwIfAborted(); // a listener for an abort that has already happened would never run
    const socket = new WebSocket(url, ["tidegate.v1.json"]);

    return new Promise((resolve) => {
      const on = (type, listener) => socket.addEventListener(type, listener, { signal });
      let heard = true;
      on("message", ({ data }) => {
        heard = true;
        const envelope = JSON.parse(data);
        if (envelope.type === "connection_established") {
          const payload = { channel: this.channel, presence: true, ...(this.#resume ?? { history: HISTORY }) };
          socket.send(JSON.stringify({ type: "join_room", payload, metadata: { correlation_id: "join" } }));
          link.socket = socket;
          // A page neither sends nor sees protocol pings. Without its own it would trust a dead line for minutes.
          const beat = setInterval(() => {
            if (!heard) resolve(new Refusal({ code: 1006, detail: "The server has gone silent" }));
            heard = false;
            socket.send(JSON.stringify({ type: "ping", payload: {}, metadata: {} }));
          }, envelope.payload.heartbeat_ms || 25_000);
          signal.addEventListener("abort", () => clearInterval(beat));
        }
        this.#receive(envelope, link);
        // After a refused join the connection lives on, but there is nothing here to use it for.
        if (envelope.type === "error" && envelope.metadata.correlation_id === "join") resolve(link.refusal);
      });
      on("close", ({ code, reason }) => resolve(Refusal.ofClose(code, reason, link.refusal)));
      signal.addEventListener("abort", () => (socket.close(1000), resolve(null)));
    });
  }

  async #eventSource(link, signal) {
    const query = this.#subscription();
    query.set("ticket", await this.#ticket(signal));
    signal.throwIfAborted();
    const source = new EventSource(`/v1/sse?${query}`);

    return new Promise((resolve, reject) => {
      source.onmessage = ({ data, lastEventId }) => {
        this.#receive(JSON.parse(data), link);
        if (lastEventId) this.#resume = { cursor: lastEventId };
      };
      source.onerror = () => {
        // EventSource would come back by itself, but with a ticket that is used up; so our own loop does it, with a
        // new one. It also hides the status of a refusal: a poll for the same, answered at once, tells the reason.
        source.close();
        const broken = link.refusal ?? new Refusal({ code: 1006 });
        if (link.joined || link.refusal) resolve(broken);
        else this.#api(`/v1/poll?${this.#subscription()}&wait=0`, { signal }).then(() => resolve(broken), reject);
      };
      signal.addEventListener("abort", () => (source.close(), resolve(null)));
    });
  }

  async #longPoll(link, signal) {
    // The first round does not wait, so that we know at once whether we may.
    for (let wait = 0; ; wait = POLL_WAIT_S) {
      const started = performance.now();
      const query = this.#subscription();
      query.set("wait", wait);
      const deadline = AbortSignal.timeout((wait + 15) * 1000);
      const { messages, cursor } = await this.#api(`/v1/poll?${query}`, { signal: AbortSignal.any([signal, deadline]) });
      // The answer may be complete in the very instant of a switch. Then it is dropped as a whole: the position has
      // not moved, and the next transport brings the same messages.
      signal.throwIfAborted();
      for (const envelope of messages) this.#receive(envelope, link);
      this.#resume = { cursor };
      this.#joined(link);
      this.#askPresence(signal);
      // A draining server answers at once and empty; without this the loop would spin.
      if (wait > 0 && messages.length === 0 && performance.now() - started < 1000) await pause(1000, signal);
    }
  }

  /** What SSE and polling ask for: the channel, from the position on. */
  #subscription() {
    const query = new URLSearchParams({ channels: this.channel, presence: 1 });
    const { cursor, recover } = this.#resume ?? {};
    if (cursor) query.set("cursor", cursor);
    else if (recover) query.set("recover", `${recover.epoch}:${recover.seq}`);
    else query.set("history", HISTORY);
    return query;
  }

  /** Between two polls nobody tells us who comes and goes. A failure here says nothing about the poll: ignored. */
  #askPresence(signal) {
    if (Date.now() - this.#presenceAskedAt < PRESENCE_EVERY_MS) return;
    this.#presenceAskedAt = Date.now();
    this.#api(`/v1/channels/${encodeURIComponent(this.channel)}/presence`, { signal })
      .then(({ users }) => this.#view.presence(users), () => {});
  }

  // ---- Envelopes in: the same on every transport --------------------------------------------------------------------

  /** `link` is null for an answer to a POST, which belongs to no stream. */
  #receive({ type, payload = {}, metadata = {} }, link) {
    switch (type) {
      case "connection_established":
        this.userId = payload.user_id ?? this.userId;
        break;
      case "room_joined":
        if (!this.#resume) this.#joinedAt = payload.seq;
        this.#resume = { cursor: payload.cursor };
        if (payload.presence) this.#view.presence(payload.presence.users ?? payload.presence);
        this.#joined(link);
        break;
      case "message":
        this.#onMessage(payload, metadata, link.kind);
        break;
      case "gap":
        this.gaps += 1;
        this.#announcedGap = true; // the break it makes in the chain is this one, not a second
        this.#resume = { recover: { epoch: payload.epoch, seq: Math.max(0, payload.seq - 1) } };
        // What was accepted and not seen yet may be among the lost; nobody should wait for it.
        for (const [id, { state }] of this.#outbox) if (state === "acked") this.#outbox.delete(id);
        this.#view.note(`Messages before #${payload.seq} are gone (${payload.reason})`, "loss");
        break;
      case "message_ack": {
        const entry = this.#outbox.get(metadata.correlation_id);
        if (entry) this.#setEntry(entry, "acked", `accepted as #${payload.seq}`);
        this.#view.trouble("");
        break;
      }
      case "presence_update":
        this.#view.online(payload.user_id, payload.online);
        break;
      case "typing_start":
      case "typing_stop":
        if (payload.user_id !== this.userId) this.#view.typing(payload.user_id, type === "typing_start");
        break;
      case "error": {
        const refusal = new Refusal(payload);
        const entry = this.#outbox.get(metadata.correlation_id);
        if (entry) {
          this.#setEntry(entry, "failed", refusal.words(refusal.retryMs));
          break;
        }
        if (link) link.refusal = refusal; // a close may follow, and says less
        this.#view.trouble(refusal.words(refusal.retryMs));
        break;
      }
      default: // answers of no interest here (`pong`), and types of a newer server
    }
  }

  #onMessage(payload, { message_id: id, timestamp }, kind) {
    const { epoch, seq, prev, sender_id: sender, data } = payload;
    const isDuplicate = this.#checkChain(payload) === "duplicate";
    if (!isDuplicate) {
      this.last = { epoch, seq };
      this.#resume = { recover: this.last };
    }
    const isOwn = this.#outbox.delete(id) || sender === this.userId;
    this.#view.message({ id, epoch, seq, prev, sender, data, timestamp, kind, isOwn, isDuplicate });
  }

  /** Every message names its predecessor, so a reader can prove that nothing is missing. Counts; filters nothing. */
  #checkChain({ epoch, seq, prev }) {
    this.received += 1;
    const { last } = this;
    const announced = this.#announcedGap;
    this.#announcedGap = false;
    if (last?.epoch === epoch && seq <= last.seq) {
      this.duplicates += 1;
      return "duplicate";
    }
    const follows = last ? last.epoch === epoch && prev === last.seq : prev <= this.#joinedAt;
    if (follows || announced) return "next";
    this.gaps += 1;
    this.#view.note(`Something is missing before #${seq}`, "loss");
    return "gap";
  }

  // ---- Envelopes out ------------------------------------------------------------------------------------------------

  /** Queues a message and returns its id, or null when too much is waiting already. */
  say(text) {
    if (this.#outbox.size >= OUTBOX_MAX) return null;
    const id = crypto.randomUUID();
    const payload = { channel: this.channel, data: { text } };
    // The id serves twice: as `message_id` it makes a resend harmless, as `correlation_id` it asks for the ack.
    const envelope = { type: "message", payload, metadata: { message_id: id, correlation_id: id } };
    this.#outbox.set(id, { envelope, created: Date.now(), state: "pending", attempt: null });
    // The page adds the message to its list first, then hears what becomes of it.
    queueMicrotask(() => this.#flush());
    return id;
  }

  /** Sends what this attempt has not sent yet. After a reconnect that is everything unacknowledged; ids make it safe. */
  #flush() {
    const link = this.#link;
    if (!link?.joined) return;
    if (!link.socket) return void this.#post();
    for (const entry of this.#unsent(link)) {
      entry.attempt = link.attempt;
      link.socket.send(JSON.stringify(entry.envelope));
    }
  }

  #unsent(link) {
    const waiting = [...this.#outbox.values()].filter((e) => e.state === "pending" && e.attempt !== link.attempt);
    for (const entry of waiting.filter(({ created }) => Date.now() - created > RESEND_SAFE_MS)) {
      this.#setEntry(entry, "failed", "No answer for too long; it may have arrived or not.");
    }
    return waiting.filter(({ state }) => state === "pending");
  }

  /** One POST at a time, which keeps the order; what is written meanwhile goes into the next one. */
  async #post() {
    if (this.#posting) return;
    this.#posting = true;
    let retryMs = null;
    while (retryMs === null && this.#link?.joined && !this.#link.socket) {
      const { attempt } = this.#link;
      const batch = this.#unsent(this.#link).slice(0, BATCH_MAX);
      if (batch.length === 0) break;
      for (const entry of batch) entry.attempt = attempt;
      try {
        const body = batch.map(({ envelope }) => envelope);
        // Without the attempt's signal: a send that is under way is worth finishing during a switch.
        for (const answer of await this.#api("/v1/send", { method: "POST", body })) this.#receive(answer, null);
      } catch (error) {
        const refusal = Refusal.from(error);
        if (refusal.isToken) identity = null;
        if (refusal.isTransient) {
          retryMs = refusal.retryMs ?? 2000;
          this.#view.trouble(refusal.words(retryMs));
        }
        for (const entry of batch.filter(({ state }) => state === "pending")) {
          if (refusal.isTransient) entry.attempt = null;
          else this.#setEntry(entry, "failed", refusal.words(refusal.retryMs));
        }
      }
    }
    this.#posting = false;
    if (retryMs !== null) setTimeout(() => this.#flush(), retryMs);
    else if (this.#link?.socket) this.#flush(); // switched to WebSocket meanwhile
  }

  #setEntry(entry, state, words) {
    const id = entry.envelope.metadata.message_id;
    entry.state = state;
    if (state === "failed") this.#outbox.delete(id); // from here on it is the user's to send again, as a new message
    this.#view.outbox(id, state, words);
  }

  /** Tells the others, at most every 3 s: the server takes 5 s of silence for an end. */
  tellTyping(isTyping) {
    const link = this.#link;
    if (!link?.joined || (isTyping ? Date.now() - this.#typingSentAt < 3000 : this.#typingSentAt === 0)) return;
    this.#typingSentAt = isTyping ? Date.now() : 0;
    const type = isTyping ? "typing_start" : "typing_stop";
    const envelope = { type, payload: { channel: this.channel }, metadata: {} };
    if (link.socket) link.socket.send(JSON.stringify(envelope));
    else this.#api("/v1/send", { method: "POST", body: [envelope] }).catch(() => {}); // a hint, not worth a complaint
  }

  // ---- Who we are ---------------------------------------------------------------------------------------------------

  /** WebSocket and EventSource cannot send headers. A ticket works once, so it may stand in a URL, hence in a log. */
  async #ticket(signal) {
    return (await this.#api("/v1/tickets", { method: "POST", signal })).ticket;
  }

  async #api(path, options) {
    const { name } = this;
    if (identity?.name !== name || Date.now() > identity.expires) {
      const answer = await request("/demo/token", { method: "POST", body: { name }, signal: options.signal });
      identity = { name, token: answer.token, expires: Date.now() + (answer.expires_in - 30) * 1000 };
    }
    return request(path, { ...options, token: identity.token });
  }
}

let identity = null; // { name, token, expires }, shared by all lines of this page

async function request(path, { method = "GET", body, token, signal }) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" };
  const response = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Refusal({ code: 1006, detail: "The server cannot be reached" });
  });
  if (response.ok) return response.json();
  // RFC 9457; but what stands between us and the server may answer with something else.
  const problem = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) * 1000 || undefined;
  throw new Refusal({ retry_after_ms: retryAfter, ...problem, status: response.status });
}

/** Exponential, with jitter over the upper half, so that a server that comes back is not met by everybody at once. */
function backoff(failures) {
  const ceiling = Math.min(30_000, 500 * 2 ** failures);
  return ceiling * (0.5 + Math.random() / 2);
}

/** Ends early when `signal` aborts, or when the network is back: then a try is worth it now. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const end = () => (over.abort(), clearTimeout(timer), resolve());
    const timer = setTimeout(end, ms);
    addEventListener("online", end, { signal: over.signal });
    signal.addEventListener("abort", end, { signal: over.signal });
  });
}

function seconds(ms) {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

const WORDS = {
  1001: "The server went away",
  1006: "The connection broke",
  1012: "The server is restarting",
  1013: "The server is overloaded",
  4000: "The server refused",
  4001: "The server wants a sign-in",
  4002: "The sign-in was not accepted",
  4003: "This page's origin is not allowed",
  4004: "Too much at once",
  4005: "The message is too large",
};

/** Why something ended or was not done: a close code, an `error` envelope or a problem document, in one shape. */
class Refusal extends Error {
  constructor({ code, reason = "", detail, title, status = 0, retry_after_ms: retryMs }) {
    super(detail ?? title ?? "");
    const likely = { 401: 4002, 413: 4005, 429: 4004, 503: 1013 }[status] ?? 4000;
    Object.assign(this, { code: code ?? likely, reason, status, retryMs });
  }

  static from(error) {
    if (error instanceof Refusal) return error;
    if (error.name !== "AbortError") console.error(error); // ours, or an answer that is not JSON
    return new Refusal({ code: 1006, detail: error.message });
  }

  static ofClose(code, reason, earlier) {
    if (earlier?.code === code) return earlier;
    const retry = /\bretry=(\d+)/.exec(reason); // `restart;retry=MS`: the server has spread it, so it is taken as it is
    return new Refusal({ code, reason: reason.split(";")[0], retry_after_ms: retry ? Number(retry[1]) : undefined });
  }

  get isToken() {
    return this.code === 4001 || this.code === 4002;
  }

  /** True where the same request gets the same answer for ever. */
  get isFinal() {
    const pointless = ["forbidden", "malformed", "unknown_type"].includes(this.reason);
    return pointless || this.code === 4003 || [400, 403, 404, 405].includes(this.status);
  }

  /** True where a send may be repeated without asking the user. */
  get isTransient() {
    return this.isToken || [1006, 1012, 1013].includes(this.code) || this.status >= 500;
  }

  words(retryMs) {
    const what = WORDS[this.code] ?? "The connection ended";
    const exact = [this.code, this.reason].filter(Boolean).join(" ");
    const detail = this.message ? `: ${this.message.replace(/\.?$/, ".")}` : ".";
    return `${what} (${exact})${detail}${retryMs === undefined ? "" : ` Again in ${seconds(retryMs)}.`}`;
  }
}
