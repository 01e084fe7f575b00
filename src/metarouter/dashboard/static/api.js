// Requests to the gateway that served this page, and to nobody else.
import { useEffect, useRef, useState } from "./html.js";

const KEY = "metarouter-key"; // in sessionStorage: gone with the tab, never in an address

export const readKey = () => sessionStorage.getItem(KEY);
export const forgetKey = () => sessionStorage.removeItem(KEY);
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A request with the key; throws Refused on an error answer. Paths are relative to /dashboard. */
export async function call(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const key = readKey();
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const options = { method, headers, body: sent, signal, credentials: "omit", cache: "no-store" };
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Refused(answer.status, await problemOf(answer));
  return answer;
}

async function problemOf(answer) {
  try {
    const { error } = await answer.json();
    return error.message ?? `status ${answer.status}`;
  } catch {
    return `status ${answer.status}`;
  }
}

export async function read(name, params = {}, signal) {
  const given = Object.entries(params).filter(([, v]) => v !== undefined && v !== null && v !== "");
  const query = new URLSearchParams(given).toString();
  const answer = await call(`dashboard/api/${name}${query ? `?${query}` : ""}`, { signal });
  return answer.json();
}

/** Data of a page, read again every `every` seconds while the page is visible (0: once). */
export function useData(name, params, every = 0) {
  const [state, setState] = useState({ data: null, error: null, at: null });
  const address = JSON.stringify([name, params]);
  const shown = useRef(null);
  useEffect(() => {
    const stop = new AbortController();
    let timer = null;
    const next = () => {
      if (every && !stop.signal.aborted) timer = setTimeout(ask, every * 1000);
    };
    const ask = async () => {
      if (document.hidden && shown.current === address) return next();
      try {
        const data = await read(name, params, stop.signal);
        shown.current = address;
        setState({ data, error: null, at: Date.now() });
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error.status === 401 || error.status === 403) window.dispatchEvent(new Event("signed-out"));
        setState((old) => ({ ...old, error: error.message }));
      }
      next();
    };
    if (shown.current !== address) setState((old) => ({ ...old, error: null }));
    ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [address, every]);
  return state;
}

/** Seconds between two questions where an answer takes longer to make; 0 stays 0. */
export const slower = (every, least) => every && Math.max(every, least);

/** Text of a model's streamed answer, piece by piece, to `onText`; the decision's headers back. */
export async function ask(model, dialect, prompt, onText, signal) {
  const messages = [{ role: "user", content: prompt }];
  const isOpenAi = dialect === "openai";
  const body = isOpenAi
    ? { model, messages, stream: true, stream_options: { include_usage: true } }
    : { model, messages, stream: true, max_tokens: 2048 };
  const answer = await call(isOpenAi ? "v1/chat/completions" : "v1/messages", { method: "POST", body, signal });
  for await (const event of events(answer.body)) {
    if (event.error) throw new Refused(502, event.error.message ?? "the stream ended early");
    onText(event.choices?.[0]?.delta?.content ?? event.delta?.text ?? "");
  }
  return answer.headers.get("x-metarouter-decision-id");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
