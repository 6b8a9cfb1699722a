// The buttons that drain engines. Rows come and go, so one listener serves all of them.
"use strict";
(() => {
  const { call, say } = window.fairgate;
  const lanes = document.getElementById("lanes");
  const dialog = document.getElementById("drain");
  if (!dialog) return;
  const output = dialog.querySelector("output");

  // The row itself changes with the next look at the pool.
  async function set(engine, drained) {
    await call("PATCH", `engines/${engine}`, { drained });
  }

  lanes.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-drain]");
    if (!button) return;
    const engine = button.dataset.drain;
    if (button.dataset.drained === "yes") {
      button.disabled = true;
      await set(engine, false).catch((error) => alert(error.message));
      button.disabled = false;
      return;
    }
    say(output, "");
    document.getElementById("drained").textContent = decodeURIComponent(engine);
    dialog.querySelector("[data-sure]").onclick = () =>
      set(engine, true).then(() => dialog.close()).catch((error) => say(output, error.message, true));
    dialog.showModal();
  });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
})();
