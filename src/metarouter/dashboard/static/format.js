// Numbers and times as people read them. An absent value is a dash.
const DASH = "–";
const absent = (value) => value === null || value === undefined || Number.isNaN(value);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => (absent(value) ? DASH : whole.format(value));
export const short = (value) => (absent(value) ? DASH : value < 10_000 ? count(value) : compact.format(value));
export const fixed = (digits) => (value) =>
  absent(value) ? DASH : minus(value.toFixed(digits));
export const signed = (digits) => (value) =>
  absent(value) ? DASH : (value > 0 ? "+" : "") + minus(value.toFixed(digits));
export const share = (value, digits = 1) => (absent(value) ? DASH : `${minus((100 * value).toFixed(digits))} %`);

export const points = (value) => (absent(value) ? DASH : `${minus((100 * value).toFixed(1))} points`);

function minus(text) {
  const bare = /^-0(\.0*)?$/.test(text) ? text.slice(1) : text; // no negative zero
  return bare.replace("-", "−");
}

export function dollars(value) {
  if (absent(value)) return DASH;
  const size = Math.abs(value);
  const digits = size === 0 || size >= 1 ? 2 : Math.min(8, 1 - Math.floor(Math.log10(size)) + 1);
  const text = size >= 1000 ? whole.format(size) : size.toFixed(digits);
  return `${value < 0 ? "−" : ""}$${text}`;
}

/** Dollars at an axis: no digits that say nothing. */
export function dollarTick(value) {
  const text = String(+value.toPrecision(3));
  const decimals = text.split(".")[1]?.length ?? 0;
  return value === 0 ? "$0" : `$${decimals === 1 ? `${text}0` : text}`;
}

export const cost = (unit) => (unit === "USD" ? dollars : (value) => (absent(value) ? DASH : minus(String(+value.toPrecision(3)))));

export function seconds(value) {
  if (absent(value)) return DASH;
  if (value < 0) return `−${seconds(-value)}`;
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1000).toFixed(value < 0.1 ? 1 : 0)} ms`;
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const precise = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

const timeOf = (value) => clock.format(value * 1000);
export const dayOf = (value) => day.format(value * 1000);
export const momentOf = (value) => (absent(value) ? DASH : `${day.format(value * 1000)}, ${precise.format(value * 1000)}`);
export const axisTime = (width) => (value) => (width >= 7200 ? `${dayOf(value)} ${timeOf(value)}` : timeOf(value));

/** Whether an estimate has an interval that says something; a warning of it tells why not. */
const hasWidth = (of) => !absent(of?.low) && of.high - of.low > 1e-6 * Math.abs(of.value);
export const between = (of, form) => (hasWidth(of) ? `${form(of.low)} to ${form(of.high)}` : "");
export const leavesOutZero = (of) => hasWidth(of) && (of.low > 0 || of.high < 0);
