// Asks the admin API in the name of who is signed in.
"use strict";
window.fairgate = (() => {
  const api = `${document.body.dataset.root}/v1/`;

  // The answer's JSON; throws what it says where it is a refusal.
  async function call(method, path, body) {
    const answer = await fetch(api + path, {
      method,
      headers: body === undefined ? {} : { "content-type": method === "PATCH" ? "application/merge-patch+json" : "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (answer.status === 401) location.assign(`${document.body.dataset.root}/login`);
    const told = answer.status === 204 ? null : await answer.json().catch(() => null);
    if (!answer.ok) {
      const errors = (told?.errors || []).map((e) => `${e.field}: ${e.message}`);
      throw new Error(errors.join("; ") || told?.detail || told?.title || `the gateway answered ${answer.status}`);
    }
    return told;
  }

  function say(output, text, bad = false) {
    output.textContent = text;
    output.classList.toggle("error", bad);
  }

  return { call, say };
})();
