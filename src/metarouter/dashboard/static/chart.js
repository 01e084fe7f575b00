// Charts: ECharts on a canvas, a label for those who hear the page, a table of the same numbers.
import { axisTime } from "./format.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { Table } from "./parts.js";

let library = null;
const load = () => (library ??= import("./vendor/echarts.common.min.js").then(() => globalThis.echarts));

/** A colour of the style sheet as the theme in force has it. */
export function ink(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

export function faded(colour, share) {
  const parts = colour.match(/[\d.]+/g).slice(0, 3).join(", ");
  return `rgba(${parts}, ${share})`;
}

/** Options that all charts share; tooltips are elements of ours, because styles in text are refused. */
export function frame({ x, y, tip, top = 12, bottom = 4 }) {
  const muted = ink("muted");
  const grid = ink("grid");
  const label = { color: muted, fontSize: 11.5, hideOverlap: true };
  const axis = {
    axisLabel: label,
    nameTextStyle: { color: muted, fontSize: 11.5 },
    axisTick: { show: false },
    splitLine: { lineStyle: { color: grid, width: 1 } },
  };
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    grid: { left: 8, right: 14, top, bottom, containLabel: true },
    xAxis: { ...axis, axisLine: { lineStyle: { color: grid } }, splitLine: { show: false }, ...x, axisLabel: { ...label, ...x.axisLabel } },
    yAxis: { ...axis, axisLine: { show: false }, splitNumber: 3, ...y, axisLabel: { ...label, ...y?.axisLabel } },
    tooltip: {
      trigger: "axis",
      confine: true,
      transitionDuration: 0,
      backgroundColor: ink("card"),
      borderColor: ink("line"),
      padding: 0,
      extraCssText: "box-shadow: none; border-radius: 6px;",
      axisPointer: { lineStyle: { color: muted, width: 1, type: "solid" }, label: { show: false } },
      formatter: (given) => tip(Array.isArray(given) ? given : [given]),
    },
  };
}

export const TONES = ["accent", "second", "third", "better", "unclear", "quiet"];

/** The axis of buckets of time that end with the present one. */
export const timeAxis = (data) => ({
  type: "category",
  boundaryGap: false,
  data: data.starts.map((_, i) => i),
  axisLabel: {
    formatter: (i) => axisTime(data.width)(data.starts[i]),
    interval: Math.ceil(data.starts.length / 7) - 1,
  },
});

/** A tooltip of a title and rows [colour, name, value]. */
export function tipOf(title, rows) {
  const box = document.createElement("div");
  box.className = "tip";
  const head = box.appendChild(document.createElement("strong"));
  head.textContent = title;
  for (const [colour, name, value] of rows) {
    const line = box.appendChild(document.createElement("div"));
    const swatch = line.appendChild(document.createElement("i"));
    if (colour) swatch.style.backgroundColor = colour;
    line.appendChild(document.createElement("span")).textContent = name;
    line.appendChild(document.createElement("b")).textContent = value;
  }
  return box;
}

/** `make()` gives the options; it runs again when `data` or the theme changes. */
export function Chart({ make, data, label, height = 220, legend = [], table }) {
  const place = useRef(null);
  const drawn = useRef(null);
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const changed = () => setTheme((n) => n + 1);
    const query = matchMedia("(prefers-color-scheme: dark)");
    query.addEventListener("change", changed);
    window.addEventListener("theme", changed);
    return () => {
      query.removeEventListener("change", changed);
      window.removeEventListener("theme", changed);
    };
  }, []);
  useEffect(() => {
    let gone = false;
    load().then((echarts) => {
      if (gone || !place.current) return;
      drawn.current ??= echarts.init(place.current, null, { renderer: "canvas" });
      drawn.current.setOption(make(), { notMerge: true });
    });
    return () => (gone = true);
  }, [data, theme]);
  useEffect(() => {
    const watch = new ResizeObserver(() => drawn.current?.resize());
    watch.observe(place.current);
    return () => {
      watch.disconnect();
      drawn.current?.dispose();
      drawn.current = null;
    };
  }, []);
  return html`<figure class="chart">
    ${legend.length > 0 &&
    html`<ul class="legend" aria-hidden="true">
      ${legend.map(({ name, tone, kind }) => html`<li key=${name}><i class=${`${tone} ${kind ?? ""}`}></i>${name}</li>`)}
    </ul>`}
    <div ref=${place} class=${`canvas h${height}`} role="img" aria-label=${label}></div>
    ${table && html`<details><summary>Table</summary><${Table} ...${table} /></details>`}
  </figure>`;
}
