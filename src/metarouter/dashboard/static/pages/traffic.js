// Requests over time, premium share, spend.
import { html } from "../html.js";
import { slower, useData } from "../api.js";
import { Chart, faded, frame, ink, timeAxis, tipOf } from "../chart.js";
import { between, count, dollarTick, dollars, momentOf, share, short } from "../format.js";
import { Bar, Panel, State, Stats, Table } from "../parts.js";

const GROUPS = [
  ["ok", "answered", "accent"],
  ["decided", "decided only", "quiet"],
  ["left", "caller left", "third"],
  ["refused", "refused by the upstream", "unclear"],
  ["failed", "failed", "worse"],
];

export function Traffic({ span, every }) {
  const state = useData("traffic", { seconds: span }, every);
  const saving = useData("saving", { seconds: span }, slower(every, 60));
  return html`<${State} state=${state}>${(data) => html`
    <${Numbers} data=${data} saving=${saving.data} />
    <${Assumed} saving=${saving.data} />
    <div class="grid">
      <${Requests} data=${data} />
      <${Shares} data=${data} />
      <${Spend} data=${data} />
      <${Models} data=${data} />
    </div>`}<//>`;
}

function Numbers({ data, saving }) {
  const { totals } = data;
  const routedShare = totals.routed ? totals.premium / totals.routed : null;
  return html`<${Stats} items=${[
    { label: "Requests", value: short(totals.requests), under: `${perMinute(totals.requests, data)} a minute` },
    { label: "Premium share", value: share(routedShare), under: `of ${short(totals.routed)} routed` },
    { label: "Spent", value: totals.priced ? dollars(totals.spent) : "–", under: totals.priced === totals.requests ? "every request priced" : `${short(totals.priced)} of ${short(totals.requests)} priced` },
    { label: "Saved", value: share(saving?.share?.value), under: saving?.share ? `${between(saving.share, (v) => share(v))}` : "not known", tone: saving?.share?.low > 0 ? "better" : "" },
    { label: "Tokens", value: short(totals.prompt_tokens + totals.completion_tokens), under: `${short(totals.completion_tokens)} of answers` },
    { label: "Failed", value: share(totals.requests ? totals.failed / totals.requests : null, 2), under: `${short(totals.failed)} requests`, tone: totals.failed ? "worse" : "" },
  ]} />`;
}

/** What the saving is, and what it rests on. */
function Assumed({ saving }) {
  if (!saving) return null;
  const expected = saving.expected.map((e) => `${e.policy} ${share(e.share)}`).join(", ");
  return html`<details class="assumed"><summary>Saved against always the premium model: how it is estimated</summary>
    ${saving.share && html`<p>Of the newest ${count(saving.n)} answers with a price, ${dollars(saving.spent)} were spent; all at the premium model of their policy they would have cost about ${dollars(saving.always)}. A request that another model answered is taken to cost, for each unit that the policy expected the premium model to cost for it, what the premium model took on requests that it did answer. Where splits or exploration left it to chance, those that it answered by chance stand for it, weighted by the odds, and nothing more is assumed. Where nothing was left to chance, it is assumed that requests kept from the premium model take no more or less of it than the policy expects. The interval, 95 % by the delta method, also holds the noise of answers that were never given.</p>`}
    ${saving.problems.map((problem) => html`<p>${problem}</p>`)}
    ${saving.share?.warnings.map((warning) => html`<p>${warning}</p>`)}
    ${expected && html`<p>By the policies' own expected costs, which no answer has checked: ${expected}.</p>`}
  </details>`;
}

const perMinute = (n, data) => {
  const value = n / ((data.end - data.start) / 60);
  return value >= 10 ? count(value) : value.toFixed(value >= 1 ? 1 : 2);
};

function stacked(data, groups) {
  const rate = 60 / data.width;
  const last = data.starts.length - 1; // the present bucket is not full yet
  return groups.map(([name, title, tone]) => {
    const colour = ink(tone);
    return {
      name: title,
      type: "line",
      stack: "all",
      symbol: "none",
      step: false,
      lineStyle: { width: 1.2, color: colour },
      itemStyle: { color: colour },
      areaStyle: { color: faded(colour, 0.22) },
      data: data.requests[name].map((n, i) => [i, i === last ? null : n * rate]),
    };
  });
}

function Requests({ data }) {
  const groups = GROUPS.filter(([name]) => data.requests[name]);
  const rate = 60 / data.width;
  const make = () => ({
    ...frame({
      x: timeAxis(data),
      y: { minInterval: 1 },
      tip: (given) => tipOf(momentOf(data.starts[given[0].dataIndex]), given.map((g) => [g.color, g.seriesName, rateText(g.data[1])])),
    }),
    series: stacked(data, groups),
  });
  const sums = data.starts.slice(0, -1).map((_, i) => groups.reduce((sum, [name]) => sum + data.requests[name][i], 0) * rate);
  const label = `Requests a minute: between ${rateText(Math.min(...sums))} and ${rateText(Math.max(...sums))}, ${rateText(sums.at(-1))} in the last whole bucket.`;
  const columns = [
    { title: "From", show: (i) => momentOf(data.starts[i]) },
    ...groups.map(([name, title]) => ({ title, kind: "number", show: (i) => count(data.requests[name][i]) })),
  ];
  return html`<${Panel} id="requests" title="Requests a minute" wide>
    <${Chart} make=${make} data=${data} label=${label} height=${220}
      legend=${groups.map(([, name, tone]) => ({ name, tone }))}
      table=${{ caption: "Requests by bucket of time", columns, rows: data.starts.map((_, i) => i).reverse() }} />
  <//>`;
}

const rateText = (value) => (value === undefined ? "–" : value >= 100 ? count(value) : String(+value.toFixed(1)));

function Shares({ data }) {
  const { shares } = data;
  const known = shares.filter((s) => s.share).length;
  const make = () => {
    const colour = ink("second");
    const edge = { type: "line", symbol: "none", silent: true, stack: "band", lineStyle: { width: 0 } };
    return {
      ...frame({
        x: timeAxis({ starts: shares.map((s) => s.start), width: data.width }),
        y: { min: 0, max: 1, interval: 0.25, axisLabel: { formatter: (v) => share(v, 0) } },
        tip: ([g]) => tipOfShare(shares[g.dataIndex], colour),
      }),
      series: [
        { ...edge, data: shares.map((s) => s.share?.low ?? null) },
        { ...edge, areaStyle: { color: faded(colour, 0.16) }, data: shares.map((s) => (s.share ? s.share.high - s.share.low : null)) },
        { type: "line", symbol: "circle", symbolSize: 4, showSymbol: known < 12, lineStyle: { width: 1.6, color: colour }, itemStyle: { color: colour }, data: shares.map((s) => s.share?.value ?? null) },
      ],
    };
  };
  const columns = [
    { title: "From", show: (s) => momentOf(s.start) },
    { title: "routed", kind: "number", show: (s) => count(s.routed) },
    { title: "premium", kind: "number", show: (s) => count(s.premium) },
    { title: "share", kind: "number", show: (s) => share(s.share?.value) },
    { title: "95 % interval", kind: "number", show: (s) => between(s.share, share) },
  ];
  const whole = data.totals.routed ? data.totals.premium / data.totals.routed : null;
  return html`<${Panel} id="shares" title="Premium share">
    <${Chart} make=${make} data=${data} label=${`Premium share over time, ${share(whole)} over all.`} height=${180}
      legend=${[{ name: "share, with the 95 % interval for such requests", tone: "second", kind: "line" }]}
      table=${{ caption: "Premium share by bucket of time", columns, rows: [...shares].reverse() }} />
  <//>`;
}

const tipOfShare = (s, colour) =>
  tipOf(momentOf(s.start), [[colour, "premium share", share(s.share?.value)], [null, "95 %", between(s.share, share) || "–"], [null, "routed requests", count(s.routed)]]);

function Spend({ data }) {
  const make = () => {
    const colour = ink("accent");
    return {
      ...frame({
        x: { ...timeAxis(data), boundaryGap: true },
        y: { axisLabel: { formatter: dollarTick } },
        tip: ([g]) => tipOf(momentOf(data.starts[g.dataIndex]), [[colour, "spent", dollars(data.spent[g.dataIndex])]]),
      }),
      series: [{ type: "bar", barCategoryGap: "30%", itemStyle: { color: faded(colour, 0.75), borderRadius: [2, 2, 0, 0] }, data: data.spent }],
    };
  };
  const columns = [
    { title: "From", show: (i) => momentOf(data.starts[i]) },
    { title: "spent", kind: "number", show: (i) => dollars(data.spent[i]) },
  ];
  if (!data.totals.priced) return html`<${Panel} id="spend" title="Spend"><p class="empty">No price is known for what was asked: set <code>prices</code>.</p><//>`;
  return html`<${Panel} id="spend" title="Spend">
    <${Chart} make=${make} data=${data} legend=${[{ name: "dollars, by the prices known", tone: "accent" }]} label=${`Dollars spent over time, ${dollars(data.totals.spent)} in all.`} height=${180}
      table=${{ caption: "Dollars by bucket of time", columns, rows: data.starts.map((_, i) => i).reverse() }} />
  <//>`;
}

function Models({ data }) {
  const all = data.totals.requests || 1;
  const columns = [
    { title: "Model", show: (m) => html`<span class="name">${m.model}</span>` },
    { title: "Requests", kind: "number", show: (m) => count(m.requests) },
    { title: "Share", show: (m) => html`<span class="withbar"><${Bar} value=${m.requests / all} /> ${share(m.requests / all, 0)}</span>` },
    { title: "Failed", kind: "number", show: (m) => (m.failed ? html`<span class="worse">${count(m.failed)}</span>` : "0") },
    { title: "Tokens in", kind: "number", show: (m) => short(m.prompt_tokens) },
    { title: "Tokens out", kind: "number", show: (m) => short(m.completion_tokens) },
    { title: "Spent", kind: "number", show: (m) => (m.priced ? dollars(m.spent) : "–") },
  ];
  return html`<${Panel} id="models" title="By model" wide>
    <${Table} caption="Requests by the model that answered" columns=${columns} rows=${data.models} rowKey=${(m) => m.model} />
  <//>`;
}
