// Sorts the cards of a gallery by the chosen key; the values are in their data attributes.
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
