// How models and upstreams do: times, failures, breakers, what waits for the store.
import { html } from "../html.js";
import { useData } from "../api.js";
import { Chart, TONES, frame, ink, timeAxis, tipOf } from "../chart.js";
import { count, momentOf, seconds, share } from "../format.js";
import { Estimate, Panel, Pill, State, Stats, Table } from "../parts.js";

export function Service({ span, every }) {
  const state = useData("service", { seconds: span }, every);
  return html`<${State} state=${state}>${(data) => html`
    <${Stats} items=${[
      { label: "Decision, median", value: seconds(data.decision.p50), under: `95 %: ${seconds(data.decision.p95)}` },
      { label: "Upstreams left alone", value: count(data.upstreams.filter((u) => u.is_open).length), under: `of ${count(data.upstreams.filter((u) => u.is_known).length)}`, tone: data.upstreams.some((u) => u.is_open) ? "worse" : "" },
      { label: "Waiting for the store", value: count(data.store.waiting), under: `${count(data.store.written)} written` },
      { label: "Put aside in a file", value: count(data.store.spilled), under: `${count(data.store.failures)} batches refused`, tone: data.store.spilled ? "worse" : "" },
    ]} />
    <div class="grid">
      <${Times} data=${data} />
      <${Models} data=${data} />
      <${Upstreams} data=${data} />
      <${Failures} data=${data} />
    </div>`}<//>`;
}

function Times({ data }) {
  const toneOf = (i) => TONES[i % TONES.length];
  const named = data.series.map((s, i) => ({ ...s, tone: toneOf(i) }));
  const make = () => ({
    ...frame({
      x: timeAxis(data),
      y: { axisLabel: { formatter: seconds } },
      tip: (given) => tipOf(momentOf(data.starts[given[0].dataIndex]), given.map((g) => [g.color, g.seriesName, seconds(g.data[1])])),
    }),
    series: named.flatMap(({ model, p50, p95, tone }) => [
      line(`${model}, 95 %`, p95, ink(tone), "solid"),
      line(`${model}, median`, p50, ink(tone), "dashed"),
    ]),
  });
  const columns = [
    { title: "From", show: (i) => momentOf(data.starts[i]) },
    ...named.flatMap(({ model, p50, p95 }) => [
      { title: `${model}, median`, kind: "number", show: (i) => seconds(p50[i]) },
      { title: `${model}, 95 %`, kind: "number", show: (i) => seconds(p95[i]) },
    ]),
  ];
  const said = data.models.map((m) => `${m.model} ${seconds(m.seconds.p95)}`).join(", ");
  return html`<${Panel} id="times" title="Time to the end of the answer" wide note="Solid: 95th percentile; dashed: median. Buckets with fewer than five answers are left out.">
    <${Chart} make=${make} data=${data} height=${220} legend=${named.map(({ model, tone }) => ({ name: model, tone, kind: "line" }))}
      label=${`Times of answers by model; 95th percentile over all: ${said || "none"}.`}
      table=${{ caption: "Times by bucket", columns, rows: data.starts.map((_, i) => i).reverse() }} />
  <//>`;
}

const line = (name, values, colour, type) => ({
  name,
  type: "line",
  symbol: "circle",
  symbolSize: 3,
  showSymbol: values.filter((v) => v !== null).length < 20,
  lineStyle: { width: type === "solid" ? 1.6 : 1.1, color: colour, type },
  itemStyle: { color: colour },
  data: values.map((v, i) => [i, v]),
});

function Models({ data }) {
  const columns = [
    { title: "Model", show: (m) => html`<span class="name" title=${m.model}>${m.model}</span>` },
    { title: "Requests", kind: "number", show: (m) => count(m.requests) },
    { title: "Median", kind: "number", show: (m) => seconds(m.seconds.p50) },
    { title: "95 %", kind: "number", show: (m) => seconds(m.seconds.p95) },
    { title: "First byte, median", kind: "number", show: (m) => seconds(m.first_byte.p50) },
    { title: "First byte, 95 %", kind: "number", show: (m) => seconds(m.first_byte.p95) },
    { title: "Failed", kind: "number", show: (m) => html`<${Estimate} of=${m.failed_share} form=${(v) => share(v, 1)} />` },
    { title: "How it ended", show: (m) => html`<${Outcomes} of=${m.outcomes} />` },
  ];
  return html`<${Panel} id="by-model" title="Models" wide note=${`The newest ${count(data.n)} requests of the window.`}>
    <${Table} caption="Times and failures by model" columns=${columns} rows=${data.models} rowKey=${(m) => m.model} />
  <//>`;
}

const Outcomes = ({ of }) =>
  html`<span class="pills">${Object.entries(of).map(([name, n]) => html`<${Pill} tone=${name === "ok" ? "good" : "bad"}>${name.replace("_", " ")} ${count(n)}<//> `)}</span>`;

function Upstreams({ data }) {
  const columns = [
    { title: "Upstream", show: (u) => u.upstream },
    { title: "State", show: (u) => html`<${Pill} tone=${u.is_open ? "bad" : u.is_known ? "good" : "plain"}>${u.is_open ? "left alone" : u.is_known ? "asked" : "not in the settings"}<//>` },
    { title: "Tries", kind: "number", show: (u) => count(u.tries) },
    { title: "Failed", kind: "number", show: (u) => html`<${Estimate} of=${u.failed_share} form=${(v) => share(v, 1)} />` },
    { title: "Median", kind: "number", show: (u) => seconds(u.seconds.p50) },
    { title: "95 %", kind: "number", show: (u) => seconds(u.seconds.p95) },
  ];
  return html`<${Panel} id="upstreams" title="Upstreams" wide note="Tries of the newest requests, of every process; the state is this process's.">
    <${Table} caption="Upstreams" columns=${columns} rows=${data.upstreams} rowKey=${(u) => u.upstream} />
  <//>`;
}

function Failures({ data }) {
  const rows = data.upstreams.flatMap((u) => u.failures).sort((a, b) => b.created - a.created).slice(0, 12);
  const columns = [
    { title: "When", show: (f) => momentOf(f.created) },
    { title: "Upstream", show: (f) => f.upstream },
    { title: "Model", show: (f) => f.model },
    { title: "What failed", show: (f) => html`<${Pill} tone="bad">${f.outcome}<//>` },
    { title: "After", kind: "number", show: (f) => seconds(f.seconds) },
  ];
  return html`<${Panel} id="failures" title="Latest failures" wide>
    <${Table} caption="Latest failed tries" columns=${columns} rows=${rows} empty="No try failed." />
  <//>`;
}
