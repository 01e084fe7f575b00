// A policy at other prices of cost: the slider picks one of the points that the gateway computed.
import { html, useState } from "../html.js";
import { useData } from "../api.js";
import { Chart, faded, frame, ink, tipOf } from "../chart.js";
import { between, cost, count, dollarTick, share, signed } from "../format.js";
import { Panel, State, Stats } from "../parts.js";

const gain = signed(4);
const price = (w) => String(+w.toPrecision(4));

export function WhatIf({ about, span }) {
  const [policy, setPolicy] = useState(about.policies[0]?.policy);
  const state = useData("what-if", { policy, seconds: span });
  if (!about.policies.length) return html`<p class="empty">The gateway has no policy.</p>`;
  return html`
    <div class="filters">
      <label class="field"><span>Policy</span>
        <select value=${policy} onChange=${(e) => setPolicy(e.target.value)}>${about.policies.map((p) => html`<option key=${p.policy}>${p.policy}</option>`)}</select>
      </label>
    </div>
    <${State} state=${state}>${(data) => html`<${Slider} key=${data.policy} data=${data} />`}<//>`;
}

function Slider({ data }) {
  const points = [...data.points].sort((a, b) => a.cost.value - b.cost.value || a.premium_share - b.premium_share);
  // a price, not a place: new decisions make new points, and what was chosen stays
  const [chosen, setChosen] = useState(null);
  const gaps = points.map((p) => Math.abs(p.w - (chosen ?? data.now.w)));
  const at = gaps.indexOf(Math.min(...gaps));
  const point = points[at];
  const money = cost(data.cost_unit);
  const money1k = (v) => (data.cost_unit === "USD" ? money(v) : `${money(v)} calls`);
  const left = shareName(data);
  const named = data.by_cost ? "Expected cost of 1,000" : left;
  const told = data.by_cost ? money1k(point.cost.value) : share(point.premium_share, 0);
  return html`
    <${Panel} id="price" title="Price of cost" wide note=${`The newest ${count(data.n)} decisions of the policy in this window, decided again by its own code at other prices w. Gains are the router's predictions, not measured: the intervals are for the ${count(data.units)} conversations being a sample, not for predictions being wrong.`}>
      <div class="slider">
        <label for="w">${named}</label>
        <input id="w" type="range" min="0" max=${points.length - 1} step="1" value=${at} onInput=${(e) => setChosen(points[+e.target.value].w)}
          aria-valuetext=${`${named.toLowerCase()} ${told}, w ${price(point.w)}`} list="now" />
        <output for="w">${told}</output>
        <button onClick=${() => setChosen(null)}>As it is now</button>
      </div>
      <${Stats} items=${[
        { label: "w", value: price(point.w), under: `now ${price(data.now.w)}` },
        { label: left, value: share(point.premium_share), under: `now ${share(data.now.premium_share)}; ${share(point.changed, 0)} decided otherwise` },
        { label: "Expected cost of 1,000", value: money1k(point.cost.value), under: `${sign(point.cost_difference, money)}, ${share(saved(point, data.always), 0)} below always ${data.premium}` },
        { label: "Expected gain a request", value: gain(point.gain.value), under: changeOf(point.gain_difference) },
      ]} />
      <p class="note">In the settings: <code>policies.${data.policy}.w: ${price(point.w)}</code></p>
    <//>
    <${Curve} data=${data} points=${points} point=${point} money=${money1k} />`;
}

function changeOf(of) {
  if (of.value === 0) return "as now";
  const range = between(of, gain);
  return [`${gain(of.value)} to now${range && ` [${range}]`}`, ...of.warnings].join("; ");
}
const saved = (point, always) => (always > 0 ? 1 - point.cost.value / always : null);
// in a pool a request that leaves the reference model need not go to the premium one
const shareName = (data) => (data.models.length > 2 ? `Not to ${data.models[0]}` : "Premium share");
const sign = (of, money) => (of.value === 0 ? "as now" : `${of.value > 0 ? "+" : "−"}${money(Math.abs(of.value))} to now`);

function Curve({ data, points, point, money }) {
  const place = (p) => [p.cost.value, p.gain.value];
  // names towards the middle, so that they stay in the picture
  const middle = Math.max(...data.singles.map(([spent]) => spent)) / 2;
  const named = (value) => ({ value, label: { position: value[0] > middle ? "left" : "right" } });
  const make = () => {
    const [accent, second, quiet] = ["accent", "second", "quiet"].map(ink);
    const edge = { type: "line", symbol: "none", silent: true, lineStyle: { width: 0 }, tooltip: { show: false } };
    return {
      ...frame({
        top: 30,
        bottom: 26,
        x: { type: "value", name: "expected cost of 1,000 requests", nameLocation: "middle", nameGap: 26, axisLabel: { formatter: data.cost_unit === "USD" ? dollarTick : String } },
        y: { name: "expected gain a request", nameTextStyle: { align: "left", color: ink("muted") }, scale: true, axisLabel: { formatter: (v) => signed(2)(v) } },
        tip: (given) => {
          const one = given.find((g) => g.seriesName === "curve");
          const p = one ? points[one.dataIndex] : point;
          return tipOf(`${shareName(data)} ${share(p.premium_share, 0)}`, [[accent, "gain", gain(p.gain.value)], [null, "95 %", between(p.gain, gain)], [null, "cost", money(p.cost.value)], [null, "w", price(p.w)]]);
        },
      }),
      series: [
        { ...edge, name: "low", stack: "band", data: points.map((p) => [p.cost.value, p.gain.low]), stackStrategy: "all" },
        { ...edge, name: "band", stack: "band", stackStrategy: "all", areaStyle: { color: faded(accent, 0.14) }, data: points.map((p) => [p.cost.value, p.gain.high - p.gain.low]) },
        { name: "random", type: "line", symbol: "none", silent: true, lineStyle: { width: 1, type: "dashed", color: quiet }, data: data.hull },
        { name: "models", type: "scatter", symbol: "rect", symbolSize: 7, silent: true, itemStyle: { color: quiet, opacity: 1 }, data: data.singles.map(named), label: { show: data.models.length > 2, color: ink("muted"), formatter: (one) => data.models[one.dataIndex] } },
        { name: "curve", type: "line", symbol: "none", lineStyle: { width: 2, color: accent }, itemStyle: { color: accent }, data: points.map(place) },
        { name: "now", type: "scatter", symbolSize: 11, silent: true, itemStyle: { color: ink("card"), borderColor: accent, borderWidth: 2, opacity: 1 }, data: [place(data.now)] },
        { name: "chosen", type: "scatter", symbolSize: 12, silent: true, itemStyle: { color: second, opacity: 1 }, data: [place(point)] },
      ],
    };
  };
  const columns = [
    { title: shareName(data), show: (p) => share(p.premium_share, 0) },
    { title: "w", kind: "number", show: (p) => price(p.w) },
    { title: "Cost of 1,000", kind: "number", show: (p) => money(p.cost.value) },
    { title: "Gain", kind: "number", show: (p) => gain(p.gain.value) },
    { title: "95 % interval", kind: "number", show: (p) => between(p.gain, gain) },
  ];
  const label = `Expected gain against expected cost: from ${gain(points[0].gain.value)} for ${money(points[0].cost.value)} to ${gain(points.at(-1).gain.value)} for ${money(points.at(-1).cost.value)}; now ${gain(data.now.gain.value)} for ${money(data.now.cost.value)}.`;
  return html`<${Panel} id="curve" title="Cost and quality" wide>
    <${Chart} make=${make} data=${point} label=${label} height=${340}
      legend=${[{ name: "the policy, with 95 % interval", tone: "accent", kind: "line" }, { name: "as it is now", tone: "ring" }, { name: "slider", tone: "second" }, { name: data.models.length > 2 ? "best fixed mixture of models" : "the same share at random", tone: "quiet", kind: "line" }]}
      table=${{ caption: "The curve", columns, rows: points }} />
  <//>`;
}
