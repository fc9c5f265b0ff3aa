"use strict";
// Sorting: numbers by their value, words by the alphabet, what is empty always last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const first = [...body.rows];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? "ascending" : now === "ascending" ? "descending" : "none";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const number = head.classList.contains("number");
      const key = (row) => row.cells[column].dataset.key;
      const rows = [...first];
      if (next !== "none") rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        return sign * (number ? value(x) - value(y) || 0 : x.localeCompare(y, "en", { numeric: true }));
      });
      body.append(...rows);
    });
  });
}
function value(text) {
  return text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
}

// Light or dark: the system's wish at first, then the reader's.
const theme = document.getElementById("theme");
const wish = window.matchMedia("(prefers-color-scheme: dark)");
function shown() {
  return document.documentElement.dataset.theme || (wish.matches ? "dark" : "light");
}
function name() {
  theme.textContent = shown() === "dark" ? "Light" : "Dark";
}
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = shown() === "dark" ? "light" : "dark";
  name();
});
wish.addEventListener("change", name);
name();

// Copying: where the browser gives no clipboard to a file, the text is selected to be copied by hand.
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.of);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren(text);
      button.textContent = "Selected: press Ctrl+C";
    }
    window.setTimeout(() => { button.textContent = "Copy"; }, 2500);
  });
}
