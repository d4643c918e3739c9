// Draws what the router tells, again and again. All that comes from peers is put in as text, never as markup.
"use strict";

const INTERVAL_MS = 2000;
const RADIUS = 290;
const LINES_MAX = 2000;
const SVG = "http://www.w3.org/2000/svg";

let earlier = null;
let earlierLinks = { at: 0, bytes: new Map() };

const element = (id) => document.getElementById(id);

async function read(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(8000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

// What a router of another version may not know.
const readIfThere = (path) => read(path).catch(() => null);

function fill(table, headings, rows) {
  const row = (cells, kind) => {
    const line = document.createElement("tr");
    for (const cell of cells) {
      const { text, tone, title } = typeof cell === "object" && cell !== null ? cell : { text: cell };
      const box = document.createElement(kind);
      box.textContent = text ?? "–";
      if (tone) box.className = tone;
      if (title) box.title = title;
      line.append(box);
    }
    return line;
  };
  table.replaceChildren(row(headings, "th"), ...rows.map((cells) => row(cells, "td")));
}

function draw(name, attributes, text) {
  const shape = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  if (text !== undefined) shape.textContent = text;
  return shape;
}

const byName = (a, b) => a.nickname.localeCompare(b.nickname, "en", { numeric: true }) || a.peer_id.localeCompare(b.peer_id);

function topology(peers, reach) {
  const ordered = [...peers].sort(byName);
  const first = Math.max(0, ordered.findIndex((peer) => peer.is_self));
  const places = new Map();
  ordered.forEach((peer, index) => {
    const angle = (2 * Math.PI * (index - first)) / ordered.length - Math.PI / 2;
    places.set(peer.peer_id, { x: RADIUS * Math.cos(angle), y: RADIUS * Math.sin(angle), angle });
  });
  const self = ordered.find((peer) => peer.is_self);
  const links = new Map();
  for (const peer of ordered) {
    for (const link of peer.connections) {
      if (!places.has(link.peer_id)) continue;
      const key = [peer.peer_id, link.peer_id].sort().join();
      const known = links.get(key) ?? { ends: [peer.peer_id, link.peer_id], up: true };
      links.set(key, { ...known, up: known.up && link.established });
    }
  }
  const isOwn = (link) => self && link.ends.includes(self.peer_id);
  const lines = [...links.values()].sort((a, b) => isOwn(a) - isOwn(b)).slice(-LINES_MAX).map((link) => {
    const [a, b] = link.ends.map((end) => places.get(end));
    const kind = [isOwn(link) ? "own" : "", link.up ? "" : "half"].join(" ").trim();
    return draw("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: kind });
  });
  const nodes = ordered.flatMap((peer) => {
    const { x, y, angle } = places.get(peer.peer_id);
    const circle = draw("circle", { cx: x, cy: y, r: peer.is_self ? 13 : 10, class: reach(peer).kind });
    circle.append(draw("title", {}, `${peer.nickname} (${peer.peer_id}): ${reach(peer).text}`));
    const anchor = Math.abs(Math.cos(angle)) < 0.2 ? "middle" : Math.cos(angle) > 0 ? "start" : "end";
    const distance = anchor === "middle" ? 30 : 20;
    const at = { x: x + distance * Math.cos(angle), y: y + distance * Math.sin(angle) + 6, "text-anchor": anchor };
    return [circle, draw("text", at, shorten(peer.nickname))];
  });
  element("topology").replaceChildren(...lines, ...nodes);
}

const shorten = (name) => (name.length > 18 ? `${name.slice(0, 17)}…` : name);

// How each peer is reached.
function ways(peers) {
  const names = new Map(peers.map((peer) => [peer.peer_id, peer.nickname]));
  return (peer) => {
    if (peer.is_self) return { kind: "self", text: "this router" };
    if (peer.via === peer.peer_id) return { kind: "up", text: "directly" };
    if (peer.via) return { kind: "relayed", text: `over ${names.get(peer.via) ?? peer.via}` };
    return { kind: "lost", text: peer.info ?? "not reached" };
  };
}

const TONES = { self: "", up: "good", relayed: "waiting", lost: "bad" };

function peerTable(peers, connections, reach) {
  const byPeer = new Map(connections.filter((it) => it.peer_id).map((it) => [it.peer_id, it]));
  const now = { at: performance.now(), bytes: new Map() };
  const seconds = Math.max((now.at - earlierLinks.at) / 1000, 0.001);
  // A link that is new, or was made anew, has no rate yet.
  const rate = (peer, way, passed) => {
    if (!passed) return { text: null, tone: "number" };
    const key = `${peer.peer_id} ${way}`;
    now.bytes.set(key, passed.bytes);
    const before = Math.min(earlierLinks.bytes.get(key) ?? passed.bytes, passed.bytes);
    return { text: bits((8 * (passed.bytes - before)) / seconds), tone: "number" };
  };
  const rows = [...peers].sort((a, b) => b.is_self - a.is_self || byName(a, b)).map((peer) => {
    const link = byPeer.get(peer.peer_id) ?? {};
    const { kind, text } = reach(peer);
    return [
      peer.nickname,
      { text: peer.peer_id, tone: "id" },
      { text, tone: TONES[kind] },
      link.overlay,
      link.encrypted === undefined || link.encrypted === null ? null : link.encrypted ? "yes" : { text: "no", tone: "waiting" },
      { text: typeof link.rtt_ms === "number" ? `${link.rtt_ms.toFixed(1)} ms` : null, tone: "number" },
      { text: typeof link.loss === "number" ? `${(100 * link.loss).toFixed(1)} %` : null, tone: link.loss >= 0.01 ? "number bad" : "number" },
      rate(peer, "in", link.received),
      rate(peer, "out", link.sent),
      link.address,
    ];
  });
  const failed = connections.filter((it) => !it.peer_id).map((it) => [
    null, null, { text: `${it.state}: ${it.info ?? ""}`, tone: it.state === "failed" ? "bad" : "waiting" }, null, null, null, null, null, null, it.address,
  ]);
  earlierLinks = now;
  const number = (text) => ({ text, tone: "number" });
  fill(element("peers"), ["name", "id", "reached", "overlay", "encrypted", number("rtt"), number("loss"), number("sleeve in"), number("sleeve out"), "address"], [...rows, ...failed]);
}

function rateTable(status) {
  const reasons = Object.entries(status.traffic.drops);
  const dropped = reasons.reduce((sum, [, count]) => sum + count, 0);
  const now = { at: performance.now(), passed: status.traffic.passed, dropped };
  const before = earlier ?? now;
  const seconds = Math.max((now.at - before.at) / 1000, 0.001);
  const rows = [];
  for (const [path, ways] of Object.entries(now.passed)) {
    for (const [way, { frames, bytes }] of Object.entries(ways)) {
      const old = before.passed[path]?.[way] ?? { frames, bytes };
      rows.push([
        `${path} ${way}`,
        { text: `${Math.round((frames - old.frames) / seconds).toLocaleString("en")} /s`, tone: "number" },
        { text: bits((8 * (bytes - old.bytes)) / seconds), tone: "number" },
        { text: frames.toLocaleString("en"), tone: "number" },
      ]);
    }
  }
  const lost = Math.round((dropped - Math.min(before.dropped, dropped)) / seconds);
  rows.push([
    { text: "dropped", title: reasons.map(([reason, count]) => `${reason} ${count}`).join("\n") },
    { text: `${lost.toLocaleString("en")} /s`, tone: lost > 0 ? "number bad" : "number" },
    { text: "", tone: "number" },
    { text: dropped.toLocaleString("en"), tone: "number" },
  ]);
  const number = (text) => ({ text, tone: "number" });
  fill(element("rates"), ["path", number("frames"), number("bits"), number("frames in all")], rows);
  earlier = now;
}

function bits(rate) {
  const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"];
  let unit = 0;
  while (rate >= 1000 && unit + 1 < units.length) { rate /= 1000; unit += 1; }
  return `${rate.toFixed(unit === 0 ? 0 : 1)} ${units[unit]}`;
}

function addressTable(ipam) {
  if (!ipam) return;
  element("range").textContent = [ipam.range ?? "managed by users", ipam.state, ipam.detail].filter(Boolean).join(", ");
  const number = (text) => ({ text, tone: "number" });
  const name = (owner) => owner.nickname ?? owner.peer_id;
  const owners = [...ipam.owned].sort((a, b) => name(a).localeCompare(name(b), "en", { numeric: true }));
  const rows = owners.map((owner) => [
    name(owner),
    number(owner.addresses.toLocaleString("en")),
    number(`${(100 * owner.share).toFixed(1)} %`),
    number(owner.active === null ? null : owner.active.toLocaleString("en")),
    owner.retired ? { text: "gone for good", tone: "waiting" } : owner.reachable ? { text: "yes", tone: "good" } : { text: "no", tone: "bad" },
  ]);
  fill(element("addresses"), ["owner", number("addresses"), number("share"), number("in use"), "reached"], rows);
}

function nameTable(dns) {
  const entries = dns?.entries;
  element("names-section").hidden = !entries;
  if (entries) fill(element("names"), ["name", "address", "container"], entries.map((it) => [it.name, it.address, it.container]));
}

async function refresh() {
  const state = element("state");
  try {
    const [status, peers, connections, dns] = await Promise.all(
      [read("status"), read("status/peers"), read("status/connections"), readIfThere("status/dns")]);
    const { router } = status;
    document.title = `mesh ${router.nickname}`;
    element("name").textContent = router.nickname;
    element("summary").textContent = [
      `version ${status.version}`, `${status.peers} peers`, `${status.connections.established} connections`, `MTU ${router.mtu}`,
      router.encryption ? "encrypted" : "in clear: no password",
    ].join(" · ");
    const reach = ways(peers);
    topology(peers, reach);
    peerTable(peers, connections, reach);
    rateTable(status);
    addressTable(status.ipam);
    nameTable(dns);
    state.textContent = router.fenced ? "stands aside: its identity is in use elsewhere" : "live";
    state.className = router.fenced ? "bad" : "good";
  } catch (error) {
    state.textContent = `no answer: ${error.message}`;
    state.className = "bad";
  }
  setTimeout(refresh, INTERVAL_MS);
}

refresh();
