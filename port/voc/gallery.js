"use strict";
// What is shown is told by the address alone, so that it can be kept and sent:
// #sort=iou&by=CAM+attention&class=dog&plain=1. Controls write it; `show` reads it.

const main = document.querySelector("main");
const controls = document.querySelector(".bar");
const chips = [...document.querySelectorAll(".legend button")];
const cards = [...main.children].map((element) => ({
  element,
  name: element.dataset.name,
  classes: element.dataset.classes.split(" "),
  iou: JSON.parse(element.dataset.iou),
}));
const known = { sort: "order", by: controls.elements.by.value, class: "", plain: "" };

function wanted() {
  const told = new URLSearchParams(location.hash.slice(1));
  const state = Object.fromEntries(Object.entries(known).map(([key, value]) => [key, told.get(key) ?? value]));
  for (const key of ["sort", "by"]) {
    const values = [...controls.elements[key].options].map((option) => option.value);
    if (!values.includes(state[key])) state[key] = known[key];
  }
  return state;
}

function want(change) {
  const state = { ...wanted(), ...change };
  const told = Object.entries(state).filter(([key, value]) => value !== known[key]);
  location.hash = new URLSearchParams(told).toString() || "all"; // an empty one would scroll to the top
}

function show() {
  const state = wanted();
  const score = (card) => card.iou[state.by]?.[state.class] ?? null;
  const orders = {
    order: () => 0,
    name: (a, b) => (a.name > b.name) - (a.name < b.name),
    iou: (a, b) => score(a) - score(b),
    "iou-desc": (a, b) => score(b) - score(a),
  };
  const unknownLast = (a, b) => (score(a) === null) - (score(b) === null);
  const byScore = state.sort.startsWith("iou");
  const sorted = [...cards].sort((a, b) => (byScore && unknownLast(a, b)) || orders[state.sort](a, b));
  for (const card of cards) card.element.hidden = Boolean(state.class) && !card.classes.includes(state.class);
  if (sorted.some((card, place) => card.element !== main.children[place])) {
    main.append(...sorted.map((card) => card.element)); // moved elements lose the focus: not without need
  }

  controls.elements.sort.value = state.sort;
  controls.elements.by.value = state.by;
  controls.elements.over.checked = !state.plain;
  document.body.classList.toggle("over", !state.plain);
  for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.value === state.class));
  const shown = cards.filter((card) => !card.element.hidden).length;
  document.getElementById("shown").textContent = `${shown} of ${cards.length} images`;
}

// A photograph is in the page once. Under its maps and labels it is laid when its card comes near.
const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      const photo = target.querySelector(".photo img");
      for (const top of photo ? target.querySelectorAll(".top") : []) {
        const under = photo.cloneNode();
        under.className = "under";
        under.alt = "";
        top.before(under);
      }
    }
  },
  { rootMargin: "800px" },
);

function step(by) {
  const visible = cards.map((card) => card.element).filter((element) => !element.hidden);
  visible.sort((a, b) => (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
  const next = visible[visible.indexOf(document.activeElement) + by] ?? visible[by > 0 ? 0 : visible.length - 1];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function resize(by) {
  const size = controls.elements.size;
  size.value = Number(size.value) + by;
  size.dispatchEvent(new Event("input"));
}

function nextSort() {
  const select = controls.elements.sort;
  want({ sort: select.options[(select.selectedIndex + 1) % select.options.length].value });
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  s: nextSort,
  o: () => want({ plain: wanted().plain ? "" : "1" }),
  a: () => want({ class: "" }),
  "+": () => resize(20),
  "-": () => resize(-20),
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});

controls.elements.sort.addEventListener("change", (event) => want({ sort: event.target.value }));
controls.elements.by.addEventListener("change", (event) => want({ by: event.target.value }));
controls.elements.over.addEventListener("change", (event) => want({ plain: event.target.checked ? "" : "1" }));
controls.elements.size.addEventListener("input", (event) =>
  document.documentElement.style.setProperty("--tile", `${event.target.value}px`),
);
controls.addEventListener("submit", (event) => event.preventDefault());
for (const chip of chips) {
  chip.disabled = false;
  chip.addEventListener("click", () => want({ class: chip.value === wanted().class ? "" : chip.value }));
}
for (const card of cards) near.observe(card.element);
controls.hidden = false;
addEventListener("hashchange", show);
show();
