// Sorts the cards of a gallery by the chosen key; the values are in their data attributes. Keeps the
// picked cards in the browser, and downloads their models.
"use strict";
const grid = document.querySelector(".gallery");
const choice = document.querySelector("#sort");
const down = new Set(["margin", "r1"]); // in descending order

function arrange() {
  const key = choice.value;
  const cards = [...grid.children];
  const value = (card) => card.dataset[key];
  cards.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values last
    const order = key === "prompt" ? x.localeCompare(y) : Number(x) - Number(y);
    return down.has(key) ? -order : order;
  });
  grid.append(...cards);
}

choice.addEventListener("change", arrange);

const picks = [...document.querySelectorAll(".pick")];
const bar = document.querySelector("#picks");
const store = `picks of ${location.pathname}`;

function count() {
  const picked = picks.filter((pick) => pick.checked);
  bar.hidden = picked.length === 0;
  bar.querySelector("b").textContent = picked.length;
  try { localStorage.setItem(store, JSON.stringify(picked.map((pick) => pick.value))); } catch {}
  return picked;
}

try {
  const before = new Set(JSON.parse(localStorage.getItem(store)));
  for (const pick of picks) pick.checked = before.has(pick.value);
} catch {}
for (const pick of picks) pick.addEventListener("change", count);
bar.querySelector("button").addEventListener("click", () => {
  for (const pick of count()) pick.closest("article").querySelector("a[download]").click();
});
count();
