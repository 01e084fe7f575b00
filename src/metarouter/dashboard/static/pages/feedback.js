// What users and audits say: who is heard, what they say, how users differ from gold.
import { html } from "../html.js";
import { slower, useData } from "../api.js";
import { count, fixed, leavesOutZero, share, signed } from "../format.js";
import { Bar, Estimate, Panel, State, Stats, Table, Whisker } from "../parts.js";

const gain = signed(3);
const percent = (v) => share(v, 1);

export function Feedback({ span, every }) {
  const state = useData("feedback", { seconds: span }, slower(every, 20));
  return html`<${State} state=${state}>${(data) => html`<${All} data=${data} />`}<//>`;
}

function All({ data }) {
  const answers = data.models.reduce((sum, m) => sum + m.answers, 0);
  const spoken = data.models.reduce((sum, m) => sum + (m.spoken ? m.spoken.value * m.answers : 0), 0);
  const overall = data.biases.find((b) => b.slice === "all");
  return html`
    <${Stats} items=${[
      { label: "Statements", value: count(data.n), under: `${count(data.gold)} of them gold${data.unknown ? `; ${count(data.unknown)} more name a model that no decision offers, and are left out` : ""}` },
      { label: "Answers with user feedback", value: share(answers ? spoken / answers : null), under: `of ${count(answers)}` },
      { label: "Users minus gold", value: overall ? gain(overall.bias.value) : "–", under: overall ? [`${overall.kind}, ${count(overall.n)} compared`, ...overall.bias.warnings].join("; ") : "nothing judged by both" },
    ]} />
    <${Models} data=${data} />
    <${Pairs} data=${data} />
    <${Bias} data=${data} />`;
}

function Models({ data }) {
  const columns = [
    { title: "Model", show: (m) => html`<span class="name" title=${m.model}>${m.model}</span>` },
    { title: "Answers", kind: "number", show: (m) => count(m.answers) },
    { title: "Heard", kind: "number", show: (m) => html`<${Estimate} of=${m.spoken} form=${percent} />` },
    { title: html`<span class="unseen">Heard, drawn</span>`, show: (m) => m.spoken && html`<${Bar} value=${m.spoken.value} />` },
    { title: "Thumbs up", kind: "number", show: (m) => html`<${Estimate} of=${m.thumbs} form=${percent} />` },
    { title: "of", kind: "number", show: (m) => count(m.thumbs?.n) },
    { title: "User score", kind: "number", show: (m) => html`<${Estimate} of=${m.score} form=${fixed(3)} />` },
    { title: "Gold score", kind: "number", show: (m) => html`<${Estimate} of=${m.gold} form=${fixed(3)} />` },
  ];
  return html`<${Panel} id="by-model" title="By model" note="Heard: share of a model's answers that a user said anything about. Models answer different requests, and users choose what they speak about, so rates of two models do not compare the models.">
    <${Table} caption="Feedback by the model that answered" columns=${columns} rows=${data.models} rowKey=${(m) => m.model} />
  <//>`;
}

function Pairs({ data }) {
  const columns = [
    { title: "Pair", show: (p) => html`<b>${p.pair[0]}</b> over ${p.pair[1]}` },
    { title: "Preferred", kind: "number", show: (p) => count(p.wins) },
    { title: "Ties", kind: "number", show: (p) => count(p.ties) },
    { title: "Not", kind: "number", show: (p) => count(p.losses) },
    { title: "Mean gain", kind: "number", show: (p) => html`<${Estimate} of=${p.gain} form=${gain} />` },
    { title: html`<span class="unseen">Interval</span>`, show: (p) => html`<${Whisker} of=${p.gain} low=${-1} high=${1} label=${`mean gain ${gain(p.gain.value)}`} />` },
  ];
  return html`<${Panel} id="pairs" title="Preferences" note="From −1, the second is always preferred, to 1, the first is.">
    <${Table} caption="Preferences by pair of models" columns=${columns} rows=${data.pairs} empty="Nobody has compared two answers in this window." />
  <//>`;
}

const KINDS = { preference: "Preferences, in gain units", score: "Scores, in score units" };

function Bias({ data }) {
  const kinds = Object.keys(KINDS).filter((kind) => data.biases.some((b) => b.kind === kind));
  return html`<${Panel} id="bias" title="Bias of users against gold" note="Where users and an audit judged the same: what users say minus what gold says. Orange: the interval leaves out 0. Slices overlap; their intervals hold together with 95 % (Bonferroni).">
    ${kinds.map((kind) => html`<${Slices} key=${kind} title=${KINDS[kind]} rows=${data.biases.filter((b) => b.kind === kind)} />`)}
    ${!kinds.length && html`<p class="empty">No decision has both a user's preference or score and a gold verdict on it: audit some with <code>POST /v1/feedback</code>, type gold.</p>`}
  <//>`;
}

function Slices({ title, rows }) {
  const ends = rows.flatMap((b) => [b.bias.low, b.bias.high]).filter((v) => v !== null);
  const far = Math.max(0.1, ...ends.map(Math.abs));
  const clear = (b) => leavesOutZero(b.bias);
  const columns = [
    { title: "Where", show: (b) => html`<span class="wrap">${b.slice === "all" ? html`<b>all</b>` : b.slice}</span>` },
    { title: "Users minus gold", kind: "number", show: (b) => html`<${Estimate} of=${b.bias} form=${gain} />` },
    { title: html`<span class="unseen">Interval</span>`, show: (b) => html`<${Whisker} of=${b.bias} low=${-far} high=${far} tone=${clear(b) ? "second" : "quiet"} label=${clear(b) ? "clearly biased" : "no clear bias"} />` },
    { title: "Compared", kind: "number", show: (b) => count(b.n) },
  ];
  return html`<h3>${title}</h3><${Table} caption=${`Users minus gold: ${title}`} columns=${columns} rows=${rows} rowKey=${(b) => b.slice} />`;
}
