// Sorts the cards of a gallery by what is chosen; the values stand in their data attributes.
"use strict";
const grid = document.querySelector(".gallery");
const choice = document.querySelector("#sort");
const down = new Set(["margin", "r1"]); // the best first

function arrange() {
  const key = choice.value;
  const cards = [...grid.children];
  const value = (card) => card.dataset[key];
  cards.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is unknown comes last
    const order = key === "prompt" ? x.localeCompare(y) : Number(x) - Number(y);
    return down.has(key) ? -order : order;
  });
  grid.append(...cards);
}

choice.addEventListener("change", arrange);
