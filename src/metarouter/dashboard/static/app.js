// The shell: who is signed in, which page, which span of time, which theme.
import { html, render, useCallback, useEffect, useState } from "./html.js";
import { Refused, forgetKey, keepKey, read, readKey } from "./api.js";
import { usePlace } from "./place.js";
import { Decisions } from "./pages/decisions.js";
import { Experiments } from "./pages/experiments.js";
import { Feedback } from "./pages/feedback.js";
import { Keys } from "./pages/keys.js";
import { Playground } from "./pages/playground.js";
import { Service } from "./pages/service.js";
import { Traffic } from "./pages/traffic.js";
import { WhatIf } from "./pages/whatif.js";

const PAGES = [
  { name: "traffic", title: "Traffic", page: Traffic, hasSpan: true, isLive: true },
  { name: "decisions", title: "Decisions", page: Decisions, hasSpan: true, isLive: true },
  { name: "what-if", title: "What if", page: WhatIf, hasSpan: true },
  { name: "feedback", title: "Feedback", page: Feedback, hasSpan: true, isLive: true },
  { name: "experiments", title: "Experiments", page: Experiments, hasSpan: true, isLive: true },
  { name: "service", title: "Models and upstreams", page: Service, hasSpan: true, isLive: true },
  { name: "playground", title: "Playground", page: Playground },
  { name: "keys", title: "Keys", page: Keys },
];
// seconds, name, seconds between two questions of a live page: a longer span changes more slowly
const SPANS = [
  [900, "15 minutes", 5],
  [3600, "1 hour", 5],
  [21600, "6 hours", 15],
  [86400, "24 hours", 30],
  [604800, "7 days", 120],
  [2592000, "30 days", 300],
];

function useTheme() {
  const [theme, setTheme] = useState(() => localStorage.getItem("metarouter-theme") ?? "system");
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    localStorage.setItem("metarouter-theme", theme);
    window.dispatchEvent(new Event("theme"));
  }, [theme]);
  return [theme, setTheme];
}

function SignIn({ onDone, problem }) {
  const [error, setError] = useState(problem);
  const submit = async (event) => {
    event.preventDefault();
    keepKey(new FormData(event.target).get("key").trim());
    try {
      onDone(await read("about"));
    } catch (refused) {
      forgetKey();
      setError(refused.message);
    }
  };
  return html`<main class="sign-in" id="content">
    <h1>metarouter</h1>
    <form class="panel" onSubmit=${submit}>
      <label for="key">Key of an admin</label>
      <input id="key" name="key" type="password" autocomplete="off" spellcheck=${false} required autofocus aria-describedby="key-help" />
      <p id="key-help" class="note">Made by <code>metarouter keys create NAME --admin</code>. It stays in this tab and is gone when the tab is closed.</p>
      ${error && html`<p class="problem" role="alert">${error}</p>`}
      <button class="primary">Sign in</button>
    </form>
  </main>`;
}

function Bar({ page, theme, setTheme, canSignOut, onSignOut }) {
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [page.name]);
  return html`<header class="bar">
    <a class="skip" href="#content" onClick=${(e) => { e.preventDefault(); document.getElementById("content").focus(); }}>To the content</a>
    <div class="brand"><img src="dashboard/static/icon.svg" alt="" width="22" height="22" /><span>metarouter</span></div>
    <button class="menu" aria-expanded=${open} aria-controls="pages" onClick=${() => setOpen(!open)}>${page.title}</button>
    <nav id="pages" class=${open ? "open" : ""} aria-label="Pages">
      <ul>
        ${PAGES.map(({ name, title }) => html`<li key=${name}><a href=${`#/${name}`} aria-current=${name === page.name ? "page" : undefined}>${title}</a></li>`)}
      </ul>
    </nav>
    <div class="settings">
      <label class="field"><span>Theme</span>
        <select value=${theme} onChange=${(e) => setTheme(e.target.value)}>
          <option value="system">System</option><option value="light">Light</option><option value="dark">Dark</option>
        </select>
      </label>
      ${canSignOut && html`<button onClick=${onSignOut}>Sign out</button>`}
    </div>
  </header>`;
}

function App() {
  const place = usePlace();
  const [theme, setTheme] = useTheme();
  const [about, setAbout] = useState(null);
  const [problem, setProblem] = useState(null);
  const [span, setSpan] = useState(3600);
  const [live, setLive] = useState(true);
  const page = PAGES.find((p) => p.name === place.name) ?? PAGES[0];

  const enter = useCallback(async () => {
    try {
      setAbout(await read("about"));
      setProblem(null);
    } catch (error) {
      setAbout(false);
      // without a key there is nothing to complain about yet
      setProblem(error instanceof Refused && error.status === 401 && !readKey() ? null : error.message);
    }
  }, []);
  useEffect(() => {
    enter();
    const out = () => { forgetKey(); setAbout(false); setProblem("The key opens nothing any more: sign in again."); };
    window.addEventListener("signed-out", out);
    return () => window.removeEventListener("signed-out", out);
  }, []);
  useEffect(() => { document.title = about ? `${page.title} · metarouter` : "metarouter"; }, [page, about]);

  if (about === null) return html`<main id="content" class="boot" aria-busy="true"><p role="status">Opening …</p></main>`;
  if (about === false) return html`<${SignIn} onDone=${setAbout} problem=${problem} />`;
  const signOut = () => { forgetKey(); setAbout(false); setProblem(null); };
  return html`<div class="shell">
    <${Bar} ...${{ page, theme, setTheme, canSignOut: about.auth === "keys", onSignOut: signOut }} />
    <main id="content" tabindex="-1">
      <div class="head">
        <h1>${page.title}</h1>
        ${page.hasSpan && html`<div class="controls">
          <label class="field"><span>Last</span>
            <select value=${span} onChange=${(e) => setSpan(+e.target.value)}>
              ${SPANS.map(([value, title]) => html`<option value=${value}>${title}</option>`)}
            </select>
          </label>
          ${page.isLive && html`<label class="check"><input type="checkbox" checked=${live} onChange=${(e) => setLive(e.target.checked)} /> Live</label>`}
        </div>`}
      </div>
      <${page.page} key=${page.name} about=${about} span=${span} every=${live ? SPANS.find(([value]) => value === span)[2] : 0} params=${place.params} />
    </main>
  </div>`;
}

render(html`<${App} />`, document.getElementById("app"));
