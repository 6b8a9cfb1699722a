// Lists the audit log, a page at a time, from the admin API.
"use strict";
(() => {
  const root = document.body.dataset.root;
  const body = document.querySelector("#audit tbody");
  const more = document.getElementById("more");
  const said = document.getElementById("said");
  let before = "";

  function cell(tag, text, kind = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = kind;
    if (tag === "th") made.scope = "row";
    return made;
  }

  // Only what the change changed.
  function difference(one, other) {
    if (one === null || typeof one !== "object") return one === undefined || one === null ? "–" : String(one);
    const changed = Object.entries(one).filter(([k, v]) => JSON.stringify(v) !== JSON.stringify(other?.[k]));
    return changed.map(([k, v]) => `${k}: ${JSON.stringify(v)}`).join("\n") || "–";
  }

  function row(entry) {
    const made = document.createElement("tr");
    const at = new Date(entry.at);
    made.append(
      cell("th", Number.isNaN(at.valueOf()) ? entry.at : at.toLocaleString(), "when"),
      cell("td", entry.by?.name || entry.by?.key || "–"),
      cell("td", entry.action),
      cell("td", entry.object),
      cell("td", difference(entry.before, entry.after), "change"),
      cell("td", difference(entry.after, entry.before), "change"),
    );
    return made;
  }

  async function load() {
    const answer = await fetch(`${root}/v1/audit?limit=50${before ? `&before=${before}` : ""}`);
    if (answer.status === 401) return location.assign(`${root}/login`);
    if (!answer.ok) {
      said.textContent = `The gateway answered ${answer.status}.`;
      return;
    }
    const { entries, next } = await answer.json();
    body.append(...entries.map(row));
    before = next ?? "";
    more.hidden = !next;
    said.textContent = body.children.length ? "" : "Nothing was changed yet.";
  }

  more.addEventListener("click", load);
  load();
})();
