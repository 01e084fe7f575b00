// Splits between policies, and policies in the shadow.
import { html } from "../html.js";
import { slower, useData } from "../api.js";
import { cost, count, dollars, fixed, leavesOutZero, points, seconds, share, signed } from "../format.js";
import { Estimate, Panel, Pill, State, Table, Whisker } from "../parts.js";

const percent = (v) => share(v, 1);
const score = fixed(3);
const REWARDS = { gold: "Gold score", score: "User score", thumbs: "Thumbs up" };
const MEASURES = [
  ["premium_share", "Premium share", percent],
  ["spent", "Dollars a request", dollars],
  ["answered", "Answered", percent],
  ["seconds", "Mean time", seconds],
  ["spoken", "Heard", percent],
  ["thumbs", "Thumbs up", percent],
  ["score", "User score", score],
  ["gold", "Gold score", score],
];

export function Experiments({ span, every }) {
  const state = useData("experiments", { seconds: span }, slower(every, 20));
  return html`<${State} state=${state}>${(data) => html`
    <${Splits} data=${data} />
    <${Shadows} data=${data} />`}<//>`;
}

function Splits({ data }) {
  const names = [...new Set(data.arms.map((a) => a.experiment))];
  if (!names.length) return html`<${Panel} id="splits" title="Splits"><p class="empty">No split served a request in this window: see <code>splits</code> in the settings.</p><//>`;
  return names.map((name) => html`<${Split} key=${name} name=${name} arms=${data.arms.filter((a) => a.experiment === name)} />`);
}

function Split({ name, arms }) {
  const shown = MEASURES.filter(([key]) => arms.some((a) => a.measures[key]));
  const columns = [
    { title: "Measure", show: ([, title]) => title },
    ...arms.flatMap((arm, i) => [
      { title: arm.policy, kind: "number", show: ([key, , form]) => html`<${Estimate} of=${arm.measures[key]} form=${form} />` },
      ...(i === 0 ? [] : [
        { title: `${arm.policy} minus ${arms[0].policy}`, kind: "number", show: ([key, , form]) => html`<${Difference} of=${arm.differences[key]} form=${form} />` },
      ]),
    ]),
  ];
  const sizes = arms.map((a) => `${a.policy}: ${count(a.requests)} requests, ${count(a.units)} independent`).join("; ");
  return html`<${Panel} id=${`split-${name}`} title=${`Split ${name}`} note=${`${sizes}. Intervals are for one look at a time fixed beforehand: a split that is stopped as soon as it looks good will mislead more often than 5 %. Each holds for itself, not for all measures together. Score, thumbs and gold are of those who spoke, after the arm had answered. Bold: the interval leaves out 0.`}>
    <${Table} caption=${`Arms of split ${name}`} columns=${columns} rows=${shown} />
  <//>`;
}

function Difference({ of, form }) {
  if (!of) return html`<span class="muted">–</span>`;
  const shown = form === percent ? points : form;
  const withSign = (v) => (v > 0 ? "+" : "") + shown(v);
  return html`<span class=${leavesOutZero(of) ? "strong" : ""}><${Estimate} of=${of} form=${withSign} /></span>`;
}

function Shadows({ data }) {
  if (!data.shadows.length) return html`<${Panel} id="shadows" title="Shadow policies"><p class="empty">No policy decided in the shadow in this window: see <code>shadow</code> in the settings.</p><//>`;
  return html`<${Panel} id="shadows" title="Shadow policies" note=${`What policies that did not act would have done, on the newest ${count(data.n)} decisions.${data.unknown ? ` ${count(data.unknown)} gold scores name a model that none of them offers, and are left out.` : ""}`}>
      <${Table} caption="Shadow policies" rows=${data.shadows} rowKey=${(s) => s.policy} columns=${[
        { title: "Policy", show: (s) => s.policy },
        { title: "Decisions", kind: "number", show: (s) => count(s.requests) },
        { title: "Agreement", kind: "number", show: (s) => html`<${Estimate} of=${s.measures.agreement} form=${percent} />` },
        { title: "Premium share", kind: "number", show: (s) => html`<${Estimate} of=${s.measures.premium_share} form=${percent} />` },
        { title: "Expected cost, difference", kind: "number", show: (s) => html`<${Difference} of=${s.cost_difference} form=${cost(s.cost_unit)} />` },
        { title: "Gold score, difference", kind: "number", show: (s) => html`<${Difference} of=${s.audit} form=${score} />` },
      ]} />
    <//>
    <${OffPolicy} data=${data} />`;
}

function OffPolicy({ data }) {
  const rows = data.shadows.flatMap((s) => Object.keys(REWARDS).map((reward) => ({ policy: s.policy, reward, value: s.values[reward], refusal: s.refusals[reward] })));
  const signedScore = signed(3);
  const ends = rows.flatMap((r) => (r.value ? [r.value.difference.low, r.value.difference.high] : [])).filter((v) => v !== null);
  const far = Math.max(0.05, ...ends.map(Math.abs));
  return html`<${Panel} id="worth" title="What they would have been worth" note=${`From the feedback on what was done, weighted by how likely it was to be done: ${count(data.drawn)} of ${count(data.n)} decisions have logged propensities. Assumes that whether somebody speaks depends on nothing that the model changes.`}>
    <${Table} caption="Values of shadow policies" rows=${rows} columns=${[
      { title: "Policy", show: (r) => r.policy },
      { title: "Reward", show: (r) => REWARDS[r.reward] },
      { title: "As it was", kind: "number", show: (r) => html`<${Estimate} of=${r.value?.logged} form=${score} />` },
      { title: "Weighted", kind: "number", show: (r) => html`<${Estimate} of=${r.value?.ips} form=${score} />` },
      { title: "Doubly robust", kind: "number", show: (r) => html`<${Estimate} of=${r.value?.dr} form=${score} />` },
      { title: "Difference", show: (r) => (r.value ? html`<${Whisker} of=${r.value.difference} low=${-far} high=${far} label=${signedScore(r.value.difference.value)} />` : html`<span class="refusal">${r.refusal}</span>`) },
      { title: "Worth", kind: "number", show: (r) => (r.value ? html`${count(r.value.effective_n)} <${Pill}>of ${count(r.value.n)}<//>` : "–") },
    ]} />
  <//>`;
}
