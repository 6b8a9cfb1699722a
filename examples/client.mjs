// A tenant's client that backs off by fairgate's headers. Needs Node 18 or newer, nothing else.
//
//   FAIRGATE_URL=http://127.0.0.1:8080 FAIRGATE_KEY=fg-... node client.mjs MODEL
//
// - Slows down before a limit is reached: once less than a quarter is left, it spreads what is left
//   over the time until it is all there again (`x-ratelimit-*`).
// - Comes back after a refusal when `Retry-After` says so, and a little later, never earlier.
// - Keeps one interaction id through the calls of an agent's run (`x-fairgate-interaction`).

import { randomUUID } from "node:crypto";
import { pathToFileURL } from "node:url";

const SLOW_BELOW = 0.25;
const UNITS = { h: 3600, m: 60, s: 1, ms: 0.001 };

/** Seconds of `x-ratelimit-reset-*`: `12ms`, `8.64s`, `6m0s`. */
export function seconds(duration) {
  const parts = duration.matchAll(/([\d.]+)(ms|h|m|s)/g);
  return [...parts].reduce((sum, [, n, unit]) => sum + Number(n) * UNITS[unit], 0);
}

/** Seconds to leave between two calls of about `tokens` tokens, by what is left. */
export function pauseSeconds(headers, tokens) {
  let pause = 0;
  for (const [kind, cost] of [["requests", 1], ["tokens", Math.max(tokens, 1)]]) {
    if (!headers.has(`x-ratelimit-limit-${kind}`)) continue; // not limited
    const limit = Number(headers.get(`x-ratelimit-limit-${kind}`));
    const left = Number(headers.get(`x-ratelimit-remaining-${kind}`));
    if (left < limit * SLOW_BELOW) {
      const reset = seconds(headers.get(`x-ratelimit-reset-${kind}`));
      pause = Math.max(pause, (reset * cost) / (left + cost));
    }
  }
  return pause;
}

/** Seconds after which the call may be made again; undefined: it should not be. */
export function retryAfter(headers) {
  if (!headers.has("retry-after") || headers.get("x-should-retry") === "false") return undefined;
  return Number(headers.get("retry-after"));
}

const sleepFor = (s) => new Promise((resolve) => setTimeout(resolve, s * 1000));

/** What a refusal says: `status`, `code` and the gateway's `message`. */
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `answered ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

/** Chats with one gateway as one user; its calls may run side by side. */
export class Client {
  #turn = Promise.resolve();
  #pause = 0;
  #tokens = 0;

  constructor(url, key, { user = "", app = "", tries = 10, sleep = sleepFor } = {}) {
    this.url = `${url}/v1/chat/completions`;
    this.tries = tries;
    this.sleep = sleep;
    this.headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
    if (user) this.headers["x-fairgate-user"] = user;
    if (app) this.headers["x-fairgate-app"] = app;
  }

  /** The answer's text, given to `onText` piece by piece as it comes. */
  async chat(model, messages, { interaction = "", onText = () => {}, ...options } = {}) {
    const headers = { ...this.headers };
    if (interaction) headers["x-fairgate-interaction"] = interaction;
    const body = JSON.stringify({
      model, messages, stream: true, stream_options: { include_usage: true }, ...options,
    });
    for (let attempt = 1; ; attempt++) {
      await this.#myTurn();
      const answer = await fetch(this.url, { method: "POST", headers, body });
      if (answer.ok) return this.#read(answer, onText);
      const wait = retryAfter(answer.headers);
      const { error } = await answer.json().catch(() => ({}));
      if (wait === undefined || attempt >= this.tries) throw new Refused(answer.status, error);
      await this.sleep(wait * (1 + Math.random() / 4));
    }
  }

  /** Calls start one after the other, each with its distance. */
  #myTurn() {
    this.#turn = this.#turn.then(() => this.sleep(this.#pause));
    return this.#turn;
  }

  async #read(answer, onText) {
    this.#pause = pauseSeconds(answer.headers, this.#tokens);
    let text = "";
    for await (const event of events(answer.body)) {
      if (event.error) throw new Refused(answer.status, event.error); // it broke off
      if (event.usage) this.#tokens = event.usage.total_tokens;
      for (const { delta } of event.choices) {
        text += delta.content ?? "";
        onText(delta.content ?? "");
      }
    }
    return text;
  }
}

/** The JSON of each server-sent event, up to `[DONE]`; throws where the answer ends before that. */
async function* events(body) {
  let rest = "";
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((line) => line.startsWith("data: "))) {
      if (line.trim() === "data: [DONE]") return;
      yield JSON.parse(line.slice(6));
    }
  }
  throw new Error("the answer broke off");
}

/** A small agent: three calls, one interaction. */
async function main(model) {
  const client = new Client(process.env.FAIRGATE_URL, process.env.FAIRGATE_KEY);
  const interaction = randomUUID();
  const messages = [{ role: "user", content: "Name a fern." }];
  for (const question of ["Where does it grow?", "Is it rare?", ""]) {
    const onText = (text) => process.stdout.write(text);
    const content = await client.chat(model, messages, { interaction, onText });
    console.log();
    messages.push({ role: "assistant", content }, { role: "user", content: question });
  }
  console.log("done");
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main(process.argv[2]);
