// Colour scheme: the system's, unless the reader chose one. Loaded before the page is drawn.
"use strict";
(() => {
  const said = { auto: "as the system", light: "light", dark: "dark" };
  const chosen = () => localStorage.getItem("fairgate-theme") || "auto";

  function apply() {
    const theme = chosen();
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = { auto: "◐", light: "○", dark: "●" }[theme];
      button.setAttribute("aria-label", `Colour scheme: ${said[theme]}`);
      button.title = `Colour scheme: ${said[theme]}`;
    }
    document.dispatchEvent(new Event("theme"));
  }

  apply();
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme")?.addEventListener("click", () => {
      const order = ["auto", "light", "dark"];
      localStorage.setItem("fairgate-theme", order[(order.indexOf(chosen()) + 1) % 3]);
      apply();
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
})();
