"use strict";
// Models wrote parts of the data. Insert everything from the data as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tasks = [...new Set(data.runs.map((run) => run.task))];
  const filters = {
    all: () => true,
    won: (episode) => episode.won,
    lost: (episode) => !episode.won,
    fallback: (episode) => episode.fallbacks > 0,
  };
  const state = { run: null, filter: "all", episode: null, step: 0 };
  const at = (id) => document.getElementById(id);

  function element(name, text, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function button(text, className, current, press) {
    const made = element("button", text, className);
    made.type = "button";
    if (current) made.setAttribute("aria-current", "true");
    made.addEventListener("click", press);
    return made;
  }

  const isNumber = (value) => typeof value === "number";
  // What rounds to zero has no minus sign.
  const rounded = (value, digits) =>
    isNumber(value) ? (Number(value.toFixed(digits)) || 0).toFixed(digits).replace("-", "−") : "–";
  const signed = (value) => (value > 0 ? "+" : "") + String(value).replace("-", "−");

  const runsOf = (task) => data.runs.filter((run) => run.task === task);
  const shownEpisodes = () => state.run.episodes.filter(filters[state.filter]);

  // Every change of the state goes through here. If the current episode is not among those of the new method or
  // filter, show the one of the same seed, or else the first.
  function show(change) {
    const seed = state.episode && state.episode.seed;
    const otherEpisode = "run" in change || "filter" in change;
    Object.assign(state, change);
    const episodes = shownEpisodes();
    if (otherEpisode && !("episode" in change)) {
      const same = episodes.find((episode) => episode.seed === seed);
      if (state.episode !== same) state.step = 0;
      state.episode = same || episodes[0] || null;
    }
    if (state.episode) state.step = Math.max(0, Math.min(state.step, state.episode.steps.length));
    draw();
    scheduleAddress();
  }

  function draw() {
    drawChoices();
    drawEpisodes();
    const nothing = state.episode === null;
    at("empty").hidden = !nothing;
    at("shown").hidden = nothing;
    if (!nothing) {
      drawSteps();
      drawStep();
    }
  }

  function drawChoices() {
    const options = (names, chosen) => names.map(([value, text]) => new Option(text, value, false, value === chosen));
    at("task").replaceChildren(...options(tasks.map((task) => [task, task]), state.run.task));
    at("run").replaceChildren(...options(runsOf(state.run.task).map((run) => [run.name, run.label]), state.run.name));
    for (const filter of at("filters").children) {
      const name = filter.dataset.filter;
      const count = state.run.episodes.filter(filters[name]).length;
      filter.textContent = `${name[0].toUpperCase()}${name.slice(1)} ${count}`;
      filter.setAttribute("aria-pressed", String(name === state.filter));
    }
    at("totals").textContent = totalsText(state.run);
  }

  function totalsText(run) {
    const totals = run.totals;
    const parts = [`${data.scale} scale`, run.style === "cot" ? "with thoughts" : "action alone"];
    if (totals.games) parts.push(totals.games);
    if (isNumber(totals.lambda)) parts.push(`λ ${totals.lambda}`);
    if (isNumber(totals.seed)) parts.push(`seed ${totals.seed}`);
    if (isNumber(totals.success_rate)) {
      const interval = `95 % interval ${rounded(totals.ci_low, 1)} to ${rounded(totals.ci_high, 1)}`;
      parts.push(`${rounded(totals.success_rate, 1)} % of ${totals.episodes} episodes won (${interval})`);
    }
    parts.push(`${run.episodes.length} of them here`);
    return parts.join(" · ");
  }

  function drawEpisodes() {
    refill(at("episodes"), shownEpisodes().map((episode) => {
      const kind = (episode.won ? "✓" : "✗") + (episode.fallbacks ? "?" : "");
      const made = button(`${kind} ${episode.number}`, episode.won ? "won" : "lost", episode === state.episode,
        () => show({ episode, step: 0 }));
      const fallbacks = episode.fallbacks ? `, ${episode.fallbacks} fallbacks` : "";
      made.title = `Episode ${episode.number}, ${episode.won ? "won" : "lost"}${fallbacks}`;
      made.setAttribute("aria-label", made.title);
      return made;
    }));
  }

  function drawSteps() {
    const marks = state.episode.steps.map((step, index) => {
      const made = button(step.action, step.fallback ? "fallback" : "", index === state.step, () => show({ step: index }));
      made.setAttribute("aria-label", `Step ${index + 1}: ${step.action}${step.fallback ? ", a fallback" : ""}`);
      return made;
    });
    const end = state.episode.steps.length;
    marks.push(button("end", state.episode.won ? "won" : "lost", state.step === end, () => show({ step: end })));
    refill(at("marks"), marks);
    at("previous").disabled = state.step === 0;
    at("next").disabled = state.step === end;
  }

  // Replace a row's buttons, keep the focus on the current one, and scroll it into view.
  function refill(row, buttons) {
    const focused = row.contains(document.activeElement);
    row.replaceChildren(...buttons);
    const current = row.querySelector("[aria-current]");
    if (!current) return;
    if (focused) current.focus({ preventScroll: true });
    // Scroll only the row: scrollIntoView would also move the page.
    row.scrollLeft = current.offsetLeft - row.offsetLeft - (row.clientWidth - current.offsetWidth) / 2;
  }

  function drawStep() {
    const { episode } = state;
    const step = episode.steps[state.step];
    at("exchange").hidden = !step;
    showImage(step ? step.image : episode.last);
    if (!step) {
      at("title").textContent = `Episode ${episode.number}, the end`;
      drawFacts([
        ["Outcome", episode.won ? "won" : "lost", episode.won ? "won" : "lost"],
        ["Ended by", episode.cut ? "running out of steps" : "the game"],
        ["Return", signed(episode.return)],
        ["Steps", String(episode.steps.length)],
        ["Fallbacks", String(episode.fallbacks)],
        ["Seed", String(episode.seed)],
      ]);
      return;
    }
    at("title").textContent = `Episode ${episode.number}, step ${state.step + 1} of ${episode.steps.length}`;
    at("thoughts").textContent = step.thoughts;
    at("key").textContent = step.key;
    at("prompt").textContent = data.prompts[step.prompt];
    const { logprob_thoughts: thoughts, logprob_action: key } = step.numbers;
    at("thoughts-number").textContent = isNumber(thoughts) ? `log p ${rounded(thoughts, 2)}` : "";
    at("key-number").textContent = isNumber(key) ? `log p ${rounded(key, 2)}` : "";
    drawFacts(stepFacts(step));
  }

  function stepFacts(step) {
    const { logprob_thoughts, logprob_action, value, tokens, perception, ...others } = step.numbers;
    const facts = [
      [step.fallback ? "Random action" : "Action", step.action],
      ["Parsed", step.outcome.replaceAll("_", " "), step.fallback ? "lost" : ""],
      ["Reward", signed(step.reward)],
    ];
    if (value !== undefined) facts.push(["Value", rounded(value, 3)]);
    if (tokens !== undefined) facts.push(["Tokens", rounded(tokens, 0)]);
    const marks = { right: ["✓ right", "won"], wrong: ["✗ wrong", "lost"] };
    for (const [name, mark] of Object.entries(perception ?? {})) {
      facts.push([`Read: ${name}`, ...(marks[mark] ?? ["not stated"])]);
    }
    for (const [name, found] of Object.entries(others)) {
      facts.push([name, isNumber(found) ? String(found) : JSON.stringify(found)]);
    }
    return facts;
  }

  function drawFacts(facts) {
    at("facts").replaceChildren(...facts.map(([name, text, className]) => {
      const pair = document.createElement("div");
      pair.append(element("dt", name), element("dd", text, className));
      return pair;
    }));
  }

  const decoded = new Map();

  function image(number) {
    if (!decoded.has(number)) {
      const made = new Image();
      made.src = `data:${data.mime};base64,${data.images[number].data}`;
      decoded.set(number, made.decode().then(() => made));
    }
    return decoded.get(number);
  }

  // An image is either whole or a patch on a whole image. Draw both at their own size and let the browser scale the
  // canvas: if each was scaled on its own, the edges of the patch would show.
  async function showImage(number) {
    const canvas = at("image");
    const { on, at: place } = data.images[number];
    canvas.dataset.wanted = number;
    const layers = await Promise.all((on === undefined ? [number] : [on, number]).map(image));
    // While this image was decoded, another may have been asked for.
    if (canvas.dataset.wanted !== String(number)) return;
    [canvas.width, canvas.height] = data.images[on === undefined ? number : on].size;
    const pen = canvas.getContext("2d");
    pen.drawImage(layers[0], 0, 0);
    if (on !== undefined) pen.drawImage(layers[1], ...place);
    canvas.dataset.shown = number;
  }

  // The address names what is shown, so that a reader can bookmark or share it. Write it only after a pause: holding
  // a key down would change it hundreds of times, which browsers refuse.
  let addressTimer = 0;
  function scheduleAddress() {
    clearTimeout(addressTimer);
    addressTimer = setTimeout(writeAddress, 200);
  }

  function writeAddress() {
    const words = new URLSearchParams({ run: state.run.name, show: state.filter, step: String(state.step + 1) });
    if (state.episode) words.set("episode", String(state.episode.number));
    history.replaceState(null, "", `#${words}`);
  }

  function restoreFromAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    const run = data.runs.find((each) => each.name === words.get("run"))
      || data.runs.find((each) => each.totals.kind === "ppo") || data.runs[0];
    const filter = Object.hasOwn(filters, words.get("show") || "") ? words.get("show") : "all";
    const episodes = run.episodes.filter(filters[filter]);
    const episode = episodes.find((each) => String(each.number) === words.get("episode")) || episodes[0] || null;
    show({ run, filter, episode, step: (parseInt(words.get("step"), 10) || 1) - 1 });
  }

  const after = (list, item, by) => list[(list.indexOf(item) + by + list.length) % list.length];
  // The run of the same method on another task, or that task's first run.
  const runOn = (task) => runsOf(task).find((run) => run.label === state.run.label) || runsOf(task)[0];

  function nextEpisode(by) {
    const episodes = shownEpisodes();
    const index = episodes.indexOf(state.episode) + by;
    if (episodes[index]) show({ episode: episodes[index], step: 0 });
  }

  const keys = {
    ArrowLeft: () => show({ step: state.step - 1 }),
    ArrowRight: () => show({ step: state.step + 1 }),
    ArrowUp: () => nextEpisode(-1),
    ArrowDown: () => nextEpisode(1),
    Home: () => show({ step: 0 }),
    End: () => show({ step: Infinity }),
    t: () => show({ run: runOn(after(tasks, state.run.task, 1)) }),
    m: () => show({ run: after(runsOf(state.run.task), state.run, 1) }),
    a: () => show({ filter: "all" }),
    w: () => show({ filter: "won" }),
    l: () => show({ filter: "lost" }),
    f: () => show({ filter: "fallback" }),
  };

  document.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select") || !Object.hasOwn(keys, key)) return;
    event.preventDefault();
    keys[key]();
  });
  at("task").addEventListener("change", (event) => show({ run: runOn(event.target.value) }));
  at("run").addEventListener("change", (event) => show({ run: data.runs.find((run) => run.name === event.target.value) }));
  for (const filter of at("filters").children) {
    filter.addEventListener("click", () => show({ filter: filter.dataset.filter }));
  }
  at("previous").addEventListener("click", keys.ArrowLeft);
  at("next").addEventListener("click", keys.ArrowRight);
  window.addEventListener("hashchange", restoreFromAddress);
  restoreFromAddress();
})();
