// Forms that speak to the admin API, and the keys of a tenant.
"use strict";
(() => {
  const { call, say } = window.fairgate;

  // Fields named a.b become {a: {b: …}}; empty ones of a PATCH null, which means the default.
  function values(form) {
    const found = {};
    for (const input of form.querySelectorAll("input[name]")) {
      const text = input.value.trim();
      if (!text && form.dataset.method !== "PATCH") continue;
      const value = !text ? null : "number" in input.dataset ? Number(text) : text;
      const path = input.name.split(".");
      const last = path.pop();
      const holder = path.reduce((at, part) => (at[part] ??= {}), found);
      holder[last] = value;
    }
    return found;
  }

  async function submit(event) {
    event.preventDefault();
    const form = event.currentTarget;
    const output = form.querySelector("output");
    const button = form.querySelector("button");
    say(output, "");
    button.disabled = true;
    try {
      const told = await call(form.dataset.method, form.dataset.api, values(form));
      say(output, form.dataset.done || "");
      if (form.dataset.goto) location.assign(form.dataset.goto.replace("{name}", encodeURIComponent(told.name)));
      if (form.dataset.shows) show(told[form.dataset.shows]);
    } catch (error) {
      say(output, error.message, true);
    } finally {
      button.disabled = false;
    }
  }

  function show(secret) {
    document.getElementById("secret").textContent = secret;
    document.getElementById("shown").showModal();
  }

  function ask(button) {
    const dialog = document.getElementById("sure");
    const output = dialog.querySelector("output");
    say(output, "");
    document.getElementById("which").textContent = button.dataset.revoke;
    document.getElementById("revoke").onclick = async () => {
      try {
        const keys = document.querySelector("form.create").dataset.api;
        await call("DELETE", `${keys}/${button.dataset.revoke}`);
        location.reload();
      } catch (error) {
        say(output, error.message, true);
      }
    };
    dialog.showModal();
  }

  for (const form of document.querySelectorAll("form[data-api]")) form.addEventListener("submit", submit);
  for (const button of document.querySelectorAll("[data-revoke]")) button.addEventListener("click", () => ask(button));
  document.getElementById("keep")?.addEventListener("click", () => document.getElementById("sure").close());
  document.getElementById("close")?.addEventListener("click", () => document.getElementById("shown").close());
  document.getElementById("shown")?.addEventListener("close", () => location.reload());
  document.getElementById("copy")?.addEventListener("click", async () => {
    const code = document.getElementById("secret");
    const output = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(code.textContent);
      say(output, "Copied.");
    } catch {
      getSelection().selectAllChildren(code);
      say(output, "Selected: copy it with the keyboard.");
    }
  });
})();
