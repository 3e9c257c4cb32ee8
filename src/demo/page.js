// The demo chat's page: what the user does goes to a `Line` (wire.js), what happens on the wire comes back to `view`.
// Text from others reaches the page through `textContent` and `dataset` alone.

import { Line, NAMES } from "/demo/wire.js";

const LIST_MAX = 500; // items kept in the page; the oldest go first
const USERS_MAX = 100; // names shown; the rest is a number
const TYPING_MS = 6000; // a typing_stop may get lost in a switch; the server's own limit is 5 s

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));

let line = null;
let users = new Set();
const typing = new Map(); // user_id -> timer that forgets it
const unconfirmed = new Map(); // message_id -> item that has no place in the log yet

// ---- What happens on the wire -----------------------------------------------------------------------------------------

const view = {
  status(state, words) {
    ui.status.dataset.state = state;
    ui.status.textContent = words;
    const isOpen = state !== "closed";
    ui.name.disabled = ui.channel.disabled = isOpen;
    ui.connect.textContent = isOpen ? "Disconnect" : "Connect";
    ui.connect.classList.toggle("quiet", isOpen);
    ui.text.disabled = ui.send.disabled = !isOpen;
    ui.text.placeholder = isOpen ? `Message to ${line.channel}` : "Connect to write";
  },

  message(message) {
    unconfirmed.get(message.id)?.remove();
    unconfirmed.delete(message.id);
    view.typing(message.sender, false);

    const item = messageItem(message.sender, textOf(message.data), message.timestamp, `#${message.seq} ${message.kind}`);
    item.dataset.seq = message.seq;
    item.dataset.via = message.kind;
    item.classList.toggle("own", message.isOwn);
    item.classList.toggle("duplicate", message.isDuplicate);
    item.querySelector(".mark").title =
      `seq ${message.seq} after ${message.prev}, epoch ${message.epoch}, by ${NAMES[message.kind]}`;
    append(item);
    showWire();
  },

  /** A message of our own is still on its way ("acked": accepted, but not yet seen in the channel), or has failed. */
  outbox(id, state, words) {
    const item = unconfirmed.get(id);
    if (!item) return;
    item.dataset.state = state;
    item.querySelector(".mark").textContent = words;
    if (state !== "failed") return;
    const again = element("button", "again", "Send again");
    again.onclick = () => {
      unconfirmed.delete(id);
      item.remove();
      say(item.dataset.text);
      ui.text.focus();
    };
    item.querySelector(".bubble").append(again);
  },

  note(words, kind = "") {
    append(element("li", `note ${kind}`, words));
    showWire();
  },

  trouble(words) {
    ui.error.textContent = words;
    ui.error.hidden = words === "";
  },

  presence(list) {
    users = new Set(list.map(({ user_id: id }) => id));
    showUsers();
  },

  online(id, isOnline) {
    if (isOnline) users.add(id);
    else users.delete(id);
    if (!isOnline) view.typing(id, false);
    showUsers();
  },

  typing(id, isTyping) {
    clearTimeout(typing.get(id));
    typing.delete(id);
    if (isTyping) typing.set(id, setTimeout(() => view.typing(id, false), TYPING_MS));
    const names = [...typing.keys()];
    const words = names.length > 3 ? "Several people are typing…" : `${names.join(", ")} ${names.length > 1 ? "are" : "is"} typing…`;
    ui.typing.textContent = names.length === 0 ? "" : words;
  },
};

function showWire() {
  const { last, received, gaps, duplicates } = line;
  Object.assign(ui.stats.dataset, { received, gaps, duplicates });
  const isWhole = gaps === 0 && duplicates === 0;
  ui.stats.className = isWhole ? "whole" : "broken";
  ui.stats.textContent = `${isWhole ? "✓" : "✗"} ${received} received, ${gaps} gaps, ${duplicates} duplicates`;
  ui.position.textContent = last ? `epoch ${last.epoch}, seq ${last.seq}` : "no message yet";
  Object.assign(ui.position.dataset, { epoch: last?.epoch ?? "", seq: last?.seq ?? "" });
}

function showUsers() {
  const names = [...users].sort((a, b) => a.localeCompare(b));
  const items = names.slice(0, USERS_MAX).map((name) => {
    const item = element("li", name === line.userId ? "me" : "");
    item.dataset.user = name;
    item.append(avatar(name), element("span", "who", name));
    return item;
  });
  if (names.length > USERS_MAX) items.push(element("li", "more", `and ${names.length - USERS_MAX} more`));
  ui.presence.replaceChildren(...items);
  ui["head-count"].textContent = names.length;
}

// ---- The list of messages -----------------------------------------------------------------------------------------------

function messageItem(sender, text, timestamp, mark) {
  const item = element("li", "message");
  Object.assign(item.dataset, { sender, text });
  const date = new Date(timestamp);
  const time = element("time", "", date.toLocaleTimeString([], { hourCycle: "h23" }));
  time.dateTime = timestamp;
  const head = element("div", "head");
  head.append(element("b", "", sender), time, element("span", "mark", mark));
  const bubble = element("div", "bubble");
  bubble.append(head, element("p", "", text));
  item.append(avatar(sender), bubble);
  return item;
}

/** Anybody may publish any JSON, with curl for example. */
function textOf(data) {
  if (typeof data === "string") return data;
  return typeof data?.text === "string" ? data.text : JSON.stringify(data);
}

/** What is still on its way stays below what has its place in the log. */
function append(item) {
  const { messages, empty } = ui;
  empty.hidden = true;
  const firstUnconfirmed = item.dataset.state ? null : messages.querySelector(":scope > [data-state]");
  messages.insertBefore(item, firstUnconfirmed);
  while (messages.childElementCount > LIST_MAX) messages.firstElementChild.remove();
}

function element(tag, className, text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

function avatar(name) {
  const node = element("span", "avatar", [...name][0]?.toUpperCase() ?? "?");
  const hue = [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
  node.style.setProperty("--hue", hue);
  node.ariaHidden = "true";
  return node;
}

// ---- What the user does ---------------------------------------------------------------------------------------------------

function connect() {
  const name = ui.name.value.trim();
  const channel = ui.channel.value.trim();
  sessionStorage.setItem("tidegate.name", name);
  // The same person in the same channel goes on where the line was left; anything else begins anew.
  if (line?.name !== name || line.channel !== channel) {
    line = new Line(name, channel, view);
    unconfirmed.clear();
    ui.messages.replaceChildren();
    view.presence([]);
    for (const id of [...typing.keys()]) view.typing(id, false);
    showWire();
  }
  line.open(ui.join.elements.transport.value);
}

function disconnect() {
  line.tellTyping(false);
  line.close();
  view.status("closed", "Not connected");
  view.trouble("");
  view.presence([]);
}

function say(text) {
  const id = line.say(text);
  if (!id) return view.trouble("Too many messages wait for an answer.");
  const item = messageItem(line.userId, text, new Date().toISOString(), "sending…");
  item.dataset.state = "pending";
  item.classList.add("own");
  unconfirmed.set(id, item);
  append(item);
  ui.log.scrollTop = 0; // the end, in a reversed box
}

ui.join.addEventListener("submit", (event) => {
  event.preventDefault();
  if (line?.isOpen) disconnect();
  else connect();
});

ui.transport.addEventListener("change", () => {
  if (line?.isOpen) line.open(ui.join.elements.transport.value);
});

ui.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = ui.text.value.trim();
  if (!text) return;
  ui.text.value = "";
  line.tellTyping(false);
  say(text);
});

ui.text.addEventListener("input", () => line.tellTyping(ui.text.value !== ""));
ui.text.addEventListener("blur", () => line?.tellTyping(false));

// ---- The first moment -----------------------------------------------------------------------------------------------------

const preset = new URLSearchParams(location.search);
const visitor = `visitor-${Math.random().toString(36).slice(2, 6)}`;
ui.name.value = preset.get("name") ?? sessionStorage.getItem("tidegate.name") ?? visitor;
ui.channel.value = preset.get("channel") ?? ui.channel.value;
if (preset.get("transport") in NAMES) ui.join.elements.transport.value = preset.get("transport");
if (preset.get("connect") === "1") ui.join.requestSubmit();
