// The dashboard: asks the node once, then follows its event stream. Energy comes in Wh, money and prices in 1e-6, times in ms.
// All text goes in through textContent, so nothing that a member writes can become markup.

const ROWS = 30;
const KEPT_BILLS = 2000;
const CHART_PERIODS = 24;
const REFRESH_MS = 1000;
const DAY_MS = 86400000;
const KINDS = [
  "block", "traded", "billed", "period-cleared", "period-settled", "order-accepted", "order-cancelled",
  "reading-accepted", "reading-quarantined", "meter-reset", "meter-missing",
];
const channel = new URLSearchParams(location.search).get("channel");
const state = { genesis: null, status: null, totals: null, markets: new Map(), meters: new Map(), trades: [], bills: [], blocks: [] };

const byId = (id) => document.getElementById(id);
const withChannel = (path) => (channel ? path + (path.includes("?") ? "&" : "?") + "channel=" + encodeURIComponent(channel) : path);

async function ask(path) {
  const answer = await fetch(withChannel(path));
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}`);
  return answer.json();
}

function element(tag, classes = "", ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

function shape(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

const number = (value, digits = 0) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const energy = (wh) => (Math.abs(wh) >= 1e6 ? `${number(wh / 1e6, 3)} MWh` : `${number(wh / 1000, 3)} kWh`);
const price = (micro) => number(micro / 1e6, 4);
const money = (micro) => number((Math.round(micro / 100) || 0) / 1e4, 4);
const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
const clock = (ms) => new Date(ms).toISOString().slice(11, 16);
const moment = (ms) => new Date(ms).toISOString().slice(0, 16).replace("T", " ");
const day = (ms) => new Date(ms).toLocaleDateString("en-GB", { day: "2-digit", month: "short", timeZone: "UTC" });
const members = () => new Set(state.genesis ? state.genesis.meters.map((meter) => meter.account) : []);
const periodLabel = (period) => {
  if (!state.genesis) return `#${period}`;
  const startMs = period * state.genesis.market.period_ms;
  return `${day(startMs)} ${clock(startMs)}`;
};

function emptyRow(columns, text) {
  const cell = element("td", "empty", text);
  cell.colSpan = columns;
  return element("tr", "", cell);
}

// ------------------------------------------------------------------------------------------------------------- drawing

function drawTotals() {
  const { totals, genesis } = state;
  if (!totals || !genesis) return;
  const items = [
    ["periods settled", number(totals.periods_settled)],
    ["readings accepted", number(totals.readings_accepted)],
    ["orders", number(totals.orders)],
    ["trades", number(totals.trades)],
    ["traded among members", energy(totals.energy_traded_wh)],
    ["with the grid", energy(totals.energy_grid_wh)],
  ];
  const tiles = items.map(([label, value]) => element("div", "", element("strong", "", value), element("span", "", label)));
  const kept = totals.supply_conserved;
  const check = element("strong", kept ? "good-text" : "bad-text", kept ? "✓ balanced" : "✗ not balanced");
  tiles.push(element("div", "", check, element("span", "", "money and energy, to the last unit")));
  byId("totals").replaceChildren(...tiles);
}

function drawNodes() {
  const status = state.status;
  if (!status) return;
  byId("chain").textContent = `${status.chain_id} / ${status.channel} · seen from ${status.node}`;
  byId("chain-time").textContent = `${moment(status.clock_ms)} ${Math.abs(status.clock_ms - Date.now()) < DAY_MS ? "UTC" : "local time of the data"}`;
  const changing = status.changing ? `, changing to ${status.next_view}` : "";
  byId("consensus").textContent = `epoch ${status.epoch} · view ${status.view}${changing} · certified ${status.certified} · ${number(status.mempool.transactions)} waiting`;
  const own = { name: status.node, connected: true, height: status.height };
  const rows = [own, ...status.peers].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true })).map((node) => {
    const name = element("td", "", element("i", node.connected ? "dot good" : "dot"), node.name);
    if (node.name === status.primary) name.append(element("span", "tag", "primary"));
    const said = node === own ? (status.diverged ? "diverged" : status.voting ? "this node" : "this node, without a vote") : node.connected ? "connected" : "not connected";
    return element("tr", "", name, element("td", "right", node.height ?? "–"), element("td", "muted", said));
  });
  byId("nodes").replaceChildren(...rows);
}

function drawBlocks() {
  const lines = state.blocks.slice(0, 6).map((block) => {
    return element("li", "", element("b", "number", `#${block.height}`), element("code", "", block.hash.slice(0, 14)), element("span", "number", count(block.transactions, "transaction")));
  });
  byId("blocks").replaceChildren(...lines);
}

function priceScale(market) {
  const svg = shape("svg", { class: "scale", viewBox: "0 0 240 34" });
  const [low, high] = [market.grid_sell_micro_per_kwh, market.grid_buy_micro_per_kwh];
  svg.append(shape("rect", { class: "track", x: 0, y: 6, width: 240, height: 8, rx: 4 }));
  svg.append(shape("text", { x: 0, y: 28 }, `grid pays ${price(low)}`));
  svg.append(shape("text", { x: 240, y: 28, "text-anchor": "end" }, `grid asks ${price(high)}`));
  if (market.trade_count && high > low) {
    const at = Math.min(Math.max((market.mean_price_micro_per_kwh - low) / (high - low), 0), 1) * 232 + 4;
    svg.append(shape("circle", { class: "mark", cx: at, cy: 10, r: 6 }));
  }
  return svg;
}

function periodCard(title, market) {
  if (!market) return element("div", "period empty", `${title}: none yet`);
  const head = element("header", "", element("b", "", `${title}: ${clock(market.start_ms)}–${clock(market.end_ms)}`), element("span", "pill", market.state));
  const list = element("dl");
  const facts = [
    ["orders", number(market.order_count)],
    ["trades", number(market.trade_count)],
    ["matched energy", energy(market.energy_wh)],
    ["mean price per kWh", market.trade_count ? price(market.mean_price_micro_per_kwh) : "–"],
  ];
  for (const [label, value] of facts) list.append(element("dt", "", label), element("dd", "", value));
  return element("div", "period", head, list, priceScale(market));
}

// Periods whose gate is closed and whose delivery has not begun; none before the first delivery.
function between(current, trading) {
  const first = state.genesis ? state.genesis.market.first_period : trading;
  const periods = [];
  for (let period = Math.max(current + 1, first, trading - 2); period < trading; period += 1) periods.push(period);
  return periods;
}

function drawMarket() {
  const totals = state.totals;
  if (!totals) return;
  const { current_period: current, trading_period: trading } = totals;
  const cards = [periodCard("Delivered now", state.markets.get(current))];
  for (const period of between(current, trading)) cards.push(periodCard("Gate closed, delivered next", state.markets.get(period)));
  byId("periods").replaceChildren(...cards, periodCard("Open for orders", state.markets.get(trading)));
  drawChart();
}

function drawChart() {
  const svg = byId("chart");
  const shown = [...state.markets.values()].sort((a, b) => a.period - b.period).slice(-CHART_PERIODS);
  if (!shown.length) return svg.replaceChildren();
  const width = Math.max(svg.clientWidth, 200);
  svg.setAttribute("viewBox", `0 0 ${width} 150`);
  const [left, right, top, bottom] = [48, 8, 8, 128];
  const step = (width - left - right) / shown.length;
  const prices = shown.flatMap((one) => [one.grid_buy_micro_per_kwh, one.grid_sell_micro_per_kwh]);
  const [low, high] = [Math.min(...prices) * 0.9, Math.max(...prices) * 1.05];
  const most = Math.max(...shown.map((one) => one.energy_wh), 1);
  const y = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - top);
  const parts = [];
  const line = [];
  shown.forEach((one, index) => {
    const x = left + index * step;
    const [buy, sell] = [y(one.grid_buy_micro_per_kwh), y(one.grid_sell_micro_per_kwh)];
    parts.push(shape("rect", { class: "band", x, y: buy, width: step, height: Math.max(sell - buy, 0) }));
    const height = (one.energy_wh / most) * (bottom - top) * 0.6;
    parts.push(shape("rect", { class: "bar", x: x + step * 0.2, y: bottom - height, width: step * 0.6, height, rx: 2 }));
    if (one.trade_count) line.push([x + step / 2, y(one.mean_price_micro_per_kwh)]);
    if (index % Math.ceil((shown.length * 48) / (width - left - right)) === 0) {
      parts.push(shape("text", { x: x + step / 2, y: 145, "text-anchor": "middle" }, clock(one.start_ms)));
    }
  });
  for (const value of [low / 0.9, high / 1.05]) parts.push(shape("text", { x: 0, y: y(value) + 3 }, price(value)));
  parts.push(shape("polyline", { class: "line", points: line.map((point) => point.join(",")).join(" ") }));
  for (const [cx, cy] of line) parts.push(shape("circle", { class: "point", cx, cy, r: 3 }));
  svg.replaceChildren(...parts);
}

function drawTrades(fresh = 0) {
  const rows = state.trades.map((trade, index) => element("tr", index < fresh ? "fresh" : "",
    element("td", "number", periodLabel(trade.period)), element("td", "", trade.seller), element("td", "", trade.buyer),
    element("td", "right", energy(trade.energy_wh)), element("td", "right", price(trade.price_micro_per_kwh)), element("td", "right", trade.round)));
  byId("trades").replaceChildren(...(rows.length ? rows : [emptyRow(6, "No trades yet. They come when the gate of a period closes.")]));
}

function drawBills() {
  const known = members();
  const bills = state.bills.filter((bill) => known.has(bill.account));
  const rows = bills.slice(0, ROWS).map((bill) => element("tr", "",
    element("td", "number", periodLabel(bill.period)), element("td", "", bill.account),
    ...[bill.bought_wh, bill.sold_wh, bill.grid_bought_wh, bill.grid_sold_wh].map((wh) => element("td", "right", number(wh))),
    ...[bill.paid_micro, bill.earned_micro, bill.penalty_micro + bill.fee_micro].map((micro) => element("td", "right", money(micro))),
    element("td", `right ${bill.saving_micro < 0 ? "bad-text" : bill.saving_micro > 0 ? "good-text" : ""}`, (bill.saving_micro > 0 ? "+" : "") + money(bill.saving_micro))));
  byId("bills").replaceChildren(...(rows.length ? rows : [emptyRow(10, "No bills yet. They come when the meters have reported a period's end.")]));
  const newest = bills.length ? bills[0].period : null;
  const saving = bills.filter((bill) => bill.period === newest).reduce((sum, bill) => sum + bill.saving_micro, 0);
  const currency = state.genesis ? state.genesis.currency : "";
  byId("bills-saving").textContent = newest === null ? `energy in Wh, money in ${currency}`
    : `energy in Wh, money in ${currency} · members saved ${money(saving)} in the period of ${periodLabel(newest)}`;
}

function drawMeters() {
  if (!state.genesis || !state.status) return;
  const late = state.status.clock_ms - 2 * state.genesis.market.period_ms;
  const meters = [...state.meters.values()].sort((a, b) => a.meter.localeCompare(b.meter, "en", { numeric: true }));
  const looks = (meter) => (meter.quarantine ? "bad" : meter.last_sequence && meter.last_time_ms >= late ? "ok" : "late");
  byId("meters-count").textContent = `${meters.filter((meter) => looks(meter) === "ok").length} of ${meters.length} reporting`;
  byId("meters").replaceChildren(...meters.map((meter) => {
    const said = meter.quarantine || (meter.last_sequence ? `${clock(meter.last_time_ms)}, ${count(meter.accepted, "reading")}` : "no reading yet");
    const tile = element("div", `meter ${looks(meter)}`, element("b", "", meter.meter), said);
    tile.title = `${meter.meter} of ${meter.account}: import ${energy(meter.import_wh)}, export ${energy(meter.export_wh)}`;
    return tile;
  }));
}

// ------------------------------------------------------------------------------------------------------------- loading

async function loadMeters() {
  let after = "";
  do {
    const page = await ask(`/v1/meters${after ? `?after=${encodeURIComponent(after)}` : ""}`);
    for (const meter of page.meters) state.meters.set(meter.meter, meter);
    after = page.next_after;
  } while (after);
  drawMeters();
}

async function loadMarket(period) {
  const market = await ask(`/v1/markets/${period}?limit=${ROWS}`);
  if (market) state.markets.set(period, market);
  for (const old of [...state.markets.keys()].sort((a, b) => a - b).slice(0, -CHART_PERIODS - 2)) state.markets.delete(old);
  return market;
}

async function loadStart() {
  state.genesis = await ask("/v1/genesis");
  await loadNow();
  const { current_period: current, last_settled_period: settled } = state.totals;
  const first = Math.max(state.genesis.market.first_period, current - CHART_PERIODS + 2);
  const trades = [];
  for (let period = first; period <= current; period += 1) {
    const market = await loadMarket(period);
    if (market) trades.unshift(...[...market.trades].reverse());
  }
  state.trades = trades.slice(0, ROWS);
  const bills = settled >= first ? await ask(`/v1/markets/${settled}/bills`) : null;
  state.bills = bills ? bills.bills : [];
  const blocks = await ask("/v1/blocks?limit=6");
  state.blocks = blocks.blocks.map((block) => ({ height: block.height, hash: block.hash, transactions: block.transaction_count }));
  await loadMeters();
  drawMarket();
  drawTrades();
  drawBills();
  drawBlocks();
}

async function loadNow() {
  [state.status, state.totals] = await Promise.all([ask("/v1/status"), ask("/v1/totals")]);
  const { current_period: current, trading_period: trading } = state.totals;
  await Promise.all([...new Set([current, ...between(current, trading), trading])].map(loadMarket));
  drawNodes();
  drawTotals();
  drawMarket();
}

// ------------------------------------------------------------------------------------------------------------ following

let due = new Set();
let refreshing = false;

async function refresh() {
  if (refreshing || !state.genesis) return;
  refreshing = true;
  const now = due;
  due = new Set();
  try {
    await loadNow();
    for (const what of now) await (what === "meters" ? loadMeters() : loadMarket(what));
    drawMeters();
    if (now.size) drawMarket();
  } catch (error) {
    console.warn(error);
  } finally {
    refreshing = false;
  }
}

function take(message) {
  if (message.event === "block") {
    state.blocks = [message, ...state.blocks.filter((block) => block.height !== message.height)].slice(0, 6);
    drawBlocks();
  } else if (message.event === "traded") {
    state.trades = [message, ...state.trades].slice(0, ROWS);
    due.add(message.period);
    drawTrades(1);
  } else if (message.event === "billed") {
    state.bills = [message, ...state.bills].slice(0, KEPT_BILLS);
    drawBills();
  } else if (message.event.startsWith("reading-") || message.event.startsWith("meter-")) {
    due.add("meters");
  } else if (message.event === "period-cleared" || message.event === "period-settled") {
    due.add(message.period);
  }
}

function show(text, look) {
  byId("link").textContent = text;
  byId("link").className = `pill ${look}`;
}

function follow(pause = 500) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}${withChannel(`/v1/events?kinds=${KINDS.join(",")}`)}`);
  let opened = false;
  socket.onopen = async () => {
    opened = true;
    show("live", "good");
    try {
      await loadStart();
    } catch (error) {
      console.warn(error);
      socket.close();
    }
  };
  socket.onmessage = (message) => take(JSON.parse(message.data));
  socket.onclose = () => {
    show("node not reachable, trying again", "bad");
    setTimeout(() => follow(opened ? 500 : Math.min(pause * 2, 8000)), pause);
  };
}

window.addEventListener("resize", drawChart);
setInterval(refresh, REFRESH_MS);
follow();
