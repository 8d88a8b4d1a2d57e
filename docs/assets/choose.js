// The page "Choose a backend": looks up what `sextant select --json` answered (choose-data.js). No network, no library.
(() => {
  const data = window.SEXTANT_CHOICES;
  const form = document.getElementById("choose");
  if (!data || !form) return;
  const result = document.getElementById("chosen");

  const fill = (name, options) => {
    for (const [value, label] of options) form.elements[name].add(new Option(label, value));
  };
  fill("device", Object.entries(data.devices).map(([name, device]) => [name, device.label]));
  fill("model", Object.keys(Object.values(data.devices)[0].answers).map((name) => [name, name]));
  fill("cache", Object.entries(data.caches));

  const nearest = (measured, value) =>
    measured.reduce((best, one) => (Math.abs(Math.log2(one / value)) < Math.abs(Math.log2(best / value)) ? one : best));

  // The answer for these lengths where the selector has measured them, else the general one.
  const lookUp = ({ device, model, cache, query, context }) => {
    const { answers, lengths } = data.devices[device];
    if (query > 0 && context > 0) {
      const key = `${nearest(data.query_lens, query)},${nearest(data.context_lens, context)}`;
      const measured = lengths[model]?.[cache]?.[key];
      if (measured) return { kinds: measured, measured: true };
    }
    return { kinds: answers[model][cache], measured: false };
  };

  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const page = (backend) => `backends/${backend.toLowerCase()}.html`;

  const loadOf = (query, context) => {
    if (query === 1) return "decode, one new token a request";
    return context > 0 ? "extend, new tokens after a context" : "prefill, new tokens without a context";
  };

  const show = () => {
    const value = (name) => form.elements[name].value;
    const number = (name) => Math.max(0, Math.floor(Number(value(name)) || 0));
    const asked = { device: value("device"), model: value("model"), cache: value("cache"), query: number("query"), context: number("context") };
    const { kinds, measured } = lookUp(asked);
    result.replaceChildren();
    for (const kind of kinds) {
      const card = element("div", "", "sx-choice");
      card.append(element("p", `${kind.count} ${kind.count === 1 ? "layer" : "layers"}: ${kind.what}`, "sx-kind"));
      if (kind.chosen) {
        const name = element("p", "", "sx-name");
        const link = element("a", kind.chosen);
        link.href = page(kind.chosen);
        name.append(link);
        card.append(name, element("p", sentence(data.texts[kind.reasons[kind.chosen]]) + "."));
        card.append(element("pre", `export VLLM_ATTENTION_BACKEND=${kind.chosen}`, "sx-command"));
      } else {
        card.append(element("p", "none", "sx-name"));
      }
      const others = element("details");
      others.append(element("summary", "Why not the others"));
      const list = element("dl");
      for (const [name, reason] of Object.entries(kind.reasons)) {
        if (name === kind.chosen) continue;
        list.append(element("dt", name), element("dd", data.texts[reason].split("\n").map(sentence).join(". ") + "."));
      }
      others.append(list);
      card.append(others);
      result.append(card);
    }
    const mla = kinds[0].what.startsWith("MLA");
    const note = element("p", `Kind of load: ${loadOf(asked.query, asked.context)}. `);
    note.append(measured ? "The reason cites the nearest measured lengths. " : "On this device the lengths do not change the choice. ");
    const plot = element("a", `See it measured: ${mla ? "MLA" : "MHA"}.`);
    plot.href = mla ? "compare/mla.html" : "compare/mha.html";
    note.append(plot);
    const lengths = (asked.query ? ` --query-len ${asked.query}` : "") + (asked.context ? ` --context-len ${asked.context}` : "");
    const cache = asked.cache === "auto" ? "" : ` --kv-cache-dtype ${asked.cache}`;
    result.append(note, element("p", "The same on your machine:"),
      element("pre", `sextant select --model ${asked.model} --device ${asked.device}${cache}${lengths}`, "sx-command"));
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
