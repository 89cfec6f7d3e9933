// What is asked of the server, and the events that come back.

export const HOLE = "▢"; // a token to be written; a run of them is a hole

/** Path and body of a request. */
export function requestOf({ kind, prompt, length, temperature, seed, policy }) {
  const body = { stream: true, stream_mode: "denoise", temperature, seed, ...policy };
  if (kind === "chat") {
    return ["v1/chat/completions", { ...body, gen_length: length, messages: [{ role: "user", content: prompt }] }];
  }
  if (kind === "text") return ["v1/completions", { ...body, gen_length: length, prompt }];
  return ["v1/infill", { ...body, segments: segmentsOf(prompt) }];
}

/** "床▢▢光" -> ["床", 2, "光"] */
export function segmentsOf(text) {
  return (text.match(new RegExp(`${HOLE}+|[^${HOLE}]+`, "gu")) ?? []).map((part) =>
    part.startsWith(HOLE) ? part.length : part,
  );
}

export function headersOf(key) {
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

/** What the server refused, with its own words. */
export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
  }
}

export async function ask(path, body, { key, signal } = {}) {
  const method = body === undefined ? "GET" : "POST";
  const answer = await fetch(path, { method, headers: headersOf(key), body: body && JSON.stringify(body), signal });
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Refusal(answer.status, told.error);
  }
  return answer;
}

/** The events of a stream, in order, until [DONE]. */
export async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection was lost before the end");
    const parts = (left + value).split("\n\n");
    left = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(0, event.error);
      yield event;
    }
  }
}
