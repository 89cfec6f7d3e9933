// A lane: one canvas being filled, what was written when, and the scrubber over its steps.

const SPECIAL = /^<\|.*\|>$|^<\/?s>$/u;

export class Lane {
  constructor(name, template) {
    this.name = name;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.find("h2").textContent = name;
    this.steps = []; // of the server's: {nfe, block, committed, seconds}
    this.begin = []; // the canvas before the first step: null, or {id, text}
    this.cells = [];
    this.text = "";
    this.end = null; // the last choice
    this.follows = true; // the scrubber goes with the newest step
    this.find(".scrub").addEventListener("input", (event) => {
      this.follows = Number(event.target.value) === this.steps.length;
      this.draw();
    });
    this.find(".svg").addEventListener("click", () => save(`${this.name}.svg`, "image/svg+xml", this.svg()));
    this.find(".json").addEventListener("click", () => save(`${this.name}.json`, "application/json", this.json()));
  }

  /** An event of the stream. `seconds`: since the request was sent. */
  take(event, seconds) {
    const shown = event.diffusion;
    const choice = event.choices[0];
    if (choice) this.text += choice.text ?? choice.delta?.content ?? "";
    if (shown) {
      if (shown.canvas) this.lay(shown.canvas);
      this.steps.push({ nfe: shown.nfe, block: shown.block, committed: shown.committed, seconds });
      const scrub = this.find(".scrub");
      scrub.max = this.steps.length;
      if (this.follows) scrub.value = this.steps.length;
      this.draw();
    }
    if (choice?.finish_reason) {
      this.end = choice;
      this.tell();
      for (const name of [".svg", ".json"]) this.find(name).disabled = false;
    }
    this.find(".text").textContent = this.text;
  }

  lay(canvas) {
    this.begin = canvas;
    this.cells = canvas.map(() => document.createElement("li"));
    this.find(".canvas").replaceChildren(...this.cells);
  }

  /** The canvas after the first `count` steps: of each position {text, confidence, step}, or null. */
  at(count) {
    const canvas = this.begin.map((token) => token && { text: token.text, confidence: null, step: null });
    this.steps.slice(0, count).forEach((step, number) => {
      for (const { position, text, confidence } of step.committed) {
        if (position >= 0) canvas[position] = { text, confidence, step: number + 1 };
      }
    });
    return canvas;
  }

  draw() {
    const count = Number(this.find(".scrub").value);
    this.at(count).forEach((token, position) => {
      const cell = this.cells[position];
      cell.className = `cell ${kindOf(token)}${token?.step === count && count > 0 ? " fresh" : ""}`;
      cell.textContent = token ? shownText(token.text) : "\u00a0";
      const told = token?.confidence == null ? "" : `, step ${token.step}, confidence ${token.confidence.toFixed(3)}`;
      cell.title = token ? `${token.text}${told}` : "open";
    });
    this.find(".place").textContent = `${count} of ${this.steps.length}`;
    this.tell();
  }

  tell() {
    const written = this.steps.reduce((sum, step) => sum + step.committed.length, 0);
    const last = this.steps.at(-1);
    if (!last) return;
    const speed = last.seconds > 0 ? (written / last.seconds).toFixed(0) : "-";
    const facts = [
      `${last.nfe} forwards`,
      `${written} tokens`,
      `${(written / last.nfe).toFixed(2)} tokens a forward`,
      `${speed} tokens/s`,
      `${last.seconds.toFixed(2)} s`,
    ];
    if (this.end) facts.push(`end: ${this.end.diffusion.finish_reason}`);
    this.find(".facts").textContent = facts.join(" · ");
  }

  json() {
    const { begin, steps, text, end } = this;
    return JSON.stringify({ name: this.name, canvas: begin, steps, text, end }, null, 1);
  }

  /** The canvas at the scrubber's step as a picture. */
  svg() {
    const canvas = this.at(Number(this.find(".scrub").value));
    const across = Math.min(canvas.length, 16);
    const height = Math.ceil(canvas.length / across) * 40 + 8;
    const colours = this.cells.map((cell) => getComputedStyle(cell).backgroundColor);
    const boxes = canvas.map((token, position) => {
      const x = (position % across) * 64 + 4;
      const y = Math.floor(position / across) * 40 + 4;
      const text = token ? escaped(shownText(token.text)) : "";
      return (
        `<rect x="${x}" y="${y}" width="60" height="36" rx="4" fill="${colours[position]}" stroke="#8c8c85"/>` +
        `<text x="${x + 30}" y="${y + 24}" text-anchor="middle" font-family="sans-serif" font-size="16">${text}</text>`
      );
    });
    const size = `width="${across * 64 + 8}" height="${height}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>${boxes.join("")}</svg>`;
  }
}

function kindOf(token) {
  if (!token) return "mask";
  if (SPECIAL.test(token.text)) return "end";
  if (token.step === null) return "given";
  return `c${Math.max(0, Math.min(9, Math.floor((token.confidence ?? 0) * 10)))}`; // null: it was not to be written
}

function shownText(text) {
  if (SPECIAL.test(text)) return "■";
  return text.replaceAll("\n", "↵") || "\u00a0";
}

function escaped(text) {
  return text.replace(/[&<>"]/gu, (character) => `&#${character.codePointAt(0)};`);
}

function save(name, type, data) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data], { type }));
  link.download = `llada-${name}`.replaceAll(" ", "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
