// One query to the router: the decision and its reasons, and both answers side by side.
import { html, useRef, useState } from "../html.js";
import { ask, call } from "../api.js";
import { cost } from "../format.js";
import { Panel, Pill } from "../parts.js";
import { Options } from "./decisions.js";

export function Playground({ about }) {
  const [asked, setAsked] = useState(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const [query, policy, w] = ["query", "policy", "w"].map((name) => form.get(name));
    const body = { query, model: `metarouter:${policy}` };
    if (w) body.metarouter = { w: Number(w) };
    setBusy(true);
    setError(null);
    try {
      const answer = await call("v1/route", { method: "POST", body });
      const [decision] = (await answer.json()).decisions;
      setAsked({ query, decision, isBoth: form.get("both") === "on" });
    } catch (refused) {
      setError(refused.message);
    }
    setBusy(false);
  };
  if (!about.policies.length) return html`<p class="empty">The gateway has no policy: set <code>policies</code>, or <code>metarouter serve --router DIR</code>.</p>`;
  return html`
    <${Panel} id="query" title="Query" wide>
      <form class="ask" onSubmit=${submit}>
        <label for="query-text" class="unseen">Query</label>
        <textarea id="query-text" name="query" rows="4" required placeholder="What would you ask?" onKeyDown=${(e) => e.key === "Enter" && (e.ctrlKey || e.metaKey) && e.target.form.requestSubmit()}></textarea>
        <div class="row">
          <label class="field"><span>Policy</span><select name="policy">${about.policies.map((p) => html`<option key=${p.policy}>${p.policy}</option>`)}</select></label>
          <label class="field"><span>w</span><input name="w" type="number" step="any" placeholder="the policy's" /></label>
          <label class="check"><input type="checkbox" name="both" /> Ask the models too</label>
          <button class="primary" disabled=${busy}>Route</button>
        </div>
      </form>
      ${error && html`<p class="problem" role="alert">${error}</p>`}
    <//>
    <div aria-live="polite">${asked && html`<${Outcome} key=${asked.decision.decision_id} asked=${asked} about=${about} />`}</div>`;
}

function Outcome({ asked, about }) {
  const { decision, query } = asked;
  const names = decision.options.map((o) => o.model);
  return html`
    <${Panel} id="decision" title="Decision" wide>
      <p class="verdict"><b>${decision.model}</b> <${Pill}>${decision.policy}<//></p>
      <p class="lead">${decision.reason}</p>
      ${decision.options.length > 0 && html`<${Options} options=${decision.options} chosen=${decision.model} threshold=${decision.threshold} money=${cost(decision.cost_unit)} />`}
    <//>
    ${asked.isBoth && html`<${Answers} decision=${decision} query=${query} names=${names.length ? names : [decision.model]} about=${about} />`}`;
}

function Answers({ decision, query, names, about }) {
  const [left, right] = [decision.model, ...names.filter((name) => name !== decision.model)];
  return html`
    <div class="grid halves">
      ${[left, right].filter(Boolean).map((name) => html`<${Answer} key=${name} name=${name} query=${query} isChosen=${name === decision.model} dialects=${about.models.find((m) => m.model === name)?.dialects ?? []} />`)}
    </div>
    ${right && html`<${Preference} id=${decision.decision_id} a=${left} b=${right} />`}`;
}

function Answer({ name, query, isChosen, dialects }) {
  const [text, setText] = useState("");
  const [state, setState] = useState("asking");
  const begun = useRef(false);
  if (!begun.current) {
    begun.current = true;
    let all = "";
    const dialect = dialects.includes("openai") ? "openai" : "anthropic";
    ask(name, dialect, query, (piece) => setText((all += piece))).then(
      () => setState("done"),
      (error) => setState(error.message),
    );
  }
  const isBusy = state === "asking";
  return html`<${Panel} id=${`answer-${isChosen ? "chosen" : "other"}`} title=${name} actions=${isChosen ? html`<${Pill} tone="good">chosen<//>` : null}>
    <div class="answer" aria-busy=${isBusy}>${text}${isBusy && html`<span class="caret" aria-hidden="true"></span>`}</div>
    ${!isBusy && state !== "done" && html`<p class="problem" role="alert">${state}</p>`}
  <//>`;
}

function Preference({ id, a, b }) {
  const [said, setSaid] = useState(null);
  const say = (winner) => async () => {
    // names were shown, on a made-up query: a judge of its own, not one more caller
    const annotator = "playground";
    const body = { type: "preference", decision_id: id, model_a: a, model_b: b, winner, annotator };
    try {
      await call("v1/feedback", { method: "POST", body });
      setSaid("Kept: thank you.");
    } catch (error) {
      setSaid(error.message);
    }
  };
  return html`<${Panel} id="preference" title="Which answer is better?" wide>
    ${said
      ? html`<p role="status">${said}</p>`
      : html`<div class="row">
          <button onClick=${say("model_a")}>${a}</button>
          <button onClick=${say("tie")}>Equally good</button>
          <button onClick=${say("both_bad")}>Both bad</button>
          <button onClick=${say("model_b")}>${b}</button>
        </div>`}
  <//>`;
}
