// Keeps the overview live: takes events, changes only what differs, so that focus and scrolling stay.
"use strict";
(() => {
  const root = document.body.dataset.root;
  const status = document.getElementById("status");
  const asked = document.querySelector("[data-events]")?.dataset.events;
  const address = `${root}/events${asked ? `?${asked}` : location.search}`;
  const charts = {};
  let waitMs = 500;

  // Makes `old` like `fresh`. Rows with a key keep their elements when they move.
  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    children(old, fresh);
  }

  function children(old, fresh) {
    const keyed = new Map([...old.children].filter((c) => c.dataset.key).map((c) => [c.dataset.key, c]));
    let at = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const known = wanted.nodeType === Node.ELEMENT_NODE && keyed.get(wanted.dataset.key);
      if (known && known !== at) old.insertBefore(known, at);
      else if (!at || (at.dataset?.key && at.dataset.key !== wanted.dataset?.key)) {
        old.insertBefore(wanted, at);
        continue;
      }
      const here = known || at;
      at = here.nextSibling;
      morph(here, wanted);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function show(id, html) {
    const holder = document.getElementById(id);
    const template = document.createElement("template");
    template.innerHTML = html;
    const fresh = holder.cloneNode(false);
    fresh.append(template.content);
    morph(holder, fresh);
  }

  function take(event) {
    const { regions, charts: whole, points, stale } = JSON.parse(event.data);
    waitMs = 500;
    say(stale ? "store away" : "live", stale ? "bad" : "good");
    for (const [id, html] of Object.entries(regions)) show(id, html);
    for (const [name, data] of Object.entries(whole)) charts[name]?.whole(data);
    for (const [name, data] of Object.entries(points)) charts[name]?.point(data);
  }

  function say(text, mood) {
    if (status.textContent !== text) status.textContent = text;
    status.className = `status ${mood}`;
  }

  function listen() {
    const events = new EventSource(address);
    events.addEventListener("frame", take);
    events.addEventListener("error", () => {
      say("reconnecting", "warn");
      if (events.readyState === EventSource.CLOSED) setTimeout(again, waitMs);
      waitMs = Math.min(waitMs * 2, 5000);
    });
    addEventListener("pagehide", () => events.close(), { once: true });
  }

  // The browser gives up where the answer is an error: look whether the session has ended.
  async function again() {
    try {
      const answer = await fetch(address, { method: "HEAD" });
      if (answer.status === 401 || answer.status === 404) return location.assign(`${root}/login`);
    } catch {
      // The gateway is away: try again.
    }
    listen();
  }

  for (const figure of document.querySelectorAll("[data-chart]")) {
    charts[figure.dataset.chart] = new FairgateChart(figure);
  }
  listen();
})();
