// The place in the address: #/page?name=value. It holds filters, never a key.
import { useEffect, useState } from "./html.js";

const parse = () => {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: path, params: Object.fromEntries(new URLSearchParams(query)) };
};

export function usePlace() {
  const [place, setPlace] = useState(parse);
  useEffect(() => {
    const moved = () => setPlace(parse());
    window.addEventListener("hashchange", moved);
    return () => window.removeEventListener("hashchange", moved);
  }, []);
  return place;
}

export function addressOf(name, params = {}) {
  const given = Object.entries(params).filter(([, value]) => value);
  const query = new URLSearchParams(given).toString();
  return `#/${name}${query ? `?${query}` : ""}`;
}

export const go = (name, params) => {
  location.hash = addressOf(name, params);
};
