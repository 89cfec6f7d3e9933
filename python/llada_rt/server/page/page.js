// The page: a form, one lane or two, and what keys do.

import { Lane } from "./lane.js";
import { HOLE, Refusal, ask, eventsOf, requestOf } from "./stream.js";

const find = (selector) => document.querySelector(selector);
const form = find("#form");
const prompt = find("#prompt");
const EXAMPLES = {
  chat: ["Question", "床前明月光的下一句是什么？ 直接输出句子即可。", "Ctrl+Enter runs."],
  text: ["Text", "白日依山尽，", "The model goes on from here. Ctrl+Enter runs."],
  holes: [
    "Text with holes",
    `春眠${HOLE.repeat(3)}，处处${HOLE.repeat(2)}鸟。${HOLE.repeat(3)}雨声，花落${HOLE.repeat(3)}。`,
    `Each ${HOLE} is one token to write. Select text and press Alt+H: it becomes a hole. Ctrl+Enter runs.`,
  ],
};
const texts = Object.fromEntries(Object.entries(EXAMPLES).map(([kind, [, text]]) => [kind, text]));
let running = null; // the AbortController of what runs
let kind = "chat";

function showKind(next) {
  texts[kind] = prompt.value || texts[kind];
  kind = next;
  const [label, , help] = EXAMPLES[kind];
  find("#prompt-label").textContent = label;
  find("#prompt-help").textContent = help;
  find("#hole-row").hidden = kind !== "holes";
  find("#length-row").hidden = kind === "holes";
  prompt.value = texts[kind];
}

function tell(text, isBad = false) {
  const status = find("#status");
  status.textContent = text;
  status.classList.toggle("bad", isBad);
}

/** The options of a policy's fields that say something. */
function policyOf(name) {
  const options = {};
  for (const field of find(`.policy[data-name="${name}"]`).querySelectorAll("select, input[type=number]")) {
    if (field.value !== "") options[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  return options;
}

async function runLane(lane, policy, signal) {
  const [path, body] = requestOf({
    kind,
    prompt: prompt.value,
    length: Number(find("#length").value),
    temperature: Number(find("#temperature").value),
    seed: Number(find("#seed").value),
    policy,
  });
  const delay = Number(find("#delay").value) * 1000;
  const began = performance.now();
  const answer = await ask(path, body, { key: find("#key").value, signal });
  for await (const event of eventsOf(answer)) {
    lane.take(event, (performance.now() - began) / 1000);
    if (delay && event.diffusion) await new Promise((resolve) => setTimeout(resolve, delay));
  }
  return (performance.now() - began) / 1000;
}

async function run() {
  if (running) return;
  running = new AbortController();
  const isRace = find("#race").checked;
  const lanes = (isRace ? ["a", "b"] : ["a"]).map((name) => [name, new Lane(`Policy ${name.toUpperCase()}`, find("#lane"))]);
  find("#lanes").replaceChildren(...lanes.map(([, lane]) => lane.element));
  find("#run").disabled = true;
  find("#stop").disabled = false;
  tell("Running.");
  let first = null;
  const runs = lanes.map(async ([name, lane]) => {
    const seconds = await runLane(lane, policyOf(name), running.signal);
    first ??= lane;
    return seconds;
  });
  const done = await Promise.allSettled(runs);
  const failed = done.find((each) => each.status === "rejected")?.reason;
  if (failed) {
    running.abort();
    showFault(failed);
  } else if (isRace) {
    first.element.classList.add("first");
    tell(`${first.name} was first.`);
  } else {
    tell("Done.");
  }
  running = null;
  find("#run").disabled = false;
  find("#stop").disabled = true;
}

function showFault(error) {
  if (error.name === "AbortError") return tell("Stopped. The steps that came can still be looked at.");
  if (error instanceof Refusal && error.status === 401) {
    find("#key-row").hidden = false;
    find("#key").focus();
    return tell("The server wants an API key.", true);
  }
  const isLost = !(error instanceof Refusal);
  return tell(isLost ? `The connection was lost: ${error.message}. The steps that came can still be looked at.` : error.message, true);
}

/** The selected text becomes a hole of as many tokens as it has. */
async function makeHole() {
  const { selectionStart: from, selectionEnd: to, value } = prompt;
  const selected = value.slice(from, to);
  if (!selected) return tell("Select the text that is to become a hole.", true);
  try {
    const open = selected.split(HOLE).length - 1;
    const text = selected.replaceAll(HOLE, "");
    const body = { prompt: text, add_special_tokens: false };
    const count = text ? (await (await ask("tokenize", body, { key: find("#key").value })).json()).count : 0;
    prompt.setRangeText(HOLE.repeat(count + open), from, to, "end");
    prompt.focus();
    tell(`A hole of ${count + open} tokens.`);
  } catch (error) {
    showFault(error);
  }
}

for (const fieldset of document.querySelectorAll(".policy")) {
  fieldset.append(find("#policy").content.cloneNode(true));
}
find('.policy[data-name="a"] [name=preset]').value = "reference";
find('.policy[data-name="b"] [name=preset]').value = "fast";
for (const radio of document.querySelectorAll("[name=kind]")) radio.addEventListener("change", () => showKind(radio.value));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
find("#stop").addEventListener("click", () => running?.abort());
find("#make-hole").addEventListener("click", makeHole);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "Enter") form.requestSubmit();
  if (event.altKey && event.code === "KeyH" && kind === "holes") {
    event.preventDefault();
    makeHole();
  }
});
showKind("chat");
ask("v1/models")
  .then((answer) => answer.json())
  .then(({ data: [model] }) => {
    find("#model").textContent = `${model.id}: a masked diffusion model fills a canvas, the surest token first.`;
    find("#length").value = model.default_params.gen_length;
  })
  .catch(showFault);
