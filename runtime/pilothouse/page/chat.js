// The chat page: one conversation over /v1/chat/completions, streamed. No build step, no dependency, nothing kept: a reload forgets all of it.

const $ = (id) => document.getElementById(id);
const chat = $("chat"), text = $("text"), send = $("send"), stop = $("stop"), problem = $("problem");
const messages = [];
let model = "", running = null;

const headers = () => ({ "Content-Type": "application/json", ...($("key").value && { Authorization: `Bearer ${$("key").value}` }) });

/** What a failed answer says, in the server's words; asks for a key where one is missing. */
async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const said = body.error?.message ?? body.error ?? `the server answered ${response.status}`;
  if (response.status === 401) {
    $("options").open = true;
    $("key").focus();
  }
  const again = response.headers.get("Retry-After");
  return new Error(again ? `${said} (try again in ${again} s)` : said);
}

function show(error) {
  problem.textContent = error ? error.message : "";
  problem.hidden = !error;
}

/** The model's name, version and where it is from. */
async function describe() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw await refusal(response);
  const card = (await response.json()).data[0];
  model = card.id;
  $("model").textContent = document.title = model;
  const facts = { ...card.pilothouse };
  $("version").textContent = `version ${facts.version ?? "?"}, ${facts.engine ?? facts.kind ?? ""} on ${facts.device ?? "?"}`;
  $("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => {
      const term = document.createElement("dt"), told = document.createElement("dd");
      term.textContent = name.replaceAll("_", " ");
      told.textContent = typeof value === "object" ? JSON.stringify(value) : value;
      return [term, told];
    }),
  );
  $("provenance").hidden = false;
}

function bubble(role, content) {
  const item = document.createElement("li"), who = document.createElement("span"), said = document.createElement("p");
  item.className = role;
  who.className = "unseen";
  who.textContent = role === "user" ? "You:" : "Model:";
  said.className = "text";
  said.textContent = content;
  item.append(who, said);
  chat.append(item);
  $("empty").hidden = true;
  item.scrollIntoView({ block: "end" });
  return item;
}

/** The data of each server-sent event, as it comes. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function body() {
  const system = $("system").value.trim(), temperature = $("temperature").value, tokens = $("tokens").value;
  return {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    stream: true,
    stream_options: { include_usage: true },
    ...(temperature && { temperature: Number(temperature) }),
    ...(tokens && { max_tokens: Number(tokens) }),
  };
}

function figures(sent, first, last, usage, reason) {
  const parts = [`first token ${Math.round(first - sent)} ms`];
  if (usage) {
    if (usage.completion_tokens > 1 && last > first) parts.push(`${((usage.completion_tokens - 1) / ((last - first) / 1000)).toFixed(1)} tokens/s`);
    parts.push(`${usage.prompt_tokens} + ${usage.completion_tokens} tokens`);
    if (usage.prompt_tokens_details?.cached_tokens) parts.push(`${usage.prompt_tokens_details.cached_tokens} from the cache`);
  }
  if (reason && reason !== "stop") parts.push(`ended: ${reason}`);
  return parts.join(" · ");
}

async function answer() {
  running = new AbortController();
  const sent = performance.now();
  let first = 0, last = 0, content = "", usage = null, reason = null, item = null;
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body()), signal: running.signal });
    if (!response.ok) throw await refusal(response);
    item = bubble("assistant", "");
    item.setAttribute("aria-busy", "true");
    const said = item.querySelector(".text");
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      if (choice?.delta.content) {
        last = performance.now();
        first ||= last;
        content += choice.delta.content;
        said.append(choice.delta.content);
        item.scrollIntoView({ block: "end" });
      }
      reason = choice?.finish_reason ?? reason;
    }
    if (!reason) throw new Error("the answer broke off");
  } catch (error) {
    if (error.name === "AbortError") reason = "stopped by you";
    else show(error);
  }
  const forget = running.forget;
  running = null;
  if (forget) return clear();
  if (item) {
    item.removeAttribute("aria-busy");
    if (first) {
      const line = document.createElement("p");
      line.className = "figures";
      line.textContent = figures(sent, first, last, usage, reason);
      item.append(line);
    }
  }
  // What was not answered is the user's to send again.
  if (content) messages.push({ role: "assistant", content });
  else {
    text.value ||= messages.pop().content;
    item?.remove();
    chat.lastElementChild?.remove();
  }
  $("said").textContent = content ? `Model: ${content}` : "";
}

function clear() {
  messages.length = 0;
  chat.replaceChildren();
  $("empty").hidden = false;
  $("said").textContent = "";
  show(null);
  text.focus();
}

async function ask() {
  const asked = text.value.trim();
  if (!asked || running) return;
  show(null);
  try {
    if (!model) await describe();
  } catch (error) {
    return show(error);
  }
  messages.push({ role: "user", content: asked });
  bubble("user", asked);
  text.value = "";
  $("said").textContent = "The model is answering";
  send.hidden = true;
  stop.hidden = false;
  await answer();
  stop.hidden = true;
  send.hidden = false;
  if (!$("options").open) text.focus();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
});
document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
stop.addEventListener("click", () => running?.abort());
$("key").addEventListener("change", () => describe().then(() => show(null), show));
$("fresh").addEventListener("click", () => {
  if (!running) return clear();
  running.forget = true;
  running.abort();
});
describe().catch(show);
text.focus();
