// Small pieces that pages are made of.
import { html } from "./html.js";
import { between } from "./format.js";

export function Panel({ title, note, actions, wide, children, id }) {
  return html`<section class=${`panel ${wide ? "wide" : ""}`} aria-labelledby=${id}>
    <header>
      <h2 id=${id}>${title}</h2>
      ${actions}
    </header>
    ${note && html`<p class="note">${note}</p>`}
    ${children}
  </section>`;
}

export function Stats({ items }) {
  return html`<dl class="stats">
    ${items.map(
      ({ label, value, under, tone }) => html`<div key=${label}>
        <dt>${label}</dt>
        <dd class=${tone ?? ""}><span class="value">${value}</span><span class="under">${under ?? " "}</span></dd>
      </div>`,
    )}
  </dl>`;
}

/** A table from columns {name, title, show(row), kind: "number" | "text", grow}. */
export function Table({ caption, columns, rows, rowKey, onRow, empty = "Nothing in this window.", isHidden, current }) {
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  const open = (row) => (event) => {
    if (event.type === "click" || event.key === "Enter") onRow(row, event);
  };
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}>
    <table class=${onRow ? "picks" : ""}>
      <caption class=${isHidden === false ? "" : "unseen"}>${caption}</caption>
      <thead>
        <tr>${columns.map((c) => html`<th scope="col" class=${c.kind ?? ""}>${c.title}</th>`)}</tr>
      </thead>
      <tbody>
        ${rows.map(
          (row, number) => html`<tr
            key=${rowKey ? rowKey(row) : number}
            class=${current && current === rowKey?.(row) ? "current" : ""}
            onClick=${onRow && open(row)}
          >
            ${columns.map((c, place) =>
              place === 0
                ? html`<th scope="row" class=${c.kind ?? ""}>${c.show(row)}</th>`
                : html`<td class=${c.kind ?? ""}>${c.show(row)}</td>`,
            )}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** A number with its interval below it, and what weakens it. */
export function Estimate({ of, form }) {
  if (!of) return html`<span class="muted">–</span>`;
  return html`<span class="estimate"><span>${form(of.value)}</span><small>${between(of, form)}</small>
    ${of.warnings?.map((doubt) => html`<small class="doubt" key=${doubt}>${doubt}</small>`)}
  </span>`;
}

/** Points with intervals on one line each, over a shared range; `mark` is a dashed line. */
export function Whisker({ of, low, high, mark = 0, tone = "accent", label }) {
  if (!of || of.value === null) return html`<span class="muted">–</span>`;
  const span = high - low || 1;
  const at = (value) => 4 + 152 * Math.min(1, Math.max(0, (value - low) / span));
  return html`<svg class=${`whisker ${tone}`} viewBox="0 0 160 20" role="img" aria-label=${label}>
    <line class="axis" x1="4" x2="156" y1="10" y2="10" />
    ${mark >= low && mark <= high && html`<line class="mark" x1=${at(mark)} x2=${at(mark)} y1="1" y2="19" />`}
    ${of.low !== null && html`<line class="range" x1=${at(of.low)} x2=${at(of.high)} y1="10" y2="10" />`}
    <circle cx=${at(of.value)} cy="10" r="3.6" />
  </svg>`;
}

export const Bar = ({ value, tone }) =>
  html`<svg class=${`bar ${tone ?? ""}`} viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
    <rect class="ground" width="100" height="6" /><rect width=${100 * Math.min(1, Math.max(0, value || 0))} height="6" />
  </svg>`;

export const Pill = ({ tone, children }) => html`<span class=${`pill ${tone ?? ""}`}>${children}</span>`;

export function State({ state, children }) {
  const { data, error } = state;
  return html`
    ${error && html`<p class="problem" role="alert">${error}</p>`}
    ${data ? children(data) : !error && html`<p class="empty" role="status">Reading the store …</p>`}
  `;
}

export const toneOf = (outcome) =>
  ({ ok: "good", decided: "plain", client_left: "plain", refused: "warn" })[outcome] ?? "bad";
