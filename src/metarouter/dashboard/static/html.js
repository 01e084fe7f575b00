// Preact with templates in place of JSX: no build step.
import { h } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export { render } from "./vendor/preact.mjs";
export { useEffect, useMemo, useRef, useState, useCallback } from "./vendor/preact-hooks.mjs";
export const html = htm.bind(h);
