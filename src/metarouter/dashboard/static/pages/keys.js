// Keys: their limits, what they used, making and revoking them.
import { html, useEffect, useRef, useState } from "../html.js";
import { call } from "../api.js";
import { count, dayOf, dollars, momentOf, short } from "../format.js";
import { addressOf } from "../place.js";
import { Bar, Panel, Pill, State, Table } from "../parts.js";

export function Keys({ about }) {
  const [state, setState] = useState({ data: null, error: null });
  const [made, setMade] = useState(null);
  const load = async () => {
    try {
      const [keys, trail] = await Promise.all(["keys", "audit?limit=30"].map((path) => call(`admin/${path}`).then((a) => a.json())));
      setState({ data: { keys: keys.keys, audit: trail.audit }, error: null });
    } catch (error) {
      setState((old) => ({ ...old, error: error.message }));
    }
  };
  useEffect(() => { load(); }, []);
  const change = async (path, method, body) => {
    try {
      const answer = await call(path, { method, body });
      return await answer.json();
    } catch (error) {
      setState((old) => ({ ...old, error: error.message }));
      return null;
    } finally {
      load();
    }
  };
  const revoke = (key) => change(`admin/keys/${encodeURIComponent(key.key_id)}`, "DELETE");
  const create = async (body) => {
    const found = await change("admin/keys", "POST", body);
    if (found) setMade(found);
    return Boolean(found);
  };
  return html`
    ${about.auth === "none" && html`<p class="note">The gateway asks for no keys (<code>auth: none</code>): those below open nothing that is not open already.</p>`}
    ${made && html`<${Made} made=${made} onDone=${() => setMade(null)} />`}
    <${State} state=${state}>${(data) => html`
      <${List} keys=${data.keys} onRevoke=${revoke} />
      <${Create} about=${about} onCreate=${create} />
      <${Trail} rows=${data.audit} />`}
    <//>`;
}

function Made({ made, onDone }) {
  const box = useRef(null);
  useEffect(() => box.current.focus(), []);
  return html`<section class="panel made" aria-labelledby="made" tabindex="-1" ref=${box}>
    <header><h2 id="made">The key of ${made.record.name}</h2></header>
    <p class="note">Copy it now: the store has only its hash, and it is not shown again.</p>
    <div class="row"><code class="secret">${made.key}</code>
      <button onClick=${() => navigator.clipboard?.writeText(made.key)}>Copy</button>
      <button onClick=${onDone}>Done</button></div>
  </section>`;
}

const limit = (used, most, form) => (most === null ? html`<span class="muted">no limit</span>` : html`<span class="withbar"><${Bar} value=${used / most} tone=${used >= most ? "worse" : ""} /> ${form(used)} of ${form(most)}</span>`);

function Scope({ of }) {
  const parts = [["policies", of.policies], ["models", of.models]].filter(([, names]) => names !== null);
  if (!parts.length) return html`<span class="muted">everything</span>`;
  return html`<span class="wrap">${parts.map(([kind, names]) => `${kind}: ${names.join(", ") || "none"}`).join("; ")}</span>`;
}

function List({ keys, onRevoke }) {
  const [asked, setAsked] = useState(null);
  const columns = [
    { title: "Name", show: (k) => html`<span class="estimate"><span>${k.name}${k.is_admin ? html` <${Pill} tone="warn">admin<//>` : ""}</span><small><a href=${addressOf("decisions", { key_id: k.key_id })}>${k.key_id}</a></small></span>` },
    { title: "State", show: (k) => html`<${Pill} tone=${k.state === "valid" ? "good" : "bad"}>${k.state}<//>` },
    { title: "Budget", show: (k) => limit(k.used.spent, k.budget, dollars) },
    { title: "Requests/min", show: (k) => limit(k.used.requests, k.requests_per_minute, count) },
    { title: "Tokens/min", show: (k) => limit(k.used.tokens, k.tokens_per_minute, short) },
    { title: "May use", show: (k) => html`<${Scope} of=${k} />` },
    { title: "Expires", show: (k) => (k.expires === null ? html`<span class="muted">never</span>` : dayOf(k.expires)) },
    { title: html`<span class="unseen">Change</span>`, show: (k) => k.state !== "revoked" && (asked === k.key_id
      ? html`<span class="withbar"><button class="danger" onClick=${() => { setAsked(null); onRevoke(k); }}>Revoke ${k.name}</button><button onClick=${() => setAsked(null)}>Keep</button></span>`
      : html`<button onClick=${() => setAsked(k.key_id)} aria-label=${`Revoke ${k.name}`}>Revoke</button>`) },
  ];
  return html`<${Panel} id="keys" title="Keys">
    <${Table} caption="Keys" columns=${columns} rows=${keys} rowKey=${(k) => k.key_id} empty="There is no key yet." />
  <//>`;
}

const NUMBERS = [
  ["requests_per_minute", "Requests a minute", 1],
  ["tokens_per_minute", "Tokens a minute", 1],
  ["budget", "Budget in dollars", "any"],
  ["budget_days", "Days of a budget", "any"],
  ["days", "Days until it expires", "any"],
];

function Create({ about, onCreate }) {
  const submit = async (event) => {
    event.preventDefault();
    const target = event.target;
    const form = new FormData(target);
    const body = { name: form.get("name"), is_admin: form.get("is_admin") === "on" };
    for (const [name] of NUMBERS) if (form.get(name)) body[name] = Number(form.get(name));
    for (const name of ["policies", "models"]) if (form.getAll(name).length) body[name] = form.getAll(name);
    if (await onCreate(body)) target.reset();
  };
  const boxes = (name, title, values) => html`<fieldset><legend>${title} (none ticked: all)</legend>
    ${values.map((value) => html`<label class="check" key=${value}><input type="checkbox" name=${name} value=${value} /> ${value}</label>`)}</fieldset>`;
  return html`<${Panel} id="create" title="New key">
    <form class="create" onSubmit=${submit}>
      <label class="stack"><span>Name</span><input name="name" required maxlength="200" autocomplete="off" /></label>
      ${NUMBERS.map(([name, title, step]) => html`<label class="stack" key=${name}><span>${title}</span><input name=${name} type="number" min=${step === 1 ? 1 : 0} step=${step} placeholder="no limit" /></label>`)}
      ${boxes("policies", "Policies", about.policies.map((p) => p.policy))}
      ${boxes("models", "Models", about.models.map((m) => m.model))}
      <label class="check"><input type="checkbox" name="is_admin" /> Admin: may see and change everything</label>
      <button class="primary">Make the key</button>
    </form>
  <//>`;
}

const details = ({ by, ...rest }) =>
  Object.entries(rest)
    .filter(([, value]) => value !== null && value !== false)
    .map(([name, value]) => `${name.replaceAll("_", " ")}: ${name === "expires" ? momentOf(value) : Array.isArray(value) ? value.join(", ") : value}`)
    .join("; ");

function Trail({ rows }) {
  const columns = [
    { title: "When", show: (a) => momentOf(a.created) },
    { title: "What", show: (a) => a.action },
    { title: "On", show: (a) => html`<code>${a.subject}</code>` },
    { title: "By", show: (a) => html`<code>${a.content.by ?? "–"}</code>` },
    { title: "Details", show: (a) => html`<span class="wrap">${details(a.content)}</span>` },
  ];
  return html`<${Panel} id="audit" title="Audit trail"><${Table} caption="Who changed what" columns=${columns} rows=${rows} empty="Nothing was changed yet." /><//>`;
}
