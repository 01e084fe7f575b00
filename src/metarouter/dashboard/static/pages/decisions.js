// The explorer: which decisions were made, and all that is known of one.
import { html, useEffect, useRef, useState } from "../html.js";
import { read, useData } from "../api.js";
import { addressOf, go } from "../place.js";
import { cost, count, dollars, momentOf, seconds, share, signed } from "../format.js";
import { Panel, Pill, State, Table, Whisker, toneOf } from "../parts.js";

const OUTCOMES = ["ok", "decided", "refused", "failed", "broken", "client_left", "stopped"];
const BOUNDS = ["gain", "cost", "random", "fixed", "fallback"];
// filters that links of other places set
const MORE = [["key_id", "key"], ["experiment", "split"], ["answered", "answered by"], ["endpoint", "endpoint"]];
const gain = signed(3);

export function Decisions({ about, span, every, params }) {
  const [older, setOlder] = useState([]); // places where the pages before this one ended
  const { id, ...filter } = params;
  const address = JSON.stringify([filter, span]);
  useEffect(() => setOlder([]), [address]);
  const place = older.at(-1);
  const asked = { ...filter, seconds: span, limit: 50, after: place?.[0], after_id: place?.[1] };
  const state = useData("decisions", asked, place ? 0 : every);
  const open = (row) => go("decisions", { ...filter, id: row.decision_id });
  return html`
    <${Filters} about=${about} filter=${filter} />
    <${Panel} id="list" title="Decisions" wide>
      <${State} state=${state}>${(data) => html`
        <${Table} caption="Decisions, newest first" columns=${columnsOf(filter)} rows=${data.decisions} rowKey=${(r) => r.decision_id}
          onRow=${open} current=${id} empty="No decision passes this filter in this window." />
        <nav class="pager" aria-label="Pages of decisions">
          <button disabled=${!older.length} onClick=${() => setOlder(older.slice(0, -1))}>Newer</button>
          <span>Page ${older.length + 1}</span>
          <button disabled=${!data.next} onClick=${() => setOlder([...older, data.next])}>Older</button>
        </nav>`}
      <//>
    <//>
    ${id && html`<${Detail} key=${id} id=${id} onClose=${() => go("decisions", filter)} />`}`;
}

function columnsOf(filter) {
  const link = (r) => addressOf("decisions", { ...filter, id: r.decision_id });
  return [
    { title: "Time", show: (r) => html`<a href=${link(r)}>${momentOf(r.created)}</a>` },
    { title: "Policy", show: (r) => r.policy ?? html`<span class="muted">named by the caller</span>` },
    { title: "Model", show: (r) => html`<span class="name">${r.model}</span>${r.answered && r.answered !== r.model ? html` <${Pill} tone="warn">${r.answered} answered<//>` : ""}` },
    { title: "Gain", kind: "number", show: (r) => gain(r.predicted_gain) },
    { title: "Threshold", kind: "number", show: (r) => gain(r.threshold) },
    { title: "Bound", show: (r) => r.bound },
    { title: "Outcome", show: (r) => html`<${Pill} tone=${toneOf(r.outcome)}>${r.outcome.replace("_", " ")}<//>` },
    { title: "Time taken", kind: "number", show: (r) => seconds(r.seconds) },
    { title: "Spent", kind: "number", show: (r) => dollars(r.spent) },
  ];
}

function Filters({ about, filter }) {
  const set = (name) => (event) => go("decisions", { ...filter, [name]: event.target.value });
  const pick = (name, title, values) => html`<label class="field"><span>${title}</span>
    <select value=${filter[name] ?? ""} onChange=${set(name)}>
      <option value="">all</option>
      ${values.map((value) => html`<option key=${value} value=${value}>${value}</option>`)}
    </select>
  </label>`;
  const search = (event) => {
    event.preventDefault();
    go("decisions", { ...filter, text: new FormData(event.target).get("text") });
  };
  return html`<search><form class="filters" onSubmit=${search} aria-label="Which decisions">
    ${pick("policy", "Policy", about.policies.map((p) => p.policy))}
    ${pick("model", "Model", about.models.map((m) => m.model))}
    ${pick("outcome", "Outcome", OUTCOMES)}
    ${pick("bound", "Bound by", BOUNDS)}
    <label class="field grow"><span>Text</span><input name="text" type="search" value=${filter.text ?? ""} placeholder="id, reason${about.keeps_prompts ? " or prompt" : ""}" /></label>
    <button>Search</button>
    ${MORE.filter(([name]) => filter[name]).map(([name, title]) => html`<${Pill} key=${name}>${title} ${filter[name]}<//>`)}
    ${Object.keys(filter).length > 0 && html`<button type="button" onClick=${() => go("decisions")}>Clear</button>`}
  </form></search>`;
}

function Detail({ id, onClose }) {
  const dialog = useRef(null);
  const [state, setState] = useState({ data: null, error: null });
  useEffect(() => {
    dialog.current.showModal();
    read(`decisions/${encodeURIComponent(id)}`).then((data) => setState({ data }), (error) => setState({ error: error.message }));
  }, []);
  const outside = (event) => event.target === dialog.current && dialog.current.close();
  return html`<dialog ref=${dialog} class="drawer" aria-labelledby="detail" onClose=${onClose} onClick=${outside}>
    <div class="inside">
      <header><h2 id="detail">Decision</h2><button onClick=${() => dialog.current.close()} aria-label="Close">✕</button></header>
      <${State} state=${state}>${(d) => html`<${Facts} d=${d} />`}<//>
    </div>
  </dialog>`;
}

function Facts({ d }) {
  const money = cost(d.cost_unit);
  return html`
    <p class="lead">${d.reason}</p>
    <dl class="facts">
      <dt>Id</dt><dd><code>${d.decision_id}</code></dd>
      <dt>When</dt><dd>${momentOf(d.created)}</dd>
      <dt>Asked for</dt><dd>${d.asked} at <code>${d.endpoint}</code></dd>
      <dt>Policy</dt><dd>${d.policy ? html`${d.policy} <code>${d.policy_version}</code>` : "none"}</dd>
      <dt>Chosen</dt><dd><b>${d.model}</b>${d.answered && d.answered !== d.model ? ` — ${d.answered} answered` : ""}, bound by ${d.bound}</dd>
      <dt>Outcome</dt><dd><${Pill} tone=${toneOf(d.outcome)}>${d.outcome.replace("_", " ")}<//> ${d.status ?? ""}</dd>
      <dt>Tokens</dt><dd>${count(d.prompt_tokens)} in, ${count(d.completion_tokens)} out, ${dollars(d.spent)}</dd>
      <dt>Times</dt><dd>decision ${seconds(d.decision_seconds)}, first byte ${seconds(d.first_byte_seconds)}, all ${seconds(d.seconds)}</dd>
      <dt>Key</dt><dd>${d.key_id ? html`<a href=${addressOf("decisions", { key_id: d.key_id })}><code>${d.key_id}</code></a>` : "none"}</dd>
      ${d.experiment && html`<dt>Split</dt><dd><a href=${addressOf("decisions", { experiment: d.experiment })}>${d.experiment}</a></dd>`}
    </dl>
    ${d.options?.length > 0 && html`<${Options} options=${d.options} chosen=${d.model} threshold=${d.threshold} money=${money} />`}
    <${Drawn} d=${d} />
    ${d.shadow?.length > 0 && html`<${Shadow} shadow=${d.shadow} acted=${d.model} money=${money} />`}
    ${d.attempts?.length > 0 && html`<h3>Tries</h3>
      <${Table} caption="Tries at upstreams" rows=${d.attempts} columns=${[
        { title: "Upstream", show: (a) => a.upstream },
        { title: "Model", show: (a) => a.model },
        { title: "Outcome", show: (a) => html`<${Pill} tone=${a.outcome === "ok" ? "good" : "bad"}>${a.outcome}<//>` },
        { title: "After", kind: "number", show: (a) => seconds(a.seconds) },
      ]} />`}
    ${d.feedback.length > 0 && html`<h3>Feedback</h3>
      <${Table} caption="Feedback" rows=${d.feedback} columns=${[
        { title: "When", show: (f) => momentOf(f.created) },
        { title: "Kind", show: (f) => f.kind },
        { title: "Statement", show: (f) => statement(f.content) },
      ]} />`}
    <h3>Prompt</h3>
    ${d.prompt === null ? html`<p class="note">Not kept: <code>store.prompts</code> is off, or the request named its model.</p>` : html`<pre class="prompt" tabindex="0">${d.prompt}</pre>`}`;
}

function statement(content) {
  const { type, decision_id, feedback_id, annotator, ...rest } = content;
  if (type === "preference") return `${rest.model_a} against ${rest.model_b}: ${rest[rest.winner] ?? rest.winner}`;
  if (type === "gold") return Object.entries(rest.scores).map(([model, score]) => `${model} ${score}`).join(", ");
  return String(rest.value);
}

/** Every model weighed: gain with its interval on one scale, what it had to exceed, cost. */
export function Options({ options, chosen, threshold, money }) {
  const ends = options.flatMap((o) => [o.gain_low, o.gain_high, 0, threshold ?? 0]).filter((v) => v !== null);
  const low = Math.min(...ends), high = Math.max(...ends), pad = 0.06 * (high - low || 1);
  return html`<h3>Models weighed</h3>
    <${Table} caption="Models weighed: predicted gain over the reference with its 95 % interval, expected cost" rows=${options} rowKey=${(o) => o.model} current=${chosen} columns=${[
      { title: "Model", show: (o) => html`<span class="name">${o.model}</span>${o.model === chosen ? html` <${Pill} tone="good">chosen<//>` : ""}` },
      { title: "Gain", kind: "number", show: (o) => gain(o.gain) },
      { title: "95 % interval", show: (o) => html`<${Whisker} of=${{ value: o.gain, low: o.gain_low, high: o.gain_high }} low=${low - pad} high=${high + pad} mark=${threshold ?? 0} tone=${o.model === chosen ? "accent" : "quiet"} label=${`${gain(o.gain_low)} to ${gain(o.gain_high)}`} />` },
      { title: "Cost", kind: "number", show: (o) => money(o.cost) },
      { title: "Utility", kind: "number", show: (o) => gain(o.utility) },
    ]} />
    ${threshold !== null && html`<p class="note">Dashed: the threshold ${gain(threshold)} that the gain had to exceed. Utility is gain minus w times cost.</p>`}`;
}

function Drawn({ d }) {
  if (!d.propensities && !d.experiment && !d.is_exploration) return null;
  const rows = Object.entries(d.propensities ?? {});
  return html`<h3>How it was drawn</h3>
    <p class="note">${d.experiment ? `Split ${d.experiment}, arm ${d.policy}. ` : ""}${d.is_exploration ? "Explored: drawn at random. " : ""}Probability of what was chosen: ${share(d.logging_propensity, 1)}.</p>
    ${rows.length > 0 && html`<${Table} caption="Probability of each model" rows=${rows} columns=${[
      { title: "Model", show: ([name]) => name },
      { title: "Probability", kind: "number", show: ([, p]) => share(p, 1) },
    ]} />`}`;
}

function Shadow({ shadow, acted, money }) {
  return html`<h3>Shadow policies</h3>
    <${Table} caption="What policies that do not act would have done" rows=${shadow} columns=${[
      { title: "Policy", show: (s) => s.policy },
      { title: "Model", show: (s) => html`${s.model} <${Pill} tone=${s.model === acted ? "plain" : "warn"}>${s.model === acted ? "agrees" : "differs"}<//>` },
      { title: "Gain", kind: "number", show: (s) => gain(s.predicted_gain) },
      { title: "Threshold", kind: "number", show: (s) => gain(s.threshold) },
      { title: "Cost", kind: "number", show: (s) => money(s.cost) },
    ]} />`;
}

